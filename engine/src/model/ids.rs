//! Identities. Each says when it changes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl $name {
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

number!(
    /// A product's place in this store.
    ProductNumber
);
number!(
    /// A device's place in this store; also its bit in every set of devices.
    DeviceNumber
);
number!(
    /// A task's place in this store. Larger means created later.
    TaskNumber
);
number!(
    /// A firmware's place in this store.
    FirmwareNumber
);

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} has {expected} hexadecimal digits, got {got:?}")]
pub struct IdError {
    what: &'static str,
    expected: usize,
    got: String,
}

impl IdError {
    fn new(what: &'static str, expected: usize, got: &str) -> Self {
        Self { what, expected, got: got.chars().take(80).collect() }
    }
}

/// Reads exactly `N` bytes of lower- or upper-case hexadecimal.
fn parse_hex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], IdError> {
    let refuse = || IdError::new(what, N * 2, text);
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return Err(refuse());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16).ok_or_else(refuse)?;
        let low = (pair[1] as char).to_digit(16).ok_or_else(refuse)?;
        *byte = (high * 16 + low) as u8;
    }
    Ok(bytes)
}

/// Writes all digits at once: every offer has four ids in it, and each call to a formatter costs more than a digit does.
fn write_hex<const N: usize>(formatter: &mut fmt::Formatter<'_>, bytes: [u8; N]) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let pairs = bytes.map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    formatter.write_str(std::str::from_utf8(pairs.as_flattened()).map_err(|_| fmt::Error)?)
}

macro_rules! row_id {
    ($(#[$doc:meta])* $name:ident, $number:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// Written as 24 hexadecimal digits: the second of its creation, four bytes that name the store, and its number there.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name {
            pub created_s: u32,
            pub store: u32,
            pub number: $number,
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = u128::from(self.created_s) << 64 | u128::from(self.store) << 32 | u128::from(self.number.0);
                let [_, _, _, _, bytes @ ..] = value.to_be_bytes();
                write_hex(formatter, bytes)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let bytes: [u8; 12] = parse_hex($what, text)?;
                let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
                Ok(Self { created_s: word(0), store: word(4), number: $number(word(8)) })
            }
        }
    };
}

row_id!(
    /// Names a task. Never changes and is never given to another.
    TaskId,
    TaskNumber,
    "a task id"
);
row_id!(
    /// Names a firmware. Never changes and is never given to another.
    FirmwareId,
    FirmwareNumber,
    "a firmware id"
);

/// Names one attempt of one device at one task: a new attempt has a new id, so a late report of an old one can't end it.
///
/// Written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UpgradeId {
    pub task: TaskNumber,
    pub device: DeviceNumber,
    /// The sequence number of the event that told of the offer.
    pub offer: u64,
}

impl fmt::Display for UpgradeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from(self.task.0) << 96 | u128::from(self.device.0) << 64 | u128::from(self.offer);
        write_hex(formatter, value.to_be_bytes())
    }
}

impl FromStr for UpgradeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes: [u8; 16] = parse_hex("an upgrade id", text)?;
        let value = u128::from_be_bytes(bytes);
        Ok(Self { task: TaskNumber((value >> 96) as u32), device: DeviceNumber((value >> 64) as u32), offer: value as u64 })
    }
}

/// The SHA-256 of an image's bytes: changes with any byte of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ImageId(pub [u8; 32]);

impl fmt::Display for ImageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(formatter, self.0)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for ImageId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex("an image id (SHA-256)", text).map(Self)
    }
}

/// The public half of a token, by which it is found and revoked. 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(formatter, self.0.to_be_bytes())
    }
}

impl FromStr for TokenId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex("a token id", text).map(|bytes| Self(u64::from_be_bytes(bytes)))
    }
}

/// What an application logs in with; its customers' `appKey`, `appId` or access-key id.
pub type AppId = std::sync::Arc<str>;

/// A subscription's name, given once.
pub type SubscriptionId = std::sync::Arc<str>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_write() {
        let task = TaskId { created_s: 0x5ee1_a910, store: 7, number: TaskNumber(42) };
        assert_eq!(task.to_string(), "5ee1a910000000070000002a");
        assert_eq!(task.to_string().parse(), Ok(task));
        let upgrade = UpgradeId { task: TaskNumber(1), device: DeviceNumber(u32::MAX), offer: u64::MAX - 1 };
        assert_eq!(upgrade.to_string().parse(), Ok(upgrade));
        let image = ImageId(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(image.to_string().parse(), Ok(image));
    }

    #[test]
    fn a_text_that_is_no_id_is_refused_with_what_was_expected() {
        for text in ["", "5ee1a910", "5ee1a910000000070000002g", "5ee1a910000000070000002a0", "é".repeat(12).as_str()] {
            assert!(text.parse::<TaskId>().is_err(), "{text:?}");
        }
        assert_eq!("xyz".parse::<TaskId>().unwrap_err().to_string(), "a task id has 24 hexadecimal digits, got \"xyz\"");
    }
}
