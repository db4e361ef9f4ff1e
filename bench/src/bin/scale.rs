//! How memory, import, start and checks grow with devices and with tasks, on the real store.
//!
//! `cargo run --release -p sluicegate-bench --bin scale -- --devices 100000,1000000,10000000` prints one table. Each size has a folder
//! of its own, which is removed, and two processes: one imports and ends, one opens what is there. So memory is measured both as an
//! import leaves it and as a restart does, and no size sees what another has left behind. The allocator is the server's.

use clap::Parser;
use hdrhistogram::Histogram;
use sluicegate::model::*;
use sluicegate::{Check, CheckRules, Checked, Decision, DeviceRef, Engine, NewDevice, NewTask, Options, TaskTarget};
use sluicegate_bench::{NOW, ORGANIZATION, device_id, product_id, scattered};
use std::collections::VecDeque;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures how an engine grows with its devices and tasks.
#[derive(Debug, Parser)]
#[command(name = "scale")]
struct Arguments {
    /// Sizes of the fleet, one column each.
    #[arg(long, default_value = "100000,1000000", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1_000..=50_000_000))]
    devices: Vec<u32>,
    /// Started tasks at which checks are measured, rising.
    #[arg(long, default_value = "0,1,1000,10000,100000", value_delimiter = ',')]
    tasks: Vec<u32>,
    /// Where the folders are made; on a disk, or the syncs cost nothing.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// The part that a process of its own does.
    #[arg(long, hide = true)]
    part: Option<Part>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Part {
    Import,
    Open,
}

const PRODUCTS: u32 = 100;
/// A request's worth, as the import over HTTP puts together.
const BATCH: u32 = 1_000;
const BATCHES_IN_FLIGHT: usize = 8;
const TASKS_IN_FLIGHT: usize = 500;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let devices = arguments.devices[0];
    match arguments.part {
        Some(Part::Import) => import(&arguments.folder, devices),
        Some(Part::Open) => open(&arguments.folder, devices, &arguments.tasks),
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let measured = runtime.block_on(async {
                tokio::select! {
                    columns = columns(&arguments) => columns,
                    // Dropping the run ends the process under way and removes its folder.
                    _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
                }
            });
            match measured {
                Ok(columns) => print!("{}", table(&columns)),
                Err(message) => {
                    eprintln!("error: {message}");
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}

/// One size: the rows of the table with their figures.
struct Column {
    devices: u32,
    rows: Vec<(String, String)>,
}

async fn columns(arguments: &Arguments) -> Result<Vec<Column>, String> {
    let mut columns = Vec::new();
    for devices in &arguments.devices {
        let folder = tempfile::Builder::new()
            .prefix("sluicegate-scale-")
            .tempdir_in(&arguments.folder)
            .map_err(|error| format!("{}: {error}", arguments.folder.display()))?;
        let mut rows = Vec::new();
        for part in ["import", "open"] {
            eprintln!("{devices} devices: {part}");
            rows.extend(in_a_process(part, folder.path(), *devices, &arguments.tasks).await?);
        }
        columns.push(Column { devices: *devices, rows });
    }
    Ok(columns)
}

async fn in_a_process(part: &str, folder: &Path, devices: u32, tasks: &[u32]) -> Result<Vec<(String, String)>, String> {
    let own = std::env::current_exe().map_err(|error| format!("the path of this program is unknown: {error}"))?;
    let tasks: Vec<String> = tasks.iter().map(u32::to_string).collect();
    let output = tokio::process::Command::new(own)
        .args(["--part", part, "--devices", &devices.to_string(), "--tasks", &tasks.join(","), "--folder"])
        .arg(folder)
        .stderr(std::process::Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("{part} didn't start: {error}"))?;
    if !output.status.success() {
        return Err(format!("{part} of {devices} devices ended with {}", output.status));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.lines().filter_map(|line| line.split_once('\t')).map(|(row, figure)| (row.to_owned(), figure.to_owned())).collect())
}

fn table(columns: &[Column]) -> String {
    let mut text = String::from("| |");
    columns.iter().for_each(|column| text += &format!(" {} devices |", grouped(column.devices.into())));
    text += "\n|---|";
    columns.iter().for_each(|_| text += "---:|");
    text.push('\n');
    for (at, (row, _)) in columns.first().map(|column| column.rows.as_slice()).unwrap_or_default().iter().enumerate() {
        text += &format!("| {row} |");
        columns.iter().for_each(|column| text += &format!(" {} |", column.rows.get(at).map_or("", |(_, figure)| figure)));
        text.push('\n');
    }
    text
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One line of a part's output: a row of the table.
fn tell(row: &str, figure: String) {
    println!("{row}\t{figure}");
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.2} s", elapsed.as_secs_f64())
}

fn nanoseconds(ns: f64) -> String {
    if ns < 1_000.0 { format!("{ns:.0} ns") } else { format!("{:.2} µs", ns / 1_000.0) }
}

/// Bytes of memory that this process has now.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64
}

/// What it had at most.
fn resident_max_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() * 1_024
}

fn folder_bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(std::fs::Metadata::is_file).map(|file| file.len()).sum()
}

