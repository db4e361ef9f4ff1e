//! Every code of the platform that this server gives, and who gets it.

use crate::common::TestServer;
use crate::common::server::Setup;
use crate::xlink_support::{PRODUCT, Platform, code, nothing, task_body};
use serde_json::{Value, json};

const CREATE: &str = "/v2/upgrade/firmware/task";

#[test]
fn xlink_4001001_a_field_out_of_its_range() {
    let platform = Platform::start();
    for changes in [
        json!({ "name": "n".repeat(33) }),
        json!({ "description": "d".repeat(251) }),
        json!({ "from_version": "1.0" }),
        json!({ "from_version": -1 }),
        json!({ "from_version": 2_147_483_648_u32 }),
        json!({ "target_version": [2] }),
        json!({ "target_version_size": "large" }),
        json!({ "identify": "x" }),
        json!({ "from_version": 2 }),
    ] {
        assert_eq!(platform.create_refused(changes.clone()), 4_001_001, "{changes}");
    }
    assert_eq!(platform.tasks(), [json!(null); 0], "nothing half kept");
}

#[test]
fn xlink_4001001_a_body_that_is_no_json_object() {
    let platform = Platform::start();
    for body in ["", "{", "[]", "42", "\"x\"", "\u{0}", "{\"product_id\":\"p\"", "name=x"] {
        for path in [CREATE, "/v2/upgrade/firmware/tasks", "/v2/upgrade/firmware/task/status", "/v2/upgrade/firmware/task/delete"] {
            assert_eq!(code(&platform.call("POST", path, &platform.operator, Some(body))), 4_001_001, "{body:?} to {path}");
        }
    }
}

#[test]
fn xlink_4001001_an_oversized_body() {
    let platform = Platform::start();
    let body = task_body(json!({ "scope": "x".repeat(4 << 20) })).to_string();
    assert_eq!(code(&platform.call("POST", CREATE, &platform.operator, Some(&body))), 4_001_001);
}

#[test]
fn xlink_4001001_a_device_id_that_is_no_positive_int32() {
    let platform = Platform::start();
    let device = platform.device_token(7);
    for id in ["0", "-1", "2147483648", "abc", "%31"] {
        let body = json!({ "product_id": PRODUCT, "current_version": 1 });
        assert_eq!(code(&platform.post(&device, &format!("/v2/upgrade/firmware/check/{id}"), &body)), 4_001_001, "{id}");
    }
}

#[test]
fn xlink_4001002_each_required_field_missing() {
    let platform = Platform::start();
    for field in [
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
    ] {
        assert_eq!(platform.create_refused(json!({ field: null })), 4_001_002, "without {field}");
        assert_eq!(platform.create_refused(json!({ field: "" })), 4_001_002, "with an empty {field}");
    }
    let without = |body: Value, fields: &[&str], path: &str, token: &str| {
        for field in fields {
            let mut body = body.clone();
            body.as_object_mut().unwrap().remove(*field);
            assert_eq!(code(&platform.post(token, path, &body)), 4_001_002, "{path} without {field}");
        }
    };
    let device = platform.device_token(7);
    let operator = &platform.operator;
    let status = json!({ "product_id": PRODUCT, "upgrade_task_id": "x", "status": 1 });
    without(status, &["product_id", "upgrade_task_id", "status"], "/v2/upgrade/firmware/task/status", operator);
    let delete = json!({ "product_id": PRODUCT, "id": "x" });
    without(delete, &["product_id", "id"], "/v2/upgrade/firmware/task/delete", operator);
    without(json!({ "product_id": PRODUCT }), &["product_id"], "/v2/upgrade/firmware/tasks", operator);
    let check = json!({ "product_id": PRODUCT, "current_version": 1 });
    without(check, &["product_id", "current_version"], "/v2/upgrade/firmware/check/7", &device);
    let report = json!({ "mod": "M", "last_version": 1, "current_version": 2, "result": 0 });
    without(report, &["mod", "last_version", "current_version", "result"], "/v2/upgrade/firmware/report/7", &device);
    assert_eq!(code(&platform.get(operator, "/v2/upgrade/firmware/tasks")), 4_001_002);
}

