//! Uploads that come in pieces: what was taken stays when a connection breaks, and the next one goes on from there.
//!
//! Life cycle of an upload:
//!   1. `begin`: noted with its size and SHA-256, or found again by them.
//!   2. `lease`: one caller at a time takes it out and writes. Dropped, whatever the reason, the lease gives it back with all that was
//!      written.
//!   3. `finish`: the whole is sealed, or refused with nothing kept; either way the upload is gone once the lease is.
//!
//! Invariants:
//!   - An upload is seen by its organization alone.
//!   - At most `UPLOADS_MAX` are unfinished, `UPLOADS_PER_ORGANIZATION_MAX` of one organization, and none rests longer than
//!     `REST_S_MAX`.
//!   - They live in memory, their bytes in temporary files that a start removes: after a restart an upload begins anew.

use crate::app;
use bytes::Bytes;
use sluicegate::image::{Ingest, IngestError, SealedImage};
use sluicegate::model::{ImageId, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Each that is larger than 1 MiB holds a file and three threads that wait.
const UPLOADS_MAX: usize = 64;
/// So that one organization doesn't take the room of all.
const UPLOADS_PER_ORGANIZATION_MAX: usize = 16;
/// Long enough for a laptop to be carried to another network.
const REST_S_MAX: u64 = 3_600;

/// The unfinished uploads of this server.
#[derive(Debug, Default)]
pub struct Uploads {
    table: Mutex<HashMap<String, Unfinished>>,
}

#[derive(Debug)]
struct Unfinished {
    wanted: Wanted,
    /// How far it is, also while it's leased.
    offset: u64,
    /// When it last went on.
    touched_at: Timestamp,
    /// Absent while it's leased.
    ingest: Option<Ingest>,
}

/// What the uploader says of the image to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub organization: Arc<str>,
    pub sha256: ImageId,
    /// Bytes.
    pub size: u64,
    /// What the file is called.
    pub name: Option<Arc<str>>,
}

/// How far an upload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub id: String,
    pub offset: u64,
    pub size: u64,
}

/// Why an upload doesn't begin or go on. What was taken of it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadsError {
    #[error("{UPLOADS_MAX} uploads are unfinished on this server, which is all it takes; try again when some are done")]
    Full,
    #[error("the organization has {UPLOADS_PER_ORGANIZATION_MAX} unfinished uploads, which is all it may; finish some of them")]
    OrganizationFull,
    #[error("no unfinished upload has this id; it is done, or rested too long, or the server started anew: begin it again")]
    Unknown,
    #[error("another call is sending to this upload; ask for its offset and go on when that call has ended")]
    Busy,
    #[error("the upload goes on at byte {expected}, got Upload-Offset {got}; send the bytes from {expected} on")]
    Offset { expected: u64, got: u64 },
}

impl Uploads {
    /// The unfinished upload of the same bytes, or a new one named `id`, for which `begin` opens the store. The flag tells that it is new.
    pub fn begin<E: From<UploadsError>>(
        &self,
        id: String,
        wanted: Wanted,
        now: Timestamp,
        begin: impl FnOnce() -> Result<Ingest, E>,
    ) -> Result<(Progress, bool), E> {
        let mut table = self.table();
        let is_same = |upload: &Unfinished| {
            let other = &upload.wanted;
            other.organization == wanted.organization && other.sha256 == wanted.sha256 && other.size == wanted.size
        };
        if let Some((id, upload)) = table.iter_mut().find(|(_, upload)| is_same(upload)) {
            upload.touched_at = now;
            return Ok((upload.progress(id), false));
        }
        if table.len() >= UPLOADS_MAX {
            return Err(UploadsError::Full.into());
        }
        let of_organization = table.values().filter(|upload| upload.wanted.organization == wanted.organization).count();
        if of_organization >= UPLOADS_PER_ORGANIZATION_MAX {
            return Err(UploadsError::OrganizationFull.into());
        }
        let upload = Unfinished { wanted, offset: 0, touched_at: now, ingest: Some(begin()?) };
        let progress = upload.progress(&id);
        table.insert(id, upload);
        Ok((progress, true))
    }

    /// How far it is.
    pub fn progress(&self, organization: &str, id: &str) -> Result<Progress, UploadsError> {
        let table = self.table();
        let upload = table.get(id).filter(|upload| *upload.wanted.organization == *organization);
        upload.map(|upload| upload.progress(id)).ok_or(UploadsError::Unknown)
    }

