//! How each call there is reaches for what is somebody else's. One row for each route of the server; `tenant_matrix` sees to it that none is
//! missing and none is left over.

use crate::enos_support::{Form, job_body, metadata};
use crate::tenants::{HOOK, NUMBERED, PUMP, Victim};
use serde_json::{Value, json};

/// Who may make a call at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    Look,
    Manage,
    /// The device asks, others preview.
    Check,
    /// The device tells.
    Report,
    /// Who stands in front of the device, or manages.
    Person,
    /// Whoever has a token of the organization that is more than an activation code.
    Image,
    /// No token: the secret stands in the body.
    Secret,
}

/// What a call is about, for those who open one product of the same organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// The victim's product: theirs is another.
    Product,
    /// A list, or something new: of their own.
    Own,
    /// The whole organization: not theirs.
    Organization,
    /// What all of an organization share.
    Shared,
}

/// A call that names what is the victim's.
#[derive(Debug)]
pub(crate) struct Aim {
    pub(crate) needs: Needs,
    pub(crate) about: About,
    /// It names something by an id that only the victim has, so that nobody from elsewhere may find it.
    pub(crate) is_by_id: bool,
    /// Instead of the `{id}` of the path.
    pub(crate) id: String,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<Vec<u8>>,
    /// Its rightful caller is the victim's application.
    pub(crate) is_of_application: bool,
}

