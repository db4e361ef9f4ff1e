//! Products, devices, and the check: what a device says is recorded, and a permit is granted where one is free.

use super::{Asking, Check, CheckRules, Decision, DeviceName, NewDevice, NewProduct, Outcome, State, TaskEntry, validate};
use crate::error::{Conflict, Entity, Error};
use crate::index;
use crate::model::*;
use crate::rollout::{self, Asker, Figures, Ready, Standing, Verdict};
use crate::store::{Key, Row};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The truth, as the writer counts it.
pub(super) struct Truth<'a>(pub(super) &'a State);

impl Figures for Truth<'_> {
    fn held_by_task(&self, task: &index::TaskView) -> u64 {
        self.0.task_entry(task.row().number).map_or(0, |entry| entry.permits_held)
    }

    fn held(&self) -> u64 {
        self.0.permits_held
    }

    fn rate_free_at(&self, task: &index::TaskView) -> Timestamp {
        self.0.task_entry(task.row().number).map_or(Timestamp(0), TaskEntry::rate_free_at)
    }

    fn open_to_place(&self, task: &index::TaskView) -> u64 {
        self.0.task_entry(task.row().number).map_or(0, TaskEntry::open_to_place)
    }
}

/// How a device stands with a task by an upgrade that holds no permit and isn't finished.
pub(super) fn standing_of(row: &Upgrade) -> Standing {
    if row.state == UpgradeState::AwaitingConfirmation {
        return Standing::Unconfirmed;
    }
    Standing::Ready(Ready { not_before: row.not_before, confirmed: row.confirmed, forced: row.forced })
}

impl State {
    /// Decides a check by the truth, records what the device said, and grants a permit where one is free.
    pub(super) fn check(
        &mut self,
        name: &DeviceName,
        component: Component,
        version: &Arc<str>,
        rules: CheckRules,
        at: Timestamp,
    ) -> Result<Decision, Error> {
        validate::version("version", version, &self.limits)?;
        if rules.preview
            && rules.register
            && let Some(decision) = self.preview_of_a_newcomer(name, component, version, at)
        {
            return Ok(decision);
        }
        let asking = self.asking(name, rules.register && !rules.preview, at)?;
        let version = self.known_version(asking.product, component, version);
        if !rules.preview {
            self.record_version(asking.device, component, &version)?;
            self.note_arrival(asking.device, component, &version, at);
        }
        let check = Check { device: name.as_ref(), component, version: &version, rules };
        if let Some(offer) = self.held_offer(asking.device, component) {
            let status = self.task_entry(offer.task.row().number).map_or(TaskStatus::Stopped, |entry| entry.view.row().status);
            return Ok(index::repeat(&offer, status, &check));
        }
        let key = index::StartKey { product: asking.product, component, version: Arc::clone(&version) };
        let row = self.device_row(asking.device).cloned();
        let asker = Asker { row: row.as_deref(), number: asking.device };
        let standing = |task| self.standing(task, asking.device);
        let view = match rollout::choose(self.candidates(&key), asker, standing, &Truth(self), &self.limits, at) {
            Verdict::Free(view) => Arc::clone(view),
            Verdict::Wait(wait) => return Ok(Decision::Wait(wait)),
            Verdict::AskPerson(view, wait) => {
                let task = view.row().number;
                if !rules.preview {
                    self.ask_person(task, asking.device, at);
                }
                return Ok(Decision::Wait(wait));
            }
            Verdict::NotForIt => return Ok(self.decision_for_nothing(asking.product, component, &version)),
        };
        if rules.preview {
            return Ok(Decision::Offer(Arc::new(super::Offer { id: None, task: view, from_version: version, deadline: None })));
        }
        let offer = self.grant(view.row(), asking.device, &version, at);
        offer.map(Decision::Offer).ok_or(Error::Closed)
    }

