//! Autel's cloud API over MQTT, which is DJI's with a few fields of its own: docks and remote controls (gateways) that are told to
//! upgrade themselves or the aircraft attached to them, and tell how it goes.
//!
//! - [`device`]: what gateways say, taken to the engine, and what they are sent. The rest is pure:
//! - [`reading`]: what all readers here share; [`envelope`]: the frame around each message; [`topic`]: where messages come and go;
//! - [`progress`]: how an upgrade goes; [`error_code`]: what codes mean; [`create`]: the order to upgrade;
//! - [`topology`]: who is attached to whom; [`properties`]: which version runs; [`requests`]: what a gateway asks before it is online;
//! - [`rest`]: the order to upgrade as the vendor's demo platform takes it over HTTP.
//!
//! Two forms are read, Autel's (`sub_status`, a number `step`, `step_key`) and DJI's (`current_step`, `step_result`); Autel's is
//! written. Where a message has several of the fields that name the step, the first of `step_key`, `current_step`, `step` that can be
//! understood counts.
//!
//! What a gateway says → the state it tells, with [`Progress::meaning`](progress::Progress::meaning). `status` speaks first:
//!
//! | status | result 0 | any other result |
//! |---|---|---|
//! | `sent` | taken, not begun | failed |
//! | `in_progress` | by sub_status, else by step, else downloading | failed |
//! | `paused` | paused | failed |
//! | `ok` | succeeded | failed |
//! | `failed`, `rejected`, `timeout`, `canceled` | failed, rejected, timed out, canceled | the same, with the code |
//! | absent or unknown | by sub_status, else nothing (in a reply: taken) | failed |
//!
//! | sub_status | under way | alone |
//! |---|---|---|
//! | `DOWNLOADING` | downloading | downloading |
//! | `DOWNLOAD_SUCCESS`, `UPLOADING_DRONE`, `VERIFY`, `VERIFY_SUCCESS` | downloaded | downloaded |
//! | `UPGRADING`, `UPGRADE_SUCCESS` | installing | installing |
//! | `DOWNLOAD_FAILED`, `VERIFY_FAILED`, `UPGRADE_FAIL` | by step, else where it failed | failed |
//! | `UNKNOWN`, absent, not known | by step | nothing |
//!
//! | step | under way |
//! |---|---|
//! | 1, `download_firmware` | downloading |
//! | 2, `upgrade_firmware` | installing |
//!
//! `UPGRADE_SUCCESS` is no success by itself: only `ok` ends it well.

pub(crate) mod create;
pub(crate) mod device;
pub(crate) mod envelope;
mod error_code;
pub(crate) mod order;
pub(crate) mod progress;
pub(crate) mod properties;
pub(crate) mod readers;
pub(crate) mod reading;
pub(crate) mod requests;
pub(crate) mod rest;
pub(crate) mod topic;
pub(crate) mod topology;

#[cfg(test)]
mod hostile;
