//! What the commands of a group changed: to be committed, or to be undone, and then to be published.

use super::State;
use crate::index::StartKey;
use crate::model::{DeviceNumber, ImageId, ProductNumber, TaskNumber, TokenId, UpgradeState};
use crate::store::Change;
use std::sync::Arc;

/// The changes since the last commit, with what undoes each.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub changes: Vec<Change>,
    pub(super) inverses: Vec<Inverse>,
    pub touched: Touched,
    /// About how many bytes the changes are.
    pub(super) weight_bytes: usize,
}

/// What puts back how it was.
#[derive(Debug)]
pub(super) enum Inverse {
    Change(Change),
    /// The upgrade was finished, and so not kept as a row.
    Finished {
        task: TaskNumber,
        device: DeviceNumber,
        state: UpgradeState,
        succeeded_before: bool,
    },
    /// From the last to the first.
    All(Vec<Inverse>),
    Events {
        sequence: u64,
        oldest: u64,
    },
}

/// What has to be published once the group is durable.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub products: Vec<(Arc<str>, Arc<str>, ProductNumber)>,
    pub devices: Vec<DeviceNumber>,
    pub devices_gone: Vec<(ProductNumber, Box<str>, DeviceNumber)>,
    pub marks: Vec<DeviceNumber>,
    pub starts: Vec<StartKey>,
    pub tasks: Vec<TaskNumber>,
    pub tokens: Vec<TokenId>,
    pub images: Vec<ImageId>,
}

impl Touched {
    fn len(&self) -> usize {
        self.products.len()
            + self.devices.len()
            + self.devices_gone.len()
            + self.marks.len()
            + self.starts.len()
            + self.tasks.len()
            + self.tokens.len()
            + self.images.len()
    }

    fn clear(&mut self) {
        self.products.clear();
        self.devices.clear();
        self.devices_gone.clear();
        self.marks.clear();
        self.starts.clear();
        self.tasks.clear();
        self.tokens.clear();
        self.images.clear();
    }
}

const LOAD_PORTION: usize = 4_096;

/// A place in the journal to go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    changes: usize,
}

impl State {
    pub(super) fn mark(&self) -> Mark {
        Mark { changes: self.journal.changes.len() }
    }

    /// Takes back everything since `mark`, as if it had not been asked for.
    pub(super) fn undo_to(&mut self, mark: Mark) {
        self.journal.changes.truncate(mark.changes);
        while self.journal.inverses.len() > mark.changes {
            if let Some(inverse) = self.journal.inverses.pop() {
                self.install_inverse(inverse);
            }
        }
    }

    /// Takes back everything since the last commit, so that the state is what is durable, and publishes that.
    pub(crate) fn undo_all(&mut self) {
        self.undo_to(Mark { changes: 0 });
        // A task that was deleted and is back has figures of its own; what is published has to be the same as what is here.
        self.publish();
        self.clear_touched();
        self.journal.weight_bytes = 0;
    }

    /// The changes are durable: there is nothing to undo any more.
    pub(crate) fn committed(&mut self) {
        self.journal.changes.clear();
        self.journal.inverses.clear();
        self.journal.weight_bytes = 0;
    }

    /// Everything that was touched is published.
    pub(crate) fn clear_touched(&mut self) {
        self.journal.touched.clear();
        self.devices_fresh.clear();
        self.forget_parted();
    }

    /// While a store is loaded everything is touched; publishing in portions keeps the list short.
    pub(super) fn publish_portion(&mut self) {
        if self.journal.touched.len() >= LOAD_PORTION {
            self.publish();
            self.clear_touched();
        }
    }

    /// About how many bytes wait to be committed.
    pub(crate) fn weight_bytes(&self) -> usize {
        self.journal.weight_bytes
    }

    pub(crate) fn begin_attempt(&mut self, attempt: u64) {
        self.attempt = attempt;
    }

    /// The attempt that has to succeed before what the state says may be told.
    pub(crate) fn uncommitted_attempt(&self) -> Option<u64> {
        (!self.journal.inverses.is_empty()).then_some(self.attempt)
    }

    /// Hands the changes to the group that commits them, and takes them back afterwards, to keep their memory.
    pub(crate) fn swap_changes(&mut self, changes: &mut Vec<Change>) {
        std::mem::swap(&mut self.journal.changes, changes);
    }

    pub(crate) fn touched(&self) -> &Touched {
        &self.journal.touched
    }
}
