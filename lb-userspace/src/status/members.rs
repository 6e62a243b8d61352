//! Which nodes run Sluice, and at which addresses: so that the leader can publish all of them.
//!
//! Each daemon keeps a Lease of its own beside the leader's, with its addresses as an annotation.
//! The leader lists them. A Lease that was not seen to change for as long as it lasts belongs to a
//! daemon that is gone: its addresses are no longer published, and the leader removes it. A daemon
//! that ends leaves its Lease to run out, so that one that is replaced on the same node leaves no
//! gap. Only silence that was watched counts: a new leader, or one that could not reach the API for
//! a while (when nobody else could, either), takes every Lease for alive until its time is over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::addresses::{Address, Addresses, of_listeners, primary};
use super::elector::Leadership;
use super::lease::{lasts, seconds};
use super::report::Reporter;
use super::request::{Failure, in_time};
use super::{FIELD_MANAGER, Settings, View};
use crate::backoff::{Backoff, luck};

/// The label that the Leases of daemons are listed by.
const LABEL: (&str, &str) = ("sluice.dev/lease", "member");
/// Which election a daemon belongs to: the name of the leader's Lease.
const OF: &str = "sluice.dev/member-of";
/// A daemon's addresses, separated by commas.
const ADDRESSES: &str = "sluice.dev/addresses";
/// No node has more; what an annotation says beyond is not read.
const MOST_ADDRESSES: usize = 64;

/// Who is there, as the leader has seen it.
#[derive(Debug, Default)]
pub struct Roster {
    members: BTreeMap<String, Member>,
    /// When it looked last.
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Member {
    spec: Option<LeaseSpec>,
    version: Option<String>,
    addresses: BTreeSet<IpAddr>,
    /// When its Lease was first seen to say what it says.
    since: Instant,
    lasts: Duration,
}

impl Roster {
    /// Takes in the list of Leases as it is now; those that are no daemon's of the election `of` are passed over.
    pub fn observe(&mut self, of: &str, leases: Vec<Lease>, otherwise: Duration, now: Instant) {
        let looked = self.looked.replace(now);
        let watched = looked.is_some_and(|looked| now - looked <= otherwise / 2);
        let mut known = std::mem::take(&mut self.members);
        for lease in leases.into_iter().filter(|lease| lease.annotations().get(OF).is_some_and(|o| o == of)) {
            let name = lease.name_any();
            let since = match known.remove(&name) {
                Some(member) if watched && member.spec == lease.spec => member.since,
                _ => now,
            };
            let text = lease.annotations().get(ADDRESSES).map(String::as_str).unwrap_or_default();
            let addresses = text.split(',').take(MOST_ADDRESSES).filter_map(|ip| ip.parse().ok()).collect();
            let lasts = lasts(&lease, otherwise);
            let version = lease.resource_version();
            self.members.insert(name, Member { spec: lease.spec, version, addresses, since, lasts });
        }
    }

    /// The addresses of all that are alive.
    pub fn addresses(&self, now: Instant) -> BTreeSet<IpAddr> {
        let alive = self.members.values().filter(|member| member.alive(now));
        alive.flat_map(|member| member.addresses.iter().copied()).collect()
    }

    /// The Leases of those that are gone: name and version.
    pub fn gone(&self, now: Instant) -> Vec<(String, Option<String>)> {
        let gone = self.members.iter().filter(|(_, member)| !member.alive(now));
        gone.map(|(name, member)| (name.clone(), member.version.clone())).collect()
    }
}

impl Member {
    fn alive(&self, now: Instant) -> bool {
        now < self.since + self.lasts
    }
}

/// Keeps this daemon's Lease, and as leader the roster.
pub struct Membership {
    api: Api<Lease>,
    settings: Settings,
    leadership: Leadership,
    reporter: Reporter,
    own: Option<Lease>,
    roster: Roster,
    desired: watch::Sender<Option<Addresses>>,
}

impl Membership {
    /// A member that has not told anybody yet, and what it finds out as leader.
    pub fn new(
        client: kube::Client,
        settings: Settings,
        leadership: Leadership,
        reporter: Reporter,
    ) -> (Self, watch::Receiver<Option<Addresses>>) {
        let (desired, receiver) = watch::channel(None);
        let api = Api::namespaced(client, &settings.lease.namespace);
        let roster = Roster::default();
        (Self { api, settings, leadership, reporter, own: None, roster, desired }, receiver)
    }

