//! A fleet in a few lines of text, and what it is told as text: changes of the interface touch this interpreter, not the tests.
//!
//! One command a line: a device's name comes first where a device speaks, an operator's verb where an operator does.

use crate::engine::Checked;
use crate::error::Error;
use crate::state::*;
use crate::store::{Change, Row};
use expect_test::Expect;
use std::fmt::Write;

pub(super) struct Fleet {
    pub(super) state: State,
    pub(super) now: Timestamp,
    pub(super) tasks: Vec<TaskId>,
    /// The id of each device's newest offer.
    pub(super) offers: std::collections::BTreeMap<String, UpgradeId>,
    pub(super) events: Vec<Arc<Event>>,
    /// Commands stay in one group that can still be undone, until [`Fleet::commit`].
    pub(super) group_is_open: bool,
    /// The newest command was.
    pub(super) is_refused: bool,
    /// Of each gateway's connection.
    pub(super) epochs: std::collections::BTreeMap<String, u64>,
}

impl Fleet {
    pub(super) fn new(limits: Limits) -> Self {
        let published = Arc::new(Published::new(limits.clone()));
        let state = State::new(limits, published);
        let now = Timestamp::from_seconds(1_000_000);
        let (tasks, events) = (Vec::new(), Vec::new());
        Self {
            state,
            now,
            tasks,
            offers: Default::default(),
            events,
            group_is_open: false,
            is_refused: false,
            epochs: Default::default(),
        }
    }

    pub(super) fn apply(&mut self, command: Command) -> Result<Outcome, Error> {
        let outcome = self.state.apply(command, self.now);
        self.is_refused = outcome.is_err();
        if !self.group_is_open {
            self.commit();
        }
        outcome
    }

    /// Makes what was applied durable and visible, and says what changed.
    pub(super) fn commit(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        self.state.swap_changes(&mut changes);
        for change in &changes {
            if let Change::Put(Row::Event(event)) = change {
                self.events.push(Arc::clone(event));
            }
        }
        self.state.committed();
        self.state.publish();
        self.state.clear_touched();
        changes
    }

    pub(super) fn device(id: &str) -> DeviceName {
        DeviceName { organization: "o".into(), product_id: "p".into(), device_id: id.into() }
    }

