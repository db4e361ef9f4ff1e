//! One connection: its time limits, and the service that hyper calls for each request.
//!
//! Every wait on a client is bounded:
//!
//! | waiting for | bound | kept by |
//! |---|---|---|
//! | the first or next request | `idle_timeout` | [`Watch`] |
//! | the rest of a head | `header_timeout` | [`Watch`] |
//! | a piece of a body | `body_timeout` | [`RequestBody`] |
//! | the client to take some of a reply | `write_timeout` | [`Watch`] |
//!
//! hyper has a limit for heads of its own, but arms a timer for each request; here one timer per connection is armed once and only
//! looked at again when it fires, so a request that comes and goes in time costs none.

use super::body::{Body, RequestBody};
use super::listener::Front;
use super::outlet::{Outgoing, Outlet};
use super::pressure::Pressure;
use super::{Peer, Reply, Request, reply};
use crate::app::App;
use crate::config::Limits;
use crate::metrics::RequestKind;
use ::http::{StatusCode, Version, header};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Serves the connection until its end, a time limit, or the stop of the server.
pub async fn serve<S>(front: Arc<Front>, stream: S, peer: Peer, pressure: Arc<Pressure>)
where
    S: AsyncRead + Outlet + Send + 'static,
{
    let watch = Arc::new(Watch::new(pressure, S::REPLY_BYTES_MIN));
    let service = Requests { front: Arc::clone(&front), watch: Arc::clone(&watch), peer };
    let io = TokioIo::new(Watched { stream, watch: Arc::clone(&watch), looks_for_end: true, ahead: None });
    let limits = &front.app.config.limits;
    let mut builder = http1::Builder::new();
    // hyper's own bound of what it buffers (about 400 KiB in each direction) stays: pieces of images are queued by reference.
    // A device may close its sending side once it has said all; it still gets its answer. Whoever is gone altogether is noticed when
    // something is written to it, and an endless reply ends with the client's side; see [`Watched`].
    builder.header_read_timeout(None).max_header_size(limits.header_bytes_max).half_close(true);
    if limits.headers_max != crate::config::limits::HEADERS_MAX_OF_HYPER {
        builder.max_headers(limits.headers_max);
    }
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut sleep = pin!(tokio::time::sleep_until(watch.epoch + limits.header_timeout));
    let mut stopped = pin!(front.stop.wait());
    let mut stop = StopProgress::Unregistered;
    std::future::poll_fn(|context| {
        watch.begin_turn();
        if connection.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if stop != StopProgress::Draining && (watch.is_ending() || is_stopping(&front, &mut stop, stopped.as_mut(), context)) {
            stop = StopProgress::Draining;
            connection.as_mut().graceful_shutdown();
            if connection.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
        }
        if let Some(due) = watch.due(limits)
            && due < sleep.deadline()
        {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            match watch.due(limits) {
                Some(due) if due <= now => {
                    front.app.metrics.connection_timed_out();
                    return Poll::Ready(());
                }
                Some(due) => sleep.as_mut().reset(due),
                // Busy, and so not due at all. What becomes due once it is idle lies no nearer than this.
                None => sleep.as_mut().reset(now + limits.idle_timeout.min(limits.header_timeout)),
            }
        }
        Poll::Pending
    })
    .await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StopProgress {
    Unregistered,
    Registered,
    Draining,
}

/// Whether the server stops. Registers for the wake-up once: a task keeps its waker for life, and registering takes a lock that all
/// workers share.
pub(super) fn is_stopping(
    front: &Front,
    progress: &mut StopProgress,
    stopped: Pin<&mut impl Future<Output = ()>>,
    context: &mut Context<'_>,
) -> bool {
    if *progress == StopProgress::Unregistered {
        *progress = StopProgress::Registered;
        return stopped.poll(context).is_ready();
    }
    front.stop.is_stopping()
}

/// What a connection is waiting for, and since when. Written by its own task alone; atomic because the task may not be pinned to
/// a thread as far as the compiler knows.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) epoch: Instant,
    /// Requests being answered: from the head to the last byte of the reply handed to hyper. Over HTTP/2 there may be several.
    running: AtomicUsize,
    /// Milliseconds since the epoch, plus one so that 0 means "not".
    idle_since: AtomicU64,
    head_since: AtomicU64,
    blocked_since: AtomicU64,
    /// Written since the task's turn began.
    turn_bytes: AtomicUsize,
    outgoing: Outgoing,
    /// Milliseconds since the epoch: before then the client was not to come back.
    put_off_until: AtomicU64,
    /// The reply that is being sent has no end of its own.
    is_endless: AtomicBool,
    /// The connection ends with what runs on it.
    is_ending: AtomicBool,
    /// Of the worker that serves it.
    pressure: Arc<Pressure>,
}

