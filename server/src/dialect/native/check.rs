//! A device asks what to do, and tells how it goes.

use super::decode::{self, CheckBody, ReportBody};
use super::encode::OfferShown;
use super::failure::Failure;
use super::{Answer, access};
use crate::app::App;
use crate::dialect::common::check::decide;
use crate::http::{Query, Reply, Request, json, json_bytes, read_body, retry_after};
use ::http::header::RETRY_AFTER;
use ::http::{HeaderValue, StatusCode};
use bytes::Bytes;
use serde::Serialize;
use sluicegate::model::{Role, UpgradeId};
use sluicegate::{Check, CheckRules, Decision, DeviceRef, Entity, Error, Offer, Report};

/// A check or a report with every field at its bound; nobody may make a server hold more for a device.
const BODY_BYTES_MAX: usize = 16 << 10;

pub(super) async fn check(app: &App, request: Request) -> Answer {
    let now = app.now();
    let caller = access::caller(app, &request, now)?;
    let limit = BODY_BYTES_MAX.min(app.config.limits.body_bytes_max);
    let (parts, body) = read_body(request, limit).await?;
    let asked: CheckBody<'_> = decode::parse(&body)?;
    access::may_open_device(&caller, &asked.product_id, &asked.device_id)?;
    let organization = match parts.uri.query() {
        None => caller.organization.clone(),
        query => access::organization(app, &caller, &Query::parse(query)?)?,
    };
    let preview = caller.role != Role::Device;
    let check = Check {
        device: DeviceRef { organization: &organization, product_id: &asked.product_id, device_id: &asked.device_id },
        component: decode::component(asked.component_type, asked.identify),
        version: &asked.version,
        rules: CheckRules { preview, only_while_started: false, register: app.registers() },
    };
    Ok(match decide(app, &check, now).await? {
        Decision::UpToDate => nothing(&UP_TO_DATE),
        Decision::NoTask => nothing(&NO_TASK),
        Decision::Wait(wait) => wait_for(wait.reason.name(), wait.retry_after_s.max(1)),
        Decision::Offer(offer) => {
            let url = app.artifact_url(&offer.task.row().artifact, offer.id, now);
            offered(&offer, &url)
        }
    })
}

#[derive(Serialize)]
struct Offered<'a> {
    upgrade: OfferShown<'a>,
}

fn offered(offer: &Offer, url: &str) -> Reply {
    json(StatusCode::OK, &Offered { upgrade: OfferShown::new(offer, url) })
}

/// What a fleet is told all day is written once. Five minutes bring a new task to the whole fleet soon, and a million devices that ask
/// this often are some 3,300 checks a second.
struct Nothing {
    body: &'static str,
    retry_after: HeaderValue,
}

static UP_TO_DATE: Nothing =
    Nothing { body: r#"{"upgrade":null,"reason":"up_to_date","retry_after_s":300}"#, retry_after: HeaderValue::from_static("300") };
static NO_TASK: Nothing =
    Nothing { body: r#"{"upgrade":null,"reason":"no_task","retry_after_s":300}"#, retry_after: HeaderValue::from_static("300") };

fn nothing(told: &'static Nothing) -> Reply {
    let mut reply = json_bytes(StatusCode::OK, Bytes::from_static(told.body.as_bytes()));
    reply.headers_mut().insert(RETRY_AFTER, told.retry_after.clone());
    reply
}

fn wait_for(reason: &'static str, retry_after_s: u32) -> Reply {
    // The reasons are ours and need no escaping.
    let body = format!(r#"{{"upgrade":null,"reason":"{reason}","retry_after_s":{retry_after_s}}}"#);
    retry_after(json_bytes(StatusCode::OK, Bytes::from(body)), retry_after_s)
}

pub(super) async fn report(app: &App, request: Request) -> Answer {
    let now = app.now();
    let caller = access::caller(app, &request, now)?;
    if !matches!(caller.role, Role::Device | Role::Admin) {
        let role = caller.role.name();
        return Err(Failure::forbidden(format!("only the device itself reports, with its own token; got {role}'s token")));
    }
    let limit = BODY_BYTES_MAX.min(app.config.limits.body_bytes_max);
    let (parts, body) = read_body(request, limit).await?;
    let told: ReportBody<'_> = decode::parse(&body)?;
    access::may_open_device(&caller, &told.product_id, &told.device_id)?;
    let organization = access::organization(app, &caller, &Query::parse(parts.uri.query())?)?;
    let (state, percent, code) = (told.state()?, told.percent()?, told.code());
    // A text that is no id names an upgrade that isn't there.
    let upgrade: UpgradeId = told.upgrade_id.parse().map_err(|_| Error::not_found(Entity::Upgrade, &told.upgrade_id))?;
    let device = DeviceRef { organization: &organization, product_id: &told.product_id, device_id: &told.device_id }.to_owned();
    app.engine.report(Report { device, upgrade, state, percent, detail: told.detail, code }, now).await?;
    Ok(json_bytes(StatusCode::OK, Bytes::from_static(b"{}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[test]
    fn a_no_says_why_and_when_to_come_back_in_body_and_header() {
        for (reply, reason, retry_after_s) in
            [(wait_for("cap", 17), "cap", "17"), (nothing(&UP_TO_DATE), "up_to_date", "300"), (nothing(&NO_TASK), "no_task", "300")]
        {
            assert_eq!(reply.headers()["retry-after"], retry_after_s);
            let body = reply.into_body().collect();
            let body = std::pin::pin!(body);
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let std::task::Poll::Ready(Ok(body)) = std::future::Future::poll(body, &mut context) else {
                panic!("the body is at hand")
            };
            let expected = format!(r#"{{"upgrade":null,"reason":"{reason}","retry_after_s":{retry_after_s}}}"#);
            assert_eq!(body.to_bytes(), expected);
        }
    }
}
