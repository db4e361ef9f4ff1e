//! One client of our listener: a device, or a consumer of events.
//!
//! What a client says is taken one message after another, and no more is read while one is at work; so a client that floods slows
//! itself down. What it is to be told waits in a bounded outbox (devices), or in the event log (consumers).
//!
//! Every wait on a client is bounded: for its login by `header_timeout`, for its next packet by one and a half of its own keep-alive,
//! for it to take what is written by `write_timeout`.

use super::feed::Due;
use super::links;
use super::login::{self, LoginError, Pass, Principal};
use super::outbox::{Outbox, Outgoing};
use super::sessions::{Consumer, Place, place_of_consumer};
use super::wire::{
    Acknowledgement, Connect, Farewell, FromClient, Publication, PublishError, Qos, Refusal, ServerWire, SubscribeRefusal,
    WireLimits,
};
use super::{Receipt, Speaker, topics};
use crate::app::App;
use crate::dialect;
use crate::event_reader::EventReader;
use crate::http::listener::Front;
use crate::http::{ClientCertificate, Peer};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use sluicegate::{DeviceName, Error, EventPage};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

/// Messages to a device that wait to be written: an upgrade and some replies.
const OUTBOX_MESSAGES_MAX: usize = 64;
/// Publications that a client may have unacknowledged.
const RECEIVE_MAX: u16 = 64;
/// What one client may subscribe to.
const FILTERS_MAX: usize = 64;
/// A token that was revoked, or a secret that was changed, opens nothing for longer than this, however silent its client is.
const PASS_CHECK_EVERY: Duration = Duration::from_secs(15);
const PASS_GONE: &str = "its token or certificate was revoked or has expired, or its secret is another";
/// Somebody whose message could not be taken comes back no sooner.
const LATER_PAUSE: Duration = Duration::from_secs(1);

/// Serves a client until it goes, or is sent away.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(front: Arc<Front>, stream: S, peer: Peer) {
    let Peer { address, certificate, .. } = peer;
    let app = Arc::clone(&front.app);
    let limits = WireLimits { packet_bytes_max: app.config.mqtt.packet_bytes_max, receive_max: RECEIVE_MAX };
    let mut line =
        Line { stream, wire: ServerWire::new(limits), write_timeout: app.config.limits.write_timeout, taken_over: Arc::default() };
    let connect = match timeout(app.config.limits.header_timeout, line.hear_connect()).await {
        Ok(Ok(connect)) => connect,
        Ok(Err(end)) => return end.note(&app, &address.to_string()),
        Err(_) => return app.metrics.connection_timed_out(),
    };
    let (mut said, connect) = (connect.1, connect.0);
    let who = connect.username.as_deref().unwrap_or("nobody").to_owned();
    let Some(mut client) = Client::let_in(&front, &mut line, connect, address, certificate).await else { return };
    app.metrics.mqtt_connections(1);
    let end = client.converse(&mut line, &mut said).await;
    app.metrics.mqtt_connections(-1);
    client.leave(&app, &end).await;
    end.note(&app, &who);
}

/// Why a connection has ended.
#[derive(Debug)]
enum End {
    /// The client said goodbye.
    Goodbye {
        session_expiry_s: Option<u32>,
    },
    /// It went without a word.
    Gone,
    Silent,
    /// It broke the protocol.
    Broken(String),
    /// It was sent away.
    Dismissed(&'static str),
}

impl End {
    const TAKEN_OVER: Self = Self::Dismissed("a newer client has the same name");

    fn note(&self, app: &App, who: &str) {
        match self {
            Self::Goodbye { .. } | Self::Gone => {}
            Self::Silent => app.metrics.connection_timed_out(),
            Self::Broken(what) => {
                app.metrics.mqtt("protocol_error");
                app.mqtt.noise.tell("protocol_error", who, what);
            }
            Self::Dismissed(why) => app.mqtt.noise.tell("dismissed", who, why),
        }
    }
}

/// The stream and the protocol on it.
struct Line<S> {
    stream: S,
    wire: ServerWire,
    write_timeout: Duration,
    /// As of the client's place, once it has one.
    taken_over: Arc<Notify>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// The first packet, and what came with it.
    async fn hear_connect(&mut self) -> Result<(Connect, Vec<FromClient>), End> {
        let mut said = Vec::new();
        loop {
            self.hear(&mut said).await?;
            if !said.is_empty() {
                return match said.remove(0) {
                    FromClient::Connect(connect) => Ok((connect, said)),
                    _ => Err(End::Broken("the first packet is no CONNECT".into())),
                };
            }
        }
    }

