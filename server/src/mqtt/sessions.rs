//! Consumers that come back: what they subscribed to and how far they have acknowledged outlives their connections and our restarts.
//!
//! A lasting session is a subscription row of the engine, in the format `mqtt`; it comes into being with the first thing subscribed
//! to. It ends when its consumer connects with a clean one, says so, stays away too long, or an operator deletes it.

use super::feed::Feed;
use super::wire::Qos;
use crate::app::App;
use crate::auth::Caller;
use crate::dialect::common::hexadecimal::to_hexadecimal;
use aws_lc_rs::digest::{SHA256, digest};
use dashmap::{DashMap, Entry};
use sluicegate::model::{Subscription, SubscriptionId};
use sluicegate::{Error, State};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// What the rows of lasting sessions, and of the broker's position, are written in; webhooks leave them alone.
pub(crate) const FORMAT: &str = "mqtt";

/// Whose row the broker's position is: no organization's.
pub(super) const NOBODY: &str = "-";

/// Clients that are connected, and sessions whose consumers are away.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    connected: DashMap<String, Seated>,
    /// When each of them is dropped.
    away: DashMap<SubscriptionId, Instant>,
}

/// How the client in a place is told to leave it, and how one hears that it has.
#[derive(Debug)]
struct Seated {
    taken_over: Arc<Notify>,
    left: oneshot::Receiver<Infallible>,
}

/// A client's place among those that are connected; a newer client of the same name takes it.
pub(super) struct Place {
    app: Arc<App>,
    name: String,
    /// Told once somebody else has taken it.
    pub(super) taken_over: Arc<Notify>,
    /// Of whoever had it before.
    older: Option<oneshot::Receiver<Infallible>>,
    /// Dropped with the place, and so last.
    _left: oneshot::Sender<Infallible>,
}

impl Place {
    pub(super) fn take(app: &Arc<App>, name: String) -> Self {
        let (mut place, seated) = Self::new(app, name);
        if let Some(older) = app.mqtt.sessions.connected.insert(place.name.clone(), seated) {
            older.taken_over.notify_one();
            place.older = Some(older.left);
        }
        place
    }

    /// `None` where somebody has it.
    fn take_free(app: &Arc<App>, name: String) -> Option<Self> {
        let (place, seated) = Self::new(app, name);
        match app.mqtt.sessions.connected.entry(place.name.clone()) {
            Entry::Vacant(vacant) => drop(vacant.insert(seated)),
            // The entry is locked, and to drop a place is to look it up.
            Entry::Occupied(occupied) => {
                drop(occupied);
                return None;
            }
        }
        Some(place)
    }

    fn new(app: &Arc<App>, name: String) -> (Self, Seated) {
        let (sender, left) = oneshot::channel();
        let taken_over = Arc::new(Notify::new());
        let place = Self { app: Arc::clone(app), name, taken_over: Arc::clone(&taken_over), older: None, _left: sender };
        (place, Seated { taken_over, left })
    }

    /// Returns once whoever had the place has left, and how far it was is written down. Every wait of a connection ends early once
    /// its place was taken, so this is soon.
    pub(super) async fn vacated(&mut self) {
        if let Some(older) = self.older.take() {
            let _ = older.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.mqtt.sessions.connected.remove_if(&self.name, |_, there| Arc::ptr_eq(&there.taken_over, &self.taken_over));
    }
}

/// A consumer of events.
pub(super) struct Consumer {
    pub(super) caller: Caller,
    pub(super) feed: Feed,
    /// Present where it lasts.
    session: Option<Session>,
}

struct Session {
    id: SubscriptionId,
    client_id: String,
    expiry: Duration,
    /// The row is there.
    is_kept: bool,
    saved: u64,
    saved_at: Instant,
}

/// How far a consumer is, is written down at most this often.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Events that were none of the consumer's are skipped over at most this many times after a restart.
const UNSENT_EVENTS_MAX: u64 = 10_000;
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// One client id is another consumer's in each organization. So it is with a token that reads one product alone: it passes over events
/// that somebody who reads them all still waits for.
fn session_id(caller: &Caller, client_id: &str) -> SubscriptionId {
    let mut name = format!("{}\0{client_id}", caller.organization);
    if let Some(product_id) = &caller.product_id {
        name = format!("{name}\0{product_id}");
    }
    let name = digest(&SHA256, name.as_bytes());
    format!("mqtt-{}", to_hexadecimal(&name.as_ref()[..16])).into()
}

impl Consumer {
    /// Takes up the session of this client, or begins one from now on. `lasts_s`: how long it is kept while nobody is connected;
    /// 0: not at all, and what was kept is dropped. Says whether one was taken up.
    pub(super) async fn begin(
        app: &App,
        caller: Caller,
        client_id: &str,
        clean: bool,
        lasts_s: u32,
    ) -> Result<(Self, bool), Error> {
        let id = session_id(&caller, client_id);
        let read = |state: &State| state.subscription(&caller.organization, &id);
        let there = app.engine.read(read).await?;
        let newest = *app.engine.event_sequence().borrow();
        app.mqtt.sessions.away.remove(&id);
        if clean && there.is_some() {
            match app.engine.delete_subscription(&caller.organization, &id, app.now()).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let there = there.filter(|_| !clean);
        let mut feed = Feed::new(there.as_ref().map_or(newest, |row| row.position));
        for kept in there.iter().flat_map(|row| &row.filters) {
            let (qos, filter) = kept.split_once(' ').unwrap_or(("1", kept));
            // What the token may read may be less than when it subscribed.
            if super::topics::consumer_may_read(&caller, filter) {
                feed.subscribe(filter, if qos == "0" { Qos::AtMostOnce } else { Qos::AtLeastOnce });
            }
        }
        let expiry = app.config.mqtt.session_expiry.min(Duration::from_secs(lasts_s.into()));
        let is_kept = there.is_some();
        let session = (lasts_s > 0 || is_kept).then(|| Session {
            id,
            client_id: client_id.to_owned(),
            expiry,
            is_kept,
            saved: feed.position(),
            saved_at: Instant::now(),
        });
        Ok((Self { caller, feed, session }, is_kept))
    }

    /// Writes down what is subscribed to, where the session lasts.
    pub(super) async fn keep(&mut self, app: &App) -> Result<(), Error> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let qos = |qos| if qos == Qos::AtMostOnce { 0 } else { 1 };
        let filters = self.feed.filters().map(|(filter, of)| format!("{} {filter}", qos(of)).into());
        let url: String = format!("mqtt:{}", session.client_id).chars().filter(|character| character.is_ascii_graphic()).collect();
        let row = Subscription {
            id: Arc::clone(&session.id),
            organization: Arc::clone(&self.caller.organization),
            url: url.into(),
            filters: filters.collect(),
            format: FORMAT.into(),
            app: self.caller.app.clone(),
            secret_encrypted: None,
            position: self.feed.position(),
            created_at: app.now(),
        };
        app.engine.put_subscription(row, app.now()).await?;
        session.is_kept = true;
        Ok(())
    }

