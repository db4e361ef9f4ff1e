//! What callers ask of the engine, and what they are answered.

use crate::index::TaskView;
use crate::model::{
    App, Artifact, Component, Device, DeviceDetails, Event, FileType, Firmware, FirmwareId, Image, Policy, Product, ReportedState,
    Scope, Subscription, SubscriptionId, Task, TaskId, TaskKind, TaskMode, Timestamp, Token, TokenId, UpgradeId, Verification,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A device, by its customer's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRef<'a> {
    pub organization: &'a str,
    pub product_id: &'a str,
    pub device_id: &'a str,
}

impl DeviceRef<'_> {
    pub fn to_owned(self) -> DeviceName {
        DeviceName { organization: self.organization.into(), product_id: self.product_id.into(), device_id: self.device_id.into() }
    }
}

/// A [`DeviceRef`] that can wait in a queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceName {
    pub organization: Arc<str>,
    pub product_id: Arc<str>,
    pub device_id: Arc<str>,
}

impl DeviceName {
    pub fn as_ref(&self) -> DeviceRef<'_> {
        DeviceRef { organization: &self.organization, product_id: &self.product_id, device_id: &self.device_id }
    }
}

/// A device and its product, found or made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub product: crate::model::ProductNumber,
    pub device: crate::model::DeviceNumber,
}

/// A device asks what it should do.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    pub device: DeviceRef<'a>,
    pub component: Component,
    /// The version that the component says it runs. Decides; what was recorded before doesn't.
    pub version: &'a str,
    pub rules: CheckRules,
}

/// How a check is to be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckRules {
    /// Somebody else looks: nothing is recorded and no permit is taken.
    pub preview: bool,
    /// A held offer is repeated only while its task is started. Without it, what runs may go on after a stop.
    pub only_while_started: bool,
    /// The device and its product come into being if they aren't there; a preview tells what one would be told that did.
    pub register: bool,
}

/// What a device should do now.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It runs the target of a task, and none leads further.
    UpToDate,
    /// No task is for it.
    NoTask,
    /// A task is for it, but not now.
    Wait(Wait),
    /// It may upgrade. It holds a permit until it reports a result or the deadline passes.
    Offer(Arc<Offer>),
}

/// Why a device has to wait, and how long before it asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub task: TaskId,
    pub reason: WaitReason,
    pub retry_after_s: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitReason {
    /// Every permit of the task or of the server is held.
    Cap,
    /// Outside the schedule.
    Schedule,
    /// Not yet again after a failure.
    BackOff,
    /// The task is paused.
    Paused,
    /// Somebody has to say yes for this device first.
    Confirmation,
    /// As many have begun in the last minute as may.
    Rate,
    /// Its wave is not open yet.
    Wave,
    /// An operator has to approve the task first.
    Approval,
    /// Its own delay after the start isn't over.
    StartJitter,
    /// The gateway that it hangs behind isn't connected.
    Gateway,
}

impl WaitReason {
    pub const ALL: [Self; 10] = [
        Self::Cap,
        Self::Schedule,
        Self::BackOff,
        Self::Paused,
        Self::Confirmation,
        Self::Rate,
        Self::Wave,
        Self::Approval,
        Self::StartJitter,
        Self::Gateway,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Cap => "cap",
            Self::Schedule => "schedule",
            Self::BackOff => "back_off",
            Self::Paused => "paused",
            Self::Confirmation => "confirmation",
            Self::Rate => "rate",
            Self::Wave => "wave",
            Self::Approval => "approval",
            Self::StartJitter => "start_jitter",
            Self::Gateway => "gateway",
        }
    }
}

/// The right to upgrade now.
#[derive(Debug)]
pub struct Offer {
    /// Absent in a preview.
    pub id: Option<UpgradeId>,
    pub task: Arc<TaskView>,
    pub from_version: Arc<str>,
    pub deadline: Option<Timestamp>,
}

/// A device tells how its upgrade goes.
#[derive(Clone, Debug)]
pub struct Report {
    pub device: DeviceName,
    pub upgrade: UpgradeId,
    pub state: ReportedState,
    pub percent: Option<u8>,
    pub detail: Option<String>,
    /// What the device calls this failure; a retry policy may go by it.
    pub code: Option<i32>,
}

