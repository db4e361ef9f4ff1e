//! What the matrix of tenants shares: an organization that has something of everything, all that can be listed of it, and callers that have
//! no business with it.

use crate::common::fleet::{create_firmware, id_text, issue_token, upload};
use crate::common::{Client, TestServer, wait_until};
use crate::enos_support::{App, now_ms, sha256_hex};
use crate::xlink_support::{self, firmware_body, task_body};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The product that most calls are about, and one of the platform that numbers its devices and versions.
pub(crate) const PUMP: &str = "pump";
pub(crate) const NUMBERED: &str = xlink_support::PRODUCT;
/// A product of the same organization that those who are bound to it open.
pub(crate) const FAN: &str = "fan";
/// Where events may be sent: nobody listens there.
pub(crate) const HOOK: &str = "http://127.0.0.1:9/hooks";
const MAC: &str = "AABBCCDDEEFF";

/// A server for many organizations that may be refused as often as they like.
pub(crate) fn server() -> TestServer {
    let config = format!(
        "[limits]\nwrong_credentials_per_minute = 0\n[huawei]\ncalls_per_minute = 0\n[webhooks]\nallowed = [\"{HOOK}\"]\n[log]\nlevel = \"error\"\n"
    );
    TestServer::setup().args(&["--mqtt-listen", "127.0.0.1:0"]).config(&config).start()
}

/// An organization with products, devices, firmware, tasks that run, and everything else there is.
#[derive(Debug)]
pub(crate) struct Victim {
    pub(crate) organization: String,
    pub(crate) operator: Client,
    /// Named texts that a shot is made of: ids, secrets, tokens.
    known: BTreeMap<&'static str, String>,
    /// What nobody else may see: texts that occur nowhere but in what is this organization's.
    marks: Vec<String>,
    /// Tokens that open something, for looking whether they still do.
    living: Vec<(&'static str, String)>,
}

impl Victim {
    #[track_caller]
    pub(crate) fn new(server: &TestServer, number: usize) -> Self {
        let organization = format!("north-{number}");
        let token = issue_token(&server.admin(), json!({ "role": "operator", "organization": organization }));
        let operator = server.anonymous().with_token(&token);
        let mut victim =
            Self { organization, operator, known: BTreeMap::new(), marks: Vec::new(), living: vec![("operator", token.clone())] };
        victim.know("operator", token);
        victim.make_products(number);
        victim.make_tokens(server);
        victim.make_numbered(server, number);
        victim
    }

    /// Begins an upload and leaves it. The server takes few of them, so not every organization has one.
    #[track_caller]
    pub(crate) fn begin_upload(&mut self) {
        let bytes = format!("upload of {}", self.organization);
        let wanted = json!({ "size": bytes.len(), "sha256": sha256_hex(bytes.as_bytes()) });
        self.know("upload sha256", wanted["sha256"].as_str().unwrap());
        self.know("upload bytes", bytes);
        let begun = self.operator.post("/api/v1/uploads", &wanted).expect(201).json();
        self.mark("upload", begun["upload"].as_str().unwrap());
    }

    /// Its text of this name.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> &str {
        self.known.get(name).unwrap_or_else(|| panic!("the organization has no {name}"))
    }

    fn know(&mut self, name: &'static str, text: impl Into<String>) {
        self.known.insert(name, text.into());
    }

    /// Knows it, and that nobody else may see it.
    fn mark(&mut self, name: &'static str, text: impl Into<String>) {
        let text = text.into();
        assert!(text.len() >= 6, "{name} is {text:?}, which may occur anywhere");
        self.marks.push(text.clone());
        self.know(name, text);
    }

    /// What of this organization stands in `answer` and didn't stand in `asked`.
    pub(crate) fn traces_in(&self, answer: &str, asked: &str) -> Vec<&String> {
        self.marks.iter().filter(|mark| answer.contains(&***mark) && !asked.contains(&***mark)).collect()
    }

