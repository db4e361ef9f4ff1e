//! Image bytes over HTTP, and the links to them.
//!
//! - [`respond()`]: a pure function from a request's head and a verified image to a reply: RFC 9110, clause by clause;
//! - [`conditions`]: `If-Match`, `If-None-Match`, `If-Modified-Since`, `If-Unmodified-Since`, `If-Range`;
//! - [`ImageBody`]: the reply's bytes, slices of the image's map, counted as they leave;
//! - [`LinkSigner`]: links that open one image for a while without a header.
//!
//! Who may fetch, and whether the image is there and sound, is settled before anything here is asked. Nothing here waits.
//!
//! Invariants:
//!   - Every reply has its exact `Content-Length` (304 apart), so none is ever chunked: small devices can't take chunks apart.
//!   - A reply's head stays below 1,023 bytes, all that some devices keep of it.
//!   - No byte of an image is copied.

mod body;
pub mod conditions;
mod link;
mod respond;

pub use body::{CountServed, ImageBody};
pub use link::{Link, LinkError, LinkSigner};
pub use respond::respond;
