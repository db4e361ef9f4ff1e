//! Bodies: what clients send, bounded in size and in time, and what they are sent, of known length.
//!
//! A request body is watched while somebody waits for it: no piece within the time limit, or fewer bytes than a crawl over a long
//! time, and it ends with [`BodyError::TooSlow`]. A body that arrives together with its head, as a device's does, costs no timer.
//! One that is too large is read on for a while without being kept, so that its sender comes to read the answer.

use crate::image::ImageBody;
use ::http::header::EXPECT;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

/// A request's body, still on the wire. Waiting for it is bounded.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    peer: super::Peer,
    timeout: Duration,
    wait: Wait,
    begun: Option<Instant>,
    received_bytes: u64,
}

/// How long somebody has been waiting for the next piece.
#[derive(Debug)]
enum Wait {
    Not,
    /// Asked for once. The dispatcher hands over what it has already read before it asks again, so a timer would be wasted.
    Once,
    Timed(Pin<Box<Sleep>>),
}

/// A streamed body may take as long as it likes if it brings this much on average; 1 KiB/s is slower than any modem of a factory.
const STREAM_BYTES_PER_S_MIN: u64 = 1024;

/// How far beyond its limit, and for how long, a refused body is read on so that its sender comes to read why.
const DRAINED_BYTES_MAX: u64 = 24 << 20;
const DRAINING_MAX: Duration = Duration::from_secs(5);

/// A device's check or report, and then some.
const SKIPPED_BYTES_MAX: u64 = 16 << 10;

impl RequestBody {
    pub fn new(incoming: Incoming, timeout: Duration, peer: super::Peer) -> Self {
        Self { incoming, peer, timeout, wait: Wait::Not, begun: None, received_bytes: 0 }
    }

    /// Who sends it. Here rather than among the request's extensions, because those cost an allocation for each request.
    pub fn peer(&self) -> &super::Peer {
        &self.peer
    }

    /// Answers so, once what the client is sending has been read away: a short body, or its connection would have to be closed on it.
    pub(super) async fn skip_then(mut self, reply: super::Reply) -> super::Reply {
        if self.declared_len().is_none_or(|length| length <= SKIPPED_BYTES_MAX) {
            while self.received_bytes <= SKIPPED_BYTES_MAX
                && let Ok(Some(_)) = next_data(&mut self).await
            {}
        }
        reply
    }

