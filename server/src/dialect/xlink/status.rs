//! What goes wrong, in this platform's numbers.
//!
//! Invariant: the HTTP status of a refusal is its code divided by 10,000, so that a client which reads only the status (most devices)
//! and one which reads only the code come to the same conclusion.

use crate::auth::AuthError;
use crate::dialect::common::check::CheckRefused;
use crate::dialect::common::limiter::Exceeded;
use crate::guesses::WrongCredentials;
use crate::http::path::PathError;
use crate::http::{BodyError, Reply, json, retry_after};
use ::http::StatusCode;
use serde::Serialize;
use sluicegate::{Conflict, Entity, Error};

/// The codes in use. Each says whose fault it is and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    /// The caller's fault: a field is malformed or out of its range.
    FieldInvalid = 4_001_001,
    /// The caller's fault: a required field is missing or empty.
    FieldMissing = 4_001_002,
    FirmwareExists = 4_001_017,
    TaskNameExists = 4_001_035,
    TaskStatusUnknown = 4_001_036,
    TaskStartExists = 4_001_037,
    FileTooLarge = 4_001_046,
    AlreadyNewest = 4_001_053,
    /// The device has to be activated anew.
    AuthorizeCodeWrong = 4_001_097,
    FirmwareTypeUnknown = 4_001_112,
    TaskTypeUnknown = 4_001_113,
    /// The path names another device than the token.
    NotThisDevice = 4_001_114,
    FirmwareInUse = 4_001_142,
    Forbidden = 4_031_001,
    TokenMissing = 4_031_002,
    TokenUnknown = 4_031_003,
    OperatorNeeded = 4_031_004,
    TokenExpired = 4_031_021,
    PathUnknown = 4_041_001,
    ProductUnknown = 4_041_005,
    FirmwareUnknown = 4_041_006,
    DeviceUnknown = 4_041_008,
    /// Also the answer to a check when there is nothing to do, or not now.
    TaskUnknown = 4_041_013,
    /// Ours: overload, a full disk, a bug. Come back later.
    Unavailable = 5_031_001,
}

impl Code {
    pub(super) fn status(self) -> StatusCode {
        StatusCode::from_u16((self as u32 / 10_000) as u16).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
    }
}

/// Why a call was refused: the code for the program, the message for the person, and when to come back, where that is known.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) retry_after_s: Option<u32>,
    /// The caller showed something that it may have guessed.
    pub(super) is_wrong_credentials: bool,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_s: None, is_wrong_credentials: false }
    }

    /// Of whoever may only have guessed.
    pub(super) fn wrong_credentials(self) -> Self {
        Self { is_wrong_credentials: true, ..self }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::FieldInvalid, message)
    }

    pub(super) fn into_reply(self) -> Reply {
        #[derive(Serialize)]
        struct Wrapped<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            code: u32,
            msg: &'a str,
        }
        let body = Wrapped { error: Inner { code: self.code as u32, msg: &self.message } };
        let mut reply = json(self.code.status(), &body);
        if self.is_wrong_credentials {
            reply.extensions_mut().insert(WrongCredentials);
        }
        match self.retry_after_s {
            Some(seconds) => retry_after(reply, seconds),
            None => reply,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Invalid { .. } => Code::FieldInvalid,
            Error::NotFound { entity, .. } => match entity {
                Entity::Product => Code::ProductUnknown,
                Entity::Device => Code::DeviceUnknown,
                Entity::Firmware | Entity::Image => Code::FirmwareUnknown,
                Entity::Task | Entity::Upgrade => Code::TaskUnknown,
                Entity::Token | Entity::App | Entity::Subscription => Code::TokenUnknown,
            },
            Error::Conflict { conflict, .. } => match conflict {
                Conflict::TaskName => Code::TaskNameExists,
                Conflict::TaskStart => Code::TaskStartExists,
                Conflict::FirmwareVersion | Conflict::FirmwareName => Code::FirmwareExists,
                Conflict::InUse => Code::FirmwareInUse,
                Conflict::State
                | Conflict::TaskStarted
                | Conflict::TaskStopped
                | Conflict::UpgradeBegun
                | Conflict::UpgradeNotFailed => Code::TaskStatusUnknown,
                Conflict::AppId | Conflict::FirmwareUnverified | Conflict::VerifyScope | Conflict::VerifyDevices => {
                    Code::FieldInvalid
                }
            },
            _ => Code::Unavailable,
        };
        let retry_after_s = match &error {
            Error::Overloaded => Some(1),
            // Somebody has to free space, or the server is starting anew: a few seconds keep a fleet from hammering it meanwhile.
            _ if code == Code::Unavailable => Some(10),
            _ => None,
        };
        Self { retry_after_s, ..Self::new(code, error.to_string()) }
    }
}