fn import(folder: &Path, devices: u32) {
    let engine = Engine::open(Options::new(folder)).expect("a fresh folder opens");
    let before = resident_bytes();
    let started = Instant::now();
    let mut pending = VecDeque::new();
    for first in (0..devices).step_by(BATCH as usize) {
        if pending.len() == BATCHES_IN_FLIGHT {
            taken(pending.pop_front());
        }
        let batch = (first..devices.min(first.saturating_add(BATCH))).map(new_device).collect();
        pending.push_back(engine.put_devices(ORGANIZATION, batch, true, NOW));
    }
    while !pending.is_empty() {
        taken(pending.pop_front());
    }
    let elapsed = started.elapsed();
    let per_device = |bytes: u64| format!("{} B", bytes / u64::from(devices));
    tell("import, every device durable", seconds(elapsed));
    tell("devices imported a second", grouped((f64::from(devices) / elapsed.as_secs_f64()) as u64));
    tell("memory of a device after the import", per_device(resident_bytes().saturating_sub(before)));
    tell("at most during the import", per_device(resident_max_bytes().saturating_sub(before)));
    let closing = Instant::now();
    engine.close();
    drop(engine);
    tell("closing after the import", seconds(closing.elapsed()));
    tell("disk of a device", per_device(folder_bytes(folder)));
}

type Put = Vec<Result<std::sync::Arc<Device>, String>>;

fn taken(pending: Option<sluicegate::Pending<Put>>) {
    let put = pending.expect("one is in flight").wait().expect("devices are put");
    assert!(put.iter().all(Result::is_ok));
}

fn new_device(number: u32) -> NewDevice {
    NewDevice {
        product_id: product_id(number % PRODUCTS),
        device_id: device_id(number),
        components: vec![(Component::MAIN, format!("1.{}", number % 4))],
        details: DeviceDetails::default(),
    }
}

fn open(folder: &Path, devices: u32, tasks: &[u32]) {
    let before = resident_bytes();
    let started = Instant::now();
    let engine = Engine::open(Options::new(folder)).expect("what was imported opens");
    tell("start: open the store", seconds(started.elapsed()));
    let bytes = resident_bytes().saturating_sub(before);
    tell("memory of a device after a restart", format!("{} B", bytes / u64::from(devices)));
    let mut made = 0;
    let asked = Asked::scattered(devices);
    for count in tasks {
        let bytes = resident_bytes();
        let creating = Instant::now();
        make_tasks(&engine, made..*count);
        if *count >= made + 1_000 {
            let new = f64::from(count - made);
            let each = creating.elapsed().as_secs_f64() / new;
            let memory = resident_bytes().saturating_sub(bytes) as f64 / new;
            let label = format!("a task more, up to {}: time, memory", grouped((*count).into()));
            tell(&label, format!("{:.0} µs, {memory:.0} B", each * 1e6));
        }
        made = made.max(*count);
        measure_checks(&engine, &asked, *count);
    }
}

fn make_tasks(engine: &Engine, numbers: std::ops::Range<u32>) {
    let mut pending = VecDeque::new();
    for number in numbers {
        if pending.len() == TASKS_IN_FLIGHT {
            created(pending.pop_front());
        }
        let artifact = Artifact { url: Some("http://files/image".into()), size: 1, md5: "0".into(), ..Artifact::default() };
        let target = TaskTarget::Artifact { version: format!("to-{number}"), artifact };
        // From versions that nobody runs: a fleet has nothing to do most of the time, and that is what has to cost nothing.
        let from = vec![format!("from-{number}")];
        let new = NewTask { start: true, ..NewTask::new(ORGANIZATION, product_id(number % PRODUCTS), from, target) };
        pending.push_back(engine.create_task(new, false, NOW));
    }
    while !pending.is_empty() {
        created(pending.pop_front());
    }
}

fn created(pending: Option<sluicegate::Pending<std::sync::Arc<Task>>>) {
    pending.expect("one is in flight").wait().expect("the task is created");
}

struct Asked {
    product_id: String,
    device_id: String,
    version: String,
}

impl Asked {
    /// Enough different devices that they don't fit the caches; more would measure the questions' own memory.
    fn scattered(devices: u32) -> Vec<Self> {
        let ask = |device| Self {
            product_id: product_id(device % PRODUCTS),
            device_id: device_id(device),
            version: format!("1.{}", device % 4),
        };
        scattered(devices).take(devices.min(200_000) as usize).map(ask).collect()
    }

    fn check(&self) -> Check<'_> {
        let device = DeviceRef { organization: ORGANIZATION, product_id: &self.product_id, device_id: &self.device_id };
        Check { device, component: Component::MAIN, version: &self.version, rules: CheckRules::default() }
    }
}

/// Nothing to do: all of them on the mean, without a clock between them; then each on its own, less what the clock takes.
fn measure_checks(engine: &Engine, asked: &[Asked], tasks: u32) {
    for asked in asked {
        let checked = engine.check(&asked.check(), NOW);
        assert!(matches!(checked, Checked::Decided(Decision::NoTask)), "{checked:?}");
    }
    const ROUNDS: u32 = 5;
    let started = Instant::now();
    for _ in 0..ROUNDS {
        for asked in asked {
            black_box(engine.check(&asked.check(), NOW));
        }
    }
    let mean = started.elapsed().as_nanos() as f64 / f64::from(ROUNDS) / asked.len() as f64;
    let mut clock = Histogram::<u64>::new(3).expect("a histogram");
    for _ in 0..100_000 {
        clock.saturating_record(Instant::now().elapsed().as_nanos() as u64);
    }
    let clock = clock.value_at_quantile(0.5);
    let mut each = Histogram::<u64>::new(3).expect("a histogram");
    for _ in 0..ROUNDS {
        for asked in asked {
            let started = Instant::now();
            black_box(engine.check(&asked.check(), NOW));
            each.saturating_record((started.elapsed().as_nanos() as u64).saturating_sub(clock));
        }
    }
    let at = |quantile| nanoseconds(each.value_at_quantile(quantile) as f64);
    let label = format!("check, {} tasks: mean, p50, p99", grouped(tasks.into()));
    tell(&label, format!("{}, {}, {}", nanoseconds(mean), at(0.5), at(0.99)));
}
