//! `POST /manage/api/v1/devices/{workspace}/devices/ota`: the order to upgrade, as the vendor's demo platform takes it.
//!
//! The workspace is the organization, `x-auth-token` a token that manages. Each device has to be connected (by itself, or attached to a
//! gateway that is), and firmware of its product and the wanted version has to be here. Devices that go to the same firmware become one
//! task; where it takes two, both begin together or neither does.

use super::rest::{self, UpgradeOrder};
use crate::app::App;
use crate::auth::Caller;
use crate::dialect::common::FIRMWARE_UPGRADE_TYPE;
use crate::dialect::common::routes::{Route, at, find, route};
use crate::dialect::common::status::Status;
use crate::guesses::WrongCredentials;
use crate::http::path::segments;
use crate::http::{Reply, Request, json_bytes, read_body, retry_after};
use ::http::StatusCode;
use serde_json::json;
use sluicegate::model::{Component, FirmwareId, Scope, Selector, TaskMode, TokenPurpose};
use sluicegate::{Error, NewTask, State, TaskTarget};
use std::collections::BTreeMap;
use std::sync::Arc;

const ROUTES: &[Route<()>] = &[route("POST", "/manage/api/v1/devices/{workspace}/devices/ota", ())];

/// Every call by method and path.
pub(crate) fn routes() -> impl Iterator<Item = (&'static str, String)> {
    ROUTES.iter().map(|route| (route.method, route.path.to_owned()))
}

/// Why an order is not carried out.
struct Refused {
    http: StatusCode,
    message: String,
    retry_after_s: Option<u32>,
    /// The caller showed something that it may have guessed.
    is_wrong_credentials: bool,
}

impl Refused {
    fn new(http: StatusCode, message: impl Into<String>) -> Self {
        Self { http, message: message.into(), retry_after_s: None, is_wrong_credentials: false }
    }

    fn into_reply(self) -> Reply {
        let mut reply = json_bytes(self.http, rest::failure(&self.message).into());
        if self.is_wrong_credentials {
            reply.extensions_mut().insert(WrongCredentials);
        }
        match self.retry_after_s {
            Some(seconds) => retry_after(reply, seconds),
            None => reply,
        }
    }
}

/// A request of which nothing came, through no fault of its own.
pub(crate) fn refused(status: Status, message: String) -> Reply {
    Refused { retry_after_s: status.retry_after_s, ..Refused::new(status.http, message) }.into_reply()
}

/// The demo platform answers with 200 and a code, but where nobody could say whose call it was.
pub(crate) async fn handle(app: &Arc<App>, request: Request) -> Reply {
    match order(app, request).await {
        Ok(body) => json_bytes(StatusCode::OK, body.into()),
        Err(refused) => refused.into_reply(),
    }
}

async fn order(app: &Arc<App>, request: Request) -> Result<Vec<u8>, Refused> {
    let path = request.uri().path().to_owned();
    let path = segments(&path).map_err(|error| Refused::new(StatusCode::NOT_FOUND, error.to_string()))?;
    let path: Vec<&str> = path.iter().map(|segment| &**segment).collect();
    let Some(((), [workspace, _])) = find(ROUTES, request.method().as_str(), &path) else {
        return Err(match at(ROUTES, &path).next() {
            Some(_) => Refused::new(StatusCode::METHOD_NOT_ALLOWED, "orders are POSTed"),
            None => Refused::new(
                StatusCode::NOT_FOUND,
                "there is no such call; orders go to /manage/api/v1/devices/{workspace}/devices/ota",
            ),
        });
    };
    let caller = caller(app, &request, workspace)?;
    let organization =
        caller.organization_for(Some(workspace)).map_err(|error| Refused::new(StatusCode::FORBIDDEN, error.to_string()))?;
    let (_, body) = read_body(request, app.config.limits.body_bytes_max)
        .await
        .map_err(|error| Refused::new(error.status(), error.to_string()))?;
    let orders = rest::read_orders(&body).map_err(|refused| Refused::new(StatusCode::OK, refused.to_string()))?;
    let planned = app.engine.read(|state| plan(state, &organization, &caller, &orders)).await.map_err(refuse)?;
    let tasks = planned.map_err(|message| Refused::new(StatusCode::OK, message))?;
    let created = app.engine.create_tasks(tasks, app.now()).await.map_err(refuse)?;
    let ids: Vec<String> = created.iter().map(|task| task.id.to_string()).collect();
    Ok(rest::success(&json!({ "task_ids": ids })))
}

