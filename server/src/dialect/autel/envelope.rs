//! The frame around every message.
//!
//! `tid` names the exchange: a reply has that of its request. `bid` names the business: meant to be the same through one upgrade, but
//! there are gateways that make up a new one for each message, so nothing here relies on it.

use super::reading::{Malformed, boolean_if_any, from_json, integer_if_any, text_if_any};
use crate::dialect::common::lenient;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluicegate::model::Timestamp;

/// A message as it came. What isn't there is empty: messages on `osd` and `state` have no method.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Envelope {
    pub(crate) tid: String,
    pub(crate) bid: String,
    /// By the sender's clock, which may be off by years: to be shown, not to order or time anything by.
    pub(crate) timestamp_ms: Option<u64>,
    pub(crate) method: String,
    /// The gateway's serial number, where it says it; the topic's is the one that counts.
    pub(crate) gateway: Option<String>,
    /// The sender waits for [`reply`](Envelope::reply) to this event.
    pub(crate) need_reply: bool,
    /// `null` where there is none.
    pub(crate) data: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EnvelopeRead {
    #[serde(deserialize_with = "lenient::optional_text")]
    tid: Option<String>,
    #[serde(deserialize_with = "lenient::optional_text")]
    bid: Option<String>,
    #[serde(deserialize_with = "integer_if_any")]
    timestamp: Option<u64>,
    #[serde(deserialize_with = "lenient::optional_text")]
    method: Option<String>,
    #[serde(deserialize_with = "text_if_any")]
    gateway: Option<String>,
    #[serde(deserialize_with = "boolean_if_any")]
    need_reply: Option<bool>,
    data: Value,
}

/// In the order of the platform's examples.
#[derive(Serialize)]
struct EnvelopeWritten<'a, T> {
    bid: &'a str,
    data: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<&'a str>,
    tid: &'a str,
    timestamp: u64,
    method: &'a str,
}

/// What is in a reply that says no more than how it went.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ResultOnly {
    result: i32,
}

impl ResultOnly {
    pub(crate) const OK: Self = Self { result: 0 };
    /// The only code there is for what is wrong without having a code of its own.
    pub(crate) const UNKNOWN: Self = Self { result: -1 };
}

impl Envelope {
    pub(crate) fn read(payload: &[u8]) -> Result<Self, Malformed> {
        let read: EnvelopeRead = from_json(payload)?;
        Ok(Self {
            tid: read.tid.unwrap_or_default(),
            bid: read.bid.unwrap_or_default(),
            timestamp_ms: read.timestamp,
            method: read.method.unwrap_or_default(),
            gateway: read.gateway,
            need_reply: read.need_reply.unwrap_or_default(),
            data: read.data,
        })
    }

    /// The answer to this message, for the topic of the same name with `_reply` behind it.
    pub(crate) fn reply(&self, data: &impl Serialize, now: Timestamp) -> Vec<u8> {
        message(&self.tid, &self.bid, &self.method, self.gateway.as_deref(), data, now)
    }
}

/// A message to a gateway. `data`: a struct of texts and numbers, of which nothing can fail to be written.
pub(crate) fn message(tid: &str, bid: &str, method: &str, gateway: Option<&str>, data: &impl Serialize, now: Timestamp) -> Vec<u8> {
    let envelope = EnvelopeWritten { bid, data, gateway, tid, timestamp: now.as_millis(), method };
    serde_json::to_vec(&envelope).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Result<Envelope, String> {
        Envelope::read(value.to_string().as_bytes()).map_err(|malformed| malformed.to_string())
    }

    #[test]
    fn every_field_is_read_in_each_form_it_is_seen_in() {
        let expected = Envelope {
            tid: "1".into(),
            bid: "149878685687484417".into(),
            timestamp_ms: Some(1_707_048_089_244),
            method: "ota_progress".into(),
            gateway: Some("NM1923221021".into()),
            need_reply: true,
            data: json!({ "result": 0 }),
        };
        for (tid, bid, timestamp, need_reply) in [
            (json!("1"), json!("149878685687484417"), json!(1_707_048_089_244_u64), json!(1)),
            (json!(1), json!(149_878_685_687_484_417_u64), json!("1707048089244"), json!("true")),
            (json!("1"), json!("149878685687484417"), json!(1_707_048_089_244.0), json!(true)),
        ] {
            let message = json!({
                "tid": tid, "bid": bid, "timestamp": timestamp, "need_reply": need_reply,
                "method": "ota_progress", "gateway": "NM1923221021", "data": { "result": 0 }, "version": [],
            });
            assert_eq!(read(&message), Ok(expected.clone()), "{message}");
        }
    }

    #[test]
    fn what_is_null_or_absent_is_empty() {
        let empty = Envelope {
            tid: String::new(),
            bid: String::new(),
            timestamp_ms: None,
            method: String::new(),
            gateway: None,
            need_reply: false,
            data: Value::Null,
        };
        for message in [
            json!({}),
            json!({ "tid": null, "bid": null, "timestamp": null, "method": null, "gateway": null, "need_reply": null, "data": null }),
            json!({ "timestamp": "yesterday", "gateway": [], "need_reply": "perhaps" }),
            json!({ "timestamp": -1, "need_reply": 0, "gateway": " " }),
        ] {
            assert_eq!(read(&message), Ok(empty.clone()), "{message}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused_with_what_was_expected() {
        for (payload, expected) in [
            ("", "the body is not JSON"),
            ("\u{0}", "the body is not JSON"),
            ("{\"tid\":\"1\"", "the body is not JSON"),
            ("[]", "expected an object, got an array"),
            ("null", "expected"),
            ("7", "expected"),
            (r#"{"tid":{}}"#, "field tid: expected a text, got map"),
            (r#"{"bid":[]}"#, "field bid: expected a text, got sequence"),
            (r#"{"method":true}"#, "field method: expected a text, got true"),
        ] {
            let message = Envelope::read(payload.as_bytes()).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{payload}: {message}");
        }
        assert!(Envelope::read(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn a_reply_has_tid_bid_and_method_of_what_it_answers() {
        let asked = read(&json!({ "tid": "t", "bid": "b", "method": "ota_progress", "timestamp": 1, "need_reply": 1 })).unwrap();
        let reply = asked.reply(&ResultOnly::OK, Timestamp(1_654_070_968_655));
        assert_eq!(
            String::from_utf8(reply).unwrap(),
            r#"{"bid":"b","data":{"result":0},"tid":"t","timestamp":1654070968655,"method":"ota_progress"}"#
        );
    }

    #[test]
    fn a_message_names_the_gateway_where_it_is_told_to() {
        let message = message("t", "b", "ota_create", Some("sn"), &json!({}), Timestamp(1_654_070_968_655));
        assert_eq!(
            String::from_utf8(message).unwrap(),
            r#"{"bid":"b","data":{},"gateway":"sn","tid":"t","timestamp":1654070968655,"method":"ota_create"}"#
        );
    }
}
