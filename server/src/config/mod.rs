//! What the operator decides: the command line wins, then the environment, then the file, then the default.
//!
//! - [`arguments`]: what `serve` takes on the command line and from the environment;
//! - [`mod@file`]: what stands in `--config FILE.toml`;
//! - [`limits`]: every bound, of the engine and of the front end;
//! - [`mqtt`]: the listener and the broker.

pub mod arguments;
pub mod file;
pub mod limits;
mod mqtt;

pub use arguments::ServeArguments;
pub use file::{
    ClientAuth, ConfiguredApp, EnosConfig, EnosSignature, HuaweiConfig, ImagesConfig, LogConfig, LogFormat, Registration,
};
pub use limits::Limits;
pub use mqtt::{BrokerConfig, MqttConfig};

use crate::webhooks::Allowed;
use file::{File, WebhooksTable};
use limits::{DURATION_S_EXPECTED, DURATION_S_MAX};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Everything that `serve` was told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub data: PathBuf,
    pub listen: SocketAddr,
    pub tls: Option<TlsConfig>,
    pub mqtt: MqttConfig,
    /// Without a slash at its end.
    pub public_url: Option<String>,
    pub workers: usize,
    pub registration: Registration,
    pub apps: Vec<ConfiguredApp>,
    pub images: ImagesConfig,
    pub enos: EnosConfig,
    pub webhooks: WebhooksConfig,
    pub huawei: HuaweiConfig,
    pub limits: Limits,
    pub log: LogConfig,
}

/// Where events may be sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhooksConfig {
    pub allowed: Allowed,
}

/// Where and with what to speak TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// Absent where only MQTT is spoken over TLS.
    pub listen: Option<SocketAddr>,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Who signs clients' certificates. Absent: they are asked for none.
    pub client_ca: Option<PathBuf>,
    pub client_auth: ClientAuth,
    pub client_crl: Option<PathBuf>,
    /// Whether HTTP/2 is offered beside HTTP/1.1.
    pub http2: bool,
}

/// What is wrong with what the operator wrote: always a usage error.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration {} can't be read: {source}; check the path and its mode", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// The parser's message names the line and the key.
    #[error("the configuration {} is wrong: {message}; mend it or leave the key out", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("{option} is {got:?}, expected {expected}")]
    Value { option: &'static str, got: String, expected: &'static str },
    #[error("{given} needs {missing} beside it; give both or neither")]
    Incomplete { given: &'static str, missing: &'static str },
}

const WORKERS_MAX: usize = 1024;

impl Config {
    /// Reads the file that the arguments name, if any, and lays the arguments over it.
    pub fn load(arguments: &ServeArguments) -> Result<Self, ConfigError> {
        let file = match &arguments.config {
            Some(path) => File::read(path)?,
            None => File::default(),
        };
        Self::resolve(arguments, file)
    }

    fn resolve(arguments: &ServeArguments, file: File) -> Result<Self, ConfigError> {
        let ServeArguments { config: _, data, listen, tls_listen, tls_cert, tls_key, tls_client_ca, mqtt_listen, mqtt_url, .. } =
            arguments.clone();
        let (tls_client_auth, tls_client_crl) = (arguments.tls_client_auth, arguments.tls_client_crl.clone());
        let mqtt = MqttConfig::new(mqtt_listen.or(file.mqtt_listen), mqtt_url.or(file.mqtt_url), file.mqtt)?;
        let listen = listen.or(file.listen).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
        let tls = tls_config(TlsAsked {
            listen: tls_listen.or(file.tls_listen),
            certificate: tls_cert.or(file.tls_cert),
            key: tls_key.or(file.tls_key),
            client_ca: tls_client_ca.or(file.tls_client_ca),
            client_auth: tls_client_auth.or(file.tls_client_auth),
            client_crl: tls_client_crl.or(file.tls_client_crl),
            http2: file.http2.unwrap_or(true),
            speaks_mqtt: mqtt.listen.is_some(),
        })?;
        let public_url = arguments.public_url.clone().or(file.public_url).map(check_public_url).transpose()?;
        let workers = match arguments.workers.or(file.workers) {
            Some(workers) if (1..=WORKERS_MAX).contains(&workers) => workers,
            Some(other) => {
                return Err(ConfigError::Value { option: "--workers", got: other.to_string(), expected: "1 to 1024" });
            }
            None => std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX),
        };
        Ok(Self {
            data: data.or(file.data).unwrap_or_else(|| PathBuf::from("./sluicegate-data")),
            listen: resolve_address("--listen", &listen)?,
            tls,
            mqtt,
            public_url,
            workers,
            registration: file.registration,
            apps: check_apps(file.apps)?,
            images: check_images(file.images)?,
            enos: file.enos,
            webhooks: check_webhooks(&file.webhooks)?,
            huawei: check_huawei(file.huawei)?,
            limits: Limits::from_file(file.limits)?,
            log: LogConfig {
                format: arguments.log_format.or(file.log.format),
                level: arguments.log_level.clone().or(file.log.level),
            },
        })
    }
}

