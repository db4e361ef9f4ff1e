//! EnOS jobs: the platform's examples as they stand, a job's whole life, and each code that a job is refused with.

use crate::common::server::Setup;
use crate::enos_support::{ORGANIZATION, PRODUCT, Platform, code, data, envelope, job_body, message, path};
use serde_json::{Value, json};

/// Devices `d1` and `d2` at 1.0, and firmware 2.0 to upgrade to.
fn fleet() -> (Platform, String) {
    let platform = Platform::start();
    let firmware_id = platform.create_firmware("2.0", json!({}));
    for device in ["d1", "d2"] {
        platform.put_device(device, "1.0", json!({}));
    }
    (platform, firmware_id)
}

/// The tasks of a job as `device: status`.
#[track_caller]
fn statuses(platform: &Platform, job_id: &str) -> Vec<String> {
    let mut rows: Vec<String> = platform
        .search_all("ota-jobs", "searchTask", &format!("jobId='{job_id}'"))
        .iter()
        .map(|task| format!("{}: {}", task["deviceKey"].as_str().unwrap(), task["status"].as_str().unwrap()))
        .collect();
    rows.sort();
    rows
}

#[test]
fn enos_the_platforms_example_of_creating_a_job_as_it_stands() {
    let (platform, firmware_id) = fleet();
    for device in ["deviceKey1", "deviceKey2"] {
        platform.put_device(device, "1.0", json!({}));
    }
    let body = r#"{
    "name":{
        "defaultValue":"ota-job-test",
        "i18nValue":{

        }
    },
    "type":"upgrade",
    "upgradePolicy":"snapshot",
    "upgradeScope":{
        "type":"partial",
        "versionNumbers":[
            "1.0"
        ],
        "deviceKeys":[
            "deviceKey1",
            "deviceKey2"
        ]
    },
    "startSchedule":0,
    "endSchedule":86399,
    "enableUpgradeRequest":true
}"#;
    let operator = platform.native_token(json!({ "role": "operator" }));
    let url = format!("/connect-service/v2.1/ota-jobs?action=create&orgId={ORGANIZATION}&firmwareId={firmware_id}");
    let client = platform.server.anonymous();
    let request = client.request("POST", &url).header("apim-accesstoken", &operator).header("Content-Type", "application/json");
    let answer = envelope(&request.body(body.as_bytes()).send());
    assert!(answer.get("pagination").is_none(), "{answer}");
    let job_id = answer["data"]["jobId"].as_str().unwrap();
    assert_eq!(job_id.len(), 24);
    assert_eq!(statuses(&platform, job_id), ["deviceKey1: init", "deviceKey2: init"]);
    assert!(platform.check("deviceKey1", "1.0")["upgrade"].is_object(), "a job is born started");
}

