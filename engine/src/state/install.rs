//! Puts and deletes rows, and keeps everything derived from them in step.

use super::facets::Facets;
use super::install_upgrades::FinishedSets;
use super::journal::Inverse;
use super::{ProductEntry, State, TaskEntry, task_view};
use crate::index::StartKey;
use crate::model::*;
use crate::store::{Change, Key, Loaded, Opened, Row};
use roaring::RoaringBitmap;
use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::Arc;

impl State {
    /// Whether a token lets somebody log in as this device.
    pub(super) fn has_token(&self, organization: &str, product_id: &str, device_id: &str) -> bool {
        self.device_tokens.contains_key(&holder(organization, product_id, device_id))
    }

    /// Changes one row and notes how to undo it.
    pub(super) fn put(&mut self, row: Row) {
        self.journal.weight_bytes += weight_bytes(&row);
        let inverse = self.install(row.clone());
        self.journal.changes.push(Change::Put(row));
        self.journal.inverses.push(inverse);
    }

    /// Deletes one row, or a range of them, and notes how to undo it.
    pub(super) fn delete(&mut self, key: Key) {
        let inverse = self.uninstall(&key);
        self.journal.changes.push(Change::Delete(key));
        self.journal.inverses.push(inverse);
    }

    /// Takes over what a store kept. Call [`State::publish`] with everything touched afterwards.
    pub(crate) fn load(&mut self, loaded: Loaded) {
        match loaded {
            Loaded::Row(row) => drop(self.install(row)),
            Loaded::FinishedUpgrade { task, device, state, succeeded_before } => {
                self.install_finished(task, device, state, succeeded_before);
            }
        }
        self.publish_portion();
    }

    /// Everything is loaded: goes on where the store stands.
    pub(crate) fn loaded(&mut self, opened: Opened) {
        self.store = opened.store;
        self.event_sequence = opened.last_event_sequence;
        self.event_oldest = opened.first_event_sequence;
        self.next = self.next.max(opened.next);
        self.publish();
        self.clear_touched();
    }

    pub(super) fn install_inverse(&mut self, inverse: Inverse) {
        match inverse {
            Inverse::Change(Change::Put(row)) => drop(self.install(row)),
            Inverse::Change(Change::Delete(key)) => {
                drop(self.uninstall(&key));
                self.give_number_back(&key);
            }
            Inverse::Finished { task, device, state, succeeded_before } => {
                self.remove_upgrade(task, device);
                self.install_finished(task, device, state, succeeded_before);
            }
            Inverse::All(inverses) => inverses.into_iter().rev().for_each(|inverse| self.install_inverse(inverse)),
            Inverse::Events { sequence, oldest } => {
                self.event_sequence = sequence;
                self.event_oldest = oldest;
            }
        }
    }

    /// What was never durable never had its number: otherwise a full disk would use numbers up.
    fn give_number_back(&mut self, key: &Key) {
        let next = &mut self.next;
        match key {
            Key::Product(number) => next.product = number.0,
            Key::Device(number) => next.device = number.0,
            Key::Firmware(number) => next.firmware = number.0,
            Key::Task(number) => next.task = number.0,
            _ => {}
        }
    }

