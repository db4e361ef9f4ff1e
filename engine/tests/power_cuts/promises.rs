//! What must hold of a folder after a power cut.

use crate::ledger::{Ledger, Register};
use crate::{CAP, FLEET, NOW, ORGANIZATION};
use sluicegate::image::ImageStore;
use sluicegate::model::*;
use sluicegate::store::{UpgradeQuery, VerifyReport, verify};
use sluicegate::*;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// More than there is of anything.
const ALL: usize = 1_000_000;

/// Opens what a power cut left and compares it with what had been acknowledged. Panics where a promise is broken.
pub(crate) fn check(root: &Path, ledger: &Ledger) {
    let data = root.join("data");
    if ledger.opened {
        sound(&data, "as the power cut left it");
    }
    let engine = Engine::open(Options::new(&data)).unwrap_or_else(|error| panic!("the folder doesn't open: {error}"));
    let found = Found::read(&engine);
    for (key, register) in &ledger.registers {
        found.compare(root, key, register);
    }
    found.fits_together(&engine);
    takes_commands(&engine);
    drop((found, engine));
    sound(&data, "after it was opened again");
}

/// Every page, checksum, group and row, and every image that the catalog has.
fn sound(data: &Path, when: &str) {
    let VerifyReport { problems, images, .. } = verify(data).unwrap_or_else(|error| panic!("{when}: {error}"));
    assert!(problems.is_empty(), "{when}: {problems:?}");
    let problems = ImageStore::verify_all(data, &images);
    assert!(problems.is_empty(), "{when}: {problems:?}");
}

/// Everything that the engine has, read once.
struct Found {
    products: HashMap<String, (ProductNumber, String)>,
    /// By product and device.
    devices: HashMap<(ProductNumber, String), DeviceInfo>,
    tasks: Vec<TaskInfo>,
    upgrades: HashMap<(TaskNumber, DeviceNumber), Upgrade>,
    engine: Engine,
}

impl Found {
    fn read(engine: &Engine) -> Self {
        let everything = UpgradeQuery { limit: ALL, ..UpgradeQuery::default() };
        let upgrades = engine.upgrades(&everything).expect("upgrades are read");
        let read = engine.read_blocking(|state| {
            let products = state.products(ORGANIZATION, None, ALL);
            let devices = products.iter().flat_map(|product| state.devices(product.number, None, ALL)).collect::<Vec<_>>();
            (products, devices, state.tasks(ORGANIZATION, None, None, ALL))
        });
        let (products, devices, tasks) = read.expect("the state is read");
        let product = |row: &Product| (row.id.to_string(), (row.number, row.name.as_deref().unwrap_or_default().to_owned()));
        Self {
            products: products.iter().map(|row| product(row)).collect(),
            devices: devices.into_iter().map(|info| ((info.row.product, info.row.id.to_string()), info)).collect(),
            tasks,
            upgrades: upgrades.into_iter().map(|row| ((row.task, row.device), row)).collect(),
            engine: engine.clone(),
        }
    }

    fn compare(&self, root: &Path, key: &str, register: &Register) {
        let words: Vec<&str> = key.split(' ').collect();
        let (got, detail) = match words[..] {
            ["status", product] => self.main_task(product).map_or_else(nothing, |task| {
                let status = match task.row.status {
                    TaskStatus::Started => "started",
                    TaskStatus::Paused => "paused",
                    TaskStatus::Stopped => "stopped",
                };
                (status.to_owned(), Some(task.row.id.to_string()))
            }),
            ["device", product, id] => self.upgrade(product, id).map_or_else(nothing, |upgrade| {
                let id = UpgradeId { task: upgrade.task, device: upgrade.device, offer: upgrade.offer };
                (upgrade.state.name().to_owned(), Some(id.to_string()))
            }),
            ["product", id] => (self.products.get(id).map(|(_, name)| name.clone()).unwrap_or_default(), None),
            ["token", id] => {
                let token = self.engine.token(id.parse().unwrap());
                (token.map_or("", |_| "there").to_owned(), None)
            }
            ["fleet", product, step] => (self.fleet(product, step), None),
            ["tasks", product, step] => {
                let prefix = format!("{step}-");
                let of_step = |task: &&TaskInfo| task.row.name.as_deref().is_some_and(|name| name.starts_with(&prefix));
                let count = self.tasks.iter().filter(|task| *task.product.id == *product).filter(of_step).count();
                (if count == 0 { String::new() } else { count.to_string() }, None)
            }
            ["image", id] => (self.image(id), None),
            ["backup", file] if register.asked.is_none() && register.value == "whole" => {
                backup_is_whole(&root.join(file));
                return;
            }
            ["backup", _] => return,
            _ => panic!("{key}: not a key"),
        };
        assert!(register.may_be(&got), "{key}: is {got:?}, but {register:?} was acknowledged");
        if got == register.value && !register.detail.is_empty() {
            assert_eq!(detail.as_ref(), Some(&register.detail), "{key}");
        }
    }

    fn main_task(&self, product: &str) -> Option<&TaskInfo> {
        self.tasks.iter().find(|task| *task.product.id == *product && task.row.name.as_deref() == Some("main"))
    }

