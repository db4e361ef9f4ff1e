//! A broker that is there already: however it is reached, and whoever may be believed on it. The conversations themselves stand in
//! `gateways`, since they are the same on either way.

use crate::common::fleet::issue_token;
use crate::common::mqtt::{MqttClient, MqttOptions};
use crate::common::{Fleet, Mosquitto, wait_until};
use crate::gateway_support::{FROM, PRODUCT, Station, Way};
use serde_json::{Value, json};
use sluicegate_server::mqtt::wire::Qos;

/// A gateway's whole upgrade.
#[track_caller]
fn serves(station: &Station, sn: &str) {
    let mut gateway = station.gateway(sn);
    let task = station.task(json!({ "scope": { "type": "devices", "devices": [sn] } }));
    gateway.upgrade();
    let row = station.row_in(&task, sn, "succeeded");
    assert_eq!(row["attempts"], 1, "{row}");
    gateway.settle();
    gateway.hears_nothing();
}

#[track_caller]
fn wait_for_log(station: &Station, text: &str) {
    wait_until(&format!("the server says {text:?}"), || station.server.log().contains(text).then_some(()));
}

#[test]
fn either_version_is_spoken_with_it() {
    for version in [3, 5] {
        let station = Station::on_with(Way::Broker, &format!("[mqtt]\nversion = {version}"));
        serves(&station, "g");
        let protocol = if version == 3 { "p2, c0" } else { "p5, c0" };
        assert!(station.broker.as_ref().unwrap().log().contains(protocol));
    }
}

#[test]
fn subscriptions_are_shared_where_a_group_is_named_in_either_version() {
    for version in [3, 5] {
        let station = Station::on_with(Way::Broker, &format!("[mqtt]\nversion = {version}\nshare_group = \"sluices\""));
        serves(&station, "g");
        assert!(station.broker.as_ref().unwrap().log().contains("$share/sluices/thing/product/+/events"));
    }
}

#[test]
fn a_broker_that_wants_a_name_and_a_password_is_given_them() {
    for (place, url, config) in
        [("the url", "server:s%40cret@", ""), ("the configuration", "", "[mqtt]\nusername = \"server\"\npassword = \"s@cret\"")]
    {
        let broker = Mosquitto::setup().user("server", "s@cret").more("").start();
        let url = broker.url().replace("mqtt://", &format!("mqtt://{url}"));
        let station = Station::through_at(broker, &url, config);
        wait_until(place, || (station.metric("sluicegate_mqtt_broker_connected") == 1).then_some(()));
        assert!(!station.server.log().contains("cret"), "a password is nobody's business");
    }
}

#[test]
fn with_a_wrong_password_the_server_runs_on_says_so_seldom_and_comes_in_when_it_is_right() {
    let broker = Mosquitto::setup().user("server", "right").start();
    let url = broker.url_of("server", "wrong");
    let mut station = Station::through_at(broker, &url, "");
    let refusals = |station: &Station| station.server.log().matches("the broker refused us").count();
    wait_until("it was refused three times", || (refusals(&station) >= 3).then_some(()));
    let connections = station.broker().log().matches("New client connected").count();
    assert_eq!(connections, 0);
    assert!(refusals(&station) < 10, "{}", station.server.log());
    assert!(!station.server.log().contains("wrong"));
    station.server.anonymous().get("/readyz").expect(200);
    station.broker().kill();
    station.broker().set_users(&[("server", "wrong")]);
    station.broker().start_again();
    station.wait_for_broker();
}

#[test]
fn tls_is_spoken_with_a_broker_whose_authority_is_known_and_with_no_other() {
    for host in ["localhost", "127.0.0.1"] {
        let broker = Mosquitto::setup().tls().start();
        let config = format!("[mqtt]\nca = {:?}", broker.authority().display().to_string());
        let url = broker.tls_url(host);
        let station = Station::through_at(broker, &url, &config);
        station.wait_for_broker();
        serves(&station, "g");
    }
    let broker = Mosquitto::setup().tls().start();
    let url = broker.tls_url("localhost");
    let stranger = Mosquitto::setup().tls().start();
    let config = format!("[mqtt]\nca = {:?}", stranger.authority().display().to_string());
    let station = Station::through_at(broker, &url, &config);
    wait_for_log(&station, "no connection to the broker");
    assert_eq!(station.metric("sluicegate_mqtt_broker_connected"), 0);
    station.server.anonymous().get("/readyz").expect(200);
}

