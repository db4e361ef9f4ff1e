//! TLS: the same server, behind a certificate; another certificate without a restart; clients that must show theirs.

use crate::common::authority::{Authority, TlsStream, connect, connect_to, shake_hands, text};
use crate::common::{ADMIN_TOKEN, wait_until};
use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Asks for the products, and returns all that comes back.
fn ask(stream: &mut TlsStream) -> std::io::Result<String> {
    let request = format!(
        "GET /api/v1/products HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn the_api_answers_over_tls_beside_the_plain_port() {
    let authority = Authority::new();
    authority.sign("server");
    let server = authority.start(&[]);
    let answer = ask(&mut connect(&server, authority.client())).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.admin().get("/api/v1/products").expect(200);
}

#[test]
fn a_client_that_speaks_no_tls_is_turned_away_and_the_server_lives() {
    let authority = Authority::new();
    authority.sign("server");
    let server = authority.start(&[]);
    let plain = crate::common::Client::new(server.address("https"));
    let answer = plain.exchange(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer:?}");
    assert!(ask(&mut connect(&server, authority.client())).unwrap().starts_with("HTTP/1.1 200"));
}

#[test]
fn a_client_without_the_demanded_certificate_is_turned_away() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("server");
    authority.sign("device");
    stranger.sign("device");
    let ca = authority.path("ca.pem");
    let server = authority.start(&["--tls-client-ca", text(&ca)]);
    assert!(ask(&mut connect(&server, authority.client_that_shows("device"))).unwrap().starts_with("HTTP/1.1 200"));
    assert!(ask(&mut connect(&server, authority.client())).is_err());
    let strange = authority.client_that_shows_of(&stranger, "device");
    assert!(ask(&mut connect(&server, strange)).is_err());
}

#[test]
fn sighup_brings_a_new_certificate_without_dropping_a_connection() {
    let authority = Authority::new();
    let first = authority.sign("server");
    let server = authority.start(&[]);
    let mut old = connect(&server, authority.client());
    // The handshake is done before the change.
    shake_hands(&mut old).unwrap();
    assert_eq!(old.conn.peer_certificates().unwrap()[0], first);
    let second = authority.sign("server");
    server.signal(Signal::HUP);
    wait_until("new connections get the new certificate", || {
        let mut stream = connect(&server, authority.client());
        let _answer = ask(&mut stream).unwrap();
        (stream.conn.peer_certificates().unwrap()[0] == second).then_some(())
    });
    assert!(ask(&mut old).unwrap().starts_with("HTTP/1.1 200"), "the old connection lives on");
    // A broken one changes nothing.
    std::fs::write(authority.path("server.pem"), "not a certificate").unwrap();
    server.signal(Signal::HUP);
    wait_until("the refusal is logged", || (server.log().matches("certificate").count() > 0).then_some(()));
    assert!(ask(&mut connect(&server, authority.client())).unwrap().starts_with("HTTP/1.1 200"));
}

/// The same on a connection that goes on.
#[track_caller]
fn ask_and_stay(stream: &mut TlsStream) {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    stream.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
}

fn of_version(authority: &Authority, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_protocol_versions(&[version]);
    Arc::new(builder.with_root_certificates(authority.roots()).with_no_client_auth())
}

/// How the handshake of a new connection goes, whose request is answered.
#[track_caller]
fn handshake(address: &str, config: &Arc<ClientConfig>) -> HandshakeKind {
    let mut stream = connect_to(address, Arc::clone(config));
    assert!(ask(&mut stream).unwrap().starts_with("HTTP/1.1 200"));
    stream.conn.handshake_kind().unwrap()
}

#[test]
fn a_session_is_resumed_in_both_versions_until_the_files_are_read_anew() {
    let authority = Authority::new();
    let first = authority.sign("server");
    let server = authority.start(&[]);
    let address = server.address("https");
    let clients = [&TLS12, &TLS13].map(|version| of_version(&authority, version));
    for client in &clients {
        // With a key share of every kind that the server may choose, nothing is asked for twice.
        assert_ne!(handshake(&address, client), HandshakeKind::Resumed, "there is nothing yet to resume");
        for _ in 0..3 {
            assert_eq!(handshake(&address, client), HandshakeKind::Resumed);
        }
    }
    assert_ne!(authority.sign("server"), first);
    server.signal(Signal::HUP);
    wait_until("the certificates are read", || server.log().contains("new connections get the certificate").then_some(()));
    for client in &clients {
        assert_ne!(handshake(&address, client), HandshakeKind::Resumed, "who was let in by other files isn't resumed");
        assert_eq!(handshake(&address, client), HandshakeKind::Resumed);
    }
}

#[test]
fn certificates_change_under_load_and_no_request_is_lost() {
    const ROUNDS: usize = 5;
    let authority = Authority::new();
    authority.sign("server");
    let server = authority.start(&[]);
    let address = server.address("https");
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // One connection that stays, beside new ones all the time.
                let mut kept = connect_to(&address, Arc::new(authority.client()));
                while !over.load(Ordering::Relaxed) {
                    ask_and_stay(&mut kept);
                    assert!(ask(&mut connect_to(&address, Arc::new(authority.client()))).unwrap().starts_with("HTTP/1.1 200"));
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..ROUNDS {
            let certificate = authority.sign("server");
            server.signal(Signal::HUP);
            wait_until("the new certificate is shown", || {
                let mut stream = connect_to(&address, Arc::new(authority.client()));
                shake_hands(&mut stream).unwrap();
                (stream.conn.peer_certificates().unwrap()[0] == certificate).then_some(())
            });
            let before = served.load(Ordering::Relaxed);
            wait_until("requests go on", || (served.load(Ordering::Relaxed) > before + 3).then_some(()));
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn who_was_let_in_by_an_authority_that_is_gone_is_not_resumed() {
    let (authority, successor) = (Authority::new(), Authority::new());
    authority.sign("server");
    authority.sign("device");
    successor.sign("device");
    let ca = authority.path("client-ca.pem");
    std::fs::copy(authority.path("ca.pem"), &ca).unwrap();
    let server = authority.start(&["--tls-client-ca", text(&ca)]);
    let address = server.address("https");
    let clients = [&TLS12, &TLS13].map(|version| {
        let mut client = authority.client_that_shows("device");
        let versioned = ClientConfig::builder_with_protocol_versions(&[version]).with_root_certificates(authority.roots());
        let resolver = Arc::clone(&client.client_auth_cert_resolver);
        client = versioned.with_client_cert_resolver(resolver);
        Arc::new(client)
    });
    for client in &clients {
        assert_ne!(handshake(&address, client), HandshakeKind::Resumed);
        assert_eq!(handshake(&address, client), HandshakeKind::Resumed, "a session with a certificate is resumed, too");
    }
    std::fs::copy(successor.path("ca.pem"), &ca).unwrap();
    server.signal(Signal::HUP);
    let successors = Arc::new(authority.client_that_shows_of(&successor, "device"));
    wait_until("the successor's devices are let in", || {
        ask(&mut connect_to(&address, Arc::clone(&successors))).ok().filter(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    for client in &clients {
        assert!(ask(&mut connect_to(&address, Arc::clone(client))).is_err(), "its session opens nothing");
    }
}