impl Watch {
    pub(super) fn new(pressure: Arc<Pressure>, reply_bytes_min: u64) -> Self {
        Self {
            epoch: Instant::now(),
            running: AtomicUsize::new(0),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            turn_bytes: AtomicUsize::new(0),
            outgoing: Outgoing::new(reply_bytes_min),
            put_off_until: AtomicU64::new(0),
            is_endless: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            pressure,
        }
    }

    /// Now, as it is kept.
    pub(super) fn stamp(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64 + 1
    }

    pub(super) fn after(&self, stamp: u64, wait: Duration) -> Instant {
        self.epoch + Duration::from_millis(stamp - 1) + wait
    }

    /// When the connection is to be given up if nothing moves until then; `None` while the bounds of a body or a handler are at work.
    pub(super) fn due(&self, limits: &Limits) -> Option<Instant> {
        let blocked_since = self.blocked_since.load(Ordering::Relaxed);
        if blocked_since != 0 {
            return Some(self.after(blocked_since, limits.write_timeout));
        }
        if self.is_busy() {
            return None;
        }
        match self.head_since.load(Ordering::Relaxed) {
            0 => Some(self.after(self.idle_since.load(Ordering::Relaxed), limits.idle_timeout)),
            head_since => Some(self.after(head_since, limits.header_timeout)),
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }

    /// Whether it waits for nothing but the next request.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_busy() && !self.is_blocked() && self.head_since.load(Ordering::Relaxed) == 0
    }

    /// Whether the client takes nothing of what is written.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_since.load(Ordering::Relaxed) != 0
    }

    /// The connection's task is polled: it may write again.
    pub(super) fn begin_turn(&self) {
        self.turn_bytes.store(0, Ordering::Relaxed);
    }

    pub(super) fn begin_request(&self) {
        self.head_since.store(0, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    /// The client was told to come back no sooner than after so long.
    fn put_off(&self, wait: Duration) {
        self.put_off_until.store(self.stamp() + wait.as_millis() as u64, Ordering::Relaxed);
    }

    fn is_put_off(&self) -> bool {
        let until = self.put_off_until.load(Ordering::Relaxed);
        until != 0 && self.stamp() < until
    }

    /// No further request is taken.
    fn end_soon(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    fn end_request(&self) {
        self.is_endless.store(false, Ordering::Relaxed);
        self.idle_since.store(self.stamp(), Ordering::Relaxed);
        self.running.fetch_sub(1, Ordering::Relaxed);
    }

    fn read_some(&self) {
        if !self.is_busy() {
            self.within_head(true);
        }
    }

    /// What was read last ends in the middle of a request's head, or doesn't.
    pub(super) fn within_head(&self, is_within: bool) {
        if !is_within {
            self.head_since.store(0, Ordering::Relaxed);
        } else if self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.stamp(), Ordering::Relaxed);
        }
    }

    fn wrote<T>(&self, result: &Poll<T>) {
        match result {
            Poll::Ready(_) => self.blocked_since.store(0, Ordering::Relaxed),
            Poll::Pending if self.blocked_since.load(Ordering::Relaxed) == 0 => {
                self.blocked_since.store(self.stamp(), Ordering::Relaxed);
            }
            Poll::Pending => {}
        }
    }
}

/// What a connection may write before the others of its worker have their turn: some tens of microseconds' work.
const TURN_BYTES_MAX: usize = 512 * 1024;

