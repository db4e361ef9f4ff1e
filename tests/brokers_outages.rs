//! Upgrades through a broker while something is away: the broker, the server, a gateway. What must hold each time: nothing stuck, nothing
//! twice, and nothing lost that was acknowledged.

use crate::common::mqtt::MqttClient;
use crate::common::{Mosquitto, wait_until};
use crate::gateway_support::{Gateway, Station, Way};
use serde_json::{Value, json};
use sluicegate_server::mqtt::wire::Qos;

fn address(station: &Station) -> String {
    station.broker.as_ref().unwrap().address()
}

/// How often the server has told that it can't reach the broker.
fn failures(station: &Station) -> usize {
    station.server.log().matches("no connection to the broker").count()
}

/// Until the server has tried in vain so many times more.
#[track_caller]
fn wait_for_failures(station: &Station, more: usize) {
    let before = failures(station);
    wait_until("the server has tried again", || (failures(station) >= before + more).then_some(()));
}

#[track_caller]
fn succeeded_at_once(station: &Station, task: &str, sn: &str) {
    let row = station.row_in(task, sn, "succeeded");
    assert_eq!(row["attempts"], 1, "{row}");
}

fn sent() -> Value {
    json!({ "result": 0, "output": { "status": "sent" } })
}

fn downloading() -> Value {
    json!({ "progress": { "percent": 40, "step_key": "download_firmware" } })
}

#[test]
fn ready_waits_for_no_broker_and_devices_are_served_once_there_is_one() {
    let mut broker = Mosquitto::start();
    broker.kill();
    let url = broker.url();
    // It says `ready` here, else this doesn't return.
    let mut station = Station::through_at(broker, &url, "");
    station.register("g", json!({}));
    let task = station.task(json!({}));
    wait_for_failures(&station, 2);
    assert_eq!(station.row(&task, "g")["state"], "waiting");
    station.broker().start_again();
    station.wait_for_broker();
    let mut gateway = station.connect("g");
    gateway.come_online(&[]);
    gateway.upgrade();
    succeeded_at_once(&station, &task, "g");
}

#[test]
fn a_rollout_goes_on_after_the_broker_was_killed_with_nothing_stuck_and_nothing_twice() {
    let mut station = Station::on_with(Way::Broker, "[mqtt]\nreply_wait_s = 1");
    let names = ["running", "answered", "ordered", "next", "last"];
    let mut gateways: Vec<Gateway> = names.iter().map(|sn| station.gateway(sn)).collect();
    let task = station.task(json!({ "maximum_concurrency": 3 }));
    let [running, answered, ordered, next, last] = &mut gateways[..] else { panic!("five") };
    let orders = [running.order(), answered.order(), ordered.order()];
    running.answer(&orders[0], sent());
    running.progress(&orders[0]["bid"], "in_progress", downloading());
    station.row_in(&task, "running", "downloading");
    answered.answer(&orders[1], sent());
    answered.settle();

    station.broker().kill();
    station.wait_for_no_broker();
    // Longer than all the patience with a gateway that doesn't answer.
    wait_for_failures(&station, 3);
    for sn in names {
        assert_eq!(station.row(&task, sn)["attempts"], u8::from(!["next", "last"].contains(&sn)), "{sn}");
    }
    station.broker().start_again();
    station.wait_for_broker();
    let address = address(&station);
    for gateway in [&mut *running, answered, ordered, next, last] {
        gateway.connect_again(&address);
        gateway.osd();
    }
    // What runs, and what was answered, isn't ordered again.
    for (gateway, order) in [(running, &orders[0]), (answered, &orders[1])] {
        gateway.settle();
        gateway.hears_nothing();
        gateway.progress(&order["bid"], "ok", json!({}));
        succeeded_at_once(&station, &task, &gateway.sn);
    }
    // Whether this one's order was heard nobody knows. The same comes again.
    let again = ordered.upgrade();
    assert_eq!(again["bid"], orders[2]["bid"]);
    for gateway in [next, last] {
        gateway.upgrade();
    }
    for sn in names {
        succeeded_at_once(&station, &task, sn);
    }
    assert_eq!(station.counts(&task)["succeeded"], 5);
}

#[test]
fn what_falls_due_while_there_is_no_broker_is_ordered_once_it_is_back() {
    let mut station = Station::on_with(Way::Broker, "[mqtt]\nreply_wait_s = 1");
    let mut gateways = [station.gateway("one"), station.gateway("two")];
    station.broker().kill();
    station.wait_for_no_broker();
    let task = station.task(json!({}));
    wait_for_failures(&station, 3);
    station.broker().start_again();
    station.wait_for_broker();
    for gateway in &mut gateways {
        gateway.connect_again(&address(&station));
        gateway.osd();
        let order = gateway.order();
        // One order, however long it waited; and it can still be answered.
        gateway.answer(&order, sent());
        gateway.settle();
        gateway.hears_nothing();
        gateway.progress(&order["bid"], "ok", json!({}));
        succeeded_at_once(&station, &task, &gateway.sn);
    }
}

