//! Tokens and applications: who calls, and what that opens.
//!
//! A token is `{id}.{secret}`: 16 hexadecimal digits by which its row is found, and 43 characters of which only the SHA-256 is kept.
//! Finding takes no lock; comparing takes the same time however much of the secret is right. The administrator's own token is any
//! text of up to 127 characters, from the environment or from `admin-token` in the data folder, and has no row.
//!
//! Where a call is a device's own, its certificate does instead of a token; see [`ClientCertificate`].
//!
//! Invariants:
//!   - A token opens its own organization, and of that no more than the product and device that it names.
//!   - A token for refreshing or logging in opens no call, and one for calls refreshes nothing.
//!   - No secret is in a table, a log or an error.

use crate::config::ConfiguredApp;
use crate::http::ClientCertificate;
use crate::secrets::{self, SecretError, Secrets, write_private};
use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use sluicegate::model::{App, AppId, Role, Timestamp, Token, TokenId, TokenPurpose};
use sluicegate::{DeviceName, Engine, Error, State};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// The organization of whoever names none.
pub const DEFAULT_ORGANIZATION: &str = "default";
/// Longer ones fit in no platform's header field.
pub const TOKEN_CHARS_MAX: usize = 127;

/// Who calls.
#[derive(Clone, Debug)]
pub struct Caller {
    pub role: Role,
    pub organization: Arc<str>,
    pub product_id: Option<Arc<str>>,
    pub device_id: Option<Arc<str>>,
    /// Absent for the administrator's own token, and for a device that its certificate names.
    pub token: Option<TokenId>,
    pub app: Option<AppId>,
}

/// The caller may not do this, whatever it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this token does not open that; use one of a fitting role, organization, product and device")]
pub struct Forbidden;

impl Caller {
    /// A device that stands for itself.
    fn device(name: &DeviceName) -> Self {
        Self {
            role: Role::Device,
            organization: Arc::clone(&name.organization),
            product_id: Some(Arc::clone(&name.product_id)),
            device_id: Some(Arc::clone(&name.device_id)),
            token: None,
            app: None,
        }
    }

    /// The organization to act in: its own, or for the administrator the one it names.
    pub fn organization_for(&self, requested: Option<&str>) -> Result<Arc<str>, Forbidden> {
        match requested {
            None => Ok(Arc::clone(&self.organization)),
            Some(name) if *name == *self.organization => Ok(Arc::clone(&self.organization)),
            Some(name) if self.role == Role::Admin => Ok(name.into()),
            Some(_) => Err(Forbidden),
        }
    }

    /// Firmware, tasks and devices of its organization.
    pub fn can_operate(&self) -> bool {
        matches!(self.role, Role::Admin | Role::Operator)
    }

    /// See, and preview checks; changes nothing.
    pub fn can_look(&self) -> bool {
        matches!(self.role, Role::Admin | Role::Operator | Role::User)
    }

    /// Whether this token may check and report for the device. A device's token opens that device alone: one without a device id
    /// opens none (it is for logging in and registering).
    pub fn may_act_for_device(&self, product_id: &str, device_id: &str) -> bool {
        match self.role {
            Role::Device => self.product_id.as_deref() == Some(product_id) && self.device_id.as_deref() == Some(device_id),
            Role::Admin | Role::Operator | Role::User => self.opens_product(product_id) && self.opens_device(device_id),
        }
    }

    /// Whether this token opens nothing beside one device: it then neither sees nor manages what is beyond that device, whatever
    /// its role.
    pub fn is_bound_to_device(&self) -> bool {
        self.device_id.is_some()
    }

    /// Whether this token's device, where it is bound to one, is this one. Of which product, says `opens_product`.
    pub fn opens_device(&self, device_id: &str) -> bool {
        self.device_id.as_deref().is_none_or(|own| own == device_id)
    }

    /// Whether this is an activation code: a device's token that names no device. It opens nothing but activation.
    pub fn is_activation_code(&self) -> bool {
        self.role == Role::Device && self.device_id.is_none()
    }

    /// Whether this token's product, where it is bound to one, is this one.
    pub fn opens_product(&self, product_id: &str) -> bool {
        self.product_id.as_deref().is_none_or(|own| own == product_id)
    }
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    Missing,
    Unknown,
    Expired,
    /// No token came, and the connection's certificate would not be accepted any more.
    Certificate,
}

