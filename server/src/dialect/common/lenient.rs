//! Lenient in: numbers and booleans as platforms' own examples write them.
//!
//! For `#[serde(deserialize_with = "…")]`, together with `#[serde(default)]` where the field may be absent. A number may be a text
//! (blanks around it and zeros before it don't count), a boolean may be a text or 0 and 1, a text may be an integer, an explicit `null`
//! is as good as nothing. What is out is always a real number or boolean: see `encode` of each dialect.

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// An integer, `null` refused.
pub fn integer<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i128>,
{
    optional_integer(deserializer)?.ok_or_else(|| de::Error::invalid_type(de::Unexpected::Unit, &"an integer"))
}

/// An integer; `null` and the empty text are none.
pub fn optional_integer<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i128>,
{
    deserializer.deserialize_any(IntegerVisitor(PhantomData))
}

/// A boolean; `null` and the empty text are none.
pub fn optional_boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    deserializer.deserialize_any(BooleanVisitor)
}

/// A boolean, false where it is `null`.
pub fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    optional_boolean(deserializer).map(Option::unwrap_or_default)
}

/// A text; an integer counts as its own text, `null` is none. Of no other number is it known how it was written (1.10 comes here as 1.1,
/// 1e3 as 1000), and a version that is read as another one finds other devices: such numbers are refused, and so are booleans.
pub fn optional_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    deserializer.deserialize_any(TextVisitor)
}

/// A text, `null` refused.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    optional_text(deserializer)?.ok_or_else(|| de::Error::invalid_type(de::Unexpected::Unit, &"a text"))
}

/// An object, and nothing else: serde would take the entries of an array for the fields in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(PhantomData))
    }
}

/// The integer that a text stands for.
pub fn parse_integer(text: &str) -> Option<i128> {
    let text = text.trim();
    let digits = text.strip_prefix('-').unwrap_or(text);
    // No sign but minus, no separators, and no more digits than any of our integers has.
    let is_integer = !digits.is_empty() && digits.len() <= 60 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_integer {
        return None;
    }
    let significant = digits.trim_start_matches('0');
    let magnitude: i128 = if significant.is_empty() { 0 } else { significant.parse().ok()? };
    Some(if text.starts_with('-') { -magnitude } else { magnitude })
}

/// The boolean that a text stands for.
pub fn parse_boolean(text: &str) -> Option<bool> {
    match text.trim() {
        "1" => Some(true),
        "0" => Some(false),
        text if text.eq_ignore_ascii_case("true") => Some(true),
        text if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries)).map(Object)
    }
}

struct IntegerVisitor<T>(PhantomData<T>);

impl<T: TryFrom<i128>> IntegerVisitor<T> {
    fn fit<E: de::Error>(value: i128) -> Result<Option<T>, E> {
        T::try_from(value).map(Some).map_err(|_| E::custom(format_args!("{value} is out of range")))
    }
}

impl<'de, T: TryFrom<i128>> Visitor<'de> for IntegerVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an integer, or a text of one")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Self::fit(i128::from(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Self::fit(i128::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        // 3.0 is what some JSON libraries make of 3.
        if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
            Self::fit(value as i128)
        } else {
            Err(E::invalid_value(de::Unexpected::Float(value), &self))
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        match parse_integer(text) {
            Some(value) => Self::fit(value),
            None => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

struct BooleanVisitor;

impl<'de> Visitor<'de> for BooleanVisitor {
    type Value = Option<bool>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("true or false")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        match value {
            0 | 1 => Ok(Some(value == 1)),
            _ => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        match value {
            0 | 1 => Ok(Some(value == 1)),
            _ => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        parse_boolean(text).map(Some).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Option<String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(Some(text))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Err(E::custom(format_args!("expected a text, got {value}; put it in quotes")))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, _value: f64) -> Result<Self::Value, E> {
        Err(E::custom("expected a text, got a number with a point or an exponent, or a very long one; put it in quotes"))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Fields {
        #[serde(deserialize_with = "optional_integer")]
        number: Option<u16>,
        #[serde(deserialize_with = "boolean")]
        flag: bool,
        #[serde(deserialize_with = "optional_text")]
        name: Option<String>,
    }

    fn read(text: &str) -> Result<Fields, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_and_booleans_may_be_texts_and_null_is_absent() {
        let full = Fields { number: Some(7), flag: true, name: Some("3".into()) };
        for text in [
            r#"{"number":7,"flag":true,"name":"3"}"#,
            r#"{"number":"7","flag":"true","name":3}"#,
            r#"{"number":" 007 ","flag":"TRUE","name":"3"}"#,
            r#"{"number":7.0,"flag":1,"name":3,"unknown":[]}"#,
        ] {
            assert_eq!(read(text), Ok(Fields { number: full.number, flag: full.flag, name: full.name.clone() }), "{text}");
        }
        for text in ["{}", r#"{"number":null,"flag":null,"name":null}"#, r#"{"number":""}"#] {
            assert_eq!(read(text), Ok(Fields::default()), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused_with_what_was_expected() {
        for text in [r#"{"number":"seven"}"#, r#"{"number":"+7"}"#, r#"{"number":7.5}"#, r#"{"number":[7]}"#, r#"{"number":true}"#]
        {
            let message = read(text).unwrap_err();
            assert!(message.contains("expected an integer, or a text of one"), "{text}: {message}");
        }
        assert!(read(r#"{"number":65536}"#).unwrap_err().contains("out of range"));
        assert!(read(r#"{"number":"-1"}"#).unwrap_err().contains("out of range"));
        assert!(read(r#"{"number":"1e3"}"#).is_err());
        assert!(read(r#"{"flag":2}"#).is_err() && read(r#"{"flag":"yes"}"#).is_err());
    }

    #[test]
    fn a_text_is_an_integer_but_no_number_that_would_become_another_text() {
        for (text, name) in
            [(r#"{"name":0}"#, "0"), (r#"{"name":-7}"#, "-7"), (r#"{"name":18446744073709551615}"#, "18446744073709551615")]
        {
            assert_eq!(read(text).unwrap().name.as_deref(), Some(name), "{text}");
        }
        for value in ["1.10", "2.0", "1e3", "1E-3", "-0.0", "18446744073709551616", "true", "false"] {
            let message = read(&format!(r#"{{"name":{value}}}"#)).unwrap_err();
            assert!(message.contains("expected a text, got") && message.contains("put it in quotes"), "{value}: {message}");
        }
    }

    #[test]
    fn an_object_is_no_array() {
        let read = |text: &str| serde_json::from_str::<Option<Object<Fields>>>(text).map_err(|error| error.to_string());
        assert_eq!(read("null"), Ok(None));
        assert_eq!(read(r#"{"number":7}"#), Ok(Some(Object(Fields { number: Some(7), ..Fields::default() }))));
        for text in ["[]", "[7,true]", "7", "\"x\""] {
            assert!(read(text).unwrap_err().contains("expected an object"), "{text}");
        }
    }

    #[test]
    fn a_text_of_any_length_is_read_without_overflow() {
        assert_eq!(parse_integer(&"0".repeat(50)), Some(0));
        assert_eq!(parse_integer(&"9".repeat(50)), None);
        assert_eq!(parse_integer(&"0".repeat(1000)), None);
        assert_eq!(parse_integer("-"), None);
    }
}
