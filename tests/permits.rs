//! The cap: at most so many devices of a task upgrade at once, whatever they do.

use crate::common::fleet::{FleetDevice, count, rows, task};
use crate::common::{Client, Fleet, TestServer, wait_until};
use serde_json::{Value, json};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn devices(fleet: &Fleet, admin: &Client, count: usize) -> Vec<FleetDevice> {
    (0..count).map(|number| fleet.device(admin, &format!("p-{number}"))).collect()
}

/// All devices check at once; how many were offered an upgrade.
fn offered_at_once(server: &TestServer, devices: &[FleetDevice]) -> usize {
    let barrier = Barrier::new(devices.len());
    std::thread::scope(|scope| {
        let checks: Vec<_> = devices
            .iter()
            .map(|device| {
                scope.spawn(|| {
                    barrier.wait();
                    device.check(server, "1.0")
                })
            })
            .collect();
        let answers: Vec<Value> = checks.into_iter().map(|check| check.join().unwrap()).collect();
        for answer in answers.iter().filter(|answer| answer["upgrade"].is_null()) {
            assert_eq!(answer["reason"], "cap", "{answer}");
            assert!(answer["retry_after_s"].as_u64().is_some_and(|seconds| seconds > 0), "{answer}");
        }
        answers.iter().filter(|answer| answer["upgrade"].is_object()).count()
    })
}

#[test]
fn the_last_permits_are_granted_once_when_many_devices_check_together() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "maximum_concurrency": 5 }));
    let devices = devices(&fleet, &admin, 40);
    assert_eq!(offered_at_once(&server, &devices), 5);
    assert_eq!(task(&admin, &path)["permits_held"], 5);
    // Again: the same five hold them, and nobody else gets one.
    assert_eq!(offered_at_once(&server, &devices), 5);
    assert_eq!(rows(&admin, &path).iter().filter(|row| row["state"] == "offered").count(), 5);
}

#[test]
fn the_cap_holds_at_every_instant_of_a_whole_rollout() {
    const CAP: u64 = 4;
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "maximum_concurrency": CAP }));
    let devices = devices(&fleet, &admin, 60);
    // Counted by the devices themselves: up when the offer has arrived, down before the result is sent. So what they count at any
    // instant holds a permit at that instant.
    let upgrading = AtomicU64::new(0);
    let highest = AtomicU64::new(0);
    let watched_highest = AtomicU64::new(0);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                watched_highest.fetch_max(task(&admin, &path)["permits_held"].as_u64().unwrap(), Ordering::SeqCst);
            }
        });
        let runs: Vec<_> = devices
            .chunks(5)
            .map(|group| {
                let (server, upgrading, highest) = (&server, &upgrading, &highest);
                scope.spawn(move || {
                    for (number, device) in group.iter().enumerate() {
                        let offer = wait_until("a permit is free", || {
                            Some(device.check(server, "1.0")["upgrade"].clone()).filter(Value::is_object)
                        });
                        let now = upgrading.fetch_add(1, Ordering::SeqCst) + 1;
                        highest.fetch_max(now, Ordering::SeqCst);
                        assert_eq!(device.offered(server)["id"], offer["id"]);
                        device.report(server, &offer["id"], "downloading").expect(200);
                        upgrading.fetch_sub(1, Ordering::SeqCst);
                        let result = if number == 0 { "failed" } else { "succeeded" };
                        device.report(server, &offer["id"], result).expect(200);
                    }
                })
            })
            .collect();
        let results: Vec<_> = runs.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        ended.store(true, Ordering::SeqCst);
        assert!(results.into_iter().all(|result| result.is_ok()), "a device met what it didn't expect");
    });
    assert!(highest.load(Ordering::SeqCst) <= CAP, "{highest:?} devices upgraded at once");
    assert!(watched_highest.load(Ordering::SeqCst) <= CAP, "the server showed {watched_highest:?}");
    assert_eq!((count(&admin, &path, "succeeded"), count(&admin, &path, "failed")), (48, 12));
    assert_eq!(task(&admin, &path)["permits_held"], 0);
}

#[test]
fn each_result_frees_its_permit() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "maximum_concurrency": 1 }));
    for (number, result) in ["succeeded", "failed", "rejected"].into_iter().enumerate() {
        let device = fleet.device(&admin, &format!("p-{number}"));
        let offer = device.offered(&server);
        assert_eq!(fleet.device(&admin, "waiting").refused(&server), "cap");
        device.report(&server, &offer["id"], result).expect(200);
        assert_eq!(task(&admin, &path)["permits_held"], 0, "{result}");
    }
    fleet.device(&admin, "waiting").offered(&server);
}

#[test]
fn a_paused_upgrade_keeps_its_permit() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "maximum_concurrency": 1 }));
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    device.report(&server, &offer["id"], "paused").expect(200);
    assert_eq!(task(&admin, &path)["permits_held"], 1);
    assert_eq!(fleet.device(&admin, "p-2").refused(&server), "cap");
}

#[test]
fn a_device_that_falls_silent_loses_its_permit_at_its_deadline_and_counts_as_timed_out() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "maximum_concurrency": 1, "timeout_s": 2 }));
    let silent = fleet.device(&admin, "p-1");
    let offer = silent.offered(&server);
    let next = fleet.device(&admin, "p-2");
    // Nobody asks in the meantime: the deadline moves the permit by itself.
    wait_until("the permit ended at its deadline", || (task(&admin, &path)["permits_held"] == 0).then_some(()));
    assert_eq!(count(&admin, &path, "timed_out"), 1);
    next.offered(&server);
    // Too late: the answer is as ever, and nothing changes.
    silent.report(&server, &offer["id"], "succeeded").expect(200);
    assert_eq!((count(&admin, &path, "timed_out"), count(&admin, &path, "succeeded")), (1, 0));
}

#[test]
fn caps_of_two_tasks_are_apart() {
    let server = TestServer::start();
    let admin = server.admin();
    let (pumps, fans) = (Fleet::new(&admin, "pump"), Fleet::new(&admin, "fan"));
    pumps.start_task(&admin, json!({ "maximum_concurrency": 1 }));
    fans.start_task(&admin, json!({ "maximum_concurrency": 1 }));
    pumps.device(&admin, "p-1").offered(&server);
    fans.device(&admin, "f-1").offered(&server);
    assert_eq!(pumps.device(&admin, "p-2").refused(&server), "cap");
    assert_eq!(fans.device(&admin, "f-2").refused(&server), "cap");
}
