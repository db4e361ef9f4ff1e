//! What the threads of the engine do to each other, tried in every order: see [`sync`](crate::sync).
//!
//! The code is the engine's own: [`Queue`], [`Writer`], [`Shared`], [`State`] and [`Published`]. A store in memory stands for the disk and
//! knows what was durable at each step. Each model is a few threads and a few commands, as small as they can be and still meet.
//!
//! ```text
//! cargo test -p sluicegate --lib --features models -- models --nocapture
//! ```
//!
//! Orders with more than two preemptions are left out (`LOOM_MAX_PREEMPTIONS=3` for more): a thread that has to wait is no preemption, so
//! every order in which threads wait for each other is tried, and mistakes that need more interruptions at the wrong places are not found.

#![allow(clippy::unwrap_used, reason = "a model that meets what it doesn't expect should end there and then")]

use crate::engine::Checked;
use crate::error::Error;
use crate::events::EventLog;
use crate::index::Published;
use crate::limits::Limits;
use crate::model::*;
use crate::pending::{Pending, block_on};
use crate::queue::Queue;
use crate::state::{Check, CheckRules, Command, Decision, DeviceRef, NewTask, Outcome, State, TaskAction, TaskTarget};
use crate::store::{Change, Group, Row, Store, StoreError, StoreErrorKind};
use crate::sync::Receiver;
use crate::writer::{Job, Shared, Writer};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

/// Enough for every mistake that was made on purpose, and some seconds.
const PREEMPTIONS_MAX: usize = 2;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// What happens is known to everybody at once, in the order of the steps; it orders nothing.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    fails: bool,
    permits: Vec<DeviceNumber>,
    tokens: Vec<TokenId>,
}

impl Disk {
    fn has_permit(&self) -> bool {
        !self.0.lock().unwrap().permits.is_empty()
    }

    fn has_token(&self, id: u64) -> bool {
        self.0.lock().unwrap().tokens.contains(&TokenId(id))
    }
}

impl Store for Disk {
    fn commit(&mut self, group: &Group) -> Result<(), StoreError> {
        let mut kept = self.0.lock().unwrap();
        if kept.fails {
            return Err(StoreError::new(StoreErrorKind::Full, "no room"));
        }
        for change in &group.changes {
            match change {
                Change::Put(Row::Upgrade(row)) if row.state.holds_permit() => kept.permits.push(row.device),
                Change::Put(Row::Token(row)) => kept.tokens.push(row.id),
                _ => {}
            }
        }
        Ok(())
    }
}

struct World {
    shared: Arc<Shared>,
    published: Arc<Published>,
    queue: Arc<Queue>,
    jobs: Receiver<Job>,
    disk: Disk,
}

impl World {
    /// Two devices at version 1, and whatever else.
    fn new(waiting_max: usize, prepare: impl FnOnce(&mut State)) -> Self {
        let published = Arc::new(Published::new(Limits::default()));
        let mut state = State::new(Limits::default(), Arc::clone(&published));
        for id in ["one", "two"] {
            let device = device(id).to_owned();
            let command = Command::NoteVersion { device, component: Component::MAIN, version: "1".into(), register: true };
            state.apply(command, NOW).unwrap();
        }
        prepare(&mut state);
        state.committed();
        state.publish();
        state.clear_touched();
        let shared = Arc::new(Shared::new(state, Arc::clone(&published), EventLog::new(Vec::new(), 0), 0));
        let (queue, jobs) = Queue::new(Arc::clone(&shared), waiting_max);
        Self { shared, published, queue: Arc::new(queue), jobs, disk: Disk::default() }
    }

    /// Everything before this is one thread's; what comes after is explored. Starts the writer.
    fn start(self) -> (Arc<Shared>, Arc<Published>, Arc<Queue>, Disk, thread::JoinHandle<()>) {
        let Self { shared, published, queue, jobs, disk } = self;
        loom::explore();
        let writer = Writer::new(Arc::clone(&shared), jobs, Box::new(disk.clone()), 0);
        (shared, published, queue, disk, thread::spawn(move || writer.run()))
    }
}

/// Tries every order, counts them, and says so.
fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let executions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    let preemptions_max = *builder.preemption_bound.get_or_insert(PREEMPTIONS_MAX);
    builder.max_branches = 20_000;
    builder.expect_explicit_explore = true;
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    println!("{name}: {executions:?} executions, at most {preemptions_max} preemptions each");
}

fn device(device_id: &str) -> DeviceRef<'_> {
    DeviceRef { organization: "acme", product_id: "lamp", device_id }
}

const RULES: CheckRules = CheckRules { preview: false, only_while_started: true, register: false };

fn check(id: &str) -> Check<'_> {
    Check { device: device(id), component: Component::MAIN, version: "1", rules: RULES }
}