/// What was said of TLS, here and there.
struct TlsAsked {
    listen: Option<String>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    client_auth: Option<ClientAuth>,
    client_crl: Option<PathBuf>,
    http2: bool,
    speaks_mqtt: bool,
}

fn tls_config(asked: TlsAsked) -> Result<Option<TlsConfig>, ConfigError> {
    let TlsAsked { listen, certificate, key, client_ca, client_auth, client_crl, http2, speaks_mqtt } = asked;
    let incomplete = |given, missing| Err(ConfigError::Incomplete { given, missing });
    match (&client_ca, client_auth, &client_crl) {
        // Nobody would be asked for a certificate, and the operator believes that everybody is.
        (None, Some(_), _) => return incomplete("--tls-client-auth", "--tls-client-ca"),
        (None, _, Some(_)) => return incomplete("--tls-client-crl", "--tls-client-ca"),
        _ => {}
    }
    let client_auth = client_auth.unwrap_or_default();
    match (listen, certificate, key) {
        (Some(listen), Some(certificate), Some(key)) => {
            let listen = Some(resolve_address("--tls-listen", &listen)?);
            Ok(Some(TlsConfig { listen, certificate, key, client_ca, client_auth, client_crl, http2 }))
        }
        // The listener for MQTT takes TLS on its own port.
        (None, Some(certificate), Some(key)) if speaks_mqtt => {
            Ok(Some(TlsConfig { listen: None, certificate, key, client_ca, client_auth, client_crl, http2 }))
        }
        (None, None, None) if client_ca.is_none() => Ok(None),
        (None, None, None) => incomplete("--tls-client-ca", "--tls-listen"),
        (Some(_), None, _) => incomplete("--tls-listen", "--tls-cert"),
        (Some(_), _, None) => incomplete("--tls-listen", "--tls-key"),
        (None, Some(_), _) => incomplete("--tls-cert", "--tls-listen"),
        (None, _, Some(_)) => incomplete("--tls-key", "--tls-listen"),
    }
}

/// An address and port, or a name that stands for one.
fn resolve_address(option: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    let resolved = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    resolved.ok_or_else(|| ConfigError::Value {
        option,
        got: text.to_owned(),
        expected: "an address and a port as in 127.0.0.1:8080",
    })
}

/// Links in offers must fit in 255 characters, of which the rest of a link takes 143.
const PUBLIC_URL_CHARS_MAX: usize = 112;

fn check_public_url(text: String) -> Result<String, ConfigError> {
    let trimmed = text.trim_end_matches('/');
    let rest = trimmed.strip_prefix("http://").or_else(|| trimmed.strip_prefix("https://"));
    let is_plain = trimmed.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') && is_plain && trimmed.len() <= PUBLIC_URL_CHARS_MAX => {
            Ok(trimmed.to_owned())
        }
        _ => Err(ConfigError::Value {
            option: "--public-url",
            got: text,
            expected: "http:// or https:// and a host, at most 112 characters, without a query",
        }),
    }
}

fn check_images(images: ImagesConfig) -> Result<ImagesConfig, ConfigError> {
    let refuse = |option, got: u64, expected| Err(ConfigError::Value { option, got: got.to_string(), expected });
    if !(1..=DURATION_S_MAX).contains(&images.link_ttl_s) {
        return refuse("images.link_ttl_s", images.link_ttl_s, DURATION_S_EXPECTED);
    }
    if images.size_bytes_max == 0 {
        return refuse("images.size_bytes_max", images.size_bytes_max, "1 or more");
    }
    Ok(images)
}

