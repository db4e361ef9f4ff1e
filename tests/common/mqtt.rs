//! A small blocking MQTT client, for either protocol version.
//!
//! It reads only when something is waited for. What else comes meanwhile is kept for whoever asks for it later.

use bytes::Bytes;
use sluicegate_server::mqtt::wire::{
    Acknowledgement, ClientWire, ConnectOptions, Delivery, FromServer, ProtocolVersion, Publication, Qos, WireLimits,
};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const LIMITS: WireLimits = WireLimits { packet_bytes_max: 16 * 1024 * 1024, receive_max: 1024 };

/// Who connects. Unless said otherwise: MQTT 5.0, no credentials, a session that begins and ends with the connection.
#[must_use]
#[derive(Clone, Debug)]
pub(crate) struct MqttOptions(ConnectOptions, WireLimits);

impl MqttOptions {
    pub(crate) fn new(client_id: &str) -> Self {
        let options = ConnectOptions {
            version: ProtocolVersion::V5,
            client_id: client_id.to_owned(),
            clean: true,
            keep_alive_s: 0,
            username: None,
            password: None,
            session_expiry_s: 0,
            will: None,
        };
        Self(options, LIMITS)
    }

    pub(crate) fn version(mut self, version: ProtocolVersion) -> Self {
        self.0.version = version;
        self
    }

    pub(crate) fn credentials(mut self, username: &str, password: &str) -> Self {
        self.0.username = Some(username.to_owned());
        self.0.password = Some(password.as_bytes().to_vec());
        self
    }

    /// Takes an earlier session up, and leaves one behind for this long. In 3.1.1 it lasts for ever.
    pub(crate) fn session(mut self, expiry_s: u32) -> Self {
        self.0.clean = false;
        self.0.session_expiry_s = expiry_s;
        self
    }

    /// How many publications are taken unacknowledged; 3.1.1 can't say it.
    pub(crate) fn receive_max(mut self, receive_max: u16) -> Self {
        self.1.receive_max = receive_max;
        self
    }

    pub(crate) fn keep_alive_s(mut self, keep_alive_s: u16) -> Self {
        self.0.keep_alive_s = keep_alive_s;
        self
    }
}

/// A connection. Dropped, it ends without a word, as that of a device that lost its network.
#[derive(Debug)]
pub(crate) struct MqttClient {
    stream: TcpStream,
    wire: ClientWire,
    said: VecDeque<FromServer>,
    session_present: bool,
    /// What was acknowledged, here and on the connections before this one. Whether the other side has written that down is not known.
    heard: Vec<(String, Bytes)>,
    /// Why there is nothing more to come.
    closed: Option<String>,
}

impl MqttClient {
    /// The error says why the server refused, or how the connection failed.
    pub(crate) fn connect(address: &str, options: &MqttOptions) -> Result<Self, String> {
        let stream = TcpStream::connect(address).map_err(|error| format!("connecting to {address}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        let mut wire = ClientWire::new(options.0.version, options.1);
        wire.connect(&options.0).map_err(|error| error.to_string())?;
        let mut client = Self { stream, wire, said: VecDeque::new(), session_present: false, heard: Vec::new(), closed: None };
        client.send();
        let answer = client.wait(PATIENCE, |said| match said {
            FromServer::Connected { session_present, .. } => Some(Ok(*session_present)),
            FromServer::Refused { reason, .. } => Some(Err(reason.clone())),
            _ => None,
        });
        client.session_present = answer.unwrap_or_else(|| Err(client.why_nothing_came("CONNACK")))?;
        Ok(client)
    }

    /// A new connection of the same client, as after this one broke. What it acknowledged before and is sent once more, marked as a
    /// repetition, is acknowledged again and not handed out: that much at least once asks of any client.
    pub(crate) fn connect_again(&mut self, address: &str, options: &MqttOptions) -> Result<(), String> {
        let again = Self::connect(address, options)?;
        let before = std::mem::replace(self, again);
        self.heard = before.heard;
        Ok(())
    }

    /// Whether the server had a session of an earlier connection.
    pub(crate) fn session_present(&self) -> bool {
        self.session_present
    }

    /// What was granted; `None`: refused.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, filter: &str, qos: Qos) -> Option<Qos> {
        let asked = self.wire.subscribe(&[(filter, qos)]).unwrap_or_else(|error| panic!("subscribing to {filter}: {error}"));
        self.send();
        self.expect(&format!("SUBACK for {filter}"), |said| match said {
            FromServer::Subscribed { packet_id, granted } if *packet_id == asked => Some(granted.first().copied().flatten()),
            _ => None,
        })
    }

    #[track_caller]
    pub(crate) fn unsubscribe(&mut self, filter: &str) {
        let asked = self.wire.unsubscribe(&[filter]).unwrap_or_else(|error| panic!("unsubscribing from {filter}: {error}"));
        self.send();
        self.expect(&format!("UNSUBACK for {filter}"), |said| match said {
            FromServer::Unsubscribed { packet_id } => (*packet_id == asked).then_some(()),
            _ => None,
        });
    }

    /// Waits for the acknowledgement, where `qos` has one. Whether it was refused.
    #[track_caller]
    pub(crate) fn publish(&mut self, topic: &str, payload: impl Into<Bytes>, qos: Qos) -> bool {
        let Some(published) = self.publish_unconfirmed(topic, payload, qos) else {
            return false;
        };
        self.expect(&format!("the acknowledgement of a publication to {topic}"), |said| match said {
            FromServer::Acknowledged { packet_id, delivery } if *packet_id == published => Some(*delivery != Delivery::Taken),
            _ => None,
        })
    }

    /// Its packet id, where `qos` has one.
    #[track_caller]
    pub(crate) fn publish_unconfirmed(&mut self, topic: &str, payload: impl Into<Bytes>, qos: Qos) -> Option<u16> {
        let packet_id =
            self.wire.publish(topic, payload.into(), qos).unwrap_or_else(|error| panic!("publishing to {topic}: {error}"));
        self.send();
        packet_id
    }

    /// The next publication; acknowledged.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Publication {
        let publication = self.receive_without_acknowledging();
        self.acknowledge(&publication);
        publication
    }

