//! Upgrades pushed to gateways: the seed's messages, every end, one order at a time, and what happens when a side goes away.
//!
//! What has a [`Way`] is told twice: over the embedded listener, and through a broker.

use crate::common::fleet::issue_token;
use crate::common::wait_until;
use crate::gateway_support::{FROM, Gateway, PRODUCT, Station, Way};
use serde_json::{Value, json};
use sluicegate_server::mqtt::wire::Qos;

/// Each conversation as a test of either way.
macro_rules! both_ways {
    ($($conversation:ident,)*) => {
        mod over_the_listener {
            $(#[test] fn $conversation() { super::$conversation(super::Way::Listener) })*
        }
        mod through_a_broker {
            $(#[test] fn $conversation() { super::$conversation(super::Way::Broker) })*
        }
    };
}

both_ways! {
    the_order_is_that_of_the_seed,
    the_seeds_examples_are_understood_word_for_word,
    each_status_ends_or_moves_the_upgrade_as_the_platform_means_it,
    a_reply_that_names_an_error_fails_the_attempt_with_its_code,
    an_order_that_nobody_answers_is_sent_three_times_with_the_same_business_id_and_then_times_out,
    a_dock_and_its_aircraft_go_out_in_one_order_and_one_word_ends_both,
    with_one_permit_the_aircraft_follows_its_dock,
    an_aircraft_that_is_not_attached_waits_for_its_gateway,
    a_permit_that_is_given_back_goes_to_the_next_gateway_in_order,
    a_message_that_wants_a_reply_gets_one,
    the_demo_platforms_order_makes_a_task_and_refuses_what_is_offline,
    what_cannot_be_read_is_counted_and_upsets_nothing,
}

fn the_order_is_that_of_the_seed(way: Way) {
    let station = Station::on(way);
    let mut gateway = station.gateway("NM1923221021");
    let task = station.task(json!({}));
    let order = gateway.order();
    let device = &order["data"]["devices"][0];
    assert_eq!(order["data"]["devices"].as_array().unwrap().len(), 1);
    let fields: Vec<&String> = device.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["file_name", "file_size", "file_url", "firmware_upgrade_type", "md5", "product_version", "sn"]);
    assert_eq!(device["sn"], "NM1923221021");
    assert_eq!(device["product_version"], "2.0");
    assert_eq!(device["firmware_upgrade_type"], 3);
    assert_eq!(device["file_size"], station.fleet.image.len());
    assert_eq!(order["timestamp"].to_string().len(), 13);
    assert_eq!(station.row(&task, "NM1923221021")["state"], "offered");
    // The link opens the image without a token.
    let url = device["file_url"].as_str().unwrap();
    let path = url.strip_prefix(&station.server.url()).unwrap();
    assert_eq!(station.server.anonymous().get(path).expect(200).body, station.fleet.image);
    // What is fetched by it is progress of this upgrade.
    wait_until("the download counts", || (station.row(&task, "NM1923221021")["state"] == "downloading").then_some(()));
}

fn the_seeds_examples_are_understood_word_for_word(way: Way) {
    let station = Station::on(way);
    let mut gateway = station.gateway("NM1923221021");
    let task = station.task(json!({ "retry": { "count": 1, "interval_s": 0 } }));
    gateway.order();
    // The reply and the progress carry ids of their own, as the seed's examples do.
    gateway.publish("thing/product/NM1923221021/services_reply", &seed(2));
    gateway.settle();
    assert_eq!(station.row(&task, "NM1923221021")["state"], "offered");
    gateway.publish("thing/product/NM1923221021/events", &seed(0));
    wait_until("the failed attempt is followed by another", || (station.row(&task, "NM1923221021")["attempts"] == 2).then_some(()));
    assert_eq!(station.row(&task, "NM1923221021")["state"], "offered");
    // And the order has the shape of the seed's own.
    let (order, example) = (gateway.order(), seed(1));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&order), keys(&example));
    assert_eq!(keys(&order["data"]["devices"][0]), keys(&example["data"]["devices"][0]));
}

