//! The server's end: a device, or any other client, connects to us.
//!
//! Life cycle: 1. the client's CONNECT is handed out; 2. the caller [accepts](ServerWire::accept) or [refuses](ServerWire::refuse) it;
//! 3. publications and subscriptions; 4. the client's DISCONNECT, our [farewell](ServerWire::disconnect), or an error.
//!
//! A client may go on talking before it is accepted. What it says then is handed out behind its CONNECT, and answers wait until the
//! CONNACK is written; the caller should call `receive` again only when it has decided.

use super::exchange::Exchange;
use super::frames::{Frames, parse};
use super::{Acknowledgement, Delivery, ProtocolVersion, Publication, PublishError, Qos, WireError, WireLimits};
use bytes::{Bytes, BytesMut};
use mqtt_protocol_core::mqtt::connection::RawPacket;
use mqtt_protocol_core::mqtt::packet::{
    AssignedClientIdentifier, MaximumPacketSize, PacketType, Property, ReceiveMaximum, RetainAvailable, SessionExpiryInterval,
    SharedSubscriptionAvailable, SubscriptionIdentifierAvailable, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, SubackReasonCode, SubackReturnCode, UnsubackReasonCode,
};
use std::fmt;

/// Before a client has connected, its packets have at most this size: 64 KiB are beyond any name and password, and are all that a
/// stranger can make us reserve.
const CONNECT_BYTES_MAX: u32 = 64 * 1024;
/// A client that takes only smaller packets can't be told that it is connected.
const CLIENT_PACKET_BYTES_MIN: u32 = 64;

/// A client's wish to connect.
///
/// Its will message, if it has one, is read and forgotten: nothing is published for a client that vanishes.
/// A password without a name, which 5.0 would allow, is refused: the library can't read it.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    pub version: ProtocolVersion,
    /// May be empty: then the server is to choose one. A 3.1.1 client without `clean` and without an id is to be refused
    /// ([`Refusal::ClientIdInvalid`]).
    pub client_id: String,
    /// Whether an earlier session is to be forgotten.
    pub clean: bool,
    /// 0: the client may be silent for ever.
    pub keep_alive_s: u16,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
    /// How long the session outlives the connection; `u32::MAX`: for ever. In 3.1.1 either not at all (`clean`) or for ever.
    pub session_expiry_s: u32,
    /// How many publications of QoS 1 the client takes unacknowledged.
    pub receive_max: u16,
}

/// Without the password.
impl fmt::Debug for Connect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connect")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("clean", &self.clean)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("username", &self.username)
            .field("session_expiry_s", &self.session_expiry_s)
            .field("receive_max", &self.receive_max)
            .finish_non_exhaustive()
    }
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// Always the first, and once.
    Connect(Connect),
    /// To be [acknowledged](ServerWire::acknowledge).
    Publish(Publication),
    /// The client has, or has refused, what was published with this id.
    Acknowledged { packet_id: u16 },
    /// To be answered by [`ServerWire::subscribed`]. The filters aren't empty; whether they are well formed is up to the caller.
    Subscribe { packet_id: u16, filters: Vec<(String, Qos)> },
    /// To be answered by [`ServerWire::unsubscribed`].
    Unsubscribe { packet_id: u16, filters: Vec<String> },
    /// Always the last. `session_expiry_s` replaces what CONNECT said.
    Disconnect { session_expiry_s: Option<u32> },
}

/// Why a client isn't accepted. 3.1.1 has fewer words; the nearest is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    BadCredentials,
    NotAuthorized,
    ClientIdInvalid,
    ServerBusy,
    ServerUnavailable,
    QuotaExceeded,
    UnsupportedVersion,
}

/// Why a filter isn't subscribed to. 3.1.1 only knows that it isn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscribeRefusal {
    NotAuthorized,
    FilterInvalid,
    SharedNotSupported,
    QuotaExceeded,
}

