//! Client certificates that name a device.
//!
//! A certificate names a device by one subject alternative name of the kind URI,
//!
//! ```text
//! urn:sluicegate:device:{organization}:{product}:{device}
//! ```
//!
//! with its three parts percent-encoded. It then opens what a token of that device would. One that has no such name, or two, or one that
//! can't be read, names nobody and opens nothing.
//!
//! Invariants:
//!   - A certificate is read only after the handshake has verified it, and once for each connection.
//!   - It opens something only while a new connection with it would be accepted: it is judged again when the files were read anew, when
//!     the session was only resumed, and every [`GOOD_FOR_MS`], so that neither an end of its time nor a revocation outlasts that.

use super::path::decode;
use super::tls::{Accepted, Tls};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{HandshakeKind, ServerConnection};
use sluicegate::DeviceName;
use sluicegate::model::Timestamp;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use webpki::EndEntityCert;

/// How long a judgement is good for. Ten thousand connections that are judged this often are 33 judgements a second, of some 0.1 ms each.
const GOOD_FOR_MS: u64 = 300_000;

const NAME_PREFIX: &str = "urn:sluicegate:device:";

/// What the client of a connection has shown, where it names a device.
pub struct ClientCertificate {
    device: DeviceName,
    chain: Vec<CertificateDer<'static>>,
    tls: Tls,
    judgement: Mutex<Option<Judgement>>,
}

#[derive(Clone, Copy)]
struct Judgement {
    /// Of the files that it was judged by.
    generation: u64,
    at: Timestamp,
    holds: bool,
}

impl ClientCertificate {
    /// `None` where the client has shown none, or one that names nobody.
    pub(super) fn read(
        connection: &ServerConnection,
        accepted: &Accepted,
        id_bytes_max: usize,
        now: Timestamp,
    ) -> Option<Arc<Self>> {
        let chain = connection.peer_certificates()?;
        let device = device_of(chain.first()?, id_bytes_max)?;
        // Of a resumed session only its ticket was looked at.
        let is_judged = connection.handshake_kind() != Some(HandshakeKind::Resumed);
        let judgement = is_judged.then_some(Judgement { generation: accepted.generation, at: now, holds: true });
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Some(Arc::new(Self { device, chain, tls: accepted.tls.clone(), judgement: Mutex::new(judgement) }))
    }

    /// Whom it names.
    pub fn device(&self) -> &DeviceName {
        &self.device
    }

    /// Whether a new connection with it would be accepted now.
    pub fn holds(&self, now: Timestamp) -> bool {
        // A judgement is put there whole, so one from before a panic is as good as any.
        let mut judgement = self.judgement.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.tls.generation();
        let is_good = |judgement: &Judgement| {
            // A no stays one: time only takes away.
            judgement.generation == generation && (!judgement.holds || now.0 < judgement.at.0.saturating_add(GOOD_FOR_MS))
        };
        if let Some(judgement) = judgement.filter(is_good) {
            return judgement.holds;
        }
        let (generation, holds) = self.tls.judge(&self.chain, UnixTime::since_unix_epoch(Duration::from_millis(now.0)));
        *judgement = Some(Judgement { generation, at: now, holds });
        holds
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientCertificate").field("device", &self.device).finish_non_exhaustive()
    }
}

fn device_of(certificate: &CertificateDer<'_>, id_bytes_max: usize) -> Option<DeviceName> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    //= https://www.rfc-editor.org/rfc/rfc8141#section-3.1
    //# The scheme and NID are case insensitive
    let is_name = |uri: &&str| uri.get(..NAME_PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(NAME_PREFIX));
    let mut names = certificate.valid_uri_names().filter(is_name);
    let (Some(name), None) = (names.next(), names.next()) else { return None };
    let device = parse(&name[NAME_PREFIX.len()..], id_bytes_max);
    if device.is_none() {
        tracing::debug!(name, "a client's certificate has a name that is no device's; it opens nothing");
    }
    device
}

/// `{organization}:{product}:{device}`, each percent-encoded.
pub(crate) fn parse(name: &str, id_bytes_max: usize) -> Option<DeviceName> {
    let mut parts = name.split(':').map(|part| {
        let part = decode(part, false).ok()?;
        ((1..=id_bytes_max).contains(&part.len()) && !part.chars().any(char::is_control)).then(|| Arc::from(&*part))
    });
    let (organization, product_id, device_id) = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(DeviceName { organization, product_id, device_id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn named(uris: &[&str]) -> Option<(String, String, String)> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let device = device_of(certificate.der(), 16)?;
        Some((device.organization.to_string(), device.product_id.to_string(), device.device_id.to_string()))
    }

    #[test]
    fn one_name_of_three_parts_names_a_device() {
        for (uri, parts) in [
            ("urn:sluicegate:device:acme:lamp:l-1", ("acme", "lamp", "l-1")),
            ("URN:SluiceGate:device:acme:lamp:L-1", ("acme", "lamp", "L-1")),
            ("urn:sluicegate:device:a%3Ab:c%25d:%C3%BC%20/", ("a:b", "c%d", "ü /")),
        ] {
            let (organization, product, device) = named(&["https://acme.example/", uri]).unwrap();
            assert_eq!((&*organization, &*product, &*device), parts, "{uri}");
        }
    }

    #[test]
    fn anything_else_names_nobody() {
        for uris in [
            &[][..],
            &["https://acme.example/"],
            &["urn:sluicegate:device:acme:lamp"],
            &["urn:sluicegate:device:acme:lamp:l-1:more"],
            &["urn:sluicegate:device:acme::l-1"],
            &["urn:sluicegate:device:::"],
            &["urn:sluicegate:device:acme:lamp:l%"],
            &["urn:sluicegate:device:acme:lamp:l%0"],
            &["urn:sluicegate:device:acme:lamp:l%+1"],
            &["urn:sluicegate:device:acme:lamp:l%00"],
            &["urn:sluicegate:device:acme:lamp:%ff"],
            &["urn:sluicegate:device:acme:lamp:seventeen-letters"],
            &["urn:sluicegate:devices:acme:lamp:l-1"],
            &["urn:sluicegate:device:acme:lamp:l-1", "urn:sluicegate:device:acme:lamp:l-2"],
        ] {
            assert_eq!(named(uris), None, "{uris:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        assert!(device_of(&CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01, 0x00]), 16).is_none());
        assert!(device_of(&CertificateDer::from(Vec::new()), 16).is_none());
    }
}
