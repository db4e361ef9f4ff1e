//! How often somebody may call: so many calls a minute for each key, whoever the key stands for (an application, a device).
//!
//! A bucket for each key (`governor`): a minute's worth of calls may come at once, then as many as flow back, evenly, over the minute. So
//! who keeps to the rate is never refused, and who doesn't is told when the next call will pass. That is the right model for fairness;
//! where a promise is kept (the permits and the rate of a task) the engine counts exactly.
//!
//! Invariants:
//!   - No more than `keys_max` keys are remembered, each as two numbers: its keyed hash, and the time by which its bucket is full again.
//!   - A key whose bucket is full again is as good as one never seen, so it may be forgotten at any time: see
//!     [`forget_resting`](Limiter::forget_resting). Where every key that is remembered is busy, a further one passes uncounted:
//!     whoever fills the table takes nothing from others.
//!   - The clock is given: the server's is monotonic, a test's is moved by hand.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::{Quota, RateLimiter};
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Applications and devices that are busy within the same minute. A full table takes some 40 MB.
pub const KEYS_MAX: usize = 1_000_000;

/// While the table is full, one call in so many looks for keys to forget: that costs milliseconds.
const SWEEP_EVERY: u64 = 1_024;

/// Counts the calls of each key.
pub struct Limiter<C: Clock = MonotonicClock> {
    /// Absent: everything passes.
    buckets: Option<RateLimiter<u64, Buckets, C, NoOpMiddleware<C::Instant>>>,
    keys_max: usize,
    /// Keyed anew at each start, so that nobody can choose a key that meets another's.
    hasher: RandomState,
    calls_while_full: AtomicU64,
}

/// A call came too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// At least a second. The next call passes after it, unless another comes first.
    pub retry_after_s: u32,
}

impl Limiter {
    /// `calls_per_minute`: 0 lets everything pass.
    pub fn per_minute(calls_per_minute: u32) -> Self {
        Self::with_clock(calls_per_minute, KEYS_MAX, MonotonicClock)
    }
}

impl<C: Clock> Limiter<C> {
    pub fn with_clock(calls_per_minute: u32, keys_max: usize, clock: C) -> Self {
        let quota = NonZeroU32::new(calls_per_minute).map(Quota::per_minute);
        let buckets = quota.map(|quota| RateLimiter::new(quota, Buckets::new(keys_max), clock));
        Self { buckets, keys_max, hasher: RandomState::new(), calls_while_full: AtomicU64::new(0) }
    }

    /// Counts a call of this key, unless it comes too early: a refused call costs nothing further.
    pub fn check(&self, key: &(impl Hash + ?Sized)) -> Result<(), Exceeded> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        let is_full = buckets.len() >= self.keys_max;
        if is_full && self.calls_while_full.fetch_add(1, Ordering::Relaxed).is_multiple_of(SWEEP_EVERY) {
            buckets.retain_recent();
        }
        buckets.check_key(&self.hasher.hash_one(key)).map_err(|refused| {
            let wait = refused.wait_time_from(buckets.clock().now());
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            Exceeded { retry_after_s: u32::try_from(seconds).unwrap_or(u32::MAX).max(1) }
        })
    }

    /// Forgets the keys whose buckets have been full for as long as one call takes to flow back.
    pub fn forget_resting(&self) {
        if let Some(buckets) = &self.buckets {
            buckets.retain_recent();
            buckets.shrink_to_fit();
        }
    }
}

impl<C: Clock> fmt::Debug for Limiter<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.buckets.as_ref().map(RateLimiter::len);
        formatter.debug_struct("Limiter").field("keys", &keys).field("keys_max", &self.keys_max).finish_non_exhaustive()
    }
}

/// When the bucket of each key is full again.
#[derive(Debug)]
struct Buckets {
    full_at: DashMap<u64, Nanos>,
    /// Kept beside the map, whose own count locks every part of it.
    count: AtomicUsize,
    keys_max: usize,
}

impl Buckets {
    fn new(keys_max: usize) -> Self {
        Self { full_at: DashMap::new(), count: AtomicUsize::new(0), keys_max }
    }
}

impl StateStore for Buckets {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        match self.full_at.entry(*key) {
            Entry::Occupied(mut known) => {
                let (outcome, full_at) = measure(Some(*known.get()))?;
                known.insert(full_at);
                Ok(outcome)
            }
            Entry::Vacant(unknown) => {
                let (outcome, full_at) = measure(None)?;
                if self.count.fetch_add(1, Ordering::Relaxed) < self.keys_max {
                    unknown.insert(full_at);
                } else {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                }
                Ok(outcome)
            }
        }
    }
}

