//! Sluice: an XDP-accelerated L4-L7 load balancer and Kubernetes ingress controller.
//!
//! Data flows one way, and the modules are listed in that order:
//!
//! ```text
//! source ─► objects ─► translate (pure) ─► model::Snapshot ─┬─► route ─► proxy
//!                                                           └─► dataplane (image, diff ─► kernel)
//! ```
//!
//! Nobody imports upwards: `model` knows nobody; `objects`, `route`, `translate` and
//! `dataplane::{image, diff}` are pure; `proxy`, `dataplane::kernel`, `source` and `status` do I/O;
//! `app` ties everything together. `cargo xtask test` checks the rule.

pub mod backoff;
pub mod model;

pub mod route;

pub mod objects;
pub mod translate;

pub mod migrate;

pub mod dataplane;
pub mod proxy;
pub mod source;
pub mod status;

pub mod app;
