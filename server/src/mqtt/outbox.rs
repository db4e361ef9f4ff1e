//! Messages on their way to whoever writes them on a connection.

use super::links::UnderWay;
use super::wire::Qos;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// A message to be published.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    /// Who waits for it to arrive at a broker; told where this is dropped.
    pub(crate) under_way: Option<UnderWay>,
}

impl Outgoing {
    /// At least once.
    pub(crate) fn new(topic: String, payload: impl Into<Bytes>) -> Self {
        Self { topic, payload: payload.into(), qos: Qos::AtLeastOnce, under_way: None }
    }
}

/// Where messages to one connection are put. Bounded: what a connection doesn't take is dropped, and whoever sent it sends it again
/// or is asked again.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<Outgoing>,
    /// Odd while there is a connection; larger with each.
    connection: Arc<AtomicU64>,
}

impl Outbox {
    pub(crate) fn channel(messages_max: usize) -> (Self, mpsc::Receiver<Outgoing>) {
        let (sender, receiver) = mpsc::channel(messages_max);
        (Self { sender, connection: Arc::new(AtomicU64::new(1)) }, receiver)
    }

    /// False where it was dropped.
    pub(crate) fn send(&self, message: Outgoing) -> bool {
        self.is_open() && self.sender.try_send(message).is_ok()
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.sender.same_channel(&other.sender)
    }

    /// Whether there is a connection now. Without one nothing is sent, and nobody is waited for.
    pub(crate) fn is_open(&self) -> bool {
        self.connection().is_some()
    }

    /// Which connection there is now, in a number that no other one has.
    pub(crate) fn connection(&self) -> Option<u64> {
        Some(self.connection.load(Ordering::Acquire)).filter(|number| number % 2 == 1)
    }

    pub(super) fn set_open(&self, is_open: bool) {
        if self.is_open() != is_open {
            self.connection.fetch_add(1, Ordering::AcqRel);
        }
    }
}
