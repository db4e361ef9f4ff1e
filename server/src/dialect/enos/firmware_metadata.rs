//! What the creator of firmware says of it: the part `metadata` of the form.

use super::status::Failure;
use super::text::{Annotations, LocalizedText};
use crate::dialect::common::decode::from_json;
use crate::dialect::common::hexadecimal::from_hexadecimal;
use crate::dialect::common::lenient;
use serde::Deserialize;
use sluicegate::Limits;
use sluicegate::image::Declared;
use sluicegate::model::Verification;
use std::collections::BTreeMap;

/// The platform's limits of tags.
const TAGS_MAX: usize = 100;
const TAG_KEY_CHARS_MAX: usize = 50;
const TAG_VALUE_CHARS_MAX: usize = 200;
/// The platform's: a verify job names at most five devices, unless the firmware says otherwise, and one success will do.
const VERIFY_DEVICES_MAX_DEFAULT: u32 = 5;
const VERIFY_SUCCESSES_MIN_DEFAULT: u32 = 1;

/// What annotations of this dialect begin with.
pub(super) const NAME_KEY: &str = "enos.name";
pub(super) const SIGN_METHOD_KEY: &str = "enos.sign_method";
pub(super) const TAG_PREFIX: &str = "enos.tag.";

/// Everything checked that can be without looking anything up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) name: LocalizedText,
    pub(super) version: String,
    pub(super) sign: Sign,
    pub(super) description: Option<String>,
    pub(super) verification: Option<Verification>,
    pub(super) tags: BTreeMap<String, String>,
}

/// The digest that the file must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Md5([u8; 16]),
    Sha256([u8; 32]),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Written {
    name: Option<LocalizedText>,
    #[serde(deserialize_with = "lenient::optional_text")]
    version: Option<String>,
    sign_method: Option<String>,
    sign: Option<String>,
    desc: Option<String>,
    #[serde(deserialize_with = "lenient::optional_boolean")]
    enable_verification: Option<bool>,
    firmware_tags: Option<BTreeMap<String, Tag>>,
    #[serde(deserialize_with = "lenient::optional_integer")]
    max_allowed_for_verification: Option<i64>,
    #[serde(deserialize_with = "lenient::optional_integer")]
    min_success_for_verified: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Tag(#[serde(deserialize_with = "lenient::text")] String);

impl Metadata {
    pub(super) fn read(text: &[u8], limits: &Limits) -> Result<Self, Failure> {
        let written: Written = from_json(text).map_err(|message| {
            // What a Python client sends that prints its dictionary instead of dumping it.
            let is_python =
                text.trim_ascii_start().strip_prefix(b"{").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"'"));
            let hint = if is_python { "; it is a Python literal with single quotes, send JSON (json.dumps)" } else { "" };
            Failure::invalid(format!("part metadata: {message}{hint}"))
        })?;
        let name = required("name", written.name)?;
        name.check("name", limits.name_chars_max)?;
        let version = required("version", written.version.filter(|version| !version.trim().is_empty()))?;
        let sign = sign(&required("signMethod", written.sign_method)?, &required("sign", written.sign)?)?;
        let enables = required("enableVerification", written.enable_verification)?;
        let verification = verification(written.max_allowed_for_verification, written.min_success_for_verified)?;
        let tags = written.firmware_tags.unwrap_or_default().into_iter().map(|(key, tag)| (key, tag.0)).collect();
        check_tags(&tags)?;
        Ok(Self {
            name,
            version,
            sign,
            description: written.desc.filter(|text| !text.is_empty()),
            verification: enables.then_some(verification),
            tags,
        })
    }

    /// What the engine keeps for this dialect and doesn't look at.
    pub(super) fn annotations(&self) -> Annotations {
        let mut annotations = Annotations::new();
        self.name.annotate(NAME_KEY, &mut annotations);
        annotations.insert(SIGN_METHOD_KEY.into(), self.sign.method().into());
        for (key, value) in &self.tags {
            annotations.insert(format!("{TAG_PREFIX}{key}").into(), value.as_str().into());
        }
        annotations
    }
}

impl Sign {
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Md5(_) => "md5",
            Self::Sha256(_) => "sha256",
        }
    }

    pub(super) fn declared(self) -> Declared {
        match self {
            Self::Md5(md5) => Declared { md5: Some(md5), ..Declared::default() },
            Self::Sha256(sha256) => Declared { sha256: Some(sha256), ..Declared::default() },
        }
    }
}

fn required<T>(field: &str, value: Option<T>) -> Result<T, Failure> {
    value.ok_or_else(|| Failure::invalid(format!("metadata.{field} is required, and is missing or empty; send it")))
}

fn sign(method: &str, sign: &str) -> Result<Sign, Failure> {
    let sign = sign.trim();
    let refuse = |digits: usize| {
        let got: String = sign.chars().take(80).collect();
        Failure::invalid(format!("metadata.sign must be the file's digest in {digits} hexadecimal digits, got {got:?}"))
    };
    match method.trim().to_ascii_lowercase().as_str() {
        "md5" => from_hexadecimal(sign).map(Sign::Md5).ok_or_else(|| refuse(32)),
        "sha256" => from_hexadecimal(sign).map(Sign::Sha256).ok_or_else(|| refuse(64)),
        _ => {
            let got: String = method.chars().take(40).collect();
            Err(Failure::invalid(format!("metadata.signMethod must be md5 or sha256, got {got:?}")))
        }
    }
}

