//! An image that was verified, mapped into memory.
//!
//! This is the only `unsafe` code of the engine: one call that maps a file. What makes it sound, and what breaking it would do, is in
//! the header of [the folder](super).

use super::digest::Digests;
use super::range::ByteRange;
use crate::model::{ImageId, Timestamp};
use bytes::Bytes;
#[cfg(not(miri))]
use memmap2::Mmap;
use std::any::Any;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes that are what their name says: one exists only for content whose SHA-256 this process computed and found equal to its id.
///
/// Cheap to clone. Its bytes stay readable as long as any clone or slice lives, even after the image was removed.
#[derive(Clone)]
pub struct SealedImage(Arc<Sealed>);

struct Sealed {
    digests: Digests,
    bytes: Bytes,
    path: PathBuf,
    stamp: Stamp,
    file: OnceLock<OpenFile>,
    derived: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl SealedImage {
    /// Maps a file whose content has `digests`. `file` must be the one at `path`, which `stamp` tells.
    pub(super) fn map(file: &File, path: &Path, stamp: Stamp, digests: Digests) -> io::Result<Self> {
        debug_assert_eq!(stamp.size, digests.size);
        // Linux maps no zero bytes.
        let bytes = if digests.size == 0 { Bytes::new() } else { Bytes::from_owner(map_whole(file)?) };
        if bytes.len() as u64 != digests.size {
            return Err(io::Error::other(format!("the file changed its size from {} to {} bytes", digests.size, bytes.len())));
        }
        Ok(Self(Arc::new(Sealed { digests, bytes, path: path.to_owned(), stamp, file: OnceLock::new(), derived: OnceLock::new() })))
    }

    pub fn id(&self) -> ImageId {
        self.0.digests.id
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.0.digests.size
    }

    pub fn md5(&self) -> [u8; 16] {
        self.0.digests.md5
    }

    pub fn sha1(&self) -> [u8; 20] {
        self.0.digests.sha1
    }

    /// When the file was written. Another copy of the same image, after a repair, has another.
    pub fn modified_at(&self) -> Timestamp {
        Timestamp(u64::try_from(self.0.stamp.modified_ns / 1_000_000).unwrap_or(0))
    }

    /// The whole image. Shares the map; copies nothing.
    pub fn bytes(&self) -> Bytes {
        self.0.bytes.clone()
    }

    /// A part of the image. Shares the map; copies nothing.
    ///
    /// # Panics
    ///
    /// Where `range` was made for a larger image: that is a mistake of the calling program, and other bytes must not be served for it.
    pub fn slice(&self, range: ByteRange) -> Bytes {
        assert!(
            range.offset() + range.length() <= self.size(),
            "{range:?} was made for another image than {} of {} bytes",
            self.id(),
            self.size()
        );
        // The assertion bounds both by the length of a slice, so the casts lose nothing.
        self.0.bytes.slice(range.offset() as usize..(range.offset() + range.length()) as usize)
    }

    /// The file under the map, for `sendfile`. Opened at the first call and kept; a byte's place in it is its place in
    /// [`bytes`](Self::bytes).
    ///
    /// Fails once the image was removed or its file replaced, and where 1,024 other images have theirs open: the map still has the
    /// bytes then.
    pub fn file(&self) -> io::Result<&File> {
        if let Some(open) = self.0.file.get() {
            return Ok(&open.file);
        }
        let place = FilePlace::take().ok_or_else(|| io::Error::other("enough images have their files open"))?;
        let file = File::open(&self.0.path)?;
        // Whatever was done to its names or rights since: the same file has the same bytes as its map, and while it is mapped no other
        // gets its number.
        if !self.0.stamp.is_same_file(&Stamp::of(&file.metadata()?)) {
            return Err(io::Error::other("the file was replaced after it was mapped"));
        }
        Ok(&self.0.file.get_or_init(|| OpenFile { file, _place: place }).file)
    }

    /// Whether its file has become shorter than its map, which nobody may do to it: what lies beyond the new end must not be read. A file
    /// that was removed or replaced is still whole under the map.
    pub fn is_shortened(&self) -> io::Result<bool> {
        if let Ok(file) = self.file() {
            return Ok(file.metadata()?.len() < self.size());
        }
        match std::fs::symlink_metadata(&self.0.path) {
            Ok(there) => {
                let there = Stamp::of(&there);
                Ok(self.0.stamp.is_same_file(&there) && there.size < self.size())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What a front end computes from an image once and wants back at each request; it goes when the image does.
    ///
    /// There is one place for it: absent if something of another type has taken it.
    pub fn derived<T: Any + Send + Sync>(&self, derive: impl FnOnce(&Self) -> T) -> Option<&T> {
        self.0.derived.get_or_init(|| Box::new(derive(self))).downcast_ref()
    }

    /// Where in memory the map lies, for whoever is handed slices and wants to know whose they are. While this image lives nothing else
    /// can lie there.
    pub fn address_range(&self) -> Range<usize> {
        let begin = self.0.bytes.as_ptr() as usize;
        begin..begin + self.0.bytes.len()
    }

    /// Whether both are clones of one: the same map of the same file, not only the same content.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.0.stamp
    }

    /// Whether nothing but the store's table holds it (slices of its map apart, which need no entry there).
    pub(super) fn is_idle(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// Images that may have their files open at a time, in this process. A map needs no open file; connections do, and have the same limit.
const FILES_MAX: usize = 1_024;

static FILES_OPEN: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
struct OpenFile {
    file: File,
    _place: FilePlace,
}

/// One of [`FILES_MAX`]; given back when it is dropped.
#[derive(Debug)]
struct FilePlace;

impl FilePlace {
    fn take() -> Option<Self> {
        let take = |open: usize| (open < FILES_MAX).then_some(open + 1);
        FILES_OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok().map(|_| Self)
    }
}

impl Drop for FilePlace {
    fn drop(&mut self) {
        FILES_OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for SealedImage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SealedImage").field("id", &self.id()).field("size", &self.size()).finish_non_exhaustive()
    }
}

/// By what we notice that a file is no longer the one we read. Not a proof (a block may rot under an unchanged stamp), but whoever
/// replaces, edits or restores a file changes at least one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    device: u64,
    inode: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Stamp {
    fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    pub(super) fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            size: metadata.size(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(not(miri))]
fn map_whole(file: &File) -> io::Result<Mmap> {
    // SAFETY: a shared slice of a map is sound while nobody changes the file's bytes. The file is in the images folder, in which the
    // store alone writes: it was written under another name, synchronized, made read-only and renamed here, and is from then on never
    // written, never truncated, only unlinked, which leaves maps as they are. The store is open in one process, by the lock on the
    // data folder. Whoever goes past all that with the rights of the store's user breaks the contract that opening it took on.
    unsafe { Mmap::map(file) }
}

/// Miri maps no files. It is given a copy, and so sees everything but the map: who holds the bytes, and for how long.
#[cfg(miri)]
fn map_whole(file: &File) -> io::Result<Vec<u8>> {
    let mut copy = vec![0; file.metadata()?.len() as usize];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut copy, 0)?;
    Ok(copy)
}
