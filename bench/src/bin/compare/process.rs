//! The programs that are started: each on its processor, and none of them outlives this one.
//!
//! A child ends in three ways: 1. its `Running` is dropped   2. this program is told to stop, which unwinds and drops it   3. this
//! program is killed, upon which the kernel sends the child the signal that `launch` asked for.

use crate::failure::{Context, Failure, Outcome};
use crate::machine;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Set by a signal; whatever waits looks at it.
pub(crate) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Fails once this program was told to stop.
pub(crate) fn go_on() -> Outcome<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Failure::new("interrupted; everything that ran was stopped")) } else { Ok(()) }
}

/// Waits for `done`, for at most `patience`.
pub(crate) fn wait_until(patience: Duration, what: &str, mut done: impl FnMut() -> Outcome<bool>) -> Outcome<()> {
    let began = Instant::now();
    while !done()? {
        go_on()?;
        if began.elapsed() > patience {
            return Err(Failure::new(format!("{what} did not come about in {} s", patience.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A child that ends with this value.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    /// It has children of its own, which only it can end.
    gently: bool,
}

impl Running {
    /// Starts `program` on `processor`; its standard error goes to the file `log`.
    pub(crate) fn start(processor: usize, gently: bool, program: &mut Command, log: &Path) -> Outcome<Self> {
        let name = program.get_program().to_owned();
        let own = std::env::current_exe().context(|| "the path of this program is unknown".to_owned())?;
        let log = File::create(log).context(|| format!("{} can't be written", log.display()))?;
        let mut launch = Command::new(own);
        launch.arg("launch").args(gently.then_some("--gently")).arg(processor.to_string()).arg("--").arg(&name);
        launch.args(program.get_args()).envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let child = launch.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
        Ok(Self { child: child.context(|| format!("{} didn't start", name.display()))?, gently })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The first line that it prints and that begins with `beginning`.
    pub(crate) fn line(&mut self, beginning: &str) -> Outcome<String> {
        let stdout = self.child.stdout.take().context(|| "its output was taken already".to_owned())?;
        let mut lines = BufReader::new(stdout).lines();
        let found = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with(beginning));
        // Whatever else it prints is read and dropped, so that it never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        found.context(|| format!("expected a line that begins with {beginning:?}, got none"))
    }

    /// Fails if it has ended by itself.
    pub(crate) fn expect_alive(&mut self, name: &str, log: &Path) -> Outcome<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            ended => Err(Failure::new(format!("{name} ended ({ended:?}); it said:\n{}", tail(log)))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        if self.gently && kill_process(pid, Signal::TERM).is_ok() {
            let began = Instant::now();
            while began.elapsed() < STOP_MAX && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // Both fail where it has ended, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Becomes `program`, on `processor` alone, ending when whoever started this ends.
pub(crate) fn launch(processor: usize, gently: bool, program: &[String]) -> Failure {
    let signal = if gently { Signal::TERM } else { Signal::KILL };
    if let Err(error) = set_parent_process_death_signal(Some(signal)) {
        return Failure::new(format!("the end of the parent can't be asked for: {error}"));
    }
    if let Err(failure) = machine::pin(processor) {
        return failure;
    }
    let [name, arguments @ ..] = program else { return Failure::new("expected a program to launch, got none") };
    Failure::new(format!("{name} didn't start: {}", Command::new(name).args(arguments).exec()))
}

/// What a log says last.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// The processes that `parent` started.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| parent_of(*id) == Some(parent)).collect()
}

fn parent_of(id: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything; after it come the state and the parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The kernel's account of a process's processor time, thread by thread.
#[derive(Clone, Debug)]
pub(crate) struct ProcessorTime(BTreeMap<String, u64>);

impl ProcessorTime {
    pub(crate) fn of(process: u32) -> Outcome<Self> {
        let folder = format!("/proc/{process}/task");
        let threads = std::fs::read_dir(&folder).context(|| format!("{folder}: a server has ended while it was measured"))?;
        let mut times = BTreeMap::new();
        for thread in threads.flatten() {
            let path = thread.path().join("schedstat");
            // A thread may end between the listing and the reading.
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
            times.insert(
                thread.file_name().to_string_lossy().into_owned(),
                first.context(|| format!("no time in {}", path.display()))?,
            );
        }
        if times.is_empty() {
            return Err(Failure::new(format!("{folder} has no schedstat; a kernel with CONFIG_SCHED_INFO is needed")));
        }
        Ok(Self(times))
    }

    /// Nanoseconds since `before`. What a thread that has ended meanwhile did since is lost; neither server has such on its hot path.
    pub(crate) fn since(&self, before: &Self) -> u64 {
        self.0.iter().map(|(thread, time)| time.saturating_sub(before.0.get(thread).copied().unwrap_or_default())).sum()
    }
}

/// More than nginx takes to end its workers.
const STOP_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_shows_in_the_account() {
        let before = ProcessorTime::of(std::process::id()).unwrap();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        assert!(ProcessorTime::of(std::process::id()).unwrap().since(&before) > 1_000_000);
    }
}
