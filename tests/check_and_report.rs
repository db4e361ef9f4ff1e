//! A device's conversation: it checks, downloads, reports, and each message may come twice, late or out of order.

use crate::common::fleet::{count, rows, task};
use crate::common::{Fleet, TestServer, wait_until};
use md5::{Digest, Md5};
use serde_json::{Value, json};

#[test]
fn an_offer_names_everything_a_device_needs_to_upgrade() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({ "timeout_s": 600 }));
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    assert_eq!((&offer["from_version"], &offer["target_version"]), (&json!("1.0"), &json!("2.0")));
    assert_eq!(offer["size"], fleet.image.len());
    assert_eq!(offer["sha256"], fleet.image_id);
    assert_eq!(offer["task_id"], task(&admin, &path)["id"]);
    assert!(!offer["deadline"].is_null());
    let url = offer["url"].as_str().unwrap();
    assert!(url.starts_with(&format!("{}/images/", server.url())), "{url}");
    assert!(url.len() <= 255, "{} characters", url.len());
    // The link needs no header of the device.
    let image = server.anonymous().get(url).expect(200).body;
    let md5: String = Md5::digest(&image).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(offer["md5"], md5);
    assert_eq!(image, fleet.image);
}

#[test]
fn links_begin_with_the_public_url() {
    let server = TestServer::setup().args(&["--public-url", "https://firmware.example.test/base"]).start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    let offer = fleet.device(&admin, "p-1").offered(&server);
    let url = offer["url"].as_str().unwrap();
    assert!(url.starts_with("https://firmware.example.test/base/images/"), "{url}");
}

#[test]
fn an_upgrade_goes_from_offer_to_success_and_is_counted_once() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    for state in ["downloading", "downloaded", "installing"] {
        assert_eq!(device.report(&server, &offer["id"], state).expect(200).json(), json!({}));
        assert_eq!(count(&admin, &path, state), 1);
        assert_eq!(task(&admin, &path)["permits_held"], 1);
    }
    for _ in 0..3 {
        assert_eq!(device.report(&server, &offer["id"], "succeeded").expect(200).json(), json!({}));
    }
    assert_eq!(count(&admin, &path, "succeeded"), 1);
    assert_eq!(task(&admin, &path)["permits_held"], 0);
    let answered = device.check(&server, "2.0");
    assert_eq!(answered["upgrade"], Value::Null);
    assert_eq!(answered["reason"], "up_to_date");
}

#[test]
fn a_device_that_checks_again_gets_the_same_offer() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    for _ in 0..3 {
        let again = device.offered(&server);
        assert_eq!((&again["id"], &again["deadline"]), (&offer["id"], &offer["deadline"]));
    }
    assert_eq!(task(&admin, &path)["permits_held"], 1);
    assert_eq!(rows(&admin, &path)[0]["attempts"], 1);
}

#[test]
fn running_states_never_go_backwards() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    device.report(&server, &offer["id"], "installing").expect(200);
    device.report(&server, &offer["id"], "downloading").expect(200);
    assert_eq!(rows(&admin, &path)[0]["state"], "installing");
    device.report(&server, &offer["id"], "failed").expect(200);
    device.report(&server, &offer["id"], "succeeded").expect(200);
    assert_eq!(rows(&admin, &path)[0]["state"], "failed");
}

#[test]
fn percent_and_detail_of_a_report_are_kept_in_the_row() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    let mut report = device.report_body(&offer["id"], "downloading");
    report["percent"] = json!(42);
    device.client(&server).post("/api/v1/report", &report).expect(200);
    assert_eq!(rows(&admin, &path)[0]["percent"], 42);
    let mut report = device.report_body(&offer["id"], "rejected");
    report["detail"] = json!("battery low");
    device.client(&server).post("/api/v1/report", &report).expect(200);
    let row = rows(&admin, &path)[0].clone();
    assert_eq!((&row["state"], &row["reason"]), (&json!("rejected"), &json!("battery low")));
}

#[test]
fn a_report_on_an_upgrade_that_never_was_is_not_found() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    for unknown in [json!("nothing-of-the-kind"), json!(""), json!("0"), json!("../../tasks"), json!("x".repeat(500))] {
        let refused = device.report(&server, &unknown, "succeeded");
        assert!(matches!(refused.status, 400 | 404), "{unknown}: {} {}", refused.status, refused.text());
    }
    // A well-formed id of a later offer that was never made.
    let altered: String = offer["id"].as_str().unwrap().chars().rev().collect();
    if altered != offer["id"] {
        device.report(&server, &json!(altered), "succeeded").refused(404);
    }
    assert_eq!(device.offered(&server)["id"], offer["id"]);
}

#[test]
fn served_bytes_of_a_link_become_the_progress_of_its_upgrade() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    let half = format!("bytes=0-{}", fleet.image.len() / 2 - 1);
    server.anonymous().request("GET", offer["url"].as_str().unwrap()).header("Range", &half).send().expect(206);
    let row = wait_until("half of the image shows as progress", || {
        rows(&admin, &path).into_iter().find(|row| row["state"] == "downloading" && row["percent"].as_u64() >= Some(45))
    });
    assert!(row["percent"].as_u64() <= Some(55), "{row}");
}

#[test]
fn a_keep_alive_connection_carries_many_requests() {
    use std::io::{BufReader, Write};
    let server = TestServer::start();
    let mut stream = server.anonymous().connect().unwrap();
    for _ in 0..50 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        // A reader of its own for each answer: it must not hold more than that answer, so nothing may be left in it.
        let head = crate::common::http::Head::read(BufReader::with_capacity(1, stream.try_clone().unwrap())).unwrap();
        assert_eq!(head.into_response("GET", "GET /healthz".to_owned()).unwrap().status, 200);
    }
}

#[test]
fn a_preview_of_a_device_that_is_not_known_tells_what_a_newcomer_would_be_told() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    let body = json!({ "product_id": "pump", "device_id": "nobody-yet", "type": 1, "identify": 0, "version": "1.0" });
    let answer = admin.post("/api/v1/check", &body).expect(200).json();
    assert_eq!(answer["upgrade"]["target_version"], "2.0");
    assert!(answer["upgrade"]["id"].is_null(), "{answer}");
    assert_eq!(task(&admin, &path)["permits_held"], 0);
    admin.get("/api/v1/products/pump/devices/nobody-yet").expect(404);
}
