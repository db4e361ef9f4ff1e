//! Byte ranges: from what a device asks to slices proven to lie inside the image.
//!
//! The grammar and its meaning are those of the HTTP `Range` field (RFC 9110, section 14), because every device family that fetches
//! parts says them in its words. Nothing here knows the rest of HTTP.
//!
//! Invariants:
//!   - A [`ByteRange`] lies inside the size it was made for: `offset + length <= size`. Nobody downstream checks that again.
//!   - One range, by far the most frequent request (an MCU fetches a 600 MB image in 589,548 of them), allocates nothing.
//!   - What one request can ask for is bounded: [`RANGES_MAX`] ranges of together `2 * size + `[`OVERLAP_BYTES_MAX`] bytes.

/// Ranges that one request may ask for. The largest sets seen in the field, of updaters that fetch changed blocks, have some tens.
///
/// More are refused rather than answered whole, for which RFC 9110, section 15.5.17 names the 416: whoever asks for parts may have no
/// room for the whole.
pub const RANGES_MAX: usize = 64;

/// Bytes that the ranges of one request may add up to beyond twice the image.
///
/// Overlapping ranges cost no memory here, each being a slice of one map, but they let a request of a kilobyte ask for 64 images.
/// The addend is there so that a small image can be asked for as often as [`RANGES_MAX`] allows.
pub const OVERLAP_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Bytes of an image, proven inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    offset: u64,
    length: u64,
}

impl ByteRange {
    /// All of an image of `size` bytes.
    pub const fn whole(size: u64) -> Self {
        Self { offset: 0, length: size }
    }

    /// What an image of `size` bytes has of the `length` bytes from `offset` on; absent where that is nothing.
    ///
    /// For protocols that ask by offset and length, or by block number.
    pub fn clamped(offset: u64, length: u64, size: u64) -> Option<Self> {
        let length = length.min(size.checked_sub(offset)?);
        (length > 0).then_some(Self { offset, length })
    }

    pub const fn offset(self) -> u64 {
        self.offset
    }

    pub const fn length(self) -> u64 {
        self.length
    }

    /// The offset of the last byte, as `Content-Range` wants it. Of an empty range, which only [`ByteRange::whole`] makes, 0.
    pub const fn last(self) -> u64 {
        (self.offset + self.length).saturating_sub(1)
    }
}

/// What a request asks of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    /// No range, or nothing that we understand as one: answer as if it weren't there.
    Whole,
    /// One range, or several of which one lies inside the image.
    One(ByteRange),
    /// Two or more, in the order asked for. They may overlap and repeat.
    Many(Vec<ByteRange>),
    /// Well-formed, but no range begins inside the image, or more is asked for than [`RANGES_MAX`] and [`OVERLAP_BYTES_MAX`] allow.
    NotSatisfiable,
}

/// Reads the value of a `Range` field against an image of `size` bytes.
pub fn parse(header: &str, size: u64) -> RangeRequest {
    //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1.1
    //# ranges-specifier = range-unit "=" range-set
    let Some((unit, set)) = header.split_once('=') else { return RangeRequest::Whole };
    //= https://www.rfc-editor.org/rfc/rfc9110#section-14.2
    //# An origin server MUST ignore a Range header field that contains a range unit it does not understand.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1
    //# Range unit names are case-insensitive
    if !unit.trim_matches(WHITESPACE).eq_ignore_ascii_case("bytes") {
        return RangeRequest::Whole;
    }
    let mut ranges = Ranges::None;
    let mut specifiers = 0usize;
    let mut length_sum = 0u64;
    for specifier in set.split(',') {
        let specifier = specifier.trim_matches(WHITESPACE);
        //= https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1.2
        //# A recipient MUST parse and ignore a reasonable number of empty list elements
        if specifier.is_empty() {
            continue;
        }
        //= https://www.rfc-editor.org/rfc/rfc9110#section-14.2
        //# A server that supports range requests MAY ignore or reject a Range header field that contains an invalid
        //# ranges-specifier
        let Some(specifier) = Specifier::parse(specifier) else { return RangeRequest::Whole };
        specifiers += 1;
        if specifiers > RANGES_MAX {
            // The rest isn't read: a set that is too large and malformed further on counts as too large.
            return RangeRequest::NotSatisfiable;
        }
        if size == 0 && matches!(specifier, Specifier::Suffix(length) if length > 0) {
            // The last bytes of nothing are satisfiable, and they are the whole, but no Content-Range can name zero bytes.
            return RangeRequest::Whole;
        }
        if let Some(range) = specifier.resolve(size) {
            length_sum = length_sum.saturating_add(range.length);
            ranges.push(range);
        }
    }
    //= https://www.rfc-editor.org/rfc/rfc9110#section-14.2
    //# A server that supports range requests MAY ignore or reject a Range header field that contains […] a ranges-specifier with
    //# more than two overlapping ranges, or a set of many small ranges
    if length_sum > size.saturating_mul(2).saturating_add(OVERLAP_BYTES_MAX) {
        return RangeRequest::NotSatisfiable;
    }
    match ranges {
        //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1.1
        //# range-set = 1#range-spec
        Ranges::None if specifiers == 0 => RangeRequest::Whole,
        Ranges::None => RangeRequest::NotSatisfiable,
        Ranges::One(range) => RangeRequest::One(range),
        Ranges::Many(ranges) => RangeRequest::Many(ranges),
    }
}

