//! What makes the upgrade calls usable: logging in, activating devices, firmware, uploads, and a user's view.

use crate::common::{Response, image_bytes};
use crate::xlink_support::{PRODUCT, Platform, code, firmware_body, nothing, task_body};
use md5::{Digest, Md5};
use serde_json::{Value, json};

const FIRMWARE: &str = "/v2/product/160fa2b1f2a1e1f2160fa2b1f2a1e1f2/firmware";
const FIRMWARES: &str = "/v2/product/160fa2b1f2a1e1f2160fa2b1f2a1e1f2/firmwares";
const UPLOAD: &str = "/v2/upload/product/160fa2b1f2a1e1f2160fa2b1f2a1e1f2/firmware";

#[test]
fn xlink_an_application_logs_in_and_operates() {
    let platform = Platform::start();
    let app = platform.server.admin().post("/api/v1/apps", &json!({})).expect(201).json();
    let login = |id: &Value, secret: &Value| platform.post("", "/v2/accesskey_auth", &json!({ "id": id, "secret": secret }));
    let answer = login(&app["id"], &app["secret"]).expect(200).json();
    let token = answer["access_token"].as_str().unwrap();
    assert!(token.len() <= 127);
    let _ = platform.post(token, "/v2/upgrade/firmware/task", &task_body(json!({}))).expect(200);

    assert_eq!(code(&login(&app["id"], &json!("wrong"))), 4_031_003);
    assert_eq!(code(&login(&json!("nobody"), &app["secret"])), 4_031_003);
    assert_eq!(code(&login(&app["id"], &json!(null))), 4_001_002);
}

/// A device that is activated with the product's code.
struct Activated {
    mac: &'static str,
    device_id: u64,
    authorize_code: String,
}

fn activation_code(platform: &Platform) -> String {
    platform.token(json!({ "role": "device", "product_id": PRODUCT }))
}

fn activate_with(platform: &Platform, mac: &str, code: &str) -> Response {
    let body = json!({
        "mac": mac, "mcu_mod": "MCU", "mcu_version": 3, "firmware_mod": "WIFI", "firmware_version": "1", "active_code": code,
    });
    platform.post("", "/v2/device_active", &body)
}

#[track_caller]
fn activate(platform: &Platform, mac: &'static str, code: &str) -> Activated {
    let answer = activate_with(platform, mac, code).expect(200).json();
    let device_id = answer["device_id"].as_u64().unwrap_or_else(|| panic!("cJSON demands a Number: {answer}"));
    Activated { mac, device_id, authorize_code: answer["authorize_code"].as_str().unwrap().to_owned() }
}

fn log_in(platform: &Platform, device: &Activated) -> Response {
    let body = json!({ "product_id": PRODUCT, "mac": device.mac, "authorize_code": device.authorize_code });
    platform.post("", "/v2/device_login", &body)
}

#[test]
fn xlink_a_device_activates_logs_in_checks_and_refreshes() {
    let platform = Platform::start();
    let _ = platform.start_task(json!({}));
    let device = activate(&platform, "aa:bb:cc:dd:ee:01", &activation_code(&platform));
    assert!((1..=i32::MAX as u64).contains(&device.device_id));

    let pair = log_in(&platform, &device).expect(200).json();
    assert_eq!((&pair["device_id"], &pair["expire_in"]), (&json!(device.device_id), &json!(7200)));
    let access = pair["access_token"].as_str().unwrap();
    assert!(access.len() <= 127, "devices set aside 128 bytes");
    let _ = platform.check(device.device_id as u32, access, 1).expect(200);

    let refresh = |token: &Value| platform.post(access, "/v2/device_refresh", &json!({ "refresh_token": token }));
    let fresh = refresh(&pair["refresh_token"]).expect(200).json();
    let _ = platform.check(device.device_id as u32, fresh["access_token"].as_str().unwrap(), 1).expect(200);
    assert_ne!(fresh["refresh_token"], pair["refresh_token"]);
    assert_eq!(code(&refresh(&pair["refresh_token"])), 4_031_003, "a refresh token is used once");
    assert_eq!(code(&refresh(&pair["access_token"])), 4_031_003, "an access token refreshes nothing");
}

