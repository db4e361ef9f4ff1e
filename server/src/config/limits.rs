//! Every bound, of the engine and of the front end, as keys of `[limits]`.

use super::ConfigError;
use serde::Deserialize;
use std::time::Duration;

/// Ten years: what takes longer is a slip of the pen, and times that far off stay far from where counting ends.
pub(super) const DURATION_S_MAX: u64 = 315_360_000;
pub(super) const DURATION_S_EXPECTED: &str = "1 to 315,360,000 seconds";

/// Bounds of the front end, and those of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub engine: sluicegate::Limits,
    /// Connections at once, of all listeners. Each costs up to 30 kB; the system's bound on open files must be larger.
    pub connections_max: usize,
    /// Requests at once on one connection of HTTP/2. Each may hold a body that is being read (`body_bytes_max`) and a piece of its reply.
    pub h2_streams_max: u32,
    /// Bytes of a request's head, and headers in it.
    pub header_bytes_max: usize,
    pub headers_max: usize,
    /// Bytes of a body that is read whole, JSON above all.
    pub body_bytes_max: usize,
    /// What a worker has to do may wait this long; beyond it, a share of what devices ask is refused until it waits less again.
    pub wait_max: Duration,
    /// Event streams open at once.
    pub event_streams_max: usize,
    /// Calls a minute of each application or token that manages or looks; 0: any number. Huawei's have a bound of their own.
    pub calls_per_minute: u32,
    /// Checks a minute of each device; 0: any number.
    pub checks_per_minute: u32,
    /// Wrong tokens, secrets, signatures and links a minute of each address, beyond which their refusals are held back; 0: any number.
    pub wrong_credentials_per_minute: u32,
    /// From the first byte of a request's head to its last; also a TLS handshake.
    pub header_timeout: Duration,
    /// For a small body whole; for a streamed one between two pieces of it.
    pub body_timeout: Duration,
    /// Between two requests of one connection.
    pub idle_timeout: Duration,
    /// A reply of which the client takes no byte for this long is given up.
    pub write_timeout: Duration,
    /// How long a stop waits for what is in flight.
    pub stop_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            engine: sluicegate::Limits::default(),
            // Fits, with the store's own files, under the 20,000 open files that many systems allow.
            connections_max: 16_000,
            // The least that RFC 9113 recommends, "so as to not unnecessarily limit parallelism".
            h2_streams_max: 100,
            header_bytes_max: 16 << 10,
            headers_max: HEADERS_MAX_OF_HYPER,
            body_bytes_max: 1 << 20,
            // Long for a check, short beside the patience of any device's client.
            wait_max: Duration::from_millis(500),
            event_streams_max: 1_000,
            calls_per_minute: 0,
            checks_per_minute: 0,
            // A fleet behind one address whose tokens were all revoked is heard out at once, and a guesser gets nowhere.
            wrong_credentials_per_minute: 600,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(10),
        }
    }
}

/// The bound that costs nothing: another one makes hyper allocate for each request.
pub const HEADERS_MAX_OF_HYPER: usize = 100;

macro_rules! limits_table {
    (plain: $($plain:ident: $plain_type:ty),*; seconds: $($seconds:ident = $duration:ident),*; engine: $($engine:ident: $engine_type:ty),*;) => {
        /// `[limits]` as written.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct LimitsTable {
            $($plain: Option<$plain_type>,)*
            $($seconds: Option<u64>,)*
            $($engine: Option<$engine_type>,)*
            permits_max: Option<u32>,
            wait_max_ms: Option<u64>,
        }

        impl LimitsTable {
            fn lay_over(self, limits: &mut Limits) {
                $(if let Some(value) = self.$plain { limits.$plain = value; })*
                $(if let Some(value) = self.$seconds { limits.$duration = Duration::from_secs(value); })*
                $(if let Some(value) = self.$engine { limits.engine.$engine = value; })*
                if let Some(value) = self.wait_max_ms { limits.wait_max = Duration::from_millis(value); }
                if self.permits_max.is_some() { limits.engine.permits_max = self.permits_max; }
            }
        }

        /// Each bound of the engine with its key.
        fn engine_bounds(limits: &Limits) -> impl Iterator<Item = (&'static str, u64)> {
            [$((concat!("limits.", stringify!($engine)), limits.engine.$engine as u64)),*].into_iter()
        }
    };
}

