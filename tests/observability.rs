//! What a monitoring system and a curious engineer find: metrics, health, and the description of the API.

use crate::common::{Fleet, TestServer};
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
