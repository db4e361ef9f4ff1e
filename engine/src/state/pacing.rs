//! What the progress of a task sets off: its rate is counted, its waves open, it stops by itself, it is finished.
//!
//! Each of these looks at a task after something of it changed, and changes it further by the same rows as any command.

use super::upgrades::Ending;
use super::{State, TaskEntry, search};
use crate::index::{FiguresNow, StartKey};
use crate::model::*;
use crate::rollout::{rate, waves};
use crate::store::Row;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many upgrades of a canceled task are taken back by one command; the clock goes on with the rest.
pub(super) const CANCEL_PORTION: usize = 1_000;

/// Devices by how their newest ended attempt went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub succeeded: u64,
    pub failures: [u64; FailureKind::ALL.len()],
}

impl Tally {
    pub(super) fn failures(&self, kind: Option<FailureKind>) -> u64 {
        kind.map_or_else(|| self.failures.iter().sum(), |kind| self.failures[kind as usize])
    }

    fn results(&self) -> u64 {
        self.succeeded + self.failures(None)
    }

    fn reaches(&self, threshold: &Threshold) -> bool {
        let (failures, results) = (self.failures(threshold.kind), self.results());
        failures > 0 && results >= u64::from(threshold.minimum) && failures * 100 >= results * u64::from(threshold.percent)
    }
}

impl TaskEntry {
    pub(super) fn tally(&self) -> Tally {
        let mut failures = self.failing;
        for (kind, state) in [
            (FailureKind::Failed, UpgradeState::Failed),
            (FailureKind::Rejected, UpgradeState::Rejected),
            (FailureKind::TimedOut, UpgradeState::TimedOut),
        ] {
            failures[kind as usize] += self.finished.count(state);
        }
        Tally { succeeded: self.finished.count(UpgradeState::Succeeded), failures }
    }

    /// How many may begin in a minute, as of now.
    pub(super) fn rate_per_minute(&self) -> Option<u32> {
        let rate = self.view.row().policy.rate?;
        let counted = match rate.growth.map(|growth| growth.counting) {
            Some(Counting::Succeeded) => self.succeeded.len(),
            _ => self.pace.as_ref().map_or(0, |pace| pace.notified),
        };
        Some(rate::per_minute(rate, counted))
    }

    pub(super) fn rate_free_at(&self) -> Timestamp {
        match (self.rate_per_minute(), &self.pace) {
            (Some(per_minute), Some(pace)) => rate::free_at(pace, per_minute),
            _ => Timestamp(0),
        }
    }

    /// The wave that is open, from 0.
    pub(super) fn open_wave(&self) -> usize {
        self.pace.as_ref().map_or(0, |pace| pace.wave as usize)
    }

    pub(super) fn open_to_place(&self) -> u64 {
        self.view.row().waves.get(self.open_wave()).map_or(u64::MAX, |wave| wave.to_place)
    }

    pub(super) fn figures_now(&self) -> FiguresNow {
        FiguresNow {
            status: self.view.row().status,
            permits_held: self.permits_held,
            succeeded_devices: self.succeeded.len(),
            rate_free_at: self.rate_free_at(),
            open_to_place: self.open_to_place(),
        }
    }
}

impl State {
    fn pace(&self, task: TaskNumber) -> Pace {
        let pace = self.task_entry(task).and_then(|entry| entry.pace.as_deref());
        pace.cloned().unwrap_or_else(|| Pace::new(task))
    }

    /// An upgrade begins. `is_first`: the device was never offered it before.
    pub(super) fn note_start(&mut self, task: &Task, is_first: bool, at: Timestamp) {
        let begun_before = self
            .task_entry(task.number)
            .is_some_and(|entry| entry.pace.as_ref().is_some_and(|pace| pace.first_offered_at.is_some()));
        if begun_before && task.policy.rate.is_none() {
            return;
        }
        let mut pace = self.pace(task.number);
        pace.first_offered_at = pace.first_offered_at.or(Some(at));
        if task.policy.rate.is_some() {
            pace.notified += u64::from(is_first);
            rate::note_start(&mut pace.starts, at);
        }
        self.put(Row::Pace(Arc::new(pace)));
    }

    /// An attempt has ended.
    ///
    /// `is_new`: the device had no result before.
    pub(super) fn after_ending(&mut self, task: TaskNumber, ending: Ending, is_new: bool, at: Timestamp) {
        if ending == Ending::Succeeded {
            self.open_waves(task, at);
            self.note_verified(task, at);
        }
        self.watch_thresholds(task, ending, is_new, at);
        self.settle(task, at);
    }

    /// Opens every wave whose predecessor has succeeded far enough.
    pub(super) fn open_waves(&mut self, task: TaskNumber, at: Timestamp) {
        while let Some(entry) = self.task_entry(task) {
            let open = entry.open_wave();
            let Some(wave) = entry.view.row().waves.get(open) else { return };
            let is_last = open + 1 >= entry.view.row().waves.len();
            let succeeded = entry.succeeded_by_wave.get(open).copied().unwrap_or(0);
            if is_last || succeeded < wave.successes {
                return;
            }
            self.open_next_wave(task, at);
        }
    }