    #[track_caller]
    fn make_products(&mut self, number: usize) {
        let operator = self.operator.clone();
        let secret = |what: &str| format!("{what}-of-north-{number}-alone");
        let image = secret("image").into_bytes();
        let uploaded = upload(&operator, &image);
        self.mark("image", uploaded["image"].as_str().unwrap());
        self.mark("md5", uploaded["md5"].as_str().unwrap());
        self.mark("link", uploaded["url"].as_str().unwrap());
        self.marks.push(String::from_utf8(image).unwrap());
        operator.put(&format!("/api/v1/products/{PUMP}"), &json!({ "name": secret("product") })).expect(201);
        self.mark("product name", secret("product"));
        for (device, version) in [("p-1", "1.0"), ("p-2", "1.0")] {
            let details = json!({
                "components": [{ "type": 1, "identify": 0, "version": version }],
                "attributes": { "site": secret("attribute") }, "tags": { "owner": secret("tag") }, "groups": [secret("group")],
                "device_type": "Lock", "model": "L1", "manufacturer": "Acme",
            });
            operator.put(&format!("/api/v1/products/{PUMP}/devices/{device}"), &details).expect(201);
        }
        for mark in ["attribute", "tag", "group"] {
            self.mark(mark, secret(mark));
        }
        let firmware = json!({
            "product_id": PUMP, "type": 1, "identify": 0, "version": "2.0", "image": self.get("image"), "name": secret("firmware"),
            "device_type": "Lock", "model": "L1", "manufacturer": "Acme",
        });
        let firmware = operator.post("/api/v1/firmware", &firmware).expect(201).json();
        self.mark("firmware", id_text(&firmware["id"]));
        self.mark("firmware name", secret("firmware"));
        let package = json!({
            "product_id": PUMP, "type": 1, "identify": 0, "version": "4.0", "image": self.get("image"), "file_type": "firmwarePackage",
            "device_type": "Lock", "model": "L1", "manufacturer": "Acme",
        });
        let package = operator.post("/api/v1/firmware", &package).expect(201).json();
        self.mark("firmware package", id_text(&package["id"]));
        // One that nothing leads to, and so can be deleted.
        let spare = create_firmware(&operator, PUMP, &secret("version"), self.get("image"));
        self.mark("spare firmware", id_text(&spare["id"]));
        self.mark("spare version", secret("version"));
        let task = |name: &str, from: &str| {
            let body = json!({
                "product_id": PUMP, "type": 1, "identify": 0, "firmware_id": self.get("firmware"), "from_versions": [from], "name": name,
            });
            id_text(&operator.post("/api/v1/tasks", &body).expect(201).json()["id"])
        };
        let (running, stopped) = (task(&secret("running"), "1.0"), task(&secret("stopped"), "0.9"));
        operator.post(&format!("/api/v1/tasks/{running}/start"), &json!({})).expect(200);
        self.mark("task", running);
        self.mark("stopped task", stopped);
        self.mark("task name", secret("running"));
        self.mark("stopped task name", secret("stopped"));
        let fan_image = upload(&operator, secret("fan").as_bytes());
        let fan = create_firmware(&operator, FAN, "2.0", fan_image["image"].as_str().unwrap());
        self.know("fan firmware", id_text(&fan["id"]));
        operator.put(&format!("/api/v1/products/{FAN}/devices/p-1"), &json!({})).expect(201);
    }

