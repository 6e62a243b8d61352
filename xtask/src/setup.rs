//! `cargo xtask setup`: what the build of the kernel side needs, beyond rustup, gcc and git.
//!
//! No nightly and no system LLVM: bpf-linker is built against the LLVM that rustc itself ships, so
//! that both always understand the same bitcode.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{Command, cargo, root, tools};

const BPF_LINKER: &str = "0.13.0";

/// Installs what is missing; says what it does and what was there.
pub fn run() -> Result<()> {
    let rustc = Rustc::ask()?;
    rust_src(&rustc)?;
    bpf_linker(&rustc)
}

/// What of the compiler matters here.
pub struct Rustc {
    /// The machine it runs on: `x86_64-unknown-linux-gnu`.
    pub host: String,
    sysroot: PathBuf,
    /// The major version of its LLVM.
    llvm: u32,
}

impl Rustc {
    /// Asks the one that cargo uses.
    pub fn ask() -> Result<Self> {
        let rustc = || Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        let version = rustc().args(["-vV"]).output()?;
        let llvm = llvm_major(&version).with_context(|| format!("no LLVM version in:\n{version}"))?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host.with_context(|| format!("no host in:\n{version}"))?.to_owned();
        let sysroot = rustc().args(["--print", "sysroot"]).output()?;
        Ok(Self { host, sysroot: sysroot.trim().into(), llvm })
    }

    /// Its libraries.
    pub fn lib(&self) -> PathBuf {
        self.sysroot.join("lib")
    }
}

fn rust_src(rustc: &Rustc) -> Result<()> {
    // Cargo needs it to build `core` for the kernel's machine.
    if rustc.sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists() {
        eprintln!("setup: rust-src is there");
        return Ok(());
    }
    eprintln!("setup: installing rust-src");
    Command::new("rustup").args(["component", "add", "rust-src"]).run()
}

fn bpf_linker(rustc: &Rustc) -> Result<()> {
    let binary = tools().join("bin/bpf-linker");
    match fitness(&binary, rustc) {
        Ok(()) => {
            eprintln!("setup: bpf-linker {BPF_LINKER} is there");
            return Ok(());
        }
        Err(why) => eprintln!("setup: building bpf-linker {BPF_LINKER} into target/tools ({why})"),
    }
    let names = fs::read_dir(rustc.lib()).with_context(|| format!("read {}", rustc.lib().display()))?;
    let names = names.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let library = llvm_library(names).with_context(|| {
        format!("{} holds no libLLVM: is this rustup's toolchain?", rustc.lib().display())
    })?;

    // The linker's build looks for PREFIX/lib/libLLVM.so; rustc's has another name.
    let prefix = root().join("target/tools/llvm");
    let link = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib"))?;
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    symlink(rustc.lib().join(library), &link).with_context(|| format!("link {}", link.display()))?;
    cargo(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--no-default-features", "--force"])
        .args(["--features", &format!("llvm-{}", rustc.llvm), "--root"])
        .args([tools()])
        .env("LLVM_PREFIX", &prefix)
        .env("RUSTFLAGS", format!("-C link-arg=-Wl,-rpath,{}", rustc.lib().display()))
        .run()?;
    fitness(&binary, rustc).map_err(|why| anyhow::anyhow!("bpf-linker was built but does not fit: {why}"))
}

/// Whether `binary` is the right version, runs, and uses this very compiler's LLVM.
fn fitness(binary: &Path, rustc: &Rustc) -> Result<()> {
    let Ok(bytes) = fs::read(binary) else { bail!("not installed yet") };
    let version = Command::new(binary).args(["--version"]).output()?;
    if version.split_whitespace().last() != Some(BPF_LINKER) {
        bail!("version {} is installed", version.trim());
    }
    // The run path is a plain string in the file.
    let lib = rustc.lib();
    let lib = lib.as_os_str().as_encoded_bytes();
    if !bytes.windows(lib.len()).any(|window| window == lib) {
        bail!("the installed one uses another compiler's LLVM");
    }
    Ok(())
}

/// The number before the first dot of `LLVM version: 22.1.2`.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

/// The shared library among `names`; the other name it may have is a linker script.
fn llvm_library(names: impl Iterator<Item = String>) -> Option<String> {
    let candidates = names.filter(|name| name.starts_with("libLLVM") && name.contains(".so"));
    candidates.max_by_key(|name| name.starts_with("libLLVM.so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_s_llvm_is_found() {
        let version = "rustc 1.95.0\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
        assert_eq!(llvm_major(version), Some(22));
        assert_eq!(llvm_major("rustc 1.95.0"), None);

        let pick = |names: &[&str]| llvm_library(names.iter().map(|&n| n.to_owned()));
        let both = ["libLLVM.so.22.1-rust", "libLLVM-22-rust.so", "librustc_driver.so"];
        assert_eq!(pick(&both).as_deref(), Some("libLLVM.so.22.1-rust"));
        assert_eq!(pick(&both[1..]).as_deref(), Some("libLLVM-22-rust.so"));
        assert_eq!(pick(&both[2..]), None);
    }
}
