//! The tables of the module's header, cell by cell.

use super::super::envelope::Envelope;
use super::*;
use serde_json::json;

/// The platform's own examples.
const PROGRESS: &str = r#"
{
"bid":"8ca0ffa2-5e72-4078-8fa9-dc68216ff5d1",
"data":{
"output":{
"progress":{
"percent":0,
"step":1,
"step_key":"download_firmware"
},
"status":"failed",
"sub_status":"DOWNLOAD_FAILED"
},
"result":0
},
"tid":"74045eba-bd24-4106-b455-d3577f3cbf52",
"timestamp":1707048089244,
"method":"ota_progress"
}
"#;
const REPLY: &str = r#"
{
"bid":"149878685687484417",
"data":{
"output":{
"progress":{
"percent":0,
"step":1,
"step_key":""
},
"status":"sent",
"sub_status":""
},
"result":0
},
"tid":"5bdd5c11-469c-45d9-afce-d9ec3025f379",
"timestamp":1708573102118,
"method":"ota_create"
}
"#;

fn read(data: &Value) -> Progress {
    Progress::read(data).unwrap()
}

fn report(state: ReportedState, percent: Option<u8>, detail: Option<&str>, code: Option<i32>) -> Report {
    Report { state, percent, detail: detail.map(Into::into), code }
}

/// The meaning in one word.
fn word(meaning: &Meaning) -> &'static str {
    match meaning {
        Meaning::Nothing => "-",
        Meaning::Accepted => "taken",
        Meaning::Moved(report) | Meaning::Ended(report) => {
            assert_eq!(matches!(meaning, Meaning::Ended(_)), report.state.state().is_finished(), "{meaning:?}");
            report.state.state().name()
        }
    }
}

const STATUSES: [&str; 10] = ["sent", "in_progress", "paused", "ok", "failed", "rejected", "timeout", "canceled", "resting", ""];
const SUB_STATUSES: [&str; 13] = [
    "",
    "UNKNOWN",
    "PONDERING",
    "DOWNLOADING",
    "DOWNLOAD_SUCCESS",
    "UPLOADING_DRONE",
    "VERIFY",
    "VERIFY_SUCCESS",
    "UPGRADING",
    "UPGRADE_SUCCESS",
    "DOWNLOAD_FAILED",
    "VERIFY_FAILED",
    "UPGRADE_FAIL",
];

/// A row for each sub-status, a column for each status.
fn grid(result: i64, meaning: fn(&Progress) -> Meaning) -> Vec<Vec<&'static str>> {
    let row = |sub_status: &&str| {
        let cell = |status: &&str| {
            word(&meaning(&read(&json!({ "result": result, "output": { "status": status, "sub_status": sub_status } }))))
        };
        STATUSES.iter().map(cell).collect()
    };
    SUB_STATUSES.iter().map(row).collect()
}

fn rows(text: &'static str) -> Vec<Vec<&'static str>> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|row| !row.is_empty()).collect()
}

#[test]
fn the_platforms_example_of_progress_is_a_failed_download_without_a_code() {
    let message = Envelope::read(PROGRESS.as_bytes()).unwrap();
    assert_eq!(message.method, METHOD);
    assert_eq!(
        Progress::read(&message.data),
        Ok(Progress {
            result: 0,
            status: Some(Status::Failed),
            status_text: "failed".into(),
            sub_status: Some(SubStatus::DownloadFailed),
            sub_status_text: "DOWNLOAD_FAILED".into(),
            step: Some(Step::Download),
            step_result: 0,
            percent: Some(0),
        })
    );
    let failed = report(ReportedState::Failed, Some(0), Some("DOWNLOAD_FAILED"), None);
    assert_eq!(read(&message.data).meaning(), Meaning::Ended(failed));
}

