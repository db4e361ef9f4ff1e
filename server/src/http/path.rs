//! Paths taken apart: decoded segment by segment, so that no trick of the encoding reaches a name.

use std::borrow::Cow;

/// Why a path names nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path has a broken percent sequence; write each as % and two hexadecimal digits")]
    Encoding,
    #[error("the path is not UTF-8 once decoded")]
    Utf8,
    #[error("the path names something with a slash, a control character or only dots; no name here has these")]
    Name,
    #[error("the path has more segments than any here")]
    TooDeep,
}

/// More than any route has.
const SEGMENTS_MAX: usize = 32;

/// The decoded segments of a path. A slash at the end makes no segment; an empty one elsewhere stays, and matches nothing.
pub fn segments(path: &str) -> Result<Vec<Cow<'_, str>>, PathError> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let mut segments = Vec::with_capacity(8);
    for raw in path.split('/') {
        if segments.len() == SEGMENTS_MAX {
            return Err(PathError::TooDeep);
        }
        segments.push(segment(raw)?);
    }
    Ok(segments)
}

/// One decoded segment.
pub fn segment(raw: &str) -> Result<Cow<'_, str>, PathError> {
    let decoded = decode(raw, false)?;
    let is_trick = decoded == "." || decoded == ".." || decoded.chars().any(|character| character == '/' || character.is_control());
    if is_trick { Err(PathError::Name) } else { Ok(decoded) }
}

/// Decodes percent sequences; `plus_is_space` as in forms.
pub fn decode(raw: &str, plus_is_space: bool) -> Result<Cow<'_, str>, PathError> {
    if !raw.bytes().any(|byte| byte == b'%' || (plus_is_space && byte == b'+')) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = bytes.next().and_then(hex_digit).ok_or(PathError::Encoding)?;
                let low = bytes.next().and_then(hex_digit).ok_or(PathError::Encoding)?;
                decoded.push(high << 4 | low);
            }
            b'+' if plus_is_space => decoded.push(b' '),
            other => decoded.push(other),
        }
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| PathError::Utf8)
}

fn hex_digit(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded_one_by_one() {
        assert_eq!(segments("/api/v1/products/a%20b/").unwrap(), ["api", "v1", "products", "a b"]);
        assert_eq!(segments("/").unwrap(), [""; 0]);
        assert_eq!(segments("/a//b").unwrap(), ["a", "", "b"]);
        assert_eq!(segments("/%E6%B0%B4").unwrap(), ["水"]);
    }

    #[test]
    fn path_tricks_are_refused() {
        for (path, error) in [
            ("/a%2fb", PathError::Name),
            ("/a/../b", PathError::Name),
            ("/a/%2e%2E/b", PathError::Name),
            ("/./a", PathError::Name),
            ("/a%00", PathError::Name),
            ("/a%0d%0aSet-Cookie", PathError::Name),
            ("/%ff", PathError::Utf8),
            ("/%c0%af", PathError::Utf8),
            ("/%", PathError::Encoding),
            ("/%4", PathError::Encoding),
            ("/%zz", PathError::Encoding),
        ] {
            assert_eq!(segments(path), Err(error), "{path}");
        }
        assert_eq!(segments(&"/a".repeat(100)), Err(PathError::TooDeep));
    }
}
