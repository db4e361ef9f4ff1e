//! `firmware push`: brings a file to the server, once, and names it.
//!
//! The file is hashed first. If the server has these bytes already, from an earlier push or one that broke after its last byte,
//! nothing is sent again; a connection that breaks is tried again, a few times.
//!
//! A large file goes in pieces. The server keeps what came of it under its hash, so the next attempt, be it this process's or another's,
//! goes on from there. A small one goes whole.

use super::client::{CallError, Client, ServerArguments, Upload, block_on, encode, progress_bar};
use super::{Failure, print, print_json, table};
use crate::dialect::common::hexadecimal::to_hexadecimal;
use ::http::{Method, StatusCode, header};
use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Upload a file and make firmware of it
    Push(Push),
}

#[derive(Debug, Args)]
pub(super) struct Push {
    /// The image
    file: PathBuf,
    /// The product it is for
    #[arg(long, value_name = "P")]
    product: String,
    /// Its version
    #[arg(long, value_name = "V")]
    version: String,
    /// Which kind of processor it is for; 1 is the main one
    #[arg(long = "type", value_name = "N", default_value_t = 1)]
    component_type: u16,
    /// Which of several of that kind
    #[arg(long, value_name = "N", default_value_t = 0)]
    identify: u32,
    /// A name for people
    #[arg(long)]
    name: Option<String>,
    /// Print the whole answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

/// In a row; whatever came through in between starts the count anew.
const ATTEMPTS_MAX: u32 = 6;
/// Up to this size a file goes whole: sending it again is cheaper than having the server keep a part.
const WHOLE_BYTES_MAX: u64 = 8 << 20;
/// What one call carries of a larger file.
const PIECE_BYTES: u64 = 8 << 20;

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let Command::Push(push) = command;
    block_on(async {
        let mut client = Client::new(&push.server)?;
        client.require_token()?;
        let (digest, length) = sha256(&push.file)?;
        let image = upload(&mut client, push, &digest, length).await?;
        let firmware = client.post_json("/api/v1/firmware", &push.body(&image.id)).await?.accepted()?.json()?;
        push.show(&client, &image, &firmware, length);
        Ok(())
    })
}

/// An image that the server has.
struct PushedImage {
    /// Its SHA-256 in hexadecimal.
    id: String,
    /// What the server said of it; absent where it had the bytes already.
    answer: Option<Value>,
}

async fn upload(client: &mut Client, push: &Push, digest: &[u8], length: u64) -> Result<PushedImage, Failure> {
    let id = to_hexadecimal(digest);
    let (mut attempt, mut reached) = (1, 0);
    loop {
        let reached_before = reached;
        let tried = try_upload(client, push, digest, &id, length, &mut reached).await;
        if reached > reached_before {
            attempt = 1;
        }
        match tried {
            Ok(answer) => return Ok(PushedImage { id, answer }),
            Err(Attempt::Call(error)) if (error.is_broken_connection() || is_out_of_step(&error)) && attempt < ATTEMPTS_MAX => {
                let pause_s = 1 << (attempt - 1).min(4);
                eprintln!("{}; trying again in {pause_s} s ({attempt} of {ATTEMPTS_MAX})", Failure::caused(&error).message);
                tokio::time::sleep(Duration::from_secs(pause_s)).await;
                attempt += 1;
            }
            Err(Attempt::Call(error)) => return Err(error.into()),
            Err(Attempt::File(failure)) => return Err(failure),
        }
    }
}

enum Attempt {
    Call(CallError),
    File(Failure),
}

impl From<CallError> for Attempt {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// The server is elsewhere in the upload than we are: it still reads from a connection that broke, or has started anew.
fn is_out_of_step(error: &CallError) -> bool {
    matches!(error, CallError::Refused { status: StatusCode::CONFLICT | StatusCode::NOT_FOUND, .. })
}

/// Brings the file over, from where the server has it on. `reached` tells how far anything ever came.
async fn try_upload(
    client: &mut Client,
    push: &Push,
    digest: &[u8],
    id: &str,
    length: u64,
    reached: &mut u64,
) -> Result<Option<Value>, Attempt> {
    let present = client.call(Method::HEAD, &format!("/api/v1/images/{id}"), Upload::empty(), &[]).await?;
    match present.status {
        status if status.is_success() => return Ok(None),
        // A server that doesn't tell gets the bytes; one that doesn't let us in will say why.
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {}
        _ => drop(present.accepted()?),
    }
    if length > WHOLE_BYTES_MAX
        && let Some(begun) = begin(client, id, length).await?
    {
        let bar = progress_bar(length, "uploading", true).with_position(begun.offset);
        // The speed shown is that of what is sent now.
        bar.reset_eta();
        let sent = send_pieces(client, &push.file, &begun, &bar, reached).await;
        bar.finish_and_clear();
        return sent.map(Some);
    }
    let file = File::open(&push.file).map_err(|error| Attempt::File(unreadable(&push.file, &error)))?;
    let bar = progress_bar(length, "uploading", true);
    let body = Upload::file(file, length, bar.clone());
    let digest = format!("sha-256=:{}:", STANDARD.encode(digest));
    let name = header::HeaderName::from_static("repr-digest");
    let answer = client.call(Method::POST, "/api/v1/images", body, &[(name, &digest)]).await;
    bar.finish_and_clear();
    Ok(Some(answer?.accepted()?.json()?))
}

/// An upload in pieces, and how far it is.
struct Begun {
    path: String,
    offset: u64,
    /// Of the whole file.
    length: u64,
}

/// Begins an upload or finds the unfinished one. `None` from a server that takes images whole only.
async fn begin(client: &mut Client, id: &str, length: u64) -> Result<Option<Begun>, Attempt> {
    let answer = client.post_json("/api/v1/uploads", &json!({ "size": length, "sha256": id })).await?;
    if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
        return Ok(None);
    }
    let begun = answer.accepted()?.json()?;
    let upload = begun.get("upload").and_then(Value::as_str);
    let upload = upload.ok_or_else(|| CallError::Answer("an upload without its id".to_owned()))?;
    Ok(Some(Begun { path: format!("/api/v1/uploads/{}", encode(upload)), offset: offset(&begun, length)?, length }))
}

