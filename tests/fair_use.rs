//! Bounds on how often somebody may call: the right call is refused, in each platform's own words, with the time to come back.
//! At which moment the next passes is the limiter's own test, in virtual time.

use crate::common::fleet::issue_token;
use crate::common::{Fleet, TestServer};
use serde_json::json;

#[test]
fn a_caller_beyond_its_bound_is_told_when_to_come_back_in_every_dialect() {
    let server = TestServer::setup().config("[limits]\ncalls_per_minute = 5\n").start();
    let token = issue_token(&server.admin(), json!({ "role": "operator" }));
    let client = server.anonymous().with_token(&token);
    for _ in 0..5 {
        client.get("/api/v1/tasks").expect(200);
    }
    let refused = client.get("/api/v1/tasks").expect(429);
    assert_eq!(refused.json()["error"]["code"], "too_many_calls");
    assert!(refused.header("Retry-After").unwrap().parse::<u32>().unwrap() <= 12);

    let plain = server.anonymous();
    let xlink = plain.request("GET", "/v2/upgrade/firmware/tasks?product_id=p").header("Access-Token", &token).send();
    assert_eq!((xlink.status, xlink.json()["error"]["code"].as_u64()), (503, Some(5_031_001)));
    assert!(xlink.header("Retry-After").is_some());
    let path = "/connect-service/v2.1/ota-jobs?action=search&orgId=default";
    let enos = plain.request("GET", path).header("apim-accesstoken", &token).send();
    assert_eq!((enos.status, enos.json()["code"].as_u64()), (200, Some(24_429)));
    assert!(enos.header("Retry-After").is_some());

    let other = issue_token(&server.admin(), json!({ "role": "user" }));
    server.anonymous().with_token(&other).get("/api/v1/tasks").expect(200);
    for _ in 0..10 {
        server.admin().get("/api/v1/tasks").expect(200);
    }
}

#[test]
fn a_device_that_asks_far_too_often_is_told_when_to_come_back_and_others_go_on() {
    let server = TestServer::setup().config("[limits]\nchecks_per_minute = 3\n").start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    let (hasty, calm) = (fleet.device(&admin, "p-1"), fleet.device(&admin, "p-2"));
    for _ in 0..3 {
        hasty.offered(&server);
    }
    let refused = hasty.client(&server).post("/api/v1/check", &hasty.check_body("1.0")).expect(429);
    assert_eq!(refused.json()["error"]["code"], "too_many_checks");
    assert!(refused.header("Retry-After").is_some());
    calm.upgrade(&server);
    // An operator's look at the device is no check of it.
    admin.post("/api/v1/check", &hasty.check_body("1.0")).expect(200);

    let token = issue_token(&admin, json!({ "role": "device", "product_id": "pump", "device_id": "77" }));
    let body = json!({ "product_id": "pump", "type": 1, "identify": 0, "current_version": 1 });
    let check = || {
        let plain = server.anonymous();
        let request = plain.request("POST", "/v2/upgrade/firmware/check/77").header("Access-Token", &token);
        request.json(&body).send()
    };
    for _ in 0..3 {
        assert!(check().header("Retry-After").is_none(), "nothing to do, and no hurry");
    }
    let refused = check();
    assert_eq!((refused.status, refused.json()["error"]["code"].as_u64()), (404, Some(4_041_013)));
    assert!(refused.header("Retry-After").is_some());
}
