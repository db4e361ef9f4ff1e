//! Events POSTed to a receiver: signed, in order, and missing nothing when receiver or server go away for a while.

use crate::common::{Fleet, TestServer, wait_until};
use crate::xlink_support::{PRODUCT, Platform};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

/// An HTTP server of a few lines that remembers what it was sent.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) address: String,
    taken: Arc<Mutex<Vec<Call>>>,
    /// What it answers from now on; what it refuses it doesn't remember.
    answer: Arc<AtomicU16>,
    refused: Arc<Mutex<usize>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) signature: String,
    pub(crate) body: Vec<u8>,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap().to_string(),
            taken: Arc::default(),
            answer: Arc::new(AtomicU16::new(200)),
            refused: Arc::default(),
        };
        let own = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                std::thread::spawn(move || own.serve(stream));
            }
        });
        receiver
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while let Some(call) = read_call(&mut reader) {
            let status = self.answer.load(Ordering::SeqCst);
            if status == 200 {
                self.taken.lock().unwrap().push(call);
            } else {
                *self.refused.lock().unwrap() += 1;
            }
            if write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    }

    pub(crate) fn answer(&self, status: u16) {
        self.answer.store(status, Ordering::SeqCst);
    }

    pub(crate) fn refused(&self) -> usize {
        *self.refused.lock().unwrap()
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.taken.lock().unwrap().clone()
    }

    /// The events of all messages so far.
    fn events(&self) -> Vec<Value> {
        let bodies = self.calls().into_iter().map(|call| serde_json::from_slice::<Value>(&call.body).unwrap());
        bodies.flat_map(|body| body["events"].as_array().unwrap().clone()).collect()
    }
}

fn read_call(reader: &mut impl BufRead) -> Option<Call> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut length, mut signature) = (0, String::new());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "sluicegate-signature" => value.trim().clone_into(&mut signature),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Call { path, signature, body })
}

fn start(receiver: &Receiver) -> TestServer {
    TestServer::setup().config(&format!("[webhooks]\nallowed = [\"http://{}/hooks\"]\n", receiver.address)).start()
}

#[test]
fn a_rollout_is_told_to_a_subscriber_in_order_and_signed() {
    let receiver = Receiver::start();
    let server = start(&receiver);
    let admin = server.admin();
    let url = format!("http://{}/hooks/a?b=c", receiver.address);
    let subscription = admin.post("/api/v1/subscriptions", &json!({ "url": url })).expect(201).json();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    fleet.device(&admin, "p-1").upgrade(&server);
    let events = wait_until("the result is told", || {
        let events = receiver.events();
        events.iter().any(|event| event["kind"] == "result").then_some(events)
    });
    let kinds: Vec<&str> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["task_created", "task_started", "offered", "result"]);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, subscription["secret"].as_str().unwrap().as_bytes());
    for call in receiver.calls() {
        assert_eq!(call.path, "/hooks/a?b=c");
        let tag = aws_lc_rs::hmac::sign(&key, &call.body);
        let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(call.signature, format!("sha256={digits}"));
    }
    let listed = admin.get("/api/v1/subscriptions").expect(200).json();
    assert_eq!(listed["items"][0]["id"], subscription["id"]);
    assert!(listed["items"][0]["secret"].is_null(), "a secret is shown once");
    let path = format!("/api/v1/subscriptions/{}", subscription["id"].as_str().unwrap());
    admin.delete(&path).expect(204);
    admin.delete(&path).expect(404);
}

#[test]
fn a_receiver_that_was_away_and_a_server_that_was_killed_miss_nothing() {
    let receiver = Receiver::start();
    let mut server = start(&receiver);
    let admin = server.admin();
    let url = format!("http://{}/hooks", receiver.address);
    admin.post("/api/v1/subscriptions", &json!({ "url": url, "from": 1 })).expect(201);
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    wait_until("the first events are told", || (receiver.events().len() >= 2).then_some(()));
    receiver.answer(503);
    fleet.device(&admin, "p-1").upgrade(&server);
    wait_until("it was tried in vain", || (receiver.refused() > 0).then_some(()));
    server.kill_and_start_again();
    let admin = server.admin();
    fleet.device(&admin, "p-2").upgrade(&server);
    receiver.answer(200);
    let events = wait_until("both results are told", || {
        let events = receiver.events();
        (events.iter().filter(|event| event["kind"] == "result").count() >= 2).then_some(events)
    });
    let mut sequences: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    // What was told before the kill may be told again; nothing is left out.
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences, (1..=6).collect::<Vec<u64>>());
}

