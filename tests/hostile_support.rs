//! What the tests of hostile clients share: good clients that are served all the while, crowds of connections, and every call that takes a
//! body.

use crate::common::fleet::{FleetDevice, token_header};
use crate::common::http::{Head, path_of};
use crate::common::{ADMIN_TOKEN, Client, Fleet, Response, TestServer, image_bytes, raise_open_files, wait_until};
use serde_json::json;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A connection that is kept from one request to the next.
pub(crate) struct Kept {
    address: String,
    stream: Option<TcpStream>,
}

impl Kept {
    pub(crate) fn new(server: &TestServer) -> Self {
        Self { address: server.address("http"), stream: None }
    }

    /// One request. Where the server has closed the connection since the request before, it is made again over a new one.
    pub(crate) fn ask(&mut self, method: &str, path: &str, token: &str, headers: &str, body: &[u8]) -> io::Result<Response> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: good\r\nAuthorization: Bearer {token}\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let request = [head.as_bytes(), body].concat();
        if let Some(stream) = self.stream.take()
            && let Some(response) = self.exchange(stream, &request, method)?
        {
            return Ok(response);
        }
        let new = Client::new(self.address.clone()).connect()?;
        self.exchange(new, &request, method)?.ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    /// `None` where the connection was closed before a byte of an answer came; whatever else goes wrong is an error.
    fn exchange(&mut self, stream: TcpStream, request: &[u8], method: &str) -> io::Result<Option<Response>> {
        let is_gone = |error: &io::Error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        // Whoever is gone may have answered before.
        if let Err(error) = (&stream).write_all(request)
            && !is_gone(&error)
        {
            return Err(error);
        }
        let mut reader = BufReader::new(&stream);
        match reader.fill_buf() {
            Ok([]) => return Ok(None),
            Ok(_) => {}
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let response = Head::read(reader)?.into_response(method, method.to_owned())?;
        if response.header("connection").is_none_or(|wish| !wish.eq_ignore_ascii_case("close")) {
            self.stream = Some(stream);
        }
        Ok(Some(response))
    }
}

/// Devices that do what devices do: one checks, one fetches an image in ranges over its link, one opens a connection for each check.
pub(crate) struct Good {
    device: FleetDevice,
    path: String,
    image: Vec<u8>,
}

const RANGE_BYTES: usize = 4_096;

impl Good {
    #[track_caller]
    pub(crate) fn new(server: &TestServer) -> Self {
        let admin = server.admin();
        let fleet = Fleet::with_image(&admin, "good", image_bytes(1_000_000));
        fleet.start_task(&admin, json!({}));
        let device = fleet.device(&admin, "g-1");
        let path = path_of(device.offered(server)["url"].as_str().unwrap()).to_owned();
        Self { device, path, image: fleet.image }
    }

    fn check(&self, kept: &mut Kept) -> Result<Outcome, String> {
        let body = self.device.check_body("1.0").to_string();
        match kept.ask("POST", "/api/v1/check", &self.device.token, "", body.as_bytes()) {
            Ok(response) if response.status == 200 => Ok(Outcome::Served),
            Ok(response) if is_shed(&response) => Ok(Outcome::Shed),
            Ok(response) => Err(format!("a check was answered {} {}", response.status, response.text())),
            Err(error) => Err(format!("a check: {error}")),
        }
    }

    fn fetch(&self, kept: &mut Kept, turn: usize) -> Result<Outcome, String> {
        let start = turn * RANGE_BYTES % (self.image.len() - RANGE_BYTES);
        let range = format!("Range: bytes={start}-{}\r\n", start + RANGE_BYTES - 1);
        match kept.ask("GET", &self.path, "", &range, b"") {
            Ok(response) if response.status == 206 && response.body == self.image[start..start + RANGE_BYTES] => {
                Ok(Outcome::Served)
            }
            Ok(response) if is_shed(&response) => Ok(Outcome::Shed),
            Ok(response) => Err(format!("a range was answered {} with {} bytes", response.status, response.body.len())),
            Err(error) => Err(format!("a range: {error}")),
        }
    }
}

/// What came of a good client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Served,
    /// The machine had more to do than it could, and the client was told when to come back.
    Shed,
}

fn is_shed(response: &Response) -> bool {
    response.status == 503 && response.header("retry-after").is_some()
}

