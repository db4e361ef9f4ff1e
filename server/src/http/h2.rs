//! One connection of HTTP/2: the bounds of [`connection`](super::connection), held for many requests at once.
//!
//! The protocol is hyper's; what is here keeps a client from holding what it doesn't use:
//!
//! | waiting for | bound | what ends |
//! |---|---|---|
//! | the preface, or the rest of a head | `header_timeout` | the connection |
//! | a request, while none runs | `idle_timeout` | the connection, told so beforehand |
//! | a piece of a body | `body_timeout` | the request |
//! | the client to take any byte | `write_timeout` | the connection |
//! | the client to take a byte of one reply | `write_timeout` | the request alone |
//!
//! A reply is handed to hyper a piece at a time, and the next only when the last byte of the one before was written to the socket. So a
//! connection holds at most a piece for each of its requests, which of an image is a slice of the map and no memory of its own, and
//! a reply that stands still is known by its piece.
//!
//! There are no pings: one would wait behind the image in the socket's queue, and take a slow device for a dead one.

use super::Peer;
use super::body::Body;
use super::connection::{Answer, Measured, Running, StopProgress, Watch, Watched, is_stopping};
use super::listener::Front;
use super::outlet::Outlet;
use super::pressure::Pressure;
use ::http::{HeaderValue, Method, StatusCode, header};
use bytes::{Buf, Bytes};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// What a client may send of one body, and of all on one connection, before somebody has read it: the memory that uploads cost. Half a
/// mebibyte each 50 ms of way is 10 MB/s.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// The protocol's own least; a larger one would only let a client hold more in a half-read frame.
const FRAME_BYTES_MAX: u32 = 16 << 10;
/// Requests that a client took back before they were looked at, and streams that we had to reset for a client's errors: beyond these
/// the connection is closed (CVE-2023-44487 and its kin). An honest client has a handful of either.
const RESETS_UNSEEN_MAX: usize = 20;
const RESETS_FOR_ERRORS_MAX: usize = 256;
/// Requests that a client may take back while they run; beyond these, no more than it lets come to their end. Each may leave work in
/// the queue of the disk that nobody waits for.
const TAKEN_BACK_MAX: usize = 100;
/// A reply no longer than this is forgotten by hyper while it waits to be written: not worth a frame of its own for its end.
const SHORT_REPLY_BYTES_MAX: u64 = 16 << 10;
/// How long a client may take to hear that the connection ends, once nothing runs on it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves the connection until its end, a time limit, or the stop of the server.
pub async fn serve<S>(front: Arc<Front>, stream: S, peer: Peer, pressure: Arc<Pressure>)
where
    S: AsyncRead + Outlet + Send + 'static,
{
    let limits = &front.app.config.limits;
    let watch = Arc::new(Watch::new(pressure, S::REPLY_BYTES_MIN));
    let exchanges = Arc::new(Exchanges::new(Arc::clone(&watch)));
    let service = Requests { front: Arc::clone(&front), exchanges: Arc::clone(&exchanges), peer: peer.clone() };
    let watched = Watched { stream, watch: Arc::clone(&watch), looks_for_end: false, ahead: None };
    let io = TokioIo::new(HeadsWatched { stream: watched, watch: Arc::clone(&watch), frames: Frames::default() });
    let mut builder = http2::Builder::new(Spawner(Arc::clone(&exchanges)));
    builder
        .max_concurrent_streams(limits.h2_streams_max)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .keep_alive_interval(None)
        .max_pending_accept_reset_streams(RESETS_UNSEEN_MAX)
        .max_local_error_reset_streams(RESETS_FOR_ERRORS_MAX);
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut sleep = pin!(tokio::time::sleep_until(watch.epoch + limits.header_timeout));
    let mut stopped = pin!(front.stop.wait());
    let mut stop = StopProgress::Unregistered;
    let mut ends_since: Option<Instant> = None;
    std::future::poll_fn(|context| {
        watch.begin_turn();
        if connection.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if stop != StopProgress::Draining && (watch.is_ending() || is_stopping(&front, &mut stop, stopped.as_mut(), context)) {
            stop = StopProgress::Draining;
            ends_since.get_or_insert_with(Instant::now);
            exchanges.wake_all();
            connection.as_mut().graceful_shutdown();
            if connection.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
        }
        if exchanges.are_abused() {
            tracing::debug!(peer = %peer.address, "a client took back more requests than it let end; its connection is closed");
            return Poll::Ready(());
        }
        // hyper waits for the client to answer the farewell, and for its preface, without a bound of its own.
        let farewell_due = |since: Option<Instant>| since.filter(|_| !watch.is_busy()).map(|since| since + FAREWELL);
        if let Some(due) = watch.due(limits).into_iter().chain(farewell_due(ends_since)).min()
            && due < sleep.deadline()
        {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            if farewell_due(ends_since).is_some_and(|due| due <= now) {
                return Poll::Ready(());
            }
            if watch.due(limits).is_some_and(|due| due <= now) && !(watch.is_idle() && ends_since.is_some()) {
                front.app.metrics.connection_timed_out();
                if !watch.is_idle() {
                    return Poll::Ready(());
                }
                // It did nothing wrong. It is told, so that it doesn't send its next request into a connection that is gone.
                ends_since = Some(now);
                connection.as_mut().graceful_shutdown();
                if connection.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
            }
            let Ok(stalled_due) = exchanges.end_stalled(now, limits.write_timeout, || front.app.metrics.connection_timed_out())
            else {
                return Poll::Ready(());
            };
            // What begins to wait after this look is due no sooner than the shortest bound from now.
            let later = now + limits.idle_timeout.min(limits.header_timeout).min(limits.write_timeout);
            let watched_due = watch.due(limits).filter(|due| *due > now);
            let dues = [stalled_due, watched_due, farewell_due(ends_since)];
            sleep.as_mut().reset(dues.into_iter().flatten().fold(later, Instant::min));
        }
        Poll::Pending
    })
    .await;
}

