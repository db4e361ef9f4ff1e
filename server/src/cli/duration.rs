//! Spans of time as people write them.

use jiff::{Span, SpanRelativeTo, Unit};

/// Whole seconds of `2h`, `90m`, `30d`, `1h 30m` or a bare number of seconds.
pub(super) fn parse_seconds(text: &str) -> Result<u64, String> {
    let refuse = || format!("expected a span like 90m, 2h or 30d, got {text:?}");
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return if seconds > 0 { Ok(seconds) } else { Err(refuse()) };
    }
    let span: Span = text.trim().parse().map_err(|_| refuse())?;
    let seconds = span.total((Unit::Second, SpanRelativeTo::days_are_24_hours())).map_err(|_| refuse())?;
    if (1.0..=YEARS_100_S).contains(&seconds) { Ok(seconds as u64) } else { Err(refuse()) }
}

/// Longer than any device lives; a slip of the pen beyond it.
const YEARS_100_S: f64 = 100.0 * 365.25 * 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in
            [("2h", 7_200), ("90m", 5_400), ("30d", 2_592_000), ("1h 30m", 5_400), ("45s", 45), ("3600", 3_600), (" 1d ", 86_400)]
        {
            assert_eq!(parse_seconds(text), Ok(seconds), "{text}");
        }
        for text in ["", "0", "-1h", "soon", "1 fortnight", "0.1s", "100000d"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }
}
