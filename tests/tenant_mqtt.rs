//! One organization against another over MQTT: every topic in which devices speak (from the server's own tables), and every one in which
//! they and consumers of events hear.

use crate::common::fleet::issue_token;
use crate::common::mqtt::{MqttClient, MqttOptions};
use crate::tenants::{FAN, PUMP, Victim, server};
use serde_json::{Value, json};
use sluicegate_server::mqtt::wire::Qos;

/// A filter over all devices, with these names put into it.
fn named(filter: &str, product: &str, device: &str) -> String {
    if filter.matches('+').count() == 2 {
        return filter.replacen('+', product, 1).replacen('+', device, 1);
    }
    filter.replace('+', device)
}

/// What would move the victim's upgrade, or its version, if it came from its own device.
fn payloads(victim: &Victim) -> Vec<Value> {
    let upgrade = victim.get("upgrade");
    vec![
        json!({ "tid": "t", "bid": upgrade, "method": "ota_progress", "data": { "output": { "status": "failed" }, "result": 0 } }),
        json!({ "tid": "t", "bid": upgrade, "method": "ota_create", "data": { "output": { "status": "failed" }, "result": 1 } }),
        json!({ "tid": "t", "bid": "b", "method": "update_topo", "data": { "sub_devices": [{ "sn": "p-1" }, { "sn": "p-2" }] } }),
        json!({ "tid": "t", "bid": "b", "data": { "firmware_version": "6.6" } }),
        json!({ "id": upgrade, "params": { "version": "6.6", "step": "-1" }, "code": 1101 }),
    ]
}

#[test]
fn no_topic_leads_to_another_organizations_product_or_device() {
    let server = server();
    let (north, south) = (Victim::new(&server, 1), Victim::new(&server, 2));
    let address = server.address("mqtt");
    let filters = sluicegate_server::testing::device_filters();
    let foreign = issue_token(&south.operator, json!({ "role": "device", "product_id": "dock", "device_id": "s-1" }));
    let namesake = south.get("device").to_owned();
    // Who tries, by which user name, whether the victim's topics are by their names its own, too.
    let callers = [
        ("a device of another organization", "s-1", foreign.as_str(), false),
        ("a device of the same name of another organization", "p-1", &namesake, true),
        ("another device of the same product", "p-2", north.get("device p-2"), false),
        ("a device of the same name of another product", "p-1", north.get("device p-1 of fan"), false),
        ("an operator of another organization", "x", south.get("operator"), false),
        ("an operator of another product", "x", north.get("operator of fan"), false),
        ("a user", "x", north.get("user"), false),
    ];
    let before = north.snapshot();
    let (mut published, mut subscribed) = (0, 0);
    for (name, username, token, has_its_names) in callers {
        let connect = || MqttClient::connect(&address, &MqttOptions::new(name).credentials(username, token)).unwrap();
        let mut client = connect();
        for filter in &filters {
            let topic = named(filter, PUMP, "p-1");
            for payload in payloads(&north) {
                client.publish(&topic, payload.to_string(), Qos::AtLeastOnce);
                published += 1;
            }
            let reply = format!("{topic}_reply");
            for heard in
                [topic.as_str(), &reply, "thing/product/p-1/services", "/sys/pump/p-1/ota/device/upgrade", "thing/product/p-1/#"]
            {
                let is_own_by_name = has_its_names
                    // Gateways' topics name no product.
                    || (username == "p-1" && !heard.starts_with("/sys"));
                let granted = client.subscribe(heard, Qos::AtLeastOnce).is_some();
                assert!(!granted || is_own_by_name, "{name} subscribed to {heard}");
                subscribed += 1;
            }
        }
        for heard in [
            "#",
            "+/#",
            "sluicegate/events/north-1/#",
            "sluicegate/events/north-1/pump/p-1",
            "sluicegate/tasks/north-1/#",
            "sluicegate/events/+/pump/#",
        ] {
            let may = name == "a user"
                && ["sluicegate/events/north-1", "sluicegate/tasks/north-1"].iter().any(|own| heard.starts_with(own));
            let granted = client.subscribe(heard, Qos::AtLeastOnce).is_some();
            assert!(!granted || may, "{name} subscribed to {heard}");
            subscribed += 1;
        }
        let after = north.snapshot();
        // What is the fan's its own device may change.
        for (what, there) in before.iter().filter(|(what, _)| !what.contains("/fan")) {
            assert_eq!(after[what], *there, "{name} changed {what}");
        }
        // The victim's device is offered something, and its namesake hears nothing of it.
        assert!(client.try_receive_for(std::time::Duration::ZERO).is_none_or(|heard| {
            let text = String::from_utf8_lossy(&heard.payload).into_owned();
            north.traces_in(&text, &payloads(&north).iter().map(Value::to_string).collect::<String>()).is_empty()
        }));
    }
    println!("{published} messages in {} topics, {subscribed} subscriptions", filters.len());
}

#[test]
fn a_password_opens_no_device_but_its_own() {
    let server = server();
    let (north, south) = (Victim::new(&server, 1), Victim::new(&server, 2));
    let address = server.address("mqtt");
    let log_in =
        |username: &str, token: &str| MqttClient::connect(&address, &MqttOptions::new("c").credentials(username, token)).is_ok();
    for (username, token, expected) in [
        ("p-1", north.get("device"), true),
        (&format!("p-1&{PUMP}"), north.get("device"), true),
        (&format!("p-1&{FAN}"), north.get("device"), false),
        ("p-2", north.get("device"), false),
        ("p-1", north.get("device p-2"), false),
        ("p-1", north.get("activation code"), false),
        ("p-1", north.get("operator of p-2"), false),
        ("p-1", north.get("expired"), false),
        ("p-1", north.get("revoked"), false),
        ("p-1", north.get("app refresh token"), false),
        ("p-1", north.get("authorize code"), false),
        ("p-1", north.get("signed token"), false),
        ("p-1", north.get("app secret"), false),
        ("p-1", "", false),
        ("p-2", south.get("device p-2"), true),
        ("p-1", south.get("device p-2"), false),
    ] {
        north.wait_for_expiry();
        assert_eq!(log_in(username, token), expected, "{username} with {token}");
    }
}
