//! Decides which connecting device may take which firmware now, exactly, and holds the images.
//!
//! ```no_run
//! use sluicegate::model::{Component, Timestamp};
//! use sluicegate::{Check, CheckRules, Checked, Decision, DeviceRef, Engine, Options};
//!
//! let engine = Engine::open(Options::new("./data"))?;
//! let now = Timestamp::from_seconds(1_800_000_000); // time is always an argument
//! let device = DeviceRef { organization: "acme", product_id: "lamp", device_id: "lamp-1" };
//! let rules = CheckRules { register: true, ..CheckRules::default() };
//! let check = Check { device, component: Component::MAIN, version: "1.0", rules };
//! let decision = match engine.check(&check, now) {
//!     Checked::Decided(decision) => decision,             // lock-free: nothing had to be written
//!     Checked::Ask => engine.decide(&check, now).wait()?, // durable once answered; `.await` works too
//! };
//! if let Decision::Offer(offer) = decision {
//!     println!("go to {}", offer.task.row().target_version);
//! }
//! # Ok::<(), sluicegate::Error>(())
//! ```
//!
//! `engine/examples/embed.rs` is a whole rollout: an image, a task, a device that upgrades and reports.
//!
//! # How it works
//!
//! There are two planes. The **decision plane** answers [`Engine::check`] on any number of threads from what was published: one
//! look-up of the device, one of its version, no lock, no I/O. The **state plane** is one writer thread: every command that changes
//! something queues there, is applied, is made durable in a group with its neighbours, is then published, and only then answered.
//!
//! # What a check may see while something changes
//!
//! A task appears to checks whole or not at all. A check that runs beside a change may be decided by what was before it. Permits
//! are different: they are granted only by the writer, which sees everything that came before, so a cap is never exceeded, not even
//! for a moment. A device that asks again while it holds a permit is given the same offer.
//!
//! # What survives
//!
//! Whatever a [`Pending`] answered with `Ok`. After a crash at any moment, opening the folder again finds every answered command,
//! none by half, and every permit still counted. If the disk is full, commands are refused with [`Error::Store`], nothing of them is
//! kept, reads go on, and commands are taken again once there is room. If the disk fails, commands are refused until the folder is
//! opened anew.
//!
//! # How fast
//!
//! `docs/performance.md` has figures and how to repeat them. As a rule: a check with nothing to do costs a handful of cache misses;
//! a durable report costs its share of one `fdatasync`, so many in flight are much cheaper than one after another.
//!
//! # What it is not
//!
//! It speaks no protocol and opens no socket; it reads no clock, no environment and no random source. It is not distributed: one
//! process opens a folder. It doesn't compute deltas and doesn't verify signatures of firmware.

mod engine;
mod error;
mod events;
pub mod image;
mod index;
mod limits;
pub mod model;
#[cfg(all(test, feature = "models"))]
mod models;
mod pending;
mod queue;
mod rollout;
// The models put other types under what it drives.
#[cfg(test)]
#[cfg(not(feature = "models"))]
mod simulation;
mod state;
pub mod store;
mod sync;
mod writer;

pub use engine::{Checked, Engine, Options};
pub use error::{Conflict, Entity, Error};
pub use index::TaskView;
pub use limits::Limits;
pub use pending::Pending;
/// A set of device numbers.
pub use roaring::RoaringBitmap as DeviceSet;
pub use state::*;
