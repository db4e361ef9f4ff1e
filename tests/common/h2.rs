//! A small blocking HTTP/2 client that shows every frame, and lets a test send what no library would. Headers are written without
//! compression; of those that come, only the status is read.

use super::authority::{TlsStream, connect_to, shake_hands};
use super::{PATIENCE, TestServer};
use rustls::ClientConfig;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;

pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// `SETTINGS_HEADER_TABLE_SIZE`.
const HEADER_TABLE: u16 = 1;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u16 = 4;

/// What everybody takes in one frame.
const FRAME_BYTES_MAX: usize = 16 << 10;

#[derive(Clone, Debug)]
pub(crate) struct RawFrame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl RawFrame {
    /// The four bytes that tell of an end: of a stream in RST_STREAM, of a connection in GOAWAY.
    #[track_caller]
    pub(crate) fn reason(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// What came of one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct H2Client {
    stream: TlsStream,
    /// Read for somebody who asks later.
    kept: Vec<RawFrame>,
    /// The next stream of its own.
    next: u32,
    /// Whether a window is opened again as far as it was used.
    takes: bool,
}

impl H2Client {
    /// Connects with the preface, and settings that leave every window as wide as can be.
    #[track_caller]
    pub(crate) fn connect(server: &TestServer, config: ClientConfig) -> Self {
        let mut client = Self::connect_with(server, config, 0x7fff_ffff);
        client.window(0, 0x7fff_0000);
        client
    }

    /// The same with windows that stay closed, so that no byte of a body can come.
    #[track_caller]
    pub(crate) fn connect_and_take_nothing(server: &TestServer, config: ClientConfig) -> Self {
        let mut client = Self::connect_with(server, config, 0);
        client.takes = false;
        client
    }

