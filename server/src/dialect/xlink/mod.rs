//! XLink: upgrade tasks by product, type, identify and from-version; everything under `/v2`.
//!
//! - [`scalar`], [`decode`]: wire → what is wanted, every field checked;
//! - [`access`]: who may call what;
//! - [`tasks`], [`check`], [`report`], [`firmware`], [`login`]: one file per group of calls; [`mod@file`]: what URLs mean;
//! - [`notify`]: what subscribers are told of a report;
//! - [`encode`]: engine → wire, for parsers of a few hundred bytes;
//! - [`status`]: error class → code; the HTTP status follows from the code.
//!
//! A path or method that is not there is 404/4041001 before anybody is asked who they are. `docs/xlink.md` tells the choices.

mod access;
mod check;
mod decode;
mod encode;
mod file;
mod firmware;
mod login;
mod notify;
pub(crate) mod readers;
mod report;
mod scalar;
mod status;
mod tasks;

use crate::app::App;
use crate::dialect::common::routes::{Names, Route, find, route};
use crate::dialect::common::status::Status;
use crate::http::path::segments;
use crate::http::{Reply, Request, empty, read_body};
use ::http::{Method, StatusCode};
use bytes::Bytes;
use status::{Code, Failure};
use std::sync::Arc;

pub(crate) use notify::UpgradeFormat;

/// Whether this is the body of a check: what reading one takes, alone.
#[doc(hidden)]
pub fn reads_check(body: &[u8]) -> bool {
    decode::check(body).is_ok()
}

type Answer = Result<Reply, Failure>;

pub async fn handle(app: &Arc<App>, request: Request) -> Reply {
    match route_of(app, request).await {
        Ok(reply) => reply,
        Err(failure) => failure.into_reply(),
    }
}

/// A request of which nothing came, through no fault of its own.
pub(crate) fn refused(status: Status, message: String) -> Reply {
    Failure { retry_after_s: status.retry_after_s, ..Failure::new(Code::Unavailable, message) }.into_reply()
}

const CHECK: &str = "/v2/upgrade/firmware/check/";
const REPORT: &str = "/v2/upgrade/firmware/report/";

/// What each row of [`ROUTES`] leads to.
#[derive(Clone, Copy, Debug)]
enum Call {
    Check,
    Report,
    NewestVersion,
    Upgrade,
    TaskCreate,
    TaskListByQuery,
    TaskListByBody,
    TaskStatus,
    TaskDelete,
    AppLogin,
    DeviceActivate,
    DeviceLogin,
    DeviceRefresh,
    FirmwareCreate,
    FirmwareStatistics,
    FirmwareGet,
    FirmwareChange,
    FirmwareDelete,
    FirmwareListByQuery,
    FirmwareListByBody,
    FirmwareUpload,
}

const ROUTES: &[Route<Call>] = &[
    route("POST", "/v2/upgrade/firmware/check/{device_id}", Call::Check),
    route("POST", "/v2/upgrade/firmware/report/{device_id}", Call::Report),
    route("POST", "/v2/upgrade/device/newest_version", Call::NewestVersion),
    route("POST", "/v2/upgrade/device", Call::Upgrade),
    route("POST", "/v2/upgrade/firmware/task", Call::TaskCreate),
    route("GET", "/v2/upgrade/firmware/tasks", Call::TaskListByQuery),
    route("POST", "/v2/upgrade/firmware/tasks", Call::TaskListByBody),
    route("POST", "/v2/upgrade/firmware/task/status", Call::TaskStatus),
    route("POST", "/v2/upgrade/firmware/task/delete", Call::TaskDelete),
    route("POST", "/v2/accesskey_auth", Call::AppLogin),
    route("POST", "/v2/device_active", Call::DeviceActivate),
    route("POST", "/v2/device_login", Call::DeviceLogin),
    route("POST", "/v2/device_refresh", Call::DeviceRefresh),
    route("POST", "/v2/product/{product_id}/firmware", Call::FirmwareCreate),
    // Before the firmware by its id.
    route("GET", "/v2/product/{product_id}/firmware/statistics", Call::FirmwareStatistics),
    route("GET", "/v2/product/{product_id}/firmware/{id}", Call::FirmwareGet),
    route("PUT", "/v2/product/{product_id}/firmware/{id}", Call::FirmwareChange),
    route("DELETE", "/v2/product/{product_id}/firmware/{id}", Call::FirmwareDelete),
    route("GET", "/v2/product/{product_id}/firmwares", Call::FirmwareListByQuery),
    route("POST", "/v2/product/{product_id}/firmwares", Call::FirmwareListByBody),
    route("POST", "/v2/upload/product/{product_id}/firmware", Call::FirmwareUpload),
];

