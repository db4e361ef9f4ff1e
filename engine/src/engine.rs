//! The facade: opens a store, wires the writer, publishes what it made durable, and answers.
//!
//! Three families of methods:
//! - **devices**: [`check`](Engine::check), [`decide`](Engine::decide), [`report`](Engine::report), [`served`](Engine::served);
//! - **operators**: `put_…`, `create_…`, `delete_…`, [`act_on_task`](Engine::act_on_task), and the reads;
//! - **the clock**: [`tick`](Engine::tick), called no later than the time it returned last.

use crate::error::Error;
use crate::events::EventLog;
use crate::image::ImageStore;
use crate::index::Published;
use crate::limits::Limits;
use crate::model::*;
use crate::pending::{Pending, block_on};
use crate::queue::Queue;
use crate::state::{
    ActionRules, Check, Command, Connect, Connected, Decision, DeviceName, DeviceRef, EventPage, NewDevice, NewFirmware,
    NewProduct, NewTask, Outcome, Report, Reported, State, TaskAction, UpgradesAction, VersionReport,
};
use crate::store::{Archive, Loaded, Opened, Row, SqliteStore, Store, StoreError, StoreErrorKind, UpgradeQuery};
use crate::sync::atomic::Ordering;
use crate::sync::watch;
use crate::writer::{Shared, Writer};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::{fmt, io};

/// What a check could decide without asking the writer.
#[derive(Clone, Debug)]
pub enum Checked {
    /// Decided; nothing was or need be recorded.
    Decided(Decision),
    /// Something has to be written first: a permit looks free, or the device or its version is new. Call [`Engine::decide`].
    Ask,
}

/// Where and how to open an engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Made if it isn't there. One process at a time.
    pub folder: PathBuf,
    pub limits: Limits,
}

impl Options {
    /// The default limits, which are safe for an open network.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), limits: Limits::default() }
    }
}

/// Everything in one: decisions, rollouts, images. Cheap to clone; the last clone to go closes it.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    queue: Queue,
    writer: Mutex<Option<JoinHandle<()>>>,
    archive: Arc<dyn Archive>,
    images: ImageStore,
    limits: Limits,
}

impl Engine {
    /// Opens the folder, makes it if it isn't there, takes over what was made durable, and starts the writer.
    pub fn open(options: Options) -> Result<Self, Error> {
        let mut loading = Loading::new(options.limits);
        let (store, archive, opened) = SqliteStore::open(&options.folder, &mut |loaded| loading.take(loaded))?;
        Self::start(loading, Box::new(store), archive, opened, &options.folder)
    }

    /// Starts on a store of one's own. `load` hands over what it kept, as [`SqliteStore::open`] does.
    pub fn with_store<S, A>(
        options: Options,
        load: impl FnOnce(&mut dyn FnMut(Loaded)) -> Result<(S, Arc<A>, Opened), StoreError>,
    ) -> Result<Self, Error>
    where
        S: Store + 'static,
        A: Archive + 'static,
    {
        let mut loading = Loading::new(options.limits);
        let (store, archive, opened) = load(&mut |loaded| loading.take(loaded))?;
        Self::start(loading, Box::new(store), archive, opened, &options.folder)
    }

    fn start(
        loading: Loading,
        store: Box<dyn Store>,
        archive: Arc<dyn Archive>,
        opened: Opened,
        folder: &Path,
    ) -> Result<Self, Error> {
        let images = ImageStore::open(folder).map_err(|error| io_error("opening the images", error))?;
        let (engine, writer) = Self::assemble(loading, store, archive, opened, images);
        let thread = std::thread::Builder::new().name("sluicegate-writer".into()).spawn(move || writer.run());
        let thread = thread.map_err(|error| io_error("starting the writer", error))?;
        *engine.inner.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(engine)
    }

    /// An engine, and its writer, which doesn't run yet.
    fn assemble(
        loading: Loading,
        store: Box<dyn Store>,
        archive: Arc<dyn Archive>,
        opened: Opened,
        images: ImageStore,
    ) -> (Self, Writer) {
        let Loading { limits, published, mut state, events } = loading;
        state.loaded(opened);
        let events = EventLog::new(events, opened.last_event_sequence);
        let shared = Arc::new(Shared::new(state, published, events, opened.last_group));
        let (queue, jobs) = Queue::new(Arc::clone(&shared), limits.queue_max);
        let writer = Writer::new(Arc::clone(&shared), jobs, store, opened.last_group);
        let inner = Inner { shared, queue, writer: Mutex::new(None), archive, images, limits };
        (Self { inner: Arc::new(inner) }, writer)
    }

