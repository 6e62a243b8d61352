//! Which endpoint takes a request.
//!
//! ```text
//! canary: which cluster ─► affinity: the client's own endpoint ─► balance: any ─► next try: another
//! ```
//!
//! One worker decides, from what it has seen itself and from what all know of endpoints that fail
//! (`health`). Workers and nodes agree where they have to (hashes, cookies) because the same input
//! gives the same answer everywhere. A choice costs the same however many endpoints there are, as
//! long as most of them are well.

mod affinity;
mod canary;
mod choice;
mod cookie;
mod ewma;
mod hash;
mod load;
mod pick;
mod same_site;
mod token;

pub(super) use canary::CanarySlot;
pub(super) use choice::{Choice, Lease};
pub(super) use cookie::Facts as CookieFacts;
pub(super) use hash::{Hashed, seed};
pub(super) use load::Loads;
pub(super) use token::{Token, backend_token, token};
