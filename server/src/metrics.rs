//! What the operator's Prometheus sees.
//!
//! Handles are registered once and kept, so that counting is an addition. Labels have few values each: no device, product or
//! organization ever becomes one. There is no listener of its own; `/metrics` renders.
//!
//! Figures that are states rather than sums (permits, entities) are read from the engine when somebody scrapes.

use ::http::{Method, StatusCode};
use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use sluicegate::{Decision, Totals, WaitReason};
use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Handles, so that the hot path registers nothing.
pub struct Metrics {
    recorder: PrometheusHandle,
    started: Instant,
    requests: Vec<OnceLock<Counter>>,
    durations: Vec<Histogram>,
    requests_aborted: Counter,
    checks: [Counter; 3 + WaitReason::ALL.len()],
    connections: Gauge,
    connections_refused: Counter,
    connections_timed_out: Counter,
    requests_shed: Counter,
    credentials_wrong: Counter,
    refusals_held_back: Counter,
    handshakes_failed: Counter,
    image_bytes_served: Counter,
    progress_failed: Counter,
    event_streams: Gauge,
    mqtt_connections: Gauge,
    mqtt_devices: Gauge,
    clock_behind: Gauge,
    state: StateGauges,
}

/// What the engine holds now.
struct StateGauges {
    uptime: Gauge,
    queue_length: Gauge,
    writable: Gauge,
    permits_held: Gauge,
    products: Gauge,
    devices: Gauge,
    firmware: Gauge,
    tasks: Gauge,
    tasks_started: Gauge,
    tokens: Gauge,
}

/// Upper bounds in seconds: a check takes some microseconds, a durable answer a millisecond, a large image minutes.
const DURATION_BUCKETS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

/// Commands of one group: from one alone to a full queue.
const COUNT_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0];

