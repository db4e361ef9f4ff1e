//! The devices of a snapshot as text, for the task's row.

use roaring::RoaringBitmap;
use std::fmt::Write;
use std::sync::Arc;

pub(super) fn write(members: &RoaringBitmap) -> Arc<str> {
    let mut bytes = Vec::with_capacity(members.serialized_size());
    // Writing to a vector doesn't fail.
    let _ = members.serialize_into(&mut bytes);
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.into()
}

/// A text that isn't one of ours selects nobody: a damaged row must not widen a rollout.
pub(super) fn read(text: &str) -> RoaringBitmap {
    let digits = text.as_bytes();
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| {
            std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2).and_then(|pair| u8::from_str_radix(pair, 16).ok())
        })
        .collect();
    bytes.and_then(|bytes| RoaringBitmap::deserialize_from(&bytes[..]).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_read_back_and_a_damaged_text_selects_nobody() {
        let members: RoaringBitmap = (0..100_000).filter(|number| number % 7 != 0).collect();
        let text = write(&members);
        assert_eq!(read(&text), members);
        assert!(read(&text[1..]).is_empty());
        assert!(read("zz").is_empty());
        assert!(read("").is_empty());
    }
}
