//! The one error of this program: a sentence for the person who runs it, saying what was expected, what came, and what to do.
//!
//! Nothing here is recovered from by its kind, so there is no enumeration of kinds.

use std::fmt;

/// Why the comparison could not be made.
#[derive(Debug)]
pub(crate) struct Failure(String);

/// What may fail here.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Says what was being done when something else failed.
pub(crate) trait Context<T> {
    fn context(self, doing: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, doing: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure(format!("{}: {error}", doing())))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, doing: impl FnOnce() -> String) -> Outcome<T> {
        self.ok_or_else(|| Failure(doing()))
    }
}
