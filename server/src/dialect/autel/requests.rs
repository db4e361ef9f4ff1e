//! What a gateway asks before it says that it is there: its configuration, and to whom it belongs.
//!
//! On this platform people bind a gateway to an organization while they set it up. Here it belongs to the organization that its credentials, or
//! its registration, are of; so every question is answered with that one, and a bind changes nothing.
//!
//! Only where no other platform answers the same gateways: two answers to one question help nobody, and an empty configuration can
//! take the other's away.

use super::envelope::{Envelope, ResultOnly};
use super::reading::{Malformed, from_value, text_if_any};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluicegate::model::Timestamp;

/// The platform has two, a dock and its aircraft.
const DEVICES_MAX: usize = 16;

/// Whether this is a request that is known here.
pub(crate) fn is_known(method: &str) -> bool {
    matches!(method, "config" | "airport_bind_status" | "airport_organization_get" | "airport_organization_bind")
}

/// The answer for [`requests_reply`](super::topic::requests_reply). Whatever isn't known here is answered as failed, lest the gateway
/// wait and ask again; none only where there is no method.
pub(crate) fn answer(envelope: &Envelope, organization: &str, now: Timestamp) -> Option<Vec<u8>> {
    let data = &envelope.data;
    Some(match envelope.method.as_str() {
        "" => return None,
        "config" => envelope.reply(&Config::default(), now),
        "airport_bind_status" => match BindStatusRequest::read(data) {
            Ok(sns) => envelope.reply(&success(BindStatus::of(&sns, organization)), now),
            Err(_) => envelope.reply(&ResultOnly::UNKNOWN, now),
        },
        "airport_organization_get" => envelope.reply(&success(Organization { organization_name: organization }), now),
        "airport_organization_bind" => match BindRequest::read(data) {
            Ok(sns) => envelope.reply(&success(Bound::all(&sns)), now),
            Err(_) => envelope.reply(&ResultOnly::UNKNOWN, now),
        },
        _ => envelope.reply(&ResultOnly::UNKNOWN, now),
    })
}

#[derive(Serialize)]
struct Success<T> {
    result: i32,
    output: T,
}

const fn success<T>(output: T) -> Success<T> {
    Success { result: 0, output }
}

/// `config`: what the vendor's own services want of the gateway. Unlike the other answers it has neither `result` nor `output` around it.
/// `ntp_server_host` is left out, for there is no time server here to name.
#[derive(Default, Serialize)]
struct Config {
    /// Of the application that is registered with the vendor; so are the key and the license. We are none.
    app_id: &'static str,
    app_key: &'static str,
    app_license: &'static str,
}

/// `airport_bind_status`: to whom each of the devices belongs.
#[derive(Serialize)]
struct BindStatus<'a> {
    bind_status: Vec<DeviceBindStatus<'a>>,
}

#[derive(Serialize)]
struct DeviceBindStatus<'a> {
    sn: &'a str,
    is_device_bind_organization: bool,
    organization_id: &'a str,
    organization_name: &'a str,
    /// The device's name within the organization, which the gateway shows.
    device_callsign: &'a str,
}

impl<'a> BindStatus<'a> {
    fn of(sns: &'a [String], organization: &'a str) -> Self {
        let bind_status = sns.iter().map(|sn| DeviceBindStatus {
            sn,
            is_device_bind_organization: true,
            organization_id: organization,
            organization_name: organization,
            device_callsign: sn,
        });
        Self { bind_status: bind_status.collect() }
    }
}

/// `airport_organization_get`: what the organization is called that somebody entered at the gateway, with a code to bind by.
#[derive(Serialize)]
struct Organization<'a> {
    organization_name: &'a str,
}

/// `airport_organization_bind`: how binding went, by device; 0 is well. Devices that it went well for are told too.
#[derive(Serialize)]
struct Bound<'a> {
    err_infos: Vec<DeviceBound<'a>>,
}

#[derive(Serialize)]
struct DeviceBound<'a> {
    sn: &'a str,
    err_code: i32,
}

