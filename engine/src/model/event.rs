use super::{TaskId, Timestamp, UpgradeId, UpgradeState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    TaskCreated,
    TaskStarted,
    TaskStopped,
    TaskFinished,
    Offered,
    Progress,
    Result,
    Threshold,
}

impl EventKind {
    pub const ALL: [Self; 8] = [
        Self::TaskCreated,
        Self::TaskStarted,
        Self::TaskStopped,
        Self::TaskFinished,
        Self::Offered,
        Self::Progress,
        Self::Result,
        Self::Threshold,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::TaskCreated => "task_created",
            Self::TaskStarted => "task_started",
            Self::TaskStopped => "task_stopped",
            Self::TaskFinished => "task_finished",
            Self::Offered => "offered",
            Self::Progress => "progress",
            Self::Result => "result",
            Self::Threshold => "threshold",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Something a customer may care about (row). Sequence numbers grow by one, from 1, over all organizations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub sequence: u64,
    pub kind: EventKind,
    pub at: Timestamp,
    pub organization: Arc<str>,
    pub product_id: Arc<str>,
    pub device_id: Option<Arc<str>>,
    pub task_id: Option<TaskId>,
    pub upgrade_id: Option<UpgradeId>,
    pub state: Option<UpgradeState>,
    pub percent: Option<u8>,
    /// Whatever else the report carried, as it came.
    pub extra: BTreeMap<Box<str>, Box<str>>,
}
