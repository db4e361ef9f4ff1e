//! Who may call what.
//!
//! | calls | admin, operator | user | device |
//! |---|---|---|---|
//! | tasks, firmware, uploads | yes | 403/4031004 | 403/4031004 |
//! | check | previews | previews | itself alone |
//! | report | 403/4031001 | 403/4031001 | itself alone |
//! | newest version, upgrade | yes | yes | 403/4031001 |
//!
//! A token that is bound to a product opens nothing of another one, whatever its role, and one that is bound to a device nothing
//! beside that device: neither tasks nor firmware (403/4031001), nor another device.

use super::status::{Code, Failure};
use crate::app::App;
use crate::auth::Caller;
use crate::http::{Request, header_token};
use ::http::HeaderMap;
use sluicegate::model::{Timestamp, TokenPurpose};

const TOKEN_HEADER: &str = "access-token";

/// Whoever holds a token, or shows the certificate of a device: for what devices call.
pub(super) fn caller(app: &App, request: &Request, now: Timestamp) -> Result<Caller, Failure> {
    let token = header_token(request.headers(), TOKEN_HEADER);
    Ok(app.auth.authenticate_device(token, request.body().peer().certificate.as_deref(), now)?)
}

/// Whoever holds a token.
fn token_holder(app: &App, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Failure> {
    Ok(app.auth.authenticate(header_token(headers, TOKEN_HEADER), TokenPurpose::Access, now)?)
}

/// Whoever manages tasks and firmware.
pub(super) fn operator(app: &App, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Failure> {
    let caller = token_holder(app, headers, now)?;
    if !caller.can_operate() {
        let role = caller.role.name();
        return Err(Failure::new(Code::OperatorNeeded, format!("this call needs an operator's token, got a {role}'s")));
    }
    if caller.is_bound_to_device() {
        return Err(Failure::new(Code::Forbidden, "this token opens one device alone; use one that names no device"));
    }
    app.fair_use.call(&caller)?;
    Ok(caller)
}

/// Whoever looks at a device from outside.
pub(super) fn onlooker(app: &App, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Failure> {
    let caller = token_holder(app, headers, now)?;
    if !caller.can_look() {
        return Err(Failure::new(
            Code::Forbidden,
            "this call needs a user's or an operator's token, got a device's; devices check",
        ));
    }
    app.fair_use.call(&caller)?;
    Ok(caller)
}

pub(super) fn may_open_product(caller: &Caller, product_id: &str) -> Result<(), Failure> {
    if !caller.opens_product(product_id) {
        return Err(Failure::new(Code::Forbidden, "this token is bound to another product; use one that opens it"));
    }
    Ok(())
}

/// A device acts for itself alone; somebody else's token that names a device opens that one alone.
pub(super) fn may_name_device(caller: &Caller, device_id: &str) -> Result<(), Failure> {
    match caller.device_id.as_deref() {
        Some(own) if !caller.opens_device(device_id) => {
            let own: String = own.chars().take(40).collect();
            Err(Failure::new(
                Code::NotThisDevice,
                format!("the token belongs to device {own}, the call names device {device_id}; use that device's token"),
            ))
        }
        None if caller.is_activation_code() => Err(Failure::new(
            Code::Forbidden,
            "this token is an activation code and names no device; activate and log in to get the device's own",
        )),
        _ => Ok(()),
    }
}
