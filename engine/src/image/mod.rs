//! Content-addressed images: taken in once, verified, and read as slices of memory from then on.
//!
//! ```text
//! <data>/images/incoming/<number>      on their way in; emptied at each start
//! <data>/images/ab/<sha256>            sealed: mode 0444, named by the SHA-256 of their bytes; `ab` are its first two digits
//! ```
//!
//! What it does not do: know who owns an image (that is a row of the store), speak HTTP, or wait without blocking. All that may take
//! long says so and belongs on a thread that may block; [`ImageStore::opened`] and everything on [`SealedImage`] never block.
//!
//! Invariants:
//!   - A file under a final name is complete and durable: it was synchronized before it was renamed there.
//!   - A [`SealedImage`] exists only for bytes whose SHA-256 this process computed and found equal to the id.
//!   - A file under a final name is never written, never truncated; it is only replaced whole, when it was found damaged, or unlinked.
//!   - Looking up an opened image takes no lock.
//!
//! Life cycle of an image: 1. [`begin`](ImageStore::begin), write, finish   2. [`open_image`](ImageStore::open_image), once after each
//! start: reads and hashes all of it   3. [`opened`](ImageStore::opened), at each request   4. [`remove`](ImageStore::remove).
//!
//! # What the map relies on
//!
//! Images are mapped rather than read, so that a range of any length costs no system call, no copy and no memory of ours: the pages
//! are the page cache's, shared by all connections and taken back by the kernel when it needs them. That goes for small images too;
//! read into memory they would stay there, and there would be two ways to prove right instead of one.
//!
//! The price: **whoever truncates or overwrites a file under `images/` behind the store's back breaks the running process.** A page
//! beyond the new end can't be had any more. Where the kernel copies from it (plain HTTP: `writev`, `sendfile`), the call fails and
//! that connection ends. Where the process itself reads it (TLS), it is killed by SIGBUS, unless whoever reads looks at the file's length
//! before ([`SealedImage::is_shortened`]). A block that the disk can't read any more kills it, too. It is contained thus: the store alone
//! writes here, in one process (the data folder is locked), under other names, and renames; files are read-only, so an accident needs
//! intent; verification uses `read`, so a bad block found at start is an error and not a signal. To replace a damaged file, rename a good
//! one over it, or upload the image again; deleting is harmless.

mod digest;
mod ingest;
pub mod range;
mod sealed;
#[cfg(test)]
mod tests;

pub use digest::Digests;
pub use ingest::{Declared, Ingest, IngestError};
pub use range::{ByteRange, RangeRequest};
pub use sealed::SealedImage;

use crate::model::ImageId;
use bytes::Bytes;
use digest::{BATCH_BYTES, DigestThreads, INLINE_BYTES_MAX};
use ingest::TemporaryFile;
use sealed::Stamp;
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maps kept when no one uses them. A process has 65,530 maps by default (`vm.max_map_count`), shared with its threads' stacks and
/// the allocator. An image beyond it is mapped again when asked for, without being hashed again.
const IDLE_MAPS_MAX: usize = 16_384;

/// Why an image can't be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There is no such file: it was removed, or the folder isn't the one it was uploaded to.
    #[error("image {id} is missing; upload it again")]
    Missing { id: ImageId },
    /// The file was cut or replaced behind the store's back.
    #[error("image {id} is damaged: expected {expected_bytes} bytes, got {got_bytes}; upload it again")]
    WrongSize { id: ImageId, expected_bytes: u64, got_bytes: u64 },
    /// The disk doesn't hold what was written.
    #[error("image {expected} is damaged: its content has SHA-256 {got}; upload it again")]
    Damaged { expected: ImageId, got: ImageId },
    /// The disk or the system failed us; the image may be sound.
    #[error("reading image {id} failed")]
    Io {
        id: ImageId,
        #[source]
        source: io::Error,
    },
}

/// All images of a data folder. Cheap to clone; every clone is the same store.
#[derive(Clone)]
pub struct ImageStore(Arc<Shared>);

