//! Random operations on the state machine, beside an oracle that is written down in the simplest way: plain maps, no sets, no timers,
//! every question answered by looking through everything. A failing run prints its seed; `SLUICEGATE_SEED=n` runs that one alone.

use super::script::Fleet;
use crate::state::*;
use std::collections::BTreeMap;

const DEVICES: u64 = 12;
const VERSIONS: [&str; 4] = ["1", "2", "3", "4"];
const STEPS: usize = 400;
const SEEDS: u64 = 300;

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Clone, Debug)]
struct OracleTask {
    from: &'static str,
    to: &'static str,
    cap: u64,
    timeout_s: u64,
    retries: u64,
    status: TaskStatus,
}

#[derive(Clone, Debug, PartialEq)]
enum Run {
    Held { id: UpgradeId, deadline: Timestamp, state: UpgradeState, attempts: u64 },
    Waiting { until: Option<Timestamp>, attempts: u64 },
    Finished(UpgradeState),
}

#[derive(Default)]
struct Oracle {
    tasks: BTreeMap<usize, OracleTask>,
    runs: BTreeMap<(usize, String), Run>,
    devices: BTreeMap<String, &'static str>,
}

impl Oracle {
    fn held(&self, task: usize) -> u64 {
        self.runs.iter().filter(|((own, _), run)| *own == task && matches!(run, Run::Held { .. })).count() as u64
    }

    /// What a check must be answered; an offer it can't name yet is "offer".
    fn check(&mut self, device: &str, version: &'static str, now: Timestamp) -> (String, Option<usize>) {
        self.devices.insert(device.into(), version);
        for ((task, own), run) in &mut self.runs {
            if own == device && matches!(run, Run::Waiting { .. }) && self.tasks[task].to == version {
                *run = Run::Finished(UpgradeState::Succeeded);
            }
        }
        let held = self.runs.iter().find(|((_, own), run)| own == device && matches!(run, Run::Held { .. }));
        if let Some(((task, _), _)) = held {
            let task = &self.tasks[task];
            let said = match version {
                version if version == task.from => format!("offer again: {} -> {}", task.from, task.to),
                version if version == task.to => "up to date".into(),
                _ => "no task".into(),
            };
            return (said, None);
        }
        for (number, task) in self.tasks.iter().rev() {
            if task.status == TaskStatus::Stopped || task.from != version {
                continue;
            }
            let run = self.runs.get(&(*number, device.to_owned()));
            if matches!(run, Some(Run::Finished(_))) {
                continue;
            }
            if task.status == TaskStatus::Paused {
                return ("wait: paused".into(), None);
            }
            if let Some(Run::Waiting { until: Some(until), .. }) = run
                && now < *until
            {
                return (format!("wait: back_off {} s", now.seconds_until(*until)), None);
            }
            if self.held(*number) >= task.cap {
                return ("wait: cap".into(), None);
            }
            return (format!("offer: {} -> {}", task.from, task.to), Some(*number));
        }
        let leads_here = self.tasks.values().any(|task| task.to == version);
        (if leads_here { "up to date" } else { "no task" }.into(), None)
    }

    fn grant(&mut self, task: usize, device: &str, id: UpgradeId, now: Timestamp) {
        let attempts = match self.runs.get(&(task, device.to_owned())) {
            Some(Run::Waiting { attempts, .. }) => attempts + 1,
            _ => 1,
        };
        let deadline = now.plus_seconds(self.tasks[&task].timeout_s);
        self.runs.insert((task, device.into()), Run::Held { id, deadline, state: UpgradeState::Offered, attempts });
    }

    fn fail(&mut self, task: usize, device: &str, result: UpgradeState, now: Timestamp) {
        let key = (task, device.to_owned());
        let Some(Run::Held { attempts, .. }) = self.runs.get(&key) else { return };
        let again = result != UpgradeState::Rejected && *attempts <= self.tasks[&task].retries;
        let attempts = *attempts;
        let run = if again { Run::Waiting { until: Some(now.plus_seconds(60)), attempts } } else { Run::Finished(result) };
        self.runs.insert(key, run);
    }

