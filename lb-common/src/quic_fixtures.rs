//! QUIC packets to VIPs in forward mode, in order: one table for host functions and loaded program.

extern crate std;

use std::vec::Vec;

use crate::flow;
use crate::forward_fixtures::{
    BACKENDS4, BACKENDS6, CLIENT4, CLIENT6, End, NAMED, NODE_MAC, NODE4, NODE6, PEER_MAC, Step, TARGET_PORT,
    VIP4, VIP6, addressed,
};
use crate::packet::UDP;
use crate::reason::Reason;
use crate::verdict::{Action, Verdict, mapped, words};

/// A connection id of the scheme.
fn id(server: &[u8]) -> Vec<u8> {
    [&[server.len() as u8 + 5], server, &[0xa1, 0xb2, 0xc3, 0xd4, 0xe5]].concat()
}

fn short(cid: &[u8]) -> Vec<u8> {
    [&[0x41], cid, &[7; 24]].concat()
}

fn long(cid: &[u8]) -> Vec<u8> {
    [&[0xc1, 0, 0, 0, 1, cid.len() as u8], cid, &[0, 0, 7, 7, 7, 7]].concat()
}

fn datagram(from: End<'_>, to: End<'_>, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    addressed(from, to).udp(from.port, to.port).write(&mut out, payload).expect("a Vec takes everything");
    out
}

/// The table, for the content of [`crate::forward_fixtures::content`]: the ring of [`NAMED`] has the
/// first endpoint alone, its ids may name the second, too. Each step's outcome depends on those before.
pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for v6 in [false, true] {
        let pick = |four: &'static [u8], six: &'static [u8]| if v6 { six } else { four };
        let client = |port| End { mac: PEER_MAC, address: pick(&CLIENT4, &CLIENT6), port };
        let vip = End { mac: NODE_MAC, address: pick(&VIP4, &VIP6), port: NAMED };
        let node = |port| End { mac: NODE_MAC, address: pick(&NODE4, &NODE6), port };
        let backend = |n: usize| End {
            mac: PEER_MAC,
            address: if v6 { &BACKENDS6[n] } else { &BACKENDS4[n] },
            port: TARGET_PORT,
        };
        let server = |n: usize| -> &[u8] { if v6 { &BACKENDS6[n][8..] } else { &BACKENDS4[n] } };
        let address = if v6 { words(CLIENT6) } else { mapped(CLIENT4) };
        let port = |source: u16| flow::port(flow::hash(&address, source.to_be(), UDP), 0);
        let mut step = |description, source: u16, payload: &[u8], n: usize| {
            steps.push(Step {
                description,
                frame: datagram(client(source), vip, payload),
                verdict: Verdict { reason: Reason::Forwarded, action: Action::Redirect },
                becomes: Some(datagram(node(port(source)), backend(n), payload)),
            });
        };
        let (first, second) = (id(server(0)), id(server(1)));
        let strange = id(if v6 { &[9; 8] } else { &[9; 4] });
        let other_config = [&[second[0] | 0x20], &second[1..]].concat();
        step("an id of the client's choice", 50_000, &long(&[0x83; 8]), 0);
        step("one of the scheme that is no endpoint's", 50_001, &short(&strange), 0);
        step("one of another config", 50_002, &short(&other_config), 0);
        step("an id that ends before its nonce", 50_003, &short(&second)[..second.len()], 0);
        step("no id", 50_004, &[0x41], 0);
        step("a long header that names the second", 50_005, &long(&second), 1);
        step("a short one, from elsewhere", 50_006, &short(&second), 1);
        step("what follows and names nobody", 50_006, &long(&[0x83; 8]), 1);
        step("another connection's packet over the same ports", 50_006, &short(&first), 0);
        step("and the first one's again", 50_006, &short(&second), 1);
        steps.push(Step {
            description: "the second's answer",
            frame: datagram(backend(1), node(port(50_006)), b"answer"),
            verdict: Verdict { reason: Reason::Returned, action: Action::Redirect },
            becomes: Some(datagram(vip, client(50_006), b"answer")),
        });
    }
    steps
}