/// Why the server ends the connection. 3.1.1 doesn't say; there the connection is just closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    ServerShuttingDown,
    SessionTakenOver,
    NotAuthorized,
    KeepAliveTimeout,
    QuotaExceeded,
    ProtocolError,
    AdministrativeAction,
}

/// One client's connection, from our side.
#[derive(Debug)]
pub struct ServerWire {
    frames: Frames,
    limits: WireLimits,
    phase: Phase,
    exchange: Exchange,
    /// As of CONNECT: DISCONNECT can't make a session last that wasn't to.
    session_expiry_s: u32,
    /// What the client is told of it, where it isn't what it asked for.
    session_expiry_s_told: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing came yet, or not all of CONNECT.
    Unknown,
    /// CONNECT was handed out.
    Asking,
    Connected,
    /// Nothing is listened to any more.
    Ended,
}

impl ServerWire {
    #[must_use]
    pub fn new(limits: WireLimits) -> Self {
        Self {
            frames: Frames::new(limits.packet_bytes_max.min(CONNECT_BYTES_MAX)),
            limits,
            phase: Phase::Unknown,
            exchange: Exchange::new(ProtocolVersion::V311, limits),
            session_expiry_s: 0,
            session_expiry_s_told: None,
        }
    }

    /// Bytes as they came, in any slicing; what they mean is appended to `said`. After an error the connection is to be closed, once
    /// what is in `output` was sent: it may hold a last packet that tells the client why. What was said before the error counts.
    pub fn receive(&mut self, mut bytes: &[u8], said: &mut Vec<FromClient>) -> Result<(), WireError> {
        while self.phase != Phase::Ended {
            match self.receive_one(&mut bytes, said) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.end_because_of(&error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Whether there was a whole packet.
    fn receive_one(&mut self, bytes: &mut &[u8], said: &mut Vec<FromClient>) -> Result<bool, WireError> {
        let Some((kind, packet)) = self.frames.next(bytes)? else {
            return Ok(false);
        };
        match kind {
            PacketType::Connect if self.phase == Phase::Unknown => said.push(FromClient::Connect(self.take_connect(&packet)?)),
            PacketType::Connect => return Err(WireError::Violation("a second CONNECT")),
            _ if self.phase == Phase::Unknown => return Err(WireError::Violation("a packet before CONNECT")),
            PacketType::Publish => said.extend(self.exchange.take_publish(packet)?.map(FromClient::Publish)),
            PacketType::Puback => said.extend(acknowledged(self.exchange.take_puback(&packet)?)),
            PacketType::Pubrec => said.extend(acknowledged(self.exchange.take_pubrec(&packet)?)),
            PacketType::Pubcomp => said.extend(acknowledged(self.exchange.take_pubcomp(&packet)?)),
            PacketType::Pubrel => self.exchange.take_pubrel(&packet)?,
            PacketType::Subscribe => said.push(self.take_subscribe(&packet)?),
            PacketType::Unsubscribe => said.push(self.take_unsubscribe(&packet)?),
            PacketType::Pingreq => self.take_pingreq(&packet)?,
            PacketType::Disconnect => said.push(self.take_disconnect(&packet)?),
            PacketType::Auth => return Err(WireError::Violation("AUTH without enhanced authentication")),
            PacketType::Connack | PacketType::Suback | PacketType::Unsuback | PacketType::Pingresp => {
                return Err(WireError::Violation("a packet that only servers send"));
            }
        }
        Ok(true)
    }

    fn take_connect(&mut self, packet: &RawPacket) -> Result<Connect, WireError> {
        let connect = self.read_connect(packet).inspect_err(|error| self.reject(error))?;
        self.session_expiry_s = connect.session_expiry_s;
        self.phase = Phase::Asking;
        self.exchange.hold();
        self.frames.set_packet_bytes_max(self.limits.packet_bytes_max);
        Ok(connect)
    }

    fn read_connect(&mut self, packet: &RawPacket) -> Result<Connect, WireError> {
        let version = version_of(packet.data_as_slice())?;
        self.exchange.version = version;
        check_connect_flags(packet.data_as_slice())?;
        match version {
            ProtocolVersion::V311 => {
                let connect = parse("CONNECT", packet, v3_1_1::Connect::parse)?;
                Ok(Connect {
                    version,
                    client_id: text("CONNECT", connect.client_id())?,
                    clean: connect.clean_session(),
                    keep_alive_s: connect.keep_alive(),
                    username: connect.user_name().map(|name| text("CONNECT", name)).transpose()?,
                    password: connect.password().map(<[u8]>::to_vec),
                    session_expiry_s: if connect.clean_session() { 0 } else { u32::MAX },
                    receive_max: u16::MAX,
                })
            }
            ProtocolVersion::V5 => {
                let connect = parse("CONNECT", packet, v5_0::Connect::parse)?;
                let (mut session_expiry_s, mut receive_max, mut packet_bytes_max) = (0, u16::MAX, u32::MAX);
                for property in connect.props() {
                    match property {
                        Property::SessionExpiryInterval(seconds) => session_expiry_s = seconds.val(),
                        Property::ReceiveMaximum(maximum) => receive_max = maximum.val(),
                        Property::MaximumPacketSize(maximum) => packet_bytes_max = maximum.val(),
                        Property::AuthenticationMethod(_) => return Err(WireError::UnsupportedAuthentication),
                        _ => {}
                    }
                }
                if packet_bytes_max < CLIENT_PACKET_BYTES_MIN {
                    return Err(WireError::Violation("a maximum packet size in which no answer fits"));
                }
                self.exchange.peer_packet_bytes_max = packet_bytes_max;
                self.exchange.peer_receive_max = receive_max;
                Ok(Connect {
                    version,
                    client_id: text("CONNECT", connect.client_id())?,
                    clean: connect.clean_start(),
                    keep_alive_s: connect.keep_alive(),
                    username: connect.user_name().map(|name| text("CONNECT", name)).transpose()?,
                    password: connect.password().map(<[u8]>::to_vec),
                    session_expiry_s,
                    receive_max,
                })
            }
        }
    }

    /// Says what was wrong with CONNECT, as far as the client can be expected to understand.
    fn reject(&mut self, error: &WireError) {
        match (error, self.exchange.version) {
            // MQTT 3.1.1, 3.1.2.2: an unknown level is answered by this code. Whatever the client speaks, this form is the oldest.
            (WireError::UnsupportedVersion(_), _) => {
                self.exchange.version = ProtocolVersion::V311;
                self.write_refusal(ConnectReturnCode::UnacceptableProtocolVersion, ConnectReasonCode::UnsupportedProtocolVersion);
            }
            (_, ProtocolVersion::V311) => {}
            (WireError::UnsupportedAuthentication, _) => {
                self.write_refusal(ConnectReturnCode::NotAuthorized, ConnectReasonCode::BadAuthenticationMethod);
            }
            (WireError::Malformed(_), _) => {
                self.write_refusal(ConnectReturnCode::NotAuthorized, ConnectReasonCode::MalformedPacket);
            }
            _ => self.write_refusal(ConnectReturnCode::NotAuthorized, ConnectReasonCode::ProtocolError),
        }
    }

    fn take_subscribe(&self, packet: &RawPacket) -> Result<FromClient, WireError> {
        let (packet_id, entries) = match self.exchange.version {
            ProtocolVersion::V311 => {
                let subscribe = parse("SUBSCRIBE", packet, v3_1_1::Subscribe::parse)?;
                // The library takes the options of 5.0 here too.
                if subscribe.entries().iter().any(|entry| entry.sub_opts().to_buffer()[0] & !0b11 != 0) {
                    return Err(WireError::Malformed("SUBSCRIBE"));
                }
                (subscribe.packet_id(), subscribe.entries().clone())
            }
            ProtocolVersion::V5 => {
                let subscribe = parse("SUBSCRIBE", packet, v5_0::Subscribe::parse)?;
                if subscribe.props().iter().any(|property| matches!(property, Property::SubscriptionIdentifier(_))) {
                    return Err(WireError::SubscriptionIdentifier);
                }
                (subscribe.packet_id(), subscribe.entries().clone())
            }
        };
        let filters = entries
            .iter()
            .map(|entry| Ok((filter("SUBSCRIBE", entry.topic_filter())?, entry.sub_opts().qos().into())))
            .collect::<Result<_, WireError>>()?;
        Ok(FromClient::Subscribe { packet_id: answerable(packet_id)?, filters })
    }

    fn take_unsubscribe(&self, packet: &RawPacket) -> Result<FromClient, WireError> {
        let (packet_id, entries) = match self.exchange.version {
            ProtocolVersion::V311 => {
                let unsubscribe = parse("UNSUBSCRIBE", packet, v3_1_1::Unsubscribe::parse)?;
                (unsubscribe.packet_id(), unsubscribe.entries().clone())
            }
            ProtocolVersion::V5 => {
                let unsubscribe = parse("UNSUBSCRIBE", packet, v5_0::Unsubscribe::parse)?;
                (unsubscribe.packet_id(), unsubscribe.entries().clone())
            }
        };
        let filters = entries.iter().map(|entry| filter("UNSUBSCRIBE", entry.as_str())).collect::<Result<_, _>>()?;
        Ok(FromClient::Unsubscribe { packet_id: answerable(packet_id)?, filters })
    }

    fn take_pingreq(&mut self, packet: &RawPacket) -> Result<(), WireError> {
        match self.exchange.version {
            ProtocolVersion::V311 => {
                parse("PINGREQ", packet, v3_1_1::Pingreq::parse)?;
                self.exchange.write(v3_1_1::Pingresp::builder().build());
            }
            ProtocolVersion::V5 => {
                parse("PINGREQ", packet, v5_0::Pingreq::parse)?;
                self.exchange.write(v5_0::Pingresp::builder().build());
            }
        }
        Ok(())
    }

    fn take_disconnect(&mut self, packet: &RawPacket) -> Result<FromClient, WireError> {
        let session_expiry_s = match self.exchange.version {
            ProtocolVersion::V311 => {
                parse("DISCONNECT", packet, v3_1_1::Disconnect::parse)?;
                None
            }
            ProtocolVersion::V5 => {
                let disconnect = parse("DISCONNECT", packet, v5_0::Disconnect::parse)?;
                disconnect.props().iter().flatten().find_map(|property| match property {
                    Property::SessionExpiryInterval(seconds) => Some(seconds.val()),
                    _ => None,
                })
            }
        };
        // MQTT 5.0, 3.14.2.2.2.
        if self.session_expiry_s == 0 && session_expiry_s.is_some_and(|seconds| seconds != 0) {
            return Err(WireError::Violation("DISCONNECT makes a session last that wasn't to"));
        }
        self.phase = Phase::Ended;
        Ok(FromClient::Disconnect { session_expiry_s })
    }

    fn end_because_of(&mut self, error: &WireError) {
        if self.phase == Phase::Connected {
            self.write_disconnect(error.reason());
        }
        self.exchange.discard_held();
        self.phase = Phase::Ended;
    }

    /// The session is kept no longer than this, whatever the client asked for; to be said before it is accepted.
    pub fn bound_session_expiry(&mut self, session_expiry_s_max: u32) {
        self.session_expiry_s_told = Some(session_expiry_s_max).filter(|max| *max < self.session_expiry_s);
    }

    /// CONNACK. A 5.0 client is also told what we don't have (retained messages, shared subscriptions, subscription identifiers, topic
    /// aliases) and the limits; `assigned_client_id` is for one that brought none. Does nothing but for a client that asks.
    pub fn accept(&mut self, session_present: bool, assigned_client_id: Option<&str>) {
        if self.phase != Phase::Asking {
            return;
        }
        self.phase = Phase::Connected;
        match self.exchange.version {
            ProtocolVersion::V311 => {
                let connack = v3_1_1::Connack::builder().session_present(session_present);
                self.exchange.release(connack.return_code(ConnectReturnCode::Accepted).build());
            }
            ProtocolVersion::V5 => {
                let connack = capabilities(self.limits, assigned_client_id, self.session_expiry_s_told).and_then(|properties| {
                    v5_0::Connack::builder()
                        .session_present(session_present)
                        .reason_code(ConnectReasonCode::Success)
                        .props(properties)
                        .build()
                });
                self.exchange.release(connack);
            }
        }
    }

    /// CONNACK that says no; the connection is to be closed once it was sent. Does nothing but for a client that asks.
    pub fn refuse(&mut self, refusal: Refusal) {
        if self.phase != Phase::Asking {
            return;
        }
        self.exchange.discard_held();
        self.phase = Phase::Ended;
        let (return_code, reason_code) = match refusal {
            Refusal::BadCredentials => (ConnectReturnCode::BadUserNameOrPassword, ConnectReasonCode::BadUserNameOrPassword),
            Refusal::NotAuthorized => (ConnectReturnCode::NotAuthorized, ConnectReasonCode::NotAuthorized),
            Refusal::ClientIdInvalid => (ConnectReturnCode::IdentifierRejected, ConnectReasonCode::ClientIdentifierNotValid),
            Refusal::ServerBusy => (ConnectReturnCode::ServerUnavailable, ConnectReasonCode::ServerBusy),
            Refusal::ServerUnavailable => (ConnectReturnCode::ServerUnavailable, ConnectReasonCode::ServerUnavailable),
            Refusal::QuotaExceeded => (ConnectReturnCode::ServerUnavailable, ConnectReasonCode::QuotaExceeded),
            Refusal::UnsupportedVersion => {
                (ConnectReturnCode::UnacceptableProtocolVersion, ConnectReasonCode::UnsupportedProtocolVersion)
            }
        };
        self.write_refusal(return_code, reason_code);
    }

    fn write_refusal(&mut self, return_code: ConnectReturnCode, reason_code: ConnectReasonCode) {
        match self.exchange.version {
            ProtocolVersion::V311 => {
                self.exchange.write(v3_1_1::Connack::builder().session_present(false).return_code(return_code).build())
            }
            ProtocolVersion::V5 => {
                self.exchange.write(v5_0::Connack::builder().session_present(false).reason_code(reason_code).build())
            }
        };
    }

    /// How many publications of QoS 1 may still be sent unacknowledged.
    #[must_use]
    pub fn vacancy(&self) -> usize {
        self.exchange.vacancy()
    }

    /// As many publications of the client as it may have are unacknowledged: read no more from it until some were
    /// [acknowledged](Self::acknowledge).
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        self.exchange.is_saturated()
    }

    /// PUBLISH. The packet id, if the client is to acknowledge it. QoS 2 is sent as QoS 1.
    pub fn publish(&mut self, topic: &str, payload: Bytes, qos: Qos) -> Result<Option<u16>, PublishError> {
        self.check_connected()?;
        self.exchange.publish(topic, &payload, qos.min(Qos::AtLeastOnce), None)
    }

    /// PUBLISH with QoS 1 of what was sent on an earlier connection of the session and not acknowledged: marked as a repetition, and
    /// with the packet id it had where that is free. To be done before anything new is published.
    pub fn publish_again(&mut self, packet_id: u16, topic: &str, payload: Bytes) -> Result<Option<u16>, PublishError> {
        self.check_connected()?;
        self.exchange.publish(topic, &payload, Qos::AtLeastOnce, Some(packet_id))
    }

    fn check_connected(&self) -> Result<(), PublishError> {
        if self.phase == Phase::Connected { Ok(()) } else { Err(PublishError::NotConnected) }
    }

    /// PUBACK, or PUBREC for QoS 2 (PUBCOMP then goes by itself); nothing for QoS 0. Once for each publication handed out.
    pub fn acknowledge(&mut self, publication: &Publication, outcome: Acknowledgement) {
        if self.is_open() {
            self.exchange.acknowledge(publication, outcome);
        }
    }

    /// SUBACK: one result for each filter, in their order.
    pub fn subscribed(&mut self, packet_id: u16, granted: &[Result<Qos, SubscribeRefusal>]) {
        if !self.is_open() {
            return;
        }
        match self.exchange.version {
            ProtocolVersion::V311 => {
                let codes = granted.iter().map(|result| return_code(*result)).collect();
                self.exchange.write(v3_1_1::Suback::builder().packet_id(packet_id).return_codes(codes).build())
            }
            ProtocolVersion::V5 => {
                let codes = granted.iter().map(|result| reason_code(*result)).collect();
                self.exchange.write(v5_0::Suback::builder().packet_id(packet_id).reason_codes(codes).build())
            }
        };
    }

    /// UNSUBACK: for each filter, in their order, whether there was such a subscription.
    pub fn unsubscribed(&mut self, packet_id: u16, found: &[bool]) {
        if !self.is_open() {
            return;
        }
        match self.exchange.version {
            ProtocolVersion::V311 => self.exchange.write(v3_1_1::Unsuback::builder().packet_id(packet_id).build()),
            ProtocolVersion::V5 => {
                let code = |found: &bool| {
                    if *found { UnsubackReasonCode::Success } else { UnsubackReasonCode::NoSubscriptionExisted }
                };
                let codes = found.iter().map(code).collect();
                self.exchange.write(v5_0::Unsuback::builder().packet_id(packet_id).reason_codes(codes).build())
            }
        };
    }

    /// Whether answers are still of use.
    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Asking | Phase::Connected)
    }

