//! What the tests of hostile clients share: good clients that are served all the while, and every call that takes a body.

use crate::common::fleet::FleetDevice;
use crate::common::http::{Head, path_of};
use crate::common::{ADMIN_TOKEN, Fleet, TestServer, image_bytes, wait_until};
use serde_json::json;
use std::io::{self, BufReader, ErrorKind, Read, Write};
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

    /// One request; the status and the body. A connection that the server has closed meanwhile is opened anew, once.
    pub(crate) fn ask(&mut self, method: &str, path: &str, token: &str, headers: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: good\r\nAuthorization: Bearer {token}\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let request = [head.as_bytes(), body].concat();
        let was_open = self.stream.is_some();
        match self.exchange(&request, method) {
            Err(_) if was_open => {
                self.stream = None;
                self.exchange(&request, method)
            }
            answer => answer,
        }
    }

    fn exchange(&mut self, request: &[u8], method: &str) -> io::Result<(u16, Vec<u8>)> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(&self.address)?;
            stream.set_read_timeout(Some(crate::common::PATIENCE))?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        let Some(stream) = &self.stream else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut writer = stream;
        writer.write_all(request)?;
        let response = Head::read(BufReader::new(stream))?.into_response(method, method.to_owned())?;
        Ok((response.status, response.body))
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

    fn check(&self, kept: &mut Kept) -> Result<(), String> {
        let body = self.device.check_body("1.0").to_string();
        match kept.ask("POST", "/api/v1/check", &self.device.token, "", body.as_bytes()) {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => Err(format!("a check was answered {status} {}", String::from_utf8_lossy(&body))),
            Err(error) => Err(format!("a check: {error}")),
        }
    }

    fn fetch(&self, kept: &mut Kept, turn: usize) -> Result<(), String> {
        let start = turn * RANGE_BYTES % (self.image.len() - RANGE_BYTES);
        let range = format!("Range: bytes={start}-{}\r\n", start + RANGE_BYTES - 1);
        match kept.ask("GET", &self.path, "", &range, b"") {
            Ok((206, bytes)) if bytes == self.image[start..start + RANGE_BYTES] => Ok(()),
            Ok((status, bytes)) => Err(format!("a range was answered {status} with {} bytes", bytes.len())),
            Err(error) => Err(format!("a range: {error}")),
        }
    }
}

/// Lets somebody do his worst while good clients are served, sees to it that every one of their requests succeeded, and prints how long they
/// took.
#[track_caller]
pub(crate) fn beside_good_clients<T>(what: &str, server: &TestServer, hostile: impl FnOnce() -> T) -> T {
    let good = Good::new(server);
    let over = AtomicBool::new(false);
    let served: [AtomicUsize; 3] = Default::default();
    let took: [Mutex<Vec<Duration>>; 3] = Default::default();
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
                Ok(()) => took[kind].lock().unwrap().push(begun.elapsed()),
                Err(why) => failed.lock().unwrap().push(why),
            }
            served[kind].fetch_add(1, Ordering::Relaxed);
            // As often as a busy site asks, and so that the machine is left to whoever is tried.
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let counts = || served.each_ref().map(|served| served.load(Ordering::Relaxed));
    let result = std::thread::scope(|scope| {
        for kind in 0..served.len() {
            scope.spawn(move || work(kind));
        }
        let _ends = Ends(&over);
        wait_until("every good client is served", || counts().iter().all(|count| *count > 0).then_some(()));
        let result = hostile();
        let before = counts();
        wait_until("every good client is still served", || {
            counts().iter().zip(before).all(|(now, before)| *now > before + 3).then_some(())
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
    result
}

struct Ends<'a>(&'a AtomicBool);

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
            let who = match *dialect {
                "native" => format!("Authorization: Bearer {ADMIN_TOKEN}\r\n"),
                "xlink" => format!("Access-Token: {ADMIN_TOKEN}\r\n"),
                "enos" => format!("apim-accesstoken: {ADMIN_TOKEN}\r\n"),
                "huawei" => format!("Authorization: Bearer {ADMIN_TOKEN}\r\napp_key: default\r\n"),
                "autel" => format!("x-auth-token: {ADMIN_TOKEN}\r\n"),
                other => panic!("how does one log in with {other}?"),
            };
            let offset = if *method == "PATCH" { "Upload-Offset: 0\r\n" } else { "" };
            let head = format!("{method} {target} HTTP/1.1\r\nHost: hostile\r\nContent-Type: application/json\r\n{who}{offset}");
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
