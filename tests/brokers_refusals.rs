//! A broker that refuses, forgets, repeats or falls silent, as no real one does when it is told to: a few lines of our own in its place.

use crate::common::{Fleet, PATIENCE, TestServer, wait_until};
use crate::gateway_support::{FROM, PRODUCT};
use serde_json::{Value, json};
use sluicegate_server::mqtt::wire::{
    Acknowledgement, FromClient, Publication, Qos, Refusal, ServerWire, SubscribeRefusal, WireLimits,
};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Where the server connects.
struct Stub(TcpListener);

impl Stub {
    fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn url(&self) -> String {
        format!("mqtt://{}", self.0.local_addr().unwrap())
    }

    /// The server's next connection, with nothing answered yet.
    fn connection(&self) -> Connection {
        self.connection_with(100)
    }

    /// As many publications of the server's may be unacknowledged.
    fn connection_with(&self, receive_max: u16) -> Connection {
        let (stream, _) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let limits = WireLimits { packet_bytes_max: 1 << 20, receive_max };
        let mut connection = Connection { stream, wire: ServerWire::new(limits), said: VecDeque::new() };
        assert!(matches!(connection.next(), Some(FromClient::Connect(_))));
        connection
    }

    /// The server's next connection, with everything granted.
    fn welcome(&self) -> Connection {
        self.welcome_with(100)
    }

    fn welcome_with(&self, receive_max: u16) -> Connection {
        let mut connection = self.connection_with(receive_max);
        connection.wire.accept(true, None);
        connection.grant(Ok(Qos::AtLeastOnce));
        connection
    }
}

struct Connection {
    stream: TcpStream,
    wire: ServerWire,
    said: VecDeque<FromClient>,
}

impl Connection {
    fn send(&mut self) {
        self.stream.write_all(&self.wire.output().split()).unwrap();
    }

    /// What the server says next; none once it has closed the connection.
    fn next(&mut self) -> Option<FromClient> {
        self.send();
        let since = Instant::now();
        while self.said.is_empty() {
            assert!(since.elapsed() < PATIENCE, "the server says nothing");
            let mut bytes = [0; 4_096];
            let (mut said, read) = (Vec::new(), self.stream.read(&mut bytes).unwrap_or_default());
            if read == 0 {
                return None;
            }
            self.wire.receive(&bytes[..read], &mut said).unwrap();
            self.said.extend(said);
            self.send();
        }
        self.said.pop_front()
    }

    /// Whatever the server publishes next.
    fn any_publication(&mut self) -> Publication {
        loop {
            if let FromClient::Publish(publication) = self.next().expect("a publication") {
                return publication;
            }
        }
    }

    fn grant(&mut self, granted: Result<Qos, SubscribeRefusal>) -> Vec<(String, Qos)> {
        loop {
            if let FromClient::Subscribe { packet_id, filters } = self.next().expect("a subscription") {
                self.wire.subscribed(packet_id, &vec![granted; filters.len()]);
                self.send();
                return filters;
            }
        }
    }

    fn say(&mut self, topic: &str, message: &Value) -> u16 {
        let packet_id = self.wire.publish(topic, message.to_string().into(), Qos::AtLeastOnce).unwrap().unwrap();
        self.send();
        packet_id
    }

    /// The server's next publication on this topic; those on others are acknowledged and passed over.
    fn publication(&mut self, topic: &str) -> Publication {
        loop {
            match self.next().expect("a publication") {
                FromClient::Publish(publication) if publication.topic == topic => return publication,
                FromClient::Publish(publication) => self.wire.acknowledge(&publication, Acknowledgement::Taken),
                _ => {}
            }
        }
    }

    /// Until what was said with this number is acknowledged.
    #[track_caller]
    fn acknowledged(&mut self, wanted: u16) {
        assert!(self.is_acknowledged(wanted), "the server closed the connection");
    }

    /// Whether it is; false where the server closes the connection instead.
    fn is_acknowledged(&mut self, wanted: u16) -> bool {
        loop {
            match self.next() {
                Some(FromClient::Acknowledged { packet_id }) if packet_id == wanted => return true,
                Some(FromClient::Publish(publication)) => self.wire.acknowledge(&publication, Acknowledgement::Taken),
                Some(_) => {}
                None => return false,
            }
        }
    }
}

fn server(stub: &Stub, config: &str) -> TestServer {
    TestServer::setup().args(&["--mqtt-url", &stub.url()]).config(config).start()
}

#[track_caller]
fn wait_for_log(server: &TestServer, text: &str) {
    wait_until(&format!("the server says {text:?}"), || server.log().contains(text).then_some(()));
}

