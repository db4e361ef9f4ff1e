//! Applications that subscribed are told of every step: the right kind, in the platform's words, and nobody else's.

use crate::common::wait_until;
use crate::huawei_support::{PRODUCT, Platform, assert_refused};
use crate::webhooks::Receiver;
use serde_json::{Value, json};

const SUBSCRIPTIONS: &str = "/iocm/app/sub/v1.2.0/subscriptions";

struct Subscribed {
    platform: Platform,
    receiver: Receiver,
}

impl Subscribed {
    fn start() -> Self {
        let receiver = Receiver::start();
        let config = format!("[huawei]\ncalls_per_minute = 0\n[webhooks]\nallowed = [\"http://{}\"]\n", receiver.address);
        Self { platform: Platform::with_config(&config), receiver }
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> crate::common::Response {
        let client = self.platform.server.anonymous();
        let request = client.request(method, path).header("app_key", &self.platform.id);
        let request = request.header("Authorization", &format!("Bearer {}", self.platform.token));
        match body {
            Some(body) => request.json(body).send(),
            None => request.send(),
        }
    }

    fn subscribe(&self, body: &Value) -> crate::common::Response {
        self.request("POST", "/iodm/app/sub/v1.1.0/subscribe", Some(body))
    }

    #[track_caller]
    fn subscribe_to(&self, notify_type: &str) -> String {
        let url = format!("http://{}/{notify_type}", self.receiver.address);
        let answer = self.subscribe(&json!({ "notifyType": notify_type, "callbackUrl": url })).expect(201).json();
        assert_eq!((answer["notifyType"].as_str(), answer["callbackUrl"].as_str()), (Some(notify_type), Some(url.as_str())));
        answer["subscriptionId"].as_str().unwrap().to_owned()
    }

    fn told(&self, notify_type: &str) -> Vec<Value> {
        let calls = self.receiver.calls().into_iter().filter(|call| call.path == format!("/{notify_type}"));
        calls.map(|call| serde_json::from_slice(&call.body).unwrap()).collect()
    }
}

#[test]
fn an_application_is_told_of_each_state_and_of_the_result() {
    let subscribed = Subscribed::start();
    for notify_type in
        ["swUpgradeStateChangeNotify", "swUpgradeResultNotify", "fwUpgradeStateChangeNotify", "fwUpgradeResultNotify"]
    {
        subscribed.subscribe_to(notify_type);
    }
    let platform = &subscribed.platform;
    platform.put_device("d1", "1.0", json!({}));
    platform.put_device("d2", "1.0", json!({}));
    let file_id = platform.upload("2.0", "");
    let operation = platform.create(&file_id, json!({ "devices": ["d1", "d2"] }), json!(null));
    let upgrade = platform.offered("d1");
    for state in ["downloading", "downloading", "downloaded", "installing", "succeeded"] {
        platform.report("d1", &upgrade, state);
    }
    platform.upgrade("d2", "failed");
    let results = wait_until("both results are told", || {
        let results = subscribed.told("swUpgradeResultNotify");
        (results.len() == 2).then_some(results)
    });
    let sub_operation = platform.sub_operation(&operation, "d1")["subOperationId"].clone();
    let mut result = results[0].clone();
    assert!(result.as_object_mut().unwrap().remove("upgradeTime").is_some_and(|time| time.as_str().unwrap().ends_with('Z')));
    let expected = json!({
        "notifyType": "swUpgradeResultNotify", "deviceId": "d1", "appId": platform.id, "operationId": operation,
        "subOperationId": sub_operation, "curVersion": "2.0", "targetVersion": "2.0", "sourceVersion": "1.0",
        "swUpgradeResult": "SUCCESS", "resultDesc": "succeeded", "errorCode": "0", "description": "",
    });
    assert_eq!(result, expected);
    assert_eq!((&results[1]["deviceId"], &results[1]["swUpgradeResult"]), (&json!("d2"), &json!("FAIL")));
    assert_eq!(results[1]["curVersion"], "1.0");
    let states = wait_until("the last state is told", || {
        let states = subscribed.told("swUpgradeStateChangeNotify");
        (states.len() == 7).then_some(states)
    });
    let words = |device: &str| -> Vec<&str> {
        let own = states.iter().filter(|state| state["deviceId"] == device);
        own.map(|state| state["swUpgradeState"].as_str().unwrap()).collect()
    };
    assert_eq!(words("d1"), ["RequestDownload", "downloading", "downloaded", "updating", "idle"]);
    assert_eq!(words("d2"), ["RequestDownload", "idle"]);
    assert_eq!(states[0]["subOperationId"], sub_operation);
    for firmware in ["fwUpgradeStateChangeNotify", "fwUpgradeResultNotify"] {
        assert!(subscribed.told(firmware).is_empty(), "software is no firmware");
    }
}

#[test]
fn a_new_subscription_replaces_the_one_before_and_is_listed_shown_and_ended() {
    let subscribed = Subscribed::start();
    let first = subscribed.subscribe_to("swUpgradeResultNotify");
    assert_eq!(subscribed.subscribe_to("swUpgradeResultNotify"), first);
    let other = subscribed.subscribe_to("fwUpgradeResultNotify");
    let listed = |query: &str| {
        let page = subscribed.request("GET", &format!("{SUBSCRIPTIONS}{query}"), None).expect(200).json();
        assert_eq!(page["totalCount"], page["subscriptions"].as_array().unwrap().len());
        page["totalCount"].as_u64().unwrap()
    };
    assert_eq!((listed(""), listed("?notifyType=fwUpgradeResultNotify"), listed("?notifyType=x")), (2, 1, 0));
    let shown = subscribed.request("GET", &format!("{SUBSCRIPTIONS}/{other}"), None).expect(200).json();
    assert_eq!(shown["notifyType"], "fwUpgradeResultNotify");
    subscribed.request("DELETE", &format!("{SUBSCRIPTIONS}/{other}"), None).expect(204);
    let gone = subscribed.request("GET", &format!("{SUBSCRIPTIONS}/{other}"), None);
    assert_refused(&gone, 404, "123002", "Device or package file not found.");
    subscribed.request("DELETE", SUBSCRIPTIONS, None).expect(204);
    assert_eq!(listed(""), 0);
}

#[test]
fn another_application_sees_no_subscription_of_the_first() {
    let subscribed = Subscribed::start();
    let id = subscribed.subscribe_to("swUpgradeResultNotify");
    let app = subscribed.platform.server.admin().post("/api/v1/apps", &json!({})).expect(201).json();
    let form = format!("appId={}&secret={}", app["id"].as_str().unwrap(), app["secret"].as_str().unwrap());
    let client = subscribed.platform.server.anonymous();
    let login = client.request("POST", "/iocm/app/sec/v1.1.0/login").header("Content-Type", "application/x-www-form-urlencoded");
    let token = login.body(form.as_bytes()).send().expect(200).json()["accessToken"].as_str().unwrap().to_owned();
    let request = |method: &str, path: &str| {
        let request = client.request(method, path).header("app_key", app["id"].as_str().unwrap());
        request.header("Authorization", &format!("Bearer {token}")).send()
    };
    assert_eq!(request("GET", SUBSCRIPTIONS).expect(200).json()["totalCount"], 0);
    request("GET", &format!("{SUBSCRIPTIONS}/{id}")).expect(404);
    request("DELETE", &format!("{SUBSCRIPTIONS}/{id}")).expect(404);
}

#[test]
fn what_can_not_be_subscribed_to_is_refused() {
    let subscribed = Subscribed::start();
    let good = format!("http://{}/x", subscribed.receiver.address);
    for body in [
        json!({}),
        json!({ "notifyType": "deviceAdded", "callbackUrl": good }),
        json!({ "notifyType": "swUpgradeResultNotify" }),
        json!({ "notifyType": "swUpgradeResultNotify", "callbackUrl": null }),
        json!({ "notifyType": "swUpgradeResultNotify", "callbackUrl": "http://169.254.169.254/x" }),
        json!({ "notifyType": "swUpgradeResultNotify", "callbackUrl": "file:///etc/passwd" }),
        json!([]),
    ] {
        assert_refused(&subscribed.subscribe(&body), 400, "120015", "Bad request error.");
    }
    // How some of the platform's own clients spell it.
    subscribed.subscribe(&json!({ "notifyType": "swUpgradeResultNotify", "callbackurl": good })).expect(201);
    let bound = json!({ "role": "operator", "product_id": PRODUCT });
    let token = crate::common::fleet::issue_token(&subscribed.platform.server.admin(), bound);
    let client = subscribed.platform.server.anonymous();
    let request = client.request("POST", "/iodm/app/sub/v1.1.0/subscribe").header("app_key", "default");
    let body = json!({ "notifyType": "swUpgradeResultNotify", "callbackUrl": good });
    let refused = request.header("Authorization", &format!("Bearer {token}")).json(&body).send();
    assert_refused(&refused, 403, "1010005", "App_key or access_token is invalid.");
}

#[test]
fn an_attempt_that_went_wrong_while_retries_are_left_is_told_to_nobody() {
    let receiver = Receiver::start();
    let config =
        format!("[huawei]\ncalls_per_minute = 0\nretry_interval_s = 0\n[webhooks]\nallowed = [\"http://{}\"]\n", receiver.address);
    let subscribed = Subscribed { platform: Platform::with_config(&config), receiver };
    subscribed.subscribe_to("swUpgradeResultNotify");
    let platform = &subscribed.platform;
    platform.put_device("d1", "1.0", json!({}));
    let policy = json!({ "executeType": "now", "retryType": true, "retryTimes": 2 });
    let operation = platform.create(&platform.upload("2.0", ""), json!({ "devices": ["d1"] }), policy);
    platform.upgrade("d1", "failed");
    platform.upgrade("d1", "failed");
    assert_eq!(platform.sub_operation(&operation, "d1")["status"], "processing");
    platform.upgrade("d1", "succeeded");
    let results = wait_until("the result is told", || {
        let results = subscribed.told("swUpgradeResultNotify");
        (!results.is_empty()).then_some(results)
    });
    assert_eq!(results.iter().map(|result| result["swUpgradeResult"].as_str().unwrap()).collect::<Vec<_>>(), ["SUCCESS"]);
}

#[test]
fn a_token_of_one_product_neither_sees_nor_ends_subscriptions_and_a_slip_ends_none() {
    let subscribed = Subscribed::start();
    subscribed.subscribe_to("swUpgradeResultNotify");
    let refused = subscribed.request("DELETE", &format!("{SUBSCRIPTIONS}?notifytype=fwUpgradeResultNotify"), None);
    assert_refused(&refused, 400, "120015", "Bad request error.");
    let bound = json!({ "role": "operator", "product_id": PRODUCT });
    let token = crate::common::fleet::issue_token(&subscribed.platform.server.admin(), bound);
    let client = subscribed.platform.server.anonymous();
    for method in ["GET", "DELETE"] {
        let request = client.request(method, SUBSCRIPTIONS).header("app_key", "default");
        let refused = request.header("Authorization", &format!("Bearer {token}")).send();
        assert_refused(&refused, 403, "1010005", "App_key or access_token is invalid.");
    }
    assert_eq!(subscribed.request("GET", SUBSCRIPTIONS, None).expect(200).json()["totalCount"], 1);
}
