//! Who guesses: tokens, secrets, signatures, links, over every way in. Guesses are counted for each address and, beyond a bound, answered
//! late; a good token passes at once, also behind the same address.

use crate::common::fleet::issue_token;
use crate::common::http::path_of;
use crate::common::mqtt::{MqttClient, MqttOptions};
use crate::common::{Fleet, TestServer, wait_until};
use crate::enos_support::{App, now_ms};
use crate::hostile_support::beside_good_clients;
use serde_json::json;
use std::sync::Mutex;
use std::time::{Duration, Instant};

fn wrong(server: &TestServer) -> u64 {
    server.metric("sluicegate_wrong_credentials_total") as u64
}

fn held(server: &TestServer) -> u64 {
    server.metric("sluicegate_refusals_held_back_total") as u64
}

type Guess<'a> = Box<dyn Fn() + 'a>;

#[test]
fn a_guess_is_counted_by_whichever_way_it_comes_and_nothing_else_is() {
    let server = TestServer::setup().args(&["--mqtt-listen", "127.0.0.1:0"]).start();
    let admin = server.admin();
    let app = admin.post("/api/v1/apps", &json!({})).expect(201).json();
    let fleet = Fleet::new(&admin, "pump");
    fleet.start_task(&admin, json!({}));
    let device = fleet.device(&admin, "p-1");
    let link = path_of(device.offered(&server)["url"].as_str().unwrap()).to_owned();
    let altered = format!("{}A", &link[..link.len() - 1]);
    let altered = if altered == link { format!("{}Q", &link[..link.len() - 1]) } else { altered };
    let guess = format!("0123456789abcdef.{}", "A".repeat(43));
    let plain = server.anonymous();
    let headed = |path: &str, name: &str, method: &str| plain.request(method, path).header(name, &guess).json(&json!({})).send();
    let mut encryption = App { key: app["id"].as_str().unwrap().to_owned(), secret: "a guess".to_owned() }.login(now_ms());
    let guesses: Vec<(&str, Guess<'_>)> = vec![
        ("a native token", Box::new(|| drop(plain.with_token(&guess).get("/api/v1/tasks").expect(401)))),
        (
            "a native check",
            Box::new(|| drop(plain.with_token(&guess).post("/api/v1/check", &device.check_body("1.0")).expect(401))),
        ),
        ("a link", Box::new(|| drop(plain.get(&altered).expect(403)))),
        ("an xlink token", Box::new(|| drop(headed("/v2/upgrade/firmware/tasks", "Access-Token", "GET").expect(403)))),
        (
            "an xlink secret",
            Box::new(|| drop(plain.post("/v2/accesskey_auth", &json!({ "id": app["id"], "secret": "a guess" })).expect(403))),
        ),
        (
            "an authorize code",
            Box::new(|| {
                let body = json!({ "product_id": "pump", "mac": "AABBCCDDEEFF", "authorize_code": guess });
                drop(plain.post("/v2/device_login", &body).expect(400));
            }),
        ),
        (
            "an activation code",
            Box::new(|| {
                let body = json!({
                    "mac": "AABBCCDDEEFF", "mcu_mod": "M", "mcu_version": 3, "firmware_mod": "W", "firmware_version": "1", "active_code": guess,
                });
                drop(plain.post("/v2/device_active", &body).expect(400));
            }),
        ),
        (
            "an enos token",
            Box::new(|| drop(headed("/connect-service/v2.1/ota-jobs?action=search&orgId=default", "apim-accesstoken", "POST"))),
        ),
        (
            "a huawei token",
            Box::new(|| {
                let request = plain.with_token(&guess);
                drop(request.request("GET", "/iodm/northbound/v1.5.0/operations").header("app_key", "default").send().expect(403));
            }),
        ),
        (
            "a huawei secret",
            Box::new(|| {
                drop(plain.post("/iocm/app/sec/v1.1.0/login", &json!({ "appId": app["id"], "secret": "a guess" })).expect(401));
            }),
        ),
        (
            "an autel token",
            Box::new(|| drop(headed("/manage/api/v1/devices/default/devices/ota", "x-auth-token", "POST").expect(401))),
        ),
        (
            "an mqtt password",
            Box::new(|| {
                assert!(MqttClient::connect(&server.address("mqtt"), &MqttOptions::new("g").credentials("p-1", &guess)).is_err());
            }),
        ),
    ];
    for (what, guess) in &guesses {
        let before = wrong(&server);
        guess();
        assert_eq!(wrong(&server), before + 1, "{what}");
    }
    let before = wrong(&server);
    let encrypted = plain.post("/apim-token-service/v2.0/token/get", &encryption).expect(200).json();
    assert_eq!((encrypted["status"].as_u64(), wrong(&server)), (Some(1003), before + 1), "an encryption");
    encryption["appKey"] = json!("nobody");
    plain.post("/apim-token-service/v2.0/token/get", &encryption).expect(200);
    assert_eq!(wrong(&server), before + 2, "an application that isn't here");
    // Nobody guessed who sends nothing, or what was good once, asks for what isn't there, or may not.
    let ended = issue_token(&admin, json!({ "role": "operator", "ttl_s": 1 }));
    wait_until("the token has ended", || (plain.with_token(&ended).get("/api/v1/tasks").status == 401).then_some(()));
    let before = wrong(&server);
    plain.get("/api/v1/tasks").expect(401);
    plain.with_token(&ended).get("/api/v1/tasks").expect(401);
    let order = "/manage/api/v1/devices/default/devices/ota";
    plain.post(order, &json!({})).expect(401);
    plain.request("POST", order).header("x-auth-token", &ended).json(&json!({})).send().expect(401);
    assert!(plain.post("/iocm/app/sec/v1.1.0/logout", &json!({ "accessToken": ended })).status >= 400);
    let mqtt = |options: MqttOptions| MqttClient::connect(&server.address("mqtt"), &options).is_err();
    assert!(mqtt(MqttOptions::new("n")) && mqtt(MqttOptions::new("e").credentials("p-1", &ended)));
    assert!(mqtt(MqttOptions::new("o").credentials("p-2", &device.token)), "a good token under another name");
    plain.get("/nothing").expect(404);
    admin.get("/api/v1/products/nothing").expect(404);
    device.client(&server).get("/api/v1/tasks").expect(403);
    assert_eq!(wrong(&server), before);
    assert_eq!(held(&server), 0, "a few are answered at once");
}

