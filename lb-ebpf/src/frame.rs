//! lb-common's surroundings, made of helpers and maps.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
};
use aya_ebpf::maps::HashMap;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::XdpContext;
use lb_common::env::{Bytes, Env, Frame, REACH};
use lb_common::maps::{FlowKey, FlowState, HELLO_LEN, NAME_LEN, NameKey, Tuning, VipKey, VipValue};
use lb_common::reason::Reason;

use crate::log;
use crate::maps::{
    BUDGETS, FLOWS, NAME_COUNTERS, NAMES, SCRATCH, SOURCES, TUNING, VIP_COUNTERS, WILDCARDS, count, opaque,
    vip,
};

/// A frame in the kernel. `FORGETFUL`: connections are forgotten as soon as they are remembered,
/// so that a benchmark can show the same ClientHello again and again. `DRY`: nothing is written but the
/// frame, so that a made-up one is judged as a real one would be and leaves nothing behind.
pub struct Kernel<const FORGETFUL: bool, const DRY: bool = false> {
    context: *mut xdp_md,
}

impl<const FORGETFUL: bool, const DRY: bool> Kernel<FORGETFUL, DRY> {
    /// The frame of this run of the program.
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self { context: context.ctx }
    }

    /// The context.
    #[inline(always)]
    pub fn context(&self) -> *mut xdp_md {
        self.context
    }

    /// Where N bytes at an offset are; `None`: the linear part ends before.
    #[inline(always)]
    pub fn place<const N: usize>(&self, offset: usize) -> Option<usize> {
        // SAFETY: the context is valid for the run.
        let (data, end) = unsafe { ((*self.context).data as usize, (*self.context).data_end as usize) };
        if data + offset + N > end { None } else { Some(data + offset) }
    }

    /// The index of the interface that the frame came in by.
    #[inline(always)]
    pub fn interface(&self) -> u32 {
        // SAFETY: the context is valid for the run.
        unsafe { (*self.context).ingress_ifindex }
    }
}

impl<const FORGETFUL: bool, const DRY: bool> Frame for Kernel<FORGETFUL, DRY> {
    #[inline(always)]
    fn near<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        // SAFETY: the context is valid for the run.
        let (data, end) = unsafe { ((*self.context).data as usize, (*self.context).data_end as usize) };
        if data + offset + N > end {
            return None;
        }
        // SAFETY: in bounds, as just checked.
        Some(unsafe { read(data + offset) })
    }

    #[inline(always)]
    fn reach<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        // SAFETY: the context is valid for the run.
        let (data, end) = unsafe { ((*self.context).data as usize, (*self.context).data_end as usize) };
        let place = data + (opaque(offset as u32) as usize & REACH);
        if offset > REACH || place + N > end {
            return self.far(offset);
        }
        // SAFETY: in bounds, as just checked.
        Some(unsafe { read(place) })
    }

    #[inline(always)]
    fn far<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        // Not zeroed: LLVM calls a function for that, which goes from byte to byte.
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: N bytes of stack are given to the helper, which checks the offset itself.
        let failed =
            unsafe { bpf_xdp_load_bytes(self.context, offset as u32, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: the helper has written them all.
        if failed != 0 { None } else { Some(unsafe { bytes.assume_init() }) }
    }

    #[inline(always)]
    fn linear(&self) -> u32 {
        // SAFETY: the context is valid for the run.
        unsafe { (*self.context).data_end - (*self.context).data }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: as above.
        unsafe { bpf_xdp_get_buff_len(self.context) as u32 }
    }
}

impl<const FORGETFUL: bool, const DRY: bool> Env for Kernel<FORGETFUL, DRY> {
    #[inline(always)]
    fn vip(&self, key: &VipKey) -> Option<VipValue> {
        vip(key)
    }

