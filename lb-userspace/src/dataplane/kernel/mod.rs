//! The kernel: programs, links and maps that outlive the daemon.
//!
//! Everything is pinned under one directory on bpffs. A daemon that starts takes over what it
//! finds there: maps are reused with their contents, the XDP program is exchanged inside its
//! link without a gap, and sk_lookup's newer program is attached before the older one goes.
//! Dropping a [`Dataplane`] leaves it all running; [`remove`] is the way to end it.

mod counters;
mod error;
mod forwarding;
mod handshakes;
mod links;
mod logs;
mod next;
mod nodes;
mod occupant;
mod pins;
mod ranges;
mod rehearse;
mod rules;
mod servers;
mod tables;
mod tc;
pub mod vip_routes;
mod vip_table;
mod watch;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, MapData, SockMap};
use aya::programs::{ProgramError, SchedClassifier, SkLookup, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_log::Level;
use ipnet::IpNet;
use lb_common::flow::{ENTRIES_OF_FLOW, WAYS};
use lb_common::maps::{
    CLASS_TERMINATE, LAYOUT, LAYOUT_MAP, MAPS, MAX_CLASSES, MAX_CPUS, MAX_WORKERS, MapLayout,
    REMEMBERED_FLOWS,
};
use serde::Serialize;

pub use counters::{Counters, NameCount, VipCount};
pub use error::KernelError;
pub use handshakes::{Version as HandshakeVersion, supported as handshakes_supported};
pub use links::XdpMode;
pub use occupant::Occupant;
pub use pins::{Lock, remove};
pub use rehearse::Rehearsed;
pub use vip_table::VipTable;
pub use watch::Events;

use super::diff::{Op, diff};
use super::image::{Class, MapImage};
use crate::model::{SynCookies, Tuning};
use handshakes::Handshakes;
use next::Next;
use rules::Rules;
use tables::Tables;
use tc::Direction;

/// The kernel programs' object, as the build script left it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice-ebpf"));

const BELIEVED: &str = "BELIEVED";

/// Where and how the programs are attached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The network interfaces that clients' packets come in by.
    pub interface: Vec<String>,
    /// Which XDP mode.
    pub xdp_mode: XdpMode,
    /// A directory on bpffs, made if missing: `/sys/fs/bpf/sluice`.
    pub pin_dir: PathBuf,
    /// Let the programs log unusual frames and ClientHellos, by the `log` crate on the debug level.
    /// Without it their code for that is not even loaded.
    pub log: bool,
    /// How many flows of VIPs in forward mode are remembered: [`Sizes::of`].
    pub flows: u32,
    /// How the stack shall take over connections whose handshake XDP did; `None`: the best way there is.
    pub handshakes: Option<HandshakeVersion>,
}

/// An interface with the XDP program on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub mode: XdpMode,
    /// The program's id, as `bpftool prog` shows it.
    pub program_id: u32,
}

/// What is attached and where it is pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Interfaces with the XDP program.
    pub interfaces: Vec<Interface>,
    /// The directory of the pins.
    pub pin_dir: PathBuf,
    /// The map layout's hash, in hex.
    pub layout: String,
    /// Whether pinned maps of an earlier run were taken over.
    pub reused: bool,
}

/// How much [`Dataplane::apply`] wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Entries added or changed.
    pub set: usize,
    /// Entries deleted.
    pub deleted: usize,
}

/// A difference between the kernel's maps and an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The write that would remove it.
    pub repair: Op,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.repair {
            Op::AddName(name, class) => {
                write!(f, "NAMES: {name} is missing or is not of class {class}")
            }
            Op::AddWildcard(suffix, class) => {
                write!(f, "WILDCARDS: *.{suffix} is missing or is not of class {class}")
            }
            Op::SetVip(vip, _) => write!(f, "VIPS: {vip} is missing or has other flags"),
            Op::DeleteVip(vip) => write!(f, "VIPS: {vip} should not be there"),
            Op::DeleteWildcard(suffix) => write!(f, "WILDCARDS: *.{suffix} should not be there"),
            Op::DeleteName(name) => write!(f, "NAMES: {name} should not be there"),
            Op::SetBackend(backend, _) => {
                write!(f, "L4_BACKENDS: {backend} is missing or drains differently")
            }
            Op::SetService(vip, _) => write!(f, "VIPS: {vip} is missing, or its ring is another one"),
            Op::DeleteService(vip) => write!(f, "VIPS: {vip} should not be there"),
            Op::DeleteBackend(backend) => write!(f, "L4_BACKENDS: {backend} should not be there"),
            Op::SetNode(address, _) => write!(f, "L4_NODES: {address} is missing, or another node's"),
            Op::DeleteNode(address) => write!(f, "L4_NODES: {address} should not be there"),
        }
    }
}

