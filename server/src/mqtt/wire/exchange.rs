//! What both ends of a connection have in common: publications both ways with their acknowledgements, and the packets to be sent.
//!
//! Invariants:
//!   - `publications_sent` counts the entries of `awaited` that are publications, and is at most the peer's receive maximum.
//!   - `unacknowledged` counts what was handed out and not acknowledged since; `unreleased` the entries of `exactly_once` whose PUBREC
//!     was sent. Their sum is what a 5.0 peer's receive maximum speaks of.
//!   - A packet id in an answer is never 0: the library refuses to build such a packet, but reads it in PUBLISH and SUBSCRIBE.

use super::frames::{misread, parse};
use super::{Acknowledgement, Delivery, ProtocolVersion, Publication, PublishError, Qos, WireError, WireLimits};
use bytes::{BufMut, Bytes, BytesMut};
use mqtt_protocol_core::mqtt::common::Arc;
use mqtt_protocol_core::mqtt::connection::{PacketData, RawPacket};
use mqtt_protocol_core::mqtt::packet::{FixedHeader, GenericPacketTrait, Property, VariableByteInteger, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::{MqttError, PubackReasonCode, PubcompReasonCode, PubrecReasonCode, PubrelReasonCode};
use std::collections::HashMap;

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) version: ProtocolVersion,
    pub(super) output: BytesMut,
    /// Answers that have to wait until the connection is accepted, while it isn't.
    held: Option<BytesMut>,
    pub(super) peer_packet_bytes_max: u32,
    pub(super) peer_receive_max: u16,
    awaited: HashMap<u16, Awaited>,
    publications_sent: usize,
    packet_id_last: u16,
    receive_max: u16,
    /// Whether a 5.0 peer that exceeds it is cut off.
    enforces_receive_max: bool,
    unacknowledged: usize,
    unreleased: usize,
    /// QoS 2 publications that came and weren't released by the peer, and whether their PUBREC was sent.
    exactly_once: HashMap<u16, bool>,
}

/// What the peer is yet to send for a packet id of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Puback,
    Pubrec,
    Pubcomp,
    Suback { filters: usize },
    Unsuback,
}

impl Exchange {
    pub(super) fn new(version: ProtocolVersion, limits: WireLimits) -> Self {
        Self {
            version,
            output: BytesMut::new(),
            held: None,
            peer_packet_bytes_max: u32::MAX,
            peer_receive_max: u16::MAX,
            awaited: HashMap::new(),
            publications_sent: 0,
            packet_id_last: 0,
            receive_max: limits.receive_max.max(1),
            enforces_receive_max: true,
            unacknowledged: 0,
            unreleased: 0,
            exactly_once: HashMap::new(),
        }
    }

    /// A server is not cut off: some count wrongly under load, and whoever reads no more while it is saturated is safe from them, too.
    pub(super) fn without_enforcing_receive_max(self) -> Self {
        Self { enforces_receive_max: false, ..self }
    }

    /// What is written from now on comes after the packet that is written by [`release`](Self::release).
    pub(super) fn hold(&mut self) {
        self.held = Some(BytesMut::new());
    }

    /// Writes `first`, and then what was held. Whether `first` wasn't too large.
    pub(super) fn release<P: GenericPacketTrait>(&mut self, first: Result<P, MqttError>) -> bool {
        let held = self.held.take().unwrap_or_default();
        let written = self.write(first);
        self.output.unsplit(held);
        written
    }

    /// Forgets what was held.
    pub(super) fn discard_held(&mut self) {
        self.held = None;
    }

    /// Whether it was written: what the peer declared too large is left out, as the protocol prescribes.
    pub(super) fn write<P: GenericPacketTrait>(&mut self, built: Result<P, MqttError>) -> bool {
        let packet = match built {
            Ok(packet) => packet,
            Err(error) => {
                debug_assert!(false, "a packet of ours can't be built: {error:?}");
                return false;
            }
        };
        if packet.size() > self.peer_packet_bytes_max as usize {
            return false;
        }
        self.sink().extend_from_slice(&packet.to_continuous_buffer());
        true
    }

