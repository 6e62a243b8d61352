//! An endpoint: answers `GET …/SIZE` with as many bytes, as cheaply as can be.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::OnceLock;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// The sizes that can be asked for.
pub const SIZES: [usize; 3] = [128, 16 * 1024, 1024 * 1024];

/// One connection of a proxy to an endpoint.
pub struct Endpoint {
    stream: TcpStream,
    head: Vec<u8>,
    /// What is left to write.
    answer: &'static [u8],
}

impl Endpoint {
    pub fn new(mut stream: TcpStream, registry: &Registry, token: Token) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, head: Vec::with_capacity(1024), answer: &[] })
    }

    /// Does what can be done without waiting; an error ends the connection.
    pub fn advance(&mut self) -> io::Result<()> {
        if !self.write()? {
            return Ok(());
        }
        let mut space = [0; 8192];
        loop {
            let count = match self.stream.read(&mut space) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.head.extend_from_slice(&space[..count]);
            if self.head.ends_with(b"\r\n\r\n") {
                self.answer = answer(&self.head);
                self.head.clear();
                self.write()?;
            }
            if count < space.len() {
                return Ok(());
            }
        }
    }

    /// True when nothing is left to write.
    fn write(&mut self) -> io::Result<bool> {
        while !self.answer.is_empty() {
            match self.stream.write(self.answer) {
                Ok(count) => self.answer = &self.answer[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// The answer to a request for one of the sizes; for anything else the smallest.
fn answer(head: &[u8]) -> &'static [u8] {
    static ANSWERS: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    let answers = ANSWERS.get_or_init(|| {
        SIZES.map(|size| {
            let head = format!(
                "HTTP/1.1 200 OK\r\nServer: endpoint\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
                 Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
            );
            let mut answer = head.into_bytes();
            answer.resize(answer.len() + size, b'x');
            answer
        })
    });
    let target = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let digits = target.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let size = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    &answers[SIZES.iter().position(|one| *one == size).unwrap_or(0)]
}
