//! Clients and endpoints in one thread, which never sleeps: a generator that sleeps makes the proxy
//! pay for waking it, and the one that writes most often pays most.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

use crate::client::{Client, Event, Protocol};
use crate::endpoint::Endpoint;
use crate::histogram::{Histogram, Windows};

/// Clients have the tokens from here on; below are listeners and endpoints' connections.
const FIRST_CLIENT: usize = 1 << 20;

/// What the clients do.
#[derive(Clone)]
pub struct Load {
    pub port: u16,
    /// `None`: plain.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    pub protocol: Protocol,
    /// Length of the bodies that are asked for.
    pub size: usize,
    /// Client `n` asks for host `n` of so many.
    pub hosts: usize,
    pub connections: usize,
    /// Each request on a connection of its own.
    pub fresh: bool,
    /// Requests a second over all connections, sent when they are due; `None`: as fast as they are
    /// answered.
    pub rate: Option<f64>,
}

/// What the clients saw.
#[derive(Default)]
pub struct Seen {
    pub requests: u64,
    pub errors: u64,
    /// TLS handshakes that took a session up again.
    pub resumed: u64,
    pub seconds: f64,
    pub times: Histogram,
    /// The same by when they were due, at a given rate.
    pub windows: Option<Windows>,
    /// Why the first request failed.
    pub first_error: Option<String>,
}

/// All that one thread plays.
pub struct Rig {
    poll: Poll,
    events: Events,
    listeners: Vec<TcpListener>,
    endpoints: Vec<Option<Endpoint>>,
    free: Vec<usize>,
    /// What bodies are read into.
    scratch: Vec<u8>,
}

impl Rig {
    /// Endpoints that listen on these ports.
    pub fn new(ports: &[u16]) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))?;
            poll.registry().register(&mut listener, Token(index), Interest::READABLE)?;
            listeners.push(listener);
        }
        let events = Events::with_capacity(512);
        Ok(Self {
            poll,
            events,
            listeners,
            endpoints: Vec::new(),
            free: Vec::new(),
            scratch: vec![0; 1 << 18],
        })
    }

    /// Opens the clients of a load; they ask once each.
    pub fn open(&mut self, load: &Load, limit: Duration) -> io::Result<Vec<Client>> {
        let mut clients = Vec::new();
        // The proxy's listen queue is finite.
        while clients.len() < load.connections {
            let batch = (load.connections - clients.len()).min(128);
            for _ in 0..batch {
                clients.push(self.connect(load, clients.len())?);
            }
            let end = Instant::now() + limit;
            let mut seen = Seen::default();
            while seen.requests < batch as u64 {
                self.turn(&mut clients, load, &mut seen, false)?;
                if seen.errors > 0 || Instant::now() > end {
                    let why = seen.first_error.unwrap_or_else(|| "no answer in time".to_owned());
                    return Err(io::Error::other(why));
                }
            }
        }
        Ok(clients)
    }

    /// Lets clients ask for this long.
    pub fn run(&mut self, clients: &mut [Client], load: &Load, time: Duration) -> io::Result<Seen> {
        let began = Instant::now();
        let windows = load.rate.map(|_| Windows::new(began));
        let mut seen = Seen { windows, ..Seen::default() };
        let end = began + time;
        if load.rate.is_none() {
            // Some may still wait for answers of a run before.
            for client in clients.iter_mut().filter(|client| client.has_room()) {
                client.ask(began);
            }
        }
        let mut due = 0_u64;
        let mut turns = 0_u32;
        let mut now = began;
        while now < end {
            if let Some(rate) = load.rate {
                let mut idle = clients.iter_mut().filter(|client| client.is_idle());
                loop {
                    let at = began + Duration::from_secs_f64(due as f64 / rate);
                    if at > now {
                        break;
                    }
                    // With all clients waiting for answers, the time still runs from when it was due.
                    let Some(client) = idle.next() else { break };
                    client.ask(at);
                    due += 1;
                }
            }
            let quiet = self.turn(clients, load, &mut seen, load.rate.is_none())?;
            turns = turns.wrapping_add(1);
            if quiet || turns.is_multiple_of(16) || load.rate.is_some() {
                now = Instant::now();
            }
        }
        seen.seconds = began.elapsed().as_secs_f64();
        Ok(seen)
    }

    /// Keeps endpoints alive while nobody asks.
    pub fn rest(&mut self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.poll.poll(&mut self.events, Some(Duration::from_millis(1)))?;
            let tokens: Vec<_> = self.events.iter().map(|event| event.token().0).collect();
            for token in tokens {
                self.serve(token);
            }
        }
        Ok(())
    }

    /// Follows what has happened; true if nothing has.
    fn turn(
        &mut self,
        clients: &mut [Client],
        load: &Load,
        seen: &mut Seen,
        again: bool,
    ) -> io::Result<bool> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        self.poll.poll(&mut events, Some(Duration::ZERO))?;
        for event in &events {
            let token = event.token().0;
            let Some(index) = token.checked_sub(FIRST_CLIENT) else {
                self.serve(token);
                continue;
            };
            let Some(client) = clients.get_mut(index) else { continue };
            let mut note = |event| match event {
                Event::Answered { asked, resumed } => {
                    seen.requests += 1;
                    seen.resumed += u64::from(resumed);
                    let time = asked.elapsed();
                    seen.times.add(time);
                    if let Some(windows) = &mut seen.windows {
                        windows.add(asked, time);
                    }
                }
            };
            let outcome = client.advance(&mut self.scratch, again && !load.fresh, &mut note);
            let over = match outcome {
                Ok(()) => load.fresh && again && client.is_idle(),
                Err(error) => {
                    seen.errors += 1;
                    seen.first_error.get_or_insert_with(|| error.to_string());
                    true
                }
            };
            if over {
                *client = self.connect(load, index)?;
            }
        }
        let quiet = events.is_empty();
        self.events = events;
        Ok(quiet)
    }

    fn connect(&mut self, load: &Load, index: usize) -> io::Result<Client> {
        Client::connect(load, index, self.poll.registry(), Token(FIRST_CLIENT + index))
    }

    fn serve(&mut self, token: usize) {
        if let Some(listener) = self.listeners.get(token) {
            while let Ok((stream, _)) = listener.accept() {
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.endpoints.push(None);
                    self.endpoints.len() - 1
                });
                let token = Token(self.listeners.len() + slot);
                self.endpoints[slot] = Endpoint::new(stream, self.poll.registry(), token).ok();
            }
            return;
        }
        let slot = token - self.listeners.len();
        if let Some(endpoint) = self.endpoints.get_mut(slot)
            && endpoint.as_mut().is_some_and(|endpoint| endpoint.advance().is_err())
        {
            *endpoint = None;
            self.free.push(slot);
        }
    }
}
