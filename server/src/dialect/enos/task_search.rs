//! `ota-jobs?action=searchTask`: tasks of jobs, those of the newest job first.
//!
//! Each job is searched on its own, over sets of its devices. Two things are not known as sets: what was said of a task (`desc`), and in a
//! job from several versions, from which of them (`fromVersion`). Where an expression asks for one of those, the job's stored rows
//! are read once and make the missing sets. Then the expression is evaluated, as over any other sets.
//!
//! Bounds: [`FOUND_BYTES_MAX`] of sets and [`ROWS_READ_MAX`] of rows for one search; beyond, the caller is asked to narrow it.

use super::expression::{Expression, FieldRule, Matcher, Operator, ValueKind};
use super::job_search::own_tasks;
use super::job_tasks::{COMPONENT, STATUSES, TaskShown, desc_of, rows, status_of, stored};
use super::search::Search;
use super::status::Failure;
use super::{Answer, Answered, Call};
use crate::dialect::common::result_sets::{Order, ResultSet};
use roaring::RoaringBitmap;
use sluicegate::model::{DeviceNumber, TaskNumber, Upgrade, UpgradeState};
use sluicegate::store::UpgradeQuery;
use sluicegate::{Engine, Error, State, TaskInfo};
use std::ops::{BitAnd, BitOr};
use std::sync::Arc;

/// Jobs looked at under one lock; sets are made of those that are left, one job under each lock.
const JOBS_PER_READ: usize = 200;
/// As much as is kept of all searches together.
const FOUND_BYTES_MAX: usize = 64 << 20;
const ROWS_READ_MAX: usize = 2_000_000;
/// One look-up for each is cheaper than reading all rows of a job.
const ROWS_ONE_BY_ONE_MAX: u64 = 200;
const ROWS_PER_READ: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskField {
    JobId,
    DeviceKey,
    FromVersion,
    ToVersion,
    Status,
    Desc,
}

const fn rule(name: &'static str, field: TaskField, kind: ValueKind) -> FieldRule<TaskField> {
    FieldRule { name, field, operators: &[Operator::Equal, Operator::In], kind }
}

pub(super) const FIELDS: &[FieldRule<TaskField>] = &[
    rule("jobId", TaskField::JobId, ValueKind::Text),
    rule("deviceKey", TaskField::DeviceKey, ValueKind::Text),
    rule("fromVersion", TaskField::FromVersion, ValueKind::Text),
    rule("toVersion", TaskField::ToVersion, ValueKind::Text),
    rule("status", TaskField::Status, ValueKind::Word(&STATUSES)),
    rule("desc", TaskField::Desc, ValueKind::Text),
];

pub(super) async fn search(call: &Call) -> Answered {
    let search = Search::read(call, "searchTask")?;
    let expression = search.expression(FIELDS)?.map(Arc::new);
    let found = match search.kept(call) {
        Some(found) => found,
        None => search.keep(call, find(call, expression.as_ref()).await?),
    };
    let page = rows(call, &found.page(search.page.offset() as u64, search.page.limit())).await?;
    let shown: Vec<TaskShown<'_>> = page.iter().map(TaskShown::new).collect();
    Answer::page(&shown, search.page.of(found.count()))
}

async fn find(call: &Call, expression: Option<&Arc<Expression<TaskField>>>) -> Result<ResultSet, Failure> {
    let mut found = Vec::new();
    let (mut found_bytes, mut rows_left) = (0, ROWS_READ_MAX);
    let mut before = None;
    loop {
        let read = |state: &State| own_tasks(state, call, before, JOBS_PER_READ);
        let tasks = call.app.engine.read(read).await?;
        before = tasks.last().map(|task| task.row.number);
        for task in tasks.iter().filter(|task| expression.is_none_or(|wanted| may_match(wanted, task))) {
            let devices = find_in(call, task, expression, &mut rows_left).await?;
            if devices.is_empty() {
                continue;
            }
            found_bytes += devices.serialized_size();
            if found_bytes > FOUND_BYTES_MAX {
                return Err(Failure::invalid(
                    "the search finds more tasks than can be paged through; narrow it by jobId or status",
                ));
            }
            found.push((task.row.number.0, devices));
        }
        if tasks.len() < JOBS_PER_READ {
            return Ok(ResultSet::new(Order::Ascending, found));
        }
    }
}

