//! The tasks of a job, one for each of its devices: how they are shown, canceled and retried. What this platform calls a task is an upgrade
//! of the engine's; before a device was offered anything there is no row of it, and the task is shown all the same.
//!
//! | engine | task |
//! |---|---|
//! | no row yet, waiting (also for a retry), awaiting a person's yes | `init` |
//! | offered | `published` |
//! | downloading to installing, paused | `upgrading` |
//! | succeeded | `succeeded` |
//! | failed, rejected, timed out, canceled | `failed` |

use super::job_scope::{Text, without_repeats};
use super::jobs::{self, STRICT};
use super::status::{Code, Failure};
use super::{Answer, Answered, Call};
use crate::dialect::common::result_sets::Found;
use serde::{Deserialize, Serialize};
use sluicegate::model::{Component, Device, DeviceNumber, Product, Task, TaskNumber, Upgrade, UpgradeState};
use sluicegate::store::UpgradeQuery;
use sluicegate::{Conflict, Engine, Error, Run, State, UpgradeAction, UpgradesAction};
use std::sync::Arc;

/// All of them are changed or none, in one command; more would keep the writer from everybody else.
const DEVICE_KEYS_MAX: usize = 10_000;

pub(super) const STATUSES: [&str; 5] = ["init", "published", "upgrading", "succeeded", "failed"];

pub(super) const fn status_of(state: UpgradeState) -> &'static str {
    match state {
        UpgradeState::Waiting | UpgradeState::AwaitingConfirmation => "init",
        UpgradeState::Offered => "published",
        UpgradeState::Downloading | UpgradeState::Downloaded | UpgradeState::Installing | UpgradeState::Paused => "upgrading",
        UpgradeState::Succeeded => "succeeded",
        UpgradeState::Failed | UpgradeState::Rejected | UpgradeState::TimedOut | UpgradeState::Canceled => "failed",
    }
}

/// Percent, or on a failure the step at which it failed, below zero.
pub(super) fn progress_of(upgrade: &Upgrade) -> i32 {
    // The platform's numbers: something went wrong; the device would not have it.
    const UNKNOWN: i32 = -1;
    const IGNORED: i32 = -5;
    let step = upgrade.failure.and_then(|failure| failure.code).filter(|code| *code < 0);
    match upgrade.state {
        UpgradeState::Succeeded => 100,
        UpgradeState::Failed | UpgradeState::TimedOut => step.unwrap_or(UNKNOWN),
        UpgradeState::Rejected => step.unwrap_or(IGNORED),
        // What an attempt before had reached says nothing of the next.
        UpgradeState::Waiting | UpgradeState::AwaitingConfirmation | UpgradeState::Offered => 0,
        _ => i32::from(upgrade.percent),
    }
}

/// What was said last of why it stands where it stands; a failure that nobody explained is at least named.
pub(super) fn desc_of(upgrade: &Upgrade) -> &str {
    match (upgrade.detail.as_deref(), upgrade.state) {
        (Some(detail), _) if !detail.is_empty() => detail,
        (_, UpgradeState::Canceled) => "canceled",
        (_, UpgradeState::TimedOut) => "timed out",
        (_, UpgradeState::Rejected) => "rejected",
        _ => "",
    }
}

/// `TaskInfo`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TaskShown<'a> {
    task_id: String,
    org_id: &'a str,
    asset_id: &'a str,
    product_key: &'a str,
    device_key: &'a str,
    job_id: String,
    from_version: &'a str,
    to_version: &'a str,
    progress: i32,
    desc: &'a str,
    status: &'static str,
    update_time: u64,
}

impl<'a> TaskShown<'a> {
    pub(super) fn new(row: &'a TaskRow) -> Self {
        let TaskRow { task, product, device, upgrade } = row;
        let upgrade = upgrade.as_deref();
        Self {
            // The same through all attempts, and there before the first.
            task_id: format!("{:08x}{:08x}{:08x}", task.id.created_s, task.number.0, device.number.0),
            org_id: &product.organization,
            asset_id: &device.id,
            product_key: &product.id,
            device_key: &device.id,
            job_id: task.id.to_string(),
            from_version: match upgrade {
                Some(upgrade) => &upgrade.from_version,
                None => device.version(task.component).map(|version| &**version).unwrap_or_default(),
            },
            to_version: &task.target_version,
            progress: upgrade.map_or(0, progress_of),
            desc: upgrade.map(desc_of).unwrap_or_default(),
            status: status_of(upgrade.map_or(UpgradeState::Waiting, |upgrade| upgrade.state)),
            update_time: upgrade.map_or(task.created_at, |upgrade| upgrade.updated_at).as_millis(),
        }
    }
}

/// A task of a job with all that is shown of it.
#[derive(Debug)]
pub(super) struct TaskRow {
    task: Arc<Task>,
    product: Arc<Product>,
    device: Arc<Device>,
    /// Absent before the first offer.
    upgrade: Option<Arc<Upgrade>>,
}

