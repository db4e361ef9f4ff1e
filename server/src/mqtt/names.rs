//! Which device a broker's topic means. A broker's topics name no organization: a device is that of the one organization that has one
//! of its name, and where two have, nobody can say whose it is.

use super::Receipt;
use crate::app::App;
use dashmap::DashMap;
use sluicegate::DeviceName;
use std::time::{Duration, Instant};

/// Names that were looked up; a device that came into being in another organization is noticed this much later.
#[derive(Debug, Default)]
pub(crate) struct Names(DashMap<Box<str>, (DeviceName, Instant)>);

const FRESH_FOR: Duration = Duration::from_secs(10);
/// More than these are looked up each time.
const NAMES_MAX: usize = 200_000;

/// The device with this id in whatever product.
pub(crate) async fn resolve(app: &App, device_id: &str) -> Result<DeviceName, Receipt> {
    resolve_in(app, None, device_id).await
}

/// The device with this id, of this product where one is named.
pub(crate) async fn resolve_in(app: &App, product_id: Option<&str>, device_id: &str) -> Result<DeviceName, Receipt> {
    let names = &app.mqtt.names.0;
    let key = format!("{}\0{device_id}", product_id.unwrap_or_default());
    if let Some(known) = names.get(key.as_str()).filter(|known| known.1.elapsed() < FRESH_FOR) {
        return Ok(known.0.clone());
    }
    let called = app.engine.read(|state| state.devices_called(product_id, device_id).take(2).collect::<Vec<_>>()).await?;
    let name = match &called[..] {
        [name] => name.clone(),
        [] => {
            names.remove(key.as_str());
            return Err(Receipt::Refused(format!("no device {device_id:?} here; create it, so that its organization is known")));
        }
        _ => {
            names.remove(key.as_str());
            let message = format!("several devices are called {device_id:?}; on a broker nobody can tell them apart");
            return Err(Receipt::Refused(message));
        }
    };
    if names.len() < NAMES_MAX {
        names.insert(key.into(), (name.clone(), Instant::now()));
    }
    Ok(name)
}
