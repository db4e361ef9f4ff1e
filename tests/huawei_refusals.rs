//! Every code of the platform's page of creating an upgrade task, by its number. What is one fault here is otherwise a good request.

use crate::common::fleet::issue_token;
use crate::huawei_support::{FIRMWARE, PRODUCT, Platform, SOFTWARE, assert_refused, time};
use serde_json::{Value, json};

/// A platform on which `{"fileId": …, "targets": {"devices": ["d1"]}}` is taken: one device, in one group, and one package for it.
#[track_caller]
fn with_one_device() -> (Platform, String) {
    let platform = Platform::start();
    platform.put_device("d1", "1.0", json!({ "groups": ["pilot"] }));
    let file_id = platform.upload("2.0", "");
    (platform, file_id)
}

/// Sends a good request with these changes, and expects it to be refused like this.
#[track_caller]
fn refused(platform: &Platform, file_id: &str, changes: Value, http: u16, code: &str, description: &str) {
    let mut body = json!({ "fileId": file_id, "targets": { "devices": ["d1"] } });
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    assert_refused(&platform.post(SOFTWARE, &body), http, code, description);
    let operations = platform.get("/operations").expect(200).json();
    assert_eq!(operations["totalCount"], 0, "a refused request left something behind: {operations}");
}

fn groups(changes: Value) -> Value {
    let mut targets = json!({ "deviceGroups": ["pilot"], "deviceType": "Lock", "model": "L1", "manufacturerName": "Acme" });
    targets.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    json!({ "targets": targets })
}

fn custom(start: &str, end: &str) -> Value {
    json!({ "policy": { "executeType": "custom", "startTime": start, "endTime": end } })
}

#[test]
fn code_120015_a_request_that_is_malformed() {
    let (platform, file_id) = with_one_device();
    for changes in [
        json!({ "fileId": null }),
        json!({ "fileId": "" }),
        json!({ "targets": "d1" }),
        json!({ "targets": { "devices": [""] } }),
        json!({ "targets": { "devices": [{}] } }),
        json!({ "policy": [] }),
    ] {
        refused(&platform, &file_id, changes, 400, "120015", "Bad request error.");
    }
    let client = platform.server.anonymous();
    for body in ["", "{", "[]", "null", "\"x\"", "{\"fileId\":\"\u{0}"] {
        let request = client.request("POST", &format!("{}{SOFTWARE}", crate::huawei_support::ROOT)).header("app_key", &platform.id);
        let response = request.header("Authorization", &format!("Bearer {}", platform.token)).body(body.as_bytes()).send();
        assert_refused(&response, 400, "120015", "Bad request error.");
    }
    for query in ["pageNo=-1", "pageNo=x", "pageSize=0", "pageSize=101", "operationStatus=done", "operationType=upgrade"] {
        assert_refused(&platform.get(&format!("/operations?{query}")), 400, "120015", "Bad request error.");
    }
}

#[test]
fn code_123002_a_device_or_package_that_is_not_there() {
    let (platform, file_id) = with_one_device();
    let firmware_package = platform.upload("3.0", "&fileType=firmwarePackage");
    let description = "Device or package file not found.";
    for (file_id, changes) in [
        ("65a000000000000000000001", json!({})),
        ("no id at all", json!({})),
        (firmware_package.as_str(), json!({})),
        (file_id.as_str(), json!({ "targets": { "devices": ["d1", "d2"] } })),
        (file_id.as_str(), groups(json!({ "deviceGroups": ["pilot", "empty"] }))),
    ] {
        refused(&platform, file_id, changes, 404, "123002", description);
    }
    let body = json!({ "fileId": file_id, "targets": { "devices": ["d1"] } });
    assert_refused(&platform.post(FIRMWARE, &body), 404, "123002", description);
    assert_refused(&platform.get("/category/65a000000000000000000001"), 404, "123002", description);
    assert_refused(&platform.delete("/category/x"), 404, "123002", description);
}

