//! What gateways say, taken to the engine; and what it offers them, written for them.
//!
//! A gateway is there from its `update_topo` on (on a broker, where its connection isn't seen, from anything that it says, since a
//! restart of ours tells it nothing). What it says of an upgrade is matched by the business id of the order, else by the one order
//! that is in flight: gateways don't keep the id. An order's progress is that of every device in it.

use super::create::{self, CreateDevice};
use super::envelope::{Envelope, ResultOnly};
use super::progress::{self, Meaning, Progress};
use super::topic::{self, UpTopic};
use super::topology::{self, Topology};
use super::{properties, requests};
use crate::app::App;
use crate::dialect::Tongue;
use crate::dialect::common::FIRMWARE_UPGRADE_TYPE;
use crate::mqtt::courier::Sent;
use crate::mqtt::links::{self, Link, NewLink};
use crate::mqtt::outbox::Outgoing;
use crate::mqtt::{Receipt, Speaker, names};
use crate::secrets;
use sluicegate::model::{Component, UpgradeId};
use sluicegate::{DeviceName, Error, HeldOffer};
use std::sync::Arc;

const UPGRADE_TYPE_NORMAL: u8 = 3;

/// Takes a message. Whoever speaks through our own listener was let in as a gateway, and speaks for itself and what is attached to it;
/// on a broker the topic tells who speaks.
pub(crate) async fn receive(app: &Arc<App>, speaker: &Speaker, topic: UpTopic<'_>, payload: &[u8]) -> Receipt {
    let envelope = match Envelope::read(payload) {
        Ok(envelope) => envelope,
        Err(malformed) => return Receipt::Malformed(malformed.to_string()),
    };
    let said = match speaker.silence {
        None => Said { speaker: speaker.clone(), envelope },
        Some(_) => match of_broker(app, speaker, topic, envelope).await {
            Ok(said) => said,
            Err(receipt) => return receipt,
        },
    };
    let receipt = said.take(app, topic).await;
    if let Some(link) = said.speaker.link(app) {
        link.release();
    }
    receipt
}

/// On a broker: whose gateway speaks, and that it is there.
async fn of_broker(app: &Arc<App>, speaker: &Speaker, topic: UpTopic<'_>, envelope: Envelope) -> Result<Said, Receipt> {
    let link = app.mqtt.links.of(&speaker.device);
    // What is attached speaks in its own topic, through its gateway.
    let named = envelope.gateway.as_deref().filter(|gateway| *gateway != topic.sn());
    let gateway = match (named, &link) {
        (_, Some(link)) => link.gateway.clone(),
        // The name of a gateway is the device's own word: it counts for one that is there, of its own organization; whether the device
        // may hang behind that one is the engine's to say.
        (Some(gateway), None) => match names::resolve(app, gateway).await {
            Ok(name) if name.organization == speaker.device.organization && app.mqtt.links.of(&name).is_some() => name,
            _ => return Ok(Said { speaker: speaker.clone(), envelope }),
        },
        (None, None) => speaker.device.clone(),
    };
    let is_attached = gateway != speaker.device;
    let speaker = Speaker { device: gateway, ..speaker.clone() };
    let said = Said { speaker, envelope };
    let link = said.speaker.link(app);
    let is_known = link.as_ref().is_some_and(|link| !is_attached || link.member(topic.sn()).is_some());
    // `update_topo` says itself what is attached.
    if !is_known && !matches!(topic, UpTopic::Status(_)) {
        let mut attached = link.map(|link| link.attached()).unwrap_or_default();
        if is_attached {
            attached.push(topic.sn().into());
        }
        said.open(app, attached).await?;
    } else if let Some(link) = link
        && !said.speaker.is_repeated
    {
        // What the broker says once more doesn't tell that the gateway is there.
        link.heard();
    }
    Ok(said)
}

/// A message with who says it.
struct Said {
    speaker: Speaker,
    envelope: Envelope,
}

impl Said {
    async fn take(&self, app: &Arc<App>, topic: UpTopic<'_>) -> Receipt {
        let is_gateways_own = topic.sn() == &*self.speaker.device.device_id;
        match topic {
            UpTopic::Osd(sn) | UpTopic::State(sn) => self.note_version(app, sn).await,
            _ if !is_gateways_own => Receipt::Foreign,
            UpTopic::Status(sn) => self.update_topology(app, sn).await,
            UpTopic::Events(sn) => self.take_event(app, sn).await,
            UpTopic::ServicesReply(_) => self.take_reply(app).await,
            UpTopic::Requests(sn) => self.answer_request(app, sn),
            UpTopic::PropertySetReply(_) => Receipt::Ignored,
        }
    }

