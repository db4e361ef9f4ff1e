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
