//! How far an operation has come: which of its devices stand where, and what that makes of the whole.
//!
//! | a device | shows as |
//! |---|---|
//! | has not begun | `wait` |
//! | runs, or failed and will try again | `processing` |
//! | succeeded | `success` |
//! | failed, or would not have it | `fail` |
//! | fell silent, or had not begun when the window closed | `fail`, counted as `timeout` |
//! | was canceled; or hadn't begun when the operation was stopped, or moved on to another version by itself | `stop` |
//!
//! Invariant: each device of an operation is in exactly one set.

use sluicegate::model::{DeviceNumber, FailureKind, Task, TaskStatus, Timestamp, Upgrade, UpgradeState};
use sluicegate::{DeviceSet, Run, State};

/// The status of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubStatus {
    Wait,
    Processing,
    Success,
    Fail,
    /// Shown as `fail`.
    Timeout,
    Stop,
}

impl SubStatus {
    /// What a list can be asked for.
    pub(super) const NAMES: [(&'static str, Self); 5] = [
        ("wait", Self::Wait),
        ("processing", Self::Processing),
        ("success", Self::Success),
        ("fail", Self::Fail),
        ("stop", Self::Stop),
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Processing => "processing",
            Self::Success => "success",
            Self::Fail | Self::Timeout => "fail",
            Self::Stop => "stop",
        }
    }
}

/// The status of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Wait,
    Processing,
    Success,
    Failed,
    Stop,
}

impl Status {
    pub(super) const NAMES: [(&'static str, Self); 5] = [
        ("wait", Self::Wait),
        ("processing", Self::Processing),
        ("success", Self::Success),
        ("failed", Self::Failed),
        ("stop", Self::Stop),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::NAMES.into_iter().find(|(_, status)| *status == self).map_or("", |(name, _)| name)
    }
}

/// The devices of an operation, by their status.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) all: DeviceSet,
    pub(super) wait: DeviceSet,
    pub(super) processing: DeviceSet,
    pub(super) success: DeviceSet,
    pub(super) fail: DeviceSet,
    pub(super) timeout: DeviceSet,
    pub(super) stop: DeviceSet,
    /// The operation was stopped by somebody.
    pub(super) is_stopped: bool,
}

impl Standing {
    pub(super) fn of(state: &State, task: &Task, now: Timestamp) -> Self {
        let runs = |states: &[UpgradeState]| state.runs(task.number, states);
        let situation = Situation::of(task, now);
        let mut standing = Self {
            success: runs(&[UpgradeState::Succeeded]),
            fail: runs(&[UpgradeState::Failed, UpgradeState::Rejected]),
            timeout: runs(&[UpgradeState::TimedOut]),
            stop: runs(&[UpgradeState::Canceled]),
            is_stopped: task.status == TaskStatus::Stopped,
            ..Self::default()
        };
        let unfinished = state.unfinished(task.number);
        for number in &unfinished {
            if let Some(Run::Live(row)) = state.run(task.number, DeviceNumber(number)) {
                standing.set(situation.of_row(&row)).insert(number);
            }
        }
        let mut all = state.members_of(task.number).unwrap_or_else(|| runs(&[UpgradeState::Waiting]));
        for set in [&unfinished, &standing.success, &standing.fail, &standing.timeout, &standing.stop] {
            all |= set;
        }
        let known = &unfinished | &standing.success | &standing.fail | &standing.timeout | &standing.stop;
        *standing.set(situation.without_row()) |= &all - known;
        standing.all = all;
        standing
    }

    fn set(&mut self, status: SubStatus) -> &mut DeviceSet {
        match status {
            SubStatus::Wait => &mut self.wait,
            SubStatus::Processing => &mut self.processing,
            SubStatus::Success => &mut self.success,
            SubStatus::Fail => &mut self.fail,
            SubStatus::Timeout => &mut self.timeout,
            SubStatus::Stop => &mut self.stop,
        }
    }

    pub(super) fn sub_status(&self, device: DeviceNumber) -> SubStatus {
        let sets = [
            (&self.success, SubStatus::Success),
            (&self.processing, SubStatus::Processing),
            (&self.fail, SubStatus::Fail),
            (&self.timeout, SubStatus::Timeout),
            (&self.stop, SubStatus::Stop),
        ];
        sets.into_iter().find(|(set, _)| set.contains(device.0)).map_or(SubStatus::Wait, |(_, status)| status)
    }

    /// The devices that show as this; all of them where nothing is asked for.
    pub(super) fn showing(&self, status: Option<SubStatus>) -> DeviceSet {
        match status {
            None => self.all.clone(),
            Some(SubStatus::Wait) => self.wait.clone(),
            Some(SubStatus::Processing) => self.processing.clone(),
            Some(SubStatus::Success) => self.success.clone(),
            Some(SubStatus::Fail | SubStatus::Timeout) => &self.fail | &self.timeout,
            Some(SubStatus::Stop) => self.stop.clone(),
        }
    }

    pub(super) fn status(&self) -> Status {
        if !self.processing.is_empty() {
            return Status::Processing;
        }
        let has_begun = self.wait.len() < self.all.len();
        match (self.wait.is_empty(), has_begun) {
            (false, true) => Status::Processing,
            (false, false) => Status::Wait,
            _ if !self.fail.is_empty() || !self.timeout.is_empty() => Status::Failed,
            _ if !self.stop.is_empty() => Status::Stop,
            // Every device is gone: nobody has succeeded.
            _ if self.all.is_empty() => Status::Stop,
            _ => Status::Success,
        }
    }
}

