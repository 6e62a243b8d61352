//! What is measured, and one sample of it.

use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::client::Protocol;
use crate::peers::Peer;
use crate::rig::{Load, Rig};
use crate::{tls, usage};

/// How often a sample of [`Scenario::Rate`] is taken, at most, until one passes in which the host took no CPU away: a
/// hundredth of a second without one holds up a tenth of a window's requests.
const TRIES: u32 = 8;

/// Requests a second of [`Scenario::Rate`]: about a quarter of what nginx does here.
const RATE: f64 = 8000.0;

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
pub enum Scenario {
    /// HTTP/1.1 keep-alive, 128 bytes
    H1,
    /// HTTP/1.1 keep-alive, 16 KiB
    #[value(name = "h1-16k")]
    H1Medium,
    /// HTTP/1.1 keep-alive, 1 MiB
    #[value(name = "h1-1m")]
    H1Large,
    /// TLS 1.3 keep-alive, 128 bytes
    Tls,
    /// TLS 1.3 keep-alive, 16 KiB
    #[value(name = "tls-16k")]
    TlsMedium,
    /// TLS 1.3 full handshake for each request
    Handshake,
    /// TLS 1.3 resumption for each request
    Resumption,
    /// HTTP/2 over TLS, 32 streams, 128 bytes
    H2,
    /// A connection for each request, plain
    Connect,
    /// One connection, 128 bytes
    Latency,
    /// 8,000 requests a second, 128 bytes
    Rate,
}

/// One sample.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub requests: u64,
    pub errors: u64,
    /// Time of the proxy on its CPU for each request, in microseconds.
    pub cpu_us: f64,
    /// Requests a second.
    pub per_second: f64,
    /// Median time of a request in microseconds.
    pub p50_us: f64,
    /// 99 of 100 are not longer; at a given rate, of those in a tenth of a second, typically.
    pub p99_us: f64,
}

impl Scenario {
    pub const ALL: [Self; 11] = [
        Self::H1,
        Self::H1Medium,
        Self::H1Large,
        Self::Tls,
        Self::TlsMedium,
        Self::Handshake,
        Self::Resumption,
        Self::H2,
        Self::Connect,
        Self::Latency,
        Self::Rate,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::H1 => "h1, 128 B, 64 connections",
            Self::H1Medium => "h1, 16 KiB, 64 connections",
            Self::H1Large => "h1, 1 MiB, 16 connections",
            Self::Tls => "TLS h1, 128 B, 64 connections",
            Self::TlsMedium => "TLS h1, 16 KiB, 64 connections",
            Self::Handshake => "TLS handshake and one request",
            Self::Resumption => "TLS resumption and one request",
            Self::H2 => "h2, 128 B, 16 connections × 32 streams",
            Self::Connect => "connection and one request",
            Self::Latency => "h1, 128 B, one connection",
            Self::Rate => "h1, 128 B, 8,000 requests/s",
        }
    }

    /// Whether what counts is how long a request takes at a given rate, not what it costs.
    pub fn is_about_time(self) -> bool {
        self == Self::Rate
    }

    fn load(self, peer: &Peer, hosts: usize) -> Load {
        let plain = |size, connections| Load {
            port: peer.http,
            tls: None,
            protocol: Protocol::Http1,
            size,
            hosts,
            connections,
            fresh: false,
            rate: None,
        };
        let secure = |load: Load, tls| Load { port: peer.https, tls: Some(tls), ..load };
        match self {
            Self::H1 => plain(128, 64),
            Self::H1Medium => plain(16 * 1024, 64),
            Self::H1Large => plain(1024 * 1024, 16),
            Self::Tls => secure(plain(128, 64), tls::client("http/1.1", false)),
            Self::TlsMedium => secure(plain(16 * 1024, 64), tls::client("http/1.1", false)),
            Self::Handshake => Load { fresh: true, ..secure(plain(128, 16), tls::client("http/1.1", false)) },
            Self::Resumption => Load { fresh: true, ..secure(plain(128, 16), tls::client("http/1.1", true)) },
            Self::H2 => Load {
                protocol: Protocol::Http2 { streams: 32 },
                ..secure(plain(128, 16), tls::client("h2", false))
            },
            Self::Connect => Load { fresh: true, ..plain(128, 16) },
            Self::Latency => plain(128, 1),
            Self::Rate => Load { rate: Some(RATE), ..plain(128, 64) },
        }
    }

    /// Measures once. `profile` runs meanwhile.
    pub fn sample(
        self,
        peer: &Peer,
        hosts: usize,
        rig: &mut Rig,
        time: Duration,
        profile: Option<&str>,
    ) -> io::Result<Sample> {
        let load = self.load(peer, hosts);
        let mut clients = rig.open(&load, Duration::from_secs(10))?;
        // What still comes for requests of the warm-up counts in the sample, and the other way round.
        rig.run(&mut clients, &Load { rate: None, ..load.clone() }, time / 3)?;
        let mut profiler = profile.map(|command| {
            let command = command.replace("PID", &peer.pid().to_string());
            std::process::Command::new("sh").args(["-c", &command]).spawn()
        });
        let mut tries = if load.rate.is_some() { TRIES } else { 1 };
        let (mut seen, cpu) = loop {
            if load.rate.is_some() {
                clients = rig.open(&load, Duration::from_secs(10))?;
            }
            let (before, stolen) = (usage::cpu_ns(peer.pid()), usage::stolen());
            let seen = rig.run(&mut clients, &load, time)?;
            tries -= 1;
            if tries == 0 || usage::stolen() == stolen {
                break (seen, usage::cpu_ns(peer.pid()) - before);
            }
        };
        if let Some(Ok(profiler)) = &mut profiler {
            let _ = profiler.wait();
        }
        if let Some(error) = &seen.first_error {
            eprintln!("bench l7: {self:?}, {}: {error}", peer.kind.name());
        }
        let expected = if self == Self::Resumption { seen.requests * 9 / 10 } else { 0 };
        if seen.resumed < expected {
            return Err(io::Error::other(format!("{} of {} resumed", seen.resumed, seen.requests)));
        }
        let requests = seen.requests.max(1) as f64;
        Ok(Sample {
            requests: seen.requests,
            errors: seen.errors,
            cpu_us: cpu as f64 / 1000.0 / requests,
            per_second: seen.requests as f64 / seen.seconds,
            p50_us: seen.times.quantile(0.5),
            p99_us: match &mut seen.windows {
                Some(windows) => windows.quantile(0.99),
                None => seen.times.quantile(0.99),
            },
        })
    }
}