/// Every call by method and path.
pub(crate) fn routes() -> impl Iterator<Item = (&'static str, String)> {
    ROUTES.iter().map(|route| (route.method, route.path.to_owned()))
}

async fn route_of(app: &Arc<App>, request: Request) -> Answer {
    let path = request.uri().path();
    let is_post = request.method() == Method::POST;
    // The busiest call first, and without taking the path apart. Applications hang a suffix on it (`/geapp`): it is tolerated.
    if is_post && let Some(rest) = path.strip_prefix(CHECK) {
        let device_id = rest.split('/').next().unwrap_or_default().to_owned();
        return check::check(app, request, &device_id).await;
    }
    if is_post && let Some(rest) = path.strip_prefix(REPORT) {
        let device_id = rest.trim_end_matches('/').to_owned();
        return report::report(app, request, &device_id).await;
    }
    let path = path.trim_end_matches('/').to_owned();
    let Ok(path) = segments(&path) else { return Err(path_unknown(&request)) };
    let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
    match find(ROUTES, request.method().as_str(), &path) {
        // In a box, so that a check's future isn't as large as an upload's.
        Some((call, names)) => Box::pin(answer(app, request, call, names)).await,
        None => Err(path_unknown(&request)),
    }
}

async fn answer(app: &Arc<App>, request: Request, call: Call, names: Names<'_>) -> Answer {
    let [name, id] = names;
    match call {
        Call::Check => check::check(app, request, name).await,
        Call::Report => report::report(app, request, name).await,
        Call::NewestVersion => check::newest_version(app, request).await,
        Call::Upgrade => check::upgrade(app, request).await,
        Call::TaskCreate => tasks::create(app, request).await,
        Call::TaskListByQuery => tasks::list_by_query(app, request).await,
        Call::TaskListByBody => tasks::list_by_body(app, request).await,
        Call::TaskStatus => tasks::set_status(app, request).await,
        Call::TaskDelete => tasks::delete(app, request).await,
        Call::AppLogin => login::app(app, request).await,
        Call::DeviceActivate => login::activate(app, request).await,
        Call::DeviceLogin => login::device(app, request).await,
        Call::DeviceRefresh => login::refresh(app, request).await,
        Call::FirmwareCreate => firmware::create(app, request, name).await,
        Call::FirmwareStatistics => firmware::statistics(app, request, name).await,
        Call::FirmwareGet => firmware::get(app, request, name, id).await,
        Call::FirmwareChange => firmware::change(app, request, name, id).await,
        Call::FirmwareDelete => firmware::delete(app, request, name, id).await,
        Call::FirmwareListByQuery => firmware::list_by_query(app, request, name).await,
        Call::FirmwareListByBody => firmware::list_by_body(app, request, name).await,
        Call::FirmwareUpload => firmware::upload(app, request, name).await,
    }
}

fn path_unknown(request: &Request) -> Failure {
    let path: String = request.uri().path().chars().take(120).collect();
    Failure::new(Code::PathUnknown, format!("nothing answers {} {path} here; see docs/xlink.md for what does", request.method()))
}

/// A JSON body, whole.
async fn body_of(app: &App, request: Request) -> Result<(::http::request::Parts, Bytes), Failure> {
    Ok(read_body(request, app.config.limits.body_bytes_max).await?)
}

/// What the platform's pages call 无: 200 and nothing more.
fn done() -> Answer {
    Ok(empty(StatusCode::OK))
}

#[cfg(test)]
mod tests;
