//! From what SQLite and the operating system say to what it means for a store.

use crate::store::{StoreError, StoreErrorKind};
use rusqlite::ErrorCode;
use std::io;

/// What an error of SQLite means; `doing` says what was tried.
pub(super) fn sqlite_failure(doing: &str, error: rusqlite::Error) -> StoreError {
    let code = match &error {
        rusqlite::Error::SqliteFailure(error, _) => Some(error.code),
        _ => None,
    };
    let (kind, next_step) = match code {
        Some(ErrorCode::DiskFull) => (StoreErrorKind::Full, "make room on the disk and try again; what was confirmed is kept"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (StoreErrorKind::Busy, "another program holds the file; close it, and read from a backup instead")
        }
        Some(ErrorCode::TooBig) => (StoreErrorKind::Busy, "it is more than one group may hold; do it in smaller portions"),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            (StoreErrorKind::Corrupt, "the file is damaged; restore the newest backup")
        }
        // A column that doesn't hold what we write there.
        None => (StoreErrorKind::Corrupt, "a row is not as this program writes it; restore the newest backup"),
        Some(_) => (StoreErrorKind::Failed, "check the disk, then start again"),
    };
    StoreError::new(kind, format!("{doing}: {error}; {next_step}")).caused_by(error)
}

pub(super) fn io_failure(doing: &str, error: io::Error) -> StoreError {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
        _ => StoreErrorKind::Failed,
    };
    StoreError::new(kind, format!("{doing}: {error}")).caused_by(error)
}

pub(super) fn corrupt(message: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, message)
}
