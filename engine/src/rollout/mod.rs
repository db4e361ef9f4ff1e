//! Who may start now: scope, schedule, back-off and permits, in that order, as pure functions of what they are given.
//!
//! The decision plane and the writer ask the same [`choose`]; they differ only in where the figures come from. The decision plane
//! gives it what was published and takes [`Verdict::Free`] for "ask the writer"; the writer gives it the truth and grants.

mod schedule;
mod scope;

pub(crate) use schedule::Window;
pub(crate) use scope::CompiledScope;

use crate::index::TaskView;
use crate::limits::Limits;
use crate::model::{Device, DeviceNumber, Retry, TaskNumber, TaskStatus, Timestamp};
use crate::state::{Wait, WaitReason};
use std::sync::Arc;

/// How a device that holds no permit of a task stands with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Never had it, or may have it again.
    Fresh,
    /// Failed, and may try again from this time on.
    BackOff { until: Timestamp },
    /// Its run is over.
    Done,
}

/// The figures that permits are counted by.
pub(crate) trait Permits {
    /// Permits of this task that are held.
    fn held_by_task(&self, task: &TaskView) -> u64;
    /// Permits of the whole server that are held.
    fn held(&self) -> u64;
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict<'a> {
    /// No task is for this device.
    NotForIt,
    Wait(Wait),
    /// This task is for it, now, and a permit is free.
    Free(&'a Arc<TaskView>),
}

/// Picks among the tasks that lead from the device's version, newest first: the first that is for this device decides.
pub(crate) fn choose<'a>(
    candidates: impl Iterator<Item = &'a Arc<TaskView>>,
    device: Asker<'_>,
    standing: impl Fn(TaskNumber) -> Standing,
    permits: &impl Permits,
    limits: &Limits,
    now: Timestamp,
) -> Verdict<'a> {
    for view in candidates {
        let task = view.row();
        if task.status == TaskStatus::Stopped || !device.row.is_some_and(|row| view.scope().contains(row)) {
            continue;
        }
        let wait = |reason, seconds: u64| {
            let seconds = u32::try_from(seconds).unwrap_or(u32::MAX).clamp(1, RETRY_AFTER_S_MAX);
            Verdict::Wait(Wait { task: task.id, reason, retry_after_s: seconds })
        };
        let standing = standing(task.number);
        if standing == Standing::Done {
            continue;
        }
        match schedule::window(&task.policy.schedule, now) {
            Window::Open => {}
            Window::Over => continue,
            Window::Opens(at) => {
                return wait(WaitReason::Schedule, now.seconds_until(at) + u64::from(spread(limits, device.number) / 2));
            }
        }
        if task.status == TaskStatus::Paused {
            return wait(WaitReason::Paused, u64::from(spread(limits, device.number)));
        }
        if let Standing::BackOff { until } = standing
            && now < until
        {
            return wait(WaitReason::BackOff, now.seconds_until(until));
        }
        let task_is_full = task.policy.maximum_concurrency.is_some_and(|cap| permits.held_by_task(view) >= u64::from(cap));
        let server_is_full = limits.permits_max.is_some_and(|cap| permits.held() >= u64::from(cap));
        if task_is_full || server_is_full {
            return wait(WaitReason::Cap, u64::from(spread(limits, device.number)));
        }
        return Verdict::Free(view);
    }
    Verdict::NotForIt
}

/// Longer waits are cut into these: another task may have come for the device meanwhile.
const RETRY_AFTER_S_MAX: u32 = 86_400;

/// The device that asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub row: Option<&'a Device>,
    pub number: DeviceNumber,
}

/// Seconds to wait for a permit: around the configured ones, but not the same for every device, so that a fleet that was told
/// "no" together doesn't come back together. The same device always gets the same.
fn spread(limits: &Limits, device: DeviceNumber) -> u32 {
    let base = limits.cap_retry_after_s.max(1);
    // Fibonacci hashing: consecutive numbers land far apart.
    let scattered = device.0.wrapping_mul(0x9E37_79B9) >> 16;
    base - base / 2 + ((u64::from(scattered) * u64::from(base + 1)) >> 16) as u32
}

/// What becomes of an attempt that failed or missed its deadline: when the next one may begin, if there is one left.
pub(crate) fn next_attempt(retry: Option<Retry>, attempts: u32, now: Timestamp) -> Option<Timestamp> {
    let retry = retry?;
    let left = retry.count == u32::MAX || attempts <= retry.count;
    left.then(|| now.plus_seconds(u64::from(retry.interval_s)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_end_after_the_retries_of_the_policy() {
        let now = Timestamp::from_seconds(1000);
        let retry = Some(Retry { count: 2, interval_s: 60 });
        assert_eq!(next_attempt(None, 1, now), None);
        assert_eq!(next_attempt(retry, 1, now), Some(Timestamp::from_seconds(1060)));
        assert_eq!(next_attempt(retry, 2, now), Some(Timestamp::from_seconds(1060)));
        assert_eq!(next_attempt(retry, 3, now), None);
        let endless = Some(Retry { count: u32::MAX, interval_s: 0 });
        assert_eq!(next_attempt(endless, u32::MAX, now), Some(now));
    }

    #[test]
    fn waits_for_a_permit_are_spread_over_half_the_base_to_either_side() {
        let limits = Limits { cap_retry_after_s: 30, ..Limits::default() };
        let waits: std::collections::BTreeSet<u32> = (0..10_000).map(|n| spread(&limits, DeviceNumber(n))).collect();
        assert_eq!(waits.first(), Some(&15));
        assert_eq!(waits.last(), Some(&45));
        assert_eq!(waits.len(), 31);
    }
}
