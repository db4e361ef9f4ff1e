//! Images in pieces: begun once, gone on with after a broken connection. [`crate::uploads`] keeps them meanwhile.

use super::decode::parse;
use super::encode::ImageShown;
use super::failure::Failure;
use super::images::file_name;
use super::whole::Whole;
use super::{Answer, access, body_of};
use crate::app::App;
use crate::http::body::next_data;
use crate::http::{Query, Reply, Request, RequestBody, json, with_header};
use crate::secrets::random_text;
use crate::uploads::{Lease, Progress, UploadsError, Wanted};
use ::http::{HeaderMap, HeaderName, StatusCode};
use serde::{Deserialize, Serialize};
use sluicegate::Error;
use sluicegate::image::{Declared, IngestError};
use sluicegate::model::{Image, ImageId};
use std::sync::Arc;
use tokio::sync::mpsc;

pub(super) const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");

/// Enough to keep the digests busy while the network takes a breath, as for images that come in one go.
const PIECES_WAITING_MAX: usize = 16;

#[derive(Debug, Deserialize)]
struct NewUpload {
    size: Whole<u64>,
    sha256: String,
    name: Option<String>,
}

#[derive(Debug, Serialize)]
struct UploadShown<'a> {
    upload: &'a str,
    offset: u64,
    size: u64,
}

fn shown(status: StatusCode, progress: &Progress) -> Reply {
    let reply = json(status, &UploadShown { upload: &progress.id, offset: progress.offset, size: progress.size });
    with_header(reply, UPLOAD_OFFSET, progress.offset)
}

/// `POST /api/v1/uploads`: a new one, or the unfinished one of the same bytes.
pub(super) async fn begin(app: &App, request: Request) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let (parts, body) = body_of(app, request).await?;
    let query = Query::parse(parts.uri.query())?;
    let organization = access::organization(app, &caller, &query)?;
    let wanted: NewUpload = parse(&body)?;
    let sha256: ImageId =
        wanted.sha256.parse().map_err(|_| Failure::invalid("sha256: expected the image's SHA-256 as 64 hexadecimal digits"))?;
    // No device can install nothing.
    if wanted.size.0 == 0 {
        return Err(Failure::invalid("size is 0; give the number of the image's bytes"));
    }
    let name =
        file_name(wanted.name.as_deref().or_else(|| query.get("name")), &HeaderMap::new(), app.engine.limits().name_chars_max)?;
    let wanted = Wanted { organization, sha256, size: wanted.size.0, name: name.map(Into::into) };
    let id = random_text().map_err(|error| Failure::unavailable("store_failed", 5, error.to_string()))?;
    let declared = Declared { size: Some(wanted.size), sha256: Some(sha256.0), ..Declared::default() };
    let open = || Ok::<_, Failure>(app.engine.images().begin(declared, app.config.images.size_bytes_max)?);
    let (progress, is_new) = app.uploads.begin(id, wanted, now, open)?;
    Ok(shown(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &progress))
}

/// `GET /api/v1/uploads/{id}`: how far it is.
pub(super) async fn get(app: &App, request: Request, id: &str) -> Answer {
    let caller = access::operator(app, request.headers(), app.now())?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    Ok(shown(StatusCode::OK, &app.uploads.progress(&organization, id)?))
}

/// `PATCH /api/v1/uploads/{id}`: the bytes from `Upload-Offset` on, some or all of them. The last one makes the image.
pub(super) async fn go_on(app: &Arc<App>, request: Request, id: &str) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let offset = offset(request.headers())?;
    let (_, body) = request.into_parts();
    let lease = app.uploads.lease(&organization, id, offset, now)?;
    let missing_bytes = lease.missing_bytes();
    if body.declared_len().is_some_and(|length| length > missing_bytes) {
        return Err(too_many(missing_bytes));
    }
    let lease = write(lease, body).await?;
    if !lease.is_whole() {
        return Ok(shown(StatusCode::ACCEPTED, &lease.progress()));
    }
    // On its own: the image is recorded even if the uploader doesn't wait for the answer.
    let finishing = tokio::spawn(finish(Arc::clone(app), lease));
    finishing.await.map_err(|_| stopping())?
}

