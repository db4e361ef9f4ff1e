//! When a job may begin upgrades: `schedulePolicy`, or the older pair `startSchedule` and `endSchedule`.
//!
//! | written | means |
//! |---|---|
//! | nothing | at any time |
//! | `schedulePolicy` | from the start to the end, once |
//! | `schedulePolicy` with `isRepeatDaily` | from the day of the start on, each day between the two times of day |
//! | `startSchedule`, `endSchedule` | each day between the two seconds of the day, UTC |
//!
//! Both at once: `schedulePolicy` counts. Days and times of day are those at `timezoneOffsetInMinutes` east of UTC, which is 0 where it
//! isn't given. What was written is kept with the job, to be shown as it came.

use super::status::Failure;
use crate::dialect::common::lenient;
use serde::{Deserialize, Serialize};
use sluicegate::model::{Daily, Schedule, Timestamp};

const DAY_MS: i64 = 86_400_000;
/// Thirteen digits: milliseconds from 2001 to 2286. Seconds, sent by mistake, have ten.
const TIMESTAMP_MIN: i64 = 1_000_000_000_000;
const TIMESTAMP_MAX: i64 = 9_999_999_999_999;
/// As far as any place is from UTC, and a little further.
const OFFSET_MINUTES_MAX: i64 = 1_080;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SchedulePolicyWritten {
    #[serde(deserialize_with = "lenient::optional_boolean")]
    is_repeat_daily: Option<bool>,
    #[serde(deserialize_with = "lenient::optional_integer")]
    start_timestamp: Option<i64>,
    #[serde(deserialize_with = "lenient::optional_integer")]
    end_timestamp: Option<i64>,
    #[serde(deserialize_with = "lenient::optional_integer")]
    timezone_offset_in_minutes: Option<i64>,
}

/// `schedulePolicy`, read and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SchedulePolicy {
    is_repeat_daily: bool,
    start_timestamp: i64,
    end_timestamp: i64,
    timezone_offset_in_minutes: i16,
}

impl SchedulePolicyWritten {
    pub(super) fn read(self) -> Result<SchedulePolicy, Failure> {
        let timestamp = |field: &str, value: Option<i64>| match value {
            Some(value) if (TIMESTAMP_MIN..=TIMESTAMP_MAX).contains(&value) => Ok(value),
            Some(value) => Err(Failure::invalid(format!(
                "schedulePolicy.{field} must be milliseconds since 1970, which have 13 digits, got {value}"
            ))),
            None => Err(Failure::invalid(format!("schedulePolicy.{field} is required; give milliseconds since 1970"))),
        };
        let policy = SchedulePolicy {
            is_repeat_daily: self.is_repeat_daily.unwrap_or_default(),
            start_timestamp: timestamp("startTimestamp", self.start_timestamp)?,
            end_timestamp: timestamp("endTimestamp", self.end_timestamp)?,
            timezone_offset_in_minutes: offset(self.timezone_offset_in_minutes.unwrap_or_default())?,
        };
        let SchedulePolicy { start_timestamp: start, end_timestamp: end, .. } = policy;
        if end <= start {
            return Err(Failure::invalid(format!(
                "schedulePolicy.endTimestamp must be later than startTimestamp, got {end} after {start}"
            )));
        }
        if policy.is_repeat_daily && policy.day_of(start) != policy.day_of(end) {
            return Err(Failure::invalid(format!(
                "schedulePolicy repeats daily, so startTimestamp and endTimestamp must be of the same day at timezoneOffsetInMinutes {}, \
                 got {} and {} of them",
                policy.timezone_offset_in_minutes,
                policy.day_of(start),
                policy.day_of(end)
            )));
        }
        Ok(policy)
    }
}

fn offset(minutes: i64) -> Result<i16, Failure> {
    let in_range = i16::try_from(minutes).ok().filter(|_| minutes.abs() <= OFFSET_MINUTES_MAX);
    in_range.ok_or_else(|| {
        Failure::invalid(format!(
            "schedulePolicy.timezoneOffsetInMinutes must be from -{OFFSET_MINUTES_MAX} to {OFFSET_MINUTES_MAX}, got {minutes}"
        ))
    })
}

