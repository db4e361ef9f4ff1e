//! What can go wrong, classed by whose fault it is. A front end maps the class to its protocol's code; the message says what was
//! expected and got.

use crate::store::{StoreError, StoreErrorKind};
use std::fmt;

/// What kind of entity an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entity {
    Product,
    Device,
    Firmware,
    Image,
    Task,
    Upgrade,
    Token,
    App,
    Subscription,
}

impl fmt::Display for Entity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Product => "product",
            Self::Device => "device",
            Self::Firmware => "firmware",
            Self::Image => "image",
            Self::Task => "task",
            Self::Upgrade => "upgrade",
            Self::Token => "token",
            Self::App => "application",
            Self::Subscription => "subscription",
        })
    }
}

/// What a new entity collides with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conflict {
    /// A task of this product has the name.
    TaskName,
    /// A task of this product has the component and one of the from-versions.
    TaskStart,
    /// A firmware of this product has the component and version.
    FirmwareVersion,
    /// Firmware of this product has the name.
    FirmwareName,
    /// A task that is not stopped uses it.
    InUse,
    /// The entity is in a state that doesn't allow the call.
    State,
    /// The task is started, and the call is for one that isn't.
    TaskStarted,
    /// The task is stopped, and the call is for one that isn't.
    TaskStopped,
    /// The upgrade has begun or is over.
    UpgradeBegun,
    /// The upgrade has not failed.
    UpgradeNotFailed,
    /// The firmware has to be verified first.
    FirmwareUnverified,
    /// A verify task names its devices; this one doesn't.
    VerifyScope,
    /// A verify task names more devices than the firmware allows.
    VerifyDevices,
    AppId,
}

/// Why a call was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's fault: a value is out of its range. `field` is the engine's name of it.
    #[error("{message}")]
    Invalid { field: &'static str, message: String },
    /// The caller names something that isn't there, or isn't the caller's.
    #[error("no {entity} {name:?} here")]
    NotFound { entity: Entity, name: String },
    /// The caller's fault: it collides with what is there.
    #[error("{message}")]
    Conflict { conflict: Conflict, message: String },
    /// The operator's bound is reached. The caller can't mend it.
    #[error("{what} are limited to {limit}; raise the limit or delete some")]
    LimitReached { what: &'static str, limit: u64 },
    /// More arrives than the writer can make durable. Come back later.
    #[error("too many commands are waiting; try again in a second")]
    Overloaded,
    /// The disk is full or failed. Nothing of the call was kept.
    #[error("nothing was stored: {0}")]
    Store(#[from] StoreError),
    /// The engine was closed while the call waited. Whether it was kept is not known.
    #[error("the engine is closed")]
    Closed,
}

impl Error {
    pub fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }

    pub fn not_found(entity: Entity, name: impl fmt::Display) -> Self {
        Self::NotFound { entity, name: name.to_string().chars().take(256).collect() }
    }

    pub fn conflict(conflict: Conflict, message: impl Into<String>) -> Self {
        Self::Conflict { conflict, message: message.into() }
    }

    /// The disk has no room: the same call may go through once there is.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind == StoreErrorKind::Full)
    }
}
