//! What Sluice says back to the cluster: `status.loadBalancer` of Ingresses and Services, and Events.
//!
//! ```text
//!                 Served (objects, snapshot), a watch channel that the app writes and never waits for
//!                    │
//!                    ▼
//!                  View (what is ours) ─┬─► ledger (what to write) ─► writer ─► statuses
//!                                       ├─► book (what to tell) ────► teller ─► Events
//!                                       └─► members (this node is there) ──► Lease of this daemon
//! lease (who leads) ─► elector ─► Leadership ─► writer, teller, members
//! ```
//!
//! Every daemon serves, one of them writes: the holder of a Lease, elected as controllers of
//! Kubernetes do it ([`lease`]). Nothing here is needed for serving. If the API is gone, the Lease
//! lost or the daemon ended, what was written stays as it is: a status that was right a moment ago
//! is better than none. There is no finalizer, because there is nothing outside of the cluster to
//! clean up: a deleted Ingress takes its status along.
//!
//! `ledger`, `book`, `lease` and the roster of `members` decide; they do no I/O and take time as an
//! argument. What asks the API around them is thin.
//!
//! # Which addresses
//!
//! On machines of one's own, no cloud says where an Ingress can be reached. The controllers that
//! run on every node with the node's network usually publish the addresses of all nodes that they
//! run on, by listing their pods and reading the Node objects. That takes rights to read pods and
//! nodes, and gives a node's InternalIP or ExternalIP, which need not be what Sluice answers for: its
//! VIPs may be on another card, or be extra addresses.
//!
//! Here each daemon says itself which VIPs it answers for, in a small Lease of its own beside the
//! leader's, and the leader publishes the VIPs of all daemons that are alive ([`Publish::Nodes`]). So
//! DNS made from it (external-dns) spreads over all nodes, a node that dies disappears from it in
//! about a minute, a VIP that all nodes share is published once, and all the rights it takes are to
//! Leases in Sluice's own namespace. With a load balancer or a name in front of the nodes, its
//! addresses can be given as they are ([`Publish::Fixed`]) or taken from a Service ([`Publish::Service`]).
//!
//! Services in forward mode say the addresses that they ask for, as soon as those are served; where another
//! controller hands addresses out, by the status itself, it stays that one's.

mod addresses;
mod book;
mod elector;
mod lease;
mod ledger;
mod members;
mod pace;
mod report;
mod request;
mod teller;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use self::addresses::Addresses;
use self::elector::Elector;
use self::members::Membership;
use self::teller::Teller;
use self::writer::Writer;
use crate::backoff::luck;
use crate::model::{ObjectKey, Snapshot};
use crate::objects::{FIELD_MANAGER, Ingress, Objects};
use crate::translate::{self, CONTROLLER};

pub use self::addresses::{Address, BadAddress, Publish};
pub use self::lease::Timing;
pub use self::pace::Pace;
pub use self::report::{Report, Reporter};
pub use crate::backoff::Backoff;

/// How status is written. The defaults suit clusters of any size.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Lease that its holder leads by. The Leases of the daemons are in its namespace too.
    pub lease: ObjectKey,
    /// The name of this process and no other; a DNS label or several: see [`identity`].
    pub identity: String,
    /// What Ingresses are said to be reached at.
    pub publish: Publish,
    /// How long things take in the election.
    pub timing: Timing,
    /// How often each daemon says that it is there.
    pub member_renew: Duration,
    /// A daemon that was silent for so long is gone.
    pub member_duration: Duration,
    /// How long an answer may take; see [`Timing`].
    pub answer: Duration,
    /// How often statuses may be written.
    pub writes: Pace,
    /// How many may be under way at the same time.
    pub concurrency: usize,
    /// How often Events may be told.
    pub events: Pace,
    /// What goes on being wrong is told again after so long. The API keeps Events for an hour, usually.
    pub again: Duration,
    /// Changes of one Ingress are told at most this often.
    pub synced_again: Duration,
    /// The waits after failures.
    pub backoff: Backoff,
    /// Changes that come within so long of each other are looked at once.
    pub settle: Duration,
}

impl Settings {
    /// The defaults, with what has none.
    pub fn new(lease: ObjectKey, identity: String, publish: Publish) -> Self {
        Self {
            lease,
            identity,
            publish,
            timing: Timing::default(),
            member_renew: Duration::from_secs(20),
            member_duration: Duration::from_secs(60),
            answer: Duration::from_secs(5),
            writes: Pace { per_second: 50.0, burst: 100 },
            concurrency: 8,
            events: Pace { per_second: 5.0, burst: 50 },
            again: Duration::from_secs(3600),
            synced_again: Duration::from_secs(30),
            backoff: Backoff { min: Duration::from_millis(200), max: Duration::from_secs(60) },
            settle: Duration::from_millis(250),
        }
    }
}

/// A name for this process: the host's, cut to what a Lease's name can take, and something random,
/// since two daemons share a host while one takes over from the other.
pub fn identity(hostname: &str) -> String {
    let host: String = hostname
        .chars()
        .take(63)
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let host = host.trim_matches('-');
    let random = (luck() * f64::from(u32::MAX)) as u32;
    format!("{}-{random:08x}", if host.is_empty() { "sluice" } else { host })
}

