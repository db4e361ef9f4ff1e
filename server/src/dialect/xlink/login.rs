//! Ways to a token: an application's id and secret, a device's activation, login and refresh.
//!
//! ```text
//!  operator ──token of role device, bound to a product, without a device──▶ factory (the activation code)
//!  device   ──activate: mac, activation code──▶ device_id, authorize_code (kept for life)
//!  device   ──login: product_id, mac, authorize_code──▶ access_token (2 h), refresh_token (1 day)
//!  device   ──refresh: refresh_token──▶ a new pair; the old refresh token opens nothing more
//! ```
//!
//! Invariants:
//!   - A mac has one device id per product: its candidates are derived from the mac, and the first that is free or already its own is
//!     taken, one activation at a time for all macs that share candidates.
//!   - A device has one authorize code: activating again revokes the one before.
//!   - An activation code opens nothing but activation.

use super::decode::{self, Activation, Mac};
use super::status::{Code, Failure};
use super::{Answer, body_of};
use crate::app::App;
use crate::auth::{AuthError, Caller, NewToken};
use crate::http::{Request, json};
use ::http::StatusCode;
use serde::Serialize;
use sha2::{Digest, Sha256};
use sluicegate::model::{AppId, Component, Device, Role, Timestamp, TokenId, TokenPurpose};
use sluicegate::{DeviceRef, Error, NewDevice, State};
use std::sync::Arc;
use tokio::sync::Mutex;

const ACCESS_TTL_S: u64 = 2 * 3_600;
/// Devices log in anew before each poll, so a refresh token is rarely used; a longer life would only pile them up.
const REFRESH_TTL_S: u64 = 24 * 3_600;
/// It is burnt into the device: ten years outlive most of them, and activating again renews it.
const AUTHORIZE_TTL_S: u64 = 10 * 365 * 24 * 3_600;

const MCU: Component = Component { component_type: 2, identify: 0 };

const MAC_ATTRIBUTE: &str = "mac";
const MCU_MODEL_ATTRIBUTE: &str = "mcu_mod";
/// The public half of the newest authorize code, by which the next activation revokes it.
const AUTHORIZE_ATTRIBUTE: &str = "authorize_code_id";

pub(super) async fn app(app: &App, request: Request) -> Answer {
    #[derive(Serialize)]
    struct Shown {
        access_token: String,
        expire_in: u64,
    }
    let now = app.now();
    let (_, body) = body_of(app, request).await?;
    let login = decode::app_login(&body)?;
    let Some((id, organization)) = app.auth.app_login(&login.id, &login.secret).await? else {
        return Err(Failure::new(Code::TokenUnknown, "id and secret don't belong together; check both").wrong_credentials());
    };
    let new = NewToken {
        purpose: TokenPurpose::Access,
        role: Role::Operator,
        organization,
        product_id: None,
        device_id: None,
        app: Some(id),
        ttl_s: ACCESS_TTL_S,
    };
    let issued = app.auth.issue(new, now).await?;
    Ok(json(StatusCode::OK, &Shown { access_token: issued.token, expire_in: ACCESS_TTL_S }))
}

pub(super) async fn activate(app: &App, request: Request) -> Answer {
    #[derive(Serialize)]
    struct Shown {
        device_id: u32,
        authorize_code: String,
    }
    let now = app.now();
    let (_, body) = body_of(app, request).await?;
    let activation = decode::activation(&body)?;
    let (organization, product_id) = activation_scope(app, &activation.active_code, now)?;

    let candidates = Candidates::of(&organization, &product_id, &activation.mac);
    // Held until the device is durable: another mac with the same candidates must see it.
    let _turn = TURNS[candidates.stripe as usize].lock().await;
    let (device_id, old) = place(app, &organization, &product_id, &activation.mac, candidates).await?;
    let new = NewToken {
        purpose: TokenPurpose::Authorize,
        role: Role::Device,
        organization: Arc::clone(&organization),
        product_id: Some(Arc::clone(&product_id)),
        device_id: Some(device_id.to_string().into()),
        app: None,
        ttl_s: AUTHORIZE_TTL_S,
    };
    let issued = app.auth.issue(new, now).await?;
    let device = device_of(&activation, &product_id, device_id, issued.id, old.as_deref());
    let written = app.engine.put_devices(&organization, vec![device], app.registers(), now).await?;
    if let Some(Err(reason)) = written.into_iter().next() {
        revoke(app, &organization, issued.id, now).await?;
        return Err(Failure::invalid(reason));
    }
    if let Some(before) = old.as_deref().and_then(|device| attribute(device, AUTHORIZE_ATTRIBUTE)).and_then(|id| id.parse().ok()) {
        revoke(app, &organization, before, now).await?;
    }
    Ok(json(StatusCode::OK, &Shown { device_id, authorize_code: issued.token }))
}

