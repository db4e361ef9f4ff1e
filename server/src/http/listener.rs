//! Sockets: one thread and one runtime per worker, each with listeners of its own on the shared ports.
//!
//! A port is taken so that two servers never share one by accident, although the workers of one server do: the first socket is bound
//! and made to listen *without* `SO_REUSEPORT`, which fails where anything listens already, another sluicegate too. Only then is
//! the option set on it, and the other workers' sockets join. The port is never let go in between, so nobody can slip in.
//!
//! The sum of connections is bounded. One too many is told 503 with `Retry-After`, and closed; of these there is a bound too. Over TLS
//! and MQTT, where telling would cost a handshake, it is closed. What those that are open ask is shed by [`Pressure`], where it is more
//! than can be done in time.

use super::pressure::Pressure;
use super::tls::{self, Accepted, Tls};
use super::{ClientCertificate, Peer, connection, h2};
use crate::app::App;
use crate::mqtt;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What all workers share.
#[derive(Debug)]
pub struct Front {
    pub app: Arc<App>,
    pub tls: Option<Tls>,
    pub stop: Stop,
    connections: AtomicUsize,
    refusals: AtomicUsize,
}

impl Front {
    pub fn new(app: Arc<App>, tls: Option<Tls>) -> Self {
        Self { app, tls, stop: Stop::default(), connections: AtomicUsize::new(0), refusals: AtomicUsize::new(0) }
    }
}

/// Tells everybody once that the server stops.
#[derive(Debug, Default)]
pub struct Stop {
    stopping: AtomicBool,
    changed: Notify,
}

impl Stop {
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Returns once the server stops.
    pub async fn wait(&self) {
        let mut changed = std::pin::pin!(self.changed.notified());
        // Registered before the flag is read, so that a stop between the two isn't missed.
        changed.as_mut().enable();
        if !self.stopping.load(Ordering::SeqCst) {
            changed.await;
        }
    }
}

/// The sockets of one address, one per worker.
#[derive(Debug)]
pub struct Port {
    pub address: SocketAddr,
    sockets: Vec<Socket>,
}

/// Pending connections that the system holds while the workers are busy; a fleet that comes back after a power cut comes at once.
const BACKLOG: i32 = 4096;

/// Why an address could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{address} is taken: something listens there already; stop it or choose another address (port 0 picks a free one)")]
    Taken { address: SocketAddr },
    #[error("{address} is not an address of this machine; choose another")]
    NotHere { address: SocketAddr },
    #[error("this user may not listen on {address}; choose a port above 1023 or another user")]
    Forbidden { address: SocketAddr },
    #[error("{address} can't be listened on: {source}; choose another address")]
    Other { address: SocketAddr, source: io::Error },
}

impl ListenError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::Taken { address },
            io::ErrorKind::AddrNotAvailable => Self::NotHere { address },
            io::ErrorKind::PermissionDenied => Self::Forbidden { address },
            _ => Self::Other { address, source },
        }
    }
}

impl Port {
    /// Takes the address for `workers` workers.
    pub fn open(address: SocketAddr, workers: usize) -> Result<Self, ListenError> {
        let fail = |source| ListenError::new(address, source);
        let first = new_socket(address).map_err(fail)?;
        bind_and_listen(&first, address).map_err(fail)?;
        first.set_reuse_port(true).map_err(fail)?;
        let bound = first.local_addr().map_err(fail)?.as_socket().unwrap_or(address);
        let mut sockets = vec![first];
        for _ in 1..workers {
            let socket = new_socket(bound).map_err(fail)?;
            socket.set_reuse_port(true).map_err(fail)?;
            bind_and_listen(&socket, bound).map_err(fail)?;
            sockets.push(socket);
        }
        Ok(Self { address: bound, sockets })
    }
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(socket2::Protocol::TCP))?;
    // Connections of the last run that still wait to be forgotten don't keep the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bind_and_listen(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)
}

/// Where connections are taken.
#[derive(Debug)]
pub struct Ports {
    pub plain: Port,
    pub tls: Option<Port>,
    pub mqtt: Option<Port>,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Https,
    Mqtt,
}

/// The threads that serve.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts a worker for each socket of the ports. They accept at once.
    pub fn start(front: &Arc<Front>, ports: Ports) -> io::Result<Self> {
        let Ports { plain, tls, mqtt } = ports;
        let mut tls_sockets = tls.map(|port| port.sockets.into_iter()).into_iter().flatten();
        let mut mqtt_sockets = mqtt.map(|port| port.sockets.into_iter()).into_iter().flatten();
        let mut threads = Vec::new();
        for (number, socket) in plain.sockets.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                // Blocking calls read lists from the disk and take images in; each holds at most one thread.
                .max_blocking_threads(BLOCKING_THREADS_PER_WORKER_MAX)
                .thread_name(format!("blocking-{number}"))
                .build()?;
            let listeners = {
                let _context = runtime.enter();
                let plain = TcpListener::from_std(socket.into())?;
                let listener = |socket: Option<Socket>| socket.map(|socket| TcpListener::from_std(socket.into())).transpose();
                let (tls, mqtt) = (listener(tls_sockets.next())?, listener(mqtt_sockets.next())?);
                [(Some(plain), Protocol::Http), (tls, Protocol::Https), (mqtt, Protocol::Mqtt)]
            };
            let front = Arc::clone(front);
            let work = move || {
                runtime.block_on(work(front, listeners));
                // What still runs was given its time; a blocking call on a slow disk doesn't hold the process.
                runtime.shutdown_background();
            };
            threads.push(std::thread::Builder::new().name(format!("worker-{number}")).spawn(work)?);
        }
        Ok(Self { threads })
    }

    /// Waits until all have stopped.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended by a panic; the stop goes on");
            }
        }
    }
}

