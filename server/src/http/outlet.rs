//! The way out of a connection: slices of images are sent from their files where that costs less.
//!
//! hyper queues a reply's pieces by reference and hands them on as slices of memory. A slice that lies in the map of an image that this
//! connection is being sent can as well be sent from the file under the map, at the slice's place in it: `sendfile` hands the pages
//! over where `write` copies them. For little the copy is cheaper. Measured over one to 256 connections: below 128 KiB `write` costs the
//! same or less, from 512 KiB on it costs up to three times as much, and the more the more connections there are.
//!
//! Invariants:
//!   - What is sent is what hyper handed on, in its order: a slice that lies in no registered image, or whose image has no file any more,
//!     is written from memory.
//!   - Encrypted, a slice is read by this process, and only after its file was seen to be whole. (Of the last of [`IMAGES_MAX`] images that
//!     a connection is sent at once.)
//!   - An image is registered from the head of its reply until everything queued was written, so that it isn't kept from being let go
//!     by a connection that idles.

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use sluicegate::image::SealedImage;
use std::fs::File;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The shortest reply that is sent from its file.
const SENT_FROM_FILE_BYTES_MIN: u64 = 256 * 1024;
/// What is left of such a reply in one place may be shorter, after a part was taken; so short it is written with what follows it.
const RUN_BYTES_MIN: usize = 16 * 1024;

/// The images of which slices may be queued on one connection. Touched by the connection's own task alone.
#[derive(Debug)]
pub struct Outgoing {
    /// Shorter replies are none of its business.
    reply_bytes_min: u64,
    /// So that a connection that is sent no images never looks further.
    is_any: AtomicBool,
    images: Mutex<Images>,
}

/// More than are sent at once on a connection of HTTP/1.1, where the end of one may still be queued when the next begins; over HTTP/2 as
/// many as its streams are.
const IMAGES_MAX: usize = 128;

#[derive(Debug, Default)]
struct Images {
    /// The newest last.
    images: Vec<SealedImage>,
    #[cfg(test)]
    sent_from_files_bytes: usize,
}

impl Outgoing {
    pub(super) fn new(reply_bytes_min: u64) -> Self {
        Self { reply_bytes_min, is_any: AtomicBool::new(false), images: Mutex::default() }
    }

    /// As many bytes of this image come from now on; few are left to be written from memory.
    pub(super) fn begin(&self, image: &SealedImage, bytes: u64) {
        if bytes < self.reply_bytes_min {
            return;
        }
        let mut images = self.lock();
        if images.images.iter().rev().any(|known| known.is_same(image)) {
            return;
        }
        // Opened now, while it is what was mapped; where it can't be, the map does.
        let _ = image.file();
        if images.images.len() == IMAGES_MAX {
            images.images.remove(0);
        }
        images.images.push(image.clone());
        self.is_any.store(true, Ordering::Relaxed);
    }

