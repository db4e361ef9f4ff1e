//! A `multipart/form-data` body (RFC 7578, RFC 2046), part by part, its bytes handed on as they came.
//!
//! ```text
//! preamble CRLF --boundary CRLF headers CRLF CRLF bytes CRLF --boundary … CRLF --boundary-- epilogue
//!          └── delimiter ──┘                     part         └ delimiter ┘
//! ```
//!
//! Read here rather than by a library, because a part may be a file of gigabytes: the bytes of a part are not copied (but for the few
//! pieces that end with what may be the beginning of a delimiter), and nothing of a part is held while its headers are looked for.
//!
//! Bounds: [`PARTS_MAX`] parts, [`HEADER_BYTES_MAX`] of headers in each, and as many bytes in all as the caller allows.

use crate::http::BodyError;
use crate::http::body::next_data;
use ::http::HeaderMap;
use ::http::header::CONTENT_TYPE;
use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::Body;
use memchr::memmem;
use std::time::Duration;

/// A form has two parts; some libraries add one with the character set.
const PARTS_MAX: usize = 16;
/// A name and a file's name.
const HEADER_BYTES_MAX: usize = 8 << 10;
/// RFC 2046: 1 to 70 characters.
const BOUNDARY_BYTES_MAX: usize = 70;
/// What is read on of a body that was refused, so that the client comes to read why.
const DRAINED_BYTES_MAX: u64 = 4 << 20;
const DRAINING_MAX: Duration = Duration::from_secs(5);

/// Why a form can't be read on. All of these are the sender's fault, or its connection's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormError {
    #[error("the body must be multipart/form-data with a boundary, and parts metadata and file; got {got}")]
    ContentType { got: String },
    #[error("the form is larger than the {bytes_max} bytes allowed here; send less")]
    TooLarge { bytes_max: u64 },
    #[error("the form ends before its last boundary; send it again")]
    Cut,
    #[error("the form is broken: {0}; build it with a library for multipart/form-data")]
    Broken(&'static str),
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// A part's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) file_name: Option<String>,
}

#[derive(Debug)]
pub(super) struct Form<B> {
    body: B,
    delimiter: memmem::Finder<'static>,
    /// Read and not yet handed on.
    held: Bytes,
    place: Place,
    parts: usize,
    read_bytes: u64,
    bytes_max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In a part's bytes, or in the preamble.
    Bytes,
    /// Just behind a delimiter.
    Delimiter,
    End,
}

