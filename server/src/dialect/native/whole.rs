//! JSON values as clients write them: a whole number may come as a number or as its digits in a string.

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A whole number in the range of `T`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Whole<T>(pub(super) T);

/// The unsigned types that numbers on the wire have, with their ranges for messages.
pub(super) trait Unsigned: TryFrom<u64> {
    const EXPECTED: &'static str;
}

impl Unsigned for u8 {
    const EXPECTED: &'static str = "a whole number from 0 to 255";
}

impl Unsigned for u16 {
    const EXPECTED: &'static str = "a whole number from 0 to 65535";
}

impl Unsigned for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";
}

impl Unsigned for u64 {
    const EXPECTED: &'static str = "a whole number from 0 to 18446744073709551615";
}

impl<'de, T: Unsigned> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeVisitor(PhantomData))
    }
}

struct WholeVisitor<T>(PhantomData<T>);

impl<T: Unsigned> Visitor<'_> for WholeVisitor<T> {
    type Value = Whole<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(T::EXPECTED)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Whole<T>, E> {
        T::try_from(value).map(Whole).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Whole<T>, E> {
        let refused = E::invalid_value(Unexpected::Signed(value), &self);
        u64::try_from(value).ok().and_then(|value| T::try_from(value).ok()).map(Whole).ok_or(refused)
    }

    /// `4.0` is how some languages write 4.
    fn visit_f64<E: Error>(self, value: f64) -> Result<Whole<T>, E> {
        // Up to 2^53 every whole number has one float of its own.
        if value.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&value) {
            return self.visit_u64(value as u64);
        }
        Err(E::invalid_value(Unexpected::Float(value), &self))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Whole<T>, E> {
        let digits = value.trim();
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let refused = || E::invalid_value(Unexpected::Str(value.get(..80).unwrap_or(value)), &self);
        let number: u64 = if is_number { digits.parse().map_err(|_| refused())? } else { return Err(refused()) };
        T::try_from(number).map(Whole).map_err(|_| refused())
    }
}

/// What kind of processor a component is: one word for it in every dialect, so one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ComponentType(pub(super) u16);

impl<'de> Deserialize<'de> for ComponentType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Whole(value) = Whole::<u16>::deserialize(deserializer)?;
        let expected = &"1 (the main processor), 2 (a further processor) or 3 (a sub-device)";
        if (1..=3).contains(&value) {
            Ok(Self(value))
        } else {
            Err(D::Error::invalid_value(Unexpected::Unsigned(value.into()), expected))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_type_that_no_device_has_is_refused() {
        assert_eq!(serde_json::from_str::<ComponentType>("\"2\"").unwrap(), ComponentType(2));
        for text in ["0", "4", "99", "65536"] {
            assert!(serde_json::from_str::<ComponentType>(text).unwrap_err().to_string().contains("expected"), "{text}");
        }
    }

    #[test]
    fn a_whole_number_comes_as_a_number_or_as_its_digits() {
        for text in ["7", "\"7\"", "\" 7 \"", "7.0", "\"007\""] {
            assert_eq!(serde_json::from_str::<Whole<u8>>(text).unwrap(), Whole(7), "{text}");
        }
        for text in ["256", "-1", "7.5", "\"\"", "\"seven\"", "\"-7\"", "\"7.0\"", "null", "true", "[]", "\"99999999999999999999\""]
        {
            let refused = serde_json::from_str::<Whole<u8>>(text).unwrap_err().to_string();
            assert!(refused.contains("a whole number from 0 to 255"), "{text}: {refused}");
        }
    }
}
