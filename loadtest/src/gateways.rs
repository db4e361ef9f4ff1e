//! Drives all gateways at once, each on a connection of its own, which it opens again when it is lost.
//!
//! Open loop: a gateway's events go by the clock, however slow the server is; so a slow server shows as latency, not as a lower rate.

use crate::client::{Connection, Endpoint, PATIENCE, back_off};
use crate::device::{Trouble, World};
use crate::download::Download;
use crate::gateway::{Confirmation, Gateway, Message, News};
use crate::measurements::{Measurements, Step};
use crate::mqtt_line::{KEEP_ALIVE_S, LineError, MqttLine};
use crate::progress::Progress;
use sluicegate_server::mqtt::wire::{FromServer, Qos};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

/// What was counted of all gateways' connections.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) messages_up: AtomicU64,
    pub(crate) messages_down: AtomicU64,
    pub(crate) orders_repeated: AtomicU64,
    /// Connections that ended before the gateway did.
    pub(crate) connections_lost: AtomicU64,
    connections: AtomicU64,
    pub(crate) connections_max: AtomicU64,
    settled: AtomicU64,
}

/// What all gateways of a run share.
#[derive(Debug)]
struct Field {
    world: Arc<World>,
    traffic: Arc<Traffic>,
    progress: Arc<Progress>,
    /// Where they connect to, `host:port`.
    address: String,
    endpoint: Endpoint,
    confirmation: Confirmation,
    measured: Mutex<Measurements>,
    /// When results were sent whose permits nobody has yet been seen to get.
    freed: Mutex<VecDeque<Instant>>,
    downloads: Semaphore,
    is_over: watch::Sender<bool>,
}

/// Where gateways go: to MQTT, and for images to HTTP.
#[derive(Clone, Debug)]
pub(crate) struct MeetingPoint {
    pub(crate) mqtt: String,
    pub(crate) http: Endpoint,
}

/// `host:port` of `mqtt://host[:port]`.
pub(crate) fn address_of_broker(url: &str) -> Result<String, String> {
    let address = url.strip_prefix("mqtt://").map(|rest| rest.trim_end_matches('/')).filter(|address| !address.is_empty());
    let address = address.ok_or_else(|| format!("expected a broker like mqtt://127.0.0.1:1883, got {url:?}"))?;
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(if has_port { address.to_owned() } else { format!("{address}:1883") })
}

/// Runs the gateways to their end, and returns what was measured and when the last one came to its result.
pub(crate) async fn run(
    tokens: Vec<String>,
    at: MeetingPoint,
    world: &Arc<World>,
    traffic: &Arc<Traffic>,
    progress: &Arc<Progress>,
) -> (Measurements, Instant) {
    let confirmation = if world.options.broker.is_some() { Confirmation::Reply } else { Confirmation::Puback };
    let field = Arc::new(Field {
        world: Arc::clone(world),
        traffic: Arc::clone(traffic),
        progress: Arc::clone(progress),
        address: at.mqtt,
        endpoint: at.http,
        confirmation,
        measured: Mutex::new(Measurements::new(Step::OF_GATEWAYS)),
        freed: Mutex::new(VecDeque::new()),
        downloads: Semaphore::new(world.options.connections as usize),
        is_over: watch::Sender::new(false),
    });
    let members = tokens.len() as u64;
    let mut lives = JoinSet::new();
    for (index, token) in tokens.into_iter().enumerate() {
        let gateway = Gateway::new(index, world, confirmation);
        lives.spawn(live(gateway, token, Arc::clone(&field)));
    }
    let ended_at = until_settled(&field, members).await;
    field.is_over.send_replace(true);
    while let Some(life) = lives.join_next().await {
        if let Err(error) = life {
            world.ledger.mismatch(format!("a gateway ended early: {error}"));
        }
    }
    let measured = std::mem::replace(&mut *lock(&field.measured), Measurements::new(&[]));
    (measured, ended_at)
}

