//! What is compared, and for how long: the command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Sluicegate beside nginx: processor time of the server, rate and latency, taking turns in one run.
#[derive(Debug, Parser)]
#[command(name = "compare", args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) options: Options,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draws the plot and prints the tables of a run that was kept with --json.
    Draw {
        /// What --json wrote.
        results: PathBuf,
        /// Where the plot goes.
        #[arg(long, default_value = "docs/compare.svg")]
        plot: PathBuf,
    },
    /// Runs a program on one processor, and has it end with this one's parent. Used by the comparison itself.
    #[command(hide = true)]
    Launch {
        processor: usize,
        /// The program gets SIGTERM rather than SIGKILL when its parent is gone.
        #[arg(long)]
        gently: bool,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
    /// Answers every request with the bytes of a file. Used by the comparison itself, as the floor.
    #[command(hide = true)]
    Floor { reply: PathBuf },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// What to compare. `tls` is the TLS form of those of the first three that are named, of all three if none is.
    #[arg(long, value_delimiter = ',', default_value = "check,image,range,tls,handshake")]
    pub(crate) rows: Vec<Family>,
    /// Connections at once; each row is measured with each number [default: 1,16,64,256].
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: Option<Vec<u32>>,
    /// Sizes of whole images [default: 4k,64k,1m,16m,256m,1g].
    #[arg(long, value_delimiter = ',', value_parser = size)]
    sizes: Option<Vec<u64>>,
    /// How long each measurement takes [default: 2].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: Option<u32>,
    /// How often the contenders take turns; medians are shown [default: 3].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// A look in a few minutes: one round of one second, 16 connections, three sizes. What is given beside it wins.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Also measures device checks beside a thousand slow downloads.
    #[arg(long)]
    pub(crate) fairness: bool,
    /// Slow downloads at once.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) downloads: u32,
    /// Devices that check in turn, each with a token of its own.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) devices: u32,
    /// Where both servers run.
    #[arg(long, default_value_t = 0)]
    pub(crate) server_processor: usize,
    /// Where the load is made.
    #[arg(long, default_value_t = 1)]
    pub(crate) load_processor: usize,
    /// The tables go here too, as Markdown [default: docs/compare.md, with --quick nowhere].
    #[arg(long)]
    table: Option<PathBuf>,
    /// The plot goes here, as SVG [default: docs/compare.svg, with --quick nowhere].
    #[arg(long)]
    plot: Option<PathBuf>,
    /// All figures go here, for `draw` and for programs.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Where images and data are kept during the run, on a disk with room for them [default: the system's temporary folder].
    #[arg(long)]
    pub(crate) folder: Option<PathBuf>,
    /// The server's program [default: `sluicegate` beside this one].
    #[arg(long)]
    pub(crate) sluicegate: Option<PathBuf>,
}

/// Rows that are chosen together.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Family {
    Check,
    Image,
    Range,
    Tls,
    Handshake,
}

impl Options {
    pub(crate) fn connections(&self) -> Vec<u32> {
        self.connections.clone().unwrap_or_else(|| if self.quick { vec![16] } else { vec![1, 16, 64, 256] })
    }

    pub(crate) fn sizes(&self) -> Vec<u64> {
        let quick = || vec![4 << 10, 1 << 20, 16 << 20];
        let all = || vec![4 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20, 1 << 30];
        self.sizes.clone().unwrap_or_else(|| if self.quick { quick() } else { all() })
    }

    pub(crate) fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.quick { 1 } else { 2 })
    }

    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// Where the servers run, and where the load is made.
    pub(crate) fn processors(&self) -> [usize; 2] {
        [self.server_processor, self.load_processor]
    }

    pub(crate) fn table(&self) -> Option<PathBuf> {
        self.table.clone().or_else(|| self.kept("docs/compare.md"))
    }

    pub(crate) fn plot(&self) -> Option<PathBuf> {
        self.plot.clone().or_else(|| self.kept("docs/compare.svg"))
    }

    /// A quick look's figures aren't for keeping.
    fn kept(&self, path: &str) -> Option<PathBuf> {
        (!self.quick).then(|| path.into())
    }
}

/// Reads `4096`, `4k`, `1m` or `1g`.
fn size(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a size from 1k to 4g, like 64k, 16m or 1g, got {text:?}");
    let text = text.to_ascii_lowercase();
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k')) => (&text[..at], 10),
        Some((at, 'm')) => (&text[..at], 20),
        Some((at, 'g')) => (&text[..at], 30),
        _ => (text.as_str(), 0),
    };
    let number: u64 = digits.parse().map_err(|_| expected())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(expected)?;
    if (1 << 10..=4 << 30).contains(&bytes) { Ok(bytes) } else { Err(expected()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!(size("64k"), Ok(64 << 10));
        assert_eq!(size("1G"), Ok(1 << 30));
        assert_eq!(size("4096"), Ok(4096));
        assert!(size("").is_err() && size("k").is_err() && size("5g").is_err() && size("1").is_err());
    }

    #[test]
    fn what_is_given_beside_quick_wins() {
        let options = Arguments::parse_from(["compare", "--quick", "--connections", "1,64"]).options;
        assert_eq!((options.connections(), options.seconds(), options.plot()), (vec![1, 64], 1, None));
    }
}
