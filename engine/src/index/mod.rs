//! The decision plane: what was made durable, published so that any number of threads can decide checks without waiting.
//!
//! Invariants:
//! - A check takes no lock, does no I/O, and allocates nothing where there is nothing to do.
//! - Only the writer publishes, and only what is durable.
//! - A check reads one [`VersionEntry`] and one device row; each is replaced whole. It may see a device a moment older than a task
//!   or the reverse; that is harmless, because nothing is granted here: a check that finds a free permit asks the writer.

mod devices;
mod view;

pub use view::TaskView;
pub(crate) use view::{FiguresNow, TaskFigures};

use crate::engine::Checked;
use crate::limits::Limits;
use crate::model::{
    Component, Device, DeviceNumber, Image, ImageId, ProductNumber, TaskNumber, TaskStatus, Timestamp, Token, TokenId,
};
use crate::rollout::{self, Asker, Figures, Standing, Verdict};
use crate::state::{Check, Decision, DeviceRef, Offer};
use crate::sync::Map;
use crate::sync::atomic::{AtomicU64, Ordering};
use devices::DeviceTable;
use equivalent::Equivalent;
use foldhash::quality::RandomState;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Everything that a check reads.
#[derive(Debug)]
pub(crate) struct Published {
    products: Map<ProductKey, ProductNumber, RandomState>,
    devices: DeviceTable,
    starts: Map<StartKey, Arc<VersionEntry>, RandomState>,
    marks: Map<DeviceNumber, Arc<[Mark]>, RandomState>,
    tokens: Map<TokenId, Arc<Token>, RandomState>,
    images: Map<ImageId, Arc<Image>, RandomState>,
    permits_held: AtomicU64,
    limits: Limits,
}

/// What one version of one component of one product leads to.
#[derive(Debug, Default)]
pub(crate) struct VersionEntry {
    /// Started and paused tasks that lead from this version, newest first.
    pub candidates: Box<[Arc<TaskView>]>,
    /// A task leads to this version.
    pub is_target: bool,
}

/// How one device stands with one task, where that isn't the ordinary way.
#[derive(Clone, Debug)]
pub(crate) enum Mark {
    Held(Arc<Offer>),
    Standing { task: TaskNumber, standing: Standing },
}

impl Published {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            products: Map::default(),
            devices: DeviceTable::new(),
            starts: Map::default(),
            marks: Map::default(),
            tokens: Map::default(),
            images: Map::default(),
            permits_held: AtomicU64::new(0),
            limits,
        }
    }

    /// Decides a check as far as it can be decided without writing.
    pub(crate) fn check(&self, check: &Check<'_>, now: Timestamp) -> Checked {
        let products = self.products.pin();
        let name = ProductQuery { organization: check.device.organization, id: check.device.product_id };
        let Some(&product) = products.get(&name) else { return Checked::Ask };
        let devices = self.devices.pin();
        let Some(device) = devices.get(product, check.device.device_id) else { return Checked::Ask };
        let seen = self.devices.seen(device.number);
        if !check.rules.preview {
            seen.touch(now);
        }
        // A new version has to be recorded; and marks are kept for the recorded one alone, so a preview at another asks, too.
        if device.version(check.component).is_none_or(|recorded| **recorded != *check.version) {
            return Checked::Ask;
        }
        if seen.has_marks() {
            let marks = self.marks.pin();
            let marks = marks.get(&device.number).map_or(&[][..], |marks| marks);
            self.check_marked(check, product, device, marks, now)
        } else {
            self.check_start(check, product, device, &[], now)
        }
    }

    /// A device that holds an offer for this component gets it again, or nothing: one upgrade per component at a time.
    fn check_marked(&self, check: &Check<'_>, product: ProductNumber, device: &Device, marks: &[Mark], now: Timestamp) -> Checked {
        let held = marks.iter().find_map(|mark| match mark {
            Mark::Held(offer) if offer.task.row().component == check.component => Some(offer),
            _ => None,
        });
        match held {
            Some(offer) => Checked::Decided(repeat(offer, offer.task.status(), check)),
            None => self.check_start(check, product, device, marks, now),
        }
    }

    fn check_start(&self, check: &Check<'_>, product: ProductNumber, device: &Device, marks: &[Mark], now: Timestamp) -> Checked {
        let starts = self.starts.pin();
        let key = StartQuery { product, component: check.component, version: check.version };
        let Some(entry) = starts.get(&key) else { return Checked::Decided(Decision::NoTask) };
        let standing = |task| standing(marks, task);
        let asker = Asker { row: Some(device), number: device.number };
        match rollout::choose(entry.candidates.iter(), asker, standing, self, &self.limits, now) {
            Verdict::NotForIt if entry.is_target => Checked::Decided(Decision::UpToDate),
            Verdict::NotForIt => Checked::Decided(Decision::NoTask),
            Verdict::Wait(wait) => Checked::Decided(Decision::Wait(wait)),
            Verdict::Free(view) if check.rules.preview => Checked::Decided(Decision::Offer(Arc::new(Offer {
                id: None,
                task: Arc::clone(view),
                from_version: check.version.into(),
                deadline: None,
            }))),
            Verdict::AskPerson(_, wait) if check.rules.preview => Checked::Decided(Decision::Wait(wait)),
            Verdict::AskPerson(..) | Verdict::Free(_) => Checked::Ask,
        }
    }

    pub(crate) fn token(&self, id: TokenId) -> Option<Arc<Token>> {
        self.tokens.pin().get(&id).cloned()
    }

    pub(crate) fn image(&self, id: ImageId) -> Option<Arc<Image>> {
        self.images.pin().get(&id).cloned()
    }

    /// Whether this is what the device was last known to run.
    pub(crate) fn runs(&self, device: DeviceRef<'_>, component: Component, version: &str) -> bool {
        let products = self.products.pin();
        let name = ProductQuery { organization: device.organization, id: device.product_id };
        let Some(&product) = products.get(&name) else { return false };
        let devices = self.devices.pin();
        devices.get(product, device.device_id).is_some_and(|row| row.version(component).is_some_and(|runs| **runs == *version))
    }

    /// The device with this name, as published.
    pub(crate) fn device(&self, product: ProductNumber, id: &str) -> Option<Arc<Device>> {
        self.devices.pin().get(product, id).cloned()
    }

    pub(crate) fn last_seen(&self, device: DeviceNumber) -> Option<Timestamp> {
        self.devices.seen(device).at()
    }

    // What the writer publishes.

    pub(crate) fn publish_product(&self, organization: &Arc<str>, id: &Arc<str>, product: Option<ProductNumber>) {
        let products = self.products.pin();
        let key = ProductKey { organization: Arc::clone(organization), id: Arc::clone(id) };
        match product {
            Some(product) => drop(products.insert(key, product)),
            None => drop(products.remove(&key)),
        }
    }

    pub(crate) fn publish_device(&self, device: Arc<Device>) {
        self.devices.insert(device);
    }

    pub(crate) fn withdraw_device(&self, product: ProductNumber, id: &str) {
        self.devices.remove(product, id);
    }

    pub(crate) fn publish_start(&self, key: StartKey, entry: Option<VersionEntry>) {
        let starts = self.starts.pin();
        match entry {
            Some(entry) => drop(starts.insert(key, Arc::new(entry))),
            None => drop(starts.remove(&key)),
        }
    }

    /// Order matters: marks are in the map before the flag says so, and the flag goes before they do.
    pub(crate) fn publish_marks(&self, device: DeviceNumber, marks: Vec<Mark>) {
        let seen = self.devices.seen(device);
        if marks.is_empty() {
            seen.set_has_marks(false);
            self.marks.pin().remove(&device);
        } else {
            self.marks.pin().insert(device, marks.into());
            seen.set_has_marks(true);
        }
    }

    pub(crate) fn publish_token(&self, id: TokenId, token: Option<Arc<Token>>) {
        match token {
            Some(token) => drop(self.tokens.pin().insert(id, token)),
            None => drop(self.tokens.pin().remove(&id)),
        }
    }

    pub(crate) fn publish_image(&self, id: ImageId, image: Option<Arc<Image>>) {
        match image {
            Some(image) => drop(self.images.pin().insert(id, image)),
            None => drop(self.images.pin().remove(&id)),
        }
    }

    pub(crate) fn publish_permits_held(&self, permits_held: u64) {
        self.permits_held.store(permits_held, Ordering::Relaxed);
    }
}

