//! Where something runs: in a namespace of the laboratory, or on the host's loopback.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::{LabError, Namespace, Result};

/// A network to run in.
#[derive(Clone, Debug)]
pub enum Place {
    /// The host's own network; needs no rights.
    Host,
    /// A namespace.
    Namespace(Arc<Namespace>),
}

impl Place {
    /// Runs `work` in this place, on a thread of its own if it is a namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        match self {
            Self::Host => Ok(work()),
            Self::Namespace(namespace) => namespace.enter(work),
        }
    }

    /// Drives the future that `make` gives to its end, with a runtime in this place.
    pub fn block_on<F: Future>(&self, make: impl FnOnce() -> F + Send) -> Result<F::Output>
    where
        F::Output: Send,
    {
        self.enter(|| runtime().map(|runtime| runtime.block_on(make())))?
            .map_err(LabError::io("start a runtime"))
    }

    /// A thread that stays in this place and runs `work`; returns once it is there.
    /// The handle gives `None` only where this function has failed already.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Option<T>>> {
        let file = match self {
            Self::Host => None,
            Self::Namespace(namespace) => Some(namespace.open()?),
        };
        let (entered, wait) = std::sync::mpsc::channel::<io::Result<()>>();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let result = file.map_or(Ok(()), |f| setns(f, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
            let inside = result.is_ok();
            // The receiver below waits for exactly this message.
            let _ = entered.send(result);
            inside.then(work)
        });
        let thread = thread.map_err(LabError::io(format!("start thread {name}")))?;
        wait.recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))
            .map_err(LabError::io(format!("enter {self:?}")))?;
        Ok(thread)
    }
}

/// A runtime for the current thread.
pub(super) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
