//! `verify`: checks a folder that no server has open, and changes nothing.

use super::{Failure, print, print_json};
use clap::Args;
use serde_json::json;
use sluicegate::image::ImageStore;
use sluicegate::store::{Loaded, Row, SqliteStore, StoreError, VerifyReport};
use std::path::{Path, PathBuf};

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
    let VerifyReport { mut problems, images, .. } = read_rows(folder).map_err(|error| Failure::caused(&error))?;
    problems.extend(ImageStore::verify_all(folder, &images));
    if arguments.json {
        print_json(&json!({ "images": images.len(), "problems": problems }));
    } else if problems.is_empty() {
        print(&format!("{}: every row and all {} images are as they were written", folder.display(), images.len()));
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

/// Reads every row; one that can't be read is an error.
fn read_rows(folder: &Path) -> Result<VerifyReport, StoreError> {
    let mut report = VerifyReport::default();
    let opened = SqliteStore::open(folder, &mut |loaded| {
        if let Loaded::Row(Row::Image(image)) = loaded {
            report.images.push((image.id, image.size));
        }
    });
    drop(opened?);
    report.images.sort();
    report.images.dedup();
    Ok(report)
}