    pub(super) fn open_next_wave(&mut self, task: TaskNumber, at: Timestamp) {
        let mut pace = self.pace(task);
        pace.wave += 1;
        let number = pace.wave + 1;
        self.put(Row::Pace(Arc::new(pace)));
        self.tell_of_threshold(task, [("threshold", "wave".into()), ("wave", number.to_string())], at);
    }

    /// Pauses or cancels a started task that goes wrong too often.
    ///
    /// A success is looked at only where it makes up the minimum: otherwise a task that was resumed, and now goes well, would be
    /// stopped by its very successes for as long as the earlier failures weigh.
    fn watch_thresholds(&mut self, task: TaskNumber, ending: Ending, is_new: bool, at: Timestamp) {
        let Some(entry) = self.task_entry(task) else { return };
        let row = Arc::clone(entry.view.row());
        if row.policy.thresholds.is_empty() || row.status == TaskStatus::Stopped {
            return;
        }
        let tally = entry.tally();
        let is_due =
            |threshold: &&Threshold| ending != Ending::Succeeded || (is_new && tally.results() == u64::from(threshold.minimum));
        let reached = row.policy.thresholds.iter().filter(is_due).filter(|threshold| tally.reaches(threshold));
        // The harsher one where several are reached at once.
        let Some(threshold) = reached.max_by_key(|threshold| threshold.action == ThresholdAction::Cancel) else { return };
        if threshold.action == ThresholdAction::Pause && row.status == TaskStatus::Paused {
            return;
        }
        let told = [
            ("threshold", "failures".into()),
            ("failure_kind", threshold.kind.map_or("any", FailureKind::name).into()),
            ("failure_percent", threshold.percent.to_string()),
            ("failures", tally.failures(threshold.kind).to_string()),
            ("results", tally.results().to_string()),
            ("action", threshold.action.name().into()),
        ];
        self.tell_of_threshold(task, told, at);
        match threshold.action {
            ThresholdAction::Pause => drop(self.set_status(&row, TaskStatus::Paused, at)),
            ThresholdAction::Cancel => self.cancel_task(&row, at),
        }
    }

    /// Stops a task and takes back everything unfinished.
    pub(super) fn cancel_task(&mut self, row: &Arc<Task>, at: Timestamp) {
        let canceled = Arc::new(Task { canceled: true, ..Task::clone(row) });
        self.put(Row::Task(Arc::clone(&canceled)));
        drop(self.set_status(&canceled, TaskStatus::Stopped, at));
        self.cancel_portion(row.number, CANCEL_PORTION, at);
    }

    /// Cancels up to `limit` unfinished upgrades, and says how many it did.
    pub(super) fn cancel_portion(&mut self, task: TaskNumber, limit: usize, at: Timestamp) -> usize {
        let Some(entry) = self.task_entry(task) else { return 0 };
        let devices: Vec<u32> = entry.unfinished.iter().take(limit).collect();
        for device in &devices {
            if let Some(live) = self.live_upgrade(task, DeviceNumber(*device)) {
                let before = Arc::clone(&live.row);
                self.end_canceled(&before, "the task was canceled", at);
            }
        }
        self.settle(task, at);
        devices.len()
    }

    /// Firmware is verified once enough devices of its verify tasks have succeeded.
    fn note_verified(&mut self, task: TaskNumber, at: Timestamp) {
        let Some(row) = self.task_entry(task).map(|entry| Arc::clone(entry.view.row())) else { return };
        if row.kind != TaskKind::Verify {
            return;
        }
        let Some(firmware) = row.firmware.and_then(|number| self.firmware.get(&number)).cloned() else { return };
        let Some(verification) = firmware.verification.filter(|_| firmware.verified_at.is_none()) else { return };
        let tasks = self.products.get(&row.product).into_iter().flat_map(|product| &product.tasks);
        let verifies = |entry: &&TaskEntry| {
            let row = entry.view.row();
            row.kind == TaskKind::Verify && row.firmware == Some(firmware.number)
        };
        let entries = tasks.filter_map(|task| self.tasks.get(task)).filter(verifies);
        let succeeded = entries.fold(roaring::RoaringBitmap::new(), |all, entry| all | &entry.succeeded);
        if succeeded.len() >= u64::from(verification.successes_min) {
            self.put(Row::Firmware(Arc::new(Firmware { verified_at: Some(at), ..Firmware::clone(&firmware) })));
        }
    }

