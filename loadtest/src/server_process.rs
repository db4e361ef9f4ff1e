//! The real server, run as a child process on a folder of its own.
//!
//! Life cycle: 1. `find_binary`   2. `start` (returns when it is ready)   3. perhaps `kill` and `start` again   4. `stop`, `verify`.

use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Where the server's program and its data are, across restarts.
#[derive(Clone, Debug)]
pub(crate) struct ServerHome {
    pub(crate) binary: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) admin_token: String,
    /// Of the server that runs, or ran last; 0 before the first.
    pub(crate) pid: Arc<AtomicU32>,
    /// What `serve` is told beside addresses and folder.
    pub(crate) arguments: Vec<OsString>,
}

/// Where a server takes connections: as it is told, with port 0 for a free one, or as it said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) http: String,
    /// As it said; asked for by [`ServerHome::arguments`].
    pub(crate) https: Option<String>,
    /// Its own MQTT listener.
    pub(crate) mqtt: Option<String>,
    /// The URL of a broker that it shares with its devices.
    pub(crate) broker: Option<String>,
}

impl Addresses {
    /// Free ports. With `gateways`, and no broker to meet them at, also one for MQTT.
    pub(crate) fn free(gateways: bool, broker: Option<String>) -> Self {
        let free = || "127.0.0.1:0".to_owned();
        Self { http: free(), https: None, mqtt: (gateways && broker.is_none()).then(free), broker }
    }

    /// Ports that a restart can have again.
    ///
    /// A port that the system picks lies where it also picks the ports of outgoing connections: while the server is down, one of the
    /// fleet's many attempts to reach it could be given the server's own port, and keep it. Ports below that range are safe.
    pub(crate) fn lasting(self) -> Result<Self, String> {
        let mut port = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap_or_default();
        let mut next = || {
            // Somebody may listen on it already.
            loop {
                let own = port;
                port = port.checked_add(1).ok_or("no free port above 20000")?;
                if std::net::TcpListener::bind(("127.0.0.1", own)).is_ok() {
                    return Ok::<_, String>(format!("127.0.0.1:{own}"));
                }
            }
        };
        Ok(Self { http: next()?, https: None, mqtt: self.mqtt.map(|_| next()).transpose()?, broker: self.broker })
    }

    /// Where the server says it takes connections; `None` where the line says nothing of the kind.
    fn as_said(&self, line: &str) -> Option<Self> {
        let said = line.strip_prefix("ready ")?;
        let address = |kind: &str| said.split_whitespace().find_map(|word| word.strip_prefix(kind)).map(str::to_owned);
        Some(Self { http: address("http=")?, https: address("https="), mqtt: address("mqtt="), broker: self.broker.clone() })
    }
}

impl ServerHome {
    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// Checks every row and every image of the stopped server's folder.
    pub(crate) async fn verify(&self) -> Result<(), String> {
        let output = Command::new(&self.binary).arg("verify").arg("--data").arg(self.data()).output().await;
        let output = output.map_err(|error| format!("`sluicegate verify` didn't start: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(format!("`sluicegate verify` found the data damaged ({}): {}", output.status, String::from_utf8_lossy(&said).trim()))
    }

    /// The last lines that the server logged, for a message about its end.
    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

#[derive(Debug)]
pub(crate) struct ServerProcess {
    home: ServerHome,
    child: Child,
    /// As it said.
    pub(crate) addresses: Addresses,
}

impl ServerProcess {
    /// Starts the server and kills it (SIGKILL) so long after, wherever it is by then.
    pub(crate) async fn start_and_kill(home: &ServerHome, addresses: &Addresses, after: Duration) -> Result<(), String> {
        let mut child = Self::spawn(home, addresses)?;
        tokio::time::sleep(after).await;
        kill(&mut child, home).await
    }

    fn spawn(home: &ServerHome, addresses: &Addresses) -> Result<Child, String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(home.log())
            .map_err(|error| format!("{}: {error}", home.log().display()))?;
        Command::new(&home.binary)
            .args(["serve", "--listen", &addresses.http, "--data"])
            .arg(home.data())
            .args(addresses.mqtt.iter().flat_map(|address| ["--mqtt-listen", address]))
            .args(addresses.broker.iter().flat_map(|url| ["--mqtt-url", url]))
            .args(&home.arguments)
            .env("SLUICEGATE_ADMIN_TOKEN", &home.admin_token)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{} didn't start: {error}", home.binary.display()))
    }

    /// Starts the server on `addresses` and waits for its word that it takes connections.
    pub(crate) async fn start(home: &ServerHome, addresses: &Addresses) -> Result<Self, String> {
        let mut child = Self::spawn(home, addresses)?;
        let stdout = child.stdout.take().ok_or("the server has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let said = tokio::time::timeout(READY_MAX, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(said) = addresses.as_said(&line) {
                    return Some(said);
                }
            }
            None
        });
        let Ok(Some(said)) = said.await else {
            return Err(format!("the server never said `ready http=…`; its log ends with:\n{}", home.log_tail()));
        };
        if addresses.mqtt.is_some() && said.mqtt.is_none() {
            return Err(format!("the server didn't say where it takes MQTT; its log ends with:\n{}", home.log_tail()));
        }
        home.pid.store(child.id().unwrap_or_default(), Ordering::Relaxed);
        // Whatever else it prints is read and dropped, so that it never blocks on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { home: home.clone(), child, addresses: said })
    }

    /// SIGKILL: no chance to finish anything.
    pub(crate) async fn kill(mut self) -> Result<(), String> {
        kill(&mut self.child, &self.home).await
    }

    /// SIGTERM, and an orderly end.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        let pid =
            self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or("the server had ended before it was stopped")?;
        kill_process(pid, Signal::TERM).map_err(|error| format!("the server could not be told to stop: {error}"))?;
        match tokio::time::timeout(STOP_MAX, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                Err(format!("the server ended with {status} on SIGTERM; its log ends with:\n{}", self.home.log_tail()))
            }
            Ok(Err(error)) => Err(format!("waiting for the server's end: {error}")),
            Err(_) => Err(format!("the server still ran {} s after SIGTERM", STOP_MAX.as_secs())),
        }
    }
}