/// The engine takes no longer interval.
const RETRY_INTERVAL_S_MAX: u32 = 366 * 86_400;

fn check_huawei(huawei: HuaweiConfig) -> Result<HuaweiConfig, ConfigError> {
    if huawei.retry_interval_s > RETRY_INTERVAL_S_MAX {
        return Err(ConfigError::Value {
            option: "huawei.retry_interval_s",
            got: huawei.retry_interval_s.to_string(),
            expected: "0 to 31,622,400 seconds",
        });
    }
    Ok(huawei)
}

fn check_webhooks(table: &WebhooksTable) -> Result<WebhooksConfig, ConfigError> {
    let refuse = |got| ConfigError::Value {
        option: "webhooks.allowed",
        got,
        expected: "beginnings of URLs such as https://hooks.example.com or http://127.0.0.1:9000/firmware",
    };
    Ok(WebhooksConfig { allowed: Allowed::new(&table.allowed).map_err(refuse)? })
}

fn check_apps(apps: Vec<ConfiguredApp>) -> Result<Vec<ConfiguredApp>, ConfigError> {
    let mut ids = std::collections::HashSet::new();
    for app in &apps {
        let fault = if app.id.is_empty() || app.secret.is_empty() || app.organization.is_empty() {
            Some("an id, a secret and an organization that are not empty")
        } else if !ids.insert(&app.id) {
            Some("each id once")
        } else {
            None
        };
        if let Some(expected) = fault {
            return Err(ConfigError::Value { option: "[[apps]]", got: app.id.clone(), expected });
        }
    }
    Ok(apps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(arguments: ServeArguments, file: &str) -> Result<Config, ConfigError> {
        Config::resolve(&arguments, File::parse(file, std::path::Path::new("test.toml"))?)
    }

    fn refuse(arguments: ServeArguments, file: &str) -> String {
        resolve(arguments, file).unwrap_err().to_string()
    }

    #[test]
    fn nothing_said_is_a_server_on_this_machine() {
        let config = resolve(ServeArguments::default(), "").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.data, PathBuf::from("./sluicegate-data"));
        assert_eq!(config.registration, Registration::Open);
        assert_eq!(config.images, ImagesConfig { link_ttl_s: 21_600, size_bytes_max: 4 << 30 });
        assert!(config.tls.is_none() && config.limits.connections_max >= 10_000);
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = "data = \"/file\"\nlisten = \"127.0.0.1:1\"\nworkers = 3\nregistration = \"strict\"\npublic-url = \"https://a.example/\"\n";
        let arguments = ServeArguments { data: Some("/line".into()), ..ServeArguments::default() };
        let config = resolve(arguments, file).unwrap();
        assert_eq!((config.data, config.workers), (PathBuf::from("/line"), 3));
        assert_eq!(config.listen.port(), 1);
        assert_eq!(config.registration, Registration::Strict);
        assert_eq!(config.public_url.as_deref(), Some("https://a.example"));
    }

    #[test]
    fn bounds_and_apps_come_from_the_file() {
        let file = "[[apps]]\nid = \"a\"\nsecret = \"s\"\n\n[limits]\npermits_max = 5\ndevices_max = 7\nidle_timeout_s = 9\n";
        let config = resolve(ServeArguments::default(), file).unwrap();
        assert_eq!(config.limits.engine.permits_max, Some(5));
        assert_eq!(config.limits.engine.devices_max, 7);
        assert_eq!(config.limits.idle_timeout.as_secs(), 9);
        assert_eq!(config.apps[0].organization, "default");
    }

    #[test]
    fn enos_asks_for_signatures_and_starts_jobs_unless_told_otherwise() {
        let read = |file: &str| resolve(ServeArguments::default(), file).unwrap().enos;
        assert_eq!(read(""), EnosConfig { signature: EnosSignature::Required, jobs_start: true });
        assert_eq!(read("[enos]\nsignature = \"required\""), EnosConfig::default());
        let told = read("[enos]\nsignature = \"off\"\njobs_start = false");
        assert_eq!(told, EnosConfig { signature: EnosSignature::Off, jobs_start: false });
        assert!(refuse(ServeArguments::default(), "[enos]\nsignature = \"no\"").contains("expected `required` or `off`"));
    }

    #[test]
    fn huawei_has_the_rate_of_the_platform_unless_told_otherwise() {
        let read = |file: &str| resolve(ServeArguments::default(), file).unwrap().huawei;
        assert_eq!(read(""), HuaweiConfig { calls_per_minute: 100, retry_interval_s: 60 });
        let told = read("[huawei]\ncalls_per_minute = 0\nretry_interval_s = 5");
        assert_eq!(told, HuaweiConfig { calls_per_minute: 0, retry_interval_s: 5 });
        let refused = refuse(ServeArguments::default(), "[huawei]\nretry_interval_s = 31622401");
        assert!(refused.contains("huawei.retry_interval_s is \"31622401\""), "{refused}");
    }

    #[test]
    fn a_key_that_is_not_known_is_named() {
        for (file, named) in [
            ("tls_certificate = \"x\"", "tls_certificate"),
            ("[limits]\ndevces_max = 1", "devces_max"),
            ("[images]\nttl = 1", "ttl"),
            ("[[apps]]\nid = \"a\"\nsecret = \"s\"\nrole = \"x\"", "role"),
            ("[enos]\nsignatures = \"off\"", "signatures"),
            ("[huawei]\ncalls_per_second = 1", "calls_per_second"),
        ] {
            let message = refuse(ServeArguments::default(), file);
            assert!(message.contains(named) && message.contains("test.toml"), "{message}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused_with_what_was_expected() {
        let with = |change: fn(&mut ServeArguments)| {
            let mut arguments = ServeArguments::default();
            change(&mut arguments);
            refuse(arguments, "")
        };
        assert!(with(|a| a.listen = Some("nowhere".into())).contains("--listen is \"nowhere\""));
        assert!(with(|a| a.workers = Some(0)).contains("--workers"));
        assert!(with(|a| a.public_url = Some("ftp://x".into())).contains("--public-url"));
        assert!(with(|a| a.public_url = Some(format!("http://{}", "x".repeat(120)))).contains("112"));
        assert!(with(|a| a.tls_listen = Some("127.0.0.1:0".into())).contains("--tls-cert"));
        assert!(with(|a| a.tls_key = Some("key".into())).contains("--tls-listen"));
        assert!(with(|a| a.tls_client_auth = Some(ClientAuth::Optional)).contains("--tls-client-ca"));
        assert!(with(|a| a.tls_client_crl = Some("crl".into())).contains("--tls-client-ca"));
        assert!(refuse(ServeArguments::default(), "tls_client_auth = \"maybe\"").contains("expected `required` or `optional`"));
        assert!(with(|a| a.mqtt_listen = Some("nowhere".into())).contains("--mqtt-listen is \"nowhere\""));
        assert!(refuse(ServeArguments::default(), "mqtt-url = \"http://x\"").contains("--mqtt-url"));
        assert!(refuse(ServeArguments::default(), "registration = \"lax\"").contains("lax"));
        assert!(refuse(ServeArguments::default(), "[limits]\nheader_bytes_max = 10").contains("header_bytes_max"));
        for (table, key, bad) in [
            ("images", "link_ttl_s", 0),
            ("images", "link_ttl_s", 315_360_001),
            ("images", "size_bytes_max", 0),
            ("limits", "default_timeout_s", 0),
            ("limits", "default_timeout_s", 315_360_001),
            ("limits", "cap_retry_after_s", 0),
            ("limits", "id_bytes_max", 0),
            ("limits", "devices_max", 0),
            ("limits", "events_max", 0),
        ] {
            let message = refuse(ServeArguments::default(), &format!("[{table}]\n{key} = {bad}"));
            assert!(message.contains(&format!("{table}.{key} is \"{bad}\", expected 1 ")), "{message}");
        }
        let twice = "[[apps]]\nid = \"a\"\nsecret = \"s\"\n[[apps]]\nid = \"a\"\nsecret = \"t\"";
        assert!(refuse(ServeArguments::default(), twice).contains("each id once"));
    }
}
