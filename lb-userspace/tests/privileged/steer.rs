//! `--sni steer` and SYN cookies with real clients: XDP does the TCP handshake, the name in the ClientHello
//! chooses the workers, and nobody notices.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use rustls::pki_types::{DnsName, ServerName};
use rustls::{AlertDescription, ClientConnection};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use xtask::lab::Request;
use xtask::lab::topology::VIP_V4;

use crate::sni_rig::{DEADLINE, End, KEYS, Keys, Rig, VIPS, request};

const STEER: &str = "--sni steer --workers 2 --worker-pool tenant=1";

/// What the kernel's own cookies take.
const COOKIES: [(&str, &str); 2] = [("tcp_syncookies", "2"), ("tcp_timestamps", "2")];

/// A rig for each way to take connections over. Labels become names of interfaces, so they are short.
fn rigs(label: &str, options: &str) -> [Rig; 2] {
    let rig = |version: &str, sysctls| {
        let options = format!("{options} --steering {version}");
        let rig = Rig::with(&format!("{label}-{version}"), true, &options, sysctls);
        if options.contains("--sni") {
            let status = rig.daemon.status().expect("a status");
            assert_eq!(status["xdp"]["steering"], serde_json::json!({ "version": version }), "{status}");
        }
        rig
    };
    [rig("v2", &[]), rig("v1", &COOKIES)]
}

fn served() -> End {
    End::Served("HTTP/1.1 200".to_owned())
}

fn name(text: &str) -> ServerName<'static> {
    DnsName::try_from(text.to_owned()).expect("a name").into()
}

/// The requests that a pool's workers served (general ones: the empty name), by what the daemon says.
fn requests(status: &Value, pool: &str) -> u64 {
    let workers = status["proxy"]["workers"].as_array().expect("workers").iter();
    let own = workers.filter(|worker| worker["pool"].as_str().unwrap_or_default() == pool);
    own.filter_map(|worker| worker["requests"].as_u64()).sum()
}

fn taken_over(status: &Value) -> u64 {
    status["proxy"]["total"]["taken_over"].as_u64().unwrap_or_default()
}

fn connect(to: IpAddr, port: u16) -> TcpStream {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), DEADLINE).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