/// The requests of one connection that were begun and whose replies aren't written whole.
struct Exchanges {
    watch: Arc<Watch>,
    open: Mutex<Vec<Weak<Exchange>>>,
    /// The one that hyper is about to give a task: it calls the service and the executor in turn.
    newest: Mutex<Option<Arc<Exchange>>>,
    taken_back: AtomicUsize,
    answered: AtomicUsize,
}

/// The connection can't be brought to an end in parts.
struct Hopeless;

impl Exchanges {
    fn new(watch: Arc<Watch>) -> Self {
        Self {
            watch,
            open: Mutex::default(),
            newest: Mutex::default(),
            taken_back: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
        }
    }

    fn begin(self: &Arc<Self>) -> Arc<Exchange> {
        let exchange = Arc::new(Exchange {
            all: Arc::clone(self),
            running: OnceLock::new(),
            task: OnceLock::new(),
            pieces: AtomicUsize::new(0),
            moved_at: AtomicU64::new(0),
            waker: Mutex::default(),
        });
        lock(&self.open).push(Arc::downgrade(&exchange));
        *lock(&self.newest) = Some(Arc::clone(&exchange));
        exchange
    }

    fn are_abused(&self) -> bool {
        self.taken_back.load(Ordering::Relaxed) > TAKEN_BACK_MAX + self.answered.load(Ordering::Relaxed)
    }

    /// Ends the replies of which the client has taken nothing for `wait`, and says when the next would be due. While the socket takes no
    /// more, replies only wait for each other, and the connection has its own bound; once it does, all is written that a window is open for.
    fn end_stalled(&self, now: Instant, wait: Duration, mut note: impl FnMut()) -> Result<Option<Instant>, Hopeless> {
        if self.watch.is_blocked() {
            return Ok(None);
        }
        let mut next: Option<Instant> = None;
        // Ended without the lock: what is dropped then takes itself off the list.
        let open: Vec<Arc<Exchange>> = lock(&self.open).iter().filter_map(Weak::upgrade).collect();
        for exchange in open {
            if exchange.pieces.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let due = self.watch.after(exchange.moved_at.load(Ordering::Relaxed), wait);
            if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
                continue;
            }
            note();
            match exchange.task.get() {
                // Dropping it resets the stream, and hyper lets go of what it has queued for it.
                Some(task) if !task.is_finished() => task.abort(),
                _ => return Err(Hopeless),
            }
        }
        Ok(next)
    }

    fn wake_all(&self) {
        let open: Vec<Arc<Exchange>> = lock(&self.open).iter().filter_map(Weak::upgrade).collect();
        for exchange in open {
            exchange.wake();
        }
    }
}

/// One request with its reply.
struct Exchange {
    all: Arc<Exchanges>,
    /// Set with the reply; dropped with the last piece of it.
    running: OnceLock<Running>,
    task: OnceLock<AbortHandle>,
    /// Handed to hyper and not yet written whole.
    pieces: AtomicUsize,
    /// When a byte of them was last written.
    moved_at: AtomicU64,
    /// Who waits for the pieces to be written, or for the server's stop.
    waker: Mutex<Option<Waker>>,
}

impl Exchange {
    fn moved(&self) {
        self.moved_at.store(self.all.watch.stamp(), Ordering::Relaxed);
    }

    fn wake(&self) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let this: *const Self = self;
        lock(&self.all.open).retain(|other| other.as_ptr() != this);
    }
}

