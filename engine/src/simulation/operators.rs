//! What operators do: they order tasks with drawn policies, and interfere.

use super::steps::{CODES, GROUPS, PRODUCTS, RINGS, Step, TaskPlan, VERSIONS, product_of};
use super::world::World;
use crate::model::*;
use crate::state::tests::oracle::Random;
use crate::state::{TaskAction, UpgradeAction};

pub(super) struct Operators {
    devices: usize,
    tasks: usize,
    firmware: usize,
    tokens: u64,
    epochs: u64,
    may_connect: bool,
}

fn one_of<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    choices[random.below(choices.len() as u64) as usize]
}

fn chance(random: &mut Random, percent: u64) -> bool {
    random.below(100) < percent
}

impl Operators {
    pub(super) fn new(devices: usize, may_connect: bool) -> Self {
        Self { devices, tasks: 0, firmware: 0, tokens: 0, epochs: 0, may_connect }
    }

    fn device(&self, random: &mut Random) -> usize {
        random.below(self.devices as u64) as usize
    }

    /// One of the newest, as a rule.
    fn task(&self, random: &mut Random) -> usize {
        let back = if chance(random, 80) { random.below(4) } else { random.below(self.tasks as u64 + 1) };
        self.tasks.saturating_sub(back as usize)
    }

    pub(super) fn draw(&mut self, random: &mut Random, world: &World) -> Step {
        let lot = random.below(100);
        let there = world.oracle.tasks.len();
        let strict = chance(random, 20);
        match lot {
            _ if there < 2 => self.order(random, world),
            0..16 if there < 9 => self.order(random, world),
            0..32 => {
                let actions = [
                    TaskAction::Start,
                    TaskAction::Start,
                    TaskAction::Start,
                    TaskAction::Resume,
                    TaskAction::Resume,
                    TaskAction::Stop,
                    TaskAction::Pause,
                    TaskAction::Approve,
                    TaskAction::Approve,
                    TaskAction::OpenWave,
                    TaskAction::Cancel,
                ];
                Step::ActOnTask { task: self.task(random), action: one_of(random, &actions), strict }
            }
            32..38 => Step::DeleteTask { task: self.task(random), strict },
            38..54 => {
                let actions = [
                    UpgradeAction::Cancel,
                    UpgradeAction::Retry,
                    UpgradeAction::Retry,
                    UpgradeAction::Force,
                    UpgradeAction::Confirm,
                    UpgradeAction::Confirm,
                    UpgradeAction::Decline,
                ];
                let action = one_of(random, &actions);
                // A "no" may set off much else, so there is one at a time.
                let count = if action == UpgradeAction::Decline { 1 } else { 1 + random.below(3) };
                let mut devices: Vec<usize> = (0..count).map(|_| self.device(random)).collect();
                devices.sort_unstable();
                devices.dedup();
                Step::ActOnUpgrades { task: self.task(random), devices, action, strict }
            }
            54..59 if self.may_connect => {
                let gateway = self.device(random);
                self.epochs += 1;
                if chance(random, 20) {
                    return Step::Disconnect {
                        gateway,
                        epoch: world.oracle.connections.get(&gateway).map_or(0, |there| there.epoch),
                    };
                }
                let mut attached: Vec<usize> = (0..random.below(4)).map(|_| self.device(random)).collect();
                attached.retain(|device| product_of(*device) == product_of(gateway));
                // Sometimes told too late.
                let epoch = self.epochs.saturating_sub(if chance(random, 10) { 5 } else { 0 });
                Step::Connect { gateway, attached, epoch, together_max: 1 + random.below(3) as usize }
            }
            54..66 => {
                let mut versions = vec![(false, one_of(random, &VERSIONS))];
                if chance(random, 30) {
                    versions.push((true, one_of(random, &VERSIONS)));
                }
                let groups = GROUPS.into_iter().filter(|_| chance(random, 40)).collect();
                let ring = chance(random, 70).then(|| one_of(random, &RINGS));
                Step::PutDevice { device: self.device(random), versions, groups, ring }
            }
            66..70 => Step::DeleteDevice { device: self.device(random) },
            70 => Step::DeleteProduct { product: random.below(PRODUCTS.len() as u64) as usize },
            71..77 => {
                self.firmware += 1;
                let (product, second) = (self.product(random), chance(random, 15));
                Step::CreateFirmware { firmware: self.firmware, product, second, version: one_of(random, &VERSIONS) }
            }
            77..79 => Step::DeleteFirmware { firmware: random.below(self.firmware as u64 + 1) as usize },
            79..84 => {
                // Sometimes one that is taken.
                self.tokens += u64::from(!chance(random, 10));
                let device = chance(random, 60).then(|| self.device(random));
                let product = device.map_or_else(|| self.product(random), product_of);
                Step::PutToken { token: self.tokens, product, device, lives_s: 60 + random.below(9_000) }
            }
            84..88 => {
                let organization = chance(random, 60).then(|| one_of(random, &["o", "n"]));
                Step::RevokeToken { token: random.below(self.tokens + 1), organization }
            }
            _ => Step::Read,
        }
    }

    /// Something that is there.
    pub(super) fn take_away(&self, random: &mut Random, world: &World) -> Step {
        let there: Vec<usize> = world.oracle.tasks.keys().copied().collect();
        let device = Step::DeleteDevice { device: self.device(random) };
        if there.is_empty() {
            return device;
        }
        let task = one_of(random, &there);
        match random.below(4) {
            0 => device,
            1 => Step::ActOnTask { task, action: TaskAction::Cancel, strict: false },
            _ => Step::DeleteTask { task, strict: false },
        }
    }

    fn product(&self, random: &mut Random) -> usize {
        if chance(random, 80) { 0 } else { random.below(PRODUCTS.len() as u64) as usize }
    }