/// A stream that tells its [`Watch`] what moves.
///
/// While a request is being answered hyper reads nothing more of HTTP/1.1. Where the answer has no end of its own, the end of the client's
/// side is therefore looked for here, or a stream would stay open until something is written to nobody.
pub(super) struct Watched<S> {
    pub(super) stream: S,
    pub(super) watch: Arc<Watch>,
    pub(super) looks_for_end: bool,
    /// What the look brought instead of the end: it is read before all else.
    pub(super) ahead: Option<u8>,
}

impl<S: AsyncRead + Unpin> Watched<S> {
    /// Fails where the client has closed its side. Else this task is woken when it does.
    fn look_for_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.ahead.is_some() {
            return Ok(());
        }
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        match Pin::new(&mut self.stream).poll_read(context, &mut buffer)? {
            Poll::Ready(()) => match buffer.filled() {
                [byte] => self.ahead = Some(*byte),
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            },
            Poll::Pending => {}
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(byte) = self.ahead.take() {
            buffer.put_slice(&[byte]);
            self.watch.read_some();
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.watch.read_some();
        }
        result
    }
}

impl<S: AsyncRead + Outlet> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch.wrote(&result);
        result
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.watch.turn_bytes.load(Ordering::Relaxed) >= TURN_BYTES_MAX {
            // A socket with room for megabytes would be filled while every other connection waits.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let result = Pin::new(&mut this.stream).poll_send(context, slices, &this.watch.outgoing);
        if let Poll::Ready(Ok(written)) = result {
            let before = this.watch.turn_bytes.load(Ordering::Relaxed);
            this.watch.turn_bytes.store(before + written, Ordering::Relaxed);
        }
        self.watch.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.looks_for_end && self.watch.is_endless.load(Ordering::Relaxed) {
            self.look_for_end(context)?;
        }
        // TLS buffers: a client that takes nothing shows here and not in a write.
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.watch.wrote(&result);
        if result.is_ready() && !self.watch.is_busy() {
            self.watch.outgoing.end();
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch.wrote(&result);
        result
    }
}

/// Answers the requests of one connection.
struct Requests {
    front: Arc<Front>,
    watch: Arc<Watch>,
    peer: Peer,
}

impl Service<::http::Request<Incoming>> for Requests {
    type Response = ::http::Response<Measured>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: ::http::Request<Incoming>) -> Answer {
        Answer::begin(&self.front, &self.watch, self.peer.clone(), request)
    }
}

/// A handler at work. Its panic, a bug of ours, ends this request and no other; the panic itself was logged by the hook.
pub(super) struct Answer {
    reply: Pin<Box<dyn Future<Output = Reply> + Send>>,
    /// Taken by the reply.
    running: Option<Running>,
}

impl Answer {
    pub(super) fn begin(front: &Arc<Front>, watch: &Arc<Watch>, peer: Peer, request: ::http::Request<Incoming>) -> Self {
        watch.begin_request();
        let running = Running {
            front: Arc::clone(front),
            watch: Arc::clone(watch),
            begun: Instant::now(),
            kind: RequestKind::of(request.method(), request.uri().path()),
            status: None,
        };
        if !names_its_host(&request) {
            return Self { reply: Box::pin(std::future::ready(reply_to_no_host())), running: Some(running) };
        }
        let app = Arc::clone(&front.app);
        let body_timeout = app.config.limits.body_timeout;
        let request = request.map(|incoming| RequestBody::new(incoming, body_timeout, peer));
        let is_put_off = watch.pressure.is_on() && watch.is_put_off();
        let refusal = if is_put_off { None } else { watch.pressure.refusal() };
        // The token is looked at last: most requests don't come to it.
        if (is_put_off || refusal.is_some()) && crate::dialect::may_be_shed(&app, &request) {
            let Some(retry_after_s) = refusal else {
                return Self { reply: Box::pin(handle_late(app, request)), running: Some(running) };
            };
            app.metrics.request_shed();
            watch.put_off(Duration::from_secs(retry_after_s.into()));
            let reply = crate::dialect::shed(request.uri().path(), retry_after_s);
            return Self { reply: Box::pin(request.into_body().skip_then(reply)), running: Some(running) };
        }
        Self { reply: Box::pin(async move { crate::dialect::handle(&app, request).await }), running: Some(running) }
    }

