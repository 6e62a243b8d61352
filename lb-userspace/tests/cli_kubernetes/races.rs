//! What changes while clients are in the middle of something.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};

use crate::anyone::Anyone;
use crate::daemon::{DEADLINE, Daemon, endpoint, until};
use crate::{api_server, follow, ingress, publish, slice, until_served_by};

/// The Secret `site` with this certificate and key.
pub fn secret(namespace: &str, certificate: &str, key: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"namespace": namespace, "name": "site"},
        "data": {"tls.crt": STANDARD.encode(certificate), "tls.key": STANDARD.encode(key)}})
}

/// A new certificate for `web.test` as a Secret, and as clients see it.
fn site(algorithm: &'static rcgen::SignatureAlgorithm) -> (Value, Vec<u8>) {
    let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
    let params = rcgen::CertificateParams::new(vec!["web.test".to_owned()]).expect("parameters");
    let made = params.self_signed(&key).expect("a certificate");
    (secret("d", &made.pem(), &key.serialize_pem()), made.der().to_vec())
}

fn client(version: &'static rustls::SupportedProtocolVersion) -> ClientConnection {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .expect("a version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone::new(provider)))
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), ServerName::try_from("web.test").expect("a name"))
        .expect("a client")
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

/// The certificate that a handshake shows now.
fn shown(daemon: &Daemon) -> Vec<u8> {
    let (mut connection, mut stream) = (client(&TLS13), connect(daemon.https));
    connection.complete_io(&mut stream).expect("a handshake");
    connection.peer_certificates().expect("a certificate")[0].to_vec()
}

/// Where the client stops until the new certificate is served.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Before its first byte.
    Connected,
    /// In the middle of its ClientHello.
    Hello,
    /// With its ClientHello sent, and nothing read.
    Answered,
    /// With the server's answer read, and nothing said to it.
    Unfinished,
}

#[test]
fn a_secret_is_replaced_in_the_middle_of_a_handshake() {
    let server = api_server();
    publish(&server, endpoint("red", Duration::ZERO));
    let mut with_tls = ingress("web", "sluice", "web.test");
    with_tls["spec"]["tls"] = json!([{"hosts": ["web.test"], "secretName": "site"}]);
    let (first, mut old) = site(&rcgen::PKCS_ECDSA_P256_SHA256);
    server.apply(first);
    server.apply(with_tls);
    let daemon = follow(&server, &[], Daemon::is_ready);
    until("the first certificate", || (shown(&daemon) == old).then_some(()));
    for version in [&TLS13, &TLS12] {
        for cut in [Cut::Connected, Cut::Hello, Cut::Answered, Cut::Unfinished] {
            // Another type of key, too: then the signature is of another kind.
            for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
                let what = format!("{version:?} {cut:?}");
                let (mut connection, mut stream) = (client(version), connect(daemon.https));
                let mut hello = Vec::new();
                connection.write_tls(&mut hello).expect("a ClientHello");
                let half = match cut {
                    Cut::Connected => 0,
                    Cut::Hello => hello.len() / 2,
                    Cut::Answered | Cut::Unfinished => hello.len(),
                };
                stream.write_all(&hello[..half]).expect("sent");
                if let Cut::Unfinished = cut {
                    connection.read_tls(&mut stream).expect("an answer");
                    connection.process_new_packets().unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                let (replaced, new) = site(algorithm);
                server.apply(replaced);
                until("the new certificate", || (shown(&daemon) == new).then_some(()));
                stream.write_all(&hello[half..]).expect("sent");
                let mut tls = StreamOwned::new(connection, stream);
                let request = b"GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n";
                tls.write_all(request).unwrap_or_else(|error| panic!("{what}: {error}"));
                let mut answer = Vec::new();
                let _ = tls.read_to_end(&mut answer);
                assert!(answer.starts_with(b"HTTP/1.1 200 "), "{what}: {}", crate::daemon::text(&answer));
                let certificate = tls.conn.peer_certificates().expect("a certificate")[0].to_vec();
                assert!([&old, &new].contains(&&certificate), "{what}: it is neither of the two");
                old = new;
            }
        }
    }
}