/// A device tells the end of an upgrade by its versions alone.
#[derive(Clone, Debug)]
pub struct VersionReport {
    pub device: DeviceName,
    pub component: Component,
    pub from_version: String,
    pub to_version: String,
    pub succeeded: bool,
    pub detail: Option<String>,
    /// Whatever else the report carried; becomes part of the event.
    pub extra: BTreeMap<Box<str>, Box<str>>,
    /// The device comes into being if it isn't there.
    pub register: bool,
}

/// What a report did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// The task that it belongs to, where one was found.
    pub task: Option<TaskId>,
    /// Something changed; a repeated or late report changes nothing.
    pub changed: bool,
}

/// A gateway, or a device of its own, is connected to the front end and can be sent to.
#[derive(Clone, Debug)]
pub struct Connect {
    pub gateway: DeviceName,
    /// What hangs behind it now: devices of its organization.
    pub attached: Vec<Arc<str>>,
    /// Of this connection; a later one has a larger.
    pub epoch: u64,
    /// What of these devices can be sent to.
    pub component: Component,
    /// How many of them may be told to begin together.
    pub together_max: usize,
    /// The gateway, and those attached, come into being if they aren't there; attached ones in the gateway's product.
    pub register: bool,
}

/// Who is connected now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Who can be sent to through this connection, the gateway first; nobody where a later one has taken its place.
    pub members: Vec<DeviceName>,
    /// What the gateway may not speak for, and why.
    pub refused: Vec<(Arc<str>, String)>,
}

/// A device as an operator writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewDevice {
    pub product_id: String,
    pub device_id: String,
    pub components: Vec<(Component, String)>,
    pub details: DeviceDetails,
}

#[derive(Clone, Debug, Default)]
pub struct NewProduct {
    pub organization: String,
    pub product_id: String,
    pub name: Option<String>,
}

#[derive(Clone, Debug)]
pub struct NewFirmware {
    pub organization: String,
    pub product_id: String,
    pub component: Component,
    pub version: String,
    pub artifact: Artifact,
    pub name: Option<String>,
    pub description: Option<String>,
    pub model: Option<String>,
    pub manufacturer: Option<String>,
    pub device_type: Option<String>,
    pub file_type: FileType,
    pub annotations: BTreeMap<Box<str>, Box<str>>,
    pub verification: Option<Verification>,
    /// Refused where firmware of the product has this name.
    pub unique_name: bool,
}

#[derive(Clone, Debug)]
pub struct NewTask {
    pub organization: String,
    pub product_id: String,
    pub component: Component,
    pub name: Option<String>,
    pub description: Option<String>,
    pub kind: TaskKind,
    pub mode: TaskMode,
    pub from_versions: Vec<String>,
    pub target: TaskTarget,
    pub scope: Scope,
    pub policy: Policy,
    /// Refused where a task of the product has this name.
    pub unique_name: bool,
    /// Refused where a task of the product has this component and one of these from-versions.
    pub unique_start: bool,
    /// Started at once rather than born stopped.
    pub start: bool,
    pub annotations: BTreeMap<Box<str>, Box<str>>,
}

impl NewTask {
    /// Everybody at one of the from-versions, on the main component, held back by nothing, born stopped.
    pub fn new(
        organization: impl Into<String>,
        product_id: impl Into<String>,
        from_versions: Vec<String>,
        target: TaskTarget,
    ) -> Self {
        Self {
            organization: organization.into(),
            product_id: product_id.into(),
            component: Component::MAIN,
            name: None,
            description: None,
            kind: TaskKind::default(),
            mode: TaskMode::default(),
            from_versions,
            target,
            scope: Scope::default(),
            policy: Policy::default(),
            unique_name: false,
            unique_start: false,
            start: false,
            annotations: BTreeMap::new(),
        }
    }
}

/// Where a task leads.
#[derive(Clone, Debug)]
pub enum TaskTarget {
    Firmware(FirmwareId),
    Artifact { version: String, artifact: Artifact },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskAction {
    Start,
    Stop,
    Pause,
    Resume,
    /// Says yes to a task whose policy asks for an approval.
    Approve,
    /// Stops it and takes back everything unfinished, what runs too.
    Cancel,
    /// Opens the next wave, whatever the one before has reached.
    OpenWave,
}

/// What an operator, or the person before the device, does with one device's upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeAction {
    /// Ends it, wherever it stands; also before it began.
    Cancel,
    /// Lets a device that failed, was rejected or canceled, or waits after a failure, try again at once.
    Retry,
    /// Lets a device in scope begin whatever the schedule, a pause, an approval, a person, the start jitter, the waves, a back-off
    /// and the rate say. The cap holds.
    Force,
    /// Says yes for a device, where the policy asks for a person's yes; also before the device has asked.
    Confirm,
    /// Says no: the upgrade is rejected.
    Decline,
}

