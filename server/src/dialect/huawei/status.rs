//! What goes wrong, in this platform's codes: `{"error_code":"123025","error_desc":"…"}`, the code a text.
//!
//! The description of a code is the platform's, word for word, because applications show it; what exactly was expected and what came
//! stands beside it in `error_detail`, which is ours.

use crate::dialect::common::limiter::Exceeded;
use crate::dialect::common::status::{Status, ingest_status, status};
use crate::dialect::common::upload::UploadError;
use crate::guesses::WrongCredentials;
use crate::http::path::PathError;
use crate::http::{BodyError, Reply, Request, json, retry_after};
use ::http::StatusCode;
use serde::Serialize;
use sluicegate::{Entity, Error};

/// The codes in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    /// Ours: overload, a full disk, a bug.
    Internal = 100_001,
    /// Of logging in alone.
    SecretWrong = 100_208,
    BadRequest = 120_015,
    NotFound = 123_002,
    OperationNotFound = 123_009,
    PackageMismatch = 123_016,
    ManufacturerMissing = 123_019,
    DeviceTypeMissing = 123_020,
    ModelMissing = 123_021,
    TargetsMissing = 123_022,
    TargetsBoth = 123_023,
    TargetsTooMany = 123_024,
    ExecuteTypeWrong = 123_025,
    TimesWrong = 123_026,
    RetryTimesWrong = 123_028,
    StartAfterEnd = 123_032,
    StartInPast = 123_033,
    WindowTooShort = 123_034,
    TokenInvalid = 1_010_005,
    Throttled = 1_010_009,
}

impl Code {
    pub(super) const fn http(self) -> StatusCode {
        match self {
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::SecretWrong => StatusCode::UNAUTHORIZED,
            Self::NotFound | Self::OperationNotFound => StatusCode::NOT_FOUND,
            Self::TokenInvalid | Self::Throttled => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::Internal => "Internal server error.",
            Self::SecretWrong => "AppId or secret is not right.",
            Self::BadRequest => "Bad request error.",
            Self::NotFound => "Device or package file not found.",
            Self::OperationNotFound => "The queried task is not found.",
            Self::PackageMismatch => "The parameter is error, targetversion not match with device.",
            Self::ManufacturerMissing => "manufacturerName is null.",
            Self::DeviceTypeMissing => "deviceType is null",
            Self::ModelMissing => "model is null.",
            Self::TargetsMissing => "deviceGroups and devices cannot be null together",
            Self::TargetsBoth => "deviceGroups and devices cannot be exist together",
            Self::TargetsTooMany => "The number of deviceGroups or devices reached upper limit",
            Self::ExecuteTypeWrong => "executeType is error or can not to be null.",
            Self::TimesWrong => "startTime or endTime is null or error.",
            Self::RetryTimesWrong => "retryTimes is null or beyond the limit.",
            Self::StartAfterEnd => "startTime can not be later than the endTime.",
            Self::StartInPast => "startTime can not be earlier than the now.",
            Self::WindowTooShort => "endtime must be greater than 5 minutes.",
            Self::TokenInvalid => "App_key or access_token is invalid.",
            Self::Throttled => "app throttle exceed.",
        }
    }
}

/// Why a call was refused: the code for the program, the detail for the person, and when to come back, where that is known.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    /// The code's own, except where only the status tells whether coming back helps.
    pub(super) http: StatusCode,
    pub(super) detail: String,
    pub(super) retry_after_s: Option<u32>,
    /// The caller showed something that it may have guessed.
    pub(super) is_wrong_credentials: bool,
}

impl Failure {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, http: code.http(), detail: detail.into(), retry_after_s: None, is_wrong_credentials: false }
    }

    /// Of whoever may only have guessed.
    pub(super) fn wrong_credentials(self) -> Self {
        Self { is_wrong_credentials: true, ..self }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Code::NotFound, detail)
    }

    pub(super) fn operation_not_found(id: &str) -> Self {
        let id: String = id.chars().take(40).collect();
        Self::new(Code::OperationNotFound, format!("there is no operation {id:?} here; list the operations"))
    }

    /// Not the caller's fault.
    pub(super) fn ours(status: Status, detail: String) -> Self {
        Self { http: status.http, retry_after_s: status.retry_after_s, ..Self::new(Code::Internal, detail) }
    }

    /// Nothing answers at this path: no platform's code says so, the status does.
    pub(super) fn no_route(request: &Request) -> Self {
        let path: String = request.uri().path().chars().take(120).collect();
        let detail = format!("nothing answers {} {path} here; see docs/huawei.md for what does", request.method());
        Self { http: StatusCode::NOT_FOUND, ..Self::bad_request(detail) }
    }

    pub(super) fn into_reply(self) -> Reply {
        #[derive(Serialize)]
        struct Shown<'a> {
            error_code: String,
            error_desc: &'static str,
            error_detail: &'a str,
        }
        let body =
            Shown { error_code: (self.code as u32).to_string(), error_desc: self.code.description(), error_detail: &self.detail };
        let mut reply = json(self.http, &body);
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
            Error::NotFound { entity: Entity::Task | Entity::Upgrade, .. } => Code::OperationNotFound,
            Error::NotFound { .. } => Code::NotFound,
            Error::Invalid { .. } | Error::Conflict { .. } => Code::BadRequest,
            _ => return Self::ours(status(&error), error.to_string()),
        };
        Self::new(code, error.to_string())
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<PathError> for Failure {
    fn from(error: PathError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<Exceeded> for Failure {
    fn from(exceeded: Exceeded) -> Self {
        let detail = format!(
            "this application has used up its calls of the minute; come back in {} s, or raise [huawei] calls_per_minute",
            exceeded.retry_after_s
        );
        Self { retry_after_s: Some(exceeded.retry_after_s), ..Self::new(Code::Throttled, detail) }
    }
}

impl From<UploadError> for Failure {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Engine(error) => error.into(),
            UploadError::Body(error) => error.into(),
            UploadError::Header(message) => Self::bad_request(message),
            UploadError::Ingest(error) if error.is_uploaders_fault() => Self::bad_request(error.to_string()),
            UploadError::Ingest(error) => Self::ours(ingest_status(&error), error.to_string()),
            UploadError::Stopping => Self::ours(Status::STOPPING, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_to_mend_says_when_to_come_back() {
        for error in [Error::Overloaded, Error::Closed] {
            let failure = Failure::from(error);
            assert_eq!((failure.code, failure.http), (Code::Internal, StatusCode::SERVICE_UNAVAILABLE));
            assert!(failure.retry_after_s.is_some());
        }
    }

    #[test]
    fn a_missing_operation_is_told_from_a_missing_package() {
        let missing = |entity| Failure::from(Error::not_found(entity, "x"));
        assert_eq!(missing(Entity::Task).code, Code::OperationNotFound);
        assert_eq!(missing(Entity::Firmware).code, Code::NotFound);
        assert_eq!(missing(Entity::Device).http, StatusCode::NOT_FOUND);
    }
}
