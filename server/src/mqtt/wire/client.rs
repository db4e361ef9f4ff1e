//! The client's end: we connect to a server elsewhere.
//!
//! Life cycle: 1. [`ClientWire::connect`]; 2. the server says that we are connected, or refuses; 3. publications and subscriptions;
//! 4. [`ClientWire::disconnect`], the server's farewell, or an error. A wire serves one connection; the next takes a new one.

use super::exchange::{Awaited, Exchange};
use super::frames::{Frames, parse};
use super::{Acknowledgement, Delivery, ProtocolVersion, Publication, PublishError, Qos, WireError, WireLimits};
use bytes::{Bytes, BytesMut};
use mqtt_protocol_core::mqtt::connection::RawPacket;
use mqtt_protocol_core::mqtt::packet::{
    MaximumPacketSize, PacketType, Property, ReceiveMaximum, SessionExpiryInterval, SubEntry, SubOpts, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, SubackReasonCode, SubackReturnCode,
};
use std::fmt;

/// Who we say that we are.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    pub version: ProtocolVersion,
    pub client_id: String,
    /// Whether an earlier session is to be forgotten.
    pub clean: bool,
    /// 0: we may be silent for ever.
    pub keep_alive_s: u16,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
    /// How long the session is to outlive the connection. 3.1.1 can't say it: there a session that isn't `clean` lasts.
    pub session_expiry_s: u32,
    /// What the server is to publish if we vanish: topic, payload, how certainly.
    pub will: Option<(String, Bytes, Qos)>,
}

/// Without the password.
impl fmt::Debug for ConnectOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConnectOptions")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("clean", &self.clean)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("username", &self.username)
            .field("session_expiry_s", &self.session_expiry_s)
            .field("will", &self.will)
            .finish_non_exhaustive()
    }
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromServer {
    /// `shared_subscriptions`: false only where the server says that it has none (3.1.1 can't). `keep_alive_s`: the server's wish, which
    /// replaces ours.
    Connected {
        session_present: bool,
        shared_subscriptions: bool,
        keep_alive_s: Option<u16>,
    },
    /// Always the last. `is_version`: the server doesn't speak this version, but may speak the other.
    Refused {
        reason: String,
        is_version: bool,
        is_credentials: bool,
    },
    /// To be [acknowledged](ClientWire::acknowledge).
    Publish(Publication),
    /// One that is larger than is taken, without its payload. To be acknowledged, else it comes again with each connection: a 3.1.1
    /// server can't be told what is too large.
    TooLarge(Publication),
    /// The server has what was published with this id, or has refused it.
    Acknowledged {
        packet_id: u16,
        delivery: Delivery,
    },
    /// For each filter, in their order; `None`: refused.
    Subscribed {
        packet_id: u16,
        granted: Vec<Option<Qos>>,
    },
    Unsubscribed {
        packet_id: u16,
    },
    /// The answer to [`ClientWire::ping`].
    Pong,
    /// Always the last.
    Disconnected {
        reason: String,
    },
}

/// Our connection to a server.
#[derive(Debug)]
pub struct ClientWire {
    frames: Frames,
    limits: WireLimits,
    phase: Phase,
    exchange: Exchange,
    /// The strongest that the server takes.
    qos_max: Qos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Unconnected,
    /// CONNECT was written.
    Asking,
    Connected,
    /// Nothing is listened to any more.
    Ended,
}

impl ClientWire {
    #[must_use]
    pub fn new(version: ProtocolVersion, limits: WireLimits) -> Self {
        Self {
            frames: Frames::new(limits.packet_bytes_max),
            limits,
            phase: Phase::Unconnected,
            exchange: Exchange::new(version, limits).without_enforcing_receive_max(),
            qos_max: Qos::ExactlyOnce,
        }
    }

    /// CONNECT; the version is that of `options`. Fails where a text is longer than 65,535 bytes (`TooLarge`), or when it was called
    /// before (`NotConnected`).
    pub fn connect(&mut self, options: &ConnectOptions) -> Result<(), PublishError> {
        if self.phase != Phase::Unconnected {
            return Err(PublishError::NotConnected);
        }
        self.exchange.version = options.version;
        self.frames.cut(options.version);
        match options.version {
            ProtocolVersion::V311 => self.exchange.write(Ok(connect_3_1_1(options).map_err(|_| PublishError::TooLarge)?)),
            ProtocolVersion::V5 => self.exchange.write(Ok(connect_5_0(options, self.limits).map_err(|_| PublishError::TooLarge)?)),
        };
        self.phase = Phase::Asking;
        Ok(())
    }

