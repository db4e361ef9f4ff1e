//! A fleet of a million on the real store: tasks created over parts of it, searches and pages, and what a check waits meanwhile.
//!
//! Prints one table. `cargo bench -p sluicegate-bench --bench rollout`; `DEVICES=n` for another size.

use hdrhistogram::Histogram;
use sluicegate::model::*;
use sluicegate::{
    ActionRules, Check, CheckRules, Checked, Decision, DeviceRef, Engine, NewDevice, NewTask, Options, TaskAction, TaskTarget,
};
use sluicegate_bench::{NOW, ORGANIZATION, device_id, scattered};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PRODUCT: &str = "meter";
const BATCH: u32 = 1_000;
const ROUNDS: usize = 20;

fn main() {
    let devices: u32 = std::env::var("DEVICES").ok().and_then(|devices| devices.parse().ok()).unwrap_or(1_000_000);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = Engine::open(Options::new(folder.path())).expect("the engine opens");
    let filled = Instant::now();
    fill(&engine, devices);
    println!("{devices} devices with two tags and an asset path each, put in {:.1} s", filled.elapsed().as_secs_f64());
    println!("\n{:<58} {:>12} {:>12}", "", "median", "slowest");

    let half = || Selector::Tags(BTreeMap::from([("region".into(), vec!["north".into()])]));
    row("create a snapshot task over a tag (half of the fleet)", || created(&engine, half(), true, Vec::new()));
    row("create an incremental task over a tag", || created(&engine, half(), false, Vec::new()));
    let waves = || {
        vec![Wave { size: WaveSize::Percent(1), success_percent: 90 }, Wave { size: WaveSize::Percent(10), success_percent: 90 }]
    };
    row("create a snapshot task over everything, in waves", || created(&engine, Selector::Total, true, waves()));
    let tree = || Selector::AssetTrees(vec![AssetTree { tree: "site".into(), nodes: vec!["hall-7".into()] }]);
    row("create a snapshot task over a node of an asset tree", || created(&engine, tree(), true, Vec::new()));
    row("search: product, version in two, not upgrading", || search(&engine).len() as usize);
    let found = search(&engine);
    let offsets: Vec<u64> = (0..ROUNDS as u64).map(|round| found.len() / ROUNDS as u64 * round).collect();
    let mut offset = offsets.iter().copied().cycle();
    row("a page of 50 anywhere in that search", || {
        let offset = offset.next().unwrap_or(0);
        engine.read_blocking(|state| state.devices_in(&found, offset, 50).len()).expect("reads")
    });
    let task = task(&engine, half(), true, Vec::new());
    engine.act_on_task(ORGANIZATION, task.id, TaskAction::Start, ActionRules::default(), NOW).wait().expect("starts");
    // A preview, so that asking again and again takes no permit.
    let first = engine.check(&check(&device_id(0), "1.0"), NOW);
    assert!(matches!(first, Checked::Decided(Decision::Offer(_))), "a started task offers");
    row("count what a snapshot task has to come", || {
        engine.read_blocking(|state| state.task_outlook(task.number, NOW).map_or(0, |outlook| outlook.to_come)).expect("reads")
            as usize
    });
    let name = device_id(devices / 2);
    row("explain one device", || {
        let device = DeviceRef { organization: ORGANIZATION, product_id: PRODUCT, device_id: &name };
        engine.read_blocking(|state| state.explain(device, Component::MAIN, NOW).map_or(0, |told| told.len())).expect("reads")
    });

    println!("\n{:<34} {:>9} {:>9} {:>9} {:>9} {:>9}", "a check, ns", "p50", "p90", "p99", "p99.9", "max");
    percentiles("nobody else", &engine, devices, || {});
    percentiles("while tasks are created", &engine, devices, || _ = black_box(created(&engine, half(), true, Vec::new())));
    percentiles("while devices are searched", &engine, devices, || drop(black_box(search(&engine))));
}

fn fill(engine: &Engine, devices: u32) {
    for first in (0..devices).step_by(BATCH as usize) {
        let batch = (first..devices.min(first + BATCH)).map(new_device).collect();
        let put = engine.put_devices(ORGANIZATION, batch, true, NOW).wait().expect("devices are put");
        assert!(put.iter().all(Result::is_ok));
    }
}

