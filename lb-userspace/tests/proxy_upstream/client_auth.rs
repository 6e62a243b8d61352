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
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    for name in ["open.test", "strict.test", "other.test"] {
        rig.certificate(name, certificate(name));
        let rules = names.iter().find(|(asking, _)| *asking == name);
        rig.route_with(name, "/", "web", |draft| {
            draft.policy.access.certificate = rules.map(|_| {
                Arc::new(ClientCertificate {
                    required: true,
                    pass_on: false,
                    error_page: None,
                    common_name: None,
                })
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