/// `OWS` of RFC 9110, section 5.6.3.
const WHITESPACE: [char; 2] = [' ', '\t'];

/// The satisfiable ranges so far; on the heap from the second on.
enum Ranges {
    None,
    One(ByteRange),
    Many(Vec<ByteRange>),
}

impl Ranges {
    fn push(&mut self, range: ByteRange) {
        match self {
            Self::None => *self = Self::One(range),
            Self::One(first) => *self = Self::Many(vec![*first, range]),
            Self::Many(ranges) => ranges.push(range),
        }
    }
}

/// One `range-spec`, well-formed. Numbers beyond 2^64 - 1 stand as 2^64 - 1: no image reaches there, so they mean the same.
#[derive(Clone, Copy)]
enum Specifier {
    From(u64),
    Between(u64, u64),
    Suffix(u64),
}

impl Specifier {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        match (first.is_empty(), last.is_empty()) {
            (true, true) => None,
            //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1.1
            //# suffix-range = "-" suffix-length
            (true, false) => Some(Self::Suffix(saturating_number(last)?)),
            //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1.1
            //# int-range = first-pos "-" [ last-pos ]
            (false, true) => Some(Self::From(saturating_number(first)?)),
            (false, false) => {
                let (first_value, last_value) = (saturating_number(first)?, saturating_number(last)?);
                //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1.1
                //# An int-range is invalid if the last-pos value is present and less than first-pos.
                let backwards = match (first_value, last_value) {
                    (u64::MAX, u64::MAX) => is_less(last, first),
                    (first, last) => last < first,
                };
                (!backwards).then_some(Self::Between(first_value, last_value))
            }
        }
    }

    /// What of it lies inside an image of `size` bytes; absent where the specifier isn't satisfiable.
    fn resolve(self, size: u64) -> Option<ByteRange> {
        match self {
            Self::From(first) => ByteRange::clamped(first, u64::MAX, size),
            //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1.2
            //# If the last-pos value is absent, or if the value is greater than or equal to the current length of the
            //# representation data, the byte range is interpreted as the remainder of the representation
            Self::Between(first, last) => ByteRange::clamped(first, (last - first).saturating_add(1), size),
            //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1.2
            //# If the selected representation is shorter than the specified suffix-length, the entire representation is used.
            Self::Suffix(length) => ByteRange::clamped(size.saturating_sub(length), length, size),
        }
    }
}

/// `1*DIGIT`; absent where it isn't. `str::parse` won't do: it takes a sign.
fn saturating_number(digits: &str) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.bytes().try_fold(0u64, |value, digit| {
        digit.is_ascii_digit().then(|| value.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
    })
}

