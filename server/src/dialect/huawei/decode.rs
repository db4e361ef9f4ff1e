//! The body of an upgrade task → what is wanted, checked in the platform's order: what is wrong with the body alone comes before
//! everything for which one has to look what is there.
//!
//! Lenient in: an explicit `null`, an empty list and an absent field are the same; numbers and booleans may be texts; unknown fields are
//! ignored. What is in a field that doesn't count (times without `custom`, `retryTimes` without `retryType`) is not looked at.

use super::status::{Code, Failure};
use super::time;
use crate::dialect::common::decode::from_json;
use crate::dialect::common::lenient;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use sluicegate::model::Timestamp;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

const TARGETS_MAX: usize = 256;
const TEXT_CHARS_MAX: usize = 256;
/// An end that is not later than this after the start is too early.
const WINDOW_S_MIN: u64 = 300;
const RETRY_TIMES_MAX: u32 = 5;
/// What a policy that names no execution type is. The platform's page calls the field mandatory and names a default all the same; it
/// can be both only if the default is that of a task without a policy.
const EXECUTE_TYPE_WITHOUT_POLICY: ExecuteType = ExecuteType::Now;

/// An upgrade task as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TaskWanted {
    pub(super) file_id: String,
    pub(super) targets: Targets,
    pub(super) execute_type: ExecuteType,
    /// With `custom` alone.
    pub(super) window: Option<Window>,
    pub(super) retry_times: Option<u32>,
    /// Not the platform's: how many devices may upgrade at once.
    pub(super) maximum_concurrency: Option<u32>,
}

/// Each named once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Targets {
    Devices(Vec<String>),
    Groups { groups: Vec<String>, make: Make },
}

/// What devices are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Make {
    pub(super) device_type: String,
    pub(super) model: String,
    pub(super) manufacturer: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExecuteType {
    Now,
    /// When the device next connects. Devices that fetch their upgrade by asking connect when they ask.
    DeviceOnline,
    /// Within a window.
    Custom,
}

impl ExecuteType {
    const ALL: [Self; 3] = [Self::Now, Self::DeviceOnline, Self::Custom];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::DeviceOnline => "device_online",
            Self::Custom => "custom",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TaskWritten {
    #[serde(deserialize_with = "lenient::optional_text")]
    file_id: Option<String>,
    #[serde(deserialize_with = "optional_object")]
    targets: Option<TargetsWritten>,
    #[serde(deserialize_with = "optional_object")]
    policy: Option<PolicyWritten>,
    #[serde(rename = "maximum_concurrency", deserialize_with = "lenient::optional_integer")]
    maximum_concurrency: Option<u32>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TargetsWritten {
    device_groups: Option<Vec<Text>>,
    #[serde(deserialize_with = "lenient::optional_text")]
    device_type: Option<String>,
    #[serde(deserialize_with = "lenient::optional_text")]
    model: Option<String>,
    #[serde(deserialize_with = "lenient::optional_text")]
    manufacturer_name: Option<String>,
    devices: Option<Vec<Text>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PolicyWritten {
    #[serde(deserialize_with = "lenient::optional_text")]
    execute_type: Option<String>,
    // Read only where they count.
    start_time: Value,
    end_time: Value,
    #[serde(deserialize_with = "lenient::boolean")]
    retry_type: bool,
    retry_times: Value,
}

/// A text in a list; a number is its own text.
#[derive(Debug)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient::text(deserializer).map(Self)
    }
}

/// An object or `null`. A derived reader alone would take an array for a row of fields.
fn optional_object<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    struct ObjectVisitor<T>(PhantomData<T>);

    impl<'de, T: DeserializeOwned> Visitor<'de> for ObjectVisitor<T> {
        type Value = Option<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }

    deserializer.deserialize_any(ObjectVisitor(PhantomData))
}