#[test]
fn enos_the_platforms_example_of_searching_devices_as_it_stands() {
    let (platform, firmware_id) = fleet();
    platform.put_device("d3", "7777", json!({}));
    platform.create_job(&firmware_id, json!({}));
    assert!(platform.check("d2", "1.0")["upgrade"].is_object());
    let body = format!(r#"{{ "expression": "productKey='{PRODUCT}'", "pagination": {{ "pageNo": 1, "pageSize": 5 }} }}"#);
    let operator = platform.native_token(json!({ "role": "operator" }));
    let url = path("ota-firmwares", &[("action", "searchDeviceUpgrade"), ("orgId", ORGANIZATION)]);
    let client = platform.server.anonymous();
    let request = client.request("POST", &url).header("apim-accesstoken", &operator);
    let answer = envelope(&request.body(body.as_bytes()).send());
    assert_eq!(answer["pagination"], json!({ "sortedBy": null, "pageNo": 1, "pageSize": 5, "totalSize": 3 }));
    let mut rows = answer["data"].as_array().unwrap().clone();
    rows.sort_by_key(|row| row["deviceKey"].to_string());
    let row = |key: &str, version: &str, is_upgrading: bool| {
        json!({
            "orgId": ORGANIZATION, "assetId": key, "productKey": PRODUCT, "deviceKey": key,
            "firmwareVersion": version, "isUpgrading": is_upgrading,
        })
    };
    assert_eq!(rows, [row("d1", "1.0", false), row("d2", "1.0", true), row("d3", "7777", false)]);
    for (expression, found) in [
        ("isUpgrading = true", 1),
        ("isUpgrading=False AND firmwareVersion in (\"1.0\", '7777')", 2),
        ("firmwareVersion = '1.0' and productKey in [\"8UhOTwV5\"]", 2),
        ("productKey = 'another'", 0),
    ] {
        assert_eq!(platform.search_all("ota-firmwares", "searchDeviceUpgrade", expression).len(), found, "{expression}");
    }
}

#[test]
fn enos_a_job_and_its_tasks_from_creation_to_success() {
    let (platform, firmware_id) = fleet();
    let job_id = platform.create_job(&firmware_id, json!({ "upgradeTimeout": "600", "maximumConcurrency": "1" }));
    let job = data(&platform.jobs("get", &[("jobId", &job_id)], &json!({})));
    for (field, value) in [
        ("orgId", json!(ORGANIZATION)),
        ("productKey", json!(PRODUCT)),
        ("jobId", json!(job_id)),
        ("name", json!({ "defaultValue": "ota-job-test", "i18nValue": {} })),
        ("firmwareId", json!(firmware_id)),
        ("firmwareVersion", json!("2.0")),
        ("type", json!("upgrade")),
        ("enableUpgradeRequest", json!(true)),
        ("upgradePolicy", json!("snapshot")),
        ("upgradeTimeout", json!(600)),
        ("maximumConcurrency", json!(1)),
        ("status", json!("started")),
    ] {
        assert_eq!(job[field], value, "{field} of {job}");
    }
    let offer = platform.check("d1", "1.0")["upgrade"].clone();
    assert!(offer.is_object() && platform.check("d2", "1.0")["upgrade"].is_null(), "one at a time");
    assert_eq!(statuses(&platform, &job_id), ["d1: published", "d2: init"]);
    platform.report("d1", &offer["id"], "downloading");
    assert_eq!(statuses(&platform, &job_id), ["d1: upgrading", "d2: init"]);
    platform.report("d1", &offer["id"], "succeeded");
    assert_eq!(statuses(&platform, &job_id), ["d1: succeeded", "d2: init"]);
    let task = platform.search_all("ota-jobs", "searchTask", &format!("jobId='{job_id}' and status='succeeded'"));
    for (field, value) in [
        ("deviceKey", json!("d1")),
        ("jobId", json!(job_id)),
        ("fromVersion", json!("1.0")),
        ("toVersion", json!("2.0")),
        ("progress", json!(100)),
        ("orgId", json!(ORGANIZATION)),
        ("productKey", json!(PRODUCT)),
    ] {
        assert_eq!(task[0][field], value, "{field} of {}", task[0]);
    }
    assert_eq!(platform.search_all("ota-jobs", "search", "status='started' and firmwareVersion='2.0'").len(), 1);
}

#[test]
fn enos_jobs_are_born_stopped_where_the_operator_says_so() {
    let platform = Platform::on(Setup::default().config("[enos]\njobs_start = false\n").start());
    let firmware_id = platform.create_firmware("2.0", json!({}));
    platform.put_device("d1", "1.0", json!({}));
    let job_id = platform.create_job(&firmware_id, json!({}));
    assert_eq!(data(&platform.jobs("get", &[("jobId", &job_id)], &json!({})))["status"], "stopped");
    assert!(platform.check("d1", "1.0")["upgrade"].is_null());
    assert_eq!(data(&platform.jobs("start", &[("jobId", &job_id)], &json!({}))), json!(null));
    assert!(platform.check("d1", "1.0")["upgrade"].is_object());
}

#[test]
fn enos_24404_firmware_or_a_job_that_is_not_there() {
    let (platform, _) = fleet();
    for id in ["5ee1a91029b990001b9c188e", "nonsense"] {
        let response = platform.jobs("create", &[("firmwareId", id)], &job_body(json!({})));
        assert_eq!((code(&response), message(&response).as_str()), (24_404, "Firmware not found"));
        for action in ["get", "start", "stop", "delete"] {
            assert_eq!(code(&platform.jobs(action, &[("jobId", id)], &json!({}))), 24_404, "{action}");
        }
        for action in ["cancelTask", "retryTask"] {
            assert_eq!(code(&platform.jobs(action, &[("jobId", id)], &json!({ "deviceKeys": ["d1"] }))), 24_404, "{action}");
        }
    }
}

fn verify(changes: Value) -> Value {
    let mut body = json!({
        "type": "verify", "upgradeScope": { "type": "partial", "versionNumbers": ["1.0"], "deviceKeys": ["d1"] },
    });
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    body
}

#[test]
fn enos_24610_an_upgrade_to_firmware_that_is_not_verified_and_what_verifies_it() {
    let platform = Platform::start();
    platform.put_device("d1", "1.0", json!({}));
    let firmware_id = platform.create_firmware("2.0", json!({ "enableVerification": true }));
    let create = |body: &Value| platform.jobs("create", &[("firmwareId", &firmware_id)], body);
    let refused = create(&job_body(json!({})));
    assert_eq!(code(&refused), 24_610);
    assert_eq!(message(&refused), "Not allowed to create job as firmware is not verified while enable verification is switched on");
    data(&create(&verify(json!({}))));
    assert_eq!(code(&create(&job_body(json!({})))), 24_610, "a verification that hasn't succeeded yet");
    let offer = platform.check("d1", "1.0")["upgrade"].clone();
    platform.report("d1", &offer["id"], "succeeded");
    let firmware = data(&platform.firmware("get", &[("firmwareId", &firmware_id)], &json!({})));
    assert_eq!(firmware["isVerified"], true, "{firmware}");
    data(&create(&job_body(json!({}))));
}

#[test]
fn enos_24611_a_verification_of_all_devices() {
    let (platform, firmware_id) = fleet();
    let body = verify(json!({ "upgradeScope": { "type": "total", "versionNumbers": ["1.0"] } }));
    let refused = platform.jobs("create", &[("firmwareId", &firmware_id)], &body);
    assert_eq!(code(&refused), 24_611);
    assert_eq!(message(&refused), "upgradeScope type total is not allowed for verification task");
}

#[test]
fn enos_24612_a_verification_of_more_devices_than_allowed() {
    let platform = Platform::start();
    let usual = platform.create_firmware("2.0", json!({ "enableVerification": true }));
    let told = platform.create_firmware("2.1", json!({ "enableVerification": true, "maxAllowedForVerification": 2 }));
    for (firmware_id, max) in [(usual, 5), (told, 2)] {
        let create = |count: usize| {
            let keys: Vec<String> = (0..count).map(|number| format!("d{number}")).collect();
            let scope = json!({ "type": "partial", "versionNumbers": ["1.0"], "deviceKeys": keys });
            platform.jobs("create", &[("firmwareId", &firmware_id)], &verify(json!({ "upgradeScope": scope })))
        };
        let refused = create(max + 1);
        assert_eq!(code(&refused), 24_612);
        assert_eq!(message(&refused), format!("Exceeded max verification deviceKeys, max[{max}]"));
        data(&create(max));
    }
}

#[test]
fn enos_24615_to_24618_a_job_that_is_in_the_other_state() {
    let (platform, firmware_id) = fleet();
    let job_id = platform.create_job(&firmware_id, json!({}));
    let job = [("jobId", job_id.as_str())];
    let act = |action: &str| platform.jobs(action, &job, &json!({ "deviceKeys": ["d1"] }));
    assert_eq!(code(&act("start")), 24_615, "it has started");
    assert_eq!(code(&act("delete")), 24_618, "it runs");
    assert_eq!(data(&act("stop")), json!(null));
    assert_eq!(code(&act("stop")), 24_616, "it has stopped");
    assert_eq!(code(&act("cancelTask")), 24_617, "it doesn't run");
    assert_eq!(code(&act("retryTask")), 24_617, "it doesn't run");
    assert_eq!(data(&act("delete")), json!(null));
    assert_eq!(code(&act("get")), 24_404);
}

#[test]
fn enos_24620_a_task_that_has_begun_is_not_canceled() {
    let (platform, firmware_id) = fleet();
    let job_id = platform.create_job(&firmware_id, json!({}));
    let cancel = |keys: Value| platform.jobs("cancelTask", &[("jobId", &job_id)], &json!({ "deviceKeys": keys }));
    let offer = platform.check("d1", "1.0")["upgrade"].clone();
    platform.report("d1", &offer["id"], "downloading");
    let refused = cancel(json!(["d2", "d1"]));
    assert_eq!((code(&refused), message(&refused).as_str()), (24_620, "Only init or published tasks can be canceled"));
    assert_eq!(statuses(&platform, &job_id), ["d1: upgrading", "d2: init"], "all or none");
    assert_eq!(data(&cancel(json!(["d2"]))), json!(null));
    assert_eq!(statuses(&platform, &job_id), ["d1: upgrading", "d2: failed"]);
    assert_eq!(code(&cancel(json!([]))), 24_400);
}

#[test]
fn enos_24621_a_task_that_has_not_failed_is_not_retried() {
    let (platform, firmware_id) = fleet();
    let job_id = platform.create_job(&firmware_id, json!({}));
    let retry = || platform.jobs("retryTask", &[("jobId", &job_id)], &json!({ "deviceKeys": ["d1"] }));
    let refused = retry();
    assert_eq!((code(&refused), message(&refused).as_str()), (24_621, "Only failed tasks can be retried"));
    let offer = platform.check("d1", "1.0")["upgrade"].clone();
    platform.report("d1", &offer["id"], "failed");
    assert_eq!(statuses(&platform, &job_id), ["d1: failed", "d2: init"]);
    assert_eq!(data(&retry()), json!(null));
    assert_eq!(statuses(&platform, &job_id), ["d1: init", "d2: init"]);
}

#[test]
fn enos_24400_each_range_and_rule_of_a_job() {
    let (platform, firmware_id) = fleet();
    let scope = |changes: Value| {
        let mut scope = json!({ "type": "partial", "versionNumbers": ["1.0"] });
        scope.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json!({ "upgradeScope": scope })
    };
    let tree = json!({ "treeId": "t" });
    for changes in [
        json!({ "type": null }),
        json!({ "type": "downgrade" }),
        json!({ "upgradePolicy": null }),
        json!({ "upgradePolicy": "sometimes" }),
        json!({ "upgradeScope": null }),
        json!({ "enableUpgradeRequest": null }),
        json!({ "enableUpgradeRequest": "perhaps" }),
        json!({ "upgradeTimeout": 299 }),
        json!({ "upgradeTimeout": 172_801 }),
        json!({ "retryPolicy": { "enableRetry": true } }),
        json!({ "retryPolicy": { "enableRetry": true, "retryInterval": 0 } }),
        json!({ "retryPolicy": { "enableRetry": true, "retryInterval": 86_401, "retryCount": 1 } }),
        json!({ "retryPolicy": { "enableRetry": true, "retryInterval": -1, "retryCount": 1 } }),
        json!({ "retryPolicy": { "enableRetry": true, "retryInterval": 1, "retryCount": 0 } }),
        json!({ "retryPolicy": { "enableRetry": true, "retryInterval": 1, "retryCount": 6 } }),
        json!({ "schedulePolicy": { "startTimestamp": 1_600_000_000_000_u64 } }),
        json!({ "schedulePolicy": { "endTimestamp": 1_600_000_000_000_u64 } }),
        json!({ "schedulePolicy": { "startTimestamp": 1_600_000_000_001_u64, "endTimestamp": 1_600_000_000_000_u64 } }),
        json!({ "schedulePolicy": { "isRepeatDaily": true, "startTimestamp": 1_600_000_000_000_u64, "endTimestamp": 1_600_090_000_000_u64 } }),
        json!({ "startSchedule": 86_400, "endSchedule": 86_400 }),
        json!({ "maximumConcurrency": 0 }),
        json!({ "maximumConcurrency": "many" }),
        scope(json!({})),
        scope(json!({ "type": "some" })),
        scope(json!({ "type": null, "deviceKeys": ["d1"] })),
        scope(json!({ "versionNumbers": [], "deviceKeys": ["d1"] })),
        scope(json!({ "versionNumbers": null, "deviceKeys": ["d1"] })),
        scope(json!({ "deviceKeys": [] })),
        scope(json!({ "deviceKeys": ["d1"], "tags": { "a": ["b"] } })),
        scope(json!({ "type": "total", "deviceKeys": ["d1"] })),
        scope(json!({ "devicekeys": ["d1"] })),
        scope(json!({ "assetTrees": [tree, tree, tree, tree, tree, tree] })),
        scope(json!({ "assetTrees": [{ "includedNodes": ["n"] }] })),
        scope(json!({ "tags": { "a": [] } })),
        json!({ "deviceKeys": ["d1"] }),
    ] {
        let response = platform.jobs("create", &[("firmwareId", &firmware_id)], &job_body(changes.clone()));
        assert_eq!(code(&response), 24_400, "{changes}");
        assert!(message(&response).len() > 20, "{changes}: {}", message(&response));
    }
    for scope in
        [json!({ "tags": { "a": ["b"] } }), json!({ "attributes": { "a": [1] } }), json!({ "assetTrees": { "treeId": "t" } })]
    {
        let mut body = verify(json!({}));
        body["upgradeScope"].as_object_mut().unwrap().remove("deviceKeys");
        body["upgradeScope"].as_object_mut().unwrap().extend(scope.as_object().unwrap().clone());
        assert_eq!(code(&platform.jobs("create", &[("firmwareId", &firmware_id)], &body)), 24_400, "a verification by {scope}");
    }
    assert_eq!(code(&platform.jobs("create", &[], &job_body(json!({})))), 24_400, "no firmwareId");
    assert_eq!(data(&platform.jobs("search", &[], &json!({}))), json!([]), "nothing half kept");
}

#[test]
fn enos_every_kind_of_scope_finds_its_devices() {
    let platform = Platform::start();
    let firmware_id = platform.create_firmware("2.0", json!({}));
    let details = [
        ("a", json!({ "attributes": { "zone": 7 }, "tags": { "line": "x" }, "asset_nodes": ["site/hall/rack"] })),
        ("b", json!({ "attributes": { "zone": "8" }, "tags": { "line": "y" }, "asset_nodes": ["site/yard"] })),
        ("c", json!({ "asset_nodes": ["site"] })),
    ];
    for (device, details) in details {
        platform.put_device(device, "1.0", details);
    }
    platform.put_device("at-another-version", "1.5", json!({ "tags": { "line": "x" } }));
    for (selector, expected) in [
        (json!({ "type": "total" }), vec!["a", "b", "c"]),
        (json!({ "type": "partial", "deviceKeys": ["a", "c", "nobody", "a"] }), vec!["a", "c"]),
        (json!({ "type": "partial", "tags": { "line": ["x", "z"] } }), vec!["a"]),
        (json!({ "type": "partial", "attributes": { "zone": [7, 8] } }), vec!["a"]),
        (json!({ "type": "partial", "attributes": { "zone": [7, "8"] } }), vec!["a", "b"]),
        (json!({ "type": "partial", "assetTrees": { "treeId": "site" } }), vec!["a", "b", "c"]),
        (json!({ "type": "partial", "assetTrees": [{ "treeId": "site", "includedNodes": ["hall"] }] }), vec!["a"]),
        (json!({ "type": "partial", "assetTrees": [{ "treeId": "site", "includedNotes": ["yard"] }] }), vec!["b"]),
    ] {
        let mut scope = selector.clone();
        scope["versionNumbers"] = json!(["1.0"]);
        for policy in ["snapshot", "incremental", "upgrade"] {
            let job_id = platform.create_job(&firmware_id, json!({ "upgradeScope": scope, "upgradePolicy": policy }));
            let tasks = platform.search_all("ota-jobs", "searchTask", &format!("jobId='{job_id}'"));
            let mut found: Vec<&str> = tasks.iter().map(|task| task["deviceKey"].as_str().unwrap()).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{selector} {policy}");
        }
    }
}
