//! What the policies promise, written down a second time, from the documentation of [`Policy`] and from nothing else.
//!
//! The oracle watches a simulated fleet: it is told of every question before it is answered, of every answer, and of every event.
//! Of a question it says what may be answered; of an event, whether it may happen now. Where the documentation leaves a choice
//! (a jitter, a device's wave), it takes the first answer for the choice and holds the engine to it from then on.
//!
//! It keeps one [`Run`] for each task and device and some sums, which it counts by itself. It looks at no state but its own.

use super::ordered::{Again, Ended, Ordered, Run, Stage};
use super::window::{Opening, opening};
use crate::model::*;
use crate::state::{Decision, WaitReason};
use std::collections::BTreeSet;

/// What the fleet's simulation is doing while events come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Doing {
    Asking,
    Reporting {
        device: usize,
        state: UpgradeState,
        code: Option<i32>,
    },
    Ticking,
    /// An operator acts on the task.
    Ordering {
        task: usize,
    },
    /// An operator or a person acts on upgrades of the task.
    Acting {
        task: usize,
    },
}

/// What a question may be answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expected {
    Again(UpgradeId),
    /// This task is for it. Without a certain reason it is offered, unless a possible one is given.
    Task {
        task: usize,
        certain: u16,
        possible: u16,
    },
    Nothing {
        leads_here: bool,
    },
}

#[derive(Debug)]
pub(super) struct Oracle {
    pub seed: u64,
    pub permits_max: Option<u64>,
    default_timeout_s: u32,
    pub now: Timestamp,
    pub tasks: Vec<Ordered>,
    /// Which ring each device is in, and whether it is there.
    pub devices: Vec<(u8, bool)>,
    pub held: u64,
    deadlines: BTreeSet<(Timestamp, usize, usize)>,
}

const fn bit(reason: WaitReason) -> u16 {
    1 << reason as u16
}

impl Oracle {
    pub(super) fn new(seed: u64, permits_max: Option<u32>, default_timeout_s: u32) -> Self {
        let permits_max = permits_max.map(u64::from);
        let (now, tasks, devices, deadlines) = (Timestamp(0), Vec::new(), Vec::new(), BTreeSet::new());
        Self { seed, permits_max, default_timeout_s, now, tasks, devices, held: 0, deadlines }
    }

    #[track_caller]
    pub(super) fn fault(&self, what: &str) -> ! {
        panic!("SLUICEGATE_SEED={}: at {}: {what}", self.seed, self.now);
    }

