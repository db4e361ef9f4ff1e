//! Attempts: offered, going on, ended, and what follows from an end.

use super::happened::Turn;
use super::{Held, Offered, Oracle, Run, broken, require};
use crate::model::*;
use std::sync::Arc;

impl Oracle {
    /// A permit is granted: never one too many, never the second of an attempt.
    pub(super) fn offered(&mut self, number: usize, device: usize, version: &Arc<str>, event: &Event, at: Timestamp) -> Held {
        let Some(id) = event.upgrade_id else { return broken("an offer has an id", format!("{event:?}")) };
        require("an offer has an id of its own", id.offer == event.sequence && !self.offers.contains_key(&id), || {
            format!("{event:?}")
        })?;
        let default_timeout_s = self.limits.default_timeout_s;
        let Some(known) = self.devices[device].as_mut() else { return broken("events are of what is there", format!("{event:?}")) };
        let is_its_own = known.number.is_none_or(|number| number == id.device) && self.tasks[&number].id.number == id.task;
        require("an offer has an id of its own", is_its_own, || format!("{event:?} of number {:?}", known.number))?;
        known.number = Some(id.device);
        self.offers.insert(id, Offered { life: known.life, has_ended: false });
        self.offers_of.entry((number, device)).or_default().push(id);
        let Some(task) = self.tasks.get_mut(&number) else { return Ok(()) };
        let before = task.runs.remove(&device);
        let live = before.as_ref().filter(|run| run.is_live());
        let had_one = live.is_some_and(|run| run.state.holds_permit());
        require("one permit for a device", !had_one, || format!("{before:?} is offered again: {event:?}"))?;
        let run = match live {
            Some(run) => run.clone(),
            None => Run::blank(Arc::clone(version), before.as_ref().is_some_and(Run::has_succeeded)),
        };
        task.notified += u64::from(!run.was_offered);
        let timeout_s = u64::from(task.policy.timeout_s.unwrap_or(default_timeout_s));
        let run = Run {
            state: UpgradeState::Offered,
            attempts: run.attempts + 1,
            id: Some(id),
            from: Arc::clone(version),
            percent: 0,
            deadline: (task.policy.timeout_from == TimeoutFrom::Offer).then(|| at.plus_seconds(timeout_s)),
            not_before: None,
            forced: false,
            was_offered: true,
            succeeded_before: before.as_ref().is_some_and(Run::has_succeeded),
            ..run
        };
        task.runs.insert(device, run);
        let second = at.as_seconds();
        task.starts.retain(|start| start + 60 > second);
        task.starts.push(second);
        let (cap, held) = (task.policy.maximum_concurrency, self.held_by(number));
        require("the cap is never exceeded", cap.is_none_or(|cap| held <= u64::from(cap)), || {
            format!("{held} hold a permit of {cap:?}")
        })?;
        let (cap, held) = (self.limits.permits_max, self.held());
        require("the cap is never exceeded", cap.is_none_or(|cap| held <= u64::from(cap)), || {
            format!("{held} on the server of {cap:?}")
        })
    }

    pub(super) fn progressed(&mut self, number: usize, device: usize, state: UpgradeState, at: Timestamp, event: &Event) -> Held {
        let default_timeout_s = self.limits.default_timeout_s;
        let Some(task) = self.tasks.get_mut(&number) else { return Ok(()) };
        let Some(run) = task.runs.get_mut(&device) else { return broken("events follow from commands", format!("{event:?}")) };
        require("events name their attempt", event.upgrade_id == run.id, || format!("{event:?} of {run:?}"))?;
        let timeout_s = u64::from(task.policy.timeout_s.unwrap_or(default_timeout_s));
        run.state = state;
        run.percent = event.percent.unwrap_or(0);
        if run.deadline.is_none() && task.policy.timeout_from == TimeoutFrom::Running {
            run.deadline = Some(at.plus_seconds(timeout_s));
        }
        Ok(())
    }

    /// An attempt has ended, or a run that had none.
    pub(super) fn ended(&mut self, number: usize, device: usize, state: UpgradeState, turn: &Turn, event: &Event) -> Held {
        let Some(before) = self.run(number, device).cloned() else {
            return broken("events follow from commands", format!("no run: {event:?}"));
        };
        require("a result counts once", before.is_live() && event.upgrade_id == before.id, || format!("{event:?} of {before:?}"))?;
        if let Some(id) = before.id.filter(|_| before.state.holds_permit()) {
            let offer = self.offers.get_mut(&id).filter(|offer| !offer.has_ended);
            let Some(offer) = offer else { return broken("a result counts once", format!("{event:?} of {before:?}")) };
            offer.has_ended = true;
        }
        let failure = match state {
            UpgradeState::Failed => Some(FailureKind::Failed),
            UpgradeState::Rejected => Some(FailureKind::Rejected),
            UpgradeState::TimedOut => Some(FailureKind::TimedOut),
            _ => None,
        };
        let again = self.retry_after(number, device, failure, &before, turn);
        let told = event.extra.get("retry_at_ms").and_then(|at| at.parse().ok()).map(Timestamp);
        let is_as_asked = match (again, told) {
            (None, None) => true,
            (Some((least_s, most_s)), Some(told)) => (turn.at.plus_seconds(least_s)..=turn.at.plus_seconds(most_s)).contains(&told),
            _ => false,
        };
        require("retries as the policy says", is_as_asked, || format!("{again:?} was asked for: {event:?} of {before:?}"))?;
        let Some(task) = self.tasks.get_mut(&number) else { return Ok(()) };
        let is_canceled = state == UpgradeState::Canceled;
        let run = Run {
            state: if told.is_some() { UpgradeState::Waiting } else { state },
            percent: if state == UpgradeState::Succeeded { 100 } else { before.percent },
            deadline: None,
            not_before: told,
            forced: false,
            failure: if is_canceled { before.failure } else { failure },
            ..before.clone()
        };
        task.runs.insert(device, run);
        if is_canceled {
            return Ok(());
        }
        if state == UpgradeState::Succeeded {
            self.open_waves(number);
        }
        self.watch(number, state == UpgradeState::Succeeded, before.failure.is_none());
        Ok(())
    }

