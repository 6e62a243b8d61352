//! What a script can't say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use sluice::proxy::AccessLog;
use socket2::{Domain, SockRef, Socket, Type};

use super::endpoints::LOG;
use super::row;
use super::world::World;
use crate::rig::{Seen, connect, read_head, read_response};

/// Longer than any of this takes, and shorter than what an annotation holds up.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(1);

fn send(world: &World, rest: &str) -> TcpStream {
    let mut stream = connect(world.http);
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Row: {}\r\n{rest}\r\n", world.id);
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

fn ask(world: &World, rest: &str) -> Option<Seen> {
    read_response(&mut send(world, rest), false)
}

/// Whether 60 KB, which may take a minute, come in this time.
fn comes_within(world: &World, time: Duration) -> bool {
    let mut stream = send(world, "X-Reply: body 60000\r\n");
    let end = Instant::now() + time;
    read_head(&mut stream).expect("a head");
    let (mut got, mut piece) = (0, [0; 4096]);
    while got < 60_000 && Instant::now() < end {
        got += stream.read(&mut piece).expect("more of the answer");
    }
    got == 60_000
}

/// One KB a second: not there after one of them.
pub fn takes_its_time(world: &World) -> Result<(), String> {
    match comes_within(world, if world.patient { SHORT } else { LONG }) {
        true => Err("all of the answer is there at once".to_owned()),
        false => Ok(()),
    }
}

/// The first bytes are free.
pub fn comes_at_once(world: &World) -> Result<(), String> {
    match comes_within(world, if world.patient { LONG } else { SHORT }) {
        true => Ok(()),
        false => Err("not all of the answer came".to_owned()),
    }
}

/// A client that reads nothing holds no endpoint.
pub fn endpoint_is_free(world: &World) -> Result<(), String> {
    let mut slow = connect(world.http);
    SockRef::from(&slow).set_recv_buffer_size(16 * 1024).expect("a small buffer");
    // More than sockets hold.
    let request =
        format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Row: {}\r\nX-Reply: body 64000000\r\n\r\n", world.id);
    slow.write_all(request.as_bytes()).expect("sent");
    drop(read_head(&mut slow).ok_or("no answer")?);
    let taken = LOG.wait(world.patience(), || LOG.taken(&world.id) == 1);
    if taken { Ok(()) } else { Err("the endpoint waits for the client".to_owned()) }
}

/// The endpoint sees a request whose body is not complete.
pub fn endpoint_sees_it_begin(world: &World) -> Result<(), String> {
    let mut stream = connect(world.http);
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nX-Row: {}\r\nX-Reply: deaf\r\nContent-Length: 10\r\n\r\nhello",
        world.id.replace('-', "+")
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let row = world.id.replace('-', "+");
    let seen = LOG.wait(world.patience(), || !LOG.seen(&row, "web").is_empty());
    LOG.end(&row);
    if seen { Ok(()) } else { Err("the endpoint saw nothing".to_owned()) }
}

/// A cookie for an endpoint that is gone is replaced.
pub fn names_who_is_gone(world: &World) -> Result<(), String> {
    let first = ask(world, "").ok_or("no answer")?;
    world.keep_cookies(&first);
    let cookie = world.cookie("INGRESSCOOKIE").ok_or("no cookie")?;
    let (_, cluster) = cookie.split_once('|').ok_or("no cluster in the cookie")?;
    let again = ask(world, &format!("Cookie: INGRESSCOOKIE=12ab|{cluster}\r\n")).ok_or("no answer")?;
    if again.has("set-cookie") { Ok(()) } else { Err("the cookie stays as it is".to_owned()) }
}

/// The port of a listener that takes no connection any more: its queue is full.
pub fn stuck_port() -> u16 {
    static STUCK: LazyLock<(Socket, Vec<Socket>, u16)> = LazyLock::new(|| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        listener.listen(0).expect("it listens");
        let address = listener.local_addr().expect("bound");
        let connect = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let connected = socket.connect_timeout(&address, Duration::from_millis(300));
            (socket, connected.is_ok())
        };
        let waiting: Vec<_> =
            std::iter::repeat_with(connect).take(16).take_while(|(_, came)| *came).collect();
        assert!(waiting.len() < 16, "the queue never fills");
        let port = address.as_socket().expect("IPv4").port();
        (listener, waiting.into_iter().map(|(socket, _)| socket).collect(), port)
    });
    STUCK.2
}

const CHILD: &str = "SLUICE_TEST_ANNOTATION_LOG";

/// The log goes to standard output, so a process of its own writes it.
pub fn has_no_line_in_the_log(world: &World) -> Result<(), String> {
    let test = std::env::current_exe().expect("this program");
    let output = Command::new(test)
        .args(["--exact", "annotations::probes::writes_a_log", "--nocapture"])
        .env(CHILD, if world.patient { "enable-access-log: \"false\"" } else { "" })
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !text.contains("/unknown-host") {
        return Err(format!("no log at all: {output:?}"));
    }
    if text.contains("/logged?") { Err("it has a line".to_owned()) } else { Ok(()) }
}

#[test]
fn writes_a_log() {
    let Ok(annotations) = std::env::var(CHILD) else { return };
    let row = row(&annotations, "");
    let world = World::with(&row, &annotations, true, |settings| settings.access_log = AccessLog::Stdout);
    for (host, path) in [("a.test", "/logged?"), ("b.test", "/unknown-host")] {
        let mut stream = connect(world.http);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        stream.read_to_end(&mut Vec::new()).expect("an answer");
    }
    crate::rig::eventually(|| world.proxy().stats().total.requests_active == 0);
}
