//! A gateway of Autel's, as a test drives one: a connection, and the messages of seed and platform. It is connected to the server, or
//! to a broker that the server is connected to; what it says is the same.

use crate::common::fleet::issue_token;
use crate::common::mqtt::{MqttClient, MqttOptions};
use crate::common::{Client, Fleet, Mosquitto, TestServer, wait_until};
use serde_json::{Value, json};
use sluicegate_server::mqtt::wire::Qos;
use std::time::Duration;

pub(crate) const PRODUCT: &str = "dock";
pub(crate) const FROM: &str = "1.0.0.1";

/// How gateways and server hear of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Listener,
    Broker,
}

/// A server that speaks MQTT, with firmware and a token that manages.
pub(crate) struct Station {
    pub(crate) server: TestServer,
    pub(crate) operator: Client,
    /// The operator's.
    token: String,
    pub(crate) fleet: Fleet,
    /// Where gateways connect, unless that is the server itself.
    pub(crate) broker: Option<Mosquitto>,
}

impl Station {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    pub(crate) fn start_with(config: &str) -> Self {
        Self::of(TestServer::setup().args(&["--mqtt-listen", "127.0.0.1:0"]).config(config).start(), None)
    }

    pub(crate) fn on(way: Way) -> Self {
        Self::on_with(way, "")
    }

    pub(crate) fn on_with(way: Way, config: &str) -> Self {
        match way {
            Way::Listener => Self::start_with(config),
            Way::Broker => Self::through(Mosquitto::start(), config),
        }
    }

    /// Connected to a broker that asks for nothing.
    pub(crate) fn through(broker: Mosquitto, config: &str) -> Self {
        let url = broker.url();
        let station = Self::through_at(broker, &url, config);
        station.wait_for_broker();
        station
    }

    /// With a broker that is reached by this address. It needn't run.
    pub(crate) fn through_at(broker: Mosquitto, url: &str, config: &str) -> Self {
        Self::of(TestServer::setup().args(&["--mqtt-url", url]).config(config).start(), Some(broker))
    }

    fn of(server: TestServer, broker: Option<Mosquitto>) -> Self {
        let token = issue_token(&server.admin(), json!({ "role": "operator" }));
        let operator = server.anonymous().with_token(&token);
        let fleet = Fleet::new(&operator, PRODUCT);
        Self { server, operator, token, fleet, broker }
    }

    pub(crate) fn broker(&mut self) -> &mut Mosquitto {
        self.broker.as_mut().expect("this station is on a broker")
    }

    /// Until the server hears what is said on the broker.
    #[track_caller]
    pub(crate) fn wait_for_broker(&self) {
        wait_until("the server is connected to the broker", || {
            (self.metric("sluicegate_mqtt_broker_connected") == 1).then_some(())
        });
    }

    /// Until the server has noticed that the broker is gone.
    #[track_caller]
    pub(crate) fn wait_for_no_broker(&self) {
        wait_until("the server has noticed that the broker is gone", || {
            (self.metric("sluicegate_mqtt_broker_connected") == 0).then_some(())
        });
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.server.metric(name) as u64
    }

    /// How many messages came to this.
    pub(crate) fn messages(&self, outcome: &str) -> u64 {
        self.metric(&format!("sluicegate_mqtt_messages_total{{outcome=\"{outcome}\"}}"))
    }

    /// A device that runs [`FROM`], with whatever more is to be known of it. Through a broker nobody registers by speaking.
    #[track_caller]
    pub(crate) fn register(&self, sn: &str, more: Value) {
        let mut device = json!({ "components": [{ "type": 1, "identify": 0, "version": FROM }] });
        device.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let response = self.operator.put(&format!("/api/v1/products/{PRODUCT}/devices/{sn}"), &device);
        assert!(matches!(response.status, 200 | 201 | 204), "{}: {}", response.status, response.text());
    }

    #[track_caller]
    pub(crate) fn version(&self, sn: &str) -> Value {
        let device = self.operator.get(&format!("/api/v1/products/{PRODUCT}/devices/{sn}")).expect(200).json();
        device["components"][0]["version"].clone()
    }

    /// A crash, and a new start on other ports.
    pub(crate) fn kill_and_start_again(&mut self) {
        self.server.kill();
        self.start_again();
    }

    /// After the server was killed or stopped.
    pub(crate) fn start_again(&mut self) {
        self.server.start_again();
        self.operator = self.server.anonymous().with_token(&self.token);
    }

