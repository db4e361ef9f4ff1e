//! How we stand against nginx, in one command: `bench/compare`.
//!
//! A run: 1. pin this program, and with it every load, to one processor   2. start both servers on the other, each with one worker, on
//! the same files and certificate   3. prove that they serve the same   4. measure row by row, taking turns   5. print tables, draw a
//! plot   6. stop everything and remove its folder. It writes nowhere else than where its options say.
//!
//! What is measured is the kernel's account of the server process, so neither the load's cost nor the other processor's noise counts.

mod content;
mod failure;
mod fairness;
mod floor;
mod handshake;
mod http;
mod machine;
mod measure;
mod nginx;
mod options;
mod plot;
mod process;
mod proof;
mod results;
mod sluicegate;
mod table;
mod tls;
mod world;
mod wrk;

use clap::Parser;
use failure::{Context, Failure, Outcome};
use measure::Measurer;
use options::{Arguments, Command, Options};
use results::Results;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use world::World;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        None => compare(&arguments.options),
        Some(Command::Draw { results, plot }) => draw(results, plot),
        Some(Command::Launch { processor, gently, program }) => Err(process::launch(*processor, *gently, program)),
        Some(Command::Floor { reply }) => floor::serve(reply),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Outcome<()> {
    if options.server_processor == options.load_processor {
        return Err(Failure::new(format!(
            "expected two processors, got {} for server and load; name another by --load-processor",
            options.load_processor
        )));
    }
    // Before any thread: all of them, and all loads, inherit it.
    machine::pin(options.load_processor)?;
    machine::raise_open_files();
    watch_for_signals()?;
    let program = program(options)?;
    let mut results = Results { head: machine::description(&program)?, ..Results::default() };
    results.head.push(settings(options));

    let load_average = machine::load_average();
    if load_average > QUIET_MAX {
        eprintln!("the machine is busy (load average {load_average:.1}): ratios will be rough, rates and latencies mean little");
    }
    eprintln!("setting up");
    let mut world = World::build(options, &program)?;
    let measured = measure_all(options, &mut world, &mut results);
    if measured.is_err() {
        eprint!("{}", world.complaints());
    }
    // Everything that was started ends here, before anything else can fail.
    drop(world);
    measured?;
    keep(&options.table(), || table::markdown(&results))?;
    keep(&options.plot(), || plot::svg(&results))?;
    let json = serde_json::to_string_pretty(&results).context(|| "the figures as JSON".to_owned())?;
    keep(&options.json, || json)
}

/// All rows, printed as they come.
fn measure_all(options: &Options, world: &mut World, results: &mut Results) -> Outcome<()> {
    eprintln!("comparing what both serve, byte by byte");
    let agreed = world.prove(options)?;
    results.head.extend((!agreed.is_empty()).then(|| format!("TLS: {}", agreed.join("; "))));
    for (kind, body, head, nginx_head) in &world.reply_bytes {
        let label = kind.label();
        results
            .head
            .push(format!("replies to a check, {label}: {body} bytes of body; {head} of head from us, {nginx_head} from nginx"));
    }
    let rows = world.rows(options);
    let connections = options.connections();
    let count = rows.len() * connections.len();
    let mut estimate = Measurer::estimate(options) * u32::try_from(count).unwrap_or(u32::MAX);
    if options.fairness {
        estimate += fairness::estimate(options);
    }
    eprintln!("{count} measurements; about {} min {} s", estimate.as_secs() / 60, estimate.as_secs() % 60);
    print!("{}", table::head(results));
    let mut measurer = Measurer::new(options);
    let mut heading = "";
    for row in &rows {
        if row.table != heading {
            heading = &row.table;
            print!("{}", table::table_head(heading));
        }
        for connections in &connections {
            match measurer.row(world, row, *connections)? {
                Some(measured) => {
                    print!("{}", table::line(&measured));
                    results.rows.push(measured);
                }
                None => {
                    eprintln!("{}, {connections} connections: too little was done to say anything; give more --seconds", row.label)
                }
            }
        }
    }
    if options.fairness {
        eprintln!("checks beside slow downloads");
        results.fairness = fairness::run(options, world, &mut measurer)?;
        print!("{}", table::fairness(&results.fairness));
    }
    Ok(())
}

fn settings(options: &Options) -> String {
    format!(
        "each server: one worker on processor {}; load: one thread on processor {}; {} rounds of {} s, medians; load average before: {:.2}",
        options.server_processor,
        options.load_processor,
        options.rounds(),
        options.seconds(),
        machine::load_average()
    )
}

/// Beyond this somebody else wants the processors too.
const QUIET_MAX: f64 = 0.7;

/// Our server, as it is built beside this program.
fn program(options: &Options) -> Outcome<PathBuf> {
    let own = std::env::current_exe().context(|| "the path of this program is unknown".to_owned())?;
    let beside = own.parent().unwrap_or(Path::new(".")).join("sluicegate");
    let program = options.sluicegate.clone().unwrap_or(beside);
    if program.is_file() {
        return Ok(program);
    }
    Err(Failure::new(format!(
        "no server at {}; run bench/compare, which builds it, or name one by --sluicegate",
        program.display()
    )))
}

/// The first signal has everything stop in order, the second ends this program at once; what it started ends either way.
fn watch_for_signals() -> Outcome<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context(|| "no runtime for signals".to_owned())?;
    let registered =
        runtime.block_on(async { Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)) });
    let (mut interrupt, mut terminate) = registered.context(|| "signals can't be watched".to_owned())?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                if process::INTERRUPTED.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    });
    Ok(())
}

fn draw(results: &Path, plot: &Path) -> Outcome<()> {
    let text = std::fs::read_to_string(results).context(|| format!("{} can't be read", results.display()))?;
    let results: Results = serde_json::from_str(&text).context(|| format!("{} is not what --json writes", results.display()))?;
    print!("{}", table::markdown(&results));
    keep(&Some(plot.to_owned()), || plot::svg(&results))
}

fn keep(path: &Option<PathBuf>, text: impl FnOnce() -> String) -> Outcome<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, text()).context(|| format!("{} can't be written", path.display()))?;
    eprintln!("written: {}", path.display());
    Ok(())
}
