//! What goes wrong, in this platform's numbers.
//!
//! | class | code | HTTP |
//! |---|---|---|
//! | a parameter is missing, malformed or out of its range | 24400 | 200 |
//! | who calls, or in whose name, isn't let in | 24403 | 200 |
//! | not here, or not the caller's | 24404 | 200 |
//! | what the platform has a number for | 24601 to 24621 | 200 |
//! | a bound of the operator's is reached, overload, a full or failed disk, a stop | 24500 | as it is elsewhere, with `Retry-After` |
//! | no such path; no such method | 24404; 24400 | 404; 405 |

use crate::auth::{AuthError, Forbidden};
use crate::dialect::common::limiter::Exceeded;
use crate::dialect::common::status::{Status, status};
use crate::http::{BodyError, Request};
use ::http::{Method, StatusCode};
use sluicegate::{Conflict, Entity, Error};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    ParameterInvalid = 24_400,
    Forbidden = 24_403,
    NotFound = 24_404,
    /// Ours. Too many calls within a minute.
    TooManyCalls = 24_429,
    /// Ours. Come back later.
    Internal = 24_500,
    FirmwareVersionExists = 24_601,
    FirmwareNameExists = 24_602,
    /// The same firmware is being created by another call at this moment.
    ConcurrentCreate = 24_603,
    FirmwareInUse = 24_604,
    FirmwareNotVerified = 24_610,
    TotalNotAllowed = 24_611,
    TooManyDeviceKeys = 24_612,
    JobStarted = 24_615,
    JobStopped = 24_616,
    /// Tasks are canceled and retried while their job runs.
    JobNotRunning = 24_617,
    JobRunning = 24_618,
    TaskNotCancelable = 24_620,
    TaskNotRetryable = 24_621,
}

/// Why a call was refused: the code for the program, the message for the person.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) http: StatusCode,
    pub(super) retry_after_s: Option<u32>,
    /// The caller showed something that it may have guessed.
    pub(super) is_wrong_credentials: bool,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), http: StatusCode::OK, retry_after_s: None, is_wrong_credentials: false }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::ParameterInvalid, message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Code::Forbidden, message)
    }

    /// Of whoever may only have guessed.
    pub(super) fn wrong_credentials(self) -> Self {
        Self { is_wrong_credentials: true, ..self }
    }

    /// A bug of ours.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self { http: StatusCode::INTERNAL_SERVER_ERROR, ..Self::new(Code::Internal, message) }
    }

    pub(super) fn firmware_not_found() -> Self {
        Self::new(Code::NotFound, "Firmware not found")
    }

    pub(super) fn job_not_found() -> Self {
        Self::new(Code::NotFound, "Job not found")
    }

    /// Verification jobs name at most `max` devices.
    pub(super) fn too_many_device_keys(max: u32) -> Self {
        Self::new(Code::TooManyDeviceKeys, format!("Exceeded max verification deviceKeys, max[{max}]"))
    }

    /// Not the caller's fault: the HTTP status tells it, too.
    pub(super) fn ours(status: Status, message: String) -> Self {
        Self { http: status.http, retry_after_s: status.retry_after_s, ..Self::new(Code::Internal, message) }
    }

    pub(super) fn total_not_allowed() -> Self {
        Self::new(Code::TotalNotAllowed, "upgradeScope type total is not allowed for verification task")
    }

    pub(super) fn no_route(request: &Request) -> Self {
        let path: String = request.uri().path().chars().take(120).collect();
        let message = format!("nothing answers {path} here; see docs/enos.md for what does");
        Self { http: StatusCode::NOT_FOUND, ..Self::new(Code::NotFound, message) }
    }

    pub(super) fn wrong_method(method: &Method) -> Self {
        let method: String = method.as_str().chars().take(40).collect();
        let message = format!("actions are called by GET or POST, got {method}");
        Self { http: StatusCode::METHOD_NOT_ALLOWED, ..Self::invalid(message) }
    }
}

impl From<Exceeded> for Failure {
    fn from(Exceeded { retry_after_s }: Exceeded) -> Self {
        let message = format!("too many calls within a minute; come back in {retry_after_s} s");
        Self { retry_after_s: Some(retry_after_s), ..Self::new(Code::TooManyCalls, message) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Invalid { field, message } => Self::invalid(in_words_of_the_wire(field, message)),
            Error::NotFound { entity: Entity::Firmware | Entity::Image, .. } => Self::firmware_not_found(),
            Error::NotFound { entity: Entity::Task, .. } => Self::job_not_found(),
            Error::NotFound { .. } => Self::new(Code::NotFound, error.to_string()),
            Error::Conflict { conflict, .. } => of_conflict(*conflict, &error),
            _ => Self::ours(status(&error), error.to_string()),
        }
    }
}

/// What the engine calls the fields that are sent under another name here.
const FIELDS: &[(&str, &str)] = &[
    ("from_versions", "upgradeScope.versionNumbers"),
    ("scope.devices", "upgradeScope.deviceKeys"),
    ("scope.attributes", "upgradeScope.attributes"),
    ("scope.tags", "upgradeScope.tags"),
    ("scope.asset_trees", "upgradeScope.assetTrees"),
    ("description", "desc"),
    ("device_ids", "deviceKeys"),
    ("firmware_id", "firmwareId"),
    ("product_id", "productKey"),
    ("target_version", "firmwareVersion"),
    ("timeout_s", "upgradeTimeout"),
    ("maximum_concurrency", "maximumConcurrency"),
];

