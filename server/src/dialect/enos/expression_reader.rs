//! From an expression's text to its tree: tokens, and a descent by the grammar of [`expression`](super::expression).
//!
//! Invariant: a fault is told at the token that doesn't fit, counted in characters, with what could have stood there.

use super::expression::{
    BYTES_MAX, Expression, ExpressionError, FieldRule, LIKES_MAX, Matcher, NESTING_MAX, Operator, PATTERN_CHARS_MAX, TESTS_MAX,
    VALUES_MAX, ValueKind,
};
use super::pattern::Pattern;
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Text(String),
    Symbol(char),
    End,
}

impl Token<'_> {
    fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(own) if own.eq_ignore_ascii_case(word))
    }
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(formatter, "{:?}", shortened(word)),
            Self::Text(text) => write!(formatter, "the text {:?}", shortened(text)),
            Self::Symbol(symbol) => write!(formatter, "{:?}", symbol.to_string()),
            Self::End => formatter.write_str("the end"),
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Reads one expression. Calls itself once for each level of parentheses, and for nothing else.
pub(super) struct Reader<'a, F: 'static> {
    text: &'a str,
    table: &'static [FieldRule<F>],
    /// The token that is next, where it begins and where it ends, in bytes.
    token: Token<'a>,
    begin: usize,
    end: usize,
    nesting: usize,
    values: usize,
    likes: usize,
    tests: usize,
}

impl<'a, F: Copy> Reader<'a, F> {
    pub(super) fn new(text: &'a str, table: &'static [FieldRule<F>]) -> Result<Self, ExpressionError> {
        // Bytes first: nobody counts the characters of a megabyte to learn that it is too long.
        if text.len() > BYTES_MAX {
            let message = format!("expected an expression of at most {BYTES_MAX} bytes, got {}; ask in several calls", text.len());
            return Err(ExpressionError { character: 1, message });
        }
        let mut reader = Self { text, table, token: Token::End, begin: 0, end: 0, nesting: 0, values: 0, likes: 0, tests: 0 };
        reader.advance()?;
        Ok(reader)
    }

    /// `None` where there is nothing but blanks.
    pub(super) fn read_all(mut self) -> Result<Option<Expression<F>>, ExpressionError> {
        if self.token == Token::End {
            return Ok(None);
        }
        let expression = self.expression()?;
        match self.token {
            Token::End => Ok(Some(expression)),
            _ => Err(self.expected("and, or, or the end")),
        }
    }

    fn expression(&mut self) -> Result<Expression<F>, ExpressionError> {
        self.joined("or", Self::conjunction, Expression::Any)
    }

    fn conjunction(&mut self) -> Result<Expression<F>, ExpressionError> {
        self.joined("and", Self::primary, Expression::All)
    }

    fn joined(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Expression<F>, ExpressionError>,
        join: fn(Vec<Expression<F>>) -> Expression<F>,
    ) -> Result<Expression<F>, ExpressionError> {
        let first = part(self)?;
        if !self.token.is_word(word) {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.token.is_word(word) {
            self.advance()?;
            parts.push(part(self)?);
        }
        Ok(join(parts))
    }

    fn primary(&mut self) -> Result<Expression<F>, ExpressionError> {
        if self.token != Token::Symbol('(') {
            return self.test();
        }
        if self.nesting == NESTING_MAX {
            return Err(self.expected(format!("at most {NESTING_MAX} parentheses in each other")));
        }
        self.nesting += 1;
        self.advance()?;
        let inner = self.expression()?;
        if self.token != Token::Symbol(')') {
            return Err(self.expected("and, or, or \")\""));
        }
        self.nesting -= 1;
        self.advance()?;
        Ok(inner)
    }

    fn test(&mut self) -> Result<Expression<F>, ExpressionError> {
        self.tests += 1;
        if self.tests > TESTS_MAX {
            return Err(self.expected(format!("at most {TESTS_MAX} tests; name several values of one field with in")));
        }
        let rule = self.field()?;
        let operator = self.operator(rule)?;
        let matcher = match operator {
            Operator::Equal if rule.kind == ValueKind::Boolean => Matcher::Is(self.boolean()?),
            Operator::Equal => Matcher::OneOf(vec![self.value(rule.kind)?]),
            Operator::In => Matcher::OneOf(self.list(rule.kind)?),
            Operator::Like => Matcher::Like(self.pattern(rule.kind)?),
        };
        Ok(Expression::Test(rule.field, matcher))
    }

    fn field(&mut self) -> Result<&'static FieldRule<F>, ExpressionError> {
        let rule = match self.token {
            Token::Word(word) => self.table.iter().find(|rule| rule.name == word),
            _ => None,
        };
        let Some(rule) = rule else {
            let names: Vec<&str> = self.table.iter().map(|rule| rule.name).collect();
            return Err(self.expected(format!("a field ({})", names.join(", "))));
        };
        self.advance()?;
        Ok(rule)
    }

