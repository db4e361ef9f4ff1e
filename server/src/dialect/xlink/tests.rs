//! Wire in, wanted out; row in, wire out.

use super::decode;
use super::encode::{FirmwareShown, TaskShown, VersionShown, date};
use super::status::{Code, Failure};
use expect_test::{Expect, expect};
use sluicegate::model::*;
use std::fmt::Debug;

const CREATE: &str = r#"{"product_id":"160fa2b1f2a1e1f2160fa2b1f2a1e1f2","name":"n","description":"d",
    "from_version":1,"from_version_url":"http://x/1","from_version_md5":"m1","from_version_size":10,
    "target_version":2,"target_version_url":"http://x/2","target_version_md5":"m2","target_version_size":20}"#;

/// The sample body with fields replaced (or taken out, by `-`).
fn create_with(changes: &[(&str, &str)]) -> String {
    let mut body: serde_json::Map<String, serde_json::Value> = serde_json::from_str(CREATE).unwrap();
    for (field, value) in changes {
        match *value {
            "-" => drop(body.remove(*field)),
            value => drop(body.insert((*field).to_owned(), serde_json::from_str(value).unwrap())),
        }
    }
    serde_json::to_string(&body).unwrap()
}

fn refused(body: &str) -> Failure {
    decode::create_task(body.as_bytes()).unwrap_err()
}

fn check<T: Debug>(value: Result<T, Failure>, expected: Expect) {
    let text = match value {
        Ok(value) => format!("{value:?}"),
        Err(failure) => format!("{} {}", failure.code as u32, failure.message),
    };
    expected.assert_eq(&text);
}

#[test]
fn a_task_is_read_with_its_defaults() {
    check(
        decode::create_task(CREATE.as_bytes()),
        expect![[
            r#"CreateTask { product_id: "160fa2b1f2a1e1f2160fa2b1f2a1e1f2", name: "n", description: "d", component: Component { component_type: 1, identify: 0 }, mode: Automatic, from_version: "1", from_file: FileNamed { url: "http://x/1", md5: "m1", size: 10 }, target_version: "2", target_file: FileNamed { url: "http://x/2", md5: "m2", size: 20 }, maximum_concurrency: None }"#
        ]],
    );
}

