//! JSON → what is wanted. What is wrong is told with its place, what was expected and what came.
//!
//! The ranges of values belong to the engine; here only what JSON can't say for itself is checked. An explicit `null` is absent.

use super::failure::{Failure, shortened};
use super::whole::{ComponentType, Signed, Whole};
use ::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use sluicegate::model::{Component, DeviceDetails, FileType, ReportedState, Role, Verification};
use sluicegate::{NewDevice, VERIFY_DEVICES_MAX};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Reads a body, or says where it is wrong. An array is refused, because serde would take its entries for the fields in their order.
pub(super) fn parse<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Failure> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Failure::invalid("the body is a JSON array; send an object"));
    }
    // All of it is looked at for UTF-8 once, rather than each text in it.
    let parsed = match std::str::from_utf8(body) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(body),
    };
    parsed.map_err(|error| explain::<T>(body, &error))
}

/// The same for calls that need say nothing: an empty body stands for `{}`.
pub(super) fn parse_or_empty<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Failure> {
    if body.trim_ascii().is_empty() { parse(b"{}") } else { parse(body) }
}

#[cold]
fn explain<'de, T: Deserialize<'de>>(body: &'de [u8], error: &serde_json::Error) -> Failure {
    if body.trim_ascii().is_empty() {
        return Failure::new(StatusCode::BAD_REQUEST, "malformed_json", "the body is empty; send a JSON object");
    }
    if !error.is_data() {
        return Failure::new(StatusCode::BAD_REQUEST, "malformed_json", format!("the body is not JSON: {error}"));
    }
    // Once more, with a note of the way to the value. Only for bodies that are refused, so nobody waits for it.
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(located) if located.path().iter().next().is_some() => {
            Failure::invalid(shortened(&format!("{}: {}", located.path(), located.inner()), MESSAGE_CHARS_MAX))
        }
        _ => Failure::invalid(shortened(&error.to_string(), MESSAGE_CHARS_MAX)),
    }
}

/// Messages quote what came, and that may be as long as the body.
const MESSAGE_CHARS_MAX: usize = 500;

pub(super) fn component(component_type: ComponentType, identify: Whole<u32>) -> Component {
    Component { component_type: component_type.0, identify: identify.0 }
}

/// `POST /check`. Borrows where it can: a fleet sends it all day.
#[derive(Debug, Deserialize)]
pub(super) struct CheckBody<'a> {
    #[serde(borrow)]
    pub(super) product_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) device_id: Cow<'a, str>,
    #[serde(rename = "type")]
    pub(super) component_type: ComponentType,
    pub(super) identify: Whole<u32>,
    #[serde(borrow)]
    pub(super) version: Cow<'a, str>,
}

/// `POST /report`.
#[derive(Debug, Deserialize)]
pub(super) struct ReportBody<'a> {
    #[serde(borrow)]
    pub(super) product_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) device_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) upgrade_id: Cow<'a, str>,
    #[serde(borrow)]
    state: Cow<'a, str>,
    percent: Option<Whole<u8>>,
    pub(super) detail: Option<String>,
    /// What the device calls this failure; a retry policy may go by it.
    code: Option<Signed>,
}

impl ReportBody<'_> {
    pub(super) fn state(&self) -> Result<ReportedState, Failure> {
        ReportedState::from_name(&self.state).ok_or_else(|| {
            let names = ReportedState::OF_ITSELF.map(|state| state.state().name()).join(", ");
            Failure::invalid(format!("state is {:?}; give one of {names}", shortened(&self.state, 80)))
        })
    }

    pub(super) fn percent(&self) -> Result<Option<u8>, Failure> {
        match self.percent {
            Some(Whole(percent)) if percent > 100 => Err(Failure::invalid(format!("percent is {percent}; give 0 to 100"))),
            percent => Ok(percent.map(|Whole(percent)| percent)),
        }
    }

    /// A code beside any other state says nothing of a failure, and is no reason to refuse what else was told.
    pub(super) fn code(&self) -> Option<i32> {
        self.code.map(|code| code.0)
    }
}

/// `PUT /products/{product_id}`.
#[derive(Debug, Deserialize)]
pub(super) struct ProductBody {
    pub(super) name: Option<String>,
}

/// `PUT` of a device, and a line of `POST /devices`, which names it too.
#[derive(Debug, Deserialize)]
pub(super) struct DeviceBody {
    pub(super) product_id: Option<String>,
    pub(super) device_id: Option<String>,
    components: Option<Vec<InstalledBody>>,
    attributes: Option<BTreeMap<Box<str>, Value>>,
    tags: Option<BTreeMap<Box<str>, Box<str>>>,
    groups: Option<Vec<Box<str>>>,
    asset_nodes: Option<Vec<Box<str>>>,
    model: Option<Box<str>>,
    manufacturer: Option<Box<str>>,
    device_type: Option<Box<str>>,
    gateway: Option<Box<str>>,
}