const ORDERS: &str = "/manage/api/v1/devices/default/devices/ota";

/// One of the seed's examples, in their order.
fn seed(number: usize) -> Value {
    let examples = [
        r#"{"bid":"8ca0ffa2-5e72-4078-8fa9-dc68216ff5d1","data":{"output":{"progress":{"percent":0,"step":1,"step_key":"download_firmware"},"status":"failed","sub_status":"DOWNLOAD_FAILED"},"result":0},"tid":"74045eba-bd24-4106-b455-d3577f3cbf52","timestamp":1707048089244,"method":"ota_progress"}"#,
        r#"{"bid":"8ca0ffa2-5e72-4078-8fa9-dc68216ff5d1","data":{"devices":[{"file_name":"EvoNest-V1.2.0.69-20231215094829.Encrypt.uav","file_size":603696942,"file_url":"http://192.168.1.1:9000/public/EvoNest-V1.2.0.69-20231215094829.Encrypt.uav","firmware_upgrade_type":3,"md5":"d1c9dacec124abd350379eb44b9143e5","product_version":"1.2.0.69","sn":"NM1923221021"}]},"tid":"74045eba-bd24-4106-b455-d3577f3cbf52","timestamp":1654070968655,"method":"ota_create"}"#,
        r#"{"bid":"149878685687484417","data":{"output":{"progress":{"percent":0,"step":1,"step_key":""},"status":"sent","sub_status":""},"result":0},"tid":"5bdd5c11-469c-45d9-afce-d9ec3025f379","timestamp":1708573102118,"method":"ota_create"}"#,
    ];
    serde_json::from_str(examples[number]).unwrap()
}

fn each_status_ends_or_moves_the_upgrade_as_the_platform_means_it(way: Way) {
    let station = Station::on(way);
    let mut gateways: Vec<Gateway> = (0..6).map(|number| station.gateway(&format!("g{number}"))).collect();
    let task = station.task(json!({}));
    for (gateway, (status, state)) in gateways.iter_mut().zip([
        ("ok", "succeeded"),
        ("failed", "failed"),
        ("rejected", "rejected"),
        ("timeout", "timed_out"),
        ("canceled", "canceled"),
        ("paused", "paused"),
    ]) {
        let order = gateway.order();
        gateway.answer(&order, json!({ "result": 0, "output": { "status": "in_progress" } }));
        station.row_in(&task, &gateway.sn, "downloading");
        gateway.progress(
            &order["bid"],
            "in_progress",
            json!({ "progress": { "percent": 30, "step": 2 }, "sub_status": "UPGRADING" }),
        );
        assert_eq!(station.row_in(&task, &gateway.sn, "installing")["percent"], 30);
        gateway.progress(&order["bid"], status, json!({}));
        station.row_in(&task, &gateway.sn, state);
        // Whatever an old timer says afterwards changes nothing.
        gateway.progress(&order["bid"], "in_progress", json!({ "progress": { "percent": 99 } }));
        gateway.settle();
        let after = station.row(&task, &gateway.sn)["state"].clone();
        assert!(after == state || state == "paused", "{after} after {state}");
    }
}

fn a_reply_that_names_an_error_fails_the_attempt_with_its_code(way: Way) {
    let station = Station::on(way);
    let mut gateway = station.gateway("g");
    let task = station.task(json!({}));
    let order = gateway.order();
    gateway.answer(&order, json!({ "result": 312014 }));
    let row = station.row_in(&task, "g", "failed");
    assert!(row["reason"].as_str().unwrap().contains("312014"), "{row}");
}

fn an_order_that_nobody_answers_is_sent_three_times_with_the_same_business_id_and_then_times_out(way: Way) {
    let station = Station::on_with(way, "[mqtt]\nreply_wait_s = 1");
    let mut gateway = station.gateway("g");
    let task = station.task(json!({}));
    let orders = [gateway.order(), gateway.order(), gateway.order()];
    assert!(orders.iter().all(|order| order["bid"] == orders[0]["bid"]));
    assert!(orders[0]["tid"] != orders[1]["tid"] && orders[1]["tid"] != orders[2]["tid"]);
    wait_until("the attempt has timed out", || (station.row(&task, "g")["state"] == "timed_out").then_some(()));
    gateway.hears_nothing();
}