impl Rig {
    fn tell(&self, setting: &str) {
        let output = self.daemon.cli(["tune", setting]).expect("runs");
        assert!(output.status.success(), "{setting}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits until a verdict was counted so often.
    fn reach(&self, reason: &str, count: u64) {
        let reached = |status: &Value| status["verdicts"][reason].as_u64() >= Some(count);
        self.daemon.wait_for(reason, reached).unwrap_or_else(|error| panic!("{reason}: {error}"));
    }

    /// What the node's stack agreed upon for the connections to a port: `ss`'s words, but numbers that
    /// are not agreed upon.
    fn agreed(&self, port: u16) -> Vec<String> {
        let node = &self.topology.node;
        let mut ss = Command::new("ss");
        ss.args(["-tinH", "state", "established", &format!("( sport = :{port} )")]);
        let output = node.enter(|| ss.output()).expect("enter").expect("ss (iproute2) is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = text.split_whitespace();
        let mut told: Vec<_> = words
            .filter(|word| {
                ["ts", "sack"].contains(word) || word.starts_with("wscale:") || word.starts_with("advmss:")
            })
            .map(str::to_owned)
            .collect();
        told.sort();
        told
    }
}

#[test]
fn names_choose_the_workers() {
    for rig in rigs("steer", STEER) {
        check_steer(&rig);
    }
}

fn check_steer(rig: &Rig) {
    let rounds = VIPS.into_iter().flat_map(|to| KEYS.map(|keys| (to, keys)));
    for (round, (to, keys)) in (1..).zip(rounds) {
        let before = rig.daemon.status().expect("a status");
        for _ in 0..4 {
            assert_eq!(rig.ask(to, "web.example.com", keys), served(), "{to} with {keys:?}");
            assert_eq!(rig.ask(to, "WEB.example.com", keys), served(), "{to} with {keys:?}");
            assert_eq!(rig.ask(to, "a.wild.example.com", keys), served(), "{to} with {keys:?}");
        }
        // Nobody serves these: the general workers say so, with their certificate.
        for unknown in ["nobody.test", "a.b.wild.example.com", ""] {
            let end = rig.ask(to, unknown, keys);
            assert!(matches!(&end, End::Other(text) if text.contains("certificate")), "{unknown}: {end:?}");
        }
        let counted = |status: &Value| requests(status, "") + requests(status, "tenant") == round * 12;
        let after = rig.daemon.wait_for("requests are counted", counted).expect("they are");
        let of = |pool| requests(&after, pool) - requests(&before, pool);
        assert_eq!((of("tenant"), of("")), (4, 8), "{to} with {keys:?}: {after}");
        if keys == Keys::Classic {
            // Each hello came in one segment: the kernel chose right by itself.
            assert_eq!(taken_over(&after), taken_over(&before), "{to}");
        }
    }
    let connections = (VIPS.len() * KEYS.len() * 15) as u64;
    rig.reach("syn_cookie", connections);
    rig.reach("cookie_ack", connections);
    rig.reach("steered", connections);
    let (client, status) = (rig.topology.client(), rig.daemon.status().expect("a status"));
    // What the programs at the NIC ask the stack counts for nothing; a hello that a busy machine sends twice does.
    let steered = status["verdicts"]["steered"].as_u64().expect("a number");
    let again = client.enter(retransmitted).expect("the client");
    assert!((connections..=connections + again).contains(&steered), "{again} sent again: {status}");
    for never in ["admission_refused", "steer_no_socket", "cookie_reset"] {
        assert_eq!(status["verdicts"][never].as_u64().unwrap_or_default(), 0, "{never}: {status}");
    }
    assert!(rig.verdict("hello_exact") > 0 && rig.verdict("hello_wildcard") > 0, "{status}");
    let verified = rig.daemon.cli(["maps", "verify"]).expect("runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));

    // Plain HTTP on the same addresses is nobody's to steer.
    let answer = Request::get(SocketAddr::new(VIP_V4, 80), "web.example.com", "/").send_from(&client);
    assert!(answer.is_ok(), "{answer:?}");

    let mut curl = Command::new("curl");
    curl.args(["-sSk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", "--resolve"]);
    curl.args(["x.wild.example.com:443:198.51.100.10", "https://x.wild.example.com/"]);
    let output = client.enter(|| curl.output()).expect("enter").expect("curl is installed");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "{output:?}");
}

/// How many segments TCP has sent again in the namespace that this thread is in.
fn retransmitted() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("the kernel's counters");
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, count) = pairs.find(|(name, _)| *name == "RetransSegs").expect("the counter");
    count.parse().expect("a number")
}

#[test]
fn who_says_nothing_takes_up_no_socket() {
    for rig in rigs("s-silent", STEER) {
        check_steer_silent(&rig);
    }
}

fn check_steer_silent(rig: &Rig) {
    let client = rig.topology.client();
    let silent: Vec<_> = client.enter(|| VIPS.map(|to| connect(to, 443))).expect("the client").into();
    rig.reach("cookie_ack", 2);
    let status = rig.daemon.status().expect("a status");
    assert_eq!(status["proxy"]["total"]["accepted"].as_u64(), Some(0), "{status}");
    assert!(rig.agreed(443).is_empty(), "{:?}", rig.agreed(443));
    // The end of what never was is a reset, or the client would wait for an answer to it.
    for (mut stream, resets) in silent.into_iter().zip(1..) {
        stream.shutdown(Shutdown::Write).expect("still connected");
        let error = stream.read(&mut [0; 1]).expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        rig.reach("cookie_reset", resets);
    }
    // Somebody else's segment for a connection that waits: it came before the hello, as far as one can know.
    for keys in KEYS {
        let (config, name) = (rig.client(keys), name("a.wild.example.com"));
        let (stream, strays) =
            (client.enter(|| connect(VIP_V4, 443)).expect("the client"), rig.verdict("cookie_stray"));
        let port = stream.local_addr().expect("connected").port();
        client.enter(|| inject(port, 70_000, b"what follows a hello")).expect("the client");
        rig.reach("cookie_stray", strays + 1);
        assert_eq!(request(config, stream, name), served(), "{keys:?}");
    }
}

/// Sends a segment with any sequence number to the VIP's TLS port.
fn inject(port: u16, sequence: u32, payload: &[u8]) {
    let client = [192, 0, 2, 2];
    let IpAddr::V4(vip) = VIP_V4 else { panic!("the VIP is IPv4") };
    let packet = PacketBuilder::ipv4(client, vip.octets(), 64).tcp(port, 443, sequence, 1000).ack(77);
    let mut bytes = Vec::new();
    packet.write(&mut bytes, payload).expect("a Vec takes everything");
    raw().send_to(&bytes, &SocketAddr::new(VIP_V4, 0).into()).expect("sent");
}

/// A socket that sends IP packets as they are.
fn raw() -> Socket {
    let protocol = Protocol::from(nix::libc::IPPROTO_RAW);
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).expect("a raw socket");
    socket.set_header_included_v4(true).expect("its own headers");
    socket
}

