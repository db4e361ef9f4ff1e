//! The state machine without a store, a thread or a clock.

mod oracle;
mod policies;
mod scenarios;
mod script;
