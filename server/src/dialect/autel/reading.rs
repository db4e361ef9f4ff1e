//! What all readers here share.
//!
//! Lenient in, in two degrees. A field that decides something may be a text where it should be a number, may be `null` or absent, but
//! not of another shape: then the message is [`Malformed`]. A field that only adorns (`percent`, `timestamp`) is absent where it can't
//! be read: a percent of "half" must not cost us the word that the upgrade failed.

use crate::dialect::common::{decode, lenient};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

const MESSAGE_CHARS_MAX: usize = 300;

/// A message that can't be read: what was expected, and what came instead. The sender's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(Box<str>);

impl Malformed {
    pub(super) fn new(message: &str) -> Self {
        Self(printable(message, MESSAGE_CHARS_MAX).into())
    }
}

pub(super) fn from_json<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, Malformed> {
    decode::from_json(text).map_err(|message| Malformed::new(&message))
}

pub(super) fn from_value<'de, T: Deserialize<'de>>(value: &'de Value) -> Result<T, Malformed> {
    decode::from_value(value).map_err(|message| Malformed::new(&message))
}

/// An integer; none where it can't be read.
pub(super) fn integer_if_any<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i128>,
{
    let value = Value::deserialize(deserializer)?;
    Ok(lenient::optional_integer(&value).unwrap_or_default())
}

/// A boolean; none where it can't be read.
pub(super) fn boolean_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(lenient::optional_boolean(&value).unwrap_or_default())
}

/// A text without blanks around it; none where it is empty or can't be read.
pub(super) fn text_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(filled(lenient::optional_text(&value).unwrap_or_default()))
}

/// A text without blanks around it; none where it is empty.
pub(super) fn filled_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    lenient::optional_text(deserializer).map(filled)
}

fn filled(text: Option<String>) -> Option<String> {
    let text = text?;
    let trimmed = text.trim();
    match trimmed.len() {
        0 => None,
        len if len == text.len() => Some(text),
        _ => Some(trimmed.to_owned()),
    }
}

/// The start of a text that came from outside, each control character in it a blank.
pub(super) fn printable(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Adornments {
        #[serde(deserialize_with = "integer_if_any")]
        number: Option<u8>,
        #[serde(deserialize_with = "boolean_if_any")]
        flag: Option<bool>,
        #[serde(deserialize_with = "text_if_any")]
        text: Option<String>,
    }

    #[test]
    fn an_adornment_that_cannot_be_read_is_absent() {
        let read = |value: Value| from_value::<Adornments>(&value).unwrap();
        let full = Adornments { number: Some(7), flag: Some(true), text: Some("x".into()) };
        assert_eq!(read(json!({ "number": " 07", "flag": 1, "text": " x " })), full);
        for value in [json!({}), json!({ "number": null, "flag": null, "text": null })] {
            assert_eq!(read(value), Adornments::default());
        }
        for wrong in [json!([]), json!({ "a": [] }), json!(1.5), json!(1e300), json!("")] {
            let value = json!({ "number": wrong, "flag": wrong, "text": wrong });
            assert_eq!(read(value.clone()), Adornments::default(), "{value}");
        }
        assert_eq!(read(json!({ "number": 256 })), Adornments::default());
    }

    #[test]
    fn what_was_wrong_is_told_in_few_printable_characters() {
        let long = Malformed::new(&"\u{7}ü".repeat(1_000)).to_string();
        assert_eq!(long.chars().count(), MESSAGE_CHARS_MAX);
        assert!(!long.contains(char::is_control));
    }
}
