//! The native API: `/api/v1`, and at the root signed image links, metrics, health and the description of it all.
//!
//! - [`decode`]: JSON → what is wanted, every field checked; [`encode`]: the engine's rows → JSON; [`task_json`] and [`policy_json`]:
//!   both, for tasks; [`outlook`]: where a task is heading; [`whole`]: numbers;
//! - [`access`]: who may call what; [`failure`]: why not, as `{"error":{"code","message"}}`; [`page`]: lists and their cursors;
//! - one file per group of calls: [`products`], [`images`] (in pieces: [`uploads`]), [`firmware`], [`devices`] (many at once: [`import`]), [`tokens`],
//!   [`tasks`], [`upgrades`], [`explanation`], [`check`], [`events`] (to receivers: [`subscriptions`]), [`root`].
//!
//! Calls are written down in `openapi.json`, which is served as it stands, and in `docs/api.md`.
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
use crate::http::path::segments;
use crate::http::{Reply, Request, read_body};
use ::http::Method;
use ::http::request::Parts;
use bytes::Bytes;
use failure::Failure;
use sluicegate::model::Event;
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
    match route(app, request).await {
        Ok(reply) => reply,
        Err(failure) => failure.into_reply(),
    }
}

/// What is answered where a request came to nothing.
pub(crate) fn refusal(error: sluicegate::Error) -> Reply {
    Failure::from(error).into_reply()
}

async fn route(app: &Arc<App>, request: Request) -> Answer {
    // What a fleet calls all day goes without taking the path apart.
    if request.method() == Method::POST {
        match request.uri().path() {
            "/api/v1/check" => return check::check(app, request).await,
            "/api/v1/report" => return check::report(app, request).await,
            _ => {}
        }
    }
    let path = request.uri().path().to_owned();
    let segments = segments(&path)?;
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    match segments.as_slice() {
        ["api", "v1", call @ ..] => route_call(app, request, call).await,
        _ => route_root(app, request, &segments).await,
    }
}

async fn route_call(app: &Arc<App>, request: Request, path: &[&str]) -> Answer {
    // A HEAD is a GET whose body hyper leaves out; images and event streams look at the method themselves.
    let method = match request.method().as_str() {
        "HEAD" if !matches!(path, ["events"]) => "GET",
        method => method,
    }
    .to_owned();
    let method = method.as_str();
    match path {
        ["products"] => match method {
            "GET" => products::list(app, request).await,
            _ => wrong_method("GET, HEAD"),
        },
        ["products", product] => match method {
            "GET" => products::get(app, request, product).await,
            "PUT" => products::put(app, request, product).await,
            "DELETE" => products::delete(app, request, product).await,
            _ => wrong_method("GET, HEAD, PUT, DELETE"),
        },
        ["products", product, "devices"] => match method {
            "GET" => devices::list(app, request, product).await,
            _ => wrong_method("GET, HEAD"),
        },
        ["products", product, "devices", device] => match method {
            "GET" => devices::get(app, request, product, device).await,
            "PUT" => devices::put(app, request, product, device).await,
            "DELETE" => devices::delete(app, request, product, device).await,
            _ => wrong_method("GET, HEAD, PUT, DELETE"),
        },
        ["products", product, "devices", device, "secret"] => match method {
            "PUT" => devices::put_secret(app, request, product, device).await,
            "DELETE" => devices::delete_secret(app, request, product, device).await,
            _ => wrong_method("PUT, DELETE"),
        },
        ["products", product, "devices", device, "explanation"] => match method {
            "GET" => explanation::get(app, request, product, device).await,
            _ => wrong_method("GET, HEAD"),
        },
        ["devices"] => match method {
            "POST" => import::import(app, request).await,
            _ => wrong_method("POST"),
        },
        ["images"] => match method {
            "POST" => images::upload(app, request).await,
            _ => wrong_method("POST"),
        },
        ["images", image] => match method {
            "GET" => images::by_token(app, request, image).await,
            _ => wrong_method("GET, HEAD"),
        },
        ["uploads"] => match method {
            "POST" => uploads::begin(app, request).await,
            _ => wrong_method("POST"),
        },
        ["uploads", id] => match method {
            "GET" => uploads::get(app, request, id).await,
            "PATCH" => uploads::go_on(app, request, id).await,
            _ => wrong_method("GET, HEAD, PATCH"),
        },
        ["firmware"] => match method {
            "GET" => firmware::list(app, request).await,
            "POST" => firmware::create(app, request).await,
            _ => wrong_method("GET, HEAD, POST"),
        },
        ["firmware", id] => match method {
            "GET" => firmware::get(app, request, id).await,
            "DELETE" => firmware::delete(app, request, id).await,
            _ => wrong_method("GET, HEAD, DELETE"),
        },
        ["tokens"] => match method {
            "POST" => tokens::issue(app, request).await,
            _ => wrong_method("POST"),
        },
        ["tokens", id] => match method {
            "DELETE" => tokens::revoke(app, request, id).await,
            _ => wrong_method("DELETE"),
        },
        ["apps"] => match method {
            "POST" => tokens::create_app(app, request).await,
            _ => wrong_method("POST"),
        },
        ["apps", id] => match method {
            "DELETE" => tokens::delete_app(app, request, id).await,
            _ => wrong_method("DELETE"),
        },
        ["subscriptions"] => match method {
            "GET" => subscriptions::list(app, request).await,
            "POST" => subscriptions::create(app, request).await,
            _ => wrong_method("GET, HEAD, POST"),
        },
        ["subscriptions", id] => match method {
            "DELETE" => subscriptions::delete(app, request, id).await,
            _ => wrong_method("DELETE"),
        },
        ["tasks", of_tasks @ ..] => route_tasks(app, request, method, of_tasks).await,
        ["check" | "report"] => wrong_method("POST"),
        ["events"] => match method {
            "GET" => events::follow(app, request).await,
            _ => wrong_method("GET"),
        },
        _ => Err(Failure::no_route(&request)),
    }
}

