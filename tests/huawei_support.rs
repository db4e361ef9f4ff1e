//! What the Huawei tests share: an application that has logged in, packages, devices that check and report natively.

use crate::common::fleet::issue_token;
use crate::common::server::Setup;
use crate::common::{Client, Response, TestServer};
use serde_json::{Value, json};

pub(crate) const PRODUCT: &str = "lock";
pub(crate) const ROOT: &str = "/iodm/northbound/v1.5.0";
pub(crate) const SOFTWARE: &str = "/operations/softwareUpgrade";
pub(crate) const FIRMWARE: &str = "/operations/firmwareUpgrade";
const LOGIN: &str = "/iocm/app/sec/v1.1.0";

/// A server, and an application with a token of it.
#[derive(Debug)]
pub(crate) struct Platform {
    pub(crate) server: TestServer,
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) token: String,
}

impl Platform {
    /// Without flow control.
    #[must_use]
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::with_config("[huawei]\ncalls_per_minute = 0\n")
    }

    #[must_use]
    #[track_caller]
    pub(crate) fn with_config(text: &str) -> Self {
        let server = Setup::default().config(text).start();
        let created = server.admin().post("/api/v1/apps", &json!({})).expect(201).json();
        let text = |field: &str| created[field].as_str().unwrap().to_owned();
        let mut platform = Self { id: text("id"), secret: text("secret"), token: String::new(), server };
        platform.token = platform.login()["accessToken"].as_str().unwrap().to_owned();
        platform
    }

    /// What logging in answers. The token in hand opens nothing more.
    #[track_caller]
    pub(crate) fn login(&self) -> Value {
        let form = format!("appId={}&secret={}", self.id, self.secret);
        let client = self.server.anonymous();
        let request = client.request("POST", &format!("{LOGIN}/login"));
        request.header("Content-Type", "application/x-www-form-urlencoded").body(form.as_bytes()).send().expect(200).json()
    }

    /// One of the calls around the login, with a JSON body.
    #[track_caller]
    pub(crate) fn security(&self, call: &str, body: &Value) -> Response {
        self.server.anonymous().post(&format!("{LOGIN}/{call}"), body)
    }

    /// A call with both headers.
    #[track_caller]
    pub(crate) fn call_as(&self, app_key: &str, token: &str, method: &str, path: &str, body: Option<&Value>) -> Response {
        let client = self.server.anonymous();
        let request = client.request(method, &format!("{ROOT}{path}"));
        let request = request.header("app_key", app_key).header("Authorization", &format!("Bearer {token}"));
        match body {
            Some(body) => request.json(body).send(),
            None => request.send(),
        }
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        self.call_as(&self.id, &self.token, "GET", path, None)
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.call_as(&self.id, &self.token, "POST", path, Some(body))
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Response {
        self.call_as(&self.id, &self.token, "DELETE", path, None)
    }

    /// Uploads a package for deviceType `Lock`, model `L1`, manufacturerName `Acme`, unless `more` says otherwise; returns its id.
    #[track_caller]
    pub(crate) fn upload(&self, version: &str, more: &str) -> String {
        let query = format!("productId={PRODUCT}&version={version}&deviceType=Lock&model=L1&manufacturerName=Acme{more}");
        let response = self.upload_with(&query);
        response.expect(201).json()["fileId"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn upload_with(&self, query: &str) -> Response {
        let client = self.server.anonymous();
        let request = client.request("POST", &format!("{ROOT}/category?{query}"));
        let request = request.header("app_key", &self.id).header("Authorization", &format!("Bearer {}", self.token));
        request.body(format!("the package of {query}").as_bytes()).send()
    }

    /// A device of the product, at this version, that says of itself what the packages are for.
    #[track_caller]
    pub(crate) fn put_device(&self, device_id: &str, version: &str, more: Value) {
        let mut device = json!({
            "components": [{ "type": 1, "identify": 0, "version": version }],
            "device_type": "Lock", "model": "L1", "manufacturer": "Acme",
        });
        device.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.put_device_of(PRODUCT, device_id, &device);
    }

    #[track_caller]
    pub(crate) fn put_device_of(&self, product_id: &str, device_id: &str, device: &Value) {
        let response = self.server.admin().put(&format!("/api/v1/products/{product_id}/devices/{device_id}"), device);
        assert!(matches!(response.status, 200 | 201 | 204), "{}: {}", response.status, response.text());
    }

    /// Creates a software upgrade task; returns the operation's id.
    #[track_caller]
    pub(crate) fn create(&self, file_id: &str, targets: Value, policy: Value) -> String {
        let body = json!({ "fileId": file_id, "targets": targets, "policy": policy });
        self.post(SOFTWARE, &body).expect(200).json()["operationId"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn operation(&self, id: &str) -> Value {
        self.get(&format!("/operations/{id}")).expect(200).json()
    }

    /// The devices of an operation that show as `status`, or all.
    #[track_caller]
    pub(crate) fn sub_operations(&self, id: &str, status: Option<&str>) -> Vec<Value> {
        let filter = status.map(|status| format!("&subOperationStatus={status}")).unwrap_or_default();
        let page = self.get(&format!("/operations/{id}/subOperations?pageSize=100{filter}")).expect(200).json();
        let rows = page["data"].as_array().unwrap().clone();
        assert_eq!(page["totalCount"], rows.len(), "{page}");
        rows
    }

    /// How one device stands.
    #[track_caller]
    pub(crate) fn sub_operation(&self, id: &str, device_id: &str) -> Value {
        let rows = self.sub_operations(id, None);
        rows.into_iter().find(|row| row["deviceId"] == device_id).unwrap_or_else(|| panic!("{device_id} isn't in operation {id}"))
    }

    fn device(&self, device_id: &str) -> Client {
        let wanted = json!({ "role": "device", "product_id": PRODUCT, "device_id": device_id });
        self.server.anonymous().with_token(&issue_token(&self.server.admin(), wanted))
    }

    /// What a device at this version is told.
    #[track_caller]
    pub(crate) fn check(&self, device_id: &str, version: &str) -> Value {
        let body = json!({ "product_id": PRODUCT, "device_id": device_id, "type": 1, "identify": 0, "version": version });
        self.device(device_id).post("/api/v1/check", &body).expect(200).json()
    }

    /// The id of the upgrade that a device at 1.0 is offered.
    #[track_caller]
    pub(crate) fn offered(&self, device_id: &str) -> Value {
        let told = self.check(device_id, "1.0");
        assert!(told["upgrade"].is_object(), "{device_id} was offered nothing: {told}");
        told["upgrade"]["id"].clone()
    }

    #[track_caller]
    pub(crate) fn report(&self, device_id: &str, upgrade_id: &Value, state: &str) {
        let body = json!({ "product_id": PRODUCT, "device_id": device_id, "upgrade_id": upgrade_id, "state": state });
        self.device(device_id).post("/api/v1/report", &body).expect(200);
    }

    /// Checks at 1.0, and reports this of what it is offered.
    #[track_caller]
    pub(crate) fn upgrade(&self, device_id: &str, state: &str) {
        let upgrade = self.offered(device_id);
        self.report(device_id, &upgrade, state);
    }
}

/// Asserts a refusal in the platform's shape: the status, the code as a text, and the platform's own words.
#[track_caller]
pub(crate) fn assert_refused(response: &Response, http: u16, code: &str, description: &str) {
    let told = format!("{}: {}", response.status, response.text());
    assert_eq!(response.status, http, "{told}");
    let body = response.json();
    assert_eq!((body["error_code"].as_str(), body["error_desc"].as_str()), (Some(code), Some(description)), "{told}");
    assert!(body["error_detail"].as_str().is_some_and(|detail| !detail.trim().is_empty()), "what is wrong stays untold: {told}");
}

/// A time so many seconds from now, as the platform writes it.
pub(crate) fn time(seconds: i64) -> String {
    let now = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(now + seconds).unwrap().strftime("%Y%m%dT%H%M%SZ").to_string()
}
