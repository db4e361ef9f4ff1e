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
