//! What goes wrong in what others send: counted always, logged at a bounded rate. A device gone mad must not fill the disk with lines
//! about it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Of each kind.
const LINE_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Noise(Mutex<HashMap<&'static str, Kind>>);

#[derive(Debug)]
struct Kind {
    told_at: Instant,
    untold: u64,
}

impl Noise {
    /// One line for the first of its kind, and then at most one in ten seconds, which says how many went without. `who` and `what`
    /// come from outside: they are shortened and written without control characters.
    pub(crate) fn tell(&self, kind: &'static str, who: &str, what: impl fmt::Display) {
        if let Some(untold) = self.is_due(kind, Instant::now()) {
            let (who, what) = (shown(who), shown(&what.to_string()));
            tracing::warn!(kind, untold, from = who, "{what}");
        }
    }

    /// How many went untold since the last line, where one is due now.
    fn is_due(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kinds.get_mut(kind) {
            Some(there) if now.saturating_duration_since(there.told_at) < LINE_EVERY => {
                there.untold += 1;
                None
            }
            Some(there) => {
                there.told_at = now;
                Some(std::mem::take(&mut there.untold))
            }
            None => {
                kinds.insert(kind, Kind { told_at: now, untold: 0 });
                Some(0)
            }
        }
    }
}

fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    text.chars().take(CHARS_MAX).map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_at_once_and_then_seldom_with_what_went_untold() {
        let noise = Noise::default();
        let start = Instant::now();
        assert_eq!(noise.is_due("malformed", start), Some(0));
        assert_eq!(noise.is_due("foreign", start), Some(0));
        for second in 1..10 {
            assert_eq!(noise.is_due("malformed", start + Duration::from_secs(second)), None);
        }
        assert_eq!(noise.is_due("malformed", start + Duration::from_secs(10)), Some(9));
    }

    #[test]
    fn what_is_shown_is_short_and_plain() {
        assert_eq!(shown("a\nb\u{1b}[31m"), "a\u{fffd}b\u{fffd}[31m");
        assert_eq!(shown(&"ä".repeat(1_000)).chars().count(), 200);
    }
}
