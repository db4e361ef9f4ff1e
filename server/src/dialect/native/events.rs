//! `GET /events`: server-sent events, from any sequence number that is still kept, and on as they happen.
//!
//! A stream reads pages of events at the pace of its client and waits for the next only when there are no more; so a slow client holds
//! one page in memory and nobody up. It ends when the client goes, when its token is revoked or expires, when the server stops (the
//! reply's body is dropped then), or when the engine closes; a client that comes back with `Last-Event-ID` misses nothing that is kept.
//!
//! Invariants:
//!   - Nothing is sent on after the token was looked at and found gone; it is looked at for each page, and each heartbeat is one.
//!   - A client hears something every [`HEARTBEAT`], however much happens that isn't for it.

use super::encode::EventShown;
use super::failure::{Failure, shortened};
use super::{Answer, access};
use crate::app::App;
use crate::auth::Caller;
use crate::event_reader::EventReader;
use crate::http::{Body, Query, Request};
use ::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderValue, Response};
use bytes::Bytes;
use sluicegate::model::{Event, Role, TokenId};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Proxies cut a connection that is silent; most wait for 30 seconds or more.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Pages that wait for the client.
const PAGES_WAITING_MAX: usize = 2;

/// In the place of an organization's name, which is never empty.
const ADMINISTRATOR: &str = "";

/// Streams open in this process, by the organization of whose token they are; beside the gauge, which can't be read.
static OPEN: Mutex<BTreeMap<Arc<str>, usize>> = Mutex::new(BTreeMap::new());

pub(super) async fn follow(app: &Arc<App>, request: Request) -> Answer {
    let caller = access::onlooker(app, request.headers(), app.now())?;
    let query = Query::parse(request.uri().query())?;
    let filter = Filter::new(app, &caller, &query)?;
    let from = from(&query, request.headers())?;
    // The administrator follows beside its organizations, and isn't kept out by any.
    let holder = if caller.role == Role::Admin { ADMINISTRATOR.into() } else { Arc::clone(&caller.organization) };
    let slot = Slot::take(app, &holder)?;
    let (sender, receiver) = mpsc::channel(PAGES_WAITING_MAX);
    tokio::spawn(send(Arc::clone(app), filter, caller.token, from, sender, slot));
    let mut reply = Response::new(Body::Stream(receiver));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(reply)
}

/// Where to begin: after `Last-Event-ID`, else at `from`, else at the oldest that is kept.
fn from(query: &Query<'_>, headers: &HeaderMap) -> Result<u64, Failure> {
    let number = |what: &str, text: &str| {
        let refused = || Failure::invalid(format!("{what} is {:?}; give the sequence number of an event", shortened(text, 40)));
        text.trim().parse::<u64>().map_err(|_| refused())
    };
    if let Some(value) = headers.get("last-event-id") {
        return number("Last-Event-ID", value.to_str().unwrap_or_default()).map(|last| last.saturating_add(1));
    }
    query.get("from").map_or(Ok(1), |text| number("from", text))
}

/// Whose events a stream carries.
#[derive(Debug, PartialEq, Eq)]
struct Filter {
    /// Absent: every organization's, for the administrator alone.
    organization: Option<Arc<str>>,
    product_id: Option<Arc<str>>,
}

impl Filter {
    fn new(app: &App, caller: &Caller, query: &Query<'_>) -> Result<Self, Failure> {
        let sees_all = caller.role == Role::Admin && access::named(query).is_none();
        let organization = if sees_all { None } else { Some(access::organization(app, caller, query)?) };
        let product_id = match query.get("product_id") {
            Some(product_id) => {
                access::may_open_product(caller, product_id)?;
                Some(product_id.into())
            }
            None => caller.product_id.clone(),
        };
        Ok(Self { organization, product_id })
    }

    fn passes(&self, event: &Event) -> bool {
        self.organization.as_ref().is_none_or(|organization| *organization == event.organization)
            && self.product_id.as_ref().is_none_or(|product_id| *product_id == event.product_id)
    }
}

/// One of the streams that may be open at once.
struct Slot {
    app: Arc<App>,
    organization: Arc<str>,
}

impl Slot {
    fn take(app: &Arc<App>, organization: &Arc<str>) -> Result<Self, Failure> {
        let max = app.config.limits.event_streams_max;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(organization).copied().unwrap_or_default();
        if !has_room(max, open.values().sum(), own) {
            let message = format!(
                "too many event streams are open ({max} at most, and an organization that holds most of them leaves some to others); close \
                 one, or come back later"
            );
            return Err(Failure::unavailable("too_many_event_streams", 30, message));
        }
        open.insert(Arc::clone(organization), own + 1);
        app.metrics.event_streams(1);
        Ok(Self { app: Arc::clone(app), organization: Arc::clone(organization) })
    }
}

