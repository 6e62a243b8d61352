//! Large bodies, which go from socket to socket through a pipe.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use bytes::Bytes;

use super::{broke_off, poll_ahead};
use crate::proxy::finish::Finish;
use crate::proxy::pipe::Pipe;
use crate::proxy::stream::{ClientStream, Wire};
use crate::proxy::upstream::Http1Body;

/// With less than this left, a read and a write cost no more than two splices.
pub(super) const MOST_COPIED: u64 = 64 * 1024;

/// What is left of a body, to the client.
pub(super) async fn pass_on<S: Wire>(
    stream: &mut ClientStream<S>,
    body: &mut Http1Body,
    mut pipe: Pipe,
    finish: &mut Finish,
    ahead: &mut Bytes,
) -> io::Result<()> {
    let worker = &finish.client.worker;
    let bytes = &mut finish.bytes;
    poll_fn(|cx| {
        loop {
            if pipe.is_empty() {
                if body.plain_rest().is_none() {
                    return Poll::Ready(Ok(()));
                }
                match body.poll_splice(&mut pipe, cx) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(broke_off(worker, &error))),
                    // A client that closes its half has gone, as far as anybody can tell.
                    Poll::Pending => {
                        return poll_ahead(worker, stream, ahead, cx)
                            .map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending);
                    }
                }
            }
            match stream.poll_drain(&mut pipe, cx) {
                Poll::Ready(Ok(count)) => {
                    *bytes += count as u64;
                    worker.counters.spliced_bytes.add(count as u64);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}
