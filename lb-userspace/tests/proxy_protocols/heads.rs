//! Heads: how large they may be on HTTP/2, what clients must not make endpoints believe, what is
//! told before the answer, and how many requests a connection has.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::frames::*;
use crate::rig::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn start(change: impl FnOnce(&mut sluice::proxy::Settings)) -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/", "web");
    rig.start(|settings| {
        settings.workers = 1;
        change(settings);
    })
}

/// The status of the answer to a request over HTTP/2: of those that stand in the static table, or written
/// out by h2's encoder.
async fn status(client: &h2::client::SendRequest<bytes::Bytes>, request: http::Request<()>) -> u16 {
    let mut client = client.clone().ready().await.expect("ready");
    let (answer, _) = client.send_request(request, true).expect("sent");
    answer.await.expect("an answer").status().as_u16()
}

/// The limits of HTTP/1.1 hold for HTTP/2.
#[test]
fn sizes_on_http2() {
    let proxy = start(|_| ());
    crate::runtime().block_on(async {
        let stream = tokio::net::TcpStream::connect(proxy.http).await.expect("connected");
        let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        for (path, headers, crumbs, expect) in [
            (1, 0, 0, 200),
            (16_000, 0, 0, 200),
            (17_000, 0, 0, 414),
            (1, 90, 0, 200),
            (1, 110, 0, 431),
            // Browsers send each pair of a cookie by itself.
            (1, 50, 300, 200),
            // Bytes count as they are read, not as they came.
            (1, 0, 3000, 431),
        ] {
            let uri = format!("http://a.test/{}", "a".repeat(path));
            let mut request = http::Request::get(uri);
            for _ in 0..headers {
                request = request.header("x", "y");
            }
            for n in 0..crumbs {
                request = request.header("cookie", format!("crumb-number-{n}=1"));
            }
            let got = status(&client, request.body(()).expect("a request")).await;
            assert_eq!(got, expect, "{path} {headers} {crumbs}");
        }
    });
}

