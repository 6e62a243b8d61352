//! Handover to a newer daemon on the same node (`--wait-for-lock`): the newer one reads its source
//! and stands by for the lock. The older one, told to end, lets go of the lock but still accepts;
//! the newer one puts its own listeners in place; only then does the older one close its own and
//! drain. At no moment is there nobody to connect to.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::dataplane::kernel::{KernelError, Lock};
use crate::source::Update;

use super::cli::RunArgs;
use super::daemon::{DaemonError, observe};
use super::state::State;
use super::steering;
use super::stop::Stop;

/// How often a daemon that stands by asks for the lock.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// How long a daemon that hands over goes on accepting, for its successor to load its programs and
/// to put its listeners in place.
const HANDOVER: Duration = Duration::from_secs(5);

/// The lock of the pin directory, waited for as long as `--wait-for-lock` says. `None`: a signal
/// came first.
pub async fn stand_by(
    args: &RunArgs,
    state: &State,
    updates: &watch::Receiver<Update>,
    stop: &mut Stop,
) -> Result<Option<Lock>, DaemonError> {
    let xdp = |error: KernelError| DaemonError::Xdp(error.to_string());
    let deadline = Instant::now() + Duration::from_secs(args.wait_for_lock.into());
    loop {
        if let Some(lock) = steering::lock(&args.pin_dir).map_err(xdp)? {
            if state.waiting.swap(false, Ordering::Relaxed) {
                tracing::info!("taking over from the daemon before");
            }
            return Ok(Some(lock));
        }
        if Instant::now() >= deadline {
            return Err(DaemonError::Locked { pin_dir: args.pin_dir.clone(), seconds: args.wait_for_lock });
        }
        if !state.waiting.swap(true, Ordering::Relaxed) {
            let pin_dir = args.pin_dir.display().to_string();
            tracing::info!(pin_dir, seconds = args.wait_for_lock, "another daemon serves: standing by");
        }
        observe(state, &updates.borrow());
        tokio::select! {
            () = stop.asked() => return Ok(None),
            () = tokio::time::sleep(LOCK_POLL) => {}
        }
    }
}

/// Lets go of the kernel's side, all of which stays in place. If a successor takes it, goes on
/// accepting until its listeners have replaced ours.
pub async fn hand_over(args: &RunArgs, state: &State, probes: &AbortHandle) {
    let Some(mut steering) = state.steering().take() else { return };
    // Nobody would let them in again.
    if let Err(error) = steering.ban(&BTreeSet::new()) {
        tracing::warn!(%error, "bans stay in the kernel until a daemon starts");
    }
    drop(steering);
    // Longer than a successor waits between two attempts.
    tokio::time::sleep(4 * LOCK_POLL).await;
    if matches!(steering::lock(&args.pin_dir), Ok(None)) {
        tracing::info!("a newer daemon takes over");
        probes.abort();
        tokio::time::sleep(HANDOVER).await;
    }
}
