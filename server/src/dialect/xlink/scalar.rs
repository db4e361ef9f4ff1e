//! One value of a body, however the client wrote it.
//!
//! The platform's pages show every value as a string, its clients send numbers, strings of numbers, padded ones (`"01"`), and empty
//! ones (`""`). All of them are read; `null` and an empty text are the same as absent. What a value means, and its range, is the
//! business of [`decode`](super::decode).

use super::status::{Code, Failure};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Scalar<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Integer(i64),
    Boolean(bool),
    /// An array, an object, or a number that is not whole: never what a field wants.
    Unfit,
}

impl Scalar<'_> {
    fn is_absent(&self) -> bool {
        match self {
            Self::Absent => true,
            Self::Text(text) => text.trim().is_empty(),
            _ => false,
        }
    }

    /// The text as written; a number's decimal text.
    pub(super) fn text(&self, field: &str) -> Result<Option<Cow<'_, str>>, Failure> {
        if self.is_absent() {
            return Ok(None);
        }
        match self {
            Self::Text(text) => Ok(Some(Cow::Borrowed(text))),
            Self::Integer(number) => Ok(Some(Cow::Owned(number.to_string()))),
            _ => Err(self.wrong_type(field, "a text")),
        }
    }

    pub(super) fn integer(&self, field: &str) -> Result<Option<i64>, Failure> {
        if self.is_absent() {
            return Ok(None);
        }
        match self {
            Self::Integer(number) => Ok(Some(*number)),
            Self::Text(text) => text.trim().parse().map(Some).map_err(|_| self.wrong_type(field, "a whole number")),
            _ => Err(self.wrong_type(field, "a whole number")),
        }
    }

    pub(super) fn boolean(&self, field: &str) -> Result<Option<bool>, Failure> {
        if self.is_absent() {
            return Ok(None);
        }
        match self {
            Self::Boolean(flag) => Ok(Some(*flag)),
            Self::Integer(0) => Ok(Some(false)),
            Self::Integer(1) => Ok(Some(true)),
            Self::Text(text) => match text.trim() {
                "false" | "0" => Ok(Some(false)),
                "true" | "1" => Ok(Some(true)),
                _ => Err(self.wrong_type(field, "true or false")),
            },
            _ => Err(self.wrong_type(field, "true or false")),
        }
    }

    pub(super) fn integer_in(&self, field: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Failure> {
        let Some(number) = self.integer(field)? else { return Ok(None) };
        if !range.contains(&number) {
            let (first, last) = (range.start(), range.end());
            return Err(Failure::invalid(format!("{field} must be from {first} to {last}, got {number}")));
        }
        Ok(Some(number))
    }

    /// A text of at most `chars_max` characters (Unicode scalar values, not bytes).
    pub(super) fn text_within(&self, field: &str, chars_max: usize) -> Result<Option<String>, Failure> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        let chars = text.chars().count();
        if chars > chars_max {
            return Err(Failure::invalid(format!("{field} may have {chars_max} characters at most, got {chars}; shorten it")));
        }
        Ok(Some(text.into_owned()))
    }

    fn wrong_type(&self, field: &str, wanted: &str) -> Failure {
        let got = match self {
            Self::Text(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
            Self::Integer(number) => number.to_string(),
            Self::Boolean(flag) => flag.to_string(),
            Self::Absent => "nothing".to_owned(),
            Self::Unfit => "an array, an object or a fraction".to_owned(),
        };
        Failure::invalid(format!("{field} must be {wanted}, got {got}"))
    }
}

/// Refuses a field that must be there and isn't.
pub(super) fn required<T>(field: &str, value: Option<T>) -> Result<T, Failure> {
    value.ok_or_else(|| Failure::new(Code::FieldMissing, format!("{field} is required, and is missing or empty; send it")))
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Scalar<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a value")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Integer(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(i64::try_from(number).map_or(Scalar::Unfit, Scalar::Integer))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                // A client in a language without integers may write 2.0; beyond 2^53 a double no longer tells which number it was.
                let whole = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
                Ok(if whole { Scalar::Integer(number as i64) } else { Scalar::Unfit })
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Self::Value, E> {
                Ok(Scalar::Boolean(flag))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Scalar::Absent)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                while entries.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Unfit)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Unfit)
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Scalar<'_> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn numbers_are_read_however_they_are_written() {
        for json in ["7", "\"7\"", "\" 07 \"", "7.0", "\"0000000000007\""] {
            assert_eq!(read(json).integer("x").unwrap(), Some(7), "{json}");
        }
        for json in ["null", "\"\"", "\"  \""] {
            assert_eq!(read(json).integer("x").unwrap(), None, "{json}");
        }
        for json in ["true", "[]", "{\"a\":[1]}", "7.5", "\"7a\"", "99999999999999999999", "1e300"] {
            assert_eq!(read(json).integer("x").unwrap_err().code, Code::FieldInvalid, "{json}");
        }
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        let name = format!("\"{}\"", "升".repeat(32));
        assert!(read(&name).text_within("name", 32).is_ok());
        assert_eq!(
            read(&name).text_within("name", 31).unwrap_err().message,
            "name may have 31 characters at most, got 32; shorten it"
        );
    }

    #[test]
    fn flags_are_read_however_they_are_written() {
        for (json, expected) in [("true", true), ("\"true\"", true), ("1", true), ("false", false), ("\"0\"", false)] {
            assert_eq!(read(json).boolean("x").unwrap(), Some(expected), "{json}");
        }
        assert!(read("\"yes\"").boolean("x").is_err());
    }
}
