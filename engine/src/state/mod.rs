//! The single-writer state machine: plain data, and commands applied to it one after another.
//!
//! Everything that lasts is a row. A command is [planned](State::apply) against the state and changes it only through
//! [`State::put`] and [`State::delete`], which also keep everything derived from rows in step: counts, sets of devices, timers. So
//! one path serves commands, recovery (rows are put as they are loaded) and undoing (the rows before are put back), and what is
//! derived can't differ between them.
//!
//! Invariants:
//! - `apply` reads no clock, no environment, no random source; the same commands in the same order give the same rows.
//! - A command that is refused leaves no trace.
//! - Permits held by a task never exceed its maximum: they are counted from the upgrades themselves, and one writer grants them.

mod access;
mod apply;
mod command;
mod devices;
mod facets;
mod install;
mod install_upgrades;
mod journal;
mod members;
mod outlook;
mod pacing;
mod push;
mod read;
mod reports;
mod search;
mod task_rules;
mod tasks;
#[cfg(test)]
pub(crate) mod tests;
mod upgrades;
mod validate;

use command::Asking;
pub use command::*;
pub use outlook::{Explained, Explanation, TaskOutlook, WaveFigures};
pub use push::HeldOffer;
pub use read::{DeviceInfo, TaskInfo, Totals};
pub use search::{DeviceSets, Run};
pub use task_rules::VERIFY_DEVICES_MAX;

use journal::Journal;
use push::Pushing;

use crate::index::{Published, StartKey, TaskFigures, TaskView};
use crate::limits::Limits;
use crate::model::*;
use crate::rollout::CompiledScope;
use crate::store::NextNumbers;
use facets::Facets;
use install_upgrades::FinishedSets;
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Everything the engine decides by. Read it through [`Engine::read`](crate::Engine::read).
#[derive(Debug)]
pub struct State {
    limits: Limits,
    /// Names this store in the ids it gives out.
    store: u32,
    /// The largest time a command came with. Time never goes back, whatever the clock does.
    now: Timestamp,
    event_sequence: u64,
    /// The smallest sequence number that is kept; 0 until the first event.
    event_oldest: u64,

    products: BTreeMap<ProductNumber, ProductEntry>,
    products_by_name: HashMap<Arc<str>, BTreeMap<Arc<str>, ProductNumber>>,
    devices: Vec<Option<Arc<Device>>>,
    devices_count: u64,
    /// Devices created by commands that are not published yet: the published table doesn't have them.
    devices_fresh: HashMap<(ProductNumber, Box<str>), DeviceNumber>,
    /// Which devices of a product run which version of a component.
    versions: HashMap<(ProductNumber, Component), BTreeMap<Arc<str>, RoaringBitmap>>,
    /// By organization; the bytes go with the last one that holds them.
    images: HashMap<ImageId, BTreeMap<Arc<str>, Arc<Image>>>,
    firmware: BTreeMap<FirmwareNumber, Arc<Firmware>>,
    firmware_by_version: HashMap<(ProductNumber, Component, Arc<str>), FirmwareNumber>,
    firmware_names: HashMap<(ProductNumber, Arc<str>), u32>,
    tasks: BTreeMap<TaskNumber, TaskEntry>,
    /// Every task that leads from a version, started or not, oldest first.
    starts: HashMap<StartKey, Vec<TaskNumber>>,
    /// How many tasks lead to a version.
    targets: HashMap<StartKey, u32>,
    task_names: HashMap<(ProductNumber, Arc<str>), u32>,
    /// Upgrades that are not finished, by device; a device seldom has more than one.
    live: HashMap<DeviceNumber, Vec<LiveUpgrade>>,
    deadlines: BTreeSet<(Timestamp, TaskNumber, DeviceNumber)>,
    /// Devices that hold a permit.
    upgrading: RoaringBitmap,
    /// When the schedules of tasks that are neither stopped nor finished end.
    ends: BTreeSet<(Timestamp, TaskNumber)>,
    /// Canceled tasks that still have unfinished upgrades.
    canceling: BTreeSet<TaskNumber>,
    permits_held: u64,
    tokens: HashMap<TokenId, Arc<Token>>,
    /// The tokens that an application logged in for.
    tokens_by_app: HashMap<AppId, BTreeSet<TokenId>>,
    /// How many tokens of devices name a device, by a hash of its names: of two that share one, both count as having a token.
    device_tokens: HashMap<u64, u32>,
    /// Tokens by the hour in which they end.
    token_ends: BTreeMap<u64, Vec<TokenId>>,
    apps: BTreeMap<AppId, Arc<App>>,
    subscriptions: BTreeMap<SubscriptionId, Arc<Subscription>>,

    next: NextNumbers,
    pushing: Pushing,

    journal: Journal,
    /// Which of the writer's attempts to commit the journal belongs to.
    attempt: u64,
    published: Arc<Published>,
}

