//! Which listener takes a connection.

use aya_ebpf::programs::SkLookupContext;
use lb_common::cookie::STACK_CHECKS;
use lb_common::maps::{CLASS_TERMINATE, FlowKey, TUNE_COOKIES, VIP_STEER, VipKey};
use lb_common::packet::TCP;
use lb_common::reason::Reason;
use lb_common::verdict::mapped;

use crate::admit::listener;
use crate::log;
use crate::maps::{ADMISSIONS, ASKING, COOKIES, SOCKETS, TUNING, count, vip};

const AF_INET: u32 = 2;

/// Gives a connection to a VIP to the listener that it was admitted to, else to that of the worker on this
/// CPU; everything else, and a VIP whose worker has no listener in place, is left to the kernel's own
/// lookup.
#[inline(always)]
pub fn steer(context: &SkLookupContext) {
    let lookup = context.lookup;
    // SAFETY: the context is valid for the run; fields are read one by one, as the verifier wants.
    let (family, protocol, port) = unsafe { ((*lookup).family, (*lookup).protocol, (*lookup).local_port) };
    // The workers' sockets are TCP listeners, and the lookup fails if it is given any other kind.
    if protocol != TCP as u32 {
        return;
    }
    let v6 = family != AF_INET;
    // SAFETY: as above. Both families' fields may be read for either.
    let (ip4, ip6) = unsafe {
        (
            field(&raw const (*lookup).local_ip4),
            [
                field(&raw const (*lookup).local_ip6[0]),
                field(&raw const (*lookup).local_ip6[1]),
                field(&raw const (*lookup).local_ip6[2]),
                field(&raw const (*lookup).local_ip6[3]),
            ],
        )
    };
    let address = if v6 { ip6 } else { mapped(ip4.to_ne_bytes()) };
    // local_port is in host order, unlike the addresses.
    let key = VipKey { address, port: (port as u16).to_be(), protocol: TCP, zero: 0 };
    let Some(known) = vip(&key) else { return };
    let index = admitted(context, &key, known.flags).unwrap_or_else(|| listener(CLASS_TERMINATE, v6));
    let done = SOCKETS.redirect_sk_lookup(context, index, 0).is_ok();
    // The programs at the NIC ask before they judge: that is no connection yet.
    if ASKING.get(0).is_some_and(|asking| *asking != 0) {
        return;
    }
    if done {
        count(Reason::Steered);
    } else {
        count(Reason::SteerNoSocket);
        log::no_socket(index / 2, port);
    }
}

/// The listener of a connection whose handshake XDP did, where the stack checks its cookie.
#[inline(always)]
fn admitted(context: &SkLookupContext, key: &VipKey, flags: u32) -> Option<u32> {
    if COOKIES.get(0)?.offers & STACK_CHECKS == 0 {
        return None;
    }
    if flags & VIP_STEER == 0 && TUNING.get(0)?.flags & TUNE_COOKIES == 0 {
        return None;
    }
    let lookup = context.lookup;
    // SAFETY: the context is valid for the run; fields are read where they stand, see `field`.
    let (family, port, ip4, ip6) = unsafe {
        (
            field(&raw const (*lookup).family),
            (&raw const (*lookup).remote_port).read_volatile(),
            field(&raw const (*lookup).remote_ip4),
            [
                field(&raw const (*lookup).remote_ip6[0]),
                field(&raw const (*lookup).remote_ip6[1]),
                field(&raw const (*lookup).remote_ip6[2]),
                field(&raw const (*lookup).remote_ip6[3]),
            ],
        )
    };
    let flow = FlowKey {
        source: if family == AF_INET { mapped(ip4.to_ne_bytes()) } else { ip6 },
        destination: key.address,
        source_port: port,
        destination_port: key.port,
    };
    // SAFETY: a value that is written anew while it is read belongs to a connection that begins anew.
    unsafe { ADMISSIONS.get(flow) }?.listener.checked_sub(1)
}

/// Reads a field of the context where it stands. Left to itself, LLVM moves the two families' loads
/// into branches and merges them into one from a computed address, which the verifier refuses for
/// a context.
///
/// # Safety
/// The field has to be the context's.
#[inline(always)]
unsafe fn field(field: *const u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { field.read_volatile() }
}