    /// What a device would be told that isn't there yet, and would come into being by asking; `None` where it is there.
    fn preview_of_a_newcomer(
        &self,
        name: &DeviceName,
        component: Component,
        version: &Arc<str>,
        at: Timestamp,
    ) -> Option<Decision> {
        let Some(product) = self.product_number(&name.organization, &name.product_id) else { return Some(Decision::NoTask) };
        if self.device_number(product, &name.device_id).is_some() {
            return None;
        }
        let newcomer = Device {
            // The last number, which is nobody's: no snapshot holds it.
            number: DeviceNumber(u32::MAX),
            product,
            id: (*name.device_id).into(),
            components: Box::new([Installed { component, version: Arc::clone(version) }]),
            created_at: at,
            details: None,
        };
        let key = index::StartKey { product, component, version: Arc::clone(version) };
        let asker = Asker { row: Some(&newcomer), number: newcomer.number };
        let fresh = |_| Standing::FRESH;
        Some(match rollout::choose(self.candidates(&key), asker, fresh, &Truth(self), &self.limits, at) {
            Verdict::Free(view) => {
                let from_version = Arc::clone(version);
                Decision::Offer(Arc::new(super::Offer { id: None, task: Arc::clone(view), from_version, deadline: None }))
            }
            Verdict::Wait(wait) | Verdict::AskPerson(_, wait) => Decision::Wait(wait),
            Verdict::NotForIt => self.decision_for_nothing(product, component, version),
        })
    }

    /// The tasks that lead from a version, newest first.
    pub(super) fn candidates(&self, key: &index::StartKey) -> impl Iterator<Item = &Arc<index::TaskView>> {
        self.starts.get(key).into_iter().flatten().rev().filter_map(|task| self.tasks.get(task)).map(|entry| &entry.view)
    }

    pub(super) fn held_offer(&self, device: DeviceNumber, component: Component) -> Option<Arc<super::Offer>> {
        let live = self.live.get(&device)?;
        live.iter().filter_map(|live| live.offer.as_ref()).find(|offer| offer.task.row().component == component).cloned()
    }

    /// How the device stands with a task that it holds no permit of.
    pub(super) fn standing(&self, task: TaskNumber, device: DeviceNumber) -> Standing {
        if let Some(live) = self.live_upgrade(task, device) {
            return standing_of(&live.row);
        }
        let Some(entry) = self.task_entry(task) else { return Standing::Done };
        match entry.finished.state_of(device) {
            None => Standing::FRESH,
            Some(UpgradeState::Succeeded) if entry.view.row().policy.repeat_after_success => Standing::FRESH,
            Some(_) => Standing::Done,
        }
    }

    /// Finds the device, or lets it and its product come into being.
    pub(super) fn asking(&mut self, name: &DeviceName, register: bool, at: Timestamp) -> Result<Asking, Error> {
        let product = match self.product_number(&name.organization, &name.product_id) {
            Some(product) => product,
            None if register => self.create_product(&name.organization, &name.product_id, None, at)?,
            None => return Err(Error::not_found(Entity::Product, &name.product_id)),
        };
        let device = match self.device_number(product, &name.device_id) {
            Some(device) => device,
            None if register => self.create_device(product, &name.device_id, Box::default(), None, at)?,
            None => return Err(Error::not_found(Entity::Device, &name.device_id)),
        };
        Ok(Asking { product, device })
    }

    /// The shared text of a version, where one is known, so that a fleet on one version holds its text once.
    pub(super) fn known_version(&self, product: ProductNumber, component: Component, version: &str) -> Arc<str> {
        let known = self.versions.get(&(product, component)).and_then(|versions| versions.get_key_value(version));
        known.map_or_else(|| version.into(), |(version, _)| Arc::clone(version))
    }

    pub(super) fn record_version(&mut self, device: DeviceNumber, component: Component, version: &Arc<str>) -> Result<(), Error> {
        let Some(row) = self.device_row(device) else { return Ok(()) };
        let before = row.version(component).cloned();
        if before.as_ref() == Some(version) {
            return Ok(());
        }
        let product = row.product;
        let mut components = row.components.to_vec();
        match components.iter().position(|installed| installed.component == component) {
            Some(place) => components[place].version = Arc::clone(version),
            None if components.len() >= self.limits.components_per_device_max => {
                let limit = self.limits.components_per_device_max;
                return Err(Error::invalid(
                    "type",
                    format!("the device has {limit} components already, the most a device can have"),
                ));
            }
            None => {
                components.push(Installed { component, version: Arc::clone(version) });
                components.sort_by_key(|installed| installed.component);
            }
        }
        let row = Device { components: components.into(), ..Device::clone(row) };
        self.put(Row::Device(Arc::new(row)));
        if let Some(version) = before {
            self.settle_from(index::StartKey { product, component, version }, self.now);
        }
        Ok(())
    }