    /// Everything that was queued is written.
    pub(super) fn end(&self) {
        if self.is_any.load(Ordering::Relaxed) {
            *self.lock() = Images::default();
            self.is_any.store(false, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Images> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Images {
    /// The file from which the first slices can be sent, the place in it, and how many bytes from there on follow one another, where
    /// they are many enough.
    fn long_run(&self, slices: &[IoSlice<'_>]) -> Option<(&File, u64, usize)> {
        let first = slices.first()?;
        let begin = first.as_ptr() as usize;
        let image = self.under(first)?;
        let map = image.address_range();
        let mut end = begin;
        for slice in slices {
            if slice.as_ptr() as usize != end || slice.len() > map.end - end {
                break;
            }
            end += slice.len();
        }
        let length = end - begin;
        if length < RUN_BYTES_MIN {
            return None;
        }
        Some((image.file().ok()?, (begin - map.start) as u64, length))
    }

    /// The image in whose map the slice lies.
    fn under(&self, slice: &IoSlice<'_>) -> Option<&SealedImage> {
        let begin = slice.as_ptr() as usize;
        self.images.iter().rev().find(|image| image.address_range().contains(&begin))
    }

    /// Fails where a file under one of the slices was shortened, which nobody may do: what is gone must not be read through the map, or
    /// the kernel ends the process.
    fn expect_whole(&self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut seen: Option<&SealedImage> = None;
        for image in slices.iter().filter_map(|slice| self.under(slice)) {
            if seen.is_some_and(|seen| seen.is_same(image)) {
                continue;
            }
            if image.is_shortened()? {
                tracing::error!(image = %image.id(), "the file of an image was shortened while it was being served; upload it again");
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            seen = Some(image);
        }
        Ok(())
    }
}

/// A stream that can be given slices of registered images.
pub trait Outlet: AsyncWrite + Unpin {
    /// Images of shorter replies needn't be registered.
    const REPLY_BYTES_MIN: u64;

    /// Sends some of the slices, as [`AsyncWrite::poll_write_vectored`] does.
    fn poll_send(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        outgoing: &Outgoing,
    ) -> Poll<io::Result<usize>>;
}

impl Outlet for TlsStream<TcpStream> {
    /// What is encrypted is read by this process.
    const REPLY_BYTES_MIN: u64 = 1;

    fn poll_send(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        outgoing: &Outgoing,
    ) -> Poll<io::Result<usize>> {
        if outgoing.is_any.load(Ordering::Relaxed) {
            outgoing.lock().expect_whole(slices)?;
        }
        self.poll_write_vectored(context, slices)
    }
}

impl Outlet for TcpStream {
    const REPLY_BYTES_MIN: u64 = SENT_FROM_FILE_BYTES_MIN;

    fn poll_send(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        outgoing: &Outgoing,
    ) -> Poll<io::Result<usize>> {
        if !outgoing.is_any.load(Ordering::Relaxed) {
            return self.poll_write_vectored(context, slices);
        }
        #[cfg_attr(not(test), expect(unused_mut, reason = "tests count"))]
        let mut images = outgoing.lock();
        if let Some((file, at, length)) = images.long_run(slices) {
            let sent = ready!(poll_send_file(&self, context, file, at, length))?;
            #[cfg(test)]
            {
                images.sent_from_files_bytes += sent;
            }
            return Poll::Ready(Ok(sent));
        }
        match (1..slices.len()).find(|next| images.long_run(&slices[*next..]).is_some()) {
            Some(until) => poll_send_more(&self, context, &slices[..until]),
            None => self.poll_write_vectored(context, slices),
        }
    }
}

/// Sends what stands before bytes of a file: the kernel waits for these before it makes up a packet.
fn poll_send_more(stream: &TcpStream, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    let send = || Ok(sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), SendFlags::MORE | SendFlags::NOSIGNAL)?);
    poll_write_with(stream, context, send)
}

fn poll_send_file(stream: &TcpStream, context: &mut Context<'_>, file: &File, at: u64, length: usize) -> Poll<io::Result<usize>> {
    let send = || match rustix::fs::sendfile(stream, file, Some(&mut { at }), length)? {
        // The file was shortened behind our back; there is nothing right to send in the place of what is gone.
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        sent => Ok(sent),
    };
    poll_write_with(stream, context, send)
}

/// Calls `send` as soon as the socket has room, until it isn't told to try again.
fn poll_write_with(stream: &TcpStream, context: &mut Context<'_>, send: impl Fn() -> io::Result<usize>) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(context))?;
        match stream.try_io(Interest::WRITABLE, &send) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            sent => return Poll::Ready(sent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use sluicegate::image::{Declared, ImageStore};
    use std::fs::Permissions;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use tempfile::TempDir;

    /// More than two sockets hold.
    const LONG_BYTES: usize = 24 << 20;

    fn image(folder: &Path, length: usize, salt: u8) -> SealedImage {
        let content: Vec<u8> = (0..length).map(|at| (at / 7) as u8 ^ (at >> 16) as u8 ^ salt).collect();
        let mut ingest = ImageStore::open(folder).unwrap().begin(Declared::default(), u64::MAX).unwrap();
        ingest.write(content.into()).unwrap();
        ingest.finish().unwrap().0
    }

    fn path(folder: &TempDir, image: &SealedImage) -> PathBuf {
        let name = image.id().to_string();
        folder.path().join("images").join(&name[..2]).join(&name)
    }

    fn remove_file(folder: &TempDir, image: &SealedImage) {
        std::fs::remove_file(path(folder, image)).unwrap();
    }

    /// What nobody may do to a sealed file.
    fn shorten_file(folder: &TempDir, image: &SealedImage, left_bytes: u64) {
        let path = path(folder, image);
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(left_bytes).unwrap();
    }

    /// Queues as hyper does, some pieces at a time, to a reader that takes all there is. What it read, and how it ended.
    fn send(pieces: &[Bytes], outgoing: &Outgoing) -> (Vec<u8>, io::Result<()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let reader = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        });
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let sent = runtime.block_on(async {
            let mut stream = TcpStream::from_std(stream).unwrap();
            let mut queue: Vec<Bytes> = pieces.to_vec();
            while !queue.is_empty() {
                let slices: Vec<IoSlice<'_>> = queue.iter().take(3).map(|piece| IoSlice::new(piece)).collect();
                let mut sent = std::future::poll_fn(|context| Pin::new(&mut stream).poll_send(context, &slices, outgoing)).await?;
                assert!(sent > 0);
                while sent > 0 && sent >= queue[0].len() {
                    sent -= queue.remove(0).len();
                }
                if sent > 0 {
                    drop(queue[0].split_to(sent));
                }
            }
            Ok(())
        });
        drop(runtime);
        (reader.join().unwrap(), sent)
    }

    fn pieces_of(image: &SealedImage) -> Vec<Bytes> {
        let bytes = image.bytes();
        (0..bytes.len()).step_by(256 << 10).map(|at| bytes.slice(at..bytes.len().min(at + (256 << 10)))).collect()
    }

    #[test]
    fn what_is_queued_arrives_in_its_order_whatever_of_it_lies_in_images() {
        let folder = tempfile::tempdir().unwrap();
        let (long, short) = (image(folder.path(), LONG_BYTES, 0), image(folder.path(), 1_000, 1));
        let strange = image(folder.path(), 300_000, 2);
        let outgoing = Outgoing::new(SENT_FROM_FILE_BYTES_MIN);
        outgoing.begin(&short, SENT_FROM_FILE_BYTES_MIN);
        outgoing.begin(&long, long.size());
        let mut pieces = vec![Bytes::from_static(b"head"), short.bytes(), Bytes::from_static(b"second head")];
        pieces.extend(pieces_of(&long));
        // Of an image that nobody registered, and parts of one in another order than they lie in.
        pieces.extend([strange.bytes(), Bytes::from_static(b"--"), long.bytes().slice(9_000_000..9_000_100)]);
        pieces.extend([long.bytes().slice(5..4_000_000), short.bytes().slice(10..20), Bytes::from_static(b"end")]);
        let (arrived, sent) = send(&pieces, &outgoing);
        sent.unwrap();
        assert!(arrived == pieces.concat(), "{} bytes arrived of {}", arrived.len(), pieces.concat().len());
        assert!(outgoing.lock().sent_from_files_bytes > LONG_BYTES / 2, "the sockets don't hold it, so its file was to be taken");
    }

    #[test]
    fn an_image_whose_file_is_gone_is_sent_from_memory() {
        let folder = tempfile::tempdir().unwrap();
        let long = image(folder.path(), LONG_BYTES, 0);
        remove_file(&folder, &long);
        let outgoing = Outgoing::new(SENT_FROM_FILE_BYTES_MIN);
        outgoing.begin(&long, long.size());
        let (arrived, sent) = send(&pieces_of(&long), &outgoing);
        sent.unwrap();
        assert!(arrived == long.bytes());
        assert_eq!(outgoing.lock().sent_from_files_bytes, 0);
    }

    #[test]
    fn a_file_that_was_shortened_ends_the_connection_and_nothing_wrong_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let long = image(folder.path(), LONG_BYTES, 0);
        let (content, pieces) = (long.bytes().to_vec(), pieces_of(&long));
        let left_bytes = LONG_BYTES as u64 / 4;
        // The file is open already, as while it is being served.
        long.file().unwrap();
        shorten_file(&folder, &long, left_bytes);
        let outgoing = Outgoing::new(SENT_FROM_FILE_BYTES_MIN);
        outgoing.begin(&long, long.size());
        let (arrived, sent) = send(&pieces, &outgoing);
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(arrived == content[..left_bytes as usize], "{} bytes arrived", arrived.len());
    }

    #[test]
    fn what_would_be_encrypted_is_looked_at_whether_or_not_its_file_was_open_and_however_many_are_sent() {
        let folder = tempfile::tempdir().unwrap();
        let sent: Vec<SealedImage> = (0..5).map(|salt| image(folder.path(), 100_000, salt)).collect();
        let outgoing = Outgoing::new(1);
        let is_refused = |image: &SealedImage| {
            let bytes = image.bytes();
            outgoing.lock().expect_whole(&[IoSlice::new(b"head"), IoSlice::new(&bytes)]).is_err()
        };
        // Of the first the file is open before it is shortened, of the second not; the third is taken away.
        outgoing.begin(&sent[0], 1);
        shorten_file(&folder, &sent[0], 10);
        shorten_file(&folder, &sent[1], 10);
        remove_file(&folder, &sent[2]);
        sent[1..].iter().for_each(|image| outgoing.begin(image, 1));
        assert_eq!(sent.iter().map(is_refused).collect::<Vec<_>>(), [true, true, false, false, false]);
        // Another of the same name, however short, isn't what is mapped.
        std::fs::write(path(&folder, &sent[2]), b"another").unwrap();
        assert!(!is_refused(&sent[2]));
    }

    #[test]
    fn nothing_is_held_once_everything_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path(), 1_000, 0);
        let outgoing = Outgoing::new(SENT_FROM_FILE_BYTES_MIN);
        outgoing.begin(&image, SENT_FROM_FILE_BYTES_MIN - 1);
        assert!(!outgoing.is_any.load(Ordering::Relaxed), "a short reply is none of its business");
        outgoing.begin(&image, SENT_FROM_FILE_BYTES_MIN);
        outgoing.begin(&image, SENT_FROM_FILE_BYTES_MIN);
        assert_eq!(outgoing.lock().images.len(), 1, "once registered is enough");
        assert!(outgoing.is_any.load(Ordering::Relaxed));
        outgoing.end();
        assert!(!outgoing.is_any.load(Ordering::Relaxed));
        assert!(outgoing.lock().images.is_empty());
    }
}
