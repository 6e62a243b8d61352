//! What can go wrong while the laboratory is built or used.

use std::io;
use std::time::Duration;

/// A failure of the laboratory itself, not of what is tested in it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A command of the system failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// What it wrote, standard error first.
        output: String,
    },
    /// A file, socket or system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the name of the thing.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A request got no answer.
    #[error("no answer from {to}: {reason}")]
    NoAnswer {
        /// Where the request went.
        to: String,
        /// What happened instead.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The daemon ended by itself.
    #[error("sluice ended ({status}) before it was ready; its log:\n{log}")]
    DaemonEnded {
        /// The exit status.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// Something did not come about in time.
    #[error("{what}: not within {} s; the log:\n{log}", within.as_secs())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
        /// What may explain it.
        log: String,
    },
}

impl LabError {
    /// An [`io::Error`] with what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
