//! Logging in, refreshing, logging out: only the latest token of an application is valid.

use crate::common::Response;
use crate::huawei_support::{Platform, assert_refused};
use serde_json::{Value, json};

#[track_caller]
fn assert_opens_nothing(platform: &Platform, token: &str) {
    let response = platform.call_as(&platform.id, token, "GET", "/category", None);
    assert_refused(&response, 403, "1010005", "App_key or access_token is invalid.");
}

#[track_caller]
fn assert_opens(platform: &Platform, token: &str) {
    platform.call_as(&platform.id, token, "GET", "/category", None).expect(200);
}

fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().unwrap_or_else(|| panic!("no {field} in {answer}"))
}

fn refresh(platform: &Platform, refresh_token: &str) -> Response {
    let body = json!({ "appId": platform.id, "secret": platform.secret, "refreshToken": refresh_token });
    platform.security("refreshToken", &body)
}

#[test]
fn a_login_answers_what_the_platform_s_clients_read() {
    let platform = Platform::start();
    let answer = platform.login();
    assert_eq!(answer["tokenType"], "bearer");
    assert_eq!(answer["expiresIn"], 3_600);
    assert_eq!(answer["scope"], "default");
    for field in ["accessToken", "refreshToken"] {
        assert!((1..=127).contains(&text(&answer, field).len()));
    }
    // Some clients send JSON.
    platform.security("login", &json!({ "appId": platform.id, "secret": platform.secret })).expect(200);
}

#[test]
fn only_the_latest_token_is_valid_also_after_a_restart() {
    let mut platform = Platform::start();
    let first = platform.token.clone();
    assert_opens(&platform, &first);
    let second = text(&platform.login(), "accessToken").to_owned();
    assert_opens_nothing(&platform, &first);
    assert_opens(&platform, &second);
    platform.server.kill_and_start_again();
    assert_opens_nothing(&platform, &first);
    assert_opens(&platform, &second);
    let third = text(&platform.login(), "accessToken").to_owned();
    assert_opens_nothing(&platform, &second);
    assert_opens(&platform, &third);
}

#[test]
fn applications_and_platforms_do_not_log_each_other_out() {
    let platform = Platform::start();
    let other = platform.server.admin().post("/api/v1/apps", &json!({})).expect(201).json();
    let credentials = json!({ "appId": other["id"], "secret": other["secret"] });
    platform.security("login", &credentials).expect(200);
    assert_opens(&platform, &platform.token);
    let body = json!({ "id": platform.id, "secret": platform.secret });
    let elsewhere = platform.server.anonymous().post("/v2/accesskey_auth", &body).expect(200).json();
    let token = text(&platform.login(), "accessToken").to_owned();
    assert_opens(&platform, &token);
    assert_opens(&platform, text(&elsewhere, "access_token"));
}

#[test]
fn a_refresh_gives_a_new_pair_and_ends_the_old_one() {
    let platform = Platform::start();
    let first = platform.login();
    let second = refresh(&platform, text(&first, "refreshToken")).expect(200).json();
    assert_opens_nothing(&platform, text(&first, "accessToken"));
    assert_opens(&platform, text(&second, "accessToken"));
    assert_eq!(second["expiresIn"], 3_600);
    for used in [text(&first, "refreshToken"), text(&second, "accessToken"), "nothing"] {
        assert_refused(&refresh(&platform, used), 403, "1010005", "App_key or access_token is invalid.");
    }
    assert_opens_nothing(&platform, text(&second, "refreshToken"));
    let third = refresh(&platform, text(&second, "refreshToken")).expect(200).json();
    assert_opens(&platform, text(&third, "accessToken"));
}

#[test]
fn a_logout_ends_both_tokens() {
    let platform = Platform::start();
    let login = platform.login();
    let token = text(&login, "accessToken");
    platform.security("logout", &json!({ "accessToken": token })).expect(204);
    assert_opens_nothing(&platform, token);
    assert_refused(&refresh(&platform, text(&login, "refreshToken")), 403, "1010005", "App_key or access_token is invalid.");
    let again = platform.security("logout", &json!({ "accessToken": token }));
    assert_refused(&again, 403, "1010005", "App_key or access_token is invalid.");
}

#[test]
fn a_login_with_a_wrong_secret_or_without_one_is_refused() {
    let platform = Platform::start();
    for body in [json!({ "appId": platform.id, "secret": "wrong" }), json!({ "appId": "nobody", "secret": platform.secret })] {
        assert_refused(&platform.security("login", &body), 401, "100208", "AppId or secret is not right.");
        let body = json!({ "appId": body["appId"], "secret": body["secret"], "refreshToken": "x" });
        assert_refused(&platform.security("refreshToken", &body), 401, "100208", "AppId or secret is not right.");
    }
    for body in [json!({}), json!({ "appId": platform.id }), json!({ "appId": platform.id, "secret": null })] {
        assert_refused(&platform.security("login", &body), 400, "120015", "Bad request error.");
    }
    assert_opens(&platform, &platform.token);
}

#[test]
fn many_who_log_in_together_leave_one_valid_token() {
    let platform = Platform::start();
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let logins: Vec<_> = (0..8).map(|_| scope.spawn(|| platform.login())).collect();
        logins.into_iter().map(|login| login.join().unwrap()).collect()
    });
    let opens =
        |answer: &&Value| platform.call_as(&platform.id, text(answer, "accessToken"), "GET", "/category", None).status == 200;
    assert_eq!(answers.iter().filter(opens).count(), 1);
}

#[test]
fn a_token_of_another_platform_s_login_opens_nothing_here_and_ends_nothing() {
    let platform = Platform::start();
    let created = json!({ "appKey": platform.id });
    let now = jiff::Timestamp::now().as_millisecond().to_string();
    let text = format!("{}{now}{}", platform.id, platform.secret);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let encryption: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let body = json!({ "appKey": created["appKey"], "timestamp": now, "encryption": encryption });
    let got = platform.server.anonymous().post("/apim-token-service/v2.0/token/get", &body).expect(200).json();
    let token = got["data"]["accessToken"].as_str().unwrap().to_owned();
    let refused = platform.call_as(&platform.id, &token, "GET", "/category", None);
    assert_refused(&refused, 403, "1010005", "App_key or access_token is invalid.");
    let refused = platform.security("logout", &json!({ "accessToken": token }));
    assert_refused(&refused, 403, "1010005", "App_key or access_token is invalid.");
    platform.get("/category").expect(200);
}
