//! TLS: the same server, behind a certificate; another certificate without a restart; clients that must show theirs.

use crate::common::{ADMIN_TOKEN, TestServer, wait_until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A certificate authority, and files of what it signed.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { folder: tempfile::tempdir().unwrap(), issuer };
        std::fs::write(authority.path("ca.pem"), authority.issuer.pem()).unwrap();
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Signs a new certificate for `localhost`, into `{name}.pem` and `{name}.key`; returns its bytes.
    fn sign(&self, name: &str) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        certificate.der().clone()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    fn client(&self) -> ClientConfig {
        ClientConfig::builder().with_root_certificates(self.roots()).with_no_client_auth()
    }

    fn client_that_shows(&self, name: &str) -> ClientConfig {
        let certificate = CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
        ClientConfig::builder().with_root_certificates(self.roots()).with_client_auth_cert(vec![certificate], key).unwrap()
    }

    fn start(&self, more: &[&str]) -> TestServer {
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        let args = ["--tls-listen", "127.0.0.1:0", "--tls-cert", text(&certificate), "--tls-key", text(&key)];
        TestServer::setup().args(&args).args(more).start()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn connect(server: &TestServer, config: ClientConfig) -> Stream {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(server.address("https")).unwrap();
    stream.set_read_timeout(Some(crate::common::PATIENCE)).unwrap();
    StreamOwned::new(connection, stream)
}

/// Asks for the products, and returns all that comes back.
fn ask(stream: &mut Stream) -> std::io::Result<String> {
    let request = format!(
        "GET /api/v1/products HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn the_api_answers_over_tls_beside_the_plain_port() {
    let authority = Authority::new();
    authority.sign("server");
    let server = authority.start(&[]);
    let answer = ask(&mut connect(&server, authority.client())).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.admin().get("/api/v1/products").expect(200);
}

#[test]
fn a_client_that_speaks_no_tls_is_turned_away_and_the_server_lives() {
    let authority = Authority::new();
    authority.sign("server");
    let server = authority.start(&[]);
    let plain = crate::common::Client::new(server.address("https"));
    let answer = plain.exchange(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer:?}");
    assert!(ask(&mut connect(&server, authority.client())).unwrap().starts_with("HTTP/1.1 200"));
}

#[test]
fn a_client_without_the_demanded_certificate_is_turned_away() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("server");
    authority.sign("device");
    stranger.sign("device");
    let ca = authority.path("ca.pem");
    let server = authority.start(&["--tls-client-ca", text(&ca)]);
    assert!(ask(&mut connect(&server, authority.client_that_shows("device"))).unwrap().starts_with("HTTP/1.1 200"));
    assert!(ask(&mut connect(&server, authority.client())).is_err());
    let strange = ClientConfig::builder().with_root_certificates(authority.roots());
    let certificate = CertificateDer::from_pem_file(stranger.path("device.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(stranger.path("device.key")).unwrap();
    let strange = strange.with_client_auth_cert(vec![certificate], key).unwrap();
    assert!(ask(&mut connect(&server, strange)).is_err());
}

#[test]
fn sighup_brings_a_new_certificate_without_dropping_a_connection() {
    let authority = Authority::new();
    let first = authority.sign("server");
    let server = authority.start(&[]);
    let mut old = connect(&server, authority.client());
    // The handshake is done before the change.
    while old.conn.is_handshaking() {
        old.conn.complete_io(&mut old.sock).unwrap();
    }
    assert_eq!(old.conn.peer_certificates().unwrap()[0], first);
    let second = authority.sign("server");
    server.signal(rustix::process::Signal::HUP);
    wait_until("new connections get the new certificate", || {
        let mut stream = connect(&server, authority.client());
        let _answer = ask(&mut stream).unwrap();
        (stream.conn.peer_certificates().unwrap()[0] == second).then_some(())
    });
    assert!(ask(&mut old).unwrap().starts_with("HTTP/1.1 200"), "the old connection lives on");
    // A broken one changes nothing.
    std::fs::write(authority.path("server.pem"), "not a certificate").unwrap();
    server.signal(rustix::process::Signal::HUP);
    wait_until("the refusal is logged", || (server.log().matches("certificate").count() > 0).then_some(()));
    assert!(ask(&mut connect(&server, authority.client())).unwrap().starts_with("HTTP/1.1 200"));
}
