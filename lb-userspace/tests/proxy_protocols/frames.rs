//! An HTTP/2 client that sends what it is told to, valid or not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::rig::connect;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The number at this place of the payload.
    pub fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// A frame on the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// One setting.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// A header field that is no entry of any table.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// `:method`, `:scheme` and `:path` from the static table, and the authority.
pub fn fields(method: u8, host: &str) -> Vec<u8> {
    let length = u8::try_from(host.len()).expect("short");
    [&[method, 0x86, 0x84, 0x01, length][..], host.as_bytes()].concat()
}

pub fn get(host: &str) -> Vec<u8> {
    fields(0x82, host)
}

pub fn post(host: &str) -> Vec<u8> {
    fields(0x83, host)
}

/// A whole request without a body.
pub fn request(stream: u32, fields: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, fields)
}

/// A request whose body follows.
pub fn open(stream: u32, fields: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, fields)
}

pub struct Client(pub TcpStream);

impl Client {
    /// Connects; says the preface and these bytes, which begin with settings.
    pub fn start(address: SocketAddr, settings: &[u8]) -> Self {
        let mut stream = connect(address);
        stream.write_all(&[PREFACE, settings].concat()).expect("sent");
        Self(stream)
    }

    /// With no settings of its own, once both sides know the other's.
    pub fn new(address: SocketAddr) -> Self {
        let mut client = Self::start(address, &frame(SETTINGS, 0, 0, &[]));
        let mut acknowledged = false;
        let mut known = false;
        while !(acknowledged && known) {
            let frame = client.next().expect("settings");
            if frame.kind == SETTINGS {
                match frame.flags & ACK {
                    0 => known = true,
                    _ => acknowledged = true,
                }
            }
        }
        client.send(&frame(SETTINGS, ACK, 0, &[]));
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("sent");
    }

    /// The next frame; `None` at the end.
    pub fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until a frame fits; panics at the end.
    pub fn until(&mut self, what: &str, fits: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            match self.next() {
                Some(frame) if fits(&frame) => return frame,
                Some(_) => {}
                None => panic!("{what}: the connection ended"),
            }
        }
    }

    /// The connection still answers.
    pub fn ping(&mut self, what: &str) {
        self.send(&frame(PING, 0, 0, b"12345678"));
        self.until(what, |frame| {
            frame.kind == PING && frame.flags & ACK != 0 && frame.payload == b"12345678"
        });
    }

    /// The code of the GOAWAY that the connection ends with, if there is one.
    pub fn last_words(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                code = Some(frame.number(4));
            }
        }
        code
    }
}
