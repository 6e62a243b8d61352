//! The short way of plain HTTP/1.1 requests.
//!
//! Most requests are GETs without a body, to routes that ask nothing of the proxy but the way to
//! an endpoint. They need no header map, no service and no body that could be anything: their heads
//! are read where the socket's bytes lie and written for the endpoint at once, and the answer's head
//! goes to the client the same way. What is not plain in every respect ([`head::plain`]) goes to
//! hyper, with all bytes that were read, and its connection stays there.
//!
//! Both ways share what matters: [`ClientStream`] with its guard and timers below, the route table,
//! [`forward`] with its retries, and the endpoint's side above. `tests/proxy_direct.rs` sends the
//! same requests both ways and compares what endpoints and clients get.

mod answer;
mod bulk;
mod head;
mod rewound;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use super::balance::{Choice, CookieFacts};
use super::connection::Client;
use super::error::{Error, Fault};
use super::finish::Finish;
use super::forward::forward;
use super::incoming_body::RequestBody;
use super::stream::{ClientStream, Wire};
use super::upstream::{Answer, Request, ResponseHead, UpstreamBody};
use super::worker::Worker;
use answer::Writer;
pub(super) use head::is_plain;
pub(super) use rewound::Rewound;

/// How much of a request is read at once. A longer head is not plain.
pub(super) const READ: usize = 16 * 1024;

/// Serves requests as long as they are plain. Gives the stream back, with what was read of it, at the
/// first that is not; `None` when the connection has ended.
pub(super) async fn serve<S>(client: &Rc<Client>, mut stream: Box<ClientStream<S>>) -> Option<Rewound<S>>
where
    S: Wire,
{
    let worker = &client.worker;
    // A trusted proxy's words are weighed; the log and spans want to know everything.
    if client.trusted || worker.log.is_some() || worker.tracer.is_some() {
        return Some(Rewound::new(Bytes::new(), stream));
    }
    let mut draining = pin!(worker.drain.started(client.came_late));
    // What came while a request was answered.
    let mut ahead = Bytes::new();
    loop {
        let count = poll_fn(|cx| match draining.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Ok(0)),
            Poll::Pending if ahead.is_empty() => poll_read(worker, &mut stream, cx, true),
            Poll::Pending => {
                worker.reads.borrow_mut()[..ahead.len()].copy_from_slice(&ahead);
                Poll::Ready(Ok(ahead.len()))
            }
        });
        let Ok(count @ 1..) = count.await else { break };
        // In a box, so that a connection without a request does not hold the room for one.
        match Box::pin(exchange(client, &mut *stream, count)).await {
            Next::Request(read) => ahead = read,
            Next::NotPlain(read) => return Some(Rewound::new(read, stream)),
            Next::End => break,
        }
    }
    // Whoever was refused has been told; a plain connection ends well enough by being closed.
    if client.tls {
        let _ = stream.shutdown().await;
    }
    None
}

/// How a connection goes on.
enum Next {
    /// With another request, of which this is there already.
    Request(Bytes),
    /// In another way, beginning with this.
    NotPlain(Bytes),
    End,
}

/// Reads into the worker's buffer. What is there must be used before anybody else can read: before
/// the next await.
fn poll_read<S>(
    worker: &Worker,
    stream: &mut ClientStream<S>,
    cx: &mut Context<'_>,
    patiently: bool,
) -> Poll<io::Result<usize>>
where
    S: Wire,
{
    let mut space = worker.reads.borrow_mut();
    let mut buffer = ReadBuf::new(&mut space);
    let read = match patiently {
        true => Pin::new(stream).poll_read(cx, &mut buffer),
        false => stream.poll_read_on(cx, &mut buffer),
    };
    read.map_ok(|()| buffer.filled().len())
}

