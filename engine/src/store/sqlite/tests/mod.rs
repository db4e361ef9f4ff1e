//! What the store promises, tried on real files; the store in memory says what should be there.

mod damage;
mod format;
mod samples;
mod whole;

use super::super::testing::MemoryStore;
use super::{SqliteArchive, SqliteStore, log, tables};
use crate::model::Timestamp;
use crate::store::{Archive, Change, Group, Loaded, Opened, Store, StoreError, StoreErrorKind, UpgradeQuery};
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;

/// A store with what it handed over when it was opened.
struct Open {
    store: SqliteStore,
    archive: Arc<SqliteArchive>,
    opened: Opened,
    loaded: Vec<Loaded>,
}

fn try_open(folder: &Path) -> Result<Open, StoreError> {
    let mut loaded = Vec::new();
    let (store, archive, opened) = SqliteStore::open(folder, &mut |row| loaded.push(row))?;
    Ok(Open { store, archive, opened, loaded })
}

fn open(folder: &Path) -> Open {
    try_open(folder).unwrap_or_else(|error| panic!("{} does not open: {error}", folder.display()))
}

impl Open {
    fn commit(&mut self, number: u64, changes: Vec<Change>) {
        self.store.commit(&group(number, changes)).expect("the group is committed");
    }

    /// Waits until the tables have `group`.
    fn settle(&self, group: u64) {
        self.archive.events(0, 0, group).expect("the tables get that far");
    }
}

fn group(number: u64, changes: Vec<Change>) -> Group {
    Group { number, at: Timestamp(1_800_000_000_000 + number), changes }
}

/// What the store in memory hands over after these groups.
fn oracle(groups: &[Vec<Change>]) -> Vec<Loaded> {
    let mut memory = MemoryStore::new(0);
    for (number, changes) in (1..).zip(groups) {
        memory.commit(&group(number, changes.clone())).expect("memory takes every group");
    }
    let mut loaded = Vec::new();
    memory.open(&mut |row| loaded.push(row)).expect("memory opens");
    loaded
}

/// The files as a crash at this moment would leave them. The order matters: what the tables have may be missing from the log,
/// but never the other way round.
fn crash(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder for the copy");
    for file in [tables::FILE, "state.db-wal", log::FILE, "log.db-wal", "lock"] {
        let from = folder.join(file);
        if from.exists() {
            std::fs::copy(from, copy.path().join(file)).expect("the file is copied");
        }
    }
    copy
}

/// Runs SQL on a file of a store that is closed, or beside one that is open.
fn meddle(folder: &Path, file: &str, sql: &str) {
    Connection::open(folder.join(file)).and_then(|file| file.execute_batch(sql)).expect("the SQL runs");
}

fn count(folder: &Path, file: &str, table: &str) -> u64 {
    let connection = Connection::open(folder.join(file)).expect("the file opens");
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).expect("the table is there")
        as u64
}

fn refusal(folder: &Path) -> StoreError {
    match try_open(folder) {
        Err(error) => error,
        Ok(_) => panic!("{} opens, but should be refused", folder.display()),
    }
}
