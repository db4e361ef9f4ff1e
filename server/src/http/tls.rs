//! TLS: certificates read from files, and read again on demand without dropping a connection.

use crate::config::{ClientAuth, TlsConfig};
use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// What new connections are accepted with. Those that are open go on with what they were accepted with; what their certificates open
/// is judged by what is here now.
#[derive(Clone, Debug)]
pub struct Tls {
    current: Arc<ArcSwap<Loaded>>,
}

/// What was read at one time.
#[derive(Debug)]
struct Loaded {
    generation: u64,
    http: Arc<ServerConfig>,
    mqtt: Arc<ServerConfig>,
    /// Who looks at clients' certificates, where they are asked for one.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// What a connection was accepted with.
#[derive(Debug)]
pub struct Accepted {
    pub(super) tls: Tls,
    pub(super) generation: u64,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} can't be read: {message}; give {expected} in PEM", path.display())]
    File { path: PathBuf, expected: &'static str, message: String },
    #[error("{} holds no {expected}; give one in PEM", path.display())]
    Empty { path: PathBuf, expected: &'static str },
    #[error("the certificate in {} and the key in {} can't be used: {message}; give a chain with its own key", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, message: String },
    #[error("the certificates in {} can't be used to check whom they should: {message}; give those of the authority", path.display())]
    ClientCa { path: PathBuf, message: String },
    #[error("the revocation lists in {} can't be used: {message}; give one of each authority between a client and the authorities trusted", path.display())]
    RevocationList { path: PathBuf, message: String },
    #[error("TLS can't be set up: {message}")]
    Setup { message: String },
}

impl Tls {
    pub fn new(config: &TlsConfig) -> Result<Self, TlsError> {
        Ok(Self { current: Arc::new(ArcSwap::new(Arc::new(load(config, 0)?))) })
    }

    /// Reads the files again. On an error what was there stays. Called by one thread alone.
    pub fn reload(&self, config: &TlsConfig) -> Result<(), TlsError> {
        let generation = self.generation() + 1;
        self.current.store(Arc::new(load(config, generation)?));
        Ok(())
    }

    pub fn acceptor_for_http(&self) -> (TlsAcceptor, Accepted) {
        self.acceptor(|loaded| &loaded.http)
    }

    pub fn acceptor_for_mqtt(&self) -> (TlsAcceptor, Accepted) {
        self.acceptor(|loaded| &loaded.mqtt)
    }

    fn acceptor(&self, config: impl Fn(&Loaded) -> &Arc<ServerConfig>) -> (TlsAcceptor, Accepted) {
        let loaded = self.current.load();
        let accepted = Accepted { tls: self.clone(), generation: loaded.generation };
        (TlsAcceptor::from(Arc::clone(config(&loaded))), accepted)
    }

    /// How often the files were read before they were as they are now.
    pub(super) fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// Whether a client with this chain would be let in, and by which generation of the files.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> (u64, bool) {
        let loaded = self.current.load();
        let holds = match (&loaded.verifier, chain) {
            (Some(verifier), [own, between @ ..]) => verifier.verify_client_cert(own, between, now).is_ok(),
            _ => false,
        };
        (loaded.generation, holds)
    }
}

/// What a client may choose to speak (ALPN).
pub const HTTP_2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";
const MQTT: &[u8] = b"mqtt";

/// Sessions that may be resumed by an id; tickets, which cost no memory, are offered first.
const SESSIONS_MAX: usize = 16_384;

fn load(config: &TlsConfig, generation: u64) -> Result<Loaded, TlsError> {
    let setup = |error: rustls::Error| TlsError::Setup { message: error.to_string() };
    let chain = certificates(&config.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::Empty { path: config.key.clone(), expected: "private key" },
        error => TlsError::File { path: config.key.clone(), expected: "a private key", message: error.to_string() },
    })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().map_err(setup)?;
    let verifier = config.client_ca.as_ref().map(|authorities| client_verifier(authorities, config, provider)).transpose()?;
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let mut server = builder.with_single_cert(chain, key).map_err(|error| TlsError::Pair {
        certificate: config.certificate.clone(),
        key: config.key.clone(),
        message: error.to_string(),
    })?;
    server.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    // A new key for tickets with each load: who was let in by an authority that is gone isn't resumed.
    server.ticketer = aws_lc_rs::Ticketer::new().map_err(setup)?;
    let offering = |protocols: &[&[u8]]| {
        let mut server = server.clone();
        server.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(server)
    };
    let http = offering(if config.http2 { &[HTTP_2, HTTP_1_1] } else { &[HTTP_1_1] });
    Ok(Loaded { generation, http, mqtt: offering(&[MQTT]), verifier })
}

