//! The stored formats, held fast: what was once written can be read for ever, and what is written today is what is described.

use super::*;
use rusqlite::types::ValueRef;

const STATE_1: &str = include_str!("../../fixtures/format-1-state.sql");
const LOG_1: &str = include_str!("../../fixtures/format-1-log.sql");

/// What the fixtures hold: a group in the tables, and one that is only in the log.
fn groups() -> [Vec<Change>; 2] {
    let log = (0..samples::KINDS).map(|kind| samples::change(kind, 3, kind)).collect();
    [samples::every_kind(), log]
}

/// A database as SQL, in the order of its tables and rows.
fn dump(path: &Path) -> String {
    let connection = Connection::open(path).unwrap();
    let mut text = String::new();
    let mut schema = connection.prepare("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid").unwrap();
    let mut entries = schema.query([]).unwrap();
    while let Some(entry) = entries.next().unwrap() {
        let (kind, name, sql): (String, String, String) = (entry.get(0).unwrap(), entry.get(1).unwrap(), entry.get(2).unwrap());
        text.push_str(&format!("{sql};\n"));
        if kind != "table" {
            continue;
        }
        let mut statement = connection.prepare(&format!("SELECT * FROM {name}")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<String> = (0..columns).map(|column| literal(row.get_ref(column).unwrap())).collect();
            text.push_str(&format!("INSERT INTO {name} VALUES({});\n", values.join(", ")));
        }
    }
    text
}

fn literal(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(_) => panic!("no column holds a fraction"),
        ValueRef::Text(text) => format!("'{}'", std::str::from_utf8(text).unwrap().replace('\'', "''")),
        ValueRef::Blob(bytes) => format!("X'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

/// A store with [`groups`], its second group in the log alone, named 5.
fn written_today() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.commit(1, groups()[0].clone());
    store.settle(1);
    meddle(
        folder.path(),
        tables::FILE,
        "CREATE TRIGGER refuse BEFORE UPDATE ON meta BEGIN SELECT RAISE(ABORT, 'refused by the test'); END",
    );
    store.commit(2, groups()[1].clone());
    drop(store);
    meddle(folder.path(), tables::FILE, "DROP TRIGGER refuse; UPDATE meta SET value = 5 WHERE key = 'store'");
    meddle(folder.path(), log::FILE, "UPDATE meta SET value = 5 WHERE key = 'store'; DELETE FROM log WHERE number = 1");
    folder
}

#[test]
fn a_store_of_format_1_opens_and_holds_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    meddle(folder.path(), tables::FILE, STATE_1);
    meddle(folder.path(), log::FILE, LOG_1);
    let opened = open(folder.path());
    assert_eq!(opened.loaded, oracle(&groups()));
    let Opened { store, last_group, last_event_sequence, first_event_sequence, .. } = opened.opened;
    assert_eq!((store, last_group, last_event_sequence, first_event_sequence), (5, 2, 6, 3));
    let query = UpgradeQuery { limit: usize::MAX, ..UpgradeQuery::default() };
    let mut memory = MemoryStore::new(5);
    for (number, changes) in (1..).zip(groups()) {
        memory.commit(&group(number, changes)).unwrap();
    }
    assert_eq!(opened.archive.upgrades(&query, 2).unwrap(), memory.upgrades(&query, 2).unwrap());
}

/// Where this fails, what is written has changed: older programs can't read it. Give it a new format number and new fixtures,
/// and keep these and the code that reads them. Only before the first release may the fixtures be written anew
/// (`UPDATE_EXPECT=1`).
#[test]
fn what_is_written_is_format_1_to_the_byte() {
    let folder = written_today();
    expect_test::expect_file!["../../fixtures/format-1-state.sql"].assert_eq(&dump(&folder.path().join(tables::FILE)));
    expect_test::expect_file!["../../fixtures/format-1-log.sql"].assert_eq(&dump(&folder.path().join(log::FILE)));
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    for (file, newer) in [
        (tables::FILE, "UPDATE meta SET value = 2 WHERE key = 'format'; ALTER TABLE products ADD COLUMN color TEXT"),
        (log::FILE, "UPDATE log SET format = 2"),
    ] {
        let folder = written_today();
        meddle(folder.path(), file, newer);
        let before = dump(&folder.path().join(file));
        let error = refusal(folder.path());
        assert_eq!(error.kind, StoreErrorKind::Version, "{file}: {error}");
        assert!(error.message.contains("format 2"), "{error}");
        assert_eq!(dump(&folder.path().join(file)), before);
    }
}
