//! `sluice drain`: other nodes are to take over, and this one stays to serve who comes nevertheless.
//!
//! Nothing is refused or cut: whoever stands in front (a load balancer that asks for readiness, DNS made of
//! Ingress status) needs time to find out, and a client that is answered once more is better off than one
//! that is not. The daemon's end ([`super::stop`]) is another thing: then nobody is accepted.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::Value;
use tokio::sync::Notify;

use super::admin::client;
use super::admin::server::Answer;
use super::admin::views::Drained;
use super::cli::{DrainArgs, Output};
use super::render::plural;
use super::run::print;
use super::state::State;
use super::stop;

/// How often the daemon is asked how many connections are left.
const POLL: Duration = Duration::from_millis(250);

/// Whether others are to take over.
#[derive(Debug, Default)]
pub struct Resting {
    since: Mutex<Option<Instant>>,
    changed: Notify,
}

impl Resting {
    /// Whether they are.
    pub fn is_on(&self) -> bool {
        self.since().is_some()
    }

    /// For how many seconds.
    pub fn seconds(&self) -> Option<u64> {
        self.since().map(|since| since.elapsed().as_secs())
    }

    /// Returns when that has changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How it is.
    pub fn answer(&self, state: &State) -> Answer {
        let open = state.proxy.get().map_or(0, stop::open);
        Answer::json(&Drained { drained: self.is_on(), seconds: self.seconds().unwrap_or_default(), open })
    }

    /// `on` or `off`.
    pub fn change(&self, state: &State, text: &str) -> Answer {
        let rests = match text {
            "on" => true,
            "off" => false,
            other => {
                return Answer::Failure(StatusCode::BAD_REQUEST, format!("{other:?} is neither on nor off"));
            }
        };
        let Some(proxy) = state.proxy.get() else {
            let why = "this daemon does not serve yet: there is nothing to drain".to_owned();
            return Answer::Failure(StatusCode::CONFLICT, why);
        };
        let was = {
            let mut since = self.since();
            let was = since.is_some();
            match rests {
                true => *since = Some(since.unwrap_or_else(Instant::now)),
                false => *since = None,
            }
            was
        };
        if was != rests {
            proxy.rest(rests);
            self.changed.notify_one();
            match rests {
                true => tracing::info!(open = stop::open(proxy), "drained: others are to take over"),
                false => tracing::info!("no longer drained"),
            }
        }
        self.answer(state)
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The command: tells the daemon, and waits for the connections to end.
pub async fn run(args: &DrainArgs) -> Result<u8, String> {
    let socket = &args.client.socket;
    let word = if args.undo { "off" } else { "on" };
    let text = |error: client::ClientError| error.to_string();
    let mut json = client::post(socket, "/drain", word.to_owned()).await.map_err(text)?;
    let end = Instant::now() + Duration::from_secs(args.timeout.into());
    let mut told = None;
    let left = loop {
        let now: Drained = serde_json::from_value(json.clone()).map_err(|error| error.to_string())?;
        if args.undo || now.open == 0 || Instant::now() >= end {
            break now;
        }
        if args.client.output == Output::Table && told != Some(now.open) {
            progress(now.open);
            told = Some(now.open);
        }
        tokio::time::sleep(POLL).await;
        json = client::get(socket, "/drain").await.map_err(text)?;
        if json.get("drained") == Some(&Value::Bool(false)) {
            return Err("somebody else has ended the drain".to_owned());
        }
    };
    if told.is_some() && std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    let (sentence, code) = match (args.undo, left.open) {
        (true, _) => ("the node takes part again\n".to_owned(), 0),
        (false, 0) => ("drained: no connection is left\n".to_owned(), 0),
        (false, open) => {
            let why = format!("{} after {} s; the node stays drained\n", left_over(open), args.timeout);
            (why, 1)
        }
    };
    print(args.client.output, &json, sentence)?;
    Ok(code)
}

/// One line that is written over, or one for each change where nobody looks.
fn progress(open: u64) {
    let mut stderr = std::io::stderr();
    let _ = match stderr.is_terminal() {
        true => write!(stderr, "\r\x1b[K{}", left_over(open)),
        false => writeln!(stderr, "{}", left_over(open)),
    };
    let _ = stderr.flush();
}

fn left_over(open: u64) -> String {
    format!("{} left", plural(usize::try_from(open).unwrap_or(usize::MAX), "connection"))
}