impl<B> Form<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    /// `bytes_max`: of all parts together, with their headers.
    pub(super) fn begin(boundary: Boundary, body: B, bytes_max: u64) -> Self {
        // The first boundary needs no line before it.
        let held = Bytes::from_static(b"\r\n");
        Self { body, delimiter: boundary.delimiter, held, place: Place::Bytes, parts: 0, read_bytes: 0, bytes_max }
    }

    /// The next part, what is left of the one before skipped; `None` after the last.
    pub(super) async fn next_part(&mut self) -> Result<Option<Part>, FormError> {
        while self.next_bytes().await?.is_some() {}
        if self.place == Place::End {
            return Ok(None);
        }
        while self.held.len() < 2 {
            self.read_on().await?;
        }
        if self.held.starts_with(b"--") {
            self.place = Place::End;
            return Ok(None);
        }
        if self.parts == PARTS_MAX {
            return Err(FormError::Broken("it has more parts than any form here"));
        }
        self.parts += 1;
        let headers = self.headers().await?;
        self.place = Place::Bytes;
        part(&headers).map(Some)
    }

    /// What stands between a delimiter and the empty line.
    async fn headers(&mut self) -> Result<Bytes, FormError> {
        let mut searched = 0;
        loop {
            if let Some(at) = memmem::find(&self.held[searched..], b"\r\n\r\n") {
                let headers = self.held.split_to(searched + at);
                self.held.advance(4);
                return Ok(headers);
            }
            if self.held.len() > HEADER_BYTES_MAX {
                return Err(FormError::Broken("a part has more headers than any part here, or no empty line behind them"));
            }
            searched = self.held.len().saturating_sub(3);
            self.read_on().await?;
        }
    }

    /// The next bytes of the part; `None` at its end.
    pub(super) async fn next_bytes(&mut self) -> Result<Option<Bytes>, FormError> {
        if self.place != Place::Bytes {
            return Ok(None);
        }
        let length = self.delimiter.needle().len();
        loop {
            if let Some(at) = self.delimiter.find(&self.held) {
                if at > 0 {
                    return Ok(Some(self.held.split_to(at)));
                }
                self.held.advance(length);
                self.place = Place::Delimiter;
                return Ok(None);
            }
            // What may be the beginning of a delimiter waits for what follows.
            let tail = self.held.len().saturating_sub(length - 1);
            let begins = memchr::memchr_iter(b'\r', &self.held[tail..]).map(|at| tail + at);
            let waiting = begins.into_iter().find(|at| self.delimiter.needle().starts_with(&self.held[*at..]));
            match waiting.unwrap_or(self.held.len()) {
                0 => self.read_on().await?,
                safe => return Ok(Some(self.held.split_to(safe))),
            }
        }
    }

    /// The part whole, if it isn't larger than that.
    pub(super) async fn whole_part(&mut self, bytes_max: usize) -> Result<BytesMut, FormError> {
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next_bytes().await? {
            if whole.len() + bytes.len() > bytes_max {
                return Err(FormError::TooLarge { bytes_max: bytes_max as u64 });
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }

    /// What is left of the body.
    pub(super) fn into_body(self) -> B {
        self.body
    }

    /// Reads one more piece of the body behind what is held.
    async fn read_on(&mut self) -> Result<(), FormError> {
        let bytes = next_data(&mut self.body).await?.ok_or(FormError::Cut)?;
        self.read_bytes += bytes.len() as u64;
        if self.read_bytes > self.bytes_max {
            return Err(FormError::TooLarge { bytes_max: self.bytes_max });
        }
        if self.held.is_empty() {
            self.held = bytes;
        } else {
            let mut joined = BytesMut::with_capacity(self.held.len() + bytes.len());
            joined.extend_from_slice(&self.held);
            joined.extend_from_slice(&bytes);
            self.held = joined.freeze();
        }
        Ok(())
    }
}

/// Reads a body on without looking, for a while: a client that is still sending reads no answer.
pub(super) async fn drain(mut body: impl Body<Data = Bytes, Error = BodyError> + Unpin) {
    let reading = async {
        let mut drained_bytes = 0;
        while drained_bytes < DRAINED_BYTES_MAX
            && let Ok(Some(bytes)) = next_data(&mut body).await
        {
            drained_bytes += bytes.len() as u64;
        }
    };
    // Whether it came to its end or not, there is nothing more to wait for.
    let _ = tokio::time::timeout(DRAINING_MAX, reading).await;
}

/// What separates the parts.
#[derive(Debug)]
pub(super) struct Boundary {
    delimiter: memmem::Finder<'static>,
}

impl Boundary {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, FormError> {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let boundary = boundary(content_type).ok_or_else(|| {
            let got: String = content_type.chars().take(100).collect();
            FormError::ContentType { got: if got.is_empty() { "no Content-Type".to_owned() } else { got } }
        })?;
        Ok(Self { delimiter: memmem::Finder::new(&format!("\r\n--{boundary}")).into_owned() })
    }
}

fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let mut parameters = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"))?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (1..=BOUNDARY_BYTES_MAX).contains(&value.len()).then_some(value)
}