/// One request, whose first `count` bytes are in the worker's buffer.
async fn exchange<S>(client: &Rc<Client>, stream: &mut ClientStream<S>, count: usize) -> Next
where
    S: Wire,
{
    let worker = &*client.worker;
    let config = worker.config();
    let plain = {
        let read = worker.reads.borrow();
        match head::plain(client, &config, &read[..count]) {
            Some(plain) => plain,
            None => return Next::NotPlain(Bytes::copy_from_slice(&read[..count])),
        }
    };
    let mut finish = Finish::new(client);
    worker.counters.direct.add(1);
    finish.place = plain.found.served.place.index();
    let mut ahead = Bytes::new();
    let is_head = plain.method == Method::HEAD;
    let served = plain.found.served;
    let answered = {
        let Some(mut choice) = Choice::of(worker, served, &HeaderMap::new(), |_| Vec::new()) else {
            return Next::End;
        };
        let request = Request {
            head: plain.head,
            method: plain.method,
            body: RequestBody::None,
            chunked: false,
            expects_continue: false,
            wants_upgrade: false,
            takes_lines: true,
            early: Some(Arc::clone(&client.gate)),
        };
        let answer = {
            let mut forwarding = pin!(forward(client, &mut choice, &served.policy.rules, "", request));
            poll_fn(|cx| match forwarding.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                // A client that closes its half has gone, as far as anybody can tell.
                Poll::Pending => match poll_ahead(worker, stream, &mut ahead, cx) {
                    Ok(()) => match stream.poll_early(cx) {
                        Poll::Ready(Err(_)) => Poll::Ready(None),
                        _ => Poll::Pending,
                    },
                    Err(_) => Poll::Ready(None),
                },
            })
            .await
        };
        let Some(answer) = answer else { return Next::End };
        match answer {
            Ok((answer, address)) => {
                let nobody = || CookieFacts { path: "", https: client.tls, user_agent: "" };
                finish.lease = choice.answered(nobody).lease;
                match answer {
                    Answer::Response(head, body) => Ok((head, body)),
                    Answer::Switched(..) => {
                        Err(Error::Protocol { address, what: "101 that nobody asked for" })
                    }
                }
            }
            Err(error) => {
                if error.fault() == Fault::Upstream {
                    choice.failed();
                }
                Err(error)
            }
        }
    };
    let closes = worker.drain.is_begun() || client.is_last();
    let hsts = served.policy.hsts().filter(|_| client.tls);
    let mut writer = Writer::new(stream, worker, is_head, closes, hsts);
    let written = match answered {
        Ok((head, body)) => {
            finish.status = Some(head.status.as_u16());
            pass_on(&mut writer, head, body, &mut finish, &mut ahead).await
        }
        Err(error) => {
            finish.status = Some(error.status().as_u16());
            Box::pin(writer.own(&error, &mut finish.bytes)).await
        }
    };
    drop(finish);
    match written {
        Ok(()) if closes => Next::End,
        Ok(()) => Next::Request(ahead),
        Err(_) => Next::End,
    }
}

/// An endpoint's answer to the client, piece by piece.
async fn pass_on<S>(
    writer: &mut Writer<'_, S>,
    head: ResponseHead,
    mut body: Box<UpstreamBody>,
    finish: &mut Finish,
    ahead: &mut Bytes,
) -> io::Result<()>
where
    S: Wire,
{
    let has_body = !(body.is_end()
        || writer.is_head()
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED));
    writer.begin(&head, has_body.then(|| body.exact_len()));
    if !has_body {
        return writer.write(&[], true).await;
    }
    loop {
        let worker = &finish.client.worker;
        if writer.has_begun()
            && let Some(body) = body.spliced(bulk::MOST_COPIED)
            && writer.stream().takes_pipes()
            && let Some(pipe) = worker.pipes.take()
        {
            return Box::pin(bulk::pass_on(writer.stream(), body, pipe, finish, ahead)).await;
        }
        // The head goes out with the first piece, but waits for none.
        let mut waits = writer.has_begun();
        let piece = poll_fn(|cx| match body.poll_frame(cx) {
            Poll::Ready(piece) => Poll::Ready(Ok(Some(piece))),
            Poll::Pending if !std::mem::replace(&mut waits, true) => Poll::Ready(Ok(None)),
            Poll::Pending => match poll_ahead(worker, writer.stream(), ahead, cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
        });
        match piece.await? {
            None => writer.write(&[], false).await?,
            Some(None) => return writer.write(&[], true).await,
            Some(Some(Ok(frame))) => {
                // Trailers have no taker here: who takes them says so, which is not plain.
                let Ok(data) = frame.into_data() else { continue };
                finish.bytes += data.len() as u64;
                let last = body.is_end();
                writer.write(&data, last).await?;
                if last {
                    return Ok(());
                }
            }
            Some(Some(Err(error))) => return Err(broke_off(worker, &error)),
        }
    }
}

/// Counts an answer that its endpoint left incomplete. The client's connection has to end for it.
fn broke_off(worker: &Worker, error: &Error) -> io::Error {
    worker.counters.upstream_failures.add(1);
    tracing::debug!(%error, "an answer broke off");
    io::ErrorKind::UnexpectedEof.into()
}

/// Sees whether the client has gone while it waits, and keeps what it has sent meanwhile.
fn poll_ahead<S>(
    worker: &Worker,
    stream: &mut ClientStream<S>,
    ahead: &mut Bytes,
    cx: &mut Context<'_>,
) -> io::Result<()>
where
    S: Wire,
{
    if !ahead.is_empty() {
        return Ok(());
    }
    match poll_read(worker, stream, cx, false)? {
        Poll::Ready(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Poll::Ready(count) => {
            *ahead = Bytes::copy_from_slice(&worker.reads.borrow()[..count]);
            Ok(())
        }
        Poll::Pending => Ok(()),
    }
}
