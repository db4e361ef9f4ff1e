//! The types in which threads of the engine meet, in one place, so that a model checker can put its own in their stead.
//!
//! They are the standard library's, tokio's and papaya's. Only in a test with the feature `models` are they [loom](https://docs.rs/loom)'s,
//! which then tries every order in which the threads of `models.rs` can take their steps, and everything that the memory may show each
//! of them meanwhile. What loom doesn't have, or can't look into, is written down there by its contract (`sync/contracts.rs`).

#[cfg(all(test, feature = "models"))]
mod contracts;
#[cfg(all(test, feature = "models"))]
pub(crate) use contracts::*;

#[cfg(not(all(test, feature = "models")))]
mod real {
    pub(crate) use papaya::HashMap as Map;
    pub(crate) use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    pub(crate) use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};
    pub(crate) use tokio::sync::{oneshot, watch};

    pub(crate) type MapRef<'a, K, V, S> = papaya::HashMapRef<'a, K, V, S, papaya::LocalGuard<'a>>;
}
#[cfg(not(all(test, feature = "models")))]
pub(crate) use real::*;