    #[inline(always)]
    fn tuning(&self) -> Tuning {
        TUNING.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn source(&self, address: &[u32; 4]) -> Option<u32> {
        SOURCES.get(Key::new(128, *address)).copied()
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn due(&self, source: &[u32; 4]) -> Option<u64> {
        // SAFETY: a torn read is impossible, values are eight aligned bytes and replaced whole.
        unsafe { BUDGETS.get(source) }.copied()
    }

    #[inline(always)]
    fn set_due(&self, source: &[u32; 4], due: u64) {
        if DRY {
            return;
        }
        // Only a lack of memory fails, and then the source has its budget whole.
        let _ = BUDGETS.insert(source, due, 0);
    }

    #[inline(always)]
    fn count(&self, reason: Reason) {
        if !DRY {
            count(reason);
        }
    }

    #[inline(always)]
    fn hide(&self, number: u32) -> u32 {
        let mut whole = MaybeUninit::<u64>::uninit();
        // Half of what is written, and the upper one: of that the verifier makes any number, while a processor
        // hands it over at once.
        // SAFETY: writes a local, and reads a part of it.
        unsafe {
            whole.as_mut_ptr().write_volatile((number as u64) << 32 | 1);
            whole.as_ptr().cast::<u32>().add(1).read_volatile()
        }
    }

    #[inline(always)]
    fn note(&self, reason: Reason) {
        if !DRY {
            log::note(reason, self.length());
        }
    }

    #[inline(always)]
    fn count_vip(&self, slot: u32, bytes: u32, connection: bool) {
        if !DRY && let Some(counters) = VIP_COUNTERS.get_ptr_mut(slot) {
            // SAFETY: this CPU's own element.
            unsafe {
                (*counters).packets += 1;
                (*counters).bytes += bytes as u64;
                (*counters).connections += connection as u64;
            }
        }
    }

    #[inline(always)]
    fn count_name(&self, slot: u32) {
        if !DRY && let Some(counter) = NAME_COUNTERS.get_ptr_mut(slot) {
            // SAFETY: this CPU's own element.
            unsafe { *counter += 1 }
        }
    }

    #[inline(always)]
    fn recall(&self, flow: &FlowKey) -> Option<FlowState> {
        // SAFETY: a torn read is impossible, values are eight aligned bytes and replaced whole.
        unsafe { FLOWS.get(flow) }.copied()
    }

    #[inline(always)]
    fn remember(&self, flow: &FlowKey, state: FlowState) {
        if DRY {
            return;
        }
        // A full table evicts; only a lack of memory fails, and then a hello counts twice, or its
        // connection ends by its time limit.
        let _ = FLOWS.insert(flow, state, 0);
        if FORGETFUL {
            self.forget(flow);
        }
    }

    #[inline(always)]
    fn forget(&self, flow: &FlowKey) {
        if !DRY {
            // Most openings were never there.
            let _ = FLOWS.remove(flow);
        }
    }

    #[inline(always)]
    fn store<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> bool {
        let bytes = bytes.as_ptr().cast_mut().cast();
        // SAFETY: N bytes are given to the helper, which only reads them and checks the offset itself.
        unsafe { bpf_xdp_store_bytes(self.context, offset as u32, bytes, N as u32) == 0 }
    }

    #[inline(always)]
    fn resize(&self, length: usize) -> bool {
        let change = length as i32 - self.length() as i32;
        // SAFETY: the helper checks the change itself; packet pointers are made anew for each read.
        change == 0 || unsafe { bpf_xdp_adjust_tail(self.context, change) == 0 }
    }

    #[inline(always)]
    fn payload(&self, offset: usize, length: usize) -> Option<impl Bytes> {
        // SAFETY: this CPU's own element, which nothing else uses during the run.
        let hello = unsafe { &raw mut (*SCRATCH.get_ptr_mut(0)?).hello };
        let length = opaque(length as u32);
        if length == 0 || length > HELLO_LEN as u32 {
            return None;
        }
        // SAFETY: length is at most the buffer's.
        if unsafe { bpf_xdp_load_bytes(self.context, offset as u32, hello.cast(), length) } != 0 {
            return None;
        }
        Some(Hello { bytes: hello.cast_const().cast(), length })
    }

    #[inline(always)]
    fn exact(&self, offset: usize, length: usize) -> Option<u32> {
        self.find(&NAMES, offset, length)
    }

    #[inline(always)]
    fn wildcard(&self, offset: usize, length: usize) -> Option<u32> {
        self.find(&WILDCARDS, offset, length)
    }
}

impl<const FORGETFUL: bool, const DRY: bool> Kernel<FORGETFUL, DRY> {
    #[inline(always)]
    fn find(&self, table: &HashMap<NameKey, u32>, offset: usize, length: usize) -> Option<u32> {
        // SAFETY: this CPU's own element, which nothing else uses during the run.
        let key = unsafe { &mut (*SCRATCH.get_ptr_mut(0)?).name };
        // Volatile, or LLVM calls a function that zeroes byte by byte.
        for word in &mut key.0 {
            // SAFETY: a word of this element.
            unsafe { core::ptr::from_mut(word).write_volatile(0) }
        }
        let length = opaque(length as u32);
        if length == 0 || length > NAME_LEN as u32 {
            return None;
        }
        // SAFETY: length is at most the key's.
        if unsafe { bpf_xdp_load_bytes(self.context, offset as u32, key.0.as_mut_ptr().cast(), length) } != 0
        {
            return None;
        }
        key.make_lower();
        // By reference: the stack has no room for a copy.
        let key: &NameKey = key;
        // SAFETY: values are four aligned bytes.
        unsafe { table.get(key) }.copied()
    }
}

/// The bytes at an address.
///
/// # Safety
/// N bytes from there on have been checked to be the frame's.
#[inline(always)]
unsafe fn read<const N: usize>(place: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    if N % 4 >= 2 {
        // SAFETY: the caller's; see below for the alignment.
        [bytes[0], bytes[1]] = unsafe { *(place as *const u16) }.to_ne_bytes();
        at = 2;
    }
    // Words instead of bytes: as many instructions fewer. The alignment that the reads assume is not given
    // on the wire (an Ethernet header is 14 bytes); every BPF back end emits loads that don't care.
    while at + 4 <= N {
        // SAFETY: the caller's; see above for the alignment.
        let word = unsafe { *((place + at) as *const u32) }.to_ne_bytes();
        [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]] = word;
        at += 4;
    }
    if at < N {
        // SAFETY: the caller's.
        bytes[at] = unsafe { *((place + at) as *const u8) };
    }
    bytes
}

/// Writes bytes to an address.
///
/// # Safety
/// N bytes from there on have been checked to be the frame's.
#[inline(always)]
pub unsafe fn write<const N: usize>(place: usize, bytes: [u8; N]) {
    let mut at = 0;
    // Words, as in reading; see there.
    if N % 4 >= 2 {
        // SAFETY: the caller's.
        unsafe { *(place as *mut u16) = u16::from_ne_bytes([bytes[0], bytes[1]]) };
        at = 2;
    }
    while at + 4 <= N {
        let word = u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        // SAFETY: the caller's.
        unsafe { *((place + at) as *mut u32) = word };
        at += 4;
    }
    if at < N {
        // SAFETY: the caller's.
        unsafe { *((place + at) as *mut u8) = bytes[at] };
    }
}

/// The first segment of a connection in this CPU's scratch memory.
struct Hello {
    bytes: *const u8,
    length: u32,
}

impl Bytes for Hello {
    #[inline(always)]
    fn len(&self) -> usize {
        self.length as usize
    }

    #[inline(always)]
    fn byte(&self, offset: usize) -> Option<u8> {
        if offset >= self.length as usize {
            return None;
        }
        let offset = opaque(offset as u32) as usize & (HELLO_LEN - 1);
        // SAFETY: the mask keeps the offset inside the buffer.
        Some(unsafe { *self.bytes.add(offset) })
    }
}
