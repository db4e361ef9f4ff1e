//! The command line: `serve` runs the server, the others speak to one; `verify` looks at a folder that no server has open.
//!
//! Exit codes: 0 done, 1 it could not be done, 2 asked for wrongly. What went wrong is one sentence on standard error that says what
//! to do next. Standard output carries results alone, so that scripts can read them.

mod client;
mod device;
mod duration;
mod firmware;
mod guide;
mod import;
mod serve;
mod status;
mod table;
mod task;
mod token;
mod verify;

use crate::app::App;
use crate::config::{Config, ConfigError, ServeArguments};
use clap::{Parser, Subcommand};
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

/// Decides which device may take which firmware now, exactly, and serves the images.
#[derive(Debug, Parser)]
#[command(name = "sluicegate", version, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server on the embedded store
    Serve(Box<ServeArguments>),
    /// Make tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Bring firmware to a server
    #[command(subcommand)]
    Firmware(firmware::Command),
    /// Bring devices to a server, and ask why one stands where it stands
    #[command(subcommand)]
    Device(device::Command),
    /// Look at tasks and steer them
    #[command(subcommand)]
    Task(task::Command),
    /// How a server is, in a few lines
    Status(status::Arguments),
    /// Check every row and every image of a folder that no server has open; changes nothing
    Verify(verify::Arguments),
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    // clap prints what was wrong and leaves with 2 by itself, or with 0 after help.
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Token(command) => token::run(&command),
        Command::Firmware(command) => firmware::run(&command),
        Command::Device(command) => device::run(&command),
        Command::Task(command) => task::run(&command),
        Command::Status(arguments) => status::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("error: {}", failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Opens a folder as `serve` does, for programs that measure; see [`crate::testing`].
pub(crate) fn open(config: Config, admin_token: Option<String>, plain: SocketAddr) -> Result<Arc<App>, String> {
    serve::open(config, admin_token, plain).map(|(app, _)| app).map_err(|failure| failure.message)
}

/// Why a command could not be done.
#[derive(Debug)]
struct Failure {
    code: u8,
    /// Empty where everything was said already.
    message: String,
}

impl Failure {
    /// It was asked for wrongly.
    fn usage(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    fn new(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// An error with everything that caused it.
    fn caused(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Some errors already say what caused them.
            if !message.contains(&cause_text) {
                // Writing to a text can't fail.
                let _ = write!(message, ": {cause_text}");
            }
            source = cause.source();
        }
        Self::new(message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

impl From<client::CallError> for Failure {
    fn from(error: client::CallError) -> Self {
        match error {
            client::CallError::Usage(message) => Self::usage(message),
            error => Self::caused(&error),
        }
    }
}

/// Prints a result. A reader that went away (`| head`) is no failure.
fn print(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints what a server answered, for scripts.
fn print_json(value: &serde_json::Value) {
    print(&serde_json::to_string_pretty(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_manual_is_understood() {
        for line in [
            "serve --data d --listen 127.0.0.1:0 --tls-listen 127.0.0.1:0 --tls-cert c --tls-key k --tls-client-ca a --public-url http://x --workers 2 --config f",
            "token issue --role device --product P --device D --ttl 2h",
            "token issue --role device --product P --ttl 8760h",
            "token issue --role operator --organization O --server http://127.0.0.1:1",
            "firmware push FILE --product P --version V",
            "firmware push FILE --product P --version V --type 2 --identify 3 --json",
            "device import FILE.ndjson",
            "task list --json",
            "task show 5ee1a910000000070000002a",
            "task start 5ee1a910000000070000002a",
            "task stop 5ee1a910000000070000002a",
            "task pause 5ee1a910000000070000002a",
            "task resume 5ee1a910000000070000002a",
            "task approve 5ee1a910000000070000002a",
            "task cancel 5ee1a910000000070000002a --json",
            "task open-wave 5ee1a910000000070000002a",
            "device import FILE.ndjson --from-line 1001 --json",
            "device explain D --product P",
            "device explain D --product P --type 2 --identify 1 --json",
            "status --json",
            "verify --data DIR --json",
        ] {
            let words = std::iter::once("sluicegate").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
