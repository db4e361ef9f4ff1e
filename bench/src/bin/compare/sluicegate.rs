//! Our server, and the little world that it is asked about: images, a task in each dialect, and devices with tokens of their own.

use crate::content::Random;
use crate::failure::{Context, Failure, Outcome};
use crate::http::{Client, Digested, Reply, target_of};
use crate::options::Options;
use crate::process::Running;
use crate::tls::Certificate;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

const ADMIN_TOKEN: &str = "compare";
const AUTHORIZATION: (&str, &str) = ("Authorization", "Bearer compare");
const PRODUCT_NATIVE: &str = "lamp";
/// As XLink makes them.
const PRODUCT_XLINK: &str = "160fa2b1f2a1e1f2160fa2b1f2a1e1f2";
/// One line a setting: what is measured with must not run out in the middle of a long run.
const SETTINGS: &str = "[images]\nlink_ttl_s = 864000\n[limits]\ndefault_timeout_s = 864000\n";

/// The server while it runs.
#[derive(Debug)]
pub(crate) struct Sluicegate {
    pub(crate) running: Running,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) log: PathBuf,
    data: PathBuf,
    operator: Client,
}

/// An image that it serves.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) size: u64,
    pub(crate) digested: Digested,
    /// Path and query of its signed link.
    pub(crate) target: String,
    /// Where the server keeps it.
    pub(crate) file: PathBuf,
    sha256: String,
    md5: String,
    url: String,
}

/// A kind of device check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CheckKind {
    NativeIdle,
    NativeOffer,
    XlinkIdle,
    XlinkOffer,
}

impl CheckKind {
    pub(crate) const ALL: [Self; 4] = [Self::NativeIdle, Self::NativeOffer, Self::XlinkIdle, Self::XlinkOffer];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NativeIdle => "native, nothing to do",
            Self::NativeOffer => "native, offer held",
            Self::XlinkIdle => "XLink, nothing to do",
            Self::XlinkOffer => "XLink, offer held",
        }
    }

    fn is_native(self) -> bool {
        matches!(self, Self::NativeIdle | Self::NativeOffer)
    }

    /// XLink says "nothing to do" by its code 4041013.
    pub(crate) fn status(self) -> u16 {
        if self == Self::XlinkIdle { 404 } else { 200 }
    }

    /// What the device runs: what the task starts from, or what it leads to.
    fn version(self) -> u32 {
        match self {
            Self::NativeOffer | Self::XlinkOffer => 1,
            Self::NativeIdle | Self::XlinkIdle => 2,
        }
    }

    /// Device ids of one length, for replies of one length; XLink wants integers.
    fn device_id(self, device: u32) -> u32 {
        self.version() * 1_000_000 + device
    }
}

/// A request as the load generator reads it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) target: String,
    pub(crate) header: (&'static str, String),
    pub(crate) body: String,
}

impl Sluicegate {
    pub(crate) fn start(options: &Options, program: &Path, folder: &Path, certificate: &Certificate) -> Outcome<Self> {
        let (data, log, settings) = (folder.join("data"), folder.join("sluicegate.log"), folder.join("sluicegate.toml"));
        std::fs::write(&settings, SETTINGS).context(|| format!("{} can't be written", settings.display()))?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0", "--workers", "1", "--config"]);
        command.arg(&settings).arg("--tls-cert").arg(&certificate.certificate).arg("--tls-key").arg(&certificate.key);
        command.arg("--data").arg(&data).env("SLUICEGATE_ADMIN_TOKEN", ADMIN_TOKEN);
        let mut running = Running::start(options.server_processor, false, &mut command, &log)?;
        let ready =
            running.line("ready ").context(|| format!("sluicegate is not ready; it said:\n{}", crate::process::tail(&log)))?;
        let address = |kind: &str| {
            let word = ready.split_whitespace().find_map(|word| word.strip_prefix(kind));
            word.and_then(|word| word.parse().ok()).context(|| format!("expected {kind}ADDRESS in {ready:?}, got none"))
        };
        let (http, https) = (address("http=")?, address("https=")?);
        Ok(Self { running, http, https, log, data, operator: Client::connect(http, None)? })
    }

    /// Uploads an image of `size` random bytes.
    pub(crate) fn upload(&mut self, size: u64) -> Outcome<Image> {
        let (reply, digested) = self.operator.upload("/api/v1/images", &[AUTHORIZATION], &mut Random::new(size), size)?;
        let said = expect(&reply, 201, "the upload")?;
        let (sha256, url) = (text(&said, "sha256")?, text(&said, "url")?);
        let expected = digested.1.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        if sha256 != expected {
            return Err(Failure::new(format!("the upload of {size} bytes: expected SHA-256 {expected}, got {sha256}")));
        }
        let file = self.data.join("images").join(&sha256[..2]).join(&sha256);
        Ok(Image { size, digested, target: target_of(&url)?.to_owned(), file, sha256, md5: text(&said, "md5")?, url })
    }