#[test]
fn code_123016_a_package_that_does_not_match_the_devices() {
    let (platform, file_id) = with_one_device();
    platform.put_device("other-model", "1.0", json!({ "model": "L2", "groups": ["others"] }));
    platform.put_device("already-there", "2.0", json!({}));
    let device = json!({ "components": [{ "type": 1, "identify": 0, "version": "1.0" }] });
    platform.put_device_of("camera", "of-another-product", &device);
    platform.put_device_of(PRODUCT, "never-heard-of", &json!({}));
    for changes in [
        json!({ "targets": { "devices": ["d1", "other-model"] } }),
        json!({ "targets": { "devices": ["already-there"] } }),
        json!({ "targets": { "devices": ["d1", "of-another-product"] } }),
        json!({ "targets": { "devices": ["never-heard-of"] } }),
        groups(json!({ "model": "L2" })),
        groups(json!({ "deviceType": "lock" })),
        groups(json!({ "manufacturerName": "Acme Inc." })),
        groups(json!({ "deviceGroups": ["others"] })),
    ] {
        refused(&platform, &file_id, changes, 400, "123016", "The parameter is error, targetversion not match with device.");
    }
}

#[test]
fn code_123019_groups_without_a_manufacturer_name() {
    let (platform, file_id) = with_one_device();
    for nothing in [json!(null), json!(""), json!(" ")] {
        // It is the first of the three to be missed.
        let changes = groups(json!({ "manufacturerName": nothing, "deviceType": null, "model": null }));
        refused(&platform, &file_id, changes, 400, "123019", "manufacturerName is null.");
    }
}

#[test]
fn code_123020_groups_without_a_device_type() {
    let (platform, file_id) = with_one_device();
    refused(&platform, &file_id, groups(json!({ "deviceType": null, "model": null })), 400, "123020", "deviceType is null");
}

#[test]
fn code_123021_groups_without_a_model() {
    let (platform, file_id) = with_one_device();
    refused(&platform, &file_id, groups(json!({ "model": "" })), 400, "123021", "model is null.");
}

#[test]
fn code_123022_neither_groups_nor_devices() {
    let (platform, file_id) = with_one_device();
    for targets in [
        json!(null),
        json!({}),
        // What the platform's own test suite sends.
        json!({ "null": ["sss"] }),
        json!({ "deviceGroups": null, "devices": null }),
        json!({ "deviceGroups": [], "devices": [] }),
    ] {
        let changes = json!({ "targets": targets });
        refused(&platform, &file_id, changes, 400, "123022", "deviceGroups and devices cannot be null together");
    }
}

#[test]
fn code_123023_both_groups_and_devices() {
    let (platform, file_id) = with_one_device();
    let changes = groups(json!({ "devices": ["d1"] }));
    refused(&platform, &file_id, changes, 400, "123023", "deviceGroups and devices cannot be exist together");
}

#[test]
fn code_123024_more_than_256_targets() {
    let (platform, file_id) = with_one_device();
    let names: Vec<String> = (0..257).map(|number| format!("n{number}")).collect();
    let description = "The number of deviceGroups or devices reached upper limit";
    refused(&platform, &file_id, json!({ "targets": { "devices": names } }), 400, "123024", description);
    refused(&platform, &file_id, groups(json!({ "deviceGroups": names })), 400, "123024", description);
    // The same device 300 times is one.
    let body = json!({ "fileId": file_id, "targets": { "devices": vec!["d1"; 300] } });
    platform.post(SOFTWARE, &body).expect(200);
}

#[test]
fn code_123025_an_execute_type_that_is_missing_or_unknown() {
    let (platform, file_id) = with_one_device();
    for execute_type in [json!(null), json!(""), json!("later"), json!("NOW"), json!(1)] {
        let changes = json!({ "policy": { "executeType": execute_type } });
        refused(&platform, &file_id, changes, 400, "123025", "executeType is error or can not to be null.");
    }
    refused(&platform, &file_id, json!({ "policy": {} }), 400, "123025", "executeType is error or can not to be null.");
}