impl AuthError {
    /// Whether what was shown may only have been guessed: nothing of the kind was given out. What was good once is no guess, nor is
    /// nothing at all.
    pub fn is_guess(self) -> bool {
        self == Self::Unknown
    }
}

/// What a new token is to open.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub purpose: TokenPurpose,
    pub role: Role,
    pub organization: Arc<str>,
    pub product_id: Option<Arc<str>>,
    pub device_id: Option<Arc<str>>,
    pub app: Option<AppId>,
    pub ttl_s: u64,
}

/// A token as it is shown, once.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    pub id: TokenId,
    /// `{id}.{secret}`, at most 127 characters, safe in headers, URLs and JSON.
    pub token: String,
    pub expires_at: Timestamp,
}

/// An application as it is shown, once.
#[derive(Clone, Debug)]
pub struct CreatedApp {
    pub id: AppId,
    pub secret: String,
    pub organization: Arc<str>,
}

/// An application with its secret, for comparing and for signatures.
pub struct AppSecret {
    pub id: AppId,
    pub organization: Arc<str>,
    pub secret: Vec<u8>,
}

impl fmt::Debug for AppSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AppSecret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Everything that tells callers apart.
pub struct Auth {
    engine: Engine,
    secrets: Arc<Secrets>,
    admin_sha256: [u8; 32],
    admin: Caller,
    /// Of the configuration; a reload replaces them whole.
    configured_apps: ArcSwap<HashMap<String, ConfiguredApp>>,
}

impl Auth {
    pub fn new(engine: Engine, secrets: Arc<Secrets>, admin: &AdminToken, apps: &[ConfiguredApp]) -> Self {
        let caller = Caller {
            role: Role::Admin,
            organization: DEFAULT_ORGANIZATION.into(),
            product_id: None,
            device_id: None,
            token: None,
            app: None,
        };
        let auth = Self {
            engine,
            secrets,
            admin_sha256: sha256(admin.text.as_bytes()),
            admin: caller,
            configured_apps: ArcSwap::default(),
        };
        auth.set_apps(apps);
        auth
    }

    /// Who holds `token`. Lock-free; constant time in the secret. `purpose`: what it must have been issued for.
    pub fn authenticate(&self, token: Option<&str>, purpose: TokenPurpose, now: Timestamp) -> Result<Caller, AuthError> {
        let token = token.map(str::trim).filter(|token| !token.is_empty()).ok_or(AuthError::Missing)?;
        let Some((row, secret)) = split(token).and_then(|(id, secret)| Some((self.engine.token(id)?, secret))) else {
            return self.authenticate_admin(token, purpose);
        };
        check_token(&row, secret, purpose, now)?;
        Ok(Caller {
            role: row.role,
            organization: Arc::clone(&row.organization),
            product_id: row.product_id.clone(),
            device_id: row.device_id.clone(),
            token: Some(row.id),
            app: row.app.clone(),
        })
    }

    /// Who calls what is open to devices: whoever holds `token`, or without one the device that the connection's certificate names.
    /// A token that is sent counts, whatever it is worth.
    pub fn authenticate_device(
        &self,
        token: Option<&str>,
        certificate: Option<&ClientCertificate>,
        now: Timestamp,
    ) -> Result<Caller, AuthError> {
        match certificate {
            Some(certificate) if token.is_none() && certificate.holds(now) => Ok(Caller::device(certificate.device())),
            Some(_) if token.is_none() => Err(AuthError::Certificate),
            _ => self.authenticate(token, TokenPurpose::Access, now),
        }
    }

    fn authenticate_admin(&self, token: &str, purpose: TokenPurpose) -> Result<Caller, AuthError> {
        let matches = token.len() <= TOKEN_CHARS_MAX && equal(&sha256(token.as_bytes()), &self.admin_sha256);
        if matches && purpose == TokenPurpose::Access { Ok(self.admin.clone()) } else { Err(AuthError::Unknown) }
    }

    /// Whether whoever was let in with this token would still be. The administrator's own token is no row, and stays as long as the
    /// process; so does a login without a token.
    pub fn still_holds(&self, token: Option<TokenId>, now: Timestamp) -> bool {
        token.is_none_or(|id| self.engine.token(id).is_some_and(|token| token.expires_at > now))
    }