    /// For who takes the writer's steps one by one. The writer has to go before the engine does.
    #[cfg(test)]
    #[cfg(not(feature = "models"))]
    pub(crate) fn stepped<S, A>(
        limits: Limits,
        images: ImageStore,
        load: impl FnOnce(&mut dyn FnMut(Loaded)) -> Result<(S, Arc<A>, Opened), StoreError>,
    ) -> Result<(Self, Writer), Error>
    where
        S: Store + 'static,
        A: Archive + 'static,
    {
        let mut loading = Loading::new(limits);
        let (store, archive, opened) = load(&mut |loaded| loading.take(loaded))?;
        Ok(Self::assemble(loading, Box::new(store), archive, opened, images))
    }

    /// Any command, answered with whatever it came to.
    #[cfg(test)]
    #[cfg(not(feature = "models"))]
    pub(crate) fn send(&self, command: Command, now: Timestamp) -> Pending<Outcome> {
        self.submit(command, now, Some)
    }

    fn submit<T>(&self, command: Command, now: Timestamp, read: fn(Outcome) -> Option<T>) -> Pending<T> {
        self.inner.queue.submit(command, now, read)
    }

    // Devices

    /// Decides what the device should do now, as far as it can be decided without writing.
    ///
    /// Takes no lock, does no I/O, and allocates nothing where there is nothing to do.
    pub fn check(&self, check: &Check<'_>, now: Timestamp) -> Checked {
        self.inner.shared.published.check(check, now)
    }

    /// Decides what the device should do now, records what it said, and takes a permit where one is free. Durable once answered.
    pub fn decide(&self, check: &Check<'_>, now: Timestamp) -> Pending<Decision> {
        let Check { device, component, version, rules } = *check;
        let command = Command::Check { device: device.to_owned(), component, version: version.into(), rules };
        self.submit(command, now, |outcome| if let Outcome::Decision(decision) = outcome { Some(decision) } else { None })
    }

    /// Records how an upgrade goes. Durable once answered; a repeat changes nothing and is answered alike.
    pub fn report(&self, report: Report, now: Timestamp) -> Pending<Reported> {
        self.submit(Command::Report(report), now, reported)
    }

    /// Records the end of an upgrade told by versions alone.
    pub fn report_version(&self, report: VersionReport, now: Timestamp) -> Pending<Reported> {
        self.submit(Command::ReportVersion(Box::new(report)), now, reported)
    }

    /// A component runs this version; it asks for nothing. Writes only where that is news.
    pub fn note_version(
        &self,
        device: DeviceRef<'_>,
        component: Component,
        version: &str,
        register: bool,
        now: Timestamp,
    ) -> Pending<()> {
        if self.inner.shared.published.runs(device, component, version) {
            return Pending::ready(Ok(()));
        }
        let command = Command::NoteVersion { device: device.to_owned(), component, version: version.into(), register };
        self.submit(command, now, done)
    }

    /// A gateway, or a device of its own, can be sent to from now on: what is due to it and those attached is offered to them without
    /// their asking, in the order of the devices, under the same policies and permits as if they asked. Each offer is an event.
    ///
    /// Said again, with other devices attached, when those change. A restart forgets it.
    pub fn connect(&self, connect: Connect, now: Timestamp) -> Pending<Connected> {
        self.submit(Command::Connect(Box::new(connect)), now, |outcome| {
            if let Outcome::Connected(connected) = outcome { Some(connected) } else { None }
        })
    }

    /// It can be sent to no more. Without effect where a connection of a later epoch has replaced this one.
    pub fn disconnect(&self, gateway: DeviceName, epoch: u64, now: Timestamp) -> Pending<()> {
        self.submit(Command::Disconnect { gateway, epoch }, now, done)
    }

    /// Takes served bytes for download progress, in percent of the image.
    pub fn served(&self, upgrade: UpgradeId, percent: u8, now: Timestamp) -> Pending<Reported> {
        self.submit(Command::Served { upgrade, percent }, now, reported)
    }

    // Operators

