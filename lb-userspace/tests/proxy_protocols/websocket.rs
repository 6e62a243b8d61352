//! WebSockets over HTTP/2 (RFC 8441).

use std::io::Write;
use std::net::TcpStream;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use http::Request;

use crate::rig::*;
use crate::{SOON, runtime};

/// A client's frame with a short text: masked, as clients have to.
fn message(text: &str) -> Bytes {
    let mask = [1, 2, 3, 4];
    let masked = text.bytes().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [0x81, 0x80 | text.len() as u8].into_iter().chain(mask).chain(masked).collect()
}

fn connect_request(host: &str, protocol: Option<&'static str>) -> Request<()> {
    let uri = match protocol {
        Some(_) => format!("http://{host}/chat?x=1"),
        None => format!("{host}:80"),
    };
    let mut request = Request::connect(uri)
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .header("origin", "http://a.test")
        .body(())
        .expect("a request");
    if let Some(protocol) = protocol {
        request.extensions_mut().insert(Protocol::from_static(protocol));
    }
    request
}

async fn client(proxy: &Running) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(proxy.http).await.expect("connected");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let client = client.ready().await.expect("ready");
    while !client.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    client
}

/// An endpoint that answers a handshake with these lines, whatever it was asked.
fn answering(lines: &'static str) -> impl Fn(&mut TcpStream) {
    move |stream| {
        read_head(stream);
        drop(stream.write_all(lines.as_bytes()));
        while read_head(stream).is_some() {}
    }
}

fn proxy() -> Running {
    let mut rig = Rig::new();
    rig.cluster("socket", &[endpoint(websocket_echo)]);
    rig.cluster("web", &[endpoint(echo)]);
    rig.cluster("refusing", &[endpoint(answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"))]);
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n";
    rig.cluster("wrong", &[endpoint(answering(wrong))]);
    for (host, cluster) in
        [("a.test", "socket"), ("web.test", "web"), ("refusing.test", "refusing"), ("wrong.test", "wrong")]
    {
        rig.route(host, "/", cluster);
    }
    rig.start(|settings| {
        settings.workers = 1;
        settings.timeouts.client = SOON;
    })
}

#[test]
fn messages_both_ways() {
    let proxy = proxy();
    runtime().block_on(async {
        let mut client = client(&proxy).await;
        let (answer, mut send) =
            client.send_request(connect_request("a.test", Some("websocket")), false).expect("sent");
        let response = answer.await.expect("an answer");
        assert_eq!(response.status(), 200);
        for name in ["sec-websocket-accept", "connection", "upgrade"] {
            assert!(!response.headers().contains_key(name), "{name}");
        }
        let mut body = response.into_body();
        for text in ["hello", "world"] {
            send.send_data(message(text), false).expect("sent");
            let mut got = Vec::new();
            while got.len() < text.len() + 2 {
                let piece = body.data().await.expect("a message").expect("a message");
                body.flow_control().release_capacity(piece.len()).expect("room");
                got.extend_from_slice(&piece);
            }
            assert_eq!(got, [&[0x81, text.len() as u8], text.as_bytes()].concat());
            // A tunnel may be silent for as long as it likes.
            tokio::time::sleep(SOON * 2).await;
        }
        assert_eq!(proxy.proxy.stats().total.tunnels_active, 1);
        // Other streams of the connection go on beside it.
        let get = Request::get("http://web.test/").body(()).expect("a request");
        let (answer, _) = client.send_request(get, true).expect("sent");
        assert_eq!(answer.await.expect("an answer").status(), 200);
        // The end of one side is the end of both.
        send.send_data(Bytes::new(), true).expect("sent");
        while let Some(piece) = body.data().await {
            let Ok(piece) = piece else { break };
            drop(body.flow_control().release_capacity(piece.len()));
        }
    });
    eventually(|| proxy.proxy.stats().total.tunnels_active == 0);
    let totals = proxy.proxy.stats().total;
    assert!(totals.tunnel_bytes > 20 && totals.responses_1xx == 1, "{totals:?}");
}

#[test]
fn what_else_is_asked_for_with_connect() {
    let proxy = proxy();
    runtime().block_on(async {
        let mut client = client(&proxy).await;
        for (host, protocol, status) in [
            ("a.test", Some("connect-udp"), 501),
            ("a.test", None, 405),
            ("unknown.test", Some("websocket"), 404),
            // No tunnel: what the endpoint says is not taken for one.
            ("web.test", Some("websocket"), 502),
            ("refusing.test", Some("websocket"), 403),
            ("wrong.test", Some("websocket"), 502),
        ] {
            let (answer, _send) = client.send_request(connect_request(host, protocol), false).expect("sent");
            let response = answer.await.unwrap_or_else(|error| panic!("{host} {protocol:?}: {error}"));
            assert_eq!(response.status(), status, "{host} {protocol:?}");
        }
    });
    assert_eq!(proxy.proxy.stats().total.tunnels, 0);
}

/// A tunnel ends with its stream, with the connection, and with the time to drain.
#[test]
fn how_tunnels_end() {
    let proxy = proxy();
    runtime().block_on(async {
        let mut client = client(&proxy).await;
        let mut tunnels = Vec::new();
        for _ in 0..3 {
            let request = connect_request("a.test", Some("websocket"));
            let (answer, send) = client.send_request(request, false).expect("sent");
            tunnels.push((answer.await.expect("an answer"), send));
        }
        let (_, mut send) = tunnels.pop().expect("three");
        send.send_reset(h2::Reason::CANCEL);
        while proxy.proxy.stats().total.tunnels_active != 2 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        proxy.proxy.shutdown(SOON).await;
        for (response, _) in tunnels {
            let mut body = response.into_body();
            assert!(!matches!(body.data().await, Some(Ok(piece)) if !piece.is_empty()));
        }
    });
}
