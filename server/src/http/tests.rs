//! The front end over real sockets, with an engine that forgets.

use super::listener::{Front, Port, Ports, Workers};
use crate::app::App;
use crate::auth::{AdminToken, Auth};
use crate::config::{Config, ServeArguments};
use crate::downloads::Downloads;
use crate::image::LinkSigner;
use crate::metrics::Metrics;
use crate::secrets::Secrets;
use sluicegate::model::{Event, Upgrade};
use sluicegate::store::{Archive, Group, Opened, Store, StoreError, UpgradeQuery};
use sluicegate::{Engine, Options};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

struct Forgetful;

impl Store for Forgetful {
    fn commit(&mut self, _: &Group) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Archive for Forgetful {
    fn upgrades(&self, _: &UpgradeQuery, _: u64) -> Result<Vec<Upgrade>, StoreError> {
        Ok(Vec::new())
    }

    fn events(&self, _: u64, _: usize, _: u64) -> Result<Vec<Event>, StoreError> {
        Ok(Vec::new())
    }
}

/// A process has one recorder.
fn metrics() -> Arc<Metrics> {
    static METRICS: OnceLock<Arc<Metrics>> = OnceLock::new();
    Arc::clone(METRICS.get_or_init(|| Arc::new(Metrics::install().unwrap())))
}

struct Server {
    front: Arc<Front>,
    workers: Workers,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ServeArguments {
            data: Some(folder.path().to_owned()),
            listen: Some("127.0.0.1:0".to_owned()),
            workers: Some(2),
            ..ServeArguments::default()
        };
        let mut config = Config::load(&arguments).unwrap();
        change(&mut config);
        let options = Options { folder: config.data.clone(), limits: config.limits.engine.clone() };
        let engine = Engine::with_store(options, |_| Ok((Forgetful, Arc::new(Forgetful), Opened::default()))).unwrap();
        let secrets = Arc::new(Secrets::open(&config.data).unwrap());
        let admin = AdminToken::open(&config.data, Some("admin".to_owned())).unwrap();
        let port = Port::open(config.listen, config.workers).unwrap();
        let address = port.address;
        let app = App {
            auth: Auth::new(engine.clone(), Arc::clone(&secrets), &admin, &[]),
            links: LinkSigner::new(secrets.link_key()),
            downloads: Arc::new(Downloads::new(engine.clone(), metrics())),
            uploads: Arc::default(),
            enos: Default::default(),
            huawei: crate::dialect::huawei::Memory::new(&config.huawei),
            webhooks: Default::default(),
            mqtt: Default::default(),
            fair_use: crate::dialect::common::fair_use::FairUse::new(&config.limits),
            guesses: crate::guesses::Guesses::new(config.limits.wrong_credentials_per_minute, metrics()),
            public_url: format!("http://{address}"),
            engine,
            config,
            secrets,
            metrics: metrics(),
        };
        let front = Arc::new(Front::new(Arc::new(app), None));
        let workers = Workers::start(&front, Ports { plain: port, tls: None, mqtt: None }).unwrap();
        Self { front, workers, address, _folder: folder }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        // Not awaited: it only turns a hang into a failure.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn stop(self) {
        self.front.stop.stop();
        self.workers.join();
    }
}

/// Everything until the server closes; a reset counts as closed.
fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
    String::from_utf8(bytes).unwrap()
}

/// One reply whose body ends as its `Content-Length` says.
fn read_reply(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {text:?}");
        text.push(byte[0] as char);
        if text.ends_with("\r\n\r\n") {
            break;
        }
    }
    let length = text.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned));
    let mut body = vec![0; length.expect("every reply tells its length").parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    text + &String::from_utf8(body).unwrap()
}

