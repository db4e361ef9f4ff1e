//! Notifications: how upgrades are told to an application's callback URL, one call for each.
//!
//! | engine | `swUpgradeState`, `fwUpgradeState` |
//! |---|---|
//! | offered | `RequestDownload` |
//! | downloading, downloaded | the same |
//! | installing | `updating` |
//! | a result | `idle`, and the result notification beside it |
//!
//! An attempt that went wrong while retries are left tells nothing: the upgrade goes on.
//!
//! What an operation upgrades (software or firmware) is its package's kind; so an event whose operation is gone tells nobody.

use super::encode::{file_type_of, sub_operation_id};
use super::time::Time;
use crate::webhooks::{Format, Message};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sluicegate::State;
use sluicegate::model::{Event, EventKind, FileType, Subscription, UpgradeState};

/// What an application may subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notification {
    /// As on the wire.
    pub(super) notify_type: &'static str,
    format: &'static str,
    file_type: FileType,
    tells_results: bool,
}

pub(crate) static NOTIFICATIONS: [Notification; 4] = [
    Notification {
        notify_type: "swUpgradeStateChangeNotify",
        format: "huawei.swUpgradeStateChangeNotify",
        file_type: FileType::SoftwarePackage,
        tells_results: false,
    },
    Notification {
        notify_type: "swUpgradeResultNotify",
        format: "huawei.swUpgradeResultNotify",
        file_type: FileType::SoftwarePackage,
        tells_results: true,
    },
    Notification {
        notify_type: "fwUpgradeStateChangeNotify",
        format: "huawei.fwUpgradeStateChangeNotify",
        file_type: FileType::FirmwarePackage,
        tells_results: false,
    },
    Notification {
        notify_type: "fwUpgradeResultNotify",
        format: "huawei.fwUpgradeResultNotify",
        file_type: FileType::FirmwarePackage,
        tells_results: true,
    },
];

/// Some two hours of back-off; an application that is away for longer asks for the state when it is back.
const ATTEMPTS_MAX: u32 = 120;

impl Notification {
    pub(super) fn of(notify_type: &str) -> Option<&'static Self> {
        NOTIFICATIONS.iter().find(|notification| notification.notify_type == notify_type)
    }

    pub(super) fn of_format(format: &str) -> Option<&'static Self> {
        NOTIFICATIONS.iter().find(|notification| notification.format == format)
    }

    fn body(&self, state: &State, subscription: &Subscription, event: &Event) -> Option<Value> {
        let (upgrade_state, upgrade_id, device_id) = (event.state?, event.upgrade_id, event.device_id.as_deref()?);
        let told = match event.kind {
            // Another attempt follows: to this platform the upgrade goes on.
            EventKind::Result if event.extra.contains_key("retry_at_ms") => return None,
            EventKind::Result if self.tells_results => Told::Result,
            EventKind::Result => Told::State("idle"),
            _ if self.tells_results => return None,
            EventKind::Offered => Told::State("RequestDownload"),
            // Progress within a state is no change of it.
            EventKind::Progress if event.extra.contains_key("from_state") => Told::State(state_word(upgrade_state)?),
            _ => return None,
        };
        let task = state.task(&event.organization, event.task_id?)?;
        let firmware = task.row.firmware.and_then(|number| state.firmware_by_number(number));
        if file_type_of(firmware.as_deref()) != self.file_type {
            return None;
        }
        let device = upgrade_id.map(|id| id.device).or_else(|| {
            let device = sluicegate::DeviceRef { organization: &event.organization, product_id: &event.product_id, device_id };
            state.device(device).map(|info| info.row.number)
        })?;
        let mut body = Map::new();
        body.insert("notifyType".into(), self.notify_type.into());
        body.insert("deviceId".into(), device_id.into());
        body.insert("appId".into(), subscription.app.as_deref().unwrap_or_default().into());
        body.insert("operationId".into(), task.row.id.to_string().into());
        body.insert("subOperationId".into(), sub_operation_id(&task.row, device).into());
        let prefix = if self.file_type == FileType::SoftwarePackage { "sw" } else { "fw" };
        match told {
            Told::State(word) => drop(body.insert(format!("{prefix}UpgradeState"), word.into())),
            Told::Result => {
                let text = |key: &str| event.extra.get(key).map(|value| &**value).unwrap_or_default();
                let succeeded = upgrade_state == UpgradeState::Succeeded;
                let current = if succeeded { text("to_version") } else { text("from_version") };
                body.insert("curVersion".into(), current.into());
                body.insert("targetVersion".into(), text("to_version").into());
                body.insert("sourceVersion".into(), text("from_version").into());
                body.insert(format!("{prefix}UpgradeResult"), if succeeded { "SUCCESS" } else { "FAIL" }.into());
                body.insert("upgradeTime".into(), Time(event.at).text().into());
                body.insert(
                    "resultDesc".into(),
                    json!(if text("detail").is_empty() { upgrade_state.name() } else { text("detail") }),
                );
                body.insert("errorCode".into(), json!(if text("code").is_empty() && succeeded { "0" } else { text("code") }));
                body.insert("description".into(), json!(text("detail")));
            }
        }
        Some(Value::Object(body))
    }
}

#[derive(Clone, Copy, Debug)]
enum Told {
    State(&'static str),
    Result,
}

const fn state_word(state: UpgradeState) -> Option<&'static str> {
    match state {
        UpgradeState::Downloading => Some("downloading"),
        UpgradeState::Downloaded => Some("downloaded"),
        UpgradeState::Installing => Some("updating"),
        _ => None,
    }
}

impl Format for Notification {
    fn name(&self) -> &'static str {
        self.format
    }

    fn messages(&self, state: &State, subscription: &Subscription, events: &[&Event]) -> Vec<Message> {
        let message = |event: &&Event| {
            let body = self.body(state, subscription, event)?;
            Some(Message { body: body.to_string().into(), sequence: event.sequence })
        };
        events.iter().filter_map(message).collect()
    }

    fn attempts_max(&self) -> Option<u32> {
        Some(ATTEMPTS_MAX)
    }
}

/// One subscription as it is listed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SubscriptionShown {
    subscription_id: String,
    notify_type: &'static str,
    callback_url: String,
}

impl SubscriptionShown {
    pub(super) fn new(row: &Subscription, notification: &Notification) -> Self {
        Self { subscription_id: row.id.to_string(), notify_type: notification.notify_type, callback_url: row.url.to_string() }
    }
}
