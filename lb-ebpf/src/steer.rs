//! Which listener takes a connection.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::programs::SkLookupContext;
use lb_common::maps::VipKey;
use lb_common::packet::TCP;
use lb_common::reason::Reason;
use lb_common::verdict::mapped;

use crate::log;
use crate::maps::{CPU_WORKER, SOCKETS, count, vip};

const AF_INET: u32 = 2;

/// Gives a connection to a VIP to the listener of the worker on this CPU; everything else, and a
/// VIP whose worker has no listener in place, is left to the kernel's own lookup.
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
    if vip(&key).is_none() {
        return;
    }
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let worker = CPU_WORKER.get(cpu).copied().unwrap_or(0);
    match SOCKETS.redirect_sk_lookup(context, worker * 2 + v6 as u32, 0) {
        Ok(()) => count(Reason::Steered),
        Err(_) => {
            count(Reason::SteerNoSocket);
            log::no_socket(worker, port);
        }
    }
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
