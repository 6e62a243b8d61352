//! Attaching programs so that a restart is not seen by traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, MapData, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, ProgramInfo, SkLookup, Xdp, XdpMode as AyaMode, loaded_programs};
use nix::libc;
use nix::net::if_::if_nametoindex;
use serde::Serialize;

use super::pins;
use super::{Interface, KernelError, Occupant, Settings};

/// Where in the kernel the XDP program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native; if the driver can't, generic, with a warning.
    #[default]
    Auto,
    /// In the driver, before a socket buffer is made.
    Native,
    /// In the stack: works everywhere, saves nothing.
    Generic,
}

impl XdpMode {
    /// The mode's name, as `--xdp-mode` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// How long the kernel may take to let go of a link whose pin is gone: it waits for all CPUs (RCU) first.
const LETTING_GO: Duration = Duration::from_secs(1);

const STEER: &str = "steer";
const STEER_NEXT: &str = "steer-next";

/// Puts the XDP program on every interface of the settings and takes it off all others that the
/// pin directory knows.
pub(super) fn attach_xdp(program: &mut Xdp, settings: &Settings) -> Result<Vec<Interface>, KernelError> {
    let mut interfaces = Vec::new();
    let mut wanted = Vec::new();
    for name in &settings.interface {
        let index = if_nametoindex(name.as_str()).map_err(|_| KernelError::NoInterface(name.clone()))?;
        let new = program.info().map_err(KernelError::program("sluice"))?;
        let (mode, program_id) = match take_over(program, &new, settings, index)? {
            Some(taken) => taken,
            None => (attach(program, settings, name, index)?, new.id()),
        };
        wanted.push(pin_name(mode, index));
        interfaces.push(Interface { name: name.clone(), mode, program_id });
    }
    for pin in pins::names(&settings.pin_dir)? {
        if pin.starts_with("xdp-") && !wanted.contains(&pin) {
            tracing::info!(pin, "the XDP program leaves an interface that is no longer asked for");
            let path = settings.pin_dir.join(pin);
            fs::remove_file(&path).map_err(KernelError::pin_dir(path))?;
        }
    }
    Ok(interfaces)
}

/// Writes down which interfaces have, or are about to have, the program, and nothing else.
pub(super) fn note_uplinks(
    uplinks: &mut HashMap<MapData, u32, u32>,
    settings: &Settings,
) -> Result<(), KernelError> {
    let error = KernelError::map("UPLINKS");
    let mut wanted = BTreeSet::new();
    for name in &settings.interface {
        let index = if_nametoindex(name.as_str()).map_err(|_| KernelError::NoInterface(name.clone()))?;
        uplinks.insert(index, 1, 0).map_err(&error)?;
        wanted.insert(index);
    }
    let there: Vec<u32> = uplinks.keys().collect::<Result<_, _>>().map_err(&error)?;
    for index in there.into_iter().filter(|index| !wanted.contains(index)) {
        uplinks.remove(&index).map_err(&error)?;
    }
    Ok(())
}

/// bpffs allows no dots, interface names do; so the pin's name has the interface's index.
fn pin_name(mode: XdpMode, index: u32) -> String {
    format!("xdp-{}-{index}", mode.name())
}

/// Takes over a pinned link, if there is one that fits: leaves the program in it alone or exchanges
/// it. Says which program runs then.
fn take_over(
    program: &mut Xdp,
    new: &ProgramInfo,
    settings: &Settings,
    index: u32,
) -> Result<Option<(XdpMode, u32)>, KernelError> {
    let modes: &[XdpMode] = match settings.xdp_mode {
        XdpMode::Auto => &[XdpMode::Native, XdpMode::Generic],
        XdpMode::Native => &[XdpMode::Native],
        XdpMode::Generic => &[XdpMode::Generic],
    };
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let path = settings.pin_dir.join(pin_name(mode, index));
        if !path.exists() {
            continue;
        }
        let error = KernelError::pin(&path);
        let link = PinnedLink::from_pin(&path).map_err(|e| error(&e))?;
        let link = FdLink::from(link);
        let facts = facts(&link).map_err(|e| error(&e))?;
        // An interface that went takes its link along, and another may have its index now. A link
        // in a mode that is no longer asked for has to go too, with a gap of a moment.
        if facts.get("ifindex").map(String::as_str) != Some(&index.to_string()) || !modes.contains(&mode) {
            fs::remove_file(&path).map_err(KernelError::pin_dir(&path))?;
            continue;
        }
        let old = link.info().map_err(|e| error(&e))?.program_id();
        if same_program(old, new, settings)? {
            return Ok(Some((mode, old)));
        }
        put(program, link, &path, "sluice")?;
        return Ok(Some((mode, new.id())));
    }
    Ok(None)
}

