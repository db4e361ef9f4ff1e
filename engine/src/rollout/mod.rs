//! Who may start now: scope, schedule, approval, waves, back-off, rate and permits, as pure functions of what they are given.
//!
//! The decision plane and the writer ask the same [`choose`]; they differ only in where the [`Figures`] come from. The decision
//! plane gives it what was published and takes [`Verdict::Free`] for "ask the writer"; the writer gives it the truth and grants.
//! An explanation asks [`judge`], which is what `choose` asks of each task: so what is explained is what is decided.

mod place;
pub(crate) mod rate;
mod retry;
mod schedule;
mod scope;
pub(crate) mod waves;

pub(crate) use retry::next_attempt;
pub(crate) use schedule::{Window, window};
pub(crate) use scope::CompiledScope;

use crate::index::TaskView;
use crate::limits::Limits;
use crate::model::{Device, DeviceNumber, TaskNumber, TaskStatus, Timestamp};
use crate::state::{Wait, WaitReason};
use place::{Draw, below, draw};
use std::sync::Arc;

/// How a device that holds no permit of a task stands with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may begin, as far as it is concerned.
    Ready(Ready),
    /// A person was asked to say yes, and has not answered yet.
    Unconfirmed,
    /// Its run is over.
    Done,
}

/// What is known of a device that may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// It failed, and may try again from this time on.
    pub not_before: Option<Timestamp>,
    /// A person has said yes.
    pub confirmed: bool,
    /// Nothing but a cap holds it back.
    pub forced: bool,
}

impl Standing {
    pub(crate) const FRESH: Self = Self::Ready(Ready { not_before: None, confirmed: false, forced: false });
}

/// The figures that decide who is next.
pub(crate) trait Figures {
    /// Permits of this task that are held.
    fn held_by_task(&self, task: &TaskView) -> u64;
    /// Permits of the whole server that are held.
    fn held(&self) -> u64;
    /// From when on the task's rate lets another begin.
    fn rate_free_at(&self, task: &TaskView) -> Timestamp;
    /// The largest place among the waves that are open.
    fn open_to_place(&self, task: &TaskView) -> u64;
}

/// What a task has for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Nothing: another task may have something.
    Nothing(Never),
    Wait(Wait),
    /// A person has to be asked first.
    AskPerson(Wait),
    /// A permit is free.
    Free,
}

/// Why a task has nothing for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Never {
    Stopped,
    OutOfScope,
    Done,
    /// Its schedule has ended.
    Over,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict<'a> {
    /// No task is for this device.
    NotForIt,
    Wait(Wait),
    /// This task is for it once a person has said yes; nobody was asked yet.
    AskPerson(&'a Arc<TaskView>, Wait),
    /// This task is for it, now, and a permit is free.
    Free(&'a Arc<TaskView>),
}

/// Picks among the tasks that lead from the device's version, newest first: the first that has something for it decides.
pub(crate) fn choose<'a>(
    candidates: impl Iterator<Item = &'a Arc<TaskView>>,
    device: Asker<'_>,
    standing: impl Fn(TaskNumber) -> Standing,
    figures: &impl Figures,
    limits: &Limits,
    now: Timestamp,
) -> Verdict<'a> {
    for view in candidates {
        match judge(view, device, &standing, figures, limits, now) {
            Judgement::Nothing(_) => {}
            Judgement::Wait(wait) => return Verdict::Wait(wait),
            Judgement::AskPerson(wait) => return Verdict::AskPerson(view, wait),
            Judgement::Free => return Verdict::Free(view),
        }
    }
    Verdict::NotForIt
}

