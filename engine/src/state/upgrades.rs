//! Permits granted and given back: an upgrade from its offer to its end.

use super::{ActionRules, Offer, Outcome, Run, State, UpgradeAction, UpgradesAction, search};
use crate::error::{Conflict, Entity, Error};
use crate::model::*;
use crate::rollout;
use crate::store::Row;
use std::sync::Arc;

/// How many devices one action may name: each costs a row and an event in one group.
const ACTION_DEVICES_MAX: usize = 10_000;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Succeeded,
    Failed,
    Rejected,
    TimedOut,
}

impl Ending {
    const fn state(self) -> UpgradeState {
        match self {
            Self::Succeeded => UpgradeState::Succeeded,
            Self::Failed => UpgradeState::Failed,
            Self::Rejected => UpgradeState::Rejected,
            Self::TimedOut => UpgradeState::TimedOut,
        }
    }

    const fn failure_kind(self) -> Option<FailureKind> {
        match self {
            Self::Succeeded => None,
            Self::Failed => Some(FailureKind::Failed),
            Self::Rejected => Some(FailureKind::Rejected),
            Self::TimedOut => Some(FailureKind::TimedOut),
        }
    }

    /// The result that a report in this state means.
    pub(super) const fn of(state: UpgradeState) -> Option<Self> {
        match state {
            UpgradeState::Succeeded => Some(Self::Succeeded),
            UpgradeState::Failed => Some(Self::Failed),
            UpgradeState::Rejected => Some(Self::Rejected),
            UpgradeState::TimedOut => Some(Self::TimedOut),
            _ => None,
        }
    }
}

impl State {
    /// Grants a permit that was found free in this very command.
    pub(super) fn grant(&mut self, task: &Task, device: DeviceNumber, version: &Arc<str>, at: Timestamp) -> Option<Arc<Offer>> {
        let before = self.live_upgrade(task.number, device).map(|live| Arc::clone(&live.row));
        let succeeded_before = self.task_entry(task.number).is_some_and(|entry| entry.succeeded.contains(device.0));
        let row = Upgrade {
            task: task.number,
            device,
            state: UpgradeState::Offered,
            attempts: before.as_ref().map_or(0, |row| row.attempts).saturating_add(1),
            percent: 0,
            offer: self.event_sequence + 1,
            from_version: Arc::clone(version),
            detail: None,
            created_at: before.as_ref().map_or(at, |row| row.created_at),
            updated_at: at,
            offered_at: Some(at),
            deadline: (task.policy.timeout_from == TimeoutFrom::Offer).then(|| self.deadline(task, at)),
            not_before: None,
            succeeded_before,
            failure: before.as_ref().and_then(|row| row.failure),
            confirmed: before.as_ref().is_some_and(|row| row.confirmed),
            forced: false,
        };
        let is_first = before.as_ref().is_none_or(|row| row.offered_at.is_none());
        let sequence = self.tell(self.upgrade_event(EventKind::Offered, &row, UpgradeState::Offered, at));
        debug_assert_eq!(sequence, row.offer);
        self.put(Row::Upgrade(Arc::new(row)));
        self.note_start(task, is_first, at);
        let live = self.live_upgrade(task.number, device)?;
        live.offer.clone()
    }

    pub(super) fn deadline(&self, task: &Task, from: Timestamp) -> Timestamp {
        from.plus_seconds(u64::from(task.policy.timeout_s.unwrap_or(self.limits.default_timeout_s)))
    }

    /// A device turns up with a version. Where that is the target, a run that waits is over, however the device came there; where the
    /// policy lets the version decide, so is one that runs.
    pub(super) fn note_arrival(&mut self, device: DeviceNumber, component: Component, version: &str, at: Timestamp) {
        let ended = |live: &super::LiveUpgrade| {
            let row = &live.row;
            let task = self.task_entry(row.task).map(|entry| entry.view.row()).filter(|task| task.component == component)?;
            let runs = row.state.holds_permit();
            let ending = if *task.target_version == *version {
                Ending::Succeeded
            } else if runs && *row.from_version != *version {
                Ending::Failed
            } else if row.attempts > 0 && task.policy.version_decides && !leads_from(task, version) {
                // It has failed before, and no attempt can follow from where it is now.
                Ending::Failed
            } else {
                return None;
            };
            (ending == Ending::Succeeded && !runs || task.policy.version_decides).then(|| (Arc::clone(row), ending))
        };
        let ended: Vec<_> = self.live.get(&device).into_iter().flatten().filter_map(ended).collect();
        for (row, ending) in ended {
            let detail: Arc<str> = format!("the device runs {version}").into();
            let mut event = self.upgrade_event(EventKind::Result, &row, ending.state(), at);
            event.extra.insert("detail".into(), detail.as_ref().into());
            self.finish(&row, ending, Some(detail), None, at, event);
        }
    }

