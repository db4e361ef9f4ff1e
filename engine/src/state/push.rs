//! Upgrades sent to devices that are there, without being asked: what a check does for a device that asks, this does for one that is
//! connected, by the same judgement and under the same permits.
//!
//! Who is connected isn't a row: a restart finds nobody there, and devices come back by themselves. What is kept of them are *hints*,
//! which are always looked at again before anything is granted; a hint too many costs one look, and none is ever missing:
//!
//! - `anew`: devices whose case has changed, to be judged;
//! - a queue for each task: devices that wait for something of the whole task (a permit, the rate, the window), in the order of their
//!   numbers, so that a permit that is given back goes to the first of them without a look at any other;
//! - alarms: when a device or a task is to be looked at again.
//!
//! Where a group couldn't be committed, its rows are put back the same way and leave the same hints.
//!
//! Devices behind one gateway are told by one message at a time. So they begin together, or one after the other: while one of them
//! runs, the others wait; and whoever may begin together with the first, does.

use super::{State, WaitReason};
use crate::error::Error;
use crate::index::StartKey;
use crate::model::*;
use crate::rollout::{self, Asker, Verdict, Window};
use crate::state::devices::Truth;
use crate::state::{Connect, Connected, DeviceName};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// How many devices one command looks at for its own consequences; the clock goes on with the rest.
const LOOKS_MAX: usize = 1_000;

/// Who is connected, and who of them may have something coming.
#[derive(Debug, Default)]
pub(super) struct Pushing {
    connections: HashMap<DeviceNumber, Connection>,
    /// Of each connected device the gateway whose connection it is; a device of its own is its own gateway.
    gateways: HashMap<DeviceNumber, DeviceNumber>,
    connected: RoaringBitmap,
    anew: RoaringBitmap,
    changed: BTreeSet<TaskNumber>,
    /// Tasks whose first waiting device may begin.
    open: BTreeSet<TaskNumber>,
    /// The server had no permit left, and has one again.
    server_has_room: bool,
    queues: BTreeMap<TaskNumber, Queue>,
    task_alarms: Alarms<TaskNumber>,
    device_alarms: Alarms<DeviceNumber>,
    /// Devices deleted in the group under way, and what they were connected by, should it be undone.
    parted: HashMap<DeviceNumber, Parted>,
}

/// How a device was connected when it was deleted.
#[derive(Debug)]
enum Parted {
    /// By itself, or as a gateway.
    Connection(Connection),
    /// Behind this gateway.
    Behind(DeviceNumber),
}

#[derive(Debug)]
struct Connection {
    /// Told by the front end, so that the end of an old connection doesn't end a newer one.
    epoch: u64,
    /// The gateway first.
    members: Vec<DeviceNumber>,
    component: Component,
    together_max: usize,
}

/// Connected devices that wait for something of their task.
#[derive(Debug, Default)]
struct Queue {
    /// Forced by an operator: nothing but a cap holds them back.
    forced: RoaringBitmap,
    ready: RoaringBitmap,
    /// Their wave isn't open.
    later: RoaringBitmap,
}

impl Queue {
    fn first(&self) -> Option<DeviceNumber> {
        self.forced.min().or_else(|| self.ready.min()).map(DeviceNumber)
    }

    fn remove(&mut self, device: DeviceNumber) {
        self.forced.remove(device.0);
        self.ready.remove(device.0);
    }

    fn is_empty(&self) -> bool {
        self.forced.is_empty() && self.ready.is_empty() && self.later.is_empty()
    }
}

/// One time for each key.
#[derive(Debug)]
struct Alarms<K> {
    by_time: BTreeSet<(Timestamp, K)>,
    by_key: BTreeMap<K, Timestamp>,
}

impl<K> Default for Alarms<K> {
    fn default() -> Self {
        Self { by_time: BTreeSet::new(), by_key: BTreeMap::new() }
    }
}

impl<K: Copy + Ord> Alarms<K> {
    /// At `at`, or when it is set already if that is earlier.
    fn set(&mut self, key: K, at: Timestamp) {
        match self.by_key.get(&key) {
            Some(there) if *there <= at => return,
            Some(there) => drop(self.by_time.remove(&(*there, key))),
            None => {}
        }
        self.by_key.insert(key, at);
        self.by_time.insert((at, key));
    }

