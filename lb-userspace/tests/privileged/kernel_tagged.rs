//! Clients behind VLAN tags, one or two, of VIPs in forward mode: whatever the way to endpoints is, all that
//! works for others works for them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use lb_common::trace::Rule;
use lb_common::verdict::Action;
use sluice::model::Delivery;

use crate::kernel_direct::{Cluster, counted};
use crate::kernel_forwarding::{PATIENCE, Place, Talk, VIPS, check, question};
use crate::kernel_node::{Client, ip};

/// The client behind the tags.
const SEEN: [&str; 2] = ["192.0.3.2", "2001:db8:3::2"];

/// Sends so many bytes, and hears 64 for each: both directions are full of the largest packets.
const SENT: usize = 20_000;

/// Of pods and VIPs alike.
const ECHO: u16 = 7;

fn stream(client: &Client, vip: &str, what: &str) {
    let mut talk = Talk::connect(client, vip).unwrap_or_else(|error| panic!("{vip} {what}: {error}"));
    let mut there = talk.0.try_clone().expect("a second handle");
    std::thread::spawn(move || there.write_all(&[b'?'; SENT]));
    let mut answers = vec![0; SENT * 64];
    talk.0.read_exact(&mut answers).unwrap_or_else(|error| panic!("{vip} {what}: {error}"));
    assert!(answers.chunks(64).all(|answer| answer == &answers[..64]), "{vip} {what}");
}

#[test]
fn they_reach_endpoints_as_others_do() {
    for tags in [1, 2] {
        for (everywhere, seen) in [(true, ["", ""]), (false, SEEN)] {
            let mut place = Place::tagged(everywhere, tags);
            check(&mut place, seen);
            for vip in VIPS {
                stream(&place.client, vip, &format!("{everywhere} {tags}"));
            }
            assert_eq!(place.counted("forward_unusual"), 0);
        }
    }
}

/// Replies to clients behind tags are the kernel's to send on: they come from an address that is none of the
/// endpoint's.
#[test]
fn their_replies_pass_a_loose_check_of_sources() {
    let mut place = Place::tagged(true, 1);
    for interface in ["all", "nic", "nic.v", "back1", "back2"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "2").expect("sysctl");
    }
    // Loose is not any: there has to be some way to the source.
    ip(&["route", "add", "default", "via", "192.0.3.2"]);
    place.forward_to(&[1, 2]);
    for vip in VIPS {
        assert!(Talk::open(&place, vip).say().contains(' '), "{vip}");
        stream(&place.client, vip, "loose");
    }
}

#[test]
fn their_packets_go_as_they_are_where_that_is_asked_for() {
    for (by, tags) in [(Delivery::Ipip, 1), (Delivery::Gue, 1), (Delivery::Ipip, 2)] {
        let mut cluster = Cluster::new();
        let _vlan = cluster.node.tag(&cluster.client, tags);
        cluster.forward_to(by, &[1, 2], true);
        for (vip, seen) in VIPS.iter().zip(SEEN) {
            for _ in 0..12 {
                let answer = Talk::connect(&cluster.client, vip).expect("a connection").say();
                assert!(answer.ends_with(seen), "{vip} {by:?} {tags}: {answer}");
                assert!(question(&cluster.client, vip).expect("an answer").ends_with(seen));
            }
            let before = counted(cluster.first(), "too_big");
            stream(&cluster.client, vip, &format!("{by:?} {tags}"));
            // What is around packets takes room: the client is told, behind its tags.
            assert!(counted(cluster.first(), "too_big") > before, "{vip} {by:?} {tags}");
        }
        assert_eq!(counted(cluster.first(), "returned"), 0, "replies are none of its business");
        assert_eq!(counted(cluster.first(), "too_big_unanswered"), 0);
    }
}

#[test]
fn their_datagrams_in_fragments_go_as_they_are() {
    for (by, tags) in [(Delivery::Ipip, 0), (Delivery::Gue, 1), (Delivery::Gue, 2)] {
        let mut cluster = Cluster::new();
        let _vlan = (tags > 0).then(|| cluster.node.tag(&cluster.client, tags));
        for host in &cluster.hosts {
            let socket = host.pod.run(None, || UdpSocket::bind(("::", ECHO))).expect("a socket");
            std::thread::spawn(move || {
                let mut datagram = [0; 10_000];
                while let Ok((length, peer)) = socket.recv_from(&mut datagram) {
                    let _ = socket.send_to(&datagram[..length], peer);
                }
            });
        }
        cluster.forward_port(by, ECHO);
        for vip in VIPS {
            let any = if vip.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
            let to = SocketAddr::new(vip.parse().expect("an address"), ECHO);
            for _ in 0..6 {
                let socket = cluster.client.run(None, || UdpSocket::bind(any)).expect("a socket");
                socket.connect(to).expect("a route");
                socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
                for length in [10usize, 1400, 4000, 9000] {
                    let sent: Vec<_> = (0..length).map(|at| (at * 7) as u8).collect();
                    let mut back = [0; 10_000];
                    // The first is lost that is too big with what is around it: the client is told, and
                    // applications send again.
                    let deadline = Instant::now() + PATIENCE;
                    let got = loop {
                        let heard = socket.send(&sent).and_then(|_| socket.recv(&mut back));
                        if let Ok(got) = heard {
                            break got;
                        }
                        let counted = cluster.first().counters().expect("counters").verdicts;
                        assert!(Instant::now() < deadline, "{vip} {by:?} {tags} {length}: {counted:?}");
                    };
                    assert!(back[..got] == sent, "{vip} {by:?} {tags} {length}: other bytes came back");
                }
            }
        }
        assert_eq!(counted(cluster.first(), "forward_unusual"), 0);
        for host in &cluster.hosts {
            assert!(counted(&host.dataplane, "fragment_forwarded") > 0, "both nodes are asked");
            assert!(counted(&host.dataplane, "fragment_returned") > 0);
        }
    }
}

#[test]
fn who_watches_sees_them_come_with_tags_and_go_without() {
    let mut place = Place::tagged(true, 1);
    place.forward_to(&[1, 2]);
    let any = Rule { until: u64::MAX, reasons: u64::MAX, actions: u32::MAX, ..Rule::default() };
    let mut events = place.dataplane.watch(&any).expect("watched");
    assert!(Talk::open(&place, VIPS[0]).say().contains(' '));
    let shown: Vec<_> = events.by_ref().filter(|event| event.came[12..14] == [0x81, 0]).collect();
    let goes = |event: &&lb_common::trace::Event| event.action == Action::Redirect as u32;
    let first = shown.iter().find(goes).expect("the SYN");
    assert_eq!((first.came[14..18].to_vec(), first.went[12..14].to_vec()), (vec![0, 6, 8, 0], vec![8, 0]));
    assert_eq!(first.came_length, first.went_length + 4);
    place.dataplane.unwatch(events).expect("unwatched");

    // What is made up is judged alike.
    let length = first.came_length as usize;
    let got = place.dataplane.rehearse(&first.came[..length]).expect("judged");
    assert_eq!((got.action, got.reason.name()), (Action::Redirect, "forwarded"));
    assert_eq!(got.frame.len() + 4, length);
}
