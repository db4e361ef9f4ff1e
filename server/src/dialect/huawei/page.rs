//! Pages, counted from 0.

use super::status::Failure;
use crate::dialect::common::lenient::parse_integer;
use crate::http::Query;
use serde::Serialize;

const PAGE_SIZE_DEFAULT: u64 = 10;
const PAGE_SIZE_MAX: u64 = 100;
/// Behind every row there could be.
const PAGE_NO_MAX: u64 = u32::MAX as u64;
const TEXT_CHARS_MAX: usize = 256;

/// Which rows are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) number: u64,
    pub(super) size: u64,
}

/// A page of rows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Paged<T> {
    pub(super) data: Vec<T>,
    pub(super) page_no: u64,
    pub(super) page_size: u64,
    pub(super) total_count: u64,
}

impl Page {
    pub(super) fn read(query: &Query<'_>) -> Result<Self, Failure> {
        let number = within(query, "pageNo", 0, PAGE_NO_MAX)?.unwrap_or(0);
        let size = within(query, "pageSize", 1, PAGE_SIZE_MAX)?.unwrap_or(PAGE_SIZE_DEFAULT);
        Ok(Self { number, size })
    }

    pub(super) fn offset(self) -> u64 {
        self.number.saturating_mul(self.size)
    }

    /// Whether the row with this place, from 0, is on it.
    pub(super) fn holds(self, place: u64) -> bool {
        (self.offset()..self.offset().saturating_add(self.size)).contains(&place)
    }

    pub(super) fn of<T>(self, data: Vec<T>, total_count: u64) -> Paged<T> {
        Paged { data, page_no: self.number, page_size: self.size, total_count }
    }
}

/// A text of the query; an empty one is as good as none, and so is the `null` or `None` that a client writes for a value that it hasn't.
pub(super) fn text<'q>(query: &'q Query<'_>, key: &str) -> Result<Option<&'q str>, Failure> {
    let text = query.get(key).map(str::trim).filter(|text| !matches!(*text, "" | "null" | "None"));
    match text {
        Some(text) if text.chars().count() > TEXT_CHARS_MAX => {
            Err(Failure::bad_request(format!("{key} may have {TEXT_CHARS_MAX} characters at most")))
        }
        text => Ok(text),
    }
}

fn within(query: &Query<'_>, key: &str, first: u64, last: u64) -> Result<Option<u64>, Failure> {
    let Some(text) = text(query, key)? else { return Ok(None) };
    let number = parse_integer(text).and_then(|number| u64::try_from(number).ok());
    match number.filter(|number| (first..=last).contains(number)) {
        Some(number) => Ok(Some(number)),
        None => Err(Failure::bad_request(format!("{key} must be a whole number from {first} to {last}, got {text:?}"))),
    }
}

/// The choice that a text of the query names.
pub(super) fn choice<T: Copy>(query: &Query<'_>, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, Failure> {
    let Some(text) = text(query, key)? else { return Ok(None) };
    match choices.iter().find(|(name, _)| *name == text) {
        Some((_, choice)) => Ok(Some(*choice)),
        None => {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            Err(Failure::bad_request(format!("{key} must be one of {}, got {text:?}", names.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<(u64, u64), String> {
        let query = Query::parse(Some(query)).unwrap();
        Page::read(&query).map(|page| (page.number, page.size)).map_err(|failure| failure.detail)
    }

    #[test]
    fn pages_begin_at_0_and_have_10_rows_unless_told_otherwise() {
        assert_eq!(read(""), Ok((0, 10)));
        assert_eq!(read("&pageNo=3&pageSize=100"), Ok((3, 100)));
        assert_eq!(read("pageNo=&pageSize=None"), Ok((0, 10)));
        for query in ["pageNo=-1", "pageNo=x", "pageSize=0", "pageSize=101", "pageSize=1.5"] {
            assert!(read(query).is_err(), "{query}");
        }
    }

    #[test]
    fn each_row_is_on_one_page() {
        for place in 0..35 {
            let on: Vec<u64> = (0..10).filter(|number| Page { number: *number, size: 7 }.holds(place)).collect();
            assert_eq!(on, [place / 7]);
        }
    }
}
