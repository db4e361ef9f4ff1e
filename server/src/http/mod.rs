//! Plumbing: what handlers get and give.
//!
//! - [`body`]: request bodies with bounds in size and time, reply bodies of known length;
//! - [`path`], [`query`]: targets taken apart safely;
//! - [`reply`]: replies built the one right way;
//! - [`outlet`]: bytes of images from their files;
//! - [`client_certificate`]: whom a client's certificate names;
//! - [`listener`], [`connection`] (of HTTP/2: [`h2`]), [`tls`]: sockets, and the time limits on every wait.

pub mod body;
pub mod client_certificate;
pub mod connection;
pub mod h2;
pub mod listener;
pub mod outlet;
pub mod path;
pub mod pressure;
pub mod query;
pub mod reply;
pub mod tls;

pub use body::{Body, BodyError, RequestBody, read_body};
pub use client_certificate::ClientCertificate;
pub use query::Query;
pub use reply::{empty, json, json_bytes, retry_after, text, with_header};

use std::sync::Arc;

/// A request as a handler gets it: head parsed, body still on the wire.
pub type Request = ::http::Request<RequestBody>;
pub type Reply = ::http::Response<Body>;

/// Where a request came from and over what; see [`RequestBody::peer`].
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: std::net::SocketAddr,
    pub tls: bool,
    /// What its connection has shown, where it names a device.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// The token of `Authorization: Bearer`, `Access-Token` or another header of that kind: whatever stands there, trimmed, without the
/// scheme. `None` where the header is absent or empty.
pub fn header_token<'a>(headers: &'a ::http::HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?;
    // As nearly everybody writes it.
    if let Some(token) = value.as_bytes().strip_prefix(b"Bearer ")
        && !token.is_empty()
        && token.iter().fold(true, |all, byte| all & byte.is_ascii_graphic())
    {
        return std::str::from_utf8(token).ok();
    }
    let text = value.to_str().ok()?.trim();
    let text = match text.split_once(|character: char| character.is_ascii_whitespace()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim_start(),
        _ if text.eq_ignore_ascii_case("bearer") => "",
        _ => text,
    };
    (!text.is_empty()).then_some(text)
}

/// The token of `Authorization: Bearer …`.
pub fn bearer(headers: &::http::HeaderMap) -> Option<&str> {
    header_token(headers, "authorization")
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod token_tests {
    use super::*;
    use ::http::{HeaderMap, HeaderValue};

    #[test]
    fn a_token_is_found_with_and_without_scheme_and_blanks() {
        for (value, expected) in [
            ("Bearer abc.def", Some("abc.def")),
            ("bearer   abc.def  ", Some("abc.def")),
            ("abc.def", Some("abc.def")),
            ("  abc.def\t", Some("abc.def")),
            ("Bearer", None),
            ("Bearer ", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("access-token", HeaderValue::from_str(value).unwrap());
            assert_eq!(header_token(&headers, "access-token"), expected, "{value:?}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