limits_table! {
    plain: connections_max: usize, h2_streams_max: u32, header_bytes_max: usize, headers_max: usize, body_bytes_max: usize, event_streams_max: usize,
        calls_per_minute: u32, checks_per_minute: u32, wrong_credentials_per_minute: u32;
    seconds: header_timeout_s = header_timeout, body_timeout_s = body_timeout, idle_timeout_s = idle_timeout,
        write_timeout_s = write_timeout, stop_timeout_s = stop_timeout;
    engine: id_bytes_max: usize, version_bytes_max: usize, name_chars_max: usize, text_chars_max: usize, url_bytes_max: usize,
        components_per_device_max: usize, details_per_device_max: usize, value_bytes_max: usize, from_versions_max: usize,
        subscriptions_max: usize, scope_entries_max: usize, asset_trees_max: usize, asset_depth_max: usize, products_max: usize,
        devices_max: usize, tasks_max: usize, firmware_max: usize, tokens_max: usize, events_max: u64, queue_max: usize, default_timeout_s: u32, cap_retry_after_s: u32;
}

impl Limits {
    /// The defaults with the file's values laid over them, each in a range that makes sense.
    pub fn from_file(table: LimitsTable) -> Result<Self, ConfigError> {
        let mut limits = Self::default();
        table.lay_over(&mut limits);
        let timeouts = [limits.header_timeout, limits.body_timeout, limits.idle_timeout, limits.write_timeout, limits.stop_timeout];
        let longest_s = timeouts.iter().map(Duration::as_secs).max().unwrap_or_default();
        let shortest_s = timeouts.iter().map(Duration::as_secs).min().unwrap_or_default();
        let checks: [(&'static str, u64, u64, u64, &'static str); 12] = [
            ("limits.connections_max", limits.connections_max as u64, 1, 10_000_000, "1 to 10,000,000"),
            ("limits.h2_streams_max", limits.h2_streams_max.into(), 1, 10_000, "1 to 10,000"),
            ("limits.wait_max_ms", limits.wait_max.as_millis() as u64, 10, 600_000, "10 to 600,000 milliseconds"),
            // hyper takes no buffer smaller than 8 KiB.
            ("limits.header_bytes_max", limits.header_bytes_max as u64, 8 << 10, 1 << 20, "8,192 to 1,048,576"),
            ("limits.headers_max", limits.headers_max as u64, 16, 1_000, "16 to 1,000"),
            ("limits.body_bytes_max", limits.body_bytes_max as u64, 4 << 10, 1 << 30, "4,096 to 1,073,741,824"),
            ("limits.event_streams_max", limits.event_streams_max as u64, 1, 1_000_000, "1 to 1,000,000"),
            ("limits.queue_max", limits.engine.queue_max as u64, 16, 1 << 24, "16 to 16,777,216"),
            ("limits.default_timeout_s", limits.engine.default_timeout_s.into(), 1, DURATION_S_MAX, DURATION_S_EXPECTED),
            ("limits.cap_retry_after_s", limits.engine.cap_retry_after_s.into(), 1, DURATION_S_MAX, DURATION_S_EXPECTED),
            ("limits: a timeout in seconds", longest_s, 1, 86_400, "1 to 86,400"),
            ("limits: a timeout in seconds", shortest_s, 1, 86_400, "1 to 86,400"),
        ];
        for (option, got, minimum, maximum, expected) in checks {
            if !(minimum..=maximum).contains(&got) {
                return Err(ConfigError::Value { option, got: got.to_string(), expected });
            }
        }
        if let Some((option, got)) = engine_bounds(&limits).find(|(_, bound)| *bound == 0) {
            return Err(ConfigError::Value { option, got: got.to_string(), expected: "1 or more" });
        }
        Ok(limits)
    }
}
