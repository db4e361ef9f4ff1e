//! One device and its conversation, a request at a time.
//!
//! ```text
//!  Asking ──offer──▶ Beginning ──▶ Downloading (chunk by chunk) ──▶ Verified ──▶ Installing ──▶ Done
//!    ▲  │                │
//!    └──┘ told to wait   └─ a vanishing device is never heard of again
//! ```

use crate::client::{Answer, Call, ClientError, Connection};
use crate::download::Download;
use crate::ledger::{DEADLINE_GRAIN, Ledger, Record, Stand};
use crate::measurements::{Measurements, Step};
use crate::options::Options;
use crate::random::Random;
use crate::setup::{Rollout, device_id, hex, text_of};
use hyper::header::HeaderValue;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Does as it is told.
    Healthy,
    /// Takes an offer and falls silent.
    Vanishes,
    /// Sends each check and report twice.
    Repeats,
    /// Reports a failed installation.
    Fails,
}

impl Behaviour {
    /// The behaviour of a device whose lot in `0.0 .. 1.0` is `lot`.
    pub(crate) fn of_lot(lot: f64, options: &Options) -> Self {
        if lot < options.vanish {
            Self::Vanishes
        } else if lot < options.vanish + options.repeat {
            Self::Repeats
        } else if lot < options.vanish + options.repeat + options.fail {
            Self::Fails
        } else {
            Self::Healthy
        }
    }
}

/// What all devices of a run share.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) rollout: std::sync::Arc<Rollout>,
    pub(crate) ledger: Ledger,
}

/// When a device wants its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Now,
    After(Duration),
    Never,
}

#[derive(Debug)]
pub(crate) struct Device {
    index: usize,
    name: String,
    token: HeaderValue,
    behaviour: Behaviour,
    random: Random,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Asking,
    Upgrading(Upgrade),
    /// Runs the new version and asks once more: nothing is to be offered.
    Content,
}

/// An upgrade under way.
#[derive(Debug)]
struct Upgrade {
    id: String,
    download: Download,
    /// No permit was granted before, so no deadline passes before this plus the timeout.
    check_sent_at: Instant,
    offer_arrived_at: Instant,
    stand: Stand,
}

/// Why a device can't go on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The server is gone: the run ends.
    Client(ClientError),
    /// The server said something wrong: this device ends.
    Mismatch(String),
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Unexpected(what) => Self::Mismatch(what),
            unreachable => Self::Client(unreachable),
        }
    }
}

impl Device {
    pub(crate) fn new(index: usize, token: HeaderValue, options: &Options) -> Self {
        let mut random = Random::for_member(options.seed, index);
        let behaviour = Behaviour::of_lot(random.fraction(), options);
        Self { index, name: device_id(index), token, behaviour, random, stage: Stage::Asking }
    }

    /// Holds a permit, as far as the device knows.
    pub(crate) fn is_upgrading(&self) -> bool {
        matches!(self.stage, Stage::Upgrading(_))
    }

    /// Does the next thing. An error means that the server is gone.
    pub(crate) async fn step(
        &mut self,
        connection: &mut Connection,
        world: &World,
        measured: &mut Measurements,
    ) -> Result<Turn, ClientError> {
        match self.try_step(connection, world, measured).await {
            Ok(turn) => Ok(turn),
            Err(Trouble::Client(error)) => Err(error),
            Err(Trouble::Mismatch(what)) => {
                world.ledger.mismatch(format!("{}: {what}", self.name));
                Ok(Turn::Never)
            }
        }
    }

    async fn try_step(&mut self, connection: &mut Connection, world: &World, measured: &mut Measurements) -> Result<Turn, Trouble> {
        let stand = match &self.stage {
            Stage::Asking => return self.ask(connection, world, measured).await,
            Stage::Content => return self.ask_for_more(connection, world, measured).await,
            Stage::Upgrading(upgrade) => upgrade.stand,
        };
        match stand {
            Stand::Offered => self.report(connection, world, measured, Stand::Downloading).await?,
            Stand::Downloading => {
                if !self.download_chunk(connection, world, measured).await? {
                    return Ok(Turn::Now);
                }
                self.report(connection, world, measured, Stand::Downloaded).await?;
            }
            Stand::Downloaded => self.report(connection, world, measured, Stand::Installing).await?,
            _ => return self.conclude(connection, world, measured).await,
        }
        Ok(Turn::Now)
    }