/// Whether one more may be opened by somebody who has `own` of `all`: the last tenth is for those who hold less than half, so that no
/// organization keeps the others from hearing anything.
fn has_room(max: usize, all: usize, own: usize) -> bool {
    let is_greedy = own >= max.div_ceil(2);
    all < if is_greedy { max - max / 10 } else { max }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.organization) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                open.remove(&self.organization);
            }
        }
        self.app.metrics.event_streams(-1);
    }
}

async fn send(app: Arc<App>, filter: Filter, token: Option<TokenId>, from: u64, sender: mpsc::Sender<Bytes>, _slot: Slot) {
    let mut events = EventReader::new(&app.engine, from);
    // The head goes out with the first bytes, and the client should know at once that it is connected.
    if sender.send(Bytes::from_static(b"retry: 2000\n: connected\n\n")).await.is_err() {
        return;
    }
    let mut heartbeat_due = Instant::now() + HEARTBEAT;
    loop {
        // All three may be dropped and waited for anew without losing anything.
        let page = tokio::select! {
            page = events.next() => Some(page),
            () = sleep_until(heartbeat_due) => None,
            () = sender.closed() => return,
        };
        let page = match page.transpose() {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "an event stream ended: the events could not be read");
                return;
            }
        };
        // After the page was read, so that nothing that happened after a revocation goes out.
        if !app.auth.still_holds(token, app.now()) {
            return;
        }
        let own = page.iter().flat_map(|page| &page.events).filter(|event| filter.passes(event));
        let mut text = text_of(own);
        // Also where events came and none was for this client: to it, and to what stands between, the connection is silent.
        if text.is_empty() && Instant::now() >= heartbeat_due {
            text = Bytes::from_static(b": heartbeat\n\n");
        }
        if !text.is_empty() {
            if sender.send(text).await.is_err() {
                return;
            }
            heartbeat_due = Instant::now() + HEARTBEAT;
        }
    }
}

fn text_of<'a>(events: impl Iterator<Item = &'a Arc<Event>>) -> Bytes {
    let mut text = Vec::new();
    for event in events {
        // Writing to memory can't fail. JSON has no line breaks in it, so the data is one line.
        let _ = write!(text, "id: {}\nevent: {}\ndata: ", event.sequence, event.kind.name());
        if let Err(error) = serde_json::to_writer(&mut text, &EventShown(event)) {
            tracing::error!(%error, sequence = event.sequence, "an event could not be written as JSON");
        }
        text.extend_from_slice(b"\n\n");
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate::model::{EventKind, Timestamp};

    fn event(organization: &str, product_id: &str) -> Arc<Event> {
        Arc::new(Event {
            sequence: 42,
            kind: EventKind::TaskCreated,
            at: Timestamp(0),
            organization: organization.into(),
            product_id: product_id.into(),
            device_id: None,
            task_id: None,
            upgrade_id: None,
            state: None,
            percent: None,
            extra: [("detail".into(), "two\nlines".into())].into(),
        })
    }

    #[test]
    fn the_last_tenth_of_the_streams_is_for_those_who_hold_few() {
        for (max, all, own, expected) in [
            (1_000, 899, 899, true),
            (1_000, 900, 900, false),
            (1_000, 900, 499, true),
            (1_000, 900, 500, false),
            (1_000, 999, 0, true),
            (1_000, 1_000, 0, false),
            (2, 1, 1, true),
            (2, 2, 0, false),
            (1, 0, 0, true),
        ] {
            assert_eq!(has_room(max, all, own), expected, "{own} of {all}, at most {max}");
        }
    }

    #[test]
    fn an_event_is_three_lines_and_a_blank_one() {
        let text = text_of([event("default", "p")].iter());
        let text = std::str::from_utf8(&text).unwrap();
        assert!(text.starts_with("id: 42\nevent: task_created\ndata: {\"seq\":42,"), "{text}");
        assert!(text.ends_with("\"detail\":\"two\\nlines\"}\n\n"), "{text}");
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn a_stream_begins_after_the_last_event_or_at_the_one_named() {
        let from = |query: &str, last: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(last) = last {
                headers.insert("last-event-id", HeaderValue::from_static(last));
            }
            super::from(&Query::parse(Some(query)).unwrap(), &headers)
        };
        assert_eq!(from("", None), Ok(1));
        assert_eq!(from("from=7", None), Ok(7));
        assert_eq!(from("from=7", Some("9")), Ok(10));
        assert_eq!(from("", Some("18446744073709551615")), Ok(u64::MAX));
        assert!(from("from=x", None).is_err());
        assert!(from("from=7", Some("x")).is_err());
    }

    #[test]
    fn a_stream_carries_its_own_organization_and_product_alone() {
        let filter = |organization: Option<&str>, product_id: Option<&str>| Filter {
            organization: organization.map(Into::into),
            product_id: product_id.map(Into::into),
        };
        assert!(filter(None, None).passes(&event("south", "p")));
        assert!(!filter(Some("north"), None).passes(&event("south", "p")));
        assert!(filter(Some("south"), Some("p")).passes(&event("south", "p")));
        assert!(!filter(Some("south"), Some("q")).passes(&event("south", "p")));
    }
}
