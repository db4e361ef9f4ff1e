//! What the platform says of a report on its message queue, for whoever subscribed with the format `xlink`.
//!
//! ```json
//! {"type":"UPGRADE","time":"2015-10-09 08:16:41.12","product_id":"160f…","id":7,"msg_id":"400","upgrade_task_id":"6b01…",
//!  "report":{"type":1,"mod":"M1","identify":0,"last_version":1,"current_version":2,"result":0,"desc":"…"}}
//! ```
//!
//! The platform's page promises the report and the task's id, and shows no message. So this is the envelope in which the platform
//! forwards what devices do (STATE, ACTIVATION, PIPE, SYNC), with a type of its own:
//!   - The report lies in `report`, since its `type` and the envelope's would be the same field. It isn't called `data`: in the
//!     platform's own messages that is a text in base64. Its fields have the names that the device gave them.
//!   - `msg_id` is the event's number as a text: the platform's formats show it in quotes, and readers compare it, no more.
//!   - `upgrade_task_id` is `null` where the report fits no task. All else that is unknown is left out; `ip` always, since an event
//!     doesn't say from where it came.
//!
//! Every result makes a message, also of an upgrade that was not reported in this dialect or by nobody (a deadline, an operator), and
//! of an attempt that failed and is followed by another. An event of another kind makes none.

use super::encode::{self, VersionShown};
use crate::webhooks::{Format, Message};
use serde::Serialize;
use sluicegate::State;
use sluicegate::model::{Component, Event, EventKind, Subscription, Timestamp, UpgradeState};

/// One result a message, until the receiver has it.
#[derive(Debug)]
pub(crate) struct UpgradeFormat;

impl Format for UpgradeFormat {
    fn name(&self) -> &'static str {
        "xlink"
    }

    fn messages(&self, state: &State, _: &Subscription, events: &[&Event]) -> Vec<Message> {
        let of_task = |event: &Event| Some(state.task(&event.organization, event.task_id?)?.row.component);
        let message = |event: &&Event| {
            let message = message(event)?;
            let message = if message.report.component_type.is_none() { message.about(of_task(event)) } else { message };
            match serde_json::to_vec(&message) {
                Ok(body) => Some(Message { body: body.into(), sequence: event.sequence }),
                Err(error) => {
                    tracing::error!(%error, sequence = event.sequence, "a result could not be written as JSON");
                    None
                }
            }
        };
        events.iter().filter_map(message).collect()
    }

    /// What is still kept is not missed.
    fn attempts_max(&self) -> Option<u32> {
        None
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct UpgradeMessage<'a> {
    #[serde(rename = "type")]
    message_type: &'static str,
    time: String,
    product_id: &'a str,
    /// The device's.
    #[serde(serialize_with = "encode::number_if_plain")]
    id: &'a str,
    msg_id: String,
    upgrade_task_id: Option<String>,
    report: ReportShown<'a>,
}

/// What the device reported, or would have.
#[derive(Debug, Serialize)]
struct ReportShown<'a> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    component_type: Option<u16>,
    #[serde(rename = "mod", skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identify: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_version: Option<VersionShown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_version: Option<VersionShown<'a>>,
    result: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    desc: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_date: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_date: Option<&'a str>,
}

/// A result as the platform tells it. Of any other event: nothing.
pub(crate) fn message(event: &Event) -> Option<UpgradeMessage<'_>> {
    if event.kind != EventKind::Result {
        return None;
    }
    let (device_id, state) = (event.device_id.as_deref()?, event.state?);
    let text = |key: &str| event.extra.get(key).map(|value| &**value).filter(|value| !value.is_empty());
    let version = |key: &str| text(key).map(VersionShown);
    Some(UpgradeMessage {
        message_type: "UPGRADE",
        time: time(event.at),
        product_id: &event.product_id,
        id: device_id,
        msg_id: event.sequence.to_string(),
        upgrade_task_id: event.task_id.map(|id| id.to_string()),
        report: ReportShown {
            component_type: text("type").and_then(|text| text.parse().ok()),
            model: text("mod"),
            identify: text("identify").and_then(|text| text.parse().ok()),
            last_version: version("from_version"),
            current_version: version("to_version"),
            result: if state == UpgradeState::Succeeded { SUCCEEDED } else { FAILED },
            desc: text("detail").or_else(|| ending_besides_failure(state)),
            start_date: text("start_date"),
            end_date: text("end_date"),
        },
    })
}

const SUCCEEDED: u8 = 0;
const FAILED: u8 = 1;

impl UpgradeMessage<'_> {
    /// With the component, which a result that wasn't reported by versions doesn't carry: it is its task's, while that is there.
    fn about(mut self, component: Option<Component>) -> Self {
        self.report.component_type = component.map(|component| component.component_type);
        self.report.identify = component.map(|component| component.identify);
        self
    }
}