    async fn ask(&mut self, connection: &mut Connection, world: &World, measured: &mut Measurements) -> Result<Turn, Trouble> {
        let (answer, answered) = self.check(connection, world, measured, world.rollout.from_version).await?;
        let offer = &answered["upgrade"];
        if offer.is_null() {
            return Ok(Turn::After(self.wait(&answered, world)?));
        }
        let upgrade = self.accept(&answer, offer, world)?;
        world.ledger.acknowledge(self.index, Stand::Offered);
        if self.behaviour == Behaviour::Repeats {
            let (_, again) = self.check(connection, world, measured, world.rollout.from_version).await?;
            let id = text_of(&again["upgrade"]["id"]);
            if id.as_ref() != Some(&upgrade.id) {
                return Err(Trouble::Mismatch(format!("checked twice: was offered {} and then {again}", upgrade.id)));
            }
        }
        if self.behaviour == Behaviour::Vanishes {
            self.book(world, &upgrade, Stand::TimedOut, None);
            return Ok(Turn::Never);
        }
        self.stage = Stage::Upgrading(upgrade);
        Ok(Turn::Now)
    }

    async fn ask_for_more(
        &mut self,
        connection: &mut Connection,
        world: &World,
        measured: &mut Measurements,
    ) -> Result<Turn, Trouble> {
        let (_, answered) = self.check(connection, world, measured, world.rollout.target_version).await?;
        if !answered["upgrade"].is_null() {
            return Err(Trouble::Mismatch(format!("runs the newest version, and was offered {answered}")));
        }
        Ok(Turn::Never)
    }

    async fn check(
        &self,
        connection: &mut Connection,
        world: &World,
        measured: &mut Measurements,
        version: &str,
    ) -> Result<(Answer, Value), Trouble> {
        let check = json!({
            "product_id": world.rollout.product_id, "device_id": self.name, "type": 1, "identify": 0, "version": version,
        });
        let answer = connection.send(&Call::post_json("/api/v1/check", &check).bearer(&self.token)).await?;
        let answered = answer.json("POST /check", &[200])?;
        measure(measured, if answered["upgrade"].is_null() { Step::Check } else { Step::Offer }, &answer);
        Ok((answer, answered))
    }

    /// How long to stay away: as told, but no longer than the run allows, and not all at once.
    fn wait(&mut self, answered: &Value, world: &World) -> Result<Duration, Trouble> {
        let told_s = answered["retry_after_s"].as_u64().filter(|seconds| *seconds > 0);
        let (Some("cap"), Some(told_s)) = (answered["reason"].as_str(), told_s) else {
            return Err(Trouble::Mismatch(format!("expected an offer, or to wait for the cap with a time, got {answered}")));
        };
        let wait_max = Duration::from_secs(told_s).min(Duration::from_millis(world.options.wait_ms_max));
        Ok(wait_max.mul_f64(0.5 + 0.5 * self.random.fraction()))
    }

    fn accept(&self, answer: &Answer, offer: &Value, world: &World) -> Result<Upgrade, Trouble> {
        let rollout = &world.rollout;
        let download = offer["url"].as_str().and_then(Download::new);
        let id = text_of(&offer["id"]);
        let as_ordered = offer["from_version"] == rollout.from_version
            && offer["target_version"] == rollout.target_version
            && offer["size"] == rollout.image_size
            && offer["md5"] == hex(&rollout.image_md5)
            && text_of(&offer["task_id"]).as_ref() == Some(&rollout.task_id);
        let (Some(download), Some(id), true) = (download, id, as_ordered) else {
            return Err(Trouble::Mismatch(format!("the offer isn't what was ordered: {offer}")));
        };
        Ok(Upgrade { id, download, check_sent_at: answer.first_sent_at, offer_arrived_at: Instant::now(), stand: Stand::Offered })
    }

    /// Fetches the next range; true once the whole image has come and is right.
    async fn download_chunk(
        &mut self,
        connection: &mut Connection,
        world: &World,
        measured: &mut Measurements,
    ) -> Result<bool, Trouble> {
        let Stage::Upgrading(upgrade) = &mut self.stage else { return Ok(false) };
        upgrade.download.fetch_chunk(connection, &world.rollout, world.options.chunk_size, measured).await
    }

