//! Looks at a store that nobody has open, without changing it.

use super::coalesce::Coalesced;
use super::failure::{corrupt, sqlite_failure};
use super::lock::FolderLock;
use super::log::{self, LogReader};
use super::read::{self, Texts};
use super::tables::{self, Meta};
use crate::model::ImageId;
use crate::store::{StoreError, StoreErrorKind};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Row};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// What is wrong, each in a sentence. Empty: the store is sound.
    pub problems: Vec<String>,
    /// How many rows each table of `state.db` has.
    pub rows: Vec<(&'static str, u64)>,
    /// How many groups lie in `log.db`.
    pub groups: u64,
    /// The newest group, be it in the log or in the tables.
    pub last_group: u64,
    /// Every image that an organization holds, with its size: the files that have to be there. Sorted, each once.
    pub images: Vec<(ImageId, u64)>,
}

/// Checks both files of a store, every group and every row. What is damaged goes into the report; an error means that it could
/// not be looked at. Changes nothing in the folder.
pub fn verify(folder: &Path) -> Result<VerifyReport, StoreError> {
    let _lock = FolderLock::existing(folder)?;
    let mut report = VerifyReport::default();
    let mut images = BTreeMap::new();
    let meta = match check_tables(&folder.join(tables::FILE), &mut report, &mut images) {
        Ok(meta) => Some(meta),
        Err(error) => {
            report.note(error)?;
            None
        }
    };
    let log_path = folder.join(log::FILE);
    // A backup is a store without a log.
    if log_path.exists()
        && let Err(error) = check_log(&log_path, meta, &mut report, &mut images)
    {
        report.note(error)?;
    }
    report.list_images(images);
    Ok(report)
}

/// What each organization holds.
type Images = BTreeMap<(Arc<str>, ImageId), u64>;

impl VerifyReport {
    /// Damage is a finding; anything else keeps us from looking.
    fn note(&mut self, error: StoreError) -> Result<(), StoreError> {
        match error.kind {
            StoreErrorKind::Corrupt | StoreErrorKind::Version => {
                self.problems.push(error.message);
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn list_images(&mut self, images: Images) {
        let mut sizes: BTreeMap<ImageId, u64> = BTreeMap::new();
        for ((organization, id), size) in images {
            let known = *sizes.entry(id).or_insert(size);
            if known != size {
                self.problems
                    .push(format!("image {id} has {size} bytes for {organization:?}, {known} bytes for another organization"));
            }
        }
        self.images = sizes.into_iter().collect();
    }
}

/// Opens a file so that it, and the write-ahead file beside it, stay as they are.
fn open(path: &Path) -> Result<Connection, StoreError> {
    let failure = |error| sqlite_failure(&format!("opening {} to check it", path.display()), error);
    if !path.is_file() {
        return Err(corrupt(format!("{} is missing; restore the newest backup", path.display())));
    }
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    if !Path::new(&wal).exists() {
        // Without one there is nothing to recover: SQLite may take the file for a constant.
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        return Connection::open_with_flags(uri(path), flags).map_err(failure);
    }
    // Exclusive, so that the index of the write-ahead file is made in memory instead of in a file, and never folded in.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failure)?;
    let set_up = || {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
        connection.pragma_update(None, "query_only", true)
    };
    set_up().map_err(failure)?;
    Ok(connection)
}

/// `path` as a URI of SQLite, marked immutable.
fn uri(path: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' => uri.push(char::from(*byte)),
            // Writing to a string never fails.
            _ => _ = write!(uri, "%{byte:02x}"),
        }
    }
    uri + "?immutable=1"
}

fn check_pages(connection: &Connection, path: &Path, report: &mut VerifyReport) -> Result<(), StoreError> {
    let run = || {
        let mut statement = connection.prepare("PRAGMA integrity_check(100)")?;
        let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
        lines.collect::<rusqlite::Result<Vec<_>>>()
    };
    let lines = run().map_err(|error| sqlite_failure(&format!("checking the pages of {}", path.display()), error))?;
    for line in lines.iter().filter(|line| *line != "ok") {
        report.problems.push(format!("{}: {line}; restore the newest backup", path.display()));
    }
    Ok(())
}

fn check_tables(path: &Path, report: &mut VerifyReport, images: &mut Images) -> Result<Meta, StoreError> {
    let connection = open(path)?;
    check_pages(&connection, path, report)?;
    tables::check_format(&connection, path)?;
    let meta = tables::read_meta(&connection)?;
    let mut tables = Tables { connection: &connection, report };
    tables.check("products", read::PRODUCT, read::product, |_| ())?;
    tables.check("images", read::IMAGE, read::image, |image| _ = images.insert((image.organization, image.id), image.size))?;
    tables.check("firmware", read::FIRMWARE, read::firmware, |_| ())?;
    tables.check("devices", read::DEVICE, read::device, |_| ())?;
    tables.check("tasks", read::TASK, read::task, |_| ())?;
    tables.check("paces", read::PACE, read::pace, |_| ())?;
    tables.check("upgrades", read::UPGRADE, read::upgrade, |_| ())?;
    tables.check("tokens", read::TOKEN, read::token, |_| ())?;
    tables.check("apps", read::APP, read::app, |_| ())?;
    tables.check("subscriptions", read::SUBSCRIPTION, read::subscription, |_| ())?;
    let mut last_event = 0;
    tables.check("events", read::EVENT, read::event, |event| last_event = last_event.max(event.sequence))?;
    if last_event > meta.last_event {
        report.problems.push(format!(
            "meta of {} ends with event {}, the table with event {last_event}",
            tables::FILE,
            meta.last_event
        ));
    }
    report.last_group = meta.applied;
    Ok(meta)
}

struct Tables<'a> {
    connection: &'a Connection,
    report: &'a mut VerifyReport,
}

