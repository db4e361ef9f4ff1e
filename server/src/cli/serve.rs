//! `serve`: from the configuration to a running server, and in order back down.
//!
//! Up: 1. configuration, logs, certificates and ports (what can be refused without touching anything); 2. signals, so that one that
//! comes during a long start waits for its end instead of killing; 3. the folder: engine, keys, administrator's token; 4. clock,
//! webhooks, MQTT, workers; 5. `ready` on standard output.
//! Down: 1. accept no more; 2. finish what is in flight, for a bounded time; 3. stop MQTT, the webhooks and the clock; 4. make everything durable.
//!
//! Invariant: no secret is in a log. The administrator's token, where a start makes it, is shown beside the log.

use super::{Failure, guide, print};
use crate::app::App;
use crate::auth::{AdminToken, AdminTokenError, AdminTokenOrigin, Auth};
use crate::clock::Clock;
use crate::config::{Config, LogFormat, ServeArguments};
use crate::dialect::common::fair_use::FairUse;
use crate::dialect::{self, enos, huawei};
use crate::downloads::Downloads;
use crate::guesses::Guesses;
use crate::http::listener::{Front, Port, Ports, Workers};
use crate::http::tls::Tls;
use crate::image::LinkSigner;
use crate::logging::Logging;
use crate::metrics::Metrics;
use crate::mqtt::broker::Broker;
use crate::mqtt::{self, Mqtt};
use crate::secrets::Secrets;
use crate::webhooks::{Deliveries, Webhooks};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sluicegate::{Engine, Options};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) fn run(arguments: &ServeArguments) -> Result<(), Failure> {
    let mut config = Config::load(arguments)?;
    let logging = Logging::start(&config.log)?;
    let tls = config.tls.as_ref().map(Tls::new).transpose().map_err(|error| Failure::caused(&error))?;
    // A reload is compared with what was asked for, not with what the system allowed of it.
    let configured = config.clone();
    fit_connections_to_files(&mut config);
    let plain_port = Port::open(config.listen, config.workers).map_err(|error| Failure::caused(&error))?;
    let tls_address = config.tls.as_ref().and_then(|tls| tls.listen);
    let tls_port =
        tls_address.map(|address| Port::open(address, config.workers)).transpose().map_err(|error| Failure::caused(&error))?;
    let mqtt_port = config.mqtt.listen.map(|address| Port::open(address, config.workers)).transpose();
    let mqtt_port = mqtt_port.map_err(|error| Failure::caused(&error))?;
    let address = |port: &Option<Port>| port.as_ref().map(|port| port.address);
    let addresses = Addresses { plain: plain_port.address, tls: address(&tls_port), mqtt: address(&mqtt_port) };
    let broker = config.mqtt.broker.clone().map(Broker::new).transpose().map_err(|error| Failure::caused(&error))?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let mut signals = runtime.block_on(async { Signals::new() }).map_err(Failure::new)?;

    let admin_token_text = std::env::var("SLUICEGATE_ADMIN_TOKEN").ok();
    let (app, admin_origin) = open(config, admin_token_text, addresses.plain)?;
    let front = Arc::new(Front::new(Arc::clone(&app), tls));

    let clock = Clock::start(Arc::clone(&app)).map_err(Failure::new)?;
    let deliveries = Deliveries::start(Arc::clone(&app), dialect::EVENT_FORMATS).map_err(Failure::new)?;
    let mqtt = mqtt::Service::start(Arc::clone(&app), broker).map_err(Failure::new)?;
    let ports = Ports { plain: plain_port, tls: tls_port, mqtt: mqtt_port };
    let workers = Workers::start(&front, ports).map_err(Failure::new)?;

    print(&addresses.ready());
    tell_what_next(&logging, &app, &admin_origin);
    runtime.block_on(async {
        while signals.next().await == Asked::Reload {
            reload(arguments, &configured, &front, &logging);
        }
    });

    tracing::info!("stopping: no more connections, what is in flight is finished");
    front.stop.stop();
    workers.join();
    mqtt.stop();
    deliveries.stop();
    clock.stop();
    app.engine.close();
    tracing::info!("stopped");
    Ok(())
}

/// Opens the folder and everything in it.
pub(super) fn open(
    config: Config,
    admin_token: Option<String>,
    plain: SocketAddr,
) -> Result<(Arc<App>, AdminTokenOrigin), Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::caused(error);
    // Before the engine, which counts too.
    let metrics = Arc::new(Metrics::install().map_err(|error| failed(&error))?);
    let options = Options { folder: config.data.clone(), limits: config.limits.engine.clone() };
    let engine = Engine::open(options).map_err(|error| match &error {
        sluicegate::Error::Store(error) => Failure::caused(error),
        error => Failure::caused(error),
    })?;
    let secrets = Arc::new(Secrets::open(&config.data).map_err(|error| failed(&error))?);
    let admin_token = AdminToken::open(&config.data, admin_token).map_err(|error| match error {
        AdminTokenError::Environment { .. } => Failure::usage(error),
        error => Failure::caused(&error),
    })?;
    if let AdminTokenOrigin::Made(path) = &admin_token.origin {
        show_admin_token(admin_token.text(), path);
    }
    let app = App {
        auth: Auth::new(engine.clone(), Arc::clone(&secrets), &admin_token, &config.apps),
        links: LinkSigner::new(secrets.link_key()),
        downloads: Arc::new(Downloads::new(engine.clone(), Arc::clone(&metrics))),
        uploads: Arc::default(),
        enos: enos::Memory::default(),
        huawei: huawei::Memory::new(&config.huawei),
        webhooks: Webhooks::default(),
        mqtt: Mqtt::default(),
        fair_use: FairUse::new(&config.limits),
        guesses: Guesses::new(config.limits.wrong_credentials_per_minute, Arc::clone(&metrics)),
        public_url: config.public_url.clone().unwrap_or_else(|| format!("http://{plain}")),
        engine,
        config,
        secrets,
        metrics,
    };
    Ok((Arc::new(app), admin_token.origin))
}

