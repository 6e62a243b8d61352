//! The programs that `sluice` goes on to: with ICMP errors, fragments and packets that are too big, and with
//! what may be a packet in another node's packet.

use aya::Ebpf;
use aya::maps::{MapError, ProgramArray};
use aya::programs::Xdp;
use lb_common::maps::{PROGRAM_RARE, PROGRAM_TUNNEL};

use super::{KernelError, program, verify};

/// Names, places, and what is amiss without them.
const PROGRAMS: [(&str, u32, &str); 2] = [
    ("rare", PROGRAM_RARE, "ICMP errors and fragments to VIPs of Services are not forwarded"),
    ("tunnel", PROGRAM_TUNNEL, "no packets are taken that other nodes send on in packets of their own"),
];

/// Loads the programs and puts them where `sluice` looks for them. Where the kernel refuses one, its frames
/// are passed to the local stack, or dropped if they are too big, and everything else works all the same.
///
/// # Errors
/// The object has no such program or map, or the map can't be written.
pub(super) fn set(programs: &mut Ebpf) -> Result<(), KernelError> {
    PROGRAMS.into_iter().try_for_each(|(name, place, amiss)| set_one(programs, name, place, amiss))
}

fn set_one(programs: &mut Ebpf, name: &'static str, place: u32, amiss: &str) -> Result<(), KernelError> {
    const MAP: &str = "PROGRAMS";
    let own: &mut Xdp = program(programs, name)?;
    let fd = verify(|| own.load()).and_then(|()| own.fd()?.try_clone().map_err(Into::into));
    let map = programs.map_mut(MAP).ok_or(KernelError::Missing(MAP))?;
    let mut next = ProgramArray::try_from(map).map_err(KernelError::map(MAP))?;
    match fd {
        Ok(fd) => next.set(place, &fd, 0).map_err(KernelError::map(MAP)),
        Err(error) => {
            let error = KernelError::program(name)(error);
            tracing::warn!(%error, "{amiss}");
            match next.clear_index(&place) {
                Ok(()) | Err(MapError::KeyNotFound | MapError::SyscallError(_)) => Ok(()),
                Err(error) => Err(KernelError::map(MAP)(error)),
            }
        }
    }
}
