//! What the XLink tests share: the platform's headers, its error shape, and the steps of its rollouts.

use crate::common::fleet::issue_token;
use crate::common::{Response, TestServer};
use serde_json::{Value, json};

/// A product id as the platform makes them.
pub(crate) const PRODUCT: &str = "160fa2b1f2a1e1f2160fa2b1f2a1e1f2";

/// A server, and an operator who speaks this platform.
#[derive(Debug)]
pub(crate) struct Platform {
    pub(crate) server: TestServer,
    pub(crate) operator: String,
}

impl Platform {
    #[must_use]
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::on(TestServer::start())
    }

    #[must_use]
    #[track_caller]
    pub(crate) fn on(server: TestServer) -> Self {
        let operator = issue_token(&server.admin(), json!({ "role": "operator" }));
        Self { server, operator }
    }

    #[must_use]
    #[track_caller]
    pub(crate) fn token(&self, wanted: Value) -> String {
        issue_token(&self.server.admin(), wanted)
    }

    #[must_use]
    #[track_caller]
    pub(crate) fn device_token(&self, device_id: u32) -> String {
        self.token(json!({ "role": "device", "product_id": PRODUCT, "device_id": device_id.to_string() }))
    }

    #[track_caller]
    pub(crate) fn call(&self, method: &str, path: &str, token: &str, body: Option<&str>) -> Response {
        let client = self.server.anonymous();
        let request = client.request(method, path).header("Access-Token", token);
        match body {
            Some(body) => request.body(body.as_bytes()).send(),
            None => request.send(),
        }
    }

    #[track_caller]
    pub(crate) fn post(&self, token: &str, path: &str, body: &Value) -> Response {
        self.call("POST", path, token, Some(&body.to_string()))
    }

    #[track_caller]
    pub(crate) fn get(&self, token: &str, path: &str) -> Response {
        self.call("GET", path, token, None)
    }

    #[track_caller]
    pub(crate) fn create(&self, changes: Value) -> Value {
        self.post(&self.operator, "/v2/upgrade/firmware/task", &task_body(changes)).expect(200).json()
    }

    /// The code with which a task of this kind is refused.
    #[track_caller]
    pub(crate) fn create_refused(&self, changes: Value) -> u64 {
        code(&self.post(&self.operator, "/v2/upgrade/firmware/task", &task_body(changes)))
    }

    #[track_caller]
    pub(crate) fn set_status(&self, task: &Value, status: u8) -> Response {
        let body = json!({ "product_id": PRODUCT, "upgrade_task_id": task["id"], "status": status });
        self.post(&self.operator, "/v2/upgrade/firmware/task/status", &body)
    }

    /// Creates a task and starts it.
    #[track_caller]
    pub(crate) fn start_task(&self, changes: Value) -> Value {
        let task = self.create(changes);
        self.set_status(&task, 1).expect(200);
        task
    }

    #[track_caller]
    pub(crate) fn delete(&self, task: &Value) -> Response {
        self.post(&self.operator, "/v2/upgrade/firmware/task/delete", &json!({ "product_id": PRODUCT, "id": task["id"] }))
    }

    #[track_caller]
    pub(crate) fn check(&self, device_id: u32, token: &str, version: u32) -> Response {
        let body = json!({ "product_id": PRODUCT, "device_id": device_id, "type": 1, "current_version": version, "identify": 0 });
        self.post(token, &format!("/v2/upgrade/firmware/check/{device_id}"), &body)
    }

    #[track_caller]
    pub(crate) fn report(&self, device_id: u32, token: &str, last: u32, current: u32, result: u8) -> Response {
        let body = json!({
            "type": 1, "mod": "M1", "identify": 0, "last_version": last, "current_version": current, "result": result,
        });
        self.post(token, &format!("/v2/upgrade/firmware/report/{device_id}"), &body)
    }

    /// All tasks of the product, as the GET list shows them.
    #[track_caller]
    pub(crate) fn tasks(&self) -> Vec<Value> {
        let list = self.get(&self.operator, &format!("/v2/upgrade/firmware/tasks?product_id={PRODUCT}")).expect(200).json();
        list.as_array().unwrap_or_else(|| panic!("not an array: {list}")).clone()
    }

    /// A task as the GET list shows it now.
    #[track_caller]
    pub(crate) fn listed(&self, task: &Value) -> Value {
        let tasks = self.tasks();
        tasks.into_iter().find(|listed| listed["id"] == task["id"]).unwrap_or_else(|| panic!("{} is not listed", task["id"]))
    }
}

/// The body of a task from version 1 to 2, with `changes` laid over it; a `null` takes a field out.
pub(crate) fn task_body(changes: Value) -> Value {
    let mut body = json!({
        "product_id": PRODUCT,
        "name": "from 1 to 2",
        "description": "the second version",
        "from_version": 1,
        "from_version_url": "http://files.example/1.bin",
        "from_version_md5": "c4ca4238a0b923820dcc509a6f75849b",
        "from_version_size": 1000,
        "target_version": 2,
        "target_version_url": "http://files.example/2.bin",
        "target_version_md5": "c81e728d9d4c2f636f067f89cc14862c",
        "target_version_size": 2000,
        "type": 1,
        "identify": 0,
        "task_type": 0,
    });
    let fields = body.as_object_mut().unwrap();
    for (field, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(fields.remove(field)),
            value => drop(fields.insert(field.clone(), value.clone())),
        }
    }
    body
}

/// The body of firmware of version 5, with `changes` laid over it; a `null` is sent as it is.
pub(crate) fn firmware_body(changes: Value) -> Value {
    let mut body = json!({
        "mod": "M1", "version": 5, "file_url": "http://files.example/5.bin", "file_md5": "e4da3b7fbbce2345d7772b0674a318d5",
        "file_size": 5000, "description": "the fifth", "release_date": "2015-10-09T08:15:40.843Z", "is_release": true,
        "type": 1, "identify": 0,
    });
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    body
}

/// The code of a refusal, after its shape and its HTTP status were found to be right.
#[track_caller]
pub(crate) fn code(response: &Response) -> u64 {
    let body = response.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("no refusal: {} {body}", response.status));
    let code = error["code"].as_u64().unwrap_or_else(|| panic!("the code is no number: {body}"));
    assert!(error["msg"].as_str().is_some_and(|msg| !msg.trim().is_empty()), "an empty msg helps nobody: {body}");
    assert_eq!(u64::from(response.status), code / 10_000, "the status and the code contradict each other: {body}");
    code
}

/// 200 and no body at all, with a length that says so.
#[track_caller]
pub(crate) fn nothing(response: &Response) {
    assert_eq!((response.status, response.text().as_str()), (200, ""));
    assert_eq!(response.header("content-length"), Some("0"));
}
