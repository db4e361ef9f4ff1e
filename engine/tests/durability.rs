//! What the engine promises across crashes, full disks and many threads, tried on the real store.

#![allow(clippy::unwrap_used, reason = "a test that meets what it doesn't expect should end there and then")]

use sluicegate::model::*;
use sluicegate::store::{Group, SqliteStore, Store, StoreError, StoreErrorKind};
use sluicegate::*;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, mpsc};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn open(folder: &Path) -> Engine {
    Engine::open(Options::new(folder)).expect("the folder opens")
}

fn device(id: &str) -> DeviceName {
    DeviceRef { organization: "acme", product_id: "lamp", device_id: id }.to_owned()
}

fn new_task(policy: Policy) -> NewTask {
    let artifact = Artifact { url: Some("http://elsewhere/2".into()), size: 9, md5: "m".into(), ..Artifact::default() };
    NewTask {
        policy,
        unique_start: true,
        start: true,
        ..NewTask::new("acme", "lamp", vec!["1".into()], TaskTarget::Artifact { version: "2".into(), artifact })
    }
}

fn started_task(engine: &Engine, maximum_concurrency: u32) -> TaskId {
    let policy = Policy { maximum_concurrency: Some(maximum_concurrency), ..Policy::default() };
    engine.create_task(new_task(policy), true, NOW).wait().expect("the task is created").id
}

fn check(engine: &Engine, id: &str) -> Result<Decision, Error> {
    let device = DeviceRef { organization: "acme", product_id: "lamp", device_id: id };
    let rules = CheckRules { register: true, ..CheckRules::default() };
    let check = Check { device, component: Component::MAIN, version: "1", rules };
    match engine.check(&check, NOW) {
        Checked::Decided(decision) => Ok(decision),
        Checked::Ask => engine.decide(&check, NOW).wait(),
    }
}

fn offered(engine: &Engine, id: &str) -> UpgradeId {
    match check(engine, id) {
        Ok(Decision::Offer(offer)) => offer.id.expect("an offer that is no preview has an id"),
        other => panic!("{id} was not offered the task: {other:?}"),
    }
}

fn report(engine: &Engine, id: &str, upgrade: UpgradeId, state: ReportedState) -> Result<Reported, Error> {
    engine.report(Report { device: device(id), upgrade, state, percent: None, detail: None, code: None }, NOW).wait()
}

fn counts(engine: &Engine, task: TaskId) -> TaskInfo {
    engine.read_blocking(|state| state.task("acme", task)).expect("the state is read").expect("the task is there")
}

/// The folder as a power cut would leave it: copied file by file while the engine runs.
fn crashed_copy(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() && entry.file_name() != "lock" {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    copy
}

#[test]
fn what_was_answered_is_there_after_a_crash_and_counts_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let task = started_task(&engine, 5);
    let upgrades: Vec<UpgradeId> = (0..5).map(|n| offered(&engine, &format!("d{n}"))).collect();
    report(&engine, "d0", upgrades[0], ReportedState::Succeeded).unwrap();
    report(&engine, "d1", upgrades[1], ReportedState::Installing).unwrap();
    report(&engine, "d2", upgrades[2], ReportedState::Failed).unwrap();

    let copy = crashed_copy(folder.path());
    let again = open(copy.path());
    let info = counts(&again, task);
    assert_eq!(info.permits_held, 3);
    assert_eq!(info.counts.get(UpgradeState::Succeeded), 1);
    assert_eq!(info.counts.get(UpgradeState::Installing), 1);
    assert_eq!(info.counts.get(UpgradeState::Failed), 1);
    assert_eq!(offered(&again, "d3"), upgrades[3], "the same offer after a crash");
    assert!(!report(&again, "d0", upgrades[0], ReportedState::Succeeded).unwrap().changed, "counted before the crash");
    assert!(matches!(check(&again, "d2"), Ok(Decision::NoTask)), "its run was over before the crash");
    offered(&again, "d5");
    offered(&again, "d6");
    assert!(matches!(check(&again, "d7"), Ok(Decision::Wait(Wait { reason: WaitReason::Cap, .. }))));
}

