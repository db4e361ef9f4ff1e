//! What the recorded process does: many threads on one engine, each writing down what it asks and what it is answered.

use crate::ledger::Pen;
use crate::random::Random;
use crate::{NOW, ORGANIZATION};
use bytes::Bytes;
use sluicegate::image::Declared;
use sluicegate::model::*;
use sluicegate::store::{SqliteArchive, SqliteStore, StoreErrorKind, UpgradeQuery};
use sluicegate::*;
use std::path::Path;
use std::sync::Arc;

/// What to do, handed over as the words of an environment variable.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) seed: u64,
    /// Distinguishes the names of this part from those of others on the same folder.
    pub(crate) name: String,
    pub(crate) steps: usize,
    /// In the middle of everything, instead of closing the engine.
    pub(crate) dies: bool,
    /// What the disk is told to fail, as `recorder.c` takes it.
    pub(crate) fault: Option<String>,
}

impl Part {
    pub(crate) fn words(&self) -> String {
        let fault = self.fault.as_deref().unwrap_or_default();
        format!("{} {} {} {} {fault}", self.seed, self.name, self.steps, self.dies)
    }

    fn of(words: &str) -> Self {
        let words: Vec<&str> = words.splitn(5, ' ').collect();
        Self {
            seed: words[0].parse().unwrap(),
            name: words[1].to_owned(),
            steps: words[2].parse().unwrap(),
            dies: words[3].parse().unwrap(),
            fault: Some(words[4]).filter(|fault| !fault.is_empty()).map(str::to_owned),
        }
    }
}

/// Small, so that both write-ahead files are folded every few groups.
const FOLD_AFTER_BYTES: usize = 96 << 10;
/// How often each part opens the engine.
pub(crate) const SESSIONS: u64 = 2;

pub(crate) fn run(root: &Path, words: &str) {
    let part = Part::of(words);
    let pen = Pen::open(root);
    let mut random = Random::new(part.seed);
    let disk_fails = part.fault.is_some();
    for number in 0..SESSIONS {
        let dies = part.dies && number == SESSIONS - 1;
        let name = format!("{}-{number}", part.name);
        // What fails may fail for some time; the next try may find the disk in order.
        let opened = (0..3).find_map(|_| {
            let opened = open(root, &mut random);
            assert!(disk_fails || opened.is_ok(), "the folder doesn't open on a disk that works: {:?}", opened.err());
            opened.ok()
        });
        let Some((engine, archive)) = opened else { return };
        pen.opened();
        let session = Session { engine, archive, pen: &pen, root, name, disk_fails };
        session.run(part.steps, dies, &mut random);
    }
}

fn open(root: &Path, random: &mut Random) -> Result<(Engine, Arc<SqliteArchive>), Error> {
    let folder = root.join("data");
    let events_max = if random.one_in(3) { 50 } else { 1_000_000 };
    let limits = Limits { events_max, ..Limits::default() };
    let mut kept = None;
    let engine = Engine::with_store(Options { limits, ..Options::new(&folder) }, |sink| {
        let (store, archive, opened) = SqliteStore::open_folding_after(&folder, FOLD_AFTER_BYTES, sink)?;
        kept = Some(Arc::clone(&archive));
        Ok((store, archive, opened))
    })?;
    Ok((engine, kept.expect("the store was opened")))
}

/// The store is gone for this session: it must refuse everything from now on.
struct Broken;

struct Session<'a> {
    engine: Engine,
    archive: Arc<SqliteArchive>,
    pen: &'a Pen,
    root: &'a Path,
    name: String,
    /// It was told to; otherwise the store has no excuse.
    disk_fails: bool,
}

