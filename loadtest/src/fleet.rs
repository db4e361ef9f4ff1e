//! Drives all devices over a bounded number of connections.
//!
//! Devices take turns rather than connections: many more upgrade at once than there are connections, so that the cap is what bounds
//! them. Those that upgrade and those that ask are served in alternation; otherwise a crowd of askers would stretch every upgrade
//! towards its deadline, or a crowd of upgrades would keep freed permits from being asked for.

use crate::client::{ClientError, Connection, Endpoint};
use crate::device::{Device, Turn, World};
use crate::measurements::{Measurements, Step};
use crate::progress::Progress;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// Runs the fleet to its end, and returns what was measured.
pub(crate) async fn run(
    devices: Vec<Device>,
    endpoint: &Endpoint,
    world: &Arc<World>,
    progress: &Arc<Progress>,
) -> Result<Measurements, ClientError> {
    let connections = devices.len().min(world.options.connections as usize);
    let queue = Arc::new(Queue::new(devices));
    let mut drivers = tokio::task::JoinSet::new();
    for _ in 0..connections {
        drivers.spawn(drive(Connection::new(endpoint.clone()), queue.clone(), world.clone(), progress.clone()));
    }
    let mut total = Measurements::new(Step::OF_DEVICES);
    // The first error ends the run: the other drivers are aborted with the set.
    while let Some(driver) = drivers.join_next().await {
        let measured = driver.map_err(|error| ClientError::Unexpected(format!("a driver ended early: {error}")))?;
        total.add(&measured?);
    }
    Ok(total)
}

async fn drive(
    mut connection: Connection,
    queue: Arc<Queue>,
    world: Arc<World>,
    progress: Arc<Progress>,
) -> Result<Measurements, ClientError> {
    let mut measured = Measurements::new(Step::OF_DEVICES);
    while let Some(mut device) = queue.next().await {
        match device.step(&mut connection, &world, &mut measured).await? {
            Turn::Never => {
                queue.retire();
                progress.advance(1);
            }
            turn => queue.put_back(device, turn),
        }
    }
    Ok(measured)
}

/// Whose turn it is.
#[derive(Debug)]
struct Queue {
    inner: Mutex<Waiting>,
    /// Told once for each device that becomes ready, and at the end.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    upgrading: VecDeque<Box<Device>>,
    asking: VecDeque<Box<Device>>,
    /// Those that stay away, by the time they come back; the number tells equal times apart.
    away: BinaryHeap<Reverse<(Instant, u64)>>,
    sleepers: BTreeMap<u64, Box<Device>>,
    sleeper_next: u64,
    asking_is_next: bool,
    /// Not retired yet.
    left: usize,
}

enum Next {
    Turn(Box<Device>),
    /// Nobody is ready; the first sleeper comes back then.
    Later(Option<Instant>),
    End,
}

impl Queue {
    fn new(devices: Vec<Device>) -> Self {
        let left = devices.len();
        Self {
            inner: Mutex::new(Waiting { asking: devices.into_iter().map(Box::new).collect(), left, ..Waiting::default() }),
            changed: Notify::new(),
        }
    }

    /// The next device that is ready; `None` once all have retired.
    async fn next(&self) -> Option<Box<Device>> {
        loop {
            // Registered before the look, so that no change between the two is missed.
            let changed = self.changed.notified();
            let next = self.lock().next(Instant::now());
            match next {
                Next::Turn(device) => return Some(device),
                Next::End => return None,
                Next::Later(Some(at)) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                }
                Next::Later(None) => changed.await,
            }
        }
    }

    fn put_back(&self, device: Box<Device>, turn: Turn) {
        self.lock().put(device, turn, Instant::now());
        self.changed.notify_one();
    }

    fn retire(&self) {
        let mut waiting = self.lock();
        waiting.left -= 1;
        if waiting.left == 0 {
            self.changed.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn put(&mut self, device: Box<Device>, turn: Turn, now: Instant) {
        match turn {
            Turn::After(pause) => {
                self.away.push(Reverse((now + pause, self.sleeper_next)));
                self.sleepers.insert(self.sleeper_next, device);
                self.sleeper_next += 1;
            }
            Turn::Now | Turn::Never if device.is_upgrading() => self.upgrading.push_back(device),
            Turn::Now | Turn::Never => self.asking.push_back(device),
        }
    }

    fn next(&mut self, now: Instant) -> Next {
        while let Some(Reverse((at, number))) = self.away.peek().copied()
            && at <= now
        {
            self.away.pop();
            self.asking.extend(self.sleepers.remove(&number));
        }
        self.asking_is_next = !self.asking_is_next;
        let device = if self.asking_is_next {
            self.asking.pop_front().or_else(|| self.upgrading.pop_front())
        } else {
            self.upgrading.pop_front().or_else(|| self.asking.pop_front())
        };
        match device {
            Some(device) => Next::Turn(device),
            None if self.left == 0 => Next::End,
            None => Next::Later(self.away.peek().map(|Reverse((at, _))| *at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use clap::Parser;
    use hyper::header::HeaderValue;
    use std::time::Duration;

    fn devices(count: usize) -> Vec<Device> {
        let options = Options::parse_from(["loadtest"]);
        (0..count).map(|index| Device::new(index, HeaderValue::from_static("x"), &options)).collect()
    }

    #[test]
    fn a_device_that_stays_away_comes_back_at_its_time_and_not_before() {
        let queue = Queue::new(devices(1));
        let now = Instant::now();
        let Next::Turn(device) = queue.lock().next(now) else { panic!("nobody was ready") };
        queue.lock().put(device, Turn::After(Duration::from_secs(5)), now);
        assert!(
            matches!(queue.lock().next(now + Duration::from_secs(4)), Next::Later(Some(at)) if at == now + Duration::from_secs(5))
        );
        assert!(matches!(queue.lock().next(now + Duration::from_secs(5)), Next::Turn(_)));
    }

    #[test]
    fn the_queue_ends_when_all_have_retired() {
        let queue = Queue::new(devices(2));
        let now = Instant::now();
        assert!(matches!(queue.lock().next(now), Next::Turn(_)));
        queue.retire();
        assert!(matches!(queue.lock().next(now), Next::Turn(_)));
        assert!(matches!(queue.lock().next(now), Next::Later(None)));
        queue.retire();
        assert!(matches!(queue.lock().next(now), Next::End));
    }
}
