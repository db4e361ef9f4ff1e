//! How an upgrade goes: `ota_progress`, and the reply to `ota_create`, which has the same form.
//!
//! The module's header has the tables of what means what. Behind them:
//!
//! - The platform's own example is a failure with result 0, so `status` is what tells the state; a result that isn't 0 fails it all the
//!   same, for nothing else is said of it than that it is an error.
//! - A status that ends the upgrade says how it ended, also where there is a result: a refusal (`rejected`) isn't a breakdown.
//! - `sub_status` is looked at where `status` leaves something open. Next to `in_progress`, a failed part is one the gateway tries again.
//! - Nobody's word is taken for a state that isn't known: it is kept as text, and changes nothing.

use super::error_code;
use super::reading::{Malformed, filled_text, from_value, integer_if_any, printable, text_if_any};
use crate::dialect::common::lenient::{self, Object};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use sluicegate::model::ReportedState;

pub(crate) const METHOD: &str = "ota_progress";

/// The longest name of the platform has 16 characters.
const NAME_CHARS_MAX: usize = 64;
const DETAIL_CHARS_MAX: usize = 200;

/// What a gateway says of its upgrade, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// 0 is well.
    pub(crate) result: i64,
    pub(crate) status: Option<Status>,
    /// Also of a status that isn't known; empty where there is none.
    pub(crate) status_text: String,
    pub(crate) sub_status: Option<SubStatus>,
    /// As of the status.
    pub(crate) sub_status_text: String,
    pub(crate) step: Option<Step>,
    /// Of the step by itself; 0 where it isn't said.
    pub(crate) step_result: i64,
    /// Of the step: it falls back where the next one begins.
    pub(crate) percent: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Handed down to whoever will do it.
    Sent,
    InProgress,
    Paused,
    Ok,
    Failed,
    Rejected,
    Timeout,
    Canceled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubStatus {
    Unknown,
    Downloading,
    DownloadSuccess,
    DownloadFailed,
    /// From the gateway on to the device attached to it.
    UploadingDrone,
    Verify,
    VerifySuccess,
    VerifyFailed,
    Upgrading,
    UpgradeSuccess,
    UpgradeFail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Download,
    Upgrade,
}

/// What is to be made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// No state that is known; what it said is in the texts of [`Progress`].
    Nothing,
    /// The gateway has taken the order and hasn't begun. Of an upgrade that is further on, it is old news.
    Accepted,
    Moved(Report),
    Ended(Report),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) state: ReportedState,
    /// Of the step, 0 to 100.
    pub(crate) percent: Option<u8>,
    /// For people.
    pub(crate) detail: Option<String>,
    /// Of what ended other than well, where there is one.
    pub(crate) code: Option<i32>,
}

impl Status {
    const ALL: [(&'static str, Self); 8] = [
        ("sent", Self::Sent),
        ("in_progress", Self::InProgress),
        ("paused", Self::Paused),
        ("ok", Self::Ok),
        ("failed", Self::Failed),
        ("rejected", Self::Rejected),
        ("timeout", Self::Timeout),
        ("canceled", Self::Canceled),
    ];

    /// What ended it, where a result says that it ended other than well.
    const fn failure(self) -> ReportedState {
        match self {
            Self::Rejected => ReportedState::Rejected,
            Self::Timeout => ReportedState::TimedOut,
            Self::Canceled => ReportedState::Canceled,
            Self::Sent | Self::InProgress | Self::Paused | Self::Ok | Self::Failed => ReportedState::Failed,
        }
    }
}

impl SubStatus {
    const ALL: [(&'static str, Self); 11] = [
        ("UNKNOWN", Self::Unknown),
        ("DOWNLOADING", Self::Downloading),
        ("DOWNLOAD_SUCCESS", Self::DownloadSuccess),
        ("DOWNLOAD_FAILED", Self::DownloadFailed),
        ("UPLOADING_DRONE", Self::UploadingDrone),
        ("VERIFY", Self::Verify),
        ("VERIFY_SUCCESS", Self::VerifySuccess),
        ("VERIFY_FAILED", Self::VerifyFailed),
        ("UPGRADING", Self::Upgrading),
        ("UPGRADE_SUCCESS", Self::UpgradeSuccess),
        ("UPGRADE_FAIL", Self::UpgradeFail),
    ];

    const fn is_failure(self) -> bool {
        matches!(self, Self::DownloadFailed | Self::VerifyFailed | Self::UpgradeFail)
    }

    /// How far an upgrade is that this is said of while it is under way.
    const fn place(self) -> Option<ReportedState> {
        match self {
            Self::Unknown => None,
            Self::Downloading | Self::DownloadFailed => Some(ReportedState::Downloading),
            Self::DownloadSuccess | Self::UploadingDrone | Self::Verify | Self::VerifySuccess | Self::VerifyFailed => {
                Some(ReportedState::Downloaded)
            }
            Self::Upgrading | Self::UpgradeSuccess | Self::UpgradeFail => Some(ReportedState::Installing),
        }
    }
}

impl Step {
    /// By its name or its number: the documents disagree about which field has which.
    fn read(text: &str) -> Option<Self> {
        match lenient::parse_integer(text) {
            Some(1) => Some(Self::Download),
            Some(2) => Some(Self::Upgrade),
            Some(_) => None,
            None if text.eq_ignore_ascii_case("download_firmware") => Some(Self::Download),
            None if text.eq_ignore_ascii_case("upgrade_firmware") => Some(Self::Upgrade),
            None => None,
        }
    }

