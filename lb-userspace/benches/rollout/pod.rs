//! A pod: a listener and its connections, from its start to the end of its process.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::Kind;
use crate::{http1, http2, websocket};

/// How servers end. Each is what some real one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Announces `Connection: close` (GOAWAY) on what it still answers, and closes what is idle.
    Polite,
    /// Closes after the next answer, without a word.
    Silent,
    /// Resets what is idle, as a killed process does.
    Hasty,
    /// Closes its listener and idle connections as soon as it is told to end, before anybody can
    /// know of it; what it has read it still answers.
    Sudden,
    /// All its life closes connections after a few answers or a short silence.
    Fickle,
}

impl Style {
    /// In turn.
    pub fn of(number: u64) -> Self {
        [Self::Polite, Self::Silent, Self::Hasty, Self::Sudden, Self::Fickle][(number % 5) as usize]
    }
}

/// Longest time that a pod gets to finish what it has. Then it is killed.
const KILLED_AFTER: Duration = Duration::from_secs(20);

/// A running pod.
pub struct Pod {
    /// Where it listens.
    pub address: SocketAddr,
    /// How it ends.
    pub style: Style,
    ending: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// What a pod's connections know of it.
pub struct Me {
    /// Its address, which its answers show.
    pub address: SocketAddr,
    /// How it ends.
    pub style: Style,
    /// True from when it ends.
    pub ending: watch::Receiver<bool>,
}

impl Me {
    /// Whether it ends.
    pub fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Waits until it ends.
    pub async fn ends(&self) {
        let mut ending = self.ending.clone();
        let _ = ending.wait_for(|ending| *ending).await;
    }
}

impl Pod {
    /// Starts one. It listens when this returns.
    pub fn start(address: SocketAddr, kind: Kind, style: Style) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(address).expect("an address of loopback");
        let listener = socket.listen(1024).expect("listens");
        let (ending, told) = watch::channel(false);
        let me = Rc::new(Me { address, style, ending: told });
        let task = tokio::task::spawn_local(run(listener, kind, me));
        Self { address, style, ending, task }
    }

    /// Tells it to end, and waits until its process is gone.
    pub async fn end(mut self) {
        self.ending.send_replace(true);
        if tokio::time::timeout(KILLED_AFTER, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn run(listener: TcpListener, kind: Kind, me: Rc<Me>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let me = me.clone();
                connections.spawn_local(async move { serve(stream, kind, &me).await });
            }
            () = me.ends() => break,
        }
        while connections.try_join_next().is_some() {}
    }
    // Closed before connections end: who connects now is refused. What has come is still taken, by
    // the kernel's word: the event loop may not have heard of it yet. What would come amid this is not
    // taken: the kernel resets what waits for a listener that is closed.
    if let Ok(listener) = listener.into_std() {
        SockRef::from(&listener).attach_filter(&[NOTHING]).expect("a filter");
        while let Ok((stream, _)) = listener.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            let Ok(stream) = stream else { continue };
            let me = me.clone();
            connections.spawn_local(async move { serve(stream, kind, &me).await });
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn serve(stream: TcpStream, kind: Kind, me: &Me) {
    match kind {
        Kind::Http1 => http1::serve(stream, me).await,
        Kind::Http2 => http2::serve(stream, me).await,
        Kind::WebSocket => websocket::serve(stream, me).await,
    }
}

/// Hears nothing more from now on, if all is read that has come: true then, and the connection can be
/// closed without losing anything.
///
/// A server that closes a connection loses what is delivered between its last look and the end, and
/// nobody can send that again that may not be done twice: its kernel has said that it came. How long
/// that takes depends on what else the machine does. So payload is dropped before the last look, as a
/// network would, and acknowledgements are not: the kernel does not say then what was not taken.
pub fn turns_deaf(stream: &TcpStream) -> bool {
    let socket = SockRef::from(stream);
    socket.attach_filter(&[HEADERS_ONLY]).expect("a filter");
    let mut byte = [0];
    let peek = recv(stream.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    let deaf = !matches!(peek, Ok(count) if count > 0);
    if !deaf {
        // What was dropped comes again.
        socket.detach_filter().expect("there is one");
    }
    deaf
}

/// `BPF_RET | BPF_K`: how many bytes of each packet are taken, TCP's header in any case.
const RETURN: u16 = 6;
const HEADERS_ONLY: SockFilter = SockFilter::new(RETURN, 0, 0, 1);
const NOTHING: SockFilter = SockFilter::new(RETURN, 0, 0, 0);

/// Closes with a reset instead of a FIN.
pub fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}
