//! What the dialects share.

pub mod check;
pub mod decode;
pub mod fair_use;
pub mod hexadecimal;
pub mod lenient;
pub mod limiter;
pub mod result_sets;
pub mod status;
pub mod upload;
