//! How endpoints are spoken with, over real sockets: TLS, HTTP/2, retries, TLS passthrough, and
//! certificates of clients.

#[path = "../support/proxy_rig.rs"]
#[allow(dead_code, reason = "each test target uses a part of the rig")]
mod rig;

mod client_auth;
mod endpoints;
mod grpc;
mod passthrough;
mod pki;
mod retries;
mod secure;

use std::time::Duration;

/// Long enough for whatever must not happen to happen, where a test has to wait for nothing.
const SOON: Duration = Duration::from_millis(300);
