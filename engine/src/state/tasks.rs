//! What operators write: images, firmware, tasks.

use super::{ActionRules, NewFirmware, NewTask, Outcome, State, TaskAction, TaskTarget, members, validate};
use crate::error::{Conflict, Entity, Error};
use crate::index::StartKey;
use crate::model::*;
use crate::rollout::waves;
use crate::store::{Key, Row};
use roaring::RoaringBitmap;
use std::collections::BTreeMap;
use std::sync::Arc;

impl State {
    pub(super) fn put_image(&mut self, image: Image) -> Arc<Image> {
        if let Some(there) = self.image(&image.organization, image.id) {
            return there;
        }
        let row = Arc::new(image);
        self.put(Row::Image(Arc::clone(&row)));
        row
    }

    pub(super) fn delete_image(&mut self, organization: &Arc<str>, id: ImageId) -> Result<Outcome, Error> {
        if self.image(organization, id).is_none() {
            return Err(Error::not_found(Entity::Image, id));
        }
        let owns =
            |product: ProductNumber| self.products.get(&product).is_some_and(|entry| entry.row.organization == *organization);
        let named = self.firmware.values().any(|firmware| firmware.artifact.image == Some(id) && owns(firmware.product))
            || self.tasks.values().map(|entry| entry.view.row()).any(|task| task.artifact.image == Some(id) && owns(task.product));
        if named {
            return Err(Error::conflict(Conflict::InUse, "firmware or a task names the image; delete those first"));
        }
        self.delete(Key::Image { organization: Arc::clone(organization), id });
        Ok(Outcome::Done)
    }

    pub(super) fn create_firmware(
        &mut self,
        new: NewFirmware,
        register_product: bool,
        at: Timestamp,
    ) -> Result<Arc<Firmware>, Error> {
        self.validate_firmware(&new)?;
        let product = self.product_or_register(&new.organization, &new.product_id, register_product, at)?;
        self.refuse_known_version(product, &new, None)?;
        if new.unique_name
            && let Some(name) = &new.name
            && self.firmware_names.contains_key(&(product, Arc::from(name.as_str())))
        {
            let message = format!("firmware of this product is called {name:?} already; choose another name");
            return Err(Error::conflict(Conflict::FirmwareName, message));
        }
        if self.firmware.len() >= self.limits.firmware_max {
            return Err(Error::LimitReached { what: "firmware", limit: self.limits.firmware_max as u64 });
        }
        let number = FirmwareNumber(self.next.firmware);
        // Not the store's own name, so that no firmware and task made in the same second share an id.
        let id = FirmwareId { created_s: created_s(at), store: !self.store, number };
        let row = Arc::new(firmware_row(number, id, product, new, at));
        self.put(Row::Firmware(Arc::clone(&row)));
        Ok(row)
    }

    pub(super) fn update_firmware(&mut self, id: FirmwareId, new: NewFirmware) -> Result<Arc<Firmware>, Error> {
        self.validate_firmware(&new)?;
        let before = self.own_firmware(&new.organization, id)?;
        self.refuse_known_version(before.product, &new, Some(before.number))?;
        let leads_elsewhere =
            *before.version != *new.version || before.component != new.component || before.artifact != new.artifact;
        if leads_elsewhere {
            self.refuse_used(&before, "stop and delete the task before the firmware's version or file is changed")?;
        }
        // What was verified was these bytes.
        let verified_at = before.verified_at.filter(|_| before.artifact == new.artifact);
        let row = firmware_row(before.number, before.id, before.product, new, before.created_at);
        let row = Arc::new(Firmware { verified_at, ..row });
        self.put(Row::Firmware(Arc::clone(&row)));
        Ok(row)
    }

    pub(super) fn delete_firmware(&mut self, organization: &str, id: FirmwareId) -> Result<Outcome, Error> {
        let row = self.own_firmware(organization, id)?;
        self.refuse_used(&row, "delete the task first")?;
        self.delete(Key::Firmware(row.number));
        Ok(Outcome::Done)
    }

