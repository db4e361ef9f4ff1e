//! Whatever of this dialect reads what comes from outside, by name, for those who try to break it.

use super::device::messages::{GetVersion, Inform, ProgressReport, Received, Request, UpgradeReply};
use super::device::topics::UpTopic;
use super::expression::{Expression, FieldRule};
use super::firmware_metadata::Metadata;
use super::job_decode::JobWritten;
use super::{device_search, job_search, pattern, task_search};
use crate::dialect::common::decode::from_json;
use crate::testing::{Reader, done, with_text};
use sluicegate::Limits;

pub(crate) const READERS: &[Reader] = &[
    ("enos-job", |bytes| {
        if let Ok(written) = from_json::<JobWritten>(bytes) {
            done(written.read(64));
        }
    }),
    ("enos-metadata", |bytes| done(Metadata::read(bytes, &Limits::default()))),
    ("enos-expression", |bytes| {
        with_text(bytes, |text| {
            evaluate(text, device_search::FIELDS);
            evaluate(text, job_search::FIELDS);
            evaluate(text, task_search::FIELDS);
        });
    }),
    ("enos-pattern", |bytes| {
        with_text(bytes, |text| {
            let (pattern, name) = text.split_once('\n').unwrap_or((text, text));
            done(pattern::Pattern::new(pattern).matches(name));
        });
    }),
    ("enos-device-message", |bytes| {
        // Whatever comes is taken or refused, and the refusal can be sent.
        done(Received::<Inform>::read(bytes).map_err(|refusal| refusal.reply()));
        done(Received::<ProgressReport>::read(bytes).map_err(|refusal| refusal.reply()));
        done(Received::<GetVersion>::read(bytes).map_err(|refusal| refusal.reply()));
        done(Received::<Request>::read(bytes).map_err(|refusal| refusal.reply()));
        done(UpgradeReply::read(bytes));
    }),
    ("enos-topic", |bytes| with_text(bytes, |text| done(UpTopic::read(text).is_some()))),
];

/// Reads an expression, and asks it with every test true and false.
fn evaluate<F: Copy>(text: &str, table: &'static [FieldRule<F>]) {
    if let Ok(Some(expression)) = Expression::parse(text, table) {
        for answer in [true, false] {
            expression.holds(|_, matcher| {
                matcher.matches_text(text);
                answer
            });
        }
    }
}
