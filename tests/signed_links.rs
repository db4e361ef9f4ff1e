//! A link opens its own image, for its time, and nothing else.

use crate::common::fleet::upload;
use crate::common::http::path_of;
use crate::common::{TestServer, image_bytes, wait_until};

#[test]
fn a_link_that_was_altered_anywhere_opens_nothing() {
    let server = TestServer::start();
    let admin = server.admin();
    let uploaded = upload(&admin, &image_bytes(2_000));
    let other = upload(&admin, &image_bytes(3_000));
    let link = path_of(uploaded["url"].as_str().unwrap()).to_owned();
    let anonymous = server.anonymous();
    anonymous.get(&link).expect(200);
    let start = link.find("/images/").unwrap() + "/images/".len();
    for position in start..link.len() {
        let mut altered = link.clone().into_bytes();
        altered[position] = match altered[position] {
            b'0' => b'1',
            b'A'..=b'Y' | b'a'..=b'y' | b'0'..=b'8' => altered[position] + 1,
            b'=' | b'&' | b'?' => b'_',
            _ => b'a',
        };
        let altered = String::from_utf8(altered).unwrap();
        let status = anonymous.get(&altered).status;
        assert!(matches!(status, 400 | 401 | 403 | 404), "{status} for {altered}, altered at {position} from {link}");
    }
    for altered in [
        link[..link.find('?').unwrap()].to_owned(),
        link[..link.len() - 1].to_owned(),
        link.replace(uploaded["image"].as_str().unwrap(), other["image"].as_str().unwrap()),
    ] {
        let status = anonymous.get(&altered).status;
        assert!(matches!(status, 400 | 401 | 403 | 404), "{status} for {altered}");
    }
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
