//! Upgrade tasks: create one, list them, show one, cancel one (ours).

use super::access::{Call, Right};
use super::decode::{self, TaskWanted};
use super::encode::{self, OperationShown, file_type_of};
use super::page::{self, Page};
use super::plan::{Plan, plan};
use super::standing::{Standing, Status};
use super::status::Failure;
use super::{Answer, body_of};
use crate::app::App;
use crate::http::{Query, Request, json};
use ::http::StatusCode;
use serde::Serialize;
use sluicegate::model::{DeviceNumber, FileType, Firmware, Policy, Retry, Schedule, Scope, TaskId, TaskNumber};
use sluicegate::{ActionRules, NewTask, State, TaskAction, TaskInfo, TaskTarget};
use std::sync::Arc;

const ROWS_PER_READ: usize = 16;

pub(super) async fn create(app: &App, request: Request, file_type: FileType) -> Answer {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown {
        operation_id: String,
    }
    let call = Call::begin(app, request.headers(), Right::Change)?;
    let wanted = decode::task(&body_of(app, request).await?, call.now)?;
    let plan = app.engine.read(|state| plan(state, &call, &wanted, file_type)).await??;
    let task = app.engine.create_task(new_task(&call, &wanted, plan), false, call.now).await?;
    Ok(json(StatusCode::OK, &Shown { operation_id: task.id.to_string() }))
}

fn new_task(call: &Call<'_>, wanted: &TaskWanted, plan: Plan) -> NewTask {
    let retry =
        wanted.retry_times.map(|count| Retry { count, interval_s: call.app.config.huawei.retry_interval_s, ..Retry::default() });
    let schedule = Schedule {
        start: wanted.window.map(|window| window.start),
        end: wanted.window.map(|window| window.end),
        ..Schedule::default()
    };
    let target = TaskTarget::Firmware(plan.firmware.id);
    NewTask {
        component: plan.firmware.component,
        scope: Scope { selector: plan.selector, snapshot: true },
        // A device that is back with the package's version has succeeded, whether or not its last report came through.
        policy: Policy {
            maximum_concurrency: wanted.maximum_concurrency,
            retry,
            schedule,
            version_decides: true,
            ..Policy::default()
        },
        start: true,
        annotations: encode::annotations(wanted),
        ..NewTask::new(call.organization.to_string(), plan.product.id.to_string(), plan.from_versions, target)
    }
}

/// An operation with the package that it leads to, where there is one.
pub(super) type Found = (TaskInfo, Option<Arc<Firmware>>);

/// The operation of this id, if the caller may see it.
pub(super) fn find(state: &State, call: &Call<'_>, id: &str) -> Result<Found, Failure> {
    let parsed: Option<TaskId> = id.parse().ok();
    let task = parsed.and_then(|id| state.task(&call.organization, id)).filter(|task| call.opens(&task.product.id));
    task.map(|task| with_package(state, task)).ok_or_else(|| Failure::operation_not_found(id))
}

fn with_package(state: &State, task: TaskInfo) -> Found {
    let firmware = task.row.firmware.and_then(|number| state.firmware_by_number(number));
    (task, firmware)
}

fn shown(state: &State, call: &Call<'_>, (task, firmware): &Found) -> OperationShown {
    let standing = Standing::of(state, &task.row, call.now);
    let first_offered_at = state.task_outlook(task.row.number, call.now).and_then(|outlook| outlook.first_offered_at);
    OperationShown::new(task, firmware.as_deref(), &standing, first_offered_at)
}

pub(super) async fn get(app: &App, request: Request, id: &str) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Look)?;
    let read = |state: &State| find(state, &call, id).map(|found| shown(state, &call, &found));
    Ok(json(StatusCode::OK, &app.engine.read(read).await??))
}

/// Takes back everything that isn't over, what runs too. Again: the same.
pub(super) async fn cancel(app: &App, request: Request, id: &str) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Change)?;
    let (task, _) = app.engine.read(|state| find(state, &call, id)).await??;
    app.engine.act_on_task(&call.organization, task.row.id, TaskAction::Cancel, ActionRules::default(), call.now).await?;
    let read = |state: &State| find(state, &call, id).map(|found| shown(state, &call, &found));
    Ok(json(StatusCode::OK, &app.engine.read(read).await??))
}

