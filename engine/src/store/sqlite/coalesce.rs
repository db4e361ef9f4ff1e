//! Many groups as one: of each row only what the last of them made of it.
//!
//! A range is deleted before any row is written. That is right because a deletion of a range also removes what it covers from
//! the rows gathered so far, so every row left was written after it.

use crate::model::{
    App, AppId, Device, DeviceNumber, Event, Firmware, FirmwareNumber, Image, ImageId, Pace, Product, ProductNumber, Subscription,
    SubscriptionId, Task, TaskNumber, Token, TokenId, Upgrade,
};
use crate::store::{Change, Group, Key, NextNumbers, Row};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A row, or `None` where it was deleted; by key, so that tables are written in their own order.
pub(super) type Rows<K, R> = BTreeMap<K, Option<Arc<R>>>;

/// What a run of groups did to the tables.
#[derive(Debug, Default)]
pub(super) struct Coalesced {
    pub(super) products: Rows<ProductNumber, Product>,
    pub(super) devices: Rows<DeviceNumber, Device>,
    pub(super) images: Rows<(Arc<str>, ImageId), Image>,
    pub(super) firmware: Rows<FirmwareNumber, Firmware>,
    pub(super) tasks: Rows<TaskNumber, Task>,
    pub(super) paces: Rows<TaskNumber, Pace>,
    pub(super) upgrades: Rows<(TaskNumber, DeviceNumber), Upgrade>,
    pub(super) tokens: Rows<TokenId, Token>,
    pub(super) apps: Rows<AppId, App>,
    pub(super) subscriptions: Rows<SubscriptionId, Subscription>,
    pub(super) events: Rows<u64, Event>,
    pub(super) upgrades_of_task: BTreeSet<TaskNumber>,
    pub(super) upgrades_of_device: BTreeSet<DeviceNumber>,
    /// Events with a smaller sequence number go.
    pub(super) events_before: u64,
    /// The largest sequence number of an event among them; 0 where there was none.
    pub(super) last_event: u64,
    pub(super) next: NextNumbers,
    /// The newest group in it; 0 while there is none.
    pub(super) last_group: u64,
    pub(super) changes: usize,
    /// Where the gathered upgrades of a device are. May name one twice, or one that is gone.
    tasks_of_device: HashMap<DeviceNumber, Vec<TaskNumber>>,
}

impl Coalesced {
    pub(super) fn add(&mut self, group: Group) {
        self.last_group = group.number;
        self.changes += group.changes.len();
        for change in group.changes {
            match change {
                Change::Put(row) => self.put(row),
                Change::Delete(key) => self.delete(key),
            }
        }
    }

    fn put(&mut self, row: Row) {
        self.next.note(&row);
        match row {
            Row::Product(row) => drop(self.products.insert(row.number, Some(row))),
            Row::Device(row) => drop(self.devices.insert(row.number, Some(row))),
            Row::Image(row) => drop(self.images.insert((Arc::clone(&row.organization), row.id), Some(row))),
            Row::Firmware(row) => drop(self.firmware.insert(row.number, Some(row))),
            Row::Task(row) => drop(self.tasks.insert(row.number, Some(row))),
            Row::Pace(row) => drop(self.paces.insert(row.task, Some(row))),
            Row::Upgrade(row) => self.set_upgrade(row.task, row.device, Some(row)),
            Row::Token(row) => drop(self.tokens.insert(row.id, Some(row))),
            Row::Subscription(row) => drop(self.subscriptions.insert(Arc::clone(&row.id), Some(row))),
            Row::App(row) => drop(self.apps.insert(Arc::clone(&row.id), Some(row))),
            Row::Event(row) => {
                self.last_event = self.last_event.max(row.sequence);
                self.events.insert(row.sequence, Some(row));
            }
        }
    }

    fn delete(&mut self, key: Key) {
        match key {
            Key::Product(number) => drop(self.products.insert(number, None)),
            Key::Device(number) => drop(self.devices.insert(number, None)),
            Key::Image { organization, id } => drop(self.images.insert((organization, id), None)),
            Key::Firmware(number) => drop(self.firmware.insert(number, None)),
            Key::Task(number) => drop(self.tasks.insert(number, None)),
            Key::Pace(task) => drop(self.paces.insert(task, None)),
            Key::Upgrade { task, device } => self.set_upgrade(task, device, None),
            Key::UpgradesOfTask(task) => {
                let of_task = (task, DeviceNumber(0))..=(task, DeviceNumber(u32::MAX));
                let gone: Vec<_> = self.upgrades.range(of_task).map(|(key, _)| *key).collect();
                for key in gone {
                    self.upgrades.remove(&key);
                }
                self.upgrades_of_task.insert(task);
            }
            Key::UpgradesOfDevice(device) => {
                for task in self.tasks_of_device.remove(&device).unwrap_or_default() {
                    self.upgrades.remove(&(task, device));
                }
                self.upgrades_of_device.insert(device);
            }
            Key::Token(id) => drop(self.tokens.insert(id, None)),
            Key::Subscription(id) => drop(self.subscriptions.insert(id, None)),
            Key::App(id) => drop(self.apps.insert(id, None)),
            Key::EventsBefore(sequence) => {
                self.events = self.events.split_off(&sequence);
                self.events_before = self.events_before.max(sequence);
            }
        }
    }

    fn set_upgrade(&mut self, task: TaskNumber, device: DeviceNumber, row: Option<Arc<Upgrade>>) {
        if self.upgrades.insert((task, device), row).is_none() {
            self.tasks_of_device.entry(device).or_default().push(task);
        }
    }
}
