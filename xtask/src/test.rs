//! `cargo xtask test`: everything that must hold before a change is taken.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::command::{Command, cargo, is_root, root};
use crate::{demo, kube_tools, setup, tidy};

/// The integration test target of lb-userspace that makes namespaces and loads kernel programs.
const PRIVILEGED: &str = "privileged";

/// Runs all checks, cheapest first; stops at the first that fails.
pub fn run() -> Result<()> {
    let start = Instant::now();
    setup::run()?;
    kube_tools::install()?;
    for component in ["rustfmt", "clippy"] {
        // A minimal rustup profile comes without them.
        if cargo([if component == "rustfmt" { "fmt" } else { component }, "--version"]).output().is_err() {
            Command::new("rustup").args(["component", "add", component]).run()?;
        }
    }
    cargo(["fmt", "--all", "--check"]).run()?;
    tidy::run(&root())?;
    cargo(["clippy", "--all-targets", "--", "-D", "warnings"]).run()?;
    kernel_lints()?;
    unprivileged()?;
    if !is_root() {
        bail!(
            "everything that needs no rights passed, but this is not all: the test target `{PRIVILEGED}` \
             of lb-userspace and the demo make network namespaces and load kernel programs. \
             Run `cargo xtask test` as root."
        );
    }
    cargo(["test", "--package", "lb-userspace", "--test", PRIVILEGED]).run()?;
    demo::run(&demo::Options { once: true })?;
    eprintln!("test: all passed in {} s", start.elapsed().as_secs());
    Ok(())
}

/// Clippy for the kernel programs, which build for their own target only. The bootstrap variable
/// lets the stable compiler build `core` for it, here and in lb-userspace's build script only.
fn kernel_lints() -> Result<()> {
    cargo(["clippy", "--package=lb-ebpf", "--release", "--target=bpfel-unknown-none", "-Zbuild-std=core"])
        .args(["--target-dir=target/ebpf-clippy", "--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "--cfg=bpf_target_arch=\"x86_64\"")
        .run()
}

/// All test targets but the privileged one. Cargo can't leave one out, so the others are named.
fn unprivileged() -> Result<()> {
    cargo(["test", "--package", "lb-common", "--package", "xtask"]).run()?;
    let mut arguments = vec!["test".to_owned(), "--package=lb-userspace".into()];
    arguments.extend(["--lib".to_owned(), "--bins".to_owned()]);
    for name in test_targets(&root().join("lb-userspace/tests"))? {
        if name != PRIVILEGED {
            arguments.push(format!("--test={name}"));
        }
    }
    cargo(arguments).run()?;
    cargo(["test", "--package", "lb-userspace", "--doc"]).run()
}

/// The names that Cargo gives the targets of a `tests` directory: files, and directories with a main.rs.
fn test_targets(directory: &std::path::Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_target = path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").exists();
        if let (true, Some(name)) = (is_target, path.file_stem()) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