/// What is served now.
#[derive(Clone, Debug)]
pub struct Served {
    /// The objects.
    pub objects: Arc<Objects>,
    /// What they were translated to.
    pub snapshot: Arc<Snapshot>,
    /// By which settings.
    pub translation: Arc<translate::Settings>,
    /// Others are to take over: this node's addresses are not published.
    pub resting: bool,
}

/// What is served, and which of the Ingresses are ours.
#[derive(Debug)]
struct View {
    objects: Arc<Objects>,
    snapshot: Arc<Snapshot>,
    resting: bool,
    owned: Arc<BTreeSet<ObjectKey>>,
    /// The Services in forward mode whose status is ours to write, and what it shall say.
    balanced: Arc<BTreeMap<ObjectKey, Addresses>>,
}

impl View {
    /// The Ingresses that are ours.
    fn ours(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<Ingress>)> {
        self.owned.iter().filter_map(|key| self.objects.ingresses.get_key_value(key))
    }
}

/// Stands for election, and as leader writes status and Events, until the sender of `updates` is
/// dropped. Then it lets what is under way come to its end and lets go of the Lease, which takes
/// about as long as the API takes to answer; it may also be aborted at any time.
///
/// Does not stand before the first update: who has nothing to say does not lead. Needs the verbs `patch`
/// on `ingresses/status` and `services/status`, `create` and `patch` on `events.k8s.io` Events, and in its own namespace
/// `get`, `list`, `create`, `update` and `delete` on Leases.
pub async fn run(
    client: Client,
    settings: Settings,
    mut updates: watch::Receiver<Option<Served>>,
    reporter: Reporter,
) {
    if updates.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let (sender, views) = watch::channel(None);
    let (elector, leadership) = Elector::new(client.clone(), &settings, reporter.clone());
    let parts = || (client.clone(), settings.clone(), leadership.clone(), reporter.clone());
    let (client_, settings_, leadership_, reporter_) = parts();
    let (membership, nodes) = Membership::new(client_, settings_, leadership_, reporter_);
    let (client_, settings_, leadership_, reporter_) = parts();
    let writer = Writer::new(client_, settings_, leadership_, reporter_);
    let (client_, settings_, leadership_, reporter_) = parts();
    let teller = Teller::new(client_, settings_, leadership_, reporter_);

    let (done, all_done) = oneshot::channel::<()>();
    let work = async {
        let members = async {
            if settings.publish == Publish::Nodes {
                membership.run(views.clone()).await;
            }
        };
        tokio::join!(
            look(updates, sender, settings.settle),
            members,
            writer.run(views.clone(), nodes),
            teller.run(views.clone())
        );
        drop(done);
    };
    let ended = async { drop(all_done.await) };
    tokio::join!(work, elector.run(ended));
}

/// Finds out what is ours, whenever something has changed.
async fn look(
    mut updates: watch::Receiver<Option<Served>>,
    views: watch::Sender<Option<Arc<View>>>,
    settle: Duration,
) {
    let mut known: Option<(Served, Arc<View>)> = None;
    loop {
        let served = updates.borrow_and_update().clone();
        if let Some(served) = served {
            // Endpoints come and go far more often than Ingresses, classes and Services.
            let before = known.as_ref();
            let owned = match before.filter(|(before, _)| same_claims(before, &served)) {
                Some((_, view)) => Arc::clone(&view.owned),
                None => Arc::new(translate::owned(&served.objects, &served.translation)),
            };
            let balanced = match before.filter(|(before, _)| same_balanced(before, &served)) {
                Some((_, view)) => Arc::clone(&view.balanced),
                None => Arc::new(balanced(&served)),
            };
            let (objects, snapshot) = (served.objects.clone(), served.snapshot.clone());
            let view = Arc::new(View { objects, snapshot, resting: served.resting, owned, balanced });
            views.send_replace(Some(Arc::clone(&view)));
            known = Some((served, view));
        }
        if updates.changed().await.is_err() {
            return;
        }
        sleep(settle).await;
    }
}

/// Whether the same Ingresses are ours, for certain.
fn same_claims(a: &Served, b: &Served) -> bool {
    a.objects.ingresses.ptr_eq(&b.objects.ingresses)
        && a.objects.classes.ptr_eq(&b.objects.classes)
        && Arc::ptr_eq(&a.translation, &b.translation)
}

/// Whether the same Services say the same, for certain.
fn same_balanced(a: &Served, b: &Served) -> bool {
    a.objects.services.ptr_eq(&b.objects.services) && Arc::ptr_eq(&a.snapshot.services, &b.snapshot.services)
}

fn balanced(served: &Served) -> BTreeMap<ObjectKey, Addresses> {
    let published = translate::published(&served.objects, &served.snapshot.services).into_iter();
    published.map(|(key, ips)| (key, Arc::new(ips.into_iter().map(Address::Ip).collect()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_names_and_differ() {
        for (host, expect) in [
            ("node-1", "node-1-"),
            ("Node_1.example.com", "node-1-example-com-"),
            ("", "sluice-"),
            ("-…-", "sluice-"),
            (&"x".repeat(300), &format!("{}-", "x".repeat(63))),
        ] {
            let name = identity(host);
            let random = name.strip_prefix(expect).unwrap_or_else(|| panic!("{host}: {name}"));
            assert!(random.len() == 8 && random.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
            assert_ne!(name, identity(host));
        }
    }
}
