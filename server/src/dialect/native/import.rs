//! `POST /devices`: a device a line, any number of lines.
//!
//! Lines are put into the engine in batches while further ones arrive, so memory does not grow with the body. The answer has a line
//! for each refused device and the counts at its end. It is kept until the body has ended, so that a failure can still be told by the
//! status; only an answer that grows beyond [`ANSWER_BYTES_HELD_MAX`] begins to flow while the rest of the body is still read.
//!
//! Invariants:
//!   - A line that is wrong stops no other line.
//!   - At most one line, one batch (of [`BATCH_BYTES_MAX`] and a line at most) and one answer's start are in memory.
//!   - Each line that isn't blank is counted once: accepted or refused.

use super::decode::{self, DeviceBody};
use super::failure::{ErrorShown, Failure, shortened};
use super::{Answer, access};
use crate::app::App;
use crate::auth::Caller;
use crate::http::body::next_data;
use crate::http::{Body, BodyError, Query, Request, RequestBody, text};
use ::http::header::CONTENT_TYPE;
use ::http::{HeaderValue, Response, StatusCode};
use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde_json::Value;
use sluicegate::NewDevice;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Devices of one command: enough to share a commit, few enough that other commands don't wait for long.
const BATCH_DEVICES_MAX: usize = 1_000;
/// Lines of one command, for devices that say much: so one import holds little, and one command is written quickly.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// A device with every bound of the engine's used to the full is longer than any that is registered in earnest.
const LINE_BYTES_MAX: usize = 256 << 10;
/// Some ten thousand refusals.
const ANSWER_BYTES_HELD_MAX: usize = 2 << 20;
/// Pieces of a flowing answer that wait for the client; then the body waits too.
const PIECES_WAITING_MAX: usize = 4;

const NDJSON: &str = "application/x-ndjson";

pub(super) async fn import(app: &Arc<App>, request: Request) -> Answer {
    let caller = access::operator(app, request.headers(), app.now())?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let mut import = Import {
        app: Arc::clone(app),
        caller,
        organization,
        lines: Lines::default(),
        batch: Vec::new(),
        batch_bytes: 0,
        accepted: 0,
        refused: 0,
        answer: Vec::new(),
    };
    let mut body = request.into_body();
    if import.run(&mut body, ANSWER_BYTES_HELD_MAX).await? == Progress::Ended {
        import.add_counts();
        return Ok(text(StatusCode::OK, NDJSON, import.answer));
    }
    let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
    tokio::spawn(import.flow(body, sender));
    let mut reply = Response::new(Body::Stream(receiver));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(reply)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The body has ended and everything is in the engine.
    Ended,
    /// The answer has grown; the body goes on.
    AnswerFull,
}

struct Import {
    app: Arc<App>,
    caller: Caller,
    organization: Arc<str>,
    lines: Lines,
    /// With the number of each line.
    batch: Vec<(u64, NewDevice)>,
    /// Of the lines that the batch was read from.
    batch_bytes: usize,
    accepted: u64,
    refused: u64,
    answer: Vec<u8>,
}

#[derive(Serialize)]
struct RefusedShown<'a> {
    line: u64,
    device_id: Option<&'a str>,
    error: ErrorShown<'a>,
}

#[derive(Serialize)]
struct CountsShown {
    accepted: u64,
    refused: u64,
}

impl Import {
    /// Reads on until the body ends or the answer is longer than `answer_bytes_max`.
    async fn run(&mut self, body: &mut RequestBody, answer_bytes_max: usize) -> Result<Progress, Failure> {
        loop {
            while let Some(line) = self.lines.next() {
                self.take(line).await?;
                if self.answer.len() > answer_bytes_max {
                    return Ok(Progress::AnswerFull);
                }
            }
            match next_data(body).await {
                Ok(Some(data)) => self.lines.push(&data),
                Ok(None) => break,
                Err(error) => return Err(self.broke_off(error).await),
            }
        }
        if let Some(line) = self.lines.last() {
            self.take(line).await?;
        }
        self.commit().await?;
        Ok(Progress::Ended)
    }

