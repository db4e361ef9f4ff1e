//! A file system with no room left under the real program.

use crate::common::fleet::upload;
use crate::common::{Fleet, TestServer, image_bytes};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A small file system in memory. It hangs in a mount namespace of its own, so nothing but who enters there sees it, and it is gone with
/// this value, whatever becomes of the test.
struct SmallDisk {
    /// Holds the namespace, and ends when its input does.
    keeper: Child,
    folder: TempDir,
}

impl SmallDisk {
    #[track_caller]
    fn new(size: &str) -> Self {
        let folder = TempDir::with_prefix("sluicegate-disk-").unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private"]).args(Self::as_root());
        let mount = "mount -t tmpfs -o size=$1 none \"$0\" && echo mounted && exec cat";
        let keeper = unshare.args(["sh", "-c", mount]).arg(folder.path()).arg(size);
        let mut keeper =
            keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this needs unshare: apt-get install util-linux");
        let mut said = String::new();
        BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "mounted\n", "this needs the right to mount in a namespace of its own: be root, or allow user namespaces");
        Self { keeper, folder }
    }

    /// Whoever isn't root is it within the namespace.
    fn as_root() -> &'static [&'static str] {
        if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user"] }
    }

    fn enter(&self) -> Vec<String> {
        let target = self.keeper.id().to_string();
        let mut words = vec!["nsenter", "--mount", "--target", &target];
        if !rustix::process::geteuid().is_root() {
            words.extend(["--user", "--preserve-credentials"]);
        }
        words.into_iter().map(str::to_owned).collect()
    }

    /// What a shell does to become a server whose data lie here; its third argument is the data's folder.
    fn becomes_a_server(&self) -> String {
        let within = format!("mkdir -p \"$3\" && mount --bind {} \"$3\" && exec \"$0\" \"$@\"", self.folder.path().display());
        format!("exec {} sh -c '{within}' \"$0\" \"$@\"", self.enter().join(" "))
    }

    #[track_caller]
    fn resize(&self, size: &str) {
        let enter = self.enter();
        let remount = ["mount", "-o", &format!("remount,size={size}")].map(str::to_owned);
        let mut command = Command::new(&enter[0]);
        let output = command.args(&enter[1..]).args(remount).arg(self.folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Puts products until there is no room for another; those that were confirmed.
#[track_caller]
fn fill(server: &TestServer, prefix: &str) -> Vec<String> {
    let body = json!({ "name": "n".repeat(100), "description": "d".repeat(900) });
    let mut confirmed = Vec::new();
    loop {
        let product_id = format!("{prefix}-{}", confirmed.len());
        let reply = server.admin().put(&format!("/api/v1/products/{product_id}"), &body);
        if reply.status != 201 {
            assert_eq!(reply.status, 507, "{}", reply.text());
            return confirmed;
        }
        confirmed.push(product_id);
        assert!(confirmed.len() < 100_000, "the disk never filled");
    }
}

#[test]
fn on_a_full_disk_reads_go_on_and_commands_are_refused_until_there_is_room_and_all_that_was_confirmed_is_there() {
    let disk = SmallDisk::new("12m");
    let becomes_a_server = disk.becomes_a_server();
    let mut server = TestServer::setup().after(&becomes_a_server).start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "lamp");
    let task = fleet.start_task(&admin, json!({ "maximum_concurrency": 2 }));
    let device = fleet.device(&admin, "lamp-1");
    let offer = device.offered(&server);

    // Images until there is no room for another, then commands until there is none for the log.
    let mut images = Vec::new();
    let refused = loop {
        let image = image_bytes(700_000 + images.len());
        let reply = admin.request("POST", "/api/v1/images").body(&image).send();
        if reply.status != 201 {
            break reply;
        }
        images.push((image, reply.json()["url"].as_str().unwrap().to_owned()));
        assert!(images.len() < 100, "the disk never filled");
    };
    assert_eq!(refused.status, 507, "{}", refused.text());
    let mut products = fill(&server, "early");
    // Whoever had an offer is told it again, and fetches its image; nobody else begins, and no permit leaks on the way.
    let other = json!({ "product_id": "lamp", "device_id": "lamp-2", "type": 1, "identify": 0, "version": "1.0" });
    let reply = admin.post("/api/v1/check", &other);
    assert!(reply.status == 507 || reply.json()["upgrade"]["id"].is_null(), "{} {}", reply.status, reply.text());
    admin.get(&task).expect(200);
    server.anonymous().get("/healthz").expect(200);
    let expect_everything = |server: &TestServer, products: &[String]| {
        for product_id in products {
            server.admin().get(&format!("/api/v1/products/{product_id}")).expect(200);
        }
        for (image, link) in &images {
            assert!(server.anonymous().get(link).expect(200).body == *image);
        }
        assert_eq!(device.offered(server)["id"], offer["id"]);
        assert_eq!(server.anonymous().get(offer["url"].as_str().unwrap()).expect(200).body, fleet.image);
    };
    expect_everything(&server, &products);

    // With some room it goes on by itself, until that is used up, too.
    disk.resize("14m");
    products.extend(fill(&server, "late"));
    assert!(products.last().unwrap().starts_with("late-"), "no room was made use of");
    expect_everything(&server, &products);

    // Killed in this state it may need room to start; then it says so, and with room everything is there.
    server.kill();
    if let Err(said) = server.try_start_again() {
        assert!(said.contains("disk is full; make room"), "{said}");
        disk.resize("24m");
        server.start_again();
    }
    expect_everything(&server, &products);
    disk.resize("24m");
    server.admin().put("/api/v1/products/last", &json!({})).expect(201);
    upload(&server.admin(), &image_bytes(1_000_000));
    device.report(&server, &offer["id"], "downloading").expect(200);
}
