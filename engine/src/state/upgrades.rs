//! Permits granted and given back: an upgrade from its offer to its end.

use super::{Offer, Outcome, State};
use crate::error::{Conflict, Entity, Error};
use crate::model::*;
use crate::rollout;
use crate::store::Row;
use std::sync::Arc;

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
        let timeout_s = task.policy.timeout_s.unwrap_or(self.limits.default_timeout_s);
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
            deadline: Some(at.plus_seconds(u64::from(timeout_s))),
            not_before: None,
            succeeded_before,
        };
        let sequence = self.tell(self.upgrade_event(EventKind::Offered, &row, UpgradeState::Offered, at));
        debug_assert_eq!(sequence, row.offer);
        self.put(Row::Upgrade(Arc::new(row)));
        let live = self.live_upgrade(task.number, device)?;
        live.offer.clone()
    }

    /// Ends an attempt: for good, or until the retry policy lets the device try again.
    pub(super) fn finish(&mut self, before: &Upgrade, ending: Ending, detail: Option<Arc<str>>, at: Timestamp, event: Event) {
        let retry = self.task_entry(before.task).and_then(|entry| entry.view.row().policy.retry);
        let again = match ending {
            Ending::Failed | Ending::TimedOut => rollout::next_attempt(retry, before.attempts, at),
            Ending::Succeeded | Ending::Rejected => None,
        };
        let row = Upgrade {
            state: if again.is_some() { UpgradeState::Waiting } else { ending.state() },
            percent: if ending == Ending::Succeeded { 100 } else { before.percent },
            detail: detail.or_else(|| (ending == Ending::TimedOut).then(|| "no result before the deadline".into())),
            updated_at: at,
            deadline: None,
            not_before: again,
            ..before.clone()
        };
        self.tell(event);
        self.put(Row::Upgrade(Arc::new(row)));
    }

    /// A permit's deadline has passed: the device fell silent, and that is a failure like any other.
    pub(super) fn time_out(&mut self, task: TaskNumber, device: DeviceNumber, at: Timestamp) {
        let Some(live) = self.live_upgrade(task, device) else { return };
        let row = Arc::clone(&live.row);
        let event = self.upgrade_event(EventKind::Result, &row, UpgradeState::TimedOut, at);
        self.finish(&row, Ending::TimedOut, None, at, event);
    }

    pub(super) fn cancel_upgrade(
        &mut self,
        organization: &str,
        task: TaskId,
        device_id: &str,
        at: Timestamp,
    ) -> Result<Outcome, Error> {
        let (task, device) = self.task_and_device(organization, task, device_id)?;
        let (number, finished) = match self.task_entry(task) {
            Some(entry) => (entry.view.row().number, entry.finished.state_of(device)),
            None => return Ok(Outcome::Done),
        };
        match finished {
            Some(UpgradeState::Canceled) => return Ok(Outcome::Done),
            Some(state) => {
                let message = format!("the upgrade has {}; only one that is not finished can be canceled", state.name());
                return Err(Error::conflict(Conflict::State, message));
            }
            None => {}
        }
        let before = match self.live_upgrade(number, device) {
            Some(live) => Upgrade::clone(&live.row),
            None => self.blank_upgrade(number, device, at),
        };
        let event = self.upgrade_event(EventKind::Result, &before, UpgradeState::Canceled, at);
        self.tell(event);
        let detail = Some("canceled by an operator".into());
        let row = Upgrade { state: UpgradeState::Canceled, detail, updated_at: at, deadline: None, not_before: None, ..before };
        self.put(Row::Upgrade(Arc::new(row)));
        Ok(Outcome::Done)
    }

    /// Lets a device that failed, was rejected or canceled, or waits after a failure, try again at once.
    pub(super) fn retry_upgrade(
        &mut self,
        organization: &str,
        task: TaskId,
        device_id: &str,
        at: Timestamp,
    ) -> Result<Outcome, Error> {
        let (task, device) = self.task_and_device(organization, task, device_id)?;
        let finished = self.task_entry(task).and_then(|entry| entry.finished.state_of(device));
        let live = self.live_upgrade(task, device).map(|live| Upgrade::clone(&live.row));
        let before = match (finished, live) {
            (Some(UpgradeState::Succeeded), _) => {
                return Err(Error::conflict(Conflict::State, "the upgrade has succeeded; there is nothing to retry"));
            }
            (Some(_), _) => self.blank_upgrade(task, device, at),
            (None, Some(row)) if row.state == UpgradeState::Waiting => row,
            (None, Some(row)) => {
                let message = format!("the upgrade is {}; only one that failed can be retried", row.state.name());
                return Err(Error::conflict(Conflict::State, message));
            }
            (None, None) => return Err(Error::not_found(Entity::Upgrade, device_id)),
        };
        let detail = Some("retried by an operator".into());
        self.put(Row::Upgrade(Arc::new(Upgrade { attempts: 0, detail, updated_at: at, not_before: None, ..before })));
        Ok(Outcome::Done)
    }

    fn task_and_device(&self, organization: &str, task: TaskId, device_id: &str) -> Result<(TaskNumber, DeviceNumber), Error> {
        let number = self.own_task(organization, task)?;
        let product = self.task_entry(number).map(|entry| entry.view.row().product);
        let device = product.and_then(|product| self.device_number(product, device_id));
        device.map(|device| (number, device)).ok_or_else(|| Error::not_found(Entity::Device, device_id))
    }

    /// An upgrade that waits and has never been offered.
    pub(super) fn blank_upgrade(&self, task: TaskNumber, device: DeviceNumber, at: Timestamp) -> Upgrade {
        let entry = self.task_entry(task);
        let component = entry.map_or(Component::MAIN, |entry| entry.view.row().component);
        let version = self.device_row(device).and_then(|row| row.version(component)).cloned();
        Upgrade {
            task,
            device,
            state: UpgradeState::Waiting,
            attempts: 0,
            percent: 0,
            offer: 0,
            from_version: version.unwrap_or_default(),
            detail: None,
            created_at: at,
            updated_at: at,
            offered_at: None,
            deadline: None,
            not_before: None,
            succeeded_before: entry.is_some_and(|entry| entry.succeeded.contains(device.0)),
        }
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
