//! The engine's rows → JSON. Every time is RFC 3339 in UTC with milliseconds; digests are lower-case hexadecimal.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
use sluicegate::model::{
    Component, Device, Event, FileType, Firmware, FirmwareId, Image, Product, StateCounts, Task, TaskId, Timestamp, Upgrade,
    UpgradeId, UpgradeState, Verification,
};
use sluicegate::{DeviceInfo, Offer};
use std::collections::BTreeMap;
use std::fmt;

/// A point in time as people and programs read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time(pub(super) Timestamp);

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A time past the year 9999 can only come from a lifetime "for ever"; it is shown as the end of the calendar.
        let milliseconds = i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX);
        write!(formatter, "{time:.3}")
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An id, as its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id<T>(pub(super) T);

impl<T: fmt::Display> Serialize for Id<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Bytes in hexadecimal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ProductShown<'a> {
    product_id: &'a str,
    name: Option<&'a str>,
    created_at: Time,
}

impl<'a> ProductShown<'a> {
    pub(super) fn new(product: &'a Product) -> Self {
        Self { product_id: &product.id, name: product.name.as_deref(), created_at: Time(product.created_at) }
    }
}

/// Exactly what `PUT` takes.
#[derive(Debug, Serialize)]
pub(super) struct DeviceShown<'a> {
    components: Vec<InstalledShown<'a>>,
    attributes: BTreeMap<&'a str, Attribute<'a>>,
    tags: &'a BTreeMap<Box<str>, Box<str>>,
    groups: &'a [Box<str>],
    asset_nodes: &'a [Box<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manufacturer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<&'a str>,
}

impl<'a> DeviceShown<'a> {
    pub(super) fn new(device: &'a Device) -> Self {
        let details = device.details();
        Self {
            components: device
                .components
                .iter()
                .map(|installed| InstalledShown::new(installed.component, &installed.version))
                .collect(),
            attributes: details.attributes.iter().map(|(key, value)| (&**key, Attribute(value))).collect(),
            tags: &details.tags,
            groups: &details.groups,
            asset_nodes: &details.asset_nodes,
            model: details.model.as_deref(),
            manufacturer: details.manufacturer.as_deref(),
            device_type: details.device_type.as_deref(),
            gateway: details.gateway.as_deref(),
        }
    }
}

#[derive(Debug, Serialize)]
struct InstalledShown<'a> {
    #[serde(flatten)]
    component: ComponentShown,
    version: &'a str,
}

impl<'a> InstalledShown<'a> {
    fn new(component: Component, version: &'a str) -> Self {
        Self { component: ComponentShown::new(component), version }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ComponentShown {
    #[serde(rename = "type")]
    component_type: u16,
    identify: u32,
}

impl ComponentShown {
    pub(super) fn new(component: Component) -> Self {
        Self { component_type: component.component_type, identify: component.identify }
    }
}

/// An attribute's value, kept as JSON text. What another dialect wrote and isn't JSON is shown as a string rather than break the reply.
#[derive(Debug)]
pub(super) struct Attribute<'a>(pub(super) &'a str);

impl Serialize for Attribute<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_str::<Value>(self.0) {
            Ok(value) => value.serialize(serializer),
            Err(_) => serializer.serialize_str(self.0),
        }
    }
}

/// A device in a list: its name and what is known of it, then what `PUT` takes.
#[derive(Debug, Serialize)]
pub(super) struct DeviceListed<'a> {
    product_id: &'a str,
    device_id: &'a str,
    created_at: Time,
    last_seen_at: Option<Time>,
    #[serde(flatten)]
    device: DeviceShown<'a>,
}

