//! What operators read. Everything is as of one moment and durable.

use super::{DeviceRef, State};
use crate::model::*;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

/// A task with its live figures.
#[derive(Clone, Debug)]
pub struct TaskInfo {
    pub row: Arc<Task>,
    pub product: Arc<Product>,
    /// `Waiting` counts only devices that were offered it before, or were put back by an operator.
    pub counts: StateCounts,
    pub permits_held: u64,
    /// Devices that have succeeded at least once.
    pub succeeded_devices: u64,
    /// Devices now at one of its from-versions.
    pub devices_at_start: u64,
}

/// A device with when it was last heard of.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    pub row: Arc<Device>,
    pub product: Arc<Product>,
    /// To the second; since the last start.
    pub last_seen: Option<Timestamp>,
}

/// How many of each there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub products: u64,
    pub devices: u64,
    pub firmware: u64,
    pub tasks: u64,
    pub tasks_started: u64,
    pub tokens: u64,
    pub permits_held: u64,
}

impl State {
    pub fn product(&self, organization: &str, product_id: &str) -> Option<&Arc<Product>> {
        self.product_by_number(self.product_number(organization, product_id)?)
    }

    pub fn product_by_number(&self, number: ProductNumber) -> Option<&Arc<Product>> {
        self.products.get(&number).map(|entry| &entry.row)
    }