    /// Makes a token; durable once returned.
    pub async fn issue(&self, new: NewToken, now: Timestamp) -> Result<IssuedToken, Error> {
        let (id, secret) = self.unused_token().map_err(|error| no_secret(&error))?;
        self.put_token(id, &secret, new, now).await
    }

    /// Makes a token under an id of the caller's choice, in place of the one that has it: of all that are ever made under one id only the
    /// newest opens anything. Who calls it sees to it that two don't do so for the same id together.
    pub async fn replace(&self, id: TokenId, new: NewToken, now: Timestamp) -> Result<IssuedToken, Error> {
        let secret = secrets::random_text().map_err(|error| no_secret(&error))?;
        match self.engine.revoke_token(None, id, now).await {
            Ok(()) | Err(Error::NotFound { .. }) => self.put_token(id, &secret, new, now).await,
            Err(error) => Err(error),
        }
    }

    async fn put_token(&self, id: TokenId, secret: &str, new: NewToken, now: Timestamp) -> Result<IssuedToken, Error> {
        let expires_at = now.plus_seconds(new.ttl_s);
        let row = Token {
            id,
            secret_sha256: sha256(secret.as_bytes()),
            purpose: new.purpose,
            role: new.role,
            organization: new.organization,
            product_id: new.product_id,
            device_id: new.device_id,
            app: new.app,
            created_at: now,
            expires_at,
        };
        self.engine.put_token(row, now).await?;
        Ok(IssuedToken { id, token: format!("{id}.{secret}"), expires_at })
    }

    fn unused_token(&self) -> Result<(TokenId, String), SecretError> {
        loop {
            let id = TokenId(u64::from_be_bytes(secrets::random()?));
            if self.engine.token(id).is_none() {
                return Ok((id, secrets::random_text()?));
            }
        }
    }

    /// The application that logs in with this id and secret (configured or created), with its organization.
    pub async fn app_login(&self, id: &str, secret: &str) -> Result<Option<(AppId, Arc<str>)>, Error> {
        let app = self.app(id).await?;
        Ok(app.filter(|app| equal(&app.secret, secret.as_bytes())).map(|app| (app.id, app.organization)))
    }

    /// The application of this id, for checking a signature that was made with its secret.
    pub async fn app(&self, id: &str) -> Result<Option<AppSecret>, Error> {
        if let Some(app) = self.configured_apps.load().get(id) {
            let secret = app.secret.clone().into_bytes();
            return Ok(Some(AppSecret { id: id.into(), organization: app.organization.as_str().into(), secret }));
        }
        let Some(row) = self.engine.read(|state: &State| state.app(id)).await? else { return Ok(None) };
        match self.secrets.decrypt(&row.id, &row.secret_encrypted) {
            Ok(secret) => Ok(Some(AppSecret { id: row.id.clone(), organization: row.organization.clone(), secret })),
            Err(error) => {
                tracing::error!(app = %row.id, %error, "an application can't log in");
                Ok(None)
            }
        }
    }

    /// Makes an application; durable once returned.
    pub async fn create_app(&self, organization: Arc<str>, now: Timestamp) -> Result<CreatedApp, Error> {
        let make = || -> Result<(AppId, String, Vec<u8>), SecretError> {
            let id: AppId = format!("{:016x}", u64::from_be_bytes(secrets::random()?)).into();
            let secret = secrets::random_text()?;
            let encrypted = self.secrets.encrypt(&id, secret.as_bytes())?;
            Ok((id, secret, encrypted))
        };
        let (id, secret, secret_encrypted) = make().map_err(|error| no_secret(&error))?;
        let row = App { id: Arc::clone(&id), organization: Arc::clone(&organization), secret_encrypted, created_at: now };
        self.engine.put_app(row, now).await?;
        Ok(CreatedApp { id, secret, organization })
    }

    /// Replaces the configured applications.
    pub fn set_apps(&self, apps: &[ConfiguredApp]) {
        self.configured_apps.store(Arc::new(apps.iter().map(|app| (app.id.clone(), app.clone())).collect()));
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Auth").finish_non_exhaustive()
    }
}

/// A system without random bytes is one on which nothing can be issued; the engine has no class of its own for that.
fn no_secret(error: &SecretError) -> Error {
    tracing::error!(%error, "no secret could be made");
    Error::Overloaded
}

