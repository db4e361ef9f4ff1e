//! nginx, set up as its users would for files and short replies, with one worker.
//!
//! Each constant reply has ports of its own, so that both servers are sent the very same requests, path and query included.

use crate::failure::{Context, Failure, Outcome};
use crate::http::Reply;
use crate::options::Options;
use crate::process::{Running, children, tail, wait_until};
use crate::tls::Certificate;
use std::fmt::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// nginx while it runs.
#[derive(Debug)]
pub(crate) struct Nginx {
    pub(crate) running: Running,
    /// The process that does the work.
    pub(crate) worker: u32,
    pub(crate) files: Endpoint,
    /// In the order of the replies given at the start.
    pub(crate) constants: Vec<Endpoint>,
    pub(crate) log: PathBuf,
}

/// Where something is served, plain and over TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
}

impl Nginx {
    /// Starts nginx on `root` and on constant replies.
    pub(crate) fn start(
        options: &Options,
        folder: &Path,
        root: &Path,
        certificate: &Certificate,
        replies: &[Reply],
    ) -> Outcome<Self> {
        let endpoints = free_endpoints(replies.len() + 1)?;
        let [files, constants @ ..] = &endpoints[..] else { return Err(Failure::new("no free ports for nginx")) };
        let (settings, log) = (folder.join("nginx.conf"), folder.join("nginx.log"));
        let text = settings_text(folder, root, certificate, *files, constants.iter().zip(replies))?;
        std::fs::write(&settings, text).context(|| format!("{} can't be written", settings.display()))?;
        let mut command = Command::new("nginx");
        command.arg("-e").arg(&log).arg("-p").arg(folder).arg("-c").arg(&settings).args(["-g", "daemon off;"]);
        let mut running = Running::start(options.server_processor, true, &mut command, &folder.join("nginx.out"))?;
        let mut worker = None;
        wait_until(START_MAX, "nginx's worker", || {
            running.expect_alive("nginx", &log)?;
            worker = children(running.id()).first().copied();
            Ok(worker.is_some() && TcpStream::connect(files.http).is_ok())
        })
        .context(|| tail(&log))?;
        let worker = worker.context(|| "nginx has no worker".to_owned())?;
        Ok(Self { running, worker, files: *files, constants: constants.to_vec(), log })
    }
}

fn settings_text<'a>(
    folder: &Path,
    root: &Path,
    certificate: &Certificate,
    files: Endpoint,
    constants: impl Iterator<Item = (&'a Endpoint, &'a Reply)>,
) -> Outcome<String> {
    let (folder, root) = (folder.display(), root.display());
    let (certificate, key) = (certificate.certificate.display(), certificate.key.display());
    // As root its worker would be nobody, who may not read the images.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let mut text = format!(
        "{user}
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
    ssl_session_cache shared:compare:10m;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
"
    );
    let listen = |endpoint: Endpoint| format!("listen {} backlog=4096; listen {} ssl backlog=4096;", endpoint.http, endpoint.https);
    // Writing to a String can't fail.
    let _ = writeln!(text, "    server {{ {} root {root}; location / {{ }} }}", listen(files));
    for (endpoint, reply) in constants {
        let body = quoted(&reply.body)?;
        let location = format!("location / {{ default_type application/json; return {} {body}; }}", reply.status);
        let _ = writeln!(text, "    server {{ {} {location} }}", listen(*endpoint));
    }
    text.push_str("}\n");
    Ok(text)
}

/// A text of nginx's settings, which knows variables but no escape for their `$`.
fn quoted(body: &[u8]) -> Outcome<String> {
    let text = std::str::from_utf8(body).context(|| "a reply is not text".to_owned())?;
    if text.contains('$') {
        return Err(Failure::new(format!("nginx can't be told to answer a text with a dollar sign: {text}")));
    }
    Ok(format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")))
}

/// Two free ports for each endpoint. Somebody else may take one before nginx does; then it says so.
fn free_endpoints(count: usize) -> Outcome<Vec<Endpoint>> {
    let listeners: Result<Vec<_>, _> = (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let addresses: Result<Vec<_>, _> = listeners.and_then(|listeners| listeners.iter().map(TcpListener::local_addr).collect());
    let addresses = addresses.context(|| "no free ports for nginx".to_owned())?;
    Ok(addresses.chunks_exact(2).map(|pair| Endpoint { http: pair[0], https: pair[1] }).collect())
}

const START_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_quoted_or_refused() {
        assert_eq!(quoted(br#"{"a":"it's \n"}"#).unwrap(), r#"'{"a":"it\'s \\n"}'"#);
        assert!(quoted(b"$uri").is_err());
    }
}
