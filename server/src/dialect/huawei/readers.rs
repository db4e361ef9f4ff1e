//! Whatever of this dialect reads what comes from outside, by name, for those who try to break it.

use super::{decode, login, page, time};
use crate::http::Query;
use crate::testing::{Reader, done, with_text};
use sluicegate::model::Timestamp;

pub(crate) const READERS: &[Reader] = &[
    ("huawei-task", |bytes| done(decode::task(bytes, Timestamp(1_700_000_000_000)))),
    ("huawei-login", |bytes| done(login::Written::read(bytes))),
    ("huawei-time", |bytes| with_text(bytes, |text| done(time::parse(text)))),
    ("huawei-page", |bytes| {
        with_text(bytes, |text| {
            if let Ok(query) = Query::parse(Some(text))
                && let Ok(page) = page::Page::read(&query)
            {
                done((page.offset(), page.holds(u64::MAX)));
            }
        });
    }),
];
