//! What one gateway, or one device of its own, is being sent: one message at a time, sent again until it is answered or given up.
//!
//! A pure schedule: offers and the time in, what to do next out. What it knows is lost with the connection, and made good at the next
//! one from what the engine says is offered: an upgrade that is offered and not begun is sent again.

use sluicegate::model::{Timestamp, UpgradeId, UpgradeState};
use sluicegate::{DeviceName, HeldOffer};
use std::time::{Duration, Instant};

/// How a platform's devices are sent their upgrades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    /// How long an answer may take, and how often a message is sent; `None` where devices needn't answer.
    pub(crate) answered: Option<Patience>,
    /// How many upgrades one message may hold.
    pub(crate) together_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    pub(crate) wait: Duration,
    pub(crate) sends_max: u32,
}

/// An upgrade that a message was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) device: DeviceName,
    pub(crate) upgrade: UpgradeId,
}

/// What to do now.
#[derive(Debug)]
pub(crate) enum Step {
    /// These, in a message that is named after this one, however often it is sent and whatever has ended since.
    Send(Vec<HeldOffer>, UpgradeId),
    /// Nobody has answered: these attempts have timed out.
    GiveUp(Vec<Sent>),
    /// Nothing, until something happens or this time comes.
    Rest(Option<Instant>),
}

#[derive(Debug)]
pub(crate) struct Courier {
    manner: Manner,
    in_flight: Option<InFlight>,
    has_looked: bool,
    /// The device has asked, and nothing was sent since.
    is_asked: bool,
    /// Where the connection isn't the device's own: since when it was there. What it was offered before may be on its way to it, or its
    /// answer to us.
    there_since: Option<Timestamp>,
    /// The number of the message that was sent last.
    newest: u64,
}

#[derive(Debug)]
struct InFlight {
    sent: Vec<Sent>,
    /// What the message is named after: the first that it was about. That one may have ended.
    named: Option<UpgradeId>,
    sends: u32,
    sent_at: Instant,
    is_answered: bool,
    /// The connection was gone since; whether it was heard nobody knows.
    is_uncertain: bool,
    /// It was sent before, or may have been.
    is_repeated: bool,
    /// The number of the message that is on its way to the broker: before it is there nobody can answer it.
    under_way: Option<u64>,
}

impl Courier {
    pub(crate) const fn new(manner: Manner, there_since: Option<Timestamp>) -> Self {
        Self { manner, in_flight: None, has_looked: false, is_asked: false, there_since, newest: 0 }
    }

