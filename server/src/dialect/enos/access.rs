//! Who may call what, and whether it was really they.
//!
//! | token | signature | get, search, listVersion | create, delete, start, … |
//! |---|---|---|---|
//! | of the token service | needed, unless `[enos] signature = "off"` | yes | yes |
//! | admin's, operator's | not needed | yes | yes |
//! | user's | not needed | yes | 24403 |
//! | device's, or bound to a device | not needed | 24403 | 24403 |
//!
//! A signature that is sent is checked, whatever the table says. A token that is bound to a product opens nothing of another: what names
//! the other one is 24403, and what is found by an id is as good as not there.

use super::Parameters;
use super::signature::{check_time, matches, signature};
use super::status::Failure;
use crate::app::App;
use crate::auth::{AuthError, Caller};
use crate::config::EnosSignature;
use crate::dialect::common::lenient::parse_integer;
use crate::http::header_token;
use ::http::HeaderMap;
use sluicegate::model::{Timestamp, TokenPurpose};
use std::sync::Arc;

const TOKEN_HEADER: &str = "apim-accesstoken";
const TIMESTAMP_HEADER: &str = "apim-timestamp";
const SIGNATURE_HEADER: &str = "apim-signature";

pub(super) fn caller(app: &App, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Failure> {
    let token = header_token(headers, TOKEN_HEADER);
    let caller = match app.auth.authenticate(token, TokenPurpose::Access, now) {
        Err(AuthError::Unknown) => app.auth.authenticate(token, TokenPurpose::Signed, now),
        known => known,
    };
    Ok(caller?)
}

/// Refuses a call whose signature is wrong, or missing where it is needed. `body`: what of it is signed.
pub(super) async fn check_signature(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    parameters: &Parameters,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Failure> {
    let Some(got) = text(headers, SIGNATURE_HEADER) else {
        let is_needed = caller.app.is_some() && app.config.enos.signature == EnosSignature::Required;
        if is_needed {
            return Err(Failure::forbidden(
                "header apim-signature is missing; sign calls that are made with a token of the token service",
            ));
        }
        return Ok(());
    };
    let Some(app_id) = caller.app.as_deref() else {
        return Err(Failure::forbidden(
            "this token was issued to no application, so there is no secret to check apim-signature by; leave that header out",
        ));
    };
    let timestamp = text(headers, TIMESTAMP_HEADER).unwrap_or_default();
    let sent_at = parse_integer(timestamp).and_then(|millis| u64::try_from(millis).ok()).map(Timestamp);
    let Some(sent_at) = sent_at else {
        return Err(Failure::forbidden(
            "header apim-timestamp is missing or no number; send milliseconds since 1970 beside apim-signature",
        ));
    };
    check_time("apim-timestamp", sent_at, now).map_err(Failure::forbidden)?;
    // An application that was deleted has no secret any more, and its tokens open nothing here.
    let Some(secret) = app.auth.app(app_id).await? else {
        return Err(Failure::forbidden("the application of this token is not here any more; get a token for another"));
    };
    let token = header_token(headers, TOKEN_HEADER).unwrap_or_default();
    if !matches(&signature(token, &parameters.0, body, timestamp, &secret.secret), got) {
        return Err(Failure::forbidden(
            "apim-signature is wrong; expected the SHA-256 of token, parameters, body, timestamp and secret as docs/enos.md tells",
        )
        .wrong_credentials());
    }
    Ok(())
}

/// Whether the caller's role lets it do this.
pub(super) fn may(caller: &Caller, changes: bool) -> Result<(), Failure> {
    if caller.is_bound_to_device() {
        return Err(Failure::forbidden("this token opens one device alone; use one that names no device"));
    }
    let role = caller.role.name();
    if changes && !caller.can_operate() {
        return Err(Failure::forbidden(format!("this action needs an operator's or an application's token, got a {role}'s")));
    }
    if !caller.can_look() {
        return Err(Failure::forbidden(format!(
            "this action needs a user's, an operator's or an application's token, got a {role}'s"
        )));
    }
    Ok(())
}

/// The organization to act in.
pub(super) fn organization(app: &App, caller: &Caller, named: &str) -> Result<Arc<str>, Failure> {
    let organization = caller.organization_for(Some(named))?;
    let bytes_max = app.engine.limits().id_bytes_max;
    if organization.len() > bytes_max || organization.chars().any(char::is_control) {
        return Err(Failure::invalid(format!(
            "orgId has {} bytes; give 1 to {bytes_max} without control characters",
            organization.len()
        )));
    }
    Ok(organization)
}

/// The product that the call names.
pub(super) fn may_name_product(caller: &Caller, product_id: &str) -> Result<(), Failure> {
    if caller.opens_product(product_id) {
        return Ok(());
    }
    Err(Failure::forbidden("productKey names a product that this token does not open; name the token's own"))
}

/// A header's value; an empty one is as good as none.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    // What can't be read is no text that was signed: it is as wrong as any other.
    let value = headers.get(name)?.to_str().unwrap_or("?").trim();
    (!value.is_empty()).then_some(value)
}
