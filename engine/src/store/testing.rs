//! A store that keeps its rows in memory: for tests of what lies above a store, and as the oracle of [`sqlite`](super::sqlite).
//!
//! It outlives what is opened on it: [`MemoryStore::open`] may be called again and again, as a program that is started again.

use super::{Archive, Change, Group, Key, LOADED_EVENTS_MAX, Loaded, Opened, Row, Store, StoreError, StoreErrorKind, UpgradeQuery};
use crate::model::{
    App, AppId, Device, DeviceNumber, Event, Firmware, FirmwareNumber, Image, ImageId, Pace, Product, ProductNumber, Subscription,
    SubscriptionId, Task, TaskNumber, Token, TokenId, Upgrade,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clones share one store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    memory: Arc<Mutex<Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    products: BTreeMap<ProductNumber, Arc<Product>>,
    images: BTreeMap<(Arc<str>, ImageId), Arc<Image>>,
    firmware: BTreeMap<FirmwareNumber, Arc<Firmware>>,
    devices: BTreeMap<DeviceNumber, Arc<Device>>,
    tasks: BTreeMap<TaskNumber, Arc<Task>>,
    paces: BTreeMap<TaskNumber, Arc<Pace>>,
    upgrades: BTreeMap<(TaskNumber, DeviceNumber), Arc<Upgrade>>,
    tokens: BTreeMap<TokenId, Arc<Token>>,
    apps: BTreeMap<AppId, Arc<App>>,
    subscriptions: BTreeMap<SubscriptionId, Arc<Subscription>>,
    events: BTreeMap<u64, Arc<Event>>,
    opened: Opened,
    commits: u64,
    fail_next: Option<StoreErrorKind>,
    failed: bool,
}

impl MemoryStore {
    pub fn new(store: u32) -> Self {
        let made = Self::default();
        made.memory().opened.store = store;
        made
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over every row, as a store on disk does when it is opened. After a failure it takes commits again from here on.
    pub fn open(&self, sink: &mut dyn FnMut(Loaded)) -> Result<(Self, Arc<Self>, Opened), StoreError> {
        let (rows, opened) = {
            let mut memory = self.memory();
            memory.failed = false;
            memory.opened.first_event_sequence = memory.events.keys().next().copied().unwrap_or(0);
            (memory.loaded(), memory.opened)
        };
        rows.into_iter().for_each(sink);
        Ok((self.clone(), Arc::new(self.clone()), opened))
    }

    /// The next commit is refused with an error of this kind and keeps nothing. Where a store on disk would refuse all further
    /// ones too, so does this one, until it is opened again.
    pub fn fail_next_commit(&self, kind: StoreErrorKind) {
        self.memory().fail_next = Some(kind);
    }

    /// How many groups were committed.
    pub fn commits(&self) -> u64 {
        self.memory().commits
    }
}

impl Store for MemoryStore {
    fn commit(&mut self, group: &Group) -> Result<(), StoreError> {
        let mut memory = self.memory();
        if memory.failed {
            return Err(StoreError::new(StoreErrorKind::Failed, "the store failed before; open it anew"));
        }
        if let Some(kind) = memory.fail_next.take() {
            memory.failed = !matches!(kind, StoreErrorKind::Full | StoreErrorKind::Busy);
            return Err(StoreError::new(kind, "the test asked for this failure"));
        }
        assert_eq!(group.number, memory.opened.last_group + 1, "groups are committed in order, each once");
        memory.opened.last_group = group.number;
        memory.commits += 1;
        for change in &group.changes {
            match change {
                Change::Put(row) => memory.put(row.clone()),
                Change::Delete(key) => memory.delete(key),
            }
        }
        Ok(())
    }
}

impl Archive for MemoryStore {
    fn upgrades(&self, query: &UpgradeQuery, _group: u64) -> Result<Vec<Upgrade>, StoreError> {
        let memory = self.memory();
        let mut found: Vec<Upgrade> = memory
            .upgrades
            .values()
            .filter(|upgrade| query.task.is_none_or(|task| upgrade.task == task))
            .filter(|upgrade| query.device.is_none_or(|device| upgrade.device == device))
            .filter(|upgrade| query.after.is_none_or(|after| upgrade.device > after))
            .filter(|upgrade| query.states.is_empty() || query.states.contains(&upgrade.state))
            .map(|upgrade| Upgrade::clone(upgrade))
            .collect();
        found.sort_by_key(|upgrade| (upgrade.device, upgrade.task));
        found.truncate(query.limit);
        Ok(found)
    }

