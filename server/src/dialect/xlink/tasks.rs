//! Upgrade tasks: create, list, start and stop, delete.

use super::decode::{self, FileNamed, TaskNamed, Window};
use super::encode::{self, Counted, TaskShown};
use super::status::{Code, Failure};
use super::{Answer, access, body_of, done, file};
use crate::app::App;
use crate::auth::Caller;
use crate::http::{Query, Request, json};
use ::http::StatusCode;
use sluicegate::model::{Policy, Retry, TaskId, TaskNumber, TaskStatus};
use sluicegate::{ActionRules, NewTask, TaskAction, TaskInfo, TaskTarget};
use std::collections::BTreeMap;

/// Rows read under one lock; a list of a product with more takes turns with whoever else wants to read.
const ROWS_PER_READ: usize = 1_000;

/// The platform knows neither back-off nor a last attempt: a failure frees the permit, and the next check offers again.
const RETRY: Retry = Retry { count: u32::MAX, interval_s: 0, back_off: None, jitter_s: 0, codes: Vec::new() };

pub(super) async fn create(app: &App, request: Request) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let (parts, body) = body_of(app, request).await?;
    let wanted = decode::create_task(&body)?;
    access::may_open_product(&caller, &wanted.product_id)?;
    let artifact = file::artifact(app, &caller, &parts.headers, wanted.target_file).await?;
    let new = NewTask {
        component: wanted.component,
        name: Some(wanted.name),
        description: Some(wanted.description),
        mode: wanted.mode,
        policy: Policy {
            maximum_concurrency: wanted.maximum_concurrency,
            retry: Some(RETRY),
            repeat_after_success: true,
            ..Policy::default()
        },
        unique_name: true,
        unique_start: true,
        annotations: annotations_of(wanted.from_file),
        ..NewTask::new(
            caller.organization.to_string(),
            wanted.product_id.clone(),
            vec![wanted.from_version],
            TaskTarget::Artifact { version: wanted.target_version, artifact },
        )
    };
    let task = app.engine.create_task(new, app.registers(), now).await?;
    Ok(json(StatusCode::OK, &TaskShown::new(&task, &wanted.product_id, 0)))
}

/// The start's own file decides nothing; it is kept to be shown as it came.
fn annotations_of(file: FileNamed) -> BTreeMap<Box<str>, Box<str>> {
    [(encode::FROM_URL, file.url), (encode::FROM_MD5, file.md5), (encode::FROM_SIZE, file.size.to_string())]
        .into_iter()
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

pub(super) async fn list_by_query(app: &App, request: Request) -> Answer {
    let caller = access::operator(app, request.headers(), app.now())?;
    let query = Query::parse(request.uri().query())?;
    let product_id = query.get("product_id").map(str::trim).filter(|id| !id.is_empty());
    let product_id = super::scalar::required("product_id", product_id)?;
    access::may_open_product(&caller, product_id)?;
    let window = decode::query_window(query.get("offset"), query.get("limit"))?;
    let page = page(app, &caller, product_id, window, Extent::Window).await?;
    Ok(json(StatusCode::OK, &shown(&page.tasks)))
}

pub(super) async fn list_by_body(app: &App, request: Request) -> Answer {
    let caller = access::operator(app, request.headers(), app.now())?;
    let (_, body) = body_of(app, request).await?;
    let (product_id, window) = decode::list(&body, Code::TaskTypeUnknown)?;
    let product_id = super::scalar::required("product_id", product_id)?;
    access::may_open_product(&caller, &product_id)?;
    let page = page(app, &caller, &product_id, window, Extent::All).await?;
    Ok(json(StatusCode::OK, &Counted { count: page.count, list: shown(&page.tasks) }))
}

fn shown(tasks: &[TaskInfo]) -> Vec<TaskShown<'_>> {
    tasks
        .iter()
        .map(|task| TaskShown::new(&task.row, &task.product.id, task.succeeded_devices).with_surplus(task.devices_at_start))
        .collect()
}

/// How far a list is walked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// To the end of the window.
    Window,
    /// To the end of the tasks, to count them.
    All,
}

#[derive(Default)]
struct Page {
    /// Tasks that were met and are of the type asked for.
    count: usize,
    tasks: Vec<TaskInfo>,
}

/// Newest first. A product that isn't there has no tasks.
async fn page(app: &App, caller: &Caller, product_id: &str, window: Window, extent: Extent) -> Result<Page, Failure> {
    let mut page = Page::default();
    let mut before: Option<TaskNumber> = None;
    let end = window.offset.saturating_add(window.limit);
    loop {
        let read = |state: &sluicegate::State| match state.product(&caller.organization, product_id) {
            Some(product) => state.tasks(&caller.organization, Some(product.number), before, ROWS_PER_READ),
            None => Vec::new(),
        };
        let tasks = app.engine.read(read).await?;
        let is_last = tasks.len() < ROWS_PER_READ;
        before = tasks.last().map(|task| task.row.number);
        for task in tasks {
            if window.component_type.is_some_and(|wanted| wanted != task.row.component.component_type) {
                continue;
            }
            if (window.offset..end).contains(&page.count) {
                page.tasks.push(task);
            }
            page.count += 1;
        }
        if is_last || (extent == Extent::Window && page.count >= end) {
            return Ok(page);
        }
    }
}

pub(super) async fn set_status(app: &App, request: Request) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let (_, body) = body_of(app, request).await?;
    let wanted = decode::set_task_status(&body)?;
    let task = find(app, &caller, &wanted.task).await?;
    let action = match (wanted.started, task.row.status) {
        // Paused counts as started here, and saying 1 again is how an operator of this platform sets it going.
        (true, TaskStatus::Paused) => TaskAction::Resume,
        (true, _) => TaskAction::Start,
        (false, _) => TaskAction::Stop,
    };
    app.engine.act_on_task(&caller.organization, task.row.id, action, ActionRules::default(), now).await?;
    done()
}

pub(super) async fn delete(app: &App, request: Request) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let (_, body) = body_of(app, request).await?;
    let named = decode::delete_task(&body)?;
    let task = find(app, &caller, &named).await?;
    app.engine.delete_task(&caller.organization, task.row.id, ActionRules::default(), now).await?;
    done()
}

/// The task, if it is this product's.
async fn find(app: &App, caller: &Caller, named: &TaskNamed) -> Result<TaskInfo, Failure> {
    access::may_open_product(caller, &named.product_id)?;
    // Ids are opaque on this platform: a text that is no id of ours just names nothing.
    let id: Option<TaskId> = named.task_id.trim().parse().ok();
    let read = |state: &sluicegate::State| {
        let has_product = state.product(&caller.organization, &named.product_id).is_some();
        let task = id.and_then(|id| state.task(&caller.organization, id)).filter(|task| *task.product.id == *named.product_id);
        (has_product, task)
    };
    match app.engine.read(read).await? {
        (_, Some(task)) => Ok(task),
        (true, None) => Err(Failure::new(
            Code::TaskUnknown,
            format!("product {} has no task {:?}; list its tasks", named.product_id, named.task_id),
        )),
        (false, None) => Err(Failure::new(Code::ProductUnknown, format!("there is no product {:?} here", named.product_id))),
    }
}