    /// Takes the upload out to go on at `offset`.
    pub fn lease(self: &Arc<Self>, organization: &str, id: &str, offset: u64, now: Timestamp) -> Result<Lease, UploadsError> {
        let mut table = self.table();
        let upload = table.get_mut(id).filter(|upload| *upload.wanted.organization == *organization);
        let upload = upload.ok_or(UploadsError::Unknown)?;
        if upload.ingest.is_none() {
            return Err(UploadsError::Busy);
        }
        if upload.offset != offset {
            return Err(UploadsError::Offset { expected: upload.offset, got: offset });
        }
        upload.touched_at = now;
        let ingest = upload.ingest.take();
        Ok(Lease { uploads: Arc::clone(self), id: id.to_owned(), wanted: upload.wanted.clone(), offset, ingest })
    }

    /// Drops what rested too long. Blocks on the disk, which loses their files.
    pub fn forget_resting(&self, now: Timestamp) {
        let rests = |upload: &Unfinished| upload.ingest.is_some() && upload.touched_at.plus_seconds(REST_S_MAX) < now;
        let resting: Vec<Unfinished> = self.table().extract_if(|_, upload| rests(upload)).map(|(_, upload)| upload).collect();
        // Outside of the lock.
        drop(resting);
    }

    /// Nothing panics while it is held, and every row is whole at any time.
    fn table(&self) -> MutexGuard<'_, HashMap<String, Unfinished>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unfinished {
    fn progress(&self, id: &str) -> Progress {
        Progress { id: id.to_owned(), offset: self.offset, size: self.wanted.size }
    }
}

/// An upload that somebody is writing to. See [the life cycle](self).
#[derive(Debug)]
#[must_use = "a lease that isn't written to keeps others out for nothing"]
pub struct Lease {
    uploads: Arc<Uploads>,
    id: String,
    wanted: Wanted,
    offset: u64,
    /// Absent once it was finished or refused; the upload goes with the lease then.
    ingest: Option<Ingest>,
}

impl Lease {
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    pub fn progress(&self) -> Progress {
        Progress { id: self.id.clone(), offset: self.offset, size: self.wanted.size }
    }

    pub fn is_whole(&self) -> bool {
        self.offset == self.wanted.size
    }

    /// How many bytes are missing.
    pub fn missing_bytes(&self) -> u64 {
        self.wanted.size - self.offset
    }

    /// Takes the next bytes; blocks on the disk. After an error nothing of the upload is kept.
    pub fn write(&mut self, bytes: Bytes) -> Result<(), IngestError> {
        let length = bytes.len() as u64;
        let Some(ingest) = &mut self.ingest else { return Err(spent()) };
        if let Err(error) = ingest.write(bytes) {
            self.ingest = None;
            return Err(error);
        }
        self.offset += length;
        if let Some(upload) = self.uploads.table().get_mut(&self.id) {
            upload.offset = self.offset;
            upload.touched_at = app::now();
        }
        Ok(())
    }

    /// Seals the whole image; blocks on the disk. Until the lease is dropped, the upload is shown as busy.
    pub fn finish(&mut self) -> Result<SealedImage, IngestError> {
        let ingest = self.ingest.take().ok_or_else(spent)?;
        Ok(ingest.finish()?.0)
    }
}

fn spent() -> IngestError {
    IngestError::Io {
        action: "going on with an upload that has ended",
        source: std::io::Error::other("it was finished or refused"),
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = self.uploads.table();
        match self.ingest.take() {
            None => drop(table.remove(&self.id)),
            Some(ingest) => {
                if let Some(upload) = table.get_mut(&self.id) {
                    upload.ingest = Some(ingest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate::image::{Declared, ImageStore};

    #[test]
    fn what_rests_too_long_is_dropped_unless_somebody_is_writing_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        let uploads = Arc::new(Uploads::default());
        let begun_at = Timestamp::from_seconds(1_000);
        for id in ["resting", "leased"] {
            let organization = id.into();
            let wanted = Wanted { organization, sha256: ImageId([0; 32]), size: 10, name: None };
            let open = || Ok::<_, UploadsError>(store.begin(Declared::default(), 100).unwrap());
            assert!(uploads.begin(id.to_owned(), wanted, begun_at, open).unwrap().1);
        }
        let lease = uploads.lease("leased", "leased", 0, begun_at).unwrap();
        uploads.forget_resting(begun_at.plus_seconds(REST_S_MAX));
        assert!(uploads.progress("resting", "resting").is_ok());
        uploads.forget_resting(begun_at.plus_seconds(REST_S_MAX + 1));
        assert_eq!(uploads.progress("resting", "resting"), Err(UploadsError::Unknown));
        assert!(uploads.progress("leased", "leased").is_ok());
        drop(lease);
        uploads.forget_resting(begun_at.plus_seconds(REST_S_MAX + 1));
        assert_eq!(uploads.progress("leased", "leased"), Err(UploadsError::Unknown));
    }
}
