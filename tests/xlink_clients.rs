//! What clients of this platform put on the wire, byte for byte as they do, and what their parsers can bear.

use crate::xlink_support::{PRODUCT, Platform, code, nothing};
use serde_json::{Value, json};

/// How a small device reads a number: `strstr` for the key, then `atoi`; blanks are skipped, a quote ends it at 0.
fn atoi_after(text: &str, key: &str) -> u32 {
    let Some(start) = text.find(key) else { return 0 };
    let digits = text[start + key.len()..].trim_start();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// How it reads a text: from behind the key to the next quote, nothing unescaped, into a buffer of this many bytes.
fn text_after<'a>(text: &'a str, key: &str, buffer_bytes: usize) -> &'a str {
    let start = text.find(key).unwrap_or_else(|| panic!("no {key} in {text}")) + key.len();
    let end = text[start..].find('"').unwrap();
    assert!(end < buffer_bytes, "{end} bytes don't fit {buffer_bytes} with their end");
    &text[start..start + end]
}

#[test]
fn xlink_client_1_a_c_device_that_scans_for_bare_numbers() {
    let platform = Platform::start();
    // It takes the start's MD5 for that of the download, so its operators set both alike.
    let md5 = "c81e728d9d4c2f636f067f89cc14862c";
    let task = platform.start_task(json!({ "from_version_md5": md5, "target_version": 10003 }));
    let token = platform.device_token(1_144_502_016);
    assert!(token.len() <= 127, "its buffer for the token has 128 bytes");

    let path = "/v2/upgrade/firmware/check/1144502016";
    let body = format!(r#"{{"product_id":"{PRODUCT}","type":"1","current_version":"01","identify":"0"}}"#);
    let answer = raw(&platform, path, &token, &body);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "it reads no chunks: {answer}");
    assert_eq!(atoi_after(&answer, "\"target_version\":"), 10003);
    assert_eq!(text_after(&answer, "\"target_version_url\":\"", 256), "http://files.example/2.bin");
    assert_eq!(text_after(&answer, "\"from_version_md5\":\"", 64), md5);

    // It reports the same version twice, and looks at the status alone.
    let report = r#"{"type":"1","mod":"1","identify":"0","last_version":"10003","current_version":"10003","result":"0"}"#;
    let answer = raw(&platform, "/v2/upgrade/firmware/report/1144502016", &token, report);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(platform.listed(&task)["upgrade_count"], 0);

    // What it says when it checks is a constant; the version that it reported must not come between.
    assert!(raw(&platform, path, &token, &body).starts_with("HTTP/1.1 200 "));
}

/// As that device writes it: no blank after the header's colon, and the connection closed.
fn raw(platform: &Platform, path: &str, token: &str, body: &str) -> String {
    let address = platform.server.address("http");
    let length = body.len();
    platform.server.anonymous().exchange(
        format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAccess-Token:{token}\r\nConnection:close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .as_bytes(),
    )
}

#[test]
fn xlink_client_2_a_gateway_with_a_buffer_of_1024_bytes() {
    let platform = Platform::start();
    let image = crate::common::image_bytes(4_000);
    let uploaded = upload(&platform, &image);
    let task = platform.start_task(json!({
        "name": "n".repeat(32),
        "description": "d".repeat(48),
        "from_version": i32::MAX - 1,
        "target_version": i32::MAX,
        "target_version_url": uploaded["url"], "target_version_md5": uploaded["md5"], "target_version_size": uploaded["size"],
        "from_version_url": format!("http://{}", "f".repeat(180)),
        "type": "3",
        "identify": i32::MAX,
    }));
    let body = format!(
        r#"{{"product_id":"{PRODUCT}","device_id":"{}","type":"3","current_version":"{}","identify":"{}"}}"#,
        i32::MAX,
        i32::MAX - 1,
        i32::MAX
    );
    let path = format!("/v2/upgrade/firmware/check/{}", i32::MAX);
    let response = platform.call("POST", &path, &platform.device_token(i32::MAX as u32), Some(&body)).expect(200);
    assert!(response.body.len() < 1_024, "{} bytes: {}", response.body.len(), response.text());
    let offer = response.json();
    assert_eq!(offer["id"], task["id"]);
    assert!(offer["target_version"].is_u64(), "cJSON demands a Number: {offer}");
    assert!(offer["target_version_url"].as_str().unwrap().len() <= 255, "{offer}");
    assert!(offer["target_version_md5"].as_str().unwrap().len() < 40, "{offer}");
}

#[test]
fn xlink_client_3_an_application_that_sends_texts_and_wants_numbers() {
    let platform = Platform::start();
    let _ = platform.start_task(json!({ "from_version": 15, "target_version": 16 }));
    let _ = platform.check(7, &platform.device_token(7), 3);
    let user = platform.token(json!({ "role": "user" }));
    let body = json!({ "product_id": PRODUCT, "device_id": "7", "type": "1", "current_version": "15", "identify": "0" });
    let offer = platform.post(&user, "/v2/upgrade/firmware/check/7", &body).expect(200).json();
    for field in [
        "target_version",
        "target_version_size",
        "from_version",
        "from_version_size",
        "upgrade_count",
        "status",
        "type",
        "identify",
    ] {
        assert!(offer[field].is_u64(), "{field} in {offer}");
    }
}

