//! The operator's side of HTTP: one connection to one server, calls one after another.

use ::http::{Method, Request, StatusCode, header};
use bytes::Bytes;
use clap::Args;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Which server, and how to be sure that it is it.
#[derive(Args, Clone, Debug)]
pub(super) struct ServerArguments {
    /// The server to speak to
    #[arg(long, env = "SLUICEGATE_SERVER", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(super) server: String,
    /// Whom to trust for an https:// server: the authority's certificates, PEM
    #[arg(long, env = "SLUICEGATE_CA_CERT", value_name = "FILE")]
    pub(super) ca_cert: Option<PathBuf>,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("{0}")]
    Usage(String),
    #[error("no server answers at {server}; start one with `sluicegate serve` or name another with --server")]
    Connect { server: String, source: io::Error },
    #[error("{server} is not to be trusted or speaks no TLS; check the URL, and give its authority's certificates with --ca-cert")]
    Untrusted { server: String, source: io::Error },
    #[error("the connection to {server} broke; try again")]
    Broken { server: String, source: hyper::Error },
    #[error("{server} gave no answer within {seconds} s; try again or look at its logs")]
    Silent { server: String, seconds: u64 },
    #[error("the server refused with {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the answer is not what this version understands: {0}; use the version of the server")]
    Answer(String),
}

impl CallError {
    /// Nothing came back, whatever the server did.
    pub(super) fn is_silence(&self) -> bool {
        self.is_broken_connection() || matches!(self, Self::Silent { .. })
    }

    /// The same call may go through on a new connection.
    pub(super) fn is_broken_connection(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Broken { .. })
    }
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// When the same call may go through.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> Result<Value, CallError> {
        serde_json::from_slice(&self.body).map_err(|error| CallError::Answer(error.to_string()))
    }

    /// The server has no time or no room just now.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE | StatusCode::TOO_MANY_REQUESTS)
    }

    /// The same answer, if it is a good one.
    pub(super) fn accepted(self) -> Result<Self, CallError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let told = serde_json::from_slice::<Value>(&self.body).ok();
        let message = told.as_ref().and_then(|body| body.pointer("/error/message")).and_then(Value::as_str);
        let hint = match self.status {
            StatusCode::UNAUTHORIZED => "set SLUICEGATE_TOKEN to a token that opens this, or SLUICEGATE_ADMIN_TOKEN",
            _ => "no reason was given",
        };
        Err(CallError::Refused { status: self.status, message: message.unwrap_or(hint).to_owned() })
    }
}

/// A server, and the connection to it while there is one.
#[derive(Debug)]
pub(super) struct Client {
    url: ServerUrl,
    tls: Option<Arc<rustls::ClientConfig>>,
    token: Option<String>,
    connection: Option<SendRequest<Upload>>,
}

#[derive(Clone, Debug)]
struct ServerUrl {
    text: String,
    is_https: bool,
    host: String,
    port: u16,
}

/// An answer takes as long as the disk of the server; an upload is not bounded as a whole.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

impl Client {
    /// With the token of the environment: `SLUICEGATE_TOKEN`, else the administrator's.
    pub(super) fn new(arguments: &ServerArguments) -> Result<Self, CallError> {
        let url = ServerUrl::parse(&arguments.server)?;
        let tls = match (&arguments.ca_cert, url.is_https) {
            (Some(path), true) => Some(Arc::new(trust(path)?)),
            (None, true) => {
                return Err(CallError::Usage("--server is https://, which needs --ca-cert FILE to trust it".to_owned()));
            }
            (_, false) => None,
        };
        let from_environment = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let token = from_environment("SLUICEGATE_TOKEN").or_else(|| from_environment("SLUICEGATE_ADMIN_TOKEN"));
        Ok(Self { url, tls, token, connection: None })
    }

    pub(super) fn server(&self) -> &str {
        &self.url.text
    }

    pub(super) fn require_token(&self) -> Result<(), CallError> {
        match self.token {
            Some(_) => Ok(()),
            None => Err(CallError::Usage(
                "this needs a token: set SLUICEGATE_TOKEN, or SLUICEGATE_ADMIN_TOKEN (the server keeps it in admin-token of its data folder)"
                    .to_owned(),
            )),
        }
    }

    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, CallError> {
        self.call(Method::GET, path, Upload::empty(), &[]).await
    }

    pub(super) async fn post_json(&mut self, path: &str, body: &Value) -> Result<Answer, CallError> {
        let body = Upload::from(Bytes::from(body.to_string()));
        self.call(Method::POST, path, body, &[(header::CONTENT_TYPE, "application/json")]).await
    }

