//! Frames that RFC 9113 and RFC 7541 forbid, or ask a certain answer to. The cases are those of
//! h2spec, which no package offers.

use std::io::{Read, Write};

use crate::frames::*;
use crate::rig::*;

const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;

/// What a client sees.
enum Expect {
    /// GOAWAY with one of these codes, and the end. PROTOCOL_ERROR always counts: h2 has it for frames of
    /// a wrong length and for what can't be decoded, too, and RFC 9113 (section 7) lets it stand for
    /// what is more specific.
    Ends(&'static [u32]),
    /// RST_STREAM with one of these codes, or the connection ends: whoever finds that the other side has
    /// lost its way may end it all (RFC 9113 section 5.4).
    Resets(u32, &'static [u32]),
    /// The stream is answered with 200.
    Answers(u32),
    /// Nothing; the connection goes on.
    Ignores,
    /// The end of the connection, whatever is said before.
    Closes,
}

use Expect::{Answers, Closes, Ends, Ignores, Resets};

/// Answers each request once it is complete.
fn patient(stream: &mut std::net::TcpStream) {
    while let Some(head) = read_head(stream) {
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        if head.contains("chunked") {
            let mut body = Vec::new();
            // Chunks without line ends in them, and trailers.
            while !(body.starts_with(b"0\r\n") || contains(&body, b"\r\n0\r\n"))
                || !body.ends_with(b"\r\n\r\n")
            {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    return;
                }
                body.push(byte[0]);
            }
        } else if stream.read_exact(&mut vec![0; length.unwrap_or_default()]).is_err() {
            return;
        }
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn proxy() -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(patient)]);
    rig.cluster("hang", &[endpoint(|stream| while read_head(stream).is_some() {})]);
    rig.route("a.test", "/", "web");
    rig.route("h.test", "/", "hang");
    rig.start(|settings| settings.workers = 1)
}

fn check(proxy: &Running, what: &str, bytes: &[u8], expect: Expect) {
    let mut client = Client::new(proxy.http);
    // The rest may meet a closed door.
    drop(client.0.write_all(bytes));
    match expect {
        Ends(codes) => {
            let code = client.last_words();
            let fits = code.is_some_and(|code| codes.contains(&code) || code == PROTOCOL_ERROR);
            assert!(fits, "{what}: GOAWAY {code:?}, not {codes:?}");
        }
        Resets(stream, codes) => {
            let is_end = |frame: &Frame| {
                let resets = frame.kind == RST_STREAM && frame.stream == stream;
                let answers = frame.kind == HEADERS && frame.stream == stream;
                assert!(!answers, "{what}: answered");
                resets || frame.kind == GOAWAY
            };
            let frame = client.until(what, is_end);
            let (ends, code) = match frame.kind {
                GOAWAY => (true, frame.number(4)),
                _ => (false, frame.number(0)),
            };
            let fits = codes.contains(&code) || (ends && code == PROTOCOL_ERROR);
            assert!(fits, "{what}: code {code}, not {codes:?}");
        }
        Answers(stream) => {
            let answer = client.until(what, |frame| {
                assert!(!matches!(frame.kind, RST_STREAM | GOAWAY), "{what}: {:?}", frame.payload);
                frame.kind == HEADERS && frame.stream == stream
            });
            assert_eq!(answer.payload[0], 0x88, "{what}: not 200");
        }
        Ignores => client.ping(what),
        Closes => drop(client.last_words()),
    }
}