impl<'a> DeviceListed<'a> {
    pub(super) fn new(device: &'a DeviceInfo) -> Self {
        Self {
            product_id: &device.product.id,
            device_id: &device.row.id,
            created_at: Time(device.row.created_at),
            last_seen_at: device.last_seen.map(Time),
            device: DeviceShown::new(&device.row),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ImageShown<'a> {
    image: Id<sluicegate::model::ImageId>,
    sha256: Id<sluicegate::model::ImageId>,
    sha1: Hex<'a>,
    md5: Hex<'a>,
    size: u64,
    url: &'a str,
}

impl<'a> ImageShown<'a> {
    pub(super) fn new(image: &'a Image, url: &'a str) -> Self {
        Self { image: Id(image.id), sha256: Id(image.id), sha1: Hex(&image.sha1), md5: Hex(&image.md5), size: image.size, url }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct FirmwareShown<'a> {
    id: Id<FirmwareId>,
    product_id: &'a str,
    #[serde(flatten)]
    component: ComponentShown,
    version: &'a str,
    image: Option<Id<sluicegate::model::ImageId>>,
    name: Option<&'a str>,
    description: Option<&'a str>,
    model: Option<&'a str>,
    manufacturer: Option<&'a str>,
    device_type: Option<&'a str>,
    file_type: &'static str,
    size: u64,
    md5: &'a str,
    sha256: Option<&'a str>,
    /// What has to be shown before an upgrade task may lead to it.
    verification: Option<VerificationShown>,
    verified_at: Option<Time>,
    /// Of a file that lies elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    created_at: Time,
}

impl<'a> FirmwareShown<'a> {
    pub(super) fn new(firmware: &'a Firmware, product: &'a Product) -> Self {
        let artifact = &firmware.artifact;
        Self {
            id: Id(firmware.id),
            product_id: &product.id,
            component: ComponentShown::new(firmware.component),
            version: &firmware.version,
            image: artifact.image.map(Id),
            name: firmware.name.as_deref(),
            description: firmware.description.as_deref(),
            model: firmware.model.as_deref(),
            manufacturer: firmware.manufacturer.as_deref(),
            device_type: firmware.device_type.as_deref(),
            file_type: match firmware.file_type {
                FileType::SoftwarePackage => "softwarePackage",
                FileType::FirmwarePackage => "firmwarePackage",
            },
            size: artifact.size,
            md5: &artifact.md5,
            sha256: artifact.sha256.as_deref(),
            verification: firmware.verification.map(VerificationShown::new),
            verified_at: firmware.verified_at.map(Time),
            url: artifact.url.as_deref().filter(|_| artifact.image.is_none()),
            created_at: Time(firmware.created_at),
        }
    }
}

#[derive(Debug, Serialize)]
struct VerificationShown {
    devices_max: u32,
    successes_min: u32,
}

impl VerificationShown {
    fn new(Verification { devices_max, successes_min }: Verification) -> Self {
        Self { devices_max, successes_min }
    }
}

/// How many devices stand in each state; all twelve, always.
#[derive(Debug)]
pub(super) struct Counts(pub(super) StateCounts);

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(state, count)| (state.name(), count)))
    }
}

#[derive(Debug, Serialize)]
pub(super) struct UpgradeShown<'a> {
    pub(super) device_id: &'a str,
    id: Option<Id<UpgradeId>>,
    state: &'static str,
    attempts: u32,
    percent: u8,
    reason: Option<&'a str>,
    from_version: &'a str,
    created_at: Time,
    updated_at: Time,
    offered_at: Option<Time>,
    deadline: Option<Time>,
    not_before: Option<Time>,
}

impl<'a> UpgradeShown<'a> {
    /// `reason`: why it stands there, where neither the device nor an operator said anything.
    pub(super) fn new(upgrade: &'a Upgrade, device_id: &'a str, reason: Option<&'a str>) -> Self {
        Self {
            device_id,
            id: upgrade.id().map(Id),
            state: upgrade.state.name(),
            attempts: upgrade.attempts,
            percent: upgrade.percent,
            reason: upgrade.detail.as_deref().or(reason),
            from_version: &upgrade.from_version,
            created_at: Time(upgrade.created_at),
            updated_at: Time(upgrade.updated_at),
            offered_at: upgrade.offered_at.map(Time),
            deadline: upgrade.deadline.map(Time),
            not_before: upgrade.not_before.map(Time),
        }
    }

    /// The row of a device that was never offered the task: waiting since both of them are there.
    pub(super) fn implied(device: &'a Device, task: &'a Task, reason: Option<&'a str>) -> Self {
        let since = Time(task.created_at.max(device.created_at));
        Self {
            device_id: &device.id,
            id: None,
            state: UpgradeState::Waiting.name(),
            attempts: 0,
            percent: 0,
            reason,
            from_version: device.version(task.component).map(|version| &**version).unwrap_or_default(),
            created_at: since,
            updated_at: since,
            offered_at: None,
            deadline: None,
            not_before: None,
        }
    }
}

/// What a device is offered.
#[derive(Debug, Serialize)]
pub(super) struct OfferShown<'a> {
    /// Absent in a preview.
    id: Option<Id<UpgradeId>>,
    task_id: Id<TaskId>,
    from_version: &'a str,
    target_version: &'a str,
    url: &'a str,
    size: u64,
    md5: &'a str,
    sha256: Option<&'a str>,
    deadline: Option<Time>,
}

