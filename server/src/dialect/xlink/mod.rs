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
    match route(app, request).await {
        Ok(reply) => reply,
        Err(failure) => failure.into_reply(),
    }
}

/// What is answered where a request came to nothing.
pub(crate) fn refusal(error: sluicegate::Error) -> Reply {
    Failure::from(error).into_reply()
}

const CHECK: &str = "/v2/upgrade/firmware/check/";
const REPORT: &str = "/v2/upgrade/firmware/report/";

/// Whether this is a call that devices make again and again.
pub(crate) fn is_of_device(path: &str) -> bool {
    path.starts_with(CHECK) || path.starts_with(REPORT)
}

async fn route(app: &Arc<App>, request: Request) -> Answer {
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
    match (request.method().as_str(), path.trim_end_matches('/')) {
        ("POST", "/v2/upgrade/firmware/task") => tasks::create(app, request).await,
        ("GET", "/v2/upgrade/firmware/tasks") => tasks::list_by_query(app, request).await,
        ("POST", "/v2/upgrade/firmware/tasks") => tasks::list_by_body(app, request).await,
        ("POST", "/v2/upgrade/firmware/task/status") => tasks::set_status(app, request).await,
        ("POST", "/v2/upgrade/firmware/task/delete") => tasks::delete(app, request).await,
        ("POST", "/v2/upgrade/device/newest_version") => check::newest_version(app, request).await,
        ("POST", "/v2/upgrade/device") => check::upgrade(app, request).await,
        ("POST", "/v2/accesskey_auth") => login::app(app, request).await,
        ("POST", "/v2/device_active") => login::activate(app, request).await,
        ("POST", "/v2/device_login") => login::device(app, request).await,
        ("POST", "/v2/device_refresh") => login::refresh(app, request).await,
        _ => route_product(app, request).await,
    }
}

/// The paths that name a product: `/v2/product/{product_id}/…`, `/v2/upload/product/{product_id}/firmware`.
async fn route_product(app: &Arc<App>, request: Request) -> Answer {
    let decoded: Vec<String> = match segments(request.uri().path()) {
        Ok(segments) => segments.into_iter().map(String::from).collect(),
        Err(_) => return Err(path_unknown(&request)),
    };
    let names: Vec<&str> = decoded.iter().map(String::as_str).collect();
    match (request.method().as_str(), names.as_slice()) {
        ("POST", ["v2", "product", product_id, "firmware"]) => firmware::create(app, request, product_id).await,
        ("GET", ["v2", "product", product_id, "firmware", "statistics"]) => firmware::statistics(app, request, product_id).await,
        ("GET", ["v2", "product", product_id, "firmware", id]) => firmware::get(app, request, product_id, id).await,
        ("PUT", ["v2", "product", product_id, "firmware", id]) => firmware::change(app, request, product_id, id).await,
        ("DELETE", ["v2", "product", product_id, "firmware", id]) => firmware::delete(app, request, product_id, id).await,
        ("GET", ["v2", "product", product_id, "firmwares"]) => firmware::list_by_query(app, request, product_id).await,
        ("POST", ["v2", "product", product_id, "firmwares"]) => firmware::list_by_body(app, request, product_id).await,
        ("POST", ["v2", "upload", "product", product_id, "firmware"]) => firmware::upload(app, request, product_id).await,
        _ => Err(path_unknown(&request)),
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
