//! What an operator does before a rollout: image, firmware, task, devices, tokens.

use crate::client::{Answer, Call, ClientError, Connection, Endpoint};
use crate::options::Options;
use crate::progress::Progress;
use crate::random::Random;
use bytes::Bytes;
use hyper::header::HeaderValue;
use md5::{Digest, Md5};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What every device of the fleet expects of its upgrade.
#[derive(Debug)]
pub(crate) struct Rollout {
    pub(crate) product_id: String,
    pub(crate) task_id: String,
    pub(crate) image_size: usize,
    pub(crate) image_md5: [u8; 16],
    pub(crate) from_version: &'static str,
    pub(crate) target_version: &'static str,
}

impl Rollout {
    /// A product to which nothing leads.
    pub(crate) fn without_task(product_id: String) -> Self {
        let (from_version, target_version) = ("1.0", "2.0");
        Self { product_id, task_id: String::new(), image_size: 0, image_md5: [0; 16], from_version, target_version }
    }

    pub(crate) fn task_path(&self) -> String {
        format!("/api/v1/tasks/{}", self.task_id)
    }
}

pub(crate) fn device_id(index: usize) -> String {
    format!("device-{index:07}")
}

/// Uploads the image, and creates and starts the task.
pub(crate) async fn prepare_rollout(
    options: &Options,
    product_id: String,
    operator: &mut Operator,
) -> Result<Rollout, ClientError> {
    let image = Bytes::from(Random::new(options.seed).bytes(options.image_size));
    let image_md5: [u8; 16] = Md5::digest(&image).into();
    let answer = operator.send(Call::post("/api/v1/images", image, "application/octet-stream")).await?;
    let uploaded = answer.json("POST /images", &[200, 201])?;
    if uploaded["md5"] != hex(&image_md5) || uploaded["size"] != options.image_size {
        return Err(ClientError::Unexpected(format!(
            "POST /images: expected md5 {} and size {}, got {uploaded}",
            hex(&image_md5),
            options.image_size
        )));
    }
    let (from_version, target_version) = ("1.0", "2.0");
    let firmware = json!({
        "product_id": product_id, "type": 1, "identify": 0, "version": target_version, "image": uploaded["image"],
    });
    let firmware = operator.post("/api/v1/firmware", &firmware, 201).await?;
    let task = json!({
        "product_id": product_id, "name": "load test", "type": 1, "identify": 0, "firmware_id": firmware["id"],
        "from_versions": [from_version], "timeout_s": options.timeout_s(), "maximum_concurrency": options.cap(),
    });
    let task = operator.post("/api/v1/tasks", &task, 201).await?;
    let task_id = text_of(&task["id"]).ok_or_else(|| ClientError::Unexpected(format!("POST /tasks: no id in {task}")))?;
    let rollout = Rollout { product_id, task_id, image_size: options.image_size, image_md5, from_version, target_version };
    let answer = operator.send(Call::post_json(format!("{}/start", rollout.task_path()), &json!({}))).await?;
    answer.json("POST /tasks/{id}/start", &[200])?;
    Ok(rollout)
}

/// Registers the fleet, a few thousand devices a request.
pub(crate) async fn register_devices(
    options: &Options,
    rollout: &Rollout,
    operator: &mut Operator,
    progress: &Progress,
) -> Result<(), ClientError> {
    let devices: Vec<usize> = (0..options.members() as usize).collect();
    for batch in devices.chunks(DEVICES_PER_BATCH) {
        let mut lines = String::new();
        for index in batch {
            let device = json!({
                "product_id": rollout.product_id, "device_id": device_id(*index),
                "components": [{ "type": 1, "identify": 0, "version": rollout.from_version }],
            });
            // Writing to a string can't fail.
            let _ = writeln!(lines, "{device}");
        }
        let answer = operator.send(Call::post("/api/v1/devices", lines, "application/x-ndjson")).await?;
        let text = answer.text();
        let last: Value = text.trim_end().lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        if answer.status != 200 || last["accepted"] != batch.len() {
            let start: String = text.chars().take(300).collect();
            return Err(ClientError::Unexpected(format!(
                "POST /devices: expected {} accepted, got {} {start}",
                batch.len(),
                answer.status
            )));
        }
        progress.advance(batch.len() as u64);
    }
    Ok(())
}

/// Issues every device its own token, over as many connections as the fleet will use.
pub(crate) async fn issue_tokens(
    options: &Options,
    endpoint: &Endpoint,
    rollout: &Arc<Rollout>,
    operator: &Operator,
    progress: &Arc<Progress>,
) -> Result<Vec<String>, ClientError> {
    let count = options.members() as usize;
    let next = Arc::new(AtomicUsize::new(0));
    let mut issuers = Vec::new();
    for _ in 0..options.connections.min(options.members()) {
        let (next, rollout, progress) = (next.clone(), rollout.clone(), progress.clone());
        let mut operator = Operator::new(endpoint.clone(), operator.token.clone());
        issuers.push(tokio::spawn(async move {
            let mut issued = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok(issued);
                }
                let wanted = json!({
                    "role": "device", "product_id": rollout.product_id, "device_id": device_id(index), "ttl_s": TOKEN_TTL_S,
                });
                let token = operator.post("/api/v1/tokens", &wanted, 201).await?;
                issued.push((index, token["token"].as_str().unwrap_or_default().to_owned()));
                progress.advance(1);
            }
        }));
    }
    let mut tokens = Vec::with_capacity(count);
    for issuer in issuers {
        let issued: Result<Vec<(usize, String)>, ClientError> =
            issuer.await.map_err(|error| ClientError::Unexpected(format!("a token issuer ended early: {error}")))?;
        tokens.extend(issued?);
    }
    tokens.sort_by_key(|(index, _)| *index);
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// An administrator's or operator's connection.
#[derive(Debug)]
pub(crate) struct Operator {
    connection: Connection,
    token: HeaderValue,
}

impl Operator {
    pub(crate) fn new(endpoint: Endpoint, token: HeaderValue) -> Self {
        Self { connection: Connection::new(endpoint), token }
    }

    pub(crate) async fn send(&mut self, call: Call) -> Result<Answer, ClientError> {
        self.connection.send(&call.bearer(&self.token)).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value, expected: u16) -> Result<Value, ClientError> {
        self.send(Call::post_json(path, body)).await?.json(&format!("POST {path}"), &[expected])
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Value, ClientError> {
        self.send(Call::get(path)).await?.json(&format!("GET {path}"), &[200])
    }
}

/// An id may be written as a string or as a number.
pub(crate) fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|number| number.to_string()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Some 200 KB a request: large enough to share a commit, small enough for any bound on bodies.
const DEVICES_PER_BATCH: usize = 2_000;
/// Longer than any run.
const TOKEN_TTL_S: u32 = 86_400;