    pub fn put_product(&self, new: NewProduct, now: Timestamp) -> Pending<Arc<Product>> {
        self.submit(Command::PutProduct(new), now, |outcome| if let Outcome::Product(row) = outcome { Some(row) } else { None })
    }

    /// Refused while it has tasks, firmware or devices.
    pub fn delete_product(&self, organization: &str, product_id: &str, now: Timestamp) -> Pending<()> {
        self.submit(Command::DeleteProduct { organization: organization.into(), product_id: product_id.into() }, now, done)
    }

    /// Creates or replaces devices; each is answered on its own.
    pub fn put_devices(
        &self,
        organization: &str,
        devices: Vec<NewDevice>,
        register_products: bool,
        now: Timestamp,
    ) -> Pending<Vec<Result<Arc<Device>, String>>> {
        let command = Command::PutDevices { organization: organization.into(), devices, register_products };
        self.submit(command, now, |outcome| if let Outcome::Devices(rows) = outcome { Some(rows) } else { None })
    }

    /// What the device signs its logins with, encrypted by the caller; `None` takes it away. Other writes of the device leave it be.
    pub fn put_device_secret(&self, device: DeviceName, secret_encrypted: Option<Vec<u8>>, now: Timestamp) -> Pending<()> {
        self.submit(Command::PutDeviceSecret { device, secret_encrypted }, now, done)
    }

    /// Its upgrades go with it, and give back their permits.
    pub fn delete_device(&self, device: DeviceName, now: Timestamp) -> Pending<()> {
        self.submit(Command::DeleteDevice(device), now, done)
    }

    /// Records that an organization holds an image that [`images`](Self::images) has sealed.
    pub fn put_image(&self, image: Image, now: Timestamp) -> Pending<Arc<Image>> {
        self.submit(
            Command::PutImage(Box::new(image)),
            now,
            |outcome| if let Outcome::Image(row) = outcome { Some(row) } else { None },
        )
    }

    /// Refused while firmware or a task names it.
    pub fn delete_image(&self, organization: &str, id: ImageId, now: Timestamp) -> Pending<()> {
        self.submit(Command::DeleteImage { organization: organization.into(), id }, now, done)
    }

    pub fn create_firmware(&self, new: NewFirmware, register_product: bool, now: Timestamp) -> Pending<Arc<Firmware>> {
        self.submit(Command::CreateFirmware { new: Box::new(new), register_product }, now, firmware)
    }

    /// Replaces everything but its id, number, product and creation time.
    pub fn update_firmware(&self, id: FirmwareId, new: NewFirmware, now: Timestamp) -> Pending<Arc<Firmware>> {
        self.submit(Command::UpdateFirmware { id, new: Box::new(new) }, now, firmware)
    }

    /// Refused while a task names it, or a started one leads to its version.
    pub fn delete_firmware(&self, organization: &str, id: FirmwareId, now: Timestamp) -> Pending<()> {
        self.submit(Command::DeleteFirmware { organization: organization.into(), id }, now, done)
    }

    pub fn create_task(&self, new: NewTask, register_product: bool, now: Timestamp) -> Pending<Arc<Task>> {
        self.submit(Command::CreateTask { new: Box::new(new), register_product }, now, task)
    }

    /// All of them, or, where one is refused, none. Those born started begin together.
    pub fn create_tasks(&self, new: Vec<NewTask>, now: Timestamp) -> Pending<Vec<Arc<Task>>> {
        self.submit(Command::CreateTasks(new), now, |outcome| if let Outcome::Tasks(rows) = outcome { Some(rows) } else { None })
    }

    /// The same action again changes nothing, or is refused where `rules` are strict.
    pub fn act_on_task(
        &self,
        organization: &str,
        id: TaskId,
        action: TaskAction,
        rules: ActionRules,
        now: Timestamp,
    ) -> Pending<Arc<Task>> {
        self.submit(Command::ActOnTask { organization: organization.into(), id, action, rules }, now, task)
    }

    /// Its upgrades go with it, and give back their permits.
    pub fn delete_task(&self, organization: &str, id: TaskId, rules: ActionRules, now: Timestamp) -> Pending<()> {
        self.submit(Command::DeleteTask { organization: organization.into(), id, rules }, now, done)
    }

    /// On all of the devices, or on none.
    pub fn act_on_upgrades(&self, action: UpgradesAction, now: Timestamp) -> Pending<()> {
        self.submit(Command::ActOnUpgrades(Box::new(action)), now, done)
    }

