//! What operators write: images, firmware, tasks, tokens, applications.

use super::{NewFirmware, NewTask, Outcome, State, TaskAction, TaskTarget, members, validate};
use crate::error::{Conflict, Entity, Error};
use crate::index::StartKey;
use crate::model::*;
use crate::rollout::CompiledScope;
use crate::store::{Key, Row};
use roaring::RoaringBitmap;
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
        let row = Arc::new(firmware_row(before.number, before.id, before.product, new, before.created_at));
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
        let members = new.scope.snapshot.then(|| members::write(&self.members(product, &new)));
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
        });
        self.put(Row::Task(Arc::clone(&row)));
        self.tell_of_task(EventKind::TaskCreated, &row, at);
        if new.start { self.set_status(&row, TaskStatus::Started, at) } else { Ok(row) }
    }

    fn validate_task(&self, new: &NewTask) -> Result<(), Error> {
        validate::name("name", new.name.as_deref(), &self.limits)?;
        validate::text("description", new.description.as_deref(), &self.limits)?;
        let count = new.from_versions.len();
        if count == 0 || count > self.limits.from_versions_max {
            let max = self.limits.from_versions_max;
            return Err(Error::invalid("from_versions", format!("{count} from-versions; give 1 to {max}")));
        }
        for (place, version) in new.from_versions.iter().enumerate() {
            validate::version("from_versions", version, &self.limits)?;
            if new.from_versions[..place].contains(version) {
                return Err(Error::invalid("from_versions", format!("from-version {version:?} is named twice")));
            }
        }
        if new.policy.maximum_concurrency == Some(0) {
            return Err(Error::invalid(
                "maximum_concurrency",
                "maximum_concurrency is 0; give at least 1, or leave it out for no cap",
            ));
        }
        if new.policy.timeout_s == Some(0) {
            return Err(Error::invalid("timeout_s", "timeout_s is 0; give at least 1 second"));
        }
        let Schedule { start, end, daily, utc_offset_minutes } = new.policy.schedule;
        if let (Some(start), Some(end)) = (start, end)
            && end <= start
        {
            return Err(Error::invalid("schedule.end", "the schedule ends before it starts; give an end after the start"));
        }
        if daily.is_some_and(|daily| daily.from_s >= 86_400 || daily.to_s >= 86_400) {
            return Err(Error::invalid("schedule.daily", "a time of the daily window is past 23:59:59"));
        }
        if !(-1_080..=1_080).contains(&utc_offset_minutes) {
            let message = format!("utc_offset_minutes is {utc_offset_minutes}; give -1080 to 1080");
            return Err(Error::invalid("schedule.utc_offset_minutes", message));
        }
        self.validate_scope(&new.scope)
    }

    /// A selector that names nothing is refused: it is more likely a slip than a wish for a task without devices.
    fn validate_scope(&self, scope: &Scope) -> Result<(), Error> {
        let max = self.limits.scope_entries_max;
        let count = |field: &'static str, count: usize| match count {
            0 => Err(Error::invalid(field, format!("{field} names nothing; name what the task is for"))),
            count if count > max => Err(Error::invalid(field, format!("{field} names {count} entries; at most {max} are allowed"))),
            _ => Ok(()),
        };
        let counts = |field: &'static str, map: &std::collections::BTreeMap<Box<str>, Vec<Box<str>>>| {
            count(field, map.values().map(Vec::len).sum())?;
            for (key, values) in map {
                validate::id(field, key, &self.limits)?;
                values.iter().try_for_each(|value| validate::value(field, value, &self.limits))?;
            }
            match map.iter().find(|(_, values)| values.is_empty()) {
                Some((key, _)) => Err(Error::invalid(field, format!("{field} names no value for {key:?}; give at least one"))),
                None => Ok(()),
            }
        };
        match &scope.selector {
            Selector::Total => Ok(()),
            Selector::Devices(devices) => {
                count("scope.devices", devices.len())?;
                devices.iter().try_for_each(|device| validate::id("scope.devices", device, &self.limits))
            }
            Selector::Attributes(attributes) => counts("scope.attributes", attributes),
            Selector::Tags(tags) => counts("scope.tags", tags),
            Selector::Groups(groups) => {
                count("scope.groups", groups.len())?;
                groups.iter().try_for_each(|group| validate::id("scope.groups", group, &self.limits))
            }
            Selector::AssetTrees(trees) => {
                if trees.len() > self.limits.asset_trees_max {
                    let max = self.limits.asset_trees_max;
                    return Err(Error::invalid(
                        "scope.asset_trees",
                        format!("{} asset trees; at most {max} are allowed", trees.len()),
                    ));
                }
                count("scope.asset_trees", trees.iter().map(|tree| 1 + tree.nodes.len()).sum())?;
                let names = trees.iter().flat_map(|tree| tree.nodes.iter().chain([&tree.tree]));
                names.into_iter().try_for_each(|name| validate::id("scope.asset_trees", name, &self.limits))
            }
        }
    }

    fn target(&self, product: ProductNumber, new: &NewTask) -> Result<(String, Artifact, Option<FirmwareNumber>), Error> {
        match &new.target {
            TaskTarget::Artifact { version, artifact } => {
                validate::version("target_version", version, &self.limits)?;
                validate::artifact(artifact, &self.limits)?;
                self.validate_image(&new.organization, artifact.image)?;
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
        let Some(versions) = self.versions.get(&(product, new.component)) else { return RoaringBitmap::new() };
        let at_start = new.from_versions.iter().filter_map(|version| versions.get(version.as_str()));
        let at_start = at_start.fold(RoaringBitmap::new(), |all, devices| all | devices);
        let scope = CompiledScope::new(&new.scope, None);
        if matches!(scope, CompiledScope::Total) {
            return at_start;
        }
        let in_scope = |device: &u32| self.device_row(DeviceNumber(*device)).is_some_and(|row| scope.contains(row));
        at_start.iter().filter(in_scope).collect()
    }

    pub(super) fn act_on_task(
        &mut self,
        organization: &str,
        id: TaskId,
        action: TaskAction,
        at: Timestamp,
    ) -> Result<Arc<Task>, Error> {
        let number = self.own_task(organization, id)?;
        let Some(row) = self.task_entry(number).map(|entry| Arc::clone(entry.view.row())) else {
            return Err(Error::not_found(Entity::Task, id));
        };
        let refuse = |verb: &str| Error::conflict(Conflict::State, format!("the task is {}; {verb}", row.status.name()));
        let status = match (action, row.status) {
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
    fn set_status(&mut self, row: &Arc<Task>, status: TaskStatus, at: Timestamp) -> Result<Arc<Task>, Error> {
        if row.status == status {
            return Ok(Arc::clone(row));
        }
        let kind = if status == TaskStatus::Started { EventKind::TaskStarted } else { EventKind::TaskStopped };
        let row = Arc::new(Task { status, changed_at: at, ..Task::clone(row) });
        self.put(Row::Task(Arc::clone(&row)));
        self.tell_of_task(kind, &row, at);
        Ok(row)
    }

    pub(super) fn delete_task(&mut self, organization: &str, id: TaskId, at: Timestamp) -> Result<Outcome, Error> {
        let number = self.own_task(organization, id)?;
        let row = self.task_entry(number).map(|entry| Arc::clone(entry.view.row()));
        if let Some(row) = row.filter(|row| row.status != TaskStatus::Stopped) {
            self.set_status(&row, TaskStatus::Stopped, at)?;
        }
        self.delete(Key::UpgradesOfTask(number));
        self.delete(Key::Task(number));
        Ok(Outcome::Done)
    }

    fn tell_of_task(&mut self, kind: EventKind, row: &Task, at: Timestamp) {
        let product = self.products.get(&row.product).map(|entry| Arc::clone(&entry.row));
        let mut extra = std::collections::BTreeMap::new();
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

    pub(super) fn put_token(&mut self, token: Token) -> Result<Arc<Token>, Error> {
        validate::id("organization", &token.organization, &self.limits)?;
        for (field, id) in [("product_id", &token.product_id), ("device_id", &token.device_id)] {
            if let Some(id) = id {
                validate::id(field, id, &self.limits)?;
            }
        }
        if self.tokens.contains_key(&token.id) {
            return Err(Error::conflict(Conflict::State, format!("token id {} is taken; make another", token.id)));
        }
        if self.tokens.len() >= self.limits.tokens_max {
            return Err(Error::LimitReached { what: "tokens", limit: self.limits.tokens_max as u64 });
        }
        let row = Arc::new(token);
        self.put(Row::Token(Arc::clone(&row)));
        Ok(row)
    }

    pub(super) fn revoke_token(&mut self, organization: Option<&str>, id: TokenId) -> Result<Outcome, Error> {
        let own = |token: &&Arc<Token>| organization.is_none_or(|organization| *token.organization == *organization);
        self.tokens.get(&id).filter(own).ok_or_else(|| Error::not_found(Entity::Token, id))?;
        self.delete(Key::Token(id));
        Ok(Outcome::Done)
    }

    pub(super) fn put_app(&mut self, app: App) -> Result<Arc<App>, Error> {
        validate::id("id", &app.id, &self.limits)?;
        validate::id("organization", &app.organization, &self.limits)?;
        if self.apps.contains_key(&app.id) {
            return Err(Error::conflict(Conflict::AppId, format!("application {:?} exists; choose another id", app.id)));
        }
        let row = Arc::new(app);
        self.put(Row::App(Arc::clone(&row)));
        Ok(row)
    }

    pub(super) fn delete_app(&mut self, organization: Option<&str>, id: &Arc<str>) -> Result<Outcome, Error> {
        let own = |app: &&Arc<App>| organization.is_none_or(|organization| *app.organization == *organization);
        self.apps.get(id).filter(own).ok_or_else(|| Error::not_found(Entity::App, id))?;
        self.delete(Key::App(Arc::clone(id)));
        Ok(Outcome::Done)
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
    }
}
