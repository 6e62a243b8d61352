//! The manifest directory: plain Kubernetes YAML and JSON files, watched for changes.
//!
//! Only files whose stamp changed are read again. A file that can't be read any more, or parts of
//! it, keeps what it last held; a directory that goes away keeps everything.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use self::catalogue::Catalogue;
use super::{Health, Update, now_unix};
use crate::model::Issue;
use crate::objects::Objects;

mod catalogue;
mod complaint;
mod document;
mod spread;
mod tree;

/// A burst of changes is over when nothing happened for so long.
const QUIET: Duration = Duration::from_millis(60);

/// A burst that never ends is looked at after so long all the same.
const BURST: Duration = Duration::from_millis(500);

/// The directory is looked at this often even when nothing tells of a change: links that lead out
/// of it and network file systems change silently.
const LOOK: Duration = Duration::from_secs(3);

/// Why a manifest directory can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// The directory can't be listed.
    #[error("can't read the manifest directory {}: {source}; give a directory that exists and is readable", .dir.display())]
    Unreadable {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The thread that watches the directory can't be started.
    #[error("can't start a thread to watch the manifest directory {}: {source}", .dir.display())]
    NoThread {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Reads a directory once: all objects, and what can't be read, sorted.
///
/// # Errors
/// When the directory can't be listed.
pub fn load(dir: &Path) -> Result<(Objects, Vec<Issue>), ManifestsError> {
    Ok(open(dir)?.collect())
}

/// Reads a directory and keeps reading it as it changes. The first load is done when this returns.
///
/// A thread of its own does the work until the receiver is dropped. Where the system has no
/// watches left to give, changes are seen within 3 seconds rather than at once.
///
/// # Errors
/// When the directory can't be listed.
pub fn watch(dir: PathBuf) -> Result<watch::Receiver<Update>, ManifestsError> {
    if let Err(source) = std::fs::read_dir(&dir) {
        return Err(ManifestsError::Unreadable { dir, source });
    }
    // Before the first look, so that no change falls between the two.
    let (wake, woken) = mpsc::channel();
    let watcher = subscribe(&dir, wake.clone());
    let catalogue = open(&dir)?;
    let (sender, receiver) = watch::channel(update(&catalogue, Health::Ok));
    let follower = Follower { dir: dir.clone(), catalogue, wake, woken, watcher, sender };
    thread::Builder::new()
        .name("manifests".into())
        .spawn(move || follower.run())
        .map_err(|source| ManifestsError::NoThread { dir, source })?;
    Ok(receiver)
}

fn open(dir: &Path) -> Result<Catalogue, ManifestsError> {
    let mut catalogue = Catalogue::new(dir.to_owned());
    match catalogue.refresh() {
        Ok(_) => Ok(catalogue),
        Err(source) => Err(ManifestsError::Unreadable { dir: dir.to_owned(), source }),
    }
}

fn update(catalogue: &Catalogue, health: Health) -> Update {
    let (objects, issues) = catalogue.collect();
    Update { objects: Arc::new(objects), issues, synced: true, health }
}

/// Asks the system to tell of changes below `dir`. `None` when it can't: looking now and then does.
fn subscribe(dir: &Path, wake: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let tell = move |event: notify::Result<notify::Event>| {
        // Our own reading shows up as access.
        if event.is_ok_and(|e| e.kind.is_access()) {
            return;
        }
        // The thread ends before the watcher does; nobody is left to tell then.
        let _ = wake.send(());
    };
    let mut watcher = notify::recommended_watcher(tell)
        .inspect_err(
            |e| tracing::warn!(dir = %dir.display(), error = %e, "changes of manifests are seen late"),
        )
        .ok()?;
    match watcher.watch(dir, RecursiveMode::Recursive) {
        Ok(()) => Some(watcher),
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "changes of manifests are seen late");
            None
        }
    }
}

struct Follower {
    dir: PathBuf,
    catalogue: Catalogue,
    wake: mpsc::Sender<()>,
    woken: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
    sender: watch::Sender<Update>,
}

impl Follower {
    fn run(mut self) {
        while !self.sender.is_closed() {
            self.wait();
            self.look();
        }
    }

    /// Returns when a burst of changes is over, or when it is time to look without one.
    fn wait(&self) {
        let settle = Duration::from_millis(250);
        let patience = if self.catalogue.is_unsettled() { settle } else { LOOK };
        if self.woken.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            return;
        }
        let started = Instant::now();
        while started.elapsed() < BURST && self.woken.recv_timeout(QUIET).is_ok() {}
    }

    fn look(&mut self) {
        let was_ok = self.sender.borrow().health.is_ok();
        match self.catalogue.refresh() {
            Ok(changed) => {
                if !was_ok {
                    // A directory that was replaced has to be subscribed to anew.
                    self.watcher = subscribe(&self.dir, self.wake.clone());
                }
                if changed || !was_ok {
                    self.sender.send_replace(update(&self.catalogue, Health::Ok));
                }
            }
            Err(error) if was_ok => {
                let reason = format!("can't read the manifest directory {}: {error}", self.dir.display());
                self.sender
                    .send_modify(|update| update.health = Health::Degraded { since: now_unix(), reason });
            }
            Err(_) => {}
        }
    }
}
