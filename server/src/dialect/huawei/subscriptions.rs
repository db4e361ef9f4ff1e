//! Who wants to be told of upgrades: one callback URL for each kind of notification and application. A new one replaces the one before.
//!
//! | call | does |
//! |---|---|
//! | `POST /iodm/app/sub/v1.1.0/subscribe` | subscribes |
//! | `GET /iocm/app/sub/v1.2.0/subscriptions[/{subscriptionId}]` | lists, shows |
//! | `DELETE /iocm/app/sub/v1.2.0/subscriptions[/{subscriptionId}]` | ends one, or those that `notifyType` and `callbackUrl` select |

use super::access::{Call, Right};
use super::notify::{Notification, SubscriptionShown};
use super::status::Failure;
use super::{Answer, body_of};
use crate::app::App;
use crate::dialect::common::lenient::Object;
use crate::http::{Query, Request, empty, json};
use ::http::StatusCode;
use serde::Deserialize;
use sluicegate::State;
use sluicegate::model::Subscription;
use std::sync::Arc;

/// `callbackurl` is how some of the platform's own clients spell it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SubscriptionWritten {
    notify_type: Option<String>,
    #[serde(alias = "callbackurl")]
    callback_url: Option<String>,
}

pub(super) async fn subscribe(app: &App, request: Request) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Change)?;
    call.refuse_product_bound()?;
    let body = body_of(app, request).await?;
    let Object(written): Object<SubscriptionWritten> =
        serde_json::from_slice(&body).map_err(|error| Failure::bad_request(format!("the body is no subscription: {error}")))?;
    let known = || Notification::of(written.notify_type.as_deref()?);
    let notification = known().ok_or_else(|| {
        let got = written.notify_type.as_deref().unwrap_or("nothing");
        let got: String = got.chars().take(80).collect();
        Failure::bad_request(format!(
            "notifyType is {got:?}; give swUpgradeStateChangeNotify, swUpgradeResultNotify or the fw ones"
        ))
    })?;
    let url = written.callback_url.unwrap_or_default();
    let allowed = app.config.webhooks.allowed.check(&url);
    allowed.map_err(|error| Failure::bad_request(format!("callbackUrl can't be called: {error}")))?;
    let newest = *app.engine.event_sequence().borrow();
    let format: &dyn crate::webhooks::Format = notification;
    let row = Subscription {
        id: call.subscription_id(notification.notify_type),
        organization: Arc::clone(&call.organization),
        url: url.into(),
        filters: Vec::new(),
        format: format.name().into(),
        app: call.app_id(),
        // The platform's applications know no signature.
        secret_encrypted: None,
        position: newest,
        created_at: call.now,
    };
    let row = app.engine.put_subscription(row, call.now).await?;
    app.webhooks.changed();
    Ok(json(StatusCode::CREATED, &SubscriptionShown::new(&row, notification)))
}

/// The caller's own subscriptions: an application doesn't see those of another.
fn own(state: &State, call: &Call<'_>) -> Vec<Arc<Subscription>> {
    let app_id = call.app_id();
    state.subscriptions(Some(&call.organization)).filter(|row| row.app == app_id).cloned().collect()
}

fn shown(rows: &[Arc<Subscription>]) -> Vec<SubscriptionShown> {
    let shown = |row: &Arc<Subscription>| Some(SubscriptionShown::new(row, Notification::of_format(&row.format)?));
    rows.iter().filter_map(shown).collect()
}

pub(super) async fn list(app: &App, request: Request) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Look)?;
    call.refuse_product_bound()?;
    let query = Query::parse(request.uri().query())?;
    let rows = selected(app, &call, &query).await?;
    let subscriptions = shown(&rows);
    let body = serde_json::json!({
        "totalCount": subscriptions.len(), "pageNo": 0, "pageSize": subscriptions.len(), "subscriptions": subscriptions,
    });
    Ok(json(StatusCode::OK, &body))
}

pub(super) async fn get(app: &App, request: Request, id: &str) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Look)?;
    call.refuse_product_bound()?;
    let rows = app.engine.read(|state| own(state, &call)).await?;
    let row = rows.iter().find(|row| *row.id == *id);
    let shown = row.and_then(|row| Some(SubscriptionShown::new(row, Notification::of_format(&row.format)?)));
    shown.map(|shown| json(StatusCode::OK, &shown)).ok_or_else(|| unknown(id))
}

pub(super) async fn delete(app: &App, request: Request, id: &str) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Change)?;
    call.refuse_product_bound()?;
    let rows = app.engine.read(|state| own(state, &call)).await?;
    if !rows.iter().any(|row| *row.id == *id) {
        return Err(unknown(id));
    }
    app.engine.delete_subscription(&call.organization, id, call.now).await?;
    app.webhooks.changed();
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Those that the query selects; all of the application's where it selects nothing.
pub(super) async fn delete_many(app: &App, request: Request) -> Answer {
    let call = Call::begin(app, request.headers(), Right::Change)?;
    call.refuse_product_bound()?;
    let query = Query::parse(request.uri().query())?;
    // A slip in a key would select everything.
    const KNOWN: [&str; 5] = ["notifyType", "callbackUrl", "appId", "pageNo", "pageSize"];
    if let Some(key) = query.iter().map(|(key, _)| key.trim_start_matches('?')).find(|key| !key.is_empty() && !KNOWN.contains(key))
    {
        let key: String = key.chars().take(40).collect();
        return Err(Failure::bad_request(format!("{key:?} selects nothing; select by notifyType and callbackUrl")));
    }
    let mut deleted = Ok(());
    for row in selected(app, &call, &query).await? {
        deleted = deleted.and(app.engine.delete_subscription(&call.organization, &row.id, call.now).await);
    }
    // Also after a failure: some may be gone.
    app.webhooks.changed();
    deleted?;
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn selected(app: &App, call: &Call<'_>, query: &Query<'_>) -> Result<Vec<Arc<Subscription>>, Failure> {
    let wanted = |key: &str| query.get(key).filter(|value| !value.is_empty()).map(str::to_owned);
    let (notify_type, callback_url) = (wanted("notifyType"), wanted("callbackUrl"));
    let rows = app.engine.read(|state| own(state, call)).await?;
    let is_wanted = |row: &Arc<Subscription>| {
        let own_type = Notification::of_format(&row.format).map(|notification| notification.notify_type);
        own_type.is_some()
            && notify_type.as_deref().is_none_or(|wanted| own_type == Some(wanted))
            && callback_url.as_deref().is_none_or(|wanted| *row.url == *wanted)
    };
    Ok(rows.into_iter().filter(is_wanted).collect())
}

fn unknown(id: &str) -> Failure {
    let id: String = id.chars().take(40).collect();
    Failure::not_found(format!("there is no subscription {id:?} here; list the subscriptions"))
}