impl Tables<'_> {
    /// Decodes every row of a table and counts them all, the unreadable ones too.
    fn check<R>(
        &mut self,
        table: &'static str,
        columns: &str,
        decode: fn(&Row<'_>, &mut Texts) -> rusqlite::Result<R>,
        mut see: impl FnMut(R),
    ) -> Result<(), StoreError> {
        let mut texts = Texts::default();
        let mut count = 0;
        let report = &mut *self.report;
        let mut run = || {
            let mut statement = self.connection.prepare(&format!("SELECT {columns} FROM {table}"))?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                count += 1;
                match decode(row, &mut texts) {
                    Ok(decoded) => see(decoded),
                    Err(error) => report.problems.push(format!("row {count} of the table {table} can't be read: {error}")),
                }
            }
            Ok(())
        };
        let read = run().map_err(|error| sqlite_failure(&format!("reading the table {table} of {}", tables::FILE), error));
        self.report.rows.push((table, count));
        // The other tables may still be readable.
        read.or_else(|error| self.report.note(error))
    }
}

fn check_log(path: &Path, meta: Option<Meta>, report: &mut VerifyReport, images: &mut Images) -> Result<(), StoreError> {
    let connection = open(path)?;
    check_pages(&connection, path, report)?;
    let failure = |error| sqlite_failure(&format!("reading {}", path.display()), error);
    let store = log::store_of(&connection).map_err(failure)?;
    let bounds = log::bounds(&connection).map_err(failure)?;
    if let Some(meta) = meta.filter(|meta| meta.store != store) {
        report.problems.push(format!("{} belongs to store {store:08x}, the tables to store {:08x}", path.display(), meta.store));
    }
    let (Some(first), Some(last)) = bounds else { return Ok(()) };
    let applied = meta.map_or(first.saturating_sub(1), |meta| meta.applied);
    if first > applied + 1 {
        report.problems.push(format!("groups {} to {} are in neither file", applied + 1, first - 1));
    }
    report.last_group = report.last_group.max(last);
    let log = LogReader::new(connection);
    for number in first..=last {
        match log.group(number) {
            Ok(None) => report.problems.push(format!("group {number} is missing from {}", path.display())),
            Ok(Some(group)) => {
                report.groups += 1;
                match group.decode() {
                    Ok(group) if number > applied => {
                        let mut coalesced = Coalesced::default();
                        coalesced.add(group);
                        for (key, row) in coalesced.images {
                            match row {
                                Some(image) => _ = images.insert(key, image.size),
                                None => _ = images.remove(&key),
                            }
                        }
                    }
                    Ok(_) => {}
                    Err(error) => report.note(error)?,
                }
            }
            Err(error) => report.note(error)?,
        }
    }
    Ok(())
}
