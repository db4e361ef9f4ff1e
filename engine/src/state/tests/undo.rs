//! Random commands in groups that are committed or undone, beside a store that keeps the committed rows: nothing that is derived from
//! rows may depend on the way they came. A failing run prints its seed; `SLUICEGATE_SEED=n` runs that one alone.

use super::oracle::Random;
use super::picture::Picture;
use super::script::Fleet;
use crate::engine::Checked;
use crate::limits::Limits;
use crate::state::*;
use crate::store::testing::MemoryStore;
use crate::store::{Group, Loaded, Store};

const SEEDS: u64 = 40;
const GROUPS: u64 = 120;
const DEVICES: u64 = 8;
const VERSIONS: [&str; 3] = ["1.0", "2.0", "3.0"];
const SECOND: Component = Component { component_type: 2, identify: 0 };
/// So few that the oldest are dropped again and again.
const EVENTS_MAX: u64 = 60;

#[test]
fn undone_groups_leave_no_trace_and_rows_alone_give_the_state_that_wrote_them() {
    if let Ok(seed) = std::env::var("SLUICEGATE_SEED") {
        run(seed.parse().unwrap());
        return;
    }
    let refused: usize = (0..SEEDS).map(run).sum();
    assert!(refused > 0, "nothing was refused, so nothing was seen of that");
}

/// Says how many commands were refused.
fn run(seed: u64) -> usize {
    // Shown only where the test fails.
    println!("SLUICEGATE_SEED={seed}");
    let mut world = World::new(seed);
    for group in 0..GROUPS {
        let is_undone = world.random.below(2) == 0;
        world.group(is_undone);
        if group % 8 == 7 {
            world.compare_with_a_restarted_one();
        }
    }
    world.refused
}

#[derive(Clone, Debug)]
enum Step {
    /// As the interpreter of fleets reads it.
    Line(String),
    Apply(Box<Command>),
}

