//! Ways to a token: an application's id and secret, and what renews and ends it.
//!
//! ```text
//!  application ──login: appId, secret──────────────────▶ accessToken (1 h), refreshToken (1 month)
//!  application ──refreshToken: appId, secret, refreshToken──▶ a new pair
//!  application ──logout: accessToken───────────────────▶ neither opens anything more
//! ```
//!
//! Invariant: only the latest token of an application is valid, also across a restart. It holds by construction: the id of its access
//! token follows from the application's, and so does that of its refresh token, so there is one row of each, and a new token takes
//! the place of the one before. Tokens that the application got in another platform's way have other ids and live on.

use super::status::{Code, Failure};
use super::{Answer, body_of};
use crate::app::App;
use crate::auth::{Caller, NewToken};
use crate::dialect::common::decode::from_json;
use crate::dialect::common::lenient;
use crate::http::{Query, Request, bearer, empty, json};
use ::http::StatusCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sluicegate::model::{AppId, Role, Timestamp, TokenId, TokenPurpose};
use sluicegate::{Entity, Error};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The platform's.
const ACCESS_TTL_S: u64 = 3_600;
/// A month, as the platform says.
const REFRESH_TTL_S: u64 = 30 * 24 * 3_600;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Written {
    #[serde(deserialize_with = "lenient::optional_text")]
    app_id: Option<String>,
    #[serde(deserialize_with = "lenient::optional_text")]
    secret: Option<String>,
    #[serde(deserialize_with = "lenient::optional_text")]
    refresh_token: Option<String>,
    #[serde(deserialize_with = "lenient::optional_text")]
    access_token: Option<String>,
}

impl Written {
    /// JSON or a form: the platform's pages use both, and clients don't always say which.
    pub(super) fn read(body: &[u8]) -> Result<Self, Failure> {
        let text = body.trim_ascii();
        if text.first() == Some(&b'{') {
            return from_json(text).map_err(Failure::bad_request);
        }
        let text = std::str::from_utf8(text).map_err(|_| Failure::bad_request("the form is not UTF-8"))?;
        let form = Query::parse(Some(text)).map_err(|_| Failure::bad_request("the form has a broken percent sequence"))?;
        let field = |name| form.get(name).map(str::to_owned);
        Ok(Self {
            app_id: field("appId"),
            secret: field("secret"),
            refresh_token: field("refreshToken"),
            access_token: field("accessToken"),
        })
    }
}

/// An application that has shown its secret.
struct Owner {
    id: AppId,
    organization: Arc<str>,
}

pub(super) async fn login(app: &App, request: Request) -> Answer {
    let now = app.now();
    let written = Written::read(&body_of(app, request).await?)?;
    let owner = owner(app, &written).await?;
    let _turn = turn(&owner.id).lock().await;
    issue(app, owner, now).await
}

pub(super) async fn refresh(app: &App, request: Request) -> Answer {
    let now = app.now();
    let written = Written::read(&body_of(app, request).await?)?;
    let token = required("refreshToken", written.refresh_token.as_deref())?.to_owned();
    let owner = owner(app, &written).await?;
    // Looked at only when it is this call's turn: of two that refresh together one comes too late.
    let _turn = turn(&owner.id).lock().await;
    match app.auth.authenticate(Some(&token), TokenPurpose::Refresh, now) {
        Ok(caller) if caller.app.as_ref() == Some(&owner.id) => issue(app, owner, now).await,
        _ => Err(Failure::new(
            Code::TokenInvalid,
            "the refreshToken is not this application's, was used, or has expired; log in instead of refreshing",
        )),
    }
}