    #[track_caller]
    pub(crate) fn receive_without_acknowledging(&mut self) -> Publication {
        loop {
            let publication = self.expect("a publication", publication);
            if self.is_news(&publication) {
                return publication;
            }
        }
    }

    /// Otherwise it is acknowledged already.
    fn is_news(&mut self, publication: &Publication) -> bool {
        let is_heard = |(topic, payload): &(String, Bytes)| *topic == *publication.topic && *payload == publication.payload;
        if publication.duplicate && self.heard.iter().any(is_heard) {
            self.acknowledge(publication);
            return false;
        }
        true
    }

    pub(crate) fn acknowledge(&mut self, publication: &Publication) {
        self.heard.push((publication.topic.to_string(), publication.payload.clone()));
        self.wire.acknowledge(publication, Acknowledgement::Taken);
        self.send();
    }

    /// The next publication, acknowledged, if one comes in time.
    pub(crate) fn try_receive_for(&mut self, time: Duration) -> Option<Publication> {
        loop {
            let publication = self.wait(time, publication)?;
            if self.is_news(&publication) {
                self.acknowledge(&publication);
                return Some(publication);
            }
        }
    }

    /// Waits for the answer.
    #[track_caller]
    pub(crate) fn ping(&mut self) {
        self.wire.ping();
        self.send();
        self.expect("PINGRESP", |said| matches!(said, FromServer::Pong).then_some(()));
    }

    /// Whether the server closed the connection by now.
    pub(crate) fn is_closed_by_server(&mut self) -> bool {
        let _ = self.wait(Duration::from_millis(1), |_| None::<()>);
        self.closed.is_some()
    }

    /// What a 5.0 server said before it closed the connection. Waits until it is closed.
    #[track_caller]
    pub(crate) fn farewell(&mut self) -> Option<String> {
        let reason = self.wait(PATIENCE, |said| match said {
            FromServer::Disconnected { reason } => Some(reason.clone()),
            _ => None,
        });
        assert!(reason.is_some() || self.closed.is_some(), "waited {} s in vain for the server to close", PATIENCE.as_secs());
        reason
    }

    /// Takes leave, so that nothing is left of a session that was not to last.
    pub(crate) fn disconnect(mut self) {
        self.wire.disconnect();
        self.send();
    }

    /// Takes leave in 5.0 with another word on how long the session is to be kept.
    pub(crate) fn disconnect_with_expiry(mut self, expiry_s: u32) {
        // DISCONNECT, normal, with one property: the session expiry interval.
        let packet = [&[0xe0, 7, 0, 5, 0x11][..], &expiry_s.to_be_bytes()].concat();
        let _ = self.stream.write_all(&packet);
    }

    #[track_caller]
    fn expect<T>(&mut self, what: &str, pick: impl Fn(&FromServer) -> Option<T>) -> T {
        match self.wait(PATIENCE, pick) {
            Some(found) => found,
            None => panic!("{}", self.why_nothing_came(what)),
        }
    }

    fn why_nothing_came(&self, what: &str) -> String {
        let why = match &self.closed {
            Some(why) => why.clone(),
            None => format!("nothing within {} s", PATIENCE.as_secs()),
        };
        format!("{what} was to come, but: {why}; kept for later: {:?}", self.said)
    }

