//! Whatever of this dialect reads what comes from outside, by name, for those who try to break it.

use super::envelope::Envelope;
use super::progress::Progress;
use super::topic::UpTopic;
use super::topology::Topology;
use super::{properties, requests, rest};
use crate::testing::{Reader, done, with_text};
use sluicegate::model::Timestamp;

pub(crate) const READERS: &[Reader] = &[
    ("autel-message", |bytes| {
        if let Ok(envelope) = Envelope::read(bytes) {
            done(requests::answer(&envelope, "acme", Timestamp(0)));
            done((Topology::read(&envelope.data), properties::firmware_version(&envelope.data)));
            if let Ok(progress) = Progress::read(&envelope.data) {
                done((progress.meaning(), progress.reply_meaning()));
            }
        }
    }),
    ("autel-order", |bytes| done(rest::read_orders(bytes))),
    ("autel-topic", |bytes| with_text(bytes, |text| done(UpTopic::read(text).is_some()))),
];
