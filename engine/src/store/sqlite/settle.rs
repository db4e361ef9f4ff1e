//! Before anything is built on what lies there: makes durable what an earlier process may have left in the system's cache alone, and
//! looks whether SQLite does what was asked of it.
//!
//! Where a sync fails, the system takes what it could not write for written all the same: it can still be read, and no later sync writes
//! it. An earlier process was told, and refused to go on; but to SQLite, opened anew without a power cut between, its write-ahead file
//! looks committed. What is added behind such a gap would go with it in a power cut, though synced and acknowledged; and groups would
//! leave the log for tables that are not on the disk. So a write-ahead file that is there when a store is opened is written again, byte
//! for byte, and synced, before anything builds on it. After an orderly end there mostly is none.
//!
//! The databases themselves need no such care: SQLite folds all of the write-ahead file into them again, as it can't know how far an
//! earlier process came.

use super::failure::io_failure;
use crate::store::StoreError;
use rusqlite::{Connection, ffi};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const PORTION_BYTES: usize = 1 << 20;

/// Writes the write-ahead file of the database at `path` again, if there is one.
pub(super) fn write_ahead_file(path: &Path) -> Result<(), StoreError> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let wal = Path::new(&wal);
    match OpenOptions::new().read(true).write(true).open(wal) {
        Ok(file) => write_again(&file).map_err(|error| io_failure(&format!("writing {} again", wal.display()), error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_failure(&format!("opening {}", wal.display()), error)),
    }
}

fn write_again(file: &File) -> io::Result<()> {
    let mut portion = vec![0; PORTION_BYTES];
    let mut at = 0;
    loop {
        let length = file.read_at(&mut portion, at)?;
        if length == 0 {
            return file.sync_all();
        }
        file.write_all_at(&portion[..length], at)?;
        at += length as u64;
    }
}

/// Makes the names of the files durable. SQLite does so too, but doesn't tell where it fails.
pub(super) fn names(folder: &Path) -> Result<(), StoreError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| io_failure(&format!("synchronizing the folder {}", folder.display()), error))
}

/// Changes how a database keeps its transactions, and makes sure of it: where the disk or the file system doesn't let it, SQLite goes on
/// as before, with a rollback journal, say, whose transactions a power cut can take back.
pub(super) fn journal_mode(connection: &Connection, asked: &str) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA journal_mode = {asked}"))?;
    let mut rows = statement.query([])?;
    let mut got = String::new();
    // To the end: the change is committed, and may fail, after the mode was told.
    while let Some(row) = rows.next()? {
        got = row.get(0)?;
    }
    if got.eq_ignore_ascii_case(asked) {
        return Ok(());
    }
    let message = format!("journal mode {asked} can't be had here, SQLite stays with {got:?}");
    Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR), Some(message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_mode_that_cannot_be_had_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        journal_mode(&Connection::open(folder.path().join("file.db")).unwrap(), "WAL").unwrap();
        // A database in memory has no file to write ahead of; SQLite says so by the mode alone.
        let refused = journal_mode(&Connection::open_in_memory().unwrap(), "WAL").unwrap_err();
        assert!(refused.to_string().contains("memory"), "{refused}");
    }

    #[test]
    fn a_write_ahead_file_that_is_written_again_is_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.db");
        write_ahead_file(&path).unwrap();
        let content: Vec<u8> = (0..2 * PORTION_BYTES + 777).map(|at| (at / 5) as u8).collect();
        let wal = folder.path().join("file.db-wal");
        std::fs::write(&wal, &content).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::options().write(true).open(&wal).unwrap().set_modified(long_ago).unwrap();
        write_ahead_file(&path).unwrap();
        assert!(std::fs::read(&wal).unwrap() == content);
        assert!(std::fs::metadata(&wal).unwrap().modified().unwrap() > long_ago, "nothing was written");
    }
}
