//! Whether a small question is answered quickly while the same server feeds many slow downloads.
//!
//! The downloads are read at a fixed pace by the clock, through receive buffers as small as a device's, so that the server always has
//! more to send than it gets rid of. Beside them the check is asked as fast as it is answered.

use crate::failure::{Context, Failure, Outcome};
use crate::measure::Measurer;
use crate::options::Options;
use crate::process::{go_on, wait_until};
use crate::results::{Fairness, Figures, Unit, median};
use crate::world::{RANGED_BYTES, Side, World};
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Measures both servers, taking turns.
pub(crate) fn run(options: &Options, world: &World, measurer: &mut Measurer<'_>) -> Outcome<Vec<Fairness>> {
    let (load, sides) = world.plain_check().context(|| "no check to be fair to".to_owned())?;
    let (image, _) = world.ranged.as_ref().context(|| "no image to download slowly".to_owned())?;
    let files = [sides[0], world.theirs(world.nginx.files, false)];
    let mut rounds: [Vec<Round>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..options.rounds() {
        for (at, side) in sides.iter().enumerate() {
            go_on()?;
            // No answer at all is a finding here: it shows as a rate of 0.
            let mut checks = || measurer.requests(world, load, side, CONNECTIONS, Unit::Request).map(Option::unwrap_or_default);
            let alone = checks()?;
            let downloads = Downloads::start(files[at], &image.target, options.downloads)?;
            let beginning = checks()?;
            let (began, bytes_before) = (Instant::now(), downloads.bytes());
            let beside = checks()?;
            let downloaded = (downloads.bytes() - bytes_before) as f64 / began.elapsed().as_secs_f64();
            downloads.stop().context(|| format!("the slow downloads from {}", side.name))?;
            rounds[at].push(Round { alone, beginning, beside, downloaded });
        }
    }
    let wanted = f64::from(options.downloads) * BYTES_PER_SECOND as f64;
    let of_side = |(side, rounds): (&Side, &Vec<Round>)| {
        let figures = |of: fn(&Round) -> Figures| Figures::median(&rounds.iter().map(of).collect::<Vec<_>>());
        Fairness {
            server: side.name.to_owned(),
            downloads: options.downloads,
            alone: figures(|round| round.alone),
            beginning: figures(|round| round.beginning),
            beside: figures(|round| round.beside),
            downloaded: median(rounds.iter().map(|round| round.downloaded)),
            wanted,
        }
    };
    Ok(sides.iter().zip(&rounds).map(of_side).collect())
}

/// One server's turn.
#[derive(Clone, Copy, Debug)]
struct Round {
    alone: Figures,
    /// As soon as each download has its first bytes: the server is then busy filling the buffers of all of them.
    beginning: Figures,
    /// After that.
    beside: Figures,
    downloaded: f64,
}

/// How long that takes, about.
pub(crate) fn estimate(options: &Options) -> Duration {
    (Duration::from_secs(u64::from(options.seconds()) * 3) + Duration::from_secs(2)) * (2 * options.rounds())
}

/// Slow downloads on a thread of their own, which runs on the load's processor as all of this program does.
#[derive(Debug)]
struct Downloads {
    shared: Arc<Shared>,
    thread: std::thread::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    begun: AtomicU32,
    bytes: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Downloads {
    /// Returns when all of them get bytes.
    fn start(from: Side, target: &str, count: u32) -> Outcome<Self> {
        let shared = Arc::new(Shared::default());
        let (of_thread, target) = (Arc::clone(&shared), target.to_owned());
        let thread = std::thread::spawn(move || of_thread.run(from.address, &target, count));
        let downloads = Self { shared, thread };
        let began = wait_until(BEGIN_MAX, "the first bytes of each slow download", || {
            downloads
                .failure()
                .map_or(Ok(downloads.shared.begun.load(Ordering::Relaxed) == count), |failure| Err(Failure::new(failure)))
        });
        match began {
            Ok(()) => Ok(downloads),
            Err(failure) => {
                // What stopped them matters less than why they didn't begin.
                let _ = downloads.stop();
                Err(failure)
            }
        }
    }

    fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    fn failure(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stop(self) -> Outcome<()> {
        let failure = self.failure();
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Failure::new("the slow downloads panicked"))?;
        failure.map_or(Ok(()), |failure| Err(Failure::new(failure)))
    }
}

impl Shared {
    fn run(self: Arc<Self>, address: SocketAddr, target: &str, count: u32) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return self.fail(&error),
        };
        let request: Arc<str> = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n").into();
        runtime.block_on(async {
            let download = |number: u32| Arc::clone(&self).download(address, Arc::clone(&request), number, count);
            let mut running: JoinSet<()> = (0..count).map(download).collect();
            while running.join_next().await.is_some() {}
        });
    }

    fn fail(&self, error: &io::Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| error.to_string());
    }

    async fn download(self: Arc<Self>, address: SocketAddr, request: Arc<str>, number: u32, count: u32) {
        // Spread over the pace, so that they don't all read at once.
        tokio::time::sleep(PACE * number / count).await;
        if let Err(error) = self.read_slowly(address, &request).await {
            self.fail(&error);
        }
    }

    async fn read_slowly(&self, address: SocketAddr, request: &str) -> io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        SockRef::from(&socket).set_tcp_mss(SEGMENT_BYTES)?;
        let mut stream = socket.connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = [0; BYTES_PER_PACE];
        let mut first = true;
        while !self.stop.load(Ordering::Relaxed) {
            let read = stream.read(&mut buffer).await?;
            if first && !buffer.starts_with(b"HTTP/1.1 200 ") {
                return Err(io::Error::other("expected 200, got another status"));
            }
            if read == 0 {
                return Err(io::Error::other(format!("a download of {RANGED_BYTES} bytes ended early")));
            }
            self.begun.fetch_add(u32::from(std::mem::take(&mut first)), Ordering::Relaxed);
            self.bytes.fetch_add(read as u64, Ordering::Relaxed);
            ticks.tick().await;
        }
        Ok(())
    }
}

/// Of the checks beside the downloads.
const CONNECTIONS: u32 = 16;
const BYTES_PER_SECOND: usize = 64 << 10;
/// Four times a second: a slow line's bytes come in small portions.
const PACE: Duration = Duration::from_millis(250);
const BYTES_PER_PACE: usize = BYTES_PER_SECOND / 4;
const RECEIVE_BUFFER_BYTES: u32 = 32 << 10;
/// As over Ethernet. The loopback's segments of 64 KiB would have the kernel take megabytes from the server for each connection at once,
/// where a device's line makes it take some ten thousand bytes.
const SEGMENT_BYTES: u32 = 1_448;
/// Generous: a machine that is this slow shows it in the figures.
const BEGIN_MAX: Duration = Duration::from_secs(60);
