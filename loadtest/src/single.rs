//! What is measured alone: connections that say nothing, a fleet that comes back at once, reports as fast as they go.

use crate::options::Single;
use crate::rig::{Rig, connections_max};
use crate::setup::{Rollout, device_id};
use crate::usage::Usage;
use crate::wire::{Reply, Target, Wire, post, source};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub(crate) async fn run(single: Single) -> Result<(), String> {
    println!("open files this process and the server may have: {}", rustix_limit());
    match single {
        Single::Idle { connections, tls } => idle(connections as usize, tls).await,
        Single::Storm { devices, within_ms, tls } => storm(devices, Duration::from_millis(within_ms.into()), tls).await,
        Single::Reports { connections, seconds } => reports(connections, Duration::from_secs(seconds.into())).await,
        Single::Overload(options) => crate::overload::run(options).await,
    }
}

fn rustix_limit() -> String {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map_or("any number".to_owned(), |limit| limit.to_string())
}

pub(crate) fn check(rollout: &Rollout, device: usize, token: &str, more: &str) -> Vec<u8> {
    let body = json!({
        "product_id": rollout.product_id, "device_id": device_id(device), "type": 1, "identify": 0, "version": rollout.from_version,
    });
    post("/api/v1/check", token, &body.to_string(), more)
}

pub(crate) fn histogram() -> Histogram<u64> {
    // Two minutes; no wait here is longer.
    Histogram::new_with_bounds(1, 120_000_000, 3).unwrap_or_else(|error| unreachable!("constant bounds: {error}"))
}

pub(crate) fn ms(latency_us: &Histogram<u64>, quantile: f64) -> f64 {
    latency_us.value_at_quantile(quantile) as f64 / 1_000.0
}

// Connections that say nothing

/// How many shake hands at once while they are opened.
const OPENING: usize = 64;

async fn idle(connections: usize, tls: bool) -> Result<(), String> {
    if connections as u64 > connections_max() {
        return Err(format!("{connections} connections are more than the limit of open files allows here, {}", connections_max()));
    }
    let mut rig = Rig::start(tls).await?;
    let (rollout, tokens) = rig.fleet(1, false).await?;
    let request: Arc<[u8]> = check(&rollout, 0, &tokens[0], "").into();
    let kernel_before = kernel_bytes();
    let mut open: Vec<Wire> = Vec::with_capacity(connections);
    // The first requests make what stays for all: buffers of the workers, figures of the metrics.
    open.extend(connect_all(&rig.target, 0..OPENING, &request).await?);
    settle().await;
    let before = (open.len(), rig.usage().resident_bytes);
    println!("{} connections, each after one check:", if tls { "TLS" } else { "plain" });
    println!("{:>12} {:>14} {:>20} {:>22}", "open", "server's MB", "bytes each", "kernel's, both ends");
    for quarter in 1..=4 {
        let count = connections * quarter / 4;
        open.extend(connect_all(&rig.target, open.len()..count, &request).await?);
        settle().await;
        let now = rig.usage().resident_bytes;
        println!(
            "{count:>12} {:>14.1} {:>20} {:>22}",
            now as f64 / 1e6,
            now.saturating_sub(before.1) / (count - before.0).max(1) as u64,
            kernel_bytes().saturating_sub(kernel_before) / count as u64
        );
    }
    drop(open);
    settle().await;
    println!("{:>12} {:>14.1}  after all were closed", 0, rig.usage().resident_bytes as f64 / 1e6);
    rig.stop().await
}

async fn connect_all(target: &Target, indices: std::ops::Range<usize>, request: &Arc<[u8]>) -> Result<Vec<Wire>, String> {
    let places = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for index in indices {
        let place = Arc::clone(&places).acquire_owned().await.map_err(|error| error.to_string())?;
        let (target, request) = (target.clone(), Arc::clone(request));
        opening.spawn(async move {
            let _place = place;
            let mut wire = Wire::connect(&target, source(index)).await?;
            wire.ask(&request).await.and_then(expect_ok)?;
            Ok::<_, std::io::Error>(wire)
        });
    }
    let mut wires = Vec::new();
    while let Some(wire) = opening.join_next().await {
        wires.push(wire.map_err(|error| error.to_string())?.map_err(|error| format!("a connection failed: {error}"))?);
    }
    Ok(wires)
}

pub(crate) fn expect_ok(reply: Reply) -> std::io::Result<Reply> {
    if reply.status == 200 {
        return Ok(reply);
    }
    Err(std::io::Error::other(format!("status {}: {}", reply.status, String::from_utf8_lossy(&reply.body))))
}

/// Long enough for an allocator to give back what it gives back by itself.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// Memory of the kernel's TCP buffers, of everybody on this machine.
fn kernel_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: ")).unwrap_or_default();
    let pages: u64 = line.rsplit(' ').next().and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64
}

// A fleet that comes back at once

