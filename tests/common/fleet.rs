//! The everyday steps of a rollout: what most tests need before their own story begins.

use super::http::{Client, Response};
use super::server::TestServer;
use serde_json::{Value, json};

/// Bytes that repeat nowhere, so that a wrong offset shows.
pub(crate) fn image_bytes(length: usize) -> Vec<u8> {
    // An odd multiplier walks through all 32-bit numbers; the upper byte of each looks random and follows from the position.
    (0..length as u32).map(|position| (position.wrapping_add(1).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// One product with an image and a firmware, and the ways of its devices. Names no server: it survives a restart.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    pub(crate) product_id: String,
    pub(crate) image: Vec<u8>,
    pub(crate) image_id: String,
    pub(crate) firmware_id: Value,
}

impl Fleet {
    /// Uploads an image and makes it version 2.0 of component (1, 0).
    #[track_caller]
    pub(crate) fn new(operator: &Client, product_id: &str) -> Self {
        Self::with_image(operator, product_id, image_bytes(100_000))
    }

    #[track_caller]
    pub(crate) fn with_image(operator: &Client, product_id: &str, image: Vec<u8>) -> Self {
        let image_id = upload(operator, &image)["image"].as_str().unwrap().to_owned();
        let firmware_id = create_firmware(operator, product_id, "2.0", &image_id)["id"].clone();
        Self { product_id: product_id.to_owned(), image, image_id, firmware_id }
    }

    /// The body of `POST /tasks` from 1.0 to 2.0, with `more` laid over it.
    pub(crate) fn task_body(&self, more: Value) -> Value {
        let mut task = json!({
            "product_id": self.product_id, "type": 1, "identify": 0, "firmware_id": self.firmware_id, "from_versions": ["1.0"],
        });
        task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        task
    }

    /// Creates and starts a task; returns its path.
    #[track_caller]
    pub(crate) fn start_task(&self, operator: &Client, more: Value) -> String {
        let task = operator.post("/api/v1/tasks", &self.task_body(more)).expect(201).json();
        let path = format!("/api/v1/tasks/{}", id_text(&task["id"]));
        operator.post(&format!("{path}/start"), &json!({})).expect(200);
        path
    }

    /// A device with a token of its own; it comes into being with its first check.
    #[must_use]
    #[track_caller]
    pub(crate) fn device(&self, operator: &Client, device_id: &str) -> FleetDevice {
        let token = issue_token(operator, json!({ "role": "device", "product_id": self.product_id, "device_id": device_id }));
        FleetDevice { product_id: self.product_id.clone(), device_id: device_id.to_owned(), token }
    }
}

/// A device that knows who it is, but not where the server is.
#[derive(Clone, Debug)]
pub(crate) struct FleetDevice {
    pub(crate) product_id: String,
    pub(crate) device_id: String,
    pub(crate) token: String,
}

impl FleetDevice {
    #[must_use]
    pub(crate) fn client(&self, server: &TestServer) -> Client {
        server.anonymous().with_token(&self.token)
    }

    pub(crate) fn check_body(&self, version: &str) -> Value {
        json!({ "product_id": self.product_id, "device_id": self.device_id, "type": 1, "identify": 0, "version": version })
    }

    pub(crate) fn report_body(&self, upgrade_id: &Value, state: &str) -> Value {
        json!({ "product_id": self.product_id, "device_id": self.device_id, "upgrade_id": upgrade_id, "state": state })
    }

    #[track_caller]
    pub(crate) fn check(&self, server: &TestServer, version: &str) -> Value {
        self.client(server).post("/api/v1/check", &self.check_body(version)).expect(200).json()
    }

    /// Checks at version 1.0 and expects to be offered an upgrade.
    #[track_caller]
    pub(crate) fn offered(&self, server: &TestServer) -> Value {
        let answered = self.check(server, "1.0");
        assert!(answered["upgrade"].is_object(), "{} was offered nothing: {answered}", self.device_id);
        answered["upgrade"].clone()
    }

    /// Checks at version 1.0 and expects to be told no; returns why.
    #[track_caller]
    pub(crate) fn refused(&self, server: &TestServer) -> String {
        let answered = self.check(server, "1.0");
        assert!(answered["upgrade"].is_null(), "{} was offered {answered}", self.device_id);
        answered["reason"].as_str().unwrap_or_else(|| panic!("no reason in {answered}")).to_owned()
    }

    #[track_caller]
    pub(crate) fn report(&self, server: &TestServer, upgrade_id: &Value, state: &str) -> Response {
        self.client(server).post("/api/v1/report", &self.report_body(upgrade_id, state))
    }

    /// Checks and reports a success.
    #[track_caller]
    pub(crate) fn upgrade(&self, server: &TestServer) {
        let offer = self.offered(server);
        self.report(server, &offer["id"], "succeeded").expect(200);
    }
}

#[track_caller]
pub(crate) fn upload(operator: &Client, image: &[u8]) -> Value {
    let response = operator.request("POST", "/api/v1/images").body(image).send();
    assert!(matches!(response.status, 200 | 201), "upload: {} {}", response.status, response.text());
    response.json()
}

#[track_caller]
pub(crate) fn create_firmware(operator: &Client, product_id: &str, version: &str, image_id: &str) -> Value {
    let firmware = json!({ "product_id": product_id, "type": 1, "identify": 0, "version": version, "image": image_id });
    operator.post("/api/v1/firmware", &firmware).expect(201).json()
}

#[track_caller]
pub(crate) fn issue_token(issuer: &Client, wanted: Value) -> String {
    let issued = issuer.post("/api/v1/tokens", &wanted).expect(201).json();
    issued["token"].as_str().unwrap_or_else(|| panic!("no token in {issued}")).to_owned()
}

/// The header in which a platform's callers send their token.
#[track_caller]
pub(crate) fn token_header(dialect: &str, token: &str) -> (&'static str, String) {
    match dialect {
        "native" | "huawei" => ("Authorization", format!("Bearer {token}")),
        "xlink" => ("Access-Token", token.to_owned()),
        "enos" => ("apim-accesstoken", token.to_owned()),
        "autel" => ("x-auth-token", token.to_owned()),
        other => panic!("how does one log in with {other}?"),
    }
}

/// An id may be written as a string or as a number.
#[track_caller]
pub(crate) fn id_text(id: &Value) -> String {
    match id {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        other => panic!("{other} isn't an id"),
    }
}

/// The task as it stands.
#[track_caller]
pub(crate) fn task(operator: &Client, path: &str) -> Value {
    operator.get(path).expect(200).json()
}

/// How many devices of the task stand in `state`.
#[track_caller]
pub(crate) fn count(operator: &Client, path: &str, state: &str) -> u64 {
    task(operator, path)["counts"][state].as_u64().unwrap_or_default()
}

/// All upgrade rows of a task, page by page.
#[track_caller]
pub(crate) fn rows(operator: &Client, path: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = operator.get(&format!("{path}/upgrades?limit=1000{cursor}")).expect(200).json();
        rows.extend(page["items"].as_array().unwrap_or_else(|| panic!("no items in {page}")).clone());
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}