    /// One call; the answer whatever its status.
    pub(super) async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Upload,
        headers: &[(header::HeaderName, &str)],
    ) -> Result<Answer, CallError> {
        let mut connection = self.connected().await?;
        let is_upload = matches!(body, Upload::File(_));
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, self.url.authority());
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(body).map_err(|error| CallError::Usage(format!("this can't be asked for: {error}")))?;
        let server = self.url.text.clone();
        let broken = |source| CallError::Broken { server: server.clone(), source };
        let exchange = async {
            let (head, body) = connection.send_request(request).await.map_err(broken)?.into_parts();
            let body = body.collect().await.map_err(broken)?.to_bytes();
            let seconds = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            Ok::<_, CallError>(Answer { status: head.status, retry_after: seconds.map(Duration::from_secs), body })
        };
        let answer = if is_upload {
            exchange.await?
        } else {
            let silent = CallError::Silent { server: self.url.text.clone(), seconds: ANSWER_TIMEOUT.as_secs() };
            tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.map_err(|_| silent)??
        };
        self.connection = Some(connection);
        Ok(answer)
    }

    /// The connection that is open, or a new one.
    async fn connected(&mut self) -> Result<SendRequest<Upload>, CallError> {
        if let Some(mut connection) = self.connection.take()
            && connection.ready().await.is_ok()
        {
            return Ok(connection);
        }
        let failed = |source| CallError::Connect { server: self.url.text.clone(), source };
        let stream = TcpStream::connect((self.url.host.as_str(), self.url.port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        match &self.tls {
            None => self.handshake(stream).await,
            Some(config) => {
                let name = ServerName::try_from(self.url.host.clone())
                    .map_err(|_| CallError::Usage(format!("--server {} has no name that a certificate can have", self.url.text)))?;
                let stream = tokio_rustls::TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
                let stream = stream.map_err(|source| CallError::Untrusted { server: self.url.text.clone(), source })?;
                self.handshake(stream).await
            }
        }
    }

    async fn handshake<S>(&self, stream: S) -> Result<SendRequest<Upload>, CallError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |source| CallError::Broken { server: self.url.text.clone(), source };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // An error of the connection is an error of the call that was on it, and told there.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

impl ServerUrl {
    fn parse(text: &str) -> Result<Self, CallError> {
        let refuse = || {
            CallError::Usage(format!("--server is {text:?}, expected http:// or https:// with a host, as in http://127.0.0.1:8080"))
        };
        let uri: ::http::Uri = text.parse().map_err(|_| refuse())?;
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(refuse()),
        };
        let host = uri.host().ok_or_else(refuse)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let has_path = uri.path_and_query().is_some_and(|path| path.as_str() != "/");
        if has_path || host.is_empty() {
            return Err(refuse());
        }
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        Ok(Self { text: text.trim_end_matches('/').to_owned(), is_https, host, port })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

/// Trusts what these certificates signed.
fn trust(path: &Path) -> Result<rustls::ClientConfig, CallError> {
    let refuse = |message: String| CallError::Usage(format!("--ca-cert {}: {message}; give certificates in PEM", path.display()));
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| refuse(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refuse("it holds no certificate".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| refuse(error.to_string()))?;
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(error.to_string()))?;
    let verifier = Arc::new(AuthorityOrItself { authority, certificates });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// The usual check, and beside it: the very certificate that was given is trusted for itself. A self-signed one, as many a first
/// server has, is an authority by its own account, and those are refused as servers.
#[derive(Debug)]
struct AuthorityOrItself {
    authority: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for AuthorityOrItself {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.or_else(|error| match self.certificates.iter().any(|trusted| trusted == end_entity) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(error),
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authority.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authority.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authority.supported_verify_schemes()
    }
}

/// What a call sends.
#[derive(Debug)]
pub(super) enum Upload {
    Bytes(Option<Bytes>),
    File(FileUpload),
}

/// A file on its way, with its bar.
#[derive(Debug)]
pub(super) struct FileUpload {
    file: File,
    remaining: u64,
    bar: ProgressBar,
}

/// Large enough that a read costs nothing beside the network.
const PIECE_BYTES: usize = 256 << 10;

impl Upload {
    pub(super) fn empty() -> Self {
        Self::Bytes(None)
    }

    pub(super) fn file(file: File, length: u64, bar: ProgressBar) -> Self {
        Self::File(FileUpload { file, remaining: length, bar })
    }
}

impl From<Bytes> for Upload {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(Some(bytes))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Bytes(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::File(upload) => Poll::Ready(upload.read_piece().map(|piece| piece.map(Frame::data)).transpose()),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_none(),
            Self::File(upload) => upload.remaining == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Bytes(bytes) => bytes.as_ref().map_or(0, Bytes::len) as u64,
            Self::File(upload) => upload.remaining,
        })
    }
}

impl FileUpload {
    /// Blocks on the disk: this process does nothing else meanwhile.
    fn read_piece(&mut self) -> io::Result<Option<Bytes>> {
        if self.remaining == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(self.remaining).unwrap_or(PIECE_BYTES))];
        let length = self.file.read(&mut piece)?;
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent"));
        }
        piece.truncate(length);
        self.remaining -= length as u64;
        self.bar.inc(length as u64);
        Ok(Some(Bytes::from(piece)))
    }
}

/// Runs a command that speaks to a server.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, super::Failure>>) -> Result<T, super::Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(super::Failure::new)?;
    runtime.block_on(work)
}

/// A text as one segment of a path or value of a query.
pub(super) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte as char);
        } else {
            // Writing to a text can't fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A bar on standard error; nothing where that is not a terminal.
pub(super) fn progress_bar(length: u64, what: &'static str, in_bytes: bool) -> ProgressBar {
    let template =
        if in_bytes { "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}" } else { "{msg} [{bar:30}] {percent}% {eta}" };
    let bar = ProgressBar::new(length);
    if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_scheme_and_a_host() {
        let url = ServerUrl::parse("http://127.0.0.1:8080/").unwrap();
        assert_eq!((url.text.as_str(), url.authority().as_str(), url.is_https), ("http://127.0.0.1:8080", "127.0.0.1:8080", false));
        assert_eq!(ServerUrl::parse("https://ota.example").unwrap().authority(), "ota.example:443");
        assert_eq!(ServerUrl::parse("http://[::1]:80").unwrap().authority(), "[::1]:80");
        for bad in ["", "127.0.0.1:8080", "ftp://x", "http://", "http://x/path", "http://x?y"] {
            assert!(matches!(ServerUrl::parse(bad), Err(CallError::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn names_are_encoded_for_a_path() {
        assert_eq!(encode("a b/c%水"), "a%20b%2Fc%25%E6%B0%B4");
    }
}
