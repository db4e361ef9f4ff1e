//! Each policy of a task as an operator and the devices meet it over HTTP. What takes time is tried in the engine's own tests, where
//! time is an argument; here nothing waits for the clock.

use crate::common::fleet::{FleetDevice, count, id_text, issue_token, rows, task};
use crate::common::server::{run, sluicegate};
use crate::common::{ADMIN_TOKEN, Client, Fleet, TestServer, wait_until};
use serde_json::{Value, json};

/// Registers devices at version 1.0, in the order of their names.
#[track_caller]
fn registered(admin: &Client, fleet: &Fleet, count: usize) -> Vec<FleetDevice> {
    let device = |number: usize| {
        let device_id = format!("p-{number}");
        let version = json!({ "components": [{ "type": 1, "identify": 0, "version": "1.0" }] });
        admin.put(&format!("/api/v1/products/{}/devices/{device_id}", fleet.product_id), &version).expect(201);
        fleet.device(admin, &device_id)
    };
    (1..=count).map(device).collect()
}

/// The only entry of a device's explanation.
#[track_caller]
fn explanation(client: &Client, device: &FleetDevice) -> Value {
    let path = format!("/api/v1/products/{}/devices/{}/explanation", device.product_id, device.device_id);
    let answered = client.get(&path).expect(200).json();
    assert_eq!(answered["items"].as_array().map(Vec::len), Some(1), "{answered}");
    answered["items"][0].clone()
}

#[track_caller]
fn fail(server: &TestServer, device: &FleetDevice, code: Option<i32>) {
    let offer = device.offered(server);
    let mut report = device.report_body(&offer["id"], "failed");
    if let Some(code) = code {
        report["code"] = json!(code);
    }
    device.client(server).post("/api/v1/report", &report).expect(200);
}

#[track_caller]
fn row(admin: &Client, path: &str, device_id: &str) -> Value {
    let rows = rows(admin, path);
    rows.iter().find(|row| row["device_id"] == device_id).unwrap_or_else(|| panic!("{device_id} is not in {rows:?}")).clone()
}

#[test]
fn a_task_shows_every_policy_it_was_given() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    registered(&admin, &fleet, 3);
    let policies = json!({
        "rate": { "per_minute": 10, "growth": { "factor": 1.15, "after": 100, "counting": "succeeded", "per_minute_max": 500 } },
        "waves": [{ "count": 1, "success_percent": 100 }, { "percent": 50, "success_percent": 90 }],
        "thresholds": [{ "kind": "timed_out", "percent": 20, "minimum": 50, "action": "cancel" }],
        "retry": { "count": 3, "interval_s": 60, "back_off": { "factor": 2, "interval_max_s": 900 }, "jitter_s": 30, "codes": [-1, 17] },
        "timeout_from": "running", "timeout_s": 900, "start_jitter_s": 120, "approval": true, "confirmation": true,
    });
    let created = admin.post("/api/v1/tasks", &fleet.task_body(policies.clone())).expect(201).json();
    let path = format!("/api/v1/tasks/{}", id_text(&created["id"]));
    for shown in [&created, &task(&admin, &path), &admin.get("/api/v1/tasks").expect(200).json()["items"][0]] {
        for (field, sent) in policies.as_object().unwrap() {
            assert_eq!(&shown[field], sent, "{field}");
        }
        assert_eq!((&shown["approved"], &shown["canceled"]), (&json!(false), &json!(false)));
        assert!(shown["finished_at"].is_null());
    }
    let outlook = &created["outlook"];
    assert_eq!((&outlook["to_come"], &outlook["rate_per_minute"]), (&json!(3), &json!(10)), "{outlook}");
    assert_eq!(outlook["failures"], json!({ "failed": 0, "rejected": 0, "timed_out": 0 }));
    assert!(outlook["first_offered_at"].is_null() && outlook["estimated_end"].is_null(), "{outlook}");
    // The two that were asked for, and one for whoever those leave over.
    let devices: Vec<u64> = outlook["waves"].as_array().unwrap().iter().map(|wave| wave["devices"].as_u64().unwrap()).collect();
    assert_eq!(devices.iter().sum::<u64>(), 3, "{outlook}");
    assert_eq!((&created["wave"]["open"], &created["wave"]["of"]), (&json!(1), &json!(devices.len())), "{created}");
}

