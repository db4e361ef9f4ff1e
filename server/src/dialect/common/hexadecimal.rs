//! Bytes as hexadecimal digits.

use std::fmt::Write as _;

/// In lower case.
pub fn to_hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Exactly `N` bytes, in either case.
pub fn from_hexadecimal<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_back_and_everything_else_is_refused() {
        assert_eq!(to_hexadecimal(&[0, 0x7f, 0xff]), "007fff");
        assert_eq!(from_hexadecimal("007FfF"), Some([0, 0x7f, 0xff]));
        for text in ["", "007ff", "007fff0", "007ffg", "é07ff"] {
            assert_eq!(from_hexadecimal::<3>(text), None, "{text}");
        }
    }
}
