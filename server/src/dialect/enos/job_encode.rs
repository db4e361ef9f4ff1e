//! Jobs as the platform shows them, whichever way they came.

use super::firmware_metadata::NAME_KEY as FIRMWARE_NAME;
use super::job_decode::annotation;
use super::job_schedule::SchedulePolicy;
use super::text::LocalizedText;
use serde::{Serialize, Serializer};
use serde_json::Value;
use sluicegate::TaskInfo;
use sluicegate::model::{AssetTree, Firmware, Retry, Selector, Task, TaskKind, TaskStatus};
use std::collections::BTreeMap;

/// `JobInfo`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JobShown<'a> {
    org_id: &'a str,
    product_key: &'a str,
    job_id: String,
    name: LocalizedText,
    /// Absent where another dialect named a file rather than firmware.
    firmware_id: Option<String>,
    firmware_version: &'a str,
    firmware_name: Option<LocalizedText>,
    #[serde(rename = "type")]
    job_type: &'static str,
    enable_upgrade_request: bool,
    upgrade_policy: &'static str,
    upgrade_scope: ScopeShown<'a>,
    upgrade_timeout: u32,
    retry_policy: Option<RetryShown>,
    schedule_policy: Option<SchedulePolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_schedule: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_schedule: Option<u32>,
    /// Absent: no bound. Only a job that came by another way has none.
    maximum_concurrency: Option<u32>,
    status: &'static str,
    create_time: u64,
}

impl<'a> JobShown<'a> {
    /// `default_timeout_s`: what holds where the task says nothing.
    pub(super) fn new(info: &'a TaskInfo, firmware: Option<&'a Firmware>, default_timeout_s: u32) -> Self {
        let task = &*info.row;
        let second = |key| task.annotations.get(key).and_then(|text| text.parse().ok());
        Self {
            org_id: &info.product.organization,
            product_key: &info.product.id,
            job_id: task.id.to_string(),
            name: name_of(task),
            firmware_id: firmware.map(|firmware| firmware.id.to_string()),
            firmware_version: &task.target_version,
            firmware_name: firmware.map(firmware_name_of),
            job_type: type_of(task),
            enable_upgrade_request: enables_upgrade_request(task),
            upgrade_policy: if task.scope.snapshot { "snapshot" } else { "incremental" },
            upgrade_scope: ScopeShown::new(task),
            upgrade_timeout: task.policy.timeout_s.unwrap_or(default_timeout_s),
            retry_policy: task.policy.retry.as_ref().map(RetryShown::new),
            schedule_policy: schedule_policy(task),
            start_schedule: second(annotation::START_SCHEDULE),
            end_schedule: second(annotation::END_SCHEDULE),
            maximum_concurrency: task.policy.maximum_concurrency,
            status: status_of(task),
            create_time: task.created_at.as_millis(),
        }
    }
}

pub(super) fn name_of(task: &Task) -> LocalizedText {
    LocalizedText::kept(task.name.as_deref().unwrap_or_default(), annotation::NAME, &task.annotations)
}

pub(super) fn firmware_name_of(firmware: &Firmware) -> LocalizedText {
    LocalizedText::kept(firmware.name.as_deref().unwrap_or_default(), FIRMWARE_NAME, &firmware.annotations)
}

pub(super) const fn type_of(task: &Task) -> &'static str {
    match task.kind {
        TaskKind::Upgrade => "upgrade",
        TaskKind::Verify => "verify",
    }
}

/// The platform knows no pause: a paused job is one that was started.
pub(super) const fn status_of(task: &Task) -> &'static str {
    match task.status {
        TaskStatus::Stopped => "stopped",
        TaskStatus::Started | TaskStatus::Paused => "started",
    }
}

/// A job that came by another way never forbade it.
pub(super) fn enables_upgrade_request(task: &Task) -> bool {
    task.annotations.get(annotation::ENABLE_UPGRADE_REQUEST).is_none_or(|flag| &**flag == "true")
}

fn schedule_policy(task: &Task) -> Option<SchedulePolicy> {
    if let Some(text) = task.annotations.get(annotation::SCHEDULE_POLICY) {
        return serde_json::from_str(text).ok();
    }
    // The older form is shown as the older form.
    if task.annotations.contains_key(annotation::START_SCHEDULE) {
        return None;
    }
    SchedulePolicy::of(&task.policy.schedule, task.created_at)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RetryShown {
    enable_retry: bool,
    retry_interval: u32,
    retry_count: u32,
}

impl RetryShown {
    const fn new(retry: &Retry) -> Self {
        Self { enable_retry: true, retry_interval: retry.interval_s, retry_count: retry.count }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ScopeShown<'a> {
    #[serde(rename = "type")]
    scope_type: &'static str,
    version_numbers: Vec<&'a str>,
    device_keys: Option<&'a [Box<str>]>,
    attributes: Option<BTreeMap<&'a str, Vec<JsonText<'a>>>>,
    tags: Option<&'a BTreeMap<Box<str>, Vec<Box<str>>>>,
    asset_trees: Option<Vec<TreeShown<'a>>>,
    /// Not of this platform: groups are a way of others to name devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<&'a [Box<str>]>,
}

impl<'a> ScopeShown<'a> {
    fn new(task: &'a Task) -> Self {
        let mut shown = Self {
            scope_type: "partial",
            version_numbers: task.from_versions.iter().map(|version| &**version).collect(),
            device_keys: None,
            attributes: None,
            tags: None,
            asset_trees: None,
            groups: None,
        };
        match &task.scope.selector {
            Selector::Total => shown.scope_type = "total",
            Selector::Devices(devices) => shown.device_keys = Some(devices),
            Selector::Attributes(attributes) => {
                let values = |values: &'a [Box<str>]| values.iter().map(|value| JsonText(value)).collect();
                shown.attributes = Some(attributes.iter().map(|(key, texts)| (&**key, values(texts))).collect());
            }
            Selector::Tags(tags) => shown.tags = Some(tags),
            Selector::Groups(groups) => shown.groups = Some(groups),
            Selector::AssetTrees(trees) => shown.asset_trees = Some(trees.iter().map(TreeShown::new).collect()),
        }
        shown
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TreeShown<'a> {
    tree_id: &'a str,
    /// Absent: the whole tree.
    included_nodes: Option<&'a [Box<str>]>,
}

impl<'a> TreeShown<'a> {
    fn new(tree: &'a AssetTree) -> Self {
        Self { tree_id: &tree.tree, included_nodes: (!tree.nodes.is_empty()).then_some(&tree.nodes) }
    }
}

/// A value that is kept as its JSON text, shown as the value.
#[derive(Debug)]
struct JsonText<'a>(&'a str);

impl Serialize for JsonText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_str::<Value>(self.0) {
            Ok(value) => value.serialize(serializer),
            Err(_) => serializer.serialize_str(self.0),
        }
    }
}
