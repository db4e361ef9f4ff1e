//! What the tests of jobs and searches share: one product's rollouts in few words, over an application that signs its calls.

use crate::common::fleet::{FleetDevice, create_firmware, upload};
use crate::common::server::Setup;
use crate::common::{Client, TestServer};
use crate::enos_support::{ORGANIZATION, PRODUCT, Platform, envelope, path};
use serde_json::{Value, json};

/// The platform with firmware 2.0 of the product.
#[derive(Debug)]
pub(crate) struct Rollouts {
    pub(crate) platform: Platform,
    pub(crate) firmware_id: String,
}

impl Rollouts {
    #[must_use]
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::on(TestServer::setup())
    }

    #[must_use]
    #[track_caller]
    pub(crate) fn on(setup: Setup) -> Self {
        let platform = Platform::on(setup.start());
        let firmware_id = platform.create_firmware("2.0", json!({}));
        Self { platform, firmware_id }
    }

    pub(crate) fn server(&self) -> &TestServer {
        &self.platform.server
    }

    #[must_use]
    pub(crate) fn native(&self) -> Client {
        self.platform.server.admin()
    }

    /// Firmware of another product of the organization.
    #[must_use]
    #[track_caller]
    pub(crate) fn firmware_of(&self, product_id: &str, version: &str) -> String {
        let image = upload(&self.native(), b"of another product");
        let firmware = create_firmware(&self.native(), product_id, version, image["image"].as_str().unwrap());
        firmware["id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn put_device(&self, device_key: &str, version: &str) {
        self.platform.put_device(device_key, version, json!({}));
    }

    #[track_caller]
    pub(crate) fn put_device_of(&self, product_id: &str, device_key: &str, version: &str) {
        let device = json!({ "components": [{ "type": 1, "identify": 0, "version": version }] });
        let put = self.native().put(&format!("/api/v1/products/{product_id}/devices/{device_key}"), &device);
        assert!(put.status < 300, "{device_key}: {} {}", put.status, put.text());
    }

    /// The device itself, to check and report.
    #[must_use]
    #[track_caller]
    pub(crate) fn device(&self, device_key: &str) -> FleetDevice {
        let token = self.platform.native_token(json!({ "role": "device", "product_id": PRODUCT, "device_id": device_key }));
        FleetDevice { product_id: PRODUCT.to_owned(), device_id: device_key.to_owned(), token }
    }

    /// Whether the device is offered an upgrade now.
    #[track_caller]
    pub(crate) fn is_offered(&self, device_key: &str) -> bool {
        self.platform.check(device_key, "1.0")["upgrade"].is_object()
    }

    /// A device reports, and says something with it.
    #[track_caller]
    pub(crate) fn tell(&self, device: &FleetDevice, upgrade_id: &Value, state: &str, more: Value) {
        let mut report = device.report_body(upgrade_id, state);
        report.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        device.client(self.server()).post("/api/v1/report", &report).expect(200);
    }

    /// A call on one job. Returns the whole envelope, whatever it says.
    #[track_caller]
    pub(crate) fn on_job(&self, action: &str, job_id: &str, body: &Value) -> Value {
        self.platform.jobs(action, &[("jobId", job_id)], body).json()
    }

    #[track_caller]
    pub(crate) fn create(&self, firmware_id: &str, body: &Value) -> Value {
        self.platform.jobs("create", &[("firmwareId", firmware_id)], body).json()
    }

    /// Creates a job for everything at 1.0 with `changes` laid over it; returns its id.
    #[track_caller]
    pub(crate) fn job(&self, changes: Value) -> String {
        let created = self.create(&self.firmware_id, &for_all(changes));
        data(&created)["jobId"].as_str().unwrap_or_else(|| panic!("no jobId in {created}")).to_owned()
    }

    /// The code and message with which such a job is refused.
    #[track_caller]
    pub(crate) fn job_refused(&self, changes: Value) -> (u64, String) {
        refused(&self.create(&self.firmware_id, &for_all(changes)))
    }

    #[track_caller]
    pub(crate) fn get_job(&self, job_id: &str) -> Value {
        data(&self.on_job("get", job_id, &json!({}))).clone()
    }

    /// start, stop, delete: answers nothing but that it was done.
    #[track_caller]
    pub(crate) fn act(&self, action: &str, job_id: &str) {
        let answered = self.on_job(action, job_id, &json!({}));
        assert!(data(&answered).is_null(), "{action}: {answered}");
    }

    /// cancelTask, retryTask.
    #[track_caller]
    pub(crate) fn act_on_tasks(&self, action: &str, job_id: &str, device_keys: &[&str]) -> Value {
        self.on_job(action, job_id, &json!({ "deviceKeys": device_keys }))
    }

    /// `search` and `searchTask` of jobs, `searchDeviceUpgrade` of firmware. Returns the whole envelope.
    #[track_caller]
    pub(crate) fn search_page(&self, action: &str, body: &Value) -> Value {
        let resource = if action == "searchDeviceUpgrade" { "ota-firmwares" } else { "ota-jobs" };
        self.platform.call(resource, action, &[], body).json()
    }

    /// The same by somebody with a native token.
    #[track_caller]
    pub(crate) fn search_devices_as(&self, token: &str, body: &Value) -> Value {
        let url = path("ota-firmwares", &[("action", "searchDeviceUpgrade"), ("orgId", ORGANIZATION)]);
        self.server().anonymous().request("POST", &url).header("apim-accesstoken", token).json(body).send().json()
    }

    /// All rows, on one page.
    #[track_caller]
    pub(crate) fn search(&self, action: &str, expression: &str) -> Vec<Value> {
        let found = self.search_page(action, &json!({ "expression": expression, "pagination": { "pageSize": 200 } }));
        let rows = data(&found).as_array().unwrap_or_else(|| panic!("{expression}: {found}")).clone();
        assert_eq!(found["pagination"]["totalSize"], rows.len(), "{found}");
        rows
    }

    /// The keys of the devices whose tasks are found.
    #[track_caller]
    pub(crate) fn tasks_of(&self, expression: &str) -> Vec<String> {
        texts(&self.search("searchTask", expression), "deviceKey")
    }

    /// The task of a device that has one.
    #[track_caller]
    pub(crate) fn task(&self, device_key: &str) -> Value {
        let mut found = self.search("searchTask", &format!("deviceKey = '{device_key}'"));
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// By GET, without a body, as the operator of a native token.
    #[track_caller]
    pub(crate) fn get_by_get(&self, job_id: &str) -> Value {
        let token = self.platform.native_token(json!({ "role": "operator" }));
        let url = path("ota-jobs", &[("action", "get"), ("orgId", ORGANIZATION), ("jobId", job_id)]);
        envelope(&self.server().anonymous().request("GET", &url).header("apim-accesstoken", &token).send())["data"].clone()
    }
}

/// A job for everything at 1.0, with `changes` laid over it; a `null` stays one.
pub(crate) fn for_all(changes: Value) -> Value {
    let mut body = json!({
        "type": "upgrade",
        "upgradePolicy": "incremental",
        "upgradeScope": { "type": "total", "versionNumbers": ["1.0"] },
        "enableUpgradeRequest": true,
    });
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    body
}

#[track_caller]
pub(crate) fn data(envelope: &Value) -> &Value {
    assert_eq!((&envelope["code"], &envelope["msg"]), (&json!(0), &json!("OK")), "{envelope}");
    &envelope["data"]
}

#[track_caller]
pub(crate) fn refused(envelope: &Value) -> (u64, String) {
    let code = envelope["code"].as_u64().filter(|code| *code != 0).unwrap_or_else(|| panic!("not refused: {envelope}"));
    assert!(envelope["data"].is_null(), "{envelope}");
    (code, envelope["msg"].as_str().unwrap().to_owned())
}

/// One field of each row.
pub(crate) fn texts(rows: &[Value], field: &str) -> Vec<String> {
    rows.iter().map(|row| row[field].as_str().unwrap_or_else(|| panic!("no {field} in {row}")).to_owned()).collect()
}
