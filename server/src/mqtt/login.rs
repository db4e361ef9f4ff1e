//! Who connects to the listener, by user name and password.
//!
//! - A token as the password: a device's opens that device, and its user name is the device's id (for EnOS also `device&product`); any
//!   other opens events, whatever the user name.
//! - The signature of EnOS's libraries: user name `device&product`, made with the device's own secret. It names no time that could be
//!   checked (the libraries sign a fixed one, or the same again), so whoever overhears it can use it; TLS keeps it from being heard.
//!
//! - Neither, over TLS with a client certificate that names a device: that device. A user name without a password has to be the device's.
//!
//! What is wrong is not told apart to whoever can't log in.

use super::wire::Connect;
use crate::app::App;
use crate::auth::{AuthError, Caller};
use crate::dialect::enos::device::login::Login;
use crate::http::ClientCertificate;
use sluicegate::model::{Role, TokenId, TokenPurpose};
use sluicegate::{DeviceName, State};
use std::sync::Arc;

/// Who has logged in.
#[derive(Debug)]
pub(super) enum Principal {
    Device { name: DeviceName, pass: Pass },
    Consumer(Caller),
}

/// What somebody was let in with.
#[derive(Debug)]
pub(super) enum Pass {
    /// `None`: the administrator's, which doesn't end.
    Token(Option<TokenId>),
    Certificate(Arc<ClientCertificate>),
    /// The device's own secret, as it was written down when the device signed with it.
    Secret {
        device: DeviceName,
        encrypted: Vec<u8>,
    },
}

impl Pass {
    /// Whether it would still let its owner in. An engine that can't say is no reason to send somebody away.
    pub(super) async fn still_holds(&self, app: &App) -> bool {
        match self {
            Self::Token(token) => app.auth.still_holds(*token, app.now()),
            Self::Certificate(certificate) => certificate.holds(app.now()),
            Self::Secret { device, encrypted } => {
                let is_same = |state: &State| {
                    let there = state.device(device.as_ref());
                    there.is_some_and(|there| there.row.details().secret_encrypted.as_ref() == Some(encrypted))
                };
                app.engine.read(is_same).await.unwrap_or(true)
            }
        }
    }
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginError {
    /// What was shown opens nothing, and may have been guessed.
    Credentials,
    /// Nothing was shown, or what has been right once, or is for another user name.
    Stale,
    /// The credentials are right, and not for this.
    Forbidden,
    /// The engine can't say now.
    Unavailable,
}

pub(super) async fn log_in(
    app: &App,
    connect: &Connect,
    certificate: Option<Arc<ClientCertificate>>,
) -> Result<Principal, LoginError> {
    let (username, password) = match (&connect.username, &connect.password, certificate) {
        (Some(username), Some(password), _) => (username, password),
        (username, None, Some(certificate)) => return of_certificate(app, username.as_deref(), certificate),
        _ => return Err(LoginError::Stale),
    };
    let text = std::str::from_utf8(password).ok();
    match app.auth.authenticate(text, TokenPurpose::Access, app.now()) {
        Ok(caller) => of_token(caller, username),
        // What is no token may be a signature.
        Err(AuthError::Unknown) => of_signature(app, connect, username, password).await,
        Err(AuthError::Missing | AuthError::Expired | AuthError::Certificate) => Err(LoginError::Stale),
    }
}

fn of_token(caller: Caller, username: &str) -> Result<Principal, LoginError> {
    if caller.role != Role::Device {
        return if caller.can_look() && !caller.is_bound_to_device() {
            Ok(Principal::Consumer(caller))
        } else {
            Err(LoginError::Forbidden)
        };
    }
    let (Some(product_id), Some(device_id)) = (&caller.product_id, &caller.device_id) else { return Err(LoginError::Forbidden) };
    let (organization, product_id) = (Arc::clone(&caller.organization), Arc::clone(product_id));
    let name = DeviceName { organization, product_id, device_id: Arc::clone(device_id) };
    if !is_called(&name, username) {
        return Err(LoginError::Stale);
    }
    Ok(Principal::Device { name, pass: Pass::Token(caller.token) })
}

fn of_certificate(app: &App, username: Option<&str>, certificate: Arc<ClientCertificate>) -> Result<Principal, LoginError> {
    let name = certificate.device().clone();
    let names_another = username.is_some_and(|username| !username.is_empty() && !is_called(&name, username));
    if names_another || !certificate.holds(app.now()) {
        return Err(LoginError::Stale);
    }
    Ok(Principal::Device { name, pass: Pass::Certificate(certificate) })
}

/// Whether the device goes by this user name.
fn is_called(device: &DeviceName, username: &str) -> bool {
    username == &*device.device_id || username.split_once('&') == Some((&*device.device_id, &*device.product_id))
}

async fn of_signature(app: &App, connect: &Connect, username: &str, password: &[u8]) -> Result<Principal, LoginError> {
    let login = Login::read(&connect.client_id, username).ok_or(LoginError::Credentials)?;
    let read = |state: &State| -> Vec<(DeviceName, Vec<u8>)> {
        let called = state.devices_called(Some(login.product_key), login.device_key).take(NAMESAKES_MAX);
        let with_secret = |name: DeviceName| {
            let secret = state.device(name.as_ref())?.row.details().secret_encrypted.clone()?;
            Some((name, secret))
        };
        called.filter_map(with_secret).collect()
    };
    let called = app.engine.read(read).await.map_err(|_| LoginError::Unavailable)?;
    let holds = |(name, encrypted): &(DeviceName, Vec<u8>)| match app.secrets.decrypt(&secret_name(name), encrypted) {
        Ok(secret) => login.signature_holds(password, &secret),
        Err(error) => {
            tracing::error!(device = %name.device_id, %error, "a device can't log in");
            false
        }
    };
    // The user name names no organization. Of several that have such a device the secret says which one is meant: nobody is locked out by
    // whoever gives a device of its own the same name. Where the secrets are the same, too, nobody can say.
    let mut fitting = called.into_iter().filter(holds);
    let (Some((name, encrypted)), None) = (fitting.next(), fitting.next()) else { return Err(LoginError::Credentials) };
    Ok(Principal::Device { pass: Pass::Secret { device: name.clone(), encrypted }, name })
}

/// Organizations with a device of the same product and name that are looked at: each costs one digest. Only an administrator makes
/// organizations.
const NAMESAKES_MAX: usize = 64;

/// What a device's secret is encrypted for.
pub(crate) fn secret_name(device: &DeviceName) -> String {
    format!("device\0{}\0{}\0{}", device.organization, device.product_id, device.device_id)
}
