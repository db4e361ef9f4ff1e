//! What devices report. A report counts once, however often it is sent.

use super::upgrades::Ending;
use super::{Report, Reported, State, VersionReport, validate};
use crate::error::{Entity, Error};
use crate::index::StartKey;
use crate::model::*;
use crate::store::Row;
use std::sync::Arc;

/// What a report says beside its state: percent, detail, code of the failure.
type Told = (Option<u8>, Option<Arc<str>>, Option<i32>);

impl State {
    pub(super) fn report(&mut self, report: &Report, at: Timestamp) -> Result<Reported, Error> {
        validate::text("detail", report.detail.as_deref(), &self.limits)?;
        if report.percent.is_some_and(|percent| percent > 100) {
            return Err(Error::invalid("percent", format!("percent is {}; give 0 to 100", report.percent.unwrap_or_default())));
        }
        let unknown = || Error::not_found(Entity::Upgrade, report.upgrade);
        let asking = self.asking(&report.device, false, at).map_err(|_| unknown())?;
        if asking.device != report.upgrade.device || report.upgrade.offer == 0 || report.upgrade.offer > self.event_sequence {
            return Err(unknown());
        }
        let task = self.task_entry(report.upgrade.task).ok_or_else(unknown)?.view.row().clone();
        let unchanged = Reported { task: Some(task.id), changed: false };
        let Some(live) = self.live_upgrade(task.number, asking.device) else {
            let finished = self.task_entry(task.number).is_some_and(|entry| entry.finished.state_of(asking.device).is_some());
            return if finished { Ok(unchanged) } else { Err(unknown()) };
        };
        let row = Arc::clone(&live.row);
        // An earlier attempt, or one that has ended: it was counted then.
        if report.upgrade.offer != row.offer || !row.state.holds_permit() {
            return Ok(unchanged);
        }
        let detail: Option<Arc<str>> = report.detail.as_deref().map(Into::into);
        let changed = self.move_upgrade(&task, &row, report.state, (report.percent, detail, report.code), at)?;
        Ok(Reported { task: Some(task.id), changed })
    }

    fn move_upgrade(
        &mut self,
        task: &Task,
        row: &Upgrade,
        reported: ReportedState,
        (percent, detail, code): Told,
        at: Timestamp,
    ) -> Result<bool, Error> {
        let state = match row.state.after(reported) {
            Some(state) => state,
            // The same step, further on.
            None if reported.state() == row.state && percent.is_some_and(|percent| percent > row.percent) => row.state,
            None => return Ok(false),
        };
        if state == UpgradeState::Canceled {
            self.end_canceled(row, detail.as_deref().unwrap_or("canceled where the device is"), at);
            self.settle(row.task, at);
            return Ok(true);
        }
        if let Some(ending) = Ending::of(state) {
            if ending == Ending::Succeeded {
                self.record_version(row.device, task.component, &task.target_version)?;
            }
            let mut event = self.upgrade_event(EventKind::Result, row, state, at);
            if let Some(detail) = &detail {
                event.extra.insert("detail".into(), detail.as_ref().into());
            }
            if let Some(code) = code {
                event.extra.insert("code".into(), code.to_string().into());
            }
            self.finish(row, ending, detail, code, at, event);
            return Ok(true);
        }
        // Where the deadline runs from the first sign of running, this may be that sign.
        let starts_deadline = row.deadline.is_none() && task.policy.timeout_from == TimeoutFrom::Running;
        let deadline = if starts_deadline { Some(self.deadline(task, at)) } else { row.deadline };
        // Percent counts within a step, so it starts again with the next one.
        let percent = percent.unwrap_or(if state == row.state { row.percent } else { 0 });
        let before = row.state;
        let detail = detail.or_else(|| row.detail.clone());
        let row = Upgrade { state, percent, detail, updated_at: at, deadline, ..row.clone() };
        let mut event = self.upgrade_event(EventKind::Progress, &row, state, at);
        if before != state {
            event.extra.insert("from_state".into(), before.name().into());
        }
        self.tell(event);
        self.put(Row::Upgrade(Arc::new(row)));
        Ok(true)
    }

    /// Bytes were served: that much of the download is done, unless the device has said more.
    pub(super) fn served(&mut self, upgrade: UpgradeId, percent: u8, at: Timestamp) -> Reported {
        let task = self.task_entry(upgrade.task).map(|entry| Arc::clone(entry.view.row()));
        let nothing = Reported { task: task.as_ref().map(|task| task.id), changed: false };
        let Some(task) = task else { return nothing };
        let Some(live) = self.live_upgrade(upgrade.task, upgrade.device) else { return nothing };
        let row = Arc::clone(&live.row);
        if row.offer != upgrade.offer || !matches!(row.state, UpgradeState::Offered | UpgradeState::Downloading) {
            return nothing;
        }
        let percent = Some(percent.min(100));
        let changed = self.move_upgrade(&task, &row, ReportedState::Downloading, (percent, None, None), at).unwrap_or(false);
        Reported { changed, ..nothing }
    }

