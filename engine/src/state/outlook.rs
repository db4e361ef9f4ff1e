//! Where a task is heading, and why each device stands where it stands: for people, by the same judgement that decides.

use super::devices::Truth;
use super::{DeviceRef, Run, State, WaitReason, search};
use crate::model::*;
use crate::rollout::{self, Asker, Judgement, Never, Standing};
use std::fmt;
use std::sync::Arc;

/// How far a task has come and how it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOutlook {
    /// Devices that the task is for and that have no upgrade of it yet.
    pub to_come: u64,
    /// Devices whose newest ended attempt went wrong, by kind; also those that will try again.
    pub failures: Vec<(FailureKind, u64)>,
    /// How many may begin in a minute now; absent without a rate.
    pub rate_per_minute: Option<u32>,
    /// How many began in the last minute; counted for a task with a rate.
    pub begun_last_minute: u64,
    /// The wave that is open, from 0; those before it are, too.
    pub open_wave: usize,
    pub waves: Vec<WaveFigures>,
    pub first_offered_at: Option<Timestamp>,
    /// When everything would be over if it went on as it went so far; absent before the first result.
    pub estimated_end: Option<Timestamp>,
}

/// One wave of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaveFigures {
    /// How many devices it had at creation.
    pub devices: u32,
    pub succeeded: u32,
    /// How many have to succeed before the next wave opens.
    pub successes_needed: u32,
}

/// Why a device stands where it stands with a task.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub task: Arc<Task>,
    pub explained: Explained,
    pub permits_held: u64,
    /// Its place among those that wait, from 1, and how many wait. Devices that are sent their upgrade take their turn by it;
    /// among those that ask, whoever asks first is first.
    pub queue: Option<(u64, u64)>,
    /// Its wave, from 0, and the one that is open.
    pub wave: Option<(usize, usize)>,
    pub rate_per_minute: Option<u32>,
}

#[derive(Clone, Debug)]
pub enum Explained {
    /// It holds a permit, or waits for a person.
    Runs(Arc<Upgrade>),
    Finished(UpgradeState),
    Waits {
        reason: WaitReason,
        /// When it would be told to ask again, if it asked now.
        retry_after_s: u32,
    },
    /// It would be offered the upgrade if it asked now.
    MayBegin,
    TaskStopped,
    /// It runs another task's upgrade of this component first.
    RunsAnother(TaskId),
    /// It runs a version that the task doesn't lead from.
    OtherVersion,
    OutOfScope,
    ScheduleOver,
}

impl State {
    /// How far a task has come, as of `now`.
    pub fn task_outlook(&self, task: TaskNumber, now: Timestamp) -> Option<TaskOutlook> {
        let entry = self.task_entry(task)?;
        let row = entry.view.row();
        let to_come = self.to_come(entry).len();
        let tally = entry.tally();
        let pace = entry.pace.as_deref();
        let minute_ago_s = now.as_seconds().saturating_sub(60);
        let starts = pace.into_iter().flat_map(|pace| &pace.starts).filter(|start| start.second > minute_ago_s);
        let waves = row.waves.iter().zip(&entry.succeeded_by_wave);
        Some(TaskOutlook {
            to_come,
            failures: FailureKind::ALL.into_iter().map(|kind| (kind, tally.failures(Some(kind)))).collect(),
            rate_per_minute: entry.rate_per_minute(),
            begun_last_minute: starts.map(|start| u64::from(start.count)).sum(),
            open_wave: entry.open_wave(),
            waves: waves
                .map(|(wave, succeeded)| WaveFigures {
                    devices: wave.devices,
                    succeeded: *succeeded,
                    successes_needed: wave.successes,
                })
                .collect(),
            first_offered_at: pace.and_then(|pace| pace.first_offered_at),
            estimated_end: pace.and_then(|pace| pace.first_offered_at).and_then(|first| {
                let over = entry.finished.devices().len();
                let left = to_come + entry.unfinished.len();
                let so_far_s = first.seconds_until(now);
                (over > 0 && left > 0).then(|| now.plus_seconds(so_far_s.saturating_mul(left) / over))
            }),
        })
    }

    /// Why the device stands where it stands with each task that leads from the version it runs, newest first: the first that
    /// isn't out of the question is the one that decides. `None` where the device isn't there.
    pub fn explain(&self, device: DeviceRef<'_>, component: Component, now: Timestamp) -> Option<Vec<Explanation>> {
        let product = self.product_number(device.organization, device.product_id)?;
        let number = self.device_number(product, device.device_id)?;
        let row = Arc::clone(self.device_row(number)?);
        let Some(version) = row.version(component) else { return Some(Vec::new()) };
        let key = crate::index::StartKey { product, component, version: Arc::clone(version) };
        let tasks = self.starts.get(&key).into_iter().flatten().rev();
        Some(tasks.filter_map(|task| self.explain_task(*task, &row, now)).collect())
    }