    pub(super) fn vacancy(&self) -> usize {
        usize::from(self.peer_receive_max).saturating_sub(self.publications_sent)
    }

    pub(super) fn is_saturated(&self) -> bool {
        self.unacknowledged >= usize::from(self.receive_max)
    }

    /// Reserves a packet id: `wanted` where it is free. `None`: all are in use.
    pub(super) fn await_answer(&mut self, awaited: Awaited, wanted: Option<u16>) -> Option<u16> {
        let packet_id = match wanted {
            Some(wanted) if wanted != 0 && !self.awaited.contains_key(&wanted) => wanted,
            _ => self.vacant_packet_id()?,
        };
        self.awaited.insert(packet_id, awaited);
        if is_publication(awaited) {
            self.publications_sent += 1;
        }
        Some(packet_id)
    }

    fn vacant_packet_id(&mut self) -> Option<u16> {
        if self.awaited.len() >= usize::from(u16::MAX) {
            return None;
        }
        loop {
            self.packet_id_last = self.packet_id_last.wrapping_add(1);
            if self.packet_id_last != 0 && !self.awaited.contains_key(&self.packet_id_last) {
                return Some(self.packet_id_last);
            }
        }
    }

    pub(super) fn awaited(&self, packet_id: u16) -> Option<Awaited> {
        self.awaited.get(&packet_id).copied()
    }

    pub(super) fn answered(&mut self, packet_id: u16) {
        if self.awaited.remove(&packet_id).is_some_and(is_publication) {
            self.publications_sent -= 1;
        }
    }

    /// Writes a PUBLISH. `again`: it is repeated, with the packet id it had where that is free.
    ///
    /// The one packet written without the library, which would copy the payload into a buffer of its own first.
    pub(super) fn publish(
        &mut self,
        topic: &str,
        payload: &Bytes,
        qos: Qos,
        again: Option<u16>,
    ) -> Result<Option<u16>, PublishError> {
        let topic_bytes = u16::try_from(topic.len()).map_err(|_| PublishError::TopicInvalid)?;
        if !is_topic(topic) {
            return Err(PublishError::TopicInvalid);
        }
        let packet_id_bytes = if qos == Qos::AtMostOnce { 0 } else { 2 };
        let properties_bytes = match self.version {
            ProtocolVersion::V311 => 0,
            ProtocolVersion::V5 => 1,
        };
        let remaining = 2 + topic.len() + packet_id_bytes + properties_bytes + payload.len();
        let remaining_length =
            u32::try_from(remaining).ok().and_then(VariableByteInteger::from_u32).ok_or(PublishError::TooLarge)?;
        let packet_bytes = 1 + remaining_length.as_bytes().len() + remaining;
        if packet_bytes > self.peer_packet_bytes_max as usize {
            return Err(PublishError::TooLarge);
        }
        let packet_id = match qos {
            Qos::AtMostOnce => None,
            _ if self.vacancy() == 0 => return Err(PublishError::Full),
            Qos::AtLeastOnce => Some(self.await_answer(Awaited::Puback, again).ok_or(PublishError::Full)?),
            Qos::ExactlyOnce => Some(self.await_answer(Awaited::Pubrec, again).ok_or(PublishError::Full)?),
        };
        let duplicate = u8::from(again.is_some());
        let output = self.sink();
        output.reserve(packet_bytes);
        output.put_u8(FixedHeader::Publish as u8 | duplicate << 3 | (qos as u8) << 1);
        output.put_slice(remaining_length.as_bytes());
        output.put_u16(topic_bytes);
        output.put_slice(topic.as_bytes());
        if let Some(packet_id) = packet_id {
            output.put_u16(packet_id);
        }
        output.put_bytes(0, properties_bytes);
        output.put_slice(payload);
        Ok(packet_id)
    }

    fn sink(&mut self) -> &mut BytesMut {
        self.held.as_mut().unwrap_or(&mut self.output)
    }

