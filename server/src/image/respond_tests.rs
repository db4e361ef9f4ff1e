use super::*;
use expect_test::{Expect, expect};
use http_body_util::BodyExt;
use proptest::prelude::*;
use sluicegate::image::{Declared, ImageStore};
use std::fs::{File, FileTimes};
use std::time::{Duration, UNIX_EPOCH};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
/// Thu, 15 Jan 2026 08:00:00 GMT.
const MODIFIED_S: u64 = 1_768_464_000;
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

/// An image with a date of our choice, which is read at its verification.
struct Fixture {
    _folder: TempDir,
    image: SealedImage,
}

fn fixture(content: &[u8]) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let mut ingest = ImageStore::open(folder.path()).unwrap().begin(Declared::default(), u64::MAX).unwrap();
    ingest.write(Bytes::copy_from_slice(content)).unwrap();
    let id = ingest.finish().unwrap().0.id();
    let name = id.to_string();
    let file = File::open(folder.path().join("images").join(&name[..2]).join(&name)).unwrap();
    file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(MODIFIED_S))).unwrap();
    let image = ImageStore::open(folder.path()).unwrap().open_image(id, content.len() as u64).unwrap();
    Fixture { _folder: folder, image }
}

impl Fixture {
    fn ask(&self, method: &Method, fields: &[(&str, &str)]) -> (::http::response::Parts, Vec<u8>) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let reply = respond(method, &headers, &self.image, None, NOW);
        let (parts, body) = reply.into_parts();
        let expected = body.left_bytes();
        let Some(Ok(body)) = futures_free(body.collect()) else { panic!("the body waits for something") };
        let body = body.to_bytes().to_vec();
        assert_eq!(body.len() as u64, expected);
        if *method == Method::GET && parts.status != StatusCode::NOT_MODIFIED {
            assert_eq!(parts.headers[CONTENT_LENGTH], expected.to_string());
        }
        (parts, body)
    }

    /// Status line, fields in order of their names, and content, as text.
    fn show(&self, method: &Method, fields: &[(&str, &str)]) -> String {
        let (parts, body) = self.ask(method, fields);
        let mut lines: Vec<String> =
            parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        format!("{}\n{}\n\n{}\n", parts.status, lines.join("\n"), String::from_utf8_lossy(&body).replace('\r', ""))
    }
}

