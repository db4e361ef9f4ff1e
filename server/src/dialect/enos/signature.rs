//! Digests with which a client shows that it holds an application's secret, without sending it.
//!
//! ```text
//! encryption = hex(SHA-256(appKey + timestamp + appSecret))                          to get a token
//! signature  = hex(SHA-256(accessToken + parameters + timestamp + appSecret))       on each call
//! parameters = each key and its decoded value, in the order of the keys' bytes, then the body
//! ```
//!
//! Hexadecimal in lower case; upper case is read too. Texts go in as the client wrote them: a timestamp with a zero before it is
//! another text.

use crate::dialect::common::hexadecimal::to_hexadecimal;
use aws_lc_rs::digest::{Context, SHA256};
use sluicegate::model::Timestamp;
use subtle::ConstantTimeEq;

/// How far a client's clock may be off.
pub(super) const CLOCK_TOLERANCE_S: u64 = 300;

pub(super) fn encryption(app_key: &str, timestamp: &str, app_secret: &[u8]) -> String {
    digest([app_key.as_bytes(), timestamp.as_bytes(), app_secret])
}

/// `body`: empty where it isn't signed.
pub(super) fn signature(
    access_token: &str,
    parameters: &[(String, String)],
    body: &[u8],
    timestamp: &str,
    app_secret: &[u8],
) -> String {
    let mut sorted: Vec<&(String, String)> = parameters.iter().collect();
    // Stable: a repeated key keeps the order in which it stands in the URL.
    sorted.sort_by(|(left, _), (right, _)| left.as_bytes().cmp(right.as_bytes()));
    let parameters = sorted.iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]);
    let parts = [access_token.as_bytes()].into_iter().chain(parameters).chain([body, timestamp.as_bytes(), app_secret]);
    digest(parts)
}

/// Takes the same time wherever the two differ.
pub(super) fn matches(expected: &str, got: &str) -> bool {
    expected.as_bytes().ct_eq(got.trim().to_ascii_lowercase().as_bytes()).into()
}

/// Refuses a client's time that is too far from ours; says by how much, because that tells a wrong clock from a wrong unit.
pub(super) fn check_time(name: &str, timestamp: Timestamp, now: Timestamp) -> Result<(), String> {
    let off_ms = timestamp.as_millis().abs_diff(now.as_millis());
    if off_ms <= CLOCK_TOLERANCE_S * 1_000 {
        return Ok(());
    }
    let side = if timestamp > now { "ahead of" } else { "behind" };
    Err(format!(
        "{name} is {} seconds {side} this server's clock, which shows {} ms ({now}), and {CLOCK_TOLERANCE_S} are allowed; \
         set the client's clock, and send milliseconds since 1970",
        off_ms.div_ceil(1_000),
        now.as_millis()
    ))
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    to_hexadecimal(context.finish().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    // The expected texts were computed with sha256sum.

    #[test]
    fn an_encryption_is_the_digest_of_key_time_and_secret() {
        let text = encryption("appKey", "1572574909697", b"appSecret");
        assert_eq!(text, "85fce9b43916998b4d6288d98c4daf07fad39ed02036eec506595c90341685a0");
    }

    #[test]
    fn a_signature_is_of_token_sorted_parameters_body_time_and_secret() {
        let parameters = pairs(&[("orgId", "o1"), ("action", "create"), ("firmwareId", "f 1")]);
        let text = signature("token", &parameters, br#"{"a":1}"#, "1572574909697", b"appSecret");
        assert_eq!(text, "d6917e0bbde3dec0a072ed4dbb876a30ecd3c954317ef2073a787aebe0212829");
        let without_body = signature("token", &parameters, b"", "1572574909697", b"appSecret");
        assert_eq!(without_body, "acf7dabd5af6a02ce701d6c985a7102f61d1b86eed49ffdb7e826b3955b3668a");
    }

    #[test]
    fn parameters_are_sorted_by_their_bytes() {
        let sorted = signature("t", &pairs(&[("B", "2"), ("a", "1"), ("é", "3")]), b"", "0", b"s");
        let unsorted = signature("t", &pairs(&[("é", "3"), ("a", "1"), ("B", "2")]), b"", "0", b"s");
        assert_eq!(sorted, unsorted);
        assert_eq!(sorted, "7987a4fedc2534ca23cb95952b94d4af0ff07c4c3f5d75ac19326802aef73cf8");
    }

    #[test]
    fn upper_case_and_blanks_do_not_matter_and_all_else_does() {
        let expected = encryption("k", "1", b"s");
        assert!(matches(&expected, &format!(" {} ", expected.to_uppercase())));
        for wrong in ["", &expected[1..], &format!("{expected}0"), &encryption("k", "2", b"s")] {
            assert!(!matches(&expected, wrong), "{wrong}");
        }
    }

    #[test]
    fn a_clock_may_be_five_minutes_off_either_way() {
        let now = Timestamp(1_000_000_000);
        let check = |offset: i64| check_time("timestamp", Timestamp(now.0.wrapping_add_signed(offset)), now);
        for offset in [0, 300_000, -300_000] {
            assert_eq!(check(offset), Ok(()), "{offset} ms");
        }
        for (offset, message) in [
            (300_001, "timestamp is 301 seconds ahead of this server's clock"),
            (-300_001, "timestamp is 301 seconds behind this server's clock"),
            (-400_000, "timestamp is 400 seconds behind this server's clock"),
        ] {
            let got = check(offset).unwrap_err();
            assert!(got.starts_with(message), "{offset} ms: {got}");
        }
        assert!(check_time("timestamp", Timestamp(u64::MAX), now).is_err() && check_time("timestamp", Timestamp(0), now).is_err());
    }
}