    #[track_caller]
    fn connect_with(server: &TestServer, config: ClientConfig, initial_window: u32) -> Self {
        let mut client = Self::bare(server, config);
        client.send_bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        // The server may refer to nothing that it has said before: each head can be read for itself.
        let settings = [(HEADER_TABLE, 0), (INITIAL_WINDOW, initial_window)];
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &u32::to_be_bytes(*value)].concat()).collect();
        client.send(SETTINGS, 0, 0, &payload);
        client
    }

    /// Shakes hands for HTTP/2, and says nothing.
    #[track_caller]
    pub(crate) fn bare(server: &TestServer, mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut stream = connect_to(&server.address("https"), Arc::new(config));
        shake_hands(&mut stream).unwrap();
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
        stream.sock.set_nodelay(true).unwrap();
        Self { stream, kept: Vec::new(), next: 1, takes: true }
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    pub(crate) fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.send_bytes(&frame(kind, flags, stream, payload))
    }

    #[track_caller]
    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.try_send(kind, flags, stream, payload).unwrap();
    }

    /// Opens a window further.
    #[track_caller]
    pub(crate) fn window(&mut self, stream: u32, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    }

    /// The number of a new stream.
    pub(crate) fn new_stream(&mut self) -> u32 {
        let stream = self.next;
        self.next += 2;
        stream
    }

    /// Sends a request's head, and its body where there is one.
    #[track_caller]
    pub(crate) fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> u32 {
        let stream = self.open(method, path, headers, body.is_none());
        if let Some(body) = body {
            self.send(DATA, END_STREAM, stream, body);
        }
        stream
    }

    /// Sends a request's head.
    #[track_caller]
    pub(crate) fn open(&mut self, method: &str, path: &str, headers: &[(&str, &str)], ends: bool) -> u32 {
        let stream = self.new_stream();
        let end_stream = u8::from(ends) * END_STREAM;
        let block = block(method, path, headers);
        match block.split_at_checked(FRAME_BYTES_MAX) {
            None => self.send(HEADERS, END_HEADERS | end_stream, stream, &block),
            Some((begin, rest)) => {
                self.send(HEADERS, end_stream, stream, begin);
                self.send(CONTINUATION, END_HEADERS, stream, rest);
            }
        }
        stream
    }

    /// The next frame that a client need not answer by itself; an error where the connection has ended.
    pub(crate) fn try_read(&mut self) -> io::Result<RawFrame> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head)?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.stream.read_exact(&mut payload)?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let frame = RawFrame { kind: head[3], flags: head[4], stream, payload };
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.try_send(SETTINGS, ACK, 0, &[])?,
                PING if frame.flags & ACK == 0 => self.try_send(PING, ACK, 0, &frame.payload)?,
                SETTINGS | WINDOW_UPDATE => {}
                DATA if self.takes && !frame.payload.is_empty() => {
                    let bytes = u32::try_from(frame.payload.len()).unwrap().to_be_bytes();
                    self.try_send(WINDOW_UPDATE, 0, 0, &bytes)?;
                    return Ok(frame);
                }
                _ => return Ok(frame),
            }
        }
    }

    /// The next frame that fits, kept or still to come. Others are kept.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, what: &str, fits: impl Fn(&RawFrame) -> bool) -> RawFrame {
        if let Some(index) = self.kept.iter().position(&fits) {
            return self.kept.remove(index);
        }
        let since = Instant::now();
        loop {
            let frame = self.try_read().unwrap_or_else(|error| panic!("no {what}: {error}; kept: {:?}", self.kept));
            if fits(&frame) {
                return frame;
            }
            self.kept.push(frame);
            assert!(since.elapsed() < PATIENCE, "waited in vain for {what}");
        }
    }

    /// The whole answer on this stream.
    #[track_caller]
    pub(crate) fn answer(&mut self, stream: u32) -> Answered {
        let mut answers = self.answers(&[stream]);
        answers.remove(&stream).unwrap()
    }

    /// The whole answers on these streams, in whatever order they come.
    #[track_caller]
    pub(crate) fn answers(&mut self, streams: &[u32]) -> HashMap<u32, Answered> {
        let mut answers: HashMap<u32, Answered> = HashMap::new();
        let mut open = streams.len();
        while open > 0 {
            let frame = self.wait_for("answer", |frame| streams.contains(&frame.stream) || frame.kind == GOAWAY);
            let answer = answers.entry(frame.stream).or_default();
            match frame.kind {
                HEADERS => answer.status = status(&frame.payload),
                DATA => answer.body.extend_from_slice(&frame.payload),
                _ => panic!("instead of an answer came {frame:?}"),
            }
            open -= usize::from(frame.ends_stream());
        }
        answers
    }

    /// Sends a request and waits for its answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Answered {
        let stream = self.request(method, path, headers, body);
        self.answer(stream)
    }

    /// Waits until the server has read everything that was sent.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        self.send(PING, 0, 0, b"settled?");
        self.wait_for("answer to a ping", |frame| frame.kind == PING && frame.flags & ACK != 0);
    }

    /// Reads until the server closes, and returns the frames that came.
    #[track_caller]
    pub(crate) fn read_to_close(&mut self) -> Vec<RawFrame> {
        let mut frames = std::mem::take(&mut self.kept);
        loop {
            match self.try_read() {
                Ok(frame) => frames.push(frame),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("the server didn't close the connection; so far: {frames:?}");
                }
                Err(_) => return frames,
            }
        }
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A block of headers of one request.
pub(crate) fn block(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let own = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    own.iter().chain(headers).flat_map(|(name, value)| [&[0], &*text(name), &*text(value)].concat()).collect()
}

/// A text as HPACK has it, not compressed.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = text.len();
    if length < 127 {
        bytes.push(u8::try_from(length).unwrap());
    } else {
        bytes.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).unwrap());
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// The status, which the server writes first: from the static table, or by its name from there with three digits behind it.
#[track_caller]
fn status(block: &[u8]) -> u16 {
    match *block {
        // The size of a table that isn't used.
        [0x20..=0x3f, ref rest @ ..] => status(rest),
        [0x88, ..] => 200,
        [0x89, ..] => 204,
        [0x8a, ..] => 206,
        [0x8b, ..] => 304,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        [0x08 | 0x18 | 0x48, 3, ref digits @ ..] => std::str::from_utf8(&digits[..3]).unwrap().parse().unwrap(),
        // Three digits by Huffman's code: 5 bits for 0 to 2, 6 for the others.
        [0x08 | 0x18 | 0x48, head, ref code @ ..] if head & 128 != 0 => {
            let bits: String = code[..usize::from(head & 127)].iter().map(|byte| format!("{byte:08b}")).collect();
            let mut digits = String::new();
            let mut rest = &*bits;
            while digits.len() < 3 {
                let short = u8::from_str_radix(&rest[..5], 2).unwrap();
                let (digit, length) = if short < 3 { (short, 5) } else { (u8::from_str_radix(&rest[..6], 2).unwrap() - 0x16, 6) };
                digits.push(char::from(b'0' + digit));
                rest = &rest[length..];
            }
            digits.parse().unwrap()
        }
        _ => panic!("no status in {block:02x?}"),
    }
}
