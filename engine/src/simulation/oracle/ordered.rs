//! What operators order.

use super::super::steps::{TaskPlan, component, product_of};
use super::asked::is_not_found;
use super::happened::{Due, Turn};
use super::{Held, Known, Oracle, Ordered, Run, broken, require};
use crate::error::{Conflict, Entity, Error};
use crate::model::*;
use crate::state::{Outcome, TaskAction, UpgradeAction};
use std::collections::BTreeMap;
use std::sync::Arc;

const DONE: &str = "an order is done or refused as it says";

impl Oracle {
    pub(super) fn put_device(
        &mut self,
        device: usize,
        versions: &[(bool, &'static str)],
        groups: &[&'static str],
        ring: Option<&'static str>,
        turn: &mut Turn,
        outcome: &Result<Outcome, Error>,
    ) -> Held {
        let row = match outcome {
            Ok(Outcome::Devices(rows)) => rows.first(),
            _ => None,
        };
        let Some(Ok(row)) = row else { return broken(DONE, format!("d{device} is refused: {outcome:?}")) };
        self.products.insert(product_of(device));
        let before = self.devices[device].take();
        let versions: BTreeMap<Component, Arc<str>> =
            versions.iter().map(|(second, version)| (component(*second), Arc::from(*version))).collect();
        let (life, number) = match &before {
            Some(before) => (before.life, before.number),
            None => {
                self.lives += 1;
                (self.lives, None)
            }
        };
        require("a device keeps its number", number.is_none_or(|number| number == row.number), || format!("{number:?}: {row:?}"))?;
        let known = Known { versions: versions.clone(), groups: groups.to_vec(), ring, life, number: Some(row.number) };
        let is_same =
            |before: &Known| (&before.versions, &before.groups, before.ring) == (&known.versions, &known.groups, known.ring);
        let arrives = before.as_ref().is_some_and(|before| !is_same(before));
        self.devices[device] = Some(known);
        if arrives {
            versions.iter().for_each(|(component, version)| self.note_arrival(device, *component, version, turn));
        }
        Ok(())
    }

    /// Its runs go with it.
    pub(super) fn delete_device(&mut self, device: usize, outcome: &Result<Outcome, Error>) -> Held {
        if self.devices[device].take().is_none() {
            return require(DONE, is_not_found(outcome), || format!("d{device} isn't there: {outcome:?}"));
        }
        self.is_gone(device);
        for task in self.tasks.values_mut() {
            task.runs.remove(&device);
            if let Some(members) = &mut task.members {
                members.remove(&device);
            }
        }
        require(DONE, matches!(outcome, Ok(Outcome::Done)), || format!("d{device} is to go: {outcome:?}"))
    }

    pub(super) fn delete_product(&mut self, product: usize, outcome: &Result<Outcome, Error>) -> Held {
        if !self.products.contains(&product) {
            return require(DONE, is_not_found(outcome), || format!("product {product} isn't there: {outcome:?}"));
        }
        let has_devices = self.devices.iter().enumerate().any(|(device, known)| known.is_some() && product_of(device) == product);
        let has_tasks = self.tasks.values().any(|task| task.product == product);
        let has_firmware = self.firmware_of(product).next().is_some();
        if has_devices || has_tasks || has_firmware {
            return require(DONE, is_conflict(outcome, Conflict::InUse), || format!("product {product} is used: {outcome:?}"));
        }
        self.products.remove(&product);
        require(DONE, matches!(outcome, Ok(Outcome::Done)), || format!("product {product} is to go: {outcome:?}"))
    }

    fn firmware_of(&self, product: usize) -> impl Iterator<Item = (&usize, &Arc<Firmware>)> {
        // Kept as it was ordered: by its description.
        let name = product.to_string();
        self.firmware.iter().filter(move |(_, row)| row.description.as_deref() == Some(&*name))
    }

    pub(super) fn create_firmware(
        &mut self,
        firmware: usize,
        product: usize,
        second: bool,
        version: &str,
        outcome: &Result<Outcome, Error>,
    ) -> Held {
        let is_known = self.firmware_of(product).any(|(_, row)| row.component == component(second) && *row.version == *version);
        match outcome {
            _ if !self.products.contains(&product) => {
                require(DONE, is_not_found(outcome), || format!("no product {product}: {outcome:?}"))
            }
            Ok(Outcome::Firmware(row)) if !is_known => {
                self.firmware.insert(firmware, Arc::clone(row));
                Ok(())
            }
            _ => require(DONE, is_known && is_conflict(outcome, Conflict::FirmwareVersion), || format!("{version}: {outcome:?}")),
        }
    }

    pub(super) fn delete_firmware(&mut self, firmware: usize, outcome: &Result<Outcome, Error>) -> Held {
        let Some(row) = self.firmware.get(&firmware) else {
            let is_refused = matches!(outcome, Err(Error::NotFound { entity: Entity::Firmware, .. }));
            return require(DONE, is_refused, || format!("firmware {firmware} isn't there: {outcome:?}"));
        };
        let product = row.description.as_deref().and_then(|product| product.parse().ok());
        let leads_there = |task: &Ordered| {
            task.component == row.component
                && task.to == row.version
                && task.status != TaskStatus::Stopped
                && Some(task.product) == product
        };
        if self.tasks.values().any(|task| task.firmware == Some(firmware) || leads_there(task)) {
            return require(DONE, is_conflict(outcome, Conflict::InUse), || format!("firmware {firmware} is used: {outcome:?}"));
        }
        self.firmware.remove(&firmware);
        require(DONE, matches!(outcome, Ok(Outcome::Done)), || format!("firmware {firmware} is to go: {outcome:?}"))
    }

    pub(super) fn create_task(&mut self, plan: &TaskPlan, turn: &mut Turn, outcome: &Result<Outcome, Error>) -> Held {
        let component = component(plan.second);
        let leads = |task: &Ordered| {
            task.product == plan.product
                && task.component == component
                && plan.from.iter().any(|version| task.from.contains(version))
        };
        let is_known_start = plan.unique_start && self.tasks.values().any(leads);
        let firmware = plan.firmware.map(|firmware| self.firmware.get(&firmware));
        if firmware == Some(None) {
            return require(DONE, matches!(outcome, Err(Error::NotFound { .. })), || format!("no firmware: {outcome:?}"));
        }
        let to = firmware.flatten().map_or_else(|| plan.to.into(), |row| Arc::clone(&row.version));
        if plan.from.contains(&&*to) {
            return require(DONE, matches!(outcome, Err(Error::Invalid { .. })), || format!("it leads nowhere: {outcome:?}"));
        }
        if is_known_start {
            return require(DONE, is_conflict(outcome, Conflict::TaskStart), || format!("another starts there: {outcome:?}"));
        }
        let mut task = Ordered {
            id: TaskId { created_s: 0, store: 0, number: TaskNumber(0) },
            product: plan.product,
            component,
            from: plan.from.clone(),
            to,
            firmware: plan.firmware,
            selector: plan.selector.clone(),
            members: None,
            policy: plan.policy.clone(),
            waves: Vec::new(),
            status: TaskStatus::Stopped,
            approved: false,
            canceled: false,
            finished_at: None,
            changed_at: turn.at,
            runs: BTreeMap::new(),
            starts: Vec::new(),
            notified: 0,
            wave_open: 0,
            waves_owed: 0,
            stop_owed: None,
            is_blurred: false,
        };
        let is_meant = |device: &usize| self.is_in_scope(&task, *device) && self.is_at_start(&task, *device);
        let there: Vec<usize> = (0..self.devices.len()).filter(is_meant).collect();
        if there.is_empty() && !plan.policy.waves.is_empty() {
            return require(DONE, matches!(outcome, Err(Error::Invalid { .. })), || format!("waves of nobody: {outcome:?}"));
        }
        let Ok(Outcome::Task(row)) = outcome else { return broken(DONE, format!("{plan:?} is refused: {outcome:?}")) };
        self.products.insert(plan.product);
        let newest = self.tasks.values().map(|task| task.id.number).max();
        require("numbers are given once", newest.is_none_or(|newest| newest < row.id.number), || format!("{newest:?}: {row:?}"))?;
        task.id = row.id;
        task.waves.clone_from(&row.waves);
        let waves: Option<Vec<usize>> = there.iter().map(|device| self.wave_of(&task, *device)).collect();
        if plan.snapshot {
            task.members = Some(there.iter().copied().collect());
        }
        task.is_blurred = !task.waves.is_empty() && waves.is_none();
        if let Some(waves) = waves.filter(|_| !task.waves.is_empty()) {
            measured(&task, &waves)?;
        }
        turn.due.push(Due::Created { task: plan.task });
        if plan.start {
            turn.due.push(Due::Status { task: plan.task, status: TaskStatus::Started });
        }
        self.tasks.insert(plan.task, task);
        self.open_waves(plan.task);
        Ok(())
    }

    fn ordered(&self, task: usize, outcome: &Result<Outcome, Error>) -> Held<Option<&Ordered>> {
        let ordered = self.tasks.get(&task);
        let is_refused = matches!(outcome, Err(Error::NotFound { entity: Entity::Task, .. }));
        require(DONE, ordered.is_none() == is_refused, || format!("task {task} is there: {}; {outcome:?}", ordered.is_some()))?;
        Ok(ordered)
    }

    pub(super) fn act_on_task(
        &mut self,
        number: usize,
        action: TaskAction,
        strict: bool,
        turn: &mut Turn,
        outcome: &Result<Outcome, Error>,
    ) -> Held {
        let Some(task) = self.ordered(number, outcome)? else { return Ok(()) };
        let refused = match (action, task.status) {
            (TaskAction::Start, TaskStatus::Started) if strict => Some(Conflict::TaskStarted),
            (TaskAction::Stop, TaskStatus::Stopped) if strict => Some(Conflict::TaskStopped),
            (TaskAction::Approve, _) if !task.policy.approval => Some(Conflict::State),
            (TaskAction::Pause | TaskAction::Resume, TaskStatus::Stopped) => Some(Conflict::State),
            (TaskAction::OpenWave, _) if task.wave_open + 1 >= task.waves.len() => Some(Conflict::State),
            _ => None,
        };
        if let Some(conflict) = refused {
            return require(DONE, is_conflict(outcome, conflict), || format!("{action:?} of task {number}: {outcome:?}"));
        }
        require(DONE, matches!(outcome, Ok(Outcome::Task(_))), || format!("{action:?} of task {number}: {outcome:?}"))?;
        let status = match action {
            TaskAction::Start | TaskAction::Resume => TaskStatus::Started,
            TaskAction::Pause => TaskStatus::Paused,
            TaskAction::Stop | TaskAction::Cancel => TaskStatus::Stopped,
            TaskAction::Approve | TaskAction::OpenWave => task.status,
        };
        if status != task.status {
            turn.due.push(Due::Status { task: number, status });
        }
        let Some(task) = self.tasks.get_mut(&number) else { return Ok(()) };
        match action {
            TaskAction::Approve if !task.approved => (task.approved, task.changed_at) = (true, turn.at),
            TaskAction::Cancel => task.canceled = true,
            TaskAction::OpenWave => {
                if !task.is_blurred {
                    task.wave_open += 1;
                    task.waves_owed += 1;
                }
                self.open_waves(number);
            }
            _ => {}
        }
        Ok(())
    }

    /// Says whether it is. The task goes after its last events.
    pub(super) fn delete_task(
        &mut self,
        number: usize,
        strict: bool,
        turn: &mut Turn,
        outcome: &Result<Outcome, Error>,
    ) -> Held<bool> {
        let Some(task) = self.ordered(number, outcome)? else { return Ok(false) };
        if task.status != TaskStatus::Stopped {
            if strict {
                require(DONE, is_conflict(outcome, Conflict::TaskStarted), || format!("task {number} goes on: {outcome:?}"))?;
                return Ok(false);
            }
            turn.due.push(Due::Status { task: number, status: TaskStatus::Stopped });
        }
        require(DONE, matches!(outcome, Ok(Outcome::Done)), || format!("task {number} is to go: {outcome:?}"))?;
        Ok(true)
    }

    /// On all of the devices, or, where one of them is refused, on none.
    pub(super) fn act_on_upgrades(
        &mut self,
        number: usize,
        devices: &[usize],
        action: UpgradeAction,
        strict: bool,
        turn: &mut Turn,
        outcome: &Result<Outcome, Error>,
    ) -> Held {
        let Some(task) = self.tasks.get(&number) else { return self.ordered(number, outcome).map(drop) };
        let mut runs = Vec::new();
        let mut refused = (strict && task.status == TaskStatus::Stopped).then_some(Refused::Conflict);
        for device in devices {
            if refused.is_some() {
                break;
            }
            match self.acted(task, *device, action, strict) {
                Ok(run) => runs.extend(run.map(|run| (*device, run))),
                Err(why) => refused = Some(why),
            }
        }
        let is_answered = matches!(
            (&refused, outcome),
            (None, Ok(Outcome::Done))
                | (Some(Refused::NotFound), Err(Error::NotFound { .. }))
                | (Some(Refused::Conflict), Err(Error::Conflict { .. }))
        );
        require(DONE, is_answered, || format!("{action:?} of {devices:?}, task {number}: expected {refused:?}, told {outcome:?}"))?;
        if refused.is_some() {
            return Ok(());
        }
        let is_over = task.policy.schedule.end.is_some_and(|end| end <= turn.at);
        let Some(task) = self.tasks.get_mut(&number) else { return Ok(()) };
        for (device, run) in runs {
            match action {
                UpgradeAction::Cancel => turn.due.push(Due::Result { task: number, device, state: UpgradeState::Canceled }),
                UpgradeAction::Decline => turn.due.push(Due::Result { task: number, device, state: UpgradeState::Rejected }),
                // What has something to do again isn't finished.
                UpgradeAction::Force => task.finished_at = None,
                UpgradeAction::Retry if !is_over => task.finished_at = None,
                UpgradeAction::Retry | UpgradeAction::Confirm => {}
            }
            task.runs.insert(device, run);
        }
        Ok(())
    }

    /// What becomes of a run; none where nothing does.
    fn acted(&self, task: &Ordered, device: usize, action: UpgradeAction, strict: bool) -> Result<Option<Run>, Refused> {
        if self.devices[device].is_none() || product_of(device) != task.product {
            return Err(Refused::NotFound);
        }
        if task.canceled && matches!(action, UpgradeAction::Retry | UpgradeAction::Force) {
            return Err(Refused::Conflict);
        }
        let run = task.runs.get(&device);
        let is_listed = self.is_in_scope(task, device) && (task.members.is_some() || self.is_at_start(task, device));
        let version =
            self.devices[device].as_ref().and_then(|known| known.versions.get(&task.component)).cloned().unwrap_or_default();
        let blank = || Run::blank(version.clone(), run.is_some_and(Run::has_succeeded));
        let finished = run.map(|run| run.state).filter(|state| state.is_finished());
        let live = run.filter(|run| run.is_live());
        let holds = live.is_some_and(|run| run.state.holds_permit());
        match action {
            UpgradeAction::Cancel => match (finished, live) {
                (Some(UpgradeState::Canceled), _) if !strict => Ok(None),
                (Some(_), _) => Err(Refused::Conflict),
                (None, Some(run)) if strict && run.state > UpgradeState::Offered => Err(Refused::Conflict),
                (None, Some(run)) => Ok(Some(run.clone())),
                (None, None) if strict && is_listed => Ok(Some(blank())),
                (None, None) if strict || !self.is_in_scope(task, device) => Err(Refused::NotFound),
                (None, None) => Ok(Some(blank())),
            },
            UpgradeAction::Retry => match (finished, live) {
                (Some(UpgradeState::Succeeded), _) => Err(Refused::Conflict),
                (Some(_), _) => Ok(Some(blank())),
                (None, Some(run)) if run.state == UpgradeState::Waiting && !strict => {
                    Ok(Some(Run { attempts: 0, not_before: None, failure: None, ..run.clone() }))
                }
                (None, Some(_)) => Err(Refused::Conflict),
                (None, None) if strict && is_listed => Err(Refused::Conflict),
                (None, None) => Err(Refused::NotFound),
            },
            UpgradeAction::Force => {
                if !self.is_at_start(task, device) || holds || finished == Some(UpgradeState::Succeeded) {
                    return Err(Refused::Conflict);
                }
                if run.is_none() && !is_listed {
                    return Err(Refused::NotFound);
                }
                let run = live.cloned().unwrap_or_else(blank);
                Ok(Some(Run {
                    state: UpgradeState::Waiting,
                    not_before: None,
                    failure: None,
                    confirmed: true,
                    forced: true,
                    ..run
                }))
            }
            UpgradeAction::Confirm | UpgradeAction::Decline => {
                let yes = action == UpgradeAction::Confirm;
                if !task.policy.confirmation {
                    return Err(Refused::Conflict);
                }
                let run = match (finished, live) {
                    (Some(UpgradeState::Rejected | UpgradeState::Canceled), _) if !yes => return Ok(None),
                    (Some(_), _) => return Err(Refused::Conflict),
                    (None, Some(_)) if holds => return if yes { Ok(None) } else { Err(Refused::Conflict) },
                    (None, Some(run)) => run.clone(),
                    (None, None) if is_listed => blank(),
                    (None, None) => return Err(Refused::NotFound),
                };
                Ok(Some(if yes { Run { state: UpgradeState::Waiting, confirmed: true, ..run } } else { run }))
            }
        }
    }

    pub(super) fn put_token(
        &mut self,
        token: u64,
        product: usize,
        device: Option<usize>,
        lives_s: u64,
        at: Timestamp,
        outcome: &Result<Outcome, Error>,
    ) -> Held {
        if self.tokens.contains_key(&token) {
            return require(DONE, is_conflict(outcome, Conflict::State), || format!("token {token} is there: {outcome:?}"));
        }
        let row = token_row(token, product, device, at, lives_s);
        let is_kept = matches!(outcome, Ok(Outcome::Token(kept)) if (kept.id, kept.expires_at) == (row.id, row.expires_at));
        self.tokens.insert(token, row);
        require(DONE, is_kept, || format!("token {token}: {outcome:?}"))
    }

    pub(super) fn revoke_token(&mut self, token: u64, organization: Option<&str>, outcome: &Result<Outcome, Error>) -> Held {
        let own = |row: &&Token| organization.is_none_or(|organization| *row.organization == *organization);
        if self.tokens.get(&token).filter(own).is_none() {
            let is_refused = matches!(outcome, Err(Error::NotFound { entity: Entity::Token, .. }));
            return require("a token opens its own alone", is_refused, || {
                format!("token {token} of {organization:?}: {outcome:?}")
            });
        }
        self.tokens.remove(&token);
        require(DONE, matches!(outcome, Ok(Outcome::Done)), || format!("token {token} is to go: {outcome:?}"))
    }
}

/// Why an action on a device is refused.
#[derive(Debug)]
enum Refused {
    NotFound,
    Conflict,
}

fn is_conflict(outcome: &Result<Outcome, Error>, expected: Conflict) -> bool {
    matches!(outcome, Err(Error::Conflict { conflict, .. }) if *conflict == expected)
}

pub(in super::super) fn token_row(token: u64, product: usize, device: Option<usize>, at: Timestamp, lives_s: u64) -> Token {
    let (organization, product_id) = Oracle::name_of(product);
    Token {
        id: TokenId(token),
        secret_sha256: [token as u8; 32],
        purpose: TokenPurpose::Access,
        role: if device.is_some() { Role::Device } else { Role::Operator },
        organization: organization.into(),
        product_id: device.map(|_| product_id.into()),
        device_id: device.map(|device| format!("d{device}").into()),
        app: None,
        created_at: at,
        expires_at: at.plus_seconds(lives_s),
    }
}

/// Each wave has its share of the devices that were there: shares of a percentage end where it is reached by a device.
fn measured(task: &Ordered, waves: &[usize]) -> Held {
    let there = waves.len() as u64;
    let (mut percent, mut count, mut before) = (0, 0, 0);
    for (wave, asked) in task.policy.waves.iter().enumerate() {
        match asked.size {
            WaveSize::Percent(share) => percent += u64::from(share),
            WaveSize::Count(share) => count += u64::from(share),
        }
        let upto = there.min(count + (there * percent).div_ceil(100)).max(before);
        let is_of = waves.iter().filter(|own| **own == wave).count() as u64;
        let needed = ((upto - before) * u64::from(asked.success_percent)).div_ceil(100);
        let is_it = is_of == upto - before && task.waves.get(wave).map(|wave| u64::from(wave.successes)) == Some(needed);
        require("waves hold their share", is_it, || format!("wave {wave} has {is_of} of {there}: {:?}", task.waves))?;
        before = upto;
    }
    Ok(())
}
