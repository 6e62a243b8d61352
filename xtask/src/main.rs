//! `cargo xtask`: the project's habits as commands.

mod command;
mod demo;
mod fuzz;
mod image;
mod kube_tools;
mod peers;
mod pgo;
mod setup;
mod test;
mod tidy;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// The project's habits as commands. Those that need tools install them first (see `setup`).
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    habit: Habit,
}

#[derive(Subcommand)]
enum Habit {
    /// Install what build and tests need: rust-src; into target/tools bpf-linker, helm and kubectl
    Setup,
    /// Run the whole road from client to endpoint in a laboratory of network namespaces
    ///
    /// As root, XDP runs natively on the node's interface. Without root the same requests go over
    /// loopback, without XDP.
    Demo(demo::Options),
    /// Check format, lints, module rules, and run all tests and the demo (as root)
    Test,
    /// Measure; arguments after the name go to the benchmark
    Bench {
        #[command(flatten)]
        pgo: pgo::Options,
        /// Which benchmark
        name: Benchmark,
        /// Arguments for it
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the daemon under rolling updates, edits and guests of every kind, and see that it stays the same
    Soak {
        /// How long, in seconds
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Requests a second
        #[arg(long, default_value_t = 500)]
        rate: u32,
    },
    /// Run the property tests of the parsers on many more random inputs than `test` does
    Fuzz(fuzz::Options),
    /// Build a static binary and write it as a container image (an OCI archive)
    Image {
        /// Where the archive goes [default: target/image/sluice.tar]
        #[arg(long)]
        output: Option<PathBuf>,
        #[command(flatten)]
        pgo: pgo::Options,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Benchmark {
    /// ns per packet of the XDP programs, by PROG_TEST_RUN, and forwarding beside nftables (needs root)
    Xdp,
    /// Time from API event to first request, memory and CPU with 5,000 Ingresses under change
    Churn,
    /// The HTTP proxy beside nginx, haproxy, Envoy, Traefik, Caddy and Pingora, on one core
    L7,
    /// Requests that fail while all pods are replaced over and over: none
    Rollout,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().habit {
        Habit::Setup => setup::run().and_then(|()| kube_tools::install()),
        Habit::Demo(options) => demo::run(&options),
        Habit::Test => test::run(),
        Habit::Bench { name: Benchmark::Xdp, arguments, .. } => {
            setup::run()?;
            peers::install_nftables();
            // The kernel does the timing: how this side is compiled changes nothing but the wait.
            command::cargo(["bench", "--profile=dev", "--package=lb-userspace", "--bench=xdp", "--"])
                .args(arguments)
                .run()
        }
        Habit::Bench { name: Benchmark::Churn, arguments, pgo } => as_released("churn", &pgo, arguments),
        Habit::Bench { name: Benchmark::L7, arguments, pgo } => {
            peers::install();
            as_released("l7", &pgo, arguments)
        }
        Habit::Bench { name: Benchmark::Rollout, arguments, .. } => {
            setup::run()?;
            // What is counted is failures, which a slow proxy has no fewer of.
            command::cargo(["bench", "--profile=dev", "--package=lb-userspace", "--bench=rollout", "--"])
                .args(arguments)
                .run()
        }
        Habit::Soak { seconds, rate } => {
            setup::run()?;
            command::cargo(["bench", "--profile=dev", "--package=lb-userspace", "--bench=rollout", "--"])
                .args([format!("--soak={seconds}"), format!("--rate={rate}")])
                .run()
        }
        Habit::Fuzz(options) => fuzz::run(&options),
        Habit::Image { output, pgo } => image::run(output, &pgo),
    }
}

/// Runs a benchmark of the binary as the image has it.
fn as_released(name: &str, pgo: &pgo::Options, arguments: Vec<String>) -> anyhow::Result<()> {
    setup::run()?;
    let host = setup::Rustc::ask()?.host;
    pgo.cargo(&["bench", "--package", "lb-userspace", "--bench", name], &host)
        .args(["--"])
        .args(arguments)
        .run()
}
