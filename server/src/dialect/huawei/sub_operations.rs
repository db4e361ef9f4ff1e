//! The devices of an operation, each with how far it has come. In the order in which they were registered.

use super::Answer;
use super::access::{Call, Right};
use super::encode::{SubOperationShown, file_type_of};
use super::operations::find;
use super::page::{self, Page};
use super::standing::{Standing, SubStatus};
use super::status::Failure;
use crate::app::App;
use crate::http::{Query, Request, json};
use ::http::StatusCode;
use sluicegate::model::{Device, DeviceNumber, FileType, Task, TaskNumber, Upgrade};
use sluicegate::store::UpgradeQuery;
use sluicegate::{Engine, Error, Run, State};
use std::sync::Arc;

/// A page as it was read from memory.
struct Found {
    task: Arc<Task>,
    file_type: FileType,
    rows: Vec<Row>,
    count: u64,
}

struct Row {
    device: Arc<Device>,
    status: SubStatus,
    /// As far as it is in memory.
    run: Option<Run>,
}

pub(super) async fn list(app: &App, request: Request, id: &str) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Look)?;
    let query = Query::parse(request.uri().query())?;
    let page = Page::read(&query)?;
    let status = page::choice(&query, "subOperationStatus", &SubStatus::NAMES)?;
    let read = |state: &State| -> Result<Found, Failure> {
        let (task, firmware) = find(state, &call, id)?;
        let standing = Standing::of(state, &task.row, call.now);
        let showing = standing.showing(status);
        // The page is at most 100 rows long, so its size fits.
        let devices = state.devices_in(&showing, page.offset(), page.size as usize).into_iter();
        let rows = devices.map(|device| Row {
            status: standing.sub_status(device.row.number),
            run: state.run(task.row.number, device.row.number),
            device: device.row,
        });
        Ok(Found { rows: rows.collect(), file_type: file_type_of(firmware.as_deref()), count: showing.len(), task: task.row })
    };
    let found = app.engine.read(read).await??;
    let engine = app.engine.clone();
    let has_finished = found.rows.iter().any(|row| matches!(row.run, Some(Run::Finished(_))));
    let (rows, count) = if has_finished {
        tokio::task::spawn_blocking(move || shown(Some(&engine), found)).await.map_err(|_| Error::Closed)??
    } else {
        shown(None, found)?
    };
    Ok(json(StatusCode::OK, &page.of(rows, count)))
}

/// `engine`: for the finished upgrades, which are not in memory. Then this blocks on the disk.
fn shown(engine: Option<&Engine>, found: Found) -> Result<(Vec<SubOperationShown>, u64), Error> {
    let Found { task, file_type, rows, count } = found;
    let mut data = Vec::with_capacity(rows.len());
    for Row { device, status, run } in rows {
        let upgrade = match (run, engine) {
            (Some(Run::Live(upgrade)), _) => Some(upgrade),
            (Some(Run::Finished(_)), Some(engine)) => stored(engine, task.number, device.number)?.map(Arc::new),
            _ => None,
        };
        data.push(SubOperationShown::new(&task, file_type, &device, status, upgrade.as_deref()));
    }
    Ok((data, count))
}

fn stored(engine: &Engine, task: TaskNumber, device: DeviceNumber) -> Result<Option<Upgrade>, Error> {
    let query = UpgradeQuery { task: Some(task), device: Some(device), limit: 1, ..UpgradeQuery::default() };
    Ok(engine.upgrades(&query)?.pop())
}