    fn events(&self, from: u64, limit: usize, _group: u64) -> Result<Vec<Event>, StoreError> {
        Ok(self.memory().events.range(from..).take(limit).map(|(_, event)| Event::clone(event)).collect())
    }
}

impl Memory {
    fn put(&mut self, row: Row) {
        self.opened.next.note(&row);
        match row {
            Row::Product(row) => drop(self.products.insert(row.number, row)),
            Row::Device(row) => drop(self.devices.insert(row.number, row)),
            Row::Image(row) => drop(self.images.insert((Arc::clone(&row.organization), row.id), row)),
            Row::Firmware(row) => drop(self.firmware.insert(row.number, row)),
            Row::Task(row) => drop(self.tasks.insert(row.number, row)),
            Row::Pace(row) => drop(self.paces.insert(row.task, row)),
            Row::Upgrade(row) => drop(self.upgrades.insert((row.task, row.device), row)),
            Row::Token(row) => drop(self.tokens.insert(row.id, row)),
            Row::Subscription(row) => drop(self.subscriptions.insert(Arc::clone(&row.id), row)),
            Row::App(row) => drop(self.apps.insert(Arc::clone(&row.id), row)),
            Row::Event(row) => {
                self.opened.last_event_sequence = self.opened.last_event_sequence.max(row.sequence);
                self.events.insert(row.sequence, row);
            }
        }
    }

    fn delete(&mut self, key: &Key) {
        match key {
            Key::Product(number) => drop(self.products.remove(number)),
            Key::Device(number) => drop(self.devices.remove(number)),
            Key::Image { organization, id } => drop(self.images.remove(&(Arc::clone(organization), *id))),
            Key::Firmware(number) => drop(self.firmware.remove(number)),
            Key::Task(number) => drop(self.tasks.remove(number)),
            Key::Pace(task) => drop(self.paces.remove(task)),
            Key::Upgrade { task, device } => drop(self.upgrades.remove(&(*task, *device))),
            Key::UpgradesOfTask(task) => self.upgrades.retain(|(of, _), _| of != task),
            Key::UpgradesOfDevice(device) => self.upgrades.retain(|(_, of), _| of != device),
            Key::Token(id) => drop(self.tokens.remove(id)),
            Key::Subscription(id) => drop(self.subscriptions.remove(id)),
            Key::App(id) => drop(self.apps.remove(id)),
            Key::EventsBefore(sequence) => self.events = self.events.split_off(sequence),
        }
    }

    fn loaded(&self) -> Vec<Loaded> {
        let rows = (self.products.values().cloned().map(Row::Product))
            .chain(self.images.values().cloned().map(Row::Image))
            .chain(self.firmware.values().cloned().map(Row::Firmware))
            .chain(self.devices.values().cloned().map(Row::Device))
            .chain(self.tasks.values().cloned().map(Row::Task))
            .chain(self.paces.values().cloned().map(Row::Pace))
            .map(Loaded::Row);
        let upgrades = self.upgrades.values().map(|upgrade| match upgrade.state.is_finished() {
            true => Loaded::FinishedUpgrade {
                task: upgrade.task,
                device: upgrade.device,
                state: upgrade.state,
                succeeded_before: upgrade.succeeded_before,
            },
            false => Loaded::Row(Row::Upgrade(Arc::clone(upgrade))),
        });
        let older_events = self.events.len().saturating_sub(LOADED_EVENTS_MAX);
        let rest = (self.tokens.values().cloned().map(Row::Token))
            .chain(self.apps.values().cloned().map(Row::App))
            .chain(self.subscriptions.values().cloned().map(Row::Subscription))
            .chain(self.events.values().skip(older_events).cloned().map(Row::Event))
            .map(Loaded::Row);
        rows.chain(upgrades).chain(rest).collect()
    }
}
