//! A link opens its own image, for its time, and nothing else.

use crate::common::fleet::{rows, upload};
use crate::common::http::path_of;
use crate::common::{Fleet, TestServer, image_bytes, wait_until};
use serde_json::json;

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
    // The link of an upload names no upgrade, and is good for its own image, too.
    let uploaded = upload(&admin, &image_bytes(2_000))["url"].as_str().unwrap().to_owned();
    let uploaded = path_of(&uploaded);
    anonymous.get(uploaded).expect(200);
    let (path, query) = uploaded.split_once('?').unwrap();
    for link in [path.to_owned(), uploaded[..uploaded.len() - 1].to_owned(), format!("/images/{other_image}?{query}")] {
        refused(&link);
    }
    println!("{tried} altered links, none opened anything");
    // A link that is played again is the same image again, and the bytes count for its own upgrade alone.
    for _ in 0..3 {
        assert_eq!(anonymous.get(&links[0]).expect(200).body, fleet.image);
    }
    let row = |device: &str| {
        let rows = rows(&admin, &task);
        rows.into_iter().find(|row| row["device_id"] == device).unwrap()
    };
    wait_until("the bytes are counted", || (row("p-1")["percent"] == 100 || row("p-1")["state"] == "downloaded").then_some(()));
    assert_eq!((&row("p-2")["state"], &row("p-2")["percent"]), (&json!("offered"), &json!(0)));
    // After its upgrade is over it still opens the image, and moves nothing.
    devices[0].report(&server, &offers[0]["id"], "succeeded").expect(200);
    let before = row("p-1");
    anonymous.get(&links[0]).expect(200);
    assert_eq!(row("p-1"), before);
}

#[test]
fn a_link_ends_with_its_time() {
    let server = TestServer::setup().config("[images]\nlink_ttl_s = 2\n").start();
    let uploaded = upload(&server.admin(), &image_bytes(2_000));
    let link = uploaded["url"].as_str().unwrap();
    let ended = wait_until("the link has ended", || Some(server.anonymous().get(link)).filter(|response| response.status != 200));
    assert!(matches!(ended.status, 401 | 403 | 404 | 410), "{} {}", ended.status, ended.text());
}

#[test]
fn a_link_outlives_a_restart() {
    let mut server = TestServer::start();
    let image = image_bytes(2_000);
    let link = upload(&server.admin(), &image)["url"].as_str().unwrap().to_owned();
    server.kill_and_start_again();
    assert_eq!(server.anonymous().get(&link).expect(200).body, image);
}

#[test]
fn no_trick_of_a_path_leads_out_of_the_images() {
    let server = TestServer::start();
    let admin = server.admin();
    let uploaded = upload(&admin, &image_bytes(2_000));
    let image = uploaded["image"].as_str().unwrap();
    let query = uploaded["url"].as_str().unwrap().split_once('?').unwrap().1.to_owned();
    for path in [
        "/images/../admin-token",
        "/images/..%2fadmin-token",
        "/images/%2e%2e/%2e%2e/etc/passwd",
        "/images/....//....//etc/passwd",
        "/images//etc/passwd",
        "/images/%00",
        "/images/.",
        "/images/",
        &format!("/images/{image}%00"),
        &format!("/images/{image}/"),
        &format!("/images/{image}/.."),
        &format!("/images/{}", &image[..63]),
        &format!("/images/{image}0"),
        &format!("/images/../../images/{image}"),
    ] {
        for client in [&server.anonymous(), &admin] {
            for prefix in ["", "/api/v1"] {
                let bare = client.get(&format!("{prefix}{path}"));
                let signed = client.get(&format!("{prefix}{path}?{query}"));
                // A slash at the end is forgiven; that is the image itself, for who may read it.
                for response in [bare, signed] {
                    let is_image = response.status == 200 && path.ends_with(&format!("{image}/"));
                    assert!(is_image || (400..500).contains(&response.status), "{prefix}{path}: {}", response.status);
                }
            }
        }
    }
}
