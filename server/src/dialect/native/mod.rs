//! The native API: `/api/v1`, and at the root signed image links, metrics, health and the description of it all.
//!
//! - [`decode`]: JSON → what is wanted, every field checked; [`encode`]: the engine's rows → JSON; [`task_json`] and [`policy_json`]:
//!   both, for tasks; [`outlook`]: where a task is heading; [`whole`]: numbers;
//! - [`access`]: who may call what; [`failure`]: why not, as `{"error":{"code","message"}}`; [`page`]: lists and their cursors;
//! - one file per group of calls: [`products`], [`images`] (in pieces: [`uploads`]), [`firmware`], [`devices`] (many at once: [`import`]), [`tokens`],
//!   [`tasks`], [`upgrades`], [`explanation`], [`check`], [`events`] (to receivers: [`subscriptions`]), [`root`].
//!
//! Every call is a row of [`ROUTES`]. Calls are written down in `openapi.json`, which is served as it stands, and in `docs/api.md`.
//!
//! Unknown fields are ignored, except where a slip of the pen would widen what is asked for: in tasks and everything within them, in
//! tokens and in a firmware's verification they are refused.

mod access;
mod check;
mod decode;
mod devices;
mod encode;
mod events;
mod explanation;
mod failure;
mod firmware;
mod images;
mod import;
mod outlook;
mod page;
mod policy_json;
mod products;
pub(crate) mod readers;
mod root;
mod subscriptions;
mod task_json;
mod tasks;
mod tokens;
mod upgrades;
mod uploads;
mod whole;

use crate::app::App;
use crate::dialect::common::routes::{Names, Route, at, find, route};
use crate::dialect::common::status::Status;
use crate::http::path::segments;
use crate::http::{Reply, Request, read_body};
use ::http::Method;
use ::http::request::Parts;
use bytes::Bytes;
use failure::Failure;
use sluicegate::model::Event;
use sluicegate::{TaskAction, UpgradeAction};
use std::sync::Arc;
pub use subscriptions::EventFormat;

/// An event's data, as `GET /events` shows it.
pub(crate) fn event_json(event: &Event) -> Bytes {
    match serde_json::to_vec(&encode::EventShown(event)) {
        Ok(text) => text.into(),
        Err(error) => {
            tracing::error!(%error, sequence = event.sequence, "an event could not be written as JSON");
            Bytes::from_static(b"{}")
        }
    }
}

/// Whether this is the body of a check: what reading one takes, alone.
#[doc(hidden)]
pub fn reads_check(body: &[u8]) -> bool {
    decode::parse::<decode::CheckBody<'_>>(body).is_ok()
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
    Failure { retry_after_s: status.retry_after_s, ..Failure::new(status.http, status.code, message) }.into_reply()
}

/// What each row of [`ROUTES`] leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Check,
    Report,
    ImageByLink,
    ImageByToken,
    ImageUpload,
    UploadBegin,
    UploadGet,
    UploadGoOn,
    ProductList,
    ProductGet,
    ProductPut,
    ProductDelete,
    DeviceList,
    DeviceGet,
    DevicePut,
    DeviceDelete,
    DeviceSecretPut,
    DeviceSecretDelete,
    DeviceExplanation,
    DeviceImport,
    FirmwareList,
    FirmwareCreate,
    FirmwareGet,
    FirmwareDelete,
    TokenIssue,
    TokenRevoke,
    AppCreate,
    AppDelete,
    SubscriptionList,
    SubscriptionCreate,
    SubscriptionDelete,
    TaskList,
    TaskCreate,
    TaskGet,
    TaskDelete,
    TaskAct(TaskAction),
    UpgradeList,
    UpgradeAct(UpgradeAction),
    Events,
    Metrics,
    Health,
    Readiness,
    Description,
}

