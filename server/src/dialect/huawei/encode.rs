//! Operations, their devices, and packages as the platform shows them, whichever way they came. What isn't there is `null`.

use super::decode::{ExecuteType, Make, Targets, TaskWanted};
use super::standing::{Standing, SubStatus};
use super::time::Time;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluicegate::TaskInfo;
use sluicegate::model::{Device, DeviceNumber, FileType, Firmware, Selector, Task, Timestamp, Upgrade, UpgradeState};
use std::collections::BTreeMap;

pub(super) type Annotations = BTreeMap<Box<str>, Box<str>>;

/// What of an operation or a package the engine doesn't model.
mod annotation {
    pub(super) const EXECUTE_TYPE: &str = "huawei_execute_type";
    /// [`GroupsKept`](super::GroupsKept) as JSON.
    pub(super) const GROUPS: &str = "huawei_groups";
    pub(super) const PROTOCOL_TYPE: &str = "huawei_protocol_type";
}

/// More are never named by this platform's own tasks; others may have a hundred thousand.
const TARGETS_SHOWN_MAX: usize = 256;

/// The groups of a task as they were named.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct GroupsKept {
    device_groups: Vec<String>,
    device_type: String,
    model: String,
    manufacturer_name: String,
}

/// What is kept of a task that was asked for.
pub(super) fn annotations(wanted: &TaskWanted) -> Annotations {
    let mut annotations = Annotations::from([(annotation::EXECUTE_TYPE.into(), wanted.execute_type.name().into())]);
    if let Targets::Groups { groups, make: Make { device_type, model, manufacturer } } = &wanted.targets {
        let kept = json!({ "deviceGroups": groups, "deviceType": device_type, "model": model, "manufacturerName": manufacturer });
        annotations.insert(annotation::GROUPS.into(), kept.to_string().into());
    }
    annotations
}

pub(super) fn package_annotations(protocol_type: Option<&str>) -> Annotations {
    protocol_type.map(|protocol_type| (annotation::PROTOCOL_TYPE.into(), protocol_type.into())).into_iter().collect()
}

pub(super) const fn operate_type(file_type: FileType) -> &'static str {
    match file_type {
        FileType::SoftwarePackage => "software_upgrade",
        FileType::FirmwarePackage => "firmware_upgrade",
    }
}

pub(super) const fn file_type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::SoftwarePackage => "softwarePackage",
        FileType::FirmwarePackage => "firmwarePackage",
    }
}

