//! A plain HTTP/1.1 client that keeps its connection and reads who answered.

use std::io::{Error, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// Nothing takes as long; a request that does is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client with one connection.
pub struct Client {
    port: u16,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The address of the endpoint that answered.
    pub endpoint: Option<Ipv4Addr>,
}

impl Client {
    /// A client of the daemon at this port.
    pub fn new(port: u16) -> Self {
        Self { port, stream: None, buffer: Vec::new() }
    }

    /// One request. A connection that breaks off, whenever that is, is an error.
    pub fn get(&mut self, host: &str, path: &str) -> Result<Answer, Error> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream
            }
        };
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
        self.buffer.clear();
        let head = loop {
            self.fill(&mut stream)?;
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
        };
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let bad = || Error::other("an answer that can't be read");
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
        let length: usize = field("content-length").and_then(|n| n.parse().ok()).ok_or_else(bad)?;
        let keep = field("connection") != Some("close");
        while self.buffer.len() < head + length {
            self.fill(&mut stream)?;
        }
        let body = std::str::from_utf8(&self.buffer[head..]).unwrap_or_default();
        let answer = Answer { status, endpoint: body.parse().ok() };
        self.stream = keep.then_some(stream);
        Ok(answer)
    }

    /// The body of the answer to a request that is answered with 200.
    pub fn text(&mut self, host: &str, path: &str) -> Result<String, Error> {
        let answer = self.get(host, path)?;
        let head = find(&self.buffer, b"\r\n\r\n").map_or(0, |at| at + 4);
        match answer.status {
            200 => Ok(String::from_utf8_lossy(&self.buffer[head..]).into_owned()),
            status => Err(Error::other(format!("status {status}"))),
        }
    }

    fn fill(&mut self, stream: &mut TcpStream) -> Result<(), Error> {
        let mut chunk = [0; 2048];
        match stream.read(&mut chunk)? {
            0 => Err(Error::other("the connection broke off")),
            count => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