    fn install(&mut self, row: Row) -> Inverse {
        self.next.note(&row);
        match row {
            Row::Product(row) => self.install_product(row),
            Row::Device(row) => self.install_device(row),
            Row::Image(row) => {
                let (organization, id) = (Arc::clone(&row.organization), row.id);
                self.journal.touched.images.push(id);
                let before = self.images.entry(id).or_default().insert(Arc::clone(&organization), row);
                inverse(before.map(Row::Image), Key::Image { organization, id })
            }
            Row::Firmware(row) => self.install_firmware(row),
            Row::Task(row) => self.install_task(row),
            Row::Upgrade(row) => self.install_upgrade(row),
            Row::Token(row) => self.install_token(row),
            Row::App(row) => {
                let id = Arc::clone(&row.id);
                inverse(self.apps.insert(Arc::clone(&id), row).map(Row::App), Key::App(id))
            }
            Row::Event(event) => {
                let before = Inverse::Events { sequence: self.event_sequence, oldest: self.event_oldest };
                self.event_sequence = event.sequence;
                if self.event_oldest == 0 {
                    self.event_oldest = event.sequence;
                }
                before
            }
            Row::Subscription(row) => {
                let id = Arc::clone(&row.id);
                inverse(self.subscriptions.insert(Arc::clone(&id), row).map(Row::Subscription), Key::Subscription(id))
            }
            Row::Pace(row) => {
                let task = row.task;
                self.journal.touched.tasks.push(task);
                let wave = row.wave;
                let before = self.tasks.get_mut(&task).and_then(|entry| entry.pace.replace(row));
                if before.as_ref().map_or(0, |before| before.wave) != wave {
                    self.hint_task(task);
                }
                inverse(before.map(Row::Pace), Key::Pace(task))
            }
        }
    }

    fn uninstall(&mut self, key: &Key) -> Inverse {
        match key {
            Key::Product(number) => self.uninstall_product(*number),
            Key::Device(number) => self.uninstall_device(*number),
            Key::Image { organization, id } => {
                self.journal.touched.images.push(*id);
                let Some(holders) = self.images.get_mut(id) else { return Inverse::All(Vec::new()) };
                let before = holders.remove(organization);
                if holders.is_empty() {
                    self.images.remove(id);
                }
                put_back(before.map(Row::Image))
            }
            Key::Firmware(number) => self.uninstall_firmware(*number),
            Key::Task(number) => self.uninstall_task(*number),
            Key::Upgrade { task, device } => self.remove_upgrade(*task, *device),
            Key::UpgradesOfTask(task) => {
                let Some(entry) = self.tasks.get(task) else { return Inverse::All(Vec::new()) };
                let devices = &entry.unfinished | entry.finished.devices();
                Inverse::All(devices.iter().map(|device| self.remove_upgrade(*task, DeviceNumber(device))).collect())
            }
            Key::UpgradesOfDevice(device) => {
                let product = self.device_row(*device).map(|row| row.product);
                let tasks =
                    product.and_then(|product| self.products.get(&product)).map(|entry| entry.tasks.clone()).unwrap_or_default();
                Inverse::All(tasks.into_iter().map(|task| self.remove_upgrade(task, *device)).collect())
            }
            Key::Token(id) => self.uninstall_token(*id),
            Key::App(id) => put_back(self.apps.remove(id).map(Row::App)),
            Key::EventsBefore(sequence) => {
                let before = Inverse::Events { sequence: self.event_sequence, oldest: self.event_oldest };
                self.event_oldest = *sequence;
                before
            }
            Key::Subscription(id) => put_back(self.subscriptions.remove(id).map(Row::Subscription)),
            Key::Pace(task) => {
                self.journal.touched.tasks.push(*task);
                put_back(self.tasks.get_mut(task).and_then(|entry| entry.pace.take()).map(Row::Pace))
            }
        }
    }

    fn install_product(&mut self, row: Arc<Product>) -> Inverse {
        let number = row.number;
        let touched = (Arc::clone(&row.organization), Arc::clone(&row.id), number);
        self.products_by_name.entry(Arc::clone(&row.organization)).or_default().insert(Arc::clone(&row.id), number);
        let before = match self.products.get_mut(&number) {
            Some(entry) => Some(std::mem::replace(&mut entry.row, row)),
            None => {
                let entry = ProductEntry {
                    row,
                    tasks: BTreeSet::new(),
                    firmware: BTreeSet::new(),
                    devices: RoaringBitmap::new(),
                    facets: Facets::default(),
                };
                self.products.insert(number, entry);
                None
            }
        };
        self.journal.touched.products.push(touched);
        inverse(before.map(Row::Product), Key::Product(number))
    }

