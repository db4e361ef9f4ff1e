//! What must last: groups of changes, made durable whole or not at all, and tables to read them back from.
//!
//! The engine commits through [`Store`] and reads what it doesn't keep in memory (finished upgrades, old events) through
//! [`Archive`]. Both are traits so that a test can break them. [`sqlite`] is the store of the product.

pub mod sqlite;
#[doc(hidden)]
pub mod testing;

pub use sqlite::{SqliteArchive, SqliteStore, VerifyReport, verify};

use crate::model::{
    App, AppId, Device, DeviceNumber, Event, Firmware, FirmwareNumber, Image, ImageId, Pace, Product, ProductNumber, Subscription,
    SubscriptionId, Task, TaskNumber, Timestamp, Token, TokenId, Upgrade, UpgradeState,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How many of the newest events a store hands over when it is opened.
pub const LOADED_EVENTS_MAX: usize = 16_384;

/// One entity as it is after a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Row {
    Product(Arc<Product>),
    Device(Arc<Device>),
    Image(Arc<Image>),
    Firmware(Arc<Firmware>),
    Task(Arc<Task>),
    Upgrade(Arc<Upgrade>),
    Token(Arc<Token>),
    App(Arc<App>),
    Event(Arc<Event>),
    Pace(Arc<Pace>),
    Subscription(Arc<Subscription>),
}

/// What a deletion names: one entity, or a range of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Key {
    Product(ProductNumber),
    Device(DeviceNumber),
    Image {
        organization: Arc<str>,
        id: ImageId,
    },
    Firmware(FirmwareNumber),
    Task(TaskNumber),
    Upgrade {
        task: TaskNumber,
        device: DeviceNumber,
    },
    /// Every upgrade of a task, finished or not.
    UpgradesOfTask(TaskNumber),
    /// Every upgrade of a device, finished or not.
    UpgradesOfDevice(DeviceNumber),
    Token(TokenId),
    App(AppId),
    /// Every event with a smaller sequence number.
    EventsBefore(u64),
    /// How far a task has come.
    Pace(TaskNumber),
    Subscription(SubscriptionId),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Put(Row),
    Delete(Key),
}

/// The changes of the commands that are made durable together. Numbers grow by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub number: u64,
    /// The time of the newest command in it.
    pub at: Timestamp,
    pub changes: Vec<Change>,
}

/// Makes groups durable, in order.
pub trait Store: Send {
    /// Returns once the group would survive a power cut. On an error nothing of the group is kept, unless the error says that
    /// the store can't be trusted any more ([`StoreErrorKind::Failed`]).
    fn commit(&mut self, group: &Group) -> Result<(), StoreError>;
}

/// Reads back what was committed. Shared by many readers; calls block on the disk.
pub trait Archive: Send + Sync {
    /// Upgrades that `query` selects, ordered by device number, as of `group` or later (waits until the tables are that far).
    fn upgrades(&self, query: &UpgradeQuery, group: u64) -> Result<Vec<Upgrade>, StoreError>;

    /// Events from sequence number `from` on, oldest first, as of `group` or later.
    fn events(&self, from: u64, limit: usize, group: u64) -> Result<Vec<Event>, StoreError>;
}

/// Which upgrades to read.
#[derive(Clone, Debug, Default)]
pub struct UpgradeQuery {
    pub task: Option<TaskNumber>,
    pub device: Option<DeviceNumber>,
    /// Empty: any state.
    pub states: Vec<UpgradeState>,
    /// Only devices with a larger number: the cursor.
    pub after: Option<DeviceNumber>,
    pub limit: usize,
}

/// What a store hands over when it is opened.
///
/// Rows come by kind, in this order: products, images, firmware, devices, tasks, paces, upgrades, tokens, applications, subscriptions, and the newest
/// [`LOADED_EVENTS_MAX`] events, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    Row(Row),
    /// A finished upgrade is not kept in memory as a row, only that it is finished.
    FinishedUpgrade {
        task: TaskNumber,
        device: DeviceNumber,
        state: UpgradeState,
        succeeded_before: bool,
    },
}

/// Where a store stands after it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Names this store; part of the ids it gives out.
    pub store: u32,
    pub last_group: u64,
    /// The largest sequence number that an event ever had.
    pub last_event_sequence: u64,
    /// The smallest sequence number of an event that is kept; 0 where none is.
    pub first_event_sequence: u64,
    pub next: NextNumbers,
}

/// Numbers that no entity ever had, nor any larger one: a number isn't given to another after its entity was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextNumbers {
    pub product: u32,
    pub device: u32,
    pub firmware: u32,
    pub task: u32,
}

impl NextNumbers {
    /// Goes beyond the number of a row that is put.
    pub fn note(&mut self, row: &Row) {
        let (next, number) = match row {
            Row::Product(row) => (&mut self.product, row.number.0),
            Row::Device(row) => (&mut self.device, row.number.0),
            Row::Firmware(row) => (&mut self.firmware, row.number.0),
            Row::Task(row) => (&mut self.task, row.number.0),
            _ => return,
        };
        *next = (*next).max(number.saturating_add(1));
    }

    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            product: self.product.max(other.product),
            device: self.device.max(other.device),
            firmware: self.firmware.max(other.firmware),
            task: self.task.max(other.task),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// No room. Nothing was kept; it may go through later.
    Full,
    /// The disk failed; what is on it is not known. Nothing may be committed until the store is opened anew.
    Failed,
    /// What lies there is damaged.
    Corrupt,
    /// Written by a newer version.
    Version,
    /// Another process has the folder open.
    InUse,
    /// Something that passes is in the way. Nothing was kept and nothing is broken; it may go through later.
    Busy,
}

/// What went wrong below us.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    pub kind: StoreErrorKind,
    pub message: String,
    #[source]
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }
}
