//! Reads of `state.db` beside the thread that writes it, each on a connection of its own.

use super::failure::{io_failure, sqlite_failure};
use super::progress::Progress;
use super::read::{self, Texts};
use super::settle;
use super::tables;
use crate::model::{Event, Upgrade};
use crate::store::{Archive, StoreError, StoreErrorKind, UpgradeQuery};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Connections kept for the next reader; more readers at once open their own and close them again.
const CONNECTIONS_KEPT: usize = 4;
/// How long a reader waits for the tables to reach its group.
const PATIENCE: Duration = Duration::from_secs(30);

/// The tables of a [`SqliteStore`](super::SqliteStore), for reading. Stays readable after the store is closed, at what it has.
#[derive(Debug)]
pub struct SqliteArchive {
    path: PathBuf,
    progress: Arc<Progress>,
    idle: Mutex<Vec<Connection>>,
}

impl SqliteArchive {
    pub(super) fn new(path: PathBuf, progress: Arc<Progress>) -> Self {
        Self { path, progress, idle: Mutex::new(Vec::new()) }
    }

    /// Copies the tables as of the newest committed group to a new file, while the store goes on. The copy is a whole store:
    /// laid into a folder of its own as `state.db`, it can be opened.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        self.progress.wait_for(self.progress.committed(), PATIENCE)?;
        // Never over something that is there: a failed backup must not cost the last good one.
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
        made.map_err(|error| io_failure(&format!("making the backup file {}", to.display()), error))?;
        let copied = self.with_connection(|from| copy(from, to)).and_then(|()| {
            let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let synced = File::open(to).and_then(|file| file.sync_all()).and_then(|()| File::open(folder)?.sync_all());
            synced.map_err(|error| io_failure(&format!("making {} durable", to.display()), error))
        });
        if copied.is_err() {
            // Half a backup would only mislead. That it can't be removed either changes nothing about the error.
            _ = std::fs::remove_file(to);
        }
        copied
    }

    fn with_connection<R>(&self, run: impl FnOnce(&Connection) -> Result<R, StoreError>) -> Result<R, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => tables::open_to_read(&self.path)?,
        };
        let result = run(&connection)?;
        // After an error the connection is dropped instead: the next reader begins anew.
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < CONNECTIONS_KEPT {
            idle.push(connection);
        }
        Ok(result)
    }

    fn query<R>(
        &self,
        doing: &str,
        sql: &str,
        parameters: Vec<Value>,
        decode: fn(&Row<'_>, &mut Texts) -> rusqlite::Result<R>,
    ) -> Result<Vec<R>, StoreError> {
        self.with_connection(|connection| {
            let run = || {
                let mut texts = Texts::default();
                let mut statement = connection.prepare_cached(sql)?;
                let mut rows = statement.query(params_from_iter(parameters))?;
                let mut found = Vec::new();
                while let Some(row) = rows.next()? {
                    found.push(decode(row, &mut texts)?);
                }
                Ok(found)
            };
            run().map_err(|error| sqlite_failure(doing, error))
        })
    }
}

impl Archive for SqliteArchive {
    fn upgrades(&self, query: &UpgradeQuery, group: u64) -> Result<Vec<Upgrade>, StoreError> {
        self.progress.wait_for(group, PATIENCE)?;
        let mut conditions = Vec::new();
        let mut parameters = Vec::new();
        let mut condition = |text: &str, value: u32| {
            conditions.push(text.to_owned());
            parameters.push(Value::Integer(value.into()));
        };
        if let Some(task) = query.task {
            condition("task = ?", task.0);
        }
        if let Some(device) = query.device {
            condition("device = ?", device.0);
        }
        if let Some(after) = query.after {
            condition("device > ?", after.0);
        }
        if !query.states.is_empty() {
            let places = vec!["?"; query.states.len()].join(", ");
            conditions.push(format!("state IN ({places})"));
            parameters.extend(query.states.iter().map(|state| Value::Text(state.name().to_owned())));
        }
        let conditions = if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
        parameters.push(limit(query.limit));
        let sql = format!("SELECT {} FROM upgrades {conditions} ORDER BY device, task LIMIT ?", read::UPGRADE);
        self.query("reading upgrades", &sql, parameters, read::upgrade)
    }

    fn events(&self, from: u64, limit_events: usize, group: u64) -> Result<Vec<Event>, StoreError> {
        self.progress.wait_for(group, PATIENCE)?;
        let sql = format!("SELECT {} FROM events WHERE sequence >= ? ORDER BY sequence LIMIT ?", read::EVENT);
        // Sequence numbers grow by one from 1; none is past what SQLite holds.
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        self.query("reading events", &sql, vec![Value::Integer(from), limit(limit_events)], read::event)
    }
}

fn limit(limit: usize) -> Value {
    Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX))
}

/// In one step: it is one read of the tables as of one moment, and writers beside it don't wait for it.
fn copy(from: &Connection, to: &Path) -> Result<(), StoreError> {
    let run = || {
        let mut copy = Connection::open(to)?;
        let step = Backup::new(from, &mut copy)?.step(-1)?;
        // One file, without a write-ahead file beside it that could be left behind.
        settle::journal_mode(&copy, "DELETE")?;
        copy.close().map_err(|(_, error)| error)?;
        Ok(step)
    };
    match run().map_err(|error| sqlite_failure(&format!("copying the tables to {}", to.display()), error))? {
        StepResult::Done => Ok(()),
        step => Err(StoreError::new(
            StoreErrorKind::Busy,
            format!("the tables could not be copied to {} ({step:?}); try again later", to.display()),
        )),
    }
}
