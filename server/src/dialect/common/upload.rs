//! Takes an image from a request's body into the store, whichever dialect it came by.
//!
//! The body is passed on piece by piece to a thread that may block; at most [`PIECES_WAITING_MAX`] pieces wait for it, then the client
//! does. Nothing is kept of an upload that breaks off, is larger than allowed, or isn't what its headers declare.

use super::hexadecimal::{from_hexadecimal, to_hexadecimal};
use crate::app::App;
use crate::http::body::next_data;
use crate::http::{BodyError, Request};
use ::http::HeaderMap;
use ::http::header::CONTENT_LENGTH;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::Md5;
use sha2::{Digest as _, Sha256};
use sluicegate::Error;
use sluicegate::image::{Declared, IngestError, SealedImage};
use sluicegate::model::Image;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Hyper's pieces have some 8 to 400 KiB; enough of them to keep the digests busy while the network takes a breath.
const PIECES_WAITING_MAX: usize = 16;

/// An image that was taken in.
#[derive(Debug)]
pub struct Uploaded {
    pub image: Arc<Image>,
    pub sealed: SealedImage,
    /// The organization held the very same bytes before.
    pub was_held: bool,
}

/// Why an upload was refused. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The uploader's fault: a header that declares something can't be read, or there is nothing to take in.
    #[error("{0}")]
    Header(String),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Ingest(#[from] IngestError),
    #[error(transparent)]
    Engine(#[from] Error),
    /// Ours: the thread that took the bytes is gone.
    #[error("the upload was given up because the server is stopping; nothing was stored")]
    Stopping,
}

/// Takes the body in as an image of `organization`. `name` is the file's, where the uploader told it.
pub async fn upload(app: &App, organization: Arc<str>, name: Option<Arc<str>>, request: Request) -> Result<Uploaded, UploadError> {
    let (parts, mut body) = request.into_parts();
    let mut declared = declared(&parts.headers)?;
    declared.size = declared.size.or_else(|| body.declared_len());
    let mut intake = Intake::begin(app, declared)?;
    let read = async {
        while let Some(bytes) = next_data(&mut body).await? {
            if !intake.take(bytes).await {
                break;
            }
        }
        Ok(())
    };
    let read: Result<(), BodyError> = read.await;
    if let Err(broken) = read {
        return Err(intake.give_up(broken.into()).await);
    }
    record(app, organization, name, intake.seal().await?).await
}

/// An image on its way in, fed piece by piece. Given up or dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Intake {
    pieces: mpsc::Sender<Piece>,
    taking: JoinHandle<Result<Option<SealedImage>, IngestError>>,
    received_bytes: u64,
}

/// Only an `End` seals: a channel that closes without one means that the body broke off.
#[derive(Debug)]
enum Piece {
    Data(Bytes),
    /// With what was declared meanwhile.
    End(Declared),
}

impl Intake {
    /// `declared`: what is known of the bytes before they come.
    pub fn begin(app: &App, declared: Declared) -> Result<Self, UploadError> {
        Self::start(app, declared, None)
    }

    /// For bytes of which nothing is known before they come, but will be: [`seal_as`](Self::seal_as).
    pub fn begin_undeclared(app: &App) -> Result<Self, UploadError> {
        Self::start(app, Declared::default(), Some(Box::default()))
    }

    fn start(app: &App, declared: Declared, mut digests: Option<Box<LateDigests>>) -> Result<Self, UploadError> {
        let mut ingest = app.engine.images().begin(declared, app.config.images.size_bytes_max)?;
        let (pieces, mut waiting) = mpsc::channel(PIECES_WAITING_MAX);
        let taking = tokio::task::spawn_blocking(move || {
            loop {
                match waiting.blocking_recv() {
                    Some(Piece::Data(bytes)) => {
                        if let Some(digests) = &mut digests {
                            digests.update(&bytes);
                        }
                        ingest.write(bytes)?;
                    }
                    Some(Piece::End(declared)) => {
                        if let Some(digests) = digests {
                            digests.check(&declared)?;
                        }
                        return ingest.finish().map(|(sealed, _)| Some(sealed));
                    }
                    None => return Ok(None),
                }
            }
        });
        Ok(Self { pieces, taking, received_bytes: 0 })
    }

    /// Passes the next bytes on; waits while enough are on their way. `false`: refused, and sealing tells why.
    pub async fn take(&mut self, bytes: Bytes) -> bool {
        self.received_bytes += bytes.len() as u64;
        self.pieces.send(Piece::Data(bytes)).await.is_ok()
    }

    pub async fn seal(self) -> Result<SealedImage, UploadError> {
        self.seal_as(Declared::default()).await
    }

    /// Seals what was begun undeclared, if its digests are these.
    pub async fn seal_as(self, declared: Declared) -> Result<SealedImage, UploadError> {
        // No device can install nothing: an empty image is a file that went missing on its way here.
        if self.received_bytes > 0 {
            // A taker that is gone has refused; its error says why.
            let _ = self.pieces.send(Piece::End(declared)).await;
        }
        let is_empty = self.received_bytes == 0;
        drop(self.pieces);
        match self.taking.await {
            Ok(Ok(Some(sealed))) => Ok(sealed),
            Ok(Ok(None)) if is_empty => Err(UploadError::Header("the body is empty; send the bytes of the image".to_owned())),
            Ok(Err(refused)) => Err(refused.into()),
            Ok(Ok(None)) | Err(_) => Err(UploadError::Stopping),
        }
    }

    /// Ends it because of `reason`. Waits until nothing of it is left; where the bytes were refused before, that is the reason.
    pub async fn give_up(self, reason: UploadError) -> UploadError {
        drop(self.pieces);
        match self.taking.await {
            Ok(Err(refused)) => refused.into(),
            _ => reason,
        }
    }
}