/// A worker's listeners.
#[derive(Clone, Copy, Debug)]
pub struct WorkerSocket<'a> {
    /// The CPU that the worker is pinned to.
    pub cpu: usize,
    /// Whose connections it takes: [`CLASS_TERMINATE`]'s, or some other class's only.
    pub class: Class,
    /// Its IPv4 listener.
    pub v4: BorrowedFd<'a>,
    /// Its IPv6 listener.
    pub v6: Option<BorrowedFd<'a>>,
}

/// The loaded programs and their maps.
pub struct Dataplane {
    tables: Tables,
    rules: Rules,
    handshakes: Handshakes,
    sockets: SockMap<MapData>,
    cpu_worker: Array<MapData, u32>,
    believed: Array<MapData, u64>,
    trace: watch::Trace,
    info: Info,
    settings: Settings,
    /// Some VIP steers by name.
    steers: bool,
    /// Unused here, but the programs in it last as long as somebody holds it.
    next: Next,
    /// Unused here, but programs that are loaded later want it open.
    _uplinks: HashMap<MapData, u32, u32>,
    /// Held as long as this process owns the pins.
    _lock: Lock,
    /// Passes on what the programs log, until it is dropped.
    _logs: Option<logs::Reader>,
    /// Keeps the programs' file descriptors.
    programs: Ebpf,
}

impl Dataplane {
    /// Loads the programs over the pinned maps (or new ones) and attaches them.
    ///
    /// # Errors
    /// No rights, no bpffs, another daemon on the same pin directory, another XDP program on an
    /// interface: each says what to do.
    pub fn open(settings: Settings) -> Result<Self, KernelError> {
        let lock = Lock::take(&settings.pin_dir)?;
        Self::open_locked(lock, settings)
    }

    /// As [`Self::open`], with the pin directory's lock taken already.
    ///
    /// # Errors
    /// Those of [`Self::open`], but for the lock.
    pub fn open_locked(lock: Lock, settings: Settings) -> Result<Self, KernelError> {
        let sizes = Sizes::of(settings.flows);
        let reused = pins::prepare(&settings.pin_dir, &sizes)?;
        let mut programs = load_sized(Some(&settings.pin_dir), settings.log, &sizes)?;
        let logs = if settings.log { Some(logs::Reader::start(&mut programs)?) } else { None };

        let mut layout: Array<_, u64> = take(&mut programs, LAYOUT_MAP)?;
        layout.set(0, LAYOUT, 0).map_err(KernelError::map(LAYOUT_MAP))?;
        let tables = Tables::take(&mut programs)?;
        let rules = Rules::take(&mut programs)?;
        let sockets = take(&mut programs, "SOCKETS")?;
        let cpu_worker = take(&mut programs, "CPU_WORKER")?;
        let believed = take(&mut programs, BELIEVED)?;
        let trace = watch::Trace::take(&mut programs)?;
        let mut uplinks: HashMap<_, u32, u32> = take(&mut programs, "UPLINKS")?;
        let mut next = Next::take(&mut programs)?;
        next.load_rare(&mut programs)?;
        let handshakes = Handshakes::take(&mut programs, &mut next, settings.handshakes)?;

        let xdp: &mut Xdp = program(&mut programs, "sluice")?;
        verify(|| xdp.load()).map_err(KernelError::program("sluice"))?;
        // Before packets come: the forwarder asks which interfaces bring replies back here.
        links::note_uplinks(&mut uplinks, &settings)?;
        let interfaces = links::attach_xdp(xdp, &settings)?;
        let out: &mut SchedClassifier = program(&mut programs, "egress")?;
        verify(|| out.load()).map_err(KernelError::program("egress"))?;
        if let Some((interface, error)) = tc::attach(out, &settings, Direction::Egress)? {
            tracing::warn!(
                interface, %error,
                "no program at the egress (it takes Linux 6.6): VIPs of Services reach no endpoints on this node"
            );
        }
        let steer: &mut SkLookup = program(&mut programs, "steer")?;
        verify(|| steer.load()).map_err(KernelError::program("steer"))?;
        links::attach_steer(steer, &settings)?;

        let layout = format!("{LAYOUT:016x}");
        let info = Info { interfaces, pin_dir: settings.pin_dir.clone(), layout, reused };
        Ok(Self {
            tables,
            rules,
            handshakes,
            sockets,
            cpu_worker,
            believed,
            trace,
            info,
            settings,
            steers: false,
            next,
            _uplinks: uplinks,
            _lock: lock,
            _logs: logs,
            programs,
        })
    }

