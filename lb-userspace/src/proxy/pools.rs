//! Pools of workers: who serves the connections for a name, wherever they were accepted.
//!
//! With SNI steering the kernel brings a connection to its pool's workers at once. Where it can't (no XDP,
//! a ClientHello in several segments) some other worker accepts it, looks at the hello without taking
//! it, and hands the connection over: what costs, the handshake and all requests, is the pool's.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;

use super::config::Config;
use super::proxy_header::Ends;
use super::worker::Command;
use crate::model::WorkerPool;

/// The pools of the node. Never changes once the workers run.
#[derive(Default)]
pub(super) struct Pools(Vec<Pool>);

struct Pool {
    name: Arc<str>,
    workers: Vec<UnboundedSender<Command>>,
}

impl Pools {
    /// A pool and its workers, one more.
    pub(super) fn add(&mut self, name: Arc<str>, workers: Vec<UnboundedSender<Command>>) {
        self.0.push(Pool { name, workers });
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pool that a name's connections belong to, if it is another than `own`.
    pub(super) fn elsewhere(&self, own: Option<&str>, config: &Config, name: &str) -> Option<Way> {
        let find = |name: &str| self.0.iter().position(|pool| *pool.name == *name);
        let named = config.tls.pool(name).and_then(|pool| find(pool));
        let passes = || config.tls.passthrough(name).and_then(|_| find(WorkerPool::PASSTHROUGH));
        let index = named.or_else(passes)?;
        (own != Some(&*self.0[index].name)).then_some(Way(index))
    }

    /// Hands a connection over. `from` is who accepted it: its connections all go to the same worker,
    /// so that nobody has to count.
    ///
    /// # Errors
    /// The socket can't leave its event loop; or the worker has ended.
    pub(super) fn hand_over(&self, way: Way, from: usize, stream: TcpStream, ends: Ends) -> io::Result<()> {
        let workers = &self.0[way.0].workers;
        let worker = workers.get(from % workers.len().max(1)).ok_or(io::ErrorKind::NotFound)?;
        let command = Command::Take(stream.into_std()?, ends);
        worker.send(command).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// To a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way(usize);
