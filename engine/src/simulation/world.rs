//! The program under test, taken through its steps one at a time, with the oracle beside it.
//!
//! It is the engine's own code: commands go through the facade's queue, and the writer is the writer. Only the thread is missing: the
//! four steps of a group (apply, commit, publish or undo, answer) are taken one by one, and between any two of them devices check,
//! operators read, and the power may be cut.

use super::commands::{command, name};
use super::medium::{Fault, Medium};
use super::oracle::{Figures, Held, Oracle, broken, require, told};
use super::steps::{CheckStep, Step, component};
use crate::engine::{Checked, Engine};
use crate::error::Error;
use crate::image::ImageStore;
use crate::limits::Limits;
use crate::model::*;
use crate::pending::Pending;
use crate::state::tests::picture::Picture;
use crate::state::*;
use crate::store::{StoreError, StoreErrorKind};
use crate::writer::Writer;
use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use tempfile::TempDir;

/// Where the run begins in time.
pub(super) const START: Timestamp = Timestamp::from_seconds(1_700_000_000);

const ACKNOWLEDGED: &str = "what is acknowledged is durable";
const EVENTS: &str = "events have no gap";

/// What a step came to, for those who act in the run.
#[derive(Debug)]
pub(super) enum Notice {
    /// The message has gone to the writer under this ticket.
    Sent(u64),
    /// The decision plane has decided it.
    Decided(Decision),
    /// The writer's answer to the message, or that there will be none.
    Answered(u64, Result<Outcome, Error>),
}

/// What was tried, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub steps: u64,
    pub checks: u64,
    pub reports: u64,
    pub groups: u64,
    pub in_largest_group: u64,
    pub undone: u64,
    pub power_cuts: u64,
    pub restarts: u64,
    pub acknowledged: u64,
    pub offers: u64,
    pub events: u64,
    pub audits: u64,
}

/// A command as the oracle hears of it.
#[derive(Clone, Debug)]
struct Asked {
    step: Step,
    upgrade: Option<UpgradeId>,
    at: Timestamp,
}

#[derive(Debug)]
struct Sent {
    ticket: u64,
    asked: Asked,
    pending: Pending<Outcome>,
}

/// The commands of a group with what their callers are told.
type Told = Vec<(Asked, Result<Outcome, Error>)>;

/// Where the writer is with its group.
#[derive(Debug)]
enum Phase {
    Idle,
    Applied,
    Committed(Result<(), StoreError>),
    Concluded { durable: bool },
}

type Reading = Pin<Box<dyn Future<Output = Result<Figures, Error>>>>;

pub(super) struct World {
    pub oracle: Oracle,
    pub now: Timestamp,
    pub tally: Tally,
    medium: Medium,
    limits: Limits,
    images: ImageStore,
    _folder: TempDir,
    fault: Fault,
    // In this order: the writer goes first.
    writer: Option<Writer>,
    engine: Option<Engine>,
    phase: Phase,
    sent: VecDeque<Sent>,
    group: Vec<Sent>,
    told: Told,
    /// The state before a group that will fail.
    before: Option<Picture>,
    /// The store takes nothing any more; a group that it refused may be there all the same.
    failed: bool,
    kept: Option<Told>,
    readings: Vec<Reading>,
    tickets: u64,
    tokens: u64,
}

fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

impl World {
    pub(super) fn new(devices: usize, limits: Limits, is_disk: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images = ImageStore::open(folder.path()).unwrap();
        let medium = Medium::new(is_disk);
        let fault = Arc::new(Mutex::new(None));
        let (engine, writer) = medium.open(&limits, &images, &fault).unwrap();
        Self {
            oracle: Oracle::new(limits.clone(), devices),
            now: START,
            tally: Tally::default(),
            medium,
            limits,
            images,
            _folder: folder,
            fault,
            writer: Some(writer),
            engine: Some(engine),
            phase: Phase::Idle,
            sent: VecDeque::new(),
            group: Vec::new(),
            told: Vec::new(),
            before: None,
            failed: false,
            kept: None,
            readings: Vec::new(),
            tickets: 0,
            tokens: 0,
        }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().unwrap()
    }

