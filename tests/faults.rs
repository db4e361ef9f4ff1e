//! What a machine does to a program: no files, no room, a disk that fails, files that change under it.

use crate::common::authority::{Authority, connect, shake_hands};
use crate::common::fleet::upload;
use crate::common::http::path_of;
use crate::common::server::{run, sluicegate};
use crate::common::{Fleet, TestServer, image_bytes, wait_until};
use crate::damage::file_of;
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// More than two sockets and everything in between hold.
const LONG_BYTES: usize = 64 << 20;

fn shorten(path: &std::path::Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_len(1 << 20).unwrap();
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
        let image = image_bytes(LONG_BYTES + usize::from(over_tls));
        let link = upload(&server.admin(), &image)["url"].as_str().unwrap().to_owned();
        let path = file_of(&server.data(), &image);
        let came = if over_tls {
            read_while(&mut connect(&server, authority.client()), &link, || shorten(&path))
        } else {
            let mut stream = TcpStream::connect(server.address("http")).unwrap();
            read_while(&mut stream, &link, || shorten(&path))
        };
        assert!(came < LONG_BYTES, "all of it came");
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
        let image = image_bytes(LONG_BYTES + usize::from(over_tls));
        let link = upload(&server.admin(), &image)["url"].as_str().unwrap().to_owned();
        let path = file_of(&server.data(), &image);
        let remove = || fs::remove_file(&path).unwrap();
        let came = if over_tls {
            read_while(&mut connect(&server, authority.client()), &link, remove)
        } else {
            read_while(&mut TcpStream::connect(server.address("http")).unwrap(), &link, remove)
        };
        assert!(came > image.len(), "{came} bytes came");
        server.anonymous().get("/healthz").expect(200);
    }
}

#[test]
fn without_files_left_those_who_are_connected_are_served_and_new_ones_once_there_are_some() {
    // Fewer connections than `limits.connections_max`, so that it is the system that refuses.
    let server = TestServer::setup().args(&["--workers", "1"]).after("ulimit -n 160").start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "lamp");
    fleet.start_task(&admin, json!({ "maximum_concurrency": 1 }));
    let mut first = TcpStream::connect(server.address("http")).unwrap();
    let mut ask = || {
        first.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut reply = [0; 12];
        first.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"HTTP/1.1 200");
        // The rest of the reply, up to the end of its head and the little that follows.
        first.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut rest = [0; 4_096];
        while first.read(&mut rest).is_ok_and(|read| read > 0) {}
        first.set_read_timeout(None).unwrap();
    };
    ask();
    let crowd: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(server.address("http")).unwrap()).collect();
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