#[test]
fn a_rate_holds_whoever_comes_beyond_it() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "rate": { "per_minute": 2 } }));
    for device_id in ["p-1", "p-2"] {
        fleet.device(&admin, device_id).offered(&server);
    }
    let third = fleet.device(&admin, "p-3");
    assert_eq!(third.refused(&server), "rate");
    assert!(third.check(&server, "1.0")["retry_after_s"].as_u64().is_some_and(|seconds| seconds > 0));
    let outlook = &task(&admin, &path)["outlook"];
    assert_eq!((&outlook["rate_per_minute"], &outlook["begun_last_minute"]), (&json!(2), &json!(2)), "{outlook}");
    assert!(explanation(&admin, &third)["text"].as_str().unwrap().starts_with("held by rate"));
}

#[test]
fn a_rate_grows_with_the_successes() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let growth = json!({ "factor": 2, "after": 1, "counting": "succeeded", "per_minute_max": 2 });
    let path = fleet.start_task(&admin, json!({ "rate": { "per_minute": 1, "growth": growth } }));
    let devices = ["p-1", "p-2", "p-3"].map(|device_id| fleet.device(&admin, device_id));
    let offer = devices[0].offered(&server);
    assert_eq!(devices[1].refused(&server), "rate");
    devices[0].report(&server, &offer["id"], "succeeded").expect(200);
    assert_eq!(task(&admin, &path)["outlook"]["rate_per_minute"], 2);
    devices[1].upgrade(&server);
    assert_eq!(task(&admin, &path)["outlook"]["rate_per_minute"], 2, "it grows no further than its maximum");
    assert_eq!(devices[2].refused(&server), "rate");
}

/// Four devices, a wave of one and one of the rest; the first wave's device first.
fn in_waves(server: &TestServer) -> (String, Vec<FleetDevice>) {
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let devices = registered(&admin, &fleet, 4);
    let body = fleet.task_body(json!({ "waves": [{ "count": 1 }, { "percent": 75 }] }));
    let created = admin.post("/api/v1/tasks", &body).expect(201).json();
    let path = format!("/api/v1/tasks/{}", id_text(&created["id"]));
    // Known before anything starts.
    let wave = |device: &FleetDevice| {
        let explained = explanation(&admin, device);
        assert_eq!((&explained["reason"], &explained["wave"]["of"]), (&json!("stopped"), &json!(2)), "{explained}");
        explained["wave"]["number"].as_u64().unwrap()
    };
    let (first, second): (Vec<FleetDevice>, Vec<FleetDevice>) = devices.into_iter().partition(|device| wave(device) == 1);
    assert_eq!((first.len(), second.len()), (1, 3));
    admin.post(&format!("{path}/start"), &json!({})).expect(200);
    (path, first.into_iter().chain(second).collect())
}

#[test]
fn a_wave_opens_when_the_one_before_it_has_succeeded() {
    let server = TestServer::start();
    let admin = server.admin();
    let (path, devices) = in_waves(&server);
    for device in &devices[1..] {
        assert_eq!(device.refused(&server), "wave", "{}", device.device_id);
    }
    assert!(explanation(&admin, &devices[1])["text"].as_str().unwrap().starts_with("held by wave: in wave 2, wave 1 is open"));
    devices[0].upgrade(&server);
    let shown = task(&admin, &path);
    assert_eq!(shown["wave"], json!({ "open": 2, "of": 2 }));
    assert_eq!(
        shown["outlook"]["waves"],
        json!([
            { "devices": 1, "succeeded": 1, "successes_needed": 1, "open": true },
            { "devices": 3, "succeeded": 0, "successes_needed": 3, "open": true },
        ])
    );
    for device in &devices[1..] {
        device.offered(&server);
    }
}

#[test]
fn an_operator_opens_a_wave_by_hand_and_there_is_no_wave_behind_the_last() {
    let server = TestServer::start();
    let admin = server.admin();
    let (path, devices) = in_waves(&server);
    assert_eq!(devices[1].refused(&server), "wave");
    let opened = admin.post(&format!("{path}/open-wave"), &json!({})).expect(200).json();
    assert_eq!(opened["wave"], json!({ "open": 2, "of": 2 }));
    devices[1].offered(&server);
    assert_eq!(admin.post(&format!("{path}/open-wave"), &json!({})).refused(409), "wrong_state");
}

