//! `task list|show|start|stop|…`: the operator's everyday work.

use super::client::{CallError, Client, ServerArguments, Upload, block_on, encode};
use super::{Failure, print, print_json, table};
use ::http::Method;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Every task, newest first
    List(List),
    /// One task with its counts and where it is heading
    Show(One),
    /// Let a task offer
    Start(One),
    /// Let a task offer no more; upgrades that run go on
    Stop(One),
    /// Let a task begin nothing new until it is resumed; upgrades that run go on
    Pause(One),
    /// Let a paused task go on
    Resume(One),
    /// Say yes to a task that needs an approval
    Approve(One),
    /// Stop a task and take back everything unfinished
    Cancel(One),
    /// Open a task's next wave, whatever the one before has reached
    OpenWave(One),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Of this product only
    #[arg(long, value_name = "P")]
    product: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The task's id
    id: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// Print the server's answer
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let (one, verb) = match command {
        Command::List(list) => return block_on(list.run()),
        Command::Show(one) => (one, None),
        Command::Start(one) => (one, Some("start")),
        Command::Stop(one) => (one, Some("stop")),
        Command::Pause(one) => (one, Some("pause")),
        Command::Resume(one) => (one, Some("resume")),
        Command::Approve(one) => (one, Some("approve")),
        Command::Cancel(one) => (one, Some("cancel")),
        Command::OpenWave(one) => (one, Some("open-wave")),
    };
    let common = &one.common;
    let path = format!("/api/v1/tasks/{}", encode(&one.id));
    let (method, path) = match verb {
        None => (Method::GET, path),
        Some(verb) => (Method::POST, format!("{path}/{verb}")),
    };
    block_on(async {
        let mut client = Client::new(&common.server)?;
        client.require_token()?;
        let task = client.call(method, &path, Upload::empty(), &[]).await?.accepted()?.json()?;
        if common.json {
            print_json(&task)
        } else {
            print(&details(&task))
        }
        Ok(())
    })
}

impl List {
    async fn run(&self) -> Result<(), Failure> {
        let mut client = Client::new(&self.common.server)?;
        client.require_token()?;
        let tasks = all_tasks(&mut client, self.product.as_deref()).await?;
        if self.common.json {
            print_json(&json!({ "items": tasks, "cursor": null }));
        } else {
            print(&overview(&tasks));
        }
        Ok(())
    }
}

/// Every page of the list.
pub(super) async fn all_tasks(client: &mut Client, product: Option<&str>) -> Result<Vec<Value>, CallError> {
    let mut tasks = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut path = "/api/v1/tasks?limit=1000".to_owned();
        for (key, value) in [("product_id", product), ("cursor", cursor.as_deref())] {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={}", encode(value)));
            }
        }
        let mut page = client.get(&path).await?.accepted()?.json()?;
        match page.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => tasks.extend(items),
            _ => return Err(CallError::Answer("it has no items".to_owned())),
        }
        match page.get("cursor").and_then(Value::as_str) {
            // A server that gives the same page for ever is not followed for ever.
            Some(next) if cursor.as_deref() != Some(next) => cursor = Some(next.to_owned()),
            _ => return Ok(tasks),
        }
    }
}

pub(super) fn overview(tasks: &[Value]) -> String {
    let rows: Vec<Vec<String>> = tasks
        .iter()
        .map(|task| {
            vec![
                text(task, "id"),
                text(task, "name"),
                text(task, "product_id"),
                format!("{}/{}", text(task, "type"), text(task, "identify")),
                format!("{} → {}", text(task, "from_versions"), text(task, "target_version")),
                text(task, "status"),
                format!("{} of {}", text(task, "permits_held"), bound(task)),
                count(task, "succeeded"),
                count(task, "failed"),
            ]
        })
        .collect();
    table::table(&["TASK", "NAME", "PRODUCT", "TYPE", "VERSIONS", "STATUS", "PERMITS", "DONE", "FAILED"], &rows)
}

