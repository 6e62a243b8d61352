//! All endpoints in one listener: it answers with the address that it was asked at.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::World;

/// Idle connections are closed by many servers after so long; being surprised by it is the proxy's job.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A pod that is told to end goes on for a while, as every deployment guide says. Requests after
/// that are counted.
const GRACE_MS: u32 = 1000;

/// What the endpoints saw.
#[derive(Default)]
pub struct Seen {
    /// Requests.
    pub requests: AtomicU64,
    /// Requests to endpoints that left more than [`GRACE_MS`] before.
    pub stale: AtomicU64,
}

/// Starts the listener on a thread of its own. The world is known a little later than the port.
pub fn start(world: Arc<OnceLock<Arc<World>>>, seen: Arc<Seen>) -> u16 {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).expect("a free port");
            let listener = socket.listen(4096).expect("listens");
            sender.send(listener.local_addr().expect("bound").port()).expect("somebody waits");
            accept(listener, world, seen).await;
        });
    });
    receiver.recv().expect("a port")
}

async fn accept(listener: TcpListener, world: Arc<OnceLock<Arc<World>>>, seen: Arc<Seen>) {
    loop {
        // Out of files for a moment: the queue waits.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let (world, seen) = (world.clone(), seen.clone());
        tokio::task::spawn_local(async move {
            // Whatever goes wrong here is an error at the client, where it is counted.
            let _ = serve(stream, &world, &seen).await;
        });
    }
}

async fn serve(mut stream: TcpStream, world: &OnceLock<Arc<World>>, seen: &Seen) -> std::io::Result<()> {
    let SocketAddr::V4(local) = stream.local_addr()? else { return Ok(()) };
    let address = *local.ip();
    stream.set_nodelay(true)?;
    let body = address.to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut head = Vec::with_capacity(512);
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            match tokio::time::timeout(KEEP_ALIVE, stream.read_buf(&mut head)).await {
                Ok(Ok(count)) if count > 0 => {}
                _ => return Ok(()),
            }
        }
        seen.requests.fetch_add(1, Ordering::Relaxed);
        if world.get().and_then(|world| world.gone_for(address)).is_some_and(|ms| ms > GRACE_MS) {
            seen.stale.fetch_add(1, Ordering::Relaxed);
        }
        stream.write_all(answer.as_bytes()).await?;
    }
}
