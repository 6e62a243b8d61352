//! Builds the kernel programs (lb-ebpf) and leaves the object where the library embeds it from.
//!
//! No nightly toolchain is needed: `-Z build-std=core` is unlocked by RUSTC_BOOTSTRAP, set for
//! the child only, so that nothing else of the workspace can use an unstable feature.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let workspace = manifest.parent().expect("the crate lies in the workspace");
    let out = PathBuf::from(variable("OUT_DIR"));
    for watched in
        ["lb-ebpf/src", "lb-ebpf/Cargo.toml", "lb-common/src", "lb-common/Cargo.toml", "Cargo.lock"]
    {
        println!("cargo:rerun-if-changed={}", workspace.join(watched).display());
    }

    let linker = linker(workspace);
    // A target directory of its own: cargo holds a lock on the outer one.
    let target = out.join("ebpf");
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    let flags = [
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
    ];
    let status = Command::new(variable("CARGO"))
        .args(["build", "--package", "lb-ebpf", "--release", "--locked"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(workspace)
        // What the outer build was given (clippy's wrapper, coverage flags) is not for the kernel.
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        // Or whoever sets it for the outer build gets other programs: cut into units that LLVM looks at
        // one by one, which the verifier works through longer, or refuses.
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("RUSTC_BOOTSTRAP", "1")
        .status()
        .unwrap_or_else(|error| panic!("can't start cargo for lb-ebpf: {error}"));
    assert!(
        status.success(),
        "lb-ebpf did not build ({status}). If rust-src is missing, run `cargo xtask setup`."
    );
    let object = target.join("bpfel-unknown-none/release/sluice-ebpf");
    std::fs::copy(&object, out.join("sluice-ebpf"))
        .unwrap_or_else(|error| panic!("{}: {error}", object.display()));
}

fn linker(workspace: &Path) -> PathBuf {
    let own = workspace.join("target/tools/bin/bpf-linker");
    println!("cargo:rerun-if-changed={}", own.display());
    if own.is_file() {
        return own;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("bpf-linker is missing: run `cargo xtask setup`"))
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is set by cargo"))
}
