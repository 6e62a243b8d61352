//! What is spoken with clients, byte for byte: PROXY headers, HTTP/2 frames and floods, WebSockets
//! over HTTP/2, requests that two readers could read in two ways, TLS sessions.

#[path = "../support/proxy_rig.rs"]
#[allow(dead_code, reason = "each test target uses a part of the rig")]
mod rig;

mod floods;
mod frames;
mod heads;
mod http2;
mod observed;
mod offences;
mod proxy_header;
mod semantics;
mod sessions;
mod slow;
mod smuggling;
mod websocket;

use std::time::Duration;

/// A time limit that a test waits for.
const SOON: Duration = Duration::from_millis(300);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