#[test]
fn a_gateway_that_is_away_is_sent_its_order_when_it_comes_online() {
    let station = Station::start();
    let gateway = station.gateway("g");
    gateway.client.disconnect();
    wait_until("the gateway is gone", || (connected(&station) == 0).then_some(()));
    let task = station.task(json!({}));
    assert_eq!(station.row(&task, "g")["state"], "waiting");
    let mut gateway = station.connect("g");
    gateway.hears_nothing();
    gateway.come_online(&[]);
    gateway.upgrade();
    assert_eq!(station.row(&task, "g")["state"], "succeeded");
}

fn connected(station: &Station) -> u64 {
    station.metric("sluicegate_mqtt_devices")
}

#[test]
fn a_restart_in_the_middle_loses_nothing_and_starts_nothing_twice() {
    let mut station = Station::start();
    let mut running = station.gateway("running");
    let mut answered = station.gateway("answered");
    let task = station.task(json!({}));
    let order = running.order();
    running.progress(&order["bid"], "in_progress", json!({ "progress": { "percent": 40, "step_key": "download_firmware" } }));
    let first = answered.order();
    answered.answer(&first, json!({ "result": 0, "output": { "status": "sent" } }));
    station.kill_and_start_again();

    let mut running = station.connect("running");
    running.come_online(&[]);
    // It runs; it is not sent its order again, and goes on where it was.
    running.hears_nothing();
    running.progress(&json!("another"), "in_progress", json!({ "progress": { "percent": 80, "step_key": "upgrade_firmware" } }));
    running.progress(&order["bid"], "ok", json!({}));
    assert_eq!(station.row(&task, "running")["state"], "succeeded");

    // Whether the order was heard before the crash nobody knows; the same comes again.
    let mut answered = station.connect("answered");
    answered.come_online(&[]);
    let again = answered.order();
    assert_eq!(again["bid"], first["bid"]);
    answered.progress(&again["bid"], "ok", json!({}));
    let row = station.row(&task, "answered");
    assert_eq!((&row["state"], &row["attempts"]), (&json!("succeeded"), &json!(1)));
}

fn a_dock_and_its_aircraft_go_out_in_one_order_and_one_word_ends_both(way: Way) {
    let station = Station::on(way);
    let mut dock = station.dock_with("dock-1", "drone-1");
    let task = station.task(json!({ "maximum_concurrency": 2 }));
    let order = dock.order();
    let sns: Vec<&str> = order["data"]["devices"].as_array().unwrap().iter().map(|device| device["sn"].as_str().unwrap()).collect();
    assert_eq!(sns, ["dock-1", "drone-1"]);
    dock.progress(&json!("fresh"), "in_progress", json!({ "progress": { "percent": 10 } }));
    station.row_in(&task, "drone-1", "downloading");
    dock.progress(&json!("fresh"), "ok", json!({}));
    station.row_in(&task, "dock-1", "succeeded");
    station.row_in(&task, "drone-1", "succeeded");
}

fn with_one_permit_the_aircraft_follows_its_dock(way: Way) {
    let station = Station::on(way);
    let mut dock = station.dock_with("dock-1", "drone-1");
    station.task(json!({ "maximum_concurrency": 1 }));
    let first = dock.upgrade();
    let second = dock.upgrade();
    assert_eq!(first["data"]["devices"][0]["sn"], "dock-1");
    assert_eq!(second["data"]["devices"][0]["sn"], "drone-1");
}

