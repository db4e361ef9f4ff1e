//! Who acts in a run: devices on bad lines, operators, and mishaps. Everything is drawn from one seed; what is told back decides what
//! comes next, so that devices do as they are told, mostly.

use super::operators::Operators;
use super::oracle::{Held, broken};
use super::steps::{CODES, CheckStep, Step, VERSIONS};
use super::world::{Notice, START, World};
use crate::limits::Limits;
use crate::model::*;
use crate::state::tests::oracle::Random;
use crate::state::{Decision, Outcome};
use crate::store::StoreErrorKind;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// How a run goes, drawn from its seed. Shares are in percent.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub seed: u64,
    pub devices: usize,
    /// Beside those of the clock and the writer.
    pub steps: usize,
    pub is_disk: bool,
    pub limits: Limits,
    /// Of the messages and answers.
    lost: u64,
    doubled: u64,
    /// How late messages may come, so that they overtake each other.
    late_ms: u64,
    /// Of the attempts.
    failing: u64,
    silent: u64,
    /// Of the times a device wakes: it runs something else by then.
    changing: u64,
    /// Devices are connected, and are sent what is due.
    may_connect: bool,
    mishap_every_s: u64,
    operator_every_s: u64,
    tick_every_s: u64,
    write_every_ms: u64,
}

impl Profile {
    pub(super) fn draw(seed: u64, is_long: bool) -> Self {
        let mut random = Random(seed);
        let is_disk = random.below(if is_long { 40 } else { 24 }) == 7;
        let devices = match (is_long, random.below(4)) {
            (_, 0) => 4 + random.below(12),
            (false, _) => 10 + random.below(120),
            (true, 1 | 2) => 100 + random.below(900),
            (true, _) => 1_000 + random.below(4_000),
        } as usize;
        let steps = if is_long { (devices * 8).clamp(4_000, 25_000) } else { 1_800 };
        let one_of = |random: &mut Random, choices: &[u64]| choices[random.below(choices.len() as u64) as usize];
        let limits = Limits {
            queue_max: one_of(&mut random, &[3, 64, 65_536]) as usize,
            permits_max: (random.below(3) == 0).then(|| 1 + random.below(devices as u64 / 3 + 2) as u32),
            events_max: one_of(&mut random, &[6_000, 1_000_000]),
            default_timeout_s: 200,
            cap_retry_after_s: 10 + random.below(50) as u32,
            ..Limits::default()
        };
        let many = devices as u64 / 100;
        Self {
            seed,
            devices,
            steps: if is_disk { steps.min(2_000) } else { steps },
            is_disk,
            limits,
            lost: one_of(&mut random, &[0, 5, 25]),
            doubled: one_of(&mut random, &[0, 5, 30]),
            late_ms: one_of(&mut random, &[50, 2_000, 120_000]),
            failing: one_of(&mut random, &[0, 15, 40]),
            silent: one_of(&mut random, &[0, 5, 30]),
            changing: one_of(&mut random, &[1, 5, 15]),
            may_connect: random.below(2) == 0,
            mishap_every_s: one_of(&mut random, &[60, 300, 900]),
            operator_every_s: one_of(&mut random, &[10, 30, 90]),
            tick_every_s: one_of(&mut random, &[5, 30, 60]),
            // Slow enough that groups of many come about, most of the time.
            write_every_ms: one_of(&mut random, &[20, 500, 5_000]) / (1 + many / 10) + 1,
        }
    }
}

#[derive(Clone, Debug)]
enum Next {
    Wake {
        device: usize,
        round: u64,
    },
    Arrive(Box<Step>),
    Told {
        device: usize,
        second: bool,
        told: Told,
    },
    /// The device runs this from now on.
    Become {
        device: usize,
        second: bool,
        version: &'static str,
    },
    Operator,
    Mishap,
    Tick,
    /// At the very time that the last tick asked for.
    TickInTime,
    Write,
}

/// What a device understands of an answer.
#[derive(Clone, Debug)]
enum Told {
    Offer {
        task: usize,
        offer: usize,
        id: UpgradeId,
        to: &'static str,
    },
    Wait {
        seconds: u64,
    },
    Nothing,
    /// No answer, or one that says to come again.
    Again,
}

