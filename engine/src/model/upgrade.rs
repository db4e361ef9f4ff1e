//! One device's run of one task, and its life cycle as pure transitions.
//!
//! ```text
//!                     ┌────────────── retry ──────────────┐
//!                     ▼                                    │
//!  Waiting ──▶ Offered ──▶ Downloading ──▶ Downloaded ──▶ Installing ──▶ Succeeded
//!     ▲           │             │               │              │          Failed
//!     │           └──────┬──────┴───────┬───────┴──────────────┘          Rejected
//!     │                  ▼              ▼                                 TimedOut
//!  AwaitingConfirmation  Paused (and back to where the report says)       Canceled
//! ```
//!
//! A permit is held exactly in `Offered … Installing` and `Paused`. Running states never go backwards. A result is final for its
//! attempt: `Failed` and `TimedOut` become `Waiting` while the retry policy has attempts left, and a new attempt has a new
//! [`UpgradeId`].

use super::{DeviceNumber, FailureKind, TaskNumber, Timestamp, UpgradeId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum UpgradeState {
    Waiting = 0,
    AwaitingConfirmation = 1,
    Offered = 2,
    Downloading = 3,
    Downloaded = 4,
    Installing = 5,
    Paused = 6,
    Succeeded = 7,
    Failed = 8,
    Rejected = 9,
    TimedOut = 10,
    Canceled = 11,
}

impl UpgradeState {
    pub const ALL: [Self; 12] = [
        Self::Waiting,
        Self::AwaitingConfirmation,
        Self::Offered,
        Self::Downloading,
        Self::Downloaded,
        Self::Installing,
        Self::Paused,
        Self::Succeeded,
        Self::Failed,
        Self::Rejected,
        Self::TimedOut,
        Self::Canceled,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::AwaitingConfirmation => "awaiting_confirmation",
            Self::Offered => "offered",
            Self::Downloading => "downloading",
            Self::Downloaded => "downloaded",
            Self::Installing => "installing",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed_out",
            Self::Canceled => "canceled",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// The state stored as `number`.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// A permit is held in exactly these states.
    pub const fn holds_permit(self) -> bool {
        matches!(self, Self::Offered | Self::Downloading | Self::Downloaded | Self::Installing | Self::Paused)
    }

    /// Nothing more happens in this run.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Rejected | Self::TimedOut | Self::Canceled)
    }

    /// Where a running upgrade goes when its device reports `report`; `None` where that changes nothing.
    ///
    /// Total over every pair, so that a late, repeated or out-of-order report has an answer.
    pub fn after(self, report: ReportedState) -> Option<Self> {
        if !self.holds_permit() {
            return None;
        }
        let next = report.state();
        // Forward, to a result, into a pause, or out of one to wherever the device says it is.
        let moves = next.is_finished() || (next == Self::Paused) != (self == Self::Paused) || next > self;
        moves.then_some(next)
    }
}

/// What a device can say of its upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReportedState {
    Downloading,
    Downloaded,
    Installing,
    Paused,
    Succeeded,
    Failed,
    Rejected,
    /// Whoever speaks for the device has waited for it in vain.
    TimedOut,
    /// It was taken back where the device is, and not here.
    Canceled,
}

impl ReportedState {
    pub const ALL: [Self; 9] = [
        Self::Downloading,
        Self::Downloaded,
        Self::Installing,
        Self::Paused,
        Self::Succeeded,
        Self::Failed,
        Self::Rejected,
        Self::TimedOut,
        Self::Canceled,
    ];
    /// What a device says of itself; the others are said of it.
    pub const OF_ITSELF: [Self; 7] =
        [Self::Downloading, Self::Downloaded, Self::Installing, Self::Paused, Self::Succeeded, Self::Failed, Self::Rejected];

