//! The stream of events: numbered, in order, and taken up again where it was left.

use crate::common::fleet::issue_token;
use crate::common::{Client, Fleet, TestServer};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};

/// An open stream of server-sent events.
pub(crate) struct Events {
    lines: std::io::Lines<BufReader<crate::common::http::Body>>,
}

impl Events {
    #[track_caller]
    pub(crate) fn open(client: &Client, path: &str, last_event_id: Option<u64>) -> Self {
        let mut request = client.request("GET", path).header("Accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", &id.to_string());
        }
        let (status, reader) = request.open();
        assert_eq!(status, 200);
        Self { lines: reader.lines() }
    }

    /// The next event's id and data; comments are skipped.
    #[track_caller]
    pub(crate) fn next(&mut self) -> (u64, Value) {
        let (mut id, mut data) = (None, String::new());
        loop {
            let line = self.lines.next().expect("the stream ended").unwrap();
            match line.split_once(':').map(|(field, value)| (field, value.trim_start())) {
                Some(("id", value)) => id = Some(value.parse().unwrap()),
                Some(("data", value)) => data.push_str(value),
                _ if line.is_empty() && !data.is_empty() => {
                    let data: Value = serde_json::from_str(&data).unwrap();
                    let id = id.unwrap_or_else(|| panic!("an event without an id: {data}"));
                    assert_eq!(data["seq"], id);
                    return (id, data);
                }
                _ => {}
            }
        }
    }

    /// Events up to the first of this kind.
    #[track_caller]
    fn until(&mut self, kind: &str) -> Vec<(u64, Value)> {
        let mut events = Vec::new();
        loop {
            events.push(self.next());
            if events.last().unwrap().1["kind"] == kind {
                return events;
            }
        }
    }
}

#[test]
fn a_rollout_is_told_step_by_step() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    let task_id = admin.get(&path).expect(200).json()["id"].clone();
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    device.report(&server, &offer["id"], "downloading").expect(200);
    device.report(&server, &offer["id"], "succeeded").expect(200);
    let events = Events::open(&admin, "/api/v1/events", None).until("result");
    let kinds: Vec<&str> = events.iter().map(|(_, event)| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["task_created", "task_started", "offered", "progress", "result"]);
    for (_, event) in &events {
        assert_eq!(
            (&event["organization"], &event["product_id"], &event["task_id"]),
            (&json!("default"), &json!("pump"), &task_id)
        );
        assert!(!event["at"].is_null(), "{event}");
    }
    let result = &events[4].1;
    assert_eq!((&result["device_id"], &result["upgrade_id"], &result["state"]), (&json!("p-1"), &offer["id"], &json!("succeeded")));
}

#[test]
fn a_repeated_report_is_told_once() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    for _ in 0..3 {
        device.report(&server, &offer["id"], "succeeded").expect(200);
    }
    admin.post(&format!("{path}/stop"), &json!({})).expect(200);
    let events = Events::open(&admin, "/api/v1/events", None).until("task_stopped");
    assert_eq!(events.iter().filter(|(_, event)| event["kind"] == "result").count(), 1, "{events:?}");
}

#[test]
fn an_open_stream_tells_what_happens_from_then_on() {
    let server = TestServer::start();
    let admin = server.admin();
    let mut events = Events::open(&admin, "/api/v1/events", None);
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    events.until("task_started");
    let _offer = fleet.device(&admin, "p-1").offered(&server);
    assert_eq!(events.next().1["kind"], "offered");
}

#[test]
fn a_stream_is_taken_up_where_it_was_left_even_after_a_kill() {
    let mut server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    let device = fleet.device(&admin, "p-1");
    let offer = device.offered(&server);
    device.report(&server, &offer["id"], "downloading").expect(200);
    device.report(&server, &offer["id"], "succeeded").expect(200);
    let all = Events::open(&admin, "/api/v1/events", None).until("result");
    let sequence: Vec<u64> = all.iter().map(|(id, _)| *id).collect();
    assert!(sequence.windows(2).all(|pair| pair[0] < pair[1]), "{sequence:?}");
    server.kill_and_start_again();
    let admin = server.admin();
    let middle = sequence[2];
    // `from` includes the event that it names, `Last-Event-ID` excludes it, and wins.
    assert_eq!(Events::open(&admin, &format!("/api/v1/events?from={middle}"), None).until("result"), all[2..]);
    assert_eq!(Events::open(&admin, "/api/v1/events", Some(middle)).until("result"), all[3..]);
    assert_eq!(Events::open(&admin, "/api/v1/events?from=1", Some(middle)).until("result"), all[3..]);
    assert_eq!(Events::open(&admin, "/api/v1/events", None).until("result"), all);
    admin.get("/api/v1/events?from=soon").refused(400);
}

#[test]
fn events_are_those_of_the_own_organization() {
    let server = TestServer::start();
    let admin = server.admin();
    let operator =
        |organization: &str| admin.with_token(&issue_token(&admin, json!({ "role": "operator", "organization": organization })));
    let (north, south) = (operator("north"), operator("south"));
    let northern = Fleet::new(&north, "pump");
    northern.start_task(&north, json!({}));
    Fleet::new(&south, "fan").start_task(&south, json!({}));
    for (client, organization, product) in [(&north, "north", "pump"), (&south, "south", "fan")] {
        for (_, event) in Events::open(client, "/api/v1/events", None).until("task_started") {
            assert_eq!((&event["organization"], &event["product_id"]), (&json!(organization), &json!(product)));
        }
    }
    let device = northern.device(&north, "p-1").client(&server);
    device.get("/api/v1/events").refused(403);
}

#[test]
fn a_stream_ends_with_its_token() {
    let server = TestServer::start();
    let admin = server.admin();
    let token = issue_token(&admin, json!({ "role": "operator" }));
    let mut events = Events::open(&admin.with_token(&token), "/api/v1/events", None);
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    events.until("task_started");
    admin.delete(&format!("/api/v1/tokens/{}", token.split_once('.').unwrap().0)).expect(204);
    // What happens now wakes the stream, and is not for it any more.
    admin.post(&format!("{path}/stop"), &json!({})).expect(200);
    for line in events.lines {
        let line = line.unwrap();
        assert!(line.is_empty() || line.starts_with(':'), "told after the token was gone: {line}");
    }
}
