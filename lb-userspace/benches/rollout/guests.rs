//! Clients that nobody wants: they leave, dawdle, flood and lie. What they get does not count, but for
//! the answers that they are owed; that the daemon bears them is what a soak is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::clients::Tally;
use crate::cluster::Kind;

/// At the same time.
const GUESTS: usize = 24;

/// How long one stays that dawdles, at most, in milliseconds.
const LONGEST: u64 = 5000;

/// How many visits there were.
pub static VISITS: AtomicU64 = AtomicU64::new(0);

/// Starts them; they end with the others.
pub fn start(tally: &Arc<Tally>, port: u16, https: u16) {
    for _ in 0..GUESTS {
        let tally = tally.clone();
        tokio::spawn(async move {
            while !tally.is_over() {
                // The other side may end it at any time, which is its right.
                let visit = visit(&tally, port, https);
                let _ = tokio::time::timeout(Duration::from_secs(30), visit).await;
                VISITS.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(fastrand::u64(20..400))).await;
            }
        });
    }
}

async fn visit(tally: &Tally, port: u16, https: u16) -> std::io::Result<()> {
    let host = Kind::Http1.host();
    let kind = fastrand::u8(..12);
    let port = if kind >= 10 { https } else { port };
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let get = format!("GET /guest HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let post = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 300000\r\n\r\n");
    match kind {
        // Comes and goes.
        0 => {}
        // Leaves amid a head, or stays for a while.
        1 => {
            stream.write_all(&get.as_bytes()[..fastrand::usize(1..get.len())]).await?;
            dawdle().await;
        }
        // Leaves before the answer.
        2 => stream.write_all(get.as_bytes()).await?,
        // Leaves amid a body.
        3 => {
            stream.write_all(post.as_bytes()).await?;
            stream.write_all(&vec![b'x'; fastrand::usize(..200_000)]).await?;
            dawdle().await;
        }
        // Reads an answer slowly, and perhaps not to its end.
        4 => {
            stream.write_all(post.as_bytes()).await?;
            stream.write_all(&[b'x'; 300_000]).await?;
            let mut piece = [0; 4096];
            while fastrand::u8(..50) > 0 && stream.read(&mut piece).await? > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        // Nonsense, and two lengths: refused.
        5 => {
            let bytes: Vec<u8> = (0..fastrand::usize(1..500)).map(|_| fastrand::u8(..)).collect();
            stream.write_all(&[&bytes[..], b"\r\n\r\n"].concat()).await?;
            dawdle().await;
        }
        6 => {
            let lines = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
            stream.write_all(format!("POST / HTTP/1.1\r\nHost: {host}\r\n{lines}").as_bytes()).await?;
            expect(tally, &mut stream, "HTTP/1.1 400 ", "two lengths").await?;
        }
        7 => {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: nobody.example.com\r\n\r\n").await?;
            expect(tally, &mut stream, "HTTP/1.1 404 ", "an unknown host").await?;
        }
        // Asks over HTTP/2 and takes it back, over and over.
        8 => {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
            for id in (1..2000u32).step_by(2).map(u32::to_be_bytes) {
                // Three entries of the static table and a host, END_STREAM and END_HEADERS; RST_STREAM.
                let fields = [b"\x82\x86\x84\x01", &[host.len() as u8][..], host.as_bytes()].concat();
                let head = [&[0, 0, fields.len() as u8, 1, 5], &id[..], &fields].concat();
                stream.write_all(&[&head[..], &[0, 0, 4, 3, 0], &id, &[0, 0, 0, 8]].concat()).await?;
            }
        }
        // Nothing but PINGs.
        9 => {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
            let ping = *b"\0\0\x08\x06\0\0\0\0\0pingpong";
            let (mut reader, mut writer) = stream.split();
            let mut sink = tokio::io::sink();
            tokio::select! {
                _ = tokio::io::copy(&mut reader, &mut sink) => {}
                _ = async {
                    while writer.write_all(&ping.repeat(1000)).await.is_ok() {}
                } => {}
            }
        }
        // The begin of a handshake, or nothing like one.
        10 => {
            stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await?;
            dawdle().await;
        }
        _ => {
            stream.write_all(get.as_bytes()).await?;
            dawdle().await;
        }
    }
    Ok(())
}

async fn dawdle() {
    let millis = if fastrand::bool() { 0 } else { fastrand::u64(..LONGEST) };
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

async fn expect(tally: &Tally, stream: &mut TcpStream, begin: &str, what: &str) -> std::io::Result<()> {
    let mut got = vec![0; begin.len()];
    stream.read_exact(&mut got).await?;
    if got != begin.as_bytes() {
        tally.fail("a guest", format!("{what}: {}", String::from_utf8_lossy(&got)));
    }
    Ok(())
}
