//! The state machine without a store, a thread or a clock.

pub(crate) mod fleet;
pub(crate) mod oracle;
pub(crate) mod picture;
mod policies;
mod push;
mod scenarios;
mod script;
mod undo;
mod upkeep;