    /// Notes that a person has to say yes for a device before it may begin.
    pub(super) fn ask_person(&mut self, task: TaskNumber, device: DeviceNumber, at: Timestamp) {
        let before = match self.live_upgrade(task, device) {
            Some(live) => Upgrade::clone(&live.row),
            None => self.blank_upgrade(task, device, at),
        };
        let row = Upgrade { state: UpgradeState::AwaitingConfirmation, updated_at: at, ..before };
        self.tell(self.upgrade_event(EventKind::Progress, &row, row.state, at));
        self.put(Row::Upgrade(Arc::new(row)));
    }

    /// Ends an attempt: for good, or until the retry policy lets the device try again.
    pub(super) fn finish(
        &mut self,
        before: &Upgrade,
        ending: Ending,
        detail: Option<Arc<str>>,
        code: Option<i32>,
        at: Timestamp,
        mut event: Event,
    ) {
        let failure = ending.failure_kind().map(|kind| Failure { kind, code });
        let task = self.task_entry(before.task).map(|entry| Arc::clone(entry.view.row()));
        if let Some(task) = &task {
            add_versions(&mut event, before, task);
        }
        // Where the version decides, a device that is elsewhere by now has no further attempt.
        let device = self.device_row(before.device);
        let goes_on = |task: &Arc<Task>| {
            let version = device.and_then(|device| device.version(task.component));
            !task.canceled && (!task.policy.version_decides || version.is_some_and(|version| leads_from(task, version)))
        };
        let again = task.filter(goes_on).zip(failure).and_then(|(task, failure)| {
            rollout::next_attempt(task.policy.retry.as_ref(), (before.task, before.device), before.attempts, failure, at)
        });
        if let Some(again) = again {
            event.extra.insert("retry_at_ms".into(), again.0.to_string().into());
        }
        let row = Upgrade {
            state: if again.is_some() { UpgradeState::Waiting } else { ending.state() },
            percent: if ending == Ending::Succeeded { 100 } else { before.percent },
            detail: detail.or_else(|| (ending == Ending::TimedOut).then(|| "no result before the deadline".into())),
            updated_at: at,
            deadline: None,
            not_before: again,
            failure,
            forced: false,
            ..before.clone()
        };
        self.tell(event);
        self.put(Row::Upgrade(Arc::new(row)));
        self.after_ending(before.task, ending, before.failure.is_none(), at);
    }

    /// A permit's deadline has passed: the device fell silent, and that is a failure like any other.
    pub(super) fn time_out(&mut self, task: TaskNumber, device: DeviceNumber, at: Timestamp) {
        let Some(live) = self.live_upgrade(task, device) else { return };
        let row = Arc::clone(&live.row);
        let event = self.upgrade_event(EventKind::Result, &row, UpgradeState::TimedOut, at);
        self.finish(&row, Ending::TimedOut, None, None, at, event);
    }

    /// On all of the devices, or, where one of them is refused, on none.
    pub(super) fn act_on_upgrades(&mut self, action: &UpgradesAction, at: Timestamp) -> Result<Outcome, Error> {
        let task = self.own_task(&action.organization, action.task)?;
        let row = self.task_entry(task).map(|entry| Arc::clone(entry.view.row()));
        let row = row.ok_or_else(|| Error::not_found(Entity::Task, action.task))?;
        if action.device_ids.len() > ACTION_DEVICES_MAX {
            let message = format!("{} devices in one call; at most {ACTION_DEVICES_MAX} are allowed", action.device_ids.len());
            return Err(Error::invalid("device_ids", message));
        }
        if action.rules.strict && row.status == TaskStatus::Stopped {
            return Err(Error::conflict(Conflict::TaskStopped, format!("task {} is stopped; start it first", row.id)));
        }
        for device_id in &action.device_ids {
            let device = self.device_number(row.product, device_id);
            let device = device.ok_or_else(|| Error::not_found(Entity::Device, device_id))?;
            if row.canceled && matches!(action.action, UpgradeAction::Retry | UpgradeAction::Force) {
                let message = format!("task {} was canceled; start it first", row.id);
                return Err(Error::conflict(Conflict::TaskStopped, message));
            }
            match action.action {
                UpgradeAction::Cancel => self.cancel_upgrade(&row, device, action.rules, at)?,
                UpgradeAction::Retry => self.retry_upgrade(&row, device, action.rules, at)?,
                UpgradeAction::Force => self.force_upgrade(&row, device, at)?,
                UpgradeAction::Confirm => self.answer_for(&row, device, true, at)?,
                UpgradeAction::Decline => self.answer_for(&row, device, false, at)?,
            }
        }
        self.settle(task, at);
        Ok(Outcome::Done)
    }

