//! Every reader with every input that is kept, whole and damaged. What a longer search finds is kept there too, and so becomes a test.

use super::readers;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Of each kept input; `SLUICEGATE_DAMAGED` for more of them.
const DAMAGED: u64 = 200;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus")
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// One to four small damages: a byte changed, taken out, doubled; a part taken out or repeated.
fn damaged(input: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = input.to_vec();
    for _ in 0..=next(&mut state) % 4 {
        let at = (next(&mut state) % (bytes.len() as u64 + 1)) as usize;
        let length = (next(&mut state) % 8) as usize;
        let part = at..bytes.len().min(at + length);
        match next(&mut state) % 5 {
            0 if at < bytes.len() => bytes[at] = next(&mut state) as u8,
            1 => bytes.insert(at, next(&mut state) as u8),
            2 => drop(bytes.drain(part)),
            3 => {
                let part = bytes[part].to_vec();
                bytes.splice(at..at, part);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn every_reader_bears_what_is_kept_whole_and_damaged() {
    let count = std::env::var("SLUICEGATE_DAMAGED").map_or(DAMAGED, |count| count.parse().expect("a number"));
    let mut tried = 0;
    for (name, read) in readers() {
        let folder = corpus().join(name);
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}; every reader has a corpus", folder.display()));
        let mut inputs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} is empty", folder.display());
        for path in inputs {
            let input = std::fs::read(&path).unwrap();
            for seed in 0..=count {
                let bytes = if seed == 0 { input.clone() } else { damaged(&input, seed) };
                tried += 1;
                let ended = std::panic::catch_unwind(|| read(&bytes));
                assert!(ended.is_ok(), "{name} with {} damaged by {seed}: {:?}", path.display(), String::from_utf8_lossy(&bytes));
            }
        }
    }
    println!("{tried} inputs tried with {} readers", readers().count());
}

#[test]
fn readers_have_names_of_their_own() {
    let names: Vec<&str> = readers().map(|(name, _)| name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}