    pub fn put_token(&self, token: Token, now: Timestamp) -> Pending<Arc<Token>> {
        self.submit(
            Command::PutToken(Box::new(token)),
            now,
            |outcome| if let Outcome::Token(row) = outcome { Some(row) } else { None },
        )
    }

    /// `organization`: only a token of it; `None`: any.
    pub fn revoke_token(&self, organization: Option<&str>, id: TokenId, now: Timestamp) -> Pending<()> {
        self.submit(Command::RevokeToken { organization: organization.map(Into::into), id }, now, done)
    }

    pub fn put_app(&self, app: App, now: Timestamp) -> Pending<Arc<App>> {
        self.submit(Command::PutApp(Box::new(app)), now, |outcome| if let Outcome::App(row) = outcome { Some(row) } else { None })
    }

    /// `organization`: only an application of it; `None`: any.
    pub fn delete_app(&self, organization: Option<&str>, id: &str, now: Timestamp) -> Pending<()> {
        self.submit(Command::DeleteApp { organization: organization.map(Into::into), id: id.into() }, now, done)
    }

    /// Creates or replaces. Who delivers begins with the event after its `position`.
    pub fn put_subscription(&self, row: Subscription, now: Timestamp) -> Pending<Arc<Subscription>> {
        self.submit(Command::PutSubscription(Box::new(row)), now, |outcome| {
            if let Outcome::Subscription(row) = outcome { Some(row) } else { None }
        })
    }

    pub fn delete_subscription(&self, organization: &str, id: &str, now: Timestamp) -> Pending<()> {
        self.submit(Command::DeleteSubscription { organization: organization.into(), id: id.into() }, now, done)
    }

    /// Everything up to `position` was delivered or given up. Durable once answered.
    pub fn advance_subscription(&self, id: &SubscriptionId, position: u64, now: Timestamp) -> Pending<()> {
        self.submit(Command::AdvanceSubscription { id: SubscriptionId::clone(id), position }, now, done)
    }

    /// Lock-free: the token with this id, if it is there; the caller compares the secret and the time.
    pub fn token(&self, id: TokenId) -> Option<Arc<Token>> {
        self.inner.shared.published.token(id)
    }

    /// Lock-free: the size and digests of an image that some organization holds.
    pub fn image(&self, id: ImageId) -> Option<Arc<Image>> {
        self.inner.shared.published.image(id)
    }

    /// Reads a consistent, durable state. Takes a short read lock: for operators, not for devices. `read` may run twice.
    pub async fn read<R>(&self, read: impl FnMut(&State) -> R) -> Result<R, Error> {
        self.inner.shared.read(read).await
    }

    /// The same for callers without an async runtime.
    pub fn read_blocking<R>(&self, read: impl FnMut(&State) -> R) -> Result<R, Error> {
        block_on(self.read(read))
    }

    /// Upgrades as stored, finished ones too, as of this call or later. Blocks on the disk.
    pub fn upgrades(&self, query: &UpgradeQuery) -> Result<Vec<Upgrade>, Error> {
        Ok(self.inner.archive.upgrades(query, self.inner.shared.committed_group())?)
    }

    /// Up to `limit` events from sequence number `from` on. Blocks on the disk where they are no longer in memory.
    pub fn events(&self, from: u64, limit: usize) -> Result<EventPage, Error> {
        let shared = &self.inner.shared;
        let from = from.max(1);
        let last = shared.events.last_sequence();
        if from > last {
            return Ok(EventPage { events: Vec::new(), next: from });
        }
        let events = match shared.events.from(from, limit) {
            Some(events) => events,
            None => {
                let events = self.inner.archive.events(from, limit, shared.committed_group())?;
                events.into_iter().map(Arc::new).collect()
            }
        };
        let next = events.last().map_or(from, |event| event.sequence + 1);
        Ok(EventPage { events, next })
    }

    /// The sequence number of the newest durable event, and its changes: wait on it, then read on.
    pub fn event_sequence(&self) -> watch::Receiver<u64> {
        self.inner.shared.events.watch()
    }

    // The clock

    /// Moves what is due: deadlines, retention. Returns when it should be called next; a time that has passed means at once.
    pub fn tick(&self, now: Timestamp) -> Pending<Option<Timestamp>> {
        self.submit(Command::Tick, now, |outcome| if let Outcome::Ticked(next) = outcome { Some(next) } else { None })
    }

