//! How long each step took, and how much was moved.
//!
//! Devices are a closed loop: a connection sends its next request after the last answer, so a slow server is asked less often, and what
//! a request waited for a free connection is not in the figures. Gateways are an open one: their events go by the clock. Both include
//! the fleet's own share of the machine.

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
    /// From the first byte to a gateway's server to its CONNACK.
    Connect,
    /// From `update_topo` to its reply.
    Topology,
    /// From an event's PUBLISH to its PUBACK: durable before it is acknowledged. Through a broker it is the broker's word alone.
    Puback,
    /// From an event that asks for one to its reply.
    Reply,
    /// From the sending of a result, which frees a permit, to the next order that arrives at any gateway: a little more than the server
    /// takes to hand the permit on. Orders are paired with results in their order.
    Handover,
}

impl Step {
    /// What devices do over HTTP.
    pub(crate) const OF_DEVICES: &'static [Self] = &[Self::Check, Self::Offer, Self::Chunk, Self::Report];
    /// What gateways do over MQTT.
    pub(crate) const OF_GATEWAYS: &'static [Self] =
        &[Self::Connect, Self::Topology, Self::Puback, Self::Reply, Self::Handover, Self::Chunk];

    fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Offer => "offer",
            Self::Chunk => "chunk",
            Self::Report => "report",
            Self::Connect => "connect",
            Self::Topology => "topology",
            Self::Puback => "puback",
            Self::Reply => "reply",
            Self::Handover => "handover",
        }
    }
}

/// One driver's measurements; added up at the end, so that measuring shares nothing.
#[derive(Debug)]
pub(crate) struct Measurements {
    steps: &'static [Step],
    /// Of each step.
    latency_us: Vec<Histogram<u64>>,
    pub(crate) image_bytes: u64,
    /// Requests that had to be sent more than once.
    pub(crate) resent: u64,
}

impl Measurements {
    pub(crate) fn new(steps: &'static [Step]) -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).unwrap_or_else(|error| unreachable!("constant bounds: {error}"));
        Self { steps, latency_us: steps.iter().map(|_| histogram()).collect(), image_bytes: 0, resent: 0 }
    }

    pub(crate) fn record(&mut self, step: Step, latency: Duration) {
        debug_assert!(self.steps.contains(&step), "{step:?} is none of {:?}", self.steps);
        if let Some(place) = self.steps.iter().position(|own| *own == step) {
            self.latency_us[place].saturating_record(u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX).max(1));
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (step, part) in other.steps.iter().zip(&other.latency_us) {
            debug_assert!(self.steps.contains(step), "{step:?} is none of {:?}", self.steps);
            if let Some(place) = self.steps.iter().position(|own| own == step) {
                // Same bounds everywhere: adding can't fail.
                let _ = self.latency_us[place].add(part);
            }
        }
        self.image_bytes += other.image_bytes;
        self.resent += other.resent;
    }

    pub(crate) fn requests(&self) -> u64 {
        self.latency_us.iter().map(Histogram::len).sum()
    }

    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{:10}{:>10}{:>12}{:>12}{:>12}{:>12}{:>12}\n",
            "step", "count", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"
        );
        for (step, histogram) in self.steps.iter().zip(&self.latency_us) {
            let _ = write!(table, "{:10}{:>10}", step.name(), histogram.len());
            for (_, latency_us) in percentiles(histogram) {
                let _ = write!(table, "{:>12.3}", latency_us as f64 / 1_000.0);
            }
            table.push('\n');
        }
        table
    }

    pub(crate) fn to_json(&self) -> Value {
        let steps = self.steps.iter().zip(&self.latency_us).map(|(step, histogram)| {
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
        let (mut total, mut other) = (Measurements::new(Step::OF_DEVICES), Measurements::new(Step::OF_DEVICES));
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
        let table = Measurements::new(Step::OF_DEVICES).table();
        assert_eq!(table.lines().count(), 5);
        assert!(table.lines().nth(3).unwrap().starts_with("chunk              0"));
    }
}
