//! The life of a task, from its creation to its end, and the rows of its devices.

use crate::common::fleet::{count, create_firmware, id_text, rows, task, upload};
use crate::common::{Fleet, TestServer, image_bytes, wait_until};
use serde_json::{Value, json};

#[test]
fn a_task_is_born_stopped_and_offers_once_it_is_started() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let created =
        admin.post("/api/v1/tasks", &fleet.task_body(json!({ "name": "spring", "maximum_concurrency": 7 }))).expect(201).json();
    let path = format!("/api/v1/tasks/{}", id_text(&created["id"]));
    let device = fleet.device(&admin, "p-1");
    assert_eq!(device.refused(&server), "no_task");
    admin.post(&format!("{path}/start"), &json!({})).expect(200);
    device.offered(&server);
    let shown = task(&admin, &path);
    assert_eq!(shown["id"], created["id"]);
    assert_eq!((&shown["name"], &shown["maximum_concurrency"], &shown["permits_held"]), (&json!("spring"), &json!(7), &json!(1)));
    assert_eq!(shown["counts"]["offered"], 1, "{shown}");
    let listed = admin.get("/api/v1/tasks").expect(200).json();
    assert!(listed["items"].as_array().unwrap().iter().any(|listed| listed["id"] == created["id"]), "{listed}");
}

#[test]
fn a_paused_task_begins_nothing_new_and_lets_running_upgrades_finish() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    let (running, waiting) = (fleet.device(&admin, "p-1"), fleet.device(&admin, "p-2"));
    let offer = running.offered(&server);
    admin.post(&format!("{path}/pause"), &json!({})).expect(200);
    assert_eq!(waiting.refused(&server), "paused");
    assert_eq!(running.offered(&server)["id"], offer["id"]);
    running.report(&server, &offer["id"], "succeeded").expect(200);
    assert_eq!(count(&admin, &path, "succeeded"), 1);
    admin.post(&format!("{path}/resume"), &json!({})).expect(200);
    waiting.offered(&server);
}

#[test]
fn a_stopped_task_offers_nothing_until_it_is_started_again() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    admin.post(&format!("{path}/stop"), &json!({})).expect(200);
    let device = fleet.device(&admin, "p-1");
    assert_eq!(device.refused(&server), "no_task");
    admin.post(&format!("{path}/start"), &json!({})).expect(200);
    device.offered(&server);
}

#[test]
fn the_newest_started_task_wins() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({ "from_versions": ["1.0", "1.1"] }));
    let newer_image = upload(&admin, &image_bytes(5_000))["image"].as_str().unwrap().to_owned();
    let newer = create_firmware(&admin, "pump", "3.0", &newer_image);
    let later = json!({ "firmware_id": newer["id"], "from_versions": ["1.2", "1.3"] });
    fleet.start_task(&admin, later);
    assert_eq!(fleet.device(&admin, "p-1").check(&server, "1.1")["upgrade"]["target_version"], "2.0");
    assert_eq!(fleet.device(&admin, "p-2").check(&server, "1.3")["upgrade"]["target_version"], "3.0");
    assert!(fleet.device(&admin, "p-3").check(&server, "0.1")["upgrade"].is_null());
}

#[test]
fn several_tasks_may_start_from_one_version_and_the_newest_that_is_for_the_device_wins() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({ "from_versions": ["1.0", "1.1"] }));
    let newer_image = upload(&admin, &image_bytes(5_000))["image"].as_str().unwrap().to_owned();
    let newer = create_firmware(&admin, "pump", "3.0", &newer_image);
    let part = json!({ "firmware_id": newer["id"], "scope": { "type": "devices", "devices": ["p-1"] } });
    let path = fleet.start_task(&admin, part);
    let [inside, outside] = ["p-1", "p-2"].map(|device_id| fleet.device(&admin, device_id));
    assert_eq!(inside.check(&server, "1.0")["upgrade"]["target_version"], "3.0");
    assert_eq!(outside.check(&server, "1.0")["upgrade"]["target_version"], "2.0");
    // Once the newer one is gone, the older one is for both.
    admin.post(&format!("{path}/stop"), &json!({})).expect(200);
    admin.delete(&path).expect(204);
    admin.get(&path).refused(404);
    assert_eq!(inside.check(&server, "1.0")["upgrade"]["target_version"], "2.0");
}

/// Registers three devices, and creates a task with the scope.
fn scoped(server: &TestServer, scope: Value) -> Vec<(&'static str, bool)> {
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let version = json!([{ "type": 1, "identify": 0, "version": "1.0" }]);
    let devices = [
        (
            "p-1",
            json!({ "components": version, "tags": { "ring": "canary" }, "attributes": { "site": "north" }, "asset_nodes": ["plant/hall-1"] }),
        ),
        (
            "p-2",
            json!({ "components": version, "tags": { "ring": "wide" }, "groups": ["pilot"], "asset_nodes": ["plant/hall-1/line-2"] }),
        ),
        ("p-3", json!({ "components": version, "attributes": { "site": "south" }, "asset_nodes": ["plant/hall-11"] })),
    ];
    for (device_id, device) in &devices {
        assert!(admin.put(&format!("/api/v1/products/pump/devices/{device_id}"), device).status < 300);
    }
    fleet.start_task(&admin, json!({ "scope": scope, "policy": "incremental" }));
    devices
        .iter()
        .map(|(device_id, _)| (*device_id, fleet.device(&admin, device_id).check(server, "1.0")["upgrade"].is_object()))
        .collect()
}

