//! Where a task is heading, as JSON. Waves are numbered from 1, as people do.

use super::encode::Time;
use serde::{Serialize, Serializer};
use sluicegate::model::FailureKind;
use sluicegate::{TaskOutlook, WaveFigures};

/// What is worked out where one task is shown.
#[derive(Debug, Serialize)]
pub(super) struct LiveShown {
    /// Absent where the task has no waves.
    wave: Option<WaveShown>,
    outlook: OutlookShown,
}

#[derive(Debug, Serialize)]
struct WaveShown {
    open: usize,
    of: usize,
}

#[derive(Debug, Serialize)]
struct OutlookShown {
    to_come: u64,
    failures: Failures,
    rate_per_minute: Option<u32>,
    begun_last_minute: u64,
    waves: Vec<WaveFiguresShown>,
    first_offered_at: Option<Time>,
    estimated_end: Option<Time>,
}

#[derive(Debug, Serialize)]
struct WaveFiguresShown {
    devices: u32,
    succeeded: u32,
    successes_needed: u32,
    open: bool,
}

/// A count per kind, by its name.
#[derive(Debug)]
struct Failures(Vec<(FailureKind, u64)>);

impl Serialize for Failures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(kind, count)| (kind.name(), count)))
    }
}

impl LiveShown {
    pub(super) fn new(outlook: &TaskOutlook) -> Self {
        let wave = |(place, figures): (usize, &WaveFigures)| WaveFiguresShown {
            devices: figures.devices,
            succeeded: figures.succeeded,
            successes_needed: figures.successes_needed,
            open: place <= outlook.open_wave,
        };
        let of = outlook.waves.len();
        Self {
            wave: (of > 0).then_some(WaveShown { open: outlook.open_wave + 1, of }),
            outlook: OutlookShown {
                to_come: outlook.to_come,
                failures: Failures(outlook.failures.clone()),
                rate_per_minute: outlook.rate_per_minute,
                begun_last_minute: outlook.begun_last_minute,
                waves: outlook.waves.iter().enumerate().map(wave).collect(),
                first_offered_at: outlook.first_offered_at.map(Time),
                estimated_end: outlook.estimated_end.map(Time),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluicegate::model::Timestamp;

    #[test]
    fn waves_up_to_the_open_one_are_open_and_counted_from_one() {
        let wave = |succeeded| WaveFigures { devices: 10, succeeded, successes_needed: 9 };
        let outlook = TaskOutlook {
            to_come: 12,
            failures: FailureKind::ALL.map(|kind| (kind, 2)).to_vec(),
            rate_per_minute: Some(60),
            begun_last_minute: 5,
            open_wave: 1,
            waves: vec![wave(9), wave(1), wave(0)],
            first_offered_at: Some(Timestamp(0)),
            estimated_end: None,
        };
        assert_eq!(
            json!(LiveShown::new(&outlook)),
            json!({
                "wave": { "open": 2, "of": 3 },
                "outlook": {
                    "to_come": 12, "failures": { "failed": 2, "rejected": 2, "timed_out": 2 },
                    "rate_per_minute": 60, "begun_last_minute": 5,
                    "waves": [
                        { "devices": 10, "succeeded": 9, "successes_needed": 9, "open": true },
                        { "devices": 10, "succeeded": 1, "successes_needed": 9, "open": true },
                        { "devices": 10, "succeeded": 0, "successes_needed": 9, "open": false },
                    ],
                    "first_offered_at": "1970-01-01T00:00:00.000Z", "estimated_end": null,
                },
            })
        );
    }
}
