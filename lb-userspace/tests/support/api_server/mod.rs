//! A scripted Kubernetes API server on loopback: lists with pages, watches with bookmarks, writes,
//! and every way of failing that a test asks for. Knows no kinds: any object of any group will do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::answers::accept;
use self::store::{Shared, collection_of, name_of};

mod answers;
mod discovery;
mod rbac;
mod store;
mod validation;
mod watches;
mod writes;

pub use self::rbac::Rights;
pub use self::writes::Written;

/// One request that the server has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `list`, `watch`, `get`, `create`, `update`, `patch` or `delete`, as RBAC calls them.
    pub verb: &'static str,
    /// `ingresses`, `secrets`, or with a subresource `ingresses/status`.
    pub resource: String,
    /// Metadata is all that was asked for.
    pub names_only: bool,
    /// The whole query.
    pub query: BTreeMap<String, String>,
    /// Who says to ask: `User-Agent`.
    pub agent: String,
}

/// What goes wrong with the next request that fits.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers with this status.
    Status(u16),
    /// Answers 429 with this `Retry-After`, in seconds.
    RetryAfter(u32),
    /// Answers 200 with this body, whatever was asked.
    Body(String),
    /// Answers after so long.
    Slow(Duration),
}

/// A running server; ends when dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// A server on a free port that holds nothing.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), signal: watch::Sender::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let accepting = Some(tokio::spawn(accept(listener, shared.clone())));
        Self { shared, address, accepting }
    }

    /// A client of this server that does not retry by itself.
    pub fn client(&self) -> kube::Client {
        let uri = format!("http://{}", self.address).parse().expect("a URI");
        let mut config = kube::Config::new(uri);
        config.default_retry = false;
        kube::Client::try_from(config).expect("a client")
    }

    /// A kubeconfig whose only context is this server.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: \"http://{}\"}}}}]\n\
             users: [{{name: test, user: {{}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
            self.address
        )
    }

    /// Creates or replaces an object. It needs apiVersion, kind and metadata.name.
    pub fn apply(&self, object: Value) {
        let collection = collection_of(&object);
        self.shared.put(&collection, object);
    }

    /// Deletes the object with the kind, namespace and name of `object`.
    pub fn delete(&self, object: &Value) {
        assert!(
            self.shared.remove(&collection_of(object), &name_of(object)).is_some(),
            "{object} is not there"
        );
    }

    /// The object as the server has it.
    pub fn get(&self, object: &Value) -> Option<Value> {
        self.shared.lock().objects.get(&collection_of(object))?.get(&name_of(object)).cloned()
    }

    /// Sends a bookmark on every open watch.
    pub fn bookmark(&self) {
        self.shared.lock().version += 1;
        self.shared.signal.send_modify(|signal| signal.bookmarks += 1);
    }

    /// Forgets history: open watches end with a 410 event, and older versions are answered by one.
    pub fn gone(&self) {
        let mut state = self.shared.lock();
        state.version += 1;
        state.oldest = state.version;
        drop(state);
        self.shared.signal.send_modify(|signal| signal.gone += 1);
    }

    /// Forgets history as [`Self::gone`] does, but says so by the HTTP status 410; open watches are cut.
    pub fn gone_by_status(&self) {
        let mut state = self.shared.lock();
        state.version += 1;
        state.oldest = state.version;
        state.gone_by_status = true;
        drop(state);
        self.disconnect_all();
    }

    /// Goes back to what it was in the beginning but for its objects, as after a restore from a backup:
    /// versions that were told are not known yet. Open watches are cut.
    pub fn rewind(&self) {
        let mut state = self.shared.lock();
        (state.version, state.oldest) = (0, 0);
        state.log.clear();
        // Before anybody reads on where there is nothing any more.
        self.disconnect_all();
    }

    /// The next `count` continue tokens are expired.
    pub fn expire_tokens(&self, count: u32) {
        self.shared.lock().expired_tokens = count;
    }

    /// Cuts every open watch in the middle of its stream.
    pub fn disconnect_all(&self) {
        self.shared.signal.send_modify(|signal| signal.cut += 1);
    }

    /// Ends every open watch properly, as a server does when the time that was asked for is over.
    pub fn end_watches(&self) {
        self.shared.signal.send_modify(|signal| signal.ended += 1);
    }

    /// The next request with this verb and resource fails. Several are used one after the other.
    pub fn fail_next(&self, verb: &'static str, resource: &str, fault: Fault) {
        self.shared.lock().faults.push_back((verb, resource.to_owned(), fault));
    }

    /// Nothing more fails that [`Self::fail_next`] has asked for.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// Answers everything with this status until told otherwise.
    pub fn outage(&self, status: Option<u16>) {
        self.shared.lock().outage = status;
    }

    /// Whether lists are offered as streams, as Kubernetes 1.34 and later do; they are at the start.
    pub fn offer_streams(&self, offered: bool) {
        self.shared.lock().no_streams = !offered;
    }

    /// Open watches say nothing more and don't end, as if the connection had died unseen.
    pub fn stall(&self) {
        self.shared.signal.send_modify(|signal| signal.stalled += 1);
    }

    /// Sends this on every open watch of a collection (`services`), and nothing after it.
    pub fn send(&self, resource: &str, text: &str) {
        self.shared.lock().raw = Some((resource.to_owned(), text.to_owned()));
        self.shared.signal.send_modify(|signal| signal.raw += 1);
    }

    /// Closes the port and all connections.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // Waits until the port is closed.
            let _ = accepting.await;
        }
    }

    /// Listens again on the same port, with everything it knew.
    pub async fn restart(&mut self) {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await.expect("the port is still free");
        self.accepting = Some(tokio::spawn(accept(listener, self.shared.clone())));
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// How many requests with this verb and resource came so far.
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        self.shared.lock().seen.iter().filter(|seen| seen.verb == verb && seen.resource == resource).count()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}
