//! A token opens its own organization, product and device, and what its role may do: nothing else.

use crate::common::fleet::{id_text, issue_token};
use crate::common::{ADMIN_TOKEN, Client, Fleet, TestServer};
use serde_json::json;

/// A server with a started task of organization `north`, and clients that differ in their tokens alone.
struct World {
    server: TestServer,
    north: Client,
    south: Client,
    fleet: Fleet,
    task: String,
}

impl World {
    fn new() -> Self {
        let server = TestServer::start();
        let admin = server.admin();
        let operator = |organization: &str| {
            admin.with_token(&issue_token(&admin, json!({ "role": "operator", "organization": organization })))
        };
        let (north, south) = (operator("north"), operator("south"));
        let fleet = Fleet::new(&north, "pump");
        let task = fleet.start_task(&north, json!({}));
        Self { server, north, south, fleet, task }
    }

    fn token(&self, wanted: serde_json::Value) -> Client {
        self.north.with_token(&issue_token(&self.north, wanted))
    }
}

#[test]
fn a_call_without_a_token_or_with_an_unknown_one_is_refused() {
    let server = TestServer::start();
    let guessed = format!("{ADMIN_TOKEN}x");
    let well_formed = format!("0123456789abcdef.{}", "A".repeat(43));
    for path in ["/api/v1/products", "/api/v1/firmware", "/api/v1/tasks", "/api/v1/events", "/metrics-not-a-path/../api/v1/tasks"] {
        let anonymous = server.anonymous().get(path).status;
        assert!(matches!(anonymous, 400 | 401 | 404), "{path}: {anonymous}");
    }
    server.anonymous().get("/api/v1/products").refused(401);
    for token in [guessed.as_str(), &well_formed, "", "Bearer", &"x".repeat(4_000)] {
        server.anonymous().with_token(token).get("/api/v1/products").refused(401);
    }
    server.anonymous().post("/api/v1/tokens", &json!({ "role": "admin" })).refused(401);
}

#[test]
fn each_role_may_do_what_it_may_and_nothing_else() {
    let world = World::new();
    let user = world.token(json!({ "role": "user" }));
    let device = world.token(json!({ "role": "device", "product_id": "pump", "device_id": "p-1" }));
    let task_body = world.fleet.task_body(json!({ "from_versions": ["0.9"] }));
    let looks = ["/api/v1/products", "/api/v1/products/pump", "/api/v1/firmware", world.task.as_str(), "/api/v1/tasks"];
    for path in looks {
        world.north.get(path).expect(200);
        user.get(path).expect(200);
        device.get(path).refused(403);
    }
    for client in [&user, &device] {
        client.post("/api/v1/tasks", &task_body).refused(403);
        client.post(&format!("{}/stop", world.task), &json!({})).refused(403);
        client.delete(&world.task).refused(403);
        client.put("/api/v1/products/fan", &json!({})).refused(403);
        client.put("/api/v1/products/pump/devices/p-9", &json!({})).refused(403);
        client.request("POST", "/api/v1/images").body(b"bytes").send().refused(403);
        client.request("POST", "/api/v1/devices").body(b"{}").send().refused(403);
        client.post("/api/v1/tokens", &json!({ "role": "device", "product_id": "pump", "device_id": "p-2" })).refused(403);
        client.post("/api/v1/apps", &json!({})).refused(403);
    }
    assert_eq!(world.north.get(&world.task).expect(200).json()["id"], world.north.get(&world.task).expect(200).json()["id"]);
    let created = world.north.post("/api/v1/tasks", &task_body).expect(201).json();
    world.north.delete(&format!("/api/v1/tasks/{}", id_text(&created["id"]))).expect(204);
}

#[test]
fn what_belongs_to_another_organization_is_not_there() {
    let world = World::new();
    let device = world.fleet.device(&world.north, "p-1");
    let offer = device.offered(&world.server);
    let firmware = format!("/api/v1/firmware/{}", id_text(&world.fleet.firmware_id));
    let device_path = "/api/v1/products/pump/devices/p-1";
    let upgrades = format!("{}/upgrades", world.task);
    let image = format!("/api/v1/images/{}", world.fleet.image_id);
    for path in ["/api/v1/products/pump", device_path, &firmware, &world.task, &upgrades, &image] {
        world.north.get(path).expect(200);
        world.south.get(path).refused(404);
    }
    for path in ["/api/v1/products/pump", device_path, &firmware, &world.task] {
        world.south.delete(path).refused(404);
    }
    for action in ["start", "stop", "pause", "resume", "upgrades/p-1/cancel", "upgrades/p-1/retry"] {
        world.south.post(&format!("{}/{action}", world.task), &json!({})).refused(404);
    }
    for path in ["/api/v1/products", "/api/v1/firmware", "/api/v1/tasks"] {
        assert_eq!(world.south.get(path).expect(200).json()["items"], json!([]), "{path}");
    }
    // The same names in the other organization are other things.
    let twin = Fleet::new(&world.south, "pump");
    let twin_device = twin.device(&world.south, "p-1");
    assert!(twin_device.check(&world.server, "1.0")["upgrade"].is_null(), "the other organization has no task");
    twin_device.report(&world.server, &offer["id"], "failed").refused(404);
    assert_eq!(device.offered(&world.server)["id"], offer["id"]);
}

