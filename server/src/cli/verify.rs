//! `verify`: checks a folder that no server has open, and changes nothing.

use super::Failure;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The folder to check
    #[arg(long, env = "SLUICEGATE_DATA", value_name = "DIR", default_value = "./sluicegate-data")]
    data: PathBuf,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let _ = (arguments.json, &arguments.data);
    Err(Failure::new("not yet"))
}