    /// Refused where a task was made from the firmware, or one that is not stopped leads to its version.
    fn refuse_used(&self, row: &Firmware, next_step: &str) -> Result<(), Error> {
        let uses = |task: &&Arc<Task>| {
            let leads_there = task.component == row.component && task.target_version == row.version;
            task.firmware == Some(row.number) || (leads_there && task.status != TaskStatus::Stopped)
        };
        let tasks = self.products.get(&row.product).into_iter().flat_map(|entry| &entry.tasks);
        match tasks.filter_map(|task| self.tasks.get(task)).map(|entry| entry.view.row()).find(uses) {
            Some(task) => {
                let message = format!("task {} ({}) uses the firmware; {next_step}", task.id, task.status.name());
                Err(Error::conflict(Conflict::InUse, message))
            }
            None => Ok(()),
        }
    }

    fn validate_firmware(&self, new: &NewFirmware) -> Result<(), Error> {
        validate::version("version", &new.version, &self.limits)?;
        validate::name("name", new.name.as_deref(), &self.limits)?;
        validate::text("description", new.description.as_deref(), &self.limits)?;
        validate::name("model", new.model.as_deref(), &self.limits)?;
        validate::name("manufacturer", new.manufacturer.as_deref(), &self.limits)?;
        validate::name("device_type", new.device_type.as_deref(), &self.limits)?;
        validate::artifact(&new.artifact, &self.limits)?;
        if let Some(Verification { devices_max, successes_min }) = new.verification
            && !(1..=devices_max).contains(&successes_min)
        {
            let message = format!("{successes_min} successes of at most {devices_max} devices; give 1 to {devices_max}");
            return Err(Error::invalid("verification", message));
        }
        self.validate_image(&new.organization, new.artifact.image)
    }

    /// An image has to be the organization's own.
    fn validate_image(&self, organization: &str, image: Option<ImageId>) -> Result<(), Error> {
        match image {
            Some(id) if self.image(organization, id).is_none() => Err(Error::not_found(Entity::Image, id)),
            _ => Ok(()),
        }
    }

