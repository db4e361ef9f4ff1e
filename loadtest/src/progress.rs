//! What the one who waits sees: a bar on a terminal, a line now and then elsewhere. Always on standard error.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};

/// The progress of one phase.
#[derive(Debug)]
pub(crate) struct Progress {
    phase: &'static str,
    total: u64,
    done: AtomicU64,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(phase: &'static str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix:22} [{bar:40}] {pos}/{len} {msg} {elapsed}, {eta} to go");
            let bar = ProgressBar::new(total).with_prefix(phase);
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "))
        });
        if bar.is_none() {
            eprintln!("{phase}: {total} to do");
        }
        Self { phase, total, done: AtomicU64::new(0), bar }
    }

    pub(crate) fn advance(&self, count: u64) {
        let before = self.done.fetch_add(count, Ordering::Relaxed);
        let after = before + count;
        match &self.bar {
            Some(bar) => bar.inc(count),
            // A line for each tenth, whatever the size of the fleet.
            None if before * 10 / self.total.max(1) != after * 10 / self.total.max(1) => {
                eprintln!("{}: {after} of {}", self.phase, self.total);
            }
            None => {}
        }
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.done() >= self.total
    }

    /// Something beside the count, as long as it is worth knowing.
    pub(crate) fn say(&self, message: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(message);
        }
    }

    /// Something that should stay to be read.
    pub(crate) fn note(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.println(message),
            None => eprintln!("{message}"),
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
