//! EnOS firmware: what forms are taken, what is refused and leaves nothing behind, and how firmware is found.

use crate::common::server::Setup;
use crate::common::{image_bytes, wait_until};
use crate::enos_support::{Form, ORGANIZATION, PRODUCT, Platform, code, data, envelope, message, metadata, path, sha256_hex};
use serde_json::{Value, json};
use std::io::Write as _;

/// Nothing of what was refused is there: neither firmware nor its bytes.
#[track_caller]
fn nothing_is_kept(platform: &Platform, file: &[u8]) {
    assert_eq!(data(&platform.firmware("search", &[], &json!({}))), json!([]));
    platform.server.admin().get(&format!("/api/v1/images/{}", sha256_hex(file))).expect(404);
}

#[test]
fn enos_firmware_is_created_from_a_form_and_shown_as_the_platform_does() {
    let platform = Platform::start();
    let file = image_bytes(3_000_000);
    let changes = json!({
        "name": { "defaultValue": "pump", "i18nValue": { "zh_CN": "泵" } },
        "signMethod": "sha256", "sign": sha256_hex(&file), "desc": "better", "enableVerification": true,
        "firmwareTags": { "line": "a" }, "maxAllowedForVerification": "9", "minSuccessForVerified": 2,
    });
    let created = data(&platform.send_form(&Form::of(&metadata("2.0", &file, changes), &file)));
    let id = created["firmwareId"].as_str().unwrap();
    let mut shown = data(&platform.firmware("get", &[("firmwareId", id)], &json!({})));
    let link = shown["fileUrl"].take();
    assert!(shown["createTime"].take().as_u64().is_some_and(|time| time > 1_500_000_000_000));
    assert_eq!(
        shown,
        json!({
            "orgId": ORGANIZATION, "firmwareId": id, "productKey": PRODUCT,
            "name": { "defaultValue": "pump", "i18nValue": { "zh_CN": "泵" } },
            "version": "2.0", "desc": "better", "signMethod": "sha256", "sign": sha256_hex(&file),
            "fileUrl": null, "fileSize": 3_000_000, "enableVerification": true, "isVerified": false, "createTime": null,
            "firmwareTags": { "line": "a" }, "maxAllowedForVerification": 9, "minSuccessForVerified": 2,
        })
    );
    assert!(platform.server.anonymous().get(link.as_str().unwrap()).expect(200).body == file, "the link gives other bytes");
    let native = platform.server.admin().get(&format!("/api/v1/firmware/{id}")).expect(200).json();
    assert_eq!((&native["version"], &native["name"]), (&json!("2.0"), &json!("pump")), "one id serves both");
}

#[test]
fn enos_the_file_may_come_before_its_metadata_and_among_other_parts() {
    let platform = Platform::start();
    let file = image_bytes(2_000_000);
    let metadata = metadata("2.0", &file, json!({})).to_string();
    let other = "form-data; name=\"_charset_\"";
    let form = Form::default().part(other, b"utf-8").file(&file).part(other, b"").metadata(metadata.as_bytes());
    data(&platform.send_form(&form));
    let found = data(&platform.firmware("search", &[], &json!({})));
    assert_eq!((&found[0]["version"], &found[0]["fileSize"]), (&json!("2.0"), &json!(2_000_000)));
}

#[test]
fn enos_24400_a_digest_that_is_another_whichever_part_comes_first() {
    let platform = Platform::start();
    let file = image_bytes(2_000_000);
    for changes in [json!({ "sign": "0".repeat(32) }), json!({ "signMethod": "sha256", "sign": "0".repeat(64) })] {
        let metadata = metadata("2.0", &file, changes).to_string();
        for form in
            [Form::default().metadata(metadata.as_bytes()).file(&file), Form::default().file(&file).metadata(metadata.as_bytes())]
        {
            let response = platform.send_form(&form);
            assert_eq!(code(&response), 24_400);
            assert!(message(&response).contains("0000 was declared, got"), "{}", message(&response));
        }
    }
    nothing_is_kept(&platform, &file);
}

