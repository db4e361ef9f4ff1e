//! Workloads shared by the benches: fleets of any size, laid straight into an engine.

use sluicegate::model::*;
use sluicegate::store::{Archive, Group, Loaded, Opened, Row, Store, StoreError, UpgradeQuery};
use sluicegate::{Engine, Options};
use std::path::Path;
use std::sync::Arc;

pub const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
pub const ORGANIZATION: &str = "bench";

/// Keeps nothing: what is measured on it is the engine alone.
#[derive(Debug)]
pub struct NullStore;

impl Store for NullStore {
    fn commit(&mut self, _: &Group) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Archive for NullStore {
    fn upgrades(&self, _: &UpgradeQuery, _: u64) -> Result<Vec<Upgrade>, StoreError> {
        Ok(Vec::new())
    }

    fn events(&self, _: u64, _: usize, _: u64) -> Result<Vec<Event>, StoreError> {
        Ok(Vec::new())
    }
}

/// What a fleet is made of.
#[derive(Clone, Copy, Debug)]
pub struct FleetShape {
    pub devices: u32,
    /// Started tasks, spread over the products; task `n` leads from version `from-n` to `to-n`.
    pub tasks: u32,
    pub products: u32,
    /// Devices below this number run a from-version, the others the newest one.
    pub devices_at_start: u32,
    /// Permits of each task.
    pub maximum_concurrency: Option<u32>,
}

pub fn product_id(product: u32) -> String {
    format!("product-{product:05}")
}

pub fn device_id(device: u32) -> String {
    format!("device-{device:08}")
}

impl FleetShape {
    pub fn product_of_device(&self, device: u32) -> u32 {
        device % self.products
    }

    /// A task of the device's product, so that the device can run its from-version.
    pub fn task_of_device(&self, device: u32) -> u32 {
        let tasks_per_product = (self.tasks / self.products).max(1);
        self.product_of_device(device) + (device / self.products % tasks_per_product) * self.products
    }

    pub fn version_of_device(&self, device: u32) -> String {
        if device < self.devices_at_start { format!("from-{}", self.task_of_device(device)) } else { "newest".to_owned() }
    }

    /// An engine that holds this fleet, with a store that keeps nothing.
    pub fn engine(&self, folder: &Path) -> Engine {
        let opened = Opened { store: 1, ..Opened::default() };
        Engine::with_store(Options::new(folder), |sink| {
            self.rows(sink);
            Ok((NullStore, Arc::new(NullStore), opened))
        })
        .expect("a fleet without faults opens")
    }

    fn rows(&self, sink: &mut dyn FnMut(Loaded)) {
        let organization: Arc<str> = ORGANIZATION.into();
        for product in 0..self.products {
            sink(Loaded::Row(Row::Product(Arc::new(Product {
                number: ProductNumber(product),
                organization: Arc::clone(&organization),
                id: product_id(product).into(),
                name: None,
                created_at: NOW,
            }))));
        }
        let newest: Arc<str> = "newest".into();
        let starts: Vec<Arc<str>> = (0..self.tasks).map(|task| format!("from-{task}").into()).collect();
        for device in 0..self.devices {
            let version = if device < self.devices_at_start { &starts[self.task_of_device(device) as usize] } else { &newest };
            sink(Loaded::Row(Row::Device(Arc::new(Device {
                number: DeviceNumber(device),
                product: ProductNumber(self.product_of_device(device)),
                id: device_id(device).into(),
                components: Box::new([Installed { component: Component::MAIN, version: Arc::clone(version) }]),
                created_at: NOW,
                details: None,
            }))));
        }
        for task in 0..self.tasks {
            sink(Loaded::Row(Row::Task(Arc::new(self.task(task, &starts[task as usize])))));
        }
    }

    fn task(&self, number: u32, from: &Arc<str>) -> Task {
        Task {
            number: TaskNumber(number),
            id: TaskId { created_s: NOW.as_seconds() as u32, store: 1, number: TaskNumber(number) },
            product: ProductNumber(number % self.products),
            component: Component::MAIN,
            name: Some(format!("task {number}").into()),
            description: None,
            kind: TaskKind::Upgrade,
            mode: TaskMode::Automatic,
            from_versions: vec![Arc::clone(from)],
            target_version: format!("to-{number}").into(),
            artifact: Artifact { url: Some("http://files/image".into()), size: 1, md5: "0".into(), ..Artifact::default() },
            firmware: None,
            scope: Scope::default(),
            members: None,
            policy: Policy { maximum_concurrency: self.maximum_concurrency, ..Policy::default() },
            status: TaskStatus::Started,
            created_at: NOW,
            changed_at: NOW,
            annotations: Default::default(),
            waves: Vec::new(),
            approved: false,
            canceled: false,
            finished_at: None,
        }
    }
}

/// A full-period walk over `0..count` that no prefetcher foresees.
pub fn scattered(count: u32) -> impl Iterator<Item = u32> {
    // An odd step near the golden ratio of the count visits everything once if it shares no factor with it.
    let mut step = (u64::from(count) * 618 / 1000) | 1;
    while gcd(step, u64::from(count)) != 1 {
        step += 2;
    }
    (0..u64::from(count)).map(move |n| (n * step % u64::from(count)) as u32).cycle()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