/// A refusal in other words than those of calls.
fn of_guess(error: AuthError, failure: Failure) -> Failure {
    if error.is_guess() { failure.wrong_credentials() } else { failure }
}

/// Where an activation code registers devices.
fn activation_scope(app: &App, code: &str, now: Timestamp) -> Result<(Arc<str>, Arc<str>), Failure> {
    let refuse = |message: &str| Failure::new(Code::AuthorizeCodeWrong, message);
    let caller = app
        .auth
        .authenticate(Some(code.trim()), TokenPurpose::Access, now)
        .map_err(|error| of_guess(error, refuse("active_code is not known here or has expired; issue a new one")))?;
    match caller {
        // A device's own token would let whoever reads one device register others.
        Caller { role: Role::Device, device_id: None, product_id: Some(product_id), organization, .. } => {
            Ok((organization, product_id))
        }
        _ => Err(refuse("active_code must be a token of role device that is bound to a product and to no device")),
    }
}

/// The first candidate that is free or this mac's already, with the device that is there.
async fn place(
    app: &App,
    organization: &str,
    product_id: &str,
    mac: &Mac,
    candidates: Candidates,
) -> Result<(u32, Option<Arc<Device>>), Failure> {
    let read = |state: &State| {
        if state.product(organization, product_id).is_none() {
            return candidates.clone().next().map(|id| (id, None));
        }
        candidates.clone().find_map(|id| {
            let text = id.to_string();
            match state.device(DeviceRef { organization, product_id, device_id: &text }) {
                None => Some((id, None)),
                Some(device) if attribute(&device.row, MAC_ATTRIBUTE).as_deref() == Some(mac.as_str()) => {
                    Some((id, Some(device.row)))
                }
                Some(_) => None,
            }
        })
    };
    let placed = app.engine.read(read).await?;
    placed.ok_or_else(|| {
        Failure::from(Error::LimitReached { what: "device ids near this mac", limit: u64::from(Candidates::TRIES_MAX) })
    })
}

/// The device with what the activation tells; everything else of it stays.
fn device_of(activation: &Activation, product_id: &str, device_id: u32, authorize: TokenId, old: Option<&Device>) -> NewDevice {
    let mut details = old.map(|device| device.details().clone()).unwrap_or_default();
    let mut remember = |key: &str, value: &str| {
        details.attributes.insert(key.into(), json_text(value).into());
    };
    remember(MAC_ATTRIBUTE, activation.mac.as_str());
    remember(AUTHORIZE_ATTRIBUTE, &authorize.to_string());
    if let Some(model) = &activation.mcu_model {
        remember(MCU_MODEL_ATTRIBUTE, model);
    }
    if let Some(model) = &activation.firmware_model {
        details.model = Some(model.as_str().into());
    }
    let mut components: Vec<(Component, String)> = old
        .map(|device| device.components.iter().map(|installed| (installed.component, installed.version.to_string())).collect())
        .unwrap_or_default();
    for (component, version) in [(Component::MAIN, &activation.firmware_version), (MCU, &activation.mcu_version)] {
        let Some(version) = version else { continue };
        components.retain(|(other, _)| *other != component);
        components.push((component, version.clone()));
    }
    NewDevice { product_id: product_id.to_owned(), device_id: device_id.to_string(), components, details }
}

/// The text that an attribute holds; attributes are JSON.
fn attribute(device: &Device, key: &str) -> Option<String> {
    serde_json::from_str(device.details().attributes.get(key)?).ok()
}

