//! The forwarder's table once more, its frames behind VLAN tags.

extern crate std;

use crate::forward_fixtures::{Step, VIP4, VIP6, all_steps};
use crate::packet::{FRAGMENT, ICMP, ICMPV6};
use crate::reason::Reason;
use crate::verdict::Action;

/// A provider's tag and a customer's, or the latter alone.
const TAGS: [u8; 8] = [0x88, 0xa8, 0, 5, 0x81, 0, 0x60, 6];

/// The table with so many tags on all frames that come from clients: one or two.
pub fn tagged_steps(tags: usize) -> impl Iterator<Item = Step> {
    let tags = &TAGS[TAGS.len() - 4 * tags..];
    all_steps().map(move |mut step| {
        // Nodes and endpoints are behind untagged interfaces: others the kernel sends to, and hears.
        if !is_to_vip(&step.frame) && !is_rare(&step.frame) {
            return step;
        }
        let stays = step.verdict.action == Action::Pass || step.verdict.reason == Reason::TooBig;
        if let Some(becomes) = &mut step.becomes
            && stays
        {
            becomes.splice(12..12, tags.iter().copied());
        }
        step.frame.splice(12..12, tags.iter().copied());
        step
    })
}

fn is_to_vip(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0] && frame[30..34] == VIP4 || frame[12..14] == [0x86, 0xdd] && frame[38..54] == VIP6
}

/// ICMP errors and fragments are heard from anywhere.
fn is_rare(frame: &[u8]) -> bool {
    match frame[12..14] {
        [8, 0] => frame[23] == ICMP || u16::from_be_bytes([frame[20], frame[21]]) & 0x3fff != 0,
        _ => matches!(frame[20], ICMPV6 | FRAGMENT),
    }
}
