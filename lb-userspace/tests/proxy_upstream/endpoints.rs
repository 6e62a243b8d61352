//! Endpoints that speak TLS.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DistinguishedName, ServerConfig, ServerConnection, SignatureScheme, StreamOwned};
use sluice::model::Certificate;

use crate::pki;
use crate::rig::{endpoint, read_head};

/// Answers each request with what it knows of the connection, and the request's head.
pub fn secure(certificate: &Certificate, alpn: &[&[u8]]) -> SocketAddr {
    let config = server_config(certificate, alpn);
    let connections = AtomicUsize::new(0);
    endpoint(move |stream| {
        let number = connections.fetch_add(1, Relaxed);
        talk(&config, stream, number);
    })
}

fn talk(config: &Arc<ServerConfig>, stream: &mut TcpStream, number: usize) {
    let (Ok(connection), Ok(stream)) = (ServerConnection::new(Arc::clone(config)), stream.try_clone()) else {
        return;
    };
    let mut tls = StreamOwned::new(connection, stream);
    while let Some(head) = read_head(&mut tls) {
        let name = tls.conn.server_name().unwrap_or("none");
        let shown =
            tls.conn.peer_certificates().map_or("nobody".to_owned(), |chain| pki::common_name(&chain[0]));
        let alpn = String::from_utf8_lossy(tls.conn.alpn_protocol().unwrap_or(b"none")).into_owned();
        let body = format!("number {number}, name {name}, shown {shown}, alpn {alpn}\n{head}");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if tls.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// A server that asks for a certificate and takes any or none.
pub fn server_config(certificate: &Certificate, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (chain, key) = pki::parts(certificate);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(Arc::new(Anyone(provider)))
        .with_single_cert(chain, key)
        .expect("a certificate");
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ClientCertVerifier for Anyone {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