/// Ends the token that the body names, or else the one that the call came with.
pub(super) async fn logout(app: &App, request: Request) -> Answer {
    let now = app.now();
    let of_call = bearer(request.headers()).map(str::to_owned);
    let written = Written::read(&body_of(app, request).await?)?;
    let token = written.access_token.or(of_call);
    let refuse = || Failure::new(Code::TokenInvalid, "the accessToken is none that an application logged in for; nothing to end");
    let caller = app
        .auth
        .authenticate(token.as_deref(), TokenPurpose::Access, now)
        .map_err(|error| if error.is_guess() { refuse().wrong_credentials() } else { refuse() })?;
    let own = |caller: Caller| caller.app.filter(|app| caller.token == Some(token_id(app, TokenPurpose::Access)));
    let id = own(caller).ok_or_else(refuse)?;
    let _turn = turn(&id).lock().await;
    for kind in [TokenPurpose::Access, TokenPurpose::Refresh] {
        match app.engine.revoke_token(None, token_id(&id, kind), now).await {
            Ok(()) | Err(Error::NotFound { entity: Entity::Token, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn owner(app: &App, written: &Written) -> Result<Owner, Failure> {
    let id = required("appId", written.app_id.as_deref())?;
    let secret = required("secret", written.secret.as_deref())?;
    let found = app.auth.app_login(id, secret).await?;
    let wrong = || Failure::new(Code::SecretWrong, "appId and secret don't belong together").wrong_credentials();
    let (id, organization) = found.ok_or_else(wrong)?;
    Ok(Owner { id, organization })
}

fn required<'a>(field: &str, value: Option<&'a str>) -> Result<&'a str, Failure> {
    let value = value.map(str::trim).filter(|value| !value.is_empty());
    value.ok_or_else(|| Failure::bad_request(format!("{field} is required, and is missing or empty")))
}

async fn issue(app: &App, owner: Owner, now: Timestamp) -> Answer {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown<'a> {
        access_token: &'a str,
        token_type: &'static str,
        expires_in: u64,
        refresh_token: &'a str,
        scope: &'static str,
    }
    let new = |purpose, ttl_s| NewToken {
        purpose,
        role: Role::Operator,
        organization: Arc::clone(&owner.organization),
        product_id: None,
        device_id: None,
        app: Some(Arc::clone(&owner.id)),
        ttl_s,
    };
    let replace = async |purpose, ttl_s| app.auth.replace(token_id(&owner.id, purpose), new(purpose, ttl_s), now).await;
    let access = replace(TokenPurpose::Access, ACCESS_TTL_S).await?;
    let refresh = replace(TokenPurpose::Refresh, REFRESH_TTL_S).await?;
    let shown = Shown {
        access_token: &access.token,
        token_type: "bearer",
        expires_in: ACCESS_TTL_S,
        refresh_token: &refresh.token,
        scope: "default",
    };
    Ok(json(StatusCode::OK, &shown))
}

/// Always the same for an application and a purpose.
fn token_id(app: &AppId, purpose: TokenPurpose) -> TokenId {
    let label = match purpose {
        TokenPurpose::Access => "northbound access\0",
        TokenPurpose::Refresh => "northbound refresh\0",
        // Not issued here.
        TokenPurpose::Authorize => "northbound authorize\0",
        TokenPurpose::Signed => "northbound signed\0",
    };
    let digest = Sha256::new().chain_update(label).chain_update(&**app).finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    TokenId(u64::from_be_bytes(first))
}

/// A token takes the place of another in two steps, so one application's calls go one after another.
fn turn(app: &AppId) -> &'static Mutex<()> {
    static TURNS: [Mutex<()>; 64] = [const { Mutex::const_new(()) }; 64];
    let TokenId(number) = token_id(app, TokenPurpose::Access);
    &TURNS[(number % TURNS.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_read_from_a_form_and_from_json() {
        for body in
            ["appId=a%20b&secret=s%26t", " {\"appId\":\"a b\",\"secret\":\"s&t\",\"refreshToken\":null}", "&secret=s%26t&appId=a+b"]
        {
            let written = Written::read(body.as_bytes()).unwrap();
            assert_eq!((written.app_id.as_deref(), written.secret.as_deref()), (Some("a b"), Some("s&t")), "{body}");
            assert_eq!(written.refresh_token, None);
        }
        assert_eq!(Written::read(b"{\"appId\":").unwrap_err().code, Code::BadRequest);
        assert_eq!(Written::read(b"appId=%f").unwrap_err().code, Code::BadRequest);
        assert_eq!(Written::read(b"appId=\xff").unwrap_err().code, Code::BadRequest);
    }

    #[test]
    fn an_application_has_one_token_of_each_purpose() {
        let (a, b): (AppId, AppId) = ("a".into(), "b".into());
        assert_eq!(token_id(&a, TokenPurpose::Access), token_id(&a.clone(), TokenPurpose::Access));
        assert_ne!(token_id(&a, TokenPurpose::Access), token_id(&a, TokenPurpose::Refresh));
        assert_ne!(token_id(&a, TokenPurpose::Access), token_id(&b, TokenPurpose::Access));
    }
}
