//! The pin directory: who owns it, and whether what is in it can be taken over.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use aya::maps::{Array, Map, MapData, MapInfo};
use lb_common::maps::{LAYOUT, LAYOUT_MAP, MAPS};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::MsFlags;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{KernelError, Sizes};

const BPFFS: &str = "/sys/fs/bpf";

/// Mounts bpffs where every tool expects it, as systemd does; small systems and images don't.
fn mount() -> io::Result<()> {
    let is_bpffs = || statfs(BPFFS).map(|kind| kind.filesystem_type() == BPF_FS_MAGIC);
    if is_bpffs()? {
        return Ok(());
    }
    // A second mount would hide the first one's pins: one process at a time looks and mounts.
    let _turn = Flock::lock(File::open(BPFFS)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    if !is_bpffs()? {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=700"))?;
        tracing::info!("mounted bpffs on {BPFFS}");
    }
    Ok(())
}

/// Shows that this process owns a pin directory. Given back by dropping it, or by dying.
#[derive(Debug)]
pub struct Lock {
    _directory: Flock<File>,
}

impl Lock {
    /// Makes the directory if needed and locks it. flock works on a directory of bpffs, whose
    /// files can't even be opened; and nothing is left behind when the owner is killed.
    ///
    /// # Errors
    /// [`KernelError::Locked`] while another process has it; a directory that can't be made or
    /// isn't on bpffs.
    pub fn take(directory: &Path) -> Result<Self, KernelError> {
        if directory.starts_with(BPFFS) {
            mount().map_err(KernelError::pin_dir(BPFFS))?;
        }
        fs::create_dir_all(directory).map_err(KernelError::pin_dir(directory))?;
        let kind = statfs(directory).map_err(io::Error::from).map_err(KernelError::pin_dir(directory))?;
        if kind.filesystem_type() != BPF_FS_MAGIC {
            return Err(KernelError::NotBpffs(directory.to_owned()));
        }
        let file = File::open(directory).map_err(KernelError::pin_dir(directory))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => Ok(Self { _directory: locked }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(KernelError::Locked(directory.to_owned())),
            Err((_, errno)) => Err(KernelError::pin_dir(directory)(errno.into())),
        }
    }
}

/// Makes sure that the maps pinned in the directory are either of our layout and these sizes or gone. True: there
/// are maps to take over.
pub(super) fn prepare(directory: &Path, sizes: &Sizes) -> Result<bool, KernelError> {
    if names(directory)?.is_empty() {
        return Ok(false);
    }
    match unfit(directory, sizes) {
        None => Ok(true),
        Some(reason) => {
            tracing::warn!(
                pin_dir = %directory.display(), reason,
                "pinned maps don't fit this version and its options: everything is detached and loaded anew, counters start at zero"
            );
            clear(directory)?;
            Ok(false)
        }
    }
}

/// Why the pinned maps can't be taken over. The layout map says what the maker believed; the
/// kernel says what really is there.
fn unfit(directory: &Path, sizes: &Sizes) -> Option<String> {
    let layout = match MapData::from_pin(directory.join(LAYOUT_MAP)) {
        Ok(data) => data,
        Err(error) => return Some(format!("{LAYOUT_MAP}: {error}")),
    };
    let found = Map::from_map_data(layout).and_then(|map| Array::<_, u64>::try_from(map)?.get(&0, 0));
    match found {
        Ok(LAYOUT) => {}
        Ok(other) => return Some(format!("layout {other:016x}, not {LAYOUT:016x}")),
        Err(error) => return Some(format!("{LAYOUT_MAP}: {error}")),
    }
    for map in &MAPS {
        let info = match MapInfo::from_pin(directory.join(map.name)) {
            Ok(info) => info,
            Err(error) => return Some(format!("{}: {error}", map.name)),
        };
        let found = (info.key_size() as usize, info.value_size() as usize, info.max_entries());
        if found != (map.key, map.value, sizes.entries(map)) {
            return Some(format!("{}: key, value and entries are {found:?}", map.name));
        }
    }
    None
}

/// Detaches the programs and unpins everything in the directory, then the directory itself.
/// A directory that isn't there is fine.
///
/// # Errors
/// A daemon that still runs with it; a file that can't be removed.
pub fn remove(directory: &Path) -> Result<(), KernelError> {
    if !directory.exists() {
        return Ok(());
    }
    let lock = Lock::take(directory)?;
    clear(directory)?;
    fs::remove_dir(directory).map_err(KernelError::pin_dir(directory))?;
    drop(lock);
    Ok(())
}

/// Links first: a program must not run on while its maps go.
fn clear(directory: &Path) -> Result<(), KernelError> {
    let mut names = names(directory)?;
    let is_link =
        |name: &str| ["xdp-", "steer", "egress-", "ingress-"].iter().any(|link| name.starts_with(link));
    names.sort_by_key(|name| (!is_link(name), name.clone()));
    for name in names {
        let path = directory.join(name);
        fs::remove_file(&path).map_err(KernelError::pin_dir(path))?;
    }
    Ok(())
}

/// The names of the maps that are pinned.
pub(super) fn maps() -> impl Iterator<Item = &'static str> {
    MAPS.iter().map(|map| map.name).chain([LAYOUT_MAP])
}

/// The names of all pins.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, KernelError> {
    let read = || -> io::Result<Vec<String>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    read().map_err(KernelError::pin_dir(directory))
}
