//! Pages of a search: numbered from 1, and the whole counted.

use super::status::Failure;
use crate::dialect::common::lenient;
use serde::{Deserialize, Serialize};

const PAGE_SIZE_DEFAULT: u64 = 10;
/// The platform's bound.
const PAGE_SIZE_MAX: u64 = 200;

/// `pagination` of a request's body; what it says of sorting is ignored, as on the platform.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PageWritten {
    #[serde(deserialize_with = "lenient::optional_integer")]
    page_no: Option<i64>,
    #[serde(deserialize_with = "lenient::optional_integer")]
    page_size: Option<i64>,
}

/// Which rows are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    number: u64,
    size: u64,
}

impl Page {
    /// An absent `pagination` is the first page.
    pub(super) fn read(written: Option<PageWritten>) -> Result<Self, Failure> {
        let written = written.unwrap_or_default();
        let number = match written.page_no {
            None => 1,
            Some(number) => u64::try_from(number)
                .ok()
                .filter(|number| *number >= 1)
                .ok_or_else(|| Failure::invalid(format!("pagination.pageNo is {number}; pages are numbered from 1")))?,
        };
        let size = match written.page_size {
            None => PAGE_SIZE_DEFAULT,
            Some(size) => u64::try_from(size)
                .ok()
                .filter(|size| (1..=PAGE_SIZE_MAX).contains(size))
                .ok_or_else(|| Failure::invalid(format!("pagination.pageSize is {size}; give 1 to {PAGE_SIZE_MAX}")))?,
        };
        Ok(Self { number, size })
    }

    /// From 1.
    pub(super) fn number(self) -> u64 {
        self.number
    }

    /// Rows before it.
    pub(super) fn offset(self) -> usize {
        usize::try_from((self.number - 1).saturating_mul(self.size)).unwrap_or(usize::MAX)
    }

    /// Rows on it at most.
    pub(super) fn limit(self) -> usize {
        self.size as usize
    }

    /// Its echo, once all rows are counted.
    pub(super) fn of(self, total: u64) -> Pagination {
        Pagination { sorted_by: (), page_no: self.number, page_size: self.size, total_size: total }
    }
}

/// `pagination` of an answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pagination {
    sorted_by: (),
    page_no: u64,
    page_size: u64,
    total_size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Page, String> {
        let written: Option<PageWritten> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Page::read(written).map_err(|failure| failure.message)
    }

    #[test]
    fn pages_are_read_however_their_numbers_are_written() {
        for (text, number, size) in [
            ("null", 1, 10),
            ("{}", 1, 10),
            (r#"{"pageNo":null,"pageSize":""}"#, 1, 10),
            (r#"{"pageNo":"3","pageSize":"50"}"#, 3, 50),
            (r#"{"pageNo":2,"pageSize":200,"sorters":[{"field":"x","order":"DESC"}]}"#, 2, 200),
        ] {
            assert_eq!(read(text), Ok(Page { number, size }), "{text}");
        }
        assert_eq!(read(r#"{"pageNo":3,"pageSize":20}"#).unwrap().offset(), 40);
        assert_eq!(read(&format!(r#"{{"pageNo":{},"pageSize":200}}"#, i64::MAX)).unwrap().offset(), usize::MAX);
    }

    #[test]
    fn pages_out_of_range_are_refused_with_the_range() {
        for (text, part) in [
            (r#"{"pageNo":0}"#, "numbered from 1"),
            (r#"{"pageNo":"-1"}"#, "numbered from 1"),
            (r#"{"pageSize":0}"#, "1 to 200"),
            (r#"{"pageSize":201}"#, "1 to 200"),
            (r#"{"pageSize":"ten"}"#, "expected an integer"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn the_echo_has_the_platforms_shape() {
        let page = Page { number: 1, size: 5 };
        let text = serde_json::to_string(&page.of(9)).unwrap();
        assert_eq!(text, r#"{"sortedBy":null,"pageNo":1,"pageSize":5,"totalSize":9}"#);
    }
}
