//! Which platform's tongue a request speaks, by the first segment of its path.

pub mod common;
pub mod native;
pub mod xlink;

use crate::app::App;
use crate::http::{Reply, Request};
use std::sync::Arc;

/// Answers a request, whichever platform it is meant for.
pub async fn handle(app: &Arc<App>, request: Request) -> Reply {
    match first_segment(request.uri().path()) {
        // A scrape sees the figures of now; between scrapes nobody needs them.
        "metrics" => {
            app.refresh_figures().await;
            native::handle(app, request).await
        }
        "v2" => xlink::handle(app, request).await,
        _ => native::handle(app, request).await,
    }
}

fn first_segment(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').map_or(path, |(first, _)| first)
}
