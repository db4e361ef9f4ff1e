//! What must hold, written down a second time in the simplest way: plain maps, no sets, no timers, every question answered by looking
//! through everything.
//!
//! The oracle is told of each command of a group once the group is durable, with what its caller will be told and the events that it
//! left. Whatever follows from the command alone it foretells; where the engine has a choice (a jitter, which of many goes first) it
//! takes the engine's word, if that is among what may be. It never looks at the engine's state to move its own;
//! [`audit`] compares the two.

mod asked;
mod audit;
mod connected;
mod ended;
mod happened;
mod ordered;

pub(super) use audit::Figures;
pub(super) use ordered::token_row;

use super::steps::{CheckStep, PRODUCTS, component, product_of};
use crate::limits::Limits;
use crate::model::*;
use crate::rollout::waves;
use crate::state::tests::fleet::window::{Opening, opening};
use crate::state::{Decision, WaitReason};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A promise that is broken: its name, by which two failures are known for the same, and what was seen.
#[derive(Debug)]
pub(super) struct Broken {
    pub rule: &'static str,
    pub seen: String,
}

pub(super) type Held<T = ()> = Result<T, Broken>;

pub(super) fn broken<T>(rule: &'static str, seen: impl Into<String>) -> Held<T> {
    Err(Broken { rule, seen: seen.into() })
}

pub(super) fn require(rule: &'static str, holds: bool, seen: impl FnOnce() -> String) -> Held {
    if holds { Ok(()) } else { broken(rule, seen()) }
}

pub(super) struct Oracle {
    limits: Limits,
    /// The largest time of a command since the start.
    now: Timestamp,
    pub products: BTreeSet<usize>,
    pub devices: Vec<Option<Known>>,
    /// By the step that ordered it. Later ones have larger numbers.
    pub tasks: BTreeMap<usize, Ordered>,
    pub firmware: BTreeMap<usize, Arc<Firmware>>,
    pub tokens: BTreeMap<u64, Token>,
    /// Every offer there ever was: of whom, and whether its attempt has ended.
    pub offers: BTreeMap<UpgradeId, Offered>,
    /// The same in the order of the offers.
    pub offers_of: BTreeMap<(usize, usize), Vec<UpgradeId>>,
    pub next_event: u64,
    /// Of devices that come into being in the group that is being told of.
    pub numbers: Vec<Option<DeviceNumber>>,
    /// By gateway.
    pub connections: BTreeMap<usize, Connection>,
    lives: u64,
}

/// A device that is there.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub versions: BTreeMap<Component, Arc<str>>,
    pub groups: Vec<&'static str>,
    pub ring: Option<&'static str>,
    /// Who is deleted and comes again is another.
    pub life: u64,
    /// Where it lies among the waves depends on it; unknown for one that came and went in one group.
    pub number: Option<DeviceNumber>,
}

#[derive(Clone, Debug)]
pub(super) struct Offered {
    pub life: u64,
    pub has_ended: bool,
}

/// A task, and how each device stands with it.
#[derive(Clone, Debug)]
pub(super) struct Ordered {
    pub id: TaskId,
    pub product: usize,
    pub component: Component,
    pub from: Vec<&'static str>,
    pub to: Arc<str>,
    pub firmware: Option<usize>,
    pub selector: Selector,
    /// Of a snapshot.
    pub members: Option<BTreeSet<usize>>,
    pub policy: Policy,
    pub waves: Vec<MeasuredWave>,
    pub status: TaskStatus,
    pub approved: bool,
    pub canceled: bool,
    pub finished_at: Option<Timestamp>,
    /// From then on its devices begin.
    changed_at: Timestamp,
    pub runs: BTreeMap<usize, Run>,
    /// The second of each beginning.
    starts: Vec<u64>,
    notified: u64,
    pub wave_open: usize,
    /// What has to happen in the very command that it follows from.
    waves_owed: u64,
    stop_owed: Option<ThresholdAction>,
    /// Some device's wave isn't known, so no wave can be foretold.
    is_blurred: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    pub state: UpgradeState,
    pub attempts: u32,
    pub id: Option<UpgradeId>,
    pub from: Arc<str>,
    pub percent: u8,
    pub deadline: Option<Timestamp>,
    pub not_before: Option<Timestamp>,
    pub confirmed: bool,
    pub forced: bool,
    /// How its newest ended attempt went wrong.
    pub failure: Option<FailureKind>,
    pub succeeded_before: bool,
    was_offered: bool,
}