fn json_text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// A token that is gone already is as good as revoked.
async fn revoke(app: &App, organization: &str, id: TokenId, now: Timestamp) -> Result<(), Failure> {
    match app.engine.revoke_token(Some(organization), id, now).await {
        Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The ids that a mac may get, in order: positive 32-bit integers, spread by a digest so that the first is nearly always free.
///
/// They stay within one of [`STRIPES`] equal parts of all ids, so whoever holds that part's turn sees every id it tries.
#[derive(Clone, Debug)]
struct Candidates {
    stripe: u32,
    next: u32,
    left: u32,
}

const STRIPES: usize = 64;
const STRIPE_BITS: u32 = 31 - 6;
static TURNS: [Mutex<()>; STRIPES] = [const { Mutex::const_new(()) }; STRIPES];
const _: () = assert!(STRIPES << STRIPE_BITS == 1 << 31);

impl Candidates {
    /// With 20 million devices a part is filled to less than a hundredth; thousand occupied ids in a row don't happen.
    const TRIES_MAX: u32 = 1_000;

    fn of(organization: &str, product_id: &str, mac: &Mac) -> Self {
        let mut digest = Sha256::new();
        for part in [organization, product_id, mac.as_str()] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let digest = digest.finalize();
        let first = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]) >> 1;
        Self { stripe: first >> STRIPE_BITS, next: first & ((1 << STRIPE_BITS) - 1), left: Self::TRIES_MAX }
    }
}

impl Iterator for Candidates {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        loop {
            self.left = self.left.checked_sub(1)?;
            let id = self.stripe << STRIPE_BITS | self.next;
            self.next = (self.next + 1) & ((1 << STRIPE_BITS) - 1);
            // Ids are positive.
            if id != 0 {
                return Some(id);
            }
        }
    }
}

#[derive(Serialize)]
struct Pair {
    access_token: String,
    refresh_token: String,
    expire_in: u64,
    device_id: u32,
}

pub(super) async fn device(app: &App, request: Request) -> Answer {
    let now = app.now();
    let (_, body) = body_of(app, request).await?;
    let login = decode::device_login(&body)?;
    // One answer for every way to be wrong: it tells the device to activate again, and a stranger nothing.
    let wrong = || {
        Failure::new(Code::AuthorizeCodeWrong, "authorize_code doesn't belong to this product and mac; activate the device again")
    };
    let authorized = app.auth.authenticate(Some(login.authorize_code.trim()), TokenPurpose::Authorize, now);
    let authorized = authorized.map_err(|error| of_guess(error, wrong()))?;
    let own = DeviceOfToken::read(authorized).filter(|own| *own.product_id == *login.product_id).ok_or_else(wrong)?;
    let read = |state: &State| state.device(own.as_ref()).and_then(|device| attribute(&device.row, MAC_ATTRIBUTE));
    if app.engine.read(read).await?.as_deref() != Some(login.mac.as_str()) {
        return Err(wrong());
    }
    Ok(json(StatusCode::OK, &issue_pair(app, &own, now).await?))
}

pub(super) async fn refresh(app: &App, request: Request) -> Answer {
    let now = app.now();
    let (_, body) = body_of(app, request).await?;
    let token = decode::device_refresh(&body)?;
    let caller = app.auth.authenticate(Some(token.trim()), TokenPurpose::Refresh, now)?;
    let used = caller.token;
    let own = DeviceOfToken::read(caller).ok_or_else(|| Failure::new(Code::TokenUnknown, "refresh_token is not a device's"))?;
    // Otherwise a device that an operator deleted would keep itself alive.
    if app.engine.read(|state| state.device(own.as_ref()).is_none()).await? {
        return Err(Failure::new(Code::TokenUnknown, "the device of refresh_token is not here any more; activate it again"));
    }
    let pair = issue_pair(app, &own, now).await?;
    if let Some(used) = used {
        revoke(app, &own.organization, used, now).await?;
    }
    Ok(json(StatusCode::OK, &pair))
}

