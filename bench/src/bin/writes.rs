//! The write path on the real store: how groups follow the load, what many producers cost, and what reports wait for while the tables
//! are written, the log is folded and a backup is made.
//!
//! `cargo run --release -p sluicegate-bench --bin writes` prints three tables. Reports are durable when they are answered.

use clap::Parser;
use hdrhistogram::Histogram;
use sluicegate::model::*;
use sluicegate::store::{Group, SqliteArchive, SqliteStore, Store, StoreError};
use sluicegate::{
    Check, CheckRules, Decision, DeviceName, DeviceRef, Engine, Error, NewTask, Options, Pending, Report, Reported, TaskTarget,
};
use sluicegate_bench::{NOW, NullStore, ORGANIZATION};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures durable reports through the engine.
#[derive(Debug, Parser)]
#[command(name = "writes")]
struct Arguments {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Reports a second in the table of what they wait for.
    #[arg(long, default_value = "20000,100000", value_delimiter = ',')]
    rates: Vec<u64>,
    /// Where the folders are made; on a disk, or the syncs cost nothing.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// Only this table.
    #[arg(long)]
    only: Option<Table>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Table {
    Groups,
    Producers,
    Waits,
}

const DEVICES: usize = 20_000;

fn main() {
    let arguments = Arguments::parse();
    let run = Duration::from_secs(arguments.seconds);
    let wanted = |table| arguments.only.is_none_or(|only| only == table);
    if wanted(Table::Groups) {
        println!("{:>10} {:>12} {:>10} {:>12} {:>10} {:>10}", "in flight", "reports/s", "group", "commit ms", "p50 ms", "p99 ms");
        for in_flight in [1, 16, 64, 256, 1_000, 4_000, 16_000, 60_000] {
            let fleet = Fleet::running(&arguments.folder, Disk::Real);
            let measured = fleet.closed_loop(1, in_flight, run);
            measured.tell_groups(in_flight);
        }
    }
    if wanted(Table::Producers) {
        println!(
            "\n{:>10} {:>12} {:>10} {:>10} {:>10} {:>14} {:>14} {:>12}",
            "producers", "reports/s", "group", "p50 ms", "p99 ms", "CPU µs/report", "of the writer", "the tables'"
        );
        for producers in [1, 2, 4, 8, 16] {
            let fleet = Fleet::running(&arguments.folder, Disk::Real);
            fleet.closed_loop(producers, 8_000 / producers, run).tell_producers(producers);
        }
    }
    if wanted(Table::Waits) {
        println!(
            "\n{:<42} {:>10} {:>10} {:>8} {:>9} {:>9} {:>9} {:>9} {:>15}",
            "open loop", "asked/s", "done/s", "group", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "commit's max ms"
        );
        for rate in arguments.rates.iter().copied() {
            for (label, disk, backs_up) in [
                ("append and sync alone, no tables", Disk::AppendOnly, false),
                ("the store: tables written, log folded", Disk::Real, false),
                ("the same while backups are made", Disk::Real, true),
            ] {
                let fleet = Fleet::running(&arguments.folder, disk);
                fleet.open_loop(rate, run * 2, backs_up).tell_waits(label, rate);
            }
        }
    }
}

/// What groups are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Real,
    /// As many bytes appended to a file and synced: what a log could cost at best.
    AppendOnly,
}

/// What the store was asked for, beside the store.
#[derive(Debug, Default)]
struct Counts {
    groups: AtomicU64,
    commit_ns: AtomicU64,
    commit_ns_max: AtomicU64,
}

struct Counted<S> {
    store: S,
    counts: Arc<Counts>,
}

impl<S: Store> Store for Counted<S> {
    fn commit(&mut self, group: &Group) -> Result<(), StoreError> {
        let begun = Instant::now();
        let committed = self.store.commit(group);
        self.counts.groups.fetch_add(1, Ordering::Relaxed);
        let took_ns = begun.elapsed().as_nanos() as u64;
        self.counts.commit_ns.fetch_add(took_ns, Ordering::Relaxed);
        self.counts.commit_ns_max.fetch_max(took_ns, Ordering::Relaxed);
        committed
    }
}

struct AppendOnly(File);

impl Store for AppendOnly {
    fn commit(&mut self, group: &Group) -> Result<(), StoreError> {
        // About what a change of a report takes in the log.
        let bytes = vec![7; group.changes.len() * 100];
        self.0.write_all(&bytes).and_then(|()| self.0.sync_data()).expect("the disk takes it");
        Ok(())
    }
}

/// A fleet in which every device holds an offer.
struct Fleet {
    engine: Engine,
    upgrades: Vec<(DeviceName, UpgradeId)>,
    counts: Arc<Counts>,
    archive: Option<Arc<SqliteArchive>>,
    folder: tempfile::TempDir,
}