    /// Makes a started task from version 1 to 2 for each dialect, both leading to `image`.
    pub(crate) fn create_tasks(&mut self, image: &Image) -> Outcome<()> {
        let firmware = json!({
            "product_id": PRODUCT_NATIVE, "type": 1, "identify": 0, "version": "2", "image": image.sha256,
        });
        let firmware = text(&self.post("/api/v1/firmware", &firmware, 201)?, "id")?;
        let task = json!({
            "product_id": PRODUCT_NATIVE, "type": 1, "identify": 0, "firmware_id": firmware, "from_versions": ["1"],
        });
        let task = text(&self.post("/api/v1/tasks", &task, 201)?, "id")?;
        self.post(&format!("/api/v1/tasks/{task}/start"), &json!({}), 200)?;
        let task = json!({
            "product_id": PRODUCT_XLINK, "name": "from 1 to 2", "description": "the second version",
            "from_version": 1, "from_version_url": "http://files.example/1.bin",
            "from_version_md5": "c4ca4238a0b923820dcc509a6f75849b", "from_version_size": 1000,
            "target_version": 2, "target_version_url": image.url, "target_version_md5": image.md5, "target_version_size": image.size,
            "type": 1, "identify": 0, "task_type": 0,
        });
        let operator = self.issue(&json!({ "role": "operator" }))?;
        let created = self.call_xlink("/v2/upgrade/firmware/task", &operator, &task)?;
        let task = text(&expect(&created, 200, "the XLink task")?, "id")?;
        let start = json!({ "product_id": PRODUCT_XLINK, "upgrade_task_id": task, "status": 1 });
        let started = self.call_xlink("/v2/upgrade/firmware/task/status", &operator, &start)?;
        if started.status != 200 {
            return Err(Failure::new(format!("the XLink task's start: expected 200, got {} {}", started.status, started.text())));
        }
        Ok(())
    }

    /// The checks of `devices` devices, each done once, and a reply of the length that all of them have.
    pub(crate) fn prepare_checks(&mut self, kind: CheckKind, devices: u32) -> Outcome<(Vec<Request>, Reply)> {
        let mut requests = Vec::new();
        let mut first: Option<Reply> = None;
        for device in 0..devices {
            crate::process::go_on()?;
            let request = self.check_of(kind, kind.device_id(device))?;
            let reply = self.operator.call(
                request.method,
                &request.target,
                &[(request.header.0, &request.header.1)],
                request.body.as_bytes(),
            )?;
            let offered = String::from_utf8_lossy(&reply.body).contains("/images/");
            if reply.status != kind.status() || offered != (kind.version() == 1) {
                return Err(Failure::new(format!("check, {}: got {} {}", kind.label(), reply.status, reply.text())));
            }
            // nginx answers a constant: what it stands beside must be of its length every time.
            let length = reply.body.len();
            let expected = first.get_or_insert(reply).body.len();
            if length != expected {
                return Err(Failure::new(format!("check, {}: expected {expected} bytes each time, got {length}", kind.label())));
            }
            requests.push(request);
        }
        Ok((requests, first.context(|| "expected at least one device, got none".to_owned())?))
    }

    fn check_of(&mut self, kind: CheckKind, device_id: u32) -> Outcome<Request> {
        let product_id = if kind.is_native() { PRODUCT_NATIVE } else { PRODUCT_XLINK };
        let token = self.issue(&json!({
            "role": "device", "product_id": product_id, "device_id": device_id.to_string(), "ttl_s": 864_000,
        }))?;
        let version = kind.version();
        Ok(if kind.is_native() {
            Request {
                method: "POST",
                target: "/api/v1/check".to_owned(),
                header: ("Authorization", format!("Bearer {token}")),
                body: format!(
                    r#"{{"product_id":"{product_id}","device_id":"{device_id}","type":1,"identify":0,"version":"{version}"}}"#
                ),
            }
        } else {
            Request {
                method: "POST",
                target: format!("/v2/upgrade/firmware/check/{device_id}"),
                header: ("Access-Token", token),
                body: format!(
                    r#"{{"product_id":"{product_id}","device_id":{device_id},"type":1,"current_version":{version},"identify":0}}"#
                ),
            }
        })
    }

    fn issue(&mut self, wanted: &Value) -> Outcome<String> {
        text(&self.post("/api/v1/tokens", wanted, 201)?, "token")
    }

    fn post(&mut self, target: &str, body: &Value, status: u16) -> Outcome<Value> {
        let reply = self.operator.call("POST", target, &[AUTHORIZATION], body.to_string().as_bytes())?;
        expect(&reply, status, target)
    }

    fn call_xlink(&mut self, target: &str, token: &str, body: &Value) -> Outcome<Reply> {
        self.operator.call("POST", target, &[("Access-Token", token)], body.to_string().as_bytes())
    }
}

fn expect(reply: &Reply, status: u16, what: &str) -> Outcome<Value> {
    if reply.status != status {
        return Err(Failure::new(format!("{what}: expected {status}, got {} {}", reply.status, reply.text())));
    }
    reply.json()
}

fn text(value: &Value, field: &str) -> Outcome<String> {
    value[field].as_str().map(str::to_owned).context(|| format!("expected a text {field:?} in {value}, got none"))
}
