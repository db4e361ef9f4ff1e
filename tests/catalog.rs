//! Products, images, firmware and devices: what an operator writes is what an operator reads.

use crate::common::fleet::{create_firmware, id_text, upload};
use crate::common::{Client, TestServer, image_bytes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};
use serde_json::{Map, Value, json};
use sha2::Sha256;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn items(client: &Client, path: &str) -> Vec<Value> {
    client.get(path).expect(200).json()["items"].as_array().unwrap().clone()
}

#[test]
fn a_product_is_put_read_listed_and_deleted() {
    let server = TestServer::start();
    let admin = server.admin();
    let put = admin.put("/api/v1/products/pump", &json!({}));
    assert!(matches!(put.status, 200 | 201), "{} {}", put.status, put.text());
    assert_eq!(admin.get("/api/v1/products/pump").expect(200).json()["product_id"], "pump");
    assert!(items(&admin, "/api/v1/products").iter().any(|product| product["product_id"] == "pump"));
    admin.delete("/api/v1/products/pump").expect(204);
    admin.get("/api/v1/products/pump").refused(404);
    admin.delete("/api/v1/products/pump").refused(404);
}

#[test]
fn lists_are_paged_by_cursor_without_gap_or_repetition() {
    let server = TestServer::start();
    let admin = server.admin();
    let mut expected: Vec<String> = (0..7).map(|number| format!("product-{number}")).collect();
    for product_id in &expected {
        admin.put(&format!("/api/v1/products/{product_id}"), &json!({}));
    }
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = admin.get(&format!("/api/v1/products?limit=3{cursor}")).expect(200).json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3, "{page}");
        found.extend(items.iter().map(|product| product["product_id"].as_str().unwrap().to_owned()));
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    admin.get("/api/v1/products?limit=1001").refused(400);
    admin.get("/api/v1/products?limit=0").refused(400);
}

#[test]
fn an_uploaded_image_is_named_by_its_digests_and_the_same_bytes_again_are_the_same_image() {
    let server = TestServer::start();
    let admin = server.admin();
    let image = image_bytes(300_001);
    let first = admin.request("POST", "/api/v1/images").body(&image).send().expect(201).json();
    let sha256 = hex(&Sha256::digest(&image));
    assert_eq!(first["image"], sha256);
    assert_eq!(first["sha256"], sha256);
    assert_eq!(first["md5"], hex(&Md5::digest(&image)));
    assert_eq!(first["sha1"].as_str().unwrap().len(), 40);
    assert_eq!(first["size"], image.len());
    let again = admin.request("POST", "/api/v1/images").body(&image).send().expect(200).json();
    assert_eq!((&again["image"], &again["md5"], &again["size"]), (&first["image"], &first["md5"], &first["size"]));
    let read = admin.get(&format!("/api/v1/images/{sha256}")).expect(200);
    assert_eq!(read.body, image);
    let by_link = server.anonymous().get(first["url"].as_str().unwrap()).expect(200);
    assert_eq!(by_link.body, image);
}

#[test]
fn an_image_that_differs_from_its_declared_digest_is_refused_and_nothing_is_kept() {
    let server = TestServer::start();
    let admin = server.admin();
    let image = image_bytes(50_000);
    let sha256 = hex(&Sha256::digest(&image));
    let other_md5 = BASE64.encode(Md5::digest(b"something else"));
    let other_sha256 = format!("sha-256=:{}:", BASE64.encode(Sha256::digest(b"something else")));
    for (name, value) in [("Content-MD5", other_md5.as_str()), ("Repr-Digest", &other_sha256), ("Content-MD5", "not base64!")] {
        admin.request("POST", "/api/v1/images").header(name, value).body(&image).send().refused(400);
        admin.get(&format!("/api/v1/images/{sha256}")).refused(404);
    }
    let firmware = json!({ "product_id": "pump", "type": 1, "identify": 0, "version": "2.0", "image": sha256 });
    let refused = admin.post("/api/v1/firmware", &firmware);
    assert!((400..500).contains(&refused.status), "firmware with an image that isn't there: {} {}", refused.status, refused.text());
    // The right digests are taken.
    let md5 = BASE64.encode(Md5::digest(&image));
    let digest = format!("sha-256=:{}:", BASE64.encode(Sha256::digest(&image)));
    let right = admin.request("POST", "/api/v1/images").header("Content-MD5", &md5).header("Repr-Digest", &digest).body(&image);
    assert_eq!(right.send().expect(201).json()["image"], sha256);
}

#[test]
fn firmware_is_created_read_listed_and_deleted() {
    let server = TestServer::start();
    let admin = server.admin();
    let image_id = upload(&admin, &image_bytes(1_000))["image"].as_str().unwrap().to_owned();
    let wanted = json!({
        "product_id": "pump", "type": 2, "identify": 5, "version": "7.1", "image": image_id,
        "name": "summer", "model": "P-7", "manufacturer": "Acme", "device_type": "Pump",
    });
    let created = admin.post("/api/v1/firmware", &wanted).expect(201).json();
    let path = format!("/api/v1/firmware/{}", id_text(&created["id"]));
    let read = admin.get(&path).expect(200).json();
    for (field, value) in wanted.as_object().unwrap() {
        assert_eq!(&read[field], value, "{field} of {read}");
    }
    assert_eq!(read["id"], created["id"]);
    assert!(items(&admin, "/api/v1/firmware").iter().any(|firmware| firmware["id"] == created["id"]));
    admin.delete(&path).expect(204);
    admin.get(&path).refused(404);
}

