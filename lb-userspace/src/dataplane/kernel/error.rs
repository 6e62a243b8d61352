//! What can go wrong with the kernel, and what to do.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

use super::Occupant;

/// Why the kernel's part does not work.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The pin directory can't be made, read or locked.
    #[error("{path}: {source}; it has to be on bpffs (`mount -t bpf bpf /sys/fs/bpf`) and takes root")]
    PinDir {
        /// Which file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The pin directory is not on bpffs.
    #[error("{0} is not on bpffs: `mount -t bpf bpf /sys/fs/bpf`, or choose another --pin-dir")]
    NotBpffs(PathBuf),
    /// Another daemon owns the pins.
    #[error("another sluice runs with the pin directory {0}: stop it, or give this one its own --pin-dir")]
    Locked(PathBuf),
    /// The object or its maps can't be loaded.
    #[error("the kernel refuses the maps: {}; Sluice takes CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and Linux 5.18 or newer", chain(.0.as_ref()))]
    Load(#[source] Box<EbpfError>),
    /// The object lacks something.
    #[error("the embedded object has no {0}: build it anew")]
    Missing(&'static str),
    /// A program can't be loaded.
    #[error("the kernel refuses the program {name}: {}", chain(source.as_ref()))]
    Program {
        /// Which.
        name: &'static str,
        /// What the kernel says, the verifier's log included.
        source: Box<ProgramError>,
    },
    /// A map can't be read or written.
    #[error("map {name}: {}", chain(source.as_ref()))]
    Map {
        /// Which.
        name: &'static str,
        /// What the kernel says.
        source: Box<MapError>,
    },
    /// No such network interface.
    #[error("there is no network interface {0:?}: see `ip link`")]
    NoInterface(String),
    /// Another XDP program is on the interface.
    #[error(
        "{interface} has an XDP program already{by}; {remedy}",
        by = .by.as_ref().map_or_else(String::new, |by| format!(": {by}")),
        remedy = .by.as_ref().map_or_else(
            || format!("stop what attached it, or `ip link set dev {interface} xdp off`"),
            |by| by.remedy(interface),
        ),
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// Which program; `None`: the kernel doesn't tell.
        by: Option<Occupant>,
    },
    /// The driver or the MTU does not allow XDP in the mode asked for.
    #[error(
        "{interface} takes no XDP program in {mode} mode: {cause}; try --xdp-mode generic, or a smaller MTU",
        cause = chain(source.as_ref())
    )]
    Attach {
        /// The interface.
        interface: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// What the kernel says.
        source: Box<ProgramError>,
    },
    /// XDP was attached by netlink, and such a link ends with the process.
    #[error("{0}: this kernel has no BPF links for XDP, without which a restart would interrupt traffic")]
    NotPinnable(String),
    /// sk_lookup can't be attached.
    #[error("sk_lookup can't be attached to this network namespace: {}", chain(.0.as_ref()))]
    AttachSteer(#[source] Box<ProgramError>),
    /// The programs' messages can't be read.
    #[error("the kernel programs' messages can't be read: {0}; start without --xdp-log")]
    Log(String),
    /// A pin can't be read or written.
    #[error("pin {path}: {reason}")]
    Pin {
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        reason: String,
    },
    /// More VIPs or names than the maps hold.
    #[error("the map {0} is full")]
    Full(&'static str),
    /// What steering by name and SYN cookies take is not there.
    #[error("XDP can't do TCP handshakes here, which --sni steer and syn-cookies take: {0}")]
    NoHandshakes(String),
    /// Somebody watches frames already.
    #[error("another `sluice trace` runs: one at a time")]
    Watched,
    /// No workers, or too many.
    #[error("{0} workers: there have to be 1 to {max}", max = lb_common::maps::MAX_WORKERS)]
    Workers(usize),
    /// Routes can't be read or written.
    #[error("local route for {address}: {reason}")]
    Route {
        /// The VIP.
        address: String,
        /// What the kernel says.
        reason: String,
    },
}

impl KernelError {
    pub(super) fn map(name: &'static str) -> impl Fn(MapError) -> Self {
        move |source| Self::Map { name, source: Box::new(source) }
    }

    /// What the removal of an entry came to: one that is not there any more is as good as removed.
    pub(super) fn removal(name: &'static str, outcome: Result<(), MapError>) -> Result<(), Self> {
        match outcome {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(Self::map(name)(source)),
        }
    }

    pub(super) fn program(name: &'static str) -> impl Fn(ProgramError) -> Self {
        move |source| Self::Program { name, source: Box::new(source) }
    }

    pub(super) fn pin_dir(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::PinDir { path, source }
    }

    pub(super) fn pin(path: impl Into<PathBuf>) -> impl Fn(&dyn std::fmt::Display) -> Self {
        let path = path.into();
        move |reason| Self::Pin { path: path.clone(), reason: reason.to_string() }
    }
}

/// An error with all that led to it: aya's own text often stops at the name of a system call, and
/// the errno, which tells an operator most, is below.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