    /// Seconds until the next attempt, at least and at most.
    fn retry_after(
        &self,
        number: usize,
        device: usize,
        failure: Option<FailureKind>,
        before: &Run,
        turn: &Turn,
    ) -> Option<(u64, u64)> {
        let task = &self.tasks[&number];
        let retry = task.policy.retry.as_ref().filter(|_| !task.canceled)?;
        let is_for_it = match failure? {
            FailureKind::TimedOut => true,
            FailureKind::Failed => retry.codes.is_empty() || turn.code.is_some_and(|code| retry.codes.contains(&code)),
            FailureKind::Rejected => false,
        };
        let has_left = task.policy.version_decides && !self.is_at_start(task, device);
        if !is_for_it || has_left || retry.count != u32::MAX && before.attempts > retry.count {
            return None;
        }
        let mut interval_s = u64::from(retry.interval_s);
        if let Some(back_off) = retry.back_off {
            for _ in 1..before.attempts {
                interval_s = (interval_s * u64::from(back_off.factor_percent) / 100).min(u64::from(back_off.interval_max_s));
            }
        }
        Some((interval_s, interval_s + u64::from(retry.jitter_s)))
    }

    /// Devices that have succeeded, and those whose newest ended attempt went wrong, by kind.
    pub(super) fn tally(&self, number: usize) -> (u64, [u64; FailureKind::ALL.len()]) {
        let (mut succeeded, mut failures) = (0, [0; FailureKind::ALL.len()]);
        for run in self.tasks[&number].runs.values() {
            let kind = match run.state {
                UpgradeState::Succeeded => {
                    succeeded += 1;
                    None
                }
                UpgradeState::Canceled => None,
                _ => run.failure,
            };
            kind.into_iter().for_each(|kind| failures[kind as usize] += 1);
        }
        (succeeded, failures)
    }

    /// A wave is due at the very success that opens it.
    pub(super) fn open_waves(&mut self, number: usize) {
        let task = &self.tasks[&number];
        if task.is_blurred {
            return;
        }
        let successes: Option<Vec<usize>> =
            task.runs.iter().filter(|(_, run)| run.has_succeeded()).map(|(device, _)| self.wave_of(task, *device)).collect();
        let (is_blurred, successes) = (!task.waves.is_empty() && successes.is_none(), successes.unwrap_or_default());
        let Some(task) = self.tasks.get_mut(&number) else { return };
        task.is_blurred = is_blurred;
        while task.wave_open + 1 < task.waves.len() {
            let needed = task.waves[task.wave_open].successes as usize;
            if is_blurred || successes.iter().filter(|wave| **wave == task.wave_open).count() < needed {
                return;
            }
            task.wave_open += 1;
            task.waves_owed += 1;
        }
    }

    /// A threshold is due at the very result that reaches it: a failure, or the success that makes up the minimum.
    fn watch(&mut self, number: usize, after_success: bool, is_new: bool) {
        let (succeeded, failures) = self.tally(number);
        let Some(task) = self.tasks.get_mut(&number).filter(|task| task.status != TaskStatus::Stopped) else { return };
        let all: u64 = failures.iter().sum();
        let results = succeeded + all;
        let is_reached = |threshold: &&Threshold| {
            let own = threshold.kind.map_or(all, |kind| failures[kind as usize]);
            let is_due = !after_success || is_new && results == u64::from(threshold.minimum);
            is_due && own > 0 && results >= u64::from(threshold.minimum) && own * 100 >= results * u64::from(threshold.percent)
        };
        let reached: Vec<ThresholdAction> =
            task.policy.thresholds.iter().filter(is_reached).map(|threshold| threshold.action).collect();
        if reached.contains(&ThresholdAction::Cancel) {
            task.stop_owed = Some(ThresholdAction::Cancel);
        } else if !reached.is_empty() && task.status == TaskStatus::Started {
            task.stop_owed = Some(ThresholdAction::Pause);
        }
    }
}