impl SchedulePolicy {
    pub(super) fn schedule(self) -> Schedule {
        let start = Some(Timestamp(self.start_timestamp.unsigned_abs()));
        let utc_offset_minutes = self.timezone_offset_in_minutes;
        if self.is_repeat_daily {
            let daily = Daily { from_s: self.second_of_day(self.start_timestamp), to_s: self.second_of_day(self.end_timestamp) };
            return Schedule { start, end: None, daily: Some(daily), utc_offset_minutes };
        }
        let end = Some(Timestamp(self.end_timestamp.unsigned_abs()));
        Schedule { start, end, daily: None, utc_offset_minutes }
    }

    /// How a schedule would have been written: for jobs that came by another way than this platform's.
    pub(super) fn of(schedule: &Schedule, created_at: Timestamp) -> Option<Self> {
        let millis = |time: Timestamp| i64::try_from(time.as_millis()).ok();
        let offset_minutes = schedule.utc_offset_minutes;
        let start = millis(schedule.start.unwrap_or(created_at))?;
        let policy = |is_repeat_daily, start_timestamp, end_timestamp| Self {
            is_repeat_daily,
            start_timestamp,
            end_timestamp,
            timezone_offset_in_minutes: offset_minutes,
        };
        match (schedule.daily, schedule.end) {
            (Some(Daily { from_s, to_s }), _) => {
                let offset_ms = i64::from(offset_minutes) * 60_000;
                let midnight = policy(true, start, start).day_of(start) * DAY_MS - offset_ms;
                Some(policy(true, midnight + i64::from(from_s) * 1_000, midnight + i64::from(to_s) * 1_000))
            }
            (None, Some(end)) => Some(policy(false, start, millis(end)?)),
            (None, None) => None,
        }
    }

    fn local_ms(self, timestamp: i64) -> i64 {
        timestamp.saturating_add(i64::from(self.timezone_offset_in_minutes) * 60_000)
    }

    /// Days since 1970 at the offset.
    fn day_of(self, timestamp: i64) -> i64 {
        self.local_ms(timestamp).div_euclid(DAY_MS)
    }

    fn second_of_day(self, timestamp: i64) -> u32 {
        // Below 86,400.
        (self.local_ms(timestamp).rem_euclid(DAY_MS) / 1_000) as u32
    }
}

