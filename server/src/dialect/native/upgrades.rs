//! Upgrades: how each device of a task stands, and an operator's hand in it.

use super::encode::UpgradeShown;
use super::failure::{Failure, shortened};
use super::page::{Kind, Wanted, page};
use super::{Answer, access, body_of, tasks};
use crate::app::App;
use crate::http::{Query, Request, json_bytes};
use ::http::StatusCode;
use bytes::Bytes;
use sluicegate::model::{DeviceNumber, TaskId, Timestamp, Upgrade, UpgradeState};
use sluicegate::store::UpgradeQuery;
use sluicegate::{DeviceInfo, Error, Pending, State};
use std::sync::Arc;

pub(super) async fn list(app: &Arc<App>, request: Request, id: &str) -> Answer {
    let caller = access::onlooker(app, request.headers(), app.now())?;
    let query = Query::parse(request.uri().query())?;
    let organization = access::organization(app, &caller, &query)?;
    let wanted = Wanted::read(&query)?;
    let after = wanted.after_number(Kind::Upgrades)?.map(DeviceNumber);
    let states = states(query.get("state"))?;
    let (task, _) = tasks::find(app, &caller, &organization, tasks::parse_id(id)?).await?;
    let stored = UpgradeQuery { task: Some(task.row.number), device: None, states, after, limit: wanted.fetch() };
    let engine = app.engine.clone();
    let read = tokio::task::spawn_blocking(move || engine.upgrades(&stored));
    let upgrades: Vec<Upgrade> = read.await.map_err(|_| Error::Closed)??;
    let devices = |state: &State| -> Vec<Option<DeviceInfo>> {
        upgrades.iter().map(|upgrade| state.device_by_number(upgrade.device)).collect()
    };
    let devices = app.engine.read(devices).await?;
    // A device that was deleted since took its upgrades with it.
    let rows: Vec<(&Upgrade, DeviceInfo)> =
        upgrades.iter().zip(devices).filter_map(|(upgrade, device)| Some((upgrade, device?))).collect();
    page(
        &wanted,
        &rows,
        |(upgrade, device)| UpgradeShown::new(upgrade, &device.row.id),
        |(upgrade, _)| Kind::Upgrades.at_number(upgrade.device.0),
    )
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

pub(super) async fn cancel(app: &App, request: Request, id: &str, device_id: &str) -> Answer {
    act(app, request, id, |organization, task, now| app.engine.cancel_upgrade(organization, task, device_id, now)).await
}

pub(super) async fn retry(app: &App, request: Request, id: &str, device_id: &str) -> Answer {
    act(app, request, id, |organization, task, now| app.engine.retry_upgrade(organization, task, device_id, now)).await
}

async fn act(app: &App, request: Request, id: &str, act: impl FnOnce(&str, TaskId, Timestamp) -> Pending<()>) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    body_of(app, request).await?;
    let (task, _) = tasks::find(app, &caller, &organization, tasks::parse_id(id)?).await?;
    act(&organization, task.row.id, now).await?;
    Ok(json_bytes(StatusCode::OK, Bytes::from_static(b"{}")))
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
}
