//! `ota-jobs?action=search`: jobs, newest first.

use super::expression::{Expression, FieldRule, Matcher, Operator, ValueKind};
use super::job_encode::{JobShown, firmware_name_of, name_of, status_of, type_of};
use super::jobs::{FoundJob, with_firmware};
use super::search::Search;
use super::status::Failure;
use super::text::LocalizedText;
use super::{Answer, Answered, Call};
use crate::dialect::common::result_sets::{Order, ResultSet};
use roaring::RoaringBitmap;
use sluicegate::model::{Selector, TaskNumber};
use sluicegate::{Error, State, TaskInfo};
use std::sync::Arc;

/// Rows read under one lock; who has more jobs takes turns with whoever else wants to read or write.
const JOBS_PER_READ: usize = 500;
/// A job may name 100,000 devices: two hundred of those must not become one reply.
const PAGE_BYTES_MAX: usize = 16 << 20;

#[derive(Clone, Copy, Debug)]
pub(super) enum JobField {
    ProductKey,
    FirmwareId,
    FirmwareVersion,
    Type,
    Status,
    Name(NameIn),
    FirmwareName(NameIn),
}

/// Which of a name's texts is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameIn {
    Any,
    Default,
    /// Where there is none in the locale, the default.
    Locale(&'static str),
}

impl NameIn {
    pub(super) fn matches(self, name: &LocalizedText, matcher: &Matcher) -> bool {
        match self {
            Self::Any => name.all().any(|text| matcher.matches_text(text)),
            Self::Default => matcher.matches_text(&name.default),
            Self::Locale(locale) => matcher.matches_text(name.in_locale(locale).unwrap_or(&name.default)),
        }
    }
}

const ONE_OR_MANY: &[Operator] = &[Operator::Equal, Operator::In];

const fn text(name: &'static str, field: JobField) -> FieldRule<JobField> {
    FieldRule { name, field, operators: ONE_OR_MANY, kind: ValueKind::Text }
}

