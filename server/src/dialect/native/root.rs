//! What lies at the root, for those who run the server and for tools.

use super::Answer;
use super::failure::Failure;
use crate::app::App;
use crate::http::{Reply, json_bytes, text};
use ::http::StatusCode;
use bytes::Bytes;

/// The native API, written first and served as it stands.
const DESCRIPTION: &str = include_str!("openapi.json");

pub(super) fn metrics(app: &App) -> Reply {
    text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", app.metrics.render())
}

/// Somebody is there to answer; that is all it says.
pub(super) fn health() -> Reply {
    json_bytes(StatusCode::OK, Bytes::from_static(br#"{"status":"alive"}"#))
}

/// Whether commands are taken. After a failed disk reads go on, but a restart is needed.
pub(super) fn readiness(app: &App) -> Answer {
    if app.engine.is_writable() {
        return Ok(json_bytes(StatusCode::OK, Bytes::from_static(br#"{"status":"ready"}"#)));
    }
    let message = "the store has failed and takes no commands; see the log, mend the disk and restart";
    Err(Failure::unavailable("not_ready", 60, message))
}

pub(super) fn description() -> Reply {
    json_bytes(StatusCode::OK, Bytes::from_static(DESCRIPTION.as_bytes()))
}
