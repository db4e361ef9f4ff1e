//! Events: each has to follow from the command that left it, and moves what the oracle knows.

use super::super::steps::{Step, product_of};
use super::{Held, Oracle, Run, broken, require};
use crate::error::Error;
use crate::model::*;
use crate::state::Outcome;
use std::sync::Arc;

/// What a command has to leave an event of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Due {
    Created {
        task: usize,
    },
    Status {
        task: usize,
        status: TaskStatus,
    },
    Result {
        task: usize,
        device: usize,
        state: UpgradeState,
    },
    /// Something is reported that belongs to no task.
    Untasked {
        device: usize,
        state: UpgradeState,
    },
    Progress {
        task: usize,
        device: usize,
        state: UpgradeState,
        percent: u8,
    },
}

/// One command, and what is still due of it.
#[derive(Debug)]
pub(super) struct Turn {
    pub at: Timestamp,
    pub due: Vec<Due>,
    /// What a device called its failure.
    pub code: Option<i32>,
    pub is_tick: bool,
}

impl Turn {
    pub(super) fn new(at: Timestamp) -> Self {
        Self { at, due: Vec::new(), code: None, is_tick: false }
    }
}

impl Oracle {
    /// A command is durable: what will be told of it, and the events that it left.
    pub(in super::super) fn apply(
        &mut self,
        step: &Step,
        upgrade: Option<UpgradeId>,
        at: Timestamp,
        outcome: &Result<Outcome, Error>,
        events: &[Arc<Event>],
    ) -> Held {
        if let Err(Error::Store(error)) = outcome {
            return require("what is refused leaves nothing", events.is_empty(), || format!("{error} left {events:?}"));
        }
        require("time goes on", at >= self.now, || format!("{at} after {}", self.now))?;
        self.now = at;
        let mut turn = Turn::new(at);
        match step {
            Step::Check(check) => return self.check(check, turn, outcome, events),
            Step::Report { device, state, percent, code, .. } => {
                turn.code = *code;
                self.report(*device, upgrade, *state, *percent, &mut turn, outcome)?;
            }
            Step::Served { percent, .. } => self.served(upgrade, *percent, &mut turn, outcome)?,
            Step::ReportVersion { device, second, from, to, succeeded, register } => {
                let ending = if *succeeded { UpgradeState::Succeeded } else { UpgradeState::Failed };
                self.report_version(*device, *second, (from, to), ending, *register, &mut turn, outcome)?;
            }
            Step::NoteVersion { device, second, version, register } => {
                self.note_version(*device, *second, version, *register, &mut turn, outcome)?;
            }
            Step::Connect { gateway, epoch, together_max, .. } => self.connect(*gateway, *epoch, *together_max, outcome)?,
            Step::Disconnect { gateway, epoch } => self.disconnect(*gateway, *epoch),
            Step::PutDevice { device, versions, groups, ring } => {
                self.put_device(*device, versions, groups, *ring, &mut turn, outcome)?
            }
            Step::DeleteDevice { device } => self.delete_device(*device, outcome)?,
            Step::DeleteProduct { product } => self.delete_product(*product, outcome)?,
            Step::CreateFirmware { firmware, product, second, version } => {
                self.create_firmware(*firmware, *product, *second, version, outcome)?;
            }
            Step::DeleteFirmware { firmware } => self.delete_firmware(*firmware, outcome)?,
            Step::CreateTask(plan) => self.create_task(plan, &mut turn, outcome)?,
            Step::ActOnTask { task, action, strict } => self.act_on_task(*task, *action, *strict, &mut turn, outcome)?,
            Step::DeleteTask { task, strict } => {
                let is_deleted = self.delete_task(*task, *strict, &mut turn, outcome)?;
                let (of_it, rest) = events.split_at(turn.due.len().min(events.len()));
                self.happen(turn, of_it)?;
                if is_deleted {
                    self.tasks.remove(task);
                }
                return self.happen(Turn::new(at), rest);
            }
            Step::ActOnUpgrades { task, devices, action, strict } => {
                self.act_on_upgrades(*task, devices, *action, *strict, &mut turn, outcome)?;
            }
            Step::PutToken { token, product, device, lives_s } => {
                self.put_token(*token, *product, *device, *lives_s, at, outcome)?
            }
            Step::RevokeToken { token, organization } => self.revoke_token(*token, *organization, outcome)?,
            Step::Tick => {
                turn.is_tick = true;
                self.happen(turn, events)?;
                return self.ticked(at, outcome, events.len());
            }
            Step::Pass { .. }
            | Step::Write
            | Step::FailCommit { .. }
            | Step::Read
            | Step::PowerCut
            | Step::Restart
            | Step::Audit => return broken("the simulation", format!("{step:?} is no command")),
        }
        self.happen(turn, events)
    }

