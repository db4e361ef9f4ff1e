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
use crate::dialect::common::routes::{Route, find, route};
use crate::dialect::common::status::Status;
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
    match route_of(app, request).await {
        Ok(reply) => reply,
        Err(failure) => failure.into_reply(),
    }
}

/// A request of which nothing came, through no fault of its own.
pub(crate) fn refused(status: Status, message: String) -> Reply {
    Failure::ours(status, message).into_reply()
}

/// What each row of [`ROUTES`] leads to.
#[derive(Clone, Copy, Debug)]
enum Call {
    Login,
    TokenRefresh,
    Logout,
    Subscribe,
    SubscriptionList,
    SubscriptionDeleteMany,
    SubscriptionGet,
    SubscriptionDelete,
    OperationCreate(FileType),
    OperationList,
    OperationGet,
    OperationCancel,
    SubOperationList,
    PackageList,
    PackageUpload,
    PackageGet,
    PackageDelete,
}

const ROUTES: &[Route<Call>] = &[
    route("POST", "/iocm/app/sec/v1.1.0/login", Call::Login),
    route("POST", "/iocm/app/sec/v1.1.0/refreshToken", Call::TokenRefresh),
    route("POST", "/iocm/app/sec/v1.1.0/logout", Call::Logout),
    route("POST", "/iodm/app/sub/v1.1.0/subscribe", Call::Subscribe),
    route("GET", "/iocm/app/sub/v1.2.0/subscriptions", Call::SubscriptionList),
    route("DELETE", "/iocm/app/sub/v1.2.0/subscriptions", Call::SubscriptionDeleteMany),
    route("GET", "/iocm/app/sub/v1.2.0/subscriptions/{id}", Call::SubscriptionGet),
    route("DELETE", "/iocm/app/sub/v1.2.0/subscriptions/{id}", Call::SubscriptionDelete),
    route("POST", "/iodm/northbound/v1.5.0/operations/softwareUpgrade", Call::OperationCreate(FileType::SoftwarePackage)),
    route("POST", "/iodm/northbound/v1.5.0/operations/firmwareUpgrade", Call::OperationCreate(FileType::FirmwarePackage)),
    route("GET", "/iodm/northbound/v1.5.0/operations", Call::OperationList),
    route("GET", "/iodm/northbound/v1.5.0/operations/{id}", Call::OperationGet),
    route("GET", "/iodm/northbound/v1.5.0/operations/{id}/subOperations", Call::SubOperationList),
    route("POST", "/iodm/northbound/v1.5.0/operations/{id}/cancel", Call::OperationCancel),
    route("GET", "/iodm/northbound/v1.5.0/category", Call::PackageList),
    route("POST", "/iodm/northbound/v1.5.0/category", Call::PackageUpload),
    route("GET", "/iodm/northbound/v1.5.0/category/{id}", Call::PackageGet),
    route("DELETE", "/iodm/northbound/v1.5.0/category/{id}", Call::PackageDelete),
];

/// Every call by method and path.
pub(crate) fn routes() -> impl Iterator<Item = (&'static str, String)> {
    ROUTES.iter().map(|route| (route.method, route.path.to_owned()))
}

async fn route_of(app: &App, request: Request) -> Answer {
    let path = request.uri().path().to_owned();
    let Ok(path) = segments(&path) else { return Err(Failure::no_route(&request)) };
    let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
    let Some((call, [id, _])) = find(ROUTES, request.method().as_str(), &path) else { return Err(Failure::no_route(&request)) };
    match call {
        Call::Login => login::login(app, request).await,
        Call::TokenRefresh => login::refresh(app, request).await,
        Call::Logout => login::logout(app, request).await,
        Call::Subscribe => subscriptions::subscribe(app, request).await,
        Call::SubscriptionList => subscriptions::list(app, request).await,
        Call::SubscriptionDeleteMany => subscriptions::delete_many(app, request).await,
        Call::SubscriptionGet => subscriptions::get(app, request, id).await,
        Call::SubscriptionDelete => subscriptions::delete(app, request, id).await,
        Call::OperationCreate(file_type) => operations::create(app, request, file_type).await,
        Call::OperationList => operations::list(app, request).await,
        Call::OperationGet => operations::get(app, request, id).await,
        Call::OperationCancel => operations::cancel(app, request, id).await,
        Call::SubOperationList => sub_operations::list(app, request, id).await,
        Call::PackageList => packages::list(app, request).await,
        Call::PackageUpload => packages::upload(app, request).await,
        Call::PackageGet => packages::get(app, request, id).await,
        Call::PackageDelete => packages::delete(app, request, id).await,
    }
}

/// A small body, whole.
async fn body_of(app: &App, request: Request) -> Result<Bytes, Failure> {
    Ok(read_body(request, app.config.limits.body_bytes_max).await?.1)
}
