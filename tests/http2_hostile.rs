//! Clients that use HTTP/2 against the server, each with an honest one beside it that is served all the while.

use crate::common::authority::Authority;
use crate::common::h2::{
    CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, H2Client, HEADERS, PING, RST_STREAM, SETTINGS,
    block, frame,
};
use crate::common::{Fleet, TestServer, image_bytes};
use crate::hostile_support::Ends;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const BEARER: (&str, &str) = ("authorization", "Bearer the-administrator-of-these-tests");

/// A server, an image on it, and an honest client that fetches it again and again while somebody else does his worst.
fn beside_an_honest_client(config: &str, hostile: impl FnOnce(&TestServer, &Authority, &str)) {
    let authority = Authority::new();
    authority.sign("server");
    let server = authority.start_configured(&[], config);
    let image = image_bytes(1_000_000);
    let id = Fleet::with_image(&server.admin(), "lamp", image.clone()).image_id;
    let path = format!("/api/v1/images/{id}");
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let fetch = |client: &mut H2Client| {
        let answer = client.ask("GET", &path, &[BEARER], None);
        assert_eq!(answer.status, 200);
        assert!(answer.body == image);
    };
    std::thread::scope(|scope| {
        let honest = scope.spawn(|| {
            let mut client = H2Client::connect(&server, authority.client());
            while !over.load(Ordering::Relaxed) {
                fetch(&mut client);
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _ends = Ends(&over);
        crate::common::wait_until("the honest client is served", || (served.load(Ordering::Relaxed) > 0).then_some(()));
        hostile(&server, &authority, &path);
        let before = served.load(Ordering::Relaxed);
        crate::common::wait_until("the honest client is still served", || {
            assert!(!honest.is_finished(), "the honest client was not served");
            (served.load(Ordering::Relaxed) > before + 2).then_some(())
        });
    });
    fetch(&mut H2Client::connect(&server, authority.client()));
}

#[test]
fn replies_that_nobody_takes_are_given_up_one_by_one() {
    const STALLED: usize = 30;
    beside_an_honest_client("[limits]\nwrite_timeout_s = 1", |server, authority, path| {
        let mut client = H2Client::connect_and_take_nothing(server, authority.client());
        let streams: Vec<u32> = (0..STALLED).map(|_| client.request("GET", path, &[BEARER], None)).collect();
        let short = client.request("GET", "/api/v1/products", &[BEARER], None);
        // Of half of them some bytes are taken, and then no more.
        for stream in streams.iter().step_by(2) {
            client.window(*stream, 1_000);
        }
        for stream in streams.iter().chain([&short]) {
            let end = client.wait_for("end of a stalled stream", |frame| frame.stream == *stream && frame.kind == RST_STREAM);
            assert_eq!(end.reason(), CANCEL);
        }
        let stream = client.request("GET", "/api/v1/products", &[BEARER], None);
        client.window(stream, 100_000);
        assert_eq!(client.answer(stream).status, 200, "the connection goes on");
    });
}

#[test]
fn short_replies_of_which_a_byte_is_taken_end_their_connection() {
    beside_an_honest_client("[limits]\nwrite_timeout_s = 1", |server, authority, _| {
        let mut client = H2Client::connect_and_take_nothing(server, authority.client());
        for _ in 0..50 {
            let stream = client.request("GET", "/api/v1/products", &[BEARER], None);
            client.window(stream, 1);
        }
        let frames = client.read_to_close();
        assert!(!frames.iter().any(|frame| frame.ends_stream()));
        assert_eq!(frames.iter().filter(|frame| frame.kind == DATA).count(), 50);
    });
}

#[test]
fn a_client_that_reads_nothing_at_all_is_closed() {
    beside_an_honest_client("[limits]\nwrite_timeout_s = 1", |server, authority, path| {
        let mut client = H2Client::connect(server, authority.client());
        for _ in 0..90 {
            client.request("GET", path, &[BEARER], None);
        }
        // Nothing is read until the server has given it up.
        crate::common::wait_until("the connection is given up", || {
            (server.metric("sluicegate_connections_timed_out_total") > 0.0).then_some(())
        });
        let frames = client.read_to_close();
        assert!(frames.iter().filter(|frame| frame.ends_stream()).count() < 90, "not everything can have fit in between");
    });
}

#[test]
fn requests_taken_back_at_once_end_the_connection() {
    beside_an_honest_client("", |server, authority, path| {
        let mut client = H2Client::connect(server, authority.client());
        let mut bytes = Vec::new();
        for _ in 0..2_000 {
            let stream = client.new_stream();
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block("GET", path, &[BEARER])));
            bytes.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
        }
        // The server may close before it has read everything.
        let _ = client.send_bytes(&bytes);
        let frames = client.read_to_close();
        let farewell = frames.iter().find(|frame| frame.kind == GOAWAY);
        assert!(farewell.is_none_or(|frame| frame.reason() == ENHANCE_YOUR_CALM), "{farewell:?}");
    });
}

#[test]
fn requests_taken_back_while_they_run_end_the_connection() {
    beside_an_honest_client("", |server, authority, _| {
        let mut client = H2Client::connect(server, authority.client());
        let mut taken_back = 0;
        while taken_back < 1_000 {
            let stream = client.new_stream();
            let begun =
                [frame(HEADERS, END_HEADERS, stream, &block("POST", "/api/v1/check", &[BEARER])), frame(PING, 0, 0, b"settled?")];
            if client.send_bytes(&begun.concat()).is_err() || client.try_read().is_err() {
                break;
            }
            if client.try_send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()).is_err() {
                break;
            }
            taken_back += 1;
        }
        client.read_to_close();
        assert!((100..1_000).contains(&taken_back), "closed after {taken_back}");
    });
}

