//! The MQTT protocol without its sockets: bytes in, meaning out, and the reverse.
//!
//! [`ServerWire`] and [`ClientWire`] are the two ends of one connection. Both take bytes in whatever slices they come
//! (`receive`), hand out what they mean, and write what is to be sent into `output`, which the caller drains to its socket. Neither
//! waits, looks at a clock, or says anything by itself but what the protocol prescribes to the letter (PINGRESP, PUBREL, PUBCOMP, the
//! repeated PUBREC).
//!
//! Packets are read and written by `mqtt-protocol-core`; the state of a connection is kept here. Its own state machine isn't used: it
//! keeps a copy of each publication of a lasting session, acts on packets before the connection is accepted, and can be made to panic
//! (a QoS 2 PUBLISH with packet id 0 sent twice; a second CONNACK with another receive maximum).
//!
//! Invariants:
//!   - Nothing that the peer sends makes this code panic, or hold more than one packet of at most `packet_bytes_max` bytes and
//!     65,535 packet ids in each direction.
//!   - Memory for a packet is reserved only after its announced size was found to be allowed.
//!   - A publication is acknowledged when the caller says so, never earlier.
//!   - A QoS 2 publication is handed out once per connection, however often the peer repeats it. Nothing is remembered from one
//!     connection to the next: a peer that repeats it on a new one is heard again.
//!   - After an error, and after the last packet of a connection, whatever else comes is ignored.
//!   - The two protocol versions differ in nothing a caller has to ask for: what 3.1.1 can't say is left out.

mod client;
mod exchange;
mod frames;
mod server;
#[cfg(test)]
mod tests;

pub use client::{ClientWire, ConnectOptions, FromServer};
pub use server::{Connect, Farewell, FromClient, Refusal, ServerWire, SubscribeRefusal};

use bytes::Bytes;
use mqtt_protocol_core::mqtt::packet;
use mqtt_protocol_core::mqtt::result_code::DisconnectReasonCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

/// How certainly a publication arrives. Ordered from the weakest promise to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// QoS 0: not acknowledged.
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce,
    /// QoS 2.
    ExactlyOnce,
}

impl From<packet::Qos> for Qos {
    fn from(qos: packet::Qos) -> Self {
        match qos {
            packet::Qos::AtMostOnce => Self::AtMostOnce,
            packet::Qos::AtLeastOnce => Self::AtLeastOnce,
            packet::Qos::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

impl From<Qos> for packet::Qos {
    fn from(qos: Qos) -> Self {
        match qos {
            Qos::AtMostOnce => Self::AtMostOnce,
            Qos::AtLeastOnce => Self::AtLeastOnce,
            Qos::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

/// A message as it came. Its topic is neither empty nor has it wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    pub topic: String,
    /// Shares the memory of the packet it came in.
    pub payload: Bytes,
    pub qos: Qos,
    /// As the peer set it; what it asks for is up to the caller.
    pub retain: bool,
    /// The peer may have sent it before.
    pub duplicate: bool,
    /// `None` exactly with [`Qos::AtMostOnce`].
    pub packet_id: Option<u16>,
}

/// What is taken from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireLimits {
    /// A larger packet ends the connection before memory is reserved for it. Each connection may hold one packet of this size while it
    /// arrives.
    pub packet_bytes_max: u32,
    /// Publications of QoS 1 and 2 that may be unacknowledged at once; 0 counts as 1. A 5.0 peer is told; a client breaks the protocol by
    /// exceeding it. A 3.1.1 peer can't be told: the caller should read no more while the wire `is_saturated`.
    pub receive_max: u16,
}

/// What the peer did wrong. The connection is of no more use; what is in `output` should still be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The named packet can't be read.
    #[error("the peer sent a malformed {0}")]
    Malformed(&'static str),
    /// A packet that can be read, where or how the protocol forbids it.
    #[error("the peer broke the protocol: {0}")]
    Violation(&'static str),
    #[error("the peer sent a packet of more than {bytes_max} bytes")]
    TooLarge { bytes_max: u32 },
    /// The number is the protocol level of its CONNECT.
    #[error("the peer speaks protocol level {0}, which isn't MQTT 3.1.1 or 5.0")]
    UnsupportedVersion(u8),
    #[error("the peer asks for enhanced authentication, which isn't supported")]
    UnsupportedAuthentication,
    #[error("the peer published to a topic that is empty or has wildcards or a null character")]
    TopicInvalid,
    #[error("the peer used a topic alias, though none is allowed")]
    TopicAlias,
    #[error("the peer has more than {receive_max} unacknowledged publications")]
    ReceiveMaximumExceeded { receive_max: u16 },
    #[error("the peer used a subscription identifier, though they aren't supported")]
    SubscriptionIdentifier,
}

impl WireError {
    /// What a 5.0 peer is told.
    fn reason(&self) -> DisconnectReasonCode {
        match self {
            Self::Malformed(_) => DisconnectReasonCode::MalformedPacket,
            Self::Violation(_) | Self::UnsupportedVersion(_) | Self::UnsupportedAuthentication => {
                DisconnectReasonCode::ProtocolError
            }
            Self::TooLarge { .. } => DisconnectReasonCode::PacketTooLarge,
            Self::TopicInvalid => DisconnectReasonCode::TopicNameInvalid,
            Self::TopicAlias => DisconnectReasonCode::TopicAliasInvalid,
            Self::ReceiveMaximumExceeded { .. } => DisconnectReasonCode::ReceiveMaximumExceeded,
            Self::SubscriptionIdentifier => DisconnectReasonCode::SubscriptionIdentifiersNotSupported,
        }
    }
}

/// Why something of ours wasn't sent. Nothing was written then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The peer has to acknowledge something first.
    #[error("the peer takes no more unacknowledged publications")]
    Full,
    /// It can never be sent to this peer; the protocol wants it to be regarded as sent.
    #[error("the packet is larger than the peer takes")]
    TooLarge,
    /// Not connected yet, or no more.
    #[error("not connected")]
    NotConnected,
    /// The topic, or a filter, is empty, too long, or has characters that don't belong there.
    #[error("the topic is not valid")]
    TopicInvalid,
    /// The server said that it takes only weaker ones.
    #[error("the peer doesn't take this quality of service")]
    QosUnsupported,
}

/// What became of a publication of ours. 3.1.1 knows no refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Taken,
    /// There is no room for it now.
    RefusedForNow,
    /// The same again would be refused again.
    Refused,
}

impl Delivery {
    /// Of the reason code of a PUBACK or PUBREC.
    fn of(code: u8) -> Self {
        const REFUSED_FROM: u8 = 0x80;
        const QUOTA_EXCEEDED: u8 = 0x97;
        match code {
            0..REFUSED_FROM => Self::Taken,
            QUOTA_EXCEEDED => Self::RefusedForNow,
            // A reason that isn't told may last, and then nothing would ever pass that one publication.
            _ => Self::Refused,
        }
    }
}

/// What became of a publication. 3.1.1 knows only [`Taken`](Self::Taken): there all are acknowledged alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    Taken,
    NotAuthorized,
    PayloadInvalid,
    TopicInvalid,
    QuotaExceeded,
    Unavailable,
}
