//! Rules for clients by their address: lists, and a budget of new connections for each.

use crate::env::Env;
use crate::maps::{SOURCE_ALLOW, SOURCE_BANNED, SOURCE_DENY, TUNE_BUDGET, TUNE_SOURCES};
use crate::packet::{ACK, FIN, Packet, RST, SYN};
use crate::reason::Reason;
use crate::verdict::{is_v4, mapped, words};

/// Flags that no TCP sends: a beginning that also ends, or neither a beginning, nor an
/// acknowledgement, nor a reset ("null", "FIN" and "Xmas" scans). Every stack throws them away.
#[inline(always)]
pub const fn is_bogus(flags: u8) -> bool {
    (flags & SYN != 0 && flags & (FIN | RST) != 0) || flags & (SYN | ACK | RST) == 0
}

/// What the rules say of a packet to a VIP; [`Reason::Vip`]: nothing against it. The longest listed
/// prefix counts, and who is allowed has no budget. Out of line: without rules nothing of it is paid.
#[inline(never)]
pub fn judge<E: Env>(env: &E, packet: &Packet, opening: bool) -> Reason {
    let ip = packet.ip as usize;
    let address =
        if packet.v6 { env.reach::<16>(ip + 8).map(words) } else { env.reach::<4>(ip + 12).map(mapped) };
    let Some(address) = address else { return Reason::Vip };
    let tuning = env.tuning();
    if tuning.flags & TUNE_SOURCES != 0 {
        match env.source(&address) {
            Some(SOURCE_DENY | SOURCE_BANNED) => return Reason::SourceDenied,
            Some(SOURCE_ALLOW) => return Reason::Vip,
            _ => {}
        }
    }
    if opening && tuning.flags & TUNE_BUDGET != 0 {
        let payer = payer(&address);
        match admit(env.due(&payer), env.now(), tuning.interval, tuning.burst) {
            Some(due) => env.set_due(&payer, due),
            None => return Reason::SourceOverBudget,
        }
    }
    Reason::Vip
}

/// Whose budget an address uses: its own in IPv4, its /64 in IPv6, which is what one host gets.
#[inline(always)]
fn payer(address: &[u32; 4]) -> [u32; 4] {
    let [a, b, _, _] = *address;
    if is_v4(address) { *address } else { [a, b, 0, 0] }
}

/// Whether one more comes within the budget: one each `interval` nanoseconds, and `burst` of them at
/// once. `due` is when the budget is whole again (nothing: it is), the result when it will be: the
/// generic cell rate algorithm, a token bucket in one number.
#[inline(always)]
pub const fn admit(due: Option<u64>, now: u64, interval: u64, burst: u32) -> Option<u64> {
    let due = match due {
        Some(due) if due > now => due,
        _ => now,
    };
    let room = interval * (burst as u64).saturating_sub(1);
    if due - now > room { None } else { Some(due + interval) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets() {
        // Interval 10, burst 3: arrivals and whether they are let in.
        let mut due = None;
        for (now, expect) in [
            (100, true),
            (100, true),
            (100, true),
            (100, false),
            (109, false),
            (110, true),
            (110, false),
            (135, true),
            (135, true),
            (135, false),
            (1000, true),
            (1000, true),
            (1000, true),
            (1000, false),
        ] {
            let next = admit(due, now, 10, 3);
            assert_eq!(next.is_some(), expect, "at {now}, due {due:?}");
            due = next.or(due);
        }
        // A clock that seems to go back, and the largest settings there can be.
        assert_eq!(admit(Some(50), 10, 10, 3), None);
        assert!(admit(None, u64::MAX / 2, 1_000_000_000, u32::MAX).is_some());
    }

    #[test]
    fn flags_that_no_stack_sends() {
        const PSH_URG: u8 = 0x28;
        for (flags, bogus) in [
            (SYN, false),
            (SYN | ACK, false),
            (ACK, false),
            (ACK | FIN, false),
            (ACK | FIN | PSH_URG, false),
            (RST, false),
            (RST | ACK, false),
            // With ECN.
            (SYN | 0xc0, false),
            (0, true),
            (FIN, true),
            (FIN | PSH_URG, true),
            (PSH_URG, true),
            (SYN | FIN, true),
            (SYN | RST, true),
            (SYN | FIN | ACK, true),
        ] {
            assert_eq!(is_bogus(flags), bogus, "{flags:#04x}");
        }
    }

    #[test]
    fn who_pays() {
        let v4 = mapped([192, 0, 2, 1]);
        assert_eq!(payer(&v4), v4);
        let host = |last| words([0x20, 1, 0xd, 0xb8, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, last]);
        assert_eq!(payer(&host(1)), payer(&host(2)));
        assert_ne!(payer(&host(1)), payer(&words([0x20, 1, 0xd, 0xb8, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1])));
    }
}