#[test]
fn a_device_token_opens_its_own_device_alone() {
    let world = World::new();
    let (own, other) = (world.fleet.device(&world.north, "p-1"), world.fleet.device(&world.north, "p-2"));
    let other_offer = other.offered(&world.server);
    let own_client = own.client(&world.server);
    own_client.post("/api/v1/check", &other.check_body("1.0")).refused(403);
    own_client.post("/api/v1/report", &other.report_body(&other_offer["id"], "failed")).refused(403);
    // Its own name with the other's upgrade.
    own_client.post("/api/v1/report", &own.report_body(&other_offer["id"], "failed")).refused(404);
    let mut other_product = own.check_body("1.0");
    other_product["product_id"] = json!("fan");
    own_client.post("/api/v1/check", &other_product).refused(403);
    assert_eq!(other.offered(&world.server)["id"], other_offer["id"], "nothing of it reached the other device's upgrade");
}

#[test]
fn an_activation_code_opens_no_image() {
    let world = World::new();
    let code = world.token(json!({ "role": "device", "product_id": "pump" }));
    let device = world.token(json!({ "role": "device", "product_id": "pump", "device_id": "p-1" }));
    for path in [format!("/api/v1/images/{}", world.fleet.image_id), format!("/images/{}", world.fleet.image_id)] {
        code.get(&path).refused(403);
        assert_eq!(code.head(&path).status, 403, "{path}");
        assert_eq!(device.get(&path).expect(200).body, world.fleet.image, "{path}");
    }
}

#[test]
fn an_operator_issues_tokens_of_its_own_organization_only() {
    let world = World::new();
    world.north.post("/api/v1/tokens", &json!({ "role": "operator", "organization": "south" })).refused(403);
    world.north.post("/api/v1/tokens", &json!({ "role": "admin" })).refused(403);
    let issued = world.north.post("/api/v1/tokens", &json!({ "role": "user" })).expect(201).json();
    let user = world.north.with_token(issued["token"].as_str().unwrap());
    user.get(&world.task).expect(200);
}

#[test]
fn a_token_is_short_revocable_and_ends() {
    let world = World::new();
    let issued = world.north.post("/api/v1/tokens", &json!({ "role": "user", "ttl_s": 3_600 })).expect(201).json();
    let text = issued["token"].as_str().unwrap();
    assert!(text.len() <= 127, "{} characters", text.len());
    let user = world.north.with_token(text);
    user.get("/api/v1/tasks").expect(200);
    let path = format!("/api/v1/tokens/{}", id_text(&issued["id"]));
    world.south.delete(&path).refused(404);
    user.get("/api/v1/tasks").expect(200);
    world.north.delete(&path).expect(204);
    user.get("/api/v1/tasks").refused(401);
    let short = world.token(json!({ "role": "user", "ttl_s": 1 }));
    crate::common::wait_until("the token has ended", || (short.get("/api/v1/tasks").status == 401).then_some(()));
}

#[test]
fn a_look_by_a_user_takes_no_permit_and_records_nothing() {
    let world = World::new();
    world.north.post(&format!("{}/stop", world.task), &json!({})).expect(200);
    let capped = world.fleet.start_task(&world.north, json!({ "from_versions": ["1.5"], "maximum_concurrency": 1 }));
    let device_path = "/api/v1/products/pump/devices/p-1";
    let registered = json!({ "components": [{ "type": 1, "identify": 0, "version": "1.0" }] });
    assert!(world.north.put(device_path, &registered).status < 300);
    let device = world.fleet.device(&world.north, "p-1");
    let user = world.token(json!({ "role": "user" }));
    for client in [&user, &world.north] {
        let seen = client.post("/api/v1/check", &device.check_body("1.5")).expect(200).json();
        assert_eq!(seen["upgrade"]["target_version"], "2.0", "{seen}");
    }
    assert_eq!(crate::common::fleet::task(&world.north, &capped)["permits_held"], 0);
    assert_eq!(crate::common::fleet::rows(&world.north, &capped), Vec::<serde_json::Value>::new());
    let components = world.north.get(device_path).expect(200).json()["components"].clone();
    assert_eq!(components[0]["version"], "1.0", "the version that was asked about was recorded");
}

#[test]
fn tokens_outlive_a_restart_and_revoked_ones_stay_revoked() {
    let mut world = World::new();
    let kept = world.north.post("/api/v1/tokens", &json!({ "role": "user" })).expect(201).json();
    let revoked = world.north.post("/api/v1/tokens", &json!({ "role": "user" })).expect(201).json();
    world.north.delete(&format!("/api/v1/tokens/{}", id_text(&revoked["id"]))).expect(204);
    world.server.kill_and_start_again();
    let anonymous = world.server.anonymous();
    anonymous.with_token(kept["token"].as_str().unwrap()).get("/api/v1/tasks").expect(200);
    anonymous.with_token(revoked["token"].as_str().unwrap()).get("/api/v1/tasks").refused(401);
}

#[test]
fn an_application_s_token_issues_nothing_and_ends_with_its_application() {
    let server = TestServer::setup().config("[huawei]\ncalls_per_minute = 0\n").start();
    let admin = server.admin();
    let app = admin.post("/api/v1/apps", &json!({})).expect(201).json();
    let login = json!({ "appId": app["id"], "secret": app["secret"] });
    let token = server.anonymous().post("/iocm/app/sec/v1.1.0/login", &login).expect(200).json()["accessToken"].clone();
    let client = server.anonymous().with_token(token.as_str().unwrap());
    client.get("/api/v1/tasks").expect(200);
    client.post("/api/v1/tokens", &json!({ "role": "operator" })).expect(403);
    client.post("/api/v1/apps", &json!({})).expect(403);
    admin.delete(&format!("/api/v1/apps/{}", app["id"].as_str().unwrap())).expect(204);
    client.get("/api/v1/tasks").expect(401);
}
