//! Decides which connecting device may take which firmware now, and holds the images.

mod engine;
mod error;
mod events;
pub mod image;
mod index;
mod limits;
pub mod model;
mod pending;
mod rollout;
mod state;
pub mod store;
mod writer;

pub use engine::{Checked, Engine, Options};
pub use error::{Conflict, Entity, Error};
pub use index::TaskView;
pub use limits::Limits;
pub use pending::Pending;
pub use state::*;
