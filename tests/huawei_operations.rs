//! Upgrade tasks to their end, with devices that check and report as devices do; packages; lists.

use crate::common::wait_until;
use crate::huawei_support::{FIRMWARE, PRODUCT, Platform, SOFTWARE, assert_refused, time};
use serde_json::{Value, json};

/// The device ids of some rows.
fn ids(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["deviceId"].as_str().unwrap()).collect()
}

#[track_caller]
fn assert_result(operation: &Value, status: &str, counts: Value) {
    assert_eq!(operation["status"], status, "{operation}");
    let mut expected = json!({ "total": 0, "wait": 0, "processing": 0, "success": 0, "fail": 0, "stop": 0, "timeout": 0 });
    expected.as_object_mut().unwrap().extend(counts.as_object().unwrap().clone());
    assert_eq!(operation["staResult"], expected, "{operation}");
}

#[test]
fn a_task_by_devices_goes_to_its_end() {
    let platform = Platform::start();
    for device in ["d1", "d2", "d3"] {
        platform.put_device(device, "1.0", json!({}));
    }
    platform.put_device("bystander", "1.0", json!({}));
    let file_id = platform.upload("2.0", "");
    let id = platform.create(&file_id, json!({ "devices": ["d1", "d2", "d3", "d1"] }), json!(null));

    let operation = platform.operation(&id);
    assert_result(&operation, "wait", json!({ "total": 3, "wait": 3 }));
    assert_eq!(operation["operateType"], "software_upgrade");
    assert_eq!(operation["targets"]["devices"], json!(["d1", "d2", "d3"]));
    assert!(operation["targets"]["deviceGroups"].is_null());
    let policy = json!({ "executeType": "now", "startTime": null, "endTime": null, "retryType": false, "retryTimes": null });
    assert_eq!(operation["policy"], policy);
    assert!(operation["startTime"].is_null() && operation["stopTime"].is_null());
    assert_eq!(operation["extendPara"], json!({ "fileId": file_id, "fileVersion": "2.0" }));

    let upgrade = platform.offered("d1");
    platform.report("d1", &upgrade, "downloading");
    assert_result(&platform.operation(&id), "processing", json!({ "total": 3, "wait": 2, "processing": 1 }));
    let row = platform.sub_operation(&id, "d1");
    assert_eq!((row["status"].as_str(), row["operateType"].as_str()), (Some("processing"), Some("software_upgrade")));
    assert_eq!(row["extendInfo"]["fromVersion"], "1.0");
    assert_eq!(platform.check("bystander", "1.0")["reason"], "no_task");

    platform.report("d1", &upgrade, "succeeded");
    platform.upgrade("d2", "succeeded");
    platform.upgrade("d3", "succeeded");
    let operation = platform.operation(&id);
    assert_result(&operation, "success", json!({ "total": 3, "success": 3 }));
    assert!(operation["startTime"].is_string() && operation["stopTime"].is_string(), "{operation}");
    assert_eq!(ids(&platform.sub_operations(&id, Some("success"))), ["d1", "d2", "d3"]);
    assert_eq!(platform.sub_operations(&id, Some("fail")).len(), 0);
    assert_eq!(platform.check("d1", "2.0")["reason"], "up_to_date");
}