    #[track_caller]
    fn require(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fault(&what());
        }
    }

    /// `waves`: the wave of each device as the engine tells it before the start, for a task that has any.
    pub(super) fn order(&mut self, mut task: Ordered, at_start: &[bool], waves: Option<Vec<usize>>) {
        task.runs = vec![Run::default(); self.devices.len()];
        if let Some(waves) = waves {
            let present = at_start.iter().filter(|there| **there).count() as u64;
            let sizes = self.shares(&task.policy.waves, present);
            let mut measured = vec![0; sizes.len()];
            for (device, wave) in waves.iter().enumerate() {
                task.runs[device].wave = *wave;
                if at_start[device] {
                    measured[*wave] += 1;
                }
            }
            self.require(measured == sizes, || format!("waves hold {measured:?} of {present}; their shares are {sizes:?}"));
            task.wave_successes = vec![0; sizes.len()];
            task.wave_sizes = sizes;
        }
        self.tasks.push(task);
        let last = self.tasks.len() - 1;
        self.open_waves(last);
    }

    /// How many devices each wave holds, and the rest where there is one: shares of a percentage end where it is reached by a device.
    fn shares(&self, waves: &[Wave], present: u64) -> Vec<u64> {
        let (mut percent, mut count, mut before, mut sizes) = (0, 0, 0, Vec::new());
        for wave in waves {
            match wave.size {
                WaveSize::Percent(share) => percent += u64::from(share),
                WaveSize::Count(share) => count += u64::from(share),
            }
            let upto = present.min(count + (present * percent).div_ceil(100));
            sizes.push(upto - before);
            before = upto;
        }
        if before < present {
            sizes.push(present - before);
        }
        sizes
    }

    pub(super) fn is_in_scope(&self, task: &Ordered, device: usize) -> bool {
        match &task.members {
            Some(members) => members.get(device).copied().unwrap_or(false),
            None => task.rings.as_ref().is_none_or(|rings| rings.contains(&self.devices[device].0)),
        }
    }

    /// What a device at this version may be told now.
    pub(super) fn expect(&self, device: usize, version: &'static str) -> Expected {
        for task in &self.tasks {
            if let Some(Run { stage: Stage::Held { id, from, .. }, .. }) = task.runs.get(device) {
                let leads_here = task.to == version;
                return if *from == version { Expected::Again(*id) } else { Expected::Nothing { leads_here } };
            }
        }
        for (number, task) in self.tasks.iter().enumerate().rev() {
            let run = &task.runs[device];
            let is_over = matches!(run.stage, Stage::Over(_));
            if task.status == TaskStatus::Stopped || is_over || !task.from.contains(&version) || !self.is_in_scope(task, device) {
                continue;
            }
            let opening = opening(&task.policy.schedule, self.now);
            if opening == Opening::Over && !run.forced {
                continue;
            }
            let (certain, possible) = self.reasons(task, run, opening);
            return Expected::Task { task: number, certain, possible };
        }
        Expected::Nothing { leads_here: self.tasks.iter().any(|task| task.to == version) }
    }

    /// Everything that holds a device back, and what may.
    fn reasons(&self, task: &Ordered, run: &Run, opening: Opening) -> (u16, u16) {
        let (now, policy) = (self.now, &task.policy);
        let (mut certain, mut possible) = (0, 0);
        let mut hold = |reason, holds| certain |= if holds { bit(reason) } else { 0 };
        let task_is_full = policy.maximum_concurrency.is_some_and(|cap| task.held >= u64::from(cap));
        hold(WaitReason::Cap, task_is_full || self.permits_max.is_some_and(|cap| self.held >= cap));
        hold(WaitReason::Confirmation, policy.confirmation && !run.confirmed);
        if run.forced {
            return (certain, possible);
        }
        hold(WaitReason::Paused, task.status == TaskStatus::Paused);
        hold(WaitReason::Approval, policy.approval && !task.approved);
        hold(WaitReason::Schedule, matches!(opening, Opening::At(_)));
        hold(WaitReason::Wave, !task.wave_sizes.is_empty() && run.wave > task.wave_open);
        hold(WaitReason::Rate, self.rate(task).is_some_and(|rate| self.begun_last_minute(task) >= rate));
        if let Some(again) = run.again {
            hold(WaitReason::BackOff, now < again.earliest);
            possible |= if now < again.latest { bit(WaitReason::BackOff) } else { 0 };
        }
        if let Opening::Since(since) = opening
            && policy.start_jitter_s > 0
        {
            let since = since.max(task.began_at);
            match run.delay_s {
                Some(delay_s) => hold(WaitReason::StartJitter, now < since.plus_seconds(delay_s)),
                None if now < since.plus_seconds(u64::from(policy.start_jitter_s)) => possible |= bit(WaitReason::StartJitter),
                None => {}
            }
        }
        (certain, possible)
    }

    /// The rate now. A step that is not a whole number is rounded down, but is one at least.
    pub(super) fn rate(&self, task: &Ordered) -> Option<u64> {
        let rate = task.policy.rate?;
        let mut per_minute = u64::from(rate.per_minute);
        if let Some(growth) = rate.growth {
            let come = if growth.counting == Counting::Notified { task.notified } else { task.succeeded };
            for _ in 0..come / u64::from(growth.after) {
                per_minute += (per_minute * u64::from(growth.factor_percent - 100) / 100).max(1);
                per_minute = per_minute.min(u64::from(growth.per_minute_max));
            }
        }
        Some(per_minute)
    }

    fn begun_last_minute(&self, task: &Ordered) -> u64 {
        let second = self.now.as_seconds();
        task.starts.iter().rev().take_while(|(begun, _)| begun + 60 > second).map(|(_, count)| count).sum()
    }

    /// An answer has been given where `expected` was expected; events of it were seen before.
    pub(super) fn answered(&mut self, device: usize, expected: &Expected, decision: &Decision) {
        let wrong = |oracle: &Self| -> ! { oracle.fault(&format!("d{device}: expected {expected:?}, it is told {decision:?}")) };
        match (expected, decision) {
            (Expected::Again(id), Decision::Offer(offer)) if offer.id == Some(*id) => {}
            (Expected::Nothing { leads_here: true }, Decision::UpToDate) => {}
            (Expected::Nothing { leads_here: false }, Decision::NoTask) => {}
            (Expected::Task { task, certain: 0, .. }, Decision::Offer(offer)) => {
                let is_it = matches!(self.tasks[*task].runs[device].stage, Stage::Held { id, .. } if Some(id) == offer.id);
                if !is_it {
                    wrong(self);
                }
            }
            (Expected::Task { task, certain, possible }, Decision::Wait(wait)) => {
                let is_it = self.tasks[*task].id == wait.task && (certain | possible) & bit(wait.reason) != 0;
                if !is_it {
                    wrong(self);
                }
                self.learn(*task, device, wait.reason, u64::from(wait.retry_after_s));
            }
            _ => wrong(self),
        }
    }

    /// What a device was told to wait says what was drawn for it; from now on it has to be true.
    fn learn(&mut self, task: usize, device: usize, reason: WaitReason, retry_after_s: u64) {
        const CUT_S: u64 = 86_400;
        let (now, begins) = (self.now, self.now.plus_seconds(retry_after_s));
        let ordered = &self.tasks[task];
        let (policy, run) = (&ordered.policy, &ordered.runs[device]);
        let jitter_s = u64::from(policy.start_jitter_s);
        let opening = opening(&policy.schedule, now);
        match (reason, opening) {
            (WaitReason::StartJitter, Opening::Since(since)) => {
                let since = since.max(ordered.began_at);
                let delay_s = (begins.0 - since.0) / 1000;
                self.require(delay_s < jitter_s, || {
                    format!("d{device} begins {delay_s} s after the start; below {jitter_s} was asked")
                });
                self.require(run.delay_s.is_none_or(|before| before == delay_s), || {
                    format!("d{device} has another delay than before")
                });
                self.tasks[task].runs[device].delay_s = Some(delay_s);
            }
            (WaitReason::Schedule, Opening::At(opens)) => {
                let until_s = now.seconds_until(opens);
                self.require(retry_after_s >= until_s.min(CUT_S), || format!("d{device} is sent to a closed window"));
                if jitter_s > 0 && retry_after_s < CUT_S {
                    let delay_s = retry_after_s - until_s;
                    self.require(delay_s < jitter_s, || {
                        format!("d{device} is told a delay of {delay_s} s; below {jitter_s} was asked")
                    });
                    self.require(run.delay_s.is_none_or(|before| before == delay_s), || format!("d{device} has another delay"));
                    self.tasks[task].runs[device].delay_s = Some(delay_s);
                }
            }
            (WaitReason::BackOff, _) if retry_after_s < CUT_S => {
                let Some(again) = run.again else { self.fault("a back-off without a failure") };
                // Whole seconds from the failure on.
                let until = Timestamp(begins.0 - (begins.0 - again.earliest.0) % 1000);
                let is_within = (again.earliest..=again.latest).contains(&until);
                self.require(is_within, || format!("d{device} backs off until {until}; {again:?} was asked"));
                self.tasks[task].runs[device].again = Some(Again { earliest: until, latest: until });
            }
            _ => self.require((1..=CUT_S).contains(&retry_after_s), || format!("d{device} is sent away for {retry_after_s} s")),
        }
    }

    /// Every command is followed by this, after its events.
    pub(super) fn command_done(&self) {
        for (number, task) in self.tasks.iter().enumerate() {
            self.require(task.stop_owed.is_none(), || format!("task {number} has reached a threshold and goes on"));
            self.require(task.waves_owed == 0, || {
                format!("task {number} has reached the successes of a wave; the next isn't opened")
            });
        }
    }

    /// The clock has ticked, and nothing is due any more.
    pub(super) fn ticked(&self) {
        if let Some((deadline, task, device)) = self.deadlines.first() {
            self.require(self.now < *deadline, || format!("d{device} holds a permit of task {task} beyond its deadline"));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(deadline, ..)| *deadline)
    }

    pub(super) fn happened(&mut self, event: &Event, doing: Doing) {
        self.require(event.at == self.now, || format!("an event of another time: {event:?}"));
        let task = self.tasks.iter().position(|task| Some(task.id) == event.task_id);
        let Some(task) = task else {
            return self.require(event.kind == EventKind::TaskCreated, || format!("an event of no task: {event:?}"));
        };
        let device = event.device_id.as_ref().and_then(|id| id[1..].parse::<usize>().ok());
        match (event.kind, device) {
            (EventKind::Offered, Some(device)) => self.offered(task, device, event),
            (EventKind::Progress, Some(device)) => self.progressed(task, device, event, doing),
            (EventKind::Result, Some(device)) => self.ended(task, device, event, doing),
            (EventKind::Threshold, None) => self.threshold(task, event, doing),
            (EventKind::TaskStarted | EventKind::TaskStopped, None) => self.status_changed(task, event, doing),
            (EventKind::TaskFinished, None) => self.finished(task),
            _ => self.fault(&format!("an event out of place: {event:?}")),
        }
    }

    fn offered(&mut self, task: usize, device: usize, event: &Event) {
        self.command_done();
        let (now, default_timeout_s) = (self.now, self.default_timeout_s);
        let Some(id) = event.upgrade_id else { self.fault("an offer without an id") };
        let ordered = &mut self.tasks[task];
        let timeout_s = u64::from(ordered.policy.timeout_s.unwrap_or(default_timeout_s));
        let deadline = (ordered.policy.timeout_from == TimeoutFrom::Offer).then(|| now.plus_seconds(timeout_s));
        let run = &mut ordered.runs[device];
        let before = std::mem::replace(&mut run.stage, Stage::ToCome);
        ordered.notified += u64::from(run.offers == 0);
        run.offers += 1;
        run.attempts += 1;
        run.forced = false;
        run.again = None;
        run.stage = Stage::Held { id, from: "", state: UpgradeState::Offered, deadline };
        let second = now.as_seconds();
        match ordered.starts.last_mut().filter(|(last, _)| *last == second) {
            Some((_, count)) => *count += 1,
            None => ordered.starts.push((second, 1)),
        }
        ordered.held += 1;
        ordered.held_most = ordered.held_most.max(ordered.held);
        self.held += 1;
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, task, device));
        }
        self.require(!matches!(before, Stage::Held { .. } | Stage::Over(_)), || format!("d{device} is offered again: {before:?}"));
        let ordered = &self.tasks[task];
        let cap = ordered.policy.maximum_concurrency;
        self.require(cap.is_none_or(|cap| ordered.held <= u64::from(cap)), || format!("{} hold a permit of {cap:?}", ordered.held));
        self.require(self.permits_max.is_none_or(|cap| self.held <= cap), || format!("{} permits on the server", self.held));
    }

    /// The version that an offer was made for, and its deadline as it was told.
    pub(super) fn accepted(&mut self, device: usize, version: &'static str, told: Option<Timestamp>) {
        for task in &mut self.tasks {
            if let Stage::Held { from, deadline, .. } = &mut task.runs[device].stage {
                *from = version;
                assert_eq!(*deadline, told, "SLUICEGATE_SEED={}: the deadline of d{device}", self.seed);
            }
        }
    }

    fn progressed(&mut self, task: usize, device: usize, event: &Event, doing: Doing) {
        let (now, default_timeout_s) = (self.now, self.default_timeout_s);
        let ordered = &mut self.tasks[task];
        let policy = &ordered.policy;
        let timeout_s = u64::from(policy.timeout_s.unwrap_or(default_timeout_s));
        let run = &mut ordered.runs[device];
        match (&mut run.stage, doing, event.state) {
            (stage @ Stage::ToCome, Doing::Asking, Some(UpgradeState::AwaitingConfirmation)) if !run.confirmed => {
                *stage = Stage::Asked
            }
            (Stage::Held { state, deadline, .. }, Doing::Reporting { device: by, state: said, .. }, Some(told))
                if by == device && said == told =>
            {
                *state = told;
                if policy.timeout_from == TimeoutFrom::Running && deadline.is_none() {
                    *deadline = Some(now.plus_seconds(timeout_s));
                    self.deadlines.insert((now.plus_seconds(timeout_s), task, device));
                }
            }
            _ => self.fault(&format!("progress out of place: {event:?} while {doing:?}")),
        }
    }

    fn ended(&mut self, task: usize, device: usize, event: &Event, doing: Doing) {
        let Some(state) = event.state else { self.fault("a result that is none") };
        let ordered = &self.tasks[task];
        let stage = ordered.runs[device].stage.clone();
        // Canceling ends many in one command; anything else stops at once where a threshold is reached.
        if state != UpgradeState::Canceled {
            self.command_done();
        }
        let may = match (state, &stage, doing) {
            (UpgradeState::TimedOut, Stage::Held { deadline, .. }, Doing::Ticking) => *deadline == Some(self.now),
            (UpgradeState::Canceled, Stage::Over(_), _) => false,
            (UpgradeState::Canceled, _, Doing::Acting { task: acting }) => ordered.canceled || acting == task,
            (UpgradeState::Canceled, ..) => ordered.canceled,
            (UpgradeState::Rejected, Stage::ToCome | Stage::Asked, Doing::Acting { task: acting }) => acting == task,
            (_, Stage::Held { .. }, Doing::Reporting { device: by, state: said, .. }) => by == device && said == state,
            _ => false,
        };
        self.require(may, || format!("a result out of place: {event:?} at {stage:?} while {doing:?}"));
        let code = if let Doing::Reporting { code, .. } = doing { code } else { None };
        self.give_back(task, device);
        let ended = match state {
            UpgradeState::Succeeded => Some(Ended::Well),
            UpgradeState::Failed => Some(Ended::Badly(FailureKind::Failed)),
            UpgradeState::Rejected => Some(Ended::Badly(FailureKind::Rejected)),
            UpgradeState::TimedOut => Some(Ended::Badly(FailureKind::TimedOut)),
            _ => None,
        };
        let is_new = self.tasks[task].runs[device].newest.is_none();
        self.count(task, device, ended);
        let (again, now) = (self.next_attempt(task, device, ended, code), self.now);
        let run = &mut self.tasks[task].runs[device];
        run.forced = false;
        run.again = again.map(|(least_s, most_s)| Again { earliest: now.plus_seconds(least_s), latest: now.plus_seconds(most_s) });
        run.stage = if again.is_some() { Stage::ToCome } else { Stage::Over(state) };
        if ended.is_some() {
            self.watch(task, ended == Some(Ended::Well), is_new);
            self.open_waves(task);
        }
    }

    fn give_back(&mut self, task: usize, device: usize) {
        if let Stage::Held { deadline, .. } = self.tasks[task].runs[device].stage {
            self.tasks[task].held -= 1;
            self.held -= 1;
            if let Some(deadline) = deadline {
                self.deadlines.remove(&(deadline, task, device));
            }
        }
    }

    /// Counts how a device's newest ended attempt went, in place of the one before. One that was taken back has no result.
    fn count(&mut self, task: usize, device: usize, ended: Option<Ended>) {
        let task = &mut self.tasks[task];
        let run = &mut task.runs[device];
        for (ended, is_new) in [(run.newest, false), (ended, true)] {
            let sum = match ended {
                None => continue,
                Some(Ended::Badly(kind)) => &mut task.failures[kind as usize],
                Some(Ended::Well) => {
                    if let Some(successes) = task.wave_successes.get_mut(run.wave) {
                        *successes = if is_new { *successes + 1 } else { *successes - 1 };
                    }
                    &mut task.succeeded
                }
            };
            *sum = if is_new { *sum + 1 } else { *sum - 1 };
        }
        run.newest = ended;
    }

    /// How long until the next attempt, from and to, if there is one.
    fn next_attempt(&self, task: usize, device: usize, ended: Option<Ended>, code: Option<i32>) -> Option<(u64, u64)> {
        let task = &self.tasks[task];
        let retry = task.policy.retry.as_ref().filter(|_| !task.canceled)?;
        let is_for_it = match ended? {
            Ended::Badly(FailureKind::TimedOut) => true,
            Ended::Badly(FailureKind::Failed) => retry.codes.is_empty() || code.is_some_and(|code| retry.codes.contains(&code)),
            _ => false,
        };
        let attempts = task.runs[device].attempts;
        if !is_for_it || attempts > retry.count {
            return None;
        }
        let mut interval_s = u64::from(retry.interval_s);
        if let Some(back_off) = retry.back_off {
            for _ in 1..attempts {
                interval_s = (interval_s * u64::from(back_off.factor_percent) / 100).min(u64::from(back_off.interval_max_s));
            }
        }
        Some((interval_s, interval_s + u64::from(retry.jitter_s)))
    }

    /// A threshold is due at the very result that reaches it: a failure, or the success that makes up the minimum.
    fn watch(&mut self, task: usize, after_success: bool, is_new: bool) {
        let task = &mut self.tasks[task];
        if task.status == TaskStatus::Stopped {
            return;
        }
        let all: u64 = task.failures.iter().sum();
        let results = task.succeeded + all;
        let reached = task.policy.thresholds.iter().filter(|threshold| {
            if after_success && !(is_new && results == u64::from(threshold.minimum)) {
                return false;
            }
            let failures = threshold.kind.map_or(all, |kind| task.failures[kind as usize]);
            failures > 0 && results >= u64::from(threshold.minimum) && failures * 100 >= results * u64::from(threshold.percent)
        });
        let actions: Vec<ThresholdAction> = reached.map(|threshold| threshold.action).collect();
        if actions.contains(&ThresholdAction::Cancel) {
            task.stop_owed = Some(ThresholdAction::Cancel);
        } else if !actions.is_empty() && task.status == TaskStatus::Started {
            task.stop_owed = Some(ThresholdAction::Pause);
        }
    }

    /// A wave is due at the very success that opens it.
    fn open_waves(&mut self, task: usize) {
        let task = &mut self.tasks[task];
        while task.wave_open + 1 < task.wave_sizes.len() {
            let open = task.wave_open;
            let needed = (task.wave_sizes[open] * u64::from(task.policy.waves[open].success_percent)).div_ceil(100);
            if task.wave_successes[open] < needed {
                return;
            }
            task.wave_open += 1;
            task.waves_owed += 1;
        }
    }

    /// What happened with the task's creation was not watched.
    pub(super) fn forgive_waves(&mut self, task: usize) {
        self.tasks[task].waves_owed = 0;
    }

    /// An operator opens the next wave.
    pub(super) fn open_wave_by_hand(&mut self, task: usize) {
        self.tasks[task].wave_open += 1;
        self.tasks[task].waves_owed += 1;
        self.open_waves(task);
    }

    fn threshold(&mut self, task: usize, event: &Event, doing: Doing) {
        let told = |key: &str| event.extra.get(key).map(|value| &**value);
        let ordered = &mut self.tasks[task];
        if told("threshold") == Some("wave") && ordered.waves_owed > 0 {
            ordered.waves_owed -= 1;
            return;
        }
        match ordered.stop_owed {
            Some(action) if told("threshold") == Some("failures") && told("action") == Some(action.name()) => {
                ordered.canceled |= action == ThresholdAction::Cancel;
                ordered.stopped_after.push(ordered.succeeded + ordered.failures.iter().sum::<u64>());
            }
            _ => self.fault(&format!("a threshold that isn't reached: {event:?} while {doing:?}")),
        }
    }

    fn status_changed(&mut self, task: usize, event: &Event, doing: Doing) {
        let status = match event.extra.get("status").map(|status| &**status) {
            Some("started") => TaskStatus::Started,
            Some("paused") => TaskStatus::Paused,
            _ => TaskStatus::Stopped,
        };
        let now = self.now;
        let ordered = &mut self.tasks[task];
        let owed = ordered.stop_owed.take().map(|action| match action {
            ThresholdAction::Pause => TaskStatus::Paused,
            ThresholdAction::Cancel => TaskStatus::Stopped,
        });
        ordered.status = status;
        if status == TaskStatus::Started {
            ordered.began_at = now;
            ordered.canceled = false;
        }
        let may = owed == Some(status) || (owed.is_none() && doing == Doing::Ordering { task });
        self.require(may, || format!("task {task} became {status:?}, {owed:?} was due, while {doing:?}"));
    }

    fn finished(&mut self, task: usize) {
        let ordered = &self.tasks[task];
        let is_over = ordered.canceled || opening(&ordered.policy.schedule, self.now) == Opening::Over;
        self.require(is_over || self.unfinished(task) == 0, || format!("task {task} is finished before its end"));
        self.require(ordered.held == 0, || format!("task {task} is finished while {} hold permits", ordered.held));
        self.tasks[task].finished_at = Some(self.now);
    }

    /// Devices in scope without a result.
    pub(super) fn unfinished(&self, task: usize) -> usize {
        let task = &self.tasks[task];
        let has_to = |device: usize| self.devices[device].1 && self.is_in_scope(task, device);
        (0..self.devices.len()).filter(|device| has_to(*device) && !matches!(task.runs[*device].stage, Stage::Over(_))).count()
    }

    pub(super) fn over(&self, task: usize, state: UpgradeState) -> u64 {
        self.tasks[task].runs.iter().filter(|run| run.stage == Stage::Over(state)).count() as u64
    }

    // What operators do to one device.

    pub(super) fn confirmed(&mut self, task: usize, device: usize) {
        let run = &mut self.tasks[task].runs[device];
        run.confirmed = true;
        if run.stage == Stage::Asked {
            run.stage = Stage::ToCome;
        }
    }

    /// Whoever forces a device has said yes for it.
    pub(super) fn forced(&mut self, task: usize, device: usize) {
        self.confirmed(task, device);
        let run = &mut self.tasks[task].runs[device];
        run.forced = true;
        run.again = None;
    }

    /// A device that is retried begins as if it had never been tried.
    pub(super) fn retried(&mut self, task: usize, device: usize) {
        self.count(task, device, None);
        let run = &mut self.tasks[task].runs[device];
        run.attempts = 0;
        run.again = None;
        run.stage = Stage::ToCome;
    }

    pub(super) fn came(&mut self, device: usize, ring: u8) {
        if device == self.devices.len() {
            self.devices.push((ring, true));
            self.tasks.iter_mut().for_each(|task| task.runs.push(Run::default()));
        }
        self.devices[device] = (ring, true);
    }

    /// With a device go its runs; it is another device if it comes again, and in no snapshot.
    pub(super) fn went(&mut self, device: usize) {
        self.devices[device].1 = false;
        for task in 0..self.tasks.len() {
            self.give_back(task, device);
            self.count(task, device, None);
            self.tasks[task].runs[device] = Run::default();
            if let Some(member) = self.tasks[task].members.as_mut().and_then(|members| members.get_mut(device)) {
                *member = false;
            }
        }
    }
}
