//! Services of type LoadBalancer as the daemon forwards them, and what it tells load balancers of them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::lab::topology::{NODE_NIC, VIP_V4};
use xtask::lab::{Answer, Daemon, ManifestDir, Place, Request, Topology};

use crate::need_root;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");
/// Only so that a broken test ends.
const DEADLINE: Duration = Duration::from_secs(30);
const VIP: &str = "198.51.100.20:443";
const HEALTH_PORT: u16 = 32_100;

/// The Service and its two endpoints, which are on this node.
fn objects(topology: &Topology, node: &str) -> Vec<Value> {
    let endpoints = [0, 1].map(
        |index| json!({ "addresses": [topology.endpoint_addresses(index, 0)[0].ip()], "nodeName": node }),
    );
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "namespace": "d",
                "name": "h3",
                "annotations": { "sluice.dev/quic": "443", "sluice.dev/vips": "198.51.100.20" },
            },
            "spec": {
                "type": "LoadBalancer",
                "loadBalancerClass": "sluice.dev/xdp",
                "externalTrafficPolicy": "Local",
                "healthCheckNodePort": HEALTH_PORT,
                "ports": [{ "port": 443, "protocol": "UDP" }],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": { "namespace": "d", "name": "h3-1", "labels": { "kubernetes.io/service-name": "h3" } },
            "addressType": "IPv4",
            "ports": [{ "port": 8443, "protocol": "UDP" }],
            "endpoints": endpoints,
        }),
    ]
}

/// Answers each datagram with a number.
fn number_itself(place: &Place, number: u8) {
    let serve = move || {
        let socket = UdpSocket::bind("0.0.0.0:8443").expect("a socket");
        while let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
            let _ = socket.send_to(&[number], peer);
        }
    };
    // It ends with the process.
    drop(place.spawn("endpoint", serve).expect("a thread"));
}

/// Which endpoint answers a packet that names this address by its connection id.
fn ask(client: &Place, named: IpAddr) -> u8 {
    let IpAddr::V4(named) = named else { panic!("the endpoints are IPv4") };
    let packet = [&[0x41, 8][..], &named.octets(), &[1, 2, 3, 4], &[0; 20]].concat();
    let exchange = || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let end = Instant::now() + DEADLINE;
        let mut answer = [0];
        loop {
            socket.send_to(&packet, VIP).expect("sent");
            if socket.recv_from(&mut answer).is_ok() {
                return answer[0];
            }
            assert!(Instant::now() < end, "nobody answers");
        }
    };
    client.enter(exchange).expect("the client")
}

/// Asks until the status is this one: the daemon follows its manifests in its own time.
fn health(topology: &Topology, status: u16) -> Answer {
    let address = SocketAddr::from(([192, 0, 2, 1], HEALTH_PORT));
    let end = Instant::now() + DEADLINE;
    loop {
        let answer = Request::get(address, "node", "/").send_from(&topology.client());
        match answer {
            Ok(answer) if answer.status == status => return answer,
            other => assert!(Instant::now() < end, "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn quic_keeps_its_endpoint_and_load_balancers_are_told() {
    need_root();
    let topology = Topology::new("l4", 2).expect("namespaces");
    topology.node.sysctl("ipv4/ip_forward", "1").expect("a sysctl");
    for (index, endpoint) in topology.endpoints.iter().enumerate() {
        endpoint.ip(&format!("route replace default via 10.77.{}.1", index + 1)).expect("a route");
        number_itself(&topology.endpoint(index), index as u8);
    }
    let manifests = ManifestDir::create(&topology.directory().join("m")).expect("a directory");
    manifests.write_objects("h3.yaml", &objects(&topology, "node-1")).expect("a file");
    let arguments = format!(
        "--manifests {} --interface {NODE_NIC} --pin-dir {} --vip {VIP_V4} --node-name node-1",
        manifests.path().display(),
        topology.pins().display()
    );
    let arguments = arguments.split(' ').map(str::to_owned).collect();
    let daemon = Daemon::start(Path::new(SLUICE), &topology.node(), topology.directory(), arguments);
    let daemon = daemon.expect("a daemon");

    // From a new port each time.
    for round in 0..8 {
        for index in [0u8, 1] {
            let named = topology.endpoint_addresses(index.into(), 0)[0].ip();
            assert_eq!(ask(&topology.client(), named), index, "round {round}");
        }
    }
    let text = daemon.cli(["backends"]).expect("runs");
    assert!(String::from_utf8_lossy(&text.stdout).contains("forward-local-quic"), "{text:?}");
    let verified = daemon.cli(["maps", "verify"]).expect("runs");
    assert!(verified.status.success(), "{verified:?}");

    let told: Value = serde_json::from_slice(&health(&topology, 200).body).expect("JSON");
    let expect = json!({
        "service": { "namespace": "d", "name": "h3" },
        "localEndpoints": 2,
        "serviceProxyHealthy": true,
    });
    assert_eq!(told, expect);
    // They are elsewhere now.
    manifests.write_objects("h3.yaml", &objects(&topology, "node-2")).expect("a file");
    let told: Value = serde_json::from_slice(&health(&topology, 503).body).expect("JSON");
    assert_eq!(told["localEndpoints"], 0, "{told}");
}