fn messages(server: &TestServer, outcome: &str) -> u64 {
    server.metric(&format!("sluicegate_mqtt_messages_total{{outcome=\"{outcome}\"}}")) as u64
}

fn register(server: &TestServer, sn: &str) {
    let device = json!({ "components": [{ "type": 1, "identify": 0, "version": FROM }] });
    let response = server.admin().put(&format!("/api/v1/products/{PRODUCT}/devices/{sn}"), &device);
    assert!(matches!(response.status, 200 | 201), "{}", response.text());
}

/// A device that waits for its upgrade: the path of the task.
fn rollout(server: &TestServer, sn: &str, more: Value) -> String {
    let admin = server.admin();
    let fleet = Fleet::new(&admin, PRODUCT);
    register(server, sn);
    let mut body = json!({ "from_versions": [FROM] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    fleet.start_task(&admin, body)
}

fn counts(server: &TestServer, path: &str) -> Value {
    crate::common::fleet::task(&server.admin(), path)["counts"].clone()
}

fn osd() -> Value {
    json!({ "tid": "t", "bid": "b", "timestamp": 1, "data": { "mode_code": 0 } })
}

fn progress(tid: &str, status: &str) -> Value {
    json!({ "tid": tid, "bid": "of-its-own", "timestamp": 1, "method": "ota_progress", "data": { "output": { "status": status }, "result": 0 } })
}

#[test]
fn a_subscription_that_is_refused_is_named_in_the_log_and_asked_for_again() {
    let stub = Stub::start();
    let server = server(&stub, "");
    let mut first = stub.connection();
    first.wire.accept(false, None);
    let filters = first.grant(Err(SubscribeRefusal::NotAuthorized));
    assert!(filters.iter().any(|(filter, _)| filter == "thing/product/+/events"));
    assert!(filters.iter().all(|(filter, _)| !filter.ends_with("/requests")), "{filters:?}");
    wait_for_log(&server, &format!("the broker grants no subscription to {}; allow it", filters[0].0));
    let mut second = stub.welcome();
    let path = rollout(&server, "g", json!({}));
    second.say("thing/product/g/osd", &osd());
    second.publication("thing/product/g/services");
    assert_eq!(counts(&server, &path)["offered"], 1);
}

#[test]
fn a_broker_that_knows_no_5_is_spoken_to_in_3_1_1() {
    let stub = Stub::start();
    let _server = server(&stub, "");
    let (mut stream, _) = stub.0.accept().unwrap();
    let mut bytes = [0; 1_024];
    assert!(stream.read(&mut bytes).unwrap() > 9);
    assert_eq!(bytes[8], 5);
    stream.write_all(&[0x20, 2, 0, 1]).unwrap();
    let (mut stream, _) = stub.0.accept().unwrap();
    assert!(stream.read(&mut bytes).unwrap() > 9);
    assert_eq!(bytes[8], 4);
}

#[test]
fn a_broker_that_is_busy_is_asked_again() {
    let stub = Stub::start();
    let server = server(&stub, "");
    for _ in 0..2 {
        let mut refused = stub.connection();
        refused.wire.refuse(Refusal::ServerUnavailable);
        refused.send();
    }
    stub.welcome();
    wait_for_log(&server, "connected to the broker");
}

#[test]
fn an_order_that_the_broker_never_acknowledged_is_sent_again_to_a_gateway_that_is_heard_again() {
    let stub = Stub::start();
    let server = server(&stub, "");
    let path = rollout(&server, "g", json!({}));
    let mut connection = stub.welcome();
    connection.say("thing/product/g/osd", &osd());
    let order = connection.publication("thing/product/g/services");
    drop(connection);
    let mut connection = stub.welcome();
    connection.say("thing/product/g/osd", &osd());
    let again = connection.publication("thing/product/g/services");
    let bid = |order: &Publication| serde_json::from_slice::<Value>(&order.payload).unwrap()["bid"].clone();
    assert_eq!(bid(&order), bid(&again));
    connection.wire.acknowledge(&again, Acknowledgement::Taken);
    let said = connection.say("thing/product/g/events", &progress("t1", "ok"));
    connection.acknowledged(said);
    assert_eq!(counts(&server, &path)["succeeded"], 1);
}

#[test]
fn a_message_that_the_broker_repeats_is_taken_once() {
    let stub = Stub::start();
    let server = server(&stub, "");
    let path = rollout(&server, "g", json!({ "retry": { "count": 1, "interval_s": 0 } }));
    let mut connection = stub.welcome();
    connection.say("thing/product/g/osd", &osd());
    let order = connection.publication("thing/product/g/services");
    connection.wire.acknowledge(&order, Acknowledgement::Taken);
    let failed = progress("t1", "failed");
    let said = connection.say("thing/product/g/events", &failed);
    connection.acknowledged(said);
    // The acknowledgement got lost on the way, says the broker; meanwhile the second attempt has begun.
    drop(connection);
    let mut connection = stub.welcome();
    connection.say("thing/product/g/osd", &osd());
    connection.publication("thing/product/g/services");
    let said = connection.wire.publish_again(said, "thing/product/g/events", failed.to_string().into()).unwrap().unwrap();
    connection.send();
    connection.acknowledged(said);
    let now = counts(&server, &path);
    assert_eq!((&now["offered"], &now["failed"]), (&json!(1), &json!(0)), "{now}");
    // One that is told for the first time counts.
    let said = connection.say("thing/product/g/events", &progress("t2", "ok"));
    connection.acknowledged(said);
    assert_eq!(counts(&server, &path)["succeeded"], 1);
}

#[test]
fn what_the_broker_refuses_to_take_is_counted_and_told_in_the_log() {
    let stub = Stub::start();
    let server = server(&stub, "");
    rollout(&server, "g", json!({}));
    let mut connection = stub.welcome();
    let event = connection.any_publication();
    connection.wire.acknowledge(&event, Acknowledgement::NotAuthorized);
    connection.send();
    wait_for_log(&server, "refuses what is published");
    wait_until("it is counted", || (messages(&server, "broker_refused") == 1).then_some(()));
}

#[test]
fn an_event_that_the_broker_has_no_room_for_comes_again_and_in_its_order() {
    let stub = Stub::start();
    let server = server(&stub, "");
    rollout(&server, "g", json!({}));
    let mut full = stub.welcome();
    let refused = full.any_publication();
    let behind = full.any_publication();
    full.wire.acknowledge(&refused, Acknowledgement::QuotaExceeded);
    full.wire.acknowledge(&behind, Acknowledgement::Taken);
    full.send();
    wait_for_log(&server, "the broker takes no message now");
    let mut connection = stub.welcome();
    for before in [refused, behind] {
        let again = connection.any_publication();
        assert_eq!((again.topic, again.payload), (before.topic, before.payload));
    }
    assert_eq!(messages(&server, "broker_refused"), 0);
}

#[test]
fn a_broker_that_takes_few_messages_at_once_is_given_events_all_the_same() {
    let stub = Stub::start();
    let server = server(&stub, "");
    rollout(&server, "g", json!({}));
    let mut connection = stub.welcome_with(1);
    // That the task is there, and that it has started.
    for _ in 0..2 {
        let event = connection.any_publication();
        assert!(event.topic.starts_with("sluicegate/events/default/"), "{}", event.topic);
        connection.wire.acknowledge(&event, Acknowledgement::Taken);
    }
}

#[test]
fn an_order_that_a_slow_broker_does_not_take_yet_is_neither_sent_again_nor_given_up() {
    let stub = Stub::start();
    let server = server(&stub, "[mqtt]\nevents = false\nreply_wait_s = 1");
    register(&server, "a");
    let path = rollout(&server, "b", json!({}));
    let mut connection = stub.welcome_with(1);
    for sn in ["a", "b"] {
        connection.say(&format!("thing/product/{sn}/osd"), &osd());
    }
    let first = connection.any_publication();
    wait_until("both have been offered their upgrade", || {
        (counts(&server, &path)["offered"] == 2 && messages(&server, "offer_sent") == 2).then_some(())
    });
    // Longer than all the patience with a gateway that doesn't answer.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        let now = counts(&server, &path);
        assert_eq!((&now["offered"], messages(&server, "offer_sent")), (&json!(2), 2), "{now}");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Once the broker takes more, the other's comes, and it is the first.
    connection.wire.acknowledge(&first, Acknowledgement::Taken);
    let second = connection.any_publication();
    assert_ne!(first.topic, second.topic);
    connection.wire.acknowledge(&second, Acknowledgement::Taken);
    for order in [&first, &second] {
        let topic = order.topic.replace("/services", "/events");
        let said = connection.say(&topic, &progress("t1", "ok"));
        connection.acknowledged(said);
    }
    assert_eq!(counts(&server, &path)["succeeded"], 2);
}

#[test]
fn an_order_is_not_held_up_by_all_the_events_before_it() {
    let stub = Stub::start();
    let server = server(&stub, "");
    let fleet = Fleet::new(&server.admin(), PRODUCT);
    register(&server, "g");
    for _ in 0..40 {
        fleet.start_task(&server.admin(), json!({ "from_versions": ["0.1"] }));
    }
    fleet.start_task(&server.admin(), json!({ "from_versions": [FROM] }));
    let mut connection = stub.welcome_with(1);
    connection.say("thing/product/g/osd", &osd());
    let mut publication = connection.any_publication();
    wait_until("the order waits", || (messages(&server, "offer_sent") == 1).then_some(()));
    let mut before = 0;
    while publication.topic != "thing/product/g/services" {
        before += 1;
        connection.wire.acknowledge(&publication, Acknowledgement::Taken);
        publication = connection.any_publication();
    }
    assert!(before <= 2, "{before} events came first");
}

fn state(version: &str) -> Value {
    json!({ "tid": "t", "bid": "b", "timestamp": 1, "data": { "firmware_version": version } })
}

#[test]
fn a_version_that_the_broker_repeats_is_not_taken_for_what_a_device_has_fallen_back_to() {
    let stub = Stub::start();
    let server = server(&stub, "");
    register(&server, "g");
    let mut connection = stub.welcome();
    let old = connection.say("thing/product/g/state", &state("0.9"));
    connection.acknowledged(old);
    let new = connection.say("thing/product/g/state", &state("1.1"));
    connection.acknowledged(new);
    drop(connection);
    let mut connection = stub.welcome();
    let payload = state("0.9").to_string().into();
    let old = connection.wire.publish_again(old, "thing/product/g/state", payload).unwrap().unwrap();
    connection.acknowledged(old);
    let device = server.admin().get(&format!("/api/v1/products/{PRODUCT}/devices/g")).expect(200).json();
    assert_eq!(device["components"][0]["version"], "1.1", "{device}");
}

#[test]
fn a_gateway_whose_topology_could_not_be_taken_at_once_is_sent_its_order_all_the_same() {
    let stub = Stub::start();
    let server = server(&stub, "[limits]\nqueue_max = 16\n[mqtt]\nevents = false");
    let others: Vec<String> = (0..64).map(|number| format!("other-{number}")).collect();
    for sn in others.iter().map(String::as_str).chain(["g"]) {
        register(&server, sn);
    }
    let mut connection = stub.welcome();
    let said = connection.say("thing/product/g/state", &state(FROM));
    connection.acknowledged(said);
    let data = json!({ "domain": 3, "type": 1, "sub_type": 0, "device_secret": "s", "nonce": "n", "thing_version": "1.1", "sub_devices": [] });
    let topology = json!({ "tid": "t", "bid": "b", "timestamp": 1, "method": "update_topo", "data": data });
    let mut version = 0;
    // More at once than the engine takes.
    loop {
        version += 1;
        for sn in &others {
            let text = state(&format!("0.{version}")).to_string();
            let _ = connection.wire.publish(&format!("thing/product/{sn}/state"), text.into(), Qos::AtMostOnce);
        }
        let said = connection.say("sys/product/g/status", &topology);
        if !connection.is_acknowledged(said) {
            break;
        }
        assert!(version < 50, "the engine takes everything");
    }
    let mut connection = stub.welcome();
    let said = connection.say("sys/product/g/status", &topology);
    connection.acknowledged(said);
    let fleet = Fleet::new(&server.admin(), PRODUCT);
    fleet.start_task(&server.admin(), json!({ "from_versions": [FROM] }));
    connection.say("thing/product/g/osd", &osd());
    connection.publication("thing/product/g/services");
}

#[test]
fn a_broker_that_names_no_limit_is_sent_so_many_events_at_once_and_no_more() {
    let stub = Stub::start();
    let server = server(&stub, "[mqtt]\nversion = 3");
    let mut connection = stub.welcome();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, PRODUCT);
    let rollouts = std::thread::spawn(move || {
        for _ in 0..530 {
            fleet.start_task(&admin, json!({ "from_versions": ["0.1"] }));
        }
    });
    for _ in 0..1_024 {
        connection.any_publication();
    }
    rollouts.join().unwrap();
    connection.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(connection.next().is_none());
}

#[test]
fn a_server_that_stops_acknowledges_what_it_has_taken() {
    let stub = Stub::start();
    let mut server = server(&stub, "[mqtt]\nevents = false");
    register(&server, "g");
    let mut connection = stub.welcome();
    let said: Vec<u16> = (0..50).map(|number| connection.say("thing/product/g/state", &state(&format!("0.{number}")))).collect();
    let stopping = std::thread::spawn(move || server.stop());
    let (mut acknowledged, mut is_farewell) = (Vec::new(), false);
    while let Some(heard) = connection.next() {
        match heard {
            FromClient::Acknowledged { packet_id } => acknowledged.push(packet_id),
            FromClient::Disconnect { .. } => is_farewell = true,
            _ => {}
        }
    }
    assert!(is_farewell && said.starts_with(&acknowledged), "{acknowledged:?}");
    assert!(stopping.join().unwrap().success());
}
