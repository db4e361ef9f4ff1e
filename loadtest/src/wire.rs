//! Requests written beforehand, and replies of which little is looked at: a client that leaves the machine to the server it shares it
//! with. It sends nothing again; what goes wrong is the measurement.

use bytes::{Buf, BytesMut};
use rustls::pki_types::ServerName;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where connections go, and over what.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

/// An address that one client comes from. The ports of one address are some 28,000, and one is not free again for a minute after its
/// connection was closed; every address in 127.0.0.0/8 has ports of its own.
pub(crate) fn source(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, (index % SOURCES) as u8 + 1)
}

const SOURCES: usize = 32;

/// A reply: its status, and its body.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) retry_after_s: Option<u64>,
    pub(crate) body: Vec<u8>,
}

/// One connection.
pub(crate) struct Wire {
    stream: Stream,
    buffer: BytesMut,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    pub(crate) async fn connect(target: &Target, from: Ipv4Addr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        let stream = socket.connect(target.address).await?;
        stream.set_nodelay(true)?;
        let stream = match &target.tls {
            None => Stream::Plain(stream),
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                Stream::Tls(Box::new(TlsConnector::from(Arc::clone(config)).connect(name, stream).await?))
            }
        };
        Ok(Self { stream, buffer: BytesMut::new() })
    }

    /// Sends a whole request and reads the whole reply to it.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<Reply> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        loop {
            if let Some(head) = Head::read(&self.buffer)? {
                while self.buffer.len() < head.bytes + head.body_bytes {
                    self.more().await?;
                }
                self.buffer.advance(head.bytes);
                let body = self.buffer.split_to(head.body_bytes).to_vec();
                // Given back, so that a connection that says nothing holds nothing.
                self.buffer = BytesMut::new();
                return Ok(Reply { status: head.status, retry_after_s: head.retry_after_s, body });
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        self.buffer.reserve(1_024);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// What is needed of a reply's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    retry_after_s: Option<u64>,
    bytes: usize,
    body_bytes: usize,
}

impl Head {
    /// `None` until it is there whole.
    fn read(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let refused = || io::Error::new(io::ErrorKind::InvalidData, "the reply's head isn't one of HTTP/1.1 with a length");
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| refused())?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let (mut length, mut retry_after_s) = (None, None);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok();
            } else if name.eq_ignore_ascii_case("retry-after") {
                retry_after_s = value.trim().parse().ok();
            }
        }
        // A refusal before any request was read has no length; nothing follows it.
        let body_bytes = length.unwrap_or(0);
        status.map(|status| Some(Self { status, retry_after_s, bytes: end + 4, body_bytes })).ok_or_else(refused)
    }
}

/// A POST of JSON with a device's token, whole.
pub(crate) fn post(path: &str, token: &str, body: &str, more: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{more}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{}";
        assert_eq!(Head::read(&whole[..20]).unwrap(), None);
        assert_eq!(
            Head::read(whole).unwrap(),
            Some(Head { status: 200, retry_after_s: None, bytes: whole.len() - 2, body_bytes: 7 })
        );
        let refused = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\n\r\n";
        assert_eq!(
            Head::read(refused).unwrap(),
            Some(Head { status: 503, retry_after_s: Some(10), bytes: refused.len(), body_bytes: 0 })
        );
        assert!(Head::read(b"nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn sources_are_loopback_addresses() {
        assert!((0..1_000).map(source).all(|source| source.is_loopback()));
    }
}
