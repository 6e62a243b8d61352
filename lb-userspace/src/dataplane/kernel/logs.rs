//! What the kernel programs say, passed on to the `log` crate.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::thread;

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::KernelError;

/// A thread that reads the programs' ring buffer; it ends when this is dropped.
///
/// A thread, because logging is the exception and a dataplane is also opened where no runtime is.
#[derive(Debug)]
pub(super) struct Reader {
    /// Its closing wakes the thread.
    _stop: PipeWriter,
}

impl Reader {
    pub(super) fn start(programs: &mut Ebpf) -> Result<Self, KernelError> {
        let error = |reason: &dyn std::fmt::Display| KernelError::Log(reason.to_string());
        let mut logger = EbpfLogger::init(programs).map_err(|e| error(&e))?;
        let (stopped, stop) = io::pipe().map_err(|e| error(&e))?;
        let read = move || {
            while wait(logger.as_fd(), &stopped) {
                logger.flush();
            }
            // What came just before the end.
            logger.flush();
        };
        thread::Builder::new().name("sluice-xdp-log".to_owned()).spawn(read).map_err(|e| error(&e))?;
        Ok(Self { _stop: stop })
    }
}

/// Waits for messages; false: it is time to end.
fn wait(messages: BorrowedFd<'_>, stopped: &PipeReader) -> bool {
    let mut files =
        [PollFd::new(messages, PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
    match poll(&mut files, PollTimeout::NONE) {
        // Nothing is ever written to the pipe: any event on it is its end.
        Ok(_) => !files[1].any().unwrap_or(true),
        Err(Errno::EINTR) => true,
        Err(errno) => {
            tracing::error!(%errno, "the kernel programs' messages can't be read any more");
            false
        }
    }
}
