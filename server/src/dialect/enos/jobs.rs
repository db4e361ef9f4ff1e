//! `ota-jobs`: create, get, start, stop, delete. A job is a task of the engine; what of it the engine doesn't model is in annotations.
//!
//! Searches are in [`job_search`](super::job_search), what is done with single devices of a job in [`job_tasks`](super::job_tasks).

use super::firmware_metadata::SIGN_METHOD_KEY;
use super::job_decode::{JobWanted, JobWritten};
use super::job_encode::JobShown;
use super::status::{Code, Failure};
use super::{Answer, Answered, Call};
use serde::Serialize;
use sluicegate::model::{Firmware, FirmwareId, Product, Scope, TaskKind, TaskStatus};
use sluicegate::{ActionRules, Conflict, Error, NewTask, State, TaskAction, TaskInfo, TaskTarget, VERIFY_DEVICES_MAX};
use std::sync::Arc;

/// To start what is started is an error on this platform.
pub(super) const STRICT: ActionRules = ActionRules { strict: true };

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct JobCreated {
    job_id: String,
}

pub(super) async fn create(call: &Call) -> Answered {
    let firmware_id = call.parameters.required("firmwareId")?;
    let job = call.json::<JobWritten>()?.read(call.app.engine.limits().name_chars_max)?;
    let (firmware, product) = find_firmware(call, firmware_id).await?;
    let new = new_task(call, job, &firmware, &product)?;
    let created = call.app.engine.create_task(new, false, call.now).await;
    let task = created.map_err(|error| match error {
        Error::Conflict { conflict: Conflict::VerifyDevices, .. } => {
            let max = firmware.verification.map_or(VERIFY_DEVICES_MAX, |verification| verification.devices_max);
            Failure::too_many_device_keys(max)
        }
        error => error.into(),
    })?;
    Answer::data(&JobCreated { job_id: task.id.to_string() })
}

async fn find_firmware(call: &Call, id: &str) -> Result<(Arc<Firmware>, Arc<Product>), Failure> {
    let id: FirmwareId = id.parse().map_err(|_| Failure::firmware_not_found())?;
    let read = |state: &State| {
        let firmware = state.firmware(&call.organization, id)?;
        let product = Arc::clone(state.product_by_number(firmware.product)?);
        Some((firmware, product))
    };
    let found = call.app.engine.read(read).await?.filter(|(_, product)| call.opens(&product.id));
    found.ok_or_else(Failure::firmware_not_found)
}

fn new_task(call: &Call, job: JobWanted, firmware: &Firmware, product: &Product) -> Result<NewTask, Failure> {
    let mut from_versions = job.scope.from_versions;
    // Devices that run the target already have nothing to do; to name their version is no mistake.
    from_versions.retain(|version| **version != *firmware.version);
    if from_versions.is_empty() {
        let version = &firmware.version;
        return Err(Failure::invalid(format!(
            "upgradeScope.versionNumbers names only {version:?}, which is what the firmware upgrades to; name the versions to upgrade from"
        )));
    }
    let mut annotations = job.annotations;
    // A device is told the digest that the firmware was created with.
    annotations.extend(firmware.annotations.get_key_value(SIGN_METHOD_KEY).map(|(key, method)| (key.clone(), method.clone())));
    let name = job.name.map_or_else(|| generated_name(job.kind, firmware), |name| name.default);
    Ok(NewTask {
        name: Some(name),
        kind: job.kind,
        scope: Scope { selector: job.scope.selector, snapshot: job.snapshot },
        policy: job.policy,
        start: call.app.config.enos.jobs_start,
        annotations,
        ..NewTask::new(call.organization.to_string(), product.id.to_string(), from_versions, TaskTarget::Firmware(firmware.id))
    })
}

/// The platform lets a name be left out, and shows one all the same.
fn generated_name(kind: TaskKind, firmware: &Firmware) -> String {
    match kind {
        TaskKind::Upgrade => format!("upgrade to {}", firmware.version),
        TaskKind::Verify => format!("verify {}", firmware.version),
    }
}

/// A job with the firmware that it leads to, where it was made from firmware.
pub(super) type FoundJob = (TaskInfo, Option<Arc<Firmware>>);

/// The job that `jobId` of the query names. What isn't the caller's isn't there.
pub(super) async fn find(call: &Call) -> Result<FoundJob, Failure> {
    let id = call.parameters.required("jobId")?.parse().map_err(|_| Failure::job_not_found())?;
    let read = |state: &State| state.task(&call.organization, id).map(|task| with_firmware(state, task));
    let found = call.app.engine.read(read).await?.filter(|(task, _)| call.opens(&task.product.id));
    found.ok_or_else(Failure::job_not_found)
}

pub(super) fn with_firmware(state: &State, task: TaskInfo) -> FoundJob {
    let firmware = task.row.firmware.and_then(|number| state.firmware_by_number(number));
    (task, firmware)
}

pub(super) async fn get(call: &Call) -> Answered {
    let (task, firmware) = find(call).await?;
    Answer::data(&JobShown::new(&task, firmware.as_deref(), call.app.engine.limits().default_timeout_s))
}

pub(super) async fn start(call: &Call) -> Answered {
    let (task, _) = find(call).await?;
    // A pause isn't known here: to an operator of this platform such a job stands still, and to start it is how to set it going.
    let action = if task.row.status == TaskStatus::Paused { TaskAction::Resume } else { TaskAction::Start };
    call.app.engine.act_on_task(&call.organization, task.row.id, action, STRICT, call.now).await?;
    Ok(Answer::done())
}

pub(super) async fn stop(call: &Call) -> Answered {
    let (task, _) = find(call).await?;
    call.app.engine.act_on_task(&call.organization, task.row.id, TaskAction::Stop, STRICT, call.now).await?;
    Ok(Answer::done())
}

pub(super) async fn delete(call: &Call) -> Answered {
    let (task, _) = find(call).await?;
    let deleted = call.app.engine.delete_task(&call.organization, task.row.id, STRICT, call.now).await;
    deleted.map_err(|error| match error {
        Error::Conflict { conflict: Conflict::TaskStarted, .. } => {
            Failure::new(Code::JobRunning, "Not allowed to delete running job; stop it first")
        }
        error => error.into(),
    })?;
    Ok(Answer::done())
}
