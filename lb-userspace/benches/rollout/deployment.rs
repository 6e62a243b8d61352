//! Replaces a Service's pods as a Deployment does: a new one is ready, an old one is told to end
//! and still serves for a while, its process ends, it leaves the slice.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use crate::cluster::{Cluster, Condition, Kind};
use crate::pod::{Pod, Style};

/// How long a pod that is told to end goes on as if nothing were: the `preStop` sleep of every guide.
const GRACE: Duration = Duration::from_millis(1500);

/// One step in so many replaces all pods at once, with none ready in between.
const ALL_AT_ONCE: u64 = 25;

/// A running deployment.
pub struct Deployment {
    begun: AtomicBool,
    /// Pods that were replaced.
    pub replaced: AtomicU64,
}

impl Deployment {
    /// From now on pods are replaced.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }
}

/// Starts a Service's pods on a thread of their own. They are there when this returns.
pub fn start(cluster: Arc<Cluster>, kind: Kind, every: Duration) -> Arc<Deployment> {
    let deployment = Arc::new(Deployment { begun: AtomicBool::new(false), replaced: AtomicU64::new(0) });
    let (sender, receiver) = std::sync::mpsc::channel();
    let this = deployment.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, async move {
            let pods = Rc::new(Pods { cluster, kind, made: AtomicU64::new(0), listed: RefCell::default() });
            (0..pods.cluster.pods).for_each(|_| pods.add());
            pods.write();
            sender.send(()).expect("somebody waits");
            while !this.begun.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(20)).await;
            }
            for step in 1.. {
                sleep(every).await;
                let count =
                    if step % ALL_AT_ONCE == 0 { pods.replace_all().await } else { pods.replace_one().await };
                this.replaced.fetch_add(count, Ordering::Relaxed);
            }
        });
    });
    receiver.recv().expect("pods");
    deployment
}

struct Pods {
    cluster: Arc<Cluster>,
    kind: Kind,
    made: AtomicU64,
    /// As the slice has them, the oldest first. `None` where a process is about to end.
    listed: RefCell<VecDeque<(std::net::SocketAddr, Condition, Option<Pod>)>>,
}

impl Pods {
    fn add(&self) {
        let style = Style::of(self.made.fetch_add(1, Ordering::Relaxed));
        let pod = Pod::start(self.cluster.address(), self.kind, style);
        self.listed.borrow_mut().push_back((pod.address, Condition::Ready, Some(pod)));
    }

    fn write(&self) {
        let listed = self.listed.borrow();
        self.cluster
            .write_slice(self.kind, listed.iter().map(|(address, condition, _)| (*address, *condition)));
    }

    async fn replace_one(self: &Rc<Self>) -> u64 {
        self.add();
        self.write();
        sleep(Duration::from_millis(fastrand::u64(..100))).await;
        self.end(1);
        1
    }

    /// All old ones are terminating before the new ones are ready.
    async fn replace_all(self: &Rc<Self>) -> u64 {
        let count = self.cluster.pods;
        // Who still serves while nobody is ready must not be about to stop.
        while self.listed.borrow().len() > count {
            sleep(Duration::from_millis(20)).await;
        }
        self.end(count);
        sleep(Duration::from_millis(500)).await;
        (0..count).for_each(|_| self.add());
        self.write();
        count as u64
    }

    /// Tells the oldest `count` pods that are ready to end. They take their time.
    fn end(self: &Rc<Self>, count: usize) {
        let mut ended = Vec::new();
        for (_, condition, pod) in self.listed.borrow_mut().iter_mut() {
            if ended.len() < count && *condition == Condition::Ready {
                *condition = Condition::Terminating;
                ended.extend(pod.take());
            }
        }
        self.write();
        let all = ended.len() > 1;
        for pod in ended {
            let this = self.clone();
            tokio::task::spawn_local(async move {
                let address = pod.address;
                // Nobody could serve if all ended at once before others are ready.
                if pod.style != Style::Sudden || all {
                    sleep(GRACE).await;
                }
                pod.end().await;
                this.listed.borrow_mut().retain(|(listed, ..)| *listed != address);
                this.write();
            });
        }
    }
}