    const fn place(self) -> ReportedState {
        match self {
            Self::Download => ReportedState::Downloading,
            Self::Upgrade => ReportedState::Installing,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DataRead {
    #[serde(deserialize_with = "lenient::optional_integer")]
    result: Option<i128>,
    output: Option<Object<OutputRead>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OutputRead {
    #[serde(deserialize_with = "filled_text")]
    status: Option<String>,
    #[serde(deserialize_with = "text_if_any")]
    sub_status: Option<String>,
    #[serde(deserialize_with = "steps_if_any")]
    progress: StepsRead,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StepsRead {
    #[serde(deserialize_with = "text_if_any")]
    step_key: Option<String>,
    #[serde(deserialize_with = "text_if_any")]
    current_step: Option<String>,
    #[serde(deserialize_with = "text_if_any")]
    step: Option<String>,
    #[serde(deserialize_with = "integer_if_any")]
    step_result: Option<i128>,
    #[serde(deserialize_with = "integer_if_any")]
    percent: Option<u8>,
}

/// Only adorns, so that a step that can't be read costs nothing else.
fn steps_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StepsRead, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(from_value(&value).unwrap_or_default())
}

impl StepsRead {
    fn step(&self) -> Option<Step> {
        let said = [&self.step_key, &self.current_step, &self.step];
        said.into_iter().flatten().find_map(|text| Step::read(text))
    }
}

impl Progress {
    /// Reads the data of a message.
    pub(crate) fn read(data: &Value) -> Result<Self, Malformed> {
        let read: DataRead = from_value(data)?;
        let output = match read.output {
            Some(Object(output)) => output,
            // The tables of older documents have no `output` around these.
            None => from_value(data)?,
        };
        let status_text = output.status.unwrap_or_default();
        let sub_status_text = output.sub_status.unwrap_or_default();
        Ok(Self {
            result: saturated(read.result),
            status: named(&Status::ALL, &status_text),
            status_text: printable(&status_text, NAME_CHARS_MAX),
            sub_status: named(&SubStatus::ALL, &sub_status_text),
            sub_status_text: printable(&sub_status_text, NAME_CHARS_MAX),
            step: output.progress.step(),
            step_result: saturated(output.progress.step_result),
            percent: output.progress.percent.filter(|percent| *percent <= 100),
        })
    }

    /// What it means as an `ota_progress`.
    pub(crate) fn meaning(&self) -> Meaning {
        if self.result != 0 {
            return Meaning::Ended(self.report(self.status.map_or(ReportedState::Failed, Status::failure)));
        }
        match (self.status, self.sub_status) {
            (Some(Status::Sent), _) => Meaning::Accepted,
            (Some(Status::InProgress), _) => Meaning::Moved(self.report(self.place())),
            (Some(Status::Paused), _) => Meaning::Moved(self.report(ReportedState::Paused)),
            (Some(Status::Ok), _) => Meaning::Ended(self.report(ReportedState::Succeeded)),
            (Some(status), _) => Meaning::Ended(self.report(status.failure())),
            (None, Some(sub_status)) if sub_status.is_failure() => Meaning::Ended(self.report(ReportedState::Failed)),
            (None, sub_status) => match sub_status.and_then(SubStatus::place) {
                Some(place) => Meaning::Moved(self.report(place)),
                None => Meaning::Nothing,
            },
        }
    }

    /// What it means as the reply to `ota_create`: one that says no more than that it is one, and reports no error, takes the order.
    pub(crate) fn reply_meaning(&self) -> Meaning {
        match self.meaning() {
            Meaning::Nothing => Meaning::Accepted,
            meaning => meaning,
        }
    }

    /// How far it is, being under way.
    fn place(&self) -> ReportedState {
        let done = self.sub_status.filter(|sub_status| !sub_status.is_failure()).and_then(SubStatus::place);
        done.or(self.step.map(Step::place)).or(self.sub_status.and_then(SubStatus::place)).unwrap_or(ReportedState::Downloading)
    }

    fn report(&self, state: ReportedState) -> Report {
        let code = if state == ReportedState::Succeeded { None } else { self.code() };
        // Of an upgrade that goes on, the error of a step is for people alone.
        let ended_badly =
            matches!(state, ReportedState::Failed | ReportedState::Rejected | ReportedState::TimedOut | ReportedState::Canceled);
        Report { state, percent: self.percent, detail: self.detail(code), code: code.filter(|_| ended_badly).map(narrowed) }
    }

    /// The step's where the whole has none.
    fn code(&self) -> Option<i64> {
        [self.result, self.step_result].into_iter().find(|code| *code != 0)
    }

    fn detail(&self, code: Option<i64>) -> Option<String> {
        let mut parts: Vec<String> = code.map(error_code::described).into_iter().collect();
        if self.status.is_none() && !self.status_text.is_empty() {
            parts.push(format!("status {:?}", self.status_text));
        }
        if !matches!(self.sub_status, Some(SubStatus::Unknown)) && !self.sub_status_text.is_empty() {
            parts.push(self.sub_status_text.clone());
        }
        (!parts.is_empty()).then(|| printable(&parts.join(", "), DETAIL_CHARS_MAX))
    }
}

fn named<T: Copy>(names: &[(&str, T)], text: &str) -> Option<T> {
    names.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

fn saturated(result: Option<i128>) -> i64 {
    let result = result.unwrap_or_default();
    i64::try_from(result).unwrap_or(if result < 0 { i64::MIN } else { i64::MAX })
}

fn narrowed(code: i64) -> i32 {
    i32::try_from(code).unwrap_or(if code < 0 { i32::MIN } else { i32::MAX })
}

#[cfg(test)]
mod tests;
