//! More than the server can do: devices that ask by the clock, from half of its capacity to four times that, and half again.
//!
//! Each device asks over a connection of its own, in turn a check and a durable report, at a time of its own and then every so often.
//! Times count from when a device meant to ask. One whose answer is late asks next when that answer has come: what it meant to ask in
//! between is counted as left out. What arrives after a step's end is waited for and counted as late: it is in the times, and in no
//! rate. The server has one processor and the devices the others, so that what the devices take isn't taken from it.

use crate::options::Overload;
use crate::rig::{Rig, connections_max};
use crate::setup::{Rollout, device_id};
use crate::single::{check, expect_ok, histogram, ms};
use crate::wire::{Target, Wire, post, source};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How many ask at once while the capacity is measured: enough to keep the server busy, few enough to be answered at once.
const PROBING: usize = 256;
/// A device has given up by then.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn run(options: Overload) -> Result<(), String> {
    let devices = u64::from(options.devices).min(connections_max()) as usize;
    let mut rig = Rig::start_with(false, &["--workers", "1"]).await?;
    let (rollout, tokens) = rig.fleet(devices as u32, true).await?;
    split_processors(rig.pid())?;
    let mut callers = callers(&rig.target, &rollout, &tokens).await?;
    let span = Duration::from_secs(options.seconds.into());
    let capacity = capacity(&mut callers, span).await?;
    println!("capacity: {capacity:.0} requests/s, half of them checks and half durable reports, {PROBING} at once");
    println!(
        "{devices} devices, each on a connection of its own, {}; times from when each meant to ask",
        if options.stubborn { "asking on whatever Retry-After says" } else { "coming back when Retry-After says" }
    );
    println!(
        "{:>8} {:>9} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>14} {:>11}",
        "asked",
        "a second",
        "answered/s",
        "of cap.",
        "503/s",
        "left out",
        "late",
        "p50 ms",
        "p99 ms",
        "max ms",
        "never answered",
        "server MB"
    );
    let mut faults = Vec::new();
    for step in &options.steps {
        let before = rig.metric("sluicegate_http_requests_shed_total").await?;
        let (heard, back) = ask(callers, capacity * step, span, options.stubborn).await?;
        callers = back;
        let shed = rig.metric("sluicegate_http_requests_shed_total").await? - before;
        let mut latency = histogram();
        heard.answered_us.iter().for_each(|us| latency.saturating_record(*us));
        let seconds = span.as_secs_f64();
        let answered = heard.answered_in_time as f64 / seconds;
        println!(
            "{step:>7.1}x {:>9.0} {answered:>10.0} {:>8.0}% {:>9.0} {:>9.0} {:>9} {:>9.1} {:>9.1} {:>9.1} {:>14} {:>11.1}",
            capacity * step,
            100.0 * answered / capacity,
            heard.refused_in_time as f64 / seconds,
            heard.left_out as f64 / seconds,
            heard.late(),
            ms(&latency, 0.5),
            ms(&latency, 0.99),
            latency.max() as f64 / 1e3,
            heard.never_answered,
            rig.usage().resident_bytes as f64 / 1e6,
        );
        if shed as u64 > heard.refused {
            faults.push(format!("{shed} requests were shed, {} refusals arrived", heard.refused));
        }
        faults.extend(heard.faults);
    }
    drop(callers);
    rig.stop().await?;
    match faults.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} faults; the first: {first}", faults.len())),
    }
}

/// Gives the server a processor of its own.
fn split_processors(server: u32) -> Result<(), String> {
    let usable = sched_getaffinity(None).map_err(|error| format!("the processors to run on are unknown: {error}"))?;
    let Some(shares) = Shares::of(usable) else {
        println!("one processor only: what the devices take is taken from the server");
        return Ok(());
    };
    for (process, set) in [(server, shares.of_server), (std::process::id(), shares.of_devices)] {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).map_err(|error| error.to_string())?;
        for thread in threads.flatten() {
            let thread = thread.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            // Without a number it would be this thread.
            let Some(thread) = thread else { continue };
            match sched_setaffinity(Some(thread), &set) {
                // A thread that has just ended is nobody's concern.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(format!("a thread of process {process} can't be moved to its processors: {error}")),
            }
        }
    }
    Ok(())
}