fn an_aircraft_that_is_not_attached_waits_for_its_gateway(way: Way) {
    let station = Station::on(way);
    let device = json!({ "components": [{ "type": 1, "identify": 0, "version": FROM }], "gateway": "dock-1" });
    station.operator.put(&format!("/api/v1/products/{PRODUCT}/devices/drone-1"), &device).expect(201);
    let mut dock = station.connect("dock-1");
    dock.come_online(&[]);
    let task = station.task(json!({ "scope": { "type": "devices", "devices": ["drone-1"] } }));
    let row = station.row(&task, "drone-1");
    assert_eq!(row["state"], "waiting");
    assert!(row["reason"].as_str().unwrap().contains("held by gateway"), "{row}");
    dock.hears_nothing();
    dock.come_online(&["drone-1"]);
    assert_eq!(dock.order()["data"]["devices"][0]["sn"], "drone-1");
}

fn a_permit_that_is_given_back_goes_to_the_next_gateway_in_order(way: Way) {
    let station = Station::on(way);
    let mut gateways: Vec<Gateway> = (0..4).map(|number| station.gateway(&format!("g{number}"))).collect();
    let task = station.task(json!({ "maximum_concurrency": 1 }));
    for gateway in &mut gateways {
        gateway.upgrade();
        station.row_in(&task, &gateway.sn, "succeeded");
    }
    assert_eq!(station.counts(&task)["succeeded"], 4);
}

fn a_message_that_wants_a_reply_gets_one(way: Way) {
    let station = Station::on(way);
    let mut gateway = station.gateway("g");
    let message = json!({ "tid": "t1", "bid": "b1", "need_reply": 1, "timestamp": 1, "method": "ota_progress", "data": { "output": { "status": "in_progress" }, "result": 0 } });
    gateway.publish("thing/product/g/events", &message);
    let reply = gateway.receive("thing/product/g/events_reply");
    assert_eq!(
        (&reply["tid"], &reply["bid"], &reply["method"], &reply["data"]["result"]),
        (&json!("t1"), &json!("b1"), &json!("ota_progress"), &json!(0))
    );
}

/// On a broker that is left to whoever runs it.
#[test]
fn a_gateways_questions_are_answered() {
    let station = Station::start();
    let mut gateway = station.gateway("g");
    let ask = |method: &str, data: Value| json!({ "tid": "t2", "bid": "b2", "timestamp": 1, "method": method, "data": data });
    gateway.publish("thing/product/g/requests", &ask("airport_bind_status", json!({ "devices": [{ "sn": "g" }] })));
    let reply = gateway.receive("thing/product/g/requests_reply");
    assert_eq!(reply["data"]["output"]["bind_status"][0]["is_device_bind_organization"], true);
}

fn the_demo_platforms_order_makes_a_task_and_refuses_what_is_offline(way: Way) {
    let station = Station::on(way);
    let token = issue_token(&station.operator, json!({ "role": "operator" }));
    let order = |devices: Value| {
        let anonymous = station.server.anonymous();
        anonymous.request("POST", ORDERS).header("x-auth-token", &token).json(&devices).send()
    };
    let one = |sn: &str| json!([{ "device_name": "EVO Nest", "sn": sn, "product_version": "2.0", "firmware_upgrade_type": 2 }]);
    let refused = order(one("g")).expect(200).json();
    assert_eq!(refused["code"], -1);
    assert!(refused["message"].as_str().unwrap().contains("not here"), "{refused}");

    let mut gateway = station.gateway("g");
    let accepted = order(one("g")).expect(200).json();
    assert_eq!((&accepted["code"], &accepted["message"]), (&json!(0), &json!("success")));
    assert_eq!(gateway.order()["data"]["devices"][0]["firmware_upgrade_type"], 2);

    let device = json!({ "components": [{ "type": 1, "identify": 0, "version": FROM }], "gateway": "g" });
    station.operator.put(&format!("/api/v1/products/{PRODUCT}/devices/drone"), &device).expect(201);
    let refused = order(one("drone")).expect(200).json();
    assert!(refused["message"].as_str().unwrap().contains("not attached"), "{refused}");
    assert_eq!(order(json!([])).expect(200).json()["code"], -1);
    station.server.anonymous().post(ORDERS, &one("g")).expect(401);
}