    /// Bytes as they came, in any slicing; what they mean is appended to `said`. After an error the connection is to be closed, once
    /// what is in `output` was sent. What was said before the error counts.
    pub fn receive(&mut self, mut bytes: &[u8], said: &mut Vec<FromServer>) -> Result<(), WireError> {
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
    fn receive_one(&mut self, bytes: &mut &[u8], said: &mut Vec<FromServer>) -> Result<bool, WireError> {
        let Some((kind, packet)) = self.frames.next(bytes)? else {
            return Ok(false);
        };
        match kind {
            PacketType::Connack if self.phase == Phase::Asking => said.push(self.take_connack(&packet)?),
            PacketType::Connack => return Err(WireError::Violation("a CONNACK that nobody asked for")),
            _ if self.phase != Phase::Connected => return Err(WireError::Violation("a packet before CONNACK")),
            PacketType::Publish => {
                let wrap = if self.frames.is_cut() { FromServer::TooLarge } else { FromServer::Publish };
                said.extend(self.exchange.take_publish(packet)?.map(wrap));
            }
            PacketType::Puback => said.extend(acknowledged(self.exchange.take_puback(&packet)?)),
            PacketType::Pubrec => said.extend(acknowledged(self.exchange.take_pubrec(&packet)?)),
            PacketType::Pubcomp => said.extend(acknowledged(self.exchange.take_pubcomp(&packet)?)),
            PacketType::Pubrel => self.exchange.take_pubrel(&packet)?,
            PacketType::Suback => said.push(self.take_suback(&packet)?),
            PacketType::Unsuback => said.push(self.take_unsuback(&packet)?),
            PacketType::Pingresp => said.push(self.take_pingresp(&packet)?),
            PacketType::Disconnect => said.push(self.take_disconnect(&packet)?),
            PacketType::Auth => return Err(WireError::Violation("AUTH without enhanced authentication")),
            PacketType::Connect | PacketType::Subscribe | PacketType::Unsubscribe | PacketType::Pingreq => {
                return Err(WireError::Violation("a packet that only clients send"));
            }
        }
        Ok(true)
    }

    fn take_connack(&mut self, packet: &RawPacket) -> Result<FromServer, WireError> {
        let answer = match self.exchange.version {
            ProtocolVersion::V311 => {
                let connack = parse("CONNACK", packet, v3_1_1::Connack::parse)?;
                match connack.return_code() {
                    ConnectReturnCode::Accepted => FromServer::Connected {
                        session_present: connack.session_present(),
                        shared_subscriptions: true,
                        keep_alive_s: None,
                    },
                    code => refused_3_1_1(code),
                }
            }
            // A server that doesn't know 5.0 says so in the form of 3.1.1.
            ProtocolVersion::V5 if matches!(*packet.data_as_slice(), [0, 1]) => {
                refused_3_1_1(ConnectReturnCode::UnacceptableProtocolVersion)
            }
            ProtocolVersion::V5 => self.read_connack_5_0(packet)?,
        };
        self.phase = match answer {
            FromServer::Connected { .. } => Phase::Connected,
            _ => Phase::Ended,
        };
        Ok(answer)
    }

    fn read_connack_5_0(&mut self, packet: &RawPacket) -> Result<FromServer, WireError> {
        let connack = parse("CONNACK", packet, v5_0::Connack::parse)?;
        let code = connack.reason_code();
        if code != ConnectReasonCode::Success {
            return Ok(FromServer::Refused {
                reason: described(&format!("{code:?}"), code as u8, connack.props()),
                is_version: code == ConnectReasonCode::UnsupportedProtocolVersion,
                is_credentials: matches!(code, ConnectReasonCode::BadUserNameOrPassword | ConnectReasonCode::NotAuthorized),
            });
        }
        let (mut shared_subscriptions, mut keep_alive_s) = (true, None);
        for property in connack.props() {
            match property {
                Property::ReceiveMaximum(maximum) => self.exchange.peer_receive_max = maximum.val(),
                Property::MaximumPacketSize(maximum) => self.exchange.peer_packet_bytes_max = maximum.val(),
                Property::MaximumQos(maximum) if maximum.val() == 0 => self.qos_max = Qos::AtMostOnce,
                Property::MaximumQos(_) => self.qos_max = Qos::AtLeastOnce,
                Property::SharedSubscriptionAvailable(available) => shared_subscriptions = available.val() != 0,
                Property::ServerKeepAlive(seconds) => keep_alive_s = Some(seconds.val()),
                _ => {}
            }
        }
        Ok(FromServer::Connected { session_present: connack.session_present(), shared_subscriptions, keep_alive_s })
    }

    fn take_suback(&mut self, packet: &RawPacket) -> Result<FromServer, WireError> {
        let (packet_id, granted): (u16, Vec<Option<Qos>>) = match self.exchange.version {
            ProtocolVersion::V311 => {
                let suback = parse("SUBACK", packet, v3_1_1::Suback::parse)?;
                let granted = |code: &SubackReturnCode| match code {
                    SubackReturnCode::SuccessMaximumQos0 => Some(Qos::AtMostOnce),
                    SubackReturnCode::SuccessMaximumQos1 => Some(Qos::AtLeastOnce),
                    SubackReturnCode::SuccessMaximumQos2 => Some(Qos::ExactlyOnce),
                    SubackReturnCode::Failure => None,
                };
                (suback.packet_id(), suback.return_codes().iter().map(granted).collect())
            }
            ProtocolVersion::V5 => {
                let suback = parse("SUBACK", packet, v5_0::Suback::parse)?;
                let granted = |code: &SubackReasonCode| match code {
                    SubackReasonCode::GrantedQos0 => Some(Qos::AtMostOnce),
                    SubackReasonCode::GrantedQos1 => Some(Qos::AtLeastOnce),
                    SubackReasonCode::GrantedQos2 => Some(Qos::ExactlyOnce),
                    _ => None,
                };
                (suback.packet_id(), suback.reason_codes().iter().map(granted).collect())
            }
        };
        if self.exchange.awaited(packet_id) != Some(Awaited::Suback { filters: granted.len() }) {
            return Err(WireError::Violation("a SUBACK that answers no SUBSCRIBE"));
        }
        self.exchange.answered(packet_id);
        Ok(FromServer::Subscribed { packet_id, granted })
    }

    fn take_unsuback(&mut self, packet: &RawPacket) -> Result<FromServer, WireError> {
        let packet_id = match self.exchange.version {
            ProtocolVersion::V311 => parse("UNSUBACK", packet, v3_1_1::Unsuback::parse)?.packet_id(),
            ProtocolVersion::V5 => parse("UNSUBACK", packet, v5_0::Unsuback::parse)?.packet_id(),
        };
        if self.exchange.awaited(packet_id) != Some(Awaited::Unsuback) {
            return Err(WireError::Violation("an UNSUBACK that answers no UNSUBSCRIBE"));
        }
        self.exchange.answered(packet_id);
        Ok(FromServer::Unsubscribed { packet_id })
    }

    fn take_pingresp(&self, packet: &RawPacket) -> Result<FromServer, WireError> {
        match self.exchange.version {
            ProtocolVersion::V311 => drop(parse("PINGRESP", packet, v3_1_1::Pingresp::parse)?),
            ProtocolVersion::V5 => drop(parse("PINGRESP", packet, v5_0::Pingresp::parse)?),
        }
        Ok(FromServer::Pong)
    }

    fn take_disconnect(&mut self, packet: &RawPacket) -> Result<FromServer, WireError> {
        if self.exchange.version == ProtocolVersion::V311 {
            return Err(WireError::Violation("a packet that only clients send"));
        }
        let disconnect = parse("DISCONNECT", packet, v5_0::Disconnect::parse)?;
        let code = disconnect.reason_code().unwrap_or(DisconnectReasonCode::NormalDisconnection);
        let properties = disconnect.props().as_deref().unwrap_or_default();
        self.phase = Phase::Ended;
        Ok(FromServer::Disconnected { reason: described(&format!("{code:?}"), code as u8, properties) })
    }

    fn end_because_of(&mut self, error: &WireError) {
        if self.phase == Phase::Connected && self.exchange.version == ProtocolVersion::V5 {
            self.exchange.write(v5_0::Disconnect::builder().reason_code(error.reason()).build());
        }
        self.phase = Phase::Ended;
    }

    /// How many publications of QoS 1 and 2 may still be sent unacknowledged.
    #[must_use]
    pub fn vacancy(&self) -> usize {
        self.exchange.vacancy()
    }

    /// As many publications of the server as it may have are unacknowledged: read no more from it until some were
    /// [acknowledged](Self::acknowledge).
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        self.exchange.is_saturated()
    }