#[test]
fn split_hellos_come_to_their_pool_all_the_same() {
    for rig in rigs("s-split", STEER) {
        check_steer_split(&rig);
    }
}

fn check_steer_split(rig: &Rig) {
    let client = rig.topology.client();
    for (at, to) in [(1, VIP_V4), (5, VIP_V4), (60, VIP_V4), (60, VIPS[1])] {
        let config = rig.client(Keys::Classic);
        let before = rig.daemon.status().expect("a status");
        let answer = client.enter(|| {
            let mut stream = connect(to, 443);
            stream.set_nodelay(true).expect("an option");
            let mut tls = ClientConnection::new(config, name("b.wild.example.com")).expect("a configuration");
            let mut hello = Vec::new();
            tls.write_tls(&mut hello).expect("a Vec takes everything");
            // Without delay each is a segment of its own.
            stream.write_all(&hello[..at]).expect("sent");
            stream.write_all(&hello[at..]).expect("sent");
            tls.writer()
                .write_all(b"GET / HTTP/1.1\r\nHost: b.wild.example.com\r\nConnection: close\r\n\r\n")
                .expect("kept");
            let mut whole = rustls::Stream::new(&mut tls, &mut stream);
            let mut answer = [0; 12];
            whole.read_exact(&mut answer).map(|()| String::from_utf8_lossy(&answer).into_owned())
        });
        let answer =
            answer.expect("the client").unwrap_or_else(|error| panic!("{to}, split at {at}: {error}"));
        assert_eq!(answer, "HTTP/1.1 200", "{to}, split at {at}");
        let counted = |status: &Value| requests(status, "tenant") == requests(&before, "tenant") + 1;
        let after = rig.daemon.wait_for("the pool serves it", counted).expect("it does");
        assert_eq!(taken_over(&after), taken_over(&before) + 1, "{to}, split at {at}");
    }
}

#[test]
fn a_port_that_is_taken_anew_finds_a_new_connection() {
    for rig in rigs("s-again", STEER) {
        check_steer_again(&rig);
    }
}

fn check_steer_again(rig: &Rig) {
    let client = rig.topology.client();
    rig.topology.client.sysctl("ipv4/tcp_tw_reuse", "1").expect("a sysctl");
    for (to, local) in VIPS.into_iter().zip(["192.0.2.2:41000", "[2001:db8:1::2]:41000"]) {
        for round in 0..3 {
            // The node closes first, and lingers.
            let end = client.enter(|| {
                let local: SocketAddr = local.parse().expect("an address");
                let end = Instant::now() + DEADLINE;
                let socket = loop {
                    let socket =
                        Socket::new(Domain::for_address(local), Type::STREAM, None).expect("a socket");
                    socket.set_reuse_address(true).expect("an option");
                    socket.bind(&local.into()).expect("its port is free");
                    match socket.connect_timeout(&SocketAddr::new(to, 443).into(), DEADLINE) {
                        Ok(()) => break socket,
                        // This time the client was the first to close, and lingers itself.
                        Err(error) if error.kind() == ErrorKind::AddrNotAvailable && Instant::now() < end => {
                            std::thread::sleep(Duration::from_millis(50));
                        }
                        Err(error) => panic!("{to}, round {round}: {error}"),
                    }
                };
                let mut stream = TcpStream::from(socket);
                let second = stream.try_clone().expect("a descriptor");
                let end = request(rig.client(Keys::Classic), second, name("a.wild.example.com"));
                // Until the node has closed, too.
                while stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {}
                end
            });
            assert_eq!(end.expect("the client"), served(), "{to}, round {round}");
        }
    }
    let status = rig.daemon.status().expect("a status");
    assert_eq!(requests(&status, "tenant"), 6, "{status}");
}

