//! The program that `sluice` goes on to with ICMP errors, fragments, and packets that are too big.

use aya::Ebpf;
use aya::maps::{MapError, ProgramArray};
use aya::programs::Xdp;
use lb_common::maps::PROGRAM_RARE;

use super::{KernelError, program, verify};

const NAME: &str = "rare";

/// Loads the program and puts it where `sluice` looks for it. Where the kernel refuses it, such frames
/// are passed to the local stack, or dropped if they are too big, and everything else works all the same.
///
/// # Errors
/// The object has no such program or map, or the map can't be written.
pub(super) fn set(programs: &mut Ebpf) -> Result<(), KernelError> {
    const MAP: &str = "PROGRAMS";
    let own: &mut Xdp = program(programs, NAME)?;
    let fd = verify(|| own.load()).and_then(|()| own.fd()?.try_clone().map_err(Into::into));
    let map = programs.map_mut(MAP).ok_or(KernelError::Missing(MAP))?;
    let mut next = ProgramArray::try_from(map).map_err(KernelError::map(MAP))?;
    match fd {
        Ok(fd) => next.set(PROGRAM_RARE, &fd, 0).map_err(KernelError::map(MAP)),
        Err(error) => {
            let error = KernelError::program(NAME)(error);
            tracing::warn!(%error, "ICMP errors and fragments to VIPs of Services are not forwarded");
            match next.clear_index(&PROGRAM_RARE) {
                Ok(()) | Err(MapError::KeyNotFound | MapError::SyscallError(_)) => Ok(()),
                Err(error) => Err(KernelError::map(MAP)(error)),
            }
        }
    }
}
