//! Whatever of this dialect reads what comes from outside, by name, for those who try to break it.

use super::decode;
use super::status::Code;
use crate::testing::{Reader, done, with_text};

pub(crate) const READERS: &[Reader] = &[
    ("xlink-check", |bytes| done(decode::check(bytes))),
    ("xlink-report", |bytes| done(decode::report(bytes))),
    ("xlink-task", |bytes| done(decode::create_task(bytes))),
    ("xlink-task-status", |bytes| done((decode::set_task_status(bytes), decode::delete_task(bytes)))),
    ("xlink-list", |bytes| done(decode::list(bytes, Code::TaskUnknown))),
    ("xlink-device", |bytes| done(decode::device_asked(bytes))),
    ("xlink-firmware", |bytes| done(decode::firmware(bytes))),
    ("xlink-login", |bytes| {
        done((decode::app_login(bytes), decode::activation(bytes), decode::device_login(bytes), decode::device_refresh(bytes)));
    }),
    ("xlink-path", |bytes| {
        with_text(bytes, |text| {
            done(decode::device_id_in_path(text));
            let (first, second) = text.split_once('&').unwrap_or((text, ""));
            done((decode::query_window(Some(first), Some(second)), decode::component_in_query(Some(first), Some(second))));
        });
    }),
];
