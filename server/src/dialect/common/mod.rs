//! What the dialects share.

pub mod lenient;
pub mod status;
pub mod upload;