/// The rows of a page as they are now; what is gone is left out.
pub(super) async fn rows(call: &Call, page: &[Found]) -> Result<Vec<TaskRow>, Failure> {
    let read = |state: &State| -> Vec<(TaskRow, Run)> {
        let row = |found: &Found| {
            let (number, device) = (TaskNumber(found.group), DeviceNumber(found.number));
            let task = state.task_by_number(number).filter(|task| task.product.organization == call.organization)?;
            let run = state.run(number, device)?;
            let upgrade = if let Run::Live(row) = &run { Some(Arc::clone(row)) } else { None };
            let device = state.device_by_number(device)?.row;
            Some((TaskRow { task: task.row, product: task.product, device, upgrade }, run))
        };
        page.iter().filter_map(row).collect()
    };
    let found = call.app.engine.read(read).await?;
    if !found.iter().any(|(_, run)| matches!(run, Run::Finished(_))) {
        return Ok(found.into_iter().map(|(row, _)| row).collect());
    }
    let engine = call.app.engine.clone();
    let reading = tokio::task::spawn_blocking(move || with_finished(&engine, found));
    Ok(reading.await.map_err(|_| Error::Closed)??)
}

/// Finished upgrades are not in memory. Blocks on the disk.
fn with_finished(engine: &Engine, found: Vec<(TaskRow, Run)>) -> Result<Vec<TaskRow>, Error> {
    let mut rows = Vec::with_capacity(found.len());
    for (mut row, run) in found {
        if let Run::Finished(_) = run {
            let Some(upgrade) = stored(engine, row.task.number, row.device.number)? else { continue };
            row.upgrade = Some(Arc::new(upgrade));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The stored upgrade of a device. Blocks on the disk.
pub(super) fn stored(engine: &Engine, task: TaskNumber, device: DeviceNumber) -> Result<Option<Upgrade>, Error> {
    let query = UpgradeQuery { task: Some(task), device: Some(device), limit: 1, ..UpgradeQuery::default() };
    Ok(engine.upgrades(&query)?.pop())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DevicesWritten {
    device_keys: Option<Vec<Text>>,
}

pub(super) async fn cancel(call: &Call) -> Answered {
    act(call, UpgradeAction::Cancel).await
}

pub(super) async fn retry(call: &Call) -> Answered {
    act(call, UpgradeAction::Retry).await
}

async fn act(call: &Call, action: UpgradeAction) -> Answered {
    let written: DevicesWritten = call.json()?;
    let keys = written.device_keys.unwrap_or_default();
    let device_ids: Vec<Box<str>> = without_repeats(keys.iter().map(|key| key.0.as_str())).into_iter().map(Into::into).collect();
    if device_ids.is_empty() {
        return Err(Failure::invalid("deviceKeys is required, and is missing or empty; name devices of the job"));
    }
    if device_ids.len() > DEVICE_KEYS_MAX {
        let count = device_ids.len();
        return Err(Failure::invalid(format!(
            "deviceKeys names {count} devices; give {DEVICE_KEYS_MAX} at most, in several calls"
        )));
    }
    let (task, _) = jobs::find(call).await?;
    let action =
        UpgradesAction { organization: Arc::clone(&call.organization), task: task.row.id, device_ids, action, rules: STRICT };
    let acted = call.app.engine.act_on_upgrades(action, call.now).await;
    acted.map_err(|error| match error {
        Error::Conflict { conflict: Conflict::TaskStopped, .. } => {
            Failure::new(Code::JobNotRunning, "Job not running; start it first")
        }
        error => error.into(),
    })?;
    Ok(Answer::done())
}

/// The component that devices of this platform have.
pub(super) const COMPONENT: Component = Component::MAIN;

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate::model::{Failure as UpgradeFailure, FailureKind, Timestamp};

    fn upgrade(state: UpgradeState, code: Option<i32>) -> Upgrade {
        let failure = code.map(|code| UpgradeFailure { kind: FailureKind::Failed, code: Some(code) });
        let waiting = Upgrade::waiting(TaskNumber(1), DeviceNumber(2), "1.0".into(), Timestamp(0));
        Upgrade { state, attempts: 1, percent: 35, offer: 1, failure, ..waiting }
    }

    #[test]
    fn every_state_has_a_status_and_a_progress() {
        for (state, status, progress) in [
            (UpgradeState::Waiting, "init", 0),
            (UpgradeState::AwaitingConfirmation, "init", 0),
            (UpgradeState::Offered, "published", 0),
            (UpgradeState::Downloading, "upgrading", 35),
            (UpgradeState::Downloaded, "upgrading", 35),
            (UpgradeState::Installing, "upgrading", 35),
            (UpgradeState::Paused, "upgrading", 35),
            (UpgradeState::Succeeded, "succeeded", 100),
            (UpgradeState::Failed, "failed", -1),
            (UpgradeState::Rejected, "failed", -5),
            (UpgradeState::TimedOut, "failed", -1),
            (UpgradeState::Canceled, "failed", 35),
        ] {
            assert_eq!((status_of(state), progress_of(&upgrade(state, None))), (status, progress), "{state:?}");
            assert!(STATUSES.contains(&status));
        }
    }

    #[test]
    fn a_failure_shows_the_step_that_the_device_named() {
        assert_eq!(progress_of(&upgrade(UpgradeState::Failed, Some(-3))), -3);
        assert_eq!(progress_of(&upgrade(UpgradeState::Failed, Some(7))), -1, "a step is below zero");
        assert_eq!(desc_of(&upgrade(UpgradeState::Canceled, None)), "canceled");
        let told = Upgrade { detail: Some("flash is worn".into()), ..upgrade(UpgradeState::Failed, Some(-4)) };
        assert_eq!(desc_of(&told), "flash is worn");
    }
}
