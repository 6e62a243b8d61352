//! A proxy between raw sockets: snapshots by hand, endpoints as functions, answers as bytes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use sluice::model::*;
use sluice::proxy::{Proxy, Settings};

mod anyone;
use anyone::Anyone;

const PATIENCE: Duration = Duration::from_secs(20);

pub struct Rig {
    pub http: SocketAddr,
    pub https: SocketAddr,
    clusters: BTreeMap<Arc<ClusterKey>, Arc<Cluster>>,
    routes: Vec<(HostPattern, Draft)>,
    /// `by_host` is kept by [`Rig::certificates`].
    pub tls: TlsConfig,
    pub proxy_protocol: Option<Arc<ProxyProtocol>>,
    pub sni: SniMode,
    routing: Option<Arc<Routing>>,
    generation: u64,
}

pub struct Running {
    pub proxy: Proxy,
    pub http: SocketAddr,
    pub https: SocketAddr,
    rig: Rig,
}

/// A route while it is described.
pub struct Draft {
    pub path: PathMatch,
    pub backend: Backend,
    pub canary: Option<Canary>,
    pub policy: RoutePolicy,
}

impl Draft {
    pub fn rewrite(&mut self, path: &str) {
        self.policy.rewrite = Some(RewriteTarget::Replace(path.into()));
    }

    pub fn redirect(&mut self, status: u16) {
        self.policy.https_redirect = Some(status);
    }
}

/// The cluster of this name, as routes and policies refer to it.
pub fn key(name: &str) -> ClusterKey {
    ClusterKey::new(ObjectKey::new("test", name), PortRef::Number(80))
}

pub fn backend(name: &str) -> Backend {
    Backend::Cluster(Arc::new(key(name)))
}

pub fn host(name: &str) -> String {
    format!("{name}.test")
}

impl Rig {
    pub fn new() -> Self {
        Self {
            http: ([127, 0, 0, 1], free_port()).into(),
            https: ([127, 0, 0, 1], free_port()).into(),
            clusters: BTreeMap::new(),
            routes: Vec::new(),
            tls: TlsConfig::default(),
            proxy_protocol: None,
            sni: SniMode::Off,
            routing: None,
            generation: 0,
        }
    }

    pub fn cluster(&mut self, name: &str, addresses: &[SocketAddr]) {
        let mut endpoints: Vec<_> = addresses.iter().copied().map(Endpoint::new).collect();
        endpoints.sort();
        let care = self.clusters.get(&key(name)).map(|known| known.care.clone()).unwrap_or_default();
        let endpoints = endpoints.into();
        let key = Arc::new(key(name));
        let cluster = Cluster { key: Arc::clone(&key), protocol: UpstreamProtocol::Http, endpoints, care };
        self.clusters.insert(key, Arc::new(cluster));
    }

