//! Power cuts, and disks that fail, under the engine with its real store.
//!
//! A child process works on an engine (`workload.rs`) while every change of a file, every sync, and every acknowledgement is recorded,
//! in order (`recorder.c`). Then, for many moments of that record, a folder is made as a disk could have it after a power cut at that
//! moment (`disk.rs`, which says what is assumed of a disk), opened, and compared with what had been acknowledged until then
//! (`promises.rs`). One of these folders is what the next child starts on.
//!
//! A child runs itself: this test binary, for the one test that does nothing otherwise. The recorder is made by the C compiler that
//! SQLite needs anyway, and lies over the GNU C library.
//!
//! `SLUICEGATE_POWER_CUTS_S=600` goes on for so many seconds, with another seed each time; `SLUICEGATE_POWER_CUTS_SEED=…` begins with
//! that seed. A failure names its seed, and keeps the record.

#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used, reason = "a test that meets what it doesn't expect should end there and then")]

mod disk;
mod ledger;
mod promises;
mod random;
mod workload;

use disk::{Disk, Kind, Record};
use ledger::Ledger;
use random::Random;
use sluicegate::model::Timestamp;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use workload::Part;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const ORGANIZATION: &str = "acme";
const CAP: u32 = 20;
/// Devices that one command puts.
const FLEET: usize = 40;

const CHILD: &str = "SLUICEGATE_POWER_CUTS_CHILD";
/// Recordings of each test, where no time is given.
const RECORDINGS: u64 = 2;
/// Power cuts in each recording.
const CUTS: usize = 25;
/// Far more than a child takes, which is seconds; one that still runs by then hangs.
const CHILD_MAX: Duration = Duration::from_secs(300);

#[test]
fn what_was_acknowledged_is_there_after_a_power_cut_at_any_moment() {
    repeat("power cuts", 1, |seed| {
        let mut random = Random::new(seed);
        let mut scene = Scene::new();
        for round in 0..2 {
            let part = Part { seed: random.next(), name: format!("r{round}"), steps: 24, dies: random.one_in(2), fault: None };
            scene.run(&part);
            scene.cut_often(&mut random);
        }
        scene.tally
    });
}

#[test]
fn what_was_acknowledged_is_there_after_a_disk_failed_and_then_a_power_cut() {
    repeat("failing disks", 2, |seed| {
        let mut random = Random::new(seed);
        let mut scene = Scene::new();
        for round in 0..2 {
            let (seed, name, dies) = (random.next(), format!("r{round}"), random.one_in(2));
            scene.run(&Part { seed, name, steps: 24, dies, fault: Some(fault(&mut random)) });
            if random.one_in(2) {
                // Started again without a power cut between: what the disk has lost can still be read.
                scene.run(&Part { seed: random.next(), name: format!("r{round}again"), steps: 16, dies: false, fault: None });
            }
            scene.cut_often(&mut random);
        }
        if scene.tally.faults == 0 {
            // All were meant for later than the parts went on. A first write there always is.
            let fault = Some("w 1 1 5".to_owned());
            scene.run(&Part { seed: random.next(), name: "first".to_owned(), steps: 16, dies: false, fault });
            scene.cut_often(&mut random);
        }
        assert!(scene.tally.faults > 0, "the disk was never made to fail");
        scene.tally
    });
}

/// The part of the tests above that is recorded.
#[test]
fn a_child_of_the_other_tests_does_its_part() {
    if let Ok(words) = std::env::var(CHILD) {
        let (root, words) = words.split_once(' ').expect("a folder and a part");
        workload::run(Path::new(root), words);
    }
}

/// As `recorder.c` takes it.
fn fault(random: &mut Random) -> String {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    let class = ['s', 's', 's', 'w', 'w', 'w', 't', 'n'][random.below(8)];
    // As often early as late.
    let number = 1 + random.next() % (1 << (1 + random.below(11)));
    let count = [1, 1, 2, 8, 1_000_000][random.below(5)];
    let error = if class == 's' || random.one_in(2) { EIO } else { ENOSPC };
    format!("{class} {number} {count} {error}")
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    recordings: u64,
    /// On a disk that works. Each has the creation of its main task acknowledged, if nothing else.
    sound_sessions: u64,
    operations: u64,
    acknowledged: u64,
    cuts: u64,
    /// Calls that were made to fail, syncs among them.
    faults: u64,
    failed_syncs: u64,
}

