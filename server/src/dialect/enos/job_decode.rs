//! The body of `ota-jobs?action=create`, read: every range and rule that doesn't depend on what is stored.
//!
//! Numbers and booleans may be texts, `null` is absent, fields that aren't known are ignored; but see [`job_scope`](super::job_scope).
//! What the engine has no field for is kept as annotations, to be shown as it came.

use super::job_schedule::{DailySchedule, SchedulePolicy, SchedulePolicyWritten};
use super::job_scope::{ScopeWanted, ScopeWritten};
use super::status::Failure;
use super::text::{Annotations, LocalizedText};
use crate::dialect::common::lenient::{self, Object};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sluicegate::model::{Policy, Retry, Schedule, TaskKind, TimeoutFrom};
use std::ops::RangeInclusive;

/// What is kept beside the task.
pub(super) mod annotation {
    /// What the name's languages begin with.
    pub(in super::super) const NAME: &str = "enos.name";
    pub(in super::super) const ENABLE_UPGRADE_REQUEST: &str = "enos.enableUpgradeRequest";
    /// As JSON.
    pub(in super::super) const SCHEDULE_POLICY: &str = "enos.schedulePolicy";
    pub(in super::super) const START_SCHEDULE: &str = "enos.startSchedule";
    pub(in super::super) const END_SCHEDULE: &str = "enos.endSchedule";
}

