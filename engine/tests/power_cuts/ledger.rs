//! What was asked of an engine and what it acknowledged, as lines of a file that is recorded with everything else; so how much of it
//! had been acknowledged at a power cut follows from the record.
//!
//! Everything is a register with a name, that one thread at a time writes: `ask` says what it is about to become, `ok` that the
//! engine has acknowledged it, `no` that it was refused and nothing of it was kept. A register that was asked and never answered may
//! be either, for ever.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

pub(crate) const FILE: &str = "acknowledged";

/// The pen of the one who asks.
#[derive(Debug)]
pub(crate) struct Pen(Mutex<File>);

impl Pen {
    pub(crate) fn open(root: &Path) -> Self {
        Self(Mutex::new(OpenOptions::new().create(true).append(true).open(root.join(FILE)).expect("the ledger opens")))
    }

    fn line(&self, parts: &[&str]) {
        let line = parts.join("\t") + "\n";
        let written = self.0.lock().unwrap().write(line.as_bytes()).expect("the ledger is writable");
        assert_eq!(written, line.len());
    }

    /// The folder was opened.
    pub(crate) fn opened(&self) {
        self.line(&["opened"]);
    }

    pub(crate) fn ask(&self, key: &str, value: &str) {
        self.line(&["ask", key, value]);
    }

    /// `detail`: what else the engine told, to be found again.
    pub(crate) fn ok(&self, key: &str, detail: &str) {
        self.line(&["ok", key, detail]);
    }

    pub(crate) fn no(&self, key: &str) {
        self.line(&["no", key]);
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Register {
    /// What was acknowledged last; empty: nothing was.
    pub(crate) value: String,
    pub(crate) detail: String,
    /// What it may have become.
    pub(crate) asked: Option<String>,
}

impl Register {
    pub(crate) fn may_be(&self, value: &str) -> bool {
        self.value == value || self.asked.as_deref() == Some(value)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) opened: bool,
    pub(crate) registers: BTreeMap<String, Register>,
    pub(crate) acknowledged: u64,
}

impl Ledger {
    pub(crate) fn note(&mut self, line: &str) {
        let line = line.strip_suffix('\n').expect("lines are written whole");
        let parts: Vec<&str> = line.split('\t').collect();
        if parts == ["opened"] {
            self.opened = true;
            return;
        }
        let register = self.registers.entry(parts[1].to_owned()).or_default();
        match (parts[0], parts.get(2)) {
            ("ask", Some(value)) => {
                assert!(register.asked.is_none(), "{line}: asked twice");
                register.asked = Some((*value).to_owned());
            }
            ("ok", Some(detail)) => {
                register.value = register.asked.take().expect("asked before it is answered");
                register.detail = (*detail).to_owned();
                self.acknowledged += 1;
            }
            ("no", None) => register.asked = None,
            _ => panic!("{line}: not a line of a ledger"),
        }
    }
}
