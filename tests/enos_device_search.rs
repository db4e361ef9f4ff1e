//! `ota-firmwares?action=searchDeviceUpgrade`: which firmware devices run, and whether they are upgrading.

use crate::enos_fleet::{Rollouts, data, refused, texts};
use crate::enos_support::{ORGANIZATION, PRODUCT};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn the_platforms_example_finds_the_first_five_of_nine() {
    let rollouts = Rollouts::start();
    for number in 0..9 {
        rollouts.put_device_of("yourProductKey", &format!("device-{number}"), "7.7");
    }
    rollouts.put_device_of("another-product", "device-9", "7.7");
    // The body of the platform's own example, to the letter.
    let example = r#"{
    "expression": "productKey='yourProductKey'",
    "pagination": {
        "pageNo": 1,
        "pageSize": 5
    }
}"#;
    let found = rollouts.search_page("searchDeviceUpgrade", &serde_json::from_str(example).unwrap());
    let rows = data(&found).as_array().unwrap();
    assert_eq!(rows.len(), 5);
    let first = json!({
        "orgId": ORGANIZATION, "assetId": "device-0", "productKey": "yourProductKey", "deviceKey": "device-0", "firmwareVersion": "7.7",
        "isUpgrading": false,
    });
    assert_eq!(rows[0], first);
    assert_eq!(found["pagination"], json!({ "sortedBy": null, "pageNo": 1, "pageSize": 5, "totalSize": 9 }));
}

#[test]
fn devices_are_found_by_product_version_and_whether_they_upgrade() {
    let rollouts = Rollouts::start();
    for (device, version) in [("a", "1.0"), ("b", "1.0"), ("c", "2020.01"), ("it's", "2.0")] {
        rollouts.put_device(device, version);
    }
    rollouts.put_device_of("other", "d", "1.0");
    rollouts.job(json!({}));
    let device = rollouts.device("b");
    let offer = device.offered(rollouts.server());
    for (expression, keys) in [
        ("", vec!["a", "b", "c", "it's", "d"]),
        ("productKey = 'other'", vec!["d"]),
        ("productKey IN (\"other\", 'nothing')", vec!["d"]),
        ("firmwareVersion='1.0'", vec!["a", "b", "d"]),
        ("firmwareVersion in ('2020.01', '2.0')", vec!["c", "it's"]),
        ("firmwareVersion in [\"2020.01\"]", vec!["c"]),
        ("isUpgrading=true", vec!["b"]),
        ("isUpgrading = False", vec!["a", "c", "it's", "d"]),
        ("productKey='8UhOTwV5' AND firmwareVersion='1.0' and isUpgrading='false'", vec!["a"]),
        ("(productKey='other' or isUpgrading=true) and firmwareVersion=1.0", vec!["b", "d"]),
        ("firmwareVersion='no such'", vec![]),
    ] {
        assert_eq!(texts(&rollouts.search("searchDeviceUpgrade", expression), "deviceKey"), keys, "{expression}");
    }
    let is_upgrading = || rollouts.search("searchDeviceUpgrade", "isUpgrading=true").len() == 1;
    device.report(rollouts.server(), &offer["id"], "downloading").expect(200);
    assert!(is_upgrading(), "from being published on to the end");
    device.report(rollouts.server(), &offer["id"], "failed").expect(200);
    assert!(!is_upgrading(), "over, whichever way it ended");
}

#[test]
fn an_expression_that_can_not_be_read_says_where() {
    let rollouts = Rollouts::start();
    for (expression, message) in [
        ("productKey like 'a'", "expression, character 12: expected = or in after \"productKey\", got \"like\""),
        ("isUpgrading in (true)", "expression, character 13: expected = after \"isUpgrading\", got \"in\""),
        ("productKey = 'a' nor isUpgrading=true", "expression, character 18: expected and, or, or the end, got \"nor\""),
        (
            "deviceKey = 'a'",
            "expression, character 1: expected a field (productKey, firmwareVersion, isUpgrading), got \"deviceKey\"",
        ),
        ("productKey = 'a", "expression, character 14: expected a closing '"),
        ("isUpgrading = 7", "expression, character 15: expected true or false, got \"7\""),
    ] {
        let (code, got) = refused(&rollouts.search_page("searchDeviceUpgrade", &json!({ "expression": expression })));
        assert!(code == 24_400 && got.contains(message), "{expression}: {code} {got}");
    }
}

