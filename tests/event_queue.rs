//! Events as a queue over MQTT: what a consumer that was away, was killed, or doesn't acknowledge is told, and who may listen to what.

use crate::common::fleet::{id_text, issue_token};
use crate::common::mqtt::{MqttClient, MqttOptions};
use crate::common::{ADMIN_TOKEN, Client, Fleet, TestServer, wait_until};
use crate::events::Events;
use serde_json::{Value, json};
use sluicegate_server::mqtt::wire::{ProtocolVersion, Publication, Qos};
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};
use std::time::Duration;

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];
const ALL: &str = "sluicegate/events/default/#";
const HOUR_S: u32 = 3_600;

/// A server that listens for MQTT, an operator of `default`, and a product with firmware.
struct Queue {
    server: TestServer,
    token: String,
    fleet: Fleet,
}

impl Queue {
    #[track_caller]
    fn start() -> Self {
        Self::start_with("")
    }

    #[track_caller]
    fn start_with(config: &str) -> Self {
        let server = TestServer::setup().args(&["--mqtt-listen", "127.0.0.1:0"]).config(config).start();
        let token = issue_token(&server.admin(), json!({ "role": "operator" }));
        let fleet = Fleet::new(&server.anonymous().with_token(&token), "pump");
        Self { server, token, fleet }
    }

    fn operator(&self) -> Client {
        self.server.anonymous().with_token(&self.token)
    }

    /// A session that ends with its connection.
    fn options(&self, client_id: &str, version: ProtocolVersion) -> MqttOptions {
        MqttOptions::new(client_id).version(version).credentials("anybody", &self.token)
    }

    fn lasting(&self, client_id: &str, version: ProtocolVersion) -> MqttOptions {
        self.options(client_id, version).session(HOUR_S)
    }

    #[track_caller]
    fn connect(&self, options: &MqttOptions) -> MqttClient {
        MqttClient::connect(&self.server.address("mqtt"), options).unwrap()
    }

    /// Connected for the first time, and subscribed to everything of the organization.
    #[track_caller]
    fn follow(&self, options: &MqttOptions) -> MqttClient {
        let mut client = self.connect(options);
        assert!(!client.session_present());
        assert_eq!(client.subscribe(ALL, Qos::AtLeastOnce), Some(Qos::AtLeastOnce));
        client
    }

    /// Takes up a session, without subscribing again.
    #[track_caller]
    fn come_back(&self, options: &MqttOptions) -> MqttClient {
        let client = self.connect(options);
        assert!(client.session_present());
        client
    }

    /// Makes one event, of a task by this name.
    #[track_caller]
    fn happen(&self, name: &str) {
        self.operator().post("/api/v1/tasks", &self.fleet.task_body(json!({ "name": name }))).expect(201);
    }

    /// Makes so many events, and two more, of a task of its own.
    #[track_caller]
    fn happen_often(&self, events: usize) {
        let operator = self.operator();
        let path = self.fleet.start_task(&operator, json!({}));
        for action in ["stop", "start"].iter().cycle().take(events) {
            operator.post(&format!("{path}/{action}"), &json!({})).expect(200);
        }
    }

    #[track_caller]
    fn happen_all(&self, names: &[&str]) {
        names.iter().for_each(|name| self.happen(name));
    }

    fn sessions(&self) -> Vec<Value> {
        self.operator().get("/api/v1/subscriptions").expect(200).json()["items"].as_array().unwrap().clone()
    }

    /// The events that are kept, from this one on, as `GET /events` shows them: so many.
    #[track_caller]
    fn shown(&self, from: u64, count: usize) -> Vec<Value> {
        let mut events = Events::open(&self.operator(), &format!("/api/v1/events?from={from}"), None);
        (0..count).map(|_| events.next().1).collect()
    }
}

fn event(publication: &Publication) -> Value {
    serde_json::from_slice(&publication.payload).unwrap()
}

fn sequence(publication: &Publication) -> u64 {
    event(publication)["seq"].as_u64().unwrap()
}

/// The next events, acknowledged, and that each is published at least once.
#[track_caller]
fn hear(client: &mut MqttClient, count: usize) -> Vec<Value> {
    let mut heard = |_| {
        let publication = client.receive();
        assert_eq!(publication.qos, Qos::AtLeastOnce);
        event(&publication)
    };
    (0..count).map(&mut heard).collect()
}

/// The names of the tasks that the next events are about.
#[track_caller]
fn names(client: &mut MqttClient, queue: &Queue, count: usize) -> Vec<String> {
    hear(client, count).iter().map(|event| name_of(queue, event)).collect()
}

fn name_of(queue: &Queue, event: &Value) -> String {
    let task = queue.server.admin().get(&format!("/api/v1/tasks/{}", id_text(&event["task_id"]))).expect(200).json();
    task["name"].as_str().unwrap().to_owned()
}

/// Nothing comes; a moment is waited for, since what isn't sent can't be waited for.
#[track_caller]
fn hears_nothing(client: &mut MqttClient) {
    if let Some(heard) = client.try_receive_for(Duration::from_millis(300)) {
        panic!("{heard:?}");
    }
}

/// Everything that was acknowledged has arrived.
fn settle(client: &mut MqttClient) {
    client.ping();
}

