//! A simulated fleet against the real server: what it promises, measured and proved from outside.
//!
//! A run: 1. start a server (or use a running one)   2. upload, create and start a task, register the fleet, issue its tokens
//! 3. drive every device to its end, watching the permits   4. hold the server's counts and rows against the fleet's own ledger
//! 5. stop the server and verify its folder. Exits with 0 if every promise was kept, 1 if not, 2 for a usage error.

mod client;
mod device;
mod fleet;
mod ledger;
mod measurements;
mod monitor;
mod options;
mod progress;
mod random;
mod server_process;
mod setup;
mod verdict;

use clap::Parser;
use client::{ClientError, Endpoint, bearer_value};
use device::{Device, World};
use ledger::Ledger;
use monitor::Watched;
use options::Options;
use progress::Progress;
use rustix::process::{Resource, getrlimit, setrlimit};
use server_process::{ServerHome, ServerProcess};
use setup::Operator;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tempfile::TempDir;
use verdict::Outcome;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(message) = options.validate() {
        eprintln!("error: {message}");
        return ExitCode::from(2);
    }
    raise_open_files();
    eprintln!("sluicegate-loadtest {}", verdict::description(&options));
    let run = async {
        match options.url.clone() {
            Some(url) => run_against(options, &url).await,
            None => run_with_own_server(options).await,
        }
    };
    let result = tokio::select! {
        result = run => result,
        // Dropping the run kills the own server and removes its folder.
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    };
    match result {
        Ok(faults) if faults.is_empty() => {
            eprintln!("all promises kept: the cap held, all digests are right, all counts are exact");
            ExitCode::SUCCESS
        }
        Ok(faults) => {
            for fault in faults {
                eprintln!("FAULT: {fault}");
            }
            ExitCode::FAILURE
        }
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn run_against(options: Options, url: &str) -> Result<Vec<String>, String> {
    let endpoint = Endpoint::parse(url)?;
    let admin_token = std::env::var("SLUICEGATE_ADMIN_TOKEN")
        .map_err(|_| "set SLUICEGATE_ADMIN_TOKEN to the running server's admin token".to_owned())?;
    let (faults, _) = run(options, endpoint, &admin_token, None).await?;
    Ok(faults)
}

async fn run_with_own_server(options: Options) -> Result<Vec<String>, String> {
    let binary = server_process::find_binary().await?;
    let mut folder = TempDir::with_prefix("sluicegate-loadtest-").map_err(|error| format!("no temporary folder: {error}"))?;
    let home = ServerHome { binary, folder: folder.path().to_owned(), admin_token: format!("loadtest-{:016x}", unique_number()) };
    let server = match options.kill_after {
        Some(_) => ServerProcess::start_on_lasting_port(&home).await?,
        None => ServerProcess::start(&home, "127.0.0.1:0").await?,
    };
    let endpoint = Endpoint::parse(&format!("http://{}", server.address))?;
    let result = run(options, endpoint, &home.admin_token, Some((home.clone(), server))).await;
    let result = match result {
        Ok((mut faults, Some(server))) => {
            faults.extend(server.stop().await.err());
            faults.extend(home.verify().await.err());
            Ok(faults)
        }
        Ok((faults, None)) => Ok(faults),
        Err(message) => Err(message),
    };
    if !matches!(&result, Ok(faults) if faults.is_empty()) {
        folder.disable_cleanup(true);
        eprintln!("the server's data and log are kept in {}", home.folder.display());
    }
    result
}

/// The run itself; gives the own server back, which is another one after a kill.
async fn run(
    options: Options,
    endpoint: Endpoint,
    admin_token: &str,
    own_server: Option<(ServerHome, ServerProcess)>,
) -> Result<(Vec<String>, Option<ServerProcess>), String> {
    let text = |error: ClientError| error.to_string();
    let admin_token = bearer_value(admin_token).map_err(text)?;
    let mut operator = Operator::new(endpoint.clone(), admin_token.clone());
    let product_id = format!("loadtest-{:016x}", unique_number());
    let rollout = Arc::new(setup::prepare_rollout(&options, product_id, &mut operator).await.map_err(text)?);
    let device_count = u64::from(options.devices);

    let registering = Progress::new("registering devices", device_count);
    setup::register_devices(&options, &rollout, &mut operator, &registering).await.map_err(text)?;
    registering.finish();
    let issuing = Arc::new(Progress::new("issuing their tokens", device_count));
    let tokens = setup::issue_tokens(&options, &endpoint, &rollout, &operator, &issuing).await.map_err(text)?;
    issuing.finish();

    let devices: Vec<Device> = tokens.into_iter().enumerate().map(|(index, token)| Device::new(index, token, &options)).collect();
    let world = Arc::new(World { ledger: Ledger::new(devices.len()), options, rollout });
    let upgrading = Arc::new(Progress::new("upgrading devices", device_count));
    let watched = Arc::new(Mutex::new(Watched::default()));
    let watcher = Operator::new(endpoint.clone(), admin_token.clone());
    let watcher = tokio::spawn(Watched::watch(watched.clone(), watcher, world.clone(), upgrading.clone()));
    let killer_operator = Operator::new(endpoint.clone(), admin_token);
    let (killer, own_server) = match (own_server, world.options.kill_after) {
        (Some((home, server)), Some(after)) => {
            let killing =
                monitor::kill_and_restart(home, server, u64::from(after), killer_operator, world.clone(), upgrading.clone());
            (Some(tokio::spawn(killing)), None)
        }
        (own_server, _) => (None, own_server.map(|(_, server)| server)),
    };

    let started_at = Instant::now();
    let measured = fleet::run(devices, &endpoint, &world, &upgrading).await.map_err(text)?;
    let elapsed = started_at.elapsed();
    upgrading.finish();
    let (own_server, restarts) = match killer {
        Some(killer) => (Some(killer.await.map_err(|error| error.to_string())??), 1),
        None => (own_server, 0),
    };
    eprintln!("waiting for the deadlines of the devices that vanished");
    let task = monitor::task_at_rest(&mut operator, &world).await.map_err(text)?;
    watcher.abort();
    let rows = monitor::rows(&mut operator, &world.rollout.task_path()).await.map_err(text)?;

    let counts_found = task["counts"].as_object().into_iter().flatten();
    let counts_found: BTreeMap<String, u64> =
        counts_found.filter_map(|(state, count)| Some((state.clone(), count.as_u64().filter(|count| *count > 0)?))).collect();
    let watched = *watched.lock().unwrap_or_else(PoisonError::into_inner);
    let counts_expected = world.ledger.compare_results(&rows);
    let fleet_permits_max = world.ledger.upgrading_at_once_max();
    let outcome = Outcome { elapsed, measured, watched, fleet_permits_max, counts_expected, counts_found, restarts };
    if world.options.json {
        println!("{:#}", outcome.to_json(&world));
    } else {
        println!("\n{}", outcome.to_text(&world));
    }
    Ok((outcome.faults(&world), own_server))
}

/// A number that no other run has had, for the names that a run leaves behind on a running server.
fn unique_number() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// Each connection takes a descriptor here and one in the server, which inherits the limit.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Refused at worst; then the connection that is one too many says so.
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum });
}