    async fn open(&self, app: &Arc<App>, attached: Vec<Arc<str>>) -> Result<Arc<Link>, Error> {
        let Speaker { device, outbox, silence, .. } = self.speaker.clone();
        let (attached, foreign) = match silence {
            None => (attached, Vec::new()),
            Some(_) => of_same_organization(app, &device, attached).await?,
        };
        let to = NewLink { gateway: device, attached, tongue: Tongue::Autel, outbox, silence };
        let (link, refused) = links::open(app, &to).await?;
        let foreign = foreign.into_iter().map(|child| (child, "it is another organization's".to_owned()));
        for (child, why) in refused.into_iter().chain(foreign) {
            app.metrics.mqtt("attachment_refused");
            app.mqtt.noise.tell("attachment_refused", &to.gateway.device_id, format_args!("{child}: {why}"));
        }
        Ok(link)
    }

    async fn update_topology(&self, app: &Arc<App>, sn: &str) -> Receipt {
        if self.envelope.method != topology::METHOD {
            return Receipt::UnknownMethod(shortened(&self.envelope.method));
        }
        let topology = match Topology::read(&self.envelope.data) {
            Ok(topology) => topology,
            Err(malformed) => return Receipt::Malformed(malformed.to_string()),
        };
        let attached = topology.children.into_iter().map(|child| child.sn.into()).collect();
        // Taken before, it is nothing new; and a newer one may have come since.
        let is_old = self.speaker.is_repeated && self.speaker.link(app).is_some();
        if !is_old && let Err(error) = self.open(app, attached).await {
            return error.into();
        }
        self.reply(app, topic::status_reply(sn));
        Receipt::Taken
    }

    /// Which version a device runs, where the message says so.
    async fn note_version(&self, app: &Arc<App>, sn: &str) -> Receipt {
        let Some(version) = properties::firmware_version(&self.envelope.data) else { return Receipt::Ignored };
        // Told again it would hide what the device has told since.
        if self.speaker.is_repeated {
            return Receipt::Stale;
        }
        let device = if sn == &*self.speaker.device.device_id {
            self.speaker.device.clone()
        } else {
            match self.speaker.link(app).and_then(|link| link.member(sn)) {
                Some(attached) => attached,
                None => return Receipt::Foreign,
            }
        };
        match app.engine.note_version(device.as_ref(), Component::MAIN, version, app.registers(), app.now()).await {
            Ok(()) => Receipt::Taken,
            Err(error) => error.into(),
        }
    }

    async fn take_event(&self, app: &App, sn: &str) -> Receipt {
        if self.envelope.method != progress::METHOD {
            // The platform has many events that tell nothing of upgrades.
            if self.envelope.need_reply {
                self.reply(app, topic::events_reply(sn));
            }
            return Receipt::UnknownMethod(shortened(&self.envelope.method));
        }
        let progress = match Progress::read(&self.envelope.data) {
            Ok(progress) => progress,
            Err(malformed) => return Receipt::Malformed(malformed.to_string()),
        };
        let receipt = self.take_meaning(app, progress.meaning()).await;
        // Once it is durable; what can't be written now is sent again.
        if self.envelope.need_reply && !matches!(receipt, Receipt::Later(_)) {
            self.reply(app, topic::events_reply(sn));
        }
        receipt
    }

    async fn take_reply(&self, app: &App) -> Receipt {
        if self.envelope.method != create::METHOD {
            return Receipt::UnknownMethod(shortened(&self.envelope.method));
        }
        match Progress::read(&self.envelope.data) {
            Ok(progress) => self.take_meaning(app, progress.reply_meaning()).await,
            Err(malformed) => Receipt::Malformed(malformed.to_string()),
        }
    }

    async fn take_meaning(&self, app: &App, meaning: Meaning) -> Receipt {
        // Told again it would be taken for the next attempt's.
        if self.speaker.is_repeated {
            return Receipt::Stale;
        }
        let link = self.speaker.link(app);
        let concerned = match links::concerned(app, &self.speaker.device, link.as_deref(), &self.envelope.bid).await {
            Ok(concerned) if concerned.is_empty() => return Receipt::Stale,
            Ok(concerned) => concerned,
            Err(error) => return error.into(),
        };
        let answered = || link.iter().for_each(|link| link.answered(&concerned));
        let report = match meaning {
            Meaning::Nothing => return Receipt::Ignored,
            Meaning::Accepted => {
                answered();
                return Receipt::Taken;
            }
            Meaning::Moved(report) | Meaning::Ended(report) => report,
        };
        for Sent { device, upgrade } in concerned.iter().cloned() {
            let told = sluicegate::Report {
                device,
                upgrade,
                state: report.state,
                percent: report.percent,
                detail: report.detail.clone(),
                code: report.code,
            };
            match app.engine.report(told, app.now()).await {
                // Deleted meanwhile, and so nobody's.
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return error.into(),
            }
        }
        answered();
        Receipt::Taken
    }

