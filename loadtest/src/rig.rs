//! A server of one's own with a fleet in it, for what is measured alone.
//!
//! Life cycle: 1. `start`   2. `fleet`, perhaps several   3. the measurement   4. `stop`. Dropped, it kills the server and removes the folder.

use crate::client::{ClientError, Endpoint, bearer_value};
use crate::options::Options;
use crate::progress::Progress;
use crate::server_process::{self, Addresses, ServerHome, ServerProcess};
use crate::setup::{self, Operator, Rollout};
use crate::usage::Usage;
use crate::wire::Target;
use clap::Parser;
use rustix::process::{Resource, getrlimit};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// The server's and the client's own files beside connections: the store's, the images', the libraries'.
const OWN_FILES: u64 = 600;

pub(crate) struct Rig {
    server: ServerProcess,
    pid: Arc<AtomicU32>,
    endpoint: Endpoint,
    pub(crate) operator: Operator,
    /// Plain, or TLS where it was asked for.
    pub(crate) target: Target,
    /// The last to go.
    _folder: TempDir,
}

/// Open connections that this process, and the server, which inherits its limit, can have.
pub(crate) fn connections_max() -> u64 {
    getrlimit(Resource::Nofile).current.map_or(1 << 20, |limit| limit.saturating_sub(OWN_FILES))
}

impl Rig {
    pub(crate) async fn start(tls: bool) -> Result<Self, String> {
        Self::start_with(tls, &[]).await
    }

    /// With arguments for the server beside its own.
    pub(crate) async fn start_with(tls: bool, more: &[&str]) -> Result<Self, String> {
        let folder = TempDir::with_prefix("sluicegate-loadtest-").map_err(|error| format!("no temporary folder: {error}"))?;
        let config = folder.path().join("server.toml");
        // Nobody is sent away for saying nothing while others still connect.
        let text = format!("[limits]\nconnections_max = {}\nidle_timeout_s = 3600\n", connections_max());
        let written = |error: std::io::Error| format!("{}: {error}", folder.path().display());
        std::fs::write(&config, text).map_err(written)?;
        let mut arguments = vec!["--config".into(), config.into_os_string()];
        arguments.extend(more.iter().map(Into::into));
        let mut client_config = None;
        if tls {
            let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(|error| error.to_string())?;
            let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
            std::fs::write(&certificate, signed.cert.pem()).map_err(written)?;
            std::fs::write(&key, signed.signing_key.serialize_pem()).map_err(written)?;
            arguments.extend(["--tls-listen".into(), "127.0.0.1:0".into()]);
            arguments.extend(["--tls-cert".into(), certificate.into_os_string(), "--tls-key".into(), key.into_os_string()]);
            client_config = Some(trusting(&signed.cert.pem())?);
        }
        let (binary, pid) = (server_process::find_binary().await?, Arc::<AtomicU32>::default());
        let admin_token = format!("loadtest-{:016x}", crate::unique_number());
        let token = bearer_value(&admin_token).map_err(|error| error.to_string())?;
        let home = ServerHome { binary, folder: folder.path().to_owned(), admin_token, pid: Arc::clone(&pid), arguments };
        let server = ServerProcess::start(&home, &Addresses::free(false, None)).await?;
        let endpoint = Endpoint::parse(&format!("http://{}", server.addresses.http))?;
        let address = match &server.addresses.https {
            Some(https) if tls => https,
            None if tls => return Err("the server didn't say where it takes TLS".to_owned()),
            _ => &server.addresses.http,
        };
        let address: SocketAddr = address.parse().map_err(|error| format!("{address}: {error}"))?;
        let target = Target { address, tls: client_config };
        Ok(Self { server, pid, operator: Operator::new(endpoint.clone(), token), endpoint, target, _folder: folder })
    }

    /// Registers devices of a product of their own, and issues their tokens. With a task, all of them may upgrade at once.
    pub(crate) async fn fleet(&mut self, devices: u32, with_task: bool) -> Result<(Rollout, Vec<String>), String> {
        let count = devices.to_string();
        let options = ["loadtest", "--devices", &count, "--cap", &count, "--image-size", "64KiB", "--timeout-s", "86400"];
        let options = Options::parse_from(options);
        let product_id = format!("loadtest-{:016x}-{with_task}", crate::unique_number());
        let text = |error: ClientError| error.to_string();
        let rollout = match with_task {
            true => setup::prepare_rollout(&options, product_id, &mut self.operator).await.map_err(text)?,
            false => Rollout::without_task(product_id),
        };
        let registering = Progress::new("registering devices", devices.into());
        setup::register_devices(&options, &rollout, &mut self.operator, &registering).await.map_err(text)?;
        registering.finish();
        let issuing = Arc::new(Progress::new("issuing their tokens", devices.into()));
        let rollout = Arc::new(rollout);
        let tokens = setup::issue_tokens(&options, &self.endpoint, &rollout, &self.operator, &issuing).await.map_err(text)?;
        issuing.finish();
        let rollout = Arc::into_inner(rollout).ok_or("the issuers have ended")?;
        Ok((rollout, tokens))
    }

    /// What the server's process takes now.
    pub(crate) fn usage(&self) -> Usage {
        Usage::of(self.pid.load(Ordering::Relaxed)).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// A figure of the server's metrics: the sum of the lines with this name.
    pub(crate) async fn metric(&mut self, name: &str) -> Result<f64, String> {
        let answer = self.operator.send(crate::client::Call::get("/metrics")).await.map_err(|error| error.to_string())?;
        let text = answer.text();
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        Ok(text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    pub(crate) async fn stop(self) -> Result<(), String> {
        self.server.stop().await
    }
}

fn trusting(certificate: &str) -> Result<Arc<rustls::ClientConfig>, String> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(|error| error.to_string())?;
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    // Devices that come back after a power cut have forgotten their sessions.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