    fn cancel_upgrade(&mut self, task: &Task, device: DeviceNumber, rules: ActionRules, at: Timestamp) -> Result<(), Error> {
        let run = self.run(task.number, device);
        match &run {
            Some(Run::Finished(UpgradeState::Canceled)) if !rules.strict => return Ok(()),
            Some(Run::Finished(state)) => {
                let message = format!("the upgrade of {} is {}; it can't be canceled", self.device_name(device), state.name());
                return Err(Error::conflict(Conflict::UpgradeBegun, message));
            }
            Some(Run::Live(row)) if rules.strict && row.state > UpgradeState::Offered => {
                let message = format!("the upgrade of {} is {}; it can't be canceled", self.device_name(device), row.state.name());
                return Err(Error::conflict(Conflict::UpgradeBegun, message));
            }
            None if rules.strict || !self.is_in_scope(task, device) => {
                return Err(Error::not_found(Entity::Upgrade, self.device_name(device)));
            }
            _ => {}
        }
        let before = match run {
            Some(Run::Live(row)) => Upgrade::clone(&row),
            _ => self.blank_upgrade(task.number, device, at),
        };
        self.end_canceled(&before, "canceled by an operator", at);
        Ok(())
    }

    pub(super) fn end_canceled(&mut self, before: &Upgrade, detail: &str, at: Timestamp) {
        let mut event = self.upgrade_event(EventKind::Result, before, UpgradeState::Canceled, at);
        event.extra.insert("detail".into(), detail.into());
        if let Some(task) = self.task_entry(before.task).map(|entry| entry.view.row()) {
            add_versions(&mut event, before, task);
        }
        self.tell(event);
        let (state, detail) = (UpgradeState::Canceled, Some(detail.into()));
        let row = Upgrade { state, detail, updated_at: at, deadline: None, not_before: None, forced: false, ..before.clone() };
        self.put(Row::Upgrade(Arc::new(row)));
    }

    fn retry_upgrade(&mut self, task: &Arc<Task>, device: DeviceNumber, rules: ActionRules, at: Timestamp) -> Result<(), Error> {
        let refuse = |state: UpgradeState| {
            let message =
                format!("the upgrade of {} is {}; only one that failed can be retried", self.device_name(device), state.name());
            Err(Error::conflict(Conflict::UpgradeNotFailed, message))
        };
        let before = match self.run(task.number, device) {
            Some(Run::Finished(UpgradeState::Succeeded)) => return refuse(UpgradeState::Succeeded),
            Some(Run::Finished(_)) => self.blank_upgrade(task.number, device, at),
            Some(Run::Live(row)) if row.state == UpgradeState::Waiting && !rules.strict => Upgrade::clone(&row),
            Some(Run::Live(row)) => return refuse(row.state),
            Some(Run::ToCome) if rules.strict => return refuse(UpgradeState::Waiting),
            Some(Run::ToCome) | None => return Err(Error::not_found(Entity::Upgrade, self.device_name(device))),
        };
        let detail = Some("retried by an operator".into());
        let row = Upgrade { attempts: 0, detail, updated_at: at, not_before: None, failure: None, ..before };
        self.put(Row::Upgrade(Arc::new(row)));
        // Where the schedule has ended, it can't begin: then the task stays finished.
        if task.policy.schedule.end.is_none_or(|end| at < end) {
            self.reopen(task.number);
        }
        Ok(())
    }

    fn force_upgrade(&mut self, task: &Arc<Task>, device: DeviceNumber, at: Timestamp) -> Result<(), Error> {
        if !self.device_row(device).is_some_and(|row| search::is_at_start(task, row)) {
            let message = format!("{} runs none of the versions that the task leads from", self.device_name(device));
            return Err(Error::conflict(Conflict::State, message));
        }
        let before = match self.run(task.number, device) {
            Some(Run::Live(row)) if !row.state.holds_permit() => Upgrade::clone(&row),
            Some(Run::Live(row)) => {
                let message = format!("the upgrade of {} is {} already", self.device_name(device), row.state.name());
                return Err(Error::conflict(Conflict::UpgradeBegun, message));
            }
            Some(Run::Finished(UpgradeState::Succeeded)) => {
                let message = format!("the upgrade of {} has succeeded; there is nothing to force", self.device_name(device));
                return Err(Error::conflict(Conflict::UpgradeNotFailed, message));
            }
            Some(Run::ToCome | Run::Finished(_)) => self.blank_upgrade(task.number, device, at),
            // Not in scope, or not at a from-version: force overrules when, never whom.
            None => return Err(Error::not_found(Entity::Upgrade, self.device_name(device))),
        };
        // Whoever forces it has said yes for it, too.
        let row = Upgrade {
            state: UpgradeState::Waiting,
            detail: Some("forced by an operator".into()),
            updated_at: at,
            not_before: None,
            failure: None,
            confirmed: true,
            forced: true,
            ..before
        };
        self.put(Row::Upgrade(Arc::new(row)));
        self.reopen(task.number);
        Ok(())
    }