fn caller(app: &App, request: &Request, workspace: &str) -> Result<Caller, Refused> {
    let token = request.headers().get("x-auth-token").and_then(|token| token.to_str().ok());
    let caller = app.auth.authenticate(token, TokenPurpose::Access, app.now()).map_err(|error| Refused {
        is_wrong_credentials: error.is_guess(),
        ..Refused::new(StatusCode::UNAUTHORIZED, "x-auth-token is missing, unknown or has expired; send a token that manages")
    })?;
    if !caller.can_operate() || caller.is_bound_to_device() {
        let message = format!("this token does not manage workspace {workspace}; use an operator's");
        return Err(Refused::new(StatusCode::FORBIDDEN, message));
    }
    Ok(caller)
}

fn refuse(error: Error) -> Refused {
    let status = match error {
        Error::Overloaded | Error::Closed | Error::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    Refused::new(status, error.to_string())
}

/// The tasks that carry an order out, or what is in its way.
fn plan(state: &State, organization: &Arc<str>, caller: &Caller, orders: &[UpgradeOrder]) -> Result<Vec<NewTask>, String> {
    let mut tasks: Vec<(FirmwareId, u8, NewTask)> = Vec::new();
    for order in orders {
        let wanted = Wanted::find(state, organization, caller, order)?;
        let (sn, upgrade_type) = (order.sn.clone(), order.firmware_upgrade_type.number());
        let same = tasks.iter_mut().find(|(firmware, kind, task)| {
            *firmware == wanted.firmware && *kind == upgrade_type && task.product_id == wanted.product_id
        });
        match same {
            Some((_, _, task)) => {
                if let Selector::Devices(devices) = &mut task.scope.selector {
                    devices.push(sn.into());
                }
                if !task.from_versions.contains(&wanted.from_version) {
                    task.from_versions.push(wanted.from_version);
                }
            }
            None => {
                let target = TaskTarget::Firmware(wanted.firmware);
                let annotations = BTreeMap::from([(FIRMWARE_UPGRADE_TYPE.into(), upgrade_type.to_string().into())]);
                let task = NewTask {
                    mode: TaskMode::Automatic,
                    scope: Scope { selector: Selector::Devices(vec![sn.into()]), snapshot: true },
                    start: true,
                    annotations,
                    ..NewTask::new(organization.to_string(), wanted.product_id, vec![wanted.from_version], target)
                };
                tasks.push((wanted.firmware, upgrade_type, task));
            }
        }
    }
    Ok(tasks.into_iter().map(|(_, _, task)| task).collect())
}

/// A device with the firmware that it is to go to.
struct Wanted {
    product_id: String,
    from_version: String,
    firmware: FirmwareId,
}

impl Wanted {
    fn find(state: &State, organization: &str, caller: &Caller, order: &UpgradeOrder) -> Result<Self, String> {
        let UpgradeOrder { sn, product_version, .. } = order;
        let set = state.device_sets(organization).with_id(sn);
        let mut devices = state.devices_in(&set, 0, 2).into_iter().filter(|device| caller.opens_product(&device.product.id));
        let (device, None) = (devices.next().ok_or_else(|| format!("device {sn} is not here"))?, devices.next()) else {
            return Err(format!(
                "several devices are called {sn}; make the task through the native interface, which names the product"
            ));
        };
        if !state.is_connected(device.row.number) {
            return Err(match &device.row.details().gateway {
                Some(gateway) => {
                    format!("device {sn} is not attached: its gateway {gateway} is not connected, or has not told of it")
                }
                None => format!("device {sn} is offline; order again when it is connected"),
            });
        }
        let from_version =
            device.row.version(Component::MAIN).ok_or_else(|| format!("device {sn} has not told yet what it runs"))?;
        if **from_version == **product_version {
            return Err(format!("device {sn} runs {product_version} already"));
        }
        let firmware = state.firmware_of_version(device.row.product, Component::MAIN, product_version).ok_or_else(|| {
            format!("there is no firmware {product_version} of product {} here; upload it first", device.product.id)
        })?;
        let (product_id, from_version) = (device.product.id.to_string(), from_version.to_string());
        Ok(Self { product_id, from_version, firmware: firmware.id })
    }
}
