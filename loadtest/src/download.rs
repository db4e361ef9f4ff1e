//! The download of an image, a range at a time, each byte digested.

use crate::client::{Call, Connection};
use crate::device::{Trouble, measure};
use crate::measurements::{Measurements, Step};
use crate::setup::{Rollout, hex};
use hyper::header::{CONTENT_RANGE, HeaderValue, RANGE};
use md5::{Digest, Md5};

#[derive(Debug)]
pub(crate) struct Download {
    /// Path and query of the signed link.
    link: String,
    md5: Md5,
    offset: usize,
}

impl Download {
    /// `None` where this is no URL.
    pub(crate) fn new(url: &str) -> Option<Self> {
        let link = url.parse::<hyper::Uri>().ok()?.path_and_query()?.to_string();
        Some(Self { link, md5: Md5::new(), offset: 0 })
    }

    /// Fetches the next range; true once the whole image has come and is right.
    pub(crate) async fn fetch_chunk(
        &mut self,
        connection: &mut Connection,
        rollout: &Rollout,
        chunk_size: usize,
        measured: &mut Measurements,
    ) -> Result<bool, Trouble> {
        let size = rollout.image_size;
        let last = (self.offset + chunk_size).min(size) - 1;
        let range = format!("bytes={}-{last}", self.offset);
        let header = HeaderValue::from_str(&range).map_err(|error| Trouble::Mismatch(error.to_string()))?;
        let answer = connection.send(&Call::get(self.link.clone()).header(RANGE, header)).await?;
        let content_range = answer.headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let expected = format!("bytes {}-{last}/{size}", self.offset);
        if answer.status != 206 || content_range != Some(&expected) || answer.len() != last + 1 - self.offset {
            let (status, length) = (answer.status, answer.len());
            return Err(Trouble::Mismatch(format!("asked for {range}: got {status}, {content_range:?}, {length} bytes")));
        }
        measure(measured, Step::Chunk, &answer);
        measured.image_bytes += answer.len() as u64;
        for piece in &answer.pieces {
            self.md5.update(piece);
        }
        self.offset = last + 1;
        if self.offset < size {
            return Ok(false);
        }
        let digest: [u8; 16] = self.md5.finalize_reset().into();
        if digest != rollout.image_md5 {
            let (expected, got) = (hex(&rollout.image_md5), hex(&digest));
            return Err(Trouble::Mismatch(format!("downloaded {size} bytes with md5 {got}, expected {expected}")));
        }
        Ok(true)
    }
}
