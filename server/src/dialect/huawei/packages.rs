//! Packages: list, show, delete; and upload, which is ours (the platform has a console for it).

use super::Answer;
use super::access::{Call, Right};
use super::encode::{self, PackageShown, file_type_name};
use super::page::{self, Page};
use super::plan::{package, unknown_package};
use super::status::Failure;
use crate::app::App;
use crate::dialect::common::hexadecimal::to_hexadecimal;
use crate::dialect::common::lenient::parse_integer;
use crate::dialect::common::upload::upload as take_in;
use crate::http::{Query, Request, empty, json};
use ::http::StatusCode;
use sluicegate::model::{Artifact, Component, FileType, Firmware, FirmwareNumber};
use sluicegate::{NewFirmware, State};
use std::sync::Arc;

const ROWS_PER_READ: usize = 1_000;

/// What a list is asked for.
#[derive(Debug)]
struct Filter<'q> {
    file_type: Option<FileType>,
    device_type: Option<&'q str>,
    model: Option<&'q str>,
    manufacturer: Option<&'q str>,
    version: Option<&'q str>,
}

impl<'q> Filter<'q> {
    fn read(query: &'q Query<'_>) -> Result<Self, Failure> {
        Ok(Self {
            file_type: file_type(query)?,
            device_type: page::text(query, "deviceType")?,
            model: page::text(query, "model")?,
            manufacturer: page::text(query, "manufacturerName")?,
            version: page::text(query, "version")?,
        })
    }

    fn matches(&self, row: &Firmware) -> bool {
        let said =
            |wanted: Option<&str>, word: Option<&Arc<str>>| wanted.is_none_or(|wanted| word.is_some_and(|word| **word == *wanted));
        self.file_type.is_none_or(|wanted| wanted == row.file_type)
            && said(self.device_type, row.device_type.as_ref())
            && said(self.model, row.model.as_ref())
            && said(self.manufacturer, row.manufacturer.as_ref())
            && said(self.version, Some(&row.version))
    }
}

fn file_type(query: &Query<'_>) -> Result<Option<FileType>, Failure> {
    let types = [FileType::SoftwarePackage, FileType::FirmwarePackage].map(|file_type| (file_type_name(file_type), file_type));
    page::choice(query, "fileType", &types)
}

/// Newest first.
pub(super) async fn list(app: &App, request: Request) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Look)?;
    let query = Query::parse(request.uri().query())?;
    let (page, filter) = (Page::read(&query)?, Filter::read(&query)?);
    let mut data = Vec::new();
    let mut count = 0;
    let mut before: Option<FirmwareNumber> = None;
    loop {
        let read = |state: &State| {
            let rows = match call.own_product() {
                None => state.firmware_list(&call.organization, None, before, ROWS_PER_READ),
                Some(product_id) => match state.product(&call.organization, product_id) {
                    Some(product) => state.firmware_list(&call.organization, Some(product.number), before, ROWS_PER_READ),
                    None => Vec::new(),
                },
            };
            let last = (rows.len() == ROWS_PER_READ).then(|| rows.last().map(|row| row.number)).flatten();
            let mut place = count;
            let mut part = Vec::new();
            for row in rows.iter().filter(|row| filter.matches(row)) {
                if page.holds(place)
                    && let Some(product) = state.product_by_number(row.product)
                {
                    part.push(PackageShown::new(row, &product.id));
                }
                place += 1;
            }
            (part, place, last)
        };
        let (part, place, last) = app.engine.read(read).await?;
        data.extend(part);
        count = place;
        match last {
            Some(last) => before = Some(last),
            None => return Ok(json(StatusCode::OK, &page.of(data, count))),
        }
    }
}

pub(super) async fn get(app: &App, request: Request, id: &str) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Look)?;
    let (row, product) = app.engine.read(|state| package(state, &call, id)).await?.ok_or_else(|| unknown_package(id))?;
    Ok(json(StatusCode::OK, &PackageShown::new(&row, &product.id)))
}

