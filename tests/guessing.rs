//! Who guesses: tokens, secrets, signatures, links, over every way in. Guesses are counted for each address and, beyond a bound, answered
//! late; a good token passes at once, also behind the same address.

use crate::common::http::path_of;
use crate::common::mqtt::{MqttClient, MqttOptions};
use crate::common::{Fleet, TestServer, image_bytes};
use crate::hostile_support::beside_good_clients;
use crate::tenants::encryption_of;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};

fn metric(server: &TestServer, name: &str) -> u64 {
    let metrics = server.anonymous().get("/metrics").expect(200).text();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.map_or(0, |value| value.parse().unwrap())
}

fn wrong(server: &TestServer) -> u64 {
    metric(server, "sluicegate_wrong_credentials_total")
}

fn held(server: &TestServer) -> u64 {
    metric(server, "sluicegate_refusals_held_back_total")
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
    let mut encryption = encryption_of(app["id"].as_str().unwrap(), "a guess");
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
    // Nobody guessed who sends nothing, asks for what isn't there, or may not.
    let before = wrong(&server);
    plain.get("/api/v1/tasks").expect(401);
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
    let guessed = AtomicUsize::new(0);
    beside_good_clients("eight guessers behind the same address", &server, || {
        std::thread::scope(|scope| {
            for guesser in 0..GUESSERS {
                let (server, guessed) = (&server, &guessed);
                scope.spawn(move || {
                    for number in 0..6 {
                        let guess = format!("{guesser:08x}{number:08x}.{}", "A".repeat(43));
                        server.anonymous().with_token(&guess).get("/api/v1/tasks").refused(401);
                        guessed.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
    });
    let (all, held) = (guessed.into_inner() as u64, held(&server));
    assert_eq!(wrong(&server), all);
    // A minute's worth at once, and what flowed back meanwhile; the rest was held back.
    assert!(held > 0 && held <= all - 20, "{held} of {all} were held back");
    println!("{all} guesses, {held} of them held back");
}

#[test]
fn no_altered_link_opens_anything_and_no_link_is_good_for_another_upgrade() {
    let server = TestServer::setup().config("[limits]\nwrong_credentials_per_minute = 0\n").start();
    let admin = server.admin();
    let fleet = Fleet::with_image(&admin, "pump", image_bytes(50_000));
    let task = fleet.start_task(&admin, json!({}));
    let other_image = Fleet::with_image(&admin, "fan", image_bytes(60_000)).image_id;
    let devices = ["p-1", "p-2"].map(|name| fleet.device(&admin, name));
    let offers = devices.each_ref().map(|device| device.offered(&server));
    let links = offers.each_ref().map(|offer| path_of(offer["url"].as_str().unwrap()).to_owned());
    let anonymous = server.anonymous();
    let mut tried = 0;
    let mut refused = |link: &str| {
        tried += 1;
        let response = anonymous.get(link);
        assert!(matches!(response.status, 400..=404), "{} for {link}", response.status);
    };
    let start = "/images/".len();
    for position in start..links[0].len() {
        let old = links[0].as_bytes()[position];
        let is_digit_of_hexadecimal = position < links[0].find("&s=").unwrap() && old.is_ascii_hexdigit();
        for new in [old ^ 1, old ^ 2, old ^ 4, old ^ 8, old ^ 16, old ^ 64, b'0', b'f', b'A', b'z', b'-', b'_', b'=', b'&'] {
            // The same digit in another case is the same number.
            let is_same = new == old || (is_digit_of_hexadecimal && new.eq_ignore_ascii_case(&old));
            if !is_same && (new.is_ascii_alphanumeric() || b"-_=&".contains(&new)) {
                let mut bytes = links[0].clone().into_bytes();
                bytes[position] = new;
                refused(&String::from_utf8(bytes).unwrap());
            }
        }
        // One letter less, one twice.
        refused(&format!("{}{}", &links[0][..position], &links[0][position + 1..]));
        if old != b'&' {
            refused(&format!("{}{}{}", &links[0][..=position], old as char, &links[0][position + 1..]));
        }
    }
    let part = |link: &str, name: &str| {
        let query = link.split_once('?').unwrap().1;
        query.split('&').find_map(|pair| pair.strip_prefix(name)).unwrap().to_owned()
    };
    let (image, e, u, s) = (&fleet.image_id, part(&links[0], "e="), part(&links[0], "u="), part(&links[0], "s="));
    let later = format!("{:08x}", u64::from_str_radix(&e, 16).unwrap() + 1);
    let other = (part(&links[1], "u="), part(&links[1], "s="));
    for link in [
        format!("/images/{other_image}?e={e}&u={u}&s={s}"),
        format!("/images/{image}?e={later}&u={u}&s={s}"),
        format!("/images/{image}?e=ffffffff&u={u}&s={s}"),
        format!("/images/{image}?e={e}&u={}&s={s}", other.0),
        format!("/images/{image}?e={e}&u={u}&s={}", other.1),
        format!("/images/{image}?e={e}&s={s}"),
        format!("/images/{image}?u={u}&s={s}"),
        format!("/images/{image}?e={e}&u={u}"),
        format!("/images/{image}?e={e}&u={u}&s="),
        format!("/images/{image}?e={e}&e={later}&u={u}&s={s}"),
        format!("/images/{image}?e={e}&u={u}&u={}&s={s}", other.0),
        format!("/images/{image}?e={e}&u={u}&s={s}&s={s}"),
        format!("/images/{image}?e={e}&u={u}&s={s}=="),
        format!("/images/{image}?e={e}&u={u}&s={}", s.to_uppercase()),
        format!("/images/{image}?e={e}%00&u={u}&s={s}"),
        format!("/images/{image}#?e={e}&u={u}&s={s}"),
    ] {
        refused(&link);
    }
    println!("{tried} altered links, none opened anything");
    // A link that is played again is the same image again, and the bytes count for its own upgrade alone.
    for _ in 0..3 {
        assert_eq!(anonymous.get(&links[0]).expect(200).body, fleet.image);
    }
    let row = |device: &str| {
        let rows = crate::common::fleet::rows(&admin, &task);
        rows.into_iter().find(|row| row["device_id"] == device).unwrap()
    };
    crate::common::wait_until("the bytes are counted", || {
        (row("p-1")["percent"] == 100 || row("p-1")["state"] == "downloaded").then_some(())
    });
    assert_eq!((&row("p-2")["state"], &row("p-2")["percent"]), (&json!("offered"), &json!(0)));
    // After its upgrade is over it still opens the image, and moves nothing.
    devices[0].report(&server, &offers[0]["id"], "succeeded").expect(200);
    let before = row("p-1");
    anonymous.get(&links[0]).expect(200);
    assert_eq!(row("p-1"), before);
}