    /// The result, and what comes after it.
    async fn conclude(&mut self, connection: &mut Connection, world: &World, measured: &mut Measurements) -> Result<Turn, Trouble> {
        let result = if self.behaviour == Behaviour::Fails { Stand::Failed } else { Stand::Succeeded };
        let sent_at = Instant::now();
        self.report(connection, world, measured, result).await?;
        if let Stage::Upgrading(upgrade) = &self.stage {
            self.book(world, upgrade, result, Some(sent_at));
        }
        if result == Stand::Failed {
            return Ok(Turn::Never);
        }
        self.stage = Stage::Content;
        Ok(Turn::Now)
    }

    async fn report(
        &mut self,
        connection: &mut Connection,
        world: &World,
        measured: &mut Measurements,
        stand: Stand,
    ) -> Result<(), Trouble> {
        let Stage::Upgrading(upgrade) = &mut self.stage else { return Ok(()) };
        let mut report = json!({
            "product_id": world.rollout.product_id, "device_id": self.name, "upgrade_id": upgrade.id, "state": stand.name(),
        });
        if stand == Stand::Failed {
            report["detail"] = "the new image didn't boot".into();
        }
        let call = Call::post_json("/api/v1/report", &report).bearer(&self.token);
        for _ in 0..if self.behaviour == Behaviour::Repeats { 2 } else { 1 } {
            let answer = connection.send(&call).await?;
            answer.json(&format!("POST /report {}", stand.name()), &[200])?;
            measure(measured, Step::Report, &answer);
        }
        upgrade.stand = stand;
        world.ledger.acknowledge(self.index, stand);
        Ok(())
    }

    fn book(&self, world: &World, upgrade: &Upgrade, result: Stand, sent_at: Option<Instant>) {
        let deadline_min = upgrade.check_sent_at + world.options.timeout() - DEADLINE_GRAIN;
        world.ledger.finish(Record {
            index: self.index,
            held_from: upgrade.offer_arrived_at,
            held_until: sent_at.map_or(deadline_min, |sent_at| sent_at.min(deadline_min)),
            result,
            may_have_timed_out: sent_at.is_some() && Instant::now() >= deadline_min,
        });
    }
}

pub(crate) fn measure(measured: &mut Measurements, step: Step, answer: &Answer) {
    measured.record(step, answer.latency);
    measured.resent += u64::from(answer.attempts > 1);
}

#[cfg(test)]
impl World {
    /// Of a run with these options, in which nothing has happened yet.
    pub(crate) fn for_test(arguments: &[&str]) -> Self {
        use clap::Parser;
        let rollout = Rollout {
            product_id: "p".into(),
            task_id: "t".into(),
            image_size: 1,
            image_md5: [0; 16],
            from_version: "1.0",
            target_version: "2.0",
        };
        let options = Options::parse_from([&["loadtest"], arguments].concat());
        Self { ledger: Ledger::new(options.members() as usize), options, rollout: std::sync::Arc::new(rollout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn lots_are_drawn_as_the_fractions_say() {
        let options = Options::parse_from(["loadtest", "--vanish", "0.1", "--repeat", "0.2", "--fail", "0.3"]);
        let drawn = [0.0, 0.09, 0.1, 0.29, 0.31, 0.59, 0.61, 0.99].map(|lot| Behaviour::of_lot(lot, &options));
        use Behaviour::{Fails, Healthy, Repeats, Vanishes};
        assert_eq!(drawn, [Vanishes, Vanishes, Repeats, Repeats, Fails, Fails, Healthy, Healthy]);
    }

    #[test]
    fn a_device_behaves_alike_in_every_run_of_one_seed() {
        let options = Options::parse_from(["loadtest", "--vanish", "0.3", "--fail", "0.3"]);
        let behaviours =
            || (0..100).map(|index| Device::new(index, HeaderValue::from_static("x"), &options).behaviour).collect::<Vec<_>>();
        assert_eq!(behaviours(), behaviours());
        assert!(behaviours().contains(&Behaviour::Fails) && behaviours().contains(&Behaviour::Healthy));
    }
}