#[test]
fn code_123026_custom_without_its_times() {
    let (platform, file_id) = with_one_device();
    let end = time(7_200);
    for (start, end) in [("", end.as_str()), ("2027-01-01T00:00:00Z", &end), ("tomorrow", &end), (&time(3_600), "20270230T000000Z")]
    {
        refused(&platform, &file_id, custom(start, end), 400, "123026", "startTime or endTime is null or error.");
    }
    let changes = json!({ "policy": { "executeType": "custom", "startTime": null, "endTime": null } });
    refused(&platform, &file_id, changes, 400, "123026", "startTime or endTime is null or error.");
}

#[test]
fn code_123028_retries_that_are_missing_or_beyond_1_to_5() {
    let (platform, file_id) = with_one_device();
    for times in [json!(null), json!(0), json!(6), json!("6"), json!(-1), json!(u64::MAX)] {
        let changes = json!({ "policy": { "executeType": "now", "retryType": "true", "retryTimes": times } });
        refused(&platform, &file_id, changes, 400, "123028", "retryTimes is null or beyond the limit.");
    }
}

#[test]
fn code_123032_a_start_after_the_end() {
    let (platform, file_id) = with_one_device();
    let changes = custom(&time(7_200), &time(3_600));
    refused(&platform, &file_id, changes, 400, "123032", "startTime can not be later than the endTime.");
}

#[test]
fn code_123033_a_start_that_has_passed() {
    let (platform, file_id) = with_one_device();
    // Also where the end is before the start: this comes first.
    for end in [time(3_600), time(-7_200)] {
        let changes = custom(&time(-60), &end);
        refused(&platform, &file_id, changes, 400, "123033", "startTime can not be earlier than the now.");
    }
}

#[test]
fn code_123034_an_end_not_more_than_5_minutes_after_the_start() {
    let (platform, file_id) = with_one_device();
    for window in [0, 1, 299, 300] {
        let changes = custom(&time_at(3_600, 0), &time_at(3_600, window));
        refused(&platform, &file_id, changes, 400, "123034", "endtime must be greater than 5 minutes.");
    }
    let mut body = json!({ "fileId": file_id, "targets": { "devices": ["d1"] } });
    body["policy"] = custom(&time_at(3_600, 0), &time_at(3_600, 301))["policy"].clone();
    platform.post(SOFTWARE, &body).expect(200);
}

/// Always from the same now, so that two of them are exactly as far apart as they say.
fn time_at(seconds: i64, more: i64) -> String {
    use std::sync::OnceLock;
    static NOW: OnceLock<i64> = OnceLock::new();
    let now = *NOW.get_or_init(|| jiff::Timestamp::now().as_second());
    jiff::Timestamp::from_second(now + seconds + more).unwrap().strftime("%Y%m%dT%H%M%SZ").to_string()
}

#[test]
fn code_1010005_headers_that_open_nothing() {
    let (platform, file_id) = with_one_device();
    let description = "App_key or access_token is invalid.";
    let other = platform.server.admin().post("/api/v1/apps", &json!({})).expect(201).json();
    let other = other["id"].as_str().unwrap();
    let admin = platform.server.admin();
    let device = issue_token(&admin, json!({ "role": "device", "product_id": PRODUCT, "device_id": "d1" }));
    let bound = issue_token(&admin, json!({ "role": "operator", "product_id": PRODUCT, "device_id": "d1" }));
    let user = issue_token(&admin, json!({ "role": "user" }));
    let operator = issue_token(&admin, json!({ "role": "operator" }));
    // A body that is wrong in every way: who may not call isn't told so.
    let body = json!({ "fileId": 7, "targets": [] });
    for (app_key, token) in [
        ("", platform.token.as_str()),
        (other, &platform.token),
        ("default", &platform.token),
        (&platform.id, ""),
        (&platform.id, "0123456789abcdef.nobody"),
        (&platform.id, &operator),
        ("another organization", &operator),
        ("default", &device),
        ("default", &bound),
        ("default", &user),
    ] {
        assert_refused(&platform.call_as(app_key, token, "POST", SOFTWARE, Some(&body)), 403, "1010005", description);
    }
    let without_headers = platform.server.anonymous().get(&format!("{}/category", crate::huawei_support::ROOT));
    assert_refused(&without_headers, 403, "1010005", description);
    // Native tokens, with the organization as app_key: to look for a user, to change for an operator.
    platform.call_as("default", &user, "GET", "/operations", None).expect(200);
    let good = json!({ "fileId": file_id, "targets": { "devices": ["d1"] } });
    platform.call_as("default", &operator, "POST", SOFTWARE, Some(&good)).expect(200);
}

