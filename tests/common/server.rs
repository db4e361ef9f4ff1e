//! The program under test, as a process with a folder of its own.

use super::PATIENCE;
use super::http::Client;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tempfile::TempDir;

pub(crate) const ADMIN_TOKEN: &str = "the-administrator-of-these-tests";

/// A command of the program, untouched by the environment of whoever runs the tests.
#[must_use]
pub(crate) fn sluicegate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SLUICEGATE_") {
            command.env_remove(name);
        }
    }
    command.env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    command
}

/// Runs a command to its end; a command that should end and doesn't is killed, and fails the test.
#[must_use]
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(output) => output,
        Err(_) => {
            let _ = kill_process(pid, Signal::KILL);
            panic!("{command:?} didn't end by itself within {} s", PATIENCE.as_secs());
        }
    }
}

/// How a server is to be started.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    args: Vec<String>,
    config: Option<String>,
    shell: Option<String>,
}

impl Setup {
    #[must_use]
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// What a shell does before it becomes the server: its limits, its signals.
    #[must_use]
    pub(crate) fn after(mut self, shell: &str) -> Self {
        self.shell = Some(format!("{shell}; exec \"$0\" \"$@\""));
        self
    }

    /// The text of the configuration file.
    #[must_use]
    pub(crate) fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    #[must_use]
    #[track_caller]
    pub(crate) fn start(self) -> TestServer {
        let folder = TempDir::with_prefix("sluicegate-test-").unwrap();
        if let Some(text) = &self.config {
            std::fs::write(folder.path().join("sluicegate.toml"), text).unwrap();
        }
        let process = Process::start(folder.path(), &self);
        TestServer { folder, setup: self, process: Some(process) }
    }
}

/// A running server. Killed with the value; its folder goes too.
#[derive(Debug)]
pub(crate) struct TestServer {
    folder: TempDir,
    setup: Setup,
    process: Option<Process>,
}

impl TestServer {
    #[must_use]
    #[track_caller]
    pub(crate) fn start() -> Self {
        Setup::default().start()
    }

    pub(crate) fn setup() -> Setup {
        Setup::default()
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the server runs")
    }

    /// Where it listens for `http`, `https` or `mqtt`, as its ready line says.
    #[track_caller]
    pub(crate) fn address(&self, protocol: &str) -> String {
        let ready = &self.process().ready;
        ready.get(protocol).unwrap_or_else(|| panic!("the ready line names no {protocol}: {ready:?}")).clone()
    }

    /// A client without a token.
    #[must_use]
    pub(crate) fn anonymous(&self) -> Client {
        Client::new(self.address("http"))
    }

    #[must_use]
    pub(crate) fn admin(&self) -> Client {
        self.anonymous().with_token(ADMIN_TOKEN)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address("http"))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        data_of(self.folder.path())
    }

    /// A figure of its metrics, by its name and labels; 0 where it isn't there yet.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        // With a token, so that it is told also where more is asked than the machine does.
        let metrics = self.admin().get("/metrics").expect(200).text();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// SIGKILL, at whatever it is doing; returns when it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.child.kill().unwrap();
            process.child.wait().unwrap();
        }
    }

    /// SIGTERM, and its exit status.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_end()
    }

    /// Its exit status, once something has told it to end.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the server runs");
        let since = Instant::now();
        loop {
            if let Some(status) = process.child.try_wait().unwrap() {
                return status;
            }
            assert!(since.elapsed() < PATIENCE, "the server still ran after {} s: {}", PATIENCE.as_secs(), process.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// For who can't hold the server while it dies.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.process().child)
    }

    /// Starts it again on the same folder, after `kill` or `stop`. It gets another port.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        self.process = Some(Process::start(self.folder.path(), &self.setup));
    }

    /// The same where it may refuse to start: what it said then.
    pub(crate) fn try_start_again(&mut self) -> Result<(), String> {
        assert!(self.process.is_none(), "the server runs already");
        self.process = Some(Process::try_start(self.folder.path(), &self.setup)?);
        Ok(())
    }

    /// As on a better machine.
    #[must_use]
    pub(crate) fn without_shell(mut self) -> Self {
        self.setup.shell = None;
        self
    }

    #[track_caller]
    pub(crate) fn kill_and_start_again(&mut self) {
        self.kill();
        self.start_again();
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.process().log()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(process) = &self.process
        {
            eprintln!("--- the server's log ---\n{}--- end of the server's log ---", process.log());
        }
        self.kill();
    }
}

#[derive(Debug)]
struct Process {
    child: Child,
    ready: HashMap<String, String>,
    log: Arc<Mutex<String>>,
}

impl Process {
    #[track_caller]
    fn start(folder: &Path, setup: &Setup) -> Self {
        Self::try_start(folder, setup)
            .unwrap_or_else(|log| panic!("the server ended instead of printing `ready …`; its log:\n{log}"))
    }

    /// `Err`: it ended, and what it said.
    #[track_caller]
    fn try_start(folder: &Path, setup: &Setup) -> Result<Self, String> {
        let mut command = sluicegate();
        if let Some(shell) = &setup.shell {
            let program = command.get_program().to_owned();
            let mut wrapped = Command::new("sh");
            wrapped.args(["-c", shell]).arg(program).stdin(Stdio::null());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => wrapped.env(name, value),
                    None => wrapped.env_remove(name),
                };
            }
            command = wrapped;
        }
        command.arg("serve").arg("--data").arg(data_of(folder)).args(["--listen", "127.0.0.1:0"]);
        if setup.config.is_some() {
            command.arg("--config").arg(folder.join("sluicegate.toml"));
        }
        command.args(&setup.args).env("SLUICEGATE_ADMIN_TOKEN", ADMIN_TOKEN);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = collect(child.stderr.take().unwrap());
        let lines = lines_of(child.stdout.take().unwrap());
        let mut process = Self { child, ready: HashMap::new(), log };
        let since = Instant::now();
        while process.ready.is_empty() {
            match lines.recv_timeout(PATIENCE.saturating_sub(since.elapsed())) {
                Ok(line) => process.ready = parse_ready(&line).unwrap_or_default(),
                Err(RecvTimeoutError::Timeout) => {
                    let _ = process.child.kill();
                    panic!("the server said nothing in time instead of printing `ready …`; its log:\n{}", process.log());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    process.child.wait().unwrap();
                    return Err(process.log());
                }
            }
        }
        Ok(process)
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

fn data_of(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// `ready http=… https=…` as a map.
pub(crate) fn parse_ready(line: &str) -> Option<HashMap<String, String>> {
    let words = line.strip_prefix("ready ")?.split_whitespace();
    words.map(|word| word.split_once('=').map(|(protocol, address)| (protocol.to_owned(), address.to_owned()))).collect()
}

/// Reads everything in the background, so that the writer never blocks.
fn collect(stream: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let collected = text.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut text = collected.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    text
}

/// The lines as they come; ends when the writer does.
pub(crate) fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Nobody listens any more: read on all the same, the pipe must not fill.
            let _ = sender.send(line);
        }
    });
    receiver
}