#[test]
fn the_platforms_example_of_a_reply_takes_the_order() {
    let message = Envelope::read(REPLY.as_bytes()).unwrap();
    assert_eq!((message.method.as_str(), message.bid.as_str()), ("ota_create", "149878685687484417"));
    let progress = read(&message.data);
    assert_eq!((progress.status, progress.sub_status), (Some(Status::Sent), None));
    assert_eq!((progress.step, progress.percent), (Some(Step::Download), Some(0)));
    assert_eq!(progress.reply_meaning(), Meaning::Accepted);
}

#[test]
fn without_an_error_the_status_tells_the_state_and_the_sub_status_what_it_leaves_open() {
    // The columns are the statuses in their order, the rows the sub-statuses in theirs.
    let expected = rows(
        "
        taken downloading paused succeeded failed rejected timed_out canceled -           -
        taken downloading paused succeeded failed rejected timed_out canceled -           -
        taken downloading paused succeeded failed rejected timed_out canceled -           -
        taken downloading paused succeeded failed rejected timed_out canceled downloading downloading
        taken downloaded  paused succeeded failed rejected timed_out canceled downloaded  downloaded
        taken downloaded  paused succeeded failed rejected timed_out canceled downloaded  downloaded
        taken downloaded  paused succeeded failed rejected timed_out canceled downloaded  downloaded
        taken downloaded  paused succeeded failed rejected timed_out canceled downloaded  downloaded
        taken installing  paused succeeded failed rejected timed_out canceled installing  installing
        taken installing  paused succeeded failed rejected timed_out canceled installing  installing
        taken downloading paused succeeded failed rejected timed_out canceled failed      failed
        taken downloaded  paused succeeded failed rejected timed_out canceled failed      failed
        taken installing  paused succeeded failed rejected timed_out canceled failed      failed
        ",
    );
    assert_eq!(grid(0, Progress::meaning), expected);
    // A reply differs in that it says something by being one.
    let of_a_reply: Vec<Vec<&str>> =
        expected.iter().map(|row| row.iter().map(|cell| if *cell == "-" { "taken" } else { cell }).collect()).collect();
    assert_eq!(grid(0, Progress::reply_meaning), of_a_reply);
}

#[test]
fn an_error_fails_it_whatever_is_said_but_how_it_ended() {
    let row = ["failed", "failed", "failed", "failed", "failed", "rejected", "timed_out", "canceled", "failed", "failed"];
    let expected = vec![row.to_vec(); SUB_STATUSES.len()];
    for result in [312_014, -1, i64::MAX] {
        assert_eq!(grid(result, Progress::meaning), expected);
        assert_eq!(grid(result, Progress::reply_meaning), expected);
    }
}

#[test]
fn under_way_the_step_tells_what_the_sub_status_does_not() {
    let place = |sub_status: &str, progress: Value| {
        let data = json!({ "output": { "status": "in_progress", "sub_status": sub_status, "progress": progress } });
        word(&read(&data).meaning())
    };
    for (progress, expected) in [
        (json!(null), "downloading"),
        (json!([]), "downloading"),
        (json!({}), "downloading"),
        (json!({ "step_key": "download_firmware" }), "downloading"),
        (json!({ "step_key": "upgrade_firmware" }), "installing"),
        (json!({ "step_key": " Upgrade_Firmware " }), "installing"),
        (json!({ "step_key": "" , "step": 2 }), "installing"),
        (json!({ "step_key": "rest", "step": "2" }), "installing"),
        (json!({ "step_key": "download_firmware", "step": 2 }), "downloading"),
        (json!({ "step": 1 }), "downloading"),
        (json!({ "step": 3 }), "downloading"),
        (json!({ "step": {} }), "downloading"),
        (json!({ "current_step": "upgrade_firmware" }), "installing"),
        (json!({ "current_step": 2 }), "installing"),
        (json!({ "current_step": "2" }), "installing"),
        (json!({ "current_step": 1, "step": 2 }), "downloading"),
        (json!({ "current_step": 9, "step": 2 }), "installing"),
    ] {
        for sub_status in ["", "UNKNOWN", "PONDERING"] {
            assert_eq!(place(sub_status, progress.clone()), expected, "{sub_status} {progress}");
        }
        for (sub_status, expected) in [("DOWNLOADING", "downloading"), ("VERIFY", "downloaded"), ("UPGRADING", "installing")] {
            assert_eq!(place(sub_status, progress.clone()), expected, "{sub_status} {progress}");
        }
    }
    // A part that failed and is tried again is where the step says.
    assert_eq!(place("VERIFY_FAILED", json!({ "step": 1 })), "downloading");
    assert_eq!(place("DOWNLOAD_FAILED", json!({ "step": 2 })), "installing");
}

