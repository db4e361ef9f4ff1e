//! SIGKILL at any moment: what was acknowledged is still there, the cap holds, and devices go on where they were.

use crate::common::fleet::{FleetDevice, count, rows, task};
use crate::common::server::{run, sluicegate};
use crate::common::{Fleet, TestServer, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn everything_an_operator_made_is_there_after_a_kill() {
    let mut server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "name": "spring", "maximum_concurrency": 3, "timeout_s": 900 }));
    let device = json!({ "components": [{ "type": 1, "identify": 0, "version": "1.0" }], "tags": { "ring": "canary" } });
    assert!(admin.put("/api/v1/products/pump/devices/p-1", &device).status < 300);
    let before: Vec<Value> = [path.as_str(), "/api/v1/products/pump", "/api/v1/products/pump/devices/p-1", "/api/v1/firmware"]
        .iter()
        .map(|path| admin.get(path).expect(200).json())
        .collect();
    server.kill_and_start_again();
    let admin = server.admin();
    let after: Vec<Value> = [path.as_str(), "/api/v1/products/pump", "/api/v1/products/pump/devices/p-1", "/api/v1/firmware"]
        .iter()
        .map(|path| admin.get(path).expect(200).json())
        .collect();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(without_links(before), without_links(after));
    }
    fleet.device(&admin, "p-1").offered(&server);
}

/// A link names the address and a time, and both differ after a restart.
fn without_links(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields.iter().filter(|(name, _)| *name != "url").map(|(name, value)| (name.clone(), without_links(value))).collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_links).collect()),
        other => other.clone(),
    }
}

#[test]
fn a_held_offer_and_its_deadline_outlive_a_kill_and_the_cap_still_holds() {
    let mut server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "maximum_concurrency": 2 }));
    let devices: Vec<FleetDevice> = (0..4).map(|number| fleet.device(&admin, &format!("p-{number}"))).collect();
    let offers: Vec<Value> = devices[..2].iter().map(|device| device.offered(&server)).collect();
    devices[1].report(&server, &offers[1]["id"], "installing").expect(200);
    server.kill_and_start_again();
    let admin = server.admin();
    for (device, offer) in devices.iter().zip(&offers) {
        let again = device.offered(&server);
        assert_eq!((&again["id"], &again["deadline"]), (&offer["id"], &offer["deadline"]));
    }
    assert_eq!(task(&admin, &path)["permits_held"], 2);
    assert_eq!(devices[2].refused(&server), "cap");
    assert_eq!(count(&admin, &path, "installing"), 1);
    devices[0].report(&server, &offers[0]["id"], "succeeded").expect(200);
    devices[2].offered(&server);
    assert_eq!(devices[3].refused(&server), "cap");
}

#[test]
fn a_deadline_that_passed_while_the_server_was_down_is_kept_when_it_is_back() {
    let mut server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "maximum_concurrency": 1, "timeout_s": 1 }));
    let _offer = fleet.device(&admin, "p-1").offered(&server);
    server.kill_and_start_again();
    let admin = server.admin();
    wait_until("the deadline was kept", || (count(&admin, &path, "timed_out") == 1).then_some(()));
    fleet.device(&admin, "p-2").offered(&server);
}

/// How far a state is, so that "at least" can be said.
fn rank(state: &str) -> usize {
    ["offered", "downloading", "downloaded", "installing", "succeeded"].iter().position(|other| *other == state).unwrap_or(0)
}

