//! One of the readers of what comes from outside, named by `SLUICEGATE_READER`, with whatever libFuzzer thinks of.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate_server::testing::{Reader, readers};
use std::sync::OnceLock;

static READER: OnceLock<Reader> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let (_, read) = READER.get_or_init(|| {
        let wanted = std::env::var("SLUICEGATE_READER").unwrap_or_default();
        let names: Vec<&str> = readers().map(|(name, _)| name).collect();
        readers().find(|(name, _)| *name == wanted).unwrap_or_else(|| panic!("set SLUICEGATE_READER to one of {names:?}"))
    });
    read(bytes);
});
