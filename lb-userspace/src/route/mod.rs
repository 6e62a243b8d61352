//! Which route a request takes.
//!
//! Pure and without allocation on the way of a request: a [`Target`] is the one normalised form of
//! a request target that matching and forwarding share, [`normalise_host`] does the same for hosts,
//! and a [`RouteTable`] is the hash index over a snapshot's routing.

mod explain;
mod host;
mod path;
mod table;
mod target;

pub use explain::{Candidate, Outcome};
pub use host::{BadHost, normalise_host};
pub use path::compile as compile_regex;
pub use table::{Found, RouteTable};
pub(crate) use target::normalise_rule;
pub use target::{BadTarget, Target};
