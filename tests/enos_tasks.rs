//! Tasks of EnOS jobs: what they show at each stage, and how they and their jobs are found, canceled and retried.

use crate::enos_fleet::{Rollouts, data, refused, texts};
use crate::enos_support::{ORGANIZATION, PRODUCT};
use serde_json::{Value, json};

#[test]
fn a_task_is_init_then_published_then_upgrading_then_succeeded() {
    let rollouts = Rollouts::start();
    rollouts.put_device("a", "1.0");
    let job_id = rollouts.job(json!({}));
    let before = rollouts.task("a");
    let expected = json!({
        "orgId": ORGANIZATION, "productKey": PRODUCT, "deviceKey": "a", "jobId": job_id, "fromVersion": "1.0",
        "toVersion": "2.0", "progress": 0, "desc": "", "status": "init",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&before[field], value, "{field}");
    }
    for field in ["taskId", "assetId"] {
        assert!(before[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {before}");
    }
    let device = rollouts.device("a");
    let offer = device.offered(rollouts.server());
    assert_eq!(rollouts.task("a")["status"], "published");
    rollouts.tell(&device, &offer["id"], "downloading", json!({ "percent": 35, "detail": "half of it is here" }));
    let task = rollouts.task("a");
    assert_eq!((&task["status"], &task["progress"]), (&json!("upgrading"), &json!(35)));
    assert_eq!(task["desc"], "half of it is here");
    device.report(rollouts.server(), &offer["id"], "succeeded").expect(200);
    let task = rollouts.task("a");
    assert_eq!((&task["status"], &task["progress"], &task["fromVersion"]), (&json!("succeeded"), &json!(100), &json!("1.0")));
    assert_eq!(task["taskId"], before["taskId"], "one task through all of it");
    assert!(task["updateTime"].as_u64() >= before["updateTime"].as_u64());
}

#[test]
fn a_failure_shows_its_step_and_why_and_with_retries_left_it_is_init_again() {
    let rollouts = Rollouts::start();
    rollouts.put_device("a", "1.0");
    rollouts.job(json!({ "retryPolicy": { "enableRetry": true, "retryInterval": 0, "retryCount": 1 } }));
    let device = rollouts.device("a");
    let fail = || {
        let offer = device.offered(rollouts.server());
        rollouts.tell(&device, &offer["id"], "failed", json!({ "detail": "flash is worn" }));
        rollouts.task("a")
    };
    let first = fail();
    assert_eq!((&first["status"], &first["progress"]), (&json!("init"), &json!(0)));
    let last = fail();
    assert_eq!((&last["status"], &last["desc"]), (&json!("failed"), &json!("flash is worn")));
    assert!(last["progress"].as_i64().is_some_and(|progress| progress < 0), "{last}");
}

/// A job with a device in each stage: `init`, `published`, `upgrading`, `succeeded`, `failed`.
#[track_caller]
fn in_all_stages(rollouts: &Rollouts) -> String {
    for device in ["init", "published", "upgrading", "succeeded", "failed"] {
        rollouts.put_device(device, "1.0");
    }
    let job_id = rollouts.job(json!({}));
    for (name, state) in
        [("published", None), ("upgrading", Some("installing")), ("succeeded", Some("succeeded")), ("failed", Some("failed"))]
    {
        let device = rollouts.device(name);
        let offer = device.offered(rollouts.server());
        if let Some(state) = state {
            rollouts.tell(&device, &offer["id"], state, json!({ "detail": format!("told by {name}") }));
        }
    }
    job_id
}

fn statuses(rollouts: &Rollouts) -> Vec<String> {
    texts(&rollouts.search("searchTask", ""), "status")
}

#[test]
fn only_init_and_published_tasks_are_canceled_else_24620_and_then_none_is() {
    let rollouts = Rollouts::start();
    let job_id = in_all_stages(&rollouts);
    let before = statuses(&rollouts);
    for key in ["upgrading", "succeeded", "failed"] {
        let answered = rollouts.act_on_tasks("cancelTask", &job_id, &["init", "published", key]);
        assert_eq!(refused(&answered), (24_620, "Only init or published tasks can be canceled".to_owned()), "{key}");
        assert_eq!(statuses(&rollouts), before, "{key}: all or none");
    }
    assert!(data(&rollouts.act_on_tasks("cancelTask", &job_id, &["init", "published", "init"])).is_null());
    for key in ["init", "published"] {
        let task = rollouts.task(key);
        assert_eq!(task["status"], "failed", "{task}");
        assert!(task["desc"].as_str().is_some_and(|desc| desc.contains("canceled")), "{task}");
        assert!(!rollouts.is_offered(key));
    }
    assert_eq!(refused(&rollouts.act_on_tasks("cancelTask", &job_id, &["nobody"])).0, 24_404);
    assert_eq!(refused(&rollouts.act_on_tasks("cancelTask", &job_id, &[])).0, 24_400);
}

#[test]
fn only_failed_tasks_are_retried_else_24621_and_then_none_is() {
    let rollouts = Rollouts::start();
    let job_id = in_all_stages(&rollouts);
    for key in ["init", "published", "upgrading", "succeeded"] {
        let answered = rollouts.act_on_tasks("retryTask", &job_id, &["failed", key]);
        assert_eq!(refused(&answered), (24_621, "Only failed tasks can be retried".to_owned()), "{key}");
        assert_eq!(rollouts.task("failed")["status"], "failed", "{key}: all or none");
    }
    assert!(data(&rollouts.act_on_tasks("retryTask", &job_id, &["failed"])).is_null());
    assert_eq!(rollouts.task("failed")["status"], "init");
    assert!(rollouts.is_offered("failed"));
}

#[test]
fn tasks_are_found_by_each_field_of_theirs() {
    let rollouts = Rollouts::start();
    let job_id = in_all_stages(&rollouts);
    for (expression, keys) in [
        ("", vec!["init", "published", "upgrading", "succeeded", "failed"]),
        ("status = 'init'", vec!["init"]),
        ("status IN (\"published\", 'upgrading')", vec!["published", "upgrading"]),
        ("status='failed' or status='succeeded'", vec!["succeeded", "failed"]),
        ("deviceKey in ['init','failed','nobody']", vec!["init", "failed"]),
        ("fromVersion='1.0' and toVersion = '2.0' and status='succeeded'", vec!["succeeded"]),
        ("fromVersion='0.9'", vec![]),
        ("toVersion in ('3.0')", vec![]),
        ("desc=''", vec!["init", "published"]),
        ("desc = 'told by failed'", vec!["failed"]),
        ("desc in ('told by failed', '') AND status in ('init','failed','upgrading')", vec!["init", "failed"]),
        ("desc = 'told by failed' or deviceKey='init'", vec!["init", "failed"]),
        ("jobId='5ee1a91029b990001b9c188e'", vec![]),
    ] {
        assert_eq!(rollouts.tasks_of(expression), keys, "{expression}");
    }
    assert_eq!(
        rollouts.tasks_of(&format!("jobId in ('{job_id}') and (status='init' or desc='told by failed')")),
        ["init", "failed"]
    );
    for (expression, message) in [
        ("status like 'init'", "expression, character 8: expected = or in after \"status\", got \"like\""),
        ("status = 'flying'", "expected one of init, published, upgrading, succeeded, failed"),
        ("productKey = 'x'", "expression, character 1: expected a field (jobId, deviceKey, fromVersion, toVersion, status, desc)"),
    ] {
        let (code, got) = refused(&rollouts.search_page("searchTask", &json!({ "expression": expression })));
        assert!(code == 24_400 && got.contains(message), "{expression}: {code} {got}");
    }
}

#[test]
fn a_job_from_several_versions_is_searched_by_the_one_that_each_device_came_from() {
    let rollouts = Rollouts::start();
    for (device, version) in [("a", "1.0"), ("b", "1.0"), ("c", "1.1"), ("d", "1.1")] {
        rollouts.put_device(device, version);
    }
    rollouts.job(json!({ "upgradeScope": { "type": "total", "versionNumbers": ["1.0", "1.1"] } }));
    rollouts.device("b").upgrade(rollouts.server());
    let device = rollouts.device("d");
    assert!(device.check(rollouts.server(), "1.1")["upgrade"].is_object());
    assert_eq!(rollouts.tasks_of("fromVersion='1.0'"), ["a", "b"]);
    assert_eq!(rollouts.tasks_of("fromVersion='1.1'"), ["c", "d"]);
    assert_eq!(rollouts.tasks_of("fromVersion in ('1.1','1.0') and status='init'"), ["a", "c"]);
}

#[test]
fn jobs_are_found_by_each_field_of_theirs_newest_first() {
    let rollouts = Rollouts::start();
    rollouts.put_device("a", "1.0");
    let first = rollouts.job(json!({ "name": { "defaultValue": "spring", "i18nValue": { "zh_CN": "春天" } } }));
    let second = rollouts.job(json!({ "name": { "defaultValue": "summer" } }));
    rollouts.act("stop", &second);
    let other_firmware = rollouts.firmware_of("other-product", "7.0");
    let verify = json!({
        "type": "verify", "name": "autumn",
        "upgradeScope": { "type": "partial", "versionNumbers": ["1.0"], "deviceKeys": ["a"] },
    });
    let third = data(&rollouts.create(&other_firmware, &verify))["jobId"].as_str().unwrap().to_owned();
    let all = [third.as_str(), second.as_str(), first.as_str()];
    let firmware_id = format!("firmwareId = '{}'", rollouts.firmware_id);
    let product_key = format!("productKey='{PRODUCT}'");
    for (expression, jobs) in [
        ("", all.as_slice()),
        (&product_key, &all[1..]),
        ("productKey in ('other-product', 'nothing')", &all[..1]),
        ("firmwareVersion='7.0'", &all[..1]),
        (&firmware_id, &all[1..]),
        ("type='upgrade' AND status = 'started'", &all[2..]),
        ("status='stopped'", &all[1..2]),
        ("name like 'su'", &all[1..2]),
        ("name.zh_CN like '春'", &all[2..]),
        ("name.default like '春'", &[]),
        ("name like '春' or type='verify'", &[third.as_str(), first.as_str()]),
        ("firmwareName.default like 'firmware 2'", &all[1..]),
        ("firmwareName like 'none'", &[]),
    ] {
        assert_eq!(texts(&rollouts.search("search", expression), "jobId"), jobs, "{expression}");
    }
}

#[test]
fn pages_of_jobs_neither_repeat_nor_skip_while_jobs_come_and_go() {
    let rollouts = Rollouts::start();
    let jobs: Vec<String> = (0..7).map(|_| rollouts.job(json!({}))).collect();
    let page = |number: u32| -> Value {
        rollouts.search_page("search", &json!({ "pagination": { "pageNo": number, "pageSize": 3, "sorters": [{ "field": "x" }] } }))
    };
    let first = page(1);
    assert_eq!(first["pagination"], json!({ "sortedBy": null, "pageNo": 1, "pageSize": 3, "totalSize": 7 }));
    rollouts.job(json!({}));
    rollouts.act("stop", &jobs[3]);
    rollouts.act("delete", &jobs[3]);
    let pages = [first, page(2), page(3), page(4)].map(|page| texts(data(&page).as_array().unwrap(), "jobId"));
    let newest_first = |places: &[usize]| places.iter().map(|place| jobs[*place].clone()).collect::<Vec<_>>();
    assert_eq!(pages[0], newest_first(&[6, 5, 4]));
    assert_eq!(pages[1], newest_first(&[2, 1]), "the deleted one is left out and moves no other");
    assert_eq!(pages[2], newest_first(&[0]));
    assert!(pages[3].is_empty());
    assert_eq!(page(1)["pagination"]["totalSize"], 7, "the first page looks anew: one came, one went");
}

#[test]
fn pages_of_tasks_neither_repeat_nor_skip_while_tasks_move_on() {
    let rollouts = Rollouts::start();
    let keys: Vec<String> = (0..7).map(|number| format!("d{number}")).collect();
    for key in &keys {
        rollouts.put_device(key, "1.0");
    }
    rollouts.job(json!({}));
    let page = |number: u32| {
        let body = json!({ "expression": "status = 'init'", "pagination": { "pageNo": number, "pageSize": 3 } });
        let found = rollouts.search_page("searchTask", &body);
        assert_eq!(found["pagination"]["totalSize"], 7);
        data(&found).as_array().unwrap().clone()
    };
    let mut seen = page(1);
    for key in &keys[..5] {
        assert!(rollouts.is_offered(key));
    }
    seen.extend(page(2));
    seen.extend(page(3));
    assert_eq!(texts(&seen, "deviceKey"), keys);
    assert_eq!(texts(&seen[3..5], "status"), ["published", "published"], "which rows is fixed, what they say is of now");
    assert_eq!(rollouts.tasks_of("status = 'init'"), keys[5..]);
}