    /// Reads some bytes. Cancel-safe: nothing is read and then lost.
    async fn hear(&mut self, said: &mut Vec<FromClient>) -> Result<(), End> {
        // A progress message fits; of this each connection has one.
        let mut bytes = [0; 1_024];
        let read = self.stream.read(&mut bytes).await.map_err(|_| End::Gone)?;
        if read == 0 {
            return Err(End::Gone);
        }
        if let Err(error) = self.wire.receive(&bytes[..read], said) {
            // What the client did before stands; of what it did wrong it is told.
            let _ = self.flush().await;
            return Err(End::Broken(error.to_string()));
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.wire.output().is_empty() {
            return Ok(());
        }
        let output = self.wire.output().split();
        let write = async {
            self.stream.write_all(&output).await?;
            // TLS keeps back what the socket doesn't take at once.
            self.stream.flush().await
        };
        tokio::select! {
            biased;
            written = timeout(self.write_timeout, write) => match written {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(End::Gone),
                Err(_) => Err(End::Silent),
            },
            // In the middle of a packet, where no other can be said.
            () = self.taken_over.notified() => Err(End::TAKEN_OVER),
        }
    }
}

/// A client that was let in.
struct Client {
    front: Arc<Front>,
    pass: Pass,
    place: Place,
    silence_max: Option<Duration>,
    messages: Option<DefaultDirectRateLimiter>,
    role: Role,
}

enum Role {
    Device(Device),
    Consumer { consumer: Box<Consumer>, pages: Option<mpsc::Receiver<EventPage>> },
}

struct Device {
    speaker: Speaker,
    outgoing: mpsc::Receiver<Outgoing>,
    filters: BTreeMap<String, Qos>,
}

impl Client {
    /// Checks who it is, and says so or why not.
    async fn let_in<S: AsyncRead + AsyncWrite + Unpin>(
        front: &Arc<Front>,
        line: &mut Line<S>,
        connect: Connect,
        address: SocketAddr,
        certificate: Option<Arc<ClientCertificate>>,
    ) -> Option<Self> {
        let app = &front.app;
        let principal = match login::log_in(app, &connect, certificate).await {
            Ok(principal) => principal,
            Err(error) => {
                app.metrics.mqtt("login_refused");
                let username = connect.username.as_deref().unwrap_or("nobody");
                app.mqtt.noise.tell("login_refused", &address.to_string(), format_args!("{username} was not let in: {error:?}"));
                if error == LoginError::Credentials {
                    app.guesses.refused(address.ip()).await;
                }
                line.wire.refuse(match error {
                    LoginError::Credentials | LoginError::Stale => Refusal::BadCredentials,
                    LoginError::Forbidden => Refusal::NotAuthorized,
                    LoginError::Unavailable => Refusal::ServerUnavailable,
                });
                let _ = line.flush().await;
                return None;
            }
        };
        let (client_id, assigned) = match &*connect.client_id {
            // Nobody could come back to a session without a name.
            "" if !connect.clean && connect.session_expiry_s > 0 && connect.version == super::wire::ProtocolVersion::V311 => {
                line.wire.refuse(Refusal::ClientIdInvalid);
                let _ = line.flush().await;
                return None;
            }
            "" => (format!("assigned-{:016x}", app.mqtt.links.unique()), true),
            name => (name.to_owned(), false),
        };
        let (role, pass, place, session_present) = match principal {
            Principal::Device { name, pass } => {
                let DeviceName { organization, product_id, device_id } = &name;
                let place = format!("device\0{organization}\0{product_id}\0{device_id}\0{client_id}");
                let (outbox, outgoing) = Outbox::channel(OUTBOX_MESSAGES_MAX);
                let speaker = Speaker { device: name, outbox, silence: None, is_repeated: false };
                let device = Device { speaker, outgoing, filters: BTreeMap::new() };
                (Role::Device(device), pass, Place::take(app, place), false)
            }
            Principal::Consumer(caller) => {
                let pass = Pass::Token(caller.token);
                let mut place = Place::take(app, place_of_consumer(&caller, &client_id));
                place.vacated().await;
                match Consumer::begin(app, caller, &client_id, connect.clean, connect.session_expiry_s).await {
                    Ok((consumer, is_there)) => {
                        (Role::Consumer { consumer: Box::new(consumer), pages: None }, pass, place, is_there)
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a consumer's session could not be begun");
                        line.wire.refuse(Refusal::ServerUnavailable);
                        let _ = line.flush().await;
                        return None;
                    }
                }
            }
        };
        line.taken_over = Arc::clone(&place.taken_over);
        let lasts_max = if matches!(role, Role::Consumer { .. }) { app.config.mqtt.session_expiry } else { Duration::ZERO };
        line.wire.bound_session_expiry(u32::try_from(lasts_max.as_secs()).unwrap_or(u32::MAX));
        line.wire.accept(session_present, assigned.then_some(&*client_id));
        let silence_max = (connect.keep_alive_s > 0).then(|| Duration::from_secs(u64::from(connect.keep_alive_s)) * 3 / 2);
        let messages = app.config.mqtt.messages_per_minute.and_then(NonZeroU32::new);
        let messages = messages.map(|messages| RateLimiter::direct(Quota::per_minute(messages)));
        let mut client = Self { front: Arc::clone(front), pass, place, silence_max, messages, role };
        client.follow_events();
        Some(client)
    }

