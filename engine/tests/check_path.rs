//! What a check costs besides time: no allocation where nothing is granted, whatever the answer.
//!
//! The counter replaces the allocator of this test program, and counts what the calling thread asks of it.

#![allow(clippy::unwrap_used, reason = "a test that meets what it doesn't expect should end there and then")]

use allocation_counter::measure;
use sluicegate::model::*;
use sluicegate::*;
use std::hint::black_box;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const DEVICES: usize = 500;

fn task(engine: &Engine, from: &str, to: &str, maximum_concurrency: Option<u32>) {
    let artifact = Artifact { url: Some("http://elsewhere/2".into()), size: 9, md5: "m".into(), ..Artifact::default() };
    let target = TaskTarget::Artifact { version: to.into(), artifact };
    let policy = Policy { maximum_concurrency, ..Policy::default() };
    let new = NewTask { policy, unique_start: true, start: true, ..NewTask::new("acme", "lamp", vec![from.into()], target) };
    engine.create_task(new, true, NOW).wait().unwrap();
}

fn check<'a>(id: &'a str, version: &'a str, preview: bool) -> Check<'a> {
    let device = DeviceRef { organization: "acme", product_id: "lamp", device_id: id };
    Check { device, component: Component::MAIN, version, rules: CheckRules { register: true, preview, ..CheckRules::default() } }
}

/// What devices at these versions are told, asked again and again: at "free" each holds an offer; at "capped" all but one wait.
fn fleet(engine: &Engine) -> Vec<(String, &'static str)> {
    task(engine, "free", "2", None);
    task(engine, "capped", "2", Some(1));
    let versions = ["free", "capped", "2", "untouched"];
    let devices: Vec<_> = (0..DEVICES).map(|n| (format!("device-{n}"), versions[n % versions.len()])).collect();
    let asked: Vec<_> = devices.iter().map(|(id, version)| engine.decide(&check(id, version, false), NOW)).collect();
    for asked in asked {
        asked.wait().unwrap();
    }
    devices
}

fn told(checked: &Checked) -> &'static str {
    match checked {
        Checked::Decided(Decision::Offer(_)) => "offer",
        Checked::Decided(Decision::Wait(_)) => "wait",
        Checked::Decided(Decision::UpToDate) => "up to date",
        Checked::Decided(Decision::NoTask) => "no task",
        Checked::Ask => "ask",
    }
}

#[test]
fn a_check_that_grants_nothing_allocates_nothing_whatever_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::open(Options::new(folder.path())).unwrap();
    let devices = fleet(&engine);
    let mut seen = std::collections::BTreeSet::new();
    // A thread's first look enters it among the readers, which costs it an entry once.
    engine.check(&check(&devices[0].0, devices[0].1, false), NOW);
    for later_s in [0, 1, 3_600] {
        let now = NOW.plus_seconds(later_s);
        for (id, version) in &devices {
            let asked = check(id, version, false);
            let mut answer = None;
            let counted = measure(|| answer = Some(black_box(engine.check(&asked, now))));
            let answer = told(&answer.unwrap());
            seen.insert(answer);
            assert_eq!(counted.count_total, 0, "{id} at {version:?}: {answer}");
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["no task", "offer", "up to date", "wait"]);
}

#[test]
fn the_counter_counts() {
    let counted = measure(|| drop(black_box(vec![1_u8; 100])));
    assert_eq!((counted.count_total, counted.bytes_total), (1, 100));
}