/// Who has which processors.
#[derive(Debug, PartialEq)]
struct Shares {
    of_server: CpuSet,
    of_devices: CpuSet,
}

impl Shares {
    /// The first is the server's, the others are the devices'; `None` where there is no other.
    fn of(usable: CpuSet) -> Option<Self> {
        let first = (0..CpuSet::MAX_CPU).find(|one| usable.is_set(*one))?;
        let (mut of_server, mut of_devices) = (CpuSet::new(), usable);
        of_server.set(first);
        of_devices.unset(first);
        (of_devices != CpuSet::new()).then_some(Self { of_server, of_devices })
    }
}

/// A device with its connection and what it says in turn.
struct Caller {
    target: Target,
    number: usize,
    wire: Wire,
    requests: [Vec<u8>; 4],
    turn: usize,
    answered: bool,
}

async fn callers(target: &Target, rollout: &Rollout, tokens: &[String]) -> Result<Vec<Caller>, String> {
    let mut callers = Vec::with_capacity(tokens.len());
    for (number, token) in tokens.iter().enumerate() {
        let mut wire = Wire::connect(target, source(number)).await.map_err(|error| error.to_string())?;
        let asked = check(rollout, number, token, "");
        let reply = wire.ask(&asked).await.and_then(expect_ok).map_err(|error| error.to_string())?;
        let offer: Value = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
        let report = |state: &str| {
            let body = json!({
                "product_id": rollout.product_id, "device_id": device_id(number), "upgrade_id": offer["upgrade"]["id"], "state": state,
            });
            post("/api/v1/report", token, &body.to_string(), "")
        };
        // Pausing and going on again is a change every time.
        let requests = [asked.clone(), report("downloading"), asked.clone(), report("paused")];
        callers.push(Caller { target: target.clone(), number, wire, requests, turn: 0, answered: false });
    }
    Ok(callers)
}

/// Requests a second that some callers get answered who ask as fast as they are answered.
async fn capacity(callers: &mut Vec<Caller>, span: Duration) -> Result<f64, String> {
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    for mut caller in callers.drain(..callers.len().min(PROBING)) {
        asking.spawn(async move {
            let mut answered = 0_u64;
            while begun.elapsed() < span {
                caller.wire.ask(&caller.requests[caller.turn]).await.and_then(expect_ok)?;
                caller.turn = (caller.turn + 1) % caller.requests.len();
                answered += 1;
            }
            Ok::<_, std::io::Error>((answered, caller))
        });
    }
    let mut sum = 0;
    while let Some(asked) = asking.join_next().await {
        let (answered, caller) = asked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        sum += answered;
        callers.push(caller);
    }
    Ok(sum as f64 / begun.elapsed().as_secs_f64())
}

/// What came of a step, for one device or for all.
#[derive(Default)]
struct Heard {
    /// How long each answer took, late ones too.
    answered_us: Vec<u64>,
    /// Late ones too.
    refused: u64,
    /// Before the step's end.
    answered_in_time: u64,
    refused_in_time: u64,
    /// Not asked, since the answer before was late or said to wait.
    left_out: u64,
    /// Devices that got no answer in the whole step.
    never_answered: usize,
    faults: Vec<String>,
}

impl Heard {
    /// Answers and refusals after the step's end.
    fn late(&self) -> u64 {
        self.answered_us.len() as u64 + self.refused - self.answered_in_time - self.refused_in_time
    }
}

async fn ask(callers: Vec<Caller>, rate: f64, span: Duration, stubborn: bool) -> Result<(Heard, Vec<Caller>), String> {
    let count = callers.len();
    let every = Duration::from_secs_f64(count as f64 / rate);
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    for (place, caller) in callers.into_iter().enumerate() {
        let first = begun + every.mul_f64(place as f64 / count as f64);
        asking.spawn(caller.ask_by_the_clock(first, every, begun + span, stubborn));
    }
    let mut total = Heard::default();
    let mut back = Vec::with_capacity(count);
    while let Some(asked) = asking.join_next().await {
        let (heard, caller) = asked.map_err(|error| error.to_string())?;
        total.answered_us.extend(heard.answered_us);
        total.refused += heard.refused;
        total.answered_in_time += heard.answered_in_time;
        total.refused_in_time += heard.refused_in_time;
        total.left_out += heard.left_out;
        total.never_answered += usize::from(!caller.answered);
        total.faults.extend(heard.faults);
        back.push(caller);
    }
    back.sort_by_key(|caller| caller.number);
    Ok((total, back))
}