/// What a list is asked for.
#[derive(Debug)]
struct Filter<'q> {
    operate_type: Option<FileType>,
    status: Option<Status>,
    device_type: Option<&'q str>,
    model: Option<&'q str>,
    manufacturer: Option<&'q str>,
    device_id: Option<&'q str>,
}

impl<'q> Filter<'q> {
    fn read(query: &'q Query<'_>) -> Result<Self, Failure> {
        let types =
            [FileType::SoftwarePackage, FileType::FirmwarePackage].map(|file_type| (encode::operate_type(file_type), file_type));
        Ok(Self {
            operate_type: page::choice(query, "operationType", &types)?,
            status: page::choice(query, "operationStatus", &Status::NAMES)?,
            device_type: page::text(query, "deviceType")?,
            model: page::text(query, "model")?,
            manufacturer: page::text(query, "manufacturerName")?,
            device_id: page::text(query, "deviceId")?,
        })
    }

    /// `devices`: those that have the device id asked for.
    fn matches(&self, state: &State, call: &Call<'_>, (task, firmware): &Found, devices: Option<&[DeviceNumber]>) -> bool {
        let said = |wanted: Option<&str>, word: fn(&Firmware) -> Option<&Arc<str>>| {
            wanted.is_none_or(|wanted| firmware.as_deref().and_then(word).is_some_and(|word| **word == *wanted))
        };
        let number = task.row.number;
        let names = |device: &DeviceNumber| {
            state.run(number, *device).is_some() || state.members_of(number).is_some_and(|members| members.contains(device.0))
        };
        call.opens(&task.product.id)
            && self.operate_type.is_none_or(|wanted| wanted == file_type_of(firmware.as_deref()))
            && said(self.device_type, |firmware| firmware.device_type.as_ref())
            && said(self.model, |firmware| firmware.model.as_ref())
            && said(self.manufacturer, |firmware| firmware.manufacturer.as_ref())
            && devices.is_none_or(|devices| devices.iter().any(names))
            // What costs most comes last.
            && self.status.is_none_or(|wanted| Standing::of(state, &task.row, call.now).status() == wanted)
    }
}

/// Newest first.
pub(super) async fn list(app: &App, request: Request) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Look)?;
    let query = Query::parse(request.uri().query())?;
    let (page, filter) = (Page::read(&query)?, Filter::read(&query)?);
    let mut rows = Vec::new();
    let mut count = 0;
    let mut before: Option<TaskNumber> = None;
    loop {
        let read = |state: &State| {
            let tasks = match call.own_product() {
                None => state.tasks(&call.organization, None, before, ROWS_PER_READ),
                Some(product_id) => match state.product(&call.organization, product_id) {
                    Some(product) => state.tasks(&call.organization, Some(product.number), before, ROWS_PER_READ),
                    None => Vec::new(),
                },
            };
            let last = (tasks.len() == ROWS_PER_READ).then(|| tasks.last().map(|task| task.row.number)).flatten();
            let devices: Option<Vec<DeviceNumber>> = filter.device_id.map(|device_id| {
                let numbers = state.device_sets(&call.organization).with_id(device_id);
                numbers.iter().map(DeviceNumber).collect()
            });
            let found = tasks.into_iter().map(|task| with_package(state, task));
            let mut place = count;
            let mut part = Vec::new();
            for found in found.filter(|found| filter.matches(state, &call, found, devices.as_deref())) {
                if page.holds(place) {
                    part.push(shown(state, &call, &found));
                }
                place += 1;
            }
            (part, place, last)
        };
        let (part, place, last) = app.engine.read(read).await?;
        rows.extend(part);
        count = place;
        match last {
            Some(last) => before = Some(last),
            None => return Ok(json(StatusCode::OK, &page.of(rows, count))),
        }
    }
}
