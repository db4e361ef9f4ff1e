//! Which platform's tongue a request speaks, by the first segment of its path; and a message over MQTT, by the beginning of its topic.

pub mod autel;
pub mod common;
pub mod enos;
pub mod huawei;
pub mod native;
pub mod xlink;

use crate::app::App;
use crate::dialect::common::status::Status;
use crate::guesses::{Answered, WrongCredentials};
use crate::http::connection::{EndsConnection, HeldBack};
use crate::http::{Reply, Request, header_token};
use crate::mqtt::courier::{Manner, Patience};
use crate::mqtt::links::Link;
use crate::mqtt::outbox::Outgoing;
use crate::mqtt::wire::Qos;
use crate::mqtt::{Receipt, Speaker, names};
use crate::webhooks::Format;
use ::http::HeaderMap;
use sluicegate::model::{TokenPurpose, UpgradeId};
use sluicegate::{Error, HeldOffer};
use std::sync::Arc;

/// Every way in which events are written for those who subscribed.
pub static EVENT_FORMATS: &[&dyn Format] = &[
    &native::EventFormat,
    &xlink::UpgradeFormat,
    &huawei::NOTIFICATIONS[0],
    &huawei::NOTIFICATIONS[1],
    &huawei::NOTIFICATIONS[2],
    &huawei::NOTIFICATIONS[3],
];

/// Answers a request, whichever platform it is meant for.
pub async fn handle(app: &Arc<App>, request: Request) -> Reply {
    let address = request.body().peer().address.ip();
    let mut reply = handle_in_its_tongue(app, request).await;
    if reply.extensions().get::<WrongCredentials>().is_some() {
        match app.guesses.refused(address).await {
            Answered::AtOnce => {}
            Answered::Late(held) => drop(reply.extensions_mut().insert(HeldBack(held))),
            Answered::AtOnceAndLast => drop(reply.extensions_mut().insert(EndsConnection)),
        }
    }
    reply
}

async fn handle_in_its_tongue(app: &Arc<App>, request: Request) -> Reply {
    match first_segment(request.uri().path()) {
        // A scrape sees the figures of now; between scrapes nobody needs them.
        "metrics" => {
            app.refresh_figures().await;
            native::handle(app, request).await
        }
        // What isn't a fleet's daily call has a box of its own: a request's future is as large as the largest call that lies in it, and
        // is moved once for each request.
        "apim-token-service" | "connect-service" => Box::pin(enos::handle(app, request)).await,
        "iocm" | "iodm" => Box::pin(huawei::handle(app, request)).await,
        "manage" => Box::pin(autel::order::handle(app, request)).await,
        "v2" => xlink::handle(app, request).await,
        _ => native::handle(app, request).await,
    }
}

/// Whether this may be put off where there is more to do than can be done. Not what is asked by those who manage or look on with a
/// good token, nor whether the server lives.
pub(crate) fn may_be_shed(app: &App, request: &Request) -> bool {
    !matches!(request.uri().path(), "/healthz" | "/readyz") && !is_of_person(app, request.headers())
}

/// What is told to whoever is put off.
pub(crate) fn shed(path: &str, retry_after_s: u32) -> Reply {
    let status = Status::shed(retry_after_s);
    let message = format!("more is asked of this server than it does in time; come back in {retry_after_s} s");
    match first_segment(path) {
        "apim-token-service" => enos::token::refused(status, message),
        "connect-service" => enos::refused(status, message),
        "iocm" | "iodm" => huawei::refused(status, message),
        "manage" => autel::order::refused(status, message),
        "v2" => xlink::refused(status, message),
        _ => native::refused(status, message),
    }
}

/// Whether a token came, in whichever platform's header, that opens more than a device.
fn is_of_person(app: &App, headers: &HeaderMap) -> bool {
    TOKEN_HEADERS.iter().any(|(name, purposes)| {
        header_token(headers, name).is_some_and(|token| {
            let mut callers = purposes.iter().filter_map(|purpose| app.auth.authenticate(Some(token), *purpose, app.now()).ok());
            callers.any(|caller| caller.can_look() && !caller.is_bound_to_device())
        })
    })
}

/// Where each platform's tokens stand, and what those were issued for that may come there.
const TOKEN_HEADERS: [(&str, &[TokenPurpose]); 4] = [
    ("authorization", &[TokenPurpose::Access]),
    ("access-token", &[TokenPurpose::Access]),
    ("apim-accesstoken", &[TokenPurpose::Access, TokenPurpose::Signed]),
    ("x-auth-token", &[TokenPurpose::Access]),
];

/// Every call there is: the platform, the method, and the path with its names in braces.
pub(crate) fn routes() -> impl Iterator<Item = (&'static str, &'static str, String)> {
    fn of(
        dialect: &'static str,
        routes: impl Iterator<Item = (&'static str, String)>,
    ) -> impl Iterator<Item = (&'static str, &'static str, String)> {
        routes.map(move |(method, path)| (dialect, method, path))
    }
    let native_and_xlink = of("native", native::routes()).chain(of("xlink", xlink::routes()));
    let enos_and_huawei = of("enos", enos::routes()).chain(of("huawei", huawei::routes()));
    native_and_xlink.chain(enos_and_huawei).chain(of("autel", autel::order::routes()))
}

/// Every topic in which devices speak, as filters over all of them.
pub(crate) fn device_filters() -> impl Iterator<Item = &'static str> {
    autel::topic::filters().into_iter().chain(enos::device::topics::filters())
}