impl Run {
    fn blank(from: Arc<str>, succeeded_before: bool) -> Self {
        Self {
            state: UpgradeState::Waiting,
            attempts: 0,
            id: None,
            from,
            percent: 0,
            deadline: None,
            not_before: None,
            confirmed: false,
            forced: false,
            failure: None,
            succeeded_before,
            was_offered: false,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        !self.state.is_finished()
    }

    pub(super) fn has_succeeded(&self) -> bool {
        self.succeeded_before || self.state == UpgradeState::Succeeded
    }
}

/// Who may be sent something without asking.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub epoch: u64,
    pub members: BTreeSet<usize>,
    pub together_max: usize,
}

/// What a device has to be told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expected {
    Again(UpgradeId),
    UpToDate,
    NoTask,
    /// `jitter`: or to wait for its own delay, which the oracle doesn't know.
    Wait {
        task: usize,
        reason: WaitReason,
        jitter: bool,
    },
    Free {
        task: usize,
        jitter: bool,
    },
    AskPerson {
        task: usize,
        jitter: bool,
    },
    /// It isn't there.
    Unknown,
}

impl Oracle {
    pub(super) fn new(limits: Limits, devices: usize) -> Self {
        Self {
            limits,
            now: Timestamp(0),
            products: BTreeSet::new(),
            devices: vec![None; devices],
            tasks: BTreeMap::new(),
            firmware: BTreeMap::new(),
            tokens: BTreeMap::new(),
            offers: BTreeMap::new(),
            offers_of: BTreeMap::new(),
            next_event: 1,
            numbers: vec![None; devices],
            connections: BTreeMap::new(),
            lives: 0,
        }
    }

    pub(super) fn held_by(&self, task: usize) -> u64 {
        self.tasks[&task].runs.values().filter(|run| run.state.holds_permit()).count() as u64
    }

    pub(super) fn held(&self) -> u64 {
        self.tasks.keys().map(|task| self.held_by(*task)).sum()
    }

    fn run(&self, task: usize, device: usize) -> Option<&Run> {
        self.tasks.get(&task)?.runs.get(&device)
    }

    pub(super) fn is_at_start(&self, task: &Ordered, device: usize) -> bool {
        let known = self.devices[device].as_ref().filter(|_| product_of(device) == task.product);
        known.and_then(|known| known.versions.get(&task.component)).is_some_and(|version| task.from.contains(&&**version))
    }

    pub(super) fn is_in_scope(&self, task: &Ordered, device: usize) -> bool {
        let Some(known) = self.devices[device].as_ref().filter(|_| product_of(device) == task.product) else { return false };
        match (&task.members, &task.selector) {
            (Some(members), _) => members.contains(&device),
            (None, selector) => is_selected(selector, device, known),
        }
    }

    /// The wave of a device from 0, where that is known.
    pub(super) fn wave_of(&self, task: &Ordered, device: usize) -> Option<usize> {
        let number = self.devices[device].as_ref()?.number?;
        let place = waves::place(task.id.number, number);
        task.waves.iter().position(|wave| place <= wave.to_place)
    }