#[test]
fn a_task_that_fails_too_often_pauses_itself() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let threshold = json!([{ "kind": "failed", "percent": 50, "minimum": 3, "action": "pause" }]);
    let path = fleet.start_task(&admin, json!({ "thresholds": threshold }));
    fleet.device(&admin, "p-1").upgrade(&server);
    fail(&server, &fleet.device(&admin, "p-2"), None);
    assert_eq!(task(&admin, &path)["status"], "started", "two results are not enough to judge by");
    let running = fleet.device(&admin, "p-3");
    let offer = running.offered(&server);
    fail(&server, &fleet.device(&admin, "p-4"), None);
    let shown = task(&admin, &path);
    assert_eq!(shown["status"], "paused");
    assert_eq!(shown["outlook"]["failures"], json!({ "failed": 2, "rejected": 0, "timed_out": 0 }));
    assert_eq!(fleet.device(&admin, "p-5").refused(&server), "paused");
    running.report(&server, &offer["id"], "succeeded").expect(200);
    assert_eq!(count(&admin, &path, "succeeded"), 2, "what runs goes on");
    admin.post(&format!("{path}/resume"), &json!({})).expect(200);
    fleet.device(&admin, "p-5").offered(&server);
}

#[test]
fn a_task_that_fails_too_often_cancels_itself_and_takes_back_what_runs() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "thresholds": [{ "percent": 100, "minimum": 2, "action": "cancel" }] }));
    let running = fleet.device(&admin, "p-1");
    let offer = running.offered(&server);
    let declining = fleet.device(&admin, "p-2");
    let declined = declining.offered(&server);
    declining.report(&server, &declined["id"], "rejected").expect(200);
    fail(&server, &fleet.device(&admin, "p-3"), None);
    wait_until("what runs is taken back", || (count(&admin, &path, "canceled") == 1).then_some(()));
    let shown = task(&admin, &path);
    assert_eq!((&shown["status"], &shown["canceled"], &shown["permits_held"]), (&json!("stopped"), &json!(true), &json!(0)));
    assert!(shown["finished_at"].is_string(), "{shown}");
    running.report(&server, &offer["id"], "succeeded").expect(200);
    assert_eq!(count(&admin, &path, "canceled"), 1, "a late report changes nothing");
    assert_eq!(fleet.device(&admin, "p-4").refused(&server), "no_task");
}

#[test]
fn a_canceled_task_takes_back_everything_unfinished_and_can_be_started_again() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    fleet.device(&admin, "p-1").upgrade(&server);
    fleet.device(&admin, "p-2").offered(&server);
    let canceled = admin.post(&format!("{path}/cancel"), &json!({})).expect(200).json();
    assert_eq!((&canceled["status"], &canceled["canceled"]), (&json!("stopped"), &json!(true)));
    wait_until("what runs is taken back", || (count(&admin, &path, "canceled") == 1).then_some(()));
    assert_eq!(row(&admin, &path, "p-2")["reason"], "the task was canceled");
    assert_eq!(count(&admin, &path, "succeeded"), 1);
    let started = admin.post(&format!("{path}/start"), &json!({})).expect(200).json();
    assert_eq!(started["canceled"], false);
    fleet.device(&admin, "p-3").offered(&server);
}

#[test]
fn a_task_that_needs_an_approval_begins_nothing_before_it() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "approval": true }));
    let device = fleet.device(&admin, "p-1");
    assert_eq!(device.refused(&server), "approval");
    let onlooker = server.anonymous().with_token(&issue_token(&admin, json!({ "role": "user" })));
    onlooker.post(&format!("{path}/approve"), &json!({})).refused(403);
    let approved = admin.post(&format!("{path}/approve"), &json!({})).expect(200).json();
    assert_eq!((&approved["approval"], &approved["approved"]), (&json!(true), &json!(true)));
    device.offered(&server);
}

