//! The figures as a table, and as JSON.

use std::fmt::Write as _;
use std::fs;

use serde::Serialize;

use crate::daemon::Usage;
use crate::lookup;

/// Everything that was measured.
#[derive(Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// How much of everything.
    pub size: Size,
    /// From the start of the process to ready, in seconds.
    pub ready_s: f64,
    /// When it was ready, after two seconds of rest.
    pub at_ready: Usage,
    /// CPU time per second under the background load alone.
    pub cpu_load: f64,
    /// CPU time per second while everything changed.
    pub cpu_churn: f64,
    /// After the churn.
    pub at_end: Usage,
    /// From the API event of a route's edit to the first answer that shows it.
    pub routes: Delays,
    /// The same for endpoints.
    pub endpoints: Delays,
    /// The background load.
    pub load: Load,
    /// The same number of routes over Services of one endpoint each.
    pub routes_only: Usage,
    /// Route lookups.
    pub lookup: Vec<lookup::Line>,
}

/// Where it was measured.
#[derive(Serialize)]
pub struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
    load_before: String,
}

/// How much of everything.
#[derive(Serialize)]
pub struct Size {
    /// Ingresses, and Services.
    pub hosts: u32,
    /// Endpoints of all Services.
    pub endpoints: u32,
    /// Edits of routes.
    pub edits: u32,
    /// Changes of endpoints.
    pub changes: u32,
    /// Over how long, in seconds.
    pub seconds: u32,
    /// Requests a second of the background load.
    pub rate: u32,
}

/// Times in milliseconds.
#[derive(Serialize)]
pub struct Delays {
    /// How many.
    pub count: usize,
    /// Median.
    pub p50: f64,
    /// 99 of 100 are shorter.
    pub p99: f64,
    /// The longest.
    pub max: f64,
    /// How far apart polls were.
    pub granularity: f64,
    /// Changes that never showed.
    pub lost: u64,
}

/// What clients saw.
#[derive(Serialize)]
pub struct Load {
    /// Requests of the background load.
    pub requests: u64,
    /// Not 200, or the connection broke.
    pub errors: u64,
    /// Answered by another Service's endpoint.
    pub misrouted: u64,
    /// Sent to an endpoint that had left a second before.
    pub stale: u64,
    /// Median time of a request in milliseconds.
    pub p50: f64,
    /// 99 of 100 are shorter.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// A quantile of sorted numbers.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl Machine {
    /// This machine.
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

impl Delays {
    /// From what was seen.
    pub fn new(mut seen: crate::churn::Seen) -> Self {
        seen.delays.sort_by(f64::total_cmp);
        let of = |q| quantile(&seen.delays, q);
        let granularity = seen.polling / seen.polls.max(1) as f64;
        Self {
            count: seen.delays.len(),
            p50: of(0.5),
            p99: of(0.99),
            max: of(1.0),
            granularity,
            lost: seen.lost,
        }
    }
}

/// A line of the table.
struct Row {
    what: String,
    measured: String,
    /// What it must be, and whether it is.
    must: Option<(String, bool)>,
}

impl Row {
    fn new(what: impl Into<String>, measured: String) -> Self {
        Self { what: what.into(), measured, must: None }
    }

    /// `value`, which is what was measured, must not be above `most`. What could not be measured is.
    fn at_most(self, value: f64, most: f64, unit: &str) -> Self {
        let must = if most == 0.0 { "0".to_owned() } else { format!("≤ {most}{unit}") };
        Self { must: Some((must, value <= most)), ..self }
    }
}

impl Report {
    /// The tables in Markdown.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let Size { hosts, endpoints, edits, changes, seconds, rate } = self.size;
        let Machine { cpu, cpus, kernel, load_before } = &self.machine;
        let _ = writeln!(
            out,
            "{hosts} Ingresses, {hosts} Services, {endpoints} endpoints; {edits} edits of routes and {changes} \
             changes of endpoints in {seconds} s under {rate} requests/s. {cpus} × {cpu}, Linux {kernel}, load \
             average before: {load_before}.\n"
        );
        let _ = writeln!(out, "| what | measured | must |\n| --- | --- | --- |");
        for Row { what, measured, must } in self.rows() {
            let must = must.map(|(must, _)| must).unwrap_or_default();
            let _ = writeln!(out, "| {what} | {measured} | {must} |");
        }
        out.push_str(&self.lookups());
        out
    }

