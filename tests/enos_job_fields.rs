//! What a job says of itself: every field of `ota-jobs?action=create` as it is shown afterwards, and what each does.

use crate::enos_fleet::{Rollouts, data, for_all, refused};
use crate::enos_support::{ORGANIZATION, PRODUCT, path};
use serde_json::{Value, json};

/// 2030-01-01T00:00:00Z.
const MIDNIGHT: i64 = 1_893_456_000_000;
const DAY_MS: i64 = 86_400_000;

#[test]
fn every_field_is_shown_as_it_was_sent() {
    let rollouts = Rollouts::start();
    let schedule = json!({
        "isRepeatDaily": false, "startTimestamp": MIDNIGHT, "endTimestamp": MIDNIGHT + DAY_MS, "timezoneOffsetInMinutes": 480,
    });
    let mut sent = json!({
        "name": { "defaultValue": "spring", "i18nValue": { "zh_CN": "春", "en_US": "spring" } },
        "type": "upgrade",
        "upgradePolicy": "incremental",
        "upgradeScope": {
            "type": "partial", "versionNumbers": ["1.0", "1.1"],
            "assetTrees": [{ "treeId": "site", "includedNodes": ["hall-1"] }, { "treeId": "whole" }],
        },
        "enableUpgradeRequest": false,
        "upgradeTimeout": "600",
        "retryPolicy": { "enableRetry": true, "retryInterval": "10", "retryCount": 5 },
        "schedulePolicy": schedule,
        "maximumConcurrency": "12",
    });
    sent["schedulePolicy"]["endTimestamp"] = json!((MIDNIGHT + DAY_MS).to_string());
    let created = rollouts.create(&rollouts.firmware_id, &sent);
    let job_id = data(&created)["jobId"].as_str().unwrap();
    let job = rollouts.get_job(job_id);
    for (field, value) in [
        ("orgId", json!(ORGANIZATION)),
        ("productKey", json!(PRODUCT)),
        ("jobId", json!(job_id)),
        ("name", json!({ "defaultValue": "spring", "i18nValue": { "zh_CN": "春", "en_US": "spring" } })),
        ("firmwareId", json!(rollouts.firmware_id)),
        ("firmwareVersion", json!("2.0")),
        ("firmwareName", json!({ "defaultValue": "firmware 2.0", "i18nValue": {} })),
        ("type", json!("upgrade")),
        ("enableUpgradeRequest", json!(false)),
        ("upgradePolicy", json!("incremental")),
        ("upgradeTimeout", json!(600)),
        ("retryPolicy", json!({ "enableRetry": true, "retryInterval": 10, "retryCount": 5 })),
        ("schedulePolicy", schedule),
        ("maximumConcurrency", json!(12)),
        ("status", json!("started")),
    ] {
        assert_eq!(job[field], value, "{field}");
    }
    let scope = &job["upgradeScope"];
    assert_eq!((&scope["type"], &scope["versionNumbers"]), (&json!("partial"), &json!(["1.0", "1.1"])));
    assert_eq!(scope["assetTrees"][0], json!({ "treeId": "site", "includedNodes": ["hall-1"] }));
    assert_eq!(scope["assetTrees"][1]["treeId"], "whole");
    assert!(job["createTime"].as_u64().is_some_and(|time| time > 1_600_000_000_000), "{job}");
    assert_eq!(rollouts.get_by_get(job_id), job, "GET does as POST does");
}

#[test]
fn each_selector_is_shown_as_it_was_sent() {
    let rollouts = Rollouts::start();
    for (field, selector) in [
        ("deviceKeys", json!(["a", "b"])),
        ("attributes", json!({ "floor": [3, "3", true], "site": ["north"] })),
        ("tags", json!({ "ring": ["1", "2"] })),
    ] {
        let mut scope = json!({ "type": "partial", "versionNumbers": ["1.0"] });
        scope[field] = selector.clone();
        let job = rollouts.get_job(&rollouts.job(json!({ "upgradeScope": scope })));
        assert_eq!(job["upgradeScope"][field], selector, "{job}");
    }
    let total = rollouts.get_job(&rollouts.job(json!({})));
    assert_eq!(total["upgradeScope"]["type"], "total");
    assert!(total["upgradeScope"]["deviceKeys"].is_null(), "{total}");
}

