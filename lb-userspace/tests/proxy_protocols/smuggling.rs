//! Requests that two readers could read in two ways. For each, what the proxy answers and what its
//! endpoint sees: never a request that the client did not plainly send.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use crate::rig::*;

const SECOND: &str = "GET /second HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

type Log = Arc<Mutex<Vec<u8>>>;

/// Answers each request it finds, and writes down every byte.
fn recording(log: Log) -> impl Fn(&mut TcpStream) {
    move |stream| {
        let mut bytes = vec![0; 65536];
        let mut open = Vec::new();
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            log.lock().expect("whole").extend_from_slice(&bytes[..count]);
            open.extend_from_slice(&bytes[..count]);
            while let Some(end) = whole_request(&open) {
                open.drain(..end);
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
            }
        }
    }
}

/// Where the first request ends, if it is complete.
fn whole_request(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let head = text.find("\r\n\r\n")? + 4;
    if text[..head].contains("transfer-encoding") {
        return text[head..].find("0\r\n\r\n").map(|end| head + end + 5);
    }
    let length =
        text[..head].split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    let end = head + length.unwrap_or(0usize);
    (bytes.len() >= end).then_some(end)
}

/// The statuses of all answers until the connection ends.
fn statuses(proxy: &Running, bytes: &[u8]) -> Vec<u16> {
    let mut stream = connect(proxy.http);
    drop(stream.write_all(bytes));
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        text.extend_from_slice(&piece[..count]);
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    text.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

fn proxy() -> (Running, Log) {
    let log = Log::default();
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(recording(Arc::clone(&log)))]);
    rig.route("a.test", "/", "web");
    (rig.start(|settings| settings.workers = 1), log)
}

