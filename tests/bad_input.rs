//! Input that no well-behaved device or operator sends: a clear error, nothing half kept, and the server lives.

use crate::common::http::read_to_close;
use crate::common::{ADMIN_TOKEN, Client, Fleet, TestServer, image_bytes};
use serde_json::{Value, json};
use std::io::Write;

/// Everything that an operator can see, to show that nothing changed.
fn everything(admin: &Client) -> Vec<Value> {
    let lists = ["/api/v1/products", "/api/v1/firmware", "/api/v1/tasks"];
    lists.iter().map(|path| admin.get(path).expect(200).json()["items"].clone()).map(without_links).collect()
}

/// Links carry the time of their making.
fn without_links(mut value: Value) -> Value {
    match &mut value {
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_links(item.take())),
        Value::Object(fields) => {
            fields.remove("url");
            fields.values_mut().for_each(|field| *field = without_links(field.take()));
        }
        _ => {}
    }
    value
}

#[test]
fn a_task_with_a_wrong_field_is_refused_and_not_kept() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let before = everything(&admin);
    for wrong in [
        json!({ "product_id": 7 }),
        json!({ "product_id": "" }),
        json!({ "product_id": "x".repeat(200) }),
        json!({ "product_id": "line\nbreak" }),
        json!({ "type": "main" }),
        json!({ "type": 70_000 }),
        json!({ "type": -1 }),
        json!({ "type": 1.5 }),
        json!({ "identify": "second" }),
        json!({ "identify": -5 }),
        json!({ "from_versions": "1.0" }),
        json!({ "from_versions": [] }),
        json!({ "from_versions": [""] }),
        json!({ "from_versions": [1.5] }),
        json!({ "from_versions": ["x".repeat(300)] }),
        json!({ "from_versions": ["2.0"] }),
        json!({ "from_versions": (0..1_000).map(|version| version.to_string()).collect::<Vec<_>>() }),
        json!({ "name": "n".repeat(5_000) }),
        json!({ "kind": "downgrade" }),
        json!({ "policy": "sometimes" }),
        json!({ "scope": "everything" }),
        json!({ "scope": { "type": "moon" } }),
        json!({ "scope": { "type": "devices" } }),
        json!({ "scope": { "type": "devices", "devices": [1, {}] } }),
        json!({ "schedule": { "start": "tomorrow" } }),
        json!({ "schedule": { "start": "2030-01-02T00:00:00Z", "end": "2030-01-01T00:00:00Z" } }),
        json!({ "schedule": { "daily": { "from": "25:00", "to": "26:00" } } }),
        json!({ "timeout_s": "soon" }),
        json!({ "timeout_s": 0 }),
        json!({ "timeout_s": -1 }),
        json!({ "retry": 3 }),
        json!({ "retry": { "count": -1, "interval_s": 1 } }),
        json!({ "maximum_concurrency": 0 }),
        json!({ "maximum_concurrency": -3 }),
        json!({ "maximum_concurrency": 1e99 }),
    ] {
        admin.post("/api/v1/tasks", &fleet.task_body(wrong.clone())).refused_for(400, &wrong);
    }
    for missing in ["product_id", "firmware_id", "from_versions"] {
        let mut body = fleet.task_body(json!({}));
        body.as_object_mut().unwrap().remove(missing);
        admin.post("/api/v1/tasks", &body).refused_for(400, &json!({ "missing": missing }));
    }
    let unknown = admin.post("/api/v1/tasks", &fleet.task_body(json!({ "firmware_id": "no-such-firmware" })));
    assert!(matches!(unknown.status, 400 | 404), "{} {}", unknown.status, unknown.text());
    assert_eq!(everything(&admin), before);
}

#[test]
fn an_error_names_the_field_with_what_was_expected_and_what_came() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    for (wrong, named) in [
        (json!({ "type": "main" }), "type"),
        (json!({ "from_versions": "1.0" }), "from_versions"),
        (json!({ "scope": { "type": "moon" } }), "moon"),
        (json!({ "maximum_concurrency": -3 }), "maximum_concurrency"),
    ] {
        let response = admin.post("/api/v1/tasks", &fleet.task_body(wrong)).expect(400);
        let message = response.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(named), "{named:?} is not in {message:?}");
    }
}

#[test]
fn firmware_with_a_wrong_field_is_refused_and_not_kept() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let before = everything(&admin);
    let good = json!({ "product_id": "pump", "type": 1, "identify": 0, "version": "3.0", "image": fleet.image_id });
    for wrong in [
        json!({ "product_id": null }),
        json!({ "type": 70_000 }),
        json!({ "identify": -1 }),
        json!({ "version": "" }),
        json!({ "version": ["3.0"] }),
        json!({ "version": "v".repeat(300) }),
        json!({ "image": "" }),
        json!({ "image": "../../etc/passwd" }),
        json!({ "image": 12 }),
        json!({ "image": "g".repeat(64) }),
        json!({ "name": "n".repeat(5_000) }),
        json!({ "file_type": "folklore" }),
    ] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        admin.post("/api/v1/firmware", &body).refused_for(400, &wrong);
    }
    assert_eq!(everything(&admin), before);
}

