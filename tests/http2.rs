//! HTTP/2 over TLS: the same server, chosen in the handshake, with a client that everybody has and one that shows the frames.

use crate::common::authority::{Authority, text};
use crate::common::h2::{DATA, END_STREAM, GOAWAY, H2Client, HEADERS, RST_STREAM};
use crate::common::server::run;
use crate::common::{ADMIN_TOKEN, Fleet, TestServer, image_bytes, wait_until};
use serde_json::{Value, json};
use std::process::Command;

/// A call of curl, of which the last line of the output is the version that was spoken and the status.
fn curl(authority: &Authority, server: &TestServer, token: &str, path: &str, more: &[&str]) -> (String, Vec<u8>) {
    let address = server.address("https");
    let port = address.rsplit_once(':').unwrap().1;
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--write-out", "\\n%{http_version} %{http_code}"]);
    command.args(["--cacert", text(&authority.path("ca.pem")), "--resolve", &format!("localhost:{port}:127.0.0.1")]);
    command.args(["-H", &format!("Authorization: Bearer {token}")]).args(more);
    let output = run(command.arg(format!("https://localhost:{port}{path}")));
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    let end = output.stdout.iter().rposition(|byte| *byte == b'\n').unwrap();
    (String::from_utf8(output.stdout[end + 1..].to_vec()).unwrap(), output.stdout[..end].to_vec())
}

fn authority() -> Authority {
    let authority = Authority::new();
    authority.sign("server");
    authority
}

const BEARER: (&str, &str) = ("authorization", "Bearer the-administrator-of-these-tests");

#[test]
fn the_handshake_decides_which_version_is_spoken() {
    let authority = authority();
    let server = authority.start(&[]);
    assert_eq!(curl(&authority, &server, ADMIN_TOKEN, "/healthz", &["--http2"]).0, "2 200");
    assert_eq!(curl(&authority, &server, ADMIN_TOKEN, "/healthz", &["--http1.1"]).0, "1.1 200");
    assert_eq!(curl(&authority, &server, ADMIN_TOKEN, "/healthz", &["--no-alpn"]).0, "1.1 200");
    let server = authority.start_configured(&[], "http2 = false");
    assert_eq!(curl(&authority, &server, ADMIN_TOKEN, "/healthz", &["--http2"]).0, "1.1 200");
}