#[test]
fn xlink_4001035_a_name_that_the_product_has() {
    let platform = Platform::start();
    let _ = platform.create(json!({}));
    assert_eq!(platform.create_refused(json!({ "from_version": 5 })), 4_001_035);
    let _ = platform.create(json!({ "product_id": "another" }));
}

#[test]
fn xlink_4001036_an_unknown_status() {
    let platform = Platform::start();
    let task = platform.create(json!({}));
    assert_eq!(code(&platform.set_status(&task, 2)), 4_001_036);
    assert_eq!(platform.listed(&task)["status"], 0);
}

#[test]
fn xlink_4001037_the_start_that_the_product_has_whether_started_or_not() {
    let platform = Platform::start();
    let first = platform.create(json!({}));
    let second = json!({ "name": "second", "target_version": 3 });
    assert_eq!(platform.create_refused(second.clone()), 4_001_037);
    nothing(&platform.set_status(&first, 1));
    assert_eq!(platform.create_refused(second), 4_001_037);
    let _ = platform.create(json!({ "name": "mcu", "type": 2 }));
    let _ = platform.create(json!({ "name": "other mcu", "type": 2, "identify": 1 }));
    let _ = platform.create(json!({ "name": "from 2", "from_version": 2, "target_version": 3 }));
}

#[test]
fn xlink_4001113_an_unknown_type_or_task_type() {
    let platform = Platform::start();
    assert_eq!(platform.create_refused(json!({ "type": 4 })), 4_001_113);
    assert_eq!(platform.create_refused(json!({ "type": "0" })), 4_001_113);
    assert_eq!(platform.create_refused(json!({ "task_type": 2 })), 4_001_113);
    let list = json!({ "product_id": PRODUCT, "type": 9 });
    assert_eq!(code(&platform.post(&platform.operator, "/v2/upgrade/firmware/tasks", &list)), 4_001_113);
    let check = json!({ "product_id": PRODUCT, "type": 9, "current_version": 1 });
    assert_eq!(code(&platform.post(&platform.device_token(7), "/v2/upgrade/firmware/check/7", &check)), 4_001_113);
}

#[test]
fn xlink_4001114_a_device_s_token_for_another_device() {
    let platform = Platform::start();
    let device = platform.device_token(7);
    assert_eq!(code(&platform.check(8, &device, 1)), 4_001_114);
    assert_eq!(code(&platform.report(8, &device, 1, 2, 0)), 4_001_114);
}

#[test]
fn xlink_4031001_a_report_that_is_not_the_device_s_own() {
    let platform = Platform::start();
    for token in [platform.operator.clone(), platform.token(json!({ "role": "user" }))] {
        assert_eq!(code(&platform.report(7, &token, 1, 2, 0)), 4_031_001);
    }
}

#[test]
fn xlink_4031001_a_token_bound_to_another_product() {
    let platform = Platform::start();
    let bound = platform.token(json!({ "role": "operator", "product_id": "another" }));
    assert_eq!(code(&platform.post(&bound, CREATE, &task_body(json!({})))), 4_031_001);
}

