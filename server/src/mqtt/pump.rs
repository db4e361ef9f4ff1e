//! Follows the event log and wakes the couriers of devices that were offered something, or whose upgrade has ended.

use crate::app::App;
use crate::event_reader::EventReader;
use sluicegate::Error;
use std::sync::Arc;
use std::time::Duration;

const TRY_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Pump {
    app: Arc<App>,
    events: EventReader,
}

impl Pump {
    pub(super) fn new(app: Arc<App>) -> Self {
        let newest = *app.engine.event_sequence().borrow();
        let events = EventReader::new(&app.engine, newest.saturating_add(1));
        Self { app, events }
    }

    /// Until the engine closes.
    pub(super) async fn run(mut self) {
        loop {
            match self.events.next().await {
                Ok(page) => page.events.iter().for_each(|event| self.app.mqtt.links.note(event)),
                Err(Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "events could not be read; every device's courier looks for itself");
                    self.app.mqtt.links.wake_all();
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }
}
