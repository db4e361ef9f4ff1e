//! A fleet in virtual time: devices that ask, wait as they are told, work, report, fall silent and come back, and operators.
//!
//! Devices ask as the server lets them: the decision plane first, the writer where it says so. Commands are committed and published
//! in groups of changing size, so the decision plane is behind as it is in life. Everything is drawn from one seed.

use super::oracle::{Doing, Expected, Oracle};
use super::ordered::{Ordered, Stage};
use crate::engine::Checked;
use crate::error::Error;
use crate::index::Published;
use crate::limits::Limits;
use crate::state::tests::oracle::Random;
use crate::state::*;
use crate::store::testing::MemoryStore;
use crate::store::{Change, Group, Key, Loaded, Row, Store};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How devices behave; shares are in percent of their attempts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// They ask for the first time within this many seconds.
    pub come_within_s: u64,
    /// From an offer to its result, from and to.
    pub work_s: (u64, u64),
    pub failing: u64,
    pub rejecting: u64,
    /// Falls silent, and comes back some time after the deadline.
    pub silent: u64,
    /// Reports a failure only after the deadline.
    pub late: u64,
    /// Says everything twice, asks sooner than told, asks again while it works.
    pub noisy: u64,
    /// Reports its steps, and not only the result.
    pub chatty: u64,
}

impl Default for Habits {
    fn default() -> Self {
        Self { come_within_s: 60, work_s: (20, 60), failing: 0, rejecting: 0, silent: 0, late: 0, noisy: 2, chatty: 10 }
    }
}

impl Habits {
    /// Everything goes wrong now and then.
    pub(super) const BAD: Self =
        Self { come_within_s: 60, work_s: (20, 60), failing: 10, rejecting: 2, silent: 3, late: 2, noisy: 5, chatty: 15 };
}

pub(super) const FAILURE_CODES: [i32; 3] = [-1, -2, -4];

/// A task to order.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub from: Vec<&'static str>,
    pub to: &'static str,
    /// Devices with one of these values of the tag `ring`; absent: all.
    pub rings: Option<Vec<u8>>,
    pub snapshot: bool,
    pub policy: Policy,
}

impl Plan {
    pub(super) fn new(policy: Policy) -> Self {
        Self { from: vec!["1"], to: "2", rings: None, snapshot: false, policy }
    }
}

/// What a device does in an attempt: says these, one after another.
#[derive(Clone, Debug)]
struct Attempt {
    id: UpgradeId,
    says: [Option<ReportedState>; 4],
    said: usize,
    to: &'static str,
    code: Option<i32>,
}

#[derive(Clone, Debug)]
struct SimulatedDevice {
    version: &'static str,
    attempt: Option<Attempt>,
    /// Nothing was for it, so it asks no more before it is woken.
    rests: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Ask,
    Say(UpgradeId),
}

pub(super) struct Simulation {
    state: State,
    limits: Limits,
    pub oracle: Oracle,
    pub habits: Habits,
    random: Random,
    names: Vec<DeviceName>,
    devices: Vec<SimulatedDevice>,
    agenda: BinaryHeap<Reverse<(Timestamp, usize, Next)>>,
    store: MemoryStore,
    /// What is committed is kept, for a restart.
    is_kept: bool,
    groups: u64,
    in_group: u64,
    asked_in_group: u64,
    group_size: u64,
    asked: u64,
}

const RINGS: usize = 4;

pub(super) const START: Timestamp = Timestamp::from_seconds(1_700_000_000);

fn name(device: usize) -> DeviceName {
    DeviceName { organization: "o".into(), product_id: "p".into(), device_id: format!("d{device}").into() }
}

fn details(ring: u8) -> DeviceDetails {
    DeviceDetails { tags: [("ring".into(), ring.to_string().into())].into(), ..DeviceDetails::default() }
}

fn seed() -> u64 {
    std::env::var("SLUICEGATE_SEED").map_or(1, |seed| seed.parse().unwrap())
}