const BLOCKING_THREADS_PER_WORKER_MAX: usize = 64;

/// Accepts until the server stops, then gives the worker's connections their time to finish.
async fn work(front: Arc<Front>, listeners: [(Option<TcpListener>, Protocol); 3]) {
    let worker = Arc::new(Worker::new(front.app.config.limits.wait_max));
    tokio::spawn(Arc::clone(&worker.pressure).watch());
    let accept_each = async |(listener, protocol): (Option<TcpListener>, Protocol)| match listener {
        Some(listener) => accept(&front, listener, protocol, &worker).await,
        None => front.stop.wait().await,
    };
    let [http, https, mqtt] = listeners.map(accept_each);
    tokio::join!(http, https, mqtt);
    let stop_timeout = front.app.config.limits.stop_timeout;
    if tokio::time::timeout(stop_timeout, worker.none_left()).await.is_err() {
        tracing::warn!(
            connections = worker.connections.load(Ordering::Relaxed),
            "connections were still busy at the end of the time to stop"
        );
    }
}

async fn accept(front: &Arc<Front>, listener: TcpListener, protocol: Protocol, worker: &Arc<Worker>) {
    let mut stopped = std::pin::pin!(front.stop.wait());
    loop {
        // Cancel-safe: `accept` either hands a connection over or leaves it in the queue.
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => admit(front, stream, address, protocol, worker),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of files or memory: those that close give some back. Trying at once would only burn the processor.
                tracing::error!(%error, "a connection can't be accepted; raise the limit of open files (ulimit -n)");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
}

fn admit(front: &Arc<Front>, stream: TcpStream, address: SocketAddr, protocol: Protocol, worker: &Arc<Worker>) {
    let Some(place) = Place::take(front, worker) else {
        front.app.metrics.connection_refused();
        // Others would have to be let in to be told.
        if protocol == Protocol::Http {
            refuse(front, stream);
        }
        return;
    };
    tune(&stream);
    let (front, pressure) = (Arc::clone(front), Arc::clone(&worker.pressure));
    tokio::spawn(async move {
        let _place = place;
        match protocol {
            Protocol::Http => connection::serve(front, stream, Peer { address, tls: false, certificate: None }, pressure).await,
            Protocol::Https => {
                let Some(acceptor) = front.tls.as_ref().map(Tls::acceptor_for_http) else { return };
                let Some((stream, certificate)) = shake_hands(&front, acceptor, stream, address).await else { return };
                let peer = Peer { address, tls: true, certificate };
                // What the handshake settled on. Nothing is guessed from what comes first.
                match stream.get_ref().1.alpn_protocol() {
                    Some(tls::HTTP_2) => h2::serve(front, stream, peer, pressure).await,
                    _ => connection::serve(front, stream, peer, pressure).await,
                }
            }
            Protocol::Mqtt => serve_mqtt(front, stream, address).await,
        }
    });
}

/// What is refused here costs speed or memory, and nothing else.
fn tune(stream: &TcpStream) {
    // A reply is written whole; waiting for more to send with it only delays.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(NOT_SENT_BYTES_MAX);
}

/// What a connection may have waiting in the kernel beyond what is on its way. Without it a slow reader's queue grows to megabytes, and a
/// thousand of them take all the memory that the kernel has for TCP: it then drops what comes on every connection, and whoever only
/// checks waits for retransmissions.
const NOT_SENT_BYTES_MAX: u32 = 256 * 1024;

async fn shake_hands(
    front: &Front,
    (acceptor, accepted): (TlsAcceptor, Accepted),
    stream: TcpStream,
    address: SocketAddr,
) -> Option<(TlsStream<TcpStream>, Option<Arc<ClientCertificate>>)> {
    match tokio::time::timeout(front.app.config.limits.header_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let id_bytes_max = front.app.engine.limits().id_bytes_max;
            let certificate = ClientCertificate::read(stream.get_ref().1, &accepted, id_bytes_max, front.app.now());
            Some((stream, certificate))
        }
        Ok(Err(error)) => {
            front.app.metrics.handshake_failed();
            tracing::debug!(peer = %address, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            front.app.metrics.connection_timed_out();
            None
        }
    }
}

/// Plain and TLS come on one port: the first byte of a TLS handshake begins no MQTT connection.
async fn serve_mqtt(front: Arc<Front>, stream: TcpStream, address: SocketAddr) {
    const TLS_HANDSHAKE: u8 = 0x16;
    // A client without a keep-alive of its own that is gone would stay for ever.
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(MQTT_TCP_KEEPALIVE));
    let mut first = [0];
    match tokio::time::timeout(front.app.config.limits.header_timeout, stream.peek(&mut first)).await {
        Ok(Ok(1..)) => {}
        Ok(_) => return,
        Err(_) => return front.app.metrics.connection_timed_out(),
    }
    let may_be_plain = front.tls.is_none() || front.app.config.mqtt.plain;
    if first[0] == TLS_HANDSHAKE
        && let Some(tls) = &front.tls
    {
        if let Some((stream, certificate)) = shake_hands(&front, tls.acceptor_for_mqtt(), stream, address).await {
            mqtt::connection::serve(front, stream, Peer { address, tls: true, certificate }).await;
        }
    } else if may_be_plain {
        mqtt::connection::serve(front, stream, Peer { address, tls: false, certificate: None }).await;
    } else {
        front.app.metrics.mqtt("plain_refused");
    }
}

