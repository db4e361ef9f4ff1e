//! The state machine without a store, a thread or a clock.

mod fleet;
mod oracle;
mod picture;
mod policies;
mod push;
mod scenarios;
mod script;
mod undo;
mod upkeep;
