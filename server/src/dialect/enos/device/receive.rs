//! What devices say, taken to the engine; and what it offers them, written for them.
//!
//! A device is there from its subscription to `upgrade` on (on a broker: from anything that it says). It is sent its upgrade as soon as
//! one is due, and again whenever it informs or asks. A job that doesn't let devices ask is passed over for `request` and `getversion`
//! alone.

use super::messages::{
    self, Code, Firmware, GetVersion, Inform, Params, Progress, ProgressReport, Received, Refusal, Request, UpgradeReply,
};
use super::topics::{self, UpTopic};
use crate::app::App;
use crate::dialect::Tongue;
use crate::dialect::common::check::{CheckRefused, decide};
use crate::dialect::enos::firmware::sign_of;
use crate::dialect::enos::job_encode::enables_upgrade_request;
use crate::mqtt::links::{self, Link, NewLink};
use crate::mqtt::outbox::Outgoing;
use crate::mqtt::{Receipt, Speaker};
use sluicegate::model::{Component, ReportedState};
use sluicegate::{Check, CheckRules, Decision, Error, HeldOffer, Offer, Report};
use std::sync::Arc;

/// A device that subscribed to where it hears of upgrades is there.
pub(crate) async fn subscribed(app: &Arc<App>, speaker: &Speaker, hears: impl Fn(&str) -> bool) -> Result<(), Error> {
    let (product_key, device_key) = (&speaker.device.product_id, &speaker.device.device_id);
    let is_named = topics::is_key(product_key) && topics::is_key(device_key);
    if is_named && hears(&topics::upgrade(product_key, device_key)) {
        open(app, speaker).await?;
    }
    Ok(())
}

async fn open(app: &Arc<App>, speaker: &Speaker) -> Result<Arc<Link>, Error> {
    let Speaker { device, outbox, silence, .. } = speaker.clone();
    let to = NewLink { gateway: device, attached: Vec::new(), tongue: Tongue::Enos, outbox, silence };
    Ok(links::open(app, &to).await?.0)
}

/// Takes a message. The device of the topic is the speaker.
pub(crate) async fn receive(app: &Arc<App>, speaker: &Speaker, topic: UpTopic, name: &str, payload: &[u8]) -> Receipt {
    if speaker.silence.is_some() {
        match speaker.link(app) {
            // What the broker says once more doesn't tell that the device is there.
            Some(link) if !speaker.is_repeated => link.heard(),
            Some(_) => {}
            None => {
                if let Err(error) = open(app, speaker).await {
                    return error.into();
                }
            }
        }
    }
    let device = Asking { app, speaker, topic: name };
    let receipt = match topic {
        UpTopic::Inform => device.inform(payload).await,
        UpTopic::Progress => device.progress(payload).await,
        UpTopic::GetVersion => device.get_version(payload).await,
        UpTopic::Request => device.request(payload).await,
        UpTopic::UpgradeReply => device.upgrade_reply(payload).await,
    };
    if let Some(link) = speaker.link(app) {
        link.release();
    }
    receipt
}

/// A device that said something, and where it was said.
struct Asking<'a> {
    app: &'a Arc<App>,
    speaker: &'a Speaker,
    topic: &'a str,
}

/// What a message is answered with, and how it is counted.
type Answered = Result<(Vec<u8>, Receipt), (Refusal, Receipt)>;

