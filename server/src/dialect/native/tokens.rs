//! Tokens and applications: who may call.

use super::decode::{self, AppBody, TokenBody};
use super::encode::{Id, Time};
use super::failure::Failure;
use super::{Answer, access, body_of};
use crate::app::App;
use crate::auth::{Caller, NewToken};
use crate::http::{Query, Request, empty, json};
use ::http::StatusCode;
use serde::Serialize;
use sluicegate::model::{Role, TokenId, TokenPurpose};
use sluicegate::{Entity, Error};

/// A device comes back once a month at the least; a person logs in once a day.
const DEVICE_TTL_S_DEFAULT: u64 = 30 * DAY_S;
const TTL_S_DEFAULT: u64 = DAY_S;
/// A device in the field for longer gets a new token by then.
const TTL_S_MAX: u64 = 3_650 * DAY_S;
const DAY_S: u64 = 86_400;

#[derive(Serialize)]
struct IssuedShown<'a> {
    id: Id<TokenId>,
    token: &'a str,
    expires_at: Time,
}

pub(super) async fn issue(app: &App, request: Request) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    refuse_application(&caller)?;
    let query = request.uri().query().map(str::to_owned);
    let query = Query::parse(query.as_deref())?;
    let (_, body) = body_of(app, request).await?;
    let body: TokenBody = decode::parse(&body)?;
    let named = body.organization.as_deref().or_else(|| access::named(&query));
    let organization = access::named_organization(app, &caller, named)?;
    let role = body.role()?;
    may_issue(&caller, role, body.product_id.as_deref())?;
    if body.device_id.is_some() && body.product_id.is_none() {
        return Err(Failure::invalid("device_id is given without product_id; a device is named by both"));
    }
    let ttl_s = ttl_s(role, body.ttl_s.map(|ttl_s| ttl_s.0))?;
    let new = NewToken {
        purpose: TokenPurpose::Access,
        role,
        organization,
        product_id: body.product_id.map(Into::into),
        device_id: body.device_id.map(Into::into),
        app: None,
        ttl_s,
    };
    let issued = app.auth.issue(new, now).await?;
    let shown = IssuedShown { id: Id(issued.id), token: &issued.token, expires_at: Time(issued.expires_at) };
    Ok(json(StatusCode::CREATED, &shown))
}

/// An application logs in for a while, perhaps with calls that have to be signed; what it could issue here would outlast both.
fn refuse_application(caller: &Caller) -> Result<(), Failure> {
    match caller.app {
        Some(_) => Err(Failure::forbidden("an application's token issues neither tokens nor applications; use an operator's own")),
        None => Ok(()),
    }
}

/// Nobody gives what it doesn't have: an operator issues no administrator's token, and one of a product none beyond that product.
fn may_issue(caller: &Caller, role: Role, product_id: Option<&str>) -> Result<(), Failure> {
    if role == Role::Admin && caller.role != Role::Admin {
        return Err(Failure::forbidden("an operator's token issues operator, user and device tokens, not admin ones"));
    }
    match &caller.product_id {
        Some(own) if product_id != Some(&**own) => {
            Err(Failure::forbidden("this token opens one product and issues tokens of that product only; name it in product_id"))
        }
        _ => Ok(()),
    }
}

fn ttl_s(role: Role, wanted: Option<u64>) -> Result<u64, Failure> {
    match wanted {
        None if role == Role::Device => Ok(DEVICE_TTL_S_DEFAULT),
        None => Ok(TTL_S_DEFAULT),
        Some(ttl_s) if (1..=TTL_S_MAX).contains(&ttl_s) => Ok(ttl_s),
        Some(ttl_s) => Err(Failure::invalid(format!("ttl_s is {ttl_s}; give 1 to {TTL_S_MAX} seconds"))),
    }
}

pub(super) async fn revoke(app: &App, request: Request, id: &str) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let unknown = || Error::not_found(Entity::Token, id);
    let parsed: TokenId = id.parse().map_err(|_| unknown())?;
    if caller.role == Role::Admin {
        app.engine.revoke_token(None, parsed, now).await?;
        return Ok(empty(StatusCode::NO_CONTENT));
    }
    let is_below = app.engine.token(parsed).is_some_and(|token| {
        let is_of_product = caller.product_id.is_none() || caller.product_id == token.product_id;
        token.role != Role::Admin && is_of_product
    });
    if !is_below {
        return Err(unknown().into());
    }
    app.engine.revoke_token(Some(&caller.organization), parsed, now).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

#[derive(Serialize)]
struct AppShown<'a> {
    id: &'a str,
    secret: &'a str,
}

pub(super) async fn create_app(app: &App, request: Request) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    refuse_product_bound(&caller)?;
    refuse_application(&caller)?;
    let query = request.uri().query().map(str::to_owned);
    let query = Query::parse(query.as_deref())?;
    let (_, body) = body_of(app, request).await?;
    let body: AppBody = decode::parse_or_empty(&body)?;
    let named = body.organization.as_deref().or_else(|| access::named(&query));
    let organization = access::named_organization(app, &caller, named)?;
    let created = app.auth.create_app(organization, now).await?;
    Ok(json(StatusCode::CREATED, &AppShown { id: &created.id, secret: &created.secret }))
}

pub(super) async fn delete_app(app: &App, request: Request, id: &str) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    refuse_product_bound(&caller)?;
    let organization = (caller.role != Role::Admin).then_some(&*caller.organization);
    app.engine.delete_app(organization, id, now).await?;
    app.webhooks.changed();
    Ok(empty(StatusCode::NO_CONTENT))
}

/// An application opens its whole organization, a subscription tells of all of it.
pub(super) fn refuse_product_bound(caller: &Caller) -> Result<(), Failure> {
    match caller.product_id {
        Some(_) => Err(Failure::forbidden(
            "this token opens one product, what is asked for the whole organization; use one without a product",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(role: Role, product_id: Option<&str>) -> Caller {
        Caller {
            role,
            organization: "acme".into(),
            product_id: product_id.map(Into::into),
            device_id: None,
            token: None,
            app: None,
        }
    }

    #[test]
    fn nobody_issues_more_than_it_has() {
        let operator = caller(Role::Operator, None);
        assert!(may_issue(&operator, Role::Operator, None).is_ok());
        assert_eq!(may_issue(&operator, Role::Admin, None).unwrap_err().code, "forbidden");
        assert!(may_issue(&caller(Role::Admin, None), Role::Admin, None).is_ok());
        let bound = caller(Role::Operator, Some("pump"));
        assert!(may_issue(&bound, Role::Device, Some("pump")).is_ok());
        assert!(may_issue(&bound, Role::Device, Some("fan")).is_err());
        assert!(may_issue(&bound, Role::User, None).is_err());
    }

    #[test]
    fn a_life_time_has_a_default_and_bounds() {
        assert_eq!(ttl_s(Role::Device, None), Ok(2_592_000));
        assert_eq!(ttl_s(Role::Operator, None), Ok(86_400));
        assert_eq!(ttl_s(Role::User, Some(1)), Ok(1));
        assert!(ttl_s(Role::User, Some(0)).is_err());
        assert!(ttl_s(Role::User, Some(u64::MAX)).unwrap_err().message.contains("315360000"));
    }
}