/// The one device that a token belongs to.
struct DeviceOfToken {
    organization: Arc<str>,
    product_id: Arc<str>,
    device_id: Arc<str>,
    app: Option<AppId>,
}

impl DeviceOfToken {
    fn read(caller: Caller) -> Option<Self> {
        Some(Self {
            product_id: caller.product_id?,
            device_id: caller.device_id?,
            organization: caller.organization,
            app: caller.app,
        })
    }

    fn as_ref(&self) -> DeviceRef<'_> {
        DeviceRef { organization: &self.organization, product_id: &self.product_id, device_id: &self.device_id }
    }
}

async fn issue_pair(app: &App, own: &DeviceOfToken, now: Timestamp) -> Result<Pair, Failure> {
    let new = |purpose, ttl_s| NewToken {
        purpose,
        role: Role::Device,
        organization: Arc::clone(&own.organization),
        product_id: Some(Arc::clone(&own.product_id)),
        device_id: Some(Arc::clone(&own.device_id)),
        app: own.app.clone(),
        ttl_s,
    };
    // Both go into the same commit group; a storm of logins pays for one wait, not two.
    let (access, refresh) = tokio::join!(
        app.auth.issue(new(TokenPurpose::Access, ACCESS_TTL_S), now),
        app.auth.issue(new(TokenPurpose::Refresh, REFRESH_TTL_S), now)
    );
    Ok(Pair {
        access_token: access?.token,
        refresh_token: refresh?.token,
        expire_in: ACCESS_TTL_S,
        device_id: own.device_id.parse().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(text: &str) -> Mac {
        decode::activation(format!(r#"{{"mac":"{text}","active_code":"x"}}"#).as_bytes()).unwrap().mac
    }

    #[test]
    fn candidates_are_positive_distinct_and_share_a_part() {
        for last in 0..200 {
            let candidates = Candidates::of("default", "p", &mac(&format!("AABBCCDDEE{last:02X}")));
            let stripe = candidates.stripe;
            let ids: Vec<u32> = candidates.collect();
            assert!(ids.len() >= 999);
            assert!(ids.iter().all(|id| *id > 0 && *id <= i32::MAX as u32 && id >> STRIPE_BITS == stripe));
            let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
            assert_eq!(distinct.len(), ids.len());
        }
    }

    #[test]
    fn the_same_mac_gets_the_same_candidates_however_it_is_written() {
        let first = |mac: &Mac| Candidates::of("o", "p", mac).next();
        assert_eq!(first(&mac("aa:bb:cc:dd:ee:ff")), first(&mac("AABBCCDDEEFF")));
        assert_ne!(first(&mac("aa:bb:cc:dd:ee:ff")), first(&mac("AABBCCDDEEFE")));
        assert_ne!(first(&mac("AABBCCDDEEFF")), Candidates::of("o", "q", &mac("AABBCCDDEEFF")).next());
    }

    #[test]
    fn activating_again_keeps_what_others_told_of_the_device() {
        let activation = Activation {
            mac: mac("AABBCCDDEEFF"),
            mcu_model: None,
            mcu_version: None,
            firmware_model: Some("m".into()),
            firmware_version: Some("2".into()),
            active_code: String::new(),
        };
        let old = Device {
            number: sluicegate::model::DeviceNumber(0),
            product: sluicegate::model::ProductNumber(0),
            id: "7".into(),
            components: [(Component::MAIN, "1"), (MCU, "9")]
                .map(|(component, version)| sluicegate::model::Installed { component, version: version.into() })
                .into(),
            created_at: Timestamp(0),
            details: Some(Arc::new(sluicegate::model::DeviceDetails { groups: vec!["g".into()], ..Default::default() })),
        };
        let device = device_of(&activation, "p", 7, TokenId(5), Some(&old));
        assert_eq!(device.components, [(MCU, "9".to_owned()), (Component::MAIN, "2".to_owned())]);
        assert_eq!(device.details.groups, ["g".into()]);
        assert_eq!(device.details.attributes.get("mac").map(|text| &**text), Some("\"AABBCCDDEEFF\""));
        assert_eq!(device.details.model.as_deref(), Some("m"));
    }
}
