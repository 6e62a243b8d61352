//! Machines in a box: network namespaces joined by veths, backends that say who they are, clients
//! that speak what browsers speak, and the `sluice` daemon as a child process.
//!
//! Everything made here removes itself when dropped. What a run that was killed left behind carries
//! the run's [`owner`] in its name; [`sweep`] finds it by that and removes it.
//!
//! Deliberately absent: anything of `lb-userspace`. The laboratory knows the daemon by its command
//! line only, as a user does.

pub mod backend;
pub mod client;
pub mod daemon;
pub mod error;
pub mod manifests;
pub mod netns;
pub mod owner;
pub mod place;
pub mod process;
pub mod sweep;
pub mod tls;
pub mod topology;
pub mod traffic;
pub mod websocket;

pub use backend::Backend;
pub use client::{Answer, Request, Scheme};
pub use daemon::Daemon;
pub use error::LabError;
pub use manifests::ManifestDir;
pub use netns::Namespace;
pub use place::Place;
pub use sweep::sweep;
pub use tls::Authority;
pub use topology::Topology;
pub use traffic::Traffic;

/// What the laboratory's fallible functions give.
pub type Result<T, E = LabError> = std::result::Result<T, E>;