/// What the headers say: `Content-Disposition: form-data; name="file"; filename="a.bin"`.
fn part(headers: &[u8]) -> Result<Part, FormError> {
    let text = std::str::from_utf8(headers).map_err(|_| FormError::Broken("the headers of a part are not UTF-8"))?;
    let mut lines = text.split("\r\n").filter_map(|line| line.split_once(':'));
    let disposition = lines.find(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition")).map(|(_, value)| value);
    let disposition = disposition.ok_or(FormError::Broken("a part has no Content-Disposition"))?;
    let mut read = Part::default();
    let mut has_name = false;
    let mut rest = disposition.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((name, value)) = rest.split_once('=') {
        let (value, behind) = parameter_value(value.trim_start());
        match name.trim().to_ascii_lowercase().as_str() {
            "name" => {
                read.name = value;
                has_name = true;
            }
            "filename" => read.file_name = Some(value).filter(|name| !name.is_empty()),
            _ => {}
        }
        rest = behind;
    }
    if has_name { Ok(read) } else { Err(FormError::Broken("a part has no name")) }
}

/// A value with or without quotes, and what follows the semicolon behind it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_once(';').unwrap_or((text, ""));
        return (value.trim().to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => {
                let rest = &quoted[at + 1..];
                return (value, rest.split_once(';').map_or("", |(_, rest)| rest));
            }
            // Browsers write a quote as %22 and leave backslashes alone; libraries put a backslash before a quote.
            '\\' if quoted[at + 1..].starts_with(['"', '\\']) => value.extend(chars.next().map(|(_, escaped)| escaped)),
            char => value.push(char),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;
    use hyper::body::Frame;
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// A body in these pieces.
    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    const BOUNDARY: &str = "multipart/form-data; boundary=XX";

    fn form(content_type: &str, text: &[u8], piece_bytes: usize, bytes_max: u64) -> Result<Form<Pieces>, FormError> {
        let headers = [(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap())].into_iter().collect();
        let body = Pieces(text.chunks(piece_bytes).map(Bytes::copy_from_slice).collect());
        Ok(Form::begin(Boundary::of(&headers)?, body, bytes_max))
    }

    /// All parts, as `name/file name: bytes`.
    async fn read(content_type: &str, text: &[u8], piece_bytes: usize) -> Result<Vec<(Part, Vec<u8>)>, FormError> {
        let mut form = form(content_type, text, piece_bytes, 1 << 20)?;
        let mut parts = Vec::new();
        while let Some(part) = form.next_part().await? {
            parts.push((part, form.whole_part(1 << 20).await?.to_vec()));
        }
        Ok(parts)
    }

    fn part_of(name: &str, file_name: Option<&str>) -> Part {
        Part { name: name.to_owned(), file_name: file_name.map(str::to_owned) }
    }

    #[tokio::test]
    async fn parts_are_read_alike_in_pieces_of_any_size() {
        let file = b"\r\n--XY\r\n--X\r\r\n-\0\xff--XX\r\n".as_slice();
        let text = [
            b"who reads this?\r\n--XX\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\r\n{}\r\n--XX  \r\n".as_slice(),
            b"content-type: application/octet-stream\r\ncontent-disposition: form-data; name=file; filename=\"a \\\"b\\\".bin\"\r\n\r\n",
            file,
            b"\r\n--XX\r\nContent-Disposition: form-data; name=\"\"\r\n\r\n\r\n--XX--\r\nand this?",
        ]
        .concat();
        for piece_bytes in (1..80).chain([text.len()]) {
            let parts = read(BOUNDARY, &text, piece_bytes).await.unwrap();
            assert_eq!(
                parts,
                [
                    (part_of("metadata", None), b"{}".to_vec()),
                    (part_of("file", Some("a \"b\".bin")), file.to_vec()),
                    (part_of("", None), Vec::new()),
                ],
                "pieces of {piece_bytes}"
            );
        }
    }

    #[tokio::test]
    async fn a_form_without_parts_has_none() {
        for text in [b"--XX--".as_slice(), b"\r\n--XX--\r\n"] {
            assert_eq!(read(BOUNDARY, text, 3).await, Ok(Vec::new()));
        }
    }

    #[tokio::test]
    async fn a_form_that_is_cut_anywhere_is_told_from_a_whole_one() {
        let text = b"--XX\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nbytes\r\n--XX--";
        for length in 0..text.len() {
            assert_eq!(read(BOUNDARY, &text[..length], 7).await, Err(FormError::Cut), "{length} bytes of it");
        }
        assert!(read(BOUNDARY, text, 7).await.is_ok());
    }

    #[tokio::test]
    async fn the_boundary_of_the_header_counts() {
        let text = b"--XX\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nbytes\r\n--XX--";
        assert_eq!(read("multipart/form-data; boundary=YY", text, 9).await, Err(FormError::Cut));
        for content_type in ["Multipart/Form-Data; charset=utf-8; Boundary=\"XX\"", "multipart/form-data;boundary=XX ;x=y"] {
            assert_eq!(read(content_type, text, 9).await.map(|parts| parts.len()), Ok(1), "{content_type}");
        }
        let too_long = format!("multipart/form-data; boundary={}", "X".repeat(71));
        for content_type in [
            "",
            "application/json",
            "multipart/form-data",
            "multipart/mixed; boundary=XX",
            "multipart/form-data; boundary=",
            &too_long,
        ] {
            let error = read(content_type, text, 9).await.unwrap_err();
            assert!(matches!(error, FormError::ContentType { .. }), "{content_type}: {error}");
        }
    }

    #[tokio::test]
    async fn a_part_without_a_name_or_with_endless_headers_is_refused() {
        let endless = format!("--XX\r\n{}", "A: b\r\n".repeat(HEADER_BYTES_MAX));
        for text in [
            "--XX\r\n\r\nbytes\r\n--XX--",
            "--XX\r\nContent-Disposition: form-data\r\n\r\nbytes\r\n--XX--",
            "--XX\r\nContent-Type: text/plain\r\n\r\nbytes\r\n--XX--",
            "--XXnext\r\n\r\nbytes\r\n--XX--",
            &endless,
            &"--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n".repeat(PARTS_MAX + 1),
        ] {
            assert!(matches!(read(BOUNDARY, text.as_bytes(), 4096).await, Err(FormError::Broken(_))), "{text:.60}");
        }
    }

    #[tokio::test]
    async fn nothing_is_larger_than_allowed() {
        let text = format!("--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n{}\r\n--XX--", "x".repeat(1000));
        let mut small = form(BOUNDARY, text.as_bytes(), 100, 500).unwrap();
        assert!(small.next_part().await.is_ok());
        assert_eq!(small.whole_part(2000).await, Err(FormError::TooLarge { bytes_max: 500 }));
        let mut large = form(BOUNDARY, text.as_bytes(), 100, 5000).unwrap();
        assert!(large.next_part().await.is_ok());
        assert_eq!(large.whole_part(999).await, Err(FormError::TooLarge { bytes_max: 999 }));
    }

    #[tokio::test]
    async fn bytes_of_a_large_part_are_handed_on_and_not_gathered() {
        let piece = vec![b'\r'; 10_000];
        let head = b"--XX\r\nContent-Disposition: form-data; name=file\r\n\r\n".to_vec();
        let pieces = [head].into_iter().chain(vec![piece; 50]).chain([b"\r\n--XX--".to_vec()]).map(Bytes::from);
        let headers = [(CONTENT_TYPE, HeaderValue::from_static(BOUNDARY))].into_iter().collect();
        let mut form = Form::begin(Boundary::of(&headers).unwrap(), Pieces(pieces.collect()), 1 << 20);
        form.next_part().await.unwrap();
        let mut length = 0;
        while let Some(bytes) = form.next_bytes().await.unwrap() {
            length += bytes.len();
            assert!(form.held.len() < 10_100, "{} bytes are held", form.held.len());
        }
        assert_eq!(length, 500_000);
    }
}