    /// What a device has to be told that says it runs this version. What it holds comes first; then the newest task that is for it.
    pub(super) fn expect(&self, check: &CheckStep, now: Timestamp) -> Expected {
        let now = self.now.max(now);
        let CheckStep { device, second, version, only_while_started, .. } = *check;
        if self.devices[device].is_none() {
            return Expected::Unknown;
        }
        let (product, component) = (product_of(device), component(second));
        let own = || self.tasks.iter().rev().filter(move |(_, task)| task.product == product && task.component == component);
        let held = own().find_map(|(_, task)| Some((task, task.runs.get(&device).filter(|run| run.state.holds_permit())?)));
        if let Some((task, run)) = held {
            return match run.id {
                _ if *run.from != *version && *task.to == *version => Expected::UpToDate,
                _ if *run.from != *version || only_while_started && task.status == TaskStatus::Stopped => Expected::NoTask,
                Some(id) => Expected::Again(id),
                None => Expected::NoTask,
            };
        }
        let decisive = own()
            .filter(|(_, task)| task.from.contains(&version))
            .find_map(|(number, task)| self.judge(*number, task, device, now));
        let leads_here = || own().any(|(_, task)| *task.to == *version);
        decisive.unwrap_or_else(|| if leads_here() { Expected::UpToDate } else { Expected::NoTask })
    }

    /// `None`: another task may be for it.
    fn judge(&self, number: usize, task: &Ordered, device: usize, now: Timestamp) -> Option<Expected> {
        let policy = &task.policy;
        if task.status == TaskStatus::Stopped || !self.is_in_scope(task, device) {
            return None;
        }
        let run = task.runs.get(&device).filter(|run| run.is_live());
        match task.runs.get(&device).map(|run| run.state).filter(|state| state.is_finished()) {
            Some(UpgradeState::Succeeded) if policy.repeat_after_success => {}
            Some(_) => return None,
            None => {}
        }
        let was_asked = run.is_some_and(|run| run.state == UpgradeState::AwaitingConfirmation);
        let run = run.filter(|_| !was_asked);
        let wait = |reason, jitter| Some(Expected::Wait { task: number, reason, jitter });
        let (mut jitter, forced) = (false, run.is_some_and(|run| run.forced));
        if !forced {
            let since = match opening(&policy.schedule, now) {
                Opening::Over => return None,
                Opening::At(_) => return wait(WaitReason::Schedule, false),
                Opening::Since(since) => since.max(task.changed_at),
            };
            if task.status == TaskStatus::Paused {
                return wait(WaitReason::Paused, false);
            }
            if policy.approval && !task.approved {
                return wait(WaitReason::Approval, false);
            }
            jitter = now < since.plus_seconds(u64::from(policy.start_jitter_s));
            if !task.waves.is_empty() {
                match self.wave_of(task, device) {
                    Some(wave) if wave > task.wave_open => return wait(WaitReason::Wave, jitter),
                    _ => {}
                }
            }
            if run.and_then(|run| run.not_before).is_some_and(|until| now < until) {
                return wait(WaitReason::BackOff, jitter);
            }
        }
        if policy.confirmation && !run.is_some_and(|run| run.confirmed) {
            return if was_asked {
                wait(WaitReason::Confirmation, jitter)
            } else {
                Some(Expected::AskPerson { task: number, jitter })
            };
        }
        if !forced && self.rate(task).is_some_and(|rate| begun_last_minute(task, now) >= rate) {
            return wait(WaitReason::Rate, jitter);
        }
        let is_full = policy.maximum_concurrency.is_some_and(|cap| self.held_by(number) >= u64::from(cap));
        if is_full || self.limits.permits_max.is_some_and(|cap| self.held() >= u64::from(cap)) {
            return wait(WaitReason::Cap, jitter);
        }
        Some(Expected::Free { task: number, jitter })
    }

    /// How many may begin in a minute. A step that is not a whole number is rounded down, but is one at least.
    fn rate(&self, task: &Ordered) -> Option<u64> {
        let rate = task.policy.rate?;
        let mut per_minute = u64::from(rate.per_minute);
        if let Some(growth) = rate.growth {
            let come = match growth.counting {
                Counting::Notified => task.notified,
                Counting::Succeeded => task.runs.values().filter(|run| run.has_succeeded()).count() as u64,
            };
            for _ in 0..come / u64::from(growth.after) {
                per_minute += (per_minute * u64::from(growth.factor_percent - 100) / 100).max(1);
                per_minute = per_minute.min(u64::from(growth.per_minute_max));
            }
        }
        Some(per_minute)
    }

