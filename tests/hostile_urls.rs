//! URLs that point inwards. What is decided: only addresses that the operator allowed are called, compared as text before anything is
//! resolved; a redirect is not followed; and a URL that is only handed on to devices is never called.

use crate::common::fleet::issue_token;
use crate::common::http::path_of;
use crate::common::{Client, Fleet, TestServer, wait_until};
use crate::webhooks::Receiver;
use crate::xlink_support::{PRODUCT, firmware_body, task_body};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Somebody inside who should never be called. Counts who connects, one after the other, and closes.
struct Insider {
    port: u16,
    calls: Arc<AtomicUsize>,
}

impl Insider {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, calls) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&calls);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        Self { port, calls }
    }

    /// Nobody has connected before this call, which does so itself: that it is counted shows that anybody would have been.
    #[track_caller]
    fn expect_uncalled(&self) {
        let mut own = Client::new(format!("127.0.0.1:{}", self.port)).connect().unwrap();
        assert_eq!(own.read(&mut [0]).unwrap(), 0);
        assert_eq!(self.calls.load(Ordering::SeqCst), 1, "somebody else has connected");
    }
}

/// Ways to write an address of the inside, at this port.
fn inward(port: u16) -> Vec<String> {
    let hosts = [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "127.255.255.254",
        "0",
        "0.0.0.0",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "0x7f000001",
        "0x7f.0.0.1",
        "0x7f.1",
        "127.0.0.1.",
        "00127.0.0.1",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[fe80::1%25lo]",
        "[fd00::1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "localhost.localdomain",
        "ip6-localhost",
        "169.254.169.254",
        "2852039166",
        "0xA9FEA9FE",
        "0251.0376.0251.0376",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "metadata.google.internal",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "[fd00:ec2::254]",
        "127.0.0.1.nip.io",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "127.0.0.1%00.hooks.test",
        "127.0.0.1%2ehooks.test",
        "hooks.test@127.0.0.1",
        "hooks.test:pass@127.0.0.1",
        "hooks.test%40127.0.0.1",
    ];
    let mut urls: Vec<String> = hosts.iter().map(|host| format!("http://{host}:{port}/hooks")).collect();
    urls.extend(
        [
            "http://127.0.0.1:PORT#@hooks.test/hooks",
            "http://hooks.test#@127.0.0.1:PORT/hooks",
            "http://hooks.test\\@127.0.0.1:PORT/hooks",
            "http://hooks.test/hooks@127.0.0.1:PORT/",
            "http://127.0.0.1:PORT\\hooks.test/hooks",
            "http:127.0.0.1:PORT/hooks",
            "http:/127.0.0.1:PORT/hooks",
            "http:///127.0.0.1:PORT/hooks",
            "//127.0.0.1:PORT/hooks",
            "http:\\\\127.0.0.1:PORT\\hooks",
            "\thttp://127.0.0.1:PORT/hooks",
            " http://127.0.0.1:PORT/hooks",
            "http://127.0.0.1:PORT/hooks\r\nX: y",
            "ht\ntp://127.0.0.1:PORT/hooks",
            "file:///etc/passwd",
            "gopher://127.0.0.1:PORT/_GET",
            "ftp://127.0.0.1:PORT/",
            "unix:///var/run/docker.sock",
            "data:text/plain,x",
            "javascript:0",
            "http://127.0.0.1:PORT/../hooks",
            "http://127.0.0.1:PORT/hooks/..;/admin",
            "http://127.0.0.1:PORT:80/hooks",
            "http://127.0.0.1:99999/hooks",
            "http://:PORT/hooks",
            "http://",
            "",
        ]
        .map(|url| url.replace("PORT", &port.to_string())),
    );
    urls
}

/// Subscribes in every way there is; whether each was refused for its URL.
fn subscribe(server: &TestServer, operator: &Client, token: &str, url: &str) -> [(u16, String); 2] {
    let native = operator.post("/api/v1/subscriptions", &json!({ "url": url }));
    let body = json!({ "notifyType": "swUpgradeResultNotify", "callbackUrl": url });
    let client = server.anonymous().with_token(token);
    let huawei = client.request("POST", "/iodm/app/sub/v1.1.0/subscribe").header("app_key", "default").json(&body).send();
    [(native.status, native.text()), (huawei.status, huawei.text())]
}

