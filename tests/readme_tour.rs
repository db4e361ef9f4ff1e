//! The README's tour, run as it stands, so that it can't go stale.

use crate::common::{ADMIN_TOKEN, TestServer};
use std::process::Command;

const README: &str = include_str!("../README.md");

#[test]
fn the_readmes_tour_works_as_pasted() {
    let tour = tour(README);
    assert!(tour.contains("curl") && tour.contains("cargo run"), "the README has no tour any more:\n{tour}");
    // The one thing that is replaced: the program has been built already.
    let script = format!(
        "set -euo pipefail\ncargo() {{ while [ \"$1\" != -- ]; do shift; done; shift; '{}' \"$@\"; }}\n{tour}",
        env!("CARGO_BIN_EXE_sluicegate")
    );
    let server = TestServer::start();
    let folder = tempfile::tempdir().unwrap();
    let run = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("SERVER", server.url())
        .env("SLUICEGATE_ADMIN_TOKEN", ADMIN_TOKEN)
        .output()
        .expect("bash and curl are needed: apt-get install bash curl");
    let said = format!("{}\n{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "the tour stopped ({}):\n{said}\nserver:\n{}", run.status, server.log());
    assert!(said.contains("\"reason\":\"cap\""), "the second lamp was not held by the cap:\n{said}");
}

/// The shell blocks behind a `<!-- tour -->` mark, one after another.
fn tour(readme: &str) -> String {
    readme.split("<!-- tour -->\n```sh\n").skip(1).filter_map(|block| block.split("\n```").next()).collect::<Vec<_>>().join("\n")
}
