//! Who is let in on EnOS: the token service with its statuses, signatures, roles and organizations.

use crate::common::server::Setup;
use crate::common::wait_until;
use crate::enos_support::{ORGANIZATION, PRODUCT, Platform, code, data, envelope, message, now_ms, path};
use serde_json::{Value, json};

const GET: &str = "/apim-token-service/v2.0/token/get";
const REFRESH: &str = "/apim-token-service/v2.0/token/refresh";

/// The status of the token service's answer, and its data.
#[track_caller]
fn ask(platform: &Platform, path: &str, body: &Value) -> (u64, Value) {
    let answer = platform.server.anonymous().post(path, body).expect(200).json();
    assert_eq!(answer["business"], "apim-token-service", "{answer}");
    assert!(answer["msg"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
    (answer["status"].as_u64().unwrap(), answer["data"].clone())
}

/// Encryptions are good once, and are told apart by the millisecond.
fn next_ms() -> u64 {
    let now = now_ms();
    wait_until("the next millisecond begins", || (now_ms() > now).then(now_ms))
}

#[test]
fn enos_the_same_token_is_given_while_it_is_good() {
    let platform = Platform::start();
    let (status, again) = ask(&platform, GET, &platform.app.login(next_ms()));
    assert_eq!((status, again["accessToken"].as_str()), (0, Some(platform.token.as_str())));
    assert!(again["expire"].as_u64().is_some_and(|left| (1..=7_200).contains(&left)), "{again}");
    let mut written_as_text = platform.app.login(next_ms());
    written_as_text["timestamp"] = json!(written_as_text["timestamp"].to_string());
    assert_eq!(ask(&platform, GET, &written_as_text).1["accessToken"], platform.token.as_str());
    assert!(platform.token.len() <= 127);
}

#[test]
fn enos_a_refreshed_token_opens_and_so_does_the_one_before() {
    let platform = Platform::start();
    let mut body = platform.app.login(next_ms());
    body["accessToken"] = json!(platform.token);
    let (status, fresh) = ask(&platform, REFRESH, &body);
    assert_eq!((status, &fresh["expire"]), (0, &json!(7_200)));
    let fresh = fresh["accessToken"].as_str().unwrap().to_owned();
    assert_ne!(fresh, platform.token);
    assert_eq!(ask(&platform, GET, &platform.app.login(next_ms())).1["accessToken"], fresh.as_str());
    data(&platform.firmware("search", &[], &json!({})));
    let platform = Platform { token: fresh, ..platform };
    data(&platform.firmware("search", &[], &json!({})));
}

#[test]
fn enos_1001_an_encryption_that_was_used_before() {
    let platform = Platform::start();
    let body = platform.app.login(next_ms());
    assert_eq!(ask(&platform, GET, &body).0, 0);
    assert_eq!(ask(&platform, GET, &body), (1001, json!(null)));
}

#[test]
fn enos_1002_an_application_that_is_not_known() {
    let platform = Platform::start();
    let mut body = platform.app.login(next_ms());
    body["appKey"] = json!("5acb82e7");
    assert_eq!(ask(&platform, GET, &body), (1002, json!(null)));
}

#[test]
fn enos_1003_a_wrong_encryption() {
    let platform = Platform::start();
    for wrong in ["0", "85fce9b43916998b4d6288d98c4daf07fad39ed02036eec506595c90341685a0"] {
        let mut body = platform.app.login(next_ms());
        body["encryption"] = json!(wrong);
        assert_eq!(ask(&platform, GET, &body), (1003, json!(null)), "{wrong}");
    }
    let mut moved = platform.app.login(next_ms());
    moved["timestamp"] = json!(now_ms() + 1_000);
    assert_eq!(ask(&platform, GET, &moved).0, 1003, "the time is part of what was digested");
}

#[test]
fn enos_1004_a_time_that_is_none_or_not_now() {
    let platform = Platform::start();
    for timestamp in [now_ms() - 400_000, now_ms() + 400_000, 0] {
        assert_eq!(ask(&platform, GET, &platform.app.login(timestamp)), (1004, json!(null)), "{timestamp}");
    }
    let mut body = platform.app.login(next_ms());
    body["timestamp"] = json!("noon");
    assert_eq!(ask(&platform, GET, &body).0, 1004);
    assert_eq!(ask(&platform, GET, &json!([])).0, 1004);
}

#[test]
fn enos_1202_each_parameter_of_the_token_service_missing() {
    let platform = Platform::start();
    for field in ["appKey", "timestamp", "encryption"] {
        for empty in [json!(null), json!(""), json!("  ")] {
            let mut body = platform.app.login(next_ms());
            body[field] = empty.clone();
            assert_eq!(ask(&platform, GET, &body).0, 1202, "{field}: {empty}");
        }
    }
    assert_eq!(ask(&platform, REFRESH, &platform.app.login(next_ms())).0, 1202, "a refresh needs the token");
}

#[test]
fn enos_1204_a_token_that_is_not_the_applications_own() {
    let platform = Platform::start();
    let native = platform.native_token(json!({ "role": "operator" }));
    for token in ["nonsense", &native] {
        let mut body = platform.app.login(next_ms());
        body["accessToken"] = json!(token);
        assert_eq!(ask(&platform, REFRESH, &body), (1204, json!(null)));
    }
}

#[test]
fn enos_a_configured_application_logs_in_to_its_own_organization() {
    let setup = Setup::default().config("[[apps]]\nid = \"key\"\nsecret = \"secret\"\norganization = \"o15475466766371\"\n");
    let platform = Platform::on(setup.start());
    let app = crate::enos_support::App { key: "key".to_owned(), secret: "secret".to_owned() };
    let (status, issued) = ask(&platform, GET, &app.login(next_ms()));
    assert_eq!(status, 0);
    let token = issued["accessToken"].as_str().unwrap();
    let query = [("action", "search"), ("orgId", "o15475466766371")];
    let timestamp = now_ms();
    let signed = platform
        .server
        .anonymous()
        .request("GET", &path("ota-jobs", &query))
        .header("apim-accesstoken", token)
        .header("apim-timestamp", &timestamp.to_string())
        .header("apim-signature", &app.signature(token, &query, b"", timestamp))
        .send();
    assert_eq!(data(&signed), json!([]));
    assert_eq!(code(&Platform { token: token.to_owned(), app, ..platform }.jobs("search", &[], &json!({}))), 24_403);
}

/// A search with these headers, and nothing that isn't among them.
#[track_caller]
fn search(platform: &Platform, method: &str, query: &[(&str, &str)], headers: &[(&str, &str)], body: &str) -> u64 {
    let client = platform.server.anonymous();
    let mut request = client.request(method, &path("ota-firmwares", query));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = if body.is_empty() { request.send() } else { request.body(body.as_bytes()).send() };
    if response.json()["code"] == 0 { 0 } else { code(&response) }
}

const SEARCH: [(&str, &str); 2] = [("action", "search"), ("orgId", ORGANIZATION)];

#[test]
fn enos_a_signature_covers_parameters_body_and_time() {
    let platform = Platform::start();
    let query = [("action", "search"), ("orgId", ORGANIZATION), ("note", "a b&c=d/水+")];
    let body = r#"{ "expression" : "version='1'" }"#;
    let signed = |query: &[(&str, &str)], signature: &str, timestamp: u64, body: &str| {
        let timestamp = timestamp.to_string();
        let headers =
            [("APIM-AccessToken", platform.token.as_str()), ("Apim-Timestamp", &timestamp), ("Apim-Signature", signature)];
        search(&platform, "POST", query, &headers, body)
    };
    let now = now_ms();
    let right = platform.app.signature(&platform.token, &query, body.as_bytes(), now);
    assert_eq!(signed(&query, &right, now, body), 0);
    assert_eq!(signed(&query, &right.to_uppercase(), now, body), 0);
    assert_eq!(signed(&query, &right, now, &body.replace(' ', "")), 24_403, "another body");
    assert_eq!(signed(&query[..2], &right, now, body), 24_403, "a parameter less");
    assert_eq!(signed(&query, &right, now + 1, body), 24_403, "another time");
    assert_eq!(signed(&query, &right[..63], now, body), 24_403, "a digit less");
    for offset in [-400_000_i64, 400_000] {
        let then = now.wrapping_add_signed(offset);
        let signature = platform.app.signature(&platform.token, &query, body.as_bytes(), then);
        assert_eq!(signed(&query, &signature, then, body), 24_403, "{offset} ms off");
    }
    let near = now - 200_000;
    let signature = platform.app.signature(&platform.token, &query, body.as_bytes(), near);
    assert_eq!(signed(&query, &signature, near, body), 0);
}

#[test]
fn enos_24403_a_token_of_the_service_without_a_signature() {
    let platform = Platform::start();
    assert_eq!(search(&platform, "GET", &SEARCH, &[("apim-accesstoken", &platform.token)], ""), 24_403);
    let headers = [("apim-accesstoken", platform.token.as_str()), ("apim-signature", "00")];
    assert_eq!(search(&platform, "GET", &SEARCH, &headers, ""), 24_403, "a signature without a time");
}

#[test]
fn enos_a_valid_token_is_enough_where_signatures_are_off_and_a_wrong_signature_still_is_not() {
    let platform = Platform::on(Setup::default().config("[enos]\nsignature = \"off\"\n").start());
    assert_eq!(search(&platform, "GET", &SEARCH, &[("apim-accesstoken", &platform.token)], ""), 0);
    let now = now_ms().to_string();
    let wrong = [("apim-accesstoken", platform.token.as_str()), ("apim-timestamp", &now), ("apim-signature", "00")];
    assert_eq!(search(&platform, "GET", &SEARCH, &wrong, ""), 24_403);
    assert_eq!(search(&platform, "GET", &SEARCH, &[("apim-accesstoken", "nonsense")], ""), 24_403);
}

#[test]
fn enos_a_native_token_needs_no_signature_and_none_can_be_made_for_it() {
    let platform = Platform::start();
    let native = platform.native_token(json!({ "role": "operator" }));
    assert_eq!(search(&platform, "GET", &SEARCH, &[("apim-accesstoken", &native)], ""), 0);
    let now = now_ms();
    let signature = platform.app.signature(&native, &SEARCH, b"", now);
    let signed = [("apim-accesstoken", native.as_str()), ("apim-timestamp", &now.to_string()), ("apim-signature", &signature)];
    assert_eq!(search(&platform, "GET", &SEARCH, &signed, ""), 24_403);
}

#[test]
fn enos_24403_no_token_or_an_unknown_one() {
    let platform = Platform::start();
    assert_eq!(search(&platform, "GET", &SEARCH, &[], ""), 24_403);
    assert_eq!(search(&platform, "GET", &SEARCH, &[("apim-accesstoken", "")], ""), 24_403);
    assert_eq!(search(&platform, "POST", &SEARCH, &[("apim-accesstoken", "0123456789abcdef.x")], "{}"), 24_403);
}

#[test]
fn enos_24403_another_organization_than_the_tokens() {
    let platform = Platform::start();
    let foreign = [("action", "search"), ("orgId", "o15475466766371")];
    let native = platform.native_token(json!({ "role": "operator" }));
    assert_eq!(search(&platform, "GET", &foreign, &[("apim-accesstoken", &native)], ""), 24_403);
    let admin = crate::common::ADMIN_TOKEN;
    assert_eq!(search(&platform, "GET", &foreign, &[("apim-accesstoken", admin)], ""), 0, "the administrator may name another");
}

#[test]
fn enos_24403_roles_that_may_only_look_or_not_even_that() {
    let platform = Platform::start();
    let firmware_id = platform.create_firmware("2.0", json!({}));
    let job_id = platform.create_job(&firmware_id, json!({}));
    let user = platform.native_token(json!({ "role": "user" }));
    let device = platform.native_token(json!({ "role": "device", "product_id": PRODUCT, "device_id": "d1" }));
    let looks = [
        ("ota-firmwares", "get"),
        ("ota-firmwares", "search"),
        ("ota-firmwares", "listVersion"),
        ("ota-firmwares", "searchDeviceUpgrade"),
        ("ota-jobs", "get"),
        ("ota-jobs", "search"),
        ("ota-jobs", "searchTask"),
    ];
    let changes = [
        ("ota-firmwares", "create"),
        ("ota-firmwares", "delete"),
        ("ota-jobs", "create"),
        ("ota-jobs", "start"),
        ("ota-jobs", "stop"),
        ("ota-jobs", "delete"),
        ("ota-jobs", "cancelTask"),
        ("ota-jobs", "retryTask"),
    ];
    let call = |token: &str, (resource, action): (&str, &str)| {
        let query = [
            ("action", action),
            ("orgId", ORGANIZATION),
            ("firmwareId", firmware_id.as_str()),
            ("jobId", &job_id),
            ("productKey", PRODUCT),
        ];
        platform.server.anonymous().request("POST", &path(resource, &query)).header("apim-accesstoken", token).send()
    };
    for look in looks {
        envelope(&call(&user, look));
        assert_eq!(code(&call(&device, look)), 24_403, "{look:?}");
    }
    for change in changes {
        for token in [&user, &device] {
            assert_eq!(code(&call(token, change)), 24_403, "{change:?}");
        }
    }
}

#[test]
fn enos_a_token_that_is_bound_to_a_product_finds_nothing_of_another() {
    let platform = Platform::start();
    let firmware_id = platform.create_firmware("2.0", json!({}));
    let bound = platform.native_token(json!({ "role": "operator", "product_id": "another" }));
    let call = |action: &str| {
        let query = [("action", action), ("orgId", ORGANIZATION), ("firmwareId", firmware_id.as_str()), ("productKey", PRODUCT)];
        platform.server.anonymous().request("GET", &path("ota-firmwares", &query)).header("apim-accesstoken", &bound).send()
    };
    for action in ["get", "delete"] {
        assert_eq!(code(&call(action)), 24_404, "{action}");
    }
    for action in ["create", "listVersion"] {
        assert_eq!(code(&call(action)), 24_403, "{action}");
    }
    assert_eq!(data(&call("search")), json!([]));
}

#[test]
fn enos_24400_no_organization_and_no_action() {
    let platform = Platform::start();
    let native = platform.native_token(json!({ "role": "operator" }));
    let token = [("apim-accesstoken", native.as_str())];
    for query in [
        &[("action", "search")][..],
        &[("action", "search"), ("orgId", "")],
        &[("orgId", ORGANIZATION)],
        &[("action", "Search"), ("orgId", ORGANIZATION)],
        &[("action", "explode"), ("orgId", ORGANIZATION)],
    ] {
        assert_eq!(search(&platform, "GET", query, &token, ""), 24_400, "{query:?}");
    }
}

#[test]
fn enos_a_path_or_method_that_is_not_there_is_told_in_the_envelope() {
    let platform = Platform::start();
    let client = platform.server.anonymous();
    for path in ["/connect-service/v2.1/ota-nothing?action=get", "/connect-service", "/apim-token-service/v2.0/token"] {
        let answer = client.get(path).expect(404).json();
        assert_eq!(answer["code"], 24_404, "{path}: {answer}");
    }
    let answer = client.request("PUT", &path("ota-jobs", &SEARCH)).send().expect(405).json();
    assert_eq!(answer["code"], 24_400, "{answer}");
    assert_eq!(client.get(GET).expect(405).json()["status"], 1004);
}

#[test]
fn enos_no_body_and_a_null_are_an_empty_object() {
    let platform = Platform::start();
    let native = platform.native_token(json!({ "role": "operator" }));
    let query = [("action", "search"), ("orgId", ORGANIZATION)];
    let headers = [("apim-accesstoken", native.as_str())];
    for body in ["", "null", " null\n", "{}"] {
        assert_eq!(search(&platform, "POST", &query, &headers, body), 0, "{body:?}");
    }
}

#[test]
fn enos_a_clock_that_is_off_is_told_by_how_much() {
    let platform = Platform::start();
    let server = platform.server.anonymous();
    let told = |timestamp| server.post(GET, &platform.app.login(timestamp)).json()["msg"].as_str().unwrap().to_owned();
    assert!(told(now_ms() - 3_600_000).contains(" seconds behind this server's clock"));
    assert!(told(now_ms() + 3_600_000).contains(" seconds ahead of this server's clock"));
}

#[test]
fn enos_24400_a_body_that_is_no_json_object() {
    let platform = Platform::start();
    let native = platform.native_token(json!({ "role": "operator" }));
    for body in ["[]", "{", "7", "name=x"] {
        for (resource, action) in [("ota-jobs", "search"), ("ota-jobs", "searchTask"), ("ota-firmwares", "search")] {
            let query = [("action", action), ("orgId", ORGANIZATION)];
            let client = platform.server.anonymous();
            let request = client.request("POST", &path(resource, &query)).header("apim-accesstoken", &native);
            let response = request.body(body.as_bytes()).send();
            assert_eq!(code(&response), 24_400, "{action} {body:?}");
            assert!(message(&response).contains("expected") || message(&response).contains("not JSON"), "{}", message(&response));
        }
    }
}