#[test]
fn a_restart_of_the_server_goes_unnoticed_by_gateways_that_only_tell_how_they_are() {
    let mut station = Station::on(Way::Broker);
    let mut running = station.gateway("running");
    let mut answered = station.gateway("answered");
    let mut waiting = station.gateway("waiting");
    let task = station.task(json!({ "maximum_concurrency": 2 }));
    let order = running.order();
    running.progress(&order["bid"], "in_progress", downloading());
    station.row_in(&task, "running", "downloading");
    let first = answered.order();
    answered.answer(&first, sent());
    answered.settle();
    station.kill_and_start_again();
    station.wait_for_broker();

    for gateway in [&mut running, &mut answered, &mut waiting] {
        gateway.osd();
    }
    running.settle();
    running.hears_nothing();
    running.progress(&json!("another"), "in_progress", json!({ "progress": { "percent": 80, "step_key": "upgrade_firmware" } }));
    running.progress(&order["bid"], "ok", json!({}));
    succeeded_at_once(&station, &task, "running");
    waiting.upgrade();
    succeeded_at_once(&station, &task, "waiting");
    // It hasn't begun, so perhaps it never heard. The same comes again.
    let again = answered.order();
    assert_eq!(again["bid"], first["bid"]);
    answered.progress(&again["bid"], "ok", json!({}));
    succeeded_at_once(&station, &task, "answered");
}

#[test]
fn what_was_told_while_the_server_was_away_counts_on_its_return_and_nothing_is_ordered_twice() {
    let mut station = Station::on(Way::Broker);
    let mut gateways: Vec<Gateway> = (0..4).map(|number| station.gateway(&format!("g{number}"))).collect();
    let task = station.task(json!({}));
    let orders: Vec<Value> = gateways.iter_mut().map(Gateway::order).collect();
    // Of the first two it is known that they have begun; of the others nothing.
    for (gateway, order) in gateways.iter_mut().zip(&orders).take(2) {
        gateway.progress(&order["bid"], "in_progress", downloading());
        station.row_in(&task, &gateway.sn, "downloading");
    }
    station.server.kill();
    for (number, (gateway, order)) in gateways.iter_mut().zip(&orders).enumerate() {
        // Under the order's id, and under ids of their own.
        let bid = if number % 2 == 0 { order["bid"].clone() } else { json!("of-its-own") };
        gateway.answer(order, sent());
        gateway.progress(&bid, "in_progress", downloading());
        gateway.progress(&bid, "ok", json!({}));
    }
    station.start_again();
    for gateway in &mut gateways {
        succeeded_at_once(&station, &task, &gateway.sn);
        gateway.settle();
        gateway.hears_nothing();
    }
}

#[test]
fn an_end_that_was_told_while_the_server_was_away_counts_without_anything_before_it() {
    let mut station = Station::on(Way::Broker);
    let mut ok = station.gateway("ok");
    let mut failed = station.gateway("failed");
    let task = station.task(json!({}));
    let order = ok.order();
    failed.order();
    station.server.kill();
    ok.progress(&order["bid"], "ok", json!({}));
    failed.progress(&json!("of-its-own"), "failed", json!({ "sub_status": "VERIFY_FAILED" }));
    station.start_again();
    succeeded_at_once(&station, &task, "ok");
    assert_eq!(station.row_in(&task, "failed", "failed")["attempts"], 1);
    for gateway in [&mut ok, &mut failed] {
        gateway.settle();
        gateway.hears_nothing();
    }
}

#[test]
fn measurements_that_pile_up_while_the_server_is_away_displace_nothing_that_counts() {
    let broker = Mosquitto::setup().more("max_queued_messages 100").start();
    let mut station = Station::through(broker, "");
    let mut gateway = station.gateway("g");
    let task = station.task(json!({}));
    let order = gateway.order();
    gateway.progress(&order["bid"], "in_progress", downloading());
    station.row_in(&task, "g", "downloading");
    station.server.kill();
    let osd = json!({ "tid": "t", "bid": "b", "timestamp": 1, "gateway": "g", "data": { "mode_code": 0 } });
    for _ in 0..300 {
        gateway.publish("thing/product/g/osd", &osd);
    }
    gateway.progress(&order["bid"], "ok", json!({}));
    station.start_again();
    succeeded_at_once(&station, &task, "g");
}