    /// `offers`: everything that is offered behind this gateway, in the order of the offers. `name`: of an offer's device.
    pub(crate) fn step(&mut self, offers: &[HeldOffer], name: impl Fn(&HeldOffer) -> Option<DeviceName>, now: Instant) -> Step {
        let is_first_look = !std::mem::replace(&mut self.has_looked, true);
        self.note_what_ended(offers);
        let sent = |held: &HeldOffer| Some(Sent { device: name(held)?, upgrade: held.offer.id? });
        if let Some(in_flight) = &mut self.in_flight {
            let has_begun = |held: &&HeldOffer| held.upgrade.state != UpgradeState::Offered;
            let own = |held: &&HeldOffer| in_flight.sent.iter().any(|sent| Some(sent.upgrade) == held.offer.id);
            if offers.iter().filter(own).any(|held| has_begun(&held)) {
                in_flight.is_answered = true;
            }
            let Some(patience) = self.manner.answered.filter(|_| !in_flight.is_answered) else { return Step::Rest(None) };
            if in_flight.under_way.is_some() {
                return Step::Rest(None);
            }
            if std::mem::take(&mut in_flight.is_uncertain) {
                (in_flight.sends, in_flight.sent_at) = (0, now);
            }
            let due = in_flight.sent_at + patience.wait;
            if now < due {
                return Step::Rest(Some(due));
            }
            if in_flight.sends >= patience.sends_max {
                return Step::GiveUp(self.in_flight.take().map(|in_flight| in_flight.sent).unwrap_or_default());
            }
            in_flight.sends += 1;
            in_flight.sent_at = now;
            in_flight.is_repeated = true;
            let again = offers.iter().filter(|held| in_flight.sent.iter().any(|sent| Some(sent.upgrade) == held.offer.id));
            let Some(named) = in_flight.named else { return Step::Rest(None) };
            return Step::Send(again.cloned().collect(), named);
        }
        // What runs already was sent before this connection.
        let running: Vec<Sent> =
            offers.iter().filter(|held| held.upgrade.state != UpgradeState::Offered).filter_map(sent).collect();
        if !running.is_empty() && !std::mem::take(&mut self.is_asked) {
            self.in_flight = Some(InFlight::new(running, 1, now, true));
            return Step::Rest(None);
        }
        let next: Vec<HeldOffer> = offers.iter().take(self.manner.together_max).cloned().collect();
        let sent: Vec<Sent> = next.iter().filter_map(sent).collect();
        let Some(named) = sent.first().map(|sent| sent.upgrade) else { return Step::Rest(None) };
        self.is_asked = false;
        let is_answered = self.manner.answered.is_none();
        let is_earlier =
            |held: &HeldOffer| self.there_since.is_some_and(|since| held.upgrade.offered_at.is_some_and(|at| at < since));
        let may_be_on_its_way = is_first_look && next.iter().any(is_earlier);
        if let Some(patience) = self.manner.answered.filter(|_| may_be_on_its_way) {
            self.in_flight = Some(InFlight::new(sent, 0, now, is_answered));
            return Step::Rest(Some(now + patience.wait));
        }
        self.in_flight = Some(InFlight::new(sent, 1, now, is_answered));
        Step::Send(next, named)
    }

    fn note_what_ended(&mut self, offers: &[HeldOffer]) {
        let Some(in_flight) = &mut self.in_flight else { return };
        in_flight.sent.retain(|sent| offers.iter().any(|held| held.offer.id == Some(sent.upgrade)));
        if in_flight.sent.is_empty() {
            self.in_flight = None;
        }
    }

    /// The message about these has arrived; it is not sent again. Another that has taken its place meanwhile is.
    pub(crate) fn answered(&mut self, about: &[Sent], now: Instant) {
        match &mut self.in_flight {
            Some(in_flight) => in_flight.is_answered |= in_flight.sent.iter().any(|sent| about.contains(sent)),
            // Sent over an earlier connection.
            None if !self.has_looked && !about.is_empty() => {
                self.in_flight = Some(InFlight::new(about.to_vec(), 1, now, true));
            }
            None => {}
        }
    }

    /// A connection that was gone is there again: what nobody has answered may never have been heard. Where answers are waited for, this
    /// one is, from the next look on and as long as for a first message, before anything is sent: it may be on its way. What needn't be
    /// answered, and isn't known to run, is sent again.
    pub(crate) fn connected_again(&mut self) {
        match (&mut self.in_flight, self.manner.answered) {
            (Some(in_flight), Some(_)) => in_flight.is_uncertain = !in_flight.is_answered,
            (in_flight, None) => *in_flight = None,
            (None, Some(_)) => {}
        }
    }

    /// The device asks for what it was sent, whether or not it has begun.
    pub(crate) fn send_again(&mut self) {
        self.in_flight = None;
        self.is_asked = true;
    }

