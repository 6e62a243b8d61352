//! Where load balancers ask whether this node has endpoints of a Service (`spec.healthCheckNodePort`),
//! answered on every address of the node as kube-proxy answers: 200 if it has any, else 503.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::health::{self, Probed};
use crate::model::HealthPort;

/// Connections that are answered at once, on each port; further ones wait.
const CONNECTIONS: usize = 64;

/// How often a port is tried that somebody else has.
const RETRY: Duration = Duration::from_secs(1);

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// The ports that are answered, until dropped.
pub struct HealthPorts {
    probed: Arc<dyn Probed>,
    open: BTreeMap<u16, Port>,
}

struct Port {
    says: Arc<ArcSwap<HealthPort>>,
    task: AbortHandle,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthPorts {
    /// None yet. A node that is not ready says 503 for all.
    pub fn new(probed: Arc<dyn Probed>) -> Self {
        Self { probed, open: BTreeMap::new() }
    }

    /// Answers on these ports, and no others.
    pub fn apply(&mut self, wanted: &[HealthPort]) {
        self.open.retain(|port, _| wanted.iter().any(|one| one.port == *port));
        for one in wanted {
            match self.open.get(&one.port) {
                Some(port) => port.says.store(Arc::new(one.clone())),
                None => {
                    let says = Arc::new(ArcSwap::from_pointee(one.clone()));
                    let task = tokio::spawn(serve(one.port, Arc::clone(&says), Arc::clone(&self.probed)));
                    self.open.insert(one.port, Port { says, task: task.abort_handle() });
                }
            }
        }
    }
}

/// Answers from when the port is free on. Where kube-proxy runs, it has the port and says the same.
async fn serve(port: u16, says: Arc<ArcSwap<HealthPort>>, probed: Arc<dyn Probed>) {
    let tell = |error: io::Error| {
        let service = says.load().service.to_string();
        tracing::warn!(
            port, service, %error,
            "healthCheckNodePort is not answered by this daemon; trying until the port is free"
        );
    };
    let listener = health::when_free(RETRY, || listen(port), tell).await;
    health::answer(listener, CONNECTIONS, move |_| respond(&says.load(), probed.ready().is_ok())).await;
}

/// On all addresses, of both families where the node has both.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

fn respond(says: &HealthPort, ready: bool) -> Response<Full<Bytes>> {
    let HealthPort { service, endpoints, .. } = says;
    let body = json!({
        "service": { "namespace": &*service.namespace, "name": &*service.name },
        "localEndpoints": endpoints,
        "serviceProxyHealthy": ready,
    });
    let mut response = Response::new(Full::from(body.to_string()));
    if *endpoints == 0 || !ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, HeaderValue::from(*endpoints));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::super::admin::views::Status;
    use super::*;
    use crate::model::ObjectKey;
    use crate::proxy::Measurement;

    struct Daemon(AtomicBool);

    impl Probed for Daemon {
        fn ready(&self) -> Result<(), String> {
            if self.0.load(Ordering::Relaxed) { Ok(()) } else { Err("draining".to_owned()) }
        }

        fn status(&self) -> Status {
            unreachable!("nobody asks for it here")
        }

        fn measurements(&self) -> Vec<Measurement> {
            Vec::new()
        }
    }

    /// What is answered on a port; `None`: nobody listens.
    async fn ask(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        let request = b"GET /whatever HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    /// Until the answer has this in it: ports open and close a moment after they were asked for.
    async fn reach(port: u16, part: Option<&str>) -> String {
        let asked = async {
            loop {
                match (ask(port).await, part) {
                    (Some(answer), Some(part)) if answer.contains(part) => return answer,
                    (None, None) => return String::new(),
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), asked).await.expect("an answer")
    }

    #[tokio::test]
    async fn ports_open_answer_and_close() {
        let daemon = Arc::new(Daemon(AtomicBool::new(true)));
        let mut ports = HealthPorts::new(daemon.clone());
        // Somebody else has the port at first.
        let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.expect("a port");
        let port = taken.local_addr().expect("bound").port();
        let says = |endpoints| HealthPort { port, service: ObjectKey::new("d", "web"), endpoints };
        ports.apply(&[says(2)]);
        drop(taken);
        let answer = reach(port, Some("HTTP/1.1 200")).await;
        for part in [
            "content-type: application/json",
            "x-content-type-options: nosniff",
            "x-load-balancing-endpoint-weight: 2",
            r#""localEndpoints":2"#,
            r#""service":{"name":"web","namespace":"d"}"#,
            r#""serviceProxyHealthy":true"#,
        ] {
            assert!(answer.contains(part), "{part}: {answer}");
        }
        ports.apply(&[says(0)]);
        let answer = reach(port, Some("HTTP/1.1 503")).await;
        assert!(answer.contains(r#""localEndpoints":0"#), "{answer}");
        ports.apply(&[says(1)]);
        daemon.0.store(false, Ordering::Relaxed);
        let answer = reach(port, Some(r#""localEndpoints":1"#)).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains(r#"Healthy":false"#), "{answer}");
        ports.apply(&[]);
        reach(port, None).await;
    }
}
