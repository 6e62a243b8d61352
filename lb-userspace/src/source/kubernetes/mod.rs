//! The Kubernetes API: one reflector for each collection, gathered into one state.
//!
//! ```text
//! api (requests, bounded answers) ─► decode (objects) ─► reflector (list, watch, again) ─┐
//!               singles (who follows which Secret, ConfigMap) ─► reflectors, fetches       ├─► gather ─► Update
//!                                                                                        ┘
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, USER_AGENT};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use self::api::{Collection, Server};
use self::gather::Gatherer;
use self::reflector::{Reflector, Told};
use self::streams::Streams;
use super::Update;
use crate::model::ObjectKey;
use crate::objects::Kind;

pub use crate::backoff::Backoff;

mod api;
mod decode;
mod gather;
mod nodes;
mod reflector;
mod singles;
mod streams;

/// The kinds of which all objects are read, besides nodes where they are asked for.
const KINDS: [Kind; 4] = [Kind::IngressClass, Kind::Ingress, Kind::Service, Kind::EndpointSlice];

/// Who asks, for the server's audit log and its metrics.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION")));

/// How the API is read. The defaults suit clusters of any size.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Secret of the default certificate, held although no Ingress names it.
    pub default_certificate: Option<ObjectKey>,
    /// The ConfigMap with the settings, held although no object names it.
    pub config_map: Option<ObjectKey>,
    /// How many Secrets and ConfigMaps have a watch, and so a connection, of their own. Those beyond
    /// share one for each kind.
    pub single_watches: usize,
    /// Objects per page of a list.
    pub page: u32,
    /// How long a list page or the start of a watch may take.
    pub answer: Duration,
    /// How long the server is asked to keep a watch open; 1 to 290 seconds.
    pub watch: Duration,
    /// A watch without any event, bookmarks included, is opened anew after so long.
    pub idle: Duration,
    /// The waits between attempts that fail.
    pub backoff: Backoff,
    /// A server that offers no streaming lists is asked for one again after so long.
    pub streams_again: Duration,
    /// A change is handed on after so long, with what came meanwhile: an edit may be of more than
    /// one object.
    pub settle: Duration,
    /// Updates are at least so far apart.
    pub debounce: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_certificate: None,
            config_map: None,
            single_watches: 64,
            page: 500,
            answer: Duration::from_secs(30),
            watch: Duration::from_secs(285),
            idle: Duration::from_secs(90),
            backoff: Backoff { min: Duration::from_millis(100), max: Duration::from_secs(10) },
            streams_again: Duration::from_secs(600),
            settle: Duration::from_millis(2),
            debounce: Duration::from_millis(5),
        }
    }
}

/// Why there is no way to reach the API.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig can't be used.
    #[error("can't use the kubeconfig: {0}; check the path and the current context")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// Neither a pod's service account nor a kubeconfig was found.
    #[error(
        "found no way to the Kubernetes API: {0}; run in a pod with a service account, or give --kubeconfig"
    )]
    NoConfig(#[from] kube::config::InferConfigError),
    /// The client can't be set up.
    #[error("can't set up the Kubernetes client: {0}")]
    Client(#[from] kube::Error),
}

/// A client for [`watch`]: from this kubeconfig, or else from the surroundings (`KUBECONFIG`, the
/// pod's service account). Does not speak to the server yet.
///
/// # Errors
/// When there is no usable configuration.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default())
                .await?
        }
        None => Config::infer().await?,
    };
    // The reflectors wait and try again by themselves; retries below them would hide an outage.
    config.default_retry = false;
    config.headers.push((USER_AGENT, AGENT));
    Ok(Client::try_from(config)?)
}

/// Watches the API. Returns at once; the first update that is `synced` holds the first lists of all kinds.
///
/// Runs on the tokio runtime it is called in until the receiver is dropped. Needs the verbs `list`
/// and `watch` on Ingresses, IngressClasses, Services and EndpointSlices, on Nodes where a Service asks for
/// packets in packets, and on the Secrets and ConfigMaps that they name; see [`singles`] for clusters that name very many, which take `get` too.
pub fn watch(client: Client, settings: Settings) -> watch::Receiver<Update> {
    // Each may hold a page of a list.
    let (changes, changed) = mpsc::channel(16);
    let mut tasks = JoinSet::new();
    let server = Server { client, answer: settings.answer };
    let streams = Arc::new(Streams::new(settings.streams_again));
    let starter = Starter { server, settings, streams, changes };
    for kind in KINDS {
        starter.start(Collection::all(kind), &mut tasks);
    }
    let (gatherer, receiver) = Gatherer::new(starter, changed);
    tokio::spawn(gatherer.run(tasks));
    receiver
}

/// Starts reflectors.
#[derive(Clone)]
struct Starter {
    server: Server,
    settings: Settings,
    streams: Arc<Streams>,
    changes: mpsc::Sender<Told>,
}

impl Starter {
    fn start(&self, what: Collection, tasks: &mut JoinSet<()>) -> AbortHandle {
        let Self { server, settings, streams, changes } = self.clone();
        tasks.spawn(Reflector { what: Arc::new(what), server, settings, streams, changes }.run())
    }
}
