//! Firmware: a version of a component of a product, with its image.

use super::decode::{self, FirmwareBody};
use super::encode::{FirmwareShown, Hex};
use super::failure::Failure;
use super::page::{Kind, Wanted, page};
use super::{Answer, access, body_of};
use crate::app::App;
use crate::auth::Caller;
use crate::http::{Query, Request, empty, json};
use ::http::StatusCode;
use sluicegate::model::{Artifact, Firmware, FirmwareId, FirmwareNumber, ImageId, Product};
use sluicegate::{Entity, Error, NewFirmware, State};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) async fn list(app: &App, request: Request) -> Answer {
    let caller = access::onlooker(app, request.headers(), app.now())?;
    let query = Query::parse(request.uri().query())?;
    let organization = access::organization(app, &caller, &query)?;
    let wanted = Wanted::read(&query)?;
    let before = wanted.after_number(Kind::Firmware)?.map(FirmwareNumber);
    let product_id = query.get("product_id").or(caller.product_id.as_deref());
    if let Some(product_id) = product_id {
        access::may_open_product(&caller, product_id)?;
    }
    let read = |state: &State| {
        let product = match product_id.map(|product_id| state.product(&organization, product_id)) {
            None => None,
            Some(Some(product)) => Some(product.number),
            // A product that isn't there has no firmware.
            Some(None) => return Vec::new(),
        };
        let rows = state.firmware_list(&organization, product, before, wanted.fetch());
        rows.into_iter().filter_map(|row| Some((Arc::clone(state.product_by_number(row.product)?), row))).collect()
    };
    let found: Vec<(Arc<Product>, Arc<Firmware>)> = app.engine.read(read).await?;
    page(&wanted, &found, |(product, row)| FirmwareShown::new(row, product), |(_, row)| Kind::Firmware.at_number(row.number.0))
}

pub(super) async fn create(app: &App, request: Request) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let query = Query::parse(request.uri().query())?;
    let organization = access::organization(app, &caller, &query)?;
    let (_, body) = body_of(app, request).await?;
    let body: FirmwareBody = decode::parse(&body)?;
    access::may_open_product(&caller, &body.product_id)?;
    let verification = body.verification();
    let new = NewFirmware {
        organization: organization.to_string(),
        component: decode::component(body.component_type, body.identify),
        artifact: artifact(app, &organization, &body.image).await?,
        file_type: body.file_type()?,
        product_id: body.product_id,
        version: body.version,
        name: body.name,
        description: body.description,
        model: body.model,
        manufacturer: body.manufacturer,
        device_type: body.device_type,
        annotations: BTreeMap::new(),
        verification,
        unique_name: false,
    };
    let row = app.engine.create_firmware(new, app.registers(), now).await?;
    let (row, product) = find(app, &caller, &organization, row.id).await?;
    Ok(json(StatusCode::CREATED, &FirmwareShown::new(&row, &product)))
}

/// The organization's own image of this SHA-256.
async fn artifact(app: &App, organization: &str, image: &str) -> Result<Artifact, Failure> {
    let id: ImageId =
        image.parse().map_err(|error| Failure::invalid(format!("image: {error}; give what POST /images answered")))?;
    let image = app.engine.read(|state| state.image(organization, id)).await?;
    let image = image.ok_or_else(|| Error::not_found(Entity::Image, id))?;
    Ok(Artifact {
        image: Some(id),
        url: None,
        size: image.size,
        md5: Hex(&image.md5).to_string().into(),
        sha256: Some(id.to_string().into()),
    })
}

pub(super) async fn get(app: &App, request: Request, id: &str) -> Answer {
    let caller = access::onlooker(app, request.headers(), app.now())?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let (row, product) = find(app, &caller, &organization, parse_id(id)?).await?;
    Ok(json(StatusCode::OK, &FirmwareShown::new(&row, &product)))
}

pub(super) async fn delete(app: &App, request: Request, id: &str) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let (row, _) = find(app, &caller, &organization, parse_id(id)?).await?;
    app.engine.delete_firmware(&organization, row.id, now).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// A text that is no id names nothing.
pub(super) fn parse_id(id: &str) -> Result<FirmwareId, Error> {
    id.parse().map_err(|_| Error::not_found(Entity::Firmware, id))
}

/// What isn't the caller's isn't there.
async fn find(app: &App, caller: &Caller, organization: &str, id: FirmwareId) -> Result<(Arc<Firmware>, Arc<Product>), Error> {
    let read = |state: &State| {
        let row = state.firmware(organization, id)?;
        let product = Arc::clone(state.product_by_number(row.product)?);
        Some((row, product))
    };
    let found = app.engine.read(read).await?.filter(|(_, product)| caller.opens_product(&product.id));
    found.ok_or_else(|| Error::not_found(Entity::Firmware, id))
}