#[test]
fn a_task_by_groups_goes_to_its_end() {
    let platform = Platform::start();
    for (device, details) in [
        ("g1", json!({ "groups": ["hall 1"] })),
        ("g2", json!({ "groups": ["hall 2", "hall 1"] })),
        // What it leaves unsaid, its product says for it.
        ("unsaid", json!({ "groups": ["hall 2"], "device_type": null, "model": null, "manufacturer": null })),
        ("other-model", json!({ "groups": ["hall 1"], "model": "L2" })),
        ("elsewhere", json!({ "groups": ["hall 3"] })),
    ] {
        platform.put_device(device, "1.0", details);
    }
    platform.put_device("older", "0.9", json!({ "groups": ["hall 2"] }));
    let targets = json!({ "deviceGroups": ["hall 1", "hall 2"], "deviceType": "Lock", "model": "L1", "manufacturerName": "Acme" });
    let body = json!({ "fileId": platform.upload("2.0", "&fileType=firmwarePackage"), "targets": targets });
    let id = platform.post(FIRMWARE, &body).expect(200).json()["operationId"].as_str().unwrap().to_owned();

    let operation = platform.operation(&id);
    assert_result(&operation, "wait", json!({ "total": 4, "wait": 4 }));
    assert_eq!(operation["operateType"], "firmware_upgrade");
    assert_eq!(operation["targets"]["deviceGroups"], targets["deviceGroups"]);
    assert_eq!(operation["targets"]["manufacturerName"], "Acme");
    assert!(operation["targets"]["devices"].is_null());
    for bystander in ["other-model", "elsewhere"] {
        assert_eq!(platform.check(bystander, "1.0")["reason"], "no_task", "{bystander}");
    }
    for device in ["g1", "g2", "unsaid"] {
        platform.upgrade(device, "succeeded");
    }
    let older = platform.check("older", "0.9")["upgrade"]["id"].clone();
    platform.report("older", &older, "rejected");
    assert_result(&platform.operation(&id), "failed", json!({ "total": 4, "success": 3, "fail": 1 }));
    let rejected = platform.sub_operations(&id, Some("fail"));
    assert_eq!(ids(&rejected), ["older"]);
    assert_eq!(rejected[0]["extendInfo"]["state"], "rejected");
}

#[test]
fn a_failed_device_tries_again_as_often_as_it_may_and_then_fails() {
    let platform = Platform::with_config("[huawei]\ncalls_per_minute = 0\nretry_interval_s = 0\n");
    platform.put_device("d1", "1.0", json!({}));
    platform.put_device("d2", "1.0", json!({}));
    let policy = json!({ "executeType": "now", "retryType": true, "retryTimes": 2 });
    let id = platform.create(&platform.upload("2.0", ""), json!({ "devices": ["d1", "d2"] }), policy);
    assert_eq!(platform.operation(&id)["policy"]["retryTimes"], 2);
    for attempt in 1..=2 {
        platform.upgrade("d1", "failed");
        let row = platform.sub_operation(&id, "d1");
        assert_eq!((row["status"].as_str(), row["extendInfo"]["attempts"].as_u64()), (Some("processing"), Some(attempt)), "{row}");
    }
    platform.upgrade("d2", "failed");
    platform.upgrade("d2", "succeeded");
    platform.upgrade("d1", "failed");
    assert_eq!(platform.sub_operation(&id, "d1")["status"], "fail");
    assert_result(&platform.operation(&id), "failed", json!({ "total": 2, "success": 1, "fail": 1 }));
    assert_eq!(platform.check("d1", "1.0")["upgrade"], json!(null));
}

#[test]
fn a_device_that_falls_silent_is_counted_as_timed_out() {
    let platform = Platform::with_config("[huawei]\ncalls_per_minute = 0\n[limits]\ndefault_timeout_s = 1\n");
    platform.put_device("d1", "1.0", json!({}));
    let id = platform.create(&platform.upload("2.0", ""), json!({ "devices": ["d1"] }), json!({ "executeType": "now" }));
    platform.offered("d1");
    wait_until("the deadline has passed", || (platform.operation(&id)["status"] == "failed").then_some(()));
    assert_result(&platform.operation(&id), "failed", json!({ "total": 1, "timeout": 1 }));
    let rows = platform.sub_operations(&id, Some("fail"));
    assert_eq!(ids(&rows), ["d1"]);
    assert!(rows[0]["detailInfo"].is_string(), "{}", rows[0]);
}

#[test]
fn device_online_is_due_when_the_device_next_connects() {
    let platform = Platform::start();
    platform.put_device("d1", "1.0", json!({}));
    let policy = json!({ "executeType": "device_online", "startTime": "not looked at", "retryType": false, "retryTimes": 99 });
    let id = platform.create(&platform.upload("2.0", ""), json!({ "devices": ["d1"] }), policy);
    let operation = platform.operation(&id);
    assert_result(&operation, "wait", json!({ "total": 1, "wait": 1 }));
    assert_eq!((&operation["policy"]["executeType"], &operation["policy"]["startTime"]), (&json!("device_online"), &json!(null)));
    platform.upgrade("d1", "succeeded");
    assert_result(&platform.operation(&id), "success", json!({ "total": 1, "success": 1 }));
}