    #[track_caller]
    fn make_tokens(&mut self, server: &TestServer) {
        let operator = self.operator.clone();
        let issue = |wanted: Value| issue_token(&operator, wanted);
        let device = issue(json!({ "role": "device", "product_id": PUMP, "device_id": "p-1" }));
        let check = json!({ "product_id": PUMP, "device_id": "p-1", "type": 1, "identify": 0, "version": "1.0" });
        let offer = server.anonymous().with_token(&device).post("/api/v1/check", &check).expect(200).json();
        self.mark("upgrade", offer["upgrade"]["id"].as_str().unwrap());
        self.know("device", device.clone());
        self.living.push(("device", device));
        for (name, wanted) in [
            ("user", json!({ "role": "user" })),
            ("user of fan", json!({ "role": "user", "product_id": FAN })),
            ("operator of fan", json!({ "role": "operator", "product_id": FAN })),
            ("operator of p-2", json!({ "role": "operator", "product_id": PUMP, "device_id": "p-2" })),
            ("device p-2", json!({ "role": "device", "product_id": PUMP, "device_id": "p-2" })),
            ("device p-1 of fan", json!({ "role": "device", "product_id": FAN, "device_id": "p-1" })),
            ("activation code", json!({ "role": "device", "product_id": PUMP })),
            ("expired", json!({ "role": "operator", "ttl_s": 1 })),
        ] {
            self.know(name, issue(wanted));
        }
        let spare = operator.post("/api/v1/tokens", &json!({ "role": "user" })).expect(201).json();
        self.mark("spare token id", spare["id"].as_str().unwrap());
        self.living.push(("spare", spare["token"].as_str().unwrap().to_owned()));
        let revoked = operator.post("/api/v1/tokens", &json!({ "role": "operator" })).expect(201).json();
        operator.delete(&format!("/api/v1/tokens/{}", revoked["id"].as_str().unwrap())).expect(204);
        self.know("revoked", revoked["token"].as_str().unwrap());

        let app = operator.post("/api/v1/apps", &json!({})).expect(201).json();
        self.mark("app", app["id"].as_str().unwrap());
        self.mark("app secret", app["secret"].as_str().unwrap());
        let login = json!({ "appId": app["id"], "secret": app["secret"] });
        let pair = server.anonymous().post("/iocm/app/sec/v1.1.0/login", &login).expect(200).json();
        self.mark("app token", pair["accessToken"].as_str().unwrap());
        self.mark("app refresh token", pair["refreshToken"].as_str().unwrap());
        let signed = server.anonymous().post("/apim-token-service/v2.0/token/get", &self.encryption()).expect(200).json();
        self.mark("signed token", signed["data"]["accessToken"].as_str().unwrap());
        let as_app = |method: &str, path: &str| {
            let client = server.anonymous().with_token(pair["accessToken"].as_str().unwrap());
            let body = json!({ "notifyType": "swUpgradeResultNotify", "callbackUrl": format!("{HOOK}/{}", self.organization) });
            client.request(method, path).header("app_key", app["id"].as_str().unwrap()).json(&body).send()
        };
        let theirs = as_app("POST", "/iodm/app/sub/v1.1.0/subscribe").expect(201).json();
        self.mark("app subscription", theirs["subscriptionId"].as_str().unwrap());
        let own = json!({ "url": format!("{HOOK}/{}", self.organization) });
        let own = operator.post("/api/v1/subscriptions", &own).expect(201).json();
        self.mark("subscription", own["id"].as_str().unwrap());
        self.mark("subscription secret", own["secret"].as_str().unwrap());
    }

    /// The platform whose devices and versions are numbers: a device that was activated, and one that was offered a task.
    #[track_caller]
    fn make_numbered(&mut self, server: &TestServer, number: usize) {
        let post = |token: &str, path: &str, body: &Value| {
            server.anonymous().request("POST", path).header("Access-Token", token).json(body).send().expect(200)
        };
        let operator = self.get("operator").to_owned();
        let path = format!("/v2/product/{NUMBERED}/firmware");
        let firmware = post(&operator, &path, &self.numbered_firmware(5)).json();
        self.mark("numbered firmware", id_text(&firmware["id"]));
        let name = format!("numbered-of-north-{number}");
        let task = post(&operator, "/v2/upgrade/firmware/task", &self.numbered_task(&name, 1)).json();
        self.mark("numbered task", id_text(&task["id"]));
        self.mark("numbered task name", name);
        let start = json!({ "product_id": NUMBERED, "upgrade_task_id": task["id"], "status": 1 });
        post(&operator, "/v2/upgrade/firmware/task/status", &start);
        let device = issue_token(&self.operator, json!({ "role": "device", "product_id": NUMBERED, "device_id": "7" }));
        let check = json!({ "product_id": NUMBERED, "device_id": 7, "type": 1, "current_version": 1, "identify": 0 });
        post(&device, "/v2/upgrade/firmware/check/7", &check);
        self.know("numbered device", device);
        let code = issue_token(&self.operator, json!({ "role": "device", "product_id": NUMBERED }));
        let activation = json!({ "mac": MAC, "mcu_mod": "M", "mcu_version": 3, "firmware_mod": "W", "firmware_version": "1", "active_code": code });
        let activated = post("", "/v2/device_active", &activation).json();
        self.know("numbered activation code", code);
        self.mark("authorize code", activated["authorize_code"].as_str().unwrap());
        let login = json!({ "product_id": NUMBERED, "mac": MAC, "authorize_code": activated["authorize_code"] });
        let pair = post("", "/v2/device_login", &login).json();
        self.mark("refresh token", pair["refresh_token"].as_str().unwrap());
        self.living.push(("activated", pair["access_token"].as_str().unwrap().to_owned()));
    }

