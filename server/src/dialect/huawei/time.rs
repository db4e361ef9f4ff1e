//! Times as the platform writes them: `20151212T121212Z`, to the second, UTC.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};
use sluicegate::model::Timestamp;

/// Reads exactly this form; the time before which nothing is counted reads as that.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let is_form = bytes.len() == 16 && bytes[8] == b'T' && bytes[15] == b'Z';
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
        digits.parse::<i16>().ok()
    };
    if !is_form {
        return None;
    }
    let small = |from| i8::try_from(number(from, from + 2)?).ok();
    let time = DateTime::new(number(0, 4)?, small(4)?, small(6)?, small(9)?, small(11)?, small(13)?, 0).ok()?;
    // The last hours of the year 9999, which mean "without end", are past what the library counts.
    let seconds = time.to_zoned(TimeZone::UTC).map_or(jiff::Timestamp::MAX, |time| time.timestamp()).as_second();
    Some(Timestamp::from_seconds(u64::try_from(seconds).unwrap_or(0)))
}

/// A time on its way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time(pub(super) Timestamp);

impl Time {
    pub(super) fn text(self) -> String {
        let seconds = i64::try_from(self.0.as_seconds()).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
        time.strftime("%Y%m%dT%H%M%SZ").to_string()
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back() {
        for text in ["20151212T121212Z", "19700101T000000Z", "20240229T235959Z", "99991230T000000Z"] {
            assert_eq!(Time(parse(text).unwrap()).text(), text);
        }
        assert_eq!(parse("20151212T121212Z"), Some(Timestamp::from_seconds(1_449_922_332)));
        assert_eq!(parse("19000101T000000Z"), Some(Timestamp(0)), "long before now is no slip of the form");
    }

    #[test]
    fn everything_else_is_no_time() {
        for text in [
            "",
            "20151212",
            "2015-12-12T12:12:12Z",
            "20151212T121212",
            "20151212T121212+",
            "20151312T121212Z",
            "20150229T121212Z",
            "20151212T241212Z",
            "20151212T121260Z",
            "+0151212T121212Z",
            "20151212 121212Z",
            "2015121éT12121Z",
            " 20151212T12121Z",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
