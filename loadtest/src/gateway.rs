//! One gateway in Autel's dialect: what it hears and the time in, what it publishes out. No socket.
//!
//! ```text
//!  Waiting ──ota_create──▶ Running (ota_progress by the clock) ──ok, failed──▶ Ending ──confirmed──▶ Over
//!    │                        ▲ a repeated order is answered, and starts nothing
//!    └──▶ Gone: it vanishes with an order in its hands
//! ```
//!
//! It outlives its connections: what was not confirmed is published again on the next, after it has said anew that it is there.
//! *Confirmed* is a message by its PUBACK where the server itself gives it, and by the reply to it where a broker lies between: a
//! broker's PUBACK says nothing of the server.

use crate::device::{Behaviour, World};
use crate::download::Download;
use crate::ledger::{DEADLINE_GRAIN, Record, Stand};
use crate::random::Random;
use crate::setup::{device_id, hex};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What confirms a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    Puback,
    Reply,
}

/// Something to publish, by QoS 1.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    tid: String,
    content: Content,
    asks_for_reply: bool,
    /// The first of several times.
    sent_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Topology,
    Version {
        is_new: bool,
    },
    OrderAnswer,
    /// How far it is, or how it ended.
    Progress(Stand),
    /// An event that was said before.
    Again,
    /// That it is there.
    Presence,
}

impl Content {
    /// Realm and channel of the topic, and the method.
    fn place(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Topology => ("sys", "status", "update_topo"),
            Self::Version { .. } => ("thing", "state", ""),
            Self::OrderAnswer => ("thing", "services_reply", "ota_create"),
            Self::Progress(_) | Self::Again => ("thing", "events", "ota_progress"),
            Self::Presence => ("thing", "osd", ""),
        }
    }

    /// By a connection that begins, or by what comes next.
    fn is_said_anew(self) -> bool {
        matches!(self, Self::Topology | Self::Presence | Self::Again | Self::Version { is_new: false })
    }

    fn is_result(self) -> bool {
        matches!(self, Self::Progress(stand) if stand >= Stand::Succeeded)
    }
}

/// Of the exchange, and of the business it belongs to.
struct Ids {
    tid: String,
    bid: String,
}

impl Message {
    pub(crate) fn is_event(&self) -> bool {
        matches!(self.content, Content::Progress(_))
    }

    /// A result that is sent for the first time.
    pub(crate) fn frees_a_permit_at(&self, now: Instant) -> bool {
        self.content.is_result() && self.sent_at == Some(now)
    }
}

/// What became known by something that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// An order for a run that hadn't begun.
    Ordered,
    OrderedAgain,
    /// The server answered what was published then.
    TopologyAnswered(Instant),
    EventAnswered(Instant),
    /// It has come to its end, which the server knows.
    Ended,
    /// It has nothing more to say.
    Settled,
}

#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) index: usize,
    pub(crate) sn: String,
    behaviour: Behaviour,
    confirmation: Confirmation,
    random: Random,
    stage: Stage,
    to_send: VecDeque<Message>,
    /// Replies that are due.
    awaited: Vec<(Message, Instant)>,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    Running(Run),
    /// The result was said, and not confirmed.
    Ending(Run),
    Over {
        bid: String,
    },
    Gone,
}

#[derive(Debug)]
struct Run {
    bid: String,
    arrived_at: Instant,
    step: u32,
    step_due: Instant,
    download: Option<Download>,
    /// The image is here, or wasn't asked for.
    is_downloaded: bool,
}

impl Gateway {
    pub(crate) fn new(index: usize, world: &World, confirmation: Confirmation) -> Self {
        let mut random = Random::for_member(world.options.seed, index);
        let behaviour = Behaviour::of_lot(random.fraction(), &world.options);
        let (stage, to_send, awaited) = (Stage::Waiting, VecDeque::new(), Vec::new());
        Self { index, sn: device_id(index), behaviour, confirmation, random, stage, to_send, awaited }
    }