/// Puts another program in all XDP links of the pin directory. Links of interfaces that are gone don't
/// count, unless there are no others.
pub(super) fn exchange(program: &mut Xdp, pin_dir: &Path, name: &'static str) -> Result<(), KernelError> {
    let mut done = false;
    let mut failed = None;
    for pin in pins::names(pin_dir)?.into_iter().filter(|pin| pin.starts_with("xdp-")) {
        let path = pin_dir.join(pin);
        let link = PinnedLink::from_pin(&path).map_err(|e| KernelError::pin(&path)(&e))?;
        match put(program, FdLink::from(link), &path, name) {
            Ok(()) => done = true,
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if !done => Err(error),
        _ => Ok(()),
    }
}

/// Puts a program in a pinned link.
fn put(program: &mut Xdp, link: FdLink, path: &Path, name: &'static str) -> Result<(), KernelError> {
    let link = XdpLink::try_from(link).map_err(|e| KernelError::pin(path)(&e))?;
    let id = program.attach_to_link(link).map_err(KernelError::program(name))?;
    // The pin keeps the link; our handle on it may go, and must not detach when it does.
    drop(program.take_link(id).map_err(KernelError::program(name))?);
    Ok(())
}

fn attach(program: &mut Xdp, settings: &Settings, name: &str, index: u32) -> Result<XdpMode, KernelError> {
    let first = if settings.xdp_mode == XdpMode::Generic { XdpMode::Generic } else { XdpMode::Native };
    match attach_as(program, settings, name, index, first) {
        Err(KernelError::Attach { source, .. })
            if settings.xdp_mode == XdpMode::Auto && is_unsupported(&*source) =>
        {
            tracing::warn!(
                interface = name, reason = %source,
                "NO NATIVE XDP: the program runs in generic mode, which is correct but accelerates nothing"
            );
            attach_as(program, settings, name, index, XdpMode::Generic)
        }
        other => other,
    }
}

fn attach_as(
    program: &mut Xdp,
    settings: &Settings,
    name: &str,
    index: u32,
    mode: XdpMode,
) -> Result<XdpMode, KernelError> {
    let flags = if mode == XdpMode::Generic { AyaMode::Skb } else { AyaMode::Driver };
    let end = Instant::now() + LETTING_GO;
    let id = loop {
        match program.attach_to_if_index(index, flags).map_err(|error| refused(name, mode, error)) {
            Ok(id) => break id,
            Err(KernelError::Occupied { by, .. })
                if by.as_ref().is_none_or(Occupant::is_ours) && Instant::now() < end =>
            {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    };
    let link = program.take_link(id).map_err(KernelError::program("sluice"))?;
    let link = FdLink::try_from(link).map_err(|_| KernelError::NotPinnable(name.to_owned()))?;
    let path = settings.pin_dir.join(pin_name(mode, index));
    let pinned = link.pin(&path).map_err(|e| KernelError::pin(&path)(&e))?;
    drop(pinned);
    Ok(mode)
}

fn refused(name: &str, mode: XdpMode, error: ProgramError) -> KernelError {
    // EBUSY: another link; EEXIST: another program by netlink or in the other mode.
    if matches!(errno(&error), Some(libc::EBUSY | libc::EEXIST)) {
        return KernelError::Occupied { interface: name.to_owned(), by: Occupant::find(name) };
    }
    KernelError::Attach { interface: name.to_owned(), mode: mode.name(), source: Box::new(error) }
}

/// Whether the driver has no native XDP at all. Whatever else a driver refuses for (the MTU, its
/// queues, memory) can be put right, and generic mode in its stead would hide it.
fn is_unsupported(error: &(dyn std::error::Error + 'static)) -> bool {
    /// The kernel's own ENOTSUPP, which should stay inside it; some drivers answer with it.
    const ENOTSUPP: i32 = 524;
    matches!(errno(error), Some(libc::EOPNOTSUPP | ENOTSUPP))
}

fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let own = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    own.or_else(|| error.source().and_then(errno))
}

/// Attaches sk_lookup to this thread's network namespace, unless the pinned link already runs the
/// very same program there over the very same maps.
///
/// aya can't exchange the program of such a link. A namespace runs several sk_lookup programs,
/// though, so the new one is attached before the old one goes, and no connection falls between.
pub(super) fn attach_steer(program: &mut SkLookup, settings: &Settings) -> Result<(), KernelError> {
    let (path, next) = (settings.pin_dir.join(STEER), settings.pin_dir.join(STEER_NEXT));
    if next.exists() {
        // A start was killed between the two steps below.
        fs::remove_file(&next).map_err(KernelError::pin_dir(&next))?;
    }
    let namespace = "/proc/thread-self/ns/net";
    let own = File::open(namespace).map_err(KernelError::pin_dir(namespace))?;
    if path.exists() && is_current(program, settings, &path, &own)? {
        return Ok(());
    }
    let id = program.attach(&own).map_err(|e| KernelError::AttachSteer(Box::new(e)))?;
    let link = program.take_link(id).map_err(KernelError::program(STEER))?;
    let pinned = FdLink::from(link).pin(&next).map_err(|e| KernelError::pin(&next)(&e))?;
    drop(pinned);
    if path.exists() {
        fs::remove_file(&path).map_err(KernelError::pin_dir(&path))?;
    }
    fs::rename(&next, &path).map_err(KernelError::pin_dir(next))
}

fn is_current(
    program: &SkLookup,
    settings: &Settings,
    path: &Path,
    namespace: &File,
) -> Result<bool, KernelError> {
    use std::os::unix::fs::MetadataExt as _;

    let error = KernelError::pin(path);
    let link = FdLink::from(PinnedLink::from_pin(path).map_err(|e| error(&e))?);
    let facts = facts(&link).map_err(|e| error(&e))?;
    let inode = namespace.metadata().map_err(|e| error(&e))?.ino().to_string();
    let old = link.info().map_err(|e| error(&e))?.program_id();
    let info = program.info().map_err(KernelError::program(STEER))?;
    Ok(facts.get("netns_ino") == Some(&inode) && same_program(old, &info, settings)?)
}

/// Whether a running program does exactly what the new one would: the same instructions over the
/// same pinned maps. The tag says so of the instructions before verification; constants in read-only
/// memory (the log level) show in the length of what the verifier left of them. A program that logs
/// is never kept, because it writes to the ring buffer of a reader that has gone.
fn same_program(old: u32, new: &ProgramInfo, settings: &Settings) -> Result<bool, KernelError> {
    if settings.log {
        return Ok(false);
    }
    let Some(old) = loaded_programs().flatten().find(|candidate| candidate.id() == old) else {
        return Ok(false);
    };
    let mut pinned = BTreeSet::new();
    for name in pins::maps() {
        let path = settings.pin_dir.join(name);
        pinned.insert(MapInfo::from_pin(&path).map_err(|e| KernelError::pin(&path)(&e))?.id());
    }
    let maps = |info: &ProgramInfo| -> Option<BTreeSet<u32>> {
        Some(info.map_ids().ok()??.into_iter().filter(|id| pinned.contains(id)).collect())
    };
    Ok(old.tag() == new.tag()
        && old.size_translated() == new.size_translated()
        && maps(&old).is_some()
        && maps(&old) == maps(new))
}

/// What the kernel tells about a link beyond what aya passes on: the lines of its fdinfo. aya
/// doesn't show the file descriptor either, so it is found by the link's id.
fn facts(link: &FdLink) -> io::Result<BTreeMap<String, String>> {
    let id = link.info().map_err(io::Error::other)?.id().to_string();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // Other threads open and close files all the time.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let facts: BTreeMap<_, _> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
            .collect();
        if facts.get("link_id") == Some(&id) {
            return Ok(facts);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the link has no fdinfo"))
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn only_a_lack_of_native_xdp_leads_to_generic_mode() {
        for (errno, unsupported, occupied) in [
            (libc::EOPNOTSUPP, true, false),
            (524, true, false),
            (libc::EBUSY, false, true),
            (libc::EEXIST, false, true),
            (libc::EINVAL, false, false),
            (libc::ENOSPC, false, false),
            (libc::ERANGE, false, false),
            (libc::ENOMEM, false, false),
            (libc::EPERM, false, false),
        ] {
            let io_error = io::Error::from_raw_os_error(errno);
            let error = ProgramError::from(SyscallError { call: "bpf_link_create", io_error });
            assert_eq!(is_unsupported(&error), unsupported, "errno {errno}");
            let refused = refused("eth0", XdpMode::Native, error);
            assert_eq!(matches!(refused, KernelError::Occupied { .. }), occupied, "errno {errno}");
            assert!(occupied || refused.to_string().contains(&format!("(os error {errno})")), "{refused}");
        }
    }
}