    fn clear(&mut self, key: K) {
        if let Some(there) = self.by_key.remove(&key) {
            self.by_time.remove(&(there, key));
        }
    }

    fn take_due(&mut self, now: Timestamp) -> Option<K> {
        let (at, key) = *self.by_time.first().filter(|(at, _)| *at <= now)?;
        self.by_time.remove(&(at, key));
        self.by_key.remove(&key);
        Some(key)
    }

    fn next(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

/// What a look at a connected device came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// It was sent its upgrade.
    Granted,
    /// It stands in this task's queue, for something that holds everybody there.
    Held(TaskNumber),
    /// It has nothing coming now; where it will have, something will say so.
    Nothing,
}

impl Pushing {
    fn attach(&mut self, device: DeviceNumber, gateway: DeviceNumber) {
        self.gateways.insert(device, gateway);
        self.connected.insert(device.0);
        self.anew.insert(device.0);
    }
}

impl State {
    /// A gateway, or a device of its own, is connected, with these devices attached to it. Said again with others, those replace them.
    /// Of two connections the one with the larger epoch counts, in whatever order they are told.
    pub(super) fn connect(&mut self, connect: &Connect, at: Timestamp) -> Result<Connected, Error> {
        let asking = self.asking(&connect.gateway, connect.register, at)?;
        let gateway = asking.device;
        if self.pushing.connections.get(&gateway).is_some_and(|there| there.epoch > connect.epoch) {
            return Ok(Connected::default());
        }
        if self.pushing.gateways.get(&gateway).is_some_and(|other| *other != gateway) {
            // It was attached to another gateway, and now speaks for itself.
            self.detach(gateway);
        }
        let mut members = vec![gateway];
        let mut refused = Vec::new();
        for attached in &connect.attached {
            match self.attachable(&connect.gateway, gateway, attached, connect.register, at) {
                Ok(number) if members.contains(&number) => {}
                Ok(number) => members.push(number),
                Err(reason) => refused.push((Arc::clone(attached), reason)),
            }
        }
        self.forget_connection(gateway);
        for member in &members {
            self.pushing.attach(*member, gateway);
        }
        let named = members.iter().filter_map(|member| self.device_name_of(*member)).collect();
        self.pushing.connections.insert(gateway, {
            let Connect { epoch, component, together_max, .. } = *connect;
            Connection { epoch, members, component, together_max }
        });
        Ok(Connected { members: named, refused })
    }

    fn device_name_of(&self, number: DeviceNumber) -> Option<DeviceName> {
        let row = self.device_row(number)?;
        let product = self.product_by_number(row.product)?;
        let (organization, product_id) = (Arc::clone(&product.organization), Arc::clone(&product.id));
        Some(DeviceName { organization, product_id, device_id: (*row.id).into() })
    }

    /// Which device is meant by what a gateway says hangs behind it, if it may say so.
    ///
    /// One of the gateway's own product that nobody can log in as, or one that an operator has put behind this gateway. Whoever is
    /// connected by itself, or by another gateway, isn't taken away from there.
    fn attachable(
        &mut self,
        gateway_name: &DeviceName,
        gateway: DeviceNumber,
        device_id: &Arc<str>,
        register: bool,
        at: Timestamp,
    ) -> Result<DeviceNumber, String> {
        let organization = &gateway_name.organization;
        let found = self.device_sets(organization).with_id(device_id);
        let own_product = self.device_row(gateway).map(|row| row.product);
        let fits = |number: u32| {
            let row = self.device_row(DeviceNumber(number))?;
            let bound = row.details().gateway.as_deref();
            let fits = bound == Some(&*gateway_name.device_id) || (bound.is_none() && Some(row.product) == own_product);
            fits.then_some(row.number)
        };
        let mut fitting = found.iter().filter_map(fits);
        let number = match (fitting.next(), fitting.next()) {
            (Some(number), None) => number,
            (Some(_), Some(_)) => return Err(format!("several devices of the organization are called {device_id}")),
            (None, _) if !found.is_empty() => {
                return Err(format!(
                    "device {device_id} belongs to another product or gateway; put it behind {}",
                    gateway_name.device_id
                ));
            }
            (None, _) => {
                let name = DeviceName { device_id: Arc::clone(device_id), ..gateway_name.clone() };
                self.asking(&name, register, at).map_err(|error| error.to_string())?.device
            }
        };
        let row = self.device_row(number).cloned();
        let is_bound = |row: &Arc<Device>| row.details().gateway.is_some();
        let speaks_for_itself = row.filter(|row| !is_bound(row)).is_some_and(|row| self.has_credentials(gateway_name, &row));
        match self.pushing.gateways.get(&number) {
            Some(other) if *other != gateway => Err(format!("device {device_id} is connected elsewhere")),
            _ if number != gateway && speaks_for_itself => {
                let gateway = &gateway_name.device_id;
                Err(format!(
                    "device {device_id} has a token or a secret of its own; if it hangs behind {gateway}, say so in its `gateway`"
                ))
            }
            _ => Ok(number),
        }
    }

