//! What idle connections and many hosts cost.

use std::time::Duration;

use serde::Serialize;

use crate::client::Protocol;
use crate::peers::{Kind, Peer, Plan};
use crate::rig::{Load, Rig};
use crate::scenario::Scenario;
use crate::{tls, usage};

const PORTS: (u16, u16) = (19_180, 19_181);

/// How often each is started with many hosts.
const STARTS: usize = 3;

/// Memory of one proxy with idle keep-alive connections, in MB.
#[derive(Serialize)]
pub struct Idle {
    pub peer: &'static str,
    pub connections: usize,
    pub before_mb: f64,
    /// What plain connections add.
    pub plain_mb: f64,
    /// What TLS connections add, in a process of its own.
    pub tls_mb: f64,
}

/// One proxy with many hosts.
#[derive(Serialize)]
pub struct Hosts {
    pub peer: &'static str,
    pub hosts: usize,
    /// Median of [`STARTS`].
    pub ready_s: f64,
    pub memory_mb: f64,
    /// CPU time of a request with many hosts, as a multiple of what it takes with one.
    pub cost: f64,
}

impl Idle {
    pub fn measure(connections: usize, kinds: &[Kind], plan: &Plan<'_>, rig: &mut Rig) -> Vec<Self> {
        let kinds = kinds.iter().filter(|_| connections > 0);
        let one = |kind: Kind, secure: bool, rig: &mut Rig| {
            let peer = Peer::start(kind, plan, rig, PORTS)?;
            let said = |error: std::io::Error| error.to_string();
            rig.rest(Duration::from_millis(500)).map_err(said)?;
            let before = usage::memory_mb(peer.pid());
            let load = Load {
                port: if secure { peer.https } else { peer.http },
                tls: secure.then(|| tls::client("http/1.1", false)),
                protocol: Protocol::Http1,
                size: 128,
                hosts: plan.hosts,
                connections,
                fresh: false,
                rate: None,
            };
            let clients = rig.open(&load, Duration::from_secs(20)).map_err(said)?;
            rig.rest(Duration::from_secs(2)).map_err(said)?;
            let after = usage::memory_mb(peer.pid());
            drop(clients);
            Ok::<_, String>((before, after - before))
        };
        let both = |kind: Kind, rig: &mut Rig| {
            let (before_mb, plain_mb) = one(kind, false, rig)?;
            let (_, tls_mb) = one(kind, true, rig)?;
            Ok::<_, String>(Self { peer: kind.name(), connections, before_mb, plain_mb, tls_mb })
        };
        kinds
            .filter_map(|kind| both(*kind, rig).inspect_err(|why| eprintln!("bench l7: idle: {why}")).ok())
            .collect()
    }
}

impl Hosts {
    pub fn measure<'a>(
        hosts: usize,
        kinds: &[Kind],
        plan: &impl Fn(usize) -> Plan<'a>,
        rig: &mut Rig,
    ) -> Vec<Self> {
        let kinds = kinds.iter().filter(|_| hosts > 0);
        let measure = |kind: Kind, rig: &mut Rig| {
            let mut ready = [Duration::ZERO; STARTS];
            for time in &mut ready[1..] {
                *time = Peer::start(kind, &plan(hosts), rig, PORTS)?.ready;
            }
            let many = Peer::start(kind, &plan(hosts), rig, PORTS)?;
            ready[0] = many.ready;
            ready.sort();
            rig.rest(Duration::from_secs(3)).map_err(|error| error.to_string())?;
            let memory_mb = usage::memory_mb(many.pid());
            let one = Peer::start(kind, &plan(1), rig, (PORTS.0 + 4, PORTS.1 + 4))?;
            let mut ratios = Vec::new();
            for _ in 0..5 {
                let mut cost = |peer, hosts| {
                    let time = Duration::from_millis(500);
                    let sample = Scenario::H1.sample(peer, hosts, rig, time, None);
                    sample.map(|sample| sample.cpu_us).map_err(|error| error.to_string())
                };
                ratios.push(cost(&many, hosts)? / cost(&one, 1)?);
            }
            ratios.sort_by(f64::total_cmp);
            let ready_s = ready[STARTS / 2].as_secs_f64();
            Ok::<_, String>(Self { peer: kind.name(), hosts, ready_s, memory_mb, cost: ratios[2] })
        };
        kinds
            .filter_map(|kind| {
                measure(*kind, rig).inspect_err(|why| eprintln!("bench l7: hosts: {why}")).ok()
            })
            .collect()
    }
}