#[test]
fn a_device_that_needs_a_confirmation_is_answered_for_by_the_person_before_it() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "confirmation": true }));
    let [one, two] = ["p-1", "p-2"].map(|device_id| fleet.device(&admin, device_id));
    for device in [&one, &two] {
        assert_eq!(device.refused(&server), "confirmation");
    }
    assert_eq!(count(&admin, &path, "awaiting_confirmation"), 2);
    let confirm = |client: &Client, device_id: &str| client.post(&format!("{path}/upgrades/{device_id}/confirm"), &json!({}));
    confirm(&two.client(&server), "p-1").refused(403);
    confirm(&server.anonymous().with_token(&issue_token(&admin, json!({ "role": "user" }))), "p-1").refused(403);
    one.client(&server).post(&format!("{path}/upgrades/p-1/force"), &json!({})).refused(403);
    assert_eq!(one.refused(&server), "confirmation");
    confirm(&one.client(&server), "p-1").expect(200);
    one.offered(&server);
    // Whoever stands before the device may hold a user's token of it as well.
    let bound = issue_token(&admin, json!({ "role": "user", "product_id": "pump", "device_id": "p-2" }));
    let before_it = server.anonymous().with_token(&bound);
    before_it.post(&format!("{path}/upgrades/p-2/decline"), &json!({})).expect(200);
    assert_eq!(row(&admin, &path, "p-2")["state"], "rejected");
    assert!(two.check(&server, "1.0")["upgrade"].is_null());
    confirm(&admin, "p-2").refused(409);
}

#[test]
fn an_operator_confirms_before_the_device_has_asked() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let devices = registered(&admin, &fleet, 1);
    let path = fleet.start_task(&admin, json!({ "confirmation": true }));
    admin.post(&format!("{path}/upgrades/p-1/confirm"), &json!({})).expect(200);
    devices[0].offered(&server);
    let plain = fleet.start_task(&admin, json!({}));
    assert_eq!(admin.post(&format!("{plain}/upgrades/p-1/confirm"), &json!({})).refused(409), "wrong_state");
}

#[test]
fn a_start_jitter_spreads_the_fleet() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({ "start_jitter_s": 86_400 }));
    let waits: std::collections::BTreeSet<u64> = ["p-1", "p-2", "p-3"]
        .iter()
        .map(|device_id| {
            let response = fleet.device(&admin, device_id);
            let response = response.client(&server).post("/api/v1/check", &response.check_body("1.0")).expect(200);
            let (header, answered) = (response.header("Retry-After").map(str::to_owned), response.json());
            assert_eq!(answered["reason"], "start_jitter", "{answered}");
            assert_eq!(header, Some(answered["retry_after_s"].to_string()));
            answered["retry_after_s"].as_u64().unwrap()
        })
        .collect();
    assert!(waits.len() > 1, "all wait {waits:?}");
}

#[test]
fn a_failure_is_retried_only_with_one_of_the_codes() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let retry = json!({ "count": 3, "interval_s": 3600, "back_off": { "factor": 1.5, "interval_max_s": 7200 }, "codes": [17, -2] });
    let path = fleet.start_task(&admin, json!({ "retry": retry }));
    let [again, other, none] = ["p-1", "p-2", "p-3"].map(|device_id| fleet.device(&admin, device_id));
    fail(&server, &again, Some(-2));
    assert_eq!(again.refused(&server), "back_off");
    let waiting = row(&admin, &path, "p-1");
    assert_eq!((&waiting["state"], &waiting["attempts"]), (&json!("waiting"), &json!(1)), "{waiting}");
    assert!(waiting["not_before"].is_string(), "{waiting}");
    fail(&server, &other, Some(5));
    fail(&server, &none, None);
    assert_eq!(count(&admin, &path, "failed"), 2);
    assert_eq!(task(&admin, &path)["outlook"]["failures"]["failed"], 3, "also the one that will try again");
    // An operator need not wait for the interval.
    admin.post(&format!("{path}/upgrades/p-1/retry"), &json!({})).expect(200);
    again.offered(&server);
}