/// Whether a job can have such tasks, by what is known of the job alone.
fn may_match(expression: &Expression<TaskField>, task: &TaskInfo) -> bool {
    expression.holds(|field, matcher| match field {
        TaskField::JobId => matcher.matches_text(&task.row.id.to_string()),
        TaskField::ToVersion => matcher.matches_text(&task.row.target_version),
        TaskField::FromVersion => task.row.from_versions.iter().any(|version| matcher.matches_text(version)),
        TaskField::DeviceKey | TaskField::Status | TaskField::Desc => true,
    })
}

async fn find_in(
    call: &Call,
    task: &TaskInfo,
    expression: Option<&Arc<Expression<TaskField>>>,
    rows_left: &mut usize,
) -> Result<RoaringBitmap, Failure> {
    let Some(expression) = expression else {
        return Ok(call.app.engine.read(|state: &State| state.runs(task.row.number, &UpgradeState::ALL)).await?);
    };
    let plan = call.app.engine.read(|state: &State| Plan::new(state, call, task, expression)).await?;
    let candidates = plan.candidates(expression);
    if candidates.is_empty() || plan.is_complete() {
        return Ok(candidates);
    }
    let (engine, expression, limit) = (call.app.engine.clone(), Arc::clone(expression), *rows_left);
    let reading = tokio::task::spawn_blocking(move || {
        plan.with_rows(&engine, &candidates, limit).map(|(plan, read)| (plan.candidates(&expression), read))
    });
    let (devices, read) = reading.await.map_err(|_| Error::Closed)??;
    *rows_left = rows_left.saturating_sub(read);
    if *rows_left == 0 {
        return Err(Failure::invalid(format!(
            "the search would read more than {ROWS_READ_MAX} tasks for desc or fromVersion; narrow it by jobId"
        )));
    }
    Ok(devices)
}

/// The sets of one job that an expression's tests stand for, in the order of the tests.
#[derive(Debug)]
struct Plan {
    task: TaskNumber,
    /// All devices of the job.
    all: RoaringBitmap,
    tests: Vec<TestSet>,
}

#[derive(Debug)]
enum TestSet {
    Known(RoaringBitmap),
    /// To be found in stored rows.
    Stored {
        field: TaskField,
        matcher: Matcher,
        /// The devices for which it holds, if there is no row of them.
        without_row: RoaringBitmap,
    },
}

impl Plan {
    fn new(state: &State, call: &Call, task: &TaskInfo, expression: &Expression<TaskField>) -> Self {
        let sets = state.device_sets(&call.organization);
        let number = task.row.number;
        let all = state.runs(number, &UpgradeState::ALL);
        let waiting = state.runs(number, &[UpgradeState::Waiting]);
        let whole = |holds: bool| TestSet::Known(if holds { all.clone() } else { RoaringBitmap::new() });
        let from_versions = &task.row.from_versions;
        let mut tests = Vec::new();
        let mut test = |field: TaskField, matcher: &Matcher| {
            let stored = |without_row| TestSet::Stored { field, matcher: matcher.clone(), without_row };
            tests.push(match field {
                TaskField::JobId => whole(matcher.matches_text(&task.row.id.to_string())),
                TaskField::ToVersion => whole(matcher.matches_text(&task.row.target_version)),
                TaskField::Status => {
                    let wanted = |state: &UpgradeState| matcher.matches_text(status_of(*state));
                    let states: Vec<UpgradeState> = UpgradeState::ALL.into_iter().filter(wanted).collect();
                    TestSet::Known(state.runs(number, &states))
                }
                TaskField::DeviceKey => {
                    let named = values(matcher).iter().map(|key| sets.with_id(key)).fold(RoaringBitmap::new(), BitOr::bitor);
                    TestSet::Known(named & &all)
                }
                TaskField::FromVersion if from_versions.len() == 1 => whole(matcher.matches_text(&from_versions[0])),
                TaskField::FromVersion => {
                    let at = values(matcher).iter().map(|version| sets.at_version(COMPONENT, version));
                    stored(at.fold(RoaringBitmap::new(), BitOr::bitor) & &waiting)
                }
                TaskField::Desc if matcher.matches_text("") => stored(waiting.clone()),
                TaskField::Desc => stored(RoaringBitmap::new()),
            });
        };
        expression.evaluate(&mut test, |(), ()| (), |(), ()| ());
        Self { task: number, all, tests }
    }