    /// Each event is one that is due, or follows from one.
    pub(super) fn happen(&mut self, mut turn: Turn, events: &[Arc<Event>]) -> Held {
        for event in events {
            self.event(&mut turn, event)?;
        }
        require("what is due leaves an event", turn.due.is_empty(), || format!("without an event: {:?}", turn.due))?;
        self.nothing_is_owed()
    }

    /// What follows from something follows in the same command.
    fn nothing_is_owed(&self) -> Held {
        for (number, task) in &self.tasks {
            let owes = (task.stop_owed, task.waves_owed);
            require("thresholds and waves at once", owes == (None, 0), || format!("task {number} owes {owes:?}"))?;
        }
        Ok(())
    }

    fn event(&mut self, turn: &mut Turn, event: &Event) -> Held {
        let device = self.device_of(event)?;
        let Some(id) = event.task_id else {
            let due = device.zip(event.state).map(|(device, state)| Due::Untasked { device, state });
            return self.take(turn, due, event);
        };
        let number = self.tasks.iter().find(|(_, task)| task.id == id).map(|(number, task)| (*number, task.product));
        let Some((task, product)) = number else { return broken("events are of what is there", format!("{event:?}")) };
        let (organization, product_id) = Self::name_of(product);
        let is_named = *event.organization == *organization && *event.product_id == *product_id;
        require("events name their product", is_named && device.is_none_or(|device| product_of(device) == product), || {
            format!("{event:?}")
        })?;
        match (event.kind, device, event.state) {
            (EventKind::TaskCreated, None, _) => self.take(turn, Some(Due::Created { task }), event),
            (EventKind::TaskStarted | EventKind::TaskStopped, None, _) => {
                let status = status_of(event);
                let is_started = event.kind == EventKind::TaskStarted;
                require("events say what happened", is_started == (status == TaskStatus::Started), || format!("{event:?}"))?;
                self.take(turn, Some(Due::Status { task, status }), event)?;
                self.status_changed(task, status, turn.at);
                Ok(())
            }
            (EventKind::TaskFinished, None, _) => self.finished(task, turn.at),
            (EventKind::Threshold, None, _) => self.threshold(task, turn, event),
            (EventKind::Offered, Some(device), _)
            | (EventKind::Progress, Some(device), Some(UpgradeState::AwaitingConfirmation)) => self.pushed(device, event, turn.at),
            (EventKind::Progress, Some(device), Some(state)) => {
                let due = Due::Progress { task, device, state, percent: event.percent.unwrap_or(0) };
                self.take(turn, Some(due), event)?;
                self.progressed(task, device, state, turn.at, event)
            }
            (EventKind::Result, Some(device), Some(state)) => self.result(turn, task, device, state, event),
            _ => broken("events follow from commands", format!("out of place: {event:?}")),
        }
    }

    fn result(&mut self, turn: &mut Turn, task: usize, device: usize, state: UpgradeState, event: &Event) -> Held {
        let due = Due::Result { task, device, state };
        if !turn.due.contains(&due) {
            let run = self.run(task, device);
            let is_overdue = run.and_then(|run| run.deadline).is_some_and(|deadline| deadline <= turn.at);
            let may = match state {
                UpgradeState::TimedOut => turn.is_tick && is_overdue,
                // Of a canceled task, by whatever command comes upon it.
                UpgradeState::Canceled => self.tasks[&task].canceled && run.is_some_and(|run| run.is_live()),
                _ => false,
            };
            require("a result counts once", may, || format!("out of place: {event:?}, of {run:?}; due: {:?}", turn.due))?;
        } else if state != UpgradeState::Canceled {
            self.nothing_is_owed()?;
        }
        turn.due.retain(|other| *other != due);
        self.ended(task, device, state, turn, event)
    }