#[test]
fn pages_are_ten_long_unless_asked_for_and_two_hundred_at_most() {
    let rollouts = Rollouts::start();
    for number in 0..12 {
        rollouts.put_device(&format!("device-{number:02}"), "1.0");
    }
    let found = rollouts.search_page("searchDeviceUpgrade", &json!({}));
    assert_eq!((data(&found).as_array().unwrap().len(), &found["pagination"]["pageSize"]), (10, &json!(10)));
    let rest = rollouts.search_page("searchDeviceUpgrade", &json!({ "pagination": { "pageNo": "2", "pageSize": null } }));
    assert_eq!(texts(data(&rest).as_array().unwrap(), "deviceKey"), ["device-10", "device-11"]);
    data(
        &rollouts.search_page(
            "searchDeviceUpgrade",
            &json!({ "pagination": { "pageSize": 200, "sorters": [{ "field": "deviceKey" }] } }),
        ),
    );
    for pagination in [json!({ "pageSize": 201 }), json!({ "pageSize": 0 }), json!({ "pageNo": 0 }), json!({ "pageNo": "one" })] {
        let (code, _) = refused(&rollouts.search_page("searchDeviceUpgrade", &json!({ "pagination": pagination.clone() })));
        assert_eq!(code, 24_400, "{pagination}");
    }
}

#[test]
fn pages_neither_repeat_nor_skip_while_devices_come_and_change() {
    let rollouts = Rollouts::start();
    let before: BTreeSet<String> = (0..30).map(|number| format!("device-{number:02}")).collect();
    for device in &before {
        rollouts.put_device(device, "1.0");
    }
    let page = |number: usize| -> Value {
        rollouts.search_page(
            "searchDeviceUpgrade",
            &json!({
                "expression": "firmwareVersion='1.0'", "pagination": { "pageNo": number, "pageSize": 10 },
            }),
        )
    };
    let mut seen = Vec::new();
    for number in 1..=3 {
        let found = page(number);
        assert_eq!(found["pagination"]["totalSize"], 30);
        seen.extend(texts(data(&found).as_array().unwrap(), "deviceKey"));
        // Whole pages of what was shown leave the result, and others join it.
        for device in &seen {
            rollouts.put_device(device, "2.0");
        }
        rollouts.put_device(&format!("late-{number}"), "1.0");
    }
    assert_eq!(seen.len(), 30, "none twice");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), before, "none left out");
    assert_eq!(page(1)["pagination"]["totalSize"], 3, "the first page looks anew");
}

#[test]
fn two_clients_of_one_application_page_through_one_search_and_neither_misses_a_device() {
    let rollouts = Rollouts::start();
    let before: BTreeSet<String> = (0..30).map(|number| format!("device-{number:02}")).collect();
    for device in &before {
        rollouts.put_device(device, "1.0");
    }
    let page = |number: usize| -> Vec<String> {
        let pagination = json!({ "pageNo": number, "pageSize": 10 });
        let wanted = json!({ "expression": "firmwareVersion='1.0'", "pagination": pagination });
        texts(data(&rollouts.search_page("searchDeviceUpgrade", &wanted)).as_array().unwrap(), "deviceKey")
    };
    let mut first = page(1);
    for device in &first {
        rollouts.put_device(device, "2.0");
    }
    let after: BTreeSet<String> = before.iter().filter(|device| !first.contains(device)).cloned().collect();
    first.extend(page(2));
    let mut second = page(1);
    first.extend(page(3));
    second.extend(page(2));
    assert_eq!(first.into_iter().collect::<BTreeSet<_>>(), before);
    assert_eq!(second.into_iter().collect::<BTreeSet<_>>(), after);
}

#[test]
fn a_token_of_one_product_finds_nothing_of_another_and_a_device_nothing_at_all() {
    let rollouts = Rollouts::start();
    rollouts.put_device("a", "1.0");
    rollouts.put_device_of("other", "b", "1.0");
    let bound = rollouts.platform.native_token(json!({ "role": "operator", "product_id": "other" }));
    let found = rollouts.search_devices_as(&bound, &json!({}));
    assert_eq!(texts(data(&found).as_array().unwrap(), "deviceKey"), ["b"]);
    let other = rollouts.search_devices_as(&bound, &json!({ "expression": format!("productKey='{PRODUCT}'") }));
    assert_eq!(other["pagination"]["totalSize"], 0);
    let device = rollouts.device("a").token;
    assert_eq!(refused(&rollouts.search_devices_as(&device, &json!({}))).0, 24_403);
}