    /// Puts the workers' listeners in place: worker `n` of the slice gets sockets `2n` and
    /// `2n+1`. CPUs without a worker of a class are spread over all of its workers, classes without
    /// any have those of [`CLASS_TERMINATE`].
    ///
    /// # Errors
    /// A file descriptor that is no listening TCP socket; more workers than the maps hold; none of
    /// [`CLASS_TERMINATE`].
    pub fn set_workers(&mut self, workers: &[WorkerSocket<'_>]) -> Result<(), KernelError> {
        let of_class = |class: u32| -> Vec<_> {
            let own = workers.iter().enumerate().filter(|(_, worker)| u32::from(worker.class) == class);
            own.map(|(index, worker)| (index, worker.cpu)).collect()
        };
        let general = of_class(CLASS_TERMINATE);
        if general.is_empty() || workers.len() > MAX_WORKERS as usize {
            return Err(KernelError::Workers(general.len().min(workers.len())));
        }
        let error = KernelError::map("SOCKETS");
        for (worker, sockets) in workers.iter().enumerate() {
            let index = worker as u32 * 2;
            self.sockets.set(index, &sockets.v4, 0).map_err(&error)?;
            match sockets.v6 {
                Some(v6) => self.sockets.set(index + 1, &v6, 0).map_err(&error)?,
                None => drop(self.sockets.clear_index(&(index + 1))),
            }
            // What the listeners before them believed of cookies, these don't.
            for index in [index, index + 1] {
                self.believed.set(index, 0, 0).map_err(KernelError::map(BELIEVED))?;
            }
        }
        for class in 0..MAX_CLASSES {
            let own = of_class(class);
            let own = if own.is_empty() { &general } else { &own };
            for cpu in 0..MAX_CPUS {
                let here = own.iter().find(|(_, at)| *at == cpu as usize);
                let (worker, _) = here.unwrap_or(&own[cpu as usize % own.len()]);
                let place = class * MAX_CPUS + cpu;
                self.cpu_worker.set(place, *worker as u32, 0).map_err(KernelError::map("CPU_WORKER"))?;
            }
        }
        // An earlier daemon may have had more workers. Last, so that no CPU points at a gap.
        for index in workers.len() as u32 * 2..2 * MAX_WORKERS {
            // Absent is the usual answer and as good as removed.
            let _ = self.sockets.clear_index(&index);
        }
        Ok(())
    }

    /// Brings the kernel's maps to the image, whatever is in them.
    ///
    /// # Errors
    /// The first write that fails; those before it stay done, and the next call goes on from there.
    pub fn apply(&mut self, want: &MapImage) -> Result<Applied, KernelError> {
        let steers = want.vips.values().any(|entry| entry.steer_sni);
        if steers {
            self.handshakes.begin(&mut self.programs, &self.settings)?;
        } else if self.tuning().syn_cookies != SynCookies::Off
            && let Err(error) = self.handshakes.begin(&mut self.programs, &self.settings)
        {
            // An earlier daemon's wish, or the system's settings are others by now: cookies that the stack
            // does not know would keep everybody out.
            tracing::warn!(%error, "syn-cookies is off from here on");
            let without = Tuning { syn_cookies: SynCookies::Off, ..self.tuning().clone() };
            self.rules.write(&without)?;
        }
        self.tables.refresh()?;
        let have = self.tables.know()?;
        let mut applied = Applied::default();
        for op in diff(&have, want) {
            self.tables.write(&op)?;
            match op {
                Op::AddName(..)
                | Op::AddWildcard(..)
                | Op::SetVip(..)
                | Op::SetBackend(..)
                | Op::SetNode(..)
                | Op::SetService(..) => applied.set += 1,
                Op::DeleteName(_)
                | Op::DeleteWildcard(_)
                | Op::DeleteVip(_)
                | Op::DeleteService(_)
                | Op::DeleteBackend(_)
                | Op::DeleteNode(_) => applied.deleted += 1,
            }
        }
        self.steers = steers;
        self.end_handshakes()?;
        Ok(applied)
    }

    /// Keeps the kernel from forgetting the next hops of endpoints in forward mode. To be called more
    /// often than once in `gc_stale_time` (60 s): what XDP sends is no use of a neighbour to the kernel,
    /// and unused ones go when its table has more than `gc_thresh1` (128) of them (arp(7)).
    pub fn keep_neighbours(&self) {
        self.tables.keep_neighbours();
    }

    /// How XDP can do handshakes at present: for VIPs that steer by name, and against SYN floods.
    ///
    /// # Errors
    /// [`KernelError::NoHandshakes`]: it can't, and why.
    pub fn can_steer(&self) -> Result<HandshakeVersion, KernelError> {
        self.handshakes.ready()
    }

    fn end_handshakes(&mut self) -> Result<(), KernelError> {
        if self.steers || self.tuning().syn_cookies != SynCookies::Off {
            return Ok(());
        }
        self.handshakes.end(&self.settings)
    }

    /// What the kernel's maps hold.
    ///
    /// # Errors
    /// A map that can't be read.
    pub fn read(&self) -> Result<MapImage, KernelError> {
        self.tables.read()
    }

    /// Where the kernel's maps differ from an image. Empty: nowhere.
    ///
    /// # Errors
    /// A map that can't be read.
    pub fn verify(&self, want: &MapImage) -> Result<Vec<Difference>, KernelError> {
        Ok(diff(&self.tables.read()?, want).into_iter().map(|repair| Difference { repair }).collect())
    }

    /// The rules for sources that are in force. They go on from where an earlier daemon left.
    pub fn tuning(&self) -> &Tuning {
        self.rules.known()
    }

    /// Brings the kernel to other rules for sources.
    ///
    /// # Errors
    /// The first write that fails; those before it stay done. [`KernelError::NoHandshakes`] where SYN
    /// cookies are asked for and can't be.
    pub fn tune(&mut self, want: &Tuning) -> Result<(), KernelError> {
        if want.syn_cookies != SynCookies::Off {
            self.handshakes.begin(&mut self.programs, &self.settings)?;
        }
        self.rules.write(want)?;
        self.end_handshakes()
    }

    /// Keeps these sources out until it is told of others. Ends with the daemon that asks for it, or the one
    /// that comes after.
    ///
    /// # Errors
    /// The first write that fails; those before it stay done.
    pub fn ban(&mut self, sources: &BTreeSet<IpNet>) -> Result<(), KernelError> {
        self.rules.ban(sources)
    }

    /// All counters, summed over CPUs. They go on from where an earlier daemon left.
    ///
    /// # Errors
    /// A map that can't be read.
    pub fn counters(&self) -> Result<Counters, KernelError> {
        self.tables.counters()
    }

    /// What is attached and where.
    pub fn info(&self) -> &Info {
        &self.info
    }
}

/// Reads the program object and makes its maps: pinned ones in the directory, if one is given,
/// else private ones for tests and benchmarks. `log`: keep the programs' debug messages. No program
/// is loaded into the kernel yet.
///
/// # Errors
/// No rights, no memory.
pub fn load(pin_dir: Option<&Path>, log: bool) -> Result<Ebpf, KernelError> {
    load_sized(pin_dir, log, &Sizes::default())
}

/// How large the flow table is, and what the programs that only measure are set to.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Entries of the flow table, and marks: a power of two, from 16 on. Half of them may be taken.
    pub flows: u32,
    /// How many clients take turns; 0: each packet is a new one's.
    pub clients: u32,
    /// How many VIPs they go to.
    pub targets: u32,
    /// The index of the interface that the generator sends by.
    pub sender: u32,
}