#[test]
fn what_is_left_out_or_null_has_the_platforms_defaults() {
    let rollouts = Rollouts::start();
    let nothing = json!({
        "name": null, "upgradeTimeout": null, "retryPolicy": null, "schedulePolicy": null, "maximumConcurrency": null,
        "somethingElse": { "a": 1 },
    });
    for changes in [json!({}), nothing] {
        let job = rollouts.get_job(&rollouts.job(changes));
        assert_eq!((&job["upgradeTimeout"], &job["maximumConcurrency"]), (&json!(7_200), &json!(300)));
        assert!(job["retryPolicy"].is_null() && job["schedulePolicy"].is_null(), "{job}");
        assert!(job["name"]["defaultValue"].as_str().is_some_and(|name| !name.is_empty()), "{job}");
    }
    let older = rollouts.get_job(&rollouts.job(json!({ "startSchedule": "3600", "endSchedule": 7_200 })));
    assert_eq!((&older["startSchedule"], &older["endSchedule"]), (&json!(3_600), &json!(7_200)));
}

#[test]
fn both_ends_of_each_range_are_taken_and_what_lies_beyond_is_refused_with_the_range() {
    let rollouts = Rollouts::start();
    let retry = |interval: i64, count: i64| json!({ "retryPolicy": { "enableRetry": true, "retryInterval": interval, "retryCount": count } });
    let schedule = |start: i64, end: i64, daily: bool| json!({ "schedulePolicy": { "startTimestamp": start, "endTimestamp": end, "isRepeatDaily": daily } });
    for changes in [
        json!({ "upgradeTimeout": 300 }),
        json!({ "upgradeTimeout": 172_800 }),
        retry(0, 1),
        retry(86_400, 5),
        json!({ "retryPolicy": { "enableRetry": false, "retryCount": 99 } }),
        json!({ "maximumConcurrency": 1 }),
        json!({ "startSchedule": 0, "endSchedule": 86_399 }),
        schedule(MIDNIGHT, MIDNIGHT + 1, false),
        schedule(MIDNIGHT, MIDNIGHT + DAY_MS - 1, true),
    ] {
        rollouts.job(changes);
    }
    for (changes, message) in [
        (json!({ "upgradeTimeout": 299 }), "upgradeTimeout must be from 300 to 172800 seconds, got 299"),
        (json!({ "upgradeTimeout": 172_801 }), "upgradeTimeout must be from 300 to 172800 seconds, got 172801"),
        (retry(-1, 1), "retryPolicy.retryInterval must be from 0 to 86400 seconds, got -1"),
        (retry(86_401, 1), "retryPolicy.retryInterval must be from 0 to 86400 seconds, got 86401"),
        (retry(1, 0), "retryPolicy.retryCount must be from 1 to 5 retries, got 0"),
        (retry(1, 6), "retryPolicy.retryCount must be from 1 to 5 retries, got 6"),
        (json!({ "retryPolicy": { "enableRetry": true, "retryCount": 1 } }), "retryInterval is required where enableRetry is true"),
        (json!({ "maximumConcurrency": 0 }), "maximumConcurrency must be from 1"),
        (schedule(MIDNIGHT, MIDNIGHT, false), "endTimestamp must be later than startTimestamp"),
        (schedule(MIDNIGHT / 1_000, MIDNIGHT, false), "startTimestamp must be milliseconds since 1970, which have 13 digits"),
        (schedule(MIDNIGHT, MIDNIGHT + DAY_MS, true), "must be of the same day at timezoneOffsetInMinutes 0"),
        (json!({ "endSchedule": 86_400 }), "endSchedule must be a second of the day from 0 to 86399, got 86400"),
    ] {
        let (code, got) = rollouts.job_refused(changes.clone());
        assert!(code == 24_400 && got.contains(message), "{changes}: {code} {got}");
    }
}