    /// Whether somebody can log in as this device.
    fn has_credentials(&self, gateway: &DeviceName, row: &Device) -> bool {
        let product_id = self.product_by_number(row.product).map(|product| &product.id);
        let has_token = product_id.is_some_and(|product_id| self.has_token(&gateway.organization, product_id, &row.id));
        has_token || row.details().secret_encrypted.is_some()
    }

    /// The connection has ended. That of an epoch before the current one has been replaced, and says nothing any more.
    pub(super) fn disconnect(&mut self, name: &DeviceName, epoch: u64) {
        let product = self.product_number(&name.organization, &name.product_id);
        let Some(gateway) = product.and_then(|product| self.device_number(product, &name.device_id)) else { return };
        if self.pushing.connections.get(&gateway).is_some_and(|connection| connection.epoch == epoch) {
            self.forget_connection(gateway);
        }
    }

    fn forget_connection(&mut self, gateway: DeviceNumber) -> Option<Connection> {
        let connection = self.pushing.connections.remove(&gateway)?;
        for member in &connection.members {
            self.pushing.gateways.remove(member);
            self.pushing.connected.remove(member.0);
            self.pushing.device_alarms.clear(*member);
        }
        Some(connection)
    }

    /// Takes the device away from the gateway that it hangs behind, and says which that was.
    fn detach(&mut self, device: DeviceNumber) -> Option<DeviceNumber> {
        let gateway = self.pushing.gateways.remove(&device)?;
        if let Some(connection) = self.pushing.connections.get_mut(&gateway) {
            connection.members.retain(|member| *member != device);
            // They may have waited for what it ran.
            self.pushing.anew.extend(connection.members.iter().map(|member| member.0));
        }
        self.pushing.connected.remove(device.0);
        self.pushing.device_alarms.clear(device);
        Some(gateway)
    }

    /// Whether the device is connected, by itself or behind its gateway.
    pub fn is_connected(&self, device: DeviceNumber) -> bool {
        self.pushing.connected.contains(device.0)
    }

    /// How many devices are connected.
    pub fn connected_devices(&self) -> u64 {
        self.pushing.connected.len()
    }

    /// What a connected device and those attached to it have been offered and not ended yet, in the order of the offers.
    pub fn offers_behind(&self, gateway: super::DeviceRef<'_>) -> Vec<HeldOffer> {
        let product = self.product_number(gateway.organization, gateway.product_id);
        let Some(number) = product.and_then(|product| self.device_number(product, gateway.device_id)) else { return Vec::new() };
        let alone = [number];
        let members = self.pushing.connections.get(&number).map_or(&alone[..], |connection| &connection.members);
        let live = members.iter().filter_map(|member| Some((self.device_row(*member)?, self.live.get(member)?)));
        let mut offers: Vec<HeldOffer> = live
            .flat_map(|(device, upgrades)| {
                let held = |live: &super::LiveUpgrade| {
                    let (offer, upgrade) = (live.offer.clone()?, Arc::clone(&live.row));
                    Some(HeldOffer { device: Arc::clone(device), offer, upgrade })
                };
                upgrades.iter().filter_map(held)
            })
            .collect();
        offers.sort_by_key(|held| held.upgrade.offer);
        offers
    }

