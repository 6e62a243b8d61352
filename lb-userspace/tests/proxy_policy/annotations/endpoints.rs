//! Endpoints that answer as requests ask them to, and keep what they saw.
//!
//! A request's `X-Reply` is a list with `|` between: a status (200), a header, and
//!
//! - `once`: only the first time, later ones get 200;
//! - `after MS`: after so many milliseconds;
//! - `hold`: never, in rows that are patient; else at once;
//! - `deaf`: the same, without reading the body;
//! - `close`: the connection ends instead;
//! - `pad N`: a header of N bytes; `body N`: a body of N bytes in the place of what was seen.
//!
//! The body of an answer is the endpoint's name, and behind it the request as it came.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::world::pki;
use crate::rig::{endpoint, read_head};

/// What endpoints saw of the rows, by row.
#[derive(Default)]
pub struct Log {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By row: endpoint and request.
    seen: BTreeMap<String, Vec<(&'static str, String)>>,
    /// Rows that are over.
    over: BTreeSet<String>,
    /// Replies that were given once.
    given: BTreeSet<String>,
    /// Answers that the proxy took to their last byte.
    taken: BTreeMap<String, usize>,
}

/// Every endpoint there is.
pub static ENDPOINTS: LazyLock<BTreeMap<&'static str, SocketAddr>> = LazyLock::new(|| {
    let plain = [
        "web",
        "other",
        "errors",
        "mirror",
        "three-1",
        "three-2",
        "three-3",
        "five-1",
        "five-2",
        "five-3",
        "five-4",
        "five-5",
        "cluster-ip",
        "auth",
    ];
    let mut all: BTreeMap<_, _> =
        plain.into_iter().map(|name| (name, endpoint(move |stream| serve(name, stream, "")))).collect();
    let config = crate::endpoints::server_config(&pki().inner, &[]);
    all.insert("secure", endpoint(move |stream| serve_tls(&config, stream)));
    all.insert("grpc", grpc());
    all
});

pub static LOG: LazyLock<Log> = LazyLock::new(Log::default);

impl Log {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a lock")
    }

    fn push(&self, row: &str, name: &'static str, request: String) {
        self.state().seen.entry(row.to_owned()).or_default().push((name, request));
        self.changed.notify_all();
    }

    /// What endpoint `name` saw of the row; of any if empty.
    pub fn seen(&self, row: &str, name: &str) -> Vec<String> {
        let state = self.state();
        let of_row = state.seen.get(row).into_iter().flatten();
        of_row.filter(|(by, _)| name.is_empty() || *by == name).map(|(_, request)| request.clone()).collect()
    }

    /// How many of the row's answers the proxy took to their last byte.
    pub fn taken(&self, row: &str) -> usize {
        self.state().taken.get(row).copied().unwrap_or_default()
    }

    /// Waits until that holds, so long at most.
    pub fn wait(&self, patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + patience;
        while !holds() {
            let left = end.saturating_duration_since(Instant::now()).min(Duration::from_millis(20));
            if left.is_zero() {
                return false;
            }
            drop(self.changed.wait_timeout(self.state(), left).expect("a lock"));
        }
        true
    }

    /// Lets endpoints go that hold requests of the row.
    pub fn end(&self, row: &str) {
        self.state().over.insert(row.to_owned());
        self.changed.notify_all();
    }

    fn hold(&self, row: &str) {
        let state = self.state();
        drop(self.changed.wait_while(state, |state| !state.over.contains(row)).expect("a lock"));
    }

    /// Whether it is the first time.
    fn give_once(&self, row: &str, reply: &str) -> bool {
        self.state().given.insert(format!("{row} {reply}"))
    }
}

/// An endpoint that speaks HTTP/2 and nothing else. Says its name and the request line.
fn grpc() -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            sender.send(listener.local_addr().expect("an address")).expect("somebody waits");
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: Request<Incoming>| async move {
                    let text = format!("grpc\n{} {} HTTP/2\n", request.method(), request.uri().path());
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                });
                let connection = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
    });
    receiver.recv().expect("an address")
}