#[test]
fn both_may_be_killed_and_the_rollout_goes_on() {
    let mut station = Station::on(Way::Broker);
    let mut gateways: Vec<Gateway> = (0..3).map(|number| station.gateway(&format!("g{number}"))).collect();
    let task = station.task(json!({ "maximum_concurrency": 1 }));
    for turn in 0..3 {
        let order = gateways[turn].order();
        gateways[turn].progress(&order["bid"], "in_progress", downloading());
        station.row_in(&task, &gateways[turn].sn, "downloading");
        station.server.kill();
        station.broker().kill();
        station.start_again();
        station.broker().start_again();
        station.wait_for_broker();
        for gateway in &mut gateways {
            gateway.connect_again(&address(&station));
            gateway.osd();
        }
        gateways[turn].settle();
        gateways[turn].progress(&order["bid"], "ok", json!({}));
        succeeded_at_once(&station, &task, &gateways[turn].sn);
        gateways[turn].hears_nothing();
    }
}

#[test]
fn a_gateway_that_is_silent_is_passed_over_until_it_speaks_again() {
    let station = Station::on_with(Way::Broker, "[mqtt]\nsilence_s = 5");
    let mut first = station.gateway("a-first");
    let mut silent = station.gateway("b-silent");
    let mut patient = station.gateway("c-patient");
    let task = station.task(json!({ "maximum_concurrency": 1 }));
    let order = first.order();
    first.progress(&order["bid"], "in_progress", downloading());
    wait_until("the silent one is taken for gone", || {
        first.osd();
        patient.osd();
        (station.metric("sluicegate_mqtt_devices") == 2).then_some(())
    });
    first.progress(&order["bid"], "ok", json!({}));
    // It was its turn; but who isn't there holds nobody up.
    patient.upgrade();
    succeeded_at_once(&station, &task, "c-patient");
    silent.hears_nothing();
    silent.osd();
    silent.upgrade();
    succeeded_at_once(&station, &task, "b-silent");
    assert_eq!(station.counts(&task)["succeeded"], 3);
}

#[test]
fn a_gateway_that_was_away_when_it_was_ordered_hears_it_from_the_broker_when_it_is_back() {
    let station = Station::on(Way::Broker);
    let mut gateway = station.gateway("g");
    let address = address(&station);
    // Its network is gone, which the server can't see.
    let client =
        std::mem::replace(&mut gateway.client, MqttClient::connect(&address, &crate::common::mqtt::MqttOptions::new("x")).unwrap());
    client.disconnect();
    let task = station.task(json!({}));
    wait_until("the order was sent", || (station.messages("told") > 1).then_some(()));
    gateway.connect_again(&address);
    gateway.upgrade();
    succeeded_at_once(&station, &task, "g");
}

#[test]
fn a_server_without_its_broker_is_idle_and_says_so_seldom() {
    let mut station = Station::on(Way::Broker);
    station.broker().kill();
    station.wait_for_no_broker();
    wait_for_failures(&station, 2);
    let (lines, spent) = (station.server.log().lines().count(), processor_ticks(&station));
    wait_for_failures(&station, 2);
    let (lines, spent) = (station.server.log().lines().count() - lines, processor_ticks(&station) - spent);
    // A hundred ticks are a second; a loop without a pause would take all of several.
    assert!(lines <= 4 && spent < 100, "{lines} lines, {spent} ticks");
}

/// What the server has computed so far.
fn processor_ticks(station: &Station) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", station.server.pid().as_raw_nonzero())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_gateways_last_words_of_long_ago_that_a_broker_keeps_end_nothing() {
    let mut station = Station::on(Way::Broker);
    let mut gateway = station.gateway("g");
    let ok = json!({ "tid": "t", "bid": "old", "timestamp": 1, "method": "ota_progress", "data": { "output": { "status": "ok" }, "result": 0 } });
    station.broker().publish_retained("thing/product/g/events", &ok.to_string());
    gateway.settle();
    let task = station.task(json!({}));
    let order = gateway.order();
    gateway.answer(&order, sent());
    gateway.settle();
    // With each connection the broker tells it anew.
    station.broker().kill();
    station.wait_for_no_broker();
    station.broker().start_again();
    station.wait_for_broker();
    let address = address(&station);
    gateway.connect_again(&address);
    gateway.settle();
    assert_eq!(station.row(&task, "g")["state"], "offered");
    gateway.client.publish("thing/product/g/osd", "{}", Qos::AtLeastOnce);
    gateway.progress(&order["bid"], "ok", json!({}));
    succeeded_at_once(&station, &task, "g");
}