/// SIGKILL to a server that runs. One that has ended by itself was not killed: something is wrong with it.
async fn kill(child: &mut Child, home: &ServerHome) -> Result<(), String> {
    let ended = child.try_wait().map_err(|error| format!("whether the server runs is unknown: {error}"))?;
    if let Some(status) = ended {
        return Err(format!(
            "the server ended by itself, with {status}, before it was killed; its log ends with:\n{}",
            home.log_tail()
        ));
    }
    child.kill().await.map_err(|error| format!("the server could not be killed: {error}"))
}

/// The server's program: beside this one, built first where cargo runs us.
///
/// Under cargo the build is always asked for, since a stale server beside a fresh load test would prove nothing; it costs nothing
/// where all is up to date.
pub(crate) async fn find_binary() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("the path of this program is unknown: {error}"))?;
    let beside = own.parent().unwrap_or(Path::new(".")).join(format!("sluicegate{}", std::env::consts::EXE_SUFFIX));
    if let (Some(cargo), Some(manifest_folder)) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR")) {
        build(Path::new(&cargo), Path::new(&manifest_folder), &own).await?;
    }
    if beside.is_file() {
        return Ok(beside);
    }
    Err(format!(
        "no server at {}; build it with `cargo build --release -p sluicegate-server`, or name a running one by --url",
        beside.display()
    ))
}

async fn build(cargo: &Path, manifest_folder: &Path, own: &Path) -> Result<(), String> {
    let profile_folder = own.parent().unwrap_or(Path::new("."));
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "-p", "sluicegate-server"]).current_dir(manifest_folder).stdout(Stdio::null());
    if profile_folder.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    if let Some(target_folder) = profile_folder.parent() {
        command.arg("--target-dir").arg(target_folder);
    }
    match command.status().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`cargo build -p sluicegate-server` ended with {status}; mend the server first")),
        Err(error) => Err(format!("{} didn't start: {error}", cargo.display())),
    }
}

/// Far more than a start takes, with recovery after a kill.
const READY_MAX: Duration = Duration::from_secs(60);
/// More than the server's own bound on finishing what is in flight.
const STOP_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_read_from_the_ready_line_alone() {
        let read = |line: &str| Addresses::default().as_said(line).map(|said| (said.http, said.mqtt));
        assert_eq!(read("ready http=127.0.0.1:8080 https=127.0.0.1:8443"), Some(("127.0.0.1:8080".into(), None)));
        assert_eq!(read("ready mqtt=127.0.0.1:1883 http=[::1]:80"), Some(("[::1]:80".into(), Some("127.0.0.1:1883".into()))));
        assert_eq!(read("administrator's token: http=nonsense"), None);
    }

    #[tokio::test]
    async fn a_server_that_ended_by_itself_was_not_killed() {
        let folder = tempfile::tempdir().unwrap();
        let home = ServerHome {
            binary: "false".into(),
            folder: folder.path().to_owned(),
            admin_token: String::new(),
            pid: Arc::default(),
            arguments: Vec::new(),
        };
        let mut child = ServerProcess::spawn(&home, &Addresses::free(false, None)).unwrap();
        child.wait().await.unwrap();
        assert!(kill(&mut child, &home).await.is_err_and(|message| message.contains("ended by itself")));
    }

    #[test]
    fn only_gateways_without_a_broker_need_a_listener() {
        let broker = || Some("mqtt://127.0.0.1:1883".to_owned());
        assert_eq!(Addresses::free(false, None).mqtt, None);
        assert_eq!(Addresses::free(true, broker()), Addresses { broker: broker(), ..Addresses::free(false, None) });
        let lasting = Addresses::free(true, None).lasting().unwrap();
        assert!(lasting.mqtt.is_some_and(|mqtt| mqtt != lasting.http && !mqtt.ends_with(":0")));
    }
}
