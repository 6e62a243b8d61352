//! The way to an endpoint and back: HTTP/1.1, spoken inline in the request's own task. There is
//! no task and no channel for a connection: whoever has the connection polls it.

mod body;
mod chunked;
mod exchange;
mod failing;
mod head;
mod pool;
mod send;

pub(super) use body::UpstreamBody;
pub(super) use exchange::{Answer, Exchange, Failure, Request};
pub(super) use failing::Failing;
pub(super) use pool::{Pool, Upstream};
