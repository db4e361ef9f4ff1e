//! `log.db`: one row per group, written before anybody is told of it. This is the promise that what was acknowledged lasts.
//!
//! Life cycle of a group: appended by the engine's writer, read once by the materializer, deleted by a later append once
//! `state.db` has it durably. Numbers in the table have no gaps.

use super::failure::{corrupt, sqlite_failure};
use super::fold::{Folder, fold};
use super::settle;
use crate::model::Timestamp;
use crate::store::{Change, Group, StoreError, StoreErrorKind};
use postcard::ser_flavors::Flavor;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, TransactionBehavior, params};
use std::path::{Path, PathBuf};

pub(super) const FILE: &str = "log.db";
/// The newest format of `changes` that we read, and the one we write.
pub(super) const FORMAT: i64 = 1;
/// An append deletes at most this many groups, so that its time stays bounded after the tables have caught up from far behind.
const PRUNED_PER_APPEND_MAX: u64 = 8;
/// The write-ahead file is folded into the log after this many bytes: rare enough to cost little, often enough to stay small.
const FOLD_AFTER_BYTES: usize = 16 << 20;
/// What the writer folds itself, once the rest is: an eighth, which takes a millisecond or two. If more has come meanwhile, that goes without
/// it, too.
const FOLD_REST_SHARE: usize = 8;
/// A disk that is slower than what comes is never done; then the writer waits for it rather than let the file grow without bound.
const FOLD_ROUNDS_MAX: u32 = 4;
const WAL_BYTES_MAX: i64 = 64 << 20;
/// A buffer that a rare huge group made larger than this is given back.
const BUFFER_KEPT_BYTES: usize = 4 << 20;

const SCHEMA: &str = "
    CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE log(
        number INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        format INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        changes BLOB NOT NULL
    ) STRICT;";

/// The end of the log that is written to.
#[derive(Debug)]
pub(super) struct Log {
    /// The oldest group that is still there; one more than `last` where there is none.
    first: u64,
    last: u64,
    buffer: Vec<u8>,
    /// Before the connection, so that it goes first: the last connection to go tidies up.
    folder: Option<Folder>,
    fold_after_bytes: usize,
    /// Appended since the write-ahead file was folded whole.
    unfolded_bytes: usize,
    /// A fold that goes on beside us.
    folding: Option<Folding>,
    connection: Connection,
    path: PathBuf,
    /// Set once the disk failed: what is on it isn't known any more, so nothing is added.
    failed: Option<StoreError>,
}

/// Where the thread that folds was sent off.
#[derive(Debug)]
struct Folding {
    from_bytes: usize,
    round: u32,
}

impl Log {
    /// Opens the log of `store`, or makes an empty one. `applied` is the newest group that the tables have.
    pub(super) fn open(path: &Path, store: u32, applied: u64) -> Result<Self, StoreError> {
        let doing = || format!("opening {}", path.display());
        let connection = Connection::open(path).map_err(|error| sqlite_failure(&doing(), error))?;
        let found = prepare(&connection, store).map_err(|error| sqlite_failure(&doing(), error))?;
        if found != store {
            return Err(corrupt(format!(
                "{} belongs to store {found:08x}, the tables beside it to store {store:08x}; put back the file that belongs to them",
                path.display()
            )));
        }
        let (first, last) = bounds(&connection).map_err(|error| sqlite_failure(&doing(), error))?;
        let (first, last) = match (first, last) {
            (Some(first), Some(last)) if last >= applied => (first, last),
            // Everything here is in the tables: a backup of them was put beside an older log.
            _ => (applied + 1, applied),
        };
        if first > applied + 1 {
            return Err(corrupt(format!(
                "{} begins with group {first}, the tables end with group {applied}: groups between them are missing; \
                 restore a backup of the tables that has group {} or later, or move {FILE} away to go on without its groups",
                path.display(),
                first - 1
            )));
        }
        if last >= first {
            let count: i64 = connection
                .query_row("SELECT count(*) FROM log", [], |row| row.get(0))
                .map_err(|error| sqlite_failure(&doing(), error))?;
            if count as u64 != last - first + 1 {
                return Err(corrupt(format!(
                    "{} has {count} groups where {first} to {last} should be; restore the newest backup",
                    path.display()
                )));
            }
        }
        Ok(Self {
            first,
            last,
            buffer: Vec::new(),
            folder: None,
            fold_after_bytes: FOLD_AFTER_BYTES,
            unfolded_bytes: 0,
            folding: None,
            connection,
            path: path.to_owned(),
            failed: None,
        })
    }