/// The fewest flows that a node may be asked to remember.
pub const FEWEST_FLOWS: u32 = 1 << 10;
/// The most: 1.1 GiB.
pub const MOST_FLOWS: u32 = 1 << 23;

impl Sizes {
    /// With room for so many flows, from [`FEWEST_FLOWS`] to [`MOST_FLOWS`], or up to twice as many: the power of two
    /// above.
    pub fn of(flows: u32) -> Self {
        let flows = flows.clamp(FEWEST_FLOWS, MOST_FLOWS).next_power_of_two();
        Self { flows: flows * ENTRIES_OF_FLOW, clients: 1, targets: 1, sender: 0 }
    }

    /// How many entries a map has.
    fn entries(&self, map: &MapLayout) -> u32 {
        match map.name {
            FLOW_TABLE => self.flows,
            MARK_TABLE => self.flows / WAYS,
            _ => map.entries,
        }
    }
}

const FLOW_TABLE: &str = "L4_FLOWS";
const MARK_TABLE: &str = "L4_MARKS";

impl Default for Sizes {
    fn default() -> Self {
        Self::of(REMEMBERED_FLOWS)
    }
}

/// As [`load`], of these sizes.
///
/// # Errors
/// Those of [`load`].
pub fn load_sized(pin_dir: Option<&Path>, log: bool, sizes: &Sizes) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    if let Some(directory) = pin_dir {
        for name in pins::maps() {
            loader.map_pin_path(name, directory.join(name));
        }
    }
    // aya-log's own default is everything. A frozen zero makes the verifier remove the calls.
    let level = if log { Level::Debug as u8 } else { 0 };
    let (mask, tick) = (sizes.flows - 1, ticks_in_a_second());
    loader.override_global(aya_log::LEVEL, &level, true);
    for (name, value) in [
        ("L4_MASK", &mask),
        ("L4_TICK", &tick),
        ("CLIENTS", &sizes.clients),
        ("TARGETS", &sizes.targets),
        ("SENDER", &sizes.sender),
    ] {
        loader.override_global(name, value, true);
    }
    for map in MAPS.iter().filter(|map| [FLOW_TABLE, MARK_TABLE].contains(&map.name)) {
        loader.map_max_entries(map.name, sizes.entries(map));
    }
    loader.map_max_entries("REPLIES", sizes.clients.max(1));
    loader.load(&handshakes::link(OBJECT)).map_err(|error| KernelError::Load(Box::new(error)))
}

