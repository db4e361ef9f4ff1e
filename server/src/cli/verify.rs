//! `verify`: checks a folder that no server has open, and changes nothing.

use super::{Failure, print, print_json};
use clap::Args;
use serde_json::json;
use sluicegate::image::ImageStore;
use sluicegate::store::{self, VerifyReport};
use std::collections::BTreeMap;
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
    let folder = &arguments.data;
    if !folder.is_dir() {
        return Err(Failure::new(format!("{} is no folder; give the one that `serve --data` was given", folder.display())));
    }
    let VerifyReport { mut problems, images, rows, groups, .. } = store::verify(folder).map_err(|error| Failure::caused(&error))?;
    problems.extend(ImageStore::verify_all(folder, &images));
    if arguments.json {
        let rows: BTreeMap<_, _> = rows.into_iter().collect();
        print_json(&json!({ "rows": rows, "groups": groups, "images": images.len(), "problems": problems }));
    } else if problems.is_empty() {
        let rows: u64 = rows.iter().map(|(_, count)| count).sum();
        print(&format!("{}: all {rows} rows and all {} images are as they were written", folder.display(), images.len()));
    } else {
        print(&problems.join("\n"));
    }
    match problems.len() {
        0 => Ok(()),
        found => Err(Failure::new(format!(
            "{} has {found} problems; put damaged files back from a copy, or upload those images again",
            folder.display()
        ))),
    }
}
