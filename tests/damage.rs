//! Data that changed on the disk behind the server's back: refused, never served, and named by `verify`.

use crate::common::fleet::upload;
use crate::common::server::{run, sluicegate};
use crate::common::{Fleet, TestServer, image_bytes};
use serde_json::json;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The one file below `folder` whose content is `image`.
pub(crate) fn file_of(folder: &Path, image: &[u8]) -> PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.metadata().unwrap().len() == image.len() as u64 && fs::read(entry.path()).unwrap() == image {
                return entry.path();
            }
        }
    }
    panic!("no file below {} holds the image", folder.display());
}

fn flip_a_bit(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(1_000)).unwrap();
    let byte = fs::read(path).unwrap()[1_000];
    file.write_all(&[byte ^ 1]).unwrap();
}

#[test]
fn a_damaged_image_is_never_served_and_the_rest_is() {
    let mut server = TestServer::start();
    let admin = server.admin();
    let (good, bad) = (image_bytes(40_000), image_bytes(50_000));
    let good_link = upload(&admin, &good)["url"].as_str().unwrap().to_owned();
    let bad_uploaded = upload(&admin, &bad);
    let bad_link = bad_uploaded["url"].as_str().unwrap().to_owned();
    assert!(server.stop().success());
    flip_a_bit(&file_of(&server.data(), &bad));
    server.start_again();
    let refused = server.anonymous().get(&bad_link);
    assert!(refused.status == 404 || refused.status >= 500, "{}", refused.status);
    let part = server.anonymous().request("GET", &bad_link).header("Range", "bytes=0-9").send();
    assert!(part.status == 404 || part.status >= 500, "{}", part.status);
    assert_eq!(server.anonymous().get(&good_link).expect(200).body, good);
    server.anonymous().get("/healthz").expect(200);
}

#[test]
fn a_shortened_or_vanished_image_is_refused_and_the_server_lives() {
    let mut server = TestServer::start();
    let admin = server.admin();
    let (short, gone, good) = (image_bytes(40_000), image_bytes(50_000), image_bytes(60_000));
    let links: Vec<String> =
        [&short, &gone, &good].into_iter().map(|image| upload(&admin, image)["url"].as_str().unwrap().to_owned()).collect();
    assert!(server.stop().success());
    let short_file = file_of(&server.data(), &short);
    fs::set_permissions(&short_file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::File::options().write(true).open(&short_file).unwrap().set_len(100).unwrap();
    fs::remove_file(file_of(&server.data(), &gone)).unwrap();
    server.start_again();
    for link in &links[..2] {
        let refused = server.anonymous().get(link);
        assert!(refused.status == 404 || refused.status >= 500, "{}", refused.status);
    }
    assert_eq!(server.anonymous().get(&links[2]).expect(200).body, good);
}

#[test]
fn the_same_bytes_uploaded_again_mend_a_damaged_image() {
    let mut server = TestServer::start();
    let image = image_bytes(50_000);
    upload(&server.admin(), &image);
    assert!(server.stop().success());
    flip_a_bit(&file_of(&server.data(), &image));
    server.start_again();
    let link = upload(&server.admin(), &image)["url"].as_str().unwrap().to_owned();
    assert_eq!(server.anonymous().get(&link).expect(200).body, image);
}

#[test]
fn verify_passes_good_data_and_names_a_damaged_image_and_changes_nothing() {
    let mut server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    fleet.device(&admin, "p-1").upgrade(&server);
    assert!(server.stop().success());
    let good = run(sluicegate().arg("verify").arg("--data").arg(server.data()));
    assert!(good.status.success(), "{} {}", String::from_utf8_lossy(&good.stdout), String::from_utf8_lossy(&good.stderr));
    let file = file_of(&server.data(), &fleet.image);
    flip_a_bit(&file);
    let damaged = fs::read(&file).unwrap();
    let bad = run(sluicegate().arg("verify").arg("--data").arg(server.data()));
    let said = format!("{}{}", String::from_utf8_lossy(&bad.stdout), String::from_utf8_lossy(&bad.stderr));
    assert!(bad.status.code().is_some_and(|code| code != 0), "{said}");
    assert!(said.contains(&fleet.image_id), "the image is not named: {said}");
    assert_eq!(fs::read(&file).unwrap(), damaged);
}

#[test]
fn verify_refuses_rows_that_are_no_database() {
    let mut server = TestServer::start();
    Fleet::new(&server.admin(), "pump");
    assert!(server.stop().success());
    let database = server.data().join("state.db");
    assert!(database.is_file(), "the tables are in {}", database.display());
    let mut file = fs::File::options().write(true).open(&database).unwrap();
    file.write_all(&[0xa5; 4_096]).unwrap();
    let bad = run(sluicegate().arg("verify").arg("--data").arg(server.data()));
    let said = String::from_utf8_lossy(&bad.stderr).into_owned() + &String::from_utf8_lossy(&bad.stdout);
    assert_eq!(bad.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn verify_of_a_folder_without_data_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("nothing-here");
    let output = run(sluicegate().arg("verify").arg("--data").arg(&missing));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nothing-here"), "{said}");
    assert!(!missing.exists(), "verify made the folder");
}
