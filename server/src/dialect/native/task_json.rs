//! A task as JSON, in and out: what it is for and its scope; its policies are in [`policy_json`](super::policy_json). What is shown can
//! be sent to create its like (without what the server adds).
//!
//! Unknown fields are refused wherever they stand, with their name: an overlooked slip in a scope would widen a rollout.

use super::decode::{component, json_text};
use super::encode::{Attribute, ComponentShown, Counts, Id, Time};
use super::failure::Failure;
use super::firmware;
use super::outlook::LiveShown;
use super::policy_json::{RateBody, RetryBody, ScheduleBody, ScheduleShown, ThresholdBody, TimeoutFromWord, WaveBody};
use super::whole::{ComponentType, Whole};
use crate::dialect::common::FIRMWARE_UPGRADE_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluicegate::model::{AssetTree, FirmwareId, Policy, Schedule, Scope, Selector, TaskId, TaskKind, TaskMode, TimeoutFrom};
use sluicegate::{NewTask, TaskInfo, TaskOutlook, TaskTarget};
use std::collections::BTreeMap;

/// `POST /tasks`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TaskBody {
    pub(super) product_id: String,
    name: Option<String>,
    description: Option<String>,
    #[serde(rename = "type")]
    component_type: ComponentType,
    identify: Whole<u32>,
    firmware_id: String,
    from_versions: Vec<String>,
    kind: Option<KindWord>,
    mode: Option<ModeWord>,
    scope: Option<ScopeBody>,
    policy: Option<PolicyWord>,
    schedule: Option<ScheduleBody>,
    timeout_s: Option<Whole<u32>>,
    timeout_from: Option<TimeoutFromWord>,
    retry: Option<RetryBody>,
    maximum_concurrency: Option<Whole<u32>>,
    rate: Option<RateBody>,
    waves: Option<Vec<WaveBody>>,
    start_jitter_s: Option<Whole<u32>>,
    thresholds: Option<Vec<ThresholdBody>>,
    approval: Option<bool>,
    confirmation: Option<bool>,
    version_decides: Option<bool>,
    repeat_after_success: Option<bool>,
    /// What gateways are told of it: 2 is a consistency upgrade, 3 a normal one.
    firmware_upgrade_type: Option<Whole<u8>>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum KindWord {
    Upgrade,
    Verify,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum ModeWord {
    Automatic,
    Manual,
}

/// Whether the devices are fixed when the task is created, or join as they come to match.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum PolicyWord {
    Snapshot,
    Incremental,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum ScopeWord {
    Total,
    Devices,
    Attributes,
    Tags,
    Groups,
    AssetTrees,
}

impl ScopeWord {
    const fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Devices => "devices",
            Self::Attributes => "attributes",
            Self::Tags => "tags",
            Self::Groups => "groups",
            Self::AssetTrees => "asset_trees",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScopeBody {
    #[serde(rename = "type")]
    scope_type: ScopeWord,
    devices: Option<Vec<Box<str>>>,
    attributes: Option<BTreeMap<Box<str>, OneOrMany<Value>>>,
    tags: Option<BTreeMap<Box<str>, OneOrMany<Box<str>>>>,
    groups: Option<Vec<Box<str>>>,
    asset_trees: Option<Vec<AssetTreeBody>>,
}

/// Any of several values; a single one needs no brackets.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    Many(Vec<T>),
    One(T),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::Many(values) => values,
            Self::One(value) => vec![value],
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AssetTreeBody {
    tree: Box<str>,
    nodes: Option<Vec<Box<str>>>,
}

impl TaskBody {
    pub(super) fn into_new(self, organization: &str) -> Result<NewTask, Failure> {
        let snapshot = matches!(self.policy, Some(PolicyWord::Snapshot));
        let upgrade_type = self.firmware_upgrade_type.map(|number| number.0);
        if let Some(other) = upgrade_type.filter(|number| !(2..=4).contains(number)) {
            let message = format!("firmware_upgrade_type is {other}; give 2 (consistency), 3 (normal) or 4 (payload)");
            return Err(Failure::invalid(message));
        }
        let selector = self.scope.map_or(Ok(Selector::Total), ScopeBody::selector)?;
        Ok(NewTask {
            organization: organization.to_owned(),
            product_id: self.product_id,
            component: component(self.component_type, self.identify),
            name: self.name,
            description: self.description,
            kind: match self.kind {
                None | Some(KindWord::Upgrade) => TaskKind::Upgrade,
                Some(KindWord::Verify) => TaskKind::Verify,
            },
            mode: match self.mode {
                None | Some(ModeWord::Automatic) => TaskMode::Automatic,
                Some(ModeWord::Manual) => TaskMode::Manual,
            },
            from_versions: self.from_versions,
            target: TaskTarget::Firmware(firmware::parse_id(&self.firmware_id)?),
            scope: Scope { selector, snapshot },
            policy: Policy {
                maximum_concurrency: self.maximum_concurrency.map(|value| value.0),
                timeout_s: self.timeout_s.map(|value| value.0),
                timeout_from: self.timeout_from.map_or(TimeoutFrom::default(), Into::into),
                retry: self.retry.map(RetryBody::retry).transpose()?,
                schedule: self.schedule.map_or(Ok(Schedule::default()), ScheduleBody::schedule)?,
                repeat_after_success: self.repeat_after_success.unwrap_or_default(),
                rate: self.rate.as_ref().map(RateBody::rate),
                waves: WaveBody::waves(&self.waves.unwrap_or_default())?,
                start_jitter_s: self.start_jitter_s.map_or(0, |jitter| jitter.0),
                thresholds: self.thresholds.unwrap_or_default().iter().map(ThresholdBody::threshold).collect(),
                approval: self.approval.unwrap_or_default(),
                confirmation: self.confirmation.unwrap_or_default(),
                version_decides: self.version_decides.unwrap_or_default(),
            },
            unique_name: false,
            // A verify task and the upgrade that follows it, or one task per part of the fleet, start from the same version.
            unique_start: false,
            start: false,
            annotations: upgrade_type.map(|number| (FIRMWARE_UPGRADE_TYPE.into(), number.to_string().into())).into_iter().collect(),
        })
    }
}

impl ScopeBody {
    /// What the type names, and nothing beside it: a list that doesn't count would only seem to narrow the task.
    fn selector(self) -> Result<Selector, Failure> {
        let name = self.scope_type.name();
        let given = [
            (ScopeWord::Devices, self.devices.is_some()),
            (ScopeWord::Attributes, self.attributes.is_some()),
            (ScopeWord::Tags, self.tags.is_some()),
            (ScopeWord::Groups, self.groups.is_some()),
            (ScopeWord::AssetTrees, self.asset_trees.is_some()),
        ];
        if let Some((other, _)) = given.iter().find(|(word, is_given)| *is_given && *word != self.scope_type) {
            let other = other.name();
            return Err(Failure::invalid(format!("scope.{other} is given, but scope.type is {name}; leave one of them out")));
        }
        let missing = || Failure::invalid(format!("scope.type is {name}, but scope.{name} is missing; name what the task is for"));
        Ok(match self.scope_type {
            ScopeWord::Total => Selector::Total,
            ScopeWord::Devices => Selector::Devices(self.devices.ok_or_else(missing)?),
            ScopeWord::Attributes => {
                let texts = |values: OneOrMany<Value>| values.into_vec().iter().map(json_text).collect();
                let attributes = self.attributes.ok_or_else(missing)?;
                Selector::Attributes(attributes.into_iter().map(|(key, values)| (key, texts(values))).collect())
            }
            ScopeWord::Tags => {
                let tags = self.tags.ok_or_else(missing)?;
                Selector::Tags(tags.into_iter().map(|(key, values)| (key, values.into_vec())).collect())
            }
            ScopeWord::Groups => Selector::Groups(self.groups.ok_or_else(missing)?),
            ScopeWord::AssetTrees => {
                let trees = self.asset_trees.ok_or_else(missing)?;
                let tree = |body: AssetTreeBody| AssetTree { tree: body.tree, nodes: body.nodes.unwrap_or_default() };
                Selector::AssetTrees(trees.into_iter().map(tree).collect())
            }
        })
    }
}

/// A task with its live figures.
#[derive(Debug, Serialize)]
pub(super) struct TaskShown<'a> {
    id: Id<TaskId>,
    product_id: &'a str,
    name: Option<&'a str>,
    description: Option<&'a str>,
    #[serde(flatten)]
    component: ComponentShown,
    /// Absent where another dialect named a file rather than a firmware.
    firmware_id: Option<Id<FirmwareId>>,
    from_versions: Vec<&'a str>,
    target_version: &'a str,
    kind: KindWord,
    mode: ModeWord,
    scope: ScopeShown<'a>,
    policy: PolicyWord,
    schedule: Option<ScheduleShown>,
    timeout_s: u32,
    timeout_from: TimeoutFromWord,
    retry: Option<RetryBody>,
    maximum_concurrency: Option<u32>,
    rate: Option<RateBody>,
    waves: Vec<WaveBody>,
    start_jitter_s: u32,
    thresholds: Vec<ThresholdBody>,
    approval: bool,
    confirmation: bool,
    version_decides: bool,
    repeat_after_success: bool,
    firmware_upgrade_type: Option<u8>,
    status: &'static str,
    approved: bool,
    canceled: bool,
    created_at: Time,
    changed_at: Time,
    finished_at: Option<Time>,
    counts: Counts,
    permits_held: u64,
    succeeded_devices: u64,
    devices_at_start: u64,
    /// Where one task is shown; a list would have to work it out for each.
    #[serde(flatten)]
    live: Option<LiveShown>,
}

#[derive(Debug, Serialize)]
struct ScopeShown<'a> {
    #[serde(rename = "type")]
    scope_type: ScopeWord,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<&'a [Box<str>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<BTreeMap<&'a str, Vec<Attribute<'a>>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a BTreeMap<Box<str>, Vec<Box<str>>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<&'a [Box<str>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asset_trees: Option<Vec<AssetTreeShown<'a>>>,
}

#[derive(Debug, Serialize)]
struct AssetTreeShown<'a> {
    tree: &'a str,
    nodes: &'a [Box<str>],
}

