//! Firmware from a form: its file is streamed into the store while it comes, and kept only if it is what the metadata says.
//!
//! The metadata usually comes first; then the file is checked as it is taken. Where the file comes first it waits, unsealed, for what
//! it is to be compared with. Nothing is kept of a form that breaks off, lacks a part, has one twice, or whose digest is another.

use super::firmware_metadata::Metadata;
use super::memory::{Claim, FirmwareName};
use super::multipart::{Boundary, Form, FormError, drain};
use super::status::{Code, Failure};
use super::{Answer, Answered, Call, access};
use crate::dialect::common::hexadecimal::to_hexadecimal;
use crate::dialect::common::status::{Status, ingest_status};
use crate::dialect::common::upload::{Intake, UploadError, Uploaded, record};
use crate::http::{Request, RequestBody};
use ::http::HeaderMap;
use serde::Serialize;
use sluicegate::image::SealedImage;
use sluicegate::model::{Artifact, Component, FileType, Firmware, FirmwareNumber};
use sluicegate::{NewFirmware, State};
use std::sync::Arc;

const METADATA_BYTES_MAX: usize = 64 << 10;
/// What a form may have beside its file: boundaries, headers, metadata, small parts that nobody asked for.
const FORM_BYTES_MAX: u64 = 1 << 20;
const FILE_NAME_CHARS_MAX: usize = 255;
const ROWS_PER_READ: usize = 1_000;

pub(super) async fn create(call: &Call, request: Request) -> Answered {
    let (parts, body) = request.into_parts();
    let begun = match begin(call, &parts.headers, &body) {
        Ok(begun) => begun,
        Err(failure) => {
            drain(body).await;
            return Err(failure);
        }
    };
    let mut form = Form::begin(begun.boundary, body, begun.bytes_max);
    match take(call, begun.product_id, &mut form).await {
        Ok(taken) => taken.create(call).await,
        Err(failure) => {
            drain(form.into_body()).await;
            Err(failure)
        }
    }
}

/// Refuses a body that is no form by its `Content-Type`.
pub(super) fn check_form(headers: &HeaderMap) -> Result<(), Failure> {
    Boundary::of(headers).map(|_| ()).map_err(Failure::from)
}

/// What the head of the request says.
struct Begun<'a> {
    product_id: &'a str,
    boundary: Boundary,
    bytes_max: u64,
}

fn begin<'a>(call: &'a Call, headers: &HeaderMap, body: &RequestBody) -> Result<Begun<'a>, Failure> {
    // Who may not name the product is told so first, whatever else is wrong.
    let product_id = product_of(call)?;
    let boundary = Boundary::of(headers)?;
    let bytes_max = call.app.config.images.size_bytes_max.saturating_add(FORM_BYTES_MAX);
    if body.declared_len().is_some_and(|length| length > bytes_max) {
        return Err(FormError::TooLarge { bytes_max }.into());
    }
    Ok(Begun { product_id, boundary, bytes_max })
}

fn product_of(call: &Call) -> Result<&str, Failure> {
    let product_id = call.parameters.required("productKey")?;
    access::may_name_product(&call.caller, product_id)?;
    Ok(product_id)
}

/// Both parts of a form, the file sealed.
struct Taken<'a> {
    product_id: &'a str,
    metadata: Metadata,
    sealed: SealedImage,
    file_name: Option<Arc<str>>,
    /// Held until the firmware is durable.
    _claim: Claim<'a>,
}

