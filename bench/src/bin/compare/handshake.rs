//! A load of TLS handshakes, each on a connection of its own: connect, shake hands, one tiny request, close.
//!
//! Each of the parallel clients has its own memory of sessions. That every counted handshake was of the wanted kind is looked at, not
//! assumed; the tickets for the next one come with the reply, so a resuming client begins with one full handshake that isn't counted.

use crate::failure::{Context, Failure, Outcome};
use crate::process::{ProcessorTime, go_on};
use crate::tls::Certificate;
use crate::world::{HEALTH, Side};
use crate::wrk::Seen;
use hdrhistogram::Histogram;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// What was seen, and the server's processor time in nanoseconds.
pub(crate) fn run(certificate: &Certificate, side: &Side, resumed: bool, clients: u32, duration: Duration) -> Outcome<(Seen, u64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context(|| "no runtime for the handshakes".to_owned())?;
    let configs: Outcome<Vec<_>> = (0..clients).map(|_| certificate.client(resumed)).collect();
    let shaker =
        |config| Shaker { config, address: side.address, kind: if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full } };
    let shakers: Vec<Shaker> = configs?.into_iter().map(shaker).collect();
    runtime.block_on(async {
        for shaker in shakers.iter().filter(|_| resumed) {
            shaker.once().await.context(|| "the first handshake".to_owned())?;
        }
        let before = ProcessorTime::of(side.process)?;
        let began = Instant::now();
        let mut running: JoinSet<Outcome<Histogram<u64>>> =
            shakers.into_iter().map(|shaker| shaker.until(began + duration)).collect();
        let mut latencies = histogram();
        while let Some(ended) = running.join_next().await {
            go_on()?;
            let of_one = ended.context(|| "a client of the handshakes".to_owned())??;
            latencies.add(of_one).context(|| "the latencies".to_owned())?;
        }
        let (elapsed, used_ns) = (began.elapsed(), ProcessorTime::of(side.process)?.since(&before));
        let latency = [50.0, 90.0, 99.0].map(|percentile| latencies.value_at_percentile(percentile) as f64);
        let latency_us = (!latencies.is_empty()).then_some(latency);
        Ok((Seen { requests: latencies.len(), bytes: 0, elapsed, latency_us }, used_ns))
    })
}

/// A client that connects again and again.
#[derive(Debug)]
struct Shaker {
    config: Arc<ClientConfig>,
    address: SocketAddr,
    kind: HandshakeKind,
}

impl Shaker {
    async fn until(self, end: Instant) -> Outcome<Histogram<u64>> {
        let mut latencies = histogram();
        while Instant::now() < end {
            let began = Instant::now();
            let kind = self.once().await.context(|| format!("a handshake with {}", self.address))?;
            latencies.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
            if kind != self.kind {
                return Err(Failure::new(format!("expected a handshake of the kind {:?}, got {kind:?}", self.kind)));
            }
        }
        Ok(latencies)
    }

    /// One connection from its beginning to its end.
    async fn once(&self) -> io::Result<HandshakeKind> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let mut stream = TlsConnector::from(Arc::clone(&self.config)).connect(ServerName::from(self.address.ip()), tcp).await?;
        let request = format!("GET {HEALTH} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut reply = Vec::new();
        match stream.read_to_end(&mut reply).await {
            // Not every server says goodbye in TLS before it closes.
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
        let connection = stream.get_ref().1;
        if !reply.starts_with(b"HTTP/1.1 200 ") || connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            let said = String::from_utf8_lossy(&reply[..reply.len().min(100)]).into_owned();
            return Err(io::Error::other(format!(
                "expected 200 over TLS 1.3, got {said:?} over {:?}",
                connection.protocol_version()
            )));
        }
        connection.handshake_kind().ok_or_else(|| io::Error::other("the handshake is of no kind"))
    }
}

fn histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "constant bounds that are known to be good")]
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("a histogram of microseconds up to a minute")
}