    /// PUBLISH. The packet id, if the server is to acknowledge it.
    pub fn publish(&mut self, topic: &str, payload: Bytes, qos: Qos) -> Result<Option<u16>, PublishError> {
        self.check_publishable(qos)?;
        self.exchange.publish(topic, &payload, qos, None)
    }

    /// PUBLISH of what was sent on an earlier connection of the session and not acknowledged: marked as a repetition, and with the
    /// packet id it had where that is free. To be done before anything new is published.
    pub fn publish_again(&mut self, packet_id: u16, topic: &str, payload: Bytes, qos: Qos) -> Result<Option<u16>, PublishError> {
        self.check_publishable(qos)?;
        // A repetition is marked, which QoS 0 must not be.
        let again = (qos != Qos::AtMostOnce).then_some(packet_id);
        self.exchange.publish(topic, &payload, qos, again)
    }

    fn check_publishable(&self, qos: Qos) -> Result<(), PublishError> {
        self.check_connected()?;
        if qos > self.qos_max { Err(PublishError::QosUnsupported) } else { Ok(()) }
    }

    fn check_connected(&self) -> Result<(), PublishError> {
        if self.phase == Phase::Connected { Ok(()) } else { Err(PublishError::NotConnected) }
    }

    /// PUBACK, or PUBREC for QoS 2 (PUBCOMP then goes by itself); nothing for QoS 0. Once for each publication handed out.
    pub fn acknowledge(&mut self, publication: &Publication, outcome: Acknowledgement) {
        if self.phase == Phase::Connected {
            self.exchange.acknowledge(publication, outcome);
        }
    }