/// What came of those who came.
#[derive(Default)]
struct Came {
    connected_us: Option<Histogram<u64>>,
    answered_us: Option<Histogram<u64>>,
    /// By status, or by what went wrong.
    ends: BTreeMap<String, u64>,
}

/// A device has given up by then.
const PATIENCE: Duration = Duration::from_secs(60);

async fn storm(devices: u32, within: Duration, tls: bool) -> Result<(), String> {
    let mut rig = Rig::start(tls).await?;
    let (rollout, tokens) = rig.fleet(devices, false).await?;
    let requests: Vec<Vec<u8>> =
        tokens.iter().enumerate().map(|(device, token)| check(&rollout, device, token, "connection: close\r\n")).collect();
    let (requests, target) = (Arc::new(requests), rig.target.clone());
    let came = Arc::new(Mutex::new(Came { connected_us: Some(histogram()), answered_us: Some(histogram()), ..Came::default() }));
    // Whoever has no descriptor waits for one, and that counts as waiting for the server.
    let places = Arc::new(Semaphore::new(connections_max() as usize));
    let (open, open_max) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    settle().await;
    let before = rig.usage();
    let own_before = Usage::of(std::process::id()).unwrap_or_default();
    let watcher = Watcher::start(rig.pid());
    let begun = Instant::now();
    let mut storm = JoinSet::new();
    let mut next = 0;
    while next < devices as usize {
        let due = (begun.elapsed().as_secs_f64() / within.as_secs_f64() * f64::from(devices)) as usize;
        for device in next..due.min(devices as usize) {
            let meant = begun + within.mul_f64(device as f64 / f64::from(devices));
            let (requests, target, places, came) = (requests.clone(), target.clone(), places.clone(), came.clone());
            let (open, open_max) = (open.clone(), open_max.clone());
            storm.spawn(async move {
                let _place = places.acquire().await;
                open_max.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                let visit = async {
                    let mut wire = Wire::connect(&target, source(device)).await?;
                    let connected = meant.elapsed();
                    let reply = wire.ask(&requests[device]).await?;
                    Ok::<_, std::io::Error>((connected, reply.status))
                };
                let visited = tokio::time::timeout(PATIENCE, visit).await;
                open.fetch_sub(1, Ordering::Relaxed);
                came.lock().unwrap_or_else(PoisonError::into_inner).note(meant, visited);
            });
        }
        next = due.min(devices as usize);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let arrived = begun.elapsed();
    while storm.join_next().await.is_some() {}
    let elapsed = begun.elapsed();
    let (after, resident_max) = (rig.usage(), watcher.stop().await);
    let own = Usage::of(std::process::id()).unwrap_or_default().cpu.saturating_sub(own_before.cpu);
    let came = std::mem::take(&mut *came.lock().unwrap_or_else(PoisonError::into_inner));
    println!(
        "{devices} devices meant to come within {:.1} s{}; the last was sent off after {:.2} s, answered after {:.2} s",
        within.as_secs_f64(),
        if tls { " over TLS" } else { "" },
        arrived.as_secs_f64(),
        elapsed.as_secs_f64()
    );
    println!("{:<34} {:>9} {:>9} {:>9} {:>9} {:>9}", "from the time it was meant to come", "p50 ms", "p90", "p99", "p99.9", "max");
    for (what, latency) in [("connected", &came.connected_us), ("answered", &came.answered_us)] {
        let Some(latency) = latency else { continue };
        let at = |quantile| ms(latency, quantile);
        let max = latency.max() as f64 / 1e3;
        println!("{what:<34} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {max:>9.1}", at(0.5), at(0.9), at(0.99), at(0.999));
    }
    for (end, count) in &came.ends {
        println!("{end:<34} {count:>9}");
    }
    let cpu = after.cpu.saturating_sub(before.cpu);
    println!(
        "the server took {:.2} s of processor ({:.0} µs a device), this client {:.2} s; at most {} connections at once",
        cpu.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / f64::from(devices),
        own.as_secs_f64(),
        open_max.load(Ordering::Relaxed)
    );
    println!(
        "the server's memory: {:.1} MB before, {:.1} MB at most, {:.1} MB after",
        before.resident_bytes as f64 / 1e6,
        resident_max as f64 / 1e6,
        after.resident_bytes as f64 / 1e6
    );
    rig.stop().await
}

impl Came {
    fn note(&mut self, meant: Instant, visited: Result<std::io::Result<(Duration, u16)>, tokio::time::error::Elapsed>) {
        let end = match visited {
            Ok(Ok((connected, status))) => {
                let record = |histogram: &mut Option<Histogram<u64>>, latency: Duration| {
                    if let Some(histogram) = histogram {
                        histogram.saturating_record(latency.as_micros() as u64);
                    }
                };
                record(&mut self.connected_us, connected);
                if status == 200 {
                    record(&mut self.answered_us, meant.elapsed());
                }
                match status {
                    200 => "answered (200)".to_owned(),
                    503 => "sent away (503)".to_owned(),
                    other => format!("status {other}"),
                }
            }
            Ok(Err(error)) => format!("broke: {:?}", error.kind()),
            Err(_) => format!("gave up after {} s", PATIENCE.as_secs()),
        };
        *self.ends.entry(end).or_default() += 1;
    }
}

/// Looks at the server's memory again and again.
struct Watcher {
    stop: Arc<AtomicBool>,
    watching: tokio::task::JoinHandle<u64>,
}

impl Watcher {
    fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let watching = tokio::spawn(async move {
            let mut resident_max = 0;
            while !told.load(Ordering::Relaxed) {
                resident_max = resident_max.max(Usage::of(pid).unwrap_or_default().resident_bytes);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            resident_max
        });
        Self { stop, watching }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.await.unwrap_or_default()
    }
}

// Reports as fast as they go

async fn reports(connections: u32, run: Duration) -> Result<(), String> {
    let mut rig = Rig::start(false).await?;
    let (idle, idle_tokens) = rig.fleet(connections, false).await?;
    let (rollout, tokens) = rig.fleet(connections, true).await?;
    let mut checks = Vec::new();
    let mut reports = Vec::new();
    let mut wires = Vec::new();
    for (device, token) in tokens.iter().enumerate() {
        let mut wire = Wire::connect(&rig.target, source(device)).await.map_err(|error| error.to_string())?;
        let reply = wire.ask(&check(&rollout, device, token, "")).await.and_then(expect_ok).map_err(|error| error.to_string())?;
        let offer: Value = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
        let report = |state: &str| {
            let body = json!({
                "product_id": rollout.product_id, "device_id": device_id(device), "upgrade_id": offer["upgrade"]["id"], "state": state,
            });
            post("/api/v1/report", token, &body.to_string(), "")
        };
        // Pausing and going on again is a change every time.
        reports.push(vec![report("downloading"), report("paused")]);
        checks.push(vec![check(&idle, device, &idle_tokens[device], "")]);
        wires.push(wire);
    }
    println!("{connections} connections, each sends its next request once the last is answered, {} s each:", run.as_secs());
    println!(
        "{:<26} {:>11} {:>9} {:>9} {:>9} {:>16} {:>10}",
        "", "requests/s", "p50 ms", "p99 ms", "max ms", "server µs each", "a group"
    );
    let mut rates = Vec::new();
    for (what, requests) in [("checks, nothing to do", checks), ("reports, durable", reports)] {
        let groups_before = groups(&mut rig).await?;
        let cpu_before = rig.usage().cpu;
        let begun = Instant::now();
        let (latency, back) = as_fast_as_they_go(wires, requests, run).await?;
        wires = back;
        let elapsed = begun.elapsed().as_secs_f64();
        let cpu = rig.usage().cpu.saturating_sub(cpu_before).as_secs_f64();
        let groups = groups(&mut rig).await?;
        let group = (groups.0 - groups_before.0) / (groups.1 - groups_before.1).max(1.0);
        let rate = latency.len() as f64 / elapsed;
        rates.push(rate);
        println!(
            "{what:<26} {rate:>11.0} {:>9.2} {:>9.2} {:>9.2} {:>16.1} {group:>10.1}",
            ms(&latency, 0.5),
            ms(&latency, 0.99),
            latency.max() as f64 / 1e3,
            cpu * 1e6 / latency.len() as f64
        );
    }
    if let [checks, reports] = rates[..] {
        println!("reports come to {:.2} of the rate of checks", reports / checks);
    }
    drop(wires);
    rig.stop().await
}

/// Commands and groups of the writer so far.
async fn groups(rig: &mut Rig) -> Result<(f64, f64), String> {
    let sum = rig.metric("sluicegate_writer_group_commands_sum").await?;
    Ok((sum, rig.metric("sluicegate_writer_group_commands_count").await?))
}

async fn as_fast_as_they_go(
    wires: Vec<Wire>,
    requests: Vec<Vec<Vec<u8>>>,
    run: Duration,
) -> Result<(Histogram<u64>, Vec<Wire>), String> {
    let begun = Instant::now();
    let mut drivers = JoinSet::new();
    for (mut wire, requests) in wires.into_iter().zip(requests) {
        drivers.spawn(async move {
            let mut latency = histogram();
            let mut turns = requests.iter().cycle();
            while begun.elapsed() < run {
                let Some(request) = turns.next() else { break };
                let sent = Instant::now();
                wire.ask(request).await.and_then(expect_ok)?;
                latency.saturating_record(sent.elapsed().as_micros() as u64);
            }
            Ok::<_, std::io::Error>((latency, wire))
        });
    }
    let (mut total, mut wires) = (histogram(), Vec::new());
    while let Some(driven) = drivers.join_next().await {
        let (latency, wire) = driven.map_err(|error| error.to_string())?.map_err(|error| format!("a request failed: {error}"))?;
        // Same bounds everywhere: adding can't fail.
        let _ = total.add(latency);
        wires.push(wire);
    }
    Ok((total, wires))
}
