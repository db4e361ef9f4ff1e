//! The policies of a task as JSON, in and out: rate, waves, thresholds, retry, schedule.
//!
//! What is shown can be sent again. Unknown fields are refused by name: a slip in a policy would let a rollout run wider or faster
//! than was meant. Ranges belong to the engine; here only what JSON can't say for itself is checked.

use super::encode::Time;
use super::failure::{Failure, shortened};
use super::whole::{Factor, Percent, Signed, Whole};
use serde::{Deserialize, Serialize};
use sluicegate::model::{
    BackOff, Counting, Daily, FailureKind, Growth, Rate, Retry, Schedule, Threshold, ThresholdAction, TimeoutFrom, Timestamp, Wave,
    WaveSize,
};

/// What a deadline counts from.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TimeoutFromWord {
    Offer,
    Running,
}

impl From<TimeoutFromWord> for TimeoutFrom {
    fn from(word: TimeoutFromWord) -> Self {
        match word {
            TimeoutFromWord::Offer => Self::Offer,
            TimeoutFromWord::Running => Self::Running,
        }
    }
}

impl From<TimeoutFrom> for TimeoutFromWord {
    fn from(from: TimeoutFrom) -> Self {
        match from {
            TimeoutFrom::Offer => Self::Offer,
            TimeoutFrom::Running => Self::Running,
        }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RateBody {
    per_minute: Whole<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    growth: Option<GrowthBody>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct GrowthBody {
    factor: Factor,
    after: Whole<u32>,
    counting: Option<CountingWord>,
    per_minute_max: Whole<u32>,
}

/// What the steps of a growing rate count.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum CountingWord {
    Notified,
    Succeeded,
}

impl RateBody {
    pub(super) fn rate(&self) -> Rate {
        let growth = self.growth.as_ref().map(|growth| Growth {
            factor_percent: growth.factor.0,
            after: growth.after.0,
            counting: match growth.counting {
                None | Some(CountingWord::Notified) => Counting::Notified,
                Some(CountingWord::Succeeded) => Counting::Succeeded,
            },
            per_minute_max: growth.per_minute_max.0,
        });
        Rate { per_minute: self.per_minute.0, growth }
    }

    pub(super) fn shown(rate: Rate) -> Self {
        let growth = rate.growth.map(|growth| GrowthBody {
            factor: Factor(growth.factor_percent),
            after: Whole(growth.after),
            counting: Some(match growth.counting {
                Counting::Notified => CountingWord::Notified,
                Counting::Succeeded => CountingWord::Succeeded,
            }),
            per_minute_max: Whole(growth.per_minute_max),
        });
        Self { per_minute: Whole(rate.per_minute), growth }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaveBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<Percent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<Whole<u32>>,
    success_percent: Option<Percent>,
}

impl WaveBody {
    pub(super) fn waves(bodies: &[Self]) -> Result<Vec<Wave>, Failure> {
        bodies.iter().enumerate().map(|(place, body)| body.wave(place)).collect()
    }

    fn wave(&self, place: usize) -> Result<Wave, Failure> {
        let refuse = |got: &str| {
            Failure::invalid(format!("waves[{place}]: expected either percent or count to say how large it is, got {got}"))
        };
        let size = match (self.percent, self.count) {
            (Some(Percent(percent)), None) => WaveSize::Percent(percent),
            (None, Some(Whole(count))) => WaveSize::Count(count),
            (None, None) => return Err(refuse("neither")),
            (Some(_), Some(_)) => return Err(refuse("both")),
        };
        let all_of_it = Percent(100);
        Ok(Wave { size, success_percent: self.success_percent.unwrap_or(all_of_it).0 })
    }

    pub(super) fn shown(wave: &Wave) -> Self {
        let (percent, count) = match wave.size {
            WaveSize::Percent(percent) => (Some(Percent(percent)), None),
            WaveSize::Count(count) => (None, Some(Whole(count))),
        };
        Self { percent, count, success_percent: Some(Percent(wave.success_percent)) }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ThresholdBody {
    /// Absent: any of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<FailureWord>,
    percent: Percent,
    minimum: Whole<u32>,
    action: ActionWord,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum FailureWord {
    Failed,
    Rejected,
    TimedOut,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum ActionWord {
    Pause,
    Cancel,
}

impl ThresholdBody {
    pub(super) fn threshold(&self) -> Threshold {
        Threshold {
            kind: self.kind.map(|kind| match kind {
                FailureWord::Failed => FailureKind::Failed,
                FailureWord::Rejected => FailureKind::Rejected,
                FailureWord::TimedOut => FailureKind::TimedOut,
            }),
            percent: self.percent.0,
            minimum: self.minimum.0,
            action: match self.action {
                ActionWord::Pause => ThresholdAction::Pause,
                ActionWord::Cancel => ThresholdAction::Cancel,
            },
        }
    }

    pub(super) fn shown(threshold: &Threshold) -> Self {
        Self {
            kind: threshold.kind.map(|kind| match kind {
                FailureKind::Failed => FailureWord::Failed,
                FailureKind::Rejected => FailureWord::Rejected,
                FailureKind::TimedOut => FailureWord::TimedOut,
            }),
            percent: Percent(threshold.percent),
            minimum: Whole(threshold.minimum),
            action: match threshold.action {
                ThresholdAction::Pause => ActionWord::Pause,
                ThresholdAction::Cancel => ActionWord::Cancel,
            },
        }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryBody {
    count: Whole<u32>,
    interval_s: Whole<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    back_off: Option<BackOffBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter_s: Option<Whole<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    codes: Option<Vec<Signed>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct BackOffBody {
    factor: Factor,
    interval_max_s: Whole<u32>,
}

impl RetryBody {
    /// An empty list of codes would read as "none of them" and mean "all of them": it is refused.
    pub(super) fn retry(self) -> Result<Retry, Failure> {
        if self.codes.as_ref().is_some_and(Vec::is_empty) {
            return Err(Failure::invalid("retry.codes: expected at least one code, got none; leave it out to retry any failure"));
        }
        let back_off = self.back_off.map(|body| BackOff { factor_percent: body.factor.0, interval_max_s: body.interval_max_s.0 });
        Ok(Retry {
            count: self.count.0,
            interval_s: self.interval_s.0,
            back_off,
            jitter_s: self.jitter_s.map_or(0, |jitter| jitter.0),
            codes: self.codes.unwrap_or_default().into_iter().map(|code| code.0).collect(),
        })
    }

    pub(super) fn shown(retry: &Retry) -> Self {
        let back_off = retry.back_off.map(|back_off| BackOffBody {
            factor: Factor(back_off.factor_percent),
            interval_max_s: Whole(back_off.interval_max_s),
        });
        let codes = retry.codes.iter().map(|code| Signed(*code)).collect();
        Self {
            count: Whole(retry.count),
            interval_s: Whole(retry.interval_s),
            back_off,
            jitter_s: (retry.jitter_s > 0).then_some(Whole(retry.jitter_s)),
            codes: Some(codes).filter(|codes: &Vec<Signed>| !codes.is_empty()),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScheduleBody {
    start: Option<TimeBody>,
    end: Option<TimeBody>,
    daily: Option<DailyBody>,
    utc_offset_minutes: Option<i16>,
}

/// RFC 3339, or milliseconds since 1970.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a time as in 2027-03-01T02:00:00Z, or milliseconds since 1970")]
enum TimeBody {
    Milliseconds(u64),
    Text(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DailyBody {
    from: TimeOfDayBody,
    to: TimeOfDayBody,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a time of day as in 22:30 or 22:30:00, or seconds since midnight")]
enum TimeOfDayBody {
    Seconds(u32),
    Text(String),
}

impl ScheduleBody {
    pub(super) fn schedule(self) -> Result<Schedule, Failure> {
        let time = |field, time: Option<TimeBody>| time.map(|time| time.timestamp(field)).transpose();
        let daily = self.daily.map(|daily| {
            Ok::<_, Failure>(Daily {
                from_s: daily.from.seconds("schedule.daily.from")?,
                to_s: daily.to.seconds("schedule.daily.to")?,
            })
        });
        Ok(Schedule {
            start: time("schedule.start", self.start)?,
            end: time("schedule.end", self.end)?,
            daily: daily.transpose()?,
            utc_offset_minutes: self.utc_offset_minutes.unwrap_or_default(),
        })
    }
}

impl TimeBody {
    fn timestamp(self, field: &str) -> Result<Timestamp, Failure> {
        let text = match self {
            Self::Milliseconds(milliseconds) => return Ok(Timestamp(milliseconds)),
            Self::Text(text) => text,
        };
        let time: Option<jiff::Timestamp> = text.parse().ok();
        let milliseconds = time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
        milliseconds.map(Timestamp).ok_or_else(|| {
            let text = shortened(&text, 80);
            Failure::invalid(format!("{field} is {text:?}; give a time with its offset from 1970 on, as in 2027-03-01T02:00:00Z"))
        })
    }
}

impl TimeOfDayBody {
    fn seconds(self, field: &str) -> Result<u32, Failure> {
        let text = match self {
            Self::Seconds(seconds) => return Ok(seconds),
            Self::Text(text) => text,
        };
        time_of_day(&text).ok_or_else(|| {
            let text = shortened(&text, 80);
            Failure::invalid(format!("{field} is {text:?}; give a time of day from 00:00:00 to 23:59:59"))
        })
    }
}

/// `HH:MM` or `HH:MM:SS`, as seconds since midnight.
fn time_of_day(text: &str) -> Option<u32> {
    let number = |digits: &str, max: u32| {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().ok()).flatten().filter(|number| *number <= max)
    };
    let mut parts = text.split(':');
    let hours: u32 = number(parts.next()?, 23)?;
    let minutes: u32 = number(parts.next()?, 59)?;
    let seconds: u32 = parts.next().map_or(Some(0), |digits| number(digits, 59))?;
    parts.next().is_none().then_some(hours * 3600 + minutes * 60 + seconds)
}

#[derive(Debug, Serialize)]
pub(super) struct ScheduleShown {
    start: Option<Time>,
    end: Option<Time>,
    daily: Option<DailyShown>,
    utc_offset_minutes: i16,
}

#[derive(Debug, Serialize)]
struct DailyShown {
    from: String,
    to: String,
}

impl ScheduleShown {
    pub(super) fn new(schedule: Schedule) -> Option<Self> {
        let time_of_day = |seconds: u32| format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        (schedule != Schedule::default()).then(|| Self {
            start: schedule.start.map(Time),
            end: schedule.end.map(Time),
            daily: schedule.daily.map(|daily| DailyShown { from: time_of_day(daily.from_s), to: time_of_day(daily.to_s) }),
            utc_offset_minutes: schedule.utc_offset_minutes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::decode::parse;
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn read<T: DeserializeOwned>(body: &Value) -> Result<T, Failure> {
        // As a field of a task, so that messages have their place.
        #[derive(Debug, Deserialize)]
        struct Field<T> {
            it: T,
        }
        let text = json!({ "it": body }).to_string();
        parse::<Field<T>>(text.as_bytes()).map(|field| field.it)
    }

    fn refused<T: DeserializeOwned + std::fmt::Debug>(body: &Value) -> String {
        let failure = read::<T>(body).unwrap_err();
        assert_eq!((failure.status.as_u16(), failure.code), (400, "invalid_argument"));
        failure.message
    }

    #[test]
    fn every_policy_is_shown_as_it_was_sent() {
        let rate = json!({ "per_minute": 60,
            "growth": { "factor": 1.15, "after": 1000, "counting": "succeeded", "per_minute_max": 600 } });
        assert_eq!(json!(RateBody::shown(read::<RateBody>(&rate).unwrap().rate())), rate);
        let plain = json!({ "per_minute": 1 });
        assert_eq!(json!(RateBody::shown(read::<RateBody>(&plain).unwrap().rate())), plain);

        let waves = json!([{ "percent": 10, "success_percent": 90 }, { "count": 50, "success_percent": 100 }]);
        let read_waves = WaveBody::waves(&read::<Vec<WaveBody>>(&waves).unwrap()).unwrap();
        assert_eq!(json!(read_waves.iter().map(WaveBody::shown).collect::<Vec<_>>()), waves);

        let thresholds = json!([{ "kind": "timed_out", "percent": 5, "minimum": 20, "action": "pause" },
            { "percent": 30, "minimum": 100, "action": "cancel" }]);
        let bodies = read::<Vec<ThresholdBody>>(&thresholds).unwrap();
        let read_thresholds: Vec<Threshold> = bodies.iter().map(ThresholdBody::threshold).collect();
        assert_eq!(json!(read_thresholds.iter().map(ThresholdBody::shown).collect::<Vec<_>>()), thresholds);

        let retry = json!({ "count": 3, "interval_s": 60, "back_off": { "factor": 2, "interval_max_s": 3600 }, "jitter_s": 30,
            "codes": [-3, 17] });
        assert_eq!(json!(RetryBody::shown(&read::<RetryBody>(&retry).unwrap().retry().unwrap())), retry);
        let plain = json!({ "count": 1, "interval_s": 0 });
        assert_eq!(json!(RetryBody::shown(&read::<RetryBody>(&plain).unwrap().retry().unwrap())), plain);
    }

    #[test]
    fn what_a_policy_leaves_out_has_its_default() {
        let growth = json!({ "per_minute": 5, "growth": { "factor": "2", "after": 1, "per_minute_max": 9, "counting": null } });
        let expected = Growth { factor_percent: 200, after: 1, counting: Counting::Notified, per_minute_max: 9 };
        assert_eq!(read::<RateBody>(&growth).unwrap().rate().growth, Some(expected));
        let waves = WaveBody::waves(&read::<Vec<WaveBody>>(&json!([{ "count": 3 }])).unwrap()).unwrap();
        assert_eq!(waves, [Wave { size: WaveSize::Count(3), success_percent: 100 }]);
        let any = read::<ThresholdBody>(&json!({ "kind": null, "percent": 1, "minimum": 1, "action": "cancel" })).unwrap();
        assert_eq!(any.threshold().kind, None);
    }

    #[test]
    fn a_wave_is_measured_in_one_way() {
        for (wave, got) in [(json!({}), "got neither"), (json!({ "percent": 10, "count": 5 }), "got both")] {
            let message = WaveBody::waves(&read::<Vec<WaveBody>>(&json!([{ "count": 1 }, wave])).unwrap()).unwrap_err().message;
            assert!(message.starts_with("waves[1]: expected either percent or count") && message.contains(got), "{message}");
        }
    }

    #[test]
    fn a_list_of_no_codes_is_not_taken_for_all_codes() {
        let retry = read::<RetryBody>(&json!({ "count": 1, "interval_s": 1, "codes": [] })).unwrap();
        assert!(retry.retry().unwrap_err().message.starts_with("retry.codes: expected at least one code, got none"));
    }

    #[test]
    fn a_slip_in_a_policy_is_refused_with_its_place() {
        let wave = |wave: Value| refused::<Vec<WaveBody>>(&json!([wave]));
        let rate = |rate: Value| refused::<RateBody>(&rate);
        let retry = |retry: Value| refused::<RetryBody>(&retry);
        let threshold = |threshold: Value| refused::<Vec<ThresholdBody>>(&json!([threshold]));
        for (message, named) in [
            (wave(json!({ "percent": 10, "succes_percent": 1 })), "it[0].succes_percent: unknown field"),
            (wave(json!({ "percent": 101 })), "it[0].percent: invalid value: integer `101`, expected a whole number from 0 to 100"),
            (wave(json!({ "percent": 1.5 })), "it[0].percent"),
            (wave(json!({ "count": -1 })), "it[0].count"),
            (rate(json!({ "per_minute": 1, "per_hour": 1 })), "it.per_hour: unknown field"),
            (rate(json!({ "per_minute": "many" })), "it.per_minute: invalid value: string \"many\", expected a whole number"),
            (rate(json!({})), "missing field `per_minute`"),
            (rate(json!({ "per_minute": 1, "growth": { "factor": 1.555, "after": 1, "per_minute_max": 2 } })), "it.growth.factor"),
            (
                rate(json!({ "per_minute": 1, "growth": { "factor": 2, "after": 1, "per_minute_max": 2, "counting": "all" } })),
                "it.growth.counting: unknown variant `all`, expected `notified` or `succeeded`",
            ),
            (retry(json!({ "count": 1, "interval_s": 1, "back_off": 2 })), "it.back_off"),
            (retry(json!({ "count": 1, "interval_s": 1, "back_off": { "factor": 2 } })), "missing field `interval_max_s`"),
            (retry(json!({ "count": 1, "interval_s": 1, "codes": [1.5] })), "it.codes[0]"),
            (retry(json!({ "count": 1, "interval_s": 1, "jitter": 1 })), "it.jitter: unknown field"),
            (threshold(json!({ "percent": 5, "minimum": 1 })), "missing field `action`"),
            (threshold(json!({ "percent": 5, "action": "pause" })), "missing field `minimum`"),
            (threshold(json!({ "percent": 5, "minimum": 1, "action": "stop" })), "it[0].action: unknown variant `stop`"),
            (
                threshold(json!({ "kind": "canceled", "percent": 5, "minimum": 1, "action": "pause" })),
                "it[0].kind: unknown variant `canceled`, expected one of `failed`, `rejected`, `timed_out`",
            ),
        ] {
            assert!(message.contains(named), "{named}: {message}");
        }
    }

    #[test]
    fn times_are_read_as_text_and_as_numbers() {
        let schedule = |schedule: Value| read::<ScheduleBody>(&schedule).unwrap().schedule().unwrap();
        let expected = Schedule {
            start: Some(Timestamp(1_700_000_000_000)),
            end: Some(Timestamp(1_800_000_000_500)),
            daily: Some(Daily { from_s: 81_000, to_s: 16_215 }),
            utc_offset_minutes: -210,
        };
        assert_eq!(
            schedule(json!({
                "start": "2023-11-14T23:13:20+01:00", "end": 1_800_000_000_500_u64,
                "daily": { "from": "22:30", "to": "04:30:15" }, "utc_offset_minutes": -210,
            })),
            expected
        );
        let seconds = schedule(json!({ "daily": { "from": 81_000, "to": 16_215 } }));
        assert_eq!(seconds.daily, expected.daily);
    }

    #[test]
    fn times_that_are_none_are_refused_with_an_example() {
        for (schedule, named) in [
            (json!({ "start": "tomorrow" }), "schedule.start is \"tomorrow\""),
            (json!({ "start": "2027-03-01T02:00:00" }), "schedule.start"),
            (json!({ "end": "1960-01-01T00:00:00Z" }), "schedule.end"),
            (json!({ "end": -5 }), "it.end: expected a time"),
            (json!({ "start": true }), "it.start: expected a time"),
            (json!({ "daily": { "from": "24:00", "to": "01:00" } }), "schedule.daily.from is \"24:00\""),
            (json!({ "daily": { "from": "1:00", "to": "01:00" } }), "schedule.daily.from"),
            (json!({ "daily": { "from": "01:00:00:00", "to": "01:00" } }), "schedule.daily.from"),
            (json!({ "daily": { "from": "01:00", "to": "+1:-1" } }), "schedule.daily.to"),
            (json!({ "daily": { "from": "01:00" } }), "it.daily"),
            (json!({ "utc_offset_minutes": 99_999 }), "it.utc_offset_minutes"),
        ] {
            let message = read::<ScheduleBody>(&schedule).and_then(ScheduleBody::schedule).unwrap_err().message;
            assert!(message.contains(named), "{schedule}: {message}");
        }
    }
}