    fn operator(&mut self, rule: &FieldRule<F>) -> Result<Operator, ExpressionError> {
        let is_next = |operator: &Operator| match operator {
            Operator::Equal => self.token == Token::Symbol('='),
            word => self.token.is_word(word.name()),
        };
        match Operator::ALL.into_iter().find(is_next).filter(|operator| rule.operators.contains(operator)) {
            Some(operator) => {
                self.advance()?;
                Ok(operator)
            }
            None => {
                let names: Vec<&str> = rule.operators.iter().map(|operator| operator.name()).collect();
                Err(self.expected(format!("{} after {:?}", names.join(" or "), rule.name)))
            }
        }
    }

    fn list(&mut self, kind: ValueKind) -> Result<Vec<String>, ExpressionError> {
        let close = match self.token {
            Token::Symbol('(') => ')',
            Token::Symbol('[') => ']',
            _ => return Err(self.expected("a list, as in ('a', 'b')")),
        };
        let mut values = Vec::new();
        loop {
            // Past the bracket at first, past a comma then.
            self.advance()?;
            values.push(self.value(kind)?);
            if self.token == Token::Symbol(close) {
                self.advance()?;
                return Ok(values);
            }
            if self.token != Token::Symbol(',') {
                return Err(self.expected(format!("\",\" or {:?}", close.to_string())));
            }
        }
    }

    fn value(&mut self, kind: ValueKind) -> Result<String, ExpressionError> {
        let value = match (&self.token, kind) {
            (Token::Text(text), ValueKind::Word(words)) => {
                if !words.contains(&text.as_str()) {
                    return Err(self.expected(format!("one of {}", words.join(", "))));
                }
                text.clone()
            }
            (Token::Text(text), _) => text.clone(),
            (Token::Word(word), ValueKind::Text) if word.starts_with(|char: char| char.is_ascii_digit()) => (*word).to_owned(),
            _ => return Err(self.expected("a text in quotes")),
        };
        self.count_value()?;
        self.advance()?;
        Ok(value)
    }

    fn pattern(&mut self, kind: ValueKind) -> Result<Pattern, ExpressionError> {
        self.likes += 1;
        if self.likes > LIKES_MAX {
            return Err(self.expected(format!("at most {LIKES_MAX} tests with like; ask in several calls")));
        }
        let begin = self.begin;
        let text = self.value(kind)?;
        let chars = text.chars().count();
        if chars > PATTERN_CHARS_MAX {
            let message = format!("expected a text of at most {PATTERN_CHARS_MAX} characters after like, got {chars}; shorten it");
            return Err(self.fault_at(begin, message));
        }
        Ok(Pattern::new(&text))
    }

    fn boolean(&mut self) -> Result<bool, ExpressionError> {
        let word = match &self.token {
            Token::Word(word) => word,
            Token::Text(text) => text.trim(),
            _ => return Err(self.expected("true or false")),
        };
        let value = bool::from_str(&word.to_ascii_lowercase()).map_err(|_| self.expected("true or false"))?;
        self.count_value()?;
        self.advance()?;
        Ok(value)
    }

