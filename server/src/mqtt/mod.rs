//! MQTT: devices that are sent their upgrades, and consumers of events, on a listener of our own or through a broker.
//!
//! ```text
//!  device ──▶ connection ─┐                        ┌─▶ dialect ──▶ engine
//!             (listener)  ├─▶ speaker, topic, text ┤                 │ offers, as events
//!  device ──▶ broker ─────┘                        └── links ◀── pump┘
//!                                                       │ a courier for each gateway
//!                                                       ▼
//!                                                     outbox ──▶ connection or broker ──▶ device
//! ```
//!
//! - [`wire`]: the protocol without its sockets; `connection`: one client of our listener; `broker`: us as the client of another;
//! - `login`, `topics`: who may connect, publish and subscribe;
//! - `links`, `courier`: who can be sent to, and what they are being sent;
//! - `feed`, `sessions`: events to consumers, from a remembered position.
//!
//! No message passes from device to device, and nothing is queued for a device: what it is due is what the engine has offered it, and
//! what a consumer is due is the event log from its position on. So nothing grows while somebody is away.
//!
//! Invariants:
//!   - A publication of a device is acknowledged once what it says is durable, or can never be taken.
//!   - Who may say what depends on the login alone (on a broker: on the topic, which the broker guards); what a message says of its
//!     sender is never believed.
//!   - Whatever comes from outside is bounded: packets, topics, filters, messages in a minute, lines in the log.

pub(crate) mod broker;
pub(crate) mod connection;
pub(crate) mod courier;
mod feed;
pub(crate) mod links;
pub(crate) mod login;
pub(crate) mod names;
pub(crate) mod outbox;
mod pump;
mod sessions;
pub(crate) mod topics;
pub mod wire;

use crate::app::App;
use crate::noise::Noise;
use links::{Link, Links};
use outbox::Outbox;
pub(crate) use sessions::FORMAT as SESSION_FORMAT;
use sessions::Sessions;
use sluicegate::{DeviceName, Error};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// What handlers share.
#[derive(Debug, Default)]
pub(crate) struct Mqtt {
    pub(crate) links: Links,
    pub(crate) noise: Noise,
    names: names::Names,
    sessions: Sessions,
}

/// Whoever said something, and the way back.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    /// The device that logged in; on a broker the one that the topic names.
    pub(crate) device: DeviceName,
    pub(crate) outbox: Outbox,
    /// On a broker: how long a device may be silent before it is taken for gone. There whoever speaks is there.
    pub(crate) silence: Option<Duration>,
    /// What it says now was taken before, and comes again because the acknowledgement was lost on the way.
    pub(crate) is_repeated: bool,
}

impl Speaker {
    /// The link through which this device can be sent to.
    pub(crate) fn link(&self, app: &App) -> Option<Arc<Link>> {
        app.mqtt.links.of(&self.device).filter(|link| link.outbox.is_same(&self.outbox))
    }
}

/// What became of a message.
#[derive(Debug)]
pub(crate) enum Receipt {
    Taken,
    /// Nothing that concerns us, such as a measurement.
    Ignored,
    /// It tells of something that is over.
    Stale,
    /// Not what its topic holds; says what is wrong.
    Malformed(String),
    UnknownMethod(String),
    /// The sender may not say this there.
    Foreign,
    /// It can be read, and can't be: says why.
    Refused(String),
    /// Not now; it may be taken when it is sent again.
    Later(Error),
}

impl From<Error> for Receipt {
    fn from(error: Error) -> Self {
        match error {
            Error::Overloaded | Error::Closed | Error::Store(_) => Self::Later(error),
            error => Self::Refused(error.to_string()),
        }
    }
}

impl Receipt {
    /// Counted as.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Ignored => "ignored",
            Self::Stale => "stale",
            Self::Malformed(_) => "malformed",
            Self::UnknownMethod(_) => "unknown_method",
            Self::Foreign => "foreign_topic",
            Self::Refused(_) => "refused",
            Self::Later(_) => "later",
        }
    }

    /// Counts it, and logs what somebody should look at.
    fn note(&self, app: &App, who: &str, topic: &str) {
        app.metrics.mqtt(self.name());
        match self {
            Self::Taken | Self::Ignored | Self::Stale => {}
            Self::Malformed(what) | Self::UnknownMethod(what) | Self::Refused(what) => {
                app.mqtt.noise.tell(self.name(), who, format_args!("{topic}: {what}"));
            }
            Self::Foreign => app.mqtt.noise.tell(self.name(), who, format_args!("{topic} is not for this client to publish to")),
            Self::Later(error) => app.mqtt.noise.tell(self.name(), who, format_args!("{topic}: {error}")),
        }
    }
}

/// The thread beside the workers: it wakes couriers, drops old sessions, and speaks with the broker. Ends when stopped or dropped.
#[derive(Debug)]
pub(crate) struct Service {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Service {
    /// `broker`: where one is configured, connected to in the background.
    pub(crate) fn start(app: Arc<App>, broker: Option<broker::Broker>) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Before anything is offered that it would miss.
        let pump = pump::Pump::new(Arc::clone(&app));
        let run = move || {
            runtime.block_on(async {
                // Ends by itself when it is told to.
                let broker = async {
                    if let Some(broker) = broker {
                        broker.run(Arc::clone(&app), stopped.clone()).await;
                    }
                };
                let mut stopping = stopped.clone();
                let others = async {
                    tokio::select! {
                        _ = async { tokio::join!(pump.run(), sessions::sweep(&app)) } => {}
                        _ = stopping.wait_for(|stopped| *stopped) => {}
                    }
                };
                tokio::join!(broker, others);
            });
            runtime.shutdown_background();
        };
        Ok(Self { stop, thread: std::thread::Builder::new().name("mqtt".to_owned()).spawn(run)? })
    }

    pub(crate) fn stop(self) {
        let _ = self.stop.send(true);
        if self.thread.join().is_err() {
            tracing::error!("the MQTT service ended by a panic; the stop goes on");
        }
    }
}