impl Fleet {
    fn running(within: &Path, disk: Disk) -> Self {
        let folder = tempfile::Builder::new().prefix("sluicegate-writes-").tempdir_in(within).expect("a temporary folder");
        let counts = Arc::new(Counts::default());
        let mut tables = None;
        let options = Options::new(folder.path());
        let engine = match disk {
            Disk::Real => Engine::with_store(options, |sink| {
                let (store, archive, opened) = SqliteStore::open(folder.path(), sink)?;
                tables = Some(Arc::clone(&archive));
                Ok((Counted { store, counts: Arc::clone(&counts) }, archive, opened))
            }),
            Disk::AppendOnly => Engine::with_store(options, |_| {
                let file = File::create(folder.path().join("log")).expect("the folder takes a file");
                let opened = sluicegate::store::Opened { store: 1, ..Default::default() };
                Ok((Counted { store: AppendOnly(file), counts: Arc::clone(&counts) }, Arc::new(NullStore), opened))
            }),
        };
        let engine = engine.expect("a fresh folder opens");
        let upgrades = offered(&engine);
        Self { engine, upgrades, counts, archive: tables, folder }
    }

    fn report(&self, turn: usize) -> Pending<Reported> {
        let (device, upgrade) = self.upgrades[turn % self.upgrades.len()].clone();
        // Pausing and going on again is a change every time, however many rounds it takes.
        let state = if (turn / self.upgrades.len()).is_multiple_of(2) { ReportedState::Downloading } else { ReportedState::Paused };
        self.engine.report(Report { device, upgrade, state, percent: None, detail: None, code: None }, NOW)
    }

    /// `producers` threads, each of which keeps `in_flight` reports waiting for the writer.
    fn closed_loop(&self, producers: usize, in_flight: usize, run: Duration) -> Measured {
        let begun = Begun::new(&self.counts);
        let turns = AtomicU64::new(0);
        let latency = Mutex::new(histogram());
        std::thread::scope(|scope| {
            for _ in 0..producers {
                scope.spawn(|| {
                    let mut own = histogram();
                    let mut waiting: VecDeque<(Instant, Pending<Reported>)> = VecDeque::with_capacity(in_flight);
                    while begun.at.elapsed() < run {
                        if waiting.len() == in_flight {
                            // Half of them at a time, so that the queue never runs dry while this thread wakes up.
                            for _ in 0..in_flight.div_ceil(2) {
                                answered(waiting.pop_front(), &mut own);
                            }
                        }
                        let turn = turns.fetch_add(1, Ordering::Relaxed) as usize;
                        waiting.push_back((Instant::now(), self.report(turn)));
                    }
                    while !waiting.is_empty() {
                        answered(waiting.pop_front(), &mut own);
                    }
                    latency.lock().unwrap_or_else(PoisonError::into_inner).add(own).expect("the same bounds");
                });
            }
        });
        begun.measured(&self.counts, latency.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reports come by the clock, whatever the engine does meanwhile; latencies count from the time each was meant to come at.
    fn open_loop(&self, per_s: u64, run: Duration, backs_up: bool) -> Measured {
        let begun = Begun::new(&self.counts);
        let done = AtomicBool::new(false);
        let (sender, receiver) = sync_channel::<(Instant, Pending<Reported>)>(1 << 20);
        let latency = std::thread::scope(|scope| {
            if backs_up {
                scope.spawn(|| self.back_up_until(&done));
            }
            let waiter = scope.spawn(move || {
                let mut own = histogram();
                while let Ok(one) = receiver.recv() {
                    answered(Some(one), &mut own);
                }
                own
            });
            let total = per_s * run.as_secs();
            let mut turn = 0;
            while turn < total {
                let due = (begun.at.elapsed().as_secs_f64() * per_s as f64) as u64;
                for turn in turn..due.min(total) {
                    let meant = begun.at + Duration::from_nanos(turn * 1_000_000_000 / per_s);
                    sender.send((meant, self.report(turn as usize))).expect("the waiter is there");
                }
                turn = due.min(total);
                std::thread::sleep(Duration::from_micros(200));
            }
            drop(sender);
            let latency = waiter.join().expect("the waiter counts");
            done.store(true, Ordering::Relaxed);
            latency
        });
        begun.measured(&self.counts, latency)
    }

    fn back_up_until(&self, done: &AtomicBool) {
        let Some(archive) = &self.archive else { return };
        let to = self.folder.path().join("backup.db");
        while !done.load(Ordering::Relaxed) {
            archive.backup(&to).expect("the tables can be copied");
            std::fs::remove_file(&to).expect("the copy is there");
        }
    }
}

fn offered(engine: &Engine) -> Vec<(DeviceName, UpgradeId)> {
    let artifact = Artifact { url: Some("http://files/image".into()), size: 1, md5: "0".into(), ..Artifact::default() };
    let target = TaskTarget::Artifact { version: "2".into(), artifact };
    let new = NewTask { start: true, ..NewTask::new(ORGANIZATION, "p", vec!["1".into()], target) };
    engine.create_task(new, true, NOW).wait().expect("a task without faults is created");
    let names: Vec<DeviceName> = (0..DEVICES)
        .map(|device| DeviceRef { organization: ORGANIZATION, product_id: "p", device_id: &format!("d{device}") }.to_owned())
        .collect();
    let ask = |name: &DeviceName| {
        let rules = CheckRules { register: true, ..CheckRules::default() };
        engine.decide(&Check { device: name.as_ref(), component: Component::MAIN, version: "1", rules }, NOW)
    };
    let answers: Vec<_> = names.iter().map(ask).collect();
    let upgrade = |(name, answer): (DeviceName, Pending<Decision>)| {
        let Ok(Decision::Offer(offer)) = answer.wait() else { panic!("every device is offered the task") };
        (name, offer.id.expect("an offer that is no preview has an id"))
    };
    names.into_iter().zip(answers).map(upgrade).collect()
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("constant bounds")
}

fn answered(one: Option<(Instant, Pending<Reported>)>, latency: &mut Histogram<u64>) {
    let (meant, answer) = one.expect("one is in flight");
    match answer.wait() {
        Ok(_) => latency.saturating_record(meant.elapsed().as_micros() as u64),
        // Told to come back, because the queue is full: shows as fewer done than asked.
        Err(Error::Overloaded) => {}
        Err(error) => panic!("a report without faults is taken: {error}"),
    }
}

/// How things stood when a measurement began.
struct Begun {
    at: Instant,
    groups: u64,
    commit_ns: u64,
    cpu: Duration,
    writer: Duration,
    tables: Duration,
}

impl Begun {
    fn new(counts: &Counts) -> Self {
        counts.commit_ns_max.store(0, Ordering::Relaxed);
        Self {
            groups: counts.groups.load(Ordering::Relaxed),
            commit_ns: counts.commit_ns.load(Ordering::Relaxed),
            cpu: cpu_of_process(),
            writer: cpu_of_thread("sluicegate-writ"),
            tables: cpu_of_thread("sluicegate-tabl"),
            at: Instant::now(),
        }
    }

    fn measured(&self, counts: &Counts, latency: Histogram<u64>) -> Measured {
        Measured {
            elapsed: self.at.elapsed(),
            groups: counts.groups.load(Ordering::Relaxed) - self.groups,
            commit: Duration::from_nanos(counts.commit_ns.load(Ordering::Relaxed) - self.commit_ns),
            commit_max: Duration::from_nanos(counts.commit_ns_max.load(Ordering::Relaxed)),
            cpu: cpu_of_process() - self.cpu,
            writer: cpu_of_thread("sluicegate-writ") - self.writer,
            tables: cpu_of_thread("sluicegate-tabl") - self.tables,
            latency,
        }
    }
}

struct Measured {
    elapsed: Duration,
    groups: u64,
    commit: Duration,
    commit_max: Duration,
    cpu: Duration,
    writer: Duration,
    tables: Duration,
    latency: Histogram<u64>,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.latency.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn group(&self) -> f64 {
        self.latency.len() as f64 / self.groups.max(1) as f64
    }

    fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1_000.0
    }

    fn us_each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.latency.len().max(1) as f64
    }

