//! The kernel's side as the daemon uses it: one image of each snapshot, local routes for its VIPs.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::path::Path;

use ipnet::IpNet;
use lb_common::trace::Rule;

use crate::dataplane::image::{MapImage, class_of};
use crate::dataplane::kernel::{
    self, Dataplane, Events, HandshakeVersion, KernelError, Lock, Rehearsed, WorkerSocket, vip_routes,
};
use crate::model::{BadTuning, Snapshot, Tuning, WorkerPool};
use crate::proxy::WorkerSockets;

use super::admin::views::{Interface, SniCount, Steering as SteeringView, VipCount, Xdp, word};
use super::cli::{RunArgs, SteeringArg, XdpMode};

/// The loaded programs and their maps.
pub struct Steering {
    dataplane: Dataplane,
    pools: Vec<WorkerPool>,
    /// How names choose workers, or why they don't; `None`: nobody asks for it.
    by_name: Option<Result<HandshakeVersion, String>>,
}

/// What the programs counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Packets for each verdict reason.
    pub verdicts: BTreeMap<String, u64>,
    /// Each VIP's traffic.
    pub vips: Vec<VipCount>,
    /// Each server name's connections.
    pub sni: Vec<SniCount>,
}

impl Steering {
    /// Takes over what an earlier daemon left pinned, or loads anew, and attaches. Connections go
    /// to these workers from here on.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn open(args: &RunArgs, lock: Lock, workers: &[WorkerSockets]) -> Result<Self, KernelError> {
        let settings = kernel::Settings {
            interface: args.interface.clone(),
            xdp_mode: match args.xdp_mode {
                XdpMode::Auto => kernel::XdpMode::Auto,
                XdpMode::Native => kernel::XdpMode::Native,
                XdpMode::Generic => kernel::XdpMode::Generic,
            },
            pin_dir: args.pin_dir.clone(),
            log: args.xdp_log,
            flows: args.flows,
            handshakes: match args.steering {
                SteeringArg::Auto => None,
                SteeringArg::V1 => Some(HandshakeVersion::V1),
                SteeringArg::V2 => Some(HandshakeVersion::V2),
            },
        };
        let mut dataplane = Dataplane::open_locked(lock, settings)?;
        let sockets: Vec<_> = workers
            .iter()
            .map(|worker| WorkerSocket {
                cpu: worker.cpu,
                class: worker.pool.as_deref().and_then(|name| class_of(name, &args.worker_pool)).unwrap_or(0),
                v4: worker.v4.as_fd(),
                v6: worker.v6.as_ref().map(|fd| fd.as_fd()),
            })
            .collect();
        dataplane.set_workers(&sockets)?;
        Ok(Self { dataplane, pools: args.worker_pool.clone(), by_name: None })
    }

    /// Writes what a snapshot asks for. Maps that somebody else changed are repaired.
    pub fn publish(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let image = self.image(snapshot);
        let left_out = image.left_out(snapshot);
        if left_out > 0 {
            tracing::warn!(left_out, "VIPs or server names too long or too many for the kernel's maps");
        }
        let applied = self.dataplane.apply(&image).map_err(|error| error.to_string())?;
        if applied.set + applied.deleted > 0 {
            tracing::info!(set = applied.set, deleted = applied.deleted, "kernel maps written");
        }
        Ok(())
    }

    /// What a snapshot asks for, as far as this node can do it: what can change at any time, as it takes
    /// settings of the system, is looked at anew each time.
    fn image(&mut self, snapshot: &Snapshot) -> MapImage {
        let mut image = MapImage::from_snapshot(snapshot, &self.pools);
        let asked = image.vips.values().any(|entry| entry.steer_sni);
        let by_name = asked.then(|| self.dataplane.can_steer().map_err(|error| error.to_string()));
        if let Some(Err(_)) = by_name {
            image.vips.values_mut().for_each(|entry| entry.steer_sni = false);
        }
        if by_name != self.by_name {
            match &by_name {
                Some(Ok(version)) => tracing::info!(%version, "server names choose the workers"),
                Some(Err(why)) => {
                    tracing::warn!(why, "server names do not choose the workers; all else works")
                }
                None => {}
            }
        }
        self.by_name = by_name;
        image
    }

    /// Keeps the kernel from forgetting the next hops of endpoints in forward mode.
    pub fn keep_neighbours(&self) {
        self.dataplane.keep_neighbours();
    }

    /// What the kernel's maps hold.
    pub fn dump(&self) -> Result<MapImage, String> {
        self.dataplane.read().map_err(|error| error.to_string())
    }

    /// Each difference between the kernel's maps and a snapshot, in words.
    pub fn verify(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, String> {
        let image = self.image(snapshot);
        let differences = self.dataplane.verify(&image).map_err(|error| error.to_string())?;
        Ok(differences.iter().map(|one| one.to_string()).collect())
    }

    /// The rules for sources that are in force.
    pub fn tuning(&self) -> &Tuning {
        self.dataplane.tuning()
    }

    /// Makes changes to them, all or none.
    pub fn tune(&mut self, changes: &str) -> Result<(), TuneError> {
        let mut tuning = self.dataplane.tuning().clone();
        for change in changes.lines().filter(|line| !line.trim().is_empty()) {
            tuning.change(change)?;
        }
        self.dataplane.tune(&tuning)?;
        tracing::info!(
            denied = tuning.deny.len(),
            allowed = tuning.allow.len(),
            connection_rate = tuning.connection_rate,
            syn_cookies = tuning.syn_cookies.name(),
            "rules set"
        );
        Ok(())
    }

    /// Keeps these sources out until it is told of others.
    pub fn ban(&mut self, sources: &BTreeSet<IpNet>) -> Result<(), KernelError> {
        self.dataplane.ban(sources)
    }

    /// Has frames shown by a rule.
    pub fn watch(&mut self, rule: &Rule) -> Result<Events, KernelError> {
        self.dataplane.watch(rule)
    }

    /// Has other frames shown, or the same for longer.
    pub fn set_rule(&mut self, rule: &Rule) -> Result<(), KernelError> {
        self.dataplane.set_rule(rule)
    }

    /// Has no more frames shown; says how many found no room.
    pub fn unwatch(&mut self, events: Events) -> Result<u64, KernelError> {
        self.dataplane.unwatch(events)
    }

    /// What would become of a frame if it came now.
    pub fn rehearse(&mut self, frame: &[u8]) -> Result<Rehearsed, KernelError> {
        self.dataplane.rehearse(frame)
    }

    /// Where the program is attached.
    pub fn info(&self) -> Xdp {
        let interface = |nic: &kernel::Interface| Interface {
            name: nic.name.clone(),
            mode: word(&nic.mode),
            program_id: nic.program_id,
        };
        Xdp {
            interfaces: self.dataplane.info().interfaces.iter().map(interface).collect(),
            steering: self.by_name.as_ref().map(|by_name| match by_name {
                Ok(version) => SteeringView::By { version: version.to_string() },
                Err(why) => SteeringView::Off { why: why.clone() },
            }),
        }
    }

    /// What the programs counted; nothing when the maps can't be read.
    pub fn counters(&self) -> Counts {
        let counters = match self.dataplane.counters() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::warn!(%error, "can't read the kernel's counters");
                return Counts::default();
            }
        };
        Counts {
            verdicts: counters.verdicts.into_iter().map(|(reason, n)| (reason.to_owned(), n)).collect(),
            vips: counters
                .vips
                .into_iter()
                .map(|vip| VipCount {
                    vip: vip.vip.to_string(),
                    packets: vip.packets,
                    bytes: vip.bytes,
                    connections: vip.connections,
                })
                .collect(),
            sni: counters
                .sni
                .into_iter()
                .map(|name| SniCount { name: name.name, connections: name.connections })
                .collect(),
        }
    }
}

