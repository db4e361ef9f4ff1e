//! `POST /manage/api/v1/devices/{workspace}/devices/ota` of the vendor's demo platform: its body, and the form of its answers.
//!
//! The demo's own code has types 2 and 3 the other way round from its documents; the documents count here.

use super::create::DEVICES_MAX;
use super::reading::{filled_text, from_value, printable};
use crate::dialect::common::lenient;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const TEXT_BYTES_MAX: usize = 128;

/// One device, to be upgraded as said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpgradeOrder {
    /// What kind of device it is, as people call it.
    pub(crate) device_name: Option<String>,
    pub(crate) sn: String,
    pub(crate) product_version: String,
    pub(crate) firmware_upgrade_type: FirmwareUpgradeType,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FirmwareUpgradeType {
    /// All modules to the version the device already has.
    Consistency = 2,
    #[default]
    Normal = 3,
    /// Of a payload of somebody else's make.
    Psdk = 4,
}

impl FirmwareUpgradeType {
    pub(crate) const fn from_number(number: i64) -> Option<Self> {
        match number {
            2 => Some(Self::Consistency),
            3 => Some(Self::Normal),
            4 => Some(Self::Psdk),
            _ => None,
        }
    }

    pub(crate) const fn number(self) -> u8 {
        self as u8
    }
}

/// Why an order isn't taken, for whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct OrderRefused(String);

#[derive(Default, Deserialize)]
#[serde(default)]
struct OrderRead {
    #[serde(deserialize_with = "filled_text")]
    device_name: Option<String>,
    #[serde(deserialize_with = "filled_text")]
    sn: Option<String>,
    #[serde(deserialize_with = "filled_text")]
    product_version: Option<String>,
    #[serde(deserialize_with = "lenient::optional_integer")]
    firmware_upgrade_type: Option<i64>,
}

/// The devices of an order: one or two, each named once.
pub(crate) fn read_orders(body: &[u8]) -> Result<Vec<UpgradeOrder>, OrderRefused> {
    let entries = match serde_json::from_slice(body) {
        Ok(Value::Array(entries)) => entries,
        Ok(_) => return Err(refused("expected an array of devices; put the device into one")),
        Err(error) => return Err(refused(&format!("the body is not JSON: {error}"))),
    };
    if !(1..=DEVICES_MAX).contains(&entries.len()) {
        return Err(refused(&format!("expected 1 to {DEVICES_MAX} devices, got {}", entries.len())));
    }
    let orders = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| UpgradeOrder::read(entry).map_err(|message| refused(&format!("device {}: {message}", index + 1))));
    let orders: Vec<UpgradeOrder> = orders.collect::<Result<_, _>>()?;
    match orders.as_slice() {
        [first, second] if first.sn == second.sn => Err(refused(&format!("device {:?} is named twice; name it once", first.sn))),
        _ => Ok(orders),
    }
}

impl UpgradeOrder {
    fn read(entry: &Value) -> Result<Self, String> {
        let read: OrderRead = from_value(entry).map_err(|malformed| malformed.to_string())?;
        let number = read.firmware_upgrade_type;
        Ok(Self {
            device_name: read.device_name.map(|name| bounded("device_name", name)).transpose()?,
            sn: required("sn", read.sn)?,
            product_version: required("product_version", read.product_version)?,
            firmware_upgrade_type: match number {
                None => FirmwareUpgradeType::default(),
                Some(number) => FirmwareUpgradeType::from_number(number).ok_or_else(|| {
                    format!("firmware_upgrade_type must be 2 (consistency), 3 (normal) or 4 (PSDK payload), got {number}")
                })?,
            },
        })
    }
}

fn required(field: &str, text: Option<String>) -> Result<String, String> {
    bounded(field, text.ok_or_else(|| format!("{field} is required, and is missing or empty"))?)
}

fn bounded(field: &str, text: String) -> Result<String, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("{field} has {} bytes; at most {TEXT_BYTES_MAX} are allowed", text.len()));
    }
    Ok(text)
}

fn refused(message: &str) -> OrderRefused {
    OrderRefused(printable(message, 300))
}

#[derive(Serialize)]
struct Answer<'a, T> {
    code: i32,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a T>,
}

/// The body of an answer that it went well.
pub(crate) fn success(data: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(&Answer { code: 0, message: "success", data: Some(data) }).unwrap_or_default()
}

