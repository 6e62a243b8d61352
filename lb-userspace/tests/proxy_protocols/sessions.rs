//! TLS: sessions that go on at another worker, certificates that change under them, what is agreed on.

use std::io::Write;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, StreamOwned};

use crate::rig::*;

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(|stream| say(stream, "hello"))]);
    for name in ["a.test", "b.test"] {
        rig.route(name, "/", "web");
        rig.certificate(name, certificate(name));
    }
    rig
}

/// One request over a connection of its own.
fn ask(proxy: &Running, config: &Arc<ClientConfig>, name: &str) -> Tls {
    let server = ServerName::try_from(name.to_owned()).expect("a name");
    let client = ClientConnection::new(Arc::clone(config), server).expect("a client");
    let mut tls = StreamOwned::new(client, connect(proxy.https));
    tls.write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes()).expect("sent");
    assert_eq!(read_response(&mut tls, false).expect("an answer").status, 200);
    tls
}

#[test]
fn sessions_go_on_at_any_worker() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut proxy = rig().start(|settings| settings.workers = 3);
        let config = tls_config_of(version, &[b"http/1.1"]);
        let first = ask(&proxy, &config, "a.test");
        assert_eq!(first.conn.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(first.conn.protocol_version(), Some(version.version));
        let before = fingerprint(&first);
        let accepted = |proxy: &Running| -> Vec<u64> {
            proxy.proxy.stats().workers.iter().map(|worker| worker.totals.tls_handshakes).collect()
        };
        // Every worker resumes what any of them began.
        let mut tries = 0;
        while accepted(&proxy).contains(&0) {
            let again = ask(&proxy, &config, "a.test");
            assert_eq!(again.conn.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
            tries += 1;
            assert!(tries < 500, "connections do not reach all workers: {:?}", accepted(&proxy));
        }
        // Another certificate does not end them, and a new client gets it at once.
        let mut open = ask(&proxy, &config, "a.test");
        proxy.change(|rig| rig.certificate("a.test", certificate("a.test")));
        let again = ask(&proxy, &config, "a.test");
        assert_eq!(again.conn.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
        let fresh = ask(&proxy, &tls_config_of(version, &[b"http/1.1"]), "a.test");
        assert_eq!(fresh.conn.handshake_kind(), Some(HandshakeKind::Full));
        assert_ne!(fingerprint(&fresh), before);
        open.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("sent");
        assert_eq!(read_response(&mut open, false).expect("an answer").status, 200);
        // Another name is another session.
        let other = ask(&proxy, &config, "b.test");
        assert_eq!(other.conn.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn tickets_outlive_one_change_of_their_key() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let proxy = rig().start(|_| ());
        let kind = |config: &Arc<ClientConfig>| ask(&proxy, config, "a.test").conn.handshake_kind();
        for (changes, expect) in [
            (0, HandshakeKind::Resumed),
            (1, HandshakeKind::Resumed),
            (2, HandshakeKind::Full),
            (3, HandshakeKind::Full),
        ] {
            let config = tls_config_of(version, &[b"http/1.1"]);
            assert_eq!(kind(&config), Some(HandshakeKind::Full));
            (0..changes).for_each(|_| proxy.proxy.rotate_tickets());
            assert_eq!(kind(&config), Some(expect), "{version:?} after {changes} changes");
            // Either way there is a ticket of the new key now.
            proxy.proxy.rotate_tickets();
            assert_eq!(kind(&config), Some(HandshakeKind::Resumed), "{version:?} after {changes} changes");
        }
    }
}

#[test]
fn what_is_agreed_on() {
    let proxy = rig().start(|_| ());
    for (offered, expect) in [
        (&[&b"h2"[..], b"http/1.1"][..], &b"h2"[..]),
        (&[b"http/1.1", b"h2"], b"h2"),
        (&[b"http/1.1"], b"http/1.1"),
        (&[b"spdy/1", b"http/1.1"], b"http/1.1"),
        (&[], b""),
    ] {
        assert_eq!(alpn(&mut tls(proxy.https, "a.test", offered)), expect, "{offered:?}");
    }
    // Nothing in common is an error (RFC 7301 section 3.2).
    let mut strange = tls(proxy.https, "a.test", &[b"spdy/1"]);
    assert!(strange.conn.complete_io(&mut strange.sock).is_err());
    assert_eq!(
        ask(&proxy, &tls_config(&[], |_| true), "a.test").conn.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
}

/// TLS 1.1 and older get an alert: protocol_version (70).
#[test]
fn older_versions_are_refused() {
    use std::io::Read;
    let proxy = rig().start(|_| ());
    for minor in [1, 2] {
        let mut hello = vec![1, 0, 0, 0, 3, minor];
        hello.extend([7; 32]);
        // One suite, no compression, and ecdsa_secp256r1_sha256 as the one way to sign.
        hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0, 0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
        let length = u8::try_from(hello.len() - 4).expect("short");
        hello[3] = length;
        let record = [&[22, 3, 1, 0, length + 4][..], &hello].concat();
        let mut stream = connect(proxy.https);
        stream.write_all(&record).expect("sent");
        let mut alert = Vec::new();
        drop(stream.read_to_end(&mut alert));
        assert_eq!((alert.first(), alert.get(6)), (Some(&21), Some(&70)), "{alert:?}");
    }
}