#[derive(Debug, Deserialize)]
struct InstalledBody {
    #[serde(rename = "type")]
    component_type: ComponentType,
    identify: Whole<u32>,
    version: String,
}

impl DeviceBody {
    /// The device that the path names. The body may name it too, but no other.
    pub(super) fn of_path(self, product_id: &str, device_id: &str) -> Result<NewDevice, Failure> {
        for (field, named, path) in [("product_id", &self.product_id, product_id), ("device_id", &self.device_id, device_id)] {
            if let Some(named) = named.as_deref().filter(|named| *named != path) {
                let named = shortened(named, 80);
                return Err(Failure::invalid(format!(
                    "{field} is {named:?} in the body and {path:?} in the path; leave it out of the body"
                )));
            }
        }
        Ok(self.named(product_id.to_owned(), device_id.to_owned()))
    }

    /// The device that the line names.
    pub(super) fn of_line(mut self) -> Result<NewDevice, Failure> {
        let missing = |field: &str| Failure::invalid(format!("missing field `{field}`"));
        let product_id = self.product_id.take().ok_or_else(|| missing("product_id"))?;
        let device_id = self.device_id.take().ok_or_else(|| missing("device_id"))?;
        Ok(self.named(product_id, device_id))
    }

    fn named(self, product_id: String, device_id: String) -> NewDevice {
        let components = self.components.unwrap_or_default();
        let attributes = self.attributes.unwrap_or_default();
        NewDevice {
            product_id,
            device_id,
            components: components
                .into_iter()
                .map(|installed| (component(installed.component_type, installed.identify), installed.version))
                .collect(),
            details: DeviceDetails {
                attributes: attributes.into_iter().map(|(key, value)| (key, json_text(&value))).collect(),
                tags: self.tags.unwrap_or_default(),
                groups: self.groups.unwrap_or_default(),
                asset_nodes: self.asset_nodes.unwrap_or_default(),
                model: self.model,
                manufacturer: self.manufacturer,
                device_type: self.device_type,
                gateway: self.gateway,
                secret_encrypted: None,
            },
        }
    }
}

/// The one text of a JSON value: attributes and the scopes that select by them compare texts. Keys come out sorted.
pub(super) fn json_text(value: &Value) -> Box<str> {
    value.to_string().into()
}

/// `POST /firmware`.
#[derive(Debug, Deserialize)]
pub(super) struct FirmwareBody {
    pub(super) product_id: String,
    #[serde(rename = "type")]
    pub(super) component_type: ComponentType,
    pub(super) identify: Whole<u32>,
    pub(super) version: String,
    pub(super) image: String,
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) model: Option<String>,
    pub(super) manufacturer: Option<String>,
    pub(super) device_type: Option<String>,
    file_type: Option<String>,
    verification: Option<VerificationBody>,
}

/// A slip of the pen in here would release firmware too early.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerificationBody {
    devices_max: Option<Whole<u32>>,
    successes_min: Option<Whole<u32>>,
}

impl FirmwareBody {
    /// Where it is asked for without figures: on as many devices as a verify task may name by itself, and one success.
    pub(super) fn verification(&self) -> Option<Verification> {
        self.verification.as_ref().map(|body| Verification {
            devices_max: body.devices_max.map_or(VERIFY_DEVICES_MAX, |value| value.0),
            successes_min: body.successes_min.map_or(1, |value| value.0),
        })
    }

    pub(super) fn file_type(&self) -> Result<FileType, Failure> {
        match self.file_type.as_deref() {
            None | Some("softwarePackage") => Ok(FileType::SoftwarePackage),
            Some("firmwarePackage") => Ok(FileType::FirmwarePackage),
            Some(other) => {
                Err(Failure::invalid(format!("file_type is {:?}; give softwarePackage or firmwarePackage", shortened(other, 80))))
            }
        }
    }
}

/// `POST /tokens`. A slip of the pen in here would open too much or for too long, so nothing unknown is ignored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenBody {
    role: String,
    #[serde(alias = "orgId")]
    pub(super) organization: Option<String>,
    pub(super) product_id: Option<String>,
    pub(super) device_id: Option<String>,
    pub(super) ttl_s: Option<Whole<u64>>,
}

impl TokenBody {
    pub(super) fn role(&self) -> Result<Role, Failure> {
        Role::from_name(&self.role).ok_or_else(|| {
            Failure::invalid(format!("role is {:?}; give admin, operator, user or device", shortened(&self.role, 80)))
        })
    }
}

