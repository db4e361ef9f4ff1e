//! A certificate authority, what it signs, and clients that trust it.

use super::{PATIENCE, TestServer};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A certificate authority, and files of what it signed.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority of these tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { folder: tempfile::tempdir().unwrap(), issuer };
        std::fs::write(authority.path("ca.pem"), authority.issuer.pem()).unwrap();
        authority
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Signs a new certificate for `localhost`, into `{name}.pem` and `{name}.key`; returns its bytes.
    pub(crate) fn sign(&self, name: &str) -> CertificateDer<'static> {
        self.sign_with(name, &[], 1)
    }

    /// The same for somebody who is also called by these URIs, under a serial number.
    pub(crate) fn sign_with(&self, name: &str, uris: &[&str], serial: u64) -> CertificateDer<'static> {
        self.sign_from(name, uris, serial, CertificateParams::new(vec!["localhost".to_owned()]).unwrap())
    }

    /// One whose time is over.
    pub(crate) fn sign_expired(&self, name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        self.sign_from(name, &[], 1, params)
    }

    fn sign_from(&self, name: &str, uris: &[&str], serial: u64, mut params: CertificateParams) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        certificate.der().clone()
    }

    /// Writes the list of what it has revoked, into `{name}`.
    pub(crate) fn revoke(&self, name: &str, serials: &[u64]) -> PathBuf {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        std::fs::write(self.path(name), list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        self.path(name)
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    pub(crate) fn client(&self) -> ClientConfig {
        ClientConfig::builder().with_root_certificates(self.roots()).with_no_client_auth()
    }

    pub(crate) fn client_that_shows(&self, name: &str) -> ClientConfig {
        self.client_that_shows_of(self, name)
    }

    /// It trusts this authority, and shows what another has signed.
    pub(crate) fn client_that_shows_of(&self, other: &Self, name: &str) -> ClientConfig {
        let certificate = CertificateDer::from_pem_file(other.path(&format!("{name}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(other.path(&format!("{name}.key"))).unwrap();
        ClientConfig::builder().with_root_certificates(self.roots()).with_client_auth_cert(vec![certificate], key).unwrap()
    }

    #[must_use]
    #[track_caller]
    pub(crate) fn start(&self, more: &[&str]) -> TestServer {
        self.start_configured(more, "")
    }

    /// A server with the certificate `server`.
    #[must_use]
    #[track_caller]
    pub(crate) fn start_configured(&self, more: &[&str], config: &str) -> TestServer {
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        let args = ["--tls-listen", "127.0.0.1:0", "--tls-cert", text(&certificate), "--tls-key", text(&key)];
        TestServer::setup().args(&args).args(more).config(config).start()
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A connection whose handshake is still to come.
pub(crate) fn connect(server: &TestServer, config: ClientConfig) -> TlsStream {
    connect_to(&server.address("https"), Arc::new(config))
}

pub(crate) fn connect_to(address: &str, config: Arc<ClientConfig>) -> TlsStream {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(config, name).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(connection, stream)
}

/// Shakes hands now. A client of TLS 1.3 hears of its refusal only when it reads on.
pub(crate) fn shake_hands(stream: &mut TlsStream) -> io::Result<()> {
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(())
}