const fn word(name: &'static str, field: JobField, words: &'static [&'static str]) -> FieldRule<JobField> {
    FieldRule { name, field, operators: ONE_OR_MANY, kind: ValueKind::Word(words) }
}

const fn name(name: &'static str, field: JobField) -> FieldRule<JobField> {
    FieldRule { name, field, operators: &[Operator::Like, Operator::Equal], kind: ValueKind::Text }
}

pub(super) const FIELDS: &[FieldRule<JobField>] = &[
    text("productKey", JobField::ProductKey),
    text("firmwareId", JobField::FirmwareId),
    text("firmwareVersion", JobField::FirmwareVersion),
    word("type", JobField::Type, &["upgrade", "verify"]),
    word("status", JobField::Status, &["started", "stopped"]),
    name("name", JobField::Name(NameIn::Any)),
    name("name.default", JobField::Name(NameIn::Default)),
    name("name.defaultValue", JobField::Name(NameIn::Default)),
    name("name.zh_CN", JobField::Name(NameIn::Locale("zh_CN"))),
    name("name.en_US", JobField::Name(NameIn::Locale("en_US"))),
    name("name.ja_JP", JobField::Name(NameIn::Locale("ja_JP"))),
    name("name.es_ES", JobField::Name(NameIn::Locale("es_ES"))),
    name("firmwareName", JobField::FirmwareName(NameIn::Any)),
    name("firmwareName.default", JobField::FirmwareName(NameIn::Default)),
    name("firmwareName.defaultValue", JobField::FirmwareName(NameIn::Default)),
    name("firmwareName.zh_CN", JobField::FirmwareName(NameIn::Locale("zh_CN"))),
    name("firmwareName.en_US", JobField::FirmwareName(NameIn::Locale("en_US"))),
    name("firmwareName.ja_JP", JobField::FirmwareName(NameIn::Locale("ja_JP"))),
    name("firmwareName.es_ES", JobField::FirmwareName(NameIn::Locale("es_ES"))),
];

pub(super) async fn search(call: &Call) -> Answered {
    let search = Search::read(call, "search")?;
    let expression = search.expression(FIELDS)?.map(Arc::new);
    let found = match search.kept(call) {
        Some(found) => found,
        None => search.keep(call, find(call, expression).await?),
    };
    let page = found.page(search.page.offset() as u64, search.page.limit());
    let read = |state: &State| -> Vec<FoundJob> {
        let own = |task: &TaskInfo| task.product.organization == call.organization;
        let tasks = page.iter().filter_map(|found| state.task_by_number(TaskNumber(found.number))).filter(own);
        tasks.map(|task| with_firmware(state, task)).collect()
    };
    let jobs = call.app.engine.read(read).await?;
    let bytes: usize = jobs.iter().map(|(task, _)| scope_bytes(&task.row.scope.selector)).sum();
    if bytes > PAGE_BYTES_MAX && jobs.len() > 1 {
        return Err(Failure::invalid(format!(
            "the scopes of this page's jobs have {bytes} bytes, and {PAGE_BYTES_MAX} are the most; ask for a smaller pageSize"
        )));
    }
    let default_timeout_s = call.app.engine.limits().default_timeout_s;
    let rows: Vec<JobShown<'_>> =
        jobs.iter().map(|(task, firmware)| JobShown::new(task, firmware.as_deref(), default_timeout_s)).collect();
    Answer::page(&rows, search.page.of(found.count()))
}

async fn find(call: &Call, expression: Option<Arc<Expression<JobField>>>) -> Result<ResultSet, Failure> {
    let mut found = RoaringBitmap::new();
    let mut before = None;
    loop {
        let read = |state: &State| -> Vec<FoundJob> {
            let tasks = own_tasks(state, call, before, JOBS_PER_READ);
            tasks.into_iter().map(|task| with_firmware(state, task)).collect()
        };
        let jobs = call.app.engine.read(read).await?;
        let is_last = jobs.len() < JOBS_PER_READ;
        before = jobs.last().map(|(task, _)| task.row.number);
        let matching = matching(jobs, expression.clone(), matches).await?;
        found.extend(matching.iter().map(|(task, _)| task.row.number.0));
        if is_last {
            return Ok(ResultSet::of(Order::NewestFirst, found));
        }
    }
}

/// Those for which the expression holds. Names are compared outside the engine's lock, and where nobody waits for this thread.
pub(super) async fn matching<R, F>(
    rows: Vec<R>,
    expression: Option<Arc<Expression<F>>>,
    matches: fn(&Expression<F>, &R) -> bool,
) -> Result<Vec<R>, Failure>
where
    R: Send + 'static,
    F: Send + Sync + 'static,
{
    let Some(expression) = expression else { return Ok(rows) };
    let matching = tokio::task::spawn_blocking(move || rows.into_iter().filter(|row| matches(&expression, row)).collect());
    Ok(matching.await.map_err(|_| Error::Closed)?)
}

/// Newest first, those that the caller may see.
pub(super) fn own_tasks(state: &State, call: &Call, before: Option<TaskNumber>, limit: usize) -> Vec<TaskInfo> {
    match &call.caller.product_id {
        None => state.tasks(&call.organization, None, before, limit),
        Some(product_id) => match state.product(&call.organization, product_id) {
            Some(product) => state.tasks(&call.organization, Some(product.number), before, limit),
            None => Vec::new(),
        },
    }
}

fn matches(expression: &Expression<JobField>, (task, firmware): &FoundJob) -> bool {
    let row = &task.row;
    expression.holds(|field, matcher| match field {
        JobField::ProductKey => matcher.matches_text(&task.product.id),
        JobField::FirmwareId => firmware.as_ref().is_some_and(|firmware| matcher.matches_text(&firmware.id.to_string())),
        JobField::FirmwareVersion => matcher.matches_text(&row.target_version),
        JobField::Type => matcher.matches_text(type_of(row)),
        JobField::Status => matcher.matches_text(status_of(row)),
        JobField::Name(of) => of.matches(&name_of(row), matcher),
        JobField::FirmwareName(of) => firmware.as_ref().is_some_and(|firmware| of.matches(&firmware_name_of(firmware), matcher)),
    })
}

/// About how long the scope is as text.
fn scope_bytes(selector: &Selector) -> usize {
    let texts = |texts: &[Box<str>]| texts.iter().map(|text| text.len() + 3).sum::<usize>();
    match selector {
        Selector::Total => 0,
        Selector::Devices(entries) | Selector::Groups(entries) => texts(entries),
        Selector::Attributes(entries) | Selector::Tags(entries) => {
            entries.iter().map(|(key, values)| key.len() + 5 + texts(values)).sum()
        }
        Selector::AssetTrees(trees) => trees.iter().map(|tree| tree.tree.len() + 30 + texts(&tree.nodes)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_in_the_language_that_was_named_or_in_the_default() {
        let name = LocalizedText { default: "pump".into(), localized: vec![("zh_CN", "泵".into())] };
        let matches = |text: &str| {
            let expression = Expression::parse(text, FIELDS).unwrap().unwrap();
            expression.holds(|field, matcher| match field {
                JobField::Name(of) => of.matches(&name, matcher),
                _ => false,
            })
        };
        for (text, expected) in [
            ("name like 'um'", true),
            ("name like '泵'", true),
            ("name like 'x'", false),
            ("name.default like '泵'", false),
            ("name.defaultValue like 'pump'", true),
            ("name.zh_CN like '泵'", true),
            ("name.zh_CN like 'pump'", false),
            ("name.es_ES like 'pump'", true),
            ("name = 'pum'", false),
            ("name = 'pump'", true),
        ] {
            assert_eq!(matches(text), expected, "{text}");
        }
    }
}