#[test]
fn xlink_4031001_an_operator_s_token_bound_to_a_device_manages_nothing() {
    let platform = Platform::start();
    let task = platform.create(json!({}));
    let bound = platform.token(json!({ "role": "operator", "product_id": PRODUCT, "device_id": "7" }));
    let list = format!("/v2/upgrade/firmware/tasks?product_id={PRODUCT}");
    let firmware = format!("/v2/product/{PRODUCT}/firmwares");
    assert_eq!(code(&platform.post(&bound, CREATE, &task_body(json!({ "name": "another", "from_version": 5 })))), 4_031_001);
    assert_eq!(code(&platform.get(&bound, &list)), 4_031_001);
    assert_eq!(code(&platform.post(&bound, "/v2/upgrade/firmware/tasks", &json!({ "product_id": PRODUCT }))), 4_031_001);
    let start = json!({ "product_id": PRODUCT, "upgrade_task_id": task["id"], "status": 1 });
    assert_eq!(code(&platform.post(&bound, "/v2/upgrade/firmware/task/status", &start)), 4_031_001);
    let delete = json!({ "product_id": PRODUCT, "id": task["id"] });
    assert_eq!(code(&platform.post(&bound, "/v2/upgrade/firmware/task/delete", &delete)), 4_031_001);
    assert_eq!(code(&platform.get(&bound, &firmware)), 4_031_001);
    assert_eq!(code(&platform.post(&bound, &format!("/v2/upload/product/{PRODUCT}/firmware"), &json!({}))), 4_031_001);
    assert_eq!(platform.tasks().len(), 1, "nothing was made or deleted");
    assert_eq!(platform.listed(&task)["status"], 0, "nothing was started");
    // The same without the device does.
    let free = platform.token(json!({ "role": "operator", "product_id": PRODUCT }));
    platform.get(&free, &list).expect(200);
    platform.get(&free, &firmware).expect(200);
    assert_eq!(code(&platform.check(8, &bound, 1)), 4_001_114, "it looks at its own device alone");
}

#[test]
fn xlink_4031002_without_a_token_and_4031003_with_one_that_nobody_knows() {
    let platform = Platform::start();
    let calls = [
        ("POST", CREATE),
        ("GET", "/v2/upgrade/firmware/tasks?product_id=p"),
        ("POST", "/v2/upgrade/firmware/tasks"),
        ("POST", "/v2/upgrade/firmware/task/status"),
        ("POST", "/v2/upgrade/firmware/task/delete"),
        ("POST", "/v2/upgrade/firmware/check/7"),
        ("POST", "/v2/upgrade/firmware/report/7"),
        ("GET", "/v2/product/p/firmwares"),
        ("POST", "/v2/upgrade/device/newest_version"),
    ];
    for (method, path) in calls {
        let bare = platform.server.anonymous().request(method, path).body(b"{}").send();
        assert_eq!(code(&bare), 4_031_002, "{method} {path}");
        assert_eq!(code(&platform.call(method, path, "   ", Some("{}"))), 4_031_002, "{method} {path}");
        for unknown in ["nobody", "0123456789abcdef.0123456789abcdef", &"x".repeat(2_000)] {
            assert_eq!(code(&platform.call(method, path, unknown, Some("{}"))), 4_031_003, "{method} {path}");
        }
    }
}

#[test]
fn xlink_4031003_a_revoked_token() {
    let platform = Platform::start();
    let admin = platform.server.admin();
    let issued = admin.post("/api/v1/tokens", &json!({ "role": "operator" })).expect(201).json();
    let token = issued["token"].as_str().unwrap();
    let _ = platform.get(token, "/v2/upgrade/firmware/tasks?product_id=p").expect(200);
    let _ = admin.delete(&format!("/api/v1/tokens/{}", issued["id"].as_str().unwrap())).expect(204);
    assert_eq!(code(&platform.get(token, "/v2/upgrade/firmware/tasks?product_id=p")), 4_031_003);
}

#[test]
fn xlink_4031004_tasks_and_firmware_are_for_operators() {
    let platform = Platform::start();
    for token in [platform.device_token(7), platform.token(json!({ "role": "user" }))] {
        assert_eq!(code(&platform.post(&token, CREATE, &task_body(json!({})))), 4_031_004);
        assert_eq!(code(&platform.get(&token, "/v2/upgrade/firmware/tasks?product_id=p")), 4_031_004);
        assert_eq!(code(&platform.get(&token, "/v2/product/p/firmwares")), 4_031_004);
        assert_eq!(code(&platform.post(&token, "/v2/upload/product/p/firmware", &json!({}))), 4_031_004);
    }
}

