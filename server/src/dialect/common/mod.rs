//! What the dialects share.

pub mod check;
pub mod decode;
pub mod fair_use;
pub mod hexadecimal;
pub mod lenient;
pub mod limiter;
pub mod result_sets;
pub mod routes;
pub mod status;
pub mod upload;

/// The annotation of a task that says which kind of upgrade devices that tell kinds apart are told: a number of theirs.
pub const FIRMWARE_UPGRADE_TYPE: &str = "firmware_upgrade_type";
