//! The program as a process: its ready line, its exit codes, its signals, and the words it leaves with.

use crate::common::server::{lines_of, parse_ready, run, sluicegate};
use crate::common::{ADMIN_TOKEN, Fleet, PATIENCE, TestServer, wait_until};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs to its end, and asserts the exit code, a message that names `named`, and no backtrace.
#[track_caller]
fn fails(command: &mut Command, code: i32, named: &str) {
    let output = run(command);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    assert!(said.contains(named), "{command:?} doesn't name {named:?}: {said}");
    assert!(!said.contains("panicked") && !said.contains("stack backtrace"), "{said}");
    assert!(output.stdout.is_empty(), "{:?}", String::from_utf8_lossy(&output.stdout));
}

fn serve_in(folder: &std::path::Path) -> Command {
    let mut command = sluicegate();
    command.arg("serve").arg("--data").arg(folder.join("data")).env("SLUICEGATE_ADMIN_TOKEN", ADMIN_TOKEN);
    command
}

#[test]
fn the_ready_line_is_all_that_goes_to_standard_output_and_names_only_what_is_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut child =
        serve_in(folder.path()).args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    let line = lines.recv_timeout(PATIENCE).unwrap();
    let ready = parse_ready(&line).unwrap_or_else(|| panic!("{line:?}"));
    assert_eq!(ready.keys().collect::<Vec<_>>(), ["http"], "{line:?}");
    assert_ne!(ready["http"], "127.0.0.1:0", "the address is the one that was picked");
    // It means what it says: the very next thing may be a request.
    crate::common::Client::new(ready["http"].clone()).get("/readyz").expect(200);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(lines.iter().collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn a_bad_option_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    fails(serve_in(folder.path()).args(["--listen", "nowhere"]), 2, "listen");
    fails(serve_in(folder.path()).args(["--listen", "127.0.0.1:99999"]), 2, "listen");
    fails(serve_in(folder.path()).args(["--workers", "none"]), 2, "workers");
    fails(serve_in(folder.path()).args(["--workers", "0"]), 2, "workers");
    fails(serve_in(folder.path()).args(["--no-such-option"]), 2, "--no-such-option");
    fails(serve_in(folder.path()).args(["--tls-listen", "127.0.0.1:0"]), 2, "tls-cert");
    fails(serve_in(folder.path()).args(["--public-url", "not a url"]), 2, "public-url");
    fails(serve_in(folder.path()).env("SLUICEGATE_LISTEN", "nowhere"), 2, "nowhere");
    fails(sluicegate().arg("fly"), 2, "fly");
    for (settings, named) in
        [("[images]\nlink_ttl_s = 0", "images.link_ttl_s"), ("[limits]\nid_bytes_max = 0", "limits.id_bytes_max")]
    {
        let path = folder.path().join("sluicegate.toml");
        std::fs::write(&path, settings).unwrap();
        fails(serve_in(folder.path()).arg("--config").arg(&path), 2, named);
    }
    assert!(!folder.path().join("data").exists(), "a usage error leaves nothing behind");
}

#[test]
fn a_bad_configuration_file_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    std::fs::write(&path, "workers = 1\nno_such_key = 2\n").unwrap();
    fails(serve_in(folder.path()).arg("--config").arg(&path), 2, "no_such_key");
    fails(serve_in(folder.path()).arg("--config").arg(folder.path().join("missing.toml")), 2, "missing.toml");
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluicegate.toml");
    std::fs::write(&path, "listen = \"127.0.0.3:0\"\npublic_url = \"http://file.test\"\n").unwrap();
    let listens_on = |more: &mut dyn FnMut(&mut Command)| {
        let mut command = serve_in(folder.path());
        command.arg("--config").arg(&path).stdout(Stdio::piped()).stderr(Stdio::null());
        more(&mut command);
        let mut child = command.spawn().unwrap();
        let line = lines_of(child.stdout.take().unwrap()).recv_timeout(PATIENCE).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        parse_ready(&line).unwrap()["http"].clone()
    };
    assert!(listens_on(&mut |_| {}).starts_with("127.0.0.3:"));
    assert!(
        listens_on(&mut |command| {
            command.env("SLUICEGATE_LISTEN", "127.0.0.2:0");
        })
        .starts_with("127.0.0.2:")
    );
    let both = &mut |command: &mut Command| {
        command.env("SLUICEGATE_LISTEN", "127.0.0.2:0").args(["--listen", "127.0.0.1:0"]);
    };
    assert!(listens_on(both).starts_with("127.0.0.1:"));
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "not a folder").unwrap();
    let mut command = sluicegate();
    command.arg("serve").arg("--data").arg(file.join("data")).args(["--listen", "127.0.0.1:0"]);
    fails(&mut command, 1, "a-file");
}

