use crate::model::{Task, TaskStatus, Timestamp};
use crate::rollout::CompiledScope;
use crate::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

/// A task as the decision plane sees it: its row, and the figures that change while it runs.
#[derive(Debug)]
pub struct TaskView {
    row: Arc<Task>,
    product_id: Arc<str>,
    scope: Arc<CompiledScope>,
    figures: Arc<TaskFigures>,
}

impl TaskView {
    pub(crate) fn new(row: Arc<Task>, product_id: Arc<str>, scope: Arc<CompiledScope>, figures: Arc<TaskFigures>) -> Self {
        Self { row, product_id, scope, figures }
    }

    /// As it was when this view was published; its status may have changed since, see [`status`](Self::status).
    pub fn row(&self) -> &Arc<Task> {
        &self.row
    }

    /// The product it belongs to, by its customer's name.
    pub fn product_id(&self) -> &str {
        &self.product_id
    }

    pub(crate) fn scope(&self) -> &Arc<CompiledScope> {
        &self.scope
    }

    pub(crate) fn figures(&self) -> &Arc<TaskFigures> {
        &self.figures
    }

    /// Its status now, also where an offer still carries an older view.
    pub fn status(&self) -> TaskStatus {
        match self.figures.status.load(Ordering::Acquire) {
            TaskFigures::STARTED => TaskStatus::Started,
            TaskFigures::PAUSED => TaskStatus::Paused,
            _ => TaskStatus::Stopped,
        }
    }

    /// Permits held now.
    pub fn permits_held(&self) -> u32 {
        self.figures.permits_held.load(Ordering::Relaxed)
    }

    /// From when on the task's rate lets another begin. A hint, like the permits: the writer decides.
    pub(crate) fn rate_free_at(&self) -> Timestamp {
        Timestamp(self.figures.rate_free_at.load(Ordering::Relaxed))
    }

    /// The largest place among the open waves.
    pub(crate) fn open_to_place(&self) -> u64 {
        self.figures.open_to_place.load(Ordering::Relaxed)
    }

    /// Devices that have succeeded at least once.
    pub fn succeeded_devices(&self) -> u32 {
        self.figures.succeeded_devices.load(Ordering::Relaxed)
    }
}

/// A task's figures, shared by all its views. Written by the writer alone, after the change is durable.
#[derive(Debug, Default)]
pub(crate) struct TaskFigures {
    /// Released by the writer when a status is published; acquired by readers of held offers.
    status: AtomicU8,
    permits_held: AtomicU32,
    succeeded_devices: AtomicU32,
    /// In milliseconds.
    rate_free_at: AtomicU64,
    open_to_place: AtomicU64,
}

/// The figures of a task at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FiguresNow {
    pub status: TaskStatus,
    pub permits_held: u64,
    pub succeeded_devices: u64,
    pub rate_free_at: Timestamp,
    pub open_to_place: u64,
}

impl TaskFigures {
    const STOPPED: u8 = 0;
    const STARTED: u8 = 1;
    const PAUSED: u8 = 2;

    pub(crate) fn publish(&self, now: FiguresNow) {
        let status = match now.status {
            TaskStatus::Stopped => Self::STOPPED,
            TaskStatus::Started => Self::STARTED,
            TaskStatus::Paused => Self::PAUSED,
        };
        self.permits_held.store(u32::try_from(now.permits_held).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.succeeded_devices.store(u32::try_from(now.succeeded_devices).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.rate_free_at.store(now.rate_free_at.0, Ordering::Relaxed);
        self.open_to_place.store(now.open_to_place, Ordering::Relaxed);
        self.status.store(status, Ordering::Release);
    }
}