#[test]
fn enos_24400_a_form_that_lacks_a_part_or_has_one_twice() {
    let platform = Platform::start();
    let file = b"an image".as_slice();
    let metadata = metadata("2.0", file, json!({})).to_string();
    let metadata = metadata.as_bytes();
    for (form, part) in [
        (Form::default(), "no part file"),
        (Form::default().metadata(metadata), "no part file"),
        (Form::default().file(file), "no part metadata"),
        (Form::default().metadata(metadata).file(file).metadata(metadata), "two parts metadata"),
        (Form::default().metadata(metadata).file(file).file(file), "two parts file"),
        (Form::default().metadata(metadata).file(b""), "empty"),
        (Form::default().file(b"").metadata(metadata), "empty"),
        (Form::default().metadata(b"").file(file), "not JSON"),
        (Form::default().metadata(&vec![b' '; 100_000]).file(file), "65536 bytes at most"),
        (Form::default().part("form-data", metadata).file(file), "no name"),
    ] {
        let response = platform.send_form(&form);
        assert_eq!(code(&response), 24_400, "{part}");
        assert!(message(&response).contains(part), "expected {part:?}, got {}", message(&response));
    }
    nothing_is_kept(&platform, file);
}

#[test]
fn enos_24400_metadata_that_is_a_python_literal() {
    let platform = Platform::start();
    let literal = "{'name': {'defaultValue': 'x'}, 'version': '1', 'enableVerification': True}";
    let response = platform.send_form(&Form::default().metadata(literal.as_bytes()).file(b"an image"));
    assert_eq!(code(&response), 24_400);
    assert!(message(&response).contains("json.dumps"), "{}", message(&response));
}

#[test]
fn enos_24400_a_body_that_is_no_form_or_another_form_than_it_says() {
    let platform = Platform::start();
    let file = b"an image".as_slice();
    let form = Form::of(&metadata("2.0", file, json!({})), file);
    let query = [("action", "create"), ("orgId", ORGANIZATION), ("productKey", PRODUCT)];
    let operator = platform.native_token(json!({ "role": "operator" }));
    let send = |content_type: &str, body: &[u8]| {
        let client = platform.server.anonymous();
        let request = client.request("POST", &path("ota-firmwares", &query)).header("apim-accesstoken", &operator);
        request.header("Content-Type", content_type).body(body).send()
    };
    let whole = form.bytes();
    for (content_type, body) in [
        ("application/x-www-form-urlencoded", b"metadata=%7B%7D".as_slice()),
        ("application/json", b"{}"),
        ("multipart/form-data", &whole),
        ("multipart/form-data; boundary=another", &whole),
        (&form.content_type(), &whole[..whole.len() / 2]),
        (&form.content_type(), &whole[..whole.len() - 5]),
        (&form.content_type(), b""),
    ] {
        assert_eq!(code(&send(content_type, body)), 24_400, "{content_type}, {} bytes", body.len());
    }
    // Who signs what isn't signed here, a JSON body, learns what is wrong with that first.
    let response = platform.firmware("create", &[("productKey", PRODUCT)], &json!({ "version": "2.0" }));
    assert_eq!(code(&response), 24_400);
    assert!(message(&response).contains("must be multipart/form-data"), "{}", message(&response));
    nothing_is_kept(&platform, file);
    assert_eq!(send(&form.content_type(), &whole).json()["code"], 0);
}

#[test]
fn enos_24400_a_file_beyond_the_bound() {
    let platform = Platform::on(Setup::default().config("[images]\nsize_bytes_max = 100000\n").start());
    for length in [100_001, 3_000_000] {
        let file = image_bytes(length);
        for form in [
            Form::of(&metadata("2.0", &file, json!({})), &file),
            Form::default().file(&file).metadata(metadata("2.0", &file, json!({})).to_string().as_bytes()),
        ] {
            assert_eq!(code(&platform.send_form(&form)), 24_400, "{length}");
        }
        nothing_is_kept(&platform, &file);
    }
    let file = image_bytes(100_000);
    data(&platform.send_form(&Form::of(&metadata("2.0", &file, json!({})), &file)));
}

#[test]
fn enos_24400_each_field_of_the_metadata() {
    let platform = Platform::start();
    let file = b"an image".as_slice();
    for (changes, part) in [
        (json!({ "name": null }), "name"),
        (json!({ "name": { "defaultValue": "" } }), "name"),
        (json!({ "version": null }), "version"),
        (json!({ "version": "v".repeat(10_000) }), "version"),
        (json!({ "signMethod": "crc32" }), "signMethod"),
        (json!({ "sign": "xyz" }), "sign"),
        (json!({ "enableVerification": null }), "enableVerification"),
        (json!({ "maxAllowedForVerification": 0 }), "maxAllowedForVerification"),
        (json!({ "minSuccessForVerified": 0 }), "minSuccessForVerified"),
        (json!({ "minSuccessForVerified": 3, "maxAllowedForVerification": 2 }), "minSuccessForVerified"),
        (json!({ "firmwareTags": { "k": [] } }), "firmwareTags"),
    ] {
        let response = platform.send_form(&Form::of(&metadata("2.0", file, changes.clone()), file));
        assert_eq!(code(&response), 24_400, "{changes}");
        assert!(message(&response).contains(part), "{changes}: {}", message(&response));
    }
}