    /// DISCONNECT, where the version has it; the connection is to be closed once it was sent.
    pub fn disconnect(&mut self, farewell: Farewell) {
        if self.phase == Phase::Connected {
            self.write_disconnect(match farewell {
                Farewell::ServerShuttingDown => DisconnectReasonCode::ServerShuttingDown,
                Farewell::SessionTakenOver => DisconnectReasonCode::SessionTakenOver,
                Farewell::NotAuthorized => DisconnectReasonCode::NotAuthorized,
                Farewell::KeepAliveTimeout => DisconnectReasonCode::KeepAliveTimeout,
                Farewell::QuotaExceeded => DisconnectReasonCode::QuotaExceeded,
                Farewell::ProtocolError => DisconnectReasonCode::ProtocolError,
                Farewell::AdministrativeAction => DisconnectReasonCode::AdministrativeAction,
            });
        }
        self.exchange.discard_held();
        self.phase = Phase::Ended;
    }

    fn write_disconnect(&mut self, reason: DisconnectReasonCode) {
        if self.exchange.version == ProtocolVersion::V5 {
            self.exchange.write(v5_0::Disconnect::builder().reason_code(reason).build());
        }
    }

    /// What is to be written to the client; the caller drains it.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.exchange.output
    }

    /// `None` before CONNECT was handed out.
    #[must_use]
    pub fn version(&self) -> Option<ProtocolVersion> {
        (self.phase != Phase::Unknown).then_some(self.exchange.version)
    }
}