    fn take(&mut self, turn: &mut Turn, due: Option<Due>, event: &Event) -> Held {
        match turn.due.iter().position(|other| Some(other) == due.as_ref()) {
            Some(place) => {
                turn.due.remove(place);
                Ok(())
            }
            None => broken("events follow from commands", format!("{event:?}; due: {:?}", turn.due)),
        }
    }

    fn device_of(&self, event: &Event) -> Held<Option<usize>> {
        let Some(id) = &event.device_id else { return Ok(None) };
        let device =
            id.strip_prefix('d').and_then(|number| number.parse::<usize>().ok()).filter(|device| *device < self.devices.len());
        match device {
            Some(device) => Ok(Some(device)),
            None => broken("events are of what is there", format!("{event:?}")),
        }
    }

    fn threshold(&mut self, number: usize, turn: &mut Turn, event: &Event) -> Held {
        let told = |key: &str| event.extra.get(key).map(|value| &**value);
        let Some(task) = self.tasks.get_mut(&number) else { return Ok(()) };
        if told("threshold") == Some("wave") {
            if task.is_blurred {
                task.wave_open += 1;
                return Ok(());
            }
            require("waves open in order", task.waves_owed > 0, || format!("none is due: {event:?}"))?;
            task.waves_owed -= 1;
            return Ok(());
        }
        let owed = task.stop_owed.take();
        let (succeeded, failures) = self.tally(number);
        let failures: u64 = failures.iter().sum();
        let results = (succeeded + failures).to_string();
        let is_it = owed.is_some_and(|action| told("action") == Some(action.name())) && told("results") == Some(&results);
        require("thresholds and waves at once", is_it, || format!("{owed:?} was due of {results} results: {event:?}"))?;
        let Some(task) = self.tasks.get_mut(&number) else { return Ok(()) };
        let status = match owed {
            Some(ThresholdAction::Cancel) => {
                task.canceled = true;
                TaskStatus::Stopped
            }
            _ => TaskStatus::Paused,
        };
        turn.due.push(Due::Status { task: number, status });
        Ok(())
    }

    fn status_changed(&mut self, number: usize, status: TaskStatus, at: Timestamp) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        let canceled = task.canceled && status != TaskStatus::Started;
        if canceled != task.canceled {
            task.finished_at = None;
        }
        task.canceled = canceled;
        task.status = status;
        task.changed_at = at;
    }

    /// Nothing of it runs, and nobody can begin any more.
    fn finished(&mut self, number: usize, at: Timestamp) -> Held {
        let task = &self.tasks[&number];
        let is_over = task.policy.schedule.end.is_some_and(|end| end <= at);
        let forced = task.runs.iter().any(|(device, run)| run.is_live() && run.forced && self.is_at_start(task, *device));
        let can_begin = |device: usize| {
            let run = task.runs.get(&device);
            run.is_none_or(Run::is_live) && self.is_at_start(task, device) && self.is_in_scope(task, device)
        };
        let may = if task.canceled {
            !task.runs.values().any(Run::is_live)
        } else {
            let nobody = || !(0..self.devices.len()).any(can_begin);
            task.status != TaskStatus::Stopped
                && self.held_by(number) == 0
                && (if is_over { !forced } else { task.members.is_some() && nobody() })
        };
        require("a task is finished when nothing is left", may && task.finished_at.is_none(), || {
            let live = task.runs.iter().filter(|(_, run)| run.is_live()).count();
            let begin: Vec<usize> = (0..self.devices.len()).filter(|device| can_begin(*device)).collect();
            format!("task {number} is finished; {live} runs aren't, {begin:?} may begin; finished before: {:?}", task.finished_at)
        })?;
        if let Some(task) = self.tasks.get_mut(&number) {
            task.finished_at = Some(at);
        }
        Ok(())
    }
}

fn status_of(event: &Event) -> TaskStatus {
    match event.extra.get("status").map(|status| &**status) {
        Some("started") => TaskStatus::Started,
        Some("paused") => TaskStatus::Paused,
        _ => TaskStatus::Stopped,
    }
}
