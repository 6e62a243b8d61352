//! lb-common's surroundings of handshakes, made of helpers and maps.

use core::ffi::c_void;

use aya_ebpf::bindings::{bpf_sock_tuple, iphdr, ipv6hdr, tcphdr};
use aya_ebpf::helpers::generated::{
    bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6,
    bpf_tcp_raw_gen_syncookie_ipv4, bpf_tcp_raw_gen_syncookie_ipv6,
};
use lb_common::cookie::{Admission, CookieSettings, Cookies, Meter, SynOptions, VARIABLES, Variable};
use lb_common::maps::FlowKey;
use lb_common::packet::Packet;

use crate::frame::Kernel;
use crate::maps::{ADMISSIONS, COOKIES, COOKIES_USED, METER, SCRATCH, SYN_OPTIONS};

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
    // SAFETY: both tuples are whole, and the socket is given back before anything else.
    unsafe {
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
            return 0;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state
    }
}

impl<const FORGETFUL: bool> Kernel<FORGETFUL> {
    #[inline(always)]
    fn variable(&self, variable: Variable) -> Option<*mut u32> {
        const _: () = assert!(VARIABLES <= 8);
        // SAFETY: this CPU's own element; the number is one of the variables'.
        Some(unsafe { (&raw mut (*SCRATCH.get_ptr_mut(0)?).variables).cast::<u32>().add(variable as usize) })
    }
}

impl<const FORGETFUL: bool> Cookies for Kernel<FORGETFUL> {
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
