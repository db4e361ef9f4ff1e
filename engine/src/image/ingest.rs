//! Taking an image in: from a stream of bytes to a sealed file, or nothing.
//!
//! Life cycle of an [`Ingest`]:
//!   1. `begin`: what the uploader declares is noted; nothing is on disk.
//!   2. `write`: up to 1 MiB is only held. With the first byte beyond, a temporary file and three threads come into being (MD5; SHA-256
//!      and SHA-1; the file), fed through bounded queues by reference: no byte is copied before the kernel takes it.
//!   3. `finish`: size and digests are compared with what was declared; then the file is synchronized, made read-only, renamed to its
//!      SHA-256, and the folders are synchronized. Only then the image is answered.
//!
//! Dropped at any point before that, by an error or because the uploader went away, it leaves nothing behind. A crash may leave a
//! temporary file, which the next [`ImageStore::open`](super::ImageStore::open) removes.

use super::digest::{BATCH_BYTES, Batch, DigestThreads, Digests, INLINE_BYTES_MAX, Lane, hex, length};
use super::{ImageStore, SealedImage};
use bytes::Bytes;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::Errno;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, IoSlice, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// What an uploader says of the bytes before they come. Whatever is said is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Bytes.
    pub size: Option<u64>,
    pub md5: Option<[u8; 16]>,
    pub sha256: Option<[u8; 32]>,
    pub sha1: Option<[u8; 20]>,
}

/// Why an image was not taken in. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The uploader's fault: more bytes than we take.
    #[error("an image has at most {size_bytes_max} bytes, got {got_bytes} or more; nothing was stored")]
    TooLarge { size_bytes_max: u64, got_bytes: u64 },
    /// The uploader's fault, or its connection's: cut short, or longer than said.
    #[error("{expected_bytes} bytes were declared, got {got_bytes}; nothing was stored, upload the image again")]
    Size { expected_bytes: u64, got_bytes: u64 },
    /// The uploader's fault, or the network's.
    #[error("{digest} {expected} was declared, got {got}; nothing was stored, upload the image again")]
    Digest { digest: &'static str, expected: String, got: String },
    /// The disk has no room. The same upload may pass once it has.
    #[error("the disk is full; nothing was stored, make room and upload the image again")]
    Full {
        #[source]
        source: io::Error,
    },
    /// The disk or the system failed us.
    #[error("{action} failed; nothing was stored")]
    Io {
        action: &'static str,
        #[source]
        source: io::Error,
    },
}

impl IngestError {
    pub(super) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { source },
            _ => Self::Io { action, source },
        }
    }

    /// Whether the uploader can mend it. Otherwise it's the disk's fault or ours.
    pub fn is_uploaders_fault(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Size { .. } | Self::Digest { .. })
    }
}

/// An image on its way in: begun, written piece by piece, finished; dropped before that, nothing of it stays.
///
/// Its methods may block on the disk or on a digest, so call them where blocking is allowed, not on a thread that serves others.
#[derive(Debug)]
#[must_use = "an image that isn't finished is not kept"]
pub struct Ingest {
    store: ImageStore,
    declared: Declared,
    size_bytes_max: u64,
    size: u64,
    stage: Stage,
    /// Not yet handed to the threads, or all there is.
    held: Vec<Bytes>,
    held_bytes: usize,
}

#[derive(Debug)]
enum Stage {
    Held,
    Streaming(Box<Stream>),
    /// An error was answered; there is nothing to go on with.
    Failed,
}

impl Ingest {
    pub(super) fn begin(store: ImageStore, declared: Declared, size_bytes_max: u64) -> Result<Self, IngestError> {
        if let Some(declared_bytes) = declared.size
            && declared_bytes > size_bytes_max
        {
            return Err(IngestError::TooLarge { size_bytes_max, got_bytes: declared_bytes });
        }
        Ok(Self { store, declared, size_bytes_max, size: 0, stage: Stage::Held, held: Vec::new(), held_bytes: 0 })
    }

