//! Certificates of clients.

use std::io::Write;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use sluice::model::*;

use crate::pki::{self, Authority};
use crate::rig::*;

/// What `name.test` asks of its clients.
fn asks(authority: &Authority, change: impl FnOnce(&mut ClientAuth)) -> Arc<ClientAuth> {
    let mut rules = ClientAuth {
        secret: ObjectKey::new("test", "ca"),
        roots: vec![authority.der.clone()],
        revocations: vec![],
        depth: 1,
        any_authority: false,
    };
    change(&mut rules);
    Arc::new(rules)
}

fn rig(names: &[(&str, Arc<ClientAuth>)]) -> Rig {
    rig_with(names, true)
}

fn rig_with(names: &[(&str, Arc<ClientAuth>)], required: bool) -> Rig {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    for name in ["open.test", "strict.test", "other.test"] {
        rig.certificate(name, certificate(name));
        let rules = names.iter().find(|(asking, _)| *asking == name);
        rig.route_with(name, "/", "web", |draft| {
            draft.policy.access.certificate = rules.map(|_| {
                Arc::new(ClientCertificate { required, pass_on: false, error_page: None, common_name: None })
            });
        });
    }
    for (name, rules) in names {
        let pattern = HostPattern::parse(name).expect("a host");
        rig.tls.client_auth.push((pattern, Arc::clone(rules)));
    }
    rig
}

/// A client with or without a certificate.
fn config(shown: Option<&Certificate>) -> Arc<ClientConfig> {
    let mut config = (*tls_config(&[], |_| true)).clone();
    if let Some(certificate) = shown {
        let (chain, key) = pki::parts(certificate);
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = provider.key_provider.load_private_key(key).expect("a key");
        let shown = rustls::sign::CertifiedKey::new(chain, key);
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(shown));
    }
    Arc::new(config)
}

fn open(proxy: &Running, config: &Arc<ClientConfig>, name: &str) -> Tls {
    let server = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(Arc::clone(config), server).expect("a client");
    StreamOwned::new(connection, connect(proxy.https))
}

fn get(client: &mut Tls, host: &str) -> u16 {
    client.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).expect("sent");
    read_response(client, false).expect("an answer").status
}

/// Status and body of a request to `strict.test`.
fn ask(proxy: &Running, shown: Option<&Certificate>) -> (u16, String) {
    let mut client = open(proxy, &config(shown), "strict.test");
    client.write_all(b"GET / HTTP/1.1\r\nHost: strict.test\r\n\r\n").expect("sent");
    let seen = read_response(&mut client, false).expect("an answer, not an alert");
    (seen.status, String::from_utf8_lossy(&seen.body).into_owned())
}

const NONE: &str = "No required SSL certificate was sent";
const BAD: &str = "The SSL certificate error";

