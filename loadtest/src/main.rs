//! A simulated fleet against the real server: what it promises, measured and proved from outside.
//!
//! A run: 1. start a server (or use a running one)   2. upload, create and start a task, register the fleet, issue its tokens
//! 3. drive every device, or gateway, to its end, watching the permits   4. hold the server's counts and rows against the fleet's own
//! ledger   5. stop the server and verify its folder. Exits with 0 if every promise was kept, 1 if not, 2 for a usage error.

mod client;
mod device;
mod download;
mod fleet;
mod gateway;
mod gateways;
mod killer;
mod ledger;
mod measurements;
mod monitor;
mod mqtt_line;
mod options;
mod overload;
mod progress;
mod random;
mod rig;
mod server_process;
mod setup;
mod single;
mod usage;
mod verdict;
mod wire;

use clap::Parser;
use client::{ClientError, Endpoint, bearer_value};
use device::{Device, World};
use gateways::{MeetingPoint, Traffic};
use killer::Killer;
use ledger::Ledger;
use monitor::{Sights, Watched};
use options::Options;
use progress::Progress;
use rustix::process::{Resource, getrlimit, setrlimit};
use server_process::{Addresses, ServerHome, ServerProcess};
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
    if let Some(single) = options.single {
        return match single::run(single).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                eprintln!("error: {message}");
                ExitCode::FAILURE
            }
        };
    }
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
    let (admin_token, pid) = (format!("loadtest-{:016x}", unique_number()), Arc::default());
    let home = ServerHome { binary, folder: folder.path().to_owned(), admin_token, pid, arguments: Vec::new() };
    let mut addresses = Addresses::free(options.gateways.is_some(), options.broker.clone());
    if options.kill_after.is_some() || options.kills.is_some() {
        addresses = addresses.lasting()?;
    }
    let server = ServerProcess::start(&home, &addresses).await?;
    let endpoint = Endpoint::parse(&format!("http://{}", server.addresses.http))?;
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
    let member_count = u64::from(options.members());

    let registering = Progress::new("registering devices", member_count);
    setup::register_devices(&options, &rollout, &mut operator, &registering).await.map_err(text)?;
    registering.finish();
    let issuing = Arc::new(Progress::new("issuing their tokens", member_count));
    let tokens = setup::issue_tokens(&options, &endpoint, &rollout, &operator, &issuing).await.map_err(text)?;
    issuing.finish();

    let world = Arc::new(World { ledger: Ledger::new(tokens.len()), options, rollout });
    let fleet = Fleet::new(tokens, &endpoint, own_server.as_ref().map(|(_, server)| &server.addresses), &world)?;
    let traffic = Arc::new(Traffic::default());
    let upgrading = Arc::new(Progress::new("upgrading devices", member_count));
    let watched = Arc::new(Mutex::new(Watched::default()));
    let watcher = Operator::new(endpoint.clone(), admin_token.clone());
    let sights = Sights { pid: own_server.as_ref().map(|(home, _)| Arc::clone(&home.pid)), traffic: Arc::clone(&traffic) };
    let watcher = tokio::spawn(Watched::watch(watched.clone(), watcher, world.clone(), upgrading.clone(), sights));
    let killer_operator = Operator::new(endpoint.clone(), admin_token);
    let killer = match (world.options.kill_after, world.options.kills) {
        (Some(after), _) => Some(Killer::once(after.into())),
        (None, Some(kills)) => Some(Killer::often(kills, world.options.seed)),
        (None, None) => None,
    };
    let (killer, own_server) = match (own_server, killer) {
        (Some((home, server)), Some(killer)) => {
            (Some(tokio::spawn(killer.run(home, server, killer_operator, world.clone(), upgrading.clone()))), None)
        }
        (own_server, _) => (None, own_server.map(|(_, server)| server)),
    };

    let started_at = Instant::now();
    let (measured, ended_at) = match fleet {
        Fleet::Devices(devices) => {
            let measured = fleet::run(devices, &endpoint, &world, &upgrading).await.map_err(text)?;
            (measured, Instant::now())
        }
        Fleet::Gateways(tokens, at) => gateways::run(tokens, at, &world, &traffic, &upgrading).await,
    };
    let elapsed = ended_at - started_at;
    upgrading.finish();
    let (own_server, restarts) = match killer {
        Some(killer) => {
            let (server, restarts) = killer.await.map_err(|error| error.to_string())??;
            (Some(server), restarts)
        }
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
    let outcome = Outcome { elapsed, measured, watched, traffic, fleet_permits_max, counts_expected, counts_found, restarts };
    if world.options.json {
        println!("{:#}", outcome.to_json(&world));
    } else {
        println!("\n{}", outcome.to_text(&world));
    }
    Ok((outcome.faults(&world), own_server))
}

/// Who is upgraded.
enum Fleet {
    Devices(Vec<Device>),
    /// Their tokens, and where they go.
    Gateways(Vec<String>, MeetingPoint),
}

impl Fleet {
    fn new(tokens: Vec<String>, endpoint: &Endpoint, server: Option<&Addresses>, world: &World) -> Result<Self, String> {
        if world.options.gateways.is_none() {
            let device = |(index, token): (usize, &String)| Ok(Device::new(index, bearer_value(token)?, &world.options));
            let devices: Result<_, ClientError> = tokens.iter().enumerate().map(device).collect();
            return devices.map(Self::Devices).map_err(|error| error.to_string());
        }
        let mqtt = match &world.options.broker {
            Some(url) => gateways::address_of_broker(url)?,
            None => server.and_then(|server| server.mqtt.clone()).ok_or("gateways need a server of their own")?,
        };
        Ok(Self::Gateways(tokens, MeetingPoint { mqtt, http: endpoint.clone() }))
    }
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
