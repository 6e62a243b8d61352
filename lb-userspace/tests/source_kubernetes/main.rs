//! The Kubernetes source against a scripted API server: every failure keeps the last good state,
//! is told by the health, and is over when the server is well again.

#[allow(dead_code, reason = "other tests use other parts of the server")]
#[path = "../support/api_server/mod.rs"]
mod api_server;
mod bad_input;
mod common;
mod lists;
mod nodes;
mod outages;
mod refusals;
mod singles;