    /// A component runs this version: recorded, and whatever that ends is ended.
    pub(super) fn note_version(
        &mut self,
        name: &DeviceName,
        component: Component,
        version: &str,
        register: bool,
        at: Timestamp,
    ) -> Result<(), Error> {
        validate::version("version", version, &self.limits)?;
        let asking = self.asking(name, register, at)?;
        let version = self.known_version(asking.product, component, version);
        self.record_version(asking.device, component, &version)?;
        self.note_arrival(asking.device, component, &version, at);
        Ok(())
    }

    /// What the device signs its logins with; an operator's `put_devices` leaves it as it is.
    pub(super) fn put_device_secret(&mut self, name: &DeviceName, secret_encrypted: Option<Vec<u8>>) -> Result<Outcome, Error> {
        let product = self.product_number(&name.organization, &name.product_id);
        let number = product.and_then(|product| self.device_number(product, &name.device_id));
        let row = number.and_then(|number| self.device_row(number)).cloned();
        let row = row.ok_or_else(|| Error::not_found(Entity::Device, &name.device_id))?;
        let details = DeviceDetails { secret_encrypted, ..row.details().clone() };
        let details = (details != DeviceDetails::default()).then(|| Arc::new(details));
        self.put(Row::Device(Arc::new(Device { details, ..Device::clone(&row) })));
        Ok(Outcome::Done)
    }

    pub(super) fn create_product(
        &mut self,
        organization: &str,
        product_id: &str,
        name: Option<&str>,
        at: Timestamp,
    ) -> Result<ProductNumber, Error> {
        validate::id("organization", organization, &self.limits)?;
        validate::id("product_id", product_id, &self.limits)?;
        validate::name("name", name, &self.limits)?;
        if self.products.len() >= self.limits.products_max {
            return Err(Error::LimitReached { what: "products", limit: self.limits.products_max as u64 });
        }
        let number = ProductNumber(self.next.product);
        let known = self.products_by_name.get_key_value(organization).map(|(organization, _)| Arc::clone(organization));
        self.put(Row::Product(Arc::new(Product {
            number,
            organization: known.unwrap_or_else(|| organization.into()),
            id: product_id.into(),
            name: name.map(Into::into),
            created_at: at,
        })));
        Ok(number)
    }

    fn create_device(
        &mut self,
        product: ProductNumber,
        device_id: &str,
        components: Box<[Installed]>,
        details: Option<Arc<DeviceDetails>>,
        at: Timestamp,
    ) -> Result<DeviceNumber, Error> {
        validate::id("device_id", device_id, &self.limits)?;
        // The last number is nobody's.
        if self.devices_count >= self.limits.devices_max as u64 || self.next.device == u32::MAX {
            return Err(Error::LimitReached { what: "devices", limit: self.limits.devices_max as u64 });
        }
        let number = DeviceNumber(self.next.device);
        self.put(Row::Device(Arc::new(Device { number, product, id: device_id.into(), components, created_at: at, details })));
        Ok(number)
    }

    pub(super) fn put_product(&mut self, new: &NewProduct, at: Timestamp) -> Result<Arc<Product>, Error> {
        let number = match self.product_number(&new.organization, &new.product_id) {
            None => self.create_product(&new.organization, &new.product_id, new.name.as_deref(), at)?,
            Some(number) => {
                validate::name("name", new.name.as_deref(), &self.limits)?;
                if let Some(entry) = self.products.get(&number)
                    && entry.row.name.as_deref() != new.name.as_deref()
                {
                    let row = Product { name: new.name.as_deref().map(Into::into), ..Product::clone(&entry.row) };
                    self.put(Row::Product(Arc::new(row)));
                }
                number
            }
        };
        let entry = self.products.get(&number);
        entry.map(|entry| Arc::clone(&entry.row)).ok_or_else(|| Error::not_found(Entity::Product, &new.product_id))
    }