    fn report(&mut self, device: &str, id: UpgradeId, reported: ReportedState, now: Timestamp) -> String {
        let unknown = format!("no upgrade \"{id}\" here");
        let known = self.runs.iter().find(|((task, own), _)| own == device && TaskNumber(*task as u32) == id.task);
        let Some(((task, _), run)) = known.map(|(key, run)| (key.clone(), run.clone())) else { return unknown };
        let Run::Held { id: current, state, .. } = run else { return "nothing changed".into() };
        if current != id {
            return "nothing changed".into();
        }
        let next = reported.state();
        match next {
            UpgradeState::Succeeded => {
                self.devices.insert(device.into(), self.tasks[&task].to);
                self.runs.insert((task, device.into()), Run::Finished(UpgradeState::Succeeded));
            }
            UpgradeState::Failed | UpgradeState::Rejected | UpgradeState::TimedOut => self.fail(task, device, next, now),
            UpgradeState::Canceled => drop(self.runs.insert((task, device.into()), Run::Finished(UpgradeState::Canceled))),
            _ => {
                let paused = state == UpgradeState::Paused;
                let moves = if paused || next == UpgradeState::Paused { next != state } else { next > state };
                if !moves {
                    return "nothing changed".into();
                }
                if let Some(Run::Held { state, .. }) = self.runs.get_mut(&(task, device.into())) {
                    *state = next;
                }
            }
        }
        "counted".into()
    }