#[derive(Debug)]
struct ProductEntry {
    row: Arc<Product>,
    tasks: BTreeSet<TaskNumber>,
    firmware: BTreeSet<FirmwareNumber>,
    devices: RoaringBitmap,
    facets: Facets,
}

#[derive(Debug)]
struct TaskEntry {
    view: Arc<TaskView>,
    /// Unfinished upgrades in each state.
    counts: StateCounts,
    unfinished: RoaringBitmap,
    /// The same, by state.
    unfinished_by_state: [RoaringBitmap; UNFINISHED_STATES],
    /// A device that may still begin, as of when it was looked for: while it may, nobody else has to be looked for.
    may_begin: Option<DeviceNumber>,
    finished: FinishedSets,
    /// Devices that succeeded at least once.
    succeeded: RoaringBitmap,
    /// How many of those lie in each wave.
    succeeded_by_wave: Vec<u32>,
    /// Unfinished upgrades whose newest ended attempt went wrong, by kind.
    failing: [u64; FailureKind::ALL.len()],
    /// Devices whose unfinished upgrade an operator has forced and has not begun yet.
    forced: RoaringBitmap,
    permits_held: u64,
    /// There from the first offer or the first opened wave on.
    pace: Option<Arc<Pace>>,
}

/// States before the first that is a result.
const UNFINISHED_STATES: usize = UpgradeState::Succeeded as usize;

#[derive(Clone, Debug)]
struct LiveUpgrade {
    row: Arc<Upgrade>,
    /// What the device was offered, while it holds a permit.
    offer: Option<Arc<Offer>>,
}

impl State {
    pub(crate) fn new(limits: Limits, published: Arc<Published>) -> Self {
        Self {
            limits,
            store: 0,
            now: Timestamp(0),
            event_sequence: 0,
            event_oldest: 0,
            products: BTreeMap::new(),
            products_by_name: HashMap::new(),
            devices: Vec::new(),
            devices_count: 0,
            devices_fresh: HashMap::new(),
            versions: HashMap::new(),
            images: HashMap::new(),
            firmware: BTreeMap::new(),
            firmware_by_version: HashMap::new(),
            firmware_names: HashMap::new(),
            tasks: BTreeMap::new(),
            starts: HashMap::new(),
            targets: HashMap::new(),
            task_names: HashMap::new(),
            live: HashMap::new(),
            deadlines: BTreeSet::new(),
            upgrading: RoaringBitmap::new(),
            ends: BTreeSet::new(),
            canceling: BTreeSet::new(),
            permits_held: 0,
            tokens: HashMap::new(),
            tokens_by_app: HashMap::new(),
            device_tokens: HashMap::new(),
            token_ends: BTreeMap::new(),
            apps: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            next: NextNumbers::default(),
            pushing: Pushing::default(),
            journal: Journal::default(),
            attempt: 0,
            published,
        }
    }

    fn task_entry(&self, number: TaskNumber) -> Option<&TaskEntry> {
        self.tasks.get(&number)
    }

    fn live_upgrade(&self, task: TaskNumber, device: DeviceNumber) -> Option<&LiveUpgrade> {
        self.live.get(&device)?.iter().find(|live| live.row.task == task)
    }

    fn product_number(&self, organization: &str, product_id: &str) -> Option<ProductNumber> {
        self.products_by_name.get(organization)?.get(product_id).copied()
    }

    fn device_row(&self, number: DeviceNumber) -> Option<&Arc<Device>> {
        self.devices.get(number.index())?.as_ref()
    }

    /// The device with this name as the state has it, be it published already or not.
    fn device_number(&self, product: ProductNumber, device_id: &str) -> Option<DeviceNumber> {
        let is_it =
            |number: &DeviceNumber| self.device_row(*number).is_some_and(|row| row.product == product && *row.id == *device_id);
        // What was published may have been deleted, and created again, by commands that aren't published yet.
        let published = self.published.device(product, device_id).map(|device| device.number).filter(is_it);
        published.or_else(|| {
            if self.devices_fresh.is_empty() {
                return None;
            }
            self.devices_fresh.get(&(product, device_id.into())).copied().filter(is_it)
        })
    }
}

/// What a new view of a task is made of.
fn task_view(row: Arc<Task>, product_id: Arc<str>, before: Option<&TaskView>) -> Arc<TaskView> {
    let (scope, figures) = match before {
        Some(view) if view.row().scope == row.scope => (Arc::clone(view.scope()), Arc::clone(view.figures())),
        _ => {
            let members = row.members.as_deref().map(members::read);
            (Arc::new(CompiledScope::new(&row.scope, members)), Arc::new(TaskFigures::default()))
        }
    };
    Arc::new(TaskView::new(row, product_id, scope, figures))
}