    /// The length that the request declares, where it declares one.
    pub fn declared_len(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Whether the time allowed for what has come so far is over.
    fn crawls(&self, now: Instant) -> bool {
        let Some(begun) = self.begun else { return false };
        // The first minute is free: a connection may start badly.
        let counted_s = now.saturating_duration_since(begun).saturating_sub(self.timeout.max(Duration::from_secs(60))).as_secs();
        self.received_bytes < counted_s.saturating_mul(STREAM_BYTES_PER_S_MIN)
    }
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            match Pin::new(&mut this.incoming).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Wait::Timed(_) = std::mem::replace(&mut this.wait, Wait::Not) {
                        let now = Instant::now();
                        this.begun.get_or_insert(now);
                        if this.crawls(now) {
                            return Poll::Ready(Some(Err(BodyError::TooSlow)));
                        }
                    }
                    this.received_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(BodyError::Broken))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => match &mut this.wait {
                    Wait::Not => {
                        this.wait = Wait::Once;
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Wait::Once => {
                        let now = Instant::now();
                        this.begun.get_or_insert(now);
                        this.wait = Wait::Timed(Box::pin(tokio::time::sleep_until(now + this.timeout)));
                    }
                    Wait::Timed(sleep) => {
                        return match sleep.as_mut().poll(context) {
                            Poll::Ready(()) => Poll::Ready(Some(Err(BodyError::TooSlow))),
                            Poll::Pending => Poll::Pending,
                        };
                    }
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Why a body couldn't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than the {limit} bytes allowed here; send less")]
    TooLarge { limit: usize },
    #[error("the body came too slowly and was given up; send it again over a better connection")]
    TooSlow,
    #[error("the body ended before its announced end; send it again")]
    Broken,
}

impl BodyError {
    pub fn status(self) -> ::http::StatusCode {
        match self {
            Self::TooLarge { .. } => ::http::StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => ::http::StatusCode::REQUEST_TIMEOUT,
            Self::Broken => ::http::StatusCode::BAD_REQUEST,
        }
    }
}

/// Reads a small body whole, bounded in size and time.
pub async fn read_body(request: super::Request, limit: usize) -> Result<(::http::request::Parts, Bytes), BodyError> {
    let (parts, mut body) = request.into_parts();
    let read = read_whole(&mut body, limit).await;
    if let Err(BodyError::TooLarge { .. }) = read
        && !parts.headers.contains_key(EXPECT)
    {
        drain(&mut body, limit).await;
    }
    Ok((parts, read?))
}

/// Reads a refused body on without looking, for a while: a client that is still sending reads no answer, and a connection that is closed
/// on what it sent takes the answer with it. Whom that would not help is answered at once: who sends far more, and, by the
/// caller, who asked before sending.
async fn drain(body: &mut RequestBody, limit: usize) {
    let bytes_max = limit as u64 + DRAINED_BYTES_MAX;
    if body.declared_len().is_some_and(|length| length > bytes_max) {
        return;
    }
    let reading = async {
        while body.received_bytes < bytes_max
            && let Ok(Some(_)) = next_data(body).await
        {}
    };
    // Whether it came to its end or not, there is nothing more to wait for.
    let _ = tokio::time::timeout(DRAINING_MAX, reading).await;
}

async fn read_whole(body: &mut RequestBody, limit: usize) -> Result<Bytes, BodyError> {
    if body.declared_len().is_some_and(|length| length > limit as u64) {
        return Err(BodyError::TooLarge { limit });
    }
    let Some(first) = next_data(body).await? else { return Ok(Bytes::new()) };
    check_length(first.len(), limit)?;
    // A small body comes in one piece; it is handed on as it lies.
    if body.is_end_stream() {
        return Ok(first);
    }
    let allowed = body.timeout;
    let rest = tokio::time::timeout(allowed, async {
        let mut whole = BytesMut::from(&first[..]);
        while let Some(data) = next_data(body).await? {
            check_length(whole.len() + data.len(), limit)?;
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    });
    rest.await.map_err(|_| BodyError::TooSlow)?
}

/// The next piece of the body; `None` at its end. Trailers are skipped.
pub async fn next_data<B>(body: &mut B) -> Result<Option<Bytes>, BodyError>
where
    B: hyper::body::Body<Data = Bytes, Error = BodyError> + Unpin,
{
    loop {
        match std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            None => return Ok(None),
            Some(Err(error)) => return Err(error),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn check_length(length: usize, limit: usize) -> Result<(), BodyError> {
    if length > limit { Err(BodyError::TooLarge { limit }) } else { Ok(()) }
}

/// A body of known length, so that `Content-Length` is always there (event streams excepted).
#[derive(Debug)]
pub enum Body {
    Full(Option<Bytes>),
    Image(ImageBody),
    /// Server-sent events: whoever holds the sender writes; the end of the sender ends the reply, and the end of the reply the sender.
    Stream(mpsc::Receiver<Bytes>),
}

impl Body {
    pub fn empty() -> Self {
        Self::Full(None)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }
}

impl From<ImageBody> for Body {
    fn from(body: ImageBody) -> Self {
        Self::Image(body)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Image(body) => Pin::new(body).poll_frame(context).map_err(into_io),
            Self::Stream(receiver) => receiver.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Image(body) => body.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Image(body) => body.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// An image's bytes may run out in the middle (a damaged file) or never, whatever the image decides.
trait IntoIo {
    fn into_io(self) -> std::io::Error;
}

impl IntoIo for Infallible {
    fn into_io(self) -> std::io::Error {
        match self {}
    }
}

impl IntoIo for std::io::Error {
    fn into_io(self) -> std::io::Error {
        self
    }
}

fn into_io(error: impl IntoIo) -> std::io::Error {
    error.into_io()
}
