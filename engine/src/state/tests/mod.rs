//! The state machine without a store, a thread or a clock.

mod fleet;
mod oracle;
mod policies;
mod scenarios;
mod script;
