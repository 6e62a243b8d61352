//! Profile-guided optimisation: counts of a training run tell the compiler which way the code
//! usually goes.
//!
//! The training is the HTTP benchmark, cut short, against an instrumented build. Compiled code
//! finds its counts by names that hold the hash of everything cargo compiles a crate with: both
//! builds are of the profile `dist`, and differ in flags only.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::command::{Command, cargo, root};
use crate::setup::Rustc;

/// Whether builds are guided by a profile.
#[derive(clap::Args)]
pub struct Options {
    /// Build without profile-guided optimisation: takes less than half of the time, and gives the
    /// same binary each time
    #[arg(long)]
    no_pgo: bool,
}

impl Options {
    /// `cargo …` for the profile `dist` and `target`, guided unless that is not wanted or can't be
    /// had. Trains first, unless the code is that of the last training.
    pub fn cargo(&self, arguments: &[&str], target: &str) -> Command {
        let command = cargo(arguments).args(["--profile", "dist", "--target", target]);
        if self.no_pgo {
            return command;
        }
        match train(target) {
            Ok(profile) => with_flags(command, &[format!("-Cprofile-use={}", profile.display())]),
            Err(why) => {
                eprintln!("pgo: building without a profile: {why:#}");
                command
            }
        }
    }
}

/// The profile of the code as it is now, in a file that is named after that code.
fn train(target: &str) -> Result<PathBuf> {
    let merge = profdata()?;
    let directory = root().join("target/pgo");
    let raw = directory.join("raw");
    // Counting comes before the optimisation of the whole program, so there is no need for that.
    let flags = [format!("-Cprofile-generate={}", raw.display())]
        .into_iter()
        .chain(["-Clto=off", "-Clinker-plugin-lto=no"].map(str::to_owned));
    let build = cargo(["build", "--package", "lb-userspace", "--bin", "sluice"])
        .args(["--profile", "dist", "--target", target, "--target-dir"])
        .args([&directory]);
    with_flags(build, &flags.collect::<Vec<_>>()).run()?;

    let binary = directory.join(target).join("dist/sluice");
    let bytes = fs::read(&binary).with_context(|| format!("read {}", binary.display()))?;
    let name: String = Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let profile = directory.join(format!("{name}.profdata"));
    if profile.exists() {
        eprintln!("pgo: {} is of this very code", profile.display());
        return Ok(profile);
    }

    if raw.exists() {
        fs::remove_dir_all(&raw)?;
    }
    fs::create_dir_all(&raw)?;
    cargo(["bench", "--profile=dev", "--package=lb-userspace", "--bench=l7", "--"])
        .args(["--peers=sluice", "--rounds=1", "--seconds=0.6", "--idle=64", "--sluice"])
        .args([&binary])
        .env("LLVM_PROFILE_FILE", raw.join("%p.profraw"))
        .run()?;
    let half = directory.join("merged");
    Command::new(merge).args(["merge", "--output"]).args([&half]).args(counts(&raw)?).run()?;
    fs::rename(&half, &profile)?;
    Ok(profile)
}

/// What the training's processes left.
fn counts(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<_> = fs::read_dir(directory)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "profraw"));
    if files.is_empty() {
        bail!("the training left no counts in {}", directory.display());
    }
    files.sort();
    Ok(files)
}

/// The compiler's own llvm-profdata: formats differ between versions of LLVM.
fn profdata() -> Result<PathBuf> {
    let rustc = Rustc::ask()?;
    let program = rustc.lib().join("rustlib").join(&rustc.host).join("bin/llvm-profdata");
    if !program.exists() {
        eprintln!("pgo: installing llvm-tools");
        Command::new("rustup").args(["component", "add", "llvm-tools"]).run()?;
    }
    Ok(program)
}

/// Flags on top of those that the environment asks for. Paths in them may have spaces.
fn with_flags(command: Command, flags: &[String]) -> Command {
    let given = std::env::var("RUSTFLAGS").unwrap_or_default();
    let all: Vec<_> = given.split_whitespace().chain(flags.iter().map(String::as_str)).collect();
    command.env("CARGO_ENCODED_RUSTFLAGS", all.join("\u{1f}"))
}
