//! What the proxy is told once, at start.

use std::time::Duration;

use ipnet::IpNet;

use super::log_format::LogFormat;
use super::spans::Tracing;
use crate::model::{ProxyProtocol, WorkerPool};

/// How connections reach the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Every worker listens on loopback sockets with ephemeral ports; the kernel's `sk_lookup`
    /// program gives it the connections. The accepted socket's local address is the VIP.
    Steered,
    /// Every worker binds each listener of the snapshot itself, with `SO_REUSEPORT`.
    Direct,
}

/// Where a line for each request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
}

/// How long the proxy waits for whom.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// A client's TLS handshake.
    pub handshake: Duration,
    /// A client's request head, from its first byte; then 408. The first head counts from the
    /// begin of the connection.
    pub header: Duration,
    /// A connection between two requests; on HTTP/2, without streams.
    pub idle: Duration,
    /// A client that neither sends the body it announced nor takes what it asked for.
    pub client: Duration,
    /// An endpoint's TCP handshake.
    pub connect: Duration,
    /// Between two writes to an endpoint.
    pub send: Duration,
    /// Between two reads from an endpoint.
    pub read: Duration,
    /// An unused connection to an endpoint. Tunnels have no time limit: a peer that vanished is
    /// found by TCP keep-alive probes on both sides.
    pub keep_alive: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(60),
            idle: Duration::from_secs(75),
            client: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            send: Duration::from_secs(60),
            read: Duration::from_secs(60),
            keep_alive: Duration::from_secs(60),
        }
    }
}

/// What the proxy is told once, at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many general workers; 0 is one for each CPU that the process may use and no pool takes.
    pub workers: usize,
    /// Pools of workers besides, each named once.
    pub pools: Vec<WorkerPool>,
    /// How connections reach the workers.
    pub bind: Bind,
    /// Another daemon may serve the same addresses at the start, as while it hands over to this one.
    /// Without that it is refused: the kernel would share clients out between the two.
    pub beside_another: bool,
    /// Where a line for each request goes.
    pub access_log: AccessLog,
    /// What that line looks like.
    pub log_format: LogFormat,
    /// Where spans of requests are sent; `None`: nowhere.
    pub tracing: Option<Tracing>,
    /// Peers whose `X-Forwarded-*`, `X-Real-IP` and `X-Request-ID` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whose connections begin with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// How many client connections one worker holds; above, it leaves them in the listen queue.
    /// Lowered at start to what the process may have open files for, two for each.
    pub max_connections: usize,
    /// How many connections one client may have to the node, an IPv4 address or an IPv6 /64; further
    /// ones are closed at once. 0 is no limit. Trusted proxies have none.
    pub max_client_connections: u32,
    /// How many requests a client may send on one connection; the last is answered with
    /// `Connection: close` or GOAWAY. 0 is no limit.
    pub max_requests: u32,
    /// Whether endpoints get `Forwarded` (RFC 7239), too, which says the same as `X-Forwarded-*`.
    pub forwarded: bool,
    /// How many unused connections one worker keeps to one endpoint.
    pub keep_alive_connections: usize,
    /// How many bytes of bodies one worker holds for those who wait: requests' bodies until they
    /// are complete, the begin of those that may have to be sent again, answers for slow clients,
    /// copies for mirrors. Above, bodies are passed on as they come.
    pub body_memory: usize,
    /// How long the proxy waits for whom.
    pub timeouts: Timeouts,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 0,
            pools: Vec::new(),
            bind: Bind::Direct,
            beside_another: false,
            access_log: AccessLog::Off,
            log_format: LogFormat::default(),
            tracing: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::default(),
            max_connections: 32_768,
            max_client_connections: 0,
            max_requests: 0,
            forwarded: false,
            keep_alive_connections: 512,
            body_memory: 32 * 1024 * 1024,
            timeouts: Timeouts::default(),
        }
    }
}
