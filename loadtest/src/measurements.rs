//! How long each step took, and how much was moved.
//!
//! Closed loop: a connection sends its next request after the last answer, so a slow server is asked less often, and what a request
//! waited for a free connection is not in the figures. They include the fleet's own share of the machine.

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

/// What is timed apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A check that was told to wait, or that there is nothing to do.
    Check,
    /// A check that was answered with an offer: durable before it is answered.
    Offer,
    /// One range of the image.
    Chunk,
    /// A report: durable before it is answered.
    Report,
}

impl Step {
    const ALL: [Self; 4] = [Self::Check, Self::Offer, Self::Chunk, Self::Report];

    fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Offer => "offer",
            Self::Chunk => "chunk",
            Self::Report => "report",
        }
    }
}

/// One driver's measurements; added up at the end, so that measuring shares nothing.
#[derive(Debug)]
pub(crate) struct Measurements {
    latency_us: [Histogram<u64>; 4],
    pub(crate) image_bytes: u64,
    /// Requests that had to be sent more than once.
    pub(crate) resent: u64,
}

impl Measurements {
    pub(crate) fn new() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).unwrap_or_else(|error| unreachable!("constant bounds: {error}"));
        Self { latency_us: [histogram(), histogram(), histogram(), histogram()], image_bytes: 0, resent: 0 }
    }

    pub(crate) fn record(&mut self, step: Step, latency: Duration) {
        self.latency_us[step as usize].saturating_record(u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX).max(1));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (total, part) in self.latency_us.iter_mut().zip(&other.latency_us) {
            // Same bounds everywhere: adding can't fail.
            let _ = total.add(part);
        }
        self.image_bytes += other.image_bytes;
        self.resent += other.resent;
    }

    pub(crate) fn requests(&self) -> u64 {
        self.latency_us.iter().map(Histogram::len).sum()
    }

    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{:8}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}\n",
            "step", "count", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"
        );
        for (step, histogram) in Step::ALL.into_iter().zip(&self.latency_us) {
            let _ = write!(table, "{:8}{:>12}", step.name(), histogram.len());
            for (_, latency_us) in percentiles(histogram) {
                let _ = write!(table, "{:>12.3}", latency_us as f64 / 1_000.0);
            }
            table.push('\n');
        }
        table
    }

    pub(crate) fn to_json(&self) -> Value {
        let steps = Step::ALL.into_iter().zip(&self.latency_us).map(|(step, histogram)| {
            let mut entry = json!({ "count": histogram.len() });
            for (name, latency_us) in percentiles(histogram) {
                entry[format!("{name}_us")] = latency_us.into();
            }
            (step.name().to_owned(), entry)
        });
        Value::Object(steps.collect())
    }
}

fn percentiles(histogram: &Histogram<u64>) -> [(&'static str, u64); 5] {
    [
        ("p50", histogram.value_at_quantile(0.5)),
        ("p90", histogram.value_at_quantile(0.9)),
        ("p99", histogram.value_at_quantile(0.99)),
        ("p99_9", histogram.value_at_quantile(0.999)),
        ("max", histogram.max()),
    ]
}

/// Two minutes; an attempt is given up long before.
const LATENCY_US_MAX: u64 = 120_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_two_drivers_are_those_of_all_their_steps() {
        let (mut total, mut other) = (Measurements::new(), Measurements::new());
        for millisecond in 1..=50 {
            total.record(Step::Report, Duration::from_millis(millisecond));
            other.record(Step::Report, Duration::from_millis(50 + millisecond));
        }
        other.image_bytes = 7;
        total.add(&other);
        let report = &total.to_json()["report"];
        assert_eq!(report["count"], 100);
        // Three significant digits: 50 ms is told as at most 50.05 ms.
        let p50_us = report["p50_us"].as_u64().unwrap();
        assert!((50_000..=50_050).contains(&p50_us), "{p50_us}");
        let p99_us = report["p99_us"].as_u64().unwrap();
        assert!((99_000..=99_100).contains(&p99_us), "{p99_us}");
        assert_eq!((total.requests(), total.image_bytes), (100, 7));
    }

    #[test]
    fn the_table_has_a_line_for_each_step_even_without_any() {
        let table = Measurements::new().table();
        assert_eq!(table.lines().count(), 5);
        assert!(table.lines().nth(3).unwrap().starts_with("chunk              0"));
    }
}
