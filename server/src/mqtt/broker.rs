//! Us as the client of a broker that is there already: devices are heard and told through it, and events are published on it.
//!
//! What devices publish is taken in lanes, each device always in the same one: in order for one device, and many devices at once. A
//! publication is acknowledged to the broker once what it says is durable, in the order of their arrival; what was not acknowledged
//! when a connection broke comes again with the next one, since the session lasts.
//!
//! Events are published from a remembered position, which moves on with the broker's acknowledgements; what was in flight when a
//! connection broke is published again.
//!
//! The connection is tried again for ever, with growing pauses. Devices are not taken for gone with it: whoever is silent for long
//! enough is. Nothing waits for the broker, `ready` neither.

use super::feed::{Due, Feed};
use super::links::UnderWay;
use super::outbox::{Outbox, Outgoing};
use super::sessions::{FORMAT, NOBODY};
use super::wire::{
    Acknowledgement, ClientWire, ConnectOptions, Delivery, FromServer, ProtocolVersion, Publication, PublishError, Qos, WireLimits,
};
use super::{Receipt, topics};
use crate::app::App;
use crate::config::BrokerConfig;
use crate::dialect::{self, BrokerSpeaker};
use crate::event_reader::EventReader;
use crate::http::tls::{TlsError, client_config};
use crate::secrets;
use rustls::pki_types::ServerName;
use sluicegate::model::{Subscription, SubscriptionId};
use sluicegate::{EventPage, State};
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;

/// Messages to devices that wait for the connection: a fleet's first orders.
const OUTBOX_MESSAGES_MAX: usize = 16_384;
/// Devices that are taken care of at once.
const LANES: usize = 256;
/// Messages that wait in one lane; where it is full, nothing more is read.
const LANE_MESSAGES_MAX: usize = 32;
/// Publications that the broker may have sent us and we not yet acknowledged.
const RECEIVE_MAX: u16 = 1_024;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long connecting, and an answer to a ping, may take.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// An order that the broker acknowledges no sooner counts as arrived: whoever forgets an acknowledgement holds up no gateway for good.
const ARRIVAL_WAIT: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Of what may be in flight.
const EVENTS_LEAVE_ROOM: usize = 8;
/// How long what devices have said may take to be written down and acknowledged when the server stops.
const FAREWELL_WAIT: Duration = Duration::from_secs(2);
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// The session lasts this long while we are away: what devices said meanwhile is kept for us.
const SESSION_EXPIRY_S: u32 = 86_400;

pub(crate) struct Broker {
    config: BrokerConfig,
    tls: Option<TlsConnector>,
}

/// What lasts from connection to connection.
struct Standing {
    app: Arc<App>,
    lanes: Vec<mpsc::Sender<Job>>,
    outbox: Outbox,
    outgoing: mpsc::Receiver<Outgoing>,
    events: Option<Events>,
    version: ProtocolVersion,
    stopping: watch::Receiver<bool>,
}

/// Where the publishing of events is.
struct Events {
    id: SubscriptionId,
    feed: Feed,
    pages: mpsc::Receiver<EventPage>,
    /// 0 where nothing was written down yet.
    saved: u64,
    save_due: Instant,
}

/// What the broker has granted us for the length of a connection.
#[derive(Clone, Copy, Debug)]
struct Granted {
    shared_subscriptions: bool,
    /// How often we say that we are there.
    ping_every: Duration,
}

/// A publication on its way through a lane.
struct Job {
    publication: Publication,
    receipt: oneshot::Sender<Receipt>,
    /// The connection that it came on.
    connection: u64,
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] super::wire::WireError),
    #[error("the broker refused us: {0}")]
    Refused(String),
    #[error("the broker speaks no MQTT 5")]
    Version,
    #[error("the broker closed the connection: {0}")]
    Closed(String),
    #[error("the broker did not answer in time")]
    Silent,
    #[error("the broker grants no subscription to {0}; allow it")]
    NotGranted(String),
    #[error("the broker takes no message now; see whether it has room for what waits for its clients")]
    NoRoom,
    #[error("what a device said can't be written now")]
    Later,
    #[error("{0}")]
    Publish(#[from] PublishError),
}