fn acknowledged(answer: Option<(u16, Delivery)>) -> Option<FromClient> {
    answer.map(|(packet_id, _)| FromClient::Acknowledged { packet_id })
}

/// By the protocol's name and level, which lie where they lay in every version.
fn version_of(connect: &[u8]) -> Result<ProtocolVersion, WireError> {
    let (name, level) = match *connect {
        [0, 4, a, b, c, d, level, ..] => ([a, b, c, d], level),
        // MQTT 3.1, by its own name.
        [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', level, ..] => return Err(WireError::UnsupportedVersion(level)),
        _ => return Err(WireError::Malformed("CONNECT")),
    };
    match (&name, level) {
        (b"MQTT", 4) => Ok(ProtocolVersion::V311),
        (b"MQTT", 5) => Ok(ProtocolVersion::V5),
        (b"MQTT", level) => Err(WireError::UnsupportedVersion(level)),
        _ => Err(WireError::Malformed("CONNECT")),
    }
}

/// The library passes over the reserved bit, and over a will's QoS and retain flag that can't be.
fn check_connect_flags(connect: &[u8]) -> Result<(), WireError> {
    let Some(flags) = connect.get(7) else {
        return Err(WireError::Malformed("CONNECT"));
    };
    let (reserved, will, will_qos, will_retain) = (flags & 1, flags >> 2 & 1, flags >> 3 & 0b11, flags >> 5 & 1);
    if reserved != 0 || will_qos == 3 || (will == 0 && (will_qos, will_retain) != (0, 0)) {
        return Err(WireError::Malformed("CONNECT"));
    }
    Ok(())
}

/// The library takes null characters, which no text may have (MQTT 3.1.1 and 5.0, 1.5.3 and 1.5.4).
fn text(name: &'static str, text: &str) -> Result<String, WireError> {
    if text.contains('\0') { Err(WireError::Malformed(name)) } else { Ok(text.to_owned()) }
}

fn filter(name: &'static str, filter: &str) -> Result<String, WireError> {
    if filter.is_empty() {
        return Err(WireError::Violation("an empty topic filter"));
    }
    text(name, filter)
}

/// The library reads a packet id of 0, but can't answer it.
fn answerable(packet_id: u16) -> Result<u16, WireError> {
    if packet_id == 0 { Err(WireError::Violation("packet id 0")) } else { Ok(packet_id) }
}

fn capabilities(
    limits: WireLimits,
    assigned_client_id: Option<&str>,
    session_expiry_s: Option<u32>,
) -> Result<Vec<Property>, MqttError> {
    let mut properties = vec![
        ReceiveMaximum::new(limits.receive_max.max(1))?.into(),
        MaximumPacketSize::new(limits.packet_bytes_max.max(1))?.into(),
        RetainAvailable::new(0)?.into(),
        SubscriptionIdentifierAvailable::new(0)?.into(),
        SharedSubscriptionAvailable::new(0)?.into(),
    ];
    if let Some(client_id) = assigned_client_id {
        properties.push(AssignedClientIdentifier::new(client_id)?.into());
    }
    if let Some(seconds) = session_expiry_s {
        properties.push(SessionExpiryInterval::new(seconds)?.into());
    }
    Ok(properties)
}

fn return_code(granted: Result<Qos, SubscribeRefusal>) -> SubackReturnCode {
    match granted {
        Ok(Qos::AtMostOnce) => SubackReturnCode::SuccessMaximumQos0,
        Ok(Qos::AtLeastOnce) => SubackReturnCode::SuccessMaximumQos1,
        Ok(Qos::ExactlyOnce) => SubackReturnCode::SuccessMaximumQos2,
        Err(_) => SubackReturnCode::Failure,
    }
}

fn reason_code(granted: Result<Qos, SubscribeRefusal>) -> SubackReasonCode {
    match granted {
        Ok(Qos::AtMostOnce) => SubackReasonCode::GrantedQos0,
        Ok(Qos::AtLeastOnce) => SubackReasonCode::GrantedQos1,
        Ok(Qos::ExactlyOnce) => SubackReasonCode::GrantedQos2,
        Err(SubscribeRefusal::NotAuthorized) => SubackReasonCode::NotAuthorized,
        Err(SubscribeRefusal::FilterInvalid) => SubackReasonCode::TopicFilterInvalid,
        Err(SubscribeRefusal::SharedNotSupported) => SubackReasonCode::SharedSubscriptionsNotSupported,
        Err(SubscribeRefusal::QuotaExceeded) => SubackReasonCode::QuotaExceeded,
    }
}
