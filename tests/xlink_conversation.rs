//! The seven calls of the upgrade page, from creating a task to deleting it.

use crate::common::TestServer;
use crate::xlink_support::{PRODUCT, Platform, code, nothing, task_body};
use serde_json::{Value, json};
use std::io::BufRead;

/// What a task shows of what it was created with.
const GIVEN: [&str; 14] = [
    "product_id",
    "name",
    "description",
    "from_version",
    "from_version_url",
    "from_version_md5",
    "from_version_size",
    "target_version",
    "target_version_url",
    "target_version_md5",
    "target_version_size",
    "type",
    "identify",
    "task_type",
];

#[track_caller]
fn assert_shows(shown: &Value, given: &Value, status: u8, upgrade_count: u64) {
    for field in GIVEN {
        assert_eq!(shown[field], given[field], "{field} in {shown}");
    }
    assert_eq!(shown["status"], status, "{shown}");
    assert_eq!(shown["upgrade_count"], upgrade_count, "{shown}");
    assert!(shown["id"].as_str().is_some_and(|id| id.len() == 24), "{shown}");
}

#[test]
fn xlink_create_shows_every_field_with_numbers_and_the_task_is_stopped() {
    let platform = Platform::start();
    assert_shows(&platform.create(json!({})), &task_body(json!({})), 0, 0);
    // In texts, without what is optional: the same but for its defaults.
    let texts = json!({
        "name": "in texts", "from_version": "3", "from_version_size": "1000", "target_version": "04", "target_version_size": "2000",
        "type": null, "identify": null, "task_type": null, "status": 1,
    });
    let expected = task_body(json!({ "name": "in texts", "from_version": 3, "target_version": 4 }));
    assert_shows(&platform.create(texts), &expected, 0, 0);
}

#[test]
fn xlink_an_mcu_task_keeps_its_type_identify_and_mode() {
    let platform = Platform::start();
    let changes = json!({ "type": "2", "identify": "7", "task_type": 1 });
    let task = platform.create(changes);
    assert_eq!((&task["type"], &task["identify"], &task["task_type"]), (&json!(2), &json!(7), &json!(1)));
    assert!(!platform.listed(&task).as_object().unwrap().contains_key("surplus_count"), "only wifi tasks have it");
}

