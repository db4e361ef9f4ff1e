//! What devices send: checks, reports, versions.

use super::super::steps::{CheckStep, component, product_of};
use super::happened::{Due, Turn};
use super::{Expected, Held, Known, Oracle, Run, broken, require, told};
use crate::error::{Entity, Error};
use crate::model::*;
use crate::state::{Decision, Outcome, WaitReason};
use std::sync::Arc;

impl Oracle {
    pub(super) fn check(
        &mut self,
        check: &CheckStep,
        mut turn: Turn,
        outcome: &Result<Outcome, Error>,
        events: &[Arc<Event>],
    ) -> Held {
        let CheckStep { device, second, version, preview, register, .. } = *check;
        if self.devices[device].is_none() && !(register && preview) {
            if !register {
                require("who isn't there isn't answered", is_not_found(outcome), || format!("d{device}: {outcome:?}"))?;
                return self.happen(turn, events);
            }
            self.register(device);
        }
        let Ok(Outcome::Decision(decision)) = outcome else {
            return broken("a check is answered", format!("d{device}: {outcome:?}"));
        };
        if preview {
            // What a newcomer would be told is only looked at for that it leaves nothing.
            if self.devices[device].is_some() {
                let expected = self.expect(check, turn.at);
                self.compare(check, &expected, decision)?;
            }
            return self.happen(turn, events);
        }
        let version: Arc<str> = version.into();
        self.arrive(device, component(second), &version, &mut turn);
        // First what its version ends, then the answer, then what is sent to others.
        let is_begin = |event: &Arc<Event>| {
            event.kind == EventKind::Offered
                || event.kind == EventKind::Progress && event.state == Some(UpgradeState::AwaitingConfirmation)
        };
        let (before, rest) = events.split_at(events.iter().position(is_begin).unwrap_or(events.len()));
        let at = turn.at;
        self.happen(turn, before)?;
        let expected = self.expect(check, at);
        self.compare(check, &expected, decision)?;
        let begins = match (&expected, decision) {
            (Expected::Free { .. }, Decision::Offer(_)) => true,
            (Expected::AskPerson { .. }, Decision::Wait(wait)) => wait.reason == WaitReason::Confirmation,
            _ => false,
        };
        let (answer, rest) = if begins { (rest.first(), rest.get(1..).unwrap_or_default()) } else { (None, rest) };
        self.begin(check, &expected, decision, answer, at)?;
        self.happen(Turn::new(at), rest)
    }

    /// What begins with a check leaves an event, and is told as it is kept.
    fn begin(
        &mut self,
        check: &CheckStep,
        expected: &Expected,
        decision: &Decision,
        answer: Option<&Arc<Event>>,
        at: Timestamp,
    ) -> Held {
        let (device, version) = (check.device, Arc::from(check.version));
        let is_of = |task: usize, event: &Event| {
            event.task_id == Some(self.tasks[&task].id) && event.device_id.as_deref() == Some(format!("d{device}").as_str())
        };
        match (expected, decision, answer) {
            (Expected::Free { task, .. }, Decision::Offer(offer), Some(event)) if is_of(*task, event) => {
                self.offered(*task, device, &version, event, at)?;
                let run = self.run(*task, device);
                let is_told = offer.id == event.upgrade_id && run.is_some_and(|run| run.deadline == offer.deadline);
                require("an offer is told as it is kept", is_told, || format!("{}, {event:?}, {run:?}", told(decision)))
            }
            (Expected::AskPerson { task, .. }, Decision::Wait(wait), Some(event))
                if wait.reason == WaitReason::Confirmation && is_of(*task, event) =>
            {
                let run = self.begun_run(*task, device);
                let run = Run { state: UpgradeState::AwaitingConfirmation, ..run };
                self.put_run(*task, device, run);
                Ok(())
            }
            (Expected::Free { .. }, Decision::Offer(_), _) => broken("an offer is an event", format!("d{device}: {answer:?}")),
            (Expected::AskPerson { .. }, Decision::Wait(wait), None) if wait.reason == WaitReason::Confirmation => {
                broken("a person is asked", format!("d{device} waits for nobody"))
            }
            (_, _, None) => Ok(()),
            (_, _, Some(event)) => broken("events follow from commands", format!("d{device} is told {decision:?}: {event:?}")),
        }
    }

    fn register(&mut self, device: usize) {
        self.products.insert(product_of(device));
        self.lives += 1;
        self.devices[device] = Some(Known { life: self.lives, number: self.numbers[device], ..Known::default() });
    }

    /// Finds the device, or lets it come into being.
    fn is_there(&mut self, device: usize, register: bool, outcome: &Result<Outcome, Error>) -> Held<bool> {
        if self.devices[device].is_none() {
            if !register {
                require("who isn't there isn't answered", is_not_found(outcome), || format!("d{device}: {outcome:?}"))?;
                return Ok(false);
            }
            self.register(device);
        }
        Ok(true)
    }

    fn record_version(&mut self, device: usize, component: Component, version: &Arc<str>) {
        if let Some(known) = &mut self.devices[device] {
            known.versions.insert(component, Arc::clone(version));
        }
    }

