//! As much of an HTTP/2 client (RFC 9113) as a benchmark needs: the same GET on every stream.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The state of one connection.
pub struct Frames {
    /// The request as a block of HPACK that uses no dynamic table.
    block: Vec<u8>,
    /// Requests at a time.
    streams: usize,
    next: u32,
    /// Stream and when its request was due.
    open: VecDeque<(u32, Instant)>,
    /// A frame that has not arrived completely.
    partial: Vec<u8>,
}

impl Frames {
    pub fn new(host: &str, path: &str, streams: usize) -> Self {
        // Indexed fields of the static table: GET, https.
        let mut block = vec![0x82, 0x87];
        // Literal fields that are not added to the table: their names' places in the static table.
        for (name, value) in [(4, path), (1, host), (58, "bench/1"), (19, "*/*")] {
            match name {
                0..15 => block.push(name),
                _ => block.extend([0x0f, name - 15]),
            }
            block.push(u8::try_from(value.len()).expect("short"));
            block.extend(value.as_bytes());
        }
        Self { block, streams, next: 1, open: VecDeque::new(), partial: Vec::new() }
    }

    /// The client's preface: no pushes, and windows that never close.
    pub fn greet(&self, out: &mut Vec<u8>) {
        out.extend(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let settings = [[0, 2, 0, 0, 0, 0], [0, 4, 0x3f, 0xff, 0xff, 0xff]].concat();
        frame(out, SETTINGS, 0, 0, &settings);
        frame(out, WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
    }

    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// How many more requests may be sent now.
    pub fn room(&self) -> usize {
        self.streams - self.open.len().min(self.streams)
    }

    /// Writes a request that was due at `at`.
    pub fn ask(&mut self, at: Instant, out: &mut Vec<u8>) {
        frame(out, HEADERS, END_STREAM | END_HEADERS, self.next, &self.block);
        self.open.push_back((self.next, at));
        self.next += 2;
    }

    /// Takes bytes that came, and answers what must be.
    pub fn take(
        &mut self,
        bytes: &[u8],
        again: bool,
        out: &mut Vec<u8>,
        mut answered: impl FnMut(Instant),
    ) -> io::Result<()> {
        let mut partial = std::mem::take(&mut self.partial);
        let mut rest = if partial.is_empty() {
            bytes
        } else {
            partial.extend_from_slice(bytes);
            &partial[..]
        };
        while let Some((head, payload)) = rest.split_at_checked(9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some((payload, after)) = payload.split_at_checked(length) else { break };
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            self.on_frame(head[3], head[4], stream, payload, out)?;
            if matches!(head[3], DATA | HEADERS) && head[4] & END_STREAM != 0 {
                let Some(at) = self.open.iter().position(|(open, _)| *open == stream) else {
                    return Err(io::Error::other("an answer on a stream that is not open"));
                };
                answered(self.open.remove(at).expect("found above").1);
                if again {
                    self.ask(Instant::now(), out);
                }
            }
            rest = after;
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    fn on_frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        match kind {
            SETTINGS if flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(out, PING, ACK, 0, payload),
            HEADERS => {
                // `:status 200` of the static table comes first, after changes of the table's size.
                let first = payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                if first != Some(&0x88) {
                    return Err(io::Error::other("an answer that is not 200"));
                }
            }
            RST_STREAM | GOAWAY => {
                let why = format!("frame {kind} on stream {stream}: {payload:?}");
                return Err(io::Error::other(why));
            }
            _ => {}
        }
        Ok(())
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("short").to_be_bytes();
    out.extend(length);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}
