//! `device import`: brings a file of devices, one JSON object a line, to the server in batches.
//!
//! The file is read as it is sent: a million lines need no more memory than one batch. A server that is busy is asked again, and so
//! is one whose connection broke: a line that was taken already changes nothing. Where that doesn't help, the command says from which
//! line to go on.
//!
//! Invariant: each line that isn't blank is counted once, as the server's last word on it was.

use super::client::{Answer, CallError, Client, ServerArguments, Upload, block_on, progress_bar};
use super::{Failure, print, print_json};
use ::http::{Method, StatusCode, header};
use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The devices, NDJSON
    file: PathBuf,
    /// Where to go on after an import that broke off
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    from_line: u64,
    /// Print the counts and the refused lines as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

/// Together below the server's bound for one body, and long enough that the round trip doesn't count.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_LINES: usize = 2_000;
/// In a row, for one batch; with the waits between them most of a minute of a server that restarts or has a full disk.
const ATTEMPTS_MAX: u32 = 8;
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Refusals of a line that say nothing of the line.
const PASSING_CODES: [&str; 4] = ["overloaded", "store_failed", "disk_full", "stopping"];

#[derive(Debug, Default)]
struct Counts {
    accepted: u64,
    refused: u64,
    refusals: Vec<Value>,
}

pub(super) fn run(import: &Import) -> Result<(), Failure> {
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
                // Under the bar lines would be torn apart.
                let sent = batch.send(&mut client, &mut counts).await;
                bar.suspend(|| self.tell(&mut counts));
                sent.map_err(|error| batch.broke_off(error, &counts))?;
            }
            if length == 0 {
                break;
            }
            line_number += 1;
            if line_number >= self.from_line {
                batch.add(line_number, &line);
            }
            bar.inc(length as u64);
        }
        bar.finish_and_clear();
        Ok(counts)
    }

    /// People see refusals as they come; a program gets them together.
    fn tell(&self, counts: &mut Counts) {
        if !self.json {
            counts.refusals.drain(..).for_each(|refusal| print(&refusal.to_string()));
        }
    }
}

