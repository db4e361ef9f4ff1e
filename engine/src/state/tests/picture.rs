//! All that a state is, rows and what is derived from them, to be compared with what it is at another time or after another way.

use crate::index::StartKey;
use crate::state::*;
use crate::store::NextNumbers;

/// Two states with equal pictures can't be told apart by a command.
#[derive(Debug, PartialEq)]
pub(crate) struct Picture {
    event_sequence: u64,
    event_oldest: u64,
    next: NextNumbers,
    products: BTreeMap<ProductNumber, ProductPicture>,
    products_by_name: HashMap<Arc<str>, BTreeMap<Arc<str>, ProductNumber>>,
    devices: Vec<Arc<Device>>,
    devices_count: u64,
    versions: HashMap<(ProductNumber, Component), BTreeMap<Arc<str>, RoaringBitmap>>,
    images: HashMap<ImageId, BTreeMap<Arc<str>, Arc<Image>>>,
    firmware: BTreeMap<FirmwareNumber, Arc<Firmware>>,
    firmware_by_version: HashMap<(ProductNumber, Component, Arc<str>), FirmwareNumber>,
    firmware_names: HashMap<(ProductNumber, Arc<str>), u32>,
    tasks: BTreeMap<TaskNumber, TaskPicture>,
    starts: HashMap<StartKey, Vec<TaskNumber>>,
    targets: HashMap<StartKey, u32>,
    task_names: HashMap<(ProductNumber, Arc<str>), u32>,
    live: BTreeMap<DeviceNumber, Vec<LivePicture>>,
    deadlines: BTreeSet<(Timestamp, TaskNumber, DeviceNumber)>,
    upgrading: RoaringBitmap,
    ends: BTreeSet<(Timestamp, TaskNumber)>,
    canceling: BTreeSet<TaskNumber>,
    permits_held: u64,
    tokens: HashMap<TokenId, Arc<Token>>,
    tokens_by_app: HashMap<AppId, BTreeSet<TokenId>>,
    token_ends: BTreeMap<u64, BTreeSet<TokenId>>,
    apps: BTreeMap<AppId, Arc<App>>,
    subscriptions: BTreeMap<SubscriptionId, Arc<Subscription>>,
}

#[derive(Debug, PartialEq)]
struct ProductPicture {
    row: Arc<Product>,
    tasks: BTreeSet<TaskNumber>,
    firmware: BTreeSet<FirmwareNumber>,
    devices: RoaringBitmap,
    /// The devices that each of the selectors matches, by place.
    selected: Vec<Option<RoaringBitmap>>,
}

#[derive(Debug, PartialEq)]
struct TaskPicture {
    row: Arc<Task>,
    /// Fixed at creation.
    members: Option<RoaringBitmap>,
    counts: StateCounts,
    unfinished: RoaringBitmap,
    finished: [RoaringBitmap; UpgradeState::ALL.len()],
    succeeded: RoaringBitmap,
    succeeded_by_wave: Vec<u32>,
    failing: [u64; FailureKind::ALL.len()],
    forced: RoaringBitmap,
    permits_held: u64,
    pace: Option<Arc<Pace>>,
}

#[derive(Debug, PartialEq)]
struct LivePicture {
    row: Arc<Upgrade>,
    offer: Option<OfferPicture>,
}

#[derive(Debug, PartialEq)]
struct OfferPicture {
    id: Option<UpgradeId>,
    task: TaskNumber,
    from_version: Arc<str>,
    deadline: Option<Timestamp>,
}

