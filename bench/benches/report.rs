//! Durable reports: each counted once its group is on disk, beside the disk's own limit measured in the same run.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluicegate::model::*;
use sluicegate::*;
use sluicegate_bench::NOW;
use std::io::Write;
use std::time::{Duration, Instant};

const ORGANIZATION: &str = "bench";

struct Running {
    engine: Engine,
    upgrades: Vec<(DeviceName, UpgradeId)>,
    _folder: tempfile::TempDir,
}

/// A fleet in which every device holds an offer, on the real store.
fn running(devices: usize) -> Running {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = Engine::open(Options::new(folder.path())).expect("a fresh folder opens");
    let artifact = Artifact { url: Some("http://files/image".into()), size: 1, md5: "0".into(), ..Artifact::default() };
    let new = NewTask {
        unique_start: true,
        start: true,
        ..NewTask::new(ORGANIZATION, "p", vec!["1".into()], TaskTarget::Artifact { version: "2".into(), artifact })
    };
    engine.create_task(new, true, NOW).wait().expect("a task without faults is created");
    let names: Vec<DeviceName> = (0..devices)
        .map(|device| DeviceRef { organization: ORGANIZATION, product_id: "p", device_id: &format!("d{device}") }.to_owned())
        .collect();
    let mut upgrades = Vec::with_capacity(devices);
    for portion in names.chunks(10_000) {
        let ask = |name: &DeviceName| {
            let rules = CheckRules { register: true, ..CheckRules::default() };
            engine.decide(&Check { device: name.as_ref(), component: Component::MAIN, version: "1", rules }, NOW)
        };
        let answers: Vec<_> = portion.iter().map(ask).collect();
        for (name, answer) in portion.iter().zip(answers) {
            let Ok(Decision::Offer(offer)) = answer.wait() else { panic!("every device is offered the task") };
            upgrades.push((name.clone(), offer.id.expect("an offer that is no preview has an id")));
        }
    }
    Running { engine, upgrades, _folder: folder }
}

/// Keeps `in_flight` reports waiting for the writer, as that many connections would.
fn durable_reports(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("durable reports");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(5));
    for in_flight in [1, 64, 1_000, 10_000] {
        let running = running(20_000);
        let mut percent = 0;
        let mut next = 0;
        group.bench_function(BenchmarkId::new("in flight", in_flight), |bencher| {
            bencher.iter_custom(|reports| {
                let started = Instant::now();
                let mut answers = std::collections::VecDeque::with_capacity(in_flight);
                for _ in 0..reports {
                    if answers.len() == in_flight {
                        let answer: Pending<Reported> = answers.pop_front().expect("some are in flight");
                        answer.wait().expect("a report without faults is taken");
                    }
                    let (device, upgrade) = running.upgrades[next].clone();
                    next += 1;
                    if next == running.upgrades.len() {
                        next = 0;
                        percent += 1;
                    }
                    // Pausing and going on again is a change every time, however many rounds it takes.
                    let state = if percent % 2 == 0 { ReportedState::Downloading } else { ReportedState::Paused };
                    let report = Report { device, upgrade, state, percent: None, detail: None, code: None };
                    answers.push_back(running.engine.report(report, NOW));
                }
                answers.into_iter().for_each(|answer| assert!(answer.wait().is_ok()));
                started.elapsed()
            });
        });
    }
    group.finish();
}

/// The floor: as many bytes as a group of 1,000 reports has, appended and synced.
fn disk_floor(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("disk floor");
    group.throughput(Throughput::Elements(1_000)).sample_size(10).measurement_time(Duration::from_secs(5));
    let mut file = tempfile::tempfile().expect("a temporary file");
    let bytes = vec![7; 1_000 * 200];
    group.bench_function("append 200 kB and sync", |bencher| {
        bencher.iter(|| {
            file.write_all(&bytes).expect("the disk has room");
            file.sync_data().expect("the disk syncs");
        });
    });
    group.finish();
}

criterion_group!(benches, durable_reports, disk_floor);
criterion_main!(benches);
