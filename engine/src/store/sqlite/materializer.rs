//! Brings `state.db` up to what `log.db` has: at the start before anything is loaded, then on a thread of its own.
//!
//! It reads groups back from the log rather than being handed them, so a disk that is slow or full costs room in the log, not
//! memory.

use super::coalesce::Coalesced;
use super::failure::{corrupt, sqlite_failure};
use super::log::{self, LogReader};
use super::progress::Progress;
use super::tables::{self, Meta};
use super::write;
use crate::store::StoreError;
use rusqlite::Connection;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// One transaction takes at most about this much of the log; it is held in memory a few times over.
const BATCH_BYTES: usize = 16 << 20;
const BATCH_CHANGES: usize = 200_000;
/// After a failure, doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Both ends: the log it reads and the tables it writes.
pub(super) struct Materializer {
    log: LogReader,
    tables: Connection,
    meta: Meta,
}

impl Materializer {
    pub(super) fn new(log: LogReader, tables: Connection, meta: Meta) -> Self {
        Self { log, tables, meta }
    }

    pub(super) fn meta(&self) -> Meta {
        self.meta
    }

    pub(super) fn tables(&self) -> &Connection {
        &self.tables
    }

    /// Writes groups after those that the tables have, up to `last` or until it is enough for one transaction.
    pub(super) fn step(&mut self, last: u64) -> Result<(), StoreError> {
        let mut groups = Coalesced::default();
        let mut bytes = 0;
        for number in self.meta.applied + 1..=last {
            let group = self.log.group(number)?.ok_or_else(|| {
                corrupt(format!(
                    "group {number} is missing from {}, which should go to {last}; restore the newest backup",
                    log::FILE
                ))
            })?;
            bytes += group.bytes();
            groups.add(group.decode()?);
            if bytes >= BATCH_BYTES || groups.changes >= BATCH_CHANGES {
                break;
            }
        }
        if groups.last_group > 0 {
            write::apply(&mut self.tables, &mut self.meta, &groups)
                .map_err(|error| sqlite_failure(&format!("writing group {} to {}", groups.last_group, tables::FILE), error))?;
        }
        Ok(())
    }

    /// Goes on until told to end. The log keeps what isn't written then.
    pub(super) fn spawn(mut self, progress: Arc<Progress>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("sluicegate-tables".into()).spawn(move || {
            let _ending = Ending(Arc::clone(&progress));
            let mut pause = FIRST_PAUSE;
            while let Some(last) = progress.next() {
                while self.meta.applied < last {
                    match self.step(last) {
                        Ok(()) => {
                            if pause != FIRST_PAUSE {
                                tracing::info!(group = self.meta.applied, "the tables can be written again");
                                pause = FIRST_PAUSE;
                            }
                            progress.reached(self.meta.applied);
                        }
                        Err(error) => {
                            tracing::error!(
                                error = %error,
                                behind = last - self.meta.applied,
                                retry_in_ms = pause.as_millis() as u64,
                                "the tables can't be written; what is committed stays in the log"
                            );
                            if !progress.failed(&error, pause) {
                                return;
                            }
                            pause = (pause * 2).min(LONGEST_PAUSE);
                        }
                    }
                    if progress.is_closing() {
                        return;
                    }
                }
            }
            // One more, so that the next start has little to do. Where it fails, the log has it all the same.
            if self.step(progress.committed()).is_ok() {
                progress.reached(self.meta.applied);
            }
        })
    }
}

/// Whoever waits for the tables is told that they stay as they are, even after a panic.
struct Ending(Arc<Progress>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}
