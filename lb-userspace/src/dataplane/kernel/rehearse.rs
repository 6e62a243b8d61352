//! A made-up frame, judged by the kernel: what would become of it if it came now.

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use lb_common::reason::Reason;
use lb_common::verdict::Action;
use nix::net::if_::if_nametoindex;

use super::{Dataplane, KernelError, program, verify};

const PROGRAM: &str = "rehearsal";
/// The one for what that one leaves to another.
const UNUSUAL: &str = "rehearsal_unusual";

/// What became of a made-up frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsed {
    /// What is done with it.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// The frame after that.
    pub frame: Vec<u8>,
}

impl Dataplane {
    /// Judges a frame as if it came in by the first interface, over the tables as they are now. Nothing
    /// is counted or remembered: no counter, flow, budget or port changes.
    ///
    /// # Errors
    /// What the kernel refuses, a frame shorter than an Ethernet header for one.
    pub fn rehearse(&mut self, frame: &[u8]) -> Result<Rehearsed, KernelError> {
        let rehearsed = self.rehearse_by(PROGRAM, frame)?;
        match rehearsed.reason {
            Reason::ForwardUnusual => self.rehearse_by(UNUSUAL, frame),
            _ => Ok(rehearsed),
        }
    }

    fn rehearse_by(&mut self, name: &'static str, frame: &[u8]) -> Result<Rehearsed, KernelError> {
        let interface = self.info.interfaces.first().and_then(|nic| if_nametoindex(nic.name.as_str()).ok());
        let xdp: &mut Xdp = program(&mut self.programs, name)?;
        if xdp.fd().is_err() {
            verify(|| xdp.load()).map_err(KernelError::program(name))?;
        }
        let context = context(frame.len() as u32, interface.unwrap_or_default());
        // Room for what a program may put in front of it.
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let result = xdp.test_run(options).map_err(KernelError::program(name))?;
        out.truncate(result.data_size_out as usize);
        let word = result.return_value;
        let reason = Reason::ALL.get((word >> 8) as usize).copied();
        let action = action(word & 0xff);
        let (Some(action), Some(reason)) = (action, reason) else {
            return Err(KernelError::Missing("rehearsal that fits this version"));
        };
        Ok(Rehearsed { action, reason, frame: out })
    }
}

/// struct xdp_md: the frame's begin and end, no metadata, the interface and its queue, no way out.
fn context(length: u32, interface: u32) -> Vec<u8> {
    [0, length, 0, interface, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}

/// What an XDP program's word means (enum xdp_action).
const fn action(word: u32) -> Option<Action> {
    match word {
        1 => Some(Action::Drop),
        2 => Some(Action::Pass),
        3 => Some(Action::Send),
        4 => Some(Action::Redirect),
        _ => None,
    }
}
