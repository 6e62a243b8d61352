//! Where the demo plays: backends, manifests, the daemon, and a place for the client.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xtask::lab::manifests::{endpoint_slices, tls_secret};
use xtask::lab::topology::{NODE_NIC, VIP_V4, VIP_V6, temporary_directory};
use xtask::lab::{Authority, Backend, Daemon, ManifestDir, Place, Topology};

use crate::command::root;

/// The namespace of the examples.
pub const NAMESPACE: &str = "demo";

/// Which Services there are, and in which endpoint namespaces (from 0) each has a backend.
const SERVICES: &[(&str, &[usize])] = &[
    ("blue", &[0, 1]),
    ("green", &[2]),
    ("api", &[0]),
    ("legacy", &[1]),
    ("shop", &[1, 2]),
    ("tenants", &[2]),
];

/// Everything that runs, in the order in which it must be dropped: what uses something before it.
pub struct Stage {
    daemon: Daemon,
    backends: BTreeMap<String, Backend>,
    /// The Services' endpoints as the manifests say.
    endpoints: BTreeMap<&'static str, Vec<(String, SocketAddr)>>,
    manifests: ManifestDir,
    authority: Authority,
    client: Place,
    endpoint_places: Vec<Place>,
    vips: Vec<IpAddr>,
    http: u16,
    https: u16,
    topology: Option<Topology>,
    _directory: Option<tempfile::TempDir>,
}

impl Stage {
    /// Namespaces, XDP and sk_lookup. Needs root.
    pub fn laboratory(binary: &Path) -> Result<Self> {
        let topology = Topology::new("demo", 3)?;
        let places: Vec<_> = (0..3).map(|index| topology.endpoint(index)).collect();
        let address = |index: usize, port: u16| topology.endpoint_addresses(index, port).to_vec();
        let (backends, endpoints) = start_backends(&places, address)?;
        let (manifests, authority) = write_manifests(topology.directory(), &endpoints)?;
        let arguments = [
            "--manifests",
            &manifests.path().display().to_string(),
            "--interface",
            NODE_NIC,
            "--vip",
            &VIP_V4.to_string(),
            "--vip",
            &VIP_V6.to_string(),
            "--pin-dir",
            &topology.pins().display().to_string(),
        ];
        let daemon = Daemon::start(
            binary,
            &topology.node(),
            topology.directory(),
            arguments.map(String::from).to_vec(),
        )?;
        let stage = Self {
            daemon,
            backends,
            endpoints,
            manifests,
            authority,
            client: topology.client(),
            endpoint_places: places,
            vips: vec![VIP_V4, VIP_V6],
            http: 80,
            https: 443,
            topology: Some(topology),
            _directory: None,
        };
        let status = stage.daemon.status()?;
        let nic = &status["xdp"]["interfaces"][0];
        ensure!(nic["name"] == NODE_NIC && nic["mode"] == "native", "XDP is not native on {NODE_NIC}: {nic}");
        Ok(stage)
    }

