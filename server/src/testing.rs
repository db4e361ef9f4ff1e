//! The server's parts for programs that measure them from outside, beside the tests: a whole server without sockets of its own, and
//! what is private to a dialect by name; and everything that reads what comes from outside, for those who try to break it. Not part of
//! the library's interface.

use crate::app::App;
use crate::auth;
use crate::auth::IssuedToken;
use crate::config::{Config, ServeArguments};
use crate::dialect::{autel, enos, huawei, native, xlink};
use crate::http::path;
use crate::image::LinkSigner;
use crate::mqtt::topics;
use crate::mqtt::wire::{ClientWire, ConnectOptions, ProtocolVersion, ServerWire, WireLimits};
use sluicegate::image::range::{self, RangeRequest};
use sluicegate::model::{ImageId, Timestamp};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

pub use crate::dialect::{native::reads_check as reads_native_check, xlink::reads_check as reads_xlink_check};

/// Opens `folder` as `serve` does, with the defaults of everything; whoever calls it serves the connections.
pub fn open(folder: &Path) -> Result<Arc<App>, String> {
    let arguments = ServeArguments { data: Some(folder.to_owned()), ..ServeArguments::default() };
    let config = Config::load(&arguments).map_err(|error| error.to_string())?;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 8080));
    crate::cli::open(config, Some("measured-token".to_owned()), nowhere)
}

/// Every HTTP call there is, as the dispatchers find it: the platform, the method, and the path with its names in braces. For tests that
/// have to try all of them.
pub fn routes() -> Vec<(&'static str, &'static str, String)> {
    crate::dialect::routes().collect()
}

/// Every MQTT topic in which devices speak, as filters over all devices. Where a filter has two `+`, the first is the product.
pub fn device_filters() -> Vec<&'static str> {
    crate::dialect::device_filters().collect()
}

/// A device's token, as an operator gets one for it.
pub async fn device_token(app: &App, product_id: &str, device_id: &str) -> Result<IssuedToken, sluicegate::Error> {
    let new = crate::auth::NewToken {
        purpose: sluicegate::model::TokenPurpose::Access,
        role: sluicegate::model::Role::Device,
        organization: crate::auth::DEFAULT_ORGANIZATION.into(),
        product_id: Some(product_id.into()),
        device_id: Some(device_id.into()),
        app: None,
        ttl_s: 3_600,
    };
    app.auth.issue(new, app.now()).await
}

/// Something that reads what comes from outside, and its name. It may refuse, but neither panic nor hang, nor break what it promises.
pub type Reader = (&'static str, fn(&[u8]));

/// All there are.
pub fn readers() -> impl Iterator<Item = Reader> {
    let of_dialects = [native::readers::READERS, xlink::readers::READERS, enos::readers::READERS, huawei::readers::READERS];
    of_dialects.into_iter().chain([autel::readers::READERS, READERS]).flatten().copied()
}

/// Those that belong to no dialect.
const READERS: &[Reader] = &[
    ("range", |bytes| {
        with_text(bytes, |text| {
            for size in [0, 1, 1_000, u64::MAX] {
                let ranges = match range::parse(text, size) {
                    RangeRequest::Whole | RangeRequest::NotSatisfiable => continue,
                    RangeRequest::One(one) => vec![one],
                    RangeRequest::Many(many) => many,
                };
                assert!((1..=range::RANGES_MAX).contains(&ranges.len()));
                assert!(ranges.iter().all(|range| range.length() > 0 && range.last() < size), "{text:?} of {size}");
            }
        });
    }),
    ("path", |bytes| with_text(bytes, |text| done((path::segments(text).is_ok(), path::decode(text, true).is_ok())))),
    ("token", |bytes| with_text(bytes, |text| done(auth::split(text)))),
    ("signed-link", |bytes| {
        with_text(bytes, |text| {
            // Nobody finds a signature by trying.
            let signer = LinkSigner::new([7; 32]);
            assert!(signer.verify(ImageId([3; 32]), Some(text), Timestamp(0)).is_err(), "{text:?} opens an image");
        });
    }),
    ("topic-filter", |bytes| {
        with_text(bytes, |text| {
            let (filter, topic) = text.split_once('\n').unwrap_or((text, text));
            if topics::is_filter(filter) {
                done(topics::matches(filter, topic));
            }
        });
    }),
    ("mqtt-from-clients", |bytes| {
        let mut wire = ServerWire::new(LIMITS);
        let mut said = Vec::new();
        for piece in pieces(bytes) {
            if wire.receive(piece, &mut said).is_err() {
                break;
            }
            // As a server does that lets everybody in.
            if said.len() == 1 {
                wire.accept(false, None);
            }
        }
        assert!(said.len() <= bytes.len() && wire.output().len() <= 64 * (bytes.len() + 1));
    }),
    ("mqtt-from-brokers", |bytes| {
        let version = if bytes.first().is_some_and(|byte| byte % 2 == 0) { ProtocolVersion::V311 } else { ProtocolVersion::V5 };
        let mut wire = ClientWire::new(version, LIMITS);
        let options = ConnectOptions {
            version,
            client_id: "c".to_owned(),
            clean: true,
            keep_alive_s: 60,
            username: None,
            password: None,
            session_expiry_s: 0,
            will: None,
        };
        wire.connect(&options).expect("short texts");
        let mut said = Vec::new();
        for piece in pieces(bytes.get(1..).unwrap_or_default()) {
            if wire.receive(piece, &mut said).is_err() {
                break;
            }
        }
        assert!(said.len() <= bytes.len());
    }),
];

const LIMITS: WireLimits = WireLimits { packet_bytes_max: 64 << 10, receive_max: 16 };

/// The first byte of what is left says how much comes at once.
fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = 1 + usize::from(*bytes.first()?);
        let (piece, rest) = bytes.split_at(length.min(bytes.len()));
        bytes = rest;
        Some(piece)
    })
}

/// Lets no compiler leave out what made `value`.
pub(crate) fn done<T>(value: T) {
    std::hint::black_box(&value);
}

/// What only texts get to.
pub(crate) fn with_text(bytes: &[u8], read: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        read(text);
    }
}

#[cfg(test)]
mod tests;
