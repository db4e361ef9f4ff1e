//! EnOS devices over the embedded listener: who is let in, what each message does to a job, and what happens when a side goes away.

use crate::common::mqtt::{MqttClient, MqttOptions};
use crate::common::{TestServer, wait_until};
use crate::enos_support::{PRODUCT, Platform, envelope, hex, sha256_hex};
use md5::Md5;
use serde_json::{Value, json};
use sha2::Digest;
use sluicegate_server::mqtt::wire::{ProtocolVersion, Publication, Qos};
use std::collections::VecDeque;
use std::process::Command;
use std::time::Duration;

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];

fn platform() -> Platform {
    Platform::on(TestServer::setup().args(&["--mqtt-listen", "127.0.0.1:0"]).start())
}

fn topic(key: &str, name: &str) -> String {
    format!("/sys/{PRODUCT}/{key}/ota/device/{name}")
}

fn token_of(platform: &Platform, key: &str) -> String {
    platform.native_token(json!({ "role": "device", "product_id": PRODUCT, "device_id": key }))
}

/// Logs in by token, as the device of this key.
fn options(platform: &Platform, key: &str) -> MqttOptions {
    MqttOptions::new(key).credentials(&format!("{key}&{PRODUCT}"), &token_of(platform, key))
}

/// A device that is connected, with what it has heard and not looked at yet.
struct Device {
    key: String,
    client: MqttClient,
    heard: VecDeque<Publication>,
    asked: u32,
}

impl Device {
    /// Subscribed; says nothing yet.
    #[track_caller]
    fn connect(platform: &Platform, key: &str) -> Self {
        Self::with(platform, key, &options(platform, key))
    }

    #[track_caller]
    fn with(platform: &Platform, key: &str, options: &MqttOptions) -> Self {
        let mut client = MqttClient::connect(&platform.server.address("mqtt"), options).unwrap();
        assert_eq!(client.subscribe(&topic(key, "+"), Qos::AtLeastOnce), Some(Qos::AtLeastOnce));
        Self { key: key.to_owned(), client, heard: VecDeque::new(), asked: 0 }
    }

    /// Connected, and at version 1.0.
    #[track_caller]
    fn at_1_0(platform: &Platform, key: &str) -> Self {
        let mut device = Self::connect(platform, key);
        device.inform("1.0");
        device
    }

    /// Publishes, and returns the reply.
    #[track_caller]
    fn say(&mut self, name: &str, payload: &str) -> Value {
        self.client.publish(&topic(&self.key, name), payload.to_owned(), Qos::AtLeastOnce);
        self.hear(&format!("{name}_reply"))
    }

    /// The reply to a request, which has to carry its id.
    #[track_caller]
    fn ask(&mut self, name: &str, params: Value) -> Value {
        self.asked += 1;
        let id = self.asked.to_string();
        let request = json!({ "id": id, "version": "1.0", "method": format!("ota.device.{name}"), "params": params });
        let mut reply = self.say(name, &request.to_string());
        assert_eq!(reply["id"], id, "{reply}");
        reply.as_object_mut().unwrap().remove("id");
        reply
    }

    /// A request that is granted.
    #[track_caller]
    fn tell(&mut self, name: &str, params: Value) {
        assert_eq!(self.ask(name, params), json!({ "code": 200, "data": {} }));
    }

    #[track_caller]
    fn inform(&mut self, version: &str) {
        self.tell("inform", json!({ "version": version }));
    }

    /// Steps are texts in the platform's examples.
    #[track_caller]
    fn progress(&mut self, step: i32, desc: &str) {
        self.tell("progress", json!({ "step": step.to_string(), "desc": desc }));
    }

    /// The next message on one of its topics; others wait.
    #[track_caller]
    fn hear(&mut self, name: &str) -> Value {
        let topic = topic(&self.key, name);
        loop {
            if let Some(at) = self.heard.iter().position(|heard| heard.topic == topic) {
                return serde_json::from_slice(&self.heard.remove(at).unwrap().payload).unwrap();
            }
            let publication = self.client.receive();
            self.heard.push_back(publication);
        }
    }

    #[track_caller]
    fn upgrade(&mut self) -> Value {
        self.hear("upgrade")
    }

    /// Nothing waits and nothing comes; a moment is waited for, since what isn't sent can't be waited for.
    #[track_caller]
    fn hears_nothing(&mut self) {
        let heard = self.heard.pop_front().or_else(|| self.client.try_receive_for(Duration::from_millis(300)));
        assert!(heard.is_none(), "{heard:?}");
    }

    #[track_caller]
    fn reply_to(&mut self, upgrade: &Value, code: i64, message: &str) {
        let reply = json!({ "id": upgrade["id"], "code": code, "message": message, "data": {} });
        self.client.publish(&topic(&self.key, "upgrade_reply"), reply.to_string(), Qos::AtLeastOnce);
    }
}

