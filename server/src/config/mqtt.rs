//! Where MQTT is spoken: on a listener of our own, with a broker that is there already, or both.

use super::file::MqttTable;
use super::{ConfigError, resolve_address};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// As configured, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttConfig {
    pub listen: Option<SocketAddr>,
    pub broker: Option<BrokerConfig>,
    pub events: bool,
    pub events_by_task: bool,
    pub plain: bool,
    pub packet_bytes_max: u32,
    /// Of each connection; `None` is any number.
    pub messages_per_minute: Option<u32>,
    pub session_expiry: Duration,
    pub reply_wait: Duration,
    pub sends_max: u32,
}

/// A broker that is there already.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerConfig {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    pub ca: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub client_id: String,
    pub is_version_5: bool,
    pub share_group: Option<String>,
    pub silence: Duration,
}

impl fmt::Debug for BrokerConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("BrokerConfig").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl MqttConfig {
    pub(super) fn new(listen: Option<String>, url: Option<String>, table: MqttTable) -> Result<Self, ConfigError> {
        let seconds = |option, value: u64, max: u64, expected| match value {
            value if (1..=max).contains(&value) => Ok(Duration::from_secs(value)),
            other => Err(ConfigError::Value { option, got: other.to_string(), expected }),
        };
        let range = |option, value: u32, min: u32, max: u32, expected| match value {
            value if (min..=max).contains(&value) => Ok(value),
            other => Err(ConfigError::Value { option, got: other.to_string(), expected }),
        };
        let table_of_broker = table.clone();
        Ok(Self {
            listen: listen.map(|listen| resolve_address("--mqtt-listen", &listen)).transpose()?,
            broker: url.map(|url| BrokerConfig::new(url, table_of_broker)).transpose()?,
            events: table.events,
            events_by_task: table.events_by_task,
            plain: table.plain,
            packet_bytes_max: range("mqtt.packet_bytes_max", table.packet_bytes_max, 4_096, 1 << 28, "4,096 to 268,435,456")?,
            messages_per_minute: Some(table.messages_per_minute).filter(|messages| *messages > 0),
            session_expiry: seconds("mqtt.session_expiry_s", table.session_expiry_s, 31_536_000, "1 to 31,536,000 seconds")?,
            reply_wait: seconds("mqtt.reply_wait_s", table.reply_wait_s, 3_600, "1 to 3,600 seconds")?,
            sends_max: range("mqtt.sends_max", table.sends_max, 1, 100, "1 to 100")?,
        })
    }
}

impl BrokerConfig {
    fn new(url: String, table: MqttTable) -> Result<Self, ConfigError> {
        const EXPECTED: &str = "mqtt://[user:password@]host[:port] or mqtts://…";
        // The password is nobody's business, wherever the refusal is read.
        let shown = match url.rsplit_once('@') {
            Some((_, rest)) => format!("…@{rest}"),
            None => url.clone(),
        };
        let refuse = || ConfigError::Value { option: "--mqtt-url", got: shown.clone(), expected: EXPECTED };
        let (tls, rest) = match url.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            _ => return Err(refuse()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, address) = match rest.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, rest),
        };
        let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            Some((name, password)) => (Some(decoded(name).ok_or_else(refuse)?), Some(decoded(password).ok_or_else(refuse)?)),
            None => (None, None),
        };
        let default_port = if tls { 8_883 } else { 1_883 };
        let (host, port) = match address.rsplit_once(':') {
            // An IPv6 address stands in brackets.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| refuse())?),
            _ => (address, default_port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['/', '?', '#', ' ']) {
            return Err(refuse());
        }
        let is_version_5 = match table.version {
            5 => true,
            3 => false,
            other => {
                return Err(ConfigError::Value { option: "mqtt.version", got: other.to_string(), expected: "5, or 3 for 3.1.1" });
            }
        };
        if table.client_id.is_empty() || table.client_id.len() > 64 {
            return Err(ConfigError::Value { option: "mqtt.client_id", got: table.client_id, expected: "1 to 64 bytes" });
        }
        if let Some(group) = table.share_group.as_ref().filter(|group| group.is_empty() || group.contains(['/', '+', '#'])) {
            return Err(ConfigError::Value {
                option: "mqtt.share_group",
                got: group.clone(),
                expected: "a name without /, + and #",
            });
        }
        if !(5..=86_400).contains(&table.silence_s) {
            let got = table.silence_s.to_string();
            return Err(ConfigError::Value { option: "mqtt.silence_s", got, expected: "5 to 86,400 seconds" });
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
            ca: table.ca,
            username: table.username.or(username),
            password: table.password.or(password).filter(|password| !password.is_empty()),
            client_id: table.client_id,
            is_version_5,
            share_group: table.share_group,
            silence: Duration::from_secs(table.silence_s),
        })
    }
}

/// A part of a URL without its percent signs.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(url: &str) -> Result<BrokerConfig, String> {
        let config = MqttConfig::new(None, Some(url.to_owned()), MqttTable::default());
        config.map(|config| config.broker.unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_brokers_url_tells_how_to_reach_it() {
        for (url, host, port, tls, username, password) in [
            ("mqtt://broker", "broker", 1_883, false, None, None),
            ("mqtts://broker/", "broker", 8_883, true, None, None),
            ("mqtt://127.0.0.1:1884", "127.0.0.1", 1_884, false, None, None),
            ("mqtt://[::1]:1884", "::1", 1_884, false, None, None),
            ("mqtt://[::1]", "::1", 1_883, false, None, None),
            ("mqtt://user@broker", "broker", 1_883, false, Some("user"), None),
            ("mqtt://user:p%40ss%3a@broker:1", "broker", 1, false, Some("user"), Some("p@ss:")),
        ] {
            let config = broker(url).unwrap();
            let read = (config.host.as_str(), config.port, config.tls, config.username.as_deref(), config.password.as_deref());
            assert_eq!(read, (host, port, tls, username, password), "{url}");
        }
    }

    #[test]
    fn a_url_that_names_no_broker_is_refused_without_telling_its_password() {
        for url in [
            "broker",
            "http://broker",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://broker:port",
            "mqtt://u:secret@broker:x",
            "mqtt://u:%zz@b",
        ] {
            let message = broker(url).unwrap_err();
            assert!(message.contains("--mqtt-url") && !message.contains("secret"), "{message}");
        }
    }
}
