//! Images that come in pieces: a connection breaks, and the upload goes on where it was.

use crate::common::fleet::issue_token;
use crate::common::server::{run, sluicegate};
use crate::common::{ADMIN_TOKEN, Client, PATIENCE, Response, TestServer, image_bytes, wait_until};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Beyond what is only held in memory.
const SIZE: usize = 3 << 20;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
fn begin(client: &Client, image: &[u8], status: u16) -> Value {
    let wanted = json!({ "size": image.len(), "sha256": sha256(image), "name": "pump.bin" });
    client.post("/api/v1/uploads", &wanted).expect(status).json()
}

fn path(upload: &Value) -> String {
    format!("/api/v1/uploads/{}", upload["upload"].as_str().unwrap())
}

#[track_caller]
fn send(client: &Client, path: &str, offset: usize, bytes: &[u8]) -> Response {
    client.request("PATCH", path).header("Upload-Offset", &offset.to_string()).body(bytes).send()
}

#[track_caller]
fn offset(client: &Client, path: &str) -> usize {
    client.get(path).expect(200).json()["offset"].as_u64().unwrap() as usize
}

/// Sends the head of a whole body and the first `sent` bytes of it, and hangs up once the server has some of them.
#[track_caller]
fn break_in_the_middle(server: &TestServer, path: &str, image: &[u8], sent: usize) {
    let admin = server.admin();
    let from = offset(&admin, path);
    let mut stream = admin.connect().unwrap();
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nUpload-Offset: {from}\r\nContent-Length: {}\r\n\r\n",
        image.len() - from
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&image[from..from + sent]).unwrap();
    wait_until("some bytes were taken", || (offset(&admin, path) > from).then_some(()));
}

#[test]
fn an_upload_that_broke_goes_on_where_it_was_and_gives_the_image_byte_for_byte() {
    let server = TestServer::start();
    let admin = server.admin();
    let image = image_bytes(SIZE);
    let upload = begin(&admin, &image, 201);
    assert_eq!((upload["offset"].as_u64(), upload["size"].as_u64()), (Some(0), Some(SIZE as u64)));
    let path = path(&upload);
    break_in_the_middle(&server, &path, &image, 2 << 20);

    // Until the server has seen that the connection is gone, another call is busy with the upload, or still moves it.
    let done = wait_until("the server has seen the broken connection", || {
        let found = begin(&admin, &image, 200);
        assert_eq!(found["upload"], upload["upload"], "the same bytes are the same upload");
        let from = found["offset"].as_u64().unwrap() as usize;
        assert!(from > 0 && from < SIZE);
        // Refused early, the rest of the body may find the connection closed.
        let rest = admin.request("PATCH", &path).header("Upload-Offset", &from.to_string()).body(&image[from..]);
        let answer = rest.try_send().ok()?;
        (answer.status != 409).then_some(answer)
    });
    let made = done.expect(201).json();
    assert_eq!(made["image"], sha256(&image));
    assert_eq!(admin.get(made["url"].as_str().unwrap()).expect(200).body, image);
    assert_eq!(admin.get(&path).refused(404), "upload_not_found");
    let names = admin.get(&format!("/api/v1/images/{}", sha256(&image))).expect(200);
    assert!(names.header("Content-Disposition").unwrap().contains("pump.bin"));
}

#[test]
fn pieces_make_the_image_with_the_last_of_them_and_an_image_that_was_held_is_200() {
    let server = TestServer::start();
    let admin = server.admin();
    let image = image_bytes(100_000);
    for status in [201, 200] {
        let path = path(&begin(&admin, &image, 201));
        for from in [0, 40_000, 80_000] {
            let piece = &image[from..(from + 40_000).min(image.len())];
            let answer = send(&admin, &path, from, piece);
            if from + piece.len() < image.len() {
                let next = (from + piece.len()).to_string();
                assert_eq!(answer.header("Upload-Offset"), Some(next.as_str()));
                assert_eq!(answer.expect(202).json()["offset"].to_string(), next);
            } else {
                assert_eq!(answer.expect(status).json()["size"], 100_000);
            }
        }
    }
}

#[test]
fn another_offset_than_the_servers_is_refused_with_the_right_one() {
    let server = TestServer::start();
    let admin = server.admin();
    let image = image_bytes(5_000);
    let path = path(&begin(&admin, &image, 201));
    send(&admin, &path, 0, &image[..1000]).expect(202);
    for wrong in [0, 999, 1001, 5_000] {
        let answer = send(&admin, &path, wrong, &image[1000..2000]);
        assert_eq!(answer.header("Upload-Offset"), Some("1000"));
        assert_eq!(answer.json()["error"]["offset"], 1000);
        assert_eq!(answer.refused(409), "upload_offset");
    }
    assert_eq!(admin.request("PATCH", &path).body(b"x").send().refused(400), "invalid_upload");
    assert_eq!(send(&admin, &path, 1000, &image).refused(400), "size_mismatch");
    assert_eq!(offset(&admin, &path), 1000, "what was taken before stays");
    send(&admin, &path, 1000, &image[1000..]).expect(201);
}

#[test]
fn a_second_call_at_a_time_is_refused() {
    let server = TestServer::start();
    let admin = server.admin();
    let image = image_bytes(SIZE);
    let path = path(&begin(&admin, &image, 201));
    let mut first = admin.connect().unwrap();
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nUpload-Offset: 0\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n"
    );
    first.write_all(head.as_bytes()).unwrap();
    first.write_all(&image[..1000]).unwrap();
    wait_until("the first call's bytes were taken", || (offset(&admin, &path) == 1000).then_some(()));
    assert_eq!(send(&admin, &path, 1000, &image[1000..2000]).refused(409), "upload_busy");
    first.write_all(&image[1000..]).unwrap();
    let answer = crate::common::http::read_to_close(&mut first);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[test]
