//! What the simulated program keeps its rows on: a store that fails where it is told to, and can be cut off.

use crate::engine::Engine;
use crate::error::Error;
use crate::image::ImageStore;
use crate::limits::Limits;
use crate::store::testing::MemoryStore;
use crate::store::{Group, SqliteStore, Store, StoreError, StoreErrorKind};
use crate::writer::Writer;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// How the next commit is to fail, and whether what it wrote is on the disk all the same.
pub(super) type Fault = Arc<Mutex<Option<(StoreErrorKind, bool)>>>;

pub(super) enum Medium {
    Memory(MemoryStore),
    Disk(TempDir),
}

struct Faulty<S> {
    store: S,
    fault: Fault,
    failed: bool,
}

impl<S: Store> Store for Faulty<S> {
    fn commit(&mut self, group: &Group) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::new(StoreErrorKind::Failed, "the store failed before; open it anew"));
        }
        let Some((kind, kept)) = self.fault.lock().unwrap().take() else { return self.store.commit(group) };
        self.failed = !matches!(kind, StoreErrorKind::Full | StoreErrorKind::Busy);
        if kept {
            self.store.commit(group)?;
        }
        Err(StoreError::new(kind, "the run asked for this failure"))
    }
}

impl Medium {
    pub(super) fn new(is_disk: bool) -> Self {
        if is_disk { Self::Disk(tempfile::tempdir().unwrap()) } else { Self::Memory(MemoryStore::new(7)) }
    }

    /// The program starts on what is there.
    pub(super) fn open(&self, limits: &Limits, images: &ImageStore, fault: &Fault) -> Result<(Engine, Writer), Error> {
        let fault = Arc::clone(fault);
        match self {
            Self::Memory(memory) => Engine::stepped(limits.clone(), images.clone(), |sink| {
                let (store, archive, opened) = memory.open(sink)?;
                Ok((Faulty { store, fault, failed: false }, archive, opened))
            }),
            Self::Disk(folder) => Engine::stepped(limits.clone(), images.clone(), |sink| {
                let (store, archive, opened) = SqliteStore::open(folder.path(), sink)?;
                Ok((Faulty { store, fault, failed: false }, archive, opened))
            }),
        }
    }

    /// What there is now is all that will be there, whatever who has it open still does: call it before that one is dropped.
    pub(super) fn cut(&mut self) {
        if let Self::Disk(folder) = self {
            *folder = copy(folder.path());
        }
    }
}

/// The files as they are while they are open. The order matters: what the tables have may be missing from the log, but never the other
/// way round.
fn copy(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["state.db", "state.db-wal", "log.db", "log.db-wal"] {
        let from = folder.join(file);
        if from.exists() {
            std::fs::copy(from, copy.path().join(file)).unwrap();
        }
    }
    copy
}
