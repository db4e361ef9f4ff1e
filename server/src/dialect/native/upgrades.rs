//! Upgrades: how each device of a task stands, and an operator's hand in it.
//!
//! A device has a stored row from its first offer on. One that the task is for and that was never offered it has none: its row is
//! implied, and says why it waits.

use super::encode::UpgradeShown;
use super::failure::{Failure, shortened};
use super::page::{Kind, Wanted, page_without_gaps};
use super::{Answer, access, body_of, tasks};
use crate::app::App;
use crate::auth::Caller;
use crate::http::{Query, Request, json_bytes};
use ::http::StatusCode;
use bytes::Bytes;
use sluicegate::model::{DeviceNumber, Task, TaskNumber, Timestamp, Upgrade, UpgradeState};
use sluicegate::store::UpgradeQuery;
use sluicegate::{ActionRules, DeviceInfo, Error, Run, State, TaskInfo, UpgradeAction, UpgradesAction};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// How a device stands with the task.
#[derive(Debug)]
struct Row {
    device: DeviceNumber,
    /// Absent where the row is implied.
    stored: Option<Upgrade>,
}

pub(super) async fn list(app: &Arc<App>, request: Request, id: &str) -> Answer {
    let now = app.now();
    let caller = access::onlooker(app, request.headers(), now)?;
    let query = Query::parse(request.uri().query())?;
    let organization = access::organization(app, &caller, &query)?;
    let wanted = Wanted::read(&query)?;
    let after = wanted.after_number(Kind::Upgrades)?.map(DeviceNumber);
    let states = states(query.get("state"))?;
    let (task, _) = tasks::find(app, &caller, &organization, tasks::parse_id(id)?).await?;
    // The implied ones first: a device that begins between the two reads is then met twice, and its stored row counts. The other way
    // round it would be met in neither.
    let waits_wanted = states.is_empty() || states.contains(&UpgradeState::Waiting);
    let implied = if waits_wanted { never_offered(app, &task, after, wanted.fetch()).await? } else { Vec::new() };
    let stored = UpgradeQuery { task: Some(task.row.number), device: None, states, after, limit: wanted.fetch() };
    let engine = app.engine.clone();
    let read = tokio::task::spawn_blocking(move || engine.upgrades(&stored));
    let stored: Vec<Upgrade> = read.await.map_err(|_| Error::Closed)??;
    let rows = in_order(implied, stored, wanted.fetch());
    let devices = devices(app, &rows).await?;
    let reasons = reasons(app, task.row.number, &rows, &devices, now).await?;
    page_without_gaps(
        &wanted,
        &rows,
        // A device that was deleted since took its upgrades with it.
        |row| devices.get(&row.device).map(|device| shown(row, device, &task.row, reasons.get(&row.device))),
        |row| Kind::Upgrades.at_number(row.device.0),
    )
}

/// Both kinds by the number of the device, each device once.
fn in_order(implied: Vec<DeviceNumber>, stored: Vec<Upgrade>, limit: usize) -> Vec<Row> {
    let mut rows: BTreeMap<DeviceNumber, Option<Upgrade>> = implied.into_iter().map(|device| (device, None)).collect();
    rows.extend(stored.into_iter().map(|upgrade| (upgrade.device, Some(upgrade))));
    rows.into_iter().take(limit).map(|(device, stored)| Row { device, stored }).collect()
}

/// The devices after `after` that the task is for and that were never offered it.
async fn never_offered(app: &App, task: &TaskInfo, after: Option<DeviceNumber>, limit: usize) -> Result<Vec<DeviceNumber>, Error> {
    // Nobody waits for a canceled task.
    if task.row.canceled {
        return Ok(Vec::new());
    }
    let Some(from) = after.map_or(Some(0), |after| after.0.checked_add(1)) else { return Ok(Vec::new()) };
    let task = task.row.number;
    let read = |state: &State| {
        let waiting = state.runs(task, &[UpgradeState::Waiting]);
        let is_implied = |device: &DeviceNumber| matches!(state.run(task, *device), Some(Run::ToCome));
        waiting.range(from..).map(DeviceNumber).filter(is_implied).take(limit).collect()
    };
    app.engine.read(read).await
}

async fn devices(app: &App, rows: &[Row]) -> Result<HashMap<DeviceNumber, DeviceInfo>, Error> {
    let read = |state: &State| {
        let found = |row: &Row| Some((row.device, state.device_by_number(row.device)?));
        rows.iter().filter_map(found).collect()
    };
    app.engine.read(read).await
}