fn client_verifier(
    authorities: &Path,
    config: &TlsConfig,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let refuse = |message: String| TlsError::ClientCa { path: authorities.to_owned(), message };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities)? {
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if config.client_auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    // Whoever is on no list because there is no list of its authority isn't let in.
    match &config.client_crl {
        None => builder.build().map_err(|error| refuse(error.to_string())),
        Some(path) => builder
            .with_crls(revocation_lists(path)?)
            .build()
            .map_err(|error| TlsError::RevocationList { path: path.clone(), message: error.to_string() }),
    }
}

fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let unreadable =
        |error: pem::Error| TlsError::File { path: path.to_owned(), expected: "revocation lists", message: error.to_string() };
    let lists = CertificateRevocationListDer::pem_file_iter(path).map_err(unreadable)?;
    let lists = lists.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if lists.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), expected: "revocation list" });
    }
    Ok(lists)
}

/// What a client trusts: the authorities in the file, or those that the system trusts.
pub(crate) fn client_config(ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let setup = |error: rustls::Error| TlsError::Setup { message: error.to_string() };
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                let refuse = |error: rustls::Error| TlsError::ClientCa { path: path.to_owned(), message: error.to_string() };
                roots.add(certificate).map_err(refuse)?;
            }
        }
        None => {
            let native = rustls_native_certs::load_native_certs();
            let (_, unusable) = roots.add_parsable_certificates(native.certs);
            if roots.is_empty() {
                let message = format!("the system has no authorities ({unusable} unusable); name a file of them");
                return Err(TlsError::Setup { message });
            }
        }
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(setup)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable =
        |error: pem::Error| TlsError::File { path: path.to_owned(), expected: "a certificate chain", message: error.to_string() };
    let chain = CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), expected: "certificate" });
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn self_signed(folder: &Path, name: &str) -> TlsConfig {
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let write = |kind: &str, text: String| {
            let path = folder.join(format!("{name}.{kind}"));
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsConfig {
            listen: None,
            certificate: write("cert", signed.cert.pem()),
            key: write("key", signed.signing_key.serialize_pem()),
            client_ca: None,
            client_auth: ClientAuth::Required,
            client_crl: None,
            http2: true,
        }
    }

    #[test]
    fn a_bad_file_is_named_and_what_was_loaded_stays() {
        let folder = tempfile::tempdir().unwrap();
        let good = self_signed(folder.path(), "good");
        let tls = Tls::new(&good).unwrap();
        let before = tls.current.load_full();
        let other = self_signed(folder.path(), "other");
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        for (bad, named) in [
            (TlsConfig { certificate: folder.path().join("missing"), ..good.clone() }, "missing"),
            (TlsConfig { certificate: empty.clone(), ..good.clone() }, "empty"),
            (TlsConfig { key: empty.clone(), ..good.clone() }, "empty"),
            (TlsConfig { key: good.certificate.clone(), ..good.clone() }, "good.cert"),
            (TlsConfig { key: other.key.clone(), ..good.clone() }, "other.key"),
            (TlsConfig { client_ca: Some(empty.clone()), ..good.clone() }, "empty"),
            (TlsConfig { client_ca: Some(other.certificate.clone()), client_crl: Some(empty.clone()), ..good.clone() }, "empty"),
        ] {
            let message = tls.reload(&bad).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
        assert!(Arc::ptr_eq(&before, &tls.current.load_full()));
        tls.reload(&other).unwrap();
        assert!(!Arc::ptr_eq(&before, &tls.current.load_full()));
    }
}
