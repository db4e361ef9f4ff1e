//! What was measured, in a form that can be kept and drawn again.

use serde::{Deserialize, Serialize};

/// A whole run.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Results {
    /// Machine, versions and settings, a line each.
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Measured>,
    pub(crate) fairness: Vec<Fairness>,
}

/// One row over one number of connections; medians over the rounds.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Measured {
    pub(crate) table: String,
    pub(crate) label: String,
    pub(crate) connections: u32,
    pub(crate) unit: Unit,
    /// Who stands beside nginx: our server, or the floor.
    pub(crate) contender: String,
    pub(crate) ours: Figures,
    pub(crate) nginx: Figures,
    /// Processor time, ours by nginx's: the median over the rounds, the smallest and the largest.
    pub(crate) ratio: f64,
    pub(crate) ratio_min: f64,
    pub(crate) ratio_max: f64,
    /// The same of both processors, whoever they worked for.
    pub(crate) machine_ratio: f64,
    /// Requests or bytes a second, ours by nginx's.
    pub(crate) rate_ratio: f64,
}

/// One side of a row.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Figures {
    /// The server's processor time for each unit, in nanoseconds.
    pub(crate) unit_ns: f64,
    /// What both processors did for each unit, the load's and the kernel's own work included.
    pub(crate) machine_unit_ns: f64,
    /// Units a second.
    pub(crate) rate: f64,
    /// p50, p90 and p99 of a request, in microseconds, if any was finished.
    pub(crate) latency_us: Option<[f64; 3]>,
    /// How much of its processor the server used.
    pub(crate) busy: f64,
}

/// What processor time is counted by.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Unit {
    Request,
    Kibibyte,
}

/// Device checks alone, and beside slow downloads from the same server.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Fairness {
    pub(crate) server: String,
    pub(crate) downloads: u32,
    pub(crate) alone: Figures,
    /// While the downloads begin, and after that.
    pub(crate) beginning: Figures,
    pub(crate) beside: Figures,
    /// What the downloads got meanwhile, all together, in bytes a second, and what they asked for.
    pub(crate) downloaded: f64,
    pub(crate) wanted: f64,
}

/// The middle one, or the mean of the middle two; 0 of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}

impl Figures {
    /// Each figure the median of those of the rounds.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds.iter().map(figure));
        let latencies: Vec<[f64; 3]> = rounds.iter().filter_map(|round| round.latency_us).collect();
        let latency = [0, 1, 2].map(|at| median(latencies.iter().map(|latency| latency[at])));
        let latency_us = (!latencies.is_empty()).then_some(latency);
        Self {
            unit_ns: of(|round| round.unit_ns),
            machine_unit_ns: of(|round| round.machine_unit_ns),
            rate: of(|round| round.rate),
            latency_us,
            busy: of(|round| round.busy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }
}
