//! `cargo xtask fuzz`: the property tests, on many more inputs than a test run can afford.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::command::cargo;
use crate::setup;

/// What `cargo xtask fuzz` takes.
///
/// The properties are ordinary tests in the crates; a target is a package with a filter on test
/// names. They run with new random inputs, round after round, until the time is up or one fails;
/// proptest then prints the smallest input it found and keeps its seed beside the test. What is worth
/// keeping goes to a corpus (lb-common/tests/corpus, lb-userspace/tests/corpus), which `test` replays.
#[derive(clap::Args)]
pub struct Options {
    /// What to run; without it, all targets are listed
    target: Option<Subject>,
    /// How long, in seconds, to start new rounds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many random inputs each property gets in one round
    #[arg(long, default_value_t = 100_000)]
    cases: u32,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Subject {
    /// The TLS ClientHello parser that kernel and host share, on damaged hellos
    ClientHello,
    /// The whole road of a frame that kernel and host share, on any bytes
    Packet,
    /// The normalisation of request targets and hosts
    Target,
    /// What clients send, through everything that reads it: heads, HTTP/2 frames, PROXY headers, hellos
    Wire,
    /// What endpoints answer: heads and chunks
    Answer,
}

impl Subject {
    /// Package and filters on the tests' names.
    fn tests(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::ClientHello => ("lb-common", &["a_damaged_hello"]),
            Self::Packet => ("lb-common", &["any_bytes", "both_ways"]),
            Self::Target => ("lb-userspace", &["route::"]),
            Self::Wire => ("lb-userspace", &["proxy::corpus", "any_hello", "proxy_header::tests::any_bytes"]),
            Self::Answer => ("lb-userspace", &["any_chunks", "any_head"]),
        }
    }
}

/// Runs rounds of the target until the time is up; fails as soon as one fails.
pub fn run(options: &Options) -> Result<()> {
    let Some(target) = options.target else {
        for target in <Subject as clap::ValueEnum>::value_variants() {
            let value = clap::ValueEnum::to_possible_value(target).expect("no target is hidden");
            println!(
                "{:14}{}",
                value.get_name(),
                value.get_help().map(ToString::to_string).unwrap_or_default()
            );
        }
        return Ok(());
    };
    let (package, filters) = target.tests();
    setup::run()?;
    let test = || cargo(["test", "--release", "--package", package, "--lib", "--"]).args(filters);
    // A filter that no longer fits the tests' names would pass without having run anything.
    let listed = test().args(["--list"]).output()?;
    for filter in filters {
        let fits = |line: &str| line.ends_with(": test") && line.contains(filter);
        ensure!(listed.lines().any(fits), "no test of {package} is called like {filter}");
    }
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut rounds = 0_u64;
    while rounds == 0 || Instant::now() < end {
        test().env("PROPTEST_CASES", options.cases.to_string()).run()?;
        rounds += 1;
    }
    println!("fuzz: {rounds} rounds of {} inputs for each property, no failure", options.cases);
    Ok(())
}