#[test]
fn a_crash_at_any_moment_loses_nothing_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let task = started_task(&engine, 1_000);
    for round in 0..20 {
        for n in 0..20 {
            let id = format!("d{round}-{n}");
            let upgrade = offered(&engine, &id);
            report(&engine, &id, upgrade, ReportedState::Succeeded).unwrap();
        }
        // The tables are brought up to date beside this: each copy finds them somewhere else.
        let copy = crashed_copy(folder.path());
        let info = counts(&open(copy.path()), task);
        assert_eq!(info.counts.get(UpgradeState::Succeeded), (round + 1) * 20, "round {round}");
        assert_eq!(info.permits_held, 0);
    }
}

#[test]
fn the_cap_holds_at_every_instant_with_many_threads_asking() {
    const CAP: i64 = 7;
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let task = started_task(&engine, CAP as u32);
    let (held, highest) = (AtomicI64::new(0), AtomicI64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (engine, held, highest) = (&engine, &held, &highest);
            scope.spawn(move || {
                for n in 0..40 {
                    let id = format!("d{thread}-{n}");
                    let upgrade = loop {
                        match check(engine, &id).unwrap() {
                            Decision::Offer(offer) => break offer.id.unwrap(),
                            Decision::Wait(_) => std::thread::yield_now(),
                            other => panic!("{other:?}"),
                        }
                    };
                    // Counted by the devices themselves: from the offer's arrival until before the result is sent.
                    highest.fetch_max(held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    report(engine, &id, upgrade, ReportedState::Downloading).unwrap();
                    held.fetch_sub(1, Ordering::SeqCst);
                    report(engine, &id, upgrade, ReportedState::Succeeded).unwrap();
                    report(engine, &id, upgrade, ReportedState::Succeeded).unwrap();
                }
            });
        }
    });
    let highest = highest.load(Ordering::SeqCst);
    assert!((1..=CAP).contains(&highest), "{highest} at once");
    let info = counts(&engine, task);
    assert_eq!((info.permits_held, info.counts.get(UpgradeState::Succeeded)), (0, 320));
}

/// A store that fails on demand, or waits to be let go on.
struct Faulty {
    store: SqliteStore,
    fault: Arc<Mutex<Option<StoreErrorKind>>>,
    gate: Option<mpsc::Receiver<()>>,
    gated: Arc<AtomicBool>,
}

impl Store for Faulty {
    fn commit(&mut self, group: &Group) -> Result<(), StoreError> {
        if let Some(gate) = self.gate.as_ref().filter(|_| self.gated.load(Ordering::SeqCst)) {
            let _ = gate.recv();
        }
        match *self.fault.lock().unwrap() {
            Some(kind) => Err(StoreError::new(kind, "a fault that was asked for")),
            None => self.store.commit(group),
        }
    }
}

struct FaultyEngine {
    engine: Engine,
    fault: Arc<Mutex<Option<StoreErrorKind>>>,
    gated: Arc<AtomicBool>,
    open_gate: mpsc::Sender<()>,
}

fn faulty(folder: &Path) -> FaultyEngine {
    let (open_gate, gate) = mpsc::channel();
    let (fault, gated) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
    let (fault_inside, gated_inside) = (Arc::clone(&fault), Arc::clone(&gated));
    let engine = Engine::with_store(Options::new(folder), |sink| {
        let (store, archive, opened) = SqliteStore::open(folder, sink)?;
        Ok((Faulty { store, fault: fault_inside, gate: Some(gate), gated: gated_inside }, archive, opened))
    });
    FaultyEngine { engine: engine.expect("the folder opens"), fault, gated, open_gate }
}

#[test]
fn on_a_full_disk_commands_are_refused_whole_reads_go_on_and_it_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let FaultyEngine { engine, fault, .. } = faulty(folder.path());
    let task = started_task(&engine, 2);
    let upgrade = offered(&engine, "d0");
    *fault.lock().unwrap() = Some(StoreErrorKind::Full);
    assert!(report(&engine, "d0", upgrade, ReportedState::Succeeded).unwrap_err().is_disk_full());
    assert!(check(&engine, "d1").unwrap_err().is_disk_full());
    assert_eq!(offered(&engine, "d0"), upgrade, "what is held is still told");
    let info = counts(&engine, task);
    assert_eq!((info.permits_held, info.counts.get(UpgradeState::Succeeded)), (1, 0));
    let known = engine.read_blocking(|state| state.device(device("d1").as_ref()).is_some()).unwrap();
    assert!(!known, "a device that was refused did not come into being");
    assert!(engine.is_writable());

    *fault.lock().unwrap() = None;
    assert!(report(&engine, "d0", upgrade, ReportedState::Succeeded).unwrap().changed);
    offered(&engine, "d1");
    drop(engine);
    let info = counts(&open(folder.path()), task);
    assert_eq!((info.permits_held, info.counts.get(UpgradeState::Succeeded)), (1, 1));
}