/// Digests of bytes that come before what they should be is known. Costs the taking thread time, so it is for nobody else.
#[derive(Debug, Default)]
struct LateDigests {
    sha256: Sha256,
    md5: Md5,
}

impl LateDigests {
    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.md5.update(bytes);
    }

    fn check(self, declared: &Declared) -> Result<(), IngestError> {
        compare("SHA-256", declared.sha256, self.sha256.finalize().into())?;
        compare("MD5", declared.md5, self.md5.finalize().into())
    }
}

fn compare<const N: usize>(digest: &'static str, declared: Option<[u8; N]>, got: [u8; N]) -> Result<(), IngestError> {
    match declared {
        Some(expected) if expected != got => {
            Err(IngestError::Digest { digest, expected: to_hexadecimal(&expected), got: to_hexadecimal(&got) })
        }
        _ => Ok(()),
    }
}

/// Notes that the organization holds what was sealed.
pub async fn record(
    app: &App,
    organization: Arc<str>,
    name: Option<Arc<str>>,
    sealed: SealedImage,
) -> Result<Uploaded, UploadError> {
    let id = sealed.id();
    let was_held = app.engine.read(|state| state.image(&organization, id).is_some()).await?;
    let now = app.now();
    let image = Image { organization, id, size: sealed.size(), md5: sealed.md5(), sha1: sealed.sha1(), name, created_at: now };
    let image = app.engine.put_image(image, now).await?;
    Ok(Uploaded { image, sealed, was_held })
}

/// What the headers say of the bytes to come: `Content-Length`, `Content-MD5`, `Repr-Digest`.
pub fn declared(headers: &HeaderMap) -> Result<Declared, UploadError> {
    let mut declared = Declared::default();
    if let Some(value) = headers.get(CONTENT_LENGTH) {
        let size = value.to_str().ok().and_then(|text| text.trim().parse().ok());
        declared.size = Some(size.ok_or_else(|| UploadError::Header("Content-Length must be a number of bytes".to_owned()))?);
    }
    if let Some(value) = headers.get("content-md5") {
        let text = value.to_str().unwrap_or_default().trim();
        // Hexadecimal isn't the standard's way, but what people who have just run `md5sum` paste.
        let md5 = decoded(text).or_else(|| from_hexadecimal(text));
        declared.md5 = Some(md5.ok_or_else(|| UploadError::Header("Content-MD5 must be the base64 of 16 bytes".to_owned()))?);
    }
    if let Some(value) = headers.get("repr-digest") {
        let text = value.to_str().unwrap_or_default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            take_digest(&mut declared, entry)?;
        }
    }
    Ok(declared)
}

/// One member of `Repr-Digest` (RFC 9530): `algorithm=:base64:`. An algorithm that isn't computed here is no reason to refuse.
fn take_digest(declared: &mut Declared, entry: &str) -> Result<(), UploadError> {
    let refuse = || {
        UploadError::Header(format!("Repr-Digest must be algorithm=:base64:, got {:?}", entry.chars().take(80).collect::<String>()))
    };
    let (algorithm, value) = entry.split_once('=').ok_or_else(refuse)?;
    let value = value.trim().strip_prefix(':').and_then(|value| value.strip_suffix(':')).ok_or_else(refuse)?;
    match algorithm.trim() {
        "sha-256" => declared.sha256 = Some(decoded(value).ok_or_else(refuse)?),
        "md5" => {
            let md5 = decoded(value).ok_or_else(refuse)?;
            if declared.md5.is_some_and(|other| other != md5) {
                return Err(UploadError::Header("Content-MD5 and Repr-Digest declare different MD5 digests".to_owned()));
            }
            declared.md5 = Some(md5);
        }
        "sha" => declared.sha1 = Some(decoded(value).ok_or_else(refuse)?),
        _ => {}
    }
    Ok(())
}

fn decoded<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::{HeaderName, HeaderValue};

    fn read(pairs: &[(&'static str, &'static str)]) -> Result<Declared, UploadError> {
        let headers = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        declared(&headers.collect())
    }

    #[test]
    fn digests_are_read_from_both_headers() {
        let md5 = [0xd4, 0x1d, 0x8c, 0xd9, 0x8f, 0x00, 0xb2, 0x04, 0xe9, 0x80, 0x09, 0x98, 0xec, 0xf8, 0x42, 0x7e];
        for pairs in [
            [("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="), ("content-length", "0")],
            [("content-md5", "d41d8cd98f00b204e9800998ecf8427e"), ("content-length", "0")],
            [("repr-digest", "sha-512=:AA==:, md5=:1B2M2Y8AsgTpgAmY7PhCfg==:"), ("content-length", "0")],
        ] {
            let declared = read(&pairs).unwrap();
            assert_eq!((declared.md5, declared.size), (Some(md5), Some(0)), "{pairs:?}");
        }
        let sha256 = read(&[("repr-digest", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:")]).unwrap().sha256;
        assert_eq!(sha256.unwrap()[..4], [0xe3, 0xb0, 0xc4, 0x42]);
    }

    #[test]
    fn a_header_that_declares_nonsense_is_refused() {
        for pair in [
            ("content-md5", "abc"),
            ("content-length", "many"),
            ("repr-digest", "sha-256"),
            ("repr-digest", "sha-256=abc"),
            ("repr-digest", "sha-256=:AA==:"),
        ] {
            assert!(matches!(read(&[pair]), Err(UploadError::Header(_))), "{pair:?}");
        }
        assert!(
            read(&[("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="), ("repr-digest", "md5=:AAAAAAAAAAAAAAAAAAAAAA==:")]).is_err(),
            "two digests that contradict each other"
        );
    }
}
