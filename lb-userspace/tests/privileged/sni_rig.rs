//! A daemon that looks at server names, and real TLS clients.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aya::programs::{Xdp, xdp::XdpMode};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::{DnsName, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;
use xtask::lab::manifests::{endpoint_slices, ingress, service, tls_secret};
use xtask::lab::topology::{NODE_NIC, VIP_V4, VIP_V6};
use xtask::lab::{Backend, Daemon, ManifestDir, Topology};

use crate::need_root;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

/// Both families' VIP.
pub const VIPS: [IpAddr; 2] = [VIP_V4, VIP_V6];
/// All key exchanges.
pub const KEYS: [Keys; 2] = [Keys::Classic, Keys::PostQuantum];

/// Only so that a broken test ends.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Which key exchanges a client offers. A post-quantum one makes most hellos too long for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    Classic,
    PostQuantum,
}

/// How a connection attempt ended.
#[derive(Debug, PartialEq)]
pub enum End {
    /// The answer's status line.
    Served(String),
    /// A fatal alert.
    Alert(AlertDescription),
    Other(String),
}

/// The daemon, a backend behind it and a client.
pub struct Rig {
    pub daemon: Daemon,
    pub manifests: ManifestDir,
    authority: xtask::lab::Authority,
    _backend: Backend,
    /// Lets the client receive what XDP sends back: veth delivers that only to who runs XDP, too.
    _receiver: aya::Ebpf,
    pub topology: Topology,
}

impl Rig {
    /// Serves `web.example.com` and everything under `wild.example.com`; the latter belongs to the pool
    /// `tenant`, if there is one.
    pub fn new(label: &str, xdp: bool, options: &str) -> Self {
        Self::with(label, xdp, options, &[])
    }

    /// The same on a node with these settings of IPv4.
    pub fn with(label: &str, xdp: bool, options: &str, sysctls: &[(&str, &str)]) -> Self {
        need_root();
        let topology = Topology::new(label, 1).expect("namespaces");
        for (name, value) in sysctls {
            topology.node.sysctl(&format!("ipv4/{name}"), value).expect("a sysctl");
        }
        let addresses = topology.endpoint_addresses(0, 8080);
        let backend = Backend::start(&topology.endpoint(0), "web", &addresses).expect("a backend");
        let manifests = ManifestDir::create(&topology.directory().join("m")).expect("a directory");
        let authority = xtask::lab::Authority::new().expect("an authority");
        let issued = authority.issue(&["web.example.com", "*.wild.example.com"]).expect("a certificate");
        let mut objects = vec![
            service("d", "web", 80, 8080),
            tls_secret("d", "web", &issued),
            with_tls("web", "web.example.com"),
            with_tls("wild", "*.wild.example.com"),
        ];
        if options.contains("--worker-pool") {
            objects[3]["metadata"]["annotations"] = serde_json::json!({ "sluice.dev/worker-pool": "tenant" });
        }
        objects.extend(endpoint_slices("d", "web", &addresses));
        manifests.write_objects("web.yaml", &objects).expect("a file");
        let receiver = topology.client().enter(receive_xdp).expect("the client's namespace");
        let mut arguments = format!("--manifests {} {options}", manifests.path().display());
        if xdp {
            let pins = topology.pins().display();
            arguments += &format!(" --interface {NODE_NIC} --pin-dir {pins} --vip {VIP_V4} --vip {VIP_V6}");
        } else {
            arguments += " --no-xdp";
        }
        let arguments = arguments.split(' ').map(str::to_owned).collect();
        let daemon = Daemon::start(Path::new(SLUICE), &topology.node(), topology.directory(), arguments);
        let daemon = daemon.expect("a daemon");
        Self { daemon, manifests, authority, _backend: backend, _receiver: receiver, topology }
    }

    /// A request over TLS for this name; for none if it is empty.
    pub fn ask(&self, to: IpAddr, name: &str, keys: Keys) -> End {
        let config = self.client(keys);
        let name = match name {
            "" => ServerName::from(Ipv4Addr::new(192, 0, 2, 77)),
            name => DnsName::try_from(name.to_owned()).expect("a name").into(),
        };
        self.topology.client().enter(|| ask(config, SocketAddr::new(to, 443), name)).expect("the client")
    }

    pub fn client(&self, keys: Keys) -> Arc<ClientConfig> {
        let mut provider = default_provider();
        provider.kx_groups = match keys {
            Keys::Classic => vec![kx_group::X25519],
            Keys::PostQuantum => vec![kx_group::X25519MLKEM768, kx_group::X25519],
        };
        self.authority.client_with(provider, &["http/1.1"])
    }

    /// A reason's counter.
    pub fn verdict(&self, reason: &str) -> u64 {
        self.daemon.status().expect("a status")["verdicts"][reason].as_u64().unwrap_or_default()
    }
}

/// An Ingress with TLS.
pub fn with_tls(name: &str, host: &str) -> Value {
    let mut ingress = ingress("d", name, host, "/", "web");
    ingress["spec"]["tls"] = serde_json::json!([{ "hosts": [host], "secretName": "web" }]);
    ingress
}

/// Attaches a program that passes everything.
fn receive_xdp() -> aya::Ebpf {
    let mut programs = sluice::dataplane::kernel::load(None, false).expect("the object");
    let program: &mut Xdp = programs.program_mut("empty").expect("there").try_into().expect("XDP");
    program.load().expect("verifier");
    program.attach("eth0", XdpMode::Driver).expect("veth takes it");
    programs
}

fn ask(config: Arc<ClientConfig>, to: SocketAddr, name: ServerName<'static>) -> End {
    match TcpStream::connect_timeout(&to, DEADLINE) {
        Ok(stream) => request(config, stream, name),
        Err(error) => End::Other(error.to_string()),
    }
}

/// A request over TLS on a connection.
pub fn request(config: Arc<ClientConfig>, stream: TcpStream, name: ServerName<'static>) -> End {
    let exchange = || -> std::io::Result<String> {
        stream.set_read_timeout(Some(DEADLINE))?;
        let connection = ClientConnection::new(Arc::clone(&config), name.clone()).expect("a configuration");
        let mut stream = StreamOwned::new(connection, stream);
        let host = name.to_str();
        write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    match exchange() {
        Ok(status) => End::Served(status),
        Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => End::Alert(*alert),
            Some(other) => End::Other(other.to_string()),
            None if error.kind() == ErrorKind::WouldBlock => End::Other("no answer".to_owned()),
            None => End::Other(error.to_string()),
        },
    }
}