struct Shared {
    folder: PathBuf,
    temporary_number: AtomicU64,
    /// What requests read: only verified images.
    opened: papaya::HashMap<ImageId, SealedImage>,
    /// Orders everything else that is done to one image. A place is there while someone works on the image, or while what was learnt
    /// of its file is worth keeping.
    places: Mutex<HashMap<ImageId, Arc<Mutex<Place>>>>,
    idle_maps_max: usize,
}

/// What is known of an image's file. Its lock is held while the file is verified, put there or removed.
#[derive(Debug, Default)]
enum Place {
    #[default]
    Unknown,
    /// The file with this stamp was hashed and is what its name says.
    Sound { stamp: Stamp, digests: Digests },
    /// The file with this stamp was hashed and is not. Another stamp is another chance.
    Damaged { stamp: Stamp, got: ImageId },
}

impl ImageStore {
    /// Opens `images/` in the data folder, makes it if it isn't there, and removes what a crash left half-way in.
    ///
    /// The caller holds the lock on the data folder: with two stores on one folder, the second would remove the uploads of the first.
    pub fn open(data_folder: &Path) -> io::Result<Self> {
        Self::open_with(data_folder, IDLE_MAPS_MAX)
    }

    fn open_with(data_folder: &Path, idle_maps_max: usize) -> io::Result<Self> {
        let folder = data_folder.join("images");
        let incoming = folder.join("incoming");
        DirBuilder::new().recursive(true).mode(0o700).create(&incoming)?;
        for entry in fs::read_dir(&incoming)? {
            fs::remove_file(entry?.path())?;
        }
        sync_folder(&folder)?;
        sync_folder(data_folder)?;
        Ok(Self(Arc::new(Shared {
            folder,
            temporary_number: AtomicU64::new(0),
            opened: papaya::HashMap::new(),
            places: Mutex::new(HashMap::new()),
            idle_maps_max,
        })))
    }

    /// Starts taking an image in. Refused at once where more is declared than `size_bytes_max`.
    pub fn begin(&self, declared: Declared, size_bytes_max: u64) -> Result<Ingest, IngestError> {
        Ingest::begin(self.clone(), declared, size_bytes_max)
    }

    /// The image, if it was opened or taken in since the start. Takes no lock and does no I/O.
    ///
    /// Absent doesn't mean it isn't there: then [`open_image`](Self::open_image) decides.
    pub fn opened(&self, id: ImageId) -> Option<SealedImage> {
        self.0.opened.pin().get(&id).cloned()
    }

    /// The image, verified. The first call after a start reads all of it and runs at the speed of MD5, so call it on a thread that may
    /// block; those who ask for the same image meanwhile wait for the same verification. Later calls find it opened.
    ///
    /// An image once found damaged is refused without being read again, until its file changes.
    pub fn open_image(&self, id: ImageId, expected_size: u64) -> Result<SealedImage, ImageError> {
        match self.opened(id) {
            Some(image) if image.size() == expected_size => Ok(image),
            Some(image) => Err(ImageError::WrongSize { id, expected_bytes: expected_size, got_bytes: image.size() }),
            None => self.in_place(id, |place| self.open_file(id, expected_size, place)),
        }
    }

