//! What a monitoring system and a curious engineer find: metrics, health, and the description of the API.

use crate::common::fleet::upload;
use crate::common::{Fleet, TestServer, image_bytes};
use crate::xlink_support::{PRODUCT, Platform};
use serde_json::json;

#[test]
fn health_and_readiness_are_told_without_a_token() {
    let server = TestServer::start();
    server.anonymous().get("/healthz").expect(200);
    server.anonymous().get("/readyz").expect(200);
    server.anonymous().head("/healthz").expect(200);
}

#[test]
fn metrics_are_in_the_form_that_prometheus_reads() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({ "maximum_concurrency": 1 }));
    fleet.device(&admin, "p-1").upgrade(&server);
    let metrics = admin.get("/metrics").expect(200);
    assert!(metrics.header("Content-Type").unwrap().starts_with("text/plain"), "{:?}", metrics.header("Content-Type"));
    let text = metrics.text();
    let mut samples = 0;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix('#') {
            assert!(["HELP", "TYPE", "UNIT"].contains(&comment.split_whitespace().next().unwrap_or_default()), "{line}");
            continue;
        }
        let (name_and_labels, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let name = name_and_labels.split('{').next().unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        samples += 1;
    }
    assert!(samples > 10, "{text}");
    for line in text.lines().filter(|line| line.starts_with("# TYPE") && line.ends_with(" counter")) {
        assert!(line.split_whitespace().nth(2).unwrap().ends_with("_total"), "a counter's name ends with _total: {line}");
    }
    assert!(text.contains("sluicegate"), "the names say whose they are: {text}");
    assert!(!text.contains("p-1"), "a label for each device would grow without bound");
}

#[test]
fn checks_are_counted_in_every_dialect_and_previews_in_none() {
    let platform = Platform::start();
    let checks = || {
        let text = platform.server.admin().get("/metrics").expect(200).text();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("sluicegate_checks_total{")).collect();
        assert!(!lines.is_empty(), "{text}");
        lines.iter().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum::<u64>()
    };
    let device = platform.device_token(7);
    platform.start_task(json!({}));
    assert_eq!(checks(), 0);
    platform.check(7, &device, 1).expect(200);
    assert_eq!(checks(), 1, "an offer");
    platform.check(7, &device, 5).expect(404);
    assert_eq!(checks(), 2, "nothing to do");
    let native = json!({ "product_id": PRODUCT, "device_id": "7", "type": 1, "identify": 0, "version": "1" });
    platform.server.anonymous().with_token(&device).post("/api/v1/check", &native).expect(200);
    assert_eq!(checks(), 3);
    platform.check(7, &platform.operator, 1).expect(200);
    platform
        .post(&platform.operator, "/v2/upgrade/device/newest_version", &json!({ "product_id": PRODUCT, "device_id": 7 }))
        .expect(200);
    platform.server.admin().post("/api/v1/check", &native).expect(200);
    assert_eq!(checks(), 3, "a preview decides nothing for the device");
}

#[test]
fn bytes_of_images_are_counted_as_they_are_sent_whoever_asks() {
    let server = TestServer::start();
    let admin = server.admin();
    let image = upload(&admin, &image_bytes(5_000));
    let served = || server.metric("sluicegate_image_bytes_served_total") as u64;
    let by_token = format!("/api/v1/images/{}", image["sha256"].as_str().unwrap());
    let by_link = crate::common::http::path_of(image["url"].as_str().unwrap());
    admin.head(&by_token).expect(200);
    assert_eq!(served(), 0);
    admin.get(&by_token).expect(200);
    assert_eq!(served(), 5_000);
    server.anonymous().get(by_link).expect(200);
    assert_eq!(served(), 10_000);
    // What stands between several ranges is not of the image.
    server.anonymous().request("GET", by_link).header("Range", "bytes=0-9,100-109").send().expect(206);
    assert_eq!(served(), 10_020);
}

#[test]
fn the_api_description_names_every_native_call() {
    let server = TestServer::start();
    let openapi = server.anonymous().get("/openapi.json").expect(200).json();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3."), "{}", openapi["openapi"]);
    let paths: Vec<&String> = openapi["paths"].as_object().unwrap().keys().collect();
    for path in ["images", "products", "firmware", "devices", "tokens", "tasks", "check", "report", "events"] {
        assert!(paths.iter().any(|known| known.ends_with(&format!("/{path}"))), "{path} is not in {paths:?}");
    }
}

#[test]
fn nothing_that_was_secret_is_in_the_log() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    server.anonymous().get(offer["url"].as_str().unwrap()).expect(200);
    server.anonymous().with_token("guessed-at-random").get("/api/v1/products").refused(401);
    let log = server.log();
    for secret in [crate::common::ADMIN_TOKEN, device.token.as_str(), "guessed-at-random"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[test]
fn a_path_that_is_not_there_and_a_method_that_is_not_meant_are_told_apart() {
    let server = TestServer::start();
    let admin = server.admin();
    admin.get("/api/v1/nothing").refused(404);
    let response = admin.delete("/api/v1/check");
    assert!(response.header("Allow").is_some_and(|allow| allow.contains("POST")), "{:?}", response.header("Allow"));
    response.refused(405);
}
