//! The Kubernetes API: one reflector per kind, gathered into one state.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::gather::Gatherer;
use self::reflector::{Change, Reflector};
use super::Update;
use crate::model::ObjectKey;
use crate::objects::Kind;

mod gather;
mod reflector;

/// How the API is read. The defaults suit clusters of any size.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Secret of the default certificate, held although no Ingress names it.
    pub default_certificate: Option<ObjectKey>,
    /// Objects per page of a list.
    pub page: u32,
    /// How long a list page or the start of a watch may take.
    pub answer: Duration,
    /// How long the server is asked to keep a watch open; 1 to 290 seconds.
    pub watch: Duration,
    /// A watch without any event, bookmarks included, is opened anew after so long.
    pub idle: Duration,
    /// The wait after the first failure; doubles up to `backoff_max`.
    pub backoff_min: Duration,
    /// The longest wait between two attempts.
    pub backoff_max: Duration,
    /// Changes that come within so long of each other are handed on as one update.
    pub debounce: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_certificate: None,
            page: 500,
            answer: Duration::from_secs(30),
            watch: Duration::from_secs(285),
            idle: Duration::from_secs(90),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            debounce: Duration::from_millis(10),
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
    Ok(Client::try_from(config)?)
}

/// Watches the API. Returns at once; the first update that is `synced` holds the first lists of all kinds.
///
/// Runs on the tokio runtime it is called in until the receiver is dropped. Needs the verbs `list`
/// and `watch` on Ingresses, IngressClasses, Services, EndpointSlices and Secrets, and `get` on Secrets.
pub fn watch(client: Client, settings: Settings) -> watch::Receiver<Update> {
    let (changes, changed) = mpsc::channel(1024);
    let mut tasks = JoinSet::new();
    let all = Starter { client: client.clone(), settings: settings.clone(), changes };
    all.start::<IngressClass>(&mut tasks, Kind::IngressClass);
    all.start::<Ingress>(&mut tasks, Kind::Ingress);
    all.start::<Service>(&mut tasks, Kind::Service);
    all.start::<EndpointSlice>(&mut tasks, Kind::EndpointSlice);
    let (gatherer, receiver) = Gatherer::new(settings, changed);
    tokio::spawn(gatherer.run(all, tasks));
    receiver
}

/// Starts reflectors.
struct Starter {
    client: Client,
    settings: Settings,
    changes: mpsc::Sender<Change>,
}

impl Starter {
    fn start<K>(&self, tasks: &mut JoinSet<()>, kind: Kind)
    where
        K: kube::Resource + Clone + std::fmt::Debug + Send + Sync + 'static,
        K: serde::de::DeserializeOwned + Into<crate::objects::Object>,
        K::DynamicType: Default,
    {
        let reflector = Reflector {
            kind,
            api: Api::<K>::all(self.client.clone()),
            fields: (kind == Kind::Secret).then_some("type=kubernetes.io/tls"),
            settings: self.settings.clone(),
            changes: self.changes.clone(),
        };
        tasks.spawn(reflector.run());
    }

    fn start_secrets(&self, tasks: &mut JoinSet<()>) {
        self.start::<Secret>(tasks, Kind::Secret);
    }
}
