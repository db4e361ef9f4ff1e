//! Bytes that are nearly HTTP: shapes that two readers could understand differently, so that one of them takes for a request what the other
//! took for a body. The rule: what is ambiguous is refused and the connection closed; nothing behind it is read as a request.

use crate::common::http::{Head, path_of, read_to_close};
use crate::common::{ADMIN_TOKEN, Fleet, TestServer, image_bytes};
use crate::hostile_support::{beside_good_clients, status_of};
use serde_json::json;
use std::io::{BufReader, Write};
use std::net::Shutdown;

/// Behind everything that is sent stands this request. Its answer names it, so it shows where it was read.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Refused with 4xx or 5xx, or the connection closed without a word; nothing behind it is read.
    Refused,
    /// There is one way to understand it: it is answered, and what stands behind it is a request.
    Plain,
    /// It is answered well, and the connection closed behind it.
    Last,
    /// The call has read its chunks whatever length stood beside them (and doesn't like what stands in them), and the connection is closed
    /// behind it (RFC 9112, section 6.3).
    Alone,
}

/// A call that reads its body, whoever calls.
fn post(headers: &str, body: &str) -> String {
    format!("POST /api/v1/tokens HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n{headers}\r\n{body}")
}

fn get(start: &str, headers: &str) -> String {
    format!("{start}\r\n{headers}\r\n")
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_read() {
    use Reading::{Alone, Last, Plain, Refused};
    let server = TestServer::setup()
        .config("[limits]\nheader_timeout_s = 2\nbody_timeout_s = 2\nwrong_credentials_per_minute = 0\n")
        .start();
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    let te = "Transfer-Encoding: chunked\r\n";
    let ok = "GET /healthz HTTP/1.1";
    let long = "x".repeat(200_000);
    let cases: Vec<(&str, String, Reading)> = vec![
        // How long a body is.
        ("a length", post("Content-Length: 5\r\n", "hello"), Plain),
        ("chunks", post(te, chunked), Plain),
        ("a length and chunks", post(&format!("Content-Length: 5\r\n{te}"), chunked), Alone),
        ("chunks and a length", post(&format!("{te}Content-Length: 5\r\n"), chunked), Alone),
        ("a length of nothing and chunks", post(&format!("Content-Length: 0\r\n{te}"), chunked), Alone),
        ("two lengths", post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"), Refused),
        ("two lengths in one", post("Content-Length: 5, 6\r\n", "hello"), Refused),
        ("a length with a sign", post("Content-Length: +5\r\n", "hello"), Refused),
        ("a length below nothing", post("Content-Length: -5\r\n", "hello"), Refused),
        ("a length in hexadecimal", post("Content-Length: 0x5\r\n", "hello"), Refused),
        ("a length with a blank", post("Content-Length: 5 5\r\n", "hello"), Refused),
        ("a length with a fraction", post("Content-Length: 5.0\r\n", "hello"), Refused),
        ("an empty length", post("Content-Length: \r\n", "hello"), Refused),
        ("a length of 2^64", post("Content-Length: 18446744073709551616\r\n", "hello"), Refused),
        ("a length of 2^64 + 5", post("Content-Length: 18446744073709551621\r\n", "hello"), Refused),
        ("a length of twenty nines", post("Content-Length: 99999999999999999999\r\n", "hello"), Refused),
        ("a length in full-width digits", post("Content-Length: ５\r\n", "hello"), Refused),
        ("a blank before the colon of a length", post("Content-Length : 5\r\n", "hello"), Refused),
        ("a blank before the colon of chunks", post("Transfer-Encoding : chunked\r\n", chunked), Refused),
        ("a vertical tab before chunks", post("Transfer-Encoding:\x0bchunked\r\n", chunked), Refused),
        ("a coding that nobody knows", post("Transfer-Encoding: xchunked\r\n", chunked), Refused),
        ("another coding behind chunks", post("Transfer-Encoding: chunked, identity\r\n", chunked), Refused),
        ("chunks named in quotes", post("Transfer-Encoding: \"chunked\"\r\n", chunked), Refused),
        ("identity", post("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", "hello"), Refused),
        (
            "two codings, the last no chunks",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunked),
            Refused,
        ),
        ("chunks in HTTP/1.0", format!("POST /api/v1/check HTTP/1.0\r\nHost: t\r\n{te}\r\n{chunked}"), Refused),
        // How long a chunk is.
        ("an extension of a chunk", post(te, "5;name=value\r\nhello\r\n0\r\n\r\n"), Plain),
        ("an extension with a line break", post(te, "5;a\nb\r\nhello\r\n0\r\n\r\n"), Refused),
        ("an extension without end", post(te, &format!("5;{long}\r\nhello\r\n0\r\n\r\n")), Refused),
        ("a chunk with a sign", post(te, "+5\r\nhello\r\n0\r\n\r\n"), Refused),
        ("a chunk below nothing", post(te, "-5\r\nhello\r\n0\r\n\r\n"), Refused),
        ("a chunk with 0x", post(te, "0x5\r\nhello\r\n0\r\n\r\n"), Refused),
        ("a chunk without a size", post(te, "\r\nhello\r\n0\r\n\r\n"), Refused),
        ("a chunk of 2^64", post(te, "10000000000000000\r\nhello\r\n0\r\n\r\n"), Refused),
        ("a chunk of many digits", post(te, "fffffffffffffffffffff5\r\nhello\r\n0\r\n\r\n"), Refused),
        ("a chunk longer than it says", post(te, "4\r\nhello\r\n0\r\n\r\n"), Refused),
        ("a chunk that ends in a line feed", post(te, "5\r\nhello\n0\r\n\r\n"), Refused),
        ("a size that ends in a line feed", post(te, "5\nhello\r\n0\r\n\r\n"), Refused),
        ("a size that ends in a return", post(te, "5\rhello\r\n0\r\n\r\n"), Refused),
        ("trailers", post(te, "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"), Plain),
        ("trailers without end", post(te, &format!("5\r\nhello\r\n0\r\nX: {long}\r\n\r\n")), Refused),
        // Lines.
        ("a line that goes on in the next", get(ok, "Host: t\r\nX-Folded: a\r\n b\r\n"), Refused),
        ("a length that goes on in the next line", post("Content-Length:\r\n 5\r\n", "hello"), Refused),
        ("a blank before the first header", get(ok, " Host: t\r\n"), Refused),
        ("a blank before the colon", get(ok, "Host : t\r\n"), Refused),
        ("a header without a name", get(ok, ": t\r\n"), Refused),
        ("a header without a colon", get(ok, "Host: t\r\nhello\r\n"), Refused),
        ("a name with a blank", get(ok, "Host: t\r\nX Y: z\r\n"), Refused),
        ("a name with a control character", get(ok, "Host: t\r\nX\x01: z\r\n"), Refused),
        ("a value with a NUL", get(ok, "Host: t\r\nX: a\0b\r\n"), Refused),
        ("a value with a return", get(ok, "Host: t\r\nX: a\rb\r\n"), Refused),
        ("a value with a bell", get(ok, "Host: t\r\nX: a\x07b\r\n"), Refused),
        ("a target with a NUL", get("GET /health\0z HTTP/1.1", "Host: t\r\n"), Refused),
        ("a target with a tab", get("GET /health\tz HTTP/1.1", "Host: t\r\n"), Refused),
        ("a target with a blank", get("GET /health z HTTP/1.1", "Host: t\r\n"), Refused),
        ("a target of 200,000 letters", get(&format!("GET /{long} HTTP/1.1"), "Host: t\r\n"), Refused),
        ("a method of 200,000 letters", get(&format!("{long} / HTTP/1.1"), "Host: t\r\n"), Refused),
        ("a method with a NUL", get("G\0T / HTTP/1.1", "Host: t\r\n"), Refused),
        ("no version", get("GET /healthz", "Host: t\r\n"), Refused),
        ("a version that isn't there", get("GET /healthz HTTP/1.2", "Host: t\r\n"), Refused),
        ("a version of two digits", get("GET /healthz HTTP/1.10", "Host: t\r\n"), Refused),
        ("a version in small letters", get("GET /healthz http/1.1", "Host: t\r\n"), Refused),
        ("the beginning of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), Refused),
        ("many headers", get(ok, &format!("Host: t\r\n{}", "X: y\r\n".repeat(2_000))), Refused),
        ("a header of 200,000 letters", get(ok, &format!("Host: t\r\nX: {long}\r\n")), Refused),
        // Whom it is for.
        ("no host", get(ok, "X: y\r\n"), Refused),
        ("two hosts", get(ok, "Host: t\r\nHost: u\r\n"), Refused),
        ("a host twice", get(ok, "Host: t\r\nhost: t\r\n"), Refused),
        ("two hosts in HTTP/1.0", get("GET /healthz HTTP/1.0", "Host: t\r\nHost: u\r\n"), Refused),
        ("no host in HTTP/1.0", get("GET /healthz HTTP/1.0", "X: y\r\n"), Last),
        // Other forms of the target.
        ("a whole URL", get("GET http://elsewhere/healthz HTTP/1.1", "Host: t\r\n"), Plain),
        ("a whole URL of another scheme", get("GET gopher://elsewhere/nothing HTTP/1.1", "Host: t\r\n"), Plain),
        ("a host and a port", get("GET elsewhere:443 HTTP/1.1", "Host: t\r\n"), Plain),
        ("a tunnel", get("CONNECT elsewhere:443 HTTP/1.1", "Host: t\r\n"), Plain),
        ("a star", get("OPTIONS * HTTP/1.1", "Host: t\r\n"), Plain),
        (
            "a wish to speak something else",
            get(ok, "Host: t\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
            Plain,
        ),
        ("HTTP/1.0", get("GET /healthz HTTP/1.0", "Host: t\r\n"), Last),
        ("a wish to close", get(ok, "Host: t\r\nConnection: close\r\n"), Last),
    ];
    let count = cases.len();
    let mut wrong = Vec::new();
    beside_good_clients("shapes for smuggling", &server, || {
        for (what, bytes, expected) in cases {
            let mut stream = server.anonymous().connect().unwrap();
            // The server may close before it has read everything.
            let _ = stream.write_all(bytes.as_bytes());
            let _ = stream.write_all(SMUGGLED.as_bytes());
            let answer = read_to_close(&mut stream);
            let is_read_on = answer.contains("/smuggled");
            let status = status_of(&answer);
            let is_refused = answer.is_empty() || status.is_some_and(|status| status >= 400);
            let is_as_expected = match expected {
                Refused => is_refused && !is_read_on,
                Plain => status.is_some() && is_read_on && status.is_none_or(|status| status < 500),
                Last => status == Some(200) && !is_read_on,
                Alone => answer.contains("the body is not JSON") && !is_read_on,
            };
            if !is_as_expected {
                let shown: String = answer.chars().take(400).collect();
                wrong.push(format!("{what}: expected {expected:?}, got {shown:?}"));
            }
        }
    });
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{count} shapes");
}

#[test]
fn hundreds_of_requests_at_once_are_answered_in_order_up_to_the_bad_one() {
    const BEFORE: usize = 250;
    let server = TestServer::start();
    beside_good_clients("500 requests in one piece", &server, || {
        let request = |number: usize| {
            format!("GET /api/v1/products/no-{number} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n")
        };
        let before: String = (0..BEFORE).map(request).collect();
        let after: String = (BEFORE..2 * BEFORE).map(request).collect();
        let expect_in_order = |answer: &str, count: usize| {
            // Each answer names the product that isn't there, in quotes within a text of JSON.
            let position = |number: usize| answer.find(&format!("\\\"no-{number}\\\""));
            let positions: Vec<Option<usize>> = (0..count).map(position).collect();
            assert_eq!(positions.iter().position(Option::is_none), None, "the first that wasn't answered, of {count}");
            assert!(positions.is_sorted(), "{positions:?}");
        };
        for bad in [
            "GET /broken HTTP/1.1\r\nHost: t\r\nno colon\r\n\r\n",
            "\0\0\0\0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n",
        ] {
            let answer = server.anonymous().exchange(format!("{before}{bad}{after}").as_bytes());
            expect_in_order(&answer, BEFORE);
            assert_eq!(answer.matches("HTTP/1.1 404").count(), BEFORE, "behind {bad:?} something was answered");
            assert!(answer.contains("HTTP/1.1 400"), "{bad:?} was not refused");
        }
        // All good ones, of which nothing is read until all are sent.
        let answer = server.anonymous().exchange(format!("{before}{after}{SMUGGLED}").as_bytes());
        expect_in_order(&answer, 2 * BEFORE);
        assert_eq!(answer.matches("HTTP/1.1 404").count(), 2 * BEFORE + 1);
    });
}

#[test]
fn a_client_that_closes_its_sending_side_gets_its_answers() {
    let server = TestServer::start();
    let client = server.anonymous();
    let ask = |request: String| {
        let mut stream = client.connect().unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_close(&mut stream)
    };
    // What has to be made durable takes longer than it takes to notice that nothing more will come.
    for number in 0..20 {
        let put = format!(
            "PUT /api/v1/products/p-{number} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        assert!(ask(put.clone()).starts_with("HTTP/1.1 201"));
        let several = put.repeat(3);
        assert_eq!(ask(several).matches("HTTP/1.1 200").count(), 3);
    }
}

#[test]
fn a_body_that_says_it_is_shorter_than_it_is_does_not_become_a_request_of_somebody_else() {
    let server = TestServer::start();
    let fleet = Fleet::new(&server.admin(), "pump");
    fleet.start_task(&server.admin(), json!({}));
    let device = fleet.device(&server.admin(), "p-1");
    // What stands behind its body is a request of the same connection, without the token of the one before.
    let body = device.check_body("1.0").to_string();
    let hidden = "GET /api/v1/tasks HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    let head = format!(
        "POST /api/v1/check HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        device.token,
        body.len()
    );
    let answer = server.anonymous().exchange(format!("{head}{body}{hidden}").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("HTTP/1.1 401"), "{answer}");
    // And one that was refused unread leaves nothing behind that could be read as a request.
    let large = "x".repeat(100_000);
    let unread = format!(
        "POST /api/v1/images HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{large}{SMUGGLED}",
        large.len() + SMUGGLED.len()
    );
    let answer = server.anonymous().exchange(unread.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(!answer.contains("/smuggled"), "{answer}");
}

#[test]
fn ranges_without_measure_cost_no_more_than_the_image_twice() {
    const SIZE: usize = 5_000_000;
    let server = TestServer::start();
    let fleet = Fleet::with_image(&server.admin(), "large", image_bytes(SIZE));
    fleet.start_task(&server.admin(), json!({}));
    let link = fleet.device(&server.admin(), "p-1").offered(&server)["url"].as_str().unwrap().to_owned();
    let path = path_of(&link).to_owned();
    let many = |count: usize, range: &dyn Fn(usize) -> String| (0..count).map(range).collect::<Vec<_>>().join(",");
    let ranges = [
        many(3_500, &|_| "0-".to_owned()),
        many(3_500, &|_| "-1".to_owned()),
        many(3_000, &|n| format!("{n}-{n}")),
        many(2_000, &|n| format!("{n}-")),
        many(1_500, &|n| format!("{}-{}", 9_999 - n, 99_999)),
        many(64, &|_| format!("0-{}", SIZE - 1)),
        many(63, &|n| format!("{}-{}", n * 10, SIZE)),
        many(600, &|_| "18446744073709551615-18446744073709551615".to_owned()),
        many(600, &|_| "99999999999999999999999-99999999999999".to_owned()),
        many(1_000, &|n| format!("{}-{n}", n + 1)),
        ",".repeat(12_000),
        format!("0-{}", "9".repeat(12_000)),
        format!("-{}", "9".repeat(12_000)),
        many(2_000, &|_| " 0 - 1 ".to_owned()),
    ];
    let mut largest = 0;
    beside_good_clients("range bombs", &server, || {
        for range in &ranges {
            for unit in ["bytes", "BYTES", "bytes = "] {
                let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nRange: {unit}={range}\r\nConnection: close\r\n\r\n");
                let mut stream = server.anonymous().connect().unwrap();
                stream.write_all(request.as_bytes()).unwrap();
                let head = Head::read(BufReader::new(stream)).unwrap();
                let shown: String = range.chars().take(60).collect();
                assert!(matches!(head.status, 200 | 206 | 400 | 416 | 431), "{} for {shown}", head.status);
                if matches!(head.status, 200 | 206) {
                    let length = head.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
                    let (_, length) = length.expect("what is sent of an image says how long it is");
                    let length: usize = length.parse().unwrap();
                    assert!(length <= 2 * SIZE + 64 * 200, "{length} bytes for {shown}");
                    largest = largest.max(length);
                }
            }
        }
    });
    println!("{} range headers, the largest answer has {largest} bytes of an image of {SIZE}", ranges.len() * 3);
}