    /// A person has answered for a device, be it before the device has asked or after.
    fn answer_for(&mut self, task: &Task, device: DeviceNumber, yes: bool, at: Timestamp) -> Result<(), Error> {
        if !task.policy.confirmation {
            return Err(Error::conflict(Conflict::State, format!("task {} asks nobody for a confirmation", task.id)));
        }
        let before = match self.run(task.number, device) {
            Some(Run::Live(row)) if !row.state.holds_permit() => Upgrade::clone(&row),
            Some(Run::ToCome) => self.blank_upgrade(task.number, device, at),
            Some(Run::Finished(UpgradeState::Rejected)) if !yes => return Ok(()),
            // The "no" for another device has just canceled the task.
            Some(Run::Finished(UpgradeState::Canceled)) if !yes => return Ok(()),
            Some(Run::Live(_)) if yes => return Ok(()),
            Some(_) => {
                let message = format!("the upgrade of {} has begun or is over", self.device_name(device));
                return Err(Error::conflict(Conflict::UpgradeBegun, message));
            }
            None => return Err(Error::not_found(Entity::Upgrade, self.device_name(device))),
        };
        if yes {
            let row = Upgrade { state: UpgradeState::Waiting, confirmed: true, updated_at: at, ..before };
            self.put(Row::Upgrade(Arc::new(row)));
        } else {
            let event = self.upgrade_event(EventKind::Result, &before, UpgradeState::Rejected, at);
            self.finish(&before, Ending::Rejected, Some("declined by a person".into()), None, at, event);
        }
        Ok(())
    }

    fn is_in_scope(&self, task: &Task, device: DeviceNumber) -> bool {
        let entry = self.task_entry(task.number);
        entry.zip(self.device_row(device)).is_some_and(|(entry, row)| entry.view.scope().contains(row))
    }

    /// A finished task has something to do again.
    fn reopen(&mut self, task: TaskNumber) {
        let row = self.task_entry(task).map(|entry| Arc::clone(entry.view.row()));
        if let Some(row) = row.filter(|row| row.finished_at.is_some()) {
            self.put(Row::Task(Arc::new(Task { finished_at: None, ..Task::clone(&row) })));
        }
    }

    fn device_name(&self, device: DeviceNumber) -> String {
        self.device_row(device).map(|row| row.id.to_string()).unwrap_or_default()
    }

    /// An upgrade that waits and has never been offered.
    pub(super) fn blank_upgrade(&self, task: TaskNumber, device: DeviceNumber, at: Timestamp) -> Upgrade {
        let entry = self.task_entry(task);
        let component = entry.map_or(Component::MAIN, |entry| entry.view.row().component);
        let version = self.device_row(device).and_then(|row| row.version(component)).cloned();
        let succeeded_before = entry.is_some_and(|entry| entry.succeeded.contains(device.0));
        Upgrade { succeeded_before, ..Upgrade::waiting(task, device, version.unwrap_or_default(), at) }
    }

    /// An event about an upgrade. Its sequence number comes when it is told; an offer is named by its own event.
    pub(super) fn upgrade_event(&self, kind: EventKind, row: &Upgrade, state: UpgradeState, at: Timestamp) -> Event {
        let device = self.device_row(row.device);
        let task = self.task_entry(row.task).map(|entry| entry.view.row());
        let product = task.and_then(|task| self.products.get(&task.product)).map(|entry| &entry.row);
        Event {
            sequence: 0,
            kind,
            at,
            organization: product.map(|product| Arc::clone(&product.organization)).unwrap_or_default(),
            product_id: product.map(|product| Arc::clone(&product.id)).unwrap_or_default(),
            device_id: device.map(|device| Arc::from(&*device.id)),
            task_id: task.map(|task| task.id),
            upgrade_id: row.id(),
            state: Some(state),
            percent: Some(if state == UpgradeState::Succeeded { 100 } else { row.percent }),
            extra: Default::default(),
        }
    }
}

fn leads_from(task: &Task, version: &str) -> bool {
    task.from_versions.iter().any(|from| **from == *version)
}

/// A result says between which versions it was, for those who keep no books of their own.
fn add_versions(event: &mut Event, row: &Upgrade, task: &Task) {
    for (key, version) in [("from_version", &row.from_version), ("to_version", &task.target_version)] {
        event.extra.entry(key.into()).or_insert_with(|| version.as_ref().into());
    }
}
