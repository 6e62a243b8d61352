//! A client's byte stream as hyper sees it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::frames::{Frames, calm};
use super::guard::{Guard, Refusal};
use super::pipe::Pipe;
use super::respond;
use super::settings::Timeouts;

/// How long a refused client may go on sending. Closing at once would make the kernel answer its
/// bytes with a reset, which can overtake the answer.
const LINGER: Duration = Duration::from_secs(1);

/// How long a client that got its answer early may go on sending the rest of its body: between two
/// reads, and in all. As nginx's `lingering_timeout` and `lingering_time`.
const BODY_LINGER: Duration = Duration::from_secs(5);
const LONGEST_BODY_LINGER: Duration = Duration::from_secs(30);

/// What a client's bytes come through.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// The socket, if it carries the client's bytes as they are.
    fn plain(&self) -> Option<&TcpStream>;
}

impl Wire for TcpStream {
    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Wire for TlsStream<TcpStream> {
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}
/// Bytes of interim answers that wait for a client.
const MOST_EARLY: usize = 16 * 1024;

/// What a connection's stream and its requests tell each other. Both live on one thread; the
/// atomics are there because hyper wants a stream that could move.
#[derive(Debug)]
pub(super) struct Gate {
    opened: Instant,
    completed: AtomicU64,
    /// When the last request was completed, in microseconds after `opened`.
    idle_since: AtomicU64,
    /// hyper, where it waits for a request to be completed. It would not ask again by itself.
    waiting: AtomicWaker,
    tunnel: AtomicBool,
    refused: AtomicU16,
    /// Bytes that went to the client.
    written: AtomicU64,
    /// The client sends frames that carry nothing, one after the other.
    floods: AtomicBool,
    /// Interim answers that the client has not got yet, and whether there are any.
    early: Mutex<Vec<u8>>,
    has_early: AtomicBool,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            completed: AtomicU64::default(),
            idle_since: AtomicU64::default(),
            waiting: AtomicWaker::new(),
            tunnel: AtomicBool::default(),
            refused: AtomicU16::default(),
            written: AtomicU64::default(),
            floods: AtomicBool::default(),
            early: Mutex::default(),
            has_early: AtomicBool::default(),
        })
    }

    /// A request has been answered to the last byte, or given up.
    pub(super) fn complete_one(&self, now: std::time::Instant) {
        self.completed.store(self.completed.load(Relaxed) + 1, Relaxed);
        let micros =
            u64::try_from(Instant::from_std(now).duration_since(self.opened).as_micros()).unwrap_or(u64::MAX);
        self.idle_since.store(micros, Relaxed);
        self.waiting.wake();
    }

    /// Gives the client an interim answer, as it goes over the wire, if there is room for it. The task
    /// that asks is the one that writes.
    pub(super) fn send_early(&self, answer: &[u8]) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        if early.len() + answer.len() <= MOST_EARLY {
            early.extend_from_slice(answer);
            self.has_early.store(true, Relaxed);
        }
    }

    fn take_early(&self) -> Bytes {
        self.has_early.store(false, Relaxed);
        std::mem::take(&mut *self.early.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }

    /// What follows on this connection is another protocol.
    pub(super) fn open_tunnel(&self) {
        self.tunnel.store(true, Relaxed);
    }

    /// How many bytes went to the client so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Whether an HTTP/2 connection ends because of what its client sends.
    pub(super) fn floods(&self) -> bool {
        self.floods.load(Relaxed)
    }

    /// The status that the stream itself answered with, beside hyper.
    pub(super) fn refused(&self) -> Option<u16> {
        Some(self.refused.load(Relaxed)).filter(|status| *status != 0)
    }
}

