//! Programs at a NIC's egress, where replies of near endpoints get the VIP's address, and at its
//! ingress, where the stack takes over connections whose handshake XDP did.

use std::fs;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use nix::net::if_::if_nametoindex;

use super::{KernelError, Settings, pins};

/// Which way packets go. Programs and pins are called after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Out of the node.
    Egress,
    /// Into it.
    Ingress,
}

impl Direction {
    const fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }

    const fn kind(self) -> TcAttachType {
        match self {
            Self::Egress => TcAttachType::Egress,
            Self::Ingress => TcAttachType::Ingress,
        }
    }

    fn pin(self, index: u32) -> String {
        format!("{}-{index}", self.name())
    }
}

/// Attaches the program to every interface of the settings, by links that outlive the daemon, and
/// takes it off all others. Gives the last interface where that can't be: the kernel has no such links
/// before 6.6.
pub(super) fn attach(
    program: &mut SchedClassifier,
    settings: &Settings,
    direction: Direction,
) -> Result<Option<(String, SyscallError)>, KernelError> {
    let mut wanted = Vec::new();
    let mut refused = None;
    for name in &settings.interface {
        let index = if_nametoindex(name.as_str()).map_err(|_| KernelError::NoInterface(name.clone()))?;
        let pin = direction.pin(index);
        let path = settings.pin_dir.join(&pin);
        wanted.push(pin);
        let error = KernelError::pin(&path);
        if path.exists() {
            let link = PinnedLink::from_pin(&path).map_err(|e| error(&e))?;
            let link = SchedClassifierLink::try_from(FdLink::from(link)).map_err(|e| error(&e))?;
            if let Ok(id) = program.attach_to_link(link) {
                // The pin keeps the link; our handle on it may go.
                drop(program.take_link(id).map_err(KernelError::program(direction.name()))?);
                continue;
            }
            // Of an interface that is gone, and whose index another one has now.
            fs::remove_file(&path).map_err(KernelError::pin_dir(&path))?;
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = match program.attach_with_options(name, direction.kind(), options) {
            Ok(id) => id,
            Err(ProgramError::SyscallError(error)) => {
                refused = Some((name.clone(), error));
                continue;
            }
            Err(other) => return Err(KernelError::program(direction.name())(other)),
        };
        let link = program.take_link(id).map_err(KernelError::program(direction.name()))?;
        let link = FdLink::try_from(link).map_err(|_| KernelError::NotPinnable(name.clone()))?;
        drop(link.pin(&path).map_err(|e| error(&e))?);
    }
    detach_others(settings, direction, &wanted)?;
    Ok(refused)
}

/// Takes the program off all interfaces.
pub(super) fn detach(settings: &Settings, direction: Direction) -> Result<(), KernelError> {
    detach_others(settings, direction, &[])
}

fn detach_others(settings: &Settings, direction: Direction, wanted: &[String]) -> Result<(), KernelError> {
    let ours = format!("{}-", direction.name());
    for pin in pins::names(&settings.pin_dir)? {
        if pin.starts_with(&ours) && !wanted.contains(&pin) {
            let path = settings.pin_dir.join(pin);
            fs::remove_file(&path).map_err(KernelError::pin_dir(path))?;
        }
    }
    Ok(())
}