    fn is_complete(&self) -> bool {
        self.tests.iter().all(|test| matches!(test, TestSet::Known(_)))
    }

    /// The devices for which the expression holds, as far as is known: what only rows could tell counts as holding. As there is no
    /// "not" in expressions, these are never too few.
    fn candidates(&self, expression: &Expression<TaskField>) -> RoaringBitmap {
        let mut sets = self.tests.iter().map(|test| match test {
            TestSet::Known(devices) => devices.clone(),
            TestSet::Stored { .. } => self.all.clone(),
        });
        // One set was made for each test, in this very order.
        expression.evaluate(&mut |_, _| sets.next().unwrap_or_default(), BitAnd::bitand, BitOr::bitor)
    }

    /// Reads the rows of the candidates, and with them the sets that were missing. Gives up after `limit` rows. Blocks on the disk.
    fn with_rows(self, engine: &Engine, candidates: &RoaringBitmap, limit: usize) -> Result<(Self, usize), Error> {
        let mut seen = RoaringBitmap::new();
        let mut found: Vec<RoaringBitmap> = vec![RoaringBitmap::new(); self.tests.len()];
        let mut take = |row: &Upgrade| {
            if !candidates.contains(row.device.0) {
                return;
            }
            seen.insert(row.device.0);
            for (test, found) in self.tests.iter().zip(&mut found) {
                let TestSet::Stored { field, matcher, .. } = test else { continue };
                let text = if *field == TaskField::Desc { desc_of(row) } else { &row.from_version };
                if matcher.matches_text(text) {
                    found.insert(row.device.0);
                }
            }
        };
        let read = if candidates.len() <= ROWS_ONE_BY_ONE_MAX {
            for device in candidates {
                if let Some(row) = stored(engine, self.task, DeviceNumber(device))? {
                    take(&row);
                }
            }
            candidates.len() as usize
        } else {
            read_all(engine, self.task, limit, take)?
        };
        let known = |(test, found): (TestSet, RoaringBitmap)| match test {
            TestSet::Stored { without_row, .. } => TestSet::Known(found | (without_row - &seen)),
            known => known,
        };
        let tests = self.tests.into_iter().zip(found).map(known).collect();
        Ok((Self { tests, ..self }, read))
    }
}

fn values(matcher: &Matcher) -> &[String] {
    if let Matcher::OneOf(values) = matcher { values } else { &[] }
}

fn read_all(engine: &Engine, task: TaskNumber, limit: usize, mut take: impl FnMut(&Upgrade)) -> Result<usize, Error> {
    let mut query = UpgradeQuery { task: Some(task), limit: ROWS_PER_READ, ..UpgradeQuery::default() };
    let mut read = 0;
    loop {
        let rows = engine.upgrades(&query)?;
        rows.iter().for_each(&mut take);
        read += rows.len();
        query.after = rows.last().map(|row| row.device);
        if rows.len() < ROWS_PER_READ || read >= limit {
            return Ok(read);
        }
    }
}
