//! What the EnOS tests share: an application that signs its calls, forms, and the platform's envelope.

use crate::common::fleet::issue_token;
use crate::common::{Client, Response, TestServer};
use md5::Md5;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) const PRODUCT: &str = "8UhOTwV5";
pub(crate) const ORGANIZATION: &str = "default";
const GET_TOKEN: &str = "/apim-token-service/v2.0/token/get";

/// A server, and an application that has a token of it.
#[derive(Debug)]
pub(crate) struct Platform {
    pub(crate) server: TestServer,
    pub(crate) app: App,
    pub(crate) token: String,
}

/// An application's key and secret.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) key: String,
    pub(crate) secret: String,
}

impl App {
    /// The body that gets a token at this time.
    pub(crate) fn login(&self, timestamp: u64) -> Value {
        let encryption = sha256_hex(format!("{}{timestamp}{}", self.key, self.secret).as_bytes());
        json!({ "appKey": self.key, "timestamp": timestamp, "encryption": encryption })
    }

    /// What `apim-signature` should be.
    pub(crate) fn signature(&self, token: &str, query: &[(&str, &str)], body: &[u8], timestamp: u64) -> String {
        let mut sorted = query.to_vec();
        sorted.sort_unstable();
        let parameters: String = sorted.iter().map(|(key, value)| format!("{key}{value}")).collect();
        let end = format!("{timestamp}{}", self.secret);
        sha256_hex(&[token.as_bytes(), parameters.as_bytes(), body, end.as_bytes()].concat())
    }
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
        let created = server.admin().post("/api/v1/apps", &json!({})).expect(201).json();
        let text = |field: &str| created[field].as_str().unwrap().to_owned();
        let app = App { key: text("id"), secret: text("secret") };
        let answer = server.anonymous().post(GET_TOKEN, &app.login(now_ms())).expect(200).json();
        let token = answer["data"]["accessToken"].as_str().unwrap_or_else(|| panic!("no token in {answer}")).to_owned();
        Self { server, app, token }
    }

    /// A native token, which needs no signature.
    #[must_use]
    #[track_caller]
    pub(crate) fn native_token(&self, wanted: Value) -> String {
        issue_token(&self.server.admin(), wanted)
    }

    /// An action of `ota-jobs` or `ota-firmwares`, signed.
    #[track_caller]
    pub(crate) fn call(&self, resource: &str, action: &str, query: &[(&str, &str)], body: &Value) -> Response {
        let always = [("action", action), ("orgId", ORGANIZATION)];
        let query = [always.as_slice(), query].concat();
        let text = body.to_string();
        let timestamp = now_ms();
        let signature = self.app.signature(&self.token, &query, text.as_bytes(), timestamp);
        self.server
            .anonymous()
            .request("POST", &path(resource, &query))
            .header("apim-accesstoken", &self.token)
            .header("apim-timestamp", &timestamp.to_string())
            .header("apim-signature", &signature)
            .json(body)
            .send()
    }

    #[track_caller]
    pub(crate) fn jobs(&self, action: &str, query: &[(&str, &str)], body: &Value) -> Response {
        self.call("ota-jobs", action, query, body)
    }

    #[track_caller]
    pub(crate) fn firmware(&self, action: &str, query: &[(&str, &str)], body: &Value) -> Response {
        self.call("ota-firmwares", action, query, body)
    }

    /// Sends a form; only its URL is signed.
    #[track_caller]
    pub(crate) fn send_form(&self, form: &Form) -> Response {
        let query = [("action", "create"), ("orgId", ORGANIZATION), ("productKey", PRODUCT)];
        let client = self.server.anonymous();
        let mut request = client.request("POST", &path("ota-firmwares", &query));
        for (name, value) in self.form_headers(form) {
            request = request.header(name, &value);
        }
        request.body(&form.bytes()).send()
    }

    pub(crate) fn form_headers(&self, form: &Form) -> [(&'static str, String); 4] {
        let query = [("action", "create"), ("orgId", ORGANIZATION), ("productKey", PRODUCT)];
        let timestamp = now_ms();
        [
            ("apim-accesstoken", self.token.clone()),
            ("apim-timestamp", timestamp.to_string()),
            ("apim-signature", self.app.signature(&self.token, &query, b"", timestamp)),
            ("Content-Type", form.content_type()),
        ]
    }

    /// Creates firmware whose metadata has these changes; returns its id.
    #[track_caller]
    pub(crate) fn create_firmware(&self, version: &str, changes: Value) -> String {
        let file = format!("the image of version {version}").into_bytes();
        let data = data(&self.send_form(&Form::of(&metadata(version, &file, changes), &file)));
        data["firmwareId"].as_str().unwrap_or_else(|| panic!("no firmwareId in {data}")).to_owned()
    }

    /// A device that runs this version of the main component.
    #[track_caller]
    pub(crate) fn put_device(&self, device_key: &str, version: &str, details: Value) {
        let mut device = json!({ "components": [{ "type": 1, "identify": 0, "version": version }] });
        device.as_object_mut().unwrap().extend(details.as_object().unwrap().clone());
        let response = self.server.admin().put(&format!("/api/v1/products/{PRODUCT}/devices/{device_key}"), &device);
        assert!(matches!(response.status, 200 | 201 | 204), "{}: {}", response.status, response.text());
    }

    /// The device's own client, for checks and reports.
    #[must_use]
    #[track_caller]
    pub(crate) fn device(&self, device_key: &str) -> Client {
        let token = self.native_token(json!({ "role": "device", "product_id": PRODUCT, "device_id": device_key }));
        self.server.anonymous().with_token(&token)
    }

    /// What a device at this version is told.
    #[track_caller]
    pub(crate) fn check(&self, device_key: &str, version: &str) -> Value {
        let body = json!({ "product_id": PRODUCT, "device_id": device_key, "type": 1, "identify": 0, "version": version });
        self.device(device_key).post("/api/v1/check", &body).expect(200).json()
    }

    #[track_caller]
    pub(crate) fn report(&self, device_key: &str, upgrade_id: &Value, state: &str) {
        let body = json!({ "product_id": PRODUCT, "device_id": device_key, "upgrade_id": upgrade_id, "state": state });
        self.device(device_key).post("/api/v1/report", &body).expect(200);
    }

    /// Creates a job with these changes of [`job_body`]; returns its id.
    #[track_caller]
    pub(crate) fn create_job(&self, firmware_id: &str, changes: Value) -> String {
        let data = data(&self.jobs("create", &[("firmwareId", firmware_id)], &job_body(changes)));
        data["jobId"].as_str().unwrap_or_else(|| panic!("no jobId in {data}")).to_owned()
    }

    /// All rows of a search, page by page.
    #[track_caller]
    pub(crate) fn search_all(&self, resource: &str, action: &str, expression: &str) -> Vec<Value> {
        let mut rows = Vec::new();
        for page in 1.. {
            let body = json!({ "expression": expression, "pagination": { "pageNo": page, "pageSize": 3 } });
            let answer = envelope(&self.call(resource, action, &[], &body));
            let found = answer["data"].as_array().unwrap_or_else(|| panic!("no rows in {answer}")).clone();
            let is_last = found.len() < 3;
            rows.extend(found);
            if is_last {
                assert_eq!(answer["pagination"]["totalSize"], rows.len(), "{answer}");
                return rows;
            }
        }
        unreachable!("pages are counted without an end")
    }
}

