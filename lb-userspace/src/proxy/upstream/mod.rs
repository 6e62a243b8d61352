//! The way to an endpoint and back.
//!
//! ```text
//! forward ─► transport (plain, TLS) ─► pool        ─► http1: spoken in the request's own task
//!                                  └─► connections ─► http2: requests share a connection
//! ```

mod http1;
mod http2;
mod limits;
mod message;
mod patience;
mod pool;
mod receipt;
mod retry;
mod rewrite;
mod stream;
mod transport;
mod verify;

pub(super) use http1::{Body as Http1Body, Exchange};
pub(super) use http2::{Call, Connections};
pub(super) use limits::Limits;
pub(super) use message::{Answer, Failure, Lines, Request, ResponseHead, UpstreamBody};
pub(super) use pool::{Pool, Upstream};
pub(super) use retry::{Retries, RetryBudget};
pub(super) use rewrite::Rewrites;
pub(super) use stream::Stream;
pub(super) use transport::{Alpn, Transport, Transports};