/// Requests over one connection until told to stop; how many there were, and those that went wrong.
fn keep_asking(daemon: &Daemon, method: &str, stop: &AtomicBool) -> (usize, Vec<String>) {
    let (mut count, mut wrong) = (0, Vec::new());
    let body = if method == "POST" { "hello" } else { "" };
    let request =
        format!("{method} / HTTP/1.1\r\nHost: web.test\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    while !stop.load(Ordering::Relaxed) && wrong.len() < 10 {
        let stream = connect(daemon.http);
        let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
        while !stop.load(Ordering::Relaxed) {
            let answer = (&stream).write_all(request.as_bytes()).ok().and_then(|()| answer(&mut reader));
            count += 1;
            match answer {
                Some((200, body)) if body.starts_with("red ") || body.starts_with("blue ") => {}
                other => {
                    wrong.push(format!("{method} {other:?}"));
                    break;
                }
            }
        }
    }
    (count, wrong)
}

/// Status and body of the next answer.
fn answer(reader: &mut impl std::io::BufRead) -> Option<(u16, String)> {
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().ok()?
            }
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => status = line.split(' ').nth(1)?.parse().ok()?,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((status, crate::daemon::text(&body)))
}

/// Endpoints flap and routes are edited while clients ask: nobody may notice but by who answers.
#[test]
fn flapping_endpoints_and_edits_cost_no_request() {
    let server = api_server();
    let (red, blue) = (endpoint("red", Duration::ZERO), endpoint("blue", Duration::ZERO));
    publish(&server, red);
    server.apply(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "d", "name": "second"}, "spec": {"ports": [{"port": 80}]}}));
    let of_second = |to| {
        let mut slice = slice(&[to]);
        slice["metadata"]["name"] = "second-1".into();
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = "second".into();
        slice
    };
    server.apply(of_second(blue));
    let daemon = follow(&server, &[], Daemon::is_ready);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let fresh = || {
            let mut wrong = Vec::new();
            while !stop.load(Ordering::Relaxed) && wrong.len() < 10 {
                let (status, body) = daemon.get("web.test", "/");
                if status != 200 || !(body.starts_with("red ") || body.starts_with("blue ")) {
                    wrong.push(format!("on a connection of its own: {status} {body}"));
                }
            }
            (1, wrong)
        };
        let clients = [
            scope.spawn(fresh),
            scope.spawn(|| keep_asking(&daemon, "GET", &stop)),
            scope.spawn(|| keep_asking(&daemon, "POST", &stop)),
        ];
        for round in 0..150 {
            server.apply(slice(&[[red, blue][round % 2]]));
            let mut edited = ingress("web", "sluice", "web.test");
            edited["metadata"]["annotations"] = json!({ "round": round.to_string() });
            edited["spec"]["rules"][0]["http"]["paths"][0]["path"] = ["/", ""][round % 2].into();
            // The route moves from one Service to the other, which then nobody names any more.
            edited["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] =
                ["web", "second"][round / 2 % 2].into();
            server.apply(edited);
            server.apply(of_second([red, blue][round % 2]));
            // Another Ingress of the same host and Service comes and goes.
            let mut other = ingress("other", "sluice", "web.test");
            other["spec"]["rules"][0]["http"]["paths"][0]["path"] = "/other".into();
            match round % 3 {
                0 => server.apply(other),
                1 => server.delete(&other),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(7));
        }
        server.apply(ingress("web", "sluice", "web.test"));
        until_served_by(&daemon, "web.test", "blue");
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let (count, wrong) = client.join().expect("a client");
            assert!(count > 0 && wrong.is_empty(), "{wrong:?} of {count}");
        }
    });
}
