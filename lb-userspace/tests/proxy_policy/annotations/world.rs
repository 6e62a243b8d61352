//! One row's manifests, translated and served.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sluice::model::{Certificate, Compat, Listener, ObjectKey, Protocol, Snapshot, SniMode, Transport, Vip};
use sluice::objects::{Objects, parse};
use sluice::proxy::{AccessLog, Proxy, Settings};
use sluice::translate::{self, UnknownClass, translate};

use super::endpoints::{ENDPOINTS, LOG};
use super::{Play, Row, script};
use crate::pki::Authority;
use crate::rig::{Seen, free_port};

/// A row that is being played.
pub struct World {
    /// What its requests say in `X-Row`; ends with `+` where what should come is waited for.
    pub id: String,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub patient: bool,
    proxy: Proxy,
    jar: Mutex<BTreeMap<String, String>>,
    held: Mutex<Vec<TcpStream>>,
}

impl World {
    pub fn new(row: &Row, annotations: &str, patient: bool) -> Self {
        Self::with(row, annotations, patient, |_| ())
    }

    /// The same, with other settings of the proxy.
    pub fn with(row: &Row, annotations: &str, patient: bool, change: impl FnOnce(&mut Settings)) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{number}{}", if patient { '+' } else { '-' });
        let mut settings = Settings {
            workers: 1,
            trusted_proxies: vec!["127.0.0.0/8".parse().expect("a net")],
            access_log: AccessLog::Off,
            body_memory: 128 << 20,
            ..Settings::default()
        };
        // A limit that an annotation sets is the only one that comes to pass.
        let times = &mut settings.timeouts;
        (times.connect, times.send, times.read) = (HOUR, HOUR, HOUR);
        change(&mut settings);
        // Somebody else may take a port that was free.
        let started = (0..10).find_map(|_| {
            let [http, https] =
                [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            let snapshot = snapshot(row, annotations, patient, [http, https]);
            Some((Proxy::start(settings.clone(), snapshot).ok()?, http, https))
        });
        let (proxy, http, https) = started.expect("the proxy starts");
        Self { id, http, https, patient, proxy, jar: Mutex::default(), held: Mutex::default() }
    }

    pub fn play(&self, play: &Play) -> Result<(), String> {
        match play {
            Play::Script(text) => script::play(self, text),
            Play::Probe(probe) => probe(self),
        }
    }

    /// How long is waited for what should come: where it should not, long enough for what would.
    pub fn patience(&self) -> Duration {
        if self.patient { Duration::from_secs(20) } else { Duration::from_millis(1500) }
    }

    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Keeps a connection until the row is over.
    pub fn hold(&self, stream: TcpStream) {
        self.held.lock().expect("a lock").push(stream);
    }

    pub fn cookie(&self, name: &str) -> Option<String> {
        self.jar.lock().expect("a lock").get(name).cloned()
    }