#[test]
fn both_handshakes_agree_on_the_same() {
    for rig in rigs("s-agree", STEER) {
        check_steer_agree(&rig);
    }
}

fn check_steer_agree(rig: &Rig) {
    let client = rig.topology.client();
    for (stamps, sack, scaling) in [
        ("1", "1", "1"),
        ("1", "0", "1"),
        ("0", "1", "1"),
        ("1", "1", "0"),
        ("0", "1", "0"),
        ("0", "0", "1"),
        ("0", "0", "0"),
    ] {
        let set =
            |name: &str, value| rig.topology.client.sysctl(&format!("ipv4/{name}"), value).expect("a sysctl");
        set("tcp_timestamps", stamps);
        set("tcp_sack", sack);
        set("tcp_window_scaling", scaling);
        for to in VIPS {
            let told = |port: u16| {
                // Something that makes the proxy wait for more.
                let stream = client.enter(|| {
                    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), DEADLINE)?;
                    let begin = if port == 443 { &[22, 3, 1, 2, 0, 1][..] } else { b"GET /" };
                    stream.write_all(begin).map(|()| stream)
                });
                let stream = stream.expect("the client").unwrap_or_else(|error| {
                    let verdicts = &rig.daemon.status().expect("a status")["verdicts"];
                    panic!("{to}:{port} {stamps}{sack}{scaling}: {error}; {verdicts}")
                });
                let end = Instant::now() + DEADLINE;
                loop {
                    let told = rig.agreed(port);
                    if !told.is_empty() {
                        drop(stream);
                        while !rig.agreed(port).is_empty() {
                            assert!(Instant::now() < end, "{port} stays");
                            std::thread::sleep(Duration::from_millis(10));
                        }
                        return told;
                    }
                    assert!(Instant::now() < end, "no connection to {port}");
                    std::thread::sleep(Duration::from_millis(10));
                }
            };
            let what = format!("{to} with timestamps {stamps}, sack {sack}, window scaling {scaling}");
            assert_eq!(told(443), told(80), "{what}");
        }
    }
}

#[test]
fn steering_may_refuse_names_too() {
    for rig in rigs("s-filter", &STEER.replace("steer", "steer-filter")) {
        check_steer_filter(&rig);
    }
}

fn check_steer_filter(rig: &Rig) {
    let refused = || End::Alert(AlertDescription::UnrecognisedName);
    for (to, keys) in VIPS.into_iter().flat_map(|to| KEYS.map(|keys| (to, keys))) {
        for _ in 0..4 {
            assert_eq!(rig.ask(to, "nobody.test", keys), refused(), "{to} with {keys:?}");
            assert_eq!(rig.ask(to, "a.wild.example.com", keys), served(), "{to} with {keys:?}");
        }
    }
    let status = rig.daemon.status().expect("a status");
    assert!(status["verdicts"]["sni_refused"].as_u64() >= Some(8), "{status}");
    // Of those that XDP refused, no socket was ever there.
    let refused = status["verdicts"]["sni_refused"].as_u64().unwrap_or_default();
    let accepted = status["proxy"]["total"]["accepted"].as_u64().unwrap_or_default();
    assert_eq!(accepted, 32 - refused, "{status}");
}

#[test]
fn a_flood_of_syns_gets_cookies_and_clients_are_served() {
    for rig in rigs("flood", "--workers 1") {
        check_flood(&rig);
    }
}