async fn take<'a>(call: &'a Call, product_id: &'a str, form: &mut Form<RequestBody>) -> Result<Taken<'a>, Failure> {
    let mut known: Option<(Metadata, Claim<'a>)> = None;
    let mut file: Option<(Intake, Option<Arc<str>>)> = None;
    let mut read = async || {
        while let Some(part) = form.next_part().await? {
            match part.name.as_str() {
                "metadata" if known.is_none() => {
                    let text = form.whole_part(METADATA_BYTES_MAX).await.map_err(|error| of_part("metadata", error))?;
                    let metadata = Metadata::read(&text, call.app.engine.limits())?;
                    let claim = claim(call, product_id, &metadata).await?;
                    known = Some((metadata, claim));
                }
                "file" if file.is_none() => {
                    let intake = match &known {
                        Some((metadata, _)) => Intake::begin(&call.app, metadata.sign.declared()),
                        None => Intake::begin_undeclared(&call.app),
                    };
                    let (intake, _) = file.insert((intake?, part.file_name.as_deref().and_then(file_name)));
                    while let Some(bytes) = form.next_bytes().await? {
                        if !intake.take(bytes).await {
                            return Ok(());
                        }
                    }
                }
                "metadata" | "file" => {
                    return Err(Failure::invalid(format!("the form has two parts {}; send one", part.name)));
                }
                _ => {}
            }
        }
        Ok(())
    };
    let read: Result<(), Failure> = read().await;
    let missing = |part: &str, got: &str| {
        Failure::invalid(format!("the form has no part {part}, expected metadata (JSON) and file (the image), got {got}"))
    };
    match (read, known, file) {
        (Ok(()), Some((metadata, claim)), Some((intake, file_name))) => {
            // Where the metadata came first this declares once more what was declared before.
            let sealed = intake.seal_as(metadata.sign.declared()).await?;
            Ok(Taken { product_id, metadata, sealed, file_name, _claim: claim })
        }
        (Ok(()), known, Some((intake, _))) if known.is_none() => {
            // The file may have been refused before the metadata came.
            let reason = UploadError::Header(missing("metadata", "file alone").message);
            Err(intake.give_up(reason).await.into())
        }
        (Ok(()), known, _) => Err(missing("file", if known.is_some() { "metadata alone" } else { "neither" })),
        (Err(failure), _, None) => Err(failure),
        (Err(failure), _, Some((intake, _))) => {
            drop(intake);
            Err(failure)
        }
    }
}

/// Refuses what another call is creating, or what is there, before gigabytes are sent in vain. The engine looks again.
async fn claim<'a>(call: &'a Call, product_id: &str, metadata: &Metadata) -> Result<Claim<'a>, Failure> {
    let version = metadata.version.clone();
    let name = FirmwareName { organization: Arc::clone(&call.organization), product_id: product_id.to_owned(), version };
    let claim = call.app.enos.claim(name).ok_or_else(|| {
        Failure::new(
            Code::ConcurrentCreate,
            format!("another call is creating version {:?} of this product; wait for its end", metadata.version),
        )
    })?;
    let mut before: Option<FirmwareNumber> = None;
    loop {
        let read = |state: &State| {
            let product = state.product(&call.organization, product_id)?;
            Some(state.firmware_list(&call.organization, Some(product.number), before, ROWS_PER_READ))
        };
        let Some(rows) = call.app.engine.read(read).await? else {
            if call.app.registers() {
                return Ok(claim);
            }
            return Err(Failure::new(Code::NotFound, format!("Product not found: there is no product {product_id:?} here")));
        };
        for row in &rows {
            refuse_taken(row, metadata)?;
        }
        match rows.last() {
            Some(last) if rows.len() == ROWS_PER_READ => before = Some(last.number),
            _ => return Ok(claim),
        }
    }
}

fn refuse_taken(row: &Firmware, metadata: &Metadata) -> Result<(), Failure> {
    if row.component == Component::MAIN && *row.version == *metadata.version {
        return Err(Failure::new(
            Code::FirmwareVersionExists,
            format!("Firmware version exists: {:?} is version {} of this product; give another", metadata.version, row.id),
        ));
    }
    if row.name.as_deref() == Some(metadata.name.default.as_str()) {
        return Err(Failure::new(
            Code::FirmwareNameExists,
            format!("Firmware name exists: {:?} is firmware {} of this product; give another", metadata.name.default, row.id),
        ));
    }
    Ok(())
}

impl Taken<'_> {
    async fn create(self, call: &Call) -> Answered {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Shown {
            firmware_id: String,
        }
        let app = &call.app;
        let Uploaded { image, .. } = record(app, Arc::clone(&call.organization), self.file_name, self.sealed).await?;
        let new = NewFirmware {
            organization: call.organization.to_string(),
            product_id: self.product_id.to_owned(),
            component: Component::MAIN,
            artifact: Artifact {
                image: Some(image.id),
                url: None,
                size: image.size,
                md5: to_hexadecimal(&image.md5).into(),
                sha256: Some(image.id.to_string().into()),
            },
            annotations: self.metadata.annotations(),
            version: self.metadata.version,
            name: Some(self.metadata.name.default),
            description: self.metadata.description,
            model: None,
            manufacturer: None,
            device_type: None,
            file_type: FileType::default(),
            verification: self.metadata.verification,
            unique_name: true,
        };
        let firmware = app.engine.create_firmware(new, app.registers(), app.now()).await?;
        Answer::data(&Shown { firmware_id: firmware.id.to_string() })
    }
}

/// The last part of a path, without what no file's name has.
fn file_name(written: &str) -> Option<Arc<str>> {
    let last = written.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = last.chars().filter(|char| !char.is_control()).take(FILE_NAME_CHARS_MAX).collect();
    (!name.is_empty()).then(|| name.into())
}

fn of_part(part: &str, error: FormError) -> Failure {
    match error {
        FormError::TooLarge { bytes_max } => Failure::invalid(format!("part {part} may have {bytes_max} bytes at most; send less")),
        error => error.into(),
    }
}

impl From<FormError> for Failure {
    fn from(error: FormError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<UploadError> for Failure {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Engine(error) => error.into(),
            UploadError::Body(error) => error.into(),
            UploadError::Header(message) => Self::invalid(message),
            UploadError::Ingest(error) if error.is_uploaders_fault() => Self::invalid(error.to_string()),
            UploadError::Ingest(error) => Self::ours(ingest_status(&error), error.to_string()),
            UploadError::Stopping => Self::ours(Status::STOPPING, error.to_string()),
        }
    }
}