#[test]
fn a_scope_chooses_its_devices() {
    for (scope, chosen) in [
        (json!({ "type": "total" }), vec!["p-1", "p-2", "p-3"]),
        (json!({ "type": "devices", "devices": ["p-3"] }), vec!["p-3"]),
        (json!({ "type": "tags", "tags": { "ring": ["canary"] } }), vec!["p-1"]),
        (json!({ "type": "attributes", "attributes": { "site": ["north", "south"] } }), vec!["p-1", "p-3"]),
        (json!({ "type": "groups", "groups": ["pilot"] }), vec!["p-2"]),
        (json!({ "type": "asset_trees", "asset_trees": [{ "tree": "plant", "nodes": ["hall-1"] }] }), vec!["p-1", "p-2"]),
    ] {
        let server = TestServer::start();
        let offered: Vec<&str> =
            scoped(&server, scope.clone()).into_iter().filter_map(|(device, offered)| offered.then_some(device)).collect();
        assert_eq!(offered, chosen, "{scope}");
    }
}

#[test]
fn a_schedule_that_has_not_begun_holds_its_devices() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({ "schedule": { "start": "2999-01-01T00:00:00Z" } }));
    let answered = fleet.device(&admin, "p-1").check(&server, "1.0");
    assert_eq!(answered["reason"], "schedule", "{answered}");
    assert!(answered["retry_after_s"].as_u64().is_some_and(|seconds| seconds > 0), "{answered}");
}

#[test]
fn the_rows_of_a_task_are_listed_filtered_and_paged() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    for number in 0..5 {
        let device = fleet.device(&admin, &format!("p-{number}"));
        let offer = device.offered(&server);
        if number < 3 {
            device.report(&server, &offer["id"], "succeeded").expect(200);
        }
    }
    let all = rows(&admin, &path);
    assert_eq!(all.len(), 5);
    for row in &all {
        for field in ["device_id", "state", "attempts", "percent", "reason", "created_at", "updated_at"] {
            assert!(row.get(field).is_some(), "{field} is missing in {row}");
        }
        assert_eq!(row["attempts"], 1);
    }
    let succeeded = admin.get(&format!("{path}/upgrades?state=succeeded")).expect(200).json();
    assert_eq!(succeeded["items"].as_array().unwrap().len(), 3, "{succeeded}");
    let first = admin.get(&format!("{path}/upgrades?limit=2")).expect(200).json();
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    let next = admin.get(&format!("{path}/upgrades?limit=2&cursor={}", first["cursor"].as_str().unwrap())).expect(200).json();
    assert_ne!(first["items"][1]["device_id"], next["items"][0]["device_id"]);
    admin.get(&format!("{path}/upgrades?state=flying")).refused(400);
}

#[test]
fn a_canceled_upgrade_frees_its_permit_and_a_retried_one_may_begin_again() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "maximum_concurrency": 1 }));
    let (first, second) = (fleet.device(&admin, "p-1"), fleet.device(&admin, "p-2"));
    let offer = first.offered(&server);
    assert_eq!(second.refused(&server), "cap");
    admin.post(&format!("{path}/upgrades/p-1/cancel"), &json!({})).expect(200);
    assert_eq!(count(&admin, &path, "canceled"), 1);
    first.report(&server, &offer["id"], "succeeded").expect(200);
    assert_eq!(count(&admin, &path, "canceled"), 1, "a late report changes nothing");
    let second_offer = second.offered(&server);
    second.report(&server, &second_offer["id"], "failed").expect(200);
    admin.post(&format!("{path}/upgrades/p-2/retry"), &json!({})).expect(200);
    let again = second.offered(&server);
    assert_ne!(again["id"], second_offer["id"], "a new attempt has a new id");
    admin.post(&format!("{path}/upgrades/nobody/cancel"), &json!({})).refused(404);
}

#[test]
fn a_failure_is_retried_as_often_as_the_task_allows() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "retry": { "count": 1, "interval_s": 1 } }));
    let device = fleet.device(&admin, "p-1");
    let first = device.offered(&server);
    device.report(&server, &first["id"], "failed").expect(200);
    assert_eq!(device.refused(&server), "back_off");
    let second =
        wait_until("the retry interval is over", || Some(device.check(&server, "1.0")["upgrade"].clone()).filter(Value::is_object));
    assert_ne!(second["id"], first["id"]);
    device.report(&server, &second["id"], "failed").expect(200);
    assert_eq!(count(&admin, &path, "failed"), 1);
    assert_eq!(rows(&admin, &path)[0]["attempts"], 2);
    assert!(device.check(&server, "1.0")["upgrade"].is_null());
}
