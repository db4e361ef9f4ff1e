//! One process at a time: an advisory lock on a file of the folder, held as long as the store is open.
//!
//! The kernel drops the lock when the process ends, however it ends, so a lock file that is still there means nothing.

use super::failure::io_failure;
use crate::store::{StoreError, StoreErrorKind};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

const NAME: &str = "lock";

/// Makes an empty file for its owner alone, where there is none: SQLite would let others read it, and takes over what is here for
/// the files that it puts beside it.
pub(super) fn make_private(path: &Path) -> Result<(), StoreError> {
    let made = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    made.map(drop).map_err(|error| io_failure(&format!("opening {}", path.display()), error))
}

/// The right to use a folder. Ends when dropped.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Makes the folder if it isn't there, for its owner alone, and locks it.
    pub(super) fn create(folder: &Path) -> Result<Self, StoreError> {
        let describe = |error: io::Error| {
            let doing = format!("the folder {} can't be made", folder.display());
            let failure = io_failure(&doing, error);
            StoreError { message: format!("{}; choose another, or let this user write there", failure.message), ..failure }
        };
        if !folder.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(describe)?;
            // The folder's own entry has to survive a power cut too.
            if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent).and_then(|parent| parent.sync_all()).map_err(describe)?;
            }
        }
        let path = folder.join(NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        Self::take(folder, file.map_err(|error| io_failure(&format!("opening {}", path.display()), error))?)
    }

    /// Locks a folder without writing to it. `None` where no store was ever opened there, so that there is nothing to lock.
    pub(super) fn existing(folder: &Path) -> Result<Option<Self>, StoreError> {
        let path = folder.join(NAME);
        match File::open(&path) {
            Ok(file) => Self::take(folder, file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_failure(&format!("opening {}", path.display()), error)),
        }
    }

    fn take(folder: &Path, file: File) -> Result<Self, StoreError> {
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::new(
                StoreErrorKind::InUse,
                format!("the folder {} is open in another process; stop that process, or choose another folder", folder.display()),
            )),
            Err(TryLockError::Error(error)) => Err(io_failure(&format!("locking the folder {}", folder.display()), error)),
        }
    }
}