#[test]
fn every_status_and_sub_status_is_read_in_any_case_and_kept_as_it_came() {
    for (name, status) in Status::ALL {
        for text in [name.to_owned(), name.to_uppercase(), format!(" {name} ")] {
            assert_eq!(read(&json!({ "output": { "status": text } })).status, Some(status), "{text}");
        }
    }
    for (name, sub_status) in SubStatus::ALL {
        for text in [name.to_owned(), name.to_lowercase(), format!("{name}\n")] {
            assert_eq!(read(&json!({ "output": { "sub_status": text } })).sub_status, Some(sub_status), "{text}");
        }
    }
    let unknown = read(&json!({ "output": { "status": "Resting", "sub_status": 7 } }));
    assert_eq!((unknown.status, unknown.status_text.as_str()), (None, "Resting"));
    assert_eq!((unknown.sub_status, unknown.sub_status_text.as_str()), (None, "7"));
    assert_eq!(unknown.meaning(), Meaning::Nothing);
}

#[test]
fn code_and_detail_say_what_went_wrong() {
    for (data, expected) in [
        (
            json!({ "result": 312_014, "output": { "status": "rejected" } }),
            report(ReportedState::Rejected, None, Some("312014 already updating"), Some(312_014)),
        ),
        (
            json!({ "result": "312016", "output": { "status": "in_progress", "sub_status": "DOWNLOADING", "progress": { "percent": 5 } } }),
            report(
                ReportedState::Failed,
                Some(5),
                Some("312016 transmission between dock and aircraft failed, DOWNLOADING"),
                Some(312_016),
            ),
        ),
        (json!({ "result": -1 }), report(ReportedState::Failed, None, Some("-1 unknown error"), Some(-1))),
        (json!({ "result": 77, "output": {} }), report(ReportedState::Failed, None, Some("result 77"), Some(77))),
        (json!({ "result": 4_294_967_296_u64 }), report(ReportedState::Failed, None, Some("result 4294967296"), Some(i32::MAX))),
        (
            json!({ "result": "-99999999999999999999999" }),
            report(ReportedState::Failed, None, Some("result -9223372036854775808"), Some(i32::MIN)),
        ),
        (
            json!({ "result": u64::MAX, "output": { "status": "ok" } }),
            report(ReportedState::Failed, None, Some("result 9223372036854775807"), Some(i32::MAX)),
        ),
        (
            json!({ "result": 0, "output": { "status": "failed", "progress": { "step_result": 312_704 } } }),
            report(ReportedState::Failed, None, Some("312704 battery too low"), Some(312_704)),
        ),
        (
            json!({ "result": 312_015, "output": { "status": "failed", "progress": { "step_result": 312_704 } } }),
            report(ReportedState::Failed, None, Some("312015 device is at work"), Some(312_015)),
        ),
        (json!({ "output": { "status": "timeout", "sub_status": "UNKNOWN" } }), report(ReportedState::TimedOut, None, None, None)),
        (
            json!({ "output": { "status": "resting", "sub_status": "VERIFY_FAILED" } }),
            report(ReportedState::Failed, None, Some("status \"resting\", VERIFY_FAILED"), None),
        ),
        (
            json!({ "output": { "status": "ok", "sub_status": "UPGRADE_SUCCESS", "progress": { "percent": 100, "step_result": 1 } } }),
            report(ReportedState::Succeeded, Some(100), Some("UPGRADE_SUCCESS"), None),
        ),
    ] {
        assert_eq!(read(&data).meaning(), Meaning::Ended(expected), "{data}");
    }
    let goes_on = json!({ "output": { "status": "in_progress", "progress": { "step_result": "312017" } } });
    let moved = report(ReportedState::Downloading, None, Some("312017 version check failed"), None);
    assert_eq!(read(&goes_on).meaning(), Meaning::Moved(moved));
}