    fn count_value(&mut self) -> Result<(), ExpressionError> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(self.expected(format!("at most {VALUES_MAX} values; ask in several calls")));
        }
        Ok(())
    }

    fn expected(&self, expected: impl fmt::Display) -> ExpressionError {
        self.fault_at(self.begin, format!("expected {expected}, got {}", self.token))
    }

    fn fault_at(&self, byte: usize, message: String) -> ExpressionError {
        let character = self.text.get(..byte).map_or(0, |before| before.chars().count()) + 1;
        ExpressionError { character, message }
    }

    /// Reads the next token.
    fn advance(&mut self) -> Result<(), ExpressionError> {
        let text = self.text;
        let rest = text[self.end..].trim_start();
        self.begin = text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            self.end = text.len();
            self.token = Token::End;
            return Ok(());
        };
        let length = match first {
            '\'' | '"' => return self.quoted(first),
            char if is_of_word(char) => rest.find(|char| !is_of_word(char)).unwrap_or(rest.len()),
            symbol => symbol.len_utf8(),
        };
        self.end = self.begin + length;
        self.token = if is_of_word(first) { Token::Word(&rest[..length]) } else { Token::Symbol(first) };
        Ok(())
    }

    fn quoted(&mut self, quote: char) -> Result<(), ExpressionError> {
        let mut text = String::new();
        let mut chars = self.text[self.begin..].char_indices().skip(1).peekable();
        while let Some((at, char)) = chars.next() {
            let next = chars.peek().map(|(_, next)| *next);
            match (char, next) {
                (char, Some(next)) if char == quote && next == quote => {
                    chars.next();
                    text.push(quote);
                }
                (char, _) if char == quote => {
                    self.end = self.begin + at + quote.len_utf8();
                    self.token = Token::Text(text);
                    return Ok(());
                }
                // Before anything else a backslash is only itself, so that a `like` still sees its `\%`.
                ('\\', Some(next @ ('\'' | '"' | '\\'))) => {
                    chars.next();
                    text.push(next);
                }
                (char, _) => text.push(char),
            }
        }
        let message = format!("expected a closing {quote}, got the end; the text begins with {:?}", shortened(&text));
        Err(self.fault_at(self.begin, message))
    }
}