#[test]
fn a_check_or_report_with_a_wrong_field_is_refused_and_takes_no_permit() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    let device = fleet.device(&admin, "p-1");
    let client = device.client(&server);
    for wrong in [
        json!({ "type": "main" }),
        json!({ "type": 70_000 }),
        json!({ "identify": [] }),
        json!({ "version": null }),
        json!({ "version": {} }),
        json!({ "version": "v".repeat(300) }),
        json!({ "device_id": "" }),
        json!({ "device_id": 1.5 }),
        json!({ "product_id": null }),
    ] {
        let mut body = device.check_body("1.0");
        body.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        let response = client.post("/api/v1/check", &body);
        assert!(matches!(response.status, 400 | 403), "{wrong}: {} {}", response.status, response.text());
        let status = response.status;
        response.refused(status);
    }
    assert_eq!(crate::common::fleet::task(&admin, &path)["permits_held"], 0);
    let offer = device.offered(&server);
    for wrong in [
        json!({ "state": "flying" }),
        json!({ "state": "timed_out" }),
        json!({ "state": null }),
        json!({ "state": 5 }),
        json!({ "percent": 101 }),
        json!({ "percent": -1 }),
        json!({ "percent": "half" }),
        json!({ "upgrade_id": null }),
        json!({ "detail": ["a"] }),
    ] {
        let mut body = device.report_body(&offer["id"], "downloading");
        body.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        client.post("/api/v1/report", &body).refused_for(400, &wrong);
    }
    assert_eq!(crate::common::fleet::count(&admin, &path, "offered"), 1);
}

#[test]
fn numbers_may_come_as_numeric_text() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({ "type": "1", "identify": " 0 ", "maximum_concurrency": "05" }));
    let device = fleet.device(&admin, "p-1");
    let mut check = device.check_body("1.0");
    check["type"] = json!("1");
    check["unknown_field"] = json!({ "is": "ignored" });
    let answered = device.client(&server).post("/api/v1/check", &check).expect(200).json();
    assert!(answered["upgrade"]["size"].is_u64(), "{answered}");
}

#[test]
fn a_body_that_is_no_json_is_refused() {
    let server = TestServer::start();
    let admin = server.admin();
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let bodies: [&[u8]; 9] =
        [b"", b"{", b"null", b"[]", b"\"text\"", b"{\"product_id\":\"\xff\xfe\"}", b"{\"a\":1}{\"b\":2}", b"\x00", deep.as_bytes()];
    for path in ["/api/v1/check", "/api/v1/report", "/api/v1/tasks", "/api/v1/firmware", "/api/v1/tokens"] {
        for body in bodies {
            let response = admin.request("POST", path).header("Content-Type", "application/json").body(body).send();
            response.refused_for(400, &json!(String::from_utf8_lossy(&body[..body.len().min(40)])));
        }
    }
}

#[test]
fn an_oversized_body_is_refused_before_it_is_read() {
    let server = TestServer::start();
    let admin = server.admin();
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(3 << 20));
    for path in ["/api/v1/check", "/api/v1/report", "/api/v1/tasks", "/api/v1/firmware", "/api/v1/tokens"] {
        let response = admin.request("POST", path).header("Content-Type", "application/json").body(large.as_bytes()).try_send();
        // The server may close while we still send; an answer, if one arrives, says why.
        if let Ok(response) = response {
            response.refused(413);
        }
    }
    // Announced only: answered without a byte of it.
    let head = format!(
        "POST /api/v1/tasks HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: 99999999999\r\n\r\n"
    );
    let answer = admin.exchange(head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer:?}");
    admin.get("/api/v1/tasks").expect(200);
}

#[test]
fn an_image_beyond_the_limit_is_refused_and_not_kept() {
    let server = TestServer::setup().config("[images]\nsize_bytes_max = 100000\n").start();
    let admin = server.admin();
    let image = image_bytes(100_001);
    if let Ok(response) = admin.request("POST", "/api/v1/images").body(&image).try_send() {
        response.refused(413);
    }
    // Without a length it is noticed on the way.
    let head = format!(
        "POST /api/v1/images HTTP/1.1\r\nHost: t\r\nConnection: close\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let mut request = head.into_bytes();
    request.extend_from_slice(format!("{:x}\r\n", image.len()).as_bytes());
    request.extend_from_slice(&image);
    request.extend_from_slice(b"\r\n0\r\n\r\n");
    let answer = admin.exchange(&request);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer:?}");
    admin.request("POST", "/api/v1/images").body(&image[..100_000]).send().expect(201);
}

