//! `cargo xtask demo`: the whole road, from a client's packet to an endpoint and back, in one table.

mod live;
mod probe;
mod report;
mod row;
mod script;
mod stage;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use xtask::lab::sweep;

use crate::command::{cargo, is_root};
use crate::setup;
use stage::Stage;

/// What `cargo xtask demo` takes.
#[derive(clap::Args)]
pub struct Options {
    /// End after the table: exit code 0 if every row is as expected, else 1
    #[arg(long)]
    pub once: bool,
}

/// Builds, makes the laboratory, runs the requests, prints the table; then live counters.
pub fn run(options: &Options) -> Result<()> {
    setup::run()?;
    let binary = build()?;
    for leftover in sweep()? {
        eprintln!("demo: removed {leftover}, left behind by a run that was killed");
    }
    // From here on an interrupt must unwind, so that everything made is removed.
    let interrupt = Interrupt::catch()?;
    let mut stage = if is_root() {
        Stage::laboratory(&binary)
    } else {
        eprintln!("demo: not root, so no namespaces and no XDP: the same requests over loopback");
        Stage::loopback(&binary)
    }
    .context("the stage could not be set")?;
    println!("{}", stage.describe()?);

    let rows = script::play(&mut stage, &interrupt)?;
    println!("{}", report::table(&rows, stage.xdp()));
    let failed = rows.iter().filter(|row| !row.good).count();
    if failed > 0 {
        eprintln!("the daemon's log ends with:\n{}", stage.daemon().process().log_tail(30));
        bail!("{failed} of {} rows are not as expected", rows.len());
    }
    println!("All {} rows are as expected.", rows.len());
    if !options.once {
        live::show(&stage, &interrupt)?;
    }
    Ok(())
}

/// Builds the daemon and gives its path as Cargo tells it.
fn build() -> Result<PathBuf> {
    eprintln!("demo: building sluice");
    let messages = cargo(["build", "--package", "lb-userspace", "--bin", "sluice"])
        .args(["--message-format", "json-render-diagnostics"])
        .output()?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let built = messages.filter(|m| m["target"]["name"] == "sluice");
    let path = built.filter_map(|m| m["executable"].as_str().map(PathBuf::from)).next_back();
    path.context("cargo named no executable for sluice")
}

/// Whether the user, or a supervisor, asked for the end.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn catch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let raised = Arc::clone(&flag);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let kind = tokio::signal::unix::SignalKind::terminate();
        let mut terminate = tokio::signal::unix::signal(kind)?;
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        drop(guard);
        std::thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                    raised.store(true, Ordering::Relaxed);
                }
            });
        });
        Ok(Self(flag))
    }

    /// Whether it came.
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once it came.
    pub fn check(&self) -> Result<()> {
        if self.came() { bail!("interrupted; everything is removed") } else { Ok(()) }
    }
}
