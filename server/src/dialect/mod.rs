//! Which platform's tongue a request speaks, by the first segment of its path.

pub mod common;
pub mod enos;
pub mod huawei;
pub mod native;
pub mod xlink;

use crate::app::App;
use crate::http::{Reply, Request};
use crate::webhooks::Format;
use std::sync::Arc;

/// Every way in which events are written for those who subscribed.
pub static EVENT_FORMATS: &[&dyn Format] = &[
    &native::EventFormat,
    &huawei::NOTIFICATIONS[0],
    &huawei::NOTIFICATIONS[1],
    &huawei::NOTIFICATIONS[2],
    &huawei::NOTIFICATIONS[3],
];

/// Answers a request, whichever platform it is meant for.
pub async fn handle(app: &Arc<App>, request: Request) -> Reply {
    match first_segment(request.uri().path()) {
        // A scrape sees the figures of now; between scrapes nobody needs them.
        "metrics" => {
            app.refresh_figures().await;
            native::handle(app, request).await
        }
        "apim-token-service" | "connect-service" => enos::handle(app, request).await,
        "iocm" | "iodm" => huawei::handle(app, request).await,
        "v2" => xlink::handle(app, request).await,
        _ => native::handle(app, request).await,
    }
}

fn first_segment(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').map_or(path, |(first, _)| first)
}
