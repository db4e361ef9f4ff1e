//! The way to the writer: commands wait here, a bounded number of them, and each is answered once.
//!
//! Who asks while the queue is full is told so at once. Who asks after the writer has ended, or waits in the queue when it does, is
//! told that the engine is closed.

use crate::error::Error;
use crate::model::Timestamp;
use crate::pending::Pending;
use crate::state::{Command, Outcome};
use crate::sync::atomic::Ordering;
use crate::sync::{Receiver, SyncSender, oneshot, sync_channel};
use crate::writer::{Job, Shared};
use std::sync::Arc;
use std::sync::mpsc::TrySendError;

#[derive(Debug)]
pub(crate) struct Queue {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
}

impl Queue {
    /// A queue of at most `waiting_max`, and the end that the writer takes from.
    pub(crate) fn new(shared: Arc<Shared>, waiting_max: usize) -> (Self, Receiver<Job>) {
        let (jobs, receiver) = sync_channel(waiting_max);
        (Self { jobs, shared }, receiver)
    }

    pub(crate) fn submit<T>(&self, command: Command, now: Timestamp, read: fn(Outcome) -> Option<T>) -> Pending<T> {
        let (answer, receiver) = oneshot::channel();
        self.shared.queued.fetch_add(1, Ordering::Relaxed);
        match self.jobs.try_send(Job::Command { command, at: now, answer }) {
            Ok(()) => Pending::waiting(receiver, read),
            Err(refused) => {
                self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                Pending::ready(Err(match refused {
                    TrySendError::Full(_) => Error::Overloaded,
                    TrySendError::Disconnected(_) => Error::Closed,
                }))
            }
        }
    }

    /// Has the writer end after what waits now. Waits for a place in the queue.
    pub(crate) fn close(&self) {
        // An error means that the writer has ended already.
        let _ = self.jobs.send(Job::Close);
    }
}