#[test]
fn custom_opens_at_its_start_and_not_before() {
    let platform = Platform::start();
    platform.put_device("d1", "1.0", json!({}));
    let file_id = platform.upload("2.0", "");
    let (start, end) = (time(3_600), time(7_200));
    let policy = json!({ "executeType": "custom", "startTime": start, "endTime": end });
    let later = platform.create(&file_id, json!({ "devices": ["d1"] }), policy);
    let told = platform.check("d1", "1.0");
    assert_eq!((&told["upgrade"], &told["reason"]), (&json!(null), &json!("schedule")));
    let operation = platform.operation(&later);
    assert_result(&operation, "wait", json!({ "total": 1, "wait": 1 }));
    assert_eq!((&operation["policy"]["startTime"], &operation["policy"]["endTime"]), (&json!(start), &json!(end)));

    // The newest task decides; this one opens within moments.
    let policy = json!({ "executeType": "custom", "startTime": time(2), "endTime": time(3_600) });
    let soon = platform.create(&file_id, json!({ "devices": ["d1"] }), policy);
    let upgrade =
        wait_until("the window opens", || Some(platform.check("d1", "1.0")["upgrade"]["id"].clone()).filter(Value::is_string));
    platform.report("d1", &upgrade, "succeeded");
    assert_result(&platform.operation(&soon), "success", json!({ "total": 1, "success": 1 }));
}

#[test]
fn a_cancelled_operation_takes_back_what_runs_and_what_waits() {
    let platform = Platform::start();
    for device in ["done", "runs", "waits"] {
        platform.put_device(device, "1.0", json!({}));
    }
    let id = platform.create(&platform.upload("2.0", ""), json!({ "devices": ["done", "runs", "waits"] }), json!(null));
    platform.upgrade("done", "succeeded");
    let upgrade = platform.offered("runs");
    for _ in 0..2 {
        let cancelled = platform.post(&format!("/operations/{id}/cancel"), &json!({})).expect(200).json();
        assert_result(&cancelled, "stop", json!({ "total": 3, "success": 1, "stop": 2 }));
        assert!(cancelled["stopTime"].is_string());
    }
    platform.report("runs", &upgrade, "succeeded");
    assert_result(&platform.operation(&id), "stop", json!({ "total": 3, "success": 1, "stop": 2 }));
    assert_eq!(platform.check("waits", "1.0")["upgrade"], json!(null));
    assert_eq!(ids(&platform.sub_operations(&id, Some("stop"))), ["runs", "waits"]);
}

#[test]
fn a_cap_of_ours_holds() {
    let platform = Platform::start();
    platform.put_device("d1", "1.0", json!({}));
    platform.put_device("d2", "1.0", json!({}));
    let body = json!({
        "fileId": platform.upload("2.0", ""), "targets": { "devices": ["d1", "d2"] }, "maximum_concurrency": 1,
    });
    platform.post(SOFTWARE, &body).expect(200);
    let upgrade = platform.offered("d1");
    assert_eq!(platform.check("d2", "1.0")["reason"], "cap");
    platform.report("d1", &upgrade, "succeeded");
    platform.offered("d2");
}