    pub(super) fn fold_after(&mut self, bytes: usize) {
        self.fold_after_bytes = bytes;
    }

    /// The newest group.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Makes a group durable, and drops some of the groups up to `applied`, which the tables have.
    pub(super) fn append(&mut self, group: &Group, applied: u64) -> Result<(), StoreError> {
        if let Some(failed) = &self.failed {
            return Err(StoreError::new(
                StoreErrorKind::Failed,
                format!("the log failed before and takes nothing more until it is opened anew ({})", failed.message),
            ));
        }
        assert_eq!(group.number, self.last + 1, "groups are committed in order, each once");
        self.encode(&group.changes)?;
        let keep_from = (applied + 1).min(self.first + PRUNED_PER_APPEND_MAX);
        match self.write(group, keep_from) {
            Ok(()) => {
                self.last = group.number;
                self.first = self.first.max(keep_from);
                self.unfolded_bytes += self.buffer.len();
                self.fold();
                Ok(())
            }
            Err(error) => {
                let mut error = sqlite_failure(&format!("committing group {}", group.number), error);
                if !self.connection.is_autocommit() {
                    // The transaction could not even be undone.
                    error.kind = StoreErrorKind::Failed;
                }
                if !matches!(error.kind, StoreErrorKind::Full | StoreErrorKind::Busy) {
                    self.failed = Some(error.clone());
                }
                Err(error)
            }
        }
    }

    fn encode(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        postcard::serialize_with_flavor(changes, Append(&mut self.buffer))
            .map_err(|error| StoreError::new(StoreErrorKind::Failed, format!("encoding a group: {error}")).caused_by(error))
    }

    fn write(&mut self, group: &Group, keep_from: u64) -> rusqlite::Result<()> {
        let crc = checksum(group.number, group.at, FORMAT, &self.buffer);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction
            .prepare_cached("INSERT INTO log(number, at, format, crc, changes) VALUES(?1, ?2, ?3, ?4, ?5)")?
            .execute(params![group.number as i64, group.at.0 as i64, FORMAT, i64::from(crc), self.buffer.as_slice()])?;
        if keep_from > self.first {
            transaction.prepare_cached("DELETE FROM log WHERE number < ?1")?.execute([keep_from as i64])?;
        }
        transaction.commit()
    }

    /// Folds the write-ahead file into the log once it is long: most of it beside us, the rest here; see [`fold`](super::fold).
    fn fold(&mut self) {
        let Some(folding) = self.folding.take() else {
            if self.unfolded_bytes >= self.fold_after_bytes {
                self.fold_beside(1);
            }
            return;
        };
        let Some(folded) = self.folder.as_ref().map_or(Some(Ok(())), Folder::answer) else {
            self.folding = Some(folding);
            return;
        };
        match folded {
            Err(error) => self.not_folded(error),
            Ok(())
                if self.unfolded_bytes - folding.from_bytes > self.fold_after_bytes / FOLD_REST_SHARE
                    && folding.round < FOLD_ROUNDS_MAX =>
            {
                self.fold_beside(folding.round + 1);
            }
            Ok(()) => self.fold_here(),
        }
    }

    fn fold_beside(&mut self, round: u32) {
        if self.folder.is_none() {
            self.folder = Folder::start(&self.path).ok();
        }
        match &self.folder {
            Some(folder) => {
                folder.ask();
                self.folding = Some(Folding { from_bytes: self.unfolded_bytes, round });
            }
            // A machine that has no thread left still has a disk.
            None => self.fold_here(),
        }
    }