const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn a_connection_is_kept_and_closed_by_a_stop_when_idle() {
    let server = Server::start(|_| {});
    let mut stream = server.connect();
    for _ in 0..3 {
        stream.write_all(REQUEST).unwrap();
        assert!(read_reply(&mut stream).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    server.stop();
    assert_eq!(read_to_end(&mut stream), "");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(|_| {});
    let mut stream = server.connect();
    stream.write_all(&REQUEST.repeat(20)).unwrap();
    for _ in 0..20 {
        assert!(read_reply(&mut stream).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    server.stop();
}

#[test]
fn a_head_that_does_not_end_is_given_up() {
    let server = Server::start(|config| config.limits.header_timeout = Duration::from_secs(1));
    let mut fresh = server.connect();
    fresh.write_all(b"GET /healthz HTTP/1.1\r\nHost:").unwrap();
    let mut used = server.connect();
    used.write_all(REQUEST).unwrap();
    read_reply(&mut used);
    used.write_all(b"GET /hea").unwrap();
    assert_eq!(read_to_end(&mut fresh), "");
    assert_eq!(read_to_end(&mut used), "");
    server.stop();
}

#[test]
fn a_silent_connection_is_closed() {
    let server = Server::start(|config| config.limits.idle_timeout = Duration::from_secs(1));
    let mut silent = server.connect();
    let mut used = server.connect();
    used.write_all(REQUEST).unwrap();
    read_reply(&mut used);
    assert_eq!(read_to_end(&mut silent), "");
    assert_eq!(read_to_end(&mut used), "");
    server.stop();
}

#[test]
fn a_head_beyond_the_bound_is_refused() {
    let server = Server::start(|_| {});
    let mut stream = server.connect();
    let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(70 << 10));
    // The server may close before it has read all.
    let _ = stream.write_all(head.as_bytes());
    let reply = read_to_end(&mut stream);
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 431"), "{reply}");
    let mut stream = server.connect();
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(101));
    stream.write_all(many.as_bytes()).unwrap();
    assert!(read_to_end(&mut stream).starts_with("HTTP/1.1 431"));
    server.stop();
}

#[test]
fn one_connection_too_many_is_told_to_come_back_and_the_others_stay() {
    let server = Server::start(|config| config.limits.connections_max = 2);
    let mut kept: Vec<TcpStream> = (0..2).map(|_| server.connect()).collect();
    for stream in &mut kept {
        stream.write_all(REQUEST).unwrap();
        read_reply(stream);
    }
    let mut refused = server.connect();
    refused.write_all(REQUEST).unwrap();
    let reply = read_to_end(&mut refused);
    assert!(reply.starts_with("HTTP/1.1 503 ") && reply.contains("Retry-After: "), "{reply}");
    for stream in &mut kept {
        stream.write_all(REQUEST).unwrap();
        assert!(read_reply(stream).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    server.stop();
}

#[test]
fn where_things_wait_too_long_whoever_shows_no_token_of_a_person_is_told_to_come_back() {
    // No timer is this punctual.
    let server = Server::start(|config| config.limits.wait_max = Duration::from_nanos(1));
    let mut streams = Vec::new();
    let mut ask = |method: &str, path: &str, header: &str| {
        // Whoever was put off on a connection is kept waiting there.
        let mut stream = server.connect();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\n{header}Content-Length: 2\r\n\r\n").unwrap();
        // Not in one piece with its head, and read away all the same: the connection goes on.
        stream.write_all(b"{}").unwrap();
        let reply = read_reply(&mut stream);
        streams.push(stream);
        reply
    };
    for (method, path, code) in [
        ("POST", "/api/v1/check", r#""overloaded""#),
        ("POST", "/api/v1/%63heck/", r#""overloaded""#),
        ("POST", "/api/v1/report", r#""overloaded""#),
        ("GET", "/images/00", r#""overloaded""#),
        ("GET", "/metrics", r#""overloaded""#),
        ("GET", "/nothing", r#""overloaded""#),
        ("POST", "/v2/upgrade/firmware/check/1", "5031001"),
        ("POST", "/v2/device_login", "5031001"),
        ("POST", "/apim-token-service/v2.0/token/get", r#""business":"apim-token-service""#),
        ("POST", "/connect-service/v2.1/ota-jobs?action=search", r#""requestId""#),
        ("GET", "/iodm/northbound/v1.5.0/operations", r#""error_detail""#),
        ("POST", "/manage/api/v1/devices/default/devices/ota", r#""code":-1"#),
    ] {
        let mut refusal = ask(method, path, "");
        // Ends, since the share of those refused grows. A few others are answered so by their calls themselves; this one says when.
        while !refusal.starts_with("HTTP/1.1 503 ") {
            refusal = ask(method, path, "");
        }
        let head = refusal.to_ascii_lowercase();
        let retry_after_s: u32 =
            head.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("it says when to come back").parse().unwrap();
        assert!((5..16).contains(&retry_after_s) && refusal.contains(code), "{refusal}");
        assert!(refusal.contains(&format!("come back in {retry_after_s} s")), "{refusal}");
    }
    for (path, header) in [
        ("/healthz", ""),
        ("/readyz", ""),
        ("/api/v1/tasks", "Authorization: Bearer admin\r\n"),
        ("/metrics", "Authorization: Bearer admin\r\n"),
        ("/v2/upgrade/firmware/tasks", "Access-Token: admin\r\n"),
        ("/connect-service/v2.1/ota-jobs?action=search", "apim-accesstoken: admin\r\n"),
    ]
    .repeat(20)
    {
        let reply = ask("GET", path, header);
        assert!(!reply.starts_with("HTTP/1.1 503 "), "{path}: {reply}");
    }
    server.stop();
}

#[test]
fn whoever_asks_on_though_told_to_come_back_later_is_served_late() {
    let server = Server::start(|config| config.limits.wait_max = Duration::from_nanos(1));
    let check = b"POST /api/v1/check HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    let mut stream = server.connect();
    loop {
        stream.write_all(check).unwrap();
        if read_reply(&mut stream).starts_with("HTTP/1.1 503 ") {
            break;
        }
    }
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        stream.write_all(check).unwrap();
        assert!(read_reply(&mut stream).starts_with("HTTP/1.1 401 "));
        assert!(begun.elapsed() >= Duration::from_secs(1), "it was served at once");
    }
    server.stop();
}

/// A stream of events whose beginning was read, where there is a place for it.
fn follow(server: &Server) -> Option<TcpStream> {
    let mut stream = server.connect();
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\n\r\n").unwrap();
    let mut begin = String::new();
    while !begin.contains(": connected\n\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {begin:?}");
        begin.push(byte[0] as char);
        if begin.starts_with("HTTP/1.1 503") {
            return None;
        }
    }
    assert!(begin.starts_with("HTTP/1.1 200 "), "{begin}");
    Some(stream)
}

/// There is one place, and a heartbeat, the first thing that would be written to a client that has gone, is fifteen seconds away: far more
/// tries than this.
fn follow_once_there_is_room(server: &Server) -> TcpStream {
    for _ in 0..500 {
        if let Some(stream) = follow(server) {
            return stream;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the place of a client that has gone is not given back");
}

#[test]
fn an_event_stream_ends_with_its_client_though_nothing_is_written_to_it() {
    let server = Server::start(|config| config.limits.event_streams_max = 1);
    // One that only closes its sending side, and one that is gone altogether.
    let mut closing = follow(&server).unwrap();
    closing.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut closing), "");
    drop(follow_once_there_is_room(&server));
    // One that says something more is still there: its place isn't given back.
    let mut stream = follow_once_there_is_room(&server);
    stream.write_all(REQUEST).unwrap();
    for _ in 0..30 {
        assert!(follow(&server).is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(stream);
    server.stop();
}

#[test]
fn a_guess_that_finds_no_place_to_be_held_back_ends_its_connection() {
    let server = Server::start(|config| config.limits.wrong_credentials_per_minute = 1);
    let guess = b"GET /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer guess\r\n\r\n";
    let mut streams: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    for stream in &mut streams {
        stream.write_all(guess).unwrap();
        stream.write_all(REQUEST).unwrap();
    }
    let (mut ended, mut went_on) = (0, 0);
    for stream in &mut streams {
        assert!(read_reply(stream).starts_with("HTTP/1.1 401 "));
        let mut next = [0; 12];
        match stream.read(&mut next) {
            Ok(0) | Err(_) => ended += 1,
            Ok(_) => went_on += 1,
        }
    }
    // One at once, a hundred late; whoever came while they waited was the last on its connection.
    assert!(ended > 0 && went_on >= 100, "{ended} ended, {went_on} went on");
    server.stop();
}

#[test]
fn what_is_no_http_is_refused_and_the_server_goes_on() {
    let server = Server::start(|_| {});
    for nonsense in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        let mut stream = server.connect();
        stream.write_all(nonsense).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let reply = read_to_end(&mut stream);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400"), "{reply}");
    }
    let mut stream = server.connect();
    stream.write_all(REQUEST).unwrap();
    assert!(read_reply(&mut stream).starts_with("HTTP/1.1 200 OK\r\n"));
    server.stop();
}
