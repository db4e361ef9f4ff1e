//! Everything that the engine says is compared with what the oracle knows: rows, counts of rows, and what checks are told.

use super::super::steps::{CheckStep, PRODUCTS, VERSIONS, component, product_of};
use super::{Expected, Held, Oracle, Ordered, broken, require};
use crate::engine::{Checked, Engine};
use crate::model::*;
use crate::state::{Check, CheckRules, Decision, DeviceRef, State};
use crate::store::UpgradeQuery;
use std::collections::BTreeMap;
use std::sync::Arc;

const ROWS: &str = "rows are what was answered";
const COUNTS: &str = "counts are the rows, counted";

/// What an operator reads of all tasks at once.
#[derive(Debug, PartialEq)]
pub(in super::super) struct Figures {
    permits_held: u64,
    devices: u64,
    tokens: u64,
    tasks: BTreeMap<TaskId, (TaskStatus, u64, [u64; UpgradeState::ALL.len()])>,
}

impl Figures {
    pub(in super::super) fn of(state: &State) -> Self {
        let totals = state.totals();
        let organizations = PRODUCTS.map(|(organization, _)| organization);
        let tasks = organizations.iter().flat_map(|organization| state.tasks(organization, None, None, usize::MAX));
        let tasks =
            tasks.map(|info| (info.row.id, (info.row.status, info.permits_held, UpgradeState::ALL.map(|of| info.counts.get(of)))));
        Self { permits_held: totals.permits_held, devices: totals.devices, tokens: totals.tokens, tasks: tasks.collect() }
    }
}

impl Oracle {
    pub(in super::super) fn figures(&self) -> Figures {
        let counts = |task: &Ordered| UpgradeState::ALL.map(|of| task.runs.values().filter(|run| run.state == of).count() as u64);
        let tasks = self.tasks.iter().map(|(number, task)| (task.id, (task.status, self.held_by(*number), counts(task))));
        Figures {
            permits_held: self.held(),
            devices: self.devices.iter().flatten().count() as u64,
            tokens: self.tokens.len() as u64,
            tasks: tasks.collect(),
        }
    }

    /// What the decision plane says without the writer.
    pub(in super::super) fn checked(&self, check: &CheckStep, checked: &Checked, now: Timestamp) -> Held {
        let expected = self.expect(check, now);
        let known = self.devices[check.device].as_ref().and_then(|known| known.versions.get(&component(check.second)));
        let is_recorded = known.is_some_and(|version| **version == *check.version);
        let is_free = matches!(expected, Expected::Free { .. } | Expected::AskPerson { .. } | Expected::Unknown);
        match checked {
            Checked::Ask => require("the decision plane decides what it can", !is_recorded || is_free && !check.preview, || {
                format!("d{} at {} is asked about; expected {expected:?}", check.device, check.version)
            }),
            Checked::Decided(decision) => {
                let grants = matches!((&expected, decision), (Expected::Free { .. }, Decision::Offer(_))) && !check.preview;
                require("nothing is seen before it is durable", is_recorded && !grants, || {
                    format!("d{} at {}: {decision:?}, expected {expected:?}", check.device, check.version)
                })?;
                self.compare(check, &expected, decision)
            }
        }
    }

    /// Looks through everything. Nothing may be under way. `rows`: also what lies on the disk.
    pub(in super::super) fn audit(&self, engine: &Engine, now: Timestamp, tokens: u64, rows: bool) -> Held {
        let read = engine.read_blocking(|state| self.audit_state(state, now));
        match read {
            Ok(held) => held?,
            Err(error) => return broken("reads go on", error.to_string()),
        }
        for (number, task) in self.tasks.iter().filter(|_| rows) {
            self.audit_runs(engine, *number, task)?;
        }
        for token in 0..tokens {
            let published = engine.token(TokenId(token));
            let is_it = published.as_deref() == self.tokens.get(&token);
            require("a token opens its own alone", is_it, || {
                format!("token {token}: {published:?}, not {:?}", self.tokens.get(&token))
            })?;
        }
        let last = *engine.event_sequence().borrow();
        require("events have no gap", last + 1 == self.next_event, || format!("the last is {last}, {} is next", self.next_event))?;
        self.audit_plane(engine, now)
    }

    fn audit_plane(&self, engine: &Engine, now: Timestamp) -> Held {
        for (device, known) in self.devices.iter().enumerate() {
            let id = format!("d{device}");
            let (organization, product_id) = PRODUCTS[product_of(device)];
            for second in [false, true] {
                let recorded = known.as_ref().and_then(|known| known.versions.get(&component(second)));
                let version =
                    recorded.map_or("1", |version| VERSIONS.iter().find(|own| ***own == **version).copied().unwrap_or("1"));
                let step =
                    CheckStep { device, second, version, preview: false, only_while_started: false, register: true, direct: false };
                let rules = CheckRules { register: true, ..CheckRules::default() };
                let named = DeviceRef { organization, product_id, device_id: &id };
                let check = Check { device: named, component: component(second), version, rules };
                self.checked(&step, &engine.check(&check, now), now)?;
            }
        }
        Ok(())
    }