    fn tell_groups(&self, in_flight: usize) {
        let commit_ms = self.commit.as_secs_f64() * 1e3 / self.groups.max(1) as f64;
        println!(
            "{in_flight:>10} {:>12.0} {:>10.1} {commit_ms:>12.2} {:>10.2} {:>10.2}",
            self.rate(),
            self.group(),
            self.ms(0.5),
            self.ms(0.99)
        );
    }

    fn tell_producers(&self, producers: usize) {
        println!(
            "{producers:>10} {:>12.0} {:>10.1} {:>10.2} {:>10.2} {:>14.2} {:>14.2} {:>12.2}",
            self.rate(),
            self.group(),
            self.ms(0.5),
            self.ms(0.99),
            self.us_each(self.cpu),
            self.us_each(self.writer),
            self.us_each(self.tables)
        );
    }

    fn tell_waits(&self, label: &str, rate: u64) {
        println!(
            "{label:<42} {rate:>10} {:>10.0} {:>8.1} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>15.2}",
            self.rate(),
            self.group(),
            self.ms(0.5),
            self.ms(0.99),
            self.ms(0.999),
            self.latency.max() as f64 / 1_000.0,
            self.commit_max.as_secs_f64() * 1e3
        );
    }
}

fn cpu_of_process() -> Duration {
    cpu(Path::new("/proc/self/stat"))
}

/// Processor time of the threads with this name, of which the system keeps 15 characters.
fn cpu_of_thread(name: &str) -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten().map(|thread| thread.path());
    let is_it = |path: &PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name);
    threads.filter(is_it).map(|path| cpu(&path.join("stat"))).sum()
}

/// Reads proc(5)'s `stat`: user and system time are fields 14 and 15, counted from the first after the name in parentheses.
fn cpu(stat: &Path) -> Duration {
    let text = std::fs::read_to_string(stat).unwrap_or_default();
    let ticks: u64 = text
        .rsplit_once(')')
        .map_or(0, |(_, fields)| fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum());
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second().max(1))
}