/// Checked also where verification is off: a number out of its range is a slip either way.
fn verification(devices_max: Option<i64>, successes_min: Option<i64>) -> Result<Verification, Failure> {
    let positive = |field: &str, value: Option<i64>| match value {
        None => Ok(None),
        Some(value) => match u32::try_from(value) {
            Ok(count) if count >= 1 => Ok(Some(count)),
            _ => Err(Failure::invalid(format!("metadata.{field} is {value}; give 1 to {}", u32::MAX))),
        },
    };
    let devices_max = positive("maxAllowedForVerification", devices_max)?.unwrap_or(VERIFY_DEVICES_MAX_DEFAULT);
    let successes_min = positive("minSuccessForVerified", successes_min)?.unwrap_or(VERIFY_SUCCESSES_MIN_DEFAULT);
    if successes_min > devices_max {
        return Err(Failure::invalid(format!(
            "metadata.minSuccessForVerified is {successes_min}, and maxAllowedForVerification {devices_max}; give no more successes than devices"
        )));
    }
    Ok(Verification { devices_max, successes_min })
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Failure> {
    if tags.len() > TAGS_MAX {
        return Err(Failure::invalid(format!("metadata.firmwareTags has {} tags; give {TAGS_MAX} at most", tags.len())));
    }
    for (key, value) in tags {
        let (key_chars, value_chars) = (key.chars().count(), value.chars().count());
        if key_chars == 0 || key_chars > TAG_KEY_CHARS_MAX || value_chars > TAG_VALUE_CHARS_MAX {
            return Err(Failure::invalid(format!(
                "metadata.firmwareTags: a key has 1 to {TAG_KEY_CHARS_MAX} characters and a value {TAG_VALUE_CHARS_MAX} at most, \
                 got {key_chars} and {value_chars}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn text(changes: Value) -> String {
        let mut metadata = json!({
            "name": { "defaultValue": "pump", "i18nValue": { "zh_CN": "泵" } },
            "version": "2.0",
            "signMethod": "md5",
            "sign": "d41d8cd98f00b204e9800998ecf8427e",
            "enableVerification": false,
        });
        for (field, value) in changes.as_object().unwrap() {
            metadata[field] = value.clone();
        }
        metadata.to_string()
    }

    fn read(text: &str) -> Result<Metadata, String> {
        Metadata::read(text.as_bytes(), &Limits::default()).map_err(|failure| failure.message)
    }

    #[test]
    fn everything_is_read_however_it_is_written() {
        let read = read(&text(json!({
            "version": 2, "signMethod": "MD5", "sign": " D41D8CD98F00B204E9800998ECF8427E ", "desc": "better", "enableVerification": "true",
            "firmwareTags": { "line": "a", "batch": 7 }, "maxAllowedForVerification": "9", "minSuccessForVerified": 3.0, "unknown": [],
        })))
        .unwrap();
        assert_eq!((read.version.as_str(), read.description.as_deref()), ("2", Some("better")));
        assert!(matches!(read.sign, Sign::Md5(md5) if md5[0] == 0xd4));
        assert_eq!(read.verification, Some(Verification { devices_max: 9, successes_min: 3 }));
        let annotations = read.annotations();
        let kept: Vec<(&str, &str)> = annotations.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(kept, [("enos.name.zh_CN", "泵"), ("enos.sign_method", "md5"), ("enos.tag.batch", "7"), ("enos.tag.line", "a")]);
    }

    #[test]
    fn verification_has_the_platforms_defaults() {
        let verification = |changes| read(&text(changes)).unwrap().verification;
        assert_eq!(verification(json!({})), None);
        let default = Verification { devices_max: 5, successes_min: 1 };
        assert_eq!(verification(json!({ "enableVerification": true })), Some(default));
    }

    #[test]
    fn each_fault_is_named() {
        for (changes, part) in [
            (json!({ "name": null }), "metadata.name is required"),
            (json!({ "name": { "i18nValue": {} } }), "name.defaultValue is missing"),
            (json!({ "name": "n".repeat(1_000_000) }), "characters at most"),
            (json!({ "version": " " }), "metadata.version is required"),
            (json!({ "version": 1.1 }), "field version: expected a text, got a number"),
            (json!({ "version": true }), "field version: expected a text, got true; put it in quotes"),
            (json!({ "firmwareTags": { "x": 1.5 } }), "put it in quotes"),
            (json!({ "signMethod": "sha1" }), "must be md5 or sha256, got \"sha1\""),
            (json!({ "sign": null }), "metadata.sign is required"),
            (json!({ "sign": "abc" }), "32 hexadecimal digits, got \"abc\""),
            (json!({ "signMethod": "sha256" }), "64 hexadecimal digits"),
            (json!({ "enableVerification": null }), "metadata.enableVerification is required"),
            (json!({ "enableVerification": "yes" }), "field enableVerification"),
            (json!({ "maxAllowedForVerification": 0 }), "maxAllowedForVerification is 0"),
            (json!({ "minSuccessForVerified": -1 }), "minSuccessForVerified is -1"),
            (json!({ "minSuccessForVerified": 6 }), "no more successes than devices"),
            (json!({ "firmwareTags": [] }), "field firmwareTags"),
            (json!({ "firmwareTags": { "": "x" } }), "a key has 1 to 50 characters"),
            (json!({ "firmwareTags": { "x": "v".repeat(201) } }), "200 at most"),
        ] {
            let message = read(&text(changes.clone())).unwrap_err();
            assert!(message.contains(part), "{changes}: {message}");
        }
    }

    #[test]
    fn a_python_literal_is_recognised() {
        let message = read("{'name': {'defaultValue': 'x'}, 'enableVerification': True}").unwrap_err();
        assert!(message.starts_with("part metadata: the body is not JSON") && message.contains("Python literal"), "{message}");
        assert!(!read("{").unwrap_err().contains("Python"));
    }
}