/// A job from 1.0 to 2.0 for these devices, which have to be there.
#[track_caller]
fn job(platform: &Platform, keys: &[&str], changes: Value) -> String {
    let firmware_id = platform.create_firmware("2.0", json!({}));
    let mut body = json!({ "upgradeScope": { "type": "partial", "versionNumbers": ["1.0"], "deviceKeys": keys } });
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    platform.create_job(&firmware_id, body)
}

/// The one job's task of a device.
#[track_caller]
fn task(platform: &Platform, key: &str) -> Value {
    let rows = platform.search_all("ota-jobs", "searchTask", &format!("deviceKey='{key}'"));
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows[0].clone()
}

#[track_caller]
fn assert_task(platform: &Platform, key: &str, status: &str, progress: i32) {
    let task = task(platform, key);
    assert_eq!((&task["status"], &task["progress"]), (&json!(status), &json!(progress)), "{task}");
}

#[track_caller]
fn version_of(platform: &Platform, key: &str) -> Value {
    let device = platform.server.admin().get(&format!("/api/v1/products/{PRODUCT}/devices/{key}")).expect(200).json();
    device["components"][0]["version"].clone()
}

fn wait_until_connected(platform: &Platform, devices: u32) {
    let connected = || platform.server.metric("sluicegate_mqtt_devices");
    wait_until("so many devices are connected", || (connected() == f64::from(devices)).then_some(()));
}

// Who is let in.

#[test]
fn a_token_opens_its_device_under_either_user_name_and_no_other() {
    let platform = platform();
    let address = platform.server.address("mqtt");
    let token = token_of(&platform, "d1");
    for version in VERSIONS {
        let connect = |username: &str, password: &str| {
            MqttClient::connect(&address, &MqttOptions::new("any").version(version).credentials(username, password))
        };
        for username in [format!("d1&{PRODUCT}"), "d1".to_owned()] {
            let mut client = connect(&username, &token).unwrap();
            assert!(!client.session_present());
            assert!(client.subscribe(&topic("d1", "upgrade"), Qos::AtLeastOnce).is_some());
        }
        let others = [format!("d2&{PRODUCT}"), "d1&other".to_owned(), "d2".to_owned(), format!("{PRODUCT}&d1"), String::new()];
        for username in others {
            assert!(connect(&username, &token).is_err(), "{username}");
        }
        for password in ["", "nonsense", &token[1..], &token.to_ascii_uppercase()] {
            assert!(connect(&format!("d1&{PRODUCT}"), password).is_err(), "{password}");
        }
    }
    // Of a kind that may not connect: a device's that names no device would speak for any.
    let product = platform.native_token(json!({ "role": "user", "product_id": PRODUCT, "device_id": "d1" }));
    assert!(MqttClient::connect(&address, &MqttOptions::new("any").credentials("d1", &product)).is_err());
}

/// What a library of the platform's signs: its name, its digits, and whether they are upper case.
fn signed(name: &str, key: &str, timestamp: &str, secret: &str) -> String {
    sha256_hex(format!("clientId{name}deviceKey{key}productKey{PRODUCT}timestamp{timestamp}{secret}").as_bytes())
}

fn put_secret(platform: &Platform, key: &str, body: Value) -> String {
    let path = format!("/api/v1/products/{PRODUCT}/devices/{key}/secret");
    platform.server.admin().put(&path, &body).expect(200).json()["secret"].as_str().unwrap().to_owned()
}

#[test]
fn each_of_the_platforms_libraries_logs_in_with_the_devices_secret() {
    let platform = platform();
    let address = platform.server.address("mqtt");
    platform.put_device("d1", "1.0", json!({}));
    let secret = put_secret(&platform, "d1", json!({ "secret": "s3cret" }));
    assert_eq!(secret, "s3cret");
    let java = "d1{ip=10.0.0.7,version=2.3,compress=Disabled}";
    let md5 = hex(&Md5::digest(format!("clientIdd1deviceKeyd1productKey{PRODUCT}timestamp1s3cret")));
    let c = format!("{PRODUCT}.d1");
    for (client_id, password) in [
        (format!("{java}|securemode=2,signmethod=sha256,timestamp=1572574909697|"), signed(java, "d1", "1572574909697", &secret)),
        (
            "d1|securemode=2,signmethod=hmacsha256,timestamp=1572574909697.123|".to_owned(),
            signed("d1", "d1", "1572574909697.123", &secret),
        ),
        (
            "d1|securemode=2,signmethod=sha256,timestamp=1572574909697|".to_owned(),
            signed("d1", "d1", "1572574909697", &secret).to_uppercase(),
        ),
        (
            format!("{c}|securemode=2,signmethod=sha256,timestamp=2524608000000|"),
            signed(&c, "d1", "2524608000000", &secret).to_uppercase(),
        ),
        ("d1|securemode=2,signmethod=md5,timestamp=1|".to_owned(), md5),
    ] {
        for version in VERSIONS {
            let options = MqttOptions::new(&client_id).version(version).credentials(&format!("d1&{PRODUCT}"), &password);
            let mut device = Device::with(&platform, "d1", &options);
            device.inform("1.0");
        }
        // The same digits open nothing under another name.
        let foreign = MqttOptions::new(&client_id).credentials(&format!("d2&{PRODUCT}"), &password);
        assert!(MqttClient::connect(&address, &foreign).is_err());
    }
}

