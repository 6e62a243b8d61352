//! HTTP/2, with prior knowledge or after ALPN. The requests of a worker to an endpoint share
//! connections; each connection has a task of its own, and so has the rest of a request whose
//! answer has begun.

mod body;
mod call;
mod connections;
mod head;
mod heard;
mod upload;

pub(in crate::proxy) use body::Body;
pub(in crate::proxy) use call::Call;
pub(in crate::proxy) use connections::Connections;
