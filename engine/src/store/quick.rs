//! Interim store.
use super::*;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};

fn wrap(error: rusqlite::Error) -> StoreError {
    let kind = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => StoreErrorKind::Full,
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => StoreErrorKind::Corrupt,
        _ => StoreErrorKind::Failed,
    };
    StoreError::new(kind, format!("database: {error}")).caused_by(error)
}

pub struct SqliteStore { log: Connection, shared: Arc<Applied>, thread: Option<std::thread::JoinHandle<()>>, _lock: std::fs::File }
#[derive(Default)]
struct Applied { state: Mutex<(u64, u64, bool)>, changed: Condvar }
pub struct SqliteArchive { path: std::path::PathBuf, shared: Arc<Applied> }

fn open(path: &Path) -> Result<Connection, StoreError> {
    let c = Connection::open(path).map_err(wrap)?;
    c.execute_batch("PRAGMA page_size=16384; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=10000;").map_err(wrap)?;
    Ok(c)
}
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS rows(kind INTEGER, a INTEGER, b INTEGER, t TEXT, f INTEGER, row BLOB, PRIMARY KEY(kind,a,b,t)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta(k TEXT PRIMARY KEY, v INTEGER);";

fn key_of(row: &Row) -> (i64, i64, i64, String, i64) {
    match row {
        Row::Product(r) => (0, r.number.0 as i64, 0, String::new(), 0),
        Row::Image(r) => (1, 0, 0, format!("{}/{}", r.organization, r.id), 0),
        Row::Firmware(r) => (2, r.number.0 as i64, 0, String::new(), 0),
        Row::Device(r) => (3, r.number.0 as i64, 0, String::new(), 0),
        Row::Task(r) => (4, r.number.0 as i64, 0, String::new(), 0),
        Row::Upgrade(r) => (5, r.task.0 as i64, r.device.0 as i64, String::new(), if r.state.is_finished() { 1 + r.state as i64 } else { 0 }),
        Row::Token(r) => (6, r.id.0 as i64, 0, String::new(), 0),
        Row::App(r) => (7, 0, 0, r.id.to_string(), 0),
        Row::Event(r) => (8, r.sequence as i64, 0, String::new(), 0),
    }
}
fn apply(c: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Put(row) => {
            let (k, a, b, t, f) = key_of(row);
            c.prepare_cached("INSERT OR REPLACE INTO rows VALUES(?,?,?,?,?,?)")?.execute(params![k, a, b, t, f, postcard::to_stdvec(row).unwrap_or_default()])?;
        }
        Change::Delete(key) => {
            let (sql, p): (&str, (i64, i64, i64, String)) = match key {
                Key::Product(n) => ("=", (0, n.0 as i64, 0, String::new())),
                Key::Image { organization, id } => ("=", (1, 0, 0, format!("{organization}/{id}"))),
                Key::Firmware(n) => ("=", (2, n.0 as i64, 0, String::new())),
                Key::Device(n) => ("=", (3, n.0 as i64, 0, String::new())),
                Key::Task(n) => ("=", (4, n.0 as i64, 0, String::new())),
                Key::Upgrade { task, device } => ("=", (5, task.0 as i64, device.0 as i64, String::new())),
                Key::UpgradesOfTask(n) => ("t", (5, n.0 as i64, 0, String::new())),
                Key::UpgradesOfDevice(n) => ("d", (5, 0, n.0 as i64, String::new())),
                Key::Token(n) => ("=", (6, n.0 as i64, 0, String::new())),
                Key::App(id) => ("=", (7, 0, 0, id.to_string())),
                Key::EventsBefore(n) => ("<", (8, *n as i64, 0, String::new())),
            };
            let sql = match sql {
                "=" => "DELETE FROM rows WHERE kind=?1 AND a=?2 AND b=?3 AND t=?4",
                "t" => "DELETE FROM rows WHERE kind=?1 AND a=?2 AND ?3=0 AND ?4=''",
                "d" => "DELETE FROM rows WHERE kind=?1 AND ?2=0 AND b=?3 AND ?4=''",
                _ => "DELETE FROM rows WHERE kind=?1 AND a<?2 AND ?3=0 AND ?4=''",
            };
            c.prepare_cached(sql)?.execute(p)?;
        }
    }
    Ok(())
}
fn drain(log: &Connection, state: &mut Connection, from: u64) -> Result<u64, StoreError> {
    let mut last = from;
    let groups: Vec<(i64, Vec<u8>)> = {
        let mut s = log.prepare_cached("SELECT number, changes FROM log WHERE number>? ORDER BY number LIMIT 512").map_err(wrap)?;
        let rows = s.query_map([from as i64], |r| Ok((r.get(0)?, r.get(1)?))).map_err(wrap)?;
        rows.collect::<Result<_, _>>().map_err(wrap)?
    };
    if groups.is_empty() { return Ok(from); }
    let tx = state.transaction().map_err(wrap)?;
    for (n, blob) in groups {
        let changes: Vec<Change> = postcard::from_bytes(&blob).map_err(|e| StoreError::new(StoreErrorKind::Corrupt, e.to_string()))?;
        for c in &changes { apply(&tx, c).map_err(wrap)?; }
        last = n as u64;
    }
    tx.execute("INSERT OR REPLACE INTO meta VALUES('applied',?)", [last as i64]).map_err(wrap)?;
    tx.commit().map_err(wrap)?;
    Ok(last)
}
impl SqliteStore {
    pub fn open(folder: &Path, sink: &mut dyn FnMut(Loaded)) -> Result<(SqliteStore, Arc<SqliteArchive>, Opened), StoreError> {
        let io = |e: std::io::Error| StoreError::new(StoreErrorKind::Failed, format!("{}: {e}", folder.display()));
        std::fs::create_dir_all(folder).map_err(io)?;
        let lock = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(io)?;
        lock.try_lock().map_err(|_| StoreError::new(StoreErrorKind::InUse, format!("{} is in use by another process", folder.display())))?;
        let log = open(&folder.join("log.db"))?;
        log.execute_batch("CREATE TABLE IF NOT EXISTS log(number INTEGER PRIMARY KEY, changes BLOB)").map_err(wrap)?;
        let path = folder.join("state.db");
        let mut state = open(&path)?;
        state.execute_batch(SCHEMA).map_err(wrap)?;
        let meta = |c: &Connection, k: &str| c.query_row("SELECT v FROM meta WHERE k=?", [k], |r| r.get::<_, i64>(0)).optional().map_err(wrap);
        if meta(&state, "store")?.is_none() {
            let id = std::process::id() as i64 * 7919 & 0xffff_ffff;
            state.execute("INSERT INTO meta VALUES('store',?)", [id]).map_err(wrap)?;
        }
        let mut applied = meta(&state, "applied")?.unwrap_or(0) as u64;
        loop { let n = drain(&log, &mut state, applied)?; if n == applied { break; } applied = n; }
        let store = meta(&state, "store")?.unwrap_or(0) as u32;
        let mut last_event = 0;
        {
            let mut s = state.prepare("SELECT f, a, b, row FROM rows ORDER BY kind, a, b").map_err(wrap)?;
            let mut rows = s.query([]).map_err(wrap)?;
            while let Some(r) = rows.next().map_err(wrap)? {
                let blob: Vec<u8> = r.get(3).map_err(wrap)?;
                let row: Row = postcard::from_bytes(&blob).map_err(|e| StoreError::new(StoreErrorKind::Corrupt, e.to_string()))?;
                match &row {
                    Row::Upgrade(u) if u.state.is_finished() => sink(Loaded::FinishedUpgrade { task: u.task, device: u.device, state: u.state, succeeded_before: u.succeeded_before }),
                    _ => { if let Row::Event(e) = &row { last_event = e.sequence; } sink(Loaded::Row(row)); }
                }
            }
        }
        let shared = Arc::new(Applied::default());
        shared.state.lock().unwrap_or_else(PoisonError::into_inner).0 = applied;
        let s2 = Arc::clone(&shared);
        let log2 = open(&folder.join("log.db"))?;
        let thread = std::thread::spawn(move || loop {
            let mut g = s2.state.lock().unwrap_or_else(PoisonError::into_inner);
            while g.1 <= g.0 && !g.2 { g = s2.changed.wait(g).unwrap_or_else(PoisonError::into_inner); }
            if g.2 { return; }
            let from = g.0; drop(g);
            match drain(&log2, &mut state, from) {
                Ok(n) => { s2.state.lock().unwrap_or_else(PoisonError::into_inner).0 = n; s2.changed.notify_all(); }
                Err(_) => std::thread::park_timeout(std::time::Duration::from_millis(200)),
            }
        });
        Ok((SqliteStore { log, shared: Arc::clone(&shared), thread: Some(thread), _lock: lock }, Arc::new(SqliteArchive { path, shared }), Opened { store, last_group: applied, last_event_sequence: last_event }))
    }
}
impl Drop for SqliteStore { fn drop(&mut self) { self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).2 = true; self.shared.changed.notify_all(); if let Some(t) = self.thread.take() { let _ = t.join(); } } }
impl Store for SqliteStore {
    fn commit(&mut self, group: &Group) -> Result<(), StoreError> {
        let blob = postcard::to_stdvec(&group.changes).map_err(|e| StoreError::new(StoreErrorKind::Corrupt, e.to_string()))?;
        let applied = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).0;
        let tx = self.log.transaction().map_err(wrap)?;
        tx.prepare_cached("INSERT INTO log VALUES(?,?)").map_err(wrap)?.execute(params![group.number as i64, blob]).map_err(wrap)?;
        tx.prepare_cached("DELETE FROM log WHERE number<=?").map_err(wrap)?.execute([applied as i64]).map_err(wrap)?;
        tx.commit().map_err(wrap)?;
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).1 = group.number;
        self.shared.changed.notify_all();
        Ok(())
    }
}
impl SqliteArchive {
    fn conn(&self, group: u64) -> Result<Connection, StoreError> {
        let mut g = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        while g.0 < group && !g.2 { g = self.shared.changed.wait(g).unwrap_or_else(PoisonError::into_inner); }
        open(&self.path)
    }
}
impl Archive for SqliteArchive {
    fn upgrades(&self, q: &UpgradeQuery, group: u64) -> Result<Vec<Upgrade>, StoreError> {
        let c = self.conn(group)?;
        let mut s = c.prepare("SELECT row FROM rows WHERE kind=5 AND (?1<0 OR a=?1) AND (?2<0 OR b=?2) AND b>?3 ORDER BY b").map_err(wrap)?;
        let rows = s.query_map(params![q.task.map_or(-1, |t| t.0 as i64), q.device.map_or(-1, |t| t.0 as i64), q.after.map_or(-1, |t| t.0 as i64)], |r| r.get::<_, Vec<u8>>(0)).map_err(wrap)?;
        let mut out = Vec::new();
        for blob in rows {
            if let Ok(Row::Upgrade(u)) = postcard::from_bytes::<Row>(&blob.map_err(wrap)?) && (q.states.is_empty() || q.states.contains(&u.state)) { out.push(Upgrade::clone(&u)); }
            if out.len() >= q.limit { break; }
        }
        Ok(out)
    }
    fn events(&self, from: u64, limit: usize, group: u64) -> Result<Vec<Event>, StoreError> {
        let c = self.conn(group)?;
        let mut s = c.prepare("SELECT row FROM rows WHERE kind=8 AND a>=? ORDER BY a LIMIT ?").map_err(wrap)?;
        let rows = s.query_map(params![from as i64, limit as i64], |r| r.get::<_, Vec<u8>>(0)).map_err(wrap)?;
        let mut out = Vec::new();
        for blob in rows { if let Ok(Row::Event(e)) = postcard::from_bytes::<Row>(&blob.map_err(wrap)?) { out.push(Event::clone(&e)); } }
        Ok(out)
    }
}
#[derive(Debug, Default)]
pub struct VerifyReport { pub problems: Vec<String>, pub images: Vec<(ImageId, u64)> }