    fn device(&self, product: &str, id: &str) -> Option<&DeviceInfo> {
        self.devices.get(&(self.products.get(product)?.0, id.to_owned()))
    }

    fn upgrade(&self, product: &str, id: &str) -> Option<&Upgrade> {
        self.upgrades.get(&(self.main_task(product)?.row.number, self.device(product, id)?.row.number))
    }

    /// What all devices of a fleet have in common.
    fn fleet(&self, product: &str, step: &str) -> String {
        let value = |n: usize| {
            let device = self.device(product, &format!("f{step}-{n}"))?;
            device.row.details.as_ref()?.tags.get("value").map(ToString::to_string)
        };
        let values: Vec<_> = (0..FLEET).map(value).collect();
        assert!(values.iter().all(|value| *value == values[0]), "fleet {product} {step} is half kept: {values:?}");
        values[0].clone().unwrap_or_default()
    }

    fn image(&self, id: &str) -> String {
        let id: ImageId = id.parse().unwrap();
        let row = self.engine.read_blocking(|state| state.image(ORGANIZATION, id)).expect("the state is read");
        let Some(row) = row else { return String::new() };
        let sealed = self.engine.images().open_image(id, row.size).expect("an image of the catalog can be opened");
        assert_eq!((sealed.size(), sealed.md5(), sealed.sha1()), (row.size, row.md5, row.sha1));
        row.size.to_string()
    }

    /// Counts equal rows, caps hold, and events tell what is there, without a gap.
    fn fits_together(&self, engine: &Engine) {
        let mut permits_held = 0;
        for task in &self.tasks {
            let number = task.row.number;
            let mut counts: BTreeMap<UpgradeState, u64> = BTreeMap::new();
            for upgrade in self.upgrades.values().filter(|upgrade| upgrade.task == number) {
                *counts.entry(upgrade.state).or_default() += 1;
            }
            for (state, count) in task.counts.iter() {
                assert_eq!(count, counts.get(&state).copied().unwrap_or(0), "{state:?} of task {number:?}: counted, and rows");
            }
            let held: u64 = counts.iter().filter(|(state, _)| state.holds_permit()).map(|(_, count)| count).sum();
            assert_eq!(task.permits_held, held);
            assert!(held <= task.row.policy.maximum_concurrency.map_or(u64::MAX, u64::from), "{held} permits of task {number:?}");
            permits_held += held;
        }
        assert_eq!(engine.read_blocking(State::permits_held).unwrap(), permits_held);

        let mut events = Vec::new();
        loop {
            let next = events.last().map_or(1, |event: &std::sync::Arc<Event>| event.sequence + 1);
            let page = engine.events(next, 10_000).expect("events are read").events;
            if page.is_empty() {
                break;
            }
            events.extend(page);
        }
        assert!(events.windows(2).all(|pair| pair[0].sequence + 1 == pair[1].sequence), "a gap between events");
        let last = events.last().map_or(0, |event| event.sequence);
        assert_eq!(*engine.event_sequence().borrow(), last, "the newest event");
        if events.first().is_some_and(|event| event.sequence == 1) {
            let told = |kind| events.iter().filter(|event| event.kind == kind).count();
            let finished = self.upgrades.values().filter(|upgrade| upgrade.state.is_finished()).count();
            assert_eq!(
                (told(EventKind::Offered), told(EventKind::Result)),
                (self.upgrades.len(), finished),
                "events, and upgrades"
            );
        }
        assert_eq!(
            self.upgrades.values().map(|upgrade| upgrade.offer).max().unwrap_or(0).max(last),
            last,
            "an offer without its event"
        );
    }
}

fn nothing() -> (String, Option<String>) {
    (String::new(), None)
}

fn backup_is_whole(file: &Path) {
    let folder = tempfile::tempdir_in(crate::scratch()).unwrap();
    std::fs::copy(file, folder.path().join("state.db")).expect("a backup that was acknowledged is there");
    let problems = verify(folder.path()).expect("a backup can be looked at").problems;
    assert!(problems.is_empty(), "{}: {problems:?}", file.display());
}

fn takes_commands(engine: &Engine) {
    let artifact = Artifact { url: Some("http://elsewhere/2".into()), size: 9, md5: "m".into(), ..Artifact::default() };
    let target = TaskTarget::Artifact { version: "2".into(), artifact };
    let policy = Policy { maximum_concurrency: Some(CAP), ..Policy::default() };
    let new = NewTask { policy, start: true, ..NewTask::new(ORGANIZATION, "afterwards", vec!["1".into()], target) };
    engine.create_task(new, true, NOW).wait().expect("a task is created");
    let device = DeviceRef { organization: ORGANIZATION, product_id: "afterwards", device_id: "a" };
    let rules = CheckRules { register: true, ..CheckRules::default() };
    let decision = engine.decide(&Check { device, component: Component::MAIN, version: "1", rules }, NOW).wait();
    let Ok(Decision::Offer(offer)) = decision else { panic!("a device is not offered the task: {decision:?}") };
    let upgrade = offer.id.expect("an offer that is no preview has an id");
    let report =
        Report { device: device.to_owned(), upgrade, state: ReportedState::Succeeded, percent: None, detail: None, code: None };
    assert!(engine.report(report, NOW).wait().expect("a report is taken").changed);
}
