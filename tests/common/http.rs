//! A small blocking HTTP/1.1 client that shows every byte, and lets a test send what no library would.

use super::PATIENCE;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Who asks, and where. One connection a request: what a test wants to know of a connection, it does by [`Client::connect`].
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: String,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(address: String) -> Self {
        Self { address, token: None }
    }

    #[must_use]
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { address: self.address.clone(), token: Some(token.to_owned()) }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Request<'_> {
        let mut headers = Vec::new();
        if let Some(token) = &self.token {
            headers.push(("Authorization".to_owned(), format!("Bearer {token}")));
        }
        Request { client: self, method: method.to_owned(), path: path_of(path).to_owned(), headers, body: None }
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        self.request("GET", path).send()
    }

    #[track_caller]
    pub(crate) fn head(&self, path: &str) -> Response {
        self.request("HEAD", path).send()
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Response {
        self.request("DELETE", path).send()
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path).json(body).send()
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str, body: &Value) -> Response {
        self.request("PUT", path).json(body).send()
    }

    /// An open connection, to be treated badly.
    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Sends the bytes as they are, and returns what comes back until the server closes.
    ///
    /// The server may close before it has read everything; what it said before counts.
    #[track_caller]
    pub(crate) fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().unwrap();
        let _ = stream.write_all(bytes);
        read_to_close(&mut stream)
    }
}

/// Whatever still comes, until the other side closes or resets.
#[track_caller]
pub(crate) fn read_to_close(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                panic!("the server neither answered nor closed; so far: {:?}", String::from_utf8_lossy(&answer));
            }
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The path and query of a link, whatever it begins with.
pub(crate) fn path_of(link: &str) -> &str {
    match link.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/').unwrap_or(rest.len())..],
        None => link,
    }
}

#[must_use = "a request does nothing until it is sent"]
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    client: &'a Client,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request<'_> {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = Some(body.to_vec());
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string().as_bytes())
    }

    #[track_caller]
    pub(crate) fn send(self) -> Response {
        let described = format!("{} {}", self.method, self.path);
        self.try_send().unwrap_or_else(|error| panic!("{described}: {error}"))
    }

    /// For a server that may be gone in the middle.
    pub(crate) fn try_send(self) -> io::Result<Response> {
        let method = self.method.clone();
        let described = format!("{} {}", self.method, self.path);
        let mut stream = self.client.connect()?;
        // The answer may come before all was written (an oversized body): then it counts.
        let written = stream.write_all(&self.to_bytes());
        let head = Head::read(BufReader::new(stream));
        let head = if written.is_err() {
            head.map_err(|_| io::Error::other("the server closed while the request was sent"))?
        } else {
            head?
        };
        head.into_response(&method, described)
    }

    /// Sends, and returns the head with the body still to be read: for answers without an end.
    #[track_caller]
    pub(crate) fn open(self) -> (u16, BufReader<Body>) {
        let mut stream = self.client.connect().unwrap();
        stream.write_all(&self.to_bytes()).unwrap();
        let head = Head::read(BufReader::new(stream)).unwrap();
        (head.status, BufReader::new(head.body(&self.method).unwrap()))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.method, self.path, self.client.address);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body
            && !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Method and path, for messages.
    request: String,
}

impl Response {
    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Headers and body, for whoever looks for something that shouldn't be in it.
    pub(crate) fn everything(&self) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        headers + &self.text()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.request, self.text());
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error} in {} {:?}", self.request, self.status, self.text()))
    }

    /// A refusal of what was wrong on purpose.
    #[track_caller]
    pub(crate) fn refused_for(self, status: u16, wrong: &Value) -> String {
        assert_eq!(self.status, status, "{} with {wrong}: {}", self.request, self.text());
        self.refused(status)
    }

    /// Asserts a refusal in the platform's shape, and returns its code.
    #[track_caller]
    pub(crate) fn refused(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}: {}", self.request, self.text());
        let error = &self.json()["error"];
        let message = error["message"].as_str().unwrap_or_else(|| panic!("{}: no error.message in {}", self.request, self.text()));
        assert!(!message.trim().is_empty(), "{}: an empty message helps nobody", self.request);
        let code = error["code"].as_str().unwrap_or_else(|| panic!("{}: no error.code in {}", self.request, self.text()));
        assert!(
            code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit()),
            "{code:?} isn't snake_case"
        );
        code.to_owned()
    }
}

/// A read status line and headers, with the connection behind them.
pub(crate) struct Head<R> {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    reader: BufReader<R>,
}

impl<R: Read> Head<R> {
    pub(crate) fn read(mut reader: BufReader<R>) -> io::Result<Self> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let malformed = |what: &str| io::Error::other(format!("not an HTTP/1.1 answer: {what:?}"));
        let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|digits| digits.parse().ok());
        let status = status.ok_or_else(|| malformed(&line))?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(Self { status, headers, reader });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed(line))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn body(self, method: &str) -> io::Result<Body<R>> {
        let length = self.header("content-length").map(|text| text.parse().map_err(io::Error::other)).transpose()?;
        let framing = if method == "HEAD" || self.status == 204 || self.status == 304 {
            Framing::Fixed { left: 0 }
        } else if self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            Framing::Chunked { left: 0 }
        } else {
            length.map_or(Framing::ToClose, |left| Framing::Fixed { left })
        };
        Ok(Body { reader: self.reader, framing })
    }

    pub(crate) fn into_response(self, method: &str, request: String) -> io::Result<Response> {
        let (status, headers) = (self.status, self.headers.clone());
        let mut body = Vec::new();
        self.body(method)?.read_to_end(&mut body)?;
        Ok(Response { status, headers, body, request })
    }
}

/// A body, decoded as its framing says; a body that ends early is an error.
pub(crate) struct Body<R = TcpStream> {
    reader: BufReader<R>,
    framing: Framing,
}

enum Framing {
    Fixed { left: u64 },
    Chunked { left: u64 },
    ToClose,
    Ended,
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunked { left: 0 } = self.framing {
            self.framing = match self.next_chunk()? {
                0 => Framing::Ended,
                left => Framing::Chunked { left },
            };
        }
        let left = match &mut self.framing {
            Framing::Ended | Framing::Fixed { left: 0 } => return Ok(0),
            Framing::ToClose => return self.reader.read(buffer),
            Framing::Fixed { left } | Framing::Chunked { left } => left,
        };
        let length = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        let read = self.reader.read(&mut buffer[..length])?;
        *left -= read as u64;
        if read == 0 && length > 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
    }
}

impl<R: Read> Body<R> {
    fn next_chunk(&mut self) -> io::Result<u64> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        if line == "\r\n" {
            // The end of the chunk before.
            line.clear();
            self.reader.read_line(&mut line)?;
        }
        u64::from_str_radix(line.trim(), 16).map_err(|_| io::Error::other(format!("not the size of a chunk: {line:?}")))
    }
}