#[test]
fn a_slip_in_the_scope_is_named_rather_than_widening_the_job() {
    let rollouts = Rollouts::start();
    let scope = |more: Value| {
        let mut scope = json!({ "versionNumbers": ["1.0"] });
        scope.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "upgradeScope": scope })
    };
    for (changes, message) in [
        (scope(json!({ "type": "total", "deviceKey": ["a"] })), "unknown field `deviceKey`"),
        (
            scope(json!({ "type": "partial", "assetTrees": { "treeId": "t", "includeNodes": ["n"] } })),
            "unknown field `includeNodes`",
        ),
        (scope(json!({ "type": "partial", "assetTrees": { "treeId": "t", "includedNodes": [] } })), "includedNodes is empty"),
        (scope(json!({ "type": "total", "tags": {} })), "total, which is every device, but tags is given too"),
        (json!({ "tags": { "a": ["b"] } }), "tags stands beside upgradeScope and belongs into it"),
    ] {
        let (code, got) = rollouts.job_refused(changes.clone());
        assert!(code == 24_400 && got.contains(message), "{changes}: {code} {got}");
    }
    assert!(rollouts.search("search", "").is_empty());
}

#[test]
fn a_number_that_would_become_another_text_is_refused() {
    let rollouts = Rollouts::start();
    for version in ["1.10", "1e3", "true"] {
        let scope: Value = serde_json::from_str(&format!(r#"{{ "type": "total", "versionNumbers": [{version}] }}"#)).unwrap();
        let (code, message) = rollouts.job_refused(json!({ "upgradeScope": scope }));
        assert!(code == 24_400 && message.contains("versionNumbers[0]") && message.contains("put it in quotes"), "{message}");
    }
    let job = rollouts.get_job(&rollouts.job(json!({ "upgradeScope": { "type": "total", "versionNumbers": [7] } })));
    assert_eq!(job["upgradeScope"]["versionNumbers"], json!(["7"]));
}

#[test]
fn a_refusal_names_fields_as_they_were_sent() {
    let rollouts = Rollouts::start();
    let long = "x".repeat(5_000);
    for (scope, message) in [
        (json!({ "type": "total", "versionNumbers": [long] }), "upgradeScope.versionNumbers has 5000 bytes"),
        (json!({ "type": "partial", "versionNumbers": ["1.0"], "deviceKeys": [long] }), "upgradeScope.deviceKeys has 5000 bytes"),
        (
            json!({ "type": "partial", "versionNumbers": ["1.0"], "assetTrees": { "treeId": long } }),
            "upgradeScope.assetTrees has 5000 bytes",
        ),
    ] {
        let (code, got) = rollouts.job_refused(json!({ "upgradeScope": scope }));
        assert!(code == 24_400 && got.starts_with(message), "{got}");
    }
}

#[test]
fn a_body_beyond_the_bound_is_read_on_so_that_its_sender_learns_why_it_is_refused() {
    let rollouts = Rollouts::start();
    let token = rollouts.platform.native_token(json!({ "role": "operator" }));
    let url = path("ota-jobs", &[("action", "search"), ("orgId", ORGANIZATION)]);
    let client = rollouts.server().anonymous();
    for megabytes in [2, 6, 20] {
        let body = " ".repeat(megabytes << 20);
        let request = client.request("POST", &url).header("apim-accesstoken", &token);
        let (code, message) = refused(&request.body(body.as_bytes()).send().json());
        assert!(code == 24_400 && message.contains("the body is larger than"), "{megabytes} MiB: {code} {message}");
    }
}

#[test]
fn devices_that_come_later_join_an_incremental_job_and_no_snapshot() {
    for (policy, shown) in
        [("incremental", "incremental"), ("dynamic", "incremental"), ("snapshot", "snapshot"), ("upgrade", "snapshot")]
    {
        let rollouts = Rollouts::start();
        rollouts.put_device("early", "1.0");
        let job_id = rollouts.job(json!({ "upgradePolicy": policy }));
        rollouts.put_device("late", "1.0");
        let joins = shown == "incremental";
        let expected: &[&str] = if joins { &["early", "late"] } else { &["early"] };
        assert_eq!(rollouts.tasks_of(&format!("jobId='{job_id}'")), expected, "{policy}");
        assert_eq!(rollouts.is_offered("late"), joins, "{policy}");
        assert_eq!(rollouts.get_job(&job_id)["upgradePolicy"], shown, "{policy}");
    }
}

#[test]
fn devices_at_the_target_are_skipped() {
    let rollouts = Rollouts::start();
    rollouts.put_device("old", "1.0");
    rollouts.put_device("new", "2.0");
    let job_id = rollouts.job(json!({ "upgradeScope": { "type": "total", "versionNumbers": ["1.0", "2.0"] } }));
    assert_eq!(rollouts.tasks_of(&format!("jobId='{job_id}'")), ["old"]);
    let (code, message) = rollouts.job_refused(json!({ "upgradeScope": { "type": "total", "versionNumbers": ["2.0"] } }));
    assert!(code == 24_400 && message.contains("versionNumbers names only \"2.0\""), "{code} {message}");
}

#[test]
fn a_schedule_that_has_not_begun_holds_its_devices() {
    let rollouts = Rollouts::start();
    rollouts.put_device("a", "1.0");
    let far = 4_102_444_800_000_u64;
    rollouts.job(json!({ "schedulePolicy": { "startTimestamp": far, "endTimestamp": far + 3_600_000 } }));
    assert_eq!(rollouts.device("a").refused(rollouts.server()), "schedule");
}

#[test]
fn an_upgrade_has_no_deadline_before_it_runs_and_a_verification_has_one_at_once() {
    let rollouts = Rollouts::start();
    rollouts.put_device("a", "1.0");
    rollouts.put_device("b", "1.0");
    rollouts.job(json!({ "upgradeScope": { "type": "partial", "versionNumbers": ["1.0"], "deviceKeys": ["a"] } }));
    let device = rollouts.device("a");
    let offer = device.offered(rollouts.server());
    assert!(offer["deadline"].is_null(), "{offer}");
    device.report(rollouts.server(), &offer["id"], "downloading").expect(200);
    assert!(!device.offered(rollouts.server())["deadline"].is_null(), "it is upgrading now");
    let verification =
        json!({ "type": "verify", "upgradeScope": { "type": "partial", "versionNumbers": ["1.0"], "deviceKeys": ["b"] } });
    data(&rollouts.create(&rollouts.firmware_id, &verification));
    let offer = rollouts.device("b").offered(rollouts.server());
    assert!(!offer["deadline"].is_null(), "{offer}");
}

#[test]
fn another_organizations_firmware_and_jobs_are_24404() {
    let rollouts = Rollouts::start();
    let theirs = rollouts.platform.native_token(json!({ "role": "operator", "organization": "theirs" }));
    let native = rollouts.server().anonymous().with_token(&theirs);
    let image = crate::common::fleet::upload(&native, b"theirs")["image"].as_str().unwrap().to_owned();
    let firmware = crate::common::fleet::create_firmware(&native, "their-product", "1.0", &image);
    let task = json!({
        "product_id": "their-product", "type": 1, "identify": 0, "firmware_id": firmware["id"], "from_versions": ["0.9"],
    });
    let job_id = native.post("/api/v1/tasks", &task).expect(201).json()["id"].as_str().unwrap().to_owned();
    let created = rollouts.create(firmware["id"].as_str().unwrap(), &for_all(json!({})));
    assert_eq!(refused(&created), (24_404, "Firmware not found".to_owned()));
    for action in ["get", "start", "stop", "delete", "cancelTask", "retryTask"] {
        let answered = rollouts.on_job(action, &job_id, &json!({ "deviceKeys": ["a"] }));
        assert_eq!(refused(&answered), (24_404, "Job not found".to_owned()), "{action}");
    }
    assert!(rollouts.search("search", "").is_empty() && rollouts.search("searchTask", "").is_empty());
}
