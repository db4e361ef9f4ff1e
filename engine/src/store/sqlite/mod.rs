//! The store of the product: SQLite, in two files of one folder.
//!
//! - `log.db` takes each group as one row, in one transaction with one fsync. Once that returns, the group is kept.
//! - `state.db` has the rows in ordinary tables. A thread brings it up to date a moment later, many groups at once, and notes
//!   in the same transaction how far it is; then those groups leave the log.
//!
//! So a commit costs the append of one blob, whatever rows it touches, and an operator can still query plain tables. After a
//! crash, what the log has beyond the tables is written to them before anything is loaded. `docs/formats.md` describes both
//! files.
//!
//! Life cycle: [`SqliteStore::open`] locks the folder, completes the tables, streams them to the caller and starts the thread.
//! Dropping the store ends the thread and gives the folder free.

mod archive;
mod coalesce;
mod failure;
mod fold;
mod load;
mod lock;
mod log;
mod materializer;
mod names;
mod progress;
mod read;
mod settle;
mod tables;
#[cfg(test)]
mod tests;
mod verify;
mod write;

pub use archive::SqliteArchive;
pub use verify::{VerifyReport, verify};

use self::failure::io_failure;
use self::lock::FolderLock;
use self::log::{Log, LogReader};
use self::materializer::Materializer;
use self::progress::Progress;
use super::{Group, Loaded, Opened, Store, StoreError};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Writes groups to the log, and has a thread write the tables.
#[derive(Debug)]
pub struct SqliteStore {
    log: Log,
    progress: Arc<Progress>,
    materializer: Option<JoinHandle<()>>,
    /// The last to go: nobody else may open the folder while the thread still writes.
    _lock: FolderLock,
}

impl SqliteStore {
    /// Opens the store in `folder`, or makes one, and hands over what it keeps.
    pub fn open(folder: &Path, sink: &mut dyn FnMut(Loaded)) -> Result<(Self, Arc<SqliteArchive>, Opened), StoreError> {
        Self::open_with(folder, None, sink)
    }

    /// The same, with write-ahead files that are folded in after so many bytes rather than after megabytes, so that a test of
    /// seconds has many folds.
    #[doc(hidden)]
    pub fn open_folding_after(
        folder: &Path,
        bytes: usize,
        sink: &mut dyn FnMut(Loaded),
    ) -> Result<(Self, Arc<SqliteArchive>, Opened), StoreError> {
        Self::open_with(folder, Some(bytes), sink)
    }

    fn open_with(
        folder: &Path,
        fold_after_bytes: Option<usize>,
        sink: &mut dyn FnMut(Loaded),
    ) -> Result<(Self, Arc<SqliteArchive>, Opened), StoreError> {
        let lock = FolderLock::create(folder)?;
        let tables_path = folder.join(tables::FILE);
        let log_path = folder.join(log::FILE);
        lock::make_private(&tables_path)?;
        lock::make_private(&log_path)?;
        settle::write_ahead_file(&tables_path)?;
        settle::write_ahead_file(&log_path)?;
        let (tables, meta) = tables::open(&tables_path)?;
        let mut log = Log::open(&log_path, meta.store, meta.applied)?;
        settle::names(folder)?;
        if let Some(bytes) = fold_after_bytes {
            log.fold_after(bytes);
            tables::fold_after(&tables, bytes)?;
        }
        let mut materializer = Materializer::new(LogReader::open(&log_path)?, tables, meta);
        while materializer.meta().applied < log.last() {
            materializer.step(log.last())?;
        }
        let meta = materializer.meta();
        log.prune(meta.applied)?;
        load::load(materializer.tables(), sink)?;
        let opened = Opened {
            store: meta.store,
            last_group: meta.applied,
            last_event_sequence: meta.last_event,
            first_event_sequence: tables::first_event(materializer.tables())?,
            next: meta.next,
        };

        let progress = Arc::new(Progress::new(meta.applied));
        let thread = materializer.spawn(Arc::clone(&progress));
        let thread = thread.map_err(|error| io_failure("starting the thread that writes the tables", error))?;
        let archive = Arc::new(SqliteArchive::new(tables_path, Arc::clone(&progress)));
        Ok((Self { log, progress, materializer: Some(thread), _lock: lock }, archive, opened))
    }
}

impl Store for SqliteStore {
    fn commit(&mut self, group: &Group) -> Result<(), StoreError> {
        self.log.append(group, self.progress.applied())?;
        self.progress.commit(group.number);
        Ok(())
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.progress.close();
        if let Some(thread) = self.materializer.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the tables panicked; the log has what they lack");
        }
    }
}
