//! One keep-alive HTTP/1.1 connection that opens itself again.
//!
//! A request that a broken connection cut off is sent once more on a new one, with growing pauses, until an answer comes or patience
//! ends. That is what a device does, and it is safe here because every call of the fleet may be repeated. The time of the *first*
//! attempt is kept: whatever the server granted, it granted no earlier than that.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Where the server is, as `host:port`.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    authority: Arc<str>,
    host: HeaderValue,
}

impl Endpoint {
    /// Reads `http://host[:port]`.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let expected = || format!("expected a URL like http://127.0.0.1:8080, got {url:?}");
        let uri: hyper::Uri = url.parse().map_err(|_| expected())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(expected)?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let host = HeaderValue::from_str(&authority).map_err(|_| expected())?;
        Ok(Self { authority: authority.into(), host })
    }
}

/// What one request is to be.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Call {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn post(path: impl Into<String>, body: impl Into<Bytes>, content_type: &'static str) -> Self {
        let mut call = Self::new(Method::POST, path).header(CONTENT_TYPE, HeaderValue::from_static(content_type));
        call.body = body.into();
        call
    }

    pub(crate) fn post_json(path: impl Into<String>, body: &Value) -> Self {
        Self::post(path, body.to_string(), "application/json")
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn bearer(self, token: &HeaderValue) -> Self {
        self.header(AUTHORIZATION, token.clone())
    }

    fn to_request(&self, endpoint: &Endpoint) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut request = Request::builder().method(&self.method).uri(&self.path).header(HOST, &endpoint.host);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(self.body.clone()))
    }
}

/// The value of an `Authorization` header.
pub(crate) fn bearer_value(token: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| ClientError::Unexpected("the server issued a token that doesn't fit in a header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A whole answer, in the pieces in which it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) pieces: Vec<Bytes>,
    /// When the first attempt was sent.
    pub(crate) first_sent_at: Instant,
    /// From the sending of the attempt that was answered to the last byte of the answer.
    pub(crate) latency: Duration,
    /// More than one attempt was needed.
    pub(crate) attempts: u32,
}

impl Answer {
    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.pieces.concat()).into_owned()
    }

    /// The JSON of an answer with the status `expected`.
    pub(crate) fn json(&self, what: &str, expected: &[u16]) -> Result<Value, ClientError> {
        let unexpected = |expected: String| {
            let text: String = self.text().chars().take(300).collect();
            ClientError::Unexpected(format!("{what}: expected {expected}, got {} {text}", self.status))
        };
        if !expected.contains(&self.status.as_u16()) {
            return Err(unexpected(format!("status {expected:?}")));
        }
        serde_json::from_slice(&self.pieces.concat()).map_err(|error| unexpected(format!("JSON ({error})")))
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nothing was answered within the patience.
    #[error("{authority} didn't answer within {patience_s} s ({last}); is the server running?")]
    Unreachable { authority: Arc<str>, patience_s: u64, last: String },
    /// An answer that the contract doesn't allow.
    #[error("{0}")]
    Unexpected(String),
}

/// One connection. Not shared: whoever drives it sends one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    endpoint: Endpoint,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, sender: None }
    }

    /// Sends `call` until it is answered. 503 counts as "later", as `Retry-After` says.
    pub(crate) async fn send(&mut self, call: &Call) -> Result<Answer, ClientError> {
        let first_sent_at = Instant::now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let sent_at = Instant::now();
            let (last, pause) = match tokio::time::timeout(ATTEMPT_MAX, self.attempt(call)).await {
                Ok(Ok((status, headers, _))) if status == StatusCode::SERVICE_UNAVAILABLE => {
                    ("503: the server is full".to_owned(), retry_after(&headers))
                }
                Ok(Ok((status, headers, pieces))) => {
                    return Ok(Answer { status, headers, pieces, first_sent_at, latency: sent_at.elapsed(), attempts });
                }
                Ok(Err(error)) => (error.to_string(), back_off(attempts)),
                Err(_) => (format!("no answer in {} s", ATTEMPT_MAX.as_secs()), Duration::ZERO),
            };
            self.sender = None;
            if first_sent_at.elapsed() + pause > PATIENCE {
                let authority = self.endpoint.authority.clone();
                return Err(ClientError::Unreachable { authority, patience_s: PATIENCE.as_secs(), last });
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&mut self, call: &Call) -> io::Result<(StatusCode, HeaderMap, Vec<Bytes>)> {
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        sender.ready().await.map_err(io::Error::other)?;
        let request = call.to_request(&self.endpoint).map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let (head, mut body) = response.into_parts();
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(piece) = frame.map_err(io::Error::other)?.into_data() {
                pieces.push(piece);
            }
        }
        // Kept only after a whole answer: a half-read connection can't carry the next request.
        self.sender = Some(sender);
        Ok((head.status, head.headers, pieces))
    }

    async fn connect(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&*self.endpoint.authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Ends with the connection; its error reaches the request that was under way.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1)).min(Duration::from_secs(5))
}

/// 20 ms, doubled up to 640 ms: short, because a restarted server should meet its fleet at once.
pub(crate) fn back_off(attempts: u32) -> Duration {
    Duration::from_millis(20 << (attempts - 1).min(5))
}

/// Longer than any one answer of a healthy server takes, however loaded the machine.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// Long enough for a killed server to start again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_plain_http_url() {
        assert_eq!(&*Endpoint::parse("http://127.0.0.1:8080").map(|endpoint| endpoint.authority).unwrap(), "127.0.0.1:8080");
        assert_eq!(&*Endpoint::parse("http://example.test/").map(|endpoint| endpoint.authority).unwrap(), "example.test:80");
        assert!(Endpoint::parse("https://127.0.0.1:8080").is_err());
        assert!(Endpoint::parse("127.0.0.1:8080").is_err());
    }

    #[test]
    fn pauses_between_attempts_grow_to_a_bound() {
        assert_eq!(back_off(1), Duration::from_millis(20));
        assert_eq!(back_off(3), Duration::from_millis(80));
        assert_eq!(back_off(60), Duration::from_millis(640));
    }
}