#[test]
fn xlink_a_deleted_device_neither_logs_in_nor_refreshes() {
    let platform = Platform::start();
    let device = activate(&platform, "aabbccddee01", &activation_code(&platform));
    let pair = log_in(&platform, &device).expect(200).json();
    let path = format!("/api/v1/products/{PRODUCT}/devices/{}", device.device_id);
    let _ = platform.server.admin().delete(&path).expect(204);
    assert_eq!(code(&log_in(&platform, &device)), 4_001_097);
    let refresh = platform.post("", "/v2/device_refresh", &json!({ "refresh_token": pair["refresh_token"] }));
    assert_eq!(code(&refresh), 4_031_003);
}

#[test]
fn xlink_activating_again_keeps_the_id_and_renews_the_code() {
    let platform = Platform::start();
    let active_code = activation_code(&platform);
    let first = activate(&platform, "aabbccddee01", &active_code);
    let other = activate(&platform, "aabbccddee02", &active_code);
    assert_ne!(first.device_id, other.device_id);
    let again = activate(&platform, "AA:BB:CC:DD:EE:01", &active_code);
    assert_eq!(again.device_id, first.device_id);
    assert_eq!(code(&log_in(&platform, &first)), 4_001_097, "the code before is revoked");
    let _ = log_in(&platform, &again).expect(200);
    let _ = log_in(&platform, &other).expect(200);
}

#[test]
fn xlink_activation_tells_the_versions_of_both_processors() {
    let platform = Platform::start();
    let _ = platform.start_task(json!({}));
    let device = activate(&platform, "aabbccddee01", &activation_code(&platform));
    assert_eq!(platform.tasks()[0]["surplus_count"], 1);
    let newest = |kind: u8| {
        let body = json!({ "product_id": PRODUCT, "device_id": device.device_id, "type": kind });
        platform.post(&platform.operator, "/v2/upgrade/device/newest_version", &body).expect(200).json()
    };
    assert_eq!(newest(1), json!({ "current": 1, "newest": 2, "description": "the second version" }));
    assert_eq!(newest(2), json!({ "current": 3, "newest": 3, "description": "" }));
}

#[test]
fn xlink_4001097_a_code_that_opens_no_activation_or_login() {
    let platform = Platform::start();
    for token in ["nobody".to_owned(), platform.operator.clone(), platform.device_token(7)] {
        assert_eq!(code(&activate_with(&platform, "aabbccddee01", &token)), 4_001_097);
    }
    let device = activate(&platform, "aabbccddee01", &activation_code(&platform));
    let other = activate(&platform, "aabbccddee02", &activation_code(&platform));
    let try_login = |product_id: &str, mac: &str, authorize_code: &str| {
        code(&platform.post(
            "",
            "/v2/device_login",
            &json!({ "product_id": product_id, "mac": mac, "authorize_code": authorize_code }),
        ))
    };
    assert_eq!(try_login(PRODUCT, device.mac, &other.authorize_code), 4_001_097);
    assert_eq!(try_login("another", device.mac, &device.authorize_code), 4_001_097);
    assert_eq!(try_login(PRODUCT, device.mac, &platform.device_token(7)), 4_001_097, "an access token is no authorize code");
}

#[test]
fn xlink_an_activation_or_authorize_code_opens_nothing_else() {
    let platform = Platform::start();
    let _ = platform.start_task(json!({}));
    let active_code = activation_code(&platform);
    assert_eq!(code(&platform.check(7, &active_code, 1)), 4_031_001);
    assert_eq!(code(&platform.report(7, &active_code, 1, 2, 0)), 4_031_001);
    let device = activate(&platform, "aabbccddee01", &active_code);
    assert_eq!(code(&platform.check(device.device_id as u32, &device.authorize_code, 1)), 4_031_003);
}

