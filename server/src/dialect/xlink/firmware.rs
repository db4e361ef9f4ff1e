//! Firmware of a product: create, show, change, delete, list, count devices by version, upload the file.

use super::decode::{self, FirmwareWritten, Window};
use super::encode::{self, Counted, FirmwareShown};
use super::status::{Code, Failure};
use super::{Answer, access, body_of, done, file};
use crate::app::App;
use crate::auth::Caller;
use crate::dialect::common::hexadecimal::to_hexadecimal;
use crate::dialect::common::upload::{UploadError, upload as take_in};
use crate::http::{Query, Request, json};
use ::http::StatusCode;
use serde::Serialize;
use sluicegate::image::IngestError;
use sluicegate::model::{Artifact, Component, FileType, Firmware, FirmwareId, FirmwareNumber, Timestamp};
use sluicegate::{NewFirmware, State};
use std::sync::Arc;

const ROWS_PER_READ: usize = 1_000;

pub(super) async fn create(app: &App, request: Request, product_id: &str) -> Answer {
    let now = app.now();
    let caller = operator(app, &request, product_id, now)?;
    let (parts, body) = body_of(app, request).await?;
    let written = decode::firmware(&body)?;
    let component = decode::component_of(written.component_type, written.identify);
    let artifact = file::artifact(app, &caller, &parts.headers, written.file.clone()).await?;
    let new = new_firmware(&caller, product_id, component, written, artifact);
    let firmware = app.engine.create_firmware(new, app.registers(), now).await?;
    Ok(json(StatusCode::OK, &FirmwareShown::new(&firmware, product_id)))
}

pub(super) async fn get(app: &App, request: Request, product_id: &str, id: &str) -> Answer {
    let caller = operator(app, &request, product_id, app.now())?;
    let firmware = find(app, &caller, product_id, id).await?;
    Ok(json(StatusCode::OK, &FirmwareShown::new(&firmware, product_id)))
}

/// What a started task hands out must not change under it (the engine sees to that); what is only told of it may.
pub(super) async fn change(app: &App, request: Request, product_id: &str, id: &str) -> Answer {
    let now = app.now();
    let caller = operator(app, &request, product_id, now)?;
    let (parts, body) = body_of(app, request).await?;
    let written = decode::firmware(&body)?;
    let old = find(app, &caller, product_id, id).await?;
    let component = decode::component_of(
        written.component_type.or(Some(old.component.component_type)),
        written.identify.or(Some(old.component.identify)),
    );
    let artifact = file::artifact(app, &caller, &parts.headers, written.file.clone()).await?;
    let mut new = new_firmware(&caller, product_id, component, written, artifact);
    // Not this platform's, so a change by way of it leaves them as they are.
    new.name = old.name.as_deref().map(str::to_owned);
    new.manufacturer = old.manufacturer.as_deref().map(str::to_owned);
    new.device_type = old.device_type.as_deref().map(str::to_owned);
    new.file_type = old.file_type;
    let firmware = app.engine.update_firmware(old.id, new, now).await?;
    Ok(json(StatusCode::OK, &FirmwareShown::new(&firmware, product_id)))
}

pub(super) async fn delete(app: &App, request: Request, product_id: &str, id: &str) -> Answer {
    let now = app.now();
    let caller = operator(app, &request, product_id, now)?;
    let firmware = find(app, &caller, product_id, id).await?;
    app.engine.delete_firmware(&caller.organization, firmware.id, now).await?;
    done()
}

pub(super) async fn list_by_query(app: &App, request: Request, product_id: &str) -> Answer {
    let caller = operator(app, &request, product_id, app.now())?;
    let query = Query::parse(request.uri().query())?;
    let window = decode::query_window(query.get("offset"), query.get("limit"))?;
    let page = page(app, &caller, product_id, window).await?;
    Ok(json(StatusCode::OK, &shown(&page, product_id)))
}

pub(super) async fn list_by_body(app: &App, request: Request, product_id: &str) -> Answer {
    let caller = operator(app, &request, product_id, app.now())?;
    let (_, body) = body_of(app, request).await?;
    let (_, window) = decode::list(&body, Code::FirmwareTypeUnknown)?;
    let page = page(app, &caller, product_id, window).await?;
    Ok(json(StatusCode::OK, &Counted { count: page.count, list: shown(&page, product_id) }))
}

/// How many devices run each version of a component: the main one, unless the query says which.
pub(super) async fn statistics(app: &App, request: Request, product_id: &str) -> Answer {
    let caller = operator(app, &request, product_id, app.now())?;
    let query = Query::parse(request.uri().query())?;
    let component = decode::component_in_query(query.get("type"), query.get("identify"))?;
    let read = |state: &State| {
        let product = state.product(&caller.organization, product_id)?;
        Some(state.version_counts(product.number, component))
    };
    let counts = app.engine.read(read).await?.ok_or_else(|| product_unknown(product_id))?;
    Ok(json(StatusCode::OK, &encode::statistics(counts.iter().map(|(version, count)| (&**version, *count)))))
}

