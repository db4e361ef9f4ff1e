//! Everything that is there while it is measured: both servers, the floor, the images that they share, and the rows that follow.
//!
//! nginx serves hard links of the files in our server's own folder, under the paths of our links: the same bytes on the same pages of
//! the system's cache, asked for by the same requests.

use crate::content::Random;
use crate::failure::{Context, Outcome};
use crate::floor::Floor;
use crate::http::{Client, Reply};
use crate::nginx::{Endpoint, Nginx};
use crate::options::{Family, Options};
use crate::process::go_on;
use crate::results::Unit;
use crate::sluicegate::{CheckKind, Image, Request, Sluicegate};
use crate::tls::Certificate;
use crate::wrk::Load;
use crate::{machine, proof};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// All of it. What is declared first ends first: the servers before the folder that they write to.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) sluicegate: Sluicegate,
    pub(crate) nginx: Nginx,
    floor: Option<Floor>,
    pub(crate) certificate: Certificate,
    checks: Vec<(CheckKind, Load, Endpoint)>,
    images: Vec<(Image, Load)>,
    /// What the ranges are of.
    pub(crate) ranged: Option<(Image, Load)>,
    ranges: Vec<(String, Load)>,
    health: Endpoint,
    /// Bytes of heads and bodies of the checks' replies, for whoever doubts that they are alike.
    pub(crate) reply_bytes: Vec<(CheckKind, usize, usize, usize)>,
    folder: TempDir,
}

/// One of those who take turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) process: u32,
    pub(crate) address: SocketAddr,
    pub(crate) tls: bool,
}

/// What is measured, on both sides.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) table: String,
    pub(crate) label: String,
    pub(crate) ours: Side,
    pub(crate) nginx: Side,
    pub(crate) work: Work,
    pub(crate) unit: Unit,
}

#[derive(Clone, Debug)]
pub(crate) enum Work {
    Requests(Load),
    Handshakes { resumed: bool },
}

impl Side {
    pub(crate) fn origin(&self) -> String {
        if self.tls {
            // By name: wrk would put an address where TLS wants a name, which a server has every right to complain of.
            format!("https://localhost:{}", self.address.port())
        } else {
            format!("http://{}", self.address)
        }
    }
}

impl World {
    /// Sets everything up and proves that both servers serve the same.
    pub(crate) fn build(options: &Options, program: &Path) -> Outcome<Self> {
        let chosen = Chosen::from(options);
        let parent = options.folder.clone().unwrap_or_else(std::env::temp_dir);
        machine::expect_room(&parent, chosen.image_sizes(options).iter().sum())?;
        let folder = TempDir::with_prefix_in("sluicegate-compare-", &parent).context(|| format!("{}", parent.display()))?;
        let path = folder.path();
        let certificate = Certificate::make(path)?;
        let mut sluicegate = Sluicegate::start(options, program, path, &certificate)?;

        let root = path.join("root");
        let mut uploaded = Vec::new();
        for size in chosen.image_sizes(options) {
            go_on()?;
            uploaded.push(share(sluicegate.upload(size)?, &root)?);
        }
        let mut prepared = Vec::new();
        if let Some(smallest) = uploaded.first().filter(|_| !chosen.checks.is_empty()) {
            sluicegate.create_tasks(smallest)?;
        }
        for kind in &chosen.checks {
            let (requests, reply) = sluicegate.prepare_checks(*kind, options.devices)?;
            prepared.push((*kind, requests, reply));
        }
        let health = Client::connect(sluicegate.http, None)?.call("GET", HEALTH, &[], &[])?;

        let mut floor = None;
        if let Some((_, _, reply)) = prepared.iter().find(|(kind, ..)| *kind == CheckKind::NativeIdle) {
            let file = path.join("floor-reply");
            std::fs::write(&file, [&reply.head[..], &reply.body].concat()).context(|| format!("{}", file.display()))?;
            floor = Some(Floor::start(options, path, &file)?);
        }
        let replies: Vec<Reply> = prepared.iter().map(|(.., reply)| reply.clone()).chain([health]).collect();
        let nginx = Nginx::start(options, path, &root, &certificate, &replies)?;

        let mut world = Self {
            health: nginx.constants[prepared.len()],
            sluicegate,
            nginx,
            floor,
            certificate,
            checks: Vec::new(),
            images: Vec::new(),
            ranged: None,
            ranges: Vec::new(),
            reply_bytes: Vec::new(),
            folder,
        };
        world.add_checks(&prepared)?;
        world.add_images(options, &chosen, &uploaded)?;
        Ok(world)
    }

