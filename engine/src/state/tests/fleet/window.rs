//! When a schedule is open, as its documentation says it.

use crate::model::{Schedule, Timestamp};

const DAY_S: i64 = 86_400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Open since the start of the schedule, or since today's window opened.
    Since(Timestamp),
    /// Closed until then.
    At(Timestamp),
    Over,
}

/// A schedule is open from its start to before its end, in each day's window.
pub(crate) fn opening(schedule: &Schedule, now: Timestamp) -> Opening {
    let start_s = schedule.start.map_or(0, |start| start.as_seconds() as i64);
    let end_s = schedule.end.map_or(i64::MAX, |end| end.as_seconds() as i64);
    let now_s = now.as_seconds() as i64;
    let at = |second: i64| Timestamp::from_seconds(second as u64);
    // A window of the whole day never closes.
    let closes = schedule.daily.filter(|daily| (daily.to_s + 1) % DAY_S as u32 != daily.from_s);
    let Some(daily) = closes else {
        return match now_s {
            now_s if now_s >= end_s => Opening::Over,
            now_s if now_s >= start_s => Opening::Since(at(start_s)),
            _ => Opening::At(at(start_s)),
        };
    };
    let offset_s = i64::from(schedule.utc_offset_minutes) * 60;
    let (from_s, to_s) = (i64::from(daily.from_s), i64::from(daily.to_s));
    let length_s = (to_s - from_s).rem_euclid(DAY_S) + 1;
    // Yesterday's window may last into today; tomorrow's is the next at the latest.
    let today = (now_s.max(start_s) + offset_s).div_euclid(DAY_S);
    let windows = (today - 1..=today + 2).map(|day| day * DAY_S + from_s - offset_s).map(|opens_s| (opens_s, opens_s + length_s));
    for (opens_s, closes_s) in windows {
        let (opens_s, closes_s) = (opens_s.max(start_s), closes_s.min(end_s));
        if opens_s < closes_s && now_s < closes_s {
            return if now_s >= opens_s { Opening::Since(at(opens_s)) } else { Opening::At(at(opens_s)) };
        }
    }
    Opening::Over
}
