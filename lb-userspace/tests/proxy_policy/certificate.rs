//! Certificates of clients.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConnection, StreamOwned};
use sluice::model::{ClientAuth, ClientCertificate, HostPattern, ObjectKey};

use crate::rig::{Rig, Running, Seen, certificate, connect, echo, endpoint, read_response, tls_builder};

/// An authority, and certificates of it for these common names.
struct Authority {
    root: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Test CA");
        let root = params.self_signed(&key).expect("a certificate").der().to_vec();
        Self { root, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Acme, Inc.");
        params.distinguished_name.push(DnType::CommonName, name);
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        (made.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
    }
}

/// `a.test` over https, whose clients are asked for certificates of `authority`.
fn asking(authority: &Authority, rules: ClientCertificate) -> Running {
    let mut rig = Rig::new();
    rig.cluster("web", &[endpoint(echo)]);
    rig.route_with("a.test", "/", "web", |draft| draft.policy.access.certificate = Some(Arc::new(rules)));
    rig.certificate("a.test", certificate("a.test"));
    let asked = ClientAuth {
        secret: ObjectKey::new("test", "ca"),
        roots: vec![authority.root.clone()],
        revocations: vec![],
        depth: 1,
        any_authority: false,
    };
    rig.tls.client_auth.push((HostPattern::parse("a.test").expect("a host"), Arc::new(asked)));
    rig.start(|_| ())
}

/// `GET /` of `a.test` by a client that shows this certificate.
fn get(
    address: SocketAddr,
    shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    headers: &str,
) -> Seen {
    let builder = tls_builder(|_| true);
    let config = match shown {
        Some((leaf, key)) => builder.with_client_auth_cert(vec![leaf], key).expect("a certificate"),
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from("a.test").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = StreamOwned::new(connection, connect(address));
    let text = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).expect("sent");
    read_response(&mut stream, false).expect("an answer")
}

fn rules() -> ClientCertificate {
    ClientCertificate { required: true, pass_on: false, error_page: None, common_name: None }
}

#[test]
fn who_gets_in() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let page = Some("https://a.test/no-certificate".into());
    let staff = Some("^staff-[0-9]+$".into());
    for (rules, shown, status) in [
        (rules(), Some((&ours, "x")), 200),
        (rules(), None, 400),
        (rules(), Some((&theirs, "x")), 400),
        (ClientCertificate { required: false, ..rules() }, None, 200),
        (ClientCertificate { required: false, ..rules() }, Some((&theirs, "x")), 400),
        (ClientCertificate { error_page: page.clone(), ..rules() }, None, 302),
        (ClientCertificate { error_page: page, ..rules() }, Some((&ours, "x")), 200),
        (ClientCertificate { common_name: staff.clone(), ..rules() }, Some((&ours, "staff-7")), 200),
        (ClientCertificate { common_name: staff.clone(), ..rules() }, Some((&ours, "guest")), 403),
        (ClientCertificate { common_name: staff, required: false, ..rules() }, None, 403),
        (ClientCertificate { common_name: Some("(".into()), ..rules() }, Some((&ours, "x")), 403),
    ] {
        let proxy = asking(&ours, rules.clone());
        let seen = get(proxy.https, shown.map(|(by, name)| by.issue(name)), "");
        assert_eq!(seen.status, status, "{rules:?}, {:?}: {}", shown.map(|(_, name)| name), seen.text());
    }
}

/// Over http nobody has a certificate, and nobody's word that he had one counts.
#[test]
fn plain_requests_have_none() {
    let ours = Authority::new();
    let proxy = asking(&ours, rules());
    for headers in ["", "ssl-client-verify: SUCCESS\r\n"] {
        let text = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{headers}\r\n");
        assert_eq!(crate::raw(proxy.http, &text).status, 400);
    }
}

#[test]
fn what_the_endpoint_is_told() {
    let ours = Authority::new();
    let forged = "ssl-client-verify: forged\r\nssl-client-cert: forged\r\nssl-client-subject-dn: forged\r\n";
    for (pass_on, shown, expect) in [
        (
            true,
            Some("x"),
            &[
                "ssl-client-verify: SUCCESS",
                "ssl-client-subject-dn: CN=x,O=Acme\\, Inc.",
                "ssl-client-cert: -----BEGIN%20CERTIFICATE-----%0AMII",
            ][..],
        ),
        (false, Some("x"), &["ssl-client-verify: SUCCESS", "ssl-client-issuer-dn: CN=Test CA"]),
        (true, None, &["ssl-client-verify: NONE"]),
    ] {
        let proxy = asking(&ours, ClientCertificate { pass_on, required: false, ..rules() });
        let seen = get(proxy.https, shown.map(|name| ours.issue(name)), forged);
        let told = seen.text();
        for line in expect {
            assert!(told.contains(line), "{line} in {told}");
        }
        assert_eq!(told.contains("ssl-client-cert:"), pass_on && shown.is_some(), "{told}");
        assert!(!told.contains("forged"), "{told}");
    }
}