#[test]
fn xlink_get_list_is_a_bare_array_newest_first_and_post_list_counts() {
    let platform = Platform::start();
    for version in 1..=12 {
        let changes =
            json!({ "name": version.to_string(), "from_version": version, "target_version": 100, "type": version % 2 + 1 });
        let _ = platform.create(changes);
    }
    let names = |list: &[Value]| list.iter().map(|task| task["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let newest_first: Vec<String> = (1..=12).rev().map(|version| version.to_string()).collect();

    let all = platform.tasks();
    assert_eq!(names(&all), newest_first);
    assert_shows(&all[11], &task_body(json!({ "name": "1", "from_version": 1, "target_version": 100, "type": 2 })), 0, 0);
    assert!(all.iter().all(|task| task.as_object().unwrap().contains_key("surplus_count") == (task["type"] == 1)));
    let path = format!("/v2/upgrade/firmware/tasks?product_id={PRODUCT}&offset=2&limit=3");
    let part = platform.get(&platform.operator, &path).expect(200).json();
    assert_eq!(names(part.as_array().unwrap()), newest_first[2..5]);

    let list = |more: Value| {
        let mut body = json!({ "product_id": PRODUCT });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let page = platform.post(&platform.operator, "/v2/upgrade/firmware/tasks", &body).expect(200).json();
        (page["count"].as_u64().unwrap(), names(page["list"].as_array().unwrap()))
    };
    assert_eq!(list(json!({})), (12, newest_first[..10].to_vec()));
    assert_eq!(list(json!({ "offset": "10", "limit": 5 })), (12, newest_first[10..].to_vec()));
    assert_eq!(list(json!({ "type": 2, "limit": 2 })), (6, vec!["11".to_owned(), "9".to_owned()]));
    assert_eq!(list(json!({ "limit": 0 })), (12, vec![]));
}

#[test]
fn xlink_lists_of_an_unknown_product_are_empty() {
    let platform = Platform::start();
    let list = platform.get(&platform.operator, "/v2/upgrade/firmware/tasks?product_id=nobody").expect(200);
    assert_eq!(list.text(), "[]");
    let list = platform.post(&platform.operator, "/v2/upgrade/firmware/tasks", &json!({ "product_id": "nobody" })).expect(200);
    assert_eq!(list.text(), r#"{"count":0,"list":[]}"#);
}

#[test]
fn xlink_a_task_is_offered_from_start_to_stop() {
    let platform = Platform::start();
    let device = platform.device_token(7);
    let task = platform.create(json!({}));
    assert_eq!(code(&platform.check(7, &device, 1)), 4_041_013);

    nothing(&platform.set_status(&task, 1));
    nothing(&platform.set_status(&task, 1));
    let offer = platform.check(7, &device, 1).expect(200).json();
    assert_shows(&offer, &task_body(json!({})), 1, 0);
    assert_eq!(offer["id"], task["id"]);
    assert_eq!(platform.listed(&task)["status"], 1);

    nothing(&platform.set_status(&task, 0));
    nothing(&platform.set_status(&task, 0));
    assert_eq!(code(&platform.check(7, &device, 1)), 4_041_013, "a held offer is not repeated while its task is stopped");
    assert_eq!(platform.listed(&task)["status"], 0);
}

#[test]
fn xlink_nothing_to_do_is_404_4041013_without_retry_after() {
    let platform = Platform::start();
    let _ = platform.start_task(json!({}));
    let device = platform.device_token(7);
    for version in [2, 3, 0] {
        let response = platform.check(7, &device, version);
        assert_eq!(code(&response), 4_041_013);
        assert_eq!(response.header("retry-after"), None);
    }
    let other = json!({ "product_id": PRODUCT, "type": 2, "current_version": 1, "identify": 0 });
    assert_eq!(code(&platform.post(&device, "/v2/upgrade/firmware/check/7", &other)), 4_041_013);
}

#[test]
fn xlink_each_component_matches_by_type_identify_and_version() {
    let platform = Platform::start();
    let mcu = platform.start_task(json!({ "name": "mcu", "type": 2, "identify": 5, "from_version": 1, "target_version": 9 }));
    let wifi = platform.start_task(json!({ "name": "wifi" }));
    let device = platform.device_token(7);
    let check = |kind: u16, identify: u32| {
        let body = json!({ "product_id": PRODUCT, "type": kind, "current_version": 1, "identify": identify });
        platform.post(&device, "/v2/upgrade/firmware/check/7", &body)
    };
    assert_eq!(check(2, 5).expect(200).json()["id"], mcu["id"]);
    assert_eq!(check(1, 0).expect(200).json()["id"], wifi["id"], "one upgrade per component, not per device");
    assert_eq!(check(1, 8).expect(200).json()["id"], wifi["id"], "there is one wifi processor, whatever its identify");
    assert_eq!(code(&check(2, 4)), 4_041_013);
    assert_eq!(code(&check(3, 5)), 4_041_013);
}

#[test]
fn xlink_rollback_is_an_upgrade_like_any_other() {
    let platform = Platform::start();
    let _ = platform.start_task(json!({ "from_version": 9, "target_version": 3 }));
    let offer = platform.check(7, &platform.device_token(7), 9).expect(200).json();
    assert_eq!((&offer["from_version"], &offer["target_version"]), (&json!(9), &json!(3)));
}

#[test]
fn xlink_upgrade_count_grows_once_per_device_that_succeeded() {
    let platform = Platform::start();
    let task = platform.start_task(json!({}));
    let (first, second) = (platform.device_token(1), platform.device_token(2));

    let _ = platform.check(1, &first, 1).expect(200);
    nothing(&platform.report(1, &first, 1, 2, 1));
    assert_eq!(platform.listed(&task)["upgrade_count"], 0, "a failure doesn't count");
    let _ = platform.check(1, &first, 1).expect(200);
    for _ in 0..3 {
        nothing(&platform.report(1, &first, 1, 2, 0));
        assert_eq!(platform.listed(&task)["upgrade_count"], 1);
    }
    nothing(&platform.report(2, &second, 1, 2, 0));
    assert_eq!(platform.listed(&task)["upgrade_count"], 2, "a success counts though it was never offered");
    nothing(&platform.report(1, &first, 1, 2, 1));
    assert_eq!(platform.listed(&task)["upgrade_count"], 2, "what succeeded stays so");

    let again = platform.check(1, &first, 1).expect(200).json();
    assert_eq!((&again["id"], &again["upgrade_count"]), (&task["id"], &json!(2)), "from the old version it is offered again");
    nothing(&platform.report(1, &first, 1, 2, 0));
    assert_eq!(platform.listed(&task)["upgrade_count"], 2);
}

#[test]
fn xlink_a_report_of_a_stopped_task_counts_and_of_a_deleted_one_is_taken() {
    let platform = Platform::start();
    let device = platform.device_token(7);
    let task = platform.start_task(json!({}));
    let _ = platform.check(7, &device, 1).expect(200);
    nothing(&platform.set_status(&task, 0));
    nothing(&platform.report(7, &device, 1, 2, 0));
    assert_eq!(platform.listed(&task)["upgrade_count"], 1);
    nothing(&platform.delete(&task));
    nothing(&platform.report(7, &device, 1, 2, 0));
}

#[test]
fn xlink_a_report_that_matches_no_task_is_200() {
    let platform = Platform::start();
    let device = platform.device_token(7);
    nothing(&platform.report(7, &device, 5, 5, 0));
    nothing(&platform.report(7, &device, 1, 2, 1));
}

#[test]
fn xlink_a_report_is_told_in_the_events_with_its_task_where_it_has_one() {
    let platform = Platform::start();
    let task = platform.start_task(json!({}));
    let device = platform.device_token(7);
    let _ = platform.check(7, &device, 1).expect(200);
    let report = |last: u32| {
        let body = json!({
            "type": "1", "mod": "M1", "identify": "0", "last_version": last, "current_version": 2, "result": 0,
            "desc": "升级状况描述", "start_date": "2015-10-09T08:15:40.843Z", "end_date": "2015-10-09T08:16:40.843Z",
        });
        nothing(&platform.post(&device, "/v2/upgrade/firmware/report/7", &body));
    };
    report(1);
    report(5);
    let results = results(&platform, 2);
    for (event, last) in results.iter().zip(["1", "5"]) {
        assert_eq!((&event["product_id"], &event["device_id"]), (&json!(PRODUCT), &json!("7")));
        for (field, value) in [
            ("type", "1"),
            ("identify", "0"),
            ("mod", "M1"),
            ("last_version", last),
            ("current_version", "2"),
            ("result", "0"),
            ("desc", "升级状况描述"),
            ("start_date", "2015-10-09T08:15:40.843Z"),
            ("end_date", "2015-10-09T08:16:40.843Z"),
        ] {
            assert_eq!(event[field], value, "{field} in {event}");
        }
    }
    assert_eq!(results[0]["task_id"], task["id"]);
    assert_eq!(results[1].get("task_id"), None, "{}", results[1]);
}

/// The first `count` results among the events.
#[track_caller]
fn results(platform: &Platform, count: usize) -> Vec<Value> {
    let client = platform.server.anonymous().with_token(&platform.operator);
    let (status, reader) = client.request("GET", "/api/v1/events?from=1").open();
    assert_eq!(status, 200);
    let data =
        reader.lines().map(Result::unwrap).filter_map(|line| Some(serde_json::from_str(line.strip_prefix("data:")?).unwrap()));
    data.filter(|event: &Value| event["kind"] == "result").take(count).collect()
}

#[test]
fn xlink_surplus_count_follows_the_devices() {
    let platform = Platform::start();
    let task = platform.start_task(json!({}));
    let tokens: Vec<String> = (1..=3).map(|device_id| platform.device_token(device_id)).collect();
    assert_eq!(platform.listed(&task)["surplus_count"], 0);
    for (index, token) in tokens.iter().enumerate() {
        let _ = platform.check(index as u32 + 1, token, 1).expect(200);
    }
    assert_eq!(platform.listed(&task)["surplus_count"], 3);
    nothing(&platform.report(1, &tokens[0], 1, 2, 0));
    assert_eq!(platform.listed(&task)["surplus_count"], 2);
    assert_eq!(code(&platform.check(2, &tokens[1], 2)), 4_041_013);
    assert_eq!(platform.listed(&task)["surplus_count"], 1, "a device that says it runs the target has left the start");
    // Somebody else who asks about a device tells nothing of it.
    let user = platform.token(json!({ "role": "user" }));
    assert_eq!(code(&platform.check(3, &user, 2)), 4_041_013);
    assert_eq!(platform.listed(&task)["surplus_count"], 1);
}

#[test]
fn xlink_a_device_held_by_the_cap_is_told_when_to_come_back_and_gets_the_next_permit() {
    let platform = Platform::start();
    let _ = platform.start_task(json!({ "maximum_concurrency": "1" }));
    let (first, second) = (platform.device_token(1), platform.device_token(2));
    let offer = platform.check(1, &first, 1).expect(200).json();
    assert_eq!(platform.check(1, &first, 1).expect(200).json()["id"], offer["id"], "asking again is the same offer");

    let held = platform.check(2, &second, 1);
    assert_eq!(code(&held), 4_041_013);
    let retry_after_s: u32 = held.header("retry-after").expect("a held device is told when to come back").parse().unwrap();
    assert!(retry_after_s >= 1);

    nothing(&platform.report(1, &first, 1, 2, 1));
    let _ = platform.check(2, &second, 1).expect(200);
    assert_eq!(code(&platform.check(1, &first, 1)), 4_041_013, "now the first one waits");
}

#[test]
fn xlink_a_preview_takes_no_permit() {
    let platform = Platform::start();
    let task = platform.start_task(json!({ "maximum_concurrency": 1 }));
    let (first, second) = (platform.device_token(1), platform.device_token(2));
    // Both are known; neither holds a permit yet.
    for (device_id, token) in [(1, &first), (2, &second)] {
        assert_eq!(code(&platform.check(device_id, token, 9)), 4_041_013);
    }
    for token in [&platform.token(json!({ "role": "user" })), &platform.operator] {
        for device_id in [1, 2] {
            assert_eq!(platform.check(device_id, token, 1).expect(200).json()["id"], task["id"]);
        }
    }
    let _ = platform.check(2, &second, 1).expect(200);
    assert_eq!(code(&platform.check(1, &first, 1)), 4_041_013);
}

#[test]
fn xlink_a_deleted_task_is_gone_and_its_name_and_start_are_free() {
    let platform = Platform::start();
    let device = platform.device_token(7);
    let task = platform.start_task(json!({}));
    let _ = platform.check(7, &device, 1).expect(200);
    nothing(&platform.delete(&task));
    assert_eq!(platform.tasks(), [json!(null); 0]);
    assert_eq!(code(&platform.check(7, &device, 1)), 4_041_013);
    assert_eq!(code(&platform.delete(&task)), 4_041_013);
    assert_eq!(code(&platform.set_status(&task, 1)), 4_041_013);
    let again = platform.create(json!({}));
    assert_ne!(again["id"], task["id"], "an id is never given to another task");
}

#[test]
fn xlink_an_acknowledged_rollout_is_there_after_kill_9() {
    let mut platform = Platform::start();
    let task = platform.start_task(json!({ "maximum_concurrency": 2 }));
    let tokens: Vec<String> = (1..=4).map(|device_id| platform.device_token(device_id)).collect();
    for device_id in [1, 2] {
        let _ = platform.check(device_id, &tokens[device_id as usize - 1], 1).expect(200);
    }
    nothing(&platform.report(1, &tokens[0], 1, 2, 0));

    platform.server.kill_and_start_again();

    let listed = platform.listed(&task);
    assert_eq!((&listed["upgrade_count"], &listed["status"], &listed["surplus_count"]), (&json!(1), &json!(1), &json!(1)));
    let _ = platform.check(3, &tokens[2], 1).expect(200);
    assert_eq!(code(&platform.check(4, &tokens[3], 1)), 4_041_013, "device 2 held its permit through the crash");
    let _ = platform.check(2, &tokens[1], 1).expect(200);
}

#[test]
fn xlink_the_page_s_own_examples_repeat_by_script() {
    let server = TestServer::start();
    let mut command = std::process::Command::new("bash");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/seed-000.sh"))
        .env("SLUICEGATE_URL", server.url())
        .env("SLUICEGATE_ADMIN_TOKEN", crate::common::ADMIN_TOKEN);
    let output = crate::common::server::run(&mut command);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}
