//! The event log, read at the pace of whoever follows it: a page at once, and the next only when it is asked for. Who is slow holds
//! one page in memory and nobody up.

use sluicegate::{Engine, Error, EventPage};
use tokio::sync::{mpsc, watch};

/// Events read at once: some 64 KiB of them.
const PAGE_EVENTS_MAX: usize = 256;

/// A place in the event log.
#[derive(Debug)]
pub(crate) struct EventReader {
    engine: Engine,
    newest: watch::Receiver<u64>,
    from: u64,
}

impl EventReader {
    /// From this sequence number on, or from the oldest that is kept if that is later.
    pub(crate) fn new(engine: &Engine, from: u64) -> Self {
        Self { engine: engine.clone(), newest: engine.event_sequence(), from }
    }

    /// One page after another, read ahead by one, until the receiver is dropped or the events can't be read.
    pub(crate) fn into_channel(mut self) -> mpsc::Receiver<EventPage> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let page = tokio::select! {
                    page = self.next() => page,
                    () = sender.closed() => return,
                };
                match page {
                    Ok(page) => {
                        if sender.send(page).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "events can't be read; whoever follows them is let go");
                        return;
                    }
                }
            }
        });
        receiver
    }

    /// The next events, at least one; waits until there are some. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<EventPage, Error> {
        loop {
            // Marked as seen before the page is read, so that an event between the two wakes us.
            self.newest.borrow_and_update();
            let (engine, from) = (self.engine.clone(), self.from);
            let page = tokio::task::spawn_blocking(move || engine.events(from, PAGE_EVENTS_MAX)).await;
            let page = page.map_err(|_| Error::Closed)??;
            if !page.events.is_empty() {
                self.from = page.next;
                return Ok(page);
            }
            self.newest.changed().await.map_err(|_| Error::Closed)?;
        }
    }
}