    pub(crate) fn numbered_task(&self, name: &str, from: u32) -> Value {
        task_body(json!({
            "name": name, "from_version": from, "target_version": 9,
            "target_version_url": format!("/images/{}", self.get("image")), "target_version_md5": self.get("md5"),
            "target_version_size": self.image_length(),
        }))
    }

    pub(crate) fn numbered_firmware(&self, version: u32) -> Value {
        firmware_body(json!({
            "version": version, "file_url": format!("/images/{}", self.get("image")), "file_md5": self.get("md5"),
            "file_size": self.image_length(),
        }))
    }

    fn image_length(&self) -> usize {
        format!("image-of-{}-alone", self.organization).len()
    }

    pub(crate) fn mac(&self) -> &'static str {
        MAC
    }

    /// The login of its application with the token service, which takes each once.
    pub(crate) fn encryption(&self) -> Value {
        App { key: self.get("app").to_owned(), secret: self.get("app secret").to_owned() }.login(now_ms())
    }

    /// Waits until its token that was issued for a second has ended.
    #[track_caller]
    pub(crate) fn wait_for_expiry(&self) {
        let client = self.operator.with_token(self.get("expired"));
        wait_until("the token has ended", || (client.get("/api/v1/tasks").status == 401).then_some(()));
    }

    /// Everything that can be listed or shown of it, with the status it is shown by. What only counts time is left out.
    #[track_caller]
    pub(crate) fn snapshot(&self) -> BTreeMap<String, Value> {
        let mut seen = BTreeMap::new();
        let mut look = |path: String| {
            let answer = self.operator.get(&path);
            seen.insert(path, json!([answer.status, answer.json()]));
        };
        for path in ["products", "firmware", "tasks", "subscriptions"] {
            look(format!("/api/v1/{path}"));
        }
        for product in [PUMP, FAN, NUMBERED] {
            look(format!("/api/v1/products/{product}"));
            look(format!("/api/v1/products/{product}/devices?limit=1000"));
        }
        for (product, device) in [(PUMP, "p-1"), (PUMP, "p-2"), (FAN, "p-1"), (NUMBERED, "7")] {
            look(format!("/api/v1/products/{product}/devices/{device}"));
        }
        for task in ["task", "stopped task", "numbered task"] {
            look(format!("/api/v1/tasks/{}", self.get(task)));
            look(format!("/api/v1/tasks/{}/upgrades", self.get(task)));
        }
        if let Some(upload) = self.known.get("upload") {
            look(format!("/api/v1/uploads/{upload}"));
        }
        let client = self.operator.with_token(self.get("app token"));
        let app = client.request("GET", "/iocm/app/sub/v1.2.0/subscriptions").header("app_key", self.get("app")).send();
        seen.insert("the application's subscriptions".to_owned(), json!([app.status, app.json()]));
        for (name, token) in &self.living {
            // Whether it is let in at all: what it may do is another matter.
            let status = self.operator.with_token(token).get("/api/v1/tasks").status;
            seen.insert(format!("the token of {name}"), json!([if status == 401 { 401 } else { 200 }, name]));
        }
        seen
    }
}

/// Who tries.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// As in the header of whichever platform. `None`: without the header.
    pub(crate) token: Option<String>,
    /// Its own, where it has one.
    pub(crate) organization: String,
    /// What it sends beside a token that is an application's.
    pub(crate) app: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Holds nothing that opens anything.
    Nobody,
    /// Manages another organization.
    ForeignManager,
    /// Of another organization, and no manager.
    Foreign,
    /// Of another organization, where everything has the same names.
    Namesake,
    /// A device of another organization with the same product and name.
    ForeignDevice,
    /// Manages, or looks at, another product of the same organization.
    OtherProduct { manages: bool },
    /// Opens another device, or none.
    OtherDevice { may_have_images: bool },
    /// Looks at the whole organization, and manages nothing.
    Onlooker,
}

