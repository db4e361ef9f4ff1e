//! The machine under both servers: what it is, and which of its processors does what.

use crate::failure::{Context, Failure, Outcome};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// What a figure's reader wants to know of where it comes from.
pub(crate) fn description(sluicegate: &Path) -> Outcome<Vec<String>> {
    let kernel = rustix::system::uname();
    Ok(vec![
        format!("processor: {}, {} of them", processor_name(), processors()),
        format!(
            "kernel: {} {}, TCP by {}",
            kernel.sysname().to_string_lossy(),
            kernel.release().to_string_lossy(),
            std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default().trim()
        ),
        first_line(Command::new(sluicegate).arg("--version"))?,
        first_line(Command::new("nginx").arg("-v"))?,
        first_line(Command::new("wrk").arg("-v"))?.replace(" Copyright (C) 2012 Will Glozer", ""),
    ])
}

/// Runs the calling thread, and what it starts from now on, on `processor` alone.
pub(crate) fn pin(processor: usize) -> Outcome<()> {
    // The set of the system call is of fixed size; beyond it `set` would panic.
    if processor >= CpuSet::MAX_CPU {
        return Err(Failure::new(format!("expected a processor below {}, got {processor}", CpuSet::MAX_CPU)));
    }
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set)
        .context(|| format!("processor {processor} can't be used; name others by --server-processor and --load-processor"))
}

/// Each connection is an open file here and in the server, which inherits the bound.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Refused at worst; then the connection that is one too many says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// What two processors do while something is measured, whoever they do it for: what the kernel sends in the name of nobody, from a
/// timer or upon an acknowledgement, is in no process's account.
#[derive(Debug)]
pub(crate) struct Machine {
    processors: [usize; 2],
    began: Instant,
    idle_ns: u64,
}

impl Machine {
    pub(crate) fn watch(processors: [usize; 2]) -> Outcome<Self> {
        Ok(Self { processors, began: Instant::now(), idle_ns: idle_ns(processors)? })
    }

    /// Nanoseconds that the two were not idle, together.
    pub(crate) fn busy_ns(&self) -> Outcome<f64> {
        let idle_ns = idle_ns(self.processors)?.saturating_sub(self.idle_ns);
        let elapsed_ns = self.began.elapsed().as_nanos() as f64 * self.processors.len() as f64;
        Ok((elapsed_ns - idle_ns as f64).max(0.0))
    }
}

fn idle_ns(processors: [usize; 2]) -> Outcome<u64> {
    const PATH: &str = "/proc/stat";
    let text = std::fs::read_to_string(PATH).context(|| format!("{PATH} can't be read"))?;
    let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let of = |processor: usize| {
        let mut words = text.lines().find_map(|line| line.strip_prefix(&format!("cpu{processor} ")))?.split_whitespace().skip(3);
        // Waiting for a disk is idling, too.
        let mut next = || words.next()?.parse::<u64>().ok();
        Some(next()? + next()?)
    };
    let sum = processors.into_iter().map(of).sum::<Option<u64>>();
    Ok(sum.context(|| format!("{PATH} doesn't say how idle the processors {processors:?} are"))? * tick_ns)
}

/// How busy the machine is: the mean number of running threads over the last minute.
pub(crate) fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// Refuses a disk that would be full in the middle of the run.
pub(crate) fn expect_room(folder: &Path, bytes: u64) -> Outcome<()> {
    let disk = rustix::fs::statvfs(folder).context(|| format!("the room at {} is unknown", folder.display()))?;
    let free = disk.f_bavail * disk.f_frsize;
    if free < bytes + RESERVE_BYTES {
        return Err(Failure::new(format!(
            "expected {} MiB free at {}, got {}; name another --folder, or fewer --sizes",
            (bytes + RESERVE_BYTES) >> 20,
            folder.display(),
            free >> 20
        )));
    }
    Ok(())
}

/// For the server's tables and logs.
const RESERVE_BYTES: u64 = 256 << 20;

fn processors() -> usize {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().filter(|line| line.starts_with("processor")).count()
}

fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // Arm has no `model name`.
    let name = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// What a program says first, on whichever output.
fn first_line(command: &mut Command) -> Outcome<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().context(|| format!("{name} didn't start; bench/compare installs or builds it"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok(said.lines().next().unwrap_or(&name).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::sched_getaffinity;

    #[test]
    fn work_shows_whoever_does_it() {
        let usable = sched_getaffinity(None).unwrap();
        let processor = (0..CpuSet::MAX_CPU).find(|one| usable.is_set(*one)).unwrap();
        let machine = Machine::watch([processor, processor]).unwrap();
        // On a thread of its own: the one that runs the tests stays where it was.
        let work = std::thread::spawn(move || {
            pin(processor).unwrap();
            let began = Instant::now();
            while began.elapsed() < std::time::Duration::from_millis(200) {
                std::hint::spin_loop();
            }
        });
        work.join().unwrap();
        // Counted twice, as told; the kernel's account is in ticks.
        assert!(machine.busy_ns().unwrap() > 2e8, "{:?}", machine.busy_ns());
    }
}