    /// SUBSCRIBE; its packet id. At least one filter.
    pub fn subscribe(&mut self, filters: &[(&str, Qos)]) -> Result<u16, PublishError> {
        self.request(Awaited::Suback { filters: filters.len() }, |exchange, packet_id| {
            let entries: Result<Vec<SubEntry>, MqttError> =
                filters.iter().map(|(filter, qos)| SubEntry::new(*filter, SubOpts::new().set_qos((*qos).into()))).collect();
            let entries = entries.map_err(|_| PublishError::TopicInvalid)?;
            let is_valid = filters.iter().all(|(filter, _)| is_filter(filter));
            match exchange.version {
                _ if !is_valid => Err(PublishError::TopicInvalid),
                ProtocolVersion::V311 => {
                    let built = v3_1_1::Subscribe::builder().packet_id(packet_id).entries(entries).build();
                    Ok(exchange.write(Ok(built.map_err(|_| PublishError::TopicInvalid)?)))
                }
                ProtocolVersion::V5 => {
                    let built = v5_0::Subscribe::builder().packet_id(packet_id).entries(entries).build();
                    Ok(exchange.write(Ok(built.map_err(|_| PublishError::TopicInvalid)?)))
                }
            }
        })
    }

    /// UNSUBSCRIBE; its packet id. At least one filter.
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Result<u16, PublishError> {
        self.request(Awaited::Unsuback, |exchange, packet_id| {
            let is_valid = filters.iter().all(|filter| is_filter(filter));
            match exchange.version {
                _ if !is_valid => Err(PublishError::TopicInvalid),
                ProtocolVersion::V311 => {
                    let built = v3_1_1::Unsubscribe::builder().packet_id(packet_id).entries(filters.to_vec());
                    let built = built.and_then(|builder| builder.build());
                    Ok(exchange.write(Ok(built.map_err(|_| PublishError::TopicInvalid)?)))
                }
                ProtocolVersion::V5 => {
                    let built = v5_0::Unsubscribe::builder().packet_id(packet_id).entries(filters.to_vec());
                    let built = built.and_then(|builder| builder.build());
                    Ok(exchange.write(Ok(built.map_err(|_| PublishError::TopicInvalid)?)))
                }
            }
        })
    }