#[test]
fn a_broker_that_takes_no_events_is_told_of_in_the_log_and_devices_are_served_all_the_same() {
    let broker = Mosquitto::setup().may("topic readwrite thing/#\ntopic readwrite sys/#\n").start();
    let station = Station::through(broker, "");
    serves(&station, "g");
    wait_for_log(&station, "the broker refuses what is published");
    assert!(station.messages("broker_refused") > 0);
}

#[test]
fn a_serial_number_of_two_organizations_is_refused_and_counted() {
    let station = Station::on(Way::Broker);
    let token = issue_token(&station.server.admin(), json!({ "role": "operator", "organization": "other" }));
    let other = station.server.anonymous().with_token(&token);
    Fleet::new(&other, PRODUCT);
    let device = json!({ "components": [{ "type": 1, "identify": 0, "version": FROM }] });
    other.put(&format!("/api/v1/products/{PRODUCT}/devices/both"), &device).expect(201);
    let mut both = station.connect("both");
    let mut own = station.gateway("own");
    let task = station.task(json!({}));
    both.osd();
    both.tell_version("both", "9.9");
    wait_until("it was refused", || (station.messages("refused") >= 2).then_some(()));
    own.upgrade();
    station.row_in(&task, "own", "succeeded");
    both.hears_nothing();
    assert_eq!(station.version("both"), FROM);
    assert_eq!(station.row(&task, "both")["state"], "waiting");
    wait_for_log(&station, "several devices are called");
    // Once it is the device of one alone, it is served.
    other.delete(&format!("/api/v1/products/{PRODUCT}/devices/both")).expect(204);
    both.osd();
    both.upgrade();
    station.row_in(&task, "both", "succeeded");
}

#[test]
fn a_serial_number_that_nobody_knows_is_refused_until_somebody_does() {
    let station = Station::on(Way::Broker);
    let address = station.broker.as_ref().unwrap().address();
    let mut stranger = crate::gateway_support::Gateway::through(&address, "stranger");
    stranger.osd();
    stranger.tell_version("stranger", FROM);
    wait_until("it was refused", || (station.messages("refused") >= 2).then_some(()));
    wait_for_log(&station, "create it, so that its organization is known");
    assert_eq!(station.operator.get(&format!("/api/v1/products/{PRODUCT}/devices/stranger")).status, 404);
    station.register("stranger", json!({}));
    stranger.come_online(&[]);
    let task = station.task(json!({}));
    stranger.upgrade();
    station.row_in(&task, "stranger", "succeeded");
}

#[test]
fn nobody_reaches_into_another_organization_by_what_a_message_says() {
    let station = Station::on(Way::Broker);
    let token = issue_token(&station.server.admin(), json!({ "role": "operator", "organization": "other" }));
    let other = station.server.anonymous().with_token(&token);
    Fleet::new(&other, PRODUCT);
    let device = json!({ "components": [{ "type": 1, "identify": 0, "version": FROM }] });
    for sn in ["rogue", "drone"] {
        other.put(&format!("/api/v1/products/{PRODUCT}/devices/{sn}"), &device).expect(201);
    }
    let mut own = station.gateway("own");
    let address = station.broker.as_ref().unwrap().address();
    let mut rogue = crate::gateway_support::Gateway::through(&address, "rogue");
    // It says that it is attached to another's dock, and another's dock that the drone is attached to it.
    let state = json!({ "tid": "t", "bid": "b", "timestamp": 1, "gateway": "own", "data": { "firmware_version": "6.6" } });
    rogue.publish("thing/product/rogue/state", &state);
    // It has spoken for itself.
    let device = format!("/api/v1/products/{PRODUCT}/devices/rogue");
    wait_until("it was heard", || (other.get(&device).expect(200).json()["components"][0]["version"] == "6.6").then_some(()));
    own.come_online(&["drone"]);
    wait_until("it was refused", || (station.messages("attachment_refused") >= 1).then_some(()));
    rogue.settle();
    own.settle();
    for sn in ["rogue", "drone"] {
        assert_eq!(station.operator.get(&format!("/api/v1/products/{PRODUCT}/devices/{sn}")).status, 404, "{sn}");
    }
}

