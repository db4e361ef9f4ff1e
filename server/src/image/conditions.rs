//! Conditional requests for an image: RFC 9110, section 13.
//!
//! An image never changes under its name, so both its validators are strong: the entity tag is its SHA-256, and no second state can
//! hide behind its date (section 8.8.2.2 asks for nothing else).

use ::http::header::{
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a request's conditions are held against.
#[derive(Clone, Copy, Debug)]
pub struct Validators<'a> {
    /// Strong, with its quotes.
    pub etag: &'a HeaderValue,
    /// Of `Last-Modified`, in whole seconds since 1970.
    pub modified_s: u64,
}

/// What the conditions leave to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Proceed,
    /// 304: the asker has it.
    NotModified,
    /// 412: the asker wants another.
    PreconditionFailed,
}

/// Evaluates the preconditions of a GET or HEAD.
//= https://www.rfc-editor.org/rfc/rfc9110#section-13.2.2
pub fn evaluate(headers: &HeaderMap, validators: Validators<'_>) -> Verdict {
    //# 1. When recipient is the origin server and If-Match is present, evaluate the If-Match precondition:
    //#    if true, continue to step 3; if false, respond 412
    if headers.contains_key(IF_MATCH) {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.1
        //# An origin server MUST use the strong comparison function when comparing entity tags for If-Match
        if !any_tag_matches(headers, IF_MATCH, validators.etag, Comparison::Strong) {
            return Verdict::PreconditionFailed;
        }
    //# 2. When recipient is the origin server, If-Match is not present, and If-Unmodified-Since is present, evaluate the
    //#    If-Unmodified-Since precondition
    } else if let Some(date) = only_date(headers, IF_UNMODIFIED_SINCE)
        && validators.modified_s > date
    {
        return Verdict::PreconditionFailed;
    }
    //# 3. When If-None-Match is present, evaluate the If-None-Match precondition: if true, continue to step 5; if false for GET/HEAD,
    //#    respond 304
    if headers.contains_key(IF_NONE_MATCH) {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2
        //# A recipient MUST use the weak comparison function when comparing entity tags for If-None-Match
        if any_tag_matches(headers, IF_NONE_MATCH, validators.etag, Comparison::Weak) {
            return Verdict::NotModified;
        }
    //# 4. When the method is GET or HEAD, If-None-Match is not present, and If-Modified-Since is present, evaluate the
    //#    If-Modified-Since precondition
    } else if let Some(date) = only_date(headers, IF_MODIFIED_SINCE)
        && validators.modified_s <= date
    {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Step 5: whether `Range` counts, as far as `If-Range` has a say.
//= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.5
//# A recipient of an If-Range header field MUST ignore the Range header field if the If-Range condition evaluates as false.
pub fn range_applies(headers: &HeaderMap, validators: Validators<'_>) -> bool {
    let mut values = headers.get_all(IF_RANGE).iter();
    let Some(value) = values.next() else { return true };
    if values.next().is_some() {
        return false;
    }
    //# A valid entity-tag can be distinguished from a valid HTTP-date by examining the first three characters for a DQUOTE.
    if value.as_bytes().iter().take(3).any(|byte| *byte == b'"') {
        //# If the entity-tag validator provided exactly matches the ETag field value for the selected representation using the strong
        //# comparison function, the condition is true.
        return trimmed(value.as_bytes()) == validators.etag.as_bytes();
    }
    //# If the HTTP-date validator provided exactly matches the Last-Modified field value for the selected representation, the
    //# condition is true.
    date(value) == Some(validators.modified_s)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

fn any_tag_matches(headers: &HeaderMap, name: HeaderName, etag: &HeaderValue, comparison: Comparison) -> bool {
    headers.get_all(name).iter().any(|value| {
        let value = trimmed(value.as_bytes());
        //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.1
        //# If the field value is "*", the condition is true if the origin server has a current representation for the target
        //# resource.
        value == b"*"
            || Tags(value).any(|tag| {
                tag.text == etag.as_bytes()
                    && match comparison {
                        //= https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3.2
                        //# Strong comparison: two entity tags are equivalent if both are not weak and their opaque-tags match
                        //# character-by-character.
                        Comparison::Strong => !tag.is_weak,
                        Comparison::Weak => true,
                    }
            })
    })
}

/// The entity tags of a list, up to the first that is malformed. Commas may stand inside of them.
struct Tags<'a>(&'a [u8]);

struct Tag<'a> {
    /// With its quotes.
    text: &'a [u8],
    is_weak: bool,
}

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        let rest = self.0.trim_ascii_start();
        let start = rest.iter().position(|byte| !matches!(byte, b',' | b' ' | b'\t'))?;
        let rest = &rest[start..];
        //= https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3
        //# entity-tag = [ weak ] opaque-tag
        //# weak       = %s"W/"
        let (is_weak, rest) = rest.strip_prefix(b"W/").map_or((false, rest), |rest| (true, rest));
        let length = rest.strip_prefix(b"\"")?.iter().position(|byte| *byte == b'"')? + 2;
        let (text, rest) = rest.split_at(length);
        self.0 = rest;
        Some(Tag { text, is_weak })
    }
}

/// A date field's value in seconds since 1970.
//= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.3
//# A recipient MUST ignore the If-Modified-Since header field if the received field value is not a valid HTTP-date, the field value has
//# more than one member, or if the request method is neither GET nor HEAD.
fn only_date(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    date(value)
}