async fn route_tasks(app: &Arc<App>, request: Request, method: &str, path: &[&str]) -> Answer {
    match path {
        [] => match method {
            "GET" => tasks::list(app, request).await,
            "POST" => tasks::create(app, request).await,
            _ => wrong_method("GET, HEAD, POST"),
        },
        [id] => match method {
            "GET" => tasks::get(app, request, id).await,
            "DELETE" => tasks::delete(app, request, id).await,
            _ => wrong_method("GET, HEAD, DELETE"),
        },
        [id, "upgrades"] => match method {
            "GET" => upgrades::list(app, request, id).await,
            _ => wrong_method("GET, HEAD"),
        },
        [id, "upgrades", device, verb] => match (upgrades::action(verb), method) {
            (None, _) => Err(Failure::no_route(&request)),
            (Some(action), "POST") => upgrades::act(app, request, id, device, action).await,
            _ => wrong_method("POST"),
        },
        [id, verb] => match (tasks::action(verb), method) {
            (None, _) => Err(Failure::no_route(&request)),
            (Some(action), "POST") => tasks::act(app, request, id, action).await,
            _ => wrong_method("POST"),
        },
        _ => Err(Failure::no_route(&request)),
    }
}

async fn route_root(app: &Arc<App>, request: Request, path: &[&str]) -> Answer {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    match path {
        ["images", _] | ["metrics" | "healthz" | "readyz" | "openapi.json"] if !is_read => wrong_method("GET, HEAD"),
        ["images", image] => images::by_link(app, request, image).await,
        ["metrics"] => Ok(root::metrics(app)),
        ["healthz"] => Ok(root::health()),
        ["readyz"] => root::readiness(app),
        ["openapi.json"] => Ok(root::description()),
        _ => Err(Failure::no_route(&request)),
    }
}

fn wrong_method(allow: &'static str) -> Answer {
    Err(Failure::wrong_method(allow))
}

/// A JSON body, whole.
async fn body_of(app: &App, request: Request) -> Result<(Parts, Bytes), Failure> {
    Ok(read_body(request, app.config.limits.body_bytes_max).await?)
}

#[cfg(test)]
mod tests;
