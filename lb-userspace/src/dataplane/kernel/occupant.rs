//! Who has an interface's XDP hook.

use std::fmt;

use aya::programs::loaded_programs;
use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};

/// An XDP program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Its number, as `bpftool prog` shows it.
    pub program: u32,
    /// Its name, as far as the kernel keeps it; empty if it has none or must not be read.
    pub name: String,
    /// Where it runs: `native`, `generic` or `offloaded`.
    pub mode: &'static str,
}

impl Occupant {
    /// Who has an interface; `None`: nobody, or it can't be found out.
    pub async fn of(interface: &str) -> Option<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().ok()?;
        let running = tokio::spawn(connection);
        let link = handle.link().get().match_name(interface.to_owned()).execute().try_next().await;
        running.abort();
        let attributes = link.ok().flatten()?.attributes;
        let xdp = attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => Some(xdp),
            _ => None,
        })?;
        let (mut mode, mut program) = ("native", None);
        for attribute in xdp {
            match attribute {
                LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = "generic",
                LinkXdp::Attached(XdpAttached::Hardware) => mode = "offloaded",
                LinkXdp::ProgId(id) => program = Some(id),
                _ => {}
            }
        }
        let program = program?;
        let found = loaded_programs().flatten().find(|loaded| loaded.id() == program);
        let name = found.and_then(|found| found.name_as_str().map(str::to_owned)).unwrap_or_default();
        Some(Self { program, name, mode })
    }

    /// [`Self::of`] from anywhere: a runtime may be running on this thread, in which nothing may wait.
    pub(super) fn find(interface: &str) -> Option<Self> {
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(Self::of(interface))
        };
        std::thread::scope(|scope| scope.spawn(ask).join().ok().flatten())
    }

    /// Whether it is one of the programs that Sluice attaches.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.name.as_str(), "sluice" | "traced")
    }

    /// What to do so that Sluice can have the interface.
    pub fn remedy(&self, interface: &str) -> String {
        match self.name.as_str() {
            _ if self.is_ours() => "an earlier Sluice with another pin directory left it: \
                                    `sluice maps purge --pin-dir` with that"
                .to_owned(),
            // The program that libxdp puts in front of those that it runs one after the other.
            "xdp_dispatcher" => format!(
                "libxdp shares the interface among programs, and Sluice needs it for itself: \
                 `xdp-loader status {interface}` names them, `xdp-loader unload {interface} --all` removes them"
            ),
            _ => format!("stop what attached it, or `ip link set dev {interface} xdp off`"),
        }
    }
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "without a name" } else { &self.name };
        write!(f, "program {} ({name}, {})", self.program, self.mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_remedy() {
        for (name, part) in [
            ("xdp_dispatcher", "xdp-loader unload eth0 --all"),
            ("sluice", "sluice maps purge"),
            ("cil_xdp_entry", "ip link set dev eth0 xdp off"),
            ("", "ip link set dev eth0 xdp off"),
        ] {
            let occupant = Occupant { program: 7, name: name.to_owned(), mode: "native" };
            assert!(occupant.remedy("eth0").contains(part), "{name}");
            assert!(occupant.to_string().starts_with("program 7 ("), "{occupant}");
        }
    }

    #[test]
    fn nobody_has_what_is_not_there() {
        assert_eq!(Occupant::find("no-such-nic"), None);
    }
}
