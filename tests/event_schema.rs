//! `docs/event.schema.json` holds: for what the server tells of everything that can happen to a task, and for the schema's own examples.

use crate::common::{Client, Fleet, TestServer};
use crate::events::Events;
use crate::xlink_support::Platform;
use serde_json::{Map, Value, json};
use sluicegate::model::EventKind;
use std::collections::BTreeSet;

#[test]
fn every_event_that_is_told_satisfies_the_schema_field_by_field() {
    let schema = schema();
    let mut told = BTreeSet::new();
    for event in eventful_life() {
        check(&schema, &event);
        let kind = event["kind"].as_str().unwrap().to_owned();
        // The schema lets a later version say more; this version says nothing that isn't described.
        let described = schema["$defs"][&kind]["properties"].as_object().unwrap();
        for field in event.as_object().unwrap().keys() {
            assert!(described.contains_key(field), "{field} is not described: {event}");
            told.insert(format!("{kind}.{field}"));
        }
        told.insert(kind);
    }
    for kind in EventKind::ALL {
        assert!(told.contains(kind.name()), "{} did not happen here", kind.name());
        let described = schema["$defs"][kind.name()]["properties"].as_object().unwrap();
        for field in described.keys() {
            assert!(told.contains(&format!("{}.{field}", kind.name())), "{}.{field} is described and never told", kind.name());
        }
    }
}

#[test]
fn the_schema_has_an_example_of_each_kind_and_each_satisfies_it() {
    let schema = schema();
    for kind in EventKind::ALL {
        let examples = schema["$defs"][kind.name()]["examples"].as_array().unwrap();
        assert!(!examples.is_empty(), "{} has no example", kind.name());
        for example in examples {
            assert_eq!(example["kind"], kind.name());
            check(&schema, example);
        }
    }
    assert_eq!(schema["oneOf"].as_array().unwrap().len(), EventKind::ALL.len());
}

#[test]
fn the_checker_sees_what_is_wrong() {
    let schema = schema();
    let good = schema["$defs"]["result"]["examples"][0].clone();
    assert_eq!(faults(&schema, &schema, &good, "event"), [""; 0]);
    for (field, wrong) in [
        ("kind", json!("other")),
        ("kind", json!("offered")),
        ("seq", json!("7")),
        ("seq", json!(0)),
        ("percent", json!(101)),
        ("state", json!("offered")),
        ("to_version", Value::Null),
        ("something_else", json!(7)),
    ] {
        let mut bad = good.clone();
        match &wrong {
            Value::Null => drop(bad.as_object_mut().unwrap().remove(field)),
            wrong => bad[field] = wrong.clone(),
        }
        assert_ne!(faults(&schema, &schema, &bad, "event"), [""; 0], "{field}: {wrong}");
    }
}

fn schema() -> Value {
    serde_json::from_str(include_str!("../docs/event.schema.json")).unwrap()
}

/// The events of a server on which everything happens that is an event.
fn eventful_life() -> Vec<Value> {
    let platform = Platform::start();
    let (server, admin) = (&platform.server, &platform.server.admin());
    a_success_in_waves(server, admin);
    a_failure_that_pauses_the_task(server, admin);
    no_by_a_person(server, admin);
    reports_by_version(&platform);
    // The last one: whoever sees it has seen all.
    let last = Fleet::new(admin, "last");
    admin.post("/api/v1/tasks", &last.task_body(json!({}))).expect(201);
    let mut events = Events::open(admin, "/api/v1/events?from=1", None);
    let mut told = Vec::new();
    while told.last().is_none_or(|event: &Value| event["product_id"] != "last") {
        told.push(events.next().1);
    }
    told
}

fn a_success_in_waves(server: &TestServer, admin: &Client) {
    let fleet = Fleet::new(admin, "pump");
    for device_id in ["p-1", "p-2"] {
        let version = json!({ "components": [{ "type": 1, "identify": 0, "version": "1.0" }] });
        admin.put(&format!("/api/v1/products/pump/devices/{device_id}"), &version).expect(201);
    }
    let path = fleet.start_task(admin, json!({ "policy": "snapshot", "waves": [{ "count": 1 }, { "count": 1 }] }));
    admin.post(&format!("{path}/open-wave"), &json!({})).expect(200);
    fleet.device(admin, "p-2").upgrade(server);
    let device = fleet.device(admin, "p-1");
    let offer = device.offered(server);
    let mut report = device.report_body(&offer["id"], "downloading");
    report["percent"] = json!(40);
    device.client(server).post("/api/v1/report", &report).expect(200);
    device.report(server, &offer["id"], "succeeded").expect(200);
}