#[test]
fn an_upgrade_goes_its_whole_way_over_http_2() {
    let authority = authority();
    let server = authority.start(&[]);
    let image = image_bytes(3_000_000);
    let file = server.folder().join("image.bin");
    std::fs::write(&file, &image).unwrap();
    let call = |path: &str, more: &[&str]| curl(&authority, &server, ADMIN_TOKEN, path, &[&["--http2"], more].concat());
    let (status, uploaded) = call("/api/v1/images", &["--data-binary", &format!("@{}", text(&file))]);
    assert_eq!(status, "2 201");
    let uploaded: Value = serde_json::from_slice(&uploaded).unwrap();
    let id = uploaded["image"].as_str().unwrap();
    let fleet = Fleet::with_image(&server.admin(), "lamp", image.clone());
    fleet.start_task(&server.admin(), json!({}));
    let device = fleet.device(&server.admin(), "l-1");
    let check = device.check_body("1.0").to_string();
    let (status, offered) = curl(&authority, &server, &device.token, "/api/v1/check", &["--http2", "--data", &check]);
    assert_eq!(status, "2 200");
    let offered: Value = serde_json::from_slice(&offered).unwrap();
    assert!(offered["upgrade"].is_object(), "{offered}");
    let (status, whole) = call(&format!("/api/v1/images/{id}"), &[]);
    assert_eq!(status, "2 200");
    assert!(whole == image, "the image came as it went");
    let (status, part) = call(&format!("/api/v1/images/{id}"), &["--range", "1000000-1999999"]);
    assert_eq!(status, "2 206");
    assert!(part == image[1_000_000..2_000_000]);
    let (status, head) = call("/api/v1/products", &["--head"]);
    assert_eq!(status, "2 200");
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("content-length: ") && !head.contains("content-length: 0\r"), "{head}");
    assert!(!head.contains("lamp"), "a HEAD has no body: {head}");
    assert_eq!(call("/api/v1/nothing", &[]).0, "2 404");
    assert_eq!(curl(&authority, &server, "unknown", "/api/v1/products", &["--http2"]).0, "2 401");
    assert_eq!(server.metric(r#"sluicegate_http_requests_total{dialect="images",method="GET",status="206"}"#), 1.0);
}

#[test]
fn a_body_beyond_its_bound_is_refused_and_the_connection_goes_on() {
    let authority = authority();
    let server = authority.start(&[]);
    let mut client = H2Client::connect(&server, authority.client());
    let too_large = vec![b' '; 20 << 10];
    let stream = client.open("POST", "/api/v1/check", &[BEARER], false);
    for piece in too_large.chunks(16 << 10) {
        client.send(DATA, 0, stream, piece);
    }
    client.send(DATA, END_STREAM, stream, b"");
    assert_eq!(client.answer(stream).status, 413);
    assert_eq!(client.ask("GET", "/api/v1/products", &[BEARER], None).status, 200);
}

#[test]
fn many_requests_share_a_connection_and_no_answer_is_mixed_up() {
    let authority = authority();
    let server = authority.start(&[]);
    let image = image_bytes(700_000);
    let id = Fleet::with_image(&server.admin(), "lamp", image.clone()).image_id;
    let mut client = H2Client::connect(&server, authority.client());
    let path = format!("/api/v1/images/{id}");
    let asked: Vec<(u32, usize)> = (0..100)
        .map(|number| {
            let first = number * 1_000;
            let range = format!("bytes={first}-{}", first + 599_999);
            (client.request("GET", &path, &[BEARER, ("range", &range)], None), first)
        })
        .collect();
    let streams: Vec<u32> = asked.iter().map(|(stream, _)| *stream).collect();
    let answers = client.answers(&streams);
    for (stream, first) in asked {
        let answer = &answers[&stream];
        assert_eq!(answer.status, 206);
        assert!(answer.body == image[first..first + 600_000], "stream {stream}");
    }
}

#[test]
fn a_stop_ends_event_streams_lets_downloads_finish_and_waits_for_nobody_silent() {
    let authority = authority();
    let mut server = authority.start_configured(&[], "[limits]\nstop_timeout_s = 60");
    let image = image_bytes(2_000_000);
    let id = Fleet::with_image(&server.admin(), "lamp", image.clone()).image_id;
    // One that says nothing, one that has said half a preface, one that is idle, and one that never answers.
    let _bare = H2Client::bare(&server, authority.client());
    let mut half = H2Client::bare(&server, authority.client());
    half.send_bytes(b"PRI * HTTP").unwrap();
    let mut idle = H2Client::connect(&server, authority.client());
    assert_eq!(idle.ask("GET", "/healthz", &[], None).status, 200);
    let mut deaf = H2Client::connect(&server, authority.client());
    assert_eq!(deaf.ask("GET", "/healthz", &[], None).status, 200);
    let mut events = H2Client::connect(&server, authority.client());
    let stream_of_events = events.request("GET", "/api/v1/events", &[BEARER], None);
    events.wait_for("events", |frame| frame.stream == stream_of_events && frame.kind == DATA);
    // Its window is closed in the middle of the image.
    let mut download = H2Client::connect_and_take_nothing(&server, authority.client());
    let stream = download.request("GET", &format!("/api/v1/images/{id}"), &[BEARER], None);
    download.window(stream, 100_000);
    let mut got = Vec::new();
    while got.len() < 60_000 {
        got.extend(download.wait_for("the first bytes", |frame| frame.kind == DATA).payload);
    }
    server.signal(rustix::process::Signal::TERM);
    // The stop is told to all that listen.
    for client in [&mut idle, &mut events, &mut download] {
        client.wait_for("farewell", |frame| frame.kind == GOAWAY && frame.reason() == 0);
    }
    let end = events.wait_for("end of the events", |frame| frame.stream == stream_of_events && frame.ends_stream());
    assert_eq!(end.kind, DATA);
    download.window(stream, 10_000_000);
    download.window(0, 10_000_000);
    loop {
        let frame = download.wait_for("rest of the image", |frame| frame.stream == stream && frame.kind == DATA);
        got.extend(&frame.payload);
        if frame.ends_stream() {
            break;
        }
    }
    assert!(got == image, "what was in flight was finished");
    let status = server.wait_for_end();
    assert!(status.success(), "{status}");
}

#[test]
fn what_a_connection_waits_for_is_bounded() {
    let authority = authority();
    let server = authority.start_configured(&[], "[limits]\nheader_timeout_s = 1\nbody_timeout_s = 1\nidle_timeout_s = 2");
    let silent = H2Client::bare(&server, authority.client());
    let mut half_preface = H2Client::bare(&server, authority.client());
    half_preface.send_bytes(b"PRI * HTTP/2.0").unwrap();
    let mut half_head = H2Client::connect(&server, authority.client());
    half_head.send(HEADERS, 0, 1, &crate::common::h2::block("GET", "/healthz", &[]));
    let mut pinging = H2Client::connect(&server, authority.client());
    let mut bodiless = H2Client::connect(&server, authority.client());
    let stream = bodiless.open("POST", "/api/v1/check", &[BEARER], false);
    assert_eq!(bodiless.answer(stream).status, 408, "a body that doesn't come ends its request alone");
    for mut client in [silent, half_preface, half_head] {
        client.read_to_close();
    }
    // Pings are no requests.
    let mut farewells = 0;
    while pinging.try_send(6, 0, 0, b"are you?").is_ok() {
        match pinging.try_read() {
            Ok(frame) => farewells += usize::from(frame.kind == GOAWAY),
            Err(_) => break,
        }
    }
    assert!(farewells > 0, "an idle client is told that its connection ends");
    wait_until("all are counted", || (server.metric("sluicegate_connections_timed_out_total") >= 4.0).then_some(()));
}

#[test]
fn streams_beyond_the_bound_are_refused_and_the_others_go_on() {
    let authority = authority();
    let server = authority.start_configured(&[], "[limits]\nh2_streams_max = 3");
    let mut client = H2Client::connect(&server, authority.client());
    let streams: Vec<u32> = (0..3).map(|_| client.request("GET", "/api/v1/events", &[BEARER], None)).collect();
    for stream in &streams {
        client.wait_for("events", |frame| frame.stream == *stream && frame.kind == DATA);
    }
    let fourth = client.request("GET", "/healthz", &[], None);
    let refusal = client.wait_for("refusal", |frame| frame.stream == fourth);
    assert_eq!((refusal.kind, refusal.reason()), (RST_STREAM, crate::common::h2::REFUSED_STREAM));
    client.send(RST_STREAM, 0, streams[0], &crate::common::h2::CANCEL.to_be_bytes());
    client.settle();
    assert_eq!(client.ask("GET", "/healthz", &[], None).status, 200, "there is a place again");
}
