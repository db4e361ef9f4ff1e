//! Subscriptions: events POSTed to a receiver, and how this front end writes them.

use super::decode;
use super::encode::{EventShown, Time};
use super::failure::Failure;
use super::tokens::refuse_product_bound;
use super::{Answer, access, body_of};
use crate::app::App;
use crate::http::{Query, Request, empty, json};
use crate::secrets::{self, SecretError};
use crate::webhooks::{Format, Message};
use ::http::StatusCode;
use serde::{Deserialize, Serialize};
use sluicegate::model::{Event, Subscription};
use sluicegate::{Error, State};

/// Many events in one message, as `GET /events` shows each, until the receiver has them.
#[derive(Debug)]
pub struct EventFormat;

#[derive(Serialize)]
struct EventsShown<'a> {
    events: Vec<EventShown<'a>>,
}

impl Format for EventFormat {
    fn name(&self) -> &'static str {
        FormatWanted::Native.name()
    }

    fn messages(&self, _: &State, _: &Subscription, events: &[&Event]) -> Vec<Message> {
        let Some(last) = events.last() else { return Vec::new() };
        let shown = EventsShown { events: events.iter().copied().map(EventShown).collect() };
        match serde_json::to_vec(&shown) {
            Ok(body) => vec![Message { body: body.into(), sequence: last.sequence }],
            Err(error) => {
                tracing::error!(%error, sequence = last.sequence, "events could not be written as JSON");
                Vec::new()
            }
        }
    }

    /// What is still kept is not missed.
    fn attempts_max(&self) -> Option<u32> {
        None
    }
}

/// `POST /subscriptions`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscriptionBody {
    url: String,
    /// The sequence number of the first event wanted; absent: whatever happens from now on.
    from: Option<u64>,
    /// What messages are signed with; absent: one is made.
    secret: Option<String>,
    /// In whose words messages are written; absent: in those of this front end.
    format: Option<FormatWanted>,
}

/// The formats that need no more than a URL. Those of a platform that has a call of its own for subscribing are asked for there.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
enum FormatWanted {
    Native,
    Xlink,
}

impl FormatWanted {
    const ALL: [Self; 2] = [Self::Native, Self::Xlink];

    /// As in the subscription's row.
    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Xlink => "xlink",
        }
    }
}

impl TryFrom<String> for FormatWanted {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let [native, xlink] = Self::ALL.map(Self::name);
        let unknown = || format!("nobody writes {text:?} here; give {native:?} or {xlink:?}");
        Self::ALL.into_iter().find(|format| format.name() == text).ok_or_else(unknown)
    }
}

#[derive(Serialize)]
struct SubscriptionShown<'a> {
    id: &'a str,
    url: &'a str,
    format: &'a str,
    position: u64,
    created_at: Time,
    /// Shown once, to who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

impl<'a> SubscriptionShown<'a> {
    fn new(row: &'a Subscription, secret: Option<&'a str>) -> Self {
        let Subscription { id, url, format, position, created_at, .. } = row;
        Self { id, url, format, position: *position, created_at: Time(*created_at), secret }
    }
}

const SECRET_CHARS: std::ops::RangeInclusive<usize> = 16..=256;

pub(super) async fn create(app: &App, request: Request) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    refuse_product_bound(&caller)?;
    let query = request.uri().query().map(str::to_owned);
    let organization = access::organization(app, &caller, &Query::parse(query.as_deref())?)?;
    let (_, body) = body_of(app, request).await?;
    let SubscriptionBody { url, from, secret, format } = decode::parse(&body)?;
    app.config.webhooks.allowed.check(&url).map_err(|error| Failure::invalid(format!("url can't be called: {error}")))?;
    if let Some(secret) = secret.as_ref().filter(|secret| !SECRET_CHARS.contains(&secret.len())) {
        return Err(Failure::invalid(format!("secret has {} characters; give 16 to 256, or leave it out", secret.len())));
    }
    let make = || -> Result<(String, String, Vec<u8>), SecretError> {
        let id = format!("{:016x}", u64::from_be_bytes(secrets::random()?));
        let secret = secret.map_or_else(secrets::random_text, Ok)?;
        let encrypted = app.secrets.encrypt(&id, secret.as_bytes())?;
        Ok((id, secret, encrypted))
    };
    let (id, secret, secret_encrypted) = make().map_err(|error| {
        tracing::error!(%error, "no secret could be made");
        Error::Overloaded
    })?;
    let newest = *app.engine.event_sequence().borrow();
    if let Some(from) = from.filter(|from| *from > newest.saturating_add(1)) {
        let message = format!("from is {from}, the newest event {newest}; give at most the one after it, or leave it out");
        return Err(Failure::invalid(message));
    }
    let row = Subscription {
        id: id.into(),
        organization,
        url: url.into(),
        filters: Vec::new(),
        format: format.unwrap_or(FormatWanted::Native).name().into(),
        // An application's subscription ends with it.
        app: caller.app.clone(),
        secret_encrypted: Some(secret_encrypted),
        position: from.map_or(newest, |from| from.saturating_sub(1)),
        created_at: now,
    };
    let row = app.engine.put_subscription(row, now).await?;
    app.webhooks.changed();
    Ok(json(StatusCode::CREATED, &SubscriptionShown::new(&row, Some(&secret))))
}

#[derive(Serialize)]
struct SubscriptionsShown<'a> {
    items: Vec<SubscriptionShown<'a>>,
    /// There are never more than one page holds.
    cursor: Option<&'a str>,
}

pub(super) async fn list(app: &App, request: Request) -> Answer {
    let caller = access::operator(app, request.headers(), app.now())?;
    refuse_product_bound(&caller)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let rows: Vec<_> = app.engine.read(|state| state.subscriptions(Some(&organization)).cloned().collect()).await?;
    let rows: &Vec<std::sync::Arc<Subscription>> = &rows;
    let items = rows.iter().map(|row| SubscriptionShown::new(row, None)).collect();
    Ok(json(StatusCode::OK, &SubscriptionsShown { items, cursor: None }))
}

pub(super) async fn delete(app: &App, request: Request, id: &str) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    refuse_product_bound(&caller)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    app.engine.delete_subscription(&organization, id, now).await?;
    app.webhooks.changed();
    Ok(empty(StatusCode::NO_CONTENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_is_taken_is_written_by_somebody() {
        for format in FormatWanted::ALL.map(FormatWanted::name) {
            assert_eq!(FormatWanted::try_from(format.to_owned()).unwrap().name(), format);
            assert!(crate::dialect::EVENT_FORMATS.iter().any(|written| written.name() == format), "{format}");
        }
    }
}
