//! Nanoseconds per route lookup, over tables of very different size.

use std::hint::black_box;
use std::time::Instant;

use serde::Serialize;
use sluice::model::Snapshot;
use sluice::objects::{Objects, parse};
use sluice::route::RouteTable;
use sluice::translate::{Settings, translate};

use crate::random::Random;
use crate::world::{class, host_name, ingress, service};

/// Rounds over all cases, interleaved so that a slow moment of the machine hits every case alike.
const ROUNDS: usize = 61;
/// Lookups of one measurement.
const LOOKUPS: usize = 50_000;

/// One row of the table.
#[derive(Serialize)]
pub struct Line {
    /// Hosts of the table.
    pub hosts: u32,
    /// Which hosts are asked for.
    pub asked: &'static str,
    /// Nanoseconds per lookup, the median over the rounds.
    pub median_ns: f64,
    /// The best round.
    pub least_ns: f64,
    /// The median compared with that of a table of one host, asked the same way.
    pub ratio: f64,
}

struct Case {
    hosts: u32,
    asked: &'static str,
    table: usize,
    /// Every request has its own copy of its host's name, so that reading them costs every case the same.
    requests: Vec<String>,
    times: Vec<f64>,
}

/// Measures.
pub fn measure() -> Vec<Line> {
    let sizes = [1, 5_000, 50_000];
    let tables: Vec<RouteTable> = sizes.into_iter().map(table).collect();
    let mut cases = Vec::new();
    for (asked, hot) in [("one host", 1), ("64 hosts", 64), ("all hosts", u32::MAX)] {
        for (table, hosts) in sizes.into_iter().enumerate() {
            let mut random = Random::new(7);
            let hot: Vec<u32> = (0..hot.min(hosts)).map(|_| random.below(hosts)).collect();
            let some = |random: &mut Random| match asked {
                "all hosts" => random.below(hosts),
                _ => hot[random.below(hot.len() as u32) as usize],
            };
            let requests = (0..LOOKUPS).map(|_| host_name(some(&mut random))).collect();
            cases.push(Case { hosts, asked, table, requests, times: Vec::new() });
        }
    }
    for _ in 0..ROUNDS {
        for case in &mut cases {
            let table = &tables[case.table];
            let began = Instant::now();
            for host in &case.requests {
                let found = table.find(Some(black_box(host)), "/api/v1/items");
                black_box(found.expect("every host has a route").route.path.text().len());
            }
            case.times.push(began.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64);
        }
    }
    let medians: Vec<_> = cases
        .iter_mut()
        .map(|case| {
            case.times.sort_by(f64::total_cmp);
            (case.times[ROUNDS / 2], case.times[0])
        })
        .collect();
    let lines = cases.iter().enumerate().map(|(at, case)| {
        let (median_ns, least_ns) = medians[at];
        let ratio = median_ns / medians[at / sizes.len() * sizes.len()].0;
        Line { hosts: case.hosts, asked: case.asked, median_ns, least_ns, ratio }
    });
    lines.collect()
}

/// A table as the daemon builds it from Ingresses.
fn table(hosts: u32) -> RouteTable {
    let mut objects = Objects::default();
    let paths = |host| ["/", "/api", "/static/images"].map(|path| (path.to_owned(), host)).to_vec();
    let all = (0..hosts).flat_map(|host| [service(host), ingress(host, &paths(host))]);
    for document in all.chain([class()]) {
        for object in parse(document, "benchmark").objects {
            objects.insert(object);
        }
    }
    let snapshot = translate(&objects, &Settings::default(), &[], 0, &Snapshot::empty());
    assert_eq!(snapshot.routing.hosts.len(), hosts as usize, "every Ingress is served");
    RouteTable::build(&snapshot.routing)
}
