//! The functions that a fleet calls all day, each run a number of times after a preparation that is always the same: for
//! `bench/instructions`, which counts their instructions.
//!
//! `hot` lists them; `hot NAME [TIMES]` runs one. Two kinds:
//! - *sections*: what runs inside [`counted_section`], on the thread that calls it, is counted, and nothing else;
//! - *whole*: the work goes through several threads, so all instructions of the process are counted, of a run with TIMES and of one
//!   with twice as many; the difference is theirs, and the preparation's falls out of it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use sluicegate::image::{Declared, SealedImage, range};
use sluicegate::model::*;
use sluicegate::store::{Group, Opened, Store, StoreError};
use sluicegate::{
    Check, CheckRules, Checked, Decision, DeviceName, DeviceRef, Engine, NewDevice, NewProduct, NewTask, Options, Report,
    TaskTarget,
};
use sluicegate_bench::{FleetShape, NOW, NullStore, ORGANIZATION, device_id, product_id, scattered};
use sluicegate_server::app::App;
use sluicegate_server::auth::DEFAULT_ORGANIZATION;
use sluicegate_server::http::Peer;
use sluicegate_server::http::connection::serve;
use sluicegate_server::http::listener::Front;
use sluicegate_server::http::pressure::Pressure;
use sluicegate_server::image::{LinkSigner, respond};
use sluicegate_server::testing;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Counts what it is given.
type Count<'a> = &'a mut dyn FnMut(&mut dyn FnMut());

/// How a function is counted, and how often it is run if nobody says otherwise.
enum Kind {
    Section { times: u32, prepare: fn(Count<'_>) },
    Whole { times: u32, run: fn(u32) },
}
use Kind::{Section, Whole};

/// In the order of the table. A name is a key of `bench/instructions.txt`.
const FUNCTIONS: &[(&str, Kind)] = &[
    ("engine-check-nothing", Section { times: 8_000, prepare: engine_check_nothing }),
    ("engine-check-held-offer", Section { times: 8_000, prepare: engine_check_held_offer }),
    ("engine-check-wait-cap", Section { times: 8_000, prepare: engine_check_wait_cap }),
    ("engine-report", Whole { times: 8, run: engine_report }),
    ("token-verify", Section { times: 1_000, prepare: token_verify }),
    ("json-native-check", Section { times: 10_000, prepare: json_native_check }),
    ("json-xlink-check", Section { times: 10_000, prepare: json_xlink_check }),
    ("range-parse-1", Section { times: 10_000, prepare: |count| range_parse(1, count) }),
    ("range-parse-10", Section { times: 10_000, prepare: |count| range_parse(10, count) }),
    ("link-sign", Section { times: 1_000, prepare: link_sign }),
    ("link-verify", Section { times: 1_000, prepare: link_verify }),
    ("image-head-whole", Section { times: 10_000, prepare: |count| image_head(None, count) }),
    ("image-head-range", Section { times: 10_000, prepare: |count| image_head(Some("bytes=4096-5119"), count) }),
    ("http-check-nothing", Section { times: 2_000, prepare: |count| Http::open().measure(Http::native_check("newest"), count) }),
    ("http-check-held-offer", Section { times: 2_000, prepare: |count| Http::open().measure(Http::native_check("1.0"), count) }),
    ("http-xlink-check-nothing", Section { times: 2_000, prepare: |count| Http::open().measure(Http::xlink_check, count) }),
    ("http-image-range-1k", Section { times: 2_000, prepare: |count| Http::open().measure(Http::image_range, count) }),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        for (name, kind) in FUNCTIONS {
            let (kind, times) = match kind {
                Section { times, .. } => ("section", *times),
                // What `times` counts there are groups; the table is of commands.
                Whole { times, .. } => ("whole", *times * REPORTS_PER_GROUP),
            };
            println!("{name} {kind} {times}");
        }
        return ExitCode::SUCCESS;
    };
    let Some((_, kind)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
        eprintln!("there is no {name}; without arguments the names are listed");
        return ExitCode::from(2);
    };
    let factor = match arguments.next().as_deref() {
        None => 1,
        Some("twice") => 2,
        Some(other) => {
            eprintln!("expected nothing or `twice` after the name, got {other}");
            return ExitCode::from(2);
        }
    };
    match kind {
        Section { times, prepare } => prepare(&mut |run| {
            // What is made at the first call, and where the branches lead, isn't what a fleet calls all day.
            (0..WARM_UP).for_each(|_| run());
            counted_section(*times * factor, run);
        }),
        Whole { times, run } => run(*times * factor),
    }
    ExitCode::SUCCESS
}

const WARM_UP: u32 = 100;

/// Named on callgrind's command line.
#[inline(never)]
fn counted_section(times: u32, run: &mut dyn FnMut()) {
    for _ in 0..times {
        run();
    }
}

// The engine

struct Asked {
    product_id: String,
    device_id: String,
    version: String,
}

impl Asked {
    fn check(&self) -> Check<'_> {
        let device = DeviceRef { organization: ORGANIZATION, product_id: &self.product_id, device_id: &self.device_id };
        Check { device, component: Component::MAIN, version: &self.version, rules: CheckRules::default() }
    }
}

