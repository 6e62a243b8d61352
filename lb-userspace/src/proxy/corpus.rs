//! Bytes from outside through everything that reads them: any bytes, and those in tests/corpus/wire.
//!
//! What `cargo xtask fuzz` or a user ever finds goes there as a file.

use std::path::Path;

use proptest::prelude::*;
use tokio::time::Instant;

use super::frames::Frames;
use super::guard::Guard;
use super::passthrough;
use super::proxy_header::{self, Parsed};
use crate::route::{Target, normalise_host};

/// Every reader, in pieces of any size: what is found depends on the bytes, not on how they come.
fn read(bytes: &[u8], step: usize) {
    heads(bytes, step);
    frames(bytes, step);
    for end in [bytes.len(), bytes.len() / 2] {
        match proxy_header::parse(&bytes[..end]) {
            Ok(Parsed::Header(length, _)) => assert!(length <= end, "{bytes:?}"),
            Ok(Parsed::Part(whole)) => assert!(whole > end, "{bytes:?}"),
            Err(_) => {}
        }
    }
    if let Ok(Some(name)) = passthrough::name_in(bytes) {
        let name = name.as_bytes();
        assert!(bytes.len() > name.len(), "a name comes from what was sent: {bytes:?}");
    }
    let text = String::from_utf8_lossy(bytes);
    if let Ok(target) = Target::parse(&text) {
        let again = Target::parse(target.path_and_query());
        assert_eq!(again.as_ref(), Ok(&target), "what is sent on is what was matched: {text:?}");
    }
    if let Ok(host) = normalise_host(&text) {
        let again = normalise_host(&host).map(|host| host.into_owned());
        assert_eq!(again.as_deref(), Ok(&*host), "{text:?}");
    }
}

/// The guard lets nothing pass that httparse, which hyper reads with, takes for another head.
fn heads(bytes: &[u8], step: usize) {
    let mut whole = Guard::default();
    whole.inspect(bytes);
    let mut parts = Guard::default();
    for part in bytes.chunks(step) {
        if parts.inspect(part) < part.len() {
            break;
        }
    }
    // Of a long line that comes in pieces only the begin is kept, which is enough to refuse it.
    if bytes.split(|byte| *byte == b'\n').all(|line| line.len() < 200) {
        assert_eq!((whole.refused(), whole.heads()), (parts.refused(), parts.heads()), "{bytes:?} by {step}");
    }
    let mut guard = Guard::default();
    let Some(last) = bytes.iter().position(|byte| {
        let passed = guard.inspect(std::slice::from_ref(byte));
        guard.heads() == 1 || passed == 0
    }) else {
        return;
    };
    if guard.heads() != 1 {
        return;
    }
    let mut space = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut space);
    match request.parse(&bytes[..=last]) {
        Err(_) => {}
        Ok(httparse::Status::Partial) => panic!("hyper waits for more: {bytes:?}"),
        Ok(httparse::Status::Complete(end)) => {
            assert_eq!(end, last + 1, "another end of the head: {bytes:?}");
            let has = |name: &str| {
                let mut lines = request.headers.iter().filter(|line| line.name.eq_ignore_ascii_case(name));
                let first = lines.next().map(|line| line.value.trim_ascii().to_vec());
                assert!(lines.next().is_none(), "two of {name}: {bytes:?}");
                first
            };
            let (length, coding) = (has("content-length"), has("transfer-encoding"));
            assert!(length.is_none() || coding.is_none(), "both: {bytes:?}");
            let body = coding.is_some() || length.is_some_and(|value| value.iter().any(|byte| *byte != b'0'));
            assert_eq!(guard.is_in_body(), body, "{bytes:?}");
        }
    }
}

fn frames(bytes: &[u8], step: usize) {
    let (mut whole, mut parts) = (bytes.to_vec(), bytes.to_vec());
    let opened = Instant::now();
    if Frames::default().follow(&mut whole, 0, opened) {
        // Only a frame whose head comes in one piece can be spoilt for what went before it.
        return;
    }
    let mut frames = Frames::default();
    for part in parts.chunks_mut(step) {
        frames.follow(part, 0, opened);
    }
    assert_eq!(whole, parts, "{bytes:?} by {step}");
}

/// Pieces that mean something to somebody, in any order.
fn tricky() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"GET / HTTP/1.1\r\n"[..],
        b"POST /a/../b?c HTTP/1.1\r\n",
        b"GET http://a.test/ HTTP/1.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"Host: a.test\r\n",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Upgrade: x\r\n",
        b"Connection: upgrade\r\n",
        b": ",
        b":",
        b"chunked",
        b"5",
        b"0",
        b"ff;x\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"#",
        b"\0",
        b"%2e",
        b"/..",
        b";",
        b"\\",
        b"\xc3\xa9",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY ",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
        b"\x16\x03\x01\0\x05\x01\0\0\x01\x03",
        b"\0\0\x05\x01\x05\0\0\0\x01hello",
        b"\0\0\x01\0\x01\0\0\0\x01x",
        b"\0\0\x08\x06\0\0\0\0\0pingpong",
    ]);
    let random = prop::collection::vec(any::<u8>(), 0..4);
    let either = prop_oneof![8 => piece.prop_map(<[u8]>::to_vec), 1 => random];
    prop::collection::vec(either, 0..16).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes(bytes in tricky(), step in 1..50usize) {
        read(&bytes, step);
    }
}

#[test]
fn what_was_found_once() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/wire");
    let files: Vec<_> = std::fs::read_dir(&directory).expect("the corpus").collect();
    assert!(!files.is_empty());
    for file in files {
        let bytes = std::fs::read(file.expect("a file").path()).expect("a file");
        for step in [1, 2, 9, 10, 100, bytes.len().max(1)] {
            read(&bytes, step);
        }
        for end in 0..bytes.len().min(500) {
            read(&bytes[..end], 7);
        }
    }
}
