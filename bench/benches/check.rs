//! Deciding a check: nothing to do, an offer held, every permit held; over tasks and devices.
//!
//! Devices are asked for in a scattered order, so a large fleet is not in the processor's caches.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluicegate::model::Component;
use sluicegate::{Check, CheckRules, Checked, Decision, DeviceRef, Engine};
use sluicegate_bench::{FleetShape, NOW, ORGANIZATION, device_id, product_id, scattered};
use std::hint::black_box;

struct Asked {
    product_id: String,
    device_id: String,
    version: String,
}

impl Asked {
    fn check(&self) -> Check<'_> {
        let device = DeviceRef { organization: ORGANIZATION, product_id: &self.product_id, device_id: &self.device_id };
        Check { device, component: Component::MAIN, version: &self.version, rules: CheckRules::default() }
    }
}

/// Enough different devices that they don't fit the caches; more would measure the questions' own memory.
const ASKED_MAX: u32 = 200_000;

fn asked(shape: FleetShape, devices: u32) -> Vec<Asked> {
    let ask = |device| Asked {
        product_id: product_id(shape.product_of_device(device)),
        device_id: device_id(device),
        version: shape.version_of_device(device),
    };
    scattered(devices).take(devices.min(ASKED_MAX) as usize).map(ask).collect()
}

fn measure(
    criterion: &mut Criterion,
    group: &str,
    label: String,
    engine: &Engine,
    asked: &[Asked],
    expected: fn(&Checked) -> bool,
) {
    for asked in asked.iter().take(100) {
        assert!(expected(&engine.check(&asked.check(), NOW)), "{group} {label} measures something else");
    }
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Elements(1));
    let mut next = 0;
    group.bench_function(BenchmarkId::from_parameter(label), |bencher| {
        bencher.iter(|| {
            next = if next + 1 == asked.len() { 0 } else { next + 1 };
            black_box(engine.check(&asked[next].check(), NOW))
        });
    });
    group.finish();
}

fn nothing_to_do(criterion: &mut Criterion) {
    for (devices, tasks) in [(1_000, 1_000), (1_000_000, 1_000), (1_000_000, 10_000), (1_000_000, 100_000)] {
        let shape = FleetShape { devices, tasks, products: 100, devices_at_start: 0, maximum_concurrency: None };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let engine = shape.engine(folder.path());
        let asked = asked(shape, devices);
        let label = format!("{devices} devices, {tasks} tasks");
        measure(criterion, "check/nothing to do", label, &engine, &asked, |checked| {
            matches!(checked, Checked::Decided(Decision::NoTask))
        });
    }
}

fn capped(criterion: &mut Criterion) {
    let shape =
        FleetShape { devices: 1_000_000, tasks: 100_000, products: 100, devices_at_start: 1_000_000, maximum_concurrency: Some(1) };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = shape.engine(folder.path());
    // The first device of each task takes its only permit.
    for device in 0..shape.tasks {
        let asked = Asked {
            product_id: product_id(shape.product_of_device(device)),
            device_id: device_id(device),
            version: shape.version_of_device(device),
        };
        let decided = engine.decide(&asked.check(), NOW).wait();
        assert!(matches!(decided, Ok(Decision::Offer(_))), "{decided:?}");
    }
    let all = asked(shape, shape.devices);
    let waits: Vec<Asked> =
        all.into_iter().filter(|asked| matches!(engine.check(&asked.check(), NOW), Checked::Decided(Decision::Wait(_)))).collect();
    let label = format!("{} devices, {} tasks", shape.devices, shape.tasks);
    measure(criterion, "check/held by the cap", label, &engine, &waits, |checked| {
        matches!(checked, Checked::Decided(Decision::Wait(_)))
    });
}

fn offer_held(criterion: &mut Criterion) {
    let shape =
        FleetShape { devices: 1_000_000, tasks: 1_000, products: 100, devices_at_start: 1_000_000, maximum_concurrency: None };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = shape.engine(folder.path());
    let asked = asked(shape, shape.devices);
    for portion in asked.chunks(1_000) {
        let answers: Vec<_> = portion.iter().map(|asked| engine.decide(&asked.check(), NOW)).collect();
        for answer in answers {
            assert!(matches!(answer.wait(), Ok(Decision::Offer(_))));
        }
    }
    let label = format!("{} devices, {} offers held", shape.devices, asked.len());
    measure(criterion, "check/offer held", label, &engine, &asked, |checked| {
        matches!(checked, Checked::Decided(Decision::Offer(_)))
    });
}

criterion_group!(benches, nothing_to_do, capped, offer_held);
criterion_main!(benches);
