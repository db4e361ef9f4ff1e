//! Logs: structured, to standard error; text for a person at a terminal, JSON for a collector.

use crate::config::{ConfigError, LogConfig, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// The running logger; its level can be changed.
#[derive(Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    pub format: LogFormat,
}

impl Logging {
    /// Starts logging, and logs panics instead of printing them. Once per process.
    pub fn start(config: &LogConfig) -> Result<Self, ConfigError> {
        let default_format = if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
        let format = config.format.unwrap_or(default_format);
        let (filter, handle) = reload::Layer::new(filter(config)?);
        let registry = tracing_subscriber::registry().with(filter);
        let started = match format {
            LogFormat::Text => {
                registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal())).try_init()
            }
            LogFormat::Json => registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init(),
        };
        if let Err(error) = started {
            eprintln!("logs can't be started: {error}");
        }
        std::panic::set_hook(Box::new(log_panic));
        Ok(Self { filter: handle, format })
    }

    /// Changes what is logged.
    pub fn reload(&self, config: &LogConfig) -> Result<(), ConfigError> {
        let filter = filter(config)?;
        if let Err(error) = self.filter.reload(filter) {
            tracing::error!(%error, "the log level could not be changed");
        }
        Ok(())
    }
}

fn filter(config: &LogConfig) -> Result<EnvFilter, ConfigError> {
    let level = config.level.as_deref().unwrap_or("info");
    // Any client can have a line written per handshake there, as by naming an address for a host.
    let filter = match level {
        "info" => "info,rustls=error",
        "warn" => "warn,rustls=error",
        level => level,
    };
    EnvFilter::try_new(filter).map_err(|_| ConfigError::Value {
        option: "--log-level",
        got: level.to_owned(),
        expected: "error, warn, info, debug, trace, or per module as in info,sluicegate=debug",
    })
}

/// A panic is a bug of ours: where and what, once, in the log.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(
        panic = message,
        place,
        thread = thread.name().unwrap_or_default(),
        "a part of the server failed; this is a bug, please report it"
    );
}