impl<'a> TaskShown<'a> {
    /// `default_timeout_s`: what holds where the task says nothing.
    pub(super) fn new(info: &'a TaskInfo, firmware_id: Option<FirmwareId>, default_timeout_s: u32) -> Self {
        let task = &*info.row;
        Self {
            id: Id(task.id),
            product_id: &info.product.id,
            name: task.name.as_deref(),
            description: task.description.as_deref(),
            component: ComponentShown::new(task.component),
            firmware_id: firmware_id.map(Id),
            from_versions: task.from_versions.iter().map(|version| &**version).collect(),
            target_version: &task.target_version,
            kind: match task.kind {
                TaskKind::Upgrade => KindWord::Upgrade,
                TaskKind::Verify => KindWord::Verify,
            },
            mode: match task.mode {
                TaskMode::Automatic => ModeWord::Automatic,
                TaskMode::Manual => ModeWord::Manual,
            },
            scope: ScopeShown::new(&task.scope.selector),
            policy: if task.scope.snapshot { PolicyWord::Snapshot } else { PolicyWord::Incremental },
            schedule: ScheduleShown::new(task.policy.schedule),
            timeout_s: task.policy.timeout_s.unwrap_or(default_timeout_s),
            timeout_from: task.policy.timeout_from.into(),
            retry: task.policy.retry.as_ref().map(RetryBody::shown),
            maximum_concurrency: task.policy.maximum_concurrency,
            rate: task.policy.rate.map(RateBody::shown),
            waves: task.policy.waves.iter().map(WaveBody::shown).collect(),
            start_jitter_s: task.policy.start_jitter_s,
            thresholds: task.policy.thresholds.iter().map(ThresholdBody::shown).collect(),
            approval: task.policy.approval,
            confirmation: task.policy.confirmation,
            version_decides: task.policy.version_decides,
            repeat_after_success: task.policy.repeat_after_success,
            firmware_upgrade_type: task.annotations.get(FIRMWARE_UPGRADE_TYPE).and_then(|number| number.parse().ok()),
            status: task.status.name(),
            approved: task.approved,
            canceled: task.canceled,
            created_at: Time(task.created_at),
            changed_at: Time(task.changed_at),
            finished_at: task.finished_at.map(Time),
            counts: Counts(info.counts),
            permits_held: info.permits_held,
            succeeded_devices: info.succeeded_devices,
            devices_at_start: info.devices_at_start,
            live: None,
        }
    }