    /// Goes on where the answer has begun to flow: nothing but the answer itself can tell of a failure now.
    async fn flow(mut self, mut body: RequestBody, sender: mpsc::Sender<Bytes>) {
        loop {
            let progress = self.run(&mut body, ANSWER_BYTES_HELD_MAX).await;
            match &progress {
                Ok(Progress::Ended) => self.add_counts(),
                Ok(Progress::AnswerFull) => {}
                // Without counts at its end the client knows that not everything was taken.
                Err(failure) => add_line(&mut self.answer, &FailureShown { error: failure.shown() }),
            }
            let sent = sender.send(Bytes::from(std::mem::take(&mut self.answer))).await;
            if sent.is_err() || progress != Ok(Progress::AnswerFull) {
                return;
            }
        }
    }

    /// What came whole is kept; what came is told.
    async fn broke_off(&mut self, error: BodyError) -> Failure {
        let failure = Failure::from(error);
        match self.commit().await {
            Ok(()) => Failure {
                message: format!(
                    "{}; {} devices were accepted and {} refused before",
                    failure.message, self.accepted, self.refused
                ),
                ..failure
            },
            Err(failure) => failure,
        }
    }

    async fn take(&mut self, line: Line) -> Result<(), Failure> {
        match line.text {
            Ok(text) if text.trim_ascii().is_empty() => return Ok(()),
            Ok(text) => match self.read(&text) {
                Ok(device) => {
                    self.batch.push((line.number, device));
                    self.batch_bytes += text.len();
                }
                Err(failure) => {
                    let device_id = named_device(&text);
                    self.refuse(line.number, device_id.as_deref(), &failure);
                }
            },
            Err(TooLong) => {
                let message =
                    format!("the line is longer than {LINE_BYTES_MAX} bytes; a device is a line, with a newline at its end");
                self.refuse(line.number, None, &Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "line_too_long", message));
            }
        }
        let is_full = self.batch.len() >= BATCH_DEVICES_MAX || self.batch_bytes >= BATCH_BYTES_MAX;
        if is_full { self.commit().await } else { Ok(()) }
    }

    fn read(&self, text: &[u8]) -> Result<NewDevice, Failure> {
        let device = decode::parse::<DeviceBody>(text)?.of_line()?;
        access::may_open_product(&self.caller, &device.product_id)?;
        Ok(device)
    }

    /// Puts the batch into the engine. Fails only while nothing was accepted yet; later the lines tell.
    async fn commit(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        let (numbers, devices): (Vec<u64>, Vec<NewDevice>) = std::mem::take(&mut self.batch).into_iter().unzip();
        let names: Vec<String> = devices.iter().map(|device| device.device_id.clone()).collect();
        let put = self.app.engine.put_devices(&self.organization, devices, self.app.registers(), self.app.now());
        match put.await {
            Ok(answered) => {
                for ((number, name), answer) in numbers.into_iter().zip(&names).zip(answered) {
                    match answer {
                        Ok(_) => self.accepted += 1,
                        Err(message) => self.refuse(number, Some(name), &Failure::invalid(message)),
                    }
                }
                Ok(())
            }
            Err(error) if self.accepted == 0 => Err(error.into()),
            Err(error) => {
                let failure = Failure::from(error);
                for (number, name) in numbers.into_iter().zip(&names) {
                    self.refuse(number, Some(name), &failure);
                }
                Ok(())
            }
        }
    }

    fn refuse(&mut self, line: u64, device_id: Option<&str>, failure: &Failure) {
        self.refused += 1;
        add_line(&mut self.answer, &RefusedShown { line, device_id, error: failure.shown() });
    }

    fn add_counts(&mut self) {
        add_line(&mut self.answer, &CountsShown { accepted: self.accepted, refused: self.refused });
    }
}

#[derive(Serialize)]
struct FailureShown<'a> {
    error: ErrorShown<'a>,
}

fn add_line(answer: &mut Vec<u8>, line: &impl Serialize) {
    if let Err(error) = serde_json::to_writer(&mut *answer, line) {
        tracing::error!(%error, "a line of an answer could not be written as JSON");
    }
    answer.push(b'\n');
}