#[test]
fn a_device_of_the_same_name_in_another_organization_locks_nobody_out() {
    let platform = platform();
    let address = platform.server.address("mqtt");
    platform.put_device("d1", "1.0", json!({}));
    let secret = put_secret(&platform, "d1", json!({}));
    let device = format!("/api/v1/products/{PRODUCT}/devices/d1");
    let client_id = "d1|securemode=2,signmethod=hmacsha256,timestamp=1|";
    let log_in = |secret: &str| {
        let password = signed("d1", "d1", "1", secret);
        MqttClient::connect(&address, &MqttOptions::new(client_id).credentials(&format!("d1&{PRODUCT}"), &password))
    };
    log_in(&secret).unwrap();
    let others: Vec<String> = ["a", "b", "c"]
        .map(|organization| {
            let operator = platform.native_token(json!({ "role": "operator", "organization": organization }));
            let operator = platform.server.anonymous().with_token(&operator);
            operator.put(&device, &json!({})).expect(201);
            // One of them has no secret at all.
            let with_secret = || operator.put(&format!("{device}/secret"), &json!({})).expect(200).json();
            if organization == "a" { String::new() } else { with_secret()["secret"].as_str().unwrap().to_owned() }
        })
        .into();
    log_in(&secret).unwrap();
    // Each secret opens the device of its own organization.
    let operator = platform.native_token(json!({ "role": "operator", "organization": "b" }));
    let operator = platform.server.anonymous().with_token(&operator);
    let mut of_b = log_in(&others[1]).unwrap();
    of_b.publish(&topic("d1", "inform"), r#"{"id":"1","params":{"version":"of b"}}"#, Qos::AtLeastOnce);
    assert_eq!(operator.get(&device).expect(200).json()["components"][0]["version"], "of b");
    assert_eq!(version_of(&platform, "d1"), "1.0");
    // Whoever learns the secret and gives it to a device of its own makes both ambiguous, and nobody else's.
    operator.put(&format!("{device}/secret"), &json!({ "secret": secret })).expect(200);
    assert!(log_in(&secret).is_err());
    log_in(&others[2]).unwrap();
}

#[test]
fn a_wrong_signature_is_refused_like_anything_that_cannot_log_in() {
    let platform = platform();
    let address = platform.server.address("mqtt");
    for key in ["d1", "d2", "none"] {
        platform.put_device(key, "1.0", json!({}));
    }
    let secret = put_secret(&platform, "d1", json!({}));
    assert_ne!(secret, put_secret(&platform, "d2", json!({})));
    let client_id = |key: &str, mode: u32| format!("{key}|securemode={mode},signmethod=hmacsha256,timestamp=1|");
    for (key, client_id, password) in [
        ("d1", client_id("d1", 2), signed("d1", "d1", "1", "wrong")),
        ("d1", client_id("d1", 2), signed("d1", "d1", "2", &secret)),
        ("d1", client_id("d1", 3), signed("d1", "d1", "1", &secret)),
        ("d1", "d1".to_owned(), signed("d1", "d1", "1", &secret)),
        ("d2", client_id("d2", 2), signed("d2", "d2", "1", &secret)),
        ("none", client_id("none", 2), signed("none", "none", "1", "")),
        ("nobody", client_id("nobody", 2), signed("nobody", "nobody", "1", &secret)),
        ("d1", client_id("d1", 2), secret.clone()),
    ] {
        let options = MqttOptions::new(&client_id).credentials(&format!("{key}&{PRODUCT}"), &password);
        let refusal = MqttClient::connect(&address, &options).unwrap_err();
        assert!(refusal.starts_with("BadUserNameOrPassword"), "{client_id}: {refusal}");
    }
}

#[test]
fn a_device_whose_secret_is_changed_or_deleted_is_sent_away_and_logs_in_with_the_new_one_alone() {
    let platform = platform();
    platform.put_device("d1", "1.0", json!({}));
    let options = |secret: &str| {
        let password = signed("d1", "d1", "1", secret);
        let client_id = "d1|securemode=2,signmethod=hmacsha256,timestamp=1|";
        MqttOptions::new(client_id).credentials(&format!("d1&{PRODUCT}"), &password)
    };
    let older = put_secret(&platform, "d1", json!({}));
    let mut device = Device::with(&platform, "d1", &options(&older));
    let newer = put_secret(&platform, "d1", json!({}));
    device.client.publish_unconfirmed(&topic("d1", "inform"), "{}", Qos::AtLeastOnce);
    assert!(device.client.farewell().is_some_and(|reason| reason.starts_with("NotAuthorized")));
    let address = platform.server.address("mqtt");
    assert!(MqttClient::connect(&address, &options(&older)).is_err());

    let mut device = Device::with(&platform, "d1", &options(&newer));
    device.inform("1.0");
    platform.server.admin().delete(&format!("/api/v1/products/{PRODUCT}/devices/d1/secret")).expect(204);
    device.client.publish_unconfirmed(&topic("d1", "inform"), "{}", Qos::AtLeastOnce);
    assert!(device.client.farewell().is_some_and(|reason| reason.starts_with("NotAuthorized")));
    assert!(MqttClient::connect(&address, &options(&newer)).is_err());
}

#[test]
fn a_secret_outlives_a_crash() {
    let mut platform = platform();
    platform.put_device("d1", "1.0", json!({}));
    let secret = put_secret(&platform, "d1", json!({}));
    platform.server.kill_and_start_again();
    let client_id = "d1|securemode=2,signmethod=sha256,timestamp=1|";
    let options = MqttOptions::new(client_id).credentials(&format!("d1&{PRODUCT}"), &signed("d1", "d1", "1", &secret));
    Device::with(&platform, "d1", &options).inform("1.0");
}

// What each message does.

#[test]
fn what_a_device_informs_is_what_it_runs_as_it_is_written() {
    let platform = platform();
    for version in VERSIONS {
        let mut device = Device::with(&platform, "d1", &options(&platform, "d1").version(version));
        device.inform("1.0.1");
        assert_eq!(version_of(&platform, "d1"), "1.0.1");
        // As the platform's Python sample writes it; and 1.10 isn't 1.1.
        let reply = device.say("inform", r#"{"id":7,"version":"1.0","method":"ota.inform","params":{"version":1.10}}"#);
        assert_eq!(reply, json!({ "id": 7, "code": 200, "data": {} }));
        assert_eq!(version_of(&platform, "d1"), "1.10");
        let reply = device.say("inform", r#"{"params":{"version":"2"}}"#);
        assert_eq!(reply, json!({ "code": 200, "data": {} }));
        assert_eq!(version_of(&platform, "d1"), "2");
    }
}

#[test]
fn a_job_reaches_a_connected_device_at_once_and_ends_with_the_version_it_informs() {
    let platform = platform();
    let mut device = Device::at_1_0(&platform, "d1");
    device.hears_nothing();
    let job_id = job(&platform, &["d1"], json!({}));
    let upgrade = device.upgrade();
    let file = b"the image of version 2.0";
    assert_eq!((&upgrade["version"], &upgrade["method"]), (&json!("1.0"), &json!("ota.device.upgrade")));
    assert!(upgrade["id"].as_str().unwrap().parse::<u64>().is_ok(), "{upgrade}");
    let params = &upgrade["params"];
    let url = params["fileUrl"].as_str().unwrap();
    let expected = json!({
        "version": "2.0", "signMethod": "md5", "sign": hex(&Md5::digest(file)), "fileUrl": url, "fileSize": file.len(),
    });
    assert_eq!(*params, expected);
    assert_task(&platform, "d1", "published", 0);
    assert_eq!(task(&platform, "d1")["jobId"], job_id);

    device.progress(35, "on my way");
    assert_task(&platform, "d1", "upgrading", 35);
    assert_eq!(task(&platform, "d1")["desc"], "on my way");
    // The link needs no token, and serves ranges, as devices ask for them.
    let anonymous = platform.server.anonymous();
    assert!(url.starts_with(&platform.server.url()), "{url}");
    assert_eq!(anonymous.get(url).expect(200).body, file);
    assert_eq!(anonymous.request("GET", url).header("Range", "bytes=4-8").send().expect(206).body, b"image");
    // A step of 100 is no success yet.
    device.progress(100, "");
    assert_task(&platform, "d1", "upgrading", 100);
    device.inform("2.0");
    assert_task(&platform, "d1", "succeeded", 100);
    assert_eq!(version_of(&platform, "d1"), "2.0");
    device.hears_nothing();
}

#[test]
fn a_download_that_the_device_says_nothing_of_is_seen() {
    let platform = platform();
    let mut device = Device::at_1_0(&platform, "d1");
    job(&platform, &["d1"], json!({}));
    let upgrade = device.upgrade();
    platform.server.anonymous().get(upgrade["params"]["fileUrl"].as_str().unwrap()).expect(200);
    wait_until("the download counts", || (task(&platform, "d1")["status"] == "upgrading").then_some(()));
}

#[test]
fn a_step_below_zero_fails_the_task_with_the_devices_own_words_or_ours() {
    let platform = platform();
    let steps = [(-1, "", "a reason that it doesn't name"), (-2, "no route", "no route"), (-3, "", "digest")];
    let steps = [&steps[..], &[(-4, "", "flash"), (-5, "", "declined"), (-77, "relay 3 open", "relay 3 open")]].concat();
    let keys: Vec<String> = (0..steps.len()).map(|number| format!("d{number}")).collect();
    let mut devices: Vec<Device> = keys.iter().map(|key| Device::at_1_0(&platform, key)).collect();
    job(&platform, &keys.iter().map(String::as_str).collect::<Vec<_>>(), json!({}));
    for (device, (step, desc, shown)) in devices.iter_mut().zip(steps) {
        device.upgrade();
        device.progress(20, "");
        device.progress(step, desc);
        assert_task(&platform, &device.key, "failed", step);
        let task = task(&platform, &device.key);
        assert!(task["desc"].as_str().unwrap().contains(shown), "{step}: {task}");
        // It is over; what a slow timer says afterwards changes nothing.
        device.progress(90, "");
        assert_task(&platform, &device.key, "failed", step);
        device.hears_nothing();
    }
}

#[test]
fn another_version_than_the_target_is_no_success() {
    let platform = platform();
    let mut device = Device::at_1_0(&platform, "d1");
    job(&platform, &["d1"], json!({}));
    device.upgrade();
    device.progress(90, "");
    device.inform("1.5");
    assert_ne!(task(&platform, "d1")["status"], "succeeded");
    assert_eq!(version_of(&platform, "d1"), "1.5");
    device.inform("2.0");
    assert_eq!(version_of(&platform, "d1"), "2.0");
}

#[test]
fn a_device_that_will_not_have_its_upgrade_says_so_in_its_reply() {
    let platform = platform();
    let mut willing = Device::at_1_0(&platform, "willing");
    let mut unwilling = Device::at_1_0(&platform, "unwilling");
    job(&platform, &["willing", "unwilling"], json!({}));
    let upgrade = willing.upgrade();
    for code in [0, 200] {
        willing.reply_to(&upgrade, code, "");
        assert_task(&platform, "willing", "published", 0);
    }
    // Of no upgrade of its own, and so of none.
    willing.reply_to(&json!({ "id": "4711" }), 1101, "no handler");
    assert_task(&platform, "willing", "published", 0);
    let upgrade = unwilling.upgrade();
    unwilling.reply_to(&upgrade, 1101, "downstream command handler not registered");
    assert_task(&platform, "unwilling", "failed", -5);
    assert_eq!(task(&platform, "unwilling")["desc"], "downstream command handler not registered");
    unwilling.hears_nothing();
}

#[test]
fn a_device_that_asks_is_told_of_its_firmware_and_sent_it_again() {
    let platform = platform();
    let mut device = Device::connect(&platform, "d1");
    // It hasn't said what it runs.
    assert_eq!(device.ask("getversion", json!({})), json!({ "code": 200, "data": [] }));
    device.tell("request", json!({}));
    device.hears_nothing();
    device.inform("1.0");
    assert_eq!(device.ask("getversion", json!({})), json!({ "code": 200, "data": [] }));
    job(&platform, &["d1"], json!({}));
    let upgrade = device.upgrade();
    let listed = device.ask("getversion", json!({}));
    assert_eq!((&listed["code"], listed["data"].as_array().unwrap().len()), (&json!(200), 1), "{listed}");
    let (listed, params) = (&listed["data"][0], &upgrade["params"]);
    for field in ["version", "signMethod", "sign", "fileSize"] {
        assert_eq!(listed[field], params[field], "{field}");
    }
    platform.server.anonymous().head(listed["fileUrl"].as_str().unwrap()).expect(200);
    for _ in 0..2 {
        device.tell("request", json!({ "version": "2.0" }));
        assert_eq!(device.upgrade()["id"], upgrade["id"]);
    }
    // One that has begun, and lost it in a restart, asks as well.
    device.progress(10, "");
    device.hears_nothing();
    device.tell("request", json!({}));
    assert_eq!(device.upgrade()["id"], upgrade["id"]);
}

#[test]
fn a_job_that_lets_no_device_ask_is_sent_without_being_asked_for() {
    let platform = platform();
    let mut device = Device::at_1_0(&platform, "d1");
    job(&platform, &["d1"], json!({ "enableUpgradeRequest": false }));
    let upgrade = device.upgrade();
    assert_eq!(device.ask("getversion", json!({})), json!({ "code": 200, "data": [] }));
    let refused = device.ask("request", json!({}));
    assert_eq!(refused["code"], 401, "{refused}");
    assert!(refused["message"].as_str().is_some_and(|message| !message.is_empty()) && refused.get("data").is_none());
    device.hears_nothing();
    device.inform("1.0");
    assert_eq!(device.upgrade()["id"], upgrade["id"]);
    device.inform("2.0");
    assert_task(&platform, "d1", "succeeded", 100);
}

#[test]
fn a_device_that_asks_without_hearing_upgrades_is_told_where_to_look() {
    let platform = platform();
    platform.put_device("d1", "1.0", json!({}));
    job(&platform, &["d1"], json!({}));
    let mut client = MqttClient::connect(&platform.server.address("mqtt"), &options(&platform, "d1")).unwrap();
    assert!(client.subscribe(&topic("d1", "getversion_reply"), Qos::AtMostOnce).is_some());
    client.publish(&topic("d1", "getversion"), r#"{"id":"1"}"#, Qos::AtLeastOnce);
    let reply = client.receive();
    assert_eq!(reply.qos, Qos::AtMostOnce);
    let reply: Value = serde_json::from_slice(&reply.payload).unwrap();
    assert_eq!(reply["data"][0]["version"], "2.0");
    assert_task(&platform, "d1", "published", 0);
}

// Who is away, and comes back.

#[test]
fn a_device_that_is_away_is_sent_its_upgrade_when_it_comes() {
    let platform = platform();
    platform.put_device("d1", "1.0", json!({}));
    job(&platform, &["d1"], json!({}));
    assert_task(&platform, "d1", "init", 0);
    let mut device = Device::connect(&platform, "d1");
    let upgrade = device.upgrade();
    device.inform("1.0");
    assert_eq!(device.upgrade()["id"], upgrade["id"]);
    assert_task(&platform, "d1", "published", 0);
}

#[test]
fn a_published_task_of_a_device_that_went_away_has_no_deadline_and_comes_again() {
    let platform = platform();
    let mut device = Device::at_1_0(&platform, "d1");
    let job_id = job(&platform, &["d1"], json!({ "upgradeTimeout": 300 }));
    let upgrade = device.upgrade();
    device.client.disconnect();
    wait_until_connected(&platform, 0);
    let row = || {
        let rows = platform.server.admin().get(&format!("/api/v1/tasks/{job_id}/upgrades")).expect(200).json();
        rows["items"][0].clone()
    };
    assert_eq!((&row()["state"], &row()["deadline"]), (&json!("offered"), &Value::Null), "{}", row());
    let mut device = Device::connect(&platform, "d1");
    assert_eq!(device.upgrade()["id"], upgrade["id"]);
    // From now on it is timed.
    device.progress(1, "");
    assert!(row()["deadline"].is_string() || row()["deadline"].is_number(), "{}", row());
    assert_eq!(row()["attempts"], 1);
}

#[test]
fn a_crash_in_the_middle_takes_nothing_from_the_devices_and_starts_nothing_twice() {
    let mut platform = platform();
    let mut running = Device::at_1_0(&platform, "running");
    let mut published = Device::at_1_0(&platform, "published");
    let mut done = Device::at_1_0(&platform, "done");
    job(&platform, &["running", "published", "done"], json!({}));
    running.upgrade();
    running.progress(35, "half");
    let upgrade = published.upgrade();
    done.upgrade();
    done.inform("2.0");
    platform.server.kill_and_start_again();

    assert_task(&platform, "running", "upgrading", 35);
    assert_task(&platform, "done", "succeeded", 100);
    let mut running = Device::connect(&platform, "running");
    running.hears_nothing();
    running.progress(60, "");
    assert_task(&platform, "running", "upgrading", 60);
    running.inform("2.0");
    assert_task(&platform, "running", "succeeded", 100);
    let mut published = Device::connect(&platform, "published");
    assert_eq!(published.upgrade()["id"], upgrade["id"]);
    published.inform("2.0");
    assert_task(&platform, "published", "succeeded", 100);
    Device::connect(&platform, "done").hears_nothing();
}

#[test]
fn a_restart_of_the_device_in_the_middle_sends_it_nothing_twice() {
    let platform = platform();
    let mut device = Device::at_1_0(&platform, "d1");
    job(&platform, &["d1"], json!({}));
    device.upgrade();
    device.progress(50, "");
    drop(device);
    let mut device = Device::connect(&platform, "d1");
    device.hears_nothing();
    device.inform("2.0");
    assert_task(&platform, "d1", "succeeded", 100);
}

// Policies.

#[test]
fn no_more_devices_upgrade_at_once_than_the_job_allows_and_one_that_ends_makes_room() {
    let platform = platform();
    let keys = ["d0", "d1", "d2", "d3", "d4"];
    let mut devices: Vec<Device> = keys.iter().map(|key| Device::at_1_0(&platform, key)).collect();
    let job_id = job(&platform, &keys, json!({ "maximumConcurrency": 2 }));
    let held = || platform.server.admin().get(&format!("/api/v1/tasks/{job_id}")).expect(200).json()["permits_held"].clone();
    for device in &mut devices[..2] {
        device.upgrade();
    }
    for device in &mut devices[2..] {
        device.hears_nothing();
    }
    assert_eq!(held(), 2);
    // One that succeeds, one that fails, one that refuses: each lets the next begin.
    devices[0].inform("2.0");
    devices[2].upgrade();
    devices[1].progress(-2, "");
    devices[3].upgrade();
    assert_eq!(held(), 2);
    devices[4].hears_nothing();
    // So does a job's task that an operator cancels.
    let (jobs, keys) = ([("jobId", job_id.as_str())], json!({ "deviceKeys": ["d2"] }));
    envelope(&platform.jobs("cancelTask", &jobs, &keys));
    devices[4].upgrade();
    for number in [3, 4] {
        devices[number].inform("2.0");
    }
    assert_eq!(held(), 0);
}

#[test]
fn a_failed_attempt_is_followed_by_as_many_as_the_retry_policy_grants() {
    let platform = platform();
    let mut device = Device::at_1_0(&platform, "d1");
    let retry = json!({ "enableRetry": true, "retryInterval": 0, "retryCount": 2 });
    job(&platform, &["d1"], json!({ "retryPolicy": retry }));
    let mut ids = Vec::new();
    for attempt in 1..=3 {
        let upgrade = device.upgrade();
        assert!(!ids.contains(&upgrade["id"]), "{ids:?}");
        ids.push(upgrade["id"].clone());
        // What the attempt before is answered now is nobody's.
        if let [.., before, _] = &ids[..] {
            device.reply_to(&json!({ "id": before }), 1101, "too late");
        }
        assert_eq!(task(&platform, "d1")["status"], "published");
        device.progress(10, "");
        device.progress(-2, &format!("attempt {attempt}"));
    }
    assert_task(&platform, "d1", "failed", -2);
    assert_eq!(task(&platform, "d1")["desc"], "attempt 3");
    device.hears_nothing();
    device.inform("1.0");
    device.hears_nothing();
}

#[test]
fn a_job_that_is_stopped_begins_nothing_more_and_what_was_sent_may_end() {
    let platform = platform();
    let mut first = Device::at_1_0(&platform, "d1");
    let mut second = Device::at_1_0(&platform, "d2");
    let job_id = job(&platform, &["d1", "d2"], json!({ "maximumConcurrency": 1 }));
    first.upgrade();
    envelope(&platform.jobs("stop", &[("jobId", &job_id)], &json!({})));
    first.progress(50, "");
    first.inform("2.0");
    assert_task(&platform, "d1", "succeeded", 100);
    second.inform("1.0");
    second.tell("request", json!({}));
    second.hears_nothing();
    assert_task(&platform, "d2", "init", 0);
    envelope(&platform.jobs("start", &[("jobId", &job_id)], &json!({})));
    second.upgrade();
}

// What is not as it should be.

#[test]
fn what_cannot_be_read_is_answered_with_its_code_and_upsets_nothing() {
    let platform = platform();
    for version in VERSIONS {
        let key = format!("{version:?}");
        let mut device = Device::with(&platform, &key, &options(&platform, &key).version(version));
        device.inform("1.0");
        for (name, payload, code) in [
            ("inform", "", 6207),
            ("inform", "{", 6207),
            ("inform", "\u{0}\u{1}", 6207),
            ("inform", "null", 460),
            ("inform", "[]", 460),
            ("inform", "7", 460),
            ("inform", "{}", 460),
            ("inform", r#"{"params":[]}"#, 460),
            ("inform", r#"{"params":{"version":""}}"#, 460),
            ("inform", r#"{"params":{"version":{}}}"#, 460),
            ("progress", r#"{"params":{}}"#, 460),
            ("progress", r#"{"params":{"step":101}}"#, 460),
            ("progress", r#"{"params":{"step":"soon"}}"#, 460),
            ("progress", "no JSON", 6207),
            ("getversion", "]", 6207),
            ("request", "<xml/>", 6207),
        ] {
            let reply = device.say(name, payload);
            assert_eq!(reply["code"], code, "{name} {payload}: {reply}");
            assert!(reply["message"].as_str().is_some_and(|message| !message.is_empty()), "{reply}");
        }
        let reply = device.say("inform", r#"{"id":"42","params":{"version":null}}"#);
        assert_eq!((&reply["id"], &reply["code"]), (&json!("42"), &json!(460)));
        device.say("inform", &"[".repeat(100_000));
        device.say("inform", &json!({ "params": { "version": "x".repeat(10_000) } }).to_string());
        for payload in ["", "{", "[]", "{\"id\":[]}", "{\"code\":\"never\"}"] {
            device.client.publish(&topic(&key, "upgrade_reply"), payload, Qos::AtLeastOnce);
        }
        // Of nothing that was offered: heard, and nobody's.
        device.progress(50, "");
        device.progress(-1, "");
        device.hears_nothing();
        assert_eq!(version_of(&platform, &key), "1.0");
    }
    assert!(platform.server.metric("sluicegate_mqtt_messages_total{outcome=\"malformed\"}") > 0.0);
}

#[test]
fn a_device_speaks_and_hears_in_its_own_name_alone() {
    let platform = platform();
    let mut own = Device::at_1_0(&platform, "own");
    let mut other = Device::at_1_0(&platform, "other");
    job(&platform, &["own", "other"], json!({}));
    let upgrade = other.upgrade();
    own.upgrade();
    let reply = json!({ "id": upgrade["id"], "code": 1101 }).to_string();
    for (topic, payload) in [
        (topic("other", "inform"), r#"{"params":{"version":"9"}}"#),
        (topic("other", "progress"), r#"{"params":{"step":"-1"}}"#),
        (topic("other", "upgrade_reply"), &reply),
        (topic("own", "upgrade"), "{}"),
        (topic("other", "upgrade"), "{}"),
        ("/sys/another/own/ota/device/inform".to_owned(), r#"{"params":{"version":"9"}}"#),
        ("sluicegate/events/default/p/own".to_owned(), "{}"),
    ] {
        let is_ours = topic.contains(&format!("/{PRODUCT}/own/"));
        assert_eq!(own.client.publish(&topic, payload.to_owned(), Qos::AtLeastOnce), !is_ours, "{topic}");
    }
    // Nor by naming the other's upgrade under its own topic.
    own.client.publish(&topic("own", "upgrade_reply"), reply, Qos::AtLeastOnce);
    own.hears_nothing();
    other.hears_nothing();
    assert_task(&platform, "other", "published", 0);
    assert_task(&platform, "own", "published", 0);
    assert_eq!(version_of(&platform, "other"), "1.0");
    for filter in [
        "#",
        "/#",
        "/sys/#",
        "+/sys/+/own/ota/device/upgrade",
        &topic("other", "upgrade"),
        &topic("+", "upgrade"),
        "/sys/+/own/ota/device/upgrade",
        "/sys/another/own/#",
        "$share/group/#",
        "sluicegate/events/default/#",
        "$SYS/#",
    ] {
        assert_eq!(own.client.subscribe(filter, Qos::AtLeastOnce), None, "{filter}");
    }
}

#[test]
fn a_device_whose_filter_was_refused_is_not_taken_for_one_that_hears() {
    let platform = platform();
    platform.put_device("d1", "1.0", json!({}));
    let mut client = MqttClient::connect(&platform.server.address("mqtt"), &options(&platform, "d1")).unwrap();
    for filter in ["#", "/sys/+/d1/ota/device/upgrade"] {
        assert_eq!(client.subscribe(filter, Qos::AtLeastOnce), None);
    }
    job(&platform, &["d1"], json!({}));
    client.ping();
    assert_task(&platform, "d1", "init", 0);
    assert_eq!(platform.server.metric("sluicegate_mqtt_devices"), 0.0);
}

#[test]
fn every_request_of_many_at_once_is_answered_in_their_order() {
    const REQUESTS: usize = 500;
    let platform = platform();
    for version in VERSIONS {
        let mut device = Device::with(&platform, "d1", &options(&platform, "d1").version(version));
        for number in 0..REQUESTS {
            let request = format!("{{\"id\":{number}}}");
            device.client.publish_unconfirmed(&topic("d1", "getversion"), request, Qos::AtMostOnce);
        }
        for number in 0..REQUESTS {
            assert_eq!(device.hear("getversion_reply")["id"], number);
        }
    }
}

#[test]
fn a_device_that_takes_one_message_at_a_time_still_gets_its_upgrade() {
    let platform = platform();
    let mut device = Device::with(&platform, "d1", &options(&platform, "d1").receive_max(1));
    device.client.publish(&topic("d1", "inform"), r#"{"params":{"version":"1.0"}}"#, Qos::AtLeastOnce);
    let reply = device.client.receive_without_acknowledging();
    job(&platform, &["d1"], json!({}));
    device.hears_nothing();
    device.client.acknowledge(&reply);
    device.upgrade();
}

#[test]
fn a_newer_connection_of_a_device_is_the_one_that_is_sent_its_upgrade() {
    let platform = platform();
    let mut older = Device::at_1_0(&platform, "d1");
    let mut newer = Device::at_1_0(&platform, "d1");
    assert!(older.client.farewell().is_some_and(|reason| reason.starts_with("SessionTakenOver")));
    job(&platform, &["d1"], json!({}));
    newer.upgrade();
    // Under another client id both go on, and the newer is spoken to.
    let mut newest = Device::with(&platform, "d1", &MqttOptions::new("x").credentials("d1", &token_of(&platform, "d1")));
    newest.upgrade();
    newer.progress(10, "");
    newer.hears_nothing();
}

#[test]
fn an_independent_client_informs_and_asks() {
    let platform = platform();
    let address = platform.server.address("mqtt");
    let (host, port) = address.rsplit_once(':').unwrap();
    for version in ["311", "5"] {
        let key = format!("by-{version}");
        let payload = json!({ "id": "1", "params": { "version": "1.0" } }).to_string();
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", host, "-p", port, "-V", version, "-i", &key, "-u", &format!("{key}&{PRODUCT}")]);
        command.args(["-P", &token_of(&platform, &key), "-q", "1", "-t", &topic(&key, "inform"), "-m", &payload]);
        let run = command.output().unwrap_or_else(|error| {
            panic!("mosquitto_pub is needed here ({error}); install it: apt-get install mosquitto-clients, brew install mosquitto")
        });
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        // It was acknowledged, so it is durable.
        assert_eq!(version_of(&platform, &key), "1.0");
    }
}
