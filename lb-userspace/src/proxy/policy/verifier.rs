//! Threads that check passwords.
//!
//! A good hash takes 50 ms and more to check, which a worker can't spend: thousands of requests
//! would wait behind one login. The workers' own helper threads won't do either, they would run on
//! the CPU that their worker is pinned to. So there are a few threads beside the workers, and a
//! queue before them that is short: what can't be checked soon is refused at once (503).

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::oneshot;

use super::htpasswd;

/// How many passwords may wait: at 50 ms and two threads, the last one waits less than a second.
const QUEUE: usize = 32;

const MAX_THREADS: usize = 4;

/// Checks passwords on threads of its own, which it starts when the first one comes.
#[derive(Debug, Default)]
pub(super) struct Verifier {
    jobs: OnceLock<Option<SyncSender<Job>>>,
}

struct Job {
    hash: Arc<str>,
    password: Vec<u8>,
    answer: oneshot::Sender<bool>,
}

/// The queue is full.
#[derive(Debug)]
pub(super) struct Busy;

impl Verifier {
    /// Starts the threads, unless they run. They end when the verifier and its last job are gone.
    pub(super) fn start(&self) {
        self.jobs.get_or_init(|| {
            // Half of the CPUs: logins must not take the workers' time.
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            let (sender, receiver) = sync_channel(QUEUE);
            let receiver = Arc::new(Mutex::new(receiver));
            let mut started = 0;
            for index in 0..(cpus / 2).clamp(1, MAX_THREADS) {
                let receiver = Arc::clone(&receiver);
                let name = format!("passwords-{index}");
                match std::thread::Builder::new().name(name).spawn(move || work(&receiver)) {
                    Ok(_) => started += 1,
                    Err(error) => tracing::error!(%error, "a thread that checks passwords can't be started"),
                }
            }
            (started > 0).then_some(sender)
        });
    }

    /// Whether the password fits the hash.
    pub(super) async fn verify(&self, hash: Arc<str>, password: Vec<u8>) -> Result<bool, Busy> {
        let jobs = self.jobs.get().and_then(Option::as_ref).ok_or(Busy)?;
        let (answer, outcome) = oneshot::channel();
        jobs.try_send(Job { hash, password, answer }).map_err(|_| Busy)?;
        outcome.await.map_err(|_| Busy)
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { hash, password, answer }) = next else { return };
        // Who has gone need not be told.
        if !answer.is_closed() {
            let _ = answer.send(htpasswd::verify(&hash, &password));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_bounded_and_nobody_is_forgotten() {
        let verifier = Verifier::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let hash: Arc<str> = "$2y$08$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW".into();
        runtime.block_on(async {
            assert!(verifier.verify(Arc::clone(&hash), b"x".to_vec()).await.is_err(), "not started");
            verifier.start();
            let flood = (0..500).map(|_| verifier.verify(Arc::clone(&hash), b"wrong".to_vec()));
            let outcomes = futures::future::join_all(flood).await;
            let busy = outcomes.iter().filter(|outcome| outcome.is_err()).count();
            let wrong = outcomes.iter().filter(|outcome| matches!(outcome, Ok(false))).count();
            assert_eq!(busy + wrong, 500);
            assert!(wrong >= QUEUE && busy > 0, "{wrong} were checked, {busy} were not");
            assert!(verifier.verify("{PLAIN}a".into(), b"a".to_vec()).await.expect("there is room again"));
        });
    }
}