#[test]
fn a_forced_device_begins_whatever_but_the_cap_holds_it() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let policies = json!({
        "schedule": { "start": "2999-01-01T00:00:00Z" }, "start_jitter_s": 86_400, "rate": { "per_minute": 1 }, "approval": true,
        "confirmation": true, "maximum_concurrency": 1,
    });
    let path = fleet.start_task(&admin, policies);
    let [one, two] = ["p-1", "p-2"].map(|device_id| fleet.device(&admin, device_id));
    for device in [&one, &two] {
        assert_eq!(device.refused(&server), "schedule");
        admin.post(&format!("{path}/upgrades/{}/force", device.device_id), &json!({})).expect(200);
    }
    let offer = one.offered(&server);
    assert_eq!(two.refused(&server), "cap");
    admin.post(&format!("{path}/upgrades/p-1/force"), &json!({})).refused(409);
    one.report(&server, &offer["id"], "succeeded").expect(200);
    two.offered(&server);
    admin.post(&format!("{path}/upgrades/nobody/force"), &json!({})).refused(404);
}

#[test]
fn firmware_that_needs_it_is_verified_before_an_upgrade_may_lead_to_it() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let new = json!({ "product_id": "pump", "type": 1, "identify": 0, "version": "3.0", "image": fleet.image_id,
        "verification": { "devices_max": 2, "successes_min": 2 } });
    let firmware = admin.post("/api/v1/firmware", &new).expect(201).json();
    assert_eq!((&firmware["verification"], &firmware["verified_at"]), (&new["verification"], &Value::Null));
    let body = |more: Value| {
        let mut body = fleet.task_body(json!({ "firmware_id": firmware["id"] }));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    assert_eq!(admin.post("/api/v1/tasks", &body(json!({}))).refused(409), "firmware_unverified");
    let verify = |scope: Value| body(json!({ "kind": "verify", "scope": scope }));
    assert_eq!(admin.post("/api/v1/tasks", &verify(json!({ "type": "total" }))).refused(409), "verify_scope");
    let three = json!({ "type": "devices", "devices": ["p-1", "p-2", "p-3"] });
    assert_eq!(admin.post("/api/v1/tasks", &verify(three)).refused(409), "verify_devices");
    let two = json!({ "firmware_id": firmware["id"], "kind": "verify", "scope": { "type": "devices", "devices": ["p-1", "p-2"] } });
    fleet.start_task(&admin, two);
    assert_eq!(fleet.device(&admin, "p-3").refused(&server), "no_task");
    fleet.device(&admin, "p-1").upgrade(&server);
    assert_eq!(admin.post("/api/v1/tasks", &body(json!({}))).refused(409), "firmware_unverified");
    fleet.device(&admin, "p-2").upgrade(&server);
    let verified = admin.get(&format!("/api/v1/firmware/{}", id_text(&firmware["id"]))).expect(200).json();
    assert!(verified["verified_at"].is_string(), "{verified}");
    // From the same version as the verify task, which may stay.
    fleet.start_task(&admin, json!({ "firmware_id": firmware["id"] }));
    assert_eq!(fleet.device(&admin, "p-3").offered(&server)["target_version"], "3.0");
}

#[test]
fn a_deadline_may_count_from_the_first_sign_of_running() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "timeout_from": "running", "timeout_s": 3600 }));
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    assert!(offer["deadline"].is_null(), "{offer}");
    assert!(row(&admin, &path, "p-1")["deadline"].is_null());
    device.report(&server, &offer["id"], "downloading").expect(200);
    assert!(row(&admin, &path, "p-1")["deadline"].is_string());
}