    fn fold_here(&mut self) {
        self.unfolded_bytes = 0;
        if let Err(error) = fold(&self.connection) {
            self.not_folded(error);
        }
    }

    fn not_folded(&mut self, error: StoreError) {
        self.unfolded_bytes = 0;
        tracing::error!(error = %error, "the log stays readable, but its write-ahead file grows");
        if !matches!(error.kind, StoreErrorKind::Full | StoreErrorKind::Busy) {
            self.failed = Some(error);
        }
    }

    /// Drops every group up to `applied`.
    pub(super) fn prune(&mut self, applied: u64) -> Result<(), StoreError> {
        self.connection
            .execute("DELETE FROM log WHERE number <= ?1", [applied as i64])
            .map_err(|error| sqlite_failure("dropping groups that the tables have", error))?;
        self.first = self.first.max(applied + 1);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Sets the connection up and makes the tables where there are none. Returns the store that the log belongs to.
fn prepare(connection: &Connection, store: u32) -> rusqlite::Result<u32> {
    // Large pages: a group of a thousand changes is a few pages, and a page is written whole.
    connection.pragma_update(None, "page_size", 16_384)?;
    settle::journal_mode(connection, "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
    connection.query_row(&format!("PRAGMA journal_size_limit = {WAL_BYTES_MAX}"), [], |_| Ok(()))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} INSERT INTO meta VALUES('store', {store}); COMMIT;"))?;
    }
    store_of(connection)
}

pub(super) fn store_of(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("SELECT value FROM meta WHERE key = 'store'", [], |row| row.get(0))
}

/// The oldest and the newest group.
pub(super) fn bounds(connection: &Connection) -> rusqlite::Result<(Option<u64>, Option<u64>)> {
    let one = |sql: &str| -> rusqlite::Result<Option<u64>> {
        Ok(connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0))?.map(|number| number as u64))
    };
    // Apart, because SQLite answers each from the end of the table, but both together by a walk through all of it.
    Ok((one("SELECT min(number) FROM log")?, one("SELECT max(number) FROM log")?))
}

/// The end of the log that is read from, on a connection of its own.
pub(super) struct LogReader {
    connection: Connection,
}

impl LogReader {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)
            .map_err(|error| sqlite_failure(&format!("opening {} to read", path.display()), error))?;
        Ok(Self::new(connection))
    }

    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Hands over the group with this number; `None` where there is none.
    pub(super) fn group(&self, number: u64) -> Result<Option<EncodedGroup>, StoreError> {
        let reading = |error| sqlite_failure(&format!("reading group {number} of {FILE}"), error);
        let mut statement = self
            .connection
            .prepare_cached("SELECT number, at, format, crc, changes FROM log WHERE number = ?1")
            .map_err(reading)?;
        statement.query_row([number as i64], EncodedGroup::read).optional().map_err(reading)
    }
}

/// A group as it lies in the table, not yet checked.
pub(super) struct EncodedGroup {
    number: u64,
    at: Timestamp,
    format: i64,
    crc: i64,
    changes: Vec<u8>,
}

impl EncodedGroup {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            number: row.get::<_, i64>(0)? as u64,
            at: Timestamp(row.get::<_, i64>(1)? as u64),
            format: row.get(2)?,
            crc: row.get(3)?,
            changes: row.get(4)?,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.changes.len()
    }

    pub(super) fn decode(&self) -> Result<Group, StoreError> {
        let number = self.number;
        if self.format > FORMAT {
            return Err(StoreError::new(
                StoreErrorKind::Version,
                format!(
                    "group {number} of {FILE} has format {}, this program knows formats up to {FORMAT}; use the newer program",
                    self.format
                ),
            ));
        }
        let crc = i64::from(checksum(number, self.at, self.format, &self.changes));
        if crc != self.crc {
            return Err(corrupt(format!(
                "group {number} of {FILE} is damaged: its checksum is {crc:08x}, it should be {:08x}; restore the newest backup",
                self.crc
            )));
        }
        let changes = match postcard::take_from_bytes(&self.changes) {
            Ok((changes, [])) => changes,
            Ok((_, rest)) => {
                return Err(corrupt(format!(
                    "group {number} of {FILE} has {} bytes too many; restore the newest backup",
                    rest.len()
                )));
            }
            Err(error) => {
                return Err(corrupt(format!("group {number} of {FILE} can't be decoded: {error}; restore the newest backup"))
                    .caused_by(error));
            }
        };
        Ok(Group { number, at: self.at, changes })
    }
}