fn offset(headers: &HeaderMap) -> Result<u64, Failure> {
    let text = headers.get(&UPLOAD_OFFSET).and_then(|value| value.to_str().ok());
    let offset = text.and_then(|text| text.trim().parse().ok());
    offset.ok_or_else(|| {
        Failure::new(
            StatusCode::BAD_REQUEST,
            "invalid_upload",
            "Upload-Offset must say which byte of the image the body begins with",
        )
    })
}

fn too_many(missing_bytes: u64) -> Failure {
    let message = format!("the body is longer than the {missing_bytes} bytes that the upload lacks; send those alone");
    Failure::new(StatusCode::BAD_REQUEST, "size_mismatch", message)
}

fn stopping() -> Failure {
    Failure::unavailable("stopping", 5, "the upload was left because the server is stopping; begin it again")
}

/// Passes the body on to a thread that may block. That thread holds the lease, so what it was given is kept even when this future is
/// dropped with its connection.
async fn write(mut lease: Lease, mut body: RequestBody) -> Result<Lease, Failure> {
    let mut missing_bytes = lease.missing_bytes();
    let (pieces, mut waiting) = mpsc::channel(PIECES_WAITING_MAX);
    let taking = tokio::task::spawn_blocking(move || {
        while let Some(bytes) = waiting.blocking_recv() {
            lease.write(bytes)?;
        }
        Ok::<_, IngestError>(lease)
    });
    let read = async {
        while let Some(bytes) = next_data(&mut body).await? {
            let length = bytes.len() as u64;
            missing_bytes = missing_bytes.checked_sub(length).ok_or_else(|| too_many(missing_bytes))?;
            if pieces.send(bytes).await.is_err() {
                // The taker refused; its error says why.
                return Ok(());
            }
        }
        Ok(())
    };
    let read: Result<(), Failure> = read.await;
    drop(pieces);
    let lease = taking.await.map_err(|_| stopping())??;
    read?;
    Ok(lease)
}

/// Seals the image and answers as if it had come in one go.
async fn finish(app: Arc<App>, mut lease: Lease) -> Answer {
    let sealing = tokio::task::spawn_blocking(move || {
        let sealed = lease.finish();
        (lease, sealed)
    });
    // The lease is held to the end: who asks meanwhile is told that the upload is busy, not that it is gone.
    let (lease, sealed) = sealing.await.map_err(|_| Error::Closed)?;
    let sealed = sealed?;
    let Wanted { organization, name, .. } = lease.wanted().clone();
    let id = sealed.id();
    let was_held = app.engine.read(|state| state.image(&organization, id).is_some()).await?;
    let now = app.now();
    let image = Image { organization, id, size: sealed.size(), md5: sealed.md5(), sha1: sealed.sha1(), name, created_at: now };
    let image = app.engine.put_image(image, now).await?;
    let url = app.image_link(image.id, None, now);
    Ok(json(if was_held { StatusCode::OK } else { StatusCode::CREATED }, &ImageShown::new(&image, &url)))
}

impl From<UploadsError> for Failure {
    fn from(error: UploadsError) -> Self {
        let message = error.to_string();
        match error {
            UploadsError::Full => Self::unavailable("uploads_full", 60, message),
            UploadsError::OrganizationFull => Self::new(StatusCode::CONFLICT, "uploads_full", message),
            UploadsError::Unknown => Self::new(StatusCode::NOT_FOUND, "upload_not_found", message),
            UploadsError::Busy => Self::new(StatusCode::CONFLICT, "upload_busy", message),
            UploadsError::Offset { expected, .. } => {
                Self { upload_offset: Some(expected), ..Self::new(StatusCode::CONFLICT, "upload_offset", message) }
            }
        }
    }
}