    pub(crate) fn filters(&self) -> [String; 3] {
        let sn = &self.sn;
        [
            format!("thing/product/{sn}/services"),
            format!("sys/product/{sn}/status_reply"),
            format!("thing/product/{sn}/events_reply"),
        ]
    }

    /// It has subscribed on a new connection. `unconfirmed`: what the last one left so, the oldest first.
    pub(crate) fn connected(&mut self, unconfirmed: impl DoubleEndedIterator<Item = Message>, world: &World) {
        for message in unconfirmed.rev() {
            self.to_send.push_front(message);
        }
        // Said anew, so that what was left of it is old.
        self.to_send.retain(|message| !message.content.is_said_anew());
        for (message, _) in std::mem::take(&mut self.awaited) {
            let is_queued = self.to_send.iter().any(|other| other.tid == message.tid);
            if self.confirmation == Confirmation::Reply && message.content.is_result() && !is_queued {
                self.to_send.push_front(message);
            }
        }
        if !self.is_new() {
            let version = self.version(world.rollout.from_version, false);
            self.to_send.push_front(version);
        }
        let topology = json!({
            "domain": 3, "type": 1, "sub_type": 0, "device_secret": "", "nonce": "", "thing_version": "1.0", "sub_devices": [],
        });
        let ids = self.new_ids();
        let topology = self.message(ids, Content::Topology, true, &topology);
        self.to_send.push_front(topology);
    }

    /// Runs the new version, or has said so.
    fn is_new(&self) -> bool {
        matches!(self.stage, Stage::Over { .. }) && self.behaviour != Behaviour::Fails
    }

    pub(crate) fn has_vanished(&self) -> bool {
        matches!(self.stage, Stage::Gone) && self.to_send.is_empty()
    }

    /// The next message that is due, by then as good as sent.
    pub(crate) fn next_message(&mut self, now: Instant) -> Option<Message> {
        let mut message = self.to_send.pop_front()?;
        message.sent_at.get_or_insert(now);
        if message.asks_for_reply {
            self.awaited.push((message.clone(), now));
        }
        Some(message)
    }

    /// Where nothing else was said for long: through a broker a server hears of a gateway only by what it publishes.
    pub(crate) fn presence(&mut self) {
        let ids = self.new_ids();
        let presence = self.message(ids, Content::Presence, false, &json!({ "mode_code": 0 }));
        self.to_send.push_back(presence);
    }

    /// When the clock is to be looked at again.
    pub(crate) fn due(&self) -> Option<Instant> {
        let step_due = match &self.stage {
            Stage::Running(run) => Some(run.step_due),
            _ => None,
        };
        let reply_due = self.awaited.iter().map(|(_, sent_at)| *sent_at + self.reply_max()).min();
        step_due.into_iter().chain(reply_due).min()
    }

    fn reply_max(&self) -> Duration {
        match self.confirmation {
            Confirmation::Puback => REPLY_MAX,
            Confirmation::Reply => REPEAT_AFTER,
        }
    }

    /// The clock: the next step of the run, and replies that didn't come.
    pub(crate) fn look_at_clock(&mut self, now: Instant, world: &World) {
        let reply_max = self.reply_max();
        let missing: Vec<Message> =
            self.awaited.extract_if(.., |(_, sent_at)| *sent_at + reply_max <= now).map(|(message, _)| message).collect();
        for message in missing {
            match (self.confirmation, message.content) {
                (Confirmation::Puback, content) => {
                    let seconds = REPLY_MAX.as_secs();
                    world.ledger.mismatch(format!("{}: no reply to {content:?} within {seconds} s", self.sn));
                }
                (Confirmation::Reply, content) if content == Content::Topology || content.is_result() => {
                    self.to_send.push_back(message)
                }
                // What comes next says more.
                (Confirmation::Reply, _) => {}
            }
        }
        let options = &world.options;
        let Stage::Running(run) = &mut self.stage else { return };
        if now < run.step_due {
            return;
        }
        run.step_due = (run.step_due + options.progress_every()).max(now);
        let steps_of_download = options.progress_steps.div_ceil(2);
        if run.step >= steps_of_download && !run.is_downloaded {
            self.tell(Stand::Downloading, world);
            return;
        }
        run.step += 1;
        if run.step <= options.progress_steps {
            let stand = if run.step <= steps_of_download { Stand::Downloading } else { Stand::Installing };
            self.tell(stand, world);
            if self.behaviour == Behaviour::Vanishes {
                self.vanish(world);
            }
            return;
        }
        if let Stage::Running(run) = std::mem::replace(&mut self.stage, Stage::Gone) {
            self.stage = Stage::Ending(run);
        }
        let result = self.result();
        self.tell(result, world);
    }

