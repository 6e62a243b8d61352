//! Bytes that go from one socket to another without being copied here: splice(2) by way of a pipe.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Open files of one pipe.
const FILES: usize = 2;

/// How many pipes a worker has at most. Whoever gets none copies.
const MOST: usize = 64;

/// What a pipe holds at most: what a client that takes nothing costs beside its socket's buffers.
const SIZE: usize = 256 * 1024;

/// How many open files the pipes of one worker are at most.
pub(super) const MOST_FILES: usize = FILES * MOST;

/// One worker's pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    free: RefCell<Vec<Ends>>,
    open: Cell<usize>,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe on loan. Dropped with bytes in it, it is closed.
#[derive(Debug)]
pub(super) struct Pipe {
    pipes: Rc<Pipes>,
    /// `None` only while it is dropped.
    ends: Option<Ends>,
    held: usize,
}

impl Pipes {
    /// A pipe with nothing in it; `None` if there are as many as may be, or no file is left.
    pub(super) fn take(self: &Rc<Self>) -> Option<Pipe> {
        let kept = self.free.borrow_mut().pop();
        let ends = match kept {
            Some(ends) => ends,
            None if self.open.get() < MOST => {
                let ends = Ends::open().ok()?;
                self.open.set(self.open.get() + 1);
                ends
            }
            None => return None,
        };
        Some(Pipe { pipes: Rc::clone(self), ends: Some(ends), held: 0 })
    }

    /// Closes those that nobody uses.
    pub(super) fn sweep(&self) {
        let unused = std::mem::take(&mut *self.free.borrow_mut());
        self.open.set(self.open.get() - unused.len());
    }
}

impl Ends {
    fn open() -> nix::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Room for as many pieces of a packet's size. A user who has too many pages in pipes is
        // refused, and moves less at once.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(SIZE as i32));
        Ok(Self { read, write })
    }
}

impl Pipe {
    /// Whether all that came has gone.
    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes some of the next `most` bytes of a socket, for an empty pipe: with a full one, the
    /// kernel says the same as with a socket that has nothing. `Ok(0)` is the end of the stream.
    pub(super) fn poll_fill(
        &mut self,
        from: &TcpStream,
        most: u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_empty(), "what it holds has to go first");
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(SIZE);
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(from.poll_read_ready(cx))?;
            match moved(from, Interest::READABLE, from, &ends.write, most) {
                Err(error) if is_repeated(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    self.held = count;
                    return Poll::Ready(Ok(count));
                }
            }
        }
    }

    /// Gives a socket some of what the pipe holds.
    pub(super) fn poll_drain(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(to.poll_write_ready(cx))?;
            match moved(to, Interest::WRITABLE, &ends.read, to, self.held) {
                Err(error) if is_repeated(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    self.held -= count;
                    return Poll::Ready(Ok(count));
                }
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        match self.ends.take() {
            Some(ends) if self.held == 0 => self.pipes.free.borrow_mut().push(ends),
            _ => self.pipes.open.set(self.pipes.open.get() - 1),
        }
    }
}

/// Tries to move bytes, one end of which is at `socket`.
fn moved(
    socket: &TcpStream,
    interest: Interest,
    from: impl AsFd,
    to: impl AsFd,
    most: usize,
) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    socket.try_io(interest, || Ok(splice(from, None, to, None, most, flags)?))
}

/// Whether the socket has to be asked again: once it is ready, or at once.
fn is_repeated(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let one = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("accepted");
        (one, listener.accept().await.expect("a connection").0)
    }

    #[tokio::test]
    async fn bytes_go_through_in_order() {
        let ((mut source, from), (to, mut sink)) = (pair().await, pair().await);
        let bytes: Vec<u8> = (0..3 * SIZE).map(|at| (at / 7) as u8).collect();
        let sent = bytes.clone();
        let writer = tokio::spawn(async move {
            source.write_all(&sent).await.expect("taken");
            // What follows belongs to nobody here.
            source.write_all(b"next").await.expect("taken");
            source
        });
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            sink.read_to_end(&mut read).await.expect("whole");
            read
        });
        let pipes = Rc::new(Pipes::default());
        let mut pipe = pipes.take().expect("one");
        let mut left = bytes.len() as u64;
        while left > 0 {
            left -= poll_fn(|cx| pipe.poll_fill(&from, left, cx)).await.expect("filled") as u64;
            while !pipe.is_empty() {
                assert!(poll_fn(|cx| pipe.poll_drain(&to, cx)).await.expect("drained") > 0);
            }
        }
        drop(to);
        assert!(reader.await.expect("read") == bytes);
        drop(writer.await.expect("written"));
        let rest = poll_fn(|cx| pipe.poll_fill(&from, 100, cx)).await.expect("the rest");
        assert_eq!((rest, pipe.is_empty()), (4, false));
    }

    #[tokio::test]
    async fn pipes_are_few_and_come_back() {
        let pipes = Rc::new(Pipes::default());
        let mut taken: Vec<_> = std::iter::from_fn(|| pipes.take()).collect();
        assert_eq!(taken.len(), MOST);
        let (mut source, from) = pair().await;
        source.write_all(b"left in it").await.expect("taken");
        let mut used = taken.pop().expect("one");
        poll_fn(|cx| used.poll_fill(&from, 100, cx)).await.expect("filled");
        drop(used);
        assert!(pipes.free.borrow().is_empty(), "what holds bytes is of no use to others");
        taken.truncate(1);
        assert_eq!((pipes.free.borrow().len(), pipes.open.get()), (MOST - 2, MOST - 1));
        pipes.sweep();
        assert_eq!((pipes.free.borrow().len(), pipes.open.get()), (0, 1));
    }
}