    /// Takes the next bytes. Blocks while the disk or MD5 is some MiB behind. After an error only dropping it is left.
    pub fn write(&mut self, mut bytes: Bytes) -> Result<(), IngestError> {
        if let Err(error) = self.take_note_of(bytes.len()) {
            self.stage = Stage::Failed;
            return Err(error);
        }
        while !bytes.is_empty() {
            let room = BATCH_BYTES.saturating_sub(self.held_bytes);
            // Held bytes need no cutting; those for the threads are cut so that the queues' bound is one of bytes.
            let part = match self.stage {
                Stage::Streaming(_) => bytes.split_to(room.min(bytes.len())),
                Stage::Held | Stage::Failed => std::mem::take(&mut bytes),
            };
            self.held_bytes += part.len();
            self.held.push(part);
            if let Err(error) = self.pass_on() {
                self.stage = Stage::Failed;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Checks what came against what was declared, and seals it. The flag tells that the very same image was here already, in which
    /// case its file is as it was.
    ///
    /// Once answered, the image survives a crash.
    pub fn finish(mut self) -> Result<(SealedImage, bool), IngestError> {
        let (digests, temporary) = match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Held => (Digests::of(&self.held), None),
            Stage::Streaming(mut stream) => {
                stream.feed(std::mem::take(&mut self.held))?;
                let (digests, temporary) = stream.finish()?;
                (digests, Some(temporary))
            }
            Stage::Failed => return Err(already_failed()),
        };
        check_declared(&self.declared, &digests)?;
        self.store.place(digests, || match temporary {
            Some(temporary) => Ok(temporary),
            None => {
                let temporary = TemporaryFile::create(&self.store)?;
                write_batch(&temporary.file, &self.held).map_err(IngestError::io("writing an image"))?;
                Ok(temporary)
            }
        })
    }

    fn take_note_of(&mut self, bytes: usize) -> Result<(), IngestError> {
        if matches!(self.stage, Stage::Failed) {
            return Err(already_failed());
        }
        self.size = self.size.saturating_add(bytes as u64);
        if self.size > self.size_bytes_max {
            return Err(IngestError::TooLarge { size_bytes_max: self.size_bytes_max, got_bytes: self.size });
        }
        match self.declared.size {
            Some(expected_bytes) if self.size > expected_bytes => Err(IngestError::Size { expected_bytes, got_bytes: self.size }),
            _ => Ok(()),
        }
    }

    fn pass_on(&mut self) -> Result<(), IngestError> {
        match &mut self.stage {
            Stage::Held if self.held_bytes <= INLINE_BYTES_MAX => return Ok(()),
            Stage::Held => {
                let mut stream = Stream::start(&self.store, self.declared.size)?;
                stream.feed(std::mem::take(&mut self.held))?;
                self.stage = Stage::Streaming(Box::new(stream));
            }
            Stage::Streaming(_) if self.held_bytes < BATCH_BYTES => return Ok(()),
            Stage::Streaming(stream) => stream.feed(std::mem::take(&mut self.held))?,
            Stage::Failed => return Err(already_failed()),
        }
        self.held_bytes = 0;
        Ok(())
    }
}

fn already_failed() -> IngestError {
    IngestError::Io { action: "going on with a failed upload", source: io::Error::other("an earlier write was refused") }
}

fn check_declared(declared: &Declared, got: &Digests) -> Result<(), IngestError> {
    match declared.size {
        Some(expected_bytes) if expected_bytes != got.size => {
            return Err(IngestError::Size { expected_bytes, got_bytes: got.size });
        }
        _ => {}
    }
    check_digest("SHA-256", declared.sha256, got.id.0)?;
    check_digest("MD5", declared.md5, got.md5)?;
    check_digest("SHA-1", declared.sha1, got.sha1)
}

fn check_digest<const N: usize>(digest: &'static str, declared: Option<[u8; N]>, got: [u8; N]) -> Result<(), IngestError> {
    match declared {
        Some(expected) if expected != got => Err(IngestError::Digest { digest, expected: hex(&expected), got: hex(&got) }),
        _ => Ok(()),
    }
}

/// A temporary file that three threads fill and hash. Dropped, it lets them run dry on a file that has no name any more.
struct Stream {
    digests: DigestThreads,
    /// Absent once it ended early and its error was answered.
    writer: Option<Lane<io::Result<()>>>,
    temporary: TemporaryFile,
}

impl Stream {
    fn start(store: &ImageStore, size: Option<u64>) -> Result<Self, IngestError> {
        let temporary = TemporaryFile::create(store)?;
        if let Some(size) = size {
            reserve(&temporary.file, size).map_err(IngestError::io("reserving room for an image"))?;
        }
        let file = Arc::clone(&temporary.file);
        let write = move |batches: Receiver<Batch>| write_all(&file, &batches);
        let writer = Lane::start("image-file", write).map_err(IngestError::io("starting a thread for an image"))?;
        let digests = DigestThreads::start().map_err(IngestError::io("starting a thread for an image"))?;
        Ok(Self { digests, writer: Some(writer), temporary })
    }

    fn feed(&mut self, parts: Vec<Bytes>) -> Result<(), IngestError> {
        let batch: Batch = parts.into();
        if self.writer.as_ref().is_none_or(|writer| !writer.feed(&batch)) {
            // The thread ends early only where the disk refused a write; that is its result.
            self.end_writing()?;
            return Err(already_failed());
        }
        self.digests.feed(&batch);
        Ok(())
    }

    fn finish(mut self) -> Result<(Digests, TemporaryFile), IngestError> {
        self.end_writing()?;
        Ok((self.digests.finish(), self.temporary))
    }

    fn end_writing(&mut self) -> Result<(), IngestError> {
        let written = self.writer.take().ok_or_else(already_failed)?.finish();
        written.map_err(IngestError::io("writing an image"))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Stream").field("temporary", &self.temporary).finish_non_exhaustive()
    }
}

/// A file of ours that goes unless it is [put in its place](TemporaryFile::put_at).
#[derive(Debug)]
pub(super) struct TemporaryFile {
    file: Arc<File>,
    path: PathBuf,
    in_place: bool,
}

impl TemporaryFile {
    fn create(store: &ImageStore) -> Result<Self, IngestError> {
        let path = store.temporary_path();
        let create = OpenOptions::new().write(true).read(true).create_new(true).mode(0o600).open(&path);
        let file = create.map_err(IngestError::io("creating a temporary file for an image"))?;
        Ok(Self { file: Arc::new(file), path, in_place: false })
    }

    /// Makes the content durable under its final name, in place of what may be there, and read-only for everybody.
    pub(super) fn put_at(mut self, path: &Path) -> Result<Arc<File>, IngestError> {
        let seal = || -> io::Result<()> {
            self.file.set_permissions(Permissions::from_mode(0o444))?;
            self.file.sync_all()?;
            fs::rename(&self.path, path)
        };
        seal().map_err(IngestError::io("sealing an image"))?;
        self.in_place = true;
        Ok(Arc::clone(&self.file))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.in_place
            && let Err(error) = fs::remove_file(&self.path)
        {
            // It costs room until the next start, which removes it.
            tracing::warn!(path = %self.path.display(), %error, "a temporary file of a refused image stays behind");
        }
    }
}

/// Takes the room for `size` bytes now, so that a disk that is too small says so before the bytes have travelled.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
        // Some file systems can't; there a full disk shows later.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Writes what comes, and has the kernel start on it, so that at the end there is little left to wait for.
fn write_all(file: &File, batches: &Receiver<Batch>) -> io::Result<()> {
    // Large enough to be written to the disk in one go, small against what a disk writes while MD5 is at work.
    const FLUSH_BYTES: u64 = 8 * 1024 * 1024;
    let (mut written, mut flushed) = (0u64, 0u64);
    for batch in batches {
        write_batch(file, &batch)?;
        written += length(&batch);
        if written - flushed >= FLUSH_BYTES {
            // On Linux this starts writing dirty pages without waiting, and drops only pages that are clean already. Where it does
            // nothing, `sync_all` takes longer and nothing else.
            _ = fadvise(file, flushed, NonZeroU64::new(written - flushed), Advice::DontNeed);
            flushed = written;
        }
    }
    Ok(())
}

fn write_batch(mut file: &File, parts: &[Bytes]) -> io::Result<()> {
    // Well below IOV_MAX (1,024), and more parts than a batch of frames usually has.
    const PARTS_MAX: usize = 64;
    for parts in parts.chunks(PARTS_MAX) {
        let mut left = [IoSlice::new(&[]); PARTS_MAX];
        for (slice, part) in left.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let mut left = &mut left[..parts.len()];
        // Advancing by nothing drops leading empty parts, which would make a write of 0 bytes look like a full device.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match file.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_a_broken_one() {
        let answer = |kind: io::ErrorKind| IngestError::io("writing an image")(kind.into());
        assert!(matches!(answer(io::ErrorKind::StorageFull), IngestError::Full { .. }));
        assert!(matches!(answer(io::ErrorKind::QuotaExceeded), IngestError::Full { .. }));
        assert!(matches!(answer(io::ErrorKind::PermissionDenied), IngestError::Io { action: "writing an image", .. }));
        assert!(!answer(io::ErrorKind::StorageFull).is_uploaders_fault());
    }

    #[test]
    fn parts_of_any_size_are_written_whole_and_in_order() -> io::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let parts: Vec<Bytes> = (0..200u8).map(|i| Bytes::from(vec![i; usize::from(i % 5) * 1000])).collect();
        write_batch(file.as_file(), &parts)?;
        assert_eq!(fs::read(file.path())?, parts.concat());
        assert_eq!(length(&parts), file.as_file().metadata()?.len());
        Ok(())
    }

    #[test]
    fn writing_to_a_full_device_fails_with_its_error() -> io::Result<()> {
        let full = OpenOptions::new().write(true).open("/dev/full")?;
        let error = write_batch(&full, &[Bytes::from_static(b"x")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        Ok(())
    }
}