fn asks(id: &str) -> Command {
    Command::Check { device: device(id).to_owned(), component: Component::MAIN, version: "1".into(), rules: RULES }
}

fn new_task(policy: Policy) -> Command {
    let artifact = Artifact { url: Some("http://elsewhere/2".into()), size: 9, md5: "m".into(), ..Artifact::default() };
    let target = TaskTarget::Artifact { version: "2".into(), artifact };
    let new = NewTask { policy, start: true, ..NewTask::new("acme", "lamp", vec!["1".into()], target) };
    Command::CreateTask { new: Box::new(new), register_product: false }
}

/// One permit, and nobody has it.
fn with_one_permit(state: &mut State) {
    state.apply(new_task(Policy { maximum_concurrency: Some(1), ..Policy::default() }), NOW).unwrap();
}

fn token(id: u64) -> Command {
    Command::PutToken(Box::new(Token {
        id: TokenId(id),
        secret_sha256: [0; 32],
        purpose: TokenPurpose::Access,
        role: Role::Operator,
        organization: "acme".into(),
        product_id: None,
        device_id: None,
        app: None,
        created_at: NOW,
        expires_at: NOW.plus_seconds(7_200),
    }))
}

fn decision(outcome: Outcome) -> Option<Decision> {
    if let Outcome::Decision(decision) = outcome { Some(decision) } else { None }
}

fn put_token(queue: &Queue, id: u64) -> Pending<()> {
    queue.submit(token(id), NOW, |_| Some(()))
}

fn is_offer(checked: &Checked) -> bool {
    matches!(checked, Checked::Decided(Decision::Offer(_)))
}