    fn pass(&mut self, now: Timestamp) {
        let due: Vec<_> = self
            .runs
            .iter()
            .filter(|(_, run)| matches!(run, Run::Held { deadline, .. } if *deadline <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for (task, device) in due {
            self.fail(task, &device, UpgradeState::TimedOut, now);
        }
    }
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let mut fleet = Fleet::new(Limits::default());
    let mut oracle = Oracle::default();
    let mut given: Vec<(String, UpgradeId)> = Vec::new();
    let mut history = Vec::new();
    for _ in 0..STEPS {
        let device = format!("d{}", random.below(DEVICES));
        let task = random.below(oracle.tasks.len().max(1) as u64 + 1) as usize;
        let (line, said, expected) = match random.below(100) {
            0..5 => {
                let from = VERSIONS[random.below(3) as usize];
                let to = VERSIONS[random.below(4) as usize];
                if from == to || fleet.tasks.len() > 6 {
                    continue;
                }
                let (cap, timeout_s, retries) = (1 + random.below(3), 50 + random.below(100), random.below(3));
                let line = format!("task {from} -> {to} cap={cap} timeout={timeout_s} retry={retries} shared");
                let number = fleet.tasks.len();
                oracle.tasks.insert(number, OracleTask { from, to, cap, timeout_s, retries, status: TaskStatus::Stopped });
                let said = fleet.line(&line);
                (line, said, format!("t{} stopped", number + 1))
            }
            5..15 if oracle.tasks.contains_key(&task) => {
                let verb = ["start", "start", "start", "stop", "pause", "resume"][random.below(6) as usize];
                let line = format!("{verb} t{}", task + 1);
                let said = fleet.line(&line);
                let own = oracle.tasks.get_mut(&task).unwrap();
                let expected = match (verb, own.status) {
                    ("pause" | "resume", TaskStatus::Stopped) => said.clone(),
                    ("start" | "resume", _) => {
                        own.status = TaskStatus::Started;
                        "started".into()
                    }
                    ("pause", _) => {
                        own.status = TaskStatus::Paused;
                        "paused".into()
                    }
                    _ => {
                        own.status = TaskStatus::Stopped;
                        "stopped".into()
                    }
                };
                (line, said, expected)
            }
            15..17 if oracle.tasks.contains_key(&task) && random.below(4) == 0 => {
                let line = format!("delete t{}", task + 1);
                oracle.tasks.remove(&task);
                oracle.runs.retain(|(own, _), _| *own != task);
                let said = fleet.line(&line);
                (line, said, "done".into())
            }
            17..19 if oracle.devices.contains_key(&device) => {
                let line = format!("remove {device}");
                oracle.devices.remove(&device);
                oracle.runs.retain(|(_, own), _| *own != device);
                given.retain(|(own, _)| *own != device);
                let said = fleet.line(&line);
                (line, said, "done".into())
            }
            19..23 if oracle.tasks.contains_key(&task) && oracle.devices.contains_key(&device) => {
                let line = format!("cancel t{} {device}", task + 1);
                let said = fleet.line(&line);
                let key = (task, device.clone());
                let expected = match oracle.runs.get(&key) {
                    Some(Run::Finished(state)) if *state != UpgradeState::Canceled => {
                        format!("the upgrade of {device} is {}; it can't be canceled", state.name())
                    }
                    _ => {
                        oracle.runs.insert(key, Run::Finished(UpgradeState::Canceled));
                        "done".into()
                    }
                };
                (line, said, expected)
            }
            23..27 if oracle.tasks.contains_key(&task) && oracle.devices.contains_key(&device) => {
                let line = format!("retry t{} {device}", task + 1);
                let said = fleet.line(&line);
                let key = (task, device.clone());
                let expected = match oracle.runs.get(&key) {
                    Some(Run::Finished(UpgradeState::Succeeded)) => {
                        format!("the upgrade of {device} is succeeded; only one that failed can be retried")
                    }
                    Some(Run::Held { state, .. }) => {
                        format!("the upgrade of {device} is {}; only one that failed can be retried", state.name())
                    }
                    None => format!("no upgrade {device:?} here"),
                    Some(_) => {
                        oracle.runs.insert(key, Run::Waiting { until: None, attempts: 0 });
                        "done".into()
                    }
                };
                (line, said, expected)
            }
            27..40 => {
                let line = format!("pass {}", random.below(40));
                fleet.line(&line);
                oracle.pass(fleet.now);
                (line, String::new(), String::new())
            }
            40..70 if !given.is_empty() => {
                // Sometimes an old id, sometimes another device's.
                let (owner, id) = given[random.below(given.len() as u64) as usize].clone();
                let device = if random.below(8) == 0 { device } else { owner.clone() };
                let reported = ReportedState::ALL[random.below(ReportedState::ALL.len() as u64) as usize];
                fleet.offers.insert(device.clone(), id);
                let line = format!("{device} report {} ({id})", reported.state().name());
                let said = fleet.line(&format!("{device} report {}", reported.state().name()));
                let expected = if device == owner {
                    oracle.report(&device, id, reported, fleet.now)
                } else {
                    format!("no upgrade \"{id}\" here")
                };
                (line, said, expected)
            }
            _ => {
                let recorded = oracle.devices.get(&device).copied().unwrap_or(VERSIONS[0]);
                let version = if random.below(6) == 0 { VERSIONS[random.below(4) as usize] } else { recorded };
                let line = format!("{device} check {version}");
                let current = oracle.runs.iter().find_map(|((_, own), run)| match run {
                    Run::Held { id, .. } if *own == device => Some(*id),
                    _ => None,
                });
                match current {
                    Some(id) => fleet.offers.insert(device.clone(), id),
                    None => fleet.offers.remove(&device),
                };
                let said = fleet.line(&line);
                let (expected, granted) = oracle.check(&device, version, fleet.now);
                if let Some(task) = granted {
                    let id = *fleet.offers.get(&device).unwrap_or_else(|| panic!("seed {seed}: {line}: {said}\n{history:#?}"));
                    oracle.grant(task, &device, id, fleet.now);
                    given.push((device, id));
                }
                (line, said, expected)
            }
        };
        history.push(format!("{line}: {said}"));
        assert_eq!(said, expected, "seed {seed}, after\n{}", history.join("\n"));
        for (number, task) in &oracle.tasks {
            let info = fleet.state.task("o", fleet.tasks[*number]).unwrap();
            assert_eq!(
                info.permits_held,
                oracle.held(*number),
                "seed {seed}, permits of t{}, after\n{}",
                number + 1,
                history.join("\n")
            );
            assert!(info.permits_held <= task.cap, "seed {seed}: the cap is exceeded, after\n{}", history.join("\n"));
        }
    }
}

#[test]
fn random_operations_give_what_a_simple_oracle_says() {
    if let Ok(seed) = std::env::var("SLUICEGATE_SEED") {
        return run(seed.parse().unwrap());
    }
    for seed in 0..SEEDS {
        run(seed);
    }
}
