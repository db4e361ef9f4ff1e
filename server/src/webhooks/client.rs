//! The calls themselves: one POST at a time per subscription, over connections that are kept.

use ::http::header::{CONTENT_TYPE, HeaderName};
use ::http::{HeaderValue, Method, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::time::Duration;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Client(legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// Why a call counts as failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// The receiver answered, and not with success.
    Status(StatusCode),
    Connection(String),
    TimedOut,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(formatter, "the receiver answered {status}, expected 2xx"),
            Self::Connection(why) => write!(formatter, "the receiver can't be reached: {why}"),
            Self::TimedOut => write!(formatter, "the receiver did not answer within {} s", CALL_TIMEOUT.as_secs()),
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// What a receiver says is read, so that the connection can be kept, and thrown away.
const REPLY_BYTES_MAX: usize = 64 * 1024;

impl Client {
    pub(super) fn new() -> io::Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        // Whom to trust is the system's to say, as for everything else on the machine. A machine without such certificates serves all the
        // same: receivers over https are then not trusted, and each call says so.
        let builder = match HttpsConnectorBuilder::new().with_native_roots() {
            Ok(builder) => builder,
            Err(error) => {
                tracing::warn!(%error, "no https receiver of webhooks can be trusted; install the system's CA certificates");
                HttpsConnectorBuilder::new().with_tls_config(trusting_nobody()?)
            }
        };
        let connector = builder.https_or_http().enable_http1().wrap_connector(connector);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(4)
            .build(connector);
        Ok(Self(client))
    }

    /// Returns once the receiver has said that it has the message.
    pub(super) async fn post(
        &self,
        uri: Uri,
        body: Bytes,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Result<(), CallError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.headers_mut().extend(headers);
        let call = async {
            let reply = self.0.request(request).await.map_err(|error| CallError::Connection(causes(&error)))?;
            let status = reply.status();
            // Whether it can be read to its end only decides whether the connection is kept.
            let _ = Limited::new(reply.into_body(), REPLY_BYTES_MAX).collect().await;
            if status.is_success() { Ok(()) } else { Err(CallError::Status(status)) }
        };
        tokio::time::timeout(CALL_TIMEOUT, call).await.unwrap_or(Err(CallError::TimedOut))
    }
}

fn trusting_nobody() -> io::Result<ClientConfig> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(io::Error::other)?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// An error with what caused it: the outermost alone says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
