//! Full disks, torn and damaged files, and what is said about them.

use super::super::{VerifyReport, verify};
use super::*;
use crate::store::Key;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn products(numbers: std::ops::RangeInclusive<u32>) -> Vec<Change> {
    numbers.map(|n| Change::Put(samples::product(n, 1))).collect()
}

/// A folder whose log has three groups that the tables lack.
fn three_groups_in_the_log() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    // Keeps the tables from getting anything, whatever the thread does meanwhile.
    meddle(
        folder.path(),
        tables::FILE,
        "CREATE TRIGGER refuse BEFORE UPDATE ON meta BEGIN SELECT RAISE(ABORT, 'refused by the test'); END",
    );
    for number in 1..=3_u32 {
        store.commit(number.into(), vec![Change::Put(samples::image(number, 1))]);
    }
    drop(store);
    meddle(folder.path(), tables::FILE, "DROP TRIGGER refuse");
    assert_eq!(count(folder.path(), log::FILE, "log"), 3);
    folder
}

#[test]
fn on_a_full_disk_a_group_is_refused_whole_and_later_ones_go_through() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.commit(1, products(1..=1));
    let limit = |store: &Open, pages: i64| {
        let connection = store.store.log.connection();
        connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    };
    limit(&store, 1);
    for _ in 0..2 {
        let error = store.store.commit(&group(2, products(2..=9_999))).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Full, "{error}");
    }
    let crashed = crash(folder.path());
    assert_eq!(open(crashed.path()).loaded, oracle(&[products(1..=1)]), "nothing of it was kept");
    limit(&store, 1_000_000);
    store.commit(2, products(2..=3));
    drop(store);
    assert_eq!(open(folder.path()).loaded, oracle(&[products(1..=1), products(2..=3)]));
}

#[test]
fn after_the_log_failed_nothing_is_committed_until_it_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.commit(1, products(1..=1));
    meddle(
        folder.path(),
        log::FILE,
        "CREATE TRIGGER fail BEFORE INSERT ON log BEGIN SELECT RAISE(ABORT, 'failed by the test'); END",
    );
    assert_eq!(store.store.commit(&group(2, products(2..=2))).unwrap_err().kind, StoreErrorKind::Failed);
    meddle(folder.path(), log::FILE, "DROP TRIGGER fail");
    let error = store.store.commit(&group(2, products(2..=2))).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Failed);
    assert!(error.message.contains("failed by the test"), "it says why: {error}");
    drop(store);
    let mut store = open(folder.path());
    assert_eq!(store.loaded, oracle(&[products(1..=1)]));
    store.commit(2, products(2..=2));
}

#[test]
fn while_the_tables_fail_commits_go_on_and_readers_are_told_and_then_it_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    meddle(
        folder.path(),
        tables::FILE,
        "CREATE TRIGGER fail BEFORE INSERT ON products BEGIN SELECT RAISE(ABORT, 'failed by the test'); END",
    );
    store.commit(1, products(1..=1));
    let error = store.archive.events(0, 1, 1).unwrap_err();
    assert!(error.message.contains("failed by the test"), "it says why: {error}");
    store.commit(2, products(2..=2));
    meddle(folder.path(), tables::FILE, "DROP TRIGGER fail");
    let until = Instant::now() + Duration::from_secs(60);
    while let Err(error) = store.archive.events(0, 1, 2) {
        assert!(Instant::now() < until, "the tables never caught up: {error}");
        std::thread::yield_now();
    }
    assert_eq!(count(folder.path(), tables::FILE, "products"), 2);
}

#[test]
fn a_torn_end_of_the_log_costs_only_what_was_never_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.commit(1, products(1..=1));
    let whole = crash(folder.path());
    store.commit(2, products(2..=2));
    let torn = crash(folder.path());
    drop(store);
    // The tables of the moment before, and a log that ends within the second group.
    for file in [tables::FILE, "state.db-wal"] {
        std::fs::copy(whole.path().join(file), torn.path().join(file)).unwrap();
    }
    let wal = std::fs::OpenOptions::new().write(true).open(torn.path().join("log.db-wal")).unwrap();
    wal.set_len(wal.metadata().unwrap().len() - 100).unwrap();
    let mut reopened = open(torn.path());
    assert_eq!(reopened.loaded, oracle(&[products(1..=1)]));
    reopened.commit(2, products(2..=2));
}

#[test]
fn a_damaged_group_is_named() {
    for damage in [
        "UPDATE log SET changes = X'00' WHERE number = 2",
        "UPDATE log SET at = at + 1 WHERE number = 2",
        "UPDATE log SET crc = crc + 1 WHERE number = 2",
    ] {
        let folder = three_groups_in_the_log();
        meddle(folder.path(), log::FILE, damage);
        let error = refusal(folder.path());
        assert_eq!(error.kind, StoreErrorKind::Corrupt, "{damage}");
        assert!(error.message.contains("group 2"), "{damage}: {error}");
    }
}