/// A package, or none where another platform's task names a file alone.
pub(super) fn file_type_of(firmware: Option<&Firmware>) -> FileType {
    firmware.map_or(FileType::default(), |firmware| firmware.file_type)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OperationShown {
    operation_id: String,
    create_time: Time,
    start_time: Option<Time>,
    stop_time: Option<Time>,
    operate_type: &'static str,
    targets: TargetsShown,
    policy: PolicyShown,
    status: &'static str,
    sta_result: StaResult,
    extend_para: ExtendPara,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TargetsShown {
    device_groups: Option<Vec<String>>,
    device_type: Option<String>,
    model: Option<String>,
    manufacturer_name: Option<String>,
    devices: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyShown {
    execute_type: &'static str,
    start_time: Option<Time>,
    end_time: Option<Time>,
    retry_type: bool,
    retry_times: Option<u32>,
}

/// Each device once: the numbers add up to `total`.
#[derive(Debug, Serialize)]
struct StaResult {
    total: u64,
    wait: u64,
    processing: u64,
    success: u64,
    fail: u64,
    stop: u64,
    timeout: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExtendPara {
    file_id: Option<String>,
    file_version: String,
}

impl OperationShown {
    pub(super) fn new(
        info: &TaskInfo,
        firmware: Option<&Firmware>,
        standing: &Standing,
        first_offered_at: Option<Timestamp>,
    ) -> Self {
        let task = &*info.row;
        let stopped_at = if standing.is_stopped { Some(task.changed_at) } else { None };
        Self {
            operation_id: task.id.to_string(),
            create_time: Time(task.created_at),
            start_time: first_offered_at.map(Time),
            stop_time: task.finished_at.or(stopped_at).map(Time),
            operate_type: operate_type(file_type_of(firmware)),
            targets: TargetsShown::new(task, firmware),
            policy: PolicyShown::new(task),
            status: standing.status().name(),
            sta_result: StaResult {
                total: standing.all.len(),
                wait: standing.wait.len(),
                processing: standing.processing.len(),
                success: standing.success.len(),
                fail: standing.fail.len(),
                stop: standing.stop.len(),
                timeout: standing.timeout.len(),
            },
            extend_para: ExtendPara {
                file_id: firmware.map(|firmware| firmware.id.to_string()),
                file_version: task.target_version.to_string(),
            },
        }
    }
}

impl TargetsShown {
    fn new(task: &Task, firmware: Option<&Firmware>) -> Self {
        let kept = task.annotations.get(annotation::GROUPS).and_then(|text| serde_json::from_str::<GroupsKept>(text).ok());
        if let Some(kept) = kept {
            return Self {
                device_groups: Some(kept.device_groups),
                device_type: Some(kept.device_type),
                model: Some(kept.model),
                manufacturer_name: Some(kept.manufacturer_name),
                devices: None,
            };
        }
        let texts = |texts: &[Box<str>]| Some(texts.iter().take(TARGETS_SHOWN_MAX).map(ToString::to_string).collect());
        let (device_groups, devices) = match &task.scope.selector {
            Selector::Groups(groups) => (texts(groups), None),
            Selector::Devices(devices) => (None, texts(devices)),
            _ => (None, None),
        };
        let of_package = |word: fn(&Firmware) -> Option<String>| firmware.and_then(word);
        Self {
            device_groups,
            device_type: of_package(|firmware| firmware.device_type.as_deref().map(str::to_owned)),
            model: of_package(|firmware| firmware.model.as_deref().map(str::to_owned)),
            manufacturer_name: of_package(|firmware| firmware.manufacturer.as_deref().map(str::to_owned)),
            devices,
        }
    }
}

impl PolicyShown {
    fn new(task: &Task) -> Self {
        let schedule = &task.policy.schedule;
        let kept = task.annotations.get(annotation::EXECUTE_TYPE).map(|name| &**name);
        let execute_type = match kept {
            Some(name) if name == ExecuteType::DeviceOnline.name() => ExecuteType::DeviceOnline,
            _ if schedule.start.is_some() || schedule.end.is_some() => ExecuteType::Custom,
            _ => ExecuteType::Now,
        };
        let retries = task.policy.retry.as_ref().map(|retry| retry.count).filter(|count| *count > 0);
        Self {
            execute_type: execute_type.name(),
            start_time: schedule.start.map(Time),
            end_time: schedule.end.map(Time),
            retry_type: retries.is_some(),
            retry_times: retries,
        }
    }
}

/// The same through all attempts, and there before the first.
pub(super) fn sub_operation_id(task: &Task, device: DeviceNumber) -> String {
    format!("{:08x}{:08x}{:08x}", task.id.created_s, task.number.0, device.0)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SubOperationShown {
    sub_operation_id: String,
    create_time: Time,
    start_time: Option<Time>,
    stop_time: Option<Time>,
    operate_type: &'static str,
    device_id: String,
    status: &'static str,
    detail_info: Option<String>,
    extend_info: Value,
}

impl SubOperationShown {
    /// `upgrade`: absent before the first offer.
    pub(super) fn new(task: &Task, file_type: FileType, device: &Device, status: SubStatus, upgrade: Option<&Upgrade>) -> Self {
        let from_version = upgrade.map(|upgrade| &upgrade.from_version).or_else(|| device.version(task.component));
        let is_over = upgrade.is_some_and(|upgrade| upgrade.state.is_finished());
        Self {
            sub_operation_id: sub_operation_id(task, device.number),
            create_time: Time(task.created_at),
            start_time: upgrade.and_then(|upgrade| upgrade.offered_at).map(Time),
            stop_time: upgrade.filter(|_| is_over).map(|upgrade| Time(upgrade.updated_at)),
            operate_type: operate_type(file_type),
            device_id: device.id.to_string(),
            status: status.name(),
            detail_info: detail(status, upgrade),
            extend_info: json!({
                "fromVersion": from_version,
                "targetVersion": task.target_version,
                "state": upgrade.map_or(UpgradeState::Waiting, |upgrade| upgrade.state).name(),
                "percent": upgrade.map_or(0, |upgrade| upgrade.percent),
                "attempts": upgrade.map_or(0, |upgrade| upgrade.attempts),
            }),
        }
    }
}

/// What the device or the engine said last; where neither said anything, what the status alone doesn't tell.
fn detail(status: SubStatus, upgrade: Option<&Upgrade>) -> Option<String> {
    let said = upgrade.and_then(|upgrade| upgrade.detail.as_deref()).filter(|detail| !detail.is_empty());
    let told = match (status, upgrade.map(|upgrade| upgrade.state)) {
        (SubStatus::Wait | SubStatus::Success, _) => None,
        (SubStatus::Timeout, Some(UpgradeState::TimedOut)) => Some("no result came before the deadline"),
        (SubStatus::Timeout, _) => Some("the operation ended before the device had begun"),
        (SubStatus::Fail, Some(UpgradeState::Rejected)) => Some("rejected"),
        (SubStatus::Stop, Some(UpgradeState::Canceled)) => Some("canceled"),
        (SubStatus::Stop, _) => Some("the operation ended without the device"),
        (_, state) => state.map(UpgradeState::name),
    };
    said.or(told).map(str::to_owned)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PackageShown {
    file_id: String,
    name: Option<String>,
    version: String,
    file_type: &'static str,
    device_type: Option<String>,
    model: Option<String>,
    manufacturer_name: Option<String>,
    protocol_type: Option<String>,
    description: Option<String>,
    date: Time,
    upload_time: Time,
    /// Not the platform's.
    product_id: String,
    file_size: u64,
}

impl PackageShown {
    pub(super) fn new(firmware: &Firmware, product_id: &str) -> Self {
        Self {
            file_id: firmware.id.to_string(),
            name: firmware.name.as_deref().map(str::to_owned),
            version: firmware.version.to_string(),
            file_type: file_type_name(firmware.file_type),
            device_type: firmware.device_type.as_deref().map(str::to_owned),
            model: firmware.model.as_deref().map(str::to_owned),
            manufacturer_name: firmware.manufacturer.as_deref().map(str::to_owned),
            protocol_type: firmware.annotations.get(annotation::PROTOCOL_TYPE).map(ToString::to_string),
            description: firmware.description.as_deref().map(str::to_owned),
            date: Time(firmware.created_at),
            upload_time: Time(firmware.created_at),
            product_id: product_id.to_owned(),
            file_size: firmware.artifact.size,
        }
    }
}
