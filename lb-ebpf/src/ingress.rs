//! Where the stack takes over connections whose handshake XDP did: the segment that begins one gets its
//! socket from the listener of its class.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_sk_release, bpf_skb_pull_data};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use lb_common::cookie::{Admission, LISTEN, NO_SCALE};
use lb_common::maps::{FlowKey, TUNE_COOKIES, VIP_FORWARD, VIP_STEER, VipKey};
use lb_common::packet::{ACK, IPV4, IPV6, RST, SYN, TCP};
use lb_common::reason::Reason;
use lb_common::verdict::{mapped, words};

use crate::admit::{listener, socket};
use crate::egress::NEXT;
use crate::maps::{ADMISSIONS, COOKIES, SOCKETS, TUNING, count, vip};

/// `struct bpf_tcp_req_attrs` of the kernel (include/net/tcp.h).
#[repr(C)]
struct Attributes {
    stamp: u32,
    echo: u32,
    mss: u16,
    our_scale: u8,
    their_scale: u8,
    ecn: u8,
    scales: u8,
    sack: u8,
    stamps: u8,
    microseconds: u8,
    reserved: [u8; 3],
}

/// The number of the helper that there is not: the daemon makes these calls calls of the kernel's
/// function `bpf_sk_assign_tcp_reqsk` before it loads the program.
const PLACEHOLDER: usize = 0x7f00_0001;

/// Has `listener` make the socket of the connection that the packet begins.
///
/// # Safety
/// The listener has to be held by a reference.
#[inline(always)]
unsafe fn assign(packet: *mut __sk_buff, listener: *mut bpf_sock, attributes: &mut Attributes) -> i32 {
    type Assign = unsafe extern "C" fn(*mut c_void, *mut bpf_sock, *mut Attributes, i32) -> i32;
    // SAFETY: never called as such, see above; the signature is the kernel's.
    unsafe {
        let function: Assign = core::mem::transmute(PLACEHOLDER);
        function(packet.cast(), listener, attributes, size_of::<Attributes>() as i32)
    }
}

/// Looks at a packet that came in.
#[classifier]
pub fn ingress(context: TcContext) -> i32 {
    // What can't be read begins no connection of ours.
    let _ = begin(context.skb.skb);
    NEXT
}

#[inline(always)]
fn begin(packet: *mut __sk_buff) -> Option<()> {
    gather(packet);
    let kind: u16 = read(packet, 12)?;
    let v6 = match u16::from_be(kind) {
        IPV4 => false,
        IPV6 => true,
        _ => return None,
    };
    let (flow, sequence, flags) = if v6 {
        if read::<[u8; 2]>(packet, 20)?[0] != TCP {
            return None;
        }
        let source: [u8; 16] = read(packet, 22)?;
        (
            key(words(source), words(read(packet, 38)?), read(packet, 54)?),
            read(packet, 58)?,
            read(packet, 66)?,
        )
    } else {
        let [version, _]: [u8; 2] = read(packet, 14)?;
        let [_, protocol]: [u8; 2] = read(packet, 22)?;
        if version != 0x45 || protocol != TCP {
            return None;
        }
        let source: [u8; 4] = read(packet, 26)?;
        (
            key(mapped(source), mapped(read(packet, 30)?), read(packet, 34)?),
            read(packet, 38)?,
            read(packet, 46)?,
        )
    };
    let [_, flags]: [u8; 2] = flags;
    if flags & (SYN | ACK | RST) != ACK {
        return None;
    }
    let (address, port) = (flow.destination, flow.destination_port);
    let known = vip(&VipKey { address, port, protocol: TCP, zero: 0 })?;
    let floods = TUNING.get(0).is_some_and(|tuning| tuning.flags & TUNE_COOKIES != 0);
    if known.flags & VIP_FORWARD != 0 || (known.flags & VIP_STEER == 0 && !floods) {
        return None;
    }
    // SAFETY: a value that is written anew while it is read belongs to a connection that begins anew;
    // the client's next segment finds it whole.
    let admission = unsafe { ADMISSIONS.get(flow) }?;
    if admission.sequence != sequence {
        return None;
    }
    // The client may say it again: the socket is there by then.
    // SAFETY: the context is a tc program's.
    let state = unsafe { socket(packet.cast(), v6, &flow) };
    if state != 0 && state != LISTEN {
        return None;
    }
    let taken = hand_over(packet, admission, v6);
    count(if taken { Reason::Steered } else { Reason::AdmissionRefused });
    Some(())
}

/// Whether a listener of the connection's class takes it. If none does the stack answers with a reset.
#[inline(always)]
fn hand_over(packet: *mut __sk_buff, admission: &Admission, v6: bool) -> bool {
    let scales = admission.scale < NO_SCALE;
    let ours = COOKIES.get(0).map_or(0, |settings| settings.scale as u8);
    let mut attributes = Attributes {
        stamp: admission.stamp,
        echo: admission.echo,
        mss: admission.mss,
        our_scale: if scales { ours } else { 0 },
        their_scale: if scales { admission.scale } else { 0 },
        ecn: 0,
        scales: scales as u8,
        sack: admission.sack,
        stamps: admission.stamps,
        microseconds: 0,
        reserved: [0; 3],
    };
    let index = listener(admission.class as u32, v6);
    // SAFETY: the key is four bytes, as the map's are; the socket is given back right after.
    unsafe {
        let sockets = (&raw const SOCKETS).cast_mut().cast();
        let listener = bpf_map_lookup_elem(sockets, (&raw const index).cast()).cast::<bpf_sock>();
        if listener.is_null() {
            return false;
        }
        let failed = assign(packet, listener, &mut attributes);
        bpf_sk_release(listener.cast());
        failed == 0
    }
}

#[inline(always)]
fn key(source: [u32; 4], destination: [u32; 4], ports: [u16; 2]) -> FlowKey {
    let [source_port, destination_port] = ports;
    FlowKey { source, destination, source_port, destination_port }
}

/// What lies at a constant offset.
#[inline(always)]
fn read<T: Copy>(packet: *mut __sk_buff, offset: usize) -> Option<T> {
    // SAFETY: the context is valid for the run.
    let (data, end) = unsafe { ((*packet).data as usize, (*packet).data_end as usize) };
    if data + offset + size_of::<T>() > end {
        return None;
    }
    // SAFETY: in bounds, as just checked; BPF's loads don't care for alignment.
    Some(unsafe { *((data + offset) as *const T) })
}

/// Some drivers leave even headers outside the linear part. No hello is shorter than they may be.
#[inline(always)]
fn gather(packet: *mut __sk_buff) {
    /// To the end of TCP's, in IPv6.
    const HEADERS: u32 = 74;
    // SAFETY: the context is valid for the run; where the helper fails the packet stays as it is.
    unsafe {
        let (data, end) = ((*packet).data as usize, (*packet).data_end as usize);
        if data + HEADERS as usize > end && (*packet).len >= HEADERS {
            bpf_skb_pull_data(packet, HEADERS);
        }
    }
}