impl Session<'_> {
    fn run(&self, steps: usize, dies: bool, random: &mut Random) {
        let begun = self.begin();
        assert!(self.disk_fails || begun.is_ok(), "{}: not begun on a disk that works", self.name);
        if begun.is_ok() {
            std::thread::scope(|scope| {
                type Work<'a> = fn(&Session<'a>, usize, &mut Random) -> Result<(), Broken>;
                let works: [Work<'_>; 7] = [
                    Session::devices,
                    Session::devices,
                    Session::devices,
                    Session::images,
                    Session::fleet,
                    Session::sundries,
                    Session::backups,
                ];
                for (number, work) in works.into_iter().enumerate() {
                    let mut random = random.fork();
                    let steps = if dies { steps / 2 } else { steps };
                    scope.spawn(move || {
                        for step in 0..steps {
                            if work(self, number * 10_000 + step, &mut random).is_err() {
                                return;
                            }
                        }
                        if dies && number == 0 {
                            // The others are in the middle of something.
                            std::process::exit(0);
                        }
                    });
                }
            });
        }
        if !self.engine.is_writable() {
            assert!(self.disk_fails, "{}: the store failed on a disk that works", self.name);
            self.refuses_everything();
        }
    }

    /// A disk that failed once is not trusted again, though it may work now.
    fn refuses_everything(&self) {
        let key = format!("product {}-late", self.name);
        self.pen.ask(&key, "late");
        let answer = self.put_product(&format!("{}-late", self.name), "late").wait();
        assert!(matches!(answer, Err(Error::Store(_))), "a failed store has taken a command: {answer:?}");
        self.pen.no(&key);
        assert!(self.engine.read_blocking(State::totals).is_ok(), "reads go on");
    }

    /// Writes down what became of what was asked. Absent where it was refused.
    fn answered<T>(&self, key: &str, answer: Result<T, Error>, detail: impl FnOnce(&T) -> String) -> Result<Option<T>, Broken> {
        match answer {
            Ok(answer) => {
                self.pen.ok(key, &detail(&answer));
                Ok(Some(answer))
            }
            Err(error) => {
                self.refused(key, &error)?;
                self.pen.no(key);
                Ok(None)
            }
        }
    }

    /// What an error leaves: nothing of what was asked, or a broken store, of which nobody knows what it kept. On a disk that works
    /// only what is in the way for a while is an excuse.
    fn refused(&self, doing: &str, error: &Error) -> Result<(), Broken> {
        let kind = match error {
            Error::Store(error) => Some(error.kind),
            Error::Closed => None,
            other => panic!("{doing}: {other}"),
        };
        assert!(self.disk_fails || kind == Some(StoreErrorKind::Busy), "{doing}: failed on a disk that works: {error}");
        match kind {
            Some(StoreErrorKind::Full | StoreErrorKind::Busy) => Ok(()),
            _ => Err(Broken),
        }
    }

    fn begin(&self) -> Result<(), Broken> {
        let key = format!("status {}", self.name);
        self.pen.ask(&key, "started");
        let policy = Policy { maximum_concurrency: Some(crate::CAP), ..Policy::default() };
        let created = self.engine.create_task(self.new_task("main", "1", policy), true, NOW).wait();
        self.answered(&key, created, |task| task.id.to_string()).and_then(|task| task.map(drop).ok_or(Broken))
    }

    fn new_task(&self, name: &str, from: &str, policy: Policy) -> NewTask {
        let artifact = Artifact { url: Some("http://elsewhere/2".into()), size: 9, md5: "m".into(), ..Artifact::default() };
        let target = TaskTarget::Artifact { version: "2".into(), artifact };
        NewTask {
            name: Some(name.into()),
            policy,
            start: true,
            ..NewTask::new(ORGANIZATION, &self.name, vec![from.into()], target)
        }
    }

    fn put_product(&self, product_id: &str, name: &str) -> Pending<Arc<Product>> {
        let new = NewProduct { organization: ORGANIZATION.into(), product_id: product_id.into(), name: Some(name.into()) };
        self.engine.put_product(new, NOW)
    }

    /// Devices that are offered the upgrade, and most of which go through it: one at a time, or many at once in one group.
    fn devices(&self, step: usize, random: &mut Random) -> Result<(), Broken> {
        let count = if random.one_in(6) { 12 } else { 1 };
        let names: Vec<String> = (0..count).map(|n| format!("d{step}-{n}")).collect();
        let keys: Vec<String> = names.iter().map(|name| format!("device {} {name}", self.name)).collect();
        let asked: Vec<_> = names
            .iter()
            .zip(&keys)
            .map(|(name, key)| {
                self.pen.ask(key, "offered");
                let device = DeviceRef { organization: ORGANIZATION, product_id: &self.name, device_id: name };
                let rules = CheckRules { register: true, ..CheckRules::default() };
                self.engine.decide(&Check { device, component: Component::MAIN, version: "1", rules }, NOW)
            })
            .collect();
        let mut running = Vec::new();
        let mut broken = false;
        for ((name, key), asked) in names.iter().zip(&keys).zip(asked) {
            let answer = asked.wait();
            if let Ok(Decision::Wait(_)) = answer {
                self.pen.no(key);
                continue;
            }
            let id = |decision: &Decision| match decision {
                Decision::Offer(offer) => offer.id.expect("an offer that is no preview has an id"),
                other => panic!("{key}: {other:?}"),
            };
            match self.answered(key, answer, |decision| id(decision).to_string()) {
                Ok(Some(decision)) => running.push((name, key, id(&decision))),
                Ok(None) => {}
                Err(Broken) => broken = true,
            }
        }
        let end = if random.one_in(4) { ReportedState::Failed } else { ReportedState::Succeeded };
        for state in [ReportedState::Downloading, ReportedState::Installing, end] {
            if random.one_in(10) {
                // Left there, with its permit, if many aren't held already.
                running.truncate(running.len().saturating_sub(1));
            }
            for (name, key, id) in &running {
                self.pen.ask(key, state.state().name());
                let device = DeviceRef { organization: ORGANIZATION, product_id: &self.name, device_id: name }.to_owned();
                let report = Report { device, upgrade: *id, state, percent: None, detail: None, code: None };
                let answer = self.engine.report(report, NOW).wait();
                if self.answered(key, answer, |_| id.to_string())?.is_none() {
                    break;
                }
            }
        }
        if random.one_in(8) {
            // Has the tables hurry. That a disk which fails can't be read breaks nothing else.
            if let Err(error) = self.engine.upgrades(&UpgradeQuery { limit: 1, ..UpgradeQuery::default() }) {
                _ = self.refused("upgrades", &error);
            }
        }
        if broken { Err(Broken) } else { Ok(()) }
    }

    /// Images of all sizes, taken in and put into the catalog; some are taken out again.
    fn images(&self, step: usize, random: &mut Random) -> Result<(), Broken> {
        if !random.one_in(4) {
            return self.sundries(step, random);
        }
        let length = match random.below(8) {
            0 => 0,
            // More than is held in memory.
            1 => (1 << 20) + 4096 + random.below(9_000),
            _ => random.below(30_000),
        };
        let fill = random.next();
        let mut content: Vec<u8> = (0..length).map(|at| (fill.rotate_left(at as u32 % 64) ^ at as u64) as u8).collect();
        content.extend_from_slice(format!("{}-{step}", self.name).as_bytes());
        let taken_in = self.engine.images().begin(Declared::default(), u64::MAX).and_then(|mut ingest| {
            content.chunks(100_000).try_for_each(|part| ingest.write(Bytes::copy_from_slice(part)))?;
            ingest.finish()
        });
        assert!(self.disk_fails || taken_in.is_ok(), "an image is not taken in on a disk that works: {:?}", taken_in.err());
        let Ok((sealed, _)) = taken_in else { return Ok(()) };
        let key = format!("image {}", sealed.id());
        self.pen.ask(&key, &sealed.size().to_string());
        let row = Image {
            organization: ORGANIZATION.into(),
            id: sealed.id(),
            size: sealed.size(),
            md5: sealed.md5(),
            sha1: sealed.sha1(),
            name: None,
            created_at: NOW,
        };
        let answer = self.engine.put_image(row, NOW).wait();
        let kept = self.answered(&key, answer, |_| String::new())?.is_some();
        if kept && random.one_in(3) {
            self.pen.ask(&key, "");
            let answer = self.engine.delete_image(ORGANIZATION, sealed.id(), NOW).wait();
            if self.answered(&key, answer, |()| String::new())?.is_some() {
                // Nobody promises that the file is gone after that, if the disk fails.
                let removed = self.engine.images().remove(sealed.id());
                assert!(self.disk_fails || removed.is_ok(), "an image is not removed on a disk that works: {removed:?}");
            }
        }
        Ok(())
    }

    /// Many devices in one command: a large group, kept whole or not at all.
    fn fleet(&self, step: usize, random: &mut Random) -> Result<(), Broken> {
        if !random.one_in(3) {
            return self.sundries(step, random);
        }
        let key = format!("fleet {} {step}", self.name);
        let value = format!("v{}", random.below(1_000_000));
        let padding = "p".repeat(if random.one_in(5) { 900 } else { 60 });
        let device = |n: usize| NewDevice {
            product_id: self.name.clone(),
            device_id: format!("f{step}-{n}"),
            components: vec![(Component::MAIN, "0".into())],
            details: DeviceDetails {
                tags: [("value".into(), value.as_str().into()), ("padding".into(), padding.as_str().into())].into(),
                ..DeviceDetails::default()
            },
        };
        self.pen.ask(&key, &value);
        let answer = self.engine.put_devices(ORGANIZATION, (0..crate::FLEET).map(device).collect(), true, NOW).wait();
        self.answered(&key, answer, |devices| {
            assert!(devices.iter().all(Result::is_ok), "{devices:?}");
            String::new()
        })
        .map(drop)
    }

    /// Small commands of every kind, each about one thing.
    fn sundries(&self, step: usize, random: &mut Random) -> Result<(), Broken> {
        match random.below(6) {
            0 => {
                let product = format!("{}-{step}", self.name);
                let key = format!("product {product}");
                for version in 0..3 {
                    let name = format!("name {version}");
                    self.pen.ask(&key, &name);
                    if self.answered(&key, self.put_product(&product, &name).wait(), |_| String::new())?.is_none() {
                        break;
                    }
                }
                Ok(())
            }
            1 | 2 => {
                let id = TokenId(random.next());
                let key = format!("token {id}");
                self.pen.ask(&key, "there");
                let token = Token {
                    id,
                    secret_sha256: [7; 32],
                    purpose: TokenPurpose::Access,
                    role: Role::Operator,
                    organization: ORGANIZATION.into(),
                    product_id: None,
                    device_id: None,
                    app: None,
                    created_at: NOW,
                    expires_at: NOW.plus_seconds(1_000_000),
                };
                let kept = self.answered(&key, self.engine.put_token(token, NOW).wait(), |_| String::new())?.is_some();
                if kept && random.one_in(2) {
                    self.pen.ask(&key, "");
                    self.answered(&key, self.engine.revoke_token(None, id, NOW).wait(), |()| String::new())?;
                }
                Ok(())
            }
            3 => {
                let key = format!("tasks {} {step}", self.name);
                let tasks = (0..3).map(|n| self.new_task(&format!("{step}-{n}"), &format!("from {step}-{n}"), Policy::default()));
                self.pen.ask(&key, "3");
                let answer = self.engine.create_tasks(tasks.collect(), NOW).wait();
                let created = self.answered(&key, answer, |_| String::new())?;
                if let Some(tasks) = created.filter(|_| random.one_in(2)) {
                    self.pen.ask(&key, "2");
                    let rules = ActionRules::default();
                    let answer = self.engine.delete_task(ORGANIZATION, tasks[0].id, rules, NOW).wait();
                    self.answered(&key, answer, |()| String::new())?;
                }
                Ok(())
            }
            _ => self.engine.tick(NOW).wait().map_or_else(|error| self.refused("tick", &error), |_| Ok(())),
        }
    }

    /// Copies of the tables; and, more often, the main task stopped and started.
    fn backups(&self, step: usize, random: &mut Random) -> Result<(), Broken> {
        if random.one_in(25) {
            let file = format!("backup-{}-{step}.db", self.name);
            let key = format!("backup {file}");
            self.pen.ask(&key, "whole");
            match self.archive.backup(&self.root.join(&file)) {
                Ok(()) => self.pen.ok(&key, ""),
                Err(error) => {
                    _ = self.refused(&key, &Error::Store(error));
                    self.pen.no(&key);
                }
            }
            return Ok(());
        }
        if !random.one_in(4) {
            return self.sundries(step, random);
        }
        let key = format!("status {}", self.name);
        let tasks = self.engine.read_blocking(|state| {
            let product = state.product(ORGANIZATION, &self.name).map(|product| product.number);
            state.tasks(ORGANIZATION, product, None, 100_000)
        });
        let tasks = match tasks {
            Ok(tasks) => tasks,
            Err(error) => return self.refused("tasks", &error),
        };
        let main = tasks.iter().find(|task| task.row.name.as_deref() == Some("main")).expect("the main task is there");
        let (action, status) = match main.row.status {
            TaskStatus::Started => (TaskAction::Pause, "paused"),
            _ => (TaskAction::Resume, "started"),
        };
        self.pen.ask(&key, status);
        let rules = ActionRules::default();
        let answer = self.engine.act_on_task(ORGANIZATION, main.row.id, action, rules, NOW).wait();
        self.answered(&key, answer, |task| task.id.to_string()).map(drop)
    }
}
