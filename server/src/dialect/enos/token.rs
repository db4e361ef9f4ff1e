//! The token service: an application's key and secret → an access token, as long as it is good the same one.
//!
//! ```text
//!  application ──get: appKey, timestamp, encryption──▶ accessToken, expire (seconds)
//!  application ──refresh: the same, accessToken──────▶ a new one; the old one stays good until its own end
//! ```
//!
//! What is checked, in this order: every field is there (1202) and readable (1004); the application is here (1002); it holds the secret
//! (1003); its clock is right (1004); this encryption was not used before (1001); the token to refresh is its own (1204) and still
//! good (1203). Nothing is remembered of who hasn't shown the secret.

use super::signature::{check_time, encryption, matches};
use crate::app::App;
use crate::auth::{AppSecret, AuthError, IssuedToken, NewToken};
use crate::config::EnosSignature;
use crate::dialect::common::decode::from_json;
use crate::dialect::common::lenient;
use crate::dialect::common::status as common;
use crate::guesses::WrongCredentials;
use crate::http::{BodyError, Reply, Request, json, read_body, retry_after};
use ::http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use sluicegate::Error;
use sluicegate::model::{Role, Timestamp, TokenPurpose};
use std::sync::Arc;

/// The platform's: two hours.
const TTL_S: u64 = 7_200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Status {
    Success = 0,
    EncryptionRepeated = 1001,
    AppKeyUnknown = 1002,
    EncryptionWrong = 1003,
    ParameterInvalid = 1004,
    Internal = 1005,
    ParameterEmpty = 1202,
    TokenExpired = 1203,
    RefreshFailed = 1204,
}

#[derive(Debug)]
struct Refusal {
    status: Status,
    message: String,
    http: StatusCode,
    retry_after_s: Option<u32>,
}