    /// Why a device stands where it stands with one task.
    pub fn explain_task(&self, task: TaskNumber, device: &Device, now: Timestamp) -> Option<Explanation> {
        let entry = self.task_entry(task)?;
        let run = self.run(task, device.number);
        let explained = match &run {
            Some(Run::Live(row)) if row.state != UpgradeState::Waiting => Explained::Runs(Arc::clone(row)),
            Some(Run::Finished(state)) if self.standing(task, device.number) == Standing::Done => Explained::Finished(*state),
            _ if !search::is_at_start(entry.view.row(), device) => Explained::OtherVersion,
            _ => {
                let asker = Asker { row: Some(device), number: device.number };
                let standing = |task| self.standing(task, device.number);
                match rollout::judge(&entry.view, asker, standing, &Truth(self), &self.limits, now) {
                    Judgement::Nothing(Never::Stopped) => Explained::TaskStopped,
                    Judgement::Nothing(Never::OutOfScope | Never::Done) => Explained::OutOfScope,
                    Judgement::Nothing(Never::Over) => Explained::ScheduleOver,
                    Judgement::Wait(wait) | Judgement::AskPerson(wait) => {
                        Explained::Waits { reason: wait.reason, retry_after_s: wait.retry_after_s }
                    }
                    Judgement::Free if device.details().gateway.is_some() && !self.is_connected(device.number) => {
                        Explained::Waits { reason: WaitReason::Gateway, retry_after_s: self.limits.cap_retry_after_s }
                    }
                    Judgement::Free => Explained::MayBegin,
                }
            }
        };
        let other = self.held_offer(device.number, entry.view.row().component);
        let explained = match (explained, other) {
            (Explained::Waits { .. } | Explained::MayBegin, Some(offer)) => Explained::RunsAnother(offer.task.row().id),
            (explained, _) => explained,
        };
        let queue = matches!(explained, Explained::Waits { .. } | Explained::MayBegin).then(|| {
            let waiting = self.runs(task, &[UpgradeState::Waiting, UpgradeState::AwaitingConfirmation]);
            (waiting.rank(device.number.0), waiting.len())
        });
        Some(Explanation {
            task: Arc::clone(entry.view.row()),
            explained,
            permits_held: entry.permits_held,
            queue,
            wave: self.wave_of(task, device.number).map(|(wave, _)| (wave, entry.open_wave())),
            rate_per_minute: entry.rate_per_minute(),
        })
    }
}

/// One sentence for a person.
impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reason, retry_after_s) = match &self.explained {
            Explained::Runs(row) if row.state == UpgradeState::AwaitingConfirmation => {
                return formatter.write_str("held until a person says yes for this device");
            }
            Explained::Runs(row) => {
                return write!(formatter, "{} in attempt {}, {} %", row.state.name(), row.attempts, row.percent);
            }
            Explained::Finished(state) => return write!(formatter, "over: {}", state.name()),
            Explained::MayBegin => return formatter.write_str("may begin as soon as it asks"),
            Explained::TaskStopped => return formatter.write_str("the task is stopped"),
            Explained::RunsAnother(task) => return write!(formatter, "runs its upgrade of task {task} first"),
            Explained::OtherVersion => return formatter.write_str("runs a version that the task does not lead from"),
            Explained::OutOfScope => return formatter.write_str("not in the scope of the task"),
            Explained::ScheduleOver => return formatter.write_str("the schedule of the task is over"),
            Explained::Waits { reason, retry_after_s } => (*reason, *retry_after_s),
        };
        match reason {
            WaitReason::Cap => match self.task.policy.maximum_concurrency {
                Some(cap) if self.permits_held >= u64::from(cap) => {
                    write!(formatter, "held by cap: {} of {cap}", self.permits_held)?;
                }
                _ => formatter.write_str("held by the cap of the whole server")?,
            },
            WaitReason::Rate => match self.rate_per_minute {
                Some(rate) => write!(formatter, "held by rate: {rate} have begun in the last minute")?,
                None => formatter.write_str("held by rate")?,
            },
            WaitReason::Wave => {
                let (wave, open) = self.wave.unwrap_or_default();
                write!(formatter, "held by wave: in wave {}, wave {} is open", wave + 1, open + 1)?;
            }
            WaitReason::Schedule => formatter.write_str("held by schedule: the window is closed")?,
            WaitReason::BackOff => formatter.write_str("held by back-off after a failure")?,
            WaitReason::Paused => formatter.write_str("held because the task is paused")?,
            WaitReason::Approval => formatter.write_str("held until an operator approves the task")?,
            WaitReason::Confirmation => formatter.write_str("held until a person says yes for this device")?,
            WaitReason::StartJitter => formatter.write_str("held by its own delay after the start")?,
            // It may well ask by itself, but nobody knows when.
            WaitReason::Gateway => return formatter.write_str("held by gateway: the one that it hangs behind is not connected"),
        }
        if let Some((place, waiting)) = self.queue {
            write!(formatter, "; number {place} of {waiting} in the queue")?;
        }
        write!(formatter, "; asks again in {retry_after_s} s")
    }
}
