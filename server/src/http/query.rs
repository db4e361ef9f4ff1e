//! The query of a target: form-encoded, the first of a repeated key counts.

use super::path::{PathError, decode};
use std::borrow::Cow;

/// The decoded pairs of a query, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// More than any call takes; what comes after is refused rather than ignored.
const PAIRS_MAX: usize = 64;

impl<'a> Query<'a> {
    pub fn parse(query: Option<&'a str>) -> Result<Self, PathError> {
        let mut pairs = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            if pairs.len() == PAIRS_MAX {
                return Err(PathError::TooDeep);
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(key, true)?, decode(value, true)?));
        }
        Ok(Self(pairs))
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_repeated_key_counts() {
        let query = Query::parse(Some("a=1&b=x+y%26z&a=2&flag&=empty&")).unwrap();
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.get("b"), Some("x y&z"));
        assert_eq!(query.get("flag"), Some(""));
        assert_eq!(query.get("none"), None);
    }

    #[test]
    fn a_broken_or_endless_query_is_refused() {
        assert_eq!(Query::parse(Some("a=%f")), Err(PathError::Encoding));
        assert_eq!(Query::parse(Some("a=%ff")), Err(PathError::Utf8));
        assert_eq!(Query::parse(Some(&"a&".repeat(65))), Err(PathError::TooDeep));
    }
}
