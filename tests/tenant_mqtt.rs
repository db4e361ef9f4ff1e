//! One organization against another over MQTT: every topic in which devices speak (from the server's own tables), and every one in which
//! they and consumers of events hear. At last the device itself says and hears all of it, so that what nobody else could do is something.

use crate::common::fleet::issue_token;
use crate::common::mqtt::{MqttClient, MqttOptions};
use crate::tenants::{FAN, PUMP, Victim, server};
use serde_json::{Value, json};
use sluicegate_server::mqtt::wire::{Publication, Qos};
use std::time::Duration;

/// Where a device is sent its upgrade, on either platform.
const SERVICES: &str = "thing/product/p-1/services";
const UPGRADE: &str = "/sys/pump/p-1/ota/device/upgrade";
/// Looks at its whole organization, and so hears its events.
const USER: &str = "a user";

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

/// Where a device hears, or might: where it speaks in this topic itself, the replies, its upgrades, and everything at once.
fn heard_beside(topic: &str) -> [String; 5] {
    [topic.to_owned(), format!("{topic}_reply"), SERVICES.to_owned(), UPGRADE.to_owned(), "thing/product/p-1/#".to_owned()]
}

fn text(publication: &Publication) -> String {
    String::from_utf8_lossy(&publication.payload).into_owned()
}

/// The next message in this topic; those in others are passed over.
#[track_caller]
fn hear(client: &mut MqttClient, topic: &str) -> String {
    loop {
        let heard = client.receive();
        if heard.topic == topic {
            return text(&heard);
        }
    }
}

/// All that was said to a client and that it hasn't looked at yet.
#[track_caller]
fn all_heard(client: &mut MqttClient) -> String {
    // Whatever waits for it is written with the acknowledgement of what it says, and so before the answer to what it says next.
    client.publish("nobody/listens/here", "{}", Qos::AtLeastOnce);
    client.ping();
    let mut heard = String::new();
    while let Some(publication) = client.try_receive_for(Duration::ZERO) {
        heard.push_str(&format!("{}: {}\n", publication.topic, text(&publication)));
    }
    heard
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
        (USER, "x", north.get("user"), false),
    ];
    let connect = |name: &str, username: &str, token: &str| {
        MqttClient::connect(&address, &MqttOptions::new(name).credentials(username, token)).unwrap()
    };
    let said: String = payloads(&north).iter().map(Value::to_string).collect();
    let before = north.snapshot();
    let (mut published, mut subscribed) = (0, 0);
    let mut strangers: Vec<(&str, MqttClient)> = Vec::new();
    for (name, username, token, has_its_names) in callers {
        let mut client = connect(name, username, token);
        for filter in &filters {
            let topic = named(filter, PUMP, "p-1");
            for payload in payloads(&north) {
                client.publish(&topic, payload.to_string(), Qos::AtLeastOnce);
                published += 1;
            }
            for heard in heard_beside(&topic) {
                let is_own_by_name = has_its_names
                    // Gateways' topics name no product: whoever is called so hears there what is said to itself.
                    || (username == "p-1" && !heard.starts_with("/sys"));
                let granted = client.subscribe(&heard, Qos::AtLeastOnce).is_some();
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
            let may =
                name == USER && ["sluicegate/events/north-1", "sluicegate/tasks/north-1"].iter().any(|own| heard.starts_with(own));
            let granted = client.subscribe(heard, Qos::AtLeastOnce).is_some();
            assert!(!granted || may, "{name} subscribed to {heard}");
            subscribed += 1;
        }
        let after = north.snapshot();
        // What is the fan's its own device may change.
        for (what, there) in before.iter().filter(|(what, _)| !what.contains("/fan")) {
            assert_eq!(after[what], *there, "{name} changed {what}");
        }
        strangers.push((name, client));
    }

    // The device itself may subscribe to all of it. Thereby it tells one platform that it is there, and the other by a word of its own;
    // each sends it the upgrade that it was offered.
    let mut rightful = connect("the device itself", "p-1", north.get("device"));
    for filter in &filters {
        for heard in heard_beside(&named(filter, PUMP, "p-1")) {
            assert!(rightful.subscribe(&heard, Qos::AtLeastOnce).is_some(), "the device itself may not hear {heard}");
        }
    }
    let sent = hear(&mut rightful, UPGRADE);
    assert!(!north.traces_in(&sent, "").is_empty(), "{sent}");
    let topology = json!({ "tid": "t", "bid": "b", "method": "update_topo", "data": { "sub_devices": [] } });
    rightful.publish("sys/product/p-1/status", topology.to_string(), Qos::AtLeastOnce);
    let sent = hear(&mut rightful, SERVICES);
    assert!(!north.traces_in(&sent, "").is_empty(), "{sent}");
    // And what it says counts.
    for filter in &filters {
        for payload in payloads(&north) {
            rightful.publish(&named(filter, PUMP, "p-1"), payload.to_string(), Qos::AtLeastOnce);
        }
    }
    let after = north.snapshot();
    let moved: Vec<&String> = before.keys().filter(|what| after[*what] != before[*what]).collect();
    assert!(!moved.is_empty(), "nothing that the device itself said has changed anything");
    // Whoever looks at the organization hears of it.
    let (_, user) = strangers.iter_mut().find(|(name, _)| *name == USER).unwrap();
    while north.traces_in(&text(&user.receive()), &said).is_empty() {}
    // Of all that nobody else heard a word.
    for (name, client) in strangers.iter_mut().filter(|(name, _)| *name != USER) {
        let heard = all_heard(client);
        let traces = north.traces_in(&heard, &said);
        assert!(traces.is_empty(), "{name} heard {traces:?} in {heard}");
    }
    println!(
        "{published} messages in {} topics, {subscribed} subscriptions; the device itself changed {} things",
        filters.len(),
        moved.len()
    );
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