/// Waits until all have come to their end and said so, or nobody has for far too long; returns when the last one ended.
async fn until_settled(field: &Field, members: u64) -> Instant {
    let stall_max = field.world.options.timeout() + STALL_MAX;
    let mut ended = (0, Instant::now());
    let mut settled = (0, Instant::now());
    loop {
        let counts = (field.progress.done(), field.traffic.settled.load(Ordering::Relaxed));
        if counts.0 > ended.0 {
            ended = (counts.0, Instant::now());
        }
        if counts.1 > settled.0 {
            settled = (counts.1, Instant::now());
        }
        if settled.0 >= members {
            return ended.1;
        }
        if ended.1.max(settled.1).elapsed() > stall_max {
            let (unfinished, unsettled) = (members - ended.0, members - settled.0);
            field.world.ledger.mismatch(format!(
                "nothing went on for {} s: {unfinished} gateways have no result, {unsettled} haven't told their new version",
                stall_max.as_secs()
            ));
            return ended.1;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Why a conversation ended.
enum Parting {
    /// The run is over.
    Over,
    /// The gateway has vanished.
    Vanished,
}

async fn live(mut gateway: Gateway, token: String, field: Arc<Field>) {
    let mut carried = Carried::default();
    let mut is_over = field.is_over.subscribe();
    let (mut attempts, mut heard_at) = (0, Instant::now());
    loop {
        let why = match field.connect(&gateway, &token).await {
            Ok(mut line) => {
                let counted = Counted::new(&field.traffic);
                let parting = converse(&mut gateway, &mut line, &mut carried, &field).await;
                drop(counted);
                (attempts, heard_at) = (0, Instant::now());
                match parting {
                    Ok(Parting::Over) => return line.disconnect().await,
                    Ok(Parting::Vanished) => {
                        field.progress.advance(1);
                        field.settle();
                        return;
                    }
                    Err(why) => {
                        field.traffic.connections_lost.fetch_add(1, Ordering::Relaxed);
                        why
                    }
                }
            }
            Err(why) => why,
        };
        let mismatch = match why {
            LineError::Refused(why) => Some(format!("{} was refused: {why}", gateway.sn)),
            LineError::Lost(why) if heard_at.elapsed() > PATIENCE => {
                Some(format!("{} couldn't connect for {} s: {why}", gateway.sn, PATIENCE.as_secs()))
            }
            LineError::Lost(_) => None,
        };
        if let Some(mismatch) = mismatch {
            return field.world.ledger.mismatch(mismatch);
        }
        attempts += 1;
        tokio::select! {
            () = tokio::time::sleep(back_off(attempts)) => {}
            _ = is_over.wait_for(|is_over| *is_over) => return,
        }
    }
}

/// What a gateway's next connection needs of its last one.
#[derive(Default)]
struct Carried {
    /// What was published and not acknowledged: packet id, and when.
    in_flight: VecDeque<(u16, Message, Instant)>,
    /// The download beside the conversation.
    downloading: Option<oneshot::Receiver<()>>,
}

impl Carried {
    /// Until the download has ended. Cancel-safe.
    async fn downloaded(&mut self) {
        match &mut self.downloading {
            // Dropped without a word only when the run is over.
            Some(is_done) => drop(is_done.await),
            None => std::future::pending().await,
        }
        self.downloading = None;
    }
}

/// Speaks for the gateway until one of the two is gone. What the next connection has to say again is left in `carried`.
async fn converse(
    gateway: &mut Gateway,
    line: &mut MqttLine,
    carried: &mut Carried,
    field: &Arc<Field>,
) -> Result<Parting, LineError> {
    let world = &*field.world;
    let mut is_over = field.is_over.subscribe();
    let mut said = Vec::new();
    let mut is_subscribed = false;
    let (mut spoke_at, mut pinged_at) = (Instant::now(), None::<Instant>);
    line.subscribe(&gateway.filters())?;
    loop {
        let now = Instant::now();
        while is_subscribed && line.has_vacancy() {
            let Some(message) = gateway.next_message(now) else { break };
            let published = line.publish(&message.topic, message.payload.clone(), Qos::AtLeastOnce);
            let packet_id = published.map_err(|error| LineError::Refused(format!("its publication: {error}")))?;
            field.traffic.messages_up.fetch_add(1, Ordering::Relaxed);
            if message.frees_a_permit_at(now) {
                lock(&field.freed).push_back(now);
            }
            carried.in_flight.extend(packet_id.map(|packet_id| (packet_id, message, now)));
            spoke_at = now;
        }
        line.flush().await?;
        if gateway.has_vanished() {
            return Ok(Parting::Vanished);
        }
        if let Some(download) = gateway.take_download() {
            carried.downloading = Some(fetch(download, gateway.sn.clone(), Arc::clone(field)));
        }
        let due = (spoke_at + SPEAK_EVERY).min(gateway.due().unwrap_or(now + SPEAK_EVERY));
        tokio::select! {
            heard = line.hear(&mut said) => heard?,
            () = tokio::time::sleep_until(due.into()) => {}
            _ = is_over.wait_for(|is_over| *is_over) => return Ok(Parting::Over),
            () = carried.downloaded() => gateway.downloaded(),
        }
        let now = Instant::now();
        for message in said.drain(..) {
            match message {
                FromServer::Subscribed { granted, .. } if granted.iter().all(Option::is_some) => {
                    is_subscribed = true;
                    gateway.connected(std::mem::take(&mut carried.in_flight).into_iter().map(|(_, message, _)| message), world);
                }
                FromServer::Subscribed { granted, .. } => {
                    return Err(LineError::Refused(format!("{:?} was granted as {granted:?}", gateway.filters())));
                }
                FromServer::Publish(publication) => {
                    field.traffic.messages_down.fetch_add(1, Ordering::Relaxed);
                    line.acknowledge(&publication);
                    match gateway.hear(&publication.topic, &publication.payload, now, world) {
                        Ok(news) => news.into_iter().for_each(|news| field.note(gateway, news, now)),
                        Err(what) => world.ledger.mismatch(format!("{}: {what}", gateway.sn)),
                    }
                }
                FromServer::TooLarge(publication) => {
                    line.acknowledge(&publication);
                    world.ledger.mismatch(format!("{}: larger than a gateway takes: {}", gateway.sn, publication.topic));
                }
                FromServer::Acknowledged { packet_id, .. } => {
                    let Some(place) = carried.in_flight.iter().position(|(own, ..)| *own == packet_id) else { continue };
                    let Some((_, message, sent_at)) = carried.in_flight.remove(place) else { continue };
                    if message.is_event() {
                        field.record(Step::Puback, now - sent_at);
                    }
                    if let Some(news) = gateway.acknowledged(&message, now, world) {
                        field.note(gateway, news, now);
                    }
                }
                FromServer::Pong => pinged_at = None,
                FromServer::Unsubscribed { .. } | FromServer::Connected { .. } => {}
                FromServer::Refused { reason, .. } | FromServer::Disconnected { reason } => return Err(LineError::Lost(reason)),
            }
        }
        gateway.look_at_clock(now, world);
        if pinged_at.is_some_and(|pinged_at| now - pinged_at > PONG_MAX) {
            return Err(LineError::Lost(format!("no PINGRESP within {} s", PONG_MAX.as_secs())));
        }
        if now >= spoke_at + SPEAK_EVERY {
            spoke_at = now;
            pinged_at.get_or_insert(now);
            line.ping();
            if field.confirmation == Confirmation::Reply {
                gateway.presence();
            }
        }
    }
}

/// Downloads beside the conversation; what is wrong with it is noted.
fn fetch(mut download: Download, sn: String, field: Arc<Field>) -> oneshot::Receiver<()> {
    let (done, is_done) = oneshot::channel();
    tokio::spawn(async move {
        let Ok(_place) = field.downloads.acquire().await else { return };
        let mut connection = Connection::new(field.endpoint.clone());
        let mut measured = Measurements::new(&[Step::Chunk]);
        let world = &*field.world;
        let outcome = loop {
            match download.fetch_chunk(&mut connection, &world.rollout, world.options.chunk_size, &mut measured).await {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(Trouble::Mismatch(what)) => break Err(what),
                Err(Trouble::Client(error)) => break Err(error.to_string()),
            }
        };
        lock(&field.measured).add(&measured);
        if let Err(what) = outcome {
            world.ledger.mismatch(format!("{sn}: {what}"));
        }
        // A gateway that has lost its connection meanwhile asks no more.
        let _ = done.send(());
    });
    is_done
}

impl Field {
    async fn connect(&self, gateway: &Gateway, token: &str) -> Result<MqttLine, LineError> {
        let begun_at = Instant::now();
        match tokio::time::timeout(CONNECT_MAX, MqttLine::connect(&self.address, &gateway.sn, token)).await {
            Ok(line) => {
                let line = line?;
                self.record(Step::Connect, begun_at.elapsed());
                Ok(line)
            }
            Err(_) => Err(LineError::Lost(format!("not connected within {} s", CONNECT_MAX.as_secs()))),
        }
    }

    fn note(&self, gateway: &Gateway, news: News, now: Instant) {
        match news {
            News::Ordered => {
                let freed_at = lock(&self.freed).pop_front();
                if let Some(freed_at) = freed_at {
                    self.record(Step::Handover, now.saturating_duration_since(freed_at));
                }
            }
            News::OrderedAgain => drop(self.traffic.orders_repeated.fetch_add(1, Ordering::Relaxed)),
            News::TopologyAnswered(sent_at) => self.record(Step::Topology, now - sent_at),
            News::EventAnswered(sent_at) => self.record(Step::Reply, now - sent_at),
            News::Ended => {
                self.progress.advance(1);
                if gateway.is_settled_by_its_end() {
                    self.settle();
                }
            }
            News::Settled => self.settle(),
        }
    }

    fn settle(&self) {
        self.traffic.settled.fetch_add(1, Ordering::Relaxed);
    }

    fn record(&self, step: Step, latency: Duration) {
        lock(&self.measured).record(step, latency);
    }
}

/// A connection, as long as it is open.
struct Counted<'a>(&'a Traffic);

impl<'a> Counted<'a> {
    fn new(traffic: &'a Traffic) -> Self {
        let connections = traffic.connections.fetch_add(1, Ordering::Relaxed) + 1;
        traffic.connections_max.fetch_max(connections, Ordering::Relaxed);
        Self(traffic)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A mutex is poisoned only by a panic, which ends the run anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Beyond the task's timeout, by which every upgrade is over.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Thousands of logins at once take their time.
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// Two thirds of the keep-alive.
const SPEAK_EVERY: Duration = Duration::from_secs(KEEP_ALIVE_S as u64 * 2 / 3);
/// A whole keep-alive without an answer: the connection is dead.
const PONG_MAX: Duration = Duration::from_secs(KEEP_ALIVE_S as u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_found_by_its_url() {
        assert_eq!(address_of_broker("mqtt://127.0.0.1:1884/").as_deref(), Ok("127.0.0.1:1884"));
        assert_eq!(address_of_broker("mqtt://broker").as_deref(), Ok("broker:1883"));
        assert!(address_of_broker("mqtts://broker").is_err() && address_of_broker("mqtt://").is_err());
    }
}