/// The body of an answer that it didn't.
pub(crate) fn failure(message: &str) -> Vec<u8> {
    serde_json::to_vec(&Answer::<()> { code: -1, message, data: None }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: &Value) -> Result<Vec<UpgradeOrder>, String> {
        read_orders(body.to_string().as_bytes()).map_err(|refused| refused.to_string())
    }

    fn order(sn: &str, firmware_upgrade_type: FirmwareUpgradeType) -> UpgradeOrder {
        UpgradeOrder {
            device_name: Some("EvoNest".into()),
            sn: sn.into(),
            product_version: "1.2.0.69".into(),
            firmware_upgrade_type,
        }
    }

    fn entry(sn: Value, upgrade_type: Value) -> Value {
        json!({ "device_name": "EvoNest", "sn": sn, "product_version": "1.2.0.69", "firmware_upgrade_type": upgrade_type, "x": [] })
    }

    #[test]
    fn one_or_two_devices_are_ordered_with_the_type_of_the_documents() {
        for (value, expected) in [
            (json!(2), FirmwareUpgradeType::Consistency),
            (json!("3"), FirmwareUpgradeType::Normal),
            (json!(null), FirmwareUpgradeType::Normal),
            (json!(4.0), FirmwareUpgradeType::Psdk),
        ] {
            assert_eq!(read(&json!([entry(json!("a"), value.clone())])), Ok(vec![order("a", expected)]), "{value}");
            assert_eq!(FirmwareUpgradeType::from_number(expected.number().into()), Some(expected));
        }
        let both = read(&json!([entry(json!("a"), json!(2)), entry(json!(17), json!(3))]));
        assert_eq!(both, Ok(vec![order("a", FirmwareUpgradeType::Consistency), order("17", FirmwareUpgradeType::Normal)]));
        let least = read(&json!([{ "sn": " a ", "product_version": "1" }])).unwrap();
        assert_eq!((least[0].sn.as_str(), least[0].device_name.as_deref()), ("a", None));
    }

    #[test]
    fn what_is_wrong_with_an_order_is_told_with_the_device_and_the_field() {
        let with = |changes: Value| {
            let mut entry = entry(json!("a"), json!(3));
            entry.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            json!([entry])
        };
        for (body, expected) in [
            (json!([]), "expected 1 to 2 devices, got 0"),
            (json!([{}, {}, {}]), "expected 1 to 2 devices, got 3"),
            (json!({ "sn": "a" }), "expected an array of devices"),
            (json!(null), "expected an array of devices"),
            (json!(["a"]), "device 1: expected an object, got a text"),
            (json!([entry(json!("a"), json!(3)), null]), "device 2: expected an object, got null"),
            (json!([entry(json!("a"), json!(3)), entry(json!("a"), json!(2))]), "device \"a\" is named twice"),
            (with(json!({ "sn": null })), "device 1: sn is required"),
            (with(json!({ "sn": " " })), "device 1: sn is required"),
            (with(json!({ "sn": {} })), "device 1: field sn: expected a text, got map"),
            (with(json!({ "sn": "s".repeat(129) })), "device 1: sn has 129 bytes; at most 128"),
            (with(json!({ "product_version": "" })), "device 1: product_version is required"),
            (with(json!({ "product_version": 1.2 })), "device 1: field product_version: expected a text"),
            (with(json!({ "device_name": [] })), "device 1: field device_name: expected a text"),
            (with(json!({ "firmware_upgrade_type": 1 })), "device 1: firmware_upgrade_type must be 2"),
            (with(json!({ "firmware_upgrade_type": 5 })), "got 5"),
            (with(json!({ "firmware_upgrade_type": -2 })), "got -2"),
            (with(json!({ "firmware_upgrade_type": "normal" })), "device 1: field firmware_upgrade_type: expected an integer"),
            (with(json!({ "firmware_upgrade_type": 1e30 })), "device 1: field firmware_upgrade_type: expected an integer"),
        ] {
            let message = read(&body).unwrap_err();
            assert!(message.contains(expected), "{body}: {message}");
        }
        let message = read_orders(b"[{").unwrap_err().to_string();
        assert!(message.starts_with("the body is not JSON"), "{message}");
        let many = json!(vec![json!({}); 100_000]);
        assert_eq!(read(&many).unwrap_err(), "expected 1 to 2 devices, got 100000");
    }

    #[test]
    fn answers_have_the_form_of_the_demo() {
        let text = |body: Vec<u8>| String::from_utf8(body).unwrap();
        assert_eq!(text(success(&json!({ "task": 7 }))), r#"{"code":0,"message":"success","data":{"task":7}}"#);
        assert_eq!(text(failure("sn is \"required\"")), r#"{"code":-1,"message":"sn is \"required\""}"#);
    }
}
