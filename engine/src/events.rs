//! The newest events in memory, for those who follow them; older ones are read back from the store.

use crate::model::Event;
use crate::sync::{RwLock, watch};
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

/// Held in memory at most: at some 200 bytes each, a few megabytes.
const EVENTS_IN_MEMORY: usize = 16_384;

#[derive(Debug)]
pub(crate) struct EventLog {
    /// In the order of their numbers, without a gap.
    newest: RwLock<VecDeque<Arc<Event>>>,
    sequence: watch::Sender<u64>,
}

impl EventLog {
    pub(crate) fn new(loaded: Vec<Arc<Event>>, sequence: u64) -> Self {
        Self { newest: RwLock::new(loaded.into()), sequence: watch::Sender::new(sequence) }
    }

    pub(crate) fn push(&self, events: impl Iterator<Item = Arc<Event>>) {
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        let before = newest.back().map(|event| event.sequence);
        newest.extend(events);
        let surplus = newest.len().saturating_sub(EVENTS_IN_MEMORY);
        newest.drain(..surplus);
        let last = newest.back().map(|event| event.sequence);
        drop(newest);
        if let Some(last) = last.filter(|last| Some(*last) != before) {
            self.sequence.send_replace(last);
        }
    }

    /// Nobody reads or writes until this returns.
    #[cfg(test)]
    pub(crate) fn while_locked(&self, act: impl FnOnce()) {
        let _newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        act();
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.sequence.subscribe()
    }

    pub(crate) fn last_sequence(&self) -> u64 {
        *self.sequence.borrow()
    }

    /// Events from `from` on, where all of those that there are lie in memory.
    pub(crate) fn from(&self, from: u64, limit: usize) -> Option<Vec<Arc<Event>>> {
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        let first = newest.front()?.sequence;
        let skip = usize::try_from(from.checked_sub(first)?).unwrap_or(usize::MAX);
        Some(newest.iter().skip(skip).take(limit).cloned().collect())
    }
}
