//! Nodes: read only while a Service asks where its packets in packets are to go. They are large, and every
//! kubelet writes its own every few minutes.

use std::collections::BTreeSet;

use tokio::task::{AbortHandle, JoinSet};

use super::Starter;
use super::api::Collection;
use crate::model::ObjectKey;
use crate::objects::{FORWARDING, Kind, Service};

/// Who asks for nodes, and their watch.
pub struct Nodes {
    starter: Starter,
    asked_by: BTreeSet<ObjectKey>,
    watch: Option<AbortHandle>,
    /// The first list is still worth waiting for.
    awaited: bool,
    tasks: JoinSet<()>,
}

impl Nodes {
    /// Nobody asks yet.
    pub fn new(starter: Starter) -> Self {
        let (asked_by, tasks) = (BTreeSet::new(), JoinSet::new());
        Self { starter, asked_by, watch: None, awaited: false, tasks }
    }

    /// Looks at a Service, `None` if it is gone. Returns whether nodes are no use any more.
    pub fn look_at(&mut self, key: &ObjectKey, service: Option<&Service>) -> bool {
        let asks = service.is_some_and(|service| service.metadata.annotations.get(FORWARDING).is_some());
        if asks {
            self.asked_by.insert(key.clone());
            if self.watch.is_none() {
                self.watch = Some(self.starter.start(Collection::all(Kind::Node), &mut self.tasks));
                self.awaited = true;
            }
            return false;
        }
        self.asked_by.remove(key);
        if !self.asked_by.is_empty() {
            return false;
        }
        self.awaited = false;
        self.watch.take().map(|watch| watch.abort()).is_some()
    }

    /// Whether somebody asks.
    pub fn are_asked_for(&self) -> bool {
        self.watch.is_some()
    }

    /// Whether the first list should be waited for, once they are asked for.
    pub fn are_awaited(&self) -> bool {
        self.awaited
    }

    /// Whoever has not answered by now is not waited for.
    pub fn give_up(&mut self) {
        self.awaited = false;
    }
}
