//! The maps, laid out and sized by lb-common.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, SockMap};
use lb_common::cookie::{Admission, CookieSettings, Meter, SynOptions, VARIABLES};
use lb_common::flow::{Flow, WAYS as FLOWS_OF_BUCKET};
use lb_common::forward::Pending;
use lb_common::fragment::{FragmentKey, FragmentValue};
use lb_common::maps::{
    BackendValue, ClientWay, FlowKey, FlowState, HELLO_LEN, KEPT_PORTS, MAX_ADMISSIONS, MAX_BACKENDS,
    MAX_BUDGETS, MAX_CLASSES, MAX_CPUS, MAX_FLOWS, MAX_FRAGMENTS, MAX_L4_FLOWS, MAX_NAMES, MAX_NODES,
    MAX_RANGES, MAX_RING_CHUNKS, MAX_SERVERS, MAX_SOURCES, MAX_SYN_OPTIONS, MAX_UPLINKS, MAX_VIPS,
    MAX_WORKERS, NameKey, PROGRAMS_LEN, REASON_SLOTS, ReasonCounters, RingChunk, ServiceValue, Tuning,
    VipCounters, VipKey, VipValue, WAY_SLOTS, WayValue,
};
use lb_common::mark::Marks;
use lb_common::quic::ServerKey;
use lb_common::ranges::RangeKey;
use lb_common::rare::Work;
use lb_common::reason::Reason;
use lb_common::too_big::Answers;
use lb_common::vips::{self, CHUNK, CHUNKS, VipChunk};

/// Names are few on most nodes: memory is taken as they come.
const BPF_F_NO_PREALLOC: u32 = 1;

/// Such an array begins at a page. Others begin 16 bytes behind a cache line, and elements of a line
/// each would lie in two.
const BPF_F_MMAPABLE: u32 = 1 << 10;