    /// Whether its session was there and is no more. Told so, its consumer comes back and begins another; else it would find out once it
    /// had missed something.
    pub(super) async fn is_dropped(&self, app: &App) -> bool {
        let Some(session) = self.session.as_ref().filter(|session| session.is_kept) else { return false };
        let read = |state: &State| state.subscription(&self.caller.organization, &session.id).is_none();
        app.engine.read(read).await.unwrap_or(false)
    }

    /// When how far it is should be written down next; `None` where there is nothing to write.
    pub(super) fn save_due(&self) -> Option<Instant> {
        let session = self.session.as_ref().filter(|session| session.is_kept)?;
        let ahead = self.feed.position().saturating_sub(session.saved);
        let is_worth_it = ahead > 0 && (ahead >= UNSENT_EVENTS_MAX || self.feed.has_sent());
        is_worth_it.then(|| session.saved_at + SAVE_EVERY)
    }

    /// Best effort: what isn't written down is told again.
    pub(super) async fn save(&mut self, app: &App) {
        let position = self.feed.position();
        let Some(session) = self.session.as_mut().filter(|session| session.is_kept) else { return };
        session.saved_at = Instant::now();
        match app.engine.advance_subscription(&session.id, position, app.now()).await {
            Ok(()) => {
                session.saved = position;
                self.feed.clear_sent();
            }
            Err(error) => tracing::warn!(session = %session.id, %error, "how far a consumer is could not be written down"),
        }
    }

    /// The connection has ended. `expiry_s`: what the consumer said last of how long its session is to be kept.
    pub(super) async fn end(mut self, app: &App, expiry_s: Option<u32>) {
        self.save(app).await;
        let Some(session) = self.session.filter(|session| session.is_kept) else { return };
        let bounded = |seconds: u32| app.config.mqtt.session_expiry.min(Duration::from_secs(seconds.into()));
        let expiry = expiry_s.map_or(session.expiry, bounded);
        if !expiry.is_zero() {
            app.mqtt.sessions.away.insert(session.id, Instant::now() + expiry);
            return;
        }
        if let Err(error) = app.engine.delete_subscription(&self.caller.organization, &session.id, app.now()).await {
            tracing::debug!(session = %session.id, %error, "a session that is over could not be dropped");
        }
    }
}

/// The name of a consumer's place.
pub(super) fn place_of_consumer(caller: &Caller, client_id: &str) -> String {
    place_of_session(&session_id(caller, client_id))
}

fn place_of_session(id: &str) -> String {
    format!("consumer\0{id}")
}

/// Drops the sessions of consumers that have been away too long. Those that were away at a restart are given the whole time again.
pub(super) async fn sweep(app: &Arc<App>) {
    // A shorter life is ended in time, too.
    let every = SWEEP_EVERY.min(app.config.mqtt.session_expiry);
    loop {
        tokio::time::sleep(every).await;
        let read = |state: &State| -> Vec<Arc<Subscription>> {
            state.subscriptions(None).filter(|row| &*row.format == FORMAT).cloned().collect()
        };
        let Ok(rows) = app.engine.read(read).await else { continue };
        let sessions = &app.mqtt.sessions;
        sessions.away.retain(|id, _| rows.iter().any(|row| row.id == *id));
        for row in rows {
            // The broker's position is nobody's session.
            if &*row.organization == NOBODY || sessions.connected.contains_key(&place_of_session(&row.id)) {
                continue;
            }
            let due = *sessions.away.entry(Arc::clone(&row.id)).or_insert_with(|| Instant::now() + app.config.mqtt.session_expiry);
            if due > Instant::now() {
                continue;
            }
            // Whoever comes back at this moment waits until its session is gone, or finds it untouched.
            let Some(_place) = Place::take_free(app, place_of_session(&row.id)) else { continue };
            if sessions.away.remove_if(&row.id, |_, there| *there == due).is_some() {
                tracing::info!(session = %row.id, position = row.position, "a consumer stayed away too long; its session is dropped");
                let _ = app.engine.delete_subscription(&row.organization, &row.id, app.now()).await;
            }
        }
    }
}
