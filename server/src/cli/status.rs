//! `status`: how a server is, in a few lines. Exit code 1 where it isn't ready.

use super::client::{Client, ServerArguments, block_on};
use super::{Failure, print, print_json, table, task};
use clap::Args;
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

/// Figures of the server's metrics that an operator asks for first, by the name without the prefix.
const FIGURES: [&str; 9] =
    ["uptime_seconds", "connections", "permits_held", "products", "devices", "firmware", "tasks", "tasks_started", "tokens"];

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    block_on(async {
        let mut client = Client::new(&arguments.server)?;
        let healthy = client.get("/healthz").await?.status.is_success();
        let ready = client.get("/readyz").await?.status.is_success();
        let metrics = client.get("/metrics").await?;
        let figures = if metrics.status.is_success() { figures(&String::from_utf8_lossy(&metrics.body)) } else { Map::new() };
        // Tasks need a token; the rest doesn't.
        let tasks = match client.require_token() {
            Ok(()) => Some(task::all_tasks(&mut client, None).await?),
            Err(_) => None,
        };
        if arguments.json {
            let server = client.server();
            print_json(&json!({ "server": server, "healthy": healthy, "ready": ready, "figures": figures, "tasks": tasks }));
        } else {
            let mut rows = vec![vec!["ready".to_owned(), ready.to_string()], vec!["healthy".to_owned(), healthy.to_string()]];
            rows.extend(figures.iter().map(|(name, value)| vec![name.clone(), value.to_string()]));
            print(&table::table(&["SERVER", client.server()], &rows));
            if let Some(tasks) = tasks {
                print("");
                print(&task::overview(&tasks));
            }
        }
        if ready { Ok(()) } else { Err(Failure::new("the server is not ready; look at its logs")) }
    })
}

/// The figures in a Prometheus text, those without labels.
fn figures(text: &str) -> Map<String, Value> {
    let value_of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("sluicegate_")?.strip_prefix(name)?.strip_prefix(' '))?;
        let value: f64 = line.trim().parse().ok()?;
        Some((name.to_owned(), json!(value.round() as i64)))
    };
    FIGURES.iter().filter_map(|name| value_of(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_metrics() {
        let text = "# TYPE sluicegate_tasks gauge\nsluicegate_tasks_started 2\nsluicegate_tasks 5\nsluicegate_devices 1000000\n";
        let figures = figures(text);
        assert_eq!(figures["tasks"], 5);
        assert_eq!(figures["tasks_started"], 2);
        assert_eq!(figures["devices"], 1_000_000);
        assert!(!figures.contains_key("tokens"));
    }
}