#[test]
fn a_port_on_which_somebody_listens_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    fails(serve_in(folder.path()).args(["--listen", &taken]), 1, &taken);
    // Another server too, though its workers share the port among themselves.
    let server = TestServer::start();
    let taken = server.address("http");
    fails(serve_in(folder.path()).args(["--listen", &taken]), 1, &taken);
    server.anonymous().get("/healthz").expect(200);
}

#[test]
fn a_second_process_on_the_folder_is_refused_and_the_first_goes_on() {
    let server = TestServer::start();
    let data = server.data();
    fails(sluicegate().arg("serve").arg("--data").arg(&data).args(["--listen", "127.0.0.1:0"]), 1, &data.display().to_string());
    server.admin().put("/api/v1/products/pump", &json!({}));
    server.admin().get("/api/v1/products/pump").expect(200);
}

#[test]
fn a_bad_certificate_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.pem");
    std::fs::write(&bad, "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n").unwrap();
    for (certificate, named) in [(bad.clone(), "bad.pem"), (folder.path().join("missing.pem"), "missing.pem")] {
        let mut command = serve_in(folder.path());
        command
            .args(["--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0", "--tls-cert"])
            .arg(certificate)
            .arg("--tls-key")
            .arg(&bad);
        fails(&mut command, 1, named);
    }
}

#[test]
fn sigterm_finishes_what_is_in_flight_and_exits_with_0() {
    let mut server = TestServer::start();
    let admin = server.admin();
    let fleet = Fleet::new(&admin, "pump");
    let path = fleet.start_task(&admin, json!({}));
    fleet.device(&admin, "p-1").upgrade(&server);
    // A request whose body is still on its way when the signal comes.
    let mut upload = server.anonymous().connect().unwrap();
    let image = crate::common::image_bytes(64_000);
    let head = format!(
        "POST /api/v1/images HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\
         Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        image.len()
    );
    upload.write_all(head.as_bytes()).unwrap();
    // It has begun once the server asks for the body.
    let mut go_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    upload.read_exact(&mut go_on).unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&go_on));
    upload.write_all(&image[..32_000]).unwrap();
    server.signal(rustix::process::Signal::TERM);
    wait_until("new connections are refused", || admin.connect().is_err().then_some(()));
    upload.write_all(&image[32_000..]).unwrap();
    let answer = crate::common::http::read_to_close(&mut upload);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer:?}");
    assert!(server.wait_for_end().success());
    server.start_again();
    assert_eq!(server.admin().get(&path).expect(200).json()["counts"]["succeeded"], 1);
}

#[test]
fn an_idle_connection_does_not_hold_up_the_stop() {
    let mut server = TestServer::start();
    let _idle = server.anonymous().connect().unwrap();
    let (status, _stream) = server.admin().request("GET", "/api/v1/events").open();
    assert_eq!(status, 200);
    assert!(server.stop().success());
}

#[test]
fn a_reload_names_what_only_a_restart_takes_over() {
    let server = TestServer::setup().config("workers = 1\n").start();
    let settings = "workers = 1\n[limits]\npermits_max = 5\n[log]\nformat = \"text\"\n";
    std::fs::write(server.folder().join("sluicegate.toml"), settings).unwrap();
    server.signal(rustix::process::Signal::HUP);
    wait_until("the last of them is named", || server.log().contains("\"key\":\"log.format\"").then_some(()));
    assert!(server.log().contains("\"key\":\"limits\""), "{}", server.log());
    assert!(!server.log().contains("\"key\":\"workers\""), "what is as it was is not named: {}", server.log());
}

#[test]
fn the_first_start_makes_an_admin_token_that_only_the_owner_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut seen = Vec::new();
    for is_first in [true, false] {
        let mut command = sluicegate();
        command.arg("serve").arg("--data").arg(&data).args(["--listen", "127.0.0.1:0"]);
        // What is logged, and how, doesn't hide it.
        command.args(["--log-level", "warn", "--log-format", "json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let ready = wait_until("it is ready", || parse_ready(&lines.recv_timeout(PATIENCE).unwrap()));
        let path = data.join("admin-token");
        let token = std::fs::read_to_string(&path).unwrap().trim().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "others can read the token");
        crate::common::Client::new(ready["http"].clone()).with_token(&token).get("/api/v1/products").expect(200);
        child.kill().unwrap();
        let said = stderr(&child.wait_with_output().unwrap());
        let shown: Vec<&str> = said.lines().filter(|line| line.contains(&token)).collect();
        assert_eq!(shown.len(), usize::from(is_first), "it is shown once, by the start that made it: {said}");
        assert!(shown.iter().all(|line| !line.starts_with('{')), "and not as a line of the log: {said}");
        seen.push(token);
    }
    assert_eq!(seen[0], seen[1], "the token is kept");
    assert!((16..=127).contains(&seen[0].len()));
}

