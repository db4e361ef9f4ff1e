//! Events, POSTed to whoever subscribed.
//!
//! One thread drives all deliveries, each in a task of its own that reads the event log at its receiver's pace: a receiver that is slow
//! or gone holds one page of events in memory and nobody up. Life cycle: the supervisor starts a delivery for each subscription in the
//! engine, looks again whenever it is [told](Webhooks::changed), and ends them all when the server stops.
//!
//! Invariants:
//!   - At least once, in the order of the events, per subscription. How far a delivery is outlives a restart; a crash repeats the
//!     last second's messages at most.
//!   - Only addresses that the operator allowed are called, looked at anew before each call; a redirect is not followed.
//!   - Nothing of it runs on the threads that serve devices, and the engine never waits for it.

mod allowed;
mod client;
mod delivery;

pub use allowed::{Allowed, AllowedError};

use crate::app::App;
use bytes::Bytes;

use client::Client;
use delivery::Delivery;
use sluicegate::State;
use sluicegate::model::{Event, Subscription, SubscriptionId};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// How a front end writes events for its receivers: which of them, and in what words.
pub trait Format: Send + Sync {
    /// What the subscription's row calls it.
    fn name(&self) -> &'static str;

    /// The messages of these events, in order. An event that makes no message is passed over. `state`: as of now, where what
    /// happened then may be gone.
    fn messages(&self, state: &State, subscription: &Subscription, events: &[&Event]) -> Vec<Message>;

    /// After how many failed attempts a message is given up. `None`: it is tried until the receiver takes it.
    fn attempts_max(&self) -> Option<u32>;
}

/// One call to a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub body: Bytes,
    /// The last event that it tells of.
    pub sequence: u64,
}

/// What handlers tell the supervisor.
#[derive(Debug, Default)]
pub struct Webhooks {
    changed: Notify,
}

impl Webhooks {
    /// Subscriptions came or went.
    pub fn changed(&self) {
        self.changed.notify_one();
    }
}

/// The thread that delivers; it ends when this is stopped or dropped.
#[derive(Debug)]
pub struct Deliveries {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Deliveries {
    pub fn start(app: Arc<App>, formats: &'static [&'static dyn Format]) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = Client::new()?;
        let run = move || runtime.block_on(supervise(app, formats, client, stopped));
        Ok(Self { stop, thread: std::thread::Builder::new().name("webhooks".to_owned()).spawn(run)? })
    }

    /// Breaks off what is being delivered; it is delivered again after the next start.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        if self.thread.join().is_err() {
            tracing::error!("the webhooks ended by a panic; the stop goes on");
        }
    }
}

/// Looked at also without being told, so that nothing depends on it.
const LOOK_EVERY: Duration = Duration::from_secs(30);

async fn supervise(app: Arc<App>, formats: &'static [&'static dyn Format], client: Client, mut stopped: watch::Receiver<bool>) {
    let mut running: HashMap<SubscriptionId, (Subscription, AbortHandle)> = HashMap::new();
    loop {
        match app.engine.read(|state| state.subscriptions(None).cloned().collect::<Vec<_>>()).await {
            Ok(wanted) => adjust(&app, formats, &client, &mut running, wanted),
            Err(error) => tracing::warn!(%error, "the subscriptions could not be read; they are looked at again"),
        }
        tokio::select! {
            () = app.webhooks.changed.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stopped.changed() => break,
        }
    }
    for (_, (_, task)) in running {
        task.abort();
    }
}

/// Ends the deliveries of subscriptions that are gone or were replaced, and starts those that are new.
fn adjust(
    app: &Arc<App>,
    formats: &'static [&'static dyn Format],
    client: &Client,
    running: &mut HashMap<SubscriptionId, (Subscription, AbortHandle)>,
    wanted: Vec<Arc<Subscription>>,
) {
    let is_same = |there: &Subscription, row: &Subscription| {
        // The position moves with every delivery; a row that is older than what runs is a new beginning.
        *there == Subscription { position: there.position, ..row.clone() } && there.position <= row.position
    };
    running.retain(|id, (there, task)| {
        if task.is_finished() {
            tracing::error!(subscription = %id, "a delivery had ended by itself; it begins anew");
            return false;
        }
        let stays = wanted.iter().any(|row| row.id == *id && is_same(there, row));
        if !stays {
            task.abort();
        }
        stays
    });
    for row in wanted {
        // Those are told over MQTT, by whoever speaks it.
        if running.contains_key(&row.id) || &*row.format == crate::mqtt::SESSION_FORMAT {
            continue;
        }
        let Some(format) = formats.iter().copied().find(|format| format.name() == &*row.format) else {
            tracing::error!(subscription = %row.id, format = %row.format, "nobody here writes this format; the subscription waits");
            continue;
        };
        let Some(delivery) = Delivery::new(Arc::clone(app), client.clone(), format, &row) else { continue };
        let task = tokio::spawn(delivery.run()).abort_handle();
        running.insert(Arc::clone(&row.id), (Subscription::clone(&row), task));
    }
}