    /// A component of a device runs this version, and that ends some runs.
    fn arrive(&mut self, device: usize, component: Component, version: &Arc<str>, turn: &mut Turn) {
        self.record_version(device, component, version);
        self.note_arrival(device, component, version, turn);
    }

    pub(super) fn note_arrival(&self, device: usize, component: Component, version: &str, turn: &mut Turn) {
        for (number, task) in self.tasks.iter().filter(|(_, task)| task.component == component) {
            let Some(run) = task.runs.get(&device).filter(|run| run.is_live()) else { continue };
            let (holds, decides) = (run.state.holds_permit(), task.policy.version_decides);
            let state = if *task.to == *version {
                (!holds || decides).then_some(UpgradeState::Succeeded)
            } else if holds {
                (decides && *run.from != *version).then_some(UpgradeState::Failed)
            } else {
                (decides && run.attempts > 0 && !task.from.contains(&version)).then_some(UpgradeState::Failed)
            };
            turn.due.extend(state.map(|state| Due::Result { task: *number, device, state }));
        }
    }

    /// The run as it would go on: what it is, or a new one.
    pub(super) fn begun_run(&self, task: usize, device: usize) -> Run {
        let (run, ordered) = (self.run(task, device), &self.tasks[&task]);
        if let Some(run) = run.filter(|run| run.is_live()) {
            return run.clone();
        }
        let version = self.devices[device].as_ref().and_then(|known| known.versions.get(&ordered.component)).cloned();
        Run::blank(version.unwrap_or_default(), run.is_some_and(Run::has_succeeded))
    }

    pub(super) fn put_run(&mut self, task: usize, device: usize, run: Run) {
        if let Some(task) = self.tasks.get_mut(&task) {
            task.runs.insert(device, run);
        }
    }

    /// A report counts once, and only of the attempt that goes on.
    pub(super) fn report(
        &mut self,
        device: usize,
        upgrade: Option<UpgradeId>,
        state: ReportedState,
        percent: Option<u8>,
        turn: &mut Turn,
        outcome: &Result<Outcome, Error>,
    ) -> Held {
        let Some(id) = upgrade else { return broken("the simulation", "a report of nothing") };
        let life = self.devices[device].as_ref().map(|known| known.life);
        let is_its_own = self.offers.get(&id).is_some_and(|offer| Some(offer.life) == life);
        let task = self.tasks.iter().find(|(_, task)| task.id.number == id.task).map(|(number, task)| (*number, task.id));
        let run = task.filter(|_| is_its_own).and_then(|(number, _)| self.run(number, device)).cloned();
        let (Some((number, task_id)), Some(run)) = (task, run) else {
            return require("a report of another's attempt is refused", is_not_found(outcome), || {
                format!("d{device}, {id}: {outcome:?}")
            });
        };
        let due = self.moved(number, device, &run, id, state, percent);
        let is_answered =
            matches!(outcome, Ok(Outcome::Reported(told)) if told.changed == due.is_some() && told.task == Some(task_id));
        require("a report counts once", is_answered, || {
            format!("d{device} reports {state:?} of {id}, which is due {due:?}: {outcome:?}; {run:?}")
        })?;
        self.note_result(device, number, due.as_ref());
        turn.due.extend(due);
        Ok(())
    }

    /// A success says what the device runs.
    fn note_result(&mut self, device: usize, number: usize, due: Option<&Due>) {
        if let Some(Due::Result { state: UpgradeState::Succeeded, .. }) = due {
            let task = &self.tasks[&number];
            let (component, to) = (task.component, Arc::clone(&task.to));
            self.record_version(device, component, &to);
        }
    }

    /// What a report in this state comes to, if to anything.
    fn moved(&self, task: usize, device: usize, run: &Run, id: UpgradeId, said: ReportedState, percent: Option<u8>) -> Option<Due> {
        if run.id != Some(id) || !run.state.holds_permit() {
            return None;
        }
        let (state, paused) = (said.state(), UpgradeState::Paused);
        if state.is_finished() {
            return Some(Due::Result { task, device, state });
        }
        let goes_on = state != run.state && (state == paused || run.state == paused || state > run.state);
        let gets_on = state == run.state && percent.is_some_and(|percent| percent > run.percent);
        let stays = if gets_on { run.percent } else { 0 };
        (goes_on || gets_on).then(|| Due::Progress { task, device, state, percent: percent.unwrap_or(stays) })
    }

