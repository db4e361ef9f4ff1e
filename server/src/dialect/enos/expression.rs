//! Query expressions: `productKey = 'k' and firmwareVersion in ('1.0', "2.0")`, read into a tree.
//!
//! ```text
//! expression  = conjunction { "or" conjunction }
//! conjunction = primary { "and" primary }
//! primary     = "(" expression ")" | test
//! test        = field ( "=" value | "in" list | "like" text )
//! list        = "(" value { "," value } ")" | "[" value { "," value } "]"
//! ```
//!
//! Words of the language are read in any case, fields as they are spelt. A text stands in `'` or `"`; the quote itself is written twice
//! or after a backslash. A number counts as its own text. Blanks are free. An expression of nothing but blanks asks for everything.
//!
//! Each search has a table of its fields: which tests each takes, and of what kind its values are. What isn't in the table is refused,
//! with its place: to ignore a test would find more than was asked for, and some callers act on what they find.
//!
//! [`expression_reader`](super::expression_reader) reads; what `like` means is in [`pattern`](super::pattern). [`BYTES_MAX`],
//! [`NESTING_MAX`], [`TESTS_MAX`], [`VALUES_MAX`], [`LIKES_MAX`] and [`PATTERN_CHARS_MAX`] keep an expression small enough to be evaluated
//! without a second thought.

use super::expression_reader::Reader;
use super::pattern::Pattern;

/// A thousand device keys fit in.
pub(super) const BYTES_MAX: usize = 65_536;
/// Parentheses in parentheses. The reader calls itself once for each.
pub(super) const NESTING_MAX: usize = 16;
/// Tests of an expression: each may make a set of every device there is.
pub(super) const TESTS_MAX: usize = 32;
/// Values of all tests together.
pub(super) const VALUES_MAX: usize = 1_000;
/// Each looks through every name there is.
pub(super) const LIKES_MAX: usize = 8;
/// As long as a name may be by default, and more than anybody types.
pub(super) const PATTERN_CHARS_MAX: usize = 128;

/// What an expression may test.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldRule<F: 'static> {
    pub(super) name: &'static str,
    pub(super) field: F,
    pub(super) operators: &'static [Operator],
    pub(super) kind: ValueKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    In,
    Like,
}

impl Operator {
    pub(super) const ALL: [Self; 3] = [Self::Equal, Self::In, Self::Like];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::In => "in",
            Self::Like => "like",
        }
    }
}

/// What the values of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueKind {
    Text,
    Boolean,
    /// One of a few words; another one is a slip, not a search for nothing.
    Word(&'static [&'static str]),
}

/// An expression that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression<F> {
    /// Never empty.
    All(Vec<Self>),
    /// Never empty.
    Any(Vec<Self>),
    Test(F, Matcher),
}

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Matcher {
    /// It is one of these. Never empty.
    OneOf(Vec<String>),
    Like(Pattern),
    Is(bool),
}

impl Matcher {
    pub(super) fn matches_text(&self, text: &str) -> bool {
        match self {
            Self::OneOf(values) => values.iter().any(|value| value == text),
            Self::Like(pattern) => pattern.matches(text),
            Self::Is(_) => false,
        }
    }
}

impl<F: Copy> Expression<F> {
    /// `None` for an expression of blanks: it asks for everything.
    pub(super) fn parse(text: &str, table: &'static [FieldRule<F>]) -> Result<Option<Self>, ExpressionError> {
        Reader::new(text, table)?.read_all()
    }

    /// Evaluates over whatever a test yields: a truth for one row, or the set of all rows for which it holds.
    pub(super) fn evaluate<S>(&self, test: &mut impl FnMut(F, &Matcher) -> S, both: fn(S, S) -> S, either: fn(S, S) -> S) -> S {
        let (first, rest, join) = match self {
            Self::Test(field, matcher) => return test(*field, matcher),
            Self::All(parts) => (&parts[0], &parts[1..], both),
            Self::Any(parts) => (&parts[0], &parts[1..], either),
        };
        let mut result = first.evaluate(test, both, either);
        for part in rest {
            result = join(result, part.evaluate(test, both, either));
        }
        result
    }

    /// Whether one row is asked for.
    pub(super) fn holds(&self, mut test: impl FnMut(F, &Matcher) -> bool) -> bool {
        match self {
            Self::Test(field, matcher) => test(*field, matcher),
            _ => self.evaluate(&mut test, |left, right| left && right, |left, right| left || right),
        }
    }
}

/// Where an expression can't be read, what could have stood there, and what does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expression, character {character}: {message}")]
pub(super) struct ExpressionError {
    /// Counted from 1, in characters rather than bytes.
    pub(super) character: usize,
    pub(super) message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Field {
        Product,
        Upgrading,
    }

    const TABLE: &[FieldRule<Field>] = &[
        FieldRule { name: "productKey", field: Field::Product, operators: &[Operator::Equal], kind: ValueKind::Text },
        FieldRule { name: "isUpgrading", field: Field::Upgrading, operators: &[Operator::Equal], kind: ValueKind::Boolean },
    ];

    #[test]
    fn an_expression_is_evaluated_over_rows_and_over_sets() {
        let text = "(productKey='a' or productKey='b') and isUpgrading=true";
        let expression = Expression::parse(text, TABLE).unwrap().unwrap();
        let row = |product: &'static str, upgrading: bool| {
            move |field: Field, matcher: &Matcher| match field {
                Field::Product => matcher.matches_text(product),
                Field::Upgrading => *matcher == Matcher::Is(upgrading),
            }
        };
        assert!(expression.holds(row("b", true)));
        assert!(!expression.holds(row("b", false)));
        assert!(!expression.holds(row("c", true)));
        // Row n is bit n: products a, b, c, of which b and c are upgrading.
        let mut set = |field: Field, matcher: &Matcher| match field {
            Field::Product => (0..3).filter(|n| matcher.matches_text(["a", "b", "c"][*n])).map(|n| 1_u32 << n).sum(),
            Field::Upgrading => 0b110,
        };
        assert_eq!(expression.evaluate(&mut set, |left, right| left & right, |left, right| left | right), 0b010);
    }
}
