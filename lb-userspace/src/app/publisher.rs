//! The daemon's side of status writing: what is served goes in, and nobody waits for what comes of it.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::model::{ObjectKey, Snapshot};
use crate::objects::Objects;
use crate::status::{self, Publish, Reporter, Served};
use crate::translate;

/// How long the end of the daemon waits for the Lease to be let go of. If that is too short, it
/// runs out by itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the arguments say about status writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The Lease; `None`: `sluice` in the namespace of the pod, or of the kubeconfig's context.
    pub lease: Option<ObjectKey>,
    /// What Ingresses are said to be reached at.
    pub publish: Publish,
}

/// The task that writes status and Events while this daemon leads.
pub struct Publisher {
    served: watch::Sender<Option<Served>>,
    translation: Arc<translate::Settings>,
    task: JoinHandle<()>,
    /// What it says of itself.
    pub reporter: Reporter,
}

impl Publisher {
    /// Starts the task; it does nothing before it is told what is served.
    pub fn start(client: Client, plan: &Plan, translation: translate::Settings) -> Self {
        let lease = plan.lease.clone();
        let lease = lease.unwrap_or_else(|| ObjectKey::new(client.default_namespace(), "sluice"));
        // The name is for people who look at the Lease: a daemon without one does as well.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let settings = status::Settings::new(lease, status::identity(host.trim()), plan.publish.clone());
        let reporter = Reporter::new(&settings.identity);
        let (served, updates) = watch::channel(None);
        let task = tokio::spawn(status::run(client, settings, updates, reporter.clone()));
        Self { served, translation: Arc::new(translation), task, reporter }
    }

    /// Says what is served from now on, and whether others are to take over.
    pub fn publish(&self, objects: &Arc<Objects>, snapshot: Arc<Snapshot>, resting: bool) {
        let (objects, translation) = (Arc::clone(objects), Arc::clone(&self.translation));
        self.served.send_replace(Some(Served { objects, snapshot, translation, resting }));
    }

    /// Ends the task and lets another daemon lead.
    pub async fn finish(self) {
        let Self { served, mut task, .. } = self;
        drop(served);
        if tokio::time::timeout(PATIENCE, &mut task).await.is_err() {
            tracing::debug!("the Lease could not be let go of in time; it runs out by itself");
            task.abort();
        }
    }
}