    /// The writer has something to do.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.phase, Phase::Idle) || !self.sent.is_empty()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) fn take(&mut self, step: &Step) -> Held<Vec<Notice>> {
        self.tally.steps += 1;
        let mut notices = Vec::new();
        match step {
            Step::Pass { ms } => self.now = Timestamp(self.now.0 + ms),
            Step::Check(check) => self.check(check, &mut notices)?,
            Step::Write => self.write(&mut notices)?,
            Step::FailCommit { kind, kept } => *self.fault.lock().unwrap() = Some((*kind, *kept)),
            Step::Read => {
                let engine = self.engine().clone();
                self.readings.push(Box::pin(async move { engine.read(Figures::of).await }));
                self.poll_readings()?;
            }
            Step::PowerCut => self.cut(&mut notices)?,
            Step::Restart => self.restart(&mut notices)?,
            Step::Audit => {
                self.finish_group(&mut notices)?;
                self.audit()?;
            }
            _ => self.send(step, &mut notices)?,
        }
        Ok(notices)
    }

    fn audit(&mut self) -> Held {
        self.tally.audits += 1;
        // Of a group that failed for good, it isn't known what the disk has.
        self.oracle.audit(self.engine.as_ref().unwrap(), self.now, self.tokens, self.kept.is_none())
    }

    // Messages.

    fn check(&mut self, step: &CheckStep, notices: &mut Vec<Notice>) -> Held {
        self.tally.checks += 1;
        let CheckStep { device, second, version, preview, only_while_started, register, direct } = *step;
        if !direct {
            let named = name(device);
            let rules = CheckRules { preview, only_while_started, register };
            let check = Check { device: named.as_ref(), component: component(second), version, rules };
            let checked = self.engine().check(&check, self.now);
            self.oracle.checked(step, &checked, self.now)?;
            if let Checked::Decided(decision) = checked {
                notices.push(Notice::Decided(decision));
                return Ok(());
            }
        }
        self.send(&Step::Check(*step), notices)
    }

    /// Sends a command to the writer. Each comes at a time of its own, by which its events are known.
    fn send(&mut self, step: &Step, notices: &mut Vec<Notice>) -> Held {
        let Some((command, upgrade)) = command(step, &self.oracle, self.now) else { return Ok(()) };
        if let Step::PutToken { token, .. } = step {
            self.tokens = self.tokens.max(token + 1);
        }
        if matches!(step, Step::Report { .. } | Step::ReportVersion { .. } | Step::Served { .. }) {
            self.tally.reports += 1;
        }
        self.now = Timestamp(self.now.0 + 1);
        self.tickets += 1;
        let ticket = self.tickets;
        let mut pending = self.engine().send(command, self.now);
        notices.push(Notice::Sent(ticket));
        match poll(&mut pending) {
            None => {
                let asked = Asked { step: step.clone(), upgrade, at: self.now };
                self.sent.push_back(Sent { ticket, asked, pending });
            }
            Some(Err(Error::Overloaded)) if self.sent.len() >= self.limits.queue_max => {
                notices.push(Notice::Answered(ticket, Err(Error::Overloaded)));
            }
            Some(answer) => return broken(ACKNOWLEDGED, format!("{step:?} is answered at once: {answer:?}")),
        }
        Ok(())
    }

    // The writer.

    fn write(&mut self, notices: &mut Vec<Notice>) -> Held {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => self.apply()?,
            Phase::Applied => {
                let kept = matches!(*self.fault.lock().unwrap(), Some((_, true)));
                let committed = self.writer().commit_group();
                if kept && committed.is_err() {
                    self.kept = Some(self.told.clone());
                }
                self.phase = Phase::Committed(committed);
                self.expect_no_answers()?;
            }
            Phase::Committed(committed) => self.conclude(committed)?,
            Phase::Concluded { durable } => self.answer(durable, notices)?,
        }
        self.poll_readings()
    }

    fn apply(&mut self) -> Held {
        let will_fail = self.fault.lock().unwrap().is_some();
        self.before = if will_fail { Some(self.picture()?) } else { None };
        if !self.writer().try_apply_group() {
            return require("the simulation", self.sent.is_empty(), || format!("{} commands have gone", self.sent.len()));
        }
        let outcomes: Vec<_> = self.writer().outcomes().cloned().collect();
        let count = outcomes.len();
        require("commands go in order", count <= self.sent.len(), || format!("{count} of {}", self.sent.len()))?;
        self.group = self.sent.drain(..count).collect();
        self.told = self.group.iter().map(|sent| sent.asked.clone()).zip(outcomes).collect();
        self.tally.groups += 1;
        self.tally.in_largest_group = self.tally.in_largest_group.max(count as u64);
        self.phase = Phase::Applied;
        self.expect_no_answers()
    }

    /// The state as it is read while nothing is under way.
    fn picture(&self) -> Held<Picture> {
        let engine = self.engine();
        let mut read = Box::pin(engine.read(|state| Picture::of(state, &[])));
        match poll(&mut read) {
            Some(Ok(picture)) => Ok(picture),
            other => broken("reads go on", format!("{:?}", other.map(|read| read.err()))),
        }
    }

    fn expect_no_answers(&mut self) -> Held {
        for sent in &mut self.group {
            let answer = poll(&mut sent.pending);
            require(ACKNOWLEDGED, answer.is_none(), || format!("{:?} is answered before: {answer:?}", sent.asked.step))?;
        }
        Ok(())
    }

    fn conclude(&mut self, committed: Result<(), StoreError>) -> Held {
        let error = committed.clone().err();
        self.writer().conclude_group(committed);
        self.phase = Phase::Concluded { durable: error.is_none() };
        match error {
            None => {
                let told = self.told.clone();
                self.learn(&told)?;
            }
            Some(error) => {
                self.tally.undone += 1;
                // Who is connected isn't a row, and so isn't undone.
                for (asked, outcome) in &self.told {
                    match &asked.step {
                        Step::Connect { gateway, epoch, together_max, .. } => {
                            self.oracle.connect_undone(*gateway, *epoch, *together_max, outcome);
                        }
                        Step::DeleteDevice { device } | Step::Disconnect { gateway: device, .. } => {
                            self.oracle.parting_undone(*device)
                        }
                        _ => {}
                    }
                }
                self.failed |= !matches!(error.kind, StoreErrorKind::Full | StoreErrorKind::Busy);
                if let Some(before) = self.before.take() {
                    let after = self.picture()?;
                    require("what is refused leaves nothing", after == before, || after.differences(&before))?;
                }
            }
        }
        self.expect_no_answers()
    }

    /// A group is durable and published: the oracle hears of it.
    fn learn(&mut self, told: &[(Asked, Result<Outcome, Error>)]) -> Held {
        let events = self.new_events()?;
        let deleted = |(asked, _): &(Asked, _)| if let Step::DeleteDevice { device } = &asked.step { Some(*device) } else { None };
        let churned: BTreeSet<usize> = told.iter().filter_map(deleted).collect();
        let mentioned = |(asked, _): &(Asked, _)| match &asked.step {
            Step::Check(CheckStep { device, .. })
            | Step::ReportVersion { device, .. }
            | Step::NoteVersion { device, .. }
            | Step::PutDevice { device, .. } => Some(*device),
            _ => None,
        };
        let mentioned: BTreeSet<usize> = told.iter().filter_map(mentioned).collect();
        // Who comes and goes in one group has more than one number in it.
        mentioned.union(&churned).for_each(|device| self.oracle.numbers[*device] = None);
        self.learn_numbers(mentioned.difference(&churned));
        let mut rest = &events[..];
        for (asked, outcome) in told {
            let (own, left) = rest.split_at(rest.iter().take_while(|event| event.at == asked.at).count());
            rest = left;
            let is_refused = matches!(outcome, Err(Error::Store(_)));
            require("a sound store is written to", is_refused == self.failed, || format!("{:?}: {outcome:?}", asked.step))?;
            self.oracle.apply(&asked.step, asked.upgrade, asked.at, outcome, own)?;
            self.tally.offers += own.iter().filter(|event| event.kind == EventKind::Offered).count() as u64;
        }
        self.learn_numbers(churned.iter());
        require(EVENTS, rest.is_empty(), || format!("of no command: {rest:?}"))
    }

    fn learn_numbers<'a>(&mut self, devices: impl Iterator<Item = &'a usize>) {
        let engine = self.engine().clone();
        for device in devices {
            let named = name(*device);
            let number = |state: &State| state.device(named.as_ref()).map(|info| info.row.number);
            if let Some(Ok(number)) = poll(&mut Box::pin(engine.read(number))) {
                self.oracle.is_numbered(*device, number);
            }
        }
    }

    /// The events since the last that the oracle heard of: numbered without a gap.
    fn new_events(&mut self) -> Held<Vec<Arc<Event>>> {
        let mut events = Vec::new();
        loop {
            let page = match self.engine().events(self.oracle.next_event, 500) {
                Ok(page) => page,
                Err(error) => return broken(EVENTS, error.to_string()),
            };
            if page.events.is_empty() {
                return Ok(events);
            }
            for event in page.events {
                let next = self.oracle.next_event;
                require(EVENTS, event.sequence == next, || format!("{} comes instead of {next}: {event:?}", event.sequence))?;
                self.oracle.next_event += 1;
                self.tally.events += 1;
                events.push(event);
            }
        }
    }

    fn answer(&mut self, durable: bool, notices: &mut Vec<Notice>) -> Held {
        self.writer().answer_group();
        for (mut sent, (asked, outcome)) in std::mem::take(&mut self.group).into_iter().zip(std::mem::take(&mut self.told)) {
            let Some(answer) = poll(&mut sent.pending) else { return broken("everybody is answered", format!("{asked:?}")) };
            let is_it = match (&answer, &outcome) {
                (Err(Error::Store(_)), _) => !durable || self.failed,
                (Ok(answer), Ok(outcome)) => durable && is_same(answer, outcome),
                (Err(_), Err(_)) => durable,
                _ => false,
            };
            require(ACKNOWLEDGED, is_it, || format!("{:?}: {answer:?}, not {outcome:?}; durable: {durable}", asked.step))?;
            self.tally.acknowledged += u64::from(answer.is_ok());
            notices.push(Notice::Answered(sent.ticket, answer));
        }
        Ok(())
    }

    fn poll_readings(&mut self) -> Held {
        let mut left = Vec::new();
        for mut reading in std::mem::take(&mut self.readings) {
            match poll(&mut reading) {
                None => left.push(reading),
                Some(Ok(figures)) => {
                    let own = self.oracle.figures();
                    require("nothing is seen before it is durable", figures == own, || format!("{figures:#?}\nnot\n{own:#?}"))?;
                }
                Some(Err(error)) => return broken("reads go on", error.to_string()),
            }
        }
        self.readings = left;
        let is_idle = matches!(self.phase, Phase::Idle | Phase::Concluded { .. });
        require("reads go on", !is_idle || self.readings.is_empty(), || "a read waits for nothing".into())
    }

    /// Until the writer has nothing more to do.
    fn finish_group(&mut self, notices: &mut Vec<Notice>) -> Held {
        while self.is_busy() {
            self.write(notices)?;
        }
        Ok(())
    }

    // Ends and starts.

    /// The power is cut, wherever the writer is. What was in flight may have become durable, its group whole or not at all; here it is
    /// known which, since it is known where the writer was.
    fn cut(&mut self, notices: &mut Vec<Notice>) -> Held {
        self.tally.power_cuts += 1;
        let news = matches!(self.phase, Phase::Committed(Ok(()))).then(|| std::mem::take(&mut self.told));
        let was_idle = matches!(self.phase, Phase::Idle) && !self.failed;
        let before = if was_idle { Some(self.picture()?) } else { None };
        self.medium.cut();
        self.close(notices)?;
        self.open(news)?;
        self.compare(before)
    }

    /// It is told to end: everything accepted is written first.
    fn restart(&mut self, notices: &mut Vec<Notice>) -> Held {
        self.tally.restarts += 1;
        self.finish_group(notices)?;
        let before = if self.failed { None } else { Some(self.picture()?) };
        self.close(notices)?;
        self.open(None)?;
        self.compare(before)
    }

    /// Rows alone give the state that wrote them.
    fn compare(&mut self, before: Option<Picture>) -> Held {
        if let Some(before) = before {
            let after = self.picture()?;
            require("rows alone give the state", after == before, || after.differences(&before))?;
        }
        self.audit()
    }

    fn close(&mut self, notices: &mut Vec<Notice>) -> Held {
        self.readings.clear();
        self.writer = None;
        self.engine = None;
        self.phase = Phase::Idle;
        self.told.clear();
        let group = std::mem::take(&mut self.group);
        for mut sent in group.into_iter().chain(std::mem::take(&mut self.sent)) {
            match poll(&mut sent.pending) {
                Some(Err(Error::Closed)) => notices.push(Notice::Answered(sent.ticket, Err(Error::Closed))),
                answer => return broken(ACKNOWLEDGED, format!("{:?} is answered at a power cut: {answer:?}", sent.asked.step)),
            }
        }
        Ok(())
    }

    /// `news`: the group that was under way, where it is durable and nobody has heard of it.
    fn open(&mut self, news: Option<Told>) -> Held {
        *self.fault.lock().unwrap() = None;
        let opened = self.medium.open(&self.limits, &self.images, &self.fault);
        let (engine, writer) = match opened {
            Ok(opened) => opened,
            Err(error) => return broken("what was kept opens", error.to_string()),
        };
        (self.engine, self.writer) = (Some(engine), Some(writer));
        let had_failed = std::mem::take(&mut self.failed);
        match (news, self.kept.take()) {
            (_, Some(kept)) => self.learn(&kept)?,
            // A store that had failed kept nothing of it.
            (Some(news), None) if !had_failed => self.learn(&news)?,
            _ => {}
        }
        self.oracle.restarted();
        Ok(())
    }
}

/// Whether the caller is told what was decided.
fn is_same(answer: &Outcome, outcome: &Outcome) -> bool {
    match (answer, outcome) {
        (Outcome::Decision(answer), Outcome::Decision(outcome)) => told(answer) == told(outcome),
        (Outcome::Reported(answer), Outcome::Reported(outcome)) => answer == outcome,
        (answer, outcome) => std::mem::discriminant(answer) == std::mem::discriminant(outcome),
    }
}