/// Lines on their way.
#[derive(Debug, Default)]
struct Batch {
    /// With where in the file each stands.
    lines: Vec<(u64, Vec<u8>)>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self, next: usize) -> bool {
        !self.lines.is_empty() && (self.lines.len() >= BATCH_LINES || self.bytes + next > BATCH_BYTES)
    }

    fn add(&mut self, line_number: u64, line: &[u8]) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        self.bytes += line.len() + 1;
        self.lines.push((line_number, line.to_vec()));
    }

    fn body(&self) -> Bytes {
        let mut body = Vec::with_capacity(self.bytes);
        for (_, line) in &self.lines {
            body.extend_from_slice(line);
            body.push(b'\n');
        }
        Bytes::from(body)
    }

    /// Sends the lines until the server has decided about each. Those that it hasn't decided about stay in the batch.
    async fn send(&mut self, client: &mut Client, counts: &mut Counts) -> Result<(), CallError> {
        let mut attempt = 1;
        while !self.lines.is_empty() {
            let left = self.lines.len();
            let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
            let answer = client.call(Method::POST, "/api/v1/devices", Upload::from(self.body()), &headers).await;
            let wait = match answer {
                Ok(answer) if answer.is_passing() && attempt < ATTEMPTS_MAX => answer.retry_after,
                Ok(answer) => {
                    self.take(&answer.accepted()?, counts)?;
                    None
                }
                // Whether it was taken isn't known, and doesn't matter.
                Err(error) if error.is_silence() && attempt < ATTEMPTS_MAX => None,
                Err(error) => return Err(error),
            };
            if self.lines.is_empty() {
                break;
            }
            if self.lines.len() < left {
                attempt = 1;
            } else if attempt == ATTEMPTS_MAX {
                let message = format!("line {} was put off {attempt} times; see the server's logs", self.next_line());
                return Err(CallError::Refused { status: StatusCode::SERVICE_UNAVAILABLE, message });
            } else {
                attempt += 1;
            }
            let growing = Duration::from_millis(250) * 2_u32.saturating_pow(attempt);
            let wait = wait.unwrap_or(growing).min(WAIT_MAX);
            tokio::time::sleep(wait).await;
        }
        self.bytes = 0;
        Ok(())
    }

    /// Counts what the server said of each line: a line for each refused device, and at the end the counts. What it put off stays.
    fn take(&mut self, answer: &Answer, counts: &mut Counts) -> Result<(), CallError> {
        let told: Vec<Value> = answer
            .body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.trim_ascii().is_empty())
            .map(|line| serde_json::from_slice(line).map_err(|error| CallError::Answer(error.to_string())))
            .collect::<Result<_, _>>()?;
        let (last, refused) = told.split_last().ok_or_else(|| CallError::Answer("it has no counts".to_owned()))?;
        let count = |key: &str| last.get(key).and_then(Value::as_u64).ok_or_else(|| CallError::Answer(format!("it has no {key}")));
        let (accepted, refused_count) = (count("accepted")?, count("refused")?);
        let mut put_off = Vec::new();
        for refusal in refused {
            // The server counts within the batch, people within the file.
            let place = refusal.get("line").and_then(Value::as_u64).and_then(|line| usize::try_from(line).ok()?.checked_sub(1));
            let line = place.and_then(|place| self.lines.get(place));
            let code = refusal.pointer("/error/code").and_then(Value::as_str);
            match line {
                Some(line) if code.is_some_and(|code| PASSING_CODES.contains(&code)) => put_off.push(line.clone()),
                line => {
                    let mut refusal = refusal.clone();
                    if let Some((line_number, _)) = line {
                        refusal["line"] = json!(line_number);
                    }
                    counts.refusals.push(refusal);
                }
            }
        }
        counts.accepted += accepted;
        counts.refused += refused_count.saturating_sub(put_off.len() as u64);
        self.lines = put_off;
        Ok(())
    }

    fn next_line(&self) -> u64 {
        self.lines.first().map_or(0, |(line_number, _)| *line_number)
    }

    /// Everything before this batch is in.
    fn broke_off(&self, error: CallError, counts: &Counts) -> Failure {
        let failure = Failure::from(error);
        let Counts { accepted, refused, .. } = counts;
        let next_line = self.next_line();
        let message =
            format!("{}; {accepted} accepted and {refused} refused so far, go on with --from-line {next_line}", failure.message);
        Failure { message, ..failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lines: &[(u64, &str)]) -> Batch {
        let mut batch = Batch::default();
        lines.iter().for_each(|(number, line)| batch.add(*number, line.as_bytes()));
        batch
    }

    fn answer(body: &'static str) -> Answer {
        Answer { status: StatusCode::OK, retry_after: None, body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn a_refused_line_is_counted_by_its_place_in_the_file_and_one_put_off_stays() {
        let mut batch = batch(&[(7, "a"), (8, "  "), (9, "b"), (10, "c\r\n")]);
        assert_eq!(batch.body(), "a\nb\nc\n");
        let mut counts = Counts::default();
        let told = concat!(
            r#"{"line":2,"device_id":null,"error":{"code":"malformed_json","message":"m"}}"#,
            "\n",
            r#"{"line":3,"device_id":"c","error":{"code":"overloaded","message":"m"}}"#,
            "\n",
            r#"{"accepted":1,"refused":2}"#,
            "\n"
        );
        batch.take(&answer(told), &mut counts).unwrap();
        assert_eq!((counts.accepted, counts.refused), (1, 1));
        assert_eq!(counts.refusals.len(), 1);
        assert_eq!(counts.refusals[0]["line"], 9);
        assert_eq!((batch.lines.len(), batch.next_line()), (1, 10));
        batch.take(&answer("{\"accepted\":1,\"refused\":0}\n"), &mut counts).unwrap();
        assert_eq!((counts.accepted, counts.refused, batch.lines.len()), (2, 1, 0));
    }

    #[test]
    fn an_answer_without_counts_is_no_answer() {
        for body in ["", "{\"accepted\":1}", "{\"error\":{\"code\":\"body_incomplete\",\"message\":\"m\"}}\n", "no json"] {
            let mut counts = Counts::default();
            assert!(matches!(batch(&[(1, "a")]).take(&answer(body), &mut counts), Err(CallError::Answer(_))), "{body}");
            assert_eq!(counts.accepted, 0);
        }
    }

    /// Gives these answers one after another, and says which bodies came.
    fn server(answers: Vec<(&'static str, &'static str)>) -> (ServerArguments, std::thread::JoinHandle<Vec<String>>) {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let answer_all = move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let answer = |(head, body): (&str, &str)| {
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    match line.trim().to_ascii_lowercase().split_once(": ") {
                        Some(("content-length", digits)) => length = digits.parse().unwrap(),
                        None if line.trim().is_empty() => break,
                        _ => {}
                    }
                }
                let mut got = vec![0; length];
                reader.read_exact(&mut got).unwrap();
                write!(reader.get_mut(), "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
                String::from_utf8(got).unwrap()
            };
            answers.into_iter().map(answer).collect()
        };
        (ServerArguments { server, ca_cert: None }, std::thread::spawn(answer_all))
    }

    #[test]
    fn a_busy_server_is_asked_again_about_what_it_put_off_and_nothing_else() {
        let busy = r#"{"error":{"code":"overloaded","message":"m"}}"#;
        let half = concat!(
            r#"{"line":2,"device_id":"b","error":{"code":"stopping","message":"m"}}"#,
            "\n",
            r#"{"accepted":1,"refused":1}"#,
            "\n"
        );
        let (arguments, server) = server(vec![
            ("503 Service Unavailable\r\nRetry-After: 0", busy),
            ("200 OK\r\nRetry-After: 0", half),
            ("200 OK", "{\"accepted\":1,\"refused\":0}\n"),
        ]);
        let mut batch = batch(&[(1, "a"), (2, "b")]);
        let mut counts = Counts::default();
        block_on(async {
            let mut client = Client::new(&arguments)?;
            Ok(batch.send(&mut client, &mut counts).await?)
        })
        .unwrap();
        assert_eq!((counts.accepted, counts.refused, batch.lines.len(), batch.bytes), (2, 0, 0, 0));
        assert_eq!(server.join().unwrap(), ["a\nb\n", "a\nb\n", "b\n"]);
    }

    #[test]
    fn an_import_that_breaks_off_says_where_to_go_on() {
        let refused = r#"{"error":{"code":"forbidden","message":"not yours"}}"#;
        let (arguments, server) = server(vec![("403 Forbidden", refused)]);
        let mut batch = batch(&[(41, "a"), (42, "b")]);
        let mut counts = Counts { accepted: 40, ..Counts::default() };
        let sent = block_on(async {
            let mut client = Client::new(&arguments)?;
            batch.send(&mut client, &mut counts).await.map_err(|error| batch.broke_off(error, &counts))
        });
        let message = sent.unwrap_err().message;
        assert!(message.contains("not yours") && message.contains("40 accepted and 0 refused"), "{message}");
        assert!(message.ends_with("go on with --from-line 41"), "{message}");
        server.join().unwrap();
    }

    #[test]
    fn a_batch_is_bounded_by_lines_and_by_bytes_but_takes_any_one_line() {
        let mut batch = Batch::default();
        assert!(!batch.is_full(BATCH_BYTES * 2));
        batch.add(1, &vec![b'x'; BATCH_BYTES - 10]);
        assert!(!batch.is_full(9) && batch.is_full(10));
        let mut batch = Batch::default();
        (0..BATCH_LINES as u64).for_each(|number| batch.add(number, b"x"));
        assert!(batch.is_full(0));
    }
}