/// Nothing panics while it holds one of these locks, and what they guard is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives each request a task, and keeps its handle.
#[derive(Clone)]
struct Spawner(Arc<Exchanges>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, future: F) {
        let task = tokio::spawn(future);
        if let Some(exchange) = lock(&self.0.newest).take() {
            let _ = exchange.task.set(task.abort_handle());
        }
    }
}

/// Answers the requests of one connection.
struct Requests {
    front: Arc<Front>,
    exchanges: Arc<Exchanges>,
    peer: Peer,
}

impl Service<::http::Request<Incoming>> for Requests {
    type Response = ::http::Response<Tracked>;
    type Error = Infallible;
    type Future = StreamAnswer;

    fn call(&self, mut request: ::http::Request<Incoming>) -> StreamAnswer {
        let has_too_many_headers = request.headers().len() > self.front.app.config.limits.headers_max;
        //= https://www.rfc-editor.org/rfc/rfc9113#section-8.3.1
        //# An intermediary that needs to generate a Host header field (which might be necessary to construct an HTTP/1.1 request) MUST use
        //# the value from the ":authority" pseudo-header field as the value of the Host field
        let authority = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        if let Some(authority) = authority {
            request.headers_mut().entry(header::HOST).or_insert(authority);
        }
        let is_head = request.method() == Method::HEAD;
        let exchange = self.exchanges.begin();
        let answer = Answer::begin(&self.front, &self.exchanges.watch, self.peer.clone(), request);
        StreamAnswer { answer, exchange, is_head, has_too_many_headers, is_answered: false }
    }
}

/// A handler at work.
struct StreamAnswer {
    answer: Answer,
    exchange: Arc<Exchange>,
    is_head: bool,
    has_too_many_headers: bool,
    is_answered: bool,
}

impl Future for StreamAnswer {
    type Output = Result<::http::Response<Tracked>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.has_too_many_headers {
            self.answer.refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        let Poll::Ready(Ok(reply)) = Pin::new(&mut self.answer).poll(context) else { return Poll::Pending };
        self.is_answered = true;
        let (mut head, Measured { mut body, is_endless, running }) = reply.into_parts();
        if self.is_head {
            // Over HTTP/1 hyper leaves the body out by itself.
            if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
                head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
            }
            body = Body::empty();
        }
        let is_short = body.size_hint().exact().is_some_and(|length| length <= SHORT_REPLY_BYTES_MAX);
        let exchange = Arc::clone(&self.exchange);
        if let Some(running) = running {
            // There is one reply to a request, so nothing is there yet.
            let _ = exchange.running.set(running);
        }
        let is_taken = body.is_end_stream();
        if is_taken {
            exchange.all.answered.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(Ok(::http::Response::from_parts(head, Tracked { body, is_endless, is_short, is_taken, exchange })))
    }
}

