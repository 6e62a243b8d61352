//! What the packet code needs from where it runs.

use crate::maps::{FlowKey, FlowState, Tuning, VipKey, VipValue};
use crate::reason::Reason;

/// Beyond every TCP header's end behind the usual IP headers; all ones, to serve as a mask.
pub const REACH: usize = 0xff;

/// A frame, from the Ethernet header on.
pub trait Frame {
    /// Bytes at an offset that is a constant once everything is inlined. In the kernel: a direct
    /// read, which the verifier allows because it sees the offset. `None`: the frame (or its
    /// linear part) ends before.
    fn near<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Bytes at any offset. In the kernel: a copy by `bpf_xdp_load_bytes`, which costs a call and
    /// also sees the fragments of multi-buffer frames.
    fn far<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Bytes at an offset of at most [`REACH`], without a call where the linear part has them, else
    /// like [`Frame::far`]. At least two: LLVM writes the bounds check of a single byte as `>=`, from
    /// which the verifier learns nothing.
    fn reach<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.far(offset)
    }

    /// How far [`Frame::near`] reaches: the whole frame unless it came in several buffers.
    fn linear(&self) -> u32;

    /// The length of the frame in bytes.
    fn length(&self) -> u32;
}

/// The first bytes of a connection.
pub trait Bytes {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The byte at an offset; `None` from `len` on.
    fn byte(&self, offset: usize) -> Option<u8>;

    /// Two bytes in network order.
    #[inline(always)]
    fn word(&self, offset: usize) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte(offset)?, self.byte(offset + 1)?]))
    }
}

impl Bytes for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn byte(&self, offset: usize) -> Option<u8> {
        self.get(offset).copied()
    }
}

/// The tables and counters. All writes are the caller's own CPU's.
pub trait Env: Frame {
    /// The VIP table.
    fn vip(&self, key: &VipKey) -> Option<VipValue>;

    /// The rules for sources.
    fn tuning(&self) -> Tuning;

    /// What the longest listed prefix of an address says.
    fn source(&self, address: &[u32; 4]) -> Option<u32>;

    /// Nanoseconds of a clock that only goes forward.
    fn now(&self) -> u64;

    /// When a source's budget is whole again.
    fn due(&self, source: &[u32; 4]) -> Option<u64>;

    /// Sets that.
    fn set_due(&self, source: &[u32; 4], due: u64);

    /// Adds one to a reason's counter.
    fn count(&self, reason: Reason);

    /// The same number, of which the verifier knows nothing any more. Where it knows what the branches before have
    /// found, it follows all code behind for each of them.
    fn hide(&self, number: u32) -> u32 {
        number
    }

    /// Tells whoever debugs why a frame was unusual or what a ClientHello was; never called for
    /// the frames that make up traffic.
    fn note(&self, _reason: Reason) {}

    /// Adds a frame of `bytes` bytes to a VIP's counters.
    fn count_vip(&self, slot: u32, bytes: u32, connection: bool);

    /// Adds one to a server name's counter.
    fn count_name(&self, slot: u32);

    /// What is known of a connection.
    fn recall(&self, flow: &FlowKey) -> Option<FlowState>;

    /// Remembers what has become of a connection.
    fn remember(&self, flow: &FlowKey, state: FlowState);

    /// Forgets a connection: its 5-tuple begins anew.
    fn forget(&self, flow: &FlowKey);

    /// Writes bytes over the frame's; false, and nothing is written, if they would go beyond it.
    fn store<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> bool;

    /// Makes the frame this long; false if it can't be.
    fn resize(&self, length: usize) -> bool;

    /// Up to [`crate::maps::HELLO_LEN`] bytes of the frame from `offset` on, at most `length`.
    fn payload(&self, offset: usize, length: usize) -> Option<impl Bytes>;

    /// What the exact table says of the name that lies in the frame at `offset`:
    /// [`crate::maps::name_value`]. `length` is between 1 and [`crate::maps::NAME_LEN`].
    fn exact(&self, offset: usize, length: usize) -> Option<u32>;

    /// The same in the table of wildcards' suffixes.
    fn wildcard(&self, offset: usize, length: usize) -> Option<u32>;
}
