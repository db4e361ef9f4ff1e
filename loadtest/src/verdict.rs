//! What a run came to: the figures, and everything that was not as it must be.

use crate::device::World;
use crate::gateways::Traffic;
use crate::measurements::Measurements;
use crate::monitor::Watched;
use crate::options::Options;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was seen.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From the first check to the last device's end, without the wait for vanished devices.
    pub(crate) elapsed: Duration,
    pub(crate) measured: Measurements,
    pub(crate) watched: Watched,
    /// Of gateways.
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) fleet_permits_max: usize,
    pub(crate) counts_expected: BTreeMap<&'static str, u64>,
    /// The server's counts by state, without zeros.
    pub(crate) counts_found: BTreeMap<String, u64>,
    pub(crate) restarts: u32,
}

impl Outcome {
    /// Everything that was wrong, a sentence each; empty when all promises were kept.
    pub(crate) fn faults(&self, world: &World) -> Vec<String> {
        let cap = u64::from(world.options.cap());
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
        if finished != u64::from(world.options.members()) {
            faults.push(format!("{finished} devices came to a result, expected {}", world.options.members()));
        }
        if let Some(kills) = world.options.kills.filter(|_| self.restarts == 0) {
            faults.push(format!("the fleet was through before the first of {kills} kills; give it more devices"));
        }
        let connections_lost = read(&self.traffic.connections_lost);
        if self.restarts == 0 && connections_lost > 0 {
            faults.push(format!("{connections_lost} connections of gateways were lost, though the server was never away"));
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
        text.push('\n');
        // Writing to a string can't fail.
        let _ = match options.gateways {
            None => self.write_requests(&mut text),
            Some(_) => self.write_messages(&mut text),
        };
        let _ = writeln!(
            text,
            "permits at once: at most {} by the fleet's account, {} in {} looks at the server's; the cap is {}",
            self.fleet_permits_max,
            self.watched.permits_held_max,
            self.watched.looks,
            options.cap()
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
        let usage = self.watched.usage;
        if usage.is_known() {
            let _ = writeln!(
                text,
                "the server took {:.1} s of processor time ({:.0} % of one core) and at most {:.0} MB of memory, {:.0} MB before the fleet came",
                usage.cpu().as_secs_f64(),
                usage.cpu().as_secs_f64() * 100.0 / self.seconds(),
                usage.resident_max_bytes as f64 / 1e6,
                usage.resident_first_bytes as f64 / 1e6,
            );
        }
        text
    }

    fn write_requests(&self, text: &mut String) -> std::fmt::Result {
        let (upgrades, requests) = (self.upgrades(), self.measured.requests());
        writeln!(
            text,
            "{upgrades} upgrades and {requests} requests in {:.1} s: {:.0} upgrades/s, {:.0} requests/s, {:.0} MB/s of image, every byte digested here",
            self.seconds(),
            upgrades as f64 / self.seconds(),
            requests as f64 / self.seconds(),
            self.measured.image_bytes as f64 / 1e6 / self.seconds(),
        )
    }

    fn write_messages(&self, text: &mut String) -> std::fmt::Result {
        let (upgrades, traffic) = (self.upgrades(), &self.traffic);
        let (up, down) = (read(&traffic.messages_up), read(&traffic.messages_down));
        writeln!(
            text,
            "{upgrades} upgrades, {up} messages up and {down} down in {:.1} s: {:.0} messages/s, at most {:.0} in a second",
            self.seconds(),
            (up + down) as f64 / self.seconds(),
            self.watched.messages_per_s_max,
        )?;
        if self.measured.image_bytes > 0 {
            let megabytes = self.measured.image_bytes as f64 / 1e6;
            writeln!(text, "{megabytes:.0} MB of image, every byte digested here: {:.0} MB/s", megabytes / self.seconds())?;
        }
        writeln!(
            text,
            "connections: at most {} at once, {} lost; orders that came again: {}",
            read(&traffic.connections_max),
            read(&traffic.connections_lost),
            read(&traffic.orders_repeated)
        )
    }

    fn upgrades(&self) -> u64 {
        self.counts_expected.values().sum()
    }

    pub(crate) fn to_json(&self, world: &World) -> Value {
        let traffic = &self.traffic;
        let messages = read(&traffic.messages_up) + read(&traffic.messages_down);
        let gateways = json!({
            "messages_up": read(&traffic.messages_up),
            "messages_down": read(&traffic.messages_down),
            "messages_per_s": messages as f64 / self.seconds(),
            "messages_per_s_max": self.watched.messages_per_s_max,
            "connections_max": read(&traffic.connections_max),
            "connections_lost": read(&traffic.connections_lost),
            "orders_repeated": read(&traffic.orders_repeated),
        });
        let usage = self.watched.usage;
        let server = json!({
            "cpu_s": usage.cpu().as_secs_f64(),
            "resident_first_bytes": usage.resident_first_bytes,
            "resident_max_bytes": usage.resident_max_bytes,
        });
        json!({
            "run": description(&world.options),
            "elapsed_s": self.seconds(),
            "requests": self.measured.requests(),
            "requests_per_s": self.measured.requests() as f64 / self.seconds(),
            "upgrades_per_s": self.upgrades() as f64 / self.seconds(),
            "image_bytes": self.measured.image_bytes,
            "image_mb_per_s": self.measured.image_bytes as f64 / 1e6 / self.seconds(),
            "steps": self.measured.to_json(),
            "gateways": world.options.gateways.map(|_| gateways),
            "server": usage.is_known().then_some(server),
            "permits": {
                "cap": world.options.cap(),
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

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What has to be known to repeat the run.
pub(crate) fn description(options: &Options) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "machine": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "seed": options.seed,
        "devices": options.gateways.is_none().then_some(options.devices),
        "gateways": options.gateways.map(|gateways| json!({
            "count": gateways,
            "progress_every_ms": options.progress_every_ms,
            "progress_steps": options.progress_steps,
            "through_broker": options.broker.is_some(),
            "download": options.download,
        })),
        "connections": options.connections,
        "cap": options.cap(),
        "image_size": options.image_size,
        "chunk_size": options.chunk_size,
        "timeout_s": options.timeout_s(),
        "wait_ms_max": options.wait_ms_max,
        "fractions": { "vanish": options.vanish, "repeat": options.repeat, "fail": options.fail },
        "kill_after": options.kill_after,
        "kills": options.kills,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurements::Step;
    use std::sync::Arc;

    fn world() -> World {
        World::for_test(&["--devices", "10", "--cap", "4"])
    }

    fn outcome() -> Outcome {
        Outcome {
            elapsed: Duration::from_secs(2),
            measured: Measurements::new(Step::OF_DEVICES),
            watched: Watched { permits_held_max: 4, looks: 3, ..Watched::default() },
            traffic: Arc::default(),
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
    fn kills_that_never_came_prove_nothing() {
        let world = World::for_test(&["--devices", "10", "--cap", "4", "--kills", "3"]);
        let faults = outcome().faults(&world);
        assert_eq!(faults, ["the fleet was through before the first of 3 kills; give it more devices"]);
        let killed = Outcome { restarts: 1, ..outcome() };
        assert_eq!(killed.faults(&world), Vec::<String>::new());
        assert_eq!(killed.to_json(&world)["run"]["kills"], 3);
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