/// A client's byte stream: begins with what was read to tell HTTP/2 from HTTP/1.1, shows request
/// heads to the guard, ends when the client sends or takes nothing for too long, and answers what
/// hyper must not see or would not answer.
pub(super) struct ClientStream<S> {
    inner: S,
    /// Read and not given to hyper yet.
    prefix: Bytes,
    /// `None` on HTTP/2, whose framing leaves no room for doubt.
    guard: Option<Guard>,
    /// There only on HTTP/2.
    frames: Option<Box<Frames>>,
    gate: Arc<Gate>,
    timeouts: Timeouts,
    /// Which head is being read, by number, and since when.
    in_head: Option<(u64, Instant)>,
    /// Runs while hyper waits for a request.
    read_timer: Option<Pin<Box<Sleep>>>,
    /// Runs while the client takes nothing.
    write_timer: Option<Pin<Box<Sleep>>>,
    is_stalled: bool,
    /// The begin of an answer, or all of it, has been written since the last flush.
    is_amid: bool,
    /// An interim answer that is being written.
    early: Bytes,
    farewell: Option<Farewell>,
    /// Nothing more is written; what is left of a body is read and dropped.
    lingering: Option<Lingering>,
}

struct Lingering {
    end: Instant,
    timer: Pin<Box<Sleep>>,
}

/// The answer to a refused request and the end after it.
enum Farewell {
    Write(Bytes),
    Flush,
    Shutdown,
    Linger(Pin<Box<Sleep>>),
    Done,
}

impl<S> ClientStream<S> {
    pub(super) fn new(inner: S, prefix: Bytes, guarded: bool, gate: Arc<Gate>, timeouts: Timeouts) -> Self {
        Self {
            inner,
            prefix,
            guard: guarded.then(Guard::default),
            frames: (!guarded).then(Box::default),
            gate,
            timeouts,
            in_head: None,
            read_timer: None,
            write_timer: None,
            is_stalled: false,
            is_amid: false,
            early: Bytes::new(),
            farewell: None,
            lingering: None,
        }
    }

    /// With a timer that somebody had before.
    pub(super) fn with_timer(mut self, timer: Option<Pin<Box<Sleep>>>) -> Self {
        self.read_timer = timer;
        self
    }

    fn count_write(&self, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = result {
            self.gate.written.store(self.gate.written() + *count as u64, Relaxed);
        }
    }

    fn note_write<T>(&mut self, result: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.is_stalled = false;
            return result;
        }
        // A tunnel has no time limit; TCP's own probes find a client that is gone.
        if self.gate.tunnel.load(Relaxed) {
            return Poll::Pending;
        }
        let limit = self.timeouts.client;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.is_stalled {
            self.is_stalled = true;
            timer.as_mut().reset(Instant::now() + limit);
        }
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The guard, unless the connection speaks another protocol by now.
    fn guard(&mut self) -> Option<&mut Guard> {
        self.guard.as_mut().filter(|_| !self.gate.tunnel.load(Relaxed))
    }

    /// When the client has been silent for too long, as things are now; `None` while a body is
    /// read, which others watch over. While a request is being answered, the time that its client
    /// will have at least.
    fn patience_ends(&mut self) -> Option<Instant> {
        let Timeouts { header, idle, .. } = self.timeouts;
        let completed = self.gate.completed.load(Relaxed);
        let guard = self.guard()?;
        let heads = guard.heads();
        if guard.is_in_head() {
            let since = match self.in_head {
                Some((number, since)) if number == heads => since,
                _ => Instant::now(),
            };
            self.in_head = Some((heads, since));
            Some(since + header)
        } else if !guard.is_between_requests() {
            None
        } else if heads == 0 {
            Some(self.gate.opened + header)
        } else if completed < heads {
            Some(Instant::now() + idle)
        } else {
            Some(self.gate.opened + Duration::from_micros(self.gate.idle_since.load(Relaxed)) + idle)
        }
    }

