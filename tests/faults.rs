//! What a machine does to a program: no files, a disk that fails, files and a clock that change under it.

use crate::common::authority::{Authority, connect, shake_hands};
use crate::common::fleet::{count, upload};
use crate::common::http::{Head, path_of};
use crate::common::server::{run, sluicegate};
use crate::common::{Fleet, TestServer, image_bytes, raise_open_files, wait_until};
use crate::damage::file_of;
use crate::events::Events;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// More than two sockets and everything in between hold.
const LONG_BYTES: usize = 64 << 20;

fn shorten(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_len(1 << 20).unwrap();
}

/// Downloads a long image, over TLS or not, and lets `meddle` at its file in the middle: how many bytes came, and how many the image has.
fn download_while(server: &TestServer, authority: &Authority, over_tls: bool, meddle: impl FnOnce(&Path)) -> (usize, usize) {
    let image = image_bytes(LONG_BYTES + usize::from(over_tls));
    let link = upload(&server.admin(), &image)["url"].as_str().unwrap().to_owned();
    let path = file_of(&server.data(), &image);
    let came = if over_tls {
        read_while(&mut connect(server, authority.client()), &link, || meddle(&path))
    } else {
        read_while(&mut TcpStream::connect(server.address("http")).unwrap(), &link, || meddle(&path))
    };
    (came, image.len())
}

/// Asks for a whole image, reads a little, lets `meddle` do its work, and reads the rest: how many bytes came.
fn read_while(stream: &mut (impl Read + Write), link: &str, meddle: impl FnOnce()) -> usize {
    write!(stream, "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path_of(link)).unwrap();
    let mut begin = [0; 100_000];
    stream.read_exact(&mut begin).unwrap();
    assert!(begin.starts_with(b"HTTP/1.1 200 "));
    meddle();
    let mut rest = Vec::new();
    // Whether it ends in order or is broken off is all the same to whoever counts.
    let _ = stream.read_to_end(&mut rest);
    begin.len() + rest.len()
}

#[test]
fn an_image_that_is_shortened_while_it_is_sent_ends_its_connection_and_the_server_goes_on() {
    let authority = Authority::new();
    authority.sign("server");
    let server = authority.start(&[]);
    for over_tls in [false, true] {
        let (came, image_bytes_long) = download_while(&server, &authority, over_tls, shorten);
        assert!(came < image_bytes_long, "all of it came");
        server.anonymous().get("/healthz").expect(200);
        let good = image_bytes(50_000);
        let link = upload(&server.admin(), &good)["url"].as_str().unwrap().to_owned();
        assert_eq!(server.anonymous().get(&link).expect(200).body, good);
    }
}

#[test]
fn an_image_that_is_removed_while_it_is_sent_arrives_whole() {
    let authority = Authority::new();
    authority.sign("server");
    let server = authority.start(&[]);
    for over_tls in [false, true] {
        let (came, image_bytes_long) = download_while(&server, &authority, over_tls, |path| fs::remove_file(path).unwrap());
        assert!(came > image_bytes_long, "{came} bytes came");
        server.anonymous().get("/healthz").expect(200);
    }
}

#[test]
fn without_files_left_those_who_are_connected_are_served_and_new_ones_once_there_are_some() {
    // With so few files the server takes 64 connections at most, and lets others in to tell them so. But it has more than 30 files open for
    // itself, and so none left before the 64 are taken: it is the system that refuses, for as long as the crowd is there.
    let server = TestServer::setup().args(&["--workers", "1"]).after("ulimit -n 80").start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "lamp");
    fleet.start_task(&admin, json!({ "maximum_concurrency": 1 }));
    let first = TcpStream::connect(server.address("http")).unwrap();
    let ask = || {
        (&first).write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        Head::read(BufReader::new(&first)).unwrap().into_response("GET", "GET /healthz".to_owned()).unwrap().expect(200);
    };
    ask();
    raise_open_files();
    let crowd: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(server.address("http")).unwrap()).collect();
    wait_until("there are no files left", || server.log().contains("can't be accepted").then_some(()));
    ask();
    drop(crowd);
    wait_until("new connections are served", || {
        let reply = server.anonymous().request("GET", "/healthz").try_send().ok()?;
        (reply.status == 200).then_some(())
    });
    server.admin().get("/api/v1/tasks").expect(200);
}

#[test]
fn where_the_disk_fails_commands_are_refused_and_all_that_was_confirmed_is_there_at_the_next_start() {
    // A write beyond the limit fails; without the signal that would come with it, as a write does on a broken disk.
    let mut server = TestServer::setup().after("trap '' XFSZ; ulimit -f 600").start();
    let admin = server.admin();
    let mut confirmed = Vec::new();
    let refused = loop {
        let product_id = format!("product-{}", confirmed.len());
        // Long, so that it doesn't take long.
        let body = json!({ "name": "n".repeat(100), "description": "d".repeat(900) });
        let reply = admin.put(&format!("/api/v1/products/{product_id}"), &body);
        if reply.status >= 500 {
            break reply;
        }
        assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
        confirmed.push(product_id);
        assert!(confirmed.len() < 100_000, "the disk never failed");
    };
    assert!(matches!(refused.status, 503 | 507), "{} {}", refused.status, refused.text());
    assert!(refused.header("retry-after").is_some());
    // What is there can still be read.
    admin.get(&format!("/api/v1/products/{}", confirmed[0])).expect(200);
    server.anonymous().get("/healthz").expect(200);
    server.kill();
    let mut server = server.without_shell();
    server.start_again();
    for product_id in &confirmed {
        server.admin().get(&format!("/api/v1/products/{product_id}")).expect(200);
    }
    server.admin().put("/api/v1/products/one-more", &json!({})).expect(201);
}

