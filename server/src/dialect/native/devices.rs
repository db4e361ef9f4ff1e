//! Devices, one at a time. Many at once: [`import`](super::import).

use super::decode::{self, DeviceBody};
use super::encode::{DeviceListed, DeviceShown};
use super::failure::Failure;
use super::page::{Kind, Wanted, page};
use super::{Answer, access, body_of};
use crate::app::App;
use crate::http::{Query, Request, empty, json};
use crate::mqtt;
use crate::secrets;
use ::http::StatusCode;
use serde::{Deserialize, Serialize};
use sluicegate::model::DeviceNumber;
use sluicegate::{DeviceRef, Entity, Error, State};

pub(super) async fn list(app: &App, request: Request, product_id: &str) -> Answer {
    let caller = access::onlooker_of(app, request.headers(), app.now(), product_id)?;
    let query = Query::parse(request.uri().query())?;
    let organization = access::organization(app, &caller, &query)?;
    let wanted = Wanted::read(&query)?;
    let after = wanted.after_number(Kind::Devices)?.map(DeviceNumber);
    let read = |state: &State| {
        let product = state.product(&organization, product_id)?.number;
        Some(state.devices(product, after, wanted.fetch()))
    };
    let devices = app.engine.read(read).await?.ok_or_else(|| Error::not_found(Entity::Product, product_id))?;
    page(&wanted, &devices, DeviceListed::new, |device| Kind::Devices.at_number(device.row.number.0))
}

pub(super) async fn get(app: &App, request: Request, product_id: &str, device_id: &str) -> Answer {
    let caller = access::onlooker_of_device(app, request.headers(), app.now(), product_id, device_id)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let device = DeviceRef { organization: &organization, product_id, device_id };
    let found = app.engine.read(|state| state.device(device)).await?;
    let found = found.ok_or_else(|| Error::not_found(Entity::Device, device_id))?;
    Ok(json(StatusCode::OK, &DeviceShown::new(&found.row)))
}

pub(super) async fn put(app: &App, request: Request, product_id: &str, device_id: &str) -> Answer {
    let now = app.now();
    let caller = access::operator_of_device(app, request.headers(), now, product_id, device_id)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let (_, body) = body_of(app, request).await?;
    let new = decode::parse_or_empty::<DeviceBody>(&body)?.of_path(product_id, device_id)?;
    let device = DeviceRef { organization: &organization, product_id, device_id };
    let (has_product, was_there) =
        app.engine.read(|state| (state.product(&organization, product_id).is_some(), state.device(device).is_some())).await?;
    if !has_product && !app.registers() {
        return Err(Error::not_found(Entity::Product, product_id).into());
    }
    let answered = app.engine.put_devices(&organization, vec![new], app.registers(), now).await?;
    match answered.into_iter().next() {
        Some(Ok(row)) => {
            let status = if was_there { StatusCode::OK } else { StatusCode::CREATED };
            Ok(json(status, &DeviceShown::new(&row)))
        }
        Some(Err(message)) => Err(Failure::invalid(message)),
        None => Err(Error::Closed.into()),
    }
}

pub(super) async fn delete(app: &App, request: Request, product_id: &str, device_id: &str) -> Answer {
    let now = app.now();
    let caller = access::operator_of_device(app, request.headers(), now, product_id, device_id)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let device = DeviceRef { organization: &organization, product_id, device_id };
    app.engine.delete_device(device.to_owned(), now).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `PUT …/secret`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretBody {
    /// What the device signs with already; absent: one is made.
    secret: Option<String>,
}

#[derive(Serialize)]
struct SecretShown<'a> {
    /// Shown once.
    secret: &'a str,
}

const SECRET_BYTES: std::ops::RangeInclusive<usize> = 1..=256;

/// What a device signs its logins over MQTT with. Replaces the one before.
pub(super) async fn put_secret(app: &App, request: Request, product_id: &str, device_id: &str) -> Answer {
    let now = app.now();
    let caller = access::operator_of_device(app, request.headers(), now, product_id, device_id)?;
    let query = request.uri().query().map(str::to_owned);
    let organization = access::organization(app, &caller, &Query::parse(query.as_deref())?)?;
    let (_, body) = body_of(app, request).await?;
    let SecretBody { secret } = decode::parse_or_empty(&body)?;
    if let Some(secret) = secret.as_ref().filter(|secret| !SECRET_BYTES.contains(&secret.len())) {
        return Err(Failure::invalid(format!("secret has {} bytes; give 1 to 256, or leave it out", secret.len())));
    }
    let device = DeviceRef { organization: &organization, product_id, device_id }.to_owned();
    let make = || {
        let secret = secret.map_or_else(secrets::random_text, Ok)?;
        let encrypted = app.secrets.encrypt(&mqtt::login::secret_name(&device), secret.as_bytes())?;
        Ok::<_, secrets::SecretError>((secret, encrypted))
    };
    let (secret, encrypted) = make().map_err(|error| {
        tracing::error!(%error, "no secret could be made");
        Error::Overloaded
    })?;
    app.engine.put_device_secret(device.clone(), Some(encrypted), now).await?;
    Ok(json(StatusCode::OK, &SecretShown { secret: &secret }))
}

pub(super) async fn delete_secret(app: &App, request: Request, product_id: &str, device_id: &str) -> Answer {
    let now = app.now();
    let caller = access::operator_of_device(app, request.headers(), now, product_id, device_id)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let device = DeviceRef { organization: &organization, product_id, device_id };
    app.engine.put_device_secret(device.to_owned(), None, now).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}