#[map]
pub static VIPS: Array<VipChunk> = Array::with_max_entries(CHUNKS, BPF_F_MMAPABLE);
#[map]
pub static VIP_COUNTERS: PerCpuArray<VipCounters> = PerCpuArray::with_max_entries(MAX_VIPS, 0);
#[map]
pub static REASONS: PerCpuArray<ReasonCounters> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static NAMES: HashMap<NameKey, u32> = HashMap::with_max_entries(MAX_NAMES, BPF_F_NO_PREALLOC);
#[map]
pub static WILDCARDS: HashMap<NameKey, u32> = HashMap::with_max_entries(MAX_NAMES, BPF_F_NO_PREALLOC);
#[map]
pub static NAME_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2 * MAX_NAMES, 0);
#[map]
pub static FLOWS: LruHashMap<FlowKey, FlowState> = LruHashMap::with_max_entries(MAX_FLOWS, 0);
#[map]
pub static SOURCES: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(MAX_SOURCES, BPF_F_NO_PREALLOC);
#[map]
pub static TUNING: Array<Tuning> = Array::with_max_entries(1, 0);
/// When each source's budget is whole again. Not kept from one daemon to the next.
#[map]
pub static BUDGETS: LruHashMap<[u32; 4], u64> = LruHashMap::with_max_entries(MAX_BUDGETS, 0);
#[map]
pub static CPU_WORKER: Array<u32> = Array::with_max_entries(MAX_CLASSES * MAX_CPUS, 0);
#[map]
pub static SOCKETS: SockMap = SockMap::with_max_entries(2 * MAX_WORKERS, 0);
#[map]
pub static L4_SERVICES: Array<ServiceValue> = Array::with_max_entries(2 * MAX_VIPS, 0);
#[map]
pub static L4_CHANGED: Array<u32> = Array::with_max_entries(MAX_VIPS, 0);
#[map]
pub static L4_NODES: HashMap<[u32; 4], u32> = HashMap::with_max_entries(MAX_NODES, BPF_F_NO_PREALLOC);
#[map]
pub static L4_RINGS: Array<RingChunk> = Array::with_max_entries(MAX_RING_CHUNKS, 0);
#[map]
pub static L4_RANGES: LpmTrie<RangeKey, u32> = LpmTrie::with_max_entries(MAX_RANGES, BPF_F_NO_PREALLOC);
#[map]
pub static L4_SERVERS: HashMap<ServerKey, u32> = HashMap::with_max_entries(MAX_SERVERS, BPF_F_NO_PREALLOC);
#[map]
pub static L4_BACKENDS: Array<BackendValue> = Array::with_max_entries(MAX_BACKENDS, 0);
#[map]
pub static L4_FLOWS: Array<Flow> = Array::with_max_entries(MAX_L4_FLOWS, BPF_F_MMAPABLE);
#[map]
pub static L4_MARKS: Array<Marks> = Array::with_max_entries(MAX_L4_FLOWS / FLOWS_OF_BUCKET, BPF_F_MMAPABLE);
/// Not 0: some endpoint with this port gets packets with the client's address.
#[map]
pub static L4_KEPT: Array<u32> = Array::with_max_entries(KEPT_PORTS, 0);
#[map]
pub static UPLINKS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_UPLINKS, 0);
/// Not pinned: nothing is lost with it.
#[map]
pub static WAYS: PerCpuArray<WayValue> = PerCpuArray::with_max_entries(WAY_SLOTS, 0);
/// Likewise.
#[map]
pub static WAYS_BACK: PerCpuArray<ClientWay> = PerCpuArray::with_max_entries(WAY_SLOTS, 0);
/// Room that the stack doesn't have.
#[map]
pub static PENDING: PerCpuArray<Pending> = PerCpuArray::with_max_entries(1, 0);
/// Not pinned: they are under way for less than a restart takes.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> = LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);
#[map]
pub static ANSWERS: PerCpuArray<Answers> = PerCpuArray::with_max_entries(1, 0);
/// Room for what is known of a rare frame.
#[map]
pub static RARE: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static ADMISSIONS: LruHashMap<FlowKey, Admission> = LruHashMap::with_max_entries(MAX_ADMISSIONS, 0);
#[map]
pub static SYN_OPTIONS: LruHashMap<FlowKey, SynOptions> = LruHashMap::with_max_entries(MAX_SYN_OPTIONS, 0);
#[map]
pub static COOKIES: Array<CookieSettings> = Array::with_max_entries(1, 0);
/// When each listener was last made to believe that it gave cookies. Not pinned: listeners are a daemon's own.
#[map]
pub static BELIEVED: Array<u64> = Array::with_max_entries(2 * MAX_WORKERS, 0);
/// Not 0: a program of ours asks the stack for a socket, so what sk_lookup sees is no packet.
#[map]
pub static ASKING: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
/// When a cookie was given last.
#[map]
pub static COOKIES_USED: Array<u64> = Array::with_max_entries(1, 0);
/// Not pinned: it is about the last quarter of a second.
#[map]
pub static METER: PerCpuArray<Meter> = PerCpuArray::with_max_entries(1, 0);
/// The programs that `sluice` and `admit` go on to.
#[map]
pub static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(PROGRAMS_LEN, 0);
/// Holds lb_common's LAYOUT, written by the daemon that made the maps.
#[map]
pub static LAYOUT: Array<u64> = Array::with_max_entries(1, 0);

/// Room that the 512 bytes of stack don't have.
#[repr(C)]
pub struct Scratch {
    pub name: NameKey,
    pub hello: [u8; HELLO_LEN],
    pub variables: [u32; VARIABLES],
}

#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Adds one to a reason's counter on this CPU.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counters) = REASONS.get_ptr_mut(0) {
        // SAFETY: this CPU's own element; programs on one CPU don't interrupt each other between
        // the load and the store, save for sk_lookup, which counts other reasons.
        unsafe { (*counters).0[opaque(reason as u32) as usize & (REASON_SLOTS - 1)] += 1 }
    }
}

/// What is known of a VIP.
#[inline(always)]
pub fn vip(key: &VipKey) -> Option<VipValue> {
    vips::find(key, |index| {
        // The map's lookup of an array is inlined; no call is made.
        let chunk = VIPS.get((index / CHUNK) as u32)?;
        chunk.0.get(index % CHUNK)
    })
}

/// Hides a value's origin from LLVM, so that the bounds check that follows is made on the very
/// register that is used, which is what the verifier has to see.
#[inline(always)]
pub fn opaque(value: u32) -> u32 {
    // SAFETY: reads a local.
    unsafe { core::ptr::read_volatile(&value) }
}
