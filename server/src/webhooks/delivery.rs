//! One subscription: from the event log to its receiver.

use super::client::Client;
use super::{Format, Message};
use crate::app::App;
use crate::dialect::common::hexadecimal::to_hexadecimal;
use crate::event_reader::EventReader;
use ::http::header::HeaderName;
use ::http::{HeaderValue, Uri};
use aws_lc_rs::hmac;
use sluicegate::model::{Event, Subscription};
use sluicegate::{Error, State};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// How far a delivery is, is written down at most this often.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Events that made no message are skipped over at most this many times after a restart.
const UNSENT_EVENTS_MAX: u64 = 10_000;
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(super) struct Delivery {
    app: Arc<App>,
    client: Client,
    format: &'static dyn Format,
    subscription: Subscription,
    key: Option<hmac::Key>,
    saved: u64,
    saved_at: Instant,
    /// Something was delivered since.
    delivered: bool,
}

impl Delivery {
    /// `None` where its messages can't be signed as promised.
    pub(super) fn new(app: Arc<App>, client: Client, format: &'static dyn Format, row: &Subscription) -> Option<Self> {
        let secret = row.secret_encrypted.as_ref().map(|encrypted| app.secrets.decrypt(&row.id, encrypted));
        let key = match secret {
            Some(Ok(secret)) => Some(hmac::Key::new(hmac::HMAC_SHA256, &secret)),
            Some(Err(error)) => {
                tracing::error!(subscription = %row.id, %error, "its messages can't be signed, and so aren't sent");
                return None;
            }
            None => None,
        };
        Some(Self {
            app,
            client,
            format,
            subscription: row.clone(),
            key,
            saved: row.position,
            saved_at: Instant::now(),
            delivered: false,
        })
    }

    /// Until it is aborted, or the engine closes.
    pub(super) async fn run(mut self) {
        let mut position = self.subscription.position;
        let mut events = EventReader::new(&self.app.engine, position.saturating_add(1));
        loop {
            let page = tokio::select! {
                page = events.next() => page,
                () = sleep_until(self.saved_at + SAVE_EVERY), if self.is_worth_saving(position) => {
                    self.save(position).await;
                    continue;
                }
            };
            let page = match page {
                Ok(page) => page,
                Err(Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(subscription = %self.subscription.id, %error, "events could not be read; tried again");
                    sleep(WAIT_MIN).await;
                    continue;
                }
            };
            let own = |event: &&Arc<Event>| event.organization == self.subscription.organization;
            let events: Vec<&Event> = page.events.iter().filter(own).map(|event| &**event).collect();
            if events.is_empty() {
                position = page.next.saturating_sub(1).max(position);
                continue;
            }
            let write = |state: &State| self.format.messages(state, &self.subscription, &events);
            let Ok(messages) = self.app.engine.read(write).await else { return };
            for message in messages {
                let sequence = message.sequence;
                self.deliver(message, position).await;
                position = sequence.max(position);
                self.delivered = true;
                if self.saved_at.elapsed() >= SAVE_EVERY {
                    self.save(position).await;
                }
            }
            // What made no message is done, too.
            position = page.next.saturating_sub(1).max(position);
            if self.is_worth_saving(position) && self.saved_at.elapsed() >= SAVE_EVERY {
                self.save(position).await;
            }
        }
    }

    /// Events that made no message are read again quickly, so they alone are seldom worth a write.
    fn is_worth_saving(&self, position: u64) -> bool {
        position > self.saved && (self.delivered || position - self.saved >= UNSENT_EVENTS_MAX)
    }

    /// Returns once the receiver has it, or it was given up. `before`: what was delivered so far, to be written down before a long
    /// wait.
    async fn deliver(&mut self, message: Message, before: u64) {
        let mut attempts = Attempts::new(self.format.attempts_max());
        loop {
            let subscription = Arc::clone(&self.subscription.id);
            let failed = match self.app.config.webhooks.allowed.check(&self.subscription.url) {
                Ok(uri) => match self.call(uri, &message).await {
                    Ok(()) => {
                        metrics::counter!("sluicegate_webhook_messages_total", "outcome" => "delivered").increment(1);
                        return;
                    }
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            metrics::counter!("sluicegate_webhook_failures_total").increment(1);
            let wait = attempts.after_failure();
            let attempts = attempts.made;
            let Some(wait) = wait else {
                metrics::counter!("sluicegate_webhook_messages_total", "outcome" => "given_up").increment(1);
                tracing::warn!(%subscription, sequence = message.sequence, attempts, error = failed, "a message was given up");
                return;
            };
            // The first is worth a line, and then one now and then.
            if attempts == 1 || attempts.is_multiple_of(60) {
                tracing::warn!(%subscription, sequence = message.sequence, attempts, error = failed, "a message waits for its receiver");
            }
            if self.is_worth_saving(before) {
                self.save(before).await;
            }
            sleep(wait).await;
        }
    }

    async fn call(&self, uri: Uri, message: &Message) -> Result<(), super::client::CallError> {
        let signature = self.key.as_ref().map(|key| {
            let tag = hmac::sign(key, &message.body);
            format!("sha256={}", to_hexadecimal(tag.as_ref()))
        });
        let signature = signature.and_then(|text| HeaderValue::from_str(&text).ok());
        let headers = [
            Some((HeaderName::from_static("sluicegate-sequence"), HeaderValue::from(message.sequence))),
            signature.map(|value| (HeaderName::from_static("sluicegate-signature"), value)),
        ];
        self.client.post(uri, message.body.clone(), headers.into_iter().flatten()).await
    }

    /// Best effort: what isn't written down is delivered again after a restart.
    async fn save(&mut self, position: u64) {
        self.saved_at = Instant::now();
        match self.app.engine.advance_subscription(&self.subscription.id, position, self.app.now()).await {
            Ok(()) => {
                self.saved = position;
                self.delivered = false;
            }
            Err(error) => {
                tracing::warn!(subscription = %self.subscription.id, %error, "how far a delivery is could not be written down")
            }
        }
    }
}

/// How often a message was tried, and when it is tried again.
struct Attempts {
    made: u32,
    /// `None`: until it is delivered.
    max: Option<u32>,
    wait: Duration,
}

impl Attempts {
    fn new(max: Option<u32>) -> Self {
        Self { made: 0, max, wait: WAIT_MIN }
    }

    /// The wait before the next one; `None` gives the message up.
    fn after_failure(&mut self) -> Option<Duration> {
        self.made = self.made.saturating_add(1);
        if self.max.is_some_and(|max| self.made >= max) {
            return None;
        }
        let next = (self.wait * 2).min(WAIT_MAX);
        Some(std::mem::replace(&mut self.wait, next))
    }
}

#[cfg(test)]
mod tests {
    use super::Attempts;

    fn waits_seconds(attempts: &mut Attempts) -> impl Iterator<Item = u64> + '_ {
        std::iter::from_fn(|| attempts.after_failure()).map(|wait| wait.as_secs())
    }

    #[test]
    fn a_message_is_tried_as_often_as_its_format_says_and_then_given_up() {
        let mut attempts = Attempts::new(Some(120));
        let waits: Vec<u64> = waits_seconds(&mut attempts).collect();
        assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!((waits.len(), waits.iter().max()), (119, Some(&60)), "120 attempts have 119 waits between them");
        assert_eq!(attempts.made, 120);
    }

    #[test]
    fn one_without_a_bound_is_tried_until_it_is_delivered() {
        let mut attempts = Attempts::new(None);
        assert_eq!(waits_seconds(&mut attempts).nth(10_000), Some(60));
    }
}
