//! What lives on when the daemon ends, however it ends.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, PinnedLink};
use lb_common::maps::REMEMBERED_FLOWS;
use sluice::dataplane::kernel::{Dataplane, Settings, WorkerSocket, XdpMode};

use crate::kernel_node::{Node, image, ip_output, routes};

/// Where the killed owner finds its pin directory.
const OWNER: &str = "SLUICE_TEST_OWNER";
const READY: &str = "the owner is ready";

/// A pinned link's id and its program's.
fn link(pin_dir: &Path, name: &str) -> (u32, u32) {
    let link = FdLink::from(PinnedLink::from_pin(pin_dir.join(name)).expect("pinned link"));
    let info = link.info().expect("info");
    (info.id(), info.program_id())
}

/// Both links of a node.
fn links(node: &Node) -> [(u32, u32); 2] {
    let steer = link(&node.pin_dir, "steer");
    let names = std::fs::read_dir(&node.pin_dir).expect("pins");
    let mut names = names.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned());
    let xdp = names.find(|name| name.starts_with("xdp-")).expect("the XDP link");
    [link(&node.pin_dir, &xdp), steer]
}

fn serve(dataplane: &mut Dataplane) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    dataplane
        .set_workers(&[WorkerSocket { cpu: 0, class: 0, v4: listener.as_fd(), v6: None }])
        .expect("workers");
    dataplane.apply(&image()).expect("apply");
    listener
}

#[test]
fn a_killed_owner_leaves_everything_in_place() {
    if let Some(pin_dir) = std::env::var_os(OWNER) {
        let interface = vec!["nic".to_owned()];
        let settings = Settings {
            interface,
            xdp_mode: XdpMode::Auto,
            pin_dir: pin_dir.into(),
            log: false,
            flows: REMEMBERED_FLOWS,
            handshakes: None,
        };
        let mut dataplane = Dataplane::open(settings).expect("start");
        let listener = serve(&mut dataplane);
        println!("{READY}");
        // Until it is killed; the deadline is for the case that the other process dies first.
        std::thread::sleep(Duration::from_secs(60));
        drop((dataplane, listener));
        return;
    }
    let node = Node::new();
    routes(&["198.51.100.1"]);
    let mut owner = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "kernel_restart::a_killed_owner_leaves_everything_in_place", "--nocapture"])
        .env(OWNER, &node.pin_dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let output = BufReader::new(owner.stdout.take().expect("piped"));
    let ready = output.lines().map_while(Result::ok).any(|line| line.contains(READY));
    assert!(ready, "the owner ended early");
    let before = links(&node);
    drop(TcpStream::connect("198.51.100.1:80").expect("steered to the owner"));

    owner.kill().expect("kill");
    owner.wait().expect("wait");
    assert_eq!(links(&node), before, "pins and links stay");
    assert!(TcpStream::connect("198.51.100.1:80").is_err(), "its listener went with it");

    let mut next = node.open().expect("the lock went with the owner");
    assert!(next.info().reused);
    assert_eq!(links(&node), before, "the same programs run on");
    assert_eq!(next.verify(&image()).expect("verify"), vec![]);
    let verdicts = next.counters().expect("counters").verdicts;
    assert_eq!((verdicts["steered"], verdicts["steer_no_socket"]), (1, 1), "counters go on");
    let listener = serve(&mut next);
    let client = TcpStream::connect("198.51.100.1:80").expect("steered to the next owner");
    drop((listener.accept().expect("accept"), client));
}

#[test]
fn a_restart_exchanges_programs_only_when_they_differ() {
    let node = Node::new();
    drop(node.open().expect("start"));
    let first = links(&node);
    drop(node.open().expect("restart"));
    assert_eq!(links(&node), first, "nothing changed");

    let open = |log| Dataplane::open(Settings { log, ..node.settings() }).expect("start");
    let mut last = first;
    for log in [true, true, false] {
        drop(open(log));
        let now = links(&node);
        assert_eq!(now[0].0, last[0].0, "the XDP link stays, so no frame goes by: log {log}");
        assert_ne!(now[0].1, last[0].1, "another XDP program: log {log}");
        assert_ne!(now[1].1, last[1].1, "another sk_lookup program: log {log}");
        last = now;
    }
    assert!(ip_output(&["link", "show", "nic"]).contains("xdp"));
}

#[test]
fn the_programs_tell_what_is_odd() {
    let node = Node::new();
    routes(&["198.51.100.1"]);
    let text = Arc::new(Mutex::new(Vec::new()));
    let writer = Mutex::new(Shared(text.clone()));
    // For the whole process: no other test looks at what is logged.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(writer)
        .with_ansi(false)
        .init();
    let interface = vec!["lo".to_owned()];
    // Native XDP is not for loopback; it goes through generic mode here.
    let settings = Settings { interface, log: true, ..node.settings() };
    let mut dataplane = Dataplane::open(settings).expect("start");
    dataplane.apply(&image()).expect("apply");
    assert!(TcpStream::connect("198.51.100.1:443").is_err(), "no worker yet");
    let _listener = serve(&mut dataplane);
    let mut client = TcpStream::connect("198.51.100.1:443").expect("steered");
    let hello = lb_common::fixtures::client_hello(Some("a.example.com"), 0);
    std::io::Write::write_all(&mut client, &hello).expect("send");
    let start = Instant::now();
    loop {
        let seen = String::from_utf8_lossy(&text.lock().expect("not poisoned")).into_owned();
        if ["steer_no_socket: worker 0 for port 443", "hello_exact: "].iter().all(|part| seen.contains(part))
        {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{seen}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
