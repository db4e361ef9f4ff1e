//! Size, SHA-256, MD5 and SHA-1 of a stream, computed in one pass.
//!
//! MD5 is the slow one (about 0.7 GB/s on one core, and no way to split it), so it has a thread for itself; SHA-256 and SHA-1, which
//! have instructions of their own on most processors, share another. The whole then runs at the speed of MD5. What fits into one
//! [`INLINE_BYTES_MAX`] is computed where it stands: starting two threads costs as much as hashing some 50 KiB.

use crate::model::ImageId;
use bytes::Bytes;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Up to so many bytes are held, hashed and written by the thread that brings them.
pub(super) const INLINE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes that travel together between threads. Waking a thread costs some 5 µs, hashing so many 370 µs.
pub(super) const BATCH_BYTES: usize = 256 * 1024;

/// Batches that wait for a thread. Bounds an upload's memory to `(BATCHES_WAITING_MAX + 3) * BATCH_BYTES`: those waiting for the
/// slowest, the one it works on, the one being handed out and the one being filled.
pub(super) const BATCHES_WAITING_MAX: usize = 16;

/// The bytes as they came, not copied together.
pub(super) type Batch = Arc<[Bytes]>;

/// What an image is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// The SHA-256.
    pub id: ImageId,
    pub md5: [u8; 16],
    pub sha1: [u8; 20],
    /// Bytes.
    pub size: u64,
}

impl Digests {
    /// Of bytes that are all here.
    pub(super) fn of(parts: &[Bytes]) -> Self {
        let (sha256, sha1) = sha_of(|hash| parts.iter().for_each(hash));
        Self { id: ImageId(sha256), md5: md5_of(|hash| parts.iter().for_each(hash)), sha1, size: length(parts) }
    }
}

/// Computes [`Digests`] beside the thread that feeds it.
pub(super) struct DigestThreads {
    md5: Lane<[u8; 16]>,
    sha: Lane<([u8; 32], [u8; 20])>,
    size: u64,
}

impl DigestThreads {
    pub(super) fn start() -> io::Result<Self> {
        Ok(Self {
            md5: Lane::start("image-md5", |batches| md5_of(|hash| each(batches, hash)))?,
            sha: Lane::start("image-sha", |batches| sha_of(|hash| each(batches, hash)))?,
            size: 0,
        })
    }

    /// Blocks while the slower digest is [`BATCHES_WAITING_MAX`] batches behind.
    pub(super) fn feed(&mut self, batch: &Batch) {
        self.size += length(batch);
        self.sha.feed(batch);
        self.md5.feed(batch);
    }

    pub(super) fn finish(self) -> Digests {
        let (sha256, sha1) = self.sha.finish();
        Digests { id: ImageId(sha256), md5: self.md5.finish(), sha1, size: self.size }
    }
}

/// A thread that eats batches and ends with a result.
pub(super) struct Lane<T> {
    batches: SyncSender<Batch>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Lane<T> {
    pub(super) fn start(name: &str, run: impl FnOnce(Receiver<Batch>) -> T + Send + 'static) -> io::Result<Self> {
        let (batches, waiting) = sync_channel(BATCHES_WAITING_MAX);
        Ok(Self { batches, thread: Builder::new().name(name.to_owned()).spawn(move || run(waiting))? })
    }

    /// A thread that has ended early takes no more; why it ended is its result.
    pub(super) fn feed(&self, batch: &Batch) -> bool {
        self.batches.send(Arc::clone(batch)).is_ok()
    }

    pub(super) fn finish(self) -> T {
        drop(self.batches);
        // A digest doesn't panic; should it do so, the bug is not hidden as an error of the disk.
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

pub(super) fn length(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// Lower-case hexadecimal, as the digests are written everywhere.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}

fn each(batches: Receiver<Batch>, hash: &mut dyn FnMut(&Bytes)) {
    for batch in batches {
        batch.iter().for_each(&mut *hash);
    }
}

fn md5_of(feed: impl FnOnce(&mut dyn FnMut(&Bytes))) -> [u8; 16] {
    let mut md5 = Md5::new();
    feed(&mut |part| md5.update(part));
    md5.finalize().into()
}

fn sha_of(feed: impl FnOnce(&mut dyn FnMut(&Bytes))) -> ([u8; 32], [u8; 20]) {
    let (mut sha256, mut sha1) = (Sha256::new(), Sha1::new());
    feed(&mut |part| {
        sha256.update(part);
        sha1.update(part);
    });
    (sha256.finalize().into(), sha1.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digests_are_those_the_standards_print() {
        // FIPS 180-4 examples and RFC 1321, appendix A.5: "abc" and "".
        let abc = Digests::of(&[Bytes::from_static(b"a"), Bytes::new(), Bytes::from_static(b"bc")]);
        assert_eq!(abc.id.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hex(&abc.md5), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(hex(&abc.sha1), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(abc.size, 3);
        assert_eq!(hex(&Digests::of(&[]).md5), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn threads_compute_what_one_thread_computes() -> io::Result<()> {
        let parts: Vec<Bytes> = (0..100u32).map(|i| Bytes::from(vec![i as u8; (i * 997) as usize])).collect();
        let mut threads = DigestThreads::start()?;
        for batch in parts.chunks(7) {
            threads.feed(&batch.into());
        }
        assert_eq!(threads.finish(), Digests::of(&parts));
        Ok(())
    }
}