    /// A started task from [`FROM`], with whatever more it is to have: its path.
    pub(crate) fn task(&self, more: Value) -> String {
        let mut body = json!({ "from_versions": [FROM] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.fleet.start_task(&self.operator, body)
    }

    pub(crate) fn token_of(&self, sn: &str) -> String {
        issue_token(&self.operator, json!({ "role": "device", "product_id": PRODUCT, "device_id": sn }))
    }

    /// Connected and subscribed; says nothing yet.
    pub(crate) fn connect(&self, sn: &str) -> Gateway {
        let Some(broker) = &self.broker else {
            return Gateway::connect(&self.server.address("mqtt"), sn, sn, &self.token_of(sn));
        };
        let device = format!("/api/v1/products/{PRODUCT}/devices/{sn}");
        if self.operator.get(&device).status == 404 {
            self.register(sn, json!({}));
        }
        Gateway::through(&broker.address(), sn)
    }

    /// There, and at [`FROM`].
    pub(crate) fn gateway(&self, sn: &str) -> Gateway {
        let mut gateway = self.connect(sn);
        gateway.tell_version(sn, FROM);
        gateway.come_online(&[]);
        gateway
    }

    /// A dock that is there with its aircraft, both at [`FROM`].
    pub(crate) fn dock_with(&self, dock: &str, aircraft: &str) -> Gateway {
        let mut gateway = self.connect(dock);
        if self.broker.is_some() {
            self.register(aircraft, json!({}));
        }
        gateway.come_online(&[aircraft]);
        gateway.tell_version(dock, FROM);
        gateway.tell_version(aircraft, FROM);
        gateway
    }

    pub(crate) fn counts(&self, task: &str) -> Value {
        self.operator.get(task).expect(200).json()["counts"].clone()
    }

    /// The row of a device's upgrade.
    pub(crate) fn row(&self, task: &str, sn: &str) -> Value {
        let rows = self.operator.get(&format!("{task}/upgrades")).expect(200).json();
        let row = rows["items"].as_array().unwrap().iter().find(|row| row["device_id"] == sn).cloned();
        row.unwrap_or_else(|| panic!("no row of {sn} in {rows}"))
    }

    /// The row of a device's upgrade, which stands in this state: at once over the listener, whose acknowledgement says that a message
    /// was taken; in a while through a broker, which acknowledges for itself.
    #[track_caller]
    pub(crate) fn row_in(&self, task: &str, sn: &str, state: &str) -> Value {
        if self.broker.is_some() {
            return wait_until(&format!("{sn} is {state}"), || Some(self.row(task, sn)).filter(|row| row["state"] == state));
        }
        let row = self.row(task, sn);
        assert_eq!(row["state"], state, "{row}");
        row
    }
}

pub(crate) struct Gateway {
    pub(crate) sn: String,
    pub(crate) client: MqttClient,
    options: MqttOptions,
    settled: u32,
}

impl Gateway {
    pub(crate) fn connect(address: &str, sn: &str, username: &str, password: &str) -> Self {
        Self::with(address, sn, MqttOptions::new(&format!("client-{sn}")).credentials(username, password))
    }

    /// To a broker, which keeps for it what it isn't there to hear.
    pub(crate) fn through(address: &str, sn: &str) -> Self {
        Self::with(address, sn, MqttOptions::new(&format!("client-{sn}")).session(3_600))
    }

    fn with(address: &str, sn: &str, options: MqttOptions) -> Self {
        let client = MqttClient::connect(address, &options).unwrap();
        let mut gateway = Self { sn: sn.to_owned(), client, options, settled: 0 };
        gateway.subscribe();
        gateway
    }

    fn subscribe(&mut self) {
        let channels = ["thing/product/{sn}/services", "thing/product/{sn}/events_reply", "thing/product/{sn}/requests_reply"];
        for filter in channels.into_iter().chain(["sys/product/{sn}/status_reply"]) {
            let granted = self.client.subscribe(&filter.replace("{sn}", &self.sn), Qos::AtLeastOnce);
            assert_eq!(granted, Some(Qos::AtLeastOnce));
        }
    }

    /// A new connection, as after the old one broke.
    pub(crate) fn connect_again(&mut self, address: &str) {
        self.client.connect_again(address, &self.options).unwrap();
        self.subscribe();
    }

    /// What it says every two seconds, whatever else happens.
    pub(crate) fn osd(&mut self) {
        let message = json!({ "tid": "t", "bid": "b", "timestamp": 1, "gateway": self.sn, "data": { "mode_code": 0 } });
        let topic = format!("thing/product/{}/osd", self.sn);
        self.client.publish(&topic, message.to_string(), Qos::AtMostOnce);
    }

    /// Returns once what it said so far was taken, or will never be: an event that wants a reply has got one. Messages of one device
    /// are taken in their order.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        self.settled += 1;
        let tid = format!("settle-{}", self.settled);
        let message = json!({ "tid": tid, "bid": "b", "need_reply": 1, "timestamp": 1, "method": "hms", "data": {} });
        let topic = format!("thing/product/{}/events", self.sn);
        self.publish(&topic, &message);
        // A broker that was killed may say once more what it had said before.
        while self.receive(&format!("{topic}_reply"))["tid"] != tid {}
    }

    /// Says where it is, and what is attached.
    pub(crate) fn come_online(&mut self, attached: &[&str]) {
        let children: Vec<Value> =
            attached.iter().map(|sn| json!({ "sn": sn, "domain": 0, "type": 67, "sub_type": 0, "index": "A" })).collect();
        let data = json!({ "domain": 3, "type": 1, "sub_type": 0, "device_secret": "s", "nonce": "n", "thing_version": "1.1", "sub_devices": children });
        let message =
            json!({ "tid": "t-topo", "bid": "b-topo", "timestamp": 1_707_048_089_244_u64, "method": "update_topo", "data": data });
        self.publish(&format!("sys/product/{}/status", self.sn), &message);
        let reply = self.receive(&format!("sys/product/{}/status_reply", self.sn));
        assert_eq!((&reply["tid"], &reply["bid"], &reply["data"]), (&json!("t-topo"), &json!("b-topo"), &json!({ "result": 0 })));
    }

    pub(crate) fn tell_version(&mut self, sn: &str, version: &str) {
        let gateway = self.sn.clone();
        let message =
            json!({ "tid": "t", "bid": "b", "timestamp": 1, "gateway": gateway, "data": { "firmware_version": version } });
        self.publish(&format!("thing/product/{sn}/state"), &message);
    }

    /// At least once, and acknowledged: what it says is durable.
    pub(crate) fn publish(&mut self, topic: &str, message: &Value) {
        self.client.publish(topic, message.to_string(), Qos::AtLeastOnce);
    }

    /// The next message, which has to come on this topic.
    pub(crate) fn receive(&mut self, topic: &str) -> Value {
        let publication = self.client.receive();
        assert_eq!(publication.topic, topic, "{:?}", publication.payload);
        serde_json::from_slice(&publication.payload).unwrap()
    }

    /// The order to upgrade.
    pub(crate) fn order(&mut self) -> Value {
        let order = self.receive(&format!("thing/product/{}/services", self.sn));
        assert_eq!(order["method"], "ota_create");
        order
    }

    /// Nothing comes; a moment is waited for, since what isn't sent can't be waited for.
    pub(crate) fn hears_nothing(&mut self) {
        while let Some(heard) = self.client.try_receive_for(Duration::from_millis(300)) {
            assert!(String::from_utf8_lossy(&heard.payload).contains("settle-"), "{heard:?}");
        }
    }

    /// Answers an order.
    pub(crate) fn answer(&mut self, order: &Value, data: Value) {
        let message = json!({ "tid": order["tid"], "bid": order["bid"], "timestamp": 1, "method": "ota_create", "data": data });
        self.publish(&format!("thing/product/{}/services_reply", self.sn), &message);
    }

    /// Progress, under a business id of one's own where `bid` is none.
    pub(crate) fn progress(&mut self, bid: &Value, status: &str, more: Value) {
        let mut output = json!({ "status": status });
        output.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let data = json!({ "output": output, "result": 0 });
        let message = json!({ "tid": "t", "bid": bid, "timestamp": 1, "method": "ota_progress", "data": data });
        self.publish(&format!("thing/product/{}/events", self.sn), &message);
    }

    /// Answers, runs and succeeds.
    pub(crate) fn upgrade(&mut self) -> Value {
        let order = self.order();
        self.answer(&order, json!({ "result": 0, "output": { "status": "sent" } }));
        let step = |percent: u8, key: &str| json!({ "progress": { "percent": percent, "step_key": key } });
        self.progress(&order["bid"], "in_progress", step(50, "download_firmware"));
        self.progress(&order["bid"], "in_progress", step(50, "upgrade_firmware"));
        self.progress(&order["bid"], "ok", step(100, "upgrade_firmware"));
        order
    }
}