/// Streams that both sides have ended are closed; what comes on one then is an error of the connection.
#[test]
fn closed_streams() {
    let proxy = proxy();
    let get = get("a.test");
    for (what, bytes) in [
        ("DATA", frame(DATA, END_STREAM, 1, b"x")),
        ("empty DATA", frame(DATA, 0, 1, b"")),
        ("HEADERS", request(1, &get)),
        ("CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, &get)),
    ] {
        let mut client = Client::new(proxy.http);
        client.send(&request(1, &get));
        client.until(what, |frame| frame.stream == 1 && frame.flags & END_STREAM != 0);
        client.send(&bytes);
        let code = client.last_words();
        assert!(matches!(code, Some(STREAM_CLOSED | PROTOCOL_ERROR)), "{what}: GOAWAY {code:?}");
        // Streams that are still open, and those that were reset, are no such thing.
        let mut client = Client::new(proxy.http);
        client.send(&[open(1, &post("a.test")), open(3, &post("a.test"))].concat());
        client.send(&frame(RST_STREAM, 0, 1, &8u32.to_be_bytes()));
        client.send(&[frame(DATA, 0, 1, b"x"), frame(DATA, END_STREAM, 3, b"x")].concat());
        client.until(what, |frame| frame.stream == 3 && frame.flags & END_STREAM != 0);
    }
}

/// What begins neither HTTP/1.1 nor HTTP/2 ends, with TLS and without.
#[test]
fn prefaces() {
    let mut rig = Rig::new();
    rig.certificate("a.test", certificate("a.test"));
    let proxy = rig.start(|settings| settings.workers = 1);
    for preface in [
        &b"INVALID CONNECTION PREFACE\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n",
        b"PRI * HTTP/1.1\r\n\r\n",
    ] {
        let mut plain = connect(proxy.http);
        plain.write_all(preface).expect("sent");
        drop(plain.read_to_end(&mut Vec::new()));
        let mut secure = tls(proxy.https, "a.test", &[b"h2"]);
        secure.write_all(preface).expect("sent");
        drop(secure.read_to_end(&mut Vec::new()));
    }
    let mut client = Client::start(proxy.http, &setting(4, 100));
    let first = client.next().expect("settings");
    assert_eq!((first.kind, first.flags & ACK), (SETTINGS, 0), "the server begins with SETTINGS");
    eventually(|| proxy.proxy.stats().total.active == 1);
}

/// A request, and what is sent behind it.
fn after(first: Vec<u8>, second: Vec<u8>) -> Vec<u8> {
    [first, second].concat()
}

#[test]
fn frames_and_streams() {
    let proxy = proxy();
    let get = get("a.test");
    let hang = get_from_hang();
    let post = post("a.test");
    let reset = |stream: u32| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let data = |stream: u32| frame(DATA, END_STREAM, stream, b"x");
    let part = |stream: u32| frame(HEADERS, END_STREAM, stream, &get[..3]);
    let rest = |stream: u32| frame(CONTINUATION, END_HEADERS, stream, &get[3..]);
    let many: Vec<u8> = (0..140u32).flat_map(|n| request(2 * n + 1, &hang)).collect();
    let long = vec![0; 16_385];
    let of_length = [&post[..], &field("content-length", "16384")].concat();
    let trailers = request(1, &field("x", "y"));
    let rows: Vec<(&str, Vec<u8>, Expect)> = vec![
        ("a request", request(1, &get), Answers(1)),
        // What must be accepted, in the order of the RFC's sections.
        ("5.1 PRIORITY on idle", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 255]), Ignores),
        ("5.1 PRIORITY on half closed", after(request(1, &hang), frame(PRIORITY, 0, 1, &[0; 5])), Ignores),
        (
            "5.1 PRIORITY on closed",
            [open(1, &post), reset(1), frame(PRIORITY, 0, 1, &[0; 5])].concat(),
            Ignores,
        ),
        (
            "5.1 WINDOW_UPDATE on half closed",
            after(request(1, &hang), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9])),
            Ignores,
        ),
        ("5.1 RST_STREAM on half closed", after(request(1, &hang), reset(1)), Ignores),
        ("6.1 DATA in parts", [open(1, &post), frame(DATA, 0, 1, b"x"), data(1)].concat(), Answers(1)),
        ("6.1 no DATA at all", after(open(1, &post), frame(DATA, END_STREAM, 1, b"")), Answers(1)),
        (
            "6.1 DATA with padding",
            after(open(1, &post), frame(DATA, PADDED | END_STREAM, 1, b"\x02x\0\0")),
            Answers(1),
        ),
        (
            "6.1 DATA as long as may be",
            after(open(1, &of_length), frame(DATA, END_STREAM, 1, &long[1..])),
            Answers(1),
        ),
        ("6.2 HEADERS with padding", frame(HEADERS, 13, 1, &[&[3], &get[..], &[0; 3]].concat()), Answers(1)),
        (
            "6.2 HEADERS with a priority",
            frame(HEADERS, 0x25, 1, &[&[0, 0, 0, 0, 15], &get[..]].concat()),
            Answers(1),
        ),
        ("6.3 the least priority", after(frame(PRIORITY, 0, 1, &[0; 5]), request(1, &get)), Answers(1)),
        (
            "6.3 on a stream to come",
            after(frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 0]), request(1, &get)),
            Answers(1),
        ),
        ("6.3 exclusively", after(frame(PRIORITY, 0, 1, &[128, 0, 0, 0, 0]), request(1, &get)), Answers(1)),
        (
            "6.4 a reason that nobody knows",
            after(open(1, &post), frame(RST_STREAM, 0, 1, &[0, 0, 0, 255])),
            Ignores,
        ),
        ("6.5 SETTINGS", setting(3, 100), Ignores),
        ("6.8 GOAWAY for no reason that is known", frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 255]), Closes),
        ("6.9 WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), Ignores),
        (
            "6.9 WINDOW_UPDATE on a stream",
            [open(1, &post), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), data(1)].concat(),
            Answers(1),
        ),
        ("8.1 POST with trailers", [open(1, &post), frame(DATA, 0, 1, b"x"), trailers].concat(), Answers(1)),
        (
            "6.10 HEADERS in many parts",
            [part(1), frame(CONTINUATION, 0, 1, &get[3..5]), frame(CONTINUATION, END_HEADERS, 1, &get[5..])]
                .concat(),
            Answers(1),
        ),
        // What must not be.
        (
            "5.3.1 HEADERS on itself",
            frame(HEADERS, 0x25, 1, &[&[0, 0, 0, 1, 15], &get[..]].concat()),
            Resets(1, &[PROTOCOL_ERROR]),
        ),
        ("6.10 CONTINUATION behind the end", [part(1), rest(1), rest(1)].concat(), Ends(&[PROTOCOL_ERROR])),
        (
            "6.10 CONTINUATION behind DATA",
            [open(1, &post), frame(DATA, 0, 1, b"x"), rest(1)].concat(),
            Ends(&[PROTOCOL_ERROR]),
        ),
        ("4.1 a frame of no known type", frame(0x16, 0, 0, &[0; 8]), Ignores),
        ("4.1 unknown flags", frame(PING, 0x16, 0, &[0; 8]), Ignores),
        ("4.1 the reserved bit", frame(PING, 0, 1 << 31, &[0; 8]), Ignores),
        (
            "4.2 DATA that is too long",
            after(open(1, &post), frame(DATA, 0, 1, &long)),
            Ends(&[FRAME_SIZE_ERROR]),
        ),
        ("4.2 HEADERS that are too long", frame(HEADERS, END_HEADERS, 1, &long), Ends(&[FRAME_SIZE_ERROR])),
        ("4.3 no header block", request(1, b"\x40"), Ends(&[COMPRESSION_ERROR])),
        ("4.3 PRIORITY within", after(part(1), frame(PRIORITY, 0, 1, &[0; 5])), Ends(&[PROTOCOL_ERROR])),
        ("4.3 other HEADERS within", after(part(1), request(3, &get)), Ends(&[PROTOCOL_ERROR])),
        ("5.1 DATA on idle", data(1), Ends(&[PROTOCOL_ERROR])),
        ("5.1 RST_STREAM on idle", reset(1), Ends(&[PROTOCOL_ERROR])),
        ("5.1 WINDOW_UPDATE on idle", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]), Ends(&[PROTOCOL_ERROR])),
        ("5.1 CONTINUATION on idle", rest(1), Ends(&[PROTOCOL_ERROR])),
        ("5.1 DATA on half closed", after(request(1, &hang), data(1)), Resets(1, &[STREAM_CLOSED])),
        (
            "5.1 HEADERS on half closed",
            after(request(1, &hang), request(1, &get)),
            Resets(1, &[STREAM_CLOSED]),
        ),
        (
            "5.1 CONTINUATION on half closed",
            after(request(1, &hang), rest(1)),
            Ends(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        ("5.1 DATA on closed", [open(1, &post), reset(1), data(1)].concat(), Resets(1, &[STREAM_CLOSED])),
        (
            "5.1 HEADERS on closed",
            [request(1, &hang), reset(1), request(1, &get)].concat(),
            Resets(1, &[STREAM_CLOSED]),
        ),
        (
            "5.1 CONTINUATION on closed",
            [open(1, &post), reset(1), rest(1)].concat(),
            Ends(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        ("5.1.1 an even number", request(2, &get), Ends(&[PROTOCOL_ERROR])),
        (
            "5.1.1 a number that falls",
            after(request(5, &hang), request(3, &get)),
            Ends(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        ("5.1.2 too many streams", many, Resets(257, &[REFUSED_STREAM, PROTOCOL_ERROR])),
        ("5.3.1 PRIORITY on itself", frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 9]), Resets(1, &[PROTOCOL_ERROR])),
        (
            "5.5 an extension within a header block",
            after(part(1), frame(0x16, 0, 0, &[])),
            Ends(&[PROTOCOL_ERROR]),
        ),
        ("6.1 DATA on 0", frame(DATA, 0, 0, b"x"), Ends(&[PROTOCOL_ERROR])),
        (
            "6.1 padding longer than DATA",
            after(open(1, &post), frame(DATA, PADDED, 1, b"\x09abc")),
            Ends(&[PROTOCOL_ERROR]),
        ),
        ("6.2 HEADERS on 0", request(0, &get), Ends(&[PROTOCOL_ERROR])),
        (
            "6.2 padding longer than HEADERS",
            frame(HEADERS, 13, 1, &[&[99], &get[..]].concat()),
            Ends(&[PROTOCOL_ERROR]),
        ),
        ("6.3 PRIORITY on 0", frame(PRIORITY, 0, 0, &[0; 5]), Ends(&[PROTOCOL_ERROR])),
        ("6.3 PRIORITY of another length", frame(PRIORITY, 0, 1, &[0; 4]), Resets(1, &[FRAME_SIZE_ERROR])),
        ("6.4 RST_STREAM on 0", reset(0), Ends(&[PROTOCOL_ERROR])),
        (
            "6.4 RST_STREAM of another length",
            after(request(1, &hang), frame(RST_STREAM, 0, 1, &[0; 3])),
            Ends(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.5 an acknowledgement that says something",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            Ends(&[FRAME_SIZE_ERROR]),
        ),
        ("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, &[0; 6]), Ends(&[PROTOCOL_ERROR])),
        ("6.5 SETTINGS of another length", frame(SETTINGS, 0, 0, &[0; 5]), Ends(&[FRAME_SIZE_ERROR])),
        ("6.5.2 ENABLE_PUSH", setting(2, 2), Ends(&[PROTOCOL_ERROR])),
        ("6.5.2 INITIAL_WINDOW_SIZE", setting(4, 1 << 31), Ends(&[FLOW_CONTROL_ERROR])),
        ("6.5.2 MAX_FRAME_SIZE, small", setting(5, 16_383), Ends(&[PROTOCOL_ERROR])),
        ("6.5.2 MAX_FRAME_SIZE, large", setting(5, 1 << 24), Ends(&[PROTOCOL_ERROR])),
        ("6.5.2 a setting that nobody knows", setting(0xff, 1), Ignores),
        ("6.7 PING that acknowledges", frame(PING, ACK, 0, b"invalid!"), Ignores),
        ("6.7 PING on a stream", frame(PING, 0, 1, &[0; 8]), Ends(&[PROTOCOL_ERROR])),
        ("6.7 PING of another length", frame(PING, 0, 0, &[0; 6]), Ends(&[FRAME_SIZE_ERROR])),
        ("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), Ends(&[PROTOCOL_ERROR])),
        ("6.9 WINDOW_UPDATE by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), Ends(&[PROTOCOL_ERROR])),
        (
            "6.9 WINDOW_UPDATE by nothing on a stream",
            after(request(1, &hang), frame(WINDOW_UPDATE, 0, 1, &[0; 4])),
            Resets(1, &[PROTOCOL_ERROR]),
        ),
        (
            "6.9 WINDOW_UPDATE of another length",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            Ends(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.9.1 a window beyond the limit",
            frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes()).repeat(2),
            Ends(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.9.1 a stream's window beyond the limit",
            after(request(1, &hang), frame(WINDOW_UPDATE, 0, 1, &0x7fff_ffffu32.to_be_bytes()).repeat(2)),
            Resets(1, &[FLOW_CONTROL_ERROR]),
        ),
        ("6.10 HEADERS in parts", after(part(1), rest(1)), Answers(1)),
        ("6.10 DATA within", after(part(1), data(1)), Ends(&[PROTOCOL_ERROR])),
        ("6.10 CONTINUATION on 0", after(part(1), rest(0)), Ends(&[PROTOCOL_ERROR])),
        (
            "6.10 CONTINUATION of nothing",
            after(request(1, &hang), rest(1)),
            Ends(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        (
            "8.4 PUSH_PROMISE",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], &get[..]].concat()),
            Ends(&[PROTOCOL_ERROR]),
        ),
    ];
    for (what, bytes, expect) in rows {
        check(&proxy, what, &bytes, expect);
    }
}

fn get_from_hang() -> Vec<u8> {
    get("h.test")
}

#[test]
fn requests_that_are_malformed() {
    let proxy = proxy();
    let with = |more: &[u8]| request(1, &[&get("a.test"), more].concat());
    let of = |bytes: &[u8]| request(1, bytes);
    let authority = b"\x01\x06a.test";
    let body = |length: &str, parts: &[&[u8]]| {
        let head = open(1, &[post("a.test"), field("content-length", length)].concat());
        let mut bytes = head;
        for (n, part) in parts.iter().enumerate() {
            let flags = if n + 1 == parts.len() { END_STREAM } else { 0 };
            bytes.extend(frame(DATA, flags, 1, part));
        }
        bytes
    };
    let trailers = |flags: u8, fields: &[u8]| {
        [open(1, &post("a.test")), frame(DATA, 0, 1, b"x"), frame(HEADERS, END_HEADERS | flags, 1, fields)]
            .concat()
    };
    let malformed: Vec<(&str, Vec<u8>)> = vec![
        ("8.1 a second head that is not the end", trailers(0, &field("x", "y"))),
        ("8.2.1 upper case", with(&field("X-Y", "z"))),
        ("8.2.1 a space in a name", with(&field("x y", "z"))),
        ("8.2.1 a line end in a value", with(&field("x", "a\r\ny: z"))),
        ("8.2.1 a zero in a value", with(&field("x", "a\0"))),
        ("8.2.1 an empty name", with(&field("", "z"))),
        ("8.2.2 Connection", with(&field("connection", "keep-alive"))),
        ("8.2.2 Keep-Alive", with(&field("keep-alive", "5"))),
        ("8.2.2 Proxy-Connection", with(&field("proxy-connection", "x"))),
        ("8.2.2 Transfer-Encoding", with(&field("transfer-encoding", "chunked"))),
        ("8.2.2 Upgrade", with(&field("upgrade", "h2c"))),
        ("8.2.2 TE", with(&field("te", "trailers, deflate"))),
        ("8.3 a pseudo-header that nobody knows", of(&[&get("a.test")[..], &field(":x", "y")].concat())),
        ("8.3 one of answers", with(&field(":status", "200"))),
        ("8.3 one behind a header", of(&[&field("x", "y")[..], &get("a.test")].concat())),
        ("8.3 a pseudo-header in trailers", trailers(END_STREAM, &[0x83])),
        ("8.3 one that is written out", trailers(END_STREAM, &field(":method", "GET"))),
        ("8.3 one behind another field", trailers(END_STREAM, &[&field("x", "y")[..], &[0x86]].concat())),
        ("8.3.1 an empty path", of(&[&[0x82, 0x86, 0x04, 0x00][..], authority].concat())),
        ("8.3.1 a path without its slash", of(&[&[0x82, 0x86, 0x04, 0x01, b'x'][..], authority].concat())),
        ("8.3.1 no method", of(&[&[0x86, 0x84][..], authority].concat())),
        ("8.3.1 no scheme", of(&[&[0x82, 0x84][..], authority].concat())),
        ("8.3.1 no path", of(&[&[0x82, 0x86][..], authority].concat())),
        ("8.3.1 two methods", of(&[&[0x82, 0x82, 0x86, 0x84][..], authority].concat())),
        ("8.3.1 two schemes", of(&[&[0x82, 0x86, 0x86, 0x84][..], authority].concat())),
        ("8.3.1 two paths", of(&[&[0x82, 0x86, 0x84, 0x84][..], authority].concat())),
        ("8.3.1 two authorities", of(&[&[0x82, 0x86, 0x84][..], authority, authority].concat())),
        ("8.1.1 less than it says", body("5", &[b"x"])),
        ("8.1.1 more than it says", body("1", &[b"xyz"])),
        ("8.1.1 more than it says, in parts", body("2", &[b"x", b"y", b"z"])),
        (
            "8.1.1 nothing of what it says",
            request(1, &[post("a.test"), field("content-length", "5")].concat()),
        ),
        ("8.1.1 no number", body("+1", &[b"x"])),
    ];
    for (what, bytes) in malformed {
        check(&proxy, what, &bytes, Resets(1, &[PROTOCOL_ERROR]));
    }
    // What h2 has nothing against, Sluice has.
    for (what, bytes) in
        [("8.3.1 another Host", with(&field("host", "b.test"))), ("8.3.1 neither", of(&[0x82, 0x86, 0x84]))]
    {
        let mut client = Client::new(proxy.http);
        client.send(&bytes);
        let end = client.until(what, |frame| frame.stream == 1);
        assert_eq!((end.kind, end.payload[0]), (HEADERS, 0x8c), "{what}: not 400");
    }
    for (what, bytes) in [
        ("TE: trailers", with(&field("te", "trailers"))),
        ("trailers", trailers(END_STREAM, &field("x", "y"))),
        ("the same Host", with(&field("host", "a.test"))),
        ("a body as long as it says", body("3", &[b"x", b"yz"])),
    ] {
        check(&proxy, what, &bytes, Answers(1));
    }
}

#[test]
fn header_compression() {
    let proxy = proxy();
    let with = |more: &[u8]| request(1, &[&get("a.test"), more].concat());
    let huffman = |bytes: &[u8]| [&[0, 1, b'x', 0x80 | bytes.len() as u8][..], bytes].concat();
    for (what, bytes, expect) in [
        ("2.3.3 an index beyond the tables", with(&[0xff, 0x20]), Ends(&[COMPRESSION_ERROR])),
        ("2.3.3 a name beyond the tables", with(b"\x7f\x20\x01y"), Ends(&[COMPRESSION_ERROR])),
        ("4.2 a new size behind the fields", with(&[0x20]), Ends(&[COMPRESSION_ERROR])),
        ("5.2 padding of a whole byte", with(&huffman(b"\x1f\xff\xff")), Ends(&[COMPRESSION_ERROR])),
        ("5.2 padding of zeros", with(&huffman(b"\x18")), Ends(&[COMPRESSION_ERROR])),
        ("5.2 the end in the text", with(&huffman(b"\xff\xff\xff\xff")), Ends(&[COMPRESSION_ERROR])),
        ("5.1 an endless number", with(&[&[0xff][..], &[0xff; 20]].concat()), Ends(&[COMPRESSION_ERROR])),
        ("6.1 index 0", with(&[0x80]), Ends(&[COMPRESSION_ERROR])),
        (
            "6.3 a size beyond the limit",
            request(1, &[&[0x3f, 0xe1, 0xff, 3], &get("a.test")[..]].concat()),
            Ends(&[COMPRESSION_ERROR]),
        ),
        ("6.2.1 a name of the table", with(b"\x50\x01y"), Answers(1)),
        ("6.2.2 not to be remembered", with(b"\x00\x01x\x01y"), Answers(1)),
        ("6.2.2 a name of the table", with(b"\x0f\x01\x01y"), Answers(1)),
        ("6.2.3 never to be remembered", with(b"\x10\x01x\x01y"), Answers(1)),
        ("6.2.3 a name of the table", with(b"\x1f\x01\x01y"), Answers(1)),
        ("5.2 in Huffman's code", with(&huffman(b"\x1f")), Answers(1)),
        ("6.3 a smaller table", request(1, &[&[0x20], &get("a.test")[..]].concat()), Answers(1)),
        (
            "6.3 smaller, then larger",
            request(1, &[&[0x20, 0x3f, 0x01], &get("a.test")[..]].concat()),
            Answers(1),
        ),
        (
            "6.2.1 an entry and its use",
            [
                request(1, &[&get("a.test")[..], b"\x40\x01x\x01y"].concat()),
                request(3, &[&get("a.test")[..], &[0xbe]].concat()),
            ]
            .concat(),
            Answers(3),
        ),
    ] {
        check(&proxy, what, &bytes, expect);
    }
}

/// Answers keep to the windows that the client gives.
#[test]
fn windows() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(|stream| say(stream, "hello"))]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|settings| settings.workers = 1);
    let mut client = Client::start(proxy.http, &setting(4, 1));
    client.send(&request(1, &get("a.test")));
    let is_data = |frame: &Frame| frame.kind == DATA;
    assert_eq!(client.until("a window of one", is_data).payload, b"h");
    client.ping("nothing more comes");
    client.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 2]));
    assert_eq!(client.until("a window of two", is_data).payload, b"el");
    // Of two values, the later holds.
    let two =
        [&4u16.to_be_bytes()[..], &100u32.to_be_bytes(), &4u16.to_be_bytes(), &1u32.to_be_bytes()].concat();
    let mut other = Client::start(proxy.http, &frame(SETTINGS, 0, 0, &two));
    other.send(&request(1, &get("a.test")));
    assert_eq!(other.until("the later of two", is_data).payload, b"h");
    // What was sent already counts: the window is below nothing now, and grows with the setting.
    client.send(&setting(4, 0));
    client.ping("a smaller window");
    client.send(&setting(4, 100));
    assert_eq!(client.until("a larger window", is_data).payload, b"lo");
    client.send(&frame(GOAWAY, 0, 0, &[0; 8]));
    assert!(matches!(client.last_words(), None | Some(NO_ERROR)));
}