fn check_flood(rig: &Rig) {
    const SYNS: u32 = 4_000;
    let client = rig.topology.client();
    let http = || Request::get(SocketAddr::new(VIP_V4, 80), "plain.test", "/").send_from(&client);
    // A quiet node does its handshakes itself.
    rig.tell("syn-cookies=auto");
    rig.tell("syn-rate=1000000");
    assert!(http().is_ok());
    assert_eq!(rig.verdict("syn_cookie"), 0);
    rig.tell("syn-rate=80");
    client.enter(|| flood(SYNS)).expect("the client");
    rig.reach("syn_cookie", u64::from(SYNS) / 2);
    // While cookies are in use, and after: all kinds of clients.
    rig.tell("syn-cookies=always");
    let cookies = rig.verdict("syn_cookie");
    for to in VIPS {
        for keys in KEYS {
            assert_eq!(rig.ask(to, "web.example.com", keys), served(), "{to} with {keys:?}");
        }
        let answer = Request::get(SocketAddr::new(to, 80), "plain.test", "/").send_from(&client);
        assert!(answer.is_ok(), "{to}: {answer:?}");
    }
    rig.reach("syn_cookie", cookies + 6);
    let text = rig.daemon.cli(["status"]).expect("runs");
    assert!(String::from_utf8_lossy(&text.stdout).contains("SYN cookies"), "{text:?}");
    rig.tell("syn-cookies=off");
    let cookies = rig.verdict("syn_cookie");
    assert!(http().is_ok());
    assert_eq!(rig.verdict("syn_cookie"), cookies);
    let status = rig.daemon.status().expect("a status");
    assert_eq!(status["verdicts"]["admission_refused"].as_u64(), Some(0), "{status}");
}

/// SYNs from many addresses and ports that nobody has.
fn flood(count: u32) {
    let IpAddr::V4(vip) = VIP_V4 else { panic!("the VIP is IPv4") };
    let socket = raw();
    for number in 0..count {
        let [_, _, a, b] = number.to_be_bytes();
        let (source, port) =
            (Ipv4Addr::new(192, 0, 2, 100 + (b & 63)), 1024 + u16::from(a) * 64 + u16::from(b));
        let to = if number & 1 == 0 { 80 } else { 443 };
        let packet = PacketBuilder::ipv4(source.octets(), vip.octets(), 64).tcp(port, to, number, 1000).syn();
        let mut bytes = Vec::new();
        packet.write(&mut bytes, b"").expect("a Vec takes everything");
        socket.send_to(&bytes, &SocketAddr::new(VIP_V4, 0).into()).expect("sent");
    }
}

#[test]
fn where_no_way_is_open_everybody_is_served_unsteered_and_told_why() {
    // The usual settings, with which the kernel would not believe in cookies of XDP's.
    let rig = Rig::with("s-off", true, &format!("{STEER} --steering v1"), &[("tcp_timestamps", "1")]);
    let status = rig.daemon.status().expect("a status");
    let why = status["xdp"]["steering"]["why"].as_str().unwrap_or_default().to_owned();
    for part in ["net.ipv4.tcp_timestamps is 1", "sysctl -w", "net.ipv4.tcp_timestamps=2"] {
        assert!(why.contains(part), "{part}: {status}");
    }
    for (to, keys) in VIPS.into_iter().flat_map(|to| KEYS.map(|keys| (to, keys))) {
        for name in ["web.example.com", "a.wild.example.com"] {
            assert_eq!(rig.ask(to, name, keys), served(), "{to} {name} with {keys:?}");
        }
    }
    assert_eq!(rig.verdict("syn_cookie"), 0);
    let text = rig.daemon.cli(["status"]).expect("runs");
    assert!(String::from_utf8_lossy(&text.stdout).contains(&why), "{text:?}");
    let verified = rig.daemon.cli(["maps", "verify"]).expect("runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let refused = rig.daemon.cli(["tune", "syn-cookies=always"]).expect("runs");
    assert!(!refused.status.success(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("tcp_timestamps"), "{refused:?}");

    // Put right, it steers with the next snapshot.
    for (name, value) in COOKIES {
        rig.topology.node.sysctl(&format!("ipv4/{name}"), value).expect("a sysctl");
    }
    rig.manifests
        .write_objects("more.yaml", &[xtask::lab::manifests::service("d", "more", 80, 8080)])
        .expect("a file");
    let steers = |status: &Value| status["xdp"]["steering"]["version"] == "v1";
    rig.daemon.wait_for("it steers", steers).expect("it does");
    assert_eq!(rig.ask(VIP_V4, "a.wild.example.com", Keys::Classic), served());
    rig.reach("syn_cookie", 1);
}