fn new_device(number: u32) -> NewDevice {
    let region = if number.is_multiple_of(2) { "north" } else { "south" };
    let details = DeviceDetails {
        tags: BTreeMap::from([("region".into(), region.into()), ("ring".into(), format!("{}", number % 10).into())]),
        asset_nodes: vec![format!("site/hall-{}/line-{}", number % 100, number % 1_000).into()],
        ..DeviceDetails::default()
    };
    let version = format!("1.{}", number % 4);
    NewDevice { product_id: PRODUCT.into(), device_id: device_id(number), components: vec![(Component::MAIN, version)], details }
}

fn task(engine: &Engine, selector: Selector, snapshot: bool, waves: Vec<Wave>) -> std::sync::Arc<Task> {
    let artifact = Artifact { url: Some("http://files/image".into()), size: 1, md5: "0".into(), ..Artifact::default() };
    let new = NewTask {
        scope: Scope { selector, snapshot },
        policy: Policy { maximum_concurrency: Some(300), waves, ..Policy::default() },
        ..NewTask::new(
            ORGANIZATION,
            PRODUCT,
            (0..4).map(|n| format!("1.{n}")).collect(),
            TaskTarget::Artifact { version: "2.0".into(), artifact },
        )
    };
    engine.create_task(new, false, NOW).wait().expect("the task is created")
}

fn created(engine: &Engine, selector: Selector, snapshot: bool, waves: Vec<Wave>) -> usize {
    let task = task(engine, selector, snapshot, waves);
    engine.delete_task(ORGANIZATION, task.id, ActionRules::default(), NOW).wait().expect("the task is deleted");
    1
}

fn search(engine: &Engine) -> sluicegate::DeviceSet {
    let find = |state: &sluicegate::State| {
        let sets = state.device_sets(ORGANIZATION);
        let versions = sets.at_version(Component::MAIN, "1.0") | sets.at_version(Component::MAIN, "1.1");
        (sets.of_product(PRODUCT) & versions) - sets.upgrading()
    };
    engine.read_blocking(find).expect("reads")
}

fn check<'a>(device_id: &'a str, version: &'a str) -> Check<'a> {
    let device = DeviceRef { organization: ORGANIZATION, product_id: PRODUCT, device_id };
    Check { device, component: Component::MAIN, version, rules: CheckRules { preview: true, ..CheckRules::default() } }
}

/// Durations of `what`, which says something that must not be optimized away.
fn row(name: &str, mut what: impl FnMut() -> usize) {
    let mut took: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            black_box(what());
            begun.elapsed()
        })
        .collect();
    took.sort_unstable();
    println!("{name:<58} {:>12} {:>12}", shown(took[took.len() / 2]), shown(took[took.len() - 1]));
}

fn shown(took: Duration) -> String {
    if took < Duration::from_millis(1) {
        format!("{:.1} µs", took.as_secs_f64() * 1e6)
    } else {
        format!("{:.1} ms", took.as_secs_f64() * 1e3)
    }
}

/// What one check takes on this thread while another thread does `beside` over and over.
fn percentiles(name: &str, engine: &Engine, devices: u32, beside: impl Fn() + Sync) {
    const CHECKS: usize = 1_000_000;
    let over = AtomicBool::new(false);
    let mut histogram = Histogram::<u64>::new_with_max(60_000_000_000, 3).expect("a minute in nanoseconds, to three digits");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                beside();
                std::thread::yield_now();
            }
        });
        let names: Vec<(String, String)> =
            scattered(devices).take(100_000).map(|device| (device_id(device), format!("1.{}", device % 4))).collect();
        for n in 0..CHECKS {
            let (device_id, version) = &names[n % names.len()];
            let begun = Instant::now();
            black_box(engine.check(&check(device_id, version), NOW));
            let nanoseconds = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            histogram.saturating_record(nanoseconds.max(1));
        }
        over.store(true, Ordering::Relaxed);
    });
    let at = |percentile| histogram.value_at_quantile(percentile);
    println!("{name:<34} {:>9} {:>9} {:>9} {:>9} {:>9}", at(0.5), at(0.9), at(0.99), at(0.999), histogram.max());
}
