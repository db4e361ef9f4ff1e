//! How a task may proceed: who may begin when, how many at once, how fast, and what happens when it goes wrong.

use super::{TaskNumber, Timestamp};
use serde::{Deserialize, Serialize};

/// How a task may proceed. The default holds nobody back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// At most this many devices upgrade at once; absent means no bound of its own.
    pub maximum_concurrency: Option<u32>,
    /// Seconds until a result; absent means the engine's default.
    pub timeout_s: Option<u32>,
    /// What `timeout_s` counts from.
    pub timeout_from: TimeoutFrom,
    pub retry: Option<Retry>,
    pub schedule: Schedule,
    /// A device that succeeded, and asks from a from-version all the same, is offered again.
    pub repeat_after_success: bool,
    /// How many may begin in a minute; absent means any number.
    pub rate: Option<Rate>,
    /// In order; each opens once the one before it has succeeded far enough. Empty: everybody at once.
    pub waves: Vec<Wave>,
    /// Each begins not at once when the task is started, resumed or approved, or its window opens, but after a delay of its own
    /// below this many seconds.
    pub start_jitter_s: u32,
    /// When the task stops by itself.
    pub thresholds: Vec<Threshold>,
    /// Nothing begins before an operator has approved the task.
    pub approval: bool,
    /// No device begins before a person has said yes for it.
    pub confirmation: bool,
    /// What a device runs when it next asks ends its upgrade, report or not: the target is a success, and any version but the one that
    /// it began from a failure. For devices that tell their version rather than a result.
    pub version_decides: bool,
}

/// Where a deadline starts to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeoutFrom {
    /// The offer: a device that never begins gives its permit back in time.
    #[default]
    Offer,
    /// The first sign that the device has begun. Until then the offer stands without end.
    Running,
}

/// What happens after a failure or a missed deadline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Further attempts; `u32::MAX` means without end.
    pub count: u32,
    /// Seconds until the device may try again.
    pub interval_s: u32,
    pub back_off: Option<BackOff>,
    /// Up to this many seconds are added, other ones for each device and attempt.
    pub jitter_s: u32,
    /// Only failures with one of these codes are retried; empty: all. A missed deadline has no code and is always retried.
    pub codes: Vec<i32>,
}

/// Each further attempt waits longer than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackOff {
    /// What the interval is multiplied by after each failure, in percent: 200 doubles it.
    pub factor_percent: u32,
    /// The interval grows no further than this.
    pub interval_max_s: u32,
}

/// When devices may begin. Those that run when a window closes go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    pub start: Option<Timestamp>,
    pub end: Option<Timestamp>,
    pub daily: Option<Daily>,
    /// What `daily` counts from, in minutes east of UTC.
    pub utc_offset_minutes: i16,
}

/// A window of every day, in seconds since midnight; `from` later than `to` spans midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daily {
    pub from_s: u32,
    /// Belongs to the window.
    pub to_s: u32,
}

/// How many may begin in any 60 consecutive seconds of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub per_minute: u32,
    pub growth: Option<Growth>,
}

/// The rate is multiplied by a factor each time that many more devices have come so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// In percent: 150 is half as many again.
    pub factor_percent: u32,
    /// How many devices make a step.
    pub after: u32,
    pub counting: Counting,
    pub per_minute_max: u32,
}

/// What the steps of a growing rate count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Counting {
    /// Devices that have been offered the upgrade.
    #[default]
    Notified,
    /// Devices that have succeeded.
    Succeeded,
}

/// A part of the devices that goes before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    pub size: WaveSize,
    /// The next wave opens when this many percent of this one have succeeded.
    pub success_percent: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaveSize {
    /// Of the devices that are there when the task is created.
    Percent(u8),
    Count(u32),
}

/// A wave as it was measured out at creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredWave {
    /// The devices whose place is not larger, and not in an earlier wave. A device's place is a hash of task and device.
    pub to_place: u64,
    /// How many were there at creation.
    pub devices: u32,
    /// How many of the wave have to succeed before the next one opens.
    pub successes: u32,
}

/// How an attempt can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    Failed,
    /// The device would not have it.
    Rejected,
    /// No result before the deadline.
    TimedOut,
}

impl FailureKind {
    pub const ALL: [Self; 3] = [Self::Failed, Self::Rejected, Self::TimedOut];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed_out",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// When a task stops by itself: looked at after every attempt that went wrong, and after the success that makes up the minimum.
///
/// Devices are counted, not attempts: each by how its newest ended attempt went, whether or not it will be tried again. One that an
/// operator cancels, retries or forces leaves the count until its next attempt has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threshold {
    /// Which failures count; absent: all.
    pub kind: Option<FailureKind>,
    /// Of the devices that have a result.
    pub percent: u8,
    /// Not before this many devices have a result.
    pub minimum: u32,
    pub action: ThresholdAction,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThresholdAction {
    /// Begins nothing new; what runs goes on.
    #[default]
    Pause,
    /// What runs is taken back, too.
    Cancel,
}

impl ThresholdAction {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Cancel => "cancel",
        }
    }
}

/// How far a task has come, where its upgrades alone don't tell (row). There from the first offer or the first opened wave on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    pub task: TaskNumber,
    pub first_offered_at: Option<Timestamp>,
    /// Devices that were offered the upgrade; counted for a task with a rate. One whose finished run begins anew counts again.
    pub notified: u64,
    /// Upgrades begun in each second of the last minute; kept for a task with a rate. Oldest first.
    pub starts: Vec<SecondCount>,
    /// The wave that is open, from 0; those before it are, too.
    pub wave: u32,
}

impl Pace {
    pub const fn new(task: TaskNumber) -> Self {
        Self { task, first_offered_at: None, notified: 0, starts: Vec::new(), wave: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondCount {
    /// Since 1970.
    pub second: u64,
    pub count: u32,
}
