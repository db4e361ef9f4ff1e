//! How far the log and the tables are, and who waits for what.
//!
//! Invariant: `applied <= committed`, and both only grow. The materializer is the only one that waits on `work`.

use crate::store::{StoreError, StoreErrorKind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is committed in this time is written to the tables together: a row that changes often is then written once.
const GATHERING: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Progress {
    standing: Mutex<Standing>,
    /// There may be something to do for the materializer.
    work: Condvar,
    /// The tables are further, or will not get further for now.
    done: Condvar,
}

#[derive(Debug)]
struct Standing {
    /// The newest group of the log.
    committed: u64,
    /// The newest group of the tables.
    applied: u64,
    /// The newest group that somebody waits for.
    wanted: u64,
    /// The materializer sleeps until something is committed.
    idle: bool,
    /// Why the last attempt to write the tables failed, until one succeeds.
    trouble: Option<StoreError>,
    closing: bool,
    /// The materializer is gone: `applied` stays as it is.
    ended: bool,
}

impl Progress {
    pub(super) fn new(applied: u64) -> Self {
        let standing =
            Standing { committed: applied, applied, wanted: 0, idle: false, trouble: None, closing: false, ended: false };
        Self { standing: Mutex::new(standing), work: Condvar::new(), done: Condvar::new() }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        // Every change of it is a plain assignment, so it is whole even where a holder panicked.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn committed(&self) -> u64 {
        self.standing().committed
    }

    pub(super) fn applied(&self) -> u64 {
        self.standing().applied
    }

    /// A group is in the log.
    pub(super) fn commit(&self, group: u64) {
        let mut standing = self.standing();
        standing.committed = group;
        let wake = std::mem::take(&mut standing.idle);
        drop(standing);
        // A system call that most commits save: a materializer that gathers or works comes by itself.
        if wake {
            self.work.notify_one();
        }
    }

    /// Waits until the tables have `group`, and has them hurry.
    pub(super) fn wait_for(&self, group: u64, patience: Duration) -> Result<(), StoreError> {
        let mut standing = self.standing();
        if standing.applied >= group {
            return Ok(());
        }
        standing.wanted = standing.wanted.max(group);
        self.work.notify_one();
        let until = Instant::now() + patience;
        loop {
            if standing.applied >= group {
                return Ok(());
            }
            if let Some(trouble) = &standing.trouble {
                let message = format!("the tables are behind, and writing them fails: {}", trouble.message);
                return Err(StoreError::new(trouble.kind, message).caused_by(trouble.clone()));
            }
            let behind = format!("the tables have group {}, but group {group} is asked for", standing.applied);
            if standing.ended {
                return Err(StoreError::new(StoreErrorKind::Busy, format!("{behind}, and the store is closed; open it anew")));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::new(
                    StoreErrorKind::Busy,
                    format!("{behind}, and {} s of waiting were not enough; ask again later", patience.as_secs()),
                ));
            }
            (standing, _) = self.done.wait_timeout(standing, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Asks the materializer to end.
    pub(super) fn close(&self) {
        self.standing().closing = true;
        self.work.notify_one();
    }

    // What the materializer calls

    pub(super) fn is_closing(&self) -> bool {
        self.standing().closing
    }

    /// Sleeps until there is something to write, then gathers unless somebody waits. `None`: end, after writing what is there.
    pub(super) fn next(&self) -> Option<u64> {
        let mut standing = self.standing();
        while standing.committed == standing.applied && !standing.closing {
            standing.idle = true;
            standing = self.work.wait(standing).unwrap_or_else(PoisonError::into_inner);
        }
        standing.idle = false;
        let (standing, _) = self
            .work
            .wait_timeout_while(standing, GATHERING, |standing| standing.wanted <= standing.applied && !standing.closing)
            .unwrap_or_else(PoisonError::into_inner);
        (!standing.closing).then_some(standing.committed)
    }

    /// The tables have `group`.
    pub(super) fn reached(&self, group: u64) {
        let mut standing = self.standing();
        standing.applied = group;
        standing.trouble = None;
        self.done.notify_all();
    }

    /// Writing the tables failed. Sleeps before the next attempt, and tells whether there should be one.
    pub(super) fn failed(&self, error: &StoreError, pause: Duration) -> bool {
        let mut standing = self.standing();
        standing.trouble = Some(error.clone());
        self.done.notify_all();
        let (standing, _) =
            self.work.wait_timeout_while(standing, pause, |standing| !standing.closing).unwrap_or_else(PoisonError::into_inner);
        !standing.closing
    }

    /// The materializer ends.
    pub(super) fn end(&self) {
        self.standing().ended = true;
        self.done.notify_all();
    }
}