impl Figures for Published {
    fn held_by_task(&self, task: &TaskView) -> u64 {
        u64::from(task.permits_held())
    }

    fn held(&self) -> u64 {
        // A hint: the writer decides. Nothing else is read by it, so no ordering is needed.
        self.permits_held.load(Ordering::Relaxed)
    }

    fn rate_free_at(&self, task: &TaskView) -> Timestamp {
        task.rate_free_at()
    }

    fn open_to_place(&self, task: &TaskView) -> u64 {
        task.open_to_place()
    }
}

/// The answer to a device that holds an offer for the component it asks about. `status`: of its task, now.
pub(crate) fn repeat(offer: &Arc<Offer>, status: TaskStatus, check: &Check<'_>) -> Decision {
    let task = offer.task.row();
    if *offer.from_version == *check.version {
        if check.rules.only_while_started && status == TaskStatus::Stopped {
            return Decision::NoTask;
        }
        return Decision::Offer(Arc::clone(offer));
    }
    if *task.target_version == *check.version { Decision::UpToDate } else { Decision::NoTask }
}

pub(crate) fn standing(marks: &[Mark], task: TaskNumber) -> Standing {
    marks
        .iter()
        .find_map(|mark| match *mark {
            Mark::Standing { task: marked, standing } if marked == task => Some(standing),
            _ => None,
        })
        .unwrap_or(Standing::FRESH)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProductKey {
    pub organization: Arc<str>,
    pub id: Arc<str>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ProductQuery<'a> {
    pub organization: &'a str,
    pub id: &'a str,
}

impl Hash for ProductKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        ProductQuery { organization: &self.organization, id: &self.id }.hash(state);
    }
}

impl Hash for ProductQuery<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.organization.hash(state);
        self.id.hash(state);
    }
}

impl Equivalent<ProductKey> for ProductQuery<'_> {
    fn equivalent(&self, key: &ProductKey) -> bool {
        *self.organization == *key.organization && *self.id == *key.id
    }
}

/// Where tasks start: a version of a component of a product.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StartKey {
    pub product: ProductNumber,
    pub component: Component,
    pub version: Arc<str>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct StartQuery<'a> {
    pub product: ProductNumber,
    pub component: Component,
    pub version: &'a str,
}

impl Hash for StartKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        StartQuery { product: self.product, component: self.component, version: &self.version }.hash(state);
    }
}

impl Hash for StartQuery<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // One word for the numbers: the hasher's cost is per call.
        let component = u64::from(self.component.component_type) << 32 | u64::from(self.component.identify);
        (u64::from(self.product.0).rotate_left(48) ^ component).hash(state);
        self.version.hash(state);
    }
}

impl Equivalent<StartKey> for StartQuery<'_> {
    fn equivalent(&self, key: &StartKey) -> bool {
        self.product == key.product && self.component == key.component && *self.version == *key.version
    }
}
