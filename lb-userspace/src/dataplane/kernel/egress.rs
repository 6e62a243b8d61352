//! The program at a NIC's egress, which gives replies of near endpoints the VIP's address.

use std::fs;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use nix::net::if_::if_nametoindex;

use super::{KernelError, Settings, pins};

const PROGRAM: &str = "egress";

/// Attaches the program to every interface of the settings, by links that outlive the daemon, and
/// takes it off all others. Where the kernel has no such links (before 6.6), that is said and VIPs in
/// forward mode lead to endpoints behind the interfaces only.
pub(super) fn attach(program: &mut SchedClassifier, settings: &Settings) -> Result<(), KernelError> {
    let mut wanted = Vec::new();
    for name in &settings.interface {
        let index = if_nametoindex(name.as_str()).map_err(|_| KernelError::NoInterface(name.clone()))?;
        let pin = format!("{PROGRAM}-{index}");
        let path = settings.pin_dir.join(&pin);
        wanted.push(pin);
        let error = KernelError::pin(&path);
        if path.exists() {
            let link = PinnedLink::from_pin(&path).map_err(|e| error(&e))?;
            let link = SchedClassifierLink::try_from(FdLink::from(link)).map_err(|e| error(&e))?;
            if let Ok(id) = program.attach_to_link(link) {
                // The pin keeps the link; our handle on it may go.
                drop(program.take_link(id).map_err(KernelError::program(PROGRAM))?);
                continue;
            }
            // Of an interface that is gone, and whose index another one has now.
            fs::remove_file(&path).map_err(KernelError::pin_dir(&path))?;
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = match program.attach_with_options(name, TcAttachType::Egress, options) {
            Ok(id) => id,
            Err(ProgramError::SyscallError(error)) => {
                tracing::warn!(
                    interface = name, %error,
                    "no program at the egress (it takes Linux 6.6): VIPs of Services reach no endpoints on this node"
                );
                continue;
            }
            Err(other) => return Err(KernelError::program(PROGRAM)(other)),
        };
        let link = program.take_link(id).map_err(KernelError::program(PROGRAM))?;
        let link = FdLink::try_from(link).map_err(|_| KernelError::NotPinnable(name.clone()))?;
        drop(link.pin(&path).map_err(|e| error(&e))?);
    }
    for pin in pins::names(&settings.pin_dir)? {
        if pin.starts_with("egress-") && !wanted.contains(&pin) {
            let path = settings.pin_dir.join(pin);
            fs::remove_file(&path).map_err(KernelError::pin_dir(path))?;
        }
    }
    Ok(())
}
