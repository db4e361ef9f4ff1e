//! Folds the write-ahead file into `log.db` beside the thread that appends to it, so that nobody waits for megabytes to be copied.
//!
//! SQLite begins the write-ahead file anew only when all of it is folded and nobody adds to it meanwhile, which beside a busy writer
//! never happens. So a fold has two parts: 1. this thread copies what there is, which takes as long as it takes; 2. the writer, told
//! that it is done, copies the little that has come since. If much has come since, the first part is done once more.
//!
//! SQLite up to 3.51.2 could corrupt the file where one connection began it anew while another folded it. The one that is built in is
//! later; besides, only one of the two ever folds at a time.
//!
//! Whatever goes wrong is handed to the writer, which decides about the log: SQLite on its own would not tell.

use super::failure::sqlite_failure;
use crate::store::StoreError;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

/// Copies what is in the write-ahead file into the file it belongs to, as far as no reader is in the way.
pub(super) fn fold(connection: &Connection) -> Result<(), StoreError> {
    connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        .map_err(|error| sqlite_failure("folding the write-ahead file into log.db", error))
}

/// The thread, and the way to it. Dropping it waits for the fold under way.
#[derive(Debug)]
pub(super) struct Folder {
    /// Gone once the thread is to end.
    asks: Option<SyncSender<()>>,
    answers: Receiver<Result<(), StoreError>>,
    thread: Option<JoinHandle<()>>,
}

impl Folder {
    pub(super) fn start(path: &Path) -> std::io::Result<Self> {
        let (asks, asked) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        let path = path.to_owned();
        let thread = std::thread::Builder::new().name("sluicegate-fold".into()).spawn(move || run(path, &asked, &answer))?;
        Ok(Self { asks: Some(asks), answers, thread: Some(thread) })
    }

    /// Begins a fold. Each is to be [answered](Self::answer) before the next.
    pub(super) fn ask(&self) {
        if let Some(asks) = &self.asks {
            // Neither full, as there is one at a time, nor gone, as long as `asks` is there.
            let _ = asks.try_send(());
        }
    }

    /// What became of the fold that was asked for; `None` while it goes on.
    pub(super) fn answer(&self) -> Option<Result<(), StoreError>> {
        match self.answers.try_recv() {
            Ok(folded) => Some(folded),
            Err(TryRecvError::Empty) => None,
            // The thread panicked. The writer folds the rest itself, and so learns of whatever is wrong.
            Err(TryRecvError::Disconnected) => Some(Ok(())),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.asks = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that folds the log panicked; the log is whole, and longer than it need be");
        }
    }
}

fn run(path: PathBuf, asked: &Receiver<()>, answer: &SyncSender<Result<(), StoreError>>) {
    let mut connection = None;
    while asked.recv().is_ok() {
        let folded = match connection.take().map_or_else(|| open(&path), Ok) {
            Ok(open) => {
                let folded = fold(&open);
                connection = Some(open);
                folded
            }
            Err(error) => Err(error),
        };
        // One answer to each ask, so there is room for it.
        if answer.send(folded).is_err() {
            return;
        }
    }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    let set_up = || {
        let connection = Connection::open(path)?;
        // What is folded is synced, as the connection says that folds it.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
        Ok(connection)
    };
    set_up().map_err(|error| sqlite_failure(&format!("opening {} to fold it", path.display()), error))
}