    /// Only of a product that nothing belongs to.
    fn uninstall_product(&mut self, number: ProductNumber) -> Inverse {
        let Some(entry) = self.products.remove(&number) else { return Inverse::All(Vec::new()) };
        let row = entry.row;
        if let Some(names) = self.products_by_name.get_mut(&row.organization) {
            names.remove(&row.id);
            if names.is_empty() {
                self.products_by_name.remove(&row.organization);
            }
        }
        self.journal.touched.products.push((Arc::clone(&row.organization), Arc::clone(&row.id), number));
        put_back(Some(Row::Product(row)))
    }

    fn install_device(&mut self, row: Arc<Device>) -> Inverse {
        let number = row.number;
        if self.devices.len() <= number.index() {
            self.devices.resize(number.index() + 1, None);
        }
        let before = self.devices[number.index()].replace(Arc::clone(&row));
        match &before {
            Some(before) => {
                self.leave_versions(before);
                if before.details != row.details
                    && let Some(product) = self.products.get_mut(&before.product)
                {
                    product.facets.remove(before);
                    product.facets.insert(&row);
                }
                self.journal.touched.marks.push(number);
            }
            None => {
                self.devices_count += 1;
                self.devices_fresh.insert((row.product, row.id.clone()), number);
                if let Some(product) = self.products.get_mut(&row.product) {
                    product.devices.insert(number.0);
                    product.facets.insert(&row);
                }
            }
        }
        for installed in &row.components {
            let versions = self.versions.entry((row.product, installed.component)).or_default();
            match versions.get_mut(&installed.version) {
                Some(devices) => drop(devices.insert(number.0)),
                None => drop(versions.insert(Arc::clone(&installed.version), RoaringBitmap::from_iter([number.0]))),
            }
        }
        self.journal.touched.devices.push(number);
        if before.is_none() {
            self.hint_device_back(number);
        }
        self.hint_device(number);
        inverse(before.map(Row::Device), Key::Device(number))
    }

    fn uninstall_device(&mut self, number: DeviceNumber) -> Inverse {
        let Some(row) = self.devices.get_mut(number.index()).and_then(Option::take) else { return Inverse::All(Vec::new()) };
        self.leave_versions(&row);
        self.devices_count -= 1;
        self.devices_fresh.remove(&(row.product, row.id.clone()));
        if let Some(product) = self.products.get_mut(&row.product) {
            product.devices.remove(number.0);
            product.facets.remove(&row);
        }
        self.journal.touched.devices_gone.push((row.product, row.id.clone(), number));
        self.hint_device_gone(number);
        put_back(Some(Row::Device(row)))
    }

    fn leave_versions(&mut self, row: &Device) {
        for installed in &row.components {
            let Some(versions) = self.versions.get_mut(&(row.product, installed.component)) else { continue };
            let Some(devices) = versions.get_mut(&installed.version) else { continue };
            devices.remove(row.number.0);
            if devices.is_empty() {
                versions.remove(&installed.version);
            }
            if versions.is_empty() {
                self.versions.remove(&(row.product, installed.component));
            }
        }
    }

    fn install_firmware(&mut self, row: Arc<Firmware>) -> Inverse {
        let number = row.number;
        let before = self.firmware.insert(number, Arc::clone(&row));
        if let Some(before) = &before {
            self.leave_firmware(before);
        }
        if let Some(name) = &row.name {
            *self.firmware_names.entry((row.product, Arc::clone(name))).or_default() += 1;
        }
        self.firmware_by_version.insert((row.product, row.component, Arc::clone(&row.version)), number);
        if let Some(product) = self.products.get_mut(&row.product) {
            product.firmware.insert(number);
        }
        inverse(before.map(Row::Firmware), Key::Firmware(number))
    }

