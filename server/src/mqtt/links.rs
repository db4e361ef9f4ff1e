//! The devices that can be sent to, each with its courier.
//!
//! Life cycle: a dialect opens a link when its device is there (for a gateway: with what is attached to it); from then on the engine
//! offers it what is due, and every offer wakes the link's courier. It ends with its connection, or, on a broker, when nothing was
//! heard for long enough; the engine is told, and offers it nothing more.
//!
//! A newer link of the same device takes the place of an older one.

use super::courier::{Courier, Manner, Sent, Step, is_other_attempt};
use super::outbox::Outbox;
use crate::app::App;
use crate::dialect::{self, Tongue};
use dashmap::{DashMap, Entry};
use sluicegate::model::{Component, Event, EventKind, ReportedState, Timestamp};
use sluicegate::{Connect, DeviceName, Error, HeldOffer, Report};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Every link, by each device that can be reached through it.
#[derive(Debug, Default)]
pub(crate) struct Links {
    by_device: DashMap<DeviceName, Arc<Link>>,
    newest: AtomicU64,
}

/// A gateway, or a device of its own, and the way to it.
pub(crate) struct Link {
    pub(crate) gateway: DeviceName,
    pub(crate) tongue: Tongue,
    pub(crate) outbox: Outbox,
    /// Of later links larger.
    epoch: u64,
    /// The gateway first.
    members: Mutex<Vec<DeviceName>>,
    courier: Mutex<Courier>,
    wake: Notify,
    is_closed: AtomicBool,
    born: Instant,
    there_since: Timestamp,
    /// Milliseconds since it was born.
    heard_ms: AtomicU64,
    /// The connection over which it was heard last.
    heard_on: AtomicU64,
    /// Nothing is sent before what the device said first was taken: it may tell how far it is.
    is_held: AtomicBool,
    /// Taken for gone after this long without a word; `None` where the connection tells.
    silence: Option<Duration>,
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Link").field("gateway", &self.gateway).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// How long a courier waits before it asks an engine again that couldn't answer.
const TRY_AGAIN: Duration = Duration::from_secs(1);

impl Links {
    /// The link through which a device can be reached.
    pub(crate) fn of(&self, device: &DeviceName) -> Option<Arc<Link>> {
        let link = self.by_device.get(device).map(|link| Arc::clone(&link))?;
        (!link.is_closed.load(Ordering::Acquire)).then_some(link)
    }

    /// How many devices can be sent to.
    pub(crate) fn len(&self) -> usize {
        self.by_device.len()
    }

