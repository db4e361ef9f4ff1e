//! Huawei OceanConnect, northbound: software and firmware upgrade tasks, their packages, and the login before them.
//!
//! - [`access`]: who calls, whether the two headers agree, and how often; [`login`]: ways to a token;
//! - [`decode`]: the body of an upgrade task, checked in the platform's order; [`plan`]: what of it depends on what is there;
//! - [`operations`], [`sub_operations`], [`packages`]: one file per group of calls; [`standing`]: how far an operation has come;
//! - [`subscriptions`], [`notify`]: who is told of what becomes of upgrades, and in which words;
//! - [`encode`], [`page`], [`time`]: engine → wire; [`status`]: error class → code.
//!
//! An operation is a task of the engine, a sub-operation one device's run of it, a package firmware. `docs/huawei.md` tells the choices.

mod access;
mod decode;
mod encode;
mod login;
mod notify;
mod operations;
mod packages;
mod page;
mod plan;
pub(crate) mod readers;
mod standing;
mod status;
mod sub_operations;
mod subscriptions;
mod time;

use crate::app::App;
use crate::config::HuaweiConfig;
use crate::dialect::common::limiter::Limiter;
use crate::http::path::segments;
use crate::http::{Reply, Request, read_body};
use bytes::Bytes;
pub(crate) use notify::NOTIFICATIONS;
use sluicegate::model::FileType;
use status::Failure;

/// What is known between calls, and gone after a restart.
#[derive(Debug)]
pub struct Memory {
    /// The calls of each application.
    pub(super) calls: Limiter,
}

impl Memory {
    pub fn new(config: &HuaweiConfig) -> Self {
        Self { calls: Limiter::per_minute(config.calls_per_minute) }
    }

    /// Forgets applications that have been quiet for long enough.
    pub fn forget_resting(&self) {
        self.calls.forget_resting();
    }
}

type Answer = Result<Reply, Failure>;

pub async fn handle(app: &App, request: Request) -> Reply {
    match route(app, request).await {
        Ok(reply) => reply,
        Err(failure) => failure.into_reply(),
    }
}

async fn route(app: &App, request: Request) -> Answer {
    let decoded: Vec<String> = match segments(request.uri().path()) {
        Ok(segments) => segments.into_iter().map(String::from).collect(),
        Err(_) => return Err(Failure::no_route(&request)),
    };
    let names: Vec<&str> = decoded.iter().map(String::as_str).collect();
    match (request.method().as_str(), names.as_slice()) {
        ("POST", ["iocm", "app", "sec", "v1.1.0", "login"]) => login::login(app, request).await,
        ("POST", ["iocm", "app", "sec", "v1.1.0", "refreshToken"]) => login::refresh(app, request).await,
        ("POST", ["iocm", "app", "sec", "v1.1.0", "logout"]) => login::logout(app, request).await,
        ("POST", ["iodm", "app", "sub", "v1.1.0", "subscribe"]) => subscriptions::subscribe(app, request).await,
        ("GET", ["iocm", "app", "sub", "v1.2.0", "subscriptions"]) => subscriptions::list(app, request).await,
        ("DELETE", ["iocm", "app", "sub", "v1.2.0", "subscriptions"]) => subscriptions::delete_many(app, request).await,
        ("GET", ["iocm", "app", "sub", "v1.2.0", "subscriptions", id]) => subscriptions::get(app, request, id).await,
        ("DELETE", ["iocm", "app", "sub", "v1.2.0", "subscriptions", id]) => subscriptions::delete(app, request, id).await,
        (method, ["iodm", "northbound", "v1.5.0", rest @ ..]) => match (method, rest) {
            ("POST", ["operations", "softwareUpgrade"]) => operations::create(app, request, FileType::SoftwarePackage).await,
            ("POST", ["operations", "firmwareUpgrade"]) => operations::create(app, request, FileType::FirmwarePackage).await,
            ("GET", ["operations"]) => operations::list(app, request).await,
            ("GET", ["operations", id]) => operations::get(app, request, id).await,
            ("GET", ["operations", id, "subOperations"]) => sub_operations::list(app, request, id).await,
            ("POST", ["operations", id, "cancel"]) => operations::cancel(app, request, id).await,
            ("GET", ["category"]) => packages::list(app, request).await,
            ("POST", ["category"]) => packages::upload(app, request).await,
            ("GET", ["category", id]) => packages::get(app, request, id).await,
            ("DELETE", ["category", id]) => packages::delete(app, request, id).await,
            _ => Err(Failure::no_route(&request)),
        },
        _ => Err(Failure::no_route(&request)),
    }
}

/// A small body, whole.
async fn body_of(app: &App, request: Request) -> Result<Bytes, Failure> {
    Ok(read_body(request, app.config.limits.body_bytes_max).await?.1)
}
