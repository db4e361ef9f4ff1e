//! Image bytes by ranges and conditions, clause by clause of RFC 9110.

use crate::common::fleet::upload;
use crate::common::{Client, Response, TestServer, image_bytes};
use serde_json::Value;

const SIZE: usize = 100_000;

/// A server with one image, and a signed link to it.
struct World {
    #[expect(dead_code, reason = "keeps the server running")]
    server: TestServer,
    client: Client,
    image: Vec<u8>,
    link: String,
    uploaded: Value,
}

impl World {
    fn new() -> Self {
        let server = TestServer::start();
        let image = image_bytes(SIZE);
        let uploaded = upload(&server.admin(), &image);
        let link = uploaded["url"].as_str().unwrap().to_owned();
        Self { client: server.anonymous(), server, image, link, uploaded }
    }

    #[track_caller]
    fn ranged(&self, range: &str) -> Response {
        self.client.request("GET", &self.link).header("Range", range).send()
    }

    #[track_caller]
    fn with(&self, headers: &[(&str, &str)]) -> Response {
        let request = self.client.request("GET", &self.link);
        headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
    }
}

/// The parts of a `multipart/byteranges` answer, as offsets and bytes.
#[track_caller]
fn parts(response: &Response) -> Vec<(usize, Vec<u8>)> {
    let content_type = response.header("Content-Type").unwrap();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap_or_else(|| panic!("{content_type}"));
    let delimiter = format!("\r\n--{}", boundary.trim_matches('"')).into_bytes();
    // The first delimiter may lack its line break: given one, all are alike.
    let body = [b"\r\n", response.body.as_slice()].concat();
    let find = |from: usize, what: &[u8]| body[from..].windows(what.len()).position(|window| window == what).map(|at| from + at);
    let mut parts = Vec::new();
    let mut at = find(0, &delimiter).unwrap();
    loop {
        let head = at + delimiter.len();
        if body[head..].starts_with(b"--") {
            return parts;
        }
        let content = find(head, b"\r\n\r\n").unwrap() + 4;
        let headers = String::from_utf8(body[head..content].to_vec()).unwrap().to_ascii_lowercase();
        let range = headers.split("content-range: bytes ").nth(1).unwrap();
        let (first, rest) = range.split_once('-').unwrap();
        let (last, size) = rest.split_once('/').unwrap();
        assert_eq!(size.trim_end().lines().next(), Some(SIZE.to_string().as_str()));
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        // By length, not by searching: the image may contain anything.
        at = content + last + 1 - first;
        assert!(body[at..].starts_with(&delimiter), "the part {first}-{last} has another length than it says");
        parts.push((first, body[content..at].to_vec()));
    }
}

#[test]
fn the_whole_image_comes_with_its_length_tag_and_digests() {
    let world = World::new();
    let response = world.client.get(&world.link).expect(200);
    assert_eq!(response.body, world.image);
    assert_eq!(response.header("Content-Length"), Some(SIZE.to_string().as_str()));
    assert_eq!(response.header("Transfer-Encoding"), None);
    assert_eq!(response.header("Accept-Ranges"), Some("bytes"));
    let tag = response.header("ETag").unwrap();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "a strong tag: {tag}");
    assert!(
        response.header("Repr-Digest").is_some_and(|digest| digest.contains("sha-256=:")),
        "{:?}",
        response.header("Repr-Digest")
    );
    assert!(response.header("Content-MD5").is_some());
}

#[test]
fn a_single_range_is_served_byte_for_byte() {
    let world = World::new();
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=0-1023", 0, 1_023),
        ("bytes=1024-2047", 1_024, 2_047),
        ("bytes=99999-99999", 99_999, 99_999),
        ("bytes=99000-", 99_000, 99_999),
        ("bytes=0-", 0, 99_999),
        ("bytes=99990-500000", 99_990, 99_999),
        ("bytes=99990-99999999999999999999999", 99_990, 99_999),
        ("bytes=-1", 99_999, 99_999),
        ("bytes=-1000", 99_000, 99_999),
        ("bytes=-500000", 0, 99_999),
    ] {
        let response = world.ranged(range).expect(206);
        assert_eq!(response.header("Content-Range"), Some(format!("bytes {first}-{last}/{SIZE}").as_str()), "{range}");
        assert_eq!(response.header("Content-Length"), Some((last + 1 - first).to_string().as_str()), "{range}");
        assert_eq!(response.body, &world.image[first..=last], "{range}");
    }
}

#[test]
fn an_image_fetched_in_small_ranges_is_the_image() {
    let world = World::new();
    let mut fetched = Vec::new();
    while fetched.len() < SIZE {
        let range = format!("bytes={}-{}", fetched.len(), fetched.len() + 4_999);
        fetched.extend(world.ranged(&range).expect(206).body);
    }
    assert_eq!(fetched, world.image);
}