/// The id and the secret of a token's text.
pub(crate) fn split(token: &str) -> Option<(TokenId, &str)> {
    if token.len() != ID_CHARS + 1 + SECRET_CHARS {
        return None;
    }
    let (id, secret) = (token.get(..ID_CHARS)?, token.get(ID_CHARS..)?.strip_prefix('.')?);
    // Every byte is looked at, in groups, rather than one after another until one is wrong.
    let is_of_secret = |byte: u8| byte.is_ascii_alphanumeric() | (byte == b'-') | (byte == b'_');
    let is_secret = secret.bytes().fold(true, |all, byte| all & is_of_secret(byte));
    if is_secret { Some((id.parse().ok()?, secret)) } else { None }
}

/// 64 bits in hexadecimal digits.
const ID_CHARS: usize = 16;

/// 32 bytes in base64 without padding.
const SECRET_CHARS: usize = 43;

fn check_token(row: &Token, secret: &str, purpose: TokenPurpose, now: Timestamp) -> Result<(), AuthError> {
    // The secret first: who doesn't hold it is told nothing of the row.
    if !equal(&sha256(secret.as_bytes()), &row.secret_sha256) || row.purpose != purpose {
        return Err(AuthError::Unknown);
    }
    if row.expires_at <= now { Err(AuthError::Expired) } else { Ok(()) }
}