#[test]
fn a_certificate_that_has_expired_is_refused_by_clients_and_replaced_without_a_restart() {
    let authority = Authority::new();
    authority.sign_expired("server");
    let server = authority.start(&[]);
    let refused = shake_hands(&mut connect(&server, authority.client())).unwrap_err();
    assert!(refused.to_string().to_lowercase().contains("expired"), "{refused}");
    // Who needs no certificate is served all the while.
    server.anonymous().get("/healthz").expect(200);
    authority.sign("server");
    server.signal(Signal::HUP);
    wait_until("the new certificate is shown", || shake_hands(&mut connect(&server, authority.client())).ok());
}

#[test]
fn a_folder_that_cannot_be_written_is_named_at_the_start() {
    // Nobody makes folders here, not even root.
    let output = run(sluicegate().args(["serve", "--listen", "127.0.0.1:0", "--data", "/proc/sluicegate"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("/proc/sluicegate"), "{said}");
}

#[test]
fn in_little_memory_large_images_are_taken_in_and_served_all_the_same() {
    // 200 MB of data, for a program with 256 MiB of images.
    let server = TestServer::setup().args(&["--workers", "1"]).after("ulimit -d 200000").start();
    let admin = server.admin();
    let images: Vec<Vec<u8>> = (0..4).map(|number| image_bytes(LONG_BYTES + number)).collect();
    let links: Vec<String> = images.iter().map(|image| upload(&admin, image)["url"].as_str().unwrap().to_owned()).collect();
    for (image, link) in images.iter().zip(&links) {
        assert!(server.anonymous().get(link).expect(200).body == *image);
    }
}

/// Says what time it is: so many seconds after the real one.
fn set_clock(file: &Path, offset_s: i64) {
    // Replaced whole, as it may be read at any moment.
    let next = file.with_extension("next");
    fs::write(&next, format!("{offset_s:+}\n")).unwrap();
    fs::rename(next, file).unwrap();
}

#[test]
fn while_a_clock_that_went_back_catches_up_caps_and_offers_hold_and_work_goes_on() {
    let installed = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"));
    let library = installed.into_iter().find(|path| path.exists()).expect("this needs libfaketime: apt-get install faketime");
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    set_clock(&clock, 0);
    let clock_of_its_own = format!(
        "export LD_PRELOAD={} FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1",
        library.display(),
        clock.display()
    );
    let mut server = TestServer::setup().after(&clock_of_its_own).start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "lamp");
    let task = fleet.start_task(&admin, json!({ "maximum_concurrency": 2, "timeout_s": 600 }));
    let devices: Vec<_> = (0..4).map(|number| fleet.device(&admin, &format!("lamp-{number}"))).collect();
    let offers: Vec<Value> = devices[..2].iter().map(|device| device.offered(&server)).collect();
    let behind_s = |server: &TestServer| server.metric("sluicegate_clock_behind_seconds");

    set_clock(&clock, -3_600);
    wait_until("it is noticed", || (behind_s(&server) > 3_500.0).then_some(()));
    wait_until("the log says so", || server.log().contains("the system's clock went back").then_some(()));
    // Who has an offer still has it, with the deadline that it was told, and its link is good; nobody else gets one.
    for (device, offer) in devices.iter().zip(&offers) {
        let again = device.offered(&server);
        assert_eq!((&again["id"], &again["deadline"]), (&offer["id"], &offer["deadline"]));
        assert_eq!(server.anonymous().get(again["url"].as_str().unwrap()).expect(200).body, fleet.image);
    }
    assert_eq!(devices[2].refused(&server), "cap");
    // A result gives its permit back, and the next is offered no earlier a deadline than those before it.
    devices[0].report(&server, &offers[0]["id"], "succeeded").expect(200);
    let third = devices[2].offered(&server);
    assert!(third["deadline"].as_str().unwrap() >= offers[0]["deadline"].as_str().unwrap(), "{third} after {}", offers[0]);
    assert_eq!(devices[3].refused(&server), "cap");
    let mut events = Events::open(&admin, "/api/v1/events", None);
    let mut times: Vec<String> = Vec::new();
    loop {
        let (_, event) = events.next();
        times.push(event["at"].as_str().unwrap().to_owned());
        if event["upgrade_id"] == third["id"] {
            break;
        }
    }
    assert!(times.is_sorted(), "{times:?}");

    // A new start begins with the time that it finds; what was acknowledged is there.
    server.kill_and_start_again();
    assert_eq!(behind_s(&server), 0.0);
    assert_eq!(devices[1].offered(&server)["id"], offers[1]["id"]);
    assert_eq!(devices[2].offered(&server)["id"], third["id"]);
    assert_eq!(devices[3].refused(&server), "cap");

    // And once the deadlines have passed by any clock, they end.
    set_clock(&clock, 3_600);
    wait_until("both have timed out", || (count(&server.admin(), &task, "timed_out") == 2).then_some(()));
    devices[3].offered(&server);
}