#[test]
fn devices_that_were_never_offered_a_task_are_listed_with_why_they_wait() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let devices = registered(&admin, &fleet, 7);
    let created = admin.post("/api/v1/tasks", &fleet.task_body(json!({ "maximum_concurrency": 2 }))).expect(201).json();
    let path = format!("/api/v1/tasks/{}", id_text(&created["id"]));
    for row in rows(&admin, &path) {
        assert_eq!((&row["state"], &row["reason"]), (&json!("waiting"), &json!("the task is stopped")), "{row}");
    }
    admin.post(&format!("{path}/start"), &json!({})).expect(200);
    // Neither the first nor the last, so that both kinds of row alternate.
    devices[1].upgrade(&server);
    let offered = [&devices[3], &devices[5]].map(|device| device.offered(&server));
    let listed = |query: &str| -> Vec<String> {
        let mut cursor = String::new();
        let mut all = Vec::new();
        loop {
            let page = admin.get(&format!("{path}/upgrades?limit=2{query}&cursor={cursor}")).expect(200).json();
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 2);
            all.extend(items.iter().map(|row| row["device_id"].as_str().unwrap().to_owned()));
            match page["cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => return all,
            }
        }
    };
    assert_eq!(listed(""), ["p-1", "p-2", "p-3", "p-4", "p-5", "p-6", "p-7"]);
    assert_eq!(listed("&state=waiting"), ["p-1", "p-3", "p-5", "p-7"]);
    assert_eq!(listed("&state=waiting,succeeded"), ["p-1", "p-2", "p-3", "p-5", "p-7"]);
    assert_eq!(listed("&state=offered"), ["p-4", "p-6"]);
    let waiting = row(&admin, &path, "p-1");
    assert_eq!((&waiting["attempts"], &waiting["id"], &waiting["from_version"]), (&json!(0), &Value::Null, &json!("1.0")));
    let reason = waiting["reason"].as_str().unwrap();
    assert!(reason.starts_with("held by cap: 2 of 2; number 1 of 4 in the queue; asks again in "), "{reason}");
    assert_eq!(task(&admin, &path)["outlook"]["to_come"], 4);
    devices[3].report(&server, &offered[0]["id"], "succeeded").expect(200);
    assert_eq!(row(&admin, &path, "p-1")["reason"], "may begin as soon as it asks");
}

#[test]
fn each_device_is_listed_once_while_devices_begin_finish_and_join() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let devices = registered(&admin, &fleet, 8);
    let path = fleet.start_task(&admin, json!({}));
    let mut listed: Vec<String> = Vec::new();
    let mut cursor = String::new();
    for page_number in 0.. {
        let page = admin.get(&format!("{path}/upgrades?limit=2&cursor={cursor}")).expect(200).json();
        listed.extend(page["items"].as_array().unwrap().iter().map(|row| row["device_id"].as_str().unwrap().to_owned()));
        let Some(next) = page["cursor"].as_str() else { break };
        cursor = next.to_owned();
        // One that was listed begins, one that is still to come begins and finishes, and another one joins; then all is quiet.
        if page_number < 3 {
            devices[page_number].offered(&server);
            devices[7 - page_number].upgrade(&server);
            fleet.device(&admin, &format!("late-{page_number}")).offered(&server);
        }
    }
    let expected: Vec<String> = devices.iter().map(|device| device.device_id.clone()).collect();
    assert_eq!(listed[..8], expected);
    assert_eq!(listed[8..], ["late-0", "late-1", "late-2"]);
}

#[test]
fn a_device_is_explained_task_by_task_with_its_place_in_the_queue() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let devices = registered(&admin, &fleet, 3);
    let path = fleet.start_task(&admin, json!({ "maximum_concurrency": 1, "name": "spring" }));
    devices[0].offered(&server);
    let explained = explanation(&admin, &devices[2]);
    assert_eq!((&explained["task_id"], &explained["name"]), (&task(&admin, &path)["id"], &json!("spring")));
    assert_eq!((&explained["state"], &explained["reason"]), (&json!("waiting"), &json!("cap")), "{explained}");
    assert_eq!(explained["queue"], json!({ "position": 2, "waiting": 2 }));
    assert_eq!((&explained["permits_held"], &explained["maximum_concurrency"]), (&json!(1), &json!(1)));
    assert!(explained["retry_after_s"].as_u64().is_some_and(|seconds| seconds > 0));
    assert!(explained["wave"].is_null());
    let running = explanation(&admin, &devices[0]);
    assert_eq!((&running["state"], &running["text"]), (&json!("offered"), &json!("offered in attempt 1, 0 %")));
    // A second task from the same version, for others: both are told of, the newer one first.
    let other = fleet.start_task(&admin, json!({ "scope": { "type": "devices", "devices": ["p-1"] } }));
    let of_device = "/api/v1/products/pump/devices/p-3/explanation";
    let both = admin.get(of_device).expect(200).json();
    assert_eq!(both["version"], "1.0");
    assert_eq!(both["items"][0]["task_id"], task(&admin, &other)["id"]);
    assert_eq!((&both["items"][0]["state"], &both["items"][0]["reason"]), (&Value::Null, &json!("out_of_scope")), "{both}");
    assert_eq!(both["items"][1]["reason"], "cap");
    let elsewhere = admin.get(&format!("{of_device}?type=2&identify=1")).expect(200).json();
    assert_eq!((&elsewhere["version"], &elsewhere["items"]), (&Value::Null, &json!([])));
    admin.get(&format!("{of_device}?type=9")).refused(400);
    admin.get("/api/v1/products/pump/devices/nobody/explanation").refused(404);
    devices[2].client(&server).get(of_device).refused(403);
}