/// CRC-32 over the other columns of a row: number, time and format as eight bytes each, the lowest first, then the changes.
fn checksum(number: u64, at: Timestamp, format: i64, changes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&at.0.to_le_bytes());
    hasher.update(&format.to_le_bytes());
    hasher.update(changes);
    hasher.finalize()
}

/// Writes to the end of a buffer that outlives the encoding.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Product, ProductNumber};
    use crate::store::Row;
    use std::sync::Arc;

    const GROUPS: u64 = 300;

    /// Some 40 KB each, so that a fold is due after every second one.
    fn group(number: u64) -> Group {
        let put = |product| {
            Change::Put(Row::Product(Arc::new(Product {
                number: ProductNumber(product),
                organization: "o".into(),
                id: format!("{number}-{product}").into(),
                name: Some("n".repeat(200).into()),
                created_at: Timestamp(number),
            })))
        };
        Group { number, at: Timestamp(number), changes: (0..180).map(put).collect() }
    }

    /// `settles`: each fold is waited for, so that how long the file becomes isn't left to the scheduler.
    fn filled(path: &Path, settles: bool) -> Log {
        let mut log = Log::open(path, 7, 0).unwrap();
        log.fold_after_bytes = 64 << 10;
        for number in 1..=GROUPS {
            // The tables follow ten groups behind.
            log.append(&group(number), number.saturating_sub(10)).unwrap();
            while settles && log.folding.is_some() {
                std::thread::yield_now();
                log.fold();
            }
        }
        log
    }

    #[test]
    fn what_is_folded_while_it_grows_is_whole_and_its_write_ahead_file_stays_short() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let log = filled(&path, true);
        let appended_bytes = GROUPS * log.buffer.len() as u64;
        let unfolded_bytes = std::fs::metadata(folder.path().join("log.db-wal")).unwrap().len();
        assert!(unfolded_bytes < appended_bytes / 2, "{unfolded_bytes} of {appended_bytes} bytes were never folded");
        drop(log);
        let reader = LogReader::open(&path).unwrap();
        let kept: Vec<u64> = (1..=GROUPS).filter(|number| reader.group(*number).unwrap().is_some()).collect();
        assert_eq!(kept, Vec::from_iter(GROUPS - 9..=GROUPS));
        for number in kept {
            let read = reader.group(number).unwrap().unwrap().decode().unwrap();
            assert!(matches!(&read.changes[0], Change::Put(Row::Product(row)) if *row.id == *format!("{number}-0")));
            assert_eq!(read, group(number));
        }
    }

    #[test]
    fn a_crash_in_the_middle_of_a_fold_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let log = filled(&folder.path().join(FILE), false);
        let copy = tempfile::tempdir().unwrap();
        // What a fold writes lies in the write-ahead file until that is begun anew, which only an append does.
        for file in [FILE, "log.db-wal"] {
            std::fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();
        }
        drop(log);
        let reader = LogReader::new(Connection::open(copy.path().join(FILE)).unwrap());
        for number in GROUPS - 9..=GROUPS {
            assert_eq!(reader.group(number).unwrap().unwrap().decode().unwrap(), group(number));
        }
    }

    #[test]
    fn a_disk_that_fails_while_it_is_folded_ends_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = filled(&folder.path().join(FILE), true);
        log.not_folded(StoreError::new(StoreErrorKind::Full, "no room"));
        log.append(&group(GROUPS + 1), 0).unwrap();
        log.not_folded(StoreError::new(StoreErrorKind::Failed, "the disk is gone"));
        let refused = log.append(&group(GROUPS + 2), 0).unwrap_err();
        assert_eq!(refused.kind, StoreErrorKind::Failed);
        assert!(refused.message.contains("the disk is gone"), "{refused}");
    }
}
