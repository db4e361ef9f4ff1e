//! A gateway's connection: the protocol of the server's own wire, over a socket.
//!
//! Light enough for thousands in one process: nothing is held while nothing is said but the socket and the state of the protocol.

use bytes::Bytes;
use sluicegate_server::mqtt::wire::{
    Acknowledgement, ClientWire, ConnectOptions, FromServer, ProtocolVersion, Publication, PublishError, Qos, WireLimits,
};
use std::io;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// It may come again.
    #[error("{0}")]
    Lost(String),
    /// It makes no sense to try again.
    #[error("{0}")]
    Refused(String),
}

impl From<io::Error> for LineError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

#[derive(Debug)]
pub(crate) struct MqttLine {
    stream: TcpStream,
    wire: ClientWire,
}

impl MqttLine {
    /// Connects as a gateway by MQTT 3.1.1, and returns once the server has let it in.
    pub(crate) async fn connect(address: &str, sn: &str, token: &str) -> Result<Self, LineError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let options = ConnectOptions {
            version: ProtocolVersion::V311,
            client_id: sn.to_owned(),
            clean: true,
            keep_alive_s: KEEP_ALIVE_S,
            username: Some(sn.to_owned()),
            password: Some(token.as_bytes().to_vec()),
            session_expiry_s: 0,
            will: None,
        };
        let mut line = Self { stream, wire: ClientWire::new(ProtocolVersion::V311, LIMITS) };
        line.wire.connect(&options).map_err(|error| LineError::Refused(error.to_string()))?;
        line.flush().await?;
        let mut said = Vec::new();
        while said.is_empty() {
            line.hear(&mut said).await?;
        }
        match said.remove(0) {
            FromServer::Connected { .. } => Ok(line),
            FromServer::Refused { reason, is_credentials: true, .. } => Err(LineError::Refused(reason)),
            other => Err(LineError::Lost(format!("{other:?}"))),
        }
    }

    /// Reads some bytes. Cancel-safe: nothing is read and then lost.
    pub(crate) async fn hear(&mut self, said: &mut Vec<FromServer>) -> Result<(), LineError> {
        self.stream.readable().await?;
        // On the stack, and not across a wait: else each gateway would hold one.
        let mut bytes = [0; 4_096];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => Err(LineError::Lost("the server closed the connection".to_owned())),
            Ok(length) => self.wire.receive(&bytes[..length], said).map_err(|error| LineError::Lost(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Subscribes to `filters` by QoS 1; the packet id of what is to be answered.
    pub(crate) fn subscribe(&mut self, filters: &[String]) -> Result<u16, LineError> {
        let filters: Vec<(&str, Qos)> = filters.iter().map(|filter| (&**filter, Qos::AtLeastOnce)).collect();
        self.wire.subscribe(&filters).map_err(|error| LineError::Refused(error.to_string()))
    }

    pub(crate) fn publish(&mut self, topic: &str, payload: Bytes, qos: Qos) -> Result<Option<u16>, PublishError> {
        self.wire.publish(topic, payload, qos)
    }

    pub(crate) fn acknowledge(&mut self, publication: &Publication) {
        self.wire.acknowledge(publication, Acknowledgement::Taken);
    }

    pub(crate) fn ping(&mut self) {
        self.wire.ping();
    }

    /// Whether another publication of QoS 1 may be sent.
    pub(crate) fn has_vacancy(&self) -> bool {
        self.wire.vacancy() > 0
    }

    pub(crate) async fn flush(&mut self) -> Result<(), LineError> {
        if self.wire.output().is_empty() {
            return Ok(());
        }
        let output = self.wire.output().split();
        match tokio::time::timeout(WRITE_MAX, self.stream.write_all(&output)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(LineError::Lost(format!("the server took nothing for {} s", WRITE_MAX.as_secs()))),
        }
    }

    /// Says goodbye.
    pub(crate) async fn disconnect(mut self) {
        self.wire.disconnect();
        // Whoever is gone needs no goodbye.
        let _ = self.flush().await;
        let _ = self.stream.shutdown().await;
    }
}

/// What the platform's gateways connect with.
pub(crate) const KEEP_ALIVE_S: u16 = 30;
/// An order has some 700 bytes.
const LIMITS: WireLimits = WireLimits { packet_bytes_max: 64 << 10, receive_max: 16 };
/// Far longer than a healthy server needs to read a message, however loaded the machine.
const WRITE_MAX: Duration = Duration::from_secs(30);