/// The bodies here never wait, so no runtime is needed to read them.
fn futures_free<T>(future: impl Future<Output = T>) -> Option<T> {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

fn check(method: &Method, fields: &[(&str, &str)], expected: Expect) {
    expected.assert_eq(&fixture(ALPHABET).show(method, fields));
}

const TAG: &str = "\"71c480df93d6ae2f1efad1447c66c9525e316218cf51fc8d9ed832f2daf18b73\"";

//= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.1
//= type=test
#[test]
fn get_answers_the_whole_image_with_its_digests() {
    check(
        &Method::GET,
        &[],
        expect![[r#"
        200 OK
        accept-ranges: bytes
        cache-control: private, no-transform, immutable, max-age=31536000
        content-length: 26
        content-md5: w/zT12GS5AB9+0lsymfhOw==
        content-type: application/octet-stream
        etag: "71c480df93d6ae2f1efad1447c66c9525e316218cf51fc8d9ed832f2daf18b73"
        last-modified: Thu, 15 Jan 2026 08:00:00 GMT
        repr-digest: sha-256=:ccSA35PWri8e+tFEfGbJUl4xYhjPUfyNntgy8trxi3M=:

        abcdefghijklmnopqrstuvwxyz
    "#]],
    );
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.2
//= type=test
#[test]
fn head_answers_as_get_of_the_whole_without_content_and_ignores_range() {
    check(
        &Method::HEAD,
        &[("range", "bytes=0-3")],
        expect![[r#"
        200 OK
        accept-ranges: bytes
        cache-control: private, no-transform, immutable, max-age=31536000
        content-length: 26
        content-md5: w/zT12GS5AB9+0lsymfhOw==
        content-type: application/octet-stream
        etag: "71c480df93d6ae2f1efad1447c66c9525e316218cf51fc8d9ed832f2daf18b73"
        last-modified: Thu, 15 Jan 2026 08:00:00 GMT
        repr-digest: sha-256=:ccSA35PWri8e+tFEfGbJUl4xYhjPUfyNntgy8trxi3M=:


    "#]],
    );
    let fixture = fixture(ALPHABET);
    assert_eq!(fixture.ask(&Method::HEAD, &[("range", "bytes=99-")]).0.headers, fixture.ask(&Method::GET, &[]).0.headers);
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7.1
//= type=test
#[test]
fn one_range_answers_206_with_content_range_and_no_content_md5() {
    check(
        &Method::GET,
        &[("range", "bytes=23-99")],
        expect![[r#"
        206 Partial Content
        cache-control: private, no-transform, immutable, max-age=31536000
        content-length: 3
        content-range: bytes 23-25/26
        content-type: application/octet-stream
        etag: "71c480df93d6ae2f1efad1447c66c9525e316218cf51fc8d9ed832f2daf18b73"
        last-modified: Thu, 15 Jan 2026 08:00:00 GMT
        repr-digest: sha-256=:ccSA35PWri8e+tFEfGbJUl4xYhjPUfyNntgy8trxi3M=:

        xyz
    "#]],
    );
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7.2
//= type=test
#[test]
fn several_ranges_answer_multipart_in_the_order_asked_for() {
    check(
        &Method::GET,
        &[("range", "bytes=20-22, 0-3,2-4, -1, 26-")],
        expect![[r#"
        206 Partial Content
        cache-control: private, no-transform, immutable, max-age=31536000
        content-length: 489
        content-type: multipart/byteranges; boundary=71c480df93d6ae2f1efad1447c66c952
        etag: "71c480df93d6ae2f1efad1447c66c9525e316218cf51fc8d9ed832f2daf18b73"
        last-modified: Thu, 15 Jan 2026 08:00:00 GMT
        repr-digest: sha-256=:ccSA35PWri8e+tFEfGbJUl4xYhjPUfyNntgy8trxi3M=:

        --71c480df93d6ae2f1efad1447c66c952
        Content-Type: application/octet-stream
        Content-Range: bytes 20-22/26

        uvw
        --71c480df93d6ae2f1efad1447c66c952
        Content-Type: application/octet-stream
        Content-Range: bytes 0-3/26

        abcd
        --71c480df93d6ae2f1efad1447c66c952
        Content-Type: application/octet-stream
        Content-Range: bytes 2-4/26

        cde
        --71c480df93d6ae2f1efad1447c66c952
        Content-Type: application/octet-stream
        Content-Range: bytes 25-25/26

        z
        --71c480df93d6ae2f1efad1447c66c952--

    "#]],
    );
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7
//= type=test
#[test]
fn a_range_with_if_range_answers_only_what_the_asker_has_not() {
    check(
        &Method::GET,
        &[("range", "bytes=0-3"), ("if-range", TAG)],
        expect![[r#"
        206 Partial Content
        cache-control: private, no-transform, immutable, max-age=31536000
        content-length: 4
        content-range: bytes 0-3/26
        etag: "71c480df93d6ae2f1efad1447c66c9525e316218cf51fc8d9ed832f2daf18b73"

        abcd
    "#]],
    );
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.17
//= type=test
#[test]
fn a_range_beyond_the_end_answers_416_with_the_size() {
    check(
        &Method::GET,
        &[("range", "bytes=26-")],
        expect![[r#"
        416 Range Not Satisfiable
        content-length: 205
        content-range: bytes */26
        content-type: application/json

        {"error":{"code":"range_not_satisfiable","message":"the image has 26 bytes and no range asked for begins inside it, or more than 64 ranges or twice the image were asked for; ask for fewer bytes below 26"}}
    "#]],
    );
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.4.5
//= type=test
#[test]
fn what_the_asker_has_answers_304_without_content() {
    check(
        &Method::GET,
        &[("if-none-match", TAG)],
        expect![[r#"
        304 Not Modified
        cache-control: private, no-transform, immutable, max-age=31536000
        etag: "71c480df93d6ae2f1efad1447c66c9525e316218cf51fc8d9ed832f2daf18b73"


    "#]],
    );
    check(
        &Method::HEAD,
        &[("if-modified-since", "Thu, 15 Jan 2026 08:00:00 GMT"), ("range", "bytes=0-1")],
        expect![[r#"
        304 Not Modified
        cache-control: private, no-transform, immutable, max-age=31536000
        etag: "71c480df93d6ae2f1efad1447c66c9525e316218cf51fc8d9ed832f2daf18b73"


    "#]],
    );
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.13
//= type=test
#[test]
fn another_image_than_wanted_answers_412() {
    check(
        &Method::GET,
        &[("if-match", "\"x\""), ("range", "bytes=0-1")],
        expect![[r#"
        412 Precondition Failed
        content-length: 152
        content-type: application/json
        etag: "71c480df93d6ae2f1efad1447c66c9525e316218cf51fc8d9ed832f2daf18b73"
        last-modified: Thu, 15 Jan 2026 08:00:00 GMT

        {"error":{"code":"precondition_failed","message":"the image here is not the one asked for: compare ETag and Last-Modified, and check again for a link"}}
    "#]],
    );
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-15.5.6
//= type=test
#[test]
fn other_methods_answer_405_with_those_allowed() {
    check(
        &Method::PUT,
        &[],
        expect![[r#"
        405 Method Not Allowed
        allow: GET, HEAD
        content-length: 88
        content-type: application/json

        {"error":{"code":"method_not_allowed","message":"an image is fetched with GET or HEAD"}}
    "#]],
    );
}

#[test]
fn conditions_decide_before_ranges_and_ranges_after_if_range() {
    let fixture = fixture(ALPHABET);
    let status = |fields: &[(&str, &str)]| fixture.ask(&Method::GET, fields).0.status.as_u16();
    let range = ("range", "bytes=0-3");
    let beyond = ("range", "bytes=26-");
    assert_eq!(status(&[beyond, ("if-none-match", TAG)]), 304);
    assert_eq!(status(&[beyond, ("if-match", "\"x\"")]), 412);
    assert_eq!(status(&[beyond, ("if-match", TAG)]), 416);
    assert_eq!(status(&[beyond, ("if-range", "\"x\"")]), 200);
    assert_eq!(status(&[range, ("if-none-match", "\"x\"")]), 206);
    assert_eq!(status(&[range, ("if-range", "Thu, 15 Jan 2026 08:00:00 GMT")]), 206);
    assert_eq!(status(&[range, ("if-range", "Thu, 15 Jan 2026 08:00:01 GMT")]), 200);
    assert_eq!(status(&[("if-range", TAG)]), 200);
    assert_eq!(status(&[range, range]), 200);
    assert_eq!(status(&[("range", "lines=0-3")]), 200);
}

#[test]
fn an_empty_image_is_answered_whole_or_not_at_all() {
    let fixture = fixture(b"");
    let (parts, body) = fixture.ask(&Method::GET, &[]);
    assert_eq!((parts.status.as_u16(), parts.headers[CONTENT_LENGTH].as_bytes(), body.len()), (200, &b"0"[..], 0));
    assert_eq!(fixture.ask(&Method::GET, &[("range", "bytes=-5")]).0.status, 200);
    let (parts, _) = fixture.ask(&Method::GET, &[("range", "bytes=0-")]);
    assert_eq!((parts.status.as_u16(), parts.headers[CONTENT_RANGE].as_bytes()), (416, &b"bytes */0"[..]));
}

#[test]
fn a_date_ahead_of_the_clock_is_not_told() {
    let fixture = fixture(ALPHABET);
    let early = Timestamp::from_seconds(MODIFIED_S - 60);
    let reply = respond(&Method::GET, &HeaderMap::new(), &fixture.image, None, early);
    assert_eq!(reply.headers()[LAST_MODIFIED], "Thu, 15 Jan 2026 07:59:00 GMT");
}

#[test]
fn a_name_is_told_so_that_any_browser_reads_it_the_same() {
    let told = |name: &str| disposition(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(told("main (2).bin").as_deref(), Some("attachment; filename=\"main (2).bin\""));
    assert_eq!(told("a\"b\\c").as_deref(), Some("attachment; filename*=UTF-8''a%22b%5Cc"));
    assert_eq!(told("固件.bin").as_deref(), Some("attachment; filename*=UTF-8''%E5%9B%BA%E4%BB%B6.bin"));
    assert_eq!(told("a\r\nSet-Cookie: x").as_deref(), Some("attachment; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x"));
    assert_eq!(told(""), None);
    assert_eq!(told(&"a".repeat(256)), None);
}

#[test]
fn every_head_fits_into_what_small_devices_keep_of_it() {
    // Status line, `Date`, `Server`, `Connection` and the like, which others add.
    const OTHERS_BYTES: usize = 200;
    let fixture = fixture(&[0; 100_000]);
    let name = "n".repeat(178);
    for range in ["", "bytes=99000-", "bytes=0-1,2-3", "bytes=100000-"] {
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(range))]);
        let reply = respond(&Method::GET, &headers, &fixture.image, Some(&name), NOW);
        let head: usize = reply.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        assert!(head + OTHERS_BYTES < 1_023, "{range:?}: {head}");
    }
}

/// Takes a multipart body apart as a client does: by the boundary, then each part's fields.
fn read_multipart(content_type: &str, body: &[u8], size: usize) -> Vec<(usize, Vec<u8>)> {
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let text = text.strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
    let text = format!("\r\n{text}");
    let delimiter = format!("\r\n--{boundary}\r\n");
    let parts = text.split(&delimiter).skip(1);
    let read = |part: &str| {
        let (head, content) = part.split_once("\r\n\r\n").unwrap();
        let range = head.strip_prefix("Content-Type: application/octet-stream\r\nContent-Range: bytes ").unwrap();
        let (first, rest) = range.split_once('-').unwrap();
        let (last, total) = rest.split_once('/').unwrap();
        assert_eq!(total, size.to_string());
        let first: usize = first.parse().unwrap();
        assert_eq!(last.parse::<usize>().unwrap() + 1 - first, content.len());
        (first, content.as_bytes().to_vec())
    };
    parts.map(read).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_ranges_come_as_the_bytes_asked_for(ranges in prop::collection::vec((0usize..26, 0usize..40), 2..12)) {
        thread_local!(static ALPHABET_IMAGE: Fixture = fixture(ALPHABET));
        let set = ranges.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect::<Vec<_>>().join(",");
        let (parts, body) = ALPHABET_IMAGE.with(|fixture| fixture.ask(&Method::GET, &[("range", &format!("bytes={set}"))]));
        prop_assert_eq!(parts.status, 206);
        prop_assert!(!parts.headers.contains_key(CONTENT_RANGE));
        let got = read_multipart(parts.headers[CONTENT_TYPE].to_str().unwrap(), &body, ALPHABET.len());
        let expected: Vec<_> = ranges.iter().map(|(first, more)| (*first, ALPHABET[*first..(first + more + 1).min(26)].to_vec())).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn no_head_makes_it_fail(name in "range|if-range|if-match|if-none-match|if-modified-since|if-unmodified-since", text in "[ -~]{0,60}") {
        thread_local!(static ALPHABET_IMAGE: Fixture = fixture(ALPHABET));
        let (parts, _) = ALPHABET_IMAGE.with(|fixture| fixture.ask(&Method::GET, &[(&name, &text)]));
        prop_assert!([200, 206, 304, 412, 416].contains(&parts.status.as_u16()));
    }
}