    /// Whether some device of the task, that isn't over for it, is still where the task leads from. Usually one look at the device
    /// that was found last.
    fn may_begin(&mut self, task: TaskNumber) -> bool {
        let Some(entry) = self.task_entry(task) else { return false };
        let can = |device: DeviceNumber| {
            let row = self.device_row(device).filter(|row| row.product == entry.view.row().product);
            entry.finished.state_of(device).is_none()
                && row.is_some_and(|row| search::is_at_start(entry.view.row(), row) && entry.view.scope().contains(row))
        };
        if entry.may_begin.is_some_and(can) {
            return true;
        }
        let waiting = entry.in_state(UpgradeState::Waiting) | entry.in_state(UpgradeState::AwaitingConfirmation);
        let row = entry.view.row();
        let at_start = self.at_start(row.product, row.component, row.from_versions.iter().map(|version| &**version));
        let devices = self.to_come(entry) | (waiting & at_start);
        // From the middle: neither the first to begin nor the last.
        let middle = u32::try_from(devices.len() / 2).ok().and_then(|middle| devices.select(middle));
        if let Some(entry) = self.tasks.get_mut(&task) {
            entry.may_begin = middle.map(DeviceNumber);
        }
        middle.is_some()
    }

    /// After the end of its schedule: nothing of it runs, and nobody was forced who could still begin.
    fn is_over(&self, entry: &TaskEntry) -> bool {
        let row = entry.view.row();
        let can = |device: u32| self.device_row(DeviceNumber(device)).is_some_and(|device| search::is_at_start(row, device));
        entry.permits_held == 0 && !entry.forced.iter().any(can)
    }

    /// Notes that a task is finished: nothing of it runs, and nobody can begin any more.
    pub(super) fn settle(&mut self, task: TaskNumber, at: Timestamp) {
        let Some(entry) = self.task_entry(task) else { return };
        let row = Arc::clone(entry.view.row());
        if row.finished_at.is_some() || (row.status == TaskStatus::Stopped && !row.canceled) {
            return;
        }
        let has_ended = row.policy.schedule.end.is_some_and(|end| end <= at);
        let is_finished = if row.canceled {
            entry.unfinished.is_empty()
        } else if entry.permits_held > 0 {
            false
        } else if has_ended {
            self.is_over(entry)
        } else {
            row.scope.snapshot && !self.may_begin(task)
        };
        if is_finished {
            let row = Arc::new(Task { finished_at: Some(at), ..Task::clone(&row) });
            self.put(Row::Task(Arc::clone(&row)));
            self.tell_of_task(EventKind::TaskFinished, &row, at);
        }
    }

    /// A device has left a version: the tasks that lead from there may have been waiting for nobody else.
    pub(super) fn settle_from(&mut self, start: StartKey, at: Timestamp) {
        let waits = |task: &&TaskNumber| {
            self.task_entry(**task).is_some_and(|entry| entry.permits_held == 0 && entry.view.row().finished_at.is_none())
        };
        let tasks: Vec<TaskNumber> = self.starts.get(&start).into_iter().flatten().filter(waits).copied().collect();
        for task in tasks {
            self.settle(task, at);
        }
    }

    /// Goes on with what canceling left over, and notes which schedules have ended. At most `limit` upgrades or tasks.
    pub(super) fn tick_tasks(&mut self, mut limit: usize, at: Timestamp) {
        while limit > 0
            && let Some(&task) = self.canceling.first()
        {
            limit -= self.cancel_portion(task, limit, at).max(1);
        }
        let ended = self.ends.range(..=(at, TaskNumber(u32::MAX))).map(|(_, task)| *task);
        // One in which something runs is settled by its last result.
        let ended = ended.filter(|task| self.task_entry(*task).is_some_and(|entry| self.is_over(entry)));
        let ended: Vec<TaskNumber> = ended.take(limit).collect();
        for task in ended {
            self.settle(task, at);
        }
    }

    /// When the next thing of this module is due.
    pub(super) fn next_due(&self, at: Timestamp) -> Option<Timestamp> {
        let mut ended = self.ends.range(..=(at, TaskNumber(u32::MAX))).map(|(_, task)| *task);
        let is_left = |task| self.task_entry(task).is_some_and(|entry| self.is_over(entry));
        if !self.canceling.is_empty() || ended.any(is_left) {
            return Some(at);
        }
        // One whose end has passed waits for its last permit, not for the clock.
        self.ends.range((at, TaskNumber(u32::MAX))..).next().map(|(end, _)| *end)
    }

    fn tell_of_threshold<const N: usize>(&mut self, task: TaskNumber, extra: [(&str, String); N], at: Timestamp) {
        let Some(row) = self.task_entry(task).map(|entry| Arc::clone(entry.view.row())) else { return };
        let extra: BTreeMap<Box<str>, Box<str>> = extra.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        self.tell_of_task_with(EventKind::Threshold, &row, extra, at);
    }

    /// The wave of a device, from 0, and how many waves there are; `None` where the task has none.
    pub fn wave_of(&self, task: TaskNumber, device: DeviceNumber) -> Option<(usize, usize)> {
        let row = self.task_entry(task)?.view.row();
        let count = row.waves.len();
        (count > 0).then(|| (waves::wave_of(&row.waves, waves::place(task, device)), count))
    }
}
