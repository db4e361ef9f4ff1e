//! What every handler shares.

use crate::auth::Auth;
use crate::config::{Config, Registration};
use crate::downloads::Downloads;
use crate::image::LinkSigner;
use crate::metrics::Metrics;
use crate::secrets::Secrets;
use sluicegate::Engine;
use sluicegate::model::{ImageId, Timestamp, UpgradeId};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The running server: one of it, behind an `Arc`, for all connections.
#[derive(Debug)]
pub struct App {
    pub engine: Engine,
    pub config: Config,
    pub auth: Auth,
    pub secrets: Arc<Secrets>,
    pub links: LinkSigner,
    pub downloads: Arc<Downloads>,
    pub metrics: Arc<Metrics>,
    /// What links begin with, without a slash at its end.
    pub public_url: String,
}

impl App {
    /// The only clock of the server: what it says is handed to the engine as an argument.
    pub fn now(&self) -> Timestamp {
        now()
    }

    /// What links in offers begin with: `--public-url`, else `http://` and the listen address. No slash at its end.
    pub fn public_url(&self) -> &str {
        &self.public_url
    }

    /// Whether products and devices come into being on first use.
    pub fn registers(&self) -> bool {
        self.config.registration == Registration::Open
    }

    /// The signed link to an image, for an offer (`upgrade`) or for an operator.
    pub fn image_link(&self, image: ImageId, upgrade: Option<UpgradeId>, now: Timestamp) -> String {
        let expires_at = now.plus_seconds(self.config.images.link_ttl_s);
        self.links.link(&self.public_url, image, upgrade, expires_at)
    }
}

/// What time it is.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since_epoch.as_millis() as u64)
}