    fn refuse_known_version(&self, product: ProductNumber, new: &NewFirmware, own: Option<FirmwareNumber>) -> Result<(), Error> {
        let key = (product, new.component, Arc::from(new.version.as_str()));
        match self.firmware_by_version.get(&key) {
            Some(number) if Some(*number) != own => {
                let Component { component_type, identify } = new.component;
                let message =
                    format!("firmware {} of type {component_type} identify {identify} exists; choose another version", new.version);
                Err(Error::conflict(Conflict::FirmwareVersion, message))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn create_task(&mut self, new: NewTask, register_product: bool, at: Timestamp) -> Result<Arc<Task>, Error> {
        self.validate_task(&new)?;
        let product = self.product_or_register(&new.organization, &new.product_id, register_product, at)?;
        let (target_version, artifact, firmware) = self.target(product, &new)?;
        if new.from_versions.contains(&target_version) {
            let message =
                format!("target version {target_version:?} is among the from-versions; a task has to lead somewhere else");
            return Err(Error::invalid("target_version", message));
        }
        if new.unique_name
            && let Some(name) = &new.name
            && self.task_names.contains_key(&(product, Arc::from(name.as_str())))
        {
            return Err(Error::conflict(Conflict::TaskName, format!("a task of this product is called {name:?} already")));
        }
        if new.unique_start {
            self.refuse_known_start(product, &new)?;
        }
        if self.tasks.len() >= self.limits.tasks_max {
            return Err(Error::LimitReached { what: "tasks", limit: self.limits.tasks_max as u64 });
        }
        let number = TaskNumber(self.next.task);
        // Only what is fixed now has to be looked up now.
        let devices = (new.scope.snapshot || !new.policy.waves.is_empty()).then(|| self.members(product, &new));
        let waves = waves::measure(&new.policy.waves, number, devices.as_ref().unwrap_or(&RoaringBitmap::new()));
        if devices.as_ref().is_some_and(RoaringBitmap::is_empty) && !waves.is_empty() {
            let message = "waves are measured out over the devices that are there, and none in scope is at a from-version; \
                           create the task once they are registered, or leave the waves out";
            return Err(Error::invalid("waves", message));
        }
        let members = devices.filter(|_| new.scope.snapshot).map(|devices| members::write(&devices));
        let from_versions = new.from_versions.iter().map(|version| self.known_version(product, new.component, version)).collect();
        let row = Arc::new(Task {
            number,
            id: TaskId { created_s: created_s(at), store: self.store, number },
            product,
            component: new.component,
            name: new.name.map(Into::into),
            description: new.description.map(Into::into),
            kind: new.kind,
            mode: new.mode,
            from_versions,
            target_version: target_version.into(),
            artifact,
            firmware,
            scope: new.scope,
            members,
            policy: new.policy,
            status: TaskStatus::Stopped,
            created_at: at,
            changed_at: at,
            annotations: new.annotations,
            waves,
            approved: false,
            canceled: false,
            finished_at: None,
        });
        self.put(Row::Task(Arc::clone(&row)));
        self.tell_of_task(EventKind::TaskCreated, &row, at);
        // A wave without a device, or without a success to wait for, is passed at once.
        self.open_waves(number, at);
        if new.start { self.set_status(&row, TaskStatus::Started, at) } else { Ok(row) }
    }

    fn target(&self, product: ProductNumber, new: &NewTask) -> Result<(String, Artifact, Option<FirmwareNumber>), Error> {
        match &new.target {
            TaskTarget::Artifact { version, artifact } => {
                validate::version("target_version", version, &self.limits)?;
                validate::artifact(artifact, &self.limits)?;
                self.validate_image(&new.organization, artifact.image)?;
                if new.kind == TaskKind::Verify {
                    return Err(Error::invalid("firmware_id", "a verify task verifies firmware; name one instead of a file"));
                }
                Ok((version.clone(), artifact.clone(), None))
            }
            TaskTarget::Firmware(id) => {
                let firmware = self.own_firmware(&new.organization, *id)?;
                if firmware.product != product {
                    return Err(Error::not_found(Entity::Firmware, id));
                }
                if firmware.component != new.component {
                    let Component { component_type, identify } = firmware.component;
                    let message = format!(
                        "firmware {id} is for type {component_type} identify {identify}, the task for type {} identify {}",
                        new.component.component_type, new.component.identify
                    );
                    return Err(Error::invalid("firmware_id", message));
                }
                match new.kind {
                    TaskKind::Upgrade if !firmware.is_released() => {
                        let message = format!("firmware {id} has to be verified first; run a verify task to its end");
                        return Err(Error::conflict(Conflict::FirmwareUnverified, message));
                    }
                    TaskKind::Upgrade => {}
                    TaskKind::Verify => self.validate_verify_scope(&new.scope.selector, firmware.verification)?,
                }
                Ok((firmware.version.to_string(), firmware.artifact.clone(), Some(firmware.number)))
            }
        }
    }

    fn refuse_known_start(&self, product: ProductNumber, new: &NewTask) -> Result<(), Error> {
        for version in &new.from_versions {
            let key = StartKey { product, component: new.component, version: version.as_str().into() };
            let other = self.starts.get(&key).and_then(|tasks| tasks.last()).and_then(|task| self.tasks.get(task));
            if let Some(other) = other {
                let message = format!("task {} starts from version {version:?} already; delete it first", other.view.row().id);
                return Err(Error::conflict(Conflict::TaskStart, message));
            }
        }
        Ok(())
    }

    /// The devices that are in scope and at a from-version now.
    fn members(&self, product: ProductNumber, new: &NewTask) -> RoaringBitmap {
        let at_start = self.at_start(product, new.component, new.from_versions.iter().map(String::as_str));
        match self.selected(product, &new.scope.selector) {
            Some(selected) => at_start & selected,
            None => at_start,
        }
    }

    pub(super) fn act_on_task(
        &mut self,
        organization: &str,
        id: TaskId,
        action: TaskAction,
        rules: ActionRules,
        at: Timestamp,
    ) -> Result<Arc<Task>, Error> {
        let number = self.own_task(organization, id)?;
        let Some(row) = self.task_entry(number).map(|entry| Arc::clone(entry.view.row())) else {
            return Err(Error::not_found(Entity::Task, id));
        };
        let refuse = |verb: &str| Error::conflict(Conflict::State, format!("the task is {}; {verb}", row.status.name()));
        if rules.strict && action == TaskAction::Start && row.status == TaskStatus::Started {
            return Err(Error::conflict(Conflict::TaskStarted, format!("task {id} is started already")));
        }
        if rules.strict && action == TaskAction::Stop && row.status == TaskStatus::Stopped {
            return Err(Error::conflict(Conflict::TaskStopped, format!("task {id} is stopped already")));
        }
        let status = match (action, row.status) {
            (TaskAction::Approve, _) if !row.policy.approval => return Err(refuse("it asks for no approval")),
            (TaskAction::Approve, _) => return Ok(self.approve(&row, at)),
            (TaskAction::Cancel, _) => {
                self.cancel_task(&row, at);
                return self.task_entry(number).map(|entry| Arc::clone(entry.view.row())).ok_or_else(|| refuse("it is gone"));
            }
            (TaskAction::OpenWave, _) => {
                self.open_wave_by_hand(&row, at)?;
                return Ok(row);
            }
            (TaskAction::Start, _) => TaskStatus::Started,
            (TaskAction::Stop, _) => TaskStatus::Stopped,
            (TaskAction::Pause, TaskStatus::Stopped) => return Err(refuse("only a started one can be paused")),
            (TaskAction::Pause, _) => TaskStatus::Paused,
            (TaskAction::Resume, TaskStatus::Stopped) => return Err(refuse("start it instead of resuming it")),
            (TaskAction::Resume, _) => TaskStatus::Started,
        };
        self.set_status(&row, status, at)
    }

    /// The same status again changes nothing and is no event.
    pub(super) fn set_status(&mut self, row: &Arc<Task>, status: TaskStatus, at: Timestamp) -> Result<Arc<Task>, Error> {
        if row.status == status {
            return Ok(Arc::clone(row));
        }
        let kind = if status == TaskStatus::Started { EventKind::TaskStarted } else { EventKind::TaskStopped };
        // Who starts a canceled task again wants what is left of it.
        let canceled = row.canceled && status != TaskStatus::Started;
        let finished_at = row.finished_at.filter(|_| row.canceled == canceled);
        let row = Arc::new(Task { status, canceled, finished_at, changed_at: at, ..Task::clone(row) });
        self.put(Row::Task(Arc::clone(&row)));
        self.tell_of_task(kind, &row, at);
        // One that begins with nothing to do is finished; and what an earlier stop kept open may be over by now.
        self.settle(row.number, at);
        let row = self.task_entry(row.number).map_or(row, |entry| Arc::clone(entry.view.row()));
        Ok(row)
    }

    fn approve(&mut self, row: &Arc<Task>, at: Timestamp) -> Arc<Task> {
        if row.approved {
            return Arc::clone(row);
        }
        let row = Arc::new(Task { approved: true, changed_at: at, ..Task::clone(row) });
        self.put(Row::Task(Arc::clone(&row)));
        row
    }

    fn open_wave_by_hand(&mut self, row: &Task, at: Timestamp) -> Result<(), Error> {
        let open = self.task_entry(row.number).map_or(0, super::TaskEntry::open_wave);
        if open + 1 >= row.waves.len() {
            let message = format!("task {} has no wave left to open", row.id);
            return Err(Error::conflict(Conflict::State, message));
        }
        self.open_next_wave(row.number, at);
        self.open_waves(row.number, at);
        Ok(())
    }

    pub(super) fn delete_task(
        &mut self,
        organization: &str,
        id: TaskId,
        rules: ActionRules,
        at: Timestamp,
    ) -> Result<Outcome, Error> {
        let number = self.own_task(organization, id)?;
        let row = self.task_entry(number).map(|entry| Arc::clone(entry.view.row()));
        if let Some(row) = row.filter(|row| row.status != TaskStatus::Stopped) {
            if rules.strict {
                let message = format!("task {id} is {}; stop it first", row.status.name());
                return Err(Error::conflict(Conflict::TaskStarted, message));
            }
            self.set_status(&row, TaskStatus::Stopped, at)?;
        }
        self.delete(Key::UpgradesOfTask(number));
        if self.task_entry(number).is_some_and(|entry| entry.pace.is_some()) {
            self.delete(Key::Pace(number));
        }
        self.delete(Key::Task(number));
        Ok(Outcome::Done)
    }

    pub(super) fn tell_of_task(&mut self, kind: EventKind, row: &Task, at: Timestamp) {
        self.tell_of_task_with(kind, row, BTreeMap::new(), at);
    }

    pub(super) fn tell_of_task_with(
        &mut self,
        kind: EventKind,
        row: &Task,
        mut extra: BTreeMap<Box<str>, Box<str>>,
        at: Timestamp,
    ) {
        let product = self.products.get(&row.product).map(|entry| Arc::clone(&entry.row));
        extra.insert("status".into(), row.status.name().into());
        self.tell(Event {
            sequence: 0,
            kind,
            at,
            organization: product.as_ref().map(|product| Arc::clone(&product.organization)).unwrap_or_default(),
            product_id: product.as_ref().map(|product| Arc::clone(&product.id)).unwrap_or_default(),
            device_id: None,
            task_id: Some(row.id),
            upgrade_id: None,
            state: None,
            percent: None,
            extra,
        });
    }

    fn product_or_register(
        &mut self,
        organization: &str,
        product_id: &str,
        register: bool,
        at: Timestamp,
    ) -> Result<ProductNumber, Error> {
        match self.product_number(organization, product_id) {
            Some(number) => Ok(number),
            None if register => self.create_product(organization, product_id, None, at),
            None => Err(Error::not_found(Entity::Product, product_id)),
        }
    }

    /// The task with this id, if it is the organization's.
    pub(super) fn own_task(&self, organization: &str, id: TaskId) -> Result<TaskNumber, Error> {
        let entry = self.tasks.get(&id.number).filter(|entry| entry.view.row().id == id);
        let owner = entry.and_then(|entry| self.products.get(&entry.view.row().product)).map(|product| &*product.row.organization);
        if owner == Some(organization) { Ok(id.number) } else { Err(Error::not_found(Entity::Task, id)) }
    }

    fn own_firmware(&self, organization: &str, id: FirmwareId) -> Result<Arc<Firmware>, Error> {
        self.firmware(organization, id).ok_or_else(|| Error::not_found(Entity::Firmware, id))
    }
}

fn created_s(at: Timestamp) -> u32 {
    u32::try_from(at.as_seconds()).unwrap_or(u32::MAX)
}

fn firmware_row(
    number: FirmwareNumber,
    id: FirmwareId,
    product: ProductNumber,
    new: NewFirmware,
    created_at: Timestamp,
) -> Firmware {
    Firmware {
        number,
        id,
        product,
        component: new.component,
        version: new.version.into(),
        artifact: new.artifact,
        name: new.name.map(Into::into),
        description: new.description.map(Into::into),
        model: new.model.map(Into::into),
        manufacturer: new.manufacturer.map(Into::into),
        device_type: new.device_type.map(Into::into),
        file_type: new.file_type,
        created_at,
        annotations: new.annotations,
        verification: new.verification,
        verified_at: None,
    }
}