fn bytes_of_another_digest_are_refused_and_nothing_is_kept() {
    let server = TestServer::start();
    let admin = server.admin();
    for size in [1000, SIZE] {
        let (image, mut other) = (image_bytes(size), image_bytes(size));
        other[size / 2] ^= 1;
        let path = path(&begin(&admin, &image, 201));
        assert_eq!(send(&admin, &path, 0, &other).refused(400), "digest_mismatch");
        admin.get(&path).refused(404);
        for bytes in [&image, &other] {
            admin.get(&format!("/api/v1/images/{}", sha256(bytes))).refused(404);
        }
        assert_eq!(begin(&admin, &image, 201)["offset"], 0, "it begins anew");
    }
}

#[test]
fn an_upload_is_its_organizations_and_its_operators_alone() {
    let server = TestServer::start();
    let admin = server.admin();
    let client = |organization: &str, role: &str| {
        admin.with_token(&issue_token(&admin, json!({ "role": role, "organization": organization })))
    };
    let (north, south) = (client("north", "operator"), client("south", "operator"));
    let image = image_bytes(5_000);
    let upload = begin(&north, &image, 201);
    let path = path(&upload);
    assert_eq!(south.get(&path).refused(404), "upload_not_found");
    assert_eq!(send(&south, &path, 0, &image).refused(404), "upload_not_found");
    assert_ne!(begin(&south, &image, 201)["upload"], upload["upload"], "the same bytes of another are another upload");
    assert_eq!(client("north", "user").get(&path).refused(403), "forbidden");
    server.anonymous().get(&path).refused(401);
    send(&north, &path, 0, &image).expect(201);
    south.get(&format!("/api/v1/images/{}", sha256(&image))).refused(404);
}

#[test]
fn unfinished_uploads_are_bounded_and_nonsense_begins_none() {
    let server = TestServer::start();
    let admin = server.admin();
    let refused = |wanted: Value| admin.post("/api/v1/uploads", &wanted).refused(400);
    let sha = sha256(b"x");
    assert_eq!(refused(json!({ "size": 0, "sha256": sha })), "invalid_argument");
    assert_eq!(refused(json!({ "size": 1, "sha256": "abc" })), "invalid_argument");
    assert_eq!(refused(json!({ "sha256": sha })), "invalid_argument");
    let too_large = json!({ "size": 1_u64 << 40, "sha256": sha });
    assert_eq!(admin.post("/api/v1/uploads", &too_large).refused(413), "image_too_large");
    for size in 1..=16 {
        begin(&admin, &image_bytes(size), 201);
    }
    let seventeenth = json!({ "size": 17, "sha256": sha });
    assert_eq!(admin.post("/api/v1/uploads", &seventeenth).refused(409), "uploads_full");
    let path = path(&begin(&admin, &image_bytes(3), 200));
    send(&admin, &path, 0, &image_bytes(3)).expect(201);
    admin.post("/api/v1/uploads", &seventeenth).expect(201);
}

/// Stands between the command and the server, and lets only so many bytes of what the command sends through.
struct Narrows {
    url: String,
    /// Says once that the bytes were through.
    reached: Receiver<()>,
    /// What went through, told at each connection's end.
    passed: Receiver<u64>,
}

impl Narrows {
    fn new(server: &TestServer, bytes_max: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let address = server.address("http");
        let ((tell_reached, reached), (tell_passed, passed)) = (channel(), channel());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&address)) else { return };
                Self::pass(client, server, bytes_max, &tell_reached, &tell_passed);
            }
        });
        Self { url, reached, passed }
    }

    fn pass(client: TcpStream, server: TcpStream, bytes_max: u64, reached: &Sender<()>, passed: &Sender<u64>) {
        let (mut answers, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = io::copy(&mut answers, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Write);
        });
        let mut to_server = &server;
        let through = io::copy(&mut (&client).take(bytes_max), &mut to_server).unwrap_or_default();
        if through == bytes_max {
            let _ = reached.send(());
            // Holds the rest back until the command is gone.
            let _ = io::copy(&mut &client, &mut io::sink());
        }
        let _ = server.shutdown(Shutdown::Both);
        let _ = passed.send(through);
    }
}

#[test]
fn a_push_that_was_killed_is_gone_on_with_by_the_next_one() {
    const PIECE: usize = 8 << 20;
    let server = TestServer::start();
    let image = image_bytes(2 * PIECE + 1_000_000);
    let file = server.folder().join("pump-2.0.bin");
    std::fs::write(&file, &image).unwrap();
    let push = |url: &str| {
        let mut command = sluicegate();
        command.args(["firmware", "push", file.to_str().unwrap(), "--product", "pump", "--version", "2.0", "--server", url]);
        command.env("SLUICEGATE_ADMIN_TOKEN", ADMIN_TOKEN);
        command
    };

    // The second piece is sent once the first is acknowledged.
    let narrows = Narrows::new(&server, (PIECE + 1_000_000) as u64);
    let mut killed = push(&narrows.url).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    narrows.reached.recv_timeout(PATIENCE).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    narrows.passed.recv_timeout(PATIENCE).unwrap();

    let wide = Narrows::new(&server, u64::MAX);
    let output = run(&mut push(&wide.url));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let passed = wide.passed.recv_timeout(PATIENCE).unwrap();
    assert!(passed < (PIECE + 2_000_000) as u64, "{passed} bytes were sent, the first piece again among them");
    let admin = server.admin();
    assert_eq!(admin.get(&format!("/api/v1/images/{}", sha256(&image))).expect(200).body, image);
    assert_eq!(admin.get("/api/v1/firmware").expect(200).json()["items"].as_array().unwrap().len(), 1);
}