#[test]
fn code_1010009_more_calls_than_the_application_may() {
    let platform = Platform::with_config("[huawei]\ncalls_per_minute = 3\n");
    let throttled = |response: &crate::common::Response| {
        assert_refused(response, 403, "1010009", "app throttle exceed.");
        let seconds: u64 = response.header("Retry-After").unwrap().parse().unwrap();
        assert!((1..=20).contains(&seconds), "three a minute: one every 20 s, got {seconds}");
    };
    for _ in 0..3 {
        platform.get("/category").expect(200);
    }
    throttled(&platform.get("/category"));
    // It comes before everything that is wrong with the request, and after what is wrong with the headers.
    throttled(&platform.post(SOFTWARE, &json!({ "fileId": 7 })));
    let wrong = platform.call_as(&platform.id, "nobody's", "GET", "/category", None);
    assert_refused(&wrong, 403, "1010005", "App_key or access_token is invalid.");
    // Another application has its own calls, and logging in costs none.
    let native = issue_token(&platform.server.admin(), json!({ "role": "operator" }));
    platform.call_as("default", &native, "GET", "/category", None).expect(200);
    for _ in 0..5 {
        assert!(platform.login()["accessToken"].is_string());
    }
}

#[test]
fn an_operation_that_is_not_there_has_a_code_of_its_own() {
    let platform = Platform::start();
    for id in ["65a000000000000000000001", "x", "null"] {
        for path in [format!("/operations/{id}"), format!("/operations/{id}/subOperations?&pageNo=0")] {
            assert_refused(&platform.get(&path), 404, "123009", "The queried task is not found.");
        }
        let cancel = platform.post(&format!("/operations/{id}/cancel"), &json!({}));
        assert_refused(&cancel, 404, "123009", "The queried task is not found.");
    }
}

#[test]
fn a_path_or_method_that_is_not_there_is_404() {
    let platform = Platform::start();
    for (method, path) in [("GET", "/nothing"), ("PUT", "/operations"), ("GET", "/operations/softwareUpgrade/x/y")] {
        let response = platform.call_as(&platform.id, &platform.token, method, path, None);
        assert_refused(&response, 404, "120015", "Bad request error.");
    }
    assert_eq!(platform.server.anonymous().get("/iocm/app/sec/v1.1.0/login").status, 404);
}

#[test]
fn a_group_of_another_product_does_not_match_123016_and_one_without_members_is_not_there_123002() {
    let platform = Platform::start();
    platform.put_device("d1", "1.0", json!({}));
    platform.put_device_of("elsewhere", "x1", &json!({ "groups": ["there"], "components": [] }));
    let file_id = platform.upload("2.0", "");
    let body = |group: &str| {
        let targets = json!({ "deviceGroups": [group], "deviceType": "Lock", "model": "L1", "manufacturerName": "Acme" });
        json!({ "fileId": file_id, "targets": targets })
    };
    let refused = platform.post(SOFTWARE, &body("there"));
    assert_refused(&refused, 400, "123016", "The parameter is error, targetversion not match with device.");
    assert_refused(&platform.post(SOFTWARE, &body("nowhere")), 404, "123002", "Device or package file not found.");
}