    /// Serves, besides TLS, what translation makes of an Ingress of `name.test` with these annotations (JSON)
    /// and of the only port of its Service, which is at `address` and says this `appProtocol`.
    pub fn annotated(&mut self, name: &str, annotations: &str, app_protocol: &str, address: SocketAddr) {
        let annotations: serde_json::Value = serde_json::from_str(annotations).expect("JSON");
        let metadata = |labels: serde_json::Value| serde_json::json!({"namespace": "test", "name": name, "labels": labels});
        let mut ingress = serde_json::json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": metadata(serde_json::json!({})), "spec": {"rules": [{"host": host(name), "http": {"paths": [{
                "path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": name, "port": {"number": 80}}}}]}}]}});
        ingress["metadata"]["annotations"] = annotations;
        let mut port = serde_json::json!({"name": "p", "port": 80});
        if !app_protocol.is_empty() {
            port["appProtocol"] = app_protocol.into();
        }
        let service = serde_json::json!({"apiVersion": "v1", "kind": "Service",
            "metadata": metadata(serde_json::json!({})), "spec": {"ports": [port]}});
        let slice = serde_json::json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": metadata(serde_json::json!({"kubernetes.io/service-name": name})),
            "addressType": "IPv4", "ports": [{"name": "p", "port": address.port()}],
            "endpoints": [{"addresses": [address.ip().to_string()]}]});
        let mut objects = sluice::objects::Objects::default();
        for document in [ingress, service, slice] {
            let parsed = sluice::objects::parse(document, "rig");
            assert!(parsed.issues.is_empty(), "{:?}", parsed.issues);
            parsed.objects.into_iter().for_each(|object| _ = objects.insert(object));
        }
        let settings = sluice::translate::Settings { serve_classless: true, ..Default::default() };
        let made = sluice::translate::translate(&objects, &settings, &[], 0, &Snapshot::empty());
        assert!(made.issues.is_empty(), "{:?}", made.issues);
        self.clusters = made.clusters.iter().map(|(key, cluster)| (key.clone(), cluster.clone())).collect();
        self.routing = Some(made.routing);
    }

    /// How the cluster's endpoints are watched and spared.
    pub fn care(&mut self, cluster: &str, describe: impl FnOnce(&mut Care)) {
        let cluster = self.clusters.get_mut(&key(cluster)).expect("clusters come first");
        describe(Arc::make_mut(&mut Arc::make_mut(cluster).care));
    }

    /// These endpoints of the cluster are for other zones.
    pub fn distant(&mut self, cluster: &str, addresses: &[SocketAddr]) {
        let cluster = self.clusters.get_mut(&key(cluster)).expect("clusters come first");
        let mut endpoints = cluster.endpoints.to_vec();
        for endpoint in &mut endpoints {
            endpoint.distant = addresses.contains(&endpoint.address);
        }
        Arc::make_mut(cluster).endpoints = endpoints.into();
    }

    /// This endpoint of the cluster is the proxy itself.
    pub fn own(&mut self, cluster: &str, address: SocketAddr) {
        let cluster = self.clusters.get_mut(&key(cluster)).expect("clusters come first");
        let mut endpoints = cluster.endpoints.to_vec();
        for endpoint in &mut endpoints {
            endpoint.own = endpoint.address == address;
        }
        Arc::make_mut(cluster).endpoints = endpoints.into();
    }

    /// What the cluster's Service says it speaks.
    pub fn protocol(&mut self, cluster: &str, protocol: UpstreamProtocol) {
        let cluster = self.clusters.get_mut(&key(cluster)).expect("clusters come first");
        Arc::make_mut(cluster).protocol = protocol;
    }

    pub fn route(&mut self, host: &str, path: &str, cluster: &str) {
        self.route_with(host, path, cluster, |_| ());
    }

    pub fn route_with(&mut self, host: &str, path: &str, cluster: &str, describe: impl FnOnce(&mut Draft)) {
        assert!(self.clusters.contains_key(&key(cluster)), "clusters come first");
        self.add(host, path, backend(cluster), describe);
    }

    /// Forgets a cluster that no route leads to any more.
    pub fn remove_cluster(&mut self, name: &str) {
        self.clusters.remove(&key(name));
    }

    /// Forgets all routes, to describe others.
    pub fn replace_routes(&mut self) {
        self.routes.clear();
        self.routing = None;
    }

    pub fn unavailable(&mut self, host: &str, backend: Backend) {
        self.unavailable_with(host, backend, |_| ());
    }

    pub fn unavailable_with(&mut self, host: &str, backend: Backend, describe: impl FnOnce(&mut Draft)) {
        self.add(host, "/", backend, describe);
    }

    fn add(&mut self, host: &str, path: &str, backend: Backend, describe: impl FnOnce(&mut Draft)) {
        let path = PathMatch::Prefix(path.into());
        let mut draft = Draft { path, backend, canary: None, policy: RoutePolicy::default() };
        describe(&mut draft);
        self.routes.push((HostPattern::parse(host).expect("a host"), draft));
    }

    pub fn certificate(&mut self, host: &str, certificate: Arc<Certificate>) {
        self.certificates(host, vec![certificate]);
    }

    pub fn certificates(&mut self, host: &str, certificates: Vec<Arc<Certificate>>) {
        let pattern = HostPattern::parse(host).expect("a host");
        self.tls.by_host.retain(|(old, _)| *old != pattern);
        self.tls.by_host.push((pattern, certificates));
    }

    fn snapshot(&mut self) -> Arc<Snapshot> {
        let sni = self.sni;
        let listener = |address: SocketAddr, protocol| Listener {
            vip: Vip { address: address.ip(), port: address.port(), transport: Transport::Tcp },
            protocol,
            sni: if protocol == Protocol::Https { sni } else { SniMode::Off },
        };
        let routing = Arc::clone(self.routing.get_or_insert_with(|| {
            let mut hosts: BTreeMap<HostPattern, Vec<Route>> = BTreeMap::new();
            for (host, draft) in &self.routes {
                let routes = hosts.entry(host.clone()).or_default();
                routes.push(Route {
                    ingress: ObjectKey::new("test", "ingress"),
                    rule: format!("rules[0].http.paths[{}]", routes.len()).into(),
                    path: draft.path.clone(),
                    backend: draft.backend.clone(),
                    canary: draft.canary.clone().map(Arc::new),
                    policy: Arc::new(draft.policy.clone()),
                });
                routes.sort_by_key(|route| std::cmp::Reverse(route.path.text().len()));
            }
            let host = |(host, routes)| VirtualHost { host, routes, fallback: None, shadowed: vec![] };
            Arc::new(Routing { hosts: hosts.into_iter().map(host).map(Arc::new).collect() })
        }));
        self.generation += 1;
        Arc::new(Snapshot {
            health_ports: Arc::new([]),
            generation: self.generation,
            services: Arc::new([]),
            nodes: Arc::default(),
            listeners: Arc::new([listener(self.http, Protocol::Http), listener(self.https, Protocol::Https)]),
            routing,
            clusters: self.clusters.clone().into_iter().collect(),
            tls: Arc::new(self.tls.clone()),
            trusted_proxies: None,
            proxy_protocol: self.proxy_protocol.clone(),
            ban: None,
            issues: Arc::new([]),
        })
    }

    pub fn start(mut self, change: impl FnOnce(&mut Settings)) -> Running {
        let mut settings = Settings { workers: 2, ..Settings::default() };
        change(&mut settings);
        let proxy = Proxy::start(settings, self.snapshot()).expect("the proxy starts");
        Running { proxy, http: self.http, https: self.https, rig: self }
    }
}