#[test]
fn several_ranges_come_in_the_order_asked_for_overlapping_or_not() {
    let world = World::new();
    for (range, expected) in [
        ("bytes=0-9,20-29", vec![(0, 10), (20, 10)]),
        ("bytes=5000-5999,0-99", vec![(5_000, 1_000), (0, 100)]),
        ("bytes=0-999,500-1499", vec![(0, 1_000), (500, 1_000)]),
        ("bytes=-10,0-9", vec![(99_990, 10), (0, 10)]),
        ("bytes=7-7, 7-7 ,8-8", vec![(7, 1), (7, 1), (8, 1)]),
    ] {
        let response = world.ranged(range).expect(206);
        assert_eq!(response.header("Content-Length"), Some(response.body.len().to_string().as_str()), "{range}");
        let parts = parts(&response);
        let found: Vec<(usize, usize)> = parts.iter().map(|(offset, bytes)| (*offset, bytes.len())).collect();
        assert_eq!(found, expected, "{range}");
        for (offset, bytes) in &parts {
            assert_eq!(bytes, &world.image[*offset..offset + bytes.len()], "{range} at {offset}");
        }
    }
}

#[test]
fn of_several_ranges_those_beyond_the_image_are_left_out() {
    let world = World::new();
    let response = world.ranged("bytes=200000-200009,10-19").expect(206);
    // One is left: a single part, or the plain form.
    let bytes = match response.header("Content-Range") {
        Some(range) => {
            assert_eq!(range, "bytes 10-19/100000");
            response.body
        }
        None => parts(&response).remove(0).1,
    };
    assert_eq!(bytes, &world.image[10..20]);
}

#[test]
fn a_range_beyond_the_image_is_not_satisfiable_and_says_how_long_it_is() {
    let world = World::new();
    for range in ["bytes=100000-", "bytes=100000-100001", "bytes=-0", "bytes=200000-300000,400000-"] {
        let response = world.ranged(range).expect(416);
        assert_eq!(response.header("Content-Range"), Some("bytes */100000"), "{range}");
    }
}

#[test]
fn what_is_no_range_of_bytes_is_ignored() {
    let world = World::new();
    for range in ["lines=1-2", "bytes=5-2", "bytes=a-b", "bytes=", "bytes", "bytes=1", "bytes=--1", "bytes=1-2-3", ""] {
        let response = world.ranged(range).expect(200);
        assert_eq!(response.body, world.image, "{range:?}");
    }
}

#[test]
fn a_range_bomb_costs_no_more_than_the_image() {
    let world = World::new();
    let whole = vec!["0-"; 1_000].join(",");
    let tiny: Vec<String> = (0..2_000).map(|offset| format!("{0}-{0}", offset * 2)).collect();
    for ranges in [whole, tiny.join(",")] {
        let response = world.ranged(&format!("bytes={ranges}"));
        assert!(matches!(response.status, 200 | 206 | 400 | 416 | 431), "{}", response.status);
        // Room for a part's head a range, but never for copies of the image.
        assert!(response.body.len() <= 3 * SIZE, "{} bytes", response.body.len());
    }
    assert_eq!(world.ranged("bytes=0-9").expect(206).body, &world.image[..10], "it serves on");
}

#[test]
fn head_answers_as_get_does_without_the_bytes_and_ignores_ranges() {
    let world = World::new();
    let response = world.client.head(&world.link).expect(200);
    assert!(response.body.is_empty());
    assert_eq!(response.header("Content-Length"), Some("100000"));
    let get = world.client.get(&world.link);
    assert_eq!(response.header("ETag"), get.header("ETag"));
    let ranged = world.client.request("HEAD", &world.link).header("Range", "bytes=0-9").send().expect(200);
    assert_eq!(ranged.header("Content-Length"), Some("100000"));
}

#[test]
fn a_range_applies_only_if_the_tag_is_still_the_same() {
    let world = World::new();
    let tag = world.client.head(&world.link).header("ETag").unwrap().to_owned();
    let same = world.with(&[("Range", "bytes=0-9"), ("If-Range", &tag)]).expect(206);
    assert_eq!(same.body, &world.image[..10]);
    for other in ["\"another\"", &format!("W/{tag}"), "Sat, 01 Jan 2000 00:00:00 GMT"] {
        let whole = world.with(&[("Range", "bytes=0-9"), ("If-Range", other)]).expect(200);
        assert_eq!(whole.body, world.image, "{other}");
    }
}

#[test]
fn conditions_on_the_tag_are_kept() {
    let world = World::new();
    let tag = world.client.head(&world.link).header("ETag").unwrap().to_owned();
    for condition in [tag.as_str(), "*", &format!("\"x\", {tag}"), &format!("W/{tag}")] {
        let response = world.with(&[("If-None-Match", condition)]).expect(304);
        assert!(response.body.is_empty());
        assert_eq!(response.header("ETag"), Some(tag.as_str()));
    }
    world.with(&[("If-None-Match", "\"x\"")]).expect(200);
    for condition in [tag.as_str(), "*", &format!("\"x\", {tag}")] {
        world.with(&[("If-Match", condition)]).expect(200);
    }
    for condition in ["\"x\"", &format!("W/{tag}")] {
        world.with(&[("If-Match", condition)]).expect(412);
    }
    world.with(&[("If-Match", &tag), ("Range", "bytes=0-9")]).expect(206);
}

#[test]
fn the_bytes_are_the_same_with_a_token_as_by_link() {
    let world = World::new();
    let path = format!("/api/v1/images/{}", world.uploaded["image"].as_str().unwrap());
    world.client.get(&path).expect(401);
    let admin = world.client.with_token(crate::common::ADMIN_TOKEN);
    assert_eq!(admin.get(&path).expect(200).body, world.image);
    let part = admin.request("GET", &path).header("Range", "bytes=10-19").send().expect(206);
    assert_eq!(part.body, &world.image[10..20]);
}