impl Asking<'_> {
    fn answer(&self, answered: Answered) -> Receipt {
        let (reply, receipt) = match answered {
            Ok((reply, receipt)) => (reply, receipt),
            // It comes again.
            Err((_, receipt @ Receipt::Later(_))) => return receipt,
            Err((refusal, receipt)) => (refusal.reply(), receipt),
        };
        self.speaker.outbox.send(Outgoing::new(topics::reply_topic(self.topic), reply));
        receipt
    }

    fn read<T: Params>(payload: &[u8]) -> Result<Received<T>, (Refusal, Receipt)> {
        Received::read(payload).map_err(|refusal| {
            let what = refusal.message.clone();
            (refusal, Receipt::Malformed(what))
        })
    }

    async fn inform(&self, payload: &[u8]) -> Receipt {
        self.answer(self.try_inform(payload).await)
    }

    async fn try_inform(&self, payload: &[u8]) -> Answered {
        let told: Received<Inform> = Self::read(payload)?;
        // Told again it would hide what the device has told since.
        if self.speaker.is_repeated {
            return Ok((told.reply(), Receipt::Stale));
        }
        let version = &told.params.version;
        let (app, device) = (self.app, &self.speaker.device);
        // What it runs is what it was to run: that upgrade is over, whoever made the task.
        for held in self.held(&told).await? {
            if *held.offer.task.row().target_version == **version
                && let Some(upgrade) = held.offer.id
            {
                self.report(&told, upgrade, (ReportedState::Succeeded, None, None, None)).await?;
            }
        }
        let check = self.check(version, false);
        match decide(app, &check, app.now()).await {
            Ok(Decision::Offer(_)) => {
                if let Some(link) = self.speaker.link(app) {
                    link.send_again();
                }
            }
            Ok(_) => {}
            Err(refused) => return Err(Self::refuse_check(told, refused, &device.device_id)),
        }
        Ok((told.reply(), Receipt::Taken))
    }

    async fn progress(&self, payload: &[u8]) -> Receipt {
        self.answer(self.try_progress(payload).await)
    }

    async fn try_progress(&self, payload: &[u8]) -> Answered {
        let told: Received<ProgressReport> = Self::read(payload)?;
        // Told again it would be taken for the next attempt's.
        if self.speaker.is_repeated {
            return Ok((told.reply(), Receipt::Stale));
        }
        let held = self.held(&told).await?;
        let Some(upgrade) = held.first().and_then(|held| held.offer.id) else { return Ok((told.reply(), Receipt::Stale)) };
        let report = match told.params.meaning() {
            Progress::Running { percent } => (ReportedState::Installing, Some(percent), told.params.desc.clone(), None),
            Progress::Failed { code, detail } => (ReportedState::Failed, None, Some(detail), Some(code)),
        };
        self.report(&told, upgrade, report).await?;
        Ok((told.reply(), Receipt::Taken))
    }

    async fn get_version(&self, payload: &[u8]) -> Receipt {
        self.answer(self.try_get_version(payload).await)
    }

    async fn try_get_version(&self, payload: &[u8]) -> Answered {
        let told: Received<GetVersion> = Self::read(payload)?;
        match self.asked_for(&told).await? {
            Asked::Offered(offer) => {
                let url = self.app.artifact_url(&offer.task.row().artifact, offer.id, self.app.now());
                Ok((told.reply_with(&[firmware(&offer, &url)]), Receipt::Taken))
            }
            Asked::Nothing | Asked::MayNotAsk => Ok((told.reply_with(&[]), Receipt::Taken)),
        }
    }

    async fn request(&self, payload: &[u8]) -> Receipt {
        self.answer(self.try_request(payload).await)
    }

    async fn try_request(&self, payload: &[u8]) -> Answered {
        let told: Received<Request> = Self::read(payload)?;
        match self.asked_for(&told).await? {
            Asked::Offered(_) => {
                if let Some(link) = self.speaker.link(self.app) {
                    link.send_again();
                }
                Ok((told.reply(), Receipt::Taken))
            }
            Asked::Nothing => Ok((told.reply(), Receipt::Taken)),
            Asked::MayNotAsk => {
                let why = "the job lets no device ask; its upgrade comes by itself";
                Err((told.refuse(Code::Forbidden, why), Receipt::Refused(why.into())))
            }
        }
    }

    async fn upgrade_reply(&self, payload: &[u8]) -> Receipt {
        let reply = match UpgradeReply::read(payload) {
            Ok(reply) => reply,
            Err(what) => return Receipt::Malformed(what),
        };
        if reply.accepted() {
            return Receipt::Taken;
        }
        let offers = match self.app.engine.read(|state| state.offers_behind(self.speaker.device.as_ref())).await {
            Ok(offers) => offers,
            Err(error) => return error.into(),
        };
        let named = offers.iter().filter_map(|held| held.offer.id);
        let Some(upgrade) = named.into_iter().find(|id| reply.id.as_deref() == Some(&*id.offer.to_string())) else {
            return Receipt::Stale;
        };
        let code = i32::try_from(reply.code).unwrap_or(i32::MAX);
        let report = Report {
            device: self.speaker.device.clone(),
            upgrade,
            state: ReportedState::Rejected,
            percent: None,
            detail: reply.message,
            code: Some(code),
        };
        match self.app.engine.report(report, self.app.now()).await {
            Ok(_) => Receipt::Taken,
            Err(error) => error.into(),
        }
    }

    /// What a device that asks for an upgrade is given.
    async fn asked_for<T: Params + Clone>(&self, told: &Received<T>) -> Result<Asked, (Refusal, Receipt)> {
        let (app, device) = (self.app, &self.speaker.device);
        let read = |state: &sluicegate::State| state.device(device.as_ref())?.row.version(Component::MAIN).cloned();
        let version = app.engine.read(read).await.map_err(|error| Self::refuse(told, error))?;
        // Whoever hasn't said what it runs is told nothing: an inform comes first.
        let Some(version) = version else { return Ok(Asked::Nothing) };
        let may_ask = |offer: &Offer| enables_upgrade_request(offer.task.row());
        match decide(app, &self.check(&version, true), app.now()).await {
            Ok(Decision::Offer(offer)) if may_ask(&offer) => {}
            Ok(Decision::Offer(_)) => return Ok(Asked::MayNotAsk),
            Ok(_) => return Ok(Asked::Nothing),
            Err(refused) => return Err(Self::refuse_check(told.clone(), refused, &device.device_id)),
        }
        match decide(app, &self.check(&version, false), app.now()).await {
            Ok(Decision::Offer(offer)) if may_ask(&offer) => Ok(Asked::Offered(offer)),
            Ok(_) => Ok(Asked::Nothing),
            Err(refused) => Err(Self::refuse_check(told.clone(), refused, &device.device_id)),
        }
    }

    fn check<'v>(&'v self, version: &'v str, preview: bool) -> Check<'v> {
        let rules = CheckRules { preview, only_while_started: false, register: self.app.registers() };
        Check { device: self.speaker.device.as_ref(), component: Component::MAIN, version, rules }
    }

    async fn held<T: Params + Clone>(&self, told: &Received<T>) -> Result<Vec<HeldOffer>, (Refusal, Receipt)> {
        // The platform's devices have one component.
        let is_main = |held: &HeldOffer| held.offer.task.row().component == Component::MAIN;
        let read = |state: &sluicegate::State| -> Vec<HeldOffer> {
            state.offers_behind(self.speaker.device.as_ref()).into_iter().filter(is_main).collect()
        };
        self.app.engine.read(read).await.map_err(|error| Self::refuse(told, error))
    }

    async fn report<T: Params + Clone>(
        &self,
        told: &Received<T>,
        upgrade: sluicegate::model::UpgradeId,
        (state, percent, detail, code): (ReportedState, Option<u8>, Option<String>, Option<i32>),
    ) -> Result<(), (Refusal, Receipt)> {
        let device = self.speaker.device.clone();
        let report = Report { device, upgrade, state, percent, detail, code };
        match self.app.engine.report(report, self.app.now()).await {
            // Deleted meanwhile, and so nobody's.
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Self::refuse(told, error)),
        }
    }

    fn refuse<T: Params + Clone>(told: &Received<T>, error: Error) -> (Refusal, Receipt) {
        let code = match error {
            Error::NotFound { .. } => Code::UnknownDevice,
            Error::Overloaded | Error::Closed | Error::Store(_) => Code::Internal,
            _ => Code::ParameterInvalid,
        };
        (told.clone().refuse(code, error.to_string()), error.into())
    }

    fn refuse_check<T: Params + Clone>(told: Received<T>, refused: CheckRefused, device_id: &str) -> (Refusal, Receipt) {
        match refused {
            CheckRefused::Engine(error) => Self::refuse(&told, error),
            CheckRefused::TooOften(_) => {
                let why = format!("{device_id} asks too often");
                (told.refuse(Code::TooManyRequests, why.clone()), Receipt::Refused(why))
            }
        }
    }
}

enum Asked {
    Offered(Arc<Offer>),
    Nothing,
    MayNotAsk,
}

fn firmware<'a>(offer: &'a Offer, url: &'a str) -> Firmware<'a> {
    let task = offer.task.row();
    let (sign_method, sign) = sign_of(&task.annotations, &task.artifact);
    Firmware { version: &task.target_version, sign_method, sign, file_url: url, file_size: task.artifact.size }
}

/// One message for each; its id is the number of the offer.
pub(crate) fn compose(app: &App, link: &Link, offers: &[HeldOffer]) -> Vec<Outgoing> {
    let now = app.now();
    let (product_key, device_key) = (&link.gateway.product_id, &link.gateway.device_id);
    if !(topics::is_key(product_key) && topics::is_key(device_key)) {
        return Vec::new();
    }
    let message = |held: &HeldOffer| {
        let id = held.offer.id?;
        let url = app.artifact_url(&held.offer.task.row().artifact, Some(id), now);
        let message = messages::upgrade(&id.offer.to_string(), &firmware(&held.offer, &url));
        Some(Outgoing::new(topics::upgrade(product_key, device_key), message))
    };
    offers.iter().filter_map(message).collect()
}
