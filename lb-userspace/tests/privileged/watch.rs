//! Frames that somebody watches, and frames that are made up.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, PinnedLink};
use etherparse::PacketBuilder;
use lb_common::reason::Reason;
use lb_common::trace::{Event, Rule, SHOWN};
use lb_common::verdict::Action;
use sluice::dataplane::kernel::{Dataplane, Events, KernelError};

use crate::kernel_node::{Node, VIP4, image};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn any() -> Rule {
    Rule { until: u64::MAX, reasons: u64::MAX, actions: u32::MAX, ..Rule::default() }
}

/// The XDP link's id and its program's.
fn link(node: &Node) -> (u32, u32) {
    let pins = std::fs::read_dir(&node.pin_dir).expect("pins");
    let mut names = pins.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned());
    let name = names.find(|name| name.starts_with("xdp-")).expect("the XDP link");
    let link = FdLink::from(PinnedLink::from_pin(node.pin_dir.join(name)).expect("pinned link"));
    let info = link.info().expect("info");
    (info.id(), info.program_id())
}

/// Knocks at a port of the VIP's until an event satisfies, and hands it over.
fn event(node: &Place, events: &mut Events, port: u16, fits: impl Fn(&Event) -> bool) -> Event {
    let start = Instant::now();
    loop {
        node.knock(port);
        for event in events.by_ref() {
            if fits(&event) {
                return event;
            }
        }
        assert!(start.elapsed() < PATIENCE, "no such event");
    }
}

struct Place {
    dataplane: Dataplane,
    client: crate::kernel_node::Client,
    node: Node,
}

impl Place {
    fn new() -> Self {
        let node = Node::new();
        let client = node.add_client();
        let mut dataplane = node.open().expect("start");
        dataplane.apply(&image()).expect("apply");
        Self { dataplane, client, node }
    }

    /// Nobody listens there: the answer, if any, is a reset.
    fn knock(&self, port: u16) {
        let address = format!("{VIP4}:{port}").parse().expect("an address");
        let _ = self.client.run(None, || TcpStream::connect_timeout(&address, Duration::from_millis(50)));
    }

    fn counted(&self, reason: Reason) -> u64 {
        self.dataplane.counters().expect("counters").verdicts[reason.name()]
    }
}

#[test]
fn who_watches_sees_frames_and_who_does_not_runs_the_program_as_before() {
    let mut place = Place::new();
    let before = link(&place.node);
    let mut events = place.dataplane.watch(&any()).expect("watched");
    let during = link(&place.node);
    assert_eq!((during.0, during.1 == before.1), (before.0, false), "another program in the same link");
    assert_eq!(place.dataplane.info().interfaces[0].program_id, during.1);
    assert!(matches!(place.dataplane.watch(&any()), Err(KernelError::Watched)), "one at a time");

    let counted = place.counted(Reason::Vip);
    let to_vip = event(&place, &mut events, 443, |event| event.reason == Reason::Vip as u32);
    assert_eq!((to_vip.action, to_vip.came_length), (Action::Pass as u32, to_vip.went_length));
    let length = SHOWN.min(to_vip.came_length as usize);
    assert_eq!(to_vip.came[..length], to_vip.went[..length], "nothing was changed");
    assert_eq!(to_vip.came[30..34], [198, 51, 100, 1]);
    assert!(place.counted(Reason::Vip) > counted, "what is watched counts");

    // A narrower rule holds at once.
    let rule = Rule { reasons: 1 << Reason::NotVip as u32, ..any() };
    place.dataplane.set_rule(&rule).expect("a rule");
    while events.next().is_some() {}
    for _ in 0..3 {
        place.knock(443);
        let other = event(&place, &mut events, 81, |_| true);
        assert_eq!(other.reason, Reason::NotVip as u32);
    }
    assert_eq!(place.dataplane.unwatch(events).expect("unwatched"), 0, "none was lost");
    assert_eq!(link(&place.node), before, "the program from before");

    // What nobody reads is counted, and the next one sees only what is new.
    let events = place.dataplane.watch(&any()).expect("watched again");
    drop(place.dataplane.unwatch(events));
    let mut events = place.dataplane.watch(&Rule { until: 1, ..any() }).expect("and again");
    place.knock(443);
    assert_eq!(events.next(), None, "its time is over");
    // The daemon goes with somebody watching.
    let Place { dataplane, client, node } = place;
    drop(dataplane);
    assert_eq!(link(&node), before);
    drop((events, client));
}

#[test]
fn made_up_frames_leave_nothing_behind() {
    let mut place = Place::new();
    let before = place.dataplane.counters().expect("counters");
    let frame = |to: [u8; 4], port: u16, flags: fn(&mut etherparse::TcpHeader)| {
        let mut tcp = etherparse::TcpHeader::new(1234, port, 1, 1000);
        flags(&mut tcp);
        let mut frame = Vec::new();
        let packet = PacketBuilder::ethernet2([2; 6], [2; 6]).ipv4([192, 0, 2, 2], to, 64);
        packet.tcp_header(tcp).write(&mut frame, b"x").expect("written");
        frame
    };
    let vip = [198, 51, 100, 1];
    for (what, frame, action, reason) in [
        ("a SYN to a VIP", frame(vip, 443, |tcp| tcp.syn = true), Action::Pass, Reason::Vip),
        ("to another port", frame(vip, 81, |tcp| tcp.syn = true), Action::Pass, Reason::NotVip),
        ("to nobody", frame([10, 0, 0, 1], 443, |tcp| tcp.syn = true), Action::Pass, Reason::NotVip),
        ("no flags", frame(vip, 443, |_| {}), Action::Drop, Reason::BogusFlags),
        ("no IP", vec![0; 60], Action::Pass, Reason::NotIp),
    ] {
        for _ in 0..2 {
            let got = place.dataplane.rehearse(&frame).expect(what);
            assert_eq!((got.action, got.reason), (action, reason), "{what}");
            assert_eq!(got.frame, frame, "{what}");
        }
    }
    assert!(place.dataplane.rehearse(&[0; 3]).is_err(), "no Ethernet header");
    let after = place.dataplane.counters().expect("counters");
    assert_eq!((after.vips, after.sni), (before.vips, before.sni));
    for reason in [Reason::Vip, Reason::NotVip, Reason::BogusFlags] {
        assert_eq!(after.verdicts[reason.name()], before.verdicts[reason.name()], "{reason:?}");
    }
}
