//! Who may call what, and how often.
//!
//! | header | says |
//! |---|---|
//! | `app_key` | the application's id; beside a native token, the organization to act in |
//! | `Authorization: Bearer …` | a token of this application, or a native one |
//!
//! The two must agree. Whatever is wrong with them is 403/1010005, since applications log in anew upon that and upon nothing else; and only
//! then the calls are counted (403/1010009), so that nobody uses up the calls of another. To look takes a user, to change an
//! operator. A device's token, and one that is bound to a device, open nothing here.

use super::status::{Code, Failure};
use crate::app::App;
use crate::auth::{AuthError, Caller};
use crate::dialect::common::hexadecimal::to_hexadecimal;
use crate::http::bearer;
use ::http::HeaderMap;
use sha2::{Digest as _, Sha256};
use sluicegate::model::{AppId, SubscriptionId, Timestamp, TokenPurpose};
use std::sync::Arc;

const APP_KEY: &str = "app_key";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    Look,
    Change,
}

/// A call whose caller is known, let in, and not calling too often.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) app: &'a App,
    pub(super) organization: Arc<str>,
    pub(super) now: Timestamp,
    caller: Caller,
}

impl<'a> Call<'a> {
    pub(super) fn begin(app: &'a App, headers: &HeaderMap, right: Right) -> Result<Self, Failure> {
        let now = app.now();
        let (caller, organization) = caller(app, headers, now)?;
        let may = match right {
            Right::Look => caller.can_look(),
            Right::Change => caller.can_operate(),
        };
        if !may || caller.is_bound_to_device() {
            let role = caller.role.name();
            return Err(invalid(format!("this token ({role}) does not open this call; log in as an application")));
        }
        match &caller.app {
            Some(id) => app.huawei.calls.check(&("application", id)),
            None => match caller.token {
                Some(token) => app.huawei.calls.check(&("token", token.0)),
                // The administrator's own is never refused, so that somebody can always look.
                None => Ok(()),
            },
        }?;
        Ok(Self { app, organization, now, caller })
    }

    /// What isn't of a product that the caller opens isn't there for it.
    pub(super) fn opens(&self, product_id: &str) -> bool {
        self.caller.opens_product(product_id)
    }

    /// What tells of the whole organization isn't for a token that opens one product.
    pub(super) fn refuse_product_bound(&self) -> Result<(), Failure> {
        match self.caller.product_id {
            Some(_) => Err(invalid("this token opens one product, notifications tell of the whole organization")),
            None => Ok(()),
        }
    }

    /// The application that calls; absent with a native token.
    pub(super) fn app_id(&self) -> Option<AppId> {
        self.caller.app.clone()
    }

    /// The same for the same caller and kind, so that a new subscription replaces the one before.
    pub(super) fn subscription_id(&self, notify_type: &str) -> SubscriptionId {
        let subscriber = self.caller.app.as_deref().unwrap_or(&self.organization);
        let kind = if self.caller.app.is_some() { "application" } else { "organization" };
        let mut hasher = Sha256::new();
        for part in ["huawei subscription", kind, subscriber, notify_type] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        to_hexadecimal(&hasher.finalize()[..12]).into()
    }

    /// The only product that the caller opens, where it is bound to one.
    pub(super) fn own_product(&self) -> Option<&str> {
        self.caller.product_id.as_deref()
    }
}

/// Who calls, and in which organization.
fn caller(app: &App, headers: &HeaderMap, now: Timestamp) -> Result<(Caller, Arc<str>), Failure> {
    let app_key = headers.get(APP_KEY).and_then(|value| value.to_str().ok()).map(str::trim).filter(|text| !text.is_empty());
    let app_key = app_key.ok_or_else(|| invalid("header app_key is missing; send the application's id in it"))?;
    let caller = app.auth.authenticate(bearer(headers), TokenPurpose::Access, now).map_err(|error| match error {
        AuthError::Missing => invalid("header Authorization is missing; log in and send Bearer and the accessToken in it"),
        AuthError::Unknown | AuthError::Certificate => {
            invalid("the accessToken is not known here; it may have been replaced by a later login: log in again")
                .wrong_credentials()
        }
        AuthError::Expired => invalid("the accessToken has expired; log in again or refresh it"),
    })?;
    let organization = match &caller.app {
        Some(id) if **id == *app_key => Arc::clone(&caller.organization),
        Some(_) => return Err(invalid("app_key names another application than the accessToken was issued to")),
        None => caller
            .organization_for(Some(app_key))
            .map_err(|_| invalid("beside a native token app_key is the organization; this token belongs to another"))?,
    };
    Ok((caller, organization))
}

fn invalid(detail: impl Into<String>) -> Failure {
    Failure::new(Code::TokenInvalid, detail)
}
