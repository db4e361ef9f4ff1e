//! The bytes of a reply: slices of a map, handed on piece by piece.

use crate::metrics::Metrics;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use sluicegate::image::SealedImage;
use sluicegate::model::UpgradeId;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Hears of the bytes of an upgrade's image as they go out.
///
/// Called once per piece on the thread that serves, so it must be quick and must not wait.
pub trait CountServed: Send + Sync {
    /// `bytes` more of the image of `upgrade`, which has `size_bytes` in all, were handed to the connection. What a device fetches
    /// twice is counted twice, and what was handed on when a connection breaks may not have arrived: at most two pieces and what the
    /// kernel had queued.
    fn served(&self, upgrade: UpgradeId, bytes: u64, size_bytes: u64);
}

impl<F: Fn(UpgradeId, u64, u64) + Send + Sync> CountServed for F {
    fn served(&self, upgrade: UpgradeId, bytes: u64, size_bytes: u64) {
        self(upgrade, bytes, size_bytes);
    }
}

/// A reply's body of known length: bytes of an image, or a short message.
#[derive(Debug, Default)]
pub struct ImageBody {
    current: Part,
    /// Empty, and so not on the heap, for all but several ranges.
    later: std::vec::IntoIter<Part>,
    left_bytes: u64,
    metrics: Option<Arc<Metrics>>,
    counter: Option<Counter>,
    image: Option<SealedImage>,
}

/// What is handed on at once. Large enough that its fixed cost (some 100 ns) vanishes; small enough that served bytes follow what a
/// slow device has taken, and that a connection queues at most two: hyper asks for the next while it has less than 408 KiB waiting.
const PIECE_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Part {
    bytes: Bytes,
    /// Rather than delimiters between ranges, or a message.
    is_image: bool,
}

impl Part {
    pub(super) fn image(bytes: Bytes) -> Self {
        Self { bytes, is_image: true }
    }

    pub(super) fn other(bytes: Bytes) -> Self {
        Self { bytes, is_image: false }
    }
}

struct Counter {
    count: Arc<dyn CountServed>,
    upgrade: UpgradeId,
    size_bytes: u64,
}

impl fmt::Debug for Counter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Counter").field("upgrade", &self.upgrade).finish_non_exhaustive()
    }
}

impl ImageBody {
    pub fn empty() -> Self {
        Self::default()
    }

    pub(super) fn one(part: Part) -> Self {
        Self { left_bytes: part.bytes.len() as u64, current: part, ..Self::default() }
    }

    pub(super) fn many(parts: Vec<Part>) -> Self {
        let left_bytes = parts.iter().map(|part| part.bytes.len() as u64).sum();
        Self { later: parts.into_iter(), left_bytes, ..Self::default() }
    }

    /// The parts of an image are this one's.
    #[must_use]
    pub(super) fn of(mut self, image: &SealedImage) -> Self {
        self.image = Some(image.clone());
        self
    }

    /// The image of which it has slices.
    pub fn image(&self) -> Option<&SealedImage> {
        self.image.as_ref()
    }

    /// Bytes still to be handed on.
    pub fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// Adds each piece of the image to what the server has served, whoever it is for.
    #[must_use]
    pub fn metered(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Tells `count` of each piece of the image. `size_bytes` is the whole image's.
    #[must_use]
    pub fn counted(mut self, count: Arc<dyn CountServed>, upgrade: UpgradeId, size_bytes: u64) -> Self {
        self.counter = Some(Counter { count, upgrade, size_bytes });
        self
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        while self.current.bytes.is_empty() {
            self.current = self.later.next()?;
        }
        let bytes = &mut self.current.bytes;
        let piece = if bytes.len() <= PIECE_BYTES { std::mem::take(bytes) } else { bytes.split_to(PIECE_BYTES) };
        self.left_bytes -= piece.len() as u64;
        if self.current.is_image {
            self.count(piece.len() as u64);
        }
        Some(piece)
    }

    fn count(&self, bytes: u64) {
        if let Some(metrics) = &self.metrics {
            metrics.image_bytes_served(bytes);
        }
        if let Some(counter) = &self.counter {
            counter.count.served(counter.upgrade, bytes, counter.size_bytes);
        }
    }
}

impl hyper::body::Body for ImageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next_piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::Body;
    use sluicegate::model::{DeviceNumber, TaskNumber};
    use std::sync::Mutex;

    #[test]
    fn a_body_hands_on_all_its_bytes_in_bounded_pieces_and_always_knows_how_many_are_left() {
        let image = Bytes::from((0..3 * PIECE_BYTES + 5).map(|i| (i / 7) as u8).collect::<Vec<_>>());
        let mut body = ImageBody::many(vec![
            Part::other(Bytes::from_static(b"--")),
            Part::image(image.clone()),
            Part::image(Bytes::new()),
            Part::other(Bytes::from_static(b"==")),
        ]);
        let mut got = Vec::new();
        let total = image.len() as u64 + 4;
        while !body.is_end_stream() {
            assert_eq!(body.size_hint().exact(), Some(total - got.len() as u64));
            let piece = body.next_piece().expect("there is more");
            assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES);
            got.extend_from_slice(&piece);
        }
        assert!(body.next_piece().is_none());
        assert!(got == [b"--", &image[..], b"=="].concat());
    }

    #[test]
    fn only_bytes_of_the_image_are_counted_and_only_once_handed_on() {
        let upgrade = UpgradeId { task: TaskNumber(1), device: DeviceNumber(2), offer: 3 };
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        let parts = vec![Part::other(Bytes::from_static(b"--")), Part::image(vec![1; PIECE_BYTES + 7].into())];
        let count = move |upgrade: UpgradeId, bytes: u64, size: u64| hearing.lock().unwrap().push((upgrade, bytes, size));
        let mut body = ImageBody::many(parts).counted(Arc::new(count), upgrade, 1 << 20);
        body.next_piece();
        assert!(heard.lock().unwrap().is_empty());
        body.next_piece();
        assert_eq!(*heard.lock().unwrap(), [(upgrade, PIECE_BYTES as u64, 1 << 20)]);
        body.next_piece();
        assert_eq!(heard.lock().unwrap()[1..], [(upgrade, 7, 1 << 20)]);
    }

    #[test]
    fn no_byte_is_copied() {
        let image = Bytes::from(vec![1; PIECE_BYTES * 2]);
        let mut body = ImageBody::one(Part::image(image.clone()));
        assert_eq!(body.next_piece().unwrap().as_ptr(), image.as_ptr());
        assert_eq!(body.next_piece().unwrap().as_ptr(), image[PIECE_BYTES..].as_ptr());
    }
}
