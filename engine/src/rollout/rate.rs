//! How many may begin in a minute.
//!
//! A minute is any 60 consecutive seconds of the clock: begun upgrades are counted by the second, and a second's count leaves the
//! sum 60 seconds later. So no 60 consecutive seconds ever see more than the rate, and a fleet that keeps asking reaches it. A
//! leaky bucket (what `governor` models) would need one number instead of sixty, but holds only on average: a full bucket and a
//! minute's refill together let twice the rate through.

use crate::model::{Pace, Rate, SecondCount, Timestamp};

const WINDOW_S: u64 = 60;

/// The rate that holds after `counted` devices, as the policy grows it.
pub(crate) fn per_minute(rate: Rate, counted: u64) -> u32 {
    let Some(growth) = rate.growth else { return rate.per_minute };
    let mut now = u64::from(rate.per_minute);
    let max = u64::from(growth.per_minute_max).max(now);
    for _ in 0..counted / u64::from(growth.after.max(1)) {
        // At least by one, so that a small rate isn't rounded back to itself for ever.
        let grown = (now * u64::from(growth.factor_percent) / 100).max(now + 1);
        if grown >= max {
            return u32::try_from(max).unwrap_or(u32::MAX);
        }
        now = grown;
    }
    u32::try_from(now).unwrap_or(u32::MAX)
}

/// From when on the next may begin; a time that has passed means now.
pub(crate) fn free_at(pace: &Pace, per_minute: u32) -> Timestamp {
    let mut sum: u64 = pace.starts.iter().map(|start| u64::from(start.count)).sum();
    for start in &pace.starts {
        if sum < u64::from(per_minute) {
            break;
        }
        sum -= u64::from(start.count);
        if sum < u64::from(per_minute) {
            return Timestamp::from_seconds(start.second.saturating_add(WINDOW_S));
        }
    }
    Timestamp(0)
}

/// Counts a start at `now`, and forgets those that no longer matter.
pub(crate) fn note_start(starts: &mut Vec<SecondCount>, now: Timestamp) {
    let second = now.as_seconds();
    starts.retain(|start| start.second.saturating_add(WINDOW_S) > second);
    match starts.last_mut().filter(|last| last.second == second) {
        Some(last) => last.count = last.count.saturating_add(1),
        None => starts.push(SecondCount { second, count: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Counting, Growth, TaskNumber};

    #[test]
    fn no_sixty_consecutive_seconds_see_more_than_the_rate_and_it_is_reached() {
        let mut pace = Pace::new(TaskNumber(0));
        let mut begun = Vec::new();
        // Somebody asks every 100 ms for five minutes.
        for tenth in 0..3_000_u64 {
            let now = Timestamp(1_000_000 + tenth * 100);
            if free_at(&pace, 7) <= now {
                note_start(&mut pace.starts, now);
                begun.push(now.as_seconds());
            }
        }
        for from in begun.iter().copied() {
            let within = begun.iter().filter(|second| (from..from + 60).contains(*second)).count();
            assert!(within <= 7, "{within} begin in the minute from {from}");
        }
        assert_eq!(begun.len(), 35);
        assert!(pace.starts.len() <= 60);
    }

    #[test]
    fn a_rate_grows_with_each_step_up_to_its_maximum() {
        let growth = Growth { factor_percent: 200, after: 1_000, counting: Counting::Notified, per_minute_max: 400 };
        let rate = Rate { per_minute: 50, growth: Some(growth) };
        let grown: Vec<u32> = [0, 999, 1_000, 2_000, 3_000, 4_000, u64::MAX].map(|count| per_minute(rate, count)).to_vec();
        assert_eq!(grown, [50, 50, 100, 200, 400, 400, 400]);
        let slow = Rate { per_minute: 1, growth: Some(Growth { factor_percent: 110, after: 1, per_minute_max: 5, ..growth }) };
        assert_eq!(per_minute(slow, 2), 3);
        assert_eq!(per_minute(Rate { growth: None, ..rate }, 1_000_000), 50);
    }
}