struct Device {
    versions: [&'static str; 2],
    /// The newest attempt that it knows of, by component.
    attempts: [Option<UpgradeId>; 2],
    /// Only the newest wake counts.
    round: u64,
}

struct Due {
    at: Timestamp,
    order: u64,
    next: Next,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(super) struct Fleet {
    profile: Profile,
    random: Random,
    operators: Operators,
    devices: Vec<Device>,
    agenda: BinaryHeap<Reverse<Due>>,
    planned: u64,
    is_write_planned: bool,
    is_tick_planned: bool,
    awaited: BTreeMap<u64, (usize, bool)>,
    acted: usize,
    /// Every step that was taken.
    pub taken: Vec<Step>,
}

impl Fleet {
    pub(super) fn new(profile: Profile) -> Self {
        let mut random = Random(profile.seed ^ 0x5EED);
        let mut device = || Device {
            versions: [VERSIONS[random.below(2) as usize], VERSIONS[random.below(3) as usize]],
            attempts: [None; 2],
            round: 0,
        };
        let devices = (0..profile.devices).map(|_| device()).collect();
        let operators = Operators::new(profile.devices, profile.may_connect);
        let (agenda, awaited) = (BinaryHeap::new(), BTreeMap::new());
        let mut fleet = Self {
            profile,
            random,
            operators,
            devices,
            agenda,
            planned: 0,
            is_write_planned: false,
            is_tick_planned: false,
            awaited,
            acted: 0,
            taken: Vec::new(),
        };
        for device in 0..fleet.profile.devices {
            fleet.wake(START, device, 20_000);
        }
        for next in [Next::Operator, Next::Operator, Next::Operator, Next::Tick, Next::Mishap] {
            fleet.plan(START, next);
        }
        fleet
    }

    /// The whole run. What it did is in `taken` also where a promise breaks.
    pub(super) fn run(&mut self, world: &mut World) -> Held {
        while self.acted < self.profile.steps {
            let Some(Reverse(Due { at, next, .. })) = self.agenda.pop() else { return broken("the simulation", "nobody acts") };
            if at > world.now {
                self.take(world, Step::Pass { ms: at.0 - world.now.0 })?;
            }
            self.act(world, next)?;
        }
        for step in [Step::Audit, Step::PowerCut, Step::Tick, Step::Audit] {
            self.take(world, step)?;
        }
        Ok(())
    }

    fn take(&mut self, world: &mut World, step: Step) -> Held<Vec<Notice>> {
        self.taken.push(step.clone());
        self.acted += usize::from(!matches!(step, Step::Pass { .. } | Step::Write | Step::Tick));
        let notices = world.take(&step)?;
        if world.is_busy() && !self.is_write_planned {
            self.is_write_planned = true;
            let after_ms = self.random.below(self.profile.write_every_ms);
            self.plan(Timestamp(world.now.0 + after_ms), Next::Write);
        }
        for notice in &notices {
            if let Notice::Answered(_, Ok(Outcome::Ticked(Some(next)))) = notice
                && *next > world.now
                && !self.is_tick_planned
            {
                // A command comes a millisecond after the one before.
                self.is_tick_planned = true;
                self.plan(Timestamp(next.0 - 1), Next::TickInTime);
            }
            if let Notice::Answered(ticket, answer) = notice {
                let Some((device, second)) = self.awaited.remove(ticket) else { continue };
                let told = match answer {
                    Ok(Outcome::Decision(decision)) => self.understood(world, device, decision)?,
                    _ => Told::Again,
                };
                self.answer(world, device, second, told);
            }
        }
        Ok(notices)
    }

    fn plan(&mut self, at: Timestamp, next: Next) {
        self.planned += 1;
        self.agenda.push(Reverse(Due { at, order: self.planned, next }));
    }

    fn after(&mut self, world: &World, within_ms: u64, next: Next) {
        let at = Timestamp(world.now.0 + self.random.below(within_ms + 1));
        self.plan(at, next);
    }