#[test]
fn xlink_4031021_an_expired_token() {
    let platform = Platform::start();
    let token = platform.token(json!({ "role": "operator", "ttl_s": 1 }));
    let refused = crate::common::wait_until("the token expires", || {
        let response = platform.get(&token, "/v2/upgrade/firmware/tasks?product_id=p");
        (response.status != 200).then_some(response)
    });
    assert_eq!(code(&refused), 4_031_021);
}

#[test]
fn xlink_4041001_a_path_or_method_that_is_not_there() {
    let platform = Platform::start();
    for (method, path) in [
        ("GET", CREATE),
        ("PUT", CREATE),
        ("DELETE", "/v2/upgrade/firmware/tasks"),
        ("GET", "/v2/upgrade/firmware/check/7"),
        ("GET", "/v2/upgrade/firmware/report/7"),
        ("POST", "/v2"),
        ("GET", "/v2/"),
        ("POST", "/v2/nothing"),
        ("POST", "/v2/upgrade/firmware/task/status/more"),
        ("PATCH", "/v2/product/p/firmware/1"),
        ("GET", "/v2/product/%2e%2e/firmwares"),
    ] {
        assert_eq!(code(&platform.call(method, path, &platform.operator, None)), 4_041_001, "{method} {path}");
    }
}

#[test]
fn xlink_4041005_4041008_4041013_what_is_not_there() {
    let platform = Platform::start();
    let task = platform.start_task(json!({}));
    let _ = platform.create(json!({ "product_id": "other" }));
    let act = |product_id: &str, task_id: &Value| {
        let body = json!({ "product_id": product_id, "upgrade_task_id": task_id, "status": 1 });
        code(&platform.post(&platform.operator, "/v2/upgrade/firmware/task/status", &body))
    };
    assert_eq!(act("nobody", &task["id"]), 4_041_005);
    assert_eq!(act("other", &task["id"]), 4_041_013, "a task of another product");
    assert_eq!(act(PRODUCT, &json!("000000000000000000000000")), 4_041_013);
    assert_eq!(act(PRODUCT, &json!("no id")), 4_041_013);

    let user = platform.token(json!({ "role": "user" }));
    let check = |token: &str, product_id: &str| {
        code(&platform.post(token, "/v2/upgrade/firmware/check/7", &json!({ "product_id": product_id, "current_version": 1 })))
    };
    assert_eq!(check(&user, "nobody"), 4_041_005);
    assert_eq!(check(&user, PRODUCT), 4_041_008, "a preview brings no device into being");
    let device = platform.device_token(7);
    assert_eq!(check(&device, "nobody"), 4_041_005);
    assert_eq!(check(&device, "other"), 4_041_008);
}

#[test]
fn xlink_strict_registration_makes_neither_products_nor_devices() {
    let setup: Setup = TestServer::setup().config("registration = \"strict\"\n");
    let platform = Platform::on(setup.start());
    assert_eq!(platform.create_refused(json!({})), 4_041_005);
    let device = platform.device_token(7);
    assert_eq!(code(&platform.check(7, &device, 1)), 4_041_005);
    let _ = platform.server.admin().put(&format!("/api/v1/products/{PRODUCT}"), &json!({}));
    let _ = platform.start_task(json!({}));
    assert_eq!(code(&platform.check(7, &device, 1)), 4_041_008);
    let _ = platform.server.admin().put(&format!("/api/v1/products/{PRODUCT}/devices/7"), &json!({ "components": [] }));
    let _ = platform.check(7, &device, 1).expect(200);
}

#[test]
fn xlink_one_organization_sees_nothing_of_another() {
    let platform = Platform::start();
    let task = platform.start_task(json!({}));
    let stranger = platform.token(json!({ "role": "operator", "organization": "elsewhere" }));
    let list = platform.get(&stranger, &format!("/v2/upgrade/firmware/tasks?product_id={PRODUCT}")).expect(200);
    assert_eq!(list.text(), "[]");
    let body = json!({ "product_id": PRODUCT, "id": task["id"] });
    assert_eq!(code(&platform.post(&stranger, "/v2/upgrade/firmware/task/delete", &body)), 4_041_005);
    assert_eq!(platform.listed(&task)["status"], 1);
}