struct World {
    seed: u64,
    random: Random,
    fleet: Fleet,
    selectors: Vec<Selector>,
    store: MemoryStore,
    groups: u64,
    /// What was committed, for whoever has to understand a failure.
    history: Vec<Step>,
    refused: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut fleet = Fleet::new(limits());
        fleet.group_is_open = true;
        let random = Random(seed);
        let store = MemoryStore::new(0);
        Self { seed, random, fleet, selectors: selectors(), store, groups: 0, history: Vec::new(), refused: 0 }
    }

    fn picture(&self) -> Picture {
        Picture::of(&self.fleet.state, &self.selectors)
    }

    /// One to five commands, which stay or are taken back together.
    fn group(&mut self, is_undone: bool) {
        let before = self.picture();
        let (tasks, offers) = (self.fleet.tasks.clone(), self.fleet.offers.clone());
        let mut steps = Vec::new();
        for _ in 0..=self.random.below(5) {
            let step = self.draw();
            let before = self.picture();
            if self.is_refused(&step) {
                self.refused += 1;
                let told = || format!("SLUICEGATE_SEED={}: refused: {step:?}, after {steps:#?}", self.seed);
                self.picture().assert_same(&before, told);
            }
            steps.push(step);
        }
        if is_undone {
            self.fleet.state.undo_all();
            (self.fleet.tasks, self.fleet.offers) = (tasks, offers);
            let told = || format!("SLUICEGATE_SEED={}: undone: {steps:#?}, after {:#?}", self.seed, self.history);
            self.picture().assert_same(&before, told);
        } else {
            let changes = self.fleet.commit();
            self.groups += 1;
            self.store.commit(&Group { number: self.groups, at: self.fleet.now, changes }).unwrap();
            self.history.extend(steps);
        }
        self.push_what_is_left();
        self.compare_with_what_is_published();
    }

    /// Whoever is connected and may begin has been sent to, whatever was undone on the way.
    fn push_what_is_left(&mut self) {
        self.fleet.state.push(self.fleet.now);
        let overlooked = self.fleet.state.overlooked(self.fleet.now);
        assert!(overlooked.is_empty(), "SLUICEGATE_SEED={}: {overlooked:?} wait, after {:#?}", self.seed, self.history);
        let changes = self.fleet.commit();
        self.groups += 1;
        self.store.commit(&Group { number: self.groups, at: self.fleet.now, changes }).unwrap();
    }

    fn is_refused(&mut self, step: &Step) -> bool {
        match step {
            Step::Line(line) => {
                self.fleet.line(line);
                self.fleet.is_refused
            }
            Step::Apply(command) => match self.fleet.apply(Command::clone(command)) {
                Err(_) => true,
                Ok(Outcome::Devices(devices)) => devices.iter().all(Result::is_err),
                Ok(Outcome::Task(task)) => {
                    self.fleet.tasks.push(task.id);
                    false
                }
                Ok(_) => false,
            },
        }
    }

    /// What the decision plane decides by itself, the writer decides alike.
    fn compare_with_what_is_published(&mut self) {
        let now = self.fleet.now;
        for (device, component, version) in askers() {
            let Some(published) = published(&self.fleet.state, &device, component, version, now) else { continue };
            let rules = CheckRules { preview: true, only_while_started: false, register: false };
            let check = Command::Check { device: device.clone(), component, version: version.into(), rules };
            let Ok(Outcome::Decision(decision)) = self.fleet.state.apply(check, now) else { continue };
            let told = || format!("SLUICEGATE_SEED={}: {device:?} at {version}, after {:#?}", self.seed, self.history);
            assert_eq!(published, text(&decision), "{}", told());
        }
    }

    /// Everything that is committed, read back as after a start of the program.
    fn compare_with_a_restarted_one(&self) {
        let mut restarted = Fleet::new(limits()).state;
        let (_, _, opened) = self.store.open(&mut |loaded: Loaded| restarted.load(loaded)).unwrap();
        restarted.loaded(opened);
        let told = || format!("SLUICEGATE_SEED={}: restarted after {:#?}", self.seed, self.history);
        Picture::of(&restarted, &self.selectors).assert_same(&self.picture(), told);
        let now = self.fleet.now;
        for (device, component, version) in askers() {
            let own = published(&self.fleet.state, &device, component, version, now);
            let other = published(&restarted, &device, component, version, now);
            assert_eq!(own, other, "{}: {device:?} at {version}", told());
        }
    }

    fn draw(&mut self) -> Step {
        match self.random.below(40) {
            0..22 => Step::Line(self.draw_line()),
            22..25 => self.apply(Self::draw_details),
            25..28 => self.apply(Self::draw_check_of_the_second_component),
            28..31 => self.apply(Self::draw_report),
            31..34 => self.apply(Self::draw_firmware),
            34..36 => self.apply(Self::draw_firmware_task),
            36..39 => self.apply(Self::draw_access),
            _ => self.apply(Self::draw_image),
        }
    }

    fn apply(&mut self, draw: impl FnOnce(&mut Self) -> Command) -> Step {
        Step::Apply(Box::new(draw(self)))
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.random.below(count) == 0
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.random.below(choices.len() as u64) as usize]
    }

    fn device_id(&mut self) -> String {
        format!("d{}", self.random.below(DEVICES))
    }

    fn draw_line(&mut self) -> String {
        let device = self.device_id();
        if self.fleet.tasks.is_empty() {
            return if self.one_in(4) { self.draw_task() } else { format!("tag {device} 1.0 ring=a") };
        }
        // The newest come first for a device; with older ones hardly anything happens.
        let newest = self.fleet.tasks.len() as u64;
        let task = format!("t{}", newest - self.random.below(newest.min(5)));
        let version = self.one_of(&VERSIONS);
        match self.random.below(29) {
            24 | 25 => {
                let other = self.device_id();
                format!("connect {device}{}", if self.one_in(3) { format!(" {other}") } else { String::new() })
            }
            26 if self.fleet.epochs.contains_key(&device) => format!("disconnect {device}"),
            26 | 27 => format!("{device} runs {version}"),
            0..=6 => format!("{device} check {}", if self.one_in(4) { version } else { "1.0" }),
            7..=9 => format!("{device} report {}", self.one_of(&["failed", "succeeded", "rejected", "downloading"])),
            10 => format!("tag {device} {version} ring={}", self.one_of(&["a", "b"])),
            11 => format!("remove {device}"),
            12 | 13 => format!("start {task}"),
            14 => format!("{} {task}", self.one_of(&["stop", "pause", "resume", "approve", "open"])),
            15 => format!("cancel {task}"),
            16 => format!("cancel {task} {device}"),
            17 => format!("retry {task} {device}"),
            18 => format!("force {task} {device}"),
            19 => format!("{} {task} {device}", self.one_of(&["confirm", "decline"])),
            20 => format!("pass {}", self.random.below(300)),
            21 if self.one_in(2) => format!("delete {task}"),
            // Now and then one that isn't there: then none of them is touched.
            21 => {
                let other = self.random.below(DEVICES * 3 / 2);
                format!("{} {task} {device} d{other}", self.one_of(&["cancel", "retry", "force", "decline"]))
            }
            22 => format!("{device} went 1.0 -> 2.0 {}", self.one_of(&["ok", "bad"])),
            _ => self.draw_task(),
        }
    }

    fn draw_task(&mut self) -> String {
        const POLICIES: [&str; 14] = [
            "snapshot",
            "retry=2",
            "wave=30%:50",
            "wave=2:100",
            "rate=3",
            "pause_at=40:2",
            "cancel_at=50:3",
            "confirmation",
            "ends=500",
            "tag=a",
            "cap=2",
            "approval",
            "from_running",
            "repeat",
        ];
        let policies: Vec<&str> = POLICIES.into_iter().filter(|_| self.one_in(4)).collect();
        format!("task 1.0 -> 2.0 shared timeout=200 {}", policies.join(" "))
    }

    fn draw_details(&mut self) -> Command {
        let mut some = |choices: &[&'static str]| -> Vec<Box<str>> {
            let chosen = choices.iter().filter(|_| self.one_in(2));
            chosen.map(|choice| (*choice).into()).collect()
        };
        let groups = some(&["g0", "g1"]);
        let asset_nodes = some(&["t/x", "t/x/y", "t/z", "u"]);
        let (color, ring) = (some(&["red"]).pop(), some(&["a"]).pop());
        let [model, manufacturer, device_type] = [(); 3].map(|()| some(&["m0", "m1"]).pop());
        let details = DeviceDetails {
            attributes: color.map(|color| ("color".into(), color)).into_iter().collect(),
            tags: ring.map(|ring| ("ring".into(), ring)).into_iter().collect(),
            groups,
            asset_nodes,
            model,
            manufacturer,
            device_type,
            gateway: None,
            secret_encrypted: None,
        };
        let mut components = vec![(Component::MAIN, self.one_of(&VERSIONS).to_owned())];
        if self.one_in(2) {
            // Without a version it is refused.
            components.push((SECOND, self.one_of(&["1.0", "2.0", ""]).to_owned()));
        }
        let new = NewDevice { product_id: "p".into(), device_id: self.device_id(), components, details };
        Command::PutDevices { organization: "o".into(), devices: vec![new], register_products: true }
    }

    fn draw_check_of_the_second_component(&mut self) -> Command {
        let device = Fleet::device(&self.device_id());
        let version = if self.one_in(4) { "2.0" } else { "1.0" };
        let rules = CheckRules { preview: false, only_while_started: false, register: true };
        Command::Check { device, component: SECOND, version: version.into(), rules }
    }

    /// Of an upgrade that runs, or else of one that never was.
    fn draw_report(&mut self) -> Command {
        let state = &self.fleet.state;
        let running = state.live.values().flatten().filter_map(|live| live.offer.as_ref().and_then(|offer| offer.id));
        let mut running: Vec<UpgradeId> = running.collect();
        running.sort_by_key(|upgrade| (upgrade.task, upgrade.device));
        let nobodys = UpgradeId { task: TaskNumber(9_999), device: DeviceNumber(0), offer: 1 };
        let upgrade = if running.is_empty() { nobodys } else { self.one_of(&running) };
        let device_id = self.fleet.state.device_row(upgrade.device).map_or_else(|| "d0".into(), |row| row.id.to_string());
        let state = ReportedState::from_name(self.one_of(&["failed", "succeeded", "installing"])).unwrap();
        let device = Fleet::device(&device_id);
        Command::Report(Report { device, upgrade, state, percent: Some(50), detail: None, code: Some(7) })
    }

    fn some_firmware(&mut self) -> Option<FirmwareId> {
        let ids: Vec<FirmwareId> = self.fleet.state.firmware.values().map(|row| row.id).collect();
        (!ids.is_empty()).then(|| self.one_of(&ids))
    }

    fn draw_firmware(&mut self) -> Command {
        let new = Box::new(NewFirmware {
            organization: "o".into(),
            product_id: self.one_of(&["p", "q"]).into(),
            component: self.one_of(&[Component::MAIN, SECOND]),
            version: self.one_of(&["2.0", "3.0", "4.0"]).into(),
            artifact: artifact(),
            name: self.one_of(&[None, Some("alpha"), Some("beta")]).map(Into::into),
            description: None,
            model: None,
            manufacturer: None,
            device_type: None,
            file_type: FileType::default(),
            annotations: BTreeMap::new(),
            verification: self.one_in(2).then_some(Verification { devices_max: 3, successes_min: 1 }),
            unique_name: self.one_in(2),
        });
        match (self.some_firmware(), self.random.below(3)) {
            (Some(id), 0) => Command::UpdateFirmware { id, new },
            (Some(id), 1) => Command::DeleteFirmware { organization: "o".into(), id },
            _ => Command::CreateFirmware { new, register_product: true },
        }
    }

    /// To firmware where there is some, else to a file; started at once.
    fn draw_firmware_task(&mut self) -> Command {
        let firmware = self.some_firmware().and_then(|id| self.fleet.state.firmware("o", id));
        let kind = self.one_of(&[TaskKind::Upgrade, TaskKind::Verify]);
        let selector = match kind {
            TaskKind::Verify => Selector::Devices(vec!["d0".into(), "d1".into()]),
            _ => self.selectors[self.random.below(self.selectors.len() as u64) as usize].clone(),
        };
        let target = match &firmware {
            Some(row) => TaskTarget::Firmware(row.id),
            None => TaskTarget::Artifact { version: "2.0".into(), artifact: artifact() },
        };
        Command::CreateTask {
            new: Box::new(NewTask {
                component: firmware.map_or(SECOND, |row| row.component),
                name: self.one_of(&[None, Some("gamma"), Some("delta")]).map(Into::into),
                kind,
                scope: Scope { selector, snapshot: self.one_in(3) },
                unique_name: self.one_in(2),
                unique_start: self.one_in(8),
                start: true,
                ..NewTask::new("o", "p", vec!["1.0".into()], target)
            }),
            register_product: true,
        }
    }

    fn draw_access(&mut self) -> Command {
        let now = self.fleet.now;
        let app: Arc<str> = self.one_of(&["app0", "app1"]).into();
        let id = TokenId(self.random.below(6));
        let subscription: Arc<str> = self.one_of(&["s0", "s1"]).into();
        match self.random.below(8) {
            0..=2 => Command::PutToken(Box::new(Token {
                id,
                secret_sha256: [0; 32],
                purpose: TokenPurpose::Access,
                role: Role::Operator,
                organization: "o".into(),
                product_id: None,
                device_id: None,
                app: (!self.one_in(3)).then_some(app),
                created_at: now,
                expires_at: now.plus_seconds(self.random.below(8_000)),
            })),
            3 => Command::RevokeToken { organization: None, id },
            4 => {
                let row = App { id: app, organization: "o".into(), secret_encrypted: Vec::new(), created_at: now };
                Command::PutApp(Box::new(row))
            }
            5 => Command::DeleteApp { organization: None, id: app },
            6 => Command::PutSubscription(Box::new(Subscription {
                id: subscription,
                organization: "o".into(),
                url: "http://elsewhere/told".into(),
                filters: Vec::new(),
                format: "native".into(),
                app: None,
                secret_encrypted: None,
                position: 0,
                created_at: now,
            })),
            _ if self.one_in(2) => Command::AdvanceSubscription { id: subscription, position: self.random.below(100) },
            _ => Command::DeleteSubscription { organization: "o".into(), id: subscription },
        }
    }

    fn draw_image(&mut self) -> Command {
        let organization: Arc<str> = self.one_of(&["o", "other"]).into();
        let id = ImageId([self.one_of(&[0, 1]); 32]);
        if self.one_in(2) {
            return Command::DeleteImage { organization, id };
        }
        let created_at = self.fleet.now;
        Command::PutImage(Box::new(Image { organization, id, size: 1, md5: [0; 16], sha1: [0; 20], name: None, created_at }))
    }
}