#[test]
fn a_consumer_is_told_what_get_events_shows_under_a_topic_for_each_product_and_device() {
    for version in VERSIONS {
        let queue = Queue::start();
        let mut everything = queue.follow(&queue.options("everything", version));
        let mut narrow = ["sluicegate/events/default/pump/p-1", "sluicegate/events/+/pump/-", "sluicegate/events/default/fan/+"]
            .map(|filter| {
                let mut client = queue.connect(&queue.options(filter, version));
                let wildcard_in_organization = filter.contains("/+/pump");
                let granted = client.subscribe(filter, Qos::ExactlyOnce);
                assert_eq!(granted, (!wildcard_in_organization).then_some(Qos::AtLeastOnce), "{filter}");
                if wildcard_in_organization {
                    assert!(client.subscribe("sluicegate/events/default/pump/-", Qos::AtLeastOnce).is_some());
                }
                client
            });
        let operator = queue.operator();
        let path = queue.fleet.start_task(&operator, json!({}));
        let device = queue.fleet.device(&operator, "p-1");
        let offer = device.offered(&queue.server);
        device.report(&queue.server, &offer["id"], "downloading").expect(200);
        device.report(&queue.server, &offer["id"], "succeeded").expect(200);
        queue.fleet.device(&operator, "p/2+#").offered(&queue.server);
        operator.post(&format!("{path}/stop"), &json!({})).expect(200);
        Fleet::new(&operator, "fan").start_task(&operator, json!({}));

        let heard: Vec<Publication> = (0..9).map(|_| everything.receive()).collect();
        let told: Vec<Value> = heard.iter().map(event).collect();
        assert_eq!(told, queue.shown(told[0]["seq"].as_u64().unwrap(), 9));
        let topics: Vec<&str> = heard.iter().map(|heard| heard.topic.strip_prefix("sluicegate/events/default/").unwrap()).collect();
        let expected = ["pump/-", "pump/-", "pump/p-1", "pump/p-1", "pump/p-1", "pump/p%2F2%2B%23", "pump/-", "fan/-", "fan/-"];
        assert_eq!(topics, expected);
        let of = |at: &[usize]| at.iter().map(|at| told[*at].clone()).collect::<Vec<_>>();
        assert_eq!(hear(&mut narrow[0], 3), of(&[2, 3, 4]));
        assert_eq!(hear(&mut narrow[1], 3), of(&[0, 1, 6]));
        assert_eq!(hear(&mut narrow[2], 2), of(&[7, 8]));
        for client in narrow.iter_mut().chain([&mut everything]) {
            hears_nothing(client);
        }
    }
}

#[test]
fn a_consumer_that_was_away_is_told_what_it_missed_without_subscribing_again() {
    let queue = Queue::start();
    for version in VERSIONS {
        // A name with a blank, and one that isn't ASCII, are as good as any.
        for client_id in ["away", "my consumer ä"] {
            let options = queue.lasting(client_id, version);
            let mut client = queue.follow(&options);
            queue.happen("a");
            assert_eq!(names(&mut client, &queue, 1), ["a"]);
            client.disconnect();
            queue.happen_all(&["b", "c"]);
            let mut client = queue.come_back(&options);
            assert_eq!(names(&mut client, &queue, 2), ["b", "c"]);
            settle(&mut client);
            // A lost network.
            drop(client);
            queue.happen("d");
            let mut client = queue.come_back(&options);
            assert_eq!(names(&mut client, &queue, 1), ["d"]);
            hears_nothing(&mut client);
            drop(client);
            queue.connect(&queue.options(client_id, version)).disconnect();
        }
    }
}

#[test]
fn what_was_in_flight_comes_again_and_what_was_acknowledged_does_not() {
    let queue = Queue::start();
    for version in VERSIONS {
        let options = queue.lasting("careless", version);
        let mut client = queue.follow(&options);
        queue.happen_all(&["a", "b", "c", "d", "e"]);
        let heard: Vec<Publication> = (0..5).map(|_| client.receive_without_acknowledging()).collect();
        // A gap: the position stands before it.
        for acknowledged in [0, 1, 3] {
            client.acknowledge(&heard[acknowledged]);
        }
        settle(&mut client);
        drop(client);
        queue.happen("f");
        let mut client = queue.come_back(&options);
        assert_eq!(names(&mut client, &queue, 4), ["c", "d", "e", "f"]);
        hears_nothing(&mut client);
        drop(client);
        queue.connect(&queue.options("careless", version)).disconnect();
    }
}

#[test]
fn a_session_outlives_a_crash_and_a_stop_of_the_server() {
    let mut queue = Queue::start();
    for version in VERSIONS {
        for crash in [true, false] {
            let options = queue.lasting("survivor", version);
            let mut client = queue.follow(&options);
            queue.happen_all(&["a", "b", "c"]);
            assert_eq!(names(&mut client, &queue, 2), ["a", "b"]);
            settle(&mut client);
            client.receive_without_acknowledging();
            if crash {
                queue.server.kill();
            } else {
                assert!(queue.server.stop().success());
            }
            queue.server.start_again();
            queue.happen("d");
            let mut client = queue.come_back(&options);
            // After a crash what was acknowledged last may come again, and in its order.
            let mut told = names(&mut client, &queue, 2);
            while told.last().unwrap() != "d" {
                told.extend(names(&mut client, &queue, 1));
            }
            assert!(["a", "b", "c", "d"].ends_with(&told.iter().map(String::as_str).collect::<Vec<_>>()), "{told:?}");
            assert!(told.len() == 2 || crash, "{told:?}");
            hears_nothing(&mut client);
            drop(client);
            queue.connect(&queue.options("survivor", version)).disconnect();
        }
    }
}