/// Reads the body. `now`: what no window may begin before, to the second.
pub(super) fn task(body: &[u8], now: Timestamp) -> Result<TaskWanted, Failure> {
    let written: TaskWritten = from_json(body).map_err(Failure::bad_request)?;
    let file_id = filled(written.file_id).ok_or_else(|| Failure::bad_request("fileId is required, and is missing or empty"))?;
    check_text("fileId", &file_id)?;
    if written.maximum_concurrency == Some(0) {
        return Err(Failure::bad_request("maximum_concurrency must be 1 or more; leave it out for no cap"));
    }
    let targets = written.targets.unwrap_or_default();
    targets.check_texts()?;
    let policy = written.policy.map(PolicyWritten::check_types).transpose()?;
    let targets = targets.read()?;
    let (execute_type, window, retry_times) = match policy {
        Some(policy) => policy.read(now)?,
        None => (EXECUTE_TYPE_WITHOUT_POLICY, None, None),
    };
    Ok(TaskWanted { file_id, targets, execute_type, window, retry_times, maximum_concurrency: written.maximum_concurrency })
}

/// An empty text is as good as none.
fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

fn check_text(field: &str, text: &str) -> Result<(), Failure> {
    if text.chars().count() > TEXT_CHARS_MAX {
        return Err(Failure::bad_request(format!("{field} may have {TEXT_CHARS_MAX} characters at most")));
    }
    Ok(())
}

impl TargetsWritten {
    /// What makes the request malformed whatever else it says.
    fn check_texts(&self) -> Result<(), Failure> {
        for (field, list) in [("deviceGroups", &self.device_groups), ("devices", &self.devices)] {
            for Text(text) in list.iter().flatten() {
                check_text(field, text)?;
                if text.trim().is_empty() {
                    return Err(Failure::bad_request(format!("{field} has an entry that is empty; take it out")));
                }
            }
        }
        let words = [("deviceType", &self.device_type), ("model", &self.model), ("manufacturerName", &self.manufacturer_name)];
        words
            .into_iter()
            .filter_map(|(field, word)| Some((field, word.as_deref()?)))
            .try_for_each(|(field, word)| check_text(field, word))
    }

    fn read(self) -> Result<Targets, Failure> {
        let distinct = |list: Option<Vec<Text>>| {
            let mut seen = HashSet::new();
            let texts = list.into_iter().flatten().map(|Text(text)| text);
            texts.filter(|text| seen.insert(text.clone())).collect::<Vec<String>>()
        };
        let (groups, devices) = (distinct(self.device_groups), distinct(self.devices));
        let refuse = |code, detail: &str| Err(Failure::new(code, detail));
        match (groups.len(), devices.len()) {
            (0, 0) => refuse(Code::TargetsMissing, "targets names neither deviceGroups nor devices; name one of them"),
            (1.., 1..) => refuse(Code::TargetsBoth, "targets names deviceGroups and devices; name one of them"),
            (groups, devices) if groups.max(devices) > TARGETS_MAX => {
                let (field, count) = if groups > 0 { ("deviceGroups", groups) } else { ("devices", devices) };
                Err(Failure::new(Code::TargetsTooMany, format!("{field} names {count}, at most {TARGETS_MAX} are allowed")))
            }
            (0, _) => Ok(Targets::Devices(devices)),
            _ => {
                let missing = |code, field: &str| Failure::new(code, format!("{field} is required beside deviceGroups"));
                let manufacturer = filled(self.manufacturer_name);
                let manufacturer = manufacturer.ok_or_else(|| missing(Code::ManufacturerMissing, "manufacturerName"))?;
                let device_type = filled(self.device_type).ok_or_else(|| missing(Code::DeviceTypeMissing, "deviceType"))?;
                let model = filled(self.model).ok_or_else(|| missing(Code::ModelMissing, "model"))?;
                Ok(Targets::Groups { groups, make: Make { device_type, model, manufacturer } })
            }
        }
    }
}

impl PolicyWritten {
    /// What is of the wrong type, where it counts.
    fn check_types(self) -> Result<Self, Failure> {
        if self.retry_type && integer(&self.retry_times).is_err() {
            return Err(Failure::bad_request(format!("policy.retryTimes must be a whole number, got {}", self.retry_times)));
        }
        Ok(self)
    }