    /// The folder for scripts and logs.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The rows that were asked for.
    pub(crate) fn rows(&self, options: &Options) -> Vec<Row> {
        let chosen = Chosen::from(options);
        let mut rows = Vec::new();
        for tls in [false, true] {
            let families = if tls { &chosen.tls } else { &chosen.plain };
            let suffix = if tls { " over TLS 1.3" } else { "" };
            let mut add = |family: Family, heading: &str, label: &str, load: &Load, nginx: Endpoint, unit: Unit| {
                if families.contains(&family) {
                    let (ours, nginx) = (self.ours(tls), self.theirs(nginx, tls));
                    let work = Work::Requests(load.clone());
                    rows.push(Row { table: format!("{heading}{suffix}"), label: label.to_owned(), ours, nginx, work, unit });
                }
            };
            for (kind, load, nginx) in &self.checks {
                add(Family::Check, "Device checks", kind.label(), load, *nginx, Unit::Request);
            }
            for (image, load) in &self.images {
                let unit = if image.size <= PER_REQUEST_MAX { Unit::Request } else { Unit::Kibibyte };
                add(Family::Image, "Whole images", &bytes(image.size), load, self.nginx.files, unit);
            }
            for (label, load) in &self.ranges {
                add(Family::Range, "Ranges of a 256 MiB image", label, load, self.nginx.files, Unit::Request);
            }
            if !tls && let (Some(floor), Some(at)) = (&self.floor, rows.iter().position(|row| row.label == FLOOR_BESIDE)) {
                let side = Side { name: "raw epoll", process: floor.running.id(), address: floor.address, tls: false };
                rows.insert(at, Row { label: FLOOR_LABEL.to_owned(), ours: side, ..rows[at].clone() });
            }
        }
        if options.rows.contains(&Family::Handshake) {
            for (label, resumed) in [("full, one tiny request, close", false), ("resumed, one tiny request, close", true)] {
                let (ours, nginx) = (self.ours(true), self.theirs(self.health, true));
                let (table, work) = ("TLS 1.3 handshakes".to_owned(), Work::Handshakes { resumed });
                rows.push(Row { table, label: label.to_owned(), ours, nginx, work, unit: Unit::Request });
            }
        }
        rows
    }

    /// The check that fairness is measured with, and who answers it.
    pub(crate) fn plain_check(&self) -> Option<(&Load, [Side; 2])> {
        let (_, load, nginx) = self.checks.iter().find(|(kind, ..)| *kind == CheckKind::NativeIdle)?;
        Some((load, [self.ours(false), self.theirs(*nginx, false)]))
    }

    /// Proves that both servers serve the right bytes, plain and over TLS as far as they are measured.
    pub(crate) fn prove(&self, options: &Options) -> Outcome<Vec<String>> {
        let chosen = Chosen::from(options);
        let mut agreed = Vec::new();
        for tls in [false, true] {
            let families = if tls { &chosen.tls } else { &chosen.plain };
            if tls && families.is_empty() && !options.rows.contains(&Family::Handshake) {
                continue;
            }
            let images = self.images.iter().filter(|_| families.contains(&Family::Image));
            let ranged = self.ranged.iter().filter(|_| families.contains(&Family::Range));
            for side in [self.ours(tls), self.theirs(self.nginx.files, tls)] {
                let config = if tls { Some(self.certificate.client(false)?) } else { None };
                let mut client = Client::connect(side.address, config.as_ref())?;
                agreed.extend(tls.then(|| format!("{}: {}", side.name, client.agreed())));
                for (image, _) in images.clone() {
                    go_on()?;
                    proof::expect_whole(&mut client, image).context(|| format!("{} from {}", bytes(image.size), side.name))?;
                }
                for (image, _) in ranged.clone() {
                    proof::expect_ranges(&mut client, image).context(|| format!("ranges from {}", side.name))?;
                }
            }
        }
        Ok(agreed)
    }

    /// Fails, with what they said, if one of the servers has ended.
    pub(crate) fn expect_alive(&mut self) -> Outcome<()> {
        self.sluicegate.running.expect_alive("sluicegate", &self.sluicegate.log)?;
        self.nginx.running.expect_alive("nginx", &self.nginx.log)
    }

    /// What the servers complained of, for a failure's message.
    pub(crate) fn complaints(&self) -> String {
        let said = |log: &Path| std::fs::read_to_string(log).unwrap_or_default();
        let said = said(&self.sluicegate.log) + &said(&self.nginx.log);
        let serious =
            |line: &&str| ["WARN", "ERROR", "panicked", "[error]", "[crit]", "[alert]"].iter().any(|word| line.contains(word));
        let lines: Vec<&str> = said.lines().filter(serious).collect();
        lines[lines.len().saturating_sub(COMPLAINTS_MAX)..].iter().map(|line| format!("{line}\n")).collect()
    }

    fn ours(&self, tls: bool) -> Side {
        let address = if tls { self.sluicegate.https } else { self.sluicegate.http };
        Side { name: "sluicegate", process: self.sluicegate.running.id(), address, tls }
    }

    pub(crate) fn theirs(&self, endpoint: Endpoint, tls: bool) -> Side {
        let address = if tls { endpoint.https } else { endpoint.http };
        Side { name: "nginx", process: self.nginx.worker, address, tls }
    }