#[test]
fn nothing_more_is_sent_to_a_consumer_than_it_takes_unacknowledged() {
    let queue = Queue::start();
    let options = queue.lasting("slow", ProtocolVersion::V5).receive_max(3);
    let mut client = queue.follow(&options);
    queue.happen_all(&["a", "b", "c", "d", "e"]);
    let heard: Vec<Publication> = (0..3).map(|_| client.receive_without_acknowledging()).collect();
    assert!(client.try_receive_for(Duration::from_millis(300)).is_none());
    client.acknowledge(&heard[1]);
    assert_eq!(name_of(&queue, &event(&client.receive_without_acknowledging())), "d");
    client.acknowledge(&heard[0]);
    assert_eq!(name_of(&queue, &event(&client.receive_without_acknowledging())), "e");
    settle(&mut client);
    drop(client);
    let mut client = queue.come_back(&options);
    assert_eq!(names(&mut client, &queue, 3), ["c", "d", "e"]);
}

#[test]
fn a_consumer_that_never_acknowledges_has_a_bounded_part_in_flight_and_loses_nothing() {
    let queue = Queue::start();
    let options = queue.lasting("silent", ProtocolVersion::V311);
    queue.follow(&options).disconnect();
    queue.happen_often(1_500);
    let mut in_flight = Vec::new();
    for _ in 0..2 {
        // It can't say how much it takes, and is sent no more than this.
        let mut client = queue.come_back(&options);
        in_flight = (0..1_024).map(|_| sequence(&client.receive_without_acknowledging())).collect();
        hears_nothing(&mut client);
    }
    let mut client = queue.come_back(&options);
    let told: Vec<u64> = hear(&mut client, 1_502).iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(told[..1_024], in_flight);
    assert!(told.windows(2).all(|pair| pair[1] == pair[0] + 1));
}

#[test]
fn a_session_that_does_not_last_begins_with_what_happens_after_it_subscribed() {
    let queue = Queue::start();
    for version in VERSIONS {
        let mut client = queue.connect(&queue.options("fleeting", version));
        queue.happen("before");
        assert!(client.subscribe(ALL, Qos::AtLeastOnce).is_some());
        queue.happen("after");
        assert_eq!(names(&mut client, &queue, 1), ["after"]);
        client.unsubscribe(ALL);
        queue.happen("meanwhile");
        client.ping();
        drop(client);
        queue.happen("away");
        let mut client = queue.connect(&queue.options("fleeting", version));
        assert!(!client.session_present());
        hears_nothing(&mut client);
        assert!(client.subscribe(ALL, Qos::AtLeastOnce).is_some());
        hears_nothing(&mut client);
        assert_eq!(queue.sessions(), Vec::<Value>::new());
    }
}

#[test]
fn what_was_unsubscribed_from_stays_so_and_a_filter_more_is_remembered_too() {
    let queue = Queue::start();
    let operator = queue.operator();
    let fan = Fleet::new(&operator, "fan");
    for version in VERSIONS {
        let options = queue.lasting("choosy", version);
        let mut client = queue.follow(&options);
        assert!(client.subscribe("sluicegate/events/default/fan/+", Qos::AtLeastOnce).is_some());
        // Both filters match, and it comes once.
        let path = fan.start_task(&operator, json!({}));
        assert_eq!(hear(&mut client, 2).len(), 2);
        client.unsubscribe(ALL);
        client.disconnect();
        queue.happen("not for it");
        operator.post(&format!("{path}/stop"), &json!({})).expect(200);
        let mut client = queue.come_back(&options);
        assert_eq!(hear(&mut client, 1)[0]["kind"], "task_stopped");
        hears_nothing(&mut client);
        client.unsubscribe("sluicegate/events/default/fan/+");
        drop(client);
        queue.happen("to nobody");
        let mut client = queue.come_back(&options);
        hears_nothing(&mut client);
        assert!(client.subscribe(ALL, Qos::AtLeastOnce).is_some());
        queue.happen("again");
        assert_eq!(names(&mut client, &queue, 1), ["again"]);
        drop(client);
        queue.connect(&queue.options("choosy", version)).disconnect();
    }
}

