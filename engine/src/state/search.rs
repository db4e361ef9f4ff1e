//! Sets of devices, for scopes, searches and lists: algebra over bitmaps, never a look at each device.

use super::facets::Facets;
use super::{State, TaskEntry};
use crate::model::*;
use crate::rollout::CompiledScope;
use crate::state::DeviceInfo;
use roaring::RoaringBitmap;
use std::borrow::Cow;
use std::sync::Arc;

/// The devices of one organization, by what is known of them.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSets<'a> {
    state: &'a State,
    organization: &'a str,
}

/// One device's run of a task, as far as it is kept in memory.
#[derive(Clone, Debug)]
pub enum Run {
    /// It hasn't been offered the task, and may be.
    ToCome,
    /// It goes on.
    Live(Arc<Upgrade>),
    /// It is over; [`Engine::upgrades`](crate::Engine::upgrades) reads the row.
    Finished(UpgradeState),
}

impl DeviceSets<'_> {
    pub fn all(&self) -> RoaringBitmap {
        self.state.products_of(self.organization).fold(RoaringBitmap::new(), |all, product| all | &product.devices)
    }

    pub fn of_product(&self, product_id: &str) -> RoaringBitmap {
        let product = self.state.product_number(self.organization, product_id);
        product.and_then(|product| self.state.products.get(&product)).map(|entry| entry.devices.clone()).unwrap_or_default()
    }

    /// Those whose component was last known to run this version.
    pub fn at_version(&self, component: Component, version: &str) -> RoaringBitmap {
        self.state.products_of(self.organization).fold(RoaringBitmap::new(), |all, product| {
            match self.state.versions.get(&(product.row.number, component)).and_then(|versions| versions.get(version)) {
                Some(devices) => all | devices,
                None => all,
            }
        })
    }

    /// Those that hold a permit.
    pub fn upgrading(&self) -> RoaringBitmap {
        self.all() & &self.state.upgrading
    }

    /// Those with this name; several products may each have one.
    pub fn with_id(&self, device_id: &str) -> RoaringBitmap {
        let products = self.state.products_of(self.organization);
        products.filter_map(|product| self.state.device_number(product.row.number, device_id)).map(|number| number.0).collect()
    }

    /// Those that say of themselves that they are this model.
    pub fn with_model(&self, model: &str) -> RoaringBitmap {
        self.by_facet(|facets| facets.with_model(model))
    }

    pub fn with_manufacturer(&self, manufacturer: &str) -> RoaringBitmap {
        self.by_facet(|facets| facets.with_manufacturer(manufacturer))
    }

    pub fn with_device_type(&self, device_type: &str) -> RoaringBitmap {
        self.by_facet(|facets| facets.with_device_type(device_type))
    }

    /// Those of any product that are in this group.
    pub fn in_group(&self, group: &str) -> RoaringBitmap {
        let selector = Selector::Groups(vec![group.into()]);
        self.state.products_of(self.organization).fold(RoaringBitmap::new(), |all, product| {
            match product.facets.select(&selector) {
                Some(devices) => all | &*devices,
                None => all,
            }
        })
    }

    fn by_facet<'f>(&'f self, find: impl Fn(&'f Facets) -> Cow<'f, RoaringBitmap>) -> RoaringBitmap {
        self.state.products_of(self.organization).fold(RoaringBitmap::new(), |all, product| all | &*find(&product.facets))
    }

    /// Those of a product that a scope's selector names; everything where it names nothing.
    pub fn selected(&self, product_id: &str, selector: &Selector) -> RoaringBitmap {
        match self.state.product_number(self.organization, product_id) {
            Some(product) => self.state.selected(product, selector).unwrap_or_else(|| self.of_product(product_id)),
            None => RoaringBitmap::new(),
        }
    }
}

impl State {
    /// The devices of one organization.
    pub fn device_sets<'a>(&'a self, organization: &'a str) -> DeviceSets<'a> {
        DeviceSets { state: self, organization }
    }

    /// The devices of a set, in the order of their numbers, from the `offset`th on.
    pub fn devices_in(&self, set: &RoaringBitmap, offset: u64, limit: usize) -> Vec<DeviceInfo> {
        let Some(first) = u32::try_from(offset).ok().and_then(|offset| set.select(offset)) else { return Vec::new() };
        set.range(first..).take(limit).filter_map(|number| self.device_by_number(DeviceNumber(number))).collect()
    }