#[test]
fn the_command_line_steers_a_task_through_its_policies_and_explains_its_devices() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let file = server.folder().join("devices.ndjson");
    let line = |device_id: &str| {
        let version = json!([{ "type": 1, "identify": 0, "version": "1.0" }]);
        json!({ "product_id": "pump", "device_id": device_id, "components": version }).to_string()
    };
    std::fs::write(&file, format!("{}\n{}\nno json\n{}\n", line("p-1"), line("p-2"), line("p-3"))).unwrap();
    let command = |args: &[&str]| {
        let output = run(sluicegate().args(args).args(["--server", &server.url()]).env("SLUICEGATE_ADMIN_TOKEN", ADMIN_TOKEN));
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, printed, said) = command(&["device", "import", file.to_str().unwrap()]);
    assert_eq!(code, Some(1), "one line was refused: {said}");
    assert!(printed.contains("\"line\":3") && printed.contains("3 accepted, 1 refused"), "{printed}");
    let (code, printed, said) = command(&["device", "import", file.to_str().unwrap(), "--from-line", "4", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), json!({ "accepted": 1, "refused": 0, "refusals": [] }));
    let policies = json!({ "approval": true, "waves": [{ "count": 1 }, { "count": 2 }], "rate": { "per_minute": 60 } });
    let created = admin.post("/api/v1/tasks", &fleet.task_body(policies)).expect(201).json();
    let id = id_text(&created["id"]);
    let task_command = |verb: &str| {
        let (code, printed, said) = command(&["task", verb, &id]);
        assert_eq!(code, Some(0), "{verb}: {said}");
        printed
    };
    assert!(task_command("start").contains("started, waits for an approval"));
    assert!(task_command("approve").contains("started, approved"));
    assert!(task_command("pause").contains("paused, approved"));
    let explain = |device_id: &str| command(&["device", "explain", device_id, "--product", "pump"]);
    let (_, printed, _) = explain("p-1");
    assert!(printed.contains("held because the task is paused") && printed.contains(" of 2"), "{printed}");
    assert!(task_command("resume").contains("started, approved"));
    let shown = task_command("open-wave");
    for expected in ["60 a minute, 0 in the last one", "open, 0 of 1 succeeded, 1 needed", "open, 0 of 2 succeeded, 2 needed"] {
        assert!(shown.contains(expected), "{shown}");
    }
    assert!(explain("p-1").1.contains("may begin as soon as it asks"));
    assert!(task_command("cancel").contains("stopped, canceled"));
    let (code, _, said) = explain("nobody");
    assert!(code == Some(1) && said.contains("nobody"), "{said}");
}