/// How many devices are explained under one lock: whoever looks through a large task must not hold up those who change it.
const EXPLAINED_AT_ONCE: usize = 16;

/// Why those wait that say nothing themselves.
async fn reasons(
    app: &App,
    task: TaskNumber,
    rows: &[Row],
    devices: &HashMap<DeviceNumber, DeviceInfo>,
    now: Timestamp,
) -> Result<HashMap<DeviceNumber, String>, Error> {
    let is_silent = |row: &&Row| match &row.stored {
        None => true,
        Some(upgrade) => {
            upgrade.detail.is_none() && matches!(upgrade.state, UpgradeState::Waiting | UpgradeState::AwaitingConfirmation)
        }
    };
    let silent: Vec<&DeviceInfo> = rows.iter().filter(is_silent).filter_map(|row| devices.get(&row.device)).collect();
    let mut reasons = HashMap::with_capacity(silent.len());
    for some in silent.chunks(EXPLAINED_AT_ONCE) {
        let read = |state: &State| -> Vec<(DeviceNumber, String)> {
            let explain = |device: &&DeviceInfo| {
                let explanation = state.explain_task(task, &device.row, now)?;
                Some((device.row.number, explanation.to_string()))
            };
            some.iter().filter_map(explain).collect()
        };
        reasons.extend(app.engine.read(read).await?);
    }
    Ok(reasons)
}

fn shown<'a>(row: &'a Row, device: &'a DeviceInfo, task: &'a Task, reason: Option<&'a String>) -> UpgradeShown<'a> {
    let reason = reason.map(String::as_str);
    match &row.stored {
        Some(upgrade) => UpgradeShown::new(upgrade, &device.row.id, reason),
        None => UpgradeShown::implied(&device.row, task, reason),
    }
}

/// One state, or several with commas between; none means all.
fn states(text: Option<&str>) -> Result<Vec<UpgradeState>, Failure> {
    let names = text.unwrap_or_default().split(',').filter(|name| !name.is_empty());
    let state = |name: &str| {
        UpgradeState::from_name(name).ok_or_else(|| {
            let known = UpgradeState::ALL.map(UpgradeState::name).join(", ");
            Failure::invalid(format!("state is {:?}; give one of {known}", shortened(name, 80)))
        })
    };
    names.take(UpgradeState::ALL.len()).map(state).collect()
}

pub(super) async fn act(app: &App, request: Request, id: &str, device_id: &str, action: UpgradeAction) -> Answer {
    let now = app.now();
    let may_be_device = matches!(action, UpgradeAction::Confirm | UpgradeAction::Decline);
    let caller = match may_be_device {
        true => access::operator_or_device(app, &request, now)?,
        false => access::operator(app, request.headers(), now)?,
    };
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    body_of(app, request).await?;
    let task = own_task(app, &caller, &organization, id, device_id).await?;
    let device_ids = vec![device_id.into()];
    let rules = ActionRules::default();
    let action = UpgradesAction { organization: organization.as_ref().into(), task: task.row.id, device_ids, action, rules };
    app.engine.act_on_upgrades(action, now).await?;
    Ok(json_bytes(StatusCode::OK, Bytes::from_static(b"{}")))
}

async fn own_task(app: &App, caller: &Caller, organization: &str, id: &str, device_id: &str) -> Result<TaskInfo, Failure> {
    let (task, _) = tasks::find(app, caller, organization, tasks::parse_id(id)?).await?;
    access::may_open_device(caller, &task.product.id, device_id)?;
    Ok(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_named_one_by_one_or_with_commas() {
        assert_eq!(states(None), Ok(vec![]));
        assert_eq!(states(Some("")), Ok(vec![]));
        assert_eq!(states(Some("failed,timed_out")), Ok(vec![UpgradeState::Failed, UpgradeState::TimedOut]));
        assert!(states(Some("failed,flying")).unwrap_err().message.contains("\"flying\""));
    }

    #[test]
    fn a_device_that_began_between_the_reads_is_listed_once_as_it_is_stored() {
        let stored = |device| Upgrade {
            state: UpgradeState::Offered,
            ..Upgrade::waiting(TaskNumber(1), DeviceNumber(device), "1".into(), Timestamp(0))
        };
        let rows = in_order([1, 3, 4, 6].map(DeviceNumber).to_vec(), vec![stored(2), stored(3), stored(5)], 5);
        let listed: Vec<(u32, bool)> = rows.iter().map(|row| (row.device.0, row.stored.is_some())).collect();
        assert_eq!(listed, [(1, false), (2, true), (3, true), (4, false), (5, true)]);
    }
}