    fn result(&self) -> Stand {
        if self.behaviour == Behaviour::Fails { Stand::Failed } else { Stand::Succeeded }
    }

    /// Is never heard of again, but for what it has already said.
    fn vanish(&mut self, world: &World) {
        let Stage::Running(run) = std::mem::replace(&mut self.stage, Stage::Gone) else { return };
        world.ledger.finish(self.record(&run, Stand::TimedOut, None, world));
    }

    /// Queues an event on how far it is.
    fn tell(&mut self, stand: Stand, world: &World) {
        let (Stage::Running(run) | Stage::Ending(run)) = &self.stage else { return };
        let (steps, step) = (world.options.progress_steps, run.step);
        let of_download = steps.div_ceil(2);
        let percent = |done: u32, of: u32| (done * 100).checked_div(of).unwrap_or(100).min(100);
        let (percent, number, step_key, sub_status, status) = match stand {
            Stand::Downloading => (percent(step, of_download), 1, "download_firmware", "DOWNLOADING", "in_progress"),
            Stand::Installing => {
                (percent(step - of_download, steps - of_download), 2, "upgrade_firmware", "UPGRADING", "in_progress")
            }
            Stand::Failed => (90, 2, "upgrade_firmware", "UPGRADE_FAIL", "failed"),
            _ => (100, 2, "upgrade_firmware", "UPGRADE_SUCCESS", "ok"),
        };
        let data = json!({
            "result": 0,
            "output": {
                "status": status,
                "sub_status": sub_status,
                "progress": { "percent": percent, "step": number, "step_key": step_key },
            },
        });
        let bid = run.bid.clone();
        let asks_for_reply = self.confirmation == Confirmation::Reply || stand >= Stand::Succeeded || step % 4 == 1;
        let ids = Ids { tid: self.unique(), bid };
        let message = self.message(ids, Content::Progress(stand), asks_for_reply, &data);
        if self.behaviour == Behaviour::Repeats {
            // The very same again, as by a gateway that missed the PUBACK; the second is the one that is waited for.
            self.to_send.push_back(Message { asks_for_reply: false, content: Content::Again, ..message.clone() });
        }
        self.to_send.push_back(message);
    }

    fn version(&mut self, version: &str, is_new: bool) -> Message {
        let ids = self.new_ids();
        self.message(ids, Content::Version { is_new }, false, &json!({ "firmware_version": version }))
    }

    fn message(&self, ids: Ids, content: Content, asks_for_reply: bool, data: &Value) -> Message {
        let (realm, channel, method) = content.place();
        let Ids { tid, bid } = ids;
        let mut envelope = json!({ "tid": tid, "bid": bid, "timestamp": timestamp_ms(), "gateway": self.sn, "data": data });
        if !method.is_empty() {
            envelope["method"] = method.into();
        }
        if asks_for_reply && channel == "events" {
            envelope["need_reply"] = 1.into();
        }
        let (topic, payload) = (format!("{realm}/product/{}/{channel}", self.sn), envelope.to_string().into());
        Message { topic, payload, tid, content, asks_for_reply, sent_at: None }
    }