    /// Takes the first of what was said that `pick` picks. `None`: it didn't come in time, or can't come any more.
    fn wait<T>(&mut self, time: Duration, pick: impl Fn(&FromServer) -> Option<T>) -> Option<T> {
        let until = Instant::now() + time;
        loop {
            let found = self.said.iter().enumerate().find_map(|(at, said)| Some((at, pick(said)?)));
            if let Some((at, found)) = found {
                self.said.remove(at);
                return Some(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if self.closed.is_some() || left.is_zero() {
                return None;
            }
            self.read(left);
        }
    }

    fn read(&mut self, time: Duration) {
        // A time of 0 would mean for ever.
        let _ = self.stream.set_read_timeout(Some(time.max(Duration::from_millis(1))));
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.closed = Some("the server closed the connection".to_owned()),
            Ok(length) => {
                let mut said = Vec::new();
                if let Err(error) = self.wire.receive(&buffer[..length], &mut said) {
                    self.closed = Some(error.to_string());
                }
                self.said.extend(said);
                self.send();
            }
            Err(error) if is_timeout(&error) => {}
            Err(error) => self.closed = Some(format!("reading from the server: {error}")),
        }
    }

    /// A server that is gone is noticed when something is waited for.
    fn send(&mut self) {
        let _ = self.stream.write_all(&self.wire.output().split());
    }
}

fn publication(said: &FromServer) -> Option<Publication> {
    match said {
        FromServer::Publish(publication) => Some(publication.clone()),
        _ => None,
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// The client itself, against a server of a few lines that sends each publication back to whoever published it.
mod tests {
    use super::{LIMITS, MqttClient, MqttOptions};
    use sluicegate_server::mqtt::wire::{
        Acknowledgement, Farewell, FromClient, ProtocolVersion, Qos, Refusal, ServerWire, SubscribeRefusal,
    };
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    fn echo(mut stream: TcpStream) {
        let mut wire = ServerWire::new(LIMITS);
        let (mut buffer, mut said) = ([0; 1024], Vec::new());
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            wire.receive(&buffer[..length], &mut said).unwrap();
            let mut is_over = false;
            for said in said.drain(..) {
                match said {
                    FromClient::Connect(connect) if connect.username.as_deref() == Some("stranger") => {
                        wire.refuse(Refusal::BadCredentials);
                    }
                    FromClient::Connect(connect) => wire.accept(!connect.clean, None),
                    FromClient::Subscribe { packet_id, filters } if filters[0].0 == "forbidden" => {
                        wire.subscribed(packet_id, &[Err(SubscribeRefusal::NotAuthorized)]);
                    }
                    FromClient::Subscribe { packet_id, filters } => wire.subscribed(packet_id, &[Ok(filters[0].1)]),
                    FromClient::Unsubscribe { packet_id, .. } => wire.unsubscribed(packet_id, &[true]),
                    FromClient::Publish(publication) if publication.topic == "forbidden" => {
                        wire.acknowledge(&publication, Acknowledgement::NotAuthorized);
                    }
                    FromClient::Publish(publication) if publication.topic == "end" => {
                        wire.disconnect(Farewell::ServerShuttingDown);
                        is_over = true;
                    }
                    FromClient::Publish(publication) => {
                        wire.publish(&publication.topic, publication.payload.clone(), publication.qos).unwrap();
                        wire.acknowledge(&publication, Acknowledgement::Taken);
                    }
                    FromClient::Acknowledged { .. } | FromClient::Disconnect { .. } => {}
                }
            }
            stream.write_all(&wire.output().split()).unwrap();
            if is_over {
                return;
            }
        }
    }

    fn server() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || listener.incoming().flatten().for_each(echo));
        address
    }

    #[test]
    fn the_mqtt_client_hears_what_it_waits_for_whatever_comes_before() {
        let address = server();
        for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
            let options = MqttOptions::new("one").version(version).session(60).keep_alive_s(60);
            let mut client = MqttClient::connect(&address, &options).unwrap();
            assert!(client.session_present());
            assert_eq!(client.subscribe("a/#", Qos::AtLeastOnce), Some(Qos::AtLeastOnce));
            assert_eq!(client.subscribe("forbidden", Qos::AtLeastOnce), None);
            for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
                assert!(!client.publish("a/b", "{}", qos));
            }
            assert_eq!(client.publish("forbidden", "{}", Qos::AtLeastOnce), version == ProtocolVersion::V5);
            client.ping();
            client.unsubscribe("a/#");
            assert_eq!(client.receive().qos, Qos::AtMostOnce);
            assert_eq!(client.receive().payload, "{}");
            assert!(client.try_receive_for(Duration::from_secs(30)).is_some());
            assert!(client.try_receive_for(Duration::from_millis(1)).is_none());
            assert!(!client.is_closed_by_server());
            client.publish_unconfirmed("end", "", Qos::AtMostOnce);
            let farewell = client.farewell();
            assert_eq!(farewell.is_some_and(|reason| reason.starts_with("ServerShuttingDown")), version == ProtocolVersion::V5);
            client.disconnect();
        }
    }

    #[test]
    fn a_refusal_is_an_error_of_the_mqtt_client_and_nothing_more() {
        let options = MqttOptions::new("two").credentials("stranger", "secret");
        let refusal = MqttClient::connect(&server(), &options).unwrap_err();
        assert!(refusal.starts_with("BadUserNameOrPassword"), "{refusal}");
    }
}
