//! The side that devices see, over MQTT: which topics there are, what is said on them, and how a device proves who it is.
//!
//! Nothing here listens, sends, looks anything up or reads a clock: whoever holds the connection asks these three what a message means,
//! and how the answer is written.
//!
//! ```text
//!  device                                                  server
//!    │ CONNECT  clientId, userName, password                 │   login
//!    │ inform   {version} ─────────────────────────────────▶ │   which version runs; the target's ends an upgrade well
//!    │ ◀───────────────────────────────────── inform_reply   │
//!    │ ◀────────────── upgrade {version, sign…, fileUrl…}    │   an offer; also repeated after the device was away
//!    │ upgrade_reply ──────────────────────────────────────▶ │   optional: most devices just begin
//!    │ progress {step, desc} ──────────────────────────────▶ │   0 to 100, or below zero: failed
//!    │ ◀─────────────────────────────────── progress_reply   │
//!    │ getversion ─────────────────────────────────────────▶ │   "what is there for me?"
//!    │ ◀──────────── getversion_reply [{version, sign…}]     │   an offer as well: no upgrade need follow it
//!    │ request ────────────────────────────────────────────▶ │   "send me an upgrade"
//!    │ ◀──────────────────── request_reply, then upgrade     │
//! ```

pub(crate) mod login;
pub(crate) mod messages;
pub(crate) mod receive;
pub(crate) mod topics;
