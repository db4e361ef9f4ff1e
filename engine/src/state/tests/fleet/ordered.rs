//! What the oracle remembers: tasks as they were ordered, and each device's run of them.

use crate::model::*;

/// One device's run of one task.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    pub stage: Stage,
    pub attempts: u32,
    /// Offers that it had, over all its attempts.
    pub offers: u32,
    pub again: Option<Again>,
    /// Its own delay after the start, once it was told.
    pub delay_s: Option<u64>,
    pub confirmed: bool,
    pub forced: bool,
    /// How its newest ended attempt went.
    pub newest: Option<Ended>,
    pub wave: usize,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Stage {
    #[default]
    ToCome,
    /// A person was asked.
    Asked,
    Held {
        id: UpgradeId,
        from: &'static str,
        state: UpgradeState,
        deadline: Option<Timestamp>,
    },
    Over(UpgradeState),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ended {
    Well,
    Badly(FailureKind),
}

/// When a device that failed may try again. Its jitter is not known before it is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    pub earliest: Timestamp,
    pub latest: Timestamp,
}

/// A task as it was ordered, and the oracle's own sums.
#[derive(Debug)]
pub(super) struct Ordered {
    pub id: TaskId,
    pub from: Vec<&'static str>,
    pub to: &'static str,
    pub rings: Option<Vec<u8>>,
    /// Of a snapshot.
    pub members: Option<Vec<bool>>,
    pub policy: Policy,
    pub status: TaskStatus,
    pub approved: bool,
    pub canceled: bool,
    pub finished_at: Option<Timestamp>,
    /// When it last became started.
    pub began_at: Timestamp,
    pub runs: Vec<Run>,
    pub held: u64,
    pub held_most: u64,
    /// The seconds in which upgrades began, oldest first, with how many.
    pub starts: Vec<(u64, u64)>,
    pub notified: u64,
    pub succeeded: u64,
    pub failures: [u64; 3],
    pub wave_sizes: Vec<u64>,
    pub wave_successes: Vec<u64>,
    pub wave_open: usize,
    pub waves_owed: u64,
    pub stop_owed: Option<ThresholdAction>,
    /// The results that had come when a threshold stopped it.
    pub stopped_after: Vec<u64>,
}

impl Ordered {
    pub(super) fn failures(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// How many began from one second to before another.
    pub(super) fn begun(&self, from_s: u64, to_s: u64) -> u64 {
        self.starts.iter().filter(|(second, _)| (from_s..to_s).contains(second)).map(|(_, count)| count).sum()
    }

    pub(super) fn new(id: TaskId, from: Vec<&'static str>, to: &'static str, policy: Policy) -> Self {
        Self {
            id,
            from,
            to,
            rings: None,
            members: None,
            policy,
            status: TaskStatus::Stopped,
            approved: false,
            canceled: false,
            finished_at: None,
            began_at: Timestamp(0),
            runs: Vec::new(),
            held: 0,
            held_most: 0,
            starts: Vec::new(),
            notified: 0,
            succeeded: 0,
            failures: [0; 3],
            wave_sizes: Vec::new(),
            wave_successes: Vec::new(),
            wave_open: 0,
            waves_owed: 0,
            stop_owed: None,
            stopped_after: Vec::new(),
        }
    }
}