/// Where this server listens.
struct Addresses {
    plain: SocketAddr,
    tls: Option<SocketAddr>,
    mqtt: Option<SocketAddr>,
}

impl Addresses {
    fn ready(&self) -> String {
        let tls = self.tls.map(|address| format!(" https={address}")).unwrap_or_default();
        let mqtt = self.mqtt.map(|address| format!(" mqtt={address}")).unwrap_or_default();
        format!("ready http={}{tls}{mqtt}", self.plain)
    }
}

/// Once, at the start that made it, whatever is logged and how: it is for the person who starts the server, and not for its logs.
fn show_admin_token(text: &str, path: &std::path::Path) {
    // Where nobody reads standard error, the file has it.
    let _ = writeln!(std::io::stderr(), "administrator's token, made now and kept in {}: {text}", path.display());
}

fn tell_what_next(logging: &Logging, app: &App, admin_origin: &AdminTokenOrigin) {
    let address = app.public_url();
    tracing::info!(data = %app.config.data.display(), address, workers = app.config.workers, "accepting connections");
    let lines = guide::lines(address, admin_origin);
    match logging.format {
        LogFormat::Text => eprintln!("\nTo see it work, paste this in another shell:\n\n{lines}\n"),
        LogFormat::Json => tracing::info!(paste = lines, "to see it work, paste these lines in a shell"),
    }
}

/// Each connection is an open file, and the store and the images need some. The system's bound is raised as far as this user may;
/// where that isn't enough, fewer connections are taken.
fn fit_connections_to_files(config: &mut Config) {
    const OWN_FILES: u64 = 512;
    let wanted = config.limits.connections_max as u64 + OWN_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let reachable = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(reachable), maximum: limit.maximum });
    let available = if raised.is_ok() { reachable } else { limit.current.unwrap_or_default() };
    if available < wanted {
        let connections_max = available.saturating_sub(OWN_FILES).max(64);
        tracing::warn!(
            open_files = available,
            connections_max,
            "fewer connections are taken than configured; raise the limit of open files (ulimit -n)"
        );
        config.limits.connections_max = usize::try_from(connections_max).unwrap_or(config.limits.connections_max);
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Reload,
    Stop,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        // Cancel-safe: a signal that came is remembered until it is received.
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }
}

/// Takes over what can change while connections stay: certificates, applications, the log level. Each part that is wrong stays as
/// it was.
fn reload(arguments: &ServeArguments, started_with: &Config, front: &Front, logging: &Logging) {
    let config = match Config::load(arguments) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "the configuration was not taken over; the old one stays");
            return;
        }
    };
    if let Err(error) = logging.reload(&config.log) {
        tracing::error!(%error, "the log level was not taken over; the old one stays");
    }
    match (&front.tls, &config.tls) {
        (Some(tls), Some(files)) => match tls.reload(files) {
            Ok(()) => {
                tracing::info!(certificate = %files.certificate.display(), "new connections get the certificate as it is now")
            }
            Err(error) => tracing::error!(%error, "the certificate was not taken over; the old one stays"),
        },
        (None, None) => {}
        _ => tracing::warn!("TLS is switched on or off by a restart only"),
    }
    front.app.auth.set_apps(&config.apps);
    tracing::info!(applications = config.apps.len(), "applications taken over");
    warn_of_what_needs_a_restart(started_with, &config);
}

fn warn_of_what_needs_a_restart(old: &Config, new: &Config) {
    let tls_listen = |config: &Config| config.tls.as_ref().and_then(|tls| tls.listen);
    let changed = [
        ("data", old.data != new.data),
        ("listen", old.listen != new.listen),
        ("tls_listen", tls_listen(old) != tls_listen(new)),
        ("public_url", old.public_url != new.public_url),
        ("workers", old.workers != new.workers),
        ("registration", old.registration != new.registration),
        ("images", old.images != new.images),
        ("huawei", old.huawei != new.huawei),
        ("enos", old.enos != new.enos),
        ("mqtt", old.mqtt != new.mqtt),
        ("webhooks", old.webhooks != new.webhooks),
        ("limits", old.limits != new.limits),
        ("log.format", old.log.format != new.log.format),
    ];
    for (key, _) in changed.into_iter().filter(|(_, is_changed)| *is_changed) {
        tracing::warn!(key, "this change takes effect at the next start");
    }
}