/// Loads a program, and tries again where the verifier was interrupted: any signal to the process ends
/// its work, and it tells so by EAGAIN.
fn verify(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const TRIES: usize = 10;
    let interrupted = |error: &ProgramError| matches!(error, ProgramError::LoadError { io_error, .. } if io_error.kind() == io::ErrorKind::WouldBlock);
    let mut result = load();
    for _ in 1..TRIES {
        if !result.as_ref().is_err_and(interrupted) {
            break;
        }
        result = load();
    }
    result
}

/// The power of two of jiffies that is nearest to a second: the forwarder's clock. The coarse clock
/// ticks once in a jiffy, which is the only place where the kernel tells how long one is.
fn ticks_in_a_second() -> u32 {
    let tick = nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE);
    let jiffy = tick.map(std::time::Duration::from).unwrap_or(std::time::Duration::from_millis(4));
    let jiffies = 1_000_000_000 / jiffy.as_nanos().max(1);
    (jiffies as f64).log2().round() as u32
}

fn take<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    programs: &mut Ebpf,
    name: &'static str,
) -> Result<T, KernelError> {
    let map = programs.take_map(name).ok_or(KernelError::Missing(name))?;
    T::try_from(map).map_err(KernelError::map(name))
}

fn program<'a, T>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, KernelError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = programs.program_mut(name).ok_or(KernelError::Missing(name))?;
    program.try_into().map_err(KernelError::program(name))
}
