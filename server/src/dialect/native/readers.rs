//! Whatever of this dialect reads what comes from outside, by name, for those who try to break it.

use super::decode::{self, CheckBody, DeviceBody, ReportBody};
use super::page::{Kind, Wanted};
use super::task_json::TaskBody;
use crate::http::Query;
use crate::testing::{Reader, done, with_text};
use serde_json::Value;
use sluicegate::DeviceName;

pub(crate) const READERS: &[Reader] = &[
    ("native-check", |bytes| done(decode::parse::<CheckBody<'_>>(bytes))),
    ("native-report", |bytes| {
        if let Ok(report) = decode::parse::<ReportBody<'_>>(bytes) {
            let percent = report.percent();
            assert!(percent.is_err() || percent.is_ok_and(|percent| percent.is_none_or(|percent| percent <= 100)));
            done((report.state(), report.code()));
        }
    }),
    ("native-task", |bytes| {
        if let Ok(task) = decode::parse::<TaskBody>(bytes) {
            done(task.into_new("o"));
        }
    }),
    ("native-device", |bytes| {
        if let Ok(device) = decode::parse_or_empty::<DeviceBody>(bytes) {
            done(device.of_path("p", "d"));
        }
    }),
    ("native-import-line", |bytes| {
        if let Ok(device) = decode::parse::<DeviceBody>(bytes) {
            done(device.of_line());
        }
    }),
    ("native-firmware", |bytes| done(decode::parse::<decode::FirmwareBody>(bytes))),
    ("native-token", |bytes| done(decode::parse::<decode::TokenBody>(bytes).map(|token| token.role()))),
    ("native-query", |bytes| {
        with_text(bytes, |text| {
            if let Ok(query) = Query::parse(Some(text))
                && let Ok(wanted) = Wanted::read(&query)
            {
                done((wanted.after_number(Kind::Tasks), wanted.after_text(Kind::Devices)));
            }
        });
    }),
    ("json", |bytes| done(serde_json::from_slice::<Value>(bytes))),
    ("client-certificate-name", |bytes| {
        with_text(bytes, |text| {
            if let Some(DeviceName { organization, product_id, device_id }) = crate::http::client_certificate::parse(text, 128) {
                assert!([organization, product_id, device_id].iter().all(|id| (1..=128).contains(&id.len())));
            }
        });
    }),
];
