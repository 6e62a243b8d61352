//! Background load: a constant rate over all hosts, every answer checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::random::Random;
use crate::world::{World, host_name};

/// Clients, each with a connection of its own.
const CLIENTS: u32 = 8;

/// The counters of a load.
#[derive(Default)]
pub struct Counts {
    /// Requests.
    pub requests: AtomicU64,
    /// Answers other than 200, and connections that broke.
    pub errors: AtomicU64,
    /// Answers by an endpoint of another Service.
    pub misrouted: AtomicU64,
    stop: AtomicBool,
}

/// A load that is running.
pub struct Load {
    /// What happened so far.
    pub counts: Arc<Counts>,
    threads: Vec<JoinHandle<Vec<f64>>>,
}

impl Load {
    /// Starts `rate` requests a second to the first `hosts` hosts.
    pub fn start(world: Arc<World>, port: u16, hosts: u32, rate: u32) -> Self {
        let counts = Arc::new(Counts::default());
        let threads = (0..CLIENTS)
            .map(|client| {
                let (world, counts) = (world.clone(), counts.clone());
                std::thread::spawn(move || run(&world, &counts, port, hosts, rate, client))
            })
            .collect();
        Self { counts, threads }
    }

    /// Ends it; gives the time of each request in milliseconds.
    pub fn stop(self) -> Vec<f64> {
        self.counts.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect()
    }
}

fn run(world: &World, counts: &Counts, port: u16, hosts: u32, rate: u32, client: u32) -> Vec<f64> {
    let mut random = Random::new(u64::from(client) + 1);
    let mut connection = Client::new(port);
    let pause = Duration::from_secs(1) * CLIENTS / rate;
    // Clients start apart, or they would all ask in the same moment.
    let mut due = Instant::now() + pause * client / CLIENTS;
    let mut times = Vec::new();
    while !counts.stop.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += pause;
        let host = random.below(hosts);
        let began = Instant::now();
        let answer = connection.get(&host_name(host), "/");
        times.push(began.elapsed().as_secs_f64() * 1e3);
        counts.requests.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(answer) if answer.status == 200 => {
                let service = answer.endpoint.and_then(|address| world.service_of(address));
                if service.is_none_or(|service| !world.leads_to(host, service)) {
                    counts.misrouted.fetch_add(1, Ordering::Relaxed);
                }
            }
            other => {
                if counts.errors.fetch_add(1, Ordering::Relaxed) < 5 {
                    eprintln!("error for {}: {other:?}", host_name(host));
                }
            }
        }
    }
    times
}