#[test]
fn operations_are_listed_by_everything_that_the_platform_filters_by() {
    let platform = Platform::start();
    platform.put_device("d1", "1.0", json!({}));
    platform.put_device("d2", "1.0", json!({}));
    let software = platform.upload("2.0", "");
    let firmware = platform.upload("3.0", "&fileType=firmwarePackage");
    let first = platform.create(&software, json!({ "devices": ["d1"] }), json!(null));
    platform.upgrade("d1", "succeeded");
    let body = json!({ "fileId": firmware, "targets": { "devices": ["d1", "d2"] } });
    // d1 runs 1.0 still, as far as is known, since it reported a success and no version.
    let second = platform.post(FIRMWARE, &body).expect(200).json()["operationId"].as_str().unwrap().to_owned();
    let listed = |query: &str| -> Vec<String> {
        let page = platform.get(&format!("/operations?&{query}")).expect(200).json();
        let rows = page["data"].as_array().unwrap();
        assert_eq!(page["totalCount"], rows.len(), "{page}");
        rows.iter().map(|row| row["operationId"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(""), [second.as_str(), &first], "newest first");
    assert_eq!(listed("operationType=software_upgrade"), [first.as_str()]);
    assert_eq!(listed("operationType=firmware_upgrade"), [second.as_str()]);
    assert_eq!(listed("operationStatus=success"), [first.as_str()]);
    assert_eq!(listed("operationStatus=wait"), [second.as_str()]);
    assert_eq!(listed("operationStatus=failed").len(), 0);
    assert_eq!(listed("deviceId=d2"), [second.as_str()]);
    assert_eq!(listed("deviceId=d1").len(), 2);
    assert_eq!(listed("deviceId=nobody").len(), 0);
    assert_eq!(listed("deviceType=Lock&model=L1&manufacturerName=Acme").len(), 2);
    assert_eq!(listed("model=L2").len(), 0);
    let page = platform.get("/operations?pageNo=1&pageSize=1").expect(200).json();
    assert_eq!((&page["pageNo"], &page["pageSize"], &page["totalCount"]), (&json!(1), &json!(1), &json!(2)));
    assert_eq!(page["data"][0]["operationId"], first);
    assert_eq!(page["data"].as_array().unwrap().len(), 1);
    // A task that was made natively is an operation, too.
    let native = platform.server.admin().get(&format!("/api/v1/tasks/{second}")).expect(200).json();
    assert_eq!(native["status"], "started");
}

#[test]
fn sub_operations_come_in_pages_from_0() {
    let platform = Platform::start();
    let devices: Vec<String> = (0..25).map(|number| format!("d{number:02}")).collect();
    for device in &devices {
        platform.put_device(device, "1.0", json!({}));
    }
    let id = platform.create(&platform.upload("2.0", ""), json!({ "devices": devices }), json!(null));
    let mut seen = Vec::new();
    for page_no in 0..3 {
        let page =
            platform.get(&format!("/operations/{id}/subOperations?&subOperationStatus=wait&pageNo={page_no}")).expect(200).json();
        assert_eq!((&page["pageNo"], &page["pageSize"], &page["totalCount"]), (&json!(page_no), &json!(10), &json!(25)));
        seen.extend(ids(page["data"].as_array().unwrap()).into_iter().map(str::to_owned));
    }
    assert_eq!(seen, devices);
    let beyond = platform.get(&format!("/operations/{id}/subOperations?pageNo=3")).expect(200).json();
    assert_eq!(beyond["data"], json!([]));
    let wrong = platform.get(&format!("/operations/{id}/subOperations?subOperationStatus=failed"));
    assert_refused(&wrong, 400, "120015", "Bad request error.");
}

#[test]
fn packages_are_uploaded_listed_shown_and_deleted() {
    let platform = Platform::start();
    let first = platform.upload("2.0", "&name=lock%20image&description=better&protocolType=CoAP");
    let second = platform.upload("3.0", "&fileType=firmwarePackage&model=ignored");
    let shown = platform.get(&format!("/category/{first}")).expect(200).json();
    for (field, value) in [
        ("fileId", first.as_str()),
        ("name", "lock image"),
        ("version", "2.0"),
        ("fileType", "softwarePackage"),
        ("deviceType", "Lock"),
        ("model", "L1"),
        ("manufacturerName", "Acme"),
        ("protocolType", "CoAP"),
        ("description", "better"),
        ("productId", PRODUCT),
    ] {
        assert_eq!(shown[field], value, "{shown}");
    }
    let upload_time = shown["uploadTime"].as_str().unwrap();
    assert!(upload_time.len() == 16 && upload_time.ends_with('Z'), "{upload_time}");
    let listed = |query: &str| -> Vec<Value> {
        let page = platform.get(&format!("/category?{query}")).expect(200).json();
        page["data"].as_array().unwrap().iter().map(|row| row["fileId"].clone()).collect()
    };
    assert_eq!(listed(""), [json!(second), json!(first)]);
    assert_eq!(listed("fileType=softwarePackage&deviceType=Lock&model=L1&manufacturerName=Acme&version=2.0"), [json!(first)]);
    assert_eq!(listed("fileType=firmwarePackage"), [json!(second)]);
    assert_eq!(listed("version=9").len(), 0);

    platform.put_device("d1", "1.0", json!({}));
    let id = platform.create(&first, json!({ "devices": ["d1"] }), json!(null));
    assert_refused(&platform.delete(&format!("/category/{first}")), 400, "120015", "Bad request error.");
    assert_eq!(platform.operation(&id)["extendPara"]["fileVersion"], "2.0");
    platform.delete(&format!("/category/{second}")).expect(204);
    assert_eq!(platform.get(&format!("/category/{second}")).status, 404);
}

#[test]
fn a_package_that_is_there_or_not_described_is_refused() {
    let platform = Platform::start();
    platform.upload("2.0", "");
    for query in [
        format!("productId={PRODUCT}&version=2.0"),
        format!("productId={PRODUCT}"),
        "version=3.0".to_owned(),
        format!("productId={PRODUCT}&version=3.0&fileType=driver"),
        format!("productId={PRODUCT}&version=3.0&type=x"),
    ] {
        assert_refused(&platform.upload_with(&query), 400, "120015", "Bad request error.");
    }
    assert_eq!(platform.get("/category").expect(200).json()["totalCount"], 1);
}

#[test]
fn an_organization_does_not_see_another_s_operations_and_packages() {
    let platform = Platform::start();
    platform.put_device("d1", "1.0", json!({}));
    let file_id = platform.upload("2.0", "");
    let id = platform.create(&file_id, json!({ "devices": ["d1"] }), json!(null));
    let other = platform.server.admin().post("/api/v1/apps", &json!({ "organization": "other" })).expect(201).json();
    let login = platform.security("login", &json!({ "appId": other["id"], "secret": other["secret"] })).expect(200).json();
    let (key, token) = (other["id"].as_str().unwrap(), login["accessToken"].as_str().unwrap());
    let get = |path: &str| platform.call_as(key, token, "GET", path, None);
    assert_eq!(get("/operations").expect(200).json()["totalCount"], 0);
    assert_eq!(get("/category").expect(200).json()["totalCount"], 0);
    assert_eq!(get(&format!("/operations/{id}")).status, 404);
    assert_eq!(get(&format!("/category/{file_id}")).status, 404);
    let body = json!({ "fileId": file_id, "targets": { "devices": ["d1"] } });
    let create = platform.call_as(key, token, "POST", SOFTWARE, Some(&body));
    assert_refused(&create, 404, "123002", "Device or package file not found.");
}

#[test]
fn what_a_device_runs_when_it_is_back_ends_its_upgrade() {
    let platform = Platform::start();
    for device in ["arrived", "astray", "failed-then-astray"] {
        platform.put_device(device, "1.0", json!({}));
    }
    let targets = json!({ "devices": ["arrived", "astray", "failed-then-astray"] });
    let policy = json!({ "executeType": "now", "retryType": true, "retryTimes": 5 });
    let id = platform.create(&platform.upload("2.0", ""), targets, policy);
    for device in ["arrived", "astray"] {
        let upgrade = platform.offered(device);
        platform.report(device, &upgrade, "installing");
    }
    platform.upgrade("failed-then-astray", "failed");
    assert_eq!(platform.check("arrived", "2.0")["reason"], "up_to_date");
    assert_eq!(platform.check("astray", "7.7")["reason"], "no_task");
    assert_eq!(platform.check("failed-then-astray", "7.7")["reason"], "no_task");
    let operation = platform.operation(&id);
    assert_result(&operation, "failed", json!({ "total": 3, "success": 1, "fail": 2 }));
    assert!(operation["stopTime"].is_string(), "{operation}");
}

#[test]
fn an_operation_that_lost_every_device_is_stopped_and_no_success() {
    let platform = Platform::start();
    platform.put_device("d1", "1.0", json!({}));
    let id = platform.create(&platform.upload("2.0", ""), json!({ "devices": ["d1"] }), json!(null));
    platform.server.admin().delete(&format!("/api/v1/products/{PRODUCT}/devices/d1")).expect(204);
    assert_result(&platform.operation(&id), "stop", json!({}));
}

#[test]
fn a_window_without_end_is_taken() {
    let platform = Platform::start();
    platform.put_device("d1", "1.0", json!({}));
    let policy = json!({ "executeType": "custom", "startTime": time(60), "endTime": "99991231T235959Z" });
    platform.create(&platform.upload("2.0", ""), json!({ "devices": ["d1"] }), policy);
}
