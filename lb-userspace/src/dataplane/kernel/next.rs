//! The programs that `sluice` goes on to.

use aya::Ebpf;
use aya::maps::{MapData, MapError, ProgramArray};
use aya::programs::Xdp;
use lb_common::maps::{PROGRAM_RARE, PROGRAM_SHOWN, PROGRAM_TUNNEL, PROGRAM_UNUSUAL};

use super::{KernelError, program, take, verify};

const NAME: &str = "PROGRAMS";

/// Where `sluice` looks for them. The kernel forgets them with the last that holds the map.
pub(super) struct Next(ProgramArray<MapData>);

impl Next {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, KernelError> {
        take(programs, NAME).map(Self)
    }

    /// Loads a program and puts it in its place, or clears the place if the kernel refuses it: the inner
    /// error.
    ///
    /// # Errors
    /// The object has no such program, or the map can't be written.
    pub(super) fn load(
        &mut self,
        programs: &mut Ebpf,
        name: &'static str,
        place: u32,
    ) -> Result<Result<(), KernelError>, KernelError> {
        let own: &mut Xdp = program(programs, name)?;
        match verify(|| own.load()).and_then(|()| own.fd()) {
            Ok(fd) => self.0.set(place, fd, 0).map(Ok).map_err(KernelError::map(NAME)),
            Err(error) => {
                self.clear(place)?;
                Ok(Err(KernelError::program(name)(error)))
            }
        }
    }

    /// Loads the programs for ICMP errors, fragments and packets that are too big, for packets in other
    /// nodes' packets, and for packets with tags. Where the kernel refuses one, its frames are passed to the
    /// local stack, or dropped if they are too big or to be forwarded, and everything else works all the same.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub(super) fn load_rare(&mut self, programs: &mut Ebpf) -> Result<(), KernelError> {
        if let Err(error) = self.load(programs, "rare", PROGRAM_RARE)? {
            tracing::warn!(%error, "ICMP errors and fragments to VIPs of Services are not forwarded");
        }
        if let Err(error) = self.load(programs, "tunnel", PROGRAM_TUNNEL)? {
            tracing::warn!(%error, "no packets are taken that other nodes send on in packets of their own");
        }
        if let Err(error) = self.load(programs, "unusual", PROGRAM_UNUSUAL)? {
            tracing::warn!(%error, "packets with VLAN tags are dropped that are for VIPs of Services");
        }
        Ok(())
    }

    /// Loads the program that shows frames with tags to whoever watches. Without it they are shown on their way
    /// to `unusual`.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub(super) fn load_shown(&mut self, programs: &mut Ebpf) -> Result<(), KernelError> {
        const SHOWN: &str = "shown";
        if program::<Xdp>(programs, SHOWN)?.fd().is_err()
            && let Err(error) = self.load(programs, SHOWN, PROGRAM_SHOWN)?
        {
            tracing::warn!(%error, "what becomes of packets with VLAN tags is not shown");
        }
        Ok(())
    }

    /// Has `sluice` find nothing there.
    pub(super) fn clear(&mut self, place: u32) -> Result<(), KernelError> {
        match self.0.clear_index(&place) {
            // Absent is as good.
            Ok(()) | Err(MapError::KeyNotFound | MapError::SyscallError(_)) => Ok(()),
            Err(error) => Err(KernelError::map(NAME)(error)),
        }
    }
}
