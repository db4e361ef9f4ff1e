//! The server's parts for programs that measure them from outside, beside the tests: a whole server without sockets of its own, and
//! what is private to a dialect by name. Not part of the library's interface.

use crate::app::App;
use crate::auth::IssuedToken;
use crate::config::{Config, ServeArguments};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

pub use crate::dialect::{native::reads_check as reads_native_check, xlink::reads_check as reads_xlink_check};

/// Opens `folder` as `serve` does, with the defaults of everything; whoever calls it serves the connections.
pub fn open(folder: &Path) -> Result<Arc<App>, String> {
    let arguments = ServeArguments { data: Some(folder.to_owned()), ..ServeArguments::default() };
    let config = Config::load(&arguments).map_err(|error| error.to_string())?;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 8080));
    crate::cli::open(config, Some("measured-token".to_owned()), nowhere)
}

/// Every HTTP call there is, as the dispatchers find it: the platform, the method, and the path with its names in braces. For tests that
/// have to try all of them.
pub fn routes() -> Vec<(&'static str, &'static str, String)> {
    crate::dialect::routes().collect()
}

/// Every MQTT topic in which devices speak, as filters over all devices. Where a filter has two `+`, the first is the product.
pub fn device_filters() -> Vec<&'static str> {
    crate::dialect::device_filters().collect()
}

/// A device's token, as an operator gets one for it.
pub async fn device_token(app: &App, product_id: &str, device_id: &str) -> Result<IssuedToken, sluicegate::Error> {
    let new = crate::auth::NewToken {
        purpose: sluicegate::model::TokenPurpose::Access,
        role: sluicegate::model::Role::Device,
        organization: crate::auth::DEFAULT_ORGANIZATION.into(),
        product_id: Some(product_id.into()),
        device_id: Some(device_id.into()),
        app: None,
        ttl_s: 3_600,
    };
    app.auth.issue(new, app.now()).await
}