const FLEET: FleetShape =
    FleetShape { devices: 1_000, tasks: 100, products: 100, devices_at_start: 1_000, maximum_concurrency: None };
/// Hash tables are seeded anew each time, so who shares a place with whom is left to chance, and how far a table has grown, too. Over
/// so many engines chance evens out.
const ENGINES: usize = 8;

fn engine_check(shape: FleetShape, take_offers: bool, expected: fn(&Checked) -> bool, count: Count<'_>) {
    let ask = |device| Asked {
        product_id: product_id(shape.product_of_device(device)),
        device_id: device_id(device),
        version: shape.version_of_device(device),
    };
    let all: Vec<Asked> = scattered(shape.devices).take(shape.devices as usize).map(ask).collect();
    let fleets: Vec<_> = (0..ENGINES)
        .map(|_| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let engine = shape.engine(folder.path());
            if take_offers {
                for asked in &all {
                    engine.decide(&asked.check(), NOW).wait().expect("a check without faults is decided");
                }
            }
            let asked: Vec<&Asked> = all.iter().filter(|asked| expected(&engine.check(&asked.check(), NOW))).collect();
            assert!(asked.len() >= 500, "this counts something else");
            (engine, asked, folder)
        })
        .collect();
    let (mut fleet, mut next) = (0, 0);
    count(&mut || {
        let (engine, asked, _) = &fleets[fleet];
        black_box(engine.check(&asked[next].check(), NOW));
        fleet = (fleet + 1) % ENGINES;
        if fleet == 0 {
            next = if next + 1 == asked.len() { 0 } else { next + 1 };
        }
    });
}

fn engine_check_nothing(count: Count<'_>) {
    let shape = FleetShape { devices_at_start: 0, ..FLEET };
    engine_check(shape, false, |checked| matches!(checked, Checked::Decided(Decision::NoTask)), count);
}

fn engine_check_held_offer(count: Count<'_>) {
    engine_check(FLEET, true, |checked| matches!(checked, Checked::Decided(Decision::Offer(_))), count);
}

fn engine_check_wait_cap(count: Count<'_>) {
    let shape = FleetShape { maximum_concurrency: Some(1), ..FLEET };
    engine_check(shape, true, |checked| matches!(checked, Checked::Decided(Decision::Wait(_))), count);
}

/// A good load's worth, which the writer takes into one group.
const REPORTS_PER_GROUP: u32 = 1_024;