#[test]
fn every_acknowledged_report_is_there_after_a_kill_in_the_middle_of_a_rollout() {
    const CAP: usize = 8;
    const DEVICES: usize = 64;
    let mut server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "maximum_concurrency": CAP }));
    let devices: Vec<FleetDevice> = (0..DEVICES).map(|number| fleet.device(&admin, &format!("p-{number}"))).collect();
    let mut todo: Vec<FleetDevice> = devices.clone();
    let acknowledged: Mutex<BTreeMap<String, (Value, &'static str)>> = Mutex::default();
    // Killed again and again, each time a few more reports into the rollout, until all devices are through.
    let mut kills = 0;
    while !todo.is_empty() {
        kills += 1;
        let reports_before_kill = 20 + 7 * kills;
        let reports = AtomicUsize::new(0);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..CAP {
                scope.spawn(|| {
                    while let Some(device) = todo.get(next.fetch_add(1, Ordering::SeqCst)) {
                        if run_device(&server, device, &acknowledged, &reports).is_none() {
                            return;
                        }
                    }
                });
            }
            // The server dies while the devices' next reports are on their way.
            let pid = server.pid();
            let (reports, todo, next) = (&reports, &todo, &next);
            scope.spawn(move || {
                wait_until("enough reports were acknowledged", || {
                    (reports.load(Ordering::SeqCst) >= reports_before_kill || next.load(Ordering::SeqCst) >= todo.len() + CAP)
                        .then_some(())
                });
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            });
        });
        server.kill_and_start_again();
        let admin = server.admin();
        let rows: BTreeMap<String, Value> =
            rows(&admin, &path).into_iter().map(|row| (row["device_id"].as_str().unwrap().to_owned(), row)).collect();
        let acknowledged = acknowledged.lock().unwrap();
        for (device_id, (_, state)) in acknowledged.iter() {
            let row = rows
                .get(device_id)
                .unwrap_or_else(|| panic!("{device_id} had {state} acknowledged and has no row after kill {kills}"));
            let found = row["state"].as_str().unwrap();
            assert!(rank(found) >= rank(state), "{device_id} had {state} acknowledged and stands at {found} after kill {kills}");
            assert_eq!(row["attempts"], 1, "{device_id}");
        }
        let permits_held = task(&admin, &path)["permits_held"].as_u64().unwrap();
        assert!(permits_held <= CAP as u64, "{permits_held} permits after kill {kills}");
        // Also through are those whose last report was kept, though the answer to it was cut off.
        todo.retain(|device| rows.get(&device.device_id).is_none_or(|row| row["state"] != "succeeded"));
        assert!(kills < 100, "the rollout makes no progress: {todo:?}");
    }
    assert!(kills > 1, "the rollout ended before it was ever killed");
    assert_eq!(count(&server.admin(), &path, "succeeded"), DEVICES as u64);
    assert!(server.stop().success());
    let verified = run(sluicegate().arg("verify").arg("--data").arg(server.data()));
    assert!(
        verified.status.success(),
        "{}{}",
        String::from_utf8_lossy(&verified.stdout),
        String::from_utf8_lossy(&verified.stderr)
    );
}

/// Takes one device as far as the server lives; `None` once it is gone.
fn run_device(
    server: &TestServer,
    device: &FleetDevice,
    acknowledged: &Mutex<BTreeMap<String, (Value, &'static str)>>,
    reports: &AtomicUsize,
) -> Option<()> {
    let client = device.client(server);
    let answer = client.request("POST", "/api/v1/check").json(&device.check_body("1.0")).try_send().ok()?;
    let id = answer.expect(200).json()["upgrade"]["id"].clone();
    if id.is_null() {
        // The cap: eight at once, and some of them are held by devices that were cut off. Those come first next time.
        return Some(());
    }
    {
        let mut acknowledged = acknowledged.lock().unwrap();
        let held = acknowledged.entry(device.device_id.clone()).or_insert_with(|| (id.clone(), "offered"));
        assert_eq!(held.0, id, "{} got another offer", device.device_id);
    }
    for state in ["downloading", "downloaded", "installing", "succeeded"] {
        let report = client.request("POST", "/api/v1/report").json(&device.report_body(&id, state));
        report.try_send().ok()?.expect(200);
        reports.fetch_add(1, Ordering::SeqCst);
        let mut acknowledged = acknowledged.lock().unwrap();
        if let Some(held) = acknowledged.get_mut(&device.device_id)
            && rank(state) > rank(held.1)
        {
            held.1 = state;
        }
    }
    Some(())
}

#[test]
fn a_kill_in_the_middle_of_an_upload_leaves_nothing_behind() {
    use std::io::Write;
    let mut server = TestServer::start();
    let image = crate::common::image_bytes(4 << 20);
    let mut stream = server.anonymous().connect().unwrap();
    let head = format!(
        "POST /api/v1/images HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        crate::common::ADMIN_TOKEN,
        image.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&image[..image.len() / 2]).unwrap();
    server.kill_and_start_again();
    assert!(server.stop().success());
    let left: u64 = files_below(&server.data())
        .iter()
        .map(|path| std::fs::metadata(path).unwrap().len())
        .filter(|length| *length >= 1 << 20)
        .sum();
    assert_eq!(left, 0, "half an image was kept: {:?}", files_below(&server.data()));
    let verified = run(sluicegate().arg("verify").arg("--data").arg(server.data()));
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}