impl From<Exceeded> for Failure {
    fn from(Exceeded { retry_after_s }: Exceeded) -> Self {
        let message = format!("too many calls within a minute; come back in {retry_after_s} s");
        Self { retry_after_s: Some(retry_after_s), ..Self::new(Code::Unavailable, message) }
    }
}

impl From<CheckRefused> for Failure {
    /// To a device that asks too often, and to one that has to wait, the same is said: not now, and when.
    fn from(refused: CheckRefused) -> Self {
        match refused {
            CheckRefused::Engine(error) => error.into(),
            CheckRefused::TooOften(Exceeded { retry_after_s }) => {
                let message = format!("this device asks too often; check again in {retry_after_s} s");
                Self { retry_after_s: Some(retry_after_s), ..Self::new(Code::TaskUnknown, message) }
            }
        }
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing => Self::new(Code::TokenMissing, "header Access-Token is missing; log in and send the token in it"),
            AuthError::Unknown => {
                Self::new(Code::TokenUnknown, "the token in Access-Token is not known here; log in again").wrong_credentials()
            }
            AuthError::Expired => {
                Self::new(Code::TokenExpired, "the token in Access-Token has expired; log in again or refresh it")
            }
            AuthError::Certificate => Self::new(
                Code::TokenUnknown,
                "the connection's certificate has expired or was revoked; show another, or send a token in Access-Token",
            ),
        }
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<PathError> for Failure {
    fn from(error: PathError) -> Self {
        Self::invalid(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_tells_the_http_status() {
        for (code, status) in [
            (Code::FieldInvalid, 400),
            (Code::FirmwareInUse, 400),
            (Code::TokenExpired, 403),
            (Code::TaskUnknown, 404),
            (Code::Unavailable, 503),
        ] {
            assert_eq!(code.status().as_u16(), status, "{code:?}");
        }
    }

    #[test]
    fn what_is_ours_to_mend_is_503_and_says_when_to_come_back() {
        for error in [Error::Overloaded, Error::Closed, Error::LimitReached { what: "tasks", limit: 3 }] {
            let failure = Failure::from(error);
            assert_eq!(failure.code, Code::Unavailable);
            assert!(failure.retry_after_s.is_some());
        }
    }

    #[test]
    fn each_conflict_and_each_missing_entity_has_its_code() {
        let conflict = |conflict| Failure::from(Error::conflict(conflict, "")).code;
        assert_eq!(conflict(Conflict::TaskName), Code::TaskNameExists);
        assert_eq!(conflict(Conflict::TaskStart), Code::TaskStartExists);
        assert_eq!(conflict(Conflict::FirmwareVersion), Code::FirmwareExists);
        assert_eq!(conflict(Conflict::InUse), Code::FirmwareInUse);
        let missing = |entity| Failure::from(Error::not_found(entity, "x")).code;
        assert_eq!(missing(Entity::Product), Code::ProductUnknown);
        assert_eq!(missing(Entity::Firmware), Code::FirmwareUnknown);
        assert_eq!(missing(Entity::Device), Code::DeviceUnknown);
        assert_eq!(missing(Entity::Task), Code::TaskUnknown);
    }
}
