//! `token issue`: prints a token, alone.

use super::client::{CallError, Client, ServerArguments, block_on};
use super::{Failure, duration, print, print_json};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token and print it; it is shown this once
    Issue(Issue),
}

#[derive(Debug, Args)]
pub(super) struct Issue {
    /// What it may do
    #[arg(long, value_enum)]
    role: RoleName,
    /// The organization it opens [default: the caller's own, `default` for the administrator]
    #[arg(long, visible_alias = "organization", value_name = "O")]
    org: Option<String>,
    /// The product it opens; without one, all
    #[arg(long, value_name = "P")]
    product: Option<String>,
    /// The device it is for; without one, a device's token is an activation code of the product
    #[arg(long, value_name = "D", requires = "product")]
    device: Option<String>,
    /// How long it is good: 90m, 2h, 30d
    #[arg(long, value_name = "SPAN", value_parser = duration::parse_seconds)]
    ttl: Option<u64>,
    /// Print the whole answer
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RoleName {
    Admin,
    Operator,
    User,
    Device,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let Command::Issue(issue) = command;
    if issue.role == RoleName::Device && issue.product.is_none() {
        return Err(Failure::usage(
            "--role device needs --product; with --device it opens that device alone, without it is an activation code",
        ));
    }
    block_on(async {
        let mut client = Client::new(&issue.server)?;
        client.require_token()?;
        let answer = client.post_json("/api/v1/tokens", &issue.body()).await?.accepted()?.json()?;
        if issue.json {
            print_json(&answer);
            return Ok(());
        }
        let token = answer.get("token").and_then(Value::as_str).ok_or_else(|| CallError::Answer("it has no token".to_owned()))?;
        print(token);
        Ok(())
    })
}

impl Issue {
    fn body(&self) -> Value {
        let role = self.role.to_possible_value().map(|value| value.get_name().to_owned());
        let mut body = json!({ "role": role });
        for (key, value) in [("organization", &self.org), ("product_id", &self.product), ("device_id", &self.device)] {
            if let Some(value) = value {
                body[key] = json!(value);
            }
        }
        if let Some(ttl_s) = self.ttl {
            body["ttl_s"] = json!(ttl_s);
        }
        body
    }
}