impl<'a> Bound<'a> {
    fn all(sns: &'a [String]) -> Self {
        Self { err_infos: sns.iter().map(|sn| DeviceBound { sn, err_code: 0 }).collect() }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BindStatusRequest {
    devices: Option<Vec<Value>>,
}

impl BindStatusRequest {
    fn read(data: &Value) -> Result<Vec<String>, Malformed> {
        from_value::<Self>(data).map(|request| serial_numbers(&request.devices.unwrap_or_default()))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BindRequest {
    bind_devices: Option<Vec<Value>>,
}

impl BindRequest {
    fn read(data: &Value) -> Result<Vec<String>, Malformed> {
        from_value::<Self>(data).map(|request| serial_numbers(&request.bind_devices.unwrap_or_default()))
    }
}

/// A device of a request. Its model, the code to bind by and the name it is given don't matter here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct DeviceRead {
    #[serde(deserialize_with = "text_if_any")]
    sn: Option<String>,
}

/// Of the first few devices, those that can be read.
fn serial_numbers(devices: &[Value]) -> Vec<String> {
    devices.iter().take(DEVICES_MAX).filter_map(|device| from_value::<DeviceRead>(device).ok()?.sn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_654_070_968_655);

    /// The data of the answer to this.
    fn answered(method: &str, data: Value) -> Option<Value> {
        let request = json!({ "tid": "t", "bid": "b", "gateway": "dock", "method": method, "data": data });
        let request = Envelope::read(request.to_string().as_bytes()).unwrap();
        let reply: Value = serde_json::from_slice(&answer(&request, "acme", NOW)?).unwrap();
        let frame = json!({
            "tid": "t", "bid": "b", "gateway": "dock", "method": method, "timestamp": 1_654_070_968_655_u64, "data": reply["data"],
        });
        assert_eq!(reply, frame);
        Some(reply["data"].clone())
    }

    #[test]
    fn each_request_is_answered_in_its_own_form() {
        let bound = |sn: &str| {
            json!({
                "sn": sn, "is_device_bind_organization": true, "organization_id": "acme", "organization_name": "acme",
                "device_callsign": sn,
            })
        };
        for (method, data, expected) in [
            (
                "config",
                json!({ "config_scope": "product", "config_type": "json" }),
                json!({ "app_id": "", "app_key": "", "app_license": "" }),
            ),
            (
                "airport_bind_status",
                json!({ "devices": [{ "sn": "drone" }, { "sn": "dock" }] }),
                json!({ "result": 0, "output": { "bind_status": [bound("drone"), bound("dock")] } }),
            ),
            (
                "airport_organization_get",
                json!({ "device_binding_code": "c", "organization_id": "o" }),
                json!({ "result": 0, "output": { "organization_name": "acme" } }),
            ),
            (
                "airport_organization_bind",
                json!({ "bind_devices": [
                    { "sn": "dock", "organization_id": "o", "device_binding_code": "c", "device_model_key": "3-1-0" },
                    { "sn": "drone" },
                ] }),
                json!({ "result": 0, "output": { "err_infos": [
                    { "sn": "dock", "err_code": 0 }, { "sn": "drone", "err_code": 0 },
                ] } }),
            ),
        ] {
            assert_eq!(answered(method, data), Some(expected), "{method}");
        }
    }

    #[test]
    fn a_request_that_is_not_known_or_cannot_be_read_is_answered_as_failed() {
        let failed = Some(json!({ "result": -1 }));
        assert_eq!(answered("storage_config_get", json!({ "module": 0 })), failed);
        assert_eq!(answered("airport_bind_status", json!([])), failed);
        assert_eq!(answered("airport_bind_status", json!({ "devices": "dock" })), failed);
        assert_eq!(answered("airport_organization_bind", json!(null)), failed);
        assert_eq!(answered("", json!({})), None);
    }

    #[test]
    fn devices_that_cannot_be_read_are_left_out_and_few_are_answered() {
        let devices = json!([null, 1, {}, { "sn": "" }, { "sn": 7 }]);
        let answer = answered("airport_organization_bind", json!({ "bind_devices": devices })).unwrap();
        assert_eq!(answer["output"]["err_infos"], json!([{ "sn": "7", "err_code": 0 }]));
        let many: Vec<Value> = (0..100_000).map(|number| json!({ "sn": number })).collect();
        let answer = answered("airport_bind_status", json!({ "devices": many })).unwrap();
        assert_eq!(answer["output"]["bind_status"].as_array().map(Vec::len), Some(DEVICES_MAX));
        let answer = answered("airport_bind_status", json!({})).unwrap();
        assert_eq!(answer, json!({ "result": 0, "output": { "bind_status": [] } }));
    }
}
