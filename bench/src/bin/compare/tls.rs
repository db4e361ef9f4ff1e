//! The certificate that both servers show, and how our own client meets it.

use crate::failure::{Context, Outcome};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A P-256 certificate for the loopback address, signed by its own key.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    roots: Arc<RootCertStore>,
}

impl Certificate {
    pub(crate) fn make(folder: &Path) -> Outcome<Self> {
        // P-256 is what rcgen makes unless told otherwise; naming it keeps it so.
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context(|| "no key for TLS".to_owned())?;
        let parameters = rcgen::CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]);
        let signed = parameters.and_then(|parameters| parameters.self_signed(&key)).context(|| "no certificate".to_owned())?;
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).context(|| format!("{} can't be written", path.display()))?;
            Ok(path)
        };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(signed.der().to_vec())).context(|| "the certificate can't be trusted".to_owned())?;
        Ok(Self {
            certificate: write("certificate.pem", signed.pem())?,
            key: write("key.pem", key.serialize_pem())?,
            roots: Arc::new(roots),
        })
    }

    /// A client with a memory of its own for sessions to resume, or without any.
    ///
    /// TLS 1.3 alone and X25519 alone: a server with newer key exchanges must not be made to pay for them beside one without.
    pub(crate) fn client(&self, resumes: bool) -> Outcome<Arc<ClientConfig>> {
        let provider = CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).context(|| "TLS can't be set up".to_owned())?;
        let mut config = builder.with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth();
        config.resumption = if resumes { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
        Ok(Arc::new(config))
    }
}
