//! lb-common's surroundings of handshakes, made of helpers and maps.

use core::ffi::c_void;

use aya_ebpf::bindings::{bpf_sock, bpf_sock_tuple, iphdr, ipv6hdr, tcphdr};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::{
    bpf_map_lookup_elem, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_gen_syncookie,
    bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6, bpf_tcp_raw_gen_syncookie_ipv4,
    bpf_tcp_raw_gen_syncookie_ipv6,
};
use lb_common::cookie::{Admission, CookieSettings, Cookies, Meter, SynOptions, VARIABLES, Variable};
use lb_common::env::Env as _;
use lb_common::maps::{FlowKey, MAX_CPUS};
use lb_common::packet::{Packet, SYN};

use crate::frame::Kernel;
use crate::maps::{
    ADMISSIONS, ASKING, BELIEVED, COOKIES, COOKIES_USED, CPU_WORKER, METER, SCRATCH, SOCKETS, SYN_OPTIONS,
};

/// Where the headers of the frames are that get here: without tags, options and extensions.
const IP: usize = 14;
const TCP4: usize = IP + 20;
const TCP6: usize = IP + 40;

/// Asks the stack for the socket of a connection, in the network namespace of the caller; 0: there is
/// none, else its state.
///
/// # Safety
/// The context has to be that of an XDP or a tc program.
#[inline(always)]
pub unsafe fn socket(context: *mut c_void, v6: bool, flow: &FlowKey) -> u32 {
    const CURRENT_NETNS: u64 = u64::MAX;
    let ports = flow.source_port as u32 | (flow.destination_port as u32) << 16;
    ask(1);
    // SAFETY: both tuples are whole, and the socket is given back before anything else.
    let state = unsafe {
        let socket = if v6 {
            let ([a, b, c, d], [e, f, g, h]) = (flow.source, flow.destination);
            let mut tuple = [a, b, c, d, e, f, g, h, ports];
            let place = tuple.as_mut_ptr().cast::<bpf_sock_tuple>();
            bpf_skc_lookup_tcp(context, place, size_of_val(&tuple) as u32, CURRENT_NETNS, 0)
        } else {
            let mut tuple = [flow.source[3], flow.destination[3], ports];
            let place = tuple.as_mut_ptr().cast::<bpf_sock_tuple>();
            bpf_skc_lookup_tcp(context, place, size_of_val(&tuple) as u32, CURRENT_NETNS, 0)
        };
        if socket.is_null() {
            0
        } else {
            let state = (*socket).state;
            bpf_sk_release(socket.cast());
            state
        }
    };
    ask(0);
    state
}

/// Says whether what sk_lookup sees from here on is a question of ours.
#[inline(always)]
fn ask(asking: u32) {
    if let Some(place) = ASKING.get_ptr_mut(0) {
        // SAFETY: this CPU's own element. Volatile, as it is read by who is called in between.
        unsafe { place.write_volatile(asking) }
    }
}

/// The listener that takes connections of a class that came in on this CPU, by its place in `SOCKETS`.
#[inline(always)]
pub fn listener(class: u32, v6: bool) -> u32 {
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let place = class * MAX_CPUS + cpu;
    let worker = CPU_WORKER.get(place).or_else(|| CPU_WORKER.get(cpu)).copied().unwrap_or(0);
    worker * 2 + v6 as u32
}

/// How long a listener believes that it gave cookies lately is minutes; so often it is told anew.
const TOLD: u64 = 1_000_000_000;

/// Has a listener believe that it gave a cookie, without which it takes none.
#[inline(always)]
fn convince(frame: &Kernel<false>, index: u32, v6: bool) {
    // A SYN without options. What else is in it, and the cookie that it gets, doesn't matter.
    let mut syn = [0u32; 5];
    syn[3] = u32::from_ne_bytes([5 << 4, SYN, 0, 0]);
    let tcp = syn.as_mut_ptr().cast::<tcphdr>();
    let length = size_of_val(&syn) as u32;
    // SAFETY: the key is four bytes, as the map's are; the socket is given back right after; the IP
    // header's bytes are the frame's, and the helper only reads.
    unsafe {
        let sockets = (&raw const SOCKETS).cast_mut().cast();
        let socket = bpf_map_lookup_elem(sockets, (&raw const index).cast()).cast::<bpf_sock>();
        if socket.is_null() {
            return;
        }
        if v6 {
            if let Some(ip) = frame.place::<40>(IP) {
                bpf_tcp_gen_syncookie(socket.cast(), ip as *mut c_void, 40, tcp, length);
            }
        } else if let Some(ip) = frame.place::<20>(IP) {
            bpf_tcp_gen_syncookie(socket.cast(), ip as *mut c_void, 20, tcp, length);
        }
        bpf_sk_release(socket.cast());
    }
}

