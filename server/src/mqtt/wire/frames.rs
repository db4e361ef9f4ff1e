//! From bytes in any slicing to whole packets, of allowed size and with the flags their kind requires.

use super::{ProtocolVersion, WireError};
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{PacketBuildResult, PacketBuilder, RawPacket};
use mqtt_protocol_core::mqtt::packet::{PacketType, VariableByteInteger};
use mqtt_protocol_core::mqtt::result_code::MqttError;
use std::fmt;

pub(super) struct Frames {
    builder: PacketBuilder,
    /// The first byte and the announced length of the packet that is coming.
    header: Vec<u8>,
    /// In which version a PUBLISH that is too large is cut, where it is.
    cuts: Option<ProtocolVersion>,
    oversized: Option<Oversized>,
    is_cut: bool,
}

/// A PUBLISH that is too large, while it comes: all but its beginning is dropped.
struct Oversized {
    first: u8,
    missing: usize,
    beginning: Vec<u8>,
}

impl Frames {
    pub(super) fn new(packet_bytes_max: u32) -> Self {
        let builder = PacketBuilder::with_maximum_packet_size(packet_bytes_max);
        Self { builder, header: Vec::new(), cuts: None, oversized: None, is_cut: false }
    }

    /// From now on a PUBLISH that is too large is handed out without its payload, and no error.
    pub(super) fn cut(&mut self, version: ProtocolVersion) {
        self.cuts = Some(version);
    }

    /// Whether the packet that was handed out last was too large.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Holds for the packets after the current one.
    pub(super) fn set_packet_bytes_max(&mut self, packet_bytes_max: u32) {
        self.builder.set_maximum_packet_size(packet_bytes_max);
    }

    /// Takes the bytes of at most one packet off the front. `None`: all were taken, and more are needed.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<(PacketType, RawPacket)>, WireError> {
        loop {
            if let Some((oversized, version)) = self.oversized.as_mut().zip(self.cuts) {
                if !oversized.take(bytes) {
                    return Ok(None);
                }
                let packet = oversized.cut(version);
                (self.oversized, self.is_cut) = (None, true);
                return packet.map(|packet| Some((PacketType::Publish, packet)));
            }
            // The header goes byte by byte, so that it is known where the library takes no more than that.
            let is_header = self.header.len() < 2 || self.header.last().is_some_and(|byte| byte & 0x80 != 0);
            let given = if is_header { bytes.get(..1).unwrap_or_default() } else { *bytes };
            let mut cursor = Cursor::new(given);
            let result = self.builder.feed(&mut cursor);
            let taken = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
            if is_header {
                self.header.extend(given);
            }
            *bytes = bytes.get(taken..).unwrap_or_default();
            match result {
                PacketBuildResult::Complete(packet) => {
                    self.header.clear();
                    self.is_cut = false;
                    return Ok(Some((kind(&packet)?, packet)));
                }
                PacketBuildResult::Incomplete if bytes.is_empty() => return Ok(None),
                PacketBuildResult::Incomplete => {}
                PacketBuildResult::Error(MqttError::PacketTooLarge) => {
                    let oversized = self.cuts.and_then(|_| Oversized::new(&self.header));
                    self.header.clear();
                    let bytes_max = self.builder.maximum_packet_size();
                    self.oversized = Some(oversized.ok_or(WireError::TooLarge { bytes_max })?);
                }
                PacketBuildResult::Error(_) => return Err(WireError::Malformed("remaining length")),
            }
        }
    }
}

impl Oversized {
    /// Enough for the longest topic and a packet id.
    const BEGINNING_BYTES_MAX: usize = 2 + u16::MAX as usize + 2;

    /// None of another packet than a PUBLISH.
    fn new(header: &[u8]) -> Option<Self> {
        let (first, length) = header.split_first()?;
        let missing = length.iter().rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
        (first >> 4 == PacketType::Publish as u8).then_some(Self { first: *first, missing, beginning: Vec::new() })
    }

    /// Whether it has come to its end.
    fn take(&mut self, bytes: &mut &[u8]) -> bool {
        let (own, others) = bytes.split_at(self.missing.min(bytes.len()));
        let wanted = Self::BEGINNING_BYTES_MAX.saturating_sub(self.beginning.len());
        self.beginning.extend(own.iter().take(wanted));
        self.missing -= own.len();
        *bytes = others;
        self.missing == 0
    }

    /// With its topic and packet id, and nothing behind them.
    fn cut(&self, version: ProtocolVersion) -> Result<RawPacket, WireError> {
        const MALFORMED: WireError = WireError::Malformed("PUBLISH");
        let topic_bytes = self.beginning.first_chunk().map(|bytes| usize::from(u16::from_be_bytes(*bytes))).ok_or(MALFORMED)?;
        let packet_id_bytes = if self.first & 0b0110 == 0 { 0 } else { 2 };
        let beginning = self.beginning.get(..2 + topic_bytes + packet_id_bytes).ok_or(MALFORMED)?;
        let properties: &[u8] = match version {
            ProtocolVersion::V311 => &[],
            ProtocolVersion::V5 => &[0],
        };
        let length = u32::try_from(beginning.len() + properties.len()).ok().and_then(VariableByteInteger::from_u32);
        let length = length.ok_or(MALFORMED)?;
        let packet = [&[self.first], length.as_bytes(), beginning, properties].concat();
        match PacketBuilder::new().feed(&mut Cursor::new(&packet[..])) {
            PacketBuildResult::Complete(packet) => Ok(packet),
            PacketBuildResult::Incomplete | PacketBuildResult::Error(_) => Err(MALFORMED),
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