#[test]
fn enos_24601_a_version_that_the_product_has() {
    let platform = Platform::start();
    platform.create_firmware("2.0", json!({}));
    let file = b"another image".as_slice();
    let form = Form::of(&metadata("2.0", file, json!({ "name": "another" })), file);
    assert_eq!(code(&platform.send_form(&form)), 24_601);
    platform.server.admin().get(&format!("/api/v1/images/{}", sha256_hex(file))).expect(404);
}

#[test]
fn enos_24602_a_name_that_firmware_of_the_product_has() {
    let platform = Platform::start();
    platform.create_firmware("2.0", json!({ "name": "pump" }));
    let file = b"another image".as_slice();
    let form = Form::of(&metadata("2.1", file, json!({ "name": { "defaultValue": "pump" } })), file);
    assert_eq!(code(&platform.send_form(&form)), 24_602);
}

#[test]
fn enos_24603_firmware_that_another_call_is_creating() {
    let platform = Platform::start();
    let file = image_bytes(500_000);
    let form = Form::of(&metadata("2.0", &file, json!({})), &file);
    let bytes = form.bytes();
    let client = platform.server.anonymous();
    let query = [("action", "create"), ("orgId", ORGANIZATION), ("productKey", PRODUCT)];
    let mut head = format!("POST {} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n", path("ota-firmwares", &query));
    for (name, value) in platform.form_headers(&form) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", bytes.len()));
    let mut first = client.connect().unwrap();
    first.write_all(head.as_bytes()).unwrap();
    first.write_all(&bytes[..bytes.len() / 2]).unwrap();

    // The second has no file: where it comes too early it creates nothing either.
    let second = Form::default().metadata(metadata("2.0", &file, json!({})).to_string().as_bytes());
    wait_until("the first call is creating", || (code(&platform.send_form(&second)) == 24_603).then_some(()));

    first.write_all(&bytes[bytes.len() / 2..]).unwrap();
    let answer = crate::common::http::read_to_close(&mut first);
    assert!(answer.contains("\"firmwareId\":"), "{answer}");
    assert_eq!(code(&platform.send_form(&second)), 24_601);
}

#[test]
fn enos_an_upload_that_breaks_off_leaves_nothing_and_the_next_one_passes() {
    let platform = Platform::start();
    let file = image_bytes(3_000_000);
    let form = Form::of(&metadata("2.0", &file, json!({})), &file);
    let bytes = form.bytes();
    let query = [("action", "create"), ("orgId", ORGANIZATION), ("productKey", PRODUCT)];
    let mut head = format!("POST {} HTTP/1.1\r\nHost: test\r\n", path("ota-firmwares", &query));
    for (name, value) in platform.form_headers(&form) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", bytes.len()));
    let mut broken = platform.server.anonymous().connect().unwrap();
    broken.write_all(head.as_bytes()).unwrap();
    broken.write_all(&bytes[..2_000_000]).unwrap();
    drop(broken);
    wait_until("the name is free again", || {
        let response = platform.send_form(&form);
        if response.json()["code"] == 0 { Some(()) } else { (code(&response) != 24_603).then(|| panic!("{}", response.text())) }
    });
}

#[test]
fn enos_24604_firmware_that_a_job_uses() {
    let platform = Platform::start();
    let id = platform.create_firmware("2.0", json!({}));
    let job = platform.create_job(&id, json!({}));
    assert_eq!(code(&platform.firmware("delete", &[("firmwareId", &id)], &json!({}))), 24_604);
    data(&platform.jobs("stop", &[("jobId", &job)], &json!({})));
    assert_eq!(code(&platform.firmware("delete", &[("firmwareId", &id)], &json!({}))), 24_604, "a stopped job uses it too");
    data(&platform.jobs("delete", &[("jobId", &job)], &json!({})));
    assert_eq!(data(&platform.firmware("delete", &[("firmwareId", &id)], &json!({}))), json!(null));
}

