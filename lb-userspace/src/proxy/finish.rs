//! The end of a request: counted and logged once, however it ends.

use std::rc::Rc;
use std::time::Instant;

use super::access_log::Entry;
use super::balance::Lease;
use super::connection::Client;
use super::measures::OTHERS;
use super::policy::Held;
use super::spans::Span;

/// nginx's status for a client that left before the answer; only ever seen in the log.
const CLIENT_GONE: u16 = 499;

/// What a tunnel carries is counted there.
const SWITCHED: u16 = 101;

/// Lives from a request's head to the last byte of its answer. Dropping it counts and logs.
pub(super) struct Finish {
    pub(super) client: Rc<Client>,
    started: Instant,
    /// `None` until there is an answer.
    pub(super) status: Option<u16>,
    pub(super) bytes: u64,
    /// Where it is counted.
    pub(super) place: u32,
    /// The endpoint's share of the request.
    pub(super) lease: Option<Lease>,
    /// What the request's client has of its limits.
    pub(super) held: Option<Held>,
    /// `None` where no spans are sent.
    pub(super) span: Option<Box<Span>>,
    /// `None` with the log off.
    pub(super) entry: Option<Box<Entry>>,
}

impl Finish {
    pub(super) fn new(client: &Rc<Client>) -> Self {
        let worker = &client.worker;
        worker.counters.requests.add(1);
        worker.counters.requests_active.add(1);
        client.requests.set(client.requests.get() + 1);
        client.begin_request();
        let entry = worker.log.is_some().then(|| {
            Box::new(Entry {
                time: jiff::Timestamp::now().to_string(),
                client: client.ip.clone(),
                tls: client.tls,
                ..Entry::default()
            })
        });
        let started = Instant::now();
        client.last_active.set(started);
        Self {
            client: Rc::clone(client),
            started,
            status: None,
            bytes: 0,
            place: OTHERS,
            lease: None,
            held: None,
            span: None,
            entry,
        }
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        let worker = &self.client.worker;
        let counters = &worker.counters;
        let now = Instant::now();
        let took = now.duration_since(self.started);
        counters.requests_active.sub(1);
        if self.status != Some(SWITCHED) {
            counters.response_bytes.add(self.bytes);
        }
        match self.status {
            Some(status) => counters.count_response(status),
            None => {
                counters.client_gone.add(1);
                self.client.given_up(took);
            }
        }
        self.client.gate.complete_one(now);
        self.client.requests.set(self.client.requests.get() - 1);
        self.client.last_active.set(now);
        worker.measures.record(self.place, self.status, (self.status != Some(SWITCHED)).then_some(took));
        if let (Some(tracer), Some(span)) = (&worker.tracer, self.span.take()) {
            tracer.end(span, took, self.status.unwrap_or(CLIENT_GONE), self.status.is_none());
        }
        if let (Some(log), Some(mut entry)) = (&worker.log, self.entry.take()) {
            entry.status = self.status.unwrap_or(CLIENT_GONE);
            entry.bytes = self.bytes;
            entry.duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            if !log.write(&entry) {
                counters.log_dropped.add(1);
            }
        }
    }
}
