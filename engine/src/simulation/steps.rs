//! What happens in a run, one step at a time: plain data, so that a run can be taken again with steps left out.
//!
//! A step names what it is about by places that don't change when others are left out: a device by its place in the fleet, a task by
//! the step that ordered it, an attempt by which of the offers of that task to that device it was. A step about something that isn't
//! there does nothing.

use crate::model::*;
use crate::state::{TaskAction, UpgradeAction};
use crate::store::StoreErrorKind;
use std::fmt;

/// Organizations and their products. Two organizations have one of the same name.
pub(super) const PRODUCTS: [(&str, &str); 3] = [("o", "p"), ("o", "q"), ("n", "p")];
pub(super) const VERSIONS: [&str; 5] = ["1", "2", "3", "4", "5"];
pub(super) const GROUPS: [&str; 3] = ["g0", "g1", "g2"];
pub(super) const RINGS: [&str; 3] = ["0", "1", "2"];
pub(super) const CODES: [i32; 3] = [-1, -2, -4];

/// The product of a device: most are of the first.
pub(super) fn product_of(device: usize) -> usize {
    match device % 10 {
        8 => 1,
        9 => 2,
        _ => 0,
    }
}

pub(super) fn component(second: bool) -> Component {
    if second { Component { component_type: 2, identify: 3 } } else { Component::MAIN }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Time goes on.
    Pass {
        ms: u64,
    },

    // Devices
    Check(CheckStep),
    Report {
        device: usize,
        /// Who was offered it; another than the device where it lies.
        of: usize,
        task: usize,
        offer: usize,
        state: ReportedState,
        percent: Option<u8>,
        code: Option<i32>,
    },
    Served {
        device: usize,
        task: usize,
        offer: usize,
        percent: u8,
    },
    ReportVersion {
        device: usize,
        second: bool,
        from: &'static str,
        to: &'static str,
        succeeded: bool,
        register: bool,
    },
    NoteVersion {
        device: usize,
        second: bool,
        version: &'static str,
        register: bool,
    },

    /// It is connected, by itself or with others behind it, and is sent what is due.
    Connect {
        gateway: usize,
        attached: Vec<usize>,
        epoch: u64,
        together_max: usize,
    },
    Disconnect {
        gateway: usize,
        epoch: u64,
    },

    // Operators
    PutDevice {
        device: usize,
        versions: Vec<(bool, &'static str)>,
        groups: Vec<&'static str>,
        ring: Option<&'static str>,
    },
    DeleteDevice {
        device: usize,
    },
    DeleteProduct {
        product: usize,
    },
    CreateFirmware {
        firmware: usize,
        product: usize,
        second: bool,
        version: &'static str,
    },
    DeleteFirmware {
        firmware: usize,
    },
    CreateTask(Box<TaskPlan>),
    ActOnTask {
        task: usize,
        action: TaskAction,
        strict: bool,
    },
    DeleteTask {
        task: usize,
        strict: bool,
    },
    /// No device twice.
    ActOnUpgrades {
        task: usize,
        devices: Vec<usize>,
        action: UpgradeAction,
        strict: bool,
    },
    PutToken {
        token: u64,
        product: usize,
        device: Option<usize>,
        lives_s: u64,
    },
    RevokeToken {
        token: u64,
        organization: Option<&'static str>,
    },
    Tick,

    // The program
    /// The writer goes on by one of its steps: applies, commits, publishes or undoes, answers.
    Write,
    /// The next commit of something fails so. `kept`: what was written is on the disk all the same.
    FailCommit {
        kind: StoreErrorKind,
        kept: bool,
    },
    /// An operator begins to read.
    Read,
    PowerCut,
    /// It is closed and started again.
    Restart,
    /// Everything is looked through.
    Audit,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct CheckStep {
    pub device: usize,
    pub second: bool,
    pub version: &'static str,
    pub preview: bool,
    pub only_while_started: bool,
    pub register: bool,
    /// Asks the writer without asking the decision plane first.
    pub direct: bool,
}

/// A task to order.
#[derive(Clone)]
pub(super) struct TaskPlan {
    pub task: usize,
    pub product: usize,
    pub second: bool,
    pub from: Vec<&'static str>,
    pub to: &'static str,
    /// Made from this firmware, whose version then is the target.
    pub firmware: Option<usize>,
    pub selector: Selector,
    pub snapshot: bool,
    pub policy: Policy,
    pub unique_start: bool,
    pub start: bool,
}

/// Only what isn't as it is by default.
impl fmt::Debug for TaskPlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, product, second, from, to, firmware, selector, snapshot, policy, unique_start, start } = self;
        write!(formatter, "{{ task: {task}, product: {product}, {from:?} -> {to:?}")?;
        if let Some(firmware) = firmware {
            write!(formatter, " by firmware {firmware}")?;
        }
        if *selector != Selector::Total {
            write!(formatter, ", {selector:?}")?;
        }
        for (name, is_so) in [("second", *second), ("snapshot", *snapshot), ("unique_start", *unique_start), ("start", *start)] {
            if is_so {
                write!(formatter, ", {name}")?;
            }
        }
        let fields = |policy: &Policy| serde_json::to_value(policy).unwrap_or_default();
        let (said, default) = (fields(policy), fields(&Policy::default()));
        for (name, value) in said.as_object().into_iter().flatten().filter(|(name, value)| default[name.as_str()] != **value) {
            write!(formatter, ", {name}: {value}")?;
        }
        formatter.write_str(" }")
    }
}