#[test]
fn nothing_is_sent_on_that_is_in_doubt() {
    let (proxy, log) = proxy();
    let post = |lines: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n{body}");
    let te = |value: &str| {
        post(&format!("Transfer-Encoding: {value}\r\nContent-Length: 4\r\n"), "5c\r\n0\r\n\r\n")
    };
    let only_te = |value: &str| post(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n");
    let length = |value: &str| post(&format!("Content-Length: {value}\r\n"), "x");
    let chunks = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nHost: a.test\r\n{rest}\r\n");
    let mut rows: Vec<(String, String)> = Vec::new();
    // CL.TE and TE.CL, and every way to hide one of the two from somebody.
    for value in [
        "chunked",
        " chunked",
        "chunked ",
        "\tchunked",
        "Chunked",
        "xchunked",
        "chunked, identity",
        "identity",
        "identity, chunked",
        "chunked, chunked",
        "gzip, chunked",
        "\"chunked\"",
        "chunked;q=1",
        "chun\x0bked",
        "\x0bchunked",
        "chunked\0",
        "",
        ",chunked",
        "chunked,",
    ] {
        rows.push((format!("both, {value:?}"), te(value)));
    }
    for value in [
        "xchunked",
        "chunked, identity",
        "identity",
        "identity, chunked",
        "chunked, chunked",
        "gzip, chunked",
        "\"chunked\"",
        "chunked;q=1",
        "\x0bchunked",
        "",
        ",chunked",
    ] {
        rows.push((format!("TE alone, {value:?}"), only_te(value)));
    }
    for name in [
        "Transfer-Encoding ",
        " Transfer-Encoding",
        "Transfer-Encoding\t",
        "Transfer\0-Encoding",
        "Transfer-Encoding\r",
        "X: y\nTransfer-Encoding",
        "X: y\rTransfer-Encoding",
        "Transfer-Encod\u{ef}ng\0",
    ] {
        rows.push((format!("name {name:?}"), post(&format!("{name}: chunked\r\n"), "0\r\n\r\n")));
    }
    for value in [
        "+1",
        "-1",
        "0x1",
        "1,1",
        "1, 1",
        "1 1",
        "1;",
        "1.0",
        "",
        "１",
        "18446744073709551617",
        "99999999999999999999999",
        "1\0",
        "\x0b1",
    ] {
        rows.push((format!("length {value:?}"), length(value)));
    }
    for (what, lines) in [
        ("two lengths", "Content-Length: 1\r\nContent-Length: 2\r\n"),
        ("the same length twice", "Content-Length: 1\r\nContent-Length: 1\r\n"),
        ("two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ("two codings, the other way", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
        ("a folded coding", "Transfer-Encoding:\r\n chunked\r\n"),
        ("a folded length", "Content-Length:\r\n 1\r\n"),
        ("a length with a space before the colon", "Content-Length : 1\r\n"),
        ("two hosts", "Host: b.test\r\n"),
        ("a line without a colon", "nonsense\r\n"),
        ("a line that begins with a colon", ": x\r\n"),
        ("a bare LF", "X: y\nZ: z\r\n"),
        ("a bare CR", "X: y\rZ: z\r\n"),
        ("a zero", "X: y\0z\r\n"),
    ] {
        rows.push((what.to_owned(), post(lines, "x")));
    }
    for (what, line) in [
        ("a fragment", "GET /#x HTTP/1.1"),
        ("no version", "GET /"),
        ("version 0.9", "GET / HTTP/0.9"),
        ("version 2", "GET / HTTP/2.0"),
        ("version 1.2", "GET / HTTP/1.2"),
        ("two spaces", "GET  / HTTP/1.1"),
        ("a tab", "GET\t/ HTTP/1.1"),
        ("a space in the target", "GET /a b HTTP/1.1"),
        ("a zero in the target", "GET /\0 HTTP/1.1"),
        ("%00", "GET /%00 HTTP/1.1"),
        ("an empty target", "GET  HTTP/1.1"),
        ("a target without its slash", "GET x HTTP/1.1"),
        ("another host in the target", "GET http://b.test/ HTTP/1.1"),
        ("a user in the target", "GET http://x@a.test/ HTTP/1.1"),
        ("no method", " / HTTP/1.1"),
        ("no letters in the method", "G(T / HTTP/1.1"),
    ] {
        rows.push((what.to_owned(), format!("{line}\r\nHost: a.test\r\n\r\n")));
    }
    rows.push(("chunks on HTTP/1.0".to_owned(), chunks("0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0")));
    rows.push(("an empty host".to_owned(), get("").replace("a.test", "")));
    rows.push(("a host with a path".to_owned(), get("").replace("a.test", "a.test/x")));
    rows.push(("a host with a space".to_owned(), get("").replace("a.test", "a.test b")));
    rows.push(("a host with a user".to_owned(), get("").replace("a.test", "x@a.test")));
    for (what, request) in rows {
        let got = statuses(&proxy, format!("{request}{SECOND}").as_bytes());
        assert!(matches!(got[..], [400] | [505]), "{what}: {got:?}, the first refused and the second unread");
        assert_eq!(String::from_utf8_lossy(&log.lock().expect("whole")), "", "{what}: something was sent on");
    }
}

/// Where it shows only in the body that something is wrong, the endpoint may have seen the begin of
/// the request; but its connection ends with it, and what follows is no request.
#[test]
fn chunks_that_are_broken() {
    let (proxy, log) = proxy();
    for body in [
        "1\r\nxy\r\n0\r\n\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1\nx\r\n0\r\n\r\n",
        "g\r\nx\r\n0\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "0x1\r\nx\r\n0\r\n\r\n",
        " 1\r\nx\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        ";x\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nx\r\n0\r\n\r\n",
        "10000000000000001\r\nx\r\n0\r\n\r\n",
        "1;a\nb\r\nx\r\n0\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX : y\r\n\r\n",
    ] {
        log.lock().expect("whole").clear();
        let request =
            format!("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}{SECOND}");
        let got = statuses(&proxy, request.as_bytes());
        assert!(got.len() <= 1 && !got.contains(&200) || got == [200], "{body:?}: {got:?}");
        let seen = String::from_utf8_lossy(&log.lock().expect("whole")).into_owned();
        assert!(!seen.contains("/second") && !seen.contains("a\nb"), "{body:?}: {seen:?}");
    }
}

/// What is odd but plain is understood, and sent on in its plain form.
#[test]
fn what_is_sent_on_is_plain() {
    let (proxy, log) = proxy();
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    for (what, request, says) in [
        (
            "chunk extensions",
            "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0;c\r\n\r\n",
            [chunked, "3\r\nabc\r\n0\r\n\r\n"].concat(),
        ),
        (
            "leading zeros",
            "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n003\r\nabc\r\n000\r\n\r\n",
            [chunked, "3\r\nabc\r\n0\r\n\r\n"].concat(),
        ),
        (
            "a coding in capitals",
            "POST / HTTP/1.1\r\nHost: a.test\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            [chunked, "3\r\nabc\r\n0\r\n\r\n"].concat(),
        ),
        (
            "a length with zeros",
            "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 003\r\n\r\nabc",
            "content-length: 3\r\n\r\nabc".to_owned(),
        ),
        (
            "an absolute target",
            "GET http://A.test/x/../y HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "GET /y HTTP/1.1\r\nhost: ".to_owned(),
        ),
        (
            "empty lines before",
            "\r\n\r\nGET /y HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "GET /y HTTP/1.1\r\n".to_owned(),
        ),
        (
            "a separator that is kept",
            "GET /a%2Fb HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "GET /a%2Fb HTTP/1.1\r\n".to_owned(),
        ),
        ("dots", "GET /a/%2e%2e/b/./c HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /b/c HTTP/1.1\r\n".to_owned()),
    ] {
        log.lock().expect("whole").clear();
        assert_eq!(statuses(&proxy, format!("{request}{SECOND}").as_bytes()), [200, 200], "{what}");
        let seen = String::from_utf8_lossy(&log.lock().expect("whole")).into_owned();
        assert!(seen.contains(&says), "{what}: {says:?} in {seen:?}");
        assert!(seen.contains("GET /second HTTP/1.1\r\n"), "{what}");
    }
}

/// Requests that were sent at once are answered one after the other, however long each takes.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut rig = Rig::new();
    for (name, pause) in [("slow", 100), ("quick", 0)] {
        let address = endpoint(move |stream| {
            while let Some(head) = read_head(stream) {
                std::thread::sleep(std::time::Duration::from_millis(pause));
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
                drop(stream.write_all(answer.as_bytes()));
            }
        });
        rig.cluster(name, &[address]);
        rig.route(&host(name), "/", name);
    }
    let proxy = rig.start(|settings| settings.workers = 1);
    let mut stream = connect(proxy.http);
    let hosts = ["slow", "quick", "none", "quick", "slow", "quick"];
    let requests = hosts.iter().enumerate();
    let requests: String =
        requests.map(|(n, name)| format!("GET /{n} HTTP/1.1\r\nHost: {}\r\n\r\n", host(name))).collect();
    stream.write_all(requests.as_bytes()).expect("sent");
    for (n, name) in hosts.iter().enumerate() {
        let seen = read_response(&mut stream, false).expect("an answer");
        match *name {
            "none" => assert_eq!(seen.status, 404),
            _ => assert_eq!(String::from_utf8_lossy(&seen.body), format!("/{n}")),
        }
    }
}