    fn read(self, now: Timestamp) -> Result<(ExecuteType, Option<Window>, Option<u32>), Failure> {
        let name = self.execute_type.as_deref().map(str::trim).unwrap_or_default();
        let execute_type = ExecuteType::ALL.into_iter().find(|execute_type| execute_type.name() == name).ok_or_else(|| {
            let got: String = name.chars().take(40).collect();
            Failure::new(Code::ExecuteTypeWrong, format!("policy.executeType must be now, device_online or custom, got {got:?}"))
        })?;
        let window = match execute_type {
            ExecuteType::Custom => Some(window(&self.start_time, &self.end_time, now)?),
            ExecuteType::Now | ExecuteType::DeviceOnline => None,
        };
        let retry_times = match self.retry_type {
            true => Some(retry_times(&self.retry_times)?),
            false => None,
        };
        Ok((execute_type, window, retry_times))
    }
}

fn window(start: &Value, end: &Value, now: Timestamp) -> Result<Window, Failure> {
    let read = |field: &str, value: &Value| {
        value.as_str().map(str::trim).and_then(time::parse).ok_or_else(|| {
            let got: String = value.to_string().chars().take(40).collect();
            Failure::new(Code::TimesWrong, format!("policy.{field} must be a time as in 20151212T121212Z, got {got}"))
        })
    };
    let (start, end) = (read("startTime", start)?, read("endTime", end)?);
    if start < Timestamp::from_seconds(now.as_seconds()) {
        return Err(Failure::new(Code::StartInPast, format!("policy.startTime has passed; it is {}", time::Time(now).text())));
    }
    if start > end {
        return Err(Failure::new(Code::StartAfterEnd, "policy.endTime is before policy.startTime; give a later one"));
    }
    if start.seconds_until(end) <= WINDOW_S_MIN {
        let got = start.seconds_until(end);
        let detail = format!("policy.endTime must be more than {WINDOW_S_MIN} s after policy.startTime, got {got} s");
        return Err(Failure::new(Code::WindowTooShort, detail));
    }
    Ok(Window { start, end })
}

fn retry_times(value: &Value) -> Result<u32, Failure> {
    let times = integer(value).ok().flatten().and_then(|times| u32::try_from(times).ok());
    times.filter(|times| (1..=RETRY_TIMES_MAX).contains(times)).ok_or_else(|| {
        let detail = format!("policy.retryTimes must be from 1 to {RETRY_TIMES_MAX} where retryType is true, got {value}");
        Failure::new(Code::RetryTimesWrong, detail)
    })
}