#[test]
fn no_way_to_write_an_address_of_the_inside_is_taken() {
    let insider = Insider::start();
    let port = insider.port;
    // What is allowed looks like what is tried as nearly as can be: a name, and the same address at another port and path.
    let config = format!(
        "[huawei]\ncalls_per_minute = 0\n[webhooks]\nallowed = [\"https://hooks.test\", \"http://hooks.test/hooks\", \"http://127.0.0.1:{}/hooks\"]\n",
        port ^ 1
    );
    let mut server = TestServer::setup().config(&config).start();
    let token = issue_token(&server.admin(), json!({ "role": "operator" }));
    let operator = server.anonymous().with_token(&token);
    let urls = inward(port);
    let mut taken = Vec::new();
    for url in &urls {
        for (status, text) in subscribe(&server, &operator, &token, url) {
            if status != 400 {
                taken.push(format!("{url:?}: {status} {text}"));
            }
        }
    }
    // The same host that is allowed, written otherwise, isn't allowed either.
    for url in ["http://2130706433", "http://127.1", "http://[::ffff:127.0.0.1]", "http://localhost", "http://0x7f.1"] {
        for (status, text) in subscribe(&server, &operator, &token, &format!("{url}:{}/hooks", port ^ 1)) {
            if status != 400 {
                taken.push(format!("{url}: {status} {text}"));
            }
        }
    }
    assert!(taken.is_empty(), "{}", taken.join("\n"));
    let listed = operator.get("/api/v1/subscriptions").expect(200).json();
    assert_eq!(listed["items"], json!([]));
    // Something happens that would have been told.
    Fleet::new(&operator, "pump").start_task(&operator, json!({}));
    assert!(server.stop().success());
    insider.expect_uncalled();
    println!("{} URLs in two ways, none taken", urls.len() + 5);
}

/// Answers every call with a redirect.
fn redirecting(location: String, status: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, calls) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            let answer = format!("HTTP/1.1 {status} x\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (port, calls)
}

#[test]
fn a_redirect_to_the_inside_is_not_followed() {
    let insider = Insider::start();
    let inside = format!("http://127.0.0.1:{}/hooks", insider.port);
    let servers: Vec<(u16, Arc<AtomicUsize>)> = [301, 302, 303, 307, 308].map(|status| redirecting(inside.clone(), status)).into();
    let allowed: Vec<String> = servers.iter().map(|(port, _)| format!("\"http://127.0.0.1:{port}\"")).collect();
    let mut server = TestServer::setup().config(&format!("[webhooks]\nallowed = [{}]\n", allowed.join(", "))).start();
    let admin = server.admin();
    for (port, _) in &servers {
        admin.post("/api/v1/subscriptions", &json!({ "url": format!("http://127.0.0.1:{port}/hooks") })).expect(201);
    }
    Fleet::new(&admin, "pump").start_task(&admin, json!({}));
    wait_until("every receiver was called, and called again since it hadn't taken anything", || {
        servers.iter().all(|(_, calls)| calls.load(Ordering::SeqCst) >= 2).then_some(())
    });
    // Stopped, it has done with the last answer, too.
    assert!(server.stop().success());
    insider.expect_uncalled();
}

#[test]
fn an_address_that_is_no_longer_allowed_is_no_longer_called() {
    let receiver = Receiver::start();
    let allow = |path: &str| format!("[webhooks]\nallowed = [\"http://{}{path}\"]\n", receiver.address);
    let mut server = TestServer::setup().config(&allow("/hooks")).start();
    let admin = server.admin();
    admin.post("/api/v1/subscriptions", &json!({ "url": format!("http://{}/hooks", receiver.address) })).expect(201);
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    wait_until("it is told", || (!receiver.calls().is_empty()).then_some(()));
    assert!(server.stop().success());
    std::fs::write(server.folder().join("sluicegate.toml"), allow("/elsewhere")).unwrap();
    server.start_again();
    let before = receiver.calls().len();
    fleet.device(&server.admin(), "p-1").upgrade(&server);
    wait_until("it is told in the log", || server.log().contains("allowed").then_some(()));
    assert_eq!(receiver.calls().len(), before);
}

#[test]
fn a_url_that_is_handed_on_to_devices_is_never_called() {
    let insider = Insider::start();
    let mut server = TestServer::start();
    let operator = issue_token(&server.admin(), json!({ "role": "operator" }));
    let device = issue_token(&server.admin(), json!({ "role": "device", "product_id": PRODUCT, "device_id": "7" }));
    let post = |token: &str, path: &str, body: &Value| {
        server.anonymous().request("POST", path).header("Access-Token", token).json(body).send().expect(200)
    };
    let url = format!("http://127.0.0.1:{}/firmware.bin", insider.port);
    let task = task_body(json!({ "target_version_url": url, "from_version_url": url }));
    let task = post(&operator, "/v2/upgrade/firmware/task", &task).json();
    let start = json!({ "product_id": PRODUCT, "upgrade_task_id": task["id"], "status": 1 });
    post(&operator, "/v2/upgrade/firmware/task/status", &start);
    let check = json!({ "product_id": PRODUCT, "device_id": 7, "type": 1, "current_version": 1, "identify": 0 });
    let offer = post(&device, "/v2/upgrade/firmware/check/7", &check).text();
    assert!(offer.contains(path_of(&url)), "{offer}");
    post(&operator, &format!("/v2/product/{PRODUCT}/firmware"), &firmware_body(json!({ "file_url": url })));
    assert!(server.stop().success());
    insider.expect_uncalled();
}
