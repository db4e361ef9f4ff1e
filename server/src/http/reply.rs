//! Replies built the one right way: length known, type told, nothing escaped that need not be.

use super::{Body, Reply};
use ::http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use ::http::{HeaderValue, Response, StatusCode};
use bytes::Bytes;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A JSON reply with `Content-Length`; compact, slashes not escaped.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Reply {
    // An offer with its link fits.
    let mut text = Vec::with_capacity(1024);
    match serde_json::to_writer(&mut text, value) {
        Ok(()) => json_bytes(status, Bytes::from(text)),
        Err(error) => {
            // Only a value that can't be JSON at all gets here (a map with keys that are no texts): a bug of ours.
            tracing::error!(%error, "a reply could not be written as JSON");
            empty(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// A reply whose JSON is written already.
pub fn json_bytes(status: StatusCode, text: Bytes) -> Reply {
    let mut reply = Response::new(Body::from(text));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, JSON);
    reply
}

pub fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = status;
    reply
}

/// A reply of some other type.
pub fn text(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Body::from(text.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// The same reply with one more header. A value that can't be one (a control character in it) is left out.
pub fn with_header(mut reply: Reply, name: HeaderName, value: impl TryInto<HeaderValue>) -> Reply {
    if let Ok(value) = value.try_into() {
        reply.headers_mut().insert(name, value);
    }
    reply
}

/// The same reply with `Retry-After`; at least a second, so that nobody comes back at once.
pub fn retry_after(mut reply: Reply, seconds: u32) -> Reply {
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    reply
}
