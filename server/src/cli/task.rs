//! `task list|show|start|stop`: the operator's everyday work.

use super::client::{CallError, Client, ServerArguments, Upload, block_on, encode};
use super::{Failure, print, print_json, table};
use ::http::Method;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Every task, newest first
    List(List),
    /// One task with its counts
    Show(One),
    /// Let a task offer
    Start(One),
    /// Let a task offer no more; upgrades that run go on
    Stop(One),
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
    let (common, work) = match command {
        Command::List(list) => return block_on(list.run()),
        Command::Show(one) => (&one.common, (Method::GET, format!("/api/v1/tasks/{}", encode(&one.id)))),
        Command::Start(one) => (&one.common, (Method::POST, format!("/api/v1/tasks/{}/start", encode(&one.id)))),
        Command::Stop(one) => (&one.common, (Method::POST, format!("/api/v1/tasks/{}/stop", encode(&one.id)))),
    };
    block_on(async {
        let mut client = Client::new(&common.server)?;
        client.require_token()?;
        let (method, path) = work;
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
    let mut rows: Vec<Vec<String>> = ["id", "name", "product_id", "type", "identify", "from_versions", "target_version", "status"]
        .iter()
        .filter(|key| task.get(**key).is_some_and(|value| !value.is_null()))
        .map(|key| vec![(*key).to_owned(), text(task, key)])
        .collect();
    rows.push(vec!["permits".to_owned(), format!("{} of {}", text(task, "permits_held"), bound(task))]);
    if let Some(counts) = task.get("counts").and_then(Value::as_object) {
        let some = counts.iter().filter(|(_, count)| count.as_u64() != Some(0));
        rows.extend(some.map(|(state, count)| vec![state.clone(), count.to_string()]));
    }
    table::table(&["FIELD", "VALUE"], &rows)
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
}