    fn new_ids(&mut self) -> Ids {
        Ids { tid: self.unique(), bid: self.unique() }
    }

    /// In the form of the platform's ids.
    fn unique(&mut self) -> String {
        let (high, low) = (self.random.next(), self.random.next());
        let parts = [high >> 32, high >> 16 & 0xffff, high & 0xffff, low >> 48, low & 0xffff_ffff_ffff];
        format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", parts[0], parts[1], parts[2], parts[3], parts[4])
    }

    /// A publication of the server. An error is something it must not say.
    pub(crate) fn hear(&mut self, topic: &str, payload: &[u8], now: Instant, world: &World) -> Result<Vec<News>, String> {
        let message: Value = serde_json::from_slice(payload).map_err(|error| format!("{topic}: {error}"))?;
        let filters = self.filters();
        let [services, status_reply, events_reply] = filters.each_ref().map(String::as_str);
        if topic == services {
            return self.take_order(&message, now, world).map(|news| vec![news]);
        }
        if topic != status_reply && topic != events_reply {
            return Err(format!("was told on {topic}, to which it hasn't subscribed"));
        }
        if message["data"]["result"] != 0 {
            return Err(format!("{topic}: expected the result 0, got {message}"));
        }
        let place = self.awaited.iter().position(|(awaited, _)| message["tid"] == *awaited.tid);
        // Of an earlier connection, or given up.
        let Some(place) = place else { return Ok(Vec::new()) };
        let (awaited, sent_at) = self.awaited.swap_remove(place);
        let mut news = vec![if awaited.is_event() { News::EventAnswered(sent_at) } else { News::TopologyAnswered(sent_at) }];
        if self.confirmation == Confirmation::Reply {
            news.extend(self.confirmed(&awaited, now, world));
        }
        Ok(news)
    }

    fn take_order(&mut self, order: &Value, now: Instant, world: &World) -> Result<News, String> {
        let (Some("ota_create"), Some(tid), Some(bid)) = (order["method"].as_str(), order["tid"].as_str(), order["bid"].as_str())
        else {
            return Err(format!("expected an ota_create with tid and bid, got {order}"));
        };
        let own = match &self.stage {
            Stage::Waiting => None,
            Stage::Running(run) | Stage::Ending(run) => Some(&run.bid),
            Stage::Over { bid } => Some(bid),
            Stage::Gone => return Ok(News::OrderedAgain),
        };
        let is_new = own.is_none();
        if own.is_some_and(|own| own != bid) {
            return Err(format!("was ordered to begin a second run: {order}"));
        }
        let (rollout, device) = (&world.rollout, &order["data"]["devices"][0]);
        let as_ordered = device["sn"] == *self.sn
            && device["product_version"] == rollout.target_version
            && device["file_size"] == rollout.image_size
            && device["md5"] == hex(&rollout.image_md5);
        let download = device["file_url"].as_str().and_then(Download::new);
        let (Some(download), true) = (download, as_ordered) else {
            return Err(format!("the order isn't what was ordered: {order}"));
        };
        let ids = Ids { tid: tid.to_owned(), bid: bid.to_owned() };
        // One in two vanishes without a word, the other one after its first event.
        let vanishes_mute = self.behaviour == Behaviour::Vanishes && self.index.is_multiple_of(2);
        if is_new {
            world.ledger.acknowledge(self.index, Stand::Offered);
            // Not all at once: the events of a fleet that was ordered at once spread evenly over the time between two of them.
            let step_due = now + world.options.progress_every().mul_f64(self.random.fraction());
            let wanted = world.options.download && self.behaviour != Behaviour::Vanishes;
            self.stage = Stage::Running(Run {
                bid: ids.bid.clone(),
                arrived_at: now,
                step: 0,
                step_due,
                download: wanted.then_some(download),
                is_downloaded: !wanted,
            });
            if vanishes_mute {
                self.vanish(world);
                return Ok(News::Ordered);
            }
        }
        let data = json!({ "result": 0, "output": { "status": "sent" } });
        let answer = self.message(ids, Content::OrderAnswer, false, &data);
        self.to_send.push_back(answer);
        Ok(if is_new { News::Ordered } else { News::OrderedAgain })
    }