    /// Ready when the client has been silent for too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.patience_ends() else { return Poll::Pending };
        let timer = self.read_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        // A timer that rings too early is cheaper than one that is moved for every request.
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        while let Some(timer) = &mut self.read_timer
            && timer.as_mut().poll(cx).is_ready()
        {
            let until = self.patience_ends().filter(|until| *until > Instant::now());
            match (until, &mut self.read_timer) {
                (Some(until), Some(timer)) => timer.as_mut().reset(until),
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientStream<S> {
    /// Answers a refused request in hyper's place, once those before it are answered. Ready when
    /// the connection can be closed.
    fn poll_refuse(&mut self, why: Refusal, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.farewell {
                None => {
                    let heads = self.guard.as_ref().map_or(0, Guard::heads);
                    if self.gate.completed.load(Relaxed) < heads {
                        self.gate.waiting.register(cx.waker());
                        return Poll::Pending;
                    }
                    self.gate.refused.store(why.status().as_u16(), Relaxed);
                    self.farewell = Some(match self.is_stalled {
                        true => Farewell::Done,
                        false => Farewell::Write(respond::refusal(why.status())),
                    });
                }
                Some(Farewell::Write(rest)) => {
                    let wrote = Pin::new(&mut self.inner).poll_write(cx, rest);
                    if let Poll::Ready(Ok(count)) = wrote {
                        rest.advance(count);
                        if rest.is_empty() {
                            self.farewell = Some(Farewell::Flush);
                        }
                    }
                    if ready!(self.note_write(wrote, cx))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Some(Farewell::Flush) => {
                    let flushed = Pin::new(&mut self.inner).poll_flush(cx);
                    ready!(self.note_write(flushed, cx))?;
                    self.farewell = Some(Farewell::Shutdown);
                }
                Some(Farewell::Shutdown) => {
                    let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
                    ready!(self.note_write(shut, cx))?;
                    self.farewell = Some(Farewell::Linger(Box::pin(tokio::time::sleep(LINGER))));
                }
                Some(Farewell::Linger(timer)) => {
                    if timer.as_mut().poll(cx).is_pending() {
                        let mut space = [0; 4096];
                        let mut unwanted = ReadBuf::new(&mut space);
                        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut unwanted))?;
                        if !unwanted.filled().is_empty() {
                            continue;
                        }
                    }
                    self.farewell = Some(Farewell::Done);
                }
                Some(Farewell::Done) => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> ClientStream<S> {
    /// Ready when no interim answer waits. Those that come amid another answer, of which a part has not
    /// been taken, are dropped: they are hints.
    pub(super) fn poll_early(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gate.has_early.load(Relaxed) && self.early.is_empty() {
            let early = self.gate.take_early();
            if !self.is_amid {
                self.early = early;
            }
        }
        while !self.early.is_empty() {
            let wrote = Pin::new(&mut self.inner).poll_write(cx, &self.early);
            if let Poll::Ready(Ok(count)) = wrote {
                self.early.advance(count);
            }
            if ready!(self.note_write(wrote, cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> ClientStream<S> {
    /// Ready when nothing is left of the body that the client was sending when it got its answer.
    /// Closed with bytes unread, the connection would be reset, and the answer lost with it.
    fn poll_rest_of_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.guard().is_some_and(|guard| guard.is_in_body()) {
                return Poll::Ready(Ok(()));
            }
            let now = Instant::now();
            let lingering = self.lingering.get_or_insert_with(|| Lingering {
                end: now + LONGEST_BODY_LINGER,
                timer: Box::pin(tokio::time::sleep(BODY_LINGER)),
            });
            let mut space = [0; 4096];
            let mut unwanted = ReadBuf::new(&mut space);
            if Pin::new(&mut self.inner).poll_read(cx, &mut unwanted)?.is_pending() {
                return lingering.timer.as_mut().poll(cx).map(Ok);
            }
            if unwanted.filled().is_empty() || now >= lingering.end {
                return Poll::Ready(Ok(()));
            }
            lingering.timer.as_mut().reset((now + BODY_LINGER).min(lingering.end));
            if let Some(guard) = self.guard() {
                guard.inspect(unwanted.filled());
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientStream<S> {
    /// Reads while a request is being answered: nobody waits for the client, who has all time.
    pub(super) fn poll_read_on(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.fill(cx, buf, false)
    }

    /// Takes what comes while nobody knows what it is, as far as one read goes. Ready where the client has
    /// gone.
    fn poll_held(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            return Poll::Ready(Ok(()));
        }
        self.prefix = Bytes::copy_from_slice(&buf.filled()[before..]);
        buf.set_filled(before);
        Poll::Pending
    }

    fn fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, patiently: bool) -> Poll<io::Result<()>> {
        let this = self;
        let before = buf.filled().len();
        loop {
            let completed = this.gate.completed.load(Relaxed);
            if let Some(guard) = this.guard() {
                match guard.refused() {
                    Some((_, true)) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                    Some((why, false)) => return this.poll_refuse(why, cx),
                    None => {}
                }
                if guard.is_held() {
                    if completed < guard.heads() {
                        // Whether these bytes are a request is decided by the answer.
                        this.gate.waiting.register(cx.waker());
                        return this.poll_held(cx, buf);
                    }
                    guard.declined();
                }
            }
            if this.prefix.has_remaining() {
                let count = this.prefix.len().min(buf.remaining());
                buf.put_slice(&this.prefix.split_to(count));
            } else if Pin::new(&mut this.inner).poll_read(cx, buf)?.is_pending() {
                if !patiently {
                    return Poll::Pending;
                }
                ready!(this.poll_patience(cx));
                match this.guard().filter(|guard| guard.is_in_head()) {
                    Some(guard) => guard.refuse(Refusal::TooSlow),
                    None => return Poll::Ready(Ok(())),
                }
                continue;
            }
            if let Some(frames) = &mut this.frames {
                let gate = &this.gate;
                if frames.follow(&mut buf.filled_mut()[before..], gate.written(), gate.opened) {
                    gate.floods.store(true, Relaxed);
                }
            }
            let Some(guard) = this.guard() else { return Poll::Ready(Ok(())) };
            let new = &buf.filled()[before..];
            let count = guard.inspect(new);
            if count == new.len() {
                return Poll::Ready(Ok(()));
            }
            this.prefix = [&new[count..], &this.prefix[..]].concat().into();
            buf.set_filled(before + count);
            if count > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: Wire> ClientStream<S> {
    /// Whether a pipe can be emptied into it.
    pub(super) fn takes_pipes(&self) -> bool {
        self.inner.plain().is_some()
    }

    /// Writes what a pipe holds. The pipe's turn comes when nothing else waits to be written.
    pub(super) fn poll_drain(&mut self, pipe: &mut Pipe, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(socket) = self.inner.plain() else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        let result = pipe.poll_drain(socket, cx);
        self.count_write(&result);
        self.note_write(result, cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.fill(cx, buf, true)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_early(cx))?;
        self.is_amid = true;
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.count_write(&result);
        self.note_write(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_early(cx))?;
        self.is_amid = true;
        let result = match self.gate.floods().then(|| last_words(bufs)).flatten() {
            Some(words) => Pin::new(&mut self.inner).poll_write(cx, &words),
            None => Pin::new(&mut self.inner).poll_write_vectored(cx, bufs),
        };
        self.count_write(&result);
        self.note_write(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever writes answers flushes when he has nothing more to write.
        self.is_amid = false;
        ready!(self.poll_early(cx))?;
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.note_write(result, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            // TLS says goodbye, which a client that takes nothing could put off for ever.
            let result = Pin::new(&mut self.inner).poll_shutdown(cx);
            ready!(self.note_write(result, cx))?;
        }
        self.poll_rest_of_body(cx)
    }
}

/// What a client is told that was a flood, if this is the end.
fn last_words(bufs: &[io::IoSlice<'_>]) -> Option<Vec<u8>> {
    let mut parts = bufs.iter().filter(|buf| !buf.is_empty());
    let only = parts.next()?;
    parts.next().is_none().then(|| calm(only)).flatten()
}