/// Which platform's tongue a device speaks over MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tongue {
    Autel,
    Enos,
}

/// How devices of a platform are sent their upgrades.
pub(crate) fn manner(tongue: Tongue, app: &App) -> Manner {
    let config = &app.config.mqtt;
    match tongue {
        Tongue::Autel => Manner {
            answered: Some(Patience { wait: config.reply_wait, sends_max: config.sends_max }),
            together_max: autel::create::DEVICES_MAX,
        },
        Tongue::Enos => Manner { answered: None, together_max: 1 },
    }
}

/// What tells a device of its upgrades. `named`: after which of them, where they are told together.
pub(crate) fn compose(tongue: Tongue, app: &App, link: &Link, offers: &[HeldOffer], named: UpgradeId) -> Vec<Outgoing> {
    match tongue {
        Tongue::Autel => autel::device::compose(app, link, offers, named),
        Tongue::Enos => enos::device::receive::compose(app, link, offers),
    }
}

/// A device that has logged in subscribed to the topics of which `hears` is true.
pub(crate) async fn subscribed(app: &Arc<App>, speaker: &Speaker, hears: impl Fn(&str) -> bool) -> Result<(), Error> {
    enos::device::receive::subscribed(app, speaker, hears).await
}

/// Takes what a device that has logged in published.
pub(crate) async fn receive(app: &Arc<App>, speaker: &Speaker, topic: &str, payload: &[u8]) -> Receipt {
    let device = &speaker.device;
    if let Some(up) = autel::topic::UpTopic::read(topic) {
        return autel::device::receive(app, speaker, up, payload).await;
    }
    if let Some((up, product_key, device_key)) = enos::device::topics::UpTopic::read(topic) {
        if product_key != &*device.product_id || device_key != &*device.device_id {
            return Receipt::Foreign;
        }
        return enos::device::receive::receive(app, speaker, up, topic, payload).await;
    }
    // Measurements, events and whatever else these platforms' devices publish in their own names.
    let mut levels = topic.split('/');
    let own = match (levels.next(), levels.next(), levels.next(), levels.next()) {
        (Some(""), Some("sys"), Some(product_key), Some(device_key)) => {
            product_key == &*device.product_id && device_key == &*device.device_id
        }
        (Some("thing" | "sys"), Some("product"), Some(sn), Some(_)) => sn == &*device.device_id,
        _ => false,
    };
    if own { Receipt::Ignored } else { Receipt::Foreign }
}

/// Takes what came through a broker: the topic tells who published it.
pub(crate) async fn receive_from_broker(
    app: &Arc<App>,
    broker: &BrokerSpeaker,
    topic: &str,
    payload: &[u8],
    is_repeated: bool,
) -> Receipt {
    let speaker = |device| Speaker { device, outbox: broker.outbox.clone(), silence: Some(broker.silence), is_repeated };
    if let Some(up) = autel::topic::UpTopic::read(topic) {
        return match names::resolve(app, up.sn()).await {
            Ok(device) => autel::device::receive(app, &speaker(device), up, payload).await,
            Err(receipt) => receipt,
        };
    }
    if let Some((up, product_key, device_key)) = enos::device::topics::UpTopic::read(topic) {
        return match names::resolve_in(app, Some(product_key), device_key).await {
            Ok(device) => enos::device::receive::receive(app, &speaker(device), up, topic, payload).await,
            Err(receipt) => receipt,
        };
    }
    Receipt::Foreign
}

/// What to subscribe to at a broker to hear every device, and how certainly. Gateways' requests are left to whoever runs the broker: two
/// answers to one would be one too many. How they are comes again every two seconds; it isn't to take the place of what comes once in
/// what a broker keeps for us while we are away.
pub(crate) fn broker_filters() -> Vec<(&'static str, Qos)> {
    let autel = autel::topic::filters().into_iter().filter(|filter| !filter.ends_with("/requests"));
    let qos = |filter: &str| if filter.ends_with("/osd") { Qos::AtMostOnce } else { Qos::AtLeastOnce };
    autel.chain(enos::device::topics::filters()).map(|filter| (filter, qos(filter))).collect()
}

/// The part of a topic that names its device: messages of one device are taken one after another.
pub(crate) fn device_level(topic: &str) -> &str {
    match autel::topic::UpTopic::read(topic) {
        Some(up) => up.sn(),
        None => enos::device::topics::UpTopic::read(topic).map_or(topic, |(_, _, device_key)| device_key),
    }
}

/// The way back to devices on a broker.
#[derive(Clone, Debug)]
pub(crate) struct BrokerSpeaker {
    pub(crate) outbox: crate::mqtt::outbox::Outbox,
    pub(crate) silence: std::time::Duration,
}

fn first_segment(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').map_or(path, |(first, _)| first)
}