fn equal(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

/// The administrator's token, as text for as long as starting takes.
pub struct AdminToken {
    text: String,
    /// Where it is kept, and whether this start made it: then it is to be shown, once.
    pub origin: AdminTokenOrigin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminTokenOrigin {
    Environment,
    Kept(PathBuf),
    Made(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum AdminTokenError {
    #[error(
        "SLUICEGATE_ADMIN_TOKEN has {got} characters, expected 1 to {TOKEN_CHARS_MAX} visible ASCII ones without blanks; set another"
    )]
    Environment { got: usize },
    #[error("{} holds no token of 1 to {TOKEN_CHARS_MAX} visible characters; delete it to have a new one made", path.display())]
    File { path: PathBuf },
    #[error("{} can't be read or written; check its owner, its mode and the disk", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl AdminToken {
    /// From the environment, else from the folder; the first start makes one there.
    pub fn open(folder: &Path, environment: Option<String>) -> Result<Self, AdminTokenError> {
        if let Some(text) = environment.filter(|text| !text.is_empty()) {
            return match is_token_text(&text) {
                true => Ok(Self { text, origin: AdminTokenOrigin::Environment }),
                false => Err(AdminTokenError::Environment { got: text.chars().count() }),
            };
        }
        let path = folder.join("admin-token");
        match std::fs::read_to_string(&path) {
            Ok(text) if is_token_text(text.trim()) => {
                Ok(Self { text: text.trim().to_owned(), origin: AdminTokenOrigin::Kept(path) })
            }
            Ok(_) => Err(AdminTokenError::File { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = secrets::random_text()?;
                write_private(&path, format!("{text}\n").as_bytes())
                    .map_err(|source| AdminTokenError::Io { path: path.clone(), source })?;
                Ok(Self { text, origin: AdminTokenOrigin::Made(path) })
            }
            Err(source) => Err(AdminTokenError::Io { path, source }),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AdminToken").field("origin", &self.origin).finish_non_exhaustive()
    }
}

fn is_token_text(text: &str) -> bool {
    (1..=TOKEN_CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    fn row(purpose: TokenPurpose, expires_at: Timestamp) -> Token {
        Token {
            id: TokenId(7),
            secret_sha256: sha256(SECRET.as_bytes()),
            purpose,
            role: Role::Device,
            organization: "default".into(),
            product_id: Some("p".into()),
            device_id: Some("d".into()),
            app: None,
            created_at: Timestamp(0),
            expires_at,
        }
    }

    fn caller(role: Role, product_id: Option<&str>, device_id: Option<&str>) -> Caller {
        Caller {
            role,
            organization: "acme".into(),
            product_id: product_id.map(Into::into),
            device_id: device_id.map(Into::into),
            token: None,
            app: None,
        }
    }

    #[test]
    fn only_the_exact_form_is_a_token() {
        assert_eq!(split(&format!("0000000000000007.{SECRET}")), Some((TokenId(7), SECRET)));
        for text in [
            String::new(),
            ".".into(),
            SECRET.into(),
            format!("7.{SECRET}"),
            format!("000000000000000g.{SECRET}"),
            format!("0000000000000007.{SECRET}x"),
            format!("0000000000000007.{}", &SECRET[1..]),
            format!("0000000000000007.{}=", &SECRET[1..]),
            format!("0000000000000007.{}é", &SECRET[2..]),
        ] {
            assert_eq!(split(&text), None, "{text:?}");
        }
    }

    #[test]
    fn a_token_opens_only_what_it_was_issued_for_and_only_in_its_time() {
        let end = Timestamp(1_000);
        let before = Timestamp(999);
        for (issued_for, used_for) in [
            (TokenPurpose::Refresh, TokenPurpose::Access),
            (TokenPurpose::Authorize, TokenPurpose::Access),
            (TokenPurpose::Access, TokenPurpose::Refresh),
        ] {
            assert_eq!(check_token(&row(issued_for, end), SECRET, used_for, before), Err(AuthError::Unknown));
        }
        let access = row(TokenPurpose::Access, end);
        assert_eq!(check_token(&access, SECRET, TokenPurpose::Access, before), Ok(()));
        assert_eq!(check_token(&access, SECRET, TokenPurpose::Access, end), Err(AuthError::Expired));
        let wrong = SECRET.replace('A', "B");
        assert_eq!(
            check_token(&access, &wrong, TokenPurpose::Access, end),
            Err(AuthError::Unknown),
            "nothing is told to a stranger"
        );
    }

    #[test]
    fn a_device_token_opens_its_own_device_alone() {
        let device = caller(Role::Device, Some("p"), Some("d"));
        assert!(device.may_act_for_device("p", "d"));
        assert!(!device.may_act_for_device("p", "e"));
        assert!(!device.may_act_for_device("q", "d"));
        assert!(!caller(Role::Device, Some("p"), None).may_act_for_device("p", "d"));
        assert!(!caller(Role::Device, None, None).may_act_for_device("p", "d"));
        assert!(!device.can_look() && !device.can_operate());
        let bound_operator = caller(Role::Operator, Some("p"), None);
        assert!(bound_operator.may_act_for_device("p", "d") && !bound_operator.may_act_for_device("q", "d"));
    }

    #[test]
    fn a_token_of_any_role_that_names_a_device_opens_nothing_beside_it() {
        for role in [Role::Operator, Role::User, Role::Device] {
            let bound = caller(role, Some("p"), Some("d"));
            assert!(bound.is_bound_to_device() && !bound.is_activation_code());
            assert!(bound.may_act_for_device("p", "d") && bound.opens_device("d"));
            assert!(!bound.may_act_for_device("p", "e") && !bound.opens_device("e"));
        }
        let free = caller(Role::Operator, Some("p"), None);
        assert!(!free.is_bound_to_device() && !free.is_activation_code() && free.opens_device("d"));
        assert!(caller(Role::Device, Some("p"), None).is_activation_code());
    }

    #[test]
    fn only_the_administrator_acts_in_another_organization() {
        for role in [Role::Operator, Role::User, Role::Device] {
            let caller = caller(role, None, None);
            assert_eq!(caller.organization_for(Some("other")), Err(Forbidden));
            assert_eq!(&*caller.organization_for(Some("acme")).unwrap(), "acme");
            assert_eq!(&*caller.organization_for(None).unwrap(), "acme");
        }
        assert_eq!(&*caller(Role::Admin, None, None).organization_for(Some("other")).unwrap(), "other");
    }

    #[test]
    fn the_administrators_token_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let made = AdminToken::open(folder.path(), None).unwrap();
        assert!(matches!(made.origin, AdminTokenOrigin::Made(_)));
        let kept = AdminToken::open(folder.path(), Some(String::new())).unwrap();
        assert!(matches!(kept.origin, AdminTokenOrigin::Kept(_)));
        assert_eq!(made.text(), kept.text());
        let set = AdminToken::open(folder.path(), Some("let me in!".replace(' ', "-"))).unwrap();
        assert_eq!(set.origin, AdminTokenOrigin::Environment);
        for bad in ["two words", "ümlaut", &"x".repeat(128)] {
            assert!(matches!(AdminToken::open(folder.path(), Some(bad.into())), Err(AdminTokenError::Environment { .. })), "{bad}");
        }
    }
}
