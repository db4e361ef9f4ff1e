//! Why a device stands where it stands, task by task: the same judgement that decides a check, told to people.
//!
//! It also works for a task that isn't started: that is how a device's wave is seen beforehand.

use super::encode::Id;
use super::failure::{Failure, shortened};
use super::{Answer, access};
use crate::app::App;
use crate::http::{Query, Request, json};
use ::http::StatusCode;
use serde::Serialize;
use sluicegate::model::{Component, TaskId, UpgradeState};
use sluicegate::{DeviceRef, Entity, Error, Explained, Explanation, State, WaitReason};
use std::sync::Arc;

pub(super) async fn get(app: &App, request: Request, product_id: &str, device_id: &str) -> Answer {
    let now = app.now();
    let caller = access::onlooker_of_device(app, request.headers(), now, product_id, device_id)?;
    let query = Query::parse(request.uri().query())?;
    let organization = access::organization(app, &caller, &query)?;
    let component = component(&query)?;
    let device = DeviceRef { organization: &organization, product_id, device_id };
    let read = |state: &State| {
        let version = state.device(device)?.row.version(component).cloned();
        Some((version, state.explain(device, component, now)?))
    };
    let found: Option<(Option<Arc<str>>, Vec<Explanation>)> = app.engine.read(read).await?;
    let (version, explanations) = found.ok_or_else(|| Error::not_found(Entity::Device, device_id))?;
    let items = explanations.iter().map(ExplanationShown::new).collect();
    Ok(json(StatusCode::OK, &ExplanationsShown { version: version.as_deref(), items, cursor: None }))
}

/// The component that the query names: the main one where it says nothing.
fn component(query: &Query<'_>) -> Result<Component, Failure> {
    let refuse = |field: &str, got: &str, expected: &str| {
        Failure::invalid(format!("{field}: expected {expected}, got {:?}", shortened(got, 80)))
    };
    let mut component = Component::MAIN;
    if let Some(text) = query.get("type") {
        let number = text.parse().ok().filter(|number| (1..=3).contains(number));
        component.component_type = number.ok_or_else(|| refuse("type", text, "1, 2 or 3"))?;
    }
    if let Some(text) = query.get("identify") {
        component.identify = text.parse().map_err(|_| refuse("identify", text, "a whole number from 0 to 4294967295"))?;
    }
    Ok(component)
}

/// A list, with what the device runs: no task leads on from a version that isn't known.
#[derive(Debug, Serialize)]
struct ExplanationsShown<'a> {
    version: Option<&'a str>,
    items: Vec<ExplanationShown<'a>>,
    cursor: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct ExplanationShown<'a> {
    task_id: Id<TaskId>,
    name: Option<&'a str>,
    status: &'static str,
    target_version: &'a str,
    /// Absent where the task isn't for the device.
    state: Option<&'static str>,
    /// Absent where it may begin, runs or is over.
    reason: Option<&'static str>,
    retry_after_s: Option<u32>,
    queue: Option<QueueShown>,
    wave: Option<WaveShown>,
    permits_held: u64,
    maximum_concurrency: Option<u32>,
    rate_per_minute: Option<u32>,
    text: String,
}

#[derive(Debug, Serialize)]
struct QueueShown {
    position: u64,
    waiting: u64,
}

/// The device's wave, the newest one that is open, and how many there are; numbered from 1.
#[derive(Debug, Serialize)]
struct WaveShown {
    number: usize,
    open: usize,
    of: usize,
}

impl<'a> ExplanationShown<'a> {
    fn new(explanation: &'a Explanation) -> Self {
        let task = &*explanation.task;
        let (state, reason, retry_after_s) = standing(&explanation.explained);
        Self {
            task_id: Id(task.id),
            name: task.name.as_deref(),
            status: task.status.name(),
            target_version: &task.target_version,
            state: state.map(UpgradeState::name),
            reason,
            retry_after_s,
            queue: explanation.queue.map(|(position, waiting)| QueueShown { position, waiting }),
            wave: explanation.wave.map(|(wave, open)| WaveShown { number: wave + 1, open: open + 1, of: task.waves.len() }),
            permits_held: explanation.permits_held,
            maximum_concurrency: task.policy.maximum_concurrency,
            rate_per_minute: explanation.rate_per_minute,
            text: explanation.to_string(),
        }
    }
}

/// State, reason and when to ask again.
fn standing(explained: &Explained) -> (Option<UpgradeState>, Option<&'static str>, Option<u32>) {
    let waits = |reason| (Some(UpgradeState::Waiting), Some(reason), None);
    match explained {
        Explained::Runs(row) if row.state == UpgradeState::AwaitingConfirmation => {
            (Some(row.state), Some(WaitReason::Confirmation.name()), None)
        }
        Explained::Runs(row) => (Some(row.state), None, None),
        Explained::Finished(state) => (Some(*state), None, None),
        Explained::Waits { reason, retry_after_s } => (Some(UpgradeState::Waiting), Some(reason.name()), Some(*retry_after_s)),
        Explained::MayBegin => (Some(UpgradeState::Waiting), None, None),
        Explained::TaskStopped => waits("stopped"),
        Explained::ScheduleOver => waits("schedule_over"),
        Explained::RunsAnother(_) => waits("other_task"),
        Explained::OtherVersion => waits("other_version"),
        Explained::OutOfScope => (None, Some("out_of_scope"), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_named_by_the_query_or_is_the_main_one() {
        let read = |query: &str| component(&Query::parse(Some(query)).unwrap());
        assert_eq!(read(""), Ok(Component::MAIN));
        assert_eq!(read("type=2&identify=7"), Ok(Component { component_type: 2, identify: 7 }));
        for (query, named) in
            [("type=4", "type: expected 1, 2 or 3, got \"4\""), ("identify=-1", "identify: expected a whole number")]
        {
            assert!(read(query).unwrap_err().message.starts_with(named), "{query}");
        }
    }
}
