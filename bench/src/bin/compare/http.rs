//! A small blocking HTTP/1.1 client, plain or over TLS, for everything that isn't measured: setting up, and proving that both servers
//! serve the right bytes.

use crate::failure::{Context, Failure, Outcome};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use sha2::{Digest, Sha256};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// From the status line to the empty line.
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> Outcome<serde_json::Value> {
        serde_json::from_slice(&self.body).context(|| format!("expected JSON, got {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(300).collect()
    }
}

/// The size and SHA-256 of what was sent or served.
pub(crate) type Digested = (u64, [u8; 32]);

/// One keep-alive connection.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    stream: BufReader<Stream>,
}

impl Client {
    /// Connects; with `tls`, the handshake is done when this returns.
    pub(crate) fn connect(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Outcome<Self> {
        let doing = || format!("connecting to {address}");
        let tcp = TcpStream::connect(address).context(doing)?;
        let prepared = tcp.set_nodelay(true).and_then(|()| tcp.set_read_timeout(Some(PATIENCE)));
        prepared.and_then(|()| tcp.set_write_timeout(Some(PATIENCE))).context(doing)?;
        let stream = match tls {
            None => Stream::Plain(tcp),
            Some(config) => {
                let connection = ClientConnection::new(Arc::clone(config), ServerName::from(address.ip())).context(doing)?;
                let mut stream = StreamOwned::new(connection, tcp);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock).context(|| format!("the TLS handshake with {address}"))?;
                }
                Stream::Tls(Box::new(stream))
            }
        };
        Ok(Self { address, stream: BufReader::with_capacity(64 << 10, stream) })
    }

    /// What TLS was agreed on: version and cipher suite.
    pub(crate) fn agreed(&self) -> String {
        let Stream::Tls(stream) = self.stream.get_ref() else { return "no TLS".to_owned() };
        match (stream.conn.protocol_version(), stream.conn.negotiated_cipher_suite()) {
            (Some(version), Some(suite)) => format!("{version:?}, {:?}", suite.suite()),
            _ => "a handshake that isn't over".to_owned(),
        }
    }

    pub(crate) fn call(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Outcome<Reply> {
        let doing = |address: SocketAddr| format!("{method} {target} at {address}");
        let address = self.address;
        self.send_head(method, target, headers, body.len() as u64).context(|| doing(address))?;
        self.stream.get_mut().write_all(body).and_then(|()| self.stream.get_mut().flush()).context(|| doing(address))?;
        let (status, head, length) = self.read_head().context(|| doing(address))?;
        let mut body = Vec::new();
        self.stream.by_ref().take(length).read_to_end(&mut body).context(|| doing(address))?;
        if body.len() as u64 != length {
            return Err(Failure::new(format!("{}: expected {length} bytes, got {}", doing(address), body.len())));
        }
        Ok(Reply { status, head, body })
    }

    /// POSTs `content` as it is read, and digests it on the way.
    pub(crate) fn upload(
        &mut self,
        target: &str,
        headers: &[(&str, &str)],
        content: &mut dyn Read,
        size: u64,
    ) -> Outcome<(Reply, Digested)> {
        let address = self.address;
        let doing = || format!("the upload to {address}{target}");
        self.send_head("POST", target, headers, size).context(doing)?;
        let mut digest = Sha256::new();
        let mut block = vec![0; BLOCK_BYTES];
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
            content.read_exact(&mut block[..wanted]).context(doing)?;
            digest.update(&block[..wanted]);
            self.stream.get_mut().write_all(&block[..wanted]).context(doing)?;
            left -= wanted as u64;
        }
        self.stream.get_mut().flush().context(doing)?;
        let (status, head, length) = self.read_head().context(doing)?;
        let mut body = Vec::new();
        self.stream.by_ref().take(length).read_to_end(&mut body).context(doing)?;
        Ok((Reply { status, head, body }, (size, digest.finalize().into())))
    }

    /// GETs `target` and digests what comes.
    pub(crate) fn fetch(&mut self, target: &str) -> Outcome<Digested> {
        let address = self.address;
        let doing = || format!("GET {target} at {address}");
        self.send_head("GET", target, &[], 0).context(doing)?;
        self.stream.get_mut().flush().context(doing)?;
        let (status, _, length) = self.read_head().context(doing)?;
        if status != 200 {
            return Err(Failure::new(format!("{}: expected 200, got {status}", doing())));
        }
        let mut digest = Sha256::new();
        let mut block = vec![0; BLOCK_BYTES];
        let mut read_bytes = 0;
        while read_bytes < length {
            let wanted = usize::try_from(length - read_bytes).map_or(block.len(), |left| left.min(block.len()));
            let read = self.stream.read(&mut block[..wanted]).context(doing)?;
            if read == 0 {
                return Err(Failure::new(format!("{}: expected {length} bytes, got {read_bytes}", doing())));
            }
            digest.update(&block[..read]);
            read_bytes += read as u64;
        }
        Ok((read_bytes, digest.finalize().into()))
    }

    fn send_head(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body_bytes: u64) -> io::Result<()> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.address);
        if method != "GET" {
            head.push_str(&format!("Content-Length: {body_bytes}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.stream.get_mut().write_all(head.as_bytes())
    }

    /// Status, the head as it came, and the length of the body.
    fn read_head(&mut self) -> io::Result<(u16, Vec<u8>, u64)> {
        let unusable = |what: &str| io::Error::other(format!("expected {what} in the head of the reply, got none"));
        let mut head = Vec::new();
        loop {
            let line_at = head.len();
            if self.stream.read_until(b'\n', &mut head)? == 0 {
                return Err(unusable("an end"));
            }
            if head[line_at..] == *b"\r\n" {
                break;
            }
        }
        let text = String::from_utf8_lossy(&head);
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| unusable("a status"))?;
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let length =
            fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).find_map(|(_, value)| value.trim().parse().ok());
        let length = length.ok_or_else(|| unusable("a Content-Length"))?;
        Ok((status, head, length))
    }
}

/// The path and query of a URL.
pub(crate) fn target_of(url: &str) -> Outcome<&str> {
    let rest = url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
    rest.context(|| format!("expected a URL with a path, got {url:?}"))
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Longer than taking in the largest image and making it durable.
const PATIENCE: Duration = Duration::from_secs(120);
const BLOCK_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_path_and_query() {
        assert_eq!(target_of("http://127.0.0.1:80/images/ab?e=1").unwrap(), "/images/ab?e=1");
        assert!(target_of("127.0.0.1/x").is_err() && target_of("http://x").is_err());
    }
}
