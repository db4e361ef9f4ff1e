//! The load generator for everything on kept connections: wrk, told what to ask for by a small script, and telling by it what came.

use crate::failure::{Context, Failure, Outcome};
use crate::options::Options;
use crate::process::{Running, tail, wait_until};
use crate::sluicegate::Request;
use std::collections::HashMap;
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What wrk asks for, again and again, on each of its connections.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    script: PathBuf,
    /// Path and query of the URL; a script with requests of its own has theirs.
    target: String,
    /// Every reply has to have it.
    pub(crate) status: u16,
    /// What every reply's body has at least.
    pub(crate) body_bytes: u64,
}

/// What wrk saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    /// Read from the sockets, heads and unfinished replies included.
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
    /// p50, p90 and p99 in microseconds, if any request was finished.
    pub(crate) latency_us: Option<[f64; 3]>,
}

impl Load {
    /// The same GET each time.
    pub(crate) fn get(folder: &Path, target: &str, body_bytes: u64) -> Outcome<Self> {
        let script = write(folder, "get.lua", SCRIPT_END)?;
        Ok(Self { script, target: target.to_owned(), status: 200, body_bytes })
    }

    /// All of `requests` in turn.
    pub(crate) fn requests(folder: &Path, name: &str, requests: &[Request], status: u16, body_bytes: u64) -> Outcome<Self> {
        let mut lines = String::new();
        for Request { method, target, header, body } in requests {
            // Writing to a String can't fail.
            let _ = writeln!(lines, "{method}\t{target}\t{}\t{}\t{body}", header.0, header.1);
        }
        let lines = write(folder, &format!("{name}.txt"), &lines)?;
        // A path may hold what Lua takes for the end of a shorter bracket.
        let script = format!("local file = [====[{}]====]\n{SCRIPT_REQUESTS}{SCRIPT_END}", lines.display());
        Ok(Self { script: write(folder, &format!("{name}.lua"), &script)?, target: "/".to_owned(), status, body_bytes })
    }

    /// Makes the load on `connections` for `seconds`. Any error, and any reply that isn't as it should be, fails it.
    pub(crate) fn run(&self, options: &Options, folder: &Path, origin: &str, connections: u32, seconds: u32) -> Outcome<Seen> {
        let url = format!("{origin}{}", self.target);
        let log = folder.join("wrk.log");
        let mut command = Command::new("wrk");
        // A little longer than the run: a slow reply is seen in the latency, and what never comes is no error here but fewer replies.
        // Not much longer, since wrk keeps a counter for each microsecond of it.
        command.args(["--threads", "1", "--timeout", &format!("{}s", seconds + 10), "--connections", &connections.to_string()]);
        command.args(["--duration", &format!("{seconds}s"), "--script"]).arg(&self.script).arg(&url);
        let mut running = Running::start(options.load_processor, false, &mut command, &log)?;
        let patience = Duration::from_secs(u64::from(seconds) + 60);
        wait_until(patience, "the end of wrk", || {
            running.child.try_wait().map(|ended| ended.is_some()).context(|| "wrk can't be waited for".to_owned())
        })?;
        let mut said = String::new();
        let stdout = running.child.stdout.as_mut().context(|| "wrk has no output".to_owned())?;
        stdout.read_to_string(&mut said).context(|| "wrk's output can't be read".to_owned())?;
        let (seen, errors) = read_summary(&said).context(|| format!("wrk at {url} said {said}\n{}", tail(&log)))?;
        self.expect_good(seen, &errors).context(|| format!("{url} over {connections} connections"))?;
        Ok(seen)
    }

    fn expect_good(&self, seen: Seen, errors: &Errors) -> Outcome<()> {
        // wrk counts a status from 400 on as an error, wanted or not.
        let refused_expected = if self.status >= 400 { seen.requests } else { 0 };
        if errors.on_sockets > 0 || errors.status != refused_expected {
            return Err(Failure::new(format!(
                "expected {} replies with status {} and no error, got {} errors on sockets and {} of status",
                seen.requests, self.status, errors.on_sockets, errors.status
            )));
        }
        if seen.bytes < seen.requests * self.body_bytes {
            let (expected, got) = (self.body_bytes, seen.bytes / seen.requests.max(1));
            return Err(Failure::new(format!("expected {expected} bytes or more in a reply, got {got}")));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Errors {
    on_sockets: u64,
    status: u64,
}

/// Reads the line that the script prints at the end.
fn read_summary(said: &str) -> Outcome<(Seen, Errors)> {
    let line = said.lines().find_map(|line| line.strip_prefix("compare ")).context(|| "no summary".to_owned())?;
    let fields: HashMap<&str, u64> = line
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    let field = |name: &str| fields.get(name).copied().context(|| format!("no number {name} in {line}"));
    let requests = field("requests")?;
    let latency = [field("p50_us")? as f64, field("p90_us")? as f64, field("p99_us")? as f64];
    let seen = Seen {
        requests,
        bytes: field("bytes")?,
        elapsed: Duration::from_micros(field("duration_us")?),
        latency_us: (requests > 0).then_some(latency),
    };
    let on_sockets = field("connect")? + field("read")? + field("write")? + field("timeout")?;
    Ok((seen, Errors { on_sockets, status: field("status")? }))
}

fn write(folder: &Path, name: &str, text: &str) -> Outcome<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, text).context(|| format!("{} can't be written", path.display()))?;
    Ok(path)
}

/// All requests are made before the first is sent, so that the generator has little to do for each.
const SCRIPT_REQUESTS: &str = r#"
local requests, at = {}, 0
init = function()
    for line in io.lines(file) do
        local method, path, header, value, body = line:match("^(.-)\t(.-)\t(.-)\t(.-)\t(.*)$")
        local headers = {[header] = value}
        if body == "" then body = nil else headers["Content-Type"] = "application/json" end
        requests[#requests + 1] = wrk.format(method, path, headers, body)
    end
end
request = function()
    at = at % #requests + 1
    return requests[at]
end
"#;

/// wrk rounds what it prints for people; this is exact.
const SCRIPT_END: &str = r#"
done = function(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        "compare requests=%d bytes=%d duration_us=%d connect=%d read=%d write=%d status=%d timeout=%d p50_us=%d p90_us=%d p99_us=%d\n",
        summary.requests, summary.bytes, summary.duration,
        errors.connect, errors.read, errors.write, errors.status, errors.timeout,
        latency:percentile(50), latency:percentile(90), latency:percentile(99)))
end
"#;

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "Running 1s test\ncompare requests=766 bytes=459801 duration_us=1001859 connect=0 read=0 write=0 status=2 \
                        timeout=1 p50_us=1748 p90_us=7740 p99_us=31724\n";

    #[test]
    fn the_summary_is_read_and_errors_are_not_overlooked() {
        let (seen, errors) = read_summary(LINE).unwrap();
        assert_eq!((seen.requests, seen.bytes, seen.latency_us), (766, 459_801, Some([1748.0, 7740.0, 31724.0])));
        assert_eq!(errors, Errors { on_sockets: 1, status: 2 });
        let load = Load { script: PathBuf::new(), target: String::new(), status: 200, body_bytes: 100 };
        assert!(load.expect_good(seen, &errors).is_err());
        let none = Errors { on_sockets: 0, status: 0 };
        assert!(load.expect_good(seen, &none).is_ok());
        assert!(Load { body_bytes: 1000, ..load.clone() }.expect_good(seen, &none).is_err());
        assert!(Load { status: 404, ..load }.expect_good(seen, &none).is_err());
        assert!(read_summary("nothing").is_err());
    }
}
