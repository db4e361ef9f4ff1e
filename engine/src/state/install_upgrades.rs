//! Upgrades put and taken away, and what follows from them: counts, sets of devices, permits, timers.

use super::journal::Inverse;
use super::{LiveUpgrade, Offer, State, TaskEntry};
use crate::model::*;
use crate::rollout::waves;
use crate::store::{Change, Key, Row};
use roaring::RoaringBitmap;
use std::sync::Arc;

/// The devices whose upgrades are finished, by result.
#[derive(Debug, Default)]
pub(super) struct FinishedSets([RoaringBitmap; 5]);

impl FinishedSets {
    const STATES: [UpgradeState; 5] =
        [UpgradeState::Succeeded, UpgradeState::Failed, UpgradeState::Rejected, UpgradeState::TimedOut, UpgradeState::Canceled];

    pub(super) fn state_of(&self, device: DeviceNumber) -> Option<UpgradeState> {
        Self::STATES.into_iter().zip(&self.0).find(|(_, set)| set.contains(device.0)).map(|(state, _)| state)
    }

    pub(super) fn count(&self, state: UpgradeState) -> u64 {
        self.of(state).len()
    }

    fn insert(&mut self, device: DeviceNumber, state: UpgradeState) {
        for (own, set) in Self::STATES.into_iter().zip(&mut self.0) {
            if own == state {
                set.insert(device.0);
            }
        }
    }

    fn remove(&mut self, device: DeviceNumber) {
        for set in &mut self.0 {
            set.remove(device.0);
        }
    }

    pub(super) fn of(&self, state: UpgradeState) -> &RoaringBitmap {
        static NONE: std::sync::OnceLock<RoaringBitmap> = std::sync::OnceLock::new();
        let own = Self::STATES.into_iter().zip(&self.0).find(|(own, _)| *own == state);
        own.map_or_else(|| NONE.get_or_init(RoaringBitmap::new), |(_, set)| set)
    }

    pub(super) fn devices(&self) -> RoaringBitmap {
        self.0.iter().fold(RoaringBitmap::new(), |all, set| all | set)
    }
}

impl State {
    pub(super) fn install_upgrade(&mut self, row: Arc<Upgrade>) -> Inverse {
        let (task, device) = (row.task, row.device);
        let offer_before = self.live_upgrade(task, device).and_then(|live| live.offer.clone());
        let before = self.take_upgrade(task, device);
        let before = match before {
            // It wasn't there.
            Inverse::All(_) => Inverse::Change(Change::Delete(Key::Upgrade { task, device })),
            before => before,
        };
        if row.state.is_finished() {
            self.install_finished(task, device, row.state, row.succeeded_before);
            self.hint_ended(task, device, offer_before.is_some());
            return before;
        }
        if !row.state.holds_permit() {
            self.hint_ended(task, device, offer_before.is_some());
        }
        let Some(entry) = self.tasks.get_mut(&task) else { return before };
        entry.counts.set(row.state, entry.counts.get(row.state) + 1);
        entry.unfinished.insert(device.0);
        entry.unfinished_by_state[row.state as usize].insert(device.0);
        if row.succeeded_before {
            entry.note_success(device);
        }
        if let Some(failure) = row.failure {
            entry.failing[failure.kind as usize] += 1;
        }
        if row.forced {
            entry.forced.insert(device.0);
        }
        let offer = row.state.holds_permit().then(|| {
            entry.permits_held += 1;
            self.permits_held += 1;
            self.upgrading.insert(device.0);
            let same = |offer: &Arc<Offer>| offer.id == row.id() && offer.deadline == row.deadline;
            offer_before.filter(same).unwrap_or_else(|| {
                Arc::new(Offer {
                    id: row.id(),
                    task: Arc::clone(&entry.view),
                    from_version: Arc::clone(&row.from_version),
                    deadline: row.deadline,
                })
            })
        });
        if let Some(deadline) = row.deadline {
            self.deadlines.insert((deadline, task, device));
        }
        self.live.entry(device).or_default().push(LiveUpgrade { row, offer });
        self.note_canceling(task);
        before
    }