/// What holds for every device of an operation.
#[derive(Clone, Copy, Debug, Default)]
struct Situation {
    is_stopped: bool,
    /// What runs is being taken back.
    is_canceled: bool,
    /// Its window has closed.
    is_over: bool,
    is_finished: bool,
}

impl Situation {
    fn of(task: &Task, now: Timestamp) -> Self {
        Self {
            is_stopped: task.status == TaskStatus::Stopped,
            is_canceled: task.canceled,
            is_over: task.policy.schedule.end.is_some_and(|end| end <= now),
            is_finished: task.finished_at.is_some(),
        }
    }

    /// A device that has never been offered the upgrade.
    fn without_row(self) -> SubStatus {
        if self.is_stopped {
            SubStatus::Stop
        } else if self.is_over {
            SubStatus::Timeout
        } else if self.is_finished {
            SubStatus::Stop
        } else {
            SubStatus::Wait
        }
    }

    /// A device whose upgrade isn't over.
    fn of_row(self, row: &Upgrade) -> SubStatus {
        if self.is_canceled {
            return SubStatus::Stop;
        }
        if row.state.holds_permit() {
            return SubStatus::Processing;
        }
        match row.failure.map(|failure| failure.kind) {
            _ if self.is_stopped => SubStatus::Stop,
            Some(FailureKind::TimedOut) if self.is_over => SubStatus::Timeout,
            Some(_) if self.is_over => SubStatus::Fail,
            None if self.is_over => SubStatus::Timeout,
            _ if row.attempts > 0 => SubStatus::Processing,
            _ => SubStatus::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate::model::{Failure, TaskNumber};

    fn row(state: UpgradeState, failure: Option<FailureKind>) -> Upgrade {
        let attempts = u32::from(failure.is_some() || state != UpgradeState::Waiting);
        let failure = failure.map(|kind| Failure { kind, code: None });
        let waiting = Upgrade::waiting(TaskNumber(1), DeviceNumber(2), "1".into(), Timestamp(0));
        Upgrade { state, attempts, offer: 1, failure, ..waiting }
    }

    #[test]
    fn a_device_stands_as_its_run_and_its_operation_say() {
        let plain = Situation::default();
        let stopped = Situation { is_stopped: true, ..plain };
        let canceled = Situation { is_canceled: true, ..stopped };
        let over = Situation { is_over: true, ..plain };
        let running = row(UpgradeState::Installing, None);
        let waiting = row(UpgradeState::Waiting, None);
        let failed = row(UpgradeState::Waiting, Some(FailureKind::Failed));
        let silent = row(UpgradeState::Waiting, Some(FailureKind::TimedOut));
        for (situation, row, expected) in [
            (plain, &running, SubStatus::Processing),
            (plain, &waiting, SubStatus::Wait),
            (plain, &failed, SubStatus::Processing),
            (plain, &silent, SubStatus::Processing),
            (stopped, &running, SubStatus::Processing),
            (stopped, &failed, SubStatus::Stop),
            (canceled, &running, SubStatus::Stop),
            (over, &running, SubStatus::Processing),
            (over, &failed, SubStatus::Fail),
            (over, &silent, SubStatus::Timeout),
            (over, &waiting, SubStatus::Timeout),
        ] {
            assert_eq!(situation.of_row(row), expected, "{situation:?} {row:?}");
        }
        let finished = Situation { is_finished: true, ..plain };
        for (situation, expected) in
            [(plain, SubStatus::Wait), (stopped, SubStatus::Stop), (over, SubStatus::Timeout), (finished, SubStatus::Stop)]
        {
            assert_eq!(situation.without_row(), expected, "{situation:?}");
        }
    }

    #[test]
    fn an_operation_is_what_its_devices_make_it() {
        let set = |count: u32, from: u32| (from..from + count).collect::<DeviceSet>();
        let status = |wait, processing, success, fail, timeout, stop| {
            let mut standing = Standing {
                wait: set(wait, 0),
                processing: set(processing, 10),
                success: set(success, 20),
                fail: set(fail, 30),
                timeout: set(timeout, 40),
                stop: set(stop, 50),
                ..Standing::default()
            };
            let parts =
                [&standing.wait, &standing.processing, &standing.success, &standing.fail, &standing.timeout, &standing.stop];
            standing.all = parts.into_iter().fold(DeviceSet::new(), |all, part| all | part);
            standing.status()
        };
        assert_eq!(status(2, 0, 0, 0, 0, 0), Status::Wait);
        assert_eq!(status(1, 1, 0, 0, 0, 0), Status::Processing);
        assert_eq!(status(1, 0, 1, 0, 0, 0), Status::Processing);
        assert_eq!(status(1, 0, 0, 1, 0, 0), Status::Processing);
        assert_eq!(status(0, 0, 2, 0, 0, 0), Status::Success);
        assert_eq!(status(0, 0, 2, 1, 0, 0), Status::Failed);
        assert_eq!(status(0, 0, 2, 0, 1, 0), Status::Failed);
        assert_eq!(status(0, 0, 0, 1, 0, 1), Status::Failed);
        assert_eq!(status(0, 0, 0, 0, 0, 2), Status::Stop);
        assert_eq!(status(0, 0, 1, 0, 0, 1), Status::Stop);
    }
}