    fn wake(&mut self, now: Timestamp, device: usize, within_ms: u64) {
        self.devices[device].round += 1;
        let round = self.devices[device].round;
        let at = Timestamp(now.0 + self.random.below(within_ms + 1));
        self.plan(at, Next::Wake { device, round });
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn act(&mut self, world: &mut World, next: Next) -> Held {
        match next {
            Next::Wake { device, round } if round == self.devices[device].round => self.woken(world, device)?,
            Next::Wake { .. } => {}
            Next::Arrive(step) => {
                let asks = if let Step::Check(check) = &*step { Some((check.device, check.second)) } else { None };
                for notice in self.take(world, *step)? {
                    match (notice, asks) {
                        (Notice::Sent(ticket), Some(who)) => drop(self.awaited.insert(ticket, who)),
                        (Notice::Decided(decision), Some((device, second))) => {
                            let told = self.understood(world, device, &decision)?;
                            self.answer(world, device, second, told);
                        }
                        _ => {}
                    }
                }
            }
            Next::Told { device, second, told } => self.told(world, device, second, told),
            Next::Become { device, second, version } => self.devices[device].versions[usize::from(second)] = version,
            Next::Operator => {
                let step = self.operators.draw(&mut self.random, world);
                self.take(world, step)?;
                let within_ms = self.profile.operator_every_s * 1_000;
                self.after(world, within_ms, Next::Operator);
            }
            Next::Mishap => self.mishap(world)?,
            Next::Tick => {
                self.take(world, Step::Tick)?;
                let at = world.now.plus_seconds(self.profile.tick_every_s);
                self.plan(at, Next::Tick);
            }
            Next::TickInTime => {
                self.is_tick_planned = false;
                self.take(world, Step::Tick)?;
            }
            Next::Write => {
                self.is_write_planned = false;
                self.take(world, Step::Write)?;
            }
        }
        Ok(())
    }

    fn mishap(&mut self, world: &mut World) -> Held {
        let within_ms = self.profile.mishap_every_s * 1_000;
        let kinds = [StoreErrorKind::Full, StoreErrorKind::Busy, StoreErrorKind::Failed];
        let step = match self.random.below(10) {
            0..3 => Step::PowerCut,
            3 => Step::Restart,
            _ if world.has_failed() => Step::PowerCut,
            4..9 => {
                let kind = kinds[self.random.below(3) as usize];
                Step::FailCommit { kind, kept: kind == StoreErrorKind::Failed && self.random.below(2) == 0 }
            }
            _ => Step::Audit,
        };
        let is_failing = matches!(step, Step::FailCommit { .. });
        self.take(world, step)?;
        if is_failing && self.random.below(2) == 0 {
            // What takes away the most has the most to be put back.
            let step = self.operators.take_away(&mut self.random, world);
            self.take(world, step)?;
        }
        // In the middle of a group, as often as not.
        if world.is_busy() && self.random.below(3) == 0 {
            self.take(world, Step::PowerCut)?;
        }
        let again_ms = if world.has_failed() { 5_000 } else { within_ms };
        self.after(world, again_ms, Next::Mishap);
        Ok(())
    }

    // Devices.

    /// Most of the time it asks what it should do.
    fn woken(&mut self, world: &mut World, device: usize) -> Held {
        if self.chance(self.profile.changing) {
            let place = self.random.below(2) as usize;
            self.devices[device].versions[place] = VERSIONS[self.random.below(5) as usize];
        }
        let second = self.chance(15);
        let version = self.devices[device].versions[usize::from(second)];
        let register = !self.chance(3);
        let step = match self.random.below(100) {
            0..3 => Step::NoteVersion { device, second, version, register },
            3..5 => {
                let from = VERSIONS[self.random.below(5) as usize];
                Step::ReportVersion { device, second, from, to: version, succeeded: self.chance(70), register }
            }
            _ => Step::Check(CheckStep {
                device,
                second,
                version,
                preview: self.chance(2),
                only_while_started: self.chance(5),
                register,
                direct: self.chance(5),
            }),
        };
        self.send(world, step);
        // Unless it hears something.
        self.wake(world.now.plus_seconds(5), device, 60_000);
        Ok(())
    }

    /// Over a bad line: it comes late, twice, or not at all.
    fn send(&mut self, world: &World, step: Step) {
        if self.chance(self.profile.doubled) {
            let late_ms = self.profile.late_ms * 3;
            self.after(world, late_ms, Next::Arrive(Box::new(step.clone())));
        }
        if !self.chance(self.profile.lost) {
            let late_ms = self.profile.late_ms;
            self.after(world, late_ms, Next::Arrive(Box::new(step)));
        }
    }

    fn answer(&mut self, world: &World, device: usize, second: bool, told: Told) {
        if !self.chance(self.profile.lost) {
            let late_ms = self.profile.late_ms;
            self.after(world, late_ms, Next::Told { device, second, told });
        }
    }

    fn understood(&self, world: &World, device: usize, decision: &Decision) -> Held<Told> {
        Ok(match decision {
            Decision::Offer(offer) => {
                let Some(id) = offer.id else { return Ok(Told::Again) };
                let row = offer.task.row();
                let Some((task, _)) = world.oracle.tasks.iter().find(|(_, task)| task.id == row.id) else { return Ok(Told::Again) };
                let offers = world.oracle.offers_of.get(&(*task, device));
                let Some(place) = offers.and_then(|offers| offers.iter().position(|own| *own == id)) else {
                    return broken("what is acknowledged is durable", format!("d{device} is told of {id}, which isn't kept"));
                };
                let to = VERSIONS.iter().find(|version| ***version == *row.target_version).copied().unwrap_or("5");
                Told::Offer { task: *task, offer: place, id, to }
            }
            Decision::Wait(wait) => Told::Wait { seconds: u64::from(wait.retry_after_s) },
            Decision::UpToDate | Decision::NoTask => Told::Nothing,
        })
    }

    fn told(&mut self, world: &World, device: usize, second: bool, told: Told) {
        match told {
            Told::Offer { task, offer, id, to } => {
                if self.devices[device].attempts[usize::from(second)] != Some(id) {
                    self.devices[device].attempts[usize::from(second)] = Some(id);
                    self.begin(world, device, second, (task, offer), to);
                } else {
                    self.wake(world.now.plus_seconds(5), device, 60_000);
                }
            }
            Told::Wait { seconds } => {
                // Some can't wait; none waits for days here.
                let seconds = if self.chance(10) { 0 } else { seconds.min(1_800) };
                self.wake(world.now.plus_seconds(seconds), device, 1_000);
            }
            Told::Nothing => self.wake(world.now.plus_seconds(5), device, 60_000),
            Told::Again => self.wake(world.now, device, 20_000),
        }
    }

    /// Decides how an attempt goes, and what is said of it when.
    fn begin(&mut self, world: &World, device: usize, second: bool, (task, offer): (usize, usize), to: &'static str) {
        let work_ms = 5_000 + self.random.below(120_000);
        let ends = world.now.0 + work_ms;
        let is_silent = self.chance(self.profile.silent);
        let result = if self.chance(self.profile.failing) {
            let results = [
                ReportedState::Failed,
                ReportedState::Failed,
                ReportedState::Rejected,
                ReportedState::TimedOut,
                ReportedState::Canceled,
            ];
            results[self.random.below(5) as usize]
        } else {
            ReportedState::Succeeded
        };
        let steps: &[ReportedState] = match self.random.below(5) {
            0 => &[ReportedState::Downloading, ReportedState::Downloaded, ReportedState::Installing],
            1 => &[ReportedState::Downloading, ReportedState::Downloading],
            2 => &[ReportedState::Paused, ReportedState::Installing],
            _ => &[],
        };
        let mut said_of: Vec<(u64, ReportedState)> = Vec::new();
        for (place, state) in (1..).zip(steps) {
            said_of.push((work_ms * place / (steps.len() as u64 + 1), *state));
        }
        if !is_silent {
            said_of.push((work_ms, result));
        }
        for (after_ms, state) in said_of {
            let percent = self.chance(50).then(|| self.random.below(101) as u8);
            let code = (state == ReportedState::Failed && self.chance(80)).then(|| CODES[self.random.below(3) as usize]);
            // Now and then somebody else's.
            let by = if self.chance(1) { self.random.below(self.devices.len() as u64) as usize } else { device };
            let step = Step::Report { device: by, of: device, task, offer, state, percent, code };
            for _ in 0..=u64::from(self.chance(self.profile.doubled)) {
                if !self.chance(self.profile.lost) {
                    let late_ms = self.random.below(self.profile.late_ms + 1);
                    self.plan(Timestamp(world.now.0 + after_ms + late_ms), Next::Arrive(Box::new(step.clone())));
                }
            }
        }
        if self.chance(30) {
            let step = Step::Served { device, task, offer, percent: self.random.below(101) as u8 };
            self.after(world, work_ms, Next::Arrive(Box::new(step)));
        }
        if result == ReportedState::Succeeded && !is_silent {
            self.plan(Timestamp(ends), Next::Become { device, second, version: to });
        }
        let rest_ms = if is_silent { 900_000 } else { 30_000 };
        self.wake(Timestamp(ends), device, rest_ms);
        if self.chance(10) {
            self.wake(world.now, device, work_ms);
        }
    }
}