#[test]
fn a_gateway_speaks_for_itself_and_what_is_attached_and_for_nobody_else() {
    let station = Station::start();
    let mut own = station.gateway("own");
    let mut other = station.gateway("other");
    let task = station.task(json!({}));
    let order = other.order();
    own.order();
    let ok =
        json!({ "tid": "t", "bid": order["bid"], "method": "ota_progress", "data": { "output": { "status": "ok" }, "result": 0 } });
    own.publish("thing/product/other/events", &ok);
    assert_eq!(station.row(&task, "other")["state"], "offered");
    own.tell_version("other", "9.9");
    let device = station.operator.get(&format!("/api/v1/products/{PRODUCT}/devices/other")).expect(200).json();
    assert_eq!(device["components"][0]["version"], FROM);
    // What is connected by itself is not attached to another by its word.
    own.come_online(&["other"]);
    own.publish("thing/product/own/events", &json!({ "tid": "t", "bid": order["bid"], "method": "ota_progress", "data": { "output": { "status": "failed" }, "result": 0 } }));
    assert_eq!(station.row(&task, "other")["state"], "offered");
    for filter in ["#", "thing/product/+/services", "thing/product/other/services", "sluicegate/events/default/#"] {
        assert_eq!(own.client.subscribe(filter, Qos::AtLeastOnce), None, "{filter}");
    }
}

fn what_cannot_be_read_is_counted_and_upsets_nothing(way: Way) {
    let station = Station::on(way);
    let mut gateway = station.gateway("g");
    let task = station.task(json!({}));
    let order = gateway.order();
    for payload in
        ["", "{", "[]", "null", "7", "{\"method\":7}", &"[".repeat(10_000), "{\"method\":\"ota_progress\",\"data\":{\"output\":7}}"]
    {
        for topic in ["events", "services_reply", "osd", "state", "requests"] {
            gateway.client.publish(&format!("thing/product/g/{topic}"), payload.to_owned(), Qos::AtLeastOnce);
        }
        gateway.client.publish("sys/product/g/status", payload.to_owned(), Qos::AtLeastOnce);
    }
    gateway.client.publish("nobody/knows/this", "{}", Qos::AtLeastOnce);
    gateway.progress(&order["bid"], "ok", json!({}));
    station.row_in(&task, "g", "succeeded");
    assert!(station.messages("malformed") > 0);
    // Through a broker nobody hears what is no device's topic.
    assert_eq!(station.messages("foreign_topic") > 0, way == Way::Listener);
}

#[test]
fn a_newer_connection_of_the_same_client_takes_the_place_of_the_older() {
    let station = Station::start();
    let mut older = station.gateway("g");
    let mut newer = station.connect("g");
    wait_until("the older one is sent away", || older.client.is_closed_by_server().then_some(()));
    newer.come_online(&[]);
    let task = station.task(json!({}));
    newer.upgrade();
    assert_eq!(station.row(&task, "g")["state"], "succeeded");
}

#[test]
fn a_token_that_is_revoked_opens_nothing_more() {
    let station = Station::start();
    let issued = station
        .operator
        .post("/api/v1/tokens", &json!({ "role": "device", "product_id": PRODUCT, "device_id": "g" }))
        .expect(201)
        .json();
    let token = issued["token"].as_str().unwrap();
    let mut gateway = Gateway::connect(&station.server.address("mqtt"), "g", "g", token);
    station.operator.delete(&format!("/api/v1/tokens/{}", issued["id"].as_str().unwrap())).expect(204);
    gateway.client.publish_unconfirmed("thing/product/g/osd", "{}", Qos::AtLeastOnce);
    wait_until("it is sent away", || gateway.client.is_closed_by_server().then_some(()));
    use crate::common::mqtt::{MqttClient, MqttOptions};
    for (username, password) in [("g", token), ("g", "nonsense"), ("other", &station.token_of("g")), ("g", "")] {
        let options = MqttOptions::new("x").credentials(username, password);
        assert!(MqttClient::connect(&station.server.address("mqtt"), &options).is_err(), "{username}");
    }
}