/// Reports through queue, state, publication and answer, everything but the disk; in full groups. The store holds the writer back
/// while a group is being queued, so that groups are of the same size in every run.
fn engine_report(groups: u32) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (release, held) = channel();
    let (begun, begins) = channel();
    let gate = Gate { held: Mutex::new(held), begun: Mutex::new(begun) };
    let opened = Opened { store: 1, ..Opened::default() };
    let engine =
        Engine::with_store(Options::new(folder.path()), |_| Ok((gate, Arc::new(NullStore), opened))).expect("an empty store opens");
    let gate = Hand { release, begins };
    let artifact = Artifact { url: Some("http://files/image".into()), size: 1, md5: "0".into(), ..Artifact::default() };
    let target = TaskTarget::Artifact { version: "2".into(), artifact };
    let new = NewTask { start: true, ..NewTask::new(ORGANIZATION, "p", vec!["1".into()], target) };
    gate.one_group(engine.create_task(new, true, NOW));
    let mut upgrades: Vec<(DeviceName, UpgradeId)> = Vec::new();
    for device in 0..REPORTS_PER_GROUP {
        let name = DeviceRef { organization: ORGANIZATION, product_id: "p", device_id: &device_id(device) }.to_owned();
        let rules = CheckRules { register: true, ..CheckRules::default() };
        let check = Check { device: name.as_ref(), component: Component::MAIN, version: "1", rules };
        let Decision::Offer(offer) = gate.one_group(engine.decide(&check, NOW)) else { panic!("every device is offered the task") };
        upgrades.push((name, offer.id.expect("an offer that is no preview has an id")));
    }
    for group in 0..groups {
        // Something small, in whose commit the writer stands until the group has queued.
        let small = NewProduct { organization: ORGANIZATION.into(), product_id: "q".into(), name: Some(group.to_string()) };
        let ahead = engine.put_product(small, NOW);
        gate.begins.recv().expect("the writer commits");
        // Pausing and going on again is a change every time.
        let state = if group % 2 == 0 { ReportedState::Downloading } else { ReportedState::Paused };
        let report = |(device, upgrade): &(DeviceName, UpgradeId)| {
            let report = Report { device: device.clone(), upgrade: *upgrade, state, percent: None, detail: None, code: None };
            engine.report(report, NOW)
        };
        let answers: Vec<_> = upgrades.iter().map(report).collect();
        gate.release.send(()).expect("the writer waits");
        ahead.wait().expect("a product without faults is put");
        gate.begins.recv().expect("the writer commits");
        gate.release.send(()).expect("the writer waits");
        for answer in answers.into_iter().rev() {
            assert!(answer.wait().expect("a report without faults is taken").changed);
        }
    }
}

/// A store that keeps nothing, and commits when it is told to.
struct Gate {
    held: Mutex<Receiver<()>>,
    begun: Mutex<Sender<()>>,
}

/// The other side of a [`Gate`].
struct Hand {
    release: Sender<()>,
    begins: Receiver<()>,
}

impl Hand {
    fn one_group<T>(&self, pending: sluicegate::Pending<T>) -> T {
        self.begins.recv().expect("the writer commits");
        self.release.send(()).expect("the writer waits");
        pending.wait().expect("a command without faults is taken")
    }
}

impl Store for Gate {
    fn commit(&mut self, _: &Group) -> Result<(), StoreError> {
        // Whoever is gone at the end waits for nothing.
        let _ = self.begun.get_mut().unwrap_or_else(PoisonError::into_inner).send(());
        let _ = self.held.get_mut().unwrap_or_else(PoisonError::into_inner).recv();
        Ok(())
    }
}

// The front end's parts

fn token_verify(count: Count<'_>) {
    let http = Http::open();
    let tokens: Vec<String> = (0..64).map(|device| http.token(&device_id(device))).collect();
    let now = http.app.now();
    let mut next = 0;
    count(&mut || {
        next = (next + 1) % tokens.len();
        let caller = http.app.auth.authenticate(Some(&tokens[next]), TokenPurpose::Access, now);
        assert!(black_box(caller).is_ok());
    });
}

fn json_native_check(count: Count<'_>) {
    let body = native_body("device-00000007", "1.0");
    count(&mut || assert!(testing::reads_native_check(black_box(body.as_bytes()))));
}

fn json_xlink_check(count: Count<'_>) {
    let body = xlink_body();
    count(&mut || assert!(testing::reads_xlink_check(black_box(body.as_bytes()))));
}