#[test]
fn whose_certificates_count() {
    let root = Authority::root("root");
    let other = Authority::root("other");
    let middle = root.below("middle");
    let low = middle.below("low");
    let expired = |authority: &Authority| {
        authority.sign_with("old", |params| {
            params.not_before = rcgen::date_time_ymd(2010, 1, 1);
            params.not_after = rcgen::date_time_ymd(2011, 1, 1);
        })
    };
    let early = root.sign_with("early", |params| params.not_before = rcgen::date_time_ymd(2090, 1, 1));
    let numbered = root.sign_with("numbered", |params| params.serial_number = Some(7.into()));
    let server = root.sign_with("server", |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    let good = root.sign("good");
    let lists = [root.revoke(&[7]), root.revoke(&[8])];
    let outdated = other.revoke(&[8]);
    type Change<'a> = Box<dyn Fn(&mut ClientAuth) + 'a>;
    let plain = || -> Change<'_> { Box::new(|_| ()) };
    let any = || -> Change<'_> { Box::new(|rules| rules.any_authority = true) };
    let depth = |depth: u32| -> Change<'_> { Box::new(move |rules| rules.depth = depth) };
    let list = |list: &[u8]| -> Change<'_> {
        let list = list.to_vec();
        Box::new(move |rules| rules.revocations = vec![list.clone()])
    };
    for (what, change, required, shown, expect) in [
        ("none", plain(), true, None, (400, NONE)),
        ("a good one", plain(), true, Some(&good), (200, "GET /")),
        ("one between", plain(), true, Some(&middle.sign("a")), (200, "GET /")),
        ("two between", plain(), true, Some(&low.sign("a")), (400, BAD)),
        ("two between, two allowed", depth(2), true, Some(&low.sign("a")), (200, "GET /")),
        ("none between allowed", depth(0), true, Some(&middle.sign("a")), (400, BAD)),
        ("another authority's", plain(), true, Some(&other.sign("a")), (400, BAD)),
        ("self-signed", plain(), true, Some(&certificate("a")), (400, BAD)),
        ("expired", plain(), true, Some(&expired(&root)), (400, BAD)),
        ("not yet valid", plain(), true, Some(&early), (400, BAD)),
        ("a server's", plain(), true, Some(&server), (400, BAD)),
        ("revoked", list(&lists[0]), true, Some(&numbered), (400, BAD)),
        ("not revoked", list(&lists[1]), true, Some(&numbered), (200, "GET /")),
        ("a list of somebody else", list(&outdated), true, Some(&good), (400, BAD)),
        ("a list that is none", list(b"no list"), true, Some(&good), (400, BAD)),
        ("optional, none", plain(), false, None, (200, "GET /")),
        ("optional, good", plain(), false, Some(&good), (200, "GET /")),
        ("optional, bad", plain(), false, Some(&other.sign("a")), (400, BAD)),
        ("any authority, another's", any(), false, Some(&other.sign("a")), (200, "GET /")),
        ("any authority, expired", any(), false, Some(&expired(&root)), (400, BAD)),
        ("any authority, none", any(), false, None, (200, "GET /")),
    ] {
        let rules = asks(&root, |rules| change(rules));
        let proxy = rig_with(&[("strict.test", rules)], required).start(|_| ());
        let (status, body) = ask(&proxy, shown.map(|certificate| &**certificate));
        assert_eq!((status, body.contains(expect.1)), (expect.0, true), "{what}: {body}");
        assert_eq!(proxy.proxy.stats().total.tls_failures, 0, "{what}");
    }
}

/// What a connection may do follows the rules of the day, not of the handshake.
#[test]
fn rules_replaced_under_a_connection() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let mine = root.sign("me");
    let mut proxy = rig(&[("strict.test", asks(&root, |_| ()))]).start(|_| ());
    let mut client = open(&proxy, &config(Some(&mine)), "strict.test");
    let mut plain = open(&proxy, &config(Some(&mine)), "open.test");
    for (authority, expect) in [(&root, 200), (&other, 400), (&root, 200)] {
        proxy.change(|rig| rig.tls.client_auth[0].1 = asks(authority, |_| ()));
        assert_eq!(get(&mut client, "strict.test"), expect);
        assert_eq!(get(&mut plain, "open.test"), 200);
    }
    // A name that asks for certificates only now needs a handshake that does.
    proxy.change(|rig| rig.tls.client_auth[0].0 = HostPattern::parse("open.test").expect("a host"));
    assert_eq!(get(&mut plain, "open.test"), 421);
}

#[test]
fn other_names_rules() {
    let authority = Authority::root("root");
    let mine = authority.sign("me");
    let rules = asks(&authority, |_| ());
    let proxy = rig(&[("strict.test", Arc::clone(&rules)), ("other.test", rules)]).start(|_| ());
    for (name, host, shown, expect) in [
        ("open.test", "open.test", false, 200),
        ("open.test", "strict.test", true, 421),
        ("strict.test", "strict.test", true, 200),
        ("strict.test", "STRICT.test.:443", true, 200),
        ("strict.test", "open.test", true, 421),
        ("strict.test", "other.test", true, 421),
        ("unknown.test", "strict.test", true, 421),
        ("unknown.test", "open.test", true, 200),
    ] {
        let mut client = open(&proxy, &config(shown.then_some(&*mine)), name);
        assert_eq!(get(&mut client, host), expect, "{name} for {host}");
    }
}

