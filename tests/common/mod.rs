//! What the tests share: the server as a process, a broker, small HTTP and MQTT clients, and the everyday steps of a rollout.

pub(crate) mod authority;
pub(crate) mod fleet;
pub(crate) mod h2;
pub(crate) mod http;
pub(crate) mod mosquitto;
pub(crate) mod mqtt;
pub(crate) mod server;

pub(crate) use fleet::{Fleet, image_bytes};
pub(crate) use http::{Client, Response};
pub(crate) use mosquitto::Mosquitto;
pub(crate) use server::{ADMIN_TOKEN, TestServer};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Once;
use std::time::{Duration, Instant};

/// Looks again and again until `condition` gives a value. Waiting for a state, never for a time.
#[track_caller]
pub(crate) fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(since.elapsed() < PATIENCE, "waited {} s in vain until {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How long anything is waited for: far beyond what it takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Raises the bound of open files as far as this user may, once for all tests: for those that hold more than some hundred sockets.
pub(crate) fn raise_open_files() {
    static RAISED: Once = Once::new();
    RAISED.call_once(|| {
        let maximum = getrlimit(Resource::Nofile).maximum;
        // Where it isn't enough, the socket that can't be opened says so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    });
}