#[test]
fn missing_groups_are_noticed() {
    let folder = three_groups_in_the_log();
    meddle(folder.path(), log::FILE, "DELETE FROM log WHERE number = 1");
    let error = refusal(folder.path());
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(error.message.contains("begins with group 2"), "{error}");

    let folder = three_groups_in_the_log();
    meddle(folder.path(), log::FILE, "DELETE FROM log WHERE number = 2");
    assert_eq!(refusal(folder.path()).kind, StoreErrorKind::Corrupt);
}

#[test]
fn the_log_of_another_store_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop((open(one.path()), open(other.path())));
    std::fs::copy(other.path().join(log::FILE), one.path().join(log::FILE)).unwrap();
    let error = refusal(one.path());
    assert_eq!(error.kind, StoreErrorKind::Corrupt);
    assert!(error.message.contains("belongs to store"), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_corrupt() {
    for file in [tables::FILE, log::FILE] {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()));
        std::fs::write(folder.path().join(file), vec![b'x'; 8192]).unwrap();
        let error = refusal(folder.path());
        assert_eq!(error.kind, StoreErrorKind::Corrupt, "{error}");
        assert!(error.message.contains(file), "{error}");
    }
}

/// Every file of a folder with its bytes.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap())).collect()
}

/// What `verify` finds, having made sure that it changed nothing.
fn verified(folder: &Path) -> VerifyReport {
    let before = contents(folder);
    let report = verify(folder).unwrap_or_else(|error| panic!("{error}"));
    let after = contents(folder);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert!(before == after, "verify changed a file");
    report
}

#[test]
fn a_sound_store_verifies_however_it_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.commit(1, samples::every_kind());
    store.settle(1);
    let rest = vec![
        Change::Put(samples::image(8, 1)),
        Change::Delete(Key::Image { organization: "acme".into(), id: samples::image_id(1) }),
        Change::Put(samples::image(5, 0)),
    ];
    store.commit(2, rest);
    let crashed = crash(folder.path());
    drop(store);
    let images: Vec<_> = [(0, 1000), (2, 1002), (4, 1004)].map(|(n, size)| (samples::image_id(n), size)).into();
    for folder in [folder.path(), crashed.path()] {
        let report = verified(folder);
        assert_eq!(report.problems, [""; 0]);
        assert_eq!(report.last_group, 2);
        assert_eq!(report.images, images);
        assert_eq!(report.rows.len(), 11);
        assert!(report.rows.contains(&("upgrades", 4)), "{:?}", report.rows);
    }
    open(crashed.path());
}

#[test]
fn verify_counts_groups_of_the_log_and_lists_their_images() {
    let report = verified(three_groups_in_the_log().path());
    assert_eq!(report.problems, [""; 0]);
    assert_eq!((report.groups, report.last_group), (3, 3));
    assert_eq!(report.images, [(samples::image_id(0), 1000), (samples::image_id(1), 1001)]);
}

#[test]
fn verify_names_every_damage_it_finds() {
    let folder = three_groups_in_the_log();
    meddle(folder.path(), log::FILE, "UPDATE log SET crc = crc + 1 WHERE number = 1; DELETE FROM log WHERE number = 2");
    meddle(
        folder.path(),
        tables::FILE,
        "INSERT INTO apps VALUES('a', 'acme', X'', 0);
         INSERT INTO upgrades VALUES(1, 1, 'dancing', 0, 0, 0, '1', NULL, 0, 0, NULL, NULL, NULL, 0, NULL, NULL, 0, 0);
         INSERT INTO events VALUES(7, 'result', 0, 'acme', 'p', NULL, 'not an id', NULL, NULL, NULL, NULL)",
    );
    let problems = verified(folder.path()).problems.join("\n");
    for expected in ["group 1 of log.db is damaged", "group 2 is missing", "\"dancing\" is no state", "row 1 of the table events"] {
        assert!(problems.contains(expected), "{expected:?} is not in:\n{problems}");
    }
}

#[test]
fn verify_finds_a_damaged_page() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.commit(1, products(1..=5_000));
    drop(store);
    drop(open(folder.path()));
    let path = folder.path().join(tables::FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    assert!(!verified(folder.path()).problems.is_empty());
}

#[test]
fn verify_refuses_a_store_in_use_and_names_missing_tables() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert_eq!(verify(folder.path()).unwrap_err().kind, StoreErrorKind::InUse);
    drop(store);
    std::fs::remove_file(folder.path().join(tables::FILE)).unwrap();
    let problems = verified(folder.path()).problems.join("\n");
    assert!(problems.contains("state.db is missing"), "{problems}");
}
