//! What a run came to: the figures, and everything that was not as it must be.

use crate::device::World;
use crate::measurements::Measurements;
use crate::monitor::Watched;
use crate::options::Options;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// What was seen.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From the first check to the last device's end, without the wait for vanished devices.
    pub(crate) elapsed: Duration,
    pub(crate) measured: Measurements,
    pub(crate) watched: Watched,
    pub(crate) fleet_permits_max: usize,
    pub(crate) counts_expected: BTreeMap<&'static str, u64>,
    /// The server's counts by state, without zeros.
    pub(crate) counts_found: BTreeMap<String, u64>,
    pub(crate) restarts: u32,
}

impl Outcome {
    /// Everything that was wrong, a sentence each; empty when all promises were kept.
    pub(crate) fn faults(&self, world: &World) -> Vec<String> {
        let cap = u64::from(world.options.cap);
        let mut faults = Vec::new();
        if self.fleet_permits_max as u64 > cap {
            faults.push(format!("the cap was exceeded: {} devices upgraded at once, {cap} are allowed", self.fleet_permits_max));
        }
        if self.watched.permits_held_max > cap {
            faults.push(format!(
                "the cap was exceeded: the server showed {} permits held, {cap} are allowed",
                self.watched.permits_held_max
            ));
        }
        let counts_expected: BTreeMap<String, u64> =
            self.counts_expected.iter().map(|(state, count)| ((*state).to_owned(), *count)).collect();
        if counts_expected != self.counts_found {
            faults.push(format!("the task counts {:?}, the fleet {counts_expected:?}", self.counts_found));
        }
        let finished: u64 = counts_expected.values().sum();
        if finished != u64::from(world.options.devices) {
            faults.push(format!("{finished} devices came to a result, expected {}", world.options.devices));
        }
        let (mismatches, mismatch_count) = (world.ledger.mismatches(), world.ledger.mismatch_count());
        let untold = mismatch_count - mismatches.len() as u64;
        faults.extend(mismatches);
        if untold > 0 {
            faults.push(format!("{untold} more mismatches"));
        }
        faults
    }

    fn seconds(&self) -> f64 {
        self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    pub(crate) fn to_text(&self, world: &World) -> String {
        let options = &world.options;
        let mut text = self.measured.table();
        let requests = self.measured.requests();
        let upgrades: u64 = self.counts_expected.values().sum();
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "\n{upgrades} upgrades and {requests} requests in {:.1} s: {:.0} upgrades/s, {:.0} requests/s, {:.0} MB/s of image, every byte digested here",
            self.seconds(),
            upgrades as f64 / self.seconds(),
            requests as f64 / self.seconds(),
            self.measured.image_bytes as f64 / 1e6 / self.seconds(),
        );
        let _ = writeln!(
            text,
            "permits at once: at most {} by the fleet's account, {} in {} looks at the server's; the cap is {}",
            self.fleet_permits_max, self.watched.permits_held_max, self.watched.looks, options.cap
        );
        let counts: Vec<String> = self.counts_found.iter().map(|(state, count)| format!("{count} {state}")).collect();
        let _ = writeln!(text, "counts of the task: {}", counts.join(", "));
        let _ = writeln!(
            text,
            "mismatches: {}; results so late that their deadline may have come first: {}; requests sent again: {}; restarts: {}",
            world.ledger.mismatch_count(),
            world.ledger.possibly_late(),
            self.measured.resent,
            self.restarts
        );
        text
    }

    pub(crate) fn to_json(&self, world: &World) -> Value {
        json!({
            "run": description(&world.options),
            "elapsed_s": self.seconds(),
            "requests": self.measured.requests(),
            "requests_per_s": self.measured.requests() as f64 / self.seconds(),
            "upgrades_per_s": self.counts_expected.values().sum::<u64>() as f64 / self.seconds(),
            "image_bytes": self.measured.image_bytes,
            "image_mb_per_s": self.measured.image_bytes as f64 / 1e6 / self.seconds(),
            "steps": self.measured.to_json(),
            "permits": {
                "cap": world.options.cap,
                "fleet_max": self.fleet_permits_max,
                "server_max": self.watched.permits_held_max,
                "looks": self.watched.looks,
            },
            "counts": { "fleet": self.counts_expected, "server": self.counts_found },
            "mismatches": world.ledger.mismatch_count(),
            "possibly_late": world.ledger.possibly_late(),
            "requests_resent": self.measured.resent,
            "restarts": self.restarts,
            "faults": self.faults(world),
        })
    }
}

/// What has to be known to repeat the run.
pub(crate) fn description(options: &Options) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "machine": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "seed": options.seed,
        "devices": options.devices,
        "connections": options.connections,
        "cap": options.cap,
        "image_size": options.image_size,
        "chunk_size": options.chunk_size,
        "timeout_s": options.timeout_s,
        "wait_ms_max": options.wait_ms_max,
        "fractions": { "vanish": options.vanish, "repeat": options.repeat, "fail": options.fail },
        "kill_after": options.kill_after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use crate::setup::Rollout;
    use clap::Parser;
    use std::sync::Arc;

    fn world() -> World {
        let rollout = Rollout {
            product_id: "p".into(),
            task_id: "t".into(),
            image_size: 1,
            image_md5: [0; 16],
            from_version: "1.0",
            target_version: "2.0",
        };
        let options = Options::parse_from(["loadtest", "--devices", "10", "--cap", "4"]);
        World { ledger: Ledger::new(10), options, rollout: Arc::new(rollout) }
    }

    fn outcome() -> Outcome {
        Outcome {
            elapsed: Duration::from_secs(2),
            measured: Measurements::new(),
            watched: Watched { permits_held_max: 4, looks: 3 },
            fleet_permits_max: 4,
            counts_expected: BTreeMap::from([("succeeded", 9), ("failed", 1)]),
            counts_found: BTreeMap::from([("succeeded".to_owned(), 9), ("failed".to_owned(), 1)]),
            restarts: 0,
        }
    }

    #[test]
    fn a_run_as_it_should_be_has_no_fault() {
        assert_eq!(outcome().faults(&world()), Vec::<String>::new());
        assert_eq!(outcome().to_json(&world())["upgrades_per_s"], 5.0);
    }

    #[test]
    fn each_broken_promise_is_named() {
        let world = world();
        world.ledger.mismatch("device-3: md5".to_owned());
        let mut broken = outcome();
        broken.fleet_permits_max = 5;
        broken.watched.permits_held_max = 6;
        broken.counts_found.insert("failed".to_owned(), 0);
        broken.counts_expected.insert("succeeded", 8);
        let faults = broken.faults(&world);
        assert_eq!(faults.len(), 5, "{faults:#?}");
        assert!(faults[0].contains("5 devices upgraded at once, 4 are allowed"));
    }
}
