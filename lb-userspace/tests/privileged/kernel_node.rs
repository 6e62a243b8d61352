//! A node for kernel tests: namespaces, a veth pair, a pin directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{SchedClassifier, TcAttachType};
use lb_common::maps::REMEMBERED_FLOWS;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;
use sluice::dataplane::image::{MapImage, VipEntry};
use sluice::dataplane::kernel::{self, Dataplane, KernelError, Settings, XdpMode};
use sluice::model::{Transport, Vip};

use crate::{checksums, need_root};

/// The VIP of [`image`] as it stands before a port.
pub const VIP4: &str = "198.51.100.1";
/// The same in IPv6.
pub const VIP6: &str = "[2001:db8:2::1]";

/// A network namespace with a veth pair in it and a pin directory. The current thread moves in.
pub struct Node {
    pub name: String,
    pub pin_dir: PathBuf,
}

impl Node {
    pub fn new() -> Self {
        need_root();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("slk{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let pin_dir = Path::new("/sys/fs/bpf").join(&name);
        ip(&["netns", "add", &name]);
        let node = Self { name, pin_dir };
        let namespace = std::fs::File::open(format!("/run/netns/{}", node.name)).expect("namespace");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("setns");
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", "nic", "type", "veth", "peer", "name", "far"]);
        ip(&["link", "set", "nic", "up"]);
        ip(&["link", "set", "far", "up"]);
        node
    }

    pub fn settings(&self) -> Settings {
        Settings {
            interface: vec!["nic".into()],
            xdp_mode: XdpMode::Auto,
            pin_dir: self.pin_dir.clone(),
            log: false,
            flows: REMEMBERED_FLOWS,
            handshakes: None,
        }
    }

    /// Moves the far end of the veth pair into a namespace of its own, with addresses and routes
    /// to the VIPs, and makes the VIPs local here.
    pub fn add_client(&self) -> Client {
        let name = format!("{}c", self.name);
        ip(&["netns", "add", &name]);
        let client = Client { name };
        ip(&["link", "set", "far", "netns", &client.name]);
        ip(&["addr", "add", "192.0.2.1/24", "dev", "nic"]);
        ip(&["addr", "add", "2001:db8:1::1/64", "dev", "nic", "nodad"]);
        for command in [
            &["addr", "add", "192.0.2.2/24", "dev", "far"][..],
            &["addr", "add", "2001:db8:1::2/64", "dev", "far", "nodad"],
            &["link", "set", "far", "up"],
            &["route", "add", "198.51.100.0/24", "via", "192.0.2.1"],
            &["route", "add", "2001:db8:2::/64", "via", "2001:db8:1::1"],
        ] {
            ip(&[&["-n", client.name.as_str()], command].concat());
        }
        routes(&["198.51.100.1", "2001:db8:2::1"]);
        client
    }

    /// Puts the client behind a VLAN tag, or two: it is `192.0.3.2` and `2001:db8:3::2` there, and its ways to the
    /// VIPs go by that, for as long as what is given back is there.
    pub fn tag(&self, client: &Client, tags: u32) -> [Ebpf; 2] {
        let near = vlan("nic", tags, 1);
        let far = client.run(None, || {
            checksums::have_tags("far");
            let far = vlan("far", tags, 2);
            for (network, router) in [("198.51.100.0/24", "192.0.3.1"), ("2001:db8:2::/64", "2001:db8:3::1")]
            {
                ip(&["route", "replace", network, "via", router]);
            }
            far
        });
        [near, far]
    }

    /// An endpoint behind a veth pair of its own: `10.9.N.2` and `fd00:9:N::2`, behind `backN`.
    pub fn add_endpoint(&self, number: u8) -> Client {
        let name = format!("{}e{number}", self.name);
        ip(&["netns", "add", &name]);
        let endpoint = Client { name };
        let near = format!("back{number}");
        ip(&["link", "add", &near, "type", "veth", "peer", "name", "eth0", "netns", &endpoint.name]);
        ip(&["addr", "add", &format!("10.9.{number}.1/24"), "dev", &near]);
        ip(&["addr", "add", &format!("fd00:9:{number}::1/64"), "dev", &near, "nodad"]);
        ip(&["link", "set", &near, "up"]);
        for command in [
            format!("addr add 10.9.{number}.2/24 dev eth0"),
            format!("addr add fd00:9:{number}::2/64 dev eth0 nodad"),
            "link set eth0 up".into(),
            format!("route add default via 10.9.{number}.1"),
            format!("route add default via fd00:9:{number}::1"),
        ] {
            let command: Vec<_> = command.split(' ').collect();
            ip(&[&["-n", endpoint.name.as_str()], &command[..]].concat());
        }
        endpoint
    }

    pub fn open(&self) -> Result<Dataplane, KernelError> {
        Dataplane::open(self.settings())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The test may have failed with the pins in any state: what is left goes with them.
        let _ = kernel::remove(&self.pin_dir);
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

impl Node {
    /// A pod of an endpoint that is a node itself: `10.77.N.2` and `fd00:77:N::2`.
    pub fn add_pod(&self, host: &Client, number: u8) -> Client {
        let name = format!("{}p{number}", self.name);
        ip(&["netns", "add", &name]);
        let pod = Client { name };
        host.run(None, || {
            for (key, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
                std::fs::write(format!("/proc/sys/net/{key}"), value).expect("sysctl");
            }
            ip(&["link", "set", "lo", "up"]);
            ip(&["link", "add", "pod", "type", "veth", "peer", "name", "eth0", "netns", &pod.name]);
            ip(&["addr", "add", &format!("10.77.{number}.1/24"), "dev", "pod"]);
            ip(&["addr", "add", &format!("fd00:77:{number}::1/64"), "dev", "pod", "nodad"]);
            ip(&["link", "set", "pod", "up"]);
        });
        for command in [
            format!("addr add 10.77.{number}.2/24 dev eth0"),
            format!("addr add fd00:77:{number}::2/64 dev eth0 nodad"),
            "link set eth0 up".into(),
            format!("route add default via 10.77.{number}.1"),
            format!("route add default via fd00:77:{number}::1"),
        ] {
            let command: Vec<_> = command.split(' ').collect();
            ip(&[&["-n", pod.name.as_str()], &command[..]].concat());
        }
        pod
    }
}

/// What stands for a VLAN of an interface, or one within a provider's, with this host's addresses: `lower.v`, one end
/// of a veth pair, and programs that put tags on at the other. Gone with what is given back.
fn vlan(lower: &str, tags: u32, host: u8) -> Ebpf {
    let (upper, other) = (format!("{lower}.v"), format!("{lower}.w"));
    if tags == 2 {
        // As a wire for two tags has it: packets are as long as behind one.
        ip(&["link", "set", lower, "mtu", "1504"]);
    }
    for command in [
        format!("link add {upper} type veth peer name {other}"),
        format!("addr add 192.0.3.{host}/24 dev {upper}"),
        format!("addr add 2001:db8:3::{host}/64 dev {upper} nodad"),
        format!("link set {other} up"),
        format!("link set {upper} up"),
    ] {
        ip(&command.split(' ').collect::<Vec<_>>());
    }
    checksums::are_whole(&upper);
    let mut programs = kernel::load(None, false).expect("load");
    let index = |name: &str| if_nametoindex(name).expect("an interface");
    let mut settings: Array<_, [u32; 3]> =
        programs.map_mut("LAB_VLAN").expect("map").try_into().expect("array");
    settings.set(0, [index(lower), index(&other), tags], 0).expect("set");
    for (name, interface) in [("vlan_out", other.as_str()), ("vlan_in", lower)] {
        let program: &mut SchedClassifier =
            programs.program_mut(name).expect("program").try_into().expect("classifier");
        program.load().expect("verifier");
        program.attach(interface, TcAttachType::Ingress).expect("attach");
    }
    programs
}

/// The client's namespace.
pub struct Client {
    name: String,
}

impl Client {
    /// Does something in the client's namespace, on a CPU if one is given.
    pub fn run<T: Send>(&self, cpu: Option<usize>, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        let there = || {
            if let Some(cpu) = cpu {
                let mut set = CpuSet::new();
                set.set(cpu).expect("a CPU number");
                sched_setaffinity(Pid::from_raw(0), &set).expect("affinity");
            }
            let namespace = std::fs::File::open(path).expect("namespace");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("setns");
            work()
        };
        std::thread::scope(|scope| scope.spawn(there).join().expect("the client's thread"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

pub fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip (iproute2) is installed");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn ip_output(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("ip (iproute2) is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn routes(addresses: &[&str]) -> kernel::vip_routes::Changed {
    let addresses: Vec<_> = addresses.iter().map(|a| a.parse().expect("address")).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(kernel::vip_routes::ensure(&addresses)).expect("routes")
}

/// `198.51.100.1:80` or `[2001:db8:2::1]:80`, over TCP.
pub fn vip(socket: &str) -> Vip {
    let socket: SocketAddr = socket.parse().expect("address and port");
    Vip { address: socket.ip(), port: socket.port(), transport: Transport::Tcp }
}

/// Port 80 and 443 of a VIP in each family, one name and one wildcard.
pub fn image() -> MapImage {
    MapImage {
        vips: [VIP4, VIP6]
            .into_iter()
            .flat_map(|address| [(address, 80), (address, 443)])
            .map(|(address, port)| {
                let entry = VipEntry { observe_sni: port == 443, ..VipEntry::default() };
                (vip(&format!("{address}:{port}")), entry)
            })
            .collect(),
        names: [("a.example.com".to_owned(), 0)].into(),
        wildcards: [("wild.example.com".to_owned(), 0)].into(),
        ..MapImage::default()
    }
}
