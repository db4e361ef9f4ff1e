//! Served bytes of signed links, as progress of the upgrades that the links name.
//!
//! A device that fetches in ranges may fetch some twice; what was served is an upper bound of what it has. So progress stays below
//! 100 until as many bytes went out as the image has, and is told to the engine in steps, not byte by byte.
//!
//! Invariants:
//!   - At most `ENTRIES_MAX` upgrades are followed; further ones are served just as well, without progress.
//!   - Serving never waits for the engine: a command that finds the queue full is counted, and the next piece tells the step again.

use crate::app;
use crate::image::CountServed;
use crate::metrics::Metrics;
use dashmap::DashMap;
use sluicegate::Engine;
use sluicegate::model::{Timestamp, UpgradeId};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

/// How far the downloads of signed links are.
#[derive(Debug)]
pub struct Downloads {
    engine: Engine,
    metrics: Arc<Metrics>,
    entries: DashMap<UpgradeId, Download>,
    /// Beside the map, whose own count takes every shard's lock.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Download {
    served_bytes: u64,
    percent_told: u8,
    touched_at: Timestamp,
}

/// Progress that the engine is told of at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    from_percent: u8,
    to_percent: u8,
}

impl Download {
    /// The step that these bytes complete, marked as told.
    fn add(&mut self, bytes: u64, size: u64) -> Option<Step> {
        self.served_bytes = self.served_bytes.saturating_add(bytes);
        let step = Step { from_percent: self.percent_told, to_percent: percent(self.served_bytes, size) };
        let is_worth_telling =
            step.to_percent > step.from_percent && (step.to_percent == 100 || step.to_percent - step.from_percent >= STEP_PERCENT);
        if is_worth_telling {
            self.percent_told = step.to_percent;
        }
        is_worth_telling.then_some(step)
    }

    /// The engine didn't take the step, so the next piece has it too. Unless another connection's piece told more meanwhile.
    fn take_back(&mut self, step: Step) {
        if self.percent_told == step.to_percent {
            self.percent_told = step.from_percent;
        }
    }
}

/// About 100 bytes each.
const ENTRIES_MAX: usize = 200_000;
/// Fewer steps than this are told one by one.
const STEP_PERCENT: u8 = 5;
/// A download that rested this long begins anew.
const FORGET_AFTER_S: u64 = 3_600;

impl Downloads {
    pub fn new(engine: Engine, metrics: Arc<Metrics>) -> Self {
        Self { engine, metrics, entries: DashMap::new(), count: AtomicUsize::new(0) }
    }

    /// Adds up; the step where it is worth telling.
    fn step(&self, upgrade: UpgradeId, bytes: u64, size: u64, now: Timestamp) -> Option<Step> {
        if !self.entries.contains_key(&upgrade) && self.count.load(Ordering::Relaxed) >= ENTRIES_MAX {
            return None;
        }
        let mut download = self.entries.entry(upgrade).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            Download { served_bytes: 0, percent_told: 0, touched_at: now }
        });
        download.touched_at = now;
        download.add(bytes, size)
    }

    fn tell(&self, upgrade: UpgradeId, step: Step, now: Timestamp) {
        let percent = step.to_percent;
        let mut pending = self.engine.served(upgrade, percent, now);
        // Looked at once: what is refused outright is refused by now. What waits for the disk goes on without us.
        let looked = Pin::new(&mut pending).poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Err(error)) = looked {
            self.metrics.progress_failed();
            tracing::debug!(%upgrade, percent, %error, "served bytes were not recorded as progress");
            if let Some(mut download) = self.entries.get_mut(&upgrade) {
                download.take_back(step);
            }
        }
    }

    /// Forgets what has rested for long. Called now and then.
    pub fn forget_resting(&self, now: Timestamp) {
        self.entries.retain(|_, download| {
            let keep = download.touched_at.plus_seconds(FORGET_AFTER_S) > now;
            if !keep {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            keep
        });
    }
}

impl CountServed for Downloads {
    fn served(&self, upgrade: UpgradeId, bytes: u64, size_bytes: u64) {
        let now = app::now();
        if let Some(step) = self.step(upgrade, bytes, size_bytes, now) {
            self.tell(upgrade, step, now);
        }
    }
}

fn percent(served_bytes: u64, size: u64) -> u8 {
    if served_bytes >= size {
        return 100;
    }
    let percent = u128::from(served_bytes) * 100 / u128::from(size);
    percent.min(99) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_as_many_bytes_as_the_image_has_make_it_whole() {
        assert_eq!(percent(0, 8), 0);
        assert_eq!(percent(7, 8), 87);
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
        assert_eq!(percent(8, 8), 100);
        assert_eq!(percent(9, 8), 100);
        assert_eq!(percent(0, 0), 100);
    }

    #[test]
    fn a_step_that_was_refused_is_told_again_with_the_next_piece() {
        let mut download = Download { served_bytes: 0, percent_told: 0, touched_at: Timestamp(0) };
        assert_eq!(download.add(4, 100), None, "too small a step");
        let step = Step { from_percent: 0, to_percent: 8 };
        assert_eq!(download.add(4, 100), Some(step));
        download.take_back(step);
        let further = Step { from_percent: 0, to_percent: 9 };
        assert_eq!(download.add(1, 100), Some(further));
        assert_eq!(download.add(1, 100), None, "told already");
        download.take_back(step);
        assert_eq!(download.percent_told, 9, "what was told since stays told");
    }
}
