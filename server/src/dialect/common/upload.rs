//! Takes an image from a request's body into the store, whichever dialect it came by.
//!
//! The body is passed on piece by piece to a thread that may block; at most [`PIECES_WAITING_MAX`] pieces wait for it, then the client
//! does. Nothing is kept of an upload that breaks off, is larger than allowed, or isn't what its headers declare.

use crate::app::App;
use crate::http::body::next_data;
use crate::http::{BodyError, Request};
use ::http::HeaderMap;
use ::http::header::CONTENT_LENGTH;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sluicegate::Error;
use sluicegate::image::{Declared, IngestError, SealedImage};
use sluicegate::model::Image;
use std::sync::Arc;
use tokio::sync::mpsc;

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
    let mut ingest = app.engine.images().begin(declared, app.config.images.size_bytes_max)?;

    // Only an `End` seals: a channel that closes without one means that the body broke off.
    enum Piece {
        Data(Bytes),
        End,
    }
    let (pieces, mut waiting) = mpsc::channel(PIECES_WAITING_MAX);
    let taking = tokio::task::spawn_blocking(move || {
        loop {
            match waiting.blocking_recv() {
                Some(Piece::Data(bytes)) => ingest.write(bytes)?,
                Some(Piece::End) => return ingest.finish().map(Some),
                None => return Ok(None),
            }
        }
    });
    let mut received_bytes = 0;
    let read = async {
        while let Some(bytes) = next_data(&mut body).await? {
            received_bytes += bytes.len() as u64;
            if pieces.send(Piece::Data(bytes)).await.is_err() {
                // The taker refused; its error says why.
                return Ok(());
            }
        }
        // No device can install nothing: an empty image is a file that went missing on its way here.
        if received_bytes > 0 {
            let _ = pieces.send(Piece::End).await;
        }
        Ok(())
    };
    let read: Result<(), BodyError> = read.await;
    drop(pieces);
    let taken = taking.await.map_err(|_| UploadError::Stopping)?;
    let (sealed, _) = match (read, taken) {
        (_, Err(refused)) => return Err(refused.into()),
        (Err(broken), Ok(_)) => return Err(broken.into()),
        (Ok(()), Ok(None)) if received_bytes == 0 => {
            return Err(UploadError::Header("the body is empty; send the bytes of the image".to_owned()));
        }
        (Ok(()), Ok(None)) => return Err(UploadError::Stopping),
        (Ok(()), Ok(Some(sealed))) => sealed,
    };

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
        let md5 = decoded(text).or_else(|| hexadecimal(text));
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

/// Not the standard's way, but what people who have just run `md5sum` paste.
fn hexadecimal<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(bytes)
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