impl Broker {
    /// Reads what is needed for TLS; connects to nothing yet.
    pub(crate) fn new(config: BrokerConfig) -> Result<Self, TlsError> {
        let tls = config.tls.then(|| client_config(config.ca.as_deref())).transpose()?;
        Ok(Self { config, tls: tls.map(|config| TlsConnector::from(Arc::new(config))) })
    }

    /// For as long as the server runs.
    pub(super) async fn run(self, app: Arc<App>, stopped: watch::Receiver<bool>) {
        let (outbox, outgoing) = Outbox::channel(OUTBOX_MESSAGES_MAX);
        outbox.set_open(false);
        let speaker = BrokerSpeaker { outbox: outbox.clone(), silence: self.config.silence };
        let lanes = (0..LANES).map(|_| lane(&app, &speaker)).collect();
        let version = if self.config.is_version_5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
        let mut stopping = stopped;
        let events = async { if app.config.mqtt.events { Some(self.events(&app).await) } else { None } };
        let events = tokio::select! {
            events = events => events,
            _ = stopping.wait_for(|stopped| *stopped) => return,
        };
        let connected = outbox.clone();
        let mut standing = Standing { app, lanes, outbox, outgoing, events, version, stopping: stopping.clone() };
        let stopped = async {
            let _ = stopping.wait_for(|stopped| *stopped).await;
            // A connection that is there ends by itself.
            if connected.is_open() {
                sleep(2 * FAREWELL_WAIT).await;
            }
        };
        tokio::select! {
            () = self.stay_connected(&mut standing) => {}
            () = stopped => {}
        }
        if let Some(events) = &mut standing.events
            && events.save_due().is_some()
        {
            let _ = timeout(ANSWER_WAIT, events.save(&standing.app, &self.config)).await;
        }
    }

