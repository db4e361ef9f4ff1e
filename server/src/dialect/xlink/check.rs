//! A device asks what to do; a user asks what a device could do.
//!
//! Nothing to do, and not now, are the same to a device: 404/4041013. The second says when to come back in `Retry-After`.

use super::decode::{self, DeviceAsked};
use super::encode::{NewestShown, TaskShown, VersionShown};
use super::status::{Code, Failure};
use super::{Answer, access, body_of, done, file};
use crate::app::App;
use crate::auth::Caller;
use crate::dialect::common::check::decide;
use crate::http::{Reply, Request, json};
use ::http::StatusCode;
use sluicegate::model::{Role, Timestamp};
use sluicegate::{Check, CheckRules, Decision, DeviceRef, Offer, Wait};
use std::sync::Arc;

pub(super) async fn check(app: &App, request: Request, device_id: &str) -> Answer {
    let now = app.now();
    let caller = access::caller(app, &request, now)?;
    let device_id = decode::device_id_in_path(device_id)?;
    access::may_name_device(&caller, &device_id)?;
    let (_, body) = body_of(app, request).await?;
    let asked = decode::check(&body)?;
    let device = DeviceRef { organization: &caller.organization, product_id: &asked.product_id, device_id: &device_id };
    let preview = caller.role != Role::Device;
    if preview {
        access::may_open_product(&caller, &asked.product_id)?;
        must_be_there(app, device).await?;
    } else if !caller.may_act_for_device(&asked.product_id, &device_id) {
        return Err(foreign_product(app, &caller, device).await?);
    }
    let rules = CheckRules { preview, only_while_started: true, register: !preview && app.registers() };
    let check = Check { device, component: asked.component, version: &asked.version, rules };
    match decide(app, &check, now).await? {
        Decision::Offer(offer) => Ok(offered(app, &offer, now)),
        Decision::UpToDate => Err(Failure::new(Code::TaskUnknown, "the device runs the newest version; nothing to do")),
        Decision::NoTask => {
            Err(Failure::new(Code::TaskUnknown, "no started task leads on from this product, type, identify and current_version"))
        }
        Decision::Wait(wait) => Err(held(wait)),
    }
}

fn offered(app: &App, offer: &Offer, now: Timestamp) -> Reply {
    let task = offer.task.row();
    let link = file::link(app, &task.artifact, offer.id, now);
    let shown = TaskShown::new(task, offer.task.product_id(), u64::from(offer.task.succeeded_devices()));
    json(StatusCode::OK, &shown.offered(&offer.from_version, link.as_deref()))
}

fn held(wait: Wait) -> Failure {
    let Wait { reason, retry_after_s, .. } = wait;
    let message = format!("a task is for this device, but not now ({}); check again in {retry_after_s} s", reason.name());
    Failure { retry_after_s: Some(retry_after_s), ..Failure::new(Code::TaskUnknown, message) }
}

/// Somebody who only looks names a device that is there, or is told that it isn't.
async fn must_be_there(app: &App, device: DeviceRef<'_>) -> Result<(), Failure> {
    let read = |state: &sluicegate::State| {
        (state.product(device.organization, device.product_id).is_some(), state.device(device).is_some())
    };
    match app.engine.read(read).await? {
        (true, true) => Ok(()),
        (true, false) => Err(device_unknown(device)),
        (false, _) => Err(product_unknown(device.product_id)),
    }
}

/// A device names a product that isn't its own: whether there is one decides the code.
async fn foreign_product(app: &App, caller: &Caller, device: DeviceRef<'_>) -> Result<Failure, Failure> {
    let is_there = app.engine.read(|state| state.product(&caller.organization, device.product_id).is_some()).await?;
    Ok(if is_there { device_unknown(device) } else { product_unknown(device.product_id) })
}

fn product_unknown(product_id: &str) -> Failure {
    Failure::new(Code::ProductUnknown, format!("there is no product {product_id:?} here"))
}

fn device_unknown(device: DeviceRef<'_>) -> Failure {
    Failure::new(Code::DeviceUnknown, format!("product {:?} has no device {}", device.product_id, device.device_id))
}

/// A device as somebody else sees it: what it runs, and the task that leads on from there.
struct Seen {
    current: Arc<str>,
    /// Target version and description.
    newest: Option<(Arc<str>, Option<Arc<str>>)>,
}

async fn see(app: &App, request: Request) -> Result<Seen, Failure> {
    let now = app.now();
    let caller = access::onlooker(app, request.headers(), now)?;
    let (_, body) = body_of(app, request).await?;
    let DeviceAsked { product_id, device_id, component } = decode::device_asked(&body)?;
    access::may_open_product(&caller, &product_id)?;
    access::may_name_device(&caller, &device_id)?;
    let device = DeviceRef { organization: &caller.organization, product_id: &product_id, device_id: &device_id };
    must_be_there(app, device).await?;
    let read = |state: &sluicegate::State| state.device(device).and_then(|device| device.row.version(component).cloned());
    let Some(current) = app.engine.read(read).await? else {
        return Err(Failure::new(
            Code::TaskUnknown,
            format!(
                "device {device_id} has not told yet which version it runs on this type and identify; it does so when it checks"
            ),
        ));
    };
    let rules = CheckRules { preview: true, only_while_started: true, register: false };
    let check = Check { device, component, version: &current, rules };
    let newest = match decide(app, &check, now).await? {
        Decision::Offer(offer) => {
            let task = offer.task.row();
            Some((Arc::clone(&task.target_version), task.description.clone()))
        }
        Decision::Wait(wait) => {
            let task = app.engine.read(|state| state.task(&caller.organization, wait.task)).await?;
            task.map(|task| (Arc::clone(&task.row.target_version), task.row.description.clone()))
        }
        Decision::UpToDate | Decision::NoTask => None,
    };
    Ok(Seen { current, newest })
}

pub(super) async fn newest_version(app: &App, request: Request) -> Answer {
    let Seen { current, newest } = see(app, request).await?;
    let (newest, description) = newest.unwrap_or_else(|| (Arc::clone(&current), None));
    let shown = NewestShown {
        current: VersionShown(&current),
        newest: VersionShown(&newest),
        description: description.as_deref().unwrap_or_default(),
    };
    Ok(json(StatusCode::OK, &shown))
}

/// A user wants the device upgraded. Devices of this platform fetch their offer by checking, so there is nothing to send: what is
/// answered is whether the next check will find something.
pub(super) async fn upgrade(app: &App, request: Request) -> Answer {
    match see(app, request).await?.newest {
        Some(_) => done(),
        None => Err(Failure::new(
            Code::AlreadyNewest,
            "no started task leads on from what the device runs; it is at the newest version",
        )),
    }
}