impl Running {
    pub fn change(&mut self, change: impl FnOnce(&mut Rig)) {
        change(&mut self.rig);
        let failures = self.proxy.apply(self.rig.snapshot());
        assert!(failures.is_empty(), "{failures:?}");
    }
}

/// A port of 127.0.0.1 that nobody uses. Ports of sockets that only ever listened are free at once.
/// A port that nobody listens on. Below those that the kernel takes for outgoing connections, so
/// that no connection of another test has it before it is listened on.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let n =
            (std::process::id() as u16).wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + n % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An endpoint that runs `serve` for each connection, in a thread of its own.
pub fn endpoint(serve: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, Ok(mut stream)) = (Arc::clone(&serve), stream) else { continue };
            std::thread::spawn(move || serve(&mut stream));
        }
    });
    address
}

/// A request's head, read byte by byte so that nothing after it is taken; `None` at the end.
pub fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// Answers each request with its head.
pub fn echo(stream: &mut TcpStream) {
    while let Some(head) = read_head(stream) {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX-End: 1\r\n\r\n{head}",
            head.len()
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Answers each request with a word.
pub fn say(stream: &mut TcpStream, word: &str) {
    while read_head(stream).is_some() {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Answers each request with its body, which is sent back chunk by chunk as it comes.
pub fn mirror(stream: &mut TcpStream) {
    while let Some(head) = read_head(stream) {
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        if head.contains("100-continue") {
            // Sent together with the answer, it would be of no use to anybody, and nobody would see it.
            let asked =
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").and_then(|()| stream.peek(&mut [0]));
            if asked.is_err() {
                return;
            }
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err() {
            return;
        }
        if head.starts_with("head") {
            continue;
        }
        let piece = |reader: &mut TcpStream, mut left: usize| {
            let mut bytes = [0; 65536];
            while left > 0 {
                let end = left.min(bytes.len());
                let count = reader.read(&mut bytes[..end]).unwrap_or(0);
                if count == 0 {
                    return;
                }
                left -= count;
                drop(
                    reader
                        .write_all(&[format!("{count:x}\r\n").as_bytes(), &bytes[..count], b"\r\n"].concat()),
                );
            }
        };
        match length {
            Some(length) => piece(stream, length),
            None if head.contains("chunked") => loop {
                let mut line = Vec::new();
                while !line.ends_with(b"\r\n") {
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).is_err() {
                        return;
                    }
                    line.push(byte[0]);
                }
                let text = String::from_utf8_lossy(&line);
                let size = usize::from_str_radix(text.trim(), 16).expect("a chunk size");
                piece(stream, size);
                drop(stream.read_exact(&mut [0; 2]));
                if size == 0 {
                    break;
                }
            },
            None => {}
        }
        drop(stream.write_all(b"0\r\n\r\n"));
    }
}

/// Speaks WebSocket and sends every message back.
pub fn websocket_echo(stream: &mut TcpStream) {
    let Ok(mut socket) = tokio_tungstenite::tungstenite::accept(stream) else { return };
    while let Ok(message) = socket.read() {
        if socket.send(message).is_err() {
            return;
        }
    }
}

#[derive(Debug)]
pub struct Seen {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn text(&self) -> String {
        format!("{}{}", self.head, String::from_utf8_lossy(&self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn has(&self, name: &str) -> bool {
        self.header(name).is_some()
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address);
    // Workers open their sockets on their own time.
    eventually(|| {
        if stream.is_err() {
            stream = TcpStream::connect(address);
        }
        stream.is_ok()
    });
    let stream = stream.expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// One request on a connection of its own.
pub fn send(address: SocketAddr, request: &str) -> Seen {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).expect("sent");
    read_response(&mut stream, false).expect("an answer")
}

/// The next answer, `None` if the connection ends instead.
pub fn read_response(stream: &mut impl Read, is_head: bool) -> Option<Seen> {
    let head = read_head(stream)?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut seen = Seen { status, head, body: Vec::new() };
    if is_head || status < 200 || status == 204 || status == 304 {
        return Some(seen);
    }
    if seen.header("transfer-encoding").is_some() {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut data = vec![0; size + 2];
            reader.read_exact(&mut data).ok()?;
            seen.body.extend_from_slice(&data[..size]);
            if size == 0 {
                assert!(reader.buffer().is_empty(), "nothing follows the body");
                return Some(seen);
            }
        }
    }
    let length: usize = seen.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    seen.body.resize(length, 0);
    stream.read_exact(&mut seen.body).ok()?;
    Some(seen)
}

/// Waits until `condition` holds.
pub fn eventually(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it never came true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A self-signed certificate for `name`, of a new key.
pub fn certificate(name: &str) -> Arc<Certificate> {
    certificate_of(name, &rcgen::PKCS_ECDSA_P256_SHA256)
}

/// The same with a key of a certain type.
pub fn certificate_of(name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Arc<Certificate> {
    let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    let made = params.self_signed(&key).expect("a certificate");
    Arc::new(Certificate {
        secret: ObjectKey::new("test", name),
        names: vec![name.to_owned()],
        not_before: 0,
        not_after: i64::MAX,
        chain: vec![made.der().to_vec()],
        key_pem: key.serialize_pem().into_bytes().into(),
    })
}

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A TLS connection that takes any certificate, to see which one came.
pub fn tls(address: SocketAddr, name: &str, alpn: &[&[u8]]) -> Tls {
    let config = tls_config(alpn, |_| true);
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(config, name).expect("a client");
    StreamOwned::new(connection, connect(address))
}

/// A client that takes any certificate signed in one of the ways that `takes` allows.
pub fn tls_config(
    alpn: &[&[u8]],
    takes: impl Fn(rustls::SignatureScheme) -> bool,
) -> Arc<rustls::ClientConfig> {
    let mut config = tls_builder(takes).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// The same, in one version of TLS.
pub fn tls_config_of(
    version: &'static rustls::SupportedProtocolVersion,
    alpn: &[&[u8]],
) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .expect("a version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone { provider, schemes }))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// The same, before it is said what certificate the client shows.
pub fn tls_builder(
    takes: impl Fn(rustls::SignatureScheme) -> bool,
) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let schemes = schemes.into_iter().filter(|scheme| takes(*scheme)).collect();
    rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone { provider, schemes }))
}

pub fn alpn(tls: &mut Tls) -> Vec<u8> {
    tls.conn.complete_io(&mut tls.sock).expect("a handshake");
    tls.conn.alpn_protocol().unwrap_or_default().to_vec()
}

pub fn fingerprint(tls: &Tls) -> Vec<u8> {
    tls.conn.peer_certificates().expect("a certificate")[0].to_vec()
}

/// The first DNS name of the server's certificate.
pub fn subject(tls: &Tls) -> String {
    let der = fingerprint(tls);
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
    let names = certificate.subject_alternative_name().expect("names").expect("names");
    match &names.value.general_names[0] {
        x509_parser::extensions::GeneralName::DNSName(name) => (*name).to_owned(),
        other => panic!("{other:?}"),
    }
}