    /// Removes the image's file; true if there was one. Whoever reads the image at that moment reads it to its end.
    pub fn remove(&self, id: ImageId) -> io::Result<bool> {
        self.in_place(id, |place| {
            *place = Place::Unknown;
            self.0.opened.pin().remove(&id);
            let path = path_of(&self.0.folder, id);
            match fs::remove_file(&path) {
                Ok(()) => sync_parent(&path).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    /// Reads every expected image (id and size) of a data folder that no store has open, and says what is wrong, one line each.
    /// Changes nothing.
    pub fn verify_all(data_folder: &Path, expected: &[(ImageId, u64)]) -> Vec<String> {
        let folder = data_folder.join("images");
        let verify = |&(id, size): &(ImageId, u64)| {
            let error = match find(&folder, id, size).and_then(|(file, stamp)| hash(id, &file, stamp)) {
                Ok(digests) if digests.id == id => return None,
                Ok(digests) => ImageError::Damaged { expected: id, got: digests.id },
                Err(error) => error,
            };
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Some(format!("{error}{cause}"))
        };
        expected.iter().filter_map(verify).collect()
    }

    /// Puts a finished upload where it belongs, unless a sound file is there; the flag tells that one was. `temporary` is asked for
    /// only when it's needed.
    fn place(
        &self,
        digests: Digests,
        temporary: impl FnOnce() -> Result<TemporaryFile, IngestError>,
    ) -> Result<(SealedImage, bool), IngestError> {
        let id = digests.id;
        let path = path_of(&self.0.folder, id);
        self.in_place(id, |place| {
            match self.open_file(id, digests.size, place) {
                Ok(image) => {
                    // It may be there from before a crash that came between its renaming and the folders' synchronization.
                    sync_parent(&path).map_err(IngestError::io("synchronizing the images folder"))?;
                    return Ok((image, true));
                }
                Err(ImageError::Io { source, .. }) => return Err(IngestError::io("reading the image that is there")(source)),
                // A damaged file is replaced: this is how it is repaired.
                Err(ImageError::Missing { .. } | ImageError::WrongSize { .. } | ImageError::Damaged { .. }) => {}
            }
            let temporary = temporary()?;
            if let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(IngestError::io("making an images folder"))?;
            }
            let file = temporary.put_at(&path)?;
            // Where the name can't be made durable, it goes again, as far as that can still be done.
            let synchronized = sync_parent(&path).inspect_err(|_| _ = fs::remove_file(&path));
            synchronized.map_err(IngestError::io("synchronizing the images folder"))?;
            // What was hashed is what was written to this very file, which has had no name that anybody else knows.
            let sealed = file.metadata().and_then(|metadata| self.admit(&file, &path, Stamp::of(&metadata), digests, place));
            Ok((sealed.map_err(IngestError::io("mapping an image"))?, false))
        })
    }

    /// Opens what is on disk, whatever was opened before. `place` is this image's and locked.
    fn open_file(&self, id: ImageId, expected_size: u64, place: &mut Place) -> Result<SealedImage, ImageError> {
        let io_error = |source| ImageError::Io { id, source };
        let (file, stamp) = match find(&self.0.folder, id, expected_size) {
            Ok(found) => found,
            // Out of file descriptors, say: nothing was learnt of the file.
            Err(error @ ImageError::Io { .. }) => return Err(error),
            Err(error) => {
                self.0.opened.pin().remove(&id);
                *place = Place::Unknown;
                return Err(error);
            }
        };
        if let Some(image) = self.opened(id)
            && image.stamp() == stamp
        {
            return Ok(image);
        }
        self.0.opened.pin().remove(&id);
        let digests = match *place {
            Place::Sound { stamp: known, digests } if known == stamp => digests,
            Place::Damaged { stamp: known, got } if known == stamp => return Err(ImageError::Damaged { expected: id, got }),
            _ => {
                *place = Place::Unknown;
                hash(id, &file, stamp)?
            }
        };
        if digests.id != id {
            tracing::error!(image = %id, got = %digests.id, "an image is damaged and is not served; upload it again");
            *place = Place::Damaged { stamp, got: digests.id };
            return Err(ImageError::Damaged { expected: id, got: digests.id });
        }
        self.admit(&file, &path_of(&self.0.folder, id), stamp, digests, place).map_err(io_error)
    }

    /// Maps a verified file and lets requests find it.
    fn admit(&self, file: &File, path: &Path, stamp: Stamp, digests: Digests, place: &mut Place) -> io::Result<SealedImage> {
        let image = SealedImage::map(file, path, stamp, digests)?;
        *place = Place::Sound { stamp, digests };
        let opened = self.0.opened.pin();
        if opened.len() >= self.0.idle_maps_max {
            // Half of them at once, so that the walk is paid for by as many opens that need none.
            let idle: Vec<ImageId> = opened.iter().filter(|(_, image)| image.is_idle()).map(|(id, _)| *id).collect();
            idle.iter().take(self.0.idle_maps_max.div_ceil(2)).for_each(|id| _ = opened.remove(id));
        }
        opened.insert(digests.id, image.clone());
        Ok(image)
    }

    /// Runs `work` alone on an image: nobody else opens, places or removes that image meanwhile.
    fn in_place<T>(&self, id: ImageId, work: impl FnOnce(&mut Place) -> T) -> T {
        let place = Arc::clone(lock(&self.0.places).entry(id).or_default());
        let (result, keep) = {
            let mut place = lock(&place);
            (work(&mut place), !matches!(*place, Place::Unknown))
        };
        if !keep {
            let mut places = lock(&self.0.places);
            // Two holders are the table and we. Nobody can become a third while the table is locked, so no one works on a place that
            // has left it.
            if Arc::strong_count(&place) == 2 && matches!(*lock(&place), Place::Unknown) {
                places.remove(&id);
            }
        }
        result
    }

    fn temporary_path(&self) -> PathBuf {
        // Only needs to differ from the others of this process: the folder was emptied when it was opened.
        let number = self.0.temporary_number.fetch_add(1, Ordering::Relaxed);
        self.0.folder.join("incoming").join(number.to_string())
    }
}

impl fmt::Debug for ImageStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ImageStore").field("folder", &self.0.folder).field("opened", &self.0.opened.len()).finish()
    }
}

/// A poisoned lock is taken all the same: a place is only written with what is true, in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn path_of(folder: &Path, id: ImageId) -> PathBuf {
    let name = id.to_string();
    folder.join(&name[..2]).join(name)
}

