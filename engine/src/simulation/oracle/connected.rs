//! Devices that are connected, and are sent their upgrades without asking: as if they had asked.

use super::super::steps::{CheckStep, VERSIONS};
use super::asked::is_not_found;
use super::{Connection, Expected, Held, Oracle, Run, broken, require};
use crate::error::Error;
use crate::model::*;
use crate::state::Outcome;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Oracle {
    /// Who may hang behind the gateway is the engine's to say.
    pub(super) fn connect(&mut self, gateway: usize, epoch: u64, together_max: usize, outcome: &Result<Outcome, Error>) -> Held {
        let Ok(Outcome::Connected(connected)) = outcome else {
            let is_refused = self.devices[gateway].is_none() && is_not_found(outcome);
            return require("who isn't there isn't answered", is_refused, || format!("d{gateway}: {outcome:?}"));
        };
        let members: BTreeSet<usize> =
            connected.members.iter().filter_map(|name| name.device_id.strip_prefix('d')?.parse().ok()).collect();
        let there = self.connections.get(&gateway);
        let is_newest = there.is_none_or(|there| there.epoch <= epoch);
        let is_known = there.is_none_or(|there| there.together_max < usize::MAX);
        let is_taken = members.contains(&gateway);
        require("the newest connection counts", !is_known || is_taken == is_newest, || format!("{connected:?} beside {there:?}"))?;
        if is_taken {
            // It speaks for itself now.
            self.leave_connections(gateway);
            self.connections.insert(gateway, Connection { epoch, members, together_max });
        }
        Ok(())
    }

    /// The same where the group was undone: it may be so or not.
    pub(in super::super) fn connect_undone(
        &mut self,
        gateway: usize,
        epoch: u64,
        together_max: usize,
        outcome: &Result<Outcome, Error>,
    ) {
        let before = self.connections.get(&gateway).map(|there| there.members.clone()).unwrap_or_default();
        if self.connect(gateway, epoch, together_max, outcome).is_ok()
            && let Some(connection) = self.connections.get_mut(&gateway)
        {
            connection.members.extend(before);
            connection.together_max = usize::MAX;
        }
    }

    /// A deletion or a parting that was undone has forgotten the connection all the same.
    pub(in super::super) fn parting_undone(&mut self, device: usize) {
        let of_it = self.connections.values_mut().filter(|connection| connection.members.contains(&device));
        of_it.for_each(|connection| connection.together_max = usize::MAX);
    }

    pub(super) fn disconnect(&mut self, gateway: usize, epoch: u64) {
        if self.connections.get(&gateway).is_some_and(|there| there.epoch == epoch) {
            self.connections.remove(&gateway);
        }
    }

    /// It is another if it comes again.
    pub(super) fn is_gone(&mut self, device: usize) {
        self.connections.remove(&device);
        self.leave_connections(device);
    }

    fn leave_connections(&mut self, device: usize) {
        for connection in self.connections.values_mut() {
            connection.members.remove(&device);
        }
    }

    /// Something was sent to a device that hadn't asked: it has to be what it would have been told.
    pub(super) fn pushed(&mut self, device: usize, event: &Event, at: Timestamp) -> Held {
        let behind = self.connections.values().find(|connection| connection.members.contains(&device));
        let Some(behind) = behind else { return broken("only who is connected is sent to", format!("{event:?}")) };
        let holding = behind
            .members
            .iter()
            .filter(|member| self.tasks.values().any(|task| task.runs.get(*member).is_some_and(|run| run.state.holds_permit())));
        let (holding, together_max) = (holding.count(), behind.together_max);
        let is_offer = event.kind == EventKind::Offered;
        let has_room = !is_offer || holding < together_max.max(1);
        require("a gateway's devices take turns", has_room, || format!("{holding} hold a permit behind one gateway: {event:?}"))?;
        let recorded = self.devices[device].as_ref().and_then(|known| known.versions.get(&Component::MAIN)).cloned();
        let version = VERSIONS.iter().find(|version| recorded.as_deref() == Some(**version)).copied();
        let Some(version) = version else { return broken("only who is connected is sent to", format!("{event:?}")) };
        let check =
            CheckStep { device, second: false, version, preview: false, only_while_started: false, register: false, direct: true };
        let task = self.tasks.iter().find(|(_, task)| Some(task.id) == event.task_id).map(|(task, _)| *task);
        match self.expect(&check, at) {
            Expected::Free { task: expected, .. } if is_offer && task == Some(expected) => {
                self.offered(expected, device, &Arc::from(version), event, at)
            }
            Expected::AskPerson { task: expected, .. } if !is_offer && task == Some(expected) => {
                let run = self.begun_run(expected, device);
                self.put_run(expected, device, Run { state: UpgradeState::AwaitingConfirmation, ..run });
                Ok(())
            }
            expected => broken("a push is decided by the policies", format!("{event:?}; expected {expected:?}")),
        }
    }
}