/// Lets somebody do his worst while good clients are served, sees to it that none of their requests failed, and prints how long those took
/// that were served. A loaded machine may put some off; those count as neither.
#[track_caller]
pub(crate) fn beside_good_clients<T>(what: &str, server: &TestServer, hostile: impl FnOnce() -> T) -> T {
    let good = Good::new(server);
    let over = AtomicBool::new(false);
    let took: [Mutex<Vec<Duration>>; 3] = Default::default();
    let shed = AtomicUsize::new(0);
    let failed: Mutex<Vec<String>> = Mutex::default();
    let work = |kind: usize| {
        let mut kept = Kept::new(server);
        for turn in 0.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let begun = Instant::now();
            let done = match kind {
                0 => good.check(&mut kept),
                1 => good.fetch(&mut kept, turn),
                _ => good.check(&mut Kept::new(server)),
            };
            match done {
                Ok(Outcome::Served) => took[kind].lock().unwrap().push(begun.elapsed()),
                Ok(Outcome::Shed) => {
                    shed.fetch_add(1, Ordering::Relaxed);
                }
                Err(why) => failed.lock().unwrap().push(why),
            }
            // As often as a busy site asks, and so that the machine is left to whoever is tried.
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let counts = || took.each_ref().map(|took| took.lock().unwrap().len());
    // Where a request has failed there is nothing more to wait for.
    let has_failed = || !failed.lock().unwrap().is_empty();
    let result = std::thread::scope(|scope| {
        for kind in 0..took.len() {
            scope.spawn(move || work(kind));
        }
        let _ends = Ends(&over);
        wait_until("every good client is served", || (has_failed() || counts().iter().all(|count| *count > 0)).then_some(()));
        let result = hostile();
        let before = counts();
        wait_until("every good client is still served", || {
            (has_failed() || counts().iter().zip(before).all(|(now, before)| *now > before + 3)).then_some(())
        });
        result
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{what}: {} of the good clients' requests failed, the first: {}", failed.len(), failed[0]);
    for (kind, took) in ["checks", "ranges", "connections with a check"].iter().zip(took) {
        let mut took = took.into_inner().unwrap();
        took.sort_unstable();
        let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)].as_secs_f64() * 1_000.0;
        println!("{what}: {} {kind} beside it, p50 {:.2} ms, p99 {:.2} ms", took.len(), at(50), at(99));
    }
    println!("{what}: {} requests beside it were told to come back later", shed.into_inner());
    result
}

/// Tells others that it is over, also where the test fails.
pub(crate) struct Ends<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A call that takes a body, with a head that lets it in: everything up to `Content-Length`.
#[derive(Debug)]
pub(crate) struct TakesBody {
    pub(crate) name: String,
    pub(crate) head: String,
    /// What comes is kept as it is, rather than read.
    pub(crate) is_raw: bool,
}

/// Every call of every platform that takes a body, as the administrator makes it: made from the server's own tables.
#[track_caller]
pub(crate) fn calls_with_bodies() -> Vec<TakesBody> {
    let routes = sluicegate_server::testing::routes();
    let calls = routes.iter().filter(|(_, method, _)| matches!(*method, "POST" | "PUT" | "PATCH"));
    calls
        .map(|(dialect, method, path)| {
            let is_raw = ["/api/v1/images", "/v2/upload/product/{product_id}/firmware", "/iodm/northbound/v1.5.0/category"]
                .contains(&path.as_str())
                || path.starts_with("/api/v1/uploads/{");
            let mut target = path.clone();
            for (name, text) in
                [("{product_id}", "good"), ("{device_id}", "7"), ("{id}", "65a000000000000000000001"), ("{workspace}", "default")]
            {
                target = target.replace(name, text);
            }
            target = target.replace("{upload}", "nothing");
            match *dialect {
                "enos" if target.contains('?') => target.push_str("&orgId=default&productKey=good&jobId=1&firmwareId=1"),
                "huawei" if is_raw => target.push_str("?productId=good&version=9&deviceType=a&model=b&manufacturerName=c"),
                _ => {}
            }
            assert!(!target.contains('{'), "{target} names something that the test knows nothing of");
            let (name, token) = token_header(dialect, ADMIN_TOKEN);
            let app_key = if *dialect == "huawei" { "app_key: default\r\n" } else { "" };
            let offset = if *method == "PATCH" { "Upload-Offset: 0\r\n" } else { "" };
            let own = format!("{name}: {token}\r\n{app_key}{offset}");
            let head = format!("{method} {target} HTTP/1.1\r\nHost: hostile\r\nContent-Type: application/json\r\n{own}");
            TakesBody { name: format!("{dialect} {method} {path}"), head, is_raw }
        })
        .collect()
}

/// The status of an answer as it came; `None` where there was none.
pub(crate) fn status_of(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

/// Bytes of memory that the process holds.
pub(crate) fn memory_bytes(server: &TestServer) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1_024
}

/// Bytes of memory that the process holds once it takes no more.
#[track_caller]
pub(crate) fn settled_memory_bytes(server: &TestServer) -> u64 {
    // Good clients take and give back a little all the while; half a second without more than that is rest.
    const LITTLE_BYTES: u64 = 256 << 10;
    let (mut most, mut looks) = (0, 0);
    wait_until("the server's memory stands still", || {
        let now = memory_bytes(server);
        if now > most + LITTLE_BYTES {
            (most, looks) = (now, 0);
        }
        looks += 1;
        (looks > 50).then_some(now)
    })
}

/// So many connections to what listens for `protocol`, with these first words of each said. None of them waits for anything from then on.
#[track_caller]
pub(crate) fn open_many(server: &TestServer, protocol: &str, count: usize, first: &[u8]) -> Vec<TcpStream> {
    raise_open_files();
    let client = Client::new(server.address(protocol));
    let open = |_| {
        let mut stream = client.connect().unwrap();
        stream.write_all(first).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    (0..count).map(open).collect()
}

/// Whether the other side has closed; what it still says is read away.
pub(crate) fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4_096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}
