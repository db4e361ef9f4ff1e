//! Placeholder until the dialect is there.

use crate::app::App;
use crate::http::{Reply, Request, empty};
use std::sync::Arc;

pub async fn handle(app: &Arc<App>, request: Request) -> Reply {
    let _ = (app, request);
    empty(::http::StatusCode::NOT_FOUND)
}