impl Kernel<false> {
    #[inline(always)]
    fn variable(&self, variable: Variable) -> Option<*mut u32> {
        const _: () = assert!(VARIABLES <= 8);
        // SAFETY: this CPU's own element; the number is one of the variables'.
        Some(unsafe { (&raw mut (*SCRATCH.get_ptr_mut(0)?).variables).cast::<u32>().add(variable as usize) })
    }
}

impl Cookies for Kernel<false> {
    #[inline(always)]
    fn settings(&self) -> CookieSettings {
        COOKIES.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn cookie(&self, packet: &Packet, header: &[u8; 24]) -> Option<u32> {
        let length = header.len() as u32;
        let tcp = header.as_ptr().cast_mut().cast::<tcphdr>();
        // SAFETY: the IP header's bytes are the frame's, and the helper only reads.
        let made = unsafe {
            if packet.v6 {
                bpf_tcp_raw_gen_syncookie_ipv6(self.place::<40>(IP)? as *mut ipv6hdr, tcp, length)
            } else {
                bpf_tcp_raw_gen_syncookie_ipv4(self.place::<20>(IP)? as *mut iphdr, tcp, length)
            }
        };
        if made < 0 { None } else { Some(made as u32) }
    }

    #[inline(always)]
    fn is_cookie(&self, packet: &Packet) -> bool {
        // SAFETY: the headers' bytes are the frame's, and the helper only reads.
        let failed = unsafe {
            if packet.v6 {
                let (Some(ip), Some(tcp)) = (self.place::<40>(IP), self.place::<20>(TCP6)) else {
                    return false;
                };
                bpf_tcp_raw_check_syncookie_ipv6(ip as *mut ipv6hdr, tcp as *mut tcphdr)
            } else {
                let (Some(ip), Some(tcp)) = (self.place::<20>(IP), self.place::<20>(TCP4)) else {
                    return false;
                };
                bpf_tcp_raw_check_syncookie_ipv4(ip as *mut iphdr, tcp as *mut tcphdr)
            }
        };
        failed == 0
    }

    #[inline(always)]
    fn socket(&self, packet: &Packet, flow: &FlowKey) -> u32 {
        // SAFETY: the context is XDP's.
        unsafe { socket(self.context().cast(), packet.v6, flow) }
    }

    #[inline(always)]
    fn listener(&self, packet: &Packet, class: u32) -> u32 {
        let index = listener(class, packet.v6);
        if let Some(told) = BELIEVED.get_ptr_mut(index) {
            let now = self.now();
            // SAFETY: one aligned word, of which any CPU's is as good.
            unsafe {
                if now.wrapping_sub(told.read_volatile()) > TOLD {
                    convince(self, index, packet.v6);
                    told.write_volatile(now);
                }
            }
        }
        index + 1
    }

    #[inline(always)]
    fn is_admitted(&self, flow: &FlowKey) -> bool {
        ADMISSIONS.get_ptr(flow).is_some()
    }

    #[inline(always)]
    fn admit(&self, flow: &FlowKey, admission: &Admission) {
        // A full table evicts; only a lack of memory fails, and then the client sends its hello again.
        let _ = ADMISSIONS.insert(flow, admission, 0);
    }

    #[inline(always)]
    fn dismiss(&self, flow: &FlowKey) {
        // Most openings were never there.
        let _ = ADMISSIONS.remove(flow);
    }

    #[inline(always)]
    fn syn_options(&self, flow: &FlowKey) -> Option<SynOptions> {
        // SAFETY: a torn read is impossible, values are four aligned bytes and replaced whole.
        unsafe { SYN_OPTIONS.get(flow) }.copied()
    }

    #[inline(always)]
    fn set_syn_options(&self, flow: &FlowKey, options: SynOptions) {
        // As in `admit`.
        let _ = SYN_OPTIONS.insert(flow, options, 0);
    }

    #[inline(always)]
    fn meter(&self) -> Meter {
        METER.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn set_meter(&self, meter: Meter) {
        if let Some(place) = METER.get_ptr_mut(0) {
            // SAFETY: this CPU's own element.
            unsafe { *place = meter }
        }
    }

    #[inline(always)]
    fn used(&self) -> u64 {
        COOKIES_USED.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn set_used(&self, now: u64) {
        if let Some(place) = COOKIES_USED.get_ptr_mut(0) {
            // SAFETY: one aligned word, of which any CPU's is as good.
            unsafe { *place = now }
        }
    }

    #[inline(always)]
    fn get(&self, variable: Variable) -> u32 {
        // SAFETY: this CPU's own element.
        self.variable(variable).map_or(0, |place| unsafe { place.read_volatile() })
    }

    #[inline(always)]
    fn put(&self, variable: Variable, value: u32) {
        if let Some(place) = self.variable(variable) {
            // SAFETY: this CPU's own element.
            unsafe { place.write_volatile(value) }
        }
    }
}