fn details(task: &Value) -> String {
    let mut rows: Vec<Vec<String>> = ["id", "name", "product_id", "type", "identify", "kind", "from_versions", "target_version"]
        .iter()
        .filter(|key| task.get(**key).is_some_and(|value| !value.is_null()))
        .map(|key| vec![(*key).to_owned(), text(task, key)])
        .collect();
    let mut add = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    add("status", status(task));
    add("permits", format!("{} of {}", text(task, "permits_held"), bound(task)));
    if let Some(counts) = task.get("counts").and_then(Value::as_object) {
        counts.iter().filter(|(_, count)| count.as_u64() != Some(0)).for_each(|(state, count)| add(state, count.to_string()));
    }
    if let Some(outlook) = task.get("outlook") {
        add("to come", text(outlook, "to_come"));
        if let Some(rate) = outlook.get("rate_per_minute").and_then(Value::as_u64) {
            add("rate", format!("{rate} a minute, {} in the last one", text(outlook, "begun_last_minute")));
        }
        for (place, wave) in outlook.get("waves").and_then(Value::as_array).into_iter().flatten().enumerate() {
            add(&format!("wave {}", place + 1), wave_line(wave));
        }
        for (key, name) in [("first_offered_at", "first offer"), ("estimated_end", "estimated end")] {
            if let Some(time) = outlook.get(key).and_then(Value::as_str) {
                add(name, time.to_owned());
            }
        }
    }
    if let Some(time) = task.get("finished_at").and_then(Value::as_str) {
        add("finished", time.to_owned());
    }
    table::table(&["FIELD", "VALUE"], &rows)
}

/// The status, with what a person has to know beside it.
fn status(task: &Value) -> String {
    let is = |key: &str| task.get(key).and_then(Value::as_bool).unwrap_or_default();
    let mut status = text(task, "status");
    if is("canceled") {
        status.push_str(", canceled");
    }
    if is("approval") {
        status.push_str(if is("approved") { ", approved" } else { ", waits for an approval" });
    }
    status
}

fn wave_line(wave: &Value) -> String {
    let is_open = wave.get("open").and_then(Value::as_bool).unwrap_or_default();
    let (devices, succeeded, needed) = (text(wave, "devices"), text(wave, "succeeded"), text(wave, "successes_needed"));
    let state = if is_open { "open" } else { "closed" };
    format!("{state}, {succeeded} of {devices} succeeded, {needed} needed")
}

fn bound(task: &Value) -> String {
    task.get("maximum_concurrency").and_then(Value::as_u64).map_or_else(|| "any".to_owned(), |maximum| maximum.to_string())
}

fn count(task: &Value, state: &str) -> String {
    task.get("counts").map(|counts| text(counts, state)).unwrap_or_default()
}

fn text(value: &Value, key: &str) -> String {
    match value.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_reads_as_one_line_of_a_table() {
        let task = json!({
            "id": "t1", "name": null, "product_id": "p", "type": 1, "identify": 0, "from_versions": ["1.0", "1.1"],
            "target_version": "2.0", "status": "started", "permits_held": 3, "maximum_concurrency": 5,
            "counts": { "succeeded": 7, "failed": 0 },
        });
        expect_test::expect![[r"
            TASK  NAME  PRODUCT  TYPE  VERSIONS       STATUS   PERMITS  DONE  FAILED
            t1    -     p        1/0   1.0,1.1 → 2.0  started  3 of 5   7     0"]]
        .assert_eq(&overview(std::slice::from_ref(&task)));
        assert!(details(&task).contains("succeeded       7") && !details(&task).contains("failed"));
    }

    #[test]
    fn a_task_shows_where_it_is_heading() {
        let task = json!({
            "id": "t1", "product_id": "p", "type": 1, "identify": 0, "kind": "upgrade", "from_versions": ["1.0"],
            "target_version": "2.0", "status": "paused", "approval": true, "approved": false, "canceled": false,
            "permits_held": 3, "maximum_concurrency": 5, "counts": { "succeeded": 7 }, "finished_at": null,
            "outlook": {
                "to_come": 90, "failures": { "failed": 1, "rejected": 0, "timed_out": 0 }, "rate_per_minute": 60,
                "begun_last_minute": 12, "first_offered_at": "2027-03-01T08:15:30.120Z", "estimated_end": null,
                "waves": [
                    { "devices": 10, "succeeded": 7, "successes_needed": 9, "open": true },
                    { "devices": 90, "succeeded": 0, "successes_needed": 81, "open": false },
                ],
            },
        });
        expect_test::expect![[r"
            FIELD           VALUE
            id              t1
            product_id      p
            type            1
            identify        0
            kind            upgrade
            from_versions   1.0
            target_version  2.0
            status          paused, waits for an approval
            permits         3 of 5
            succeeded       7
            to come         90
            rate            60 a minute, 12 in the last one
            wave 1          open, 7 of 10 succeeded, 9 needed
            wave 2          closed, 0 of 90 succeeded, 81 needed
            first offer     2027-03-01T08:15:30.120Z"]]
        .assert_eq(&details(&task));
    }
}
