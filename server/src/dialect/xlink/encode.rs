//! Engine → wire.
//!
//! Strict out, for parsers of a few hundred bytes that look for `"target_version":` and read a bare number after it:
//!   - numbers are numbers; no `null`, `true` or `false` in a task; slashes are not escaped; no blank between tokens;
//!   - a task with a name of 32 and a description of 48 ASCII characters stays below 1,024 bytes.

use super::file;
use serde::{Serialize, Serializer};
use sluicegate::model::{Component, Firmware, Task, TaskMode, TaskStatus, Timestamp};
use std::collections::BTreeMap;
use std::fmt::Display;

pub(super) const FROM_URL: &str = "from_version_url";
pub(super) const FROM_MD5: &str = "from_version_md5";
pub(super) const FROM_SIZE: &str = "from_version_size";
pub(super) const RELEASE_DATE: &str = "release_date";
pub(super) const IS_RELEASE: &str = "is_release";

const NOT_STARTED: u8 = 0;
const STARTED: u8 = 1;

/// A task as its creator, a list and a check show it, in the order of the platform's page.
#[derive(Debug, Serialize)]
pub(super) struct TaskShown<'a> {
    #[serde(serialize_with = "shown")]
    id: sluicegate::model::TaskId,
    product_id: &'a str,
    name: &'a str,
    description: &'a str,
    from_version: VersionShown<'a>,
    from_version_url: &'a str,
    from_version_md5: &'a str,
    from_version_size: u64,
    target_version: VersionShown<'a>,
    target_version_url: &'a str,
    target_version_md5: &'a str,
    target_version_size: u64,
    upgrade_count: u64,
    status: u8,
    #[serde(rename = "type")]
    component_type: u16,
    identify: u32,
    /// Devices still at the from-version; for wifi only, and only in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    surplus_count: Option<u64>,
    task_type: u8,
}

impl<'a> TaskShown<'a> {
    /// As its creator and the lists see it: files as they were named.
    pub(super) fn new(task: &'a Task, product_id: &'a str, upgrade_count: u64) -> Self {
        let annotation = |key: &str| task.annotations.get(key).map_or("", |value| value);
        Self {
            id: task.id,
            product_id,
            name: task.name.as_deref().unwrap_or_default(),
            description: task.description.as_deref().unwrap_or_default(),
            from_version: VersionShown(task.from_versions.first().map_or("", |version| version)),
            from_version_url: annotation(FROM_URL),
            from_version_md5: annotation(FROM_MD5),
            from_version_size: annotation(FROM_SIZE).parse().unwrap_or(0),
            target_version: VersionShown(&task.target_version),
            target_version_url: file::url_as_named(&task.artifact),
            target_version_md5: &task.artifact.md5,
            target_version_size: task.artifact.size,
            upgrade_count,
            // A paused task is started; it only begins nothing new for the moment.
            status: if task.status == TaskStatus::Stopped { NOT_STARTED } else { STARTED },
            component_type: task.component.component_type,
            identify: task.component.identify,
            surplus_count: None,
            task_type: match task.mode {
                TaskMode::Automatic => 0,
                TaskMode::Manual => 1,
            },
        }
    }

    pub(super) fn with_surplus(mut self, devices_at_start: u64) -> Self {
        self.surplus_count = (self.component_type == Component::MAIN.component_type).then_some(devices_at_start);
        self
    }

    /// As an offer shows it: from the device's own version, with the link that it may fetch.
    pub(super) fn offered(mut self, from_version: &'a str, url: Option<&'a str>) -> Self {
        self.from_version = VersionShown(from_version);
        self.target_version_url = url.unwrap_or(self.target_version_url);
        self
    }
}

/// A version as a bare number. One that is not a number can only come from a task made in another way; it goes out as text, which no
/// device of this platform takes for a version.
#[derive(Clone, Copy, Debug)]
pub(super) struct VersionShown<'a>(pub(super) &'a str);

impl Serialize for VersionShown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        number_if_plain(&self.0, serializer)
    }
}

/// A bare number where the text is one that this platform would write, below 2³¹ and without leading zeros; else the text.
pub(super) fn number_if_plain<S: Serializer>(text: &&str, serializer: S) -> Result<S::Ok, S::Error> {
    let is_plain = *text == "0" || !text.starts_with('0') && text.bytes().all(|digit| digit.is_ascii_digit());
    match text.parse::<i32>() {
        Ok(number) if is_plain => serializer.serialize_i32(number),
        _ => serializer.serialize_str(text),
    }
}

/// A list with how many there are in all.
#[derive(Debug, Serialize)]
pub(super) struct Counted<T> {
    pub(super) count: usize,
    pub(super) list: Vec<T>,
}

#[derive(Debug, Serialize)]
pub(super) struct FirmwareShown<'a> {
    #[serde(serialize_with = "shown")]
    id: sluicegate::model::FirmwareId,
    product_id: &'a str,
    #[serde(rename = "mod")]
    model: &'a str,
    version: VersionShown<'a>,
    file_url: &'a str,
    file_md5: &'a str,
    file_size: u64,
    description: &'a str,
    release_date: String,
    create_date: String,
    is_release: bool,
    #[serde(rename = "type")]
    component_type: u16,
    identify: u32,
}

impl<'a> FirmwareShown<'a> {
    pub(super) fn new(firmware: &'a Firmware, product_id: &'a str) -> Self {
        let created = date(firmware.created_at);
        Self {
            id: firmware.id,
            product_id,
            model: firmware.model.as_deref().unwrap_or_default(),
            version: VersionShown(&firmware.version),
            file_url: file::url_as_named(&firmware.artifact),
            file_md5: &firmware.artifact.md5,
            file_size: firmware.artifact.size,
            description: firmware.description.as_deref().unwrap_or_default(),
            release_date: firmware.annotations.get(RELEASE_DATE).map_or_else(|| created.clone(), |date| date.to_string()),
            create_date: created,
            is_release: firmware.annotations.get(IS_RELEASE).is_some_and(|flag| &**flag == "true"),
            component_type: firmware.component.component_type,
            identify: firmware.component.identify,
        }
    }
}

/// How many devices run each version.
pub(super) fn statistics<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> BTreeMap<&'a str, u64> {
    counts.into_iter().collect()
}

/// What a device runs, and where it could go.
#[derive(Debug, Serialize)]
pub(super) struct NewestShown<'a> {
    pub(super) current: VersionShown<'a>,
    pub(super) newest: VersionShown<'a>,
    pub(super) description: &'a str,
}

/// A date as this platform writes it: `2015-10-09T08:15:40.843Z`.
pub(super) fn date(at: Timestamp) -> String {
    let at = i64::try_from(at.as_millis()).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn shown<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
