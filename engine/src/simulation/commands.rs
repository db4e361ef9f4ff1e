//! What the steps of a run ask of the engine.

use super::oracle::{Oracle, token_row};
use super::steps::{CheckStep, PRODUCTS, Step, TaskPlan, component, product_of};
use crate::model::*;
use crate::state::*;

pub(super) fn name(device: usize) -> DeviceName {
    let (organization, product_id) = PRODUCTS[product_of(device)];
    DeviceName { organization: organization.into(), product_id: product_id.into(), device_id: format!("d{device}").into() }
}

/// What a step asks of the engine; nothing where what it is about isn't there.
pub(super) fn command(step: &Step, oracle: &Oracle, now: Timestamp) -> Option<(Command, Option<UpgradeId>)> {
    let offer = |task: usize, device: usize, offer: usize| {
        let offers = oracle.offers_of.get(&(task, device))?;
        offers.get(offer).or(offers.last()).copied()
    };
    let task_id = |task: &usize| oracle.tasks.get(task).map(|task| (PRODUCTS[task.product].0, task.id));
    let rules = |strict: &bool| ActionRules { strict: *strict };
    let command = match step {
        Step::Check(CheckStep { device, second, version, preview, only_while_started, register, .. }) => Command::Check {
            device: name(*device),
            component: component(*second),
            version: (*version).into(),
            rules: CheckRules { preview: *preview, only_while_started: *only_while_started, register: *register },
        },
        Step::Report { device, of, task, offer: place, state, percent, code } => {
            let id = offer(*task, *of, *place)?;
            let (percent, code) = (*percent, *code);
            let report = Report { device: name(*device), upgrade: id, state: *state, percent, detail: None, code };
            return Some((Command::Report(report), Some(id)));
        }
        Step::Served { device, task, offer: place, percent } => {
            let upgrade = offer(*task, *device, *place)?;
            return Some((Command::Served { upgrade, percent: *percent }, Some(upgrade)));
        }
        Step::ReportVersion { device, second, from, to, succeeded, register } => Command::ReportVersion(Box::new(VersionReport {
            device: name(*device),
            component: component(*second),
            from_version: (*from).into(),
            to_version: (*to).into(),
            succeeded: *succeeded,
            detail: None,
            extra: Default::default(),
            register: *register,
        })),
        Step::NoteVersion { device, second, version, register } => Command::NoteVersion {
            device: name(*device),
            component: component(*second),
            version: (*version).into(),
            register: *register,
        },
        Step::Connect { gateway, attached, epoch, together_max } => Command::Connect(Box::new(Connect {
            gateway: name(*gateway),
            attached: attached.iter().map(|device| format!("d{device}").into()).collect(),
            epoch: *epoch,
            component: Component::MAIN,
            together_max: *together_max,
            register: false,
        })),
        Step::Disconnect { gateway, epoch } => Command::Disconnect { gateway: name(*gateway), epoch: *epoch },
        Step::PutDevice { device, versions, groups, ring } => {
            let details = DeviceDetails {
                groups: groups.iter().map(|group| (*group).into()).collect(),
                tags: ring.iter().map(|ring| ("ring".into(), (*ring).into())).collect(),
                ..DeviceDetails::default()
            };
            let (organization, product_id) = PRODUCTS[product_of(*device)];
            let components = versions.iter().map(|(second, version)| (component(*second), (*version).to_owned())).collect();
            let new = NewDevice { product_id: product_id.into(), device_id: format!("d{device}"), components, details };
            Command::PutDevices { organization: organization.into(), devices: vec![new], register_products: true }
        }
        Step::DeleteDevice { device } => Command::DeleteDevice(name(*device)),
        Step::DeleteProduct { product } => {
            let (organization, product_id) = PRODUCTS[*product];
            Command::DeleteProduct { organization: organization.into(), product_id: product_id.into() }
        }
        Step::CreateFirmware { product, second, version, .. } => {
            Command::CreateFirmware { new: Box::new(new_firmware(*product, *second, version)), register_product: false }
        }
        Step::DeleteFirmware { firmware } => {
            let row = oracle.firmware.get(firmware)?;
            let product: usize = row.description.as_deref()?.parse().ok()?;
            Command::DeleteFirmware { organization: PRODUCTS[product].0.into(), id: row.id }
        }
        Step::CreateTask(plan) => {
            let firmware = match plan.firmware {
                Some(firmware) => Some(oracle.firmware.get(&firmware)?.id),
                None => None,
            };
            Command::CreateTask { new: Box::new(new_task(plan, firmware)), register_product: true }
        }
        Step::ActOnTask { task, action, strict } => {
            let (organization, id) = task_id(task)?;
            Command::ActOnTask { organization: organization.into(), id, action: *action, rules: rules(strict) }
        }
        Step::DeleteTask { task, strict } => {
            let (organization, id) = task_id(task)?;
            Command::DeleteTask { organization: organization.into(), id, rules: rules(strict) }
        }
        Step::ActOnUpgrades { task, devices, action, strict } => {
            let (organization, id) = task_id(task)?;
            let device_ids = devices.iter().map(|device| format!("d{device}").into()).collect();
            let action =
                UpgradesAction { organization: organization.into(), task: id, device_ids, action: *action, rules: rules(strict) };
            Command::ActOnUpgrades(Box::new(action))
        }
        Step::PutToken { token, product, device, lives_s } => {
            // It is made when it is sent.
            Command::PutToken(Box::new(token_row(*token, *product, *device, Timestamp(now.0 + 1), *lives_s)))
        }
        Step::RevokeToken { token, organization } => {
            Command::RevokeToken { organization: organization.map(Into::into), id: TokenId(*token) }
        }
        Step::Tick => Command::Tick,
        Step::Pass { .. } | Step::Write | Step::FailCommit { .. } | Step::Read | Step::PowerCut | Step::Restart | Step::Audit => {
            return None;
        }
    };
    Some((command, None))
}

fn new_firmware(product: usize, second: bool, version: &str) -> NewFirmware {
    let (organization, product_id) = PRODUCTS[product];
    NewFirmware {
        organization: organization.into(),
        product_id: product_id.into(),
        component: component(second),
        version: version.into(),
        artifact: artifact(),
        name: None,
        // The oracle knows its product by it.
        description: Some(product.to_string()),
        model: None,
        manufacturer: None,
        device_type: None,
        file_type: FileType::default(),
        annotations: Default::default(),
        verification: None,
        unique_name: false,
    }
}

fn new_task(plan: &TaskPlan, firmware: Option<FirmwareId>) -> NewTask {
    let (organization, product_id) = PRODUCTS[plan.product];
    let target = match firmware {
        Some(firmware) => TaskTarget::Firmware(firmware),
        None => TaskTarget::Artifact { version: plan.to.into(), artifact: artifact() },
    };
    let from = plan.from.iter().map(|version| (*version).to_owned()).collect();
    NewTask {
        component: component(plan.second),
        scope: Scope { selector: plan.selector.clone(), snapshot: plan.snapshot },
        policy: plan.policy.clone(),
        unique_start: plan.unique_start,
        start: plan.start,
        ..NewTask::new(organization, product_id, from, target)
    }
}

fn artifact() -> Artifact {
    Artifact { url: Some("http://elsewhere/f".into()), size: 1, md5: "m".into(), ..Artifact::default() }
}
