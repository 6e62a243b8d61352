//! Which endpoint takes a request.
//!
//! ```text
//! canary: which cluster ─► affinity: the client's own endpoint ─► balance: any ─► next try: another
//! ```
//!
//! Everything is decided by one worker from what it has seen itself. Workers and nodes agree where
//! they have to (hashes, cookies) because the same input gives the same answer everywhere.

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
pub(super) use choice::Choice;
pub(super) use cookie::Facts as CookieFacts;
pub(super) use hash::{Seed, seed};
pub(super) use load::{Lease, Loads};
pub(super) use token::{Token, backend_token, token};