fn date(value: &HeaderValue) -> Option<u64> {
    let date = httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()?;
    // Before 1970 there were no images; for every comparison that is the same as 1970.
    Some(date.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// A moment as a date field writes it.
pub(super) fn http_date(seconds: u64) -> String {
    // The format has four digits for the year; `httpdate` panics beyond them.
    const LAST_S: u64 = 253_402_300_799;
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_S)))
}

fn trimmed(value: &[u8]) -> &[u8] {
    value.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{NotModified, PreconditionFailed, Proceed};

    const BEFORE: &str = "Thu, 15 Jan 2026 07:59:59 GMT";
    const THEN: &str = "Thu, 15 Jan 2026 08:00:00 GMT";
    const AFTER: &str = "Thu, 15 Jan 2026 08:00:01 GMT";
    const THEN_S: u64 = 1_768_464_000;

    fn ask(fields: &[(&'static str, &'static str)]) -> (Verdict, bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let validators = Validators { etag: &HeaderValue::from_static("\"abc\""), modified_s: THEN_S };
        (evaluate(&headers, validators), range_applies(&headers, validators))
    }

    fn verdict(fields: &[(&'static str, &'static str)]) -> Verdict {
        ask(fields).0
    }

    #[test]
    fn dates_read_as_they_are_written() {
        assert_eq!(http_date(THEN_S), THEN);
        assert_eq!(http_date(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.1
    //= type=test
    #[test]
    fn if_match_compares_strongly() {
        for value in ["\"abc\"", "*", "\"x\", \"abc\"", "\"x,y\",\"abc\"", ",, \"abc\"", " \"abc\" "] {
            assert_eq!(verdict(&[("if-match", value)]), Proceed, "{value}");
        }
        for value in ["\"x\"", "W/\"abc\"", "abc", "", "\"abc", "\"ab\"", "\"abcd\"", "w/\"abc\"", "\"x\" abc"] {
            assert_eq!(verdict(&[("if-match", value)]), PreconditionFailed, "{value}");
        }
        assert_eq!(verdict(&[("if-match", "\"x\""), ("if-match", "\"abc\"")]), Proceed);
    }

    //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2
    //= type=test
    #[test]
    fn if_none_match_compares_weakly() {
        for value in ["\"abc\"", "W/\"abc\"", "*", "W/\"x\", W/\"abc\""] {
            assert_eq!(verdict(&[("if-none-match", value)]), NotModified, "{value}");
        }
        for value in ["\"x\"", "abc", "", "\"a\",\"bc\""] {
            assert_eq!(verdict(&[("if-none-match", value)]), Proceed, "{value}");
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.3
    //= type=test
    #[test]
    fn if_modified_since_answers_304_from_the_date_on() {
        assert_eq!(verdict(&[("if-modified-since", BEFORE)]), Proceed);
        assert_eq!(verdict(&[("if-modified-since", THEN)]), NotModified);
        assert_eq!(verdict(&[("if-modified-since", AFTER)]), NotModified);
        assert_eq!(verdict(&[("if-modified-since", "Thursday, 15-Jan-26 08:00:00 GMT")]), NotModified);
        assert_eq!(verdict(&[("if-modified-since", "Thu Jan 15 08:00:00 2026")]), NotModified);
        assert_eq!(verdict(&[("if-modified-since", "yesterday")]), Proceed);
        assert_eq!(verdict(&[("if-modified-since", AFTER), ("if-modified-since", AFTER)]), Proceed);
    }

    //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.4
    //= type=test
    #[test]
    fn if_unmodified_since_answers_412_before_the_date() {
        assert_eq!(verdict(&[("if-unmodified-since", BEFORE)]), PreconditionFailed);
        assert_eq!(verdict(&[("if-unmodified-since", THEN)]), Proceed);
        assert_eq!(verdict(&[("if-unmodified-since", AFTER)]), Proceed);
        assert_eq!(verdict(&[("if-unmodified-since", "soon")]), Proceed);
    }

    //= https://www.rfc-editor.org/rfc/rfc9110#section-13.2.2
    //= type=test
    #[test]
    fn tags_go_before_dates_and_if_match_before_if_none_match() {
        assert_eq!(verdict(&[("if-match", "\"abc\""), ("if-unmodified-since", BEFORE)]), Proceed);
        assert_eq!(verdict(&[("if-none-match", "\"x\""), ("if-modified-since", AFTER)]), Proceed);
        assert_eq!(verdict(&[("if-match", "\"x\""), ("if-none-match", "\"abc\"")]), PreconditionFailed);
        assert_eq!(verdict(&[("if-match", "\"abc\""), ("if-none-match", "\"abc\"")]), NotModified);
        assert_eq!(verdict(&[("if-unmodified-since", BEFORE), ("if-none-match", "\"abc\"")]), PreconditionFailed);
        assert_eq!(verdict(&[("if-unmodified-since", THEN), ("if-modified-since", THEN)]), NotModified);
    }

    //= https://www.rfc-editor.org/rfc/rfc9110#section-13.1.5
    //= type=test
    #[test]
    fn if_range_wants_the_very_same_tag_or_date() {
        let applies = |value| ask(&[("if-range", value)]).1;
        assert!(ask(&[]).1);
        assert!(applies("\"abc\""));
        assert!(applies(THEN));
        for value in ["W/\"abc\"", "\"x\"", "abc", "*", "", BEFORE, AFTER] {
            assert!(!applies(value), "{value}");
        }
        assert!(!ask(&[("if-range", "\"abc\""), ("if-range", "\"abc\"")]).1);
    }
}