    /// What must be so and is not, a line each.
    pub fn missed(&self) -> Vec<String> {
        let rows = self.rows().into_iter().chain(self.lookup.iter().filter_map(|line| {
            // The host that is asked for is the same, and so is what of the table it takes: all that is
            // left is how many others there are.
            let what = format!("lookup among {} hosts, ratio to one host", line.hosts);
            let row = Row::new(what, format!("{:.2}", line.ratio)).at_most(line.ratio, 1.05, "");
            (line.asked == "one host").then_some(row)
        }));
        let missed = rows.filter_map(|row| match row.must {
            Some((must, false)) => Some(format!("{}: {}, must be {must}", row.what, row.measured)),
            _ => None,
        });
        missed.collect()
    }

    fn rows(&self) -> Vec<Row> {
        let hosts = self.size.hosts;
        let ms = |value: f64| format!("{value:.1} ms");
        let none = |what: &str, count: u64| Row::new(what, count.to_string()).at_most(count as f64, 0.0, "");
        let memory = |what: String, u: &Usage, most: f64| {
            let text = format!("{:.1} MB ({:.1} anonymous, peak {:.1})", u.rss_mb, u.anonymous_mb, u.peak_mb);
            Row::new(what, text).at_most(u.rss_mb, most, " MB")
        };
        let mut rows = vec![Row::new("start to ready", format!("{:.2} s", self.ready_s)).at_most(
            self.ready_s,
            3.0,
            " s",
        )];
        for (name, delays) in [("route edit", &self.routes), ("endpoint change", &self.endpoints)] {
            rows.extend([
                Row::new(format!("{name} to first request, p50"), ms(delays.p50)),
                Row::new(format!("{name} to first request, p99"), ms(delays.p99))
                    .at_most(delays.p99, 30.0, " ms"),
                Row::new(format!("{name}, longest of {}", delays.count), ms(delays.max)),
                Row::new(format!("{name}, polled every"), format!("{:.2} ms", delays.granularity)),
                none(&format!("{name}, never seen"), delays.lost),
            ]);
        }
        let load = &self.load;
        let times = format!("{:.2} / {:.2} / {:.1} ms", load.p50, load.p99, load.max);
        rows.extend([
            Row::new("requests of the load", load.requests.to_string()),
            none("errors", load.errors),
            none("answers of a wrong Service", load.misrouted),
            none("requests to endpoints gone for 1 s", load.stale),
            Row::new("time of a request, p50 / p99 / longest", times),
            memory("RSS when ready".to_owned(), &self.at_ready, 100.0),
            memory("RSS after the churn".to_owned(), &self.at_end, 100.0),
            memory(format!("RSS, {hosts} routes with one endpoint each"), &self.routes_only, 50.0),
            Row::new("CPU, load alone", format!("{:.1} % of one", self.cpu_load * 100.0)),
            Row::new("CPU, with churn", format!("{:.1} % of one", self.cpu_churn * 100.0)),
        ]);
        rows
    }

    fn lookups(&self) -> String {
        let mut out = String::from(
            "\n| hosts in the table | asked for | median | least | ratio to one host |\n\
             | --- | --- | --- | --- | --- |\n",
        );
        for line in &self.lookup {
            let lookup::Line { hosts, asked, median_ns, least_ns, ratio } = line;
            let _ =
                writeln!(out, "| {hosts} | {asked} | {median_ns:.1} ns | {least_ns:.1} ns | {ratio:.2} |");
        }
        out
    }
}