#[test]
fn xlink_firmware_is_created_shown_changed_listed_and_deleted() {
    let platform = Platform::start();
    let operator = &platform.operator;
    let created = platform.post(operator, FIRMWARE, &firmware_body(json!({}))).expect(200).json();
    for (field, value) in firmware_body(json!({})).as_object().unwrap() {
        assert_eq!(&created[field], value, "{field}");
    }
    assert!(created["create_date"].as_str().unwrap().ends_with('Z'));
    let path = format!("{FIRMWARE}/{}", created["id"].as_str().unwrap());
    assert_eq!(platform.get(operator, &path).expect(200).json(), created);

    let change = json!({ "version": "6", "is_release": "false", "type": null, "identify": null });
    let changed = platform.call("PUT", &path, operator, Some(&firmware_body(change).to_string())).expect(200).json();
    assert_eq!((&changed["id"], &changed["version"], &changed["is_release"]), (&created["id"], &json!(6), &json!(false)));
    assert_eq!((&changed["type"], &changed["create_date"]), (&json!(1), &created["create_date"]));

    let _ = platform.post(operator, FIRMWARE, &firmware_body(json!({ "version": 7, "type": 2, "identify": 1 }))).expect(200);
    let list = platform.get(operator, FIRMWARES).expect(200).json();
    assert_eq!(list.as_array().unwrap().iter().map(|row| row["version"].clone()).collect::<Vec<_>>(), [json!(7), json!(6)]);
    let page = platform.post(operator, FIRMWARES, &json!({ "type": "1", "limit": 5 })).expect(200).json();
    assert_eq!((&page["count"], page["list"].as_array().unwrap().len()), (&json!(1), 1));

    nothing(&platform.call("DELETE", &path, operator, None));
    assert_eq!(code(&platform.get(operator, &path)), 4_041_006);
    assert_eq!(code(&platform.call("DELETE", &path, operator, None)), 4_041_006);
}

#[test]
fn xlink_4001017_a_version_of_a_component_is_created_once() {
    let platform = Platform::start();
    let create = |changes: Value| platform.post(&platform.operator, FIRMWARE, &firmware_body(changes));
    let _ = create(json!({})).expect(200);
    assert_eq!(code(&create(json!({ "file_url": "http://files.example/other.bin" }))), 4_001_017);
    let _ = create(json!({ "type": 2 })).expect(200);
    let _ = create(json!({ "type": 2, "identify": 1 })).expect(200);
    let other = create(json!({ "version": 8 })).expect(200).json();
    let path = format!("{FIRMWARE}/{}", other["id"].as_str().unwrap());
    assert_eq!(code(&platform.call("PUT", &path, &platform.operator, Some(&firmware_body(json!({})).to_string()))), 4_001_017);
}

#[test]
fn xlink_4001112_an_unknown_firmware_type_and_4001001_what_is_out_of_range() {
    let platform = Platform::start();
    let refused = |changes: Value| code(&platform.post(&platform.operator, FIRMWARE, &firmware_body(changes)));
    assert_eq!(refused(json!({ "type": 4 })), 4_001_112);
    assert_eq!(refused(json!({ "mod": "m".repeat(21) })), 4_001_001);
    assert_eq!(refused(json!({ "version": "1.0" })), 4_001_001);
    assert_eq!(refused(json!({ "file_url": "u".repeat(256) })), 4_001_001);
    assert_eq!(refused(json!({ "is_release": "perhaps" })), 4_001_001);
    assert_eq!(refused(json!({ "version": null })), 4_001_002);
    assert_eq!(refused(json!({ "file_md5": "" })), 4_001_002);
}

#[test]
fn xlink_4001142_firmware_that_a_started_task_hands_out_stays() {
    let platform = Platform::start();
    let created = platform.post(&platform.operator, FIRMWARE, &firmware_body(json!({}))).expect(200).json();
    let path = format!("{FIRMWARE}/{}", created["id"].as_str().unwrap());
    let task = platform.start_task(json!({ "target_version": 5 }));
    assert_eq!(code(&platform.call("DELETE", &path, &platform.operator, None)), 4_001_142);
    let other_file = firmware_body(json!({ "file_size": 1 })).to_string();
    assert_eq!(code(&platform.call("PUT", &path, &platform.operator, Some(&other_file))), 4_001_142);
    let other_words = firmware_body(json!({ "description": "better told" })).to_string();
    let _ = platform.call("PUT", &path, &platform.operator, Some(&other_words)).expect(200);
    nothing(&platform.set_status(&task, 0));
    nothing(&platform.call("DELETE", &path, &platform.operator, None));
}

#[test]
fn xlink_statistics_count_devices_by_version() {
    let platform = Platform::start();
    let _ = platform.start_task(json!({}));
    for (device_id, version) in [(1, 1), (2, 1), (3, 7)] {
        let _ = platform.check(device_id, &platform.device_token(device_id), version);
    }
    let statistics = platform.get(&platform.operator, &format!("{FIRMWARE}/statistics")).expect(200).json();
    assert_eq!(statistics, json!({ "1": 2, "7": 1 }));
    assert_eq!(code(&platform.get(&platform.operator, "/v2/product/nobody/firmware/statistics")), 4_041_005);
}