    /// A result told by versions alone. Counted also where the device was never offered the task, or the task is stopped; recorded
    /// without a task where none leads from the one version to the other.
    pub(super) fn report_version(&mut self, report: &VersionReport, at: Timestamp) -> Result<Reported, Error> {
        validate::version("from_version", &report.from_version, &self.limits)?;
        validate::version("to_version", &report.to_version, &self.limits)?;
        validate::text("detail", report.detail.as_deref(), &self.limits)?;
        for (key, value) in &report.extra {
            validate::text("extra", Some(key), &self.limits)?;
            validate::text("extra", Some(value), &self.limits)?;
        }
        let asking = self.asking(&report.device, report.register, at)?;
        let task = self.task_between(asking.product, report, asking.device);
        let known = self.known_version(asking.product, report.component, &report.to_version);
        let ending = if report.succeeded { Ending::Succeeded } else { Ending::Failed };
        let state = if report.succeeded { UpgradeState::Succeeded } else { UpgradeState::Failed };
        let Some(task) = task else {
            if report.succeeded {
                self.record_version(asking.device, report.component, &known)?;
            }
            let event = self.untasked_event(report, asking.product, state, at);
            self.tell(event);
            return Ok(Reported { task: None, changed: true });
        };
        let unchanged = Reported { task: Some(task.id), changed: false };
        // A run that is over stays as it ended, but that a success counts also after a failure.
        match self.task_entry(task.number).and_then(|entry| entry.finished.state_of(asking.device)) {
            Some(UpgradeState::Succeeded) => return Ok(unchanged),
            Some(_) if !report.succeeded => return Ok(unchanged),
            _ => {}
        }
        let before = match self.live_upgrade(task.number, asking.device) {
            // The same failure again: its attempt has ended.
            Some(live) if !report.succeeded && !live.row.state.holds_permit() => return Ok(unchanged),
            Some(live) => Upgrade::clone(&live.row),
            // It began without asking; that was an attempt all the same.
            None => {
                let blank = self.blank_upgrade(task.number, asking.device, at);
                Upgrade { from_version: report.from_version.as_str().into(), attempts: 1, ..blank }
            }
        };
        if report.succeeded {
            self.record_version(asking.device, report.component, &known)?;
        }
        let mut event = self.upgrade_event(EventKind::Result, &before, state, at);
        self.add_versions(&mut event, report);
        self.finish(&before, ending, report.detail.as_deref().map(Into::into), None, at, event);
        Ok(Reported { task: Some(task.id), changed: true })
    }

    /// The task that leads from the one version to the other: the one that the device runs, else the newest.
    fn task_between(&self, product: ProductNumber, report: &VersionReport, device: DeviceNumber) -> Option<Arc<Task>> {
        let key = StartKey { product, component: report.component, version: report.from_version.as_str().into() };
        // What a device does that a task isn't for, decides nothing of the task.
        let row = self.device_row(device);
        let concerns = |entry: &super::TaskEntry| {
            let has_run = entry.unfinished.contains(device.0) || entry.finished.state_of(device).is_some();
            has_run || row.is_some_and(|row| entry.view.scope().contains(row))
        };
        let leads = |task: &&TaskNumber| {
            let entry = self.task_entry(**task);
            entry.is_some_and(|entry| *entry.view.row().target_version == *report.to_version && concerns(entry))
        };
        let mut newest_first = self.starts.get(&key).into_iter().flatten().rev().filter(leads);
        let runs = |task: &&TaskNumber| self.live_upgrade(**task, device).is_some_and(|live| live.offer.is_some());
        let number = newest_first.clone().find(runs).or_else(|| newest_first.next())?;
        self.task_entry(*number).map(|entry| Arc::clone(entry.view.row()))
    }

    fn untasked_event(&self, report: &VersionReport, product: ProductNumber, state: UpgradeState, at: Timestamp) -> Event {
        let product = self.products.get(&product).map(|entry| &entry.row);
        let mut event = Event {
            sequence: 0,
            kind: EventKind::Result,
            at,
            organization: product.map(|product| Arc::clone(&product.organization)).unwrap_or_default(),
            product_id: product.map(|product| Arc::clone(&product.id)).unwrap_or_default(),
            device_id: Some(Arc::clone(&report.device.device_id)),
            task_id: None,
            upgrade_id: None,
            state: Some(state),
            percent: None,
            extra: Default::default(),
        };
        self.add_versions(&mut event, report);
        event
    }

    fn add_versions(&self, event: &mut Event, report: &VersionReport) {
        event.extra.clone_from(&report.extra);
        event.extra.insert("type".into(), report.component.component_type.to_string().into());
        event.extra.insert("identify".into(), report.component.identify.to_string().into());
        event.extra.insert("from_version".into(), report.from_version.as_str().into());
        event.extra.insert("to_version".into(), report.to_version.as_str().into());
        if let Some(detail) = &report.detail {
            event.extra.insert("detail".into(), detail.as_str().into());
        }
    }
}
