//! The fleet's own account of what happened, against which the server's is held.
//!
//! Invariants:
//!   - Each interval in which a device is booked as upgrading lies inside the one in which the server holds its permit: it begins when
//!     the offer has *arrived*, and ends when the result is *sent*, or when the deadline may have passed at the earliest. So if more
//!     than the cap overlap here, the server has granted too many; and nothing the server says enters into it.
//!   - `acknowledged` of a device is what the server has confirmed, never more.

use crate::setup::device_id;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How far an upgrade has come. In order: a later one is never followed by an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stand {
    Nothing,
    Offered,
    Downloading,
    Downloaded,
    Installing,
    Succeeded,
    Failed,
    TimedOut,
}

impl Stand {
    const ALL: [Self; 8] = [
        Self::Nothing,
        Self::Offered,
        Self::Downloading,
        Self::Downloaded,
        Self::Installing,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
    ];

    /// The contract's name of the state.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "waiting",
            Self::Offered => "offered",
            Self::Downloading => "downloading",
            Self::Downloaded => "downloaded",
            Self::Installing => "installing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stand| stand.name() == name)
    }

    fn is_final(self) -> bool {
        self >= Self::Succeeded
    }
}

/// How one device's upgrade went, as the device knows it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) index: usize,
    pub(crate) held_from: Instant,
    pub(crate) held_until: Instant,
    pub(crate) result: Stand,
    /// The result arrived so late that the deadline may have come first: either is right.
    pub(crate) may_have_timed_out: bool,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    acknowledged: Vec<AtomicU8>,
    records: Mutex<Vec<Record>>,
    /// The first few things that were wrong, in words.
    mismatches: Mutex<Vec<String>>,
    mismatch_count: AtomicU64,
}

impl Ledger {
    pub(crate) fn new(devices: usize) -> Self {
        Self {
            acknowledged: (0..devices).map(|_| AtomicU8::new(Stand::Nothing as u8)).collect(),
            records: Mutex::new(Vec::with_capacity(devices)),
            mismatches: Mutex::new(Vec::new()),
            mismatch_count: AtomicU64::new(0),
        }
    }

    /// The server has confirmed that the device is there.
    pub(crate) fn acknowledge(&self, index: usize, stand: Stand) {
        // Release, with the Acquire in `snapshot`: what was read is what had been confirmed before.
        self.acknowledged[index].store(stand as u8, Ordering::Release);
    }

    /// Everything confirmed so far.
    pub(crate) fn snapshot(&self) -> Vec<Stand> {
        self.acknowledged.iter().map(|stand| Stand::ALL[usize::from(stand.load(Ordering::Acquire))]).collect()
    }

    pub(crate) fn finish(&self, record: Record) {
        lock(&self.records).push(record);
    }

    pub(crate) fn mismatch(&self, what: String) {
        self.mismatch_count.fetch_add(1, Ordering::Relaxed);
        let mut mismatches = lock(&self.mismatches);
        if mismatches.len() < MISMATCHES_KEPT {
            mismatches.push(what);
        }
    }

    pub(crate) fn mismatch_count(&self) -> u64 {
        self.mismatch_count.load(Ordering::Relaxed)
    }

    pub(crate) fn mismatches(&self) -> Vec<String> {
        lock(&self.mismatches).clone()
    }

    /// The most devices that upgraded at one instant.
    pub(crate) fn upgrading_at_once_max(&self) -> usize {
        overlap_max(lock(&self.records).iter().map(|record| (record.held_from, record.held_until)))
    }

    /// Holds the server's rows against the records, and returns how many devices should stand in each state.
    pub(crate) fn compare_results(&self, rows: &Rows) -> BTreeMap<&'static str, u64> {
        let mut expected: BTreeMap<&'static str, u64> = BTreeMap::new();
        let records = lock(&self.records).clone();
        for record in &records {
            let device = device_id(record.index);
            let row = rows.get(&device);
            let stand = row.and_then(|row| row.stand);
            let late = record.may_have_timed_out && stand == Some(Stand::TimedOut);
            let result = if late { Stand::TimedOut } else { record.result };
            *expected.entry(result.name()).or_default() += 1;
            match row {
                None => self.mismatch(format!("{device} has no row, expected {}", result.name())),
                Some(row) if row.stand != Some(result) => {
                    self.mismatch(format!("{device} stands at {}, expected {}", row.state, result.name()));
                }
                Some(row) if row.attempts != 1 => {
                    self.mismatch(format!("{device} was counted {} times, expected once", row.attempts))
                }
                Some(_) => {}
            }
        }
        expected
    }

    /// Holds the rows of a server that came back against what had been confirmed before it went.
    pub(crate) fn compare_after_restart(&self, before: &[Stand], rows: &Rows) {
        for (index, confirmed) in before.iter().enumerate().filter(|(_, stand)| **stand != Stand::Nothing) {
            let device = device_id(index);
            let stand = rows.get(&device).and_then(|row| row.stand);
            let kept = match stand {
                None => false,
                Some(stand) if confirmed.is_final() => stand == *confirmed,
                Some(stand) => stand >= *confirmed,
            };
            if !kept {
                let found = rows.get(&device).map_or("no row", |row| &row.state);
                self.mismatch(format!("after the restart {device} stands at {found}, but {} had been confirmed", confirmed.name()));
            }
        }
    }

    pub(crate) fn possibly_late(&self) -> usize {
        lock(&self.records).iter().filter(|record| record.may_have_timed_out).count()
    }
}