/// The end comes in two steps (RFC 9113 section 6.8): a word that it is near, while requests on
/// their way are still taken, and then which was the last.
#[test]
fn a_drain_says_goodbye_twice() {
    let answers = std::sync::Arc::new(std::sync::Barrier::new(2));
    let waits = std::sync::Arc::clone(&answers);
    let mut rig = Rig::new();
    let web = endpoint(move |stream| {
        read_head(stream);
        waits.wait();
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    });
    rig.cluster("web", &[web]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|settings| settings.workers = 1);
    let mut client = Client::new(proxy.http);
    client.send(&request(1, &get("a.test")));
    eventually(|| proxy.proxy.stats().total.upstream_connects == 1);
    let draining = std::thread::spawn(move || {
        crate::runtime().block_on(proxy.proxy.shutdown(std::time::Duration::from_secs(60)));
    });
    let near = client.until("the first word", |frame| frame.kind == GOAWAY);
    assert_eq!((near.number(0), near.number(4)), (0x7fff_ffff, NO_ERROR));
    let ping = client.until("a ping", |frame| frame.kind == PING && frame.flags & ACK == 0);
    client.send(&frame(PING, ACK, 0, &ping.payload));
    let last = client.until("the last word", |frame| frame.kind == GOAWAY);
    assert_eq!((last.number(0), last.number(4)), (1, NO_ERROR));
    answers.wait();
    let body = client.until("the answer", |frame| frame.kind == DATA && frame.stream == 1);
    assert_eq!(body.payload, b"ok");
    assert_eq!(client.last_words(), None);
    draining.join().expect("drained");
}