    /// Runs until there are no more views.
    pub async fn run(mut self, mut views: watch::Receiver<Option<Arc<View>>>) {
        let mut failures: u32 = 0;
        let mut led = false;
        loop {
            let addresses = addresses(views.borrow_and_update().as_deref());
            let wait = match self.round(&addresses).await {
                Ok(()) => {
                    failures = 0;
                    self.settings.member_renew.mul_f64(0.75 + 0.5 * luck())
                }
                Err(failure) => {
                    failures = failures.saturating_add(1);
                    self.reporter.failed(format!("the Leases of the nodes: {failure}"));
                    let max = self.settings.member_renew;
                    Backoff { min: self.settings.backoff.min, max }.wait(failures, luck())
                }
            };
            // Waits for its time, for other addresses, or for becoming leader.
            let mut pause = std::pin::pin!(sleep(wait));
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    changed = views.changed() => match changed {
                        Ok(()) if self::addresses(views.borrow_and_update().as_deref()) != addresses => break,
                        Ok(()) => {}
                        Err(_) => return,
                    },
                    () = self.leadership.changed() => {
                        let leads = self.leadership.holds();
                        if std::mem::replace(&mut led, leads) != leads { break }
                    }
                }
            }
        }
    }

    async fn round(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), Failure> {
        self.tell(addresses).await?;
        if !self.leadership.holds() {
            self.desired.send_replace(None);
            return Ok(());
        }
        let params = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
        let leases = in_time(self.settings.answer, self.api.list(&params)).await?.items;
        let now = Instant::now();
        self.roster.observe(&self.settings.lease.name, leases, self.settings.member_duration, now);
        let mut all = self.roster.addresses(now);
        all.extend(addresses);
        let desired = Arc::new(all.into_iter().map(Address::Ip).collect::<BTreeSet<_>>());
        self.desired.send_if_modified(|known| {
            let differs = known.as_ref() != Some(&desired);
            if differs {
                *known = Some(desired);
            }
            differs
        });
        for (name, version) in self.roster.gone(now) {
            if !self.leadership.holds() {
                break;
            }
            let preconditions = Preconditions { resource_version: version, ..Preconditions::default() };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match in_time(self.settings.answer, self.api.delete(&name, &params)).await {
                // A conflict: it is back. The next list shows it.
                Ok(_) | Err(Failure::NotFound(_) | Failure::Conflict) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Says that this daemon is there, and where.
    async fn tell(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), Failure> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let lease = member_lease(&self.settings, addresses, self.own.take(), Timestamp::now());
        let name = lease.name_any();
        let limit = self.settings.answer;
        let written = match lease.resource_version() {
            None => in_time(limit, self.api.create(&params, &lease)).await,
            Some(_) => in_time(limit, self.api.replace(&name, &params, &lease)).await,
        };
        match written {
            Ok(written) => self.own = Some(written),
            // Somebody removed it, or an answer to an earlier request was lost: from what is there now.
            Err(Failure::Conflict | Failure::Exists | Failure::NotFound(_)) => {
                self.own = in_time(limit, self.api.get_opt(&name)).await?;
                if self.own.is_none() && lease.resource_version().is_none() {
                    return Err(Failure::NotFound(format!("no namespace {}", self.settings.lease.namespace)));
                }
                return Err(Failure::Conflict);
            }
            Err(failure) => {
                self.own = lease.resource_version().is_some().then_some(lease);
                return Err(failure);
            }
        }
        Ok(())
    }
}

/// Where this daemon is reached; nowhere while others are to take over.
fn addresses(view: Option<&View>) -> BTreeSet<IpAddr> {
    let view = view.filter(|view| !view.resting);
    view.map(|view| of_listeners(&view.snapshot.listeners, primary)).unwrap_or_default()
}

/// The Lease that says where a daemon is; over the one that it has written before.
fn member_lease(
    settings: &Settings,
    addresses: &BTreeSet<IpAddr>,
    before: Option<Lease>,
    wall: Timestamp,
) -> Lease {
    let mut lease = before.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", settings.lease.name, settings.identity)),
            ..ObjectMeta::default()
        },
        ..Lease::default()
    });
    lease.labels_mut().insert(LABEL.0.to_owned(), LABEL.1.to_owned());
    let texts: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    lease.annotations_mut().insert(OF.to_owned(), settings.lease.name.to_string());
    lease.annotations_mut().insert(ADDRESSES.to_owned(), texts.join(","));
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(settings.identity.clone()),
        lease_duration_seconds: Some(seconds(settings.member_duration)),
        renew_time: Some(MicroTime(wall)),
        ..LeaseSpec::default()
    });
    lease
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectKey;
    use crate::status::Publish;

    const LASTS: Duration = Duration::from_secs(60);

    fn settings(identity: &str) -> Settings {
        let lease = ObjectKey::new("sluice-system", "sluice");
        Settings::new(lease, identity.to_owned(), Publish::Nodes)
    }

    fn member(identity: &str, addresses: &[&str], renewed: i64) -> Lease {
        let addresses = addresses.iter().map(|a| a.parse().expect("an address")).collect();
        let wall = Timestamp::from_second(renewed).expect("a time");
        member_lease(&settings(identity), &addresses, None, wall)
    }

    fn texts(addresses: &BTreeSet<IpAddr>) -> Vec<String> {
        addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn the_silent_are_gone_after_their_time() {
        let start = Instant::now();
        let mut roster = Roster::default();
        // At which second which Leases are listed, and whose addresses count then.
        for (second, leases, expect, gone) in [
            (
                0,
                vec![member("a", &["192.0.2.1", "2001:db8::1"], 0), member("b", &["192.0.2.2"], 0)],
                vec!["192.0.2.1", "192.0.2.2", "2001:db8::1"],
                vec![],
            ),
            (
                30,
                vec![member("a", &["192.0.2.1"], 30), member("b", &["192.0.2.2"], 0)],
                vec!["192.0.2.1", "192.0.2.2"],
                vec![],
            ),
            // Its clock is an hour behind; nobody minds.
            (
                59,
                vec![member("a", &["192.0.2.1"], -3600), member("b", &["192.0.2.2"], 0)],
                vec!["192.0.2.1", "192.0.2.2"],
                vec![],
            ),
            (
                60,
                vec![member("a", &["192.0.2.1"], 60), member("b", &["192.0.2.2"], 0)],
                vec!["192.0.2.1"],
                vec!["sluice-b"],
            ),
            (61, vec![member("a", &["192.0.2.1"], 60)], vec!["192.0.2.1"], vec![]),
            // Back again, at another address.
            (
                70,
                vec![member("a", &["192.0.2.1"], 60), member("b", &["192.0.2.3"], 70)],
                vec!["192.0.2.1", "192.0.2.3"],
                vec![],
            ),
            (130, vec![], vec![], vec![]),
        ] {
            let now = start + Duration::from_secs(second);
            roster.observe("sluice", leases, LASTS, now);
            assert_eq!(texts(&roster.addresses(now)), expect, "second {second}");
            assert_eq!(
                roster.gone(now).into_iter().map(|(name, _)| name).collect::<Vec<_>>(),
                gone,
                "second {second}"
            );
        }
    }

    #[test]
    fn silence_counts_only_while_somebody_listens() {
        let start = Instant::now();
        let mut roster = Roster::default();
        for (second, alive) in
            [(0, true), (30, true), (59, true), (150, true), (180, true), (209, true), (210, false)]
        {
            let now = start + Duration::from_secs(second);
            roster.observe("sluice", vec![member("a", &["192.0.2.1"], 0)], LASTS, now);
            assert_eq!(roster.addresses(now).len(), usize::from(alive), "second {second}");
        }
    }

    #[test]
    fn what_is_no_member_is_passed_over() {
        let now = Instant::now();
        let mut roster = Roster::default();
        let mut odd = member("c", &[], 0);
        odd.annotations_mut().insert(ADDRESSES.to_owned(), "x,,192.0.2.9,300.1.1.1".to_owned());
        let many = (0..1000).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect::<Vec<_>>().join(",");
        let mut large = member("d", &[], 0);
        large.annotations_mut().insert(ADDRESSES.to_owned(), many);
        roster.observe("sluice", vec![Lease::default(), odd.clone()], LASTS, now);
        assert_eq!(texts(&roster.addresses(now)), ["192.0.2.9"]);
        roster.observe("sluice-b", vec![odd], LASTS, now);
        assert!(roster.addresses(now).is_empty(), "of another election");
        roster.observe("sluice", vec![large], LASTS, now);
        assert_eq!(roster.addresses(now).len(), MOST_ADDRESSES);
    }

    #[test]
    fn a_lease_is_kept_but_for_what_is_said() {
        let mut before = member("a", &["192.0.2.1"], 0);
        before.metadata.resource_version = Some("7".to_owned());
        before.labels_mut().insert("kept".to_owned(), "yes".to_owned());
        let wall = Timestamp::from_second(9).expect("a time");
        let after = member_lease(&settings("a"), &BTreeSet::new(), Some(before), wall);
        assert_eq!((after.name_any().as_str(), after.resource_version().as_deref()), ("sluice-a", Some("7")));
        assert_eq!(after.labels().len(), 2);
        assert_eq!(after.annotations()[ADDRESSES], "");
        assert_eq!(after.spec.and_then(|spec| spec.lease_duration_seconds), Some(60));
    }
}
