//! What `serve` takes on the command line, and from the environment where the line doesn't say.

use super::{ClientAuth, LogFormat};
use clap::Args;
use std::path::PathBuf;

/// Options of `serve`. Each is also a variable `SLUICEGATE_…` of the environment and a key of the configuration file.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArguments {
    /// The folder that holds everything; made if it isn't there [default: ./sluicegate-data]
    #[arg(long, env = "SLUICEGATE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where to take connections; port 0 picks a free one [default: 127.0.0.1:8080]
    #[arg(long, env = "SLUICEGATE_LISTEN", value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where to take TLS connections
    #[arg(long, env = "SLUICEGATE_TLS_LISTEN", value_name = "ADDR")]
    pub tls_listen: Option<String>,
    /// The certificate chain, PEM, the server's own first
    #[arg(long, env = "SLUICEGATE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate, PEM
    #[arg(long, env = "SLUICEGATE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Clients show a certificate that one of these signed, PEM
    #[arg(long, env = "SLUICEGATE_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Whether clients must show a certificate, or may [default: required]
    #[arg(long, env = "SLUICEGATE_TLS_CLIENT_AUTH", value_name = "WHETHER")]
    pub tls_client_auth: Option<ClientAuth>,
    /// Certificates that clients may not show any more: a revocation list of each authority, PEM
    #[arg(long, env = "SLUICEGATE_TLS_CLIENT_CRL", value_name = "FILE")]
    pub tls_client_crl: Option<PathBuf>,
    /// Where to take MQTT connections, plain and, with a certificate, TLS; port 0 picks a free one
    #[arg(long, env = "SLUICEGATE_MQTT_LISTEN", value_name = "ADDR")]
    pub mqtt_listen: Option<String>,
    /// An MQTT broker to use: mqtt://user:password@host:1883 or mqtts://…:8883; user and port may be left out
    #[arg(long, env = "SLUICEGATE_MQTT_URL", value_name = "URL", hide_env_values = true)]
    pub mqtt_url: Option<String>,
    /// What links in offers begin with [default: http:// and the listen address]
    #[arg(long, env = "SLUICEGATE_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Threads that serve connections [default: one per core]
    #[arg(long, env = "SLUICEGATE_WORKERS", value_name = "N")]
    pub workers: Option<usize>,
    /// A file with further settings, TOML
    #[arg(long, env = "SLUICEGATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How logs are written [default: text on a terminal, JSON otherwise]
    #[arg(long, env = "SLUICEGATE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, trace, or per module as in info,sluicegate=debug [default: info]
    #[arg(long, env = "SLUICEGATE_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
}