    fn order(&mut self, random: &mut Random, world: &World) -> Step {
        self.tasks += 1;
        let (mut product, mut second) = (self.product(random), chance(random, 12));
        let mut to = one_of(random, &VERSIONS[1..]);
        let rows: Vec<_> = world.oracle.firmware.iter().collect();
        let firmware = if rows.is_empty() || chance(random, 60) { None } else { Some(one_of(random, &rows)) };
        if let Some((_, row)) = firmware {
            // Its target is the firmware's, whatever is said here.
            product = row.description.as_deref().and_then(|product| product.parse().ok()).unwrap_or(0);
            second = row.component != Component::MAIN;
            to = VERSIONS.iter().find(|version| ***version == *row.version).copied().unwrap_or("5");
        }
        let first = one_of(random, &VERSIONS[..3]);
        let mut from = vec![first];
        if chance(random, 40) {
            from.push(one_of(random, &VERSIONS));
            from.dedup();
        }
        if !chance(random, 3) {
            from.retain(|version| *version != to);
        }
        if from.is_empty() {
            from.push(if to == "1" { "2" } else { "1" });
        }
        let values = |random: &mut Random, all: &[&str]| {
            let mut values: Vec<Box<str>> = all.iter().filter(|_| chance(random, 60)).map(|value| (*value).into()).collect();
            if values.is_empty() {
                values.push(all[0].into());
            }
            values
        };
        let selector = match random.below(8) {
            0 => Selector::Groups(values(random, &GROUPS)),
            1 => Selector::Tags([("ring".into(), values(random, &RINGS))].into()),
            2 => {
                let count = 1 + self.devices as u64 / 4;
                Selector::Devices((0..count).map(|_| format!("d{}", self.device(random)).into()).collect())
            }
            _ => Selector::Total,
        };
        Step::CreateTask(Box::new(TaskPlan {
            task: self.tasks,
            product,
            second,
            from,
            to,
            firmware: firmware.map(|(firmware, _)| *firmware),
            selector,
            snapshot: chance(random, 25),
            policy: self.policy(random, world.now),
            unique_start: chance(random, 8),
            start: chance(random, 70),
        }))
    }

    fn policy(&self, random: &mut Random, now: Timestamp) -> Policy {
        let many = self.devices as u64;
        let some = |random: &mut Random, most: u64| 1 + random.below(most.max(1)) as u32;
        let mut policy = Policy {
            maximum_concurrency: chance(random, 75).then(|| some(random, many / 6 + 2)),
            timeout_s: chance(random, 90).then(|| 20 + some(random, 300)),
            ..Policy::default()
        };
        if chance(random, 20) {
            policy.timeout_from = TimeoutFrom::Running;
        }
        if chance(random, 60) {
            let interval_s = 20 + some(random, 100);
            let back_off = BackOff { factor_percent: 110 + some(random, 200), interval_max_s: interval_s + some(random, 300) };
            policy.retry = Some(Retry {
                count: if chance(random, 5) { u32::MAX } else { random.below(4) as u32 },
                interval_s,
                back_off: chance(random, 40).then_some(back_off),
                jitter_s: if chance(random, 30) { some(random, 30) } else { 0 },
                codes: if chance(random, 30) { CODES[..2].to_vec() } else { Vec::new() },
            });
        }
        if chance(random, 20) {
            // Windows open and close at whole seconds.
            let now = Timestamp::from_seconds(now.as_seconds());
            let start = chance(random, 60).then(|| now.plus_seconds(random.below(600)));
            let end = chance(random, 60).then(|| start.unwrap_or(now).plus_seconds(600 + random.below(3_000)));
            let second_of_day = (now.as_seconds() % 86_400) as u32;
            let from_s = (second_of_day + some(random, 1_800) + 86_400 - 900) % 86_400;
            let daily = chance(random, 40).then(|| Daily { from_s, to_s: (from_s + 600 + some(random, 80_000)) % 86_400 });
            policy.schedule = Schedule { start, end, daily, utc_offset_minutes: 0 };
        }
        if chance(random, 20) {
            let per_minute = some(random, many / 10 + 3);
            let counting = if chance(random, 50) { Counting::Notified } else { Counting::Succeeded };
            let growth = Growth {
                factor_percent: 110 + some(random, 150),
                after: some(random, 10),
                counting,
                per_minute_max: per_minute + some(random, 20),
            };
            policy.rate = Some(Rate { per_minute, growth: chance(random, 50).then_some(growth) });
        }
        if chance(random, 20) {
            let size = |random: &mut Random| match random.below(2) {
                0 => WaveSize::Percent(some(random, 40) as u8),
                _ => WaveSize::Count(some(random, many / 4 + 1)),
            };
            policy.waves = (0..=random.below(2))
                .map(|_| Wave { size: size(random), success_percent: one_of(random, &[0, 50, 80, 100]) })
                .collect();
        }
        if chance(random, 10) {
            policy.start_jitter_s = some(random, 90);
        }
        if chance(random, 20) {
            let kinds = [None, None, Some(FailureKind::Failed), Some(FailureKind::TimedOut), Some(FailureKind::Rejected)];
            let threshold = |random: &mut Random| Threshold {
                kind: one_of(random, &kinds),
                percent: 5 + some(random, 60) as u8,
                minimum: some(random, many / 8 + 4),
                action: if chance(random, 60) { ThresholdAction::Pause } else { ThresholdAction::Cancel },
            };
            policy.thresholds = (0..=random.below(2)).map(|_| threshold(random)).collect();
        }
        policy.approval = chance(random, 7);
        policy.confirmation = chance(random, 10);
        policy.version_decides = chance(random, 15);
        policy.repeat_after_success = chance(random, 8);
        policy
    }
}