/// Every call, in the order in which they are looked for: images come often.
const ROUTES: &[Route<Call>] = &[
    route("GET", "/images/{sha256}", Call::ImageByLink),
    route("GET", "/api/v1/images/{sha256}", Call::ImageByToken),
    route("POST", "/api/v1/check", Call::Check),
    route("POST", "/api/v1/report", Call::Report),
    route("POST", "/api/v1/images", Call::ImageUpload),
    route("POST", "/api/v1/uploads", Call::UploadBegin),
    route("GET", "/api/v1/uploads/{upload}", Call::UploadGet),
    route("PATCH", "/api/v1/uploads/{upload}", Call::UploadGoOn),
    route("GET", "/api/v1/products", Call::ProductList),
    route("GET", "/api/v1/products/{product_id}", Call::ProductGet),
    route("PUT", "/api/v1/products/{product_id}", Call::ProductPut),
    route("DELETE", "/api/v1/products/{product_id}", Call::ProductDelete),
    route("GET", "/api/v1/products/{product_id}/devices", Call::DeviceList),
    route("GET", "/api/v1/products/{product_id}/devices/{device_id}", Call::DeviceGet),
    route("PUT", "/api/v1/products/{product_id}/devices/{device_id}", Call::DevicePut),
    route("DELETE", "/api/v1/products/{product_id}/devices/{device_id}", Call::DeviceDelete),
    route("PUT", "/api/v1/products/{product_id}/devices/{device_id}/secret", Call::DeviceSecretPut),
    route("DELETE", "/api/v1/products/{product_id}/devices/{device_id}/secret", Call::DeviceSecretDelete),
    route("GET", "/api/v1/products/{product_id}/devices/{device_id}/explanation", Call::DeviceExplanation),
    route("POST", "/api/v1/devices", Call::DeviceImport),
    route("GET", "/api/v1/firmware", Call::FirmwareList),
    route("POST", "/api/v1/firmware", Call::FirmwareCreate),
    route("GET", "/api/v1/firmware/{id}", Call::FirmwareGet),
    route("DELETE", "/api/v1/firmware/{id}", Call::FirmwareDelete),
    route("POST", "/api/v1/tokens", Call::TokenIssue),
    route("DELETE", "/api/v1/tokens/{id}", Call::TokenRevoke),
    route("POST", "/api/v1/apps", Call::AppCreate),
    route("DELETE", "/api/v1/apps/{id}", Call::AppDelete),
    route("GET", "/api/v1/subscriptions", Call::SubscriptionList),
    route("POST", "/api/v1/subscriptions", Call::SubscriptionCreate),
    route("DELETE", "/api/v1/subscriptions/{id}", Call::SubscriptionDelete),
    route("GET", "/api/v1/tasks", Call::TaskList),
    route("POST", "/api/v1/tasks", Call::TaskCreate),
    route("GET", "/api/v1/tasks/{id}", Call::TaskGet),
    route("DELETE", "/api/v1/tasks/{id}", Call::TaskDelete),
    route("POST", "/api/v1/tasks/{id}/start", Call::TaskAct(TaskAction::Start)),
    route("POST", "/api/v1/tasks/{id}/stop", Call::TaskAct(TaskAction::Stop)),
    route("POST", "/api/v1/tasks/{id}/pause", Call::TaskAct(TaskAction::Pause)),
    route("POST", "/api/v1/tasks/{id}/resume", Call::TaskAct(TaskAction::Resume)),
    route("POST", "/api/v1/tasks/{id}/approve", Call::TaskAct(TaskAction::Approve)),
    route("POST", "/api/v1/tasks/{id}/cancel", Call::TaskAct(TaskAction::Cancel)),
    route("POST", "/api/v1/tasks/{id}/open-wave", Call::TaskAct(TaskAction::OpenWave)),
    route("GET", "/api/v1/tasks/{id}/upgrades", Call::UpgradeList),
    route("POST", "/api/v1/tasks/{id}/upgrades/{device_id}/cancel", Call::UpgradeAct(UpgradeAction::Cancel)),
    route("POST", "/api/v1/tasks/{id}/upgrades/{device_id}/retry", Call::UpgradeAct(UpgradeAction::Retry)),
    route("POST", "/api/v1/tasks/{id}/upgrades/{device_id}/force", Call::UpgradeAct(UpgradeAction::Force)),
    route("POST", "/api/v1/tasks/{id}/upgrades/{device_id}/confirm", Call::UpgradeAct(UpgradeAction::Confirm)),
    route("POST", "/api/v1/tasks/{id}/upgrades/{device_id}/decline", Call::UpgradeAct(UpgradeAction::Decline)),
    route("GET", "/api/v1/events", Call::Events),
    route("GET", "/metrics", Call::Metrics),
    route("GET", "/healthz", Call::Health),
    route("GET", "/readyz", Call::Readiness),
    route("GET", "/openapi.json", Call::Description),
];

/// Every call by method and path.
pub(crate) fn routes() -> impl Iterator<Item = (&'static str, String)> {
    ROUTES.iter().map(|route| (route.method, route.path.to_owned()))
}