/// How far an upload is, by the server's answer.
fn offset(answer: &Value, length: u64) -> Result<u64, CallError> {
    let offset = answer.get("offset").and_then(Value::as_u64).filter(|offset| *offset < length);
    offset.ok_or_else(|| CallError::Answer("an unfinished upload without an offset in its file".to_owned()))
}

/// The answer of the last piece is the image.
async fn send_pieces(
    client: &mut Client,
    path: &Path,
    begun: &Begun,
    bar: &ProgressBar,
    reached: &mut u64,
) -> Result<Value, Attempt> {
    let (mut at, length) = (begun.offset, begun.length);
    loop {
        *reached = at.max(*reached);
        let mut file = File::open(path).map_err(|error| Attempt::File(unreadable(path, &error)))?;
        file.seek(SeekFrom::Start(at)).map_err(|error| Attempt::File(unreadable(path, &error)))?;
        let body = Upload::file(file, PIECE_BYTES.min(length - at), bar.clone());
        let name = header::HeaderName::from_static("upload-offset");
        let answer = client.call(Method::PATCH, &begun.path, body, &[(name, &at.to_string())]).await?.accepted()?;
        let told = answer.json()?;
        if answer.status != StatusCode::ACCEPTED {
            return Ok(told);
        }
        let next = offset(&told, length)?;
        if next <= at {
            return Err(CallError::Answer(format!("an upload that stays at {at}")).into());
        }
        at = next;
        bar.set_position(at);
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{} can't be read: {error}; check the path and its mode", path.display()))
}

fn sha256(path: &Path) -> Result<(Vec<u8>, u64), Failure> {
    let failed = |error: std::io::Error| unreadable(path, &error);
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Failure::new(format!("{} is no file; give the image itself", path.display())));
    }
    let bar = progress_bar(metadata.len(), "reading", true);
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        let piece = file.read(&mut buffer).map_err(failed)?;
        if piece == 0 {
            break;
        }
        context.update(&buffer[..piece]);
        length += piece as u64;
        bar.inc(piece as u64);
    }
    bar.finish_and_clear();
    if length == 0 {
        return Err(Failure::new(format!("{} is empty; give the image itself", path.display())));
    }
    Ok((context.finish().as_ref().to_vec(), length))
}

impl Push {
    fn body(&self, image: &str) -> Value {
        let mut body = json!({
            "product_id": self.product,
            "type": self.component_type,
            "identify": self.identify,
            "version": self.version,
            "image": image,
        });
        if let Some(name) = &self.name {
            body["name"] = json!(name);
        }
        body
    }

    fn show(&self, client: &Client, image: &PushedImage, firmware: &Value, length: u64) {
        if self.json {
            return print_json(&json!({ "firmware": firmware, "image": image.answer, "uploaded": image.answer.is_some() }));
        }
        // The firmware tells of its image too; the image's own answer knows more.
        let told = |key: &str| {
            let of_image = image.answer.as_ref().and_then(|answer| answer.get(key));
            of_image.or_else(|| firmware.get(key)).and_then(Value::as_str).map(str::to_owned)
        };
        let link = told("url").unwrap_or_else(|| format!("{}/api/v1/images/{}", client.server(), encode(&image.id)));
        let rows: Vec<Vec<String>> = [
            ("firmware", firmware.get("id").and_then(Value::as_str).map(str::to_owned)),
            ("product", Some(self.product.clone())),
            ("version", Some(self.version.clone())),
            ("size", Some(format!("{length} bytes"))),
            ("sha256", Some(image.id.clone())),
            ("sha1", told("sha1")),
            ("md5", told("md5")),
            ("upload", Some(if image.answer.is_some() { "done" } else { "not needed, the server has these bytes" }.to_owned())),
            ("link", Some(link)),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some(vec![key.to_owned(), value?]))
        .collect();
        print(&table::table(&["FIELD", "VALUE"], &rows));
    }
}
