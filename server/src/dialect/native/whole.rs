//! JSON values as clients write them: a number may come as a number or as its digits in a string. Each type names its range in what
//! it refuses; where values are shown, they are numbers.

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::{Serialize, Serializer};
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

impl<T: Serialize> Serialize for Whole<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
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

/// A share of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percent(pub(super) u8);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Whole(value) = Whole::<u32>::deserialize(deserializer)?;
        match u8::try_from(value) {
            Ok(percent @ 0..=100) => Ok(Self(percent)),
            _ => Err(D::Error::invalid_value(Unexpected::Unsigned(value.into()), &"a whole number from 0 to 100")),
        }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.0)
    }
}

/// A whole number that may be below zero, as devices number their failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signed(pub(super) i32);

impl<'de> Deserialize<'de> for Signed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SignedVisitor)
    }
}

impl Serialize for Signed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(self.0)
    }
}

struct SignedVisitor;

impl Visitor<'_> for SignedVisitor {
    type Value = Signed;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a whole number from -2147483648 to 2147483647")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Signed, E> {
        i32::try_from(value).map(Signed).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Signed, E> {
        i32::try_from(value).map(Signed).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Signed, E> {
        value.trim().parse().map(Signed).map_err(|_| E::invalid_value(Unexpected::Str(value.get(..80).unwrap_or(value)), &self))
    }
}

/// A factor with at most two places after the point, held exactly: in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Factor(pub(super) u32);

impl<'de> Deserialize<'de> for Factor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FactorVisitor)
    }
}

impl Serialize for Factor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 % 100 {
            0 => serializer.serialize_u32(self.0 / 100),
            // The nearest float to the quotient is the one that its two places are read to.
            _ => serializer.serialize_f64(f64::from(self.0) / 100.0),
        }
    }
}

struct FactorVisitor;

impl Visitor<'_> for FactorVisitor {
    type Value = Factor;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a factor with at most two places after the point, as in 1.25")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Factor, E> {
        let percent = value.checked_mul(100).and_then(|percent| u32::try_from(percent).ok());
        percent.map(Factor).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Factor, E> {
        Err(E::invalid_value(Unexpected::Signed(value), &self))
    }

    /// A float is written with as few digits as tell it from its neighbours, so one that was sent with two places has two again.
    fn visit_f64<E: Error>(self, value: f64) -> Result<Factor, E> {
        percent(&value.to_string()).map(Factor).ok_or_else(|| E::invalid_value(Unexpected::Float(value), &self))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Factor, E> {
        let refused = || E::invalid_value(Unexpected::Str(value.get(..80).unwrap_or(value)), &self);
        percent(value.trim()).map(Factor).ok_or_else(refused)
    }
}

/// `1.5` is 150.
fn percent(text: &str) -> Option<u32> {
    let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(places) || places.len() > 2 {
        return None;
    }
    let hundredths: u32 = format!("{places:0<2}").parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(hundredths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_exact_in_percent_and_is_shown_as_it_came() {
        for (text, factor) in
            [("2", 200), ("1.5", 150), ("1.15", 115), ("2.01", 201), ("0.29", 29), ("1.10", 110), ("\"1.25\"", 125)]
        {
            assert_eq!(serde_json::from_str::<Factor>(text).unwrap(), Factor(factor), "{text}");
        }
        for factor in 0..=1_000 {
            let text = serde_json::to_string(&Factor(factor)).unwrap();
            assert_eq!(serde_json::from_str::<Factor>(&text).unwrap(), Factor(factor), "{text}");
        }
        for text in
            ["1.555", "-1", "-1.5", "1e99", "1.001", "\"\"", "\"1.\"", "\".5\"", "\"+1\"", "\"1,5\"", "true", "null", "42949673"]
        {
            let refused = serde_json::from_str::<Factor>(text).unwrap_err().to_string();
            assert!(refused.contains("a factor with at most two places after the point"), "{text}: {refused}");
        }
    }

    #[test]
    fn a_share_and_a_code_are_told_their_ranges() {
        assert_eq!(serde_json::from_str::<Percent>("\"100\"").unwrap(), Percent(100));
        for text in ["101", "256", "4000000000"] {
            assert!(serde_json::from_str::<Percent>(text).unwrap_err().to_string().contains("from 0 to 100"), "{text}");
        }
        for (text, code) in [("-7", -7), ("\"-7\"", -7), ("2147483647", i32::MAX)] {
            assert_eq!(serde_json::from_str::<Signed>(text).unwrap(), Signed(code), "{text}");
        }
        for text in ["2147483648", "1.5", "\"x\"", "-3000000000", "null"] {
            assert!(serde_json::from_str::<Signed>(text).unwrap_err().to_string().contains("-2147483648"), "{text}");
        }
    }

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
