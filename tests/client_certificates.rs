//! Devices that are known by their certificates: over HTTP/1.1, HTTP/2 and MQTT, and only as themselves.

use crate::common::authority::{Authority, TlsStream, connect, connect_to, text};
use crate::common::fleet::issue_token;
use crate::common::h2::H2Client;
use crate::common::{ADMIN_TOKEN, Fleet, TestServer, wait_until};
use rustix::process::Signal;
use rustls::ClientConfig;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::Arc;

const LAMP: &str = "urn:sluicegate:device:default:lamp:l-1";

/// A server whose clients may show what the authority has signed.
fn start(authority: &Authority, more: &[&str]) -> TestServer {
    authority.sign("server");
    let ca = authority.path("ca.pem");
    authority.start(&[&["--tls-client-ca", text(&ca), "--tls-client-auth", "optional"], more].concat())
}

/// One call on a connection that goes on: its status and body.
#[track_caller]
fn call(stream: &mut TlsStream, method: &str, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\nAccess-Token: {token}\r\n")).unwrap_or_default();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{token}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; if method == "HEAD" { 0 } else { length.parse().unwrap() }];
    stream.read_exact(&mut body).unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_slice(&body).unwrap_or_default())
}

fn check_body(product_id: &str, device_id: &str) -> Value {
    json!({ "product_id": product_id, "device_id": device_id, "type": 1, "identify": 0, "version": "1.0" })
}

#[track_caller]
fn check(stream: &mut TlsStream, device_id: &str, token: Option<&str>) -> u16 {
    call(stream, "POST", "/api/v1/check", token, &check_body("lamp", device_id)).0
}

#[test]
fn a_certificate_opens_what_a_token_of_its_device_would() {
    let authority = Authority::new();
    authority.sign_with("lamp", &[LAMP], 2);
    let server = start(&authority, &[]);
    let fleet = Fleet::new(&server.admin(), "lamp");
    fleet.start_task(&server.admin(), json!({}));
    let mut stream = connect(&server, authority.client_that_shows("lamp"));
    let (status, answered) = call(&mut stream, "POST", "/api/v1/check", None, &check_body("lamp", "l-1"));
    assert_eq!(status, 200);
    let upgrade = &answered["upgrade"]["id"];
    assert!(upgrade.is_string(), "a device is offered an upgrade, and not shown a preview: {answered}");
    let report = json!({ "product_id": "lamp", "device_id": "l-1", "upgrade_id": upgrade, "state": "downloading" });
    assert_eq!(call(&mut stream, "POST", "/api/v1/report", None, &report).0, 200);
    let image = format!("/api/v1/images/{}", fleet.image_id);
    assert_eq!(call(&mut stream, "HEAD", &image, None, &Value::Null).0, 200);
    assert_eq!(call(&mut stream, "GET", &image, None, &Value::Null).0, 200);
    assert_eq!(call(&mut stream, "GET", &format!("/images/{}", fleet.image_id), None, &Value::Null).0, 200);
    // Nobody else's, and nothing of an operator's.
    assert_eq!(check(&mut stream, "l-2", None), 403);
    assert_eq!(call(&mut stream, "POST", "/api/v1/check", None, &check_body("pump", "l-1")).0, 403);
    assert_eq!(call(&mut stream, "POST", "/api/v1/check?organization=acme", None, &check_body("lamp", "l-1")).0, 403);
    for path in ["/api/v1/products", "/api/v1/products/lamp/devices/l-1", "/api/v1/tasks", "/api/v1/events"] {
        assert_eq!(call(&mut stream, "GET", path, None, &Value::Null).0, 401, "{path}");
    }
}

#[test]
fn a_certificate_opens_the_calls_of_xlinks_devices() {
    let authority = Authority::new();
    authority.sign_with("lamp", &["urn:sluicegate:device:default:lamp:7"], 2);
    let server = start(&authority, &[]);
    let asked = json!({ "product_id": "lamp", "type": 1, "identify": 0, "current_version": 1 });
    let mut stream = connect(&server, authority.client_that_shows("lamp"));
    let check = |stream: &mut TlsStream, device_id: &str| {
        let (status, answered) = call(stream, "POST", &format!("/v2/upgrade/firmware/check/{device_id}"), None, &asked);
        (status, answered["error"]["code"].as_u64().unwrap())
    };
    assert_eq!(check(&mut stream, "7"), (404, 4_041_013), "it is told that nothing is for it");
    assert_eq!(check(&mut stream, "8"), (400, 4_001_114), "it is another device");
    let mut stream = connect(&server, authority.client());
    assert_eq!(check(&mut stream, "7"), (403, 4_031_002), "a token is missing");
}

