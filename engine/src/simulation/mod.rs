//! A whole fleet in virtual time, on the engine itself, with everything that can go wrong between it and the disk.
//!
//! - [`fleet`] acts: devices that check, report, lose answers, repeat, overtake themselves, vanish and come back as something else;
//!   [`operators`] who order, interfere and delete; commits that fail; power that is cut between any two steps of the writer.
//! - [`world`] is the program: the engine's facade and its writer, taken step by step, on a store that fails as it is told ([`medium`]).
//! - [`oracle`] knows what must hold, and compares everything that the engine says with it.
//!
//! One seed is one run. A run is a list of [`steps`], so a run that breaks a promise is [shrunk](shrink) to the steps that it takes.
//!
//! `cargo test` takes some short runs. `SLUICEGATE_SEED=n` takes that short run alone; `SLUICEGATE_SEEDS=from..to` takes long ones, with
//! thousands of devices:
//!
//! ```text
//! SLUICEGATE_SEEDS=0..1000 cargo test --release -p sluicegate --lib simulation -- --nocapture
//! ```

mod commands;
mod fleet;
mod medium;
mod operators;
mod oracle;
mod shrink;
mod steps;
mod world;

use fleet::{Fleet, Profile};
use oracle::Broken;
use shrink::shrink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use steps::Step;
use world::{Tally, World};

/// The short runs of every `cargo test`.
const SEEDS: u64 = 24;

impl Profile {
    fn world(&self) -> World {
        World::new(self.devices, self.limits.clone(), self.is_disk)
    }
}

/// A panic of the engine is a broken promise like any other.
fn guarded(act: impl FnOnce() -> Result<(), Broken>) -> Result<(), Broken> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
        Err(Broken { rule: "nothing panics", seen: said.unwrap_or_default() })
    })
}

/// Takes a run again, or what is left of it.
fn retake(profile: &Profile, steps: &[Step]) -> Result<(), Broken> {
    guarded(|| {
        let mut world = profile.world();
        steps.iter().try_for_each(|step| world.take(step).map(drop))
    })
}

fn run(profile: &Profile, variable: &str) -> (Tally, Vec<Step>) {
    let (mut world, mut fleet) = (profile.world(), Fleet::new(profile.clone()));
    let ended = guarded(|| fleet.run(&mut world));
    let Err(Broken { rule, seen }) = ended else { return (world.tally, fleet.taken) };
    drop(world);
    let steps = fleet.taken.len();
    println!("{variable} breaks \"{rule}\" at step {steps}: {seen}");
    let (left, seen) = shrink(fleet.taken, |steps| retake(profile, steps).err().filter(|broken| broken.rule == rule));
    let lines: Vec<String> = left.iter().map(|step| format!("    {step:?}\n")).collect();
    let seen = seen.unwrap_or_else(|| "taken again without those who acted, it isn't broken".into());
    panic!("{variable}: \"{rule}\" is broken by {} of {steps} steps:\n{}{seen}", left.len(), lines.concat())
}

fn add(sum: &mut Tally, run: &Tally) {
    sum.steps += run.steps;
    sum.checks += run.checks;
    sum.reports += run.reports;
    sum.groups += run.groups;
    sum.in_largest_group = sum.in_largest_group.max(run.in_largest_group);
    sum.undone += run.undone;
    sum.power_cuts += run.power_cuts;
    sum.restarts += run.restarts;
    sum.acknowledged += run.acknowledged;
    sum.offers += run.offers;
    sum.events += run.events;
    sum.audits += run.audits;
}

fn seeds(text: &str) -> std::ops::Range<u64> {
    let (from, to) = text.split_once("..").unwrap_or_else(|| panic!("SLUICEGATE_SEEDS is {text:?}; give from..to"));
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn every_promise_is_kept_by_a_fleet_on_bad_lines_with_failing_commits_and_power_cuts() {
    if let Ok(range) = std::env::var("SLUICEGATE_SEEDS") {
        return long(seeds(&range));
    }
    if let Ok(seed) = std::env::var("SLUICEGATE_SEED") {
        let seed = seed.parse().unwrap();
        return drop(run(&Profile::draw(seed, false), &format!("SLUICEGATE_SEED={seed}")));
    }
    let mut sum = Tally::default();
    for seed in 0..SEEDS {
        add(&mut sum, &run(&Profile::draw(seed, false), &format!("SLUICEGATE_SEED={seed}")).0);
    }
    // Shown only where a test fails, or when it is asked for.
    println!("{SEEDS} seeds: {sum:?}");
    let tried = [sum.power_cuts, sum.restarts, sum.undone, sum.offers, sum.reports, sum.acknowledged];
    assert!(tried.iter().all(|count| *count > SEEDS), "little was tried: {sum:?}");
    assert!(sum.in_largest_group > 10, "no group was large: {sum:?}");
}

fn long(seeds: std::ops::Range<u64>) {
    let (mut sum, first) = (Tally::default(), seeds.start);
    for seed in seeds {
        let profile = Profile::draw(seed, true);
        add(&mut sum, &run(&profile, &format!("SLUICEGATE_SEEDS={seed}..{}", seed + 1)).0);
        if (seed + 1 - first).is_multiple_of(20) {
            println!("{} seeds: {sum:?}", seed + 1 - first);
        }
    }
    println!("in all: {sum:?}");
}

#[test]
fn one_seed_is_one_run() {
    for seed in [3, 7, 8] {
        let mut profile = Profile::draw(seed, false);
        profile.is_disk = false;
        let (first, again) = (run(&profile, "SLUICEGATE_SEED"), run(&profile, "SLUICEGATE_SEED"));
        assert_eq!(format!("{first:?}"), format!("{again:?}"), "seed {seed}");
    }
}