#[test]
fn at_most_once_is_told_without_acknowledgement_and_more_of_it_than_one_write_holds() {
    const FAILURES: usize = 120;
    let queue = Queue::start();
    let operator = queue.operator();
    let options = VERSIONS.map(|version| queue.lasting(&format!("{version:?}"), version));
    for options in &options {
        let mut client = queue.connect(options);
        assert_eq!(client.subscribe(ALL, Qos::AtMostOnce), Some(Qos::AtMostOnce));
        client.disconnect();
    }
    // Each of four kilobytes, on one page.
    let path = queue.fleet.start_task(&operator, json!({ "retry": { "count": FAILURES, "interval_s": 0 } }));
    let device = queue.fleet.device(&operator, "p-1");
    for _ in 0..FAILURES {
        let upgrade = device.offered(&queue.server)["id"].clone();
        let mut report = device.report_body(&upgrade, "failed");
        report["detail"] = "\u{1d11e}".repeat(1_000).into();
        device.client(&queue.server).post("/api/v1/report", &report).expect(200);
    }
    operator.post(&format!("{path}/stop"), &json!({})).expect(200);
    for options in &options {
        let mut client = queue.come_back(options);
        let mut told = Vec::new();
        while told.last().is_none_or(|event: &Value| event["kind"] != "task_stopped") {
            let heard = client.receive();
            assert_eq!(heard.qos, Qos::AtMostOnce);
            told.push(event(&heard));
        }
        assert_eq!(told, queue.shown(told[0]["seq"].as_u64().unwrap(), 3 + 2 * FAILURES));
    }
}

// Who may listen to what.

#[test]
fn a_filter_is_granted_where_it_matches_nothing_but_what_its_token_may_read() {
    let queue = Queue::start();
    let admin = queue.server.admin();
    let token = |wanted: Value| issue_token(&admin, wanted);
    let tokens = [
        ("admin", ADMIN_TOKEN.to_owned()),
        ("operator", queue.token.clone()),
        ("user", token(json!({ "role": "user" }))),
        ("of a product", token(json!({ "role": "operator", "product_id": "pump" }))),
        ("user of a product", token(json!({ "role": "user", "product_id": "pump" }))),
        ("of another", token(json!({ "role": "operator", "organization": "other" }))),
    ];
    // For each token in turn.
    let filters = [
        (ALL, [true, true, true, false, false, false]),
        ("sluicegate/events/default/+/+", [true, true, true, false, false, false]),
        ("sluicegate/events/default/pump/#", [true, true, true, true, true, false]),
        ("sluicegate/events/default/pump/+", [true, true, true, true, true, false]),
        ("sluicegate/events/default/pump/p-1", [true, true, true, true, true, false]),
        ("sluicegate/events/default/fan/#", [true, true, true, false, false, false]),
        ("sluicegate/events/other/#", [true, false, false, false, false, true]),
        ("sluicegate/events/#", [true, false, false, false, false, false]),
        ("sluicegate/events/+/pump/+", [true, false, false, false, false, false]),
        ("sluicegate/events/+/#", [true, false, false, false, false, false]),
        ("sluicegate/#", [false; 6]),
        ("#", [false; 6]),
        ("+/events/default/#", [false; 6]),
        ("sluicegate/+/default/#", [false; 6]),
        ("/sluicegate/events/default/#", [false; 6]),
        ("$share/group/sluicegate/events/default/#", [false; 6]),
        ("$SYS/#", [false; 6]),
        ("/sys/pump/p-1/#", [false; 6]),
        ("thing/product/p-1/services", [false; 6]),
        ("sluicegate/events/default/#/x", [false; 6]),
        ("sluicegate/events/default/pump#", [false; 6]),
    ];
    for version in VERSIONS {
        for (at, (who, token)) in tokens.iter().enumerate() {
            let options = MqttOptions::new(who).version(version).credentials(who, token);
            let mut client = queue.connect(&options);
            for (filter, granted) in filters {
                assert_eq!(client.subscribe(filter, Qos::AtLeastOnce).is_some(), granted[at], "{who}: {filter}");
            }
            // Nobody but devices says anything.
            let refused = client.publish("sluicegate/events/default/pump/p-1", "{}", Qos::AtLeastOnce);
            assert_eq!(refused, version == ProtocolVersion::V5);
        }
    }
    let device = token(json!({ "role": "device", "product_id": "pump", "device_id": "p-1" }));
    let mut device = queue.connect(&MqttOptions::new("device").credentials("p-1", &device));
    for (filter, _) in filters.iter().filter(|(filter, _)| filter.starts_with("sluicegate")) {
        assert_eq!(device.subscribe(filter, Qos::AtLeastOnce), None, "{filter}");
    }
}

