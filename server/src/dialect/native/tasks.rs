//! Tasks: which devices go from where to where, how fast, and when.

use super::decode;
use super::failure::Failure;
use super::page::{Kind, Wanted, page};
use super::task_json::{TaskBody, TaskShown};
use super::{Answer, access, body_of};
use crate::app::App;
use crate::auth::Caller;
use crate::http::{Query, Reply, Request, empty, json};
use ::http::StatusCode;
use sluicegate::model::{FirmwareId, TaskId, TaskNumber, Timestamp};
use sluicegate::{ActionRules, Entity, Error, State, TaskAction, TaskInfo, TaskOutlook};

/// A task, and the id of the firmware that it leads to, where it was made from one.
type Found = (TaskInfo, Option<FirmwareId>);

pub(super) async fn list(app: &App, request: Request) -> Answer {
    let caller = access::onlooker(app, request.headers(), app.now())?;
    let query = Query::parse(request.uri().query())?;
    let organization = access::organization(app, &caller, &query)?;
    let wanted = Wanted::read(&query)?;
    let before = wanted.after_number(Kind::Tasks)?.map(TaskNumber);
    let product_id = query.get("product_id").or(caller.product_id.as_deref());
    if let Some(product_id) = product_id {
        access::may_open_product(&caller, product_id)?;
    }
    let read = |state: &State| {
        let product = match product_id.map(|product_id| state.product(&organization, product_id)) {
            None => None,
            Some(Some(product)) => Some(product.number),
            // A product that isn't there has no tasks.
            Some(None) => return Vec::new(),
        };
        let tasks = state.tasks(&organization, product, before, wanted.fetch());
        tasks.into_iter().map(|task| with_firmware(state, task)).collect()
    };
    let found: Vec<Found> = app.engine.read(read).await?;
    let default_timeout_s = app.engine.limits().default_timeout_s;
    page(
        &wanted,
        &found,
        |(task, firmware)| TaskShown::new(task, *firmware, default_timeout_s),
        |(task, _)| Kind::Tasks.at_number(task.row.number.0),
    )
}

pub(super) async fn create(app: &App, request: Request) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let query = request.uri().query().map(str::to_owned);
    let organization = access::organization(app, &caller, &Query::parse(query.as_deref())?)?;
    let (_, body) = body_of(app, request).await?;
    let body: TaskBody = decode::parse(&body)?;
    access::may_open_product(&caller, &body.product_id)?;
    let task = app.engine.create_task(body.into_new(&organization)?, app.registers(), now).await?;
    shown(app, StatusCode::CREATED, &caller, &organization, task.id, now).await
}

pub(super) async fn get(app: &App, request: Request, id: &str) -> Answer {
    let now = app.now();
    let caller = access::onlooker(app, request.headers(), now)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    shown(app, StatusCode::OK, &caller, &organization, parse_id(id)?, now).await
}

pub(super) async fn act(app: &App, request: Request, id: &str, action: TaskAction) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    // Whatever the body says, the path says it all; read so that the connection can go on.
    body_of(app, request).await?;
    let (task, _) = find(app, &caller, &organization, parse_id(id)?).await?;
    app.engine.act_on_task(&organization, task.row.id, action, ActionRules::default(), now).await?;
    shown(app, StatusCode::OK, &caller, &organization, task.row.id, now).await
}

pub(super) async fn delete(app: &App, request: Request, id: &str) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let (task, _) = find(app, &caller, &organization, parse_id(id)?).await?;
    app.engine.delete_task(&organization, task.row.id, ActionRules::default(), now).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// A text that is no id names nothing.
pub(super) fn parse_id(id: &str) -> Result<TaskId, Error> {
    id.parse().map_err(|_| Error::not_found(Entity::Task, id))
}

/// What isn't the caller's isn't there.
pub(super) async fn find(app: &App, caller: &Caller, organization: &str, id: TaskId) -> Result<Found, Error> {
    let read = |state: &State| state.task(organization, id).map(|task| with_firmware(state, task));
    let found = app.engine.read(read).await?.filter(|(task, _)| caller.opens_product(&task.product.id));
    found.ok_or_else(|| Error::not_found(Entity::Task, id))
}

fn with_firmware(state: &State, task: TaskInfo) -> Found {
    let firmware = task.row.firmware.and_then(|number| state.firmware_by_number(number));
    (task, firmware.map(|firmware| firmware.id))
}

/// One task, with where it is heading.
async fn shown(
    app: &App,
    status: StatusCode,
    caller: &Caller,
    organization: &str,
    id: TaskId,
    now: Timestamp,
) -> Result<Reply, Failure> {
    let read = |state: &State| {
        let task = state.task(organization, id)?;
        let outlook = state.task_outlook(task.row.number, now)?;
        Some((with_firmware(state, task), outlook))
    };
    let found: Option<(Found, TaskOutlook)> = app.engine.read(read).await?;
    let found = found.filter(|((task, _), _)| caller.opens_product(&task.product.id));
    let ((task, firmware), outlook) = found.ok_or_else(|| Error::not_found(Entity::Task, id))?;
    Ok(json(status, &TaskShown::new(&task, firmware, app.engine.limits().default_timeout_s).with_outlook(&outlook)))
}