fn native_body(device_id: &str, version: &str) -> String {
    format!(r#"{{"product_id":"meter","device_id":"{device_id}","type":1,"identify":0,"version":"{version}"}}"#)
}

/// XLink's devices and versions are numbers.
fn xlink_body() -> String {
    r#"{"product_id":"meter","type":1,"current_version":"7","identify":0}"#.to_owned()
}

fn range_parse(ranges: u32, count: Count<'_>) {
    let ranges: Vec<String> = (0..ranges).map(|n| format!("{}-{}", n * 4096, n * 4096 + 1023)).collect();
    let header = format!("bytes={}", ranges.join(","));
    count(&mut || drop(black_box(range::parse(black_box(&header), 603_696_942))));
}

const IMAGE: ImageId = ImageId([0xa7; 32]);
const UPGRADE: UpgradeId = UpgradeId { task: TaskNumber(7), device: DeviceNumber(77), offer: 777 };
const PUBLIC_URL: &str = "https://ota.example";

fn link_sign(count: Count<'_>) {
    let signer = LinkSigner::new([7; 32]);
    count(&mut || drop(black_box(signer.link(PUBLIC_URL, black_box(IMAGE), Some(UPGRADE), NOW.plus_seconds(60)))));
}

fn link_verify(count: Count<'_>) {
    let signer = LinkSigner::new([7; 32]);
    let link = signer.link(PUBLIC_URL, IMAGE, Some(UPGRADE), NOW.plus_seconds(60));
    let query = link.split_once('?').map(|(_, query)| query);
    count(&mut || assert!(signer.verify(black_box(IMAGE), query, NOW).is_ok()));
}

fn image_head(range: Option<&'static str>, count: Count<'_>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = Engine::open(Options::new(folder.path())).expect("a fresh folder opens");
    let image = put_image(&engine);
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("127.0.0.1:8080"));
    headers.insert("user-agent", HeaderValue::from_static("device/1.0"));
    if let Some(range) = range {
        headers.insert("range", HeaderValue::from_static(range));
    }
    let image = engine.images().open_image(image.id(), image.size()).expect("the image is there");
    count(&mut || drop(black_box(respond(&Method::GET, &headers, &image, Some("meter-2.0.bin"), NOW))));
}

const IMAGE_BYTES: usize = 64 << 10;

fn put_image(engine: &Engine) -> SealedImage {
    let mut ingest = engine.images().begin(Declared::default(), u64::MAX).expect("the disk has room");
    ingest.write(Bytes::from(vec![7; IMAGE_BYTES])).expect("the disk has room");
    ingest.finish().expect("nothing was declared that could differ").0
}

// Whole requests

/// The real server's parts around a real connection, served and used by this one thread. What a request takes holds what its client
/// takes, some thousand instructions: a write, and a read of the reply.
struct Http {
    runtime: Runtime,
    app: Arc<App>,
    _folder: tempfile::TempDir,
}

const METER: &str = "device-00000007";
const XLINK_METER: &str = "100000008";

