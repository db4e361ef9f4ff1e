//! The one thread that changes anything.
//!
//! Commands queue; what has queued while one group was being written is the next group. For each group:
//! 1. apply its commands to the state, under the write lock;
//! 2. commit the changes, without the lock;
//! 3. publish them to the decision plane, and the events to their readers;
//! 4. answer the callers.
//!
//! So nobody is told of anything, and no check sees anything, that a power cut could take back. Where the commit fails the changes
//! are undone and every caller of the group is told.

use crate::error::Error;
use crate::events::EventLog;
use crate::index::Published;
use crate::model::Timestamp;
use crate::state::{Command, Outcome, State};
use crate::store::{Change, Group, Row, Store, StoreError, StoreErrorKind};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Receiver, RwLock, RwLockReadGuard, RwLockWriteGuard, oneshot, watch};
use std::sync::{Arc, PoisonError};

/// A group takes this many commands at most: some ten milliseconds of applying, for commands about one device each, so that a disk
/// that takes as long to sync still leaves half of the time for them.
const GROUP_COMMANDS_MAX: usize = 4_096;
/// After this many commands of a group, readers of the state get their turn: about a millisecond or two.
const PORTION_COMMANDS: usize = 512;
/// A group ends after about this many bytes, however few commands made them: far below what one row of the log can hold.
const GROUP_BYTES_MAX: usize = 16 << 20;

pub(crate) type Answer = oneshot::Sender<Result<Outcome, Error>>;

#[derive(Debug)]
pub(crate) enum Job {
    Command { command: Command, at: Timestamp, answer: Answer },
    Close,
}

/// What the writer shares with everybody else.
#[derive(Debug)]
pub(crate) struct Shared {
    state: RwLock<State>,
    pub(crate) published: Arc<Published>,
    pub(crate) events: EventLog,
    /// Jobs sent and not yet taken up.
    pub(crate) queued: AtomicUsize,
    writable: AtomicBool,
    /// The newest group that is durable.
    committed: AtomicU64,
    progress: watch::Sender<Progress>,
}

/// How far the writer is. Attempts are counted also where a commit fails.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    finished: u64,
    failed: u64,
}

/// Stands for every attempt, once there will be no more.
const ENDED: u64 = u64::MAX;

impl Shared {
    pub(crate) fn new(state: State, published: Arc<Published>, events: EventLog, committed: u64) -> Self {
        Self {
            state: RwLock::new(state),
            published,
            events,
            queued: AtomicUsize::new(0),
            writable: AtomicBool::new(true),
            committed: AtomicU64::new(committed),
            progress: watch::Sender::new(Progress::default()),
        }
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.progress.borrow().finished == ENDED
    }

    pub(crate) fn committed_group(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Reads the state as soon as what was read is durable; reads again where its commit failed.
    pub(crate) async fn read<R>(&self, mut read: impl FnMut(&State) -> R) -> Result<R, Error> {
        loop {
            let (result, attempt) = {
                let state = self.state();
                (read(&state), state.uncommitted_attempt())
            };
            let Some(attempt) = attempt else { return Ok(result) };
            let mut progress = self.progress.subscribe();
            match progress.wait_for(|progress| progress.finished >= attempt).await {
                Ok(progress) if progress.failed >= attempt => {}
                Ok(progress) if progress.finished < ENDED => return Ok(result),
                // The writer ended in the middle: whether what was read is durable isn't known.
                Ok(_) | Err(_) => return Err(Error::Closed),
            }
        }
    }

    /// Holds every lock that it has until this returns, as the writer does for a while with each group.
    #[cfg(test)]
    pub(crate) fn while_locked(&self, act: impl FnOnce()) {
        let _state = self.state_mut();
        self.events.while_locked(act);
    }

    /// A panic while the state was locked is a bug; what is read then is still what was applied.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    queue: Receiver<Job>,
    store: Box<dyn Store>,
    group: Group,
    /// Set once the disk can't be trusted any more.
    failed: Option<StoreError>,
    answers: Vec<(Answer, Result<Outcome, Error>)>,
    attempt: u64,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, queue: Receiver<Job>, store: Box<dyn Store>, last_group: u64) -> Self {
        let group = Group { number: last_group, at: Timestamp(0), changes: Vec::new() };
        Self { shared, queue, store, group, failed: None, answers: Vec::new(), attempt: 0 }
    }

    /// Until it is told to close, or nobody is left who could ask.
    pub(crate) fn run(mut self) {
        // However this thread ends, nobody may believe that it still writes.
        let _ending = Ending(Arc::clone(&self.shared));
        while let Ok(first) = self.queue.recv() {
            let open = self.apply_group(first);
            let committed = self.commit_group();
            self.conclude_group(committed);
            self.answer_group();
            if !open {
                return;
            }
        }
    }

    /// [`run`](Self::run), up to where its store panics at the first group: what is dropped then is dropped here, in the same order.
    #[cfg(all(test, feature = "models"))]
    pub(crate) fn run_as_if_the_store_panicked(mut self) {
        let _ending = Ending(Arc::clone(&self.shared));
        if let Ok(first) = self.queue.recv() {
            self.apply_group(first);
        }
    }