    fn audit_state(&self, state: &State, now: Timestamp) -> Held {
        let (figures, counted) = (Figures::of(state), self.figures());
        require(COUNTS, figures == counted, || format!("{figures:#?}\nnot\n{counted:#?}"))?;
        let totals = state.totals();
        let own = (self.products.len() as u64, self.firmware.len() as u64, self.tasks.len() as u64);
        require(COUNTS, (totals.products, totals.firmware, totals.tasks) == own, || format!("{totals:?}, not {own:?}"))?;
        for (device, known) in self.devices.iter().enumerate() {
            let (organization, product_id) = PRODUCTS[product_of(device)];
            let id = format!("d{device}");
            let row = state.device(DeviceRef { organization, product_id, device_id: &id }).map(|info| info.row);
            let versions = |row: &Device| {
                let versions = row.components.iter().map(|installed| (installed.component, Arc::clone(&installed.version)));
                versions.collect::<BTreeMap<_, _>>()
            };
            let is_it = match (known, &row) {
                (None, None) => true,
                (Some(known), Some(row)) => {
                    let (groups, ring) = (&row.details().groups, row.details().tags.get("ring").map(|ring| &**ring));
                    let same_groups = groups.iter().map(|group| &**group).eq(known.groups.iter().copied());
                    versions(row) == known.versions && same_groups && ring == known.ring && known.number == Some(row.number)
                }
                _ => false,
            };
            require(ROWS, is_it, || format!("d{device} is {row:?}, not {known:?}"))?;
        }
        for (number, task) in &self.tasks {
            self.audit_task(state, *number, task, now)?;
        }
        for (number, row) in &self.firmware {
            let kept = PRODUCTS.iter().find_map(|(organization, _)| state.firmware(organization, row.id));
            require(ROWS, kept.as_ref() == Some(row), || format!("firmware {number} is {kept:?}, not {row:?}"))?;
        }
        Ok(())
    }

    fn audit_task(&self, state: &State, number: usize, task: &Ordered, now: Timestamp) -> Held {
        let (organization, _) = PRODUCTS[task.product];
        let Some(info) = state.task(organization, task.id) else { return broken(ROWS, format!("task {number} is gone")) };
        let row = &info.row;
        let is_it = (row.status, row.approved, row.canceled, row.finished_at)
            == (task.status, task.approved, task.canceled, task.finished_at)
            && row.policy == task.policy
            && row.target_version == task.to;
        require(ROWS, is_it, || format!("task {number} is {row:?}, not {task:?}"))?;
        let all = || 0..self.devices.len();
        let succeeded = task.runs.values().filter(|run| run.has_succeeded()).count() as u64;
        let at_start = all().filter(|device| self.is_at_start(task, *device)).count() as u64;
        let counted = (info.succeeded_devices, info.devices_at_start);
        require(COUNTS, counted == (succeeded, at_start), || {
            format!("task {number}: {counted:?}, not {:?}", (succeeded, at_start))
        })?;
        let Some(outlook) = state.task_outlook(task.id.number, now) else { return broken(ROWS, format!("task {number} is gone")) };
        let (_, failures) = self.tally(number);
        let is_to_come =
            |device: &usize| self.is_at_start(task, *device) && self.is_in_scope(task, *device) && !task.runs.contains_key(device);
        let own = (failures.to_vec(), all().filter(is_to_come).count() as u64, task.wave_open);
        let told = (outlook.failures.iter().map(|(_, count)| *count).collect::<Vec<_>>(), outlook.to_come, outlook.open_wave);
        require(COUNTS, own == told, || format!("task {number}: {told:?}, not {own:?}"))
    }

    /// Every row of a task, finished ones too, as the store has them.
    fn audit_runs(&self, engine: &Engine, number: usize, task: &Ordered) -> Held {
        let query = UpgradeQuery { task: Some(task.id.number), limit: 1_000_000, ..UpgradeQuery::default() };
        let rows = match engine.upgrades(&query) {
            Ok(rows) => rows,
            Err(error) => return broken("reads go on", error.to_string()),
        };
        let numbers = self.devices.iter().enumerate();
        let numbers: BTreeMap<DeviceNumber, usize> =
            numbers.filter_map(|(device, known)| Some((known.as_ref()?.number?, device))).collect();
        require(ROWS, rows.len() == task.runs.len(), || format!("task {number} has {} rows, not {}", rows.len(), task.runs.len()))?;
        for row in &rows {
            let run = numbers.get(&row.device).and_then(|device| task.runs.get(device));
            let is_it = run.is_some_and(|run| {
                let stands = (row.state, row.attempts, row.id(), row.percent, row.deadline, row.not_before);
                let marks =
                    (row.confirmed, row.forced, row.failure.map(|failure| failure.kind), row.succeeded_before, &row.from_version);
                stands == (run.state, run.attempts, run.id, run.percent, run.deadline, run.not_before)
                    && marks == (run.confirmed, run.forced, run.failure, run.succeeded_before, &run.from)
            });
            require(ROWS, is_it, || format!("task {number}: {row:?}, not {run:?}"))?;
        }
        Ok(())
    }
}