#[test]
fn an_organization_hears_nothing_of_another_and_a_bound_token_nothing_of_another_product() {
    let queue = Queue::start();
    let admin = queue.server.admin();
    let token = |wanted: Value| issue_token(&admin, wanted);
    let north = token(json!({ "role": "operator", "organization": "north" }));
    let bound = token(json!({ "role": "user", "product_id": "pump" }));
    let follow = |token: &str, filter: &str| {
        // All by the same client id: it is another client in each organization.
        let mut client = queue.connect(&MqttOptions::new("same").credentials("x", token).session(HOUR_S));
        assert!(!client.session_present());
        assert!(client.subscribe(filter, Qos::AtLeastOnce).is_some(), "{filter}");
        client
    };
    let mut of_north = follow(&north, "sluicegate/events/north/#");
    let mut of_default = follow(&queue.token, ALL);
    let mut of_pump = follow(&bound, "sluicegate/events/default/pump/#");
    let mut of_all = queue.connect(&MqttOptions::new("all").credentials("x", ADMIN_TOKEN));
    assert!(of_all.subscribe("sluicegate/events/#", Qos::AtLeastOnce).is_some());

    let northern = queue.server.anonymous().with_token(&north);
    Fleet::new(&northern, "pump").start_task(&northern, json!({}));
    let operator = queue.operator();
    Fleet::new(&operator, "fan").start_task(&operator, json!({}));
    queue.happen("a");
    let owners = |events: &[Value]| -> Vec<String> {
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        events.iter().map(|event| format!("{} {}", text(event, "organization"), text(event, "product_id"))).collect()
    };
    assert_eq!(owners(&hear(&mut of_north, 2)), ["north pump"; 2]);
    assert_eq!(owners(&hear(&mut of_default, 3)), ["default fan", "default fan", "default pump"]);
    assert_eq!(owners(&hear(&mut of_pump, 1)), ["default pump"]);
    let all = ["north pump", "north pump", "default fan", "default fan", "default pump"];
    assert_eq!(owners(&hear(&mut of_all, 5)), all);
    for client in [&mut of_north, &mut of_default, &mut of_pump, &mut of_all] {
        hears_nothing(client);
    }
    // Each sees the sessions of its own organization.
    assert_eq!(queue.sessions().len(), 2);
    assert_eq!(northern.get("/api/v1/subscriptions").expect(200).json()["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_token_of_one_product_takes_over_no_session_of_one_that_reads_all() {
    let queue = Queue::start();
    let options = queue.lasting("shared", ProtocolVersion::V5);
    queue.follow(&options).disconnect();
    Fleet::new(&queue.operator(), "fan").start_task(&queue.operator(), json!({}));
    let bound = issue_token(&queue.server.admin(), json!({ "role": "user", "product_id": "pump" }));
    for session in [true, false] {
        let bound = MqttOptions::new("shared").credentials("x", &bound);
        let mut client = queue.connect(&if session { bound.session(HOUR_S) } else { bound });
        assert!(!client.session_present());
        assert!(client.subscribe("sluicegate/events/default/pump/#", Qos::AtLeastOnce).is_some());
        queue.happen("a");
        drop(client);
    }
    let mut client = queue.come_back(&options);
    let kinds: Vec<Value> = hear(&mut client, 4).iter().map(|event| event["product_id"].clone()).collect();
    assert_eq!(kinds, ["fan", "fan", "pump", "pump"]);
}

#[test]
fn a_token_that_is_revoked_is_told_nothing_that_happens_afterwards() {
    let queue = Queue::start();
    for version in VERSIONS {
        let token = issue_token(&queue.server.admin(), json!({ "role": "user" }));
        let options = MqttOptions::new("x").version(version).credentials("x", &token).session(HOUR_S);
        let mut client = queue.follow(&options);
        queue.happen("before");
        assert_eq!(names(&mut client, &queue, 1), ["before"]);
        queue.server.admin().delete(&format!("/api/v1/tokens/{}", token.split_once('.').unwrap().0)).expect(204);
        queue.happen("after");
        let farewell = client.farewell();
        assert_eq!(farewell.is_some_and(|reason| reason.starts_with("NotAuthorized")), version == ProtocolVersion::V5);
        assert!(client.try_receive_for(Duration::ZERO).is_none());
        assert!(MqttClient::connect(&queue.server.address("mqtt"), &options).is_err());
        // The session is its organization's; whoever has a token goes on with it.
        let mut client = queue.come_back(&queue.lasting("x", version));
        assert_eq!(names(&mut client, &queue, 1), ["after"]);
        drop(client);
        queue.connect(&queue.options("x", version)).disconnect();
    }
}

#[test]
fn a_token_that_may_not_look_does_not_connect() {
    let queue = Queue::start();
    let address = queue.server.address("mqtt");
    let bound = issue_token(&queue.server.admin(), json!({ "role": "user", "product_id": "pump", "device_id": "p-1" }));
    for (username, password) in [("x", bound.as_str()), ("x", "nonsense"), ("x", ""), ("", "")] {
        for version in VERSIONS {
            let options = MqttOptions::new("x").version(version).credentials(username, password);
            assert!(MqttClient::connect(&address, &options).is_err(), "{username} {password}");
            assert!(MqttClient::connect(&address, &MqttOptions::new("x").version(version)).is_err());
        }
    }
}

#[test]
fn where_events_are_off_nobody_subscribes_to_them() {
    let queue = Queue::start_with("[mqtt]\nevents = false");
    let mut client = queue.connect(&queue.lasting("x", ProtocolVersion::V5));
    assert_eq!(client.subscribe(ALL, Qos::AtLeastOnce), None);
    assert!(queue.sessions().is_empty());
}

// Sessions, their beginning and end.

#[test]
fn a_session_ends_when_its_consumer_says_so() {
    let queue = Queue::start();
    type End = fn(&Queue, MqttClient);
    let end: [(&str, End); 3] = [
        ("a clean connection", |queue, client| {
            drop(client);
            assert!(!queue.connect(&queue.options("x", ProtocolVersion::V5)).session_present());
        }),
        ("a clean connection while the older is there", |queue, mut client| {
            let newer = queue.connect(&queue.options("x", ProtocolVersion::V311));
            assert!(client.farewell().is_some_and(|reason| reason.starts_with("SessionTakenOver")));
            drop(newer);
        }),
        ("an expiry of 0 as the last word", |_, client| client.disconnect_with_expiry(0)),
    ];
    for (how, end) in end {
        let options = queue.lasting("x", ProtocolVersion::V5);
        let client = queue.follow(&options);
        assert_eq!(queue.sessions().len(), 1);
        end(&queue, client);
        queue.happen("missed");
        let mut client = queue.connect(&options);
        assert!(!client.session_present(), "{how}");
        assert!(queue.sessions().is_empty(), "{how}");
        hears_nothing(&mut client);
        client.disconnect();
    }
}

#[test]
fn a_session_is_kept_as_long_as_was_said_last() {
    let queue = Queue::start();
    // To outlive its connection for a second; then, with the last word, for an hour.
    let options = queue.options("x", ProtocolVersion::V5).session(1);
    queue.follow(&options).disconnect_with_expiry(HOUR_S);
    queue.happen("a");
    // The next connection doesn't say that it is to last, and takes it up all the same.
    let mut client = queue.come_back(&queue.options("x", ProtocolVersion::V5).session(0));
    assert_eq!(names(&mut client, &queue, 1), ["a"]);
    client.disconnect();
    assert!(!queue.connect(&options).session_present());
}

#[test]
fn a_session_whose_consumer_stays_away_too_long_is_dropped_and_that_of_one_who_is_there_is_not() {
    let queue = Queue::start_with("[mqtt]\nsession_expiry_s = 1");
    let there = ["there", "over there", "ü"].map(|client_id| {
        let options = queue.lasting(client_id, ProtocolVersion::V5);
        (queue.follow(&options), options)
    });
    for _ in 0..3 {
        queue.follow(&queue.lasting("away", ProtocolVersion::V5)).disconnect();
        wait_until("the session is dropped", || (queue.sessions().len() == there.len()).then_some(()));
    }
    for (_client, options) in there {
        queue.come_back(&options);
    }
}

#[test]
fn an_operator_sees_lasting_sessions_and_ends_them() {
    let queue = Queue::start();
    let operator = queue.operator();
    let options = queue.lasting("dashboard", ProtocolVersion::V5);
    let mut fleeting = queue.follow(&queue.options("fleeting", ProtocolVersion::V5));
    let mut client = queue.follow(&options);
    queue.happen("a");
    let newest = hear(&mut client, 1)[0]["seq"].as_u64().unwrap();
    let sessions = queue.sessions();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    assert_eq!((&sessions[0]["url"], &sessions[0]["format"]), (&json!("mqtt:dashboard"), &json!("mqtt")));
    wait_until("how far it is is written down", || (queue.sessions()[0]["position"] == newest).then_some(()));
    let path = format!("/api/v1/subscriptions/{}", sessions[0]["id"].as_str().unwrap());

    // Nobody else's.
    let other = issue_token(&queue.server.admin(), json!({ "role": "operator", "organization": "other" }));
    queue.server.anonymous().with_token(&other).delete(&path).expect(404);
    // While it is connected: it is sent away, and learns that it has to begin anew.
    operator.delete(&path).expect(204);
    queue.happen("b");
    assert!(client.farewell().is_some_and(|reason| reason.starts_with("AdministrativeAction")));
    let client = queue.follow(&options);
    client.disconnect();
    // And while it is away.
    operator.delete(&path).expect(204);
    operator.delete(&path).expect(404);
    queue.happen("c");
    let mut client = queue.connect(&options);
    assert!(!client.session_present());
    hears_nothing(&mut client);
    assert_eq!(names(&mut fleeting, &queue, 3), ["a", "b", "c"]);
}

#[test]
fn a_newer_client_of_the_same_name_takes_the_session_with_all_that_was_in_flight() {
    let queue = Queue::start();
    for version in VERSIONS {
        let options = queue.lasting("twin", version);
        let mut older = queue.follow(&options);
        queue.happen_all(&["a", "b", "c"]);
        assert_eq!(names(&mut older, &queue, 1), ["a"]);
        older.receive_without_acknowledging();
        settle(&mut older);
        let mut newer = queue.come_back(&options);
        assert_eq!(names(&mut newer, &queue, 2), ["b", "c"]);
        let farewell = older.farewell();
        assert_eq!(farewell.is_some_and(|reason| reason.starts_with("SessionTakenOver")), version == ProtocolVersion::V5);
        queue.happen("d");
        assert_eq!(names(&mut newer, &queue, 1), ["d"]);
        // The end of the older ends nothing of the newer.
        settle(&mut newer);
        drop(newer);
        queue.happen("e");
        let mut client = queue.come_back(&options);
        assert_eq!(names(&mut client, &queue, 1), ["e"]);
        hears_nothing(&mut client);
        drop(client);
        queue.connect(&queue.options("twin", version)).disconnect();
    }
}

#[test]
fn clients_that_take_each_others_place_over_and_over_lose_nothing() {
    let queue = Queue::start();
    let options = queue.lasting("twins", ProtocolVersion::V5);
    let mut clients = vec![queue.follow(&options)];
    let mut told = Vec::new();
    for number in 0..30 {
        queue.happen(&number.to_string());
        clients.push(queue.come_back(&options));
        if number % 3 == 0 {
            told.push(sequence(&clients.last_mut().unwrap().receive()));
        }
    }
    let mut last = clients.pop().unwrap();
    while told.iter().collect::<BTreeSet<_>>().len() < 30 {
        told.push(sequence(&last.receive()));
    }
    let shown: BTreeSet<u64> = queue.shown(1, 30).iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(told.iter().copied().collect::<BTreeSet<_>>(), shown);
    for mut older in clients {
        assert!(older.farewell().is_some());
    }
}

#[test]
fn no_more_sessions_are_kept_than_the_limit_and_those_that_do_not_last_need_none() {
    let queue = Queue::start_with("[limits]\nsubscriptions_max = 2");
    for version in VERSIONS {
        for client_id in ["first", "second"] {
            queue.follow(&queue.lasting(client_id, version)).disconnect();
        }
        let third = queue.lasting("third", version);
        let mut client = queue.connect(&third);
        assert_eq!(client.subscribe(ALL, Qos::AtLeastOnce), None);
        queue.happen("unheard");
        hears_nothing(&mut client);
        client.disconnect();
        assert!(!queue.connect(&third).session_present());
        queue.follow(&queue.options("third", version)).disconnect();
        // Those that are there subscribe to more, and make room when they end.
        let mut client = queue.come_back(&queue.lasting("first", version));
        assert!(client.subscribe("sluicegate/events/default/pump/+", Qos::AtLeastOnce).is_some());
        drop(client);
        queue.connect(&queue.options("first", version)).disconnect();
        queue.follow(&third).disconnect();
        for client_id in ["second", "third"] {
            queue.connect(&queue.options(client_id, version)).disconnect();
        }
    }
}

#[test]
fn a_session_without_a_name_is_refused_in_3_1_1_and_named_in_5_0() {
    let queue = Queue::start();
    let refusal = MqttClient::connect(&queue.server.address("mqtt"), &queue.lasting("", ProtocolVersion::V311)).unwrap_err();
    assert!(refusal.starts_with("IdentifierRejected"), "{refusal}");
    for version in VERSIONS {
        // Two of them are two.
        let mut clients = [queue.follow(&queue.options("", version)), queue.follow(&queue.options("", version))];
        queue.happen("a");
        for client in &mut clients {
            assert_eq!(names(client, &queue, 1), ["a"]);
        }
    }
}

#[test]
fn filters_are_counted_and_those_of_before_may_be_said_again() {
    let queue = Queue::start();
    let options = queue.lasting("many", ProtocolVersion::V5);
    let mut client = queue.connect(&options);
    let filter = |number: u32| format!("sluicegate/events/default/p{number}/#");
    for number in 0..64 {
        assert!(client.subscribe(&filter(number), Qos::AtLeastOnce).is_some());
    }
    assert_eq!(client.subscribe(&filter(64), Qos::AtLeastOnce), None);
    client.disconnect();
    let mut client = queue.come_back(&options);
    for number in 0..64 {
        assert!(client.subscribe(&filter(number), Qos::AtLeastOnce).is_some());
    }
    assert_eq!(client.subscribe(&filter(64), Qos::AtLeastOnce), None);
    client.unsubscribe(&filter(0));
    assert!(client.subscribe(&filter(64), Qos::AtLeastOnce).is_some());
}

#[test]
fn what_is_no_longer_kept_is_left_out_and_the_rest_is_told() {
    let queue = Queue::start_with("[limits]\nevents_max = 1000");
    let operator = queue.operator();
    let options = queue.lasting("late", ProtocolVersion::V5);
    queue.follow(&options).disconnect();
    queue.happen_often(1_400);
    queue.happen("last");
    let oldest = Events::open(&operator, "/api/v1/events", None).next().0;
    let mut client = queue.come_back(&options);
    let mut told = vec![];
    loop {
        let heard = event(&client.receive());
        told.push(heard["seq"].as_u64().unwrap());
        if heard["kind"] == "task_created" && told.len() > 2 {
            break;
        }
    }
    // What is dropped between the two looks isn't told; what is kept comes without a gap.
    assert!(told.windows(2).all(|pair| pair[1] == pair[0] + 1), "{told:?}");
    assert!(told[0] <= oldest, "{} was kept, told from {}", oldest, told[0]);
}

// An independent client.

#[track_caller]
fn mosquitto_sub(queue: &Queue, version: &str, args: &[&str]) -> Output {
    let address = queue.server.address("mqtt");
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut command = Command::new("mosquitto_sub");
    command.args(["-h", host, "-p", port, "-V", version, "-u", "x", "-P", &queue.token, "-q", "1", "-t", ALL]).args(args);
    command.output().unwrap_or_else(|error| {
        panic!("mosquitto_sub is needed here ({error}); install it: apt-get install mosquitto-clients, brew install mosquitto")
    })
}

#[test]
fn an_independent_client_with_a_lasting_session_misses_nothing_across_a_restart() {
    let mut queue = Queue::start();
    for (version, more) in [("311", &[][..]), ("5", &["-x", "3600"])] {
        let id = format!("independent-{version}");
        let args = |count: &'static str| [&["-i", &id, "-c", "-F", "%t %p", "-C", count, "-W", "60"], more].concat();
        let session = |queue: &Queue| queue.sessions().iter().any(|session| session["url"] == format!("mqtt:{id}"));
        let told = std::thread::scope(|scope| {
            let first = scope.spawn(|| mosquitto_sub(&queue, version, &args("2")));
            wait_until("it has subscribed", || session(&queue).then_some(()));
            queue.happen_all(&["a", "b", "c"]);
            first.join().unwrap()
        });
        let mut lines = String::from_utf8(told.stdout).unwrap();
        queue.server.kill_and_start_again();
        assert!(session(&queue));
        queue.happen("d");
        // What it acknowledged last before the crash may come again.
        while !lines.lines().any(|line| line.split_once(' ').is_some_and(|(_, text)| is_of(&queue, text, "d"))) {
            let told = mosquitto_sub(&queue, version, &args("1"));
            assert!(told.status.success(), "{} {}", lines, String::from_utf8_lossy(&told.stderr));
            lines.push_str(&String::from_utf8(told.stdout).unwrap());
        }
        let mut of = BTreeMap::<u64, Value>::new();
        for line in lines.lines() {
            let (topic, text) = line.split_once(' ').unwrap();
            assert_eq!(topic, "sluicegate/events/default/pump/-");
            let event: Value = serde_json::from_str(text).unwrap();
            of.insert(event["seq"].as_u64().unwrap(), event);
        }
        assert_eq!(of.values().map(|event| name_of(&queue, event)).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        let first = *of.keys().next().unwrap();
        assert_eq!(of.into_values().collect::<Vec<_>>(), queue.shown(first, 4));
    }
}

fn is_of(queue: &Queue, text: &str, name: &str) -> bool {
    name_of(queue, &serde_json::from_str(text).unwrap()) == name
}

// Many events, and a consumer that is killed again and again.

/// Numbers that look random and follow from the seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

const DEVICES: usize = 200;
const STEPS: u8 = 100;

/// Devices that report step by step until they are done: some 20,000 events.
fn roll_out(queue: &Queue) {
    let operator = queue.operator();
    let path = queue.fleet.start_task(&operator, json!({}));
    std::thread::scope(|scope| {
        for worker in 0..20 {
            let operator = &operator;
            scope.spawn(move || {
                let devices: Vec<_> = (0..DEVICES / 20)
                    .map(|number| {
                        let device = queue.fleet.device(operator, &format!("p-{worker}-{number}"));
                        let upgrade = device.offered(&queue.server)["id"].clone();
                        (device, upgrade)
                    })
                    .collect();
                for percent in 1..=STEPS {
                    for (device, upgrade) in &devices {
                        let mut report = device.report_body(upgrade, "installing");
                        report["percent"] = percent.into();
                        device.client(&queue.server).post("/api/v1/report", &report).expect(200);
                    }
                }
            });
        }
    });
    operator.post(&format!("{path}/stop"), &json!({})).expect(200);
}

#[test]
fn a_consumer_that_is_killed_again_and_again_sees_every_event_in_order_of_each_device() {
    const SEED: u64 = 20_241_105;
    let queue = Queue::start();
    let mut random = Random(SEED);
    let mut seen = BTreeMap::<u64, Value>::new();
    let mut newest_of = BTreeMap::<String, u64>::new();
    let (mut lives, mut repeated) = (0, 0);
    std::thread::scope(|scope| {
        let versions = VERSIONS.iter().cycle();
        queue.follow(&queue.lasting("killed", ProtocolVersion::V5)).disconnect();
        scope.spawn(|| roll_out(&queue));
        for version in versions {
            lives += 1;
            let mut client = queue.come_back(&queue.lasting("killed", *version));
            let (lifetime, unacknowledged) = (random.below(1_500) + 1, random.below(60));
            let mut last = 0;
            for number in 0..lifetime {
                let publication = client.receive_without_acknowledging();
                let event = event(&publication);
                let sequence = event["seq"].as_u64().unwrap();
                assert!(sequence > last, "{sequence} after {last} on one connection");
                last = sequence;
                if seen.contains_key(&sequence) {
                    repeated += 1;
                } else if let Some(device) = event["device_id"].as_str() {
                    // Nothing new of a device comes before what is older.
                    let before = newest_of.insert(device.to_owned(), sequence);
                    assert!(before.is_none_or(|before| before < sequence), "{device}: {sequence} after {before:?}");
                }
                let is_last = event["kind"] == "task_stopped";
                seen.insert(sequence, event);
                if is_last {
                    return;
                }
                if number + unacknowledged < lifetime {
                    client.acknowledge(&publication);
                }
            }
            // Dies without a word, with some in flight.
        }
    });
    let first = *seen.keys().next().unwrap();
    let shown = queue.shown(first, seen.len());
    assert_eq!(shown.last().unwrap()["kind"], "task_stopped", "seed {SEED}: events are missing");
    assert!(shown.iter().eq(seen.values()), "seed {SEED}: what was told isn't what GET /events shows");
    assert!(seen.len() > DEVICES * usize::from(STEPS), "{} events", seen.len());
    // Each life repeats at most what was in flight when the one before ended.
    assert!(lives > 5 && repeated <= lives * 1_024, "seed {SEED}: {repeated} repeated in {lives} lives");
}
