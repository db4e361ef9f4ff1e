//! JSON bodies into values, and what was wrong with one in a sentence.

use serde::de::DeserializeOwned;

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
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let message = reword(&error.inner().to_string());
            if path == "." { message } else { format!("field {path}: {message}") }
        })
    })
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
    use serde::Deserialize;

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
}
