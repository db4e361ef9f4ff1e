//! Clients of the MQTT listener that are slow, silent or mad, each beside good clients over HTTP and a good device over MQTT.

use crate::common::fleet::issue_token;
use crate::common::mqtt::{MqttClient, MqttOptions};
use crate::common::{TestServer, wait_until};
use crate::hostile_support::{beside_good_clients, is_closed, open_many};
use serde_json::json;
use sluicegate_server::mqtt::wire::Qos;
use std::net::TcpStream;

const CONFIG: &str = "[limits]\nheader_timeout_s = 1\nwrite_timeout_s = 1\nwrong_credentials_per_minute = 0\n";

fn start() -> TestServer {
    TestServer::setup().args(&["--mqtt-listen", "127.0.0.1:0"]).config(CONFIG).start()
}

/// A device that is connected, says something after the hostile part, and is heard.
fn beside_a_good_device(what: &str, server: &TestServer, hostile: impl FnOnce()) {
    let token = issue_token(&server.admin(), json!({ "role": "device", "product_id": "dock", "device_id": "good" }));
    let options = MqttOptions::new("good").credentials("good", &token);
    let mut device = MqttClient::connect(&server.address("mqtt"), &options).unwrap();
    assert!(device.subscribe("thing/product/good/#", Qos::AtLeastOnce).is_some());
    beside_good_clients(what, server, hostile);
    let payload = json!({ "tid": "t", "bid": "b", "data": { "firmware_version": "7.7" } }).to_string();
    device.publish("thing/product/good/osd", payload, Qos::AtLeastOnce);
    device.ping();
    let shown = server.admin().get("/api/v1/products/dock/devices/good").expect(200).json();
    assert_eq!(shown["components"][0]["version"], "7.7");
    MqttClient::connect(&server.address("mqtt"), &MqttOptions::new("again").credentials("good", &token)).unwrap();
}

#[test]
fn connections_that_never_log_in_are_given_up() {
    let server = start();
    let connect = b"\x10\x2a\x00\x04MQTT\x05\xc2\x00\x00\x00\x00\x04name";
    let firsts: [&[u8]; 12] = [
        b"",
        b"\x10",
        &connect[..8],
        &connect[..],
        // Lengths that never end, and one of 256 MB.
        b"\x10\xff\xff\xff\xff\xff",
        b"\x10\xff\xff\xff\x7f\x00\x04MQTT",
        b"\x10\x10\x00\x04MQTT\x09\x02\x00\x3c\x00\x00\x00\x00",
        b"\x10\x08\x00\x06MQIsdp",
        // What only somebody who has logged in says.
        b"\x30\x05\x00\x01a{}",
        b"\x82\x06\x00\x01\x00\x01#\x00",
        b"GET / HTTP/1.1\r\nHost: t\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    beside_a_good_device("600 connections that never log in", &server, || {
        let mut silent: Vec<TcpStream> = firsts.iter().flat_map(|first| open_many(&server, "mqtt", 50, first)).collect();
        wait_until("all of them are given up", || {
            silent.retain_mut(|stream| !is_closed(stream));
            silent.is_empty().then_some(())
        });
    });
}
