//! Kills the server while the fleet is at work, starts it again, and looks for what it had confirmed.
//!
//! Life cycle of a kill: 1. note what the fleet was told   2. SIGKILL   3. perhaps a start that is killed before it is ready   4. a start
//! 5. hold every row against the note: a device may have gone on meanwhile, but not back.

use crate::device::World;
use crate::monitor::{LOOK_EVERY, rows};
use crate::progress::Progress;
use crate::random::Random;
use crate::server_process::{Addresses, ServerHome, ServerProcess};
use crate::setup::Operator;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When to kill.
pub(crate) struct Killer {
    kind: Kind,
}

enum Kind {
    /// Once so many devices have finished.
    Once { after: u64 },
    /// So many times, at moments that follow from a seed.
    Often { kills: u32, random: Random },
}

/// Between being ready and being killed, at most: every phase of a rollout's work is met.
const ALIVE_MS_MAX: f64 = 600.0;
/// A start takes some tens of milliseconds; a kill within it comes at most so late.
const STARTING_MS_MAX: f64 = 60.0;
/// Every so many kills one start is killed, too.
const STARTS_KILLED: u32 = 4;

impl Killer {
    pub(crate) fn once(after: u64) -> Self {
        Self { kind: Kind::Once { after } }
    }

    pub(crate) fn often(kills: u32, seed: u64) -> Self {
        Self { kind: Kind::Often { kills, random: Random::new(seed) } }
    }

    /// Kills as it is meant to, and gives back the server that runs at last, and how many were killed.
    pub(crate) async fn run(
        self,
        home: ServerHome,
        mut server: ServerProcess,
        mut operator: Operator,
        world: Arc<World>,
        progress: Arc<Progress>,
    ) -> Result<(ServerProcess, u32), String> {
        match self.kind {
            Kind::Once { after } => {
                while progress.done() < after {
                    tokio::time::sleep(LOOK_EVERY / 4).await;
                }
                let killed_at = Instant::now();
                server = kill_and_restart(&home, server, &mut operator, &world, None).await?;
                let took_ms = killed_at.elapsed().as_millis();
                progress.note(&format!("killed after {} devices; ready and checked {took_ms} ms later", progress.done()));
                Ok((server, 1))
            }
            Kind::Often { kills, mut random } => {
                let mut killed = 0;
                for round in 0..kills {
                    tokio::time::sleep(Duration::from_secs_f64(random.fraction() * ALIVE_MS_MAX / 1e3)).await;
                    if progress.is_complete() {
                        progress.note(&format!("the fleet was through after {round} kills of {kills}; give it more devices"));
                        break;
                    }
                    let starting = Duration::from_secs_f64(random.fraction() * STARTING_MS_MAX / 1e3);
                    let starting = (round % STARTS_KILLED == STARTS_KILLED - 1).then_some(starting);
                    server = kill_and_restart(&home, server, &mut operator, &world, starting).await?;
                    killed += 1 + u32::from(starting.is_some());
                }
                progress.note(&format!("killed {killed} times; after each, what was confirmed before was looked for"));
                Ok((server, killed))
            }
        }
    }
}

/// `starting`: so long after its beginning a first new start is killed as well.
async fn kill_and_restart(
    home: &ServerHome,
    server: ServerProcess,
    operator: &mut Operator,
    world: &World,
    starting: Option<Duration>,
) -> Result<ServerProcess, String> {
    let addresses: Addresses = server.addresses.clone();
    let confirmed = world.ledger.snapshot();
    server.kill().await?;
    if let Some(starting) = starting {
        ServerProcess::start_and_kill(home, &addresses, starting).await?;
    }
    let server = ServerProcess::start(home, &addresses).await?;
    let rows = rows(operator, &world.rollout.task_path()).await.map_err(|error| error.to_string())?;
    world.ledger.compare_after_restart(&confirmed, &rows);
    Ok(server)
}