fn a_failure_that_pauses_the_task(server: &TestServer, admin: &Client) {
    let fleet = Fleet::new(admin, "valve");
    let retry = json!({ "count": 1, "interval_s": 600 });
    let threshold = json!([{ "kind": "failed", "percent": 50, "minimum": 1, "action": "pause" }]);
    let path = fleet.start_task(admin, json!({ "retry": retry, "thresholds": threshold }));
    let device = fleet.device(admin, "v-1");
    let offer = device.offered(server);
    let mut report = device.report_body(&offer["id"], "failed");
    (report["detail"], report["code"]) = (json!("no space left"), json!(17));
    device.client(server).post("/api/v1/report", &report).expect(200);
    admin.post(&format!("{path}/cancel"), &json!({})).expect(200);
}

fn no_by_a_person(server: &TestServer, admin: &Client) {
    let fleet = Fleet::new(admin, "gate");
    let path = fleet.start_task(admin, json!({ "confirmation": true }));
    assert_eq!(fleet.device(admin, "g-1").refused(server), "confirmation");
    admin.post(&format!("{path}/upgrades/g-1/decline"), &json!({})).expect(200);
}

fn reports_by_version(platform: &Platform) {
    let task = platform.start_task(json!({}));
    let device = platform.device_token(7);
    let _ = platform.check(7, &device, 1).expect(200);
    for last in [1, 5] {
        let body = json!({
            "type": 1, "mod": "M1", "identify": 0, "last_version": last, "current_version": 2, "result": 0, "desc": "done",
            "start_date": "2015-10-09T08:15:40.843Z", "end_date": "2015-10-09T08:16:40.843Z",
        });
        platform.post(&device, "/v2/upgrade/firmware/report/7", &body).expect(200);
    }
    platform.set_status(&task, 0).expect(200);
}

#[track_caller]
fn check(schema: &Value, event: &Value) {
    assert_eq!(faults(schema, schema, event, "event"), [""; 0], "{event}");
}

/// What a value has against a schema, in as much of JSON Schema as ours uses. A keyword that is neither checked nor known to say
/// nothing of validity is refused, so that none is passed over.
fn faults(root: &Value, schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (keyword, wanted) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$ref" => {
                let pointer = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                found.extend(faults(root, root.pointer(pointer).unwrap(), value, path));
            }
            "type" => {
                if wanted.as_str().unwrap() != type_of(value) {
                    found.push(format!("{path} is {value}, not of type {wanted}"));
                }
            }
            "enum" => {
                if !wanted.as_array().unwrap().contains(value) {
                    found.push(format!("{path} is {value}, none of {wanted}"));
                }
            }
            "minimum" | "maximum" => {
                let (bound, is_least) = (wanted.as_u64().unwrap(), keyword == "minimum");
                if value.as_u64().is_some_and(|number| if is_least { number < bound } else { number > bound }) {
                    found.push(format!("{path} is {value}, the {keyword} {bound}"));
                }
            }
            "required" => {
                let missing = |field: &&Value| value.get(field.as_str().unwrap()).is_none();
                found.extend(wanted.as_array().unwrap().iter().filter(missing).map(|field| format!("{path} lacks {field}")));
            }
            "properties" => {
                let there = |(field, wanted): (&String, _)| Some((format!("{path}.{field}"), wanted, value.get(field)?));
                let there = wanted.as_object().unwrap().iter().filter_map(there);
                found.extend(there.flat_map(|(path, wanted, value)| faults(root, wanted, value, &path)));
            }
            "additionalProperties" => {
                let described = |field: &String| schema["properties"].get(field).is_some();
                let none = Map::new();
                let others = value.as_object().unwrap_or(&none).iter().filter(|(field, _)| !described(field));
                found.extend(others.flat_map(|(field, value)| faults(root, wanted, value, &format!("{path}.{field}"))));
            }
            "oneOf" => {
                let tried = wanted.as_array().unwrap().iter().map(|schema| faults(root, schema, value, path));
                let (fit, unfit): (Vec<_>, Vec<_>) = tried.partition(Vec::is_empty);
                if fit.len() != 1 {
                    found.push(format!("{path} fits {} of the alternatives; {unfit:?}", fit.len()));
                }
            }
            // Notes for people; `format` and `pattern` too, as far as this test goes.
            "$schema" | "$defs" | "title" | "description" | "examples" | "format" | "pattern" => {}
            other => panic!("the checker knows nothing of {other}"),
        }
    }
    found
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