/// Why the rules for sources are not changed.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// What is asked for makes no sense.
    #[error(transparent)]
    Bad(#[from] BadTuning),
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// The lock of a pin directory; `None` while another daemon has it.
pub fn lock(pin_dir: &Path) -> Result<Option<Lock>, KernelError> {
    match Lock::take(pin_dir) {
        Ok(lock) => Ok(Some(lock)),
        Err(KernelError::Locked(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Detaches the programs, removes everything pinned and the VIPs' local routes. False: there was
/// nothing of all that.
pub async fn purge(pin_dir: &Path) -> Result<bool, String> {
    let there = pin_dir.exists();
    kernel::remove(pin_dir).map_err(|error| error.to_string())?;
    let routes = vip_routes::ensure(&[]).await.map_err(|error| error.to_string())?;
    Ok(there || !routes.removed.is_empty())
}

/// Makes the snapshot's VIPs local addresses of this node; those that no longer are asked for go.
pub async fn route_vips(snapshot: &Snapshot) -> Result<(), String> {
    let addresses: Vec<_> = snapshot.listeners.iter().map(|listener| listener.vip.address).collect();
    let changed = vip_routes::ensure(&addresses).await.map_err(|error| error.to_string())?;
    if !changed.added.is_empty() || !changed.removed.is_empty() {
        tracing::info!(added = ?changed.added, removed = ?changed.removed, "local routes of VIPs");
    }
    Ok(())
}