    pub fn keep_cookies(&self, seen: &Seen) {
        let mut jar = self.jar.lock().expect("a lock");
        let lines = seen.head.lines().filter_map(|line| line.split_once(": "));
        for (_, cookie) in lines.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")) {
            let pair = cookie.split(';').next().and_then(|pair| pair.split_once('='));
            let (name, value) = pair.expect("a cookie");
            jar.insert(name.to_owned(), value.to_owned());
        }
    }

    /// The header line with the cookies that were set.
    pub fn cookies(&self) -> String {
        let jar = self.jar.lock().expect("a lock");
        let pairs: Vec<_> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if pairs.is_empty() { String::new() } else { format!("Cookie: {}\r\n", pairs.join("; ")) }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        LOG.end(&self.id);
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn snapshot(row: &Row, annotations: &str, patient: bool, [http, https]: [SocketAddr; 2]) -> Arc<Snapshot> {
    let (mut objects, mut issues) = (Objects::default(), Vec::new());
    for document in documents(row, annotations, patient) {
        let parsed = parse(document, "row.yaml");
        issues.extend(parsed.issues);
        for object in parsed.objects {
            assert!(objects.insert(object), "{}: an object is there twice", row.subject());
        }
    }
    assert!(issues.is_empty(), "{}: {issues:?}", row.subject());
    let listener = |address: SocketAddr, protocol| Listener {
        vip: Vip { address: address.ip(), port: address.port(), transport: Transport::Tcp },
        protocol,
        sni: SniMode::Off,
    };
    let settings = translate::Settings {
        listeners: vec![listener(http, Protocol::Http), listener(https, Protocol::Https)],
        unknown_class: UnknownClass::Serve,
        serve_classless: true,
        compat: if row.compat { Compat::IngressNginx } else { Compat::Kubernetes },
        config_map: row.also.contains("name: settings").then(|| ObjectKey::new("sluice", "settings")),
        ..translate::Settings::default()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    Arc::new(translate(&objects, &settings, &issues, now.cast_signed(), &Snapshot::empty()))
}

fn documents(row: &Row, annotations: &str, patient: bool) -> Vec<Value> {
    let mut text = String::new();
    if row.canary {
        // Older by its name: where the canary is none, this one is served.
        text += &ingress("main", "", row.path, "web", "80", false);
    }
    text += &ingress("row", annotations, row.path, row.service, row.port, row.tls);
    for (service, members) in [
        ("web", &["web"][..]),
        ("other", &["other"]),
        ("errors", &["errors"]),
        ("secure", &["secure"]),
        ("grpc", &["grpc"]),
        ("none", &[]),
        ("three", &["three-1", "three-2", "three-3"]),
        ("five", &["five-1", "five-2", "five-3", "five-4", "five-5"]),
    ] {
        text += &self::service(service, members);
    }
    text += &row.also;
    let mut at = 0;
    while let Some(begin) = text[at..].find("PORT(").map(|found| at + found) {
        let end = begin + text[begin..].find(')').expect("PORT(name)");
        let name = &text[begin + 5..end];
        let name = if name == "stuck" && !patient { "web" } else { name };
        let port = match name {
            "stuck" => super::probes::stuck_port(),
            name => ENDPOINTS.get(name).unwrap_or_else(|| panic!("no endpoint {name}")).port(),
        };
        text.replace_range(begin..=end, &port.to_string());
        at = begin;
    }
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(&text)
        .unwrap_or_else(|error| panic!("{}: {error}\n{text}", row.subject()));
    documents.iter_mut().for_each(fill_in_pem);
    documents.retain(|document| !document.is_null());
    documents
}

/// A canary beside the row's Ingress, which leads to `other`.
pub fn canary(annotation: &str) -> String {
    ingress("canary", &format!("canary: \"true\"\n{annotation}"), "/", "other", "80", false)
}

fn ingress(name: &str, annotations: &str, path: &str, service: &str, port: &str, tls: bool) -> String {
    let prefixed = |line: &str| match line {
        line if line.starts_with(' ') || line.trim().is_empty() => format!("    {line}\n"),
        line => format!("    nginx.ingress.kubernetes.io/{line}\n"),
    };
    let annotations: String = annotations.lines().map(prefixed).collect();
    let annotations =
        if annotations.trim().is_empty() { String::new() } else { format!("  annotations:\n{annotations}") };
    let path = serde_json::to_string(path).expect("text");
    let (tls, secret) = match tls {
        true => (
            "  tls: [{ hosts: [a.test], secretName: site }]\n",
            secret("site", "tls.crt: CERT(site)\n  tls.key: KEY(site)"),
        ),
        false => ("", String::new()),
    };
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n{annotations}spec:\n{tls}  \
         rules:\n  - host: a.test\n    http:\n      paths:\n      - path: {path}\n        \
         pathType: ImplementationSpecific\n        \
         backend: {{ service: {{ name: {service}, port: {{ number: {port} }} }} }}\n---\n{secret}\n---\n"
    )
}

/// A Secret with this data, lines of YAML.
pub fn secret(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{ name: {name} }}\nstringData:\n  {data}\n")
}

/// A ConfigMap with this data, lines of YAML.
pub fn config_map(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name} }}\ndata:\n  {data}\n")
}

/// A Service on port 80, and a slice for each of its endpoints, which differ in their ports.
pub fn service(name: &str, members: &[&str]) -> String {
    let slice = |member: &&str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{ name: {name}-{member}, labels: {{ kubernetes.io/service-name: {name} }} }}\n\
             ports: [{{ port: PORT({member}) }}]\nendpoints: [{{ addresses: [127.0.0.1] }}]\n"
        )
    };
    let slices: String = members.iter().map(slice).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n{slices}---\n"
    )
}

/// Replaces `CERT(name)`, `KEY(name)` and `CA(name)` where they are a whole value.
fn fill_in_pem(value: &mut Value) {
    match value {
        Value::String(text) => {
            let argument = |what: &str| text.strip_prefix(what)?.strip_suffix(')');
            let pem = argument("CERT(")
                .map(|name| pki().of(name).chain.iter().map(|der| pem(der)).collect())
                .or(argument("KEY(")
                    .map(|name| String::from_utf8_lossy(&pki().of(name).key_pem).into_owned()))
                .or(argument("CA(").map(|name| pem(&pki().authority(name).der)));
            if let Some(pem) = pem {
                *text = pem;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(fill_in_pem),
        Value::Object(fields) => fields.values_mut().for_each(fill_in_pem),
        _ => {}
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Who vouches for whom.
pub struct Pki {
    ca: Authority,
    stranger: Authority,
    site: Arc<Certificate>,
    alice: Arc<Certificate>,
    /// Two authorities further from the root than Alice.
    deep: Arc<Certificate>,
    /// Of the endpoint `secure`, for `inner.test`; one further.
    pub inner: Arc<Certificate>,
}

impl Pki {
    pub fn of(&self, name: &str) -> &Arc<Certificate> {
        match name {
            "site" => &self.site,
            "alice" => &self.alice,
            "deep" => &self.deep,
            other => panic!("nobody is called {other}"),
        }
    }

    fn authority(&self, name: &str) -> &Authority {
        match name {
            "ca" => &self.ca,
            "stranger" => &self.stranger,
            other => panic!("no authority is called {other}"),
        }
    }
}

pub fn pki() -> &'static Pki {
    static PKI: LazyLock<Pki> = LazyLock::new(|| {
        let ca = Authority::root("ca");
        let middle = ca.below("middle");
        Pki {
            site: ca.sign("a.test"),
            alice: ca.sign("alice"),
            deep: middle.below("lower").sign("deep"),
            inner: middle.sign("inner.test"),
            stranger: Authority::root("stranger"),
            ca,
        }
    });
    &PKI
}