    /// Reserves a packet id for what `write` writes, and frees it where that fails or wouldn't fit.
    fn request(
        &mut self,
        awaited: Awaited,
        write: impl FnOnce(&mut Exchange, u16) -> Result<bool, PublishError>,
    ) -> Result<u16, PublishError> {
        self.check_connected()?;
        let packet_id = self.exchange.await_answer(awaited, None).ok_or(PublishError::Full)?;
        let written = match write(&mut self.exchange, packet_id) {
            Ok(true) => return Ok(packet_id),
            Ok(false) => Err(PublishError::TooLarge),
            Err(error) => Err(error),
        };
        self.exchange.answered(packet_id);
        written
    }

    /// PINGREQ. Does nothing while not connected.
    pub fn ping(&mut self) {
        if self.phase == Phase::Connected {
            match self.exchange.version {
                ProtocolVersion::V311 => self.exchange.write(v3_1_1::Pingreq::builder().build()),
                ProtocolVersion::V5 => self.exchange.write(v5_0::Pingreq::builder().build()),
            };
        }
    }

    /// DISCONNECT; the connection is to be closed once it was sent.
    pub fn disconnect(&mut self) {
        if self.phase == Phase::Connected {
            match self.exchange.version {
                ProtocolVersion::V311 => self.exchange.write(v3_1_1::Disconnect::builder().build()),
                ProtocolVersion::V5 => self.exchange.write(v5_0::Disconnect::builder().build()),
            };
        }
        self.phase = Phase::Ended;
    }

    /// What is to be written to the server; the caller drains it.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.exchange.output
    }

    #[must_use]
    pub fn version(&self) -> ProtocolVersion {
        self.exchange.version
    }
}

fn acknowledged(answer: Option<(u16, Delivery)>) -> Option<FromServer> {
    answer.map(|(packet_id, delivery)| FromServer::Acknowledged { packet_id, delivery })
}

fn connect_3_1_1(options: &ConnectOptions) -> Result<v3_1_1::Connect, MqttError> {
    let mut connect = v3_1_1::Connect::builder()
        .clean_session(options.clean)
        .client_id(options.client_id.as_str())?
        .keep_alive(options.keep_alive_s);
    if let Some((topic, payload, qos)) = &options.will {
        connect = connect.will_message(topic.as_str(), payload.to_vec(), (*qos).into(), false)?;
    }
    if let Some(username) = &options.username {
        connect = connect.user_name(username.as_str())?;
    }
    if let Some(password) = &options.password {
        connect = connect.password(password.clone())?;
    }
    connect.build()
}

fn connect_5_0(options: &ConnectOptions, limits: WireLimits) -> Result<v5_0::Connect, MqttError> {
    let mut properties: Vec<Property> = vec![
        ReceiveMaximum::new(limits.receive_max.max(1))?.into(),
        MaximumPacketSize::new(limits.packet_bytes_max.max(1))?.into(),
    ];
    if options.session_expiry_s != 0 {
        properties.push(SessionExpiryInterval::new(options.session_expiry_s)?.into());
    }
    let mut connect = v5_0::Connect::builder()
        .clean_start(options.clean)
        .client_id(options.client_id.as_str())?
        .keep_alive(options.keep_alive_s)
        .props(properties);
    if let Some((topic, payload, qos)) = &options.will {
        connect = connect.will_message(topic.as_str(), payload.to_vec(), (*qos).into(), false)?;
    }
    if let Some(username) = &options.username {
        connect = connect.user_name(username.as_str())?;
    }
    if let Some(password) = &options.password {
        connect = connect.password(password.clone())?;
    }
    connect.build()
}

fn is_filter(filter: &str) -> bool {
    !filter.is_empty() && !filter.contains('\0')
}

fn refused_3_1_1(code: ConnectReturnCode) -> FromServer {
    FromServer::Refused {
        reason: described(&format!("{code:?}"), code as u8, &[]),
        is_version: code == ConnectReturnCode::UnacceptableProtocolVersion,
        is_credentials: matches!(code, ConnectReturnCode::BadUserNameOrPassword | ConnectReturnCode::NotAuthorized),
    }
}

/// A reason code in words, and the server's own if it has any.
fn described(name: &str, code: u8, properties: &[Property]) -> String {
    let words = properties.iter().find_map(|property| match property {
        Property::ReasonString(words) => Some(words.val()),
        _ => None,
    });
    match words {
        Some(words) => format!("{name} (code {code}): {words}"),
        None => format!("{name} (code {code})"),
    }
}