#[test]
fn enos_24404_firmware_that_is_not_there() {
    let platform = Platform::start();
    let id = platform.create_firmware("2.0", json!({}));
    data(&platform.firmware("delete", &[("firmwareId", &id)], &json!({})));
    for id in [id.as_str(), "5ee1a91029b990001b9c188e", "nonsense"] {
        for action in ["get", "delete"] {
            let response = platform.firmware(action, &[("firmwareId", id)], &json!({}));
            assert_eq!((code(&response), message(&response).as_str()), (24_404, "Firmware not found"));
        }
    }
    assert_eq!(code(&platform.firmware("get", &[], &json!({}))), 24_400, "no firmwareId");
}

#[test]
fn enos_24500_a_bound_of_the_operators_is_told_by_the_http_status_too() {
    let platform = Platform::on(Setup::default().config("[limits]\nfirmware_max = 1\n").start());
    platform.create_firmware("2.0", json!({}));
    let file = b"one too many".as_slice();
    let response = platform.send_form(&Form::of(&metadata("2.1", file, json!({})), file)).expect(507);
    assert_eq!(response.json()["code"], 24_500, "{}", response.text());
}

#[test]
fn enos_firmware_is_found_by_expressions_and_page_by_page() {
    let platform = Platform::start();
    for version in 1..=7 {
        let name = json!({ "defaultValue": format!("pump {version}"), "i18nValue": { "zh_CN": format!("泵 {version}") } });
        platform.create_firmware(&version.to_string(), json!({ "name": name, "enableVerification": version == 7 }));
    }
    let versions = |expression: &str| -> Vec<String> {
        let rows = platform.search_all("ota-firmwares", "search", expression);
        rows.iter().map(|row| row["version"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(versions(""), ["7", "6", "5", "4", "3", "2", "1"], "newest first");
    assert_eq!(versions("productKey = \"8UhOTwV5\" AND version in ('2', \"5\")"), ["5", "2"]);
    assert_eq!(versions("productKey='another'"), [""; 0]);
    assert_eq!(versions("name like 'pump 3'"), ["3"]);
    assert_eq!(versions("name.zh_CN like '泵 4'"), ["4"]);
    assert_eq!(versions("name.default like '泵'"), [""; 0]);
    assert_eq!(versions("isVerified=true"), [""; 0]);
    assert_eq!(versions("isVerified=False").len(), 7);
    for expression in ["colour='red'", "version=", "version like '1'", "isVerified='maybe'"] {
        let response = platform.firmware("search", &[], &json!({ "expression": expression }));
        assert_eq!(code(&response), 24_400, "{expression}");
        assert!(message(&response).starts_with("expression, character "), "{}", message(&response));
    }
}

#[test]
fn enos_pages_have_the_platforms_bounds_and_echo() {
    let platform = Platform::start();
    let page = |pagination: Value| platform.firmware("search", &[], &json!({ "pagination": pagination }));
    let echo = |pagination| envelope(&page(pagination))["pagination"].clone();
    assert_eq!(echo(json!(null)), json!({ "sortedBy": null, "pageNo": 1, "pageSize": 10, "totalSize": 0 }));
    let sorted = json!({ "pageNo": "3", "pageSize": 200, "sorters": [{ "field": "version", "order": "ASC" }] });
    assert_eq!(echo(sorted), json!({ "sortedBy": null, "pageNo": 3, "pageSize": 200, "totalSize": 0 }));
    for wrong in [json!({ "pageNo": 0 }), json!({ "pageNo": "x" }), json!({ "pageSize": 0 }), json!({ "pageSize": 201 })] {
        assert_eq!(code(&page(wrong.clone())), 24_400, "{wrong}");
    }
}

#[test]
fn enos_versions_are_those_that_the_products_devices_run() {
    let platform = Platform::start();
    assert_eq!(data(&platform.firmware("listVersion", &[("productKey", PRODUCT)], &json!({}))), json!([]));
    for (device, version) in [("a", "7.7"), ("b", "2.0"), ("c", "7.7")] {
        platform.put_device(device, version, json!({}));
    }
    let mut versions = data(&platform.firmware("listVersion", &[("productKey", PRODUCT)], &json!({})));
    versions.as_array_mut().unwrap().sort_by_key(Value::to_string);
    assert_eq!(versions, json!(["2.0", "7.7"]));
    assert_eq!(code(&platform.firmware("listVersion", &[], &json!({}))), 24_400, "no productKey");
}
