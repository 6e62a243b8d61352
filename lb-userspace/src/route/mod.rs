//! Which route a request takes.
//!
//! Pure and without allocation on the way of a request: a [`Target`] is the one normalised form of
//! a request target that matching and forwarding share, [`normalise_host`] does the same for hosts,
//! a [`RouteTable`] is the hash index over a snapshot's routing, and [`Found::rewrite`] says what the
//! endpoint is asked for.

mod explain;
mod host;
mod index;
mod path;
mod pattern;
mod patterns;
mod requested;
mod rewrite;
mod table;
mod target;
mod virtual_host;

pub use explain::{Candidate, Outcome};
pub use host::{BadHost, normalise_host};
pub use pattern::{BadPattern, Captures, Pattern};
pub(crate) use requested::unmatchable;
pub use rewrite::Rewritten;
pub use table::{Found, RouteTable};
pub(crate) use target::normalise_rule;
pub use target::{BadTarget, Target};
