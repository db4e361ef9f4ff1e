//! The texts that stand for enum values in `state.db`. They are stored: an entry may be added, never renamed.

use crate::model::{EventKind, FailureKind, FileType, Role, TaskKind, TaskMode, TaskStatus, TokenPurpose, UpgradeState};

/// A value that is stored as one of a few texts.
pub(super) trait Named: Copy + 'static {
    /// What the values are, for the message about a text that is none of them.
    const WHAT: &'static str;

    fn to_name(self) -> &'static str;
    fn of_name(name: &str) -> Option<Self>;
}

macro_rules! named {
    ($type:ident, $what:literal, { $($value:ident = $name:literal),* $(,)? }) => {
        impl Named for $type {
            const WHAT: &'static str = $what;

            fn to_name(self) -> &'static str {
                match self { $(Self::$value => $name),* }
            }

            fn of_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$value),)*
                    _ => None,
                }
            }
        }
    };
}

named!(UpgradeState, "state of an upgrade", {
    Waiting = "waiting",
    AwaitingConfirmation = "awaiting_confirmation",
    Offered = "offered",
    Downloading = "downloading",
    Downloaded = "downloaded",
    Installing = "installing",
    Paused = "paused",
    Succeeded = "succeeded",
    Failed = "failed",
    Rejected = "rejected",
    TimedOut = "timed_out",
    Canceled = "canceled",
});
named!(EventKind, "kind of event", {
    TaskCreated = "task_created",
    TaskStarted = "task_started",
    TaskStopped = "task_stopped",
    TaskFinished = "task_finished",
    Offered = "offered",
    Progress = "progress",
    Result = "result",
    Threshold = "threshold",
});
named!(FailureKind, "kind of failure", { Failed = "failed", Rejected = "rejected", TimedOut = "timed_out" });
named!(TaskKind, "kind of task", { Upgrade = "upgrade", Verify = "verify" });
named!(TaskMode, "mode of a task", { Automatic = "automatic", Manual = "manual" });
named!(TaskStatus, "status of a task", { Stopped = "stopped", Started = "started", Paused = "paused" });
named!(FileType, "type of file", { SoftwarePackage = "software_package", FirmwarePackage = "firmware_package" });
named!(Role, "role", { Admin = "admin", Operator = "operator", User = "user", Device = "device" });
named!(TokenPurpose, "purpose of a token", { Access = "access", Refresh = "refresh", Authorize = "authorize", Signed = "signed" });