/// `startSchedule` and `endSchedule`: seconds of the day; one that is missing is that end of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DailySchedule {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl DailySchedule {
    const LAST_SECOND: u32 = 86_399;

    pub(super) fn read(start: Option<i64>, end: Option<i64>) -> Result<Option<Self>, Failure> {
        if start.is_none() && end.is_none() {
            return Ok(None);
        }
        let second = |field: &str, value: Option<i64>, default| match value {
            None => Ok(default),
            Some(value) => u32::try_from(value).ok().filter(|second| *second <= Self::LAST_SECOND).ok_or_else(|| {
                Failure::invalid(format!("{field} must be a second of the day from 0 to {}, got {value}", Self::LAST_SECOND))
            }),
        };
        let schedule = Self { start: second("startSchedule", start, 0)?, end: second("endSchedule", end, Self::LAST_SECOND)? };
        if schedule.start == schedule.end {
            return Err(Failure::invalid(format!(
                "startSchedule and endSchedule are both {}, which leaves no time between them; give two seconds of the day",
                schedule.start
            )));
        }
        Ok(Some(schedule))
    }

    pub(super) fn schedule(self) -> Schedule {
        let is_whole_day = self.start == 0 && self.end == Self::LAST_SECOND;
        let daily = (!is_whole_day).then_some(Daily { from_s: self.start, to_s: self.end });
        Schedule { daily, ..Schedule::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// 2020-06-11T00:00:00Z.
    const MIDNIGHT: i64 = 1_591_833_600_000;
    const HOUR_MS: i64 = 3_600_000;

    fn read(policy: &Value) -> Result<SchedulePolicy, String> {
        let written: SchedulePolicyWritten = serde_json::from_value(policy.clone()).map_err(|error| error.to_string())?;
        written.read().map_err(|failure| failure.message)
    }

    #[test]
    fn a_policy_is_once_unless_it_repeats() {
        let policy = json!({ "startTimestamp": MIDNIGHT + HOUR_MS, "endTimestamp": (MIDNIGHT + 40 * HOUR_MS).to_string() });
        let once = read(&policy).unwrap().schedule();
        assert_eq!(once.start, Some(Timestamp((MIDNIGHT + HOUR_MS) as u64)));
        assert_eq!(once.end, Some(Timestamp((MIDNIGHT + 40 * HOUR_MS) as u64)));
        assert_eq!(once.daily, None);
    }

    #[test]
    fn a_daily_policy_goes_on_from_its_first_day_between_its_times_of_day() {
        // 22:00 to 02:00 UTC is 06:00 to 10:00 of one day eight hours east.
        let policy = json!({
            "isRepeatDaily": "true",
            "startTimestamp": MIDNIGHT + 22 * HOUR_MS,
            "endTimestamp": MIDNIGHT + 26 * HOUR_MS,
            "timezoneOffsetInMinutes": 480,
        });
        let daily = read(&policy).unwrap().schedule();
        assert_eq!(daily.daily, Some(Daily { from_s: 6 * 3_600, to_s: 10 * 3_600 }));
        assert_eq!((daily.start, daily.end), (Some(Timestamp((MIDNIGHT + 22 * HOUR_MS) as u64)), None));
        assert_eq!(daily.utc_offset_minutes, 480);
        let mut in_utc = policy;
        in_utc["timezoneOffsetInMinutes"] = json!(null);
        assert!(read(&in_utc).unwrap_err().contains("must be of the same day at timezoneOffsetInMinutes 0"));
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_what_was_expected() {
        let (start, end) = (MIDNIGHT, MIDNIGHT + HOUR_MS);
        for (policy, message) in [
            (json!({ "endTimestamp": end }), "startTimestamp is required"),
            (json!({ "startTimestamp": start }), "endTimestamp is required"),
            (json!({ "startTimestamp": start / 1_000, "endTimestamp": end }), "startTimestamp must be milliseconds since 1970"),
            (json!({ "startTimestamp": start, "endTimestamp": start }), "endTimestamp must be later than startTimestamp"),
            (json!({ "startTimestamp": end, "endTimestamp": start }), "endTimestamp must be later than startTimestamp"),
            (
                json!({ "startTimestamp": start, "endTimestamp": end, "timezoneOffsetInMinutes": 1_081 }),
                "timezoneOffsetInMinutes must be from -1080 to 1080, got 1081",
            ),
            (json!({ "startTimestamp": "soon", "endTimestamp": end }), "expected an integer"),
            (json!({ "startTimestamp": start, "endTimestamp": end, "isRepeatDaily": 7 }), "expected true or false"),
        ] {
            let got = read(&policy).unwrap_err();
            assert!(got.contains(message), "{policy}: {got}");
        }
    }

    #[test]
    fn the_older_pair_is_a_window_of_every_day() {
        let read = |start, end| DailySchedule::read(start, end).map_err(|failure| failure.message);
        assert_eq!(read(None, None), Ok(None));
        let whole = read(Some(0), Some(86_399)).unwrap().unwrap();
        assert_eq!(whole.schedule(), Schedule::default(), "the whole day, every day");
        let night = read(Some(79_200), Some(3_600)).unwrap().unwrap();
        assert_eq!(night.schedule().daily, Some(Daily { from_s: 79_200, to_s: 3_600 }));
        assert_eq!(read(Some(3_600), None).unwrap().unwrap(), DailySchedule { start: 3_600, end: 86_399 });
        assert!(
            read(Some(86_400), None).unwrap_err().contains("startSchedule must be a second of the day from 0 to 86399, got 86400")
        );
        assert!(read(None, Some(-1)).unwrap_err().contains("endSchedule must be"));
        assert!(read(Some(7), Some(7)).unwrap_err().contains("leaves no time"));
    }

    #[test]
    fn a_schedule_of_another_way_is_shown_as_it_would_have_been_written() {
        let created_at = Timestamp((MIDNIGHT + 5 * HOUR_MS) as u64);
        assert_eq!(SchedulePolicy::of(&Schedule::default(), created_at), None);
        for policy in [
            json!({ "startTimestamp": MIDNIGHT, "endTimestamp": MIDNIGHT + HOUR_MS }),
            json!({
                "isRepeatDaily": true, "startTimestamp": MIDNIGHT + 22 * HOUR_MS, "endTimestamp": MIDNIGHT + 26 * HOUR_MS,
                "timezoneOffsetInMinutes": 480,
            }),
        ] {
            let policy = read(&policy).unwrap();
            assert_eq!(SchedulePolicy::of(&policy.schedule(), created_at), Some(policy));
        }
    }
}