#[test]
fn a_task_in_texts_with_unknown_fields_reads_like_one_in_numbers() {
    let texts = create_with(&[
        ("from_version", "\"01\""),
        ("target_version", "\"2\""),
        ("from_version_size", "\"10\""),
        ("target_version_size", "\"20\""),
        ("type", "\"1\""),
        ("identify", "\"\""),
        ("task_type", "\"0\""),
        ("scope", r#"{"category":0,"device_list":[]}"#),
        ("status", "1"),
        ("maximum_concurrency", "null"),
    ]);
    assert_eq!(decode::create_task(texts.as_bytes()).unwrap(), decode::create_task(CREATE.as_bytes()).unwrap());
}

#[test]
fn a_wifi_task_has_identify_0_whatever_it_says_and_others_default_to_0() {
    let component = |changes: &[(&str, &str)]| decode::create_task(create_with(changes).as_bytes()).unwrap().component;
    assert_eq!(component(&[("type", "1"), ("identify", "7")]), Component::MAIN);
    assert_eq!(component(&[("type", "2"), ("identify", "7")]), Component { component_type: 2, identify: 7 });
    assert_eq!(component(&[("type", "3")]), Component { component_type: 3, identify: 0 });
}

#[test]
fn each_required_field_is_missed_when_absent_empty_or_null() {
    for field in [
        "product_id",
        "name",
        "description",
        "from_version",
        "from_version_url",
        "from_version_md5",
        "from_version_size",
        "target_version",
        "target_version_url",
        "target_version_md5",
        "target_version_size",
    ] {
        for value in ["-", "null", "\"\"", "\"  \""] {
            let failure = refused(&create_with(&[(field, value)]));
            assert_eq!(failure.code, Code::FieldMissing, "{field} = {value}");
            assert!(failure.message.starts_with(field), "{}", failure.message);
        }
    }
}

#[test]
fn fields_out_of_their_range_are_refused() {
    let long_name = format!("\"{}\"", "名".repeat(33));
    let long_description = format!("\"{}\"", "x".repeat(251));
    for (field, value) in [
        ("name", long_name.as_str()),
        ("name", "[]"),
        ("description", &long_description),
        ("from_version", "-1"),
        ("from_version", "2147483648"),
        ("from_version", "\"1.0\""),
        ("from_version", "1.5"),
        ("from_version", "true"),
        ("target_version", "{}"),
        ("target_version", "1"),
        ("from_version_size", "-1"),
        ("target_version_size", "\"big\""),
        ("type", "\"wifi\""),
        ("identify", "-1"),
        ("identify", "\"x\""),
        ("task_type", "[1]"),
        ("maximum_concurrency", "0"),
    ] {
        assert_eq!(refused(&create_with(&[(field, value)])).code, Code::FieldInvalid, "{field} = {value}");
    }
    for (field, value) in [("type", "0"), ("type", "4"), ("task_type", "2"), ("task_type", "\"-1\"")] {
        assert_eq!(refused(&create_with(&[(field, value)])).code, Code::TaskTypeUnknown, "{field} = {value}");
    }
}

#[test]
fn names_of_32_and_descriptions_of_250_characters_are_taken_however_many_bytes_they_have() {
    let name = format!("\"{}\"", "名".repeat(32));
    let description = format!("\"{}\"", "描".repeat(250));
    assert!(decode::create_task(create_with(&[("name", &name), ("description", &description)]).as_bytes()).is_ok());
}

#[test]
fn what_is_no_json_object_is_refused() {
    for body in ["", "[]", "null", "\"x\"", "{", "{\"product_id\":}", "[1,2,3]", "{} x", "\u{feff}{}"] {
        assert_eq!(refused(body).code, Code::FieldInvalid, "{body:?}");
    }
    let deep = format!("{{\"scope\":{}", "[".repeat(100_000));
    assert_eq!(refused(&deep).code, Code::FieldInvalid);
}

#[test]
fn a_status_is_0_or_1() {
    let read = |status: &str| {
        decode::set_task_status(format!(r#"{{"product_id":"p","upgrade_task_id":"t","status":{status}}}"#).as_bytes())
    };
    assert!(read("1").unwrap().started);
    assert!(!read("\"0\"").unwrap().started);
    check(read("2"), expect!["4001036 status must be 0 (stopped) or 1 (started), got 2"]);
    check(read("\"on\""), expect![[r#"4001001 status must be a whole number, got "on""#]]);
    check(read("null"), expect!["4001002 status is required, and is missing or empty; send it"]);
}

#[test]
fn the_checks_of_real_clients_are_read() {
    // A C device; a gateway that sends its id too; an application that sends numbers.
    for body in [
        r#"{"product_id":"p","type":"1","current_version":"01","identify":"0"}"#,
        r#"{"product_id":"p","device_id":"7","type":"1","current_version":"1","identify":"0"}"#,
        r#"{"product_id":"p","device_id":7,"type":1,"current_version":1,"identify":0}"#,
        r#"{"product_id":"p","current_version":1,"device_id":{"any":"thing"}}"#,
    ] {
        check(
            decode::check(body.as_bytes()),
            expect![[r#"CheckAsked { product_id: "p", component: Component { component_type: 1, identify: 0 }, version: "1" }"#]],
        );
    }
    check(
        decode::check(br#"{"product_id":"p","type":9,"current_version":1}"#),
        expect!["4001113 type must be 1 (wifi), 2 (mcu) or 3 (sub-device), got 9"],
    );
}

#[test]
fn a_report_is_read_and_its_words_are_cut_rather_than_refused() {
    check(
        decode::report(br#"{"type":"1","mod":"1","identify":"0","last_version":"01","current_version":"2","result":"0"}"#),
        expect![[
            r#"Reported { component: Component { component_type: 1, identify: 0 }, model: "1", last_version: "1", current_version: "2", succeeded: true, description: None, start_date: None, end_date: None }"#
        ]],
    );
    let wordy = format!(
        r#"{{"type":2,"mod":"m","identify":3,"last_version":1,"current_version":2,"result":1,"desc":"{}","start_date":"2015-10-09T08:15:40.843Z"}}"#,
        "字".repeat(300)
    );
    let reported = decode::report(wordy.as_bytes()).unwrap();
    assert_eq!(reported.description.unwrap().chars().count(), 250);
    assert_eq!(reported.start_date.as_deref(), Some("2015-10-09T08:15:40.843Z"));
    for (body, code) in [
        (r#"{"mod":"m","last_version":1,"current_version":2,"result":2}"#, Code::FieldInvalid),
        (r#"{"mod":"m","last_version":1,"current_version":2}"#, Code::FieldMissing),
        (r#"{"last_version":1,"current_version":2,"result":0}"#, Code::FieldMissing),
    ] {
        assert_eq!(decode::report(body.as_bytes()).unwrap_err().code, code, "{body}");
    }
}

#[test]
fn lists_have_their_defaults_and_a_bound() {
    check(decode::query_window(None, None), expect!["Window { offset: 0, limit: 1000, component_type: None }"]);
    check(decode::query_window(Some("5"), Some("2000")), expect!["Window { offset: 5, limit: 1000, component_type: None }"]);
    check(decode::query_window(Some(""), Some("x")), expect![[r#"4001001 limit must be a whole number, got "x""#]]);
    check(
        decode::list(br#"{"product_id":"p"}"#, Code::TaskTypeUnknown),
        expect![[r#"(Some("p"), Window { offset: 0, limit: 10, component_type: None })"#]],
    );
    check(
        decode::list(br#"{"product_id":"p","offset":"3","limit":5,"type":"2"}"#, Code::TaskTypeUnknown),
        expect![[r#"(Some("p"), Window { offset: 3, limit: 5, component_type: Some(2) })"#]],
    );
    check(
        decode::list(br#"{"type":7}"#, Code::FirmwareTypeUnknown),
        expect!["4001112 type must be 1 (wifi), 2 (mcu) or 3 (sub-device), got 7"],
    );
}

#[test]
fn device_ids_in_paths_are_positive_32_bit_integers() {
    for (text, id) in [("7", "7"), ("007", "7"), ("2147483647", "2147483647")] {
        assert_eq!(decode::device_id_in_path(text).unwrap(), id);
    }
    for text in ["", "0", "-1", "2147483648", "abc", "7x", "%37", "99999999999999999999999"] {
        assert_eq!(decode::device_id_in_path(text).unwrap_err().code, Code::FieldInvalid, "{text:?}");
    }
}

#[test]
fn macs_are_read_however_they_are_written() {
    let read = |mac: &str| {
        decode::device_login(format!(r#"{{"product_id":"p","mac":"{mac}","authorize_code":"c"}}"#).as_bytes())
            .map(|login| login.mac.as_str().to_owned())
    };
    for mac in ["aabbccddeeff", "AA:BB:CC:DD:EE:FF", "aa-bb-cc-dd-ee-ff", " aabb.ccdd.eeff "] {
        assert_eq!(read(mac).unwrap(), "AABBCCDDEEFF");
    }
    for mac in ["aabbccddeef", "aabbccddeeff0", "aabbccddeefg", "日本語日本語日本語日本語"] {
        assert_eq!(read(mac).unwrap_err().code, Code::FieldInvalid, "{mac}");
    }
}

fn task() -> Task {
    Task {
        number: TaskNumber(42),
        id: TaskId { created_s: 0x5ee1_a910, store: 7, number: TaskNumber(42) },
        product: ProductNumber(0),
        component: Component::MAIN,
        name: Some("n".into()),
        description: Some("say \"hi\"/升".into()),
        kind: TaskKind::Upgrade,
        mode: TaskMode::Manual,
        from_versions: vec!["1".into()],
        target_version: "2".into(),
        artifact: Artifact { image: None, url: Some("http://x/2".into()), size: 20, md5: "m2".into(), sha256: None },
        firmware: None,
        scope: Scope::default(),
        members: None,
        policy: Policy::default(),
        status: TaskStatus::Stopped,
        created_at: Timestamp(0),
        changed_at: Timestamp(0),
        annotations: [("from_version_url", "http://x/1"), ("from_version_md5", "m1"), ("from_version_size", "10")]
            .map(|(key, value)| (key.into(), value.into()))
            .into(),
        waves: Vec::new(),
        approved: false,
        canceled: false,
        finished_at: None,
    }
}

fn written(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

#[test]
fn a_task_is_written_compactly_in_the_order_of_the_page() {
    let task = task();
    expect![[r#"{"id":"5ee1a910000000070000002a","product_id":"p","name":"n","description":"say \"hi\"/升","from_version":1,"from_version_url":"http://x/1","from_version_md5":"m1","from_version_size":10,"target_version":2,"target_version_url":"http://x/2","target_version_md5":"m2","target_version_size":20,"upgrade_count":3,"status":0,"type":1,"identify":0,"surplus_count":9,"task_type":1}"#]]
        .assert_eq(&written(&TaskShown::new(&task, "p", 3).with_surplus(9)));
}

#[test]
fn surplus_is_for_wifi_only() {
    let mut task = task();
    task.component = Component { component_type: 2, identify: 5 };
    let text = written(&TaskShown::new(&task, "p", 0).with_surplus(9));
    assert!(!text.contains("surplus_count"), "{text}");
    assert!(text.contains(r#""type":2,"identify":5,"task_type":1"#), "{text}");
}

#[test]
fn an_offer_carries_the_signed_link_and_the_device_s_own_version() {
    let mut task = task();
    task.status = TaskStatus::Started;
    let text = written(&TaskShown::new(&task, "p", 0).offered("1", Some("http://h/images/x?s=y")));
    assert!(text.contains(r#""from_version":1,"#) && text.contains(r#""target_version_url":"http://h/images/x?s=y""#), "{text}");
    assert!(text.contains(r#""status":1"#), "{text}");
}

#[test]
fn a_task_made_elsewhere_has_neither_null_nor_a_made_up_number() {
    let mut task = task();
    (task.name, task.description, task.artifact.url) = (None, None, None);
    task.annotations.clear();
    (task.from_versions, task.target_version) = (vec!["1.0".into()], "2.0".into());
    expect![[r#"{"id":"5ee1a910000000070000002a","product_id":"p","name":"","description":"","from_version":"1.0","from_version_url":"","from_version_md5":"","from_version_size":0,"target_version":"2.0","target_version_url":"","target_version_md5":"m2","target_version_size":20,"upgrade_count":0,"status":0,"type":1,"identify":0,"task_type":1}"#]]
        .assert_eq(&written(&TaskShown::new(&task, "p", 0)));
}

#[test]
fn versions_are_bare_numbers() {
    for (version, text) in [
        ("0", "0"),
        ("2147483647", "2147483647"),
        ("01", "\"01\""),
        ("", "\"\""),
        ("-1", "\"-1\""),
        ("2147483648", "\"2147483648\""),
    ] {
        assert_eq!(written(&VersionShown(version)), text);
    }
}

#[test]
fn the_largest_task_that_the_budget_promises_stays_below_1024_bytes() {
    let mut task = task();
    task.name = Some("n".repeat(32).into());
    task.description = Some("d".repeat(48).into());
    task.from_versions = vec!["2147483646".into()];
    task.target_version = "2147483647".into();
    task.component = Component { component_type: 3, identify: i32::MAX as u32 };
    task.status = TaskStatus::Started;
    task.artifact.md5 = "f".repeat(32).into();
    task.artifact.size = 9_999_999_999;
    // A link of ours for the target, and a URL of 200 for the start.
    let link = format!("http://{}", "l".repeat(248));
    for (key, value) in [
        ("from_version_url", format!("http://{}", "f".repeat(193))),
        ("from_version_md5", "f".repeat(32)),
        ("from_version_size", "9999999999".to_owned()),
    ] {
        task.annotations.insert(key.into(), value.into());
    }
    let text = written(&TaskShown::new(&task, &"a".repeat(32), 1_000_000).offered("2147483646", Some(&link)));
    assert!(text.len() < 1_024, "{} bytes: {text}", text.len());
}

#[test]
fn firmware_is_written_with_its_dates() {
    let mut firmware = Firmware {
        number: FirmwareNumber(1),
        id: FirmwareId { created_s: 1, store: 2, number: FirmwareNumber(3) },
        product: ProductNumber(0),
        component: Component::MAIN,
        version: "5".into(),
        artifact: Artifact { image: None, url: Some("http://x/5".into()), size: 50, md5: "m5".into(), sha256: None },
        name: None,
        description: Some("d".into()),
        model: Some("M1".into()),
        manufacturer: None,
        device_type: None,
        file_type: FileType::SoftwarePackage,
        created_at: Timestamp(1_444_378_540_843),
        annotations: [("release_date", "2015-10-10T00:00:00.000Z"), ("is_release", "true")]
            .map(|(key, value)| (key.into(), value.into()))
            .into(),
        verification: None,
        verified_at: None,
    };
    expect![[r#"{"id":"000000010000000200000003","product_id":"p","mod":"M1","version":5,"file_url":"http://x/5","file_md5":"m5","file_size":50,"description":"d","release_date":"2015-10-10T00:00:00.000Z","create_date":"2015-10-09T08:15:40.843Z","is_release":true,"type":1,"identify":0}"#]]
        .assert_eq(&written(&FirmwareShown::new(&firmware, "p")));
    firmware.annotations.clear();
    let text = written(&FirmwareShown::new(&firmware, "p"));
    assert!(text.contains(r#""release_date":"2015-10-09T08:15:40.843Z","#) && text.contains(r#""is_release":false"#), "{text}");
}

#[test]
fn dates_are_iso_with_milliseconds() {
    assert_eq!(date(Timestamp(0)), "1970-01-01T00:00:00.000Z");
    assert_eq!(date(Timestamp(u64::MAX)), "1970-01-01T00:00:00.000Z");
}
