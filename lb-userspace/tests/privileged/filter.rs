//! `--sni filter` with real TLS clients: names that nobody serves get the same alert from XDP and from
//! the proxy, and nobody else notices.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
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

/// Only so that a broken test ends.
const DEADLINE: Duration = Duration::from_secs(20);

/// Which key exchanges a client offers. A post-quantum one makes most hellos too long for a segment.
#[derive(Clone, Copy, Debug)]
enum Keys {
    Classic,
    PostQuantum,
}

/// How a connection attempt ended.
#[derive(Debug, PartialEq)]
enum End {
    /// The answer's status line.
    Served(String),
    /// A fatal alert.
    Alert(AlertDescription),
    Other(String),
}

struct Rig {
    daemon: Daemon,
    manifests: ManifestDir,
    authority: xtask::lab::Authority,
    _backend: Backend,
    /// Lets the client receive what XDP sends back: veth delivers that only to who runs XDP, too.
    _receiver: aya::Ebpf,
    topology: Topology,
}

impl Rig {
    /// Serves `web.example.com` and everything under `wild.example.com`.
    fn new(label: &str, xdp: bool) -> Self {
        need_root();
        let topology = Topology::new(label, 1).expect("namespaces");
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
        objects.extend(endpoint_slices("d", "web", &addresses));
        manifests.write_objects("web.yaml", &objects).expect("a file");
        let receiver = topology.client().enter(receive_xdp).expect("the client's namespace");
        let mut arguments = format!("--manifests {} --sni filter", manifests.path().display());
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
    fn ask(&self, to: IpAddr, name: &str, keys: Keys) -> End {
        let config = self.client(keys);
        let name = match name {
            "" => ServerName::from(Ipv4Addr::new(192, 0, 2, 77)),
            name => DnsName::try_from(name.to_owned()).expect("a name").into(),
        };
        self.topology.client().enter(|| ask(config, SocketAddr::new(to, 443), name)).expect("the client")
    }

    fn client(&self, keys: Keys) -> Arc<ClientConfig> {
        let mut provider = default_provider();
        provider.kx_groups = match keys {
            Keys::Classic => vec![kx_group::X25519],
            Keys::PostQuantum => vec![kx_group::X25519MLKEM768, kx_group::X25519],
        };
        self.authority.client_with(provider, &["http/1.1"])
    }

    fn verdict(&self, reason: &str) -> u64 {
        self.daemon.status().expect("a status")["verdicts"][reason].as_u64().unwrap_or_default()
    }
}

fn with_tls(name: &str, host: &str) -> Value {
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
    let exchange = || -> std::io::Result<String> {
        let stream = TcpStream::connect_timeout(&to, DEADLINE)?;
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

const VIPS: [IpAddr; 2] = [VIP_V4, VIP_V6];
const KEYS: [Keys; 2] = [Keys::Classic, Keys::PostQuantum];

fn refused() -> End {
    End::Alert(AlertDescription::UnrecognisedName)
}

fn served() -> End {
    End::Served("HTTP/1.1 200".to_owned())
}

/// The same answers, whoever gives them.
fn answers(rig: &Rig) {
    for (to, keys) in VIPS.into_iter().flat_map(|to| KEYS.map(|keys| (to, keys))) {
        // Clients shuffle their extensions: sometimes the name is in the first segment, sometimes not.
        for _ in 0..6 {
            for (name, expect) in [
                ("web.example.com", served()),
                ("WEB.Example.Com", served()),
                ("a.wild.example.com", served()),
                ("nobody.test", refused()),
                ("a.b.wild.example.com", refused()),
                ("wild.example.com", refused()),
            ] {
                assert_eq!(rig.ask(to, name, keys), expect, "{name} at {to} with {keys:?}");
            }
        }
        // Without a name there is a certificate all the same.
        let nameless = rig.ask(to, "", keys);
        let right = matches!(&nameless, End::Other(text) if text.contains("certificate"));
        assert!(right, "{nameless:?} at {to} with {keys:?}");
    }
}

#[test]
fn unknown_names_get_an_alert_from_xdp() {
    let rig = Rig::new("filter", true);
    answers(&rig);
    // All classic hellos fit in a segment.
    let least = (VIPS.len() * 6 * 3) as u64;
    assert!(rig.verdict("sni_refused") >= least, "{}", rig.daemon.status().expect("a status"));
    assert!(rig.verdict("hello_unknown") >= least && rig.verdict("hello_split") > 0);
    // The stack was told of each: no connection waits for its hello until it times out.
    let none_open = |status: &Value| status["proxy"]["total"]["active"].as_u64() == Some(0);
    let status = rig.daemon.wait_for("every connection ended", none_open).expect("they end");
    assert!(status["proxy"]["total"]["tls_refused"].as_u64() > Some(0), "split hellos: {status}");
    assert!(rig.verdict("sni_closing") >= least, "{status}");

    // Names come and go with their routes.
    let late = || rig.ask(VIP_V4, "late.wild2.example.com", Keys::Classic);
    assert_eq!(late(), refused());
    rig.manifests.write_objects("late.yaml", &[with_tls("late", "late.wild2.example.com")]).expect("a file");
    let named = |yes: bool| move |status: &Value| status["sni"].to_string().contains("late.wild2") == yes;
    rig.daemon.wait_for("the name is there", named(true)).expect("it comes");
    let end = late();
    assert!(matches!(&end, End::Other(text) if text.contains("certificate")), "{end:?}");
    rig.manifests.remove("late.yaml").expect("removed");
    rig.daemon.wait_for("the name is gone", named(false)).expect("it goes");
    assert_eq!(late(), refused());
    let verified = rig.daemon.cli(["maps", "verify"]).expect("runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));

    let mut curl = Command::new("curl");
    curl.args([
        "-sSk",
        "--max-time",
        "20",
        "--resolve",
        "nobody.test:443:198.51.100.10",
        "https://nobody.test/",
    ]);
    let output = rig.topology.client().enter(|| curl.output()).expect("enter").expect("curl is installed");
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(said.contains("unrecognized name"), "{said}");
}

#[test]
fn unknown_names_get_the_same_alert_without_xdp() {
    let rig = Rig::new("filter-off", false);
    // Nobody steers here: the VIPs are addresses of the node.
    for vip in ["198.51.100.10/32", "2001:db8:100::10/128"] {
        rig.topology.node.ip(&format!("addr add {vip} dev lo")).expect("an address");
    }
    answers(&rig);
    let status = rig.daemon.status().expect("a status");
    let refused = (VIPS.len() * KEYS.len() * 6 * 3) as u64;
    assert_eq!(status["proxy"]["total"]["tls_refused"].as_u64(), Some(refused), "{status}");
}