/// `POST /apps`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AppBody {
    #[serde(alias = "orgId")]
    pub(super) organization: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<'de, T: Deserialize<'de> + std::fmt::Debug>(body: &'de str) -> String {
        let failure = parse::<T>(body.as_bytes()).unwrap_err();
        format!("{}: {}", failure.code, failure.message)
    }

    #[test]
    fn malformed_json_is_told_with_its_place() {
        assert_eq!(refused::<ProductBody>(""), "malformed_json: the body is empty; send a JSON object");
        let cut = refused::<ProductBody>("{\"name\":\n\"x");
        assert!(cut.starts_with("malformed_json: the body is not JSON") && cut.contains("line 2"), "{cut}");
        assert!(refused::<ProductBody>("{} x").contains("line 1 column 4"));
        assert!(refused::<DeviceBody>(&format!("{{\"attributes\":{}", "[".repeat(100_000))).len() < 600);
        assert_eq!(refused::<ProductBody>("[\"x\"]"), "invalid_argument: the body is a JSON array; send an object");
    }

    #[test]
    fn a_wrong_value_is_told_with_its_path_and_what_was_expected() {
        let check = refused::<CheckBody<'_>>(r#"{"product_id":"p","device_id":"d","type":"one","identify":0,"version":"1"}"#);
        assert!(check.contains("type: invalid value: string \"one\", expected a whole number from 0 to 65535"), "{check}");
        let device = refused::<DeviceBody>(
            r#"{"components":[{"type":1,"identify":0,"version":"1"},{"type":1,"identify":-1,"version":"1"}]}"#,
        );
        assert!(device.contains("components[1].identify"), "{device}");
        let missing = refused::<CheckBody<'_>>(r#"{"product_id":"p","device_id":"d","type":1,"identify":0}"#);
        assert!(missing.contains("missing field `version`"), "{missing}");
        let long = format!(r#"{{"product_id":["{}"]}}"#, "x".repeat(10_000));
        assert!(refused::<CheckBody<'_>>(&long).len() < 600);
    }

    #[test]
    fn null_is_absent_and_unknown_fields_are_ignored_where_nothing_can_widen() {
        let body: DeviceBody = parse(br#"{"components":null,"tags":null,"model":null,"colour":"red"}"#).unwrap();
        assert_eq!(
            body.of_path("p", "d").unwrap(),
            NewDevice { product_id: "p".into(), device_id: "d".into(), ..NewDevice::default() }
        );
        let refused = refused::<TokenBody>(r#"{"role":"device","product":"p"}"#);
        assert!(refused.contains("unknown field `product`"), "{refused}");
    }

    #[test]
    fn a_device_keeps_its_attributes_as_sorted_json_texts() {
        let body: DeviceBody = parse(br#"{"attributes":{"a":{"z":1,"b":[true,null]},"n":4,"s":"x"}}"#).unwrap();
        let attributes = body.of_path("p", "d").unwrap().details.attributes;
        let texts: Vec<&str> = attributes.values().map(AsRef::as_ref).collect();
        assert_eq!(texts, [r#"{"b":[true,null],"z":1}"#, "4", "\"x\""]);
    }

    #[test]
    fn a_body_that_names_another_device_than_the_path_is_refused() {
        let body = || parse::<DeviceBody>(br#"{"product_id":"p","device_id":"d"}"#).unwrap();
        assert!(body().of_path("p", "d").is_ok());
        assert!(body().of_path("p", "e").unwrap_err().message.contains("device_id"));
        assert!(body().of_path("q", "d").unwrap_err().message.contains("product_id"));
        assert!(parse::<DeviceBody>(br#"{"device_id":"d"}"#).unwrap().of_line().unwrap_err().message.contains("product_id"));
    }

    #[test]
    fn a_report_out_of_range_is_refused_with_what_it_may_be() {
        let report = |state: &str, percent: &str| {
            let text = format!(r#"{{"product_id":"p","device_id":"d","upgrade_id":"u","state":"{state}","percent":{percent}}}"#);
            let body: ReportBody<'_> = parse(text.as_bytes()).unwrap();
            (body.state(), body.percent())
        };
        assert_eq!(report("paused", "\"42\""), (Ok(ReportedState::Paused), Ok(Some(42))));
        assert_eq!(report("downloaded", "null").1, Ok(None));
        assert!(report("waiting", "1").0.unwrap_err().message.contains("downloading, downloaded, installing"));
        assert!(report("failed", "101").1.unwrap_err().message.contains("0 to 100"));
    }
}
