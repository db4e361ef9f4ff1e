//! Shedding: a worker that has more to do than it can says so while those whom it still serves are served in time.
//!
//! Everything that a worker has to do waits in one queue, so one thing that waits tells how long everything does: a task of the worker's
//! own asks to be woken every so often and looks how much later it is. Where that is more than `limits.wait_max_ms`, a growing share of
//! what is asked is answered with 503 and `Retry-After`; once it is less, a falling one. Who is refused is drawn by lot, and when to
//! come back, too: nobody is refused for good, and those who were don't come back together. Whom it doesn't concern, the dialects know.
//! Who comes back too soon on the same connection is kept waiting rather than refused again.
//!
//! Life cycle: 1. one for each worker   2. [`Pressure::watch`] runs as long as the worker   3. each request asks [`Pressure::refusal`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How much one worker has to do. Only its own thread touches it; atomic because the compiler can't know that.
#[derive(Debug)]
pub struct Pressure {
    wait_max: Duration,
    /// The share of devices' requests that is refused, of [`WHOLE`].
    refused_share: AtomicU32,
    random: AtomicU32,
}

const WHOLE: u32 = 1 << 20;
/// Some are served whatever happens, or nothing would show that it is over.
const REFUSED_SHARE_MAX: f64 = 0.9;
/// How fast the share changes at most: from none to half, and back, in a second.
const CHANGE_PER_S: f64 = 0.5;
/// While it lasts, and at most so often where it comes and goes.
const TELL_EVERY: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// When to come back: soon enough for a device with something to tell, and spread.
const RETRY_AFTER_S: std::ops::Range<u32> = 5..16;

impl Pressure {
    pub fn new(wait_max: Duration, seed: u32) -> Self {
        Self { wait_max, refused_share: AtomicU32::new(0), random: AtomicU32::new(seed.max(1)) }
    }

    /// Looks again and again how long things wait here.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut looked = Instant::now();
        let mut told: Option<Instant> = None;
        loop {
            let due = Instant::now() + LOOK_EVERY;
            tokio::time::sleep_until(due).await;
            let now = Instant::now();
            self.note(now.saturating_duration_since(due), now.saturating_duration_since(looked));
            looked = now;
            if self.refused_share.load(Ordering::Relaxed) > 0
                && told.is_none_or(|told| now.saturating_duration_since(told) >= TELL_EVERY)
            {
                told = Some(now);
                tracing::warn!(
                    wait_max_ms = self.wait_max.as_millis() as u64,
                    "more is asked than this machine does in time; a share of the devices is told to come back later"
                );
            }
        }
    }

    /// Things wait this long, as seen this long after the last look.
    fn note(&self, waited: Duration, since_last: Duration) {
        let excess = (waited.as_secs_f64() / self.wait_max.as_secs_f64() - 1.0).clamp(-1.0, 1.0);
        // A machine that slept was not overloaded for all that time.
        let change = excess * CHANGE_PER_S * since_last.as_secs_f64().min(1.0);
        let share = f64::from(self.refused_share.load(Ordering::Relaxed)) / f64::from(WHOLE);
        let share = (share + change).clamp(0.0, REFUSED_SHARE_MAX);
        self.refused_share.store((share * f64::from(WHOLE)) as u32, Ordering::Relaxed);
    }

    /// Whether any are refused.
    pub(super) fn is_on(&self) -> bool {
        self.refused_share.load(Ordering::Relaxed) > 0
    }

    /// Whether this request is one of those refused: after how many seconds it may come again.
    pub(super) fn refusal(&self) -> Option<u32> {
        let share = self.refused_share.load(Ordering::Relaxed);
        if share == 0 || self.draw(WHOLE) >= share {
            return None;
        }
        Some(RETRY_AFTER_S.start + self.draw(RETRY_AFTER_S.end - RETRY_AFTER_S.start))
    }

    /// A number below `bound`, by xorshift: nobody gains by guessing the next.
    fn draw(&self, bound: u32) -> u32 {
        let mut random = self.random.load(Ordering::Relaxed);
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        self.random.store(random, Ordering::Relaxed);
        ((u64::from(random) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT_MAX: Duration = Duration::from_millis(500);

    fn noted(pressure: &Pressure, waited: Duration, seconds: u32) {
        (0..seconds * 10).for_each(|_| pressure.note(waited, LOOK_EVERY));
    }

    fn refused_of_1000(pressure: &Pressure) -> usize {
        (0..1_000).filter(|_| pressure.refusal().is_some()).count()
    }

    #[test]
    fn nobody_is_refused_while_things_are_done_in_time() {
        let pressure = Pressure::new(WAIT_MAX, 1);
        noted(&pressure, WAIT_MAX, 100);
        assert_eq!(refused_of_1000(&pressure), 0);
    }

    #[test]
    fn the_longer_things_wait_the_more_are_refused_but_never_all() {
        let pressure = Pressure::new(WAIT_MAX, 1);
        noted(&pressure, WAIT_MAX * 3 / 2, 1);
        let little = refused_of_1000(&pressure);
        noted(&pressure, WAIT_MAX * 10, 1);
        let more = refused_of_1000(&pressure);
        noted(&pressure, WAIT_MAX * 10, 100);
        let most = refused_of_1000(&pressure);
        assert!((150..350).contains(&little) && (650..850).contains(&more) && (850..950).contains(&most), "{little} {more} {most}");
    }

    #[test]
    fn everybody_is_served_again_once_it_is_over() {
        let pressure = Pressure::new(WAIT_MAX, 1);
        noted(&pressure, WAIT_MAX * 10, 100);
        noted(&pressure, Duration::ZERO, 2);
        assert_eq!(refused_of_1000(&pressure), 0);
    }

    #[test]
    fn one_long_pause_of_the_machine_refuses_half_at_most() {
        let pressure = Pressure::new(WAIT_MAX, 1);
        pressure.note(Duration::from_secs(3_600), Duration::from_secs(3_600));
        assert!(refused_of_1000(&pressure) < 600);
    }

    #[test]
    fn they_come_back_at_different_times() {
        let pressure = Pressure::new(WAIT_MAX, 7);
        noted(&pressure, WAIT_MAX * 10, 100);
        let mut times: Vec<u32> = (0..1_000).filter_map(|_| pressure.refusal()).collect();
        times.sort_unstable();
        times.dedup();
        assert_eq!(times, RETRY_AFTER_S.collect::<Vec<_>>());
    }
}