impl ShrinkableKeyedStateStore<u64> for Buckets {
    fn retain_recent(&self, drop_below: Nanos) {
        self.full_at.retain(|_, full_at| {
            let is_busy = *full_at > drop_below;
            if !is_busy {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            is_busy
        });
    }

    fn shrink_to_fit(&self) {
        // Growing back costs more than the room of a few keys.
        if self.full_at.capacity() > 4 * self.len() + 1_024 {
            self.full_at.shrink_to_fit();
        }
    }

    fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use std::time::Duration;

    fn limiter(calls_per_minute: u32, keys_max: usize) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limiter::with_clock(calls_per_minute, keys_max, clock.clone()), clock)
    }

    fn refused(seconds: u32) -> Result<(), Exceeded> {
        Err(Exceeded { retry_after_s: seconds })
    }

    #[test]
    fn the_101st_call_of_a_minute_is_refused_and_passes_at_the_very_moment_that_was_told() {
        let (limiter, clock) = limiter(100, 10);
        for call in 1..=100 {
            assert_eq!(limiter.check("app"), Ok(()), "call {call}");
        }
        assert_eq!(limiter.check("app"), refused(1), "the 101st");
        // A hundred a minute: one every 600 ms.
        clock.advance(Duration::from_millis(599));
        assert_eq!(limiter.check("app"), refused(1), "a millisecond early");
        clock.advance(Duration::from_millis(1));
        assert_eq!(limiter.check("app"), Ok(()), "on time");
        assert_eq!(limiter.check("app"), refused(1), "one flowed back, and one was taken");
    }

    #[test]
    fn who_keeps_to_the_rate_is_never_refused() {
        let (limiter, clock) = limiter(100, 10);
        for call in 0..1_000 {
            assert_eq!(limiter.check("app"), Ok(()), "call {call}");
            clock.advance(Duration::from_millis(600));
        }
    }

    #[test]
    fn a_refused_call_does_not_push_the_next_one_further_away() {
        let (limiter, clock) = limiter(2, 10);
        assert_eq!((limiter.check("app"), limiter.check("app")), (Ok(()), Ok(())));
        for second in 0..30 {
            assert_eq!(limiter.check("app"), refused(30 - second), "after {second} s");
            clock.advance(Duration::from_secs(1));
        }
        assert_eq!(limiter.check("app"), Ok(()));
    }

    #[test]
    fn keys_do_not_take_from_each_other() {
        let (limiter, _clock) = limiter(1, 10);
        assert_eq!(limiter.check("a"), Ok(()));
        assert_eq!(limiter.check("b"), Ok(()));
        assert_eq!(limiter.check("a"), refused(60));
        assert_eq!(limiter.check(&("product", 7_u32)), Ok(()), "a key may be anything");
    }

    #[test]
    fn zero_lets_everything_pass() {
        let (limiter, _clock) = limiter(0, 10);
        assert!((0..10_000).all(|_| limiter.check("app").is_ok()));
        limiter.forget_resting();
    }

    #[test]
    fn a_million_keys_are_held_and_no_more() {
        let (limiter, clock) = limiter(1, KEYS_MAX);
        for key in 0..KEYS_MAX as u64 + 50_000 {
            assert_eq!(limiter.check(&key), Ok(()), "key {key}");
        }
        let buckets = limiter.buckets.as_ref().unwrap();
        assert_eq!((buckets.len(), buckets.is_empty()), (KEYS_MAX, false));
        assert_eq!(limiter.check(&0_u64), refused(60), "a key that is remembered is limited in a full table, too");
        assert_eq!(limiter.check(&(KEYS_MAX as u64)), Ok(()), "a further one passes rather than suffer for others");
        clock.advance(Duration::from_secs(120));
        limiter.forget_resting();
        assert_eq!(limiter.buckets.as_ref().unwrap().len(), 0, "every bucket has been full for a while");
    }

    #[test]
    fn a_full_table_makes_room_by_itself() {
        let (limiter, clock) = limiter(1, 100);
        for key in 0..100_u64 {
            assert_eq!(limiter.check(&key), Ok(()));
        }
        clock.advance(Duration::from_secs(120));
        for key in 1_000..1_000 + SWEEP_EVERY {
            assert_eq!(limiter.check(&key), Ok(()));
        }
        assert_eq!(limiter.check(&1_000_u64), refused(60), "it was remembered, in the place of one that rested");
    }
}
