//! Watches the server's own account while the fleet runs, and reads it at the end.

use crate::client::{Call, ClientError};
use crate::device::World;
use crate::gateways::Traffic;
use crate::ledger::{Row, Rows};
use crate::progress::Progress;
use crate::setup::Operator;
use crate::usage::{Usage, UsageOverRun};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What the server said of its permits while it was watched.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watched {
    pub(crate) permits_held_max: u64,
    pub(crate) looks: u64,
    /// Of the server that the harness runs itself.
    pub(crate) usage: UsageOverRun,
    /// Messages of gateways, over a whole second.
    pub(crate) messages_per_s_max: f64,
}

/// What is looked at beside the task.
#[derive(Debug, Default)]
pub(crate) struct Sights {
    /// The process of the own server, if there is one.
    pub(crate) pid: Option<Arc<AtomicU32>>,
    pub(crate) traffic: Arc<Traffic>,
}

/// How many messages there were at looks of the last second.
#[derive(Debug, Default)]
struct Pace(VecDeque<(Instant, u64)>);

impl Pace {
    /// Messages per second since the last look that is a second old; `None` until there is one.
    fn look(&mut self, now: Instant, messages: u64) -> Option<f64> {
        self.0.push_back((now, messages));
        while self.0.get(1).is_some_and(|(at, _)| now - *at >= Duration::from_secs(1)) {
            self.0.pop_front();
        }
        let (at, before) = *self.0.front()?;
        let elapsed = now - at;
        (elapsed >= Duration::from_secs(1)).then(|| (messages - before) as f64 / elapsed.as_secs_f64())
    }
}

impl Watched {
    /// Looks at the task until it is aborted or the server is gone.
    pub(crate) async fn watch(
        watched: Arc<std::sync::Mutex<Self>>,
        mut operator: Operator,
        world: Arc<World>,
        progress: Arc<Progress>,
        sights: Sights,
    ) {
        let mut pace = Pace::default();
        let mut interval = tokio::time::interval(LOOK_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let Ok(task) = operator.get(&world.rollout.task_path()).await else { return };
            let Some(permits_held) = task["permits_held"].as_u64() else {
                world.ledger.mismatch(format!("GET /tasks/{{id}}: no permits_held in {task}"));
                return;
            };
            let mut watched = watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            watched.permits_held_max = watched.permits_held_max.max(permits_held);
            watched.looks += 1;
            let pid = sights.pid.as_ref().map(|pid| pid.load(Ordering::Relaxed));
            // The wait for deadlines after the last upgrade would flatter the share of a core.
            if !progress.is_complete()
                && let Some((pid, usage)) = pid.and_then(|pid| Some((pid, Usage::of(pid)?)))
            {
                watched.usage.note(pid, usage);
            }
            let messages =
                sights.traffic.messages_up.load(Ordering::Relaxed) + sights.traffic.messages_down.load(Ordering::Relaxed);
            watched.messages_per_s_max = watched.messages_per_s_max.max(pace.look(Instant::now(), messages).unwrap_or_default());
            progress.say(format!("{permits_held} permits, at most {}", watched.permits_held_max));
        }
    }
}

/// Waits until no permit is held any more, and returns the task.
///
/// Vanished devices hold theirs until their deadlines, so this takes up to the task's timeout.
pub(crate) async fn task_at_rest(operator: &mut Operator, world: &World) -> Result<Value, ClientError> {
    let patience = world.options.timeout() + AFTER_DEADLINE_MAX;
    let since = Instant::now();
    loop {
        let task = operator.get(&world.rollout.task_path()).await?;
        if task["permits_held"] == 0 {
            return Ok(task);
        }
        if since.elapsed() > patience {
            let patience_s = patience.as_secs();
            return Err(ClientError::Unexpected(format!("permits were still held {patience_s} s after the last report: {task}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// All upgrade rows of the task.
pub(crate) async fn rows(operator: &mut Operator, task_path: &str) -> Result<Rows, ClientError> {
    let mut rows = BTreeMap::new();
    let mut cursor: Option<String> = None;
    loop {
        let after = cursor.as_ref().map_or(String::new(), |cursor| format!("&cursor={cursor}"));
        let path = format!("{task_path}/upgrades?limit={ROWS_PER_PAGE}{after}");
        let page = operator.send(Call::get(path)).await?.json("GET …/upgrades", &[200])?;
        let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        for row in items {
            let device = row["device_id"].as_str().unwrap_or_default().to_owned();
            if rows.insert(device.clone(), Row::from_json(row)).is_some() {
                return Err(ClientError::Unexpected(format!("GET …/upgrades lists {device} twice")));
            }
        }
        match page["cursor"].as_str() {
            Some(next) if !items.is_empty() => cursor = Some(next.to_owned()),
            _ => return Ok(rows),
        }
    }
}

pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How much after its deadline a permit may end on a loaded machine before we call it held for ever.
const AFTER_DEADLINE_MAX: Duration = Duration::from_secs(30);
/// The most that the contract lets one page hold.
const ROWS_PER_PAGE: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_a_whole_second() {
        let (mut pace, zero) = (Pace::default(), Instant::now());
        let mut look = |millisecond, messages| pace.look(zero + Duration::from_millis(millisecond), messages);
        assert_eq!((look(0, 0), look(500, 50), look(1_000, 100)), (None, None, Some(100.0)));
        assert_eq!((look(1_400, 500), look(1_500, 550)), (Some(500.0 / 1.4), Some(500.0)));
    }
}
