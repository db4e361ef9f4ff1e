use super::{Artifact, Component, FirmwareNumber, MeasuredWave, Policy, ProductNumber, TaskId, TaskNumber, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Devices of one make (row).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    pub number: ProductNumber,
    pub organization: Arc<str>,
    /// The customer's name for it, unique within its organization.
    pub id: Arc<str>,
    pub name: Option<Arc<str>>,
    pub created_at: Timestamp,
}

/// An instruction: devices in scope at one of the from-versions go to the target, under a policy (row).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub number: TaskNumber,
    pub id: TaskId,
    pub product: ProductNumber,
    pub component: Component,
    pub name: Option<Arc<str>>,
    pub description: Option<Arc<str>>,
    pub kind: TaskKind,
    pub mode: TaskMode,
    /// Never empty, no entry twice, none equal to the target.
    pub from_versions: Vec<Arc<str>>,
    pub target_version: Arc<str>,
    pub artifact: Artifact,
    /// The firmware it was made from, where it was made from one.
    pub firmware: Option<FirmwareNumber>,
    pub scope: Scope,
    /// The devices of a snapshot: a serialized set of device numbers, in hexadecimal.
    pub members: Option<Arc<str>>,
    pub policy: Policy,
    pub status: TaskStatus,
    pub created_at: Timestamp,
    /// When its status last changed, or it was approved: from then on its devices begin.
    pub changed_at: Timestamp,
    /// Kept for the dialect that wrote it; means nothing to the engine.
    pub annotations: BTreeMap<Box<str>, Box<str>>,
    /// The waves of the policy, measured out over the devices that were there at creation. One more than the policy names where
    /// those leave devices over.
    pub waves: Vec<MeasuredWave>,
    /// Somebody has approved it. Matters only where the policy asks for an approval.
    pub approved: bool,
    /// Ended before its time: what was unfinished is canceled, portion by portion.
    pub canceled: bool,
    /// When nothing was left to do for the first time. A retry opens it again.
    pub finished_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskKind {
    #[default]
    Upgrade,
    Verify,
}

/// Who begins: the server as soon as the device is there, or the device by asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskMode {
    #[default]
    Automatic,
    Manual,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaskStatus {
    /// Offers nothing. Upgrades that run go on to their result or deadline.
    #[default]
    Stopped,
    Started,
    /// Started, but begins nothing new until resumed.
    Paused,
}

impl TaskStatus {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Started => "started",
            Self::Paused => "paused",
        }
    }
}

/// Which devices, of those at a from-version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    pub selector: Selector,
    /// Fixed when the task was created; devices that match later don't join.
    pub snapshot: bool,
}

/// How a scope names its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selector {
    #[default]
    Total,
    Devices(Vec<Box<str>>),
    /// A device with, for each key, one of the values (JSON texts).
    Attributes(BTreeMap<Box<str>, Vec<Box<str>>>),
    /// A device with, for each key, one of the values.
    Tags(BTreeMap<Box<str>, Vec<Box<str>>>),
    Groups(Vec<Box<str>>),
    AssetTrees(Vec<AssetTree>),
}

impl Selector {
    /// How many bytes of text it names, with what each entry costs beside.
    pub(crate) fn text_bytes(&self) -> usize {
        const ENTRY: usize = 8;
        let texts = |texts: &[Box<str>]| texts.iter().map(|text| text.len() + ENTRY).sum::<usize>();
        let map = |map: &BTreeMap<Box<str>, Vec<Box<str>>>| map.iter().map(|(key, values)| key.len() + ENTRY + texts(values)).sum();
        match self {
            Self::Total => 0,
            Self::Devices(entries) | Self::Groups(entries) => texts(entries),
            Self::Attributes(entries) | Self::Tags(entries) => map(entries),
            Self::AssetTrees(trees) => trees.iter().map(|tree| tree.tree.len() + ENTRY + texts(&tree.nodes)).sum(),
        }
    }
}

/// A tree, or some of its nodes with all below them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetTree {
    pub tree: Box<str>,
    /// Empty: the whole tree.
    pub nodes: Vec<Box<str>>,
}
