//! What every handler shares.

use crate::auth::Auth;
use crate::config::{Config, Registration};
use crate::dialect::common::fair_use::FairUse;
use crate::dialect::{enos, huawei};
use crate::downloads::Downloads;
use crate::guesses::Guesses;
use crate::image::LinkSigner;
use crate::metrics::Metrics;
use crate::mqtt::Mqtt;
use crate::secrets::Secrets;
use crate::uploads::Uploads;
use crate::webhooks::Webhooks;
use sluicegate::model::{Artifact, ImageId, Timestamp, UpgradeId};
use sluicegate::{Engine, State};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The running server: one of it, behind an `Arc`, for all connections.
#[derive(Debug)]
pub struct App {
    pub engine: Engine,
    pub config: Config,
    pub auth: Auth,
    pub secrets: Arc<Secrets>,
    pub links: LinkSigner,
    pub downloads: Arc<Downloads>,
    pub uploads: Arc<Uploads>,
    pub metrics: Arc<Metrics>,
    pub enos: enos::Memory,
    pub huawei: huawei::Memory,
    pub webhooks: Webhooks,
    pub(crate) mqtt: Mqtt,
    pub fair_use: FairUse,
    pub guesses: Guesses,
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

    /// Brings the figures of the metrics up to date; a store that hangs leaves them as they were.
    pub async fn refresh_figures(&self) {
        let read = self.engine.read(|state: &State| state.totals());
        if let Ok(Ok(totals)) = tokio::time::timeout(FIGURES_TIMEOUT, read).await {
            self.metrics.state(&totals, self.engine.queue_length(), self.engine.is_writable());
            self.metrics.mqtt_devices(self.mqtt.links.len());
        }
    }

    /// Where an artifact is fetched from: a signed link to an image of ours, else the address as the operator gave it.
    pub fn artifact_url(&self, artifact: &Artifact, upgrade: Option<UpgradeId>, now: Timestamp) -> String {
        match artifact.image {
            Some(image) => self.image_link(image, upgrade, now),
            None => artifact.url.as_deref().unwrap_or_default().to_owned(),
        }
    }

    /// The signed link to an image, for an offer (`upgrade`) or for an operator.
    pub fn image_link(&self, image: ImageId, upgrade: Option<UpgradeId>, now: Timestamp) -> String {
        let expires_at = now.plus_seconds(self.config.images.link_ttl_s);
        self.links.link(&self.public_url, image, upgrade, expires_at)
    }
}

/// A scrape is answered with older figures rather than not at all.
const FIGURES_TIMEOUT: Duration = Duration::from_secs(1);

/// What time it is.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since_epoch.as_millis() as u64)
}