const MQTT_TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// A connection's place among `connections_max`; given back when it is dropped.
struct Place {
    front: Arc<Front>,
    worker: Arc<Worker>,
}

impl Place {
    fn take(front: &Arc<Front>, worker: &Arc<Worker>) -> Option<Self> {
        let maximum = front.app.config.limits.connections_max;
        let take = |count: usize| (count < maximum).then_some(count + 1);
        front.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        worker.connections.fetch_add(1, Ordering::Relaxed);
        front.app.metrics.connections(1);
        Some(Self { front: Arc::clone(front), worker: Arc::clone(worker) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.front.connections.fetch_sub(1, Ordering::Relaxed);
        self.front.app.metrics.connections(-1);
        if self.worker.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.worker.emptied.notify_waiters();
        }
    }
}

/// What the listeners and connections of one worker share.
#[derive(Debug)]
struct Worker {
    connections: AtomicUsize,
    emptied: Notify,
    pressure: Arc<Pressure>,
}

impl Worker {
    fn new(wait_max: Duration) -> Self {
        // Workers draw different lots. Nothing depends on them, so anything does as a seed.
        let seed = RandomState::new().hash_one(std::thread::current().id()) as u32;
        Self { connections: AtomicUsize::new(0), emptied: Notify::new(), pressure: Arc::new(Pressure::new(wait_max, seed)) }
    }

    async fn none_left(&self) {
        loop {
            let mut emptied = std::pin::pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.connections.load(Ordering::Relaxed) == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// Tells a client that there is no place, if few are being told so just now.
fn refuse(front: &Arc<Front>, mut stream: TcpStream) {
    if front.refusals.fetch_add(1, Ordering::Relaxed) >= REFUSALS_MAX {
        front.refusals.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let front = Arc::clone(front);
    tokio::spawn(async move {
        let tell = async {
            // Closing with the request unread would reset the connection before the client has read the answer.
            let mut request = [0; 4096];
            if stream.read(&mut request).await? == 0 {
                return Ok(());
            }
            stream.write_all(FULL).await?;
            stream.shutdown().await
        };
        // Whether it was heard or not, the connection ends here.
        let _ = tokio::time::timeout(REFUSAL_TIMEOUT, tell).await;
        front.refusals.fetch_sub(1, Ordering::Relaxed);
    });
}

const REFUSALS_MAX: usize = 256;
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nConnection: close\r\nContent-Type: application/json\r\n\
Content-Length: 95\r\n\r\n{\"error\":{\"code\":\"full\",\"message\":\"every connection of this server is taken; come back later\"}}";

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn workers_share_a_port_and_nobody_else_does() {
        let port = Port::open(loopback(), 4).unwrap();
        assert_eq!(port.sockets.len(), 4);
        assert_ne!(port.address.port(), 0);
        assert!(port.sockets.iter().all(|socket| socket.local_addr().unwrap().as_socket() == Some(port.address)));
        assert!(matches!(Port::open(port.address, 4), Err(ListenError::Taken { .. })));
        drop(port.sockets);
        assert!(Port::open(port.address, 2).is_ok());
    }

    #[test]
    fn a_port_that_another_program_listens_on_is_taken() {
        let other = std::net::TcpListener::bind(loopback()).unwrap();
        assert!(matches!(Port::open(other.local_addr().unwrap(), 2), Err(ListenError::Taken { .. })));
    }

    #[tokio::test]
    async fn a_connection_sends_at_once_and_queues_little() {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        tune(&stream);
        assert!(stream.nodelay().unwrap());
        assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), NOT_SENT_BYTES_MAX);
    }

    #[test]
    fn the_refusal_tells_its_true_length() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
    }
}
