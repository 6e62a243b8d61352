//! Tables of what was measured, for people and in JSON.

use serde::Serialize;

/// Numbers of one case, one for each round.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// One more round's.
    pub fn add(&mut self, number: f64) {
        self.0.push(number);
    }

    /// Half of the rounds took no longer.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The best round, in which nothing else ran.
    pub fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }
}

/// What a packet costs, in nanoseconds. `base` is what isn't the program's: the empty program, or
/// making the packet.
#[derive(Serialize)]
struct Line {
    case: String,
    median: f64,
    least: f64,
    least_over_base: f64,
    /// Of the empty program's least and what is above the base, to the empty program's.
    ratio_to_empty: f64,
    /// The most that is wanted above the base.
    must: Option<f64>,
}

/// Packets a second, of one CPU's time.
#[derive(Serialize)]
struct Throughput {
    case: String,
    nanoseconds: f64,
    packets_a_second: f64,
    nanoseconds_of_forwarding: f64,
}

/// All that was measured.
#[derive(Default, Serialize)]
pub struct Report {
    costs: Vec<Line>,
    throughput: Vec<Throughput>,
}

impl Report {
    /// The head of a table of costs.
    pub fn head(what: &str) {
        println!("\n| {what} | median | least | over base | ratio to empty | must |");
        println!("| --- | --- | --- | --- | --- | --- |");
    }

    /// A row of it.
    pub fn cost(&mut self, case: &str, whole: &Samples, base: &Samples, empty: &Samples, must: Option<f64>) {
        let over = whole.least() - base.least();
        let line = Line {
            case: case.to_owned(),
            median: whole.median(),
            least: whole.least(),
            least_over_base: over,
            ratio_to_empty: (empty.least() + over) / empty.least(),
            must,
        };
        let must = must.map_or(String::new(), |must| format!("{must:.0}"));
        println!(
            "| {case} | {:.0} | {:.0} | {over:.0} | {:.1} | {must} |",
            line.median, line.least, line.ratio_to_empty
        );
        self.costs.push(line);
    }

    /// The head of a table of throughput.
    pub fn throughput_head(what: &str) {
        println!("\n| {what} | ns | million packets/s | ns of it forwarding | million/s of that |");
        println!("| --- | --- | --- | --- | --- |");
    }

    /// A row of it: nanoseconds of CPU time for a packet, and those without the forwarding.
    pub fn throughput(&mut self, case: &str, whole: &Samples, base: &Samples) {
        let (all, own) = (whole.least(), whole.least() - base.least());
        println!("| {case} | {all:.0} | {:.2} | {own:.0} | {:.2} |", 1e3 / all, 1e3 / own);
        self.throughput.push(Throughput {
            case: case.to_owned(),
            nanoseconds: all,
            packets_a_second: 1e9 / all,
            nanoseconds_of_forwarding: own,
        });
    }

    /// Everything as JSON.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}
