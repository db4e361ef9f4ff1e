//! Clients that are slow, silent or many, or that send what is too much: each beside good clients, of whom none is refused anything.

use crate::common::http::read_to_close;
use crate::common::{ADMIN_TOKEN, Fleet, TestServer, image_bytes, wait_until};
use crate::hostile_support::{TakesBody, beside_good_clients, calls_with_bodies, is_closed, memory_bytes, open_many, status_of};
use std::io::{Read, Write};
use std::net::TcpStream;

const SHORT: &str = "[limits]\nheader_timeout_s = 1\nbody_timeout_s = 1\nidle_timeout_s = 3\nwrite_timeout_s = 1\nwrong_credentials_per_minute = 0\n";

#[test]
fn slow_heads_are_given_up_while_others_are_served() {
    const SLOW: usize = 500;
    let server = TestServer::setup().config(SHORT).start();
    beside_good_clients("500 slow heads", &server, || {
        let mut slow = open_many(&server, "http", SLOW, b"GET /healthz HTTP/1.1\r\nHost: t\r\nX-Slow: ");
        wait_until("every slow head is given up", || {
            // Each says a byte more whenever it is looked at.
            slow.retain_mut(|stream| stream.write_all(b"x").is_ok() && !is_closed(stream));
            slow.is_empty().then_some(())
        });
    });
}

#[test]
fn a_body_that_does_not_come_is_given_up_by_every_call_that_takes_one() {
    let server = TestServer::setup().config(SHORT).start();
    let calls = calls_with_bodies();
    beside_good_clients("bodies that stall", &server, || {
        let client = server.anonymous();
        let begin = |call: &TakesBody| {
            let mut stream = client.connect().unwrap();
            let declared = if call.head.starts_with("PATCH") { 10 } else { 1_000 };
            stream.write_all(format!("{}Content-Length: {declared}\r\n\r\n{{\"half", call.head).as_bytes()).unwrap();
            stream
        };
        let stalled: Vec<TcpStream> = calls.iter().map(begin).collect();
        for (mut stream, call) in stalled.into_iter().zip(&calls) {
            // Panics if it is neither answered nor closed.
            let answer = read_to_close(&mut stream);
            let status = status_of(&answer);
            let is_told = status.is_some_and(|status| (400..500).contains(&status))
                || answer.contains("\"code\":24")
                || answer.contains("\"status\":1004")
                || answer.contains("\"code\":-1");
            assert!(answer.is_empty() || is_told, "{}: {answer}", call.name);
        }
    });
    println!("{} calls that take a body were begun and left", calls.len());
}

#[test]
fn readers_that_take_nothing_of_a_large_image_are_given_up_while_others_are_served() {
    const READERS: usize = 200;
    let server = TestServer::setup().config(SHORT).start();
    let id = Fleet::with_image(&server.admin(), "large", image_bytes(30_000_000)).image_id;
    beside_good_clients("200 readers that take nothing", &server, || {
        let request = format!("GET /api/v1/images/{id} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n");
        let readers = open_many(&server, "http", READERS, request.as_bytes());
        wait_until("every reader is given up", || {
            (server.metric("sluicegate_connections_timed_out_total") >= READERS as f64).then_some(())
        });
        drop(readers);
    });
}

#[test]
fn readers_that_take_a_byte_now_and_then_hold_nobody_else_up() {
    const READERS: usize = 100;
    let server = TestServer::setup().config(SHORT).start();
    let id = Fleet::with_image(&server.admin(), "large", image_bytes(30_000_000)).image_id;
    beside_good_clients("100 readers that sip", &server, || {
        let request = format!("GET /api/v1/images/{id} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n");
        let mut readers = open_many(&server, "http", READERS, request.as_bytes());
        let mut sips = 0;
        // As long as a reader that takes nothing would be suffered, and longer.
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_secs(3) {
            for reader in &mut readers {
                let mut byte = [0];
                sips += usize::from(matches!(reader.read(&mut byte), Ok(1)));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        println!("{sips} bytes were sipped");
    });
}

#[test]
fn thousands_of_silent_connections_cost_little_and_hold_nobody_up() {
    const SILENT: usize = 4_000;
    let server = TestServer::start();
    beside_good_clients("4000 silent connections", &server, || {
        let before = memory_bytes(&server);
        // A fourth says nothing, a fourth has asked once, a fourth is in the middle of a head, a fourth in the middle of a body.
        let body = format!(
            "POST /api/v1/tasks HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: 1000000\r\n\r\n{{"
        );
        let firsts: [&[u8]; 4] =
            [b"", b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n", b"GET /healthz HTTP/1.1\r\nHost", body.as_bytes()];
        let silent: Vec<Vec<TcpStream>> = firsts.iter().map(|first| open_many(&server, "http", SILENT / 4, first)).collect();
        wait_until("all of them are taken", || (server.metric("sluicegate_connections") > SILENT as f64).then_some(()));
        let each = memory_bytes(&server).saturating_sub(before) / SILENT as u64;
        println!("{each} bytes of memory for each silent connection");
        assert!(each < 60_000, "{each} bytes for a connection that does nothing");
        drop(silent);
    });
}

/// Bodies that are no sensible JSON, with what they are called.
fn nasty_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let deep = |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth)).into_bytes();
    let field = |value: &[u8]| {
        [b"{\"product_id\":", value, b",\"name\":", value, b",\"scope\":", value, b",\"targets\":", value, b"}"].concat()
    };
    vec![
        ("nothing", Vec::new()),
        ("100,000 arrays in each other", deep("[", "]", 100_000)),
        ("100,000 arrays that never end", "[".repeat(100_000).into_bytes()),
        ("50,000 objects in each other", deep("{\"a\":", "}", 50_000)),
        ("deep arrays in every field", field(&deep("[", "]", 50_000))),
        ("100 arrays in every field", field(&deep("[", "]", 100))),
        (
            "a hundred thousand fields",
            format!("{{{}\"z\":1}}", (0..60_000).map(|n| format!("\"f{n}\":0,")).collect::<String>()).into_bytes(),
        ),
        ("the same field over and over", format!("{{{}\"name\":\"x\"}}", "\"name\":\"x\",".repeat(50_000)).into_bytes()),
        ("an array of half a million numbers", format!("[{}0]", "0,".repeat(500_000)).into_bytes()),
        ("a number of 100,000 digits", field("9".repeat(100_000).as_bytes())),
        ("a number beyond all", field(b"1e999999999")),
        ("a number below all", field(b"-1e999999999")),
        ("a text of escapes", field(format!("\"{}\"", "\\u0000".repeat(30_000)).as_bytes())),
        ("half a surrogate", field(b"\"\\ud800\"")),
        ("bytes that are no UTF-8", field(b"\"\xff\xfe\xc0\xaf\"")),
        ("a byte order mark", b"\xef\xbb\xbf{}".to_vec()),
        ("NaN", field(b"NaN")),
        ("two values", b"{}{}".to_vec()),
        ("an object whose end is missing", b"{\"a\":{\"b\":[".to_vec()),
        (
            "a boundary that never comes",
            [b"--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n".to_vec(), vec![b'x'; 200_000]].concat(),
        ),
    ]
}

