//! Which firmware runs, from what devices push on `osd` and `state`. The topic names whose it is.
//!
//! A push says little of what these look for, and often nothing: none is no news, not "no version".

use serde_json::{Map, Value};

/// The version of the device itself: at the top of the data or, where there is none, in one of the objects directly under it.
///
/// Those objects may also be parts with firmware of their own. Passed over are a payload (under its place, such as `39-0-7`), lists, and
/// what has a serial number, for it is another device. Where the remaining ones disagree it isn't known whose version is whose: none.
pub(crate) fn firmware_version(data: &Value) -> Option<&str> {
    let top = data.as_object()?;
    if let Some(version) = version_of(top) {
        return Some(version);
    }
    let mut versions = top.iter().filter(|(key, _)| !is_payload_place(key)).filter_map(|(_, part)| {
        let part = part.as_object()?;
        let is_another_device = part.contains_key("sn") || part.contains_key("device_sn");
        if is_another_device { None } else { version_of(part) }
    });
    let version = versions.next()?;
    versions.all(|other| other == version).then_some(version)
}

fn version_of(object: &Map<String, Value>) -> Option<&str> {
    let version = object.get("firmware_version")?.as_str()?.trim();
    (!version.is_empty()).then_some(version)
}

/// Whether a key is `type-sub_type-gimbal`.
fn is_payload_place(key: &str) -> bool {
    key.split('-').count() == 3 && key.split('-').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_version_is_the_devices_own() {
        for (data, expected) in [
            (json!({ "firmware_version": "1.2.0.69" }), Some("1.2.0.69")),
            (json!({ "firmware_version": " 1.2.0.69 ", "drone": { "firmware_version": "9" } }), Some("1.2.0.69")),
            (json!({ "firmware_version": "", "basic": { "firmware_version": "1.2" } }), Some("1.2")),
            (json!({ "firmware_version": null, "basic": { "firmware_version": "1.2" } }), Some("1.2")),
            (json!({ "a": { "firmware_version": "1.2" }, "b": { "firmware_version": "1.2" } }), Some("1.2")),
            (json!({ "a": { "firmware_version": "1.2" }, "b": { "firmware_version": "1.3" } }), None),
            (json!({ "39-0-7": { "firmware_version": "1.2" } }), None),
            (json!({ "a-0-7": { "firmware_version": "1.2" } }), Some("1.2")),
            (json!({ "sub_device": { "device_sn": "x", "firmware_version": "1.2" } }), None),
            (json!({ "payloads": [{ "firmware_version": "1.2" }] }), None),
            (json!({ "a": { "b": { "firmware_version": "1.2" } } }), None),
            (json!({ "firmware_version": 1.2 }), None),
            (json!({ "firmware_version": ["1.2"] }), None),
            (json!({ "mode_code": 0 }), None),
            (json!([{ "firmware_version": "1.2" }]), None),
            (json!("1.2"), None),
            (json!(null), None),
        ] {
            assert_eq!(firmware_version(&data), expected, "{data}");
        }
    }
}