/// A job from version 1.0 for devices `d1` and `d2`, with `changes` laid over it; a `null` takes a field out.
pub(crate) fn job_body(changes: Value) -> Value {
    let mut body = json!({
        "name": { "defaultValue": "ota-job-test", "i18nValue": {} },
        "type": "upgrade",
        "upgradePolicy": "snapshot",
        "upgradeScope": { "type": "partial", "versionNumbers": ["1.0"], "deviceKeys": ["d1", "d2"] },
        "enableUpgradeRequest": true,
    });
    lay_over(&mut body, changes);
    body
}

/// What is said of a file, with `changes` laid over it; a `null` takes a field out.
pub(crate) fn metadata(version: &str, file: &[u8], changes: Value) -> Value {
    let mut metadata = json!({
        "name": { "defaultValue": format!("firmware {version}"), "i18nValue": {} },
        "version": version,
        "signMethod": "md5",
        "sign": hex(&Md5::digest(file)),
        "enableVerification": false,
    });
    lay_over(&mut metadata, changes);
    metadata
}

fn lay_over(body: &mut Value, changes: Value) {
    let fields = body.as_object_mut().unwrap();
    for (field, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(fields.remove(field)),
            value => drop(fields.insert(field.clone(), value.clone())),
        }
    }
}

/// A multipart body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form {
    parts: Vec<u8>,
}

const BOUNDARY: &str = "7f3c0e1b9a5d";

impl Form {
    /// Metadata and file, as clients send them.
    pub(crate) fn of(metadata: &Value, file: &[u8]) -> Self {
        Self::default().metadata(metadata.to_string().as_bytes()).file(file)
    }

    #[must_use]
    pub(crate) fn metadata(self, text: &[u8]) -> Self {
        self.part("form-data; name=\"metadata\"", text)
    }

    #[must_use]
    pub(crate) fn file(self, bytes: &[u8]) -> Self {
        self.part("form-data; name=\"file\"; filename=\"image.bin\"", bytes)
    }

    #[must_use]
    pub(crate) fn part(mut self, disposition: &str, bytes: &[u8]) -> Self {
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n");
        self.parts.extend([head.as_bytes(), bytes, b"\r\n"].concat());
        self
    }

    pub(crate) fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={BOUNDARY}")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.parts.as_slice(), format!("--{BOUNDARY}--\r\n").as_bytes()].concat()
    }
}

/// The whole envelope of a success.
#[track_caller]
pub(crate) fn envelope(response: &Response) -> Value {
    let body = response.json();
    assert_eq!((response.status, &body["code"], &body["msg"]), (200, &json!(0), &json!("OK")), "{body}");
    check_request_id(&body);
    body
}

/// The data of a success.
#[track_caller]
pub(crate) fn data(response: &Response) -> Value {
    envelope(response)["data"].clone()
}

/// The code of a refusal, told as the platform tells it.
#[track_caller]
pub(crate) fn code(response: &Response) -> u64 {
    let body = response.json();
    let code = body["code"].as_u64().unwrap_or_else(|| panic!("no code in {body}"));
    assert_ne!(code, 0, "no refusal: {body}");
    assert_eq!(response.status, 200, "the platform's client reads no body of another status: {body}");
    assert!(body["msg"].as_str().is_some_and(|message| message.len() > 5), "an empty msg helps nobody: {body}");
    assert!(body["data"].is_null() && body.get("pagination").is_none(), "{body}");
    check_request_id(&body);
    code
}

#[track_caller]
pub(crate) fn message(response: &Response) -> String {
    response.json()["msg"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn check_request_id(body: &Value) {
    let id = body["requestId"].as_str().unwrap_or_else(|| panic!("no requestId in {body}"));
    assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{body}");
}

/// The path of an action, its values percent-encoded.
pub(crate) fn path(resource: &str, query: &[(&str, &str)]) -> String {
    let encoded: Vec<String> = query.iter().map(|(key, value)| format!("{}={}", percent(key), percent(value))).collect();
    format!("/connect-service/v2.1/{resource}?{}", encoded.join("&"))
}

fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(byte as char);
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