    /// What a step said is to be sent now will be at the broker only when [`arrived`](Self::arrived) says so; until then nobody is
    /// blamed for not answering, and it isn't sent again. The number of the message.
    pub(crate) fn sets_out(&mut self) -> u64 {
        self.newest += 1;
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.under_way = Some(self.newest);
        }
        self.newest
    }

    /// The broker has this message, or never will: from now on an answer is waited for.
    pub(crate) fn arrived(&mut self, number: u64, now: Instant) {
        if let Some(in_flight) = self.in_flight.as_mut().filter(|in_flight| in_flight.under_way == Some(number)) {
            (in_flight.under_way, in_flight.sent_at) = (None, now);
        }
    }

    /// What was to be sent could not be handed over. What was sent before may be answered all the same.
    pub(crate) fn not_sent(&mut self) {
        match &mut self.in_flight {
            Some(in_flight) if in_flight.is_repeated => in_flight.sends = in_flight.sends.saturating_sub(1),
            _ => self.in_flight = None,
        }
    }

    /// The upgrades that an answer or progress is about: those of the message that it names, else those in flight. Empty where it
    /// names an earlier attempt of theirs. `None` where nothing is in flight, as far as is known here.
    pub(crate) fn concerned(&self, business_id: &str, newest_event: u64) -> Option<Vec<Sent>> {
        let in_flight = self.in_flight.as_ref()?;
        let is_named = in_flight.named.is_some_and(|named| named.to_string() == business_id);
        let is_stale = !is_named && is_other_attempt(business_id, &in_flight.sent, newest_event);
        Some(if is_stale { Vec::new() } else { in_flight.sent.clone() })
    }

    /// Whether what is offered was looked at; before, something may be in flight that was sent over an earlier connection.
    pub(crate) const fn has_looked(&self) -> bool {
        self.has_looked
    }
}

impl InFlight {
    fn new(sent: Vec<Sent>, sends: u32, sent_at: Instant, is_answered: bool) -> Self {
        let named = sent.first().map(|sent| sent.upgrade);
        Self { sent, named, sends, sent_at, is_answered, is_uncertain: false, is_repeated: false, under_way: None }
    }
}