impl Drop for StreamAnswer {
    fn drop(&mut self) {
        if !self.is_answered {
            self.exchange.all.taken_back.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A reply's body, handed on piece by piece.
struct Tracked {
    body: Body,
    is_endless: bool,
    is_short: bool,
    /// hyper has asked for it, and so has sent the head. A handler that waited for a body is answered for a request that was taken back,
    /// too, and nobody hears it.
    is_taken: bool,
    exchange: Arc<Exchange>,
}

impl Tracked {
    /// Whether the client has still to take what it was handed. Wakes the task when it has.
    fn must_wait(&self, context: &Context<'_>) -> bool {
        if self.exchange.pieces.load(Ordering::Relaxed) == 0 {
            return false;
        }
        *lock(&self.exchange.waker) = Some(context.waker().clone());
        true
    }
}

impl hyper::body::Body for Tracked {
    type Data = Piece;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, io::Error>>> {
        if self.must_wait(context) {
            return Poll::Pending;
        }
        if !std::mem::replace(&mut self.is_taken, true) {
            self.exchange.all.answered.fetch_add(1, Ordering::Relaxed);
        }
        let stops = || self.exchange.running.get().is_some_and(|running| running.front.stop.is_stopping());
        if self.is_endless && stops() {
            return Poll::Ready(None);
        }
        if self.is_endless {
            // Before the body is asked, which may be what the stop is waiting for.
            *lock(&self.exchange.waker) = Some(context.waker().clone());
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        polled.map_ok(|frame| frame.map_data(|bytes| Piece::new(bytes, Arc::clone(&self.exchange))))
    }

    fn is_end_stream(&self) -> bool {
        // hyper forgets a reply with its last piece, and then nobody could end it if the client left that where it is.
        self.body.is_end_stream() && (self.is_short || self.exchange.pieces.load(Ordering::Relaxed) == 0)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if !self.is_taken {
            self.exchange.all.taken_back.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A piece of a reply, from when it is handed to hyper until its last byte was written or given up.
struct Piece {
    bytes: Bytes,
    exchange: Arc<Exchange>,
}

impl Piece {
    fn new(bytes: Bytes, exchange: Arc<Exchange>) -> Self {
        exchange.moved();
        exchange.pieces.fetch_add(1, Ordering::Relaxed);
        Self { bytes, exchange }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.exchange.moved();
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.exchange.pieces.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.exchange.wake();
        }
    }
}

/// Follows the client's frames, to know whether what was read last ends within the head of a request.
#[derive(Debug, Default)]
struct Frames {
    preface_read: usize,
    head: [u8; FRAME_HEAD_BYTES],
    head_read: usize,
    payload_left: usize,
    /// A block of headers was begun, and its last frame hasn't come.
    block_is_open: bool,
}

const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
const KIND_DATA: u8 = 0;
const KIND_HEADERS: u8 = 1;
const KIND_CONTINUATION: u8 = 9;
const FLAG_END_HEADERS: u8 = 4;

impl Frames {
    fn read(&mut self, mut bytes: &[u8]) {
        let of_preface = bytes.len().min(PREFACE_BYTES - self.preface_read);
        self.preface_read += of_preface;
        bytes = &bytes[of_preface..];
        while !bytes.is_empty() {
            if self.head_read < FRAME_HEAD_BYTES {
                let count = bytes.len().min(FRAME_HEAD_BYTES - self.head_read);
                self.head[self.head_read..self.head_read + count].copy_from_slice(&bytes[..count]);
                self.head_read += count;
                bytes = &bytes[count..];
                if self.head_read < FRAME_HEAD_BYTES {
                    return;
                }
                self.payload_left = usize::from(self.head[0]) << 16 | usize::from(self.head[1]) << 8 | usize::from(self.head[2]);
                if matches!(self.head[3], KIND_HEADERS | KIND_CONTINUATION) {
                    self.block_is_open = self.head[4] & FLAG_END_HEADERS == 0;
                }
            }
            let count = bytes.len().min(self.payload_left);
            self.payload_left -= count;
            bytes = &bytes[count..];
            if self.payload_left == 0 {
                self.head_read = 0;
            }
        }
    }

    /// A body may come as slowly as its own bounds allow; everything else is a few bytes that come together.
    fn is_within_head(&self) -> bool {
        let is_within_frame = self.head_read > 0 && (self.head_read < FRAME_HEAD_BYTES || self.head[3] != KIND_DATA);
        self.preface_read < PREFACE_BYTES || self.block_is_open || is_within_frame
    }
}

/// A stream whose [`Watch`] is told of heads, where they begin and end.
struct HeadsWatched<S> {
    stream: S,
    watch: Arc<Watch>,
    frames: Frames,
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadsWatched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            this.frames.read(&buffer.filled()[before..]);
            this.watch.within_head(this.frames.is_within_head());
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadsWatched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head[..], &vec![0xff; payload]].concat()
    }

    #[test]
    fn a_head_is_followed_however_its_bytes_are_cut() {
        const SETTINGS: u8 = 4;
        // Each frame, and whether a head is open behind it.
        let conversation = [
            (vec![b'P'; PREFACE_BYTES], false),
            (frame(SETTINGS, 0, 12), false),
            (frame(KIND_HEADERS, FLAG_END_HEADERS | 1, 40), false),
            (frame(KIND_HEADERS, 0, 40), true),
            (frame(KIND_CONTINUATION, 0, 0), true),
            (frame(KIND_CONTINUATION, FLAG_END_HEADERS, 300), false),
            (frame(KIND_DATA, 0, 70_000), false),
            (frame(SETTINGS, 1, 0), false),
        ];
        for step in [1, 2, 7, 9, 10, 4_096] {
            let mut frames = Frames::default();
            assert!(frames.is_within_head(), "nothing came yet");
            for (number, (bytes, is_open)) in conversation.iter().enumerate() {
                for piece in bytes.chunks(step) {
                    frames.read(piece);
                }
                assert_eq!(frames.is_within_head(), *is_open, "frame {number} in steps of {step}");
            }
        }
        let mut frames = Frames::default();
        frames.read(&[b'P'; PREFACE_BYTES]);
        frames.read(&frame(KIND_DATA, 0, 100)[..50]);
        assert!(!frames.is_within_head(), "a body may be slow");
        frames.read(&[0; 59]);
        frames.read(&frame(SETTINGS, 0, 6)[..10]);
        assert!(frames.is_within_head(), "anything else may not");
    }
}
