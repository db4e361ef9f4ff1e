//! What the dialects share.

pub mod check;
pub mod decode;
pub mod lenient;
pub mod status;
pub mod upload;
