//! HTTP/1.1, spoken inline in the request's own task. There is no task and no channel for a
//! connection: whoever has the connection polls it.

mod body;
mod chunked;
mod exchange;
mod head;
mod send;

pub(in crate::proxy) use body::Body;
pub(in crate::proxy) use exchange::Exchange;
