//! Commands: how they are found, shown and run.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process;

use anyhow::{Context, Result, bail};

/// A command that runs in the workspace's root.
pub struct Command(process::Command);

/// The workspace's root directory.
pub fn root() -> PathBuf {
    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask is a directory of the workspace").to_owned()
}

/// Where tools are installed; survives everything but `cargo clean`.
pub fn tools() -> PathBuf {
    root().join("target/tools")
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `cargo`, the one that runs us, with our tools on its PATH.
pub fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = vec![tools().join("bin")];
    directories.extend(std::env::split_paths(&path));
    let command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(arguments);
    match std::env::join_paths(directories) {
        Ok(path) => command.env("PATH", path),
        // Only a root directory with a colon in its name can't be on a PATH; the build script looks
        // in target/tools itself.
        Err(_) => command,
    }
}

impl Command {
    /// `program` without arguments.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = process::Command::new(program);
        command.current_dir(root());
        Self(command)
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.0.args(arguments);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Shows the command, runs it, and fails if it fails.
    pub fn run(mut self) -> Result<()> {
        eprintln!("$ {}", self.shown());
        let status = self.0.status().with_context(|| format!("can't start `{}`", self.shown()))?;
        if !status.success() {
            bail!("`{}` failed: {status}", self.shown());
        }
        Ok(())
    }

    /// Runs the command and gives its standard output; fails if it fails.
    pub fn output(mut self) -> Result<String> {
        let shown = self.shown();
        let output = self.0.output().with_context(|| format!("can't start `{shown}`"))?;
        if !output.status.success() {
            bail!("`{shown}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout).with_context(|| format!("`{shown}` wrote no UTF-8"))
    }

    fn shown(&self) -> String {
        let program = PathBuf::from(self.0.get_program());
        let mut words: Vec<OsString> = vec![program.file_name().unwrap_or(program.as_os_str()).to_owned()];
        words.extend(self.0.get_args().map(OsStr::to_owned));
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}