#[test]
fn no_body_makes_any_call_fail_or_stall() {
    let config = "[limits]\nwrong_credentials_per_minute = 0\n[huawei]\ncalls_per_minute = 0\n[webhooks]\nallowed = [\"http://127.0.0.1:9\"]\n";
    let server = TestServer::setup().config(config).start();
    let (calls, bodies) = (calls_with_bodies(), nasty_bodies());
    let sent = beside_good_clients("nasty bodies", &server, || {
        let mut sent = 0;
        for call in &calls {
            for (what, body) in &bodies {
                let head = format!("{}Connection: close\r\nContent-Length: {}\r\n\r\n", call.head, body.len());
                let answer = server.anonymous().exchange(&[head.as_bytes(), body].concat());
                let status = status_of(&answer).unwrap_or_else(|| panic!("{} with {what} was not answered: {answer:?}", call.name));
                assert!(status < 500, "{} with {what}: {answer}", call.name);
                sent += 1;
            }
        }
        sent
    });
    println!("{} calls x {} bodies = {sent} requests, all answered below 500", calls.len(), bodies.len());
}

#[test]
fn a_body_beyond_the_bound_is_refused_by_every_call_that_reads_it() {
    let config = "[huawei]\ncalls_per_minute = 0\n[limits]\nwrong_credentials_per_minute = 0\nbody_timeout_s = 1\n";
    let server = TestServer::setup().config(config).start();
    let calls: Vec<TakesBody> = calls_with_bodies().into_iter().filter(|call| !call.is_raw).collect();
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(3 << 20));
    let expect_refused = |call: &TakesBody, answer: &str| {
        let status = status_of(answer);
        let is_refused = status.is_some_and(|status| (400..500).contains(&status))
            // By those who say it in the body.
            || ["larger than", "too slowly"].iter().any(|why| answer.contains(why));
        // An import is read line by line, and a form is a file: those say what is wrong with them.
        let is_read = call.name.ends_with("/devices") || call.name.ends_with("ota-firmwares?action=create");
        assert!(answer.is_empty() || is_refused || (is_read && status == Some(200)), "{}: {answer}", call.name);
    };
    beside_good_clients("bodies beyond the bound", &server, || {
        for call in &calls {
            let length = format!("{}Connection: close\r\nContent-Length: {}\r\n\r\n", call.head, large.len());
            // The same without a length: only what came tells that it is too much.
            let chunked = format!("{}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", call.head, large.len());
            for (head, tail) in [(length, ""), (chunked, "\r\n0\r\n\r\n")] {
                expect_refused(call, &server.anonymous().exchange(format!("{head}{large}{tail}").as_bytes()));
            }
        }
        // Announced and never sent: refused at once, or waited for no longer than any body.
        let announce = |call: &TakesBody| {
            let mut stream = server.anonymous().connect().unwrap();
            let announced = format!("{}Connection: close\r\nContent-Length: 99999999999\r\n\r\n", call.head);
            stream.write_all(announced.as_bytes()).unwrap();
            stream
        };
        let announced: Vec<TcpStream> = calls.iter().map(announce).collect();
        for (mut stream, call) in announced.into_iter().zip(&calls) {
            // Panics if it is neither answered nor closed.
            expect_refused(call, &read_to_close(&mut stream));
        }
    });
    println!("{} calls x 3 bodies beyond the bound", calls.len());
}