    /// In the order of their ids, those after `after`.
    pub fn products(&self, organization: &str, after: Option<&str>, limit: usize) -> Vec<Arc<Product>> {
        let Some(names) = self.products_by_name.get(organization) else { return Vec::new() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let numbers = names.range::<str, _>((from, Bound::Unbounded)).map(|(_, number)| *number);
        numbers.filter_map(|number| self.product_by_number(number).cloned()).take(limit).collect()
    }

    pub fn device(&self, device: DeviceRef<'_>) -> Option<DeviceInfo> {
        let product = self.product_number(device.organization, device.product_id)?;
        self.device_by_number(self.device_number(product, device.device_id)?)
    }

    pub fn device_by_number(&self, number: DeviceNumber) -> Option<DeviceInfo> {
        let row = Arc::clone(self.device_row(number)?);
        let product = Arc::clone(self.product_by_number(row.product)?);
        Some(DeviceInfo { row, product, last_seen: self.published.last_seen(number) })
    }

    /// By number, those after `after`.
    pub fn devices(&self, product: ProductNumber, after: Option<DeviceNumber>, limit: usize) -> Vec<DeviceInfo> {
        let Some(entry) = self.products.get(&product) else { return Vec::new() };
        let from = after.map_or(Some(0), |after| after.0.checked_add(1));
        let Some(from) = from else { return Vec::new() };
        entry.devices.range(from..).filter_map(|number| self.device_by_number(DeviceNumber(number))).take(limit).collect()
    }

    pub fn firmware(&self, organization: &str, id: FirmwareId) -> Option<Arc<Firmware>> {
        let row = self.firmware.get(&id.number).filter(|row| row.id == id)?;
        (*self.product_by_number(row.product)?.organization == *organization).then(|| Arc::clone(row))
    }

    /// The firmware of this version of a component.
    pub fn firmware_of_version(&self, product: ProductNumber, component: Component, version: &str) -> Option<Arc<Firmware>> {
        let number = self.firmware_by_version.get(&(product, component, version.into()))?;
        self.firmware_by_number(*number)
    }

    pub fn firmware_by_number(&self, number: FirmwareNumber) -> Option<Arc<Firmware>> {
        self.firmware.get(&number).cloned()
    }

    /// Newest first, of all products of the organization or of one; those older than `before`.
    pub fn firmware_list(
        &self,
        organization: &str,
        product: Option<ProductNumber>,
        before: Option<FirmwareNumber>,
        limit: usize,
    ) -> Vec<Arc<Firmware>> {
        let to = before.map_or(Bound::Unbounded, Bound::Excluded);
        match product {
            Some(product) => {
                let Some(entry) = self.own_product(organization, product) else { return Vec::new() };
                let numbers = entry.firmware.range((Bound::Unbounded, to)).rev();
                numbers.filter_map(|number| self.firmware.get(number).cloned()).take(limit).collect()
            }
            None => {
                let products = self.products_of(organization);
                let newest = |entry: &super::ProductEntry| newest_of(&entry.firmware, to, limit);
                let numbers = newest_first(products.flat_map(newest).collect(), limit);
                numbers.into_iter().filter_map(|number| self.firmware.get(&number).cloned()).collect()
            }
        }
    }

    pub fn task(&self, organization: &str, id: TaskId) -> Option<TaskInfo> {
        self.own_task(organization, id).ok().and_then(|number| self.task_info(number))
    }

    /// Newest first, of all products of the organization or of one; those older than `before`.
    pub fn tasks(
        &self,
        organization: &str,
        product: Option<ProductNumber>,
        before: Option<TaskNumber>,
        limit: usize,
    ) -> Vec<TaskInfo> {
        let to = before.map_or(Bound::Unbounded, Bound::Excluded);
        match product {
            Some(product) => {
                let Some(entry) = self.own_product(organization, product) else { return Vec::new() };
                let numbers = entry.tasks.range((Bound::Unbounded, to)).rev();
                numbers.filter_map(|number| self.task_info(*number)).take(limit).collect()
            }
            None => {
                let products = self.products_of(organization);
                let newest = |entry: &super::ProductEntry| newest_of(&entry.tasks, to, limit);
                let numbers = newest_first(products.flat_map(newest).collect(), limit);
                numbers.into_iter().filter_map(|number| self.task_info(number)).collect()
            }
        }
    }

    /// Only the organization's own: what others have doesn't lengthen its lists.
    pub(super) fn products_of(&self, organization: &str) -> impl Iterator<Item = &super::ProductEntry> {
        let numbers = self.products_by_name.get(organization).into_iter().flat_map(|names| names.values());
        numbers.filter_map(|number| self.products.get(number))
    }

    fn own_product(&self, organization: &str, product: ProductNumber) -> Option<&super::ProductEntry> {
        self.products.get(&product).filter(|entry| *entry.row.organization == *organization)
    }

    fn task_info(&self, number: TaskNumber) -> Option<TaskInfo> {
        let entry = self.tasks.get(&number)?;
        let row = Arc::clone(entry.view.row());
        let mut counts = entry.counts;
        for state in UpgradeState::ALL.into_iter().filter(|state| state.is_finished()) {
            counts.set(state, entry.finished.count(state));
        }
        let devices_at_start = row.from_versions.iter().map(|version| self.devices_at(row.product, row.component, version)).sum();
        Some(TaskInfo {
            product: Arc::clone(self.product_by_number(row.product)?),
            counts,
            permits_held: entry.permits_held,
            succeeded_devices: entry.succeeded.len(),
            devices_at_start,
            row,
        })
    }

    /// The task with this number, whoever's it is.
    pub fn task_by_number(&self, number: TaskNumber) -> Option<TaskInfo> {
        self.task_info(number)
    }

    /// Every version that devices of the product run on the component, with how many do.
    pub fn version_counts(&self, product: ProductNumber, component: Component) -> Vec<(Arc<str>, u64)> {
        let versions = self.versions.get(&(product, component)).into_iter().flatten();
        versions.map(|(version, devices)| (Arc::clone(version), devices.len())).collect()
    }

    pub fn devices_at(&self, product: ProductNumber, component: Component, version: &str) -> u64 {
        self.versions.get(&(product, component)).and_then(|versions| versions.get(version)).map_or(0, roaring::RoaringBitmap::len)
    }

    /// The newest started task that leads from this version, if there is one.
    pub fn task_from(&self, product: ProductNumber, component: Component, version: &str) -> Option<TaskInfo> {
        let key = crate::index::StartKey { product, component, version: version.into() };
        let mut tasks = self.starts.get(&key)?.iter().rev().filter_map(|task| self.task_info(*task));
        tasks.find(|task| task.row.status == TaskStatus::Started)
    }

    pub fn image(&self, organization: &str, id: ImageId) -> Option<Arc<Image>> {
        self.images.get(&id)?.get(organization).cloned()
    }

    /// Whoever holds it: size and digests are the same for all.
    pub fn any_image(&self, id: ImageId) -> Option<Arc<Image>> {
        self.images.get(&id)?.values().next().cloned()
    }

    pub fn app(&self, id: &str) -> Option<Arc<App>> {
        self.apps.get(id).cloned()
    }

    /// Every subscription of one organization, or of all, in the order of their ids.
    pub fn subscriptions<'a>(&'a self, organization: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Subscription>> {
        self.subscriptions.values().filter(move |row| organization.is_none_or(|organization| *row.organization == *organization))
    }

    pub fn subscription(&self, organization: &str, id: &str) -> Option<Arc<Subscription>> {
        self.subscriptions.get(id).filter(|row| *row.organization == *organization).cloned()
    }

    pub fn token(&self, id: TokenId) -> Option<Arc<Token>> {
        self.tokens.get(&id).cloned()
    }

    pub fn permits_held(&self) -> u64 {
        self.permits_held
    }

    pub fn totals(&self) -> Totals {
        Totals {
            products: self.products.len() as u64,
            devices: self.devices_count,
            firmware: self.firmware.len() as u64,
            tasks: self.tasks.len() as u64,
            tasks_started: self.tasks.values().filter(|entry| entry.view.row().status == TaskStatus::Started).count() as u64,
            tokens: self.tokens.len() as u64,
            permits_held: self.permits_held,
        }
    }
}

/// The newest numbers of a set, below a bound: a list takes no more than its limit from any one product.
fn newest_of<N: Copy + Ord>(set: &BTreeSet<N>, to: Bound<N>, limit: usize) -> Vec<N> {
    set.range((Bound::Unbounded, to)).rev().copied().take(limit).collect()
}

fn newest_first<N: Ord>(mut numbers: Vec<N>, limit: usize) -> Vec<N> {
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.truncate(limit);
    numbers
}