#[test]
fn after_a_failed_disk_nothing_is_pretended() {
    let folder = tempfile::tempdir().unwrap();
    let FaultyEngine { engine, fault, .. } = faulty(folder.path());
    let task = started_task(&engine, 2);
    *fault.lock().unwrap() = Some(StoreErrorKind::Failed);
    assert!(matches!(check(&engine, "d0"), Err(Error::Store(_))));
    *fault.lock().unwrap() = None;
    assert!(matches!(check(&engine, "d0"), Err(Error::Store(_))), "only a restart makes it trustworthy again");
    assert!(!engine.is_writable());
    assert_eq!(counts(&engine, task).permits_held, 0, "reads go on");
    drop(engine);
    offered(&open(folder.path()), "d0");
}

#[test]
fn nobody_reads_what_is_not_durable_yet() {
    let folder = tempfile::tempdir().unwrap();
    let FaultyEngine { engine, fault, gated, open_gate } = faulty(folder.path());
    let task = started_task(&engine, 2);
    gated.store(true, Ordering::SeqCst);
    *fault.lock().unwrap() = Some(StoreErrorKind::Full);
    let rules = CheckRules { register: true, ..CheckRules::default() };
    let name = device("d0");
    let asked = engine.decide(&Check { device: name.as_ref(), component: Component::MAIN, version: "1", rules }, NOW);
    // Readers that come while the commit hangs must not be told of a permit that the failing commit takes back.
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| counts(&engine, task).permits_held)).collect();
        // Whether a reader has begun by now or not, each of them may only ever see the durable state.
        open_gate.send(()).unwrap();
        assert!(asked.wait().unwrap_err().is_disk_full());
        for reader in readers {
            assert_eq!(reader.join().unwrap(), 0);
        }
    });
}

#[test]
fn events_are_numbered_without_a_gap_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for round in 0..3 {
        let engine = open(folder.path());
        if round == 0 {
            started_task(&engine, 100);
            expected.extend(["task_created", "task_started"]);
        }
        let id = format!("d{round}");
        let upgrade = offered(&engine, &id);
        report(&engine, &id, upgrade, ReportedState::Succeeded).unwrap();
        expected.extend(["offered", "result"]);
        let page = engine.events(0, 100).unwrap();
        let told: Vec<&str> = page.events.iter().map(|event| event.kind.name()).collect();
        assert_eq!(told, expected);
        let numbers: Vec<u64> = page.events.iter().map(|event| event.sequence).collect();
        assert_eq!(numbers, (1..=expected.len() as u64).collect::<Vec<_>>());
        assert_eq!(*engine.event_sequence().borrow(), expected.len() as u64);
        assert!(engine.events(page.next, 100).unwrap().events.is_empty());
    }
}

#[test]
fn old_events_are_dropped_and_the_newest_kept() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { events_max: 100, ..Limits::default() };
    let engine = Engine::open(Options { limits, ..Options::new(folder.path()) }).unwrap();
    started_task(&engine, 1_000);
    for n in 0..150 {
        offered(&engine, &format!("d{n}"));
    }
    engine.tick(NOW).wait().unwrap();
    drop(engine);
    let page = open(folder.path()).events(0, 1_000).unwrap();
    assert_eq!(page.events.len(), 101);
    assert_eq!(page.events.last().unwrap().sequence, 152);
}

#[test]
fn a_folder_is_opened_by_one_engine_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    match Engine::open(Options::new(folder.path())) {
        Err(Error::Store(error)) => assert_eq!(error.kind, StoreErrorKind::InUse),
        other => panic!("{other:?}"),
    }
    drop(first);
    open(folder.path());
}

