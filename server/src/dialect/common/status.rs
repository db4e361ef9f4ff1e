//! From the class of an engine's error, and of an image that was not taken in, to HTTP: the one table.
//!
//! | class | status | code | what to do |
//! |---|---|---|---|
//! | a value out of its range | 400 | `invalid_argument` | mend the request |
//! | an image other than declared, or too large | 400, 413 | what is wrong with it | send it again, or a smaller one |
//! | not here, or not the caller's | 404 | `…_not_found` | name another |
//! | collides with what is there | 409 | `conflict` and what with | change one of the two |
//! | a bound of the operator's is reached | 507 | `limit_reached` | raise it or delete some |
//! | more arrives than can be made durable, or answered in time | 503 | `overloaded` | come back after `Retry-After` |
//! | no room on the disk | 507 | `disk_full` | make room; it resumes by itself |
//! | the disk failed | 503 | `store_failed` | look at the server |
//! | stopping | 503 | `stopping` | come back |

use ::http::StatusCode;
use sluicegate::image::IngestError;
use sluicegate::{Conflict, Entity, Error};

/// The status, the code and, where coming back helps, after how many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub http: StatusCode,
    pub code: &'static str,
    pub retry_after_s: Option<u32>,
}

impl Status {
    const fn plain(http: StatusCode, code: &'static str) -> Self {
        Self { http, code, retry_after_s: None }
    }

    const fn later(http: StatusCode, code: &'static str, seconds: u32) -> Self {
        Self { http, code, retry_after_s: Some(seconds) }
    }

    const DISK_FULL: Self = Self::later(StatusCode::INSUFFICIENT_STORAGE, "disk_full", 30);
    const STORE_FAILED: Self = Self::later(StatusCode::SERVICE_UNAVAILABLE, "store_failed", 60);
    pub const STOPPING: Self = Self::later(StatusCode::SERVICE_UNAVAILABLE, "stopping", 5);

    /// More is asked than this machine does in time.
    pub const fn shed(retry_after_s: u32) -> Self {
        Self::later(StatusCode::SERVICE_UNAVAILABLE, "overloaded", retry_after_s)
    }
}

pub fn status(error: &Error) -> Status {
    let plain = Status::plain;
    match error {
        Error::Invalid { .. } => plain(StatusCode::BAD_REQUEST, "invalid_argument"),
        Error::NotFound { entity, .. } => plain(StatusCode::NOT_FOUND, not_found_code(*entity)),
        Error::Conflict { conflict, .. } => plain(StatusCode::CONFLICT, conflict_code(*conflict)),
        Error::LimitReached { .. } => plain(StatusCode::INSUFFICIENT_STORAGE, "limit_reached"),
        Error::Overloaded => Status::later(StatusCode::SERVICE_UNAVAILABLE, "overloaded", 1),
        Error::Store(_) if error.is_disk_full() => Status::DISK_FULL,
        Error::Store(_) => Status::STORE_FAILED,
        Error::Closed => Status::STOPPING,
        // A class that was added to the engine and not here: a bug of ours.
        _ => plain(StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

/// Why an image was not taken in. Where that is the disk's fault or ours, it is logged here.
pub fn ingest_status(error: &IngestError) -> Status {
    match error {
        IngestError::TooLarge { .. } => Status::plain(StatusCode::PAYLOAD_TOO_LARGE, "image_too_large"),
        IngestError::Size { .. } => Status::plain(StatusCode::BAD_REQUEST, "size_mismatch"),
        IngestError::Digest { .. } => Status::plain(StatusCode::BAD_REQUEST, "digest_mismatch"),
        IngestError::Full { .. } => Status::DISK_FULL,
        error => {
            tracing::error!(error = error as &dyn std::error::Error, "an image could not be taken in");
            Status::STORE_FAILED
        }
    }
}

fn not_found_code(entity: Entity) -> &'static str {
    match entity {
        Entity::Product => "product_not_found",
        Entity::Device => "device_not_found",
        Entity::Firmware => "firmware_not_found",
        Entity::Image => "image_not_found",
        Entity::Task => "task_not_found",
        Entity::Upgrade => "upgrade_not_found",
        Entity::Token => "token_not_found",
        Entity::App => "app_not_found",
        Entity::Subscription => "subscription_not_found",
    }
}

fn conflict_code(conflict: Conflict) -> &'static str {
    match conflict {
        Conflict::TaskName => "task_name_taken",
        Conflict::TaskStart => "task_start_taken",
        Conflict::FirmwareVersion => "firmware_version_taken",
        Conflict::FirmwareName => "firmware_name_taken",
        Conflict::InUse => "in_use",
        Conflict::State | Conflict::TaskStarted | Conflict::TaskStopped => "wrong_state",
        Conflict::UpgradeBegun | Conflict::UpgradeNotFailed => "wrong_state",
        Conflict::FirmwareUnverified => "firmware_unverified",
        Conflict::VerifyScope => "verify_scope",
        Conflict::VerifyDevices => "verify_devices",
        Conflict::AppId => "app_id_taken",
    }
}