impl Metrics {
    /// Makes this process's recorder. Once per process.
    pub fn install() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &DURATION_BUCKETS)?
            .set_buckets_for_metric(Matcher::Suffix("_commands".to_owned()), &COUNT_BUCKETS)?
            .install_recorder()?;
        describe();
        let started_at_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        gauge!("process_start_time_seconds").set(started_at_s);
        gauge!("sluicegate_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self {
            recorder,
            started: Instant::now(),
            requests: std::iter::repeat_with(OnceLock::new).take(REQUEST_SLOTS).collect(),
            durations: DIALECTS
                .iter()
                .map(|dialect| histogram!("sluicegate_http_request_duration_seconds", "dialect" => *dialect))
                .collect(),
            requests_aborted: counter!("sluicegate_http_requests_aborted_total"),
            checks: std::array::from_fn(|index| counter!("sluicegate_checks_total", "decision" => decision_name(index))),
            connections: gauge!("sluicegate_connections"),
            connections_refused: counter!("sluicegate_connections_refused_total"),
            connections_timed_out: counter!("sluicegate_connections_timed_out_total"),
            requests_shed: counter!("sluicegate_http_requests_shed_total"),
            credentials_wrong: counter!("sluicegate_wrong_credentials_total"),
            refusals_held_back: counter!("sluicegate_refusals_held_back_total"),
            handshakes_failed: counter!("sluicegate_tls_handshakes_failed_total"),
            image_bytes_served: counter!("sluicegate_image_bytes_served_total"),
            progress_failed: counter!("sluicegate_download_progress_failed_total"),
            event_streams: gauge!("sluicegate_event_streams"),
            mqtt_connections: gauge!("sluicegate_mqtt_connections"),
            mqtt_devices: gauge!("sluicegate_mqtt_devices"),
            clock_behind: gauge!("sluicegate_clock_behind_seconds"),
            state: StateGauges {
                uptime: gauge!("sluicegate_uptime_seconds"),
                queue_length: gauge!("sluicegate_writer_queue_length"),
                writable: gauge!("sluicegate_store_writable"),
                permits_held: gauge!("sluicegate_permits_held"),
                products: gauge!("sluicegate_products"),
                devices: gauge!("sluicegate_devices"),
                firmware: gauge!("sluicegate_firmware"),
                tasks: gauge!("sluicegate_tasks"),
                tasks_started: gauge!("sluicegate_tasks_started"),
                tokens: gauge!("sluicegate_tokens"),
            },
        })
    }

    /// The Prometheus text.
    pub fn render(&self) -> String {
        self.state.uptime.set(self.started.elapsed().as_secs_f64());
        self.recorder.render()
    }

    /// What was decided for a device. Previews don't count.
    pub fn check(&self, decision: &Decision) {
        self.checks[decision_index(decision)].increment(1);
    }

    pub fn image_bytes_served(&self, bytes: u64) {
        self.image_bytes_served.increment(bytes);
    }

    /// One more (1) or one fewer (-1).
    pub fn connections(&self, change: i32) {
        self.connections.increment(f64::from(change));
    }

    /// One more (1) or one fewer (-1).
    pub fn event_streams(&self, change: i32) {
        self.event_streams.increment(f64::from(change));
    }

    /// One more (1) or one fewer (-1) client that has logged in.
    pub fn mqtt_connections(&self, change: i32) {
        self.mqtt_connections.increment(f64::from(change));
    }

    /// How many devices can be sent to.
    pub fn mqtt_devices(&self, count: usize) {
        self.mqtt_devices.set(count as f64);
    }

    /// Whether there is a connection to the broker.
    pub fn mqtt_broker(&self, is_connected: bool) {
        gauge!("sluicegate_mqtt_broker_connected").set(if is_connected { 1.0 } else { 0.0 });
    }

    /// Something was said over MQTT, and this came of it. A name of ours, one of few.
    pub fn mqtt(&self, outcome: &'static str) {
        counter!("sluicegate_mqtt_messages_total", "outcome" => outcome).increment(1);
    }

    pub fn connection_refused(&self) {
        self.connections_refused.increment(1);
    }

    pub fn connection_timed_out(&self) {
        self.connections_timed_out.increment(1);
    }

    /// A device was told to come back later, since there is more to do than can be done.
    pub fn request_shed(&self) {
        self.requests_shed.increment(1);
    }

    pub fn credentials_wrong(&self) {
        self.credentials_wrong.increment(1);
    }

    pub fn refusal_held_back(&self) {
        self.refusals_held_back.increment(1);
    }

    pub fn handshake_failed(&self) {
        self.handshakes_failed.increment(1);
    }

    /// Served bytes that could not be recorded as progress.
    pub fn progress_failed(&self) {
        self.progress_failed.increment(1);
    }

    /// A request that ended; `status` is absent where the connection broke before.
    pub fn request(&self, kind: RequestKind, status: Option<StatusCode>, took: Duration) {
        let Some(status) = status else {
            self.requests_aborted.increment(1);
            return;
        };
        let status_index = status_index(status);
        let slot = (kind.dialect * METHODS.len() + kind.method) * STATUS_SLOTS + status_index;
        self.requests[slot]
            .get_or_init(|| {
                counter!("sluicegate_http_requests_total", "dialect" => DIALECTS[kind.dialect], "method" => METHODS[kind.method],
                    "status" => status_name(status_index))
            })
            .increment(1);
        self.durations[kind.dialect].record(took.as_secs_f64());
    }

    /// How far the system's clock is behind the latest time that it has shown.
    pub fn clock_behind(&self, behind: Duration) {
        self.clock_behind.set(behind.as_secs_f64());
    }

    /// The engine's figures, as of now.
    pub fn state(&self, totals: &Totals, queue_length: usize, writable: bool) {
        let state = &self.state;
        state.queue_length.set(queue_length as f64);
        state.writable.set(if writable { 1.0 } else { 0.0 });
        for (gauge, value) in [
            (&state.permits_held, totals.permits_held),
            (&state.products, totals.products),
            (&state.devices, totals.devices),
            (&state.firmware, totals.firmware),
            (&state.tasks, totals.tasks),
            (&state.tasks_started, totals.tasks_started),
            (&state.tokens, totals.tokens),
        ] {
            gauge.set(value as f64);
        }
    }

    /// Sorts what was recorded into its buckets. Without it, samples pile up until somebody scrapes.
    pub fn run_upkeep(&self) {
        self.recorder.run_upkeep();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// What a request is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKind {
    dialect: usize,
    method: usize,
}

/// In the order of [`dialect_index`].
const DIALECTS: [&str; 7] = ["native", "xlink", "images", "operations", "enos", "huawei", "autel"];
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"];

impl RequestKind {
    pub fn of(method: &Method, path: &str) -> Self {
        let method = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1);
        Self { dialect: dialect_index(path), method }
    }
}

fn dialect_index(path: &str) -> usize {
    let is_below = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if is_below("/images") || is_below("/api/v1/images") {
        2
    } else if is_below("/v2") {
        1
    } else if is_below("/api") {
        0
    } else if is_below("/connect-service") || is_below("/apim-token-service") {
        4
    } else if is_below("/iodm") || is_below("/iocm") {
        5
    } else if is_below("/manage") {
        6
    } else {
        3
    }
}

/// Those that are answered in earnest; the rest are counted by their class.
const STATUSES: [u16; 24] =
    [200, 201, 202, 204, 206, 301, 304, 307, 400, 401, 403, 404, 405, 406, 408, 409, 412, 413, 415, 416, 429, 500, 503, 507];
const STATUS_SLOTS: usize = STATUSES.len() + 5;
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const REQUEST_SLOTS: usize = DIALECTS.len() * METHODS.len() * STATUS_SLOTS;

fn status_index(status: StatusCode) -> usize {
    let code = status.as_u16();
    STATUSES.binary_search(&code).unwrap_or_else(|_| STATUSES.len() + usize::from(code / 100).clamp(1, 5) - 1)
}