    /// The same on loopback, without XDP and without rights.
    pub fn loopback(binary: &Path) -> Result<Self> {
        let directory = temporary_directory("demo")?;
        let places = vec![Place::Host; 3];
        let address = |_, _| vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        let (backends, endpoints) = start_backends(&places, address)?;
        let (manifests, authority) = write_manifests(directory.path(), &endpoints)?;
        let mut vips = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            vips.push(Ipv6Addr::LOCALHOST.into());
        } else {
            eprintln!("demo: this machine has no IPv6 loopback, so IPv4 only");
        }
        let [http, https, health] = free_ports(&vips)?;
        let mut arguments =
            vec!["--manifests".to_owned(), manifests.path().display().to_string(), "--no-xdp".into()];
        for vip in &vips {
            arguments.extend(["--vip".to_owned(), vip.to_string()]);
        }
        arguments.extend([
            "--http-port".to_owned(),
            http.to_string(),
            "--https-port".into(),
            https.to_string(),
        ]);
        arguments.extend(["--health".to_owned(), format!("127.0.0.1:{health}")]);
        let daemon = Daemon::start(binary, &Place::Host, directory.path(), arguments)?;
        Ok(Self {
            daemon,
            backends,
            endpoints,
            manifests,
            authority,
            client: Place::Host,
            endpoint_places: places,
            vips,
            http,
            https,
            topology: None,
            _directory: Some(directory),
        })
    }

    /// Whether XDP and sk_lookup are on the road.
    pub fn xdp(&self) -> bool {
        self.topology.is_some()
    }

    /// The daemon.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Where clients run.
    pub fn client(&self) -> &Place {
        &self.client
    }

    /// Who signed the certificates.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The VIPs' addresses.
    pub fn vips(&self) -> &[IpAddr] {
        &self.vips
    }

    /// The port for HTTP.
    pub fn http(&self) -> u16 {
        self.http
    }

    /// The port for TLS.
    pub fn https(&self) -> u16 {
        self.https
    }

    /// The manifests that are served.
    pub fn manifests(&self) -> &ManifestDir {
        &self.manifests
    }

    /// Writes the EndpointSlices of all Services, without the backend `absent`.
    pub fn publish_without(&self, absent: Option<&str>) -> Result<()> {
        write_slices(&self.manifests, &self.endpoints, absent)
    }

    /// Ends the backend `name`: its port is closed then.
    pub fn end_backend(&mut self, name: &str) -> Result<()> {
        self.backends.remove(name).map(drop).with_context(|| format!("no backend {name}"))
    }

    /// Starts the backend `name` anew, at the same address.
    pub fn restart_backend(&mut self, name: &str) -> Result<()> {
        let addresses: Vec<_> =
            self.endpoints.values().flatten().filter(|(n, _)| n == name).map(|(_, a)| *a).collect();
        let index = SERVICES.iter().find_map(|(service, places)| {
            places.iter().find(|index| backend_name(service, **index) == name).copied()
        });
        let place = index.and_then(|index| self.endpoint_places.get(index));
        let place = place.with_context(|| format!("no backend {name}"))?;
        self.backends.insert(name.to_owned(), Backend::start(place, name, &addresses)?);
        Ok(())
    }

    /// Waits until the daemon lives by manifests that are newer than `status`.
    pub fn wait_newer(&self, status: &Value) -> Result<Value> {
        let old = status["generation"].as_u64();
        Ok(self.daemon.wait_for("a new generation is served", |now| now["generation"].as_u64() > old)?)
    }

    /// What runs where, in a few lines.
    pub fn describe(&self) -> Result<String> {
        let status = self.daemon.status()?;
        let vips: Vec<_> = self.vips.iter().map(ToString::to_string).collect();
        let road = match &self.topology {
            Some(topology) => format!(
                "client {} → node {} ({NODE_NIC}: XDP {}, program {}) → {} endpoint namespaces",
                topology.client.name(),
                topology.node.name(),
                status["xdp"]["interfaces"][0]["mode"].as_str().unwrap_or("?"),
                status["xdp"]["interfaces"][0]["program_id"],
                topology.endpoints.len(),
            ),
            None => "client, node and endpoints on loopback, without XDP".to_owned(),
        };
        Ok(format!(
            "sluice {} serves deploy/examples on {} (ports {} and {})\n{road}",
            status["version"].as_str().unwrap_or("?"),
            vips.join(" and "),
            self.http,
            self.https,
        ))
    }
}

type Backends = BTreeMap<String, Backend>;
type Endpoints = BTreeMap<&'static str, Vec<(String, SocketAddr)>>;

fn backend_name(service: &str, place: usize) -> String {
    format!("{service}-{}", place + 1)
}

fn start_backends(
    places: &[Place],
    addresses: impl Fn(usize, u16) -> Vec<SocketAddr>,
) -> Result<(Backends, Endpoints)> {
    let (mut backends, mut endpoints) = (Backends::new(), Endpoints::new());
    for (port, (service, indexes)) in (8080..).zip(SERVICES) {
        for &index in *indexes {
            let name = backend_name(service, index);
            let backend = Backend::start(&places[index], &name, &addresses(index, port))?;
            let list = endpoints.entry(*service).or_default();
            list.extend(backend.addresses().iter().map(|address| (name.clone(), *address)));
            backends.insert(name, backend);
        }
    }
    Ok((backends, endpoints))
}

fn write_manifests(directory: &Path, endpoints: &Endpoints) -> Result<(ManifestDir, Authority)> {
    let manifests = ManifestDir::create(&directory.join("manifests"))?;
    manifests.copy_from(&root().join("deploy/examples"))?;
    let authority = Authority::new()?;
    let issued = authority.issue(&["shop.example.com", "*.tenants.example.com"])?;
    manifests.write_objects("shop-tls.yaml", &[tls_secret(NAMESPACE, "shop-tls", &issued)])?;
    write_slices(&manifests, endpoints, None)?;
    Ok((manifests, authority))
}

fn write_slices(manifests: &ManifestDir, endpoints: &Endpoints, absent: Option<&str>) -> Result<()> {
    let mut slices = Vec::new();
    for (service, list) in endpoints {
        let present = list.iter().filter(|(name, _)| absent != Some(name.as_str()));
        let present: Vec<_> = present.map(|(_, address)| *address).collect();
        slices.extend(endpoint_slices(NAMESPACE, service, &present));
    }
    Ok(manifests.write_objects("endpoint-slices.yaml", &slices)?)
}

/// Three ports that are free on all addresses. Another process may take one before the daemon does;
/// the daemon then says so and the demo fails.
fn free_ports(addresses: &[IpAddr]) -> Result<[u16; 3]> {
    let mut held = Vec::new();
    for _ in 0..64 {
        let first = TcpListener::bind((addresses[0], 0))?;
        let port = first.local_addr()?.port();
        let others: Result<Vec<_>, _> =
            addresses[1..].iter().map(|a| TcpListener::bind((*a, port))).collect();
        if let Ok(others) = others {
            held.push((port, first, others));
        }
        if let [a, b, c] = &held[..] {
            return Ok([a.0, b.0, c.0]);
        }
    }
    bail!("no ports are free on {addresses:?}")
}
