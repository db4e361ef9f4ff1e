//! From bytes in any slicing to whole packets, of allowed size and with the flags their kind requires.

use super::WireError;
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{PacketBuildResult, PacketBuilder, RawPacket};
use mqtt_protocol_core::mqtt::packet::PacketType;
use mqtt_protocol_core::mqtt::result_code::MqttError;
use std::fmt;

pub(super) struct Frames {
    builder: PacketBuilder,
}

impl Frames {
    pub(super) fn new(packet_bytes_max: u32) -> Self {
        Self { builder: PacketBuilder::with_maximum_packet_size(packet_bytes_max) }
    }

    /// Holds for the packets after the current one.
    pub(super) fn set_packet_bytes_max(&mut self, packet_bytes_max: u32) {
        self.builder.set_maximum_packet_size(packet_bytes_max);
    }

    /// Takes the bytes of at most one packet off the front. `None`: all were taken, and more are needed.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<(PacketType, RawPacket)>, WireError> {
        let mut cursor = Cursor::new(*bytes);
        let result = self.builder.feed(&mut cursor);
        let taken = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        *bytes = bytes.get(taken..).unwrap_or_default();
        match result {
            PacketBuildResult::Complete(packet) => Ok(Some((kind(&packet)?, packet))),
            PacketBuildResult::Incomplete => Ok(None),
            PacketBuildResult::Error(MqttError::PacketTooLarge) => {
                Err(WireError::TooLarge { bytes_max: self.builder.maximum_packet_size() })
            }
            PacketBuildResult::Error(_) => Err(WireError::Malformed("remaining length")),
        }
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Frames").field("packet_bytes_max", &self.builder.maximum_packet_size()).finish_non_exhaustive()
    }
}

/// The library reads packets without regard to the flags of their first byte; those of a PUBLISH it does check.
fn kind(packet: &RawPacket) -> Result<PacketType, WireError> {
    let kind = PacketType::try_from(packet.packet_type()).map_err(|_| WireError::Malformed("packet type"))?;
    let flags_expected = match kind {
        PacketType::Publish => return Ok(kind),
        PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
        _ => 0,
    };
    if packet.flags() != flags_expected {
        return Err(WireError::Malformed("fixed header"));
    }
    Ok(kind)
}

/// The packet as `parse` reads it; nothing may be left over.
pub(super) fn parse<T>(
    name: &'static str,
    packet: &RawPacket,
    parse: impl FnOnce(&[u8]) -> Result<(T, usize), MqttError>,
) -> Result<T, WireError> {
    packet.parse_exact(parse).map_err(|error| misread(name, error))
}

pub(super) fn misread(name: &'static str, error: MqttError) -> WireError {
    match error {
        MqttError::ProtocolError => WireError::Violation(name),
        _ => WireError::Malformed(name),
    }
}
