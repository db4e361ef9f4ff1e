//! What `like` means in an expression.
//!
//! A text is gone through once, whatever the pattern: each part is looked for behind the one before, by a search that takes time in
//! proportion to what it passes, and no part is ever looked for again.

/// A text with holes. `%` stands for any characters; without one, the pattern may stand anywhere in the text. `\%` is a percent sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// What lies between the holes, in order; the first one begins the text and the last one ends it.
    parts: Vec<String>,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        let mut parts = vec![String::new()];
        let mut chars = text.chars().peekable();
        while let Some(char) = chars.next() {
            match char {
                '%' => parts.push(String::new()),
                '\\' if chars.peek() == Some(&'%') => {
                    chars.next();
                    push(&mut parts, '%');
                }
                char => push(&mut parts, char),
            }
        }
        if parts.len() == 1 {
            parts.insert(0, String::new());
            parts.push(String::new());
        }
        Self { parts }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let [first, middle @ .., last] = self.parts.as_slice() else { return false };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
        for part in middle {
            // The earliest place leaves the most for what follows.
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }
}

fn push(parts: &mut [String], char: char) {
    if let Some(last) = parts.last_mut() {
        last.push(char);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_found_anywhere_or_where_its_holes_say() {
        for (pattern, text, expected) in [
            ("ota", "an ota job", true),
            ("ota", "OTA", false),
            ("%job", "an ota job", true),
            ("%job", "jobs", false),
            ("an%", "an ota job", true),
            ("an%job", "an ota job", true),
            ("an%an", "an", false),
            ("a%b%c", "aXbYc", true),
            ("a%b%c", "abXc", true),
            ("a%b%c", "acb", false),
            ("%", "", true),
            ("%%", "x", true),
            ("", "x", true),
            (r"5\%", "5% done", true),
            (r"5\%", "50", false),
            ("固%一", "固件第一", true),
            // What brings a matcher that goes back to its knees.
            (&"a%".repeat(64), &"a".repeat(100_000), true),
            (&format!("%{}b", "a%".repeat(63)), &"a".repeat(100_000), false),
            (&format!("%{}b%", "a".repeat(100)), &"a".repeat(100_000), false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), expected, "{text:?} like {pattern:?}");
        }
    }
}