    fn uninstall_firmware(&mut self, number: FirmwareNumber) -> Inverse {
        let before = self.firmware.remove(&number);
        if let Some(row) = &before {
            self.leave_firmware(row);
            if let Some(product) = self.products.get_mut(&row.product) {
                product.firmware.remove(&number);
            }
        }
        put_back(before.map(Row::Firmware))
    }

    fn leave_firmware(&mut self, row: &Firmware) {
        self.firmware_by_version.remove(&(row.product, row.component, Arc::clone(&row.version)));
        if let Some(name) = &row.name {
            count_down(&mut self.firmware_names, (row.product, Arc::clone(name)));
        }
    }

    fn install_task(&mut self, row: Arc<Task>) -> Inverse {
        let number = row.number;
        let Some(product) = self.products.get_mut(&row.product) else { return Inverse::All(Vec::new()) };
        let product_id = Arc::clone(&product.row.id);
        let before = match self.tasks.get_mut(&number) {
            Some(entry) => {
                let before = Arc::clone(entry.view.row());
                entry.view = task_view(Arc::clone(&row), product_id, Some(&entry.view));
                if let Some(end) = before.policy.schedule.end {
                    self.ends.remove(&(end, number));
                }
                Some(before)
            }
            None => {
                product.tasks.insert(number);
                let entry = TaskEntry {
                    view: task_view(Arc::clone(&row), product_id, None),
                    counts: StateCounts::default(),
                    unfinished: RoaringBitmap::new(),
                    unfinished_by_state: Default::default(),
                    may_begin: None,
                    finished: FinishedSets::default(),
                    succeeded: RoaringBitmap::new(),
                    succeeded_by_wave: vec![0; row.waves.len()],
                    failing: [0; FailureKind::ALL.len()],
                    forced: RoaringBitmap::new(),
                    permits_held: 0,
                    pace: None,
                };
                self.tasks.insert(number, entry);
                None
            }
        };
        if before.is_none() {
            self.enter_starts(&row);
        }
        if let Some(end) = row.policy.schedule.end
            && row.status != TaskStatus::Stopped
            && row.finished_at.is_none()
        {
            self.ends.insert((end, number));
        }
        self.note_canceling(number);
        self.touch_starts(&row);
        self.journal.touched.tasks.push(number);
        self.hint_task(number);
        inverse(before.map(Row::Task), Key::Task(number))
    }

    /// Only of a task whose upgrades are deleted.
    fn uninstall_task(&mut self, number: TaskNumber) -> Inverse {
        let Some(entry) = self.tasks.remove(&number) else { return Inverse::All(Vec::new()) };
        let row = Arc::clone(entry.view.row());
        if let Some(product) = self.products.get_mut(&row.product) {
            product.tasks.remove(&number);
        }
        if let Some(end) = row.policy.schedule.end {
            self.ends.remove(&(end, number));
        }
        self.canceling.remove(&number);
        self.leave_starts(&row);
        self.touch_starts(&row);
        self.hint_task(number);
        put_back(Some(Row::Task(row)))
    }

    /// The from-versions, target and name of a task never change, so this happens once in its life.
    fn enter_starts(&mut self, row: &Task) {
        for key in start_keys(row) {
            let tasks = self.starts.entry(key).or_default();
            if let Err(place) = tasks.binary_search(&row.number) {
                tasks.insert(place, row.number);
            }
        }
        *self.targets.entry(target_key(row)).or_default() += 1;
        if let Some(name) = &row.name {
            *self.task_names.entry((row.product, Arc::clone(name))).or_default() += 1;
        }
    }

    fn leave_starts(&mut self, row: &Task) {
        for key in start_keys(row) {
            if let Some(tasks) = self.starts.get_mut(&key) {
                tasks.retain(|task| *task != row.number);
                if tasks.is_empty() {
                    self.starts.remove(&key);
                }
            }
        }
        let target = target_key(row);
        count_down(&mut self.targets, target);
        if let Some(name) = &row.name {
            count_down(&mut self.task_names, (row.product, Arc::clone(name)));
        }
    }