fn status_name(index: usize) -> String {
    match STATUSES.get(index) {
        Some(code) => code.to_string(),
        None => STATUS_CLASSES[index - STATUSES.len()].to_owned(),
    }
}

fn decision_index(decision: &Decision) -> usize {
    match decision {
        Decision::UpToDate => 0,
        Decision::NoTask => 1,
        Decision::Offer(_) => 2,
        Decision::Wait(wait) => 3 + WaitReason::ALL.iter().position(|reason| *reason == wait.reason).unwrap_or_default(),
    }
}

fn decision_name(index: usize) -> &'static str {
    match index {
        0 => "up_to_date",
        1 => "no_task",
        2 => "offer",
        waiting => WaitReason::ALL[waiting - 3].name(),
    }
}

fn describe() {
    describe_counter!("sluicegate_http_requests_total", "Requests answered");
    describe_counter!("sluicegate_http_requests_shed_total", "Requests of devices refused because too much was waiting to be done");
    describe_counter!("sluicegate_http_requests_aborted_total", "Requests whose connection broke before they were answered");
    describe_histogram!("sluicegate_http_request_duration_seconds", Unit::Seconds, "From a request's head to the end of its reply");
    describe_counter!("sluicegate_checks_total", "Checks of devices, by what was decided");
    describe_gauge!("sluicegate_connections", "Connections open now");
    describe_counter!("sluicegate_connections_refused_total", "Connections refused because all were taken");
    describe_counter!(
        "sluicegate_connections_timed_out_total",
        "Connections, and single replies of HTTP/2, given up because the client was silent or took nothing"
    );
    describe_counter!("sluicegate_wrong_credentials_total", "Tokens, secrets, signatures and links that were wrong or not known");
    describe_counter!(
        "sluicegate_refusals_held_back_total",
        "Refusals of wrong credentials that went out late, because too many came from their address"
    );
    describe_counter!("sluicegate_tls_handshakes_failed_total", "TLS handshakes that came to nothing");
    describe_counter!("sluicegate_image_bytes_served_total", Unit::Bytes, "Bytes of images handed to the network");
    describe_counter!("sluicegate_download_progress_failed_total", "Served bytes that could not be recorded as progress");
    describe_gauge!("sluicegate_event_streams", "Event streams open now");
    describe_gauge!("sluicegate_mqtt_connections", "MQTT clients logged in now");
    describe_gauge!("sluicegate_mqtt_devices", "Devices that can be sent their upgrades over MQTT now");
    describe_gauge!(
        "sluicegate_mqtt_broker_connected",
        "1 while there is a connection to the MQTT broker, where one is configured"
    );
    describe_counter!("sluicegate_mqtt_messages_total", "What came of what was said over MQTT");
    describe_gauge!(
        "sluicegate_clock_behind_seconds",
        Unit::Seconds,
        "How far the system's clock is behind the latest time it has shown; deadlines stand still until it has caught up"
    );
    describe_gauge!("sluicegate_uptime_seconds", Unit::Seconds, "Since the start of the process");
    describe_gauge!("sluicegate_writer_queue_length", "Commands that wait to be applied");
    describe_histogram!("sluicegate_writer_group_commands", "Commands made durable together");
    describe_counter!("sluicegate_writer_commit_failures_total", "Groups of commands that the disk refused");
    describe_gauge!("sluicegate_store_writable", "1 while commands are taken, 0 after the store failed");
    describe_gauge!("sluicegate_permits_held", "Upgrades that run now");
    describe_gauge!("sluicegate_products", "Products");
    describe_gauge!("sluicegate_devices", "Devices");
    describe_gauge!("sluicegate_firmware", "Firmware");
    describe_gauge!("sluicegate_tasks", "Tasks not deleted");
    describe_gauge!("sluicegate_tasks_started", "Tasks that are started");
    describe_gauge!("sluicegate_tokens", "Tokens not expired or revoked");
    describe_gauge!("sluicegate_build_info", "The version, as a label");
    describe_gauge!("process_start_time_seconds", Unit::Seconds, "Start of the process since the Unix epoch");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_slot_and_a_name() {
        for code in 100..1000 {
            let index = status_index(StatusCode::from_u16(code).unwrap());
            assert!(index < STATUS_SLOTS);
            let name = status_name(index);
            assert!(name == code.to_string() || name.ends_with("xx"), "{code} is counted as {name}");
        }
        assert_eq!(status_name(status_index(StatusCode::IM_A_TEAPOT)), "4xx");
    }

    #[test]
    fn a_path_is_counted_as_its_dialect() {
        for (path, dialect) in [
            ("/api/v1/check", "native"),
            ("/api/v1/images/ab", "images"),
            ("/images/ab", "images"),
            ("/v2/upgrade", "xlink"),
            ("/v2x", "operations"),
            ("/metrics", "operations"),
        ] {
            assert_eq!(DIALECTS[dialect_index(path)], dialect, "{path}");
        }
    }
}