#[test]
fn a_head_without_end_is_cut_off() {
    beside_an_honest_client("", |server, authority, _| {
        let mut client = H2Client::connect(server, authority.client());
        let stream = client.new_stream();
        client.send(HEADERS, END_STREAM, stream, &block("GET", "/healthz", &[]));
        let more = block("GET", "/", &[("x", &"y".repeat(8_000))]).split_off(block("GET", "/", &[]).len());
        let mut sent = 0;
        while sent < 100_000 && client.try_send(CONTINUATION, 0, stream, &more).is_ok() {
            sent += 1;
        }
        client.read_to_close();
        assert!(sent < 100_000, "it took everything");
    });
}

#[test]
fn empty_pieces_of_a_head_are_cut_off() {
    beside_an_honest_client("", |server, authority, _| {
        let mut client = H2Client::connect(server, authority.client());
        let stream = client.new_stream();
        client.send(HEADERS, END_STREAM, stream, &block("GET", "/healthz", &[]));
        let flood = frame(CONTINUATION, 0, stream, &[]).repeat(1_000);
        let mut sent = 0;
        while sent < 1_000 && client.send_bytes(&flood).is_ok() {
            sent += 1;
        }
        client.read_to_close();
        assert!(sent < 1_000, "it took everything");
    });
}

#[test]
fn a_head_beyond_the_bounds_is_refused_and_the_connection_goes_on() {
    beside_an_honest_client("", |server, authority, _| {
        let mut client = H2Client::connect(server, authority.client());
        let long = client.open("GET", "/healthz", &[("x-long", &"x".repeat(17_000))], true);
        let many: Vec<(String, String)> = (0..101).map(|number| (format!("x-{number}"), String::new())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(client.answer(long).status, 431);
        let many = client.open("GET", "/healthz", &many, true);
        assert_eq!(client.answer(many).status, 431);
        assert_eq!(client.ask("GET", "/healthz", &[], None).status, 200);
    });
}

#[test]
fn floods_of_small_frames_that_nobody_reads_the_answers_to_end_the_connection() {
    beside_an_honest_client("[limits]\nwrite_timeout_s = 1\nidle_timeout_s = 2", |server, authority, _| {
        for (kind, payload) in [(PING, &b"answer!!"[..]), (SETTINGS, &[])] {
            let mut client = H2Client::connect(server, authority.client());
            let flood = frame(kind, 0, 0, payload).repeat(10_000);
            let mut sent = 0;
            while sent < 10_000 && client.send_bytes(&flood).is_ok() {
                sent += 1;
            }
            assert!(sent < 10_000, "it took everything");
        }
    });
}

#[test]
fn broken_frames_end_their_connection_alone() {
    beside_an_honest_client("", |server, authority, _| {
        for broken in [
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            frame(HEADERS, END_HEADERS | END_STREAM, 0, &block("GET", "/", &[])),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 100]),
            frame(DATA, END_STREAM, 1, b"for a stream that isn't there"),
            frame(CONTINUATION, END_HEADERS, 1, &[]),
            frame(8, 0, 0, &0x7fff_ffff_u32.to_be_bytes()).repeat(3),
            frame(SETTINGS, 0, 0, &[0; 5]),
            [&frame(HEADERS, END_HEADERS, 1, &[])[..3], &[0xff; 100]].concat(),
            frame(DATA, 0, 1, &vec![0; 20_000]),
        ] {
            let mut client = H2Client::connect(server, authority.client());
            let _ = client.send_bytes(&broken);
            client.read_to_close();
        }
    });
}