#[test]
fn a_certificate_counts_over_http_2_on_every_stream() {
    let authority = Authority::new();
    authority.sign_with("lamp", &[LAMP], 2);
    let server = start(&authority, &[]);
    let mut client = H2Client::connect(&server, authority.client_that_shows("lamp"));
    let own = check_body("lamp", "l-1").to_string();
    let foreign = check_body("lamp", "l-2").to_string();
    for _ in 0..3 {
        assert_eq!(client.ask("POST", "/api/v1/check", &[], Some(own.as_bytes())).status, 200);
        assert_eq!(client.ask("POST", "/api/v1/check", &[], Some(foreign.as_bytes())).status, 403);
    }
}

#[test]
fn a_certificate_names_its_organization() {
    let authority = Authority::new();
    authority.sign_with("lamp", &["urn:sluicegate:device:acme:la%3Amp:l%201"], 2);
    let server = start(&authority, &[]);
    let mut stream = connect(&server, authority.client_that_shows("lamp"));
    assert_eq!(call(&mut stream, "POST", "/api/v1/check", None, &check_body("la:mp", "l 1")).0, 200);
    let devices = |organization: &str| {
        let path = format!("/api/v1/products/la%3Amp/devices?organization={organization}");
        server.admin().get(&path).text()
    };
    assert!(devices("acme").contains("l 1"), "{}", devices("acme"));
    assert!(!devices("default").contains("l 1"), "{}", devices("default"));
}

#[test]
fn a_certificate_that_names_nobody_opens_nothing() {
    let authority = Authority::new();
    authority.sign("nobody");
    authority.sign_with("two", &[LAMP, "urn:sluicegate:device:default:lamp:l-2"], 2);
    authority.sign_with("half", &["urn:sluicegate:device:lamp:l-1"], 3);
    let server = start(&authority, &[]);
    let shown = ["nobody", "two", "half"].map(|name| authority.client_that_shows(name));
    for client in shown.into_iter().chain([authority.client()]) {
        let mut stream = connect(&server, client);
        assert_eq!(check(&mut stream, "l-1", None), 401);
        assert_eq!(check(&mut stream, "l-1", Some(ADMIN_TOKEN)), 200, "a token is as good as ever");
    }
}

#[test]
fn a_token_that_is_sent_counts_instead() {
    let authority = Authority::new();
    authority.sign_with("lamp", &[LAMP], 2);
    let server = start(&authority, &[]);
    let token = issue_token(&server.admin(), json!({ "role": "device", "product_id": "lamp", "device_id": "l-2" }));
    let mut stream = connect(&server, authority.client_that_shows("lamp"));
    assert_eq!(check(&mut stream, "l-2", Some(&token)), 200);
    assert_eq!(check(&mut stream, "l-1", Some(&token)), 403);
    assert_eq!(check(&mut stream, "l-1", Some("no-token-of-ours")), 401, "a wrong token is not made good by a certificate");
    assert_eq!(check(&mut stream, "l-1", None), 200);
}

#[test]
fn a_resumed_session_is_still_its_devices() {
    let authority = Authority::new();
    authority.sign_with("lamp", &[LAMP], 2);
    let server = start(&authority, &[]);
    let client = Arc::new(authority.client_that_shows("lamp"));
    for is_resumed in [false, true, true] {
        let mut stream = connect_to(&server.address("https"), Arc::clone(&client));
        assert_eq!(check(&mut stream, "l-1", None), 200);
        assert_eq!(check(&mut stream, "l-2", None), 403);
        assert_eq!(stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed), is_resumed);
    }
}

#[test]
fn a_certificate_of_a_stranger_is_refused_also_where_none_is_demanded() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    stranger.sign_with("lamp", &[LAMP], 2);
    let server = start(&authority, &[]);
    let mut stream = connect(&server, authority.client_that_shows_of(&stranger, "lamp"));
    let refused = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").and_then(|()| stream.read_exact(&mut [0]));
    assert!(refused.is_err());
}

