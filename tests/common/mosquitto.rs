//! A real broker: Mosquitto, as a process with a port and a folder of its own.

use super::wait_until;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fmt::Write as _;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::TempDir;

/// How it is to be started. Unless said otherwise anybody may connect, say and hear everything.
#[must_use]
#[derive(Debug, Default)]
pub(crate) struct MosquittoSetup {
    users: Vec<(String, String)>,
    may: Option<String>,
    tls: bool,
    more: String,
}

impl MosquittoSetup {
    /// Only who is named may connect.
    pub(crate) fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Who may say and hear what, as the lines of its file of permissions.
    pub(crate) fn may(mut self, lines: &str) -> Self {
        self.may = Some(lines.to_owned());
        self
    }

    /// A second port takes TLS, with a certificate for `localhost` and `127.0.0.1` that [`Mosquitto::authority`] has signed.
    pub(crate) fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Lines of its configuration.
    pub(crate) fn more(mut self, lines: &str) -> Self {
        self.more.push_str(lines);
        self.more.push('\n');
        self
    }

    #[must_use]
    #[track_caller]
    pub(crate) fn start(self) -> Mosquitto {
        let folder = TempDir::with_prefix("sluicegate-broker-").unwrap();
        let mut broker = Mosquitto { port: 0, tls_port: self.tls.then_some(0), folder, setup: self, child: None };
        if broker.setup.tls {
            broker.sign();
        }
        broker.write_passwords();
        // Another program may take a port between the look at it and the start.
        for _ in 0..10 {
            broker.port = free_port();
            broker.tls_port = broker.tls_port.map(|_| free_port());
            broker.write_configuration();
            if broker.try_start() {
                return broker;
            }
        }
        panic!("mosquitto doesn't start: {}", broker.log());
    }
}

/// A running broker, or one that was killed. It ends with the value; its folder goes too.
#[derive(Debug)]
pub(crate) struct Mosquitto {
    port: u16,
    tls_port: Option<u16>,
    folder: TempDir,
    setup: MosquittoSetup,
    child: Option<Child>,
}

impl Mosquitto {
    #[must_use]
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::setup().start()
    }

    pub(crate) fn setup() -> MosquittoSetup {
        MosquittoSetup::default()
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://{}", self.address())
    }

    pub(crate) fn url_of(&self, user: &str, password: &str) -> String {
        format!("mqtt://{user}:{password}@{}", self.address())
    }

    pub(crate) fn tls_url(&self, host: &str) -> String {
        format!("mqtts://{host}:{}", self.tls_port.expect("it takes TLS"))
    }

    /// Who signed its certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// SIGKILL, at whatever it is doing; returns when it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// On the same port and folder, after `kill`: it knows the sessions and what it kept for them.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "the broker runs already");
        assert!(self.try_start(), "mosquitto doesn't start again: {}", self.log());
    }

    /// Lets in whoever is named now, after the next start.
    pub(crate) fn set_users(&mut self, users: &[(&str, &str)]) {
        self.setup.users = users.iter().map(|(name, password)| ((*name).to_owned(), (*password).to_owned())).collect();
        self.write_passwords();
    }

    /// `mosquitto_sub` with a session that lasts under this name; each payload is a line on its standard output.
    #[track_caller]
    pub(crate) fn subscriber(&self, client_id: &str, filter: &str) -> Command {
        let mut command = Command::new(program("mosquitto_sub"));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-i", client_id, "-c", "-q", "1", "-t", filter, "-F", "%p"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// A message that it keeps, for whoever subscribes later.
    #[track_caller]
    pub(crate) fn publish_retained(&self, topic: &str, message: &str) {
        let mut command = Command::new(program("mosquitto_pub"));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-q", "1", "-r", "-t", topic, "-m", message]);
        let status = command.stdin(Stdio::null()).status().unwrap();
        assert!(status.success(), "mosquitto_pub: {status}");
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write_configuration(&self) {
        // Whoever starts it keeps its rights, and so can write where the test can.
        let mut text = format!("user root\npersistence true\npersistence_location {}/\n", self.folder.path().display());
        text.push_str("autosave_on_changes true\nautosave_interval 1\nlog_dest stderr\nlog_type all\nconnection_messages true\n");
        if self.setup.users.is_empty() {
            text.push_str("allow_anonymous true\n");
        } else {
            let _ = writeln!(text, "allow_anonymous false\npassword_file {}", self.shown("passwords"));
        }
        if let Some(lines) = &self.setup.may {
            std::fs::write(self.path("permissions"), lines).unwrap();
            close_to_others(&self.path("permissions"));
            let _ = writeln!(text, "acl_file {}", self.shown("permissions"));
        }
        text.push_str(&self.setup.more);
        let _ = writeln!(text, "listener {} 127.0.0.1", self.port);
        if let Some(port) = self.tls_port {
            let (certificate, key) = (self.shown("broker.pem"), self.shown("broker.key"));
            let _ = writeln!(text, "listener {port} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}");
        }
        std::fs::write(self.path("mosquitto.conf"), text).unwrap();
    }

    fn write_passwords(&self) {
        if self.setup.users.is_empty() {
            return;
        }
        let path = self.path("passwords");
        let text: String = self.setup.users.iter().map(|(name, password)| format!("{name}:{password}\n")).collect();
        std::fs::write(&path, text).unwrap();
        close_to_others(&path);
        let hashed = Command::new(program("mosquitto_passwd")).arg("-U").arg(&path).status().unwrap();
        assert!(hashed.success(), "mosquitto_passwd: {hashed}");
    }

    /// A new authority, and a certificate of its for the broker.
    fn sign(&self) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        for (name, text) in [("ca.pem", issuer.pem()), ("broker.pem", certificate.pem()), ("broker.key", key.serialize_pem())] {
            std::fs::write(self.path(name), text).unwrap();
        }
    }

    /// Whether it runs and accepts connections now; not where it has ended instead, as where its port is taken.
    #[track_caller]
    fn try_start(&mut self) -> bool {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(program("mosquitto"));
        command.arg("-c").arg(self.path("mosquitto.conf")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().unwrap();
        let ports: Vec<u16> = [Some(self.port), self.tls_port].into_iter().flatten().collect();
        let runs = wait_until("mosquitto accepts connections", || {
            if child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let accepts = ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok());
            accepts.then_some(true)
        });
        if runs {
            self.child = Some(child);
        }
        runs
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(20_000).map_or(0, |(at, _)| at);
            eprintln!("--- the broker's log ---\n{}--- end of the broker's log ---", &log[from..]);
        }
        self.kill();
    }
}

/// A program of Mosquitto's; Debian keeps the broker where only the administrator's PATH leads.
#[track_caller]
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not here; install it with: apt-get install mosquitto mosquitto-clients"))
}

fn close_to_others(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A port that nobody listens at. Below those that systems give to whoever connects, since a broker that is killed has to find it
/// free again.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = std::process::id() as u16 % 10_000;
    wait_until("a port is free", || {
        let port = 12_000 + own.wrapping_add(NEXT.fetch_add(7, Ordering::Relaxed)) % 18_000;
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    })
}
