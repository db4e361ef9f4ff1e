//! Who may call what.
//!
//! | calls | admin, operator | user | device |
//! |---|---|---|---|
//! | products, devices, firmware, tasks, images, tokens, applications | yes | may look | 403 |
//! | check | previews | previews | itself alone |
//! | report | admin | 403 | itself alone |
//! | confirm, decline an upgrade | yes | itself alone | itself alone |
//! | events | yes | yes | 403 |
//! | image by token | yes | yes | yes, but for an activation code |
//!
//! A device's own calls (those that say "itself alone", and images) take the certificate that names it instead of a token.
//!
//! A token that names a product opens nothing of another, whatever its role, and one that names a device nothing beside that device.
//! What is *named* in a request and not the caller's is 403; what is *found* by an id and not the caller's is 404, as if it weren't there,
//! so a token never learns whether foreign things exist.

use super::failure::Failure;
use crate::app::App;
use crate::auth::Caller;
use crate::http::{Query, Request, bearer};
use ::http::HeaderMap;
use sluicegate::model::{Role, Timestamp, TokenPurpose};
use std::sync::Arc;

/// Whoever holds a token, or shows the certificate of a device: for what devices call.
pub(super) fn caller(app: &App, request: &Request, now: Timestamp) -> Result<Caller, Failure> {
    Ok(app.auth.authenticate_device(bearer(request.headers()), request.body().peer().certificate.as_deref(), now)?)
}

/// Whoever holds a token.
fn token_holder(app: &App, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Failure> {
    Ok(app.auth.authenticate(bearer(headers), TokenPurpose::Access, now)?)
}

/// Whoever manages the organization, or one product of it.
pub(super) fn operator(app: &App, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Failure> {
    let caller = operator_of_something(app, headers, now)?;
    refuse_bound_to_device(&caller)?;
    Ok(caller)
}

/// Whoever manages the product.
pub(super) fn operator_of(app: &App, headers: &HeaderMap, now: Timestamp, product_id: &str) -> Result<Caller, Failure> {
    let caller = operator(app, headers, now)?;
    may_open_product(&caller, product_id)?;
    Ok(caller)
}

/// Whoever manages the device.
pub(super) fn operator_of_device(
    app: &App,
    headers: &HeaderMap,
    now: Timestamp,
    product_id: &str,
    device_id: &str,
) -> Result<Caller, Failure> {
    let caller = operator_of_something(app, headers, now)?;
    may_open_device(&caller, product_id, device_id)?;
    Ok(caller)
}

/// Whoever may look at the organization, or at one product of it.
pub(super) fn onlooker(app: &App, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Failure> {
    let caller = onlooker_of_something(app, headers, now)?;
    refuse_bound_to_device(&caller)?;
    Ok(caller)
}

/// Whoever may look at the product.
pub(super) fn onlooker_of(app: &App, headers: &HeaderMap, now: Timestamp, product_id: &str) -> Result<Caller, Failure> {
    let caller = onlooker(app, headers, now)?;
    may_open_product(&caller, product_id)?;
    Ok(caller)
}

/// Whoever may look at the device.
pub(super) fn onlooker_of_device(
    app: &App,
    headers: &HeaderMap,
    now: Timestamp,
    product_id: &str,
    device_id: &str,
) -> Result<Caller, Failure> {
    let caller = onlooker_of_something(app, headers, now)?;
    may_open_device(&caller, product_id, device_id)?;
    Ok(caller)
}

/// Whoever manages the organization, or whoever stands in front of a device with a token of that very device. Which one, is for
/// [`may_open_device`] to look at.
pub(super) fn operator_or_device(app: &App, request: &Request, now: Timestamp) -> Result<Caller, Failure> {
    let caller = caller(app, request, now)?;
    if caller.can_operate() || caller.is_bound_to_device() {
        app.fair_use.call(&caller)?;
        return Ok(caller);
    }
    Err(Failure::forbidden(format!(
        "this call needs an operator's token or one of the very device, got a {}'s that names no device",
        caller.role.name()
    )))
}

fn operator_of_something(app: &App, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Failure> {
    let caller = token_holder(app, headers, now)?;
    if !caller.can_operate() {
        return Err(Failure::forbidden(format!("this call needs an operator's token, got a {}'s", caller.role.name())));
    }
    app.fair_use.call(&caller)?;
    Ok(caller)
}

fn onlooker_of_something(app: &App, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Failure> {
    let caller = token_holder(app, headers, now)?;
    if !caller.can_look() {
        return Err(Failure::forbidden(
            "this call needs a user's or an operator's token, got a device's; devices check and report",
        ));
    }
    app.fair_use.call(&caller)?;
    Ok(caller)
}

fn refuse_bound_to_device(caller: &Caller) -> Result<(), Failure> {
    if caller.is_bound_to_device() {
        return Err(Failure::forbidden("this token opens one device alone; use one that names no device"));
    }
    Ok(())
}

pub(super) fn may_open_product(caller: &Caller, product_id: &str) -> Result<(), Failure> {
    if caller.opens_product(product_id) {
        return Ok(());
    }
    Err(Failure::forbidden("this token opens another product; use one of this product"))
}

pub(super) fn may_open_device(caller: &Caller, product_id: &str, device_id: &str) -> Result<(), Failure> {
    may_open_product(caller, product_id)?;
    if caller.may_act_for_device(product_id, device_id) {
        return Ok(());
    }
    let what =
        if caller.role == Role::Device { "a device's token opens that device alone" } else { "this token opens another device" };
    Err(Failure::forbidden(format!("{what}; use the token of this product and device")))
}

/// Whoever may have an image by its hash: everybody of the organization, but not whoever is still to be activated.
pub(super) fn may_open_images(caller: &Caller) -> Result<(), Failure> {
    if caller.is_activation_code() {
        return Err(Failure::forbidden("this token is an activation code and opens no image; use the token of a device"));
    }
    Ok(())
}

/// The organization to act in: the caller's own, or for the administrator the one that `organization` or `orgId` of the query names.
pub(super) fn organization(app: &App, caller: &Caller, query: &Query<'_>) -> Result<Arc<str>, Failure> {
    named_organization(app, caller, named(query))
}

/// The same where the body may name it.
pub(super) fn named_organization(app: &App, caller: &Caller, named: Option<&str>) -> Result<Arc<str>, Failure> {
    let organization = caller.organization_for(named)?;
    let bytes_max = app.engine.limits().id_bytes_max;
    if !(1..=bytes_max).contains(&organization.len()) || organization.chars().any(char::is_control) {
        return Err(Failure::invalid(format!(
            "organization has {} bytes; give 1 to {bytes_max} without control characters",
            organization.len()
        )));
    }
    Ok(organization)
}

/// What the query names as the organization.
pub(super) fn named<'a>(query: &'a Query<'_>) -> Option<&'a str> {
    query.get("organization").or_else(|| query.get("orgId"))
}