#[test]
fn xlink_an_upload_answers_link_md5_and_size_and_fits_firmware_and_task() {
    let platform = Platform::start();
    let image = image_bytes(2_500_000);
    let client = platform.server.anonymous();
    let uploaded = client.request("POST", UPLOAD).header("Access-Token", &platform.operator).body(&image).send().expect(200).json();
    let md5: String = Md5::digest(&image).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((&uploaded["md5"], &uploaded["size"]), (&json!(md5), &json!(image.len())));
    assert!(client.get(uploaded["url"].as_str().unwrap()).expect(200).body == image);

    let named = json!({ "file_url": uploaded["url"], "file_md5": uploaded["md5"], "file_size": uploaded["size"] });
    let firmware = platform.post(&platform.operator, FIRMWARE, &firmware_body(named)).expect(200).json();
    assert_eq!(firmware["file_url"], uploaded["url"]);
    let targeted = |md5: &Value, size: usize, url: &Value| json!({ "target_version_url": url, "target_version_md5": md5, "target_version_size": size });
    assert_eq!(platform.create_refused(targeted(&json!("0".repeat(32)), image.len(), &uploaded["url"])), 4_001_001, "another MD5");
    assert_eq!(platform.create_refused(targeted(&uploaded["md5"], image.len() + 1, &uploaded["url"])), 4_001_001, "another size");
    let missing = json!(format!("{}/images/{}", platform.server.url(), "0".repeat(64)));
    assert_eq!(platform.create_refused(targeted(&uploaded["md5"], image.len(), &missing)), 4_001_001, "an image that isn't here");
    let upper = json!(md5.to_uppercase());
    let _ = platform.create(targeted(&upper, image.len(), &uploaded["url"]));
}

#[test]
fn xlink_an_upload_that_breaks_off_or_differs_from_its_digest_keeps_nothing() {
    let platform = Platform::start();
    let address = platform.server.address("http");
    let head = format!(
        "POST {UPLOAD} HTTP/1.1\r\nHost: {address}\r\nAccess-Token: {}\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n",
        platform.operator
    );
    let mut stream = platform.server.anonymous().connect().unwrap();
    std::io::Write::write_all(&mut stream, format!("{head}only this").as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = crate::common::http::read_to_close(&mut stream);

    let client = platform.server.anonymous();
    let request = client.request("POST", UPLOAD).header("Access-Token", &platform.operator);
    assert_eq!(code(&request.header("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg==").body(b"not empty").send()), 4_001_001);
    let images = platform.server.data().join("images");
    assert_eq!(files_below(&images), 0, "nothing half kept in {}", images.display());
}

fn files_below(folder: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[test]
fn xlink_4001046_a_firmware_file_too_large() {
    let setup = crate::common::TestServer::setup().config("[images]\nsize_bytes_max = 1000\n");
    let platform = Platform::on(setup.start());
    let client = platform.server.anonymous();
    let request = client.request("POST", UPLOAD).header("Access-Token", &platform.operator).body(&image_bytes(1_001));
    assert_eq!(code(&request.send()), 4_001_046);
}

#[test]
fn xlink_4001053_a_user_s_upgrade_of_a_device_that_is_at_the_newest() {
    let platform = Platform::start();
    let task = platform.start_task(json!({}));
    let _ = platform.check(7, &platform.device_token(7), 2);
    let user = platform.token(json!({ "role": "user" }));
    let asked = json!({ "product_id": PRODUCT, "device_id": 7 });
    assert_eq!(code(&platform.post(&user, "/v2/upgrade/device", &asked)), 4_001_053);
    let newest = platform.post(&user, "/v2/upgrade/device/newest_version", &asked).expect(200).json();
    assert_eq!((&newest["current"], &newest["newest"]), (&json!(2), &json!(2)));

    let _ = platform.check(7, &platform.device_token(7), 1).expect(200);
    nothing(&platform.post(&user, "/v2/upgrade/device", &asked));
    nothing(&platform.set_status(&task, 0));
    assert_eq!(code(&platform.post(&user, "/v2/upgrade/device", &asked)), 4_001_053);
    let unknown = json!({ "product_id": PRODUCT, "device_id": 8 });
    assert_eq!(code(&platform.post(&user, "/v2/upgrade/device/newest_version", &unknown)), 4_041_008);
    assert_eq!(code(&platform.post(&platform.device_token(7), "/v2/upgrade/device", &asked)), 4_031_001);
}