#[test]
fn a_check_tells_of_a_permit_once_it_is_durable_and_from_its_answer_on() {
    explore("a permit, and checks", || {
        let (_, published, queue, disk, writer) = World::new(4, with_one_permit).start();
        let reader = {
            let (published, disk) = (Arc::clone(&published), disk.clone());
            thread::spawn(move || {
                let mut told = false;
                for second in 1..=2 {
                    let checked = published.check(&check("one"), NOW.plus_seconds(second));
                    let is_offer = is_offer(&checked);
                    assert!(is_offer || !told, "told of a permit, and then not: {checked:?}");
                    assert!(!is_offer || disk.has_permit(), "told of a permit that isn't durable");
                    told = is_offer;
                }
            })
        };
        let answer = queue.submit(asks("one"), NOW, decision).wait();
        assert!(matches!(answer, Ok(Decision::Offer(_))), "{answer:?}");
        assert!(disk.has_permit(), "answered before it was durable");
        let again = published.check(&check("one"), NOW.plus_seconds(3));
        assert!(is_offer(&again), "answered, and then not found: {again:?}");
        let other = published.check(&check("two"), NOW.plus_seconds(3));
        assert!(matches!(other, Checked::Decided(Decision::Wait(_))), "the only permit is held: {other:?}");
        queue.close();
        reader.join().unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn a_permit_that_could_not_be_kept_is_told_to_nobody() {
    explore("a permit that is not kept", || {
        let world = World::new(4, with_one_permit);
        world.disk.0.lock().unwrap().fails = true;
        let (shared, published, queue, _, writer) = world.start();
        let reader = thread::spawn(move || {
            let held = block_on(shared.read(|state| state.permits_held()));
            assert!(matches!(held, Ok(0) | Err(Error::Closed)), "{held:?}");
            let checked = published.check(&check("one"), NOW.plus_seconds(1));
            assert!(matches!(checked, Checked::Ask), "{checked:?}");
        });
        let answer = queue.submit(asks("one"), NOW, decision).wait();
        assert!(answer.is_err_and(|error| error.is_disk_full()));
        queue.close();
        reader.join().unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn what_is_read_of_the_state_is_durable() {
    explore("reads of the state", || {
        let (shared, _, queue, disk, writer) = World::new(4, with_one_permit).start();
        let reader = {
            let (shared, disk) = (Arc::clone(&shared), disk.clone());
            thread::spawn(move || match block_on(shared.read(|state| state.permits_held())) {
                Ok(held) => assert!(held == 0 || disk.has_permit(), "read before it was durable"),
                // It ended between: not known.
                Err(error) => assert!(matches!(error, Error::Closed), "{error}"),
            })
        };
        assert!(queue.submit(asks("one"), NOW, decision).wait().is_ok());
        let held = block_on(shared.read(|state| state.permits_held()));
        assert!(matches!(held, Ok(1)), "answered, and then not read: {held:?}");
        queue.close();
        reader.join().unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn no_check_is_told_an_offer_from_before_a_stop_that_was_acknowledged() {
    explore("a stop, and checks", || {
        let mut id = None;
        let world = World::new(4, |state| {
            with_one_permit(state);
            state.apply(asks("one"), NOW).unwrap();
            id = state.tasks("acme", None, None, 1).first().map(|task| task.row.id);
        });
        let (_, published, queue, _, writer) = world.start();
        assert!(is_offer(&published.check(&check("one"), NOW)), "held from before");
        let acknowledged = Arc::new(AtomicBool::new(false));
        let reader = {
            let (published, acknowledged) = (Arc::clone(&published), Arc::clone(&acknowledged));
            thread::spawn(move || {
                let stopped = acknowledged.load(Ordering::Acquire);
                let first = is_offer(&published.check(&check("one"), NOW));
                let second = is_offer(&published.check(&check("one"), NOW));
                assert!(!stopped || !first, "an offer after the stop was acknowledged");
                assert!(first || !second, "an offer that was gone has come back");
            })
        };
        let stop = Command::ActOnTask {
            organization: "acme".into(),
            id: id.expect("there is a task"),
            action: TaskAction::Stop,
            rules: crate::state::ActionRules::default(),
        };
        assert!(queue.submit(stop, NOW, |_| Some(())).wait().is_ok());
        acknowledged.store(true, Ordering::Release);
        for id in ["one", "two"] {
            let checked = published.check(&check(id), NOW);
            assert!(matches!(checked, Checked::Decided(Decision::NoTask)), "{id}: {checked:?}");
        }
        queue.close();
        reader.join().unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn a_task_is_published_whole_or_not_at_all() {
    explore("a new task, and checks", || {
        let (_, published, queue, _, writer) = World::new(4, |_| ()).start();
        let reader = {
            let published = Arc::clone(&published);
            thread::spawn(move || {
                let mut seen = false;
                for _ in 0..2 {
                    match published.check(&check("one"), NOW) {
                        Checked::Decided(Decision::NoTask) => assert!(!seen, "the task has gone again"),
                        Checked::Ask => seen = true,
                        // Its wave takes everybody: one that isn't open is one whose figures aren't there yet.
                        other => panic!("half a task: {other:?}"),
                    }
                }
            })
        };
        let everybody = Wave { size: WaveSize::Percent(100), success_percent: 100 };
        let policy = Policy { waves: vec![everybody], maximum_concurrency: Some(1), ..Policy::default() };
        assert!(queue.submit(new_task(policy), NOW, |_| Some(())).wait().is_ok());
        assert!(matches!(published.check(&check("two"), NOW), Checked::Ask), "acknowledged, and then not found");
        queue.close();
        reader.join().unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn everybody_in_a_full_queue_that_is_closed_is_answered_once() {
    explore("a queue that is closed", || {
        let (_, published, queue, disk, writer) = World::new(1, |_| ()).start();
        let asker = {
            let (queue, published, disk) = (Arc::clone(&queue), Arc::clone(&published), disk.clone());
            thread::spawn(move || answered(put_token(&queue, 1), 1, &published, &disk))
        };
        let closer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.close())
        };
        answered(put_token(&queue, 2), 2, &published, &disk);
        asker.join().unwrap();
        closer.join().unwrap();
        writer.join().unwrap();
        assert!(matches!(put_token(&queue, 3).wait(), Err(Error::Closed)));
    });
}

/// One answer, and where it is good it is true.
fn answered(pending: Pending<()>, id: u64, published: &Published, disk: &Disk) {
    match pending.wait() {
        Ok(()) => {
            assert!(disk.has_token(id), "acknowledged, and not durable");
            assert!(published.token(TokenId(id)).is_some(), "acknowledged, and not published");
        }
        Err(error) => {
            assert!(matches!(error, Error::Overloaded | Error::Closed), "{error}");
            let refused = matches!(error, Error::Overloaded);
            assert!(!refused || !disk.has_token(id), "refused, and kept");
        }
    }
}

#[test]
fn a_writer_that_ends_in_the_middle_leaves_nobody_waiting() {
    explore("a writer that ends in the middle", || {
        let World { shared, published, queue, jobs, disk } = World::new(2, with_one_permit);
        loom::explore();
        let writer = Writer::new(Arc::clone(&shared), jobs, Box::new(disk.clone()), 0);
        let writer = thread::spawn(move || writer.run_as_if_the_store_panicked());
        let asker = {
            let (queue, published, disk) = (Arc::clone(&queue), Arc::clone(&published), disk.clone());
            thread::spawn(move || answered(put_token(&queue, 1), 1, &published, &disk))
        };
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let held = block_on(shared.read(|state| state.permits_held()));
                assert!(matches!(held, Ok(0) | Err(Error::Closed)), "{held:?}");
            })
        };
        let answer = queue.submit(asks("one"), NOW, decision).wait();
        assert!(matches!(answer, Err(Error::Closed)), "{answer:?}");
        asker.join().unwrap();
        reader.join().unwrap();
        writer.join().unwrap();
        assert!(!shared.is_writable());
        queue.close();
    });
}