/// A whole number, or none; whatever its size.
fn integer(value: &Value) -> Result<Option<i128>, serde_json::Error> {
    lenient::optional_integer(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_449_922_332_999);
    const NOW_TEXT: &str = "20151212T121212Z";

    fn body(changes: Value) -> Value {
        let mut body = json!({ "fileId": "f", "targets": { "devices": ["d1"] } });
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        body
    }

    fn read(changes: Value) -> Result<TaskWanted, Code> {
        task(body(changes).to_string().as_bytes(), NOW).map_err(|failure| failure.code)
    }

    fn groups(changes: Value) -> Value {
        let mut targets = json!({ "deviceGroups": ["g"], "deviceType": "t", "model": "m", "manufacturerName": "n" });
        targets.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json!({ "targets": targets })
    }

    fn custom(start: &str, end: &str) -> Value {
        json!({ "policy": { "executeType": "custom", "startTime": start, "endTime": end } })
    }

    #[test]
    fn a_task_without_a_policy_is_due_now_and_so_is_one_with_a_policy_of_null() {
        for changes in [json!({}), json!({ "policy": null })] {
            let wanted = read(changes).unwrap();
            assert_eq!(wanted.targets, Targets::Devices(vec!["d1".into()]));
            assert_eq!((wanted.execute_type, wanted.window, wanted.retry_times), (ExecuteType::Now, None, None));
        }
    }

    #[test]
    fn what_the_python_sdk_sends_is_read() {
        let nulls = json!({
            "targets": { "deviceGroups": null, "deviceType": null, "model": null, "manufacturerName": null, "devices": ["d1"] },
            "policy": { "executeType": "now", "startTime": null, "endTime": null, "retryType": null, "retryTimes": null },
        });
        assert_eq!(read(nulls).unwrap(), read(json!({})).unwrap());
        assert_eq!(read(json!({ "targets": { "null": ["sss"] } })), Err(Code::TargetsMissing));
    }

    #[test]
    fn every_code_of_the_body_has_its_reason() {
        let many: Vec<String> = (0..257).map(|number| number.to_string()).collect();
        for (changes, code) in [
            (json!({ "fileId": null }), Code::BadRequest),
            (json!({ "fileId": " " }), Code::BadRequest),
            (json!({ "fileId": "f".repeat(257) }), Code::BadRequest),
            (json!({ "fileId": ["f"] }), Code::BadRequest),
            (json!({ "targets": [] }), Code::BadRequest),
            (json!({ "targets": { "devices": "d1" } }), Code::BadRequest),
            (json!({ "targets": { "devices": ["d1", ""] } }), Code::BadRequest),
            (json!({ "targets": { "devices": [null] } }), Code::BadRequest),
            (json!({ "policy": ["now"] }), Code::BadRequest),
            (json!({ "policy": "now" }), Code::BadRequest),
            (json!({ "policy": { "executeType": "now", "retryType": "perhaps" } }), Code::BadRequest),
            (json!({ "policy": { "executeType": "now", "retryType": true, "retryTimes": "often" } }), Code::BadRequest),
            (json!({ "maximum_concurrency": 0 }), Code::BadRequest),
            (json!({ "targets": null }), Code::TargetsMissing),
            (json!({ "targets": {} }), Code::TargetsMissing),
            (json!({ "targets": { "devices": [], "deviceGroups": [] } }), Code::TargetsMissing),
            (json!({ "targets": { "devices": ["d1"], "deviceGroups": ["g"] } }), Code::TargetsBoth),
            (json!({ "targets": { "devices": many } }), Code::TargetsTooMany),
            (groups(json!({ "deviceGroups": many })), Code::TargetsTooMany),
            (groups(json!({ "manufacturerName": "" })), Code::ManufacturerMissing),
            (groups(json!({ "deviceType": null })), Code::DeviceTypeMissing),
            (groups(json!({ "model": null })), Code::ModelMissing),
            (json!({ "policy": {} }), Code::ExecuteTypeWrong),
            (json!({ "policy": { "executeType": null } }), Code::ExecuteTypeWrong),
            (json!({ "policy": { "executeType": "" } }), Code::ExecuteTypeWrong),
            (json!({ "policy": { "executeType": "later" } }), Code::ExecuteTypeWrong),
            (json!({ "policy": { "executeType": "custom" } }), Code::TimesWrong),
            (custom("20151213T121212Z", "2015-12-14"), Code::TimesWrong),
            (custom("20151212T121211Z", "20151213T121212Z"), Code::StartInPast),
            (custom("20151214T121212Z", "20151213T121212Z"), Code::StartAfterEnd),
            (custom("20151213T121212Z", "20151213T121212Z"), Code::WindowTooShort),
            (custom("20151213T121212Z", "20151213T121712Z"), Code::WindowTooShort),
            (json!({ "policy": { "executeType": "now", "retryType": true } }), Code::RetryTimesWrong),
            (json!({ "policy": { "executeType": "now", "retryType": true, "retryTimes": 0 } }), Code::RetryTimesWrong),
            (json!({ "policy": { "executeType": "now", "retryType": true, "retryTimes": 6 } }), Code::RetryTimesWrong),
            (json!({ "policy": { "executeType": "now", "retryType": true, "retryTimes": -1 } }), Code::RetryTimesWrong),
        ] {
            assert_eq!(read(changes.clone()), Err(code), "{changes}");
        }
        for text in ["", "[]", "null", "7", "{", "[{}]"] {
            assert_eq!(task(text.as_bytes(), NOW).unwrap_err().code, Code::BadRequest, "{text:?}");
        }
    }

    #[test]
    fn the_first_fault_in_the_platform_s_order_is_told() {
        // Each line mends the fault of the one before.
        let mut body = json!({
            "fileId": 7, "targets": { "devices": [" "] }, "policy": { "executeType": "?", "startTime": "?", "retryType": true },
        });
        let mut told = |change: fn(&mut Value)| {
            change(&mut body);
            task(body.to_string().as_bytes(), NOW).map_err(|failure| failure.code)
        };
        assert_eq!(told(|_| ()), Err(Code::BadRequest));
        assert_eq!(told(|body| body["targets"]["devices"] = json!([])), Err(Code::TargetsMissing));
        assert_eq!(
            told(|body| body["targets"] = json!({ "devices": vec!["d"; 300], "deviceGroups": ["g"] })),
            Err(Code::TargetsBoth)
        );
        let many = |body: &mut Value| {
            let groups: Vec<u32> = (0..300).collect();
            body["targets"] = json!({ "deviceGroups": groups });
        };
        assert_eq!(told(many), Err(Code::TargetsTooMany));
        assert_eq!(told(|body| body["targets"]["deviceGroups"] = json!(["g"])), Err(Code::ManufacturerMissing));
        assert_eq!(told(|body| body["targets"]["manufacturerName"] = json!("n")), Err(Code::DeviceTypeMissing));
        assert_eq!(told(|body| body["targets"]["deviceType"] = json!("t")), Err(Code::ModelMissing));
        assert_eq!(told(|body| body["targets"]["model"] = json!("m")), Err(Code::ExecuteTypeWrong));
        assert_eq!(told(|body| body["policy"]["executeType"] = json!("custom")), Err(Code::TimesWrong));
        assert_eq!(told(|body| body["policy"]["startTime"] = json!("20151101T000000Z")), Err(Code::TimesWrong));
        assert_eq!(told(|body| body["policy"]["endTime"] = json!("20151001T000000Z")), Err(Code::StartInPast));
        assert_eq!(told(|body| body["policy"]["startTime"] = json!("20160101T000000Z")), Err(Code::StartAfterEnd));
        assert_eq!(told(|body| body["policy"]["endTime"] = json!("20160101T000500Z")), Err(Code::WindowTooShort));
        assert_eq!(told(|body| body["policy"]["endTime"] = json!("20160101T000501Z")), Err(Code::RetryTimesWrong));
        assert!(told(|body| body["policy"]["retryTimes"] = json!(5)).is_ok());
    }

    #[test]
    fn a_window_may_begin_in_this_very_second() {
        let wanted = read(custom(NOW_TEXT, "20151212T121713Z")).unwrap();
        let window = wanted.window.unwrap();
        assert_eq!(window.start, Timestamp::from_seconds(NOW.as_seconds()));
        assert_eq!(window.start.seconds_until(window.end), 301);
    }

    #[test]
    fn what_does_not_count_is_not_looked_at() {
        let policy =
            json!({ "executeType": "device_online", "startTime": 7, "endTime": "?", "retryType": "false", "retryTimes": "x" });
        let wanted = read(json!({ "policy": policy, "unknown": [] })).unwrap();
        assert_eq!((wanted.execute_type, wanted.window, wanted.retry_times), (ExecuteType::DeviceOnline, None, None));
    }

    #[test]
    fn texts_are_as_good_as_numbers_and_booleans() {
        let policy = json!({ "executeType": "now", "retryType": "true", "retryTimes": "3" });
        let wanted = read(json!({ "policy": policy, "targets": { "devices": [7, "8"] }, "maximum_concurrency": "2" })).unwrap();
        assert_eq!(wanted.retry_times, Some(3));
        assert_eq!(wanted.targets, Targets::Devices(vec!["7".into(), "8".into()]));
        assert_eq!(wanted.maximum_concurrency, Some(2));
    }

    #[test]
    fn the_bound_is_on_distinct_targets() {
        let devices: Vec<String> = (0..512).map(|number| (number % 256).to_string()).collect();
        let Targets::Devices(distinct) = read(json!({ "targets": { "devices": devices } })).unwrap().targets else { panic!() };
        assert_eq!((distinct.len(), distinct[255].as_str()), (256, "255"));
    }
}