    pub(super) fn install_finished(&mut self, task: TaskNumber, device: DeviceNumber, state: UpgradeState, succeeded_before: bool) {
        self.journal.touched.marks.push(device);
        self.journal.touched.tasks.push(task);
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        entry.finished.insert(device, state);
        if succeeded_before || state == UpgradeState::Succeeded {
            entry.note_success(device);
        }
    }

    /// Forgets an upgrade, finished or not, and says what puts it back; an empty list where there was none.
    pub(super) fn remove_upgrade(&mut self, task: TaskNumber, device: DeviceNumber) -> Inverse {
        let held = self.live_upgrade(task, device).is_some_and(|live| live.offer.is_some());
        let inverse = self.take_upgrade(task, device);
        self.hint_ended(task, device, held);
        inverse
    }

    fn hint_ended(&mut self, task: TaskNumber, device: DeviceNumber, held_permit: bool) {
        if held_permit {
            self.hint_permit_free(task);
        }
        self.hint_device(device);
    }

    fn take_upgrade(&mut self, task: TaskNumber, device: DeviceNumber) -> Inverse {
        self.journal.touched.marks.push(device);
        self.journal.touched.tasks.push(task);
        let Some(entry) = self.tasks.get_mut(&task) else { return Inverse::All(Vec::new()) };
        let succeeded_before = entry.forget_success(device);
        if let Some(state) = entry.finished.state_of(device) {
            entry.finished.remove(device);
            return Inverse::Finished { task, device, state, succeeded_before };
        }
        if !entry.unfinished.remove(device.0) {
            return Inverse::All(Vec::new());
        }
        let Some(upgrades) = self.live.get_mut(&device) else { return Inverse::All(Vec::new()) };
        let Some(place) = upgrades.iter().position(|live| live.row.task == task) else { return Inverse::All(Vec::new()) };
        let live = upgrades.swap_remove(place);
        if upgrades.is_empty() {
            self.live.remove(&device);
        }
        entry.counts.set(live.row.state, entry.counts.get(live.row.state) - 1);
        entry.unfinished_by_state[live.row.state as usize].remove(device.0);
        if let Some(failure) = live.row.failure {
            entry.failing[failure.kind as usize] -= 1;
        }
        entry.forced.remove(device.0);
        if live.row.state.holds_permit() {
            entry.permits_held -= 1;
            self.permits_held -= 1;
            // A device may upgrade several of its components at once.
            if !self.live.get(&device).is_some_and(|others| others.iter().any(|other| other.offer.is_some())) {
                self.upgrading.remove(device.0);
            }
        }
        if let Some(deadline) = live.row.deadline {
            self.deadlines.remove(&(deadline, task, device));
        }
        self.note_canceling(task);
        Inverse::Change(Change::Put(Row::Upgrade(live.row)))
    }

    /// Keeps in step which canceled tasks still have something to cancel.
    pub(super) fn note_canceling(&mut self, task: TaskNumber) {
        let unfinished = self.tasks.get(&task).is_some_and(|entry| entry.view.row().canceled && !entry.unfinished.is_empty());
        // Few tasks are ever canceled, so the set is empty as a rule.
        if unfinished {
            self.canceling.insert(task);
        } else if !self.canceling.is_empty() {
            self.canceling.remove(&task);
        }
    }
}

impl TaskEntry {
    fn note_success(&mut self, device: DeviceNumber) {
        if self.succeeded.insert(device.0) {
            self.count_by_wave(device, 1);
        }
    }

    fn forget_success(&mut self, device: DeviceNumber) -> bool {
        let was_there = self.succeeded.remove(device.0);
        if was_there {
            self.count_by_wave(device, -1);
        }
        was_there
    }

    fn count_by_wave(&mut self, device: DeviceNumber, change: i32) {
        let row = self.view.row();
        let wave = waves::wave_of(&row.waves, waves::place(row.number, device));
        if let Some(count) = self.succeeded_by_wave.get_mut(wave) {
            *count = count.saturating_add_signed(change);
        }
    }
}