const UPGRADE_TIMEOUT_S: RangeInclusive<i64> = 300..=172_800;
const UPGRADE_TIMEOUT_S_DEFAULT: u32 = 7_200;
const RETRY_INTERVAL_S: RangeInclusive<i64> = 0..=86_400;
const RETRY_COUNT: RangeInclusive<i64> = 1..=5;
const MAXIMUM_CONCURRENCY: RangeInclusive<i64> = 1..=i32::MAX as i64;
pub(super) const MAXIMUM_CONCURRENCY_DEFAULT: u32 = 300;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct JobWritten {
    name: Option<LocalizedText>,
    #[serde(rename = "type", deserialize_with = "lenient::optional_text")]
    job_type: Option<String>,
    upgrade_scope: Option<Object<ScopeWritten>>,
    #[serde(deserialize_with = "lenient::optional_text")]
    upgrade_policy: Option<String>,
    #[serde(deserialize_with = "lenient::optional_boolean")]
    enable_upgrade_request: Option<bool>,
    #[serde(deserialize_with = "lenient::optional_integer")]
    upgrade_timeout: Option<i64>,
    retry_policy: Option<Object<RetryWritten>>,
    schedule_policy: Option<Object<SchedulePolicyWritten>>,
    #[serde(deserialize_with = "lenient::optional_integer")]
    start_schedule: Option<i64>,
    #[serde(deserialize_with = "lenient::optional_integer")]
    end_schedule: Option<i64>,
    #[serde(deserialize_with = "lenient::optional_integer")]
    maximum_concurrency: Option<i64>,
    /// The name that all dialects take beside their own.
    #[serde(rename = "maximum_concurrency", deserialize_with = "lenient::optional_integer")]
    maximum_concurrency_common: Option<i64>,
    // Selectors that slipped out of the scope: to ignore one would widen the job.
    device_keys: Option<IgnoredAny>,
    attributes: Option<IgnoredAny>,
    tags: Option<IgnoredAny>,
    asset_trees: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RetryWritten {
    #[serde(deserialize_with = "lenient::boolean")]
    enable_retry: bool,
    #[serde(deserialize_with = "lenient::optional_integer")]
    retry_interval: Option<i64>,
    #[serde(deserialize_with = "lenient::optional_integer")]
    retry_count: Option<i64>,
}

/// A job as it is wanted.
#[derive(Debug)]
pub(super) struct JobWanted {
    pub(super) name: Option<LocalizedText>,
    pub(super) kind: TaskKind,
    pub(super) scope: ScopeWanted,
    /// The devices are fixed when it is created.
    pub(super) snapshot: bool,
    pub(super) policy: Policy,
    pub(super) annotations: Annotations,
}

impl JobWritten {
    pub(super) fn read(self, name_chars_max: usize) -> Result<JobWanted, Failure> {
        let kind = match self.job_type.as_deref().map(str::trim) {
            Some("upgrade") => TaskKind::Upgrade,
            Some("verify") => TaskKind::Verify,
            other => return Err(one_of("type", "upgrade or verify", other)),
        };
        self.refuse_misplaced_selectors()?;
        if let Some(name) = &self.name {
            name.check("name", name_chars_max)?;
        }
        let scope =
            self.upgrade_scope.ok_or_else(|| Failure::invalid("upgradeScope is required; say which devices the job is for"))?;
        let scope = scope.0.read(kind)?;
        let snapshot = match (self.upgrade_policy.as_deref().map(str::trim), kind) {
            // The platform's page says `upgrade` where its example says `snapshot`.
            (Some("snapshot" | "upgrade"), _) => true,
            (Some("incremental" | "increment" | "dynamic"), _) => false,
            // A verification names its devices, so there is nothing to choose.
            (None, TaskKind::Verify) => true,
            (other, _) => return Err(one_of("upgradePolicy", "snapshot or incremental", other)),
        };
        let enable_upgrade_request = match (self.enable_upgrade_request, kind) {
            (Some(enable), _) => enable,
            (None, TaskKind::Verify) => false,
            (None, TaskKind::Upgrade) => {
                return Err(Failure::invalid("enableUpgradeRequest is required; true lets devices ask for the upgrade"));
            }
        };
        let (schedule, mut annotations) =
            schedule(self.schedule_policy.map(|policy| policy.0), self.start_schedule, self.end_schedule)?;
        annotations.insert(annotation::ENABLE_UPGRADE_REQUEST.into(), enable_upgrade_request.to_string().into());
        if let Some(name) = &self.name {
            name.annotate(annotation::NAME, &mut annotations);
        }
        let timeout_s = in_range("upgradeTimeout", "seconds", self.upgrade_timeout, UPGRADE_TIMEOUT_S)?;
        let maximum_concurrency = self.maximum_concurrency.or(self.maximum_concurrency_common);
        let maximum_concurrency = in_range("maximumConcurrency", "devices", maximum_concurrency, MAXIMUM_CONCURRENCY)?;
        let policy = Policy {
            maximum_concurrency: Some(maximum_concurrency.unwrap_or(MAXIMUM_CONCURRENCY_DEFAULT)),
            timeout_s: Some(timeout_s.unwrap_or(UPGRADE_TIMEOUT_S_DEFAULT)),
            timeout_from: match kind {
                // A published upgrade waits for its device however long that is away; a verification doesn't.
                TaskKind::Upgrade => TimeoutFrom::Running,
                TaskKind::Verify => TimeoutFrom::Offer,
            },
            // On this platform a device that informs of the target has succeeded; there is no other report of success.
            version_decides: true,
            retry: self.retry_policy.map(|retry| retry.0.read()).transpose()?.flatten(),
            schedule,
            ..Policy::default()
        };
        Ok(JobWanted { name: self.name, kind, scope, snapshot, policy, annotations })
    }

    fn refuse_misplaced_selectors(&self) -> Result<(), Failure> {
        let misplaced = [
            ("deviceKeys", self.device_keys.is_some()),
            ("attributes", self.attributes.is_some()),
            ("tags", self.tags.is_some()),
            ("assetTrees", self.asset_trees.is_some()),
        ];
        match misplaced.into_iter().find(|(_, is_there)| *is_there) {
            Some((name, _)) => {
                Err(Failure::invalid(format!("{name} stands beside upgradeScope and belongs into it; move it there")))
            }
            None => Ok(()),
        }
    }
}

impl RetryWritten {
    /// None where it isn't enabled: then the other fields don't count.
    fn read(self) -> Result<Option<Retry>, Failure> {
        if !self.enable_retry {
            return Ok(None);
        }
        let required = |field: &str, unit, value, range: RangeInclusive<i64>| {
            in_range(field, unit, value, range.clone())?.ok_or_else(|| {
                let (first, last) = range.into_inner();
                Failure::invalid(format!("{field} is required where enableRetry is true; give {first} to {last} {unit}"))
            })
        };
        Ok(Some(Retry {
            count: required("retryPolicy.retryCount", "retries", self.retry_count, RETRY_COUNT)?,
            interval_s: required("retryPolicy.retryInterval", "seconds", self.retry_interval, RETRY_INTERVAL_S)?,
            ..Retry::default()
        }))
    }
}

fn schedule(
    policy: Option<SchedulePolicyWritten>,
    start: Option<i64>,
    end: Option<i64>,
) -> Result<(Schedule, Annotations), Failure> {
    // Read even where it doesn't count: what is out of its range is refused all the same.
    let daily = DailySchedule::read(start, end)?;
    let mut annotations = Annotations::new();
    if let Some(daily) = daily {
        annotations.insert(annotation::START_SCHEDULE.into(), daily.start.to_string().into());
        annotations.insert(annotation::END_SCHEDULE.into(), daily.end.to_string().into());
    }
    let schedule = match policy.map(SchedulePolicyWritten::read).transpose()? {
        Some(policy) => {
            annotations.insert(annotation::SCHEDULE_POLICY.into(), json(policy));
            policy.schedule()
        }
        None => daily.map(DailySchedule::schedule).unwrap_or_default(),
    };
    Ok((schedule, annotations))
}

fn json(policy: SchedulePolicy) -> Box<str> {
    // Numbers and a boolean: nothing in it can fail.
    serde_json::to_string(&policy).unwrap_or_default().into()
}

fn in_range(field: &str, unit: &str, value: Option<i64>, range: RangeInclusive<i64>) -> Result<Option<u32>, Failure> {
    let Some(value) = value else { return Ok(None) };
    match u32::try_from(value) {
        Ok(fitting) if range.contains(&value) => Ok(Some(fitting)),
        _ => {
            let (first, last) = range.into_inner();
            Err(Failure::invalid(format!("{field} must be from {first} to {last} {unit}, got {value}")))
        }
    }
}

fn one_of(field: &str, expected: &str, got: Option<&str>) -> Failure {
    match got {
        Some(got) => {
            let got: String = got.chars().take(40).collect();
            Failure::invalid(format!("{field} must be {expected}, got {got:?}"))
        }
        None => Failure::invalid(format!("{field} is required; give {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::common::decode::from_json;
    use serde_json::{Value, json};
    use sluicegate::model::{Daily, Selector};

    /// A body with `changes` laid over it; a `null` stays a `null`.
    fn body(changes: Value) -> Value {
        let mut body = json!({
            "type": "upgrade",
            "upgradePolicy": "snapshot",
            "upgradeScope": { "type": "partial", "versionNumbers": ["1.0"], "deviceKeys": ["a"] },
            "enableUpgradeRequest": true,
        });
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        body
    }

    fn read(body: &Value) -> Result<JobWanted, String> {
        let written: JobWritten = from_json(body.to_string().as_bytes())?;
        written.read(32).map_err(|failure| failure.message)
    }

    #[test]
    fn defaults_are_those_of_the_platform() {
        let job = read(&body(json!({ "name": null, "retryPolicy": null, "schedulePolicy": null, "unknown": [] }))).unwrap();
        assert_eq!((job.kind, job.snapshot), (TaskKind::Upgrade, true));
        assert_eq!(job.scope.selector, Selector::Devices(vec!["a".into()]));
        assert_eq!(
            job.policy,
            Policy {
                maximum_concurrency: Some(300),
                timeout_s: Some(7_200),
                timeout_from: TimeoutFrom::Running,
                version_decides: true,
                ..Policy::default()
            }
        );
        assert_eq!(job.annotations.get(annotation::ENABLE_UPGRADE_REQUEST).map(|flag| &**flag), Some("true"));
    }

    #[test]
    fn a_verification_needs_less_and_times_out_from_being_published() {
        let scope = json!({ "type": "partial", "versionNumbers": ["1.0"], "deviceKeys": ["a"] });
        let job = read(&json!({ "type": "verify", "upgradeScope": scope, "upgradeTimeout": 300 })).unwrap();
        assert_eq!((job.kind, job.snapshot), (TaskKind::Verify, true));
        assert_eq!((job.policy.timeout_s, job.policy.timeout_from), (Some(300), TimeoutFrom::Offer));
    }

    #[test]
    fn both_ends_of_each_range_are_taken_also_as_texts() {
        let timeout = |value: Value| read(&body(json!({ "upgradeTimeout": value }))).map(|job| job.policy.timeout_s);
        assert_eq!(timeout(json!(300)), Ok(Some(300)));
        assert_eq!(timeout(json!("172800")), Ok(Some(172_800)));
        assert_eq!(timeout(json!("")), Ok(Some(7_200)));
        for value in [json!(299), json!(172_801), json!(-1), json!("299")] {
            assert!(timeout(value).unwrap_err().contains("upgradeTimeout must be from 300 to 172800 seconds"));
        }
        let cap = |changes: Value| read(&body(changes)).map(|job| job.policy.maximum_concurrency);
        assert_eq!(cap(json!({ "maximumConcurrency": "1" })), Ok(Some(1)));
        assert_eq!(cap(json!({ "maximum_concurrency": 7 })), Ok(Some(7)));
        assert!(cap(json!({ "maximumConcurrency": 0 })).unwrap_err().contains("maximumConcurrency must be from 1 to"));
        let retry = |policy: Value| read(&body(json!({ "retryPolicy": policy }))).map(|job| job.policy.retry);
        let wanted = |count, interval_s| Ok(Some(Retry { count, interval_s, ..Retry::default() }));
        assert_eq!(retry(json!({ "enableRetry": true, "retryInterval": 0, "retryCount": 1 })), wanted(1, 0));
        assert_eq!(retry(json!({ "enableRetry": "true", "retryInterval": "86400", "retryCount": "5" })), wanted(5, 86_400));
        assert_eq!(retry(json!({ "enableRetry": false, "retryInterval": -1, "retryCount": 99 })), Ok(None));
        assert_eq!(retry(json!({})), Ok(None));
        for (policy, message) in [
            (json!({ "enableRetry": true, "retryCount": 1 }), "retryPolicy.retryInterval is required where enableRetry is true"),
            (json!({ "enableRetry": true, "retryInterval": 1 }), "retryPolicy.retryCount is required where enableRetry is true"),
            (json!({ "enableRetry": true, "retryInterval": 1, "retryCount": 0 }), "retryCount must be from 1 to 5 retries, got 0"),
            (json!({ "enableRetry": true, "retryInterval": 1, "retryCount": 6 }), "retryCount must be from 1 to 5 retries, got 6"),
            (
                json!({ "enableRetry": true, "retryInterval": 86_401, "retryCount": 1 }),
                "retryInterval must be from 0 to 86400 seconds",
            ),
            (json!({ "enableRetry": true, "retryInterval": -1, "retryCount": 1 }), "retryInterval must be from 0 to 86400 seconds"),
        ] {
            let got = retry(policy.clone()).unwrap_err();
            assert!(got.contains(message), "{policy}: {got}");
        }
    }

    #[test]
    fn policies_are_read_by_all_their_names() {
        let snapshot = |policy: &str| read(&body(json!({ "upgradePolicy": policy }))).map(|job| job.snapshot);
        for (policy, expected) in
            [("snapshot", true), ("upgrade", true), ("incremental", false), ("increment", false), ("dynamic", false)]
        {
            assert_eq!(snapshot(policy), Ok(expected), "{policy}");
        }
        assert!(snapshot("all").unwrap_err().contains("upgradePolicy must be snapshot or incremental, got \"all\""));
    }

    #[test]
    fn the_schedule_policy_counts_where_both_forms_are_given() {
        let both = json!({
            "startSchedule": 3_600, "endSchedule": "7200",
            "schedulePolicy": { "startTimestamp": 1_591_833_600_000_i64, "endTimestamp": 1_591_837_200_000_i64 },
        });
        let job = read(&body(both)).unwrap();
        assert!(job.policy.schedule.daily.is_none() && job.policy.schedule.end.is_some());
        assert!(job.annotations.contains_key(annotation::SCHEDULE_POLICY));
        let older = read(&body(json!({ "startSchedule": 3_600, "endSchedule": "7200" }))).unwrap();
        assert_eq!(older.policy.schedule.daily, Some(Daily { from_s: 3_600, to_s: 7_200 }));
        assert_eq!(older.annotations.get(annotation::END_SCHEDULE).map(|end| &**end), Some("7200"));
    }

    #[test]
    fn what_is_missing_or_malformed_is_refused_with_its_name() {
        for (changes, message) in [
            (json!({ "type": null }), "type is required; give upgrade or verify"),
            (json!({ "type": "install" }), "type must be upgrade or verify, got \"install\""),
            (json!({ "upgradeScope": null }), "upgradeScope is required"),
            (json!({ "upgradeScope": "total" }), "field upgradeScope: expected"),
            (json!({ "upgradeScope": ["total", ["1.0"]] }), "field upgradeScope: expected an object"),
            (json!({ "retryPolicy": [] }), "field retryPolicy: expected an object"),
            (json!({ "schedulePolicy": [] }), "field schedulePolicy: expected an object"),
            (json!({ "upgradePolicy": null }), "upgradePolicy is required; give snapshot or incremental"),
            (json!({ "enableUpgradeRequest": null }), "enableUpgradeRequest is required"),
            (json!({ "enableUpgradeRequest": "perhaps" }), "field enableUpgradeRequest: expected true or false"),
            (json!({ "upgradeTimeout": "soon" }), "field upgradeTimeout: expected an integer"),
            (json!({ "upgradeTimeout": [300] }), "field upgradeTimeout: expected an integer"),
            (json!({ "name": { "i18nValue": {} } }), "name.defaultValue is missing"),
            (json!({ "name": "n".repeat(33) }), "name may have 32 characters at most"),
            (json!({ "deviceKeys": ["b"] }), "deviceKeys stands beside upgradeScope"),
            (json!({ "startSchedule": 86_400 }), "startSchedule must be a second of the day"),
        ] {
            let got = read(&body(changes.clone())).unwrap_err();
            assert!(got.contains(message), "{changes}: {got}");
        }
    }
}