/// Cookies come in crumbs, and go to endpoints whole (RFC 9113 section 8.2.3).
#[test]
fn crumbs_are_joined() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/", "web");
    let proxy = rig.start(|_| ());
    let mut client = Client::new(proxy.http);
    let crumbs = [get("a.test"), field("cookie", "a=1"), field("x", "y"), field("cookie", "b=2")].concat();
    client.send(&request(1, &crumbs));
    let body = client.until("the endpoint's view", |frame| frame.kind == DATA);
    let text = String::from_utf8_lossy(&body.payload).into_owned();
    assert!(text.contains("\r\ncookie: a=1; b=2\r\n") && text.matches("cookie").count() == 1, "{text}");
}

/// Answers that have no body end with their head, and interim ones are not the answer.
#[test]
fn answers_without_bodies() {
    let mut rig = Rig::new();
    for (name, answer) in [
        ("head", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("none", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("same", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("hinted", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
    ] {
        let serve = move |stream: &mut std::net::TcpStream| {
            while read_head(stream).is_some() {
                drop(stream.write_all(answer.as_bytes()));
            }
        };
        rig.cluster(name, &[endpoint(serve)]);
        rig.route(&host(name), "/", name);
    }
    let proxy = rig.start(|settings| settings.workers = 1);
    let mut client = Client::new(proxy.http);
    // 200, 204 and 304 stand in the static table.
    for (n, (name, status)) in
        [("head", 0x88), ("none", 0x89), ("same", 0x8b), ("empty", 0x88), ("hinted", 0x89)]
            .into_iter()
            .enumerate()
    {
        let stream = 2 * u32::try_from(n).expect("few") + 1;
        let method = if name == "head" { &b"\x02\x04HEAD"[..] } else { &[0x82] };
        client.send(&request(stream, &[method, &get(&host(name))[1..]].concat()));
        let head = client.until(name, |frame| frame.stream == stream);
        assert_eq!(
            (head.kind, head.payload[0], head.flags & END_STREAM),
            (HEADERS, status, END_STREAM),
            "{name}"
        );
    }
    client.ping("nothing is left over");
}