impl Simulation {
    /// This many devices at version "1", each in one of four rings, as they are after a start of the program.
    pub(super) fn new(count: usize, limits: Limits, habits: Habits) -> Self {
        let store = MemoryStore::new(7);
        let product = Product { number: ProductNumber(0), organization: "o".into(), id: "p".into(), name: None, created_at: START };
        let mut changes = vec![Change::Put(Row::Product(Arc::new(product)))];
        let rings: Vec<_> = (0..RINGS).map(|ring| Arc::new(details(ring as u8))).collect();
        let version: Arc<str> = "1".into();
        let row = |device: usize| Device {
            number: DeviceNumber(device as u32),
            product: ProductNumber(0),
            id: format!("d{device}").into(),
            components: Box::new([Installed { component: Component::MAIN, version: Arc::clone(&version) }]),
            created_at: START,
            details: Some(Arc::clone(&rings[device % RINGS])),
        };
        changes.extend((0..count).map(|device| Change::Put(Row::Device(Arc::new(row(device))))));
        store.clone().commit(&Group { number: 1, at: START, changes }).unwrap();
        let seed = seed();
        // Shown only where a test fails.
        println!("SLUICEGATE_SEED={seed}");
        let mut oracle = Oracle::new(seed, limits.permits_max, limits.default_timeout_s);
        oracle.now = START;
        (0..count).for_each(|device| oracle.came(device, (device % RINGS) as u8));
        let mut simulation = Self {
            state: State::new(limits.clone(), Arc::new(Published::new(limits.clone()))),
            limits,
            oracle,
            habits,
            random: Random(seed),
            names: (0..count).map(name).collect(),
            devices: vec![SimulatedDevice { version: "1", attempt: None, rests: true }; count],
            agenda: BinaryHeap::new(),
            store,
            is_kept: false,
            groups: 1,
            in_group: 0,
            asked_in_group: 0,
            group_size: 1,
            asked: 0,
        };
        simulation.load();
        simulation
    }

    fn load(&mut self) {
        let published = Arc::new(Published::new(self.limits.clone()));
        let mut state = State::new(self.limits.clone(), published);
        let (_, _, opened) = self.store.open(&mut |loaded: Loaded| state.load(loaded)).unwrap();
        state.loaded(opened);
        self.state = state;
    }

    /// From here on, so that the program can be started again; it costs time.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }

    /// The program ends and is started again on what was committed.
    pub(super) fn restart(&mut self) {
        self.flush();
        self.load();
        let count = self.devices.len() as u64;
        for _ in 0..count.min(500) {
            let device = self.random.below(count) as usize;
            if self.oracle.devices[device].1 {
                self.ask(device);
            }
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.oracle.now
    }

    fn apply(&mut self, command: Command, doing: Doing) -> Result<Outcome, Error> {
        let before = self.state.journal.changes.len();
        let outcome = self.state.apply(command, self.oracle.now);
        for change in &self.state.journal.changes[before..] {
            if let Change::Put(Row::Event(event)) = change {
                self.oracle.happened(event, doing);
            }
        }
        self.oracle.command_done();
        self.in_group += 1;
        if self.in_group >= self.group_size {
            self.flush();
        }
        outcome
    }

    /// Commits what was changed since the last time, and publishes it.
    fn flush(&mut self) {
        self.asked_in_group = 0;
        if self.in_group == 0 {
            return;
        }
        self.in_group = 0;
        self.group_size = 1 + self.random.below(32);
        if self.is_kept {
            self.commit();
        }
        self.state.committed();
        self.state.publish();
        self.state.clear_touched();
        for task in &self.oracle.tasks {
            let entry = self.state.task_entry(task.id.number).unwrap();
            assert_eq!(entry.permits_held, task.held, "SLUICEGATE_SEED={}: permits of a task", self.oracle.seed);
            assert_eq!(u64::from(entry.view.permits_held()), task.held, "SLUICEGATE_SEED={}: as published", self.oracle.seed);
        }
        assert_eq!(self.state.permits_held, self.oracle.held, "SLUICEGATE_SEED={}: permits of the server", self.oracle.seed);
    }

    fn commit(&mut self) {
        let mut changes = Vec::new();
        self.state.swap_changes(&mut changes);
        // Of the events only the newest is kept: how many there were has to be known after a restart.
        let last = changes.iter().rposition(|change| matches!(change, Change::Put(Row::Event(_))));
        let mut place = 0;
        changes.retain(|change| {
            place += 1;
            last == Some(place - 1) || !matches!(change, Change::Put(Row::Event(_)))
        });
        if last.is_some() {
            changes.push(Change::Delete(Key::EventsBefore(self.state.event_sequence)));
        }
        self.groups += 1;
        self.store.commit(&Group { number: self.groups, at: self.oracle.now, changes }).unwrap();
    }

    // Time.

    /// Everything up to `until` happens.
    pub(super) fn run_until(&mut self, until: Timestamp) {
        while let Some(Reverse((at, device, next))) = self.agenda.peek().copied().filter(|Reverse((at, ..))| *at <= until) {
            self.agenda.pop();
            self.advance(at);
            match next {
                Next::Ask => self.ask(device),
                Next::Say(id) => self.say(device, id),
            }
        }
        self.advance(until);
        self.flush();
    }

    pub(super) fn pass_s(&mut self, seconds: u64) {
        self.run_until(self.now().plus_seconds(seconds));
    }

    /// Until every device rests; a fleet that doesn't come to rest within `most_s` is a fault.
    pub(super) fn run_to_rest(&mut self, most_s: u64) {
        let until = self.now().plus_seconds(most_s);
        while let Some(Reverse((at, ..))) = self.agenda.peek().copied() {
            if at > until {
                self.oracle.fault(&format!("{} devices don't come to rest", self.agenda.len()));
            }
            self.run_until(at);
        }
        while let Some(due) = self.due() {
            self.advance(due);
        }
        self.flush();
    }

    fn due(&self) -> Option<Timestamp> {
        let deadline = self.state.deadlines.first().map(|(deadline, ..)| *deadline);
        deadline.into_iter().chain(self.state.next_due(self.state.now)).min()
    }

    /// The clock goes on, and ticks whenever something is due.
    fn advance(&mut self, to: Timestamp) {
        while let Some(due) = self.due().filter(|due| *due <= to) {
            self.oracle.now = due.max(self.oracle.now);
            let Ok(Outcome::Ticked(next)) = self.apply(Command::Tick, Doing::Ticking) else { panic!("a tick is refused") };
            let deadline = self.oracle.next_deadline();
            let is_in_time = deadline.is_none_or(|deadline| next.is_some_and(|next| next <= deadline));
            assert!(is_in_time, "SLUICEGATE_SEED={}: next tick {next:?}, deadline {deadline:?}", self.oracle.seed);
            if next.is_none_or(|next| next > self.oracle.now) {
                self.oracle.ticked();
            }
        }
        // A group isn't kept open for long.
        if to.as_seconds() != self.oracle.now.as_seconds() {
            self.flush();
        }
        self.oracle.now = to;
    }

    fn plan(&mut self, device: usize, after_ms: u64, next: Next) {
        self.agenda.push(Reverse((Timestamp(self.now().0 + after_ms), device, next)));
    }

    /// Every device that rests asks again within so many seconds.
    pub(super) fn wake(&mut self, within_s: u64) {
        for device in 0..self.devices.len() {
            if self.devices[device].rests && self.oracle.devices[device].1 {
                self.devices[device].rests = false;
                let after_ms = self.random.below(within_s * 1000 + 1);
                self.plan(device, after_ms, Next::Ask);
            }
        }
    }

    // Devices.

    fn ask(&mut self, device: usize) {
        if !self.oracle.devices[device].1 {
            return;
        }
        self.asked += 1;
        let rules = CheckRules { register: true, ..CheckRules::default() };
        let version = self.devices[device].version;
        let expected = self.oracle.expect(device, version);
        let check = Check { device: self.names[device].as_ref(), component: Component::MAIN, version, rules };
        let is_published = self.in_group == 0;
        let decision = match self.state.published.check(&check, self.now()) {
            // What is published may be a group behind: then it is a hint, and grants nothing.
            Checked::Decided(decision) => {
                if is_published {
                    self.oracle.answered(device, &expected, &decision);
                }
                decision
            }
            Checked::Ask => {
                let device_name = self.names[device].clone();
                let command = Command::Check { device: device_name, component: Component::MAIN, version: version.into(), rules };
                let decision = match self.apply(command, Doing::Asking) {
                    Ok(Outcome::Decision(decision)) => decision,
                    other => self.oracle.fault(&format!("d{device} is answered {other:?}")),
                };
                if let (Expected::Task { .. }, Decision::Offer(offer)) = (&expected, &decision) {
                    self.oracle.accepted(device, version, offer.deadline);
                }
                self.oracle.answered(device, &expected, &decision);
                decision
            }
        };
        if is_published && self.asked.is_multiple_of(1_000) {
            self.compare_explanation(device, &decision);
        }
        self.asked_in_group += 1;
        if self.asked_in_group > self.group_size {
            self.flush();
        }
        self.obey(device, &decision);
    }

    /// What is explained is what was decided.
    fn compare_explanation(&mut self, device: usize, decision: &Decision) {
        let Decision::Wait(wait) = decision else { return };
        self.flush();
        let explained = self.state.explain(self.names[device].as_ref(), Component::MAIN, self.now()).unwrap_or_default();
        let explained = explained.into_iter().find(|explanation| explanation.task.id == wait.task).map(|it| it.explained);
        let is_it = match &explained {
            Some(Explained::Waits { reason, .. }) => *reason == wait.reason,
            Some(Explained::Runs(row)) => {
                row.state == UpgradeState::AwaitingConfirmation && wait.reason == WaitReason::Confirmation
            }
            _ => false,
        };
        assert!(is_it, "SLUICEGATE_SEED={}: d{device} is told {wait:?}, explained {explained:?}", self.oracle.seed);
    }

    fn obey(&mut self, device: usize, decision: &Decision) {
        let is_noisy = self.random.below(100) < self.habits.noisy;
        let fraction_ms = self.random.below(1000);
        match decision {
            Decision::Wait(wait) => {
                let told_ms = u64::from(wait.retry_after_s) * 1000 + fraction_ms;
                if is_noisy {
                    let early_ms = self.random.below(told_ms);
                    return self.plan(device, early_ms, Next::Ask);
                }
                self.plan(device, told_ms, Next::Ask);
            }
            Decision::Offer(offer) => {
                let Some(id) = offer.id else { self.oracle.fault("an offer without an id") };
                if self.devices[device].attempt.as_ref().is_none_or(|attempt| attempt.id != id) {
                    self.begin(device, id, offer.task.row().number);
                    if is_noisy {
                        self.plan(device, fraction_ms, Next::Ask);
                    }
                }
            }
            Decision::UpToDate | Decision::NoTask => {
                if self.devices[device].attempt.is_none() {
                    self.devices[device].rests = true;
                }
            }
        }
    }

    /// Decides how an attempt will go, and what is said of it when.
    fn begin(&mut self, device: usize, id: UpgradeId, task: TaskNumber) {
        let habits = self.habits;
        let ordered = self.oracle.tasks.iter().find(|ordered| ordered.id.number == task);
        let Some(ordered) = ordered else { self.oracle.fault("an offer of no task") };
        let (to, timeout_s) = (ordered.to, u64::from(ordered.policy.timeout_s.unwrap_or(self.limits.default_timeout_s)));
        let lot = self.random.below(100);
        let below = |shares: &[u64]| lot < shares.iter().sum::<u64>();
        let mut work_ms = habits.work_s.0 * 1000 + self.random.below((habits.work_s.1 - habits.work_s.0) * 1000 + 1);
        let result = if below(&[habits.failing]) {
            Some(ReportedState::Failed)
        } else if below(&[habits.failing, habits.rejecting]) {
            Some(ReportedState::Rejected)
        } else if below(&[habits.failing, habits.rejecting, habits.silent]) {
            None
        } else if below(&[habits.failing, habits.rejecting, habits.silent, habits.late]) {
            work_ms = timeout_s * 1000 + 1 + self.random.below(10_000);
            Some(ReportedState::Failed)
        } else {
            Some(ReportedState::Succeeded)
        };
        let is_chatty = self.random.below(100) < habits.chatty;
        let steps = match self.random.below(3) {
            _ if !is_chatty => [None, None, None],
            0 => [Some(ReportedState::Downloading), Some(ReportedState::Downloaded), Some(ReportedState::Installing)],
            1 => [Some(ReportedState::Downloading), None, None],
            _ => [Some(ReportedState::Paused), Some(ReportedState::Installing), None],
        };
        let mut says = [None; 4];
        let all = steps.into_iter().flatten().chain(result);
        says.iter_mut().zip(all).for_each(|(place, step)| *place = Some(step));
        let code = (result == Some(ReportedState::Failed)).then(|| FAILURE_CODES[self.random.below(3) as usize]);
        // The last of them at the end of the work, the others before.
        let count = says.iter().flatten().count() as u64;
        for place in 0..count {
            self.plan(device, work_ms * (place + 1) / count, Next::Say(id));
        }
        if result.is_none() {
            let back_ms = timeout_s * 500 + self.random.below(timeout_s * 1000);
            self.plan(device, work_ms + back_ms, Next::Ask);
        }
        self.devices[device].attempt = (count > 0).then_some(Attempt { id, says, said: 0, to, code });
    }

    fn say(&mut self, device: usize, id: UpgradeId) {
        let Some(attempt) = self.devices[device].attempt.as_mut().filter(|attempt| attempt.id == id) else { return };
        let Some(state) = attempt.says.get(attempt.said).copied().flatten() else { return };
        attempt.said += 1;
        let is_last = attempt.says.get(attempt.said).is_none_or(Option::is_none);
        let (to, code) = (attempt.to, attempt.code.filter(|_| state == ReportedState::Failed));
        let counts = self.report(device, id, state, code);
        if self.random.below(100) < self.habits.noisy {
            self.report(device, id, state, code);
        }
        if state.state().is_finished() {
            // Where it no longer counts, the device has given it up.
            if state == ReportedState::Succeeded && counts {
                self.devices[device].version = to;
            }
            self.devices[device].attempt = None;
            let after_ms = 1_000 + self.random.below(5_000);
            self.plan(device, after_ms, Next::Ask);
        } else if is_last {
            // Silent from here on; when it comes back it begins anew.
            self.devices[device].attempt = None;
        }
    }

    fn report(&mut self, device: usize, id: UpgradeId, state: ReportedState, code: Option<i32>) -> bool {
        let stands = self.oracle.devices[device].1;
        let counts = self.oracle.tasks.iter().any(|task| match &task.runs[device].stage {
            Stage::Held { id: held, state: before, .. } if *held == id => {
                let (said, paused) = (state.state(), UpgradeState::Paused);
                said.is_finished() || said != *before && (said == paused || *before == paused || said > *before)
            }
            _ => false,
        });
        let doing = Doing::Reporting { device, state: state.state(), code };
        let report = Report { device: self.names[device].clone(), upgrade: id, state, percent: None, detail: None, code };
        match self.apply(Command::Report(report), doing) {
            Ok(Outcome::Reported(reported)) if reported.changed == counts => {}
            Err(Error::NotFound { .. }) if !counts || !stands => {}
            other => self.oracle.fault(&format!("d{device} reports {state:?}, which counts: {counts}; it is answered {other:?}")),
        }
        counts
    }

    // Operators.

    pub(super) fn order(&mut self, plan: Plan) -> usize {
        let artifact = Artifact { url: Some("http://elsewhere/f".into()), size: 1, md5: "m".into(), ..Artifact::default() };
        let values = |rings: &Vec<u8>| rings.iter().map(|ring| ring.to_string().into()).collect();
        let selector = plan.rings.as_ref().map_or(Selector::Total, |rings| Selector::Tags([("ring".into(), values(rings))].into()));
        let new = NewTask {
            scope: Scope { selector, snapshot: plan.snapshot },
            policy: plan.policy.clone(),
            ..NewTask::new(
                "o",
                "p",
                plan.from.iter().map(ToString::to_string).collect(),
                TaskTarget::Artifact { version: plan.to.into(), artifact },
            )
        };
        let task = self.oracle.tasks.len();
        // Its events come before the oracle can know its id; they are looked at by what follows from them.
        self.flush();
        let outcome = self.state.apply(Command::CreateTask { new: Box::new(new), register_product: false }, self.now());
        let Ok(Outcome::Task(row)) = outcome else { self.oracle.fault(&format!("the task is refused: {outcome:?}")) };
        self.in_group += 1;
        self.flush();
        let at_start: Vec<bool> = (0..self.devices.len())
            .map(|device| {
                let (ring, there) = self.oracle.devices[device];
                let runs_it = self.state.device_row(self.number(device)).and_then(|row| row.version(Component::MAIN));
                let is_selected = plan.rings.as_ref().is_none_or(|rings| rings.contains(&ring));
                there && is_selected && runs_it.is_some_and(|version| plan.from.contains(&&**version))
            })
            .collect();
        let waves =
            (!plan.policy.waves.is_empty()).then(|| (0..self.devices.len()).map(|device| self.wave(&row, device)).collect());
        let mut ordered = Ordered::new(row.id, plan.from, plan.to, plan.policy);
        ordered.rings = plan.rings;
        ordered.members = plan.snapshot.then(|| at_start.clone());
        self.oracle.order(ordered, &at_start, waves);
        self.oracle.forgive_waves(task);
        task
    }

    fn number(&self, device: usize) -> DeviceNumber {
        self.state.device_number(ProductNumber(0), &format!("d{device}")).unwrap_or(DeviceNumber(u32::MAX))
    }

    fn wave(&self, task: &Task, device: usize) -> usize {
        self.state.wave_of(task.number, self.number(device)).map_or(0, |(wave, _)| wave)
    }

    /// Devices that join later: as many more, in a ring.
    pub(super) fn join(&mut self, count: usize, ring: u8) {
        for device in self.devices.len()..self.devices.len() + count {
            let components = vec![(Component::MAIN, "1".to_owned())];
            let new = NewDevice { product_id: "p".into(), device_id: format!("d{device}"), components, details: details(ring) };
            let command = Command::PutDevices { organization: "o".into(), devices: vec![new], register_products: false };
            self.apply(command, Doing::Asking).unwrap();
            self.names.push(name(device));
            self.devices.push(SimulatedDevice { version: "1", attempt: None, rests: true });
            self.oracle.came(device, ring);
            for task in 0..self.oracle.tasks.len() {
                let row = Arc::clone(self.state.task_entry(self.oracle.tasks[task].id.number).unwrap().view.row());
                self.oracle.tasks[task].runs[device].wave = self.wave(&row, device);
            }
        }
        self.flush();
    }

    /// A device is deleted; what it still says is of nobody. It asks no more.
    pub(super) fn remove(&mut self, device: usize) {
        self.oracle.went(device);
        self.apply(Command::DeleteDevice(self.names[device].clone()), Doing::Asking).unwrap();
    }

    pub(super) fn act(&mut self, task: usize, action: TaskAction) {
        match action {
            TaskAction::Approve => self.oracle.tasks[task].approved = true,
            TaskAction::Cancel => self.oracle.tasks[task].canceled = true,
            TaskAction::OpenWave => self.oracle.open_wave_by_hand(task),
            _ => {}
        }
        let id = self.oracle.tasks[task].id;
        let command = Command::ActOnTask { organization: "o".into(), id, action, rules: ActionRules::default() };
        if let Err(error) = self.apply(command, Doing::Ordering { task }) {
            self.oracle.fault(&format!("{action:?} is refused: {error}"));
        }
        self.flush();
        let status = self.oracle.tasks[task].status;
        let expected = match action {
            TaskAction::Start | TaskAction::Resume => TaskStatus::Started,
            TaskAction::Stop | TaskAction::Cancel => TaskStatus::Stopped,
            TaskAction::Pause => TaskStatus::Paused,
            TaskAction::Approve | TaskAction::OpenWave => status,
        };
        assert_eq!(status, expected, "SLUICEGATE_SEED={}: after {action:?}", self.oracle.seed);
    }

    pub(super) fn act_on(&mut self, task: usize, device: usize, action: UpgradeAction) {
        let command = Command::ActOnUpgrades(Box::new(UpgradesAction {
            organization: "o".into(),
            task: self.oracle.tasks[task].id,
            device_ids: vec![format!("d{device}").into()],
            action,
            rules: ActionRules::default(),
        }));
        if let Err(error) = self.apply(command, Doing::Acting { task }) {
            self.oracle.fault(&format!("{action:?} of d{device} is refused: {error}"));
        }
        match action {
            UpgradeAction::Confirm => self.oracle.confirmed(task, device),
            UpgradeAction::Force => self.oracle.forced(task, device),
            UpgradeAction::Retry => self.oracle.retried(task, device),
            UpgradeAction::Cancel | UpgradeAction::Decline => {}
        }
    }

    /// Devices that the task is for and whose run of it stands so, from a random one on.
    pub(super) fn some(&mut self, task: usize, count: usize, is_wanted: impl Fn(&Stage) -> bool) -> Vec<usize> {
        let all = self.devices.len();
        let first = self.random.below(all as u64) as usize;
        let ordered = &self.oracle.tasks[task];
        let is_one = |device: &usize| {
            let stage = &ordered.runs[*device].stage;
            let is_for_it = *stage != Stage::ToCome || ordered.from.contains(&self.devices[*device].version);
            is_for_it && is_wanted(stage) && self.oracle.devices[*device].1 && self.oracle.is_in_scope(ordered, *device)
        };
        (first..all).chain(0..first).filter(is_one).take(count).collect()
    }

    /// What the engine counts of a task is what the oracle has seen of it.
    pub(super) fn compare_counts(&self, task: usize) {
        let info = self.state.task("o", self.oracle.tasks[task].id).unwrap();
        for state in UpgradeState::ALL.into_iter().filter(|state| state.is_finished()) {
            let (counted, seen) = (info.counts.get(state), self.oracle.over(task, state));
            assert_eq!(counted, seen, "SLUICEGATE_SEED={}: {} of task {task}", self.oracle.seed, state.name());
        }
    }

    /// The task has run out: every device in scope has a result, and nothing is held.
    pub(super) fn expect_complete(&self, task: usize) {
        let left = self.oracle.unfinished(task);
        assert_eq!(left, 0, "SLUICEGATE_SEED={}: devices of task {task} were skipped", self.oracle.seed);
        assert_eq!(self.oracle.tasks[task].held, 0, "SLUICEGATE_SEED={}: permits of task {task}", self.oracle.seed);
        self.compare_counts(task);
    }
}