    /// The devices with this name, of whatever organization, and of whatever product unless one is named.
    pub fn devices_called<'a>(&'a self, product_id: Option<&'a str>, device_id: &'a str) -> impl Iterator<Item = DeviceName> + 'a {
        let products = self.products_by_name.values().flat_map(move |names| {
            let named = product_id.and_then(|product_id| names.get(product_id));
            let all = names.values().filter(move |_| product_id.is_none());
            named.into_iter().chain(all)
        });
        let numbers = products.filter_map(|product| self.device_number(*product, device_id));
        numbers.filter_map(|number| self.device_name_of(number))
    }

    // Hints: what rows put and taken away may mean for those who are connected.

    /// An upgrade has given its permit back.
    pub(super) fn hint_permit_free(&mut self, task: TaskNumber) {
        if !self.pushing.connected.is_empty() {
            self.pushing.server_has_room = self.limits.permits_max.is_some();
            self.pushing.open.insert(task);
        }
    }

    /// A device may have something coming that it had not, and so may those that it shares a gateway with.
    pub(super) fn hint_device(&mut self, device: DeviceNumber) {
        let Some(gateway) = self.pushing.gateways.get(&device) else { return };
        if let Some(connection) = self.pushing.connections.get(gateway) {
            self.pushing.anew.extend(connection.members.iter().map(|member| member.0));
        }
    }

    /// A task, or how far it has come, is another than before.
    pub(super) fn hint_task(&mut self, task: TaskNumber) {
        if !self.pushing.connected.is_empty() {
            self.pushing.changed.insert(task);
        }
    }

    /// A device is no more.
    pub(super) fn hint_device_gone(&mut self, device: DeviceNumber) {
        if let Some(connection) = self.forget_connection(device) {
            self.pushing.parted.insert(device, Parted::Connection(connection));
        } else if let Some(gateway) = self.detach(device) {
            self.pushing.parted.insert(device, Parted::Behind(gateway));
        }
    }

    /// A device that was deleted is back, as its deletion couldn't be committed: it is connected as it was. Whoever hung behind it and has
    /// been taken up by somebody else since stays there.
    pub(super) fn hint_device_back(&mut self, device: DeviceNumber) {
        match self.pushing.parted.remove(&device) {
            Some(Parted::Connection(mut connection)) => {
                connection.members.retain(|member| !self.pushing.gateways.contains_key(member));
                for member in &connection.members {
                    self.pushing.attach(*member, device);
                }
                self.pushing.connections.insert(device, connection);
            }
            Some(Parted::Behind(gateway)) => {
                if let Some(connection) = self.pushing.connections.get_mut(&gateway) {
                    connection.members.push(device);
                    self.pushing.attach(device, gateway);
                }
            }
            None => {}
        }
    }

    /// What was deleted stays deleted.
    pub(super) fn forget_parted(&mut self) {
        self.pushing.parted.clear();
    }

    // Looks.

    /// Sends what may be sent now. At most [`LOOKS_MAX`] looks; what is left is gone on with by the next command or the clock.
    pub(super) fn push(&mut self, at: Timestamp) {
        let mut looks = LOOKS_MAX;
        while let Some(task) = self.pushing.changed.pop_first() {
            self.requeue(task);
        }
        while looks > 0
            && let Some(device) = self.pushing.anew.min()
        {
            self.pushing.anew.remove(device);
            looks -= 1;
            self.look_at(DeviceNumber(device), false, at);
        }
        self.open_where_the_server_has_room(&mut looks, at);
        while looks > 0
            && let Some(task) = self.pushing.open.first().copied()
        {
            self.push_task(task, &mut looks, at);
            if looks > 0 {
                self.pushing.open.remove(&task);
            }
        }
    }

    /// Wakes who has waited long enough.
    pub(super) fn ring_alarms(&mut self, at: Timestamp) {
        while let Some(device) = self.pushing.device_alarms.take_due(at) {
            self.pushing.anew.insert(device.0);
        }
        while let Some(task) = self.pushing.task_alarms.take_due(at) {
            self.pushing.open.insert(task);
        }
    }

    /// A permit of the whole server goes to the oldest task in whose queue somebody may begin.
    fn open_where_the_server_has_room(&mut self, looks: &mut usize, at: Timestamp) {
        let has_room = |state: &Self| state.limits.permits_max.is_some_and(|max| state.permits_held < u64::from(max));
        let mut after = None;
        while self.pushing.server_has_room && *looks > 0 && has_room(self) {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let Some((&task, _)) = self.pushing.queues.range((from, Bound::Unbounded)).next() else { break };
            self.push_task(task, looks, at);
            after = Some(task);
        }
        // Out of looks, it goes on with the next command.
        self.pushing.server_has_room &= *looks == 0 && has_room(self);
    }

    /// When the next look is due.
    pub(super) fn next_push(&self, at: Timestamp) -> Option<Timestamp> {
        let pushing = &self.pushing;
        if !(pushing.anew.is_empty() && pushing.open.is_empty() && pushing.changed.is_empty()) || pushing.server_has_room {
            return Some(at);
        }
        pushing.device_alarms.next().into_iter().chain(pushing.task_alarms.next()).min()
    }

    /// A task has changed: whoever waited for it, and whoever it is for, is judged anew.
    fn requeue(&mut self, task: TaskNumber) {
        let queue = self.pushing.queues.remove(&task).unwrap_or_default();
        self.pushing.task_alarms.clear(task);
        let mut devices = queue.forced | queue.ready | queue.later;
        if let Some(entry) = self.task_entry(task).filter(|entry| entry.view.row().status != TaskStatus::Stopped) {
            let waiting = entry.in_state(UpgradeState::Waiting) | entry.in_state(UpgradeState::AwaitingConfirmation);
            devices |= (self.to_come(entry) | waiting) & &self.pushing.connected;
        }
        self.pushing.anew |= devices;
    }

    /// Sends to the first of a task's queue for as long as it may begin.
    fn push_task(&mut self, task: TaskNumber, looks: &mut usize, at: Timestamp) {
        while *looks > 0
            && let Some(first) = self.pushing.queues.get(&task).and_then(Queue::first)
        {
            *looks -= 1;
            if self.look_at(first, true, at) == Look::Held(task) {
                break;
            }
            if let Some(queue) = self.pushing.queues.get_mut(&task) {
                queue.remove(first);
            }
        }
        let end = self.task_entry(task).and_then(|entry| entry.view.row().policy.schedule.end);
        match self.pushing.queues.get(&task) {
            Some(queue) if queue.is_empty() => drop(self.pushing.queues.remove(&task)),
            // Whoever waits for it then may have something else coming.
            Some(_) => end.filter(|end| at < *end).into_iter().for_each(|end| self.pushing.task_alarms.set(task, end)),
            None => {}
        }
    }

    /// Judges a connected device. Where it may begin: sends it its upgrade if `grants`, else puts it in the task's queue, where its
    /// turn is by its number.
    fn look_at(&mut self, device: DeviceNumber, grants: bool, at: Timestamp) -> Look {
        let Some(gateway) = self.pushing.gateways.get(&device).copied() else { return Look::Nothing };
        if self.members_behind(gateway).iter().any(|member| self.upgrading.contains(member.0)) {
            return Look::Nothing;
        }
        let Some(Connection { component, together_max, .. }) = self.pushing.connections.get(&gateway) else { return Look::Nothing };
        let (component, together_max) = (*component, *together_max);
        let look = self.look_alone(device, component, grants, at);
        if look == Look::Granted {
            let mut together = 1;
            for member in self.members_behind(gateway).into_iter().filter(|member| *member != device) {
                if together < together_max && self.look_alone(member, component, true, at) == Look::Granted {
                    together += 1;
                }
            }
        }
        look
    }

    fn members_behind(&self, gateway: DeviceNumber) -> Vec<DeviceNumber> {
        self.pushing.connections.get(&gateway).map(|connection| connection.members.clone()).unwrap_or_default()
    }

    fn look_alone(&mut self, device: DeviceNumber, component: Component, grants: bool, at: Timestamp) -> Look {
        let Some(row) = self.device_row(device).cloned() else { return Look::Nothing };
        match row.components.iter().find(|installed| installed.component == component) {
            Some(installed) => self.look_at_component(&row, installed, grants, at),
            None => Look::Nothing,
        }
    }

    fn look_at_component(&mut self, row: &Device, installed: &Installed, grants: bool, at: Timestamp) -> Look {
        let device = row.number;
        let key = StartKey { product: row.product, component: installed.component, version: Arc::clone(&installed.version) };
        let verdict = {
            let pushed = self.candidates(&key).filter(|view| view.row().mode == TaskMode::Automatic);
            let asker = Asker { row: Some(row), number: device };
            let standing = |task| self.standing(task, device);
            match rollout::choose(pushed, asker, standing, &Truth(self), &self.limits, at) {
                Verdict::NotForIt => return Look::Nothing,
                Verdict::Free(view) => Found::Free(Arc::clone(view.row())),
                Verdict::AskPerson(view, _) => Found::AskPerson(view.row().number),
                Verdict::Wait(wait) => Found::Wait(wait),
            }
        };
        match verdict {
            Found::Free(task) if grants => {
                // A permit was found free in this very command.
                self.grant(&task, device, &installed.version, at);
                Look::Granted
            }
            Found::Free(task) => {
                self.queue(task.number, device);
                self.pushing.open.insert(task.number);
                Look::Held(task.number)
            }
            Found::AskPerson(task) => {
                self.ask_person(task, device, at);
                Look::Nothing
            }
            Found::Wait(wait) => self.wait(device, wait, at),
        }
    }

    /// Sees to it that a device that has to wait is looked at again when it need no longer.
    fn wait(&mut self, device: DeviceNumber, wait: super::Wait, at: Timestamp) -> Look {
        let task = wait.task.number;
        match wait.reason {
            WaitReason::Wave => {
                self.pushing.queues.entry(task).or_default().later.insert(device.0);
                return Look::Nothing;
            }
            WaitReason::BackOff => {
                let until = self.live_upgrade(task, device).and_then(|live| live.row.not_before);
                self.pushing.device_alarms.set(device, until.unwrap_or(at).max(at));
                return Look::Nothing;
            }
            WaitReason::StartJitter => {
                self.pushing.device_alarms.set(device, at.plus_seconds(u64::from(wait.retry_after_s)));
                return Look::Nothing;
            }
            // The answer of the person is a row.
            WaitReason::Confirmation => return Look::Nothing,
            WaitReason::Rate => {
                let free_at = self.task_entry(task).map_or(at, super::TaskEntry::rate_free_at);
                self.pushing.task_alarms.set(task, free_at.max(at));
            }
            WaitReason::Schedule => {
                let schedule = self.task_entry(task).map(|entry| entry.view.row().policy.schedule);
                if let Some(Window::Opens(opens)) = schedule.map(|schedule| rollout::window(&schedule, at)) {
                    self.pushing.task_alarms.set(task, opens);
                }
            }
            WaitReason::Cap | WaitReason::Paused | WaitReason::Approval | WaitReason::Gateway => {}
        }
        self.queue(task, device);
        Look::Held(task)
    }

    fn queue(&mut self, task: TaskNumber, device: DeviceNumber) {
        let forced = self.live_upgrade(task, device).is_some_and(|live| live.row.forced);
        let queue = self.pushing.queues.entry(task).or_default();
        let queue = if forced { &mut queue.forced } else { &mut queue.ready };
        queue.insert(device.0);
    }
}