    /// Runs one line and says what came of it.
    pub(super) fn line(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["task", from, "->", to, ref rest @ ..] => self.create_task(from, to, rest),
            ["start" | "stop" | "pause" | "resume" | "approve" | "cancel" | "open", task] => {
                let command = self.act_on_task(words[0], task, ActionRules::default());
                self.answer(command)
            }
            ["strictly", verb, task] => {
                let rules = ActionRules { strict: true };
                let command = match verb {
                    "delete" => Command::DeleteTask { organization: "o".into(), id: self.task(task), rules },
                    verb => self.act_on_task(verb, task, rules),
                };
                self.answer(command)
            }
            ["delete", task] => {
                let rules = ActionRules::default();
                self.answer(Command::DeleteTask { organization: "o".into(), id: self.task(task), rules })
            }
            ["strictly", verb @ ("cancel" | "retry"), task, ref devices @ ..] => {
                let command = self.act_on_upgrades(verb, task, devices, ActionRules { strict: true });
                self.answer(command)
            }
            [verb @ ("cancel" | "retry" | "force" | "confirm" | "decline"), task, ref devices @ ..] => {
                let command = self.act_on_upgrades(verb, task, devices, ActionRules::default());
                self.answer(command)
            }
            ["events"] => {
                let told = self.events.drain(..).filter(|event| event.device_id.is_none());
                told.map(|event| event.kind.name()).collect::<Vec<_>>().join(", ")
            }
            ["connect", gateway, ref attached @ ..] => self.connect(gateway, attached),
            ["disconnect", gateway] => {
                self.answer(Command::Disconnect { gateway: Self::device(gateway), epoch: self.epochs[gateway] })
            }
            ["sent"] => self.sent(),
            [device, "runs", version] => {
                let device = Self::device(device);
                let version = version.into();
                self.answer(Command::NoteVersion { device, component: Component::MAIN, version, register: true })
            }
            ["explain", device] => self.explain(device),
            ["remove", device] => self.answer(Command::DeleteDevice(Self::device(device))),
            ["tag", device, version, pair] => {
                let (key, value) = pair.split_once('=').unwrap();
                let details = DeviceDetails { tags: [(key.into(), value.into())].into(), ..DeviceDetails::default() };
                let components = vec![(Component::MAIN, version.to_owned())];
                let new = NewDevice { product_id: "p".into(), device_id: device.into(), components, details };
                self.answer(Command::PutDevices { organization: "o".into(), devices: vec![new], register_products: true })
            }
            ["pass", seconds] => {
                self.now = self.now.plus_seconds(seconds.parse().unwrap());
                self.answer(Command::Tick)
            }
            ["show", task] => self.show(task),
            [device, "check", version, ref rest @ ..] => self.check(device, version, rest),
            [device, "report", state, ref rest @ ..] => self.report(device, state, rest),
            [device, "went", from, "->", to, result] => {
                let report = VersionReport {
                    device: Self::device(device),
                    component: Component::MAIN,
                    from_version: from.into(),
                    to_version: to.into(),
                    succeeded: result == "ok",
                    detail: None,
                    extra: Default::default(),
                    register: true,
                };
                self.answer(Command::ReportVersion(Box::new(report)))
            }
            _ => panic!("no such command: {line}"),
        }
    }

    pub(super) fn act_on_task(&self, verb: &str, task: &str, rules: ActionRules) -> Command {
        let action = match verb {
            "start" => TaskAction::Start,
            "stop" => TaskAction::Stop,
            "pause" => TaskAction::Pause,
            "resume" => TaskAction::Resume,
            "approve" => TaskAction::Approve,
            "cancel" => TaskAction::Cancel,
            "open" => TaskAction::OpenWave,
            verb => panic!("no such action: {verb}"),
        };
        Command::ActOnTask { organization: "o".into(), id: self.task(task), action, rules }
    }

    pub(super) fn act_on_upgrades(&self, verb: &str, task: &str, devices: &[&str], rules: ActionRules) -> Command {
        let action = match verb {
            "cancel" => UpgradeAction::Cancel,
            "retry" => UpgradeAction::Retry,
            "force" => UpgradeAction::Force,
            "confirm" => UpgradeAction::Confirm,
            "decline" => UpgradeAction::Decline,
            verb => panic!("no such action: {verb}"),
        };
        let device_ids = devices.iter().map(|device| (*device).into()).collect();
        Command::ActOnUpgrades(Box::new(UpgradesAction {
            organization: "o".into(),
            task: self.task(task),
            device_ids,
            action,
            rules,
        }))
    }

    fn connect(&mut self, gateway: &str, attached: &[&str]) -> String {
        let epoch = self.epochs.values().max().map_or(1, |newest| newest + 1);
        self.epochs.insert(gateway.into(), epoch);
        let attached = attached.iter().map(|device| (*device).into()).collect();
        let connect = Connect {
            gateway: Self::device(gateway),
            attached,
            epoch,
            component: Component::MAIN,
            together_max: 2,
            register: true,
        };
        match self.apply(Command::Connect(Box::new(connect))) {
            Ok(Outcome::Connected(connected)) if connected.refused.is_empty() => "connected".into(),
            Ok(Outcome::Connected(connected)) => {
                connected.refused.into_iter().map(|(_, reason)| format!("refused: {reason}")).collect::<Vec<_>>().join(", ")
            }
            Err(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// Who was offered something since this was last asked.
    fn sent(&mut self) -> String {
        let events = std::mem::take(&mut self.events);
        let mut sent = Vec::new();
        for event in events.into_iter().filter(|event| event.kind == EventKind::Offered) {
            let (Some(device), Some(id)) = (&event.device_id, event.upgrade_id) else { continue };
            self.offers.insert(device.to_string(), id);
            sent.push(device.to_string());
        }
        if sent.is_empty() { "nothing".into() } else { sent.join(", ") }
    }

    fn explain(&self, device: &str) -> String {
        let name = Self::device(device);
        let Some(explanations) = self.state.explain(name.as_ref(), Component::MAIN, self.now) else { return "not there".into() };
        let texts: Vec<String> = explanations.iter().map(ToString::to_string).collect();
        // The spread is tested where it is made.
        let text = texts.join(" | ");
        text.split("; asks again").next().unwrap_or_default().to_owned()
    }

    fn create_task(&mut self, from: &str, to: &str, rest: &[&str]) -> String {
        let mut policy = Policy::default();
        let mut scope = Scope::default();
        let mut unique_start = true;
        for word in rest {
            match word.split_once('=').unwrap_or((word, "")) {
                ("cap", cap) => policy.maximum_concurrency = Some(cap.parse().unwrap()),
                ("timeout", seconds) => policy.timeout_s = Some(seconds.parse().unwrap()),
                ("retry", count) => {
                    policy.retry = Some(Retry { count: count.parse().unwrap(), interval_s: 60, ..Retry::default() })
                }
                ("repeat", _) => policy.repeat_after_success = true,
                ("snapshot", _) => scope.snapshot = true,
                ("opens", seconds) => policy.schedule.start = Some(self.now.plus_seconds(seconds.parse().unwrap())),
                ("tag", value) => scope.selector = Selector::Tags([("ring".into(), vec![value.into()])].into()),
                ("shared", _) => unique_start = false,
                ("rate", per_minute) => policy.rate = Some(Rate { per_minute: per_minute.parse().unwrap(), growth: None }),
                ("wave", wave) => {
                    let (size, success) = wave.split_once(':').unwrap();
                    let size = match size.strip_suffix('%') {
                        Some(percent) => WaveSize::Percent(percent.parse().unwrap()),
                        None => WaveSize::Count(size.parse().unwrap()),
                    };
                    policy.waves.push(Wave { size, success_percent: success.parse().unwrap() });
                }
                ("pause_at" | "cancel_at", threshold) => {
                    let (percent, minimum) = threshold.split_once(":").unwrap();
                    let action = if word.starts_with("pause") { ThresholdAction::Pause } else { ThresholdAction::Cancel };
                    let (percent, minimum) = (percent.parse().unwrap(), minimum.parse().unwrap());
                    policy.thresholds.push(Threshold { kind: None, percent, minimum, action });
                }
                ("jitter", seconds) => policy.start_jitter_s = seconds.parse().unwrap(),
                ("approval", _) => policy.approval = true,
                ("confirmation", _) => policy.confirmation = true,
                ("version_decides", _) => policy.version_decides = true,
                ("from_running", _) => policy.timeout_from = TimeoutFrom::Running,
                ("ends", seconds) => policy.schedule.end = Some(self.now.plus_seconds(seconds.parse().unwrap())),
                (word, _) => panic!("no such policy: {word}"),
            }
        }
        let artifact = Artifact { url: Some("http://elsewhere/f".into()), size: 1, md5: "m".into(), ..Artifact::default() };
        let new = NewTask {
            scope,
            policy,
            unique_start,
            ..NewTask::new(
                "o",
                "p",
                from.split(',').map(str::to_owned).collect(),
                TaskTarget::Artifact { version: to.into(), artifact },
            )
        };
        match self.apply(Command::CreateTask { new: Box::new(new), register_product: true }) {
            Ok(Outcome::Task(task)) => {
                self.tasks.push(task.id);
                format!("t{} {}", self.tasks.len(), task.status.name())
            }
            Err(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn task(&self, name: &str) -> TaskId {
        self.tasks[name[1..].parse::<usize>().unwrap() - 1]
    }

    pub(super) fn check(&mut self, device: &str, version: &str, rest: &[&str]) -> String {
        let rules = CheckRules {
            preview: rest.contains(&"preview"),
            only_while_started: rest.contains(&"while_started"),
            register: !rest.contains(&"known"),
        };
        let name = Self::device(device);
        let check = Check { device: name.as_ref(), component: Component::MAIN, version, rules };
        let quick = self.state.published.check(&check, self.now);
        let command = Command::Check { device: name, component: Component::MAIN, version: version.into(), rules };
        let said = match self.apply(command) {
            Ok(Outcome::Decision(decision)) => self.say(device, &decision),
            Err(error) => error.to_string(),
            other => panic!("{other:?}"),
        };
        // What the decision plane decides by itself, the writer decides alike; of an open group it knows nothing yet.
        if let Checked::Decided(decision) = quick
            && !self.group_is_open
        {
            assert_eq!(self.say(device, &decision), said, "the two planes differ");
        }
        said
    }

    fn say(&mut self, device: &str, decision: &Decision) -> String {
        match decision {
            Decision::UpToDate => "up to date".into(),
            Decision::NoTask => "no task".into(),
            Decision::Wait(wait) => {
                // The spread is tested where it is made.
                let seconds = if wait.reason == WaitReason::BackOff { format!(" {} s", wait.retry_after_s) } else { String::new() };
                format!("wait: {}{seconds}", wait.reason.name())
            }
            Decision::Offer(offer) => {
                let again = offer.id.is_some() && self.offers.get(device) == offer.id.as_ref();
                if let Some(id) = offer.id {
                    self.offers.insert(device.into(), id);
                }
                let kind = match (offer.id, again) {
                    (None, _) => "preview",
                    (_, true) => "offer again",
                    (_, false) => "offer",
                };
                format!("{kind}: {} -> {}", offer.from_version, offer.task.row().target_version)
            }
        }
    }

    fn report(&mut self, device: &str, state: &str, rest: &[&str]) -> String {
        let code = rest.iter().find_map(|word| word.strip_prefix("code=")).map(|code| code.parse().unwrap());
        // `as x`: with the id that x was offered.
        let owner = if let ["as", other, ..] = rest { other } else { device };
        let percent = rest.iter().find_map(|word| word.strip_suffix('%')).map(|percent| percent.parse().unwrap());
        let upgrade =
            self.offers.get(owner).copied().unwrap_or(UpgradeId { task: TaskNumber(9), device: DeviceNumber(0), offer: 9 });
        let state = ReportedState::ALL.into_iter().find(|reported| reported.state().name() == state).unwrap();
        self.answer(Command::Report(Report { device: Self::device(device), upgrade, state, percent, detail: None, code }))
    }

    fn answer(&mut self, command: Command) -> String {
        match self.apply(command) {
            Ok(Outcome::Reported(reported)) => match (reported.changed, reported.task) {
                (true, Some(_)) => "counted".into(),
                (true, None) => "recorded without a task".into(),
                (false, _) => "nothing changed".into(),
            },
            Ok(Outcome::Task(task)) => task.status.name().into(),
            Ok(Outcome::Ticked(next)) => match next {
                Some(next) => format!("next in {} s", self.now.seconds_until(next)),
                None => "nothing due".into(),
            },
            Ok(_) => "done".into(),
            Err(error) => error.to_string(),
        }
    }

    pub(super) fn show(&mut self, task: &str) -> String {
        let Some(info) = self.state.task("o", self.task(task)) else { return "gone".into() };
        let mut text = format!("permits {}", info.permits_held);
        for (state, count) in info.counts.iter().filter(|(_, count)| *count > 0) {
            let _ = write!(text, ", {} {count}", state.name());
        }
        let _ = write!(text, "; succeeded ever {}, at start {}", info.succeeded_devices, info.devices_at_start);
        text
    }
}

pub(super) fn check_fleet(script: &str, expected: Expect) {
    check_fleet_with(Limits::default(), script, expected);
}

pub(super) fn check_fleet_with(limits: Limits, script: &str, expected: Expect) {
    let mut fleet = Fleet::new(limits);
    let mut text = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let said = fleet.line(line);
        let _ = writeln!(text, "{line}: {said}");
    }
    expected.assert_eq(&text);
}
