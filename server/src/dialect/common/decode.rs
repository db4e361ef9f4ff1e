//! JSON bodies into values, and what was wrong with one in a sentence.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads `text` as a JSON object of this shape; on failure: `field a.b: expected …, got …`.
///
/// The path to the fault is looked for only after a failed read: a good body pays nothing for it. An array is refused here because
/// serde would take its entries for the fields in their order.
pub fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    if text.trim_ascii_start().first() == Some(&b'[') {
        return Err("expected an object, got an array".to_owned());
    }
    serde_json::from_slice(text).or_else(|error| {
        if error.is_syntax() || error.is_eof() {
            return Err(format!("the body is not JSON: {error}"));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| at_path(&error))
    })
}

/// Reads a value that is parsed already, and must be an object, as this shape; told as [`from_json`] tells it.
pub fn from_value<'de, T: Deserialize<'de>>(value: &'de Value) -> Result<T, String> {
    match value {
        Value::Object(_) => serde_path_to_error::deserialize(value).map_err(|error| at_path(&error)),
        Value::Null => Err("expected an object, got null".to_owned()),
        Value::Bool(_) => Err("expected an object, got a boolean".to_owned()),
        Value::Number(_) => Err("expected an object, got a number".to_owned()),
        Value::String(_) => Err("expected an object, got a text".to_owned()),
        Value::Array(_) => Err("expected an object, got an array".to_owned()),
    }
}

fn at_path(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let path = error.path().to_string();
    let message = reword(&error.inner().to_string());
    if path == "." { message } else { format!("field {path}: {message}") }
}

/// serde says `invalid type: string "x", expected u32 at line 1 column 9`; we say `expected u32, got string "x"`.
fn reword(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let rest = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    match rest.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((got, expected)) => format!("expected {expected}, got {}", got.chars().take(200).collect::<String>()),
        None => message.chars().take(300).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[expect(dead_code, reason = "only what fails is looked at")]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[expect(dead_code, reason = "only what fails is looked at")]
        count: u32,
    }

    #[test]
    fn a_fault_is_told_with_its_place_and_what_was_expected() {
        for (text, message) in [
            (r#"{"inner":[{"count":"x"}]}"#, "field inner[0].count: expected u32, got string \"x\""),
            (r#"{"inner":[{"count":-1}]}"#, "field inner[0].count: expected u32, got integer `-1`"),
            (r#"{"inner":[{}]}"#, "field inner[0]: missing field `count`"),
            ("{}", "missing field `inner`"),
            ("[[]]", "expected an object, got an array"),
            ("7", "expected struct Outer, got integer `7`"),
            ("{", "the body is not JSON"),
            ("", "the body is not JSON"),
        ] {
            let got = from_json::<Outer>(text.as_bytes()).unwrap_err();
            assert!(got.starts_with(message), "{text}: {got}");
        }
    }

    #[test]
    fn a_fault_in_a_value_is_told_as_that_in_a_text() {
        for (value, message) in [
            (json!({ "inner": [{ "count": "x" }] }), "field inner[0].count: expected u32, got string \"x\""),
            (json!({}), "missing field `inner`"),
            (json!([[]]), "expected an object, got an array"),
            (json!(null), "expected an object, got null"),
            (json!("x"), "expected an object, got a text"),
        ] {
            let got = from_value::<Outer>(&value).unwrap_err();
            assert_eq!(got, message, "{value}");
        }
    }
}