    /// Answers so, without asking anybody.
    pub(super) fn refuse(&mut self, status: StatusCode) {
        self.reply = Box::pin(std::future::ready(reply::empty(status)));
    }
}

impl Future for Answer {
    type Output = Result<::http::Response<Measured>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| self.reply.as_mut().poll(context)));
        let mut reply = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(reply)) => reply,
            Err(_) => reply_to_a_panic(),
        };
        let ends_connection = reply.extensions().get::<EndsConnection>().is_some();
        if ends_connection {
            reply = reply::with_header(reply, header::CONNECTION, "close");
        }
        let mut running = self.running.take();
        if let Some(running) = &mut running {
            running.status = Some(reply.status());
            if let Some(HeldBack(held)) = reply.extensions().get() {
                running.begun += *held;
            }
            if ends_connection {
                running.watch.end_soon();
            }
            if let Body::Image(body) = reply.body()
                && let Some(image) = body.image()
            {
                running.watch.outgoing.begin(image, body.left_bytes());
            }
        }
        let is_endless = reply.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(EVENT_STREAM));
        if let Some(running) = running.as_ref().filter(|_| is_endless) {
            running.watch.is_endless.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(reply.map(|body| Measured { body, is_endless, running })))
    }
}

/// On a reply: no further request is taken on its connection. Never sent.
#[derive(Clone, Copy, Debug)]
pub struct EndsConnection;

/// On a reply: so long it was held back on purpose, which is no part of what the request took. Never sent.
#[derive(Clone, Copy, Debug)]
pub struct HeldBack(pub Duration);

/// What never ends by itself.
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// Exactly once, as HTTP/1.1 wants it: what stands in front of us may have gone by another than the one that is read here.
fn names_its_host(request: &::http::Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let named = hosts.next().is_some();
    match request.version() {
        Version::HTTP_11 => named && hosts.next().is_none(),
        _ => hosts.next().is_none(),
    }
}

/// The connection ends with it: whoever wrote such a request may have meant what follows in another way, too.
fn reply_to_no_host() -> Reply {
    let body =
        Bytes::from_static(br#"{"error":{"code":"malformed_request","message":"expected one Host header, got none or several"}}"#);
    let reply = reply::json_bytes(StatusCode::BAD_REQUEST, body);
    reply::with_header(reply, header::CONNECTION, "close")
}

/// How long a client is kept waiting that asks on though it was told to come back later.
const UNHEEDING_WAIT: Duration = Duration::from_secs(1);

/// A refusal costs nearly as much as an answer, so another one would only be asked for again, and nobody be the better for it. Made to
/// wait, the client asks no more than it would if it had heeded.
async fn handle_late(app: Arc<App>, request: Request) -> Reply {
    tokio::time::sleep(UNHEEDING_WAIT).await;
    let mut reply = crate::dialect::handle(&app, request).await;
    reply.extensions_mut().insert(HeldBack(UNHEEDING_WAIT));
    reply
}

fn reply_to_a_panic() -> Reply {
    let body = Bytes::from_static(
        br#"{"error":{"code":"internal","message":"this is a fault of the server; it was logged, the same call may fail again"}}"#,
    );
    reply::json_bytes(StatusCode::INTERNAL_SERVER_ERROR, body)
}

/// A request from its head to the end of its reply; what it took is counted when it is dropped.
pub(super) struct Running {
    pub(super) front: Arc<Front>,
    watch: Arc<Watch>,
    begun: Instant,
    kind: RequestKind,
    /// Absent where the connection broke before there was a reply.
    status: Option<StatusCode>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watch.end_request();
        self.front.app.metrics.request(self.kind, self.status, self.begun.elapsed());
    }
}

/// A reply's body that keeps its request running until hyper has taken it whole.
pub(super) struct Measured {
    pub(super) body: Body,
    /// Ends when the server stops, rather than keep it from stopping; its client resumes where it was.
    pub(super) is_endless: bool,
    pub(super) running: Option<Running>,
}

impl hyper::body::Body for Measured {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.is_endless && self.running.as_ref().is_some_and(|running| running.front.stop.is_stopping()) {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