/// Compares numbers of any length as the digits they are written with.
#[cold]
fn is_less(left: &str, right: &str) -> bool {
    let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
    (left.len(), left) < (right.len(), right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The outcome as text: `whole`, `416`, or offsets of first and last bytes.
    fn ask(header: &str, size: u64) -> String {
        let show = |range: &ByteRange| format!("{}-{}", range.offset(), range.last());
        match parse(header, size) {
            RangeRequest::Whole => "whole".to_owned(),
            RangeRequest::One(range) => show(&range),
            RangeRequest::Many(ranges) => ranges.iter().map(show).collect::<Vec<_>>().join(" "),
            RangeRequest::NotSatisfiable => "416".to_owned(),
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1.2
    //= type=test
    #[test]
    fn the_examples_of_the_standard_mean_what_it_says() {
        assert_eq!(ask("bytes=0-499", 10_000), "0-499");
        assert_eq!(ask("bytes=500-999", 10_000), "500-999");
        assert_eq!(ask("bytes=-500", 10_000), "9500-9999");
        assert_eq!(ask("bytes=9500-", 10_000), "9500-9999");
        assert_eq!(ask("bytes=0-0,-1", 10_000), "0-0 9999-9999");
        assert_eq!(ask("bytes= 0-999, 4500-5499, -1000", 10_000), "0-999 4500-5499 9000-9999");
        assert_eq!(ask("bytes=500-600,601-999", 10_000), "500-600 601-999");
        assert_eq!(ask("bytes=500-700,601-999", 10_000), "500-700 601-999");
    }

    #[test]
    fn an_end_past_the_image_is_clamped_and_a_start_past_it_is_refused() {
        assert_eq!(ask("bytes=0-1023", 10), "0-9");
        assert_eq!(ask("bytes=9-9", 10), "9-9");
        assert_eq!(ask("bytes=9-", 10), "9-9");
        assert_eq!(ask("bytes=10-", 10), "416");
        assert_eq!(ask("bytes=10-10", 10), "416");
        assert_eq!(ask("bytes=-11", 10), "0-9");
        assert_eq!(ask("bytes=-0", 10), "416");
    }

    #[test]
    fn ranges_outside_the_image_are_left_out_of_those_inside() {
        assert_eq!(ask("bytes=10-,0-1", 10), "0-1");
        assert_eq!(ask("bytes=5-5,10-,-0,0-1", 10), "5-5 0-1");
        assert_eq!(ask("bytes=10-,11-", 10), "416");
    }

    #[test]
    fn what_is_no_byte_range_is_as_if_it_were_not_there() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes= , ,",
            "bytes=-",
            "bytes=1",
            "bytes=a-b",
            "bytes=2-1",
            "bytes=+1-2",
            "bytes=1-+2",
            "bytes=1--2",
            "bytes=--1",
            "bytes=0-1,2-1",
            "bytes=0-1;2-3",
            "bytes 0-1",
            "items=0-1",
            "byte=0-1",
            "bytes=0x0-0x1",
            "bytes=0 - 1",
            "bytes=0-1 2-3",
            "=0-1",
            "bytes=\u{661}-2",
            "bytes==0-1",
        ] {
            assert_eq!(ask(header, 10), "whole", "{header:?}");
        }
    }

    #[test]
    fn unit_case_white_space_and_empty_elements_do_not_matter() {
        assert_eq!(ask("Bytes=0-1", 10), "0-1");
        assert_eq!(ask("BYTES=\t0-1 ,, ,\t4-5,", 10), "0-1 4-5");
    }

    #[test]
    fn numbers_beyond_64_bits_mean_past_the_end() {
        let huge = "9".repeat(40);
        assert_eq!(ask(&format!("bytes=1-{huge}"), 10), "1-9");
        assert_eq!(ask(&format!("bytes={huge}-"), 10), "416");
        assert_eq!(ask(&format!("bytes=-{huge}"), 10), "0-9");
        assert_eq!(ask(&format!("bytes={huge}-{huge}"), 10), "416");
        assert_eq!(ask(&format!("bytes=0{huge}-{huge}"), 10), "416");
        // Backwards is malformed even where both ends are out of reach.
        assert_eq!(ask(&format!("bytes={huge}1-{huge}0"), 10), "whole");
        assert_eq!(ask("bytes=18446744073709551615-18446744073709551614", 10), "whole");
        assert_eq!(ask("bytes=0-18446744073709551615", u64::MAX), "0-18446744073709551614");
    }

    #[test]
    fn an_empty_image_has_no_first_byte_and_its_last_bytes_are_the_whole() {
        assert_eq!(ask("bytes=0-", 0), "416");
        assert_eq!(ask("bytes=0-0", 0), "416");
        assert_eq!(ask("bytes=-0", 0), "416");
        assert_eq!(ask("bytes=-1", 0), "whole");
    }

    #[test]
    fn overlapping_and_unordered_ranges_are_answered_as_asked() {
        assert_eq!(
            ask("bytes=90-99,0-50,10-60,0-99,5-5,5-5,0-99,0-99,0-99,1-98", 100),
            "90-99 0-50 10-60 0-99 5-5 5-5 0-99 0-99 0-99 1-98"
        );
    }

    #[test]
    fn a_request_for_too_many_ranges_is_refused() {
        let header = |count: usize| format!("bytes={}", vec!["0-0"; count].join(","));
        assert!(matches!(parse(&header(RANGES_MAX), 10), RangeRequest::Many(ranges) if ranges.len() == RANGES_MAX));
        assert_eq!(ask(&header(RANGES_MAX + 1), 10), "416");
        assert_eq!(ask(&header(100_000), 10), "416");
    }

    #[test]
    fn a_request_for_the_image_many_times_over_is_refused() {
        let size = 100 * OVERLAP_BYTES_MAX;
        assert_eq!(ask("bytes=0-,0-", size), format!("0-{0} 0-{0}", size - 1));
        assert_eq!(ask("bytes=0-,0-,0-", size), "416");
        assert_eq!(ask("bytes=0-,0-,0-", u64::MAX / 4), "416");
    }

    /// The grammar once more, as naively as can be: numbers as u128, sets of byte offsets.
    fn oracle(header: &str, size: u64) -> Option<Vec<Vec<u64>>> {
        let set = header.to_ascii_lowercase().strip_prefix("bytes=")?.to_owned();
        let mut specifiers = Vec::new();
        for specifier in set.split(',').map(str::trim).filter(|specifier| !specifier.is_empty()) {
            let dash = specifier.find('-')?;
            let number = |text: &str| -> Option<Option<u128>> {
                match text {
                    "" => Some(None),
                    digits if digits.chars().all(|c| c.is_ascii_digit()) => digits.parse().ok().map(Some),
                    _ => None,
                }
            };
            let size = u128::from(size);
            let bytes = match (number(&specifier[..dash])?, number(&specifier[dash + 1..])?) {
                (None, None) => return None,
                (Some(first), Some(last)) if last < first => return None,
                (Some(first), last) => {
                    (0..size).filter(|at| *at >= first && last.is_none_or(|last| *at <= last)).collect::<Vec<_>>()
                }
                (None, Some(suffix)) => (0..size).filter(|at| at + suffix >= size).collect(),
            };
            specifiers.push(bytes.into_iter().map(|at| at as u64).collect());
        }
        (!specifiers.is_empty()).then_some(specifiers)
    }

    fn position() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => (0u64..40).prop_map(|number| number.to_string()),
            1 => Just(String::new()),
            1 => Just("007".to_owned()),
            1 => (u64::MAX - 1..=u64::MAX).prop_map(|number| number.to_string()),
            1 => Just("36893488147419103232".to_owned()),
            1 => "[0-9a +-]{1,3}",
        ]
    }

    fn header() -> impl Strategy<Value = String> {
        let specifier = (position(), position()).prop_map(|(first, last)| format!("{first}-{last}"));
        let specifiers = prop::collection::vec(prop_oneof![20 => specifier, 1 => Just(String::new())], 0..6);
        (specifiers, prop_oneof![Just(","), Just(", "), Just(" ,\t")]).prop_map(|(set, comma)| format!("bytes={}", set.join(comma)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn parsing_agrees_with_the_naive_reading(header in header(), size in 1u64..33) {
            let asked = parse(&header, size);
            let got: Vec<Vec<u64>> = match &asked {
                RangeRequest::Whole => {
                    prop_assert_eq!(oracle(&header, size), None, "{:?} was ignored", header);
                    return Ok(());
                }
                RangeRequest::One(range) => vec![*range],
                RangeRequest::Many(ranges) => ranges.clone(),
                RangeRequest::NotSatisfiable => vec![],
            }
            .into_iter()
            .map(|range| (range.offset()..=range.last()).collect())
            .collect();
            let Some(expected) = oracle(&header, size) else { panic!("{header:?} should have been ignored, got {asked:?}") };
            let satisfiable: Vec<Vec<u64>> = expected.into_iter().filter(|bytes| !bytes.is_empty()).collect();
            prop_assert_eq!(got, satisfiable);
        }

        #[test]
        fn every_range_lies_inside_whatever_the_header(header in "(?s)(bytes=)?.{0,64}", size: u64) {
            let ranges = match parse(&header, size) {
                RangeRequest::Whole | RangeRequest::NotSatisfiable => vec![],
                RangeRequest::One(range) => vec![range],
                RangeRequest::Many(ranges) => ranges,
            };
            for range in ranges {
                prop_assert!(range.length() > 0);
                prop_assert!(range.offset().checked_add(range.length()).is_some_and(|end| end <= size));
            }
        }
    }
}