fn limits() -> Limits {
    Limits { events_max: EVENTS_MAX, ..Limits::default() }
}

fn artifact() -> Artifact {
    Artifact { url: Some("http://elsewhere/f".into()), size: 1, md5: "m".into(), ..Artifact::default() }
}

/// Each value that a device may be told to have, alone.
fn selectors() -> Vec<Selector> {
    let tree = |tree: &str, nodes: &[&str]| {
        Selector::AssetTrees(vec![AssetTree { tree: tree.into(), nodes: nodes.iter().map(|node| (*node).into()).collect() }])
    };
    vec![
        Selector::Attributes([("color".into(), vec!["red".into()])].into()),
        Selector::Tags([("ring".into(), vec!["a".into()])].into()),
        Selector::Tags([("ring".into(), vec!["b".into()])].into()),
        Selector::Groups(vec!["g0".into()]),
        Selector::Groups(vec!["g1".into()]),
        tree("t", &[]),
        tree("t", &["x"]),
        tree("t", &["y"]),
        tree("t", &["z"]),
        tree("u", &[]),
    ]
}

/// Every device with every version that it could ask with.
fn askers() -> impl Iterator<Item = (DeviceName, Component, &'static str)> {
    let devices = (0..DEVICES).map(|device| Fleet::device(&format!("d{device}")));
    devices.flat_map(|device| {
        let of_component = |component| VERSIONS.map(|version| (device.clone(), component, version));
        [Component::MAIN, SECOND].map(of_component).into_iter().flatten()
    })
}

/// What the decision plane says by itself; `None` where it leaves that to the writer.
fn published(state: &State, device: &DeviceName, component: Component, version: &str, now: Timestamp) -> Option<String> {
    let rules = CheckRules { preview: true, only_while_started: false, register: false };
    match state.published.check(&Check { device: device.as_ref(), component, version, rules }, now) {
        Checked::Decided(decision) => Some(text(&decision)),
        Checked::Ask => None,
    }
}

fn text(decision: &Decision) -> String {
    match decision {
        Decision::Offer(offer) => format!("{:?} of {:?} until {:?}", offer.id, offer.task.row().id, offer.deadline),
        decision => format!("{decision:?}"),
    }
}