/// Refused while a task leads to it.
pub(super) async fn delete(app: &App, request: Request, id: &str) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Change)?;
    let (row, _) = app.engine.read(|state| package(state, &call, id)).await?.ok_or_else(|| unknown_package(id))?;
    app.engine.delete_firmware(&call.organization, row.id, call.now).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// The body is the file; what it is stands in the query.
pub(super) async fn upload(app: &App, request: Request) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Change)?;
    let query = request.uri().query().map(str::to_owned);
    let query = Query::parse(query.as_deref())?;
    let described = Described::read(&query, &call)?;
    let is_there = |state: &State| state.product(&call.organization, &described.product_id).is_some();
    if !app.registers() && !app.engine.read(is_there).await? {
        let product_id = &described.product_id;
        return Err(Failure::not_found(format!(
            "there is no product {product_id:?} here; create it, or set registration = \"open\""
        )));
    }
    let name = described.name.as_deref().map(Into::into);
    let uploaded = take_in(app, Arc::clone(&call.organization), name, request).await?;
    let image = &uploaded.image;
    let artifact = Artifact {
        image: Some(image.id),
        url: None,
        size: image.size,
        md5: to_hexadecimal(&image.md5).into(),
        sha256: Some(image.id.to_string().into()),
    };
    let product_id = described.product_id.clone();
    let new = described.into_firmware(&call, artifact);
    let firmware = app.engine.create_firmware(new, app.registers(), app.now()).await?;
    Ok(json(StatusCode::CREATED, &PackageShown::new(&firmware, &product_id)))
}

/// A package as the uploader describes it.
struct Described {
    product_id: String,
    version: String,
    component: Component,
    file_type: FileType,
    name: Option<String>,
    description: Option<String>,
    device_type: Option<String>,
    model: Option<String>,
    manufacturer: Option<String>,
    protocol_type: Option<String>,
}

impl Described {
    fn read(query: &Query<'_>, call: &Call<'_>) -> Result<Self, Failure> {
        let word = |key: &str| page::text(query, key).map(|text| text.map(str::to_owned));
        let required = |key: &str| {
            word(key)?.ok_or_else(|| Failure::bad_request(format!("{key} is required in the query, and is missing or empty")))
        };
        let product_id = required("productId")?;
        if !call.opens(&product_id) {
            return Err(Failure::not_found("this token is bound to another product; use one that opens it"));
        }
        Ok(Self {
            product_id,
            version: required("version")?,
            component: Component {
                component_type: number(query, "type")?.unwrap_or(Component::MAIN.component_type),
                identify: number(query, "identify")?.unwrap_or(Component::MAIN.identify),
            },
            file_type: file_type(query)?.unwrap_or_default(),
            name: word("name")?,
            description: word("description")?,
            device_type: word("deviceType")?,
            model: word("model")?,
            manufacturer: word("manufacturerName")?,
            protocol_type: word("protocolType")?,
        })
    }

    fn into_firmware(self, call: &Call<'_>, artifact: Artifact) -> NewFirmware {
        NewFirmware {
            organization: call.organization.to_string(),
            product_id: self.product_id,
            component: self.component,
            version: self.version,
            artifact,
            name: self.name,
            description: self.description,
            model: self.model,
            manufacturer: self.manufacturer,
            device_type: self.device_type,
            file_type: self.file_type,
            annotations: encode::package_annotations(self.protocol_type.as_deref()),
            verification: None,
            unique_name: false,
        }
    }
}

fn number<T: TryFrom<i128>>(query: &Query<'_>, key: &str) -> Result<Option<T>, Failure> {
    let Some(text) = page::text(query, key)? else { return Ok(None) };
    let number = parse_integer(text).and_then(|number| T::try_from(number).ok());
    number.map(Some).ok_or_else(|| Failure::bad_request(format!("{key} must be a whole number, got {text:?}")))
}
