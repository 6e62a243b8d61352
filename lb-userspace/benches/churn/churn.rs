//! The churn itself: edits of routes and changes of endpoints, each written to the API server at
//! its time, and those that are watched asked for until an answer shows them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api_server::ApiServer;
use crate::client::{Answer, Client};
use crate::random::Random;
use crate::world::{ENDPOINTS, World, host_name, ingress};

/// One in so many changes of endpoints is asked for.
const SAMPLE: u32 = 20;
/// A change that can't be seen for so long counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the churn is made of.
#[derive(Clone)]
pub struct Churn {
    /// The cluster's state.
    pub world: Arc<World>,
    /// Where changes are written to.
    pub server: Arc<ApiServer>,
    /// The daemon's port.
    pub port: u16,
    /// Hosts, and Services.
    pub hosts: u32,
    /// How long all of it takes.
    pub time: Duration,
}

/// What became of the changes that were asked for.
#[derive(Default)]
pub struct Seen {
    /// From writing to the first answer that shows it, in milliseconds.
    pub delays: Vec<f64>,
    /// Requests that it took to see them.
    pub polls: u64,
    /// The time that polling took, in milliseconds.
    pub polling: f64,
    /// Never seen.
    pub lost: u64,
}

impl Churn {
    /// Edits routes of the upper half of hosts, one after the other: a path moves to another
    /// Service, a path is added, a host is added, and both go away again.
    pub fn edit_routes(&self, edits: u32) -> Seen {
        let (mut random, mut client, mut seen) = (Random::new(11), Client::new(self.port), Seen::default());
        let mut host = 0;
        let mut own = 0;
        self.on_schedule(edits, |edit| match edit % 4 {
            0 => {
                host = self.hosts / 2 + random.below(self.hosts / 2);
                own = self.neighbour(&mut random, host, own);
                while self.world.leads_to(host, own) {
                    own = self.neighbour(&mut random, host, own);
                }
                self.world.route(host, own);
                let object = ingress(host, &[("/".into(), own)]);
                self.until(&mut client, &mut seen, object, &host_name(host), "/", |a| self.from(a, own));
            }
            1 => {
                let (path, to) = (format!("/v{edit}"), self.neighbour(&mut random, host, own));
                let object = ingress(host, &[("/".into(), own), (path.clone(), to)]);
                self.until(&mut client, &mut seen, object, &host_name(host), &path, |a| self.from(a, to));
            }
            2 => {
                let mut object = ingress(host, &[("/".into(), own)]);
                let mut rule = object["spec"]["rules"][0].clone();
                let name = format!("new-{}", host_name(host));
                rule["host"] = name.as_str().into();
                object["spec"]["rules"].as_array_mut().expect("rules").push(rule);
                self.until(&mut client, &mut seen, object, &name, "/x", |a| self.from(a, own));
            }
            _ => {
                let object = ingress(host, &[("/".into(), own)]);
                let name = format!("new-{}", host_name(host));
                self.until(&mut client, &mut seen, object, &name, "/x", |a| a.status == 404);
            }
        });
        seen
    }

    /// Changes of endpoints that are asked for: all endpoints of a Service are replaced, the first
    /// answer of a new one counts. In the lower quarter of Services.
    pub fn replace_endpoints(&self, changes: u32) -> Seen {
        let (mut random, mut client, mut seen) = (Random::new(12), Client::new(self.port), Seen::default());
        let mut endpoints = self.first_endpoints();
        self.on_schedule(changes / SAMPLE, |_| {
            let service = random.below(self.hosts / 4);
            let known = &mut endpoints[service as usize];
            known.iter().for_each(|endpoint| self.world.remove_endpoint(*endpoint));
            let newest = self.world.add_endpoint(service);
            *known = (1..ENDPOINTS).map(|_| self.world.add_endpoint(service)).chain([newest]).collect();
            let object = self.world.slice(service, known);
            let is_new = |answer: &Answer| {
                answer.endpoint.is_some_and(|at| {
                    self.world.service_of(at) == Some(service) && self.world.gone_for(at).is_none()
                })
            };
            self.until(&mut client, &mut seen, object, &host_name(service), "/", is_new);
        });
        seen
    }

    /// The other changes of endpoints: one is replaced, added or removed at a time.
    pub fn move_endpoints(&self, changes: u32) {
        let mut random = Random::new(13);
        let mut endpoints = self.first_endpoints();
        self.on_schedule(changes - changes / SAMPLE, |_| {
            let service = self.hosts / 4 + random.below(self.hosts - self.hosts / 4);
            let known = &mut endpoints[service as usize];
            let (kind, at) = (random.below(4), random.below(known.len() as u32) as usize);
            if kind < 3 {
                known.push(self.world.add_endpoint(service));
            }
            if kind != 2 && known.len() > 5 {
                self.world.remove_endpoint(known.swap_remove(at));
            }
            self.server.apply(self.world.slice(service, known));
        });
    }

    fn first_endpoints(&self) -> Vec<Vec<u32>> {
        (0..self.hosts).map(|service| first_endpoints(service).collect()).collect()
    }

    /// Does `count` things spread evenly over the time.
    fn on_schedule(&self, count: u32, mut act: impl FnMut(u32)) {
        let began = Instant::now();
        for index in 0..count {
            let due = self.time.mul_f64(f64::from(index) / f64::from(count));
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            act(index);
        }
    }

    /// A Service of the host's namespace, but not this one.
    fn neighbour(&self, random: &mut Random, host: u32, not: u32) -> u32 {
        loop {
            let service = host / 100 * 100 + random.below(100);
            if service != not && service < self.hosts {
                return service;
            }
        }
    }

    fn from(&self, answer: &Answer, service: u32) -> bool {
        let of = |at: Ipv4Addr| self.world.service_of(at) == Some(service);
        answer.status == 200 && answer.endpoint.is_some_and(of)
    }

    /// Writes `object` and asks until an answer shows it.
    fn until(
        &self,
        client: &mut Client,
        seen: &mut Seen,
        object: serde_json::Value,
        host: &str,
        path: &str,
        shows: impl Fn(&Answer) -> bool,
    ) {
        let began = Instant::now();
        self.server.apply(object);
        let polling = Instant::now();
        loop {
            seen.polls += 1;
            match client.get(host, path) {
                Ok(answer) if shows(&answer) => {
                    seen.delays.push(began.elapsed().as_secs_f64() * 1e3);
                    break;
                }
                _ if began.elapsed() > PATIENCE => {
                    seen.lost += 1;
                    break;
                }
                _ => {}
            }
        }
        seen.polling += polling.elapsed().as_secs_f64() * 1e3;
    }
}

/// The endpoints that a Service has at the start.
pub fn first_endpoints(service: u32) -> impl Iterator<Item = u32> {
    service * ENDPOINTS..(service + 1) * ENDPOINTS
}