/// What endpoints are told of the client is what the proxy says, in whatever form a client tries.
#[test]
fn nobody_speaks_in_our_place() {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route("a.test", "/", "web");
    rig.route_with("b.test", "/", "web", |draft| {
        let value = sluice::model::Template::literal("nobody");
        let edit = sluice::model::HeaderEdit::Set { name: "x-auth-user".into(), value, statuses: vec![] };
        draft.policy.request_headers.push(edit);
    });
    let proxy = rig.start(|_| ());
    for line in [
        "X-Forwarded-For: 6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "X-Forwarded_For: 6.6.6.6",
        "x_real_ip: 6.6.6.6",
        "X_Request_ID: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-For: 6.6.6.6",
        "Connection: x-forwarded-for, x-real-ip, host\r\nX-Real-IP: 6.6.6.6",
    ] {
        let text = send(proxy.http, &GET.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"))).text();
        assert!(!text.contains("6.6.6.6"), "{line}: {text}");
        for ours in
            ["\r\nx-forwarded-for: 127.0.0.1\r\n", "\r\nx-real-ip: 127.0.0.1\r\n", "\r\nhost: a.test\r\n"]
        {
            assert_eq!(text.matches(ours).count(), 1, "{line}: {text}");
        }
    }
    for line in ["Transfer_Encoding: chunked", "content_length: 6", "Keep_Alive: 6", "HTTP2_Settings: 6"] {
        let text = send(proxy.http, &GET.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"))).text();
        let name = line.split_once(':').expect("a line").0.to_ascii_lowercase();
        assert!(!text.contains(&name), "{line}: {text}");
    }
    let mine = GET.replace("\r\n\r\n", "\r\nX_Mine: 1\r\n\r\n");
    assert!(send(proxy.http, &mine).text().contains("x_mine: 1\r\n"), "others are nobody's business");
    let forged = GET.replace("a.test", "b.test").replace("\r\n\r\n", "\r\nX_Auth_User: root\r\n\r\n");
    let text = send(proxy.http, &forged).text();
    assert!(text.contains("x-auth-user: nobody\r\n") && !text.contains("root"), "{text}");
}

#[test]
fn forwarded_where_it_is_wanted() {
    for wanted in [true, false] {
        let proxy = start(|settings| settings.forwarded = wanted);
        for more in ["", "TE: trailers\r\n"] {
            let get = GET.replace("\r\n\r\n", &format!("\r\nForwarded: for=6.6.6.6\r\n{more}\r\n"));
            let text = send(proxy.http, &get).text();
            let says = "forwarded: for=127.0.0.1;host=\"a.test\";proto=http\r\n";
            assert_eq!(text.contains(says), wanted, "{text}");
            assert!(!text.contains("6.6.6.6"), "{text}");
        }
    }
}

/// Early hints come before the answer, for HTTP/1.1; other interim answers, too.
#[test]
fn early_hints() {
    let hinted = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&hinted);
    let early = endpoint(move |stream| {
        while let Some(head) = read_head(stream) {
            let before = seen.load(SeqCst);
            let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nX-Secret: 1\r\nLink: </b>\r\n\r\n\
                         HTTP/1.1 102 Processing\r\n\r\n";
            let mut send = |text: &str| drop(stream.write_all(text.as_bytes()));
            send(hints);
            if head.contains("/apart") {
                // Hints that come with the answer are none.
                eventually(|| seen.load(SeqCst) > before);
            }
            send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let mut rig = Rig::new();
    rig.cluster("early", &[early]);
    rig.route("a.test", "/", "early");
    rig.certificate("a.test", certificate("a.test"));
    let proxy = rig.start(|settings| settings.workers = 1);
    let all = |stream: &mut dyn ReadWrite, head: &str| {
        stream.write_all(head.as_bytes()).expect("sent");
        let mut seen = Vec::new();
        while seen.last() != Some(&200) {
            let one = read_response(&mut &mut *stream, false).expect("an answer");
            match one.status {
                103 => {
                    hinted.fetch_add(1, SeqCst);
                    let links = "link: </a>; rel=preload\r\nlink: </b>\r\n\r\n";
                    assert!(one.head.ends_with(links), "{}", one.head);
                }
                _ => assert!(!one.text().contains("ink: "), "{}", one.text()),
            }
            seen.push(one.status);
        }
        seen
    };
    let (mut plain, mut secure) = (connect(proxy.http), tls(proxy.https, "a.test", &[b"http/1.1"]));
    for path in ["/", "/apart"] {
        for more in ["", "TE: trailers\r\n"] {
            let get = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{more}\r\n");
            for _ in 0..2 {
                assert_eq!(all(&mut plain, &get), [103, 102, 200], "{get:?}");
                assert_eq!(all(&mut secure, &get), [103, 102, 200], "{get:?} over TLS");
            }
        }
    }
    // Whoever speaks HTTP/1.0 knows no interim answers.
    assert_eq!(all(&mut connect(proxy.http), "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n"), [200]);
    // Nothing goes astray between answers that are waited for together.
    let mut stream = connect(proxy.http);
    let mut seen = all(&mut stream, &GET.repeat(2));
    seen.extend(all(&mut stream, ""));
    assert_eq!(seen.iter().filter(|status| **status == 200).count(), 2, "{seen:?}");
}

trait ReadWrite: std::io::Read + Write {}
impl<T: std::io::Read + Write> ReadWrite for T {}

/// A connection ends after so many requests, in good order.
#[test]
fn requests_of_one_connection() {
    let proxy = start(|settings| settings.max_requests = 3);
    for more in ["", "TE: trailers\r\n"] {
        let get = GET.replace("\r\n\r\n", &format!("\r\n{more}\r\n"));
        let mut stream = connect(proxy.http);
        for n in 1..=3 {
            stream.write_all(get.as_bytes()).expect("sent");
            let seen = read_response(&mut stream, false).expect("an answer");
            assert_eq!(
                (seen.status, seen.header("connection") == Some("close")),
                (200, n == 3),
                "{}",
                seen.head
            );
        }
        assert!(read_response(&mut stream, false).is_none(), "the connection has ended");
    }
    let mut client = Client::new(proxy.http);
    client.send(&(0..3u32).flat_map(|n| request(2 * n + 1, &get("a.test"))).collect::<Vec<_>>());
    let mut ended = 0;
    let mut goodbye = false;
    while let Some(next) = client.next() {
        match next.kind {
            GOAWAY => goodbye = true,
            PING if next.flags & ACK == 0 => client.send(&frame(PING, ACK, 0, &next.payload)),
            _ => ended += u32::from(next.stream > 0 && next.flags & END_STREAM != 0),
        }
    }
    assert_eq!((ended, goodbye), (3, true), "all three are answered, and then it ends");
}