impl Picture {
    /// `selectors`: those by which what is told of devices is looked up.
    pub(crate) fn of(state: &State, selectors: &[Selector]) -> Self {
        let product = |entry: &ProductEntry| ProductPicture {
            row: Arc::clone(&entry.row),
            tasks: entry.tasks.clone(),
            firmware: entry.firmware.clone(),
            devices: entry.devices.clone(),
            selected: selected(&entry.facets, selectors),
        };
        Self {
            event_sequence: state.event_sequence,
            event_oldest: state.event_oldest,
            next: state.next,
            products: state.products.iter().map(|(number, entry)| (*number, product(entry))).collect(),
            products_by_name: state.products_by_name.clone(),
            devices: state.devices.iter().flatten().cloned().collect(),
            devices_count: state.devices_count,
            versions: state.versions.clone(),
            images: state.images.clone(),
            firmware: state.firmware.clone(),
            firmware_by_version: state.firmware_by_version.clone(),
            firmware_names: state.firmware_names.clone(),
            tasks: state.tasks.iter().map(|(number, entry)| (*number, TaskPicture::of(entry))).collect(),
            starts: state.starts.clone(),
            targets: state.targets.clone(),
            task_names: state.task_names.clone(),
            live: state.live.iter().map(|(device, upgrades)| (*device, live(upgrades))).collect(),
            deadlines: state.deadlines.clone(),
            upgrading: state.upgrading.clone(),
            ends: state.ends.clone(),
            canceling: state.canceling.clone(),
            permits_held: state.permits_held,
            tokens: state.tokens.clone(),
            tokens_by_app: state.tokens_by_app.clone(),
            // In no order.
            token_ends: state.token_ends.iter().map(|(hour, tokens)| (*hour, tokens.iter().copied().collect())).collect(),
            apps: state.apps.clone(),
            subscriptions: state.subscriptions.clone(),
        }
    }

    /// `context` says how the states came about.
    #[track_caller]
    pub(super) fn assert_same(&self, expected: &Self, context: impl Fn() -> String) {
        if self != expected {
            panic!("{}\n{}", context(), self.differences(expected));
        }
    }

    pub(crate) fn differences(&self, expected: &Self) -> String {
        let (got, expected) = (format!("{self:#?}"), format!("{expected:#?}"));
        let pairs = got.lines().zip(expected.lines()).filter(|(got, expected)| got != expected);
        pairs.take(5).map(|(got, expected)| format!("got      {got}\nexpected {expected}\n")).collect()
    }
}

impl TaskPicture {
    fn of(entry: &TaskEntry) -> Self {
        let members = match &**entry.view.scope() {
            CompiledScope::Members(members) => Some(members.clone()),
            _ => None,
        };
        Self {
            row: Arc::clone(entry.view.row()),
            members,
            counts: entry.counts,
            unfinished: entry.unfinished.clone(),
            finished: UpgradeState::ALL.map(|state| entry.finished.of(state).clone()),
            succeeded: entry.succeeded.clone(),
            succeeded_by_wave: entry.succeeded_by_wave.clone(),
            failing: entry.failing,
            forced: entry.forced.clone(),
            permits_held: entry.permits_held,
            pace: entry.pace.clone(),
        }
    }
}

/// In the order of the tasks, which the state itself doesn't keep.
fn live(upgrades: &[LiveUpgrade]) -> Vec<LivePicture> {
    let picture = |live: &LiveUpgrade| LivePicture {
        row: Arc::clone(&live.row),
        offer: live.offer.as_ref().map(|offer| OfferPicture {
            id: offer.id,
            task: offer.task.row().number,
            from_version: Arc::clone(&offer.from_version),
            deadline: offer.deadline,
        }),
    };
    let mut pictures: Vec<_> = upgrades.iter().map(picture).collect();
    pictures.sort_by_key(|picture| picture.row.task);
    pictures
}

fn selected(facets: &Facets, selectors: &[Selector]) -> Vec<Option<RoaringBitmap>> {
    let by_selector = selectors.iter().map(|selector| facets.select(selector));
    let by_word = ["m0", "m1"]
        .iter()
        .flat_map(|word| [facets.with_model(word), facets.with_manufacturer(word), facets.with_device_type(word)].map(Some));
    by_selector.chain(by_word).map(|devices| devices.map(|devices| devices.into_owned())).collect()
}
