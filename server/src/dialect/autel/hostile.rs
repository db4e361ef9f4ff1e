//! Whatever JSON comes, reading it ends in a value or a refusal, and both stay small.

use super::envelope::Envelope;
use super::progress::{Meaning, Progress};
use super::properties::firmware_version;
use super::requests::answer;
use super::rest::read_orders;
use super::topic::UpTopic;
use super::topology::Topology;
use proptest::prelude::*;
use serde_json::{Map, Number, Value, json};
use sluicegate::model::Timestamp;

const KEYS: [&str; 28] = [
    "tid",
    "bid",
    "timestamp",
    "method",
    "gateway",
    "need_reply",
    "data",
    "result",
    "output",
    "status",
    "sub_status",
    "progress",
    "percent",
    "step",
    "step_key",
    "current_step",
    "step_result",
    "sub_devices",
    "devices",
    "bind_devices",
    "sn",
    "domain",
    "type",
    "sub_type",
    "index",
    "firmware_version",
    "product_version",
    "firmware_upgrade_type",
];
const WORDS: [&str; 14] = [
    "",
    "0",
    "1",
    "-1",
    "100",
    "99999999999999999999",
    "in_progress",
    "failed",
    "ok",
    "DOWNLOADING",
    "UPGRADE_FAIL",
    "upgrade_firmware",
    "airport_bind_status",
    "airport_organization_bind",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => proptest::sample::select(&WORDS[..]).prop_map(str::to_owned), 1 => ".{0,40}"]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![8 => proptest::sample::select(&KEYS[..]).prop_map(str::to_owned), 1 => ".{0,10}"]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2_i64..120).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| Number::from_f64(number).map_or(Value::Null, Value::Number)),
        text().prop_map(Value::from),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(5, 64, 8, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            3 => prop::collection::vec((key(), inner), 0..8).prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// As [`any_json`], with the object one level down that most readers want.
fn any_progress() -> impl Strategy<Value = Value> {
    let object = || prop::collection::vec((key(), any_json()), 0..8).prop_map(|entries| entries.into_iter().collect::<Map<_, _>>());
    (object(), object(), any::<bool>()).prop_map(|(mut data, output, has_output)| {
        if has_output {
            data.insert("output".into(), Value::Object(output));
        }
        Value::Object(data)
    })
}

fn check_progress(data: &Value) {
    match Progress::read(data) {
        Err(malformed) => assert!(malformed.to_string().chars().count() <= 300),
        Ok(progress) => {
            let meaning = progress.meaning();
            assert!(progress.result == 0 || matches!(meaning, Meaning::Ended(_)), "{progress:?}");
            assert_ne!(progress.reply_meaning(), Meaning::Nothing);
            if let Meaning::Moved(report) | Meaning::Ended(report) = meaning {
                assert!(report.percent.is_none_or(|percent| percent <= 100));
                assert!(report.detail.is_none_or(|detail| (1..=200).contains(&detail.chars().count())));
            }
        }
    }
}

fn check_all(value: &Value) {
    check_progress(value);
    let payload = value.to_string();
    if let Ok(envelope) = Envelope::read(payload.as_bytes()) {
        let answer = answer(&envelope, "acme", Timestamp(0));
        assert_eq!(answer.is_none(), envelope.method.is_empty());
        if let Some(answer) = answer {
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!((&answer["tid"], &answer["bid"]), (&json!(envelope.tid), &json!(envelope.bid)));
        }
    }
    match Topology::read(value) {
        Err(malformed) => assert!(malformed.to_string().chars().count() <= 300),
        Ok(topology) => assert!(topology.children.iter().all(|child| !child.sn.is_empty())),
    }
    let _ = firmware_version(value);
    match read_orders(payload.as_bytes()) {
        Err(refused) => assert!(refused.to_string().chars().count() <= 300),
        Ok(orders) => assert!((1..=2).contains(&orders.len())),
    }
}

proptest! {
    #[test]
    fn any_json_is_read_or_refused(value in any_json()) {
        check_all(&value);
    }

    #[test]
    fn any_progress_has_a_meaning_within_its_bounds(data in any_progress()) {
        check_progress(&data);
    }

    #[test]
    fn any_request_is_answered(method in text(), data in any_json()) {
        check_all(&json!({ "tid": "t", "bid": "b", "method": method, "data": data }));
    }

    #[test]
    fn any_bytes_are_read_or_refused(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Envelope::read(&payload);
        let _ = read_orders(&payload);
    }

    #[test]
    fn any_topic_is_read_or_not(topic in "(thing|sys|.{0,5})/product/.{0,5}(/[a-z_]{0,15}){0,3}") {
        if let Some(up) = UpTopic::read(&topic) {
            prop_assert!(topic.contains(up.sn()));
        }
    }
}

#[test]
fn nesting_beyond_bounds_is_refused_before_it_is_built() {
    for (open, close) in [("[", "]"), ("{\"data\":", "}"), ("{\"output\":[", "]}")] {
        let nested = format!("{{\"tid\":\"t\",\"data\":{}0{}}}", open.repeat(100_000), close.repeat(100_000));
        let message = Envelope::read(nested.as_bytes()).unwrap_err().to_string();
        assert!(message.contains("recursion limit exceeded"), "{message}");
    }
    let deep = (0..100).fold(json!(0), |inner, _| json!({ "output": inner, "progress": [1] }));
    check_all(&deep);
}
