//! One client connection: plain or TLS below, HTTP/1.1 or HTTP/2 above.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, HandshakeKind};

use crate::frames::Frames;
use crate::peers::host_name;
use crate::rig::Load;

/// What is spoken above TCP or TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// With so many requests at a time.
    Http2 {
        streams: usize,
    },
}

/// What happened on a connection.
pub enum Event {
    Answered { asked: Instant, resumed: bool },
}

pub struct Client {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    speaks: Speaks,
    /// To be written.
    out: Vec<u8>,
    written: usize,
    /// When the requests were due that have no answer; the oldest first.
    asked: Option<Instant>,
    fresh: bool,
}

enum Speaks {
    Http1(Http1),
    Http2(Box<Frames>),
}

struct Http1 {
    request: Vec<u8>,
    head: Vec<u8>,
    /// What is left of a body; `None` in a head.
    left: Option<usize>,
}

impl Client {
    /// Begins to connect, and asks as soon as that is done.
    pub fn connect(load: &Load, index: usize, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, load.port)))?;
        stream.set_nodelay(true)?;
        // No TIME_WAIT: thousands of connections a second would use the ports up.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let host = host_name(index * 7 % load.hosts);
        let tls = load.tls.as_ref().map(|config| {
            let name = ServerName::try_from(host.clone()).expect("a host name");
            Box::new(ClientConnection::new(Arc::clone(config), name).expect("a client"))
        });
        let path = format!("/a/{}", load.size);
        let speaks = match load.protocol {
            Protocol::Http1 => {
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n"
                );
                Speaks::Http1(Http1 { request: request.into_bytes(), head: Vec::new(), left: None })
            }
            Protocol::Http2 { streams } => Speaks::Http2(Box::new(Frames::new(&host, &path, streams))),
        };
        let mut client =
            Self { stream, tls, speaks, out: Vec::new(), written: 0, asked: None, fresh: load.fresh };
        if let Speaks::Http2(frames) = &mut client.speaks {
            frames.greet(&mut client.out);
        }
        client.put_request(Instant::now());
        Ok(client)
    }

    /// Whether no request waits for an answer.
    pub fn is_idle(&self) -> bool {
        match &self.speaks {
            Speaks::Http1(_) => self.asked.is_none(),
            Speaks::Http2(frames) => frames.is_idle(),
        }
    }

    /// Whether another request may be sent now.
    pub fn has_room(&self) -> bool {
        match &self.speaks {
            Speaks::Http1(_) => self.asked.is_none(),
            Speaks::Http2(frames) => frames.room() > 0,
        }
    }

    /// Sends a request that was due at `at`. What goes wrong with it is seen when it is read.
    pub fn ask(&mut self, at: Instant) {
        match &self.speaks {
            Speaks::Http1(_) => self.put_request(at),
            Speaks::Http2(frames) => {
                for _ in 0..frames.room() {
                    self.put_request(at);
                }
            }
        }
        let _ = self.write();
    }

    fn put_request(&mut self, at: Instant) {
        match &mut self.speaks {
            Speaks::Http1(http) => {
                self.asked = Some(at);
                self.out.extend_from_slice(&http.request);
            }
            Speaks::Http2(frames) => frames.ask(at, &mut self.out),
        }
    }

    /// Does what can be done without waiting. With `again`, each answer is followed by a request.
    pub fn advance(
        &mut self,
        scratch: &mut [u8],
        again: bool,
        note: &mut impl FnMut(Event),
    ) -> io::Result<()> {
        if self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.handshake()?;
        }
        self.write()?;
        loop {
            let (count, more) = match self.read(scratch) {
                Ok((0, _)) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            self.take(&scratch[..count], again, note)?;
            self.write()?;
            if !more {
                return Ok(());
            }
        }
    }

    fn handshake(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        loop {
            while tls.wants_write() {
                match tls.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
            if !tls.is_handshaking() {
                return Ok(());
            }
            match tls.read_tls(&mut self.stream) {
                Ok(0) => return Err(io::Error::other("end of the stream in the handshake")),
                Ok(_) => tls.process_new_packets().map(drop).map_err(io::Error::other)?,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads once; whether there may be more.
    fn read(&mut self, scratch: &mut [u8]) -> io::Result<(usize, bool)> {
        let Some(tls) = &mut self.tls else {
            let count = self.stream.read(scratch)?;
            return Ok((count, count == scratch.len()));
        };
        loop {
            match tls.reader().read(scratch) {
                Ok(count) => return Ok((count, true)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if tls.read_tls(&mut self.stream)? == 0 {
                return Ok((0, false));
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    fn write(&mut self) -> io::Result<()> {
        if self.written < self.out.len() {
            if let Some(tls) = &mut self.tls {
                if !tls.is_handshaking() {
                    self.written += tls.writer().write(&self.out[self.written..])?;
                }
            } else {
                match self.stream.write(&self.out[self.written..]) {
                    Ok(count) => self.written += count,
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    }
                    Err(error) => return Err(error),
                }
            }
            if self.written == self.out.len() {
                self.out.clear();
                self.written = 0;
            }
        }
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                match tls.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Takes bytes that came.
    fn take(&mut self, mut bytes: &[u8], again: bool, note: &mut impl FnMut(Event)) -> io::Result<()> {
        let resumed = self.fresh
            && self.tls.as_ref().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed));
        let http = match &mut self.speaks {
            Speaks::Http1(http) => http,
            Speaks::Http2(frames) => {
                return frames.take(bytes, again, &mut self.out, |asked| {
                    note(Event::Answered { asked, resumed });
                });
            }
        };
        while !bytes.is_empty() {
            let left = match http.left {
                Some(left) => left,
                None => {
                    let before = http.head.len();
                    http.head.extend_from_slice(bytes);
                    let Some(end) = memchr::memmem::find(&http.head, b"\r\n\r\n") else { return Ok(()) };
                    bytes = &bytes[end + 4 - before..];
                    http.head.truncate(end + 2);
                    let left = length(&http.head)?;
                    http.head.clear();
                    left
                }
            };
            let count = left.min(bytes.len());
            bytes = &bytes[count..];
            http.left = (left > count).then_some(left - count);
            if left == count {
                let Some(asked) = self.asked.take() else {
                    return Err(io::Error::other("an answer to nothing"));
                };
                note(Event::Answered { asked, resumed });
                if again {
                    self.asked = Some(Instant::now());
                    self.out.extend_from_slice(&http.request);
                }
            }
        }
        Ok(())
    }
}

/// The body's length in the head of a 200.
fn length(head: &[u8]) -> io::Result<usize> {
    if !head.starts_with(b"HTTP/1.1 200") {
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        return Err(io::Error::other(format!("answered {}", String::from_utf8_lossy(line))));
    }
    head.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok()?.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or_else(|| io::Error::other("an answer without Content-Length"))
}