/// A field with its sub-names, an operator, `and`, `true`, a number.
const fn is_of_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Field {
        Product,
        Version,
        Upgrading,
        Status,
        NameZh,
    }

    const TABLE: &[FieldRule<Field>] = &[
        FieldRule { name: "productKey", field: Field::Product, operators: &[Operator::Equal, Operator::In], kind: ValueKind::Text },
        FieldRule {
            name: "firmwareVersion",
            field: Field::Version,
            operators: &[Operator::Equal, Operator::In],
            kind: ValueKind::Text,
        },
        FieldRule { name: "isUpgrading", field: Field::Upgrading, operators: &[Operator::Equal], kind: ValueKind::Boolean },
        FieldRule {
            name: "status",
            field: Field::Status,
            operators: &[Operator::Equal, Operator::In],
            kind: ValueKind::Word(&["started", "stopped"]),
        },
        FieldRule {
            name: "name.zh_CN",
            field: Field::NameZh,
            operators: &[Operator::Equal, Operator::Like],
            kind: ValueKind::Text,
        },
    ];

    fn parse(text: &str) -> Result<Option<Expression<Field>>, ExpressionError> {
        Expression::parse(text, TABLE)
    }

    fn one(text: &str) -> Expression<Field> {
        parse(text).unwrap().unwrap()
    }

    fn is(field: Field, values: &[&str]) -> Expression<Field> {
        Expression::Test(field, Matcher::OneOf(values.iter().map(|value| (*value).to_owned()).collect()))
    }

    #[test]
    fn a_test_is_read_whatever_its_spacing_case_and_quotes() {
        for text in ["productKey='k'", "productKey = \"k\"", "  productKey\t=\n'k' ", "(productKey='k')", "((productKey = 'k'))"] {
            assert_eq!(one(text), is(Field::Product, &["k"]), "{text}");
        }
        for text in ["firmwareVersion in ('1.0','2.0')", "firmwareVersion IN[\"1.0\" , '2.0']", "firmwareVersion In (1.0,'2.0')"] {
            assert_eq!(one(text), is(Field::Version, &["1.0", "2.0"]), "{text}");
        }
        for (text, flag) in [("true", true), ("False", false), ("'TRUE'", true), ("\" false \"", false)] {
            assert_eq!(one(&format!("isUpgrading={text}")), Expression::Test(Field::Upgrading, Matcher::Is(flag)), "{text}");
        }
    }

    #[test]
    fn and_binds_more_tightly_than_or_and_parentheses_most_of_all() {
        let (a, b, c) = (is(Field::Product, &["a"]), is(Field::Product, &["b"]), is(Field::Product, &["c"]));
        let flat = one("productKey='a' or productKey='b' AND productKey='c'");
        assert_eq!(flat, Expression::Any(vec![a.clone(), Expression::All(vec![b.clone(), c.clone()])]));
        let grouped = one("(productKey='a' OR productKey='b')and productKey='c'");
        assert_eq!(grouped, Expression::All(vec![Expression::Any(vec![a.clone(), b.clone()]), c.clone()]));
        assert_eq!(one("productKey='a' and productKey='b' and productKey='c'"), Expression::All(vec![a, b, c]));
    }

    #[test]
    fn quotes_are_escaped_by_doubling_or_a_backslash() {
        for (text, value) in [
            ("''", ""),
            ("'it''s'", "it's"),
            (r"'it\'s'", "it's"),
            (r#""say ""hi""""#, "say \"hi\""),
            (r#""a\"b\\""#, "a\"b\\"),
            ("'and \"so\" on'", "and \"so\" on"),
            (r"'C:\temp'", r"C:\temp"),
            ("'固件 1'", "固件 1"),
            ("''''", "'"),
        ] {
            assert_eq!(one(&format!("productKey={text}")), is(Field::Product, &[value]), "{text}");
        }
    }

    #[test]
    fn blanks_ask_for_everything() {
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse(" \t\n"), Ok(None));
    }

    #[test]
    fn what_can_not_be_read_is_told_with_its_place_and_what_was_expected() {
        for (text, message) in [
            ("productKey like 'a'", "character 12: expected = or in after \"productKey\", got \"like\""),
            ("isUpgrading in (true)", "character 13: expected = after \"isUpgrading\", got \"in\""),
            ("name.zh_CN in ('a')", "character 12: expected = or like after \"name.zh_CN\", got \"in\""),
            ("productKey", "character 11: expected = or in after \"productKey\", got the end"),
            ("productKey != 'a'", "character 12: expected = or in after \"productKey\", got \"!\""),
            ("productKey == 'a'", "character 13: expected a text in quotes, got \"=\""),
            ("productKey = k", "character 14: expected a text in quotes, got \"k\""),
            ("productKey = 'k", "character 14: expected a closing ', got the end; the text begins with \"k\""),
            ("productKey = '固' nor", "character 18: expected and, or, or the end, got \"nor\""),
            ("productKey in 'a'", "character 15: expected a list, as in ('a', 'b'), got the text \"a\""),
            ("productKey in ()", "character 16: expected a text in quotes, got \")\""),
            ("productKey in ('a',)", "character 20: expected a text in quotes, got \")\""),
            ("productKey in ('a']", "character 19: expected \",\" or \")\", got \"]\""),
            ("productKey in ['a' 'b']", "character 20: expected \",\" or \"]\", got the text \"b\""),
            ("(productKey='a'", "character 16: expected and, or, or \")\", got the end"),
            ("productKey='a')", "character 15: expected and, or, or the end, got \")\""),
            ("isUpgrading=maybe", "character 13: expected true or false, got \"maybe\""),
            ("isUpgrading=('true')", "character 13: expected true or false, got \"(\""),
            ("status='flying'", "character 8: expected one of started, stopped, got the text \"flying\""),
            ("and", "character 1: expected a field (productKey, firmwareVersion, isUpgrading, status, name.zh_CN), got \"and\""),
            (
                "productKey='a' and firmware='b'",
                "character 20: expected a field (productKey, firmwareVersion, isUpgrading, status, name.zh_CN), got \"firmware\"",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), format!("expression, {message}"), "{text}");
        }
    }

    #[test]
    fn length_nesting_and_values_are_bounded() {
        let nested = |depth: usize| format!("{}productKey='a'{}", "(".repeat(depth), ")".repeat(depth));
        assert!(parse(&nested(NESTING_MAX)).is_ok());
        assert!(parse(&nested(NESTING_MAX + 1)).unwrap_err().to_string().contains("at most 16 parentheses"));
        let listed = |count: usize| format!("productKey in ({})", vec!["'a'"; count].join(","));
        assert!(parse(&listed(VALUES_MAX)).is_ok());
        assert!(parse(&listed(VALUES_MAX + 1)).unwrap_err().to_string().contains("at most 1000 values"));
        let long = format!("productKey='{}'", "a".repeat(BYTES_MAX));
        assert_eq!(parse(&long).unwrap_err().character, 1);
        let joined = |count: usize| vec!["productKey='a'"; count].join(" and ");
        assert!(parse(&joined(TESTS_MAX)).is_ok());
        assert!(parse(&joined(TESTS_MAX + 1)).unwrap_err().to_string().contains("at most 32 tests"));
    }

    #[test]
    fn tests_with_like_and_the_length_of_their_texts_are_bounded() {
        let likes = |count: usize| vec!["name.zh_CN like 'a'"; count].join(" or ");
        assert!(parse(&likes(LIKES_MAX)).is_ok());
        assert_eq!(
            parse(&likes(LIKES_MAX + 1)).unwrap_err().to_string(),
            "expression, character 201: expected at most 8 tests with like; ask in several calls, got the text \"a\""
        );
        let long = |chars: usize| format!("name.zh_CN like '{}'", "固".repeat(chars));
        assert!(parse(&long(PATTERN_CHARS_MAX)).is_ok());
        assert_eq!(
            parse(&long(PATTERN_CHARS_MAX + 1)).unwrap_err().to_string(),
            "expression, character 17: expected a text of at most 128 characters after like, got 129; shorten it"
        );
        assert!(parse(&long(PATTERN_CHARS_MAX + 1).replace("like", "=")).is_ok(), "what is compared whole may be longer");
    }

    /// Whatever comes in, an answer comes out; a fault lies within the text or right behind it.
    #[test]
    fn no_text_upsets_the_reader() {
        const SEED: u64 = 0x5eed_0002;
        const WHOLE: &str =
            "productKey='8Uh''OT' and (firmwareVersion in (\"1.0\", '固件') OR isUpgrading = False) and name.zh_CN like 'a%\\'b'";
        const PIECES: [&str; 22] = [
            "'",
            "\"",
            "(",
            ")",
            "[",
            "]",
            ",",
            "=",
            "\\",
            "%",
            " ",
            "and",
            "or",
            "in",
            "like",
            "true",
            "productKey",
            "é",
            "固",
            "\0",
            "\u{10ffff}",
            "0.1",
        ];
        let mut state = SEED;
        let mut random = move |below: usize| {
            // xorshift64*: enough to wander about, the same way every time.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
        };
        let mut accepted = 0;
        for round in 0..20_000 {
            let mut chars: Vec<char> = WHOLE.chars().collect();
            for _ in 0..=random(6) {
                let at = random(chars.len() + 1);
                match random(4) {
                    0 => chars.truncate(at),
                    1 => drop(chars.drain(at..chars.len().min(at + 1 + random(8)))),
                    2 => drop(chars.splice(at..at, PIECES[random(PIECES.len())].chars())),
                    _ => {
                        let copied: Vec<char> = chars[at..chars.len().min(at + random(20))].to_vec();
                        chars.splice(at..at, copied);
                    }
                }
            }
            let text: String = chars.iter().collect();
            match parse(&text) {
                Ok(_) => accepted += 1,
                Err(error) => assert!(
                    (1..=chars.len() + 1).contains(&error.character),
                    "seed {SEED:#x}, round {round}: {text:?} fails at {}",
                    error.character
                ),
            }
        }
        assert!(accepted > 0, "seed {SEED:#x}: some of the mutants are still expressions");
    }
}