    fn add_checks(&mut self, prepared: &[(CheckKind, Vec<Request>, Reply)]) -> Outcome<()> {
        for (at, (kind, requests, reply)) in prepared.iter().enumerate() {
            let name = format!("check-{at}");
            let load = Load::requests(self.folder.path(), &name, requests, kind.status(), reply.body.len() as u64)?;
            let endpoint = self.nginx.constants[at];
            let mut client = Client::connect(endpoint.http, None)?;
            let nginx_reply = client.call("POST", &requests[0].target, &[], requests[0].body.as_bytes())?;
            proof::expect_same_size(kind.label(), reply, &nginx_reply)?;
            self.reply_bytes.push((*kind, reply.body.len(), reply.head.len(), nginx_reply.head.len()));
            self.checks.push((*kind, load, endpoint));
        }
        Ok(())
    }

    fn add_images(&mut self, options: &Options, chosen: &Chosen, uploaded: &[Image]) -> Outcome<()> {
        let folder = self.folder.path().to_owned();
        let loaded = |image: &Image| Ok((image.clone(), Load::get(&folder, &image.target, image.size)?));
        if chosen.any(Family::Image) {
            let sizes = options.sizes();
            let whole = uploaded.iter().filter(|image| sizes.contains(&image.size));
            self.images = whole.map(loaded).collect::<Outcome<_>>()?;
        }
        let Some(image) = uploaded.iter().find(|image| image.size == RANGED_BYTES) else { return Ok(()) };
        self.ranged = Some(loaded(image)?);
        for (count, range_bytes) in [(1, 1 << 10), (1, 4 << 10), (1, 64 << 10), (10, 1 << 10)] {
            let label = match count {
                1 => format!("one of {}", bytes(range_bytes)),
                _ => format!("{count} of {} in one request", bytes(range_bytes)),
            };
            let requests = proof::scattered_ranges(image, count, range_bytes, RANGE_REQUESTS, &mut Random::new(range_bytes));
            let load = Load::requests(&folder, &format!("range-{count}-{range_bytes}"), &requests, 206, count * range_bytes)?;
            self.ranges.push((label, load));
        }
        Ok(())
    }
}

/// What of the world is needed for the rows that were asked for.
#[derive(Debug)]
struct Chosen {
    plain: Vec<Family>,
    tls: Vec<Family>,
    checks: Vec<CheckKind>,
    fairness: bool,
}

impl Chosen {
    fn from(options: &Options) -> Self {
        let all = vec![Family::Check, Family::Image, Family::Range];
        let plain: Vec<Family> = all.iter().copied().filter(|family| options.rows.contains(family)).collect();
        let tls = match options.rows.contains(&Family::Tls) {
            false => Vec::new(),
            true if plain.is_empty() => all,
            true => plain.clone(),
        };
        let fairness = options.fairness;
        let mut chosen = Self { plain, tls, checks: Vec::new(), fairness };
        if chosen.any(Family::Check) {
            chosen.checks = CheckKind::ALL.to_vec();
        } else if fairness {
            chosen.checks = vec![CheckKind::NativeIdle];
        }
        chosen
    }

    fn any(&self, family: Family) -> bool {
        self.plain.contains(&family) || self.tls.contains(&family)
    }

    /// Each once, the smallest first.
    fn image_sizes(&self, options: &Options) -> Vec<u64> {
        let mut sizes = if self.any(Family::Image) { options.sizes() } else { Vec::new() };
        if self.any(Family::Range) || self.fairness {
            sizes.push(RANGED_BYTES);
        }
        if !self.checks.is_empty() {
            sizes.push(4 << 10);
        }
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

/// Lays a link of the image's file where its URL points to.
fn share(image: Image, root: &Path) -> Outcome<Image> {
    let path = image.target.split('?').next().unwrap_or_default();
    let link: PathBuf = root.join(path.trim_start_matches('/'));
    let folder = link.parent().unwrap_or(root);
    std::fs::create_dir_all(folder).context(|| format!("{}", folder.display()))?;
    std::fs::hard_link(&image.file, &link).context(|| format!("linking {} to {}", image.file.display(), link.display()))?;
    Ok(image)
}

/// `65536` as `64 KiB`.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        count if count >= 1 << 30 && count.is_multiple_of(1 << 30) => format!("{} GiB", count >> 30),
        count if count >= 1 << 20 && count.is_multiple_of(1 << 20) => format!("{} MiB", count >> 20),
        count if count >= 1 << 10 && count.is_multiple_of(1 << 10) => format!("{} KiB", count >> 10),
        count => format!("{count} B"),
    }
}

/// A tiny reply of ours without any state behind it, for handshakes; nginx answers the same bytes.
pub(crate) const HEALTH: &str = "/healthz";
const FLOOR_BESIDE: &str = "native, nothing to do";
/// Not our server's: it says what is left to gain.
pub(crate) const FLOOR_LABEL: &str = "floor: raw epoll, the same constant";
/// Up to here a reply's fixed cost dominates, beyond it that of its bytes.
const PER_REQUEST_MAX: u64 = 64 << 10;
pub(crate) const RANGED_BYTES: u64 = 256 << 20;
const COMPLAINTS_MAX: usize = 8;
/// As many scattered places as keep the generator's memory small.
const RANGE_REQUESTS: usize = 8_192;
