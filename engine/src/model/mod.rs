//! Plain data: what the engine knows, without anything that decides, stores or serves.
//!
//! The types named *row* are what the store keeps, one row per entity, written whole each time they change. Their fields are the
//! stored format (see `docs/formats.md`): a field is added at the end and never reordered without a new format version.
//!
//! Numbers ([`ProductNumber`], [`DeviceNumber`], …) are dense, belong to one store and never leave the process on their own; the
//! texts and ids that customers see are [`TaskId`], [`FirmwareId`], [`UpgradeId`], [`ImageId`] and the customers' own names.

mod device;
mod event;
mod firmware;
mod ids;
mod task;
mod time;
mod token;
mod upgrade;

pub use device::{Component, Device, DeviceDetails, Installed};
pub use event::{Event, EventKind};
pub use firmware::{Artifact, FileType, Firmware, Image};
pub use ids::{
    AppId, DeviceNumber, FirmwareId, FirmwareNumber, IdError, ImageId, ProductNumber, TaskId, TaskNumber, TokenId, UpgradeId,
};
pub use task::{AssetTree, Daily, Policy, Product, Retry, Schedule, Scope, Selector, Task, TaskKind, TaskMode, TaskStatus};
pub use time::Timestamp;
pub use token::{App, Role, Token, TokenPurpose};
pub use upgrade::{ReportedState, StateCounts, Upgrade, UpgradeState};
