//! The floor: how cheaply one thread can answer an HTTP request at all, with epoll and nothing around it.
//!
//! It looks for the end of a request and its `Content-Length`, knows neither paths nor headers, and answers the same bytes each time.

use crate::failure::{Context, Outcome};
use crate::options::Options;
use crate::process::Running;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

/// The floor while it runs.
#[derive(Debug)]
pub(crate) struct Floor {
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
}

impl Floor {
    /// Starts it as a process of its own, to answer the bytes in the file `reply`.
    pub(crate) fn start(options: &Options, folder: &Path, reply: &Path) -> Outcome<Self> {
        let own = std::env::current_exe().context(|| "the path of this program is unknown".to_owned())?;
        let mut command = Command::new(own);
        command.arg("floor").arg(reply);
        let mut running = Running::start(options.server_processor, false, &mut command, &folder.join("floor.log"))?;
        let line = running.line("ready ")?;
        let address = line.trim_start_matches("ready ").parse().context(|| format!("expected an address, got {line:?}"))?;
        Ok(Self { running, address })
    }
}

/// Serves until it is killed.
pub(crate) fn serve(reply: &Path) -> Outcome<()> {
    let reply = std::fs::read(reply).context(|| format!("{} can't be read", reply.display()))?;
    serve_bytes(&reply).context(|| "the floor".to_owned())
}

fn serve_bytes(reply: &[u8]) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    println!("ready {}", listener.local_addr()?);
    let mut connections = HashMap::new();
    let mut next = LISTENER + 1;
    let mut events = Vec::with_capacity(256);
    let mut buffer = vec![0; 16 << 10];
    loop {
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            waited => waited?,
        };
        for event in events.drain(..) {
            let number = event.data.u64();
            if number == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    epoll::add(&epoll, &stream, EventData::new_u64(next), EventFlags::IN)?;
                    connections.insert(next, Connection { stream, received: Vec::new() });
                    next += 1;
                }
            } else if let Some(connection) = connections.get_mut(&number)
                && !connection.answer(&mut buffer, reply)
            {
                // Closing it takes it out of the epoll too.
                connections.remove(&number);
            }
        }
    }
}

const LISTENER: u64 = 0;

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// The beginning of a request whose end has yet to come.
    received: Vec<u8>,
}

impl Connection {
    /// Reads once and answers what is whole; whether there is more to come.
    fn answer(&mut self, buffer: &mut [u8], reply: &[u8]) -> bool {
        let read = match self.stream.read(buffer) {
            Ok(0) => return false,
            Ok(read) => read,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        };
        let mut rest = if self.received.is_empty() {
            &buffer[..read]
        } else {
            self.received.extend_from_slice(&buffer[..read]);
            &self.received[..]
        };
        while let Some(length) = request_bytes(rest) {
            // The reply is small and its reader waits for it: it always fits.
            if self.stream.write_all(reply).is_err() {
                return false;
            }
            rest = &rest[length..];
        }
        self.received = rest.to_vec();
        true
    }
}

/// The length of the first request, once it is whole.
fn request_bytes(received: &[u8]) -> Option<usize> {
    let head_bytes = received.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&received[..head_bytes]).unwrap_or_default();
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let body_bytes = lengths.find_map(|(_, value)| value.trim().parse::<usize>().ok()).unwrap_or_default();
    head_bytes.checked_add(body_bytes).filter(|length| *length <= received.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_with_its_body() {
        let request = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nabGET";
        assert_eq!(request_bytes(request), Some(request.len() - 3));
        assert_eq!(request_bytes(&request[..request.len() - 4]), None);
        assert_eq!(request_bytes(b"GET / HTTP/1.1\r\n\r\n"), Some(18));
        assert_eq!(request_bytes(b"GET / HTTP/1.1\r\n"), None);
    }
}