#[test]
fn whoever_guesses_is_slowed_down_and_a_good_token_of_the_same_address_is_not() {
    const GUESSERS: usize = 8;
    let server = TestServer::setup().config("[limits]\nwrong_credentials_per_minute = 20\n").start();
    let took: Mutex<Vec<Duration>> = Mutex::default();
    beside_good_clients("eight guessers behind the same address", &server, || {
        std::thread::scope(|scope| {
            for guesser in 0..GUESSERS {
                let (server, took) = (&server, &took);
                scope.spawn(move || {
                    for number in 0..6 {
                        let guess = format!("{guesser:08x}{number:08x}.{}", "A".repeat(43));
                        let begun = Instant::now();
                        server.anonymous().with_token(&guess).get("/api/v1/tasks").refused(401);
                        took.lock().unwrap().push(begun.elapsed());
                    }
                });
            }
        });
    });
    let took = took.into_inner().unwrap();
    let (all, held) = (took.len() as u64, held(&server));
    assert_eq!(wrong(&server), all);
    // A minute's worth at once, and what flowed back meanwhile; the rest was held back.
    assert!(held > 0 && held <= all - 20, "{held} of {all} were held back");
    // Each of those for a second.
    let waited: Duration = took.iter().sum();
    assert!(waited >= Duration::from_secs(held), "{all} guesses took {waited:?} together, {held} of which were held back");
    println!("{all} guesses, {held} of them held back, took {waited:?} together");
}