/// The file of an image, if it is there and has the right size.
fn find(folder: &Path, id: ImageId, expected_bytes: u64) -> Result<(File, Stamp), ImageError> {
    let opened = File::open(path_of(folder, id)).and_then(|file| file.metadata().map(|metadata| (file, Stamp::of(&metadata))));
    let (file, stamp) = opened.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ImageError::Missing { id },
        _ => ImageError::Io { id, source },
    })?;
    if stamp.size != expected_bytes {
        return Err(ImageError::WrongSize { id, expected_bytes, got_bytes: stamp.size });
    }
    Ok((file, stamp))
}

/// Reads all of a file. `read` rather than the map: a bad block is then an error and not a signal.
fn hash(id: ImageId, file: &File, stamp: Stamp) -> Result<Digests, ImageError> {
    let compute = || -> io::Result<Digests> {
        let digests = if stamp.size <= INLINE_BYTES_MAX as u64 {
            let mut content = Vec::with_capacity(stamp.size as usize);
            file.take(stamp.size + 1).read_to_end(&mut content)?;
            Digests::of(&[content.into()])
        } else {
            // Advice only: where it can't be taken, reading is slower and nothing else.
            _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
            let mut threads = DigestThreads::start()?;
            loop {
                let mut buffer = Vec::with_capacity(BATCH_BYTES);
                if file.take(BATCH_BYTES as u64).read_to_end(&mut buffer)? == 0 {
                    break threads.finish();
                }
                threads.feed(&Arc::from([Bytes::from(buffer)]));
            }
        };
        if Stamp::of(&file.metadata()?) != stamp {
            return Err(io::Error::other("the file changed while it was read"));
        }
        Ok(digests)
    };
    compute().map_err(|source| ImageError::Io { id, source })
}

/// Makes a file's name durable: of `images/ab/<sha256>`, the entries in `images/ab` and in `images`.
fn sync_parent(path: &Path) -> io::Result<()> {
    path.ancestors().skip(1).take(2).try_for_each(sync_folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