/// The server's upgrade rows by device.
pub(crate) type Rows = BTreeMap<String, Row>;

#[derive(Clone, Debug)]
pub(crate) struct Row {
    state: String,
    stand: Option<Stand>,
    attempts: u64,
}

impl Row {
    pub(crate) fn from_json(row: &Value) -> Self {
        let state = row["state"].as_str().unwrap_or("(no state)").to_owned();
        Self { stand: Stand::from_name(&state), state, attempts: row["attempts"].as_u64().unwrap_or(0) }
    }
}

/// A mutex is poisoned only by a panic, which ends the run anyway.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The most intervals that contain one instant; each includes its start, and not its end.
fn overlap_max(intervals: impl Iterator<Item = (Instant, Instant)>) -> usize {
    let mut changes = Vec::new();
    for (from, until) in intervals.filter(|(from, until)| from < until) {
        changes.push((from, 1));
        changes.push((until, -1));
    }
    // Ends sort before starts of the same instant.
    changes.sort_unstable();
    let mut current: isize = 0;
    let mut highest: isize = 0;
    for (_, change) in changes {
        current += change;
        highest = highest.max(current);
    }
    highest.unsigned_abs()
}

/// Deadlines are kept to the millisecond; this much earlier no deadline can have passed.
pub(crate) const DEADLINE_GRAIN: Duration = Duration::from_millis(10);
/// Enough to see what kind of thing went wrong.
const MISMATCHES_KEPT: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(zero: Instant, millisecond: u64) -> Instant {
        zero + Duration::from_millis(millisecond)
    }

    fn overlap_of(intervals: &[(u64, u64)]) -> usize {
        let zero = Instant::now();
        overlap_max(intervals.iter().map(|(from, until)| (at(zero, *from), at(zero, *until))))
    }

    #[test]
    fn overlap_counts_a_permit_handed_on_once() {
        assert_eq!(overlap_of(&[(0, 10), (10, 20), (20, 30)]), 1);
        assert_eq!(overlap_of(&[(0, 11), (10, 20)]), 2);
        assert_eq!(overlap_of(&[(0, 100), (10, 20), (15, 30), (25, 40)]), 3);
        assert_eq!(overlap_of(&[]), 0);
        assert_eq!(overlap_of(&[(5, 5)]), 0);
    }

    fn ledger_with(index: usize, result: Stand, may_have_timed_out: bool) -> Ledger {
        let ledger = Ledger::new(3);
        let now = Instant::now();
        ledger.finish(Record { index, held_from: now, held_until: now, result, may_have_timed_out });
        ledger
    }

    fn rows(rows: &[(usize, &str, u64)]) -> Rows {
        let rows = rows
            .iter()
            .map(|(index, state, attempts)| (device_id(*index), Row::from_json(&json!({ "state": state, "attempts": attempts }))));
        rows.collect()
    }

    #[test]
    fn a_result_that_the_server_lost_is_a_mismatch() {
        for (found, mismatches) in [("succeeded", 0), ("installing", 1), ("failed", 1), ("timed_out", 1), ("what", 1)] {
            let ledger = ledger_with(1, Stand::Succeeded, false);
            let expected = ledger.compare_results(&rows(&[(1, found, 1)]));
            assert_eq!(ledger.mismatch_count(), mismatches, "{found}");
            assert_eq!(expected, BTreeMap::from([("succeeded", 1)]));
        }
    }

    #[test]
    fn a_missing_row_and_a_second_count_are_mismatches() {
        let ledger = ledger_with(1, Stand::Failed, false);
        ledger.compare_results(&rows(&[(2, "failed", 1)]));
        ledger.compare_results(&rows(&[(1, "failed", 2)]));
        assert_eq!(
            ledger.mismatches(),
            ["device-0000001 has no row, expected failed", "device-0000001 was counted 2 times, expected once"]
        );
    }

    #[test]
    fn a_late_result_may_stand_as_timed_out() {
        let ledger = ledger_with(0, Stand::Succeeded, true);
        let expected = ledger.compare_results(&rows(&[(0, "timed_out", 1)]));
        assert_eq!((ledger.mismatch_count(), expected), (0, BTreeMap::from([("timed_out", 1)])));
    }

    #[test]
    fn what_was_confirmed_before_a_kill_may_have_gone_on_but_not_back() {
        let ledger = Ledger::new(3);
        ledger.acknowledge(0, Stand::Downloaded);
        ledger.acknowledge(1, Stand::Succeeded);
        let before = ledger.snapshot();
        ledger.compare_after_restart(&before, &rows(&[(0, "installing", 1), (1, "succeeded", 1)]));
        assert_eq!(ledger.mismatch_count(), 0);
        ledger.compare_after_restart(&before, &rows(&[(0, "offered", 1), (1, "failed", 1)]));
        ledger.compare_after_restart(&before, &rows(&[(0, "downloaded", 1)]));
        assert_eq!(ledger.mismatch_count(), 3, "{:?}", ledger.mismatches());
    }
}