impl Refusal {
    fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), http: StatusCode::OK, retry_after_s: None }
    }

    /// Not the caller's fault: the HTTP status tells it, too.
    fn ours(status: common::Status, message: String) -> Self {
        Self { http: status.http, retry_after_s: status.retry_after_s, ..Self::new(Status::Internal, message) }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Written {
    #[serde(deserialize_with = "lenient::optional_text")]
    app_key: Option<String>,
    #[serde(deserialize_with = "lenient::optional_text")]
    encryption: Option<String>,
    /// As a text: that is what was digested.
    #[serde(deserialize_with = "lenient::optional_text")]
    timestamp: Option<String>,
    #[serde(deserialize_with = "lenient::optional_text")]
    access_token: Option<String>,
}

pub(super) async fn get(app: &App, request: Request) -> Reply {
    reply(current_token(app, request).await)
}

pub(super) async fn refresh(app: &App, request: Request) -> Reply {
    reply(refreshed_token(app, request).await)
}

/// What the application has, if that is still good; else a new token.
async fn current_token(app: &App, request: Request) -> Result<(String, u64), Refusal> {
    let now = app.now();
    let written = read(app, request).await?;
    let owner = owner(app, &written, now).await?;
    let slot = app.enos.token(&owner.id);
    let mut held = slot.lock().await;
    if let Some(token) = &*held
        && opens(app, token, &owner, now)
    {
        return Ok((token.token.clone(), now.seconds_until(token.expires_at)));
    }
    let token = issue(app, &owner, now).await?;
    *held = Some(token.clone());
    Ok((token.token, TTL_S))
}

async fn refreshed_token(app: &App, request: Request) -> Result<(String, u64), Refusal> {
    let now = app.now();
    let written = read(app, request).await?;
    let old = required("accessToken", written.access_token.as_deref())?;
    let owner = owner(app, &written, now).await?;
    match app.auth.authenticate(Some(old), purpose(app), now) {
        Ok(caller) if caller.app.as_ref() == Some(&owner.id) => {}
        Ok(_) => return Err(Refusal::new(Status::RefreshFailed, "accessToken belongs to somebody else; refresh your own")),
        Err(AuthError::Expired) => {
            return Err(Refusal::new(Status::TokenExpired, "accessToken has expired; get a new one instead of refreshing"));
        }
        Err(AuthError::Missing | AuthError::Unknown | AuthError::Certificate) => {
            return Err(Refusal::new(Status::RefreshFailed, "accessToken is not known here; get a new one instead of refreshing"));
        }
    }
    let slot = app.enos.token(&owner.id);
    let mut held = slot.lock().await;
    let token = issue(app, &owner, now).await?;
    *held = Some(token.clone());
    Ok((token.token, TTL_S))
}

/// Whether a token that was issued before is still good: it may have expired, been revoked, or its application moved since.
fn opens(app: &App, token: &IssuedToken, owner: &AppSecret, now: Timestamp) -> bool {
    let caller = app.auth.authenticate(Some(&token.token), purpose(app), now);
    caller.is_ok_and(|caller| caller.organization == owner.organization && now < token.expires_at)
}

/// A token that needs signatures here must not be good without them elsewhere.
fn purpose(app: &App) -> TokenPurpose {
    match app.config.enos.signature {
        EnosSignature::Required => TokenPurpose::Signed,
        EnosSignature::Off => TokenPurpose::Access,
    }
}

async fn issue(app: &App, owner: &AppSecret, now: Timestamp) -> Result<IssuedToken, Refusal> {
    let new = NewToken {
        purpose: purpose(app),
        role: Role::Operator,
        organization: Arc::clone(&owner.organization),
        product_id: None,
        device_id: None,
        app: Some(Arc::clone(&owner.id)),
        ttl_s: TTL_S,
    };
    Ok(app.auth.issue(new, now).await?)
}

async fn read(app: &App, request: Request) -> Result<Written, Refusal> {
    if request.method() != Method::POST {
        let refusal = Refusal::new(Status::ParameterInvalid, "tokens are got and refreshed by POST");
        return Err(Refusal { http: StatusCode::METHOD_NOT_ALLOWED, ..refusal });
    }
    let (_, body) = read_body(request, app.config.limits.body_bytes_max).await?;
    from_json(&body).map_err(|message| Refusal::new(Status::ParameterInvalid, message))
}

/// The application that shows by its encryption that it holds the secret.
async fn owner(app: &App, written: &Written, now: Timestamp) -> Result<AppSecret, Refusal> {
    let app_key = required("appKey", written.app_key.as_deref())?;
    let got = required("encryption", written.encryption.as_deref())?;
    let timestamp = required("timestamp", written.timestamp.as_deref())?;
    let sent_at = lenient::parse_integer(timestamp).and_then(|millis| u64::try_from(millis).ok()).map(Timestamp);
    let sent_at =
        sent_at.ok_or_else(|| Refusal::new(Status::ParameterInvalid, "timestamp must be a number of milliseconds since 1970"))?;
    let owner = app.auth.app(app_key).await?;
    let owner = owner
        .ok_or_else(|| Refusal::new(Status::AppKeyUnknown, "appKey is not known here; create an application, or check the key"))?;
    if !matches(&encryption(app_key, timestamp, &owner.secret), got) {
        return Err(Refusal::new(
            Status::EncryptionWrong,
            "encryption is wrong; expected the lower-case hexadecimal SHA-256 of appKey, timestamp and appSecret",
        ));
    }
    check_time("timestamp", sent_at, now).map_err(|message| Refusal::new(Status::ParameterInvalid, message))?;
    if !app.enos.use_encryption(&owner.id, sent_at) {
        return Err(Refusal::new(Status::EncryptionRepeated, "this encryption was used before; make another with the time of now"));
    }
    Ok(owner)
}

fn required<'a>(name: &str, value: Option<&'a str>) -> Result<&'a str, Refusal> {
    let value = value.map(str::trim).filter(|value| !value.is_empty());
    value.ok_or_else(|| Refusal::new(Status::ParameterEmpty, format!("{name} is required, and is missing or empty; send it")))
}

fn reply(issued: Result<(String, u64), Refusal>) -> Reply {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Data<'a> {
        access_token: &'a str,
        expire: u64,
    }
    #[derive(Serialize)]
    struct Shown<'a> {
        status: u16,
        msg: &'a str,
        business: &'a str,
        data: Option<Data<'a>>,
    }
    let business = "apim-token-service";
    match issued {
        Ok((token, expire)) => {
            let data = Some(Data { access_token: &token, expire });
            json(StatusCode::OK, &Shown { status: Status::Success as u16, msg: "SUCCESS", business, data })
        }
        Err(refusal) => {
            let shown = Shown { status: refusal.status as u16, msg: &refusal.message, business, data: None };
            let mut reply = json(refusal.http, &shown);
            if matches!(refusal.status, Status::AppKeyUnknown | Status::EncryptionWrong) {
                reply.extensions_mut().insert(WrongCredentials);
            }
            match refusal.retry_after_s {
                Some(seconds) => retry_after(reply, seconds),
                None => reply,
            }
        }
    }
}

/// A request of which nothing came, through no fault of its own.
pub(crate) fn refused(status: common::Status, message: String) -> Reply {
    reply(Err(Refusal::ours(status, message)))
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::ours(common::status(&error), error.to_string())
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self::new(Status::ParameterInvalid, error.to_string())
    }
}
