//! The firmware origin: a thin front end on the `sluicegate` engine.
//!
//! - [`cli`]: the commands of the binary; [`config`]: what the operator decides;
//! - [`http`]: sockets, TLS, time limits, requests and replies; [`dialect`]: the platforms' tongues, one folder each;
//! - [`image`]: image bytes over HTTP, and the links to them; [`downloads`]: served bytes as progress;
//! - [`uploads`]: images that come in pieces;
//! - [`webhooks`]: events to whoever subscribed;
//! - [`mqtt`]: devices that are sent their upgrades, and consumers of events;
//! - [`auth`], [`secrets`]: who calls, and the keys that lie outside the tables; [`guesses`]: who only guesses;
//! - [`app`]: what every handler shares; [`clock`]: what happens by itself; [`metrics`], [`logging`]: what the operator sees.
//!
//! Nothing here decides about upgrades: a dialect decodes, asks the engine, and encodes.

pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dialect;
pub mod downloads;
mod event_reader;
pub mod guesses;
pub mod http;
pub mod image;
pub mod logging;
pub mod metrics;
pub mod mqtt;
mod noise;
pub mod secrets;
#[doc(hidden)]
pub mod testing;
pub mod uploads;
pub mod webhooks;
