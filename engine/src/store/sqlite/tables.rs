//! `state.db`: the tables that an operator can query, and `meta`, which says how far they are.
//!
//! The columns are a stored format, described in `docs/formats.md`; a change of them is a new [`FORMAT`].

use super::failure::{corrupt, sqlite_failure};
use super::settle;
use crate::store::{NextNumbers, StoreError, StoreErrorKind};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::path::Path;

pub(super) const FILE: &str = "state.db";
/// The newest format of the tables that we read, and the one we write.
pub(super) const FORMAT: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE products(
        number INTEGER PRIMARY KEY,
        organization TEXT NOT NULL,
        id TEXT NOT NULL,
        name TEXT,
        created_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE images(
        organization TEXT NOT NULL,
        id TEXT NOT NULL,
        size INTEGER NOT NULL,
        md5 TEXT NOT NULL,
        sha1 TEXT NOT NULL,
        name TEXT,
        created_at INTEGER NOT NULL,
        PRIMARY KEY(organization, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE firmware(
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        product INTEGER NOT NULL,
        component_type INTEGER NOT NULL,
        component_identify INTEGER NOT NULL,
        version TEXT NOT NULL,
        image TEXT,
        url TEXT,
        size INTEGER NOT NULL,
        md5 TEXT NOT NULL,
        sha256 TEXT,
        name TEXT,
        description TEXT,
        model TEXT,
        manufacturer TEXT,
        device_type TEXT,
        file_type TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        annotations TEXT,
        verification TEXT,
        verified_at INTEGER
    ) STRICT;
    CREATE TABLE devices(
        number INTEGER PRIMARY KEY,
        product INTEGER NOT NULL,
        id TEXT NOT NULL,
        version TEXT,
        components TEXT,
        created_at INTEGER NOT NULL,
        details TEXT
    ) STRICT;
    CREATE TABLE tasks(
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        product INTEGER NOT NULL,
        component_type INTEGER NOT NULL,
        component_identify INTEGER NOT NULL,
        name TEXT,
        description TEXT,
        kind TEXT NOT NULL,
        mode TEXT NOT NULL,
        from_versions TEXT NOT NULL,
        target_version TEXT NOT NULL,
        image TEXT,
        url TEXT,
        size INTEGER NOT NULL,
        md5 TEXT NOT NULL,
        sha256 TEXT,
        firmware INTEGER,
        scope TEXT NOT NULL,
        members TEXT,
        policy TEXT NOT NULL,
        status TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        changed_at INTEGER NOT NULL,
        annotations TEXT,
        waves TEXT,
        approved INTEGER NOT NULL,
        canceled INTEGER NOT NULL,
        finished_at INTEGER
    ) STRICT;
    CREATE TABLE paces(
        task INTEGER PRIMARY KEY,
        first_offered_at INTEGER,
        notified INTEGER NOT NULL,
        starts TEXT,
        wave INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE upgrades(
        task INTEGER NOT NULL,
        device INTEGER NOT NULL,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        percent INTEGER NOT NULL,
        offer INTEGER NOT NULL,
        from_version TEXT NOT NULL,
        detail TEXT,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        offered_at INTEGER,
        deadline INTEGER,
        not_before INTEGER,
        succeeded_before INTEGER NOT NULL,
        failure TEXT,
        failure_code INTEGER,
        confirmed INTEGER NOT NULL,
        forced INTEGER NOT NULL,
        PRIMARY KEY(task, device)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX upgrades_by_device ON upgrades(device);
    CREATE TABLE tokens(
        id TEXT PRIMARY KEY,
        secret_sha256 BLOB NOT NULL,
        purpose TEXT NOT NULL,
        role TEXT NOT NULL,
        organization TEXT NOT NULL,
        product_id TEXT,
        device_id TEXT,
        app TEXT,
        created_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE apps(
        id TEXT PRIMARY KEY,
        organization TEXT NOT NULL,
        secret_encrypted BLOB NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE subscriptions(
        id TEXT PRIMARY KEY,
        organization TEXT NOT NULL,
        url TEXT NOT NULL,
        filters TEXT,
        format TEXT NOT NULL,
        app TEXT,
        secret_encrypted BLOB,
        position INTEGER NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE events(
        sequence INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        at INTEGER NOT NULL,
        organization TEXT NOT NULL,
        product_id TEXT NOT NULL,
        device_id TEXT,
        task_id TEXT,
        upgrade_id TEXT,
        state TEXT,
        percent INTEGER,
        extra TEXT
    ) STRICT;";

/// How far the tables are. Written in the transaction that writes the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) store: u32,
    /// The newest group whose changes are in the tables.
    pub(super) applied: u64,
    /// The largest sequence number that any event ever had, kept although old events go: a number is never used twice.
    pub(super) last_event: u64,
    /// The same for the numbers of products, devices, firmware and tasks.
    pub(super) next: NextNumbers,
}

/// Opens the tables to write, and makes them where there are none.
pub(super) fn open(path: &Path) -> Result<(Connection, Meta), StoreError> {
    let failure = |error| sqlite_failure(&format!("opening {}", path.display()), error);
    let connection = Connection::open(path).map_err(failure)?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failure)?;
    if tables > 0 {
        // Before anything is written: what a newer program keeps there is not ours to touch.
        check_format(&connection, path)?;
    }
    set_up(&connection).map_err(failure)?;
    if tables == 0 {
        let mut entropy = [0; 4];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut source| std::io::Read::read_exact(&mut source, &mut entropy))
            .map_err(|error| super::failure::io_failure("naming a new store by /dev/urandom", error))?;
        create(&connection, u32::from_le_bytes(entropy)).map_err(failure)?;
    }
    let meta = read_meta(&connection)?;
    Ok((connection, meta))
}

/// FULL, not NORMAL: once a transaction is committed here, its groups are deleted from the log. With NORMAL a power cut could
/// take the transaction back when the log has forgotten them. A few fsyncs a second cost nothing beside the log's.
fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    settle::journal_mode(connection, "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.query_row("PRAGMA wal_autocheckpoint = 4096", [], |_| Ok(()))?;
    connection.query_row("PRAGMA journal_size_limit = 67108864", [], |_| Ok(()))?;
    connection.pragma_update(None, "cache_size", -65_536)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

pub(super) fn fold_after(connection: &Connection, bytes: usize) -> Result<(), StoreError> {
    const PAGE_BYTES: usize = 4096;
    connection
        .query_row(&format!("PRAGMA wal_autocheckpoint = {}", (bytes / PAGE_BYTES).max(1)), [], |_| Ok(()))
        .map_err(|error| sqlite_failure(&format!("setting up {FILE}"), error))
}

fn create(connection: &Connection, store: u32) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {SCHEMA}
         INSERT INTO meta VALUES('format', {FORMAT}), ('store', {store}), ('applied', 0), ('last_event', 0),
            ('next_product', 0), ('next_device', 0), ('next_firmware', 0), ('next_task', 0);
         COMMIT;"
    ))
}

/// Opens the tables to read, beside whoever writes them.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failure = |error| sqlite_failure(&format!("opening {} to read", path.display()), error);
    let connection = Connection::open_with_flags(path, flags).map_err(failure)?;
    connection.pragma_update(None, "cache_size", -8_192).map_err(failure)?;
    Ok(connection)
}

/// The smallest sequence number that is kept; 0 where there is no event.
pub(super) fn first_event(connection: &Connection) -> Result<u64, StoreError> {
    connection
        .query_row("SELECT coalesce(min(sequence), 0) FROM events", [], |row| row.get::<_, i64>(0))
        .map(|first| first as u64)
        .map_err(|error| sqlite_failure(&format!("reading the first event of {FILE}"), error))
}

pub(super) fn check_format(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let format = meta_value(connection, "format")?;
    if format > FORMAT {
        return Err(StoreError::new(
            StoreErrorKind::Version,
            format!(
                "{} has format {format}, this program knows formats up to {FORMAT}; use the newer program, or restore a backup \
                 of before its first start",
                path.display()
            ),
        ));
    }
    Ok(())
}

fn meta_value(connection: &Connection, key: &str) -> Result<i64, StoreError> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")
        .and_then(|mut statement| statement.query_row([key], |row| row.get(0)).optional())
        .map_err(|error| sqlite_failure(&format!("reading {key:?} from meta of {FILE}"), error))?
        .ok_or_else(|| corrupt(format!("meta of {FILE} has no {key:?}; restore the newest backup")))
}

pub(super) fn read_meta(connection: &Connection) -> Result<Meta, StoreError> {
    let store = meta_value(connection, "store")?;
    Ok(Meta {
        store: u32::try_from(store).map_err(|_| {
            corrupt(format!("meta of {FILE} names the store {store}, which is no store; restore the newest backup"))
        })?,
        applied: meta_value(connection, "applied")? as u64,
        last_event: meta_value(connection, "last_event")? as u64,
        next: NextNumbers {
            product: meta_value(connection, "next_product")? as u32,
            device: meta_value(connection, "next_device")? as u32,
            firmware: meta_value(connection, "next_firmware")? as u32,
            task: meta_value(connection, "next_task")? as u32,
        },
    })
}

/// Notes how far the tables are. To be called inside the transaction that brings them there.
pub(super) fn write_meta(connection: &Connection, meta: Meta) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("UPDATE meta SET value = ?2 WHERE key = ?1")?;
    statement.execute(params!["applied", meta.applied as i64])?;
    statement.execute(params!["last_event", meta.last_event as i64])?;
    statement.execute(params!["next_product", meta.next.product])?;
    statement.execute(params!["next_device", meta.next.device])?;
    statement.execute(params!["next_firmware", meta.next.firmware])?;
    statement.execute(params!["next_task", meta.next.task])?;
    Ok(())
}
