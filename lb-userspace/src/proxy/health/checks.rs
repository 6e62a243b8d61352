//! Asks endpoints whether they are well: on one thread of the node, for all workers.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ahash::AHashMap;
use arc_swap::ArcSwap;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, LocalSet};

use super::probe::Prober;
use crate::model::{Cluster, ClusterKey, HealthCheck};
use crate::proxy::cluster::ClusterSlot;
use crate::proxy::config::Config;

/// How many endpoints are asked at the same time.
const AT_A_TIME: usize = 64;

/// The first check comes within this time: many endpoints must not be asked all at once.
const SPREAD: Duration = Duration::from_secs(1);

/// The thread that checks. Ends when dropped.
pub(in crate::proxy) struct Checks {
    /// Rises with each new configuration; closed at the end.
    changed: Option<watch::Sender<u64>>,
    thread: Option<JoinHandle<()>>,
}

impl Checks {
    /// Follows the configurations that are published there.
    pub(in crate::proxy) fn start(config: Arc<ArcSwap<Config>>) -> std::io::Result<Self> {
        let (changed, changes) = watch::channel(0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("health".to_owned()).spawn(move || {
            LocalSet::new().block_on(&runtime, follow(config, changes));
        })?;
        Ok(Self { changed: Some(changed), thread: Some(thread) })
    }

    /// There is a new configuration.
    pub(in crate::proxy) fn notify(&self) {
        if let Some(changed) = &self.changed {
            changed.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.changed = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The checks of one cluster.
struct Checked {
    slot: Arc<ClusterSlot>,
    check: Arc<HealthCheck>,
    endpoints: AHashMap<SocketAddr, AbortHandle>,
}

async fn follow(config: Arc<ArcSwap<Config>>, mut changes: watch::Receiver<u64>) {
    let prober = Rc::new(Prober::new());
    let turns = Rc::new(Semaphore::new(AT_A_TIME));
    let mut known: OrdMap<Arc<ClusterKey>, Arc<Cluster>> = OrdMap::new();
    let mut checked: AHashMap<Arc<ClusterKey>, Checked> = AHashMap::new();
    loop {
        let now = config.load_full();
        for difference in known.diff(&now.snapshot.clusters) {
            match difference {
                DiffItem::Add(key, cluster) | DiffItem::Update { new: (key, cluster), .. } => {
                    let old = checked.remove(key);
                    let slot = now.clusters.get(key).filter(|_| cluster.care.check.is_some());
                    match (slot, &cluster.care.check) {
                        (Some(slot), Some(check)) => {
                            let next = Checked::new(old, slot, check, cluster, &prober, &turns);
                            checked.insert(key.clone(), next);
                        }
                        _ => old.into_iter().for_each(Checked::end),
                    }
                }
                DiffItem::Remove(key, _) => checked.remove(key).into_iter().for_each(Checked::end),
            }
        }
        known = now.snapshot.clusters.clone();
        drop(now);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

impl Checked {
    /// Checks of the cluster's endpoints; those that go on as before are taken over.
    fn new(
        old: Option<Self>,
        slot: &Arc<ClusterSlot>,
        check: &Arc<HealthCheck>,
        cluster: &Cluster,
        prober: &Rc<Prober>,
        turns: &Rc<Semaphore>,
    ) -> Self {
        let mut before = match old {
            Some(old) if *old.check == **check && Arc::ptr_eq(&old.slot, slot) => old.endpoints,
            old => {
                old.into_iter().for_each(Self::end);
                AHashMap::new()
            }
        };
        let mut endpoints = AHashMap::with_capacity(cluster.endpoints.len());
        for endpoint in cluster.endpoints.iter() {
            let address = endpoint.address;
            let task = before.remove(&address).unwrap_or_else(|| {
                let (prober, turns) = (Rc::clone(prober), Rc::clone(turns));
                let task = ask_on(Arc::clone(slot), Arc::clone(check), address, prober, turns);
                tokio::task::spawn_local(task).abort_handle()
            });
            endpoints.insert(address, task);
        }
        before.into_values().for_each(|gone| gone.abort());
        Self { slot: Arc::clone(slot), check: Arc::clone(check), endpoints }
    }

    /// Nobody is asked any more, and nothing held against anybody.
    fn end(self) {
        for (address, task) in self.endpoints {
            task.abort();
            self.slot.unchecked(address);
        }
    }
}

/// Asks one endpoint again and again.
async fn ask_on(
    slot: Arc<ClusterSlot>,
    check: Arc<HealthCheck>,
    address: SocketAddr,
    prober: Rc<Prober>,
    turns: Rc<Semaphore>,
) {
    tokio::time::sleep(check.interval.min(SPREAD).mul_f64(fastrand::f64())).await;
    let mut row = Row::default();
    loop {
        let outcome = match turns.acquire().await {
            Ok(_turn) => prober.ask(&check, address).await,
            Err(_) => return,
        };
        let error = outcome.err();
        row.count(error.is_none(), &check);
        let text = error.as_ref().map(ToString::to_string);
        if slot.checked(address, row.unwell, text) {
            match &error {
                Some(error) => {
                    tracing::warn!(cluster = %slot.key, %address, %error, "endpoint is unwell: it gets no more requests")
                }
                None => tracing::info!(cluster = %slot.key, %address, "endpoint is well again"),
            }
        }
        // Never in step with others that began at the same time.
        tokio::time::sleep(check.interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// Outcomes in a row, and what follows from them. Well at first: the cluster says that it is ready.
#[derive(Default)]
struct Row {
    unwell: bool,
    /// Outcomes that speak against what holds now.
    against: u32,
}

impl Row {
    fn count(&mut self, good: bool, check: &HealthCheck) {
        if good != self.unwell {
            self.against = 0;
            return;
        }
        self.against += 1;
        if self.against >= if good { check.healthy_after } else { check.unhealthy_after } {
            (self.unwell, self.against) = (!good, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Probe;

    #[test]
    fn thresholds() {
        let check = HealthCheck {
            probe: Probe::Tcp,
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_after: 2,
            unhealthy_after: 3,
        };
        for (outcomes, unwell) in [
            ("", false),
            ("++--", false),
            ("---", true),
            ("--+--", false),
            ("---+", true),
            ("---++", false),
            ("---+-+", true),
            ("---++--", false),
        ] {
            let mut row = Row::default();
            outcomes.bytes().for_each(|outcome| row.count(outcome == b'+', &check));
            assert_eq!(row.unwell, unwell, "{outcomes}");
        }
    }
}