/// Runs a test for a few seeds, or for as long as was asked.
fn repeat(name: &str, salt: u64, run: impl Fn(u64) -> Tally) {
    let variable = |name| std::env::var(name).ok().map(|value: String| value.parse::<u64>().expect("a number"));
    let first = variable("SLUICEGATE_POWER_CUTS_SEED").unwrap_or(1_000 * salt);
    let until = variable("SLUICEGATE_POWER_CUTS_S").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut total = Tally::default();
    for seed in first.. {
        println!("{name}: seed {seed}");
        let Tally { recordings, sound_sessions, operations, acknowledged, cuts, faults, failed_syncs } = run(seed);
        assert!(
            acknowledged >= sound_sessions,
            "{acknowledged} acknowledgements in {sound_sessions} sessions on a disk that works"
        );
        total.recordings += recordings;
        total.sound_sessions += sound_sessions;
        total.operations += operations;
        total.acknowledged += acknowledged;
        total.cuts += cuts;
        total.faults += faults;
        total.failed_syncs += failed_syncs;
        let ends = until.map_or(seed + 1 >= first + RECORDINGS, |until| Instant::now() >= until);
        if ends {
            println!("{name}: {total:?}, seeds {first} to {seed}");
            return;
        }
    }
}

/// Until a child has become another program it has our open files, and so the locks on folders that we have given free.
static STARTING: RwLock<()> = RwLock::new(());

/// A folder that lives through power cuts.
struct Scene {
    /// What the child works on.
    folder: tempfile::TempDir,
    record: tempfile::TempDir,
    /// How the folder was before what is recorded.
    before: Disk,
    ledger: Ledger,
    tally: Tally,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(scratch()).unwrap();
        Self::on(folder, Ledger::default(), Tally::default())
    }

    fn on(folder: tempfile::TempDir, mut ledger: Ledger, tally: Tally) -> Self {
        // What was acknowledged before is in the ledger; the file begins anew.
        std::fs::write(folder.path().join(ledger::FILE), "").unwrap();
        // What was open when the power went has become something by now, and stays that.
        ledger.acknowledged = 0;
        let before = Disk::of(folder.path());
        Self { folder, record: tempfile::tempdir_in(scratch()).unwrap(), before, ledger, tally }
    }

    fn record_path(&self) -> PathBuf {
        self.record.path().join("record")
    }

    fn run(&mut self, part: &Part) {
        println!("  {part:?}");
        let root = self.folder.path();
        let said_path = self.record.path().join("said");
        let said = File::options().create(true).append(true).open(&said_path).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "a_child_of_the_other_tests_does_its_part", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{} {}", root.display(), part.words()))
            .env("LD_PRELOAD", recorder())
            .env("RECORD_FOLDER", root)
            .env("RECORD_TO", self.record_path())
            .env("RECORD_SPARED", root.join(ledger::FILE))
            .env("RECORD_SYNC_US", "100")
            .env_remove("RECORD_FAULT")
            .envs(part.fault.iter().map(|fault| ("RECORD_FAULT", fault)))
            .stdout(said.try_clone().unwrap())
            .stderr(said);
        let mut started = {
            let _alone = STARTING.write().unwrap_or_else(PoisonError::into_inner);
            child.spawn().expect("the child starts")
        };
        let end = end_of(&mut started);
        let said = || String::from_utf8_lossy(&std::fs::read(&said_path).unwrap()).into_owned();
        match end {
            Some(status) => assert!(status.success(), "the child failed ({status}): {}", said()),
            None => panic!("the child still ran after {} s and was killed: {}", CHILD_MAX.as_secs(), said()),
        }
        self.tally.recordings += 1;
        self.tally.sound_sessions += if part.fault.is_none() { workload::SESSIONS } else { 0 };
    }

    /// Cuts the power at many moments of the record. What the last cut leaves is the folder from then on.
    fn cut_often(&mut self, random: &mut Random) {
        let record = Record::read(&self.record_path());
        let mut moments: Vec<usize> = (0..CUTS).map(|_| moment(&record, random)).collect();
        moments.sort_unstable();
        let root = self.folder.path().to_str().unwrap().to_owned();
        let ledger_path = format!("{root}/{}", ledger::FILE);
        let mut kept = None;
        let mut done = 0;
        let mut moments = moments.into_iter().peekable();
        // Which of them the next child goes on with.
        let goes_on = random.below(CUTS);
        loop {
            while let Some(number) = moments.next_if(|moment| *moment == done) {
                let folder = tempfile::tempdir_in(scratch()).unwrap();
                let mut own = random.fork();
                let next = self.tally.cuts as usize % CUTS == goes_on;
                self.before.cut(folder.path(), &record, &mut own);
                if next {
                    let copy = tempfile::tempdir_in(scratch()).unwrap();
                    copy_folder(folder.path(), copy.path());
                    kept = Some((copy, self.ledger.clone()));
                }
                self.tally.cuts += 1;
                let (path, ledger) = (folder.path(), &self.ledger);
                let nobody_starts = STARTING.read().unwrap_or_else(PoisonError::into_inner);
                let checked = std::panic::catch_unwind(|| promises::check(path, ledger));
                drop(nobody_starts);
                if let Err(panic) = checked {
                    println!("a power cut at operation {number} of {} breaks a promise", record.operations.len());
                    std::panic::resume_unwind(panic);
                }
            }
            if done == record.operations.len() {
                break;
            }
            match record.operations[done].kind {
                Kind::Fault => self.tally.faults += 1,
                Kind::SyncFailed => self.tally.failed_syncs += 1,
                _ => {}
            }
            if let Some(line) = self.before.apply(done, &record, random, &ledger_path) {
                self.ledger.note(line);
            }
            done += 1;
        }
        self.before.compare(&record);
        self.tally.operations += done as u64;
        self.tally.acknowledged += self.ledger.acknowledged;
        let (folder, ledger) = kept.expect("one of the cuts was kept");
        *self = Self::on(folder, ledger, self.tally);
    }
}

