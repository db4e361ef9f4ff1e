//! What stands in the configuration file. A key that isn't known is refused, so that a slip of the pen isn't silently the default.

use super::ConfigError;
use super::limits::LimitsTable;
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// The file as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    pub data: Option<PathBuf>,
    pub listen: Option<String>,
    // An option's key may be written as on the command line or as everything else in the file.
    #[serde(alias = "tls-listen")]
    pub tls_listen: Option<String>,
    #[serde(alias = "tls-cert")]
    pub tls_cert: Option<PathBuf>,
    #[serde(alias = "tls-key")]
    pub tls_key: Option<PathBuf>,
    #[serde(alias = "tls-client-ca")]
    pub tls_client_ca: Option<PathBuf>,
    #[serde(alias = "tls-client-auth")]
    pub tls_client_auth: Option<ClientAuth>,
    #[serde(alias = "tls-client-crl")]
    pub tls_client_crl: Option<PathBuf>,
    /// Whether HTTP/2 is offered over TLS.
    pub http2: Option<bool>,
    #[serde(alias = "mqtt-listen")]
    pub mqtt_listen: Option<String>,
    #[serde(alias = "mqtt-url")]
    pub mqtt_url: Option<String>,
    #[serde(alias = "public-url")]
    pub public_url: Option<String>,
    pub workers: Option<usize>,
    pub registration: Registration,
    pub apps: Vec<ConfiguredApp>,
    pub images: ImagesConfig,
    pub enos: EnosConfig,
    pub webhooks: WebhooksTable,
    pub huawei: HuaweiConfig,
    pub mqtt: MqttTable,
    pub limits: LimitsTable,
    pub log: LogConfig,
}

impl File {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            // One sentence: the parser's picture of the line spans several.
            let message = format!("line {line}: {}", error.message().replace('\n', ", "));
            ConfigError::Parse { path: path.to_owned(), message }
        })
    }
}

/// Whether products and devices come into being on first use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    #[default]
    Open,
    Strict,
}

/// Whether clients show a certificate, where authorities for them are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    #[default]
    Required,
    /// Who shows none comes in without. Who shows one that isn't good doesn't.
    Optional,
}

/// An application whose secret stands in the configuration.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfiguredApp {
    pub id: String,
    pub secret: String,
    #[serde(default = "default_organization")]
    pub organization: String,
}

impl fmt::Debug for ConfiguredApp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConfiguredApp")
            .field("id", &self.id)
            .field("organization", &self.organization)
            .finish_non_exhaustive()
    }
}

fn default_organization() -> String {
    crate::auth::DEFAULT_ORGANIZATION.to_owned()
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesConfig {
    /// How long a link in an offer opens its image.
    pub link_ttl_s: u64,
    /// The largest image that is taken.
    pub size_bytes_max: u64,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        // Six hours outlast a slow download over a mobile network; 4 GiB is more than any firmware of the platforms spoken here.
        Self { link_ttl_s: 21_600, size_bytes_max: 4 << 30 }
    }
}

/// How EnOS is spoken.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnosConfig {
    /// Whether calls with a token of the token service must be signed.
    pub signature: EnosSignature,
    /// Whether jobs are born started, as the platform's page of creating them reads.
    pub jobs_start: bool,
}

impl Default for EnosConfig {
    fn default() -> Self {
        Self { signature: EnosSignature::default(), jobs_start: true }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnosSignature {
    #[default]
    Required,
    /// A valid token is enough. One that is sent is checked all the same.
    Off,
}

/// How Huawei's northbound API is spoken.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HuaweiConfig {
    /// Of each application; 0 is any number. Logins don't count.
    pub calls_per_minute: u32,
    /// How long a device waits before it may try again, where its task retries: the platform has no field for it.
    pub retry_interval_s: u32,
}

impl Default for HuaweiConfig {
    fn default() -> Self {
        // The platform's own rate.
        Self { calls_per_minute: 100, retry_interval_s: 60 }
    }
}

/// How MQTT is spoken, on the listener of our own and with a broker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MqttTable {
    /// Whether events are published.
    pub events: bool,
    /// Whether they are published on a broker in their tasks' topics, too.
    pub events_by_task: bool,
    /// Whether the listener takes connections without TLS, where there is a certificate. Without one there is nothing else.
    pub plain: bool,
    /// The largest packet that is taken.
    pub packet_bytes_max: u32,
    /// Messages a minute of each connection to the listener; above it the connection is slowed down. 0: any number.
    pub messages_per_minute: u32,
    /// How long a session of an event consumer is kept while the consumer is away.
    pub session_expiry_s: u64,
    /// How long a gateway may take to answer `ota_create`, and how often it is sent.
    pub reply_wait_s: u64,
    pub sends_max: u32,
    /// A device on a broker is taken for gone when nothing was heard of it for this long.
    pub silence_s: u64,
    /// What the server calls itself to the broker. Each server on one broker needs another.
    pub client_id: String,
    /// 5, or 3 for 3.1.1. A broker that knows no 5 is spoken to in 3.1.1.
    pub version: u8,
    /// Several servers that share their subscriptions by this name are each given a part of the messages.
    pub share_group: Option<String>,
    /// The authorities that the broker's certificate may be signed by, PEM.
    pub ca: Option<PathBuf>,
    /// Instead of in the URL.
    pub username: Option<String>,
    pub password: Option<String>,
}

impl Default for MqttTable {
    fn default() -> Self {
        Self {
            events: true,
            events_by_task: false,
            plain: true,
            // What EnOS takes.
            packet_bytes_max: 512 << 10,
            // A hundred a second: a gateway with its aircraft sends some two.
            messages_per_minute: 6_000,
            session_expiry_s: 604_800,
            // As the platform's own demonstration does.
            reply_wait_s: 3,
            sends_max: 3,
            // Ten times the slowest cadence of a gateway's own state.
            silence_s: 120,
            client_id: "sluicegate".into(),
            version: 5,
            share_group: None,
            ca: None,
            username: None,
            password: None,
        }
    }
}

/// Where events may be sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhooksTable {
    /// What a receiver's URL must begin with, in whole parts: `https://hooks.example.com`. Nothing is allowed by default.
    pub allowed: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Absent: text on a terminal, JSON otherwise.
    pub format: Option<LogFormat>,
    /// Absent: `info`.
    pub level: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}