#[test]
fn what_was_revoked_opens_nothing_any_more_on_open_connections_too() {
    let authority = Authority::new();
    authority.sign_with("lamp", &[LAMP], 2);
    authority.sign_with("other", &["urn:sluicegate:device:default:lamp:l-9"], 3);
    let list = authority.revoke("revoked.pem", &[77]);
    let server = start(&authority, &["--tls-client-crl", text(&list), "--mqtt-listen", "127.0.0.1:0"]);
    let client = Arc::new(authority.client_that_shows("lamp"));
    let mut open = connect_to(&server.address("https"), Arc::clone(&client));
    let mut other = connect(&server, authority.client_that_shows("other"));
    assert_eq!(check(&mut open, "l-1", None), 200);
    assert_eq!(check(&mut other, "l-9", None), 200);
    let mut mqtt = mqtt_connect(&server, authority.client_that_shows("lamp"), None);
    assert_eq!(connack(&mut mqtt), 0);
    authority.revoke("revoked.pem", &[77, 2]);
    server.signal(Signal::HUP);
    wait_until("the open connection opens nothing", || (check(&mut open, "l-1", None) == 401).then_some(()));
    let (_, refused) = call(&mut open, "POST", "/api/v1/check", None, &check_body("lamp", "l-1"));
    assert_eq!(refused["error"]["code"], "certificate_refused");
    assert_eq!(check(&mut open, "l-1", Some(ADMIN_TOKEN)), 200);
    assert_eq!(check(&mut other, "l-9", None), 200, "who wasn't revoked notices nothing");
    let mut stream = connect_to(&server.address("https"), client);
    let refused = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").and_then(|()| stream.read_exact(&mut [0]));
    assert!(refused.is_err(), "a new connection isn't let in, with a ticket or without");
    let mut farewell = Vec::new();
    let _ = mqtt.read_to_end(&mut farewell);
}

/// A CONNECT of MQTT 3.1.1 without a password.
fn mqtt_connect(server: &TestServer, config: ClientConfig, username: Option<&str>) -> TlsStream {
    let mut stream = connect_to(&server.address("mqtt"), Arc::new(config));
    let flags = 2 | u8::from(username.is_some()) << 7;
    let mut rest = [b"\0\x04MQTT\x04", &[flags][..], b"\0\0\0\x04test"].concat();
    if let Some(username) = username {
        rest.extend([0, u8::try_from(username.len()).unwrap()]);
        rest.extend(username.as_bytes());
    }
    stream.write_all(&[&[0x10, u8::try_from(rest.len()).unwrap()], &*rest].concat()).unwrap();
    stream
}

/// What it answers; 0 lets the client in.
#[track_caller]
fn connack(stream: &mut TlsStream) -> u8 {
    let mut packet = [0; 4];
    stream.read_exact(&mut packet).unwrap();
    assert_eq!(packet[..2], [0x20, 2]);
    packet[3]
}

#[test]
fn a_device_logs_in_to_mqtt_with_its_certificate() {
    let authority = Authority::new();
    authority.sign_with("lamp", &[LAMP], 2);
    authority.sign("nobody");
    let server = start(&authority, &["--mqtt-listen", "127.0.0.1:0"]);
    for (name, username, is_let_in) in [
        ("lamp", None, true),
        ("lamp", Some("l-1"), true),
        ("lamp", Some("l-1&lamp"), true),
        ("lamp", Some("l-2"), false),
        ("lamp", Some("l-1&pump"), false),
        ("nobody", None, false),
        ("nobody", Some("l-1"), false),
    ] {
        let mut stream = mqtt_connect(&server, authority.client_that_shows(name), username);
        assert_eq!(connack(&mut stream) == 0, is_let_in, "{name} as {username:?}");
        if is_let_in {
            // Its own topics, and no other's.
            for (topic, code) in [("/sys/lamp/l-1/#", 0), ("/sys/lamp/l-2/#", 0x80)] {
                let length = u8::try_from(topic.len()).unwrap();
                let subscribe = [&[0x82, length + 5, 0, 1, 0, length], topic.as_bytes(), &[0]].concat();
                stream.write_all(&subscribe).unwrap();
                let mut suback = [0; 5];
                stream.read_exact(&mut suback).unwrap();
                assert_eq!(suback, [0x90, 3, 0, 1, code], "{topic}");
            }
        }
    }
    let mut plain = mqtt_connect(&server, authority.client(), None);
    assert_ne!(connack(&mut plain), 0);
}

#[test]
fn settings_that_would_do_nothing_are_refused() {
    let authority = Authority::new();
    authority.sign("server");
    let (certificate, key) = (authority.path("server.pem"), authority.path("server.key"));
    for option in ["--tls-client-auth", "--tls-client-crl"] {
        let mut command = crate::common::server::sluicegate();
        command.args(["serve", "--data", text(&authority.path("data")), "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0"]);
        command.args(["--tls-cert", text(&certificate), "--tls-key", text(&key), option, "optional"]);
        let output = crate::common::server::run(&mut command);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(option) && message.contains("--tls-client-ca"), "{message}");
    }
}