#[test]
fn a_token_is_found_until_it_is_revoked_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let token = |id| Token {
        id: TokenId(id),
        secret_sha256: [id as u8; 32],
        purpose: TokenPurpose::Access,
        role: Role::Operator,
        organization: "acme".into(),
        product_id: None,
        device_id: None,
        app: None,
        created_at: NOW,
        expires_at: NOW.plus_seconds(7_200),
    };
    let engine = open(folder.path());
    for id in 1..=2 {
        engine.put_token(token(id), NOW).wait().unwrap();
    }
    assert!(matches!(engine.revoke_token(Some("other"), TokenId(1), NOW).wait(), Err(Error::NotFound { .. })));
    engine.revoke_token(Some("acme"), TokenId(1), NOW).wait().unwrap();
    assert!(engine.token(TokenId(1)).is_none());
    drop(engine);
    let engine = open(folder.path());
    assert!(engine.token(TokenId(1)).is_none());
    assert_eq!(engine.token(TokenId(2)).as_deref(), Some(&token(2)));
    // It is dropped once its hour is over.
    engine.tick(NOW.plus_seconds(3 * 3_600)).wait().unwrap();
    assert!(engine.token(TokenId(2)).is_none());
}

#[test]
fn upgrades_are_listed_with_the_finished_ones_page_by_page() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    let task = started_task(&engine, 1_000);
    for n in 0..30 {
        let id = format!("d{n}");
        let upgrade = offered(&engine, &id);
        if n % 3 == 0 {
            report(&engine, &id, upgrade, ReportedState::Succeeded).unwrap();
        }
    }
    let mut query = store::UpgradeQuery { task: Some(task.number), limit: 7, ..Default::default() };
    let mut listed = Vec::new();
    loop {
        let page = engine.upgrades(&query).unwrap();
        let Some(last) = page.last() else { break };
        query.after = Some(last.device);
        listed.extend(page);
    }
    assert_eq!(listed.len(), 30);
    assert!(listed.is_sorted_by_key(|upgrade| upgrade.device));
    query =
        store::UpgradeQuery { task: Some(task.number), states: vec![UpgradeState::Succeeded], limit: 100, ..Default::default() };
    assert_eq!(engine.upgrades(&query).unwrap().len(), 10);
}

#[test]
fn a_deletion_that_was_undone_leaves_the_task_as_it_was_published() {
    let folder = tempfile::tempdir().unwrap();
    let FaultyEngine { engine, fault, .. } = faulty(folder.path());
    let task = started_task(&engine, 1);
    let upgrade = offered(&engine, "d0");
    check(&engine, "d1").unwrap();
    *fault.lock().unwrap() = Some(StoreErrorKind::Full);
    assert!(engine.delete_task("acme", task, ActionRules::default(), NOW).wait().unwrap_err().is_disk_full());
    *fault.lock().unwrap() = None;
    report(&engine, "d0", upgrade, ReportedState::Succeeded).unwrap();
    offered(&engine, "d1");
}

#[test]
fn a_number_is_not_given_to_another_device_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    for id in ["a", "b"] {
        check(&engine, id).unwrap();
    }
    let snapshot = NewTask { scope: Scope { snapshot: true, ..Scope::default() }, ..new_task(Policy::default()) };
    engine.create_task(snapshot, true, NOW).wait().unwrap();
    engine.delete_device(device("b"), NOW).wait().unwrap();
    drop(engine);
    let engine = open(folder.path());
    assert!(matches!(check(&engine, "newcomer"), Ok(Decision::NoTask)), "it came after the snapshot");
    offered(&engine, "a");
}

#[test]
fn a_lower_limit_than_what_is_there_opens_and_takes_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path());
    started_task(&engine, 100);
    for id in ["a", "b", "c"] {
        check(&engine, id).unwrap();
    }
    drop(engine);
    let limits = Limits { devices_max: 1, ..Limits::default() };
    let engine = Engine::open(Options { limits, ..Options::new(folder.path()) }).unwrap();
    offered(&engine, "c");
    assert!(matches!(check(&engine, "d"), Err(Error::LimitReached { .. })));
}

#[test]
fn events_stay_bounded_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { events_max: 100, ..Limits::default() };
    for round in 0..4 {
        let engine = Engine::open(Options { limits: limits.clone(), ..Options::new(folder.path()) }).unwrap();
        if round == 0 {
            started_task(&engine, 1_000);
        }
        for n in 0..60 {
            offered(&engine, &format!("d{round}-{n}"));
        }
        engine.tick(NOW).wait().unwrap();
    }
    let page = open(folder.path()).events(0, 1_000).unwrap();
    assert_eq!(page.events.last().unwrap().sequence, 242);
    assert!(page.events.len() <= 102, "{} are kept", page.events.len());
}
