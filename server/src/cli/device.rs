//! `device import|explain`: many devices brought to a server, and one looked at.

use super::client::{CallError, Client, ServerArguments, block_on, encode};
use super::import::{self, Import};
use super::{Failure, print, print_json, table};
use clap::{Args, Subcommand};
use serde_json::Value;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create or replace devices: one JSON object a line, as in PUT of a device, with product_id and device_id
    Import(Import),
    /// Tell where a device stands with each task for it, and why; also before a task starts
    Explain(Explain),
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The device's id
    device: String,
    /// Its product
    #[arg(long, value_name = "P")]
    product: String,
    /// Which kind of processor; 1 is the main one
    #[arg(long = "type", value_name = "N", default_value_t = 1)]
    component_type: u16,
    /// Which of several of that kind
    #[arg(long, value_name = "N", default_value_t = 0)]
    identify: u32,
    /// Print the server's answer
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Import(import) => import::run(import),
        Command::Explain(explain) => block_on(explain.run()),
    }
}

impl Explain {
    async fn run(&self) -> Result<(), Failure> {
        let mut client = Client::new(&self.server)?;
        client.require_token()?;
        let (product, device) = (encode(&self.product), encode(&self.device));
        let Self { component_type, identify, .. } = self;
        let path = format!("/api/v1/products/{product}/devices/{device}/explanation?type={component_type}&identify={identify}");
        let answer = client.get(&path).await?.accepted()?.json()?;
        match self.json {
            true => print_json(&answer),
            false => print(&explanations(&answer)?),
        }
        Ok(())
    }
}

fn explanations(answer: &Value) -> Result<String, CallError> {
    let items = answer.get("items").and_then(Value::as_array).ok_or_else(|| CallError::Answer("it has no items".to_owned()))?;
    let Some(version) = answer.get("version").and_then(Value::as_str) else {
        return Ok("the version of this component isn't known yet; the device tells it with its first check".to_owned());
    };
    if items.is_empty() {
        return Ok(format!("no task leads on from version {version}"));
    }
    let text = |item: &Value, key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let row = |item: &Value| {
        let wave = item.get("wave").filter(|wave| !wave.is_null());
        let wave = wave.map(|wave| format!("{} of {}", wave["number"], wave["of"])).unwrap_or_default();
        let versions = format!("{version} → {}", text(item, "target_version"));
        vec![text(item, "task_id"), text(item, "name"), versions, text(item, "status"), wave, text(item, "text")]
    };
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    Ok(table::table(&["TASK", "NAME", "VERSIONS", "STATUS", "WAVE", "WHERE IT STANDS"], &rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_device_reads_as_a_line_for_each_task() {
        let answer = json!({ "version": "1.0", "cursor": null, "items": [
            { "task_id": "t2", "name": null, "status": "started", "target_version": "2.0",
              "wave": { "number": 2, "open": 1, "of": 3 }, "text": "held by wave: in wave 2, wave 1 is open" },
            { "task_id": "t1", "name": "spring", "status": "stopped", "target_version": "1.5", "wave": null,
              "text": "the task is stopped" },
        ] });
        expect_test::expect![[r"
            TASK  NAME    VERSIONS   STATUS   WAVE    WHERE IT STANDS
            t2    -       1.0 → 2.0  started  2 of 3  held by wave: in wave 2, wave 1 is open
            t1    spring  1.0 → 1.5  stopped  -       the task is stopped"]]
        .assert_eq(&explanations(&answer).unwrap());
        assert!(explanations(&json!({ "version": "9", "items": [] })).unwrap().contains("no task leads on from version 9"));
        assert!(explanations(&json!({ "version": null, "items": [] })).unwrap().contains("isn't known yet"));
        assert!(explanations(&json!({})).is_err());
    }
}