    // Whoever runs it

    /// The images of this engine.
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Commands that wait for the writer; none once it has ended.
    pub fn queue_length(&self) -> usize {
        if self.inner.shared.has_ended() { 0 } else { self.inner.shared.queued.load(Ordering::Relaxed) }
    }

    /// False once the store has failed: reads go on, commands are refused.
    pub fn is_writable(&self) -> bool {
        self.inner.shared.is_writable()
    }

    /// Waits until everything accepted is durable, and stops the writer. Blocks.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Inner {
    fn close(&self) {
        self.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = writer.map(JoinHandle::join) {
            tracing::error!("the writer ended by a panic; what it had acknowledged is on disk");
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Engine").field("images", &self.images).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// What has been read of a store so far.
struct Loading {
    limits: Limits,
    published: Arc<Published>,
    state: State,
    events: Vec<Arc<Event>>,
}

impl Loading {
    fn new(limits: Limits) -> Self {
        let published = Arc::new(Published::new(limits.clone()));
        let state = State::new(limits.clone(), Arc::clone(&published));
        Self { limits, published, state, events: Vec::new() }
    }

    fn take(&mut self, loaded: Loaded) {
        if let Loaded::Row(Row::Event(event)) = &loaded {
            self.events.push(Arc::clone(event));
        }
        self.state.load(loaded);
    }
}

/// What an operating system's error means to whoever opens an engine.
fn io_error(doing: &str, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
        _ => StoreErrorKind::Failed,
    };
    Error::Store(StoreError::new(kind, format!("{doing}: {error}")).caused_by(error))
}

fn done(outcome: Outcome) -> Option<()> {
    matches!(outcome, Outcome::Done).then_some(())
}

fn reported(outcome: Outcome) -> Option<Reported> {
    if let Outcome::Reported(reported) = outcome { Some(reported) } else { None }
}

fn firmware(outcome: Outcome) -> Option<Arc<Firmware>> {
    if let Outcome::Firmware(row) = outcome { Some(row) } else { None }
}

fn task(outcome: Outcome) -> Option<Arc<Task>> {
    if let Outcome::Task(row) = outcome { Some(row) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Artifact, Component, Policy};
    use crate::{CheckRules, NewTask, TaskTarget};
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_check_is_answered_while_every_lock_of_the_engine_is_held() {
        const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::open(Options::new(folder.path())).unwrap();
        for (from, maximum_concurrency) in [("free", None), ("capped", Some(1))] {
            let artifact = Artifact { url: Some("http://elsewhere/2".into()), size: 9, md5: "m".into(), ..Artifact::default() };
            let target = TaskTarget::Artifact { version: "2".into(), artifact };
            let policy = Policy { maximum_concurrency, ..Policy::default() };
            let new = NewTask { policy, start: true, ..NewTask::new("acme", "lamp", vec![from.into()], target) };
            engine.create_task(new, true, NOW).wait().unwrap();
        }
        let devices = [("one", "free"), ("two", "capped"), ("three", "capped"), ("four", "2"), ("five", "untouched")];
        let check = |device_id, version| Check {
            device: DeviceRef { organization: "acme", product_id: "lamp", device_id },
            component: Component::MAIN,
            version,
            rules: CheckRules { register: true, ..CheckRules::default() },
        };
        for (id, version) in devices {
            engine.decide(&check(id, version), NOW).wait().unwrap();
        }
        let (told, answers) = mpsc::channel();
        let asking = engine.clone();
        engine.inner.shared.while_locked(|| {
            let _writer = engine.inner.writer.lock().unwrap();
            std::thread::spawn(move || {
                let answers = devices.map(|(id, version)| asking.check(&check(id, version), NOW.plus_seconds(1)));
                told.send(answers).unwrap();
            });
            // Only a check that waits for one of the locks lets this time pass.
            let answers = answers.recv_timeout(Duration::from_secs(60)).expect("no check waits for a lock");
            assert!(
                matches!(
                    answers,
                    [
                        Checked::Decided(Decision::Offer(_)),
                        Checked::Decided(Decision::Offer(_)),
                        Checked::Decided(Decision::Wait(_)),
                        Checked::Decided(Decision::UpToDate),
                        Checked::Decided(Decision::NoTask),
                    ]
                ),
                "{answers:?}"
            );
        });
    }
}
