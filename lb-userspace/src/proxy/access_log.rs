//! The access log: a line for each request, written by a thread of its own.
//!
//! A worker never waits for the log. When the writer does not keep up, lines are dropped and
//! counted.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use http::HeaderMap;
use http::header::{REFERER, USER_AGENT};
use serde::Serialize;

use super::log_format::LogFormat;
use super::trace::TraceParent;

/// How many lines may wait for the writer.
const QUEUE: usize = 16_384;

/// Longest host and path that are written; bounds what the queue can hold.
const MAX_TEXT: usize = 2048;

/// What is written about a request.
#[derive(Debug, Default, Serialize)]
pub(super) struct Entry {
    /// When the request's head was complete, RFC 3339.
    pub(super) time: String,
    pub(super) client: String,
    pub(super) method: String,
    pub(super) host: String,
    /// As routed: normalised, with the query.
    pub(super) path: String,
    pub(super) protocol: &'static str,
    pub(super) tls: bool,
    /// The Ingress that the route comes from.
    pub(super) route: Option<String>,
    pub(super) cluster: Option<String>,
    pub(super) upstream: Option<String>,
    /// 499 when the client left before the answer.
    pub(super) status: u16,
    /// Body bytes sent to the client; for a tunnel, both directions.
    pub(super) bytes: u64,
    /// Until the last byte of the answer, in microseconds.
    pub(super) duration_us: u64,
    pub(super) request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) referer: Option<String>,
    /// The trace that the request is part of (W3C Trace Context).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_id: Option<String>,
    /// Why the proxy answered in the endpoint's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Entry {
    /// What the client says of itself and of where it comes from.
    pub(super) fn take(&mut self, headers: &HeaderMap) {
        let text = |value: &http::HeaderValue| clip(&String::from_utf8_lossy(value.as_bytes()));
        self.user_agent = headers.get(USER_AGENT).map(text);
        self.referer = headers.get(REFERER).map(text);
        self.trace_id = TraceParent::of(headers).map(|parent| parent.trace_id().to_owned());
    }
}

/// As much of `text` as the log takes.
pub(super) fn clip(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

/// A worker's end of the log.
#[derive(Clone)]
pub(super) struct Log {
    lines: SyncSender<Vec<u8>>,
    format: Arc<LogFormat>,
}

impl Log {
    /// Starts the writer. It ends when the last `Log` is dropped and everything is written.
    pub(super) fn stdout(format: &LogFormat) -> io::Result<(Self, JoinHandle<()>)> {
        let (lines, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&receiver, BufWriter::with_capacity(64 * 1024, io::stdout())))?;
        Ok((Self { lines, format: Arc::new(format.clone()) }, thread))
    }

    /// Hands a line to the writer; false when it had to be dropped.
    pub(super) fn write(&self, entry: &Entry) -> bool {
        self.format.line(entry).is_some_and(|line| self.lines.try_send(line).is_ok())
    }
}

fn write_lines(lines: &Receiver<Vec<u8>>, mut out: impl Write) {
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                // Nothing waits: show what there is before sleeping.
                let _ = out.flush();
                match lines.recv() {
                    Ok(line) => line,
                    Err(RecvError) => break,
                }
            }
        };
        // A closed stdout must not end the proxy; there is nobody to tell.
        let _ = out.write_all(&line);
    }
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_in_order_and_the_queue_is_bounded() {
        let (lines, receiver) = sync_channel(2);
        let log = Log { lines, format: Arc::default() };
        let entry = |path: &str| Entry { path: path.to_owned(), status: 200, ..Entry::default() };
        assert!(log.write(&entry("/1")));
        assert!(log.write(&entry("/2")));
        assert!(!log.write(&entry("/3")), "a full queue drops");
        drop(log);
        let mut out = Vec::new();
        write_lines(&receiver, &mut out);
        let lines: Vec<serde_json::Value> = out
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).expect("JSON"))
            .collect();
        let paths: Vec<_> = lines.iter().map(|line| line["path"].as_str().expect("a path")).collect();
        assert_eq!(paths, ["/1", "/2"]);
    }
}