    /// Whether a decision is what was expected. That a permit is granted is another matter: of an offer it only says that it may be.
    pub(super) fn compare(&self, check: &CheckStep, expected: &Expected, decision: &Decision) -> Held {
        let is_it = match (expected, decision) {
            (Expected::Again(id), Decision::Offer(offer)) => offer.id == Some(*id) && self.is_as_granted(*id, offer.deadline),
            (Expected::UpToDate, Decision::UpToDate) | (Expected::NoTask, Decision::NoTask) => true,
            (Expected::Wait { task, reason, jitter }, Decision::Wait(wait)) => {
                let is_reason = wait.reason == *reason || *jitter && wait.reason == WaitReason::StartJitter;
                let is_blurred = self.tasks[task].is_blurred || self.wave_of(&self.tasks[task], check.device).is_none();
                let may_be_wave = wait.reason == WaitReason::Wave && !self.tasks[task].waves.is_empty() && is_blurred;
                wait.task == self.tasks[task].id && (is_reason || may_be_wave) && (1..=86_400).contains(&wait.retry_after_s)
            }
            (Expected::AskPerson { task, .. }, Decision::Wait(wait)) if wait.reason == WaitReason::Confirmation => {
                wait.task == self.tasks[task].id
            }
            (Expected::Free { task, jitter } | Expected::AskPerson { task, jitter }, Decision::Wait(wait)) => {
                let is_blurred = self.tasks[task].is_blurred || self.wave_of(&self.tasks[task], check.device).is_none();
                let may_be_wave = wait.reason == WaitReason::Wave && !self.tasks[task].waves.is_empty() && is_blurred;
                wait.task == self.tasks[task].id && (*jitter && wait.reason == WaitReason::StartJitter || may_be_wave)
            }
            (Expected::Free { task, .. }, Decision::Offer(offer)) => offer.task.row().id == self.tasks[task].id,
            _ => false,
        };
        let rule =
            if matches!(expected, Expected::Again(_)) { "the same offer again" } else { "a check is decided by the policies" };
        require(rule, is_it, || format!("d{} at {}: expected {expected:?}, told {}", check.device, check.version, told(decision)))
    }

    fn is_as_granted(&self, id: UpgradeId, deadline: Option<Timestamp>) -> bool {
        let run = self.tasks.values().flat_map(|task| task.runs.values()).find(|run| run.id == Some(id));
        run.is_some_and(|run| run.deadline == deadline)
    }

    /// It has this number now, if it is there.
    pub(super) fn is_numbered(&mut self, device: usize, number: Option<DeviceNumber>) {
        self.numbers[device] = number;
        if let Some(known) = &mut self.devices[device] {
            known.number = known.number.or(number);
        }
    }

    /// What is being waited for is forgotten with the program: it is started again.
    pub(super) fn restarted(&mut self) {
        self.now = Timestamp(0);
        self.connections.clear();
    }

    pub(super) fn name_of(product: usize) -> (&'static str, &'static str) {
        PRODUCTS[product]
    }
}

/// What a task's own words say of a device.
fn is_selected(selector: &Selector, device: usize, known: &Known) -> bool {
    match selector {
        Selector::Total => true,
        Selector::Devices(ids) => ids.contains(&format!("d{device}").into()),
        Selector::Tags(tags) => {
            tags.iter().all(|(key, values)| &**key == "ring" && known.ring.is_some_and(|ring| values.contains(&ring.into())))
        }
        Selector::Groups(groups) => known.groups.iter().any(|group| groups.contains(&(*group).into())),
        Selector::Attributes(_) | Selector::AssetTrees(_) => false,
    }
}

fn begun_last_minute(task: &Ordered, now: Timestamp) -> u64 {
    task.starts.iter().filter(|second| **second + 60 > now.as_seconds()).count() as u64
}

pub(super) fn told(decision: &Decision) -> String {
    match decision {
        Decision::Offer(offer) => format!("offer {:?} of {}, deadline {:?}", offer.id, offer.task.row().id, offer.deadline),
        other => format!("{other:?}"),
    }
}