impl<'a> OfferShown<'a> {
    pub(super) fn new(offer: &'a Offer, url: &'a str) -> Self {
        let task = offer.task.row();
        Self {
            id: offer.id.map(Id),
            task_id: Id(task.id),
            from_version: &offer.from_version,
            target_version: &task.target_version,
            url,
            size: task.artifact.size,
            md5: &task.artifact.md5,
            sha256: task.artifact.sha256.as_deref(),
            deadline: offer.deadline.map(Time),
        }
    }
}

/// An event's data: fields that are always called the same, then whatever else the report carried.
#[derive(Debug)]
pub(super) struct EventShown<'a>(pub(super) &'a Event);

const EVENT_FIELDS: [&str; 10] =
    ["seq", "kind", "at", "organization", "product_id", "device_id", "task_id", "upgrade_id", "state", "percent"];

impl Serialize for EventShown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("seq", &event.sequence)?;
        map.serialize_entry("kind", event.kind.name())?;
        map.serialize_entry("at", &Time(event.at))?;
        map.serialize_entry("organization", &*event.organization)?;
        map.serialize_entry("product_id", &*event.product_id)?;
        if let Some(device_id) = &event.device_id {
            map.serialize_entry("device_id", &**device_id)?;
        }
        if let Some(task_id) = event.task_id {
            map.serialize_entry("task_id", &Id(task_id))?;
        }
        if let Some(upgrade_id) = event.upgrade_id {
            map.serialize_entry("upgrade_id", &Id(upgrade_id))?;
        }
        if let Some(state) = event.state {
            map.serialize_entry("state", state.name())?;
        }
        if let Some(percent) = event.percent {
            map.serialize_entry("percent", &percent)?;
        }
        // A device can't pass off its own words for one of ours.
        for (key, value) in event.extra.iter().filter(|(key, _)| !EVENT_FIELDS.contains(&&***key)) {
            map.serialize_entry(&**key, &**value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluicegate::model::{DeviceDetails, DeviceNumber, EventKind, Installed, ProductNumber, TaskNumber};
    use std::sync::Arc;

    fn shown(value: &impl Serialize) -> Value {
        serde_json::to_value(value).unwrap()
    }

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        assert_eq!(Time(Timestamp(0)).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Time(Timestamp(1_700_000_000_120)).to_string(), "2023-11-14T22:13:20.120Z");
        assert!(Time(Timestamp(u64::MAX)).to_string().starts_with("9999-12-30"));
    }

    #[test]
    fn a_device_is_shown_in_the_shape_of_its_put() {
        let details = DeviceDetails {
            attributes: [("floor".into(), "4".into()), ("odd".into(), "no json".into()), ("site".into(), "\"north\"".into())]
                .into(),
            model: Some("P-7".into()),
            ..DeviceDetails::default()
        };
        let device = Device {
            number: DeviceNumber(1),
            product: ProductNumber(1),
            id: "d".into(),
            components: [Installed { component: Component::MAIN, version: "1.0".into() }].into(),
            created_at: Timestamp(0),
            details: Some(Arc::new(details)),
        };
        assert_eq!(
            shown(&DeviceShown::new(&device)),
            json!({
                "components": [{ "type": 1, "identify": 0, "version": "1.0" }],
                "attributes": { "floor": 4, "odd": "no json", "site": "north" },
                "tags": {}, "groups": [], "asset_nodes": [], "model": "P-7",
            })
        );
    }

    #[test]
    fn counts_name_every_state() {
        let mut counts = StateCounts::default();
        counts.set(UpgradeState::Failed, 3);
        let shown = shown(&Counts(counts));
        assert_eq!(shown.as_object().unwrap().len(), 12);
        assert_eq!((&shown["failed"], &shown["waiting"]), (&json!(3), &json!(0)));
    }

    #[test]
    fn what_a_report_carried_is_in_its_event_and_overwrites_nothing() {
        let event = Event {
            sequence: 7,
            kind: EventKind::Result,
            at: Timestamp(1_000),
            organization: "default".into(),
            product_id: "p".into(),
            device_id: Some("d".into()),
            task_id: None,
            upgrade_id: Some(UpgradeId { task: TaskNumber(1), device: DeviceNumber(2), offer: 3 }),
            state: Some(UpgradeState::Failed),
            percent: None,
            extra: [("seq".into(), "1".into()), ("state".into(), "succeeded".into()), ("mod".into(), "A1".into())].into(),
        };
        assert_eq!(
            serde_json::to_string(&EventShown(&event)).unwrap(),
            concat!(
                r#"{"seq":7,"kind":"result","at":"1970-01-01T00:00:01.000Z","organization":"default","product_id":"p","device_id":"d","#,
                r#""upgrade_id":"00000001000000020000000000000003","state":"failed","mod":"A1"}"#
            )
        );
    }
}
