//! The controller without the proxy: source, translation and status writing, with times that suit tests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sluice::model::{Listener, ObjectKey, Protocol, Snapshot, SniMode, Transport, Vip};
use sluice::source::kubernetes;
use sluice::status::{self, Backoff, Pace, Publish, Report, Reporter, Served, Timing};
use sluice::translate::{self, translate};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::api_server::ApiServer;

/// Only keeps a broken test from hanging.
const DEADLINE: Duration = Duration::from_secs(60);

/// Settings with short times; it publishes these addresses.
pub fn quick(identity: &str, addresses: &[&str]) -> status::Settings {
    let addresses: BTreeSet<_> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    let lease = ObjectKey::new("sluice-system", "sluice");
    status::Settings {
        timing: Timing {
            duration: Duration::from_secs(1),
            deadline: Duration::from_millis(500),
            renew: Duration::from_millis(60),
            poll: Duration::from_millis(40),
        },
        member_renew: Duration::from_millis(100),
        member_duration: Duration::from_secs(1),
        answer: Duration::from_millis(500),
        writes: Pace { per_second: 1000.0, burst: 1000 },
        events: Pace { per_second: 1000.0, burst: 1000 },
        backoff: Backoff { min: Duration::from_millis(5), max: Duration::from_millis(100) },
        settle: Duration::from_millis(5),
        ..status::Settings::new(lease, identity.to_owned(), Publish::Fixed(addresses))
    }
}

/// Waits until it holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"));
}

/// A controller of one test.
pub struct Controller {
    reporter: Reporter,
    resting: watch::Sender<bool>,
    stop: oneshot::Sender<()>,
    tasks: [JoinHandle<()>; 2],
}

impl Controller {
    /// A controller of this server's Ingresses.
    pub fn start(server: &ApiServer, settings: status::Settings) -> Self {
        Self::on_node(server, settings, &[])
    }

    /// The same, on a node with these VIPs.
    pub fn on_node(server: &ApiServer, settings: status::Settings, vips: &[&str]) -> Self {
        let listener = |vip: &&str| Listener {
            vip: Vip { address: vip.parse().expect("an address"), port: 80, transport: Transport::Tcp },
            protocol: Protocol::Http,
            sni: SniMode::Off,
        };
        let listeners = vips.iter().map(listener).collect();
        let translation = Arc::new(translate::Settings { listeners, ..translate::Settings::default() });
        let reporter = Reporter::new(&settings.identity);
        let (served, updates) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let (resting, rests) = watch::channel(false);
        let pipeline = tokio::spawn(serve(server.client(), translation, served, rests, stopped));
        let writing = tokio::spawn(status::run(server.client(), settings, updates, reporter.clone()));
        Self { reporter, resting, stop, tasks: [pipeline, writing] }
    }

    /// What it says of itself.
    pub fn report(&self) -> Report {
        self.reporter.report()
    }

    /// Has others take over, or no longer.
    pub fn rest(&self, rests: bool) {
        self.resting.send_replace(rests);
    }

    /// Ends it properly.
    pub async fn end(self) {
        drop(self.stop);
        for task in self.tasks {
            tokio::time::timeout(DEADLINE, task).await.expect("it ends").expect("without a panic");
        }
    }

    /// Ends it as the loss of its node would: it does nothing more.
    pub fn kill(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What the daemon does, but for serving.
async fn serve(
    client: kube::Client,
    translation: Arc<translate::Settings>,
    served: watch::Sender<Option<Served>>,
    mut rests: watch::Receiver<bool>,
    mut stopped: oneshot::Receiver<()>,
) {
    // Of two Secrets, one so takes the way of those that are beyond the bound.
    let settings = kubernetes::Settings { single_watches: 1, ..kubernetes::Settings::default() };
    let mut updates = kubernetes::watch(client, settings);
    let mut snapshot = Arc::new(Snapshot::empty());
    loop {
        let update = updates.borrow_and_update().clone();
        if update.synced {
            let objects = update.objects;
            snapshot = Arc::new(translate(&objects, &translation, &update.issues, 0, &snapshot));
            let translation = Arc::clone(&translation);
            served.send_replace(Some(Served {
                objects,
                snapshot: Arc::clone(&snapshot),
                translation,
                resting: *rests.borrow_and_update(),
            }));
        }
        tokio::select! {
            changed = updates.changed() => changed.expect("the source runs on"),
            Ok(()) = rests.changed() => {}
            _ = &mut stopped => return,
        }
    }
}