    /// A consumer that has subscribed to something follows the event log.
    fn follow_events(&mut self) {
        let Role::Consumer { consumer, pages } = &mut self.role else { return };
        if pages.is_some() || consumer.feed.filters().next().is_none() {
            return;
        }
        let events = EventReader::new(&self.front.app.engine, consumer.feed.position().saturating_add(1));
        *pages = Some(events.into_channel());
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(&mut self, line: &mut Line<S>, said: &mut Vec<FromClient>) -> End {
        let front = Arc::clone(&self.front);
        let mut stopped = std::pin::pin!(front.stop.wait());
        let mut heard_at = Instant::now();
        let mut pass_due = heard_at + PASS_CHECK_EVERY;
        loop {
            for message in std::mem::take(said) {
                if let Err(end) = self.take(line, message).await {
                    let _ = line.flush().await;
                    return end;
                }
                // Many small messages come at once, and each may have an answer: more than the outbox holds.
                self.tell_what_waits(line);
            }
            let has_more = match self.tell_events(line) {
                Ok(has_more) => has_more,
                Err(end) => return end,
            };
            if let Err(end) = line.flush().await {
                return end;
            }
            let silent_at = self.silence_max.map(|silence| heard_at + silence);
            let save_due = match &self.role {
                Role::Consumer { consumer, .. } => consumer.save_due().map(Instant::from_std),
                Role::Device(_) => None,
            };
            let due = silent_at.into_iter().chain(save_due).chain([pass_due]).min().unwrap_or(pass_due);
            let vacancy = line.wire.vacancy();
            tokio::select! {
                biased;
                () = &mut stopped => return self.dismiss(line, Farewell::ServerShuttingDown, "the server stops").await,
                () = self.place.taken_over.notified() => {
                    return self.dismiss(line, Farewell::SessionTakenOver, "a newer client has the same name").await;
                }
                heard = line.hear(said) => match heard {
                    Ok(()) => heard_at = Instant::now(),
                    Err(end) => return end,
                },
                next = self.role.next(vacancy) => match next {
                    Some(Next::Message(message)) => {
                        self.tell_device(line, message);
                        self.tell_what_waits(line);
                    }
                    // Looked at after the page was read, so that nothing that happened after a revocation goes out.
                    Some(Next::Events(page)) => match self.unwelcome().await {
                        None => self.take_events(page),
                        Some((farewell, why)) => return self.dismiss(line, farewell, why).await,
                    },
                    None => return self.dismiss(line, Farewell::ServerShuttingDown, "there is nothing to follow any more").await,
                },
                () = std::future::ready(()), if has_more => {}
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            if self.silence_max.is_some_and(|silence| heard_at + silence <= now) {
                let _ = self.dismiss(line, Farewell::KeepAliveTimeout, "it was silent for too long").await;
                return End::Silent;
            }
            if pass_due <= now {
                pass_due = now + PASS_CHECK_EVERY;
                if let Some((farewell, why)) = self.unwelcome().await {
                    return self.dismiss(line, farewell, why).await;
                }
            }
            if let Role::Consumer { consumer, .. } = &mut self.role
                && consumer.save_due().is_some_and(|due| Instant::from_std(due) <= now)
            {
                consumer.save(&front.app).await;
            }
        }
    }

    /// Why it has to go, if it has to.
    async fn unwelcome(&self) -> Option<(Farewell, &'static str)> {
        let app = &self.front.app;
        if !self.pass.still_holds(app).await {
            return Some((Farewell::NotAuthorized, PASS_GONE));
        }
        match &self.role {
            Role::Consumer { consumer, .. } if consumer.is_dropped(app).await => {
                Some((Farewell::AdministrativeAction, "somebody has deleted its session"))
            }
            _ => None,
        }
    }

    async fn dismiss<S: AsyncRead + AsyncWrite + Unpin>(&self, line: &mut Line<S>, farewell: Farewell, why: &'static str) -> End {
        line.wire.disconnect(farewell);
        let _ = line.flush().await;
        match farewell {
            Farewell::ServerShuttingDown => End::Gone,
            _ => End::Dismissed(why),
        }
    }

    /// The connection is over: what hung on it ends.
    async fn leave(self, app: &Arc<App>, end: &End) {
        match self.role {
            Role::Device(device) => {
                if let Some(link) = device.speaker.link(app) {
                    links::close(app, &link);
                }
            }
            Role::Consumer { consumer, .. } => {
                let session_expiry_s = match end {
                    End::Goodbye { session_expiry_s } => *session_expiry_s,
                    _ => None,
                };
                consumer.end(app, session_expiry_s).await;
            }
        }
    }

    async fn take<S: AsyncRead + AsyncWrite + Unpin>(&mut self, line: &mut Line<S>, message: FromClient) -> Result<(), End> {
        match message {
            FromClient::Connect(_) => Err(End::Broken("a second CONNECT".into())),
            FromClient::Publish(publication) => self.take_publication(line, &publication).await,
            FromClient::Acknowledged { packet_id } => {
                if let Role::Consumer { consumer, .. } = &mut self.role {
                    consumer.feed.acknowledged(packet_id);
                }
                Ok(())
            }
            FromClient::Subscribe { packet_id, filters } => {
                // What lasts is written down each time.
                self.slow_down().await?;
                let granted = self.subscribe(&filters).await;
                line.wire.subscribed(packet_id, &granted);
                // What this subscription was waited for is sent after it was granted.
                line.flush().await?;
                self.follow_events();
                if let Role::Device(device) = &self.role {
                    let filters = filters.iter().zip(&granted).filter(|(_, granted)| granted.is_ok());
                    let filters: Vec<&str> = filters.map(|((filter, _), _)| &**filter).collect();
                    let hears = |topic: &str| filters.iter().any(|filter| topics::matches(filter, topic));
                    if let Err(error) = dialect::subscribed(&self.front.app, &device.speaker, hears).await {
                        // It is sent away, lest it wait for what nobody will send; it comes back.
                        self.front.app.mqtt.noise.tell("link_failed", &device.speaker.device.device_id, &error);
                        tokio::time::sleep(LATER_PAUSE).await;
                        return Err(End::Dismissed("nothing could be sent to it now"));
                    }
                }
                Ok(())
            }
            FromClient::Unsubscribe { packet_id, filters } => {
                self.slow_down().await?;
                let found: Vec<bool> = filters
                    .iter()
                    .map(|filter| match &mut self.role {
                        Role::Device(device) => device.filters.remove(filter).is_some(),
                        Role::Consumer { consumer, .. } => consumer.feed.unsubscribe(filter),
                    })
                    .collect();
                if let Role::Consumer { consumer, .. } = &mut self.role
                    && let Err(error) = consumer.keep(&self.front.app).await
                {
                    tracing::warn!(%error, "a consumer's subscriptions could not be written down");
                }
                line.wire.unsubscribed(packet_id, &found);
                Ok(())
            }
            FromClient::Disconnect { session_expiry_s } => Err(End::Goodbye { session_expiry_s }),
        }
    }

    async fn take_publication<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        line: &mut Line<S>,
        publication: &Publication,
    ) -> Result<(), End> {
        let app = Arc::clone(&self.front.app);
        self.slow_down().await?;
        if !self.pass.still_holds(&app).await {
            line.wire.disconnect(Farewell::NotAuthorized);
            return Err(End::Dismissed(PASS_GONE));
        }
        let receipt = match &self.role {
            _ if publication.topic.len() > topics::TOPIC_BYTES_MAX => Receipt::Foreign,
            Role::Consumer { .. } => Receipt::Foreign,
            Role::Device(device) => dialect::receive(&app, &device.speaker, &publication.topic, &publication.payload).await,
        };
        let who = match &self.role {
            Role::Device(device) => Arc::clone(&device.speaker.device.device_id),
            Role::Consumer { consumer, .. } => Arc::clone(&consumer.caller.organization),
        };
        receipt.note(&app, &who, &publication.topic);
        line.wire.acknowledge(
            publication,
            match receipt {
                Receipt::Taken | Receipt::Ignored | Receipt::Stale => Acknowledgement::Taken,
                Receipt::Malformed(_) | Receipt::UnknownMethod(_) | Receipt::Refused(_) => Acknowledgement::PayloadInvalid,
                Receipt::Foreign => Acknowledgement::NotAuthorized,
                Receipt::Later(_) => {
                    // Not acknowledged, so that it comes again with the next connection; not at once, for the sake of everybody else.
                    tokio::time::sleep(LATER_PAUSE).await;
                    return Err(End::Dismissed("what it said can't be written now"));
                }
            },
        );
        Ok(())
    }

    /// Whoever says more than may be said in a minute waits before it is heard again.
    async fn slow_down(&self) -> Result<(), End> {
        let Some(messages) = &self.messages else { return Ok(()) };
        let mut is_first = true;
        while let Err(too_early) = messages.check() {
            if std::mem::take(&mut is_first) {
                self.front.app.metrics.mqtt("slowed_down");
            }
            tokio::select! {
                () = tokio::time::sleep(too_early.wait_time_from(DefaultClock::default().now())) => {}
                () = self.place.taken_over.notified() => return Err(End::TAKEN_OVER),
            }
        }
        Ok(())
    }

    async fn subscribe(&mut self, filters: &[(String, Qos)]) -> Vec<Result<Qos, SubscribeRefusal>> {
        let app = Arc::clone(&self.front.app);
        if let Role::Consumer { consumer, pages: None } = &mut self.role {
            consumer.feed.begin_after(*app.engine.event_sequence().borrow());
        }
        let mut granted = Vec::with_capacity(filters.len());
        for (filter, qos) in filters {
            let result = self.grant(filter, *qos);
            if let Err(refusal) = result {
                app.metrics.mqtt("subscription_refused");
                app.mqtt.noise.tell(
                    "subscription_refused",
                    &self.name(),
                    format_args!("{filter} may not be subscribed to: {refusal:?}"),
                );
            }
            granted.push(result);
        }
        if let Role::Consumer { consumer, .. } = &mut self.role
            && granted.iter().any(Result::is_ok)
            && let Err(error) = consumer.keep(&app).await
        {
            app.mqtt.noise.tell("session_refused", &consumer.caller.organization, &error);
            let refusal = match error {
                Error::LimitReached { .. } => SubscribeRefusal::QuotaExceeded,
                _ => SubscribeRefusal::NotAuthorized,
            };
            for (result, (filter, _)) in granted.iter_mut().zip(filters) {
                if result.is_ok() {
                    consumer.feed.unsubscribe(filter);
                    *result = Err(refusal);
                }
            }
        }
        granted
    }

    fn grant(&mut self, filter: &str, qos: Qos) -> Result<Qos, SubscribeRefusal> {
        if filter.starts_with("$share/") {
            return Err(SubscribeRefusal::SharedNotSupported);
        }
        if !topics::is_filter(filter) {
            return Err(SubscribeRefusal::FilterInvalid);
        }
        let qos = qos.min(Qos::AtLeastOnce);
        let publishes = self.front.app.config.mqtt.events;
        let (may, is_there, count) = match &self.role {
            Role::Device(Device { speaker, filters, .. }) => {
                (topics::device_may_read(&speaker.device, filter), filters.contains_key(filter), filters.len())
            }
            Role::Consumer { consumer, .. } => {
                let is_there = consumer.feed.filters().any(|(there, _)| there == filter);
                (publishes && topics::consumer_may_read(&consumer.caller, filter), is_there, consumer.feed.filters().count())
            }
        };
        if !may {
            return Err(SubscribeRefusal::NotAuthorized);
        }
        // Whoever comes back says what it has subscribed to once more.
        if !is_there && count >= FILTERS_MAX {
            return Err(SubscribeRefusal::QuotaExceeded);
        }
        match &mut self.role {
            Role::Device(device) => drop(device.filters.insert(filter.to_owned(), qos)),
            Role::Consumer { consumer, .. } => consumer.feed.subscribe(filter, qos),
        }
        Ok(qos)
    }

    fn name(&self) -> Arc<str> {
        match &self.role {
            Role::Device(device) => Arc::clone(&device.speaker.device.device_id),
            Role::Consumer { consumer, .. } => Arc::clone(&consumer.caller.organization),
        }
    }

    /// Publishes what waits for the device, as far as it takes more.
    fn tell_what_waits<S>(&mut self, line: &mut Line<S>) {
        while line.wire.vacancy() > 0 {
            let Role::Device(device) = &mut self.role else { return };
            let Ok(message) = device.outgoing.try_recv() else { return };
            self.tell_device(line, message);
        }
    }

    /// Publishes a message to the device, if it has subscribed to it.
    fn tell_device<S>(&self, line: &mut Line<S>, message: Outgoing) {
        let Role::Device(device) = &self.role else { return };
        let matching = device.filters.iter().filter(|(filter, _)| topics::matches(filter, &message.topic));
        let outcome = match matching.map(|(_, qos)| *qos).max() {
            None => "not_subscribed",
            Some(qos) => match line.wire.publish(&message.topic, message.payload, qos.min(message.qos)) {
                Ok(_) => "told",
                // It is sent again, or was a reply that nobody waits for.
                Err(_) => "not_taken",
            },
        };
        self.front.app.metrics.mqtt(outcome);
    }

    fn take_events(&mut self, page: EventPage) {
        if let Role::Consumer { consumer, .. } = &mut self.role {
            consumer.feed.take(page);
        }
    }

    /// Publishes events for as long as the consumer takes more. Says whether it takes still more than was written at once.
    fn tell_events<S>(&mut self, line: &mut Line<S>) -> Result<bool, End> {
        let Role::Consumer { consumer, .. } = &mut self.role else { return Ok(false) };
        // Bounded, so that one page doesn't become one write of megabytes.
        const OUTPUT_BYTES_MAX: usize = 256 << 10;
        while line.wire.vacancy() > 0 && consumer.feed.has_room() {
            if line.wire.output().len() >= OUTPUT_BYTES_MAX {
                return Ok(!consumer.feed.wants_events());
            }
            let Some(Due { topic, event, qos }) = consumer.feed.next() else { return Ok(false) };
            let outcome = match line.wire.publish(&topic, dialect::native::event_json(&event), qos) {
                Ok(packet_id) => {
                    packet_id.into_iter().for_each(|packet_id| consumer.feed.sent(packet_id, event.sequence));
                    "event_sent"
                }
                Err(PublishError::TooLarge) => "event_too_large",
                Err(error) => return Err(End::Broken(error.to_string())),
            };
            self.front.app.metrics.mqtt(outcome);
        }
        Ok(false)
    }
}

/// What a client is to be told.
enum Next {
    Message(Outgoing),
    Events(EventPage),
}

impl Role {
    /// Cancel-safe. `None` where nothing will come any more. `vacancy`: how many publications the client takes; what it doesn't stays
    /// where it is.
    async fn next(&mut self, vacancy: usize) -> Option<Next> {
        match self {
            Self::Device(_) if vacancy == 0 => std::future::pending().await,
            Self::Device(device) => device.outgoing.recv().await.map(Next::Message),
            Self::Consumer { consumer, pages: Some(pages) } if consumer.feed.wants_events() => pages.recv().await.map(Next::Events),
            Self::Consumer { .. } => std::future::pending().await,
        }
    }
}