    /// A PUBLISH of the peer. `None`: a QoS 2 publication that was handed out already.
    pub(super) fn take_publish(&mut self, packet: RawPacket) -> Result<Option<Publication>, WireError> {
        let publication = read_publish(self.version, packet)?;
        let Some(packet_id) = publication.packet_id else {
            return Ok(Some(publication));
        };
        if publication.qos == Qos::ExactlyOnce {
            match self.exactly_once.get(&packet_id) {
                Some(true) => {
                    self.write_pubrec(packet_id, Acknowledgement::Taken);
                    return Ok(None);
                }
                // Its PUBREC comes once the caller is done with the first.
                Some(false) => return Ok(None),
                None => {}
            }
        }
        let in_flight = self.unacknowledged + self.unreleased;
        if self.enforces_receive_max && self.version == ProtocolVersion::V5 && in_flight >= usize::from(self.receive_max) {
            return Err(WireError::ReceiveMaximumExceeded { receive_max: self.receive_max });
        }
        if publication.qos == Qos::ExactlyOnce {
            self.exactly_once.insert(packet_id, false);
        }
        self.unacknowledged += 1;
        Ok(Some(publication))
    }

    pub(super) fn acknowledge(&mut self, publication: &Publication, outcome: Acknowledgement) {
        let Some(packet_id) = publication.packet_id else { return };
        match publication.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => {
                self.unacknowledged = self.unacknowledged.saturating_sub(1);
                self.write_puback(packet_id, outcome);
            }
            Qos::ExactlyOnce => {
                if self.exactly_once.get(&packet_id) != Some(&false) {
                    return;
                }
                self.unacknowledged = self.unacknowledged.saturating_sub(1);
                // A refusing PUBREC ends it; 3.1.1 can't refuse.
                if outcome != Acknowledgement::Taken && self.version == ProtocolVersion::V5 {
                    self.exactly_once.remove(&packet_id);
                } else {
                    self.exactly_once.insert(packet_id, true);
                    self.unreleased += 1;
                }
                self.write_pubrec(packet_id, outcome);
            }
        }
    }

    /// A PUBACK of the peer: the publication, and what became of it.
    ///
    /// One that nobody waits for is passed over: a client that comes back may still acknowledge what it got before.
    pub(super) fn take_puback(&mut self, packet: &RawPacket) -> Result<Option<(u16, Delivery)>, WireError> {
        let (packet_id, delivery) = match self.version {
            ProtocolVersion::V311 => (bare_packet_id("PUBACK", packet)?, Delivery::Taken),
            ProtocolVersion::V5 => {
                let puback = parse("PUBACK", packet, v5_0::Puback::parse)?;
                (puback.packet_id(), puback.reason_code().map_or(Delivery::Taken, |code| Delivery::of(code as u8)))
            }
        };
        match self.awaited(packet_id) {
            Some(Awaited::Puback) => {
                self.answered(packet_id);
                Ok(Some((packet_id, delivery)))
            }
            Some(_) => Err(WireError::Violation("PUBACK for something else than a QoS 1 publication")),
            None => Ok(None),
        }
    }

    /// A PUBREC of the peer; answered by PUBREL. A refusing one ends the publication.
    pub(super) fn take_pubrec(&mut self, packet: &RawPacket) -> Result<Option<(u16, Delivery)>, WireError> {
        let (packet_id, delivery) = match self.version {
            ProtocolVersion::V311 => (bare_packet_id("PUBREC", packet)?, Delivery::Taken),
            ProtocolVersion::V5 => {
                let pubrec = parse("PUBREC", packet, v5_0::Pubrec::parse)?;
                (pubrec.packet_id(), pubrec.reason_code().map_or(Delivery::Taken, |code| Delivery::of(code as u8)))
            }
        };
        match self.awaited(packet_id) {
            Some(Awaited::Pubrec) if delivery != Delivery::Taken => {
                self.answered(packet_id);
                return Ok(Some((packet_id, delivery)));
            }
            Some(Awaited::Pubrec | Awaited::Pubcomp) => {
                self.awaited.insert(packet_id, Awaited::Pubcomp);
                self.write_pubrel(packet_id, true);
            }
            Some(_) => return Err(WireError::Violation("PUBREC for something else than a QoS 2 publication")),
            None if delivery != Delivery::Taken => {}
            None => self.write_pubrel(packet_id, false),
        }
        Ok(None)
    }

    /// A PUBREL of the peer; answered by PUBCOMP.
    pub(super) fn take_pubrel(&mut self, packet: &RawPacket) -> Result<(), WireError> {
        let packet_id = match self.version {
            ProtocolVersion::V311 => bare_packet_id("PUBREL", packet)?,
            ProtocolVersion::V5 => parse("PUBREL", packet, v5_0::Pubrel::parse)?.packet_id(),
        };
        match self.exactly_once.get(&packet_id) {
            Some(true) => {
                self.exactly_once.remove(&packet_id);
                self.unreleased -= 1;
                self.write_pubcomp(packet_id, true);
            }
            Some(false) => return Err(WireError::Violation("PUBREL before PUBREC")),
            // Released before, or in an earlier connection.
            None => self.write_pubcomp(packet_id, false),
        }
        Ok(())
    }

    /// A PUBCOMP of the peer: the publication.
    pub(super) fn take_pubcomp(&mut self, packet: &RawPacket) -> Result<Option<(u16, Delivery)>, WireError> {
        let packet_id = match self.version {
            ProtocolVersion::V311 => bare_packet_id("PUBCOMP", packet)?,
            ProtocolVersion::V5 => parse("PUBCOMP", packet, v5_0::Pubcomp::parse)?.packet_id(),
        };
        match self.awaited(packet_id) {
            Some(Awaited::Pubcomp) => {
                self.answered(packet_id);
                Ok(Some((packet_id, Delivery::Taken)))
            }
            Some(_) => Err(WireError::Violation("PUBCOMP before PUBREL")),
            None => Ok(None),
        }
    }

    fn write_puback(&mut self, packet_id: u16, outcome: Acknowledgement) {
        match self.version {
            ProtocolVersion::V311 => self.write(v3_1_1::Puback::builder().packet_id(packet_id).build()),
            ProtocolVersion::V5 => {
                let builder = v5_0::Puback::builder().packet_id(packet_id);
                self.write(match outcome {
                    Acknowledgement::Taken => builder.build(),
                    Acknowledgement::NotAuthorized => builder.reason_code(PubackReasonCode::NotAuthorized).build(),
                    Acknowledgement::PayloadInvalid => builder.reason_code(PubackReasonCode::PayloadFormatInvalid).build(),
                    Acknowledgement::TopicInvalid => builder.reason_code(PubackReasonCode::TopicNameInvalid).build(),
                    Acknowledgement::QuotaExceeded => builder.reason_code(PubackReasonCode::QuotaExceeded).build(),
                    Acknowledgement::Unavailable => builder.reason_code(PubackReasonCode::UnspecifiedError).build(),
                })
            }
        };
    }

    fn write_pubrec(&mut self, packet_id: u16, outcome: Acknowledgement) {
        match self.version {
            ProtocolVersion::V311 => self.write(v3_1_1::Pubrec::builder().packet_id(packet_id).build()),
            ProtocolVersion::V5 => {
                let builder = v5_0::Pubrec::builder().packet_id(packet_id);
                self.write(match outcome {
                    Acknowledgement::Taken => builder.build(),
                    Acknowledgement::NotAuthorized => builder.reason_code(PubrecReasonCode::NotAuthorized).build(),
                    Acknowledgement::PayloadInvalid => builder.reason_code(PubrecReasonCode::PayloadFormatInvalid).build(),
                    Acknowledgement::TopicInvalid => builder.reason_code(PubrecReasonCode::TopicNameInvalid).build(),
                    Acknowledgement::QuotaExceeded => builder.reason_code(PubrecReasonCode::QuotaExceeded).build(),
                    Acknowledgement::Unavailable => builder.reason_code(PubrecReasonCode::UnspecifiedError).build(),
                })
            }
        };
    }

    fn write_pubrel(&mut self, packet_id: u16, is_known: bool) {
        match self.version {
            ProtocolVersion::V311 => self.write(v3_1_1::Pubrel::builder().packet_id(packet_id).build()),
            ProtocolVersion::V5 if is_known => self.write(v5_0::Pubrel::builder().packet_id(packet_id).build()),
            ProtocolVersion::V5 => self.write(
                v5_0::Pubrel::builder().packet_id(packet_id).reason_code(PubrelReasonCode::PacketIdentifierNotFound).build(),
            ),
        };
    }

    fn write_pubcomp(&mut self, packet_id: u16, is_known: bool) {
        match self.version {
            ProtocolVersion::V311 => self.write(v3_1_1::Pubcomp::builder().packet_id(packet_id).build()),
            ProtocolVersion::V5 if is_known => self.write(v5_0::Pubcomp::builder().packet_id(packet_id).build()),
            ProtocolVersion::V5 => self.write(
                v5_0::Pubcomp::builder().packet_id(packet_id).reason_code(PubcompReasonCode::PacketIdentifierNotFound).build(),
            ),
        };
    }
}