    /// Bytes that were served are progress while the device has said no more.
    pub(super) fn served(
        &mut self,
        upgrade: Option<UpgradeId>,
        percent: u8,
        turn: &mut Turn,
        outcome: &Result<Outcome, Error>,
    ) -> Held {
        let Some(id) = upgrade else { return broken("the simulation", "bytes of nothing") };
        let task = self.tasks.iter().find(|(_, task)| task.id.number == id.task);
        let run = task.and_then(|(number, task)| {
            let run = task.runs.iter().find(|(_, run)| run.id == Some(id))?;
            matches!(run.1.state, UpgradeState::Offered | UpgradeState::Downloading).then_some((*number, *run.0, run.1))
        });
        let due =
            run.and_then(|(number, device, run)| self.moved(number, device, run, id, ReportedState::Downloading, Some(percent)));
        let task_id = task.map(|(_, task)| task.id);
        let is_answered = matches!(outcome, Ok(Outcome::Reported(told)) if told.changed == due.is_some() && told.task == task_id);
        require("a report counts once", is_answered, || format!("{percent} % of {id}, due {due:?}: {outcome:?}"))?;
        turn.due.extend(due);
        Ok(())
    }

    /// A result told by versions alone: of the task that leads from the one to the other, the one that runs first, else the newest.
    #[expect(clippy::too_many_arguments, reason = "as many as the step says")]
    pub(super) fn report_version(
        &mut self,
        device: usize,
        second: bool,
        (from, to): (&str, &str),
        state: UpgradeState,
        register: bool,
        turn: &mut Turn,
        outcome: &Result<Outcome, Error>,
    ) -> Held {
        if !self.is_there(device, register, outcome)? {
            return Ok(());
        }
        let (component, version): (Component, Arc<str>) = (component(second), to.into());
        let succeeded = state == UpgradeState::Succeeded;
        let concerns = |task: &super::Ordered| task.runs.contains_key(&device) || self.is_in_scope(task, device);
        let leads = |task: &super::Ordered| {
            task.product == product_of(device) && task.component == component && task.from.contains(&from) && *task.to == *to
        };
        let own: Vec<usize> =
            self.tasks.iter().rev().filter(|(_, task)| leads(task) && concerns(task)).map(|(number, _)| *number).collect();
        let holds = |task: &&usize| self.run(**task, device).is_some_and(|run| run.state.holds_permit());
        let task = own.iter().find(holds).or(own.first()).copied();
        let (due, id) = match task {
            None => (Some(Due::Untasked { device, state }), None),
            Some(task) => {
                let counts = match self.run(task, device) {
                    None => true,
                    Some(run) if run.is_live() => succeeded || run.state.holds_permit(),
                    Some(run) => succeeded && run.state != UpgradeState::Succeeded,
                };
                if counts && self.run(task, device).is_none_or(|run| !run.is_live()) {
                    // It began without asking; that was an attempt all the same.
                    let run = Run { attempts: 1, from: from.into(), ..self.begun_run(task, device) };
                    self.put_run(task, device, run);
                }
                (counts.then_some(Due::Result { task, device, state }), Some(self.tasks[&task].id))
            }
        };
        let is_answered = matches!(outcome, Ok(Outcome::Reported(told)) if told.changed == due.is_some() && told.task == id);
        require("a report counts once", is_answered, || format!("d{device}: {from} -> {to}, due {due:?}: {outcome:?}"))?;
        if succeeded && due.is_some() {
            self.record_version(device, component, &version);
        }
        turn.due.extend(due);
        Ok(())
    }

    pub(super) fn note_version(
        &mut self,
        device: usize,
        second: bool,
        version: &str,
        register: bool,
        turn: &mut Turn,
        outcome: &Result<Outcome, Error>,
    ) -> Held {
        if !self.is_there(device, register, outcome)? {
            return Ok(());
        }
        require("a version is noted", matches!(outcome, Ok(Outcome::Done)), || format!("d{device}: {outcome:?}"))?;
        self.arrive(device, component(second), &version.into(), turn);
        Ok(())
    }

    /// The clock has ticked: what was due has happened, and the next time is no later than the next deadline.
    pub(super) fn ticked(&mut self, at: Timestamp, outcome: &Result<Outcome, Error>, events: usize) -> Held {
        /// So much is left to the next tick.
        const PORTION: usize = 1_000;
        let Ok(Outcome::Ticked(next)) = outcome else { return broken("a tick is answered", format!("{outcome:?}")) };
        let ended_hour = at.as_seconds() / 3_600;
        self.tokens.retain(|_, token| token.expires_at.as_seconds() / 3_600 >= ended_hour);
        let held = self.tasks.iter().flat_map(|(task, ordered)| ordered.runs.iter().map(move |(device, run)| (task, device, run)));
        let first = held.filter_map(|(task, device, run)| Some((run.deadline?, task, device))).min();
        let Some((deadline, task, device)) = first else { return Ok(()) };
        let is_in_time = deadline > at || events >= PORTION;
        require("a deadline ends an attempt", is_in_time, || {
            format!("d{device} holds a permit of task {task} beyond {deadline} at {at}")
        })?;
        let is_told = next.is_some_and(|next| next <= deadline);
        require("a deadline ends an attempt", is_told, || format!("the next tick is {next:?}, the next deadline {deadline}"))
    }
}

pub(super) fn is_not_found(outcome: &Result<Outcome, Error>) -> bool {
    matches!(outcome, Err(Error::NotFound { entity: Entity::Device | Entity::Product | Entity::Upgrade, .. }))
}