    /// A number that was not given before.
    pub(crate) fn unique(&self) -> u64 {
        self.newest.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Wakes the couriers of those whom an event concerns.
    pub(super) fn note(&self, event: &Event) {
        if !matches!(event.kind, EventKind::Offered | EventKind::Result) {
            return;
        }
        let Some(device_id) = &event.device_id else { return };
        let (organization, product_id) = (Arc::clone(&event.organization), Arc::clone(&event.product_id));
        if let Some(link) = self.of(&DeviceName { organization, product_id, device_id: Arc::clone(device_id) }) {
            link.wake.notify_one();
        }
    }

    /// The newest link of a device is the one that it is reached through. False where that is another one.
    fn put(&self, member: DeviceName, link: &Arc<Link>) -> bool {
        let replaced = match self.by_device.entry(member) {
            Entry::Vacant(vacant) => {
                vacant.insert(Arc::clone(link));
                return true;
            }
            Entry::Occupied(there) if there.get().epoch > link.epoch => return false,
            Entry::Occupied(mut there) => std::mem::replace(there.get_mut(), Arc::clone(link)),
        };
        // Of what is attached only one device has gone elsewhere.
        if !Arc::ptr_eq(&replaced, link) && replaced.gateway == link.gateway {
            replaced.close();
        }
        true
    }

    /// The connection behind this outbox, which was gone, is there again.
    pub(super) fn connected_again(&self, outbox: &Outbox) {
        for link in self.by_device.iter().filter(|link| link.outbox.is_same(outbox)) {
            link.courier().connected_again();
            // While there was none nobody could be heard.
            link.note_time();
            link.wake.notify_one();
        }
    }

    /// Everybody looks at what is offered.
    pub(super) fn wake_all(&self) {
        for link in &self.by_device {
            link.wake.notify_one();
        }
    }
}

/// A device is there. Opens its link, or tells an open one what is attached now. Says what the gateway may not speak for, and why.
pub(crate) async fn open(app: &Arc<App>, to: &NewLink) -> Result<(Arc<Link>, Vec<(Arc<str>, String)>), Error> {
    let links = &app.mqtt.links;
    let there = links
        .of(&to.gateway)
        .filter(|link| link.outbox.is_same(&to.outbox) && link.gateway == to.gateway && link.tongue == to.tongue);
    let (link, is_new) = match there {
        Some(link) => (link, false),
        None => (Arc::new(Link::new(app, to, links.unique())), true),
    };
    let (gateway, epoch, register) = (to.gateway.clone(), link.epoch, app.registers());
    let together_max = dialect::manner(to.tongue, app).together_max;
    let connect = Connect { gateway, attached: to.attached.clone(), epoch, component: Component::MAIN, together_max, register };
    let connected = match app.engine.connect(connect, app.now()).await {
        Ok(connected) => connected,
        Err(error) => {
            // Whatever became of it: nobody is to be offered anything that nobody could send. A link that is there already ends with it:
            // what is told here may be heard later than another try, which has to be a later connection's then.
            close(app, &link);
            return Err(error);
        }
    };
    let before = std::mem::replace(&mut *link.members(), connected.members.clone());
    for gone in before.iter().filter(|member| !connected.members.contains(member)) {
        links.by_device.remove_if(gone, |_, there| Arc::ptr_eq(there, &link));
    }
    let won: Vec<bool> = connected.members.into_iter().map(|member| links.put(member, &link)).collect();
    if won.first() != Some(&true) {
        // A later connection of the same device was faster.
        link.close();
        return Ok((link, connected.refused));
    }
    if is_new {
        tokio::spawn(drive(Arc::clone(app), Arc::clone(&link)));
    }
    link.wake.notify_one();
    Ok((link, connected.refused))
}

/// The upgrades that an answer or progress of a gateway is about; none where it is about something that is over.
///
/// Also of a gateway whose courier knows of nothing in flight: after a restart, or on a new connection, what is said first may well be
/// about an order that was sent before. Then the engine knows what is held.
pub(crate) async fn concerned(app: &App, gateway: &DeviceName, link: Option<&Link>, business_id: &str) -> Result<Vec<Sent>, Error> {
    let newest = *app.engine.event_sequence().borrow();
    let (known, has_looked) = link.map_or((None, false), |link| {
        let courier = link.courier();
        (courier.concerned(business_id, newest), courier.has_looked())
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let offers = app.engine.read(|state| state.offers_behind(gateway.as_ref())).await?;
    let name = |held: &HeldOffer| match link {
        Some(link) => link.member(&held.device.id),
        // Of a gateway that isn't connected only its own are held behind it.
        None => Some(gateway.clone()),
    };
    let sent = |held: &HeldOffer| Some(Sent { device: name(held)?, upgrade: held.offer.id? });
    // What it is offered since it is there can't have been heard before.
    let is_earlier = |held: &&HeldOffer| link.is_none_or(|link| held.upgrade.offered_at.is_some_and(|at| at < link.there_since));
    let held: Vec<Sent> = offers.iter().filter(is_earlier).filter_map(sent).collect();
    let is_named = held.iter().any(|sent| sent.upgrade.to_string() == business_id);
    let may_be_meant = is_named || (!has_looked && !is_other_attempt(business_id, &held, newest));
    Ok(if may_be_meant { held } else { Vec::new() })
}

/// The device is gone. A link that a newer one has replaced says nothing any more.
pub(crate) fn close(app: &Arc<App>, link: &Arc<Link>) {
    link.close();
    let members = std::mem::take(&mut *link.members());
    for member in &members {
        app.mqtt.links.by_device.remove_if(member, |_, there| Arc::ptr_eq(there, link));
    }
    tell_gone(app, link.gateway.clone(), link.epoch);
}

/// Tells the engine that a device is gone, until it has heard it.
fn tell_gone(app: &Arc<App>, gateway: DeviceName, epoch: u64) {
    let app = Arc::clone(app);
    tokio::spawn(async move {
        while let Err(error) = app.engine.disconnect(gateway.clone(), epoch, app.now()).await {
            if matches!(error, Error::Closed) {
                return;
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    });
}

/// What is needed to send to a device.
#[derive(Clone, Debug)]
pub(crate) struct NewLink {
    pub(crate) gateway: DeviceName,
    pub(crate) attached: Vec<Arc<str>>,
    pub(crate) tongue: Tongue,
    pub(crate) outbox: Outbox,
    pub(crate) silence: Option<Duration>,
}

impl Link {
    fn new(app: &App, to: &NewLink, epoch: u64) -> Self {
        let there_since = app.now();
        Self {
            gateway: to.gateway.clone(),
            tongue: to.tongue,
            outbox: to.outbox.clone(),
            epoch,
            members: Mutex::default(),
            courier: Mutex::new(Courier::new(dialect::manner(to.tongue, app), to.silence.map(|_| there_since))),
            wake: Notify::new(),
            is_closed: AtomicBool::new(false),
            born: Instant::now(),
            there_since,
            heard_ms: AtomicU64::new(0),
            heard_on: AtomicU64::new(to.outbox.connection().unwrap_or_default()),
            is_held: AtomicBool::new(to.silence.is_some()),
            silence: to.silence,
        }
    }

    fn members(&self) -> std::sync::MutexGuard<'_, Vec<DeviceName>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn courier(&self) -> std::sync::MutexGuard<'_, Courier> {
        self.courier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device of this name behind the gateway, the gateway itself included.
    pub(crate) fn member(&self, device_id: &str) -> Option<DeviceName> {
        self.members().iter().find(|member| *member.device_id == *device_id).cloned()
    }

    /// The devices that are attached, without the gateway.
    pub(crate) fn attached(&self) -> Vec<Arc<str>> {
        self.members().iter().skip(1).map(|member| Arc::clone(&member.device_id)).collect()
    }

    /// Something was heard from the device.
    pub(crate) fn heard(&self) {
        self.note_time();
        if let Some(connection) = self.outbox.connection()
            && self.heard_on.swap(connection, Ordering::Relaxed) != connection
        {
            self.wake.notify_one();
        }
    }

    fn note_time(&self) {
        self.heard_ms.store(self.born.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// What the device said first was taken.
    pub(crate) fn release(&self) {
        if self.is_held.swap(false, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Whether something may be sent now. After a broker was away its devices come back one by one, and perhaps with an answer: whoever
    /// is to answer is sent nothing before it was heard again.
    fn is_reached(&self, manner: Manner) -> bool {
        let is_heard = |connection| self.heard_on.load(Ordering::Relaxed) == connection;
        let needs_no_word = self.silence.is_none() || manner.answered.is_none();
        !self.is_held.load(Ordering::Relaxed)
            && self.outbox.connection().is_some_and(|connection| needs_no_word || is_heard(connection))
    }

    /// What was sent has arrived.
    pub(crate) fn answered(&self, about: &[Sent]) {
        self.courier().answered(about, Instant::now());
        self.wake.notify_one();
    }

    /// The device asks for what it was sent.
    pub(crate) fn send_again(&self) {
        self.courier().send_again();
        self.wake.notify_one();
    }

    /// The next message is under way to a broker; nothing is where the connection is the device's own.
    fn sets_out(self: &Arc<Self>) -> Option<UnderWay> {
        self.silence?;
        Some(UnderWay { link: Arc::downgrade(self), number: self.courier().sets_out() })
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// When it is taken for gone; never while nobody could be heard.
    fn silent_at(&self) -> Option<Instant> {
        self.outbox.connection()?;
        Some(self.born + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed)) + self.silence?)
    }
}

/// A message on its way to a broker. Dropped once it is there, or never will be; the courier is patient only from then on.
#[derive(Debug)]
pub(crate) struct UnderWay {
    link: Weak<Link>,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(link) = self.link.upgrade() {
            link.courier().arrived(self.number, Instant::now());
            link.wake.notify_one();
        }
    }
}

/// Sends what is offered, until the link is closed; then nothing is reached through it any more.
async fn drive(app: Arc<App>, link: Arc<Link>) {
    send_while_open(&app, &link).await;
    link.close();
    for member in std::mem::take(&mut *link.members()) {
        app.mqtt.links.by_device.remove_if(&member, |_, there| Arc::ptr_eq(there, &link));
    }
}

async fn send_while_open(app: &Arc<App>, link: &Arc<Link>) {
    while !link.is_closed.load(Ordering::Acquire) {
        if link.silent_at().is_some_and(|silent_at| silent_at <= Instant::now()) {
            app.metrics.mqtt("silent");
            close(app, link);
            return;
        }
        let due = match step(app, link).await {
            Ok(due) => due,
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::debug!(gateway = %link.gateway.device_id, %error, "what is offered to a device could not be read; tried again");
                Some(Instant::now() + TRY_AGAIN)
            }
        };
        let due = due.into_iter().chain(link.silent_at()).min();
        let asleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = link.wake.notified() => {}
            () = asleep => {}
        }
    }
}

/// One look at what is offered. Says when the next is due.
async fn step(app: &Arc<App>, link: &Arc<Link>) -> Result<Option<Instant>, Error> {
    loop {
        let manner = dialect::manner(link.tongue, app);
        if !link.is_reached(manner) {
            return Ok(None);
        }
        let offers = app.engine.read(|state| state.offers_behind(link.gateway.as_ref())).await?;
        let name = |held: &HeldOffer| link.member(&held.device.id);
        let step = link.courier().step(&offers, name, Instant::now());
        match step {
            Step::Rest(due) => return Ok(due),
            Step::Send(offers, named) => {
                // Where there is more than one message, with the last.
                let mut under_way = link.sets_out();
                let mut messages = dialect::compose(link.tongue, app, link, &offers, named).into_iter().peekable();
                while let Some(mut message) = messages.next() {
                    if messages.peek().is_none() {
                        message.under_way = under_way.take();
                    }
                    if !link.outbox.send(message) {
                        app.metrics.mqtt("offer_dropped");
                        link.courier().not_sent();
                        return Ok(Some(Instant::now() + TRY_AGAIN));
                    }
                    app.metrics.mqtt("offer_sent");
                }
            }
            Step::GiveUp(unanswered) => {
                for Sent { device, upgrade } in unanswered {
                    app.metrics.mqtt("offer_unanswered");
                    let detail = Some("the gateway did not answer".into());
                    let report = Report { device, upgrade, state: ReportedState::TimedOut, percent: None, detail, code: None };
                    app.engine.report(report, app.now()).await?;
                }
            }
        }
    }
}