    fn answer_request(&self, app: &App, sn: &str) -> Receipt {
        let is_known = requests::is_known(&self.envelope.method);
        if let Some(reply) = requests::answer(&self.envelope, &self.speaker.device.organization, app.now()) {
            self.speaker.outbox.send(Outgoing::new(topic::requests_reply(sn), reply));
        }
        if is_known { Receipt::Taken } else { Receipt::UnknownMethod(shortened(&self.envelope.method)) }
    }

    fn reply(&self, app: &App, topic: String) {
        self.speaker.outbox.send(Outgoing::new(topic, self.envelope.reply(&ResultOnly::OK, app.now())));
    }
}

/// On a broker: those of a gateway's children that no other organization has, and those that one has. Registered here too, they would be
/// nobody's, since their topics name no organization.
async fn of_same_organization(
    app: &App,
    gateway: &DeviceName,
    attached: Vec<Arc<str>>,
) -> Result<(Vec<Arc<str>>, Vec<Arc<str>>), Error> {
    let read = |state: &sluicegate::State| {
        let is_ours = |child: &Arc<str>| state.devices_called(None, child).all(|name| name.organization == gateway.organization);
        attached.iter().cloned().partition(is_ours)
    };
    app.engine.read(read).await
}

fn shortened(method: &str) -> String {
    format!("method {:?} is not known here", method.chars().take(60).collect::<String>())
}

/// The order to upgrade: one message for all of them. Its business id is the upgrade that it is named after, so that it is the same
/// however often it is sent.
pub(crate) fn compose(app: &App, link: &Link, offers: &[HeldOffer], named: UpgradeId) -> Vec<Outgoing> {
    let now = app.now();
    let Some(tid) = transaction_id() else { return Vec::new() };
    let urls: Vec<String> =
        offers.iter().map(|held| app.artifact_url(&held.offer.task.row().artifact, held.offer.id, now)).collect();
    let names: Vec<String> = offers.iter().zip(&urls).map(|(held, url)| file_name(app, held, url)).collect();
    let device = |((held, url), file_name): ((&'_ HeldOffer, &'_ String), &'_ String)| {
        let task = held.offer.task.row();
        let upgrade_type = task.annotations.get(FIRMWARE_UPGRADE_TYPE).and_then(|text| text.parse().ok());
        (held.device.id.clone(), Arc::clone(task), url.clone(), file_name.clone(), upgrade_type.unwrap_or(UPGRADE_TYPE_NORMAL))
    };
    let devices: Vec<_> = offers.iter().zip(&urls).zip(&names).map(device).collect();
    let devices: Vec<CreateDevice<'_>> = devices
        .iter()
        .map(|(sn, task, url, file_name, firmware_upgrade_type)| CreateDevice {
            sn,
            product_version: &task.target_version,
            file_url: url,
            md5: &task.artifact.md5,
            file_size: task.artifact.size,
            file_name,
            firmware_upgrade_type: *firmware_upgrade_type,
        })
        .collect();
    let message = create::ota_create(&devices, &tid, &named.to_string(), now);
    vec![Outgoing::new(topic::services(&link.gateway.device_id), message)]
}

/// The image's name as uploaded, else the last part of the file's address.
fn file_name(app: &App, held: &HeldOffer, url: &str) -> String {
    let artifact = &held.offer.task.row().artifact;
    let uploaded = artifact.image.and_then(|image| app.engine.image(image)).and_then(|image| image.name.clone());
    if let Some(name) = uploaded {
        return name.to_string();
    }
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    match (artifact.image, last) {
        // The address of an image of ours ends in its digest, which names no file.
        (Some(_), _) | (None, "") => format!("{}.bin", held.offer.task.row().target_version),
        (None, last) => last.to_owned(),
    }
}

/// A new one for each message, as the platform writes them.
fn transaction_id() -> Option<String> {
    let bytes: [u8; 16] = secrets::random().inspect_err(|error| tracing::error!(%error, "nothing can be sent")).ok()?;
    let digits = crate::dialect::common::hexadecimal::to_hexadecimal(&bytes);
    Some([&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-"))
}