/// Is let into every organization by design, and acts in its own where it names none.
pub(crate) const ADMINISTRATOR: &str = "administrator in another organization";

/// Organizations that have no business with any other.
pub(crate) struct Strangers {
    south: Victim,
    admin_of_south: String,
    empty: String,
    empty_user: String,
}

impl Strangers {
    #[track_caller]
    pub(crate) fn new(server: &TestServer) -> Self {
        let admin = server.admin();
        let south = Victim::new(server, 999_999);
        let admin_of_south = issue_token(&admin, json!({ "role": "admin", "organization": south.organization }));
        let empty = issue_token(&admin, json!({ "role": "operator", "organization": "empty" }));
        let empty_user = issue_token(&admin, json!({ "role": "user", "organization": "empty" }));
        Self { south, admin_of_south, empty, empty_user }
    }

    /// Everybody who tries something with what is the victim's.
    pub(crate) fn callers(&self, victim: &Victim) -> Vec<Caller> {
        use Kind::{Foreign, ForeignDevice, ForeignManager, Namesake, Nobody, Onlooker, OtherDevice, OtherProduct};
        let caller = |name, kind, token: &str, organization: &str| Caller {
            name,
            kind,
            token: Some(token.to_owned()),
            organization: organization.to_owned(),
            app: None,
        };
        let (south, north) = (&self.south, &*victim.organization);
        let of_app = Caller {
            app: Some(south.get("app").to_owned()),
            ..caller("application of another organization", Namesake, south.get("app token"), &south.organization)
        };
        vec![
            Caller { token: None, ..caller("nobody", Nobody, "", north) },
            caller("a guess", Nobody, &format!("0123456789abcdef.{}", "A".repeat(43)), north),
            caller("the right id with another secret", Nobody, &altered(victim.get("operator")), north),
            caller("an expired token", Nobody, victim.get("expired"), north),
            caller("a revoked token", Nobody, victim.get("revoked"), north),
            caller("a token for refreshing", Nobody, victim.get("app refresh token"), north),
            caller("an authorize code", Nobody, victim.get("authorize code"), north),
            caller("a token for signed calls, unsigned", Nobody, victim.get("signed token"), north),
            caller("operator of an empty organization", ForeignManager, &self.empty, "empty"),
            caller("operator of another organization", Namesake, south.get("operator"), &south.organization),
            caller(ADMINISTRATOR, Namesake, &self.admin_of_south, &south.organization),
            of_app,
            caller("user of an empty organization", Foreign, &self.empty_user, "empty"),
            caller("user of another organization", Foreign, south.get("user"), &south.organization),
            caller("device of another organization", ForeignDevice, south.get("device"), &south.organization),
            caller("numbered device of another organization", ForeignDevice, south.get("numbered device"), &south.organization),
            caller("activation code of another organization", ForeignDevice, south.get("activation code"), &south.organization),
            caller("operator of another product", OtherProduct { manages: true }, victim.get("operator of fan"), north),
            caller("user of another product", OtherProduct { manages: false }, victim.get("user of fan"), north),
            caller("operator of another device", OtherDevice { may_have_images: true }, victim.get("operator of p-2"), north),
            caller("another device", OtherDevice { may_have_images: true }, victim.get("device p-2"), north),
            caller(
                "a device of its name of another product",
                OtherDevice { may_have_images: true },
                victim.get("device p-1 of fan"),
                north,
            ),
            caller("an activation code", OtherDevice { may_have_images: false }, victim.get("activation code"), north),
            caller("a user", Onlooker, victim.get("user"), north),
        ]
    }

    /// The stranger whose names are all the same.
    pub(crate) fn namesake(&self) -> &Victim {
        &self.south
    }
}

/// The same token with another last letter of its secret.
fn altered(token: &str) -> String {
    let (start, last) = token.split_at(token.len() - 1);
    // Neither is a letter that only fills up the last bits.
    format!("{start}{}", if last == "A" { "E" } else { "A" })
}