impl Http {
    fn open() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let app = testing::open(&folder.path().join("data")).expect("a fresh folder opens");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let now = app.now();
        let device = |device_id: String, version: &str| NewDevice {
            product_id: "meter".into(),
            device_id,
            components: vec![(Component::MAIN, version.into())],
            details: DeviceDetails::default(),
        };
        let native = (0..1_000).map(device_id).filter(|id| id != METER).map(|id| device(id, "newest"));
        let others = [device(METER.into(), "1.0"), device(XLINK_METER.into(), "7")];
        let devices = native.chain(others);
        let put = app.engine.put_devices(DEFAULT_ORGANIZATION, devices.collect(), true, now).wait();
        assert!(put.expect("the store takes them").iter().all(Result::is_ok));
        let image = put_image(&app.engine);
        let row = Image {
            organization: DEFAULT_ORGANIZATION.into(),
            id: image.id(),
            size: image.size(),
            md5: image.md5(),
            sha1: image.sha1(),
            name: Some("meter-2.0.bin".into()),
            created_at: now,
        };
        app.engine.put_image(row, now).wait().expect("the store takes it");
        let artifact = Artifact { image: Some(image.id()), size: image.size(), ..Artifact::default() };
        let target = TaskTarget::Artifact { version: "2.0".into(), artifact };
        let new = NewTask { start: true, ..NewTask::new(DEFAULT_ORGANIZATION, "meter", vec!["1.0".into()], target) };
        app.engine.create_task(new, false, now).wait().expect("a task without faults is created");
        let device = DeviceRef { organization: DEFAULT_ORGANIZATION, product_id: "meter", device_id: METER };
        let check = Check { device, component: Component::MAIN, version: "1.0", rules: CheckRules::default() };
        let decided = app.engine.decide(&check, now).wait();
        assert!(matches!(decided, Ok(Decision::Offer(_))), "{decided:?}");
        Self { runtime, app, _folder: folder }
    }

    fn token(&self, device_id: &str) -> String {
        let issued = self.runtime.block_on(testing::device_token(&self.app, "meter", device_id));
        issued.expect("a token without faults is issued").token
    }

    /// The device that holds an offer runs 1.0; the others have nothing to do.
    fn native_check(version: &'static str) -> impl Fn(&Self) -> (String, &'static str) {
        move |http| {
            let (device, expected) = match version {
                "1.0" => (METER, r#""target_version":"2.0""#),
                _ => ("device-00000008", r#""reason":"no_task""#),
            };
            let (token, body) = (http.token(device), native_body(device, version));
            let request = format!(
                "POST /api/v1/check HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nauthorization: Bearer {token}\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            (request, expected)
        }
    }

    fn xlink_check(http: &Self) -> (String, &'static str) {
        let (token, body) = (http.token(XLINK_METER), xlink_body());
        let request = format!(
            "POST /v2/upgrade/firmware/check/{XLINK_METER} HTTP/1.1\r\nhost: 127.0.0.1:8080\r\naccess-token: {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        (request, "4041013")
    }

    fn image_range(http: &Self) -> (String, &'static str) {
        let image = put_image(&http.app.engine);
        let link = http.app.image_link(image.id(), None, http.app.now());
        let path = &link[http.app.public_url().len()..];
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nrange: bytes=4096-5119\r\n\r\n");
        (request, "206 Partial Content")
    }

    /// Sends the request again and again over one connection.
    fn measure(&self, request: impl Fn(&Self) -> (String, &'static str), count: Count<'_>) {
        let (request, expected) = request(self);
        let mut client = self.connect();
        let reply = self.runtime.block_on(first_reply(&mut client, request.as_bytes()));
        let text = String::from_utf8_lossy(&reply);
        assert!(text.contains(expected), "this counts something else: {text}");
        let mut reply = vec![0; reply.len()];
        count(&mut || {
            self.runtime.block_on(async {
                client.write_all(request.as_bytes()).await.expect("the server reads");
                client.read_exact(&mut reply).await.expect("the server answers as it did before");
            });
        });
    }

    fn connect(&self) -> TcpStream {
        let front = Arc::new(Front::new(Arc::clone(&self.app), None));
        self.runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let client = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
            let (stream, address) = listener.accept().await.expect("a client came");
            for stream in [&client, &stream] {
                stream.set_nodelay(true).expect("a socket takes it");
            }
            let pressure = Arc::new(Pressure::new(Duration::from_secs(1), 1));
            tokio::spawn(serve(front, stream, Peer { address, tls: false, certificate: None }, pressure));
            client
        })
    }
}

/// Head and body, the length of which the head tells.
async fn first_reply(client: &mut TcpStream, request: &[u8]) -> Vec<u8> {
    client.write_all(request).await.expect("the server reads");
    let mut reply = Vec::new();
    loop {
        assert_ne!(client.read_buf(&mut reply).await.expect("the server answers"), 0, "the server closed the connection");
        let text = String::from_utf8_lossy(&reply).to_lowercase();
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|length| length.parse().ok());
        let length: usize = length.expect("every reply tells its length");
        if reply.len() >= head.len() + 4 + length {
            return reply;
        }
    }
}