    pub const fn state(self) -> UpgradeState {
        match self {
            Self::Downloading => UpgradeState::Downloading,
            Self::Downloaded => UpgradeState::Downloaded,
            Self::Installing => UpgradeState::Installing,
            Self::Paused => UpgradeState::Paused,
            Self::Succeeded => UpgradeState::Succeeded,
            Self::Failed => UpgradeState::Failed,
            Self::Rejected => UpgradeState::Rejected,
            Self::TimedOut => UpgradeState::TimedOut,
            Self::Canceled => UpgradeState::Canceled,
        }
    }

    /// One that a device says of itself.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::OF_ITSELF.into_iter().find(|reported| reported.state().name() == name)
    }
}

/// One device's run of one task (row); one per task and device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    pub task: TaskNumber,
    pub device: DeviceNumber,
    pub state: UpgradeState,
    /// Offers made so far.
    pub attempts: u32,
    /// Of the step it is in, 0 to 100.
    pub percent: u8,
    /// The sequence number of the event that told of the newest offer; 0 before the first.
    pub offer: u64,
    pub from_version: Arc<str>,
    /// What the device or the engine said last of why it stands where it stands.
    pub detail: Option<Arc<str>>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub offered_at: Option<Timestamp>,
    /// When the permit ends without a result. Present exactly while a permit with a deadline is held.
    pub deadline: Option<Timestamp>,
    /// While waiting: not before this time.
    pub not_before: Option<Timestamp>,
    /// It succeeded in an earlier run; counts are of devices, not of runs.
    pub succeeded_before: bool,
    /// How the newest ended attempt went wrong; none after a success.
    pub failure: Option<Failure>,
    /// A person has said yes, where the policy asks for one.
    pub confirmed: bool,
    /// While waiting: an operator lets it begin whatever everything but the scope and the cap says.
    pub forced: bool,
}

/// How an attempt went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// As the device gave it.
    pub code: Option<i32>,
}

impl Upgrade {
    /// One that waits and has never been offered.
    pub fn waiting(task: TaskNumber, device: DeviceNumber, from_version: Arc<str>, at: Timestamp) -> Self {
        Self {
            task,
            device,
            state: UpgradeState::Waiting,
            attempts: 0,
            percent: 0,
            offer: 0,
            from_version,
            detail: None,
            created_at: at,
            updated_at: at,
            offered_at: None,
            deadline: None,
            not_before: None,
            succeeded_before: false,
            failure: None,
            confirmed: false,
            forced: false,
        }
    }

    /// The id of the newest attempt, once there is one.
    pub fn id(&self) -> Option<UpgradeId> {
        (self.offer != 0).then_some(UpgradeId { task: self.task, device: self.device, offer: self.offer })
    }
}

/// How many upgrades stand in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts([u64; UpgradeState::ALL.len()]);

impl StateCounts {
    pub fn get(&self, state: UpgradeState) -> u64 {
        self.0[state as usize]
    }

    pub fn set(&mut self, state: UpgradeState, count: u64) {
        self.0[state as usize] = count;
    }

    pub fn iter(&self) -> impl Iterator<Item = (UpgradeState, u64)> + '_ {
        UpgradeState::ALL.into_iter().map(|state| (state, self.get(state)))
    }

    pub fn permits_held(&self) -> u64 {
        self.iter().filter(|(state, _)| state.holds_permit()).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_states_never_go_backwards_and_results_are_final() {
        for state in UpgradeState::ALL {
            for report in ReportedState::ALL {
                let Some(next) = state.after(report) else { continue };
                assert!(state.holds_permit(), "{state:?} holds no permit, yet moved on {report:?}");
                assert_ne!(state, next);
                let through_pause = state == UpgradeState::Paused || next == UpgradeState::Paused;
                assert!(through_pause || next > state, "{state:?} went back to {next:?}");
            }
        }
    }

    #[test]
    fn names_and_numbers_read_back() {
        for state in UpgradeState::ALL {
            assert_eq!(UpgradeState::from_name(state.name()), Some(state));
            assert_eq!(UpgradeState::from_number(state as u8), Some(state));
        }
    }
}
