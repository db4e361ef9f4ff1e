//! What happens by itself: deadlines, schedules, and the upkeep of what is counted.
//!
//! One thread calls [`Engine::tick`] when it asked to be called, and at least every second; a tick ends before the next begins. It also
//! notices when the system's clock has gone back: for the engine time stands still then, and an operator should know why.

use crate::app::App;
use crate::metrics::Metrics;
use sluicegate::Engine;
use sluicegate::model::Timestamp;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The thread that ticks; it ends when this is stopped or dropped.
#[derive(Debug)]
pub struct Clock {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// A deadline is at most this late, should the wall clock jump.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// A busy engine that always wants to be called at once doesn't get all of a core.
const TICK_PAUSE_MIN: Duration = Duration::from_millis(20);
/// What was counted is sorted into its buckets this often; without it, samples pile up until somebody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// What rests in memory is looked through this often.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The clock is set by small steps all the time; a smaller step back isn't worth a word.
const STEP_BACK_MIN_MS: u64 = 1_000;

impl Clock {
    pub fn start(app: Arc<App>) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let run = move || {
            let mut wait = Duration::ZERO;
            let mut latest = Latest { at: app.now(), is_behind: false };
            let mut upkeep_due = Instant::now();
            let mut sweep_due = upkeep_due + SWEEP_EVERY;
            while matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
                let at = app.now();
                latest.compare(at, &app.metrics);
                wait = tick(&app.engine, at);
                let now = Instant::now();
                if now >= upkeep_due {
                    upkeep_due = now + UPKEEP_EVERY;
                    app.metrics.run_upkeep();
                }
                if now >= sweep_due {
                    sweep_due = now + SWEEP_EVERY;
                    app.downloads.forget_resting(app.now());
                    app.uploads.forget_resting(app.now());
                    app.huawei.forget_resting();
                    app.fair_use.forget_resting();
                    app.guesses.forget_resting();
                }
            }
        };
        Ok(Self { stop, thread: std::thread::Builder::new().name("clock".to_owned()).spawn(run)? })
    }

    /// Ends after the tick that runs.
    pub fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the clock ended by a panic; the stop goes on");
        }
    }
}

/// The latest time that the system's clock has shown.
struct Latest {
    at: Timestamp,
    /// The clock has gone back behind it.
    is_behind: bool,
}

impl Latest {
    fn compare(&mut self, now: Timestamp, metrics: &Metrics) {
        let behind_ms = self.at.0.saturating_sub(now.0);
        self.at = self.at.max(now);
        metrics.clock_behind(Duration::from_millis(behind_ms));
        if behind_ms >= STEP_BACK_MIN_MS && !self.is_behind {
            self.is_behind = true;
            tracing::warn!(
                behind_s = behind_ms / 1_000,
                "the system's clock went back; deadlines, rates and schedules stand still until it has caught up. If it was wrong before, \
                 restart the server: it begins with the time that it finds"
            );
        } else if behind_ms == 0 && self.is_behind {
            self.is_behind = false;
            tracing::info!("the system's clock has caught up; deadlines, rates and schedules go on");
        }
    }
}

/// How long to wait for the next.
fn tick(engine: &Engine, now: Timestamp) -> Duration {
    match engine.tick(now).wait() {
        Ok(Some(next)) => Duration::from_millis(next.0.saturating_sub(now.0)).clamp(TICK_PAUSE_MIN, TICK_EVERY),
        Ok(None) => TICK_EVERY,
        Err(error) => {
            tracing::warn!(%error, "what is due could not be moved; it is tried again in a second");
            TICK_EVERY
        }
    }
}