    pub(super) fn delete_product(&mut self, organization: &str, product_id: &str) -> Result<Outcome, Error> {
        let number = self.product_number(organization, product_id).ok_or_else(|| Error::not_found(Entity::Product, product_id))?;
        if let Some(entry) = self.products.get(&number) {
            let (tasks, firmware, devices) = (entry.tasks.len(), entry.firmware.len(), entry.devices.len());
            if tasks + firmware > 0 || devices > 0 {
                let message = format!("product has {tasks} tasks, {firmware} firmware and {devices} devices; delete them first");
                return Err(Error::conflict(Conflict::InUse, message));
            }
        }
        self.delete(Key::Product(number));
        Ok(Outcome::Done)
    }

    /// Each device on its own: one that is refused doesn't keep the others out.
    pub(super) fn put_devices(
        &mut self,
        organization: &str,
        devices: Vec<NewDevice>,
        register_products: bool,
        at: Timestamp,
    ) -> Vec<Result<Arc<Device>, String>> {
        let put = |new: NewDevice| {
            let mark = self.mark();
            self.put_device(organization, new, register_products, at).map_err(|error| {
                self.undo_to(mark);
                error.to_string()
            })
        };
        devices.into_iter().map(put).collect()
    }

    fn put_device(
        &mut self,
        organization: &str,
        new: NewDevice,
        register_product: bool,
        at: Timestamp,
    ) -> Result<Arc<Device>, Error> {
        validate::id("device_id", &new.device_id, &self.limits)?;
        validate::details(&new.details, &self.limits)?;
        if new.components.len() > self.limits.components_per_device_max {
            let limit = self.limits.components_per_device_max;
            return Err(Error::invalid("components", format!("{} components; a device has at most {limit}", new.components.len())));
        }
        let product = match self.product_number(organization, &new.product_id) {
            Some(product) => product,
            None if register_product => self.create_product(organization, &new.product_id, None, at)?,
            None => return Err(Error::not_found(Entity::Product, &new.product_id)),
        };
        let mut components = BTreeMap::new();
        for (component, version) in &new.components {
            validate::version("version", version, &self.limits)?;
            if components.insert(*component, self.known_version(product, *component, version)).is_some() {
                let Component { component_type, identify } = component;
                return Err(Error::invalid(
                    "components",
                    format!("component type {component_type} identify {identify} is named twice"),
                ));
            }
        }
        let components: Box<[Installed]> =
            components.into_iter().map(|(component, version)| Installed { component, version }).collect();
        let number = self.device_number(product, &new.device_id);
        let there = number.and_then(|number| self.device_row(number));
        let secret_encrypted = there.and_then(|row| row.details().secret_encrypted.clone());
        let details = DeviceDetails { secret_encrypted, ..new.details };
        let details = (details != DeviceDetails::default()).then(|| Arc::new(details));
        let number = match number {
            None => self.create_device(product, &new.device_id, components, details, at)?,
            Some(number) => {
                if let Some(row) = self.device_row(number)
                    && (row.components != components || row.details != details)
                {
                    let before = Arc::clone(row);
                    let row = Device { components, details, ..Device::clone(row) };
                    let after = Arc::new(row);
                    self.put(Row::Device(Arc::clone(&after)));
                    for installed in &after.components {
                        self.note_arrival(number, installed.component, &installed.version, at);
                    }
                    self.settle_left(&before);
                }
                number
            }
        };
        self.device_row(number).cloned().ok_or_else(|| Error::not_found(Entity::Device, &new.device_id))
    }

    pub(super) fn delete_device(&mut self, name: &DeviceName) -> Result<Outcome, Error> {
        let product = self.product_number(&name.organization, &name.product_id);
        let number = product.and_then(|product| self.device_number(product, &name.device_id));
        let number = number.ok_or_else(|| Error::not_found(Entity::Device, &name.device_id))?;
        let row = self.device_row(number).cloned();
        self.delete(Key::UpgradesOfDevice(number));
        self.delete(Key::Device(number));
        if let Some(row) = row {
            self.settle_left(&row);
        }
        Ok(Outcome::Done)
    }

    /// The device may have been the last that some tasks waited for. `before`: as it was.
    fn settle_left(&mut self, before: &Device) {
        for Installed { component, version } in before.components.iter().cloned() {
            self.settle_from(index::StartKey { product: before.product, component, version }, self.now);
        }
    }
}