fn is_publication(awaited: Awaited) -> bool {
    matches!(awaited, Awaited::Puback | Awaited::Pubrec | Awaited::Pubcomp)
}

/// Whether a message may be published to it.
fn is_topic(topic: &str) -> bool {
    !topic.is_empty() && !topic.contains(['+', '#', '\0'])
}

/// The 3.1.1 answers are a packet id and nothing else, where the library would take a reason code too.
fn bare_packet_id(name: &'static str, packet: &RawPacket) -> Result<u16, WireError> {
    match *packet.data_as_slice() {
        [high, low] if (high, low) != (0, 0) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(WireError::Malformed(name)),
    }
}

fn read_publish(version: ProtocolVersion, packet: RawPacket) -> Result<Publication, WireError> {
    let flags = packet.flags();
    let PacketData::Publish(body) = packet.data else {
        return Err(WireError::Malformed("PUBLISH"));
    };
    // The two versions' packets are alike, but of different types. What is left over at the end is the payload.
    macro_rules! publication {
        ($publish:expr) => {
            Publication {
                topic: $publish.topic_name().to_owned(),
                payload: tail(&body, $publish.payload().len()),
                qos: $publish.qos().into(),
                retain: $publish.retain(),
                duplicate: $publish.dup(),
                packet_id: $publish.packet_id(),
            }
        };
    }
    let publication = match version {
        ProtocolVersion::V311 => {
            let publish = v3_1_1::Publish::parse(flags, body.clone()).map_err(|error| misread("PUBLISH", error))?.0;
            publication!(publish)
        }
        ProtocolVersion::V5 => {
            let publish = v5_0::Publish::parse(flags, body.clone()).map_err(|error| misread("PUBLISH", error))?.0;
            if publish.props().iter().any(|property| matches!(property, Property::TopicAlias(_))) {
                return Err(WireError::TopicAlias);
            }
            let publication = publication!(publish);
            // The library takes a packet that ends before its properties.
            let properties_at = 2 + publication.topic.len() + publication.packet_id.map_or(0, |_| 2);
            if body.len() <= properties_at {
                return Err(WireError::Malformed("PUBLISH"));
            }
            publication
        }
    };
    if !is_topic(&publication.topic) {
        return Err(WireError::TopicInvalid);
    }
    if publication.packet_id == Some(0) {
        return Err(WireError::Violation("packet id 0"));
    }
    Ok(publication)
}

/// The last bytes of a packet, without copying them.
fn tail(body: &Arc<[u8]>, length: usize) -> Bytes {
    struct Body(Arc<[u8]>);

    impl AsRef<[u8]> for Body {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    if length == 0 {
        return Bytes::new();
    }
    let start = body.len().saturating_sub(length);
    Bytes::from_owner(Body(body.clone())).slice(start..)
}