async fn route_of(app: &Arc<App>, request: Request) -> Answer {
    // What a fleet calls all day goes without taking the path apart.
    if request.method() == Method::POST {
        match request.uri().path() {
            "/api/v1/check" => return check::check(app, request).await,
            "/api/v1/report" => return check::report(app, request).await,
            _ => {}
        }
    }
    let path = request.uri().path().to_owned();
    let path = segments(&path)?;
    let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
    // A HEAD is a GET whose body hyper leaves out; images look at the method themselves.
    let is_head = request.method() == Method::HEAD;
    let method = if is_head { "GET" } else { request.method().as_str() };
    match find(ROUTES, method, &path) {
        Some((Call::ImageByLink, [image, _])) => images::by_link(app, request, image).await,
        // In a box, so that a check's future isn't as large as an import's.
        Some((call, names)) if !is_head || takes_head(call) => Box::pin(answer(app, request, call, names)).await,
        _ => Err(nothing_at(&request, &path)),
    }
}

/// An event stream has no end, and so no head that would tell of it.
fn takes_head(call: Call) -> bool {
    call != Call::Events
}

/// The path is there with other methods, or isn't.
fn nothing_at(request: &Request, path: &[&str]) -> Failure {
    let mut allow: Vec<&str> = Vec::new();
    for route in at(ROUTES, path) {
        allow.push(route.method);
        if route.method == "GET" && takes_head(route.call) {
            allow.push("HEAD");
        }
    }
    if allow.is_empty() { Failure::no_route(request) } else { Failure::wrong_method(allow.join(", ")) }
}

async fn answer(app: &Arc<App>, request: Request, call: Call, names: Names<'_>) -> Answer {
    let [name, device] = names;
    match call {
        Call::Check => check::check(app, request).await,
        Call::Report => check::report(app, request).await,
        Call::ImageByLink => images::by_link(app, request, name).await,
        Call::ImageByToken => images::by_token(app, request, name).await,
        Call::ImageUpload => images::upload(app, request).await,
        Call::UploadBegin => uploads::begin(app, request).await,
        Call::UploadGet => uploads::get(app, request, name).await,
        Call::UploadGoOn => uploads::go_on(app, request, name).await,
        Call::ProductList => products::list(app, request).await,
        Call::ProductGet => products::get(app, request, name).await,
        Call::ProductPut => products::put(app, request, name).await,
        Call::ProductDelete => products::delete(app, request, name).await,
        Call::DeviceList => devices::list(app, request, name).await,
        Call::DeviceGet => devices::get(app, request, name, device).await,
        Call::DevicePut => devices::put(app, request, name, device).await,
        Call::DeviceDelete => devices::delete(app, request, name, device).await,
        Call::DeviceSecretPut => devices::put_secret(app, request, name, device).await,
        Call::DeviceSecretDelete => devices::delete_secret(app, request, name, device).await,
        Call::DeviceExplanation => explanation::get(app, request, name, device).await,
        Call::DeviceImport => import::import(app, request).await,
        Call::FirmwareList => firmware::list(app, request).await,
        Call::FirmwareCreate => firmware::create(app, request).await,
        Call::FirmwareGet => firmware::get(app, request, name).await,
        Call::FirmwareDelete => firmware::delete(app, request, name).await,
        Call::TokenIssue => tokens::issue(app, request).await,
        Call::TokenRevoke => tokens::revoke(app, request, name).await,
        Call::AppCreate => tokens::create_app(app, request).await,
        Call::AppDelete => tokens::delete_app(app, request, name).await,
        Call::SubscriptionList => subscriptions::list(app, request).await,
        Call::SubscriptionCreate => subscriptions::create(app, request).await,
        Call::SubscriptionDelete => subscriptions::delete(app, request, name).await,
        Call::TaskList => tasks::list(app, request).await,
        Call::TaskCreate => tasks::create(app, request).await,
        Call::TaskGet => tasks::get(app, request, name).await,
        Call::TaskDelete => tasks::delete(app, request, name).await,
        Call::TaskAct(action) => tasks::act(app, request, name, action).await,
        Call::UpgradeList => upgrades::list(app, request, name).await,
        Call::UpgradeAct(action) => upgrades::act(app, request, name, device, action).await,
        Call::Events => events::follow(app, request).await,
        Call::Metrics => Ok(root::metrics(app)),
        Call::Health => Ok(root::health()),
        Call::Readiness => root::readiness(app),
        Call::Description => Ok(root::description()),
    }
}

/// A JSON body, whole.
async fn body_of(app: &App, request: Request) -> Result<(Parts, Bytes), Failure> {
    Ok(read_body(request, app.config.limits.body_bytes_max).await?)
}

#[cfg(test)]
mod tests;