#[test]
fn xlink_client_4_a_test_suite_with_unknown_fields_that_evaluates_the_answer_as_python() {
    let platform = Platform::start();
    for (index, task_type) in [0, 1].into_iter().enumerate() {
        let task = platform.create(json!({
            "name": format!("suite {index}"), "type": 1, "identify": "", "from_version": index + 1, "target_version": "9",
            "task_type": task_type, "scope": { "category": 0, "device_list": [] },
        }));
        for literal in ["null", "true", "false"] {
            assert!(!task.to_string().contains(literal), "{literal} is no Python: {task}");
        }
        assert!(task.to_string().contains("\"id\""));
        assert_eq!(task["task_type"], task_type);
        nothing(&platform.set_status(&task, 1));
        nothing(&platform.set_status(&task, 1));
        let device_id = index as u32 + 1;
        let offer = platform.check(device_id, &platform.device_token(device_id), device_id).expect(200).json();
        assert_eq!(offer["id"], task["id"], "both modes are returned by a check");
    }
}

#[test]
fn xlink_client_5_a_web_console_from_create_to_delete() {
    let platform = Platform::start();
    let operator = &platform.operator;
    // Versions as the console's form holds them: texts.
    let task = platform
        .create(json!({ "from_version": "1", "target_version": "2", "from_version_size": "1", "target_version_size": "2" }));
    let list = platform.get(operator, &format!("/v2/upgrade/firmware/tasks?product_id={PRODUCT}")).expect(200).json();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "a bare array");
    nothing(&platform.set_status(&task, 1));
    let _ = platform.check(7, &platform.device_token(7), 1).expect(200);
    let device = json!({ "product_id": PRODUCT, "device_id": "7" });
    let newest = platform.post(operator, "/v2/upgrade/device/newest_version", &device).expect(200).json();
    assert_eq!(newest, json!({ "current": 1, "newest": 2, "description": "the second version" }));
    nothing(&platform.post(operator, "/v2/upgrade/device", &device));
    nothing(&platform.set_status(&task, 0));
    nothing(&platform.delete(&task));
}

#[test]
fn xlink_client_6_an_application_with_a_suffix_that_fetches_without_a_token() {
    let platform = Platform::start();
    let image = crate::common::image_bytes(300_000);
    let uploaded = upload(&platform, &image);
    let _ = platform.start_task(json!({
        "target_version_url": uploaded["url"], "target_version_md5": uploaded["md5"], "target_version_size": uploaded["size"],
    }));
    let _ = platform.check(7, &platform.device_token(7), 9);
    let user = platform.token(json!({ "role": "user" }));
    let check = |version: u32| {
        let body = json!({ "product_id": PRODUCT, "type": 1, "current_version": version, "identify": 0 });
        platform.post(&user, "/v2/upgrade/firmware/check/7/geapp?useHttps=true", &body)
    };
    let offer = check(1).expect(200).json();
    let url = offer["target_version_url"].as_str().unwrap();
    let client = platform.server.anonymous();
    let head = client.head(url).expect(200);
    assert_eq!(head.header("content-length"), Some(offer["target_version_size"].to_string().as_str()));
    let fetched = client.get(url).expect(200);
    assert!(fetched.body == image, "the image differs");
    assert_eq!(code(&check(2)), 4_041_013, "up to date");
}

#[test]
fn xlink_links_are_written_without_escaped_slashes_and_are_signed_anew_for_each_device() {
    let platform = Platform::start();
    let image = crate::common::image_bytes(1_000);
    let uploaded = upload(&platform, &image);
    let _ = platform.start_task(json!({
        "target_version_url": uploaded["url"], "target_version_md5": uploaded["md5"], "target_version_size": uploaded["size"],
    }));
    let urls: Vec<String> = [1, 2]
        .map(|device_id| {
            let response = platform.check(device_id, &platform.device_token(device_id), 1).expect(200);
            assert!(!response.text().contains('\\'), "{}", response.text());
            response.json()["target_version_url"].as_str().unwrap().to_owned()
        })
        .into();
    assert_ne!(urls[0], urls[1], "a link names its upgrade");
    for url in urls {
        assert!(url.starts_with(&platform.server.url()) && url.len() <= 255, "{url}");
        assert!(platform.server.anonymous().get(&url).expect(200).body == image);
    }
}

#[track_caller]
fn upload(platform: &Platform, image: &[u8]) -> Value {
    let path = format!("/v2/upload/product/{PRODUCT}/firmware");
    let client = platform.server.anonymous();
    client.request("POST", &path).header("Access-Token", &platform.operator).body(image).send().expect(200).json()
}