    fn touch_starts(&mut self, row: &Task) {
        self.journal.touched.starts.extend(start_keys(row));
        self.journal.touched.starts.push(target_key(row));
    }

    fn install_token(&mut self, row: Arc<Token>) -> Inverse {
        let id = row.id;
        self.token_ends.entry(end_hour(&row)).or_default().push(id);
        if let Some(app) = &row.app {
            self.tokens_by_app.entry(Arc::clone(app)).or_default().insert(id);
        }
        self.journal.touched.tokens.push(id);
        if let Some(holder) = device_of_token(&row) {
            *self.device_tokens.entry(holder).or_default() += 1;
        }
        let before = self.tokens.insert(id, row);
        if let Some(holder) = before.as_deref().and_then(device_of_token) {
            count_down(&mut self.device_tokens, holder);
        }
        inverse(before.map(Row::Token), Key::Token(id))
    }

    fn uninstall_token(&mut self, id: TokenId) -> Inverse {
        let before = self.tokens.remove(&id);
        if let Some(row) = &before {
            if let Some(holder) = device_of_token(row) {
                count_down(&mut self.device_tokens, holder);
            }
            if let Some(app) = &row.app
                && let Some(tokens) = self.tokens_by_app.get_mut(app)
            {
                tokens.remove(&id);
                if tokens.is_empty() {
                    self.tokens_by_app.remove(app);
                }
            }
            let hour = end_hour(row);
            if let Some(tokens) = self.token_ends.get_mut(&hour) {
                if let Some(place) = tokens.iter().position(|token| *token == id) {
                    tokens.swap_remove(place);
                }
                if tokens.is_empty() {
                    self.token_ends.remove(&hour);
                }
            }
            self.journal.touched.tokens.push(id);
        }
        put_back(before.map(Row::Token))
    }
}

/// About how much of a group a row takes: exact enough to keep groups far below what a store can hold.
fn weight_bytes(row: &Row) -> usize {
    const PLAIN: usize = 256;
    match row {
        Row::Task(row) => PLAIN * 4 + row.members.as_deref().map_or(0, str::len) + row.scope.selector.text_bytes(),
        Row::Device(row) => PLAIN + row.details.as_deref().map_or(0, DeviceDetails::text_bytes),
        _ => PLAIN,
    }
}

/// The device that a token lets log in.
fn device_of_token(row: &Token) -> Option<u64> {
    let device_id = row.device_id.as_deref().filter(|_| row.role == Role::Device)?;
    Some(holder(&row.organization, row.product_id.as_deref()?, device_id))
}

fn holder(organization: &str, product_id: &str, device_id: &str) -> u64 {
    foldhash::fast::FixedState::default().hash_one((organization, product_id, device_id))
}

pub(super) fn end_hour(token: &Token) -> u64 {
    token.expires_at.as_seconds() / 3600
}

pub(super) fn start_keys(row: &Task) -> impl Iterator<Item = StartKey> + '_ {
    row.from_versions.iter().map(|version| StartKey {
        product: row.product,
        component: row.component,
        version: Arc::clone(version),
    })
}

fn target_key(row: &Task) -> StartKey {
    StartKey { product: row.product, component: row.component, version: Arc::clone(&row.target_version) }
}

/// Takes one off a count, and forgets what nothing counts any more.
fn count_down<K: Eq + std::hash::Hash>(counts: &mut std::collections::HashMap<K, u32>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// Puts the row before back, or deletes what wasn't there.
fn inverse(before: Option<Row>, key: Key) -> Inverse {
    match before {
        Some(row) => Inverse::Change(Change::Put(row)),
        None => Inverse::Change(Change::Delete(key)),
    }
}

fn put_back(before: Option<Row>) -> Inverse {
    match before {
        Some(row) => Inverse::Change(Change::Put(row)),
        None => Inverse::All(Vec::new()),
    }
}