#[test]
fn a_percent_beyond_its_range_or_unreadable_is_ignored() {
    for (percent, expected) in [
        (json!(0), Some(0)),
        (json!("45"), Some(45)),
        (json!(100.0), Some(100)),
        (json!(101), None),
        (json!(-1), None),
        (json!(256), None),
        (json!(1e300), None),
        (json!(45.5), None),
        (json!("half"), None),
        (json!([50]), None),
        (json!(null), None),
    ] {
        let data = json!({ "output": { "status": "failed", "progress": { "percent": percent } } });
        assert_eq!(read(&data).meaning(), Meaning::Ended(report(ReportedState::Failed, expected, None, None)), "{data}");
    }
}

#[test]
fn the_forms_of_others_are_read_too() {
    // As a simulator of docks replies, and as DJI's documents have it, older and newer.
    for (data, expected) in [
        (json!({ "result": 0, "output": { "status": "in_progress" } }), report(ReportedState::Downloading, None, None, None)),
        (
            json!({ "result": 0, "output": { "status": "in_progress", "progress": { "percent": 10, "current_step": "download_firmware" } } }),
            report(ReportedState::Downloading, Some(10), None, None),
        ),
        (
            json!({ "output": { "status": "in_progress", "progress": { "percent": 10, "step_key": "upgrade_firmware", "step_result": 0 } } }),
            report(ReportedState::Installing, Some(10), None, None),
        ),
        (
            json!({ "result": null, "output": null, "status": "in_progress", "progress": { "percent": 10, "step": 2 } }),
            report(ReportedState::Installing, Some(10), None, None),
        ),
    ] {
        assert_eq!(read(&data).meaning(), Meaning::Moved(expected), "{data}");
    }
    for data in [json!({ "result": 0 }), json!({}), json!({ "result": null, "output": {} })] {
        assert_eq!((read(&data).meaning(), read(&data).reply_meaning()), (Meaning::Nothing, Meaning::Accepted), "{data}");
    }
}

#[test]
fn what_decides_and_cannot_be_read_is_refused_with_what_was_expected() {
    for (data, expected) in [
        (json!(null), "expected an object, got null"),
        (json!([0]), "expected an object, got an array"),
        (json!({ "result": "bad" }), "field result: expected an integer, or a text of one, got string \"bad\""),
        (json!({ "result": true }), "field result: expected an integer"),
        (json!({ "result": 1e300 }), "field result: expected an integer"),
        (json!({ "output": "ok" }), "field output: expected an object, got string \"ok\""),
        (json!({ "output": [] }), "field output: expected an object"),
        (json!({ "output": { "status": { "is": "ok" } } }), "field output.status: expected a text, got map"),
        (json!({ "status": true }), "field status: expected a text, got true"),
    ] {
        let message = Progress::read(&data).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{data}: {message}");
    }
}

#[test]
fn texts_of_any_length_are_kept_to_a_few_printable_characters() {
    let long = "\u{1b}ü\"".repeat(10_000);
    let progress = read(&json!({ "result": 1, "output": { "status": long, "sub_status": long } }));
    assert_eq!(progress.status_text.chars().count(), NAME_CHARS_MAX);
    assert_eq!(progress.sub_status_text.chars().count(), NAME_CHARS_MAX);
    let Meaning::Ended(Report { detail: Some(detail), .. }) = progress.meaning() else { panic!("{progress:?}") };
    assert!(detail.chars().count() <= DETAIL_CHARS_MAX && !detail.contains(char::is_control), "{detail}");
    assert!(detail.starts_with("result 1, status "), "{detail}");
}
