//! Lists: `{"items":[…],"cursor":null|"…"}`.
//!
//! A page ends at `limit` items or when its text has grown long, whichever comes first; the cursor says where the next one begins. A
//! cursor is opaque to clients: the kind of the list in a letter, and the last key shown.

use super::failure::Failure;
use crate::http::{Query, Reply, json_bytes};
use ::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Serialize;

/// The contract's bound.
const LIMIT_MAX: usize = 1_000;
const LIMIT_DEFAULT: usize = 100;
/// A task may name 100,000 devices: a thousand of those must not become one reply. Passed by at most one item.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// What a list was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) limit: usize,
    cursor: Option<String>,
}

impl Wanted {
    pub(super) fn read(query: &Query<'_>) -> Result<Self, Failure> {
        let limit = match query.get("limit") {
            None => LIMIT_DEFAULT,
            Some(text) => {
                let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                limit.ok_or_else(|| {
                    Failure::invalid(format!("limit is {:?}; give 1 to {LIMIT_MAX}", super::failure::shortened(text, 40)))
                })?
            }
        };
        Ok(Self { limit, cursor: query.get("cursor").filter(|cursor| !cursor.is_empty()).map(str::to_owned) })
    }

    /// One more than is shown, so that it is known whether there are more.
    pub(super) fn fetch(&self) -> usize {
        self.limit + 1
    }

    /// Where to go on, in a list whose keys are numbers.
    pub(super) fn after_number(&self, kind: Kind) -> Result<Option<u32>, Failure> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let digits = cursor.strip_prefix(kind.letter()).filter(|digits| digits.len() == 8);
        let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        number.map(Some).ok_or_else(unknown_cursor)
    }

    /// Where to go on, in a list whose keys are texts.
    pub(super) fn after_text(&self, kind: Kind) -> Result<Option<String>, Failure> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let encoded = cursor.strip_prefix(kind.letter());
        let text = encoded.and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded).ok()).and_then(|bytes| String::from_utf8(bytes).ok());
        text.map(Some).ok_or_else(unknown_cursor)
    }
}

fn unknown_cursor() -> Failure {
    let message = "the cursor is not one of this list; send the one of its last page, or none to begin anew";
    Failure::new(StatusCode::BAD_REQUEST, "invalid_cursor", message)
}

/// Which list a cursor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Products,
    Devices,
    Firmware,
    Tasks,
    Upgrades,
}

impl Kind {
    const fn letter(self) -> char {
        match self {
            Self::Products => 'p',
            Self::Devices => 'd',
            Self::Firmware => 'f',
            Self::Tasks => 't',
            Self::Upgrades => 'u',
        }
    }

    pub(super) fn at_number(self, number: u32) -> String {
        format!("{}{number:08x}", self.letter())
    }

    pub(super) fn at_text(self, text: &str) -> String {
        format!("{}{}", self.letter(), URL_SAFE_NO_PAD.encode(text))
    }
}

/// A page of `items`, of which there may be one more than was wanted. `shown` makes JSON of one, `cursor` names its place.
pub(super) fn page<'a, T, S: Serialize>(
    wanted: &Wanted,
    items: &'a [T],
    shown: impl Fn(&'a T) -> S,
    cursor: impl Fn(&T) -> String,
) -> Result<Reply, Failure> {
    page_without_gaps(wanted, items, |item| Some(shown(item)), cursor)
}

/// The same for a list in which some places turn out to be empty: those aren't shown, and the next page begins after them all the same.
pub(super) fn page_without_gaps<'a, T, S: Serialize>(
    wanted: &Wanted,
    items: &'a [T],
    shown: impl Fn(&'a T) -> Option<S>,
    cursor: impl Fn(&T) -> String,
) -> Result<Reply, Failure> {
    page_of(wanted.limit, PAGE_BYTES_MAX, items, shown, cursor).map(|text| json_bytes(StatusCode::OK, Bytes::from(text))).map_err(
        |error| {
            tracing::error!(%error, "a list could not be written as JSON");
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this is a fault of the server; it was logged")
        },
    )
}