    /// The devices of a product that a selector names; `None` where it names nothing, and so all.
    pub(super) fn selected(&self, product: ProductNumber, selector: &Selector) -> Option<RoaringBitmap> {
        match selector {
            Selector::Total => None,
            Selector::Devices(ids) => {
                Some(ids.iter().filter_map(|id| self.device_number(product, id)).map(|number| number.0).collect())
            }
            by_details => match self.products.get(&product) {
                Some(entry) => entry.facets.select(by_details).map(Cow::into_owned),
                None => Some(RoaringBitmap::new()),
            },
        }
    }

    /// The devices now at one of these versions.
    pub(super) fn at_start<'a>(
        &self,
        product: ProductNumber,
        component: Component,
        from_versions: impl Iterator<Item = &'a str>,
    ) -> RoaringBitmap {
        let Some(versions) = self.versions.get(&(product, component)) else { return RoaringBitmap::new() };
        from_versions.filter_map(|version| versions.get(version)).fold(RoaringBitmap::new(), |all, devices| all | devices)
    }

    /// The devices that a task is for and that have no upgrade of it yet.
    pub(super) fn to_come(&self, entry: &TaskEntry) -> RoaringBitmap {
        let row = entry.view.row();
        let mut devices = self.at_start(row.product, row.component, row.from_versions.iter().map(|version| &**version));
        match &**entry.view.scope() {
            CompiledScope::Members(members) => devices &= members,
            _ => {
                if let Some(selected) = self.selected(row.product, &row.scope.selector) {
                    devices &= selected;
                }
            }
        }
        devices - &entry.unfinished - entry.finished.devices()
    }

    /// The devices of a task whose runs are in one of these states. `Waiting` holds those to come, too.
    pub fn runs(&self, task: TaskNumber, states: &[UpgradeState]) -> RoaringBitmap {
        let Some(entry) = self.task_entry(task) else { return RoaringBitmap::new() };
        let mut devices = RoaringBitmap::new();
        for state in states {
            devices |= entry.in_state(*state);
        }
        if states.contains(&UpgradeState::Waiting) {
            devices |= self.listed(entry);
        }
        devices
    }

    /// The devices of a task that have no upgrade of it yet. A snapshot is a closed list: its devices are on it whatever they run by now.
    fn listed(&self, entry: &TaskEntry) -> RoaringBitmap {
        let CompiledScope::Members(members) = &**entry.view.scope() else { return self.to_come(entry) };
        let product = self.products.get(&entry.view.row().product);
        let there = product.map(|product| members & &product.devices).unwrap_or_default();
        there - &entry.unfinished - entry.finished.devices()
    }

    /// The devices that were fixed when a task with a snapshot was created, as far as they are still there.
    pub fn members_of(&self, task: TaskNumber) -> Option<RoaringBitmap> {
        let entry = self.task_entry(task)?;
        let CompiledScope::Members(members) = &**entry.view.scope() else { return None };
        Some(members & &self.products.get(&entry.view.row().product)?.devices)
    }

    /// The devices that have an upgrade of a task, and it isn't over: those that run, and those that wait after they were offered it.
    pub fn unfinished(&self, task: TaskNumber) -> RoaringBitmap {
        self.task_entry(task).map(|entry| entry.unfinished.clone()).unwrap_or_default()
    }

    /// How a device stands with a task; `None` where the task isn't for it.
    pub fn run(&self, task: TaskNumber, device: DeviceNumber) -> Option<Run> {
        let entry = self.task_entry(task)?;
        if let Some(live) = self.live_upgrade(task, device) {
            return Some(Run::Live(Arc::clone(&live.row)));
        }
        if let Some(state) = entry.finished.state_of(device) {
            return Some(Run::Finished(state));
        }
        let row = entry.view.row();
        let device = self.device_row(device).filter(|device| device.product == row.product)?;
        let is_listed = row.scope.snapshot || is_at_start(row, device);
        (is_listed && entry.view.scope().contains(device)).then_some(Run::ToCome)
    }
}

impl TaskEntry {
    /// The devices whose upgrades are in this state.
    pub(super) fn in_state(&self, state: UpgradeState) -> &RoaringBitmap {
        self.unfinished_by_state.get(state as usize).unwrap_or_else(|| self.finished.of(state))
    }
}

/// It runs one of the versions that the task leads from.
pub(super) fn is_at_start(task: &Task, device: &Device) -> bool {
    device.version(task.component).is_some_and(|version| task.from_versions.contains(version))
}