/// The order of the questions is the order in which a "no" is explained: the first that holds is the reason.
pub(crate) fn judge(
    view: &TaskView,
    device: Asker<'_>,
    standing: impl Fn(TaskNumber) -> Standing,
    figures: &impl Figures,
    limits: &Limits,
    now: Timestamp,
) -> Judgement {
    let task = view.row();
    let policy = &task.policy;
    if task.status == TaskStatus::Stopped {
        return Judgement::Nothing(Never::Stopped);
    }
    if !device.row.is_some_and(|row| view.scope().contains(row)) {
        return Judgement::Nothing(Never::OutOfScope);
    }
    let wait = |reason, seconds: u64| Wait { task: task.id, reason, retry_after_s: retry_after_s(seconds) };
    let spread_s = || u64::from(spread_s(limits, task.number, device.number));
    let (ready, was_asked) = match standing(task.number) {
        Standing::Done => return Judgement::Nothing(Never::Done),
        // A person's answer is no use once the schedule is over, so what comes before a person is looked at all the same.
        Standing::Unconfirmed => (Ready::default(), true),
        Standing::Ready(ready) => (ready, false),
    };
    if !ready.forced {
        let open_since = match schedule::window(&policy.schedule, now) {
            Window::Open { since } => since.max(task.changed_at),
            Window::Over => return Judgement::Nothing(Never::Over),
            Window::Opens(at) => {
                // Where there is a delay of its own it is added here, so that the device need ask only once.
                let delay_s = match policy.start_jitter_s {
                    0 => spread_s() / 2,
                    jitter_s => u64::from(start_jitter_s(task.number, device.number, jitter_s)),
                };
                return Judgement::Wait(wait(WaitReason::Schedule, now.seconds_until(at).saturating_add(delay_s)));
            }
        };
        if task.status == TaskStatus::Paused {
            return Judgement::Wait(wait(WaitReason::Paused, spread_s()));
        }
        if policy.approval && !task.approved {
            return Judgement::Wait(wait(WaitReason::Approval, spread_s()));
        }
        if policy.start_jitter_s > 0 {
            let delay_s = start_jitter_s(task.number, device.number, policy.start_jitter_s);
            let begins = open_since.plus_seconds(u64::from(delay_s));
            if now < begins {
                return Judgement::Wait(wait(WaitReason::StartJitter, now.seconds_until(begins)));
            }
        }
        if !task.waves.is_empty() && waves::place(task.number, device.number) > figures.open_to_place(view) {
            return Judgement::Wait(wait(WaitReason::Wave, spread_s()));
        }
        if let Some(until) = ready.not_before.filter(|until| now < *until) {
            return Judgement::Wait(wait(WaitReason::BackOff, now.seconds_until(until)));
        }
    }
    if policy.confirmation && !ready.confirmed {
        let wait = wait(WaitReason::Confirmation, spread_s());
        return if was_asked { Judgement::Wait(wait) } else { Judgement::AskPerson(wait) };
    }
    if !ready.forced && policy.rate.is_some() {
        let free_at = figures.rate_free_at(view);
        if now < free_at {
            return Judgement::Wait(wait(WaitReason::Rate, now.seconds_until(free_at).max(spread_s())));
        }
    }
    let task_is_full = policy.maximum_concurrency.is_some_and(|cap| figures.held_by_task(view) >= u64::from(cap));
    let server_is_full = limits.permits_max.is_some_and(|cap| figures.held() >= u64::from(cap));
    if task_is_full || server_is_full {
        return Judgement::Wait(wait(WaitReason::Cap, spread_s()));
    }
    Judgement::Free
}

/// Longer waits are cut into these: another task may have come for the device meanwhile.
const RETRY_AFTER_S_MAX: u32 = 86_400;

fn retry_after_s(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX).clamp(1, RETRY_AFTER_S_MAX)
}

/// The device that asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub row: Option<&'a Device>,
    pub number: DeviceNumber,
}

/// Seconds to wait for a permit: around the configured ones, but not the same for every device, so that a fleet that was told
/// "no" together doesn't come back together. The same device always gets the same.
fn spread_s(limits: &Limits, task: TaskNumber, device: DeviceNumber) -> u32 {
    let base = limits.cap_retry_after_s.max(1);
    base - base / 2 + below(draw(Draw::Spread, task, device, 0), base.saturating_add(1))
}

/// The device's own delay after the start, below the policy's.
fn start_jitter_s(task: TaskNumber, device: DeviceNumber, jitter_s: u32) -> u32 {
    below(draw(Draw::StartJitter, task, device, 0), jitter_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_a_permit_are_spread_over_half_the_base_to_either_side() {
        let limits = Limits { cap_retry_after_s: 30, ..Limits::default() };
        let waits: std::collections::BTreeSet<u32> =
            (0..10_000).map(|n| spread_s(&limits, TaskNumber(3), DeviceNumber(n))).collect();
        assert_eq!(waits.first(), Some(&15));
        assert_eq!(waits.last(), Some(&45));
        assert_eq!(waits.len(), 31);
    }
}