#[test]
fn a_report_of_an_xlink_device_is_told_in_that_platform_s_words_with_its_task() {
    let receiver = Receiver::start();
    let platform = Platform::on(start(&receiver));
    let admin = platform.server.admin();
    let url = format!("http://{}/hooks", receiver.address);
    let subscription = admin.post("/api/v1/subscriptions", &json!({ "url": url, "format": "xlink" })).expect(201).json();
    assert_eq!(subscription["format"], "xlink");
    assert_eq!(admin.get("/api/v1/subscriptions").expect(200).json()["items"][0]["format"], "xlink");
    let task = platform.start_task(json!({}));
    let device = platform.device_token(7);
    let _ = platform.check(7, &device, 1).expect(200);
    platform.report(7, &device, 1, 2, 1).expect(200);
    let body = json!({
        "type": "1", "mod": "M1", "identify": "0", "last_version": "1", "current_version": "2", "result": "0",
        "desc": "升级状况描述", "start_date": "2015-10-09T08:15:40.843Z", "end_date": "2015-10-09T08:16:40.843Z",
    });
    platform.post(&device, "/v2/upgrade/firmware/report/7", &body).expect(200);
    platform.report(7, &device, 5, 6, 0).expect(200);
    // A device that speaks the native dialect is told of alike.
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    fleet.device(&admin, "p-1").upgrade(&platform.server);
    let messages = wait_until("all four results are told", || {
        let messages: Vec<Value> = receiver.calls().iter().map(|call| serde_json::from_slice(&call.body).unwrap()).collect();
        (messages.len() >= 4).then_some(messages)
    });
    for message in &messages {
        assert_eq!(message["type"], "UPGRADE", "{message}");
        assert_eq!(message["time"].as_str().unwrap().len(), "2015-10-09 08:16:40.84".len(), "{message}");
        assert!(message["msg_id"].is_string() && message.get("ip").is_none(), "{message}");
    }
    let told = |index: usize| {
        let message = &messages[index];
        [&message["product_id"], &message["id"], &message["upgrade_task_id"], &message["report"]].map(Value::clone)
    };
    let failed = json!({ "type": 1, "mod": "M1", "identify": 0, "last_version": 1, "current_version": 2, "result": 1 });
    assert_eq!(told(0), [json!(PRODUCT), json!(7), task["id"].clone(), failed]);
    let succeeded = json!({
        "type": 1, "mod": "M1", "identify": 0, "last_version": 1, "current_version": 2, "result": 0,
        "desc": "升级状况描述", "start_date": "2015-10-09T08:15:40.843Z", "end_date": "2015-10-09T08:16:40.843Z",
    });
    assert_eq!(told(1), [json!(PRODUCT), json!(7), task["id"].clone(), succeeded]);
    let untasked = json!({ "type": 1, "mod": "M1", "identify": 0, "last_version": 5, "current_version": 6, "result": 0 });
    assert_eq!(told(2), [json!(PRODUCT), json!(7), Value::Null, untasked]);
    let native = json!({ "type": 1, "identify": 0, "last_version": "1.0", "current_version": "2.0", "result": 0 });
    assert_eq!((&told(3)[0], &told(3)[1], &told(3)[3]), (&json!("pump"), &json!("p-1"), &native));
    assert!(told(3)[2].is_string(), "{}", messages[3]);
}

#[test]
fn a_format_that_nobody_writes_is_refused_with_those_that_are() {
    let receiver = Receiver::start();
    let server = start(&receiver);
    let url = format!("http://{}/hooks", receiver.address);
    let subscribe = |format: Value| server.admin().post("/api/v1/subscriptions", &json!({ "url": url, "format": format }));
    for format in [json!("enos"), json!("Native"), json!(""), json!("huawei.swUpgradeResultNotify"), json!(7)] {
        let refused = subscribe(format).expect(400).json();
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("format: "), "{message}");
        assert!(refused["error"]["code"] == "invalid_argument", "{refused}");
    }
    let message = subscribe(json!("enos")).json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("native") && message.contains("xlink"), "{message}");
    for format in [Value::Null, json!("native")] {
        assert_eq!(subscribe(format).expect(201).json()["format"], "native");
    }
}

#[test]
fn only_what_the_operator_allowed_is_called() {
    let receiver = Receiver::start();
    let server = start(&receiver);
    let admin = server.admin();
    for url in [
        format!("http://{}/other", receiver.address),
        format!("http://{}/hooks/../other", receiver.address),
        format!("https://{}/hooks", receiver.address),
        "http://169.254.169.254/hooks".to_owned(),
        "not a url".to_owned(),
    ] {
        let refused = admin.post("/api/v1/subscriptions", &json!({ "url": url })).expect(400).json();
        assert!(refused["error"]["message"].as_str().unwrap().starts_with("url can't be called"), "{refused}");
    }
    let strangers = TestServer::start();
    let url = format!("http://{}/hooks", receiver.address);
    strangers.admin().post("/api/v1/subscriptions", &json!({ "url": url })).expect(400);
}

#[test]
fn a_machine_without_certificates_of_authorities_serves_all_the_same() {
    let folder = tempfile::TempDir::new().unwrap();
    let nowhere = folder.path().join("none");
    let mut command = crate::common::server::sluicegate();
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path().join("data"));
    command.env("SSL_CERT_FILE", &nowhere).env("SSL_CERT_DIR", &nowhere);
    let mut server = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(line.starts_with("ready http="), "{line:?}");
}
