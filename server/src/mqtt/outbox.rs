//! Messages on their way to whoever writes them on a connection.

use super::wire::Qos;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// A message to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
}

impl Outgoing {
    /// At least once.
    pub(crate) fn new(topic: String, payload: impl Into<Bytes>) -> Self {
        Self { topic, payload: payload.into(), qos: Qos::AtLeastOnce }
    }
}

/// Where messages to one connection are put. Bounded: what a connection doesn't take is dropped, and whoever sent it sends it again
/// or is asked again.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<Outgoing>,
    is_open: Arc<AtomicBool>,
}

impl Outbox {
    pub(crate) fn channel(messages_max: usize) -> (Self, mpsc::Receiver<Outgoing>) {
        let (sender, receiver) = mpsc::channel(messages_max);
        (Self { sender, is_open: Arc::new(AtomicBool::new(true)) }, receiver)
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
        self.is_open.load(Ordering::Acquire)
    }

    pub(super) fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Release);
    }
}
