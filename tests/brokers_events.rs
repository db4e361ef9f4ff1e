//! Events on a broker, as a consumer there hears them: all of them, in order, whatever was killed on the way.

use crate::common::server::lines_of;
use crate::common::{Mosquitto, PATIENCE, wait_until};
use crate::events::Events;
use crate::gateway_support::{Gateway, Station};
use serde_json::{Value, json};
use std::process::Child;
use std::sync::mpsc::Receiver;

/// `mosquitto_sub` with a session that lasts. Ends with the value.
struct Consumer {
    child: Child,
    lines: Receiver<String>,
    /// The numbers of what it has heard.
    heard: Vec<u64>,
}

impl Consumer {
    fn start(broker: &Mosquitto) -> Self {
        let mut child = broker.subscriber("audit", "sluicegate/events/#").spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        // There is no session before the broker has granted it.
        wait_until("the consumer has subscribed", || broker.log().contains("Sending SUBACK to audit").then_some(()));
        Self { child, lines, heard: Vec::new() }
    }

    /// Until it has heard this event.
    #[track_caller]
    fn wait_for(&mut self, sequence: u64) {
        while !self.heard.contains(&sequence) {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| {
                panic!("event {sequence} didn't come ({error}); the last was {:?} of {}", self.heard.last(), self.heard.len())
            });
            let event: Value = serde_json::from_str(&line).unwrap();
            self.heard.push(event["seq"].as_u64().unwrap());
        }
    }

    /// Each of these at least once, and each for the first time after those before it. Says how many came more than once.
    #[track_caller]
    fn has_heard_in_order(&self, sequences: &[u64]) -> usize {
        let mut newest = 0;
        let mut firsts = Vec::new();
        for sequence in &self.heard {
            if !firsts.contains(sequence) {
                assert!(*sequence > newest, "{sequence} came after {newest}");
                (newest, _) = (*sequence, firsts.push(*sequence));
            }
        }
        for sequence in sequences {
            assert!(firsts.contains(sequence), "{sequence} is missing");
        }
        self.heard.len() - firsts.len()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The numbers of all events up to the first that `is_last`.
#[track_caller]
fn sequences(station: &Station, mut is_last: impl FnMut(&Value) -> bool) -> Vec<u64> {
    let mut events = Events::open(&station.operator, "/api/v1/events", None);
    let mut sequences = Vec::new();
    loop {
        let (sequence, event) = events.next();
        sequences.push(sequence);
        if is_last(&event) {
            return sequences;
        }
    }
}

fn is_result_of<'a>(sn: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |event| event["kind"] == "result" && event["device_id"] == sn
}

#[test]
fn every_event_reaches_a_consumer_in_order_though_server_and_broker_are_killed() {
    let broker = Mosquitto::start();
    let mut consumer = Consumer::start(&broker);
    let mut station = Station::through(broker, "");
    let mut gateways: Vec<Gateway> = (0..3).map(|number| station.gateway(&format!("g{number}"))).collect();
    station.task(json!({ "maximum_concurrency": 1 }));
    gateways[0].upgrade();
    let order = gateways[1].order();
    gateways[1].progress(&order["bid"], "in_progress", json!({ "progress": { "percent": 1 } }));
    gateways[1].settle();
    station.kill_and_start_again();
    gateways[1].progress(&order["bid"], "ok", json!({}));
    let told = sequences(&station, is_result_of("g1"));
    consumer.wait_for(*told.last().unwrap());

    station.broker().kill();
    station.wait_for_no_broker();
    // Of this only the log knows for now.
    for _ in 0..5 {
        station.task(json!({ "from_versions": ["0.1"], "maximum_concurrency": 1 }));
    }
    station.kill_and_start_again();
    station.broker().start_again();
    station.wait_for_broker();
    let address = station.broker().address();
    gateways[2].connect_again(&address);
    gateways[2].osd();
    gateways[2].upgrade();
    let told = sequences(&station, is_result_of("g2"));
    consumer.wait_for(*told.last().unwrap());
    let twice = consumer.has_heard_in_order(&told);
    assert!(twice < told.len(), "{twice} of {} came more than once", told.len());
}

#[test]
fn a_server_that_was_stopped_goes_on_with_the_events_where_it_was() {
    let broker = Mosquitto::start();
    let mut consumer = Consumer::start(&broker);
    let mut station = Station::through(broker, "");
    for _ in 0..40 {
        station.fleet.start_task(&station.operator, json!({ "from_versions": ["0.1"], "maximum_concurrency": 1 }));
    }
    let mut started = 0;
    let told = sequences(&station, |event| {
        started += usize::from(event["kind"] == "task_started");
        started == 40
    });
    consumer.wait_for(*told.last().unwrap());
    assert!(station.server.stop().success());
    station.start_again();
    station.task(json!({ "from_versions": ["0.2"] }));
    let mut started = 0;
    let told = sequences(&station, |event| {
        started += usize::from(event["kind"] == "task_started");
        started == 41
    });
    consumer.wait_for(*told.last().unwrap());
    // What the broker had but not yet acknowledged comes again: it takes 20 at once.
    let twice = consumer.has_heard_in_order(&told);
    assert!(twice <= 20, "{twice} came more than once: {:?}", consumer.heard);
}

#[test]
fn events_can_be_turned_off() {
    let broker = Mosquitto::start();
    let consumer = Consumer::start(&broker);
    let station = Station::through(broker, "[mqtt]\nevents = false");
    let mut gateway = station.gateway("g");
    let task = station.task(json!({}));
    gateway.upgrade();
    station.row_in(&task, "g", "succeeded");
    assert!(consumer.lines.try_recv().is_err() && consumer.heard.is_empty());
}