#[cfg(test)]
impl State {
    /// Connected devices that could begin and weren't sent anything: none, once [`push`](Self::push) has nothing left to look at.
    pub(super) fn overlooked(&mut self, at: Timestamp) -> Vec<DeviceNumber> {
        let connected: Vec<DeviceNumber> = self.pushing.connected.iter().map(DeviceNumber).collect();
        let mut overlooked = connected;
        overlooked.retain(|device| {
            let gateway = self.pushing.gateways[device];
            let is_busy = self.members_behind(gateway).iter().any(|member| self.upgrading.contains(member.0));
            let Some(row) = self.device_row(*device).filter(|_| !is_busy) else { return false };
            let component = self.pushing.connections[&gateway].component;
            row.components.iter().filter(|installed| installed.component == component).any(|installed| {
                let key =
                    StartKey { product: row.product, component: installed.component, version: Arc::clone(&installed.version) };
                let pushed = self.candidates(&key).filter(|view| view.row().mode == TaskMode::Automatic);
                let asker = Asker { row: Some(row), number: *device };
                let verdict = rollout::choose(pushed, asker, |task| self.standing(task, *device), &Truth(self), &self.limits, at);
                matches!(verdict, Verdict::Free(_) | Verdict::AskPerson(..))
            })
        });
        overlooked
    }
}

/// A [`Verdict`] that borrows nothing.
enum Found {
    Free(Arc<Task>),
    AskPerson(TaskNumber),
    Wait(super::Wait),
}

/// An offer that a device holds, with how far it has come.
#[derive(Clone, Debug)]
pub struct HeldOffer {
    pub device: Arc<Device>,
    pub offer: Arc<super::Offer>,
    pub upgrade: Arc<Upgrade>,
}
