//! Whether devices may begin at a time, and if not, when.

use crate::model::{Daily, Schedule, Timestamp};

const DAY_S: u64 = 86_400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    /// Open since then: the start of the schedule or of today's window; the beginning of time where there is neither.
    Open { since: Timestamp },
    /// Closed until then.
    Opens(Timestamp),
    /// It won't open again.
    Over,
}

pub(crate) fn window(schedule: &Schedule, now: Timestamp) -> Window {
    if schedule.end.is_some_and(|end| now >= end) {
        return Window::Over;
    }
    // From the start on only the daily window matters, so a window before the start is one seen from the start.
    let start = schedule.start.unwrap_or(Timestamp(0));
    let from = start.max(now);
    let opens = match schedule.daily {
        None => start,
        Some(daily) => match daily_window(daily, schedule.utc_offset_minutes, from) {
            Today::Open { since } => since.max(start),
            Today::Opens(at) => at,
        },
    };
    if schedule.end.is_some_and(|end| opens >= end) {
        Window::Over
    } else if opens > now {
        Window::Opens(opens)
    } else {
        Window::Open { since: opens }
    }
}

/// The daily window seen from one moment.
enum Today {
    Open { since: Timestamp },
    Opens(Timestamp),
}

fn daily_window(daily: Daily, utc_offset_minutes: i16, at: Timestamp) -> Today {
    // A day is added so that an offset west of UTC can't go below zero at the start of the epoch.
    let local_s = (at.as_seconds() + DAY_S).saturating_add_signed(i64::from(utc_offset_minutes) * 60);
    let second_of_day = local_s % DAY_S;
    let (opens, closes) = (u64::from(daily.from_s), u64::from(daily.to_s));
    let inside =
        if opens <= closes { (opens..=closes).contains(&second_of_day) } else { second_of_day >= opens || second_of_day <= closes };
    if (closes + 1) % DAY_S == opens {
        // It never closes, so no day begins anew.
        return Today::Open { since: Timestamp(0) };
    }
    if inside {
        let open_for_s = (second_of_day + DAY_S - opens) % DAY_S;
        return Today::Open { since: Timestamp::from_seconds(at.as_seconds().saturating_sub(open_for_s)) };
    }
    let wait_s = (opens + DAY_S - second_of_day) % DAY_S;
    Today::Opens(Timestamp::from_seconds(at.as_seconds()).plus_seconds(wait_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: u64, minute: u64) -> Timestamp {
        Timestamp::from_seconds(20_000 * DAY_S + hour * 3600 + minute * 60)
    }

    #[test]
    fn no_schedule_is_always_open() {
        assert_eq!(window(&Schedule::default(), at(3, 0)), Window::Open { since: Timestamp(0) });
    }

    #[test]
    fn start_belongs_to_the_window_and_end_does_not() {
        let schedule = Schedule { start: Some(at(2, 0)), end: Some(at(4, 0)), ..Schedule::default() };
        assert_eq!(window(&schedule, at(1, 59)), Window::Opens(at(2, 0)));
        assert_eq!(window(&schedule, at(2, 0)), Window::Open { since: at(2, 0) });
        assert_eq!(window(&schedule, at(4, 0)), Window::Over);
    }

    #[test]
    fn a_daily_window_counts_in_its_own_offset() {
        let daily = Some(Daily { from_s: 2 * 3600, to_s: 4 * 3600 });
        let schedule = Schedule { daily, utc_offset_minutes: 480, ..Schedule::default() };
        // 02:00 at UTC+8 is 18:00 UTC.
        assert_eq!(window(&schedule, at(17, 59)), Window::Opens(at(18, 0)));
        assert_eq!(window(&schedule, at(18, 0)), Window::Open { since: at(18, 0) });
        assert_eq!(window(&schedule, at(20, 1)), Window::Opens(at(42, 0)));
    }

    #[test]
    fn a_daily_window_may_span_midnight() {
        let schedule = Schedule { daily: Some(Daily { from_s: 22 * 3600, to_s: 3600 }), ..Schedule::default() };
        assert_eq!(window(&schedule, at(23, 0)), Window::Open { since: at(22, 0) });
        assert_eq!(window(&schedule, at(24, 30)), Window::Open { since: at(22, 0) });
        assert_eq!(window(&schedule, at(12, 0)), Window::Opens(at(22, 0)));
    }

    #[test]
    fn a_window_of_the_whole_day_never_opens_anew() {
        let schedule = Schedule { daily: Some(Daily { from_s: 0, to_s: 86_399 }), ..Schedule::default() };
        assert_eq!(window(&schedule, at(12, 0)), Window::Open { since: Timestamp(0) });
    }

    #[test]
    fn a_daily_window_that_opens_only_after_the_end_is_over() {
        let daily = Some(Daily { from_s: 22 * 3600, to_s: 23 * 3600 });
        let schedule = Schedule { daily, end: Some(at(21, 0)), ..Schedule::default() };
        assert_eq!(window(&schedule, at(12, 0)), Window::Over);
    }
}