/// The file itself, raw; its link is then named when a firmware or a task is made.
pub(super) async fn upload(app: &App, request: Request, product_id: &str) -> Answer {
    #[derive(Serialize)]
    struct Shown {
        url: String,
        md5: String,
        size: u64,
    }
    let caller = operator(app, &request, product_id, app.now())?;
    if !app.registers() && app.engine.read(|state| state.product(&caller.organization, product_id).is_none()).await? {
        return Err(product_unknown(product_id));
    }
    let uploaded = take_in(app, Arc::clone(&caller.organization), None, request).await?;
    let image = &uploaded.image;
    let url = app.image_link(image.id, None, app.now());
    Ok(json(StatusCode::OK, &Shown { url, md5: to_hexadecimal(&image.md5), size: image.size }))
}

fn operator(app: &App, request: &Request, product_id: &str, now: Timestamp) -> Result<Caller, Failure> {
    let caller = access::operator(app, request.headers(), now)?;
    access::may_open_product(&caller, product_id)?;
    Ok(caller)
}

fn new_firmware(
    caller: &Caller,
    product_id: &str,
    component: Component,
    written: FirmwareWritten,
    artifact: Artifact,
) -> NewFirmware {
    let release_date = written.release_date.map(|date| (encode::RELEASE_DATE, date));
    let is_release = (encode::IS_RELEASE, written.is_release.to_string());
    NewFirmware {
        organization: caller.organization.to_string(),
        product_id: product_id.to_owned(),
        component,
        version: written.version,
        artifact,
        name: None,
        description: Some(written.description),
        model: Some(written.model),
        manufacturer: None,
        device_type: None,
        file_type: FileType::default(),
        annotations: release_date.into_iter().chain([is_release]).map(|(key, value)| (key.into(), value.into())).collect(),
        verification: None,
        unique_name: false,
    }
}

/// The firmware, if it is this product's.
async fn find(app: &App, caller: &Caller, product_id: &str, id: &str) -> Result<Arc<Firmware>, Failure> {
    let parsed: Option<FirmwareId> = id.parse().ok();
    let read = |state: &State| {
        let product = state.product(&caller.organization, product_id)?;
        let firmware = parsed.and_then(|id| state.firmware(&caller.organization, id));
        Some(firmware.filter(|firmware| firmware.product == product.number))
    };
    match app.engine.read(read).await? {
        Some(Some(firmware)) => Ok(firmware),
        Some(None) => {
            let id: String = id.chars().take(40).collect();
            Err(Failure::new(Code::FirmwareUnknown, format!("product {product_id:?} has no firmware {id:?}; list its firmware")))
        }
        None => Err(product_unknown(product_id)),
    }
}

#[derive(Default)]
struct Page {
    count: usize,
    rows: Vec<Arc<Firmware>>,
}

fn shown<'a>(page: &'a Page, product_id: &'a str) -> Vec<FirmwareShown<'a>> {
    page.rows.iter().map(|firmware| FirmwareShown::new(firmware, product_id)).collect()
}

/// Newest first. A product that isn't there has no firmware.
async fn page(app: &App, caller: &Caller, product_id: &str, window: Window) -> Result<Page, Failure> {
    let mut page = Page::default();
    let mut before: Option<FirmwareNumber> = None;
    let end = window.offset.saturating_add(window.limit);
    loop {
        let read = |state: &State| match state.product(&caller.organization, product_id) {
            Some(product) => state.firmware_list(&caller.organization, Some(product.number), before, ROWS_PER_READ),
            None => Vec::new(),
        };
        let rows = app.engine.read(read).await?;
        let is_last = rows.len() < ROWS_PER_READ;
        before = rows.last().map(|firmware| firmware.number);
        for firmware in rows {
            if window.component_type.is_some_and(|wanted| wanted != firmware.component.component_type) {
                continue;
            }
            if (window.offset..end).contains(&page.count) {
                page.rows.push(firmware);
            }
            page.count += 1;
        }
        if is_last {
            return Ok(page);
        }
    }
}

fn product_unknown(product_id: &str) -> Failure {
    Failure::new(Code::ProductUnknown, format!("there is no product {product_id:?} here"))
}

impl From<UploadError> for Failure {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Engine(error) => error.into(),
            UploadError::Body(error) => error.into(),
            UploadError::Header(message) => Self::invalid(message),
            UploadError::Ingest(error @ IngestError::TooLarge { .. }) => Self::new(Code::FileTooLarge, error.to_string()),
            UploadError::Ingest(error) if error.is_uploaders_fault() => Self::invalid(error.to_string()),
            error @ (UploadError::Ingest(_) | UploadError::Stopping) => {
                Self { retry_after_s: Some(10), ..Self::new(Code::Unavailable, error.to_string()) }
            }
        }
    }
}