/// The platform knows one way to go wrong; which other it was, is said in words.
const fn ending_besides_failure(state: UpgradeState) -> Option<&'static str> {
    match state {
        UpgradeState::Succeeded | UpgradeState::Failed => None,
        other => Some(other.name()),
    }
}

/// `yyyy-MM-dd HH:mm:ss.SS`, in UTC: the platform's formats name no zone, its dates elsewhere are in UTC.
fn time(at: Timestamp) -> String {
    let milliseconds = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX);
    time.strftime("%Y-%m-%d %H:%M:%S%.2f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate::model::TaskId;

    fn event(device_id: &str, state: UpgradeState, extra: &[(&str, &str)]) -> Event {
        Event {
            sequence: 400,
            kind: EventKind::Result,
            at: Timestamp(1_444_378_601_129),
            organization: "default".into(),
            product_id: "160fa2b1f2a1e1f2160fa2b1f2a1e1f2".into(),
            device_id: Some(device_id.into()),
            task_id: None,
            upgrade_id: None,
            state: Some(state),
            percent: None,
            extra: extra.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        }
    }

    fn written(message: &UpgradeMessage<'_>) -> String {
        serde_json::to_string(message).unwrap()
    }

    #[test]
    fn a_report_is_told_in_the_platform_s_envelope_under_its_own_names() {
        let mut event = event(
            "7",
            UpgradeState::Succeeded,
            &[
                ("type", "1"),
                ("identify", "0"),
                ("mod", "M1"),
                ("last_version", "1"),
                ("current_version", "2"),
                ("from_version", "1"),
                ("to_version", "2"),
                ("result", "0"),
                ("desc", "升级状况描述"),
                ("detail", "升级状况描述"),
                ("start_date", "2015-10-09T08:15:40.843Z"),
                ("end_date", "2015-10-09T08:16:40.843Z"),
            ],
        );
        event.task_id = "6b012e8000a209f300000002".parse::<TaskId>().ok();
        assert_eq!(
            written(&message(&event).unwrap()),
            concat!(
                r#"{"type":"UPGRADE","time":"2015-10-09 08:16:41.12","product_id":"160fa2b1f2a1e1f2160fa2b1f2a1e1f2","id":7,"#,
                r#""msg_id":"400","upgrade_task_id":"6b012e8000a209f300000002","#,
                r#""report":{"type":1,"mod":"M1","identify":0,"last_version":1,"current_version":2,"result":0,"#,
                r#""desc":"升级状况描述","start_date":"2015-10-09T08:15:40.843Z","end_date":"2015-10-09T08:16:40.843Z"}}"#
            )
        );
    }

    #[test]
    fn a_result_that_nobody_reported_in_this_dialect_says_what_is_known() {
        let versions = [("from_version", "1.0"), ("to_version", "2.0"), ("retry_at_ms", "1444378700000")];
        let event = event("p-1", UpgradeState::TimedOut, &versions);
        let about = Component { component_type: 2, identify: 7 };
        assert_eq!(
            written(&message(&event).unwrap().about(Some(about))),
            concat!(
                r#"{"type":"UPGRADE","time":"2015-10-09 08:16:41.12","product_id":"160fa2b1f2a1e1f2160fa2b1f2a1e1f2","id":"p-1","#,
                r#""msg_id":"400","upgrade_task_id":null,"#,
                r#""report":{"type":2,"identify":7,"last_version":"1.0","current_version":"2.0","result":1,"desc":"timed_out"}}"#
            )
        );
        let unknown = written(&message(&event).unwrap().about(None));
        assert!(unknown.contains(r#""report":{"last_version":"1.0","#), "{unknown}");
    }

    #[test]
    fn what_went_wrong_is_said_in_the_device_s_words_where_it_has_any() {
        let desc = |state, extra: &[(&str, &str)]| {
            let event = event("7", state, extra);
            let report = message(&event).unwrap().report;
            (report.result, report.desc.map(str::to_owned))
        };
        assert_eq!(desc(UpgradeState::Failed, &[("detail", "no space left")]), (1, Some("no space left".to_owned())));
        assert_eq!(desc(UpgradeState::Failed, &[]), (1, None));
        assert_eq!(desc(UpgradeState::Rejected, &[("detail", "")]), (1, Some("rejected".to_owned())));
        assert_eq!(desc(UpgradeState::Canceled, &[("detail", "canceled by an operator")]).1.unwrap(), "canceled by an operator");
        assert_eq!(desc(UpgradeState::Succeeded, &[]), (0, None));
    }

    #[test]
    fn only_results_are_told() {
        for kind in EventKind::ALL {
            let event = Event { kind, ..event("7", UpgradeState::Succeeded, &[]) };
            assert_eq!(message(&event).is_some(), kind == EventKind::Result, "{}", kind.name());
        }
    }

    #[test]
    fn times_have_two_digits_of_a_second_s_fraction() {
        assert_eq!(time(Timestamp(0)), "1970-01-01 00:00:00.00");
        assert_eq!(time(Timestamp(1_700_000_000_050)), "2023-11-14 22:13:20.05");
    }
}
