//! The figures as tables, and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::memory::{Hosts, Idle};
use crate::peers::Kind;
use crate::scenario::{Sample, Scenario};

/// Everything that was measured.
#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    pub versions: BTreeMap<&'static str, String>,
    pub hosts: usize,
    pub rounds: u32,
    pub seconds: f64,
    #[serde(skip)]
    pub kinds: Vec<Kind>,
    pub samples: BTreeMap<Scenario, BTreeMap<&'static str, Vec<Sample>>>,
    pub idle: Vec<Idle>,
    pub many: Vec<Hosts>,
}

/// Where it was measured.
#[derive(Serialize)]
pub struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
    load_before: String,
}

impl Machine {
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let cpu = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        Self {
            cpu: cpu.trim_start_matches(['\t', ' ', ':']).to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

/// What counts of a sample.
type Figure = fn(&Sample) -> f64;

fn median(samples: &[Sample], figure: Figure) -> f64 {
    let mut all: Vec<f64> = samples.iter().map(figure).collect();
    all.sort_by(f64::total_cmp);
    match all.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => all[count / 2],
        count => (all[count / 2 - 1] + all[count / 2]) / 2.0,
    }
}

fn figure(scenario: Scenario) -> Figure {
    if scenario.is_about_time() { |sample| sample.p99_us } else { |sample| sample.cpu_us }
}

/// One scenario in one line, to be seen while the others still run.
pub fn line(scenario: Scenario, samples: &BTreeMap<&'static str, Vec<Sample>>) -> String {
    let mut out = format!("{:40}", scenario.name());
    let base = samples.get("nginx").map(|samples| median(samples, figure(scenario)));
    for (name, samples) in samples {
        let value = median(samples, figure(scenario));
        let mut all: Vec<f64> = samples.iter().map(figure(scenario)).collect();
        all.sort_by(f64::total_cmp);
        let [least, quarter, three, most] = [0, 1, 3, 4].map(|part| all[(all.len() - 1) * part / 4]);
        let ratio = base.map_or(String::new(), |base| format!(" {:.2}", base / value));
        let errors: u64 = samples.iter().map(|sample| sample.errors).sum();
        let errors = if errors > 0 { format!(" {errors} ERRORS") } else { String::new() };
        let rate = median(samples, |sample| sample.per_second);
        let _ = write!(
            out,
            " | {name} {value:.2} ({least:.2} {quarter:.2} – {three:.2} {most:.2}, {rate:.0}/s){ratio}{errors}"
        );
    }
    out
}

impl Report {
    /// The tables in Markdown.
    pub fn table(&self) -> String {
        let Machine { cpu, cpus, kernel, load_before } = &self.machine;
        let versions: Vec<_> =
            self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let mut out = format!(
            "{} hosts; medians of {} interleaved samples of {} s. {cpus} × {cpu}, Linux {kernel}, load average \
             before: {load_before}. {}.\n\n",
            self.hosts,
            self.rounds,
            self.seconds,
            versions.join(", ")
        );
        out.push_str("CPU time of the proxy for each request in µs, and nginx's divided by it:\n\n");
        self.costs(&mut out, |scenario| !scenario.is_about_time(), figure(Scenario::H1));
        out.push_str(
            "\nTime of a request in µs, p99 (median of windows of 0.1 s), and nginx's divided by it:\n\n",
        );
        self.costs(&mut out, Scenario::is_about_time, figure(Scenario::Rate));
        out.push_str("\nRequests a second:\n\n");
        self.rates(&mut out);
        if !self.idle.is_empty() {
            out.push_str("\nIdle keep-alive connections, memory (PSS):\n\n");
            out.push_str(
                "| | connections | before | plain adds | TLS adds |\n| --- | --- | --- | --- | --- |\n",
            );
            for Idle { peer, connections, before_mb, plain_mb, tls_mb } in &self.idle {
                let _ = writeln!(
                    out,
                    "| {peer} | {connections} | {before_mb:.1} MB | {plain_mb:.1} MB | {tls_mb:.1} MB |"
                );
            }
        }
        if !self.many.is_empty() {
            out.push_str("\nMany hosts:\n\n");
            out.push_str("| | hosts | ready | memory (PSS) | cost of a request, to one host |\n");
            out.push_str("| --- | --- | --- | --- | --- |\n");
            for Hosts { peer, hosts, ready_s, memory_mb, cost } in &self.many {
                let _ =
                    writeln!(out, "| {peer} | {hosts} | {ready_s:.2} s | {memory_mb:.1} MB | {cost:.2} |");
            }
        }
        out
    }

    fn head(&self, out: &mut String, last: &str) {
        let names: Vec<_> = self.kinds.iter().map(|kind| kind.name()).collect();
        let _ = writeln!(out, "| | {} |{last}", names.join(" | "));
        let _ = writeln!(out, "|{}", " --- |".repeat(names.len() + 1));
    }

    fn costs(&self, out: &mut String, wanted: impl Fn(Scenario) -> bool, figure: Figure) {
        self.head(out, "");
        let mut logs: BTreeMap<&str, (f64, i32)> = BTreeMap::new();
        for (scenario, samples) in self.samples.iter().filter(|(scenario, _)| wanted(**scenario)) {
            let base = samples.get("nginx").map(|samples| median(samples, figure));
            let _ = write!(out, "| {} |", scenario.name());
            for kind in &self.kinds {
                let Some(value) = samples.get(kind.name()).map(|samples| median(samples, figure)) else {
                    out.push_str(" |");
                    continue;
                };
                match base {
                    Some(base) => {
                        let log = logs.entry(kind.name()).or_default();
                        *log = (log.0 + (base / value).ln(), log.1 + 1);
                        let _ = write!(out, " {value:.1} ({:.2}) |", base / value);
                    }
                    None => drop(write!(out, " {value:.1} |")),
                }
            }
            out.push('\n');
        }
        if logs.values().any(|(_, count)| *count > 1) {
            out.push_str("| geometric mean of the ratios |");
            for kind in &self.kinds {
                let mean = logs.get(kind.name()).map(|(sum, count)| (sum / f64::from(*count)).exp());
                let _ = write!(out, " {} |", mean.map_or(String::new(), |mean| format!("{mean:.2}")));
            }
            out.push('\n');
        }
    }

    fn rates(&self, out: &mut String) {
        self.head(out, "");
        for (scenario, samples) in &self.samples {
            let _ = write!(out, "| {} |", scenario.name());
            for kind in &self.kinds {
                let rate =
                    samples.get(kind.name()).map(|samples| median(samples, |sample| sample.per_second));
                let _ = write!(out, " {} |", rate.map_or(String::new(), |rate| format!("{rate:.0}")));
            }
            out.push('\n');
        }
    }

    /// Writes bench/l7.md and bench/l7.json.
    pub fn write(&self) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench");
        let json = serde_json::to_string(self).expect("plain data");
        fs::write(directory.join("l7.json"), json + "\n").expect("bench/l7.json");
        let text = format!("# `cargo xtask bench l7`\n\nThe method is in README.md.\n\n{}", self.table());
        fs::write(directory.join("l7.md"), text).expect("bench/l7.md");
    }
}
