//! What clients notice of rolling updates: `cargo xtask bench rollout`. Nothing, it should be. And what the
//! daemon looks like after hours of it, with guests of every kind: `cargo xtask soak`.
//!
//! Three Services (HTTP/1.1, HTTP/2, WebSocket) whose pods are replaced one after the other, and now
//! and then all at once, while clients send requests at a constant rate and check every answer. The
//! API server, the pods and the clients are this process, the daemon is another one. The method is
//! in bench/README.md.

mod clients;
mod cluster;
mod deployment;
mod guests;
mod http1;
mod http2;
mod pod;
mod soak;
mod websocket;

#[allow(dead_code, reason = "tests use other parts of the server")]
#[path = "../../tests/support/api_server/mod.rs"]
mod api_server;
#[allow(dead_code, reason = "the churn benchmark uses other parts")]
#[path = "../churn/client.rs"]
mod client;
#[allow(dead_code, reason = "the churn benchmark uses other parts")]
#[path = "../churn/daemon.rs"]
mod daemon;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Parser;

use api_server::ApiServer;
use clients::{Tally, Ways};
use cluster::{Cluster, Kind};
use daemon::Daemon;
use soak::Watch;
use xtask::lab::tls::Authority;

/// Requests that rolling updates cost.
#[derive(Parser)]
struct Options {
    /// So many seconds instead, with guests of every kind, edits of routes, TLS, and an eye on memory.
    #[arg(long, value_name = "SECONDS", conflicts_with = "requests")]
    soak: Option<u64>,
    /// Requests in all; WebSocket messages come on top.
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
    /// Requests a second.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Milliseconds from one replaced pod of a Service to the next.
    #[arg(long, default_value_t = 500)]
    every: u64,
    /// Pods of each Service.
    #[arg(long, default_value_t = 6)]
    pods: usize,
    /// Show the daemon's log at the end: a level, or directives like sluice=debug.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long the end may take.
const LATEST: Duration = Duration::from_secs(45);

fn main() {
    let options = Options::parse();
    let server = Arc::new(api_server());
    let hosts = Kind::ALL.map(Kind::host);
    let authority = Authority::new().expect("an authority");
    let issued = authority.issue(&hosts.each_ref().map(String::as_str)).expect("a certificate");
    let cluster = Cluster::new(server.clone(), options.pods, &issued);
    let deployments: Vec<_> = Kind::ALL
        .map(|kind| deployment::start(cluster.clone(), kind, Duration::from_millis(options.every)))
        .into();
    let daemon = Daemon::start(&server.kubeconfig(), options.log.as_deref().unwrap_or("warn"));
    let wanted = options.soak.map_or(options.requests, |_| u64::MAX);
    match options.soak {
        Some(seconds) => println!("the daemon is ready; {seconds} s at {} requests a second", options.rate),
        None => println!("the daemon is ready; {wanted} requests at {} a second", options.rate),
    }

    let tally = Arc::new(Tally::new(wanted));
    let began = Instant::now();
    let ways = Ways { http: daemon.http, https: daemon.https, tls: authority.client(&["http/1.1"]) };
    let load = clients::start(tally.clone(), ways, options.rate, options.soak.is_some());
    let mut watch = Watch::default();
    let mut edits = 0;
    for deployment in &deployments {
        deployment.begin();
    }
    let mut said = Instant::now();
    let mut in_time = true;
    while !load.is_finished() && in_time {
        std::thread::sleep(Duration::from_millis(200));
        // Clients give up by themselves before.
        in_time = tally.since_end().is_none_or(|late| late < LATEST);
        if let Some(seconds) = options.soak {
            watch.look(&daemon);
            edits += 1;
            soak::edit(&server, edits);
            if began.elapsed() >= Duration::from_secs(seconds) {
                tally.end();
            }
        }
        if said.elapsed() > Duration::from_secs(30) {
            said = Instant::now();
            println!("{:>5} s: {}", began.elapsed().as_secs(), tally.line());
        }
    }
    if in_time {
        load.join().expect("the clients");
    } else {
        tally.fail("clients", "they do not end".to_owned());
    }
    let replaced: u64 = deployments.iter().map(|one| one.replaced.load(Ordering::Relaxed)).sum();
    let log = daemon.log();
    if options.log.is_some() {
        eprintln!("{log}");
    }
    println!("{} s, {replaced} pods replaced: {}", began.elapsed().as_secs(), tally.line());
    println!("what the daemon's counters say: {}", daemon_counters(&daemon));
    let mut good = tally.failed.load(Ordering::Relaxed) == 0;
    if options.soak.is_some() {
        println!("{edits} edits of routes, {} visits of guests", guests::VISITS.load(Ordering::Relaxed));
        good &= watch.verdict();
        if log.contains("panicked") {
            println!("something panicked:\n{log}");
            good = false;
        }
    }
    println!("{}", if good { "good" } else { "NOT good" });
    // Ends it: nothing is dropped at an exit.
    drop(daemon);
    if !good {
        std::process::exit(1);
    }
}

/// The counters that tell how much the proxy had to mend.
fn daemon_counters(daemon: &Daemon) -> String {
    let text = daemon.metrics();
    let sum = |name: &str| -> f64 {
        let rows = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        rows.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    ["connects", "reuses", "failures", "retries"]
        .map(|name| format!("{} {name}", sum(&format!("sluice_proxy_upstream_{name}_total"))))
        .join(", ")
}

/// A server on a runtime of its own, which lasts as long as the process.
fn api_server() -> ApiServer {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            sender.send(ApiServer::start().await).expect("somebody waits");
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().expect("a server")
}
