//! Watching frames: the program `traced` in the place of `sluice`, and the ring buffer that it fills.

use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use aya::programs::Xdp;
use lb_common::trace::{Event, Rule};

use super::{Dataplane, KernelError, links, program, take, verify};

const RULE: &str = "TRACE_RULE";
const LOST: &str = "TRACE_LOST";

pub(super) struct Trace {
    /// `None` while somebody has it.
    events: Option<Events>,
    rule: Array<MapData, Rule>,
    lost: PerCpuArray<MapData, u64>,
    /// What the lost ones were when the trace began.
    lost_before: u64,
}

/// What the programs show, in the order in which they do.
pub struct Events(RingBuf<MapData>);

/// Ends where there is nothing to read yet; more may come.
impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            let item = self.0.next()?;
            // Of another size: none of ours, and none that the program writes.
            if let Some(event) = Event::read(&item) {
                return Some(event);
            }
        }
    }
}

impl Trace {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            events: Some(Events(take(programs, "TRACE")?)),
            rule: take(programs, RULE)?,
            lost: take(programs, LOST)?,
            lost_before: 0,
        })
    }

    fn lost(&self) -> Result<u64, KernelError> {
        Ok(self.lost.get(&0, 0).map_err(KernelError::map(LOST))?.iter().sum())
    }
}

impl Dataplane {
    /// Shows frames by a rule from here on, until [`Self::unwatch`]. The events come from the kernel's
    /// ring buffer; who is too slow loses some.
    ///
    /// # Errors
    /// [`KernelError::Watched`] while somebody watches; what the kernel refuses.
    pub fn watch(&mut self, rule: &Rule) -> Result<Events, KernelError> {
        let mut events = self.trace.events.take().ok_or(KernelError::Watched)?;
        // What came after the last reader had left.
        while events.next().is_some() {}
        let begun = self.trace.lost().and_then(|lost| {
            self.trace.lost_before = lost;
            self.set_rule(rule)?;
            self.next.load_shown(&mut self.programs)?;
            self.run_on_links("traced")
        });
        match begun {
            Ok(()) => Ok(events),
            Err(error) => {
                self.trace.events = Some(events);
                Err(error)
            }
        }
    }

    /// Puts another rule in place of the one that is watched by.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn set_rule(&mut self, rule: &Rule) -> Result<(), KernelError> {
        self.trace.rule.set(0, rule, 0).map_err(KernelError::map(RULE))
    }

    /// Ends what [`Self::watch`] began, and says how many events found no room.
    ///
    /// # Errors
    /// What the kernel refuses; the next daemon puts it right.
    pub fn unwatch(&mut self, events: Events) -> Result<u64, KernelError> {
        self.trace.events = Some(events);
        self.set_rule(&Rule::default())?;
        self.run_on_links("sluice")?;
        Ok(self.trace.lost()?.saturating_sub(self.trace.lost_before))
    }

    /// Exchanges the program on all interfaces, without a frame going by.
    fn run_on_links(&mut self, name: &'static str) -> Result<(), KernelError> {
        let xdp: &mut Xdp = program(&mut self.programs, name)?;
        if xdp.fd().is_err() {
            verify(|| xdp.load()).map_err(KernelError::program(name))?;
        }
        links::exchange(xdp, &self.info.pin_dir, name)?;
        let id = xdp.info().map_err(KernelError::program(name))?.id();
        for interface in &mut self.info.interfaces {
            interface.program_id = id;
        }
        Ok(())
    }
}

impl Drop for Dataplane {
    /// Whoever takes over finds the program that it expects, and who doesn't watch pays for no watching.
    fn drop(&mut self) {
        if self.trace.events.is_none()
            && let Err(error) = self.run_on_links("sluice")
        {
            tracing::warn!(%error, "the program that traces stays on the NIC until the next start");
        }
    }
}