#[test]
fn an_enos_device_is_told_and_tells_through_a_broker() {
    let mut station = Station::on(Way::Broker);
    station.register("lamp", json!({}));
    let task = station.task(json!({}));
    let address = station.broker.as_ref().unwrap().address();
    let mut lamp = Enos::connect(&address, "lamp");
    lamp.say("inform", json!({ "version": FROM }));
    lamp.answered("inform");
    let offer = lamp.hear("upgrade");
    assert_eq!(offer["params"]["version"], "2.0");
    assert_eq!(offer["params"]["fileSize"], station.fleet.image.len());
    lamp.client.publish(&lamp.topic("upgrade_reply"), json!({ "id": offer["id"], "code": 200 }).to_string(), Qos::AtLeastOnce);
    lamp.say("progress", json!({ "step": 50, "desc": "half" }));
    lamp.answered("progress");
    assert_eq!(station.row(&task, "lamp")["percent"], 50);

    station.broker().kill();
    station.wait_for_no_broker();
    station.broker().start_again();
    station.wait_for_broker();
    lamp = Enos::connect(&address, "lamp");
    lamp.say("progress", json!({ "step": 100 }));
    lamp.answered("progress");
    station.server.kill();
    // It has restarted into the new version meanwhile.
    lamp.say("inform", json!({ "version": "2.0" }));
    station.start_again();
    lamp.answered("inform");
    let row = station.row_in(&task, "lamp", "succeeded");
    assert_eq!(row["attempts"], 1);
    assert!(lamp.client.try_receive_for(std::time::Duration::from_millis(300)).is_none());
}

#[test]
fn an_enos_device_whose_upgrade_falls_due_while_there_is_no_broker_hears_of_it_afterwards() {
    let mut station = Station::on(Way::Broker);
    station.register("lamp", json!({}));
    let address = station.broker.as_ref().unwrap().address();
    let mut lamp = Enos::connect(&address, "lamp");
    lamp.say("inform", json!({ "version": FROM }));
    lamp.answered("inform");
    station.broker().kill();
    station.wait_for_no_broker();
    let task = station.task(json!({}));
    wait_until("it is offered", || (station.row(&task, "lamp")["state"] == "offered").then_some(()));
    station.broker().start_again();
    station.wait_for_broker();
    lamp.connect_again(&address);
    lamp.hear("upgrade");
    lamp.say("inform", json!({ "version": "2.0" }));
    lamp.answered("inform");
    assert_eq!(station.row(&task, "lamp")["state"], "succeeded");
}

/// A device of EnOS's, on a broker.
struct Enos {
    client: MqttClient,
    key: String,
}

impl Enos {
    fn connect(address: &str, key: &str) -> Self {
        let client = MqttClient::connect(address, &Self::options(key)).unwrap();
        let mut device = Self { client, key: key.to_owned() };
        device.subscribe();
        device
    }

    fn options(key: &str) -> MqttOptions {
        MqttOptions::new(&format!("enos-{key}")).session(3_600)
    }

    /// As after the connection broke.
    fn connect_again(&mut self, address: &str) {
        self.client.connect_again(address, &Self::options(&self.key)).unwrap();
        self.subscribe();
    }

    fn subscribe(&mut self) {
        for name in ["upgrade", "inform_reply", "progress_reply"] {
            self.client.subscribe(&self.topic(name), Qos::AtLeastOnce).unwrap();
        }
    }

    fn topic(&self, name: &str) -> String {
        format!("/sys/{PRODUCT}/{}/ota/device/{name}", self.key)
    }

    fn say(&mut self, name: &str, params: Value) {
        let message = json!({ "id": "7", "version": "1.0", "method": format!("ota.device.{name}"), "params": params });
        self.client.publish(&self.topic(name), message.to_string(), Qos::AtLeastOnce);
    }

    /// The next message, which has to come on this topic.
    #[track_caller]
    fn hear(&mut self, name: &str) -> Value {
        let publication = self.client.receive();
        assert_eq!(publication.topic, self.topic(name), "{:?}", publication.payload);
        serde_json::from_slice(&publication.payload).unwrap()
    }

    #[track_caller]
    fn answered(&mut self, name: &str) {
        let reply = self.hear(&format!("{name}_reply"));
        assert_eq!((&reply["id"], &reply["code"]), (&json!("7"), &json!(200)), "{reply}");
    }
}

#[test]
fn a_message_that_is_too_large_to_be_read_keeps_nobody_from_being_served() {
    for version in [3, 5] {
        let station = Station::on_with(Way::Broker, &format!("[mqtt]\nversion = {version}"));
        let mut gateway = station.gateway("g");
        gateway.client.publish("thing/product/g/events", vec![b'x'; 600_000], Qos::AtLeastOnce);
        let task = station.task(json!({}));
        gateway.osd();
        gateway.upgrade();
        station.row_in(&task, "g", "succeeded");
        assert_eq!(station.server.log().matches("no connection to the broker").count(), 0, "{}", station.server.log());
    }
}