    /// The first step of a group for who takes the steps one by one; false where nothing has queued. The others are
    /// [`commit_group`](Self::commit_group), [`conclude_group`](Self::conclude_group) and [`answer_group`](Self::answer_group).
    #[cfg(test)]
    #[cfg(not(feature = "models"))]
    pub(crate) fn try_apply_group(&mut self) -> bool {
        match self.queue.try_recv() {
            Ok(first) => {
                self.apply_group(first);
                true
            }
            Err(_) => false,
        }
    }

    /// What the callers of the group will be answered, in the order of their commands.
    #[cfg(test)]
    #[cfg(not(feature = "models"))]
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = &Result<Outcome, Error>> {
        self.answers.iter().map(|(_, outcome)| outcome)
    }

    /// Applies what has queued. False once it was told to close.
    fn apply_group(&mut self, first: Job) -> bool {
        self.attempt += 1;
        let mut next = Some(first);
        while let Some(first) = next {
            match self.apply_portion(first) {
                Ok(following) => next = following,
                Err(Closing) => return false,
            }
        }
        true
    }

    /// Applies some of a group under one lock. Who reads the state between two portions waits until the group is durable, as after the
    /// last. Returns the job to go on with, if the group goes on.
    fn apply_portion(&mut self, first: Job) -> Result<Option<Job>, Closing> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state_mut();
        state.begin_attempt(self.attempt);
        let mut job = first;
        for count in 1.. {
            let Job::Command { command, at, answer } = job else { return Err(Closing) };
            shared.queued.fetch_sub(1, Ordering::Relaxed);
            let outcome = match &self.failed {
                Some(error) => Err(Error::Store(error.clone())),
                None => state.apply(command, at),
            };
            self.group.at = self.group.at.max(at);
            self.answers.push((answer, outcome));
            let is_full = self.answers.len() >= GROUP_COMMANDS_MAX || state.weight_bytes() >= GROUP_BYTES_MAX;
            let Some(following) = (!is_full).then(|| self.queue.try_recv().ok()).flatten() else { break };
            if count == PORTION_COMMANDS {
                return Ok(Some(following));
            }
            job = following;
        }
        Ok(None)
    }

    /// Makes the group durable.
    pub(crate) fn commit_group(&mut self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let mut changes = std::mem::take(&mut self.group.changes);
        shared.state_mut().swap_changes(&mut changes);
        self.group.changes = changes;
        metrics::histogram!("sluicegate_writer_group_commands").record(self.answers.len() as f64);
        if self.group.changes.is_empty() { Ok(()) } else { self.commit() }
    }

    /// Publishes what is durable, or undoes what isn't.
    pub(crate) fn conclude_group(&mut self, committed: Result<(), StoreError>) {
        match committed {
            Ok(()) => self.publish(),
            Err(error) => self.undo(&error),
        }
        self.group.changes.clear();
    }

    /// Tells the callers of the group.
    pub(crate) fn answer_group(&mut self) {
        for (answer, outcome) in self.answers.drain(..) {
            // Who no longer waits has gone; the command stands all the same.
            let _ = answer.send(outcome);
        }
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.group.number += 1;
        let committed = self.store.commit(&self.group);
        match &committed {
            Ok(()) => self.shared.committed.store(self.group.number, Ordering::Release),
            Err(_) => self.group.number -= 1,
        }
        committed
    }

    fn publish(&mut self) {
        let shared = &self.shared;
        {
            let mut state = shared.state_mut();
            state.committed();
        }
        shared.state().publish();
        shared.state_mut().clear_touched();
        shared.progress.send_modify(|progress| progress.finished = self.attempt);
        let events = self.group.changes.iter().filter_map(|change| match change {
            Change::Put(Row::Event(event)) => Some(Arc::clone(event)),
            _ => None,
        });
        shared.events.push(events);
    }

    fn undo(&mut self, error: &StoreError) {
        metrics::counter!("sluicegate_writer_commit_failures_total").increment(1);
        tracing::error!(error = %error, kind = ?error.kind, commands = self.answers.len(), "a group could not be committed and was undone");
        self.shared.state_mut().undo_all();
        if !matches!(error.kind, StoreErrorKind::Full | StoreErrorKind::Busy) {
            self.failed = Some(error.clone());
            self.shared.writable.store(false, Ordering::Release);
        }
        self.shared.progress.send_modify(|progress| {
            progress.finished = self.attempt;
            progress.failed = self.attempt;
        });
        for (_, outcome) in &mut self.answers {
            *outcome = Err(Error::Store(error.clone()));
        }
    }
}

/// Told to close: what was applied before is still committed.
struct Closing;

impl std::fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Writer").field("group", &self.group.number).finish_non_exhaustive()
    }
}

struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.writable.store(false, Ordering::Release);
        self.0.progress.send_modify(|progress| progress.finished = ENDED);
    }
}