#[test]
fn each_policy_that_is_wrong_is_refused_with_its_field_and_nothing_is_kept() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    registered(&admin, &fleet, 2);
    let growth = |growth: Value| json!({ "rate": { "per_minute": 10, "growth": growth } });
    let retry = |more: Value| {
        let mut retry = json!({ "count": 1, "interval_s": 60 });
        retry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "retry": retry })
    };
    let threshold = |percent: Value, minimum: Value, action: &str| json!({ "thresholds": [{ "percent": percent, "minimum": minimum, "action": action }] });
    for (wrong, named) in [
        (json!({ "rate": 5 }), "rate"),
        (json!({ "rate": {} }), "per_minute"),
        (json!({ "rate": { "per_minute": 0 } }), "rate.per_minute is 0; give 1 to"),
        (json!({ "rate": { "per_minute": "fast" } }), "rate.per_minute: invalid value: string \"fast\", expected a whole number"),
        (json!({ "rate": { "per_minute": 1, "per_hour": 60 } }), "rate.per_hour"),
        (growth(json!({ "factor": 1, "after": 1, "per_minute_max": 20 })), "rate.growth.factor"),
        (growth(json!({ "factor": 1.125, "after": 1, "per_minute_max": 20 })), "at most two places after the point"),
        (growth(json!({ "factor": 2, "after": 0, "per_minute_max": 20 })), "rate.growth.after is 0"),
        (growth(json!({ "factor": 2, "after": 1, "per_minute_max": 5 })), "rate.growth.per_minute_max is 5; give 10 to"),
        (growth(json!({ "factor": 2, "after": 1, "per_minute_max": 20, "counting": "offered" })), "`notified` or `succeeded`"),
        (json!({ "waves": { "percent": 10 } }), "waves"),
        (json!({ "waves": [{ "success_percent": 90 }] }), "waves[0]: expected either percent or count"),
        (json!({ "waves": [{ "percent": 10, "count": 1 }] }), "got both"),
        (json!({ "waves": [{ "percent": 0 }] }), "waves.percent is 0; give 1 to 100"),
        (json!({ "waves": [{ "percent": 101 }] }), "waves[0].percent"),
        (json!({ "waves": [{ "percent": 60 }, { "percent": 50 }] }), "the waves are 110 percent in all; give at most 100"),
        (json!({ "waves": [{ "count": 1, "sucess_percent": 90 }] }), "waves[0].sucess_percent"),
        (json!({ "waves": [{ "count": 1 }], "from_versions": ["0.9"] }), "waves are measured out over the devices that are there"),
        (threshold(json!(0), json!(1), "pause"), "thresholds.percent is 0; give 1 to 100"),
        (threshold(json!(5), json!(0), "pause"), "thresholds.minimum is 0"),
        (threshold(json!(5), json!(1), "stop"), "unknown variant `stop`, expected `pause` or `cancel`"),
        (json!({ "thresholds": [{ "kind": "late", "percent": 5, "minimum": 1, "action": "pause" }] }), "thresholds[0].kind"),
        (retry(json!({ "back_off": { "factor": 0.5, "interval_max_s": 600 } })), "retry.back_off.factor is 50; give 100 to"),
        (retry(json!({ "back_off": { "factor": 2, "interval_max_s": 10 } })), "retry.back_off.interval_max_s is 10; give 60 to"),
        (retry(json!({ "codes": [] })), "retry.codes: expected at least one code, got none"),
        (retry(json!({ "codes": ["E17"] })), "retry.codes[0]"),
        (retry(json!({ "jitter": 5 })), "retry.jitter"),
        (json!({ "start_jitter_s": 86_401 }), "start_jitter_s is 86401; give 0 to 86400"),
        (json!({ "timeout_from": "download" }), "timeout_from: unknown variant `download`, expected `offer` or `running`"),
        (json!({ "approval": "yes" }), "approval: invalid type: string \"yes\", expected a boolean"),
        (json!({ "confirmation": 1 }), "confirmation"),
        (json!({ "scope": { "type": "tags", "tag": { "ring": ["canary"] } } }), "scope.tag"),
        (json!({ "schedule": { "begin": "2027-01-01T00:00:00Z" } }), "schedule.begin"),
    ] {
        let refused = admin.post("/api/v1/tasks", &fleet.task_body(wrong.clone()));
        let message = refused.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(refused.refused_for(400, &wrong), "invalid_argument");
        assert!(message.contains(named), "{wrong}: {named:?} is not in {message:?}");
    }
    assert_eq!(admin.get("/api/v1/tasks").expect(200).json()["items"], json!([]));
    for wrong in
        [json!({ "devices_max": 1, "successes_min": 2 }), json!({ "successes_min": 0 }), json!({ "successes": 1 }), json!(true)]
    {
        let new = json!({ "product_id": "pump", "type": 1, "identify": 0, "version": "9", "image": fleet.image_id, "verification": wrong });
        admin.post("/api/v1/firmware", &new).refused_for(400, &wrong);
    }
    let path = fleet.start_task(&admin, json!({}));
    for verb in ["aprove", "open_wave"] {
        admin.post(&format!("{path}/{verb}"), &json!({})).refused(404);
    }
    admin.get(&format!("{path}/approve")).refused(405);
    admin.post(&format!("{path}/upgrades/p-1/confirmed"), &json!({})).refused(404);
    admin.get(&format!("{path}/upgrades/p-1/force")).refused(405);
}