fn page_of<'a, T, S: Serialize>(
    limit: usize,
    bytes_max: usize,
    items: &'a [T],
    shown: impl Fn(&'a T) -> Option<S>,
    cursor: impl Fn(&T) -> String,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = Vec::with_capacity(1024);
    text.extend_from_slice(b"{\"items\":[");
    let begin = text.len();
    let mut last = None;
    let mut count = 0;
    for item in items.iter().take(limit) {
        if text.len() > bytes_max {
            break;
        }
        last = Some(item);
        count += 1;
        let Some(shown) = shown(item) else { continue };
        if text.len() > begin {
            text.push(b',');
        }
        serde_json::to_writer(&mut text, &shown)?;
    }
    text.extend_from_slice(b"],\"cursor\":");
    let next = last.filter(|_| count < items.len()).map(cursor);
    serde_json::to_writer(&mut text, &next)?;
    text.push(b'}');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(query: &str) -> Result<Wanted, Failure> {
        Wanted::read(&Query::parse(Some(query)).unwrap())
    }

    fn page_text(limit: usize, bytes_max: usize, items: &[u32]) -> String {
        String::from_utf8(
            page_of(limit, bytes_max, items, |item| (*item > 0).then_some(*item), |item| Kind::Tasks.at_number(*item)).unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn a_limit_out_of_range_is_refused() {
        assert_eq!(wanted("").unwrap().limit, 100);
        assert_eq!(wanted("limit=1000").unwrap().limit, 1_000);
        for query in ["limit=0", "limit=1001", "limit=-1", "limit=ten", "limit="] {
            assert_eq!(wanted(query).unwrap_err().code, "invalid_argument", "{query}");
        }
    }

    #[test]
    fn a_cursor_is_read_back_by_its_own_list_alone() {
        let cursor = Kind::Tasks.at_number(7);
        assert_eq!(wanted(&format!("cursor={cursor}")).unwrap().after_number(Kind::Tasks), Ok(Some(7)));
        assert_eq!(wanted(&format!("cursor={cursor}")).unwrap().after_number(Kind::Devices).unwrap_err().code, "invalid_cursor");
        let cursor = Kind::Products.at_text("水/泵");
        assert_eq!(wanted(&format!("cursor={cursor}")).unwrap().after_text(Kind::Products), Ok(Some("水/泵".to_owned())));
        for bad in ["x", "t", "t1", "tzzzzzzzz", "p!", "p_w"] {
            let wanted = wanted(&format!("cursor={bad}")).unwrap();
            assert!(wanted.after_number(Kind::Tasks).is_err() && wanted.after_text(Kind::Products).is_err(), "{bad}");
        }
        assert_eq!(wanted("cursor=").unwrap().after_number(Kind::Tasks), Ok(None));
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        assert_eq!(page_text(2, 1_000, &[5, 6, 7]), r#"{"items":[5,6],"cursor":"t00000006"}"#);
        assert_eq!(page_text(2, 1_000, &[5, 6]), r#"{"items":[5,6],"cursor":null}"#);
        assert_eq!(page_text(2, 1_000, &[]), r#"{"items":[],"cursor":null}"#);
    }

    #[test]
    fn an_empty_place_is_not_shown_and_the_list_goes_on_behind_it() {
        assert_eq!(page_text(2, 1_000, &[0, 6, 7]), r#"{"items":[6],"cursor":"t00000006"}"#);
        assert_eq!(page_text(1, 1_000, &[0, 6]), r#"{"items":[],"cursor":"t00000000"}"#);
        assert_eq!(page_text(3, 1_000, &[5, 0, 7]), r#"{"items":[5,7],"cursor":null}"#);
    }

    #[test]
    fn a_page_that_grows_long_ends_early_and_says_where_to_go_on() {
        assert_eq!(page_text(3, 11, &[5, 6, 7]), r#"{"items":[5,6],"cursor":"t00000006"}"#);
        assert_eq!(page_text(3, 0, &[]), r#"{"items":[],"cursor":null}"#);
    }
}