/// Whether a business id is one of ours, and names none of these attempts. What merely looks like one of ours names an offer that never
/// was.
pub(super) fn is_other_attempt(business_id: &str, sent: &[Sent], newest_event: u64) -> bool {
    let named = business_id.parse::<UpgradeId>().ok().filter(|named| (1..=newest_event).contains(&named.offer));
    named.is_some_and(|named| sent.iter().all(|sent| sent.upgrade != named))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate::model::*;
    use sluicegate::{Check, CheckRules, Connect, DeviceRef, Engine, NewTask, Options, TaskTarget};
    use std::sync::Arc;

    /// Of a connection of the device's own.
    fn own(manner: Manner) -> Courier {
        Courier::new(manner, None)
    }

    /// A gateway with two devices behind it, on a real engine.
    struct Behind {
        engine: Engine,
        now: Timestamp,
        _folder: tempfile::TempDir,
    }

    fn name(device_id: &str) -> DeviceName {
        DeviceRef { organization: "o", product_id: "p", device_id }.to_owned()
    }

    impl Behind {
        fn new(devices: &[&str]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let engine = Engine::open(Options::new(folder.path())).unwrap();
            let now = Timestamp::from_seconds(1_800_000_000);
            for device in devices {
                engine.note_version(name(device).as_ref(), Component::MAIN, "1", true, now).wait().unwrap();
            }
            let attached = devices[1..].iter().map(|device| Arc::from(*device)).collect();
            engine
                .connect(
                    Connect {
                        gateway: name(devices[0]),
                        attached,
                        epoch: 1,
                        component: Component::MAIN,
                        together_max: 2,
                        register: true,
                    },
                    now,
                )
                .wait()
                .unwrap();
            let artifact = Artifact { url: Some("http://x/f".into()), size: 1, md5: "m".into(), ..Artifact::default() };
            let target = TaskTarget::Artifact { version: "2".into(), artifact };
            let new = NewTask { start: true, ..NewTask::new("o", "p", vec!["1".into()], target) };
            engine.create_task(new, false, now).wait().unwrap();
            Self { engine, now, _folder: folder }
        }

        fn offers(&self) -> Vec<HeldOffer> {
            self.engine.read_blocking(|state| state.offers_behind(name("dock").as_ref())).unwrap()
        }

        fn report(&self, held: &HeldOffer, state: ReportedState) {
            let report = sluicegate::Report {
                device: name(&held.device.id),
                upgrade: held.offer.id.unwrap(),
                state,
                percent: None,
                detail: None,
                code: None,
            };
            self.engine.report(report, self.now).wait().unwrap();
        }
    }

    const PATIENT: Manner = Manner { answered: Some(Patience { wait: Duration::from_secs(3), sends_max: 3 }), together_max: 2 };

    fn step(courier: &mut Courier, behind: &Behind, now: Instant) -> Step {
        courier.step(&behind.offers(), |held| Some(name(&held.device.id)), now)
    }

    fn answer(courier: &mut Courier, behind: &Behind, now: Instant) {
        let about = |held: &HeldOffer| Sent { device: name(&held.device.id), upgrade: held.offer.id.unwrap() };
        let about: Vec<Sent> = behind.offers().iter().map(about).collect();
        courier.answered(&about, now);
    }

    fn sent(step: Step) -> Vec<String> {
        let Step::Send(offers, _) = step else { panic!("{step:?}") };
        offers.iter().map(|held| held.device.id.to_string()).collect()
    }

    #[test]
    fn what_nobody_answers_is_sent_three_times_and_then_given_up() {
        let behind = Behind::new(&["dock", "drone"]);
        let mut courier = own(PATIENT);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(sent(step(&mut courier, &behind, start)), ["dock", "drone"]);
        assert!(matches!(step(&mut courier, &behind, after(2)), Step::Rest(Some(due)) if due == after(3)));
        assert_eq!(sent(step(&mut courier, &behind, after(3))), ["dock", "drone"]);
        assert_eq!(sent(step(&mut courier, &behind, after(6))), ["dock", "drone"]);
        let Step::GiveUp(upgrades) = step(&mut courier, &behind, after(9)) else { panic!("it should be given up") };
        assert_eq!(upgrades.len(), 2);
    }

    #[test]
    fn what_nobody_could_answer_while_the_connection_was_gone_is_sent_as_if_for_the_first_time() {
        let behind = Behind::new(&["dock"]);
        let mut courier = own(PATIENT);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        for sends in 0..3 {
            sent(step(&mut courier, &behind, after(sends * 3)));
        }
        courier.connected_again();
        // An answer may be on its way.
        assert!(matches!(step(&mut courier, &behind, after(60)), Step::Rest(Some(due)) if due == after(63)));
        for sends in 0..3 {
            sent(step(&mut courier, &behind, after(63 + sends * 3)));
        }
        assert!(matches!(step(&mut courier, &behind, after(72)), Step::GiveUp(_)));
        // What was answered runs, whatever the connection does.
        sent(step(&mut courier, &behind, after(73)));
        answer(&mut courier, &behind, start);
        courier.connected_again();
        assert!(matches!(step(&mut courier, &behind, after(130)), Step::Rest(None)));
    }

    #[test]
    fn what_the_broker_does_not_have_yet_is_neither_sent_again_nor_given_up() {
        let behind = Behind::new(&["dock"]);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut courier = Courier::new(PATIENT, Some(behind.now));
        sent(step(&mut courier, &behind, start));
        let first = courier.sets_out();
        assert!(matches!(step(&mut courier, &behind, after(60)), Step::Rest(None)));
        courier.arrived(first, after(60));
        assert!(matches!(step(&mut courier, &behind, after(61)), Step::Rest(Some(due)) if due == after(63)));
        sent(step(&mut courier, &behind, after(63)));
        let second = courier.sets_out();
        // Word of the first says nothing of the second.
        courier.arrived(first, after(64));
        assert!(matches!(step(&mut courier, &behind, after(90)), Step::Rest(None)));
        courier.arrived(second, after(90));
        assert!(matches!(step(&mut courier, &behind, after(90)), Step::Rest(Some(due)) if due == after(93)));
    }

    #[test]
    fn an_answer_or_progress_ends_the_sending() {
        let behind = Behind::new(&["dock"]);
        let start = Instant::now();
        let mut answered = own(PATIENT);
        sent(step(&mut answered, &behind, start));
        answer(&mut answered, &behind, start);
        assert!(matches!(step(&mut answered, &behind, start + Duration::from_secs(60)), Step::Rest(None)));

        let mut running = own(PATIENT);
        sent(step(&mut running, &behind, start));
        behind.report(&behind.offers()[0], ReportedState::Downloading);
        assert!(matches!(step(&mut running, &behind, start + Duration::from_secs(60)), Step::Rest(None)));
        // A new connection finds it running, and doesn't send it again.
        assert!(matches!(step(&mut own(PATIENT), &behind, start), Step::Rest(None)));
    }

    #[test]
    fn progress_is_matched_by_its_name_else_by_what_is_in_flight_and_an_earlier_attempt_by_neither() {
        let behind = Behind::new(&["dock"]);
        let mut courier = own(PATIENT);
        assert!(courier.concerned("any", 9).is_none());
        sent(step(&mut courier, &behind, Instant::now()));
        let own = behind.offers()[0].offer.id.unwrap();
        assert_eq!(courier.concerned(&own.to_string(), own.offer).unwrap()[0].upgrade, own);
        assert_eq!(courier.concerned("149878685687484417", own.offer).unwrap()[0].upgrade, own);
        let earlier = UpgradeId { offer: own.offer - 1, ..own };
        let anothers = UpgradeId { device: DeviceNumber(9), ..earlier };
        for over in [earlier, anothers] {
            assert!(courier.concerned(&over.to_string(), own.offer).unwrap().is_empty());
        }
        // Somebody else's id may look like ours.
        assert_eq!(courier.concerned("8ca0ffa25e7240788fa9dc68216ff5d1", own.offer).unwrap()[0].upgrade, own);
        behind.report(&behind.offers()[0], ReportedState::Succeeded);
        step(&mut courier, &behind, Instant::now());
        assert!(courier.concerned(&own.to_string(), own.offer).is_none());
    }

    #[test]
    fn an_order_keeps_its_name_when_the_upgrade_that_it_is_named_after_has_ended() {
        let behind = Behind::new(&["dock", "drone"]);
        let start = Instant::now();
        let mut courier = own(PATIENT);
        let offers = behind.offers();
        let [dock, drone] = [0, 1].map(|place: usize| offers[place].offer.id.unwrap());
        assert_eq!(sent(step(&mut courier, &behind, start)), ["dock", "drone"]);
        behind.report(&offers[0], ReportedState::Canceled);
        let again = step(&mut courier, &behind, start + Duration::from_secs(3));
        assert!(matches!(&again, Step::Send(_, named) if *named == dock), "{again:?}");
        assert_eq!(sent(again), ["drone"]);
        // What is told under that name is about what is left.
        let concerned = courier.concerned(&dock.to_string(), drone.offer).unwrap();
        assert_eq!(concerned.iter().map(|sent| sent.upgrade).collect::<Vec<_>>(), [drone]);
    }

    #[test]
    fn what_could_not_be_sent_again_may_be_answered_for_the_first_time() {
        let behind = Behind::new(&["dock"]);
        let start = Instant::now();
        let mut courier = own(PATIENT);
        let order = behind.offers()[0].offer.id.unwrap();
        sent(step(&mut courier, &behind, start));
        sent(step(&mut courier, &behind, start + Duration::from_secs(3)));
        courier.not_sent();
        assert_eq!(courier.concerned(&order.to_string(), order.offer).map(|concerned| concerned.len()), Some(1));
        // What was never sent is nobody's to answer.
        let mut first = own(PATIENT);
        sent(step(&mut first, &behind, start));
        first.not_sent();
        assert!(first.concerned("any", order.offer).is_none());
    }

    #[test]
    fn what_is_offered_while_something_runs_is_sent_afterwards() {
        let behind = Behind::new(&["dock"]);
        let mut courier = own(Manner { together_max: 1, ..PATIENT });
        let start = Instant::now();
        sent(step(&mut courier, &behind, start));
        // Attached while the gateway's own upgrade runs, and asked for by itself.
        let rules = CheckRules { register: true, ..CheckRules::default() };
        let drone = name("drone");
        let check = Check { device: drone.as_ref(), component: Component::MAIN, version: "1", rules };
        let attached = vec![Arc::from("drone")];
        let connect =
            Connect { gateway: name("dock"), attached, epoch: 1, component: Component::MAIN, together_max: 2, register: true };
        behind.engine.connect(connect, behind.now).wait().unwrap();
        behind.engine.decide(&check, behind.now).wait().unwrap();
        assert_eq!(behind.offers().len(), 2);
        answer(&mut courier, &behind, start);
        assert!(matches!(step(&mut courier, &behind, start), Step::Rest(None)));
        behind.report(&behind.offers()[0], ReportedState::Succeeded);
        assert_eq!(sent(step(&mut courier, &behind, start)), ["drone"]);
    }

    #[test]
    fn devices_that_need_not_answer_are_sent_their_upgrade_once_and_again_when_they_ask() {
        let behind = Behind::new(&["dock"]);
        let mut courier = own(Manner { answered: None, together_max: 1 });
        let now = Instant::now();
        assert_eq!(sent(step(&mut courier, &behind, now)), ["dock"]);
        assert!(matches!(step(&mut courier, &behind, now + Duration::from_secs(60)), Step::Rest(None)));
        courier.send_again();
        assert_eq!(sent(step(&mut courier, &behind, now)), ["dock"]);
    }

    #[test]
    fn on_a_broker_an_order_of_an_earlier_time_is_waited_for_before_it_is_sent_again() {
        let behind = Behind::new(&["dock"]);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let later = Some(Timestamp(behind.now.0 + 1));
        let mut anew = Courier::new(PATIENT, later);
        assert!(matches!(step(&mut anew, &behind, start), Step::Rest(Some(due)) if due == after(3)));
        assert_eq!(sent(step(&mut anew, &behind, after(3))), ["dock"]);
        // Its answer comes first.
        let mut in_time = Courier::new(PATIENT, later);
        step(&mut in_time, &behind, start);
        answer(&mut in_time, &behind, start);
        assert!(matches!(step(&mut in_time, &behind, after(60)), Step::Rest(None)));
        // What was offered since it is there was never sent.
        assert_eq!(sent(step(&mut Courier::new(PATIENT, Some(behind.now)), &behind, start)), ["dock"]);
    }

    #[test]
    fn what_needs_no_answer_and_is_not_known_to_run_is_sent_again_on_a_new_connection() {
        let behind = Behind::new(&["dock"]);
        let mut told = own(Manner { answered: None, together_max: 1 });
        let now = Instant::now();
        sent(step(&mut told, &behind, now));
        told.connected_again();
        assert_eq!(sent(step(&mut told, &behind, now)), ["dock"]);
        behind.report(&behind.offers()[0], ReportedState::Installing);
        told.connected_again();
        assert!(matches!(step(&mut told, &behind, now), Step::Rest(None)));
    }

    #[test]
    fn an_answer_counts_for_what_it_is_about_and_not_for_what_was_sent_since() {
        let behind = Behind::new(&["dock"]);
        let start = Instant::now();
        let earlier = behind.offers()[0].offer.id.unwrap();
        let mut courier = own(PATIENT);
        sent(step(&mut courier, &behind, start));
        let about = |offer| vec![Sent { device: name("dock"), upgrade: UpgradeId { offer, ..earlier } }];
        courier.answered(&about(earlier.offer - 1), start);
        assert_eq!(sent(step(&mut courier, &behind, start + Duration::from_secs(3))), ["dock"]);
        courier.answered(&about(earlier.offer), start);
        assert!(matches!(step(&mut courier, &behind, start + Duration::from_secs(60)), Step::Rest(None)));
        // What was sent before a restart is known by its answer alone.
        let mut anew = Courier::new(PATIENT, Some(Timestamp(behind.now.0 + 1)));
        anew.answered(&about(earlier.offer), start);
        assert!(matches!(step(&mut anew, &behind, start + Duration::from_secs(60)), Step::Rest(None)));
    }
}
