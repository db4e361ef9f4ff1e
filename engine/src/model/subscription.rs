use super::{AppId, SubscriptionId, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Somewhere that an organization's events are sent to (row). At least once, in order; the position outlives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    pub id: SubscriptionId,
    pub organization: Arc<str>,
    pub url: Arc<str>,
    /// Which of them, where the format lets its receiver choose.
    pub filters: Vec<Box<str>>,
    /// Which events are sent, and how they are written: a name that the front end knows.
    pub format: Arc<str>,
    /// The application that subscribed, where one did.
    pub app: Option<AppId>,
    /// What messages are signed with, encrypted by the front end with a key that lies outside the tables.
    pub secret_encrypted: Option<Vec<u8>>,
    /// The sequence number up to which everything was delivered or given up.
    pub position: u64,
    pub created_at: Timestamp,
}
