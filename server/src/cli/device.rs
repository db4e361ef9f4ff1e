//! `device import`: brings a file of devices, one JSON object a line, to the server in batches.

use super::client::{CallError, Client, ServerArguments, Upload, block_on, progress_bar};
use super::{Failure, print, print_json};
use ::http::{Method, header};
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create or replace devices: one JSON object a line, as in PUT of a device, with product_id and device_id
    Import(Import),
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The devices, NDJSON
    file: PathBuf,
    /// Print the counts and the refused lines as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

/// Together below the server's bound for one body, and long enough that the round trip doesn't count.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_LINES: usize = 2_000;

#[derive(Debug, Default)]
struct Counts {
    accepted: u64,
    refused: u64,
    refusals: Vec<Value>,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let Command::Import(import) = command;
    let counts = block_on(import.send_all())?;
    if import.json {
        print_json(&json!({ "accepted": counts.accepted, "refused": counts.refused, "refusals": counts.refusals }));
    } else {
        print(&format!("{} accepted, {} refused", counts.accepted, counts.refused));
    }
    if counts.refused > 0 {
        return Err(Failure::new(
            "some devices were refused; mend those lines and import the file again, the others stay as they are",
        ));
    }
    Ok(())
}

impl Import {
    async fn send_all(&self) -> Result<Counts, Failure> {
        let mut client = Client::new(&self.server)?;
        client.require_token()?;
        let failed = |error: std::io::Error| {
            Failure::new(format!("{} can't be read: {error}; check the path and its mode", self.file.display()))
        };
        let file = File::open(&self.file).map_err(failed)?;
        let bar = progress_bar(file.metadata().map_err(failed)?.len(), "importing", true);
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut counts = Counts::default();
        let mut batch = Batch::default();
        let mut line_number = 0;
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).map_err(failed)?;
            if length == 0 || batch.is_full(line.len()) {
                batch.send(&mut client, self, &mut counts).await?;
            }
            if length == 0 {
                break;
            }
            line_number += 1;
            batch.add(line_number, &line);
            bar.inc(length as u64);
        }
        bar.finish_and_clear();
        Ok(counts)
    }
}

#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where in the file each line of the batch stands.
    line_numbers: Vec<u64>,
}

impl Batch {
    fn is_full(&self, next: usize) -> bool {
        !self.line_numbers.is_empty() && (self.line_numbers.len() >= BATCH_LINES || self.bytes.len() + next > BATCH_BYTES)
    }

    fn add(&mut self, line_number: u64, line: &[u8]) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        self.line_numbers.push(line_number);
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
    }

    async fn send(&mut self, client: &mut Client, import: &Import, counts: &mut Counts) -> Result<(), Failure> {
        if self.line_numbers.is_empty() {
            return Ok(());
        }
        let body = Upload::from(Bytes::from(std::mem::take(&mut self.bytes)));
        let line_numbers = std::mem::take(&mut self.line_numbers);
        let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
        let answer = client.call(Method::POST, "/api/v1/devices", body, &headers).await?.accepted()?;
        // A line for each refused device, and at the end the counts.
        let lines: Vec<Value> = answer
            .body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.trim_ascii().is_empty())
            .map(|line| serde_json::from_slice(line).map_err(|error| CallError::Answer(error.to_string())))
            .collect::<Result<_, _>>()?;
        let (last, refused) = lines.split_last().ok_or_else(|| CallError::Answer("it has no counts".to_owned()))?;
        let count = |key: &str| last.get(key).and_then(Value::as_u64).ok_or_else(|| CallError::Answer(format!("it has no {key}")));
        counts.accepted += count("accepted")?;
        counts.refused += count("refused")?;
        for refusal in refused {
            let mut refusal = refusal.clone();
            // The server counts within the batch, people within the file.
            let line = refusal.get("line").and_then(Value::as_u64).and_then(|line| usize::try_from(line).ok()?.checked_sub(1));
            if let Some(line_number) = line.and_then(|line| line_numbers.get(line)) {
                refusal["line"] = json!(line_number);
            }
            if import.json {
                counts.refusals.push(refusal);
            } else {
                print(&refusal.to_string());
            }
        }
        Ok(())
    }
}
