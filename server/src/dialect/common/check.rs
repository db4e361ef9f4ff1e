//! What a device is to do now, whichever dialect it asks in.
//!
//! Invariant: every check that is not a preview is counted, and no preview is.

use super::limiter::Exceeded;
use crate::app::App;
use sluicegate::model::Timestamp;
use sluicegate::{Check, Checked, Decision, Error};

/// Why a check has no answer.
#[derive(Debug)]
pub enum CheckRefused {
    /// This device asks far too often.
    TooOften(Exceeded),
    Engine(Error),
}

impl From<Error> for CheckRefused {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

/// Answered from memory where that suffices; else by the engine, which may hand out a permit and has it durable first.
pub async fn decide(app: &App, check: &Check<'_>, now: Timestamp) -> Result<Decision, CheckRefused> {
    if !check.rules.preview {
        app.fair_use.check(check.device).map_err(CheckRefused::TooOften)?;
    }
    let decision = match app.engine.check(check, now) {
        Checked::Decided(decision) => decision,
        Checked::Ask => app.engine.decide(check, now).await?,
    };
    if !check.rules.preview {
        app.metrics.check(&decision);
    }
    Ok(decision)
}