/// How an action is to be taken where there is nothing for it to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionRules {
    /// Refused rather than answered as done: to start what is started, stop what is stopped, delete what is started; to cancel
    /// an upgrade that has begun, retry one that is not over, or either while the task is stopped.
    pub strict: bool,
}

/// One action on the upgrades of some devices of a task: on all of them, or, where one of them is refused, on none.
#[derive(Clone, Debug)]
pub struct UpgradesAction {
    pub organization: Arc<str>,
    pub task: TaskId,
    pub device_ids: Vec<Box<str>>,
    pub action: UpgradeAction,
    pub rules: ActionRules,
}

/// What the writer is asked to do. Everything that changes something is one of these.
#[derive(Clone, Debug)]
pub enum Command {
    // Devices
    Check {
        device: DeviceName,
        component: Component,
        version: Arc<str>,
        rules: CheckRules,
    },
    Report(Report),
    ReportVersion(Box<VersionReport>),
    /// A component runs this version, and asks for nothing.
    NoteVersion {
        device: DeviceName,
        component: Component,
        version: Arc<str>,
        register: bool,
    },
    Connect(Box<Connect>),
    Disconnect {
        gateway: DeviceName,
        epoch: u64,
    },
    /// Bytes of a signed link were served: download progress of a device that may report none.
    Served {
        upgrade: UpgradeId,
        percent: u8,
    },
    // Operators
    PutProduct(NewProduct),
    DeleteProduct {
        organization: Arc<str>,
        product_id: Arc<str>,
    },
    PutDevices {
        organization: Arc<str>,
        devices: Vec<NewDevice>,
        register_products: bool,
    },
    DeleteDevice(DeviceName),
    /// What the device signs its logins with, encrypted by the front end; `None` takes it away.
    PutDeviceSecret {
        device: DeviceName,
        secret_encrypted: Option<Vec<u8>>,
    },
    PutImage(Box<Image>),
    DeleteImage {
        organization: Arc<str>,
        id: crate::model::ImageId,
    },
    CreateFirmware {
        new: Box<NewFirmware>,
        register_product: bool,
    },
    UpdateFirmware {
        id: FirmwareId,
        new: Box<NewFirmware>,
    },
    DeleteFirmware {
        organization: Arc<str>,
        id: FirmwareId,
    },
    CreateTask {
        new: Box<NewTask>,
        register_product: bool,
    },
    /// All of them, or, where one is refused, none.
    CreateTasks(Vec<NewTask>),
    ActOnTask {
        organization: Arc<str>,
        id: TaskId,
        action: TaskAction,
        rules: ActionRules,
    },
    DeleteTask {
        organization: Arc<str>,
        id: TaskId,
        rules: ActionRules,
    },
    ActOnUpgrades(Box<UpgradesAction>),
    PutToken(Box<Token>),
    RevokeToken {
        organization: Option<Arc<str>>,
        id: TokenId,
    },
    PutApp(Box<App>),
    DeleteApp {
        organization: Option<Arc<str>>,
        id: Arc<str>,
    },
    PutSubscription(Box<Subscription>),
    DeleteSubscription {
        organization: Arc<str>,
        id: SubscriptionId,
    },
    AdvanceSubscription {
        id: SubscriptionId,
        position: u64,
    },
    // The clock
    Tick,
}

/// What a command did.
#[derive(Clone, Debug)]
pub enum Outcome {
    Decision(Decision),
    Reported(Reported),
    Product(Arc<Product>),
    /// One entry per device, in order: the row, or why it was refused.
    Devices(Vec<Result<Arc<Device>, String>>),
    Image(Arc<Image>),
    Firmware(Arc<Firmware>),
    Task(Arc<Task>),
    Tasks(Vec<Arc<Task>>),
    Token(Arc<Token>),
    App(Arc<App>),
    Subscription(Arc<Subscription>),
    Connected(Connected),
    /// When the clock should tick next.
    Ticked(Option<Timestamp>),
    Done,
}

/// Events with this and larger sequence numbers, and where to go on.
#[derive(Clone, Debug)]
pub struct EventPage {
    pub events: Vec<Arc<Event>>,
    /// Ask from here next time.
    pub next: u64,
}
