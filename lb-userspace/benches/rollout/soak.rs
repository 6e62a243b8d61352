//! What the daemon needs while it runs for long: `cargo xtask soak`. It must be the same at the end
//! as it was when it had begun.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::api_server::ApiServer;
use crate::cluster::Kind;
use crate::daemon::Daemon;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// What it may have more at the end, of memory: connections come in bursts, and allocators keep what
/// they may need again.
const MEMORY: f64 = 1.05;
const MEGABYTES: f64 = 3.0;

/// And of open files.
const FILES: f64 = 100.0;

/// What was seen of the daemon.
#[derive(Default)]
pub struct Watch {
    began: Option<Instant>,
    looked: Option<Instant>,
    /// Megabytes that are its own, and open files.
    samples: Vec<(f64, f64)>,
}

impl Watch {
    /// Looks, if it is time to.
    pub fn look(&mut self, daemon: &Daemon) {
        let now = Instant::now();
        self.began.get_or_insert(now);
        if self.looked.is_none_or(|looked| now - looked >= EVERY) {
            self.looked = Some(now);
            let files = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map_or(0, Iterator::count);
            self.samples.push((daemon.usage().anonymous_mb, files as f64));
        }
    }

    /// Prints what became of it; true if it stayed the same. The first third does not count: caches fill,
    /// and connections are opened that stay.
    pub fn verdict(&self) -> bool {
        let third = self.samples.len() / 3;
        let of = |part: &[(f64, f64)]| (median(part.iter().map(|s| s.0)), median(part.iter().map(|s| s.1)));
        let (early, late) = (of(&self.samples[third..2 * third]), of(&self.samples[2 * third..]));
        let peak = self.samples.iter().map(|sample| sample.0).fold(0.0, f64::max);
        println!(
            "memory of its own: {:.1} MB in the second third, {:.1} MB in the last, {peak:.1} MB at most",
            early.0, late.0
        );
        println!("open files: {} in the second third, {} in the last", early.1, late.1);
        let flat = late.0 <= (early.0 * MEMORY).max(early.0 + MEGABYTES) && late.1 <= early.1 + FILES;
        println!("{}", if flat { "flat" } else { "it grows" });
        flat
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Changes what is routed, again and again: another host, another path, gone again. What the clients
/// ask for stays.
pub fn edit(server: &ApiServer, number: u64) {
    let backend = json!({"service": {"name": Kind::Http1.name(), "port": {"number": 80}}});
    let path = json!({"path": format!("/{number}"), "pathType": "Prefix", "backend": backend});
    server.apply(json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"namespace": "shop", "name": format!("other-{}", number % 20)},
        "spec": {"ingressClassName": "sluice",
            "rules": [{"host": format!("host-{number}.example.com"), "http": {"paths": [path]}}]}}));
}