/// Clients of HTTP/2 like to use a connection for other names that its certificate has. What the
/// handshake did not ask for is not had that way.
#[test]
fn connections_of_http2_that_are_used_for_other_names() {
    let authority = Authority::root("root");
    let mine = authority.sign("me");
    let rules = asks(&authority, |_| ());
    let proxy = rig(&[("strict.test", Arc::clone(&rules)), ("other.test", rules)]).start(|_| ());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for (name, shown, expect) in [
            (
                "open.test",
                false,
                [("open.test", 200), ("strict.test", 421), ("open.test", 200), ("other.test", 421)],
            ),
            (
                "strict.test",
                true,
                [("strict.test", 200), ("open.test", 421), ("strict.test", 200), ("other.test", 421)],
            ),
            (
                "strict.test",
                false,
                [("strict.test", 400), ("open.test", 421), ("strict.test", 400), ("other.test", 421)],
            ),
        ] {
            let mut config = (*config(shown.then_some(&*mine))).clone();
            config.alpn_protocols = vec![b"h2".to_vec()];
            let stream = tokio::net::TcpStream::connect(proxy.https).await.expect("connected");
            let server = ServerName::try_from(name).expect("a name");
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let stream = connector.connect(server, stream).await.expect("TLS");
            let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
            tokio::spawn(connection);
            for (host, status) in expect {
                let request = http::Request::get(format!("https://{host}/")).body(()).expect("a request");
                let mut client = client.clone().ready().await.expect("ready");
                let (answer, _) = client.send_request(request, true).expect("sent");
                assert_eq!(answer.await.expect("an answer").status(), status, "{name} for {host}");
            }
        }
    });
}

/// A session of another name, or of the same, brings no certificate along.
#[test]
fn sessions_are_not_resumed() {
    let authority = Authority::root("root");
    let mine = authority.sign("me");
    let proxy = rig(&[("strict.test", asks(&authority, |_| ()))]).start(|_| ());
    for (name, resumes) in
        [("strict.test", rustls::HandshakeKind::Full), ("open.test", rustls::HandshakeKind::Resumed)]
    {
        let config = config(Some(&mine));
        for round in 0..3 {
            let mut client = open(&proxy, &config, name);
            assert_eq!(get(&mut client, name), 200, "{name}");
            let kind = client.conn.handshake_kind().expect("a handshake");
            let expect = if round == 0 { rustls::HandshakeKind::Full } else { resumes };
            assert_eq!(kind, expect, "{name}, round {round}");
        }
    }
}

/// Certificates and authorities are replaced under handshakes that are going on: none fails.
#[test]
fn secrets_replaced_under_handshakes() {
    let authority = Authority::root("root");
    let mine = authority.sign("me");
    let mut proxy = rig(&[("strict.test", asks(&authority, |_| ()))]).start(|_| ());
    let address = proxy.https;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = ["open.test", "strict.test"]
        .into_iter()
        .map(|name| {
            let (stop, config) = (Arc::clone(&stop), config(Some(&mine)));
            std::thread::spawn(move || {
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let server = ServerName::try_from(name).expect("a name");
                    let connection = ClientConnection::new(Arc::clone(&config), server).expect("a client");
                    let mut client = StreamOwned::new(connection, connect(address));
                    assert_eq!(get(&mut client, name), 200, "{name}");
                    count += 1;
                }
                count
            })
        })
        .collect();
    for round in 0..40 {
        proxy.change(|rig| {
            for name in ["open.test", "strict.test"] {
                rig.certificate(name, certificate(name));
            }
            let depth = 1 + round % 2;
            rig.tls.client_auth[0].1 = asks(&authority, |rules| rules.depth = depth);
        });
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in clients {
        assert!(client.join().expect("no handshake failed") > 0);
    }
    assert_eq!(proxy.proxy.stats().total.tls_failures, 0);
}