    pub(super) fn with_outlook(self, outlook: &TaskOutlook) -> Self {
        Self { live: Some(LiveShown::new(outlook)), ..self }
    }
}

impl<'a> ScopeShown<'a> {
    fn new(selector: &'a Selector) -> Self {
        let of = |scope_type| Self { scope_type, devices: None, attributes: None, tags: None, groups: None, asset_trees: None };
        match selector {
            Selector::Total => of(ScopeWord::Total),
            Selector::Devices(devices) => Self { devices: Some(devices), ..of(ScopeWord::Devices) },
            Selector::Attributes(attributes) => {
                let values = |values: &'a [Box<str>]| values.iter().map(|value| Attribute(value)).collect();
                let attributes = attributes.iter().map(|(key, texts)| (&**key, values(texts))).collect();
                Self { attributes: Some(attributes), ..of(ScopeWord::Attributes) }
            }
            Selector::Tags(tags) => Self { tags: Some(tags), ..of(ScopeWord::Tags) },
            Selector::Groups(groups) => Self { groups: Some(groups), ..of(ScopeWord::Groups) },
            Selector::AssetTrees(trees) => {
                let trees = trees.iter().map(|tree| AssetTreeShown { tree: &tree.tree, nodes: &tree.nodes }).collect();
                Self { asset_trees: Some(trees), ..of(ScopeWord::AssetTrees) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::decode::parse;
    use super::*;
    use serde_json::json;
    use sluicegate::model::{Artifact, Component, Product, ProductNumber, StateCounts, Task, TaskNumber, TaskStatus, Timestamp};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    const FIRMWARE: &str = "5ee1a910000000070000002a";

    fn body(more: Value) -> Value {
        let mut task = json!({ "product_id": "p", "type": 1, "identify": 0, "firmware_id": FIRMWARE, "from_versions": ["1.0"] });
        task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        task
    }

    fn read(more: Value) -> Result<NewTask, Failure> {
        let text = body(more).to_string();
        parse::<TaskBody>(text.as_bytes())?.into_new("default")
    }

    fn refused(more: Value) -> String {
        let failure = read(more).unwrap_err();
        assert_eq!(failure.status, 400);
        failure.message
    }

    #[test]
    fn the_least_that_makes_a_task_has_defaults_for_the_rest() {
        let task = read(json!({})).unwrap();
        assert_eq!(task.component, Component::MAIN);
        assert_eq!(task.scope, Scope { selector: Selector::Total, snapshot: false });
        assert_eq!(task.policy, Policy::default());
        assert!(!task.unique_start && !task.unique_name && !task.start);
        assert!(matches!(task.target, TaskTarget::Firmware(id) if id.to_string() == FIRMWARE));
    }

    #[test]
    fn a_slip_of_the_pen_is_refused_by_name_wherever_it_stands() {
        for (more, named) in [
            (json!({ "maximum_concurency": 5 }), "maximum_concurency"),
            (json!({ "scope": { "type": "devices", "device": ["d"] } }), "scope.device"),
            (
                json!({ "scope": { "type": "asset_trees", "asset_trees": [{ "tree": "t", "node": ["n"] }] } }),
                "scope.asset_trees[0].node",
            ),
            (json!({ "schedule": { "begin": 1 } }), "schedule.begin"),
            (json!({ "schedule": { "daily": { "from": "01:00", "until": "02:00" } } }), "schedule.daily.until"),
            (json!({ "retry": { "count": 1, "interval": 1 } }), "retry.interval"),
            (json!({ "waves": [{ "percent": 10, "succes_percent": 5 }] }), "waves[0].succes_percent"),
            (json!({ "rate": { "per_minute": 5, "growth": { "by": 2 } } }), "rate.growth.by"),
            (json!({ "thresholds": [{ "percent": 5, "minimum": 1, "action": "pause", "of": 1 }] }), "thresholds[0].of"),
        ] {
            let message = refused(more);
            assert!(message.starts_with(named) || message.contains(&format!("`{named}`")), "{named}: {message}");
        }
    }

    #[test]
    fn a_scope_names_what_its_type_says_and_nothing_else() {
        assert!(refused(json!({ "scope": { "type": "total", "devices": ["d"] } })).contains("scope.devices is given"));
        assert!(refused(json!({ "scope": { "type": "devices", "devices": ["d"], "tags": {} } })).contains("scope.tags is given"));
        assert!(refused(json!({ "scope": { "type": "groups" } })).contains("scope.groups is missing"));
        assert!(refused(json!({ "scope": {} })).contains("missing field `type`"));
        assert!(refused(json!({ "scope": { "type": "everything" } })).contains("unknown variant"));
        let scope = |scope: Value| read(json!({ "scope": scope })).unwrap().scope.selector;
        assert_eq!(scope(json!({ "type": "total", "devices": null })), Selector::Total);
        let tags = [("ring".into(), vec!["canary".into()]), ("site".into(), vec!["n".into(), "s".into()])].into();
        assert_eq!(scope(json!({ "type": "tags", "tags": { "ring": "canary", "site": ["n", "s"] } })), Selector::Tags(tags));
        let attributes = [("floor".into(), vec!["4".into(), "\"x\"".into()])].into();
        assert_eq!(scope(json!({ "type": "attributes", "attributes": { "floor": [4, "x"] } })), Selector::Attributes(attributes));
    }

    #[test]
    fn an_id_that_is_none_names_no_firmware() {
        let failure = read(json!({ "firmware_id": "../x" })).unwrap_err();
        assert_eq!((failure.status.as_u16(), failure.code), (404, "firmware_not_found"));
    }

    fn shown(new: NewTask) -> Value {
        let TaskTarget::Firmware(firmware_id) = new.target else { panic!("a native task leads to a firmware") };
        let task = Task {
            number: TaskNumber(1),
            id: TaskId { created_s: 1, store: 2, number: TaskNumber(1) },
            product: ProductNumber(0),
            component: new.component,
            name: new.name.map(Into::into),
            description: new.description.map(Into::into),
            kind: new.kind,
            mode: new.mode,
            from_versions: new.from_versions.into_iter().map(Into::into).collect(),
            target_version: "2.0".into(),
            artifact: Artifact::default(),
            firmware: Some(firmware_id.number),
            scope: new.scope,
            members: None,
            policy: new.policy,
            status: TaskStatus::Stopped,
            created_at: Timestamp(0),
            changed_at: Timestamp(0),
            annotations: BTreeMap::new(),
            waves: Vec::new(),
            approved: false,
            canceled: false,
            finished_at: None,
        };
        let product = Product {
            number: ProductNumber(0),
            organization: "default".into(),
            id: "p".into(),
            name: None,
            created_at: Timestamp(0),
        };
        let info = TaskInfo {
            row: Arc::new(task),
            product: Arc::new(product),
            counts: StateCounts::default(),
            permits_held: 0,
            succeeded_devices: 0,
            devices_at_start: 0,
        };
        serde_json::to_value(TaskShown::new(&info, Some(firmware_id), 7_200)).unwrap()
    }

    #[test]
    fn a_task_is_shown_with_every_policy_as_it_was_sent() {
        let sent = body(json!({
            "name": "spring", "description": "words", "kind": "verify", "mode": "manual", "policy": "snapshot",
            "scope": { "type": "attributes", "attributes": { "site": ["north", 4] } },
            "schedule": { "start": "2027-03-01T02:00:00.000Z", "end": null, "daily": { "from": "22:30:00", "to": "04:30:15" },
                "utc_offset_minutes": 60 },
            "timeout_s": 600, "timeout_from": "running", "maximum_concurrency": 5, "repeat_after_success": true,
            "retry": { "count": 3, "interval_s": 60, "back_off": { "factor": 1.5, "interval_max_s": 600 }, "jitter_s": 9, "codes": [-1] },
            "rate": { "per_minute": 10, "growth": { "factor": 2, "after": 5, "counting": "notified", "per_minute_max": 40 } },
            "waves": [{ "percent": 10, "success_percent": 90 }, { "count": 7, "success_percent": 100 }], "start_jitter_s": 30,
            "thresholds": [{ "kind": "failed", "percent": 5, "minimum": 20, "action": "pause" }],
            "approval": true, "confirmation": true, "version_decides": true,
        }));
        let text = sent.to_string();
        let shown = shown(parse::<TaskBody>(text.as_bytes()).unwrap().into_new("default").unwrap());
        for (field, value) in sent.as_object().unwrap() {
            assert_eq!(&shown[field], value, "{field}");
        }
        assert_eq!((&shown["status"], &shown["target_version"]), (&json!("stopped"), &json!("2.0")));
        assert_eq!(shown["counts"].as_object().unwrap().len(), 12);
    }

    #[test]
    fn a_task_without_policies_shows_what_holds_for_it() {
        let shown = shown(read(json!({})).unwrap());
        assert_eq!(shown["timeout_s"], 7_200);
        assert_eq!(shown["scope"], json!({ "type": "total" }));
        assert_eq!(
            (&shown["schedule"], &shown["retry"], &shown["maximum_concurrency"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        assert_eq!((&shown["kind"], &shown["policy"]), (&json!("upgrade"), &json!("incremental")));
        assert_eq!((&shown["rate"], &shown["waves"], &shown["thresholds"]), (&Value::Null, &json!([]), &json!([])));
        assert_eq!(
            (&shown["timeout_from"], &shown["start_jitter_s"], &shown["approval"]),
            (&json!("offer"), &json!(0), &json!(false))
        );
        assert!(shown.get("outlook").is_none(), "a list has none");
    }

    /// The properties of a schema of `openapi.json`.
    fn described(schema: &str) -> BTreeSet<String> {
        let description: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        description["components"]["schemas"][schema]["properties"].as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn every_field_is_described_and_no_other() {
        let task = shown(read(json!({})).unwrap());
        let mut fields: BTreeSet<String> = task.as_object().unwrap().keys().cloned().collect();
        fields.extend(["wave".to_owned(), "outlook".to_owned()]);
        assert_eq!(fields, described("Task"));
        // serde names what it would have taken.
        let refused = serde_json::from_str::<TaskBody>(r#"{"?":1}"#).unwrap_err().to_string();
        let taken: BTreeSet<String> = refused.split('`').skip(3).step_by(2).map(str::to_owned).collect();
        assert_eq!(taken, described("NewTask"));
    }
}