#[test]
fn a_truncated_upload_is_not_kept() {
    let server = TestServer::start();
    let admin = server.admin();
    let image = image_bytes(100_000);
    let half_sha256 = {
        use sha2::{Digest, Sha256};
        Sha256::digest(&image[..50_000]).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let mut stream = admin.connect().unwrap();
    let head =
        format!("POST /api/v1/images HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: 100000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&image[..50_000]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let answer = read_to_close(&mut stream);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer:?}");
    admin.get(&format!("/api/v1/images/{half_sha256}")).refused(404);
    assert_eq!(admin.request("POST", "/api/v1/images").body(&image).send().expect(201).json()["size"], 100_000);
}

#[test]
fn names_in_paths_are_taken_apart_safely() {
    let server = TestServer::start();
    let admin = server.admin();
    for path in [
        "/api/v1/products/..",
        "/api/v1/products/%2e%2e",
        "/api/v1/products/a%2Fb",
        "/api/v1/products/%00",
        "/api/v1/products/%zz",
        "/api/v1/products/%ff%fe",
        "/api/v1/products/%0d%0aX-Injected:%20yes",
        "/api/v1/tasks/../../../etc/passwd",
        "/api/v1/tasks/18446744073709551616",
        "/api/v1/firmware/-1",
        "//api/v1//products",
        "/api/v1/products?cursor=%00%ff",
        "/api/v1/products?limit=abc",
    ] {
        let response = admin.get(path);
        assert!((400..500).contains(&response.status), "{path}: {} {}", response.status, response.text());
        assert_eq!(response.header("X-Injected"), None);
    }
    let long = format!("/api/v1/products/{}", "x".repeat(60_000));
    let response = admin.get(&long);
    assert!((400..500).contains(&response.status), "{}", response.status);
    // Names that only look strange are names.
    for name in ["a b", "ü", "100%", "a+b", "..a"] {
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let put = admin.put(&format!("/api/v1/products/{encoded}"), &json!({}));
        assert!(put.status < 300, "{name}: {} {}", put.status, put.text());
        assert_eq!(admin.get(&format!("/api/v1/products/{encoded}")).expect(200).json()["product_id"], name);
    }
}

#[test]
fn malformed_http_is_refused_and_the_server_lives() {
    let server = TestServer::start();
    let client = server.anonymous();
    let huge_header = format!("GET /healthz HTTP/1.1\r\nHost: t\r\nX-Long: {}\r\n\r\n", "x".repeat(200_000));
    let many_headers = format!("GET /healthz HTTP/1.1\r\nHost: t\r\n{}\r\n", "X-Many: x\r\n".repeat(5_000));
    let requests: [&[u8]; 13] = [
        b"\r\n\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: t\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: t\r\nno colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: t\r\nX-Null: a\x00b\r\n\r\n",
        b"POST /api/v1/check HTTP/1.1\r\nHost: t\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/v1/check HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /api/v1/check HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x01\x02\x03\xff\xfe\r\n\r\n",
        huge_header.as_bytes(),
        many_headers.as_bytes(),
    ];
    for request in requests {
        let mut stream = client.connect().unwrap();
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let answer = read_to_close(&mut stream);
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 505"),
            "{shown:?}: {answer:?}"
        );
        client.get("/healthz").expect(200);
    }
}

#[test]
fn connections_that_stall_are_closed() {
    let limits = "[limits]\nheader_timeout_s = 1\nbody_timeout_s = 1\nidle_timeout_s = 1\n";
    let server = TestServer::setup().config(limits).start();
    let client = server.anonymous();
    let body = format!(
        "POST /api/v1/check HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: 100\r\n\r\n{{\"prod"
    );
    let upload = format!(
        "POST /api/v1/images HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: 100\r\n\r\nhalf"
    );
    let stalling: [&[u8]; 5] =
        [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: t\r\nX-Slow: ", body.as_bytes(), upload.as_bytes()];
    for sent in stalling {
        // Returns when the server closes, and panics if it doesn't.
        let answer = client.exchange(sent);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer:?}");
    }
    // An idle connection after a whole answer, too.
    let answer = client.exchange(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
}

#[test]
fn a_slow_dripping_head_does_not_stretch_its_time() {
    let server = TestServer::setup().config("[limits]\nheader_timeout_s = 1\n").start();
    let mut stream = server.anonymous().connect().unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: t\r\nX-Slow: ").unwrap();
    // A byte now and then, for as long as anybody listens.
    crate::common::wait_until("the server has closed", || {
        let dripped = stream.write_all(b"x");
        dripped.is_err().then_some(())
    });
    server.anonymous().get("/healthz").expect(200);
}