    /// Until a connection has ended because the server stops.
    async fn stay_connected(&self, standing: &mut Standing) {
        let mut pause = PAUSE_MIN;
        loop {
            let begun = Instant::now();
            let ended = self.connection(standing).await;
            standing.outbox.set_open(false);
            standing.app.metrics.mqtt_broker(false);
            if *standing.stopping.borrow() {
                return;
            }
            // One that held for a while begins anew with short pauses.
            if begun.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            if let Err(error) = ended {
                if matches!(error, Broken::Version) {
                    standing.version = ProtocolVersion::V311;
                    tracing::info!(host = self.config.host, "the broker speaks no MQTT 5; 3.1.1 is spoken with it");
                    continue;
                }
                tracing::warn!(host = self.config.host, port = self.config.port, %error, retry_after = ?pause, "no connection to the broker");
            }
            // Not the same for every server, so that those of one broker don't come back together.
            let [chance] = secrets::random().unwrap_or([u8::MAX / 2]);
            sleep(pause + pause.mul_f64(f64::from(chance) / 512.0)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Takes up the publishing of events where it was acknowledged last; the first time at the oldest event that is kept.
    async fn events(&self, app: &Arc<App>) -> Events {
        let id: SubscriptionId = format!("mqtt-broker-{}", self.config.client_id).into();
        let position = loop {
            match app.engine.read(|state: &State| state.subscription(NOBODY, &id).map_or(0, |row| row.position)).await {
                Ok(position) => break position,
                Err(error) => {
                    tracing::warn!(%error, "how far events were published could not be read; tried again");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        };
        let mut feed = Feed::new(position);
        for filter in topics::of_broker(app.config.mqtt.events_by_task) {
            feed.subscribe(&filter, Qos::AtLeastOnce);
        }
        let pages = EventReader::new(&app.engine, position.saturating_add(1)).into_channel();
        Events { id, feed, pages, saved: position, save_due: Instant::now() }
    }

    /// One connection, from its beginning to its end.
    async fn connection(&self, standing: &mut Standing) -> Result<(), Broken> {
        let BrokerConfig { host, port, .. } = &self.config;
        let tcp = timeout(ANSWER_WAIT, TcpStream::connect((host.as_str(), *port))).await.map_err(|_| Broken::Silent)??;
        tcp.set_nodelay(true)?;
        match &self.tls {
            None => self.converse(tcp, standing).await,
            Some(connector) => {
                let name = ServerName::try_from(host.clone()).map_err(|error| Broken::Refused(error.to_string()))?;
                let tls = timeout(ANSWER_WAIT, connector.connect(name, tcp)).await.map_err(|_| Broken::Silent)??;
                self.converse(tls, standing).await
            }
        }
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, standing: &mut Standing) -> Result<(), Broken> {
        let limits = WireLimits { packet_bytes_max: standing.app.config.mqtt.packet_bytes_max, receive_max: RECEIVE_MAX };
        let (reader, writer) = tokio::io::split(stream);
        let wire = ClientWire::new(standing.version, limits);
        let mut line = Line { reader, writer, wire, heard: Vec::new() };
        let Granted { shared_subscriptions, ping_every } = self.log_in(&mut line, standing).await?;
        self.subscribe(&mut line, shared_subscriptions).await?;
        // Some room is left for what devices are told, however little there is.
        let room = (line.wire.vacancy() / 2).min(EVENTS_LEAVE_ROOM);
        tracing::info!(host = self.config.host, port = self.config.port, "connected to the broker");
        standing.app.metrics.mqtt_broker(true);
        // What was on its way when the last connection ended is written anew, with what devices were offered since.
        while standing.outgoing.try_recv().is_ok() {}
        standing.outbox.set_open(true);
        standing.app.mqtt.links.connected_again(&standing.outbox);
        let mut unacknowledged: VecDeque<Unacknowledged> = VecDeque::new();
        if let Some(events) = &mut standing.events {
            events.begin_connection(&standing.app);
        }
        let mut ping_due = Instant::now() + ping_every;
        let mut pong_due: Option<Instant> = None;
        let mut stopping = standing.stopping.clone();
        let mut farewell_due: Option<Instant> = None;
        let mut was_events_turn = false;
        let mut under_way: HashMap<u16, (UnderWay, Instant)> = HashMap::new();
        loop {
            let has_heard = !line.heard.is_empty();
            for said in std::mem::take(&mut line.heard) {
                match said {
                    FromServer::Publish(publication) => unacknowledged.push_back(standing.take(publication).await),
                    FromServer::TooLarge(publication) => {
                        let receipt = Receipt::Malformed("larger than `[mqtt] packet_bytes_max`".to_owned());
                        receipt.note(&standing.app, "the broker", &publication.topic);
                        unacknowledged.push_back(Unacknowledged::known(publication, receipt));
                    }
                    // Not passed over: with the next connection it comes again, and with it what followed.
                    FromServer::Acknowledged { delivery: Delivery::RefusedForNow, .. } => return Err(Broken::NoRoom),
                    FromServer::Acknowledged { packet_id, delivery } => {
                        if delivery == Delivery::Refused {
                            self.note_refusal(&standing.app);
                        }
                        under_way.remove(&packet_id);
                        if let Some(events) = &mut standing.events {
                            events.feed.acknowledged(packet_id);
                        }
                    }
                    FromServer::Pong => pong_due = None,
                    FromServer::Disconnected { reason } => return Err(Broken::Closed(reason)),
                    _ => {}
                }
            }
            // Where there is no room to spare, events and messages to devices take turns.
            let is_events_turn = farewell_due.is_none() && (room > 0 || !was_events_turn || standing.outgoing.is_empty());
            if is_events_turn {
                was_events_turn |= standing.publish_events(&mut line.wire, room)?;
            }
            line.flush().await?;
            // Acknowledged now, it doesn't come again to a server that no longer knows that it has taken it.
            if farewell_due.is_some_and(|due| due <= Instant::now() || unacknowledged.is_empty()) {
                line.wire.disconnect();
                return line.flush().await;
            }
            let may_read = farewell_due.is_none() && unacknowledged.len() < usize::from(RECEIVE_MAX);
            // Whoever speaks is there, and while we don't listen nobody can be blamed for silence.
            if has_heard || !may_read {
                pong_due = pong_due.map(|_| Instant::now() + ANSWER_WAIT);
            }
            let save_due = standing.events.as_ref().and_then(Events::save_due);
            let due = [Some(ping_due), pong_due, save_due, farewell_due].into_iter().flatten().min().unwrap_or(ping_due);
            let vacancy = line.wire.vacancy();
            tokio::select! {
                read = line.hear(), if may_read => read?,
                receipt = next_receipt(&mut unacknowledged) => {
                    let (publication, receipt) = receipt;
                    line.wire.acknowledge(&publication, acknowledgement(&publication, &receipt)?);
                }
                Some(message) = standing.outgoing.recv(), if vacancy > 0 => {
                    let outcome = match line.wire.publish(&message.topic, message.payload, message.qos) {
                        Ok(packet_id) => {
                            was_events_turn = false;
                            under_way.extend(packet_id.zip(message.under_way).map(|(id, it)| (id, (it, Instant::now()))));
                            "told"
                        }
                        Err(PublishError::TooLarge | PublishError::TopicInvalid) => "not_taken",
                        Err(error) => return Err(error.into()),
                    };
                    standing.app.metrics.mqtt(outcome);
                }
                Some(page) = next_page(&standing.app, &mut standing.events) => {
                    if let Some(events) = &mut standing.events {
                        events.feed.take(page);
                    }
                }
                _ = stopping.wait_for(|stopped| *stopped), if farewell_due.is_none() => {
                    farewell_due = Some(Instant::now() + FAREWELL_WAIT);
                }
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            if pong_due.is_some_and(|due| due <= now) && line.heard.is_empty() {
                return Err(Broken::Silent);
            }
            if ping_due <= now {
                line.wire.ping();
                under_way.retain(|_, (_, since)| now.duration_since(*since) < ARRIVAL_WAIT);
                ping_due = now + ping_every;
                pong_due = Some(pong_due.unwrap_or(now + ANSWER_WAIT));
            }
            if let Some(events) = &mut standing.events
                && events.save_due().is_some_and(|due| due <= now)
            {
                events.save(&standing.app, &self.config).await;
            }
        }
    }

    /// Something that we published, to a device or of an event, was not taken: a 5.0 broker says so.
    fn note_refusal(&self, app: &App) {
        app.metrics.mqtt("broker_refused");
        let what = "the broker refuses what is published; let this server publish to devices' topics and to sluicegate/events/#";
        app.mqtt.noise.tell("broker_refused", &self.config.host, what);
    }

    async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(&self, line: &mut Line<S>, standing: &Standing) -> Result<Granted, Broken> {
        line.wire.connect(&ConnectOptions {
            version: standing.version,
            client_id: self.config.client_id.clone(),
            clean: false,
            keep_alive_s: KEEP_ALIVE.as_secs() as u16,
            username: self.config.username.clone(),
            password: self.config.password.clone().map(String::into_bytes),
            session_expiry_s: SESSION_EXPIRY_S,
            will: None,
        })?;
        line.flush().await?;
        let answered = async {
            while line.heard.is_empty() {
                line.hear().await?;
            }
            Ok::<_, Broken>(line.heard.remove(0))
        };
        match timeout(ANSWER_WAIT, answered).await.map_err(|_| Broken::Silent)?? {
            FromServer::Connected { shared_subscriptions, keep_alive_s, .. } => {
                // The broker's wish counts; 0 is any time.
                let wished =
                    keep_alive_s.filter(|seconds| *seconds > 0).map_or(KEEP_ALIVE, |seconds| Duration::from_secs(seconds.into()));
                Ok(Granted { shared_subscriptions, ping_every: wished.min(KEEP_ALIVE) / 2 })
            }
            FromServer::Refused { is_version: true, .. } if standing.version == ProtocolVersion::V5 => Err(Broken::Version),
            FromServer::Refused { reason, .. } => Err(Broken::Refused(reason)),
            other => Err(Broken::Closed(format!("{other:?} instead of an answer to our CONNECT"))),
        }
    }

    async fn subscribe<S: AsyncRead + AsyncWrite + Unpin>(&self, line: &mut Line<S>, shared: bool) -> Result<(), Broken> {
        let group = match &self.config.share_group {
            Some(group) if shared => Some(group),
            Some(group) => {
                tracing::warn!(group, "the broker has no shared subscriptions; this server hears everything");
                None
            }
            None => None,
        };
        let filters = dialect::broker_filters();
        let shared = |filter: &str| group.map_or_else(|| filter.to_owned(), |group| format!("$share/{group}/{filter}"));
        let filters: Vec<(String, Qos)> = filters.into_iter().map(|(filter, qos)| (shared(filter), qos)).collect();
        let wanted: Vec<(&str, Qos)> = filters.iter().map(|(filter, qos)| (filter.as_str(), *qos)).collect();
        let own = line.wire.subscribe(&wanted)?;
        line.flush().await?;
        // What devices said meanwhile may come before the answer, and right behind it.
        let mut before = Vec::new();
        let answered = async {
            let mut answer = None;
            loop {
                for said in std::mem::take(&mut line.heard) {
                    match said {
                        FromServer::Subscribed { packet_id, granted } if packet_id == own => answer = Some(granted),
                        other => before.push(other),
                    }
                }
                match answer {
                    Some(granted) => return Ok::<_, Broken>(granted),
                    None => line.hear().await?,
                }
            }
        };
        let granted = timeout(ANSWER_WAIT, answered).await.map_err(|_| Broken::Silent)??;
        line.heard = before;
        match granted.iter().position(Option::is_none).and_then(|place| filters.get(place)) {
            Some((refused, _)) => Err(Broken::NotGranted(refused.clone())),
            None => Ok(()),
        }
    }
}

/// The stream and the protocol on it.
struct Line<S> {
    reader: tokio::io::ReadHalf<S>,
    writer: tokio::io::WriteHalf<S>,
    wire: ClientWire,
    heard: Vec<FromServer>,
}

impl<S: AsyncRead + AsyncWrite> Line<S> {
    /// Reads some bytes. Cancel-safe: nothing is read and then lost.
    async fn hear(&mut self) -> Result<(), Broken> {
        let mut bytes = [0; 16 << 10];
        let read = self.reader.read(&mut bytes).await?;
        if read == 0 {
            return Err(Broken::Closed("without a word".into()));
        }
        Ok(self.wire.receive(&bytes[..read], &mut self.heard)?)
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        if !self.wire.output().is_empty() {
            let output = self.wire.output().split();
            let write = async {
                self.writer.write_all(&output).await?;
                // TLS keeps back what the socket doesn't take at once.
                self.writer.flush().await
            };
            timeout(ANSWER_WAIT, write).await.map_err(|_| Broken::Silent)??;
        }
        Ok(())
    }
}

/// A publication of the broker's whose receipt is still to come.
struct Unacknowledged {
    publication: Publication,
    receipt: oneshot::Receiver<Receipt>,
}

impl Unacknowledged {
    /// One that needs no lane.
    fn known(publication: Publication, receipt: Receipt) -> Self {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(receipt);
        Self { publication, receipt: receiver }
    }
}

/// The receipt of the oldest. Cancel-safe: it stays the oldest until its receipt has come.
async fn next_receipt(unacknowledged: &mut VecDeque<Unacknowledged>) -> (Publication, Receipt) {
    let Some(oldest) = unacknowledged.front_mut() else { return std::future::pending().await };
    // A lane that is gone takes nothing.
    let receipt = (&mut oldest.receipt).await.unwrap_or(Receipt::Later(sluicegate::Error::Closed));
    match unacknowledged.pop_front() {
        Some(oldest) => (oldest.publication, receipt),
        None => std::future::pending().await,
    }
}

/// What can't be written now isn't acknowledged: it comes again with the next connection. What nobody keeps for us is lost either way.
fn acknowledgement(publication: &Publication, receipt: &Receipt) -> Result<Acknowledgement, Broken> {
    match receipt {
        Receipt::Later(_) if publication.qos != Qos::AtMostOnce => Err(Broken::Later),
        // To a broker there is nothing to be told of what its clients say.
        _ => Ok(Acknowledgement::Taken),
    }
}

async fn next_page(app: &App, events: &mut Option<Events>) -> Option<EventPage> {
    let Some(events) = events.as_mut().filter(|events| events.feed.wants_events()) else { return std::future::pending().await };
    if let Some(page) = events.pages.recv().await {
        return Some(page);
    }
    // They could not be read; they are read on from there. The pause may be cut short by whatever else happens.
    events.pages = EventReader::new(&app.engine, events.feed.passed().saturating_add(1)).into_channel();
    sleep(PAUSE_MIN).await;
    None
}

fn lane(app: &Arc<App>, speaker: &BrokerSpeaker) -> mpsc::Sender<Job> {
    let (sender, mut jobs) = mpsc::channel::<Job>(LANE_MESSAGES_MAX);
    let (app, speaker) = (Arc::clone(app), speaker.clone());
    tokio::spawn(async move {
        let mut order = LaneOrder::default();
        while let Some(Job { publication, receipt, connection }) = jobs.recv().await {
            let Publication { topic, payload, .. } = &publication;
            let taken = if order.may_take(&publication, connection) {
                let is_repeated = order.is_repeated(&publication);
                dialect::receive_from_broker(&app, &speaker, topic, payload, is_repeated).await
            } else {
                Receipt::Later(sluicegate::Error::Overloaded)
            };
            taken.note(&app, "the broker", topic);
            order.note(&publication, connection, &taken);
            // Whoever waited for it is gone with its connection; it comes again.
            let _ = receipt.send(taken);
        }
    });
    sender
}

/// Keeps what a lane takes in its order, and from being taken twice.
#[derive(Debug, Default)]
struct LaneOrder {
    /// What was taken last: as much as may be unacknowledged, and so may come again.
    taken: VecDeque<u64>,
    /// The connection on which something couldn't be taken. It comes again with the next one, and with it all that came after it: taken
    /// before it, it would be overtaken by what is older.
    interrupted: Option<u64>,
}

impl LaneOrder {
    /// What nobody keeps for us is taken when it comes.
    fn may_take(&self, publication: &Publication, connection: u64) -> bool {
        publication.qos == Qos::AtMostOnce || self.interrupted != Some(connection)
    }

    fn is_repeated(&self, publication: &Publication) -> bool {
        publication.duplicate && self.taken.contains(&Self::mark(publication))
    }

    fn note(&mut self, publication: &Publication, connection: u64, receipt: &Receipt) {
        if publication.qos == Qos::AtMostOnce {
            return;
        }
        if matches!(receipt, Receipt::Later(_)) {
            self.interrupted = Some(connection);
            return;
        }
        if self.taken.len() >= usize::from(RECEIVE_MAX) {
            self.taken.pop_front();
        }
        self.taken.push_back(Self::mark(publication));
    }

    fn mark(publication: &Publication) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&publication.topic, &publication.payload).hash(&mut hasher);
        hasher.finish()
    }
}

impl Standing {
    /// Puts a publication into its device's lane; waits where that is full.
    async fn take(&self, publication: Publication) -> Unacknowledged {
        if publication.retain {
            // The broker has kept it, who knows for how long: it tells neither how an upgrade is nor that somebody is there.
            self.app.metrics.mqtt(Receipt::Ignored.name());
            return Unacknowledged::known(publication, Receipt::Ignored);
        }
        let (receipt, receiver) = oneshot::channel();
        // The level that names the device is another in each dialect; what they share is that it is not the last.
        let mut hasher = DefaultHasher::new();
        dialect::device_level(&publication.topic).hash(&mut hasher);
        let lane = &self.lanes[(hasher.finish() % LANES as u64) as usize];
        // Only connections publish.
        let connection = self.outbox.connection().unwrap_or_default();
        let job = Job { publication: publication.clone(), receipt, connection };
        // A lane ends with the server alone; then nobody waits for its receipt.
        let _ = lane.send(job).await;
        Unacknowledged { publication, receipt: receiver }
    }

    /// Whether there was one.
    fn publish_events(&mut self, wire: &mut ClientWire, room: usize) -> Result<bool, Broken> {
        const OUTPUT_BYTES_MAX: usize = 256 << 10;
        let mut has_published = false;
        let Some(events) = &mut self.events else { return Ok(has_published) };
        while events.feed.has_room() && wire.vacancy() > room && wire.output().len() < OUTPUT_BYTES_MAX {
            let Some(Due { topic, event, qos }) = events.feed.next() else { break };
            match wire.publish(&topic, dialect::native::event_json(&event), qos) {
                Ok(Some(packet_id)) => events.feed.sent(packet_id, event.sequence),
                Ok(None) => {}
                Err(PublishError::TooLarge | PublishError::TopicInvalid) => self.app.metrics.mqtt("event_too_large"),
                Err(error) => return Err(error.into()),
            }
            self.app.metrics.mqtt("event_sent");
            has_published = true;
        }
        Ok(has_published)
    }
}

impl Events {
    /// What was in flight on the last connection is published again on this one.
    fn begin_connection(&mut self, app: &Arc<App>) {
        self.feed.restart();
        self.pages = EventReader::new(&app.engine, self.feed.position().saturating_add(1)).into_channel();
    }

    fn save_due(&self) -> Option<Instant> {
        (self.feed.position() > self.saved).then_some(self.save_due)
    }

    /// Best effort: what isn't written down is published again after a restart.
    async fn save(&mut self, app: &App, config: &BrokerConfig) {
        let position = self.feed.position();
        self.save_due = Instant::now() + SAVE_EVERY;
        let saved = if self.saved == 0 {
            let row = Subscription {
                id: Arc::clone(&self.id),
                organization: NOBODY.into(),
                url: format!("mqtt://{}:{}", config.host, config.port).into(),
                filters: Vec::new(),
                format: FORMAT.into(),
                app: None,
                secret_encrypted: None,
                position,
                created_at: app.now(),
            };
            app.engine.put_subscription(row, app.now()).await.map(drop)
        } else {
            app.engine.advance_subscription(&self.id, position, app.now()).await
        };
        match saved {
            Ok(()) => self.saved = position,
            Err(error) => tracing::warn!(%error, "how far events were published could not be written down"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &'static str, qos: Qos, duplicate: bool) -> Publication {
        let topic = "thing/product/g/events".to_owned();
        Publication { topic, payload: text.into(), qos, retain: false, duplicate, packet_id: None }
    }

    #[test]
    fn a_lane_takes_nothing_more_of_a_connection_on_which_it_could_not_take_something() {
        let mut order = LaneOrder::default();
        let [first, second] = ["first", "second"].map(|text| said(text, Qos::AtLeastOnce, false));
        assert!(order.may_take(&first, 1));
        order.note(&first, 1, &Receipt::Later(sluicegate::Error::Overloaded));
        assert!(!order.may_take(&second, 1));
        order.note(&second, 1, &Receipt::Later(sluicegate::Error::Overloaded));
        assert!(order.may_take(&said("now", Qos::AtMostOnce, false), 1));
        // They come again, in their order.
        for text in ["first", "second"] {
            let again = said(text, Qos::AtLeastOnce, true);
            assert!(order.may_take(&again, 3) && !order.is_repeated(&again), "{text}");
            order.note(&again, 3, &Receipt::Taken);
            assert!(order.is_repeated(&again) && !order.is_repeated(&said(text, Qos::AtLeastOnce, false)), "{text}");
        }
    }
}