/// A command of the operator against the running server.
fn operator(server: &TestServer, args: &[&str]) -> Output {
    run(sluicegate().args(args).args(["--server", &server.url()]).env("SLUICEGATE_ADMIN_TOKEN", ADMIN_TOKEN))
}

#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn token_issue_prints_the_token_alone() {
    let server = TestServer::start();
    let args = ["token", "issue", "--role", "device", "--org", "north", "--product", "pump", "--device", "p-1", "--ttl", "2h"];
    let output = printed(&operator(&server, &args));
    let token = output.trim_end_matches('\n');
    assert!(!token.is_empty() && !token.contains(char::is_whitespace), "{output:?}");
    let check = json!({ "product_id": "pump", "device_id": "p-1", "type": 1, "identify": 0, "version": "1.0" });
    let answered = server.anonymous().with_token(token).post("/api/v1/check", &check).expect(200).json();
    assert_eq!(answered["reason"], "no_task");
    let bad = operator(&server, &["token", "issue", "--role", "king"]);
    assert_eq!(bad.status.code(), Some(2), "{}", stderr(&bad));
}

#[test]
fn token_issue_makes_activation_codes() {
    let server = TestServer::start();
    let output = printed(&operator(&server, &["token", "issue", "--role", "device", "--product", "pump", "--ttl", "8760h"]));
    let activation = json!({ "mac": "00:11:22:33:44:55", "active_code": output.trim_end() });
    let activated = server.anonymous().post("/v2/device_active", &activation).expect(200).json();
    assert!(activated["authorize_code"].is_string(), "{activated}");
    let without_product = operator(&server, &["token", "issue", "--role", "device"]);
    assert_eq!(without_product.status.code(), Some(2), "{}", stderr(&without_product));
    assert!(stderr(&without_product).contains("--product"), "{}", stderr(&without_product));
}

#[test]
fn firmware_is_pushed_devices_imported_and_tasks_steered_from_the_command_line() {
    let server = TestServer::start();
    let admin = server.admin();
    let file = server.folder().join("pump-2.0.bin");
    std::fs::write(&file, crate::common::image_bytes(200_000)).unwrap();
    let push = ["firmware", "push", file.to_str().unwrap(), "--product", "pump", "--version", "2.0", "--json"];
    let pushed: Value = serde_json::from_str(&printed(&operator(&server, &push))).unwrap();
    let devices = server.folder().join("devices.ndjson");
    std::fs::write(
        &devices,
        "{\"product_id\":\"pump\",\"device_id\":\"p-1\",\"components\":[{\"type\":1,\"identify\":0,\"version\":\"1.0\"}]}\n",
    )
    .unwrap();
    printed(&operator(&server, &["device", "import", devices.to_str().unwrap()]));
    admin.get("/api/v1/products/pump/devices/p-1").expect(200);
    let firmware_id = admin.get("/api/v1/firmware").expect(200).json()["items"][0]["id"].clone();
    assert_eq!(pushed["firmware"]["id"], firmware_id, "{pushed}");
    let task = json!({ "product_id": "pump", "type": 1, "identify": 0, "firmware_id": firmware_id, "from_versions": ["1.0"] });
    let task_id = crate::common::fleet::id_text(&admin.post("/api/v1/tasks", &task).expect(201).json()["id"]);
    printed(&operator(&server, &["task", "start", &task_id]));
    let shown: Value = serde_json::from_str(&printed(&operator(&server, &["task", "show", &task_id, "--json"]))).unwrap();
    assert_eq!(crate::common::fleet::id_text(&shown["id"]), task_id);
    printed(&operator(&server, &["task", "stop", &task_id]));
    assert!(printed(&operator(&server, &["task", "list"])).contains(&task_id));
    printed(&operator(&server, &["status"]));
    let missing = operator(&server, &["task", "show", "no-such-task"]);
    assert_eq!(missing.status.code(), Some(1), "{}", stderr(&missing));
}

#[test]
fn a_command_without_a_server_says_so() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = sluicegate();
    command.args(["status", "--server", &format!("http://{nobody}")]).env("SLUICEGATE_ADMIN_TOKEN", ADMIN_TOKEN);
    fails(&mut command, 1, &nobody.to_string());
}