#[test]
fn firmware_that_a_task_names_is_kept() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = crate::common::Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    admin.delete(&format!("/api/v1/firmware/{}", id_text(&fleet.firmware_id))).refused(409);
}

#[test]
fn one_version_of_a_component_is_created_once() {
    let server = TestServer::start();
    let admin = server.admin();
    let image_id = upload(&admin, &image_bytes(1_000))["image"].as_str().unwrap().to_owned();
    create_firmware(&admin, "pump", "2.0", &image_id);
    let again = json!({ "product_id": "pump", "type": 1, "identify": 0, "version": "2.0", "image": image_id });
    admin.post("/api/v1/firmware", &again).refused(409);
    assert_eq!(items(&admin, "/api/v1/firmware").len(), 1);
}

#[test]
fn a_device_reads_back_in_the_shape_in_which_it_was_put() {
    let server = TestServer::start();
    let admin = server.admin();
    admin.put("/api/v1/products/pump", &json!({}));
    let path = "/api/v1/products/pump/devices/p-1";
    let device = json!({
        "components": [{ "type": 1, "identify": 0, "version": "1.0" }, { "type": 2, "identify": 3, "version": "9" }],
        "attributes": { "site": "north", "floor": 4 }, "tags": { "ring": "canary" }, "groups": ["pilot"],
        "asset_nodes": ["plant/hall-2/line-1"], "model": "P-7", "manufacturer": "Acme", "device_type": "Pump", "gateway": "g-1",
    });
    let put = admin.put(path, &device);
    assert!(matches!(put.status, 200 | 201), "{} {}", put.status, put.text());
    let read = admin.get(path).expect(200).json();
    for (field, value) in device.as_object().unwrap() {
        assert_eq!(&read[field], value, "{field} of {read}");
    }
    // What was read can be put, and changes nothing.
    assert!(admin.put(path, &read).status < 300);
    assert_eq!(admin.get(path).expect(200).json()["components"], device["components"]);
    admin.delete(path).expect(204);
    admin.get(path).refused(404);
}

#[test]
fn a_bulk_import_takes_the_good_lines_and_names_the_bad_ones() {
    let server = TestServer::start();
    let admin = server.admin();
    admin.put("/api/v1/products/pump", &json!({}));
    let lines = [
        r#"{"product_id":"pump","device_id":"p-1","components":[{"type":1,"identify":0,"version":"1.0"}]}"#,
        r#"{"product_id":"pump","device_id":"p-2","components":[{"type":"one"}]}"#,
        "this is no JSON",
        r#"{"product_id":"pump","device_id":"p-3"}"#,
    ];
    let answer =
        admin.request("POST", "/api/v1/devices").header("Content-Type", "application/x-ndjson").body(lines.join("\n").as_bytes());
    let answer = answer.send().expect(200).text();
    let answered: Vec<Value> = answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answered.len(), 3, "one line for each refused device and the counts: {answer}");
    assert_eq!(answered[2], json!({ "accepted": 2, "refused": 2 }));
    for device_id in ["p-1", "p-3"] {
        admin.get(&format!("/api/v1/products/pump/devices/{device_id}")).expect(200);
    }
    admin.get("/api/v1/products/pump/devices/p-2").refused(404);
}

#[test]
fn a_bulk_import_of_long_lines_takes_them_all() {
    let server = TestServer::start();
    let admin = server.admin();
    let attributes: Map<String, Value> = (0..100).map(|number| (format!("key-{number}"), json!("x".repeat(1_000)))).collect();
    let line =
        |number: u32| json!({ "product_id": "pump", "device_id": format!("p-{number}"), "attributes": attributes }).to_string();
    let lines: Vec<String> = (0..25).map(line).collect();
    let body = lines.join("\n");
    assert!(body.len() > 2 << 20, "more than two batches: {}", body.len());
    let answer = admin.request("POST", "/api/v1/devices").body(body.as_bytes()).send().expect(200);
    assert_eq!(answer.json(), json!({ "accepted": 25, "refused": 0 }));
    assert_eq!(items(&admin, "/api/v1/products/pump/devices?limit=100").len(), 25);
}

#[test]
fn a_strict_server_takes_no_check_of_a_device_that_was_not_registered() {
    let server = TestServer::setup().config("registration = \"strict\"\n").start();
    let admin = server.admin();
    admin.put("/api/v1/products/pump", &json!({})).expect(201);
    let fleet = crate::common::Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    let stranger = fleet.device(&admin, "p-1");
    stranger.client(&server).post("/api/v1/check", &stranger.check_body("1.0")).refused(404);
    let device = json!({ "components": [{ "type": 1, "identify": 0, "version": "1.0" }] });
    assert!(admin.put("/api/v1/products/pump/devices/p-1", &device).status < 300);
    stranger.offered(&server);
}
