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
mod policy;
mod subscription;
mod task;
mod time;
mod token;
mod upgrade;

pub use device::{Component, Device, DeviceDetails, Installed};
pub use event::{Event, EventKind};
pub use firmware::{Artifact, FileType, Firmware, Image, Verification};
pub use ids::{
    AppId, DeviceNumber, FirmwareId, FirmwareNumber, IdError, ImageId, ProductNumber, SubscriptionId, TaskId, TaskNumber, TokenId,
    UpgradeId,
};
pub use policy::{
    BackOff, Counting, Daily, FailureKind, Growth, MeasuredWave, Pace, Policy, Rate, Retry, Schedule, SecondCount, Threshold,
    ThresholdAction, TimeoutFrom, Wave, WaveSize,
};
pub use subscription::Subscription;
pub use task::{AssetTree, Product, Scope, Selector, Task, TaskKind, TaskMode, TaskStatus};
pub use time::Timestamp;
pub use token::{App, Role, Token, TokenPurpose};
pub use upgrade::{Failure, ReportedState, StateCounts, Upgrade, UpgradeState};