fn serve_tls(config: &Arc<ServerConfig>, stream: &mut std::net::TcpStream) {
    let (Ok(connection), Ok(stream)) = (ServerConnection::new(Arc::clone(config)), stream.try_clone()) else {
        return;
    };
    let mut tls = StreamOwned::new(connection, stream);
    if tls.conn.complete_io(&mut tls.sock).is_err() {
        return;
    }
    let name = tls.conn.server_name().unwrap_or("none");
    let shown = tls.conn.peer_certificates().map(|chain| crate::pki::common_name(&chain[0]));
    let note = format!("x-sni: {name}\r\nx-shown: {}\r\n", shown.as_deref().unwrap_or("nobody"));
    serve("secure", &mut tls, &note);
}

/// Answers requests; `note` is added to what was seen.
fn serve(name: &'static str, stream: &mut (impl Read + Write), note: &str) {
    while let Some(head) = read_head(stream) {
        let header = |wanted: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(": "));
            fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
        };
        let row = header("x-row").unwrap_or_default();
        let patient = row.ends_with('+');
        let reply = match name {
            // Answers with a cookie are not kept.
            "auth" => match segments(&head) {
                (status, "kept") => format!("{status} | X-User: alice"),
                (status, _) => format!("{status} | X-User: alice | Set-Cookie: seen=1"),
            },
            // As error pages usually do.
            "errors" => header("x-code").unwrap_or_default(),
            _ => header("x-reply").unwrap_or_default(),
        };
        let mut words: Vec<&str> = reply.split(" | ").filter(|word| !word.is_empty()).collect();
        if words.contains(&"once") && !LOG.give_once(&row, &reply) {
            words.clear();
        }
        let seen = head.trim_end().to_owned() + "\r\n" + note + "\r\n";
        if words.contains(&"deaf") && patient {
            LOG.push(&row, name, seen);
            return LOG.hold(&row);
        }
        let Some(body) = read_body(stream, header("content-length"), header("transfer-encoding")) else {
            return;
        };
        let seen = seen + &body;
        LOG.push(&row, name, seen.clone());
        if words.contains(&"hold") && patient {
            return LOG.hold(&row);
        }
        let Some(answer) = answer(&words, &format!("{name}\n{seen}"), head.starts_with("HEAD ")) else {
            return;
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
        *LOG.state().taken.entry(row).or_default() += 1;
        LOG.changed.notify_all();
        if head.contains(" HTTP/1.0\r\n") {
            return;
        }
    }
}

/// The answer that these words ask for; `None` where the connection ends instead.
fn answer(words: &[&str], seen: &str, is_head: bool) -> Option<String> {
    let (mut status, mut headers, mut body) = (200, String::new(), seen.to_owned());
    for word in words {
        match word.split_once(' ') {
            None if *word == "close" => return None,
            None if word.parse::<u16>().is_ok() => status = word.parse().expect("digits"),
            Some(("after", time)) => std::thread::sleep(Duration::from_millis(time.parse().expect("a time"))),
            Some(("pad", size)) => {
                headers += &format!("X-Pad: {}\r\n", "x".repeat(size.parse().expect("a size")))
            }
            Some(("body", size)) => body = "x".repeat(size.parse().expect("a size")),
            Some((name, _)) if name.ends_with(':') => headers += &format!("{word}\r\n"),
            _ => {}
        }
    }
    let head = format!("HTTP/1.1 {status} As asked\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    Some(if is_head { head } else { head + &body })
}

/// The first two segments of the path.
fn segments(head: &str) -> (&str, &str) {
    let mut parts = head.split(['/', ' ', '?']).skip(2);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

fn read_body(stream: &mut impl Read, length: Option<String>, coding: Option<String>) -> Option<String> {
    let mut body = Vec::new();
    if let Some(length) = length {
        body.resize(length.parse().ok()?, 0);
        stream.read_exact(&mut body).ok()?;
    } else if coding.is_some() {
        while !body.ends_with(b"0\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            body.push(byte[0]);
        }
    }
    Some(String::from_utf8_lossy(&body).into_owned())
}
