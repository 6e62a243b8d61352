//! The kernel's side of a snapshot.
//!
//! ```text
//! Snapshot ─► image (what the maps shall hold) ─► diff (ordered writes) ─► kernel (maps, links, routes)
//! ```
//!
//! [`image`] and [`diff`] are pure. Only [`kernel`] knows aya and needs rights.

pub mod diff;
pub mod image;
pub mod kernel;