impl Drop for Scene {
    /// A failure keeps the record, with what the child said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.record.disable_cleanup(true);
            println!("the record is kept: {}", self.record_path().display());
        }
    }
}

/// How a child ended; `None`: it had to be killed.
fn end_of(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + CHILD_MAX;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("the child is waited for") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("the child is killed");
    child.wait().expect("the child ends");
    None
}

/// Any; more often around a sync, where most is decided.
fn moment(record: &Record, random: &mut Random) -> usize {
    let any = random.below(record.operations.len() + 1);
    if random.one_in(2) {
        return any;
    }
    let is_sync = |at: &usize| matches!(record.operations[*at].kind, Kind::SyncBegin | Kind::SyncEnd | Kind::SyncFailed);
    let sync = (any..record.operations.len()).find(is_sync).unwrap_or(any);
    (sync + random.below(4)).saturating_sub(1).min(record.operations.len())
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Where folders are made: in memory, where the system has a place for that. Which disk lies under the simulated one doesn't matter.
fn scratch() -> &'static Path {
    let memory = Path::new("/dev/shm");
    static CHOSEN: OnceLock<PathBuf> = OnceLock::new();
    CHOSEN.get_or_init(|| if tempfile::tempdir_in(memory).is_ok() { memory.to_owned() } else { std::env::temp_dir() })
}

/// The library that records, made once in each process.
fn recorder() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power_cuts/recorder.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (library, own) = (folder.join("recorder.so"), folder.join(format!("recorder-{}.so", std::process::id())));
        // It may come with arguments, or behind another program.
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let mut words = compiler.split_whitespace();
        let made = Command::new(words.next().unwrap_or("cc"))
            .args(words)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-U_FORTIFY_SOURCE", "-pthread", "-o"])
            .args([&own, &source])
            .status();
        assert!(made.is_ok_and(|status| status.success()), "{compiler:?} makes the recorder");
        // Another process may be making it, too, and its children may be running with it.
        std::fs::rename(&own, &library).expect("the recorder is put in its place");
        library
    })
}