    /// The other end has what was published.
    pub(crate) fn acknowledged(&mut self, message: &Message, now: Instant, world: &World) -> Option<News> {
        let counts = self.confirmation == Confirmation::Puback || matches!(message.content, Content::Version { .. });
        if counts { self.confirmed(message, now, world) } else { None }
    }

    fn confirmed(&mut self, message: &Message, now: Instant, world: &World) -> Option<News> {
        match message.content {
            Content::Version { is_new: true } => Some(News::Settled),
            Content::Progress(stand) if message.content.is_result() => self.end(stand, message, now, world),
            Content::Progress(stand) => {
                world.ledger.acknowledge(self.index, stand);
                None
            }
            _ => None,
        }
    }

    fn end(&mut self, result: Stand, message: &Message, now: Instant, world: &World) -> Option<News> {
        let run = match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Ending(run) => run,
            // Confirmed before.
            other => {
                self.stage = other;
                return None;
            }
        };
        world.ledger.acknowledge(self.index, result);
        let mut record = self.record(&run, result, message.sent_at, world);
        record.may_have_timed_out = now >= deadline_min(&run, world);
        world.ledger.finish(record);
        self.stage = Stage::Over { bid: run.bid };
        if result == Stand::Succeeded {
            let version = self.version(world.rollout.target_version, true);
            self.to_send.push_back(version);
        }
        Some(News::Ended)
    }

    /// It vanished, or failed: there is nothing to say after its end.
    pub(crate) fn is_settled_by_its_end(&self) -> bool {
        self.behaviour == Behaviour::Fails
    }

    fn record(&self, run: &Run, result: Stand, sent_at: Option<Instant>, world: &World) -> Record {
        let deadline_min = deadline_min(run, world);
        let held_until = sent_at.map_or(deadline_min, |sent_at| sent_at.min(deadline_min));
        Record { index: self.index, held_from: run.arrived_at, held_until, result, may_have_timed_out: false }
    }

    /// What is to be downloaded now; given out once.
    pub(crate) fn take_download(&mut self) -> Option<Download> {
        match &mut self.stage {
            Stage::Running(run) => run.download.take(),
            _ => None,
        }
    }

    pub(crate) fn downloaded(&mut self) {
        if let Stage::Running(run) = &mut self.stage {
            run.is_downloaded = true;
        }
    }
}

/// The earliest time by which the deadline may have passed.
fn deadline_min(run: &Run, world: &World) -> Instant {
    let timeout = world.options.timeout().saturating_sub(ORDER_TRAVEL_MAX).saturating_sub(DEADLINE_GRAIN);
    run.arrived_at + timeout
}