impl Caller {
    async fn ask_by_the_clock(mut self, first: Instant, every: Duration, end: Instant, stubborn: bool) -> (Heard, Self) {
        let mut heard = Heard::default();
        self.answered = false;
        let mut due = first;
        while due < end {
            tokio::time::sleep_until(due.into()).await;
            let asked = tokio::time::timeout(PATIENCE, self.wire.ask(&self.requests[self.turn])).await;
            let arrived = Instant::now();
            let in_time = u64::from(arrived < end);
            let mut not_before = arrived;
            match asked {
                Ok(Ok(reply)) if reply.status == 200 => {
                    self.turn = (self.turn + 1) % self.requests.len();
                    self.answered = true;
                    heard.answered_us.push((arrived - due).as_micros() as u64);
                    heard.answered_in_time += in_time;
                }
                Ok(Ok(reply)) if reply.status == 503 => {
                    heard.refused += 1;
                    heard.refused_in_time += in_time;
                    match reply.retry_after_s {
                        Some(seconds) if !stubborn => not_before += Duration::from_secs(seconds),
                        Some(_) => {}
                        None => heard.faults.push("a refusal without Retry-After".to_owned()),
                    }
                }
                Ok(Ok(reply)) => heard.faults.push(format!("status {}", reply.status)),
                Ok(Err(error)) => heard.faults.push(error.to_string()),
                Err(_) => heard.faults.push(format!("no answer within {} s", PATIENCE.as_secs())),
            }
            if !heard.faults.is_empty() {
                // Nothing more is learnt on this connection; the next step has a new one.
                match Wire::connect(&self.target, source(self.number)).await {
                    Ok(wire) => self.wire = wire,
                    Err(error) => heard.faults.push(error.to_string()),
                }
                break;
            }
            due += every;
            heard.left_out += leave_out(&mut due, every, not_before.min(end));
        }
        (heard, self)
    }
}

/// Goes past what was meant to be asked before `until`, and counts it.
fn leave_out(due: &mut Instant, every: Duration, until: Instant) -> u64 {
    let mut left_out = 0;
    while *due < until {
        left_out += 1;
        *due += every;
    }
    left_out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_meant_before_a_caller_may_ask_again_is_left_out() {
        let zero = Instant::now();
        let at = |seconds| zero + Duration::from_secs(seconds);
        let left_out = |first, until| {
            let mut due = at(first);
            let count = leave_out(&mut due, Duration::from_secs(2), at(until));
            (count, due - zero)
        };
        assert_eq!(left_out(4, 3), (0, Duration::from_secs(4)));
        assert_eq!(left_out(4, 4), (0, Duration::from_secs(4)));
        assert_eq!(left_out(4, 5), (1, Duration::from_secs(6)));
        assert_eq!(left_out(4, 10), (3, Duration::from_secs(10)));
    }

    #[test]
    fn what_comes_after_the_end_is_late_and_in_no_rate() {
        let heard = Heard { answered_us: vec![1, 2, 3], refused: 4, answered_in_time: 2, refused_in_time: 1, ..Heard::default() };
        assert_eq!(heard.late(), 4);
    }

    #[test]
    fn the_server_has_the_first_processor_that_may_be_used() {
        let set = |processors: &[usize]| {
            let mut set = CpuSet::new();
            processors.iter().for_each(|one| set.set(*one));
            set
        };
        let shares = Shares { of_server: set(&[3]), of_devices: set(&[5, 6]) };
        assert_eq!(Shares::of(set(&[3, 5, 6])), Some(shares));
        assert_eq!(Shares::of(set(&[7])), None);
    }
}