/// The device that a refused line names, if it says so in a way that can be read.
fn named_device(text: &[u8]) -> Option<String> {
    let line: Value = serde_json::from_slice(text).ok()?;
    Some(shortened(line.get("device_id")?.as_str()?, 256))
}

/// A body cut into lines as it comes.
#[derive(Debug, Default)]
struct Lines {
    pending: BytesMut,
    /// How much of `pending` has no newline in it.
    searched: usize,
    /// The line that `pending` begins in is too long: what comes of it is thrown away.
    skipping: bool,
    number: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Line {
    number: u64,
    text: Result<Bytes, TooLong>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TooLong;

impl Lines {
    fn push(&mut self, data: &[u8]) {
        self.pending.extend_from_slice(data);
    }

    /// The next line that has come whole, without its newline.
    fn next(&mut self) -> Option<Line> {
        let newline = self.pending[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(newline) = newline.map(|place| self.searched + place) else {
            self.searched = self.pending.len();
            if self.searched > LINE_BYTES_MAX {
                self.skipping = true;
                self.pending.clear();
                self.searched = 0;
            }
            return None;
        };
        let line = self.pending.split_to(newline).freeze();
        self.pending.advance(1);
        self.searched = 0;
        Some(self.numbered(line))
    }

    /// What stands after the last newline.
    fn last(&mut self) -> Option<Line> {
        if self.pending.is_empty() && !self.skipping {
            return None;
        }
        let line = self.pending.split().freeze();
        Some(self.numbered(line))
    }

    fn numbered(&mut self, line: Bytes) -> Line {
        self.number += 1;
        let is_too_long = std::mem::take(&mut self.skipping) || line.len() > LINE_BYTES_MAX;
        Line { number: self.number, text: if is_too_long { Err(TooLong) } else { Ok(line) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of `text` when it comes in pieces of `piece` bytes.
    fn lines(text: &[u8], piece: usize) -> Vec<(u64, Result<String, TooLong>)> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for data in text.chunks(piece) {
            lines.push(data);
            while let Some(line) = lines.next() {
                found.push(line);
            }
            assert!(lines.pending.len() <= LINE_BYTES_MAX + piece, "a line without end is not kept");
        }
        found.extend(lines.last());
        found.into_iter().map(|line| (line.number, line.text.map(|text| String::from_utf8(text.to_vec()).unwrap()))).collect()
    }

    #[test]
    fn lines_are_the_same_however_the_body_is_cut() {
        let text = b"one\n\ntwo\r\nthree";
        let expected =
            [(1, Ok("one".to_owned())), (2, Ok(String::new())), (3, Ok("two\r".to_owned())), (4, Ok("three".to_owned()))];
        for piece in 1..=text.len() {
            assert_eq!(lines(text, piece), expected, "in pieces of {piece}");
        }
        assert_eq!(lines(b"one\n", 3), [(1, Ok("one".to_owned()))]);
        assert_eq!(lines(b"", 1), []);
    }

    #[test]
    fn a_line_without_end_is_refused_and_the_next_one_is_read() {
        let mut text = vec![b'x'; LINE_BYTES_MAX * 3];
        text.extend_from_slice(b"\nnext\n");
        for piece in [1_000, 70_001, text.len()] {
            assert_eq!(lines(&text, piece), [(1, Err(TooLong)), (2, Ok("next".to_owned()))], "in pieces of {piece}");
        }
        assert_eq!(lines(&vec![b'x'; LINE_BYTES_MAX + 1], 100_000), [(1, Err(TooLong))]);
        assert_eq!(lines(&vec![b'x'; LINE_BYTES_MAX], 100_000).len(), 1);
        assert!(lines(&vec![b'x'; LINE_BYTES_MAX], 100_000)[0].1.is_ok());
    }

    #[test]
    fn a_refused_line_names_its_device_where_it_can_be_read() {
        assert_eq!(named_device(br#"{"device_id":"d-1","components":7}"#).as_deref(), Some("d-1"));
        assert_eq!(named_device(b"no json"), None);
        assert_eq!(named_device(br#"{"device_id":1}"#), None);
        assert_eq!(named_device(b"[]"), None);
    }
}