impl Aim {
    fn new(needs: Needs, about: About) -> Self {
        Self {
            needs,
            about,
            is_by_id: false,
            id: String::new(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            is_of_application: false,
        }
    }

    fn json(self, body: &Value) -> Self {
        Self { body: Some(body.to_string().into_bytes()), ..self }
    }

    fn bytes(self, body: &[u8]) -> Self {
        Self { body: Some(body.to_vec()), ..self }
    }

    /// Of the path, or somewhere else where only the victim's would fit.
    fn id(self, id: &str) -> Self {
        Self { is_by_id: true, id: id.to_owned(), ..self }
    }

    fn query(mut self, key: &'static str, value: &str) -> Self {
        self.query.push((key, value.to_owned()));
        self
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn of_application(self) -> Self {
        Self { is_of_application: true, ..self }
    }
}

/// Looks at what an id names.
fn look(id: &str) -> Aim {
    Aim::new(Needs::Look, About::Product).id(id)
}

/// Changes what an id names.
fn change(id: &str) -> Aim {
    Aim::new(Needs::Manage, About::Product).id(id).json(&json!({}))
}

/// Whether a call is made as it should be: with the right secret, where it has one.
type Rightly = bool;

pub(crate) type Row = (&'static str, fn(&Victim, Rightly) -> Aim);

pub(crate) const ROWS: &[Row] = &[
    ("native GET /images/{sha256}", |v, _| Aim::new(Needs::Image, About::Shared).id(v.get("image"))),
    ("native GET /api/v1/images/{sha256}", |v, _| Aim::new(Needs::Image, About::Shared).id(v.get("image"))),
    ("native POST /api/v1/check", |_, _| {
        let body = json!({ "product_id": PUMP, "device_id": "p-1", "type": 1, "identify": 0, "version": "1.0" });
        Aim::new(Needs::Check, About::Product).json(&body)
    }),
    ("native POST /api/v1/report", |v, _| {
        let body = json!({ "product_id": PUMP, "device_id": "p-1", "upgrade_id": v.get("upgrade"), "state": "failed" });
        Aim::new(Needs::Report, About::Product).id("").json(&body)
    }),
    ("native POST /api/v1/images", |_, _| Aim::new(Needs::Manage, About::Shared).bytes(b"an image of somebody")),
    ("native POST /api/v1/uploads", |v, _| {
        let body = json!({ "size": v.get("upload bytes").len(), "sha256": v.get("upload sha256") });
        Aim::new(Needs::Manage, About::Shared).json(&body)
    }),
    ("native GET /api/v1/uploads/{upload}", |v, _| Aim::new(Needs::Manage, About::Shared).id(v.get("upload"))),
    ("native PATCH /api/v1/uploads/{upload}", |v, _| {
        // Not all of it: those who share the upload are to find it afterwards.
        let bytes = &v.get("upload bytes").as_bytes()[..1];
        Aim::new(Needs::Manage, About::Shared).id(v.get("upload")).header("Upload-Offset", "0").bytes(bytes)
    }),
    ("native GET /api/v1/products", |_, _| Aim::new(Needs::Look, About::Own)),
    ("native GET /api/v1/products/{product_id}", |_, _| Aim::new(Needs::Look, About::Product)),
    ("native PUT /api/v1/products/{product_id}", |_, _| {
        Aim::new(Needs::Manage, About::Product).json(&json!({ "name": "renamed" }))
    }),
    ("native DELETE /api/v1/products/{product_id}", |_, _| Aim::new(Needs::Manage, About::Product)),
    ("native GET /api/v1/products/{product_id}/devices", |_, _| Aim::new(Needs::Look, About::Product)),
    ("native GET /api/v1/products/{product_id}/devices/{device_id}", |_, _| Aim::new(Needs::Look, About::Product)),
    ("native PUT /api/v1/products/{product_id}/devices/{device_id}", |_, _| {
        Aim::new(Needs::Manage, About::Product).json(&json!({ "groups": ["stolen"] }))
    }),
    ("native DELETE /api/v1/products/{product_id}/devices/{device_id}", |_, _| Aim::new(Needs::Manage, About::Product)),
    ("native PUT /api/v1/products/{product_id}/devices/{device_id}/secret", |_, _| {
        Aim::new(Needs::Manage, About::Product).json(&json!({ "secret": "chosen" }))
    }),
    ("native DELETE /api/v1/products/{product_id}/devices/{device_id}/secret", |_, _| Aim::new(Needs::Manage, About::Product)),
    ("native GET /api/v1/products/{product_id}/devices/{device_id}/explanation", |_, _| Aim::new(Needs::Look, About::Product)),
    ("native POST /api/v1/devices", |_, _| {
        let line =
            json!({ "product_id": PUMP, "device_id": "p-1", "components": [{ "type": 1, "identify": 0, "version": "6.6" }] });
        // Each line has its own answer.
        Aim::new(Needs::Manage, About::Own).json(&line)
    }),
    ("native GET /api/v1/firmware", |_, _| Aim::new(Needs::Look, About::Own)),
    ("native POST /api/v1/firmware", |v, _| {
        let body = json!({ "product_id": PUMP, "type": 1, "identify": 0, "version": "3.0", "image": v.get("image") });
        Aim::new(Needs::Manage, About::Product).id("").json(&body)
    }),
    ("native GET /api/v1/firmware/{id}", |v, _| look(v.get("firmware"))),
    ("native DELETE /api/v1/firmware/{id}", |v, _| change(v.get("spare firmware"))),
    ("native POST /api/v1/tokens", |_, _| {
        let body = json!({ "role": "device", "product_id": PUMP, "device_id": "p-1", "ttl_s": 60 });
        Aim::new(Needs::Manage, About::Product).json(&body)
    }),
    ("native DELETE /api/v1/tokens/{id}", |v, _| change(v.get("spare token id"))),
    ("native POST /api/v1/apps", |_, _| Aim::new(Needs::Manage, About::Organization).json(&json!({}))),
    ("native DELETE /api/v1/apps/{id}", |v, _| Aim::new(Needs::Manage, About::Organization).id(v.get("app"))),
    ("native GET /api/v1/subscriptions", |_, _| Aim::new(Needs::Manage, About::Organization)),
    ("native POST /api/v1/subscriptions", |_, _| {
        Aim::new(Needs::Manage, About::Organization).json(&json!({ "url": format!("{HOOK}/more") }))
    }),
    ("native DELETE /api/v1/subscriptions/{id}", |v, _| Aim::new(Needs::Manage, About::Organization).id(v.get("subscription"))),
    ("native GET /api/v1/tasks", |_, _| Aim::new(Needs::Look, About::Own)),
    ("native POST /api/v1/tasks", |v, _| {
        let body = json!({
            "product_id": PUMP, "type": 1, "identify": 0, "firmware_id": v.get("firmware"), "from_versions": ["0.1"],
        });
        Aim::new(Needs::Manage, About::Product).id("").json(&body)
    }),
    ("native GET /api/v1/tasks/{id}", |v, _| look(v.get("task"))),
    ("native DELETE /api/v1/tasks/{id}", |v, _| change(v.get("stopped task"))),
    ("native POST /api/v1/tasks/{id}/start", |v, _| change(v.get("stopped task"))),
    ("native POST /api/v1/tasks/{id}/stop", |v, _| change(v.get("task"))),
    ("native POST /api/v1/tasks/{id}/pause", |v, _| change(v.get("task"))),
    ("native POST /api/v1/tasks/{id}/resume", |v, _| change(v.get("task"))),
    ("native POST /api/v1/tasks/{id}/approve", |v, _| change(v.get("task"))),
    ("native POST /api/v1/tasks/{id}/cancel", |v, _| change(v.get("task"))),
    ("native POST /api/v1/tasks/{id}/open-wave", |v, _| change(v.get("task"))),
    ("native GET /api/v1/tasks/{id}/upgrades", |v, _| look(v.get("task"))),
    ("native POST /api/v1/tasks/{id}/upgrades/{device_id}/cancel", |v, _| change(v.get("task"))),
    ("native POST /api/v1/tasks/{id}/upgrades/{device_id}/retry", |v, _| change(v.get("task"))),
    ("native POST /api/v1/tasks/{id}/upgrades/{device_id}/force", |v, _| change(v.get("task"))),
    ("native POST /api/v1/tasks/{id}/upgrades/{device_id}/confirm", |v, _| Aim { needs: Needs::Person, ..change(v.get("task")) }),
    ("native POST /api/v1/tasks/{id}/upgrades/{device_id}/decline", |v, _| Aim { needs: Needs::Person, ..change(v.get("task")) }),
    ("native GET /api/v1/events", |_, _| Aim::new(Needs::Look, About::Own).query("from", "1")),
    ("native GET /metrics", |_, _| Aim::new(Needs::Nothing, About::Own)),
    ("native GET /healthz", |_, _| Aim::new(Needs::Nothing, About::Own)),
    ("native GET /readyz", |_, _| Aim::new(Needs::Nothing, About::Own)),
    ("native GET /openapi.json", |_, _| Aim::new(Needs::Nothing, About::Own)),
    ("xlink POST /v2/upgrade/firmware/check/{device_id}", |_, _| {
        let body = json!({ "product_id": NUMBERED, "device_id": 7, "type": 1, "current_version": 1, "identify": 0 });
        Aim::new(Needs::Check, About::Product).json(&body)
    }),
    ("xlink POST /v2/upgrade/firmware/report/{device_id}", |_, _| {
        let body = json!({ "type": 1, "mod": "M1", "identify": 0, "last_version": 1, "current_version": 9, "result": 1 });
        Aim::new(Needs::Report, About::Product).json(&body)
    }),
    ("xlink POST /v2/upgrade/device/newest_version", |_, _| {
        Aim::new(Needs::Look, About::Product).json(&json!({ "product_id": NUMBERED, "device_id": 7 }))
    }),
    ("xlink POST /v2/upgrade/device", |_, _| {
        Aim::new(Needs::Look, About::Product).json(&json!({ "product_id": NUMBERED, "device_id": 7 }))
    }),
    ("xlink POST /v2/upgrade/firmware/task", |v, _| {
        Aim::new(Needs::Manage, About::Product).id("").json(&v.numbered_task("another", 2))
    }),
    ("xlink GET /v2/upgrade/firmware/tasks", |_, _| Aim::new(Needs::Manage, About::Product).query("product_id", NUMBERED)),
    ("xlink POST /v2/upgrade/firmware/tasks", |_, _| {
        Aim::new(Needs::Manage, About::Product).json(&json!({ "product_id": NUMBERED }))
    }),
    ("xlink POST /v2/upgrade/firmware/task/status", |v, _| {
        let body = json!({ "product_id": NUMBERED, "upgrade_task_id": v.get("numbered task"), "status": 0 });
        Aim::new(Needs::Manage, About::Product).id("").json(&body)
    }),
    ("xlink POST /v2/upgrade/firmware/task/delete", |v, _| {
        let body = json!({ "product_id": NUMBERED, "id": v.get("numbered task") });
        Aim::new(Needs::Manage, About::Product).id("").json(&body)
    }),
    ("xlink POST /v2/accesskey_auth", |v, rightly| {
        let secret = if rightly { v.get("app secret") } else { "a guess" };
        Aim::new(Needs::Secret, About::Organization).json(&json!({ "id": v.get("app"), "secret": secret }))
    }),
    ("xlink POST /v2/device_active", |v, rightly| {
        // A device's own token registers no other.
        let code = if rightly { v.get("numbered activation code") } else { v.get("numbered device") };
        let body = json!({ "mac": "001122334455", "mcu_mod": "M", "mcu_version": 3, "firmware_mod": "W", "firmware_version": "1", "active_code": code });
        Aim::new(Needs::Secret, About::Product).json(&body)
    }),
    ("xlink POST /v2/device_login", |v, rightly| {
        let code = if rightly { v.get("authorize code") } else { v.get("numbered device") };
        let body = json!({ "product_id": NUMBERED, "mac": v.mac(), "authorize_code": code });
        Aim::new(Needs::Secret, About::Product).json(&body)
    }),
    ("xlink POST /v2/device_refresh", |v, rightly| {
        let token = if rightly { v.get("refresh token") } else { v.get("numbered device") };
        Aim::new(Needs::Secret, About::Product).json(&json!({ "refresh_token": token }))
    }),
    ("xlink POST /v2/product/{product_id}/firmware", |v, _| {
        Aim::new(Needs::Manage, About::Product).id("").json(&v.numbered_firmware(6))
    }),
    ("xlink GET /v2/product/{product_id}/firmware/statistics", |_, _| Aim::new(Needs::Manage, About::Product)),
    ("xlink GET /v2/product/{product_id}/firmware/{id}", |v, _| {
        Aim::new(Needs::Manage, About::Product).id(v.get("numbered firmware"))
    }),
    ("xlink PUT /v2/product/{product_id}/firmware/{id}", |v, _| {
        Aim::new(Needs::Manage, About::Product).id(v.get("numbered firmware")).json(&v.numbered_firmware(8))
    }),
    ("xlink DELETE /v2/product/{product_id}/firmware/{id}", |v, _| {
        Aim::new(Needs::Manage, About::Product).id(v.get("numbered firmware"))
    }),
    ("xlink GET /v2/product/{product_id}/firmwares", |_, _| Aim::new(Needs::Manage, About::Product)),
    ("xlink POST /v2/product/{product_id}/firmwares", |_, _| Aim::new(Needs::Manage, About::Product).json(&json!({}))),
    ("xlink POST /v2/upload/product/{product_id}/firmware", |_, _| {
        Aim::new(Needs::Manage, About::Product).bytes(b"another image of somebody")
    }),
    ("enos POST /apim-token-service/v2.0/token/get", |v, rightly| {
        let mut body = v.encryption();
        if !rightly {
            body["encryption"] = json!("0".repeat(64));
        }
        Aim::new(Needs::Secret, About::Organization).json(&body)
    }),
    ("enos POST /apim-token-service/v2.0/token/refresh", |v, rightly| {
        let mut body = v.encryption();
        body["accessToken"] = json!(v.get("signed token"));
        if !rightly {
            body["encryption"] = json!("0".repeat(64));
        }
        Aim::new(Needs::Secret, About::Organization).json(&body)
    }),
    ("enos POST /connect-service/v2.1/ota-jobs?action=create", |v, _| {
        let body = job_body(json!({ "upgradeScope": { "type": "partial", "versionNumbers": ["1.0"], "deviceKeys": ["p-1"] } }));
        Aim::new(Needs::Manage, About::Product).id("").query("firmwareId", v.get("firmware")).json(&body)
    }),
    ("enos POST /connect-service/v2.1/ota-jobs?action=get", |v, _| look("").query("jobId", v.get("task"))),
    ("enos POST /connect-service/v2.1/ota-jobs?action=search", |_, _| Aim::new(Needs::Look, About::Own).json(&json!({}))),
    ("enos POST /connect-service/v2.1/ota-jobs?action=start", |v, _| change("").query("jobId", v.get("stopped task"))),
    ("enos POST /connect-service/v2.1/ota-jobs?action=stop", |v, _| change("").query("jobId", v.get("task"))),
    ("enos POST /connect-service/v2.1/ota-jobs?action=delete", |v, _| change("").query("jobId", v.get("stopped task"))),
    ("enos POST /connect-service/v2.1/ota-jobs?action=searchTask", |_, _| Aim::new(Needs::Look, About::Own).json(&json!({}))),
    ("enos POST /connect-service/v2.1/ota-jobs?action=cancelTask", |v, _| {
        change("").query("jobId", v.get("task")).json(&json!({ "deviceKeys": ["p-1"] }))
    }),
    ("enos POST /connect-service/v2.1/ota-jobs?action=retryTask", |v, _| {
        change("").query("jobId", v.get("task")).json(&json!({ "deviceKeys": ["p-1"] }))
    }),
    ("enos POST /connect-service/v2.1/ota-firmwares?action=create", |_, _| {
        let file = b"the image of a form";
        let form = Form::of(&metadata("7.0", file, json!({})), file);
        let aim = Aim::new(Needs::Manage, About::Product).query("productKey", PUMP);
        aim.header("Content-Type", &form.content_type()).bytes(&form.bytes())
    }),
    ("enos POST /connect-service/v2.1/ota-firmwares?action=get", |v, _| look("").query("firmwareId", v.get("firmware"))),
    ("enos POST /connect-service/v2.1/ota-firmwares?action=delete", |v, _| change("").query("firmwareId", v.get("spare firmware"))),
    ("enos POST /connect-service/v2.1/ota-firmwares?action=search", |_, _| Aim::new(Needs::Look, About::Own).json(&json!({}))),
    ("enos POST /connect-service/v2.1/ota-firmwares?action=listVersion", |_, _| {
        Aim::new(Needs::Look, About::Product).query("productKey", PUMP)
    }),
    ("enos POST /connect-service/v2.1/ota-firmwares?action=searchDeviceUpgrade", |_, _| {
        Aim::new(Needs::Look, About::Own).json(&json!({}))
    }),
    ("huawei POST /iocm/app/sec/v1.1.0/login", |v, rightly| {
        let secret = if rightly { v.get("app secret") } else { "a guess" };
        Aim::new(Needs::Secret, About::Organization).json(&json!({ "appId": v.get("app"), "secret": secret }))
    }),
    ("huawei POST /iocm/app/sec/v1.1.0/refreshToken", |v, rightly| {
        let secret = if rightly { v.get("app secret") } else { "a guess" };
        let body = json!({ "appId": v.get("app"), "secret": secret, "refreshToken": v.get("app refresh token") });
        Aim::new(Needs::Secret, About::Organization).json(&body)
    }),
    ("huawei POST /iocm/app/sec/v1.1.0/logout", |v, rightly| {
        let token = if rightly { v.get("app token") } else { v.get("app refresh token") };
        Aim::new(Needs::Secret, About::Organization).json(&json!({ "accessToken": token }))
    }),
    ("huawei POST /iodm/app/sub/v1.1.0/subscribe", |_, _| {
        let body = json!({ "notifyType": "fwUpgradeResultNotify", "callbackUrl": format!("{HOOK}/huawei") });
        Aim::new(Needs::Manage, About::Organization).json(&body).of_application()
    }),
    ("huawei GET /iocm/app/sub/v1.2.0/subscriptions", |_, _| Aim::new(Needs::Look, About::Organization).of_application()),
    ("huawei DELETE /iocm/app/sub/v1.2.0/subscriptions", |_, _| Aim::new(Needs::Manage, About::Organization).of_application()),
    ("huawei GET /iocm/app/sub/v1.2.0/subscriptions/{id}", |v, _| {
        Aim::new(Needs::Look, About::Organization).id(v.get("app subscription")).of_application()
    }),
    ("huawei DELETE /iocm/app/sub/v1.2.0/subscriptions/{id}", |v, _| {
        Aim::new(Needs::Manage, About::Organization).id(v.get("app subscription")).of_application()
    }),
    ("huawei POST /iodm/northbound/v1.5.0/operations/softwareUpgrade", |v, _| {
        let body = json!({ "fileId": v.get("firmware"), "targets": { "devices": ["p-2"] } });
        Aim::new(Needs::Manage, About::Product).id("").json(&body)
    }),
    ("huawei POST /iodm/northbound/v1.5.0/operations/firmwareUpgrade", |v, _| {
        let body = json!({ "fileId": v.get("firmware package"), "targets": { "devices": ["p-2"] } });
        Aim::new(Needs::Manage, About::Product).id("").json(&body)
    }),
    ("huawei GET /iodm/northbound/v1.5.0/operations", |_, _| Aim::new(Needs::Look, About::Own)),
    ("huawei GET /iodm/northbound/v1.5.0/operations/{id}", |v, _| look(v.get("task"))),
    ("huawei GET /iodm/northbound/v1.5.0/operations/{id}/subOperations", |v, _| look(v.get("task"))),
    ("huawei POST /iodm/northbound/v1.5.0/operations/{id}/cancel", |v, _| change(v.get("task"))),
    ("huawei GET /iodm/northbound/v1.5.0/category", |_, _| Aim::new(Needs::Look, About::Own)),
    ("huawei POST /iodm/northbound/v1.5.0/category", |_, _| {
        let aim = Aim::new(Needs::Manage, About::Product).query("productId", PUMP).query("version", "8.0");
        let aim = aim.query("deviceType", "Lock").query("model", "L1").query("manufacturerName", "Acme");
        aim.bytes(b"a package of somebody")
    }),
    ("huawei GET /iodm/northbound/v1.5.0/category/{id}", |v, _| look(v.get("firmware"))),
    ("huawei DELETE /iodm/northbound/v1.5.0/category/{id}", |v, _| change(v.get("spare firmware"))),
    ("autel POST /manage/api/v1/devices/{workspace}/devices/ota", |_, _| {
        // Of this name there is one product's alone.
        let body = json!([{ "sn": "p-2", "product_version": "2.0", "firmware_upgrade_type": 3 }]);
        Aim::new(Needs::Manage, About::Product).json(&body)
    }),
];