fn timestamp_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// From the grant of a permit, which begins its deadline, to the arrival of the order, also where the server is killed between the two.
/// Generous: it costs nothing but that devices that vanished are counted as upgrading for less long than they do.
const ORDER_TRAVEL_MAX: Duration = Duration::from_secs(20);
/// Longer than any reply of a healthy server takes, however loaded the machine.
const REPLY_MAX: Duration = Duration::from_secs(30);
/// When something is said again of which nobody has said that it was heard.
const REPEAT_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    /// A gateway that is connected and has said so, and its world: two steps of a second each.
    struct Scene {
        gateway: Gateway,
        world: World,
        now: Instant,
    }

    impl Scene {
        fn new(confirmation: Confirmation, behaviour: Behaviour) -> Self {
            let arguments = ["--gateways", "4", "--progress-every-ms", "1000", "--progress-steps", "2"];
            let world = World::for_test(&arguments);
            let mut gateway = Gateway::new(1, &world, confirmation);
            gateway.behaviour = behaviour;
            let mut scene = Self { gateway, world, now: Instant::now() };
            assert_eq!(scene.reconnect([]), ["status update_topo", "state 1.0"]);
            scene
        }

        fn reconnect<const N: usize>(&mut self, unconfirmed: [Message; N]) -> Vec<String> {
            self.gateway.connected(unconfirmed.into_iter(), &self.world);
            self.said().0
        }

        /// All that it has to say, in short and in full.
        fn said(&mut self) -> (Vec<String>, Vec<Message>) {
            let messages: Vec<Message> = std::iter::from_fn(|| self.gateway.next_message(self.now)).collect();
            (messages.iter().map(in_short).collect(), messages)
        }

        fn order(&mut self, bid: &str) -> Result<Vec<News>, String> {
            let device = json!({
                "sn": self.gateway.sn, "product_version": "2.0", "file_size": 1, "md5": hex(&[0; 16]), "file_url": "http://h/i?t=1",
            });
            let order = json!({ "tid": "t", "bid": bid, "method": "ota_create", "timestamp": 1, "data": { "devices": [device] } });
            let topic = format!("thing/product/{}/services", self.gateway.sn);
            self.gateway.hear(&topic, order.to_string().as_bytes(), self.now, &self.world)
        }

        /// One step of the run further.
        fn step(&mut self) -> (Vec<String>, Vec<Message>) {
            self.now += Duration::from_secs(1);
            self.gateway.look_at_clock(self.now, &self.world);
            self.said()
        }

        fn reply(&mut self, message: &Message) -> Vec<News> {
            let topic = format!("{}_reply", message.topic);
            let reply = json!({ "tid": message.tid, "data": { "result": 0 } });
            self.gateway.hear(&topic, reply.to_string().as_bytes(), self.now, &self.world).unwrap()
        }

        fn acknowledge(&mut self, message: &Message) -> Option<News> {
            self.gateway.acknowledged(message, self.now, &self.world)
        }

        fn stand(&self) -> Stand {
            self.world.ledger.snapshot()[1]
        }
    }

    fn in_short(message: &Message) -> String {
        let envelope: Value = serde_json::from_slice(&message.payload).unwrap();
        let channel = message.topic.rsplit_once('/').unwrap().1;
        let (output, data) = (&envelope["data"]["output"], &envelope["data"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match (channel, output["progress"]["percent"].as_u64()) {
            ("state", _) => format!("state {}", text(&data["firmware_version"])),
            ("services_reply", _) => format!("{} {} {}", text(&envelope["tid"]), text(&envelope["bid"]), text(&output["status"])),
            (_, Some(percent)) => {
                format!("{} {} {percent}", text(&output["status"]), text(&output["progress"]["step_key"]))
            }
            _ => format!("{channel} {}", text(&envelope["method"])),
        }
    }

    #[test]
    fn an_order_is_answered_and_carried_out_by_the_clock() {
        let mut scene = Scene::new(Confirmation::Puback, Behaviour::Healthy);
        assert_eq!(scene.order("b"), Ok(vec![News::Ordered]));
        assert_eq!((scene.said().0, scene.stand()), (vec!["t b sent".to_owned()], Stand::Offered));
        let (said, messages) = scene.step();
        assert_eq!(said, ["in_progress download_firmware 100"]);
        assert_eq!((scene.acknowledge(&messages[0]), scene.stand()), (None, Stand::Downloading));
        assert_eq!(scene.step().0, ["in_progress upgrade_firmware 100"]);
        let (said, messages) = scene.step();
        assert_eq!(said, ["ok upgrade_firmware 100"]);
        assert!(messages[0].frees_a_permit_at(scene.now));
        assert_eq!((scene.acknowledge(&messages[0]), scene.stand()), (Some(News::Ended), Stand::Succeeded));
        let (said, messages) = scene.said();
        assert_eq!(said, ["state 2.0"]);
        assert_eq!(scene.acknowledge(&messages[0]), Some(News::Settled));
        assert_eq!((scene.step().0.len(), scene.world.ledger.upgrading_at_once_max()), (0, 1));
    }

    #[test]
    fn a_repeated_order_is_answered_and_starts_nothing_and_a_second_run_is_wrong() {
        let mut scene = Scene::new(Confirmation::Puback, Behaviour::Healthy);
        scene.order("b").unwrap();
        scene.said();
        assert_eq!(scene.order("b"), Ok(vec![News::OrderedAgain]));
        assert_eq!(scene.said().0, ["t b sent"]);
        assert!(scene.order("c").unwrap_err().contains("second run"));
        assert_eq!(scene.step().0.len(), 1);
    }

    #[test]
    fn a_run_goes_on_over_connections_and_says_again_what_was_not_confirmed() {
        let mut scene = Scene::new(Confirmation::Puback, Behaviour::Fails);
        scene.order("b").unwrap();
        scene.said();
        let (_, first) = scene.step();
        let said = scene.reconnect([first[0].clone()]);
        assert_eq!(said, ["status update_topo", "state 1.0", "in_progress download_firmware 100"]);
        scene.step();
        let (said, result) = scene.step();
        assert_eq!(said, ["failed upgrade_firmware 90"]);
        let sent_at = scene.now;
        scene.now += Duration::from_secs(3);
        scene.gateway.connected([result[0].clone()].into_iter(), &scene.world);
        let (said, again) = scene.said();
        assert_eq!(said.last().map(String::as_str), Some("failed upgrade_firmware 90"));
        // Its permit may have ended when it was sent first.
        assert!(again[2].sent_at == Some(sent_at) && !again[2].frees_a_permit_at(scene.now));
        assert_eq!((scene.acknowledge(&again[2]), scene.stand()), (Some(News::Ended), Stand::Failed));
        assert_eq!(scene.reconnect([]), ["status update_topo", "state 1.0"]);
    }

    #[test]
    fn through_a_broker_only_a_reply_confirms_and_a_result_is_said_until_it_has_one() {
        let mut scene = Scene::new(Confirmation::Reply, Behaviour::Healthy);
        scene.order("b").unwrap();
        scene.said();
        let (_, first) = scene.step();
        assert_eq!((scene.acknowledge(&first[0]), scene.stand()), (None, Stand::Offered));
        assert_eq!((scene.reply(&first[0]).len(), scene.stand()), (1, Stand::Downloading));
        scene.step();
        let (said, result) = scene.step();
        scene.acknowledge(&result[0]);
        scene.now += REPEAT_AFTER;
        assert_eq!(scene.step().0.last(), said.last());
        assert_eq!(scene.reconnect([]).last(), said.last());
        assert_eq!(scene.reply(&result[0]).last(), Some(&News::Ended));
        assert_eq!(scene.world.ledger.mismatch_count(), 0);
    }

    #[test]
    fn one_that_vanishes_is_booked_until_its_deadline_and_says_nothing_more() {
        let mut scene = Scene::new(Confirmation::Puback, Behaviour::Vanishes);
        scene.order("b").unwrap();
        assert!(!scene.gateway.has_vanished());
        assert_eq!(scene.step().0, ["t b sent", "in_progress download_firmware 100"]);
        assert!(scene.gateway.has_vanished());
        assert_eq!((scene.step().0.len(), scene.world.ledger.upgrading_at_once_max()), (0, 1));
    }

    #[test]
    fn a_reply_that_never_comes_is_a_mismatch() {
        let mut scene = Scene::new(Confirmation::Puback, Behaviour::Healthy);
        scene.now += REPLY_MAX;
        scene.gateway.look_at_clock(scene.now, &scene.world);
        assert_eq!(scene.world.ledger.mismatch_count(), 1, "the topology was never answered");
    }
}
