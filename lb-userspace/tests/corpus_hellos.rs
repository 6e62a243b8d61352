//! ClientHellos of a real TLS client, as the kernel programs' parser sees them.
//!
//! `SLUICE_WRITE_CORPUS=1 cargo test --test corpus_hellos` writes some to lb-common's corpus, which
//! is replayed at every prefix there.

use std::path::Path;
use std::sync::Arc;

use lb_common::hello::server_name;
use lb_common::reason::Reason;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};

const CLASSIC: &[&dyn SupportedKxGroup] = &[aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
const POST_QUANTUM: &[&dyn SupportedKxGroup] =
    &[aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
const TLS12: &[&SupportedProtocolVersion] = &[&version::TLS12];
const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

struct Client {
    file: &'static str,
    groups: &'static [&'static dyn SupportedKxGroup],
    versions: &'static [&'static SupportedProtocolVersion],
    /// A name, or an address, for which no server name is sent.
    to: &'static str,
    alpn: &'static [&'static str],
}

const CLIENTS: &[Client] = &[
    Client {
        file: "classic",
        groups: CLASSIC,
        versions: BOTH,
        to: "www.example.com",
        alpn: &["h2", "http/1.1"],
    },
    Client { file: "tls12", groups: CLASSIC, versions: TLS12, to: "any.wild.example.com", alpn: &[] },
    Client {
        file: "post-quantum",
        groups: POST_QUANTUM,
        versions: BOTH,
        to: "www.example.com",
        alpn: &["h2"],
    },
    Client {
        file: "post-quantum-again",
        groups: POST_QUANTUM,
        versions: BOTH,
        to: "www.example.com",
        alpn: &[],
    },
    Client { file: "no-name", groups: CLASSIC, versions: BOTH, to: "192.0.2.1", alpn: &[] },
];

fn hello(client: &Client) -> Vec<u8> {
    let provider = CryptoProvider { kx_groups: client.groups.to_vec(), ..aws_lc_rs::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(client.versions)
        .expect("versions of the provider")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = client.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let to = ServerName::try_from(client.to).expect("a name or an address");
    let mut connection = ClientConnection::new(Arc::new(config), to).expect("client");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("a Vec takes everything");
    bytes
}

#[test]
fn the_name_of_a_real_client_is_found() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lb-common/tests/corpus/hellos");
    for client in CLIENTS {
        // rustls sends its extensions in random order.
        for _ in 0..50 {
            let hello = hello(client);
            let found = server_name(&hello[..]).map(|name| &hello[name.offset..][..name.length]);
            let expect =
                if client.file == "no-name" { Err(Reason::HelloNoName) } else { Ok(client.to.as_bytes()) };
            assert_eq!(found, expect, "{}: {hello:02x?}", client.file);
        }
        if std::env::var_os("SLUICE_WRITE_CORPUS").is_some() {
            std::fs::write(corpus.join(client.file), hello(client)).expect("corpus");
        }
    }
}