/// A refusal of the engine's, about the field as the caller wrote it.
fn in_words_of_the_wire(field: &str, message: &str) -> String {
    let Some((own, wire)) = FIELDS.iter().find(|(own, _)| *own == field) else { return message.to_owned() };
    match message.strip_prefix(own) {
        Some(rest) => format!("{wire}{rest}"),
        None => format!("{wire}: {}", message.replace("from-version", "version")),
    }
}

/// The platform's words where it has some.
fn of_conflict(conflict: Conflict, error: &Error) -> Failure {
    match conflict {
        Conflict::FirmwareVersion => Failure::new(Code::FirmwareVersionExists, error.to_string()),
        Conflict::FirmwareName => Failure::new(Code::FirmwareNameExists, error.to_string()),
        Conflict::InUse => Failure::new(Code::FirmwareInUse, error.to_string()),
        Conflict::FirmwareUnverified => Failure::new(
            Code::FirmwareNotVerified,
            "Not allowed to create job as firmware is not verified while enable verification is switched on",
        ),
        Conflict::VerifyScope => Failure::total_not_allowed(),
        Conflict::VerifyDevices => Failure::new(Code::TooManyDeviceKeys, error.to_string()),
        Conflict::TaskStarted => Failure::new(Code::JobStarted, "The job has started"),
        Conflict::TaskStopped => Failure::new(Code::JobStopped, "The job has stopped"),
        Conflict::UpgradeBegun => Failure::new(Code::TaskNotCancelable, "Only init or published tasks can be canceled"),
        Conflict::UpgradeNotFailed => Failure::new(Code::TaskNotRetryable, "Only failed tasks can be retried"),
        Conflict::TaskName | Conflict::TaskStart | Conflict::State | Conflict::AppId => Failure::invalid(error.to_string()),
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        let failure = Self::forbidden(match error {
            AuthError::Missing => {
                "header apim-accesstoken is missing; get a token from the token service and send it in that header"
            }
            AuthError::Unknown | AuthError::Certificate => {
                "the token in apim-accesstoken is not known here; get another from the token service"
            }
            AuthError::Expired => "the token in apim-accesstoken has expired; get another from the token service",
        });
        if error.is_guess() { failure.wrong_credentials() } else { failure }
    }
}

impl From<Forbidden> for Failure {
    fn from(_: Forbidden) -> Self {
        Self::forbidden("orgId names an organization that this token does not open; name the token's own")
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        Self::invalid(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_conflict_and_each_missing_entity_has_its_code() {
        for (conflict, code) in [
            (Conflict::FirmwareVersion, 24_601),
            (Conflict::FirmwareName, 24_602),
            (Conflict::InUse, 24_604),
            (Conflict::FirmwareUnverified, 24_610),
            (Conflict::VerifyScope, 24_611),
            (Conflict::VerifyDevices, 24_612),
            (Conflict::TaskStarted, 24_615),
            (Conflict::TaskStopped, 24_616),
            (Conflict::UpgradeBegun, 24_620),
            (Conflict::UpgradeNotFailed, 24_621),
            (Conflict::State, 24_400),
        ] {
            let failure = Failure::from(Error::conflict(conflict, "told"));
            assert_eq!((failure.code as u32, failure.http), (code, StatusCode::OK), "{conflict:?}");
        }
        for entity in [Entity::Product, Entity::Device, Entity::Firmware, Entity::Task, Entity::Upgrade] {
            let failure = Failure::from(Error::not_found(entity, "x"));
            assert_eq!((failure.code, failure.http), (Code::NotFound, StatusCode::OK), "{entity}");
        }
    }

    #[test]
    fn a_field_is_named_as_the_caller_wrote_it() {
        for (field, message, told) in [
            ("from_versions", "101 from-versions; give 1 to 100", "upgradeScope.versionNumbers: 101 versions; give 1 to 100"),
            (
                "from_versions",
                "from_versions is empty; give 1 to 128 bytes",
                "upgradeScope.versionNumbers is empty; give 1 to 128 bytes",
            ),
            ("scope.devices", "scope.devices names 9 entries", "upgradeScope.deviceKeys names 9 entries"),
            ("scope.asset_trees", "scope.asset_trees has 300 bytes", "upgradeScope.assetTrees has 300 bytes"),
            ("description", "description has 9 characters", "desc has 9 characters"),
            ("version", "version has 300 bytes", "version has 300 bytes"),
        ] {
            assert_eq!(Failure::from(Error::invalid(field, message)).message, told);
        }
    }

    #[test]
    fn what_is_ours_to_mend_is_told_by_the_http_status_too() {
        for (error, http, returns) in [
            (Error::Overloaded, 503, true),
            (Error::Closed, 503, true),
            (Error::LimitReached { what: "tasks", limit: 3 }, 507, false),
        ] {
            let failure = Failure::from(error);
            assert_eq!((failure.code, failure.http.as_u16()), (Code::Internal, http));
            assert_eq!(failure.retry_after_s.is_some(), returns);
        }
    }
}
